/** Learning curves of a pretraining run. */
import type { SeedResult } from "./Report.ts"
import { type Chart, colors, svg } from "../report/svg.ts"

/** The learning curves of every seed. */
export interface Curves {
  readonly perSeed: ReadonlyArray<Pick<SeedResult, "seed" | "curves">>
}

interface Point {
  readonly tokens: number
  readonly loss: number
  /** What a line's colour means. */
  readonly series: string
  /** What a line's dashes mean. */
  readonly text: string
  readonly seed: number
}

const lines = (
  points: ReadonlyArray<Point>,
  series: ReadonlyArray<string>,
  texts: ReadonlyArray<string>,
  opacity: number
): Promise<string> =>
  svg({
    data: { values: points as Array<Point> },
    mark: { type: "line", strokeWidth: 2, opacity, point: texts.length > 1 ? { size: 22, opacity } : false },
    encoding: {
      x: { field: "tokens", type: "quantitative", title: "tokens trained on", axis: { tickCount: 6, format: "~s" } },
      y: { field: "loss", type: "quantitative", title: "loss, nats a token", scale: { zero: false } },
      color: {
        field: "series",
        type: "nominal",
        title: null,
        scale: { domain: [...series], range: colors }
      },
      ...(texts.length < 2 ? {} : {
        strokeDash: {
          field: "text",
          type: "nominal" as const,
          title: null,
          scale: { domain: [...texts], range: [[1, 0], [5, 4]] }
        }
      }),
      detail: { field: "seed", type: "nominal" }
    }
  })

const pointsOf = (
  report: Curves,
  pick: (arm: string, name: string) => Pick<Point, "series" | "text"> | undefined
): ReadonlyArray<Point> =>
  report.perSeed.flatMap(({ curves, seed }) =>
    curves.flatMap(({ arm, name, points }) => {
      const labels = pick(arm, name)
      return labels === undefined ? [] : points.map(({ loss, tokens }) => ({ ...labels, loss, tokens, seed }))
    })
  )

const unique = (values: ReadonlyArray<string>): ReadonlyArray<string> => [...new Set(values)]

/** Training losses of all arms, and losses of repeated and held-out text along training; none without data. */
export const charts = async (report: Curves): Promise<ReadonlyArray<Chart>> => {
  const opacity = report.perSeed.length > 1 ? 0.75 : 1
  const training = pointsOf(report, (arm, name) => name === "train" ? { series: arm, text: "training" } : undefined)
  const modes = ["standard", "own sinks", "sinks off"]
  const texts = ["repeated", "held out"]
  // baselines are left out beside what they are compared with
  const alone = !report.perSeed.some(({ curves }) => curves.some(({ arm }) => arm === "standard" || arm === "sinks"))
  const evaluated = pointsOf(report, (arm, name) => {
    const [split, mode] = name.split(".")
    const text = split === "repeated" ? texts[0] : split === "heldOut" ? texts[1] : undefined
    const series = arm === "standard"
      ? modes[0]
      : arm === "sinks" ? mode === "own" ? modes[1] : modes[2] : alone ? arm : undefined
    return text === undefined || series === undefined ? undefined : { series, text }
  })
  const drawn: Array<Chart> = []
  if (training.length > 0) {
    drawn.push({
      title: "Training loss",
      svg: await lines(training, unique(training.map((p) => p.series)), ["training"], opacity)
    })
  }
  if (evaluated.length > 0) {
    const drawnOf = (label: (point: Point) => string) => unique(evaluated.map(label))
    const title = drawnOf((p) => p.text).length === 1
      ? `${evaluated[0].text === "repeated" ? "Repeated" : "Held-out"} text along training`
      : "Repeated and held-out text along training"
    drawn.push({ title, svg: await lines(evaluated, drawnOf((p) => p.series), drawnOf((p) => p.text), opacity) })
  }
  return drawn
}
