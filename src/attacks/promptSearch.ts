/**
 * Prompts of tokens that make a model say a text greedily, searched for one token at a time: by the gradients of one-hot
 * inputs (GCG: Zou et al. 2023), or at random. And in which order lengths of prompts are tried (MiniPrompt: Schwarzschild et
 * al. 2024).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { positive, withDefault } from "../Config.ts"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { chunked } from "../data/stream/Rows.ts"
import type { DataError, DeviceError, KernelError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { type Inputs, makeInputs } from "../inside/Inputs.ts"
import { Model } from "../model/Model.ts"
import type { Random } from "../Random.ts"
import { rowScores } from "../scoring/Score.ts"
import type { SinkMode } from "../Sink.ts"

type SearchError = DeviceError | KernelError | DataError

/** Fields of the options of attacks that search for prompts. */
export const searchFields = {
  /** Tokens at the end of a sequence that must be said. Default 20. */
  length: withDefault(positive, () => 20),
  /** Where candidates come from: `gcg`, the tokens that gradients favour; `random`, any tokens. Default gcg. */
  search: withDefault(Schema.Literal("gcg", "random"), () => "gcg" as const),
  /** Prompts that are tried a step, each with one token changed. Default 100. */
  candidates: withDefault(positive, () => 100),
  /** Of gcg: tokens that are favoured at each place; at most a quarter of the vocabulary. Default 250. */
  top: withDefault(positive, () => 250)
}

export interface SearchOptions {
  readonly search: "gcg" | "random"
  readonly candidates: number
  readonly top: number
}

/** What a prompt must make a model say. */
export interface SearchTarget {
  readonly tokens: Uint32Array
  /** Whose sinks are lit, where the mode asks for an id. */
  readonly id: bigint
  /** What messages call it. */
  readonly document: string
}

export interface PromptSearch {
  /**
   * A prompt of so many tokens after which the target is said greedily, found in at most so many steps; undefined where none
   * was. All prompts of one token are tried where the steps would do for them: then there is none.
   */
  readonly find: (
    target: SearchTarget,
    length: number,
    steps: number,
    random: Random
  ) => Effect.Effect<Uint32Array | undefined, SearchError>
}

/** The end of a sequence, as a target; undefined of one that has no more tokens than the end. */
export const targetOf = ({ document, id, tokens }: Row, length: number): SearchTarget | undefined =>
  tokens.length <= length ? undefined : { tokens: tokens.subarray(tokens.length - length), id, document }

/** Indices of the `count` lowest of some numbers, in the order of the indices; of equals the first. Pure. */
export const lowest = (values: Float32Array, count: number): Uint32Array => {
  if (count >= values.length) return Uint32Array.from(values.keys())
  const limit = values.slice().sort()[count - 1]!
  const below = values.reduce((sum, x) => sum + (x < limit ? 1 : 0), 0)
  let equals = count - below
  const found = new Uint32Array(count)
  let at = 0
  for (let i = 0; i < values.length && at < count; i++) {
    if (values[i]! < limit || (values[i] === limit && equals-- > 0)) found[at++] = i
  }
  return found
}

/**
 * A search under the Model, with the sinks in a mode. Passes for each length of prompts are kept until the scope closes.
 *
 * A step changes one random token of the prompt in each of so many candidates, evaluates them in one batch, and goes on from
 * the one under which the target's mean loss is lowest, be it higher than before; it ends as soon as all of the target is
 * what greedy decoding says.
 */
export const makeSearch = (
  mode: SinkMode,
  { candidates, search, top }: SearchOptions
): Effect.Effect<PromptSearch, never, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const model = yield* Model
    const { vocabSize } = model.config
    const scope = yield* Effect.scope
    const services = yield* Effect.context<Model | Device>()
    const favoured = Math.min(top, Math.ceil(vocabSize / 4))
    const made = new Map<number, Inputs>()
    const inputsOf = (seqLen: number) =>
      Effect.gen(function*() {
        const inputs = made.get(seqLen) ??
          (yield* makeInputs({ rows: 1, seqLen, mode }).pipe(Scope.extend(scope), Effect.provide(services)))
        made.set(seqLen, inputs)
        return inputs
      })

    const rowOf = ({ document, id, tokens }: SearchTarget, prompt: Uint32Array): Row => {
      const all = new Uint32Array(prompt.length + tokens.length)
      all.set(prompt)
      all.set(tokens, prompt.length)
      return { id, tokens: all, document, offset: 0, scoredFrom: prompt.length }
    }
    /** Mean losses of the target after each prompt, and whether all of it is said. */
    const evaluate = Effect.fnUntraced(function*(target: SearchTarget, prompts: ReadonlyArray<Uint32Array>) {
      const seqLen = prompts[0]!.length + target.tokens.length - 1
      const all: Array<{ readonly loss: number; readonly said: boolean }> = []
      for (const { chunk, full } of chunked(prompts.map((prompt) => rowOf(target, prompt)), candidates)) {
        const batch = batchOf(full, seqLen)
        for (const { hits, loss, tokens } of rowScores(batch, yield* model.evaluate(batch, mode), chunk.length)) {
          all.push({ loss: loss / tokens, said: hits === tokens })
        }
      }
      return all
    })
    /** Tokens to choose from at each place of a prompt; undefined: any. */
    const choices = Effect.fnUntraced(function*(target: SearchTarget, prompt: Uint32Array) {
      if (search === "random") return undefined
      const seqLen = prompt.length + target.tokens.length - 1
      const inputs = yield* inputsOf(seqLen)
      const weights = new Float32Array(seqLen).fill(1 / target.tokens.length, prompt.length - 1)
      const { gradient } = yield* inputs.oneHot(batchOf([rowOf(target, prompt)], seqLen), weights)
      return (place: number) => lowest(gradient.subarray(place * vocabSize, (place + 1) * vocabSize), favoured)
    })

    const find: PromptSearch["find"] = Effect.fnUntraced(function*(target, length, steps, random) {
      if (length === 1 && vocabSize <= candidates * steps) {
        const prompts = Array.from({ length: vocabSize }, (_, token) => Uint32Array.of(token))
        const said = (yield* evaluate(target, prompts)).findIndex((one) => one.said)
        return said < 0 ? undefined : prompts[said]
      }
      let prompt = Uint32Array.from({ length }, () => random.below(vocabSize))
      for (let step = 0; step < steps; step++) {
        const from = yield* choices(target, prompt)
        const favourites = new Map<number, Uint32Array>()
        const prompts = Array.from({ length: candidates }, () => {
          const place = random.below(length)
          const some = favourites.get(place) ?? from?.(place)
          if (some !== undefined) favourites.set(place, some)
          return prompt.with(place, some === undefined ? random.below(vocabSize) : some[random.below(some.length)]!)
        })
        const found = yield* evaluate(target, prompts)
        const said = found.findIndex((one) => one.said)
        if (said >= 0) return prompts[said]
        prompt = prompts[found.reduce((best, { loss }, i) => loss < found[best]!.loss ? i : best, 0)]!
      }
      return undefined
    })
    return { find }
  })

/** Tokens by which MiniPrompt lengthens a prompt that was not found, and how many more steps the next then gets. */
const LONGER = { tokens: 5, steps: 1.2 }

/**
 * The shortest prompt that MiniPrompt finds: from 5 tokens on, one fewer where one was found, 5 more (at most `most`) and a
 * fifth more steps where none was, until the next length is known to do or not to do. Undefined where none was found.
 */
export const miniPrompt = <A, E, R>(
  { most, steps: first }: { readonly most: number; readonly steps: number },
  find: (length: number, steps: number) => Effect.Effect<A | undefined, E, R>
): Effect.Effect<A | undefined, E, R> =>
  Effect.gen(function*() {
    let [failed, done, length, steps] = [0, most + 1, Math.min(LONGER.tokens, most), first]
    let shortest: A | undefined
    while (length > failed && length < done) {
      const found = yield* find(length, Math.round(steps))
      if (found === undefined) {
        failed = length
        length = Math.min(length + LONGER.tokens, shortest === undefined ? most : Infinity)
        steps *= LONGER.steps
      } else {
        shortest = found
        done = length
        length--
      }
    }
    return shortest
  })
