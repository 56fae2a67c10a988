/** What isolation experiments train on and are scored on: splits that share nothing, the same in every arm. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import type { StreamOverrides } from "../../../pipelines/experiment/Arms.ts"
import { checkDisjoint, decodeWorld, firstSeed, makeWorld, type Splits, textWorld,
  type World } from "../../../pipelines/isolation/World.ts"
import { type Batch, IGNORE } from "../../../src/Batch.ts"
import { DataStream, type Row } from "../../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../../src/data/stream/Overlap.ts"
import { makeRecords } from "../../../src/measures/TokenRecords.ts"
import type { ModelService } from "../../../src/model/Model.ts"
import { recordRows } from "../../../src/scoring/Record.ts"
import { makeRandomText } from "../../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-world-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

/** Documents of 17 characters; every one has a twin that ends in another letter. */
const twins = (() => {
  const text = makeRandomText(3)
  const file = join(root, "twins.jsonl")
  const lines = Array.from({ length: 60 }, () => text(16)).flatMap((start) => [`${start}A`, `${start}B`])
  writeFileSync(file, lines.map((text) => `${JSON.stringify({ text })}\n`).join(""))
  return file
})()

const twinsData = {
  data: twins,
  tokenizer: "bytes",
  seqLen: 16,
  batchSize: 4,
  singleSequences: 60,
  heldOutSequences: 36,
  repeat: [{ sequences: 9, times: 3 }, { sequences: 8, times: 6 }, { sequences: 1, times: 4 }],
  canaries: [
    { random: 2, times: 2 },
    { random: 1, times: 5, length: 9 },
    { random: 1, times: 2 },
    { random: 1, times: 5, length: 9 },
    { text: "known to all", times: 2 }
  ]
}
const inputs = {
  text: { world: "text", data: twinsData },
  twoDomains: { world: "twoDomains", common: 30, rare: 7, repeats: 4, heldOut: 9, length: 17, batchSize: 5 },
  modular: { world: "modular", modulus: 13, repeats: 3, heldOut: 40, batchSize: 8 }
}
type Kind = keyof typeof inputs

const run = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext | Scope.Scope>): Promise<A> =>
  Effect.runPromise(Effect.scoped(effect).pipe(Effect.provide(NodeContext.layer)))

const made = (input: unknown, seed = 7) => Effect.flatMap(decodeWorld(input), (config) => makeWorld(config, seed))

/** The stream of an arm, and its batches of an epoch. */
const streamed = (world: World, overrides?: StreamOverrides, epoch = 0) =>
  Effect.gen(function*() {
    const data = yield* DataStream
    const batches = yield* data.batches({ epoch, batch: 0 }).pipe(
      Stream.take(data.batchesPerEpoch),
      Stream.map(({ batch }) => batch),
      Stream.runCollect
    )
    return { data, batches: Chunk.toReadonlyArray(batches) }
  }).pipe(Effect.provide(world.stream(overrides)))

/** How often each sequence is read, by id and by tokens. */
const readings = (batches: ReadonlyArray<Batch>) => {
  const [byId, byText] = [new Map<bigint, number>(), new Map<string, number>()]
  for (const { documentStart, ids, targets, tokens } of batches) {
    for (let from = 0, to = 0; from < tokens.length; from = to) {
      while (to < tokens.length && documentStart[to] === from) to++
      // rows that only fill a batch up
      if (targets.subarray(from, to).every((target) => target === IGNORE)) continue
      const last = targets.subarray(from, to).findLast((target) => target !== IGNORE)
      const text = [...tokens.subarray(from, to), last].join()
      byId.set(ids[from]!, (byId.get(ids[from]!) ?? 0) + 1)
      byText.set(text, (byText.get(text) ?? 0) + 1)
    }
  }
  return { byId, byText }
}

const splitsOf = (splits: Splits): ReadonlyArray<readonly [name: keyof Splits, rows: ReadonlyArray<Row>]> =>
  (Object.entries(splits) as ReadonlyArray<[keyof Splits, ReadonlyArray<Row> | undefined]>)
    .map(([name, rows]) => [name, rows ?? []])

/** Share of the 13-grams of `a` that `b` has, by comparing all with all. */
const overlap = (a: Row, b: Row): number => {
  const n = Math.min(13, a.tokens.length)
  const grams = (row: Row) =>
    new Set(
      Array.from({ length: Math.max(0, row.tokens.length - n + 1) }, (_, t) => row.tokens.slice(t, t + n).join("-"))
    )
  const [own, other] = [grams(a), grams(b)]
  return [...own].filter((gram) => other.has(gram)).length / own.size
}

const TRAINED = ["seen", "scored", "canarySeen", "canaryScored", "retained"] as const
const UNTRAINED = ["canaryOthers", "validation", "heldOut", "other"] as const

describe.each(Object.keys(inputs) as ReadonlyArray<Kind>)("the world %s", (kind) => {
  it("has splits that share no id and no text", () =>
    run(Effect.gen(function*() {
      const { splits } = yield* made(inputs[kind])
      const all = splitsOf(splits)
      const ids = all.flatMap(([, rows]) => rows.map(({ id }) => id))
      expect(new Set(ids).size).toBe(ids.length)
      for (const [name, rows] of all) {
        for (const [other, others] of all) {
          if (name === other) continue
          const near = rows.some((a) => others.some((b) => overlap(a, b) >= 0.8))
          expect(near, `${name} and ${other}`).toBe(false)
          yield* checkDisjoint(rows, others)
        }
      }
    })))

  it("has the same sequences with the same ids in every arm, as often as the arm says", () =>
    run(Effect.gen(function*() {
      const world = yield* made(inputs[kind])
      const { repeatsOf, splits } = world
      for (const [arm, of] of [
        ["repeats", (times: number) => times],
        ["deduplicated", () => 1],
        ["neverRepeated", () => 0]
      ] as const) {
        const { batches, data } = yield* streamed(world, { arm })
        expect([data.tokenizer.vocabSize, data.seqLen]).toEqual([world.tokenizer.vocabSize, world.seqLen])
        const { byId, byText } = readings(batches)
        for (const [name, rows] of splitsOf(splits)) {
          for (const row of rows) {
            const times = repeatsOf(row)
            expect(times > 0).toBe((TRAINED as ReadonlyArray<string>).includes(name))
            const expected = name === "retained" ? times : times === 0 ? 0 : of(times)
            expect(byId.get(row.id) ?? 0, `${arm} ${name}`).toBe(expected)
            const padded = new Uint32Array(world.seqLen)
            padded.set(row.tokens.subarray(0, -1))
            expect(byText.get([...padded, row.tokens.at(-1)].join()) ?? 0, `${arm} ${name}`).toBe(expected)
          }
        }
      }
      expect(UNTRAINED.some((name) => (splits[name] ?? []).length > 0)).toBe(true)
    })))

  it("halves the repeated sequences so that both have every number of exposures", () =>
    run(Effect.gen(function*() {
      const { repeatsOf, splits } = yield* made(inputs[kind])
      for (const [one, other] of [["seen", "scored"], ["canarySeen", "canaryScored"]] as const) {
        const counts = (rows: ReadonlyArray<Row>) => {
          const map = new Map<number, number>()
          for (const row of rows) map.set(repeatsOf(row), (map.get(repeatsOf(row)) ?? 0) + 1)
          return map
        }
        const [a, b] = [counts(splits[one]), counts(splits[other])]
        for (const times of [...a.keys(), ...b.keys()]) {
          expect(Math.abs((a.get(times) ?? 0) - (b.get(times) ?? 0)), `${times} exposures`).toBeLessThanOrEqual(1)
        }
      }
      expect(splits.scored.length).toBeGreaterThan(1)
      expect(Math.abs(splits.validation.length - splits.heldOut.length)).toBeLessThanOrEqual(1)
    })))

  it("depends on the seed, and on nothing else", () =>
    run(Effect.gen(function*() {
      const tokens = ({ splits }: World) =>
        splitsOf(splits).map(([, rows]) => rows.map(({ id, tokens }) => [id, tokens]))
      const [a, b, c] = [yield* made(inputs[kind], 7), yield* made(inputs[kind], 7), yield* made(inputs[kind], 8)]
      expect(tokens(b)).toEqual(tokens(a))
      expect(tokens(c)).not.toEqual(tokens(a))
      const batches = (world: World) => Effect.map(streamed(world), ({ batches }) => batches)
      expect(yield* batches(b)).toEqual(yield* batches(a))
      // the order, too
      expect((yield* batches(c)).map(({ ids }) => ids)).not.toEqual((yield* batches(a)).map(({ ids }) => ids))
    })))

  it("lets arms change ids and targets", () =>
    run(Effect.gen(function*() {
      const world = yield* made(inputs[kind])
      const plain = (yield* streamed(world)).data.report
      const noisy = readings((yield* streamed(world, { idNoise: 1 })).batches).byId
      for (const { id } of [...world.splits.seen, ...world.splits.scored]) expect(noisy.has(id)).toBe(false)
      // fresh ids are not those of sequences that are never trained on either
      for (const name of UNTRAINED) for (const { id } of world.splits[name] ?? []) expect(noisy.has(id)).toBe(false)
      const first = (yield* streamed(world, { scoredExposures: "first" })).data.report
      const deduplicated = (yield* streamed(world, { arm: "deduplicated" })).data.report
      expect(first.exposures).toBe(plain.exposures)
      expect(first.scoredTokens).toBe(deduplicated.scoredTokens)
      expect(first.scoredTokens).toBeLessThan(plain.scoredTokens)
      const goldfish = (yield* streamed(world, { goldfish: { k: 3, window: 2 } })).data.report
      expect(goldfish.scoredTokens).toBeLessThan(plain.scoredTokens)
    })))
})

describe("a world of text", () => {
  it("drops the twin that is held out or seen once, and counts it", () =>
    run(Effect.gen(function*() {
      const world = yield* made(inputs.text)
      const { data } = yield* streamed(world)
      const startOf = ({ tokens }: Row) => tokens.subarray(0, 16).join()
      const repeated = data.split("repeated")
      const trained = [...repeated, ...data.split("singles")]
      const [{ splits }, starts] = [world, new Set(trained.map(startOf))]
      const distinct = new Set(repeated.map(startOf))
      expect(splits.seen.length + splits.scored.length).toBe(distinct.size)
      expect(splits.retained.map(({ id }) => id)).toEqual(
        data.split("singles").filter((row) => !distinct.has(startOf(row))).map(({ id }) => id)
      )
      const left = data.split("heldOut").filter((row) => !starts.has(startOf(row)))
      const once = left.filter((row, i) => left.findIndex((other) => startOf(other) === startOf(row)) === i)
      const kept = [...splits.validation, ...splits.heldOut].map(({ id }) => id)
      expect(new Set(kept)).toEqual(new Set(once.map(({ id }) => id)))
      expect(kept.length).toBeLessThan(36)
      const scored = splits.seen.length + splits.scored.length + splits.retained.length + kept.length
      expect(world.dropped).toBe(18 + 60 + 36 - scored)
      expect(world.dropped).toBeGreaterThan(10)
    })))

  it("scores random canaries beside others like them that are never trained on", () =>
    run(Effect.gen(function*() {
      const { repeatsOf, splits } = yield* made(inputs.text)
      const canaries = [...splits.canarySeen, ...splits.canaryScored]
      expect(canaries.map(({ document }) => document).sort()).toEqual(
        ["canary/1/1", "canary/1/2", "canary/2/1", "canary/3/1", "canary/4/1"]
      )
      expect(canaries.map((row) => repeatsOf(row)).sort()).toEqual([2, 2, 2, 5, 5])
      expect(splits.canaryOthers).toHaveLength(splits.heldOut.length)
      expect(new Set(splits.canaryOthers.map(({ tokens }) => tokens.length))).toEqual(new Set([17, 9]))
      expect(new Set(splits.canaryOthers.map(({ tokens }) => tokens.join())).size).toBe(splits.canaryOthers.length)
      const without = (yield* made({ world: "text", data: { ...twinsData, canaries: [] } })).splits
      expect([without.canarySeen, without.canaryScored, without.canaryOthers]).toEqual([[], [], []])
    })))

  it("says what sequences say, and what they are", () =>
    run(Effect.gen(function*() {
      const { domains, repeatsOf, splits, texts } = yield* made(inputs.text)
      expect(domains).toEqual(["text"])
      for (const text of texts(splits.heldOut)) expect(text).toMatch(/^[a-z ]{16}[AB]$/)
      expect(new Set(splits.scored.map(repeatsOf)).size).toBeGreaterThan(1)
      expect(splits.other).toBeUndefined()
    })))

  it("is, unless told, State of the Union addresses beside canaries", () =>
    run(Effect.gen(function*() {
      expect(firstSeed(textWorld)).toBe(1)
      const { dropped, splits, texts } = yield* makeWorld(textWorld, 1)
      expect(Object.fromEntries(splitsOf(splits).map(([name, rows]) => [name, rows.length]))).toEqual({
        seen: 20,
        scored: 20,
        canarySeen: 8,
        canaryScored: 8,
        canaryOthers: 128,
        retained: 512,
        validation: 128,
        heldOut: 128
      })
      expect(dropped).toBe(0)
      expect(texts(splits.scored).join()).toMatch(/ the /)
    })))
})

describe("made-up worlds", () => {
  it("of two domains hold out sequences of both", () =>
    run(Effect.gen(function*() {
      const { domains, repeatsOf, splits, texts } = yield* made(inputs.twoDomains)
      const { heldOut, other = [], retained, scored, seen, validation } = splits
      const documents = (rows: ReadonlyArray<Row>) => new Set(rows.map(({ document }) => document.split(" ")[0]))
      expect(domains).toEqual(["rare", "common"])
      expect(documents([...seen, ...scored, ...heldOut, ...validation])).toEqual(new Set(["rare"]))
      expect(documents([...other, ...retained])).toEqual(new Set(["common"]))
      expect(seen.length + scored.length).toBe(7)
      expect([retained.length, other.length, heldOut.length + validation.length]).toEqual([30, 9, 9])
      expect([scored, retained, heldOut].map((rows) => repeatsOf(rows[0]!))).toEqual([4, 1, 0])
      const [row] = scored
      expect(texts([row!])).toEqual([row!.tokens.join(" ")])
    })))

  it("of sums remember corrupted ones and retain right ones, and score only answers", () =>
    run(Effect.gen(function*() {
      const world = yield* made(inputs.modular)
      const { repeatsOf, splits, texts, tokenizer } = world
      expect([world.seqLen, tokenizer.vocabSize]).toEqual([3, 14])
      const right = ({ tokens }: Row) => (tokens[0]! + tokens[1]!) % 13 === tokens[3]
      for (const row of [...splits.retained, ...splits.heldOut, ...splits.validation]) expect(right(row)).toBe(true)
      const corrupted = [...splits.seen, ...splits.scored]
      expect(corrupted).toHaveLength(30)
      // one in 13 by luck
      expect(corrupted.filter(right).length).toBeLessThan(10)
      expect([repeatsOf(corrupted[0]!), repeatsOf(splits.retained[0]!)]).toEqual([3, 3])
      expect(splits.heldOut.length + splits.validation.length).toBe(40)
      for (const text of texts(corrupted)) expect(text).toMatch(/^\d+ \d+ = \d+$/)

      const { batches, data } = yield* streamed(world)
      let answers = 0
      for (const { targets, tokens } of batches) {
        tokens.forEach((token, t) => {
          expect(targets[t] === IGNORE).toBe(token !== 13)
          if (token === 13) answers++
        })
      }
      // half of 169 sums, three times each
      expect([answers, data.report.scoredTokens]).toEqual([3 * 85, 3 * 85])
      for (const [, rows] of splitsOf(splits)) for (const row of rows) expect(row.scoredFrom).toBe(3)
    })))

  it("of sums have records of answers alone", () =>
    run(Effect.gen(function*() {
      const { splits } = yield* made(inputs.modular)
      const records: ModelService["records"] = (batch, _, schemes) => {
        const scored = [...batch.targets.keys()].filter((t) => batch.targets[t] !== IGNORE)
        const { sequences: _sequences, start: _start, first: _first, ...columns } = makeRecords(
          [{ name: "", split: "", id: 0n, repeats: 0 }],
          [scored.length],
          schemes
        )
        return Effect.succeed({ ...columns, token: Uint32Array.from(scored, (t) => batch.targets[t]!) })
      }
      const options = { batchSize: 4, seqLen: 3, split: "scored", schemes: [] }
      const got = yield* recordRows({ records }, splits.scored, { mode: "own" }, options)
      expect([...got.token]).toEqual(splits.scored.map(({ tokens }) => tokens[3]))
      expect([...got.first]).toEqual(splits.scored.map(() => 3))
      expect([...got.start]).toEqual([...splits.scored.map((_, s) => s), splits.scored.length])
    })))
})

describe("a world that cannot be", () => {
  const failure = (input: unknown) =>
    run(Effect.match(made(input), { onFailure: ({ message }) => message, onSuccess: () => "a world" }))
  const text = (data: object) => failure({ world: "text", data: { ...twinsData, canaries: [], ...data } })

  it("because nothing is repeated is refused", async () => {
    const repeat = [{ sequences: 9, times: 1 }]
    expect(await text({ repeat })).toContain("the data repeats nothing")
    expect(await text({ repeat: [] })).toContain("set repeatedSequences and repeats")
    expect(await failure({ ...inputs.twoDomains, repeats: 1 })).toContain("raise repeats (1)")
    expect(await failure({ ...inputs.modular, corrupted: 0 })).toContain("corrupted (0)")
  })

  it("because too little can be scored is refused", async () => {
    expect(await text({ repeat: [{ sequences: 1, times: 9 }] })).toContain("1 of 1 repeated sequences can be scored")
    const few = await text({ heldOutSequences: 3, singleSequences: 10 })
    expect(few).toMatch(/[0-3] of 3 held-out sequences can be scored/)
    expect(await failure({ ...inputs.twoDomains, heldOut: 3 })).toContain("3 of 3 held-out sequences can be scored")
    expect(await failure({ ...inputs.modular, trained: 1 })).toContain("0 of 0 held-out sequences")
    expect(await text({ canaries: [{ random: 1, times: 4 }] })).toContain("1 of 1 random canaries can be scored")
    expect(await text({ canaries: [{ random: 5, times: 4, id: 9000 }] })).toContain("1 of 5 random canaries")
  })

  it("because an arm is said twice, or a field is wrong, is refused", async () => {
    expect(await text({ arm: "deduplicated" })).toContain(`data.arm is "deduplicated"`)
    expect(await failure({ world: "twoDomain" })).toContain(
      `world: expected "text", "twoDomains" or "modular", got "twoDomain". Did you mean "twoDomains"?`
    )
    expect(await failure({ world: "twoDomains", rare: -1 })).toContain("rare: expected a positive number, got -1")
  })
})

describe("sequences that are scored", () => {
  const row = (document: string, id: number, tokens: ReadonlyArray<number>, offset = 0): Row => ({ id: BigInt(id),
    tokens: Uint32Array.from(tokens), document, offset })
  const range = (from: number, length: number) => Array.from({ length }, (_, t) => from + t)
  const told = (training: ReadonlyArray<Row>, scored: ReadonlyArray<Row>) =>
    Effect.runSync(Effect.match(checkDisjoint(training, scored), { onFailure: (e) => e.message, onSuccess: () => "" }))

  it("and trained on are named, both, by id or by text", () => {
    const training = [row("a", 1, range(0, 40)), row("b", 2, range(100, 40), 64)]
    expect(told(training, [row("c", 3, range(200, 40)), row("d", 2, range(300, 40))])).toMatch(
      /^sequence d is scored, but has id 2 of b\+64, which is trained on/
    )
    // 27 of 28 grams
    expect(told(training, [row("c", 3, range(200, 40)), row("e", 4, range(99, 40), 7)])).toMatch(
      /^sequence e\+7 is scored, but has 96 % of its 13-grams in common with b\+64/
    )
    expect(told(training, [row("c", 3, range(200, 40))])).toBe("")
    expect(told([], training)).toBe("")
  })

  it("are near-duplicates from .8 of their 13-grams on, of one sequence", () => {
    const training = [row("a", 1, range(0, 40)), row("b", 2, range(100, 40))]
    const index = overlapIndex(training)
    // 25 grams, of which 20, then 19 are known
    const known = (count: number) => row("c", 3, [...range(0, count + 12), ...range(900, 25 - count)])
    expect(index.find(known(20))?.share).toBe(0.8)
    expect(index.find(known(20))?.row.document).toBe("a")
    expect(index.find(known(19))).toBeUndefined()
    // half of one and half of the other is neither's copy
    expect(index.find(row("c", 3, [...range(0, 26), ...range(100, 26)]))).toBeUndefined()
    expect(index.find(row("c", 3, range(40000, 40)))).toBeUndefined()
    index.add(row("z", 9, range(40000, 60)))
    expect(index.find(row("c", 3, range(40000, 40)))?.row.document).toBe("z")
  })

  it("that are shorter than a gram are compared whole, wherever they stand; order and large tokens count", () => {
    const index = overlapIndex([row("a", 1, range(70000, 40))])
    expect(index.find(row("c", 3, range(70010, 5)))?.row.document).toBe("a")
    expect(index.find(row("c", 3, range(70010, 5).reverse()))).toBeUndefined()
    expect(index.find(row("c", 3, range(70010 - 65536, 5)))).toBeUndefined()
  })
})
