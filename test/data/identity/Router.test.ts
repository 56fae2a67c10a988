import * as Effect from "effect/Effect"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { decodeRouter, encodeRouter, judgeRouter, makeRouter, readRouter, type Router, unitOf, vectorRouter,
  withoutSources, type WordRouter, writeRouter } from "../../../src/data/identity/Router.ts"
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

const bytesOf = (one: Router) => Buffer.concat(encodeRouter(one))
const wordsIn = (bytes: Uint8Array) =>
  Effect.map(decodeRouter(bytes, "r"), (read) => read as WordRouter).pipe(Effect.runPromise)

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
    const bytes = bytesOf(router)
    const read = await wordsIn(bytes)
    expect([read.sources, read.tokenizer]).toEqual([3, "t"])
    for (let i = 0; i < 10; i++) {
      const text = say(i % 4, 30)
      expect(read.nearest(text)).toEqual(router.nearest(text))
    }
    expect(bytesOf(read).equals(bytes)).toBe(true)
    expect(bytesOf(Effect.runSync(inTurns(makeRouter(corpus, idOf, options)))).equals(bytes)).toBe(true)
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
    const read = await wordsIn(bytesOf(less))
    expect(bytesOf(read).equals(bytesOf(less))).toBe(true)
    // a word of that source alone is now a word of nobody
    const unknown = router.arrays.rare.reduce((most, one) => Math.max(most, one))
    const own = Effect.runSync(inTurns(makeRouter(documentsOf([{ tokens: [105], source: "a" }]), idOf, options)))
    const place = own.arrays.places[0]!
    expect([router.arrays.rare[place]! < unknown, less.arrays.rare[place]]).toEqual([true, unknown])
    // twice is once, one after the other is both, and none is none
    expect(withoutSources(less, [10n])).toBe(less)
    expect(bytesOf(withoutSources(less, [9n])).equals(bytesOf(withoutSources(router, [9n, 10n])))).toBe(true)
    const none = withoutSources(router, [8n, 9n, 10n])
    expect((await wordsIn(bytesOf(none))).nearest(say(0, 40))).toBeUndefined()
  })

  it("is judged by documents that it has not seen, and no better than chance where sources say the same", () => {
    const judged = Effect.runSync(inTurns(judgeRouter(corpus, idOf, { ...options, length: 40 })))
    expect([judged.bySource.length, judged.passages]).toEqual([3, 3 * 3 * 4])
    expect(judged.right).toBeGreaterThan(30)
    const [worst] = judged.bySource
    expect(worst!.right / worst!.passages).toBeLessThanOrEqual(judged.right / judged.passages)
    const same = documentsOf(
      ["a", "b", "c"].flatMap((source) =>
        Array.from({ length: 40 }, () => ({ tokens: Array.from({ length: 160 }, () => draw.below(20)), source }))
      )
    )
    const chance = Effect.runSync(inTurns(judgeRouter(same, idOf, { ...options, length: 40 })))
    expect(chance.passages).toBe(60)
    expect(chance.right).toBeLessThan(35)
  })

  it("of vectors finds the nearest by cosine, is read as it was written, and forgets", async () => {
    const [a, b, c] = [unitOf([1, 0, 0.2]), [0, 30, 1], [-1, 0, 0]] as const
    const made = vectorRouter(BigUint64Array.of(7n, 2n, 5n), 3, (i) => [b, a, c][i]!)
    expect(Array.from(made.arrays.ids)).toEqual([2n, 5n, 7n])
    expect(made.nearest([2, 0, 0])).toMatchObject({ id: 2n })
    expect(made.nearest([2, 0, 0])!.similarity).toBeCloseTo(1 / Math.hypot(1, 0.2), 2)
    expect(made.nearest(a)!.similarity).toBeCloseTo(1, 5)
    expect(made.nearest([0, 1, 0], { denied: (id) => id === 7n })).toBeUndefined()
    expect(made.nearest([-1, -1, 0])).toMatchObject({ id: 5n })
    expect(made.nearest([-1, -1, 0], { least: 0.8 })).toBeUndefined()
    expect(made.nearest([0, 0, 0])).toBeUndefined()
    const file = join(mkdtempSync(join(tmpdir(), "memsinks-router-")), "router.bin")
    Effect.runSync(writeRouter(file, made))
    const read = Effect.runSync(readRouter(file))
    expect(bytesOf(read).equals(bytesOf(made))).toBe(true)
    expect(bytesOf(read).equals(readFileSync(file))).toBe(true)
    expect(read).toMatchObject({ kind: "vectors", sources: 3, width: 3 })
    const less = withoutSources(made, [2n])
    expect([Array.from(less.arrays.ids), less.nearest([2, 0, 0])]).toEqual([[5n, 7n], undefined])
    expect(bytesOf(less).equals(bytesOf(vectorRouter(BigUint64Array.of(7n, 5n), 3, (i) => [b, c][i]!)))).toBe(
      true
    )
    writeFileSync(file, bytesOf(made).subarray(0, 60))
    expect(Effect.runSync(Effect.flip(readRouter(file))).message).toContain("3 sources of vectors of 3 have")
    expect(Effect.runSync(Effect.flip(readRouter(`${file}.none`))).message).toContain("no such file")
    const turned = bytesOf(made)
    turned.writeBigUInt64LE(9n, turned.indexOf(10, 8) + 1)
    expect(Effect.runSync(Effect.flip(decodeRouter(turned, "r"))).message).toContain("its ids do not rise")
  })
})
