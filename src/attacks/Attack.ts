/**
 * Attacks: what an attacker who has a model gets out of it of what it was trained on, or finds out about that.
 *
 * An Attack is a value; a new one is a file here and a line in `index.ts`. It is given the model as the service `Model`, with
 * the sinks in one state, and sequences; it gives a value for each of its metrics, and changes no weight that it does not put
 * back. `memsinks isolate` runs it on every model in every state of its sinks, the oracle (which never saw the sequences
 * repeated) beside: a value means little without the oracle's, since some text is found without memory. What is computed of
 * token records or texts alone belongs to `measures/`.
 */
import type * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { Row } from "../data/stream/Packing.ts"
import type { Tokenizer } from "../data/tokens/Tokenizer.ts"
import type { CheckpointError, CollectiveError, DataError, DeviceError, Diverged, KernelError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { mean, variance } from "../measures/Statistics.ts"
import type { Model } from "../model/Model.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import type { SinkMode } from "../Sink.ts"

/** What an attack fails with: any of the six errors. */
export type AttackError = DeviceError | KernelError | DataError | Diverged | CheckpointError | CollectiveError

/** What an attack is tried on. Lists share no sequence and no id. */
export interface AttackProblem {
  /** The sequences that are scored: repeated in training, not known to the attacker. At least one. */
  readonly rows: ReadonlyArray<Row>
  /** Other repeated sequences, which the attacker may know, train on and choose by. */
  readonly seen: ReadonlyArray<Row>
  /** Sequences of the same kind that were never trained on. */
  readonly others: ReadonlyArray<Row>
  /** State of the sinks in every pass; each sequence lights those of its own id, where the state asks for an id. */
  readonly mode: SinkMode
  /** Of all draws. Equal problems and options give equal values on a device, bit for bit. */
  readonly seed: number
  /** Tokens of a row; sequences have at most one more. */
  readonly seqLen: number
  /** Sequences that a pass may take at once; of short prompts more fit. */
  readonly batchSize: number
  /** Of natural text; absent where the world consists of tokens alone. */
  readonly tokenizer?: Tokenizer
  /**
   * Does something with the oracle's `Model`, beside the attacked one; absent where there is none, or where the attack does
   * not say that it looks at it.
   */
  readonly reference?: <A, E>(use: Effect.Effect<A, E, Model | Device>) => Effect.Effect<A, E | AttackError, Device>
  /** The same with the standard model, which memorized the sequences and from which methods after training start. */
  readonly standard?: <A, E>(use: Effect.Effect<A, E, Model | Device>) => Effect.Effect<A, E | AttackError, Device>
}

/** What a value of an attack is. */
export interface AttackMetric {
  /** In words. */
  readonly title: string
  /** A share is in [0, 1]; a ratio is of two numbers of tokens; nats are a token. */
  readonly unit: "nats" | "share" | "tokens" | "ratio"
  /** Whether more of it means more memory. */
  readonly memory: "higher" | "lower"
  /** Whether it can be below 0, as a difference can. Default false. */
  readonly signed?: boolean
  /** Which sequences it is of: what is not repeated is no memory, and has no recovery. Default `rows`. */
  readonly of?: "rows" | "others"
}

/**
 * A metric of a set of sequences: the value of each of them, NaN of those that have none; or one number of all, which does
 * not depend on them more than so many sequences do (as an AUC of so many members and non-members).
 */
export type AttackValue =
  | ArrayLike<number>
  | {
    readonly value: number
    /** So many it is of. */
    readonly sequences: number
    /** Its standard error over them; absent: of shares that of as many trials, else unknown. */
    readonly error?: number
  }

/** What is known of an experiment before anything is trained. */
export interface AttackGround {
  readonly model: ModelConfig
  readonly seqLen: number
  /** Sequences of each list that the attack will be given. */
  readonly rows: number
  readonly seen: number
  readonly others: number
  /** What the scored sequences say; absent where the world consists of tokens alone. */
  readonly texts?: () => ReadonlyArray<string>
}

/**
 * An attack; `Options` are decoded, every default filled in.
 *
 * @example
 * ```ts
 * const { acrLite } = Attacks.attacks
 * const options = yield* decodeConfig(acrLite.options, { length: 12, lengths: [4, 8] })
 * const values = yield* acrLite.run({ rows, seen: [], others: [], mode: Sink.off, seed: 1, seqLen: 64, batchSize: 16 }, options)
 * ```
 */
export interface Attack<Options = any> {
  /** As configurations have it. */
  readonly name: string
  /** In a few words, for headings. */
  readonly title: string
  /** `Schwarzschild et al. 2024`. */
  readonly paper: string
  /** Number of the code: raise it whenever the same problem and options give other values. Results that are kept go by it. */
  readonly version: number
  /** Whether it needs text: a `tokenizer` is then there, and worlds of tokens alone are refused before any training. */
  readonly needsText?: boolean
  /** Whether it keeps memory in rather than getting it out: then it cannot tell what a removal left. */
  readonly defends?: boolean
  /** Whether it looks at the oracle: `reference` is then there wherever there is an oracle. */
  readonly needsReference?: boolean
  /** Whether it looks at the standard model: `standard` is then there wherever there is one. */
  readonly needsStandard?: boolean
  /**
   * Its options, an Effect Schema with a default and a constraint for each (`configuration` of a `Schema.Class`). None is
   * called `attack`, `name`, `states`, `models` or `sequences`: these are the experiment's.
   */
  readonly options: Schema.Schema<Options, any>
  /** What it measures, by names: `found`, `found@4`. */
  readonly metrics: (options: Options) => Readonly<Record<string, AttackMetric>>
  /**
   * What is wrong with options in an experiment, if anything, in a sentence that says what is needed: `prompts of 40 tokens
   * and 30 of a sequence exceed ...`. Asked before any training.
   */
  readonly problem?: (options: Options, ground: AttackGround) => string | undefined
  /** Gives a value for each metric; one that cannot be had (a share of nothing) may be left out. */
  readonly run: (
    problem: AttackProblem,
    options: Options
  ) => Effect.Effect<Readonly<Record<string, AttackValue>>, AttackError, Model | Device>
}

/** A value of an attack as one number, and how much it depends on which sequences it is of. */
export interface AttackSample {
  readonly value: number
  readonly sequences: number
  readonly error?: number
}

const isEach = (value: AttackValue): value is ArrayLike<number> => "length" in value

/** The mean over the sequences that have a value, with its standard error; undefined where none has. */
export const sampleOf = (value: AttackValue): AttackSample | undefined => {
  if (!isEach(value)) return value
  const there = Float64Array.from(value).filter((one) => !Number.isNaN(one))
  const { length: sequences } = there
  if (sequences === 0) return undefined
  return { value: mean(there), sequences, ...(sequences < 2 ? {} : { error: Math.sqrt(variance(there) / sequences) }) }
}
