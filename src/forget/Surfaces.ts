/**
 * Where something of what is deleted is, or may be: files are told by what they hold, not by what they are called. Nothing is
 * changed: what a run left behind is its owner's to remove.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Stream from "effect/Stream"
import type { TokenDocuments } from "../data/Pieces.ts"
import { parseJson } from "../Json.ts"
import * as Parquet from "../measures/Parquet.ts"
import * as Ledger from "./Ledger.ts"

type Files = FileSystem.FileSystem | Path.Path

/** A place where something of what is deleted is, or may be. */
export interface Surface {
  readonly what: string
  readonly path: string
  /**
   * `holds`: weights that it was learned into, or its text or tokens; `names`: its name or id alone; `may hold`, `may quote`: it
   * cannot be told, or was not looked into.
   */
  readonly state: "holds" | "names" | "may hold" | "may quote"
}

/** What is looked for. */
export interface Wanted {
  readonly ids: ReadonlySet<bigint>
  readonly names: ReadonlyArray<string>
  /** Passages of their texts. */
  readonly quotes: ReadonlyArray<string>
}

/** Names that are looked for in texts at most; all ids are, and so are all names where files list sources. */
const NAMES = 500

/** Passages that are looked for: of so many documents, so long. */
const QUOTES = 60
const QUOTE = 48

/** Passages of the documents of sources, as they stand in any encoding of text: letters, digits and plain stops. */
export const quotesOf = (
  corpus: TokenDocuments,
  names: ReadonlySet<string>,
  decode: (tokens: ReadonlyArray<number>) => string
): ReadonlyArray<string> => {
  const found: Array<string> = []
  const isTheirs = corpus.sources.map((name) => names.has(name))
  for (let d = 0; d < corpus.documents && found.length < QUOTES; d++) {
    if (!isTheirs[corpus.source(d)]!) continue
    const text = decode([...corpus.read(d, 0, Math.min(512, corpus.length(d)))])
    const runs = [...text.matchAll(/[\p{L}\p{N} ,.;:]{24,}/gu)].map(([run]) => run.trim())
    const longest = runs.reduce((a, b) => b.length > a.length ? b : a, "")
    if (longest !== "") found.push(longest.slice(0, QUOTE).trim())
  }
  return found
}

/** Bytes that are read at a time, of a file that is looked into as a whole at most, and of the beginning of one. */
const CHUNK = 2 ** 20
const WHOLE = 2 ** 28
const HEAD = 2 ** 16

const isIn = (value: unknown, { ids, names }: Wanted): boolean =>
  (typeof value === "bigint" && ids.has(value)) || (typeof value === "string" && names.includes(value))

/** What a table holds of them. */
const ofTable = (path: string, wanted: Wanted) =>
  Effect.map(Parquet.read(path, "rows", []), (table): Omit<Surface, "path"> | undefined => {
    const columns = table.names.map((name) => [name, table.values(name)] as const)
    const texts = columns.flatMap(([, values]) => values.filter((value) => typeof value === "string"))
    if (texts.some((text) => wanted.quotes.some((quote) => text.includes(quote)))) {
      return { what: "a table with its text", state: "holds" }
    }
    const { ids } = wanted
    const names = new Set(wanted.names)
    const named = columns.some(([, values]) =>
      values.some((one) => (typeof one === "bigint" && ids.has(one)) || (typeof one === "string" && names.has(one)))
    )
    if (!named) return undefined
    return table.names.includes("token")
      ? { what: "token records", state: "holds" }
      : { what: table.names.includes("tokens") ? "a list of sources" : "a table", state: "names" }
  })

/** Whether texts stand in a file, the first of which is there wins. */
const firstIn = (path: string, texts: ReadonlyArray<Buffer>) =>
  Effect.gen(function*() {
    const longest = texts.reduce((most, { length }) => Math.max(most, length), 1)
    let before: Buffer = Buffer.alloc(0)
    let met = texts.length
    yield* (yield* FileSystem.FileSystem).stream(path, { chunkSize: CHUNK }).pipe(Stream.runForEach((bytes) =>
      Effect.sync(() => {
        const now = Buffer.concat([before, bytes])
        for (let i = 0; i < met; i++) if (now.includes(texts[i]!)) met = i
        before = now.subarray(Math.max(0, now.length - longest + 1))
      })
    ))
    return met
  })

/** What a text, log or page holds of them: a passage, or a name. */
const ofText = (path: string, { names, quotes }: Wanted) =>
  Effect.gen(function*() {
    const written = (text: string) =>
      [text, JSON.stringify(text).slice(1, -1)].filter((one, i, all) => all.indexOf(one) === i)
    const all = [...quotes, ...names.slice(0, NAMES)].flatMap((text, i) =>
      written(text).map((one) => ({ bytes: Buffer.from(one), quotes: i < quotes.length }))
    ).filter(({ bytes }) => bytes.length > 0)
    const met = all[yield* firstIn(path, all.map(({ bytes }) => bytes))]
    return met === undefined
      ? undefined
      : met.quotes
      ? { what: "its text", state: "holds" } as const
      : { what: "its name", state: "names" } as const
  })

/** What `config.json` says that the folder it is in holds of them. */
const ofModel = (folder: string, json: unknown, wanted: Wanted) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const config = Object(json) as Readonly<Record<string, unknown>>
    if (config["model_type"] !== "llama") return undefined
    const sinks = Object(config["memsinks"]) as { readonly sinks?: { readonly denied?: ReadonlyArray<string> } }
    if (sinks.sinks === undefined) {
      const kept = Array.isArray(config["memsinks_kept"]) ? config["memsinks_kept"] as ReadonlyArray<unknown> : []
      return kept.some((one) => wanted.ids.has(BigInt((one as { readonly id: string }).id)))
        ? { what: "an export with its sinks", state: "holds" } as const
        : { what: "an export, or another model", state: "may hold" } as const
    }
    const listed = paths.join(folder, "sources.parquet")
    const knows = (yield* Effect.orElseSucceed(fs.exists(listed), () => false))
      ? (yield* ofTable(listed, wanted)) !== undefined
      : true
    if (!knows) return undefined
    const there = yield* fs.readDirectory(folder)
    const parts = there.some((name) => /^optimizer.*\.safetensors/.test(name)) ? "weights and moments" : "weights"
    const denied = new Set((sinks.sinks.denied ?? []).map(BigInt))
    if ([...wanted.ids].some((id) => !denied.has(id))) return { what: parts, state: "holds" } as const
    const file = paths.join(folder, "deletions.jsonl")
    const text = yield* Effect.orElseSucceed(fs.readFileString(file), () => undefined)
    const stands = Ledger.standing(yield* Ledger.read(text, file))
    const done = [...wanted.ids].map((id) => stands.get(id) ?? [])
    const isErased = (entries: ReadonlyArray<Ledger.Entry>) =>
      entries.some(({ operation }) => operation === "erase" || operation === "refresh")
    if (!done.every(isErased)) return { what: `its sinks, denied, in ${parts}`, state: "holds" } as const
    const taken = done.every((entries) =>
      entries.some(({ shared, units }) => units.shared === 0 || (shared === "take" && units.taken > 0))
    )
    return taken ? undefined : { what: `sinks that others light, too, in ${parts}`, state: "holds" } as const
  })

/** What one file holds of them; undefined: nothing. */
const ofFile = (path: string, wanted: Wanted): Effect.Effect<Omit<Surface, "path"> | undefined, unknown, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const name = paths.basename(path)
    const size = Number((yield* fs.stat(path)).size)
    const head = Buffer.concat(Array.from(yield* Stream.runCollect(fs.stream(path, { bytesToRead: HEAD }))))
    const magic = head.subarray(0, 7).toString("latin1")
    const tooLarge = { what: "a file too large to be looked into", state: "may quote" } as const
    if (magic === "MSRTR1\n") {
      const end = head.indexOf(10, 7)
      const json = Either.getOrElse(parseJson(head.subarray(7, end).toString("utf8")), () => undefined)
      const { sources = 0 } = Object(json) as { readonly sources?: number }
      const read = fs.stream(path, { offset: end + 1, bytesToRead: 8 * sources })
      const bytes = new Uint8Array(Buffer.concat(Array.from(yield* Stream.runCollect(read))))
      const ids = new BigUint64Array(bytes.buffer, 0, Math.floor(bytes.length / 8))
      return ids.some((id) => wanted.ids.has(id)) ? { what: "a router with its words", state: "holds" } : undefined
    }
    if (magic.startsWith("PAR1")) return size > WHOLE ? tooLarge : yield* ofTable(path, wanted)
    if (magic.startsWith("GGUF")) {
      const kept = head.includes("memsinks.kept_ids") && [...wanted.ids].some((id) => head.includes(`${id}`))
      return kept
        ? { what: "an export with its sinks", state: "holds" }
        : { what: "an export, or another model", state: "may hold" }
    }
    // a folder of these is told by its config.json or dataset.json
    if (/\.(safetensors|bin|idx)$/.test(name)) return undefined
    if (/\.(gz|zst|zip)$/.test(name) || head.subarray(0, 4).equals(Buffer.of(0x28, 0xb5, 0x2f, 0xfd))) {
      return { what: "a compressed file", state: "may quote" }
    }
    if (name === "config.json" || name === "dataset.json") {
      const json = Either.getOrElse(parseJson(yield* fs.readFileString(path)), () => undefined)
      if (name === "config.json") return yield* ofModel(paths.dirname(path), json, wanted)
      const { sources } = Object(json) as { readonly sources?: unknown }
      return Array.isArray(sources) && sources.some((one) => isIn(one, wanted))
        ? { what: "token shards", state: "holds" }
        : undefined
    }
    if (head.includes(0)) return undefined
    return yield* ofText(path, wanted)
  })

/** Folders whose models are told by their `config.json`: of the other files in them nothing but it is asked. */
const isModel = (names: ReadonlyArray<string>): boolean =>
  names.includes("config.json") && names.some((name) => name.endsWith(".safetensors"))

/**
 * All files in some folders, and those below them, that hold, name or may hold what is wanted, by rising path; a model, or
 * token shards, as the folder that they are in. `skip`: folders that are not looked into.
 */
export const searched = (
  folders: ReadonlyArray<string>,
  wanted: Wanted,
  skip: ReadonlySet<string> = new Set()
): Effect.Effect<ReadonlyArray<Surface>, never, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const found: Array<Surface> = []
    const seen = new Set<string>()
    const look = (path: string): Effect.Effect<void, never, Files> =>
      Effect.gen(function*() {
        if (seen.has(path) || skip.has(path)) return
        seen.add(path)
        const info = yield* fs.stat(path)
        if (info.type === "Directory") {
          const names = [...yield* fs.readDirectory(path)].sort()
          const asked = isModel(names)
            ? names.filter((name) => name === "config.json" || name === "sources.parquet" || name === "router.bin")
            : names.includes("dataset.json")
            ? names.filter((name) => !name.endsWith(".names.jsonl"))
            : names
          for (const name of asked) yield* look(paths.join(path, name))
          return
        }
        if (info.type !== "File") return
        const surface = yield* ofFile(path, wanted)
        if (surface === undefined) return
        const whole = ["config.json", "dataset.json"].includes(paths.basename(path))
        found.push({ ...surface, path: whole ? paths.dirname(path) : path })
      }).pipe(
        Effect.catchAll(() =>
          Effect.sync(() => void found.push({ what: "a file that cannot be read", path, state: "may quote" }))
        )
      )
    for (const folder of folders) yield* look(paths.resolve(folder))
    return found
  })
