/**
 * The five errors of memsinks. Each carries a `reason` where there are several, and a `message` written for the
 * person at the terminal: what is wrong, what was expected, what to do. They flow up unmapped; the command line
 * prints the message and exits with 1.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** What went wrong with the GPU, its driver, or a request to it. */
export class DeviceError extends Schema.TaggedError<DeviceError>()("DeviceError", {
  reason: Schema.Literal("NoAdapter", "Limit", "Feature", "OutOfMemory", "Validation", "Lost"),
  detail: Schema.String,
  cause: Schema.optional(Schema.Defect)
}) {
  override get message(): string {
    return `${this.detail} [device: ${this.reason}]`
  }
}

/** A kernel that does not compile, or that was given constants or bindings it does not have. */
export class KernelError extends Schema.TaggedError<KernelError>()("KernelError", {
  kernel: Schema.String,
  detail: Schema.String,
  /** The complete WGSL handed to the compiler, header included; empty when the kernel was not compiled at all. */
  source: Schema.String
}) {
  override get message(): string {
    return `kernel ${this.kernel}: ${this.detail}`
  }
}

/** Data that cannot be read, decoded, tokenized, or cut into the rows that were asked for. */
export class DataError extends Schema.TaggedError<DataError>()("DataError", {
  detail: Schema.String,
  path: Schema.optional(Schema.String),
  cause: Schema.optional(Schema.Defect)
}) {
  override get message(): string {
    return this.path === undefined ? this.detail : `${this.path}: ${this.detail}`
  }
}

/** A checkpoint that is missing, damaged, made for another model, or cannot be written. */
export class CheckpointError extends Schema.TaggedError<CheckpointError>()("CheckpointError", {
  reason: Schema.Literal("Missing", "Corrupt", "Mismatch", "Write"),
  path: Schema.String,
  detail: Schema.String,
  cause: Schema.optional(Schema.Defect)
}) {
  override get message(): string {
    return `${this.path}: ${this.detail} [checkpoint: ${this.reason}]`
  }
}

/** The loss or a gradient stopped being finite. */
export class Diverged extends Schema.TaggedError<Diverged>()("Diverged", {
  step: Schema.Number,
  loss: Schema.Number,
  lastCheckpoint: Schema.optional(Schema.String),
  /** Where it is not f32. */
  precision: Schema.optional(Schema.Literal("f16"))
}) {
  override get message(): string {
    const back = this.lastCheckpoint === undefined
      ? "No checkpoint was saved before it."
      : `The last good checkpoint is ${this.lastCheckpoint}.`
    return `training diverged at step ${this.step}: loss ${this.loss}. ${back} ` +
      "Lower learningRate or gradClip, or lengthen warmupSteps, and resume." +
      (this.precision === undefined ? "" : " Numbers beyond 65504 overflow in f16: precision f32 has room for them.")
  }
}

/** What went wrong, for a message. */
export const because = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

/** A `DataError` of a file. */
export const dataError = (path: string, detail: string, cause?: unknown): DataError =>
  new DataError(cause === undefined ? { path, detail } : { path, detail, cause })

/** Any of the five. */
export type MemsinksError = DeviceError | KernelError | DataError | CheckpointError | Diverged

const five = [DeviceError, KernelError, DataError, CheckpointError, Diverged] as const

/** Whether a value is one of the five errors: meant for people, and no bug. */
export const isMemsinksError = (value: unknown): value is MemsinksError => five.some((kind) => value instanceof kind)

type Thrown<Kinds extends ReadonlyArray<(typeof five)[number]>> = Kinds extends readonly [] ? MemsinksError
  : InstanceType<Kinds[number]>

/**
 * Plain code that throws, as an Effect: one of the five errors fails it, all else is a defect, so that a bug is never
 * told as a failure of the data or the device.
 *
 * @param _kinds those that the code throws, for the type of the failure; default: any of the five
 */
export const attempt = <A, Kinds extends ReadonlyArray<(typeof five)[number]>>(
  body: () => A,
  ..._kinds: Kinds
): Effect.Effect<A, Thrown<Kinds>> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(body())
    } catch (error) {
      return isMemsinksError(error) ? Effect.fail(error as Thrown<Kinds>) : Effect.die(error)
    }
  })
