/**
 * What methods after training are tried with: every option of a localizer or an unlearner can be set, or given as a list to
 * be swept. One that is only named is swept over what its authors sweep, as far as that is meant for models of this size.
 */
import * as Schema from "effect/Schema"
import { atLeast0, fraction, natural, positive, rate } from "../../src/Config.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import { type LocalizeOptions, type LocalizerName, localizers } from "../../src/removal/localizers/index.ts"
import { type UnlearnerName, unlearners, type UnlearnOptions } from "../../src/removal/unlearners/index.ts"

/** A value, or several to be tried in turn. */
const some = <A, I>(schema: Schema.Schema<A, I>) => Schema.optional(Schema.Union(schema, Schema.NonEmptyArray(schema)))

/** A localizer with options of its own; a list is swept, and what is left out has the localizer's default. */
export const LocalizerConfig = Schema.Struct({
  /** Which localizer. */
  localizer: Schema.NonEmptyString,
  /** What the report calls it. Default: the localizer's name. */
  name: Schema.optional(Schema.NonEmptyString),
  /** Of activations: the mean of |h|, or |the mean of h|. */
  mean: some(Schema.Literal("absolute", "signed")),
  /** Of integratedGradients from silent to as they are; of slimming and hardConcrete of Adam. */
  steps: some(positive),
  /** Of slimming and hardConcrete: weight of the penalty. */
  lambda: some(atLeast0),
  /** Of slimming and hardConcrete: of Adam. */
  learningRate: some(rate),
  /** Of slimming and hardConcrete: learning ends when the penalty is below this. */
  stopBelow: some(atLeast0),
  /** Of hardConcrete: how soft the draws are. */
  temperature: some(rate),
  /** Of hardConcrete: where a mask begins. */
  keep: some(fraction)
})
export type LocalizerConfig = typeof LocalizerConfig.Type

/** An unlearner with options of its own; a list is swept, and what is left out has the unlearner's default. */
export const UnlearnerConfig = Schema.Struct({
  /** Which unlearner. */
  unlearner: Schema.NonEmptyString,
  /** What the report calls it. Default: the unlearner's name. */
  name: Schema.optional(Schema.NonEmptyString),
  /** Learning rates. Default: `unlearnRates`, else those of the unlearner's grid. */
  rates: Schema.optional(Schema.NonEmptyArray(rate)),
  /** Steps at most. Default: `unlearnSteps`. */
  steps: Schema.optional(positive),
  /** Sequences to forget a step, and as many to retain. Default: `unlearnBatchSize`. */
  batchSize: Schema.optional(positive),
  /** Weight of the forget term. */
  gamma: some(atLeast0),
  /** Weight of the retain term. */
  alpha: some(atLeast0),
  /** Of npo and simNpo: how soon a sequence's weight falls as it is forgotten. */
  beta: some(rate),
  /** Of simNpo: loss a token, in nats, about which the weight falls. */
  delta: some(Schema.Number.pipe(Schema.finite())),
  /** Of npo: the mean loss a token rather than the sum over a sequence. */
  lengthNormalized: some(Schema.Boolean),
  /** Of rmu: length of the vector that hidden states are steered to. */
  coefficient: some(rate),
  /** Of rmu: block, from 0, behind which hidden states are steered. */
  layer: some(Schema.Union(natural, Schema.Literal("middle"))),
  /** Of rmu: all weights of the blocks up to the layer, or the down-projections of the last three of them. */
  trainable: some(Schema.Literal("blocks", "downProjections")),
  /** Of sparse: weights that move, as a share of all. */
  share: some(fraction),
  /** Of sparse: the weights that are pulled at hardest, random ones, or all. */
  among: some(Schema.Literal("gradient", "random", "all")),
  /** Of sparse: tokens of a sequence that are given; what is behind them is edited. */
  prompt: some(Schema.Union(positive, Schema.Literal("half")))
})
export type UnlearnerConfig = typeof UnlearnerConfig.Type

/** One setting of a method: its options, and how a report tells it from the method's others. */
export interface Setting<Options> {
  /** `0.0005, alpha 3`; empty where there is but one, of a localizer. */
  readonly label: string
  readonly options: Options
}

/** A method after training, and all that it is tried with. */
export interface Method<Name, Options> {
  readonly name: string
  readonly method: Name
  readonly settings: ReadonlyArray<Setting<Options>>
}
export type LocalizerMethod = Method<LocalizerName, Pick<LocalizeOptions, LocalizerName & keyof LocalizeOptions>>
export type UnlearnerMethod = Method<UnlearnerName,
  Partial<UnlearnOptions> & Pick<UnlearnOptions, "learningRate" | "steps" | "batchSize">>

/** More settings of a method than anyone waits for. */
const MOST_SETTINGS = 1000

/** What is wrong with so many settings, if anything; counted before any is made. */
const tooMany = (name: string, grid: Readonly<Record<string, Values>>, rates = 1): string | undefined => {
  const count = Object.values(grid).reduce((all, values) => all * values.length, rates)
  return count <= MOST_SETTINGS
    ? undefined
    : `${name} has ${count} settings, all combinations of its lists, of ${MOST_SETTINGS} at most: shorten a list`
}

type Values = ReadonlyArray<string | number | boolean>
type Choice = Readonly<Record<string, string | number | boolean>>

/** Every combination of the values of fields, the last field turning fastest. */
const combinations = (grid: Readonly<Record<string, Values>>): ReadonlyArray<Choice> =>
  Object.entries(grid).reduce<ReadonlyArray<Choice>>(
    (all, [field, values]) => all.flatMap((one) => values.map((value) => ({ ...one, [field]: value }))),
    [{}]
  )

/** The fields of a choice, in words. */
const inWords = (choice: Choice): string =>
  Object.entries(choice).map(([field, value]) => `${field} ${value}`).join(", ")

/** Fields that are given, each as a list. */
const given = (fields: Readonly<Record<string, unknown>>): Record<string, Values> =>
  Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined)
      .map(([field, value]) => [field, [...new Set([value].flat() as Values)]])
  )

/** Options that a localizer takes; the others take none. */
const localizerOptions: Partial<Record<LocalizerName, ReadonlyArray<string>>> = {
  activations: ["mean"],
  integratedGradients: ["steps"],
  slimming: ["lambda", "learningRate", "steps", "stopBelow"],
  hardConcrete: ["lambda", "learningRate", "steps", "stopBelow", "temperature", "keep"]
}

const RATES = [2e-4, 1e-3]

/**
 * What an unlearner is swept over where it is only named. Ascent and difference have but a rate to choose. NPO: the betas
 * of its paper about 0.1. SimNPO: from the beta of its authors' runs up to that of its paper. RMU: its authors weigh the
 * retain term by 1 to 1200, according to the model, and choose the block. Sparse: a thousandth and a hundredth of the weights.
 */
const grids = (layers: number): Readonly<Record<UnlearnerName, Readonly<Record<string, Values>>>> => ({
  gradientAscent: { rates: [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3] },
  gradientDifference: { rates: [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3] },
  npo: { rates: RATES, beta: [0.05, 0.1, 0.2] },
  simNpo: { rates: RATES, beta: [2.5, 3.5, 4.5] },
  rmu: {
    rates: RATES,
    alpha: [1, 10, 100],
    // the first, the one at a quarter, in the middle and the last
    layer: [...new Set([0, Math.floor((layers - 1) / 4), Math.floor((layers - 1) / 2), layers - 1])]
  },
  sparse: { rates: [1e-3, 1e-2], share: [1e-3, 1e-2] }
})

export const localizerNames = Object.keys(localizers) as ReadonlyArray<LocalizerName>
export const unlearnerNames = Object.keys(unlearners) as ReadonlyArray<UnlearnerName>

/** A localizer as it is tried, or what is wrong with what was asked. Its name must be known. */
export const localizerMethod = (entry: string | LocalizerConfig): LocalizerMethod | string => {
  const { localizer, name = localizer, ...fields } = typeof entry === "string"
    ? { localizer: entry } as LocalizerConfig
    : entry
  const method = localizer as LocalizerName
  const grid = given(fields)
  const allowed = localizerOptions[method] ?? []
  const wrong = Object.keys(grid).find((field) => !allowed.includes(field))
  if (wrong !== undefined) {
    return `localizers: ${name}: ${method} has no option ${wrong}` +
      (allowed.length === 0 ? ": it has none" : `; its options are ${allowed.join(", ")}`)
  }
  const many = tooMany(name, grid)
  if (many !== undefined) return `localizers: ${many}`
  const settings = combinations(grid).map((choice) => ({
    label: inWords(choice),
    options: Object.keys(choice).length === 0 ? {} : { [method]: choice }
  }))
  return { name, method, settings }
}

/** An unlearner as it is tried, or what is wrong with what was asked. Its name must be known. */
export const unlearnerMethod = (
  entry: string | UnlearnerConfig,
  defaults: { readonly rates: ReadonlyArray<number> | undefined; readonly steps: number; readonly batchSize: number },
  { numHiddenLayers }: Pick<ModelConfig, "numHiddenLayers">
): UnlearnerMethod | string => {
  const bare = typeof entry === "string"
  const { unlearner, name = unlearner, rates, steps = defaults.steps, batchSize = defaults.batchSize, ...fields } = bare
    ? { unlearner: entry } as UnlearnerConfig
    : entry
  const method = unlearner as UnlearnerName
  const { rates: usual, ...swept } = grids(numHiddenLayers)[method]
  const grid = bare ? swept : given(fields)
  const known = Object.keys(unlearners[method].defaults)
  const wrong = Object.keys(grid).find((field) => !known.includes(field))
  if (wrong !== undefined) {
    return `unlearners: ${name}: ${method} has no option ${wrong}; its options are ${known.join(", ")}`
  }
  const block = grid["layer"]?.find((layer) => typeof layer === "number" && layer >= numHiddenLayers)
  if (block !== undefined) {
    return `unlearners: ${name}: layer is ${block}, but the model has blocks 0 to ${numHiddenLayers - 1}`
  }
  const learningRates = [...new Set(rates ?? defaults.rates ?? usual as ReadonlyArray<number>)]
  const many = tooMany(name, grid, learningRates.length)
  if (many !== undefined) return `unlearners: ${many}`
  const settings = learningRates.flatMap((learningRate) =>
    combinations(grid).map((choice) => ({
      label: [String(learningRate), inWords(choice)].filter((part) => part !== "").join(", "),
      options: { ...choice as Partial<UnlearnOptions>, learningRate, steps, batchSize }
    }))
  )
  return { name, method, settings }
}
