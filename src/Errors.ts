/**
 * The five errors of memsinks. Each carries a `reason` where there are several, and a `message` written for the
 * person at the terminal: what is wrong, what was expected, what to do. They flow up unmapped; the command line
 * prints the message and exits with 1.
 */
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
  lastCheckpoint: Schema.optional(Schema.String)
}) {
  override get message(): string {
    const back = this.lastCheckpoint === undefined
      ? "No checkpoint was saved before it."
      : `The last good checkpoint is ${this.lastCheckpoint}.`
    return `training diverged at step ${this.step}: loss ${this.loss}. ${back} ` +
      "Lower learningRate or gradClip, or lengthen warmupSteps, and resume."
  }
}

/** What went wrong, for a message. */
export const because = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

/** A `DataError` of a file. */
export const dataError = (path: string, detail: string, cause?: unknown): DataError =>
  new DataError(cause === undefined ? { path, detail } : { path, detail, cause })
