/** What the report of a study, or of several, shows. Pure. */
import type { Result } from "../report/Claim.ts"
import * as View from "../report/View.ts"
import type { StudiesReport, StudyFound, StudyReport } from "./Report.ts"

/** What a result says of the paper's finding. */
const words: Readonly<Record<Result, string>> = {
  held: "held here",
  "did not hold": "did not hold here",
  "not decided": "is not decided here",
  "not tested": "was not tested here"
}

const aboutOf: Readonly<Record<StudyFound["claims"][number]["about"], string>> = {
  paper: "the paper",
  sinks: "sinks",
  control: "control"
}

/** A sentence that ends once. */
const ended = (text: string): string => /[.?!]$/.test(text) ? text : `${text}.`

/** The verdict, and what sinks change. */
const answers = ({ claims, finding, word }: StudyFound): ReadonlyArray<string> => [
  `The paper's finding ${words[word]}: ${ended(finding)}`,
  ...claims.filter(({ about }) => about === "sinks").map(({ claim, result }) =>
    `${result[0]!.toUpperCase()}${result.slice(1)}: ${ended(claim)}`
  )
]

const claimsTable = ({ claims }: StudyFound): View.Table => ({
  prose: true,
  head: ["about", "claim", "here", "evidence"],
  rows: claims.map(({ about, claim, evidence, result }) => [aboutOf[about], claim, result, evidence])
})

/** All of a study below its answers. */
const body = (found: StudyFound): ReadonlyArray<View.Block> => [
  ...View.drawn(View.charts(...found.charts), ...found.tables),
  ...View.terms(...Object.entries(found.terms))
]

const SEEDS = "one seed is not a result: nothing has an interval over seeds"

const caveatsOf = ({ failures, seeds }: Pick<StudyReport, "failures" | "seeds">) => ({
  failures,
  warnings: seeds.length < 2 ? [SEEDS] : []
})

/** One study. */
export const view = (report: StudyReport): View.View => {
  const caveats = caveatsOf(report)
  return {
    title: report.title,
    head: [report.question, ...answers(report)],
    sections: [
      ...View.section("", body(report)),
      ...View.section("What was claimed, and how it went", View.tables(claimsTable(report))),
      ...View.section("What this does not say", View.text(...report.limits)),
      ...View.caveats(caveats),
      ...View.section("The paper", View.text(report.paper)),
      ...View.again(`study ${report.study}`)
    ],
    brief: [
      ...View.section("", View.tables(...report.tables)),
      ...View.section("", View.text(
        ...report.claims.map(({ claim, evidence, result }) => `${result}: ${claim} (${evidence})`)
      )),
      ...View.section("", View.caveatsInShort(caveats))
    ],
    config: report.config,
    footing: View.footing(report)
  }
}

/** All studies on one page: of each the question, the figure and the verdict. */
export const viewOfAll = (report: StudiesReport): View.View => {
  const { studies } = report
  const caveats = caveatsOf(report)
  const table: View.Table = {
    prose: true,
    head: ["study", "question", "the paper's finding", "here"],
    rows: studies.map(({ finding, question, study, word }) => [study, question, finding, word])
  }
  const count = (word: Result) => studies.filter((one) => one.word === word).length
  const told = (["held", "did not hold", "not decided", "not tested"] as const)
    .filter((word) => count(word) > 0).map((word) => `${word}: ${count(word)}`)
  return {
    title: "Papers on memorization, once more in miniature",
    head: [`Of ${View.several(studies.length, "finding")} of papers, here ${told.join("; ")}.`],
    sections: [
      ...View.section("", View.tables(table)),
      ...studies.flatMap((found) =>
        View.section(found.title, [
          ...View.text(found.question, ...answers(found)),
          ...body(found),
          ...View.fold("What was claimed, and how it went", View.tables(claimsTable(found))),
          ...View.fold("What this does not say", View.text(...found.limits)),
          ...View.text(`${ended(found.paper)} Alone: memsinks study ${found.study}`)
        ])
      ),
      ...View.caveats(caveats),
      ...View.again("study --all")
    ],
    brief: [
      ...View.section("", View.tables({
        head: ["study", "", "numbers"],
        rows: studies.map(({ numbers, study, word }) => [study, word, String(Object.keys(numbers).length)])
      })),
      ...View.section("", View.caveatsInShort(caveats))
    ],
    config: report.config,
    footing: View.footing(report)
  }
}
