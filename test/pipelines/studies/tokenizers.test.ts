/** The study of tokenizers: its world, what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { writeFileSync } from "node:fs"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { passagesOf, span, tokenize, tokenizers, TokenizersConfig,
  type TokenizersFound } from "../../../pipelines/studies/tokenizers.ts"
import { run } from "../../../pipelines/study.ts"
import { partsOf, resultsOf } from "../../../pipelines/study/Study.ts"
import { bytes, trainBpe } from "../../../src/data/tokens/Tokenizer.ts"
import { ModelConfig } from "../../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-tokenizers-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const draw = random(1, "words")
const words = Array.from({ length: 40 }, () => Array.from({ length: 5 }, () => "abcdefgh"[draw.below(8)]).join(""))
const text = Array.from({ length: 1500 }, () => words[draw.below(words.length)]).join(" ")

describe("passages in tokens", () => {
  it("have the characters that they begin at, and their label behind all entries", async () => {
    const bpe = await Effect.runPromise(trainBpe([text], { vocabSize: 512 }))
    const passage = { text: text.slice(0, 60), label: 1 }
    for (const tokenizer of [bytes, bpe]) {
      const one = tokenize(passage, tokenizer)
      expect(one.tokens.at(-1)).toBe(tokenizer.vocabSize + 1)
      expect(one.starts[0]).toBe(0)
      expect(one.starts.at(-1)).toBe(60)
      const [from, to] = span(one, 20, 30)
      expect(one.starts[from]!).toBeGreaterThanOrEqual(20)
      expect(one.starts[from - 1]!).toBeLessThan(20)
      expect(one.starts[to]!).toBeGreaterThanOrEqual(50)
      expect(one.starts[to - 1]!).toBeLessThan(50)
      expect(tokenizer.decode(one.tokens.subarray(from, to)))
        .toBe(passage.text.slice(one.starts[from], one.starts[to]))
    }
    const [plain, short] = [tokenize(passage, bytes), tokenize(passage, bpe)]
    expect(short.tokens.length).toBeLessThan(plain.tokens.length / 2)
    const coins = random(2)
    const aliased = tokenize(passage, bpe, () => coins.below(2))
    expect(aliased.tokens.length).toBe(short.tokens.length)
    expect([...aliased.tokens].slice(0, -1).map((id) => id % bpe.vocabSize)).toEqual([...short.tokens].slice(0, -1))
    expect(new Set([...aliased.tokens].slice(0, -1).map((id) => id >= bpe.vocabSize)).size).toBe(2)
  })

  it("are of different places, with labels of a coin", () => {
    const all = passagesOf([{ name: "a", text }, { name: "b", text: text.slice(100) }], { characters: 50,
      passages: 60 }, 1)
    expect(new Set(all.map(({ name }) => name)).size).toBe(120)
    expect(all.every(({ text }) => text.length === 50)).toBe(true)
    const ones = all.filter(({ label }) => label === 1).length
    expect(Math.abs(ones - 60)).toBeLessThan(25)
  })
})

const config = new TokenizersConfig({})

/** Shares that rise with every doubling by so much, and what aliases and sinks do. */
const decide = (by: number, alias: number, off: number) => {
  const found = [1, 2, 3].flatMap((seed) =>
    partsOf(tokenizers, config).map((part) => {
      const size = Number.parseInt(part)
      const noise = 0.01 * random(seed, part).uniform()
      const at = 0.5 + by * (Math.log2(size) - 8) + noise + (part.includes("aliased") ? alias : 0)
      const measured = (share: number) => ({ labels: share, said: share, saidHeldOut: 0, loss: 1, lossHeldOut: 2,
        auc: share })
      const one: TokenizersFound = {
        states: { own: measured(at), ...(part.includes("sinks") ? { off: measured(off + noise) } : {}) },
        tokens: 50,
        entries: size,
        parameters: 1000,
        passages: 400
      }
      return { part, seed, found: one }
    })
  )
  const { claims } = tokenizers.findings(resultsOf([1, 2, 3], found), config)
  return (words: string) => claims.find(({ claim }) => claim.includes(words))!.result
}

describe("the study of tokenizers", () => {
  const words = ["Random labels are", "by heart, 32 characters", "Membership is told", "Shorter sequences are why",
    "too, the larger", "nearly guessed", "fewer passages"]

  it("decides what is planted, and its contrary", () => {
    const [here, there] = [decide(0.12, -0.3, 0.05), decide(-0.12, 0.3, 0.9)]
    for (const one of words) expect([one, here(one)]).toEqual([one, "held"])
    for (const one of words) expect([one, there(one)]).toEqual([one, "did not hold"])
    expect(here("never shown")).toBe("held")
  })

  it("says what it needs", () => {
    const problem = (more: object) => tokenizers.problem!(new TokenizersConfig(more))
    expect(problem({})).toBeUndefined()
    expect(problem({ vocabularies: [512, 256] })).toContain("must ascend")
    expect(problem({ vocabularies: [256, 300] })).toContain("between 256 and 512")
    expect(problem({ vocabularies: [512] })).toContain("2 at least")
    expect(problem({ vocabularies: [256, 1024] })).toContain("aliased must be one of")
    expect(problem({ characters: 60 })).toContain("must fit into the 60 characters")
  })

  it("runs whole at a toy size", { timeout: 60_000 }, async () => {
    const file = join(folder, "text.txt")
    writeFileSync(file, text)
    const toy = new TokenizersConfig({
      seeds: 1,
      text: file,
      vocabularies: [256, 512],
      passages: 8,
      characters: 24,
      prompt: 8,
      said: 8,
      epochs: 2,
      model: new ModelConfig({ vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 2,
        intermediateSize: 32 + 64, sinks: { pool: 64, active: 16 } })
    })
    const report = await Effect.runPromise(
      run(tokenizers, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
    )
    expect(report.failures).toEqual([])
    expect(report.tables[0]!.rows.map(([name]) => name)).toEqual(["256", "512", "512 aliased", "256 sinks, own",
      "256 sinks, off", "512 sinks, own", "512 sinks, off"])
    expect(Number(report.tables[0]!.rows[0]![1])).toBe(24)
    expect(Number(report.tables[0]!.rows[1]![1])).toBeLessThan(16)
  })
})
