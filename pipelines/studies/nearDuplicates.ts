/**
 * Ids of copies that were edited: whose sinks a copy lights by an oracle, by near-duplicates that are found, and by exact bytes,
 * and what of the passage that is behind the copies is left with sinks off. Edits replace tokens of each copy on its own.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { contentHash } from "../../src/data/identity/Identity.ts"
import { makeNearIndex } from "../../src/data/identity/NearDuplicates.ts"
import { normalize } from "../../src/data/Normalize.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { type Showing, showingProblem, spread, timetable } from "../../src/data/stream/Timetable.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
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

const edits = Schema.NonEmptyArray(fraction)
const threshold = Schema.Number.pipe(Schema.between(0.1, 1))

export class NearDuplicatesConfig extends configuration(Schema.Class<NearDuplicatesConfig>("NearDuplicatesConfig")({
  ...seedsOfStudy,
  /** Shares of a copy's tokens that are replaced, rising. Default 0.01, 0.05 and 0.2. */
  edits: withDefault(edits, () => [0.01, 0.05, 0.2] as const),
  /** Jaccard index from which on copies share an id, by shingles of `shingle` words. Default 0.8, as with identity `near`. */
  threshold: withDefault(threshold, 0.8),
  /** Default 5, as with identity `near`. */
  shingle: withDefault(positive, 5),
  /** A looser search. Default 0.3. */
  looseThreshold: withDefault(threshold, 0.3),
  /** Default 2. */
  looseShingle: withDefault(positive, 2),
  /** The text: its `singleSequences` fill the steps' other rows, each once before any comes again. */
  data: withDefault(DataConfig,
    () =>
      new DataConfig({ batchSize: 4, seqLen: 128, singleSequences: 512, heldOutSequences: 64, repeatedSequences: 0 })),
  /** The sink model; standard ones have its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
      maxPositionEmbeddings: 128,
      intermediateSize: 96 + 1024,
      sinks: { pool: 1024, active: 32 }
    })),
  /** Default 160. */
  steps: withDefault(positive, 160),
  /** Passages that copies are made of. Default 8. */
  passages: withDefault(positive, 8),
  /** Copies of each, each edited on its own and shown once. Default 16. */
  copies: withDefault(positive, 16),
  /** Constant. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Passages that are never shown, to whose loss all others are related. Default 24. */
  foils: withDefault(positive, 24),
  /** Share of the standard model's memory by which ids may be worse than an oracle's. Default 0.1. */
  tolerance: withDefault(fraction, 0.1)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// Parts: one training each

const IDS = ["oracle", "near", "loose", "exact"] as const
type Ids = typeof IDS[number]

const titles = { oracle: "oracle ids", near: "near-duplicates", loose: "near-duplicates, loose", exact: "exact bytes" }

const NEVER = "standard, never"

interface Part {
  readonly edited: number
  /** Undefined: a standard model. */
  readonly ids: Ids | undefined
}

const nameOf = ({ edited, ids }: Part): string => `${ids ?? "standard"}, ${edited}`

const partsOf = ({ edits }: NearDuplicatesConfig): ReadonlyArray<Part> =>
  edits.flatMap((edited) => [undefined, ...IDS].map((ids): Part => ({ edited, ids })))

const showingOf = ({ copies, steps }: NearDuplicatesConfig): Showing => ({ exposures: copies, first: 0, end: steps })

const dataOf = ({ data, passages }: NearDuplicatesConfig, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = data
  // how often they are shown is up to the timetable
  return new DataConfig({ ...rest, repeatedSequences: passages, repeats: 2, seed })
}

/** Clusters' numbers as ids, far from those that sequences are numbered with. */
const CLUSTERS = 1n << 42n

/** The id of each of some texts, of which those that are like each other share one. */
export const idsByLikeness = (
  texts: ReadonlyArray<string>,
  options: { readonly threshold: number; readonly shingle: number }
): ReadonlyArray<bigint> => {
  const index = makeNearIndex(options)
  for (const text of texts) index.add(normalize(text))
  return Array.from(index.clusters(0).near, (first) => CLUSTERS + BigInt(first))
}

/** The tokens with a share of them replaced, by tokens of other text. */
export const edit = (
  tokens: Uint32Array,
  share: number,
  others: Uint32Array,
  draw: ReturnType<typeof random>
): Uint32Array =>
  tokens.map((token) => draw.uniform() < share ? others[Math.floor(draw.uniform() * others.length)]! : token)

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const STATES = ["own", "off", "placebo"] as const
type State = typeof STATES[number]

export interface NearDuplicatesFound {
  /** Mean loss of the passages as they are, nats a token; with own sinks, those that most of their copies light. */
  readonly passages: Readonly<Record<State, number>>
  /** Of passages that are never shown, sinks off. */
  readonly foils: number
  /** Share of the pairs of a passage's copies that share an id, and of other rows that share theirs with any row. */
  readonly joined: number
  readonly mistaken: number
}

/** What comes most often; the first of those that do as often. */
const mostOften = (ids: ReadonlyArray<bigint>): bigint => {
  const counts = new Map<bigint, number>()
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1)
  return [...counts].reduce((best, one) => one[1] > best[1] ? one : best)[0]
}

const work = ({ config, part: name, seed }: PartOf<NearDuplicatesConfig>, at: Workplace) => {
  const part = partsOf(config).find((one) => nameOf(one) === name)
  const dataConfig = dataOf(config, seed)
  const { copies: count, foils: foilCount, learningRate, looseShingle, looseThreshold, shingle, sinkLearningRateRatio,
    steps, threshold } = config
  const { sinks: _, ...rest } = config.model
  const hasSinks = part?.ids !== undefined
  return at.streams.use(dataConfig, Effect.gen(function*() {
    const data = yield* DataStream
    const passages = data.split("repeated")
    const background = data.split("singles")
    const index = overlapIndex()
    for (const row of passages) index.add(row)
    const foils = data.split("heldOut").filter((row) => index.find(row) === undefined).slice(0, foilCount)
    if (foils.length < foilCount) {
      return yield* new DataError({
        detail:
          `foils: ${foilCount} passages are never to be shown, and the data has ${foils.length} that are like none that ` +
          "is: ask for fewer, or more data.heldOutSequences"
      })
    }
    const others = background[0]!.tokens
    const copies = part === undefined ?
      [] :
      passages.flatMap((row, p) =>
        Array.from({ length: count }, (_, c): Row => ({
          ...row,
          tokens: edit(row.tokens, part.edited, others, random(seed, "edits", p, c))
        }))
      )
    const rows = [...copies, ...background]
    const text = ({ tokens }: Row) => data.tokenizer.decode(Array.from(tokens))
    const ids = part?.ids === "near" || part?.ids === "loose"
      ? idsByLikeness(rows.map(text),
        part.ids === "near" ? { threshold, shingle } : { threshold: looseThreshold, shingle: looseShingle })
      : part?.ids === "exact"
      ? rows.map((row) => contentHash(text(row)))
      : rows.map(({ id }) => id)
    const owned = rows.map((row, i): Row => ({ ...row, id: ids[i]! }))
    const copiesOf = (p: number) => owned.slice(p * count, (p + 1) * count)
    const placed = (yield* attempt(
      () => spread([{ name: "passages", showing: showingOf(config), sequences: passages.length }], data.batchSize),
      DataError
    ))[0]!
    const table = yield* attempt(() =>
      timetable({
        steps,
        batchSize: data.batchSize,
        planted: part === undefined ?
          [] :
          placed.flatMap((own, p) => copiesOf(p).map((row, c) => ({ row, steps: [own[c]!] }))),
        background: [{ from: 0, rows: owned.slice(copies.length) }],
        seed
      }), DataError)
    const looked = passages.map((row, p): Row =>
      part === undefined ? row : { ...row, id: mostOften(copiesOf(p).map(({ id }) => id)) }
    )
    const lost = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.gen(function*() {
        const scores = yield* scoreRows(yield* Model, rows, mode, { batchSize: 8, seqLen: data.seqLen })
        return mean(scores.map(({ loss, tokens }) => loss / tokens))
      })
    const measure = Effect.gen(function*() {
      const own = yield* lost(looked, Sink.own)
      const state = (mode: Sink.SinkMode) => hasSinks ? lost(looked, mode) : Effect.succeed(own)
      return { passages: { own, off: yield* state(Sink.off), placebo: yield* state(Sink.placebo) },
        foils: yield* lost(foils, hasSinks ? Sink.off : Sink.own) }
    })
    const shown = { version: 1, copies: count, passages: passages.length, steps, seed, part,
      ...(part?.ids === "near" ? { threshold, shingle } : {}),
      ...(part?.ids === "loose" ? { looseThreshold, looseShingle } : {}) }
    const { measured } = yield* train(at, {
      model: hasSinks ? config.model : new ModelConfig({ ...rest, intermediateSize: config.model.general }),
      seed,
      training: new TrainConfig({
        steps,
        optimizer: new OptimizerConfig({ learningRate, schedule: "constant", sinks: "lazy", sinkLearningRateRatio })
      }),
      data: {
        key: ["nearDuplicates", Schema.encodeSync(DataConfig)(dataConfig), shown],
        layer: Layer.succeed(DataStream, scheduled(data, { rows: table.rows, shown, steps }))
      },
      measured: { nearDuplicates: 1, foils: foilCount }
    }, measure)
    const sharers = new Map<bigint, number>()
    for (const { id } of owned) sharers.set(id, (sharers.get(id) ?? 0) + 1)
    const pairs = passages.flatMap((_, p) => {
      const own = part === undefined ? [] : copiesOf(p)
      return own.flatMap(({ id }, i) => own.slice(i + 1).map((other) => other.id === id ? 1 : 0))
    })
    const found: NearDuplicatesFound = {
      ...measured,
      joined: pairs.length === 0 ? 0 : mean(pairs),
      mistaken: mean(owned.slice(copies.length).map(({ id }) => sharers.get(id)! > 1 ? 1 : 0))
    }
    return found
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<NearDuplicatesFound>, config: NearDuplicatesConfig) => {
  const { copies, edits, tolerance } = config
  const lead = (part: string, state: State) => results.over(part, ({ foils, passages }) => foils - passages[state])
  const memory = (part: Part, state: State): Estimate =>
    minus(lead(nameOf(part), state), lead(NEVER, "own")) ?? { mean: NaN, values: [] }
  const standard = (edited: number) => memory({ edited, ids: undefined }, "own")
  const left = (edited: number, ids: Ids) =>
    perSeed((some, all) => some / all, memory({ edited, ids }, "off"), standard(edited))
  /** What own sinks add, which goes when they are switched off. */
  const inSinks = (edited: number, ids: Ids) => minus(memory({ edited, ids }, "own"), memory({ edited, ids }, "off"))
  const more = (edited: number, ids: Ids) => minus(left(edited, ids), left(edited, "oracle"))
  const joined = (edited: number, ids: Ids) =>
    results.over(nameOf({ edited, ids }), ({ joined }) => joined, { kind: "share" })
  const mistaken = (edited: number, ids: Ids) =>
    results.over(nameOf({ edited, ids }), ({ mistaken }) => mistaken, { kind: "share" })
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    isKnown(one) ? decide(one) : "not tested"
  const percent = (share: number) => `${digits(0)(100 * share)} %`
  const [first, most] = [edits[0], edits.at(-1)!]
  const middle = edits[Math.floor((edits.length - 1) / 2)]!
  const asGood = (edited: number, ids: Ids): Finding => ({
    about: "sinks",
    claim: `With ${percent(edited)} edited, ${titles[ids]} leave at most ${
      percent(tolerance)
    } of the memory more than oracle ids`,
    result: decided(more(edited, ids), (one) => isAtMost(one, tolerance)),
    evidence: list(["share more", more(edited, ids)], ["pairs joined", joined(edited, ids)])
  })
  const worse = (edited: number, ids: Ids): Finding => ({
    about: "sinks",
    claim: `With ${percent(edited)} edited, ${titles[ids]} leave more than oracle ids`,
    result: decided(more(edited, ids), (one) => isAtLeast(one, 0)),
    evidence: list(["share more", more(edited, ids)], ["pairs joined", joined(edited, ids)])
  })
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: `Passages whose copies are edited by ${percent(most)} are known to a standard model all the same`,
      result: decided(standard(most), (one) => isAtLeast(one, 0)),
      evidence: list(...edits.map((edited) => [percent(edited), standard(edited)] as const))
    },
    {
      about: "paper",
      claim: `With oracle ids and ${
        percent(first)
      } edited, half at most of what a standard model knows is left with sinks off`,
      result: decided(left(first, "oracle"), (one) => isAtMost(one, 0.5)),
      evidence: list(...edits.map((edited) => [percent(edited), left(edited, "oracle")] as const))
    },
    worse(first, "exact"),
    worse(middle, "exact"),
    asGood(first, "near"),
    worse(middle, "near"),
    asGood(middle, "loose"),
    worse(most, "loose"),
    {
      about: "sinks",
      claim: `With ${percent(first)} edited, sinks hold less of the passage by ${titles.near} than by oracle ids`,
      result: decided(minus(inSinks(first, "oracle"), inSinks(first, "near")), (one) => isAtLeast(one, 0)),
      evidence: list(["oracle ids", inSinks(first, "oracle")], [titles.near, inSinks(first, "near")])
    },
    {
      about: "sinks",
      claim: `With ${percent(middle)} edited, they hold more of it by ${titles.loose}, than by exact bytes`,
      result: decided(minus(inSinks(middle, "loose"), inSinks(middle, "exact")), (one) => isAtLeast(one, 0)),
      evidence: list([titles.loose, inSinks(middle, "loose")], ["exact bytes", inSinks(middle, "exact")], ["oracle ids",
        inSinks(middle, "oracle")])
    }
  ]
  const two = digits(2)
  return {
    claims,
    numbers: Object.fromEntries(edits.flatMap((edited) => [
      [`standard, ${edited}: memory`, standard(edited)] as const,
      ...IDS.flatMap((ids) =>
        ([
          ["memory, own sinks", memory({ edited, ids }, "own")],
          ["memory, sinks off", memory({ edited, ids }, "off")],
          ["memory, placebo", memory({ edited, ids }, "placebo")],
          ["memory, in sinks", inSinks(edited, ids)],
          ["share left", left(edited, ids)],
          ["pairs joined", joined(edited, ids)],
          ["others joined", mistaken(edited, ids)]
        ] as const).flatMap(([what, value]) => isKnown(value) ? [[`${ids}, ${edited}: ${what}`, value] as const] : [])
      )
    ]).filter(([, value]) => isKnown(value))),
    charts: [{
      title: "What is left with sinks off of what a standard model knows, by how much of each copy is edited",
      x: { title: "share of tokens edited", log: true },
      y: { title: "share left", zero: true },
      facets: [],
      lines: IDS.map((ids) => ({
        label: titles[ids],
        of: { what: titles[ids] },
        dots: true,
        points: edits.flatMap((edited) => {
          const value = left(edited, ids)
          return isKnown(value) ? pointOf(edited, value) : []
        })
      })),
      color: ["what"]
    }],
    tables: [{
      caption: "Memory of the passage behind the copies, nats a token",
      head: ["edited", "ids", "pairs joined", "others joined", "own sinks", "placebo", "sinks off", "in sinks",
        "share left"],
      rows: edits.flatMap((edited) => [
        [percent(edited), "standard", "–", "–", plusMinus(standard(edited), two), "–", "–", "–", "–"],
        ...IDS.map((ids) => [
          percent(edited),
          titles[ids],
          plusMinus(joined(edited, ids), two),
          plusMinus(mistaken(edited, ids), two),
          plusMinus(memory({ edited, ids }, "own"), two),
          plusMinus(memory({ edited, ids }, "placebo"), two),
          plusMinus(memory({ edited, ids }, "off"), two),
          plusMinus(inSinks(edited, ids), two),
          plusMinus(left(edited, ids), two)
        ])
      ])
    }],
    terms: [
      ["memory",
        "how far the loss of the passage as it is lies below that of passages that are never shown, beyond how far it does in a model " +
        "that was shown no copy"],
      ["share left", "memory with sinks off over that of a standard model that is shown the same copies"],
      ["pairs joined", "share of the pairs of a passage's copies that share an id"],
      ["others joined", "share of the other rows that share their id with any row"],
      ["in sinks", "memory with own sinks on, less that with sinks off"],
      ["own sinks", "those that most of the passage's copies light"]
    ] as const,
    limits: [
      "Edits are tokens of other text in random places: a person who edits changes some sentences and leaves others as they are.",
      `A copy is a row of some fifty words: of longer texts a threshold is met more surely. Each has ${copies} copies.`,
      "Copies are spread over training."
    ]
  }
}

export const nearDuplicates = study<NearDuplicatesConfig, NearDuplicatesFound>({
  name: "nearDuplicates",
  title: "Ids of edited copies",
  paper: "Deduplicating Training Data Makes Language Models Better (Lee et al. 2022), arXiv 2107.06499",
  question: "Do ids by near-duplicates isolate what edited copies have in common as an oracle's do?",
  finding: "copies that are edited are memorized too, so that they must be found by likeness",
  cost: "6 minutes; full: an hour",
  version: 1,
  schema: NearDuplicatesConfig,
  presets: {
    quick: new NearDuplicatesConfig({ seeds: 5 }),
    full: new NearDuplicatesConfig({
      seeds: 5,
      edits: [0.01, 0.02, 0.05, 0.1, 0.2],
      steps: 480,
      passages: 24,
      model: {
        vocabSize: 256,
        hiddenSize: 64,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        maxPositionEmbeddings: 128,
        intermediateSize: 192 + 2048,
        sinks: { pool: 2048, active: 32 }
      },
      learningRate: 7e-3,
      data: { batchSize: 4, seqLen: 128, singleSequences: 1536, heldOutSequences: 96, repeatedSequences: 0 }
    })
  },
  problem: (config) => {
    const { edits, model } = config
    if (model.sinks === undefined) return "model.sinks: the study compares models with and without sinks: give it some"
    if (edits.some((share, i) => share === 0 || (i > 0 && share <= edits[i - 1]!))) {
      return `edits must be above 0 and rise, got ${edits.join(", ")}`
    }
    const wrong = showingProblem(showingOf(config))
    return wrong === undefined ? undefined : `${wrong}: raise steps, or lower copies`
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: (config) => [NEVER, ...partsOf(config).map(nameOf)],
  work,
  findings
})
