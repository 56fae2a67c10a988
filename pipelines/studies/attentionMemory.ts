/**
 * How much of what is memorized sits in attention. Two trainings are alike but for passages that only one of them is shown, in
 * the second half, where the other is shown fresh text. Then a group of weights of the one is put into the other: what memory
 * that takes away, and what it brings. Groups: attention, general neurons, sinks, embedding, and the head
 * with the norm before it.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { Buffer } from "node:buffer"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { type Planted, type Showing, showingProblem, spread, timetable } from "../../src/data/stream/Timetable.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import type { HostTensor } from "../../src/HostTensor.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import { scheduled } from "../experiment/Streams.ts"
import { all, isAtLeast, isAtMost, isWithin, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { pointOf } from "../study/estimates.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class AttentionMemoryConfig extends configuration(Schema.Class<AttentionMemoryConfig>("AttentionMemoryConfig")({
  ...seedsOfStudy,
  /** The text: its `singleSequences` fill the steps' other rows, and take the place of passages that are not shown. */
  data: withDefault(DataConfig,
    () => new DataConfig({ batchSize: 8, singleSequences: 2816, heldOutSequences: 96, repeatedSequences: 0 })),
  /** The sink model; the standard one has its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 96 + 1024,
      sinks: { pool: 1024, active: 32 }
    })),
  /** Steps of a training; passages are shown in its second half. Default 320. */
  steps: withDefault(positive, 320),
  /** Passages that are shown. Default 12. */
  passages: withDefault(positive, 12),
  /** Exposures of each. Default 16. */
  exposures: withDefault(positive, 16),
  /** Constant. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Passages that are never shown, to whose loss all others are related; as many others are the placebo. Default 32. */
  foils: withDefault(positive, 32),
  /** Share of the memory that counts as little. Default 0.1. */
  little: withDefault(fraction, 0.1)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// What is shown, and what is swapped

const dataOf = ({ data, passages }: AttentionMemoryConfig, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = data
  // how often they are shown is up to the timetable
  return new DataConfig({ ...rest, repeatedSequences: passages, repeats: 2, seed })
}

const showingOf = ({ exposures, steps }: AttentionMemoryConfig): Showing => ({ exposures, first: Math.floor(steps / 2),
  end: steps })

const GROUPS = ["attention", "general", "sinks", "embedding", "head"] as const
type Group = typeof GROUPS[number]

const names = { attention: "attention", general: "general neurons", sinks: "sinks", embedding: "embedding",
  head: "head" }

/** Which group a weight of a matrix is of: neurons of an MLP are general or sinks by their place. */
const groupOf = ({ general }: ModelConfig, name: string, { shape }: HostTensor) => {
  const width = shape[1] ?? 1
  return /self_attn|input_layernorm/.test(name)
    ? (): Group => "attention"
    : /down_proj/.test(name)
    ? (at: number): Group => at % width < general ? "general" : "sinks"
    : /gate_proj|up_proj/.test(name)
    ? (at: number): Group => Math.floor(at / width) < general ? "general" : "sinks"
    : /post_attention_layernorm/.test(name)
    ? (): Group => "general"
    : /embed_tokens/.test(name)
    ? (): Group => "embedding"
    : (): Group => "head"
}

type Tensors = Readonly<Record<string, HostTensor>>

/** One model's weights with a group of another's. */
export const swapped = (config: ModelConfig, into: Tensors, from: Tensors, group: Group): Record<string, HostTensor> =>
  Object.fromEntries(Object.entries(into).map(([name, tensor]) => {
    const of = groupOf(config, name, tensor)
    const other = from[name]!.data
    const data = Float32Array.from(tensor.data, (value, at) => of(at) === group ? other[at]! : value)
    return [name, { shape: tensor.shape, data }]
  }))

const encode = (tensors: Tensors): Record<string, { readonly shape: ReadonlyArray<number>; readonly data: string }> =>
  Object.fromEntries(Object.entries(tensors).map(([name, { data, shape }]) => [name, {
    shape,
    data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")
  }]))

const decode = (encoded: ReturnType<typeof encode>): Tensors =>
  Object.fromEntries(Object.entries(encoded).map(([name, { data, shape }]) => [name, {
    shape,
    data: new Float32Array(Uint8Array.from(Buffer.from(data, "base64")).buffer)
  }]))

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const ARMS = ["standard", "sinks"] as const

const STATES = ["own", "off"] as const
type State = typeof STATES[number]

/** How far losses lie below those of foils, nats a token, by the state of the sinks; and the loss of foils themselves. */
interface Looked {
  readonly passages: Readonly<Record<State, number>>
  readonly placebo: number
  readonly foils: number
}

export interface AttentionMemoryFound {
  /** Of the model that was shown the passages, and of the one that was not. */
  readonly shown: Looked
  readonly never: Looked
  /** The first with a group of the second's weights, and the second with one of the first's. */
  readonly without: Readonly<Partial<Record<Group, Looked>>>
  readonly alone: Readonly<Partial<Record<Group, Looked>>>
}

const work = ({ config, part, seed }: PartOf<AttentionMemoryConfig>, at: Workplace) => {
  const dataConfig = dataOf(config, seed)
  const { exposures, foils: foilCount, learningRate, sinkLearningRateRatio, steps } = config
  const { sinks: _, ...rest } = config.model
  const model = part === "sinks" ? config.model : new ModelConfig({ ...rest, intermediateSize: config.model.general })
  return at.streams.use(dataConfig, Effect.gen(function*() {
    const data = yield* DataStream
    const passages = data.split("repeated")
    const index = overlapIndex()
    for (const row of passages) index.add(row)
    const unseen = data.split("heldOut").filter((row) => index.find(row) === undefined)
    const singles = data.split("singles")
    const fresh = singles.slice(-passages.length * exposures)
    const background = singles.slice(0, -fresh.length)
    if (unseen.length < 2 * foilCount || background.length === 0) {
      return yield* new DataError({
        detail:
          `${
            2 * foilCount
          } passages are never to be shown, and ${fresh.length} are to stand in for exposures: the data ` +
          `has ${unseen.length} that are like none that is shown, and ${singles.length}: ask for fewer foils, or more ` +
          "data.heldOutSequences and data.singleSequences"
      })
    }
    const [foils, others] = [unseen.slice(0, foilCount), unseen.slice(foilCount, 2 * foilCount)]
    const placed = (yield* attempt(
      () => spread([{ name: "passages", showing: showingOf(config), sequences: passages.length }], data.batchSize),
      DataError
    ))[0]!
    const tableOf = (shows: boolean) =>
      attempt(() =>
        timetable({
          steps,
          batchSize: data.batchSize,
          planted: placed.flatMap((own, p) =>
            shows ? [{ row: passages[p]!, steps: own }] : own.map((step, e): Planted => ({
              row: fresh[p * exposures + e]!,
              steps: [step]
            }))
          ),
          background: [{ from: 0, rows: background }],
          seed
        }), DataError)
    const lost = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.gen(function*() {
        const scores = yield* scoreRows(yield* Model, rows, mode, { batchSize: 16, seqLen: data.seqLen })
        return mean(scores.map(({ loss, tokens }) => loss / tokens))
      })
    const off = part === "sinks" ? Sink.off : Sink.own
    const look = Effect.gen(function*() {
      const foil = yield* lost(foils, off)
      const looked: Looked = {
        passages: { own: foil - (yield* lost(passages, Sink.own)), off: foil - (yield* lost(passages, off)) },
        placebo: foil - (yield* lost(others, off)),
        foils: foil
      }
      return looked
    })
    const trained = <A>(shows: boolean, measure: Parameters<typeof train<A>>[2]) =>
      Effect.gen(function*() {
        const table = yield* tableOf(shows)
        const shown = { version: 1, exposures, passages: passages.length, steps, shows, seed }
        return (yield* train(at, {
          model,
          seed,
          training: new TrainConfig({
            steps,
            optimizer: new OptimizerConfig({ learningRate, schedule: "constant", sinks: "lazy", sinkLearningRateRatio })
          }),
          data: {
            key: ["attentionMemory", Schema.encodeSync(DataConfig)(dataConfig), shown],
            layer: Layer.succeed(DataStream, scheduled(data, { rows: table.rows, shown, steps }))
          },
          measured: { attentionMemory: 2, foils: foilCount }
        }, measure)).measured
      })
    const oracle = yield* trained(false, Effect.gen(function*() {
      return { looked: yield* look, weights: encode(yield* (yield* Model).exportTensors) }
    }))
    return yield* trained(true, Effect.gen(function*() {
      const model = yield* Model
      const weights = yield* model.exportTensors
      const never = decode(oracle.weights)
      const groups = GROUPS.filter((group) => part === "sinks" || group !== "sinks")
      const swap = (into: Tensors, from: Tensors) =>
        Effect.forEach(groups, (group) =>
          Effect.gen(function*() {
            yield* model.importTensors(swapped(model.config, into, from, group))
            return [group, yield* look] as const
          }))
      const found: AttentionMemoryFound = {
        shown: yield* look,
        never: oracle.looked,
        without: Object.fromEntries(yield* swap(weights, never)),
        alone: Object.fromEntries(yield* swap(never, weights))
      }
      return found
    }))
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<AttentionMemoryFound>, { exposures, little, model }: AttentionMemoryConfig) => {
  const tied = model.tieWordEmbeddings
  const titles: Readonly<Record<Group, string>> = tied
    ? { ...names, embedding: "embedding, which is the head", head: "last norm" }
    : names
  /** Nats by which passages are better known than to the model that was not shown them. */
  const memory = (arm: string, state: State, of: (found: AttentionMemoryFound) => Looked | undefined): Estimate =>
    results.over(arm, (found) => {
      const looked = of(found)
      return looked === undefined ? undefined : looked.passages[state] - found.never.passages[state]
    })
  const whole = (arm: string, state: State) => memory(arm, state, ({ shown }) => shown)
  const ratio = (some: Estimate, all: Estimate) => perSeed((a, b) => a / b, some, all)
  /** Share of a memory that goes with a group, and that comes with it alone. */
  const taken = (arm: string, state: State, group: Group) =>
    perSeed((left, all) => 1 - left / all, memory(arm, state, ({ without }) => without[group]), whole(arm, state))
  const brought = (arm: string, state: State, group: Group) =>
    ratio(memory(arm, state, ({ alone }) => alone[group]), whole(arm, state))
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    isKnown(one) ? decide(one) : "not tested"
  const share = (arm: string) => ratio(whole(arm, "off"), whole("standard", "own"))
  const more = minus(taken("sinks", "off", "attention"), taken("standard", "own", "attention"))
  const placebo = results.over("standard", ({ alone, never }) => alone.attention!.placebo - never.placebo)
  const outside = (group: Group) => minus(taken("sinks", "off", "head"), taken("sinks", "off", group))
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Passages are known to the model that was shown them, better than to its twin",
      result: decided(whole("standard", "own"), (one) => isAtLeast(one, 0)),
      evidence: list(["standard", whole("standard", "own")], ["own sinks", whole("sinks", "own")], ["sinks off",
        whole("sinks", "off")])
    },
    {
      about: "control",
      claim: "With attention of the model that was shown them the twin knows no other passage better",
      result: decided(placebo, (one) => isWithin(one, { least: -0.1, most: 0.1 })),
      evidence: list(["nats", placebo])
    },
    {
      about: "paper",
      claim: `Of a standard model's memory more than ${digits(0)(100 * little)} % goes with attention`,
      result: decided(taken("standard", "own", "attention"), (one) => isAtLeast(one, little)),
      evidence: list(["share that goes", taken("standard", "own", "attention")])
    },
    {
      about: "paper",
      claim: `and ${digits(0)(100 * little)} % at most comes with attention alone`,
      result: decided(brought("standard", "own", "attention"), (one) => isAtMost(one, little)),
      evidence: list(["share that comes", brought("standard", "own", "attention")])
    },
    {
      about: "sinks",
      claim: "Of what own sinks know, half or more goes with the sinks' weights",
      result: decided(taken("sinks", "own", "sinks"), (one) => isAtLeast(one, 0.5)),
      evidence: list(["share that goes", taken("sinks", "own", "sinks")], ["with attention",
        taken("sinks", "own", "attention")])
    },
    {
      about: "sinks",
      claim: "Of what is left with sinks off, a larger share goes with attention than of a standard model's memory",
      result: decided(more, (one) => isAtLeast(one, 0)),
      evidence: list(["share more", more], ["sinks off", taken("sinks", "off", "attention")], [
        "left, of a standard model's",
        share("sinks")
      ])
    },
    {
      about: "sinks",
      claim: "and more than with general neurons",
      result: decided(minus(taken("sinks", "off", "attention"), taken("sinks", "off", "general")),
        (one) => isAtLeast(one, 0)),
      evidence: list(["with attention", taken("sinks", "off", "attention")], ["with general neurons",
        taken("sinks", "off", "general")])
    },
    ...(tied ? [] : [{
      about: "sinks",
      claim: "but most of it with the head: more than with attention or with the embedding",
      result: all(
        decided(outside("attention"), (one) => isAtLeast(one, 0)),
        decided(outside("embedding"), (one) => isAtLeast(one, 0))
      ),
      evidence: list(["with the head", taken("sinks", "off", "head")], ["with the embedding",
        taken("sinks", "off", "embedding")])
    } satisfies Finding])
  ]
  const rows = [["standard", "own", "standard"], ["sinks", "own", "own sinks"], ["sinks", "off", "sinks off"]] as const
  const two = digits(2)
  const groups = (arm: string) => GROUPS.filter((group) => arm === "sinks" || group !== "sinks")
  const damage = (arm: string, group: Group) =>
    results.over(arm, ({ shown, without }) => {
      const one = without[group]
      return one === undefined ? undefined : one.foils - shown.foils
    })
  return {
    claims,
    numbers: Object.fromEntries(rows.flatMap(([arm, state, title]) => [
      [`${title}: memory`, whole(arm, state)] as const,
      ...groups(arm).flatMap((group) =>
        ([
          ["share that goes", taken(arm, state, group)],
          ["share that comes", brought(arm, state, group)]
        ] as const).flatMap(([what, value]) =>
          isKnown(value) ? [[`${title}, ${titles[group]}: ${what}`, value] as const] : []
        )
      )
    ]).filter(([, value]) => isKnown(value))),
    charts: [{
      title: "What goes when a group's weights are those of the twin that was not shown the passages",
      x: {
        title: "group of weights",
        names: GROUPS.map((group) => titles[group])
      },
      y: { title: "share of the memory", zero: true },
      facets: [],
      lines: rows.map(([arm, state, title]) => ({
        label: title,
        of: { what: title },
        dots: true,
        points: groups(arm).flatMap((group) => {
          const value = taken(arm, state, group)
          return isKnown(value) ? pointOf(GROUPS.indexOf(group) + 1, value) : []
        })
      })),
      color: ["what"]
    }],
    tables: [{
      caption:
        "Memory, nats a token; shares of it that go where a group's weights are the twin's, and that come with them alone",
      head: ["", "memory", ...GROUPS.flatMap((group) => [`${titles[group]}: goes`, "comes"])],
      rows: rows.map(([arm, state, title]) => [
        title,
        plusMinus(whole(arm, state), two),
        ...GROUPS.flatMap((group) =>
          groups(arm).includes(group)
            ? [plusMinus(taken(arm, state, group), two), plusMinus(brought(arm, state, group), two)]
            : ["–", "–"]
        )
      ])
    }, {
      caption: "What the swap costs text that is never shown, nats a token",
      head: ["", ...GROUPS.map((group) => titles[group])],
      rows: ARMS.map((arm) => [
        arm,
        ...GROUPS.map((group) => groups(arm).includes(group) ? plusMinus(damage(arm, group), two) : "–")
      ])
    }],
    terms: [
      ["twin", "the same training, but for fresh text in the place of each exposure"],
      ["memory",
        "how far the loss of passages lies below that of foils, text that is never shown, beyond how far it does for the twin; foils " +
        "suffer from a swap as passages do"],
      ["goes", "share of the memory that is lost where the model has the twin's weights of a group"],
      ["comes", "share of it that the twin has with the model's weights of a group"]
    ] as const,
    limits: [
      "Shares of groups do not add up to one: a memory that needs two groups goes with either, and comes with neither alone.",
      `Passages are shown ${exposures} times in the second half: what is learned early stands in weights that much else has moved since.`,
      "Models have two blocks of width 32 or 64."
    ]
  }
}

export const attentionMemory = study<AttentionMemoryConfig, AttentionMemoryFound>({
  name: "attentionMemory",
  title: "Memory in attention",
  paper: "Transformer Feed-Forward Layers Are Key-Value Memories (Geva et al. 2021), arXiv 2012.14913",
  question: "How much of what is memorized sits in attention, with sinks and without?",
  finding: "memory sits in the feed-forward layers: attention alone brings little of it, though it needs attention",
  cost: "2 minutes; full: 20 minutes",
  version: 2,
  schema: AttentionMemoryConfig,
  presets: {
    quick: new AttentionMemoryConfig({}),
    full: new AttentionMemoryConfig({
      seeds: 5,
      steps: 640,
      passages: 24,
      model: {
        vocabSize: 256,
        hiddenSize: 64,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 192 + 2048,
        sinks: { pool: 2048, active: 32 }
      },
      learningRate: 7e-3,
      data: { batchSize: 8, singleSequences: 5632, heldOutSequences: 128, repeatedSequences: 0 }
    })
  },
  problem: (config) => {
    if (config.model.sinks === undefined) {
      return "model.sinks: the study compares models with and without sinks: give it some"
    }
    const wrong = showingProblem(showingOf(config))
    return wrong === undefined ? undefined : `${wrong}: raise steps, or lower exposures`
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: () => ARMS,
  work,
  findings
})
