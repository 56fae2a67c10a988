import * as NodeContext from "@effect/platform-node/NodeContext"
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect } from "vitest"
import { evaluate, type EvaluateOptions, type EvaluationReport } from "../../pipelines/evaluate.ts"
import * as Checkpoints from "../../src/checkpoints/Checkpoints.ts"
import { format } from "../../src/cli/evaluate.ts"
import { contentHash, sourceHash } from "../../src/data/identity/Identity.ts"
import { batchOf, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import { Device } from "../../src/gpu/Device.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { SinkConfig } from "../../src/Sink.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-evaluate-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 64,
  maxPositionEmbeddings: 32,
  initializerRange: 0.3,
  sinks: new SinkConfig({ pool: 64, active: 32, block: 16 })
})

const texts = [
  { text: "The first text, which is longer than the others are.", topic: "a" },
  { text: "A second tëxt.", topic: "b" },
  { text: "The third.", topic: "a" }
]
const data = join(folder, "data.jsonl")
writeFileSync(data, texts.map((line) => `${JSON.stringify(line)}\n`).join(""))

/** A run of `pretrain` as far as evaluation looks at it: what it was trained on, and a checkpoint. */
const run = join(folder, "run")
const lone = join(folder, "lone")
const ofRun = {
  data: join(folder, "text.txt"),
  tokenizer: "bytes",
  seqLen: 24,
  singleSequences: 6,
  repeatedSequences: 2,
  repeats: 2,
  heldOutSequences: 3,
  seed: 1
}
writeFileSync(ofRun.data, Array.from({ length: 40 }, (_, i) => `Line ${i} says ${i * i}.`).join("\n"))

/** Sums over sequences of tokens, each scored alone. */
const byHand = (sequences: ReadonlyArray<Pick<Row, "id" | "tokens">>, mode: Sink.SinkMode, prompt: number) =>
  Effect.gen(function*() {
    const model = yield* Model
    let [loss, tokens, hits, verbatim, long] = [0, 0, 0, 0, 0]
    for (const row of sequences) {
      const n = row.tokens.length - 1
      const scores = yield* model.evaluate(batchOf([{ ...row, document: "", offset: 0 }], n), mode)
      const right = [...scores.rank].map((rank) => rank === 0)
      loss += scores.loss.reduce((a, b) => a + b, 0)
      tokens += n
      hits += right.filter(Boolean).length
      if (row.tokens.length > prompt) {
        long++
        if (right.every((hit, t) => hit || t + 1 < prompt)) verbatim++
      }
    }
    return { loss: loss / tokens, tokens, accuracy: hits / tokens, extraction: verbatim / Math.max(1, long) }
  })

const expectGroup = (
  report: EvaluationReport,
  name: string,
  mode: "own" | "off",
  want: Effect.Effect.Success<ReturnType<typeof byHand>>
) => {
  const group = report.groups.find((one) => one.name === name)!
  const score = group.scores[mode]!
  const what = `${name} ${mode}`
  expect(group.tokens, what).toBe(want.tokens)
  expect(score.loss, what).toBeCloseTo(want.loss, 4)
  expect(score.perplexity, what).toBeCloseTo(Math.exp(want.loss), 1)
  expect(score.bitsPerByte, what).toBeCloseTo((want.loss * want.tokens) / Math.LN2 / group.bytes!, 3)
  expect(score.accuracy, what).toBeCloseTo(want.accuracy, 9)
  expect(score.extraction!, what).toBeCloseTo(want.extraction, 9)
}

/** A text in pieces of up to 9 tokens that overlap by one. */
const pieces = (text: string, id: bigint) => {
  const all = bytes.encode(text)
  const out: Array<Pick<Row, "id" | "tokens">> = []
  for (let at = 0; at + 1 < all.length; at += 8) out.push({ id, tokens: all.slice(at, at + 9) })
  return out
}

layer(NodeDevice.layer())("evaluation", (it) => {
  const setUp = Effect.gen(function*() {
    const model = yield* Model.make(config, { seed: 5 })
    const saved = { config: huggingFaceConfig(config), model: yield* model.exportTensors, tokenizer: bytes.toJSON() }
    for (const target of [lone, join(run, "seed-1", "sinks", "step-00000000")]) {
      if (!existsSync(target)) yield* Checkpoints.saveModel(target, saved)
    }
    writeFileSync(join(run, "run.json"), JSON.stringify({ kind: "pretrain", config: { data: ofRun } }))
    return model
  })
  const device = Effect.map(Device, (one) => Layer.succeed(Device, one))
  const score = (path: string, options: Omit<EvaluateOptions, "device">) =>
    Effect.flatMap(device, (device) => evaluate(path, { device, ...options }))
  const provided = <A, E>(effect: Effect.Effect<A, E, any>) =>
    Effect.provide(effect, NodeContext.layer) as Effect.Effect<A, E, never>

  it.scoped("has every source in JSON, however many there are, and says what a table leaves out", () =>
    provided(Effect.gen(function*() {
      yield* setUp
      const many = join(folder, "many.jsonl")
      const lines = Array.from({ length: 70 }, (_, i) => ({ text: `text ${"ab".repeat(i % 5)} ${i}`, topic: `t${i}` }))
      writeFileSync(many, lines.map((line) => `${JSON.stringify(line)}\n`).join(""))
      const options = { data: many, sourceField: "topic", identity: "source", seqLen: 24, batchSize: 35,
        sinks: ["off"] } as const
      const report = yield* score(lone, options)
      const sources = report.groups.filter(({ by }) => by === "source")
      expect(sources.map(({ name }) => name).sort()).toEqual(lines.map(({ topic }) => topic).sort())
      expect(sources.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(report.groups[0]!.tokens)
      for (const { id, name } of sources) expect(id).toBe(`${sourceHash(name)}`)
      expect(sources.map(({ tokens }) => tokens)).toEqual(sources.map(({ tokens }) => tokens).toSorted((a, b) => b - a))
      expect(format(report, (_, text) => text)).toContain(
        "the 64 largest of 70 sources; 6 are left out here: --json has all"
      )

      const few = yield* score(lone, { ...options, sequences: 20 })
      expect(few.groups.filter(({ by }) => by === "source").length).toBe(70)
      expect(format(few, (_, text) => text)).toContain("no sequence was drawn of 50 of 70 sources: raise --sequences")
      expect(format(few, (_, text) => text)).toContain("20 of 70 sequences, drawn by the seed")
    })))

  it.scoped("scores other data by source, with the sinks of its identity and without", () =>
    provided(Effect.gen(function*() {
      const model = yield* setUp
      const short = { data, seqLen: 8, promptTokens: 2 }
      const report = yield* score(lone, { ...short, sourceField: "topic", identity: "source", batchSize: 4 })
      expect(report).toMatchObject({ data, seqLen: 8, identity: "source", sinks: ["own", "off", "placebo"] })
      expect(report.groups.map(({ bytes, name, sequences }) => [name, sequences, bytes])).toEqual([
        ["all", 11, 74],
        ["a", 9, 60],
        ["b", 2, 14]
      ])
      const of = (topic: string) =>
        texts.filter((one) => one.topic === topic).flatMap(({ text }) => pieces(text, sourceHash(topic)))
      for (const [mode, how] of [["own", Sink.own], ["off", Sink.off]] as const) {
        for (const topic of ["a", "b"]) {
          expectGroup(report, topic, mode, yield* Effect.provideService(byHand(of(topic), how, 2), Model, model))
        }
        expectGroup(report, "all", mode,
          yield* Effect.provideService(byHand([...of("a"), ...of("b")], how, 2), Model, model))
      }
      // ids are of the content now, and one batch holds all
      const content = yield* score(lone, { ...short, identity: "content", batchSize: 64, sinks: ["own"] })
      const rows = texts.flatMap(({ text }) => pieces(text, contentHash(text)))
      expectGroup(content, "all", "own", yield* Effect.provideService(byHand(rows, Sink.own, 2), Model, model))
      expect(content.groups.length).toBe(1)
      // fewer sequences, the same ones for a seed
      const few = { data, seqLen: 8, sequences: 3, sinks: ["off"] as const }
      const [once, again] = [yield* score(lone, few), yield* score(lone, few)]
      expect(once.groups[0]!.sequences).toBe(3)
      expect(again.groups).toEqual(once.groups)
    })))

  it.scoped("scores the splits of the run's own data, with its ids", () =>
    provided(Effect.gen(function*() {
      const model = yield* setUp
      const report = yield* score(run, { promptTokens: 4 })
      expect(report.groups.map(({ by, name, sequences }) => [by, name, sequences])).toEqual([
        ["split", "repeated", 2],
        ["split", "heldOut", 3],
        ["split", "singles", 6]
      ])
      const stream = yield* Effect.provide(DataStream, DataStream.layer(ofRun))
      for (const split of ["repeated", "heldOut", "singles"] as const) {
        for (const [mode, how] of [["own", Sink.own], ["off", Sink.off]] as const) {
          expectGroup(report, split, mode,
            yield* Effect.provideService(byHand(stream.split(split), how, 4), Model, model))
        }
      }
      expect(format(report, (_, text) => text).split("\n")[1]).toMatch(/^repeated +2 +48 +own +\d\.\d{3} /)
    })))

  it.scoped("says what it cannot do", () =>
    provided(Effect.gen(function*() {
      yield* setUp
      const refused = (path: string, options: Omit<EvaluateOptions, "device">) =>
        Effect.map(Effect.flip(score(path, options)), (error) => error.message)
      expect(yield* refused(lone, {})).toMatch(/lone: lies in no folder of a run .* --data$/)
      expect(yield* refused(lone, { data, sinks: ["own"] })).toMatch(/nothing says whose sinks the data lights/)
      expect(yield* refused(run, { data, sinks: ["own"], identity: "row" })).toMatch(/those of the run's own sequences/)
      expect(yield* refused(run, { seqLen: 8 })).toMatch(/leave --seq and --identity out/)
      expect(yield* refused(lone, { data, seqLen: 33 })).toMatch(
        /from 1 to the model's maxPositionEmbeddings of 32, got 33/
      )
      expect(yield* refused(lone, { data, batchSize: 0 })).toMatch(/^batchSize must be a whole number/)
      expect(yield* refused(lone, { data: join(folder, "nowhere.txt") })).toMatch(/nowhere.txt/)
      // as many ids as the model has, made by nobody knows what
      const bare = join(folder, "bare.bin")
      writeFileSync(bare, Uint16Array.from({ length: 400 }, (_, i) => i % 256))
      for (const path of [lone, run]) {
        expect(yield* refused(path, { data: bare, seqLen: 8, sinks: ["off"] })).toMatch(
          /bare\.bin: does not say which tokenizer made it.* --tokenizer/
        )
      }
      const empty = join(folder, "empty")
      mkdirSync(empty)
      expect(yield* refused(empty, { data })).toMatch(/empty/)
    })))
})
