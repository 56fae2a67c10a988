import * as NodeContext from "@effect/platform-node/NodeContext"
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect } from "vitest"
import { decodeNames, encodeNames } from "../../../src/data/identity/Names.ts"
import { nearSources } from "../../../src/data/identity/NearSources.ts"
import { stream } from "../../../src/data/Source.ts"
import { DataStream } from "../../../src/data/stream/DataStream.ts"
import { tokenize } from "../../../src/data/tokens/Tokenize.ts"
import * as TokenShards from "../../../src/data/tokens/TokenShards.ts"
import { makeRandom } from "../../reference/random.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-owners-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const said = "A text that two of the sources hold, word for word but for its last one, which is"
const records = [
  { text: `${said} here`, site: "a", by: "Ada", terms: { licence: "CC0" } },
  { text: "Only the first one says this, in as many words as are wanted.", site: "a", by: 12345678901234567890n,
    terms: {} },
  { text: `${said} here.`, site: "b", by: null, terms: { licence: " " } },
  { text: `${said} HERE`, site: "b", by: "", terms: { licence: null } },
  { text: "Nobody else has said it, and nobody will, if it can be helped at all.", site: "c", by: "Ada",
    terms: { licence: "CC0" } },
  { text: "And once more by the third, of somebody else, and under other terms.", site: "c", by: "Bob",
    terms: { licence: "MIT" } }
].map((record) => ({ ...record, terms: { licence: null, ...record.terms } }))
const data = join(folder, "data.jsonl")
// JSON's numbers are rounded where they are read without care
writeFileSync(data,
  records.map((record) =>
    JSON.stringify(record, (_, value) => typeof value === "bigint" ? `#${value}` : value).replace(/"#(\d+)"/, "$1")
  ).join("\n"))
const fields = { sourceField: "site", ownerField: "by", licenceField: "terms.licence" } as const
const wanted = {
  a: { owners: ["Ada", "12345678901234567890"], licences: ["CC0"], nearDuplicates: 2, nearSources: ["b"] },
  b: { owners: [], licences: [], nearDuplicates: 1, nearSources: ["a"] },
  c: { owners: ["Ada", "Bob"], licences: ["CC0", "MIT"], nearDuplicates: 0, nearSources: [] }
}

const told = (path: string, more: object) =>
  Effect.gen(function*() {
    const named = (yield* Effect.flatMap(DataStream, ({ names }) => names).pipe(Effect.provide(DataStream.layer({
      data: path,
      identity: "source",
      singleSequences: "all",
      heldOutFraction: 0,
      seqLen: 16,
      ...more
    })), Effect.scoped))!
    const found: Record<string, unknown> = {}
    const names = yield* decodeNames(encodeNames(named), "sources.parquet")
    yield* names.each(({ licences, name, nearDuplicates, nearSources, owners }) => {
      found[name] = { owners, licences, nearDuplicates, nearSources }
    })
    return found
  }).pipe(Effect.provide(NodeContext.layer))

describe("owners, licences and who else holds a text", () => {
  it.effect("come from the data, as text and as token shards", () =>
    Effect.gen(function*() {
      expect(yield* told(data, { ...fields, tokenizer: "bytes", nearThreshold: 0.8 })).toEqual(wanted)
      const out = join(folder, "tokens")
      const config = { data: [{ path: data, ...fields }] as const, tokenizer: "bytes", near: { threshold: 0.8 } }
      yield* tokenize(config, { out, workers: 1 })
      expect(yield* told(out, {})).toEqual(wanted)
      // other owners of the same texts are other data
      writeFileSync(data, readFileSync(data, "utf8").replace("\"Bob\"", "\"Eve\""))
      expect((yield* Effect.flip(tokenize(config, { out, workers: 1 }))).message).toContain(
        "finished shards of other text"
      )
      const damaged = join(out, "dataset.json")
      const { self: _, ...dataset } = JSON.parse(readFileSync(damaged, "utf8")) as Record<string, unknown>
      writeFileSync(damaged, JSON.stringify({ ...dataset, owners: [["Ada"]] }))
      expect((yield* Effect.flip(TokenShards.open(out))).message).toContain("has owners of 1 sources, there are 3")
    }).pipe(Effect.provide(NodeContext.layer)))

  it.effect("are refused where they name nobody, and where no record has such a field", () =>
    Effect.gen(function*() {
      const path = join(folder, "wrong.jsonl")
      writeFileSync(path, "{\"text\": \"a\", \"by\": [1]}\n")
      const refused = (more: object) => Effect.map(Effect.flip(Stream.runDrain(stream({ path, ...more }))), String)
      expect(yield* refused({ ownerField: "by" })).toContain("line 1 has a field \"by\" that names no owner: a list")
      expect(yield* refused({ licenceField: "of" })).toContain("line 1 has no field \"of\"; it has: text, by")
    }).pipe(Effect.provide(NodeContext.layer)))

  it("count near-duplicates of others as looking at every pair does", () => {
    const below = makeRandom(3).int
    const documents = 300
    const sources = Array.from({ length: 30 }, (_, s) => `s${s}`)
    const [of, near, counts] = [0, 0, 0].map(() => Array.from({ length: documents }, () => 0)) as [number[], number[],
      number[]]
    for (let d = 0; d < documents; d++) {
      of[d] = below(30)
      const other = below(d + 1)
      near[d] = below(2) === 0 ? near[other]! : d
      counts[d] = below(4)
    }
    const held = nearSources({ documents, sources, source: (d) => of[d]! }, (d) => near[d]!, (d) => counts[d]! > 0)
    const seen = [...near.keys()].filter((d) => counts[d]! > 0)
    for (const s of sources.keys()) {
      const pairs = seen.filter((d) => of[d] === s).flatMap((d) =>
        seen.filter((e) => of[e] !== s && near[e] === near[d])
      )
      const distinct = new Set(pairs)
      const most = sources.map((_, o) => [o, [...distinct].filter((e) => of[e] === o).length] as const)
        .filter(([, n]) => n > 0).sort(([a, n], [b, m]) => m - n || (sources[a]! < sources[b]! ? -1 : 1))
      const { nearDuplicates, nearSources: names } = held(s)
      expect(nearDuplicates).toBe(distinct.size)
      if (most.length <= 16) expect(names).toEqual(most.map(([o]) => sources[o]))
      else expect(names).toHaveLength(16)
    }
  })
})
