import { createContext, Script } from "node:vm"
import { describe, expect, it } from "vitest"
import * as Charts from "../../pipelines/dynamics/charts.ts"
import type { DynamicsReport } from "../../pipelines/dynamics/Report.ts"
import * as Tables from "../../pipelines/dynamics/tables.ts"
import { view } from "../../pipelines/dynamics/view.ts"
import type { Chart } from "../../pipelines/report/Chart.ts"
import { estimate } from "../../pipelines/report/Estimate.ts"
import { page } from "../../pipelines/report/html.ts"
import { assets, live } from "../../pipelines/report/live.ts"
import * as Render from "../../pipelines/report/render.ts"
import type { Block, Table } from "../../pipelines/report/View.ts"
import { stripAnsi } from "../../src/Terminal.ts"
import { around, bare, fitOf, reportOf } from "../support/dynamicsReport.ts"

const toTerminal = (it: DynamicsReport, options: Render.TerminalOptions) => Render.toTerminal(view(it), options)
const toMarkdown = (it: DynamicsReport) => Render.toMarkdown(view(it))
const toHtml = (it: DynamicsReport) => Render.toHtml(view(it))

const base = reportOf()

const renderings: ReadonlyArray<readonly [string, (report: DynamicsReport) => Promise<string>]> = [
  ["terminal", async (it) => toTerminal(it, { color: false })],
  ["Markdown", async (it) => toMarkdown(it)],
  ["HTML", toHtml]
]

const unescaped = (text: string) =>
  text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", "\"").replaceAll("&amp;", "&")
    .replaceAll("\\", "").replace(/\s+/g, " ")

/** Every estimate of a value, changed. */
const changed = (value: unknown,
  change: (one: { readonly values: ReadonlyArray<number | null> }) => unknown): unknown =>
  Array.isArray(value)
    ? value.map((inner) => changed(inner, change))
    : typeof value !== "object" || value === null
    ? value
    : "values" in value && "mean" in value
    ? change(value as unknown as { readonly values: ReadonlyArray<number> })
    : Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, changed(inner, change)]))

describe.each(renderings)("a dynamics report as %s", (name, render) => {
  it("is headed by what came out, in sentences made of the numbers", async () => {
    const text = unescaped(await render(base))
    const head = [
      "After the last exposure half of what the models know of sequences shown 48 times (k=48) is forgotten: standard after 37.3 [20.5, 61] steps; sinks: with own sinks after " +
      "310 [180, > 400] steps, with sinks off there is nothing to forget (0.05 nats).",
      "400 steps after the last exposure this share of their tokens is still recalled: standard 5 % (at first 85 %); " +
      "sinks: with own sinks 52 % (at first 92 %), with sinks off 3 % (at first 3 %).",
      "Late in training one more exposure of sequences shown 9 times (sawtooth) takes off the loss: standard 0.48 nats, of which 0.46 come back; " +
      "sinks: with own sinks 0.52 nats, of which 0.31 come back, with sinks off 0.01 nats, of which 0.01 come back.",
      "At the end the sinks of sinks add 3.50 of 7.00 to the logit of a true token of k=48 (0.50 after 0 steps)."
    ]
    const places = head.map((sentence) => text.indexOf(sentence))
    expect(places.every((place) => place >= 0)).toBe(true)
    expect(places.toSorted((a, b) => a - b)).toEqual(places)
    expect(places[3]).toBeLessThan(text.indexOf("half-life, steps"))
  })

  it("tells half-lives and saw-teeth, claims, failures, warnings and where it ran", async () => {
    const text = unescaped(await render(base))
    const wanted = [
      "37.3 [20.5, 61]",
      "0.05 [0.02, 0.08]",
      "310 [180, > 400]",
      "> 400",
      "nothing to forget",
      name === "terminal" ? "0.31 ± 0.02" : "0.312 ± 0.025",
      "training diverged at step 5: loss NaN",
      "Few sequences: intervals are wide.",
      "made-up adapter, seeds 11, 12, 13, 4,322 s; memsinks 0.0.0, runtime Node 20",
      name === "terminal"
        ? "Claims, by their numbers in report.html: held: 1; not decided: 5."
        : "half-life 37 [21, 61]"
    ]
    for (const one of wanted) expect([one, text.includes(one)]).toEqual([one, true])
  })

  it("has no intervals where there is one seed", async () => {
    const one = changed(base, ({ values }) => estimate(values.slice(0, 1))) as DynamicsReport
    const text = (await render({ ...one, seeds: [11] })).replace(/<script[\s\S]*?<\/script>/g, "")
    expect(text).toContain("seed 11,")
    expect(text).not.toContain("±")
  })

  it("never shows what is not known as a number", async () => {
    const unknown = changed(base, () => estimate([null, null, null])) as DynamicsReport
    const fit = fitOf({
      aic: { exponential: NaN, power: NaN },
      tau: NaN,
      initial: NaN,
      rmse: NaN,
      residual: { value: NaN, low: NaN, high: NaN },
      law: "power"
    })
    const retention = unknown.retention.map((one) => ({ ...one, fit }))
    const text = (await render({ ...unknown, retention, failures: [] })).replace(/<script[\s\S]*?<\/script>/g, "")
    expect(text).not.toMatch(/NaN|undefined|Infinity|null/)
    expect(text).toContain("standard")
  })

  it("leaves out what there is nothing of", async () => {
    const [full, less] = [await render(base), await render(reportOf(bare))]
    const words = name === "terminal"
      ? ["Warning", "failed", "Claims", "saw-tooth", "half-life"]
      : [
        "Warnings",
        "What failed",
        "After the last exposure",
        "Between exposures",
        "Along training",
        "accumulate",
        "What other data",
        "What parts hold",
        "Claims",
        "Layer by layer"
      ]
    for (const word of words) expect([word, full.includes(word), less.includes(word)]).toEqual([word, true, false])
    expect(less).toContain("made-up adapter")
  })

  it("renders what has no points, no teeth and none of the fields that may be absent", async () => {
    const { from: _, ...rest } = base
    const text = await render({
      ...rest,
      curves: base.curves.map((one) => ({ ...one, points: [] })),
      sawTeeth: base.sawTeeth.map((one) => ({ ...one, teeth: [] })),
      retention: base.retention.map(({ fit: _, ...one }, i) => ({ ...one, points: one.points.slice(0, i % 2) })),
      norms: base.norms.map((one) => ({ ...one, points: one.points.map(({ step, weight }) => ({ step, weight })) })),
      shares: base.shares.map((one) => ({ ...one, points: [] })),
      config: undefined
    })
    expect(text).toContain("nothing to forget")
    expect(text.replace(/<script[\s\S]*?<\/script>/g, "").replace("loss NaN", "")).not.toMatch(/NaN|undefined|Infinity/)
  })

  it("takes nothing in the data for markup", async () => {
    const evil = "</script><script>alert(1)</script> | *k* [a](b) `c` <img src=x onerror=y>"
    const renamed = JSON.parse(
      JSON.stringify(base).replaceAll("k=48", JSON.stringify(evil).slice(1, -1))
    ) as DynamicsReport
    const text = await render({ ...renamed, warnings: [evil], adapter: evil, from: evil })
    if (name === "terminal") return expect(text.replace(/\s+/g, " ")).toContain(evil)
    if (name === "Markdown") {
      // escaped, each < and > in text is literal; details, summary and pre are its only tags
      const tags = [...text.matchAll(/(?<!\\)<\/?([a-z]+)/g)].map(([, tag]) => tag)
      expect(new Set(tags)).toEqual(new Set(["details", "summary", "pre"]))
      // but for the words that are explained, which are our own
      expect(text.replace(/^- \*\*[a-z -]+\*\*:/gm, "")).not.toMatch(/(?<!\\)[*`[]/)
    } else {
      const scripts = assets().scripts.length + text.match(/<script type="application\/json">/g)!.length
      expect(text.match(/<script/g)).toHaveLength(scripts)
      expect(text.match(/<\/script/g)).toHaveLength(scripts)
      expect(text).not.toContain("<img")
      expect(text).toContain("&lt;img src=x")
    }
  })
})

describe("the report for a terminal", () => {
  it("is short, no wider than 100 columns, and in colour only where that is wanted", () => {
    const text = toTerminal(base, { color: true })
    expect(stripAnsi(text)).toBe(toTerminal(base, { color: false }))
    expect(text).not.toBe(stripAnsi(text))
    const lines = stripAnsi(text).split("\n")
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100)
    expect(lines.length).toBeLessThan(36)
  })

  it("has the groups with the most exposures where there are too many, with own sinks and with sinks off", () => {
    const names = ["k=2", "k=4", "k=96", "k=16", "k=32"]
    const one = base.groups[2]!
    const report = reportOf({
      groups: names.map((name) => ({ ...one, name, exposures: Number(name.slice(2)) })),
      retention: names.flatMap((group) =>
        base.retention.filter((it) => it.group === "k=48").map((it) => ({ ...it, group }))
      )
    })
    const rows = Tables.halfLives(report, "short").rows
    expect(rows.map(([arm, group, sinks]) => [arm, group, sinks])).toEqual(
      ["k=96", "k=32"].toSorted((a, b) => names.indexOf(a) - names.indexOf(b)).flatMap((group) => [
        ["standard", group, "-"],
        ["sinks", group, "own sinks"],
        ["sinks", group, "sinks off"]
      ])
    )
    expect(Tables.halfLives(report).rows).toHaveLength(20)
  })
})

describe("tables", () => {
  const titles = {
    accumulation: "Where memories accumulate",
    layers: "Layer by layer",
    interference: "What other data does to memories",
    contents: "What parts hold",
    curves: "Along training",
    fits: "Fits, and all measures of what is left",
    costs: "Models, groups and data"
  }
  const tablesOf = (blocks: ReadonlyArray<Block>): ReadonlyArray<Table> =>
    blocks.flatMap((one) => one.is === "table" ? [one.table] : one.is === "fold" ? tablesOf(one.blocks) : [])
  const of = (key: keyof typeof titles, report = base) =>
    tablesOf(view(report).sections.find(({ title }) => title === titles[key])!.blocks)
  const row = (table: Table, ...start: ReadonlyArray<string>) =>
    table.rows.find((cells) => start.every((cell, i) => cells[i] === cell))

  it("tell how long memories last", () => {
    const table = Tables.halfLives(base)
    expect(table.head).toEqual([
      "",
      "group",
      "sinks on",
      "law",
      "half-life, steps",
      "residual",
      "memory at first",
      "recall at first",
      "recall at the end"
    ])
    // memory at the end 2.4 (0.05 + 0.95 exp(-8)) = 0.1208, recall 0.01 + 0.35 of it
    expect(row(table, "standard", "k=48")).toEqual([
      "standard",
      "k=48",
      "-",
      "exponential",
      "37.3 [20.5, 61]",
      "0.05 [0.02, 0.08]",
      "2.400 ± 0.025",
      "0.850 ± 0.025",
      "0.052 ± 0.025"
    ])
    expect(row(table, "sinks", "k=8", "own sinks")!.slice(3, 6)).toEqual(["power", "> 400", "0.40 [0.30, 0.50]"])
    expect(row(table, "sinks", "k=48", "own sinks")![4]).toBe("310 [180, > 400]")
    expect(row(table, "sinks", "k=48", "placebo")!.slice(3, 7)).toEqual(["-", "nothing to forget", "-",
      "0.060 ± 0.025"])
  })

  it("write times, and those beyond what was observed", () => {
    expect(Tables.writtenTime({ value: 1234.4, low: 999.5, high: null }, 2500)).toBe("1,234 [1000, > 2,500]")
    expect(Tables.writtenTime({ value: null, low: 350, high: null }, 400)).toBe("> 400 [350, > 400]")
    expect(Tables.writtenTime({ value: null, low: null, high: null }, 400)).toBe("> 400")
  })

  it("take points in the order of time, however they come", () => {
    const retention = base.retention.map((one) => ({ ...one, points: one.points.toReversed() }))
    expect(Tables.halfLives({ ...base, retention })).toEqual(Tables.halfLives(base))
  })

  it("tell the late saw-teeth", () => {
    // tooth 8 of the arm with sinks: 5 - 7 * 0.4 * 0.52
    expect(row(Tables.lateTeeth(base), "sinks", "sawtooth", "own sinks")!.slice(3)).toEqual([
      "3.544 ± 0.025",
      "3.284 ± 0.025",
      "3.024 ± 0.025",
      "0.520 ± 0.025",
      "0.312 ± 0.025"
    ])
    expect(Tables.lateTeeth(base, "short").head.slice(3)).toEqual(["before", "lowest", "amplitude", "decay"])
    expect(row(Tables.lateTeeth(base, "short"), "sinks", "sawtooth", "own sinks")!.slice(3)).toEqual([
      "3.54 ± 0.02",
      "3.02 ± 0.02",
      "0.52 ± 0.02",
      "0.31 ± 0.02"
    ])
  })

  it("put layers together: norms by their mean square, shares of the logit by their sum", () => {
    const [norms, shares] = of("accumulation")
    // rms of 3 and 4 is 3.54, of 21 and 28 24.7
    expect(row(norms!, "sinks", "all", "general")!.slice(3, 6)).toEqual([
      "0 to 400",
      "3.54 ± 0.00246 to 24.7 ± 0.00246",
      "7.00 ± 0.00"
    ])
    expect(row(norms!, "sinks", "-", "embedding")![4]!).toBe("3 ± 0.00248 to 21 ± 0.00248")
    expect(norms!.rows.some(([, layer]) => layer === "1")).toBe(false)
    expect(row(shares!, "sinks", "k=48", "own sinks", "all", "sinks")!.slice(5)).toEqual(["0.50 ± 0.05", "3.50 ± 0.05"])
    expect(row(shares!, "sinks", "k=48", "own sinks", "-", "all parts")!.slice(5)).toEqual(["1.00 ± 0.02",
      "7.00 ± 0.02"])
    expect(row(of("layers")[0]!, "sinks", "1", "general")![4]).toBe("4 ± 0.00248 to 28 ± 0.00248")
  })

  it("put no layers together where there is one, and no points that a layer lacks", () => {
    const one = { ...base, norms: base.norms.filter(({ layer }) => layer < 1) }
    expect(Tables.wholeNorms(one)).toEqual([])
    expect(of("accumulation", one)[0]!.rows.map(([, layer]) => layer)).toContain("0")
    const norms = base.norms.map((it) => it.layer === 1 ? { ...it, points: it.points.slice(2) } : it)
    expect(Tables.wholeNorms({ ...base, norms })[0]!.points.map(({ step }) => step)).toEqual([20, 50, 100, 200, 400])
  })

  it("tell interference, contents, curves, fits, groups and costs", () => {
    expect(row(of("interference")[0]!, "standard")).toEqual([
      "standard",
      "all",
      "-0.0125 ± 0.00248",
      "0.00125 ± 0.000248",
      "0.0015 ± 0.000248",
      "0.88 ± 0.02"
    ])
    expect(row(of("interference")[0]!, "sinks")!.slice(4)).toEqual(["-", "-"])
    expect(row(of("contents")[0]!, "sinks", "0", "sinks")!.slice(3)).toEqual([
      "64",
      "0.750 ± 0.025",
      "0.375 ± 0.025",
      "0.625 ± 0.025",
      "0.125 ± 0.025"
    ])
    expect(row(of("contents")[0]!, "sinks", "0", "random")!.slice(4)).toEqual(["0.250 ± 0.025", "-", "-", "-"])
    // 6 - 2.4 log(401) / 6
    expect(row(of("curves")[0]!, "standard", "k=48")!.slice(3)).toEqual([
      "6.000 ± 0.025",
      "3.602 ± 0.025",
      "400",
      "3.602 ± 0.025"
    ])
    expect(row(of("fits")[0]!, "sinks", "k=48")!.slice(2)).toEqual([
      "own sinks",
      "power",
      "-41.0",
      "-31.5",
      "300",
      "1.25",
      "2.600",
      "0.40 [0.30, 0.50]",
      "0.012",
      "400"
    ])
    expect(row(of("costs")[0]!, "standard")!.slice(1, 5)).toEqual(["123,456", "123,456", "100.5 ± 0.0", "33.3 ± 0.0"])
    expect(row(of("costs")[0]!, "sinks")!.slice(3, 5)).toEqual(["-", "-"])
    expect(row(of("costs")[1]!, "k=8")!.slice(1, 6)).toEqual(["16", "8", "12.5", "100", "yes"])
    expect(of("costs")[2]!.rows.some(([what]) => what === "probed")).toBe(false)
    expect(of("costs", { ...base, from: "runs/a" })[2]!.rows[0]).toEqual(["probed", "runs/a"])
  })

  it("are about the group that is left alone and was shown most, where its curves were fitted", () => {
    expect(Tables.focalGroup(base)!.name).toBe("k=48")
    const retention = base.retention.map(({ fit, ...one }) =>
      one.group === "k=48" || fit === undefined ? one : { ...one, fit }
    )
    expect(Tables.focalGroup({ ...base, retention })!.name).toBe("k=8")
    expect(Tables.focalGroup(reportOf(bare))).toBeUndefined()
  })

  it("draw both laws as they are defined", () => {
    const fit = fitOf({ tau: 20, initial: 2, residual: { value: 0.2, low: 0, high: 1 } })
    expect(Tables.fittedMemory(fit, 0)).toBeCloseTo(2, 12)
    expect(Tables.fittedMemory(fit, 20 * Math.LN2)).toBeCloseTo(2 * (0.2 + 0.8 / 2), 12)
    expect(Tables.fittedMemory({ ...fit, law: "power", psi: 2, tau: 10 }, 10)).toBeCloseTo(2 * (0.2 + 0.8 / 4), 12)
    expect(Tables.fittedMemory({ ...fit, law: "power" }, 10)).toBeUndefined()
    expect(Tables.fittedMemory({ ...fit, tau: NaN }, 10)).toBeUndefined()
  })
})

describe("charts", () => {
  const charts = (report: DynamicsReport) => ({
    curves: [Charts.training(report)],
    sawTeeth: [Charts.teeth(report)],
    retention: [Charts.retention(report)],
    accumulation: [Charts.norms(report), Charts.shares(report)]
  })
  type Section = keyof ReturnType<typeof charts>
  const of = charts(base)
  const chart = (section: Section, i = 0): Chart => of[section][i]!
  const lines = (section: Section, wanted: Readonly<Record<string, string>>, i = 0) =>
    chart(section, i).lines.filter(({ of }) => Object.entries(wanted).every(([key, value]) => of[key] === value))

  it("are none without data", () => {
    const drawn = (report: DynamicsReport) =>
      view(report).sections.flatMap(({ blocks }) => blocks.filter(({ is }) => is === "chart"))
    expect(drawn(base)).toHaveLength(6)
    expect(drawn(reportOf(bare))).toEqual([])
  })

  it("call weights that belong to no layer and are no embedding the final norm", () => {
    const norm = base.norms.find(({ layer, part }) => layer < 0 && part === "embedding")!
    const labels = Charts.norms({ ...base, norms: [...base.norms, { ...norm, part: "attention" }] }).lines.map((
      { label }
    ) => label)
    expect(labels).toContain(`${norm.arm}: final norm`)
    expect(labels).not.toContain(`${norm.arm}: attention`)
  })

  it("begin with a picture of memories as they age", () => {
    const { facets, lines } = Charts.lead(base)
    expect(facets).toEqual([])
    expect(lines.map(({ label }) => label)).toEqual(["standard", "sinks, own sinks", "sinks, sinks off"])
    expect(lines[0]!.points[0]!.y).toBeCloseTo(2.4, 9)
  })

  it("draw what exposures take off and what comes back as teeth, in the order of time", () => {
    const { points } = lines("sawTeeth", { arm: "standard", drawn: "teeth" })[0]!
    expect(points.slice(0, 4).map(({ note, x, y }) => [x, Number(y.toFixed(3)), note])).toEqual([
      [5, 5, "before exposure 1"],
      [6, 4.76, "after exposure 1"],
      [45, 4.976, "before exposure 2"],
      [46, 4.736, "after exposure 2"]
    ])
    const [below] = lines("sawTeeth", { arm: "standard", drawn: "lowest" })
    expect(below!.points.slice(0, 2).map(({ x, y }) => [x, Number(y.toFixed(3))])).toEqual([[6, 4.52], [46, 4.496]])
    expect(points).toHaveLength(18)
  })

  it("give exposures in a row one point where one ends and the next begins", () => {
    const [one] = base.sawTeeth
    const massed = { ...one!, teeth: one!.teeth.slice(0, 3).map((tooth, i) => ({ ...tooth, step: 7 + 0.75 * i })) }
    const { points } = Charts.teeth({ ...base, sawTeeth: [massed] }).lines[0]!
    expect(points.map(({ note, x }) => [x, note])).toEqual([
      [7, "before exposure 1"],
      [7.75, "before exposure 2"],
      [8.5, "before exposure 3"],
      [9.5, "after exposure 3"]
    ])
  })

  it("have the fitted law beside what was measured, where there is one and of memory alone", () => {
    const fitted = lines("retention", { drawn: "fitted" })
    expect(fitted.map(({ of }) => [of["arm"], of["group"], of["measure"]])).toEqual([
      ["standard", "k=8", "memory"],
      ["standard", "k=48", "memory"],
      ["sinks", "k=8", "memory"],
      ["sinks", "k=48", "memory"]
    ])
    const at = fitted[1]!.points.find(({ x }) => x === 64)!
    expect(at.y).toBeCloseTo(2.4 * (0.05 + 0.95 * Math.exp(-64 / 50)), 12)
    expect(fitted[1]!.points.at(-1)!.x).toBe(400)
    const verbatim = lines("retention", { measure: "verbatim", group: "k=48", arm: "standard" })[0]!.points
    expect(verbatim.map(({ x }) => x)).toEqual([0, 1, 2, 4, 8])
  })

  it("show at first own sinks and sinks off, of the group that tells most, and foils", () => {
    const shown = (it: Chart, key: string) =>
      it.facets.find((facet) => facet.key === key)!.values.filter(({ on }) => on).map(({ name }) => name)
    expect(shown(chart("curves"), "group")).toEqual(["k=48", "foils"])
    expect(shown(chart("retention"), "group")).toEqual(["k=48"])
    expect(shown(chart("retention"), "mask")).toEqual(["own", "off"])
    expect(shown(chart("retention"), "measure")).toEqual(["memory"])
    expect(shown(chart("accumulation", 0), "layer")).toEqual(["all"])
    // no switch hides the model that has no sinks to switch
    expect(lines("curves", { arm: "standard" })[0]!.of["mask"]).toBeUndefined()
    expect(lines("accumulation", { part: "embedding", arm: "sinks" })[0]!.of["layer"]).toBeUndefined()
  })
})

// ---------------------------------------------------------------------------------------------------------------
// The page

interface Payload {
  readonly title: string
  readonly lines: ReadonlyArray<{
    readonly label: string
    readonly color: string
    readonly alpha: number
    readonly dash: ReadonlyArray<number>
    readonly x: ReadonlyArray<number>
    readonly y: ReadonlyArray<number>
    readonly low: ReadonlyArray<number | null>
  }>
}

const payloads = (html: string): ReadonlyArray<Payload> =>
  [...html.matchAll(/<script type="application\/json">([\s\S]*?)<\/script>/g)].map(([, text]) =>
    JSON.parse(text!) as Payload
  )

describe("the page", async () => {
  const html = await toHtml(base)
  const scripts = [...html.matchAll(/<script>\n([\s\S]*?)\n<\/script>/g)].map(([, text]) => text)

  it("needs nothing from elsewhere", () => {
    const markup = html.replace(/<script>[\s\S]*?<\/script>/g, "")
    expect(markup).not.toMatch(/<link|<img|<iframe|@import|url\(|(src|href|action)=|https?:/)
    expect(scripts.join("\n")).not.toMatch(/\bfetch\(|XMLHttpRequest|WebSocket|\bimport\b\s*[("]|sendBeacon|\.src\s*=/)
    expect(scripts.join("\n")).toContain("Permission is hereby granted")
  })

  it("holds the points of all charts", () => {
    const found = payloads(html)
    expect(found.map(({ title }) => title)).toEqual([
      "What is left after the last exposure",
      "Loss just before and just after each exposure",
      "Loss along training",
      "Size of the weights, and how fast they move",
      "What parts add to the logit of the true token"
    ])
    const line = found[2]!.lines.find(({ label }) => label === "sinks, own sinks: k=48")!
    expect(line.x).toEqual([0, 10, 20, 50, 100, 200, 400])
    expect(line.y.map((y, i) => Math.abs(y - (6 - (2.6 * Math.log1p(line.x[i]!)) / 6)) < 1e-4)).toEqual(
      Array(7).fill(true)
    )
    expect(line.low[0]).toBeCloseTo(around(6).low!, 3)
  })

  it("has scripts that can be read, and uPlot is what the first one makes", () => {
    expect(scripts).toHaveLength(2)
    for (const script of scripts) expect(() => new Script(script!)).not.toThrow()
    const context = createContext({})
    new Script(scripts[0]!).runInContext(context)
    expect(new Script("typeof uPlot + typeof uPlot.join").runInContext(context)).toBe("functionfunction")
  })

  it("says where the numbers are if scripts do not run, and has them in tables", () => {
    expect(html.match(/<noscript>/g)).toHaveLength(5)
    expect(html.match(/<table/g)!.length).toBeGreaterThan(8)
    expect(html).toContain("<td>310 [180, &gt; 400]</td>")
  })

  it("lets no script and no style end early", () => {
    const text = page("t", "b", { style: "a::after { content: '</style>' }", scripts: ["const a = '</script><!--'"] })
    expect(text.match(/<\/style/g)).toHaveLength(1)
    expect(text.match(/<\/script/g)).toHaveLength(1)
    const [, script] = /<script>\n([\s\S]*)\n<\/script>/.exec(text)!
    expect(new Script(`${script}; a`).runInContext(createContext({}))).toBe("</script><!--")
    expect(page("t", "b")).not.toContain("<script")
  })
})

/** As much of a browser as the charts use. */
const browser = (data: ReadonlyArray<string>) => {
  type Listener = (event: { readonly key?: string; readonly preventDefault: () => void }) => void
  interface Node {
    readonly tag: string
    readonly attributes: Record<string, string>
    readonly listeners: Record<string, Listener>
    children: Array<Node | string>
    text: string
    checked: boolean
    hidden: boolean
    textContent: string
    readonly clientWidth: number
    readonly querySelector: (selector: string) => Node
    readonly setAttribute: (name: string, value: string) => void
    readonly append: (...children: ReadonlyArray<Node | string>) => void
    readonly replaceChildren: (...children: ReadonlyArray<Node | string>) => void
    readonly addEventListener: (type: string, listener: Listener) => void
  }
  const node = (tag: string, text = ""): Node => {
    const made: Node = {
      tag,
      attributes: {},
      listeners: {},
      children: [],
      text,
      checked: false,
      hidden: false,
      get textContent(): string {
        return this.text + this.children.map((one) => typeof one === "string" ? one : one.textContent).join("")
      },
      set textContent(value) {
        this.text = value
        this.children = []
      },
      clientWidth: 700,
      querySelector: (selector) => made.children.find((one) => typeof one !== "string" && one.tag === selector) as Node,
      setAttribute: (name, value) => void (made.attributes[name] = value),
      append: (...children) => void made.children.push(...children),
      replaceChildren: (...children) => void (made.children = [...children]),
      addEventListener: (type, listener) => void (made.listeners[type] = listener)
    }
    return made
  }
  interface Scale {
    readonly distr?: number
    readonly fwd?: (value: number) => number
    readonly bwd?: (value: number) => number
    readonly range: (u: unknown, min: number | null, max: number | null) => [number, number]
  }
  interface Plot {
    readonly options: {
      readonly scales: { readonly x: Scale; readonly y: Scale }
      readonly axes: ReadonlyArray<{
        readonly label: string
        readonly stroke: string
        readonly splits?: (u: object, axis: number, from: number, to: number) => ReadonlyArray<number>
      }>
      readonly series: ReadonlyArray<{ readonly label?: string }>
      readonly bands: ReadonlyArray<{ readonly series: ReadonlyArray<number> }>
      readonly hooks: { readonly setCursor: ReadonlyArray<(u: unknown) => void> }
    }
    readonly data: ReadonlyArray<ReadonlyArray<number | undefined>>
    alive: boolean
  }
  const plots: Array<Plot> = []
  const figures = data.map((text) => {
    const figure = node("figure")
    figure.append(node("script", text))
    return figure
  })
  let dark: Listener = () => undefined
  let ink = "#111"
  const context = createContext({
    uPlot: function(options: Plot["options"], data: Plot["data"]) {
      const plot = { options, data, alive: true }
      plots.push(plot)
      return { ...plot, destroy: () => void (plot.alive = false), width: 700 }
    },
    window: {
      document: {
        documentElement: {},
        createElement: node,
        createElementNS: (_: string, tag: string) => node(tag),
        querySelectorAll: () => figures
      },
      getComputedStyle: () => ({ getPropertyValue: () => ` ${ink}` }),
      matchMedia: () => ({ addEventListener: (_: string, listener: Listener) => void (dark = listener) }),
      ResizeObserver: class {
        observe() {}
      }
    }
  })
  const [, script] = assets().scripts
  new Script(script!).runInContext(context)
  const find = (from: Node, wanted: (one: Node) => boolean): ReadonlyArray<Node> =>
    from.children.flatMap((one) => typeof one === "string" ? [] : [...(wanted(one) ? [one] : []), ...find(one, wanted)])
  return {
    /** What is drawn now, in the order of drawing. */
    drawn: () => plots.filter(({ alive }) => alive),
    /** Flips a switch of the first figure. */
    flip: (label: string) => {
      const [found] = find(figures[0]!, ({ children, tag }) => tag === "label" && children.at(-1) === ` ${label}`)
      const box = found!.children[0]! as Node
      box.checked = box.attributes["type"] === "radio" ? true : !box.checked
      box.listeners["change"]!({ preventDefault: () => undefined })
    },
    labels: () => find(figures[0]!, ({ tag }) => tag === "label").map(({ textContent }) => textContent.trim()),
    key: () => find(figures[0]!, ({ tag }) => tag === "li").map(({ textContent }) => textContent.trim()),
    text: () => find(figures[0]!, ({ tag }) => tag === "p").map(({ textContent }) => textContent).join(""),
    hidden: () => find(figures[0]!, ({ attributes }) => attributes["class"] === "plot")[0]!.hidden,
    darken: () => {
      ink = "#eee"
      dark({ preventDefault: () => undefined })
    }
  }
}

const json = (chart: Chart): string => /<script type="application\/json">([\s\S]*?)<\/script>/.exec(live(chart))![1]!

describe("a chart in the page", () => {
  const two: Chart = {
    title: "two",
    x: { title: "steps", unit: 1 },
    y: { title: "loss" },
    color: ["arm"],
    dash: ["mask"],
    shade: ["layer"],
    facets: [
      {
        key: "measure",
        title: "measure",
        one: true,
        values: [{ name: "loss", on: true }, { name: "recall", on: false, y: "share" }]
      },
      { key: "arm", title: "arm", values: [{ name: "a", on: true }, { name: "b", on: true }] },
      { key: "mask", title: "sinks",
        values: [{ name: "own", on: false }, { name: "off", label: "sinks off", on: true }] },
      { key: "layer", title: "layer",
        values: [{ name: "0", on: true }, { name: "1", on: true }, { name: "2", on: true }] },
      { key: "group", title: "group", values: [{ name: "only", on: false }] }
    ],
    lines: [
      {
        label: "one",
        of: { arm: "a", measure: "loss", group: "only" },
        points: [{ x: 0, y: 4, low: 3, high: 5 }, { x: 10, y: 2, low: -1, high: 5 }, { x: 20, y: NaN }]
      },
      { label: "two", of: { arm: "b", mask: "own", measure: "loss", layer: "2" },
        points: [{ x: 5, y: 3, note: "half" }] },
      {
        label: "three",
        of: { arm: "b", mask: "off", measure: "loss", layer: "1" },
        points: [{ x: 0, y: 1 }, { x: 9, y: 1.5 }]
      },
      { label: "four", of: { arm: "a", measure: "recall" }, points: [{ x: 0, y: 0.5 }, { x: 10, y: 0.25 }] }
    ]
  }
  const start = (chart: Chart = two) => browser([json(chart)])
  const shown = (page: ReturnType<typeof browser>) =>
    page.drawn().map(({ options }) => options.series.flatMap(({ label }) => label ?? []))

  it("draws the lines that are on at first, on the x of all, and bands of those that have intervals", () => {
    const [plot, ...others] = start().drawn()
    expect(others).toEqual([])
    // x, the two edges of a band, two lines
    expect(plot!.data.map((values) => [...values])).toEqual([
      [0, 9, 10],
      [5, undefined, 5],
      [3, undefined, -1],
      [4, undefined, 2],
      [1, 1.5, undefined]
    ])
    expect(plot!.options.bands.map(({ series }) => series)).toEqual([[1, 2]])
    expect(plot!.options.axes.map(({ label }) => label)).toEqual(["steps", "loss"])
  })

  it("shows and hides lines by their properties; what lacks one is not concerned", () => {
    const page = start()
    expect(page.labels()).toEqual([
      "loss",
      "recall",
      "a",
      "b",
      "own",
      "sinks off",
      "1",
      "2",
      "log x",
      "log y",
      "95 % intervals"
    ])
    expect(shown(page)).toEqual([["one", "three"]])
    page.flip("own")
    expect(shown(page)).toEqual([["one", "two", "three"]])
    page.flip("sinks off")
    expect(page.key()).toEqual(["one", "two"])
    page.flip("a")
    expect(shown(page)).toEqual([["two"]])
    page.flip("b")
    expect(shown(page)).toEqual([])
    expect([page.hidden(), page.text()]).toEqual([true, "Nothing is chosen that there are curves of."])
    page.flip("a")
    page.flip("recall")
    expect([page.hidden(), shown(page), page.drawn()[0]!.options.axes[1]!.label]).toEqual([false, [["four"]], "share"])
    page.flip("loss")
    page.flip("95 % intervals")
    expect(page.drawn()[0]!.data).toHaveLength(2)
  })

  it("tells the values of all lines under the cursor, each at its nearest point", () => {
    const page = start()
    page.flip("own")
    const point = (left: number) =>
      page.drawn()[0]!.options.hooks.setCursor[0]!({ cursor: { left }, posToVal: () => left })
    point(5.4)
    expect(page.text()).toBe("steps: 5")
    expect(page.key()).toEqual(["one 4 [3, 5] (at 0)", "two 3 (half)", "three 1.5 (at 9)"])
    point(10)
    expect(page.key()).toEqual(["one 2 [-1, 5]", "two", "three"])
    point(-10)
    expect(page.key()).toEqual(["one", "two", "three"])
  })

  it("has logarithmic axes with a place for 0, ticks at round numbers, and the ends of intervals in sight", () => {
    const page = start()
    page.flip("log x")
    page.flip("log y")
    const { data, options } = page.drawn()[0]!
    const { x, y } = options.scales
    for (const value of [0, 0.5, 1, 9, 10]) expect(x.fwd!(value)).toBeCloseTo(Math.log1p(value), 12)
    expect(x.bwd!(x.fwd!(7))).toBeCloseTo(7, 12)
    expect(x.range(undefined, 0, 10).map((end) => Number(end.toFixed(9)))).toEqual([0, 10])
    expect(options.axes[0]!.splits!({ width: 700, height: 340 }, 0, 0, 10)).toEqual([0, 1, 2, 5, 10])
    // all positive: truly logarithmic, and the end that is not, -1, lies at half of the least
    expect(y.fwd!(Math.E)).toBeCloseTo(1, 12)
    expect(data[2]).toEqual([3, undefined, 0.5])
    expect(y.range(undefined, null, null)).toEqual([0, 1])
  })

  it("has ticks enough where a logarithmic axis spans little, and few where it spans much", () => {
    const page = start({ ...two, y: { title: "loss", log: true } })
    const { splits } = page.drawn()[0]!.options.axes[1]!
    const size = { width: 700, height: 340 }
    expect(splits!(size, 1, 3.2, 6.1)).toEqual([3.5, 4, 4.5, 5, 5.5, 6])
    const wide = splits!(size, 1, 1e-6, 1e4)
    expect(wide).toContain(1)
    expect(wide.length).toBeLessThan(12)
    expect(wide).toEqual(wide.toSorted((a, b) => a - b))
  })

  it("orders numbers on any logarithmic axis, and finds them again", () => {
    const values = Array.from({ length: 50 }, () => (Math.random() - 0.3) * 10 ** (8 * Math.random() - 4))
    const points = [0, ...values].map((y, x) => ({ x, y }))
    const page = start({ ...two, facets: [], y: { title: "", log: true }, lines: [{ label: "", of: {}, points }] })
    const { bwd, fwd } = page.drawn()[0]!.options.scales.y
    const sorted = [0, ...values].sort((a, b) => a - b)
    for (let i = 1; i < sorted.length; i++) expect(fwd!(sorted[i]!)).toBeGreaterThan(fwd!(sorted[i - 1]!))
    for (const value of sorted) expect(Math.abs(bwd!(fwd!(value)) - value)).toBeLessThanOrEqual(1e-9 * Math.abs(value))
  })

  it("is drawn again in the colours of the page when these change", () => {
    const page = start()
    expect(page.drawn()[0]!.options.axes[0]!.stroke).toBe("#111")
    page.darken()
    expect(page.drawn().map(({ options }) => options.axes[0]!.stroke)).toEqual(["#eee"])
  })

  it("tells lines apart by colour, dashes and paleness, best those that are seen first", () => {
    const { lines } = JSON.parse(json(two)) as Payload
    const of = (label: string) => lines.find((line) => line.label === label)!
    expect(of("one").color).toBe(of("four").color)
    expect(of("one").color).not.toBe(of("two").color)
    expect(of("three").color).toBe(of("two").color)
    expect([of("one").dash, of("three").dash, of("two").dash]).toEqual([[], [7, 4], [2, 3]])
    expect([of("one").alpha, of("three").alpha, of("two").alpha]).toEqual([1, 0.75, 0.5])
    expect(of("one").x).toEqual([0, 10])
  })
})
