/**
 * Training an arm to its end while its events are kept, so that a resumed arm's curves begin where the arm did.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as AtomicFile from "../src/AtomicFile.ts"
import { because } from "../src/Errors.ts"
import { appendLine, readEvents } from "../src/runs/EventLog.ts"
import type * as TensorBoard from "../src/runs/TensorBoard.ts"
import type { TrainError, TrainerService } from "../src/train/Trainer.ts"
import * as TrainEvent from "../src/train/TrainEvent.ts"
import type { Curve } from "./pretrain/Report.ts"

/** An arm's events, kept beside its checkpoints. */
export interface EventLog {
  /** Forget what came after a step, and return what came before. */
  readonly rewind: (step: number) => Effect.Effect<ReadonlyArray<TrainEvent.TrainEvent>>
  readonly append: (event: TrainEvent.TrainEvent) => Effect.Effect<void>
}

/** What a run that goes on from a step keeps. Whatever else was told of the step is told again. */
const upTo = (events: ReadonlyArray<TrainEvent.TrainEvent>, step: number) =>
  step === 0 ? [] : events.filter((event) =>
    event.step < step || (event.step === step && event._tag !== "Finished" && event._tag !== "Started"))

export const eventsInMemory = (): EventLog => {
  let events: Array<TrainEvent.TrainEvent> = []
  return {
    rewind: (step) => Effect.sync(() => (events = upTo(events, step))),
    append: (event) => Effect.sync(() => void events.push(event))
  }
}

/**
 * One encoded event a line, and the same for TensorBoard. A file that cannot be read or written must not end hours of
 * training: it is logged once, and again when it is another reason.
 */
export const eventFile = (file: string, board: TensorBoard.Writer): EventLog => {
  let said = ""
  const warn = (problem: string) =>
    Effect.suspend(() => said === problem ? Effect.void : Effect.logWarning(`${file}: ${said = problem}`))
  return {
    rewind: (step) =>
      Effect.try(() => {
        const { events, torn } = readEvents(file)
        const before = upTo(events, step)
        AtomicFile.write(file, before.map(TrainEvent.toJsonLine).join(""))
        return { before, torn }
      }).pipe(
        Effect.tap(({ torn }) => torn === 0 ? Effect.void : warn(`${torn === 1 ? "a line is" : `${torn} lines are`} damaged and left out`)),
        Effect.map(({ before }) => before),
        Effect.catchAll(({ cause }) => Effect.as(warn(because(cause)), []))
      ),
    append: (event) =>
      Effect.try(() => appendLine(file, TrainEvent.toJsonLine(event))).pipe(
        Effect.catchAll(({ cause }) => warn(`an event is lost: ${because(cause)}`)),
        Effect.zipRight(board.write(event))
      )
  }
}

/** What a training leaves besides its weights. */
export interface Training {
  /** `train`, and evaluated losses such as `repeated.off`. */
  readonly curves: ReadonlyArray<Omit<Curve, "arm">>
  /** Of all processes that took part, without evaluation and saving; 0 where nothing tells. */
  readonly seconds: number
}

/** Seconds that the steps up to one took, as their events tell; undefined where none does. */
const secondsUntil = (events: ReadonlyArray<TrainEvent.TrainEvent>, step: number): number | undefined => {
  if (step === 0) return 0
  const last = events.findLast((event) => event._tag === "Stepped")
  if (last === undefined) return undefined
  const seconds = last.seconds ?? last.tokens / last.tokensPerSecond
  // the steps of a window that was cut short are not told
  return Number.isFinite(seconds) && last.step > 0 ? seconds * step / last.step : undefined
}

/** Runs a trainer to its end. Events are kept before they are told: each once, in the order of their steps. */
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
    /** Where this process began, and the seconds until then. */
    let first = 0
    let earlier: number | undefined = 0
    /** The step of the last checkpoint that was told of. */
    let saved = -1
    const note = (event: TrainEvent.TrainEvent) => {
      if (event._tag === "Stepped") addPoint("train", event.step, event.loss)
      if (event._tag === "Evaluated") {
        for (const [name, loss] of Object.entries(event.losses)) addPoint(name, event.step, loss)
      }
      if (event._tag === "Saved") saved = event.step
    }
    /** With the time of the whole run. */
    const total = (own: number, step: number): number => {
      // of what was lost the speed of this process is the best guess
      const before = earlier ?? (step > first ? own * first / (step - first) : 0)
      return before + own
    }
    const withTotal = (event: TrainEvent.TrainEvent): TrainEvent.TrainEvent => {
      if (event._tag === "Stepped" && event.seconds !== undefined) {
        return new TrainEvent.Stepped({ ...event, seconds: total(event.seconds, event.step) })
      }
      if (event._tag !== "Finished") return event
      seconds = total(event.seconds, event.step)
      const tokensPerSecond = seconds > 0 ? event.step * tokensPerStep / seconds : 0
      return new TrainEvent.Finished({ ...event, seconds, tokensPerSecond })
    }
    const append = (event: TrainEvent.TrainEvent) => {
      if (event._tag === "Saved" && event.step === saved) return Effect.void
      note(event)
      return log.append(event)
    }
    /** Events that come together are kept together, before anyone who listens can be interrupted. */
    const keep = (events: ReadonlyArray<TrainEvent.TrainEvent>) =>
      Effect.uninterruptible(Effect.forEach(events, (event) =>
        Effect.gen(function*() {
          // a resumed arm's curves begin where the arm did; what ran after its checkpoint runs again
          if (event._tag === "Started") {
            const before = yield* log.rewind(event.step)
            before.forEach(note)
            first = event.step
            earlier = secondsUntil(before, first)
            // a process may have been killed when a checkpoint was complete and not told of yet
            if (event.from !== undefined && saved !== first) {
              yield* append(new TrainEvent.Saved({ step: first, path: event.from }))
            }
          }
          yield* append(event)
        }), { discard: true }))
    yield* trainer.run.pipe(
      Stream.chunks,
      Stream.map((events) => Array.from(events, withTotal)),
      Stream.tap((events) => Effect.zipRight(keep(events), Effect.forEach(events, onEvent, { discard: true }))),
      Stream.runDrain,
      // before it is told that the run was interrupted
      Effect.ensuring(Effect.flatMap(trainer.untold, (events) => keep(events.map(withTotal))))
    )
    return { curves: [...curves].map(([name, points]) => ({ name, points })), seconds }
  })
