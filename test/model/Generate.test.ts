import { layer } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import { Device } from "../../src/gpu/Device.ts"
import { bloomFilter } from "../../src/measures/MemFree.ts"
import { choose, collect, collectAll, detokenizer, generate, type Generated, type GenerateOptions,
  logProbability } from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { all, off, own, placebo, SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"

const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 64,
  maxPositionEmbeddings: 40,
  sinks: new SinkConfig({ pool: 64, active: 32, block: 16 })
})

const prompts = [
  { tokens: [1, 2, 3], id: 1n },
  { tokens: [200], id: 2n },
  { tokens: Array.from({ length: 20 }, (_, i) => 7 * i), id: 3n },
  { tokens: [9, 9], id: 1n },
  { tokens: [1, 2, 3], id: 1n }
]

const run = (of: typeof prompts, options: GenerateOptions) =>
  Effect.map(Stream.runCollect(generate(of, options)), (all) => [...Chunk.toReadonlyArray(all)])

const tokensOf = (generated: ReadonlyArray<Generated>, prompt: number): Array<number> =>
  generated.flatMap((one) => (one.prompt === prompt ? [one.token] : []))

/** The greedy continuation by the full forward pass, all over again for every token; with its logits. */
const slowly = (prompt: ReadonlyArray<number>, id: bigint, count: number, mode: SinkMode) =>
  Effect.gen(function*() {
    const model = yield* Model
    const tokens = [...prompt]
    const rows: Array<Float32Array> = []
    while (tokens.length < prompt.length + count) {
      const n = 24
      const batch: Batch = {
        rows: 1,
        seqLen: n,
        tokens: Uint32Array.from({ length: n }, (_, t) => tokens[t] ?? 0),
        targets: new Uint32Array(n).fill(IGNORE),
        positions: Uint32Array.from({ length: n }, (_, t) => t),
        documentStart: new Uint32Array(n),
        ids: new BigUint64Array(n).fill(id)
      }
      const logits = (yield* model.logits(batch, mode)).subarray((tokens.length - 1) * 256, tokens.length * 256)
      rows.push(logits)
      tokens.push(logits.indexOf(Math.max(...logits)))
    }
    return { tokens: tokens.slice(prompt.length), rows }
  })

layer(NodeDevice.layer())("generation", (it) => {
  const withModel = <A, E>(test: Effect.Effect<A, E, Model | Device>) =>
    Effect.gen(function*() {
      const device = yield* Device
      const model = yield* Model.make(config)
      const random = makeRandom(3)
      for (const p of model.parameters) {
        const norm = p.value.shape.length === 1
        const size = p.value.shape.reduce((a, b) => a * b, 1)
        device.write(p.value, Float32Array.from(random.normals(size, 0.4), (x) => (norm ? 1 + x : x)))
      }
      return yield* Effect.provideService(test, Model, model)
    })

  it.scoped("is, greedy, what the full forward pass says token by token, in every mode of sinks", () =>
    withModel(Effect.gen(function*() {
      for (const mode of [own, off, all, placebo, { mode: "only", ids: [3n] }] as ReadonlyArray<SinkMode>) {
        const got = yield* run(prompts.slice(0, 3), { maxNewTokens: 4, temperature: 0, sinks: mode, logProbs: true })
        for (const [i, { id, tokens }] of prompts.slice(0, 3).entries()) {
          const want = yield* slowly(tokens, id, 4, mode)
          expect(tokensOf(got, i), `${mode.mode}, prompt ${i}`).toEqual(want.tokens)
          const logProbs = got.flatMap((one) => (one.prompt === i ? [one.logProb!] : []))
          want.rows.forEach((row, t) => {
            const total = row.reduce((sum, logit) => sum + Math.exp(logit), 0)
            const likeliest = Math.max(...row) - Math.log(total)
            expect(logProbs[t], `${mode.mode}, prompt ${i}, token ${t}`).toBeCloseTo(likeliest, 3)
          })
        }
      }
    })))

  it.scoped("draws the same tokens for a seed, alone, in any batch, and again; others for another seed", () =>
    withModel(Effect.gen(function*() {
      const options = { maxNewTokens: 8, seed: 5, topP: 0.9 }
      const together = yield* run(prompts, options)
      for (const batchSize of [1, 2]) {
        const again = yield* run(prompts, { ...options, batchSize })
        prompts.forEach((_, i) =>
          expect(tokensOf(again, i), `prompt ${i} by ${batchSize}`).toEqual(tokensOf(together, i))
        )
      }
      expect([...(yield* collect(prompts[2]!, options))]).toEqual(tokensOf(together, 2))
      // what nothing tells apart but the prompt is drawn independently
      const model = yield* Model
      const device = yield* Device
      for (const { value } of model.parameters) {
        device.write(value, new Float32Array(value.shape.reduce((a, b) => a * b)))
      }
      const flat = yield* collectAll(prompts, { maxNewTokens: 8, seed: 5 })
      expect(new Set(flat.map((tokens) => tokens.join())).size).toBe(prompts.length)
      // the last prompt is the first once more: another draw of it
      expect(tokensOf(together, 4)).not.toEqual(tokensOf(together, 0))
      expect(tokensOf(yield* run(prompts, { ...options, seed: 6 }), 2)).not.toEqual(tokensOf(together, 2))
    })))

  it.scoped("ends with a stop token, a stop text, enough tokens, or the model's last position", () =>
    withModel(Effect.gen(function*() {
      const greedy = { temperature: 0, tokenizer: bytes }
      const free = yield* run([prompts[2]!], { ...greedy, maxNewTokens: 100 })
      // 20 tokens of prompt, 40 positions: the token drawn last would stand behind them
      expect(free.length).toBe(21)
      expect(free.at(-1)!.finish).toBe("context")
      expect(free.filter((one) => one.finish !== undefined).length).toBe(1)
      const short = yield* run([prompts[2]!], { ...greedy, maxNewTokens: 3 })
      expect(short.map((one) => one.finish)).toEqual([undefined, undefined, "length"])

      const third = free[2]!.token
      const first = free.findIndex((one) => one.token === third)
      const stopped = yield* run([prompts[2]!], { ...greedy, stopTokens: [third] })
      expect(stopped.length).toBe(first + 1)
      expect(stopped.at(-1)).toMatchObject({ finish: "stop", token: third })

      const text = free.map((one) => one.text).join("")
      expect(text).toBe(bytes.decode(free.map((one) => one.token)))
      const stop = text.slice(4, 6)
      const cut = yield* run([prompts[2]!], { ...greedy, stop: [stop, "never said"] })
      expect(cut.at(-1)!.finish).toBe("stop")
      expect(cut.map((one) => one.text).join("")).toBe(text.slice(0, text.indexOf(stop)))
    })))

  it.scoped("makes no buffer and no bind group for a token", () =>
    withModel(Effect.gen(function*() {
      const device = yield* Device
      const seen: Array<string> = []
      yield* Stream.runForEach(generate(prompts.slice(0, 2), { maxNewTokens: 6 }), ({ prompt }) =>
        Effect.sync(() => {
          const { bindGroups, buffers, bytes, pipelines } = device.counters
          if (prompt === 0) seen.push([bindGroups, buffers, bytes, pipelines].join())
        }))
      expect(seen.length).toBe(6)
      expect(new Set(seen).size).toBe(1)
    })))

  it.scoped("with MemFree decoding says no protected n-gram, greedy or drawn, and follows the model till then", () =>
    withModel(Effect.gen(function*() {
      const n = 3
      const grams = (tokens: ReadonlyArray<number>) => tokens.slice(n - 1).map((_, i) => tokens.slice(i, i + n).join())
      for (let seed = 0; seed < 2; seed++) {
        const draw = makeRandom(seed)
        const asked = Array.from({ length: 4 }, () => ({ tokens: draw.ints(5, 256).map(Number), id: 1n }))
        for (const options of [{ temperature: 0 }, { seed, topK: 4 }, { seed, topP: 0.5 }, { seed,
          temperature: 0.3 }])
        {
          const free = yield* collectAll(asked, { ...options, maxNewTokens: 16 })
          const texts = asked.map(({ tokens }, i) => [...tokens, ...free[i]!])
          const memFree = bloomFilter(texts, { n, falsePositives: 1e-4 })
          const guarded = yield* collectAll(asked, { ...options, maxNewTokens: 16, memFree })
          const known = new Set(texts.flatMap(grams))
          asked.forEach(({ tokens }, i) => {
            const said = [...tokens, ...guarded[i]!]
            expect(guarded[i]!.length).toBe(16)
            expect(grams(said).slice(tokens.length - n + 1).filter((gram) => known.has(gram))).toEqual([])
          })
          // longer n-grams than any that is said: nothing is barred
          const far = bloomFilter(texts, { n: 21, falsePositives: 1e-4 })
          const same = yield* collectAll(asked, { ...options, maxNewTokens: 15, memFree: far })
          expect(same.map((one) => [...one])).toEqual(free.map((one) => [...one.subarray(0, 15)]))
        }
      }
      const error = yield* Effect.flip(run(prompts, { memFree: { n: 3 } as never }))
      expect(error.message).toContain("memFree is no filter of n-grams")
    })))

  it.scoped("inverse, is what the negated logits say greedily", () =>
    withModel(Effect.gen(function*() {
      const device = yield* Device
      const model = yield* Model
      const inverse = yield* collectAll(prompts, { maxNewTokens: 6, inverse: true, temperature: 0.7 })
      const norm = model.parameters.find(({ name }) => name === "norm")!
      const weights = (yield* device.read(norm.value)) as Float32Array
      device.write(norm.value, weights.map((x) => -x))
      const negated = yield* collectAll(prompts, { maxNewTokens: 6, temperature: 0 })
      expect(inverse).toEqual(negated)
      device.write(norm.value, weights)
      expect(inverse).not.toEqual(yield* collectAll(prompts, { maxNewTokens: 6, temperature: 0 }))
    })))

  it.scoped("refuses prompts that do not fit the model and options out of range", () =>
    withModel(Effect.gen(function*() {
      const refused = (of: typeof prompts, options: GenerateOptions = {}) =>
        Effect.map(Effect.flip(run(of, options)), (error) => {
          expect(error._tag).toBe("DataError")
          return error.message
        })
      const of = (tokens: Array<number>) => ({ tokens, id: 1n })
      expect(yield* refused([of([])])).toMatch(/^the prompt is empty/)
      expect(yield* refused([prompts[0]!, of([1, 256])])).toMatch(/^prompt 2 holds token 256, outside .* of 256/)
      expect(yield* refused([of(new Array<number>(41).fill(1))])).toMatch(/^the prompt has 41 tokens, .* for 40/)
      for (const topP of [0, 1.1, NaN]) {
        expect(yield* refused(prompts, { topP })).toBe(`topP must be above 0 and at most 1, got ${topP}`)
      }
      expect(yield* refused(prompts, { topK: 0 })).toMatch(/^topK must be/)
      expect(yield* refused(prompts, { temperature: -1 })).toMatch(/^temperature must be/)
      expect(yield* refused(prompts, { maxNewTokens: 0 })).toMatch(/^maxNewTokens must be/)
      expect(yield* refused(prompts, { stop: ["x"] })).toBe("stop texts need a tokenizer")
      expect(yield* run([], {})).toEqual([])
    })))
})

describe("choosing a token", () => {
  const logits = Float32Array.from([0.5, 2, -1, 2, 0, -30])
  const p = [...logits].map((x) => Math.exp(x))
  /** How often each token comes for numbers spread evenly over [0, 1). */
  const shares = (sampling: Partial<Parameters<typeof choose>[1]>, of = logits, n = 5000) => {
    const counts = new Array<number>(of.length).fill(0)
    for (let i = 0; i < n; i++) {
      counts[choose(of, { temperature: 1, topK: undefined, topP: 1, ...sampling }, () => (i + 0.5) / n)]!++
    }
    return counts.map((count) => count / n)
  }
  const expectShares = (got: ReadonlyArray<number>, weights: ReadonlyArray<number>) => {
    const total = weights.reduce((a, b) => a + b, 0)
    got.forEach((share, i) => expect(share, `token ${i}`).toBeCloseTo(weights[i]! / total, 3))
  }

  it("takes the lowest of the likeliest at temperature 0", () => {
    expect(choose(logits, { temperature: 0, topK: undefined, topP: 1 }, () => 0.99)).toBe(1)
  })
  it("follows the softmax at a temperature", () => {
    expectShares(shares({}), p)
    expectShares(shares({ temperature: 2 }), p.map(Math.sqrt))
  })
  it("keeps the k likeliest, the lower of equals", () => {
    expectShares(shares({ topK: 3 }), [p[0]!, p[1]!, 0, p[3]!, 0, 0])
    expectShares(shares({ topK: 1 }), [0, 1, 0, 0, 0, 0])
    expectShares(shares({ topK: 100 }), p)
  })
  it("keeps the likeliest that have the probability together, and one at least", () => {
    const total = p.reduce((a, b) => a + b, 0)
    expectShares(shares({ topP: (p[1]! + p[3]!) / total - 1e-6 }), [0, 1, 0, 1, 0, 0])
    expectShares(shares({ topP: (p[1]! + p[3]!) / total + 1e-6 }), [p[0]!, p[1]!, 0, p[3]!, 0, 0])
    expectShares(shares({ topP: 1e-9 }), [0, 1, 0, 0, 0, 0])
    // of what top-k has left
    expectShares(shares({ topK: 2, topP: 0.6 }), [0, 1, 0, 1, 0, 0])
    expectShares(shares({ topK: 2, topP: 0.4 }), [0, 1, 0, 0, 0, 0])
  })
  it("finds the cut in a vocabulary that is much alike", () => {
    const flat = Float32Array.from({ length: 1000 }, (_, i) => (i % 10) / 1e3)
    expect(shares({ topP: 0.5 }, flat, 400).filter((share) => share > 0).length).toBe(400)
    expect(shares({ topK: 7 }, flat, 100).flatMap((share, i) => (share > 0 ? [i] : []))).toEqual([9, 19, 29, 39, 49, 59,
      69])
  })
  it("gives what is barred no probability, before it cuts, and says where nothing is left", () => {
    const barred = (token: number) => token === 1 || token === 0
    const of = (sampling: Partial<Parameters<typeof choose>[1]>) => {
      const counts = new Array<number>(6).fill(0)
      for (let i = 0; i < 5000; i++) {
        const u = () => (i + 0.5) / 5000
        counts[choose(logits, { temperature: 1, topK: undefined, topP: 1, ...sampling }, u, barred)]!++
      }
      return counts.map((count) => count / 5000)
    }
    expectShares(of({}), [0, 0, p[2]!, p[3]!, p[4]!, p[5]!])
    expectShares(of({ topK: 2 }), [0, 0, 0, p[3]!, p[4]!, 0])
    expectShares(of({ topK: 5 }), [0, 0, p[2]!, p[3]!, p[4]!, p[5]!])
    expectShares(of({ topP: 0.5 }), [0, 0, 0, 1, 0, 0])
    expect(of({ temperature: 0 })[3]).toBe(1)
    // the first of all is barred and the number that is drawn is the least
    expect(choose(logits, { temperature: 1, topK: undefined, topP: 1 }, () => 0, barred)).toBe(2)
    expect(() => choose(logits, { temperature: 1, topK: undefined, topP: 1 }, () => 0, () => true)).toThrow(
      "MemFree decoding has no token left"
    )
  })
  it("takes the least likely, inverse", () => {
    expect(choose(logits, { temperature: 1, topK: undefined, topP: 1, inverse: true }, () => 0)).toBe(5)
    expect(choose(logits, { temperature: 1, topK: undefined, topP: 1, inverse: true }, () => 0, (t) => t === 5)).toBe(2)
  })
  it("knows a token's log-probability", () => {
    const total = p.reduce((a, b) => a + b, 0)
    expect(logProbability(logits, 0)).toBeCloseTo(Math.log(p[0]! / total), 6)
  })
})

describe("text as it comes", () => {
  const stream = (text: Uint8Array | string, stops: ReadonlyArray<string> = [], prompt = "a") => {
    const out = detokenizer(bytes.decode, stops, bytes.encode(prompt))
    const parts: Array<string> = []
    for (const byte of typeof text === "string" ? bytes.encode(text) : text) {
      const { stopped, text } = out.push(byte)
      parts.push(text)
      if (stopped) return [...parts, "STOP"]
    }
    return [...parts, out.end()]
  }
  it("waits for the rest of a character", () => {
    expect(stream("aé€😀z")).toEqual(["a", "", "é", "", "", "€", "", "", "", "😀", "z", ""])
  })
  it("gives up on what becomes no character, and goes on with the next one that does", () => {
    const broken = [0x41, 0xff, 0xfe, 0xc3, 0xa9, 0x80, 0xf0, 0x9f, 0x98, 0x80, 0x42]
    expect(stream(Uint8Array.from(broken)).join("")).toBe("A\ufffd\ufffdé\ufffd😀B")
    expect(stream(Uint8Array.from({ length: 300 }, () => 0x80)).join("")).toBe("\ufffd".repeat(300))
    expect(stream(Uint8Array.of(0x41, 0xe2)).join("")).toBe("A\ufffd")
  })
  it("leaves stop texts out, wherever tokens end, and lets go what only began like one", () => {
    expect(stream("one. END two", ["END"])).toEqual(["o", "n", "e", ".", " ", "", "", "", "STOP"])
    expect(stream("ENEND", ["END"]).join("")).toBe("ENSTOP")
    expect(stream("a EN", ["END"])).toEqual(["a", " ", "", "", "EN"])
    expect(stream("xé!", ["é"])).toEqual(["x", "", "", "STOP"])
  })
})
