/**
 * Charts as SVG, drawn by vega without a browser. Text takes the colour of the page and lines are of mid lightness, so
 * that both can be read on light and dark ground.
 */
import type { TopLevelSpec } from "vega-lite"

/** Told apart by the colour-blind too, the first five best. */
export const colors = [
  "#2b93d6", "#e07416", "#189e76", "#bd5c95", "#8a7a1f",
  "#7b6fd0", "#d0473d", "#5f8f2a", "#3f9fa8", "#a0673c", "#888888"
]

export interface Chart {
  readonly title: string
  readonly svg: string
}

const theme = {
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "currentColor",
    titleColor: "currentColor",
    domainColor: "#8888",
    tickColor: "#8888",
    gridColor: "#8884",
    labelFontSize: 12,
    titleFontSize: 12,
    titleFontWeight: "normal"
  },
  legend: {
    labelColor: "currentColor",
    labelFontSize: 12,
    orient: "top",
    symbolType: "stroke",
    symbolSize: 300,
    symbolStrokeWidth: 2
  }
} as const

/** A chart on transparent ground, in the looks that all have. */
export const svg = async (spec: TopLevelSpec): Promise<string> => {
  // heavy, and only needed when a report is written
  const [vega, lite] = await Promise.all([import("vega"), import("vega-lite")])
  const full = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width: 560,
    height: 300,
    background: "transparent",
    padding: 5,
    config: theme,
    ...spec
  } as TopLevelSpec
  const view = new vega.View(vega.parse(lite.compile(full).spec), { renderer: "none" })
  try {
    return await view.toSVG()
  } finally {
    view.finalize()
  }
}
