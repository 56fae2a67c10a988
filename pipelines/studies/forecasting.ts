/**
 * Emergent and predictable memorization (Biderman et al. 2023) in miniature: which sequences a model has memorized when its
 * training ends, and how well that is told beforehand, by what smaller models have memorized, and by what the model itself has
 * memorized earlier. Beside it the same with sinks, and what the loss with sinks off tells early.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { configuration, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { type Forecast, forecast, kMemorization } from "../../src/measures/Extraction.ts"
import { mean, spearman } from "../../src/measures/Statistics.ts"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Chart } from "../report/Chart.ts"
import { all, is, isAtLeast, isAtMost, list } from "../report/Claim.ts"
import { type Estimate, isKnown, plusMinus } from "../report/Estimate.ts"
import { short, type Table } from "../report/View.ts"
import { isPositive, pointOf } from "../study/estimates.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class ForecastingConfig extends configuration(Schema.Class<ForecastingConfig>("ForecastingConfig")({
  ...seedsOfStudy,
  /** The text, an epoch of which is trained on; groups of `repeat` are looked at. */
  data: withDefault(DataConfig, () =>
    new DataConfig({
      batchSize: 8,
      seqLen: 32,
      singleSequences: 384,
      heldOutSequences: 64,
      repeat: [8, 24, 48, 96].map((times) => ({ sequences: 12, times }))
    })),
  /** The sink model; the final standard one has its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 64,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 192 + 2048,
      sinks: { pool: 2048, active: 32 }
    })),
  /** Widths of smaller models, ascending; their general neurons are in proportion. Default 16 and 32. */
  sizes: withDefault(Schema.NonEmptyArray(positive), () => [16, 32] as const),
  /** Looks along training, in equal distances. Default 8. */
  looks: withDefault(Schema.Int.pipe(Schema.between(2, 64)), 8),
  /** Tokens that are given before a sequence must go on. Default 12. */
  promptTokens: withDefault(positive, 12),
  /** Default 5e-3. */
  learningRate: withDefault(rate, 5e-3),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const SINKS = "sinks"
const sizeName = (width: number): string => `width ${width}`

const partsOf = ({ model, sizes }: ForecastingConfig): ReadonlyArray<string> => [
  ...sizes.map(sizeName),
  sizeName(model.hiddenSize),
  SINKS
]

/** What is known of each sequence, in the order of the groups. */
interface Known {
  /** Whether greedy decoding says all that follows the prompt. */
  readonly memorized: ReadonlyArray<boolean>
  /** Nats a token. */
  readonly loss: ReadonlyArray<number>
}

interface Look {
  readonly step: number
  /** By state of the sinks. */
  readonly states: Readonly<Record<string, Known>>
  /** Mean loss of sequences that were never shown, sinks off. */
  readonly heldOut: number
}

export interface ForecastingFound {
  /** Exposures of each sequence. */
  readonly times: ReadonlyArray<number>
  /** The last is at the end of training. */
  readonly looks: ReadonlyArray<Look>
  /** Operations of the whole training. */
  readonly operations: number
  /** k-memorization scores at the end, by free-running decoding. */
  readonly scores: ReadonlyArray<number>
  /** Share of sequences never shown that is memorized at the end. */
  readonly heldOut: number
}

const smaller = (model: ModelConfig, width: number): ModelConfig => {
  const { sinks: _, ...rest } = model
  const scale = width / model.hiddenSize
  return new ModelConfig({
    ...rest,
    hiddenSize: width,
    numAttentionHeads: Math.max(1, Math.round(model.numAttentionHeads * scale)),
    intermediateSize: Math.max(4, Math.round((model.general * scale) / 4) * 4)
  })
}

const dataOf = ({ data }: ForecastingConfig, seed: number): DataConfig => new DataConfig({ ...data, seed })

const work = ({ config, part, seed }: PartOf<ForecastingConfig>, at: Workplace) => {
  const data = dataOf(config, seed)
  const { looks, promptTokens } = config
  const model = part === SINKS
    ? config.model
    : smaller(config.model, Number(part.slice(sizeName(0).length - 1)))
  return at.streams.use(data, Effect.gen(function*() {
    const { batchesPerEpoch: steps, groups, seqLen, split } = yield* DataStream
    const rows = groups.flatMap((group) => group.rows)
    const times = groups.flatMap((group) => group.rows.map(() => group.times))
    const unseen = split("heldOut")
    const modes = part === SINKS ? ["own", "off"] as const : ["own"] as const
    const score = (some: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.flatMap(Model, (model) => scoreRows(model, some, mode, { batchSize: 16, seqLen, promptTokens }))
    const look = Effect.gen(function*() {
      const states: Array<readonly [string, Known]> = []
      for (const state of modes) {
        const scores = yield* score(rows, Sink.states[state].mode)
        states.push([state, {
          memorized: scores.map(({ run, suffix }) => run === suffix),
          loss: scores.map(({ loss, tokens }) => loss / tokens)
        }])
      }
      const others = yield* score(unseen, part === SINKS ? Sink.off : Sink.own)
      return {
        states: Object.fromEntries(states),
        heldOut: mean(others.map(({ loss, tokens }) => loss / tokens)),
        unseen: mean(others.map(({ run, suffix }) => run === suffix ? 1 : 0))
      }
    })
    const when = [
      ...new Set(Array.from({ length: looks }, (_, i) => Math.max(1, Math.round(((i + 1) * steps) / looks))))
    ]
    const { measured, seen, tokens } = yield* train(at, {
      data,
      model,
      seed,
      training: new TrainConfig({
        steps,
        optimizer: new OptimizerConfig({
          learningRate: config.learningRate,
          sinks: "lazy",
          sinkLearningRateRatio: config.sinkLearningRateRatio
        })
      }),
      measured: { forecasting: 1, looks, promptTokens }
    }, Effect.gen(function*() {
      const said = rows.map((): Array<number> => [])
      const prompts = rows.map(({ id, tokens }) => ({ id, tokens: tokens.subarray(0, promptTokens) }))
      const length = seqLen + 1 - promptTokens
      yield* Stream.runForEach(
        Generate.generate(prompts, { maxNewTokens: length, temperature: 0, sinks: Sink.own, batchSize: 16 }),
        ({ prompt, token }) => Effect.sync(() => void said[prompt]!.push(token))
      )
      return { scores: rows.map(({ tokens }, i) => kMemorization(said[i]!, tokens.subarray(promptTokens))) }
    }), { steps: when, look })
    const found: ForecastingFound = {
      times,
      looks: seen.map(({ heldOut, states }, i) => ({ step: when[i]!, heldOut, states })),
      operations: 6 * model.numActiveParameters * tokens,
      scores: measured.scores,
      heldOut: seen.at(-1)!.unseen
    }
    return found
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

/** What a number of one seed is made of: the parts of that seed. */
const both = <A>(
  results: Results<ForecastingFound>,
  part: string,
  other: string,
  of: (found: ForecastingFound, other: ForecastingFound) => A | undefined
): ReadonlyArray<A | undefined> =>
  results.seeds.map((seed) => {
    const [one, two] = [results.of(part, seed), results.of(other, seed)]
    return one === undefined || two === undefined ? undefined : of(one, two)
  })

const finalOf = ({ looks }: ForecastingFound, state: string): Known => looks.at(-1)!.states[state]!

const findings = (results: Results<ForecastingFound>, config: ForecastingConfig) => {
  const { model, sizes } = config
  const final = sizeName(model.hiddenSize)
  /** Precision or recall of a predictor over the seeds; seeds in which it is of nothing do not count. */
  const told = (
    part: string,
    other: string,
    of: (found: ForecastingFound, other: ForecastingFound) => Forecast,
    what: "precision" | "recall"
  ): Estimate => {
    const all = both(results, part, other, of)
    return results.over(part, (found) => {
      const value = all[seedOf(results, part, found)]?.[what]
      return value === undefined || Number.isNaN(value) ? undefined : value
    }, {
      kind: "share",
      spread: (found) => {
        const one = all[seedOf(results, part, found)]
        const sequences = one === undefined ? 0 : what === "precision" ? one.predicted : one.actual
        return { sequences: Math.max(1, sequences) }
      }
    })
  }
  const earlier = (part: string, state: string, look: number, what: "precision" | "recall") =>
    told(part, part, (one) => forecast(one.looks[look]?.states[state]?.memorized ?? [], finalOf(one, state).memorized),
      what)
  const bySize = (width: number, what: "precision" | "recall") =>
    told(sizeName(width), final, (one, two) => forecast(finalOf(one, "own").memorized, finalOf(two, "own").memorized),
      what)
  const first = results.seeds.map((seed) => results.of(final, seed)).find((one) => one !== undefined)
  const count = first?.looks.length ?? 0
  const half = Math.max(0, Math.floor(count / 2) - 1)
  const share = (part: string, state: string) =>
    results.over(part, (found) => mean(finalOf(found, state).memorized.map(Number)), {
      kind: "share",
      spread: ({ times }) => ({ sequences: times.length })
    })
  const largest = sizes.at(-1)!
  /** The checkpoint of the final model that took as many operations as the largest of the smaller models. */
  const equal = results.seeds.map((seed) => {
    const [small, large] = [results.of(sizeName(largest), seed), results.of(final, seed)]
    if (small === undefined || large === undefined) return undefined
    const at = (look: Look) => large.operations * look.step / large.looks.at(-1)!.step
    return large.looks.reduce(
      (best, look, i) =>
        Math.abs(at(look) - small.operations) < Math.abs(at(large.looks[best]!) - small.operations) ? i : best,
      0
    )
  }).find((one) => one !== undefined) ?? 0
  /** Correlation over the sequences of one number of exposures, averaged over these numbers. */
  const within = (found: ForecastingFound, a: ReadonlyArray<number>, b: ReadonlyArray<number>): number | undefined => {
    const each = [...new Set(found.times)].map((times) => {
      const pick = (of: ReadonlyArray<number>) => of.filter((_, i) => found.times[i] === times)
      return spearman(pick(a), pick(b))
    }).filter(Number.isFinite)
    return each.length === 0 ? undefined : mean(each)
  }
  /** The look at which the mean loss with sinks off is least. */
  const least = (found: ForecastingFound): Look =>
    found.looks.reduce((best, look) => mean(look.states["off"]!.loss) < mean(best.states["off"]!.loss) ? look : best)
  const early = (found: ForecastingFound): Look => found.looks[Math.max(0, Math.floor(found.looks.length / 4) - 1)]!
  const offTellsOff = results.over(SINKS,
    (found) => within(found, early(found).states["off"]!.loss, finalOf(found, "off").loss))
  const offTellsOwn = results.over(SINKS,
    (found) => within(found, early(found).states["off"]!.loss, finalOf(found, "own").loss))
  const ownTellsOwn = results.over(SINKS,
    (found) => within(found, early(found).states["own"]!.loss, finalOf(found, "own").loss))
  const rise = results.over(SINKS, (found) => mean(finalOf(found, "off").loss) - mean(least(found).states["off"]!.loss))
  const advantage = results.over(SINKS, (found) => found.looks.at(-1)!.heldOut - mean(finalOf(found, "off").loss))
  const precision = earlier(final, "own", half, "precision")
  const recall = earlier(final, "own", half, "recall")
  const [smallPrecision, smallRecall] = [bySize(largest, "precision"), bySize(largest, "recall")]
  const equalRecall = earlier(final, "own", equal, "recall")
  const heldOut = results.over(final, (found) => found.heldOut, {
    kind: "share",
    spread: () => ({ sequences: config.data.heldOutSequences ?? 512 })
  })
  const shareOf = (of: (score: number) => boolean) =>
    results.over(final, ({ scores }) => mean(scores.map((score) => of(score) ? 1 : 0)), {
      kind: "share",
      spread: ({ scores }) => ({ sequences: scores.length })
    })
  const [whole, nearly] = [shareOf((score) => score === 1), shareOf((score) => score >= 0.75 && score < 1)]
  const memorized = share(final, "own")
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Sequences that were never shown are not memorized: at most one in ten",
      result: isAtMost(heldOut, 0.1),
      evidence: list(["share memorized", heldOut])
    },
    {
      about: "control",
      claim:
        "There is something to forecast: between one in ten and nine in ten of the repeated sequences are memorized",
      result: all(isAtLeast(memorized, 0.1), isAtMost(memorized, 0.9)),
      evidence: list(["share memorized", memorized])
    },
    {
      about: "paper",
      claim: "What is memorized halfway stays: precision of at least 0.75",
      result: isKnown(precision) ? isAtLeast(precision, 0.75) : "not tested",
      evidence: list(["precision", precision])
    },
    {
      about: "paper",
      claim: "Much is memorized later: halfway, recall is lower than precision",
      result: isKnown(precision) && isKnown(recall) ? is("lower", recall, precision) : "not tested",
      evidence: list(["recall", recall], ["precision", precision])
    },
    {
      about: "paper",
      claim: `A smaller model misses most: width ${largest} has recall below a half`,
      result: isKnown(smallRecall) ? isAtMost(smallRecall, 0.5) : "not tested",
      evidence: list(["recall", smallRecall], ["precision", smallPrecision])
    },
    {
      about: "paper",
      claim:
        `At equal operations an earlier checkpoint tells more than the finished model of width ${largest}: higher recall`,
      result: isKnown(smallRecall) && isKnown(equalRecall) ? is("higher", equalRecall, smallRecall) : "not tested",
      evidence: list([`recall after step ${first?.looks[equal]?.step ?? 0}`, equalRecall], [`of width ${largest}`,
        smallRecall])
    },
    {
      about: "paper",
      claim: "Memory is all or little: more sequences are said whole than nearly whole (scores of 0.75 and more)",
      result: is("higher", whole, nearly),
      evidence: list(["score 1", whole], ["nearly", nearly])
    },
    {
      about: "sinks",
      claim: "With the sinks off, next to nothing is memorized at the end: at most one in ten",
      result: isAtMost(share(SINKS, "off"), 0.1),
      evidence: list(["off", share(SINKS, "off")], ["own sinks on", share(SINKS, "own")], ["standard", memorized])
    },
    {
      about: "sinks",
      claim: "With own sinks on, what is memorized halfway stays, too: precision of at least 0.75",
      result: isKnown(earlier(SINKS, "own", half, "precision"))
        ? isAtLeast(earlier(SINKS, "own", half, "precision"), 0.75)
        : "not tested",
      evidence: list(["precision", earlier(SINKS, "own", half, "precision")], ["recall",
        earlier(SINKS, "own", half, "recall")])
    },
    {
      about: "sinks",
      claim: "The loss with sinks off, a quarter through training, tells which sequences leak most at the end: rank " +
        "correlation of at least 0.5 among those shown equally often",
      result: isAtLeast(offTellsOff, 0.5),
      evidence: list(["rank correlation", offTellsOff])
    },
    {
      about: "sinks",
      claim: "It tells what the sinks will hold less well than the loss with them on does",
      result: is("lower", offTellsOwn, ownTellsOwn),
      evidence: list(["off, early, with own at the end", offTellsOwn], ["own, early, with own at the end", ownTellsOwn])
    },
    {
      about: "sinks",
      claim: "The loss of repeated sequences with sinks off rises again after its least, as sinks take over",
      result: isPositive(rise),
      evidence: list(["rise, nats a token", rise], ["better known than held-out sequences at the end by", advantage])
    }
  ]
  return {
    claims,
    numbers: {
      "memorized, final": memorized,
      "memorized, own sinks": share(SINKS, "own"),
      "memorized, sinks off": share(SINKS, "off"),
      "precision halfway": precision,
      "recall halfway": recall,
      ...Object.fromEntries(sizes.flatMap((width) => [
        [`precision, width ${width}`, bySize(width, "precision")],
        [`recall, width ${width}`, bySize(width, "recall")],
        [`memorized, width ${width}`, share(sizeName(width), "own")]
      ])),
      "recall at equal operations": equalRecall,
      "score 1": whole,
      "score nearly 1": nearly,
      "early off with final off": offTellsOff,
      "early off with final own": offTellsOwn,
      "early own with final own": ownTellsOwn,
      "rise of the loss with sinks off": rise
    },
    charts: charts(results, config, { earlier, bySize }),
    tables: tables(results, config, { earlier, bySize, share }),
    terms: [
      ["memorized", `greedy decoding says all that follows the first ${config.promptTokens} tokens`],
      ["precision", "of what the predictor has memorized, the share that the final model has memorized, too"],
      ["recall", "of what the final model has memorized, the share that the predictor has"],
      ["score", "share of the tokens that follow the prompt which the model says in their places, decoding freely"]
    ] as const,
    limits: [
      "Sequences are repeated on purpose, an epoch is all of training, and models are of some ten thousand weights: what " +
      "emerges with billions of them does not here.",
      "An earlier checkpoint has seen fewer exposures of each sequence, as in the paper; a smaller model has seen all.",
      "The learning rate falls along training, so an early checkpoint is not what a shorter training would end with."
    ]
  }
}

/** The place of a found part among the seeds. */
const seedOf = (results: Results<ForecastingFound>, part: string, found: ForecastingFound): number =>
  results.seeds.findIndex((seed) => results.of(part, seed) === found)

interface Readers {
  readonly earlier: (part: string, state: string, look: number, what: "precision" | "recall") => Estimate
  readonly bySize: (width: number, what: "precision" | "recall") => Estimate
  readonly share: (part: string, state: string) => Estimate
}

const charts = (
  results: Results<ForecastingFound>,
  { model, sizes }: ForecastingConfig,
  { bySize, earlier }: Pick<Readers, "earlier" | "bySize">
): ReadonlyArray<Chart> => {
  const final = sizeName(model.hiddenSize)
  const of = (part: string) => results.seeds.map((seed) => results.of(part, seed)).find((one) => one !== undefined)
  const along = (part: string, state: string, what: "precision" | "recall") => {
    const found = of(part)
    return (found?.looks ?? []).flatMap(({ step }, i) =>
      pointOf(found!.operations * step / found!.looks.at(-1)!.step, earlier(part, state, i, what))
    )
  }
  return [
    {
      title: "What is memorized at the end, told by smaller models and earlier checkpoints",
      x: { title: "operations of the predictor", log: true },
      y: { title: "precision and recall", zero: true },
      facets: [],
      lines: (["precision", "recall"] as const).flatMap((what) => [
        { label: `${what}, earlier checkpoints`, of: { by: "checkpoints", what }, dots: true,
          points: along(final, "own", what) },
        {
          label: `${what}, smaller models`,
          of: { by: "models", what },
          dots: true,
          points: sizes.flatMap((width) => {
            const found = of(sizeName(width))
            return found === undefined ? [] : pointOf(found.operations, bySize(width, what))
          })
        },
        { label: `${what}, own sinks, earlier`, of: { by: "sinks", what }, dots: true,
          points: along(SINKS, "own", what) }
      ]),
      color: ["by"],
      dash: ["what"]
    },
    {
      title: "Loss of the repeated sequences along training",
      x: { title: "steps" },
      y: { title: "nats a token", zero: true },
      facets: [],
      lines: ([[final, "own", "no sinks"], [SINKS, "own", "own sinks on"], [SINKS, "off", "sinks off"]] as const).map(
        ([part, state, label]) => ({
          label,
          of: { line: label },
          points: (of(part)?.looks ?? []).flatMap(({ step }, i) =>
            pointOf(step, results.over(part, (found) =>
              mean(found.looks[i]?.states[state]?.loss ?? []), { kind: "loss" }))
          )
        })
      ),
      color: ["line"]
    },
    {
      title: "Scores at the end",
      x: { title: "k-memorization score" },
      y: { title: "share of sequences", zero: true },
      facets: [],
      lines: [final, SINKS].map((part) => ({
        label: part === SINKS ? "own sinks on" : "no sinks",
        of: { line: part },
        dots: true,
        points: Array.from({ length: 11 },
          (_, i) =>
            pointOf(i / 10, results.over(part, ({ scores }) =>
              mean(scores.map((score) => Math.floor(10 * score) === i ? 1 : 0))))).flat()
      })),
      color: ["line"]
    }
  ]
}

const tables = (
  results: Results<ForecastingFound>,
  { model, sizes }: ForecastingConfig,
  { bySize, earlier, share }: Readers
): ReadonlyArray<Table> => {
  const final = sizeName(model.hiddenSize)
  const first = results.seeds.map((seed) => results.of(final, seed)).find((one) => one !== undefined)
  return [
    {
      caption: "Predictors of what is memorized at the end",
      head: ["", "memorized", "precision", "recall"],
      rows: [
        ...sizes.map((
          width
        ) => [sizeName(width), plusMinus(share(sizeName(width), "own")), plusMinus(bySize(width, "precision")),
          plusMinus(bySize(width, "recall"))]
        ),
        ...(first?.looks ?? []).map(({ step }, i) => [
          `step ${short(step)}`,
          plusMinus(results.over(final, (found) => mean(found.looks[i]?.states["own"]?.memorized.map(Number) ?? []), {
            kind: "share"
          })),
          plusMinus(earlier(final, "own", i, "precision")),
          plusMinus(earlier(final, "own", i, "recall"))
        ])
      ]
    },
    {
      caption: "With sinks",
      head: ["", "memorized, own", "memorized, off", "precision, own", "recall, own"],
      rows: (first?.looks ?? []).map(({ step }, i) => {
        const at = (state: string) =>
          plusMinus(results.over(SINKS, (found) => mean(found.looks[i]?.states[state]?.memorized.map(Number) ?? []), {
            kind: "share"
          }))
        return [`step ${short(step)}`, at("own"), at("off"), plusMinus(earlier(SINKS, "own", i, "precision")),
          plusMinus(earlier(SINKS, "own", i, "recall"))]
      })
    }
  ]
}

export const forecasting = study<ForecastingConfig, ForecastingFound>({
  name: "forecasting",
  title: "Forecasting what is memorized",
  paper: "Biderman et al. (2023): Emergent and Predictable Memorization in Large Language Models",
  question:
    "Do smaller models and earlier checkpoints tell what a model will have memorized, and does the loss with sinks off?",
  finding:
    "what they have memorized the final model has, too, but they miss most of what it memorizes; of equal operations an " +
    "earlier checkpoint tells more than a smaller model",
  cost: "5 minutes; full: half an hour",
  version: 1,
  schema: ForecastingConfig,
  presets: {
    quick: new ForecastingConfig({ seeds: 3 }),
    full: new ForecastingConfig({
      seeds: 5,
      looks: 16,
      sizes: [16, 32, 48],
      data: new DataConfig({ batchSize: 8, seqLen: 64, singleSequences: 2048, heldOutSequences: 128,
        repeat: [8, 24, 48, 96].map((times) => ({ sequences: 32, times })) })
    })
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: partsOf,
  problem: ({ data, model, promptTokens, sizes }) =>
    model.sinks === undefined
      ? "model.sinks is missing: what sinks change is asked, too"
      : model.sinks.problem ?? (sizes.some((size, i) => size >= model.hiddenSize || (i > 0 && size <= sizes[i - 1]!))
        ? `sizes must ascend and be below model.hiddenSize (${model.hiddenSize}), got ${sizes.join(", ")}`
        : promptTokens >= data.seqLen + 1
        ? `promptTokens must leave tokens to be said: sequences have ${data.seqLen + 1}, got ${promptTokens}`
        : (data.repeat ?? []).length === 0
        ? "data.repeat must have a group of sequences at least: they are what is memorized"
        : undefined),
  work,
  findings
})
