/**
 * What a model with sinks loses to one that sees every sequence equally often: where its held-out loss comes from that
 * lies above a deduplicated model's of equal steps, and what takes it away.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { type Planted, spread, timetable } from "../../src/data/stream/Timetable.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import { scheduled } from "../experiment/Streams.ts"
import { isAtLeast, isAtMost, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { pointOf } from "../study/estimates.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class OracleGapConfig extends configuration(Schema.Class<OracleGapConfig>("OracleGapConfig")({
  ...seedsOfStudy,
  /** Where sequences come from; how many are trained on is told by the fields below. */
  data: withDefault(DataConfig, () => new DataConfig({ batchSize: 8, heldOutSequences: 128, repeatedSequences: 0 })),
  /** Sequences of text that are not repeated, of which all come equally often. Default 1024. */
  text: withDefault(positive, 1024),
  /** The sink model; standard ones have its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 96 + 2048,
      sinks: { pool: 2048, active: 32 }
    })),
  /** Passages that are repeated. Default 24. */
  passages: withDefault(positive, 24),
  /** Exposures of each. Default 64. */
  exposures: withDefault(positive, 64),
  /** Peak. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Nats a token that sinks may lose to the deduplicated model and still count as comparable. Default 0.1. */
  comparable: withDefault(rate, 0.1),
  /** Share of the gap that may be left where it counts as closed. Default 0.2. */
  tolerance: withDefault(fraction, 0.2)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// Parts: one training each

interface Arm {
  readonly title: string
  /** The passages are repeated; otherwise each is one more sequence of the unique text. */
  readonly repeats: boolean
  readonly sinks?: true
  /** Steps: as all (`equal`), as the unique text takes once, or so many that it comes as often as where nothing is repeated. */
  readonly steps: "equal" | "once" | "asOften"
  /** Text that never comes again in place of the unique text. */
  readonly fresh?: true
  readonly sinksFor?: "repeated"
  readonly routing?: "sgtm"
  /** Times the learning rate of all but sinks. */
  readonly faster?: number
}

const arms = {
  standard: { title: "standard", repeats: true, steps: "equal" },
  deduplicated: { title: "deduplicated", repeats: false, steps: "equal" },
  once: { title: "deduplicated, one pass", repeats: false, steps: "once" },
  fresh: { title: "fresh text alone", repeats: false, steps: "equal", fresh: true },
  sinks: { title: "sinks", repeats: true, sinks: true, steps: "equal" },
  standardLonger: { title: "standard, text as often", repeats: true, steps: "asOften" },
  longer: { title: "sinks, text as often", repeats: true, sinks: true, steps: "asOften" },
  freshSinks: { title: "sinks, fresh text between repeats", repeats: true, sinks: true, steps: "asOften", fresh: true },
  onlyPassages: { title: "only what is repeated has sinks", repeats: true, sinks: true, steps: "equal",
    sinksFor: "repeated" },
  sgtm: { title: "nothing but sinks learns what is repeated", repeats: true, sinks: true, steps: "equal",
    routing: "sgtm" },
  faster: { title: "general neurons twice as fast", repeats: true, sinks: true, steps: "equal", faster: 2 }
} as const satisfies Record<string, Arm>

type Name = keyof typeof arms
const names = Object.keys(arms) as ReadonlyArray<Name>

/** Steps of the repeats and one pass of the unique text; of that pass alone; and with as many passes as of no repeats. */
const stepsOf = (
  { data: { batchSize }, exposures, passages, text }: OracleGapConfig
): Readonly<Record<Arm["steps"], number>> => {
  const repeated = (passages * exposures) / batchSize
  const equal = Math.ceil(text / batchSize + repeated)
  return {
    equal,
    once: Math.ceil((text + passages) / batchSize),
    // the passages are part of the unique text where nothing is repeated
    asOften: Math.ceil(((equal * batchSize) / (text + passages)) * (text / batchSize) + repeated)
  }
}

const modelOf = ({ model }: OracleGapConfig, { sinks }: Arm): ModelConfig => {
  const { sinks: _, ...rest } = model
  return sinks === undefined ? new ModelConfig({ ...rest, intermediateSize: model.general }) : model
}

const dataOf = (config: OracleGapConfig, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = config.data
  const steps = stepsOf(config)
  // what is fresh never comes twice, however many steps there are; how often passages are shown is up to the timetable
  return new DataConfig({
    ...rest,
    singleSequences: Math.max(steps.equal, steps.asOften) * rest.batchSize,
    repeatedSequences: config.passages,
    repeats: 2,
    seed
  })
}

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

/** Losses, nats a token. */
export interface OracleGapFound {
  /** Of text that no model sees, sinks off. */
  readonly heldOut: number
  /** Of the unique text that all models see, sinks off. */
  readonly text: number
  /** Of the passages, sinks off, and with their own. */
  readonly off: number
  readonly own: number
  /** How often the unique text came, on average. */
  readonly passes: number
}

const work = ({ config, part, seed }: PartOf<OracleGapConfig>, at: Workplace) => {
  const arm: Arm = arms[part as Name]
  const dataConfig = dataOf(config, seed)
  return at.streams.use(dataConfig, Effect.gen(function*() {
    const data = yield* DataStream
    const passages = data.split("repeated")
    const singles = data.split("singles")
    const text = singles.slice(0, config.text)
    const steps = stepsOf(config)[arm.steps]
    const { batchSize } = data
    const shownAt = arm.repeats ?
      (yield* attempt(
        () =>
          spread([{ name: part, showing: { exposures: config.exposures, first: 0, end: steps },
            sequences: passages.length }], batchSize),
        DataError
      ))[0]! :
      []
    const planted = shownAt.map((own, p): Planted => ({ row: passages[p]!, steps: own }))
    // what is fresh comes after the unique text, which all see, so that no arm has seen less of it
    const background = arm.fresh === undefined
      ? [{ from: 0, rows: arm.repeats ? text : [...text, ...passages] }]
      : [{ from: 0, rows: singles }]
    const table = yield* attempt(() => timetable({ steps, batchSize, planted, background, seed }), DataError)
    const measure = Effect.gen(function*() {
      const model = yield* Model
      const loss = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
        Effect.map(scoreRows(model, rows, mode, { batchSize: 16, seqLen: data.seqLen }), (scores) =>
          mean(scores.map(({ loss, tokens }) => loss / tokens)))
      const off = model.config.sinks === undefined ? Sink.own : Sink.off
      return {
        heldOut: yield* loss(data.split("heldOut"), off),
        text: yield* loss(text.slice(0, 256), off),
        off: yield* loss(passages, off),
        own: yield* loss(passages, Sink.own)
      }
    })
    const shown = { version: 1, part, exposures: arm.repeats ? config.exposures : 0, passages: passages.length, steps,
      seed, text: arm.fresh === undefined ? text.length : singles.length }
    const { measured } = yield* train(at, {
      model: modelOf(config, arm),
      seed,
      training: new TrainConfig({
        steps,
        optimizer: new OptimizerConfig({
          learningRate: config.learningRate * (arm.faster ?? 1),
          sinks: "lazy",
          sinkLearningRateRatio: config.sinkLearningRateRatio / (arm.faster ?? 1)
        }),
        ...(arm.routing === undefined ? {} : { routing: arm.routing }),
        ...(arm.sinksFor === undefined ? {} : { sinksFor: arm.sinksFor })
      }),
      data: {
        key: ["oracleGap", Schema.encodeSync(DataConfig)(dataConfig), shown],
        layer: Layer.succeed(DataStream, scheduled(data, { rows: table.rows, shown, steps }))
      },
      measured: { oracleGap: 1 }
    }, measure)
    const filled = steps * batchSize - planted.reduce((sum, { steps }) => sum + steps.length, 0)
    const found: OracleGapFound = { ...measured, passes: filled / background[0]!.rows.length }
    return found
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<OracleGapFound>, { comparable, tolerance }: OracleGapConfig) => {
  const of = (part: Name, what: keyof OracleGapFound) => results.over(part, (found) => found[what], { kind: "loss" })
  const heldOut = (part: Name) => of(part, "heldOut")
  /** Held-out loss above that of the deduplicated model. */
  const above = (part: Name): Estimate => minus(heldOut(part), heldOut("deduplicated")) ?? { mean: NaN, values: [] }
  const gap = above("sinks")
  /** As a share of what sinks lose. */
  const share = (part: Name) => perSeed((some, all) => some / all, above(part), gap)
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    isKnown(one) ? decide(one) : "not tested"
  const lower = (part: Name, than: Name) => minus(heldOut(than), heldOut(part))
  const percent = digits(0)(100 * tolerance)
  const claims: ReadonlyArray<Finding> = [
    {
      about: "paper",
      claim:
        `With sinks off the held-out loss is at most ${comparable} nats above a deduplicated model's of equal steps`,
      result: decided(gap, (one) => isAtMost(one, comparable)),
      evidence: list(["nats", gap], ["sinks", heldOut("sinks")], ["deduplicated", heldOut("deduplicated")])
    },
    {
      about: "control",
      claim: "Sinks that see a pass of the text and its repeats lose to a deduplicated model of equal steps",
      result: decided(gap, (one) => isAtLeast(one, 0)),
      evidence: list(["nats", gap], ["sinks", heldOut("sinks")], ["deduplicated", heldOut("deduplicated")])
    },
    {
      about: "sinks",
      claim: "A deduplicated model that sees the text once loses at least half as much",
      result: decided(share("once"), (one) => isAtLeast(one, 0.5)),
      evidence: list(["share", share("once")], ["nats", above("once")])
    },
    {
      about: "sinks",
      claim:
        "Beside as many passes of the text, repeats do no harm: sinks lose no more than a deduplicated model of one pass",
      result: decided(lower("sinks", "once"), (one) => isAtLeast(one, 0)),
      evidence: list(["nats less", lower("sinks", "once")])
    },
    {
      about: "sinks",
      claim: `Sinks that see the text as often as the deduplicated model lose ${percent} % of the gap at most`,
      result: decided(share("longer"), (one) => isAtMost(one, tolerance)),
      evidence: list(["share left", share("longer")], ["nats", above("longer")])
    },
    {
      about: "sinks",
      claim: "A standard model that sees as much stays above them",
      result: decided(lower("longer", "standardLonger"), (one) => isAtLeast(one, 0)),
      evidence: list(["nats", lower("longer", "standardLonger")])
    },
    {
      about: "sinks",
      claim: "Where only what is repeated has sinks, at equal steps, less of the gap is left",
      result: decided(lower("onlyPassages", "sinks"), (one) => isAtLeast(one, 0)),
      evidence: list(["share left", share("onlyPassages")], ["nats less", lower("onlyPassages", "sinks")])
    },
    {
      about: "sinks",
      claim: "Where nothing but sinks learns what is repeated, at equal steps, less of the gap is left",
      result: decided(lower("sgtm", "sinks"), (one) => isAtLeast(one, 0)),
      evidence: list(["share left", share("sgtm")], ["nats less", lower("sgtm", "sinks")])
    },
    {
      about: "sinks",
      claim: "Twice the learning rate of all but sinks, at equal steps, leaves more than half of the gap",
      result: decided(share("faster"), (one) => isAtLeast(one, 0.5)),
      evidence: list(["share left", share("faster")])
    },
    {
      about: "control",
      claim: "Fresh text in place of passes lowers the loss of sinks, and of no sinks, further",
      result: decided(lower("fresh", "deduplicated"), (one) => isAtLeast(one, 0)) === "held"
        ? decided(lower("freshSinks", "longer"), (one) => isAtLeast(one, 0))
        : decided(lower("fresh", "deduplicated"), (one) => isAtLeast(one, 0)),
      evidence: list(["without sinks, nats less", lower("fresh", "deduplicated")], ["with sinks",
        lower("freshSinks", "longer")])
    }
  ]
  const two = digits(2)
  return {
    claims,
    numbers: Object.fromEntries(names.flatMap((part) =>
      ([
        ["held-out loss", heldOut(part)],
        ["held-out loss above the deduplicated model's", above(part)],
        ["share of the gap", share(part)],
        ["loss of the text", of(part, "text")],
        ["loss of the passages, sinks off", of(part, "off")],
        ["loss of the passages, own sinks", of(part, "own")],
        ["passes", of(part, "passes")]
      ] as const).flatMap(([what, value]) => isKnown(value) ? [[`${arms[part].title}: ${what}`, value] as const] : [])
    )),
    charts: [{
      title: "Held-out loss by how often the text came, sinks off",
      x: { title: "passes of the text" },
      y: { title: "nats a token" },
      facets: [],
      lines: ([["deduplicated", ["once", "deduplicated"]], ["standard", ["standard", "standardLonger"]], [
        "sinks",
        ["sinks", "longer"]
      ]] as const).map(([label, parts]) => ({
        label,
        of: { model: label },
        dots: true,
        points: parts.flatMap((part) => {
          const passes = of(part, "passes")
          return isKnown(passes) ? pointOf(passes.mean, heldOut(part)) : []
        })
      })),
      color: ["model"]
    }],
    tables: [{
      caption: "Loss at the end, nats a token, sinks off but for own sinks",
      head: ["", "passes", "held out", "above deduplicated", "share of the gap", "the text", "passages, off",
        "own sinks"],
      rows: names.map((part) => [
        arms[part].title,
        isKnown(of(part, "passes")) ? two(of(part, "passes").mean) : "–",
        plusMinus(heldOut(part), two),
        plusMinus(above(part), two),
        plusMinus(share(part), two),
        plusMinus(of(part, "text"), two),
        plusMinus(of(part, "off"), two),
        "sinks" in arms[part] ? plusMinus(of(part, "own"), two) : "–"
      ])
    }],
    terms: [
      ["passes", "how often the text that is not repeated was seen, on average"],
      ["the gap", "how far the held-out loss of sinks lies above that of the deduplicated model of equal steps"],
      ["deduplicated", "a standard model that sees the text and every passage equally often"],
      ["text as often", "as many more steps as it takes for the text to come as often as in the deduplicated model"]
    ] as const,
    limits: [
      "One small size and one share of repeats (six of ten rows): where repeats are few, so is what they cost.",
      "Each arm ends at a decayed learning rate of its own schedule; longer arms take more steps, as they must.",
      "Two arms are told which sequences are repeated: a deduplicated model is told so, too."
    ]
  }
}

export const oracleGap = study<OracleGapConfig, OracleGapFound>({
  name: "oracleGap",
  title: "What sinks lose to deduplication",
  paper: "Memorization Sinks: Isolating Memorization during LLM Training (2025), arXiv 2507.09937",
  question: "Where does the held-out loss of sinks above a deduplicated model's come from, and what takes it away?",
  finding: "with sinks off, a model that saw repeats is as good on held-out text as one that was never shown them",
  cost: "5 minutes; full: an hour",
  version: 1,
  schema: OracleGapConfig,
  presets: {
    quick: new OracleGapConfig({}),
    full: new OracleGapConfig({
      seeds: 5,
      model: {
        vocabSize: 256,
        hiddenSize: 64,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 192 + 2048,
        sinks: { pool: 2048, active: 32 }
      },
      learningRate: 7e-3
    })
  },
  problem: (config) => {
    const { data, exposures, model, passages } = config
    if (model.sinks === undefined) return "model.sinks: the study is of models with sinks: give it some"
    const { equal } = stepsOf(config)
    return exposures > equal || passages > data.batchSize * equal
      ? `exposures: ${exposures} of ${passages} passages do not fit ${equal} steps of ${data.batchSize} rows: lower them`
      : undefined
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: () => names,
  work,
  findings
})
