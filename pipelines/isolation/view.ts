/** What an isolation report shows: whether what was memorized can be taken out of a model, and by which numbers. Pure. */
import { count } from "../../src/Terminal.ts"
import { ORACLE, STANDARD } from "../experiment/Arms.ts"
import type { Chart } from "../report/Chart.ts"
import { digits, type Format, isKnown, minus } from "../report/Estimate.ts"
import * as View from "../report/View.ts"
import * as Charts from "./charts.ts"
import { heldOutLoss, metricName } from "./Metrics.ts"
import type { Estimate, IsolationReport, Word } from "./Report.ts"
import * as Tables from "./tables.ts"

// ---------------------------------------------------------------------------------------------------------------
// The answer

const isRemoved = ({ removed }: Tables.States): boolean => removed !== undefined && removed.state !== "own"

/** What the word at the head means. */
const meanings: Readonly<Record<Word, string>> = {
  isolated: "it can no longer be read off the model, and a little fine-tuning does not bring it back",
  hidden: "it can no longer be read off the model, but a little fine-tuning brings it back",
  "not isolated": "removing it leaves memory that can still be read off the model, or harms what else the model knows",
  undecided: "the numbers of these seeds leave it open"
}

const known = <T>(one: Estimate | undefined, say: (one: Estimate) => T): ReadonlyArray<T> =>
  isKnown(one) ? [say(one)] : []

/** `0.070 [0.045, 0.095]` as percent: `7 % [5, 10]`. */
const share = (one: Estimate): string => {
  const whole = digits(0)
  return `${whole(100 * one.mean)} %` +
    (one.low === undefined || one.high === undefined ? "" : ` [${whole(100 * one.low)}, ${whole(100 * one.high)}]`)
}

const nats: Format = digits(2)

/** What came out, in sentences for people, with the numbers that matter. */
const answer = (report: IsolationReport): ReadonlyArray<string> => {
  const { relearning, subject, word } = report
  const panel = Tables.firstPanel(report)
  const states = Tables.statesOf(report)
  const stateOf = (arm: string) => states.find((one) => one.arm === arm)
  const about = stateOf(subject)
  const [standard, oracle] = [stateOf(STANDARD)?.own, stateOf(ORACLE)?.own]
  const loss = (one: Parameters<typeof Tables.valueOf>[0]) => Tables.valueOf(one, { group: panel, metric: "loss" })
  const strength = (one: Parameters<typeof Tables.valueOf>[0]) =>
    Tables.valueOf(one, { group: panel, metric: "extractionStrength" })
  const off = about !== undefined && isRemoved(about)
  const beside = (of: typeof loss, write: (one: Estimate) => string) =>
    [
      ...known(of(standard), (one) => `${write(one)} in the standard model`),
      ...known(of(oracle), (one) => `${write(one)} in the oracle, which never saw it repeated`)
    ].join(", ")
  const mean = (one: Estimate) => nats(one.mean)
  const cost = minus(Tables.valueOf(about?.removed, heldOutLoss), Tables.valueOf(standard, heldOutLoss))
  const relearned = relearning.find(({ arm }) => arm === subject)
  const checks = report.verdicts.find(({ arm }) => arm === subject)?.checks.length ?? 0
  return [
    `${
      word === "undecided"
        ? `Whether the memory of ${subject} is isolated is undecided`
        : `The memory of ${subject} is ${word}`
    }: ` +
    `${meanings[word]}.`,
    [
      ...known(Tables.recoveryOf(about?.removed, { group: panel, metric: "loss" }), (one) =>
        `${off ? "With sinks off" : "After removal"} ${share(one)} of the standard model's memory of ` +
        `${Tables.panelName(panel)} is left`),
      ...known(loss(about?.removed), (one) =>
        `its loss there is ${mean(one)} nats a token` +
        (beside(loss, mean) === "" ? "" : ` (${beside(loss, mean)})`)),
      ...known(strength(about?.removed), (one) =>
        `${share({ mean: one.mean, values: [] })} of such a sequence can be extracted` +
        (known(strength(standard), () =>
            0).length === 0
          ? ""
          : ` (standard: ${
            known(strength(standard), (it) => share({ mean: it.mean, values: [] })).join("")
          })`))
    ].join("; ") + ".",
    [
      ...known(cost, (one) =>
        `What it costs: held-out loss ${nats(Math.abs(one.mean))} nats a token ${
          one.mean < 0 ? "below" : "above"
        } the ` +
        "standard model's"),
      ...known(relearned?.recovered, (one) =>
        `fine-tuning on half of the removed sequences brings back ${share(one)} of the other half`)
    ].join("; ") + ".",
    checks > 0 && word === "isolated"
      ? `All checks passed, ${checks} of ${checks}; below they stand one by one.`
      : `${word === "undecided" ? "What must be decided first" : "What decided it"}: ${report.decidedBy}.`
  ].filter((sentence) => sentence !== ".")
}

const title = ({ subject, word }: IsolationReport): string => `Isolation checks of ${subject}: ${word}`

/** What the words of the answer mean. */
const words = (report: IsolationReport): ReadonlyArray<View.Term> => {
  const arms = new Set(report.subjects.map(({ arm }) => arm))
  const states = new Set(report.subjects.map(({ state }) => state))
  const sinks = states.has("off")
  const of: ReadonlyArray<readonly [there: boolean, ...View.Term]> = [
    [sinks, "own sinks", "each sequence's own sinks are on, as in training"],
    [sinks, "sinks off", "all sinks are switched off: memory is removed"],
    [states.has("placebo"), "placebo", "as many sinks on, of another sequence"],
    [arms.has(STANDARD), "standard", "the same model without sinks, trained on the same data: memorized, 100 %"],
    [arms.has(ORACLE), `oracle (${ORACLE})`, "standard, never shown the repeated sequences: nothing to remember, 0 %"],
    [true, "all repeated", "all sequences with several exposures, a sample of them: what learning curves are of"],
    [true, "all scored",
      "the half of them that no method tunes by, whatever their exposures: what sweeps and relearning are of"],
    [true, "most repeated", "of that half those with the most exposures: what tables and the verdict are of"],
    [true, "gap", "held-out loss minus that of the most repeated: how much better a model knows what it saw often"],
    [true, "recovery", "memory that is left: 1 as much as in the standard model, 0 as in the oracle"]
  ]
  return of.flatMap(([there, ...term]) => there ? [term] : [])
}

// ---------------------------------------------------------------------------------------------------------------
// All of it

export const view = (report: IsolationReport): View.View => {
  const panels = Tables.panelsOf(report)
  const panel = Tables.firstPanel(report)
  const charts = (of: (report: IsolationReport) => ReadonlyArray<Chart>) => View.charts(...of(report))
  return {
    title: title(report),
    head: answer(report),
    sections: [
      ...View.section("", [...View.charts(...Charts.lead(report)), ...View.terms(...words(report))]),
      ...View.section("The verdict", View.tables(...Tables.gate(report), Tables.verdicts(report))),
      ...View.section("All arms", panels.length === 0 ? [] : [
        ...View.tables(...panels.map((panel) => Tables.mainTable(report, panel))),
        ...View.terms(...Tables.legend(report, panel))
      ]),
      ...View.caveats(report),
      ...View.section(`Learning curves, over ${count(report.data.trainedTokens)} tokens`,
        View.drawn(charts(Charts.learning), Tables.curves(report))),
      ...View.section("Forgetting against degradation",
        View.drawn(charts(Charts.tradeoff), ...Tables.tradeoffs(report))),
      ...View.section("States of the sinks", View.tables(...Tables.ladder(report), ...Tables.interference(report))),
      ...View.section("Hygiene", View.tables(Tables.hygiene(report))),
      ...View.section("Extraction against exposures", View.drawn(charts(Charts.extraction), Tables.fits(report))),
      ...View.section("Relearning", report.relearning.length === 0 ? [] : [
        ...View.text(
          "Fine-tuning on half of the removed sequences, sinks off where there are any: how soon the other half is back."
        ),
        ...View.drawn(charts(Charts.relearning), Tables.relearning(report))
      ]),
      ...View.section("Attacks", Tables.attacks(report).length === 0 ? [] : [
        ...View.tables(...Tables.attacks(report)),
        ...View.text(
          "What an attack gets out of a model after removal, and not out of the oracle, was hidden and not removed. It is taken " +
            "to be hidden where the whole interval of its recovery is above the gate's bound, and removed where the whole is below; " +
            "an attack that finds nothing says nothing of what others find."
        ),
        ...View.tables(Tables.left(report))
      ]),
      ...View.section("Do localizers find the sinks?", View.tables(Tables.localizers(report))),
      ...View.section("Claims of the papers", View.tables(View.claimsTable(report.claims))),
      ...View.section("Theory, simulated", View.tables(Tables.theory(report)), { folded: true }),
      ...View.section("All metrics, in every state", View.tables(...Tables.everything(report)), { folded: true }),
      ...View.section("What the metrics are", View.tables({
        prose: true,
        head: ["", "", "unit", "more memory is"],
        rows: report.metrics.map((one) => [metricName(one), one.title, one.unit, one.memory])
      }), { folded: true }),
      ...View.section("Models and data", View.tables(Tables.costs(report), Tables.data(report)), { folded: true }),
      ...View.again("isolate")
    ],
    brief: [
      ...View.section("", View.tables(Tables.mainTable(report, panel, "short"))),
      ...View.section("", report.claims.length === 0
        ? []
        : View.text(View.claimsInShort(report.claims))),
      ...View.section("", View.caveatsInShort(report)),
      ...View.section("", View.terms(...Tables.legend(report, panel, "short")))
    ],
    config: report.config,
    footing: View.footing(report)
  }
}
