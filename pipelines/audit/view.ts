/** What an audit shows. Pure. */
import { plural } from "../../src/Terminal.ts"
import type { Line } from "../report/Chart.ts"
import { digits } from "../report/Estimate.ts"
import * as View from "../report/View.ts"
import type { AuditReport, Collateral, Known, Measure, State } from "./Report.ts"

const three = digits(3)
const percent = View.percent(0)

type Show = (value: number) => string

const plain = (one: Known | null, show: Show = three): string =>
  one === null || one.value === null ? View.NOTHING : show(one.value)

const between = (one: Known | null, show: Show = three): string =>
  one === null || one.value === null
    ? View.NOTHING
    : one.low === null || one.high === null
    ? show(one.value)
    // a unit need not be said three times
    : `${show(one.value)} [${show(one.low).replace(/ %$/, "")}, ${show(one.high).replace(/ %$/, "")}]`

/** How the model after it is asked, as a heading. */
const states: Readonly<Record<State, string>> = {
  used: "As it is used: the deleted light no sink",
  nearest: "With the sinks of the one most like it",
  off: "With no sinks",
  lit: "With the deleted's own sinks lit by force",
  relearned: "After fine-tuning",
  rounded8: "Rounded",
  rounded4: "Rounded"
}

/** What was found, as the second sentence of a report. */
const meaning = ({ measures, tolerance, word }: AuditReport): string => {
  const ways = View.unique(measures.map(({ name }) => name)).length
  const hits = measures.filter((one) => one.word === "recovered")
  const some = hits.slice(0, 4).map(({ remains, state, title }) =>
    `${title}${state === "used" ? "" : `, ${short[state]}`} (${plain(remains, percent)} remains)`
  )
  switch (word) {
    case "no baseline":
      return "There is no model that was never trained on it, so nothing can be said of what is still known: name one " +
        "with --oracle."
    case "nothing to recover":
      return "The model is not seen to have known it better than one that was never trained on it."
    case "not recovered":
      return `None of ${plural(ways, "way")} of asking, with these budgets, recovered more than ${
        percent(tolerance)
      } of ` +
        "the memory; of others nothing is said."
    case "recovered":
      return `Part of what the model knew of it is still there, as ${hits.length} of ${
        plural(measures.length, "question")
      } tell: ${View.listed([...some, ...(hits.length > some.length ? [`${hits.length - some.length} more`] : [])])}.`
    case "undecided":
      return "These passages do not decide whether part of it is still there: more of them would."
  }
}

/** States in a few words, behind a measure. */
const short: Readonly<Record<State, string>> = {
  used: "as it is used",
  nearest: "the nearest one's sinks on",
  off: "no sinks",
  lit: "its sinks lit by force",
  relearned: "relearned",
  rounded8: "rounded",
  rounded4: "rounded"
}

/** What happened to the deleted and to the others, in a sentence; then what that means. */
export const headline = (report: AuditReport): ReadonlyArray<string> => {
  const { deleted, masked, measures, stayed, word } = report
  const loss = measures.find(({ name, state }) => name === "loss" && state === "used")
  const sum = (of: (one: AuditReport["stayed"][number]) => number) => stayed.reduce((all, one) => all + of(one), 0)
  const [same, passages, sources] = [sum((one) => one.same), sum((one) => one.passages), sum((one) => one.sources)]
  const names = View.listed(deleted.slice(0, 5).map(({ name }) => View.shortName(name))) +
    (deleted.length > 5 ? ` and ${deleted.length - 5} more` : "")
  const went = loss === undefined ?
    "" :
    `: the loss of ${plural(deleted.reduce((sum, one) => sum + one.passages, 0), "passage")} went from ${
      plain(loss.before)
    } to ${plain(loss.after)} nats a token` +
    (loss.oracle === null ? "" : ` (a model that was never trained on it has ${plain(loss.oracle)})`)
  const stay = passages === 0 ?
    "" :
    `, and of the ${plural(sources, "source")} that stay ${same === passages ? "all" : `${same} of`} ${
      plural(passages, "passage")
    } ${same === 1 && passages > 1 ? "is" : "are"} the same to the bit`
  return [
    `${names}: ${word}${went}${stay}.`,
    meaning(report),
    ...(masked.length === 0 ? [] : [
      `The sinks of ${View.listed(masked.slice(0, 5).map(View.shortName))}${
        masked.length > 5 ? ` and ${masked.length - 5} more` : ""
      } are only masked, not erased: who has the weights can light them again.`
    ])
  ]
}

/** What is read first stands first: pages and terminals are narrow. */
const askedTable = (caption: string, measures: ReadonlyArray<Measure>): View.Table => ({
  caption,
  head: ["", "verdict", "remains", "before", "after", "never trained"],
  rows: measures.map((
    { after, before, oracle, remains, title, word }
  ) => [title, word, between(remains, percent), plain(before), plain(after), plain(oracle)])
})

const numbersTable = (measures: ReadonlyArray<Measure>): View.Table => ({
  caption: "With intervals",
  head: ["", "state", "unit", "of", "before", "another deleted", "after", "never trained"],
  rows: measures.map((
    { after, before, of, oracle, placebo, state, title, unit }
  ) => [title, short[state], unit, `${of}`, between(before), between(placebo), between(after), between(oracle)])
})

const policies = { keep: "shared sinks kept", take: "shared sinks taken" } as const

const collateralLines = (collateral: ReadonlyArray<Collateral>): ReadonlyArray<Line> =>
  (["keep", "take"] as const).flatMap((policy) =>
    ([["change", "all"], ["near", "those more like them"], ["far", "the others"]] as const).map((
      [field, who]
    ): Line => ({
      label: `${policies[policy]}: ${who}`,
      of: { policy: policies[policy], who },
      points: collateral.filter(({ shared }) => shared === policy).flatMap((one) => {
        const known = one[field]
        return known === null || known.value === null ? [] : [{
          x: one.deletions,
          y: known.value,
          ...(known.low === null || known.high === null ? {} : { low: known.low, high: known.high })
        }]
      })
    }))
  ).filter(({ of, points }) => points.length > 0 && (of["who"] === "all" || of["policy"] === policies.take))

export const view = (report: AuditReport): View.View => {
  const { bands, collateral, deleted, failures, measures, notAsked, notInData, notes, placebo, stayed, survivors,
    tolerance, truths } = report
  const inState = (...some: ReadonlyArray<State>) => measures.filter(({ state }) => some.includes(state))
  const asked = [
    askedTable(states.used, inState("used")),
    askedTable(states.nearest, inState("nearest")),
    askedTable(states.lit, inState("lit")),
    askedTable("With no sinks, after fine-tuning, and with rounded weights",
      inState("off", "relearned", "rounded8", "rounded4"))
  ]
  const stays: View.Table = {
    caption: "By what they share",
    head: ["blocks shared with it", "sources", "passages", "the same to the bit", "change of loss, nats a token"],
    rows: stayed.map((
      { change, passages, same, shared, sources }
    ) => [`${shared}`, `${sources}`, `${passages}`, `${same}`, between(change)])
  }
  const byLikeness: View.Table = {
    caption: "By how like it they are",
    head: ["", "similarity", "sources", "passages", "the same to the bit", "change of loss, nats a token"],
    rows: bands.map((
      { band, change, from, passages, same, sources, to }
    ) => [band, `${digits(2)(from)} to ${digits(2)(to)}`, `${sources}`, `${passages}`, `${same}`, between(change)])
  }
  const byNumber: View.Table = View.filled({
    caption: "By the number of deletions: rise of the loss of those who stay through all of them, nats a token",
    head: ["deleted", "shared sinks", "blocks erased", "all", "those more like them", "the others",
      "the same to the bit"],
    rows: collateral.map((
      { change, deletions, far, near, passages, same, shared, taken }
    ) => [`${deletions}`, shared === "keep" ? "kept" : "taken", `${taken}`, between(change), between(near),
      between(far), `${same} of ${passages}`]
    )
  })
  const each: View.Table = {
    head: ["", "similarity", "blocks shared", "passages", "the same to the bit", "change of loss, nats a token"],
    rows: survivors.map((
      { change, name, passages, same, shared, similarity }
    ) => [View.shortName(name), digits(2)(similarity), `${shared}`, `${passages}`, `${same}`, between(change)])
  }
  const factTable: View.Table = View.filled({
    head: ["", "facts", "before", "after", "nearest's sinks", "never trained"],
    rows: truths.map((
      { after, before, facts, kind, nearest, oracle }
    ) => [kinds[kind] ?? kind, `${facts}`, between(before), between(after), between(nearest), between(oracle)])
  })
  const who: View.Table = {
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
        between(placebo.change)
      }.`
    ]),
    ...notAsked.map(({ what, why }) => `Not asked: ${what}: ${why}.`),
    ...notes
  ]
  const failed = failures.map(({ arm, message }) => `Failed: ${arm}: ${message}`)
  const chart = View.charts({
    title: "What deletions cost those who stay",
    x: { title: "sources deleted", log: true },
    y: { title: "rise of their loss, nats a token", zero: true },
    facets: [],
    // a picture of nothing says no more than the table
    lines: collateral.some(({ change }) => change.value !== 0) ? collateralLines(collateral) : [],
    color: ["policy", "who"]
  })
  const words = View.terms(
    ["not recovered",
      `the interval of what remains lies below ${percent(tolerance)}: under these ways of asking, and no others`],
    ["recovered", "it lies above"],
    ["undecided", "neither, or there are fewer than six passages"],
    ["nothing to recover", "the model before is not seen to know it better than one that was never trained on it"],
    ["remains",
      "what the model knows more than one that was never trained on it, after the deletion as a share of before; intervals of " +
      "95 % by resampling passages, or sources where six and more were deleted; of shares no narrower than so many trials make them"],
    ["another deleted", "the placebo: the model before, with a source that was drawn deleted in its place"],
    ["never trained", "a model that was never trained on it, asked in the same way"],
    ["lit by force", "by who has the weights and does not keep to the deletion: what is only masked is there"],
    ["after fine-tuning",
      `${report.relearning.steps} steps on half of the passages at a rate of ${report.relearning.learningRate}, all sinks off; ` +
      "the other half is scored"],
    ["similarity", "a router's, of the passages that were looked at, from 0 to 1"]
  )
  const sections = [
    ...View.section("What is still known of it", [...View.tables(...asked),
      ...View.fold("Numbers", View.tables(numbersTable(measures)))]),
    ...View.section("Facts: ln of the truth ratio, right over wrong", View.tables(factTable)),
    ...View.section("What failed", View.text(...failed)),
    ...View.section("Those who stay", [
      ...View.tables(stays, byLikeness),
      ...View.drawn(chart, byNumber),
      ...View.fold("Each of them", View.tables(each))
    ]),
    ...View.section("Whose", [...View.tables(who), ...View.text(...said)]),
    ...View.section("Ways of asking", View.terms(
      ...View.unique(measures.flatMap(({ how, title }) => how === undefined ? [] : [JSON.stringify([title, how])]))
        .map((text) => JSON.parse(text) as View.Term)
    )),
    ...View.section("Words", words)
  ]
  return {
    title: "Audit of a deletion",
    head: headline(report),
    sections,
    brief: [
      ...View.section("", [
        ...View.tables(askedTable(states.used, inState("used")), askedTable("Otherwise", [
          ...["nearest", "lit"].flatMap((state) =>
            measures.filter((one) => one.name === "loss" && one.state === state)
              .map((one) => ({ ...one, title: `loss, ${short[one.state]}` }))
          ),
          ...inState("relearned", "rounded8", "rounded4")
        ])),
        ...View.tables(stays),
        ...View.text(...failed, ...said)
      ])
    ],
    config: { before: report.before, after: report.after, oracle: report.oracle, data: report.data,
      seqLen: report.seqLen, tolerance },
    footing: View.footing({ ...report, seeds: [report.seed] })
  }
}

/** Kinds of facts in words. */
const kinds: Readonly<Record<string, string>> = {
  unique: "of the deleted alone",
  shared: "of the deleted, stated by others, too",
  inferred: "of the deleted, following from what others state",
  stay: "of those who stay"
}
