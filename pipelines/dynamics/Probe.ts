/**
 * Probes: what is looked at between the steps of a training, when, and what is recorded of it. They never change the model.
 */
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { IGNORE } from "../../src/Batch.ts"
import { batchOf } from "../../src/data/stream/DataStream.ts"
import { sequenceName } from "../../src/data/stream/Packing.ts"
import type { Timetable } from "../../src/data/stream/Timetable.ts"
import type { DataError, DeviceError, KernelError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import { decompose } from "../../src/inside/Decomposition.ts"
import * as Gradients from "../../src/inside/Gradients.ts"
import { mean } from "../../src/measures/Statistics.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import type { ProbeRow, QuantityRow } from "../../src/measures/Traces.ts"
import { Model, type ModelService } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import type { Observer } from "../../src/train/Trainer.ts"
import { makeFolder } from "../experiment/RunFolder.ts"
import { BACKGROUND, type DynamicsArm, type DynamicsConfig, FOILS, type Plan } from "./Config.ts"
import type { MaskState } from "./Report.ts"
import type { TraceLog } from "./TraceLog.ts"
import type { DynamicsWorld, Probed } from "./World.ts"

const sinkModes: Readonly<Record<MaskState, Sink.SinkMode>> = {
  own: Sink.own,
  off: Sink.off,
  placebo: Sink.placebo,
  all: Sink.all
}

/** The states that a model can be probed in, of those that are asked for. */
export const masksOf = (model: ModelConfig, masks: ReadonlyArray<MaskState>): ReadonlyArray<MaskState> =>
  model.sinks === undefined ? ["own"] : masks

// ---------------------------------------------------------------------------------------------------------------
// One look at sequences

/** Sequences of a pass: a few sizes, so that few passes are compiled and little is computed in vain. */
const SIZES = [64, 16, 4] as const

/** Into how many sequences a pass so many are split; the last may be filled up. */
export const passesOf = (count: number, most: number): ReadonlyArray<number> => {
  const sizes = SIZES.filter((size) => size <= Math.max(16, most))
  const passes: Array<number> = []
  for (let left = count; left > 0;) {
    // one pass that is filled up rather than three small ones
    const size = sizes.find((size, i) => left >= size || left > 2 * (sizes[i + 1] ?? 0))!
    passes.push(size)
    left -= size
  }
  return passes
}

/**
 * What a model knows of sequences, each with the sinks of its own id, in some states.
 *
 * @param at `shown`: how often a sequence had been shown by this step, and how long ago
 */
export const knowledgeOf = (
  model: Pick<ModelService, "evaluate">,
  probed: ReadonlyArray<Probed>,
  masks: ReadonlyArray<MaskState>,
  at: { readonly step: number; readonly shown: (one: Probed) => Pick<ProbeRow, "exposures" | "since"> },
  { batchSize, promptTokens, seqLen }: { readonly batchSize: number; readonly promptTokens: number;
    readonly seqLen: number }
): Effect.Effect<ReadonlyArray<ProbeRow>, DeviceError | KernelError | DataError> =>
  Effect.gen(function*() {
    const known: Array<ProbeRow> = []
    for (const mask of masks) {
      let first = 0
      for (const size of passesOf(probed.length, batchSize)) {
        const chunk = probed.slice(first, first += size)
        const scores = yield* scoreRows(model, chunk.map(({ row }) => row), sinkModes[mask], { batchSize: size,
          promptTokens, seqLen })
        scores.forEach(({ logRank, loss, run, suffix, suffixHits, tokens }, i) => {
          const { group, row } = chunk[i]!
          known.push({
            step: at.step,
            sequence: sequenceName(row),
            id: row.id,
            group,
            mask,
            ...at.shown(chunk[i]!),
            loss: loss / tokens,
            logRank: logRank / tokens,
            recall: suffix === 0 ? NaN : suffixHits / suffix,
            run,
            suffix
          })
        })
      }
    }
    return known
  })

/** Sequences a pass of token records. */
const RECORDED = 16

/** Every token of probed sequences with the sinks in some states, kept as `step-00000128.own.parquet` in a folder. */
export const recordTokens = (
  folder: string,
  probed: ReadonlyArray<Probed & { readonly repeats: number }>,
  { masks, run, seqLen, step }: { readonly run: string; readonly step: number; readonly masks: ReadonlyArray<MaskState>;
    readonly seqLen: number }
) =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    yield* makeFolder(folder)
    for (const mask of masks) {
      const records = yield* recordRows(yield* Model, probed.map(({ row }) => row), sinkModes[mask], {
        batchSize: RECORDED,
        seqLen,
        split: "",
        repeats: probed.map(({ repeats }) => repeats)
      })
      const sequences = records.sequences.map((sequence, i) => ({ ...sequence, split: probed[i]!.group }))
      const key = { run, checkpoint: step, mask }
      yield* TokenRecords.write(path.join(folder, recordsFile(step, mask)), key, { ...records, sequences })
    }
  })

/** Where they are. */
export const recordsFile = (step: number, mask: MaskState): string =>
  `step-${String(step).padStart(8, "0")}.${mask}.parquet`

// ---------------------------------------------------------------------------------------------------------------
// When

/** What is looked at after some number of steps. */
interface Due {
  /** Places in the world's `probed`. */
  readonly sequences: Set<number>
  /** Norms and shares. */
  accumulation: boolean
  /** Gradients, of these sequences: before this step, and what it did after it. */
  readonly interference: Set<number>
}

/** Steps since the last exposure that are probed, as far as the run goes: 0, 1, 2, 3, 4, 6, 8, 12, 16, ... */
export const ages = (longest: number): ReadonlyArray<number> => {
  const all = [0, 1]
  for (let age = 2; age <= longest; age *= 2) all.push(age, 1.5 * age)
  return all.filter((age) => age <= longest)
}

/** Sequences of a group whose gradients are compared. */
const COMPARED = 2

/** What is to be probed after each number of steps. */
export const schedule = (
  { config, groups, steps }: Plan,
  { planted, probed }: Pick<DynamicsWorld, "planted" | "probed">
): ReadonlyMap<number, Due> => {
  const all = new Map<number, Due>()
  const at = (step: number): Due => {
    const due = all.get(step) ?? { sequences: new Set(), accumulation: false, interference: new Set() }
    all.set(step, due)
    return due
  }
  const foils = probed.flatMap(({ group }, i) => (group === FOILS ? [i] : []))
  for (let step = 0; step < steps + config.probeEvery; step += config.probeEvery) {
    probed.forEach((_, i) => at(Math.min(step, steps)).sequences.add(i))
  }
  // no more points than steps
  const points = Math.min(config.accumulation, steps)
  for (let i = 0; i <= points && points > 0; i++) at(Math.round((i * steps) / points)).accumulation = true
  const of = new Map(groups.map((group) => [group.name, group]))
  const compared = new Map<string, number>()
  probed.forEach(({ group: name, planted: p }, i) => {
    const group = of.get(name)
    if (p === undefined || group === undefined) return
    const own = planted[p]!.steps
    if (group.teeth) {
      own.forEach((step, e) => {
        if (own[e - 1] !== step - 1) at(step).sequences.add(i)
        if (own[e + 1] === step + 1) return
        // momentum goes on: the lowest loss comes some steps after the exposure
        for (const age of ages((own[e + 1] ?? steps) - step - 1)) at(step + 1 + age).sequences.add(i)
      })
    }
    if (!group.withheld) return
    const last = own.at(-1)! + 1
    for (const age of ages(steps - last)) for (const one of [i, ...foils]) at(last + age).sequences.add(one)
    const count = compared.get(name) ?? 0
    compared.set(name, count + 1)
    if (count >= COMPARED) return
    for (let step = last; step < Math.min(steps, last + config.interference); step++) at(step).interference.add(i)
  })
  return all
}

/** How often a sequence was shown before so many steps are taken, and how long ago; -1: not counted. */
export const shownBy = (
  table: Timetable | undefined,
  { group, planted }: { readonly group: string; readonly planted?: number | undefined },
  step: number
): Pick<ProbeRow, "exposures" | "since"> => {
  if (table === undefined || planted === undefined) return { exposures: group === FOILS ? 0 : -1, since: -1 }
  const { exposures, last } = table.shown(planted, step)
  return { exposures, since: last < 0 ? -1 : step - last - 1 }
}

// ---------------------------------------------------------------------------------------------------------------
// Observing a training

/** What a point of probing tells to whoever watches: mean losses by group and state. */
export type Losses = Readonly<Record<string, number>>

export interface Probes {
  readonly observer: Observer
  /** Seconds spent looking, in this process. */
  readonly seconds: () => number
}

export interface ProbesOptions {
  readonly plan: Plan
  readonly world: DynamicsWorld
  readonly arm: DynamicsArm
  readonly log: TraceLog
  readonly onProbed: (step: number, losses: Losses) => Effect.Effect<void>
}

const quantity = (
  row: Pick<QuantityRow, "step" | "quantity" | "value"> & Partial<QuantityRow>
): QuantityRow => ({ layer: -1, part: "", sequence: "", group: "", mask: "", ...row })

/** Means of the losses of rows, by group and state, in the order of the rows. */
export const lossesOf = (rows: ReadonlyArray<ProbeRow>): Losses => {
  const by = new Map<string, Array<number>>()
  for (const { group, loss, mask } of rows) by.set(`${group}.${mask}`, [...by.get(`${group}.${mask}`) ?? [], loss])
  return Object.fromEntries([...by].map(([name, losses]) => [name, mean(losses)]))
}

/** Norms of weights, and of what the last step moved them by, by layer and part. */
export const norms = (config: ModelConfig) => {
  let before: { readonly step: number; readonly weights: Gradients.ParameterMap } | undefined
  return Effect.fnUntraced(function*(step: number, { record }: { readonly record: boolean }) {
    const weights = yield* Gradients.weights
    const last = before
    before = { step, weights }
    if (!record) return []
    const rows = (quantityName: string, values: Gradients.ParameterMap) =>
      Gradients.rms(values, config).map(({ layer, part, value }) =>
        quantity({ step, quantity: quantityName, layer, part, value })
      )
    return [
      ...rows("weight", weights),
      ...(last?.step === step - 1 ? rows("update", Gradients.difference(weights, last.weights)) : [])
    ]
  })
}

/** The parts of the logits of the first sequences of each group, means over their scored tokens. */
export const shares = (
  config: Pick<DynamicsConfig, "decomposed">,
  probed: ReadonlyArray<Probed>,
  masks: ReadonlyArray<MaskState>,
  seqLen: number
) =>
  Effect.gen(function*() {
    const groups = new Map<string, Array<Probed>>()
    for (const one of probed) groups.set(one.group, [...groups.get(one.group) ?? [], one])
    const chosen = [...groups].filter(([name]) => name !== BACKGROUND).flatMap(([, some]) =>
      some.slice(0, config.decomposed)
    )
    const parts = yield* decompose({ rows: Math.min(16, chosen.length), seqLen })
    const batch = batchOf(chosen.map(({ row }) => row), seqLen)
    return Effect.fnUntraced(function*(step: number) {
      const rows: Array<QuantityRow> = []
      for (const mask of masks) {
        const found = yield* parts.of(batch, sinkModes[mask])
        chosen.forEach(({ group, row }, r) => {
          const scored: Array<number> = []
          for (let t = r * seqLen; t < (r + 1) * seqLen; t++) if (batch.targets[t] !== IGNORE) scored.push(t)
          const add = (layer: number, part: string, logit: Float64Array) =>
            rows.push(quantity({
              step,
              quantity: "logit",
              layer,
              part,
              group,
              mask,
              sequence: sequenceName(row),
              value: mean(scored.map((t) => logit[t]!))
            }))
          for (const { layer, logit, part } of found.parts) add(layer, part, logit)
          add(-1, "logit", found.logit)
        })
      }
      return rows
    })
  })

/** Gradients of sequences against those of the step that comes, and what the step did to them. */
const interference = (
  { arm, plan: { steps }, world: { data, probed, rows: rowsOf } }: Pick<ProbesOptions, "arm" | "plan" | "world">
) =>
  Effect.gen(function*() {
    const model = yield* Model
    const { seqLen } = data
    const rowsAt = rowsOf(arm)
    const ofOne = yield* Gradients.makeGradients({ rows: 1, seqLen })
    const ofBatch = yield* Gradients.makeGradients({ rows: data.batchSize, seqLen })
    interface Before {
      readonly step: number
      readonly weights: Gradients.ParameterMap
      readonly of: ReadonlyArray<
        { readonly probe: Probed; readonly loss: number; readonly gradients: Gradients.ParameterMap }
      >
    }
    let before: Before | undefined
    const take = Effect.fnUntraced(function*(step: number, sequences: ReadonlySet<number>) {
      const rows: Array<QuantityRow> = []
      const all = [...sequences].map((i) => probed[i]!)
      if (before !== undefined && before.step === step - 1) {
        const moved = Gradients.difference(yield* Gradients.weights, before.weights)
        for (const { gradients, loss, probe: { group, row } } of before.of) {
          const labels = { step, group, mask: "own", sequence: sequenceName(row) }
          const predicted = Gradients.innerProducts(gradients, moved, model.config)
          for (const [part, value] of Object.entries(predicted)) {
            rows.push(
              quantity({ ...labels, quantity: "predicted", part, value })
            )
          }
          const now = yield* ofOne.of(batchOf([row], seqLen), Sink.own)
          rows.push(quantity({ ...labels, quantity: "observed", part: "all", value: now.loss - loss }))
        }
      }
      before = undefined
      if (all.length > 0 && step < steps) {
        const other = yield* ofBatch.of(batchOf(rowsAt(step), seqLen), Sink.own)
        const size = Gradients.innerProducts(other.gradients, other.gradients, model.config)
        const of = yield* Effect.forEach(all, (probe) =>
          Effect.map(ofOne.of(batchOf([probe.row], seqLen), Sink.own), ({ gradients, loss }) => {
            const own = Gradients.innerProducts(gradients, gradients, model.config)
            const both = Gradients.innerProducts(gradients, other.gradients, model.config)
            for (const part of ["all", ...Gradients.PARTS] as const) {
              const value = both[part] / Math.sqrt(own[part] * size[part])
              if (!Number.isFinite(value)) continue
              rows.push(
                quantity({ step, quantity: "cosine", part, group: probe.group, mask: "own",
                  sequence: sequenceName(probe.row), value })
              )
            }
            return { probe, loss, gradients }
          }))
        before = { step, weights: yield* Gradients.weights, of }
      }
      return rows
    })
    return take
  })

/**
 * What is to be seen of a training of the Model that is there, kept in a log. Passes are compiled now, so that training is
 * not held up later.
 */
export const makeProbes = (
  { arm, log, onProbed, plan, world }: ProbesOptions
): Effect.Effect<Probes, DeviceError | KernelError | DataError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const model = yield* Model
    const context = yield* Effect.context<Model | Device>()
    const { config } = plan
    const { data, probed } = world
    const masks = masksOf(model.config, config.masks)
    const due = schedule(plan, world)
    const table = world.table(arm)
    const looking = { batchSize: data.batchSize, seqLen: data.seqLen, promptTokens: config.promptTokens }
    const takeNorms = norms(model.config)
    // with sinks off what they add is nothing
    const takeShares = config.accumulation > 0 ? yield* shares(config, probed, ["own"], data.seqLen) : undefined
    const takeInterference = config.interference > 0 ? yield* interference({ arm, plan, world }) : undefined
    const accumulates = (step: number) => due.get(step)?.accumulation === true
    const compares = (step: number) => (due.get(step)?.interference.size ?? 0) > 0

    let seconds = 0
    const look = Effect.fnUntraced(function*(step: number) {
      const began = performance.now()
      const { accumulation, sequences } = due.get(step) ?? { accumulation: false, sequences: new Set<number>() }
      const chosen = [...sequences].sort((a, b) => a - b).map((i) => probed[i]!)
      const shown = (one: Probed) => shownBy(table, one, step)
      const rows = yield* knowledgeOf(model, chosen, masks, { step, shown }, looking)
      log.probes(rows)
      const foils = chosen.flatMap(({ row }) => world.ruled.get(sequenceName(row)) ?? [])
      log.probes(yield* knowledgeOf(model, foils, masks, { step, shown }, looking))
      if (accumulation || accumulates(step + 1)) log.quantities(yield* takeNorms(step, { record: accumulation }))
      if (accumulation && takeShares !== undefined) log.quantities(yield* takeShares(step))
      if (takeInterference !== undefined && (compares(step) || compares(step - 1))) {
        log.quantities(yield* takeInterference(step, due.get(step)?.interference ?? new Set()))
      }
      seconds += (performance.now() - began) / 1000
      if (rows.length > 0) yield* onProbed(step, lossesOf(rows))
    })
    return {
      observer: {
        // a step is seen from both sides
        due: (step) => due.has(step) || compares(step - 1) || accumulates(step + 1),
        look: (step) => Effect.provide(look(step), context)
      },
      seconds: () => seconds
    }
  })
