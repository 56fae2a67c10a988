/** Computing for long on the host, while signals, progress and other work have their turns. */
import * as Effect from "effect/Effect"
import { SyncScheduler } from "effect/Scheduler"
import { clearImmediate, setImmediate } from "node:timers"

/** Milliseconds between two turns of the event loop: soon enough for Ctrl-C. */
const TURN = 50

/** Gives the event loop a turn; whoever runs it synchronously has none to give. */
const pause: Effect.Effect<void> = Effect.withFiberRuntime((fiber) =>
  fiber.currentScheduler instanceof SyncScheduler
    ? Effect.void
    : Effect.async<void>((resume) => {
      const immediate = setImmediate(() => resume(Effect.void))
      return Effect.sync(() => clearImmediate(immediate))
    })
)

/** Runs what yields now and then, a millisecond or so apart, to its end; every 50 ms the event loop has a turn. */
export const inTurns = <A>(work: Generator<void, A>): Effect.Effect<A> =>
  Effect.gen(function*() {
    for (;;) {
      const until = performance.now() + TURN
      do {
        const step = work.next()
        if (step.done === true) return step.value
      } while (performance.now() < until)
      yield* pause
    }
  })

/** The same at once, without turns: for what is short. */
export const atOnce = <A>(work: Generator<void, A>): A => {
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
  }
}
