/**
 * The verdict on a removal. Pure.
 *
 * Where the memory can still be read off, it is not isolated; where it cannot, but little fine-tuning brings it back,
 * it is only hidden. To add a check, add one to `surfaceOf` or `relearningOf`; the first that fails decides.
 */
import * as Schema from "effect/Schema"
import { atLeast0, configuration, withDefault } from "../../src/Config.ts"
import { DataError } from "../../src/Errors.ts"
import { isKnown, minus, written } from "../report/Estimate.ts"
import type { Estimate, GateCheck, Relearning, Subject, Verdict } from "./Report.ts"

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
  /**
   * Most that held-out loss may be above the best fair baseline's, in nats a token, unless its interval includes 0.
   * Default 0.1.
   */
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
const isGated = (metric: string): boolean => /^(natural|canary)\.(loss$|extractionStrength$|np@)/.test(metric)

/** A check that may have no data. */
type Check = Omit<GateCheck, "value" | "otherwise"> & { readonly value: Estimate | undefined }

const check = (
  name: string,
  value: Estimate | undefined,
  bound: string,
  keeps: (value: Estimate) => boolean
): Check => ({
  name,
  value,
  bound,
  passed: isKnown(value) && keeps(value)
})

const atMost = (name: string, value: Estimate | undefined, bound: number): Check =>
  check(name, value, `at most ${bound}`, ({ mean }) => mean <= bound)

/** Recovery of a metric; or, where the references do not differ, how far above the oracle it is. */
const memoryCheck = (metric: string, { recovery: subject, references }: Evidence, gate: GateConfig): Check => {
  const [oracle, standard] = [references?.oracle.metrics[metric], references?.standard.metrics[metric]]
  const recovery = subject.recovery[metric]
  // more memory is more extraction, but less loss
  const isLoss = metric.endsWith(".loss")
  const difference = isLoss ? gate.placebo : gate.difference
  const more = (a: Estimate | undefined, b: Estimate | undefined) => isLoss ? minus(b, a) : minus(a, b)
  const apart = more(standard, oracle)
  const same = apart === undefined ? !isKnown(recovery) : apart.mean <= difference
  return same
    ? atMost(`${metric} above the oracle's`, more(subject.metrics[metric], oracle), difference)
    : atMost(`recovery of ${metric}`, recovery, gate.recovery)
}

/** Of what can be read off. */
const surfaceOf = ({ heldOutCost, placeboOff }: Evidence, gate: GateConfig): ReadonlyArray<Check> => [
  check(
    "effect of a placebo",
    placeboOff,
    `at most ${gate.placebo} either way`,
    ({ mean }) => Math.abs(mean) <= gate.placebo
  ),
  check(
    "held-out cost",
    heldOutCost,
    `at most ${gate.cost}, or an interval that includes 0`,
    ({ low, mean }) => mean <= gate.cost || (low !== undefined && low <= 0)
  )
]

const relearningOf = ({ relearning }: Evidence, gate: GateConfig): ReadonlyArray<Check> => [
  check(
    "steps of relearning over the oracle's",
    relearning?.ratio,
    `at least ${gate.relearnRatio}`,
    ({ mean }) => mean >= gate.relearnRatio
  ),
  atMost("recovery by relearning", relearning?.recovered, gate.recovered)
]

const told = ({ bound, name, value }: GateCheck): string => `${name} is ${written(value)}, allowed ${bound}`

/**
 * The verdict on a removal: by the first check that fails, those of what can be read off (`not isolated`) before those
 * of relearning (`hidden`); `isolated` where none does. Throws a DataError where no memory was measured, and where only
 * relearning could tell isolated from hidden but was not run.
 */
export const verdictOf = (evidence: Evidence, gate: GateConfig = new GateConfig({})): Verdict => {
  const { arm, metrics, state } = evidence.recovery
  const needs = (what: string, remedy: string) =>
    new DataError({ detail: `no verdict on ${arm} (${state}): ${what}. ${remedy}` })
  const memory = Object.keys(metrics).filter(isGated).sort().map((metric) => memoryCheck(metric, evidence, gate))
  if (!memory.some(({ value }) => isKnown(value))) {
    throw needs(
      "neither loss nor extraction of repeated sequences was measured against the oracle",
      "Add the arms standard and neverRepeated, and repeat sequences"
    )
  }
  const all = [
    ...[...memory, ...surfaceOf(evidence, gate)].map((one) => ({ ...one, otherwise: "not isolated" as const })),
    ...relearningOf(evidence, gate).map((one) => ({ ...one, otherwise: "hidden" as const }))
  ]
  const checks = all.flatMap(({ value, ...one }) => isKnown(value) ? [{ ...one, value }] : [])
  const notRun = all.filter(({ value }) => !isKnown(value)).map(({ name }) => name)
  const failed = checks.find(({ passed }) => !passed)
  if (failed === undefined && !isKnown(evidence.relearning?.ratio)) {
    throw needs(
      "nothing can be read off, and relearning, which tells isolated from hidden, was not run",
      "Set relearnRates and relearnSteps"
    )
  }
  return {
    arm,
    word: failed?.otherwise ?? "isolated",
    decidedBy: failed === undefined
      ? `all ${checks.length} checks passed: ${checks.map(told).join("; ")}`
      : told(failed),
    checks,
    ...(notRun.length === 0 ? {} : { notRun })
  }
}
