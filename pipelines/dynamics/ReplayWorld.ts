/** What the models of a run that is replayed were trained on, and what of it is probed. */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { parseId } from "../../src/Batch.ts"
import { decodeConfig, nearest } from "../../src/Config.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { isWide, outOfRange } from "../../src/data/identity/Names.ts"
import { canaryDocuments } from "../../src/data/stream/Canary.ts"
import { DataConfig, type DataStream } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { sequenceName } from "../../src/data/stream/Packing.ts"
import { DataError } from "../../src/Errors.ts"
import { type RunRecord } from "../../src/runs/RunRecord.ts"
import { dataOf, type SavedModel } from "../../src/runs/Runs.ts"
import { type Arm, arms } from "../experiment/Arms.ts"
import { type Streams } from "../experiment/Streams.ts"
import { BACKGROUND, FOILS, planOf } from "./Config.ts"
import { shownBy } from "./Probe.ts"
import { type ReplayConfig } from "./ReplaySource.ts"
import { type Group } from "./Report.ts"
import { groupsOf } from "./Summary.ts"
import { dataOf as seedData, makeWorld, type Probed } from "./World.ts"
/** What the models of one seed were trained on, and what of it is probed. */
export interface ReplayWorld {
  readonly seed: number
  readonly data: typeof DataStream.Service
  readonly probed: ReadonlyArray<Probed>
  /** How often an arm had shown a sequence after so many steps, and how long ago; -1: not counted. */
  readonly shown: (arm: string, one: Probed, step: number) => { readonly exposures: number; readonly since: number }
  /** Exposures in all of training. */
  readonly repeats: (arm: string, one: Probed) => number
  /** The groups, in words. */
  readonly groups: ReadonlyArray<Group>
  readonly titles: Readonly<Record<string, string>>
  readonly tokensPerStep: number
}

/** The sequences with some ids: numbers, or names of sources, documents or sequences. Fails where the data lacks one. */
const withIds = (
  all: ReadonlyArray<Probed>,
  asked: ReadonlyArray<string>,
  seed: number,
  names: ReadonlyArray<string>
): Effect.Effect<ReadonlyArray<Probed>, DataError> => {
  const wide = asked.find(isWide)
  if (wide !== undefined) return outOfRange(wide)
  const there = [...new Set(all.map(({ row }) => row.id))]
  const known = new Set(there)
  const byName = new Map<string, Set<bigint>>()
  for (const { row } of all) {
    for (const name of [row.document, sequenceName(row)]) byName.set(name, (byName.get(name) ?? new Set()).add(row.id))
  }
  const found = asked.map((one): ReadonlyArray<bigint> => {
    const ids = [parseId(one) ?? sourceHash(one), ...(byName.get(one) ?? [])]
    return ids.filter((id) => known.has(id))
  })
  const ids = new Set(found.flat())
  const missing = asked.filter((_, i) => found[i]!.length === 0)
  if (missing.length === 0) return Effect.succeed(all.filter(({ row }) => ids.has(row.id)))
  const meant = missing.length === 1 ? nearest(missing[0]!, [...names, ...byName.keys()]) : undefined
  if (meant !== undefined && parseId(missing[0]!) === undefined) {
    return new DataError({
      detail: `ids: ${JSON.stringify(missing[0])} is not in the data of seed ${seed}. Did you mean ${
        JSON.stringify(meant)
      }?`
    })
  }
  const [some, more] = [missing.slice(0, 8), missing.length - 8]
  return new DataError({
    detail:
      `ids: ${some.join(", ")}${more > 0 ? ` and ${more} more` : ""} ${missing.length === 1 ? "is" : "are"} not in ` +
      `the data of seed ${seed}, which has ${there.length} ids that can be probed, such as ` +
      `${there.slice(0, 5).join(", ")}: ask for ids that it has, or name the folder of one seed's model`
  })
}

/** As a group of so many sequences; none without any. */
const counted = (groups: ReadonlyArray<Group>, probed: ReadonlyArray<Probed>): ReadonlyArray<Group> =>
  groups.flatMap((group) => {
    const sequences = probed.filter((one) => one.group === group.name).length
    return sequences === 0 ? [] : [{ ...group, sequences }]
  })

/** The data of a run of `memsinks pretrain`. */
export const pretrainWorld = (
  record: RunRecord,
  { folder, seed }: SavedModel,
  steps: number,
  { background, foils, ids }: ReplayConfig,
  streams: Streams
): Effect.Effect<ReplayWorld, DataError, FileSystem.FileSystem | Scope.Scope> =>
  Effect.gen(function*() {
    const config = yield* decodeConfig(DataConfig, { ...dataOf(record, folder), seed })
    const data = yield* streams.hold(config)
    const training = Object(Object(record.config).training) as { readonly gradientAccumulation?: number }
    const accumulation = training.gradientAccumulation ?? 1
    const epochs = steps * accumulation / data.batchesPerEpoch
    /** In all of training. */
    const exposuresOf = (inEpoch: number) => inEpoch === 0 ? 0 : Math.max(1, Math.round(inEpoch * epochs))

    const repeated = data.groups.length === 0
      ? data.split("repeated").map((row): Probed => ({ row, group: "repeated" }))
      : data.groups.flatMap(({ rows, times }) => rows.map((row): Probed => ({ row, group: `repeated x${times}` })))
    const canaries = data.split("canaries").map((row): Probed => ({ row, group: "canaries" }))
    const singles = data.split("singles").map((row): Probed => ({ row, group: BACKGROUND }))
    const heldOut = data.split("heldOut").map((row): Probed => ({ row, group: FOILS }))
    // one that is like what is shown would be known for what it is like
    const index = overlapIndex([...repeated, ...canaries].map(({ row }) => row))
    const distinct = heldOut.filter(({ row }) => index.find(row) === undefined)
    const probed = ids === undefined
      ? [...repeated, ...canaries, ...singles.slice(0, background), ...distinct.slice(0, foils)]
      : yield* withIds([...repeated, ...canaries, ...singles, ...heldOut], ids, seed,
        (yield* data.names)?.ids.map(({ name }) => name) ?? [])
    if (probed.length === 0) {
      return yield* new DataError({
        detail:
          `the data of seed ${seed} has nothing to probe: nothing is repeated in it, and foils and background are ` +
          "0. Raise them"
      })
    }

    const documents = canaryDocuments(config.canaries ?? [], data.tokenizer, data.seqLen, seed)
    const timesOf = new Map([
      ...data.groups.flatMap(({ rows, times }) => rows.map((row) => [sequenceName(row), times] as const)),
      ...(typeof documents === "string" ? [] : documents.map(({ name, times }) => [name, times] as const))
    ])
    const inEpoch = (arm: string, { group, row }: Probed): number => {
      if (group === FOILS) return 0
      const times = timesOf.get(sequenceName(row)) ?? 1
      if (group === BACKGROUND) return 1
      const plan = arm === "deduplicated" ? arm : config.arm
      return plan === "neverRepeated" ? 0 : plan === "deduplicated" ? 1 : times
    }
    const times = (n: number) => `${n} exposure${n === 1 ? "" : "s"} an epoch`
    const group = (name: string, title: string, inEpoch: number): Group => {
      const exposures = exposuresOf(inEpoch)
      return {
        name,
        title,
        sequences: 0,
        exposures,
        ...(exposures > 1 ? { every: steps / exposures } : {}),
        withheld: false
      }
    }
    return {
      seed,
      data,
      probed,
      shown: (_, one, step) => shownBy(undefined, { group: one.group }, step),
      repeats: (arm, one) => exposuresOf(inEpoch(arm, one)),
      groups: counted([
        ...new Map(data.groups.map(({ times: n }) => [n, group(`repeated x${n}`, times(n), n)])).values(),
        group("repeated", "of documents that have a copy", 1),
        group("canaries", "put in between", Math.max(1, ...(config.canaries ?? []).map(({ times }) => times))),
        group(BACKGROUND, `some of the others: ${times(1)}`, 1),
        group(FOILS, "held out", 0)
      ], probed),
      titles: {},
      tokensPerStep: data.batchSize * data.seqLen * accumulation
    }
  })

/** The world of a run of `memsinks dynamics`, with what it showed when. */
export const dynamicsWorld = (
  record: RunRecord,
  { seed }: SavedModel,
  { background, foils, ids }: ReplayConfig,
  streams: Streams
): Effect.Effect<ReplayWorld, DataError, FileSystem.FileSystem | Scope.Scope> =>
  Effect.gen(function*() {
    const own = yield* planOf(record.config)
    const plan = yield* planOf({
      ...Object(record.config),
      // which of them are probed is as it was; more follow
      foils: Math.max(foils, own.config.foils),
      backgroundProbes: Math.max(background, own.config.backgroundProbes)
    })
    const world = yield* makeWorld(plan, seed, yield* streams.hold(seedData(plan, seed)))
    const { data, planted } = world
    const inGroup = (name: string) => world.probed.filter(({ group }) => group === name)
    const shownOnes = world.probed.filter((one) => one.planted !== undefined)
    const split = (name: "singles" | "heldOut", group: string) =>
      data.split(name).map((row): Probed => ({ row, group }))
    const probed = ids === undefined
      ? [...shownOnes, ...inGroup(BACKGROUND).slice(0, background), ...inGroup(FOILS).slice(0, foils)]
      : yield* withIds([...shownOnes, ...split("singles", BACKGROUND), ...split("heldOut", FOILS)], ids, seed, [])
    const all = { ...plan.config, backgroundProbes: 1, foils: 1 }
    const groups = groupsOf({ ...plan, config: all }, world)
    return {
      seed,
      data,
      probed,
      shown: (name, { group, planted }, step) => {
        const arm = plan.arms.find((arm) => arm.name === name)
        return shownBy(arm && world.table(arm), { group, planted }, step)
      },
      repeats: (_, { group, planted: p }) =>
        p === undefined ? groups.find(({ name }) => name === group)!.exposures : planted[p]!.steps.length,
      groups: counted(groups, probed),
      titles: Object.fromEntries(plan.arms.map(({ arm, name }) => [name, (arms[arm] as Arm).title])),
      tokensPerStep: data.batchSize * data.seqLen
    }
  })
