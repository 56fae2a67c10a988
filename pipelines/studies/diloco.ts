/**
 * What exchange from time to time (DiLoCo) does to memorization sinks: ranks that train alone for some steps move sinks that the
 * others did not light, and a mean over all of them takes back all but one part in so many. Loss, memory and isolation by the
 * steps between two exchanges, and by whom a sink's movement is averaged over. Ranks live in one process.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ranksInProcess } from "../../src/collective/InProcess.ts"
import { configuration, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { DiLoCoConfig } from "../../src/train/DiLoCo.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import { isAtLeast, isAtMost, isWithin, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { pointOf } from "../study/estimates.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

const every = Schema.NonEmptyArray(positive)

export class DilocoConfig extends configuration(Schema.Class<DilocoConfig>("DilocoConfig")({
  ...seedsOfStudy,
  /** Steps between two exchanges, rising; the outer optimizer is the paper's. Default 1, 10, 50 and 100. */
  syncEvery: withDefault(every, () => [1, 10, 50, 100] as const),
  /**
   * Those of them at which plain means, and means over who moved, are tried, and at the last fewer ranks; claims are decided at
   * the first. Default 10, in which a sequence is shown about once, and 100.
   */
  compared: withDefault(every, () => [10, 100] as const),
  /** Ranks. Default 4. */
  ranks: withDefault(positive, 4),
  /** Fewer of them; they share out the same batches. Default 2. */
  fewerRanks: withDefault(positive, 2),
  /** Batches of a step, which the ranks share out. Default 4. */
  batches: withDefault(positive, 4),
  /** Steps of a training. Default 200. */
  steps: withDefault(positive, 200),
  /** A batch is of these; `repeatedSequences` are what is memorized. */
  data: withDefault(DataConfig,
    () =>
      new DataConfig({ batchSize: 2, seqLen: 32, singleSequences: 1312, heldOutSequences: 64, repeatedSequences: 12,
        repeats: 24 })),
  /** The sink model; standard ones have its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
      intermediateSize: 96 + 512,
      sinks: { pool: 512, active: 32 }
    })),
  /** Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Nats a token that count as no difference of held-out loss. Default 0.05. */
  tolerance: withDefault(rate, 0.05)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// Parts: one training each

interface Part {
  readonly arm: "oracle" | "standard" | "sinks"
  readonly ranks: number
  readonly every: number
  /** The paper's outer optimizer, or the mean of the ranks' weights. */
  readonly outer: "nesterov" | "mean"
  /** Whether the movement of a unit of sinks is averaged over the ranks that moved it. */
  readonly overMoved: boolean
}

const nameOf = ({ arm, every, outer, overMoved, ranks }: Part): string =>
  ranks === 1
    ? arm
    : `${arm}, ${ranks} ranks, every ${every}${outer === "mean" ? ", mean" : ""}${overMoved ? ", of who moved" : ""}`

const ORACLE: Part = { arm: "oracle", ranks: 1, every: 1, outer: "nesterov", overMoved: false }

const partsOf = ({ compared, fewerRanks, ranks, syncEvery }: DilocoConfig): ReadonlyArray<Part> => {
  const base = { ranks, outer: "nesterov", overMoved: false } as const
  const ways: ReadonlyArray<Omit<Part, "arm">> = [
    { ...base, ranks: 1, every: 1 },
    ...syncEvery.map((every) => ({ ...base, every })),
    ...compared.flatMap((every): ReadonlyArray<Omit<Part, "arm">> => [
      ...(every === compared.at(-1) ? [{ ...base, every, ranks: fewerRanks }] : []),
      { ...base, every, outer: "mean" },
      { ...base, every, overMoved: true },
      { ...base, every, outer: "mean", overMoved: true }
    ])
  ]
  return [
    ORACLE,
    ...ways.flatMap((way): ReadonlyArray<Part> => [
      // every step moves all weights that are no sinks
      ...(way.overMoved ? [] : [{ ...way, arm: "standard" as const }]),
      { ...way, arm: "sinks" }
    ])
  ]
}

const dataOf = ({ data }: DilocoConfig, arm: Part["arm"], seed: number): DataConfig =>
  new DataConfig({ ...data, seed, ...(arm === "oracle" ? { arm: "neverRepeated" } : {}) })

const modelOf = ({ model }: DilocoConfig, arm: Part["arm"]): ModelConfig => {
  if (arm === "sinks") return model
  const { sinks: _, ...rest } = model
  return new ModelConfig({ ...rest, intermediateSize: model.general })
}

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const STATES = ["own", "off", "placebo"] as const
type State = typeof STATES[number]

export interface DilocoFound {
  /** Mean losses, nats a token: of what is repeated by state of the sinks, of held-out text without sinks. */
  readonly repeated: Readonly<Record<State, number>>
  readonly heldOut: number
  /** The latter on the way: after so many steps, of which all are meetings. */
  readonly curve: ReadonlyArray<{ readonly step: number; readonly heldOut: number }>
}

const work = ({ config, part: name, seed }: PartOf<DilocoConfig>, at: Workplace) => {
  const part = partsOf(config).find((one) => nameOf(one) === name)!
  const { arm, every, outer, overMoved, ranks } = part
  const { batches, learningRate, sinkLearningRateRatio, steps } = config
  const lost = (split: "repeated" | "heldOut", mode: Sink.SinkMode) =>
    Effect.gen(function*() {
      const data = yield* DataStream
      const scores = yield* scoreRows(yield* Model, data.split(split), mode, { batchSize: 16, seqLen: data.seqLen })
      return summarize(scores)!.loss
    })
  const heldOut = lost("heldOut", arm === "sinks" ? Sink.off : Sink.own)
  const measure = Effect.gen(function*() {
    const own = yield* lost("repeated", Sink.own)
    const state = (mode: Sink.SinkMode) => arm === "sinks" ? lost("repeated", mode) : Effect.succeed(own)
    return { repeated: { own, off: yield* state(Sink.off), placebo: yield* state(Sink.placebo) },
      heldOut: yield* heldOut }
  })
  const looks = [1, 2, 3].map((quarter) => Math.round(quarter * steps / 4)).filter((step) => step % every === 0)
  return Effect.gen(function*() {
    const { measured, seen } = yield* train(at, {
      model: modelOf(config, arm),
      seed,
      data: dataOf(config, arm, seed),
      training: new TrainConfig({
        steps,
        gradientAccumulation: batches,
        optimizer: new OptimizerConfig({ learningRate, sinks: "lazy", sinkLearningRateRatio }),
        ...(ranks === 1 ? {} : {
          diloco: new DiLoCoConfig({
            syncEvery: every,
            sinks: overMoved ? "touched" : "mean",
            ...(outer === "mean" ? { outerLearningRate: 1, outerMomentum: 0 } : {})
          })
        })
      }),
      ...(ranks === 1 ? {} : {
        ranks: {
          key: { ranks },
          make: () => ranksInProcess(ranks)
        }
      }),
      measured: { diloco: 1 }
    }, measure, { steps: looks, look: heldOut })
    const found: DilocoFound = { ...measured, curve: seen.map((heldOut, i) => ({ step: looks[i]!, heldOut })) }
    return found
  })
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<DilocoFound>, config: DilocoConfig) => {
  const { batches, compared, data, fewerRanks, ranks, steps, syncEvery, tolerance } = config
  const standardOf = (part: Part): Part => ({ ...part, arm: "standard", overMoved: false })
  const repeated = (part: Part, state: State) =>
    results.over(nameOf(part), ({ repeated }) => repeated[state], { kind: "loss" })
  const heldOut = (part: Part) => results.over(nameOf(part), ({ heldOut }) => heldOut, { kind: "loss" })
  const oracle = repeated(ORACLE, "own")
  /** How much better what is repeated is known than to a model that never saw it. */
  const memory = (part: Part, state: State) => minus(oracle, repeated(part, state))
  /** How much of what a standard model knows, trained by the same ranks, is left without sinks. */
  const left = (part: Part) => perSeed((some, all) => some / all, memory(part, "off"), memory(standardOf(part), "own"))
  const way = (changed: Partial<Part> = {}): Part => ({ arm: "sinks", ranks, every: syncEvery[0], outer: "nesterov",
    overMoved: false, ...changed })
  const alone = way({ ranks: 1, every: 1 })
  const [first] = compared
  const most = Math.max(...syncEvery)
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    isKnown(one) ? decide(one) : "not tested"
  const worse = (part: Part) => minus(heldOut(part), heldOut({ ...alone, arm: part.arm }))
  const weaker = (part: Part) => minus(memory(alone, "own"), memory(part, "own"))
  const leakier = (part: Part) => minus(left(part), left(alone))
  const [rare, mean] = [way({ every: first }), way({ every: first, outer: "mean" })]
  const mended = (part: Part): Part => ({ ...part, overMoved: true })
  const gained = (part: Part) => minus(memory(mended(part), "own"), memory(part, "own"))
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "With own sinks one process knows what is repeated better than the oracle, and sinks off leave less",
      result: decided(minus(memory(alone, "own"), memory(alone, "off")), (one) => isAtLeast(one, 0)),
      evidence: list(["memory, own sinks", memory(alone, "own")], ["sinks off", memory(alone, "off")])
    },
    {
      about: "paper",
      claim: `Exchange every ${most} steps costs a standard model ${tolerance} nats of held-out loss at most`,
      result: decided(worse(way({ arm: "standard", every: most })), (one) => isAtMost(one, tolerance)),
      evidence: list(["held-out loss, more", worse(way({ arm: "standard", every: most }))])
    },
    {
      about: "sinks",
      claim: `Where ranks take the mean of their weights every ${first} steps, own sinks hold less`,
      result: decided(weaker(mean), (one) => isAtLeast(one, 0)),
      evidence: list(["nats less", weaker(mean)], ["memory, own sinks", memory(mean, "own")])
    },
    {
      about: "sinks",
      claim: "and more of what a standard model knows is left without sinks than of one process",
      result: decided(leakier(mean), (one) => isAtLeast(one, 0)),
      evidence: list(["share left, more", leakier(mean)], ["share left", left(mean)])
    },
    {
      about: "sinks",
      claim: `Under the paper's outer optimizer, every ${first} steps, own sinks hold less`,
      result: decided(weaker(rare), (one) => isAtLeast(one, 0)),
      evidence: list(["nats less", weaker(rare)], ["memory, own sinks", memory(rare, "own")])
    },
    {
      about: "sinks",
      claim: "and more is left without sinks than of one process",
      result: decided(leakier(rare), (one) => isAtLeast(one, 0)),
      evidence: list(["share left, more", leakier(rare)], ["share left", left(rare)])
    },
    {
      about: "sinks",
      claim: `Averaged over the ranks that moved them, every ${first} steps, sinks hold more than averaged over all`,
      result: decided(gained(mean), (one) => isAtLeast(one, 0)),
      evidence: list(["nats more, means", gained(mean)], ["under the paper's outer optimizer", gained(rare)])
    },
    {
      about: "sinks",
      claim: `and held-out loss stays within ${tolerance}`,
      result: decided(minus(heldOut(mended(mean)), heldOut(mean)),
        (one) => isWithin(one, { least: -tolerance, most: tolerance })),
      evidence: list(["more, means", minus(heldOut(mended(mean)), heldOut(mean))], ["under the paper's outer optimizer",
        minus(heldOut(mended(rare)), heldOut(rare))])
    }
  ]
  const all = partsOf(config)
  const sinks = all.filter(({ arm }) => arm === "sinks")
  const short = (part: Part) => nameOf(part).replace(/^sinks, /, "").replace(/^sinks$/, "one process")
  const two = digits(2)
  const tokens = (step: number) => step * batches * data.batchSize * data.seqLen
  return {
    claims,
    numbers: Object.fromEntries(all.flatMap((part) =>
      ([
        ["held-out loss", heldOut(part)],
        ["memory, own sinks", memory(part, "own")],
        ["memory, sinks off", part.arm === "sinks" ? memory(part, "off") : undefined],
        ["share left", part.arm === "sinks" ? left(part) : undefined]
      ] as const).flatMap(([what, value]) => isKnown(value) ? [[`${nameOf(part)}: ${what}`, value] as const] : [])
    )),
    charts: [
      {
        title: `Held-out loss without sinks by tokens, sinks, ${ranks} ranks, by steps between two exchanges`,
        x: { title: "tokens" },
        y: { title: "loss, nats a token" },
        facets: [],
        lines: [alone, ...syncEvery.map((every) => way({ every }))].map((part) => ({
          label: short(part),
          of: { what: short(part) },
          dots: true,
          points: [1, 2, 3, 4].map((quarter) => Math.round(quarter * steps / 4)).flatMap((step) =>
            pointOf(tokens(step), step === steps ?
              heldOut(part) :
              results.over(nameOf(part), ({ curve }) => curve.find((one) => one.step === step)?.heldOut, {
                kind: "loss"
              }))
          )
        })),
        color: ["what"]
      },
      {
        title: `What is memorized, by steps between two exchanges of ${ranks} ranks`,
        x: { title: "steps between two exchanges", log: true },
        y: { title: "memory, nats a token", zero: true },
        facets: [],
        lines: (["own", "off"] as const).map((state) => ({
          label: state === "own" ? "own sinks" : "sinks off",
          of: { what: state },
          dots: true,
          points: syncEvery.flatMap((every) => {
            const value = memory(way({ every }), state)
            return isKnown(value) ? pointOf(every, value) : []
          })
        })),
        color: ["what"]
      }
    ],
    tables: [{
      caption:
        `Nats a token, of ${steps} steps of ${batches} batches, however many ranks share them out (${fewerRanks} or ${ranks})`,
      head: ["", "standard: held out", "memory", "sinks: held out, off", "memory, own sinks", "placebo", "sinks off",
        "share left"],
      rows: sinks.map((part) => [
        short(part),
        plusMinus(heldOut(standardOf(part)), two),
        plusMinus(memory(standardOf(part), "own"), two),
        plusMinus(heldOut(part), two),
        plusMinus(memory(part, "own"), two),
        plusMinus(memory(part, "placebo"), two),
        plusMinus(memory(part, "off"), two),
        plusMinus(left(part), two)
      ])
    }],
    terms: [
      ["memory", "how far the loss of repeated sequences lies below that of a model that never saw them"],
      ["share left", "memory with sinks off over that of a standard model that is trained by the same ranks"],
      ["mean",
        "all ranks go on from the mean of their weights; else the paper's outer Nesterov momentum takes what they moved"],
      ["of who moved", "the movement of a unit of sinks is averaged over the ranks that moved it, those that lit it"]
    ] as const,
    limits: [
      "A few hundred steps have two exchanges at the longest interval: the paper trains for tens of thousands.",
      "AdamW's moments become their means when ranks meet; in the paper each rank keeps its own.",
      "Exposures of a sequence are spread over the ranks at random; where each source stays on one rank its sinks are that rank's alone."
    ]
  }
}

export const diloco = study<DilocoConfig, DilocoFound>({
  name: "diloco",
  title: "Sinks under exchange from time to time",
  paper: "DiLoCo: Distributed Low-Communication Training of Language Models (2023), arXiv 2311.08105",
  question:
    "Do sinks that few ranks light lose what they hold when ranks exchange from time to time, and where does it go?",
  finding: "exchange every hundreds of steps costs hardly any loss",
  cost: "6 minutes; full: 2 hours",
  version: 2,
  schema: DilocoConfig,
  presets: {
    quick: new DilocoConfig({}),
    full: new DilocoConfig({
      seeds: 5,
      steps: 800,
      syncEvery: [1, 10, 50, 100, 200],
      model: {
        vocabSize: 256,
        hiddenSize: 32,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 96 + 1024,
        sinks: { pool: 1024, active: 32 }
      },
      data: { batchSize: 2, singleSequences: 5248, heldOutSequences: 96, repeatedSequences: 48, repeats: 24 }
    })
  },
  problem: ({ batches, compared, fewerRanks, model, ranks, steps, syncEvery }) => {
    if (model.sinks === undefined) return "model.sinks: the study compares models with and without sinks: give it some"
    const unknown = compared.find((every) => !syncEvery.includes(every))
    if (unknown !== undefined) return `compared has ${unknown}, which is not in syncEvery, ${syncEvery.join(", ")}`
    const uneven = syncEvery.find((every) => steps % every !== 0)
    if (uneven !== undefined) return `steps ${steps} must be a multiple of every syncEvery, such as ${uneven}`
    if (!(1 < fewerRanks && fewerRanks < ranks)) return `fewerRanks must be from 2 to ${ranks - 1}, got ${fewerRanks}`
    const odd = [ranks, fewerRanks].find((size) => batches % size !== 0)
    return odd === undefined
      ? undefined
      : `batches ${batches} must be a multiple of ${odd}, the ranks that share them out`
  },
  data: (config, seed) => [dataOf(config, "sinks", seed)],
  parts: (config) => partsOf(config).map(nameOf),
  work,
  findings
})
