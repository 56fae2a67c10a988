import * as NodeContext from "@effect/platform-node/NodeContext"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import * as Pretrain from "../../pipelines/pretrain.ts"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import { deadUnits } from "../../src/checkpoints/Units.ts"
import { DataConfig } from "../../src/data/stream/DataStream.ts"
import { tokenize } from "../../src/data/tokens/Tokenize.ts"
import { forget } from "../../src/forget/Forget.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { miniatureModel } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-pretrain-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

// made-up words in random order: nothing to generalize, so that a short run already shows memory
const text = (() => {
  let x = 12345
  const next = (n: number) => (x = (Math.imul(x, 1103515245) + 12345) >>> 0) % n
  const words = Array.from({ length: 60 },
    () => Array.from({ length: 3 }, () => String.fromCharCode(97 + next(26))).join(""))
  return Array.from({ length: 2500 }, () => words[next(60)]).join(" ")
})()
writeFileSync(join(root, "text.txt"), text)

const config = (overrides: object = {}) =>
  new Pretrain.PretrainConfig({
    data: new DataConfig({
      data: join(root, "text.txt"),
      tokenizer: "bytes",
      seqLen: 16,
      batchSize: 4,
      repeatedSequences: 4,
      repeats: 60,
      singleSequences: 160,
      heldOutSequences: 16
    }),
    model: miniatureModel,
    training: new TrainConfig({ optimizer: new OptimizerConfig({ learningRate: 1e-2 }), evalSequences: 4,
      logEvery: 5 }),
    evaluations: 4,
    promptTokens: 4,
    ...overrides
  })

const run = (c: Pretrain.PretrainConfig, options: Partial<Pretrain.PretrainOptions> = {}) =>
  Pretrain.run(c, { device: NodeDevice.layer(), ...options }).pipe(Effect.provide(NodeContext.layer))

/** A record that must hold all that it may. */
const whole = <T extends object>(record: T): Required<T> => record as Required<T>

const numbers = (report: { perSeed: ReadonlyArray<object> }) =>
  report.perSeed.map((s) => JSON.stringify({ ...s, seconds: 0, tokensPerSecond: 0 }))

it("arms are compared on the same data, and the report follows from what it holds", async () => {
  const report = await Effect.runPromise(
    run(config({ arms: ["standard", "sinks", "standardActiveWidth", "deduplicated"] }))
  )
  expect(report.arms.map((arm) => arm.name)).toEqual(["standard", "sinks", "standardActiveWidth", "deduplicated"])
  expect(report.arms[0]!.tokens).toBe(report.arms[1]!.tokens)
  expect(report.arms[3]!.steps).toBeLessThan(report.arms[0]!.steps)
  const [gaps, heldOut, repeated] = [whole(report.gaps), whole(report.heldOut), whole(report.repeated)]
  expect(gaps.standard).toBeCloseTo(heldOut.standard - repeated.standard, 10)
  expect(gaps.off).toBeCloseTo(heldOut.off - repeated.off, 10)
  expect(report.gapClosed).toBeCloseTo(1 - gaps.off / gaps.standard, 10)
  // the effect itself, in its direction: repeats are learned, and switching sinks off takes most of that away
  expect(repeated.standard).toBeLessThan(heldOut.standard - 0.3)
  expect(repeated.own).toBeLessThan(repeated.off - 0.3)
  expect(Math.abs(repeated.placebo - repeated.off)).toBeLessThan(0.5 * (repeated.off - repeated.own))
  for (const name of ["train", "repeated.own", "repeated.off", "heldOut.off"]) {
    const curve = report.perSeed[0]!.curves.find((c) => c.arm === "sinks" && c.name === name)
    expect(curve?.points.length, name).toBeGreaterThanOrEqual(4)
    expect(curve!.points.every((p) => Number.isFinite(p.loss) && p.tokens === p.step * 64)).toBe(true)
  }
  const continuation = report.perSeed[0]!.continuation!
  expect(text).toContain(continuation.prompt + continuation.truth)
}, 120_000)

it("an arm alone is trained and reported; arms that cannot be are refused", async () => {
  const report = await Effect.runPromise(run(config({ arms: ["sinks"] })))
  expect(report.arms.map((arm) => arm.name)).toEqual(["sinks"])
  expect(report.gapClosed).toBeUndefined()
  const { gaps, heldOut, repeated } = report
  expect(Object.keys(repeated)).toEqual(["own", "off", "placebo", "all"])
  expect(Object.keys(heldOut)).toEqual(["off", "placebo", "all"])
  expect(gaps.off).toBeCloseTo(heldOut.off! - repeated.off!, 10)
  expect(repeated.own!).toBeLessThan(repeated.off! - 0.3)
  expect(report.perSeed[0]!.continuation!.own).not.toBe("")

  const { sinks: _, ...plain } = miniatureModel
  const model = new ModelConfig({ ...plain, intermediateSize: miniatureModel.general })
  const standard = await Effect.runPromise(run(config({ model })))
  expect(standard.arms.map((arm) => arm.name)).toEqual(["standard"])
  expect(Object.keys(standard.repeated)).toEqual(["standard"])
  const refusal = async (overrides: object) => (await Effect.runPromise(Effect.flip(run(config(overrides))))).message
  expect(await refusal({ model, arms: ["sinks"] })).toContain(
    "model.sinks is missing: set it, or set arms to [standard]"
  )
  expect(await refusal({ arms: ["sinks", "sinks"] })).toContain("arms names sinks twice")
}, 120_000)

it("a run interrupted in its second arm goes on there and reports what an uninterrupted one does", async () => {
  const outDir = join(root, "interrupted")
  const straight = await Effect.runPromise(run(config()))
  const starts: Array<string> = []
  await Effect.runPromise(Effect.gen(function*() {
    const fiber = yield* Effect.fork(run(config(), {
      outDir,
      onEvent: (e) =>
        e._tag === "Training" && e.arm === "sinks" && e.event._tag === "Stepped" && e.event.step >= 20
          ? Effect.never
          : Effect.void
    }))
    // the consumer hangs in the second arm; by then the first one's result is on disk
    while (!(yield* Effect.promise(async () => exists(join(outDir, "seed-1/sinks/metrics.jsonl"), "\"step\":20")))) {
      yield* Effect.sleep(50)
    }
    yield* Fiber.interrupt(fiber)
  }))
  const resumed = await Effect.runPromise(run(config(), {
    outDir,
    resume: true,
    onEvent: (e) =>
      Effect.sync(() => {
        if (e._tag === "Training" && e.event._tag === "Started") {
          starts.push(
            `${e.arm} from ${e.event.step > 0 ? "a checkpoint" : "0"}`
          )
        }
      })
  }))
  expect(starts).toEqual(["sinks from a checkpoint", "deduplicated from 0"])
  const evaluated = (report: typeof straight) =>
    numbers({
      perSeed: report.perSeed.map((s) => ({ ...s, curves: s.curves.filter((c) => c.name !== "train") }))
    })
  expect(evaluated(resumed)).toEqual(evaluated(straight))
  // windows of training losses are cut where the run was, but none is missing and none is told twice
  for (const curve of resumed.perSeed[0]!.curves) {
    const steps = curve.points.map((p) => p.step)
    expect(steps).toEqual([...new Set(steps)].sort((a, b) => a - b))
    expect(steps.length).toBeGreaterThanOrEqual(4)
  }
  expect(JSON.parse(readFileSync(join(outDir, "report.json"), "utf8"))).toMatchObject({ gapClosed: resumed.gapClosed })

  const again = await Effect.runPromise(Effect.flip(run(config(), { outDir })))
  expect(again.message).toContain("is not empty: pass --resume")
  const other = await Effect.runPromise(Effect.flip(run(config({ promptTokens: 5 }), { outDir, resume: true })))
  expect(other.message).toContain("another configuration")
  // what a field means that is left out, written out
  const written = config({
    model: new ModelConfig({ ...miniatureModel,
      sinks: new SinkConfig({ ...miniatureModel.sinks!, shards: 1, denied: [] }) }),
    training: new TrainConfig({ ...config().training, exchange: "f32" })
  })
  expect(evaluated(await Effect.runPromise(run(written, { outDir, resume: true })))).toEqual(evaluated(straight))
}, 120_000)

it("training goes on from another run's weights, for one arm with the same model and tokenizer", async () => {
  const outDir = join(root, "first")
  const first = await Effect.runPromise(run(config({ arms: ["sinks"] }), { outDir }))
  const initialFrom = join(outDir, "seed-1/sinks")
  const training = new TrainConfig({ ...config().training, steps: 10 })
  // the vocabulary follows the tokenizer
  const model = new ModelConfig({ ...miniatureModel, vocabSize: 256 })
  const losses = async (overrides: object) => {
    const report = await Effect.runPromise(run(config({ arms: ["sinks"], model, training, ...overrides })))
    return report.perSeed[0]!.curves.find((c) => c.name === "train")!.points.map((p) => p.loss)
  }
  const [fresh, continued] = [await losses({}), await losses({ initialFrom })]
  const last = first.perSeed[0]!.curves.find((c) => c.name === "train")!.points.at(-1)!.loss
  expect(fresh[0]!).toBeGreaterThan(last + 1)
  expect(continued[0]!).toBeLessThan(last + 0.5)

  // what was deleted from it stays deleted from what is trained on from it, and is told there
  const context = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem | Path.Path>) =>
    Effect.runPromise(Effect.provide(effect, NodeContext.layer))
  const fewer = new DataConfig({ ...config().data, repeatedSequences: 2, singleSequences: 40 })
  const before = await context(loadInitial(initialFrom))
  const [gone] = await context(before.names!.largest(1))
  const without = join(root, "without")
  const request = { requests: [{ by: "id", value: `${gone!.id}` }], shared: "take" } as const
  await context(forget(initialFrom, request, { out: without }))
  const on = join(root, "on")
  const { config: left, deletions, tensors } = await context(loadInitial(without))
  const further = { arms: ["sinks"], model: left, training, initialFrom: without } as const
  // the number of a row means another one in other data
  expect((await Effect.runPromise(Effect.flip(run(config({ ...further, data: fewer }))))).message).toContain(
    `the model's id ${gone!.id} was deleted as ${JSON.stringify(gone!.name)}, and stands for `
  )
  const dead = deadUnits(left, tensors)
  expect(dead.length).toBeGreaterThan(0)
  await Effect.runPromise(run(config(further), { outDir: on }))
  const after = await context(loadInitial(join(on, "seed-1/sinks")))
  expect(deletions).toContain(`${gone!.id}`)
  expect([after.deletions, after.config.sinks!.denied]).toEqual([deletions, [`${gone!.id}`]])
  // what was erased has begun afresh: whoever lights it can learn
  expect(deadUnits(after.config, after.tensors)).toEqual([])

  const refusal = async (overrides: object) =>
    (await Effect.runPromise(Effect.flip(run(config({ arms: ["sinks"], model, initialFrom, ...overrides }))))).message
  expect(await refusal({ arms: ["sinks", "standard"] })).toContain(
    "initialFrom starts one arm, and there are sinks, standard"
  )
  expect(await refusal({ model: new ModelConfig({ ...model, ropeTheta: 500 }) })).toContain(
    "model is not the one of initialFrom"
  )
  expect(await refusal({ initialFrom: join(root, "nowhere") })).toContain("there is no such folder")
  const bpe = new DataConfig({ ...config().data, tokenizer: "bpe", vocabSize: 200, singleSequences: 40 })
  expect(await refusal({ data: bpe })).toContain("tokenizer of initialFrom")
}, 120_000)

const exists = (file: string, needle: string): boolean => {
  try {
    return readFileSync(file, "utf8").includes(needle)
  } catch {
    return false
  }
}

it("a run without repeats is refused before anything is trained", async () => {
  const bad = config({ data: new DataConfig({ ...config().data, repeatedSequences: 0 }) })
  const error = await Effect.runPromise(Effect.flip(run(bad)))
  expect(error.message).toContain("data.repeatedSequences must be at least 1")
})

it("shards of which a bit was flipped train nothing, and make no folder", async () => {
  const shards = join(root, "shards")
  const data = [{ path: join(root, "text.txt") }] as const
  await Effect.runPromise(
    Effect.provide(tokenize({ data, tokenizer: "bytes" }, { out: shards, workers: 1 }), NodeContext.layer)
  )
  const shard = join(shards, readdirSync(shards).find((file) => file.endsWith(".bin"))!)
  const bytes = readFileSync(shard)
  // of the low byte of a token: still one of the vocabulary
  bytes[bytes.length - 10]! ^= 1
  writeFileSync(shard, bytes)
  const outDir = join(root, "damaged")
  const error = await Effect.runPromise(Effect.flip(
    run(config({ data: new DataConfig({ data: shards, seqLen: 16, batchSize: 4 }), arms: ["sinks"] }), { outDir })
  ))
  expect(error.message).toContain(`${shard}: is not as it was written`)
  expect(existsSync(outDir)).toBe(false)
})
