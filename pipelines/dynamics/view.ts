/** What a dynamics report shows: how memories come, fade and pile up, and by which numbers. Pure. */
import * as View from "../report/View.ts"
import * as Charts from "./charts.ts"
import type { DynamicsReport } from "./Report.ts"
import * as Tables from "./tables.ts"

/** What the words of the answer mean. */
const words = (report: DynamicsReport): ReadonlyArray<View.Term> => {
  const sinks = report.arms.some(({ name }) => Tables.hasSinks(report, name))
  const masks = new Set([...report.curves, ...report.retention].map(({ mask }) => mask))
  const of: ReadonlyArray<readonly [there: boolean, ...View.Term]> = [
    [sinks, "own sinks", "each sequence's own sinks are on, as in training"],
    [sinks, "sinks off", "all sinks are switched off"],
    [masks.has("placebo"), "placebo", "as many sinks on, of another sequence"],
    [masks.has("all"), "all sinks", "every sink on, scaled to how often it is lit"],
    [report.arms.some(({ name }) => name === "standard"), "standard",
      "the same model without sinks, trained on the same data"]
  ]
  return [...of.flatMap(([there, ...term]) => there ? [term] : []), ...Tables.legend(report)]
}

export const view = (report: DynamicsReport): View.View => {
  const when = (there: boolean, ...text: ReadonlyArray<string>) => there ? View.text(...text) : []
  const [norms, shares] = [Tables.wholeNorms(report), Tables.wholeShares(report)]
  const numbers = {
    norms: "Size of the weights",
    shares: "What parts add to the logit of the true token"
  }
  const retained = report.retention.length > 0
  const left = (title: string, few: View.Table, all: View.Table): ReadonlyArray<View.Block> => {
    const more = all.rows.length - few.rows.length
    return View.tables({
      ...few,
      head: [title, ...few.head.slice(1)],
      ...(more <= 0 ? {} : { caption: `${more} more rows in report.html` })
    })
  }
  return {
    title: "Forgetting dynamics: how memories come and go in training",
    head: Tables.sentences(report),
    sections: [
      ...View.section("", retained ? [...View.charts(Charts.lead(report)), ...View.terms(...words(report))] : []),
      ...View.section("After the last exposure", retained ?
        [
          ...View.tables(Tables.halfLives(report)),
          ...View.charts(Charts.retention(report))
        ] :
        []),
      ...View.caveats(report),
      ...View.section("Between exposures", [
        ...when(
          report.sawTeeth.length > 0,
          "Loss just before and just after an exposure, and the lowest until the next; amplitude: what the exposure took " +
            "off, before minus lowest; decay: what came back until the next. Means over the last third of the exposures, " +
            `nats a token${Tables.overSeeds(report)}.`
        ),
        ...View.drawn(View.charts(Charts.teeth(report)), Tables.lateTeeth(report))
      ]),
      ...View.section("Along training", [
        ...when(report.curves.length > 0, `Mean loss, nats a token${Tables.overSeeds(report)}.`),
        ...View.drawn(View.charts(Charts.training(report)), Tables.curves(report))
      ]),
      ...View.section("Where memories accumulate", View.drawn(
        View.charts(Charts.norms(report), Charts.shares(report)),
        Tables.norms(report, Tables.wholes(report.norms, norms), numbers.norms),
        Tables.shares(report, Tables.wholes(report.shares, shares), numbers.shares)
      )),
      ...View.section("What other data does to memories", [
        ...when(
          report.interference.length > 0,
          "Gradients of memorized sequences against those of the batches that were trained on meanwhile; predicted: the " +
            "rise of a sequence's loss by a step, to first order, observed: the rise that there was."
        ),
        ...View.tables(Tables.interference(report))
      ]),
      ...View.section("What parts hold", [
        ...when(
          report.contents.length > 0,
          "Purity: share of a neuron's top triggers that come from one source; agreement: share of them whose next token " +
            "is among the ten that the neuron promotes most."
        ),
        ...View.tables(Tables.contents(report))
      ]),
      ...View.section("Claims", View.tables(...(report.claims.length === 0 ? [] : [View.claimsTable(report.claims)]))),
      ...View.section("Fits, and all measures of what is left",
        View.tables(Tables.fits(report), Tables.retained(report), Tables.recognized(report)), {
        folded: true
      }),
      ...View.section("Layer by layer", View.tables(
        ...(norms.length === 0 ? [] : [Tables.norms(report, report.norms, numbers.norms)]),
        ...(shares.length === 0 ? [] : [Tables.shares(report, report.shares, numbers.shares)])
      ), { folded: true }),
      ...View.section(
        "Models, groups and data",
        View.tables(Tables.costs(report), Tables.groups(report), Tables.data(report)),
        { folded: true }
      ),
      ...(report.from === undefined ? View.again("dynamics") : [])
    ],
    brief: [
      ...View.section("", left("kept", Tables.halfLives(report, "short"), Tables.halfLives(report))),
      ...View.section("", left("saw-tooth", Tables.lateTeeth(report, "short"), Tables.lateTeeth(report))),
      ...View.section("", report.claims.length === 0 ? [] : View.text(View.claimsInShort(report.claims))),
      ...View.section("", View.caveatsInShort(report))
    ],
    config: report.config,
    footing: View.footing(report)
  }
}
