/**
 * An Empirical Study of Memorization in NLP (Zheng and Jiang 2022) in miniature: self-influence (here TracIn's, over
 * checkpoints and all weights, exactly) as a score of memorization, against the counterfactual one of models that were
 * trained without the sequence; and what it costs to train without those that it ranks highest. Sinks beside.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { configuration, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { type Showing, showingProblem, spread, timetable } from "../../src/data/stream/Timetable.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import { componentMass, eachGradient, selfInfluence as influenceOf, tracIn } from "../../src/inside/GradientMass.ts"
import { mean, spearman, variance } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig, type TrainError } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import { scheduled } from "../experiment/Streams.ts"
import { is, isAtLeast, list } from "../report/Claim.ts"
import { type Estimate, estimate, intervalOf, isKnown, minus, plusMinus } from "../report/Estimate.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train, type Trained } from "../study/train.ts"

export class SelfInfluenceConfig extends configuration(Schema.Class<SelfInfluenceConfig>("SelfInfluenceConfig")({
  ...seedsOfStudy,
  /** The text: its `singleSequences` fill the rows that no candidate takes. */
  data: withDefault(DataConfig,
    () => new DataConfig({ batchSize: 8, singleSequences: 2048, heldOutSequences: 96, repeatedSequences: 0 })),
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
  /** Steps of a training. Default 160. */
  steps: withDefault(positive, 160),
  /** Sequences whose memorization is told, and that may be left out. Default 32. */
  candidates: withDefault(Schema.Int.pipe(Schema.between(4, 4096)), 32),
  /** Exposures of each. Default 8. */
  exposures: withDefault(positive, 8),
  /** Checkpoints over which self-influence is summed, evenly spaced, the end of training among them. Default 4. */
  checkpoints: withDefault(Schema.Int.pipe(Schema.between(1, 64)), 4),
  /** Pairs of models that each saw one half of the candidates, and the other. Default 3. */
  pairs: withDefault(positive, 3),
  /** Share of the candidates that is left out. Default 0.25. */
  removed: withDefault(Schema.Number.pipe(Schema.between(0.01, 0.9)), 0.25),
  /** Constant, so that a training is the beginning of every longer one. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4)
})) {}

const REMOVALS = ["highest", "random", "lowest"] as const

const partsOf = ({ pairs }: SelfInfluenceConfig): ReadonlyArray<string> => [
  "all",
  ...Array.from({ length: 2 * pairs }, (_, i) => `half ${i + 1}`),
  ...REMOVALS.map((which) => `without ${which}`),
  "sinks"
]

export interface SelfInfluenceFound {
  /** Mean loss of each candidate at the end, nats a token. */
  readonly losses: ReadonlyArray<number>
  /** Mean loss of held-out sequences, and its standard error over them. */
  readonly heldOut: { readonly mean: number; readonly error: number; readonly sequences: number }
  /** Which candidates were trained on. */
  readonly trained: ReadonlyArray<boolean>
  /** Of `all`: TracIn of each candidate with itself. */
  readonly influence?: ReadonlyArray<number>
  /** Of `sinks`: loss of each candidate with the sinks off. */
  readonly off?: ReadonlyArray<number>
  /** Of `sinks`: share of self-influence on own sinks, means over candidates and held-out sequences. */
  readonly own?: { readonly candidates: number; readonly heldOut: number }
}

const dataOf = ({ candidates, data }: SelfInfluenceConfig, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = data
  // how often they are shown is up to the timetable
  return new DataConfig({ ...rest, repeatedSequences: candidates, repeats: 2, seed })
}

const showing = ({ exposures, steps }: SelfInfluenceConfig): Showing => ({ exposures, first: 0, end: steps })

/** The halves of the candidates: of each pair, one and the other. */
const halfOf = (config: SelfInfluenceConfig, seed: number, half: number): ReadonlyArray<boolean> => {
  const order = random(seed, "half", half >> 1).shuffle(Array.from({ length: config.candidates }, (_, i) => i))
  const first = new Set(order.slice(0, config.candidates >> 1))
  return Array.from({ length: config.candidates }, (_, i) => first.has(i) === (half % 2 === 0))
}

const meanOf = (values: ReadonlyArray<number>) => ({
  mean: mean(values),
  error: values.length < 2 ? 0 : Math.sqrt(variance(values) / values.length),
  sequences: values.length
})

const work = ({ config, part, seed }: PartOf<SelfInfluenceConfig>, at: Workplace) => {
  const dataConfig = dataOf(config, seed)
  const { candidates, checkpoints, exposures, learningRate, removed, steps } = config
  const { sinks: _, ...rest } = config.model
  const standard = new ModelConfig({ ...rest, intermediateSize: config.model.general })
  return at.streams.use(dataConfig, Effect.gen(function*() {
    const data = yield* DataStream
    const rows = data.split("repeated")
    const index = overlapIndex()
    for (const row of rows) index.add(row)
    const heldOut = data.split("heldOut").filter((row) => index.find(row) === undefined)
    if (heldOut.length < 4) {
      return yield* new DataError({
        detail:
          `${heldOut.length} held-out sequences are like no candidate, and 4 are needed: raise data.heldOutSequences`
      })
    }
    const [placed] = yield* attempt(
      () => spread([{ name: "candidates", sequences: candidates, showing: showing(config) }], data.batchSize),
      DataError
    )
    /** Trains for so many steps on some of the candidates, and looks at the model. */
    const trained = <A>(
      kept: ReadonlyArray<boolean>,
      until: number,
      model: ModelConfig,
      what: string,
      measure: Effect.Effect<A, TrainError, Trained>
    ) =>
      Effect.gen(function*() {
        const shown = { version: 1, candidates, exposures, steps, kept: kept.map(Number).join(""), seed, until }
        const table = yield* attempt(() =>
          timetable({
            steps,
            batchSize: data.batchSize,
            planted: rows.flatMap((row, i) => kept[i] === true ? [{ row, steps: placed![i]! }] : []),
            background: [{ from: 0, rows: data.split("singles") }],
            seed
          }), DataError)
        const { measured } = yield* train(at, {
          model,
          seed,
          training: new TrainConfig({
            steps: until,
            optimizer: new OptimizerConfig({ learningRate, schedule: "constant", warmupSteps: 0, sinks: "lazy",
              sinkLearningRateRatio: config.sinkLearningRateRatio })
          }),
          data: {
            key: ["selfInfluence", Schema.encodeSync(DataConfig)(dataConfig), shown],
            layer: Layer.succeed(DataStream, scheduled(data, { rows: table.rows, shown, steps: until }))
          },
          measured: { selfInfluence: 1, what }
        }, measure)
        return measured
      })
    const lossesOf = (of: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.flatMap(Model, (model) =>
        Effect.map(scoreRows(model, of, mode, { batchSize: 16, seqLen: data.seqLen }), (scores) =>
          scores.map(({ loss, tokens }) =>
            loss / tokens
          )))
    const everyone = rows.map(() => true)
    const ends = Array.from({ length: checkpoints }, (_, i) => Math.max(1, Math.round(steps * (i + 1) / checkpoints)))
    /** TracIn of each candidate with itself, in the training on all of them. */
    const influence = Effect.map(
      Effect.forEach(ends,
        (until) =>
          trained(everyone, until, standard, "norms",
            Effect.map(influenceOf(rows, { mode: Sink.own, seqLen: data.seqLen }), (norms) => [...norms]))),
      (norms) => tracIn(norms.map((squaredNorms) => ({ learningRate, squaredNorms })))
    )
    const look = (mode: Sink.SinkMode) =>
      Effect.all({ losses: lossesOf(rows, mode), heldOut: Effect.map(lossesOf(heldOut, mode), meanOf) })
    const end = (kept: ReadonlyArray<boolean>) =>
      Effect.map(trained(kept, steps, standard, "losses", look(Sink.own)), (found) => ({ ...found, trained: kept }))
    if (part === "all") {
      const found = { ...(yield* end(everyone)), influence: [...yield* influence] }
      return found as SelfInfluenceFound
    }
    if (part.startsWith("half")) {
      return (yield* end(halfOf(config, seed, Number(part.slice(5)) - 1))) as SelfInfluenceFound
    }
    if (part === "sinks") {
      const own = (of: ReadonlyArray<Row>) =>
        Effect.map(
          eachGradient(of, { mode: Sink.own, seqLen: data.seqLen }, (model, gradients, row) => {
            const parts = componentMass(model, gradients, row.id)
            const sum = (of: typeof parts) => of.reduce((all, { squares }) => all + squares, 0)
            return sum(parts.filter(({ component }) => component.startsWith("ownSinks"))) / sum(parts)
          }),
          mean
        )
      const found = yield* trained(everyone, steps, config.model, "sinks", Effect.gen(function*() {
        const on = yield* look(Sink.own)
        return { ...on, off: yield* lossesOf(rows, Sink.off),
          own: { candidates: yield* own(rows), heldOut: yield* own(heldOut) } }
      }))
      return { ...found, trained: everyone } as SelfInfluenceFound
    }
    const scores = yield* influence
    const which = part.slice("without ".length) as typeof REMOVALS[number]
    const order = Array.from({ length: candidates }, (_, i) => i)
    if (which === "random") random(seed, "removed").shuffle(order)
    else order.sort((a, b) => which === "highest" ? scores[b]! - scores[a]! : scores[a]! - scores[b]!)
    const gone = new Set(order.slice(0, Math.max(1, Math.round(removed * candidates))))
    return (yield* end(rows.map((_, i) => !gone.has(i)))) as SelfInfluenceFound
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

/**
 * Counterfactual memorization of each sequence: its mean loss in the models that were trained without it minus that in those
 * with it; NaN where one kind is missing.
 */
export const counterfactual = (
  models: ReadonlyArray<Pick<SelfInfluenceFound, "losses" | "trained">>
): ReadonlyArray<number> =>
  (models[0]?.losses ?? []).map((_, i) => {
    const of = (trained: boolean) => models.filter((one) => one.trained[i] === trained).map(({ losses }) => losses[i]!)
    return mean(of(false)) - mean(of(true))
  })

const findings = (results: Results<SelfInfluenceFound>, config: SelfInfluenceConfig) => {
  const { pairs, removed } = config
  const halves = Array.from({ length: 2 * pairs }, (_, i) => `half ${i + 1}`)
  const memorized = (seed: number): ReadonlyArray<number> | undefined => {
    const models = halves.map((half) => results.of(half, seed))
    return models.some((one) => one === undefined)
      ? undefined
      : counterfactual(models as ReadonlyArray<SelfInfluenceFound>)
  }
  const bySeed = (value: (seed: number) => number | undefined): Estimate =>
    estimate(results.seeds.map(value), { kind: "real" })
  const correlation = (of: (seed: number) => ArrayLike<number> | undefined) =>
    bySeed((seed) => {
      const [a, b] = [of(seed), memorized(seed)]
      return a === undefined || b === undefined ? undefined : spearman(a, b)
    })
  const tracin = correlation((seed) => results.of("all", seed)?.influence)
  const held = correlation((seed) => {
    const one = results.of("sinks", seed)
    return one?.off?.map((off, i) => off - one.losses[i]!)
  })
  const loss = (part: string) =>
    results.over(part, ({ heldOut }) => heldOut.mean, {
      kind: "loss",
      spread: ({ heldOut: { error, sequences } }) => ({ sequences, error })
    })
  const cost = (which: string) => minus(loss(`without ${which}`), loss("all"))!
  const memory = bySeed((seed) => {
    const all = memorized(seed)
    return all === undefined ? undefined : mean(all)
  })
  const own = (of: "candidates" | "heldOut") => results.over("sinks", (found) => found.own?.[of], { kind: "share" })
  const share = `${Number((100 * removed).toPrecision(3))} %`
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Candidates are memorized: their loss is lower in models that saw them",
      result: isAtLeast(memory, 0),
      evidence: list(["counterfactual memorization, nats a token", memory])
    },
    {
      about: "paper",
      claim: "Self-influence ranks candidates as counterfactual memorization does",
      result: isAtLeast(tracin, 0),
      evidence: list(["rank correlation", tracin])
    },
    {
      about: "paper",
      claim: `Leaving out the ${share} of highest self-influence costs other text more than leaving out random ones`,
      result: is("higher", loss("without highest"), loss("without random")),
      evidence: list(["loss of held-out text more, nats a token: without the highest", cost("highest")], [
        "without random ones",
        cost("random")
      ])
    },
    {
      about: "paper",
      claim: `Leaving out the ${share} of lowest costs less than leaving out random ones`,
      result: is("lower", loss("without lowest"), loss("without random")),
      evidence: list(["loss of held-out text more, nats a token: without the lowest", cost("lowest")], [
        "without random ones",
        cost("random")
      ])
    },
    {
      about: "sinks",
      claim: "What a sequence's own sinks hold of it ranks candidates as counterfactual memorization does",
      result: isAtLeast(held, 0),
      evidence: list(["rank correlation of the loss that switching off adds", held])
    },
    {
      about: "sinks",
      claim: "Self-influence goes through own sinks more for candidates than for text never trained on",
      result: is("higher", own("candidates"), own("heldOut")),
      evidence: list(["share on own sinks, candidates", own("candidates")], ["never trained on", own("heldOut")])
    }
  ]
  const seed = results.seeds.find((one) => memorized(one) !== undefined && results.of("all", one) !== undefined)
  const points = seed === undefined ? [] : memorized(seed)!.map((y, i) => ({
    x: results.of("all", seed)!.influence![i]!,
    y
  })).sort((a, b) => a.x - b.x)
  return {
    claims,
    numbers: Object.fromEntries(([
      ["rank correlation, self-influence", tracin],
      ["rank correlation, what own sinks hold", held],
      ["counterfactual memorization, mean", memory],
      ["held-out loss, all candidates", loss("all")],
      ...REMOVALS.map((which) => [`held-out loss, without ${which}`, loss(`without ${which}`)] as const),
      ["self-influence on own sinks, candidates", own("candidates")],
      ["self-influence on own sinks, never trained on", own("heldOut")]
    ] as ReadonlyArray<readonly [string, Estimate]>).filter(([, one]) => isKnown(one))),
    charts: [
      {
        title: "Held-out loss after training without a part of the candidates",
        x: { title: "left out, by self-influence",
          names: REMOVALS.map((which) => which === "random" ? which : `the ${which}`) },
        y: { title: "nats a token more than with all", zero: true },
        facets: [],
        lines: [{
          label: `without ${share}`,
          of: { what: "removal" },
          dots: true,
          points: REMOVALS.map((which, i) => {
            const { high, low, value } = intervalOf(cost(which))
            return { x: i + 1, y: value, ...(Number.isFinite(low) ? { low, high } : {}) }
          })
        }],
        color: ["what"]
      },
      {
        title: `Self-influence and counterfactual memorization of each candidate, seed ${seed ?? ""}`,
        x: { title: "self-influence: sum over checkpoints of rate times squared norm", log: true },
        y: { title: "counterfactual memorization, nats a token", zero: true },
        facets: [],
        lines: [{ label: "candidates", of: { what: "candidates" }, dots: true, width: 0, points }],
        color: ["what"]
      }
    ],
    tables: [{
      caption: "Training without a part of the candidates",
      head: ["", "held-out loss", "more than with all"],
      rows: [
        ["all candidates", plusMinus(loss("all")), ""],
        ...REMOVALS.map((which) => [`without ${which}`, plusMinus(loss(`without ${which}`)), plusMinus(cost(which))])
      ]
    }],
    terms: [
      ["self-influence",
        "TracIn of a sequence with itself: the learning rate times the squared norm of the gradient of its " +
        `mean loss by all weights, summed over ${config.checkpoints} checkpoints`],
      ["counterfactual memorization",
        "loss in models that were not trained on a sequence minus loss in those that were"]
    ] as const,
    limits: [
      "The paper's score is of influence functions with the inverse Hessian, of classifiers; TracIn's needs none, and is of " +
      "a language model here.",
      `${2 * pairs} models tell the counterfactual: its noise lowers every correlation.`,
      `${config.candidates} candidates of ${config.exposures} exposures are a small part of the text: leaving some out moves ` +
      "little of the loss of other text."
    ]
  }
}

export const selfInfluence = study<SelfInfluenceConfig, SelfInfluenceFound>({
  name: "selfInfluence",
  title: "Self-influence as a score of memorization",
  paper: "Zheng and Jiang (2022): An Empirical Study of Memorization in NLP",
  question: "Does self-influence tell what is memorized, what does training without it cost, and do own sinks hold it?",
  finding:
    "training examples of high self-influence are the memorized ones, and leaving them out costs more than leaving " +
    "out random ones",
  cost: "5 minutes; full: an hour",
  version: 1,
  schema: SelfInfluenceConfig,
  presets: {
    quick: new SelfInfluenceConfig({}),
    full: new SelfInfluenceConfig({
      seeds: 5,
      candidates: 96,
      pairs: 8,
      steps: 480,
      checkpoints: 6,
      data: { batchSize: 8, singleSequences: 4096, heldOutSequences: 256, repeatedSequences: 0 }
    })
  },
  problem: (config) => {
    if (config.model.sinks === undefined) {
      return "model.sinks: the study compares models with and without sinks: give it some"
    }
    const wrong = showingProblem(showing(config))
    return wrong === undefined ? undefined : `candidates: ${wrong}: raise steps (${config.steps}), or lower exposures`
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: partsOf,
  work,
  findings
})
