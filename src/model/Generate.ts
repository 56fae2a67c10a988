/**
 * Text from a model: prompts in, a Stream of tokens out, with the sinks of any id in any mode.
 *
 * Sequences share a batch and nothing else: a prompt's text depends on the model, the prompt, its id and the options,
 * not on what is generated beside it. As soon as one ends the next prompt takes its place.
 */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { isId } from "../Batch.ts"
import { expectOptions } from "../Config.ts"
import type { Tokenizer } from "../data/tokens/Tokenizer.ts"
import { attempt, DataError, type DeviceError, type KernelError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { firstNotFinite } from "../HostTensor.ts"
import type { NgramFilter } from "../measures/MemFree.ts"
import { type Random, random } from "../Random.ts"
import * as Sink from "../Sink.ts"
import { absorb, finish } from "../TokenHash.ts"
import * as Decode from "./Decode.ts"
import { Model } from "./Model.ts"
import type { ModelConfig } from "./ModelConfig.ts"

/** What is continued. */
export interface Prompt {
  readonly tokens: ArrayLike<number>
  /** The id whose sinks are lit, where the mode asks for one. Default 0. */
  readonly id?: bigint
}

/** How prompts are continued: length, sampling, whose sinks are lit. */
export interface GenerateOptions {
  /** Tokens to add to a prompt at most. Default 64. */
  readonly maxNewTokens?: number
  /** Divides the logits; 0: always the likeliest token (the lowest of equals). Default 1. */
  readonly temperature?: number
  /** Choose among the so many likeliest tokens. Default: all. */
  readonly topK?: number
  /** Choose among the likeliest tokens that together have at least this probability, in (0, 1]. Default 1. */
  readonly topP?: number
  /** Of the choices; every prompt of a call draws from a stream of its own, equal ones too. Default 0. */
  readonly seed?: number
  /** Which sinks are on. Default own. */
  readonly sinks?: Sink.SinkMode
  /**
   * MemFree decoding: a token that would complete a protected n-gram, with what was said before it and the prompt, is as
   * if it had no probability; top-k and top-p choose among the others. See `MemFree`. Default: none.
   */
  readonly memFree?: NgramFilter
  /** Added to the logits of tokens before one is chosen. Default: nothing. */
  readonly logitBias?: ReadonlyMap<number, number>
  /**
   * Inverse greedy decoding (Hu et al. 2026): always the least likely token, whatever the temperature; an unlearned model
   * may have hidden there what it was to forget. Default false.
   */
  readonly inverse?: boolean
  /** Tokens that end a text, as the end-of-text token does. Default none. */
  readonly stopTokens?: ReadonlyArray<number>
  /** Texts that end a text and are not part of it; they need a `tokenizer`. Default none. */
  readonly stop?: ReadonlyArray<string>
  /** With it every token brings the text that it completes. */
  readonly tokenizer?: Pick<Tokenizer, "decode">
  /** Report the log-probability of every token under the model (before temperature and cuts). Default false. */
  readonly logProbs?: boolean
  /** Sequences at once; their caches are what generation takes memory for. Default 8, if there are as many prompts. */
  readonly batchSize?: number
}

/** Why a text ended: `stop` a stop token or text, `length` enough tokens, `context` no position left in the model. */
export type Finish = "stop" | "length" | "context"

/** One more token of one prompt. Those of a prompt come in order, those of different prompts interleaved. */
export interface Generated {
  /** Which of the prompts, from 0. */
  readonly prompt: number
  readonly token: number
  /**
   * What is certain of the text by now and was not before: a token may end inside a character, or begin a stop text.
   * Empty without a tokenizer.
   */
  readonly text: string
  readonly logProb?: number
  /** Set with the last token of a prompt. */
  readonly finish?: Finish
}

/** What generation fails with. */
export type GenerateError = DeviceError | KernelError | DataError

// ---------------------------------------------------------------------------------------------------------------
// Choosing a token

/** How the next token is drawn from logits. */
export interface Sampling {
  readonly temperature: number
  readonly topK: number | undefined
  readonly topP: number
  /** Always the least likely token. */
  readonly inverse?: boolean
}

/** The lowest of the likeliest that are not barred, or -1. Asks only of those that are likelier than all before. */
export const likeliest = (logits: Float32Array, barred?: (token: number) => boolean): number => {
  let best = -1
  for (let v = 0; v < logits.length; v++) {
    if ((best < 0 || logits[v]! > logits[best]!) && barred?.(v) !== true) best = v
  }
  return best
}

const sumOf = (numbers: Iterable<number>): number => {
  let sum = 0
  for (const number of numbers) sum += number
  return sum
}

/** Tokens by falling logit, equal ones by rising number: those that are enough for `share` of the probability. */
const ranked = (
  logits: Float32Array,
  weights: Float64Array,
  top: number,
  share: number,
  topK: number
): Array<number> => {
  const total = sumOf(weights)
  // most of the vocabulary is far below the likeliest: sort only what is above a bar, lowered until it is enough
  for (let bar = logits[top]! - 4;; bar -= 8 + (logits[top]! - bar)) {
    const candidates: Array<number> = []
    let mass = 0
    for (let v = 0; v < logits.length; v++) {
      if (!(logits[v]! >= bar)) continue
      candidates.push(v)
      mass += weights[v]!
    }
    const all = candidates.length === logits.length || bar < -1e30
    if (all || candidates.length >= topK || mass >= share * total) {
      return candidates.sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, topK)
    }
  }
}

/**
 * A token of `logits` drawn by `uniform`, a number in [0, 1), but none that is `barred`. Top-k cuts first, top-p what is
 * left. Throws a DataError where a logit is infinite or not a number, nothing can be drawn of those, and where every token
 * is barred.
 */
export const choose = (
  logits: Float32Array,
  { inverse = false, temperature, topK, topP }: Sampling,
  uniform: () => number,
  barred?: (token: number) => boolean
): number => {
  const bad = firstNotFinite(logits)
  if (bad >= 0) throw new DataError({ detail: `no token can be drawn: the logit of token ${bad} is ${logits[bad]}` })
  if (inverse) logits = logits.map((logit) => -logit)
  const top = likeliest(logits, barred)
  if (top < 0) {
    throw new DataError({
      detail: "MemFree decoding has no token left: each would complete a protected n-gram. Protect longer n-grams"
    })
  }
  if (temperature === 0 || inverse) return top
  if (barred !== undefined) logits = logits.map((logit, token) => barred(token) ? -Infinity : logit)
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - logits[top]!) / temperature))
  const u = uniform()
  const pick = (tokens: ArrayLike<number> & Iterable<number>): number => {
    let mass = 0
    for (const token of tokens) mass += weights[token]!
    let left = u * mass
    for (const token of tokens) {
      left -= weights[token]!
      if (left < 0) return token
    }
    return top
  }
  if (topK === undefined && topP === 1) return pick(weights.map((_, token) => token))
  const tokens = topK === undefined
    ? ranked(logits, weights, top, topP, Infinity)
    : ranked(logits, weights, top, 1, topK)
  if (topP < 1) {
    const enough = topP * sumOf(topK === undefined ? weights : tokens.map((token) => weights[token]!))
    let mass = 0
    const last = tokens.findIndex((token) => (mass += weights[token]!) >= enough)
    if (last >= 0) tokens.length = last + 1
  }
  return pick(tokens)
}

/** The log-probability of a token. */
export const logProbability = (logits: Float32Array, token: number): number => {
  const top = logits[likeliest(logits)]!
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - top)
  return logits[token]! - top - Math.log(sum)
}

// ---------------------------------------------------------------------------------------------------------------
// Tokens to text, as they come

const REPLACEMENT = "\ufffd"

/** An incomplete character is at most three bytes, hence tokens, that one more completes. */
const PATIENCE = 4

/** Tokens that are decoded together at most, whatever they are. */
const WINDOW = 64

/**
 * Text out of tokens one by one: what `push` returns is final. A token that ends inside a character waits for the rest;
 * what could begin a stop text waits until it does not.
 */
export const detokenizer = (
  decode: (ids: Iterable<number>) => string,
  stops: ReadonlyArray<string> = [],
  prompt: ArrayLike<number> = []
) => {
  // A tokenizer may treat the first token of a text differently, so a token whose text is out is decoded along. Where a
  // text is whole, the window begins anew: decoding costs the same all along.
  let window: Array<number> = prompt.length === 0 ? [] : [prompt[prompt.length - 1]!]
  let settled = window.length
  /** Characters of the window's text that are out. */
  let known = decode(window).length
  /** Where in it a character is incomplete, and for how many tokens. */
  let gap = -1
  let waiting = 0
  let held = ""

  const fresh = (more: number | undefined): string => {
    if (more !== undefined) window.push(more)
    const text = decode(window)
    let open = more !== undefined && text.endsWith(REPLACEMENT) && window.length < WINDOW
    if (open) {
      waiting = gap === text.length - 1 ? waiting + 1 : 1
      gap = text.length - 1
      open = waiting < PATIENCE
    }
    const until = open ? gap : text.length
    const out = text.slice(known, until)
    known = Math.max(known, until)
    if (!open) {
      window = window.slice(settled)
      settled = window.length
      known = decode(window).length
      gap = -1
    }
    return out
  }
  /** Length of the longest end of `text` that begins a stop text. */
  const beginning = (text: string): number => {
    let longest = 0
    for (const stop of stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
        if (stop.startsWith(text.slice(text.length - n))) longest = n
      }
    }
    return longest
  }
  return {
    push: (token: number): { readonly text: string; readonly stopped: boolean } => {
      const text = held + fresh(token)
      const at = stops.map((stop) => text.indexOf(stop)).filter((i) => i >= 0).sort((a, b) => a - b)[0]
      if (at !== undefined) {
        held = ""
        return { text: text.slice(0, at), stopped: true }
      }
      const keep = beginning(text)
      held = text.slice(text.length - keep)
      return { text: text.slice(0, text.length - keep), stopped: false }
    },
    /** What was held back, now that nothing follows. */
    end: (): string => {
      const text = held + fresh(undefined)
      held = ""
      return text
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Generating

const bigints = Schema.Array(Schema.BigIntFromSelf)

const Mode = Schema.Union(
  Schema.Struct({ mode: Schema.Literal("own"), also: Schema.optional(bigints), except: Schema.optional(bigints) }),
  Schema.Struct({ mode: Schema.Literal("off"),
    rescale: Schema.optional(Schema.Literal("none", "count", "reference")) }),
  Schema.Struct({ mode: Schema.Literal("all"), except: Schema.optional(bigints) }),
  Schema.Struct({ mode: Schema.Literal("only"), ids: bigints, except: Schema.optional(bigints) }),
  Schema.Struct({ mode: Schema.Literal("placebo"), seed: Schema.optional(Schema.Int) })
).annotations({ description: "a mode of the sinks, such as Sink.own" })

/** What `GenerateOptions` are made of; `problem` looks at what numbers may be. */
const Options = Schema.Struct({
  maxNewTokens: Schema.optional(Schema.Number),
  temperature: Schema.optional(Schema.Number),
  topK: Schema.optional(Schema.Number),
  topP: Schema.optional(Schema.Number),
  seed: Schema.optional(Schema.Number),
  sinks: Schema.optional(Mode),
  stopTokens: Schema.optional(Schema.Array(Schema.Int)),
  stop: Schema.optional(Schema.Array(Schema.String)),
  tokenizer: Schema.optional(Schema.Unknown),
  memFree: Schema.optional(Schema.Unknown),
  logitBias: Schema.optional(Schema.ReadonlyMapFromSelf({ key: Schema.Number, value: Schema.Number })),
  inverse: Schema.optional(Schema.Boolean),
  logProbs: Schema.optional(Schema.Boolean),
  batchSize: Schema.optional(Schema.Number)
})

/** What messages call a prompt. */
const nameOf = (prompts: ReadonlyArray<Prompt>, i: number): string =>
  prompts.length === 1 ? "the prompt" : `prompt ${i + 1}`

const problem = (
  prompts: ReadonlyArray<Prompt>,
  o: GenerateOptions,
  c: ModelConfig
): string | undefined => {
  const { batchSize = 1, maxNewTokens = 1, stop = [], temperature = 1, topK = 1, topP = 1 } = o
  const whole = (x: number) => Number.isSafeInteger(x) && x >= 1
  if (!whole(maxNewTokens)) return `maxNewTokens must be a whole number of at least 1, got ${maxNewTokens}`
  if (!(Number.isFinite(temperature) && temperature >= 0)) {
    return `temperature must be a number of at least 0 (0: always the likeliest token), got ${temperature}`
  }
  if (!whole(topK)) return `topK must be a whole number of at least 1, got ${topK}`
  if (!(topP > 0 && topP <= 1)) return `topP must be above 0 and at most 1, got ${topP}`
  if (!Number.isSafeInteger(o.seed ?? 0)) return `seed must be a whole number, got ${o.seed}`
  if (!whole(batchSize)) return `batchSize must be a whole number of at least 1, got ${batchSize}`
  if (stop.includes("")) return "stop must not be an empty text"
  if (stop.length > 0 && o.tokenizer === undefined) return "stop texts need a tokenizer"
  if (o.memFree !== undefined && typeof Object(o.memFree).after !== "function") {
    return "memFree is no filter of n-grams: make one with MemFree.bloomFilter, or MemFree.read"
  }
  for (const [token, bias] of o.logitBias ?? []) {
    if (!(Number.isSafeInteger(token) && token >= 0 && token < c.vocabSize && Number.isFinite(bias))) {
      return `logitBias takes a number for tokens from 0 to ${c.vocabSize - 1}, got ${bias} for ${token}`
    }
  }
  if (o.tokenizer !== undefined && typeof o.tokenizer.decode !== "function") return "tokenizer has no function decode"
  for (const [i, prompt] of prompts.entries()) {
    const { id = 0n, tokens } = Object(prompt) as Prompt
    const name = nameOf(prompts, i)
    if (typeof tokens !== "object" || typeof tokens?.length !== "number") {
      return `${name} has no tokens: expected { tokens: [...] } with a list of token ids, as a tokenizer encodes a text`
    }
    if (!isId(id)) return `${name} has the id ${id}: ids are whole numbers from 0 to 2^64 - 1`
    if (tokens.length === 0) return `${name} is empty: generation needs at least one token to go on from`
    if (tokens.length > c.maxPositionEmbeddings) {
      return `${name} has ${tokens.length} tokens, the model has positions (maxPositionEmbeddings) for ` +
        `${c.maxPositionEmbeddings}: shorten it`
    }
    for (let t = 0; t < tokens.length; t++) {
      const token = tokens[t]!
      if (!(Number.isSafeInteger(token) && token >= 0 && token < c.vocabSize)) {
        return `${name} holds token ${token}, outside the model's vocabulary of ${c.vocabSize}: ` +
          "was it made with another tokenizer?"
      }
    }
  }
  return undefined
}

/**
 * The stream that each prompt draws from: its own, whatever is generated beside it, and another each time that it comes. What
 * is drawn for different prompts must be independent, or their samples would be lucky and unlucky together.
 */
export const streams = (prompts: ReadonlyArray<Prompt>, seed: number): ReadonlyArray<() => Random> => {
  const seen = new Map<string, number>()
  return prompts.map(({ id = 0n, tokens }) => {
    const key = `${id} ${Array.from(tokens).join()}`
    const before = seen.get(key) ?? 0
    seen.set(key, before + 1)
    let hash = absorb(absorb(0, Number(id & 0xffffffffn)), Number(id >> 32n))
    for (let i = 0; i < tokens.length; i++) hash = absorb(hash, tokens[i]!)
    return () => random(seed, "generate", finish(hash), before)
  })
}

/** A prompt as it is continued. */
export interface Growing {
  /** The token that came last. */
  readonly last: number
  /** One more token, which logits give; `length`: of the tokens that they follow. */
  readonly take: (logits: Float32Array, length: number) => Omit<Generated, "prompt">
}

/** Begins to continue a prompt of a model with so many positions; throws a DataError where nothing can be drawn. */
export const grow = (
  tokens: ArrayLike<number>,
  options: GenerateOptions,
  draws: Random,
  positions: number
): Growing => {
  const { inverse = false, logitBias, logProbs = false, maxNewTokens = 64, memFree, stop = [], tokenizer } = options
  const sampling: Sampling = {
    temperature: options.temperature ?? 1,
    topK: options.topK,
    topP: options.topP ?? 1,
    inverse
  }
  const ends = new Set(options.stopTokens)
  /** The tokens that an n-gram's last one is judged by. */
  const reach = (all: ArrayLike<number>): Array<number> =>
    memFree === undefined ? [] : Array.from(all).slice(Math.max(0, all.length - memFree.n + 1))
  const texts = tokenizer === undefined ? undefined : detokenizer(tokenizer.decode, stop, tokens)
  const biased = (logits: Float32Array): Float32Array => {
    if (logitBias === undefined || logitBias.size === 0) return logits
    const sums = logits.slice()
    for (const [token, bias] of logitBias) sums[token]! += bias
    return sums
  }
  /** The prompt and what came of it, as far back as n-grams reach. */
  let said = reach(tokens)
  let left = maxNewTokens
  let last = 0
  return {
    get last() {
      return last
    },
    take: (logits, length) => {
      const token = choose(biased(logits), sampling, draws.uniform, memFree?.after(said))
      last = token
      said = reach([...said, token])
      left--
      const ended = ends.has(token)
      const { stopped, text } = ended || texts === undefined ? { stopped: false, text: "" } : texts.push(token)
      const finish: Finish | undefined = ended || stopped
        ? "stop"
        : left <= 0
        ? "length"
        : length === positions
        ? "context"
        : undefined
      const out = { token, ...(logProbs ? { logProb: logProbability(logits, token) } : {}) }
      if (finish === undefined) return { ...out, text }
      return { ...out, text: stopped ? text : text + (texts?.end() ?? ""), finish }
    }
  }
}

/**
 * Continue prompts. Memory for the caches is taken when the stream starts and given back when it ends. The same model
 * on the same adapter, prompt, id and options give the same tokens, alone or in any batch. Fails with a DataError for a
 * prompt that does not fit the model, or an option out of range.
 */
export const generate = (
  prompts: ReadonlyArray<Prompt>,
  options: GenerateOptions = {}
): Stream.Stream<Generated, GenerateError, Model | Device> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    const { config } = yield* Model
    yield* expectOptions(Options, options, "generate")
    if (!Array.isArray(prompts)) {
      return yield* new DataError({
        detail: `generate takes a list of prompts, got ${prompts}`
      })
    }
    const detail = problem(prompts, options, config)
    if (detail !== undefined) return yield* new DataError({ detail })
    if (prompts.length === 0) return Stream.empty
    const { batchSize = 8, maxNewTokens = 64, seed = 0 } = options
    const draws = streams(prompts, seed)
    const longest = prompts.reduce((most, { tokens }) => Math.max(most, tokens.length), 0)
    const session = yield* Decode.open({
      slots: Math.min(batchSize, prompts.length),
      // the last token needs no place in the cache
      maxLength: Math.min(config.maxPositionEmbeddings, longest + maxNewTokens - 1),
      sinks: options.sinks ?? Sink.own
    })
    const slots: Array<{ readonly prompt: number; readonly text: Growing } | undefined> = Array.from(
      { length: session.slots },
      () => undefined
    )
    let next = 0

    /** The token that a slot's logits give; a sequence that it ends leaves the slot. */
    const take = (slot: number, logits: Float32Array): Generated => {
      const { prompt, text } = slots[slot]!
      const one = text.take(logits, session.length(slot))
      if (one.finish !== undefined) slots[slot] = undefined
      return { prompt, ...one }
    }

    /** Prompts for free slots, or else one more token for every sequence; fails with nothing when all are done. */
    const turn = Effect.gen(function*() {
      const started = slots.flatMap((running, slot) => {
        if (running !== undefined || next === prompts.length) return []
        const { id = 0n, tokens } = prompts[next]!
        session.begin(slot, id, { name: nameOf(prompts, next) })
        slots[slot] = { prompt: next, text: grow(tokens, options, draws[next]!(), config.maxPositionEmbeddings) }
        next++
        return [{ slot, tokens }]
      })
      const fed = started.length > 0
        ? started
        : slots.flatMap((running, slot) => running === undefined ? [] : [{ slot, tokens: [running.text.last] }])
      if (fed.length === 0) return yield* Effect.fail(Option.none())
      const logits = yield* Effect.mapError(started.length > 0 ? session.prompt(fed) : session.step(fed), Option.some)
      return yield* Effect.mapError(
        attempt(() => Chunk.unsafeFromArray(fed.map(({ slot }, i) => take(slot, logits[i]!))), DataError),
        Option.some
      )
    })
    return Stream.repeatEffectChunkOption(turn)
  }))

/** All that `generate` makes of prompts: the tokens of each, without the prompt. */
export const collectAll = (
  prompts: ReadonlyArray<Prompt>,
  options: GenerateOptions = {}
): Effect.Effect<ReadonlyArray<Uint32Array>, GenerateError, Model | Device> =>
  Effect.suspend(() => {
    const texts = Array.from(prompts, (): Array<number> => [])
    return Effect.as(
      Stream.runForEach(generate(prompts, options),
        ({ prompt, token }) => Effect.sync(() => void texts[prompt]!.push(token))),
      texts
    )
  }).pipe(Effect.map((texts) => texts.map((text) => Uint32Array.from(text))))

/** All that `generate` makes of one prompt: its tokens, without the prompt. */
export const collect = (
  prompt: Prompt,
  options: GenerateOptions = {}
): Effect.Effect<Uint32Array, GenerateError, Model | Device> =>
  Effect.map(collectAll([prompt], options), ([tokens]) => tokens!)
