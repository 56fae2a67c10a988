import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import * as Checkpoints from "../../src/checkpoints/Checkpoints.ts"
import type { GenerateOptions } from "../../src/cli/commands/generate.ts"
import { runGenerate } from "../../src/cli/generate.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { makeRouter, writeRouter } from "../../src/data/identity/Router.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { fingerprint } from "../../src/data/tokens/SameTokenizer.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import * as Generate from "../../src/model/Generate.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { off, own, SinkConfig } from "../../src/Sink.ts"
import { inTurns } from "../../src/Turns.ts"
import { memsinksHere } from "../support/stdout.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-generate-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 64,
  maxPositionEmbeddings: 64,
  initializerRange: 0.5,
  sinks: new SinkConfig({ pool: 64, active: 32, block: 16 })
})
const checkpoint = join(folder, "model")
const plain = join(folder, "llama")

/** What the program must say, by the API: tokens after `prompt`, greedy. */
const wanted: Array<{ readonly prompt: string; readonly id: bigint | undefined; readonly text: string }> = []

beforeAll(() =>
  Effect.runPromise(
    Effect.gen(function*() {
      const model = yield* Model.make(config, { seed: 3 })
      const tensors = yield* model.exportTensors
      yield* Checkpoints.saveModel(checkpoint, {
        config: huggingFaceConfig(config),
        model: tensors,
        tokenizer: bytes.toJSON()
      })
      for (const [prompt, id] of [["Hello", 7n], ["World", sourceHash("web")], ["Hello", undefined]] as const) {
        const tokens = yield* Effect.provideService(
          Generate.collect(
            { tokens: bytes.encode(prompt), ...(id === undefined ? {} : { id }) },
            { maxNewTokens: 6, temperature: 0, sinks: id === undefined ? off : own }
          ),
          Model,
          model
        )
        wanted.push({ prompt, id, text: bytes.decode(tokens) })
      }
    }).pipe(Effect.scoped, Effect.provide(NodeDevice.layer()), Effect.provide(NodeContext.layer))
  )
)

const run = (...args: ReadonlyArray<string>) => memsinksHere(["generate", ...args])

const greedy = ["--checkpoint", checkpoint, "--temperature", "0", "--max-new-tokens", "6"]

it("prints the continuation alone on stdout, with the sinks of an id or without", async () => {
  const withId = await run(...greedy, "--prompt", "Hello", "--id", "0x7")
  const without = await run(...greedy, "--prompt", "Hello", "-q")
  expect(withId).toMatchObject({ code: 0, stdout: `${wanted[0]!.text}\n` })
  expect(withId.stderr).toContain("sinks own")
  expect(without).toMatchObject({ code: 0, stdout: `${wanted[2]!.text}\n` })
  expect(without.stderr).toBe("")
  expect(wanted[0]!.text).not.toBe(wanted[2]!.text)
})

it("takes prompts with ids from a file, and reports all in one object", async () => {
  const file = join(folder, "prompts.jsonl")
  writeFileSync(file, "{\"prompt\": \"Hello\", \"id\": 7}\n\n{\"prompt\": \"World\", \"source\": \"web\"}\n")
  const { code, stdout } = await run(...greedy, "--prompts", file, "--json", "--log-probs")
  const shown = await run(...greedy, "--prompts", file)
  expect(code).toBe(0)
  const report = JSON.parse(stdout)
  expect(report).toMatchObject({ checkpoint, sinks: "own", seed: 0 })
  const results = report.results as ReadonlyArray<{ prompt: string; id: string; text: string }>
  expect(results.map(({ id, prompt, text }) => [prompt, id, text])).toEqual(
    wanted.slice(0, 2).map(({ id, prompt, text }) => [prompt, `${id}`, text])
  )
  for (const { finish, logProbs, tokens } of report.results) {
    expect(finish).toBe("length")
    expect(tokens.length).toBe(6)
    expect(logProbs.every((x: number) => x < 0)).toBe(true)
  }
  // texts in the order of the prompts, each behind its prompt
  expect(shown.stdout).toBe(wanted.slice(0, 2).map(({ prompt, text }) => `${prompt}${text}\n`).join(""))
})

it("reads a plain Llama, without a manifest and without sinks", async () => {
  mkdirSync(plain)
  for (const name of ["model.safetensors", "tokenizer.json"]) cpSync(join(checkpoint, name), join(plain, name))
  const { memsinks: _, ...json } = JSON.parse(readFileSync(join(checkpoint, "config.json"), "utf8"))
  writeFileSync(join(plain, "config.json"), JSON.stringify(json))
  const read = await run("--checkpoint", plain, "--prompt", "Hello", "--max-new-tokens", "3")
  const refused = await run("--checkpoint", plain, "--prompt", "Hello", "--id", "7")
  expect(read.code).toBe(0)
  expect(read.stdout.length).toBeGreaterThan(1)
  expect(refused).toMatchObject({ code: 2, stdout: "" })
  expect(refused.stderr).toContain("the model has no sinks: leave --id, --source and --sinks out")
})

it("lights the nearest source, never one that is denied, and tells which and how near", async () => {
  const routed = join(folder, "routed")
  const texts = { sea: "waves and salt and ships at sea ", hill: "grass of hills, sheep upon hills " }
  const ids = Object.keys(texts).map((name) => ({ id: sourceHash(name), name, documents: 1, tokens: 1 }))
  const file = join(folder, "router.bin")
  await Effect.runPromise(
    Effect.gen(function*() {
      const saved = yield* Checkpoints.loadModel(checkpoint)
      yield* Checkpoints.saveModel(routed, { ...saved, names: encodeNames({ identity: "source", ids }) })
      const corpus = documentsOf(
        Object.entries(texts).map(([source, text]) => ({ source, tokens: bytes.encode(text) }))
      )
      const router = yield* inTurns(makeRouter(corpus, sourceHash, { tokenizer: fingerprint(bytes.toJSON()) }))
      yield* writeRouter(file, router)
    }).pipe(Effect.provide(NodeContext.layer))
  )
  const prompts = ["--prompt", "ships at", "--prompt", "sheep up", "--prompt", "XYZ"]
  const ask = async (...args: ReadonlyArray<string>) => {
    const { code, stderr, stdout } = await run("--checkpoint", routed, "--max-new-tokens", "2", "--temperature", "0",
      "--json", ...prompts, ...args)
    const report = code === 0 ? JSON.parse(stdout) : undefined
    const lit = report?.results.map((one: { name?: string; lit: { state: string } }) => one.name ?? one.lit.state)
    return { code, stderr, report, lit }
  }
  const near = await ask("--router", file)
  expect(near.lit).toEqual(["sea", "hill", "off"])
  expect(near.report.router).toBe(file)
  expect(near.report.results[0].lit).toMatchObject({ state: "own", source: "sea" })
  expect(near.report.results[0].lit.similarity).toBeGreaterThan(0.1)
  expect(near.report.results[2].lit).toEqual({ state: "off", source: null, similarity: null })
  expect(near.stderr).toContain("sinks own of 2 sources, off for 1 prompt; ")
  expect((await ask("--router", file, "--deny", "sea")).lit).not.toContain("sea")
  const far = await ask("--router", file, "--least", "0.99")
  expect(far.lit).toEqual(["off", "off", "off"])
  expect(far.stderr).toContain("sinks off; ")
  // what each says is what it says alone, with that id
  const alone = await run("--checkpoint", routed, "--max-new-tokens", "2", "--temperature", "0", "--prompt", "sheep up",
    "--source", "hill", "--json")
  expect(alone.stderr).toContain("sinks own of hill; ")
  expect(JSON.parse(alone.stdout).results[0].tokens).toEqual(near.report.results[1].tokens)
  const named = await ask("--route", "hill", "--sinks", "off")
  expect(named.report.results[0]).toMatchObject({ name: "hill", lit: { state: "off", source: null } })
  expect(named.stderr).toContain("sinks off; ")
  const refused: ReadonlyArray<readonly [args: ReadonlyArray<string>, code: number, said: string]> = [
    [["--route", "nearest"], 2, "--route nearest needs what finds it: name with --router"],
    [["--route", "hill", "--source", "sea"], 2, "leave one out"],
    [["--route", "hill", "--deny", "hill"], 1, "leaves out \"hill\", whose sinks it asks for"],
    [["--deny", "hil"], 1, "Did you mean \"hill\"?"],
    [["--route", "hill", "--sinks", "all", "--deny", "sea"], 2, "--sinks all lights those of others"]
  ]
  for (const [args, code, said] of refused) {
    const one = await ask(...args)
    expect(one.stderr).toContain(said)
    expect(one.code).toBe(code)
  }
})

it("says what is wrong, as wrong usage or as what does not fit or cannot be read", async () => {
  const bare = join(folder, "bare")
  mkdirSync(bare)
  for (const name of ["model.safetensors", "config.json"]) cpSync(join(checkpoint, name), join(bare, name))
  const named = join(folder, "named")
  const ids = [{ id: sourceHash("web"), name: "web", documents: 1, tokens: 1 }]
  await Effect.runPromise(
    Effect.flatMap(Checkpoints.loadModel(checkpoint),
      (saved) => Checkpoints.saveModel(named, { ...saved, names: encodeNames({ identity: "source", ids }) })).pipe(
        Effect.provide(NodeContext.layer)
      )
  )
  const file = join(folder, "broken.jsonl")
  const twice = join(folder, "twice.jsonl")
  writeFileSync(twice, "{\"prompt\": \"a\", \"id\": 1, \"id\": 2}\n")
  writeFileSync(file, "{\"prompt\": \"a\"}\n{\"prompt\": 3}\n")
  const options: GenerateOptions = {
    checkpoint,
    prompt: ["a"],
    prompts: Option.none(),
    maxNewTokens: 1,
    temperature: 1,
    topK: Option.none(),
    topP: 1,
    seed: 0,
    id: Option.none(),
    source: Option.none(),
    sinks: Option.none(),
    router: Option.none(),
    least: 0,
    embeddingsUrl: Option.none(),
    embeddingsModel: Option.none(),
    embeddingsKeyFile: Option.none(),
    route: Option.none(),
    allow: [],
    deny: [],
    memfree: Option.none(),
    stop: [],
    specialAsText: false,
    batch: 8,
    precision: "f32",
    logProbs: false,
    adapter: Option.none(),
    json: true,
    quiet: true
  }
  const cases: ReadonlyArray<readonly [tag: string, message: RegExp, over: Partial<GenerateOptions>]> = [
    ["Usage", /^give a text to continue/, { prompt: [] }],
    ["DataError", /an id is a whole number, such as 7 or 0xff, got "seven"/, { id: Option.some("seven") }],
    ["DataError", /an id is a whole number from 0 to 2\^64 - 1.*got 18446744073709551617/, {
      id: Option.some("18446744073709551617")
    }],
    ["DataError", /trained with a source called "Web"\. Did you mean "web"\?/, { checkpoint: named,
      source: Option.some("Web") }],
    ["DataError", /not trained with the id 7/, { checkpoint: named, id: Option.some("7") }],
    ["Usage", /^own sinks are those of an id/, { sinks: Option.some("own" as const) }],
    ["Usage", /^--id and --source name an id each/, { id: Option.some("1"), source: Option.some("web") }],
    ["DataError", /^topP must be above 0 and at most 1, got 1.5/, { topP: 1.5 }],
    ["DataError", /^the prompt has 65 tokens, the model has positions .* for 64/, { prompt: ["a".repeat(65)] }],
    ["DataError", /broken.jsonl: line 2 is no prompt: it has no field prompt/, { prompts: Option.some(file) }],
    ["DataError", /twice.jsonl: line 1 is no prompt: it has the key "id" twice/, { prompts: Option.some(twice) }],
    ["CheckpointError", /bare: holds no tokenizer.json/, { checkpoint: bare }],
    ["CheckpointError", /nothing: there is no such folder/, { checkpoint: join(folder, "nothing") }]
  ]
  for (const [tag, message, over] of cases) {
    const failing = Effect.flip(runGenerate({ ...options, ...over }))
    const error = await Effect.runPromise(Effect.provide(failing, NodeContext.layer))
    expect(error.message).toMatch(message)
    expect(error._tag).toBe(tag)
  }
  const { code, stderr, stdout } = await run(...greedy, "--prompt", "a", "--top-p", "0")
  expect(stderr).toContain("error: --top-p must be a number above 0")
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" })
})

describe("MemFree decoding", () => {
  const said = join(folder, "said.txt")
  const filter = join(folder, "said.memfree")
  const make = (...args: ReadonlyArray<string>) => memsinksHere(["memfree", "--out", filter, ...args])
  const protect = ["--data", said, "--tokenizer", checkpoint, "--ngram", "3"]

  it("keeps generate from what a filter of texts, records or shards protects", async () => {
    const free = await run(...greedy, "--prompt", "Hello")
    const whole = `Hello${wanted[2]!.text}`
    writeFileSync(join(folder, "said.jsonl"), JSON.stringify({ body: whole }))
    writeFileSync(said, whole)
    const shards = join(folder, "shards")
    await memsinksHere(["tokenize", "--data", said, "--tokenizer", join(checkpoint, "tokenizer.json"), "--out", shards,
      "--eos", "none"])
    const made = await make(...protect, "--json")
    const file = readFileSync(filter)
    expect(JSON.parse(made.stdout)).toMatchObject({ file: filter, documents: 1, n: 3, bytes: file.length })
    const guarded = await run(...greedy, "--prompt", "Hello", "--memfree", filter)
    expect(guarded.code).toBe(0)
    expect(free.stdout).toBe(`${wanted[2]!.text}\n`)
    expect(guarded.stdout).not.toBe(free.stdout)
    for (const data of [["--data", join(folder, "said.jsonl"), "--text-field", "body", "--tokenizer", checkpoint], [
      "--data",
      shards
    ]]) {
      const { code, stdout } = await make(...data, "--ngram", "3")
      expect([code, stdout]).toEqual([0, expect.stringMatching(/said\.memfree: \d+ 3-grams of 1 document in/)])
      // the bytes of a text that is no UTF-8 are not those that were said: the counts differ, the prompt's do not
      expect(readFileSync(filter).subarray(40, 72)).toEqual(file.subarray(40, 72))
    }
  })

  it("refuses what is no filter, a filter of another tokenizer, and texts without a tokenizer or an n-gram", async () => {
    const other = join(folder, "other.json")
    const json = JSON.parse(bytes.toJSON())
    writeFileSync(other, JSON.stringify({ ...json, added_tokens: [{ id: 256, content: "<x>", special: true }] }))
    const errors = async (...args: ReadonlyArray<string>) => {
      const { code, stderr, stdout } = await make(...args)
      expect([code === 0, stdout]).toEqual([false, ""])
      return stderr
    }
    expect(await errors("--data", said)).toContain("is text: name the model's tokenizer.json with --tokenizer")
    expect(await errors("--data", said, "--tokenizer", checkpoint, "--ngram", "100")).toContain(
      "no 100-gram to protect"
    )
    expect(await errors(...protect, "--false-positives", "2")).toContain("--false-positives must be a number above 0")
    expect(await errors("--data", said, "--tokenizer", checkpoint, "--ngram", "1")).toContain(
      "--ngram must be a whole number of at least 2"
    )
    expect(await errors("--data", join(folder, "shards"), "--tokenizer", other)).toContain("another tokenizer than")
    expect(await errors()).toContain("give --data")
    await make("--data", said, "--ngram", "3", "--tokenizer", other)
    for (const [file, message] of [[filter, "n-grams of another tokenizer's"], [said,
      "is no filter of MemFree"]] as const)
    {
      const { code, stderr } = await run(...greedy, "--prompt", "Hello", "--memfree", file)
      expect(code).toBe(1)
      expect(stderr).toContain(message)
    }
  })
})
