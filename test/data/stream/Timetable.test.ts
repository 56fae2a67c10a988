/** Timetables: exposures where they should be, every row filled, the same however it is asked for. */
import { describe, expect, it } from "vitest"
import type { Row } from "../../../src/data/stream/Packing.ts"
import { showingProblem, spread, stepsOf, timetable } from "../../../src/data/stream/Timetable.ts"
import { makeRandom } from "../../reference/random.ts"

const row = (id: number): Row => ({ id: BigInt(id), tokens: Uint32Array.of(id, id + 1), document: `d${id}`, offset: 0 })
const rows = (from: number, count: number) => Array.from({ length: count }, (_, i) => row(from + i))

describe("steps of a showing", () => {
  it("fits any showing that is not refused: as many, rising, inside, in as many blocks", () => {
    const random = makeRandom(3)
    for (let i = 0; i < 500; i++) {
      const first = random.int(20)
      const end = first + 1 + random.int(200)
      const exposures = 1 + random.int(end - first)
      const blocks = random.int(3) === 0 ? undefined : 1 + random.int(exposures)
      const sequences = 1 + random.int(6)
      const showing = { exposures, first, end, ...(blocks === undefined ? {} : { blocks }) }
      expect(showingProblem(showing)).toBeUndefined()
      for (const steps of stepsOf(showing, sequences)) {
        expect(steps).toHaveLength(exposures)
        expect(steps.every((step, j) => Number.isInteger(step) && (j === 0 || step > steps[j - 1]!))).toBe(true)
        expect(steps[0]).toBeGreaterThanOrEqual(first)
        expect(steps.at(-1)).toBeLessThan(end)
        // neighbouring blocks may touch, but there are never more
        expect(steps.filter((step, j) => j === 0 || step !== steps[j - 1]! + 1).length).toBeLessThanOrEqual(
          blocks ?? exposures
        )
      }
    }
  })

  it("spaces, masses, and makes cycles", () => {
    expect(stepsOf({ exposures: 4, first: 0, end: 40 }, 2)).toEqual([[9, 19, 29, 39], [8, 18, 28, 38]])
    expect(stepsOf({ exposures: 4, first: 0, end: 40, blocks: 1 }, 2)).toEqual([[36, 37, 38, 39], [32, 33, 34, 35]])
    expect(stepsOf({ exposures: 4, first: 0, end: 40, blocks: 2 }, 1)).toEqual([[18, 19, 38, 39]])
  })

  it("moves exposures out of full steps, no further than they must, and keeps blocks whole", () => {
    const random = makeRandom(4)
    for (let i = 0; i < 100; i++) {
      const batchSize = 2 + random.int(3)
      const groups = Array.from({ length: 1 + random.int(4) }, (_, g) => {
        const exposures = 1 + random.int(8)
        const blocks = random.int(2) === 0 ? {} : { blocks: 1 + random.int(exposures) }
        return { name: `g${g}`, sequences: 1 + random.int(3), showing: { exposures, first: 0, end: 60, ...blocks } }
      })
      const placed = spread(groups, batchSize)
      const all = placed.flat(2)
      for (let step = 0; step < 60; step++) {
        expect(all.filter((one) => one === step).length).toBeLessThanOrEqual(batchSize)
      }
      placed.forEach((group, g) => {
        expect(group).toHaveLength(groups[g]!.sequences)
        for (const steps of group) {
          expect(new Set(steps).size).toBe(groups[g]!.showing.exposures)
          expect(steps).toEqual([...steps].sort((a, b) => a - b))
          expect(steps.every((step) => step >= 0 && step < 60)).toBe(true)
        }
      })
    }
    // with room nothing moves
    const showing = { exposures: 4, first: 0, end: 40 }
    expect(spread([{ name: "a", sequences: 2, showing }], 2)).toEqual([stepsOf(showing, 2)])
    const twins = [{ name: "a", sequences: 1, showing }, { name: "b", sequences: 1,
      showing: { ...showing, blocks: 1 } }]
    expect(spread(twins, 1)).toEqual([[[9, 19, 29, 35]], [[36, 37, 38, 39]]])
    expect(() => spread([{ name: "a", sequences: 2, showing: { exposures: 10, first: 0, end: 10 } }], 1))
      .toThrow("groups: a: between steps 0 and 10 there is no room for 10 exposures of 2 sequences")
  })

  it("says what does not fit", () => {
    expect(showingProblem({ exposures: 11, first: 0, end: 10 })).toContain(
      "11 exposures do not fit between steps 0 and 10"
    )
    expect(showingProblem({ exposures: 2, first: 0, end: 10, blocks: 3 })).toContain("got 3")
  })
})

describe("a timetable", () => {
  const planted = [{ row: row(1), steps: [0, 3, 4] }, { row: row(2), steps: [3, 9] }]
  const make = (seed = 1) =>
    timetable({
      steps: 10,
      batchSize: 3,
      planted,
      background: [{ from: 0, rows: rows(100, 7) }, { from: 6, rows: rows(200, 4) }],
      seed
    })

  it("shows planted sequences in their steps, and fills up with all others in turn", () => {
    const table = make()
    const all = Array.from({ length: 10 }, (_, step) => table.rows(step).map(({ id }) => Number(id)))
    expect(all.every((batch) => batch.length === 3)).toBe(true)
    expect(all.map((batch) => batch.filter((id) => id < 100).sort())).toEqual([[1], [], [], [1, 2], [1], [], [], [], [],
      [2]])
    const background = all.flatMap((batch, step) => batch.filter((id) => id >= 100).map((id) => ({ id, step })))
    expect(background.every(({ id, step }) => step < 6 ? id < 200 : id >= 200)).toBe(true)
    const counts = (from: number) => {
      const seen = new Map<number, number>()
      for (const { id } of background.filter(({ id }) => id >= from && id < from + 100)) {
        seen.set(id, (seen.get(id) ?? 0) + 1)
      }
      return [...seen.values()].sort()
    }
    // 14 rows of 7, and 11 rows of 4: none comes again before all others have
    expect(counts(100)).toEqual([2, 2, 2, 2, 2, 2, 2])
    expect(counts(200)).toEqual([2, 3, 3, 3])
  })

  it("gives any step without those before it, and another order for another seed", () => {
    const ids = (table: ReturnType<typeof make>, step: number) => table.rows(step).map(({ id }) => id)
    const straight = make()
    const forwards = Array.from({ length: 10 }, (_, step) => ids(straight, step))
    for (const step of [9, 2, 7, 0]) expect(ids(make(), step)).toEqual(forwards[step])
    expect(Array.from({ length: 10 }, (_, step) => ids(make(2), step))).not.toEqual(forwards)
  })

  it("knows how often and when a sequence was shown", () => {
    const table = make()
    expect([0, 1, 3, 4, 5, 10].map((step) => table.shown(0, step))).toEqual([
      { exposures: 0, last: -1 },
      { exposures: 1, last: 0 },
      { exposures: 1, last: 0 },
      { exposures: 2, last: 3 },
      { exposures: 3, last: 4 },
      { exposures: 3, last: 4 }
    ])
  })

  it("refuses what cannot be shown", () => {
    const one = { steps: 4, batchSize: 1, background: [{ from: 0, rows: rows(100, 2) }], seed: 0 }
    expect(() => timetable({ ...one, planted: [{ row: row(1), steps: [4] }] })).toThrow("the run has 4 steps")
    expect(() => timetable({ ...one, planted: [{ row: row(1), steps: [2] }, { row: row(2), steps: [2] }] }))
      .toThrow("step 2 is to show 2 sequences, but a batch has 1 rows")
    expect(() => timetable({ ...one, background: [], planted: [] })).toThrow("raise data.singleSequences")
  })
})
