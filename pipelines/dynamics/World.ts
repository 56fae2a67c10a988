/**
 * What one seed of a forgetting experiment shows when, and the sequences that it probes: the same in every arm, but for
 * what an arm changes on purpose.
 */
import * as Effect from "effect/Effect"
import { DataConfig, type DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { sequenceName } from "../../src/data/stream/Packing.ts"
import { type Planted, spread, type Timetable, timetable } from "../../src/data/stream/Timetable.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import { type FoilKind, foilPairs } from "../../src/measures/Foils.ts"
import { random } from "../../src/Random.ts"
import { streamOf } from "../experiment/Arms.ts"
import { scheduled } from "../experiment/Streams.ts"
import { BACKGROUND, type DynamicsArm, FOILS, type Plan, RULED } from "./Config.ts"
import { shownOf } from "./Jobs.ts"

/** A sequence that is probed. */
export interface Probed {
  readonly row: Row
  readonly group: string
  /** Its place in the timetable; undefined for a foil, which is never shown. */
  readonly planted?: number
}

export interface DynamicsWorld {
  readonly seed: number
  readonly data: typeof DataStream.Service
  readonly planted: ReadonlyArray<Planted>
  /** Planted sequences in order, background sequences, foils. */
  readonly probed: ReadonlyArray<Probed>
  /** Foils by rule of withheld sequences, by the names of these; the sequence itself as `asText`. */
  readonly ruled: ReadonlyMap<string, ReadonlyArray<Probed>>
  /** The batches of an arm. */
  readonly stream: (arm: DynamicsArm) => Effect.Effect<typeof DataStream.Service, DataError>
  /** When an arm shows what. */
  readonly table: (arm: DynamicsArm) => Timetable
  /** The rows of a step of an arm, with the ids that it gives them. */
  readonly rows: (arm: DynamicsArm) => (step: number) => ReadonlyArray<Row>
}

/** What the foil of a sequence by rule is called in traces, and the sequence that it is told from: tokenized from text, too. */
export const ruledName = (sequence: string, kind: FoilKind | "asText"): string => `${sequence}: ${kind}`

/** Fails with a DataError where a kind has no foil of any sequence. */
const ruledFoils = (
  rows: ReadonlyArray<Row>,
  kinds: ReadonlyArray<FoilKind>,
  given: Parameters<typeof foilPairs>[2]
): Effect.Effect<DynamicsWorld["ruled"], DataError> =>
  Effect.gen(function*() {
    const all = new Map<string, Array<Probed>>()
    const known = (row: Row, name: string): Probed => ({ row: { ...row, document: name, offset: 0 }, group: RULED })
    for (const kind of kinds) {
      const pairs = foilPairs(rows, kind, given)
      if (pairs.every((pair) => pair === undefined)) {
        return yield* new DataError({
          detail:
            `recognition: of none of the ${rows.length} withheld sequences is there a foil by rule "${kind}" that differs ` +
            "from it: leave it out, or raise data.seqLen or the groups' sequences"
        })
      }
      pairs.forEach((pair, i) => {
        if (pair === undefined) return
        const name = sequenceName(rows[i]!)
        const own = all.get(name) ?? [known(pair.row, ruledName(name, "asText"))]
        all.set(name, [...own, known(pair.foil, ruledName(name, kind))])
      })
    }
    return all
  })

/** The share of a row's pairs of neighbouring tokens that some of `others` has, too: 0 to 1. */
export const similarity = (row: Row, others: ReadonlyArray<Row>): number => {
  const pairs = ({ tokens }: Row) => Array.from(tokens.subarray(1), (token, i) => tokens[i]! * 2 ** 24 + token)
  const known = new Set(others.flatMap(pairs))
  const own = pairs(row)
  return own.reduce((sum, pair) => sum + (known.has(pair) ? 1 : 0), 0) / Math.max(1, own.length)
}

/** Ids above all that a stream gives. */
const FRESH = 1n << 48n

/** The data of a seed. */
export const dataOf = ({ config: { data }, groups }: Plan, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = data
  // how often they are shown is up to the timetable
  return new DataConfig({
    ...rest,
    repeatedSequences: groups.reduce((sum, { sequences }) => sum + sequences, 0),
    repeats: 2,
    seed
  })
}

/**
 * The world of one seed, of its data. No foil is a near-duplicate of what is shown. Fails with a DataError, before anything
 * trains, where the corpus has too few sequences, or a step would show more of them than it has rows.
 */
export const makeWorld = (
  plan: Plan,
  seed: number,
  data: typeof DataStream.Service
): Effect.Effect<DynamicsWorld, DataError> =>
  Effect.gen(function*() {
    const { config, groups, steps } = plan
    const count = groups.reduce((sum, { sequences }) => sum + sequences, 0)
    const [repeated, singles, heldOut] = [data.split("repeated"), data.split("singles"), data.split("heldOut")]
    const index = overlapIndex()
    for (const row of repeated) index.add(row)
    // one that is like what is shown would be recognized for what it is like
    const distinct = heldOut.filter((row) => index.find(row) === undefined)
    const lacking = [
      ["groups", count, repeated.length, "smaller groups"],
      ["foils", config.foils, distinct.length, "fewer foils, or more data.heldOutSequences"],
      ["backgroundProbes", config.backgroundProbes, singles.length, "fewer of them, or more data.singleSequences"]
    ] as const
    for (const [name, wanted, there, advice] of lacking) {
      if (there < wanted) {
        return yield* new DataError({
          detail:
            `${name}: ${wanted} sequences are to be probed, but the data has ${there} of their kind: ask for ${advice}`
        })
      }
    }
    const foils = distinct.slice(0, config.foils)

    let at = 0
    const placed = yield* attempt(() => spread(groups, data.batchSize), DataError)
    const plantedGroups = groups.map((group, g) => {
      const rows = repeated.slice(at, at += group.sequences)
      return { group, planted: placed[g]!.map((own, i): Planted => ({ row: rows[i]!, steps: own })) }
    })
    const planted = plantedGroups.flatMap(({ planted }) => planted)
    const names = plantedGroups.flatMap(({ group, planted }) => planted.map(() => group.name))

    const withheld = plantedGroups.filter(({ group }) => group.withheld)
    const ruled = yield* ruledFoils(withheld.flatMap(({ planted }) => planted.map(({ row }) => row)),
      config.recognition ?? [], { seed, seqLen: data.seqLen, tokenizer: data.tokenizer })
    const leftAlone = Math.min(steps, ...withheld.map(({ group }) => group.showing.end))
    const similar = (): ReadonlyArray<Row> => {
      const rows = withheld.flatMap(({ planted }) => planted.map(({ row }) => row))
      return singles.slice(Math.floor(singles.length / 2))
        .map((row) => ({ row, similarity: similarity(row, rows) }))
        .sort((a, b) => b.similarity - a.similarity)
        .map(({ row }) => row)
    }
    const background = (intervening: DynamicsArm["intervening"]) => {
      if (intervening === undefined) return [{ from: 0, rows: singles }]
      const sorted = similar()
      const half = Math.floor(sorted.length / 2)
      return [
        { from: 0, rows: singles.slice(0, Math.floor(singles.length / 2)) },
        { from: leftAlone, rows: intervening === "similar" ? sorted.slice(0, half) : sorted.slice(-half) }
      ]
    }
    const tables = new Map<string, Timetable>()
    const table = ({ intervening }: DynamicsArm): Timetable => {
      const key = intervening ?? ""
      const known = tables.get(key) ??
        timetable({ steps, batchSize: data.batchSize, planted, background: background(intervening), seed })
      tables.set(key, known)
      return known
    }
    yield* attempt(() => plan.arms.forEach(table), DataError)
    const ids = new Set(planted.map(({ row }) => row.id))
    const rows = (arm: DynamicsArm) => {
      const shown = table(arm)
      const noise = streamOf(arm).idNoise ?? 0
      return (step: number): ReadonlyArray<Row> => {
        const draw = random(seed, "idNoise", step)
        return shown.rows(step).map((row, r) =>
          ids.has(row.id) && draw.uniform() < noise
            ? { ...row, id: FRESH + BigInt(step * data.batchSize + r) }
            : row
        )
      }
    }
    const stream = (arm: DynamicsArm) =>
      Effect.sync(() => scheduled(data, { rows: rows(arm), shown: shownOf(plan, arm, seed), steps }))
    return {
      seed,
      data,
      planted,
      probed: [
        ...planted.map(({ row }, i): Probed => ({ row, group: names[i]!, planted: i })),
        ...singles.slice(0, config.backgroundProbes).map((row): Probed => ({ row, group: BACKGROUND })),
        ...foils.map((row): Probed => ({ row, group: FOILS }))
      ],
      ruled,
      stream,
      table,
      rows
    }
  })
