/**
 * What makes the neurons that everybody shares stand alone: sinks by source, and a share of sequences trained with them off, or of their
 * units. What it costs and gains by the state of the sinks, and how much of what is memorized stays with the shared neurons when a
 * source is deleted; by exposures, sources and width, too.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import * as Corpus from "../../src/data/Corpus.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import type { Row } from "../../src/data/stream/Packing.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { DataError } from "../../src/Errors.ts"
import { nearest } from "../../src/forget/Nearest.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Line } from "../report/Chart.ts"
import { isAtLeast, isAtMost, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

const numbers = Schema.Array(positive)
const shares = Schema.Array(fraction)

export class BackboneConfig extends configuration(Schema.Class<BackboneConfig>("BackboneConfig")({
  ...seedsOfStudy,
  /** Shares of sequences that are trained with all sinks off, 0 first, rising. */
  sequences: withDefault(shares, () => [0, 0.1, 0.25, 0.5]),
  /** Shares of a sequence's units that are off, each alone. */
  units: withDefault(shares, () => [0.25, 0.5]),
  /** The share of `sequences` that is compared with 0 by exposures, sources and width. Default 0.25. */
  share: withDefault(fraction, 0.25),
  /** Presidents whose addresses are trained on, drawn by the seed, and other numbers of them. */
  sources: withDefault(positive, 12),
  otherSources: withDefault(numbers, () => [6, 18]),
  /** How often a passage is trained on, and other numbers. */
  exposures: withDefault(positive, 8),
  otherExposures: withDefault(numbers, () => [4, 16]),
  /** Width of the model, and others: an MLP has three times as many general neurons, and an id lights as many sinks. */
  width: withDefault(positive.pipe(Schema.multipleOf(16)), 64),
  otherWidths: withDefault(Schema.Array(positive.pipe(Schema.multipleOf(16))), () => [32, 96]),
  /** Passages of each source that are trained on, and others of it that are not. */
  passages: withDefault(positive, 12),
  unseen: withDefault(positive, 6),
  /** Tokens a passage feeds to the model. Default 64. */
  seqLen: withDefault(positive, 64),
  /** Entries of the BPE that is trained on the passages. Default 512. */
  vocabSize: withDefault(positive, 512),
  /** Default 8. */
  batchSize: withDefault(positive, 8),
  /** Default 5e-3. */
  learningRate: withDefault(rate, 5e-3),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// Parts: one training each

interface Setting {
  readonly sequences: number
  readonly units: number
  readonly sources: number
  readonly exposures: number
  readonly width: number
}

const baseOf = ({ exposures, sources, width }: BackboneConfig): Setting => ({ sequences: 0, units: 0, sources,
  exposures, width })

/** What varies beside the share, in words, and its values, that of the base included, rising. */
const grid = (config: BackboneConfig) => {
  const rising = (some: ReadonlyArray<number>) => [...new Set(some)].sort((a, b) => a - b)
  return [
    ["exposures", rising([config.exposures, ...config.otherExposures])],
    ["sources", rising([config.sources, ...config.otherSources])],
    ["width", rising([config.width, ...config.otherWidths])]
  ] as const
}

const nameOf = (base: Setting, setting: Setting): string => {
  const changed = (Object.keys(base) as Array<keyof Setting>).filter((key) => setting[key] !== base[key])
  return changed.length === 0 ? "base" : changed.map((key) => `${key} ${setting[key]}`).join(", ")
}

/** The settings by the names of their parts. */
const settings = (config: BackboneConfig): ReadonlyMap<string, Setting> => {
  const base = baseOf(config)
  const all: ReadonlyArray<Setting> = [
    ...config.sequences.map((sequences) => ({ ...base, sequences })),
    ...config.units.map((units) => ({ ...base, units })),
    ...grid(config).flatMap(([what, values]) =>
      values.flatMap((value) => [0, config.share].map((sequences) => ({ ...base, sequences, [what]: value })))
    )
  ]
  return new Map(all.map((one) => [nameOf(base, one), one]))
}

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

/** Characters that hold a passage's tokens for certain: most tokens of a small vocabulary are short. */
const CHARACTERS = 12

const ROWS = 16

interface Source {
  readonly name: string
  readonly passages: ReadonlyArray<Row>
  readonly unseen: ReadonlyArray<Row>
}

/** Sources by the seed, and one that is in no training: passages that are trained on, and others of it that are not. */
export const groundOf = (
  { passages, seqLen, unseen, vocabSize }: Pick<BackboneConfig, "passages" | "seqLen" | "unseen" | "vocabSize">,
  count: number,
  seed: number
) =>
  Effect.gen(function*() {
    const texts = Corpus.bySource(yield* Corpus.documents(undefined, { sourceField: "president" }))
    const each = passages + unseen
    const wanted = each * (seqLen + 1)
    const long = [...texts].filter(([, text]) => text.length >= CHARACTERS * wanted).map(([name]) => name).sort()
    if (long.length <= count) {
      return yield* new DataError({
        detail:
          `${count + 1} presidents with ${each} passages of ${
            seqLen + 1
          } tokens each are needed, and ${long.length} are ` +
          "there: lower sources, passages, unseen or seqLen"
      })
    }
    const chosen = random(seed, "sources").shuffle(long).slice(0, count + 1)
    const cut = chosen.map((name) => texts.get(name)!.slice(0, CHARACTERS * wanted))
    const tokenizer = yield* Tokenizer.trainBpe(cut, { vocabSize })
    const sources = chosen.map((name, s): Source => {
      const tokens = Uint32Array.from(tokenizer.encode(cut[s]!))
      const rows = Array.from({ length: each }, (_, i): Row => ({
        id: sourceHash(name),
        tokens: tokens.slice(i * (seqLen + 1), (i + 1) * (seqLen + 1)),
        document: `${name} ${i + 1}`,
        offset: 0
      }))
      // what is trained on and what is not are drawn among each other, so that a model that saw neither tells none from none
      const order = random(seed, "passages", s).shuffle(Uint32Array.from(rows.keys()))
      const of = (some: Uint32Array) => Array.from(some.slice().sort(), (i) => rows[i]!)
      return { name, passages: of(order.subarray(0, passages)), unseen: of(order.subarray(passages)) }
    })
    return { tokenizer, sources: sources.slice(0, count), outsider: sources[count]! }
  })

/** Mean losses of one state, nats a token: of passages that were trained on, of others of the same sources. */
interface Looked {
  readonly seen: number
  readonly unseen: number
}

export interface BackboneFound {
  /** Own sinks, those of the most similar other source, none. */
  readonly own: Looked
  readonly nearest: Looked
  readonly off: Looked
  /** Passages of somebody who is in no training, by the most similar source's sinks, and by none. */
  readonly outsider: { readonly nearest: number; readonly off: number }
}

const work = (
  { config, part, seed }: { readonly config: BackboneConfig; readonly part: string; readonly seed: number },
  at: Workplace
) =>
  Effect.gen(function*() {
    const { exposures, sequences, sources: count, units, width } = settings(config).get(part)!
    const { batchSize, learningRate, passages, seqLen, sinkLearningRateRatio, unseen, vocabSize } = config
    const { outsider, sources, tokenizer } = yield* groundOf(config, count, seed)
    const pool = count * width
    const loss = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.gen(function*() {
        return summarize(yield* scoreRows(yield* Model, rows, mode, { batchSize: ROWS, seqLen }))!.loss
      })
    const routes = sources.map(({ passages }, s) => {
      const others = sources.filter((_, other) => other !== s)
      return others[nearest(passages, others.map(({ passages }) => passages))]!.passages[0]!.id
    })
    const all = (of: "passages" | "unseen", routed: boolean) =>
      sources.flatMap((source, s) => source[of].map((row) => routed ? { ...row, id: routes[s]! } : row))
    const look = (mode: Sink.SinkMode, routed = false) =>
      Effect.gen(function*() {
        const looked: Looked = { seen: yield* loss(all("passages", routed), mode),
          unseen: yield* loss(all("unseen", routed), mode) }
        return looked
      })
    const strangers = [...outsider.passages, ...outsider.unseen]
    const host = sources[nearest(strangers, sources.map(({ passages }) => passages))]!.passages[0]!.id
    const measure = Effect.gen(function*() {
      const found: BackboneFound = {
        own: yield* look(Sink.own),
        nearest: yield* look(Sink.own, true),
        off: yield* look(Sink.off),
        outsider: {
          nearest: yield* loss(strangers.map((row) => ({ ...row, id: host })), Sink.own),
          off: yield* loss(strangers, Sink.off)
        }
      }
      return found
    })
    const { measured } = yield* train(at, {
      model: new ModelConfig({
        vocabSize,
        hiddenSize: width,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 3 * width + pool,
        maxPositionEmbeddings: Math.max(seqLen, 64),
        sinks: new Sink.SinkConfig({ pool, active: width, assignment: "disjoint" })
      }),
      training: new TrainConfig({
        steps: Math.ceil(exposures * count * passages / batchSize),
        optimizer: new OptimizerConfig({ learningRate, sinks: "lazy", sinkLearningRateRatio }),
        ...(sequences === 0 && units === 0 ? {} : { sinkDropout: new Sink.SinkDropout({ sequences, units, seed }) })
      }),
      seed,
      data: {
        key: ["backbone", { count, passages, unseen, seqLen, vocabSize, batchSize, seed }],
        layer: DataStream.layerTokens(
          documentsOf(sources.flatMap(({ name, passages }) =>
            passages.map(({ document, tokens }) => ({ tokens, name: document, source: name }))
          )),
          tokenizer,
          { seqLen, batchSize, singleSequences: count * passages, repeatedSequences: 0, heldOutSequences: 0,
            identity: "source", seed }
        )
      },
      measured: { backbone: 1 }
    }, measure)
    return measured
  })

// ---------------------------------------------------------------------------------------------------------------
// What is found

type State = "own" | "nearest" | "off"

const STATES = { own: "own sinks", nearest: "the nearest source's", off: "no sinks" } as const

const findings = (results: Results<BackboneFound>, config: BackboneConfig) => {
  const base = baseOf(config)
  const name = (changed: Partial<Setting>) => nameOf(base, { ...base, ...changed })
  const loss = (part: string, state: State, of: keyof Looked): Estimate =>
    results.over(part, (found) => found[state][of], { kind: "loss" })
  const outsider = (part: string, state: "nearest" | "off"): Estimate =>
    results.over(part, (found) => found.outsider[state], { kind: "loss" })
  /** How much better passages that were trained on are known than others of the same sources. */
  const memory = (part: string, state: State) => minus(loss(part, state, "unseen"), loss(part, state, "seen"))
  /** How much of that is still there without the sources' own sinks. */
  const remains = (part: string, state: "off" | "nearest" = "off") =>
    perSeed((left, whole) => left / whole, memory(part, state), memory(part, "own"))
  const said = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>) =>
    list(...entries) || "no seed has the numbers"
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    one === undefined || !isKnown(one) ? "not tested" : decide(one)
  const { share } = config
  const some = name({ sequences: share })
  const percent = `${digits(0)(100 * share)} %`
  const gain = minus(outsider("base", "off"), outsider(some, "off"))
  const price = minus(outsider(some, "nearest"), outsider("base", "nearest"))
  const more = minus(remains(some), remains("base"))
  const least = Math.max(0, ...config.units)
  const byUnits = name({ units: least })
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "With own sinks on, passages that were trained on are known better than others of the same sources",
      result: decided(memory("base", "own"), (one) => isAtLeast(one, 0)),
      evidence: said(["nats a token", memory("base", "own")])
    },
    {
      about: "paper",
      claim: "Of what is memorized, a quarter at most stays where a source's sinks are off",
      result: decided(remains("base"), (one) => isAtMost(one, 0.25)),
      evidence: said(["share that remains", remains("base")])
    },
    {
      about: "sinks",
      claim: `With ${percent} of the sequences trained with sinks off, the model without sinks knows new text better`,
      result: decided(gain, (one) => isAtLeast(one, 0)),
      evidence: said(["loss of somebody new, sinks off, less", gain])
    },
    {
      about: "sinks",
      claim: "and with the nearest source's sinks on it does not know it worse",
      result: decided(price, (one) => isAtMost(one, 0)),
      evidence: said(["loss of somebody new, the nearest source's sinks, more", price])
    },
    {
      about: "sinks",
      claim: "but more of what is memorized stays when a source is deleted",
      result: decided(more, (one) => isAtLeast(one, 0)),
      evidence: said(["share that remains, more", more], ["without", remains("base")], ["with", remains(some)])
    },
    ...(least === 0 ? [] : [{
      about: "sinks",
      claim: `With ${digits(0)(100 * least)} % of every sequence's units off, too, more of it stays`,
      result: decided(minus(remains(byUnits), remains("base")), (one) => isAtLeast(one, 0)),
      evidence: said(["share that remains, more", minus(remains(byUnits), remains("base"))])
    } satisfies Finding])
  ]
  const shown = [...config.sequences.map((sequences) => ({ sequences })), ...config.units.map((units) => ({ units }))]
  const titleOf = (one: { readonly sequences?: number; readonly units?: number }) =>
    one.units === undefined ? `sequences ${one.sequences}` : `units ${one.units}`
  const all = [...settings(config).keys()]
  return {
    claims,
    numbers: Object.fromEntries(all.flatMap((part) =>
      ([
        ["memory, own sinks", memory(part, "own")],
        ["memory, the nearest source's sinks", memory(part, "nearest")],
        ["memory, no sinks", memory(part, "off")],
        ["share that remains", remains(part)],
        ["share that remains, the nearest source's sinks", remains(part, "nearest")],
        ["loss of somebody new, nearest", outsider(part, "nearest")],
        ["loss of somebody new, off", outsider(part, "off")]
      ] as const).flatMap(([what, value]) => isKnown(value) ? [[`${part}: ${what}`, value] as const] : [])
    )),
    charts: [{
      title: "What stays of what is memorized when a source is deleted",
      x: { title: "share of sequences trained with sinks off" },
      y: { title: "share that remains", zero: true },
      facets: [],
      lines: (["off", "nearest"] as const).map((state): Line => ({
        label: STATES[state],
        of: { what: STATES[state] },
        points: config.sequences.flatMap((sequences) => {
          const one = remains(name({ sequences }), state)
          return one === undefined ?
            [] :
            [{ x: sequences, y: one.mean, ...(one.low === undefined ? {} : { low: one.low, high: one.high! }) }]
        })
      })),
      color: ["what"]
    }],
    tables: [
      {
        caption: "Loss, nats a token: passages that were trained on, others of the same sources, somebody new",
        head: ["left out", "own: trained on", "own: others", "nearest: trained on", "nearest: others",
          "nearest: somebody new", "off: trained on", "off: others", "off: somebody new"],
        rows: shown.map((one) => {
          const part = name(one)
          const two = digits(2)
          return [titleOf(one), ...(["own", "nearest", "off"] as const).flatMap((state) => [
            plusMinus(loss(part, state, "seen"), two),
            plusMinus(loss(part, state, "unseen"), two),
            ...(state === "own" ? [] : [plusMinus(outsider(part, state), two)])
          ])]
        })
      },
      {
        caption: "Memory: how much better what was trained on is known, and how much of it remains",
        head: ["left out", "own sinks", "no sinks", "share that remains", "the nearest source's on"],
        rows: shown.map((one) => {
          const part = name(one)
          return [titleOf(one), plusMinus(memory(part, "own"), digits(2)), plusMinus(memory(part, "off"), digits(2)),
            plusMinus(remains(part), digits(2)), plusMinus(remains(part, "nearest"), digits(2))]
        })
      },
      {
        caption: `Share that remains, no sinks, by what varies: nothing left out, and ${percent} of the sequences`,
        head: ["", "own sinks' memory", "nothing left out", `${percent} left out`],
        rows: grid(config).flatMap(([what, values]) =>
          values.map((value) => [
            `${what} ${value}`,
            plusMinus(memory(name({ [what]: value }), "own"), digits(2)),
            plusMinus(remains(name({ [what]: value })), digits(2)),
            plusMinus(remains(name({ [what]: value, sequences: share })), digits(2))
          ])
        )
      }
    ],
    terms: [
      ["memory",
        "loss of passages that were not trained on less that of passages of the same sources that were, drawn among each other"],
      ["share that remains",
        "memory with the source's sinks off over memory with them on: what a deletion leaves with disjoint sinks"]
    ] as const,
    limits: [
      "Memory is told by passages of the same source, not by training without it: what a source taught beyond its passages, such as its style, is in neither.",
      `Sources are few, and each has ${config.width} sinks of its own in every MLP beside ${
        3 * config.width
      } general neurons.`
    ]
  }
}

export const backbone = study<BackboneConfig, BackboneFound>({
  name: "backbone",
  title: "Sinks left out in training",
  paper: "Natively Unlearnable Large Language Models (2026), arXiv 2606.13873",
  question:
    "What makes the shared neurons stand without sinks, what does it cost, and what does a deletion leave then?",
  finding: "deleting a source's sinks leaves what retraining without it leaves, whichever state the others are in",
  cost: "10 minutes; full: an hour",
  version: 1,
  schema: BackboneConfig,
  presets: {
    quick: new BackboneConfig({}),
    full: new BackboneConfig({ seeds: 5, passages: 16, unseen: 8, otherExposures: [4, 16, 32],
      otherWidths: [32, 96, 128] })
  },
  problem: ({ sequences, share, units }) =>
    sequences[0] !== 0 || !sequences.every((one, i) => i === 0 || one > sequences[i - 1]!)
      ? `sequences must begin with 0 and rise, got ${sequences.join(", ")}`
      : !sequences.includes(share)
      ? `share ${share} must be one of sequences, ${sequences.join(", ")}`
      : units.includes(0)
      ? "units of 0 are those of sequences 0: leave 0 out"
      : undefined,
  parts: (config) => [...settings(config).keys()],
  work,
  findings
})
