/** Forgetting dynamics, whole: probes that change nothing, a report that the traces bear out, runs that go on where they were. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import * as Dynamics from "../../pipelines/dynamics.ts"
import { claimsOf } from "../../pipelines/dynamics/Claims.ts"
import { FOILS, type Plan, planOf, presets } from "../../pipelines/dynamics/Config.ts"
import { ages, passesOf, schedule } from "../../pipelines/dynamics/Probe.ts"
import { tracesInMemory } from "../../pipelines/dynamics/TraceLog.ts"
import { trainProbed } from "../../pipelines/dynamics/Train.ts"
import { view } from "../../pipelines/dynamics/view.ts"
import { dataOf as dataOfSeed, makeWorld as worldOf, similarity } from "../../pipelines/dynamics/World.ts"
import { modelOf } from "../../pipelines/experiment/Arms.ts"
import { keep } from "../../pipelines/experiment/Train.ts"
import { estimate } from "../../pipelines/report/Estimate.ts"
import { toHtml, toMarkdown, toTerminal } from "../../pipelines/report/render.ts"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import { mean } from "../../src/measures/Statistics.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { readProbes, readQuantities } from "../../src/measures/Traces.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { readRecord } from "../../src/runs/RunRecord.ts"
import { dataOf } from "../../src/runs/Runs.ts"
import { SinkConfig } from "../../src/Sink.ts"
import type { ProgressEvent } from "../../src/terminal/Progress.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { makeRandomText } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-dynamics-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
writeFileSync(join(root, "text.txt"), makeRandomText(5)(9000))

const device = NodeDevice.layer()
const makeWorld = (plan: Plan, seed: number) =>
  Effect.flatMap(
    Layer.build(DataStream.layer(Schema.encodeSync(DataConfig)(dataOfSeed(plan, seed)))),
    (context) => worldOf(plan, seed, Context.get(context, DataStream))
  )
const run = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))

const STEPS = 24
const fields = {
  data: new DataConfig({
    data: join(root, "text.txt"),
    tokenizer: "bytes",
    seqLen: 16,
    batchSize: 4,
    singleSequences: 64,
    heldOutSequences: 16
  }),
  model: new ModelConfig({
    vocabSize: 256,
    hiddenSize: 32,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    intermediateSize: 32 + 256,
    sinks: new SinkConfig({ pool: 256, active: 32 })
  }),
  training: new TrainConfig({
    steps: STEPS,
    optimizer: new OptimizerConfig({ learningRate: 1e-2, schedule: "constant", sinks: "lazy",
      sinkLearningRateRatio: 4 }),
    logEvery: 5,
    saveLogSpaced: true,
    saveEvery: 10
  }),
  groups: [
    { name: "saw", sequences: 2, every: 6, from: 0, until: 1 },
    { name: "left", sequences: 3, exposures: 6, from: 0, until: 0.5 },
    { name: "massed", sequences: 1, exposures: 3, blocks: 1, from: 0, until: 0.5 },
    { name: "cycles", sequences: 1, exposures: 6, blocks: 2, from: 0, until: 1 }
  ],
  arms: ["standard", "sinks"],
  seeds: 2,
  probeEvery: 8,
  foils: 4,
  backgroundProbes: 2,
  promptTokens: 4,
  accumulation: 3,
  decomposed: 1,
  interference: 3,
  resamples: 20
} as const
const config = (overrides: object = {}) => new Dynamics.DynamicsConfig({ ...fields, ...overrides } as never)

describe("a plan", () => {
  const problem = (input: unknown) => run(Effect.flip(planOf(input))).then(({ message }) => message)

  it("takes the presets", async () => {
    for (const preset of Object.values(presets)) expect((await run(planOf(preset))).steps).toBeGreaterThan(0)
    const { groups } = await run(planOf(config()))
    expect(groups.map(({ name, showing: { exposures }, teeth, withheld }) => [name, exposures, teeth, withheld]))
      .toEqual([
        ["saw", 4, true, false],
        ["left", 6, false, true],
        ["massed", 3, false, true],
        ["cycles", 6, true, false]
      ])
  })

  it("lists everything that is wrong, by field", async () => {
    const message = await problem(config({
      arms: ["standrd", "goldfish", { arm: "sinks", name: "a" }, { arm: "sinks", name: "a" }],
      groups: [
        { name: "x", sequences: 1, every: 30, from: 0, until: 1 },
        { name: "y", sequences: 1, exposures: 20, from: 0, until: 0.5 },
        { name: "z", sequences: 1, from: 0, until: 1 },
        { name: "foils", sequences: 1, exposures: 1, from: 0.5, until: 0.5 }
      ],
      seeds: 1,
      probeEvery: 25,
      promptTokens: 16,
      foils: 17,
      backgroundProbes: 65
    }))
    for (const part of [
      `there is no "standrd". Did you mean standard?`,
      "goldfish changes which sequences are shown",
      `"a" is named twice`,
      `"foils" is named twice, or a name of the pipeline's own`,
      "groups: x: every is 30 steps, but it is shown between steps 0 and 24 of 24",
      "groups: y: 20 exposures do not fit between steps 0 and 12",
      "groups: z: give either exposures or every, got neither",
      "groups: foils: from 0.5 to until 0.5 is no time at all",
      "seeds is 1: an interval needs at least 2",
      "probeEvery is 25, but the run has 24 steps",
      "promptTokens is 16, but a sequence has 17 tokens",
      "foils is 17, but data.heldOutSequences is 16: probes must be in the data",
      "backgroundProbes is 65, but data.singleSequences is 64: probes must be in the data"
    ]) expect(message).toContain(part)
  })

  it("refuses groups that the data or a batch has no room for", async () => {
    const world = (overrides: object) =>
      run(Effect.flip(Effect.scoped(Effect.flatMap(planOf(config(overrides)), (plan) => makeWorld(plan, 1))))).then((
        e
      ) => e.message)
    const many = [{ name: "a", sequences: 5000, exposures: 1, from: 0, until: 1 }]
    expect(await world({ groups: many })).toContain("5000")
    const crowded = ["a", "b", "c", "d", "e"].map((name) => ({ name, sequences: 1, exposures: STEPS, from: 0,
      until: 1 })
    )
    expect(await world({ groups: crowded })).toContain(
      "groups: e: between steps 0 and 24 there is no room for 24 exposures of 1 sequences"
    )
  })
})

describe("probes", () => {
  it("are split into passes of few sizes that hold all of them", () => {
    for (let count = 1; count < 300; count++) {
      const passes = passesOf(count, 64)
      const room = passes.reduce((a, b) => a + b, 0)
      expect(passes.every((size) => [4, 16, 64].includes(size))).toBe(true)
      expect(room).toBeGreaterThanOrEqual(count)
      expect(room - passes.at(-1)!).toBeLessThan(count)
    }
    expect(passesOf(70, 8)).toEqual([16, 16, 16, 16, 4, 4])
    expect(ages(20)).toEqual([0, 1, 2, 3, 4, 6, 8, 12, 16])
    expect(ages(0)).toEqual([0])
  })

  it("are due around exposures, at ages after the last one, and on the grid", () =>
    run(Effect.scoped(Effect.gen(function*() {
      const plan = yield* planOf(config())
      const world = yield* makeWorld(plan, 1)
      const due = schedule(plan, world)
      const at = (step: number, i: number) => due.get(step)?.sequences.has(i) === true
      world.probed.forEach(({ group, planted }, i) => {
        for (const step of [0, 8, 16, 24]) expect(at(step, i)).toBe(true)
        const own = planted === undefined ? [] : world.planted[planted]!.steps
        if (group === "saw") { for (const step of own) expect([at(step, i), at(step + 1, i)]).toEqual([true, true]) }
        if (group !== "left") return
        const last = own.at(-1)! + 1
        for (const age of ages(STEPS - last)) {
          expect(at(last + age, i)).toBe(true)
          world.probed.forEach((one, j) => one.group === FOILS && expect(at(last + age, j)).toBe(true))
        }
      })
      expect([0, 8, 16, 24].map((step) => due.get(step)!.accumulation)).toEqual([true, true, true, true])
      expect([...due.values()].filter(({ interference }) => interference.size > 0).length).toBeGreaterThanOrEqual(3)
    }))))

  it("choose the intervening data by how similar it is", () =>
    run(Effect.scoped(Effect.gen(function*() {
      const arms = [
        { arm: "sinks", name: "similar", intervening: "similar" },
        { arm: "sinks", name: "different", intervening: "different" }
      ] as const
      const plan = yield* planOf(config({ arms }))
      const world = yield* makeWorld(plan, 1)
      const left = world.planted.slice(2, 6).map(({ row }) => row)
      const planted = new Set(world.planted.map(({ row }) => row.id))
      const [similar, different] = plan.arms.map((arm) => {
        const table = world.table(arm)
        const rows = Array.from({ length: STEPS }, (_, step) => table.rows(step).filter(({ id }) => !planted.has(id)))
        return { before: rows.slice(0, 12).flat(), after: rows.slice(12).flat() }
      })
      expect(similar!.before.map(({ id }) => id)).toEqual(different!.before.map(({ id }) => id))
      const likeness = (rows: typeof left) => mean(rows.map((row) => similarity(row, left)))
      expect(likeness(similar!.after)).toBeGreaterThan(likeness(different!.after) + 0.05)
      expect(similarity(left[0]!, left)).toBe(1)
    }))))

  it("see the same sequences in every arm, with fresh ids where an arm says so", () =>
    run(Effect.scoped(Effect.gen(function*() {
      const plan = yield* planOf(config({ arms: ["sinks", "untied", { arm: "sinks", name: "half", idNoise: 0.5 }] }))
      const world = yield* makeWorld(plan, 1)
      const planted = new Map(world.planted.map(({ row }) => [row.tokens.join(), row.id]))
      const rows = plan.arms.map((arm) => Array.from({ length: STEPS }, (_, step) => world.rows(arm)(step)).flat())
      const texts = rows.map((all) => all.map(({ tokens }) => tokens.join()))
      expect(texts[1]).toEqual(texts[0])
      const shown = rows.map((all) => all.filter(({ tokens }) => planted.has(tokens.join())))
      const fresh = shown.map((all) => all.filter(({ id, tokens }) => planted.get(tokens.join()) !== id))
      expect(fresh[0]).toEqual([])
      expect(fresh[1]).toHaveLength(shown[1]!.length)
      expect(new Set(fresh[1]!.map(({ id }) => id)).size).toBe(shown[1]!.length)
      expect(fresh[2]!.length / shown[2]!.length).toBeGreaterThan(0.2)
      expect(fresh[2]!.length / shown[2]!.length).toBeLessThan(0.8)
    }))))

  it("leave weights, optimizer, data order and random numbers as they are, bit for bit",
    () =>
      run(Effect.scoped(Effect.gen(function*() {
        const plan = yield* planOf(config())
        const world = yield* makeWorld(plan, 1)
        for (const arm of plan.arms) {
          const kept = yield* keep(undefined)
          const nothing = () => Effect.void
          const probed = yield* trainProbed(plan, world, arm, { kept, log: tracesInMemory() }, { after: Effect.void,
            onEvent: nothing, onProbed: nothing })
          expect(new Set(probed.rows.quantities.map(({ quantity }) => quantity))).toEqual(
            new Set(["weight", "update", "logit", "cosine", "predicted", "observed"])
          )
          const plainly = Context.get(yield* Layer.build(Checkpoints.layerMemory), Checkpoints)
          yield* Effect.flatMap(Trainer, (trainer) => Stream.runDrain(trainer.run)).pipe(
            Effect.provide(Trainer.layer(plan.config.training).pipe(
              Layer.provide(Model.layer(modelOf(plan.config.model, 256, arm), { seed: 1 })),
              Layer.provide(Layer.effect(DataStream, world.stream(arm))),
              Layer.provide(Layer.succeed(Checkpoints, plainly))
            ))
          )
          const watched = Context.get(yield* Layer.build(kept.checkpoints), Checkpoints)
          const steps = (yield* plainly.list).map(({ step }) => step)
          expect(steps).toEqual([0, 1, 2, 4, 8, 10, 20, 24])
          expect((yield* watched.list).map(({ step }) => step)).toEqual(steps)
          for (const step of steps) {
            const [a, b]: ReadonlyArray<Snapshot> = [yield* plainly.load(step), yield* watched.load(step)]
            expect(b!.trainerState).toEqual(a!.trainerState)
            for (const part of ["model", "optimizer"] as const) {
              expect(Object.keys(b![part])).toEqual(Object.keys(a![part]))
              for (const [name, { data }] of Object.entries(a![part])) {
                const bits = (array: typeof data) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
                expect(bits(b![part][name]!.data).equals(bits(data)), `${arm.name}, step ${step}: ${name}`).toBe(true)
              }
            }
          }
        }
      }).pipe(Effect.provide(device)))), 120_000)
})

/** All rows of an arm's traces, part by part. */
const tracesIn = (folder: string) =>
  Effect.gen(function*() {
    const parts = (table: string) =>
      readdirSync(join(folder, "traces", table)).filter((name) => name.endsWith(".parquet")).sort()
    const probes = yield* Effect.forEach(parts("probes"), (name) => readProbes(join(folder, "traces", "probes", name)))
    const quantities = yield* Effect.forEach(parts("quantities"),
      (name) => readQuantities(join(folder, "traces", "quantities", name)))
    return { probes: probes.flat(), quantities: quantities.flat() }
  })

describe("an experiment", () => {
  const straight = join(root, "straight")
  /** The run's folder as it was at some moments: what a kill would have left. */
  const killed: Array<string> = []
  const untimed = (report: Dynamics.DynamicsReport) => {
    const { arms, seconds: _, ...rest } = report
    return JSON.parse(
      Dynamics.toJson({ ...rest, seconds: 0, arms: arms.map(({ probeSeconds: _, seconds: __, ...arm }) => arm) })
    )
  }
  let report: Dynamics.DynamicsReport

  it("runs, tells what it probes, and leaves a report and traces that agree", async () => {
    const events: Array<ProgressEvent> = []
    let moments = 0
    report = await run(Dynamics.run(config(), {
      device,
      outDir: straight,
      onEvent: (event) =>
        Effect.sync(() => {
          events.push(event)
          if (event._tag !== "Probed" || ![2, 14, 40].includes(moments++)) return
          const copy = join(root, `killed-${killed.length}`)
          cpSync(straight, copy, { recursive: true })
          // a dead process holds no lock
          rmSync(join(copy, "lock"), { force: true })
          killed.push(copy)
        })
    }))
    expect(killed).toHaveLength(3)
    expect(report.failures).toEqual([])
    expect(
      Schema.decodeUnknownSync(Dynamics.DynamicsReport)(JSON.parse(readFileSync(join(straight, "report.json"), "utf8")))
    ).toBeDefined()
    expect(report.claims.map(({ number, result }) => [number, result === "not tested"])).toEqual([[4, false], [11,
      false], [13, false]])

    const plan = await run(planOf(config()))
    for (const seed of [1, 2]) {
      const world = await run(Effect.scoped(makeWorld(plan, seed)))
      for (const { masks, name } of [{ name: "standard", masks: ["own"] }, { name: "sinks", masks: ["own", "off"] }]) {
        const { probes, quantities } = await run(tracesIn(join(straight, `seed-${seed}`, name)))
        // every probe that is due is there once
        const wanted = [...schedule(plan, world)].flatMap(([step, { sequences }]) =>
          [...sequences].flatMap((i) => masks.map((mask) => `${step} ${mask} ${world.probed[i]!.row.id}`))
        ).sort()
        expect(probes.map(({ id, mask, step }) => `${step} ${mask} ${id}`).sort()).toEqual(wanted)
        expect(
          probes.every(({ loss, recall, run, suffix }) =>
            loss > 0 && recall >= 0 && recall <= 1 && run <= suffix && suffix === 13
          )
        ).toBe(true)
        // what is measured twice agrees
        const parts = quantities.filter(({ quantity }) => quantity === "logit")
        const sums = new Map<string, { parts: number; whole: number }>()
        for (const { mask, part, sequence, step, value } of parts) {
          const key = `${step} ${mask} ${sequence}`
          const sum = sums.get(key) ?? { parts: 0, whole: NaN }
          sums.set(key, part === "logit" ? { ...sum, whole: value } : { ...sum, parts: sum.parts + value })
        }
        expect(sums.size).toBeGreaterThan(0)
        for (const sum of sums.values()) expect(sum.parts).toBeCloseTo(sum.whole, 3)
        const observed = quantities.filter(({ quantity }) => quantity === "observed")
        expect(observed.length).toBe(2 * 3 + 3)
        const known = probes.filter(({ exposures, group, mask, since }) =>
          group === "left" && mask === "own" && exposures === 6 && since === 0
        )
        expect(known).toHaveLength(3)
      }
    }
    // the report's numbers are those of the traces
    const { probes } = await run(tracesIn(join(straight, "seed-2", "sinks")))
    const curve = report.curves.find(({ arm, group, mask }) => arm === "sinks" && group === "saw" && mask === "off")!
    const last = probes.filter(({ group, mask, step }) => group === "saw" && mask === "off" && step === STEPS)
    expect(curve.points.at(-1)!.loss.values[1]).toBeCloseTo(mean(last.map(({ loss }) => loss)), 6)
    const retention = report.retention.find(({ arm, group, mask }) =>
      arm === "sinks" && group === "left" && mask === "own"
    )!
    const fresh = probes.filter(({ exposures, group, mask, since }) =>
      group === "left" && mask === "own" && exposures === 6 && since === 0
    )
    expect(fresh).toHaveLength(3)
    expect(retention.points[0]!.loss.values[1]).toBeCloseTo(mean(fresh.map(({ loss }) => loss)), 6)
    const foils = (step: number) =>
      mean(
        probes.filter((row) => row.group === FOILS && row.mask === "own" && row.step === step).map(({ loss }) => loss)
      )
    expect(retention.points[0]!.memory.values[1]).toBeCloseTo(mean(fresh.map(({ loss, step }) => foils(step) - loss)),
      6)
    const tooth = report.sawTeeth.find(({ arm, group, mask }) => arm === "sinks" && group === "saw" && mask === "own")!
      .teeth[1]!
    expect(tooth.amplitude.values[1]).toBeCloseTo(tooth.before.values[1]! - tooth.lowest.values[1]!, 6)
    const cycles = report.sawTeeth.find(({ arm, group }) => arm === "standard" && group === "cycles")!
    expect(cycles.teeth).toHaveLength(2)

    const probed = events.flatMap((event) => (event._tag === "Probed" ? [event] : []))
    expect(probed[0]).toMatchObject({ arm: "standard", seed: 1, step: 0, steps: STEPS })
    expect(Object.keys(probed[0]!.losses)).toContain("saw.own")
    const { key, records } = await run(
      TokenRecords.read(join(straight, "seed-2", "sinks", "traces", "records", "step-00000024.off.parquet"))
    )
    expect(key).toEqual({ run: "sinks seed 2", checkpoint: STEPS, mask: "off" })
    const ofSaw = TokenRecords.ofSplit(records, "saw")
    expect(ofSaw.sequences.map(({ repeats }) => repeats)).toEqual([4, 4])
    expect(-mean(ofSaw.logProb)).toBeCloseTo(curve.points.at(-1)!.loss.values[1]!, 4)
    // its data is found again by whoever looks at a checkpoint of it
    const again = await run(
      Effect.scoped(
        Effect.provide(DataStream, DataStream.layer(dataOf(readRecord(straight)!, join(straight, "seed-2", "sinks"))))
      )
    )
    const second = await run(Effect.scoped(makeWorld(plan, 2)))
    expect(again.split("repeated").map(({ id }) => id)).toEqual(second.planted.map(({ row }) => row.id))
    expect(again.split("heldOut")[0]!.tokens).toEqual(second.data.split("heldOut")[0]!.tokens)
    expect(readFileSync(join(straight, "config.resolved.yaml"), "utf8")).toContain(
      "memsinks dynamics --config <this file>"
    )
    expect(existsSync(join(straight, "seed-1", "sinks", "sinks.html"))).toBe(true)
    expect(existsSync(join(straight, "seed-1", "standard", "sinks.html"))).toBe(false)
    expect(report.contents.filter(({ arm, part }) => arm === "sinks" && part === "sinks").length).toBe(2)
    for (const text of [toTerminal(view(report), { color: false }), toMarkdown(view(report)),
      await toHtml(view(report))])
    {
      expect(text).toContain("left")
      expect(text.replace(/<script[\s\S]*?<\/script>/g, "")).not.toMatch(/undefined|NaN|\[object/)
    }
  }, 240_000)

  it("tells withheld sequences from foils by rule, too, and gives the same numbers otherwise", async () => {
    const text =
      "we saw the nation build roads and ships in this large land, and many laws of the old world came upon us. "
    const file = join(root, "words.txt")
    writeFileSync(file, Array.from({ length: 40 }, (_, i) => `${i} ${text}${makeRandomText(i)(60)}`).join(" "))
    const of = (overrides: object) =>
      run(Dynamics.run(
        config({
          data: { ...fields.data, data: file, seqLen: 40, singleSequences: 24, heldOutSequences: 12 },
          groups: [{ name: "left", sequences: 3, exposures: 12, from: 0, until: 0.5 }],
          arms: ["sinks"],
          seeds: 1,
          intervals: false,
          accumulation: 0,
          interference: 0,
          contents: false,
          ...overrides
        }),
        { device }
      ))
    const [plain, ruled] = [await of({}), await of({ recognition: ["synonyms", "scrambledWords"] })]
    const without = ruled.retention.map((one) => ({ ...one,
      points: one.points.map(({ foils: _, ...point }) => point) })
    )
    expect(without).toEqual(plain.retention)
    expect(ruled.curves).toEqual(plain.curves)
    const first = ruled.retention.find(({ mask }) => mask === "own")!.points[0]!
    expect(first.foils!["synonyms"]!.mean).toBe(1)
    expect(first.foils!["scrambledWords"]!.mean).toBe(1)
    expect(toMarkdown(view(ruled))).toContain("with a lower loss than their foil by rule")
    expect(toMarkdown(view(plain))).not.toContain("foil by rule")
    const none = run(Effect.flip(Dynamics.run(config({ recognition: ["paraphrase"], arms: ["sinks"] }), { device })))
    expect((await none).message).toContain("there a foil by rule \"paraphrase\" that differs")
  })

  it("goes on after a kill at any moment, with no probe missing or doubled", async () => {
    const wanted = untimed(report)
    for (const folder of killed) {
      const again = await run(Dynamics.run(config(), { device, outDir: folder, resume: true }))
      expect(untimed(again)).toEqual(wanted)
    }
    for (const folder of killed) {
      for (const arm of ["standard", "sinks"]) {
        const of = (at: string) => run(tracesIn(join(at, "seed-1", arm)))
        expect(await of(folder)).toEqual(await of(straight))
      }
    }
  }, 400_000)

  it("goes on after an interruption", async () => {
    const folder = join(root, "interrupted")
    for (const stop of [5, 17]) {
      let moments = 0
      await run(Effect.gen(function*() {
        const started = yield* Effect.fork(Dynamics.run(config(), {
          device,
          outDir: folder,
          resume: stop > 5,
          onEvent: (event) =>
            event._tag === "Probed" && moments++ === stop
              ? Effect.zipRight(Effect.yieldNow(), Effect.interrupt)
              : Effect.void
        }))
        yield* Fiber.await(started)
      }))
    }
    const again = await run(Dynamics.run(config(), { device, outDir: folder, resume: true }))
    expect(untimed(again)).toEqual(untimed(report))
  }, 240_000)

  it("does nothing again of an arm that is done, and tells where its traces are not all there", async () => {
    const folder = join(root, "lacking")
    cpSync(straight, folder, { recursive: true })
    const part = join(folder, "seed-2", "sinks", "traces", "probes")
    rmSync(join(part, readdirSync(part).at(-1)!))
    const told: Array<string> = []
    const again = await run(Dynamics.run(config(), {
      device,
      outDir: folder,
      resume: true,
      onEvent: (event) => Effect.sync(() => void told.push(event._tag))
    }))
    expect(new Set(told)).toEqual(new Set(["Stage"]))
    expect(again.failures).toMatchObject([{ arm: "sinks", seed: 2, message: expect.stringMatching(
      /sinks: its traces have \d+ probes, but \d+ were made.*Delete the folder of this arm/
    ) }])
    expect(again.curves.find(({ arm }) => arm === "sinks")!.points[0]!.loss.values[1]).toBeNull()
  })

  it("refuses a folder of another experiment, and a changed one", async () => {
    const refused = await run(
      Effect.flip(Dynamics.run(config({ probeEvery: 4 }), { device, outDir: straight, resume: true }))
    )
    expect(refused.message).toContain("probeEvery is 4, was 8")
    expect((await run(Effect.flip(Dynamics.run(config(), { device, outDir: straight })))).message).toContain(
      "is not empty"
    )
  })
})

describe("claims", () => {
  const groups = [{ name: "saw", title: "", sequences: 1, exposures: 9, every: 4, lastShown: 30, withheld: false }]
  const curve = (losses: ReadonlyArray<number>) => [{
    arm: "sinks",
    group: "saw",
    mask: "off" as const,
    points: losses.map((loss, step) => ({ step, loss: estimate([loss, loss + 0.01]) }))
  }]
  const teeth = (arm: string, decay: number, before: number) => {
    const of = (value: number) => estimate([value, value + 0.01])
    const all = { before: of(before), after: of(before), lowest: of(before), amplitude: of(decay), decay: of(decay) }
    return { arm, group: "saw", mask: "own" as const, teeth: [{ exposure: 1, step: 0, ...all }], late: all }
  }
  const results = (report: Parameters<typeof claimsOf>[0], holds = true) =>
    claimsOf(report, [{ name: "one", claim: "", holds, inequalities: [] } as never]).map(({ result }) => result)

  it("are decided by numbers, either way", () => {
    expect(
      results({ groups, curves: curve([3, 1, 1.5]), sawTeeth: [teeth("sinks", 0.1, 1), teeth("standard", 0.4, 2)] })
    )
      .toEqual(["held", "held", "held"])
    expect(
      results({ groups, curves: curve([3, 1, 1.01]), sawTeeth: [teeth("sinks", 0.4, 1), teeth("standard", 0.1, 2)] },
        false)
    )
      .toEqual(["did not hold", "did not hold", "did not hold"])
    expect(results({ groups: [], curves: [], sawTeeth: [] })).toEqual(["not tested", "not tested", "held"])
  })
})
