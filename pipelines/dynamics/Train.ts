/** Training an arm of a forgetting experiment while it is probed, and looking at what it has become: a job. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { batchOf, DataStream } from "../../src/data/stream/DataStream.ts"
import { sequenceName } from "../../src/data/stream/Packing.ts"
import { DataError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import * as Gradients from "../../src/inside/Gradients.ts"
import { sinkContents } from "../../src/inside/SinkContents.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import * as Sink from "../../src/Sink.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import { modelOf, trainingOf } from "../experiment/Arms.ts"
import type { Job, Work } from "../experiment/Job.ts"
import { type Files, type Kept, trainArm } from "../experiment/Train.ts"
import { type DynamicsArm, DynamicsConfig, FOILS, type Plan, planOf } from "./Config.ts"
import { contentsPage } from "./contentsPage.ts"
import { armOf, lookedAt } from "./Jobs.ts"
import { type Losses, makeProbes, masksOf, recordTokens } from "./Probe.ts"
import type { PartContents } from "./Summary.ts"
import { resumable, type Rows, traceFolder, type TraceLog, tracesInMemory } from "./TraceLog.ts"
import { dataOf, type DynamicsWorld, makeWorld } from "./World.ts"

/** What the experiment as a whole fails with; a training that fails is told in the report. */
export type DynamicsError = TrainError

/** What a probed training leaves. */
export interface Traced {
  readonly rows: Rows
  /** Of training; and of probing, in this process. */
  readonly seconds: number
  readonly probeSeconds: number
}

/** Trains an arm to its end, from where its checkpoints are, then does `after` with the Model. */
export const trainProbed = <A>(
  plan: Plan,
  world: DynamicsWorld,
  arm: DynamicsArm,
  { kept, log }: { readonly kept: Kept; readonly log: TraceLog },
  {
    after,
    onEvent,
    onProbed
  }: {
    readonly after: Effect.Effect<A, DynamicsError, Device | DataStream | Files | Model | Scope.Scope>
    readonly onEvent: (event: TrainEvent) => Effect.Effect<void>
    readonly onProbed: (step: number, losses: Losses) => Effect.Effect<void>
  }
): Effect.Effect<Traced & { readonly after: A }, DynamicsError, Device | Files> =>
  Effect.gen(function*() {
    const { config } = plan
    const { events } = kept
    const model = modelOf(config.model, world.data.tokenizer.vocabSize, arm)
    const checkpoints = Context.get(yield* Layer.build(kept.checkpoints), Checkpoints)
    // what is later than the last checkpoint is trained, and probed, again
    yield* log.rewind((yield* checkpoints.list).at(-1)?.step ?? 0)
    let probed = () => 0
    const trained = yield* trainArm(
      { model, training: trainingOf(config.training, arm), seed: world.seed, precision: config.precision },
      { events, checkpoints: Layer.succeed(Checkpoints, resumable(log)(checkpoints)) },
      {
        onEvent,
        observe: Effect.tap(makeProbes({ plan, world, arm, log, onProbed }),
          ({ seconds }) => Effect.sync(() => void (probed = seconds))),
        after
      }
    ).pipe(Effect.provideService(DataStream, yield* world.stream(arm)))
    return { rows: yield* log.read, seconds: trained.seconds, probeSeconds: probed(), after: trained.after }
  }).pipe(Effect.scoped)

/** Every token of the probed sequences under the trained model, in `traces/records`. */
const record = (plan: Plan, world: DynamicsWorld, arm: DynamicsArm, folder: string | undefined) =>
  Effect.gen(function*() {
    if (folder === undefined) return
    const records = (yield* Path.Path).join(folder, "traces", "records")
    const masks = masksOf((yield* Model).config, plan.config.masks)
    const probed = world.probed.map((one) => ({
      ...one,
      repeats: one.planted === undefined ? 0 : world.planted[one.planted]!.steps.length
    }))
    const run = `${arm.name} seed ${world.seed}`
    yield* recordTokens(records, probed, { run, step: plan.steps, masks, seqLen: world.data.seqLen })
  })

/** What single sinks hold when training ends, and where the gradient of a memorized sequence falls. */
const examine = (plan: Plan, world: DynamicsWorld, arm: DynamicsArm, folder: string | undefined) =>
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
        const whole = parts.reduce((sum, { value }) =>
          sum + value, 0)
        return { kind, parts: parts.map((part) => ({ ...part, value: part.value / whole })) }
      }))
    const massOf = (kind: string, layer: number, part: string) =>
      mean(
        masses.filter((one) => one.kind === kind).map(({ parts }) =>
          parts.find((one) => one.layer === layer && one.part === part)?.value ?? 0
        )
      )
    if (folder !== undefined && model.config.sinks !== undefined) {
      const html = contentsPage(contents, {
        title: `What the sinks of ${arm.name} hold, seed ${world.seed}`,
        arm: arm.name,
        seed: world.seed,
        decode: (tokens) => tokenizer.decode(Uint32Array.from(tokens))
      })
      yield* Effect.catchAll(
        fs.writeFileString(path.join(folder, "sinks.html"), html),
        (error) => Effect.logWarning(`${folder}: sinks.html: ${error.message}`)
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

/** An arm with a seed, of a configuration, encoded. */
export interface ArmInput {
  readonly config: typeof DynamicsConfig.Encoded
  readonly arm: string
  readonly seed: number
}

/** What an arm leaves besides its weights. */
export interface ArmResult extends Omit<Traced, "rows"> {
  /** What was probed; where it lies in a folder, how much that is. */
  readonly rows: Rows | Readonly<Record<keyof Rows, number>>
  readonly contents: ReadonlyArray<PartContents>
}

/** The job of an arm with a seed. */
export const armJob = ({ config }: Plan, { name }: DynamicsArm, seed: number): Job<ArmInput> => ({
  kind: "dynamics",
  arm: name,
  seed,
  input: { config: Schema.encodeSync(DynamicsConfig)(config), arm: name, seed }
})

const decoded = ({ arm, config }: ArmInput) =>
  Effect.map(planOf(config), (plan) => ({ plan, arm: plan.arms.find(({ name }) => name === arm)! }))

const logOf = (folder: string | undefined): Effect.Effect<TraceLog, DataError, Files> =>
  folder === undefined
    ? Effect.sync(tracesInMemory)
    : Effect.flatMap(Path.Path, (path) => traceFolder(path.join(folder, "traces")))

/** Trains an arm, probes it on its way, and looks at what it has become. */
export const armWork: Work<ArmInput, ArmResult> = {
  key: (input, { streams }) =>
    Effect.gen(function*() {
      const { arm, plan } = yield* decoded(input)
      return yield* streams.use(dataOf(plan, input.seed), Effect.flatMap(DataStream, ({ inputs, tokenizer }) =>
        Effect.map(inputs, (inputs) =>
          lookedAt(armOf(plan, arm, input.seed, tokenizer.vocabSize, inputs), plan.config))))
    }),
  run: (input, { kept, once, onEvent, streams, tell }) =>
    Effect.gen(function*() {
      const { arm, plan } = yield* decoded(input)
      const { seed } = input
      const log = yield* once("traces", logOf(kept.folder))
      return yield* streams.use(dataOf(plan, seed), Effect.gen(function*() {
        const world = yield* makeWorld(plan, seed, yield* DataStream)
        const { after, rows, ...traced } = yield* trainProbed(plan, world, arm, { kept, log }, {
          after: Effect.zipRight(record(plan, world, arm, kept.folder), examine(plan, world, arm, kept.folder)),
          onEvent,
          onProbed: (step, losses) => tell({ _tag: "Probed", arm: arm.name, seed, step, steps: plan.steps, losses })
        })
        const { probes, quantities } = rows
        return {
          ...traced,
          rows: kept.folder === undefined ? rows : { probes: probes.length, quantities: quantities.length },
          contents: after
        }
      }))
    })
}

/** What was probed of an arm; `folder` is its own. Fails with a DataError where that is not there any more. */
export const rowsOf = (
  { rows }: ArmResult,
  folder: string | undefined
): Effect.Effect<Rows, DataError, Files> =>
  Effect.gen(function*() {
    if (typeof rows.probes !== "number") return rows as Rows
    const found = yield* Effect.flatMap(logOf(folder), ({ read }) => read)
    if (found.probes.length === rows.probes && found.quantities.length === rows.quantities) return found
    return yield* new DataError({
      path: folder!,
      detail: `its traces have ${found.probes.length} probes, but ${rows.probes} were made, and ` +
        `${found.quantities.length} quantities of ${rows.quantities}. Delete the folder of this arm, with its ` +
        "checkpoints, and run it again"
    })
  })
