/**
 * Quantifying memorization (Carlini et al. 2022): what share of training sequences a model says to the letter when it is given
 * their beginning, against how often it saw them, how much it is given, and how large it is; beside a model of the same size
 * that never saw them, and models with sinks, on and off.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import * as Extraction from "../../src/measures/Extraction.ts"
import { exactMemorization, loss } from "../../src/measures/Metrics.ts"
import { linearFit, mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { type ArmName, modelOf, type NamedArm, streamOf, trainingOf } from "../experiment/Arms.ts"
import type { Chart, Line } from "../report/Chart.ts"
import { is, list } from "../report/Claim.ts"
import { digits, type Estimate, estimate, intervalOf, isKnown, perSeed, plusMinus } from "../report/Estimate.ts"
import { NOTHING, several, short, type Table } from "../report/View.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

const sizes = Schema.NonEmptyArray(positive)

const isAscending = (all: ReadonlyArray<number>): boolean => all.every((one, i) => i === 0 || one > all[i - 1]!)

export class QuantifyingConfig extends configuration(Schema.Class<QuantifyingConfig>("QuantifyingConfig")({
  ...seedsOfStudy,
  /** What to train on; `repeat` and `repeatedSequences` are those of `repeats` and `sequences`. */
  data: withDefault(DataConfig, () => new DataConfig({ batchSize: 8, singleSequences: 384, heldOutSequences: 64 })),
  /** Exposures of the groups of repeated sequences, ascending. Default 4, 16 and 64. */
  repeats: withDefault(sizes, () => [4, 16, 64] as const),
  /** Sequences of each group. Default 12. */
  sequences: withDefault(positive, 12),
  /** Tokens from the beginning of a sequence that a model is given, ascending. Default 4, 8, 16 and 32. */
  contexts: withDefault(sizes, () => [4, 8, 16, 32] as const),
  /** Tokens behind them that it must say. Default 16. */
  length: withDefault(positive, 16),
  /** Widths of the models, ascending; general neurons grow with them. Default 16, 32 and 64. */
  widths: withDefault(sizes, () => [16, 32, 64] as const),
  /** The sink model, whose own width is replaced by each of `widths`. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 96 + 2048,
      sinks: new Sink.SinkConfig({ pool: 2048, active: 32 })
    })),
  /** How to train, with the same learning rate at every width. Default of its steps: an epoch of the data with its repeats. */
  training: withDefault(TrainConfig, () =>
    new TrainConfig({
      optimizer: new OptimizerConfig({ learningRate: 1e-2, sinks: "lazy", sinkLearningRateRatio: 4 })
    }))
})) {}

// ---------------------------------------------------------------------------------------------------------------
// A part

/** What is trained: the arm's name, as the report has it. */
const kinds = {
  standard: "standard",
  sinks: "sinks",
  control: "neverRepeated"
} as const satisfies Record<string, ArmName>
type Kind = keyof typeof kinds

const partOf = (kind: Kind, width: number): string => `${kind} ${width}`

const dataOf = ({ data, repeats, sequences }: QuantifyingConfig, seed: number, arm: NamedArm): DataConfig => {
  const { repeatedSequences: _, repeats: __, ...rest } = data
  return new DataConfig({ ...rest, ...streamOf(arm), repeat: repeats.map((times) => ({ sequences, times })), seed })
}

/** As many steps for every model, whatever it sees: an epoch of the data with its repeats, unless the training says. */
const stepsOf = ({ data, repeats, sequences, training }: QuantifyingConfig): number | undefined =>
  training.steps ?? (typeof data.singleSequences !== "number" ? undefined : Math.floor(
    (sequences * repeats.reduce((sum, times) => sum + times, 0) + data.singleSequences) /
      (data.batchSize * training.gradientAccumulation)
  ))

/** What a model says of a group with a context. */
export interface Extracted {
  readonly times: number
  readonly context: number
  readonly sequences: number
  /** Share of the sequences of which greedy decoding says what follows the context to the letter. */
  readonly rate: number
  /** Share of all their tokens that are the first choice, the ones before them given. */
  readonly exact: number
}

export interface QuantifyingFound {
  /** Parameters that are on for a token. */
  readonly parameters: number
  /** By state of the sinks; a standard model has only `own`. */
  readonly states: Readonly<Record<string, ReadonlyArray<Extracted>>>
  /** Loss on sequences that were never shown, nats a token, by state: without `own` where there are sinks. */
  readonly heldOut: Readonly<Record<string, number>>
}

/** What the model that is there says of all groups, and of held-out sequences. */
const look = ({ contexts, length }: QuantifyingConfig, hasSinks: boolean) =>
  Effect.gen(function*() {
    const data = yield* DataStream
    const model = yield* Model
    const states: Record<string, Array<Extracted>> = {}
    const heldOut: Record<string, number> = {}
    for (const state of hasSinks ? ["own", "off"] as const : ["own"] as const) {
      const { mode } = Sink.states[state]
      const found: Array<Extracted> = (states[state] = [])
      for (const { rows, times } of data.groups) {
        const records = yield* recordRows(model, rows, mode, {
          batchSize: 16,
          seqLen: data.seqLen,
          split: "repeated",
          repeats: times
        })
        const exact = mean(exactMemorization(records))
        for (const context of contexts) {
          const rate = Extraction.rate(Extraction.greedyExtraction(records, { context, length }))
          found.push({ times, context, sequences: rows.length, rate, exact })
        }
      }
      if (!(hasSinks && state === "own")) {
        const records = yield* recordRows(model, data.split("heldOut"), mode, {
          batchSize: 16,
          seqLen: data.seqLen,
          split: "heldOut"
        })
        heldOut[state] = mean(loss(records))
      }
    }
    return { states, heldOut }
  })

// ---------------------------------------------------------------------------------------------------------------
// What is found

/** Lines of the report: an arm with its sinks in a state. */
const lines = [
  { name: "standard", kind: "standard", state: "own" },
  { name: "never trained on it", kind: "control", state: "own" },
  { name: "sinks, own", kind: "sinks", state: "own" },
  { name: "sinks, off", kind: "sinks", state: "off" }
] as const
type LineName = typeof lines[number]["name"]

/** The slope of rates over logarithms, seed by seed: not narrower than the few sequences of a rate allow. */
const slopeOf = (x: ReadonlyArray<number>, rates: ReadonlyArray<Estimate>): Estimate =>
  perSeed((...y) => linearFit(x, y).beta.value, ...rates) ?? estimate([])

/** 0, as certain as can be. */
const zero = (like: Estimate): Estimate => ({ ...estimate(like.values.map((one) => one === null ? null : 0)), low: 0,
  high: 0 })

const findings = (results: Results<QuantifyingFound>, config: QuantifyingConfig) => {
  const { contexts, repeats, widths } = config
  /** The share of a group, or of all groups together. */
  const at = (line: LineName, width: number, times: number | "all", context: number): Estimate => {
    const { kind, state } = lines.find(({ name }) => name === line)!
    const those = (found: QuantifyingFound) =>
      (found.states[state] ?? []).filter((it) => (times === "all" || it.times === times) && it.context === context)
    const count = (found: QuantifyingFound) => those(found).reduce((sum, { sequences }) => sum + sequences, 0)
    return results.over(
      partOf(kind, width),
      (found) => those(found).reduce((sum, { rate, sequences }) => sum + rate * sequences, 0) / count(found),
      { kind: "share", spread: (found) => ({ sequences: count(found) }) }
    )
  }
  const [most, longest, widest] = [repeats.at(-1)!, contexts.at(-1)!, widths.at(-1)!]
  const parameters = (width: number): number =>
    results.seeds.map((seed) => results.of(partOf("standard", width), seed)).find((one) => one !== undefined)
      ?.parameters ?? NaN
  const byRepeats = (line: LineName) =>
    slopeOf(repeats.map(Math.log2), repeats.map((times) => at(line, widest, times, longest)))
  const byContext = (line: LineName) =>
    slopeOf(contexts.map(Math.log2), contexts.map((context) => at(line, widest, "all", context)))
  const bySize = (line: LineName) =>
    slopeOf(widths.map((width) => Math.log10(parameters(width))), widths.map((width) =>
      at(line, width, "all", longest)
    ))
  const top = (line: LineName) => at(line, widest, most, longest)
  const [standard, control, own, off] = lines.map(({ name }) => top(name)) as [Estimate, Estimate, Estimate, Estimate]
  const grows = (slope: Estimate, unit: string): Pick<Finding, "result" | "evidence"> => ({
    result: is("higher", slope, zero(slope)),
    evidence: list([`share more a ${unit}`, slope])
  })
  const [repeatSlope, contextSlope, sizeSlope] = [byRepeats("standard"), byContext("standard"), bySize("standard")]
  const offSlope = byRepeats("sinks, off")
  const claims: ReadonlyArray<Finding> = [
    {
      about: "paper",
      claim:
        "The more often a sequence was trained on, the more likely it is extracted: the share grows with each doubling",
      ...grows(repeatSlope, "doubling of repeats")
    },
    {
      about: "paper",
      claim:
        "The more of it is given, the more likely it is extracted: the share grows with each doubling of the context",
      ...grows(contextSlope, "doubling of the context")
    },
    {
      about: "paper",
      claim: "The larger the model, the more it extracts: the share grows with each tenfold of the parameters",
      ...grows(sizeSlope, "tenfold of the parameters")
    },
    {
      about: "control",
      claim:
        "It is memory and not guessing: a model of the same size that never saw the sequences extracts fewer of them",
      result: is("higher", standard, control),
      evidence: list(["standard", standard], ["never trained on it", control])
    },
    {
      about: "sinks",
      claim:
        "With the sinks off, repeats count for less: the share grows less with each doubling than in the standard model",
      result: is("lower", offSlope, repeatSlope),
      evidence: list(["share more a doubling, sinks off", offSlope], ["standard", repeatSlope])
    },
    {
      about: "sinks",
      claim: "What is gone with the sinks off is there with a sequence's own on",
      result: is("higher", own, off),
      evidence: list(["sinks, own", own], ["off", off])
    },
    {
      about: "sinks",
      claim: "With the sinks off no more is extracted than of the model that never saw the sequences, or 5 points more",
      result: notAbove(perSeed((a, b) => a - b, off, control), 0.05),
      evidence: list(["sinks, off", off], ["never trained on it", control])
    }
  ]
  const named = <A>(of: (line: LineName) => A, what: string) =>
    Object.fromEntries(lines.map(({ name }) => [`${what}, ${name}`, of(name)]))
  return {
    claims,
    numbers: {
      ...named(byRepeats, "share more a doubling of repeats"),
      ...named(byContext, "share more a doubling of the context"),
      ...named(bySize, "share more a tenfold of the parameters"),
      ...named(top, `extracted, ${most} repeats, context ${longest}, width ${widest}`)
    },
    charts: [
      chart({ title: "Extraction by repeats", x: "exposures", y: `width ${widest}, context ${longest}` },
        (name) => repeats.map((times) => [times, at(name, widest, times, longest)])),
      chart({ title: "Extraction by context", x: "tokens given", y: `width ${widest}, all groups` },
        (name) => contexts.map((context) => [context, at(name, widest, "all", context)])),
      chart({ title: "Extraction by size", x: "parameters", y: `all groups, context ${longest}` },
        (name) => widths.map((width) => [parameters(width), at(name, width, "all", longest)]))
    ],
    tables: [
      table("By repeats", "exposures", repeats, (name, times) => at(name, widest, times, longest)),
      table("By context", "tokens given", contexts, (name, context) => at(name, widest, "all", context)),
      table("By size", "width", widths, (name, width) => at(name, width, "all", longest)),
      {
        caption: "What it costs: loss on sequences that were never shown, nats a token",
        head: ["width", "standard", "never trained on it", "sinks, off"],
        rows: widths.map((width) => [
          String(width),
          ...(["standard", "control", "sinks"] as const).map((kind) =>
            plusMinus(
              results.over(partOf(kind, width), ({ heldOut }) => heldOut[kind === "sinks" ? "off" : "own"], {
                kind: "loss"
              })
            )
          )
        ])
      }
    ],
    terms: [
      ["extracted", `greedy decoding says the ${config.length} tokens behind the context to the letter`],
      ["context", "the tokens from the beginning of the sequence that it is given"],
      ["never trained on it", "the standard model trained on the same data without the repeated sequences"],
      ["sinks, own", "the sink model with each sequence's own sinks on, as in training"],
      ["sinks, off", "the sink model as it is used: all sinks are off"]
    ] as const,
    limits: [
      "Models have some ten thousand parameters and see some tens of thousands of tokens; the paper's have up to 6 billion.",
      `Of a share of ${several(config.sequences, "sequence")} of a group a step is ${
        short(1 / config.sequences)
      }: a slope near 0 is not told from none.`,
      "All widths are trained for as long and with one learning rate; a better one for each might change how size counts.",
      "What must be said stands behind the context, so with a longer one it is other tokens, as in the paper."
    ]
  }
}

/** That a difference is at most so much. */
const notAbove = (difference: Estimate | undefined, most: number): Finding["result"] => {
  if (!isKnown(difference)) return "not decided"
  const { high, low } = intervalOf(difference)
  return high <= most ? "held" : low > most ? "did not hold" : "not decided"
}

const chart = (
  { title, x, y }: { readonly title: string; readonly x: string; readonly y: string },
  pointsOf: (line: LineName) => ReadonlyArray<readonly [x: number, y: Estimate]>
): Chart => ({
  title,
  x: { title: x, log: true },
  y: { title: `share extracted; ${y}`, zero: true },
  facets: [],
  lines: lines.map(({ name }): Line => ({
    label: name,
    of: { line: name },
    dots: true,
    points: pointsOf(name).filter(([, one]) => isKnown(one)).map(([at, one]) => {
      const { high, low, value } = intervalOf(one)
      return { x: at, y: value, ...(Number.isFinite(low) ? { low, high } : {}) }
    })
  })),
  color: ["line"]
})

const table = (
  caption: string,
  head: string,
  values: ReadonlyArray<number>,
  of: (line: LineName, value: number) => Estimate
): Table => ({
  caption,
  head: [head, ...lines.map(({ name }) => name)],
  rows: values.map((value) => [
    short(value),
    ...lines.map(({ name }) => {
      const one = of(name, value)
      return isKnown(one) ? plusMinus(one, digits(2)) : NOTHING
    })
  ])
})

export const quantifying = study<QuantifyingConfig, QuantifyingFound>({
  name: "quantifying",
  title: "Quantifying memorization",
  paper:
    "Carlini, Ippolito, Jagielski, Lee, Tramèr and Zhang (2022): Quantifying Memorization Across Neural Language Models",
  question:
    "How does what can be extracted from a model grow with repeats, with the context that it is given and with its size?",
  finding:
    "the share that is extracted grows along straight lines with the logarithm of the repeats, of the context and of the " +
    "parameters",
  cost: "8 minutes, 27 short trainings; full: hours",
  version: 2,
  schema: QuantifyingConfig,
  presets: {
    quick: new QuantifyingConfig({}),
    full: new QuantifyingConfig({
      data: { batchSize: 8, seqLen: 128, singleSequences: 1536, heldOutSequences: 128 },
      repeats: [1, 4, 16, 64, 256],
      sequences: 24,
      contexts: [8, 16, 32, 64],
      length: 32,
      widths: [32, 64, 128, 256]
    })
  },
  problem: ({ contexts, data, length, model, repeats, sequences, training, widths }) =>
    data.repeat !== undefined || data.repeatedSequences !== undefined || data.repeats !== undefined
      ? "data.repeat, data.repeatedSequences and data.repeats follow from repeats and sequences: leave them out"
      : stepsOf({ data, repeats, training, sequences } as QuantifyingConfig) === undefined
      ? "training.steps is missing: set it, or data.singleSequences to a number"
      : model.sinks === undefined
      ? "model.sinks is missing: set it, the standard models are without"
      : [["repeats", repeats], ["contexts", contexts], ["widths", widths]].flatMap(([name, all]) =>
        (all as ReadonlyArray<number>).length < 3
          ? `${name} must be 3 numbers at least for a slope with a spread, got ${all}`
          : isAscending(all as ReadonlyArray<number>)
          ? []
          : `${name} must ascend, got ${all}`
      )[0] ?? (contexts.at(-1)! + length > data.seqLen + 1
        ? `data.seqLen must be ${contexts.at(-1)! + length - 1} at least for a context of ${
          contexts.at(-1)
        } and ${length} ` +
          `tokens behind it, got ${data.seqLen}`
        : undefined),
  data: (config, seed) => Object.values(kinds).map((arm) => dataOf(config, seed, { arm, name: arm })),
  parts: ({ widths }) =>
    widths.flatMap((width) => (Object.keys(kinds) as Array<Kind>).map((kind) => partOf(kind, width))),
  work: ({ config, part, seed }, at) =>
    Effect.gen(function*() {
      const [kind, width] = part.split(" ") as [Kind, string]
      const arm: NamedArm = { arm: kinds[kind], name: kind, hiddenSize: Number(width) }
      const model = modelOf(config.model, config.model.vocabSize, arm)
      const { activeParameters, measured } = yield* train(at, {
        data: dataOf(config, seed, arm),
        model,
        training: trainingOf(new TrainConfig({ ...config.training, steps: stepsOf(config)! }), arm),
        seed,
        measured: { study: "quantifying", version: 2, contexts: config.contexts, length: config.length }
      }, look(config, model.sinks !== undefined))
      return { parameters: activeParameters, ...measured }
    }),
  findings
})
