/**
 * Probes replayed on a run that is finished: what each of its checkpoints knew of the sequences that it was trained on, and
 * where, as if the run had been probed at those steps. Curves have a point a checkpoint, so a run that kept many
 * (`training.saveLogSpaced`) says most.
 *
 *     traces/seed-1/sinks/probes-00000128.parquet       what the checkpoint of step 128 knows, see src/measures/Traces.ts
 *     traces/seed-1/sinks/quantities-00000128.parquet   norms of its weights, and parts of its logits
 *     records/seed-1/sinks/step-00000128.own.parquet    every token that was probed, see src/measures/TokenRecords.ts
 *     report.json                                       a DynamicsReport
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { parseId } from "../../src/Batch.ts"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import { openCheckpoint } from "../../src/checkpoints/OpenCheckpoint.ts"
import { decodeConfig, natural, nearest } from "../../src/Config.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { isWide, outOfRange } from "../../src/data/identity/Names.ts"
import { canaryDocuments } from "../../src/data/stream/Canary.ts"
import { DataConfig, DataStream, type Input } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { sequenceName } from "../../src/data/stream/Packing.ts"
import { sameTokenizer } from "../../src/data/tokens/SameTokenizer.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { because, CheckpointError, DataError, type DeviceError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Gradients from "../../src/inside/Gradients.ts"
import { differences, parseJson } from "../../src/Json.ts"
import { keyOf } from "../../src/Key.ts"
import type { ProbeRow, QuantityRow } from "../../src/measures/Traces.ts"
import * as Traces from "../../src/measures/Traces.ts"
import { modelConfigOf } from "../../src/model/HuggingFace.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import type { RunRecord } from "../../src/runs/RunRecord.ts"
import { dataOf, runAbove, type SavedModel, savedModels } from "../../src/runs/Runs.ts"
import type { ProgressEvent } from "../../src/terminal/Progress.ts"
import { type Arm, arms } from "../experiment/Arms.ts"
import { writeReport } from "../experiment/Experiment.ts"
import { againWhenLost, claimFolder, folderOf, type FolderOptions, isLost,
  makeFolder } from "../experiment/RunFolder.ts"
import type { Files } from "../experiment/Train.ts"
import { estimate } from "../report/Estimate.ts"
import { BACKGROUND, FOILS, planOf } from "./Config.ts"
import { knowledgeOf, lossesOf, masksOf, recordsFile, recordTokens, shares, shownBy, sinkModes } from "./Probe.ts"
import { DynamicsReport, type Group, MaskState } from "./Report.ts"
import { curvesOf, type Found, groupsOf, normsOf, sharesOf } from "./Summary.ts"
import type { Rows } from "./TraceLog.ts"
import type { DynamicsError } from "./Train.ts"
import { view } from "./view.ts"
import { dataOf as dynamicsData, makeWorld, type Probed } from "./World.ts"

export interface ReplayOptions extends FolderOptions {
  /** Rebuilt when the device is lost, so it must be a layer of its own: `NodeDevice.layer()`. */
  readonly device: Layer.Layer<Device, DeviceError>
  /** Where the report, traces and token records go. Default: nowhere, and tokens are not recorded. */
  readonly outDir?: string
  /** States of the sinks. Default: those of a run of `memsinks dynamics`, else own and off. */
  readonly masks?: ReadonlyArray<MaskState>
  /** Probe the sequences with these ids (numbers, or names of sources, documents or sequences), of all that the data hands out, and no others. Default: those of all groups. */
  readonly ids?: ReadonlyArray<bigint | string>
  /** Held-out sequences that are probed. Default: as many as a run of `memsinks dynamics` probed, else 32. */
  readonly foils?: number
  /** Sequences seen once an epoch that are probed. Default: as many as a run of `memsinks dynamics` probed, else 16. */
  readonly background?: number
  /** Tokens given before recall and verbatim count. Default: those of the run, or 16. */
  readonly promptTokens?: number
  /** Sequences of a group whose logits are taken apart, at most. Default: those of a run of `memsinks dynamics`, else 4. */
  readonly decomposed?: number
  /** Checkpoints that are probed at once, as far as memory goes. Default 1. */
  readonly jobs?: number
  /** Where trained tokenizers are remembered. Default: nowhere. */
  readonly cacheDirectory?: string
  readonly onEvent?: (event: ProgressEvent) => Effect.Effect<void>
}

/** What a replay depends on, all defaults spelled out. */
export class ReplayConfig extends Schema.Class<ReplayConfig>("ReplayConfig")({
  /** The run's folder. */
  from: Schema.NonEmptyString,
  masks: Schema.NonEmptyArray(MaskState),
  /** As text, since JSON has no whole numbers of 64 bits. */
  ids: Schema.optional(Schema.NonEmptyArray(Schema.NonEmptyString)),
  foils: natural,
  background: natural,
  promptTokens: Schema.Int.pipe(Schema.positive()),
  decomposed: natural
}) {}

// ---------------------------------------------------------------------------------------------------------------
// The run

interface Source {
  readonly record: RunRecord
  /** In the order of their seeds, then of the run's arms. */
  readonly models: ReadonlyArray<SavedModel>
}

/** The models of a run, or the one whose folder is named. */
const sourceOf = (from: string): Effect.Effect<Source, DataError, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const wrong = (detail: string) => new DataError({ path: from, detail })
    if (!(yield* Effect.orElseSucceed(fs.exists(from), () => false))) {
      return yield* wrong("there is no such folder: name the folder of a run of memsinks pretrain or memsinks dynamics")
    }
    const base = path.basename(from)
    if (/^step-\d{8,}/.test(base)) {
      return yield* wrong(`is one checkpoint, and a replay goes through all of a model: name ${path.dirname(from)}`)
    }
    const record = runAbove(from)
    if (record === undefined) {
      return yield* wrong(
        "there is no run: neither it nor a folder above it has a run.json. Name the folder of a run of memsinks pretrain " +
          "or memsinks dynamics"
      )
    }
    if (record.kind !== "pretrain" && record.kind !== "dynamics") {
      return yield* wrong(
        `holds a run of memsinks ${record.kind}, which keeps no checkpoints along training: name one of memsinks ` +
          "pretrain or memsinks dynamics"
      )
    }
    const config = Object(record.config) as { readonly from?: unknown; readonly data?: { readonly seed?: unknown } }
    if (record.kind === "dynamics" && typeof config.from === "string") {
      return yield* wrong(`is a replay itself, of ${config.from}: name that`)
    }
    const models = savedModels(from, record, folderOf)
    if (models.length === 0) {
      return yield* wrong(
        "holds no checkpoint, that is no folder like seed-1/sinks/step-00000000: let the run train on, or name another one"
      )
    }
    return { record, models }
  })

// ---------------------------------------------------------------------------------------------------------------
// What is probed

/** What the models of one seed were trained on, and what of it is probed. */
interface ReplayWorld {
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
const pretrainWorld = (
  record: RunRecord,
  { folder, seed }: SavedModel,
  steps: number,
  { background, foils, ids }: ReplayConfig,
  cacheDirectory: string | undefined
): Effect.Effect<ReplayWorld, DataError, FileSystem.FileSystem | Scope.Scope> =>
  Effect.gen(function*() {
    const input = { ...dataOf(record, folder), seed }
    const config = yield* decodeConfig(DataConfig, input)
    const layer = DataStream.layer(input, cacheDirectory === undefined ? {} : { cacheDirectory })
    const data = Context.get(yield* Layer.build(layer), DataStream)
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
const dynamicsWorld = (
  record: RunRecord,
  { seed }: SavedModel,
  { background, foils, ids }: ReplayConfig
): Effect.Effect<ReplayWorld, DataError, FileSystem.FileSystem | Scope.Scope> =>
  Effect.gen(function*() {
    const own = yield* planOf(record.config)
    const plan = yield* planOf({
      ...Object(record.config),
      // which of them are probed is as it was; more follow
      foils: Math.max(foils, own.config.foils),
      backgroundProbes: Math.max(background, own.config.backgroundProbes)
    })
    const stream = DataStream.layer(Schema.encodeSync(DataConfig)(dynamicsData(plan, seed)))
    const world = yield* makeWorld(plan, seed, Context.get(yield* Layer.build(stream), DataStream))
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

/** What is not given is as the run has it. */
const configOf = (from: string, record: RunRecord, options: ReplayOptions): Effect.Effect<ReplayConfig, DataError> =>
  Effect.gen(function*() {
    const run = Object(record.config) as { readonly promptTokens?: number }
    const dynamics = record.kind === "dynamics" ? (yield* planOf(record.config)).config : undefined
    const config = yield* decodeConfig(ReplayConfig, {
      from,
      masks: options.masks ?? dynamics?.masks ?? ["own", "off"],
      ...(options.ids === undefined ? {} : { ids: [...new Set(options.ids)].map(String) }),
      foils: options.foils ?? dynamics?.foils ?? 32,
      background: options.background ?? dynamics?.backgroundProbes ?? 16,
      promptTokens: options.promptTokens ?? run.promptTokens ?? 16,
      decomposed: options.decomposed ?? dynamics?.decomposed ?? 4
    })
    const twice = config.masks.find((mask, i) => config.masks.indexOf(mask) !== i)
    if (twice !== undefined) return yield* new DataError({ detail: `masks: ${twice} is named twice: leave one out` })
    const { jobs = 1 } = options
    if (!(Number.isSafeInteger(jobs) && jobs >= 1)) {
      return yield* new DataError({ detail: `jobs must be a whole number of at least 1, got ${jobs}` })
    }
    return config
  })

// ---------------------------------------------------------------------------------------------------------------
// Whether the checkpoints are of the models

/** What a checkpoint says that it is; undefined where it is too damaged to say so. */
const headOf = ({ path: folder }: SavedModel["saved"][number]) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const file = path.join(folder, "config.json")
    const text = yield* fs.readFileString(file)
    const config = yield* modelConfigOf(yield* parseJson(text), file)
    const tokenizer = yield* Effect.option(fs.readFileString(path.join(folder, "tokenizer.json")))
    return { config, tokenizer: Option.getOrUndefined(tokenizer) }
  }).pipe(Effect.option, Effect.map(Option.getOrUndefined))

/** The item that is there most often, the first of those. */
const mostOften = (items: ReadonlyArray<string>): string | undefined => {
  const counts = new Map<string, number>()
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1)
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0]
}

/**
 * The model that all checkpoints of a folder are; undefined where none of them can be read. Reads no weights, but those of
 * a checkpoint that seems to be of another model: it may only be damaged, which is told when its turn comes. Fails with
 * `CheckpointError` Mismatch, naming the file and what differs.
 */
const checkModel = (
  { arm, saved, seed }: SavedModel,
  { tokenizer }: typeof DataStream.Service
): Effect.Effect<ModelConfig | undefined, CheckpointError, Files> =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    const text = tokenizer.toJSON()
    const heads =
      (yield* Effect.forEach(saved, (one) => Effect.map(headOf(one), (head) => head && { ...one, ...head })))
        .filter((head) => head !== undefined)
    const key = (config: ModelConfig) => JSON.stringify(huggingFaceConfig(config))
    const usual = heads.find(({ config }) => key(config) === mostOften(heads.map(({ config }) => key(config))))?.config
    for (const { config, path: folder, tokenizer: own } of heads) {
      const other = own === undefined || own === text
        ? undefined
        : Option.getOrUndefined(yield* Effect.option(Tokenizer.fromJSON(own)))
      const [file, detail] = key(config) !== key(usual!)
        ? [
          "config.json",
          `is of another model than the other checkpoints of ${arm}, seed ${seed}:\n  ` +
          differences(huggingFaceConfig(config), huggingFaceConfig(usual!)).join("\n  ").replaceAll(", was ",
            ", there ") +
          "\n" +
          "Move it out of the run's folder"
        ] as const
        : config.vocabSize < tokenizer.vocabSize
        ? [
          "config.json",
          `has a vocabulary of ${config.vocabSize}, but the tokenizer of the run's data has ${tokenizer.vocabSize} ` +
          "entries: the data is not what the model was trained on"
        ] as const
        : other !== undefined && !sameTokenizer(other.toJSON(), text)
        ? [
          "tokenizer.json",
          `is another tokenizer than that of the run's data: it has ${other.vocabSize} entries, the data's has ` +
          `${tokenizer.vocabSize}${
            other.vocabSize === tokenizer.vocabSize ? ", and they are not the same" : ""
          }. Bring ` +
          "the data back as it was when the model was trained, or move the checkpoint out of the run's folder"
        ] as const
        : []
      if (file === undefined || Option.isNone(yield* Effect.option(loadInitial(folder)))) continue
      return yield* new CheckpointError({ reason: "Mismatch", path: path.join(folder, file), detail })
    }
    return usual
  })

// ---------------------------------------------------------------------------------------------------------------
// One checkpoint

interface Job {
  readonly model: SavedModel
  readonly config: ModelConfig | undefined
  readonly world: ReplayWorld
  readonly saved: SavedModel["saved"][number]
}

const padded = (step: number): string => String(step).padStart(8, "0")

/** Where what is found of a checkpoint goes. */
const filesOf = (outDir: string, { model: { name, seed }, saved: { step } }: Job) =>
  Effect.map(Path.Path, (path) => {
    const traces = path.join(outDir, "traces", `seed-${seed}`, name)
    const records = path.join(outDir, "records", `seed-${seed}`, name)
    return {
      folders: [traces, records],
      probes: path.join(traces, `probes-${padded(step)}.parquet`),
      quantities: path.join(traces, `quantities-${padded(step)}.parquet`),
      records,
      recordsOf: (mask: MaskState) => path.join(records, recordsFile(step, mask))
    }
  })

/** What an earlier process found of a checkpoint; undefined where a file is missing or is not what it should be. */
const foundBefore = (
  outDir: string,
  job: Job,
  masks: ReadonlyArray<MaskState>
): Effect.Effect<Rows | undefined, never, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const files = yield* filesOf(outDir, job)
    if (job.config === undefined) return undefined
    const states = masksOf(job.config, masks)
    const all = [files.probes, files.quantities, ...states.map(files.recordsOf)]
    const complete = yield* Effect.forEach(all, (file) => fs.exists(file))
    if (complete.includes(false)) return undefined
    const [probes, quantities] = [yield* Traces.readProbes(files.probes),
      yield* Traces.readQuantities(files.quantities)]
    const ours = [...probes, ...quantities].every(({ step }) => step === job.saved.step) &&
      probes.length === states.length * job.world.probed.length
    return ours ? { probes, quantities } : undefined
  }).pipe(Effect.orElseSucceed(() => undefined))

/** Probes a checkpoint, and writes what is found; the probes last, when all else is there. */
const probe = (
  job: Job,
  config: ReplayConfig,
  outDir: string | undefined
): Effect.Effect<Rows, DynamicsError, Device | Files> =>
  Effect.gen(function*() {
    const { model: { arm, seed }, saved: { path, step }, world: { data, probed, repeats, shown } } = job
    const opened = yield* openCheckpoint(path)
    if (opened.step !== step) {
      return yield* new CheckpointError({
        reason: "Corrupt",
        path,
        detail: "has no manifest.json, so nothing says that it is whole: it was not saved here, or that file was lost"
      })
    }
    return yield* Effect.gen(function*() {
      const model = yield* Model
      const masks = masksOf(model.config, config.masks)
      const rows = probed.map(({ row }) => row)
      const looking = { batchSize: data.batchSize, seqLen: data.seqLen, promptTokens: config.promptTokens }
      const probes: Array<ProbeRow> = []
      for (const mask of masks) {
        const known = yield* knowledgeOf(model, rows, sinkModes[mask], looking)
        probed.forEach((one, i) =>
          probes.push(Traces.rounded({
            step,
            sequence: sequenceName(one.row),
            id: one.row.id,
            group: one.group,
            mask,
            ...shown(arm, one, step),
            ...known[i]!
          }))
        )
      }
      const quantities: Array<QuantityRow> = Gradients.rms(yield* Gradients.weights, model.config).map((one) => ({
        step,
        quantity: "weight",
        sequence: "",
        group: "",
        mask: "",
        ...one
      }))
      // nothing is asked of the background but its loss
      if (config.decomposed > 0 && probed.some(({ group }) => group !== BACKGROUND)) {
        // with sinks off what they add is nothing
        const take = yield* shares(config, probed, ["own"], data.seqLen)
        quantities.push(...yield* take(step))
      }
      if (outDir === undefined) return { probes, quantities }
      const files = yield* filesOf(outDir, job)
      yield* Effect.forEach(files.folders, makeFolder, { discard: true })
      for (const mask of masks) {
        const counted = probed.map((one) => ({ ...one, repeats: repeats(arm, one) }))
        yield* recordTokens(files.records, counted, { run: `${arm} seed ${seed}`, step, mask, seqLen: data.seqLen })
      }
      yield* Traces.writeQuantities(files.quantities, quantities)
      yield* Traces.writeProbes(files.probes, probes)
      return { probes, quantities }
    }).pipe(Effect.scoped, Effect.provide(opened.layer))
  })

// ---------------------------------------------------------------------------------------------------------------
// All

/** Checkpoints that a curve needs to say something of its form. */
const FEWEST = 3

const warningsOf = (
  { models, record }: Source,
  worlds: ReadonlyMap<number, ReplayWorld>,
  config: ReplayConfig,
  { whole }: { readonly whole: boolean }
): ReadonlyArray<string> => {
  const few = models.filter(({ saved }) => saved.length < FEWEST)
  const seeds = [...worlds.keys()]
  const missing = whole
    ? (record.seeds ?? seeds).flatMap((seed) =>
      (record.arms ?? []).flatMap((arm) =>
        models.some((model) => model.seed === seed && model.arm === arm) ? [] : [`${arm}, seed ${seed}`]
      )
    )
    : []
  const lacking = (name: string, wanted: number) => {
    const there = Math.min(
      ...[...worlds.values()].map(({ probed }) => probed.filter(({ group }) => group === name).length)
    )
    const option = name === FOILS ? "foils" : "background"
    return config.ids === undefined && there < wanted
      ? [`${option}: ${wanted} sequences were to be probed, but the data has ${there} of their kind`]
      : []
  }
  return [
    ...(seeds.length < 2 ? ["one seed is not a result: nothing has an interval over seeds"] : []),
    ...(few.length === 0 ? [] : [
      `${
        few.map(({ arm, saved, seed }) => `${arm}, seed ${seed} (${saved.length})`).join("; ")
      }: so few checkpoints make ` +
      `no curve, which needs ${FEWEST} or more. Set training.saveLogSpaced to true, and those of steps 1, 2, 4, 8, ... ` +
      "are kept"
    ]),
    ...(missing.length === 0 ? [] : [`there is no checkpoint of ${missing.join("; ")}`]),
    ...lacking(FOILS, config.foils),
    ...lacking(BACKGROUND, config.background)
  ]
}

/**
 * Probes every checkpoint of a finished run: of `memsinks pretrain` or `memsinks dynamics`, all of its models, those of a
 * seed, or one (`runs/a`, `runs/a/seed-1`, `runs/a/seed-1/sinks`). The run's folder is only read. What is probed of a run of
 * `memsinks pretrain`: its repeated sequences by how often an epoch shows them, canaries, some of the others and held-out
 * ones; of `memsinks dynamics`, its groups. Loss, recall and ranks in f32, whatever the run was trained in.
 *
 * Interruptible at any moment: with an `outDir` and `resume`, a later call goes on with the checkpoints that are not done. A
 * checkpoint that fails is reported and does not take the others with it, unless all fail. Fails with a DataError or a
 * CheckpointError before any work for a folder without a run or without checkpoints, ids that the data lacks, and
 * checkpoints of another model or tokenizer.
 */
export const replay = (from: string, options: ReplayOptions): Effect.Effect<DynamicsReport, DynamicsError, Files> =>
  Effect.gen(function*() {
    const began = performance.now()
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const onEvent = options.onEvent ?? (() => Effect.void)
    const stage = (message: string) => onEvent({ _tag: "Stage", message })
    const folder = path.resolve(from)
    const outDir = options.outDir === undefined ? undefined : path.resolve(options.outDir)
    const source = yield* sourceOf(folder)
    const { models, record } = source
    const config = yield* configOf(folder, record, options)
    if (outDir === folder || models.some((model) => model.folder === outDir)) {
      const detail = "is the run itself, which is only read: choose another --out-dir"
      return yield* new DataError({ path: outDir!, detail })
    }
    const steps = Math.max(...models.map(({ saved }) => saved.at(-1)!.step))
    const worlds = new Map<number, ReplayWorld>()
    for (const model of models) {
      if (worlds.has(model.seed)) continue
      const world = record.kind === "dynamics"
        ? yield* dynamicsWorld(record, model, config)
        : yield* pretrainWorld(record, model, steps, config, options.cacheDirectory)
      worlds.set(model.seed, world)
    }
    const { data, tokensPerStep } = [...worlds.values()][0]!
    if (config.promptTokens > data.seqLen) {
      return yield* new DataError({
        detail: `promptTokens is ${config.promptTokens}, but a sequence has ${data.seqLen + 1} tokens: lower it`
      })
    }
    const jobs = (yield* Effect.forEach(models, (model) => {
      const world = worlds.get(model.seed)!
      return Effect.map(checkModel(model, world.data), (config) =>
        model.saved.map((saved): Job => ({ model, config, world, saved })))
    })).flat()
    const seeds = [...worlds.keys()]
    const armNames = [...new Set(models.map(({ arm }) => arm))]
    const manifestOf = (folder: string) =>
      Effect.map(
        Effect.orElseSucceed(fs.readFileString(path.join(folder, "manifest.json")), () => ""),
        (text): Input => ({ what: folder, sha256: keyOf(text) })
      )
    const inputs = Effect.map(
      Effect.all([
        Effect.forEach([...worlds.values()], ({ data }) => Effect.zipRight(data.verify, data.inputs)),
        Effect.forEach(jobs, ({ saved }) => manifestOf(saved.path))
      ]),
      ([data, models]) => [...data.flat(), ...models]
    )
    const recording = outDir === undefined ? undefined : yield* claimFolder(outDir, {
      kind: "dynamics",
      schema: ReplayConfig,
      config,
      seeds,
      arms: armNames,
      inputs
    }, options)
    if (recording !== undefined) yield* recording.madeOf(yield* inputs)

    const done = new Map<Job, Rows>()
    const failed = new Map<Job, DynamicsError>()
    const seconds = new Map<Job, number>()
    if (outDir !== undefined) {
      for (const job of jobs) {
        const rows = yield* foundBefore(outDir, job, config.masks)
        if (rows !== undefined) done.set(job, rows)
      }
      if (done.size > 0) yield* stage(`${done.size} of ${jobs.length} checkpoints are probed already`)
    }

    /** Losses of checkpoints of a model are told by rising step, whichever is done first. */
    const telling = yield* Effect.makeSemaphore(1)
    const untold = new Set<Job>()
    const tell = (last: Job) =>
      telling.withPermits(1)(Effect.gen(function*() {
        const own = jobs.filter(({ model }) => model === last.model)
        for (const job of own) {
          if (!done.has(job) && !failed.has(job)) return
          const rows = done.get(job)
          if (!untold.delete(job) || rows === undefined) continue
          const { model: { arm, saved, seed }, saved: { step } } = job
          yield* stage(`${arm}, seed ${seed}: step ${step} is probed, ${done.size} of ${jobs.length} checkpoints`)
          yield* onEvent({ _tag: "Probed", arm, seed, step, steps: saved.at(-1)!.step, losses: lossesOf(rows.probes) })
        }
      }))

    let adapter = ""
    const attempt = Effect.gen(function*() {
      const device = yield* Device
      adapter = device.name
      if (recording !== undefined) yield* recording.computedOn(device)
      yield* stage(
        `replaying ${jobs.length} checkpoint${jobs.length === 1 ? "" : "s"} of ${models.length} ` +
          `model${models.length === 1 ? "" : "s"} on ${device.name}: ${device.reason}`
      )
      yield* Effect.forEach(jobs, (job) => {
        if (done.has(job) || failed.has(job)) return Effect.void
        const { model: { arm, seed }, saved: { step } } = job
        const began = performance.now()
        return probe(job, config, outDir).pipe(
          Effect.map((rows) => {
            done.set(job, rows)
            untold.add(job)
            seconds.set(job, (performance.now() - began) / 1000)
          }),
          Effect.catchIf((error) => !isLost(error), (error) =>
            Effect.zipRight(
              Effect.sync(() => void failed.set(job, error)),
              stage(`${arm}, seed ${seed}: step ${step} failed: ${error.message}`)
            )),
          Effect.zipRight(tell(job))
        )
      }, { concurrency: options.jobs ?? 1, discard: true })
    }).pipe(Effect.provide(options.device))
    yield* againWhenLost(attempt, stage, "with the other checkpoints")
    if (done.size === 0) return yield* Effect.fail([...failed.values()][0]!)

    const found = models.flatMap((model): ReadonlyArray<Found> => {
      const rows = jobs.flatMap((job) => job.model === model ? done.get(job) ?? [] : [])
      return rows.length === 0 ? [] : [{
        arm: model.arm,
        seed: model.seed,
        rows: { probes: rows.flatMap(({ probes }) => probes), quantities: rows.flatMap(({ quantities }) =>
          quantities
        ) },
        contents: []
      }]
    })
    const byGroup = new Map<string, Group>()
    for (const { groups } of worlds.values()) {
      for (const group of groups) byGroup.set(group.name, byGroup.get(group.name) ?? group)
    }
    const report: DynamicsReport = {
      format: 1,
      from: folder,
      arms: armNames.flatMap((name) => {
        const own = jobs.filter(({ model }) => model.arm === name)
        const model = own.find(({ config }) => config !== undefined)?.config
        if (model === undefined) return []
        const probed = own.every((job) => seconds.has(job) || failed.has(job))
        return [{
          name,
          title: own[0]!.world.titles[name] ?? (arms as Readonly<Record<string, Arm>>)[name]?.title ?? name,
          parameters: model.numParameters,
          activeParameters: model.numActiveParameters,
          ...(probed
            ? {
              probeSeconds: estimate(seeds.map((seed) => {
                const these = own.filter((job) => job.model.seed === seed)
                return these.length === 0 ? undefined : these.reduce((sum, job) => sum + (seconds.get(job) ?? 0), 0)
              }))
            }
            : {})
        }]
      }),
      groups: [...byGroup.values()],
      steps,
      tokensPerStep,
      curves: curvesOf(found, seeds, () => true),
      sawTeeth: [],
      retention: [],
      norms: normsOf(found, seeds),
      shares: sharesOf(found, seeds),
      interference: [],
      contents: [],
      claims: [],
      warnings: warningsOf(source, worlds, config, {
        // not of one seed or model that was named
        whole: models.every((model) => path.dirname(path.dirname(model.folder)) === folder)
      }),
      failures: jobs.flatMap((job) => {
        const error = failed.get(job)
        const { model: { arm, seed }, saved: { step } } = job
        return error === undefined ? [] : [{ arm, seed, message: `step ${step}: ${because(error)}` }]
      }),
      seeds,
      data: { vocabSize: data.tokenizer.vocabSize, seqLen: data.seqLen, promptTokens: config.promptTokens },
      adapter,
      seconds: (performance.now() - began) / 1000,
      config: Schema.encodeSync(ReplayConfig)(config),
      versions: options.versions ?? {}
    }
    if (outDir !== undefined) yield* writeReport(outDir, { encode: Schema.encodeSync(DynamicsReport), view }, report)
    return report
  }).pipe(Effect.scoped)
