/** Verdicts on every arm that can be judged, and what a reader should be warned of. Pure. */
import { DataError } from "../../src/Errors.ts"
import { ORACLE, STANDARD } from "../experiment/Arms.ts"
import { estimate, isKnown, minus } from "../report/Estimate.ts"
import type { Plan } from "./Config.ts"
import { DELETIONS } from "./Interference.ts"
import { RELEARN_HELD_OUT } from "./Jobs.ts"
import { at, heldOutLoss, nameOf, repeatedLoss } from "./Metrics.ts"
import type { Attack, Failure, IsolationReport, MetricKey, Subject, Verdict } from "./Report.ts"
import { keepsGate, verdictOf } from "./Verdict.ts"
import { RETAINED } from "./World.ts"

type Parts = Pick<IsolationReport, "subjects" | "relearning" | "interference">

/** The model after removal: with its sinks off, or as it is where it has none. */
const removed = (subjects: ReadonlyArray<Subject>, arm: string): Subject | undefined => {
  const states = subjects.filter((subject) => subject.arm === arm)
  return states.find(({ state }) => state === "off") ?? states.find(({ state }) => state === "own")
}

const heldOut = (subject: Subject | undefined) => at(subject?.metrics, heldOutLoss)?.value

/**
 * Verdicts on all arms and methods. Fails with a DataError that says why where the subject cannot be judged; others that
 * cannot be are left out.
 */
export const verdictsOf = (
  { interference, relearning, subjects }: Parts,
  { config, subject }: Plan,
  failures: ReadonlyArray<Failure>
): ReadonlyArray<Verdict> => {
  const [standard, oracle] = [removed(subjects, STANDARD), removed(subjects, ORACLE)]
  return [...new Set([subject, ...subjects.map(({ arm }) => arm)])].flatMap((arm) => {
    const recovery = removed(subjects, arm)
    if (recovery === undefined) {
      if (arm !== subject) return []
      const why = failures.find((failure) => failure.arm === arm)
      throw new DataError({
        detail: `no verdict on ${arm}: it failed in every seed${why === undefined ? "" : `: ${why.message}`}`
      })
    }
    const relearned = relearning.find((one) => one.arm === arm)
    const placeboOff = interference.find((one) => one.arm === arm)?.placeboOff
    const [paid, free] = [heldOut(recovery), heldOut(standard)]
    const isNumber = [paid, free].every((one) => one === undefined || isKnown(one))
    const heldOutCost = isNumber ? minus(paid, free) : estimate([NaN])
    try {
      return [verdictOf({
        recovery,
        ...(standard === undefined || oracle === undefined ? {} : { references: { standard, oracle } }),
        ...(relearned === undefined ? {} : { relearning: relearned }),
        ...(isKnown(placeboOff) ? { placeboOff } : {}),
        ...(heldOutCost === undefined ? {} : { heldOutCost })
      }, config.gate)]
    } catch (error) {
      if (arm === subject || !(error instanceof DataError)) throw error
      return []
    }
  })
}

/** In words of an attack: what a removal left was hidden where the bound of recovery is broken. */
const leftWords = { pass: "removed", fail: "hidden", undecided: "undecided" } as const

/**
 * Whether an attack gets more out of each model after removal than out of the oracle, by the first of its metrics of which
 * more means more memory. What the oracle gives was never there to be removed.
 */
export const leftOf = (
  { subjects }: Pick<Parts, "subjects">,
  { config }: Pick<Plan, "config">,
  { metrics }: Pick<Plan["attacks"][number], "metrics">
): Attack["left"] => {
  const [standard, oracle] = [removed(subjects, STANDARD), removed(subjects, ORACLE)]
  const metric = metrics.find(({ group, memory }) => group === "natural" && memory === "higher")?.metric
  if (standard === undefined || oracle === undefined || metric === undefined) return []
  const key: MetricKey = { group: "natural", metric }
  return [...new Set(subjects.map(({ arm }) => arm))].flatMap((arm) => {
    const subject = removed(subjects, arm)
    const [value, never] = [subject, oracle].map((one) => at(one?.metrics, key)?.value)
    if (arm === ORACLE || arm === STANDARD || subject === undefined || value === undefined || never === undefined) {
      return []
    }
    const kept = keepsGate(key, { recovery: subject, references: { standard, oracle } }, config.gate)
    return [{ arm, state: subject.state, metric, value, oracle: never, result: leftWords[kept ?? "undecided"] }]
  })
}

/** What a reader should know before believing the numbers. */
export const warningsOf = (
  { interference, subjects }: Parts,
  { arms, config, localizers, unlearners }: Plan,
  data: IsolationReport["data"],
  singles: number
): ReadonlyArray<string> => {
  const [standard, oracle] = [removed(subjects, STANDARD), removed(subjects, ORACLE)]
  const [one, zero] = [standard, oracle].map((subject) => at(subject?.metrics, repeatedLoss)?.value)
  const found = (oracle?.metrics ?? []).flatMap((one) =>
    ["greedy", "np"].includes(one.metric) && one.value.mean > 0 ? [`${nameOf(one)} ${one.value.mean.toFixed(3)}`] : []
  )
  const { heldOut = 0, scored = 0 } = data.splits
  return [
    ...(one !== undefined && zero !== undefined && one.mean > 0.05 * zero.mean
      ? [
        `The standard model did not memorize to the end: its loss on repeated sequences is ${
          one.mean.toFixed(3)
        }, more than ` +
        `a twentieth of the oracle's ${zero.mean.toFixed(3)}. What is removed is the memory that there was.`
      ]
      : []),
    ...(found.length === 0
      ? []
      : [
        `The oracle, which never saw them repeated, says some sequences too (${
          found.join(", ")
        }): recovery discounts it.`
      ]),
    `Rates are over ${scored} scored sequences a seed, so they move in steps of ${
      (1 / Math.max(1, scored)).toFixed(3)
    }; ` +
    "true positives at 1 % false ones need more than 100 sequences that were never seen to mean much.",
    "Ids of held-out sequences own sinks that were never trained with them: their loss with own sinks on is a placebo's.",
    "Arms whose epoch is shorter (never repeated, deduplicated) go around again until they have trained on as many tokens.",
    "Held-out cost is against the standard model, which saw the same data. The oracle and the deduplicated model spend the tokens " +
    "of the repeats on other sequences, and have a lower held-out loss for that.",
    ...(singles <= RETAINED
      ? []
      : [
        `Of ${singles} sequences that are not repeated, the first ${RETAINED} are taken to be retained: unlearners train on ` +
        "these, and hygiene and interference see these, alone."
      ]),
    ...(heldOut <= RELEARN_HELD_OUT
      ? []
      : [`Relearning scores the first ${RELEARN_HELD_OUT} of ${heldOut} held-out sequences.`]),
    ...(interference.length === 0 || scored <= DELETIONS
      ? []
      : [`Ids are deleted one at a time, ${DELETIONS} of those of ${scored} scored sequences, drawn at random.`]),
    ...(unlearners.length === 0
      ? []
      : [
        `Methods after training were stopped by one rule (seen sequences, validation loss) and given so many settings each: ${
          [...localizers, ...unlearners].map(({ name, settings }) => `${name} ${settings.length}`).join(", ")
        }; with more tuning they may do better.`
      ]),
    ...(arms.some(({ arm }) => arm === "sgtm")
      ? ["SGTM's block is in the MLPs only: no attention heads were set aside, as its authors do besides."]
      : []),
    ...(interference.length > 0 && config.model.sinks!.active * scored > config.model.sinks!.pool
      ? ["The scored sequences' sinks fill the pool: deleting all of them is switching sinks off."]
      : []),
    config.seeds === 1
      ? "1 seed is not a result: its intervals are over sequences, and other seeds differ by more."
      : `${config.seeds} seeds: intervals are over seeds (Student's t), of shares over seeds and sequences (beta-binomial)` +
        `${config.seeds < 5 ? ", and wide" : ""}.`
  ]
}
