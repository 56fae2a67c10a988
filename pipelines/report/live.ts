/**
 * Line charts that are explored in the page: values under the cursor, lines and axes that are switched, zoom. Drawn by
 * uPlot on a canvas; everything stands in the page itself, which needs no network. Knows nothing of what is drawn.
 */
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import type UPlot from "uplot"
import { type Axis, type Chart, type Facet, layout } from "./Chart.ts"
import { escape } from "./escape.ts"

// ---------------------------------------------------------------------------------------------------------------
// What the page holds

interface Payload {
  readonly title: string
  readonly x: Axis
  readonly y: Axis
  readonly facets: ReadonlyArray<Facet>
  readonly lines: ReadonlyArray<{
    readonly label: string
    readonly of: Readonly<Record<string, string>>
    readonly color: string
    readonly alpha: number
    readonly dash: ReadonlyArray<number>
    readonly dots: boolean
    readonly width: number
    readonly x: ReadonlyArray<number>
    readonly y: ReadonlyArray<number>
    /** Empty where no point has an interval. */
    readonly low: ReadonlyArray<number | null>
    readonly high: ReadonlyArray<number | null>
    /** Empty where no point has a note. */
    readonly notes: ReadonlyArray<string>
  }>
}

/** Five digits are more than a screen shows. */
const rounded = (value: number | undefined): number | null =>
  value === undefined || !Number.isFinite(value) ? null : Number(value.toPrecision(5))

const payload = (chart: Chart): Payload => {
  const { lines, present, switched } = layout(chart)
  const { title, x, y } = chart
  const only = present.find(({ one, values }) => one === true && values.length === 1)?.values[0]!.y
  return {
    title,
    x,
    y: only === undefined ? y : { ...y, title: only },
    facets: switched,
    lines: lines.map(({ dots = false, label, look, of, points, width = 2 }) => ({
      label,
      of,
      color: look.color,
      alpha: look.alpha,
      dash: look.dash,
      dots,
      width,
      x: points.map(({ x }) => x),
      y: points.map(({ y }) => rounded(y)!),
      low: points.some(({ low }) => low !== undefined) ? points.map(({ low }) => rounded(low)) : [],
      high: points.some(({ high }) => high !== undefined) ? points.map(({ high }) => rounded(high)) : [],
      notes: points.some(({ note }) => note !== undefined) ? points.map(({ note = "" }) => note) : []
    }))
  }
}

/** A chart as a figure; `assets` make it live. Without scripts it says that tables have the numbers. */
export const live = (chart: Chart): string =>
  `<figure class="curves"><figcaption>${escape(chart.title)}</figcaption>
<noscript><p class="faint">Curves need JavaScript; the tables have the numbers.</p></noscript>
<script type="application/json">${JSON.stringify(payload(chart)).replaceAll("<", "\\u003c")}</script></figure>`

// ---------------------------------------------------------------------------------------------------------------
// What runs in the page

/** Whatever of the browser is used. */
type Browser = Pick<Window, "matchMedia" | "getComputedStyle" | "document"> & {
  readonly ResizeObserver: typeof ResizeObserver
}

/**
 * Draws the charts of the page. Its source is put into the page as it is, so it uses nothing but its arguments.
 */
const explore = (uPlot: typeof UPlot, { ResizeObserver, document, getComputedStyle, matchMedia }: Browser): void => {
  type PayloadLine = Payload["lines"][number]

  const element = <K extends keyof HTMLElementTagNameMap>(
    tag: K,
    attributes: Readonly<Record<string, string>> = {},
    ...children: ReadonlyArray<Node | string>
  ): HTMLElementTagNameMap[K] => {
    const made = document.createElement(tag)
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
    made.append(...children)
    return made
  }

  const number = (value: number, digits = 4): string => {
    const size = Math.abs(value)
    return size !== 0 && (size < 1e-3 || size >= 1e6)
      ? String(Number(value.toPrecision(digits)).toExponential())
      : value.toLocaleString("en", { maximumSignificantDigits: digits })
  }

  /** Place of the number that is nearest to x, of numbers in order. */
  const closest = (xs: ReadonlyArray<number>, x: number): number => {
    let [low, high] = [0, xs.length - 1]
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (xs[middle]! <= x) low = middle
      else high = middle
    }
    return Math.abs(x - xs[low]!) <= Math.abs(xs[high]! - x) ? low : high
  }

  /** Place of the point of a line that is nearest to x; undefined where the line does not reach. */
  const nearest = (xs: ReadonlyArray<number>, x: number): number | undefined =>
    x < xs[0]! || x > xs[xs.length - 1]! ? undefined : closest(xs, x)

  /** All x of lines, in order. */
  const union = (lines: ReadonlyArray<PayloadLine>): Array<number> =>
    [...new Set(lines.flatMap(({ x }) => x))].sort((one, other) => one - other)

  /**
   * A logarithmic scale that has a place for 0 and for negative numbers where there are any: sign(v) log(1 + |v| / unit),
   * with the smallest positive value as its unit, if none is given.
   */
  const logarithm = (values: ReadonlyArray<number>, given?: number) => {
    const positive = values.filter((value) => value > 0).reduce((least, value) => Math.min(least, value), Infinity)
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    const plain = values.every((value) => value > 0)
    // far smaller ones would push all else together
    const unit = given ?? (positive === Infinity ? Math.max(largest, 1) : Math.max(positive, largest / 1e5))
    return {
      /** What is nearer to 0, if anything, is on the linear part, which needs no ticks. */
      least: plain ? 0 : unit,
      /** Where no value lies below: what is below all the same, an interval's end, is drawn here. */
      floor: plain ? positive / 2 : -Infinity,
      forth: (value: number) => plain ? Math.log(value) : Math.sign(value) * Math.log1p(Math.abs(value) / unit),
      back: (value: number) => plain ? Math.exp(value) : Math.sign(value) * Math.expm1(Math.abs(value)) * unit
    }
  }
  type Logarithm = ReturnType<typeof logarithm>

  /** Round numbers, no two nearer than `space`: 0 and powers of ten first, then 5 and 2 times those. */
  const ticks = ({ forth, least }: Logarithm, from: number, to: number, length: number,
    space: number): Array<number> =>
  {
    const [a, b] = [forth(from), forth(to)]
    const place = (value: number) => ((forth(value) - a) / (b - a)) * length
    const largest = Math.max(Math.abs(from), Math.abs(to))
    const top = Math.ceil(Math.log10(largest))
    const candidates = [0]
    for (const digit of [1, 5, 2]) {
      for (let power = top; power > top - 12; power--) {
        const value = Number((digit * 10 ** power).toPrecision(1))
        if (value >= least) candidates.push(value, -value)
      }
    }
    const kept: Array<number> = []
    for (const value of candidates) {
      if (!(value >= from && value <= to)) continue
      if (kept.every((other) => Math.abs(place(other) - place(value)) >= space)) kept.push(value)
    }
    if (kept.length > 3) return kept.sort((one, other) => one - other)
    // so narrow a range looks linear
    const magnitude = 10 ** Math.floor(Math.log10((to - from) / 4))
    const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((step) => (to - from) / step <= 6)!
    const first = Math.ceil(from / step)
    return Array.from({ length: Math.floor(to / step) - first + 1 },
      (_, i) => Number(((first + i) * step).toPrecision(12)))
  }

  const start = (figure: HTMLElement): () => void => {
    const chart = JSON.parse(figure.querySelector("script")!.textContent!) as Payload
    const on = new Map(chart.facets.map(({ key, one = false, values }) => {
      const shown = values.filter((value) => value.on).map(({ name }) => name)
      return [key, new Set(one || shown.length === 0 ? [shown[0] ?? values[0]!.name] : shown)] as const
    }))
    const log = { x: chart.x.log === true, y: chart.y.log === true }
    let bands = true
    let zoom: { min: number; max: number } | undefined
    let plot: UPlot | undefined
    /** Where the cursor stops: at what was measured, rather than at the points that a curve is drawn through. */
    let stops: ReadonlyArray<number> = []

    const host = element("div", { class: "plot", role: "img", "aria-label": chart.title, tabindex: "0" })
    const at = element("p", { class: "faint at" })
    const key = element("ul", { class: "key" })
    const hint = matchMedia("(hover: none)").matches
      ? "Tap the curves for their values."
      : "Point at the curves for their values, or use the arrow keys; drag to zoom in, double-click to zoom out."

    const visible = () =>
      chart.lines.filter(({ of }) => [...on].every(([facet, names]) => of[facet] === undefined || names.has(of[facet])))

    const yTitle = () =>
      chart.facets.flatMap(({ key, one, values }) =>
        one === true ? values.filter(({ name }) => on.get(key)!.has(name)) : []
      )
        .find(({ y }) => y !== undefined)?.y ?? chart.y.title

    const swatch = ({ alpha, color, dash, width }: PayloadLine) => {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg")
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path")
      for (const [name, value] of [["width", "28"], ["height", "8"], ["aria-hidden", "true"]]) {
        svg.setAttribute(name!, value!)
      }
      const look = [
        ["d", "M0 4H28"],
        ["stroke", color],
        ["stroke-width", String(width)],
        ["stroke-opacity", String(alpha)],
        ["stroke-dasharray", dash.join(" ")]
      ]
      for (const [name, value] of look) path.setAttribute(name!, value!)
      svg.append(path)
      return svg
    }

    const draw = (): void => {
      plot?.destroy()
      plot = undefined
      const lines = visible()
      const banded = bands ? lines.filter(({ low }) => low.length > 0) : []
      const outputs = lines.map(() => element("output"))
      key.replaceChildren(...lines.map((line, i) => element("li", {}, swatch(line), ` ${line.label} `, outputs[i]!)))
      at.textContent = lines.length === 0 ? "Nothing is chosen that there are curves of." : hint
      host.hidden = lines.length === 0
      if (lines.length === 0) return

      const xs = union(lines)
      stops = lines.some(({ dots }) => dots) ? union(lines.filter(({ dots }) => dots)) : xs
      const place = new Map(xs.map((x, i) => [x, i]))
      /** On the x of all lines; undefined: not a gap, but a point that other lines have. */
      const spread = (x: ReadonlyArray<number>, values: ReadonlyArray<number | null>) => {
        const all = new Array<number | null | undefined>(xs.length)
        values.forEach((value, i) => all[place.get(x[i]!)!] = value)
        return all
      }
      const xLog = log.x ? logarithm(xs, chart.x.unit) : undefined
      const yLog = log.y ? logarithm(lines.flatMap(({ y }) => y), chart.y.unit) : undefined
      const low = (line: PayloadLine) =>
        line.low.map((value) => value === null || yLog === undefined ? value : Math.max(value, yLog.floor))

      const variables = getComputedStyle(document.documentElement)
      const variable = (name: string) => variables.getPropertyValue(name).trim()
      const [faint, grid, ground] = [variable("--faint"), variable("--line"), variable("--ground")]

      const scale = (one: Logarithm | undefined, margin: number): UPlot.Scale => ({
        time: false,
        ...(one === undefined ? {} : { distr: 100, fwd: one.forth, bwd: one.back }),
        range: (_, min, max) => {
          if (min === null || max === null || !Number.isFinite(min) || !Number.isFinite(max)) return [0, 1]
          const [forth, back] = [one?.forth ?? ((v: number) => v), one?.back ?? ((v: number) => v)]
          const [a, b] = [forth(min), forth(max)]
          const room = b > a ? margin * (b - a) : one === undefined ? Math.max(Math.abs(a) / 2, 0.5) : 0.5
          return [back(a - room), back(b + room)]
        }
      } as UPlot.Scale)
      const axis = (title: string, one: Logarithm | undefined, side: "x" | "y"): UPlot.Axis => ({
        label: title,
        stroke: faint,
        font: "12px system-ui, sans-serif",
        labelFont: "12px system-ui, sans-serif",
        labelSize: 22,
        size: side === "x" ? 34 : 58,
        grid: { stroke: grid, width: 1 },
        ticks: { stroke: grid, width: 1, size: 5 },
        values: (_, splits) => splits.map((value) => value === null ? "" : number(value, 6)),
        ...(one === undefined ? {} : {
          filter: (_, splits) => splits,
          splits: (u, _, from, to) =>
            ticks(one, from, to, side === "x" ? u.width - 90 : u.height - 60, side === "x" ? 44 : 26)
        } satisfies UPlot.Axis)
      })

      // bands lie under all lines, so their edges come first
      const edges = banded.flatMap((line) => [spread(line.x, line.high), spread(line.x, low(line))])
      const edge: UPlot.Series = { stroke: "transparent", width: 1, points: { show: false } }
      const first = 1 + edges.length
      const transparent = (line: PayloadLine, share: number) =>
        line.color + Math.round(255 * share * line.alpha).toString(16).padStart(2, "0")

      /** Value of each line under the cursor, at its own nearest point. */
      const tell = (u: UPlot): void => {
        const { left } = u.cursor
        const head = left === undefined || left === null || left < 0
          ? undefined
          : stops[closest(stops, u.posToVal(left, "x"))]
        at.textContent = head === undefined ? hint : `${chart.x.title}: ${number(head, 6)}`
        lines.forEach((line, i) => {
          const point = head === undefined ? undefined : nearest(line.x, head)
          if (point === undefined || head === undefined) return void (outputs[i]!.textContent = "")
          const [from, to] = [line.low[point] ?? null, line.high[point] ?? null]
          const aside = [
            ...(line.x[point] === head ? [] : [`at ${number(line.x[point]!, 6)}`]),
            ...(line.notes[point] ? [line.notes[point]] : [])
          ]
          outputs[i]!.textContent = number(line.y[point]!) +
            (from === null || to === null ? "" : ` [${number(from)}, ${number(to)}]`) +
            (aside.length === 0 ? "" : ` (${aside.join(", ")})`)
        })
      }

      const kept = zoom
      plot = new uPlot({
        width: host.clientWidth || 600,
        height: 340,
        legend: { show: false },
        scales: { x: scale(xLog, 0), y: scale(yLog, 0.05) },
        axes: [axis(chart.x.title, xLog, "x"), axis(yTitle(), yLog, "y")],
        series: [
          {},
          ...edges.map(() => edge),
          ...lines.map((line): UPlot.Series => ({
            label: line.label,
            pxAlign: 0,
            stroke: transparent(line, 1),
            width: line.width,
            dash: [...line.dash],
            points: { show: line.dots || line.x.length === 1, size: 6, stroke: transparent(line, 1), fill: ground }
          }))
        ],
        bands: banded.map((line, i) => ({ series: [1 + 2 * i, 2 + 2 * i], fill: transparent(line, 0.15) })),
        cursor: {
          y: false,
          dataIdx: (u, series, i, x) => {
            if (series < first) return series === 0 ? i : null as unknown as number
            const line = lines[series - first]!
            const point = nearest(line.x, stops[closest(stops, x)]!)
            return point === undefined ? null as unknown as number : place.get(line.x[point]!)!
          }
        },
        hooks: {
          setCursor: [tell],
          setScale: [(u, scaleKey) => {
            if (scaleKey !== "x" || u.status === 0) return
            const { max, min } = u.scales["x"]!
            // null while there is nothing to show
            const whole = typeof min !== "number" || typeof max !== "number" ||
              min === xs[0] && max === xs[xs.length - 1]
            zoom = whole ? undefined : { min, max }
          }]
        }
      }, [xs, ...edges, ...lines.map((line) => spread(line.x, line.y))] as UPlot.AlignedData, host)
      if (kept !== undefined && xs.some((x) => x >= kept.min && x <= kept.max)) plot.setScale("x", kept)
    }

    const switches = (title: string, inputs: ReadonlyArray<Node>) =>
      element("fieldset", {}, element("legend", {}, title), element("div", {}, ...inputs))
    const input = (
      label: string,
      checked: boolean,
      change: (checked: boolean) => void,
      group?: string
    ): HTMLLabelElement => {
      const box = element("input", group === undefined ? { type: "checkbox" } : { type: "radio", name: group })
      box.checked = checked
      box.addEventListener("change", () => {
        change(box.checked)
        draw()
      })
      return element("label", {}, box, ` ${label}`)
    }
    const controls = element(
      "div",
      { class: "switches" },
      ...chart.facets.map(({ key, one = false, title, values }) => {
        const shown = on.get(key)!
        return switches(title, values.map(({ label, name }) =>
          input(label ?? name, shown.has(name), (checked) => {
            if (one) shown.clear()
            if (checked) shown.add(name)
            else shown.delete(name)
          }, one ? `${key} of ${chart.title}` : undefined)
        ))
      }),
      switches("axes", [
        input("log x", log.x, (checked) => void (log.x = checked)),
        input("log y", log.y, (checked) => void (log.y = checked)),
        ...(chart.lines.some(({ low }) => low.length > 0)
          ? [input("95 % intervals", bands, (checked) => void (bands = checked))]
          : [])
      ])
    )

    host.addEventListener("keydown", (event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0
      if (plot === undefined || step === 0) return
      event.preventDefault()
      const { max, min } = plot.scales["x"]!
      const within = stops.filter((x) => x >= (min ?? -Infinity) && x <= (max ?? Infinity))
      if (within.length === 0) return
      const { left } = plot.cursor
      const from = left === undefined || left === null || left < 0
        ? (step > 0 ? -1 : within.length)
        : closest(within, plot.posToVal(left, "x"))
      const to = Math.min(Math.max(from + step, 0), within.length - 1)
      plot.setCursor({ left: plot.valToPos(within[to]!, "x"), top: 0 })
    })
    host.addEventListener("blur", () => plot?.setCursor({ left: -10, top: -10 }))

    figure.append(host, key, at, controls)
    draw()
    new ResizeObserver(() => {
      const width = host.clientWidth
      if (plot !== undefined && width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height })
    }).observe(host)
    return draw
  }

  const draws = Array.from(document.querySelectorAll<HTMLElement>("figure.curves"), start)
  // paper is light, whatever the screen is
  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", () => draws.forEach((draw) => draw()))
  }
}

const style = `
.curves fieldset { border: 0; padding: 0; margin: 0; min-width: 0; display: flex; gap: .9rem }
.curves fieldset > div { display: flex; flex-wrap: wrap; gap: .1rem .9rem }
.curves legend { float: left; padding: 0; flex: none; width: 5rem; overflow-wrap: break-word; color: var(--faint) }
.curves .switches { display: grid; gap: .2rem; margin: .5rem 0; font-size: .9rem }
.curves label { overflow-wrap: anywhere }
@media print { .curves .switches, .curves .at { display: none } }
.curves .at { margin: .3rem 0; font-size: .9rem }
.curves .key { display: grid; gap: 0 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr));
  font-variant-numeric: tabular-nums }
.curves .key li { padding-left: 34px; text-indent: -34px }
.curves .plot { margin: .3rem 0 }
`

/** The style and the scripts that a page with such charts needs: uPlot with its licence, and what uses it. */
export const assets = (): { readonly style: string; readonly scripts: ReadonlyArray<string> } => {
  const resolve = createRequire(import.meta.url).resolve
  const read = (file: string) => readFileSync(resolve(`uplot/${file}`), "utf8")
  return {
    style: `${read("dist/uPlot.min.css")}\n${style}`,
    scripts: [
      // numbers are in English as all else is, also where the browser's language is none that it can format in
      `/*!\n${read("LICENSE").replaceAll("*/", "")}*/\n` +
      `const uPlot = ((navigator) => {\n${read("dist/uPlot.iife.min.js")}\nreturn uPlot })({ language: "en" })`,
      // esbuild wraps functions in __name where it keeps their names
      `(() => { const __name = (named) => named; (${explore.toString()})(uPlot, window) })()`
    ]
  }
}
