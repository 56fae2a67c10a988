/** Training an arm of a forgetting experiment while it is probed; what a resumed one has done already is not done again. */
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { existsSync, mkdirSync } from "node:fs"
import * as AtomicFile from "../../src/AtomicFile.ts"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import { because, CheckpointError, told } from "../../src/Errors.ts"
import { type Device } from "../../src/gpu/Device.ts"
import { decodeJson } from "../../src/Json.ts"
import { keyOf } from "../../src/Key.ts"
import { type Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import { modelOf, trainingOf } from "../experiment/Arms.ts"
import { type Files, keep as keepArm, type Kept as KeptArm, trainArm } from "../experiment/Train.ts"
import type { DynamicsArm, Plan } from "./Config.ts"
import { type Losses, makeProbes } from "./Probe.ts"
import { resumable, type Rows, traceFolder, type TraceLog, tracesInMemory } from "./TraceLog.ts"
import type { DynamicsWorld } from "./World.ts"

export type DynamicsError = TrainError

/** What an arm keeps, with its traces. */
export interface Kept extends KeptArm {
  readonly log: TraceLog
}

/** What an arm's folder says it is of. */
const ARM = "arm.json"
const ArmFile = Schema.Struct({ key: Schema.String })

/** A folder belongs to one arm: one that says it is of another is refused. */
const belongs = (folder: string, key: string,
  arm: string | undefined): Effect.Effect<void, CheckpointError, Path.Path> =>
  Effect.flatMap(Path.Path, (path) =>
    Effect.try({
      try: () => {
        const file = path.join(folder, ARM)
        if (!existsSync(file)) {
          mkdirSync(folder, { recursive: true })
          return AtomicFile.writeJson(file, { arm, key })
        }
        const found = Either.getOrThrowWith(decodeJson(ArmFile, AtomicFile.readText(file)), (detail) =>
          new CheckpointError({ reason: "Corrupt", path: file, detail: `${detail}. Choose another --out-dir` }))
        if (found.key === key) return
        throw new CheckpointError({
          reason: "Mismatch",
          path: folder,
          detail:
            "holds an arm of other data or with other settings: resume with the same ones, or choose another --out-dir"
        })
      },
      catch: told((cause) =>
        new CheckpointError({
          reason: "Write",
          path: folder,
          detail: `cannot be used: ${because(cause)}. Choose another folder`,
          cause
        })
      )
    }))

/**
 * What an arm of a seed keeps, in a folder, or in memory. `of`: all that it depends on, which the folder must agree with.
 * `arm`: its name, which the folder's may be short of.
 */
export const keep = (folder: string | undefined, of?: unknown,
  arm?: string): Effect.Effect<Kept, DynamicsError, Files> =>
  Effect.gen(function*() {
    const kept = yield* keepArm(folder, { keepLast: Infinity })
    if (folder === undefined) return { ...kept, log: tracesInMemory() }
    if (of !== undefined) yield* belongs(folder, keyOf(of), arm)
    return { ...kept, log: yield* traceFolder((yield* Path.Path).join(folder, "traces")) }
  })

/** What a probed training leaves. */
export interface Traced {
  readonly model: ModelConfig
  readonly rows: Rows
  /** Of this process: of training, and of probing. */
  readonly seconds: number
  readonly probeSeconds: number
}

/** Trains an arm to its end, from where its checkpoints are, then does `after` with the Model. */
export const trainProbed = <A>(
  plan: Plan,
  world: DynamicsWorld,
  arm: DynamicsArm,
  kept: Kept,
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
    const { events, log } = kept
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
    return { model, rows: yield* log.read, seconds: trained.seconds, probeSeconds: probed(), after: trained.after }
  }).pipe(Effect.scoped)
