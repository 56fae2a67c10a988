/**
 * A line chart as a value: lines, the properties in which they differ, and which of these colours, dashes and markers
 * tell apart. `still` draws it as a picture, `live` as one that is explored in the page. Pure.
 */

export interface Axis {
  /** What is measured, and its unit. */
  readonly title: string
  /** Whether it is logarithmic at first. Default false. */
  readonly log?: boolean
  /** Where an axis that has a 0 turns from linear to logarithmic. Default: the smallest positive value. */
  readonly unit?: number
  /** Whether 0 is in sight, wherever the values are. Default false. */
  readonly zero?: boolean
}

/** A property in which lines differ, with a switch for each of its values. */
export interface Facet {
  readonly key: string
  readonly title: string
  /** Whether just one value is shown at a time. Default false. */
  readonly one?: boolean
  readonly values: ReadonlyArray<{
    readonly name: string
    /** Default: the name. */
    readonly label?: string
    /** Whether it is shown at first. */
    readonly on: boolean
    /** Title of the y axis where this value is the one that is shown. Default: the chart's. */
    readonly y?: string
  }>
}

export interface Point {
  readonly x: number
  readonly y: number
  /** Ends of the interval around y. */
  readonly low?: number | undefined
  readonly high?: number | undefined
  /** Ends of the interval around x. */
  readonly left?: number | undefined
  readonly right?: number | undefined
  /** What the point is, beyond its numbers. */
  readonly note?: string
  /** Drawn large, as the one that was chosen. */
  readonly large?: boolean
}

export interface Line {
  /** Names the line: in the key each label stands once. */
  readonly label: string
  /** Its value of each facet; a line is shown where all of them are on. Without a value a facet does not matter to it. */
  readonly of: Readonly<Record<string, string>>
  /** By x, each at most once, but for sweeps, which are in their own order; those that are not finite are left out. */
  readonly points: ReadonlyArray<Point>
  /** Whether each point has a dot. Default false. */
  readonly dots?: boolean
  /** CSS pixels. Default 2. */
  readonly width?: number
}

export interface Chart {
  readonly title: string
  readonly x: Axis
  readonly y: Axis
  /** With facets it is explored in the page; without it is a picture. */
  readonly facets: ReadonlyArray<Facet>
  readonly lines: ReadonlyArray<Line>
  /** Properties that the colour, and in a picture the marker, tells apart. */
  readonly color: ReadonlyArray<string>
  /** Properties that dashes tell apart. */
  readonly dash?: ReadonlyArray<string>
  /** Properties that paleness tells apart, the later the paler. */
  readonly shade?: ReadonlyArray<string>
}

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
      return place < 1 ? left : left * (1 - (0.65 * place) / (values.length - 1))
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
