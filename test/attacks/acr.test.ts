import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { acr, acrLite, AcrLiteOptions, AcrOptions } from "../../src/attacks/acr.ts"
import { lowest, makeSearch, miniPrompt } from "../../src/attacks/promptSearch.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { generate } from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { rowScores } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { memorize, repeated, seqLen, sinkModel, withWeights } from "../support/memorized.ts"

describe("the lowest of some numbers", () => {
  it("are as many as asked for, of equals the first", () => {
    expect([...lowest(Float32Array.of(3, -1, 2, -1, 2, 2), 3)]).toEqual([1, 2, 3])
    expect([...lowest(Float32Array.of(3, 1), 5)]).toEqual([0, 1])
    expect([...lowest(Float32Array.of(NaN, 1, 0), 1)]).toEqual([2])
  })
})

describe("MiniPrompt", () => {
  const visits = (shortest: number, most: number) => {
    const visited: Array<readonly [length: number, steps: number]> = []
    const found = Effect.runSync(miniPrompt({ most, steps: 100 }, (length, steps) => {
      visited.push([length, steps])
      return Effect.succeed(length >= shortest ? length : undefined)
    }))
    return { found, visited }
  }
  it("finds the shortest length that does, wherever it is", () => {
    for (let most = 1; most <= 14; most++) {
      for (let shortest = 1; shortest <= most; shortest++) expect(visits(shortest, most).found).toBe(shortest)
      expect(visits(most + 1, most).found).toBeUndefined()
    }
  })
  it("goes 5 up with a fifth more steps where there is none, and down one by one where there is", () => {
    expect(visits(8, 40).visited).toEqual([[5, 100], [10, 120], [9, 120], [8, 120], [7, 120]])
    expect(visits(3, 40).visited).toEqual([[5, 100], [4, 100], [3, 100], [2, 100]])
    // to the longest that is allowed, which is none of the steps of 5
    expect(visits(99, 12).visited).toEqual([[5, 100], [10, 120], [12, 144]])
  })
})

/** A small vocabulary, all of whose prompts of one and two tokens can be tried. */
const config = new ModelConfig({ ...sinkModel(), vocabSize: 24 })

/** A target as a sequence whose end it is. */
const rowOf = (tokens: ReadonlyArray<number>, id = 3n): Row => ({ id, tokens: Uint32Array.of(0, ...tokens),
  document: "target", offset: 0 })

layer(NodeDevice.layer())("adversarial compression", (it) => {
  it.effect("finds a prompt where one is among all prompts of one and two tokens, and none where none is", () =>
    Effect.gen(function*() {
      const model = yield* Model
      const length = 2
      const pairs = Array.from({ length: 24 * 24 }, (_, i) => [Math.floor(i / 24), i % 24])
      /** Whether any prompt makes the model say the target. */
      const exists = Effect.fnUntraced(function*(target: ReadonlyArray<number>, prompts: ReadonlyArray<Array<number>>) {
        const n = prompts[0]!.length
        const batch = batchOf(
          prompts.map((prompt) => ({ ...rowOf([]), tokens: Uint32Array.of(...prompt, ...target), scoredFrom: n })),
          n + length - 1
        )
        return rowScores(batch, yield* model.evaluate(batch, Sink.own)).some(({ hits }) => hits === length)
      })
      const draw = random(4, "targets")
      const says = (prompt: ReadonlyArray<number>) =>
        Effect.map(Stream.runCollect(generate([{ tokens: prompt, id: 3n }], { maxNewTokens: length, temperature: 0 })),
          (tokens) => [...tokens].map(({ token }) => token))
      // what some prompts of one and two tokens make it say, and what none may
      const targets = [
        yield* says([draw.below(24), draw.below(24)]),
        yield* says([draw.below(24)]),
        ...Array.from({ length: 2 }, () => [draw.below(24), draw.below(24)])
      ]
      const known = yield* Effect.forEach(targets, (target) =>
        Effect.all([exists(target, Array.from({ length: 24 }, (_, v) => [v])), exists(target, pairs)]))
      expect(new Set(known.map(([one, two]) => `${one || two}`))).toEqual(new Set(["true", "false"]))
      const problem = { rows: targets.map((target) => rowOf(target)), seen: [], others: [], mode: Sink.own, seed: 1,
        seqLen, batchSize: 8 }
      const options = { length, steps: 40, candidates: 24 }
      const one = known.map(([one]) => one ? 1 : 0)
      const two = known.map(([one, two]) => one || two ? 1 : 0)
      const lengths = [2, 1] as const
      expect(yield* acrLite.run(problem, new AcrLiteOptions({ ...options, lengths }))).toEqual({ "found@1": one,
        "found@2": two })
      // at random it may be stuck where no single change helps, and finds none that is not there
      const atRandom = yield* acrLite.run(problem, new AcrLiteOptions({ ...options, lengths, search: "random" }))
      expect(atRandom["found@1"]).toEqual(one)
      ;[...atRandom["found@2"] as Array<number>].forEach((found, i) => expect(found).toBeLessThanOrEqual(two[i]!))
      const full = yield* acr.run(problem, new AcrOptions(options))
      const ratios = known.map(([one, two]) => one ? 2 : two ? 1 : 0)
      expect(new Set(ratios)).toEqual(new Set([2, 1, 0]))
      expect(full).toEqual({ found: ratios.map((ratio) => ratio > 0 ? 1 : 0), ratio: ratios,
        compressed: ratios.map((ratio) => ratio > 1 ? 1 : 0) })
      const short = yield* acr.run({ ...problem, rows: [{ ...rowOf([]), tokens: Uint32Array.of(1, 2) }] },
        new AcrOptions({ length, steps: 1 }))
      expect(short).toEqual({ found: [NaN], ratio: [NaN], compressed: [NaN] })
    }).pipe(Effect.provide(Model.layer(config, { seed: 6 }))))

  it.effect("finds what sinks hold, and less of it where they are off; what it finds is said", () =>
    Effect.gen(function*() {
      const toy = sinkModel()
      const weights = yield* memorize(toy, 60)
      const rows = repeated.slice(0, 3)
      const options = { length: 6, steps: 8, candidates: 40, lengths: [4] as const }
      const attack = (mode: Sink.SinkMode, rows: ReadonlyArray<Row>) =>
        acrLite.run({ rows, seen: [], others: [], mode, seed: 2, seqLen, batchSize: 8 }, new AcrLiteOptions(options))
      const [own, off] = yield* withWeights(toy, weights, Effect.all([attack(Sink.own, rows), attack(Sink.off, rows)]))
      const sum = (values: typeof own) => (values["found@4"] as Array<number>).reduce((a, b) => a + b, 0)
      expect(sum(off)).toBe(0)
      expect(sum(own)).toBeGreaterThan(0)
      const said = withWeights(toy, weights, Effect.scoped(Effect.gen(function*() {
        const search = yield* makeSearch(Sink.own, { search: "gcg", candidates: 40, top: 250 })
        const target = { tokens: rows[0]!.tokens.subarray(seqLen - 3), id: rows[0]!.id, document: "target" }
        const prompt = (yield* search.find(target, 4, 60, random(1)))!
        const tokens = yield* Stream.runCollect(
          generate([{ tokens: prompt, id: target.id }], { maxNewTokens: 4, temperature: 0, sinks: Sink.own })
        )
        return [[...tokens].map(({ token }) => token), [...target.tokens]] as const
      })))
      const [text, wanted] = yield* said
      expect(text).toEqual(wanted)
    }))

  it("asks for sequences and positions that are enough", () => {
    const ground = { model: config, seqLen: 19, rows: 1, seen: 1, others: 1 }
    expect(acr.problem!(new AcrOptions({}), ground)).toContain("are as long as a sequence of 20")
    expect(acr.problem!(new AcrOptions({}), { ...ground, seqLen: 20 })).toBeUndefined()
    const long = new AcrOptions({ most: 5000 })
    expect(acr.problem!(long, { ...ground, seqLen: 20 })).toContain("maxPositionEmbeddings")
    expect(acrLite.problem!(new AcrLiteOptions({ lengths: [5000] }), { ...ground, seqLen: 20 })).toContain("5000")
  })
})
