/**
 * Isolation checks: is the memory in the sinks, and nowhere else? Trains the arms of a configuration on the same data,
 * tries what post-hoc methods do to the standard model, looks at every model in every state of its sinks, tries to make
 * it remember, and says in one word what came out: isolated, hidden, not isolated, or undecided.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { DataStream } from "../src/data/stream/DataStream.ts"
import { attempt, DataError, type DeviceError } from "../src/Errors.ts"
import { Device } from "../src/gpu/Device.ts"
import { machineOf } from "../src/gpu/Machine.ts"
import { theory } from "../src/measures/Theory.ts"
import type { ProgressEvent } from "../src/terminal/Progress.ts"
import { checkTraining } from "../src/train/MemoryPlan.ts"
import { modelOf, ORACLE, STANDARD, streamOf, type StreamOverrides } from "./experiment/Arms.ts"
import { writeReport } from "./experiment/Experiment.ts"
import { againWhenLost, claimFolder, type FolderOptions, makeFolder } from "./experiment/RunFolder.ts"
import { fileStore, memoryStore, type Store } from "./experiment/Store.ts"
import { claimsOf } from "./isolation/Claims.ts"
import { IsolateConfig, type Plan, planOf } from "./isolation/Config.ts"
import { trainingOfArm } from "./isolation/Jobs.ts"
import { metricsFor, windowsOf } from "./isolation/Metrics.ts"
import type { IsolateError, Laboratory } from "./isolation/Models.ts"
import { type Failure, IsolationReport } from "./isolation/Report.ts"
import { investigate } from "./isolation/Seed.ts"
import { summarize } from "./isolation/Summary.ts"
import { verdictsOf, warningsOf } from "./isolation/Verdicts.ts"
import { view } from "./isolation/view.ts"
import { checkDisjoint, firstSeed, makeWorld, type World } from "./isolation/World.ts"

export { IsolateConfig, IsolationReport }
export type { IsolateError }

export interface IsolateOptions extends FolderOptions {
  /** Rebuilt when the device is lost, so it must be a layer of its own: `NodeDevice.layer()`. */
  readonly device: Layer.Layer<Device, DeviceError>
  /** Where the report and, unless `store` says otherwise, models and records go. Default: nowhere. */
  readonly outDir?: string
  /** A folder of models and records that several experiments share. Default: `store` in the run's folder. */
  readonly store?: string
  /** Arms that are trained at once, as far as memory goes. Default 1. */
  readonly concurrency?: number
  readonly onEvent?: (event: ProgressEvent) => Effect.Effect<void>
}

/** A report as JSON: numbers that are not finite are null. */
const encoded = Schema.encodeSync(IsolationReport)

export const toJson = (report: IsolationReport): string => JSON.stringify(encoded(report))

/** How many of the repeated sequences, canaries among them, have how many exposures. */
const exposuresOf = ({ repeatsOf, splits }: World): IsolationReport["data"]["repeats"] => {
  const count = new Map<number, number>()
  for (const row of [...splits.seen, ...splits.scored, ...splits.canarySeen, ...splits.canaryScored]) {
    count.set(repeatsOf(row), (count.get(repeatsOf(row)) ?? 0) + 1)
  }
  return [...count].sort(([a], [b]) => b - a).map(([exposures, sequences]) => ({ sequences, exposures }))
}

/** Streams of a world that live until the scope closes, each made once: text is tokenized for it. */
const oneStreamOf = (world: World) =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const made = new Map<string, Context.Context<DataStream>>()
    const alone = yield* Effect.makeSemaphore(1)
    return (overrides: StreamOverrides) =>
      Effect.suspend(() => {
        const known = made.get(JSON.stringify(overrides))
        return known !== undefined
          ? Effect.succeed(known)
          : Layer.buildWithScope(world.stream(overrides), scope).pipe(
            Effect.tap((context) => Effect.sync(() => made.set(JSON.stringify(overrides), context)))
          )
      }).pipe(alone.withPermits(1))
  })

/** Before anything is trained: every arm must fit the device, with its own model, data and training. */
const checkArms = (lab: Omit<Laboratory, "machine">, plan: Plan) =>
  Effect.gen(function*() {
    for (const arm of plan.arms) {
      const data = yield* Effect.provide(DataStream, yield* lab.stream(streamOf(arm)))
      const model = modelOf(plan.config.model, lab.world.tokenizer.vocabSize, arm)
      yield* checkTraining(model, data, yield* Device, trainingOfArm(lab, arm), { precision: plan.config.precision })
    }
  })

/**
 * Run all arms of all seeds and report. Interruptible at any moment: what is done is kept in the store, and a later call
 * with `resume` goes on from there. An arm that fails is reported and does not take the others with it. Fails with a
 * DataError for a configuration that makes no sense, before anything is trained.
 */
export const run = (
  input: unknown,
  options: IsolateOptions
): Effect.Effect<IsolationReport, IsolateError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const began = performance.now()
    const plan = yield* planOf(input)
    const { config, subject } = plan
    const onEvent = options.onEvent ?? (() => Effect.void)
    const stage = (message: string) => onEvent({ _tag: "Stage", message })
    const path = yield* Path.Path
    const { outDir } = options
    const first = firstSeed(config.world)
    const seeds = Array.from({ length: config.seeds }, (_, i) => first + i)

    // the data of every seed, which may not do, before anything is claimed or trained
    const worlds = yield* Effect.forEach(seeds, (seed) => makeWorld(config.world, seed))
    yield* Effect.forEach(worlds, ({ splits: { heldOut, retained, scored, seen, validation } }) =>
      // what relearning and unlearners train on must not be what they are scored by
      Effect.zipRight(
        checkDisjoint(seen, [...scored, ...validation, ...heldOut]),
        checkDisjoint(retained, [...seen, ...scored, ...validation, ...heldOut])
      ), { discard: true })
    const inputs = worlds.flatMap((world) => world.inputs)
    const recording = outDir === undefined ? undefined : yield* claimFolder(outDir, {
      kind: "isolate",
      schema: IsolateConfig,
      config,
      seeds,
      arms: plan.arms.map(({ name }) => name),
      inputs: Effect.succeed(inputs)
    }, options)
    if (recording !== undefined) yield* recording.madeOf(inputs)
    const storeFolder = options.store ?? (outDir === undefined ? undefined : path.join(outDir, "store"))
    if (options.store !== undefined) yield* makeFolder(options.store)
    const store: Store = storeFolder === undefined
      ? memoryStore()
      : yield* fileStore(storeFolder, { force: options.force ?? false })

    const kept: Laboratory["kept"] = new Map()
    const labs: Array<Omit<Laboratory, "machine">> = []
    let tokensPerStep = 0
    for (const [s, seed] of seeds.entries()) {
      const world = worlds[s]!
      const stream = yield* oneStreamOf(world)
      const { batchesPerEpoch, batchSize, seqLen } = yield* Effect.provide(DataStream, yield* stream({}))
      tokensPerStep = batchSize * seqLen * config.training.gradientAccumulation
      labs.push({
        config,
        seed,
        world,
        store,
        kept,
        stage,
        stream,
        steps: config.training.steps ?? Math.max(1, Math.floor(batchesPerEpoch / config.training.gradientAccumulation))
      })
    }

    let adapter = ""
    let failures: Array<Failure> = []
    const all = Effect.gen(function*() {
      const device = yield* Device
      adapter = device.name
      failures = []
      if (recording !== undefined) yield* recording.computedOn(device)
      yield* stage(`isolation checks on ${device.name}: ${device.reason}`)
      yield* Effect.forEach(labs, (lab) => checkArms(lab, plan), { discard: true })
      return yield* Effect.forEach(labs, (lab, s) =>
        investigate({ ...lab, machine: machineOf(device) }, plan, {
          concurrency: options.concurrency ?? 1,
          outDir,
          onEvent: (arm, i, event) =>
            onEvent({
              _tag: "Training",
              arm: arm.name,
              seed: lab.seed,
              index: s * plan.arms.length + i,
              count: labs.length * plan.arms.length,
              event
            }),
          onFailure: (failure) =>
            Effect.zipRight(
              Effect.sync(() => void failures.push(failure)),
              stage(`seed ${failure.seed}: ${failure.arm} failed: ${failure.message}`)
            )
        }))
    }).pipe(Effect.provide(options.device))
    const found = yield* againWhenLost(all, stage, "from what is kept")

    const parts = summarize(found, { standard: STANDARD, oracle: ORACLE })
    const verdicts = yield* attempt(() => verdictsOf(parts, plan, failures), DataError)
    const head = verdicts.find(({ arm }) => arm === subject)!
    const world = worlds[0]!
    const data = {
      world: config.world.world,
      trainedTokens: labs[0]!.steps * tokensPerStep,
      vocabSize: world.tokenizer.vocabSize,
      seqLen: world.seqLen,
      splits: Object.fromEntries(Object.entries(world.splits).map(([name, rows]) => [name, rows?.length ?? 0])),
      dropped: world.dropped,
      repeats: exposuresOf(world)
    }
    const unclaimed: Omit<IsolationReport, "claims"> = {
      format: 2,
      subject,
      word: head.word,
      decidedBy: head.decidedBy,
      verdicts,
      metrics: metricsFor(windowsOf(config.contexts, world.seqLen)).map(({ of: _, ...metric }) => metric),
      ...parts,
      theory: theory({ seed: first }),
      warnings: warningsOf(parts, plan, data),
      failures,
      seeds,
      data,
      adapter,
      seconds: (performance.now() - began) / 1000,
      config: Schema.encodeSync(IsolateConfig)(config),
      versions: options.versions ?? {}
    }
    const report: IsolationReport = { ...unclaimed, claims: claimsOf(unclaimed) }
    if (outDir !== undefined) yield* writeReport(outDir, { encode: encoded, view }, report)
    return report
  }).pipe(Effect.scoped)
