/**
 * Averages of models' weights (Zaman et al. 2024, Fuse to Forget): what only one of them has memorized fades, what all know
 * stays. They must have begun from the same weights, or their neurons do not correspond.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import { attempt, CheckpointError, DataError } from "../Errors.ts"
import type { HostTensor } from "../HostTensor.ts"
import { differences } from "../Json.ts"
import { endIds, huggingFaceConfig } from "../model/HuggingFace.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import { SinkConfig } from "../Sink.ts"
import * as Checkpoints from "./Checkpoints.ts"
import { type InitialModel, loadInitial } from "./Import.ts"
import { deadUnits, erase } from "./Units.ts"

type Tensors = Readonly<Record<string, HostTensor>>

/** How models are averaged. */
export interface FuseOptions {
  /** How much each model counts, of any sign; divided by their sum, which must be above 0. Default: all alike. */
  readonly weights?: ReadonlyArray<number>
  /** The same of single blocks, by their number from 0, instead of `weights`. */
  readonly layers?: Readonly<Record<number, ReadonlyArray<number>>>
  /**
   * Each model's diagonal Fisher information (`Gradients.fisher`), by which every single weight counts besides
   * (Matena and Raffel 2022). Where it is 0 in all of them, `weights` alone count; these must then not be negative.
   */
  readonly fisher?: ReadonlyArray<Tensors>
}

const refuse = (detail: string): never => {
  throw new DataError({ detail: `models cannot be fused: ${detail}` })
}

const shares = (weights: ReadonlyArray<number>, models: number, what: string,
  signed: boolean): ReadonlyArray<number> =>
{
  const sum = weights.reduce((a, b) => a + b, 0)
  if (weights.length !== models) refuse(`${what} are ${weights.length} numbers for ${models} models: give one a model`)
  if (!(Number.isFinite(sum) && sum > 0)) {
    refuse(`${what} must be numbers whose sum is above 0, got ${weights.join(", ")}`)
  }
  const negative = signed ? undefined : weights.find((weight) => weight < 0)
  if (negative !== undefined) refuse(`${what} must not be negative beside fisher, got ${negative}`)
  return weights.map((weight) => weight / sum)
}

/** What each model counts by, in all and in single blocks; together 1. Throws a DataError for what makes no average. */
const sharesOf = (models: number, { layers = {}, weights }: Pick<FuseOptions, "weights" | "layers">,
  signed: boolean) => ({
    all: shares(weights ?? Array.from({ length: models }, () => 1), models, "weights", signed),
    ofLayer: new Map(
      Object.entries(layers).map(([layer, weights]) => [
        Number(layer),
        shares(weights, models, `weights of block ${layer}`, signed)
      ])
    )
  })

/**
 * What is wrong with options for so many models of so many blocks, before there are any; `fisher`: whether their Fisher
 * information counts. Undefined: nothing.
 */
export const fuseProblem = (
  models: number,
  blocks: number,
  { fisher, ...options }: Pick<FuseOptions, "weights" | "layers"> & { readonly fisher: boolean }
): string | undefined => {
  try {
    const { ofLayer } = sharesOf(models, options, !fisher)
    const unknown = [...ofLayer.keys()].find((layer) => layer >= blocks)
    return unknown === undefined ? undefined : `there is no block ${unknown}: there are 0 to ${blocks - 1}`
  } catch (error) {
    if (!(error instanceof DataError)) throw error
    return error.detail
  }
}

/** Throws a DataError that names the first tensor that one of the models has and another has not, or in another shape. */
const checkAlike = (models: ReadonlyArray<Tensors>, what: string): void => {
  const [first, ...others] = models as [Tensors, ...Array<Tensors>]
  others.forEach((other, i) => {
    for (const [a, b, lacks] of [[first, other, i + 2], [other, first, 1]] as const) {
      const missing = Object.keys(a).find((name) => b[name] === undefined)
      if (missing !== undefined) refuse(`${what} ${lacks} has no tensor ${missing}: they must be of one configuration`)
    }
    for (const [name, { shape }] of Object.entries(first)) {
      const found = other[name]!.shape
      if (found.join() !== shape.join()) {
        refuse(`tensor ${name} is [${shape.join(", ")}] in ${what} 1 and [${found.join(", ")}] in ${what} ${i + 2}: ` +
          "they must be of one configuration")
      }
    }
  })
}

/**
 * The average of models, tensor by tensor: sum of c_i x_i, with `fisher` sum of c_i f_i x_i / sum of c_i f_i. Tensors of
 * whole numbers must be the same in all. Throws a DataError for fewer than two models, or where they or the options do not
 * go together.
 */
export const fuse = (models: ReadonlyArray<Tensors>, options: FuseOptions = {}): Record<string, HostTensor> => {
  if (models.length < 2) refuse(`an average needs two models or more, got ${models.length}`)
  checkAlike(models, "model")
  const { fisher } = options
  if (fisher !== undefined) {
    if (fisher.length !== models.length) refuse(`fisher is of ${fisher.length} models, and there are ${models.length}`)
    checkAlike([models[0]!, ...fisher], "fisher information of model")
  }
  const { all, ofLayer } = sharesOf(models.length, options, fisher === undefined)
  const blocks = new Set(Object.keys(models[0]!).map(blockOf))
  const unknown = [...ofLayer.keys()].find((layer) => !blocks.has(layer))
  if (unknown !== undefined) refuse(`layers names block ${unknown}, which the models do not have`)

  return Object.fromEntries(Object.entries(models[0]!).map(([name, { data, shape }]) => {
    const values = models.map((model) => model[name]!.data)
    if (data instanceof Uint32Array) {
      if (values.some((other) => other.some((x, i) => x !== data[i]))) refuse(`tensor ${name} of whole numbers differs`)
      return [name, { shape, data }]
    }
    const c = ofLayer.get(blockOf(name)) ?? all
    const information = fisher?.map((one) => one[name]!.data)
    return [name, { shape, data: data.map((_, i) => average(values, c, information, i)) }]
  }))
}

/** The block that a tensor is of; -1: of none. */
const blockOf = (name: string): number => Number(/\blayers\.(\d+)\./.exec(name)?.[1] ?? -1)

const average = (
  values: ReadonlyArray<ArrayLike<number>>,
  c: ReadonlyArray<number>,
  fisher: ReadonlyArray<ArrayLike<number>> | undefined,
  i: number
): number => {
  let [sum, weight, plain] = [0, 0, 0]
  for (let m = 0; m < values.length; m++) {
    const w = fisher === undefined ? c[m]! : c[m]! * fisher[m]![i]!
    sum += w * values[m]![i]!
    weight += w
    plain += c[m]! * values[m]![i]!
  }
  return fisher !== undefined && weight > 0 ? sum / weight : plain
}

/**
 * How alike two models' matrices are: the cosine between all their elements. Two that began from different random weights
 * have about 0, however long and on whatever they trained; what began alike keeps some of it.
 */
export const kinship = (a: Tensors, b: Tensors): number => {
  let [ab, aa, bb] = [0, 0, 0]
  for (const [name, { data: x, shape }] of Object.entries(a)) {
    const y = b[name]?.data
    // norms begin at 1 in every model
    if (shape.length < 2 || y === undefined) continue
    for (let i = 0; i < x.length; i++) {
      ab += x[i]! * y[i]!
      aa += x[i]! ** 2
      bb += y[i]! ** 2
    }
  }
  return ab / Math.sqrt(aa * bb)
}

/** Below this kinship models are taken to have begun from different weights. */
const KIN = 0.1

/** What a user should know before models are fused; undefined where they are kin. */
export const strangers = (models: ReadonlyArray<Tensors>): string | undefined => {
  const far = models.findIndex((model) => !(kinship(models[0]!, model) >= KIN))
  return far < 0 ?
    undefined :
    `models 1 and ${far + 1} have nothing in common (cosine of their weights ${
      kinship(models[0]!, models[far]!).toFixed(3)
    }): they seem to have begun from different weights, and then their average computes nothing`
}

/** A configuration before anything was deleted. */
const ofAll = (config: ModelConfig): ModelConfig => {
  if (config.sinks === undefined) return config
  const { denied: _, excluded: __, ...sinks } = { ...config.sinks }
  return new ModelConfig({ ...config, sinks: new SinkConfig(sinks) })
}

/** The model from which most was deleted. Fails where another was deleted from otherwise, or survivors of it were refreshed. */
const mostDeleted = (models: ReadonlyArray<InitialModel>): Effect.Effect<InitialModel, CheckpointError> =>
  Effect.gen(function*() {
    const ledger = ({ deletions = "" }: InitialModel) => deletions
    const most = models.reduce((a, b) => ledger(b).length > ledger(a).length ? b : a)
    const elsewhere = models.find((one) => !ledger(most).startsWith(ledger(one)))
    if (elsewhere !== undefined) {
      const detail =
        `what was deleted from it is not the beginning of what was deleted from ${most.path} (deletions.jsonl): ` +
        "fuse first, and delete from what was fused"
      return yield* new CheckpointError({ reason: "Mismatch", path: elsewhere.path, detail })
    }
    for (const one of models) {
      // of these units the average would hold what another still has there
      if (/"operation":"refresh"/.test(ledger(most).slice(ledger(one).length))) {
        const detail =
          `of it those were not deleted whose sinks were refreshed in ${most.path}: fuse first, and refresh what was fused`
        return yield* new CheckpointError({ reason: "Mismatch", path: one.path, detail })
      }
    }
    return most
  })

/** What was fused. */
export interface FuseReport {
  readonly path: string
  readonly from: ReadonlyArray<string>
  /** Each model's share; together 1. */
  readonly weights: ReadonlyArray<number>
  /** Of the first model with each of the others, least first. */
  readonly kinship: ReadonlyArray<number>
  readonly parameters: number
  /** What a user should know. */
  readonly notes: ReadonlyArray<string>
}

/**
 * Writes the average of checkpoints to `out`, which must not exist, as a checkpoint to go on from; tokenizer and names of
 * ids are the first one's. Where more was deleted from one than from others, it is deleted from the average: all ledgers must be
 * beginnings of one of them. Each is given as `loadInitial` takes it. Fails with `CheckpointError` where one is damaged, and
 * with `DataError` where they do not go together.
 */
export const fuseCheckpoints = (
  from: ReadonlyArray<string>,
  out: string,
  options: Pick<FuseOptions, "weights" | "layers"> = {}
): Effect.Effect<FuseReport, CheckpointError | DataError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const models = yield* Effect.forEach(from, (path) => loadInitial(path))
    const tensors = models.map((model) => model.tensors)
    const model = yield* attempt(() => fuse(tensors, options), DataError)
    const first = models[0]!
    const shapeOf = ({ config }: InitialModel) => huggingFaceConfig(ofAll(config))
    const other = models.find((one) => JSON.stringify(shapeOf(one)) !== JSON.stringify(shapeOf(first)))
    if (other !== undefined) {
      const detail =
        `is of another configuration than ${first.path}: models that are fused share all of theirs, heads ` +
        "and sinks included (" +
        differences(shapeOf(other), shapeOf(first)).slice(0, 2)
          .map((line) => line.replace(/ is .*/s, "")).join(", ") +
        ")"
      return yield* new CheckpointError({ reason: "Mismatch", path: other.path, detail })
    }
    const most = yield* mostDeleted(models)
    const stranger = strangers(tensors)
    const path = yield* Checkpoints.saveModel(out, {
      config: { ...huggingFaceConfig(most.config), ...endIds(first.ends) },
      // what one has erased, the average would have back of another
      model: erase(most.config, model, deadUnits(most.config, most.tensors)),
      tokenizer: first.tokenizer,
      names: first.names?.bytes,
      deletions: most.deletions
    })
    return {
      path,
      from: models.map((one) => one.path),
      weights: shares(options.weights ?? models.map(() => 1), models.length, "weights", true),
      kinship: tensors.slice(1).map((other) => kinship(tensors[0]!, other)).sort((a, b) => a - b),
      parameters: first.config.numParameters,
      notes: [
        ...(stranger === undefined ? [] : [stranger]),
        ...(models.every(({ tokenizer }) => tokenizer === first.tokenizer)
          ? []
          : [`their tokenizers differ: that of ${first.path} goes along`])
      ]
    }
  })
