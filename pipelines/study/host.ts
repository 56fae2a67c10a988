/** Computing on the host for long, while signals, progress and other jobs have their turns. */
import * as Effect from "effect/Effect"
import { inTurns } from "../../src/Turns.ts"

/**
 * Computes on the host: a generator that yields wherever it may be interrupted. What it throws is a defect, but for typed
 * errors made with `yield*` of effects around it.
 */
export const onHost = <A>(compute: () => Generator<void, A, void>): Effect.Effect<A> =>
  Effect.suspend(() => inTurns(compute()))

/** The same at once, for what is short. */
export const atOnce = <A>(going: Generator<void, A, void>): A => {
  for (;;) {
    const { done, value } = going.next()
    if (done === true) return value
  }
}
