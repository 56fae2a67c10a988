import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { spawn } from "node:child_process"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { contentHash } from "../../../src/data/identity/Identity.ts"
import { type DocumentSource, tokenize, type TokenizeEvent, type TokenizeInput,
  type TokenizeOptions } from "../../../src/data/tokens/Tokenize.ts"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"
import { open } from "../../../src/data/tokens/TokenShards.ts"
import type { DataError } from "../../../src/Errors.ts"
import { random } from "../../../src/Random.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-tokenize-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let folders = 0
const fresh = () => join(root, `out-${++folders}`)

const run = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem>) =>
  Effect.runPromise(Effect.provide(effect, NodeFileSystem.layer))

/** Words that follow no grammar, so that documents differ. */
const draw = random(3, "text")
const syllables = ["ka", "lo", "mi", "ne", "ru", "so", "ta", "vi", "ä", "東", "🙂", "'s", "12"]
const sentence = (words: number): string =>
  Array.from({ length: words }, () =>
    Array.from({ length: 1 + draw.below(3) }, () => syllables[draw.below(syllables.length)]).join("")).join(" ")

const texts = Array.from({ length: 160 }, (_, i) => i % 20 === 7 ? " \n" : sentence(5 + draw.below(600)))
const kept = texts.map((text, i) => ({ text: text.trim(), name: `d${i}` })).filter(({ text }) => text !== "")
const data = join(root, "data.jsonl")
writeFileSync(data, texts.map((text, i) => JSON.stringify({ id: `d${i}`, text })).join("\n"))
/** A tokenizer of a file, trained on some of it. */
const tokenizerFile = join(root, "some-tokenizer.json")
let tokenizer: Tokenizer.Tokenizer
beforeAll(async () => {
  const trained = await run(Tokenizer.trainBpe(texts.slice(0, 50), { vocabSize: 700 }))
  tokenizer = await run(Tokenizer.withSpecialToken(trained, "</s>"))
  writeFileSync(tokenizerFile, tokenizer.toJSON())
})

const base: TokenizeInput = { data: [{ path: data }], tokenizer: tokenizerFile }
const make = (out: string, input: Partial<TokenizeInput> = {}, options: Partial<TokenizeOptions> = {}) =>
  tokenize({ ...base, ...input }, { out, workers: 1, batch: 5000, ...options })
const refusal = async (out: string, input: Partial<TokenizeInput> = {}, options: Partial<TokenizeOptions> = {}) => {
  const error: DataError = await run(Effect.flip(make(out, input, options)))
  expect(error._tag).toBe("DataError")
  return error.message
}

const filesOf = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder).sort().map((name) => [name, readFileSync(join(folder, name)).toString("base64")])
  )

/** Everything that does not depend on how documents are cut into files. */
const documentsOf = async (folder: string) => {
  const shards = await run(open(folder))
  await run(shards.verify)
  const { near, sources } = shards
  const all = Array.from({ length: shards.documents }, (_, i) => ({
    name: shards.name(i),
    source: sources[shards.source(i)],
    tokens: Array.from(shards.read(i, 0, shards.length(i))).join(),
    content: shards.content!(i),
    near: near?.(i)
  }))
  shards.close()
  return all
}

/** Any documents, from memory. */
const memory = (documents: ReadonlyArray<{ name: string; text: string; source?: string }>): DocumentSource => () =>
  Stream.rechunk(Stream.fromIterable(documents), 7)

describe("what a tokenizer puts before a text", () => {
  const framed = join(root, "framed-tokenizer.json")
  beforeAll(async () => {
    const begun = await run(Tokenizer.withSpecialToken(tokenizer, "<s>"))
    writeFileSync(framed, JSON.stringify({
      ...JSON.parse(begun.toJSON()),
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [],
        special_tokens: { "<s>": { id: "<s>", ids: [begun.specialTokens.get("<s>")], tokens: ["<s>"] } }
      }
    }))
  })
  const few = join(root, "few.jsonl")
  writeFileSync(few, [{ text: "ka lo </s> mi" }, { text: "ne" }].map((line) => JSON.stringify(line)).join("\n"))
  const tokensOf = async (input: Partial<TokenizeInput>) => {
    const out = fresh()
    const { dataset } = await run(make(out, { data: [{ path: few }], tokenizer: framed, ...input }))
    const shards = await run(open(out))
    const all = [0, 1].map((d) => [...shards.read(d, 0, shards.length(d))])
    shards.close()
    return { all, config: dataset.config as { readonly bos: string; readonly specialAsText?: boolean } }
  }

  it("is before each document unless another token, or none, is asked for", async () => {
    const begin = tokenizer.vocabSize
    const own = await tokensOf({})
    expect(own.config.bos).toBe("<s>")
    expect(own.all.map(([first]) => first)).toEqual([begin, begin])
    const none = await tokensOf({ bos: "none" })
    expect(none.all).toEqual(own.all.map((tokens) => tokens.slice(1)))
    // the file beside it has the last word, of classes that go by it
    const beside = join(root, "tokenizer_config.json")
    writeFileSync(beside, JSON.stringify({ tokenizer_class: "LlamaTokenizer", add_bos_token: false }))
    expect((await tokensOf({})).config.bos).toBe("none")
    writeFileSync(beside, "{")
    await expect(tokensOf({})).rejects.toThrow(/tokenizer_config\.json: is not JSON/)
    rmSync(beside)
    // one that puts nothing there is as it was
    expect((await tokensOf({ tokenizer: tokenizerFile })).config.bos).toBe("none")
    // a folder stands for the file in it, and for what lies beside that
    const folder = fresh()
    mkdirSync(folder)
    cpSync(framed, join(folder, "tokenizer.json"))
    const inside = await tokensOf({ tokenizer: folder })
    expect([inside.all, inside.config]).toEqual([own.all, { ...own.config, tokenizer: join(folder, "tokenizer.json") }])
    writeFileSync(join(folder, "tokenizer_config.json"), "{")
    await expect(tokensOf({ tokenizer: folder })).rejects.toThrow(/tokenizer_config\.json: is not JSON/)
  })

  it("is no token where the text spells it, if that is asked for", async () => {
    const end = tokenizer.specialTokens.get("</s>")!
    const count = (tokens: ReadonlyArray<number>) => tokens.filter((id) => id === end).length
    const [special, text] = [await tokensOf({}), await tokensOf({ specialAsText: true })]
    expect([count(special.all[0]!), count(text.all[0]!)]).toEqual([2, 1])
    expect([special.config.specialAsText, text.config.specialAsText]).toEqual([undefined, true])
    expect((await tokensOf({ specialAsText: false })).config).toEqual(special.config)
  })
})

describe("tokenizing", () => {
  it("writes every document with its tokens, end, name, source and hash, in order", async () => {
    const out = fresh()
    const report = await run(make(out, { shardTokens: 10_000 }))
    const eos = tokenizer.vocabSize - 1
    expect(await documentsOf(out)).toEqual(kept.map(({ name, text }) => ({
      name,
      source: data,
      tokens: [...tokenizer.encode(text), eos].join(),
      content: contentHash(text),
      near: undefined
    })))
    const shards = await run(open(out))
    expect(shards.dataset!.shards.length).toBeGreaterThan(3)
    expect(shards.dataset!.shards.every((shard) => shard.tokens <= 10_000)).toBe(true)
    expect([shards.tokenizer, shards.vocabSize, shards.dataset!.eos]).toEqual([tokenizer.toJSON(), eos + 1, eos])
    expect(report).toMatchObject({ documents: kept.length, tokens: shards.tokens, folder: out })
    expect(report.bytes).toBe(kept.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0))
    expect(readdirSync(out).filter((name) => !/^(shard-|dataset|tokenizer)/.test(name))).toEqual([])
  })

  it("gives the same bytes with any number of workers, and the same documents for any size of shards", async () => {
    const [one, three, small, bytes] = [fresh(), fresh(), fresh(), fresh()]
    await run(make(one, { shardTokens: 30_000 }))
    await run(make(three, { shardTokens: 30_000 }, { workers: 3, batch: 777 }))
    expect(filesOf(three)).toEqual(filesOf(one))
    await run(make(small, { shardTokens: 2000 }))
    expect(await documentsOf(small)).toEqual(await documentsOf(one))
    await run(make(bytes, { shardBytes: 60_000 }))
    expect(readFileSync(join(bytes, "shard-00000.bin")).toString("base64"))
      .toBe(readFileSync(join(one, "shard-00000.bin")).toString("base64"))
  })

  it("gives a document that is longer than a shard one of its own", async () => {
    const out = fresh()
    const documents = ["one two", sentence(300), "three", "four"].map((text, i) => ({ name: String(i), text }))
    await run(make(out, { shardTokens: 40 }, { source: memory(documents) }))
    const { dataset } = await run(open(out))
    expect(dataset!.shards.map((shard) => shard.documents)).toEqual([1, 1, 2])
    expect(dataset!.shards[1]!.tokens).toBeGreaterThan(40)
  })

  it("numbers sources in the order in which they first occur, and counts blank documents", async () => {
    const out = fresh()
    const source = memory([
      { name: "1", text: "x", source: "b" },
      { name: "2", text: "\n", source: "never" },
      { name: "3", text: "y", source: "a" },
      { name: "4", text: "z", source: "b" },
      { name: "5", text: "w" }
    ])
    const report = await run(make(out, {}, { source }))
    expect(report.dataset.sources).toEqual(["b", "a", data])
    expect((await documentsOf(out)).map((one) => one.source)).toEqual(["b", "a", "b", data])
    expect(report.blanks).toBe(1)
  })

  it("trains a tokenizer on the data, tells how far it is, and does so once", async () => {
    const out = fresh()
    const events: Array<TokenizeEvent> = []
    const input = { tokenizer: "bpe", vocabSize: 800, data: [{ path: data }, { path: data }] } as const
    const report = await run(make(out, input, { onEvent: (event) => events.push(event) }))
    const training = events.flatMap((event) => event._tag === "Training" ? [event.entries] : [])
    expect(training).toEqual([0, 512, 768])
    expect(report.dataset).toMatchObject({ vocabSize: 800, eos: 799, documents: 2 * kept.length })
    const last = events.findLast((event) => event._tag === "Progress")
    expect(last).toMatchObject({ documents: report.documents, tokens: report.tokens, bytes: report.bytes })
    expect(report.tokensPerByte).toBeCloseTo(report.tokens / report.bytes, 10)
  })

  it("takes gpt2 and bytes, both with an end of text, and puts a token before documents if asked", async () => {
    const source = memory([{ name: "1", text: "Hello world" }])
    const tokens = async (input: Partial<TokenizeInput>) => {
      const out = fresh()
      await run(make(out, input, { source }))
      return (await documentsOf(out))[0]!.tokens
    }
    expect(await tokens({ tokenizer: "gpt2" })).toBe("15496,995,50256")
    expect(await tokens({ tokenizer: "gpt2", bos: "auto", eos: "none" })).toBe("50256,15496,995")
    expect(await tokens({ tokenizer: "bytes" })).toBe([...Buffer.from("Hello world"), 256].join())
    const end = tokenizer.vocabSize - 1
    expect(await tokens({ eos: "</s>", bos: "</s>" })).toMatch(new RegExp(`^${end},.*,${end}$`))
  })

  it("finds near-duplicates when asked", async () => {
    const out = fresh()
    const [a, b] = [sentence(200), sentence(200)]
    const documents = [a, b, `${a} and more`, sentence(200), b, "short"].map((text, i) => ({ name: String(i), text }))
    const input = { near: { threshold: 0.7 }, shardTokens: 500 }
    const report = await run(make(out, input, { source: memory(documents), workers: 2 }))
    expect(report.dataset.shards.length).toBeGreaterThan(2)
    expect((await documentsOf(out)).map(({ near }) => near)).toEqual([0, 1, 0, 3, 1, 5])
    expect(report.dataset.near).toEqual({ threshold: 0.7, numHashes: 128, shingle: 5, clusters: 2, documents: 4 })
    expect(readdirSync(out).some((name) => name.endsWith(".sig"))).toBe(false)
  })
})

describe("a folder that is not new", () => {
  it("is left as it is when it is complete, and refused for another configuration", async () => {
    const out = fresh()
    await run(make(out))
    const before = filesOf(out)
    const events: Array<TokenizeEvent> = []
    const again = await run(make(out, {}, { onEvent: (event) => events.push(event) }))
    expect(again.speed).toBeUndefined()
    expect([again.documents, events]).toEqual([kept.length, []])
    expect(await refusal(out, { shardTokens: 7, eos: "none" })).toMatch(
      /the finished shards of another .*\n {2}eos: "auto" then, "none" now\n {2}shardTokens: not set then, 7 now/
    )
    expect(filesOf(out)).toEqual(before)
  })

  it("is refused when it holds something else", async () => {
    const out = fresh()
    mkdirSync(out)
    writeFileSync(join(out, "thesis.txt"), "")
    expect(await refusal(out)).toMatch(/is not empty, it holds thesis\.txt/)
    rmSync(join(out, "thesis.txt"))
    writeFileSync(join(out, "tokenize.json"), "{}")
    expect(await refusal(out)).toMatch(/tokenize\.json: is no record of an interrupted run/)
  })

  it("goes on from no journal that was changed: what that counts would stand in dataset.json", async () => {
    const out = fresh()
    await stopped(out, 120, { shardTokens: 10_000 })
    const file = join(out, "tokenize.json")
    const text = readFileSync(file, "utf8")
    const asked = () => refusal(out, { shardTokens: 10_000 }, { source: whole })
    for (const [field, value] of [["bytes", 7], ["documents", 1], ["sources", []], ["tokens", 3]] as const) {
      writeFileSync(file, JSON.stringify({ ...JSON.parse(text), [field]: value }))
      expect(await asked()).toMatch(/tokenize\.json: is not as it was written\. Remove the folder and tokenize again/)
    }
    for (const change of [{ bytes: -1 }, { consumed: 0.5 }, {
      shards: [{ file: "../x.bin", tokens: 1, documents: 1 }]
    }]) {
      writeFileSync(file, JSON.stringify({ ...JSON.parse(text), ...change }))
      expect(await asked()).toMatch(/tokenize\.json: is no record of an interrupted run/)
    }
    writeFileSync(file, text)
    await run(make(out, { shardTokens: 10_000 }, { source: whole }))
  })

  /** A folder in which a run has stopped: its source fails after so many documents. */
  const stopped = async (out: string, after: number, input: Partial<TokenizeInput> = {}) => {
    const failing: DocumentSource = () =>
      Stream.concat(
        Stream.rechunk(Stream.fromIterable(texts.slice(0, after).map((text, i) => ({ text, name: `d${i}` }))), 5),
        Stream.dieMessage("stopped")
      )
    await run(Effect.exit(make(out, input, { source: failing })))
    return JSON.parse(readFileSync(join(out, "tokenize.json"), "utf8")) as { shards: Array<unknown>; consumed: number }
  }
  const whole = memory(texts.map((text, i) => ({ text, name: `d${i}` })))

  it("goes on behind the last finished shard, to the same bytes", async () => {
    const [out, reference] = [fresh(), fresh()]
    const input: Partial<TokenizeInput> = { shardTokens: 10_000, near: { threshold: 0.5 } }
    await run(make(reference, input, { source: whole }))
    const { shards } = await stopped(out, 120, input)
    expect(shards.length).toBeGreaterThan(2)
    expect(readdirSync(out).filter((name) => name.endsWith(".tmp"))).toEqual([])
    const events: Array<TokenizeEvent> = []
    const report = await run(make(out, input, { source: whole, onEvent: (event) => events.push(event) }))
    expect(events[0]).toMatchObject({ _tag: "Resumed", shards: shards.length })
    expect(filesOf(out)).toEqual(filesOf(reference))
    expect(report.blanks).toBe(texts.length - kept.length)
    expect(report.speed!.documents).toBeLessThan(report.documents)
  })

  it("is refused when configuration, tokenizer, data or shards have changed", async () => {
    const out = fresh()
    const { consumed } = await stopped(out, 120, { shardTokens: 10_000 })
    const input = { shardTokens: 10_000 }
    expect(await refusal(out, { shardTokens: 30_000 }, { source: whole })).toMatch(
      /a part of the shards of another configuration.*\n {2}shardTokens: 10000 then, 30000 now/
    )
    for (const at of [0, consumed - 1]) {
      const other = texts.map((text, i) => ({ text: i === at ? text.replace(/.$/u, "!") : text, name: `d${i}` }))
      expect(await refusal(out, input, { source: memory(other) })).toMatch(/the data is not what it was/)
    }
    const fewer = kept.slice(0, 20)
    expect(await refusal(out, input, { source: memory(fewer) })).toMatch(/the data is not what it was/)
    const broken = fresh()
    cpSync(out, broken, { recursive: true })
    writeFileSync(join(broken, "shard-00001.bin"), "x")
    expect(await refusal(broken, input, { source: whole })).toMatch(/shard-00001\.bin: has 1 bytes, \d+ were written/)
    writeFileSync(tokenizerFile, Tokenizer.bytes.toJSON())
    expect(await refusal(out, { ...input, eos: "none" }, { source: whole })).toMatch(/eos: "auto" then/)
    expect(await refusal(out, input, { source: whole })).toMatch(/tokenizer\.json: is not the tokenizer .* any more/)
    writeFileSync(tokenizerFile, tokenizer.toJSON())
  })
})

describe("what cannot be tokenized", () => {
  it("is explained", async () => {
    expect(await refusal(fresh(), { tokenizer: join(root, "gone.json") })).toMatch(/gone\.json: no tokenizer: there/)
    const out = fresh()
    expect(await refusal(out, { eos: "<end>" })).toMatch(/eos: .* has no special token <end>; it has <\/s>/)
    const events: Array<TokenizeEvent> = []
    expect(await refusal(out, { tokenizer: "bpe", eos: "<end>" }, { onEvent: (event) => events.push(event) }))
      .toMatch(/eos: .* has no special token <end>; it has <\|endoftext\|>/)
    expect(events).toEqual([])
    expect(existsSync(out) ? readdirSync(out) : []).toEqual([])
    expect(await refusal(fresh(), { bos: "auto" })).toMatch(/bos: the tokenizer has no bos token under a usual name/)
    expect(await refusal(fresh(), { shardTokens: 1, shardBytes: 1 })).toMatch(/one of shardTokens and shardBytes/)
    expect(await refusal(fresh(), { vocabSize: 0 })).toMatch(/vocabSize/)
    const blank = memory([{ name: "1", text: " " }])
    expect(await refusal(fresh(), {}, { source: blank })).toMatch(/every document is blank/)
    const gone = [{ path: join(root, "gone.txt") }] as const
    expect(await refusal(fresh(), { data: gone })).toMatch(/gone\.txt: there is no such file/)
    writeFileSync(join(root, "file"), "")
    expect(await refusal(join(root, "file"))).toMatch(/file: cannot be made/)
  })
})

describe("a killed process", () => {
  const child = fileURLToPath(new URL("tokenize.child.ts", import.meta.url))

  /** Runs it until `stop` says so of an event, then kills it; true if it came to its end. */
  const killed = (out: string, config: TokenizeInput, stop: (event: string) => boolean): Promise<boolean> => {
    const process_ = spawn(process.execPath, ["--import", "tsx", child, out, JSON.stringify(config)], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    process_.stdout.on("data", (lines) => {
      if (String(lines).trim().split("\n").some(stop)) process_.kill("SIGKILL")
    })
    return new Promise((resolve, reject) => {
      process_.on("error", reject)
      process_.on("close", (code, signal) =>
        code === 0 || signal === "SIGKILL"
          ? resolve(code === 0)
          : reject(new Error(`the child exited with ${code}`)))
    })
  }

  it("loses nothing: a rerun gives the bytes of an uninterrupted run", async () => {
    const config: TokenizeInput = { ...base, shardTokens: 5000, near: { threshold: 0.5 } }
    const [out, reference] = [fresh(), fresh()]
    await run(tokenize(config, { out: reference, workers: 1 }))
    let shards = 0
    const moments: ReadonlyArray<(event: string) => boolean> = [
      (event) => event === "Progress",
      (event) => event === "Shard" && ++shards > 2,
      (event) => event === "Clustering"
    ]
    const shardsAt: Array<number> = []
    for (const moment of moments) {
      expect(await killed(out, config, moment)).toBe(false)
      shardsAt.push(JSON.parse(readFileSync(join(out, "tokenize.json"), "utf8")).shards.length)
    }
    expect(shardsAt).toEqual([...shardsAt].sort((a, b) => a - b))
    expect(shardsAt[1]).toBeGreaterThan(shardsAt[0]!)
    expect(await killed(out, config, () => false)).toBe(true)
    expect(filesOf(out)).toEqual(filesOf(reference))
  })
})
