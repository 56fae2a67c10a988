import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { expect, it } from "vitest"
import { makeRouter } from "../../src/data/identity/Router.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { type Among, searchOf } from "../../src/serve/Search.ts"
import { denyList, litBy, seekerOf } from "../../src/serve/State.ts"
import { inTurns } from "../../src/Turns.ts"
import { makeRandom } from "../reference/random.ts"
import { config, exodus, genesis, names, psalms } from "./toy.ts"

/** Texts of sources that have most tokens in common and order them in their own ways. */
const random = makeRandom(8)
const habits = [genesis, exodus, psalms].map(() => Array.from({ length: 40 }, () => random.int(40)))
const textOf = (source: number, length: number): Array<number> => {
  const tokens = [random.int(40)]
  while (tokens.length < length) {
    tokens.push(random.int(3) === 0 ? random.int(40) : habits[source]![tokens.at(-1)!]!)
  }
  return tokens
}
const ids = [genesis, exodus, psalms]
const corpus = documentsOf(ids.map((_, s) => ({ tokens: textOf(s, 2000), source: `${s}` })))
const words = Effect.runSync(inTurns(makeRouter(corpus, (name) => ids[Number(name)], { tokenizer: "toy" })))
const seek = seekerOf(
  searchOf(words),
  (id) => `${ids.indexOf(id)}`
)

const none: ReadonlySet<bigint> = new Set()
const router = (tokens: ReadonlyArray<number>, among: Among) => Effect.runSync(seek([{ tokens }], among))[0]

it("finds the source of a text that it has not seen, and never one that is left out", () => {
  let right = 0
  for (let i = 0; i < 60; i++) {
    const passage = textOf(i % 3, 30)
    const found = router(passage, { without: none })!
    if (found.id === ids[i % 3]) right++
    expect(found.similarity).toBeGreaterThan(0)
    expect(found.similarity).toBeLessThanOrEqual(1)
    const other = router(passage, { without: new Set([found.id]) })!
    expect(other.id).not.toBe(found.id)
    expect(other.similarity).toBeLessThanOrEqual(found.similarity)
  }
  expect(right).toBeGreaterThan(57)
  // a text of words that no source has is of nobody, and so is one while all are left out
  expect(router([100, 101, 102], { without: none })).toBeUndefined()
  expect(router(textOf(0, 30), { only: none, without: none })).toBeUndefined()
})

it("is what `nearest` lights, the deny-lists of server and request before it", async () => {
  const denied = denyList(config.sinks)
  const states = { name: "toy", names: await Effect.runPromise(names), denied, router: seek }
  const passage = textOf(0, 40)
  const lit = async (model: string | undefined, field?: Parameters<typeof litBy>[2]) => {
    const found = await Effect.runPromise(Effect.either(
      Effect.flatMap(litBy(states, model, field), (light) => light([{ tokens: passage }]))
    ))
    return Either.isRight(found) ? found.right[0] : found.left
  }
  expect(await lit("toy:nearest")).toMatchObject({ state: "own", id: genesis, source: "0" })
  expect(await lit(undefined, { route: "nearest", deny: ["Genesis"] })).toMatchObject({ state: "own" })
  expect(await lit(undefined, { route: "nearest", deny: ["Genesis"] })).not.toMatchObject({ id: genesis })

  expect(await lit(undefined, { route: "nearest", allow: ["Exodus"] })).not.toMatchObject({ id: genesis })
  expect(await lit("toy:nearest", { allow: ["Genesis", "Exodus"] })).toMatchObject({ id: genesis })
  expect(await lit("toy:off", { route: "nearest" })).toMatchObject({ status: 400 })
  const deny = async (deny: ReadonlyArray<bigint>) =>
    (await Effect.runPromise(denied.change("admin", { deny, exclude: [] })))()
  await deny([genesis])
  expect(await lit("toy:nearest")).not.toMatchObject({ id: genesis })
  await deny(ids)
  expect(await lit("toy:nearest")).toMatchObject({ state: "off" })
})
