/**
 * How Dawn's promises are waited for. The npm package `webgpu` asks Dawn for news in a loop of `setImmediate` for as
 * long as any promise of a GPU is open. On a CPU adapter that takes a core from the work that is waited for, and on
 * Deno each turn is dear besides: there the loop was most of a training's time.
 */

type Schedule = (callback: () => void) => unknown

const scope = globalThis as unknown as { setImmediate: Schedule }

/** Milliseconds for which a wait asks again at once, as it did before: what a GPU answers soon is not kept waiting. */
const EAGER = 0.5

/** Milliseconds between two questions after that: the least that a timer can be set to. */
const PAUSE = 1

const within = <A>(schedule: Schedule, body: () => A): A => {
  const before = scope.setImmediate
  scope.setImmediate = schedule
  try {
    return body()
  } finally {
    scope.setImmediate = before
  }
}

/**
 * Call something of the GPU's that returns a promise. If this call begins Dawn's loop, the loop asks ever again at
 * first and then once a millisecond. Dawn takes `setImmediate` from the global scope, within the call itself and within
 * each turn of its loop; it stands replaced there only while one of these runs, so that nobody else sees it.
 */
export const polled = <A>(call: () => Promise<A>): Promise<A> => {
  const began = performance.now()
  const soon = scope.setImmediate
  const schedule: Schedule = (turn) => {
    const next = () => within(schedule, turn)
    return performance.now() - began < EAGER ? soon(next) : setTimeout(next, PAUSE)
  }
  return within(schedule, call)
}
