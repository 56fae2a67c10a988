/**
 * The six errors of memsinks. Each carries a `reason` where there are several, and a `message` written for the
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
  /** For people: what is wrong, what was expected, what to do. */
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
  /** For people: what is wrong, what was expected, what to do. */
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
  /** For people: what is wrong, what was expected, what to do. */
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
  /** For people: what is wrong, what was expected, what to do. */
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
  /** For people: what is wrong, what was expected, what to do. */
  override get message(): string {
    const back = this.lastCheckpoint === undefined
      ? "No checkpoint was saved before it."
      : `The last good checkpoint is ${this.lastCheckpoint}.`
    return `training diverged at step ${this.step}: loss ${this.loss}. ${back} ` +
      "Lower learningRate or gradClip, or lengthen warmupSteps, and resume." +
      (this.precision === undefined ? "" : " Numbers beyond 65504 overflow in f16: precision f32 has room for them.")
  }
}

/** A rank, or the link to it, that failed; or ranks that cannot begin, or do not do the same. */
export class CollectiveError extends Schema.TaggedError<CollectiveError>()("CollectiveError", {
  /**
   * `Setup`: the ranks were not started as they must be, or do not find each other. `Lost`: a rank is gone. `Timeout`:
   * a rank did not come. `Mismatch`: ranks do not call the same. `Aborted`: another rank gave up, and said why.
   */
  reason: Schema.Literal("Setup", "Lost", "Timeout", "Mismatch", "Aborted"),
  detail: Schema.String,
  /** The rank that is at fault, where it is known. */
  rank: Schema.optional(Schema.Number),
  cause: Schema.optional(Schema.Defect)
}) {
  /** For people: what is wrong, what was expected, what to do. */
  override get message(): string {
    return `${this.detail} [ranks: ${this.reason}]`
  }
}

const lacks: ReadonlyArray<readonly [sign: RegExp, advice: string]> = [
  [/\bE[MN]FILE\b|too many open files/i,
    "the process may open no more files: raise ulimit -n (1024 is enough), or lower --jobs"],
  [
    /\bENOMEM\b|Array buffer allocation failed|WebAssembly\.Memory\(\): could not allocate|Cannot allocate memory/i,
    "the machine, or ulimit -v, gives the process no more memory: close other programs, raise the limit, or choose a " +
    "smaller model, batch or data.seqLen"
  ],
  [/\bENOSPC\b|no space left on device/i,
    "the disk is full: free space, or choose another folder. What was saved before is intact"],
  [/\bEDQUOT\b|quota exceeded/i,
    "the disk quota is used up: free space, or choose another folder. What was saved before is intact"],
  [/\bEROFS\b/, "the file system can only be read: choose another folder"],
  [/\bEAGAIN\b.*(spawn|thread|uv_)|ERR_WORKER_INIT_FAILED/i,
    "the process may start no more threads or processes: raise ulimit -u"],
  [/Cannot find package '/,
    "a package that only this needs is not installed: npm install it beside memsinks, in the version that memsinks' " +
    "package.json names"]
]

/** What the machine does not have, and what to do; undefined where a cause is something else. */
export const lacking = (cause: unknown): string | undefined => {
  const text = cause instanceof Error
    ? `${(cause as NodeJS.ErrnoException).code ?? ""} ${cause.message}`
    : String(cause)
  return lacks.find(([sign]) => sign.test(text))?.[1]
}

/** What went wrong, for a message; where the machine lacks something, with what to do. */
export const because = (cause: unknown): string => {
  // a PlatformError of Effect's names its method first, and what the system said behind it
  const { description } = Object(cause) as { readonly description?: unknown }
  const text = cause instanceof Error
    ? typeof description === "string" && "module" in cause ? description : cause.message
    : String(cause)
  const advice = lacking(cause)
  return advice === undefined || text.includes(advice) ? text : `${text} (${advice})`
}

/** A `DataError` of a file. */
export const dataError = (path: string, detail: string, cause?: unknown): DataError =>
  new DataError(cause === undefined ? { path, detail } : { path, detail, cause })

/** Any of the six. */
export type MemsinksError = DeviceError | KernelError | DataError | CheckpointError | Diverged | CollectiveError

const six = [DeviceError, KernelError, DataError, CheckpointError, Diverged, CollectiveError] as const

/** The six as a schema, by which they travel between processes. */
export const AnyError = Schema.Union(...six)

/** Whether a value is one of the six errors: meant for people, and no bug. */
export const isMemsinksError = (value: unknown): value is MemsinksError => six.some((kind) => value instanceof kind)

type Thrown<Kinds extends ReadonlyArray<(typeof six)[number]>> = Kinds extends readonly [] ? MemsinksError
  : InstanceType<Kinds[number]>

/**
 * Plain code that throws, as an Effect: one of the six errors fails it, all else is a defect, so that a bug is never
 * told as a failure of the data or the device.
 *
 * @param _kinds those that the code throws, for the type of the failure; default: any of the six
 */
export const attempt = <A, Kinds extends ReadonlyArray<(typeof six)[number]>>(
  body: () => A,
  ..._kinds: Kinds
): Effect.Effect<A, Thrown<Kinds>> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(body())
    } catch (error) {
      if (isMemsinksError(error)) return Effect.fail(error as Thrown<Kinds>)
      // a machine that has no more memory is no bug; what it lacks is one of the six, whatever the code throws besides
      if (error instanceof RangeError && lacking(error) !== undefined) {
        return Effect.fail(
          new DeviceError({ reason: "OutOfMemory", detail: because(error), cause: error }) as Thrown<Kinds>
        )
      }
      return Effect.die(error)
    }
  })

/** What the operating system says of a file, a socket or memory, as against a mistake in a program. */
const isOfSystem = (cause: unknown): boolean =>
  cause instanceof Error &&
  (/^E[A-Z0-9]+$/.test(String((cause as NodeJS.ErrnoException).code)) || lacking(cause) !== undefined)

/** What a GPU says, as against the errors that only a mistake in a program throws. */
export const isOfGpu = (cause: unknown): boolean =>
  isOfSystem(cause) || !(cause instanceof TypeError || cause instanceof ReferenceError || cause instanceof RangeError)

/**
 * For `catch` of Effect.try and Effect.tryPromise: the six errors pass, what comes from outside becomes what `tell` makes
 * of it, and all else is thrown on, hence a defect, so that a bug is never told as a failure of a file.
 *
 * @param isOutside default: what the operating system says
 */
export const told =
  <E extends MemsinksError>(tell: (cause: unknown) => E, isOutside: (cause: unknown) => boolean = isOfSystem) =>
  (cause: unknown): E => {
    if (isMemsinksError(cause)) return cause as E
    if (isOutside(cause)) return tell(cause)
    throw cause
  }
