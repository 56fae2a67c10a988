/**
 * A chart as a picture: SVG drawn by vega without a browser, with its key beside it as HTML, which wraps where there is
 * little room. Text takes the colour of the page and lines are of mid lightness, so that both can be read on light and
 * dark ground; lines differ in markers and dashes too, so that they can be told apart in grey.
 */
import type { TopLevelSpec } from "vega-lite"
import { wrap } from "../../src/Terminal.ts"
import { type Axis, type Chart, type Drawn, layout } from "./Chart.ts"
import { escape } from "./escape.ts"

const theme = {
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "currentColor",
    titleColor: "currentColor",
    domainColor: "#8888",
    tickColor: "#8888",
    gridColor: "#8884",
    labelFontSize: 13,
    titleFontSize: 13,
    titleLineHeight: 20,
    titlePadding: 10,
    titleFontWeight: "normal"
  },
  // the first one keeps clear of the lowest one beside the other axis, on a phone, too, where letters are larger
  axisX: { labelPadding: 10 }
} as const

/** The chart's own pixels; a page makes it narrower where it has less room. */
const [WIDTH, HEIGHT] = [560, 280]

/** Characters of a line along an axis: without a browser a letter is taken for wider than it is, and room left for it. */
const [ALONG, BESIDE] = [54, 28]

/** A title in lines that are no longer than the axis. */
const lined = (title: string, most: number): ReadonlyArray<string> => wrap([[title]], most, (_, text) => text)

/** Markers of a line at most: more would hide it. */
const MARKERS = 12

/** SVG of a specification of vega-lite. */
const svg = async (spec: TopLevelSpec): Promise<string> => {
  // heavy, and only needed when a report is written
  const [vega, lite] = await Promise.all([import("vega"), import("vega-lite")])
  const view = new vega.View(vega.parse(lite.compile(spec).spec), { renderer: "none" })
  try {
    // within HTML it needs no namespaces
    return (await view.toSVG()).replace(/^<svg[^>]*>/, (head) => head.replace(/ xmlns(:\w+)?="[^"]*"/g, ""))
  } finally {
    view.finalize()
  }
}

/** A few of so many points: the last, and others evenly. */
const isMarked = (i: number, count: number): boolean =>
  count <= MARKERS || (count - 1 - i) % Math.ceil(count / MARKERS) === 0

/** `500`, `1.5k`, `0.05`. */
const even = "format(datum.value, abs(datum.value) >= 1000 ? '~s' : '~g')"

/** Of values as they are, or of powers: `2048`, `10.8k`, `0.0156`. */
const uneven = "format(datum.value, abs(datum.value) >= 10000 ? '.3~s' : abs(datum.value) >= 1000 ? '~g' : '.3~g')"

/** Round numbers of a logarithmic scale: powers of ten, and where they are few 2 and 5 times those. */
const round = (least: number, most: number): ReadonlyArray<number> => {
  if (!(most >= least)) return []
  const first = Math.floor(Math.log10(least))
  const powers = Array.from({ length: Math.ceil(Math.log10(most)) - first + 1 }, (_, i) => first + i)
  return powers.flatMap((power) => (powers.length > 4 ? [1] : [1, 2, 5]).map((digit) => Number(`${digit}e${power}`)))
}

const scaleOf = ({ log = false, names, unit = 1, zero = false }: Axis, values: ReadonlyArray<number>,
  which: "x" | "y") =>
{
  const [least, most] = [Math.min(...values), Math.max(...values)]
  if (names !== undefined) {
    return {
      scale: { type: "linear", domain: [0.5, names.length + 0.5], nice: false },
      axis: {
        values: names.map((_, i) => i + 1),
        grid: false,
        // a word a line
        labelExpr: `split(${JSON.stringify(names)}[datum.value - 1], ' ')`
      }
    }
  }
  if (!log) {
    // no half of a block or of a step
    const whole = values.every(Number.isInteger) ? { tickMinStep: 1 } : {}
    return { scale: { type: "linear", zero }, axis: { tickCount: 6, ...whole, labelExpr: even } }
  }
  const distinct = [...new Set(values)].sort((a, b) => a - b)
  // what was chosen is marked as it is, what was measured is not
  const chosen = which === "x" && distinct.length <= 12
  const marks = chosen
    ? distinct
    : least > 0
    ? round(least, most)
    : [0, ...round(unit, most), ...round(unit, -least).map((mark) => -mark)]
  // a scale of less than a few times looks linear, and is marked so
  const few = marks.filter((mark) => mark >= least && mark <= most).length < 2
  const axis = { labelOverlap: true, labelExpr: uneven, ...(few ? { tickCount: 5 } : { values: marks }) }
  // with a place for 0
  return least > 0
    ? { scale: { type: "log", base: 2, nice: false }, axis }
    : { scale: { type: "symlog", constant: unit, nice: false }, axis }
}

const draw = (chart: Chart, lines: ReadonlyArray<Drawn>): Promise<string> => {
  const least = Math.min(...lines.flatMap(({ points }) => points.map(({ y }) => y)))
  // an interval that reaches 0 has no end on a logarithmic scale
  const floor = chart.y.log === true && least > 0 ? least / 2 : -Infinity
  const values = lines.flatMap(({ dots = false, look, points, width = 2 }, line) =>
    // beside each other where all have the same x
    points.map((point) =>
      chart.x.names === undefined ? point : { ...point, x: point.x + 0.12 * (line - (lines.length - 1) / 2) }
    ).map((point, order) => ({
      ...point,
      line: String(line),
      order,
      low: Math.max(point.low ?? point.y, floor),
      high: point.high ?? point.y,
      left: point.left ?? point.x,
      right: point.right ?? point.x,
      size: point.large === true ? 130 : dots ? 55 : 40,
      isMarked: dots || isMarked(order, points.length),
      width,
      alpha: look.alpha
    }))
  )
  const xs = values.map(({ x }) => x)
  const [x, y] = [scaleOf(chart.x, xs, "x"), scaleOf(chart.y, values.map(({ y }) => y), "y")]
  const domain = lines.map((_, i) => String(i))
  const by = <T>(of: (line: Drawn) => T) => ({
    field: "line",
    type: "nominal",
    legend: null,
    scale: { domain, range: lines.map(of) }
  })
  const asIs = (field: string) => ({ field, type: "quantitative", scale: null, legend: null })
  const bands = lines.every(({ dots = false }) => !dots)
  const interval = bands
    ? [{ mark: { type: "area", opacity: 0.15 }, encoding: { y: { field: "low" }, y2: { field: "high" } } }]
    : [
      { mark: { type: "rule", opacity: 0.6, strokeWidth: 1.6 },
        encoding: { y: { field: "low" }, y2: { field: "high" } } },
      ...(values.some(({ left, right }) => left !== right)
        ? [{ mark: { type: "rule", opacity: 0.6, strokeWidth: 1.6 },
          encoding: { x: { field: "left" }, x2: { field: "right" } } }]
        : [])
    ]
  return svg({
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width: WIDTH,
    height: HEIGHT,
    background: "transparent",
    padding: 5,
    config: theme,
    data: { values },
    encoding: {
      x: { field: "x", type: "quantitative", title: lined(chart.x.title, ALONG), ...x, // the last would stand in the way of the one before
        axis: { ...x.axis, labelFlush: false } },
      y: { field: "y", type: "quantitative", title: lined(chart.y.title, BESIDE), ...y },
      color: by(({ look }) => look.color),
      detail: { field: "line", type: "nominal" }
    },
    layer: [
      ...interval,
      ...(chart.x.names !== undefined ? [] : [{
        mark: { type: "line", clip: false },
        encoding: {
          strokeDash: by(({ look }) => look.dash.length === 0 ? [1, 0] : look.dash),
          strokeWidth: asIs("width"),
          strokeOpacity: asIs("alpha"),
          order: { field: "order", type: "quantitative" }
        }
      }]),
      {
        transform: [{ filter: "datum.isMarked" }],
        mark: { type: "point", filled: true, opacity: 1 },
        encoding: {
          shape: by(({ look }) => look.marker),
          size: asIs("size")
        }
      }
    ]
  } as unknown as TopLevelSpec)
}

const swatch = ({ look, width = 2 }: Drawn): string =>
  `<svg width="34" height="12" viewBox="0 0 34 12" aria-hidden="true"><path d="M0 6H34" fill="none" stroke="${look.color}" ` +
  `stroke-width="${width}" stroke-dasharray="${look.dash.join(" ")}"/>` +
  `<path transform="translate(17 6) scale(4.2)" d="${look.marker}" fill="${look.color}"/></svg>`

/** A chart as a figure, named by its title, with what its lines mean. Whatever is on at first is drawn. */
export const still = async (chart: Chart): Promise<string> => {
  const { isOn, lines } = layout(chart)
  const shown = lines.filter(isOn)
  const labels = new Map(shown.map((line) => [line.label, line]))
  return `<figure class="still"><figcaption>${escape(chart.title)}</figcaption>` +
    `<div role="img" aria-label="${escape(chart.title)}">${await draw(chart, shown)}</div>` +
    `<ul class="key">${
      [...labels].map(([label, line]) => `<li>${swatch(line)} ${escape(label)}</li>`).join("")
    }</ul></figure>`
}
