/** `POST /v1/completions`: a request as sequences for the engine, and what comes of them as choices. */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { randomInt, randomUUID } from "node:crypto"
import type { Tokenizer } from "../data/tokens/Tokenizer.ts"
import { DataError } from "../Errors.ts"
import { firstNotFinite } from "../HostTensor.ts"
import * as Generate from "../model/Generate.ts"
import type { TextEnds } from "../model/HuggingFace.ts"
import type { CompletionRequest } from "./Contract.ts"
import type { Engine, Job } from "./Engine.ts"
import { Refusal, wrong } from "./Refusal.ts"
import { type Lit, litBy, type States, watch } from "./State.ts"

/** A model that is served. */
export interface Served extends States {
  readonly engine: Engine
  /** Of what is served, as a text: no two checkpoints have the same. */
  readonly digest: string
  readonly vocabSize: number
  readonly tokenizer: Tokenizer | undefined
  readonly ends: TextEnds
  /** Seconds since 1970 at which it was loaded. */
  readonly created: number
  /** Milliseconds that a request may take. */
  readonly timeout: number
}

/** Models by their names; the first is meant where none is named. */
export type Models = readonly [Served, ...Array<Served>]

/** The model that `NAME` or `NAME:STATE` means. */
export const modelOf = (models: Models, asked: string | undefined): Effect.Effect<Served, Refusal> => {
  if (asked === undefined) return Effect.succeed(models[0])
  const [best] = models.filter(({ name }) => asked === name || asked.startsWith(`${name}:`))
    .sort((a, b) => b.name.length - a.name.length)
  if (best !== undefined) return Effect.succeed(best)
  const names = models.map(({ name }) => JSON.stringify(name)).join(", ")
  return new Refusal({
    status: 404,
    param: "model",
    code: "model_not_found",
    message: `there is no model ${JSON.stringify(asked)}: ` +
      `${models.length === 1 ? "it is" : "they are"} called ${names}, with a state behind it as in "${
        models[0].name
      }:off"`
  })
}

/** The log-probabilities of the k likeliest tokens, the likeliest first and the lowest of equals, and of `token`. */
export const likeliestOf = (logits: Float32Array, k: number, token: number) => {
  const top: Array<number> = []
  for (let v = 0; v < logits.length; v++) {
    if (top.length === k && !(k > 0 && logits[v]! > logits[top[k - 1]!]!)) continue
    let at = top.length
    while (at > 0 && logits[v]! > logits[top[at - 1]!]!) at--
    top.splice(at, 0, v)
    if (top.length > k) top.pop()
  }
  let most = -Infinity
  for (const logit of logits) most = Math.max(most, logit)
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - most)
  // one rule for all of them: that of the likeliest is the same number wherever it stands
  const logProb = (v: number): number => logits[v]! - most - Math.log(sum)
  return { logProb: logProb(token), top: top.map((v) => [v, logProb(v)] as const) }
}

interface Entry {
  readonly token: number
  readonly logProb: number | null
  readonly top: ReadonlyArray<readonly [token: number, logProb: number]> | null
  readonly offset: number
}

type Finish = "stop" | "length"

/** What a choice says, as it comes; `take` gives what is new. */
const choiceOf = (
  request: CompletionRequest,
  tokenizer: Tokenizer | undefined,
  prompt: Prompt,
  ends: ReadonlySet<number>
) => {
  const { echo, logprobs = null } = request
  const { hidden, tokens } = prompt
  const decode = (ids: Iterable<number>): string => tokenizer?.decode(ids) ?? ""
  // where tokens lie in the text, whatever a stop text holds back or cuts
  const place = Generate.detokenizer(decode, [], echo ? [] : tokens)
  let at = 0
  const locate = (token: number, silent = false): number => {
    const offset = at
    if (!silent) at += place.push(token).text.length
    return offset
  }
  let entries: Array<Entry> = []
  let text = ""
  let length = 0
  let count = 0
  let finish: Finish | undefined
  const say = (more: string): void => {
    text += more
    length += more.length
  }
  const entry = (token: number, offset: number, logits: Float32Array | undefined): void => {
    if (logprobs === null) return
    if (logits === undefined) return void entries.push({ token, logProb: null, top: null, offset })
    const bad = firstNotFinite(logits)
    if (bad >= 0) {
      throw new DataError({ detail: `the model's logits are not numbers: that of token ${bad} is ${logits[bad]}` })
    }
    entries.push({ token, offset, ...likeliestOf(logits, logprobs, token) })
  }
  if (echo) {
    say(prompt.text ?? decode(Array.from(tokens)))
    entry(tokens[0]!, locate(tokens[0]!, hidden > 0), undefined)
    if (logprobs === null) { for (let t = 1; t < tokens.length; t++) locate(tokens[t]!) }
  }
  return {
    get count() {
      return count
    },
    every: echo && logprobs !== null
      ? (t: number, logits: Float32Array): void => {
        const token = tokens[t + 1]
        if (token !== undefined) entry(token, locate(token), logits)
      }
      : undefined,
    onToken: (one: Omit<Generate.Generated, "prompt">, logits: Float32Array): void => {
      count++
      entry(one.token, locate(one.token), logits)
      say(one.text)
      if (one.finish !== undefined) finish = one.finish === "stop" ? "stop" : "length"
    },
    /** Nothing was to be added. */
    close: (): void => void (finish ??= "length"),
    take: () => {
      // tokens of a stop text are none of the choice; the token that ends it is
      if (finish === "stop") entries = entries.filter(({ offset, token }) => offset < length || ends.has(token))
      const taken = { text, entries, finish: finish ?? null }
      entries = []
      text = ""
      return {
        text: taken.text,
        logprobs: logprobs === null ? null : logprobsOf(taken.entries, decode, logprobs),
        finish_reason: taken.finish
      }
    }
  }
}

/** As OpenAI has them: an entry a token. Of tokens that decode to the same text, the likelier counts. */
const logprobsOf = (entries: ReadonlyArray<Entry>, decode: (ids: Iterable<number>) => string, k: number) => ({
  tokens: entries.map(({ token }) => decode([token])),
  token_logprobs: entries.map(({ logProb }) => logProb),
  top_logprobs: k === 0 ? null : entries.map(({ logProb, token, top }) => {
    if (top === null || logProb === null) return null
    const by = new Map<string, number>()
    // the token itself is among them, be it ever so unlikely
    for (const [one, its] of [...top, [token, logProb] as const]) {
      const name = decode([one])
      by.set(name, Math.max(by.get(name) ?? -Infinity, its))
    }
    return Object.fromEntries(by)
  }),
  text_offset: entries.map(({ offset }) => offset)
})

interface Prompt {
  readonly tokens: ArrayLike<number>
  /** As it was given. */
  readonly text: string | undefined
  /** Tokens before the text that are none of it. */
  readonly hidden: number
}

/** The prompts of a request as tokens. Fails with a Refusal where one does not fit the model. */
const promptsOf = (served: Served, { prompt }: CompletionRequest): Effect.Effect<ReadonlyArray<Prompt>, Refusal> =>
  Effect.gen(function*() {
    const { ends, engine: { maxLength }, tokenizer, vocabSize } = served
    const list: ReadonlyArray<string | ReadonlyArray<number>> = typeof prompt === "string"
      ? [prompt]
      : typeof prompt[0] === "number"
      ? [prompt as ReadonlyArray<number>]
      : prompt as ReadonlyArray<string | ReadonlyArray<number>>
    if (list.length === 0) return yield* wrong("prompt", "the list of prompts is empty")
    return yield* Effect.forEach(list, (one, i) =>
      Effect.gen(function*() {
        const name = list.length === 1 ? "the prompt" : `prompt ${i + 1}`
        let tokens: ArrayLike<number>
        let hidden = 0
        if (typeof one === "string") {
          if (tokenizer === undefined) {
            return yield* wrong("prompt", "the model has no tokenizer: give prompts as lists of token ids")
          }
          const begin = ends.addBos || one === "" ? ends.bos ?? ends.eos[0] : undefined
          const encoded = tokenizer.encode(one)
          hidden = begin === undefined ? 0 : 1
          tokens = begin === undefined ? encoded : Uint32Array.from([begin, ...encoded])
        } else tokens = one
        if (tokens.length === 0) return yield* wrong("prompt", `${name} is empty: there is no token to go on from`)
        if (tokens.length > maxLength) {
          return yield* wrong(
            "prompt",
            `This model's maximum context length is ${maxLength} tokens, and ${name} has ${tokens.length}: shorten it`,
            "context_length_exceeded"
          )
        }
        for (let t = 0; t < tokens.length; t++) {
          if (!(tokens[t]! < vocabSize)) {
            return yield* wrong(
              "prompt",
              `${name} holds token ${tokens[t]}, outside the model's vocabulary of ${vocabSize}`
            )
          }
        }
        return { tokens, hidden, text: typeof one === "string" ? one : undefined }
      }))
  })

/** What all answers to a request say of it. */
const headOf = (served: Served, request: CompletionRequest, lit: ReadonlyArray<Lit>, seed: number) => {
  const id = `cmpl-${randomUUID()}`
  const created = Math.floor(Date.now() / 1000)
  const told = lit.map(({ id, similarity = null, source = null, state }) => ({
    state,
    id: state === "own" ? `${id}` : null,
    source,
    similarity
  }))
  return () => ({
    id,
    object: "text_completion" as const,
    created,
    model: request.model ?? served.name,
    memsinks: { lit: told, deny_version: served.denied.version, seed }
  })
}

/** The answer to a request: an object, or the data of events. Sequences are given up when the scope closes. */
export const complete = (
  served: Served,
  request: CompletionRequest
): Effect.Effect<
  { readonly json: unknown } | { readonly events: Stream.Stream<string> },
  Refusal,
  Scope.Scope
> =>
  Effect.gen(function*() {
    const { engine, ends, timeout, tokenizer, vocabSize } = served
    const litOf = yield* litBy(served, request.model, request.memsinks)
    const given = yield* promptsOf(served, request)
    const lights = yield* litOf(given)
    const prompts = given.map((prompt, i) => ({ ...prompt, lit: lights[i]! }))
    const stop = (typeof request.stop === "string" ? [request.stop] : request.stop).filter((text) => text !== "")
    if (stop.length > 0 && tokenizer === undefined) {
      return yield* wrong("stop", "the model has no tokenizer: leave stop texts out")
    }
    const logitBias = new Map(Object.entries(request.logit_bias).map(([token, bias]) => [Number(token), bias]))
    for (const token of Object.keys(request.logit_bias)) {
      if (!/^\d+$/.test(token)) return yield* wrong("logit_bias", `${JSON.stringify(token)} is no token id`)
      if (Number(token) >= vocabSize) {
        return yield* wrong("logit_bias", `token ${token} is outside the model's vocabulary of ${vocabSize}`)
      }
    }
    const seed = request.seed ?? randomInt(2 ** 31)
    const options: Job["options"] = {
      maxNewTokens: request.max_tokens,
      temperature: request.temperature,
      topP: request.top_p,
      ...(request.top_k > 0 ? { topK: request.top_k } : {}),
      stop,
      stopTokens: request.ignore_eos ? [] : ends.eos,
      logitBias,
      ...(tokenizer === undefined ? {} : { tokenizer })
    }
    const all = prompts.flatMap((prompt) => Array.from({ length: request.n }, () => prompt))
    const draws = Generate.streams(all.map(({ lit, tokens }) => ({ tokens, id: lit.id })), seed)
    const stopTokens = new Set(options.stopTokens)
    const choices = all.map((prompt) => choiceOf(request, tokenizer, prompt, stopTokens))
    const head = headOf(served, request, prompts.map(({ lit }) => lit), seed)
    const deadline = performance.now() + timeout
    /** Called with a choice that has more to say. */
    let more = (_: number): void => {}
    const jobs = all.map(({ lit, tokens }, i): Job => {
      const { every, onToken } = choices[i]!
      return {
        tokens,
        id: lit.id,
        sinks: lit.sinks,
        config: lit.config,
        state: lit.state,
        within: `${served.digest} ${lit.version}`,
        options,
        draws: draws[i]!(),
        ...(every === undefined ? {} : { every }),
        onToken: (one, logits) => {
          onToken(one, logits)
          more(i)
        },
        refusal: watch(served, lit),
        deadline
      }
    })
    const usage = () => {
      const [given, added] = [
        prompts.reduce((sum, { tokens }) => sum + tokens.length, 0),
        choices.reduce((sum, { count }) => sum + count, 0)
      ]
      return { prompt_tokens: given, completion_tokens: added, total_tokens: given + added }
    }

    if (!request.stream) {
      yield* Effect.flatten(engine.admit(jobs))
      choices.forEach((choice) => choice.close())
      return {
        json: { ...head(), choices: choices.map((choice, index) => ({ index, ...choice.take() })), usage: usage() }
      }
    }

    const queue = yield* Queue.unbounded<string | undefined>()
    const withUsage = request.stream_options?.include_usage === true
    const send = (value: unknown): void => void queue.unsafeOffer(JSON.stringify(value))
    more = (index) => {
      const piece = choices[index]!.take()
      // part of a character, or what may begin a stop text: it comes with what follows
      if (piece.text === "" && piece.finish_reason === null && piece.logprobs === null) return
      send({ ...head(), choices: [{ index, ...piece }], ...(withUsage ? { usage: null } : {}) })
    }
    const done = yield* engine.admit(jobs)
    yield* Effect.forkScoped(done.pipe(
      Effect.match({
        onFailure: ({ body }) => send(body),
        onSuccess: () => {
          if (request.max_tokens === 0) {
            for (const [index, choice] of choices.entries()) {
              choice.close()
              more(index)
            }
          }
          if (withUsage) send({ ...head(), choices: [], usage: usage() })
        }
      }),
      Effect.tap(() => {
        queue.unsafeOffer("[DONE]")
        queue.unsafeOffer(undefined)
      })
    ))
    return {
      events: Stream.fromQueue(queue).pipe(Stream.takeWhile((one) => one !== undefined))
    }
  })
