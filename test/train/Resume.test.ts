import * as Effect from "effect/Effect"
import { expect, it } from "vitest"
import { decodeNames, encodeNames } from "../../src/data/identity/Names.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { contentsOf, mayChange } from "../../src/train/Resume.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"

it("every field that a resumed run may change is one of a training's, named once, with a reason", () => {
  const fields = mayChange.map(({ field }) => field)
  expect(new Set(fields).size).toBe(fields.length)
  for (const field of fields) expect(Object.keys(TrainConfig.fields)).toContain(field.replace(/^training\./, ""))
  for (const decides of ["optimizer", "routing", "gradientAccumulation"]) {
    expect(fields).not.toContain(`training.${decides}`)
  }
  expect(mayChange.filter(({ to }) => to === "more").map(({ field }) => field)).toEqual(["training.steps"])
  for (const { why } of mayChange) expect(why).toMatch(/^\S.+\S$/)
})

it("names of the model that training started from are kept, where their ids mean the same in other data", async () => {
  const of = (...ids: ReadonlyArray<number>) =>
    ids.map((id) => ({ id: BigInt(id), name: `${ids.length} ${id}`, documents: 1, tokens: 2 }))
  const kept = (identity: "source" | "row") =>
    Effect.gen(function*() {
      const sinks = new SinkConfig({ pool: 64, active: 16, denied: ["2"] })
      const before = yield* decodeNames(encodeNames({ identity, ids: of(1, 2, 3) }), "before")
      const run = { data: { inputs: Effect.succeed([]), names: Effect.succeed({ identity, ids: of(3, 4) }) },
        model: { config: { sinks } } } as unknown as Parameters<typeof contentsOf>[0]
      const { names } = yield* contentsOf(run, before)
      return yield* (yield* decodeNames(names!.encode(), "after")).largest(9)
    })
  const [sources, rows] = await Effect.runPromise(Effect.all([kept("source"), kept("row")]))
  expect(sources.map(({ name }) => name).sort()).toEqual(["2 3", "2 4", "3 1", "3 2"])
  // what this data holds has not been trained on yet; how often the others were nobody counted
  expect(sources.map(({ exposures, id }) => [id, exposures]).sort()).toEqual([[1n, undefined], [2n, undefined], [3n, 0],
    [4n, 0]])
  for (const { sharedSinks, sinks } of sources) expect([sinks, sharedSinks! <= 1]).toEqual([1, true])
  expect(rows.map(({ name }) => name).sort()).toEqual(["2 3", "2 4"])
})
