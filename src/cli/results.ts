/** `memsinks results`: a folder of results as a site that needs nothing else. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs"
import { basename, dirname, join, resolve, sep } from "node:path"
import { type Facts, factsOf, onePage, pages, type Source } from "../../pipelines/report/site.ts"
import * as AtomicFile from "../AtomicFile.ts"
import { because, DataError, dataError } from "../Errors.ts"
import { plural } from "../Terminal.ts"
import type { ResultsOptions } from "./commands/results.ts"
import * as Edge from "./Edge.ts"

/** A result, and the folder that its figures are beside it in. */
interface Found extends Source {
  readonly folder: string
}

/** What a run leaves beside its report. */
const REPORT = "report.md"

const jsonOf = (path: string): Readonly<Record<string, unknown>> => {
  try {
    return Object(JSON.parse(AtomicFile.readText(path)))
  } catch {
    return {} // a report without it says less, and is shown all the same
  }
}

/** What a run's other files tell of its report. */
const factsOfRun = (folder: string): Facts => {
  const [report, run] = [jsonOf(join(folder, "report.json")), jsonOf(join(folder, "run.json"))]
  const [seeds, { seconds }, { started }] = [report["seeds"], report, run]
  const { commit } = Object(run["git"]) as { readonly commit?: unknown }
  return {
    ...(typeof started === "string" ? { Date: started.slice(0, 10) } : {}),
    ...(typeof commit === "string" ? { Commit: `\`${commit.slice(0, 7)}\`` } : {}),
    ...(Array.isArray(seeds) ? { Seeds: seeds.join(", ") } : {}),
    ...(typeof seconds === "number" ? { Cost: `${seconds.toFixed(0)} s` } : {})
  }
}

const read = (path: string, name: string): Found => ({
  name,
  markdown: AtomicFile.readText(path),
  folder: dirname(path),
  ...(basename(path) === REPORT ? { facts: factsOfRun(dirname(path)) } : {})
})

/** The results in a folder: its Markdown, and the reports of runs in it, or its own. */
const find = (folder: string): ReadonlyArray<Found> => {
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => a.name < b.name ? -1 : 1)
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) {
      const report = join(path, REPORT)
      return existsSync(report) ? [read(report, entry.name)] : []
    }
    if (!/\.md$/i.test(entry.name)) return []
    return [read(path, entry.name === REPORT ? basename(resolve(folder)) : entry.name.replace(/\.md$/i, ""))]
  })
}

const TYPES: Readonly<Record<string, string>> = { svg: "image/svg+xml", png: "image/png", jpg: "image/jpeg",
  jpeg: "image/jpeg", webp: "image/webp", gif: "image/gif" }

/** A figure beside a result, as a URL that holds it. */
const figureOf = ({ folder }: Found, path: string): string | undefined => {
  const type = TYPES[/\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? ""]
  const file = resolve(folder, path)
  // nothing from elsewhere gets into the site
  if (type === undefined || !file.startsWith(`${resolve(folder)}${sep}`) || !existsSync(file)) return undefined
  return `data:${type};base64,${readFileSync(file).toString("base64")}`
}

/** Finds results, writes the site, and says where it is. Fails with a DataError where there are none. */
export const runResults = ({ folder, json, out, title }: ResultsOptions) =>
  Effect.gen(function*() {
    const found = yield* Effect.try({
      try: () => find(folder),
      catch: (cause) => dataError(folder, `results cannot be read: ${because(cause)}`, cause)
    })
    if (found.length === 0) {
      return yield* new DataError({
        path: folder,
        detail: "holds no result: Markdown files are expected, or runs with a report.md"
      })
    }
    const options = {
      ...(Option.isSome(title) ? { title: title.value } : {}),
      figure: (of: Source, path: string) => figureOf(of as Found, path)
    }
    const files = /\.html?$/i.test(out)
      ? [[out, onePage(found, options)] as const]
      : pages(found, options).map(({ html, name }) => [join(out, name), html] as const)
    yield* Effect.try({
      try: () => {
        for (const [path, html] of files) {
          mkdirSync(dirname(path), { recursive: true })
          AtomicFile.write(path, html)
        }
      },
      catch: (cause) => dataError(out, `the site cannot be written: ${because(cause)}`, cause)
    })
    if (json) {
      const told = found.map(({ facts, markdown, name }) => ({ name, facts: { ...facts, ...factsOf(markdown) } }))
      return yield* Edge.print(JSON.stringify({ out, files: files.map(([path]) => path), results: told }))
    }
    yield* Edge.print(`${plural(found.length, "result")}: ${files[0]![0]}`)
  })
