/**
 * What everything that an isolation experiment keeps depends on: the keys of its store, as plain data. A thing that is
 * found under its key is taken for what would be computed now, so a key holds all that its value can depend on: data,
 * settings, seed, adapter and kernels, the keys of what it is made from, and the number of the code that computes it.
 */
import * as Schema from "effect/Schema"
import type { Input } from "../../src/data/stream/DataStream.ts"
import type { Machine } from "../../src/gpu/Machine.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { type Arm, arms, fusionOf, modelOf, type NamedArm, partsOf, streamOf, trainingOf } from "../experiment/Arms.ts"
import type { IsolateConfig } from "./Config.ts"
import type { MaskState, MetricKey, Panel, Variant } from "./Report.ts"
import type { LocalizerMethod, UnlearnerMethod } from "./Sweeps.ts"
import { withSeed, WorldConfig } from "./World.ts"

/**
 * Numbers of the code behind each kind of thing. Raise one whenever its computation gives other values, in whatever file
 * that is: what was kept before is then computed anew, and so is all that is made from it.
 */
const versions = {
  /** What is drawn and split of the data, and how a model is trained: also kernels, data streams, optimizers, initial weights. */
  models: 2,
  records: 2,
  said: 2,
  /** What is measured of records, and of what is said. */
  looks: 1,
  losses: 2,
  localizers: 2,
  sweeps: 2,
  unlearning: 2,
  relearning: 2,
  hygiene: 2,
  interference: 2,
  recall: 2,
  /** Of what attacks are given; each has a number of its own besides. */
  attacks: 2
} as const
export type Kind = keyof typeof versions

/** Sequences that a pass records at once. */
export const ROWS = 16

/** Rows of the checks of single sequences. */
export const CHECKED_ROWS = 4

/** Enough for one bias a vocabulary entry; each step of the fit goes over all their logits. */
export const CALIBRATION_TOKENS = 2048

/** Held-out sequences that are scored while a model learns again: enough to see what that costs. */
export const RELEARN_HELD_OUT = 32

/** What all jobs of a seed depend on. */
export interface Setup {
  readonly config: IsolateConfig
  readonly seed: number
  readonly steps: number
  readonly vocabSize: number
  readonly inputs: ReadonlyArray<Input>
  readonly machine: Machine
}

export type Key = { readonly kind: Kind; readonly version: number } & Readonly<Record<string, unknown>>

const key = (kind: Kind, of: Readonly<Record<string, unknown>>): Key => ({ kind, version: versions[kind], ...of })

/** How an arm is trained, all defaults spelled out. */
export const trainingOfArm = ({ config, steps }: Pick<Setup, "config" | "steps">, arm: NamedArm): TrainConfig =>
  trainingOf(
    new TrainConfig({
      ...config.training,
      steps,
      evalEvery: config.evaluations === 0 ? 0 : Math.max(1, Math.floor(steps / config.evaluations))
    }),
    arm
  )

/** Sequences of its own training by which a model's Fisher information is known. */
export const FISHER_SEQUENCES = 64

/** How models are averaged, where that is not as it is unless told. */
const fusionKey = (arm: NamedArm): Readonly<Record<string, unknown>> => {
  const { fisher, ...rest } = fusionOf(arm)
  return { ...rest, ...(fisher ? { fisher: FISHER_SEQUENCES } : {}) }
}

/** A trained model, with its curves. How often it was saved on its way changes neither. */
export const model = (setup: Setup, arm: NamedArm): Key => {
  const { config, inputs, machine, seed, vocabSize } = setup
  const { saveBest: _, saveEvery: __, saveLogSpaced: ___, ...training } = Schema.encodeSync(TrainConfig)(
    trainingOfArm(setup, arm)
  )
  return key("models", {
    // without the first seed, so that experiments with other seeds find their models
    world: Schema.encodeSync(WorldConfig)(withSeed(config.world, 0)),
    inputs: inputs.map(({ sha256 }) => sha256),
    seed,
    stream: streamOf(arm),
    ...(partsOf(arm).length === 0 ? {} : { average: partsOf(arm).length, ...fusionKey(arm) }),
    model: Schema.encodeSync(ModelConfig)(modelOf(config.model, vocabSize, arm)),
    training,
    precision: config.precision,
    machine: { ...machine }
  })
}

/** Token records of a model in a state; `run` is what the file calls it. */
export const records = (of: Key, run: string, state: MaskState): Key =>
  key("records", { of, run, state, rows: ROWS, ...(state === "calibrated" ? { tokens: CALIBRATION_TOKENS } : {}) })

/** What a model says greedily. */
export const said = (of: Key, state: MaskState, window: { readonly context: number; readonly length: number }): Key =>
  key("said", { of, state, window: { ...window }, rows: ROWS })

/** All that is measured of a model, in every state. */
export const looks = (
  of: Key,
  options: {
    readonly metrics: ReadonlyArray<Pick<MetricKey, "metric" | "context">>
    readonly windows: ReadonlyArray<{ readonly context: number; readonly length: number }>
    readonly generate: boolean
    /** The oracle. */
    readonly reference: Key | undefined
  }
): Key =>
  key("looks", { of, ...options, records: versions.records, said: versions.said, rows: ROWS,
    tokens: CALIBRATION_TOKENS })

/** Mean losses of the splits that sweeps are looked at by. */
export const losses = (of: Key, state: "own" | "off"): Key => key("losses", { of, state, rows: ROWS })

/** The scores of a localizer. */
export const localizer = (
  of: Key,
  method: LocalizerMethod["method"],
  options: Readonly<Record<string, unknown>>,
  panel: Panel,
  common: { readonly promptTokens: number; readonly seqLen: number; readonly seed: number }
): Key => key("localizers", { of, method, options, panel, ...common, rows: ROWS })

/** Losses after each share of the neurons that a localizer ranks highest is dropped. */
export const localizerSweep = (scores: Key, fractions: ReadonlyArray<number>): Key =>
  key("sweeps", { of: scores, fractions: [...fractions], rows: ROWS })

/** Losses along the steps of an unlearner. */
export const unlearning = (
  of: Key,
  method: UnlearnerMethod["method"],
  options: Readonly<Record<string, unknown>>,
  seed: number
): Key => key("unlearning", { of, method, options, seed, rows: ROWS })

/** The model at a point of a sweep. */
export const atPoint = (sweep: Key, point: { readonly fraction?: number; readonly step?: number }): Key =>
  key("sweeps", { of: sweep, ...(point.fraction === undefined ? { step: point.step } : { fraction: point.fraction }) })

/** Losses while a model learns again. */
export const relearning = (
  of: Key,
  options: {
    readonly learningRates: ReadonlyArray<number>
    readonly steps: number
    readonly batchSize: number
    readonly seqLen: number
    readonly seed: number
  }
): Key =>
  key("relearning", { of, ...options, learningRates: [...options.learningRates], mode: "off",
    heldOut: RELEARN_HELD_OUT })

export const hygiene = (of: Key, optimizer: unknown, seed: number): Key =>
  key("hygiene", { of, optimizer, seed, rows: CHECKED_ROWS })

export const interference = (of: Key, ladder: ReadonlyArray<number>, seed: number): Key =>
  key("interference", { of, ladder: [...ladder], seed, rows: CHECKED_ROWS })

/** What an attack gets out of a model; `version` is the number of the attack's own code. */
export const attack = (
  of: Key,
  { version: code, ...options }: {
    readonly attack: string
    readonly version: number
    readonly options: Readonly<Record<string, unknown>>
    readonly sequences: number | undefined
    readonly state: MaskState
    readonly seed: number
    /** The oracle, of an attack that looks at it. */
    readonly reference: Key | undefined
    /** The standard model, of an attack that looks at it. */
    readonly standard?: Key
  }
): Key => key("attacks", { of, code, ...options, rows: ROWS })

/** How well a localizer finds the sinks that are known. */
export const recall = (scores: Key): Key => key("recall", { of: scores })

/** What is different about a variant of an arm; undefined of an arm as it is. */
export const variantOf = ({ arm, hiddenSize, idNoise, name, sinks }: NamedArm): Variant | undefined =>
  name === arm ? undefined : {
    arm,
    ...(sinks === undefined ? {} : { share: sinks.active / sinks.pool }),
    ...(idNoise === undefined ? {} : { idNoise }),
    ...(hiddenSize === undefined ? {} : { hiddenSize })
  }

/** The title of an arm. */
export const titleOf = ({ arm, name }: NamedArm): string =>
  name === arm ? (arms[arm] as Arm).title : `${(arms[arm] as Arm).title}; ${name}`
