/** Sweeps: points from fields, each training done once, whoever asks; the best first, in every form. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { parquetReadObjects } from "hyparquet"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { inProcess, type Runner } from "../../pipelines/experiment/Job.ts"
import { makeStreams } from "../../pipelines/experiment/Streams.ts"
import * as Sweep from "../../pipelines/sweep.ts"
import { pointsOf } from "../../pipelines/sweep/Config.ts"
import { view } from "../../pipelines/sweep/view.ts"
import { decodeConfig } from "../../src/Config.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Runs from "../../src/runs/Runs.ts"
import type { ProgressEvent } from "../../src/terminal/Progress.ts"
import { makeRandomText } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-sweep-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
writeFileSync(join(root, "text.txt"), makeRandomText(5)(6000))

const data = {
  data: join(root, "text.txt"),
  tokenizer: "bytes",
  seqLen: 16,
  batchSize: 4,
  repeatedSequences: 4,
  repeats: 10,
  singleSequences: 32,
  heldOutSequences: 8
} as const
const base = {
  data,
  model: {
    vocabSize: 256,
    hiddenSize: 16,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    intermediateSize: 32 + 64,
    sinks: { pool: 64, active: 32 }
  },
  training: { steps: 8 },
  evaluations: 0,
  promptTokens: 4
}
const rate = "training.optimizer.learningRate"
const config = (overrides: object = {}) =>
  new Sweep.SweepConfig(
    { base, fields: { "model.sinks.pool": [64, 128] }, ...overrides } as typeof Sweep.SweepConfig.Encoded
  )

const pure = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))
const run = (c: Sweep.SweepConfig, options: Partial<Sweep.SweepOptions> = {}) =>
  pure(Sweep.run(c, { device: NodeDevice.layer(), ...options }))
const trained = (events: ReadonlyArray<ProgressEvent>) =>
  events.flatMap((event) => event._tag === "Training" && event.event._tag === "Started" ? [event.arm] : [])

describe("the points of a sweep", () => {
  const valuesOf = async (overrides: object) =>
    (await pure(pointsOf(config(overrides)))).map(({ values }) => Object.values(values))
  const problem = async (overrides: object) => (await pure(Effect.flip(pointsOf(config(overrides))))).message

  it("are every combination of lists and ranges, in order, both ends of a range among them", async () => {
    expect(
      await valuesOf({ fields: { [rate]: { from: 1e-3, to: 1e-1, steps: 3, scale: "log" }, "training.steps": [4, 8] } })
    )
      .toEqual([[1e-3, 4], [1e-3, 8], [expect.closeTo(1e-2, 12), 4], [expect.closeTo(1e-2, 12), 8], [1e-1, 4], [1e-1,
        8]])
    expect(await valuesOf({ fields: { "training.steps": { from: 1, to: 4, steps: 3, whole: true } } })).toEqual([[1], [
      3
    ], [4]])
  })
  it("are drawn where that is asked, the same for the same seed, and between the ends", async () => {
    const drawn = (seed: number) =>
      valuesOf({ fields: { [rate]: { from: 1e-4, to: 1, scale: "log" } }, draw: { random: 40, seed } })
    const rates = (await drawn(1)).map(([value]) => Number(value))
    expect(rates).toHaveLength(40)
    expect(Math.min(...rates)).toBeGreaterThanOrEqual(1e-4)
    expect(Math.max(...rates)).toBeLessThanOrEqual(1)
    // by ratios: about half are below the geometric mean
    expect(rates.filter((value) => value < 1e-2).length).toBeGreaterThan(10)
    expect(rates.filter((value) => value < 1e-2).length).toBeLessThan(30)
    expect(await drawn(1)).toEqual(rates.map((value) => [value]))
    expect(await drawn(2)).not.toEqual(rates.map((value) => [value]))
  })
  it("leave as many general neurons to another pool", async () => {
    const points = await pure(pointsOf(config()))
    expect(points.map(({ config: { model } }) => [model.general, model.pool])).toEqual([[32, 64], [32, 128]])
  })
  it("are refused by the field that is wrong", async () => {
    expect(await problem({ fields: {} })).toContain("fields: nothing varies")
    const none = await pure(Effect.flip(decodeConfig(Sweep.SweepConfig, {})))
    expect(none.message).toContain("fields: is missing: a sweep needs a configuration with what varies, e.g.")
    expect(await problem({ fields: { "model.sinks.pol": [64] } })).toMatch(/the point model\.sinks\.pol=64: [\s\S]*pol/)
    expect(await problem({ fields: { "data.seed": [1, 2] } })).toContain(
      "fields.data.seed: a sweep has base.data.seed and seeds for that"
    )
    expect(await problem({ fields: { [rate]: { from: 0, to: 1, scale: "log" } } })).toContain(
      "a log scale is of positive numbers"
    )
    expect(await problem({ fields: { "training.steps": [4, 4] } })).toContain("names 4 twice")
    expect(await problem({ fields: { "training.steps": [4], "training": [{ steps: 8 }] } })).toContain(
      "training.steps is a part of training"
    )
    expect(await problem({ fields: { "training.steps": { from: 1, to: 1000, steps: 1000, whole: true } }, most: 999 }))
      .toContain("1000 points")
    expect(await problem({ metrics: ["heldOut.of"] })).toContain("there is no heldOut.of")
    expect(await problem({ base: { ...base, seeds: 3 } })).toContain("base.seeds: a sweep has seeds of its own")
  })
})

describe("a sweep", () => {
  const outDir = join(root, "run")
  const store = join(root, "store")
  it("trains what is different once, ranks the points, and leaves its tables", async () => {
    const events: Array<ProgressEvent> = []
    const cost = await pure(Sweep.costOf(config({ seeds: 2 })))
    // the standard model has no pool: one for both points
    expect(cost).toMatchObject({ points: 2, trainings: { all: 8, different: 6 }, steps: 48, tokens: 48 * 4 * 16 })
    const report = await run(config({ seeds: 2 }), {
      outDir,
      store,
      onEvent: (event) => Effect.sync(() => void events.push(event))
    })
    expect(trained(events)).toHaveLength(6)
    expect(report.failures).toEqual([])
    expect(report.points.map(({ rank }) => rank)).toEqual([1, 2])
    const [first, second] = report.points.map(({ metrics }) => metrics["heldOut.off"]!)
    expect(first!.mean).toBeLessThanOrEqual(second!.mean)
    expect(first!.values).toHaveLength(2)
    for (const { metrics } of report.points) {
      expect(metrics["fractionClosed"]!.mean).toBeCloseTo(
        metrics["fractionClosed"]!.values.reduce<number>((sum, value) => sum + value!, 0) / 2,
        10
      )
      expect(metrics["heldOut.standard"]!.mean).toBe(report.points[0]!.metrics["heldOut.standard"]!.mean)
    }
    // shares of sequences have intervals of shares: they cannot leave [0, 1]
    const { high, kind, low, method } = report.points[0]!.metrics["extraction.own"]!
    expect([kind, method]).toEqual(["share", "beta-binomial"])
    expect(low).toBeGreaterThanOrEqual(0)
    expect(high).toBeLessThanOrEqual(1)
    expect(report.points[0]!.metrics["heldOut.off"]).toMatchObject({ kind: "loss", method: "t" })
    const csv = readFileSync(join(outDir, "sweep.csv"), "utf8").trim().split("\n").map((line) => line.split(","))
    expect(csv[0]!.slice(0, 4)).toEqual(["rank", "point", "seed", "model.sinks.pool"])
    expect(csv).toHaveLength(5)
    const bytes = readFileSync(join(outDir, "sweep.parquet"))
    const rows = await parquetReadObjects({
      file: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer
    })
    expect(rows.map((row) => row["heldOut.off"])).toEqual(
      csv.slice(1).map((line) => Number(line[csv[0]!.indexOf("heldOut.off")]))
    )
    expect(JSON.parse(readFileSync(join(outDir, "report.json"), "utf8"))).toEqual(JSON.parse(Sweep.toJson(report)))
    expect(readFileSync(join(outDir, "report.md"), "utf8")).toContain("| pool |")
    expect(readFileSync(join(outDir, "report.html"), "utf8").match(/<svg/g)!.length).toBeGreaterThanOrEqual(3)
    // an axis is of ratios where the field was asked for so
    const axes = (scale: string) =>
      view({ ...report, config: { fields: { "model.sinks.pool": { from: 64, to: 128, scale } } } }).sections
        .flatMap(({ blocks }) => blocks).flatMap((block) => block.is === "chart" ? [block.chart.x.log] : [])
    expect(new Set(axes("linear"))).toEqual(new Set([false]))
    expect(new Set(axes("log"))).toEqual(new Set([true]))
    // fields are called as shortly as they can be told apart, in the order of their values; axes have units
    const values = [0.1, 0.001, 0.01].map((sinks, i) => ({ "model.sinks.seed": sinks, "data.seed": i,
      "training.steps": 3 })
    )
    const charts = view({
      ...report,
      fields: Object.keys(values[0]!),
      points: values.map((values) => ({ ...report.points[0]!, values }))
    }).sections.flatMap(({ blocks }) => blocks).flatMap((block) => block.is === "chart" ? [block.chart] : [])
    expect(charts.map(({ title }) => title)).toContain("heldOut.off by data.seed")
    expect(charts[0]!.y.title).toBe("heldOut.off, nats a token")
    expect(charts.find(({ title }) => title === "heldOut.off by steps")!.lines.map(({ label }) => label)).toEqual([
      "sinks.seed = 0.001, data.seed = 1",
      "sinks.seed = 0.01, data.seed = 2",
      "sinks.seed = 0.1, data.seed = 0"
    ])
  }, 120_000)
  it("trains only what is new, in another run and when it is resumed", async () => {
    const events: Array<ProgressEvent> = []
    const onEvent = (event: ProgressEvent) => Effect.sync(() => void events.push(event))
    const again = await run(config({ seeds: 2 }), { outDir, store, resume: true, onEvent })
    expect(trained(events)).toEqual([])
    const larger = await run(config({ fields: { "model.sinks.pool": [64, 128, 192] }, seeds: 2 }), { store, onEvent })
    expect(trained(events)).toEqual(["model.sinks.pool=192: sinks", "model.sinks.pool=192: sinks"])
    const of = (report: Sweep.SweepReport, pool: number) =>
      report.points.find(({ values }) => values["model.sinks.pool"] === pool)!.metrics
    expect(of(larger, 64)).toEqual(of(again, 64))
  }, 120_000)
  it("goes on past a point that fails, and is done by whatever runner there is", async () => {
    const kinds: Array<string> = []
    const runner: Runner = (jobs, work) => {
      // a job could be written down: it holds nothing alive
      for (const job of jobs) kinds.push((JSON.parse(JSON.stringify(job)) as { kind: string }).kind)
      return inProcess(1)(jobs, work)
    }
    const report = await run(config({ fields: { [rate]: [1e-2, 1e30] }, arms: ["sinks"] }), { store, runner })
    expect(kinds).toEqual(["pretrain", "pretrain"])
    expect(report.failures.map(({ arm }) => arm)).toEqual([`${rate}=1e+30: sinks`])
    expect(report.points.map(({ rank }) => rank)).toEqual([1, undefined])
    expect(report.points[0]!.metrics["fractionClosed"]).toBeUndefined()
  }, 120_000)
  it("is listed among the runs, its trainings by their arms", () => {
    const [listed] = Runs.listRuns(join(root, "run"))
    expect(listed?.record.kind).toBe("sweep")
    expect(existsSync(join(outDir, "bugs.log"))).toBe(false)
  })
})

it("data that jobs share is made once while it is used, and let go when others are", async () => {
  const streams = (seed: number) => new DataConfig({ ...data, seed })
  await pure(Effect.scoped(Effect.gen(function*() {
    const { use } = yield* makeStreams({ most: 1 })
    const service = (seed: number) => use(streams(seed), Effect.map(DataStream, (it) => it))
    const one = yield* service(1)
    expect(yield* service(1)).toBe(one)
    const during = yield* use(streams(1), Effect.zipRight(Effect.all([service(2), service(3)]), service(1)))
    expect(during).toBe(one)
    yield* service(2)
    yield* service(3)
    expect(yield* service(1)).not.toBe(one)
  })))
})
