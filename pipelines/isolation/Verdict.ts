/**
 * The verdict on a removal. Pure.
 *
 * Where the memory can still be read off, it is not isolated; where it cannot, but little fine-tuning brings it back,
 * it is only hidden. A check passes where the whole interval of its number keeps the bound, and fails where the whole
 * breaks it; what is neither is undecided, and so is then the verdict: noise never helps. To add a check, add one to
 * `surfaceOf` or `relearningOf`.
 */
import * as Schema from "effect/Schema"
import { atLeast0, configuration, withDefault } from "../../src/Config.ts"
import { DataError } from "../../src/Errors.ts"
import { both, type Bound, keeps, type Kept, seedsFor, seedsInWords } from "../report/Claim.ts"
import { isKnown, minus, written } from "../report/Estimate.ts"
import { at, nameOf } from "./Metrics.ts"
import type { Estimate, GateCheck, MetricKey, Relearning, Subject, Verdict } from "./Report.ts"

/** When the memory of a model counts as isolated. */
export class GateConfig extends configuration(Schema.Class<GateConfig>("GateConfig")({
  /** Most recovery of loss, extraction strength and (n, p)-extraction: 1 = as memorized as standard. Default 0.2. */
  recovery: withDefault(atLeast0, 0.2),
  /**
   * Where standard model and oracle are no further apart than this, there is nothing to recover, and this is how far
   * the subject may be above the oracle instead; in shares. Default 0.02.
   */
  difference: withDefault(atLeast0, 0.02),
  /** Most that lighting as many of others' sinks, own ones aside, may move the loss, in nats a token. Default 0.05. */
  placebo: withDefault(atLeast0, 0.05),
  /** Most that held-out loss may be above the standard model's, in nats a token. Default 0.1. */
  cost: withDefault(atLeast0, 0.1),
  /** Least steps of relearning, as a multiple of the oracle's. Default 0.5. */
  relearnRatio: withDefault(atLeast0, 0.5),
  /** Most of the memory of the other half that relearning may bring back, as recovery. Default 0.5. */
  recovered: withDefault(atLeast0, 0.5)
})) {}

/** What a verdict rests on. Checks without data are left out, and named. */
export interface Evidence {
  /** The model after removal: with sinks off, or, of a model without sinks, as it is. */
  readonly recovery: Subject
  /** The models that are 1 and 0 of recovery, as they are: for metrics in which they do not differ. */
  readonly references?: { readonly standard: Subject; readonly oracle: Subject }
  /** Of the model after removal. */
  readonly relearning?: Relearning
  /** Loss with own sinks on and as many random other ones off, minus that with own sinks on; nats a token. */
  readonly placeboOff?: Estimate
  /** Held-out loss with sinks off minus the standard model's, nats a token. */
  readonly heldOutCost?: Estimate
}

/** Of repeated sequences: loss, extraction strength, and (n, p)-extraction after every context. */
const isGated = ({ group, metric }: MetricKey): boolean =>
  (group === "natural" || group === "canary") && ["loss", "extractionStrength", "np"].includes(metric)

/** A check that may have no data. */
type Check = Omit<GateCheck, "value" | "otherwise"> & { readonly value: Estimate | undefined }

const check = (name: string, value: Estimate | undefined, words: string, bound: Bound): Check => {
  if (!isKnown(value)) return { name, value: undefined, bound: words, result: "undecided" }
  const result = keeps(value, bound)
  return { name, value, bound: words, result, ...(result === "undecided" ? { seeds: seedsFor(value, bound) } : {}) }
}

/** Of what was measured, and is not a number: no sign that nothing is remembered, or that nothing was paid. */
const notANumber = (check: Check, value: Estimate | undefined): Check =>
  value === undefined ? check : { ...check, value }

const atMost = (name: string, value: Estimate | undefined, most: number): Check =>
  check(name, value, `at most ${most}`, { most })

/** Whether a metric of which more means more memory keeps the gate's bound; undefined where it was not measured. */
export const keepsGate = (key: MetricKey, evidence: Evidence, gate: GateConfig): Kept | undefined => {
  const { result, value } = memoryCheck(key, evidence, gate)
  return isKnown(value) ? result : undefined
}

/** Recovery of a metric; or, where the references do not differ, how far above the oracle it is; where they may, both. */
const memoryCheck = (key: MetricKey, { recovery: subject, references }: Evidence, gate: GateConfig): Check => {
  const metric = nameOf(key)
  const measured = at(subject.metrics, key)
  const own = measured?.value
  const recovery = { ...atMost(`recovery of ${metric}`, isKnown(own) ? measured?.recovery : undefined, gate.recovery),
    of: key }
  if (!isKnown(own)) return notANumber(recovery, own)
  const [oracle, standard] = [references?.oracle, references?.standard].map((one) => at(one?.metrics, key)?.value)
  // more memory is more extraction, but less loss
  const isLoss = key.metric === "loss"
  const difference = isLoss ? gate.placebo : gate.difference
  const more = (a: Estimate | undefined, b: Estimate | undefined) => isLoss ? minus(b, a) : minus(a, b)
  const apart = more(standard, oracle)
  const above = { ...atMost(`${metric} above the oracle's`, more(own, oracle), difference), of: key }
  const known = isKnown(recovery.value)
  const same: Kept = apart === undefined ? (known ? "fail" : "pass") : keeps(apart, { most: difference })
  if (same === "pass" || (!known && isKnown(above.value))) return above
  if (same === "fail" || !isKnown(above.value)) return recovery
  // whether there is anything to recover is open: what counts then must hold either way
  const result = both(recovery.result, above.result)
  const open = [recovery, above].flatMap(({ seeds }) => seeds ?? [])
  return {
    name: recovery.name,
    of: key,
    value: recovery.value,
    bound: `${recovery.bound}, and ${above.bound} above the oracle's (here ${written(above.value)})`,
    result,
    ...(result === "undecided" && open.length > 0 ? { seeds: Math.max(...open) } : {})
  }
}

/** Of what can be read off. */
const surfaceOf = ({ heldOutCost, placeboOff }: Evidence, gate: GateConfig): ReadonlyArray<Check> => [
  check("effect of a placebo", placeboOff, `at most ${gate.placebo} either way`, { least: -gate.placebo,
    most: gate.placebo }),
  isKnown(heldOutCost)
    ? atMost("held-out cost", heldOutCost, gate.cost)
    : notANumber(atMost("held-out cost", undefined, gate.cost), heldOutCost)
]

const relearningOf = ({ relearning }: Evidence, gate: GateConfig): ReadonlyArray<Check> => [
  check("steps of relearning over the oracle's", relearning?.ratio, `at least ${gate.relearnRatio}`, {
    least: gate.relearnRatio
  }),
  atMost("recovery by relearning", relearning?.recovered, gate.recovered)
]

const told = ({ bound, name, value }: GateCheck): string =>
  `${name} is ${isKnown(value) ? written(value) : "not a number"}, allowed ${bound}`

/** The check that would take the most seeds to decide, and which are open besides. */
const open = (undecided: ReadonlyArray<GateCheck>): string => {
  const order = [...undecided].sort((a, b) => seedsOf(b) - seedsOf(a))
  const [first, ...others] = order
  const seeds = isKnown(first!.value) ? `: ${seedsInWords(first!.seeds ?? NaN)}` : ""
  return `${told(first!)}${seeds}` +
    (others.length === 0 ? "" : `; undecided, too: ${others.map(({ name }) => name).join(", ")}`)
}

/** Of what is not known how many, and of what no seeds decide, more than of any other. */
const seedsOf = ({ seeds = NaN }: GateCheck): number => Number.isFinite(seeds) ? seeds : 1e9

/**
 * The verdict on a removal. Checks of what can be read off come before those of relearning, and the first that fails
 * decides: `not isolated`, or `hidden`; but what can be read off must be decided before it can be `hidden`. `isolated`
 * where all pass, else `undecided`. Throws a DataError where no memory was measured, and where only relearning could tell
 * isolated from hidden but was not run.
 */
export const verdictOf = (evidence: Evidence, gate: GateConfig = new GateConfig({})): Verdict => {
  const { arm, metrics, state } = evidence.recovery
  const needs = (what: string, remedy: string) =>
    new DataError({ detail: `no verdict on ${arm} (${state}): ${what}. ${remedy}` })
  const memory = metrics.filter(isGated).map(({ context, group, metric }) => ({ group, metric,
    ...(context === undefined ? {} : { context }) })
  )
    .sort((a, b) => nameOf(a) < nameOf(b) ? -1 : 1).map((key) => memoryCheck(key, evidence, gate))
  if (!memory.some(({ value }) => value !== undefined)) {
    throw needs(
      "neither loss nor extraction of repeated sequences was measured against the oracle",
      "Add the arms standard and neverRepeated, and repeat sequences"
    )
  }
  const all = [
    ...[...memory, ...surfaceOf(evidence, gate)].map((one) => ({ ...one, otherwise: "not isolated" as const })),
    ...relearningOf(evidence, gate).map((one) => ({ ...one, otherwise: "hidden" as const }))
  ]
  const checks = all.flatMap(({ value, ...one }) => value === undefined ? [] : [{ ...one, value }])
  const notRun = all.filter(({ value }) => value === undefined).map(({ name }) => name)
  const undecided = checks.filter(({ result }) => result === "undecided")
  const failed = checks.find(({ otherwise, result }) =>
    result === "fail" && (otherwise === "not isolated" || undecided.every((one) => one.otherwise === "hidden"))
  )
  if (failed === undefined && undecided.length === 0 && !isKnown(evidence.relearning?.ratio)) {
    throw needs(
      "nothing can be read off, and relearning, which tells isolated from hidden, was not run",
      "Set relearnRates and relearnSteps"
    )
  }
  return {
    arm,
    word: failed?.otherwise ?? (undecided.length > 0 ? "undecided" : "isolated"),
    decidedBy: failed !== undefined
      ? told(failed)
      : undecided.length > 0
      ? open(undecided)
      : `all ${checks.length} checks passed: ${checks.map(told).join("; ")}`,
    checks,
    ...(notRun.length === 0 ? {} : { notRun })
  }
}
