/** What an audit shows. Pure. */
import { plural } from "../../src/Terminal.ts"
import { digits } from "../report/Estimate.ts"
import * as View from "../report/View.ts"
import type { AuditReport, Known } from "./Report.ts"

const three = digits(3)

const between = ({ high, low, value }: Known, show: (value: number) => string): string =>
  value === null
    ? View.NOTHING
    : low === null || high === null
    ? show(value)
    : `${show(value)} [${show(low)}, ${show(high)}]`

const words: Readonly<Record<AuditReport["word"], string>> = {
  "no baseline":
    "there is no model that was never trained on it, so nothing can be said of what is still known: name one with --oracle",
  "nothing to recover": "the model did not know it better than one that was never trained on it",
  "not recovered": "none of these ways, with these budgets, recovered it",
  recovered: "part of what the model knew of it is still there",
  undecided: "these passages do not decide whether part of it is still there: more of them would"
}

/** What happened to the deleted, and to the others, in two sentences. */
export const headline = ({ deleted, measures, stayed, word }: AuditReport): ReadonlyArray<string> => {
  const [loss] = measures
  const same = stayed.reduce((sum, one) => sum + one.same, 0)
  const passages = stayed.reduce((sum, one) => sum + one.passages, 0)
  const names = View.listed(deleted.slice(0, 5).map(({ name }) => View.shortName(name))) +
    (deleted.length > 5 ? ` and ${deleted.length - 5} more` : "")
  return [
    `${names}: ${word}. The loss of ${
      plural(deleted.reduce((sum, one) => sum + one.passages, 0), "passage")
    } went from ${three(loss!.before)} to ${three(loss!.after)} nats a token` +
    (loss!.oracle === null ? "" : `; a model that was never trained on it has ${three(loss!.oracle)}`) +
    `: ${words[word]}.`,
    `Those who stay: ${same === passages ? "all" : `${same} of`} ${plural(passages, "passage")} ${
      same === 1 ? "is" : "are"
    } the same to the bit.`
  ]
}

export const view = (report: AuditReport): View.View => {
  const { deleted, measures, notInData, placebo, stayed, tolerance } = report
  const asked: View.Table = {
    caption: "What is still known of it",
    head: ["", "before", "after", "never trained", "remains", ""],
    rows: measures.map((
      { after, before, oracle, remains, title, word }
    ) => [title, three(before), three(after), oracle === null ? View.NOTHING : three(oracle), between(remains, three),
      word]
    )
  }
  const stays: View.Table = {
    caption: "Those who stay",
    head: ["blocks shared with it", "sources", "passages", "the same to the bit", "change of loss, nats a token"],
    rows: stayed.map((
      { change, passages, same, shared, sources }
    ) => [`${shared}`, `${sources}`, `${passages}`, `${same}`, between(change, three)])
  }
  const who: View.Table = {
    caption: "What was deleted",
    head: ["", "passages", "most like it, of those who stay"],
    rows: deleted.map(({ name, nearest, passages }) => [View.shortName(name), `${passages}`, View.shortName(nearest)])
  }
  const said = [
    ...(notInData.length === 0 ? [] : [
      `Deleted, too, but not in the data: ${View.listed(notInData.slice(0, 10).map(View.shortName))}` +
      (notInData.length > 10 ? ` and ${notInData.length - 10} more` : "") + ". Nothing is said of them."
    ]),
    ...(placebo === null ? [] : [
      `Placebo: with ${View.shortName(placebo.name)} deleted in its place, its loss changes by ${
        between(placebo.change, three)
      }.`
    ])
  ]
  const sections = [
    ...View.section("", [...View.tables(asked, stays), ...View.text(...said)]),
    ...View.section("Whose", View.tables(who)),
    ...View.section("Words", View.terms(
      ["not recovered",
        `the interval of what remains lies below ${tolerance}: under these ways of asking, and no others`],
      ["recovered", `it lies above ${tolerance}`],
      ["as it is used", "the deleted light no sink"],
      ["never trained", "a model that was never trained on it, asked in the same way"],
      ["fine-tuning",
        `on half of the passages at a rate of ${report.relearning.learningRate}, all sinks off; the other half is scored`],
      ["remains",
        "what the model knows more than one that was never trained on it, after the deletion as a share of before; intervals of " +
        "95 % by resampling passages, or sources where five and more were deleted"]
    ))
  ]
  return {
    title: "Audit of a deletion",
    head: headline(report),
    sections,
    brief: sections.slice(0, 1),
    config: { before: report.before, after: report.after, oracle: report.oracle, data: report.data,
      seqLen: report.seqLen, tolerance },
    footing: View.footing({ ...report, seeds: [report.seed] })
  }
}
