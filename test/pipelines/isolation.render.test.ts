import { beforeAll, describe, expect, it } from "vitest"
import { claimsOf } from "../../pipelines/isolation/Claims.ts"
import { heldOutLoss, repeatedLoss } from "../../pipelines/isolation/Metrics.ts"
import type { IsolationReport } from "../../pipelines/isolation/Report.ts"
import { view } from "../../pipelines/isolation/view.ts"
import { estimate } from "../../pipelines/report/Estimate.ts"
import * as Render from "../../pipelines/report/render.ts"
import { stripAnsi } from "../../src/Terminal.ts"
import { reportOf } from "../support/isolationReport.ts"

const toTerminal = (it: IsolationReport, options: Render.TerminalOptions) => Render.toTerminal(view(it), options)
const toMarkdown = (it: IsolationReport) => Render.toMarkdown(view(it))
/** Its text as it was written: what keeps numbers and their units on one line is left out. */
const toHtml = async (it: IsolationReport) =>
  (await Render.toHtml(view(it))).replaceAll("\u00a0", " ").replaceAll("<wbr>", "")

const base = { ...reportOf(), claims: claimsOf(reportOf()) }

/** Nothing but what a report of one arm has at least. */
const bare = reportOf({}, {
  subjects: reportOf().subjects.filter(({ arm }) => arm === "standard"),
  verdicts: [],
  arms: [],
  curves: [],
  tradeoffs: [],
  extraction: [],
  relearning: [],
  interference: [],
  hygiene: [],
  localizers: [],
  theory: [],
  claims: [],
  warnings: [],
  failures: []
})

/** With a figure of each kind, which takes time to draw. */
const few: IsolationReport = {
  ...base,
  curves: base.curves.slice(0, 1),
  tradeoffs: base.tradeoffs.filter(({ panel }) => panel === "natural"),
  extraction: base.extraction.slice(0, 1),
  relearning: base.relearning.map((one) => ({ ...one, points: one.points.slice(0, 5) }))
}

const renderings: ReadonlyArray<readonly [string, (report: IsolationReport) => Promise<string>]> = [
  ["terminal", async (it) => toTerminal(it, { color: false })],
  ["Markdown", async (it) => toMarkdown(it)],
  ["HTML", toHtml]
]

const headOf = (text: string): string | undefined => (/<h1>(.*)<\/h1>/.exec(text) ?? /^(?:# )?(.*)$/m.exec(text))?.[1]

describe.each(renderings)("an isolation report as %s", (name, render) => {
  it.each(["isolated", "hidden", "not isolated", "undecided"] as const)("is headed by the word %s and by why",
    async (word) => {
      const text = await render(
        reportOf({}, { ...bare, word, decidedBy: "the check of it is 0.4, allowed at most 0.2" })
      )
      expect(headOf(text)).toBe(`Isolation checks of sinks: ${word}`)
      expect(text.replace(/\s+/g, " ")).toContain(
        word === "undecided" ? "is isolated is undecided: " : `The memory of sinks is ${word}: `
      )
      expect(text.indexOf("the check of it is 0.4, allowed at most 0.2.")).toBeGreaterThan(0)
      expect(text.indexOf("the check of it")).toBeLessThan(text.indexOf("held-out loss"))
    })

  it("tells the main numbers of every arm with their intervals", async () => {
    const text = await render(few)
    for (const arm of new Set(base.subjects.map(({ arm }) => arm))) expect(text).toContain(arm)
    // held-out and repeated loss of sinks off, its strength of extraction and recovery
    for (const value of ["2.951", "2.793", "0.082", "0.070"]) expect(text).toContain(`${value} ± 0.025`)
    expect(text.replace(/\s+/g, " ")).toContain("95 % interval over 3 seeds")
  })

  it("has no intervals where there is one seed", async () => {
    const metrics = [{ ...heldOutLoss, value: estimate([3]) }, { ...repeatedLoss, value: estimate([1.5]),
      recovery: estimate([0.5]) }]
    const subjects = base.subjects.map((one) => ({ ...one, metrics }))
    const text = await render(reportOf({}, { ...bare, subjects, seeds: [11] }))
    expect(text).toContain("1.500")
    expect(text).not.toContain("±")
  })

  it("says what failed, and what to beware of", async () => {
    const text = (await render(few)).replace(/\s+/g, " ")
    expect(text).toContain("training diverged at step 5: loss NaN")
    expect(text).toContain("Formulaic text is said verbatim by the oracle, too.")
  })

  it("never shows what is not known as a number", async () => {
    const unknown = estimate([null, null, null])
    const broken = (value: unknown): unknown =>
      Array.isArray(value)
        ? value.map(broken)
        : typeof value !== "object" || value === null
        ? value
        : "values" in value && "mean" in value
        ? unknown
        : Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, broken(inner)]))
    const text = await render({ ...(broken(few) as IsolationReport), failures: [], decidedBy: "nothing", claims: [] })
    expect(text).not.toMatch(/NaN|undefined|Infinity|null/)
    expect(text).toContain("standard")
  })

  it("leaves out what there is nothing of", async () => {
    const [full, less] = [await render(few), await render(bare)]
    const words = name === "terminal"
      ? ["Warning", "failed", "Claims"]
      : [
        "Warnings",
        "What failed",
        "The verdict",
        "Learning curves",
        "Forgetting against",
        "States of the sinks",
        "Hygiene",
        "Extraction against",
        "Relearning",
        "Do localizers",
        "Theory",
        "Claims"
      ]
    for (const word of words) expect([word, full.includes(word), less.includes(word)]).toEqual([word, true, false])
  })

  it("takes nothing in the data for markup", async () => {
    const text = await render(reportOf({}, { ...bare, warnings: ["a <b>bold</b> | *claim*"], decidedBy: "<i>" }))
    if (name === "HTML") expect(text).toContain("a &lt;b&gt;bold&lt;/b&gt; | *claim*")
    if (name === "Markdown") expect(text).toContain("a \\<b\\>bold\\</b\\> \\| \\*claim\\*")
    if (name === "terminal") expect(text).toContain("a <b>bold</b> | *claim*")
    if (name === "HTML") expect(text).not.toContain("<script")
  })
})

describe("what a report tells in full", () => {
  const markdown = toMarkdown(base)

  it("has T1 for natural sequences and canaries", () => {
    const head = /^\|  \| held-out loss \|.*$/m.exec(markdown)![0]
    expect(head).toBe(
      "|  | held-out loss | most repeated, on | most repeated, off | gap closed | EM | ES | greedy@16 | np@16 | MIA AUC " +
        "| TPR at 1 % | recovery | tokens/s |"
    )
    expect(markdown).toContain("Scored on repeated natural text")
    expect(markdown).toContain("Scored on canaries (random tokens)")
    // gap of standard 2.95, of sinks off 2.951 - 2.7935
    expect(markdown).toContain("\n| sinks | 2.951 ± 0.025 | 0.020 ± 0.025 | 2.793 ± 0.025 | 0.947 ± 0.000 |")
    expect(markdown).toMatch(/^\| standard \|.*\| 7,901 ± 12 \|$/m)
  })

  it("gives no speed to what was not trained", () => {
    const still = { tokens: 0, tokensPerSecond: estimate([0, 0, 0]) }
    const arms = base.arms.map((arm) => arm.kind === "localizer" ? { ...arm, ...still } : arm)
    expect(toMarkdown({ ...base, arms })).toMatch(/^\| integratedGradients \| 3\.250 .* \| - \|$/m)
  })

  it("leaves columns out that nothing is known of", () => {
    const metrics = base.metrics.filter(({ metric }) => metric !== "np")
    expect(toMarkdown({ ...base, metrics })).not.toContain("| np@16")
  })

  it("tells every claim with its evidence, and how all went in short", () => {
    for (const { claim, evidence, number, result } of base.claims) {
      const row = markdown.split("\n").find((line) => line.startsWith(`| ${number} | ${claim.slice(0, 9)}`))
      expect(row).toContain(`| ${result} |`)
      expect(row!.replaceAll("\\", "")).toContain(evidence)
    }
    expect(toTerminal(base, { color: false }).replace(/\s+/g, " ")).toContain("19, 20; not tested: 14.")
  })

  it("tells the checks of the gate, and those that were not run", () => {
    expect(markdown).toContain("| recovery of natural.np@16 | pass | 0.070 ± 0.025 | at most 0.2 | not isolated |")
    expect(markdown).toContain("| held-out cost | not run |")
  })

  it("says in which seed a check of hygiene failed, and at which step an inequality", () => {
    expect(markdown).toContain("| causality | sinks | pass | 0 | 0 |")
    const hygiene = base.hygiene.map((one) =>
      one.seed === 12 ? { ...one, checks: one.checks.map((check) => ({ ...check, passed: false, value: 0.25 })) } : one
    )
    const theory = base.theory.map((one) => ({
      ...one,
      holds: false,
      inequalities: one.inequalities.map((it) => ({ ...it, holds: false, failedAt: 17 }))
    }))
    const failed = toMarkdown({ ...base, hygiene, theory })
    expect(failed).toContain("| causality | sinks | FAIL in seed 12 | 0.25 | 0 |")
    expect(failed).toContain("FAILS at step 17")
    expect(markdown).not.toContain("FAIL")
  })

  it("tells fits, relearning, interference, localizers and costs", () => {
    expect(markdown).toContain(
      "| sinks | own sinks | natural | extractionStrength | 0.140 \\[0.131, 0.149\\] | 0.020 | 0.987 |"
    )
    expect(markdown).toContain("| npo | own sinks | 6, \\> 8, 7 | 0.110 ± 0.025 | 0.910 ± 0.025 |")
    expect(markdown).toContain("| loss with own sinks and those of 100 others | 0.140 ± 0.025 |")
    expect(markdown).toContain("| integratedGradients | sinks | 0.410 ± 0.025 | 0.016 |")
    expect(markdown).toContain("| sinks | sinks off | 2.951 ± 0.025 | 2.793 ± 0.025 | 0.082 ± 0.025 | 0.070 ± 0.025 |")
    expect(markdown).toContain("| npo | step 8 at 0.0005 | 0.500 ± 0.002 | 2.800 ± 0.025 |")
    expect(markdown).toContain("| sequences seen 64 times | 8 |")
  })

  it("folds details, in pairs that close", async () => {
    for (const text of [markdown, await toHtml(base)]) {
      const [opened, closed] = [text.match(/<details>/g)!.length, text.match(/<\/details>/g)!.length]
      expect(opened).toBe(closed)
      expect(opened).toBeGreaterThan(4)
    }
  })

  it("is short for a terminal, and in colour only where that is wanted", () => {
    const text = toTerminal(base, { color: true, width: 80 })
    expect(stripAnsi(text)).toBe(toTerminal(base, { color: false, width: 80 }))
    expect(text).not.toBe(stripAnsi(text))
    expect(stripAnsi(text).split("\n").length).toBeLessThan(80)
    for (const width of [40, 80, 100]) {
      const lines = toTerminal(base, { color: false, width }).split("\n")
      expect(lines.filter((line) => line.length > width)).toEqual([])
    }
    expect(toTerminal(base, { color: false })).not.toContain("tokens/s  ")
  })
})

describe("the figures of the HTML page", () => {
  let html = ""
  let figures: ReadonlyArray<readonly [title: string, svg: string]> = []
  beforeAll(async () => {
    html = await toHtml(base)
    figures = [...html.matchAll(/<div role="img" aria-label="([^"]*)">(<svg[\s\S]*?<\/svg>)<\/div>/g)]
      .map(([, title, svg]) => [title!, svg!] as const)
    keys = new Map([...html.matchAll(/<figcaption>([^<]*)<.*?<ul class="key">(.*?)<\/ul>/gs)]
      .map(([, title, key]) => [title!, [...key!.matchAll(/<\/svg> ([^<]*)</g)].map(([, label]) => label!)]))
  })
  let keys: ReadonlyMap<string, ReadonlyArray<string>> = new Map()
  const figure = (title: RegExp) => figures.find(([one]) => title.test(one))![1]
  const keyOf = (title: RegExp) => [...keys].find(([one]) => title.test(one))![1]
  const lines = (svg: string) => (svg.match(/aria-roledescription="line mark"/g) ?? []).length

  it("leave no empty room beside the long title of an axis, which is wrapped", () => {
    for (const [title, svg] of figures) {
      expect([title, Number(/^<svg [^>]*?height="(\d+)"/.exec(svg)![1]) < 360]).toEqual([title, true])
    }
    expect(figure(/^Forgetting/)).toMatch(/<tspan[^>]*>loss of all scored minus the<\/tspan>/)
  })
  it("are those of the learning curves, the trade-off, extraction and relearning, each named", () => {
    expect(figures.map(([title]) => title)).toEqual([
      "Loss on all repeated sequences, along training",
      "Loss on all repeated sequences, along training",
      "Held-out loss, along training",
      "Training loss",
      "Loss on one sequence, around its exposures",
      "Forgetting of repeated natural text against degradation, up to 0.60 nats (large: chosen)",
      "Forgetting of canaries (random tokens) against degradation, up to 0.20 nats (large: chosen)",
      "extractionStrength against exposures, repeated natural text",
      "extractionStrength against exposures, canaries (random tokens)",
      "Loss of the half that is not trained on, at learning rate 0.0001",
      "Loss of the half that is not trained on, at learning rate 0.0005"
    ])
    const swatches = html.match(/<svg width="34"/g)!.length
    expect(html.match(/<svg/g)).toHaveLength(figures.length + swatches)
  })

  it("have a line for each arm and state, and for each learning rate of an unlearner", () => {
    expect(lines(figure(/^Loss on all repeated/))).toBe(4)
    expect(lines(figure(/^Held-out/))).toBe(4)
    // two localizers, two rates of npo, and standard, oracle and sinks, which are points
    expect(lines(figure(/natural text against degradation/))).toBe(7)
    expect(lines(figure(/^extractionStrength against exposures, canaries/))).toBe(2)
    expect(lines(figure(/0\.0001$/))).toBe(3)
  })

  it("name the arms, those of one plane all, but no variants", () => {
    for (const arm of ["integratedGradients", "hardConcrete", "npo", "standard", "neverRepeated", "sinks"]) {
      expect(keyOf(/natural text against degradation/).join("; ")).toContain(arm)
    }
    expect([...keys.values()].flat().join("; ")).not.toContain("p=0.3")
    expect(keyOf(/^Loss on all repeated/)).toEqual(["standard", "sinks, own sinks", "sinks, sinks off",
      "neverRepeated (oracle)"])
  })

  it("can be told apart in grey: of the lines of a key no two have the same marker and dashes", () => {
    for (const [, key] of html.matchAll(/<ul class="key">(.*?)<\/ul>/gs)) {
      const looks = [...key!.matchAll(/stroke-dasharray="([^"]*)".*? d="([^"]*)" fill/g)].map(([, dash, marker]) =>
        dash! + marker!
      )
      expect(looks.length).toBeGreaterThan(0)
      expect(new Set(looks).size).toBe(looks.length)
    }
  })

  it("show no point far beyond where a rule stopped", async () => {
    const far = base.tradeoffs.map((one) =>
      one.arm !== "npo" ? one : {
        ...one,
        points: one.points.map((point, i) => i === 1 ? { ...point, degradation: estimate([900, 900, 900]) } : point)
      }
    )
    const svg = /degradation[^>]*">(<svg[\s\S]*?<\/svg>)/.exec(await toHtml({ ...base, tradeoffs: far }))![1]
    expect(svg).toContain(">0.5</text>")
    expect(svg).not.toContain(">800</text>")
  })

  it("can be read on light and dark ground", () => {
    const texts = figures.flatMap(([, svg]) => svg.match(/<text[^>]*>/g)!)
    expect(texts.length).toBeGreaterThan(50)
    expect(texts.filter((tag) => !tag.includes("currentColor"))).toEqual([])
    expect(html).toContain("prefers-color-scheme: dark")
  })

  it("need nothing from elsewhere", () => {
    expect(html).not.toMatch(/<script|<link|<img|@import|url\(|(src|href)=/)
    expect(figures.map(([, svg]) => svg).join("")).not.toMatch(/ id="/)
  })
})
