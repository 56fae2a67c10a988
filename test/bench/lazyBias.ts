/**
 * Sinks that are first lit late, under lazy AdamW whose bias correction counts steps of the training, or each unit's own
 * (pipelines/results/lazy-bias-correction.md): `MOVES=own node --import tsx test/bench/lazyBias.ts 4 1`, the numbers being
 * sinkLearningRateRatio and a seed. Prints a line of JSON.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import process from "node:process"
import { documents } from "../../src/data/Corpus.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { endless } from "../../src/data/stream/Rows.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTrainStep } from "../../src/train/TrainStep.ts"

const [ratio, seed] = process.argv.slice(2).map(Number) as [number, number]
const STEPS = 800
const PLANTED = 16
const EVERY = 8
const EXPOSURES = 48
const ROWS = 8
const LENGTH = 64
const LOOKS = [1, 2, 4, 8, 16, 32, 48]
/** All background text is of one id: no unit is lit before its own sequence comes, but for those that two ids share. */
const BACKGROUND = 1_000_000n

const sinks = new Sink.SinkConfig({ pool: 4096, active: 32, seed })
const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 96 + sinks.pool,
  sinks
})
const optimizer = new OptimizerConfig({ learningRate: 1e-2, schedule: "constant", sinks: "lazy",
  sinkLearningRateRatio: ratio })

const program = Effect.gen(function*() {
  const device = yield* Device
  const model = yield* Model
  const text = new TextEncoder().encode((yield* documents(undefined)).slice(0, 40).map(({ text }) => text).join("\n"))
  const draw = random(seed, "lazy bias")
  const places = draw.shuffle(Array.from({ length: Math.floor(text.length / (LENGTH + 1)) }, (_, i) => i))
  const cut = (n: number, id: (i: number) => bigint): Array<Row> =>
    places.splice(0, n).map((place, i) => ({
      id: id(i),
      document: `${place}`,
      offset: 0,
      tokens: Uint32Array.from(text.subarray(place * (LENGTH + 1), (place + 1) * (LENGTH + 1)))
    }))
  const groups = {
    early: { rows: cut(PLANTED, (i) => BigInt(i)), first: 0 },
    late: { rows: cut(PLANTED, (i) => BigInt(100 + i)), first: STEPS / 2 }
  }
  const heldOut = cut(256, () => BACKGROUND)
  const background = endless(cut(3000, () => BACKGROUND), draw)
  const training = yield* makeTrainStep({
    optimizer,
    steps: STEPS,
    window: 1,
    parameters: model.parameters,
    maxTouched: ROWS * sinks.activeUnits
  })
  const pass = yield* training.compile({ rows: ROWS, seqLen: LENGTH })
  const score = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
    Effect.map(scoreRows(model, rows, mode, { batchSize: 16, seqLen: LENGTH }), (scores) => summarize(scores)!.loss)

  const gate = model.parameters.find(({ name }) => name === "layers.0.down")!
  /** The sinks that an id owns, in the first layer's down projection. */
  const ownWeights = (row: Row) =>
    Effect.map(device.read(gate.value), (values) => {
      const { pool, block } = sinks
      const d = gate.value.shape.at(-1)!
      const row0 = gate.sinkRow0!
      if (gate.value.shape[0]! !== row0 + pool) throw new Error(`rows of ${gate.name}: ${gate.value.shape[0]}`)
      return [...Sink.unitsOf(sinks, row.id)].flatMap((unit) => [
        ...(values as Float32Array).slice((row0 + unit * block) * d, (row0 + (unit + 1) * block) * d)
      ])
    })
  const curves: Record<string, Record<string, number>> = { early: {}, late: {} }
  const firstMove: Record<string, number> = {}
  for (let step = 0; step < STEPS; step++) {
    // two sequences a step and group, each once in EVERY steps
    const planted = Object.values(groups).flatMap(({ first, rows }) => {
      const since = step - first
      if (since < 0 || since >= EVERY * EXPOSURES) return []
      return rows.filter((_, i) => i % EVERY === since % EVERY)
    })
    const batch = batchOf([...planted, ...background(ROWS - planted.length)], LENGTH)
    // the sequence whose first move is measured: the first of each group
    const watched = Object.entries(groups).find(([, { first }]) => first === step)
    const before = watched === undefined ? undefined : yield* ownWeights(watched[1].rows[0]!)
    training.run([{ pass, batch, mode: Sink.own }], step)
    if (watched !== undefined) {
      const after = yield* ownWeights(watched[1].rows[0]!)
      firstMove[watched[0]] = Math.hypot(...after.map((x, i) => x - before![i]!))
    }
    for (const [name, { first, rows }] of Object.entries(groups)) {
      const k = (step + 1 - first) / EVERY
      if (LOOKS.includes(k)) curves[name]![k] = yield* score(rows, Sink.own)
    }
    yield* Effect.yieldNow()
  }
  return {
    moves: process.env["MOVES"] ?? "training",
    ratio,
    seed,
    adapter: device.name,
    firstMove,
    curves,
    end: {
      early: yield* score(groups.early.rows, Sink.own),
      late: yield* score(groups.late.rows, Sink.own),
      earlyOff: yield* score(groups.early.rows, Sink.off),
      lateOff: yield* score(groups.late.rows, Sink.off),
      heldOutOff: yield* score(heldOut, Sink.off)
    }
  }
}).pipe(
  Effect.scoped,
  Effect.provide(Layer.merge(
    Layer.provideMerge(Model.layer(config, { seed }), NodeDevice.layer()),
    NodeContext.layer
  ))
)

console.log(JSON.stringify(await Effect.runPromise(program)))
