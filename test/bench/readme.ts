/** Puts the table of test/bench/results/ into the README: `node --import tsx test/bench/readme.ts`. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import process from "node:process"
import { pathToFileURL } from "node:url"
import { type Line, summary } from "./table.ts"

const results = new URL("results/", import.meta.url)
const file = new URL("../../README.md", import.meta.url)
const marks = ["<!-- results: written by test/bench/readme.ts -->", "<!-- end of results -->"] as const

/** The lines of every adapter, those of its peers behind its own. */
const read = (): ReadonlyMap<string, ReadonlyArray<Line>> => {
  const byAdapter = new Map<string, Array<Line>>()
  for (const name of readdirSync(results).filter((one) => one.endsWith(".jsonl")).sort()) {
    for (const text of readFileSync(new URL(name, results), "utf8").trim().split("\n")) {
      const line = JSON.parse(text) as Line
      const adapter = String(line["adapter"])
      byAdapter.set(adapter, [...(byAdapter.get(adapter) ?? []), line])
    }
  }
  return byAdapter
}

/** The README with its table made anew. */
export const withResults = (readme: string): string => {
  const [begin, end] = [readme.indexOf(marks[0]), readme.indexOf(marks[1])]
  if (begin < 0 || end < begin) throw new Error(`README.md must hold ${marks.join(" and ")}`)
  return `${readme.slice(0, begin + marks[0].length)}\n${summary(read())}\n${readme.slice(end)}`
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  writeFileSync(file, withResults(readFileSync(file, "utf8")))
}
