/**
 * How BPE affects memorization in Transformers (Kharitonov, Baroni and Hupkes 2021) in miniature: the same passages, seen equally
 * often, in bytes and in tokens of larger and larger vocabularies. Random labels that passages are to be remembered by, passages
 * said by heart, counted in characters, and membership by loss; a vocabulary that is doubled by aliases without any sequence
 * being shorter; and the same with sinks by passage.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, rate, withDefault } from "../../src/Config.ts"
import { documents } from "../../src/data/Corpus.ts"
import { DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import * as Synthetic from "../../src/data/stream/Synthetic.ts"
import { bytes, type Tokenizer, trainBpe } from "../../src/data/tokens/Tokenizer.ts"
import { DataError } from "../../src/Errors.ts"
import * as Membership from "../../src/measures/Membership.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Chart } from "../report/Chart.ts"
import { all, is, isAtMost, list } from "../report/Claim.ts"
import { type Estimate, isKnown, plusMinus } from "../report/Estimate.ts"
import { short, type Table } from "../report/View.ts"
import { isPositive, pointOf } from "../study/estimates.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class TokenizersConfig extends configuration(Schema.Class<TokenizersConfig>("TokenizersConfig")({
  ...seedsOfStudy,
  /** Sizes of vocabularies, ascending: 256 is bytes, larger ones are byte-level BPEs of the text. Default 256 to 2,048. */
  vocabularies: withDefault(Schema.NonEmptyArray(positive), () => [256, 512, 1024, 2048] as const),
  /** Of these, the one each of whose tokens is split into two aliases at random, as a control. Default 512. */
  aliased: withDefault(positive, 512),
  /** The text; default: the State of the Union addresses. */
  text: Schema.optional(Schema.NonEmptyString),
  /** Characters that vocabularies are trained on. Default 300,000. */
  trainedOn: withDefault(positive, 300_000),
  /** Passages that are trained on; as many others are held out. Default 64. */
  passages: withDefault(positive, 64),
  /** Characters of a passage. Default 96. */
  characters: withDefault(positive, 96),
  /** Characters that are given before a passage must go on. Default 32. */
  prompt: withDefault(positive, 32),
  /** Characters that must be said. Default 32. */
  said: withDefault(positive, 32),
  /** Exposures of each passage. Default 20. */
  epochs: withDefault(positive, 20),
  /** Passages of a step. Default 8. */
  batchSize: withDefault(positive, 8),
  /** The sink model; the standard one has its general neurons. Its vocabulary follows the tokenizer. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 96 + 2048,
      sinks: { pool: 2048, active: 32 }
    })),
  /** Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// Parts

interface Part {
  readonly name: string
  readonly vocabulary: number
  readonly aliases: boolean
  readonly sinks: boolean
}

const nameOf = ({ aliases, sinks, vocabulary }: Omit<Part, "name">): string =>
  `${vocabulary}${aliases ? " aliased" : ""}${sinks ? " sinks" : ""}`

const partsOf = ({ aliased, vocabularies }: TokenizersConfig): ReadonlyArray<Part> =>
  [
    ...vocabularies.map((vocabulary) => ({ vocabulary, aliases: false, sinks: false })),
    { vocabulary: aliased, aliases: true, sinks: false },
    ...vocabularies.map((vocabulary) => ({ vocabulary, aliases: false, sinks: true }))
  ].map((part) => ({ ...part, name: nameOf(part) }))

// ---------------------------------------------------------------------------------------------------------------
// The world

interface Passage {
  readonly name: string
  readonly text: string
  /** 0 or 1, by a coin. */
  readonly label: number
}

/** Passages of equal length from different places: the first half is trained on, the others are held out. */
export const passagesOf = (
  texts: ReadonlyArray<{ readonly name: string; readonly text: string }>,
  { characters, passages }: Pick<TokenizersConfig, "characters" | "passages">,
  seed: number
): ReadonlyArray<Passage> => {
  const places = texts.flatMap(({ text }, d) =>
    Array.from({ length: Math.floor(text.length / characters) }, (_, i) => [d, i * characters] as const)
  )
  const draw = random(seed, "tokenizers")
  const drawn = draw.shuffle(Uint32Array.from(places, (_, i) => i)).subarray(0, 2 * passages)
  return Array.from(drawn, (place): Passage => {
    const [d, at] = places[place]!
    return { name: `${texts[d]!.name}+${at}`, text: texts[d]!.text.slice(at, at + characters), label: draw.below(2) }
  })
}

/** A passage in tokens; the last is its label. */
export interface Tokenized {
  readonly tokens: Uint32Array
  /** The character at which each token of text begins, and where the last ends. */
  readonly starts: ReadonlyArray<number>
}

/** Tokens of a text, each, with aliases, one of two; then the label, which has entries of its own behind all others. */
export const tokenize = (
  { label, text }: Pick<Passage, "label" | "text">,
  tokenizer: Tokenizer,
  coin?: () => number
): Tokenized => {
  const ids = tokenizer.encode(text)
  const starts = Array.from({ length: ids.length + 1 }, (_, i) => tokenizer.decode(ids.subarray(0, i)).length)
  const size = tokenizer.vocabSize
  const labels = coin === undefined ? size : 2 * size
  return {
    tokens: Uint32Array.of(...ids.map((id) => coin === undefined ? id : id + size * coin()), labels + label),
    starts
  }
}

/** The tokens from the first that begins at or behind a character to the last that is needed for so many more. */
export const span = ({ starts }: Tokenized, prompt: number, said: number): readonly [from: number, to: number] => {
  const from = starts.findIndex((at) => at >= prompt)
  const to = starts.findIndex((at) => at >= prompt + said)
  return [from, to]
}

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

interface Measured {
  /** Share of trained passages whose label is likelier than the other one. */
  readonly labels: number
  /** Share of passages that are said by heart; and of held-out ones. */
  readonly said: number
  readonly saidHeldOut: number
  /** Nats a character. */
  readonly loss: number
  readonly lossHeldOut: number
  /** Of membership by the loss of a character. */
  readonly auc: number
}

export interface TokenizersFound {
  readonly states: Readonly<Record<string, Measured>>
  /** Of a passage, on average, without its label. */
  readonly tokens: number
  readonly entries: number
  readonly parameters: number
  readonly passages: number
}

const work = ({ config, part: name, seed }: PartOf<TokenizersConfig>, at: Workplace) =>
  Effect.gen(function*() {
    const part = partsOf(config).find((one) => one.name === name)!
    const { batchSize, characters, epochs, passages, prompt, said } = config
    const texts = yield* documents(config.text)
    const all = passagesOf(texts, config, seed)
    if (all.length < 2 * passages) {
      return yield* new DataError({
        detail:
          `passages: ${2 * passages} of ${characters} characters are needed, trained on and held out, and the text ` +
          `has ${all.length}: ask for fewer or shorter ones, or give more text`
      })
    }
    let left = config.trainedOn
    const sample = texts.map(({ text }) => {
      const piece = text.slice(0, left)
      left -= piece.length
      return piece
    }).filter((piece) => piece.length > 0)
    const tokenizer = part.vocabulary === 256 ? bytes : yield* trainBpe(sample, { vocabSize: part.vocabulary })
    const draw = random(seed, "tokenizers", "aliases")
    const tokenized = all.map((passage) => tokenize(passage, tokenizer, part.aliases ? () => draw.below(2) : undefined))
    const entries = (part.aliases ? 2 : 1) * tokenizer.vocabSize + 2
    const longest = Math.max(...tokenized.map(({ tokens }) => tokens.length - 1))
    const seqLen = Math.ceil(longest / 8) * 8
    const sequences = tokenized.slice(0, passages).map(({ tokens }, i): Synthetic.SyntheticSequence => ({
      name: all[i]!.name,
      split: "passages",
      repeats: 1,
      tokens
    }))
    const { sinks: _, ...rest } = config.model
    const model = new ModelConfig({
      ...(part.sinks ? config.model : { ...rest, intermediateSize: config.model.general }),
      vocabSize: entries
    })
    const layer = DataStream.layerTokens(
      Synthetic.tokenDocuments(sequences),
      Synthetic.wordTokenizer(Synthetic.numerals(entries)),
      { seqLen, batchSize, packing: "documents", rowSequences: 1, identity: "document", heldOutFraction: 0, seed }
    )
    const row = (i: number, label = all[i]!.label): Row => {
      const tokens = tokenized[i]!.tokens.slice()
      tokens[tokens.length - 1] = entries - 2 + label
      return { document: all[i]!.name, offset: 0, tokens, id: BigInt(i + 1) }
    }
    const measure = Effect.gen(function*() {
      const model = yield* Model
      const states: Array<readonly [string, Measured]> = []
      for (const state of part.sinks ? ["own", "off"] as const : ["own"] as const) {
        const { mode } = Sink.states[state]
        const record = (rows: ReadonlyArray<Row>) =>
          recordRows(model, rows, mode, { batchSize: 16, seqLen, split: "passages", schemes: [] })
        const own = yield* record(all.map((_, i) => row(i)))
        const other = yield* record(all.slice(0, passages).map(({ label }, i) => row(i, 1 - label)))
        const losses = all.map((_, i) => {
          let nats = 0
          for (let t = own.start[i]!; t < own.start[i + 1]! - 1; t++) nats -= own.logProb[t]!
          return nats / characters
        })
        const whole = all.map((_, i) => {
          const [from, to] = span(tokenized[i]!, prompt, said)
          // the record of token t is at t - 1: the first is not scored
          for (let t = from; t < to; t++) if (own.rank[own.start[i]! + t - 1] !== 0) return 0
          return 1
        })
        const right = Array.from({ length: passages },
          (_, i) => own.logProb[own.start[i + 1]! - 1]! > other.logProb[other.start[i + 1]! - 1]! ? 1 : 0)
        states.push([state, {
          labels: mean(right),
          said: mean(whole.slice(0, passages)),
          saidHeldOut: mean(whole.slice(passages)),
          loss: mean(losses.slice(0, passages)),
          lossHeldOut: mean(losses.slice(passages)),
          auc: Membership.auc(losses.slice(0, passages).map((x) => -x), losses.slice(passages).map((x) => -x))
        }])
      }
      return Object.fromEntries(states)
    })
    const { measured } = yield* train(at, {
      data: { key: ["tokenizers", 1, Schema.encodeSync(TokenizersConfig)(config), part.name, seed], layer },
      model,
      seed,
      training: new TrainConfig({
        steps: epochs * Math.ceil(passages / batchSize),
        optimizer: new OptimizerConfig({
          learningRate: config.learningRate,
          sinks: "lazy",
          sinkLearningRateRatio: config.sinkLearningRateRatio
        })
      }),
      measured: { tokenizers: 1, prompt, said }
    }, measure)
    const found: TokenizersFound = {
      states: measured,
      tokens: mean(tokenized.map(({ tokens }) => tokens.length - 1)),
      entries,
      parameters: model.numParameters,
      passages
    }
    return found
  })

// ---------------------------------------------------------------------------------------------------------------
// What is found

type What = keyof Measured

const read = (results: Results<TokenizersFound>, part: string, what: What, state = "own"): Estimate => {
  const isShare = what !== "loss" && what !== "lossHeldOut"
  return results.over(part, (found) => found.states[state]?.[what], isShare
    ? { kind: "share", spread: ({ passages }) => ({ sequences: passages }) }
    : { kind: "loss" })
}

/** By how much a share rises with every doubling of the vocabulary. */
const slope = (
  results: Results<TokenizersFound>,
  { vocabularies }: TokenizersConfig,
  what: What,
  sinks = false
): Estimate => {
  const parts = vocabularies.map((vocabulary) => nameOf({ vocabulary, aliases: false, sinks }))
  const of = (seed: number): number | undefined => {
    const all = parts.map((part) => results.of(part, seed)?.states["own"]?.[what])
    if (!all.every((one) => one !== undefined)) return undefined
    const doublings = vocabularies.map(Math.log2)
    const [x, y] = [mean(doublings), mean(all)]
    return mean(all.map((one, i) => (one - y) * (doublings[i]! - x))) / mean(doublings.map((one) => (one - x) ** 2))
  }
  return results.over(parts[0]!, (found) => of(results.seeds.find((seed) => results.of(parts[0]!, seed) === found)!))
}

const findings = (results: Results<TokenizersFound>, config: TokenizersConfig) => {
  const { aliased, prompt, said, vocabularies } = config
  const part = (vocabulary: number, sinks = false, aliases = false) => nameOf({ vocabulary, sinks, aliases })
  const [least, most] = [vocabularies[0]!, vocabularies.at(-1)!]
  const at = (what: What, vocabulary: number) => read(results, part(vocabulary), what)
  const alias = (what: What) => read(results, part(aliased, false, true), what)
  const offs = vocabularies.map((vocabulary) => read(results, part(vocabulary, true), "labels", "off"))
  const saidOff = vocabularies.map((vocabulary) => read(results, part(vocabulary, true), "said", "off"))
  const saidOwn = vocabularies.map((vocabulary) => read(results, part(vocabulary, true), "said"))
  const heldOut = vocabularies.map((vocabulary) => at("saidHeldOut", vocabulary))
  const named = (all: ReadonlyArray<Estimate>) =>
    list(...vocabularies.map((size, i) => [String(size), all[i]] as const))
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Passages that were never shown are not said by heart: at most one in ten, in any vocabulary",
      result: all(...heldOut.map((one) => isAtMost(one, 0.1))),
      evidence: named(heldOut)
    },
    {
      about: "paper",
      claim: "Random labels are remembered better, the larger the vocabulary",
      result: isPositive(slope(results, config, "labels")),
      evidence: list([String(least), at("labels", least)], [String(most), at("labels", most)], [
        "rise for each doubling",
        slope(results, config, "labels")
      ])
    },
    {
      about: "paper",
      claim: `More passages are said by heart, ${said} characters after ${prompt}, the larger the vocabulary`,
      result: isPositive(slope(results, config, "said")),
      evidence: list([String(least), at("said", least)], [String(most), at("said", most)], ["rise for each doubling",
        slope(results, config, "said")])
    },
    {
      about: "paper",
      claim: "Membership is told better by the loss of a character, the larger the vocabulary",
      result: isPositive(slope(results, config, "auc")),
      evidence: list([String(least), at("auc", least)], [String(most), at("auc", most)], ["rise for each doubling",
        slope(results, config, "auc")])
    },
    {
      about: "paper",
      claim: `Shorter sequences are why, not more entries: aliases double ${aliased} entries and do not help labels`,
      result: is("higher", alias("labels"), at("labels", aliased)) === "held"
        ? "did not hold"
        : is("lower", alias("labels"), at("labels", aliased)),
      evidence: list([`${aliased} aliased`, alias("labels")], [String(aliased), at("labels", aliased)])
    },
    {
      about: "sinks",
      claim: "With own sinks on, random labels are remembered better, too, the larger the vocabulary",
      result: isPositive(slope(results, config, "labels", true)),
      evidence: list([String(least), read(results, part(least, true), "labels")], [String(most),
        read(results, part(most, true), "labels")], ["rise for each doubling", slope(results, config, "labels", true)])
    },
    {
      about: "sinks",
      claim: "With the sinks off, labels are nearly guessed in every vocabulary: at most 0.65 are right",
      result: all(...offs.map((one) => isAtMost(one, 0.65))),
      evidence: named(offs)
    },
    {
      about: "sinks",
      claim: "In every vocabulary fewer passages are said by heart with the sinks off than on",
      result: all(...saidOff.map((one, i) => is("lower", one, saidOwn[i]!))),
      evidence: `off: ${named(saidOff)}; on: ${named(saidOwn)}`
    }
  ]
  return {
    claims,
    numbers: Object.fromEntries(
      partsOf(config).flatMap(({ name, sinks }) =>
        (["labels", "said", "auc"] as const).flatMap((what) => [
          [`${what}, ${name}`, read(results, name, what)],
          ...(sinks ? [[`${what}, ${name}, off`, read(results, name, what, "off")]] : [])
        ])
      )
    ) as Readonly<Record<string, Estimate>>,
    charts: (["labels", "said"] as const).map((what) => chart(results, config, what)),
    tables: [table(results, config)],
    terms: [
      ["labels", "share of passages whose label, a coin's, the model finds likelier than the other; a half is guessed"],
      ["said", `share of passages of which the model says ${said} characters rightly after ${prompt} of them`],
      ["aliased", "each token of the text is one of two that mean the same, drawn once"],
      ["tokens", "of a passage, without its label"]
    ] as const,
    limits: [
      "All vocabularies see the same characters in as many steps; larger ones have more weights in their embeddings, which the " +
      "paper evens out and this does not.",
      "A token of several characters that are wanted is said whole, so larger vocabularies are asked for up to a token more.",
      "Nothing but the passages is trained on, from nothing: labels of the paper are of sentences that a model has read much like."
    ]
  }
}

const states = [["standard", false, "own", "no sinks"], ["own", true, "own", "own sinks on"], ["off", true, "off",
  "sinks off"]] as const

const chart = (results: Results<TokenizersFound>, config: TokenizersConfig, what: "labels" | "said"): Chart => {
  const { aliased, vocabularies } = config
  return {
    title: what === "labels" ? "Random labels by vocabulary" : "Passages said by heart, by vocabulary",
    x: { title: "entries of the vocabulary", log: true },
    y: { title: what === "labels" ? "share of labels that are right" : "share of passages", zero: true },
    facets: [],
    lines: [
      ...states.map(([key, sinks, state, label]) => ({
        label,
        of: { line: key },
        dots: true,
        points: vocabularies.flatMap((vocabulary) =>
          pointOf(vocabulary, read(results, nameOf({ vocabulary, aliases: false, sinks }), what, state))
        )
      })),
      {
        label: `${aliased} aliased`,
        of: { line: "aliased" },
        dots: true,
        points: pointOf(2 * aliased, read(results, nameOf({ vocabulary: aliased, aliases: true, sinks: false }), what))
      }
    ],
    color: ["line"]
  }
}

const table = (results: Results<TokenizersFound>, config: TokenizersConfig): Table => ({
  head: ["", "tokens", "weights", "labels", "said", "said, held out", "AUC", "nats a character", "held out"],
  rows: partsOf(config).flatMap(({ name, sinks }) =>
    (sinks ? ["own", "off"] : ["own"]).map((state) => {
      const plain = (of: (found: TokenizersFound) => number) => {
        const one = results.over(name, of)
        return isKnown(one) ? short(one.mean) : "-"
      }
      return [
        sinks ? `${name}, ${state}` : name,
        plain(({ tokens }) => tokens),
        plain(({ parameters }) => parameters),
        ...(["labels", "said", "saidHeldOut", "auc", "loss", "lossHeldOut"] as const).map((what) =>
          plusMinus(read(results, name, what, state))
        )
      ]
    })
  )
})

export const tokenizers = study<TokenizersConfig, TokenizersFound>({
  name: "tokenizers",
  title: "Tokenizers and memory",
  paper: "Kharitonov, Baroni and Hupkes (2021): How BPE Affects Memorization in Transformers",
  question: "Does a larger vocabulary make a model remember more of the same text, and is that so with sinks?",
  finding:
    "random labels, training text and membership are remembered better with larger vocabularies, because sequences are " +
    "shorter",
  cost: "5 minutes; full: half an hour",
  version: 1,
  schema: TokenizersConfig,
  presets: {
    quick: new TokenizersConfig({ seeds: 3 }),
    full: new TokenizersConfig({ seeds: 5, vocabularies: [256, 512, 1024, 2048, 4096, 8192], passages: 128,
      characters: 160, trainedOn: 2_000_000 })
  },
  parts: (config) => partsOf(config).map(({ name }) => name),
  problem: ({ aliased, characters, model, prompt, said, vocabularies }) =>
    model.sinks === undefined
      ? "model.sinks is missing: what sinks change is asked, too"
      : model.sinks.problem ?? (vocabularies.some((size, i) => size < 256 || (i > 0 && size <= vocabularies[i - 1]!))
        ? `vocabularies must ascend from 256 on, which is bytes, got ${vocabularies.join(", ")}`
        : vocabularies.some((size) => size > 256 && size < 512)
        ? "vocabularies between 256 and 512 have no entry for some bytes, and would say them differently: leave them out"
        : vocabularies.length < 2
        ? `vocabularies must be 2 at least, to compare, got ${vocabularies.length}`
        : !vocabularies.includes(aliased)
        ? `aliased must be one of vocabularies (${vocabularies.join(", ")}), got ${aliased}`
        : prompt + said > characters
        ? `prompt and said must fit into the ${characters} characters of a passage, got ${prompt} and ${said}`
        : undefined),
  work,
  findings
})
