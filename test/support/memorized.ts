/** A tiny sink model that has memorized a few sequences of random tokens, for tests of isolation. */
import * as Effect from "effect/Effect"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { Model, type ModelOptions } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner } from "../../src/train/Tuner.ts"

export const seqLen = 16

/** 16 general neurons and 512 sinks in blocks of 8, of which an id lights 32. */
export const sinkModel = (sinks: Partial<ConstructorParameters<typeof SinkConfig>[0]> = {}): ModelConfig => {
  const pool = new SinkConfig({ pool: 512, active: 32, block: 8, ...sinks })
  return new ModelConfig({
    vocabSize: 61,
    hiddenSize: 32,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    intermediateSize: 16 + pool.pool,
    sinks: pool
  })
}

const draw = random(5, "memorized")

/** Sequences of ids that count from `first`. */
export const sequences = (count: number, first: number): ReadonlyArray<Row> =>
  Array.from({ length: count }, (_, i) => ({
    id: BigInt(first + i),
    tokens: Uint32Array.from({ length: seqLen + 1 }, () => draw.below(61)),
    document: `sequence ${first + i}`,
    offset: 0
  }))

export const repeated = sequences(8, 1)
export const singles = sequences(16, 100)
export const heldOut = sequences(4, 1000)

export const optimizer = new OptimizerConfig({ learningRate: 2e-2 })

/** The weights of a model after so many steps on sequences, the repeated ones unless told, each with its own sinks. */
export const memorize = (config: ModelConfig, steps = 30, rows = repeated) =>
  Effect.gen(function*() {
    const model = yield* Model
    const tuner = yield* makeTuner({ rows: rows.length, seqLen, steps, optimizer })
    for (let step = 0; step < steps; step++) yield* tuner.step(batchOf(rows, seqLen))
    return yield* model.exportTensors
  }).pipe(Effect.scoped, Effect.provide(Model.layer(config, { seed: 3 })))

/** Runs something with a model of these weights. */
export const withWeights = <A, E, R>(
  config: ModelConfig,
  weights: Effect.Effect.Success<ReturnType<typeof memorize>>,
  use: Effect.Effect<A, E, R>,
  options: ModelOptions = {}
) =>
  Effect.gen(function*() {
    yield* (yield* Model).importTensors(weights)
    return yield* use
  }).pipe(Effect.provide(Model.layer(config, { ...options, initialize: false })))
