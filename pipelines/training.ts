/**
 * Training an arm to its end while its events are kept, so that a resumed arm's curves begin where the arm did.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as AtomicFile from "../src/AtomicFile.ts"
import type * as TensorBoard from "../src/runs/TensorBoard.ts"
import type { TrainError, TrainerService } from "../src/Trainer.ts"
import * as TrainEvent from "../src/TrainEvent.ts"
import type { Curve } from "./Report.ts"

/** An arm's events, kept beside its checkpoints. */
export interface EventLog {
  /** Forget what came after a step, and return what came before. */
  readonly rewind: (step: number) => Effect.Effect<ReadonlyArray<TrainEvent.TrainEvent>>
  readonly append: (event: TrainEvent.TrainEvent) => Effect.Effect<void>
}

const upTo = (events: ReadonlyArray<TrainEvent.TrainEvent>, step: number) =>
  step === 0 ? [] : events.filter((event) => event.step <= step && event._tag !== "Finished")

export const eventsInMemory = (): EventLog => {
  let events: Array<TrainEvent.TrainEvent> = []
  return {
    rewind: (step) => Effect.sync(() => (events = upTo(events, step))),
    append: (event) => Effect.sync(() => void events.push(event))
  }
}

/**
 * One encoded event a line, and the same for TensorBoard. A file that cannot be read or written must not end hours of
 * training: it is logged.
 */
export const eventFile = (fs: FileSystem.FileSystem, file: string, board: TensorBoard.Writer): EventLog => {
  const warn = (error: { readonly message: string }) => Effect.logWarning(`${file}: ${error.message}`)
  return {
    rewind: (step) =>
      Effect.gen(function*() {
        const text = (yield* fs.exists(file)) ? yield* fs.readFileString(file) : ""
        const before = upTo(text.split("\n").flatMap(TrainEvent.fromJsonLine), step)
        // whoever is killed while writing must not lose what was there
        yield* Effect.try({
          try: () => AtomicFile.write(file, before.map(TrainEvent.toJsonLine).join("")),
          catch: (cause) => cause as Error
        })
        return before
      }).pipe(Effect.catchAll((error) => Effect.as(warn(error), []))),
    append: (event) =>
      fs.writeFileString(file, TrainEvent.toJsonLine(event), { flag: "a" }).pipe(
        Effect.catchAll(warn),
        Effect.zipRight(board.write(event))
      )
  }
}

/** What a training leaves besides its weights. */
export interface Training {
  /** `train`, and evaluated losses such as `repeated.off`. */
  readonly curves: ReadonlyArray<Omit<Curve, "arm">>
  /** Of this process, without evaluation and saving. */
  readonly seconds: number
}

/** Runs a trainer to its end. Events are kept before they are told. */
export const trainToEnd = (
  trainer: TrainerService,
  tokensPerStep: number,
  log: EventLog,
  onEvent: (event: TrainEvent.TrainEvent) => Effect.Effect<void>
): Effect.Effect<Training, TrainError> =>
  Effect.gen(function*() {
    const curves = new Map<string, Array<{ step: number; tokens: number; loss: number }>>()
    const addPoint = (name: string, step: number, loss: number) => {
      const points = curves.get(name) ?? []
      points.push({ step, tokens: step * tokensPerStep, loss })
      curves.set(name, points)
    }
    let seconds = 0
    const note = (event: TrainEvent.TrainEvent) => {
      if (event._tag === "Stepped") addPoint("train", event.step, event.loss)
      if (event._tag === "Evaluated") {
        for (const [name, loss] of Object.entries(event.losses)) addPoint(name, event.step, loss)
      }
      if (event._tag === "Finished") seconds = event.seconds
    }
    /** Events that come together are kept together, before anyone who listens can be interrupted. */
    const keep = (events: Iterable<TrainEvent.TrainEvent>) =>
      Effect.uninterruptible(Effect.forEach(events, (event) =>
        Effect.gen(function*() {
          // a resumed arm's curves begin where the arm did; what ran after its checkpoint runs again
          if (event._tag === "Started") (yield* log.rewind(event.step)).forEach(note)
          note(event)
          yield* log.append(event)
        }), { discard: true }))
    yield* trainer.run.pipe(
      Stream.chunks,
      Stream.tap((events) => Effect.zipRight(keep(events), Effect.forEach(events, onEvent, { discard: true }))),
      Stream.runDrain
    )
    return { curves: [...curves].map(([name, points]) => ({ name, points })), seconds }
  })
