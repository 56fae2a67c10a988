/** Computing on the host for long, while signals, progress and other jobs have their turns. */
import * as Effect from "effect/Effect"

/** Milliseconds between two turns of the event loop: soon enough for Ctrl-C. */
const TURN = 50

/**
 * Computes on the host: a generator that yields wherever it may be interrupted, a millisecond or so apart; every 50 ms the
 * event loop has a turn, so that signals are heard. What it throws is a defect, but for typed errors made with `yield*` of
 * effects around it.
 */
export const onHost = <A>(compute: () => Generator<void, A, void>): Effect.Effect<A> =>
  Effect.suspend(() => {
    const going = compute()
    const go: Effect.Effect<A> = Effect.suspend(() => {
      const began = performance.now()
      for (;;) {
        const { done, value } = going.next()
        if (done === true) return Effect.succeed(value)
        // of a timer: effects that yield go on before anything else is heard
        if (performance.now() - began > TURN) return Effect.zipRight(Effect.sleep(0), go)
      }
    })
    return go
  })

/** The same at once, for what is short. */
export const atOnce = <A>(going: Generator<void, A, void>): A => {
  for (;;) {
    const { done, value } = going.next()
    if (done === true) return value
  }
}
