/**
 * From what each seed found to the numbers of the report: means with Student's intervals, and recovery between the oracle
 * and the standard model. Pure.
 */
import * as Statistics from "../../src/measures/Statistics.ts"
import { estimate } from "../report/Estimate.ts"
import type {
  ArmCost, Estimate, ExtractionCurve, Hygiene, Interference, IsolationReport, LearningCurve, LocalizerRecall, MaskState,
  Panel, Relearning, Subject, Tradeoff,
} from "./Report.ts"

/** A model in a state, in one seed. */
export interface Found {
  readonly arm: string
  readonly kind: Subject["kind"]
  readonly state: MaskState
  readonly setting?: string
  /** By `heldOut.loss`, `natural.loss`, ... */
  readonly metrics: Readonly<Record<string, number>>
}

/** What one seed found. Losses that an arm's failure left out are absent. */
export interface SeedFindings {
  readonly seed: number
  readonly found: ReadonlyArray<Found>
  readonly curves: ReadonlyArray<{
    readonly arm: string
    readonly series: string
    readonly points: ReadonlyArray<{ readonly step: number; readonly tokens: number; readonly loss: number }>
  }>
  readonly tradeoffs: ReadonlyArray<{
    readonly arm: string
    readonly panel: Panel
    readonly points: ReadonlyArray<{
      readonly setting: string
      readonly series?: string
      readonly degradation: number
      readonly forgetting: number
      readonly chosen: boolean
    }>
  }>
  readonly extraction: ReadonlyArray<
    & Pick<ExtractionCurve, "arm" | "state" | "panel" | "by" | "metric">
    & { readonly points: ReadonlyArray<{ readonly x: number; readonly value: number }> }
  >
  readonly relearning: ReadonlyArray<{
    readonly arm: string
    readonly state: MaskState
    readonly points: ReadonlyArray<{
      readonly learningRate: number
      readonly step: number
      readonly seen: number
      readonly scored: number
      readonly heldOut: number
    }>
    readonly steps: number | null
    readonly recovered: number
    readonly ratio: number
  }>
  readonly interference: ReadonlyArray<{
    readonly arm: string
    readonly ladder: ReadonlyArray<{ readonly others: number; readonly loss: number }>
    readonly own: number
    readonly placebo: number
    readonly placeboOff?: number
    readonly deletionMean: number
    readonly deletionWorst: number
    readonly leakage?: number
  }>
  readonly hygiene: ReadonlyArray<Hygiene>
  readonly localizers: ReadonlyArray<{
    readonly localizer: string
    readonly arm: string
    readonly recall: number
    readonly chance: number
  }>
  readonly costs: ReadonlyArray<
    & Pick<ArmCost, "name" | "variant" | "kind" | "title" | "parameters" | "activeParameters" | "settings" | "steps" | "tokens">
    & { readonly seconds: number }
  >
}

/** The same thing in every seed, in the order in which it was met first. */
const across = <T>(
  seeds: ReadonlyArray<SeedFindings>,
  list: (seed: SeedFindings) => ReadonlyArray<T>,
  key: (one: T) => string
): ReadonlyArray<{ readonly first: T; readonly all: ReadonlyArray<T | undefined> }> => {
  const found = new Map<string, { first: T; all: Array<T | undefined> }>()
  seeds.forEach((seed, s) => {
    for (const one of list(seed)) {
      const entry = found.get(key(one)) ?? { first: one, all: seeds.map(() => undefined) }
      found.set(key(one), entry)
      entry.all[s] = one
    }
  })
  return [...found.values()]
}

/** Below so large a difference between standard model and oracle there is nothing to recover. */
const NOTHING = 1e-9

const keysOf = <T>(all: ReadonlyArray<T | undefined>, of: (one: T) => object): ReadonlyArray<string> => [
  ...new Set(all.flatMap((one) => (one === undefined ? [] : Object.keys(of(one)))))
]

const subjectsOf = (
  seeds: ReadonlyArray<SeedFindings>,
  standard: string,
  oracle: string
): ReadonlyArray<Subject> => {
  const reference = (name: string) =>
    seeds.map(({ found }) => found.find(({ arm, state }) => arm === name && state === "own")?.metrics)
  const [ones, zeros] = [reference(standard), reference(oracle)]
  return across(seeds, ({ found }) => found, ({ arm, kind, state }) => `${arm} ${kind} ${state}`).map(({ all, first }) => {
    const names = keysOf(all, ({ metrics }) => metrics)
    const values = (name: string) => all.map((one) => one?.metrics[name])
    const recovered = (name: string) =>
      values(name).map((value, s) => {
        const [one, zero] = [ones[s]?.[name], zeros[s]?.[name]]
        return value === undefined || one === undefined || zero === undefined || Math.abs(one - zero) < NOTHING
          ? null
          // no negative zero
          : (value - zero) / (one - zero) + 0
      })
    const settings = [...new Set(all.flatMap((one) => one?.setting ?? []))]
    return {
      arm: first.arm,
      kind: first.kind,
      state: first.state,
      ...(settings.length === 0 ? {} : { setting: settings.join("; ") }),
      metrics: Object.fromEntries(names.map((name) => [name, estimate(values(name))])),
      recovery: Object.fromEntries(
        names.filter((name) => !name.startsWith("heldOut.")).map((name) => [name, estimate(recovered(name))])
          .filter(([, one]) => !Number.isNaN((one as Estimate).mean))
      )
    }
  })
}

const curvesOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<LearningCurve> =>
  across(seeds, ({ curves }) => curves, ({ arm, series }) => `${arm} ${series}`).map(({ all, first }) => ({
    arm: first.arm,
    series: first.series,
    points: first.points.map(({ step, tokens }) => ({
      step,
      tokens,
      loss: estimate(all.map((one) => one?.points.find((point) => point.step === step)?.loss))
    }))
  }))

const tradeoffsOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<Tradeoff> =>
  across(seeds, ({ tradeoffs }) => tradeoffs, ({ arm, panel }) => `${arm} ${panel}`).map(({ all, first }) => ({
    arm: first.arm,
    panel: first.panel,
    points: first.points.map(({ series, setting }) => {
      const points = all.map((one) => one?.points.find((point) => point.setting === setting))
      return {
        setting,
        ...(series === undefined ? {} : { series }),
        degradation: estimate(points.map((point) => point?.degradation)),
        forgetting: estimate(points.map((point) => point?.forgetting)),
        chosen: points.some((point) => point?.chosen === true)
      }
    })
  }))

const extractionOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<ExtractionCurve> =>
  across(
    seeds,
    ({ extraction }) => extraction,
    ({ arm, by, metric, panel, state }) => [arm, state, panel, by, metric].join(" ")
  ).map(({ all, first: { arm, by, metric, panel, points, state } }) => {
    const curve = points.map(({ x }) => ({
      x,
      value: estimate(all.map((one) => one?.points.find((point) => point.x === x)?.value))
    }))
    const pairs = curve.flatMap(({ value, x }) =>
      value.values.flatMap((y): Array<readonly [number, number]> => (y === null ? [] : [[Math.log2(x), y]])))
    const distinct = new Set(pairs.map(([x]) => x)).size
    const fit = by === "repeats" && distinct >= 2 && pairs.length >= 3
      ? Statistics.linearFit(pairs.map(([x]) => x), pairs.map(([, y]) => y))
      : undefined
    return {
      arm, state, panel, by, metric,
      points: curve,
      ...(fit === undefined ? {} : {
        fit: {
          slope: fit.beta.value,
          intercept: fit.alpha.value,
          r2: fit.r2,
          slopeLow: fit.beta.low,
          slopeHigh: fit.beta.high
        }
      })
    }
  })

const relearningOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<Relearning> =>
  across(seeds, ({ relearning }) => relearning, ({ arm, state }) => `${arm} ${state}`).map(({ all, first }) => ({
    arm: first.arm,
    state: first.state,
    points: first.points.map(({ learningRate, step }) => {
      const points = all.map((one) => one?.points.find((p) => p.learningRate === learningRate && p.step === step))
      return {
        learningRate,
        step,
        seen: estimate(points.map((point) => point?.seen)),
        scored: estimate(points.map((point) => point?.scored)),
        heldOut: estimate(points.map((point) => point?.heldOut))
      }
    }),
    steps: all.map((one) => one?.steps ?? null),
    recovered: estimate(all.map((one) => one?.recovered)),
    ratio: estimate(all.map((one) => one?.ratio))
  }))

const interferenceOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<Interference> =>
  across(seeds, ({ interference }) => interference, ({ arm }) => arm).map(({ all, first }) => {
    const of = (pick: (one: SeedFindings["interference"][number]) => number | undefined) =>
      estimate(all.map((one) => (one === undefined ? undefined : pick(one))))
    return {
      arm: first.arm,
      ladder: first.ladder.map(({ others }) => ({
        others,
        loss: of(({ ladder }) => ladder.find((rung) => rung.others === others)?.loss)
      })),
      sliceContent: { own: of(({ own }) => own), placebo: of(({ placebo }) => placebo) },
      placeboOff: of(({ placeboOff }) => placeboOff),
      deletion: { mean: of(({ deletionMean }) => deletionMean), worst: of(({ deletionWorst }) => deletionWorst) },
      leakage: of(({ leakage }) => leakage)
    }
  })

const localizersOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<LocalizerRecall> =>
  across(seeds, ({ localizers }) => localizers, ({ arm, localizer }) => `${arm} ${localizer}`).map(({ all, first }) => ({
    localizer: first.localizer,
    arm: first.arm,
    recall: estimate(all.map((one) => one?.recall)),
    chance: first.chance
  }))

const costsOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<ArmCost> =>
  across(seeds, ({ costs }) => costs, ({ name }) => name).map(({ all, first: { seconds: _, ...first } }) => ({
    ...first,
    seconds: estimate(all.map((one) => one?.seconds)),
    // a sweep takes time for more than what it trains on
    tokensPerSecond: estimate(all.map((one) => (one?.kind === "trained" && one.seconds > 0 ? one.tokens / one.seconds : undefined)))
  }))

/** The parts of the report that seeds make. */
export const summarize = (
  seeds: ReadonlyArray<SeedFindings>,
  names: { readonly standard: string; readonly oracle: string }
): Pick<
  IsolationReport,
  "subjects" | "arms" | "curves" | "tradeoffs" | "extraction" | "relearning" | "interference" | "hygiene" | "localizers"
> => ({
  subjects: subjectsOf(seeds, names.standard, names.oracle),
  arms: costsOf(seeds),
  curves: curvesOf(seeds),
  tradeoffs: tradeoffsOf(seeds),
  extraction: extractionOf(seeds),
  relearning: relearningOf(seeds),
  interference: interferenceOf(seeds),
  hygiene: seeds.flatMap(({ hygiene }) => hygiene),
  localizers: localizersOf(seeds)
})
