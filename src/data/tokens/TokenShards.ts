/**
 * Tokens on disk, and who they belong to:
 *
 *     dataset.json             what there is: shards, sources, vocabulary, sha256 of every other file
 *     tokenizer.json
 *     shard-00000.bin          token ids, 16 or 32 bits, little-endian, no header: nanoGPT reads it
 *     shard-00000.idx          32 bytes a document: first token in the shard (u64), tokens (u32), source (u32, a place
 *                              in `sources`), hash of the normalized text (u64), near-duplicate cluster (u64)
 *     shard-00000.names.jsonl  a JSON string a document
 *
 * The shards of others are read as well: nanoGPT's `.bin` without a header, and llm.c's with one. Of both the documents
 * are what end-of-text tokens divide.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import { decodeConfig } from "../../Config.ts"
import { type DataError, dataError as fail } from "../../Errors.ts"
import { decodeJson, parseJson } from "../../Json.ts"
import { keyOf } from "../../Key.ts"
import { LEADS_OUT, liesIn } from "../../Paths.ts"
import { Dataset, RECORD, shardFiles, widthOf } from "../Dataset.ts"
import { type ForeignOptions, openForeign } from "./ForeignShards.ts"
import { type Place, readable, reader, sha256Of, sizeOf, type TokenShards } from "./ShardReader.ts"

export { Dataset, type ForeignOptions, type TokenShards }

const decodeDataset = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  const text = yield* readable(path, fs.readFileString(path))
  const json = yield* Effect.mapError(parseJson(text), (detail) => fail(path, detail))
  const { format } = Object(json) as { readonly format?: unknown }
  if (typeof format === "number" && format !== 1) {
    return yield* fail(path, `has format ${format}, this version reads 1: use the version that wrote it`)
  }
  const dataset = yield* decodeConfig(Dataset, json).pipe(
    Effect.mapError(({ detail }) => fail(path, detail.replace(/^the configuration/, "the description of token shards")))
  )
  const { self, ...said } = dataset
  if (self !== undefined && self !== keyOf(said)) {
    return yield* fail(path, "is not as it was written. Where a change is meant, take the field self out of it")
  }
  const { documents, dtype, sha256, shards, tokens, vocabSize } = dataset
  const files = shards.flatMap(({ file }) => Object.values(shardFiles(file)))
  if (dataset.tokenizer !== undefined) files.push(dataset.tokenizer)
  const bare = files.find((file) => !Object.hasOwn(sha256, file))
  const sum = (field: "tokens" | "documents") => shards.reduce((total, shard) => total + shard[field], 0)
  const uneven = (["owners", "licences"] as const).find((what) =>
    dataset[what] !== undefined && dataset[what].length !== dataset.sources.length
  )
  const problem = uneven !== undefined
    ? `has ${uneven} of ${dataset[uneven]!.length} sources, there are ${dataset.sources.length}`
    : new Set(files).size < files.length
    ? "names a file twice in shards"
    : bare !== undefined
    ? `has no sha256 of ${bare}`
    : sum("tokens") !== tokens || sum("documents") !== documents
    ? `counts ${tokens} tokens in ${documents} documents, its shards ${sum("tokens")} in ${sum("documents")}`
    : vocabSize > 2 ** 16 && dtype === "uint16"
    ? `has vocabSize ${vocabSize}, which uint16 cannot hold`
    : undefined
  return problem === undefined ? said : yield* fail(path, problem)
})

const openDataset = Effect.fnUntraced(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const stays = Effect.fnUntraced(function*(file: string) {
    if (!(yield* liesIn(folder, file))) return yield* fail(`${folder}/${file}`, LEADS_OUT)
  })
  // before any of it is read: what is wrong with it is told in its own words
  yield* stays("dataset.json")
  const dataset = yield* decodeDataset(`${folder}/dataset.json`)
  const { documents, dtype, licences, owners, sha256, shards, sources, vocabSize } = dataset
  const width = widthOf(dtype)

  const expectSize = Effect.fnUntraced(function*(path: string, bytes: number, of: string) {
    const size = yield* sizeOf(path)
    if (size === bytes) return
    return yield* fail(path, `has ${size} bytes, ${of} take ${bytes}: it was cut off or replaced after dataset.json`)
  })
  const files = shards.flatMap(({ file }) => Object.values(shardFiles(file)))
  for (const file of [...files, ...(dataset.tokenizer === undefined ? [] : [dataset.tokenizer])]) yield* stays(file)
  const tokenizer = dataset.tokenizer === undefined
    ? undefined
    : yield* readable(`${folder}/${dataset.tokenizer}`, fs.readFileString(`${folder}/${dataset.tokenizer}`))

  // sizes first: what a damaged dataset.json counts must not decide how much memory is taken
  const nameBytes: Array<number> = []
  for (const shard of shards) {
    const { bin, idx, names } = shardFiles(shard.file)
    yield* expectSize(`${folder}/${bin}`, width * shard.tokens, `${shard.tokens} tokens of ${dtype}`)
    yield* expectSize(`${folder}/${idx}`, RECORD * shard.documents, `the records of ${shard.documents} documents`)
    nameBytes.push(yield* sizeOf(`${folder}/${names}`))
  }

  const starts = new Float64Array(documents)
  const lengths = new Uint32Array(documents)
  const source = new Uint32Array(documents)
  const content = new BigUint64Array(documents)
  const near = new Uint32Array(documents)
  const places: Array<Place> = []
  let [firstDocument, firstToken] = [0, 0]
  for (const shard of shards) {
    const { bin, idx } = shardFiles(shard.file)
    const [path, index] = [`${folder}/${bin}`, `${folder}/${idx}`]
    // a copy that starts at a multiple of 8 bytes
    const records = new Uint8Array(yield* readable(index, fs.readFile(index)))
    const u32 = new Uint32Array(records.buffer)
    const u64 = new BigUint64Array(records.buffer)
    let next = 0
    for (let i = 0; i < shard.documents; i++) {
      const document = firstDocument + i
      const bad = u64[4 * i] !== BigInt(next) ?
        `begins at token ${u64[4 * i]}, expected ${next}` :
        u32[8 * i + 3]! >= sources.length ?
        `is of source ${u32[8 * i + 3]}, there are ${sources.length}` :
        u64[4 * i + 3]! > BigInt(document) ?
        `is in the cluster of document ${u64[4 * i + 3]}, which is after it` :
        undefined
      if (bad !== undefined) return yield* fail(index, `document ${i} (offset ${RECORD * i}) ${bad}`)
      starts[document] = firstToken + next
      lengths[document] = u32[8 * i + 2]!
      source[document] = u32[8 * i + 3]!
      content[document] = u64[4 * i + 2]!
      near[document] = Number(u64[4 * i + 3])
      next += lengths[document]!
    }
    if (next !== shard.tokens) {
      const detail = `its documents have ${next} tokens, the shard ${shard.tokens}: they do not belong together`
      return yield* fail(index, detail)
    }
    places.push({ path, skip: 0, firstDocument, firstToken })
    firstDocument += shard.documents
    firstToken += shard.tokens
  }

  const { files: opened, read, shardOf } = reader({ starts, lengths, places, width, vocabSize })
  const lines = new Map<number, Float64Array>()
  /** Where the lines of a shard's names begin, and the end of the last. */
  const linesOf = (shard: number, path: string, bytes: number): Float64Array => {
    const known = lines.get(shard)
    if (known !== undefined) return known
    const begins = new Float64Array(shards[shard]!.documents + 1)
    const piece = new Uint8Array(1 << 16)
    let line = 0
    for (let at = 0; at < bytes; at += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, bytes - at))
      opened.read(path, part, at)
      for (let i = part.indexOf(10); i >= 0; i = part.indexOf(10, i + 1)) begins[++line] = at + i + 1
    }
    if (line !== shards[shard]!.documents || begins[line] !== bytes) {
      throw fail(path, `has ${line} lines for ${shards[shard]!.documents} documents`)
    }
    lines.set(shard, begins)
    return begins
  }
  const verify = Effect.gen(function*() {
    for (const [file, expected] of Object.entries(sha256)) {
      const found = yield* sha256Of(`${folder}/${file}`)
      if (found !== expected) {
        const detail = `is not as it was written: its sha256 is ${found}, in dataset.json it is ${expected}`
        return yield* fail(`${folder}/${file}`, `${detail}. Tokenize again into another folder`)
      }
    }
  }).pipe(Effect.provideService(FileSystem.FileSystem, fs))

  const sums = Object.entries(sha256).sort(([a], [b]) => a < b ? -1 : 1)
  const all: TokenShards = {
    path: folder,
    // the order of shards is that of documents, and a source's name makes its id: neither is in a checksum
    identity: createHash("sha256")
      .update(JSON.stringify([dtype, vocabSize, shards.map(({ file }) => file), sources, sums])).digest("hex"),
    tokenizer,
    vocabSize,
    documents,
    tokens: dataset.tokens,
    sources,
    dataset,
    start: (document) => starts[document]!,
    length: (document) => lengths[document]!,
    source: (document) => source[document]!,
    owners: owners && ((source) => owners[source]!),
    licences: licences && ((source) => licences[source]!),
    content: (document) => content[document]!,
    near: dataset.near === undefined ? undefined : (document) => near[document]!,
    name: (document) => {
      const shard = shardOf(document)
      const path = `${folder}/${shardFiles(shards[shard]!.file).names}`
      const begins = linesOf(shard, path, nameBytes[shard]!)
      const line = document - places[shard]!.firstDocument
      const bytes = new Uint8Array(begins[line + 1]! - begins[line]!)
      opened.read(path, bytes, begins[line]!)
      const name = decodeJson(Schema.String, new TextDecoder().decode(bytes))
      if (Either.isLeft(name)) throw fail(path, `line ${line + 1} ${name.left}`)
      return name.right
    },
    read,
    verify,
    close: opened.close
  }
  return all
})

const list = Effect.fnUntraced(function*(folder: string, pattern: RegExp) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* readable(folder, fs.readDirectory(folder))
  return names.filter((name) => pattern.test(name)).sort()
})

/** `fineweb_train_*.bin` as a pattern of names. */
const patternOf = (name: string): RegExp =>
  new RegExp(`^${name.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&")).join(".*")}$`)

/** Names of files that hold text. */
const TEXT = /\.(txt|text|md|jsonl?|ndjson|csv|tsv|parquet)(\.(gz|zst))?$/i

/** Whether a path is that of token shards: a folder with `dataset.json` or `.bin` files, or a `.bin` file. */
export const isTokens = (path: string): Effect.Effect<boolean, never, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    if (/(^|[\\/])dataset\.json$|\.bin$/.test(path)) return true
    const fs = yield* FileSystem.FileSystem
    const { type } = yield* fs.stat(path)
    if (type !== "Directory") return false
    return (yield* fs.readDirectory(path)).some((name) => name === "dataset.json" || name.endsWith(".bin"))
  }).pipe(Effect.orElseSucceed(() => false))

/**
 * Opens token shards: a folder with `dataset.json` (or that file), a `.bin` file of nanoGPT or llm.c, a folder of them,
 * or some of them by a name with `*` (`data/fineweb_train_*.bin`). Reads the index of the documents, not the tokens,
 * but of the shards of others, which have no index, every token once.
 *
 * Fails with a `DataError` that names the file, and the offset where there is one, when something is missing, has
 * another size than `dataset.json` says, or another format, and when a token of a foreign shard is beyond the
 * vocabulary; one of our own says so when it is read. A folder with both train and val files is refused: say which.
 */
export const open = (
  path: string,
  options: ForeignOptions = {}
): Effect.Effect<TokenShards, DataError, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const [, folder, name] = /^(.*?)[\\/]?([^\\/]*)$/.exec(path)!
    if (name === "dataset.json") return yield* openDataset(folder! === "" ? "." : folder!)
    if (name!.includes("*")) {
      const inside = folder === "" ? "." : folder
      const names = yield* list(inside!, patternOf(name!))
      if (names.length === 0) return yield* fail(path, "no file has such a name")
      return yield* openForeign(path, names.map((one) => `${inside}/${one}`), options)
    }
    const { type } = yield* readable(path, fs.stat(path))
    if (type !== "Directory" && TEXT.test(path)) {
      return yield* fail(path, `is text, not tokens: tokenize it first, memsinks tokenize --data ${path} --out FOLDER`)
    }
    if (type !== "Directory") return yield* openForeign(path, [path], options)
    if (yield* readable(path, fs.exists(`${path}/dataset.json`))) return yield* openDataset(path)
    const names = yield* list(path, /\.bin$/)
    if (names.length === 0) return yield* fail(path, "the folder has neither dataset.json nor .bin files")
    const sets = ["train", "val"].filter((set) => names.some((one) => one.includes(set)))
    if (sets.length === 2) {
      const detail = `the folder has files to train on and to validate with: give ${path}/*train*.bin or *val*.bin`
      return yield* fail(path, detail)
    }
    return yield* openForeign(path, names.map((one) => `${path}/${one}`), options)
  })
