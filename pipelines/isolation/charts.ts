/** The figures of an isolation report: learning curves, trade-off, extraction, relearning. */
import { type Chart, colors, svg } from "../report/svg.ts"
import { isKnown } from "../report/Estimate.ts"
import type { Estimate, IsolationReport, Subject } from "./Report.ts"
import { panelName, stateName } from "./tables.ts"

/** By section. */
export type Charts = Readonly<Record<string, ReadonlyArray<Chart>>>

interface Point {
  readonly x: number
  readonly y: number
  readonly low: number
  readonly high: number
  readonly xLow?: number
  readonly xHigh?: number
  /** What a colour means. */
  readonly arm: string
  /** What dashes mean. */
  readonly text: string
  /** Points of one line. */
  readonly line: string
  readonly chosen?: boolean
}

const unique = <T>(values: ReadonlyArray<T>): ReadonlyArray<T> => [...new Set(values)]

const spread = ({ high, low, mean }: Estimate) => ({ y: mean, low: low ?? mean, high: high ?? mean })

/** Variants of an arm have numbers in the tables; here they would only be in the way. */
const isVariant = (arm: string): boolean => arm.includes("=")

interface Look {
  readonly color: string
  readonly shape: string
}

const shapes: Readonly<Record<Subject["kind"], string>> = {
  trained: "circle",
  localizer: "square",
  unlearner: "triangle-up"
}

/** An arm looks the same in all figures: a colour that no other of its kind has, and the shape of its kind. */
const looks = ({ arms, subjects, tradeoffs }: IsolationReport): ReadonlyMap<string, Look> => {
  const kinds = new Map<string, Subject["kind"]>([
    ...tradeoffs.map(({ arm }) => [arm, "trained"] as const),
    ...subjects.map(({ arm, kind }) => [arm, kind] as const),
    ...arms.map(({ kind, name }) => [name, kind] as const)
  ])
  const names = unique(["standard", "sinks", "neverRepeated", ...arms.map(({ name }) => name), ...kinds.keys()])
    .filter((name) => kinds.has(name) && !isVariant(name))
  return new Map(names.map((name) => {
    const kind = kinds.get(name)!
    const place = names.filter((other) => kinds.get(other) === kind).indexOf(name)
    return [name, { color: colors[place % colors.length], shape: shapes[kind] }]
  }))
}

type Looks = ReadonlyMap<string, Look>

interface Axes {
  readonly x: { readonly title: string; readonly scale?: object; readonly axis?: object }
  readonly y: { readonly title: string; readonly zero?: boolean }
  /** Lines with bands, or lines through points with bars. */
  readonly marks: "band" | "points"
}

/** What a chart shows, not yet drawn. */
interface Figure {
  readonly title: string
  readonly points: ReadonlyArray<Point>
  readonly axes: Axes
}

const draw = ({ axes, points }: Figure, looks: Looks): Promise<string> => {
  const arms = unique(points.map(({ arm }) => arm))
  const texts = unique(points.map(({ text }) => text))
  const color = {
    field: "arm",
    type: "nominal" as const,
    title: null,
    scale: { domain: [...arms], range: arms.map((arm) => looks.get(arm)?.color ?? colors[0]) },
    legend: { columns: 3, labelLimit: 300, symbolOpacity: 1, ...(axes.marks === "points" ? { symbolSize: 90 } : {}) }
  }
  // of the colour's field, so that one legend tells both
  const shape = { ...color, scale: { domain: [...arms], range: arms.map((arm) => looks.get(arm)?.shape ?? "circle") } }
  const dashed = texts.length < 2 ? {} : {
    strokeDash: {
      field: "text",
      type: "nominal" as const,
      title: null,
      scale: { domain: [...texts], range: texts.map((_, i) => [[1, 0], [5, 4], [1, 3]][i % 3]) }
    }
  }
  const bar = { type: "rule", opacity: 0.5 } as const
  return svg({
    data: { values: points as Array<Point> },
    encoding: {
      x: { field: "x", type: "quantitative", title: axes.x.title, scale: axes.x.scale ?? {}, axis: axes.x.axis ?? {} },
      y: { field: "y", type: "quantitative", title: axes.y.title, scale: { zero: axes.y.zero ?? false } },
      color,
      detail: { field: "line", type: "nominal" }
    },
    layer: [
      axes.marks === "band"
        ? { mark: { type: "area", opacity: 0.15 }, encoding: { y: { field: "low" }, y2: { field: "high" } } }
        : { mark: bar, encoding: { y: { field: "low" }, y2: { field: "high" } } },
      ...(points.some(({ xHigh }) => xHigh !== undefined)
        ? [{ mark: bar, encoding: { x: { field: "xLow" }, x2: { field: "xHigh" } } }]
        : []),
      {
        mark: { type: "line", strokeWidth: 2 },
        encoding: { ...dashed, order: { field: "order", type: "quantitative" } }
      },
      ...(axes.marks === "band" ? [] : [{
        mark: { type: "point" as const, filled: true, opacity: 1 },
        encoding: { shape, size: { condition: { test: "datum.chosen === true", value: 90 }, value: 28 } }
      }])
    ]
  } as Parameters<typeof svg>[0])
}

const titles: Readonly<Record<string, string>> = {
  repeated: "Loss on repeated sequences",
  heldOut: "Held-out loss",
  train: "Training loss",
  canaries: "Loss on canaries",
  singles: "Loss on sequences seen once",
  sequence: "Loss on one sequence, around its exposures"
}

const learning = (report: IsolationReport): ReadonlyArray<Figure> => {
  const points = report.curves.filter(({ arm }) => !isVariant(arm)).flatMap(({ arm, points, series }) => {
    const [split, state = "own"] = series.split(".")
    const text = state === "own" ? "own sinks" : state === "off" ? "sinks off" : state
    return points.filter(({ loss }) => isKnown(loss)).map(({ loss, tokens }) => ({
      split, arm, text, line: `${arm} ${text}`, x: tokens, ...spread(loss)
    }))
  })
  return unique(points.map(({ split }) => split)).map((split): Figure => ({
    title: titles[split] ?? split,
    points: points.filter((point) => point.split === split),
    axes: {
      x: { title: "tokens trained on", axis: { tickCount: 6, format: "~s" } },
      y: { title: "loss, nats a token" },
      marks: "band"
    }
  }))
}

const tradeoff = (report: IsolationReport): ReadonlyArray<Figure> =>
  unique(report.tradeoffs.map(({ panel }) => panel)).map((panel): Figure => {
    const shown = report.tradeoffs.filter((one) => one.panel === panel && !isVariant(one.arm))
    const points = shown.flatMap(({ arm, points }) =>
      points.filter((point) => isKnown(point.degradation) && isKnown(point.forgetting)).map((point, order) => {
        const { high, low, mean } = point.degradation
        return {
          arm,
          text: "",
          // every learning rate of an unlearner is a line of its own
          line: `${arm} ${point.setting.split(" at ")[1] ?? ""}`,
          order,
          x: mean,
          xLow: low ?? mean,
          xHigh: high ?? mean,
          ...spread(point.forgetting),
          chosen: point.chosen
        }
      }))
    // sweeps go on until nothing is left of the model; what matters is where one would stop
    const stops = points.filter(({ chosen }) => chosen)
    const most = Math.max(0.2, ...stops.map(({ x }) => 1.2 * x))
    return {
      title: `Forgetting of ${panelName(panel)} against degradation; large: chosen; up to ${most.toFixed(2)} nats`,
      points: points.filter(({ x }) => x <= most),
      axes: {
        x: { title: "held-out loss minus the standard model's, nats a token" },
        y: { title: "repeated loss minus the standard model's", zero: true },
        marks: "points"
      }
    }
  })

const extraction = (report: IsolationReport): ReadonlyArray<Figure> => {
  const kinds = unique(report.extraction.map(({ by, metric, panel }) => JSON.stringify({ by, metric, panel })))
  return kinds.map((kind): Figure => {
    const { by, metric, panel } = JSON.parse(kind) as IsolationReport["extraction"][number]
    const points = report.extraction
      .filter((one) => one.by === by && one.metric === metric && one.panel === panel && !isVariant(one.arm))
      .flatMap(({ arm, points, state }) =>
        points.filter(({ value, x }) => isKnown(value) && x > 0).map(({ value, x }) => ({
          arm, text: stateName(state), line: `${arm} ${state}`, x, ...spread(value)
        })))
    return {
      title: `${metric} against ${by === "repeats" ? "exposures" : "tokens of context"}, ${panelName(panel)}`,
      points,
      axes: {
        x: {
          title: by === "repeats" ? "exposures" : "tokens of context",
          scale: { type: "log", base: 2, nice: false },
          axis: { values: unique(points.map(({ x }) => x)), format: "~d", labelOverlap: true }
        },
        y: { title: metric, zero: true },
        marks: "points"
      }
    }
  })
}

const relearning = (report: IsolationReport): ReadonlyArray<Figure> => {
  const rates = unique(report.relearning.flatMap(({ points }) => points.map(({ learningRate }) => learningRate)))
  return rates.map((rate): Figure => {
    const points = report.relearning.flatMap(({ arm, points, state }) =>
      points.filter(({ learningRate, scored }) => learningRate === rate && isKnown(scored)).map(({ scored, step }) => ({
        arm, text: "", line: `${arm} ${state}`, x: step, ...spread(scored)
      })))
    return {
      title: `Loss of the half that is not trained on, at learning rate ${rate}`,
      points,
      axes: {
        x: {
          title: "steps of fine-tuning",
          scale: { type: "symlog" },
          axis: { values: unique(points.map(({ x }) => x)), format: "~d", labelOverlap: true }
        },
        y: { title: "loss, nats a token" },
        marks: "points"
      }
    }
  })
}

/** The figures that there is data for, by the section that they belong to. */
export const charts = async (report: IsolationReport): Promise<Charts> => {
  const look = looks(report)
  const of = { curves: learning, tradeoffs: tradeoff, extraction, relearning }
  const drawn: Record<string, ReadonlyArray<Chart>> = {}
  for (const [section, figures] of Object.entries(of)) {
    drawn[section] = await Promise.all(
      figures(report).filter(({ points }) => points.length > 0)
        .map(async (figure) => ({ title: figure.title, svg: await draw(figure, look) }))
    )
  }
  return drawn
}
