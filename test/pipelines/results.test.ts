import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { factsOf, onePage, pages, type Source } from "../../pipelines/report/site.ts"
import { memsinksHere } from "../support/stdout.ts"

const sinks: Source = {
  name: "sinks off",
  markdown: `# Do \`sinks\` <hold> it?

**Question.** Is *it* there,
and nowhere else?

**Verdict.** Held. **Date.** 2026-11-30. **Commit.** \`0ad0d4d\`. **Seeds.** 5.

![losses](figures/a.svg) and ![none](b.svg)

## What it says

| arm | loss |
|---|---|
| sinks | 4.0 ± 0.1 |

See [the other](other.md#its-part), [the manual](../README.md#there), [a paper](https://example.org/a?b&c),
[bad](javascript:alert(1)) <script>alert(1)</script> <b onclick="x">.

<details><summary>More</summary>

Folded.

</details>
`
}
const other: Source = {
  name: "other",
  markdown: "# Other\n\n## Its part\n\n| | |\n|---|---|\n| a | in many words, a sentence that has to be wrapped |\n",
  facts: { Seeds: "1, 2" }
}
const options = {
  figure: (_: Source, path: string) => path === "figures/a.svg" ? "data:image/svg+xml;base64,AA==" : undefined
}

describe("a site of results", () => {
  it("reads what a result says of itself, from its head alone", () => {
    expect(factsOf(sinks.markdown)).toEqual({
      Question: "Is *it* there, and nowhere else?",
      Verdict: "Held.",
      Date: "2026-11-30.",
      Commit: "`0ad0d4d`.",
      Seeds: "5."
    })
    expect(factsOf("# A\n\n## B\n\n**Seeds.** 3.\n")).toEqual({})
    expect(factsOf("# A\r\n\r\n**Seeds.** 3.\r\n\r\nMore.\r\n")).toEqual({ Seeds: "3." })
  })

  it("is one page: an index, articles, figures inside, links that lead somewhere", () => {
    const html = onePage([sinks, other], options)
    expect(html).toContain(`<a href="#sinks%20off">Do <code>sinks</code> &lt;hold> it?</a><p>Held.</p>`)
    expect(html).toContain("2026-11-30 · commit <code>0ad0d4d</code> · seeds: 5")
    expect(html).toContain(`<p class="faint">seeds: 1, 2</p>`)
    expect(html).toContain(`<article id="sinks off">`)
    expect(html).toContain(`<img src="data:image/svg+xml;base64,AA==" alt="losses"></span> and none`)
    expect(html).toContain(
      `<a href="#other.its-part">the other</a>, the manual, <a href="https://example.org/a?b&amp;c">`
    )
    expect(html).toContain(`<h3 id="other.its-part">Its part</h3>`)
    expect(html).toContain("<details><summary>More</summary>")
    expect(html).toContain(`<table><thead><tr><th>arm</th>`)
    expect(html).toContain(`<table class="prose">`)
  })

  it("holds nothing that runs or loads", () => {
    for (const html of [onePage([sinks, other], options), ...pages([sinks, other], options).map(({ html }) => html)]) {
      expect(html).not.toMatch(/<script|<b |javascript:/)
      expect(html).not.toMatch(/(?:src|url\()\s*=?\s*["']?(?!data:)(?:https?:|\/)/)
    }
  })

  it("is a page for each, too", () => {
    const site = pages([sinks, other], { ...options, title: "Mine" })
    expect(site.map(({ name }) => name)).toEqual(["index.html", "sinks off.html", "other.html"])
    expect(site[0]!.html).toContain(`<title>memsinks: Mine</title>`)
    expect(site[0]!.html).toContain(`<a href="sinks%20off.html">`)
    expect(site[1]!.html).toContain(`<a href="other.html#its-part">the other</a>`)
    expect(site[1]!.html).toContain(`<title>memsinks: Do sinks &lt;hold&gt; it?</title>`)
    expect(site[2]!.html).toContain(`<h2 id="its-part">Its part</h2>`)
  })
})

describe("memsinks results", () => {
  let folder = ""
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "memsinks-results-"))
    mkdirSync(join(folder, "in", "run-1"), { recursive: true })
    writeFileSync(join(folder, "in", "a.md"), "# A\n\n![curve](a.svg) ![not ours](../secret.svg)\n")
    writeFileSync(join(folder, "in", "a.svg"), "<svg/>")
    writeFileSync(join(folder, "secret.svg"), "<svg/>")
    writeFileSync(join(folder, "in", "run-1", "report.md"), "# Isolation checks: isolated\n")
    writeFileSync(join(folder, "in", "run-1", "report.json"), JSON.stringify({ seeds: [1, 2], seconds: 12.3 }))
    writeFileSync(join(folder, "in", "run-1", "run.json"), JSON.stringify({ started: "2026-11-30T01:02:03Z" }))
  })
  afterAll(() => rmSync(folder, { recursive: true }))

  it("takes Markdown and runs, and puts only what is beside them into the site", async () => {
    const out = join(folder, "out", "site.html")
    const { code, stdout } = await memsinksHere(["results", join(folder, "in"), "--out", out, "--json"])
    expect(code).toBe(0)
    expect(JSON.parse(stdout).results).toEqual([
      { name: "a", facts: {} },
      { name: "run-1", facts: { Date: "2026-11-30", Seeds: "1, 2", Cost: "12 s" } }
    ])
    const html = readFileSync(out, "utf8")
    expect(html.match(/<img/g)).toHaveLength(1)
    expect(html).toContain(`<img src="data:image/svg+xml;base64,PHN2Zy8+" alt="curve"></span> not ours`)
    expect(html).toContain("Isolation checks: isolated")
  })

  it("says where there is nothing to show", async () => {
    const { code, stderr } = await memsinksHere(["results", join(folder, "out")])
    expect(code).toBe(1)
    expect(stderr).toContain("holds no result: Markdown files are expected, or runs with a report.md")
    expect((await memsinksHere(["results", join(folder, "nowhere")])).stderr).toContain("results cannot be read")
  })
})
