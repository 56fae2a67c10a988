/**
 * Forgetting dynamics: what an exposure adds to a memory, how fast it fades while other data is learned, and what sinks
 * change about both. Trains the arms of a configuration on a timetable of exposures, probes them between the steps, and
 * reports saw-teeth, retention, where memory accumulates, how other data interferes, and what single sinks hold.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { batchOf } from "../src/data/stream/DataStream.ts"
import { sequenceName } from "../src/data/stream/Packing.ts"
import { DataError, type DeviceError } from "../src/Errors.ts"
import { Device } from "../src/gpu/Device.ts"
import * as Gradients from "../src/inside/Gradients.ts"
import { sinkContents } from "../src/inside/SinkContents.ts"
import { keyOf } from "../src/Key.ts"
import { mean } from "../src/measures/Statistics.ts"
import { theory } from "../src/measures/Theory.ts"
import { Model } from "../src/model/Model.ts"
import * as Sink from "../src/Sink.ts"
import type { ProgressEvent } from "../src/terminal/Progress.ts"
import { checkTraining } from "../src/train/MemoryPlan.ts"
import { claimsOf } from "./dynamics/Claims.ts"
import { type DynamicsArm, DynamicsConfig, FOILS, type Plan, planOf } from "./dynamics/Config.ts"
import { contentsPage } from "./dynamics/contentsPage.ts"
import { armOf, contentsOf } from "./dynamics/Jobs.ts"
import { masksOf, recordTokens } from "./dynamics/Probe.ts"
import { type ArmCost, DynamicsReport, type Failure } from "./dynamics/Report.ts"
import { type Found, type PartContents, summarize } from "./dynamics/Summary.ts"
import { type DynamicsError, keep, type Kept, type Traced, trainProbed } from "./dynamics/Train.ts"
import { view } from "./dynamics/view.ts"
import { type DynamicsWorld, makeWorld } from "./dynamics/World.ts"
import { type Arm, arms, modelOf, trainingOf } from "./experiment/Arms.ts"
import { writeReport } from "./experiment/Experiment.ts"
import { attempt } from "./experiment/Failures.ts"
import { againWhenLost, claimFolder, folderOf, type FolderOptions, makeFolder } from "./experiment/RunFolder.ts"
import { keptIn } from "./experiment/Store.ts"
import { estimate } from "./report/Estimate.ts"

export { DynamicsConfig, DynamicsReport }
export type { DynamicsError }

export interface DynamicsOptions extends FolderOptions {
  /** Rebuilt when the device is lost, so it must be a layer of its own: `NodeDevice.layer()`. */
  readonly device: Layer.Layer<Device, DeviceError>
  /** Where the report, checkpoints and traces go. Default: nowhere, all stays in memory. */
  readonly outDir?: string
  /** Arms that are trained at once, as far as memory goes. Default 1. */
  readonly concurrency?: number
  readonly onEvent?: (event: ProgressEvent) => Effect.Effect<void>
}

const encoded = Schema.encodeSync(DynamicsReport)

/** A report as JSON: numbers that are not finite are null. */
export const toJson = (report: DynamicsReport): string => JSON.stringify(encoded(report))

/** Every token of the probed sequences under the trained model, in `traces/records`. */
const record = (plan: Plan, world: DynamicsWorld, arm: DynamicsArm, { folder }: Kept) =>
  Effect.gen(function*() {
    if (folder === undefined) return
    const records = (yield* Path.Path).join(folder, "traces", "records")
    yield* makeFolder(records)
    const { config } = yield* Model
    const probed = world.probed.map((one) => ({
      ...one,
      repeats: one.planted === undefined ? 0 : world.planted[one.planted]!.steps.length
    }))
    const run = `${arm.name} seed ${world.seed}`
    for (const mask of masksOf(config, plan.config.masks)) {
      yield* recordTokens(records, probed, { run, step: plan.steps, mask, seqLen: world.data.seqLen })
    }
  })

/** What single sinks hold when training ends, and where the gradient of a memorized sequence falls. */
const examine = (plan: Plan, world: DynamicsWorld, arm: DynamicsArm, kept: Kept) =>
  Effect.gen(function*() {
    if (!plan.config.contents) return []
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const model = yield* Model
    const { seqLen, tokenizer } = world.data
    const rows = world.probed.map(({ group, planted, row }) => ({
      row,
      source: sequenceName(row),
      kind: planted !== undefined ? "memorized" as const : group === FOILS ? "heldOut" as const : "background" as const
    }))
    const contents = yield* sinkContents({ rows, seqLen })
    const gradients = yield* Gradients.makeGradients({ rows: 1, seqLen })
    const masses = yield* Effect.forEach(rows.filter(({ kind }) => kind !== "background"), ({ kind, row }) =>
      Effect.map(gradients.of(batchOf([row], seqLen), Sink.own), (one) => {
        const parts = Gradients.absoluteMass(one.gradients, model.config)
        const whole = parts.reduce((sum, { value }) => sum + value, 0)
        return { kind, parts: parts.map((part) => ({ ...part, value: part.value / whole })) }
      }))
    const massOf = (kind: string, layer: number, part: string) =>
      mean(masses.filter((one) =>
        one.kind === kind
      ).map(({ parts }) => parts.find((one) => one.layer === layer && one.part === part)?.value ?? 0))
    if (kept.folder !== undefined && model.config.sinks !== undefined) {
      const html = contentsPage(contents, {
        title: `What the sinks of ${arm.name} hold, seed ${world.seed}`,
        arm: arm.name,
        seed: world.seed,
        decode: (tokens) =>
          tokenizer.decode(Uint32Array.from(tokens))
      })
      yield* Effect.catchAll(
        fs.writeFileString(path.join(kept.folder, "sinks.html"), html),
        (error) =>
          Effect.logWarning(`${kept.folder}: sinks.html: ${error.message}`)
      )
    }
    return contents.summary.map(({ agreement, layer, neurons, owned, part, purity }): PartContents => ({
      layer,
      part,
      neurons,
      purity,
      agreement,
      ...(owned === undefined ? {} : { owned }),
      ...(part === "random" ? {} : {
        gradientMass: { memorized: massOf("memorized", layer, part), heldOut: massOf("heldOut", layer, part) }
      })
    }))
  }).pipe(Effect.scoped)

/** Before anything is trained: every arm must fit the device, with its own model and training. */
const checkArms = ({ arms, config }: Plan, { data }: DynamicsWorld) =>
  Effect.gen(function*() {
    const device = yield* Device
    const shape = { batchSize: data.batchSize, seqLen: data.seqLen, maxSegments: data.batchSize }
    for (const arm of arms) {
      const model = modelOf(config.model, data.tokenizer.vocabSize, arm)
      yield* checkTraining(model, shape, device, trainingOf(config.training, arm), { precision: config.precision })
    }
  })

const warningsOf = (plan: Plan, failures: ReadonlyArray<Failure>): ReadonlyArray<string> => {
  const { arms, config, groups } = plan
  const names = arms.map(({ name }) => name)
  return [
    ...(config.seeds < 2 ? ["one seed is not a result: nothing has an interval over seeds"] : []),
    ...(names.includes("standard") ? [] : ["there is no arm standard to compare with"]),
    ...(groups.some(({ withheld }) => withheld)
      ? []
      : ["no group is left alone before the end, so there is no retention: set until to less than 7/8 for one"]),
    ...(groups.some(({ teeth }) => teeth)
      ? []
      : ["no group is probed around its exposures, so there are no saw-teeth"]),
    ...(failures.length === 0 ? [] : ["arms that failed in a seed are missing from its numbers"])
  ]
}

/**
 * Run all arms of all seeds and report. Interruptible at any moment: checkpoints and traces stay in the folder, and a
 * later call with `resume` goes on from there, with no probe missing or doubled. An arm that fails is reported and does not
 * take the others with it. Fails with a DataError for a configuration that makes no sense, before anything is trained.
 */
export const run = (
  input: unknown,
  options: DynamicsOptions
): Effect.Effect<DynamicsReport, DynamicsError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const began = performance.now()
    const plan = yield* planOf(input)
    const { config } = plan
    const onEvent = options.onEvent ?? (() => Effect.void)
    const stage = (message: string) => onEvent({ _tag: "Stage", message })
    const path = yield* Path.Path
    const { outDir } = options
    const seeds = Array.from({ length: config.seeds }, (_, i) => config.data.seed + i)
    const worlds = yield* Effect.forEach(seeds, (seed) => makeWorld(plan, seed))
    const inputs = Effect.map(Effect.forEach(worlds, ({ data }) => data.inputs), (all) => all.flat())
    // as Experiment.run does: damaged shards train nothing, in a run that begins as in one that goes on
    yield* Effect.forEach(worlds, ({ data }) => data.verify, { discard: true })
    const recording = outDir === undefined ? undefined : yield* claimFolder(outDir, {
      kind: "dynamics",
      schema: DynamicsConfig,
      config,
      seeds,
      arms: plan.arms.map(({ name }) => name),
      inputs
    }, options)
    if (recording !== undefined) yield* recording.madeOf(yield* inputs)

    const madeOf = new Map(
      yield* Effect.forEach(worlds, (world) => Effect.map(world.data.inputs, (inputs) => [world, inputs] as const))
    )
    const jobs = worlds.flatMap((world) => plan.arms.map((arm) => ({ world, arm })))
    const keeps = yield* Effect.forEach(jobs, ({ arm, world }) =>
      keep(
        outDir === undefined ? undefined : path.join(outDir, `seed-${world.seed}`, folderOf(arm.name)),
        armOf(plan, arm, world.seed, world.data.tokenizer.vocabSize, madeOf.get(world)!),
        arm.name
      ))
    const traced = new Map<number, Traced & { readonly after: ReadonlyArray<PartContents> }>()
    const failures = new Map<number, Failure>()
    let adapter = ""
    const all = Effect.gen(function*() {
      const device = yield* Device
      adapter = device.name
      if (recording !== undefined) yield* recording.computedOn(device)
      yield* stage(`forgetting dynamics on ${device.name}: ${device.reason}`)
      yield* Effect.forEach(worlds, (world) => checkArms(plan, world), { discard: true })
      yield* Effect.forEach(jobs, ({ arm, world }, index) => {
        if (traced.has(index)) return Effect.void
        const kept = keeps[index]!
        const labels = { arm: arm.name, seed: world.seed }
        const of = armOf(plan, arm, world.seed, world.data.tokenizer.vocabSize, madeOf.get(world)!)
        return attempt(
          labels,
          trainProbed(plan, world, arm, kept, {
            // what is found of a trained model is kept beside it: a resumed run does not look again
            after: keptIn(
              kept.folder === undefined ? undefined : path.join(kept.folder, "contents.json"),
              keyOf(contentsOf(of)),
              Effect.zipRight(record(plan, world, arm, kept), examine(plan, world, arm, kept))
            ),
            onEvent: (event) => onEvent({ _tag: "Training", ...labels, index, count: jobs.length, event }),
            onProbed: (step, losses) => onEvent({ _tag: "Probed", ...labels, step, steps: plan.steps, losses })
          }),
          {
            outDir,
            onFailure: (failure) =>
              Effect.zipRight(
                Effect.sync(() => void failures.set(index, failure)),
                stage(`seed ${world.seed}: ${arm.name} failed: ${failure.message}`)
              )
          }
        ).pipe(Effect.map(Option.map((one) => void traced.set(index, one))))
      }, { concurrency: options.concurrency ?? 1, discard: true })
    }).pipe(Effect.provide(options.device))
    yield* againWhenLost(all, stage, "from what is kept")

    const found = jobs.flatMap(({ arm, world }, index): ReadonlyArray<Found> => {
      const one = traced.get(index)
      return one === undefined ? [] : [{ arm: arm.name, seed: world.seed, rows: one.rows, contents: one.after }]
    })
    const failed = [...failures.values()]
    if (found.length === 0) {
      return yield* new DataError({
        detail: ["every arm failed:", ...failed.map(({ arm, message, seed }) => `  seed ${seed}, ${arm}: ${message}`)]
          .join("\n")
      })
    }
    const summary = summarize(found, worlds, plan)
    const { data } = worlds[0]!
    const costs = plan.arms.map((arm, a): ArmCost => {
      const of = (value: (one: Traced) => number) =>
        estimate(worlds.map((_, s) => {
          const one = traced.get(s * plan.arms.length + a)
          return one && value(one)
        }))
      const model = modelOf(config.model, data.tokenizer.vocabSize, arm)
      return {
        name: arm.name,
        title: (arms[arm.arm] as Arm).title,
        parameters: model.numParameters,
        activeParameters: model.numActiveParameters,
        seconds: of(({ seconds }) => seconds),
        probeSeconds: of(({ probeSeconds }) => probeSeconds)
      }
    })
    const report: DynamicsReport = {
      format: 1,
      arms: costs,
      steps: plan.steps,
      tokensPerStep: data.batchSize * data.seqLen,
      ...summary,
      claims: claimsOf(summary, theory({ seed: seeds[0]! })),
      warnings: warningsOf(plan, failed),
      failures: failed,
      seeds,
      data: { vocabSize: data.tokenizer.vocabSize, seqLen: data.seqLen, promptTokens: config.promptTokens },
      adapter,
      seconds: (performance.now() - began) / 1000,
      config: Schema.encodeSync(DynamicsConfig)(config),
      versions: options.versions ?? {}
    }
    if (outDir !== undefined) yield* writeReport(outDir, { encode: encoded, view }, report)
    return report
  }).pipe(Effect.scoped)
