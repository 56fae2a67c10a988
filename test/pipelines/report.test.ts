import { readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import type { Chart } from "../../pipelines/report/Chart.ts"
import { page as bare, table, toHtml } from "../../pipelines/report/html.ts"
import { onePage, pages } from "../../pipelines/report/site.ts"
import { still } from "../../pipelines/report/still.ts"
import * as View from "../../pipelines/report/View.ts"
import { page as docs } from "../../src/serve/Docs.ts"

const source = { name: "a", markdown: "# A\n\n| arm | state | loss |\n|---|---|---|\n| sinks | off | 4.0 ± 0.1 |\n" }
const view: View.View = {
  title: "A",
  head: ["It closes 91.2 % of it."],
  sections: View.section("Numbers", [
    ...View.tables(
      { head: ["", "state", "loss", "steps"],
        rows: [["standardActiveWidth", "-", "4.0 ± 0.1", "> 32"], ["sinks", "off", "-", "48 times"]] },
      { head: ["", "claim"], prose: true, rows: [["1", "it is \"so\""]], caption: "Claims" }
    ),
    ...View.fold("More", View.tables({ head: ["a"], rows: [["b"]] }))
  ]),
  brief: [],
  config: { a: 1 },
  footing: "here"
}

describe("every page", () => {
  it("fits a phone, is dark where all else is, and scrolls its tables", async () => {
    const all = [
      await toHtml(view),
      onePage([source]),
      ...pages([source]).map(({ html }) => html),
      bare("A", "B"),
      docs({ openapi: "3.1.0", info: { title: "A", version: "1" }, paths: {},
        components: { schemas: {}, securitySchemes: {} }, security: [], tags: [] })
    ]
    expect(all.length).toBe(6)
    for (const html of all) {
      expect(html).toContain(`<meta name="viewport" content="width=device-width, initial-scale=1">`)
      expect(html).toMatch(/:root ?\{ ?color-scheme: ?light dark/)
      expect(html).toMatch(/<title>.+<\/title>/)
      const [tables, boxes] = [html.match(/<table/g) ?? [], html.match(/<div class="wide" tabindex="0"><table/g) ?? []]
      expect(boxes.length).toBe(tables.length)
    }
    expect(all[0]!.match(/<table/g)!.length).toBe(3)
    // what scrolls, or might, is reached by keys
    expect(all[0]).not.toMatch(/<pre>/)
  })

  it("has one heading of all, for each result that there is", () => {
    const folder = new URL("../../pipelines/results/", import.meta.url)
    const sources = readdirSync(folder).filter((name) => name.endsWith(".md"))
      .map((name) => ({ name: name.slice(0, -3), markdown: readFileSync(new URL(name, folder), "utf8") }))
    expect(sources.length).toBeGreaterThan(10)
    for (const { html, name } of pages(sources)) expect([name, html.match(/<h1/g)?.length]).toEqual([name, 1])
  })

  it("keeps a number and its unit or interval on one line", async () => {
    const html = await toHtml(view)
    expect(html).toContain("closes 91.2\u00a0% of it")
    expect(html).toContain("<td>4.0 ± 0.1</td>")
    expect(table({ head: ["", ""], prose: true, rows: [["a", "4.0 ± 0.1"]] })).toContain("4.0\u00a0±\u00a00.1")
    expect(onePage([{ name: "b", markdown: "# B\n\nIt is 4.0 ± 0.1." }])).toContain("4.0\u00a0±\u00a00.1")
  })
})

describe("a table of a page", () => {
  it("begins words at the left, and numbers, whatever stands before or behind them, at the right", () => {
    const words = (...cells: ReadonlyArray<string>) =>
      table({ head: ["", "b"], rows: cells.map((cell) => ["a", cell]) }).includes(`<th class="words">b</th>`)
    expect(words("own sinks", "-", "sinks off")).toBe(true)
    expect(words("every 8", "k=48")).toBe(true)
    expect(words("0.1", "-")).toBe(false)
    expect(words("> 32, > 32", "-3")).toBe(false)
    expect(words("all", "0")).toBe(false)
    expect(words("-", "–")).toBe(false)
    expect(onePage([source])).toContain(`<td class="words">off</td>`)
  })

  it("may break a long name between its words, and names the cells of sentences", async () => {
    const html = await toHtml(view)
    expect(html).toContain("<td>standard<wbr>Active<wbr>Width</td>")
    expect(html).toContain(`<tr><td>1</td><td data-head="claim">it is &quot;so&quot;</td></tr>`)
    expect(table({ head: ["<\"x\">", "b"], prose: true, rows: [["a", "b"]] })).toContain(
      `data-head="&lt;&quot;x&quot;&gt;"`
    )
  })
})

describe("a picture", () => {
  const chart = (x: Chart["x"], y: Chart["y"], points: Chart["lines"][number]["points"]): Chart => ({
    title: "A",
    x,
    y,
    facets: [],
    lines: [{ label: "a", of: { a: "a" }, dots: true, points }],
    color: ["a"]
  })
  const labels = (svg: string) =>
    [...svg.matchAll(/<text[^>]*>(.*?)<\/text>/g)].map(([, text]) => text!.replace(/(<.*?>)+/g, " ").trim())

  it("marks a logarithmic axis at round numbers, and what was chosen as it is", async () => {
    const svg = await still(chart({ title: "pool", log: true }, { title: "error", log: true }, [
      { x: 512, y: 0.00390625 },
      { x: 2048, y: 0.0371, low: 0 },
      { x: 10832, y: 0.125 }
    ]))
    const shown = labels(svg)
    expect(shown).toEqual(expect.arrayContaining(["512", "2048", "10.8k", "0.01", "0.1"]))
    for (const text of shown) expect(text).not.toMatch(/\d{4}\.|\.\d{4}|NaN/)
    expect(svg).not.toMatch(/NaN|Infinity/)
  })

  it("marks a narrow logarithmic axis, too, and whole numbers by whole ones", async () => {
    const points = Array.from({ length: 13 }, (_, i) => ({ x: 0.0011 + 5e-5 * i, y: i % 4 }))
    const shown = labels(await still(chart({ title: "norm", log: true }, { title: "block" }, points)))
    expect(shown.filter((text) => /^0\.001\d/.test(text)).length).toBeGreaterThan(1)
    expect(shown).toEqual(expect.arrayContaining(["0", "1", "2", "3"]))
    expect(shown).not.toContain("0.5")
  })

  it("names what has no numbers, without lines between them, and breaks long titles", async () => {
    const long = "a title that is much longer than the axis that it is written along, and goes on beside it"
    const svg = await still(chart({ title: long, names: ["attention", "general neurons"] }, { title: "share" }, [
      { x: 1, y: 0.2, low: 0.1, high: 0.3 },
      { x: 2, y: 0.4 }
    ]))
    const shown = labels(svg)
    expect(shown).toEqual(expect.arrayContaining(["attention", "general neurons"]))
    expect(shown).not.toContain("1.5")
    expect(svg).not.toContain("mark-line")
    expect(Number(/viewBox="0 0 (\d+)/.exec(svg)![1])).toBeLessThan(660)
  })
})
