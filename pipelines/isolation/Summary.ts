/**
 * From what each seed found to the numbers of the report: means with their intervals, and recovery between the oracle
 * and the standard model. Pure.
 */
import { canonical } from "../../src/Key.ts"
import * as Statistics from "../../src/measures/Statistics.ts"
import { estimate, type Kind, perSeed, type Spread } from "../report/Estimate.ts"
import { at, keysOf, kindOf } from "./Metrics.ts"
import type { ArmCost, Estimate, ExtractionCurve, Hygiene, Interference, IsolationReport, LearningCurve,
  LocalizerRecall, MaskState, MetricKey, Panel, Relearning, Subject, Tradeoff } from "./Report.ts"

/** A model in a state, in one seed. */
export interface Found {
  readonly arm: string
  readonly kind: Subject["kind"]
  readonly state: MaskState
  readonly setting?: string
  /** Of how many sequences each is, and how much it depends on them, where that is known. */
  readonly metrics: ReadonlyArray<
    MetricKey & { readonly value: number; /** Default: by its name. */ readonly kind?: Kind } & Partial<Spread>
  >
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
    & Omit<ExtractionCurve, "points" | "fit">
    & { readonly points: ReadonlyArray<{ readonly x: number; readonly value: number; readonly sequences?: number }> }
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
    & Pick<ArmCost,
      "name" | "variant" | "kind" | "title" | "parameters" | "activeParameters" | "settings" | "steps" | "tokens">
    & { readonly seconds: number }
  >
}

/** The same thing in every seed, in the order in which it was met first. */
const across = <T>(
  seeds: ReadonlyArray<SeedFindings>,
  list: (seed: SeedFindings) => ReadonlyArray<T>,
  key: (one: T) => unknown
): ReadonlyArray<{ readonly first: T; readonly all: ReadonlyArray<T | undefined> }> => {
  const found = new Map<string, { first: T; all: Array<T | undefined> }>()
  seeds.forEach((seed, s) => {
    for (const one of list(seed)) {
      const name = canonical(key(one))
      const entry = found.get(name) ?? { first: one, all: seeds.map(() => undefined) }
      found.set(name, entry)
      entry.all[s] = one
    }
  })
  return [...found.values()]
}

/** Losses, and other amounts that are never below 0. */
const losses = (values: ReadonlyArray<number | undefined>): Estimate => estimate(values, { kind: "loss" })

/** Below so large a difference between standard model and oracle there is nothing to recover. */
const NOTHING = 1e-9

const subjectsOf = (
  seeds: ReadonlyArray<SeedFindings>,
  standard: string,
  oracle: string
): ReadonlyArray<Subject> => {
  const reference = (name: string) =>
    seeds.map(({ found }) => found.find(({ arm, state }) => arm === name && state === "own"))
  const [ones, zeros] = [reference(standard), reference(oracle)]
  return across(seeds, ({ found }) => found, ({ arm, kind, state }) => [arm, kind, state]).map(
    ({ all, first }) => {
      const over = (some: ReadonlyArray<Found | undefined>, key: MetricKey) => {
        const found = some.map((one) => at(one?.metrics, key))
        return estimate(found.map((one) => one?.value), {
          kind: found.find((one) => one?.kind !== undefined)?.kind ?? kindOf(key),
          spreads: found.map((one) => one?.sequences === undefined ? undefined : one as Spread)
        })
      }
      const recovered = (key: MetricKey) => {
        const value = (one: Found | undefined) => at(one?.metrics, key)?.value ?? NaN
        const usable = all.map((one, s) => {
          const apart = Math.abs(value(ones[s]) - value(zeros[s]))
          // seeds without references, or with nothing between them, have no recovery
          return apart < NOTHING || Number.isNaN(apart) ? undefined : one
        })
        // no negative zero
        const share = (value: number, one: number, zero: number) => (value - zero) / (one - zero) + 0
        const own = over(usable, key)
        // a reference is not compared with another like it, but with itself
        const [one, zero] = [ones, zeros].map((some) =>
          usable.every((it, s) => it === undefined || it === some[s]) ? own : over(some, key)
        )
        return perSeed(share, own, one, zero)
      }
      const settings = [...new Set(all.flatMap((one) => one?.setting ?? []))]
      return {
        arm: first.arm,
        kind: first.kind,
        state: first.state,
        ...(settings.length === 0 ? {} : { setting: settings.join("; ") }),
        metrics: keysOf(...all.map((one) => one?.metrics ?? [])).map((key) => {
          const recovery = key.group === "heldOut" ? undefined : recovered(key)
          return { ...key, value: over(all, key), ...(recovery === undefined ? {} : { recovery }) }
        })
      }
    }
  )
}

const curvesOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<LearningCurve> =>
  across(seeds, ({ curves }) => curves, ({ arm, series }) => [arm, series]).map(({ all, first }) => ({
    arm: first.arm,
    series: first.series,
    points: first.points.map(({ step, tokens }) => ({
      step,
      tokens,
      loss: losses(all.map((one) => one?.points.find((point) => point.step === step)?.loss))
    }))
  }))

const tradeoffsOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<Tradeoff> =>
  across(seeds, ({ tradeoffs }) => tradeoffs, ({ arm, panel }) => [arm, panel]).map(({ all, first }) => ({
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
    ({ points: _, ...of }) => of
  ).map(({ all, first: { points, ...of } }) => {
    const curve = points.map(({ x }) => {
      const these = all.map((one) => one?.points.find((point) => point.x === x))
      return {
        x,
        value: estimate(these.map((one) => one?.value), {
          kind: "share",
          spreads: these.map((one) => one?.sequences === undefined ? undefined : { sequences: one.sequences })
        })
      }
    })
    const pairs = curve.flatMap(({ value, x }) =>
      value.values.flatMap((y): Array<readonly [number, number]> => (y === null ? [] : [[Math.log2(x), y]]))
    )
    const distinct = new Set(pairs.map(([x]) => x)).size
    const fit = of.by === "repeats" && distinct >= 2 && pairs.length >= 3
      ? Statistics.linearFit(pairs.map(([x]) => x), pairs.map(([, y]) => y))
      : undefined
    return {
      ...of,
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
  across(seeds, ({ relearning }) => relearning, ({ arm, state }) => [arm, state]).map(({ all, first }) => ({
    arm: first.arm,
    state: first.state,
    points: first.points.map(({ learningRate, step }) => {
      const points = all.map((one) => one?.points.find((p) => p.learningRate === learningRate && p.step === step))
      return {
        learningRate,
        step,
        seen: losses(points.map((point) => point?.seen)),
        scored: losses(points.map((point) => point?.scored)),
        heldOut: losses(points.map((point) => point?.heldOut))
      }
    }),
    steps: all.map((one) => one?.steps ?? null),
    recovered: estimate(all.map((one) => one?.recovered)),
    ratio: losses(all.map((one) => one?.ratio))
  }))

const interferenceOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<Interference> =>
  across(seeds, ({ interference }) => interference, ({ arm }) => arm).map(({ all, first }) => {
    const of = (pick: (one: SeedFindings["interference"][number]) => number | undefined, kind: Kind = "real") =>
      estimate(all.map((one) => (one === undefined ? undefined : pick(one))), { kind })
    return {
      arm: first.arm,
      ladder: first.ladder.map(({ others }) => ({
        others,
        loss: of(({ ladder }) => ladder.find((rung) => rung.others === others)?.loss, "loss")
      })),
      sliceContent: { own: of(({ own }) => own), placebo: of(({ placebo }) => placebo) },
      placeboOff: of(({ placeboOff }) => placeboOff),
      deletion: { mean: of(({ deletionMean }) => deletionMean), worst: of(({ deletionWorst }) => deletionWorst) },
      leakage: of(({ leakage }) => leakage)
    }
  })

const localizersOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<LocalizerRecall> =>
  across(seeds, ({ localizers }) => localizers, ({ arm, localizer }) => [arm, localizer]).map((
    { all, first }
  ) => ({
    localizer: first.localizer,
    arm: first.arm,
    recall: estimate(all.map((one) => one?.recall), { kind: "share" }),
    chance: first.chance
  }))

const costsOf = (seeds: ReadonlyArray<SeedFindings>): ReadonlyArray<ArmCost> =>
  across(seeds, ({ costs }) => costs, ({ name }) => name).map(({ all, first: { seconds: _, ...first } }) => ({
    ...first,
    seconds: losses(all.map((one) => one?.seconds)),
    // a sweep takes time for more than what it trains on
    tokensPerSecond: losses(
      all.map((one) => (one?.kind === "trained" && one.seconds > 0 ? one.tokens / one.seconds : undefined))
    )
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
