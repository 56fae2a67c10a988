/**
 * Exposures in a row against exposures spread over training: what a passage that is shown massed writes into the part of a
 * model that everybody shares, and what stops it. Each passage is looked at right after its last exposure.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { type Planted, type Showing, showingProblem, spread, timetable } from "../../src/data/stream/Timetable.ts"
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

export class MassedConfig extends configuration(Schema.Class<MassedConfig>("MassedConfig")({
  ...seedsOfStudy,
  /** The text: its `singleSequences` fill the steps' other rows, each once before any comes again. */
  data: withDefault(DataConfig,
    () => new DataConfig({ batchSize: 8, singleSequences: 3072, heldOutSequences: 96, repeatedSequences: 0 })),
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
  /** Steps of a training; passages are shown in its second half. Default 320. */
  steps: withDefault(positive, 320),
  /** Passages that are shown. Default 8. */
  passages: withDefault(positive, 8),
  /** Exposures of each. Default 16. */
  exposures: withDefault(positive, 16),
  /** Constant, so that late exposures write as much as early ones. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Passages that are never shown, to whose loss all others are related. Default 32. */
  foils: withDefault(positive, 32),
  /** Share of the standard model's memory that counts as none. Default 0.1. */
  tolerance: withDefault(fraction, 0.1)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// Parts: one training each

interface Arm {
  readonly sinks: boolean
  /** Blocks that the exposures come in; 0: they are not shown. */
  readonly blocks: number
  readonly ratio?: number
  readonly active?: number
  /** Ids that a passage's exposures take in turn. */
  readonly ids?: number
  readonly routing?: "gradientMasking" | "sgtm"
  readonly dropped?: { readonly sequences?: number; readonly units?: number }
}

const NEVER = "standard, never"
const STANDARD = { spread: "standard, spread", massed: "standard, massed" } as const
const SINKS = { spread: "sinks, spread", massed: "sinks, massed" } as const

/** What may stop it, all massed but for cycles. */
const remedies = ({ exposures, model, sinkLearningRateRatio: ratio }: MassedConfig) => {
  const massed = { sinks: true, blocks: 1 }
  return {
    low: { ...massed, ratio: ratio / 4 },
    high: { ...massed, ratio: ratio * 4 },
    wide: { ...massed, active: (model.sinks?.active ?? 0) * 4 },
    ids: { ...massed, ids: 4 },
    untied: { ...massed, ids: exposures },
    sequences: { ...massed, dropped: { sequences: 0.25 } },
    units: { ...massed, dropped: { units: 0.5 } },
    gradientMasking: { ...massed, routing: "gradientMasking" },
    sgtm: { ...massed, routing: "sgtm" },
    cycles: { sinks: true, blocks: 4 }
  } satisfies Record<string, Arm>
}

const titles = {
  low: "sinks' rate a quarter",
  high: "sinks' rate fourfold",
  wide: "four times as many sinks an id",
  ids: "four ids a passage, in turn",
  untied: "a fresh id at every exposure",
  sequences: "a quarter of the sequences without sinks",
  units: "half of each sequence's sinks left out",
  gradientMasking: "general neurons do not learn it",
  sgtm: "nothing but sinks learns it",
  cycles: "in four blocks"
} as const satisfies Record<keyof ReturnType<typeof remedies>, string>

type Remedy = keyof typeof titles

const armsOf = (config: MassedConfig): ReadonlyMap<string, Arm> =>
  new Map<string, Arm>([
    [NEVER, { sinks: false, blocks: 0 }],
    [STANDARD.spread, { sinks: false, blocks: config.exposures }],
    [STANDARD.massed, { sinks: false, blocks: 1 }],
    [SINKS.spread, { sinks: true, blocks: config.exposures }],
    [SINKS.massed, { sinks: true, blocks: 1 }],
    ...Object.entries(remedies(config))
  ])

const showingOf = ({ exposures, steps }: MassedConfig, blocks: number): Showing => ({
  exposures,
  first: Math.floor(steps / 2),
  end: steps,
  blocks
})

/** Ids of a passage besides its own, far from those that sequences are numbered with. */
const idOf = (id: bigint, turn: number): bigint => id + (BigInt(turn) << 40n)

const modelOf = ({ model }: MassedConfig, { active, sinks }: Arm): ModelConfig => {
  const { sinks: pool, ...rest } = model
  return !sinks
    ? new ModelConfig({ ...rest, intermediateSize: model.general })
    : active === undefined
    ? model
    : new ModelConfig({ ...model, sinks: new Sink.SinkConfig({ ...pool!, active }) })
}

const dataOf = ({ data, passages }: MassedConfig, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = data
  // how often they are shown is up to the timetable
  return new DataConfig({ ...rest, repeatedSequences: passages, repeats: 2, seed })
}

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const STATES = ["own", "off", "placebo"] as const
type State = typeof STATES[number]

/** Losses of passages that are never shown, and of each that is, nats a token. */
interface Looked {
  readonly foils: number
  readonly passages: Readonly<Record<State, ReadonlyArray<number>>>
}

export interface MassedFound {
  /** Of each passage right after its last exposure; of a training that shows none, at its end. */
  readonly fresh: Readonly<Record<State, ReadonlyArray<number>>>
  /** Loss of passages that are never shown, sinks off, at those times. */
  readonly foils: ReadonlyArray<number>
  /** At the end: loss of other passages that are never shown, sinks off. */
  readonly other: number
}

const work = ({ config, part, seed }: PartOf<MassedConfig>, at: Workplace) => {
  const arm = armsOf(config).get(part)!
  const dataConfig = dataOf(config, seed)
  const { exposures, foils: foilCount, learningRate, sinkLearningRateRatio, steps } = config
  return at.streams.use(dataConfig, Effect.gen(function*() {
    const data = yield* DataStream
    const passages = data.split("repeated")
    const index = overlapIndex()
    for (const row of passages) index.add(row)
    const unseen = data.split("heldOut").filter((row) => index.find(row) === undefined)
    if (unseen.length < 2 * foilCount) {
      return yield* new DataError({
        detail:
          `foils: ${2 * foilCount} passages are never to be shown, and the data has ${unseen.length} that are like ` +
          "none that is: ask for fewer foils, or more data.heldOutSequences"
      })
    }
    const [foils, others] = [unseen.slice(0, foilCount), unseen.slice(foilCount, 2 * foilCount)]
    const shownAt = arm.blocks === 0 ?
      [] :
      (yield* attempt(
        () =>
          spread([{ name: part, showing: showingOf(config, arm.blocks), sequences: passages.length }], data.batchSize),
        DataError
      ))[0]!
    const turns = arm.ids ?? 1
    const planted = shownAt.flatMap((own, p) =>
      Array.from({ length: turns }, (_, turn): Planted => ({
        row: { ...passages[p]!, id: idOf(passages[p]!.id, turn) },
        steps: own.filter((_, i) => i % turns === turn)
      }))
    )
    const table = yield* attempt(() =>
      timetable({
        steps,
        batchSize: data.batchSize,
        planted,
        background: [{ from: 0, rows: data.split("singles") }],
        seed
      }), DataError)
    /** After how many steps each passage has been shown for the last time. */
    const ends = shownAt.map((own) => own.at(-1)! + 1)
    const lost = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.gen(function*() {
        const scores = yield* scoreRows(yield* Model, rows, mode, { batchSize: 16, seqLen: data.seqLen })
        return scores.map(({ loss, tokens }) => loss / tokens)
      })
    const look = Effect.gen(function*() {
      const { sinks } = (yield* Model).config
      const own = yield* lost(passages, Sink.own)
      const state = (mode: Sink.SinkMode) => sinks === undefined ? Effect.succeed(own) : lost(passages, mode)
      const looked: Looked = {
        foils: mean(yield* lost(foils, sinks === undefined ? Sink.own : Sink.off)),
        passages: { own, off: yield* state(Sink.off), placebo: yield* state(Sink.placebo) }
      }
      return looked
    })
    const measure = Effect.gen(function*() {
      const { sinks } = (yield* Model).config
      return { last: yield* look, other: mean(yield* lost(others, sinks === undefined ? Sink.own : Sink.off)) }
    })
    const along = { steps: [...new Set(ends)].sort((a, b) => a - b), look }
    const shown = { version: 1, exposures, passages: passages.length, steps, blocks: arm.blocks, turns, seed }
    const { measured: { last, other }, seen } = yield* train(at, {
      model: modelOf(config, arm),
      seed,
      training: new TrainConfig({
        steps,
        optimizer: new OptimizerConfig({
          learningRate,
          schedule: "constant",
          sinks: "lazy",
          sinkLearningRateRatio: arm.ratio ?? sinkLearningRateRatio
        }),
        ...(arm.routing === undefined ? {} : { routing: arm.routing }),
        ...(arm.dropped === undefined ? {} : { sinkDropout: new Sink.SinkDropout({ ...arm.dropped, seed }) })
      }),
      data: {
        key: ["massed", Schema.encodeSync(DataConfig)(dataConfig), shown],
        layer: Layer.succeed(DataStream, scheduled(data, { rows: table.rows, shown, steps }))
      },
      measured: { massed: 1, foils: foilCount }
    }, measure, along)
    /** When a passage is looked at. */
    const when = (p: number): Looked => ends.length === 0 ? last : seen[along.steps.indexOf(ends[p]!)]!
    const of = (state: State) => passages.map((_, p) => when(p).passages[state][p]!)
    const found: MassedFound = {
      fresh: { own: of("own"), off: of("off"), placebo: of("placebo") },
      foils: passages.map((_, p) => when(p).foils),
      other
    }
    return found
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<MassedFound>, config: MassedConfig) => {
  const { exposures, tolerance } = config
  /** How far a passage lies below foils beyond how far it does where it was never shown. */
  const memory = (part: string, state: State): Estimate => {
    const of = (part: string, state: State) =>
      results.over(part, ({ foils, fresh }) => mean(foils.map((foil, p) => foil - fresh[state][p]!)))
    return minus(of(part, state), of(NEVER, "own")) ?? { mean: NaN, values: [] }
  }
  const own = (part: string) => memory(part, "own")
  const left = (part: string) => memory(part, "off")
  /** What is left without sinks, as a share of what a standard model knows that is shown as much at the same times. */
  const leaked = (part: string, standard: string = STANDARD.massed) =>
    perSeed((some, all) => some / all, left(part), own(standard))
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    isKnown(one) ? decide(one) : "not tested"
  const names = Object.keys(titles) as ReadonlyArray<Remedy>
  const massed = leaked(SINKS.massed)
  const spreadOut = leaked(SINKS.spread, STANDARD.spread)
  const less = (remedy: Remedy) => minus(left(SINKS.massed), left(remedy))
  /** That a remedy leaves less behind, or as predicted more. */
  const claimOf = (remedy: Remedy, sentence: string, predicted: "less" | "more"): Finding => {
    const value = predicted === "less" ? less(remedy) : minus(left(remedy), left(SINKS.massed))
    return {
      about: "sinks",
      claim: sentence,
      result: decided(value, (one) => isAtLeast(one, 0)),
      evidence: list([`nats ${predicted}`, value], ["share left", leaked(remedy)], ["own sinks' memory", own(remedy)])
    }
  }
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Right after its last exposure a passage is known, massed and spread, to a standard model",
      result: decided(own(STANDARD.massed), (one) => isAtLeast(one, 0)),
      evidence: list(["massed", own(STANDARD.massed)], ["spread", own(STANDARD.spread)])
    },
    {
      about: "paper",
      claim: "Spread, a quarter at most of what a standard model knows is left with sinks off",
      result: decided(spreadOut, (one) => isAtMost(one, 0.25)),
      evidence: list(["share left", spreadOut], ["nats", left(SINKS.spread)])
    },
    {
      about: "sinks",
      claim: "Massed, a larger share is left",
      result: decided(minus(massed, spreadOut), (one) => isAtLeast(one, 0)),
      evidence: list(["share left, massed", massed], ["nats", left(SINKS.massed)], ["share more",
        minus(massed, spreadOut)])
    },
    claimOf("high", "Sinks that move four times as fast leave less behind", "less"),
    claimOf("low", "Sinks that move a quarter as fast leave more", "more"),
    claimOf("wide", "Four times as many sinks an id leave less behind", "less"),
    claimOf("ids", "Four ids a passage leave more", "more"),
    claimOf("sequences", "A quarter of the sequences trained without sinks leaves more", "more"),
    claimOf("units", "Half of each sequence's sinks left out leaves more", "more"),
    claimOf("cycles", "Four blocks leave less behind than one", "less"),
    claimOf("gradientMasking", "General neurons that do not learn it leave less behind", "less"),
    {
      about: "sinks",
      claim: `Where nothing but sinks learns it, ${digits(0)(100 * tolerance)} % at most is left`,
      result: decided(leaked("sgtm"), (one) => isAtMost(one, tolerance)),
      evidence: list(["share left", leaked("sgtm")], ["own sinks' memory", own("sgtm")])
    }
  ]
  const shown = [
    ...Object.values(STANDARD),
    ...Object.values(SINKS),
    ...names
  ]
  const titleOf = (part: string): string => titles[part as Remedy] ?? part
  const two = digits(2)
  return {
    claims,
    numbers: Object.fromEntries(shown.flatMap((part) =>
      ([
        ["memory, own sinks", own(part)],
        ["memory, sinks off", left(part)],
        ["memory, placebo", memory(part, "placebo")],
        ["share left", leaked(part, part.endsWith("spread") ? STANDARD.spread : STANDARD.massed)],
        ["loss of other passages", results.over(part, ({ other }) => other, { kind: "loss" })]
      ] as const).flatMap(([what, value]) => isKnown(value) ? [[`${titleOf(part)}: ${what}`, value] as const] : [])
    )),
    charts: [{
      title: `What ${exposures} exposures leave with sinks off, by the blocks that they come in`,
      x: { title: "blocks", log: true },
      y: { title: "memory, nats a token", zero: true },
      facets: [],
      lines: (["own", "off"] as const).map((state) => ({
        label: state === "own" ? "own sinks" : "sinks off",
        of: { what: state },
        dots: true,
        points: ([[1, SINKS.massed], [4, "cycles"], [exposures, SINKS.spread]] as const).flatMap(([x, part]) =>
          pointOf(x, memory(part, state))
        )
      })),
      color: ["what"]
    }],
    tables: [{
      caption: "Memory right after the last exposure, nats a token; the loss of other passages at the end, sinks off",
      head: ["", "own sinks", "placebo", "sinks off", "share left", "other passages"],
      rows: shown.map((part) => [
        titleOf(part),
        plusMinus(own(part), two),
        ...(part.startsWith("standard") ? ["–", "–", "–"] : [
          plusMinus(memory(part, "placebo"), two),
          plusMinus(left(part), two),
          plusMinus(leaked(part, part === SINKS.spread ? STANDARD.spread : STANDARD.massed), two)
        ]),
        plusMinus(results.over(part, ({ other }) => other, { kind: "loss" }), two)
      ])
    }],
    terms: [
      ["memory",
        "how far the loss of a passage lies below that of passages that are never shown, beyond how far it does in a model that " +
        "was shown none"],
      ["share left",
        "memory with sinks off over that of a standard model that is shown the passages at the same times"],
      ["massed", `all ${exposures} exposures in steps in a row; the passages take turns`],
      ["placebo", "the sinks of an id that was never trained on"]
    ] as const,
    limits: [
      "Passages are looked at right after their last exposure: what exposures in a row write is also soon forgotten.",
      "The learning rate is constant, the model small, and a batch has eight rows: in a large batch a passage weighs less.",
      "Warm-up of sinks and dropout of general neurons are not tried: training has neither."
    ]
  }
}

export const massed = study<MassedConfig, MassedFound>({
  name: "massed",
  title: "Exposures in a row",
  paper: "Memorization Sinks: Isolating Memorization during LLM Training (2025), arXiv 2507.09937",
  question: "What do exposures in a row write into the neurons that everybody shares, and what stops it?",
  finding: "what is repeated is held by its own sinks, and little of it is left when they are off",
  cost: "6 minutes; full: an hour",
  version: 1,
  schema: MassedConfig,
  presets: {
    quick: new MassedConfig({}),
    full: new MassedConfig({
      seeds: 5,
      steps: 640,
      passages: 16,
      model: {
        vocabSize: 256,
        hiddenSize: 64,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 192 + 2048,
        sinks: { pool: 2048, active: 32 }
      },
      learningRate: 7e-3,
      data: { batchSize: 8, singleSequences: 6144, heldOutSequences: 128, repeatedSequences: 0 }
    })
  },
  problem: (config) => {
    const { exposures, model } = config
    if (model.sinks === undefined) return "model.sinks: the study is of models with sinks: give it some"
    if (4 * model.sinks.active > model.sinks.pool) {
      return `model.sinks.active: four times as many, ${
        4 * model.sinks.active
      }, must fit the pool of ${model.sinks.pool}`
    }
    if (exposures < 4) return `exposures: they come in four blocks, too: expected 4 or more, got ${exposures}`
    const wrong = showingProblem(showingOf(config, 1))
    return wrong === undefined ? undefined : `${wrong}: raise steps, or lower exposures`
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: (config) => [...armsOf(config).keys()],
  work,
  findings
})
