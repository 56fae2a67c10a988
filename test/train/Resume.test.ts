import * as Either from "effect/Either"
import { describe, expect, it } from "vitest"
import { decodeState } from "../../src/train/Resume.ts"

describe("trainer_state.json", () => {
  const sound = {
    step: 3, cursor: { epoch: 0, batch: 3 }, steps: 10, config: {}, lossScale: [65536, 2, 0.27, 0.003, 1, 0], unsettled: true
  }
  it("is read as it was written, with fewer of the loss scale as earlier versions had it", () => {
    for (const state of [sound, { ...sound, lossScale: undefined }, { ...sound, lossScale: [65536, 2, 0.27, 0.003] }]) {
      expect(Either.getOrThrow(decodeState(state, 3))).toEqual(state)
    }
  })
  it("is refused where a number of it cannot be", () => {
    const wrong: ReadonlyArray<readonly [change: object, RegExp]> = [
      [{ step: -1 }, /step: /],
      [{ step: 1e300 }, /step: /],
      [{ step: 2.5 }, /step: /],
      [{ step: 4 }, /it is of step 4 of 10, the checkpoint of step 3/],
      [{ steps: 2 }, /it is of step 3 of 2/],
      [{ cursor: { epoch: -1, batch: 0 } }, /cursor\.epoch: /],
      [{ cursor: { epoch: 0, batch: 0.5 } }, /cursor\.batch: /],
      [{ lossScale: [0, 2, 0.27, 0.003, 1, 0] }, /lossScale: expected the state of a loss scale/],
      [{ lossScale: [65536, 2, 1.5, 0.003, 1, 0] }, /lossScale: expected the state of a loss scale/],
      [{ lossScale: [65536, NaN, 0.27, 0.003, 1, 0] }, /lossScale: expected the state of a loss scale/],
      [{ lossScale: [1, 1, 1, 1, 1, 1, 1] }, /lossScale: expected the state of a loss scale/],
      [{ lossScale: Array.from({ length: 10_000 }, () => 1) }, /lossScale: expected the state of a loss scale/],
      [{ inputs: [null] }, /inputs\.0: /]
    ]
    for (const [change, message] of wrong) {
      expect(Either.getOrThrow(Either.flip(decodeState({ ...sound, ...change }, 3)))).toMatch(message)
    }
    expect(Either.isLeft(decodeState(null, 3))).toBe(true)
  })
})
