/** The nearest sources by the device are those by the host, whatever may be found and however they lie in buffers. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { makeRouter, type Router, vectorRouter } from "../../src/data/identity/Router.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import * as NodeDevice from "../../src/node.ts"
import { searchOf, searchOnDevice } from "../../src/serve/Search.ts"
import { inTurns } from "../../src/Turns.ts"
import { makeRandom } from "../reference/random.ts"

const random = makeRandom(4)
const none: ReadonlySet<bigint> = new Set()

/** Ids in no order, some beyond what a number holds. */
const idOf = (source: number): bigint => BigInt((source * 37) % 101) << (source % 2 === 0 ? 57n : 3n)

layer(NodeDevice.layer())("searching on the device", (it) => {
  const compare = (router: Router, queries: ReadonlyArray<ArrayLike<number>>) =>
    Effect.gen(function*() {
      const host = searchOf(router)
      const ids = Array.from(router.arrays.ids)
      const some = new Set(ids.filter((_, i) => i % 3 === 0))
      for (const most of [64, 4096]) {
        const device = yield* searchOnDevice(router, most)
        for (const among of [
          { without: none },
          { without: some },
          { only: some, without: none },
          { only: some, without: new Set(ids.slice(0, 40)) },
          { only: none, without: none },
          { without: new Set([...ids, 123_456n]) }
        ]) {
          expect(yield* device(queries, among, 0)).toEqual(yield* host(queries, among, 0))
        }
        const [found] = yield* host(queries.slice(0, 1), { without: none }, 0)
        const least = found!.similarity
        expect(yield* device(queries, { without: none }, least)).toEqual(yield* host(queries, { without: none }, least))
        // two who ask at once
        const [a, b] = yield* Effect.all(
          [device(queries, { without: none }, 0), device(queries.slice(2, 4), { without: some }, 0)],
          { concurrency: 2 }
        )
        expect([a, b]).toEqual([
          yield* host(queries, { without: none }, 0),
          yield* host(queries.slice(2, 4), { without: some }, 0)
        ])
      }
    })

  it.scoped("by vectors", () =>
    Effect.gen(function*() {
      const rows = Array.from({ length: 101 }, () => random.normals(37))
      // equal ones: the lowest id is found
      rows[9] = rows[70]!
      const router = vectorRouter(BigUint64Array.from(rows, (_, i) => idOf(i)), 37, (i) => rows[i]!)
      yield* compare(router, [rows[9]!, ...Array.from({ length: 10 }, () => random.normals(37)), new Float32Array(37)])
    }))

  it.scoped("by words", () =>
    Effect.gen(function*() {
      const say = (source: number) =>
        Array.from({ length: 60 }, () => random.int(random.int(3) === 0 ? 30 + source : 30))
      const corpus = documentsOf(Array.from({ length: 101 }, (_, s) => ({ tokens: say(s), source: `${s}` })))
      const router = Effect.runSync(
        inTurns(makeRouter(corpus, (name) => idOf(Number(name)), { tokenizer: "t", features: 30 }))
      )
      yield* compare(router, [...Array.from({ length: 8 }, (_, i) => say(9 * i)), [5000], []])
      const empty = yield* searchOnDevice(vectorRouter(new BigUint64Array(0), 3, () => []))
      expect(yield* empty([[1, 2, 3]], { without: none }, 0)).toEqual([undefined])
    }))
})
