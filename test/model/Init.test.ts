import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { drawers, normals } from "../../src/model/Init.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { cut, initialize, initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { SinkConfig, sliceOf } from "../../src/Sink.ts"

/** The same numbers as they are defined: FNV-1a of the name, counted words, Box and Muller's transform. */
const defined = (n: number, name: string, std: number): Float32Array => {
  let a = 0x811c9dc5
  let b = 0x1b873593
  for (const c of Buffer.from(name, "latin1")) {
    a = Math.imul(a ^ c, 0x01000193)
    b = Math.imul(b ^ c, 0x5bd1e995)
    b ^= b >>> 13
  }
  let counter = 0
  const uniform = () => {
    let x = ((a >>> 0) + Math.imul(++counter, 0x9e3779b9)) ^ b
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
    return (((x ^ (x >>> 16)) >>> 0) + 0.5) / 2 ** 32
  }
  const out = new Float32Array(n)
  for (let i = 0; i < n; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(uniform()))
    const angle = 2 * Math.PI * uniform()
    out[i] = radius * Math.cos(angle)
    if (i + 1 < n) out[i + 1] = radius * Math.sin(angle)
  }
  return out
}

const differing = (one: Float32Array, other: Float32Array): number => {
  const bits = new Uint32Array(one.buffer)
  return new Uint32Array(other.buffer).reduce((sum, x, i) => sum + (x === bits[i] ? 0 : 1), 0)
}

describe("initial weights", () => {
  it.each([[1, "0 model.norm", 1], [300_001, "7 layers.1.down sinks", 0.02], [300_000, "12 lm_head", 0.05]])(
    "%d of them are those of their definition, bit for bit",
    (n, name, std) => {
      const out = new Float32Array(n).fill(NaN)
      normals(out, { stream: name, std, size: n })
      expect(differing(out, defined(n, name, std))).toBe(0)
    }
  )

  it("have the moments of a normal distribution", () => {
    const n = 1 << 19
    const out = new Float32Array(n)
    normals(out, { stream: "moments", std: 2, size: n })
    const moment = (k: number) => out.reduce((sum, x) => sum + (x / 2) ** k, 0) / n
    // six standard errors of each: sqrt(Var(x^k) / n)
    expect(Math.abs(moment(1))).toBeLessThan(6 * Math.sqrt(1 / n))
    expect(Math.abs(moment(2) - 1)).toBeLessThan(6 * Math.sqrt(2 / n))
    expect(Math.abs(moment(3))).toBeLessThan(6 * Math.sqrt(15 / n))
    expect(Math.abs(moment(4) - 3)).toBeLessThan(6 * Math.sqrt(96 / n))
  })

  it("are the same from threads, part by part", () => {
    const [stream, n] = ["3 layers.0.o", 10_001]
    const parts = [[0, 4_000], [4_000, 6_000], [10_000, 1]] as const
    return Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const draw = yield* drawers(2)
      const drawn = yield* Effect.forEach(parts, ([first, size]) => draw({ stream, std: 0.3, first, size }), {
        concurrency: "unbounded"
      })
      const out = Float32Array.from(drawn.flatMap((part) => [...part!]))
      expect(differing(out, defined(n, stream, 0.3))).toBe(0)
    })))
  })

  it("are drawn without threads where none runs", () =>
    Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const draw = yield* drawers(1, "throw new Error('no threads here')")
      const one = { stream: "a", std: 1, size: 8 }
      expect(yield* Effect.all([draw(one), draw(one)], { concurrency: 2 })).toEqual([undefined, undefined])
      expect(yield* draw(one)).toBeUndefined()
    }))))

  it("of a slice of the pool are those of its sinks in all of it, whoever draws them", async () => {
    const config = new ModelConfig({
      vocabSize: 64,
      hiddenSize: 32,
      intermediateSize: 32 + 96,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      sinks: new SinkConfig({ pool: 96, active: 16, block: 8, shards: 3 })
    })
    const wholes = listParameters(parametersOf(config))
    for (let rank = 0; rank < 3; rank++) {
      const slice = sliceOf(config.sinks!, { rank, size: 3 })!
      const parameters = listParameters(parametersOf(config, slice))
      const values = new Map(
        parameters.map((p) => [p.value, new Float32Array(initialValue(config, p, 5, slice).length)])
      )
      const write = (tensor: object, data: ArrayLike<number>, at: number) => values.get(tensor as never)!.set(data, at)
      const device = { write, idle: Effect.void } as never
      await Effect.runPromise(initialize(device, config, parameters, 5, { many: 0, slice }))
      parameters.forEach((p, i) => {
        const whole = initialValue(config, wholes[i]!, 5)
        const own = initialValue(config, p, 5, slice)
        expect(own.length).toBe(
          p.sinkRow0 === undefined ? whole.length : whole.length - (p.sinkRow0 === 64 ? 4 : 2) * 32 * 32
        )
        expect(differing(own, cut(config, p, whole, slice)), p.name).toBe(0)
        expect(differing(own, values.get(p.value)!), p.name).toBe(0)
      })
      // rows of gate, then those of up
      const gateUp = parameters.find(({ name }) => name === "layers.1.gateUp")!
      const whole = initialValue(config, wholes.find(({ name }) => name === gateUp.name)!, 5)
      const row = (values: Float32Array, at: number) => values.subarray(32 * at, 32 * at + 32)
      const own = initialValue(config, gateUp, 5, slice)
      expect(row(own, 64 + 1)).toEqual(row(whole, 64 + 32 * rank + 1))
      expect(row(own, 64 + 32 + 1)).toEqual(row(whole, 64 + 96 + 32 * rank + 1))
    }
  })

  it("of a whole model do not depend on whether there are threads", async () => {
    const config = new ModelConfig({
      vocabSize: 4099,
      hiddenSize: 512,
      intermediateSize: 96,
      numHiddenLayers: 1,
      numAttentionHeads: 4,
      maxPositionEmbeddings: 16,
      sinks: new SinkConfig({ pool: 64, active: 16 })
    })
    const parameters = listParameters(parametersOf(config))
    for (const many of [0, Infinity]) {
      const values = new Map(parameters.map((p) => [p.value, new Float32Array(initialValue(config, p, 5).length)]))
      const write = (tensor: object, data: ArrayLike<number>, at: number) => values.get(tensor as never)!.set(data, at)
      await Effect.runPromise(initialize({ write, idle: Effect.void } as never, config, parameters, 5, { many }))
      for (const p of parameters) {
        expect(differing(values.get(p.value)!, initialValue(config, p, 5)), `${p.name} ${many}`).toBe(0)
      }
    }
  })
})
