/**
 * Probes replayed on a run that is finished: what each of its checkpoints knew of the sequences that it was trained on, and
 * where, as if the run had been probed at those steps. Curves have a point a checkpoint, so a run that kept many
 * (`training.saveLogSpaced`) says most.
 *
 *     seed-1/sinks/traces/probes/step-00000128.parquet        what the checkpoint of step 128 knows, see src/measures/Traces.ts
 *     seed-1/sinks/traces/quantities/step-00000128.parquet    norms of its weights, and parts of its logits
 *     seed-1/sinks/traces/records/step-00000128.own.parquet   every token that was probed, see src/measures/TokenRecords.ts
 *     report.json                                             a DynamicsReport
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { dirname } from "node:path"
import { openCheckpoint } from "../../src/checkpoints/OpenCheckpoint.ts"
import { type Input } from "../../src/data/stream/DataStream.ts"
import { CheckpointError, DataError } from "../../src/Errors.ts"
import { type Device } from "../../src/gpu/Device.ts"
import { keyOf } from "../../src/Key.ts"
import type { QuantityRow } from "../../src/measures/Traces.ts"
import * as Traces from "../../src/measures/Traces.ts"
import { Model } from "../../src/model/Model.ts"
import { type ModelConfig } from "../../src/model/ModelConfig.ts"
import { type SavedModel } from "../../src/runs/Runs.ts"
import { type Arm, arms } from "../experiment/Arms.ts"
import * as Experiment from "../experiment/Experiment.ts"
import { makeFolder } from "../experiment/RunFolder.ts"
import { type Files } from "../experiment/Train.ts"
import { estimate } from "../report/Estimate.ts"
import { several } from "../report/View.ts"
import { BACKGROUND, FOILS } from "./Config.ts"
import { knowledgeOf, lossesOf, masksOf, norms, recordsFile, recordTokens, shares } from "./Probe.ts"
import { type Asked, checkModel, configOf, ReplayConfig, type Source, sourceOf } from "./ReplaySource.ts"
import { dynamicsWorld, pretrainWorld, type ReplayWorld } from "./ReplayWorld.ts"
import { DynamicsReport, type Group, type MaskState } from "./Report.ts"
import * as Summary from "./Summary.ts"
import { type Rows } from "./TraceLog.ts"
import { type DynamicsError } from "./Train.ts"
import { view } from "./view.ts"
import type { Probed } from "./World.ts"

export interface ReplayOptions extends Omit<Experiment.RunOptions, "store">, Asked {}

interface Checkpoint {
  readonly model: SavedModel
  readonly config: ModelConfig | undefined
  readonly world: ReplayWorld
  readonly saved: SavedModel["saved"][number]
}

/** Where what is found of a checkpoint goes. */
const filesOf = (outDir: string, { model: { name, seed }, saved: { step } }: Checkpoint) =>
  Effect.map(Path.Path, (path) => {
    const traces = path.join(outDir, `seed-${seed}`, name, "traces")
    const folderOf = (table: string) => path.join(traces, table)
    const part = `step-${String(step).padStart(8, "0")}.parquet`
    return {
      probes: path.join(folderOf("probes"), part),
      quantities: path.join(folderOf("quantities"), part),
      records: folderOf("records"),
      recordsOf: (mask: MaskState) => path.join(folderOf("records"), recordsFile(step, mask))
    }
  })

/** What an earlier process found of a checkpoint; undefined where a file is missing or is not what it should be. */
const foundBefore = (
  outDir: string,
  job: Checkpoint,
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
  job: Checkpoint,
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
      const looking = { batchSize: data.batchSize, seqLen: data.seqLen, promptTokens: config.promptTokens }
      const at = { step, shown: (one: Probed) => shown(arm, one, step) }
      const probes = (yield* knowledgeOf(model, probed, masks, at, looking)).map(Traces.rounded)
      const quantities: Array<QuantityRow> = [...yield* norms(model.config)(step, { record: true })]
      // nothing is asked of the background but its loss
      if (config.decomposed > 0 && probed.some(({ group }) => group !== BACKGROUND)) {
        // with sinks off what they add is nothing
        const take = yield* shares(config, probed, ["own"], data.seqLen)
        quantities.push(...yield* take(step))
      }
      if (outDir === undefined) return { probes, quantities }
      const files = yield* filesOf(outDir, job)
      yield* Effect.forEach([files.probes, files.quantities], (file) => makeFolder(dirname(file)), { discard: true })
      const counted = probed.map((one) => ({ ...one, repeats: repeats(arm, one) }))
      yield* recordTokens(files.records, counted, { run: `${arm} seed ${seed}`, step, masks, seqLen: data.seqLen })
      yield* Traces.writeQuantities(files.quantities, quantities)
      yield* Traces.writeProbes(files.probes, probes)
      return { probes, quantities }
    }).pipe(Effect.scoped, Effect.provide(opened.layer))
  })

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

/** What is found of a checkpoint; seconds where it was in this process. */
interface Found {
  readonly rows: Rows
  readonly seconds?: number
}

const replaying: Experiment.Experiment<
  ReplayOptions & { readonly from: string },
  ReplayConfig,
  ReadonlyMap<Checkpoint, Found>,
  DynamicsReport
> = {
  kind: "dynamics",
  schema: ReplayConfig,
  again: "with the other checkpoints",
  encode: Schema.encodeSync(DynamicsReport),
  view,
  plan: ({ from, ...options }, { streams }) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const source = yield* sourceOf(from)
      const { models, record } = source
      const config = yield* configOf(from, record, options)
      const outDir = options.outDir && path.resolve(options.outDir)
      if (outDir !== undefined && [from, ...models.map(({ folder }) => folder)].includes(outDir)) {
        const detail = "is the run itself, which is only read: choose another --out-dir"
        return yield* new DataError({ path: outDir, detail })
      }
      const steps = Math.max(...models.map(({ saved }) => saved.at(-1)!.step))
      const worlds = new Map<number, ReplayWorld>()
      for (const model of models) {
        if (worlds.has(model.seed)) continue
        const world = record.kind === "dynamics"
          ? yield* dynamicsWorld(record, model, config, streams)
          : yield* pretrainWorld(record, model, steps, config, streams)
        worlds.set(model.seed, world)
      }
      const { data, tokensPerStep } = [...worlds.values()][0]!
      if (config.promptTokens > data.seqLen) {
        return yield* new DataError({
          detail: `promptTokens is ${config.promptTokens}, but a sequence has ${data.seqLen + 1} tokens: lower it`
        })
      }
      const checkpoints = (yield* Effect.forEach(models, (model) => {
        const world = worlds.get(model.seed)!
        return Effect.map(checkModel(model, world.data),
          (config) => model.saved.map((saved): Checkpoint => ({ model, config, world, saved })))
      })).flat()
      const seeds = [...worlds.keys()]
      const armNames = [...new Set(models.map(({ arm }) => arm))]
      const manifestOf = (folder: string) =>
        Effect.map(
          Effect.orElseSucceed(fs.readFileString(path.join(folder, "manifest.json")), () => ""),
          (text): Input => ({ what: folder, sha256: keyOf(text) })
        )

      // outlive a lost device
      const found = new Map<Checkpoint, Found>()
      const untold = new Set<Checkpoint>(checkpoints)
      const tried = new Set<Checkpoint>()
      const telling = yield* Effect.makeSemaphore(1)
      return {
        config,
        seeds,
        arms: armNames,
        inputs: Effect.map(
          Effect.all([
            Effect.forEach([...worlds.values()], ({ data }) => data.inputs),
            Effect.forEach(checkpoints, ({ saved }) => manifestOf(saved.path))
          ]),
          ([data, models]) => [...data.flat(), ...models]
        ),
        verify: Effect.forEach([...worlds.values()], ({ data }) => data.verify, { discard: true }),
        title: `replaying ${several(checkpoints.length, "checkpoint")} of ${several(models.length, "model")}`,
        work: ({ attempt, onEvent, outDir, runner, stage }) =>
          Effect.gen(function*() {
            /** Losses of checkpoints of a model are told by rising step, whichever is done first. */
            const tell = ({ model }: Checkpoint) =>
              telling.withPermits(1)(Effect.gen(function*() {
                for (const one of checkpoints.filter((one) => one.model === model && untold.has(one))) {
                  if (!tried.has(one)) return
                  untold.delete(one)
                  const rows = found.get(one)?.rows
                  if (rows === undefined) continue
                  const { model: { arm, saved, seed }, saved: { step } } = one
                  yield* stage(
                    `${arm}, seed ${seed}: step ${step} is probed, ${found.size} of ${checkpoints.length} checkpoints`
                  )
                  yield* onEvent({ _tag: "Probed", arm, seed, step, steps: saved.at(-1)!.step,
                    losses: lossesOf(rows.probes) })
                }
              }))
            for (const one of outDir === undefined || found.size > 0 ? [] : checkpoints) {
              const rows = yield* foundBefore(outDir!, one, config.masks)
              if (rows === undefined) continue
              found.set(one, { rows })
              untold.delete(one)
            }
            if (found.size > 0) yield* stage(`${found.size} of ${checkpoints.length} checkpoints are probed already`)
            yield* runner(checkpoints, (one) => {
              if (found.has(one)) return Effect.void
              const { model: { arm, seed }, saved: { step } } = one
              return attempt({ arm, seed, what: `step ${step}` }, Effect.timed(probe(one, config, outDir))).pipe(
                Effect.map(Option.map(([time, rows]) => found.set(one, { rows, seconds: Duration.toSeconds(time) }))),
                Effect.zipRight(Effect.sync(() => tried.add(one))),
                Effect.zipRight(tell(one))
              )
            })
            return found
          }),
        report: (found, run, error) =>
          Effect.gen(function*() {
            if (found.size === 0) return yield* Effect.fail(error)
            const left = models.flatMap((model): ReadonlyArray<Summary.Found> => {
              const rows = checkpoints.flatMap((one) => one.model === model ? found.get(one)?.rows ?? [] : [])
              return rows.length === 0 ? [] : [{
                arm: model.arm,
                seed: model.seed,
                rows: {
                  probes: rows.flatMap(({ probes }) => probes),
                  quantities: rows.flatMap(({ quantities }) => quantities)
                },
                contents: []
              }]
            })
            const byGroup = new Map<string, Group>()
            for (const { groups } of worlds.values()) {
              for (const group of groups) byGroup.set(group.name, byGroup.get(group.name) ?? group)
            }
            return {
              format: 1 as const,
              from,
              arms: armNames.flatMap((name) => {
                const own = checkpoints.filter(({ model }) => model.arm === name)
                const model = own.find(({ config }) => config !== undefined)?.config
                if (model === undefined) return []
                const probeSeconds = estimate(seeds.map((seed) => {
                  const these = own.filter((one) => one.model.seed === seed)
                  return these.length === 0
                    ? undefined
                    : these.reduce((sum, one) => sum + (found.get(one)?.seconds ?? 0), 0)
                }))
                return [{
                  name,
                  title: own[0]!.world.titles[name] ?? (arms as Readonly<Record<string, Arm>>)[name]?.title ?? name,
                  parameters: model.numParameters,
                  activeParameters: model.numActiveParameters,
                  // not where an earlier process did some
                  ...(own.every((one) => tried.has(one)) ? { probeSeconds } : {})
                }]
              }),
              groups: [...byGroup.values()],
              steps,
              tokensPerStep,
              curves: Summary.curvesOf(left, seeds, () => true),
              sawTeeth: [],
              retention: [],
              norms: Summary.normsOf(left, seeds),
              shares: Summary.sharesOf(left, seeds),
              interference: [],
              contents: [],
              claims: [],
              warnings: warningsOf(source, worlds, config, {
                // not of one seed or model that was named
                whole: models.every((model) => path.dirname(path.dirname(model.folder)) === from)
              }),
              data: { vocabSize: data.tokenizer.vocabSize, seqLen: data.seqLen, promptTokens: config.promptTokens },
              ...run
            }
          })
      }
    })
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
  Effect.flatMap(Path.Path, (path) => Experiment.run(replaying, { ...options, from: path.resolve(from) }, options))
