import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { sampleOf } from "../../src/attacks/index.ts"
import { highest, tokenInfluence as attack, TokenInfluenceOptions } from "../../src/attacks/tokenInfluence.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { squaredNorm } from "../../src/inside/GradientMass.ts"
import { makeGradients } from "../../src/inside/Gradients.ts"
import { eachOcclusion, occluded, tokenInfluence } from "../../src/inside/TokenInfluence.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { own } from "../../src/Sink.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { optimizer, seqLen, sinkModel, withWeights } from "../support/memorized.ts"

const config = new ModelConfig({ ...sinkModel(), sinks: undefined, intermediateSize: 64 })

/** Where the one token stands that says the last. */
const KEY = 5
/** Sequence k: its key k among random tokens that are no keys; the last token, which follows from it alone, is scored. */
const keyed = (k: number, draw = random(3, "keys")): Row => {
  const tokens = Uint32Array.from({ length: seqLen + 1 }, () => 8 + draw.below(53))
  tokens[KEY] = k
  tokens[seqLen] = 8 + k
  return { id: BigInt(k), tokens, document: `key ${k}`, offset: 0, scoredFrom: seqLen }
}
const all = (draw = random(3, "all")) => Array.from({ length: 8 }, (_, i) => keyed(i % 4, draw))

/** Learns the keys, among ever other tokens. */
const trained = (steps: number) =>
  Effect.gen(function*() {
    const model = yield* Model
    const draw = random(4, "trained")
    const tuner = yield* makeTuner({ rows: 8, seqLen, steps: Math.max(1, steps), optimizer })
    for (let step = 0; step < steps; step++) yield* tuner.step(batchOf(all(draw), seqLen))
    return yield* model.exportTensors
  }).pipe(Effect.scoped, Effect.provide(Model.layer(config, { seed: 3 })))

describe("occluded", () => {
  it("replaces a token where it is read, by any other, and nothing else", () => {
    const row: Row = { id: 1n, tokens: Uint32Array.of(2, 0, 1, 2), document: "a", offset: 0 }
    const batch = batchOf([row], 3)
    const seen = new Set<number>()
    for (let i = 0; i < 50; i++) {
      const { targets, tokens, ...rest } = occluded(batch, [1], 3, random(i))
      expect([tokens[0], tokens[2]]).toEqual([2, 1])
      expect([targets, rest.positions]).toEqual([batch.targets, batch.positions])
      seen.add(tokens[1]!)
    }
    expect([...seen].sort()).toEqual([1, 2])
    expect([...batch.tokens]).toEqual([2, 0, 1])
  })
  it("the highest are chosen by value, then by place", () => {
    expect(highest([1, 3, -2, 3, 2], 3)).toEqual([1, 3, 4])
  })
})

layer(NodeDevice.layer())("self-influence by tokens", (it) => {
  it.effect("is the squared norm of the gradient with a token replaced minus that without", () =>
    Effect.scoped(Effect.gen(function*() {
      const row = keyed(1)
      const { of } = yield* makeGradients({ rows: 1, seqLen })
      const norm = (one: Row) =>
        Effect.map(of({ ...batchOf([one], seqLen), targets: batchOf([row], seqLen).targets }, own), ({ gradients }) =>
          squaredNorm(config, gradients, "last"))
      const [found] = yield* eachOcclusion([row], { mode: own, seqLen, part: "last", draws: 1 }, (occlusion) =>
        Effect.map(tokenInfluence(occlusion, row, random(7)), (rises) => ({ rises, whole: occlusion.whole })))
      expect(found!.whole).toBe(yield* norm(row))
      expect(found!.rises).toHaveLength(seqLen)
      // the same draws, by hand
      const draw = random(7)
      for (let place = 0; place < 4; place++) {
        const other = draw.below(config.vocabSize - 1)
        const tokens = row.tokens.slice()
        tokens[place] = other < tokens[place]! ? other : other + 1
        expect(found!.rises[place]).toBe((yield* norm({ ...row, tokens })) - found!.whole)
      }
      const long = eachOcclusion([{ ...row, tokens: new Uint32Array(99) }], { mode: own, seqLen }, Effect.succeed)
      expect((yield* Effect.flip(long)).message).toContain("has 99 tokens")
    })).pipe(Effect.provide(Model.layer(config, { seed: 3 }))))

  it.effect("hangs on the one token that tells a memory, and on none where nothing was learned", () =>
    Effect.gen(function*() {
      const rows = all().slice(0, 4)
      const problem = { rows, seen: [], others: [], mode: own, seed: 1, seqLen, batchSize: 4 }
      const look = Effect.map(attack.run(problem, new TokenInfluenceOptions({ share: 1 / seqLen, sets: 4 })),
        (found) => {
          const [top, chance, contrast] = ["top", "random", "contrast"].map((one) => sampleOf(found[one]!)!.value)
          return { top: top!, chance: chance!, contrast: contrast! }
        })
      const weights = yield* trained(150)
      const logs = yield* withWeights(config, weights, eachOcclusion(rows, { mode: own, seqLen }, (occlusion, row, s) =>
        Effect.map(tokenInfluence(occlusion, row, random(1, s)), (rises) =>
          rises.map((rise) =>
            Math.log1p(rise / occlusion.whole)
          ))))
      // a single random token may happen to be another key: the mean over sequences tells
      expect(highest(logs[0]!.map((_, place) => mean(logs.map((one) => one[place]!))), 1)).toEqual([KEY])
      const known = yield* withWeights(config, weights, look)
      const never = yield* withWeights(config, yield* trained(0), look)
      // thousands of times as much without the key
      expect(known.top).toBeGreaterThan(Math.log(1000))
      expect(known.contrast).toBeGreaterThan(4)
      expect(known.contrast).toBeCloseTo(known.top - known.chance, 10)
      expect(Math.abs(never.top)).toBeLessThan(1.5)
      expect(Math.abs(never.contrast)).toBeLessThan(1.5)
    }))
})
