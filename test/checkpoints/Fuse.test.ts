import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { saveModel } from "../../src/checkpoints/Checkpoints.ts"
import { fuse, fuseCheckpoints, fuseProblem, kinship } from "../../src/checkpoints/Fuse.ts"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import { deadUnits, erase } from "../../src/checkpoints/Units.ts"
import type { HostTensor } from "../../src/HostTensor.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"

const tensor = (...data: ReadonlyArray<number>): HostTensor => ({ shape: [data.length], data: Float32Array.from(data) })
const a = { "model.layers.0.x": tensor(1, 2, 3), "model.layers.1.x": tensor(10), "model.norm": tensor(5) }
const b = { "model.layers.0.x": tensor(3, 6, 3), "model.layers.1.x": tensor(20), "model.norm": tensor(1) }
const values = (tensors: Readonly<Record<string, HostTensor>>) => Object.values(tensors).map(({ data }) => [...data])

describe("an average of models", () => {
  it("is the one that a hand computes: alike, weighted, by blocks, by Fisher information", () => {
    expect(values(fuse([a, b]))).toEqual([[2, 4, 3], [15], [3]])
    expect(values(fuse([a, b, b], { weights: [2, 1, 1] }))).toEqual([[2, 4, 3], [15], [3]])
    expect(values(fuse([a, b], { weights: [3, 1] }))).toEqual([[1.5, 3, 3], [12.5], [4]])
    // beyond one of them
    expect(values(fuse([a, b], { weights: [2, -1] }))).toEqual([[-1, -2, 3], [0], [9]])
    expect(values(fuse([a, b], { layers: { 1: [1, 0] } }))).toEqual([[2, 4, 3], [10], [3]])
    const information = [
      { "model.layers.0.x": tensor(1, 0, 0), "model.layers.1.x": tensor(3), "model.norm": tensor(1) },
      { "model.layers.0.x": tensor(3, 2, 0), "model.layers.1.x": tensor(1), "model.norm": tensor(1) }
    ]
    // (1 * 1 + 3 * 3) / 4, all of b, none of either: the plain average
    expect(values(fuse([a, b], { fisher: information }))).toEqual([[2.5, 6, 3], [12.5], [3]])
    expect(values(fuse([a, b], { fisher: information, weights: [3, 1] }))).toEqual([[2, 6, 3], [11], [4]])
  })

  it("is refused for models or options that do not go together", () => {
    const refused = (...args: Parameters<typeof fuse>) => expect(() => fuse(...args))
    refused([a]).toThrow(/needs two models or more, got 1/)
    refused([a, { ...b, "model.norm": tensor(1, 2) }]).toThrow(
      /tensor model.norm is \[1\] in model 1 and \[2\] in model 2/
    )
    refused([a, { ...b, more: tensor(1) }]).toThrow(/model 1 has no tensor more/)
    refused([a, b], { weights: [1] }).toThrow(/weights are 1 numbers for 2 models/)
    refused([a, b], { weights: [1, -1] }).toThrow(/sum is above 0, got 1, -1/)
    refused([a, b], { weights: [2, -1], fisher: [a, a] }).toThrow(/must not be negative beside fisher, got -1/)
    refused([a, b], { layers: { 2: [1, 1] } }).toThrow(/block 2, which the models do not have/)
    refused([a, b], { fisher: [a] }).toThrow(/fisher is of 1 models/)
    expect(fuseProblem(2, 3, { fisher: true, weights: [1, 0], layers: { 2: [1, 1] } })).toBeUndefined()
    expect(fuseProblem(2, 2, { fisher: false, weights: [2, -1], layers: { 2: [1, 1] } })).toMatch(/no block 2/)
    expect(fuseProblem(3, 2, { fisher: false, layers: { 1: [1, 1] } })).toMatch(
      /weights of block 1 are 2 numbers for 3/
    )
    expect(fuseProblem(2, 2, { fisher: true, weights: [2, -1] })).toMatch(/must not be negative beside fisher/)
    const ids = (n: number) => ({ ...a, ids: { shape: [1], data: Uint32Array.of(n) } })
    refused([ids(1), ids(2)]).toThrow(/tensor ids of whole numbers differs/)
    expect(fuse([ids(1), ids(1)])["ids"]!.data).toEqual(Uint32Array.of(1))
  })
})

const config = new ModelConfig({
  vocabSize: 64,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 24
})

const initial = (seed: number, noise = 0) => {
  const draw = makeRandom(seed)
  return Object.fromEntries(
    listParameters(parametersOf(config)).flatMap((p) => {
      const value = initialValue(config, p, seed)
      return toHuggingFace(config, p.name, value.map((x) => x + noise * draw.normal()))
    })
  )
}

layer(NodeContext.layer)("checkpoints that are fused", (it) => {
  it.scoped("are averaged into one that opens, and told apart by where they began", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const dir = yield* fs.makeTempDirectoryScoped()
      const save = (name: string, model: Readonly<Record<string, HostTensor>>, c = config) =>
        saveModel(`${dir}/${name}`, { config: huggingFaceConfig(c), model, tokenizer: undefined })
      const [one, other, foreign] = [initial(1), initial(1, 0.05), initial(2)]
      yield* save("one", one)
      yield* save("other", other)
      yield* save("foreign", foreign)
      const report = yield* fuseCheckpoints([`${dir}/one`, `${dir}/other`], `${dir}/both`, { weights: [1, 3] })
      expect(report.weights).toEqual([0.25, 0.75])
      expect(report.kinship[0]).toBeGreaterThan(0.5)
      expect(report.notes).toEqual([])
      const { tensors } = yield* loadInitial(`${dir}/both`)
      expect(tensors).toEqual(fuse([one, other], { weights: [1, 3] }))
      expect(Math.abs(kinship(one, foreign))).toBeLessThan(0.1)
      const strange = yield* fuseCheckpoints([`${dir}/one`, `${dir}/foreign`], `${dir}/strange`)
      expect(strange.notes.join()).toMatch(/models 1 and 2 have nothing in common .* begun from different weights/)
      // as many heads of other sizes: the same tensors, another function
      yield* save("heads", one, new ModelConfig({ ...config, numAttentionHeads: 4 }))
      const heads = yield* Effect.flip(fuseCheckpoints([`${dir}/one`, `${dir}/heads`], `${dir}/no`))
      expect(heads.message).toMatch(/is of another configuration than .*\(num_attention_heads, /)
      expect(yield* fs.exists(`${dir}/no`)).toBe(false)
    }))

  it.scoped("are without what was deleted from one of them, whatever another still has of it", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const dir = yield* fs.makeTempDirectoryScoped()
      const sinks = { pool: 16, active: 8, block: 4 } as const
      const c = new ModelConfig({ ...config, intermediateSize: 40, sinks: new SinkConfig(sinks) })
      const denied = new ModelConfig({ ...c, sinks: new SinkConfig({ ...sinks, denied: ["7"] }) })
      const weights = (seed: number) =>
        Object.fromEntries(
          listParameters(parametersOf(c)).flatMap((p) => toHuggingFace(c, p.name, initialValue(c, p, seed)))
        )
      const save = (name: string, c: ModelConfig, model: Readonly<Record<string, HostTensor>>, deletions?: string) =>
        saveModel(`${dir}/${name}`, { config: huggingFaceConfig(c), model, tokenizer: undefined, names: undefined,
          deletions })
      yield* save("whole", c, weights(1))
      yield* save("less", denied, erase(c, weights(2), [1, 3]), "first\n")
      yield* save("least", denied, erase(c, weights(2), [1, 3]), "first\nsecond\n")
      yield* save("other", denied, weights(1), "other\n")
      yield* save("fresh", denied, weights(1), "first\n{\"operation\":\"refresh\"}\n")
      const fused = (...names: ReadonlyArray<string>) =>
        fuseCheckpoints(names.map((name) => `${dir}/${name}`), `${dir}/${names.join("-")}`)
      for (const names of [["whole", "less", "least"], ["least", "whole", "less"]]) {
        yield* fused(...names)
        const { config, deletions, tensors } = yield* loadInitial(`${dir}/${names.join("-")}`)
        expect([config.sinks!.denied, deletions]).toEqual([["7"], "first\nsecond\n"])
        expect(deadUnits(config, tensors)).toEqual([1, 3])
      }
      const refused = (...names: ReadonlyArray<string>) =>
        Effect.map(Effect.flip(fused(...names)), ({ message }) => message)
      expect(yield* refused("less", "other")).toMatch(
        /other.*: what was deleted from it is not the beginning of .*less/
      )
      expect(yield* refused("least", "fresh")).toMatch(/is not the beginning of/)
      expect(yield* refused("less", "fresh")).toMatch(/less.* sinks were refreshed in .*fresh/)
    }))
})
