/**
 * A line chart as a value: lines, the properties in which they differ, and which of these colours, dashes and markers
 * tell apart. `still` draws it as a picture, `live` as one that is explored in the page. Pure.
 */
import * as Schema from "effect/Schema"
import { Real } from "./Estimate.ts"

const exact = <A, I>(schema: Schema.Schema<A, I>) => Schema.optionalWith(schema, { exact: true })

const Axis = Schema.Struct({
  /** What is measured, and its unit. */
  title: Schema.String,
  /** Whether it is logarithmic at first. Default false. */
  log: exact(Schema.Boolean),
  /** Where an axis that has a 0 turns from linear to logarithmic. Default: the smallest positive value. */
  unit: exact(Schema.Number),
  /** Whether 0 is in sight, wherever the values are. Default false. */
  zero: exact(Schema.Boolean),
  /** What 1, 2 and so on stand for, where it has no numbers; a picture then draws points without lines between them. */
  names: exact(Schema.Array(Schema.String))
})
export interface Axis extends Schema.Schema.Type<typeof Axis> {}

const FacetValue = Schema.Struct({
  /** As lines have it. */
  name: Schema.String,
  /** Default: the name. */
  label: exact(Schema.String),
  /** Whether it is shown at first. */
  on: Schema.Boolean,
  /** Title of the y axis where this value is the one that is shown. Default: the chart's. */
  y: exact(Schema.String)
})

/** A property in which lines differ, with a switch for each of its values. */
const Facet = Schema.Struct({
  /** As lines have it. */
  key: Schema.String,
  /** As a reader sees it. */
  title: Schema.String,
  /** Whether just one value is shown at a time. Default false. */
  one: exact(Schema.Boolean),
  /** Those that lines have. */
  values: Schema.Array(FacetValue)
})
export interface Facet extends Schema.Schema.Type<typeof Facet> {}

const Point = Schema.Struct({
  /** Where it is along the horizontal axis. */
  x: Real,
  /** Where it is along the vertical axis. */
  y: Real,
  /** Lower end of the interval around y. */
  low: Schema.optional(Real),
  /** Upper end of it. */
  high: Schema.optional(Real),
  /** Lower end of the interval around x. */
  left: Schema.optional(Real),
  /** Upper end of it. */
  right: Schema.optional(Real),
  /** What the point is, beyond its numbers. */
  note: exact(Schema.String),
  /** Drawn large, as the one that was chosen. */
  large: exact(Schema.Boolean)
})
export interface Point extends Schema.Schema.Type<typeof Point> {}

const Line = Schema.Struct({
  /** Names the line: in the key each label stands once. */
  label: Schema.String,
  /** Its value of each facet; a line is shown where all of them are on. Without a value a facet does not matter to it. */
  of: Schema.Record({ key: Schema.String, value: Schema.String }),
  /** By x, each at most once, but for sweeps, which are in their own order; those that are not finite are left out. */
  points: Schema.Array(Point),
  /** Whether each point has a dot. Default false. */
  dots: exact(Schema.Boolean),
  /** CSS pixels. Default 2. */
  width: exact(Schema.Number)
})
export interface Line extends Schema.Schema.Type<typeof Line> {}

export const Chart = Schema.Struct({
  /** What it shows. */
  title: Schema.String,
  /** The horizontal axis. */
  x: Axis,
  /** The vertical axis. */
  y: Axis,
  /** With facets it is explored in the page; without it is a picture. */
  facets: Schema.Array(Facet),
  /** In the order of the key. */
  lines: Schema.Array(Line),
  /** Properties that the colour, and in a picture the marker, tells apart. */
  color: Schema.Array(Schema.String),
  /** Properties that dashes tell apart. */
  dash: exact(Schema.Array(Schema.String)),
  /** Properties that paleness tells apart, the later the paler. */
  shade: exact(Schema.Array(Schema.String))
})
export interface Chart extends Schema.Schema.Type<typeof Chart> {}

/** Told apart by the colour-blind too, the first five best. */
export const colors = [
  "#2b93d6",
  "#e07416",
  "#189e76",
  "#bd5c95",
  "#8a7a1f",
  "#7b6fd0",
  "#d0473d",
  "#5f8f2a",
  "#3f9fa8",
  "#a0673c",
  "#888888"
]

export const dashes: ReadonlyArray<ReadonlyArray<number>> = [[], [7, 4], [2, 3], [10, 3, 2, 3], [14, 5], [2, 7]]

/** Markers, as paths around 0 in a square of side 2: circle, square, triangle, diamond, cross, triangle down, bar, plus. */
export const markers: ReadonlyArray<string> = [
  "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z",
  "M-.85,-.85H.85V.85H-.85Z",
  "M0,-1.1L1.05,.8H-1.05Z",
  "M0,-1.25L1.05,0L0,1.25L-1.05,0Z",
  "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
  "M0,1.1L1.05,-.8H-1.05Z",
  "M-1.2,-.45H1.2V.45H-1.2Z",
  "M-.35,-1.1H.35V-.35H1.1V.35H.35V1.1H-.35V.35H-1.1V-.35H-.35Z"
]

/** How a line is drawn. */
export interface Look {
  readonly color: string
  readonly dash: ReadonlyArray<number>
  readonly marker: string
  /** 1: not pale. */
  readonly alpha: number
}

export interface Drawn extends Line {
  readonly look: Look
}

/** Lines that have points, how they look, whether they are shown at first, and the facets that tell some apart. */
export const layout = ({ color, dash = [], facets, lines, shade = [] }: Chart): {
  readonly lines: ReadonlyArray<Drawn>
  readonly present: ReadonlyArray<Facet>
  readonly switched: ReadonlyArray<Facet>
  readonly isOn: (line: Line) => boolean
} => {
  const drawn = lines
    .map((line) => ({ ...line, points: line.points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y)) }))
    .filter(({ points }) => points.length > 0)
  const present = facets.map((facet) => ({
    ...facet,
    values: facet.values.filter(({ name }) => drawn.some(({ of }) => of[facet.key] === name))
  }))
  // a switch without an effect would only be in the way
  const switched = present.filter(({ values }) => values.length > 1)
  const isOn = ({ of }: Line) =>
    switched.every(({ key, values }) => of[key] === undefined || values.some(({ name, on }) => on && name === of[key]))
  /**
   * For each line, which of the different combinations of these facets it has. Those that are shown at first come first,
   * for colours and dashes that are told apart best.
   */
  const places = (keys: ReadonlyArray<string>) => {
    const combination = ({ of }: Line) => JSON.stringify(keys.map((key) => of[key] ?? ""))
    const combinations = drawn.map(combination)
    const different = [...new Set([...drawn.filter(isOn).map(combination), ...combinations])]
    return combinations.map((one) => different.indexOf(one))
  }
  const [hue, pattern] = [places(color), places(dash)]
  /** Values in the order of the switches; what has none of them is not pale. */
  const alpha = ({ of }: Line) =>
    shade.reduce((left, key) => {
      const values = facets.find((facet) => facet.key === key)?.values ?? []
      const place = values.findIndex(({ name }) => name === of[key])
      return place < 1 ? left : left * (1 - (0.5 * place) / (values.length - 1))
    }, 1)
  return {
    present,
    switched,
    isOn,
    lines: drawn.map((line, i) => ({
      ...line,
      look: {
        color: colors[hue[i]! % colors.length]!,
        dash: dashes[pattern[i]! % dashes.length]!,
        marker: markers[hue[i]! % markers.length]!,
        alpha: alpha(line)
      }
    }))
  }
}
