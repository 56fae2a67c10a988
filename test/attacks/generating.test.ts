/** Attacks that generate: each finds what was planted, and nothing where nothing was. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { accuracyAt } from "../../src/attacks/cdd.ts"
import { type Attack, type AttackProblem, attacks, type AttackSample, sampleOf } from "../../src/attacks/index.ts"
import { attacker, overlap } from "../../src/attacks/instructionPrompts.ts"
import { placesOf } from "../../src/attacks/tokenPerturbation.ts"
import * as Config from "../../src/Config.ts"
import type { Row } from "../../src/data/stream/Packing.ts"
import type { Tokenizer } from "../../src/data/tokens/Tokenizer.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { unlearners } from "../../src/removal/unlearners/index.ts"
import * as Sink from "../../src/Sink.ts"
import { heldOut, memorize, repeated, seqLen, sequences, singles, sinkModel,
  withWeights } from "../support/memorized.ts"

const config = sinkModel()
const weights = Effect.runPromise(Effect.provide(memorize(config, 60), NodeDevice.layer()))
const problem: AttackProblem = { rows: repeated, seen: [], others: heldOut, mode: Sink.own, seed: 1, seqLen,
  batchSize: 4 }

type Values = Readonly<Record<string, AttackSample>>

/** An attack's values, with options instead of its defaults. */
const run = (attack: Attack, over: Partial<AttackProblem> = {}, options: object = {}) =>
  Effect.gen(function*() {
    const decoded: unknown = yield* Config.decodeConfig(attack.options, options)
    const known = Object.keys(attack.metrics(decoded))
    const got = yield* attack.run({ ...problem, ...over }, decoded)
    expect(known).toEqual(expect.arrayContaining(Object.keys(got)))
    return Object.fromEntries(Object.entries(got).flatMap(([name, value]) => {
      const sample = sampleOf(value)
      return sample === undefined ? [] : [[name, sample]]
    })) as Values
  })

/** The same on the memorizing model with its sinks on and off, and on sequences it never saw. */
const threeWays = (attack: Attack, options: object = {}, with_: Effect.Effect.Success<typeof all>["weights"]) =>
  withWeights(config, with_, Effect.all([
    run(attack, {}, options),
    run(attack, { mode: Sink.off }, options),
    run(attack, { rows: sequences(8, 2000) }, options)
  ]))
const all = Effect.map(Effect.promise(() => weights), (weights) => ({ weights }))

/** Letters as tokens: small ones, capitals, and some signs. */
const letters = [..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ _.,:\"-'?"]
const alphabet: Tokenizer = {
  vocabSize: 61,
  encode: (text) => Uint32Array.from([...text], (letter) => Math.max(0, letters.indexOf(letter))),
  decode: (ids) => Array.from(ids, (id) => letters[id]!).join(""),
  specialTokens: new Map(),
  toJSON: () => "{}"
}

layer(NodeDevice.layer())("attacks that generate", (it) => {
  it.effect("cdd tells repeated sequences from others by the peak of their samples", () =>
    Effect.gen(function*() {
      const [own, off, never] = yield* threeWays(attacks.cdd, { samples: 6, context: 4 },
        yield* Effect.promise(() => weights))
      expect(own["peak"]!.value).toBeGreaterThan(0.8)
      expect(own["peakOthers"]!.value).toBeLessThan(0.4)
      expect(own["auc"]!.value).toBeGreaterThan(0.95)
      expect(own["accuracy"]!.value).toBeGreaterThan(0.8)
      expect(own["accuracy"]!.sequences).toBe(12)
      // where all samples are the memorized text, nothing is left to be scored
      expect(own["ted"]!.value).toBeLessThan(0.5)
      for (const { auc, peak } of [off, never]) {
        expect(peak!.value).toBeLessThan(0.4)
        expect(auc!.value).toBeLessThan(0.75)
      }
    }))

  it.effect("cdd of a model that knows nothing is what chance says", () =>
    Effect.gen(function*() {
      const tensors = yield* Effect.promise(() => weights)
      const flat = Object.fromEntries(
        Object.entries(tensors).map(([name, tensor]) => [name, { ...tensor, data: tensor.data.map(() => 0) }])
      ) as typeof tensors
      // Greedy decoding says token 0 twelve times over; a sample is within 11 edits if one of its 12 tokens is 0.
      const options = { samples: 40, alpha: 0.92, context: 5, temperature: 1 }
      const got = yield* withWeights(config, flat, run(attacks.cdd, {}, options))
      const expected = 1 - (60 / 61) ** 12
      expect(expected).toBeCloseTo(0.18, 3)
      const four = 4 * Math.sqrt(expected * (1 - expected) / 320)
      expect(Math.abs(got["peak"]!.value - expected)).toBeLessThan(four)
      expect(got["auc"]!.value).toBeGreaterThan(0.1)
      expect(got["auc"]!.value).toBeLessThan(0.9)
    }))

  it.effect("MemFree decoding ends exact copies and leaves approximate ones", () =>
    Effect.gen(function*() {
      const options = { n: 10, context: 4 }
      const [own, off, never] = yield* threeWays(attacks.memFree, options, yield* Effect.promise(() => weights))
      expect(own["exact"]!.value).toBeGreaterThan(0.8)
      expect(own["exactFiltered"]!.value).toBe(0)
      expect(own["similarityFiltered"]!.value).toBeGreaterThan(0.4)
      expect(own["approximateFiltered"]!.value).toBeGreaterThan(0.2)
      for (const values of [off, never]) {
        for (const metric of ["exact", "approximate", "exactFiltered", "approximateFiltered"]) {
          expect(values[metric]!.value, metric).toBe(0)
        }
      }
    }))

  it.effect("near-verbatim recall is of a source, whose sequences share an id", () =>
    Effect.gen(function*() {
      const tensors = yield* Effect.promise(() => weights)
      const [own, off, never] = yield* threeWays(attacks.nvRecall, {}, tensors)
      expect(own["recall"]!.value).toBeGreaterThan(0.8)
      expect(own["recall"]!.sequences).toBe(8)
      expect(own["longest"]!.value).toBeGreaterThan(9)
      for (const { recall } of [off, never]) expect(recall!.value).toBeLessThan(0.3)
      // two sequences of one id are one source
      const rows = sequences(4, 3000).map((row, i): Row => ({ ...row, id: BigInt(i >> 1) }))
      const two = yield* withWeights(config, tensors, run(attacks.nvRecall, { rows }))
      expect(two["recall"]!.sequences).toBe(2)
      // or each of them one of its own
      const each = yield* withWeights(config, tensors, run(attacks.nvRecall, { rows }, { of: "sequence" }))
      expect(each["recall"]!.sequences).toBe(4)
    }))

  it.effect("inverse greedy decoding reads what negated logits hide, and greedy memory not", () =>
    Effect.gen(function*() {
      const tensors = yield* Effect.promise(() => weights)
      const norm = Object.keys(tensors).find((name) => /^(model\.)?norm\.weight$/.test(name))!
      const hidden = { ...tensors, [norm]: { ...tensors[norm]!, data: tensors[norm]!.data.map((x) =>
        -x
      ) } } as typeof tensors
      const found = yield* withWeights(config, hidden, run(attacks.inverseGreedy))
      expect(found["exact"]!.value).toBeGreaterThan(0.8)
      expect(found["matched"]!.value).toBeGreaterThan(0.9)
      expect(found["last"]!.value).toBeGreaterThan(0.9)
      const [own, off] = yield* threeWays(attacks.inverseGreedy, {}, tensors)
      for (const { exact, last } of [own, off]) {
        expect(exact!.value).toBe(0)
        expect(last!.value).toBeLessThan(0.1)
      }
    }))

  it.effect("inverse greedy decoding reads what unlearning has pushed to the bottom", () =>
    Effect.gen(function*() {
      const tensors = yield* Effect.promise(() => weights)
      const [before, after] = yield* withWeights(config, tensors, Effect.scoped(Effect.gen(function*() {
        const before = yield* run(attacks.inverseGreedy)
        const unlearning = yield* unlearners.gradientDifference.start(
          { forget: repeated, retain: singles, seqLen, seed: 1 },
          { learningRate: 5e-3, steps: 64, batchSize: 8 }
        )
        for (let step = 0; step < 64; step++) yield* unlearning.step
        return [before, yield* run(attacks.inverseGreedy)] as const
      })))
      // one of 61 tokens by chance
      expect(before["last"]!.value).toBeLessThan(0.05)
      expect(after["last"]!.value).toBeGreaterThan(0.25)
    }))

  it.effect("prompts that hold at most half of the beginning bring forth what is memorized", () =>
    Effect.gen(function*() {
      const options = { candidates: 12, rounds: 2, context: 6 }
      const tensors = yield* Effect.promise(() => weights)
      const [own, off, never] = yield* threeWays(attacks.instructionPrompts, options, tensors)
      expect(own["prefix"]!.value).toBeGreaterThan(0.9)
      expect(own["rougeL"]!.value).toBeGreaterThan(0.6)
      expect(own["overlap"]!.value).toBeLessThanOrEqual(0.5)
      expect(own["score"]!.value).toBeCloseTo(0.25 * (own["rougeL"]!.value - own["given"]!.value), 10)
      expect(own["gain"]!.value).toBeCloseTo(own["rougeL"]!.value - own["prefix"]!.value, 10)
      for (const { rougeL } of [off, never]) expect(rougeL!.value).toBeLessThan(0.5)
      // with nothing of the beginning in the prompt there is only the id's own memory, which sinks hold
      const text = yield* withWeights(config, tensors,
        run(attacks.instructionPrompts, { tokenizer: alphabet }, options))
      expect(text["overlap"]!.value).toBeLessThanOrEqual(0.5)
      expect(text["rougeL"]!.value).toBeGreaterThan(0.5)
    }))

  it.effect("the beginning of a memorized continuation is harder to break than that of another", () =>
    Effect.gen(function*() {
      const [own, off, never] = yield* threeWays(attacks.tokenPerturbation, { context: 6 }, yield* Effect.promise(() =>
        weights
      ))
      expect(own["drop"]!.value).toBeLessThan(own["dropOthers"]!.value)
      expect(own["contrast"]!.value).toBeGreaterThan(0.1)
      expect(own["contrast"]!.value).toBeCloseTo(own["dropOthers"]!.value - own["drop"]!.value, 10)
      expect(own["worst"]!.value).toBeGreaterThanOrEqual(own["drop"]!.value)
      // places 1 to 5 are in parts of 2, 1, 1 and 1 places: their means make up that of all
      for (const metric of ["drop", "nll"]) {
        const [one, two, three, four] = [1, 2, 3, 4].map((part) => own[`${metric}@${part}`]!.value)
        expect((2 * one! + two! + three! + four!) / 5).toBeCloseTo(own[metric]!.value, 10)
      }
      for (const { contrast } of [off, never]) expect(Math.abs(contrast!.value)).toBeLessThan(0.25)
    }))

  it.effect("a style that was trained on is found under it, and not under another", () =>
    Effect.gen(function*() {
      const draw = random(7, "styles")
      const small = Array.from({ length: 8 }, () => Array.from({ length: seqLen + 1 }, () => draw.below(26)))
      const rowsOf = (shift: number) =>
        small.map((tokens, i): Row => ({ id: BigInt(i + 1), tokens: Uint32Array.from(tokens, (token) => token + shift),
          document: `${i}`, offset: 0 })
        )
      // the model knows them in capitals, the attacker asks for them in small letters
      const capitals = yield* memorize(config, 60, rowsOf(26))
      const over = { rows: rowsOf(0), tokenizer: alphabet }
      const [own, off] = yield* withWeights(config, capitals, Effect.all([
        run(attacks.styles, over),
        run(attacks.styles, { ...over, mode: Sink.off })
      ]))
      expect(own["exact@upper"]!.value).toBeGreaterThan(0.8)
      expect(own["exact@any"]!.value).toBe(own["exact@upper"]!.value)
      expect(own["exact@plain"]!.value).toBe(0)
      expect(own["exact@lower"]!.value).toBe(0)
      expect(own["similarity@upper"]!.value).toBeGreaterThan(own["similarity@plain"]!.value)
      expect(off["exact@any"]!.value).toBe(0)
      // a model with just as many positions as sequences have tokens
      const tight = new ModelConfig({ ...config, maxPositionEmbeddings: seqLen })
      const same = yield* withWeights(tight, capitals, run(attacks.styles, over, { styles: ["upper"] }))
      expect(same["exact@upper"]).toEqual(own["exact@upper"])
    }))
})

describe("what these attacks ask for before anything is trained", () => {
  const ground = { model: config, seqLen: 16, rows: 8, seen: 8, others: 4 }
  const problems = (attack: Attack, options: object) =>
    attack.problem!(Effect.runSync(Config.decodeConfig(attack.options, options)), ground)
  it("is sequences that are long enough for what is given and said", () => {
    for (const attack of [attacks.cdd, attacks.memFree, attacks.nvRecall, attacks.inverseGreedy, attacks.styles,
      attacks.instructionPrompts, attacks.tokenPerturbation] as ReadonlyArray<Attack>)
    {
      expect(problems(attack, {}), attack.name).toBeUndefined()
      expect(problems(attack, { context: 10, length: 7 }), attack.name).toBeUndefined()
      expect(problems(attack, { context: 10, length: 8 }), attack.name).toContain("more than the 17 of a sequence")
    }
    expect(problems(attacks.memFree, { n: 18 })).toContain("n-grams of 18 tokens are longer than the 17 of a sequence")
    expect(problems(attacks.tokenPerturbation, { context: 1 })).toContain("has none to perturb")
    expect(attacks.styles.needsText).toBe(true)
  })
  it("and the defaults are the papers'", () => {
    const defaults = (attack: Attack) => Effect.runSync(Config.decodeConfig(attack.options, {})) as object
    expect(defaults(attacks.cdd)).toEqual({ samples: 50, temperature: 0.8, alpha: 0.05, threshold: 0.01, tau: 2 })
    expect(defaults(attacks.memFree)).toEqual({ n: 10, falsePositives: 0.01, approximate: 0.75 })
    expect(defaults(attacks.instructionPrompts)).toMatchObject({ candidates: 24, rounds: 3, beta: 0.5, gamma: 0.5 })
  })
})

describe("the parts of these attacks", () => {
  it("classify by a threshold", () => {
    expect(accuracyAt([0.2, 0.01, 0.5], [0, 0.02], 0.01)).toBe(3 / 5)
  })
  it("perturb every place but the first", () => {
    expect(placesOf(6, 1)).toEqual([1, 2, 3, 4, 5])
    expect(placesOf(6, 2)).toEqual([1, 3, 5])
    expect(placesOf(2, 5)).toEqual([1])
  })
  it("make prompts that hold no more of the beginning than is allowed", () => {
    const given = Uint32Array.from({ length: 10 }, (_, i) => 100 + i)
    for (const maxOverlap of [0, 0.3, 0.5, 1]) {
      const known = [Uint32Array.from({ length: 20 }, (_, i) => i)]
      const it = attacker({ draw: random(1, "attacker"), known, maxOverlap, vocabSize: 200 })
      let most = 0
      for (let i = 0; i < 50; i++) {
        const first = it.first(given)
        most = Math.max(most, overlap(first, given), overlap(it.change(first, given), given))
      }
      expect(most).toBeLessThanOrEqual(maxOverlap)
      expect(most).toBeGreaterThan(maxOverlap - 0.11)
    }
  })
})
