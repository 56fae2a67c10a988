/** `memsinks sources`: what a model was trained on, a line an id, and what was deleted from it. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { loadInitial } from "../checkpoints/Import.ts"
import { csvField } from "../Csv.ts"
import { type NamedId, namesFile } from "../data/identity/Names.ts"
import { CheckpointError } from "../Errors.ts"
import * as Sink from "../Sink.ts"
import { columns, count, oneLine, plural } from "../Terminal.ts"
import type { SourcesOptions } from "./commands/sources.ts"
import * as Edge from "./Edge.ts"

/** The web site of a name that is an address. */
const siteOf = (name: string): string | undefined => /^https?:\/\/([^/?#]+)/i.exec(name)?.[1]?.toLowerCase()

/** Sites that a summary names. */
const SITES = 20

/** Prints the sources. Fails with a CheckpointError where the checkpoint does not list them. */
export const runSources = (options: SourcesOptions) =>
  Effect.gen(function*() {
    const { config, names, path } = yield* loadInitial(options.checkpoint)
    if (names === undefined) {
      return yield* new CheckpointError({
        reason: "Missing",
        path,
        detail:
          `holds no ${namesFile}: only models with sinks list what they were trained on, of which ids are few enough`
      })
    }
    const { sinks } = config
    const isDeleted = (id: bigint) => sinks !== undefined && Sink.isDenied(sinks, id)
    const wanted = Option.map(options.search, (text) => text.toLowerCase())
    const matches = ({ name }: NamedId) => Option.isNone(wanted) || name.toLowerCase().includes(wanted.value)
    const total = { ids: 0, documents: 0, tokens: 0, deleted: 0 }
    const sites = new Map<string, { ids: number; documents: number; tokens: number }>()
    let top: ReadonlyArray<NamedId> = []
    const lines: Array<string> = options.csv ? ["id,name,documents,tokens,deleted"] : []
    yield* names.each((one) => {
      if (!matches(one)) return
      const { documents, id, name, tokens } = one
      total.ids++
      total.documents += documents
      total.tokens += tokens
      if (isDeleted(id)) total.deleted++
      const site = siteOf(name)
      if (site !== undefined) {
        const known = sites.get(site) ?? { ids: 0, documents: 0, tokens: 0 }
        sites.set(site, { ids: known.ids + 1, documents: known.documents + documents, tokens: known.tokens + tokens })
      }
      if (options.csv) lines.push([id, csvField(name), documents, tokens, isDeleted(id)].join())
      else if (top.length < options.top || tokens > top.at(-1)!.tokens) {
        top = [...top, one].sort((a, b) => b.tokens - a.tokens || (a.name < b.name ? -1 : 1)).slice(0, options.top)
      }
    })
    const largest = [...sites].map(([site, sums]) => ({ site, ...sums })).sort((a, b) => b.tokens - a.tokens).slice(0,
      SITES)
    if (options.csv) return yield* Edge.print(lines.join("\n"))
    if (options.json) {
      return yield* Edge.print(JSON.stringify({
        checkpoint: path,
        identity: names.identity,
        ...total,
        sites: largest,
        ...(options.summary
          ? {}
          : { largest: top.map((one) => ({ ...one, id: `${one.id}`, deleted: isDeleted(one.id) })) })
      }))
    }
    const share = (tokens: number) => `${(100 * tokens / Math.max(1, total.tokens)).toFixed(1)} %`
    yield* Edge.print([
      `${path}: ${plural(total.ids, "id")}, one a ${names.identity}; ${plural(total.documents, "document")}, ${
        plural(total.tokens, "token")
      } an epoch` + (total.deleted === 0 ? "" : `; ${count(total.deleted)} deleted`),
      ...(sinks === undefined
        ? []
        : [`each lights ${count(sinks.active)} of ${count(sinks.pool)} sinks in every MLP, by ${sinks.assignment}`]),
      ...(options.summary
        ? largest.length === 0
          ? []
          : ["", ...columns([["web site", "ids", "documents", "tokens", "share"], ...largest.map((
            one
          ) => [one.site, count(one.ids), count(one.documents), count(one.tokens), share(one.tokens)])])]
        : ["", ...columns([["id", "documents", "tokens", "share", "name"], ...top.map((
          one
        ) => [`${one.id}`, count(one.documents), count(one.tokens), share(one.tokens),
          `${oneLine(one.name)}${isDeleted(one.id) ? " (deleted)" : ""}`]
        )]), ...(total.ids > top.length ? [`and ${count(total.ids - top.length)} more: --top, --search, --csv`] : [])])
    ].join("\n"))
  })
