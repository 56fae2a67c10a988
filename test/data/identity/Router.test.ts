import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { decodeRouter, judgeRouter, makeRouter, withoutSources } from "../../../src/data/identity/Router.ts"
import { documentsOf } from "../../../src/data/Pieces.ts"
import { random } from "../../../src/Random.ts"
import { inTurns } from "../../../src/Turns.ts"

const draw = random(1, "router")
/** Text of a source: most tokens are everybody's, some its own. */
const say = (source: number, length: number): Array<number> =>
  Array.from({ length }, () => draw.below(3) > 0 ? draw.below(20) : 100 + 10 * source + draw.below(10))
const names = ["a", "b", "c", "d"]
const idOf = (name: string) => name === "d" ? undefined : BigInt(10 - names.indexOf(name))
const corpus = documentsOf(
  names.flatMap((source, s) => Array.from({ length: 24 }, () => ({ tokens: say(s, 160), source })))
)
const options = { tokenizer: "t" }
const router = Effect.runSync(inTurns(makeRouter(corpus, idOf, options)))

describe("a router", () => {
  it("finds whose a text is, never one that is denied or has no id, and none where nothing is shared", () => {
    const right = Array.from({ length: 60 }, (_, i) => router.nearest(say(i % 3, 40))?.id === idOf(names[i % 3]!))
    expect(right.filter(Boolean).length).toBeGreaterThan(54)
    for (let i = 0; i < 20; i++) expect(router.nearest(say(0, 40), { denied: (id) => id === 10n })?.id).not.toBe(10n)
    expect(router.nearest(say(3, 40))!.similarity).toBeLessThan(router.nearest(say(1, 40))!.similarity)
    expect(router.nearest([5000, 5001])).toBeUndefined()
    expect(router.nearest([])).toBeUndefined()
    expect(router.nearest(say(0, 40), { least: 1.1 })).toBeUndefined()
    expect(router.nearest(say(0, 40), { denied: () => true })).toBeUndefined()
  })

  it("gives the cosine of what was kept, by hand", () => {
    // one token a source and document: a feature each, which one of two sources has: rare as ln(3 / 2) + 1
    const two = documentsOf([{ tokens: [1], source: "a" }, { tokens: [2], source: "b" }])
    const made = Effect.runSync(inTurns(makeRouter(two, idOf, options)))
    expect(made.nearest([1])!.id).toBe(10n)
    expect(made.nearest([1])!.similarity).toBeCloseTo(1, 6)
    // tokens 1 and 2 and a pair that nobody has, ln 3 + 1
    const [known, unknown] = [Math.log(1.5) + 1, Math.log(3) + 1]
    const both = made.nearest([2, 1])!
    expect(both.similarity).toBeCloseTo(known / Math.hypot(known, known, unknown), 6)
    // equal: the lowest id
    expect(both.id).toBe(9n)
  })

  it("is the same after it was written and read, and the same for the same corpus", async () => {
    const bytes = Buffer.concat(router.encode())
    const read = await Effect.runPromise(decodeRouter(bytes, "r"))
    expect([read.sources, read.tokenizer]).toEqual([3, "t"])
    for (let i = 0; i < 10; i++) {
      const text = say(i % 4, 30)
      expect(read.nearest(text)).toEqual(router.nearest(text))
    }
    expect(Buffer.concat(read.encode()).equals(bytes)).toBe(true)
    expect(Buffer.concat(Effect.runSync(inTurns(makeRouter(corpus, idOf, options))).encode()).equals(bytes)).toBe(true)
    const refused = (some: Uint8Array) => Effect.runSync(Effect.flip(decodeRouter(some, "r"))).message
    expect(refused(bytes.subarray(1))).toContain("r: is no router of memsinks: it begins otherwise")
    expect(refused(bytes.subarray(0, bytes.length - 1))).toContain("bytes where 3 sources of 8192 features have")
    expect(refused(Buffer.from("MSRTR1\n{}\n"))).toContain("is no router")
    expect(refused(new Uint8Array())).toContain("begins otherwise")
    const far = Buffer.from(bytes)
    far.fill(255, bytes.length - 3 * 8192 * 5, bytes.length - 3 * 8192)
    expect(refused(far)).toContain("of 1048576 places")
  })

  it("forgets a source: its features and how rare its words are, and chooses among the others as before", async () => {
    const less = withoutSources(router, [10n, 77n])
    expect(less.sources).toBe(2)
    expect(Array.from(less.arrays.ids)).toEqual([8n, 9n])
    for (let i = 0; i < 30; i++) {
      const text = say(i % 3, 40)
      expect(less.nearest(text)?.id).toBe(router.nearest(text, { denied: (id) => id === 10n })?.id)
    }
    const read = await Effect.runPromise(decodeRouter(Buffer.concat(less.encode()), "r"))
    expect(Buffer.concat(read.encode()).equals(Buffer.concat(less.encode()))).toBe(true)
    // a word of that source alone is now a word of nobody
    const unknown = router.arrays.rare.reduce((most, one) => Math.max(most, one))
    const own = Effect.runSync(inTurns(makeRouter(documentsOf([{ tokens: [105], source: "a" }]), idOf, options)))
    const place = own.arrays.places[0]!
    expect([router.arrays.rare[place]! < unknown, less.arrays.rare[place]]).toEqual([true, unknown])
    // twice is once, one after the other is both, and none is none
    expect(withoutSources(less, [10n])).toBe(less)
    const bytesOf = (one: typeof router) => Buffer.concat(one.encode())
    expect(bytesOf(withoutSources(less, [9n])).equals(bytesOf(withoutSources(router, [9n, 10n])))).toBe(true)
    const none = withoutSources(router, [8n, 9n, 10n])
    expect((await Effect.runPromise(decodeRouter(bytesOf(none), "r"))).nearest(say(0, 40))).toBeUndefined()
  })

  it("is judged by documents that it has not seen, and no better than chance where sources say the same", () => {
    const judged = Effect.runSync(inTurns(judgeRouter(corpus, idOf, { ...options, length: 40 })))
    expect([judged.sources, judged.passages]).toEqual([3, 3 * 3 * 4])
    expect(judged.right).toBeGreaterThan(30)
    expect(judged.worst!.right / judged.worst!.passages).toBeLessThanOrEqual(judged.right / judged.passages)
    const same = documentsOf(
      ["a", "b", "c"].flatMap((source) =>
        Array.from({ length: 40 }, () => ({ tokens: Array.from({ length: 160 }, () => draw.below(20)), source }))
      )
    )
    const chance = Effect.runSync(inTurns(judgeRouter(same, idOf, { ...options, length: 40 })))
    expect(chance.passages).toBe(60)
    expect(chance.right).toBeLessThan(35)
  })
})
