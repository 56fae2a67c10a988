/**
 * What a training run tells: encoded, one line each, they are the run's record of truth (metrics.jsonl).
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { count } from "../Terminal.ts"

/** The run is ready: parameters are initialised or loaded, kernels are compiled. */
export class Started extends Schema.TaggedClass<Started>()("Started", {
  /** Steps already taken, more than 0 when the run was resumed. */
  step: Schema.Number,
  steps: Schema.Number,
  parameters: Schema.Number,
  /** Parameters that one token is multiplied with. */
  activeParameters: Schema.Number,
  tokensPerStep: Schema.Number,
  adapter: Schema.String,
  /** The checkpoint that a resumed run goes on from. */
  from: Schema.optional(Schema.String)
}) {}

/** A window of steps has run; its losses were read back while later steps were running. */
export class Stepped extends Schema.TaggedClass<Stepped>()("Stepped", {
  step: Schema.Number,
  steps: Schema.Number,
  /** Mean training loss over the window, nats a token. Absent where mixed precision overflowed in all of its steps. */
  loss: Schema.optional(Schema.Number),
  /** Gradient norm of the window's last step that was taken, before clipping. Absent where all were skipped. */
  gradNorm: Schema.optional(Schema.Number),
  learningRate: Schema.Number,
  /** Tokens trained on since the run's first step. */
  tokens: Schema.Number,
  /** Of this process. */
  tokensPerSecond: Schema.Number,
  /**
   * Time spent training until then, without evaluation and saving: of this process; in metrics.jsonl, of all that took
   * part in what the run kept. Files of earlier versions lack it.
   */
  seconds: Schema.optional(Schema.Number),
  /** Mixed precision: steps so far in which a number overflowed, and that moved nothing. Absent where there were none. */
  skipped: Schema.optional(Schema.Number)
}) {}

/** Mean losses in nats a token, by split and sink mode: `repeated.own`, `repeated.off`, `heldOut.off`. */
export class Evaluated extends Schema.TaggedClass<Evaluated>()("Evaluated", {
  step: Schema.Number,
  losses: Schema.Record({ key: Schema.String, value: Schema.Number })
}) {}

/** A checkpoint is complete and on the disk: after how many steps, and its folder. */
export class Saved extends Schema.TaggedClass<Saved>()("Saved", { step: Schema.Number, path: Schema.String }) {}

/** All steps are taken, and what was due at the end is evaluated and saved. */
export class Finished extends Schema.TaggedClass<Finished>()("Finished", {
  step: Schema.Number,
  /** Time spent training, without evaluation and saving: of this process; in metrics.jsonl, of the run. */
  seconds: Schema.Number,
  tokensPerSecond: Schema.Number
}) {}

/** Whatever a training run tells. */
export type TrainEvent = Started | Stepped | Evaluated | Saved | Finished
/** The schema of all events, as they stand in metrics.jsonl. */
export const TrainEvent = Schema.Union(Started, Stepped, Evaluated, Saved, Finished)

const encode = Schema.encodeSync(TrainEvent)

/** One line of metrics.jsonl. */
export const toJsonLine = (event: TrainEvent): string => `${JSON.stringify(encode(event))}\n`

const decode = Schema.decodeUnknownOption(Schema.parseJson(TrainEvent))

/** The event of a line of metrics.jsonl; none where the line is not one, as when a process died while writing it. */
export const fromJsonLine = (line: string): ReadonlyArray<TrainEvent> => Option.toArray(decode(line))

/** One line for people. */
export const format = (event: TrainEvent): string => {
  switch (event._tag) {
    case "Started":
      return `training ${count(event.parameters)} parameters ` +
        `(${count(event.activeParameters)} active a token) on ${event.adapter}, ` +
        `${event.step > 0 ? `from step ${event.step} of` : ""}${event.step > 0 ? "" : "for"} ${event.steps} steps`
    case "Stepped":
      return `step ${event.step}/${event.steps}  loss ${event.loss?.toFixed(3) ?? "–"}  ` +
        `norm ${event.gradNorm?.toFixed(2) ?? "–"}  ` +
        `lr ${event.learningRate.toExponential(1)}  ${count(event.tokensPerSecond)} tokens/s` +
        (event.skipped === undefined ? "" : `  ${event.skipped} steps skipped: f16 overflowed`)
    case "Evaluated":
      return `step ${event.step}  ` +
        Object.entries(event.losses).map(([name, loss]) => `${name} ${loss.toFixed(3)}`).join("  ")
    case "Saved":
      return `saved ${event.path}`
    case "Finished":
      return `finished ${event.step} steps in ${event.seconds.toFixed(1)} s, ${count(event.tokensPerSecond)} tokens/s`
  }
}

/** Log an event in plain words: `Stream.tap(TrainEvent.log)`. */
export const log = (event: TrainEvent): Effect.Effect<void> => Effect.logInfo(format(event))
