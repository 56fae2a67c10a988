import { describe, expect, it } from "vitest"
import { uptoEnd } from "../../pipelines/pretrain/measure.ts"
import type { PretrainReport } from "../../pipelines/pretrain/Report.ts"
import { verbatim, view } from "../../pipelines/pretrain/view.ts"
import * as Render from "../../pipelines/report/render.ts"
import { stripAnsi } from "../../src/Terminal.ts"
import { report, twoSeeds } from "../fixtures/report.ts"

const toTerminal = (it: PretrainReport, options: Render.TerminalOptions) => Render.toTerminal(view(it), options)
const toMarkdown = (it: PretrainReport) => Render.toMarkdown(view(it))
/** Its text as it was written: what keeps numbers and their units on one line is left out. */
const toHtml = async (it: PretrainReport) =>
  (await Render.toHtml(view(it))).replaceAll("\u00a0", " ").replaceAll("<wbr>", "")

/** Numbers of a report with where they stand; of curves and configuration none. */
const numbers = (value: unknown, path = ""): ReadonlyArray<readonly [path: string, value: number]> => {
  if (typeof value === "number") return [[path, value]]
  if (typeof value !== "object" || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) =>
    key === "curves" || key === "config" ? [] : numbers(inner, `${path}.${key}`)
  )
}

/** How a number may be written. */
const spellings = (value: number): ReadonlyArray<string> => [
  value.toFixed(3),
  value.toFixed(1),
  `${(100 * value).toFixed(1)} %`,
  value.toLocaleString("en")
]

const missing = (text: string, wanted: ReadonlyArray<readonly [string, number]>): ReadonlyArray<string> => {
  const words = new Set(text.match(/\d+(,\d{3})*(\.\d+)?( %)?/g)!.flatMap((word) => [word, word.replace(" %", "")]))
  return wanted.filter(([, value]) => !spellings(value).some((word) => words.has(word))).map(([path]) => path)
}

// a seed's own speed and time are told only where there are several
const wanted = numbers({ ...report, perSeed: report.perSeed.map(({ seconds, tokensPerSecond, ...rest }) => rest) })

const renderings: ReadonlyArray<readonly [string, (report: PretrainReport) => Promise<string>]> = [
  ["terminal", async (it) => toTerminal(it, { color: false })],
  ["Markdown", async (it) => toMarkdown(it)],
  ["HTML", toHtml]
]

describe.each(renderings)("a report as %s", (_, render) => {
  it("holds every number", async () => {
    expect(wanted.length).toBeGreaterThan(50)
    expect(missing(await render(report), wanted)).toEqual([])
  })

  it("tells what was removed in plain words", async () => {
    const text = (await render(report)).replace(/\s+/g, " ")
    expect(text).toContain("Switching the sinks off closes 93.0 % of the standard model's memorization gap")
    expect(text).toContain("at a held-out loss 0.053 above the standard model's")
  })

  it("tells mean and spread over seeds, and every seed's gap", async () => {
    const text = (await render(twoSeeds)).replace(/\s+/g, " ")
    // 0.93 and 0.97; 2.555 and 2.595
    expect(text).toContain("closes 95.0 % ± 25.4 % (mean and 95 % interval, Student's t over 2 seeds)")
    expect(text).toContain("2.575 ± 0.254")
    expect(text).toContain("2.595")
    expect(text).toContain("seeds 11, 12,")
    expect(await render(report)).not.toContain("±")
  })

  it("has a row a source of a run by source, and says what is left out", async () => {
    const sources = Array.from({ length: 25 }, (_, i) => ({
      id: `${i}`,
      name: `book ${i}`,
      documents: 3,
      tokens: 900 - i,
      heldOutSequences: i % 2,
      heldOut: i % 2 === 0 ? {} : { own: 2.1111, off: 3.2222 + i / 10, placebo: 2.9 }
    }))
    const text = (await render({ ...report, perSeed: [{ ...report.perSeed[0]!, sources }] })).replace(/\s+/g, " ")
    expect(text).toContain("book 19")
    expect(text).not.toContain("book 20")
    expect(text).toContain("5.122")
    expect(text).toContain("the 20 sources with most tokens of 25; report.json has the other 5, too")
  })

  it("shows a baseline that was trained alone", async () => {
    const perSeed = [{
      ...report.perSeed[0]!,
      gapClosed: undefined,
      continuation: undefined,
      extraction: {},
      curves: [],
      gaps: {},
      repeated: {},
      heldOut: { standardActiveWidth: 3.4567 }
    }] as unknown as PretrainReport["perSeed"]
    const { gapClosed: _, ...rest } = report
    const arms = [{ ...report.arms[0]!, name: "standardActiveWidth" }]
    const alone = { ...rest, arms, repeated: {}, gaps: {}, extraction: {}, heldOut: perSeed[0]!.heldOut, perSeed }
    const text = (await render(alone)).replace(/\s+/g, " ")
    expect(text).toContain("held-out loss of standard, active width 3.457 nats a token")
    expect(text).not.toContain("own sinks")
  })

  it("tells of arms alone what they have, and nothing else", async () => {
    const { gapClosed: _, ...first } = report.perSeed[0]!
    const { gapClosed: __, ...rest } = report
    const { off, own, placebo } = report.heldOut
    const parts = {
      repeated: {},
      heldOut: { off: off!, own: own ?? 3.333, placebo: placebo! },
      gaps: {},
      extraction: {}
    }
    const { continuation: ___, ...silent } = first
    const alone: PretrainReport = { ...rest, ...parts, perSeed: [{ ...silent, ...parts }], arms: [report.arms[1]!] }
    const text = (await render(alone)).replace(/<style>[\s\S]*<\/style>/, "").replace(/\s+/g, " ")
    expect(text).toContain("Trained: sinks on 172,033 tokens; held-out loss with sinks off 3.019 nats a token.")
    for (const shown of ["3.333", "3.128", "sinks off", "placebo"]) expect(text).toContain(shown)
    for (const absent of ["undefined", "NaN", "A repeated passage", "2.966", "gap", "verbatim"]) {
      expect(text).not.toContain(absent)
    }
  })

  it("admits when there is no gap to close, or when it was not closed", async () => {
    const without = { ...report, gaps: { ...report.gaps, standard: -0.01 } }
    expect((await render(without)).replace(/\s+/g, " ")).toContain("has no memorization gap (-0.010 nats a token)")
    const widened = { ...report, gapClosed: -0.2, perSeed: [{ ...report.perSeed[0]!, gapClosed: -0.2 }] }
    expect((await render(widened)).replace(/\s+/g, " ")).toContain("does not close the standard model's memorization")
  })

  it("leaves out baselines that were not trained", async () => {
    const { deduplicated, standardActiveWidth, ...heldOut } = report.heldOut
    const text = await render({ ...report, heldOut, perSeed: [{ ...report.perSeed[0]!, heldOut }] })
    expect(text).not.toContain("seen once")
    expect(text).not.toContain("as wide as")
    expect(text).toContain("sink model, sinks off")
  })
})

describe("a report on the terminal", () => {
  const memorized = "the State of the Union is strong"

  it("dims the prompt and marks what is verbatim from the training text", () => {
    const text = toTerminal(report, { color: true, width: 200 })
    expect(text).toContain("\u001b[2mMy fellow citizens, <I> report that \u001b[22m\u001b[30;43mthe State of")
    expect(text).toContain("\u001b[39;49m & then it went astray")
    expect(text.split("\u001b[22mthere is of the men and in a nation")).toHaveLength(2)
  })

  it("marks it with brackets where there is no colour", () => {
    const text = toTerminal(report, { color: false, width: 200 })
    expect(text).not.toContain("\u001b")
    expect(text).toContain(`[${memorized}, and our people are prosperous and free.]`)
    expect(text).toContain("[the State of the Union is stron] & then")
  })

  it("keeps all within the width, tables too", () => {
    for (const line of toTerminal(report, { color: true, width: 60 }).split("\n")) {
      expect(stripAnsi(line).length).toBeLessThanOrEqual(60)
    }
  })
})

describe("a report as HTML", () => {
  it("needs nothing else: no scripts, no addresses but the names of XML namespaces", async () => {
    const html = await toHtml(twoSeeds)
    expect(html).not.toMatch(/<(script|link|img|iframe|object|embed|base)\b/i)
    expect(html).not.toMatch(/\b(src|href|on\w+)\s*=/i)
    expect(html).not.toMatch(/@import|url\(/i)
    const withoutNamespaces = html.replace(/xmlns(:\w+)?="http:\/\/www\.w3\.org\/[\w/]+"/g, "")
    expect(withoutNamespaces).not.toMatch(/https?:|\/\/\w/)
  })

  it("draws the training losses, and repeated and held-out losses with sinks on and off", async () => {
    const html = await toHtml(report)
    const charts = html.match(/<svg [^>]*class="marks"[\s\S]*?<\/svg>/g)!
    expect(charts).toHaveLength(2)
    const lines = (svg: string) => svg.match(/aria-roledescription="line mark"/g)?.length
    expect(charts.map(lines)).toEqual([6, 2])
    for (const label of ["standard, repeated", "own sinks, repeated", "sinks off, held out"]) {
      expect(html).toContain(`</svg> ${label}</li>`)
    }
    // text must follow the page from light to dark
    expect(charts.join("").match(/<text[^>]*>/g)!.filter((tag) => !tag.includes("currentColor"))).toEqual([])
    const two = (await toHtml(twoSeeds)).match(/<svg [^>]*class="marks"[\s\S]*?<\/svg>/g)!
    expect(two.map(lines)).toEqual([12, 4])
  })

  it("has no charts where nothing was recorded", async () => {
    expect(await toHtml({ ...report, perSeed: [{ ...report.perSeed[0]!, curves: [] }] })).not.toContain("<svg")
  })

  it("escapes what models and adapters say", async () => {
    const html = await toHtml(report)
    expect(html).toContain("&lt;I&gt; report that")
    expect(html).toContain("Some &lt;Adapter&gt;")
    expect(html).not.toMatch(/<I>|<Adapter>/)
  })
})

describe("verbatim text", () => {
  const truth = "four score and seven years ago"

  it("is found wherever it stands, if long enough not to be chance", () => {
    expect(verbatim("well, score and seven yes, years ago", truth)).toEqual([
      { text: "well,", known: false },
      { text: " score and seven ye", known: true },
      { text: "s, years ago", known: false }
    ])
    expect(verbatim(truth, truth)).toEqual([{ text: truth, known: true }])
    expect(verbatim("", truth)).toEqual([])
    expect(verbatim("abc", "")).toEqual([{ text: "abc", known: false }])
  })
})

it("a continuation that is shown ends with its text, unless the sequence itself goes on behind an end", () => {
  const [added, end] = [Uint32Array.of(5, 9, 0, 0, 7), 0]
  expect([...uptoEnd(added, Uint32Array.of(5, 6, 7), end)]).toEqual([5, 9, 0])
  expect([...uptoEnd(added, Uint32Array.of(5, 0, 7), end)]).toEqual([...added])
  expect([...uptoEnd(added, Uint32Array.of(5, 6, 7), undefined)]).toEqual([...added])
})
