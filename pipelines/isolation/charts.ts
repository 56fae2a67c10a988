/** The charts of an isolation report: learning curves, trade-off, extraction, relearning. Pure. */
import { canonical } from "../../src/Key.ts"
import { ORACLE, STANDARD } from "../experiment/Arms.ts"
import type { Chart, Line, Point } from "../report/Chart.ts"
import { isKnown } from "../report/Estimate.ts"
import { unique } from "../report/View.ts"
import { metricName } from "./Metrics.ts"
import type { Estimate, IsolationReport, LearningCurve, MaskState } from "./Report.ts"
import { panelName, seriesOf, stateName } from "./tables.ts"

const point = (x: number, one: Estimate): ReadonlyArray<Point> =>
  isKnown(one) ? [{ x, y: one.mean, low: one.low, high: one.high }] : []

/** Variants of an arm have numbers in the tables; here they would only be in the way. */
const withoutVariants = <T extends { readonly arm: string }>({ arms }: IsolationReport, all: ReadonlyArray<T>) =>
  all.filter(({ arm }) => arms.every(({ name, variant }) => name !== arm || variant === undefined))

/** Arms in an order that all charts have, so that an arm looks alike in them. */
const ordered = <T extends { readonly arm: string }>(report: IsolationReport,
  all: ReadonlyArray<T>): ReadonlyArray<T> =>
{
  const order = unique([STANDARD, report.subject, ORACLE, ...report.arms.map(({ name }) => name),
    ...all.map(({ arm }) => arm)])
  return all.toSorted((a, b) => order.indexOf(a.arm) - order.indexOf(b.arm))
}

/** Whether an arm was measured in more states than one. */
const hasStates = ({ subjects }: IsolationReport, arm: string): boolean =>
  subjects.some((one) => one.arm === arm && one.state !== "own")

const named = (report: IsolationReport, arm: string, state: MaskState): string =>
  hasStates(report, arm) ? `${arm}, ${stateName(state)}` : arm === ORACLE ? `${arm} (oracle)` : arm

const titles: Readonly<Record<string, string>> = {
  repeated: "Loss on all repeated sequences, along training",
  heldOut: "Held-out loss, along training",
  train: "Training loss",
  canaries: "Loss on canaries, along training",
  singles: "Loss on sequences seen once, along training",
  sequence: "Loss on one sequence, around its exposures"
}

const axes = { x: { title: "tokens trained on" }, y: { title: "loss, nats a token" }, facets: [] }

const learningLine = (report: IsolationReport, { arm, points }: LearningCurve, state: MaskState,
  label: string): Line => ({
    label,
    of: { arm, state: hasStates(report, arm) ? state : "own" },
    points: points.flatMap(({ loss, tokens }) => point(tokens, loss))
  })

/** Learning curves of all arms, a chart for each set of sequences. */
export const learning = (report: IsolationReport): ReadonlyArray<Chart> => {
  const found = ordered(report, withoutVariants(report, report.curves)).map((curve) => {
    const [split, state] = seriesOf(curve.series)
    return { split, curve, state: state ?? "own", stated: state !== undefined }
  })
  return unique(found.map(({ split }) => split)).map((split): Chart => ({
    ...axes,
    title: titles[split] ?? split,
    color: ["arm"],
    dash: ["state"],
    lines: found.filter((one) => one.split === split).map(({ curve, state, stated }) =>
      learningLine(report, curve, state, stated ? named(report, curve.arm, state) : curve.arm)
    )
  }))
}

/** What the answer is about: repeated text under the subject before and after removal, and under the two that it lies between. */
export const lead = (report: IsolationReport): ReadonlyArray<Chart> => {
  const arms = [STANDARD, report.subject, ORACLE]
  const of = learning({ ...report, curves: report.curves.filter(({ arm }) => arms.includes(arm)) })
    .filter(({ title }) => title === titles["repeated"])
  return of.some(({ lines }) => lines.some((line) => line.of["arm"] === report.subject))
    ? of
    : tradeoff(report).slice(0, 1)
}

/** Forgetting against degradation: sweeps as lines, arms as points, the chosen ones large. */
export const tradeoff = (report: IsolationReport): ReadonlyArray<Chart> =>
  unique(report.tradeoffs.map(({ panel }) => panel)).map((panel): Chart => {
    const shown = ordered(report, withoutVariants(report, report.tradeoffs.filter((one) => one.panel === panel)))
    // sweeps go on until nothing is left of the model; what matters is where one would stop
    const stops = shown.flatMap(({ points }) =>
      points.filter(({ chosen }) => chosen).map(({ degradation }) => degradation.mean)
    )
    const most = Math.max(0.2, ...stops.filter(Number.isFinite).map((x) => 1.2 * x))
    return {
      title: `Forgetting of ${panelName(panel)} against degradation, up to ${most.toFixed(2)} nats (large: chosen)`,
      x: { title: "held-out loss minus the standard model's, nats a token" },
      y: { title: "loss of all scored minus the standard's, nats a token", zero: true },
      facets: [],
      color: ["arm"],
      // every setting of a method is a line of its own
      lines: shown.flatMap(({ arm, points }) =>
        unique(points.map(({ series }) => series ?? "")).map((series): Line => ({
          label: arm,
          of: { arm },
          dots: true,
          points: points.filter((one) => (one.series ?? "") === series).flatMap(({ chosen, degradation, forgetting }) =>
            !isKnown(degradation) || degradation.mean > most ? [] : point(degradation.mean, forgetting).map((one) => ({
              ...one,
              left: degradation.low,
              right: degradation.high,
              large: chosen
            }))
          )
        }))
      )
    }
  })

/** A metric against exposures, or against tokens of context. */
export const extraction = (report: IsolationReport): ReadonlyArray<Chart> => {
  const all = ordered(report, withoutVariants(report, report.extraction))
  const kindOf = ({ by, context, length, metric, panel }: IsolationReport["extraction"][number]) =>
    canonical({ by, context, length, metric, panel })
  return unique(all.map(kindOf)).map((kind): Chart => {
    const those = all.filter((one) => kindOf(one) === kind)
    const one = those[0]!
    const name = metricName(one)
    const same = report.metrics.filter(({ metric }) => metric === one.metric)
    const title = same.find(({ context }) => context === one.context)?.title
    const what = title === undefined || title.length > 48 ? name : title
    const unit = same[0]?.unit === "nats" ? "nats a token" : same[0]?.unit
    const x = one.by === "repeats" ? "exposures" : "tokens of context"
    return {
      title: `${name} against ${x}, ${panelName(one.panel)}`,
      x: { title: x, log: true },
      y: { title: unit === undefined || what.startsWith(unit) ? what : `${what}, ${unit}`, zero: true },
      facets: [],
      color: ["arm"],
      dash: ["state"],
      lines: those.map(({ arm, points, state }) => ({
        label: named(report, arm, state),
        of: { arm, state },
        dots: true,
        points: points.filter(({ x }) => x > 0).flatMap(({ value, x }) => point(x, value))
      }))
    }
  })
}

/** What comes back by fine-tuning, at each learning rate. */
export const relearning = (report: IsolationReport): ReadonlyArray<Chart> => {
  const rates = unique(report.relearning.flatMap(({ points }) => points.map(({ learningRate }) => learningRate)))
  return rates.map((rate): Chart => ({
    title: `Loss of the half that is not trained on, at learning rate ${rate}`,
    x: { title: "steps of fine-tuning", log: true, unit: 1 },
    y: { title: "loss, nats a token" },
    facets: [],
    color: ["arm"],
    lines: ordered(report, report.relearning).map(({ arm, points, state }) => ({
      label: named(report, arm, state),
      of: { arm },
      dots: true,
      points: points.filter(({ learningRate }) => learningRate === rate).flatMap(({ scored, step }) =>
        point(step, scored)
      )
    }))
  }))
}
