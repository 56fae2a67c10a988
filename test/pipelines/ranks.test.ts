import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import * as Pretrain from "../../pipelines/pretrain.ts"
import { view } from "../../pipelines/pretrain/view.ts"
import { toTerminal } from "../../pipelines/report/render.ts"
import { Collective, type CollectiveService } from "../../src/collective/Collective.ts"
import { ranksInProcess } from "../../src/collective/InProcess.ts"
import { DataConfig } from "../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../src/node.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { miniatureModel } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-ranks-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const config = (overrides: object = {}) =>
  new Pretrain.PretrainConfig({
    data: new DataConfig({
      tokenizer: "bytes",
      seqLen: 16,
      batchSize: 2,
      repeatedSequences: 4,
      repeats: 6,
      singleSequences: 16,
      heldOutSequences: 8
    }),
    model: miniatureModel,
    arms: ["standard", "sinks"],
    training: new TrainConfig({
      optimizer: new OptimizerConfig({ learningRate: 1e-2, sinks: "lazy" }),
      evalSequences: 4,
      logEvery: 2,
      gradientAccumulation: 4
    }),
    evaluations: 2,
    promptTokens: 4,
    ...overrides
  })

type Options = Partial<Pretrain.PretrainOptions>

const alone = (options: Options = {}) => Pretrain.run(config(), { device: NodeDevice.layer(), ...options })

/** By ranks of this process, of which the first runs and the others follow. */
const together = (size: number, options: Options = {}, overrides: object = {}) =>
  Effect.gen(function*() {
    const as = (collective: CollectiveService) => Effect.provideService(Collective, collective)
    const [first, ...others] = ranksInProcess(size)
    const { left, right } = yield* Effect.all({
      left: Pretrain.run(config(overrides), { device: NodeDevice.layer(), ...options }).pipe(as(first!), Effect.exit),
      right: Effect.forEach(others, (one) => Effect.exit(as(one)(Pretrain.follow({ device: NodeDevice.layer() }))), {
        concurrency: "unbounded"
      })
    }, { concurrency: "unbounded" })
    return { report: left, others: right }
  })

const test = (name: string, run: Effect.Effect<void, unknown, Effect.Effect.Context<ReturnType<typeof alone>>>) =>
  it(name, () => Effect.runPromise(Effect.provide(run, NodeContext.layer)))

test("a comparison by four ranks is that of one, with what each did", Effect.gen(function*() {
  const one = yield* alone()
  const { others, report } = yield* together(4)
  expect(others.every(Exit.isSuccess)).toBe(true)
  const four = yield* report
  expect(one.ranks).toBeUndefined()
  expect(four.ranks).toHaveLength(8)
  for (const { arm, bytes, host, rank, tokens } of four.ranks!) {
    expect(host).toBe(`host${rank}`)
    expect(bytes).toBeGreaterThan(1000)
    expect(4 * tokens).toBe(one.arms.find(({ name }) => name === arm)!.tokens)
  }
  expect(four.arms).toEqual(one.arms)
  for (const [name, loss] of Object.entries(one.repeated)) {
    expect(four.repeated[name as keyof typeof four.repeated]).toBeCloseTo(loss, 3)
  }
  expect(toTerminal(view(four), { color: false, width: 100 })).toContain("host3")
}))

test("a run that is finished, or of which an arm is, goes on by ranks", Effect.gen(function*() {
  const outDir = join(root, "run")
  const ended = yield* (yield* together(2, { outDir })).report
  const again = yield* together(2, { outDir, resume: true })
  expect(again.others.every(Exit.isSuccess)).toBe(true)
  expect((yield* again.report).repeated).toEqual(ended.repeated)
  rmSync(join(outDir, "seed-0", "sinks"), { recursive: true, force: true })
  const half = yield* together(4, { outDir, resume: true })
  expect(half.others.every(Exit.isSuccess)).toBe(true)
  expect((yield* half.report).repeated.own).toBeCloseTo(ended.repeated.own!, 3)
}))

test("an arm that cannot be trained by so many costs itself, and all ranks end", Effect.gen(function*() {
  const training = new TrainConfig({ gradientAccumulation: 3, optimizer: new OptimizerConfig({ learningRate: 1e-2 }) })
  const { others, report } = yield* together(2, {}, { training })
  expect(Exit.isFailure(report) && String(report.cause)).toContain("make it a multiple of 2, such as 4")
  expect(others).toHaveLength(1)
}))
