/**
 * Line charts in a terminal's characters. A braille character holds 2 x 4 dots, so a plot of 60 x 12 characters has
 * 120 x 48 of them.
 */
import { cells, oneLine, painter, type Style, truncate, widthOf } from "../Terminal.ts"

export interface Point {
  readonly x: number
  /** NaN leaves a gap. */
  readonly y: number
}

export interface Series {
  readonly name: string
  /** In the order in which the line goes through them. */
  readonly points: ReadonlyArray<Point>
  /** Default: the next color of `palette`. */
  readonly style?: Style
  /** Dimmed, for what only serves to compare. Default false. */
  readonly faint?: boolean
}

export interface ChartOptions {
  /** Characters a line has at most. */
  readonly width: number
  /** Lines at most, with axes and legend. */
  readonly height: number
  /** Where they meet, the first is seen. */
  readonly series: ReadonlyArray<Series>
  /** Scale x by log(1 + x), so that 0 is seen. Default false. */
  readonly logX?: boolean
  /** Scale y by its logarithm; what is not above 0 is left out. Default false. */
  readonly logY?: boolean
  /** A line above the y axis. Default: none. */
  readonly yLabel?: string
  /** Tell series apart by color; else letters on the lines do. Default false. */
  readonly color?: boolean
}

/** Colors that series get in turn. */
export const palette: ReadonlyArray<Style> = ["cyan", "magenta", "yellow", "blue", "green", "red"]

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/** Bits of the dots of a braille character, by column, from the top. */
const dots = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]]

/** Three digits: `2.31`, `0.0120`, `352`, `1.2e+4`. */
export const figure = (value: number): string => {
  const size = Math.abs(value)
  if (!Number.isFinite(value) || value === 0) return String(value)
  if (size < 1e-3 || size >= 99_999.5) return value.toExponential(1)
  return size >= 99.95 ? value.toFixed(0) : value.toPrecision(3)
}

const rounded = (value: number): number => Number(value.toPrecision(12))

/**
 * Multiples of 1, 2, 5 (or of 4, where those leave fewer than 3) times a power of ten, from `low` to `high`; at most
 * `most` of them, and at least 3 if that is 5. `whole`: no fractions.
 */
export const ticks = (low: number, high: number, most: number, whole = false): ReadonlyArray<number> => {
  const unit = 10 ** Math.floor(Math.log10((high - low) / most))
  const found = [1, 2, 5, 10, 4, 20, 40]
    .map((factor) => rounded(factor * unit))
    .filter((step) => !whole || Number.isInteger(step))
    .map((step) => {
      const first = Math.ceil(low / step - 1e-9)
      const length = Math.floor(high / step + 1e-9) - first + 1
      return length > most ? [] : Array.from({ length }, (_, i) => rounded((first + i) * step) + 0)
    })
  return found.find((some) => some.length >= 3) ?? found.reduce((a, b) => b.length > a.length ? b : a)
}

/** Powers of ten, with their multiples by 2 and 5 where there is room; equal steps where the range is narrow. */
export const logTicks = (low: number, high: number, most: number, withZero: boolean): ReadonlyArray<number> => {
  const from = withZero ? 0 : Math.floor(Math.log10(low))
  const to = Math.floor(Math.log10(high))
  const every = (step: number, factors: ReadonlyArray<number>) =>
    [
      ...(withZero ? [0] : []),
      ...Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i)
        .filter((power) => power % step === 0)
        .flatMap((power) => factors.map((factor) => rounded(factor * 10 ** power)))
    ].filter((tick) => tick * (1 + 1e-9) >= low && tick * (1 - 1e-9) <= high)
  let some = every(1, [1, 2, 5])
  for (let step = 1; some.length > most; step++) some = every(step, [1])
  return some.length < Math.min(3, most) ? ticks(low, high, most) : some
}

/** Ticks in words, with as many decimals as they need. */
const labels = (values: ReadonlyArray<number>, log: boolean): ReadonlyArray<string> => {
  const plain = (value: number, decimals: number) =>
    Math.abs(value) >= 1e5
      ? value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 4 })
      : value.toFixed(decimals)
  const decimals = (some: ReadonlyArray<number>) => {
    let d = 0
    while (d < 12 && some.some((value) => Number(value.toFixed(d)) !== value)) d++
    return d
  }
  const common = decimals(values)
  return values.map((value) =>
    value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential() : plain(value, log ? decimals([value]) : common)
  )
}

interface Scale {
  /** Where a value lies, 0 to 1. */
  readonly at: (value: number) => number
  readonly low: number
  readonly high: number
}

/** From the least to the greatest value, widened where that is nothing. */
const scaleOf = (values: Iterable<number>, map: (value: number) => number, inverse: (at: number) => number): Scale => {
  let [low, high] = [Infinity, -Infinity]
  for (const value of values) {
    low = Math.min(low, map(value))
    high = Math.max(high, map(value))
  }
  if (low > high) [low, high] = [map(1), map(2)]
  const size = Math.max(Math.abs(low), Math.abs(high))
  if (high - low <= 1e-9 * size || high === low) {
    const more = Math.max(0.5, 0.05 * size)
    ;[low, high] = [low - more, high + more]
  }
  return { at: (value) => (map(value) - low) / (high - low), low: inverse(low), high: inverse(high) }
}

/** Of a legend: without escapes and with them. */
interface Entry {
  readonly text: string
  readonly painted: string
}

/** Names and last values, as many as fit; `+3`: so many did not. */
const legend = (entries: ReadonlyArray<Entry>, width: number, most: number): ReadonlyArray<string> => {
  const lengthOf = (line: ReadonlyArray<Entry>) => line.reduce((sum, { text }) => sum + cells(text) + 2, -2)
  const lines: Array<Array<Entry>> = []
  for (const entry of entries) {
    const line = lines.at(-1)
    if (line !== undefined && lengthOf([...line, entry]) <= width) line.push(entry)
    else lines.push([entry])
  }
  const kept = lines.slice(0, most)
  if (kept.length < lines.length) {
    const last = kept[most - 1]!
    const more = (): Entry => {
      const text = `+${entries.length - kept.flat().length}`
      return { text, painted: text }
    }
    while (last.length > 1 && lengthOf([...last, more()]) > width) last.pop()
    if (lengthOf([...last, more()]) <= width) last.push(more())
  }
  return kept.map((line) => line.map(({ painted }) => painted).join("  "))
}

/**
 * A chart of lines, with axes and a legend that tells each series' last value.
 *
 * Never wider than `width` or taller than `height`: where both leave no room to draw, the legend alone is left.
 */
export const chart = (options: ChartOptions): ReadonlyArray<string> => {
  const { color = false, logX = false, logY = false, series, yLabel } = options
  if (!(options.width >= 1) || !(options.height >= 1)) return []
  const [width, height] = [widthOf(options.width), widthOf(options.height)]
  const paint = painter(color)
  const lettered = !color || series.length > palette.length
  const painted = series.map(({ faint = false, style }, i) => (text: string) => {
    const own = paint(style ?? palette[i % palette.length]!, text)
    return faint ? paint("dim", own) : own
  })
  // numbers beyond 1e300 have no differences
  const isSeen = ({ x, y }: Point) =>
    Math.abs(x) < 1e300 && Math.abs(y) < 1e300 && (!logX || x > -1) && (!logY || y > 0)

  const entries = series.map(({ name, points }, i) => {
    const letter = letters[i % letters.length]
    const last = points.length === 0 ? "-" : figure(points.at(-1)!.y)
    const said = oneLine(name)
    const short = truncate(said, Math.max(4, width - last.length - 4))
    const text = truncate(`${lettered ? letter : "⠒⠒"} ${short} ${last}`, width)
    return { text, painted: painted[i]!(text) }
  })
  const names = legend(entries, width, Math.max(1, Math.floor(height / 3)))
  const head = yLabel === undefined ? [] : [truncate(yLabel, width)]
  const rows = height - head.length - names.length - 2

  const seen = series.map(({ points }) => points.filter(isSeen))
  const values = function*(key: "x" | "y") {
    for (const points of seen) for (const point of points) yield point[key]
  }
  const same = (value: number) => value
  const xScale = logX ? scaleOf(values("x"), Math.log1p, Math.expm1) : scaleOf(values("x"), same, same)
  const yScale = logY ? scaleOf(values("y"), Math.log, Math.exp) : scaleOf(values("y"), same, same)
  if (rows < 2) return names

  const most = Math.min(5, rows)
  const yTicks = logY ? logTicks(yScale.low, yScale.high, most, false) : ticks(yScale.low, yScale.high, most)
  const yLabels = labels(yTicks, logY)
  const margin = Math.max(...yLabels.map((label) => label.length))
  const columns = width - margin - 2
  if (columns < 8) return names

  const dotX = (x: number) => Math.round(xScale.at(x) * (2 * columns - 1))
  const dotY = (y: number) => Math.round((1 - yScale.at(y)) * (4 * rows - 1))
  const bits = new Uint8Array(rows * columns)
  const owner = new Int32Array(rows * columns).fill(-1)
  const ends: Array<number | undefined> = []
  const cell = (x: number, y: number) => (y >> 2) * columns + (x >> 1)
  // the last first, so that the first is seen where they meet
  for (let i = series.length - 1; i >= 0; i--) {
    const dot = (x: number, y: number) => {
      bits[cell(x, y)]! |= dots[x & 1]![y & 3]!
      owner[cell(x, y)] = i
    }
    const { points } = series[i]!
    let before: readonly [x: number, y: number] | undefined
    points.forEach((point, p) => {
      if (!isSeen(point)) {
        before = undefined
        return
      }
      const to = [dotX(point.x), dotY(point.y)] as const
      const from = before ?? to
      const length = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1)
      for (let k = 0; k <= length; k++) {
        dot(Math.round(from[0] + (to[0] - from[0]) * k / length), Math.round(from[1] + (to[1] - from[1]) * k / length))
      }
      // one dot alone is hardly seen
      if (before === undefined && (p + 1 === points.length || !isSeen(points[p + 1]!))) {
        for (const [dx, dy] of [[1, 0], [0, 1], [1, 1]]) dot(to[0] ^ dx!, to[1] ^ dy!)
      }
      before = to
      ends[i] = cell(...to)
    })
  }

  /** Letters: where a line ends, and now and then along it. */
  const marks = new Map<number, number>()
  if (lettered) {
    ends.forEach((at, i) => at !== undefined && owner[at] === i && marks.set(at, i))
    for (let c = 0; c < columns; c++) {
      for (let i = 0; i < series.length; i++) {
        const end = ends[i]
        if ((c + 3 * i) % 16 !== 8 || end === undefined || Math.abs(end % columns - c) < 4) continue
        const own = Array.from({ length: rows }, (_, r) => r * columns + c).find((at) => owner[at] === i)
        if (own !== undefined && !marks.has(own)) marks.set(own, i)
      }
    }
  }
  const row = (r: number): string => {
    let text = ""
    for (let c = 0; c < columns;) {
      const whose = owner[r * columns + c]!
      let run = ""
      for (; c < columns && owner[r * columns + c] === whose; c++) {
        const at = r * columns + c
        const mark = marks.get(at)
        run += mark === undefined ? String.fromCharCode(0x2800 + bits[at]!) : letters[mark % letters.length]
      }
      text += whose < 0 ? " ".repeat(run.length) : painted[whose]!(run)
    }
    return text
  }

  const yAt = new Map(yTicks.map((tick, i) => [dotY(tick) >> 2, yLabels[i]]))
  const plot = Array.from({ length: rows }, (_, r) => {
    const label = yAt.get(r)
    return `${(label ?? "").padStart(margin)} ${label === undefined ? "│" : "┤"}${row(r)}`.trimEnd()
  })
  const mostX = Math.max(3, Math.min(5, Math.floor(columns / 7)))
  let whole = true
  for (const x of values("x")) whole &&= Number.isInteger(x)
  const [low, high] = [xScale.low, xScale.high]
  const xTicks = logX ? logTicks(low, high, mostX, low <= 0) : ticks(low, high, mostX, whole)
  let axis = "─".repeat(columns)
  let under = ""
  labels(xTicks, logX).forEach((label, i) => {
    const c = dotX(xTicks[i]!) >> 1
    axis = `${axis.slice(0, c)}┬${axis.slice(c + 1)}`
    const at = Math.min(margin + 2 + c - ((label.length - 1) >> 1), width - label.length)
    if (at > under.length || under === "") under = under.padEnd(at) + label
  })
  return [...head, ...plot, `${" ".repeat(margin)} └${axis}`, under, ...names]
}
