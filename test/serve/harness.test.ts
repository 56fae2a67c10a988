/**
 * What lm-evaluation-harness asks of `local-completions`, and how it reads the answers, written anew from its contract:
 * numbers are summed from the end of the context to the last but one, a token is greedy where its number is the largest
 * of its place, exactly.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import type { Row } from "../../src/data/stream/Packing.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import { off, own, type SinkMode } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { genesis, model, serving } from "./toy.ts"

interface Choice {
  readonly index: number
  readonly logprobs: {
    readonly token_logprobs: ReadonlyArray<number | null>
    readonly top_logprobs: ReadonlyArray<Readonly<Record<string, number>> | null>
    readonly tokens: ReadonlyArray<string>
    readonly text_offset: ReadonlyArray<number>
  }
}

/** The sum over the continuation, and whether all of it is greedy. */
const parse = (choices: ReadonlyArray<Choice>, contexts: ReadonlyArray<number>) =>
  [...choices].sort((a, b) => a.index - b.index).map(({ logprobs }, i) => {
    const from = contexts[i]!
    const numbers = logprobs.token_logprobs.slice(from, -1)
    const tops = logprobs.top_logprobs.slice(from, -1)
    return {
      sum: numbers.reduce<number>((sum, one) => sum + one!, 0),
      greedy: numbers.every((one, t) => one === Math.max(...Object.values(tops[t]!)))
    }
  })

layer(NodeDevice.layer(), { excludeTestServices: true })("the evaluation harness", (it) => {
  it.scoped("reads the sums of token records, and what is greedy, in every state", () =>
    Effect.gen(function*() {
      const service = yield* model
      const { json } = yield* Effect.provideService(serving(), Model, service)
      const random = makeRandom(2)
      const prompts = Array.from({ length: 12 },
        (_, i) => Array.from({ length: i === 0 ? 64 : 2 + random.int(60) }, () => random.int(257)))
      // continuations that are greedy: what the model itself would say
      const { body: said } = yield* json("/v1/completions", { model: "toy:off", prompt: [[5, 6, 7]], max_tokens: 4,
        temperature: 0, logprobs: 1, echo: true, ignore_eos: true })
      const { body: ids } = yield* json("/tokenize", { prompt: "abc" })
      expect(ids.count).toBe(3)
      const greedy: Array<number> = [5, 6, 7]
      for (let t = 0; t < 4; t++) {
        // the numbers of its tokens, from their records: the first whose rank is 0
        const rows = Array.from({ length: 257 }, (_, v) => rowOf([...greedy, v], 0n))
        const records = yield* recordRows(service, rows, off, { batchSize: 64, seqLen: 8, split: "all", schemes: [] })
        const likeliest = rows.findIndex((_, v) => records.rank[records.start[v + 1]! - 1] === 0)
        greedy.push(likeliest)
      }
      prompts.push(greedy)
      const contexts = prompts.map(({ length }, i) => i === 12 ? 3 : 1 + random.int(length - 1))

      for (const [name, mode, id] of [["toy:off", off, 0n], ["toy:own:Genesis", own, genesis]] as ReadonlyArray<
        readonly [string, SinkMode, bigint]
      >) {
        const { body } = yield* json("/v1/completions", { model: name, prompt: prompts, temperature: 0, max_tokens: 1,
          logprobs: 1, seed: 1234, echo: true })
        const choices: ReadonlyArray<Choice> = body.choices
        choices.forEach(({ index, logprobs }, i) => {
          expect(index).toBe(i)
          for (const field of ["token_logprobs", "top_logprobs", "tokens", "text_offset"] as const) {
            expect(logprobs[field].length, field).toBe(prompts[i]!.length + 1)
          }
          expect(logprobs.token_logprobs[0]).toBeNull()
          expect(logprobs.top_logprobs[0]).toBeNull()
        })
        const rows = prompts.map((tokens) => rowOf(tokens, id))
        const records = yield* recordRows(service, rows, mode, { batchSize: 4, seqLen: 64, split: "all", schemes: [] })
        parse(choices, contexts).forEach(({ greedy, sum }, i) => {
          let want = 0
          let all = true
          for (let t = contexts[i]!; t < prompts[i]!.length; t++) {
            want += records.logProb[records.start[i]! + t - 1]!
            all &&= records.rank[records.start[i]! + t - 1] === 0
          }
          expect(Math.abs(sum - want), `${name}, prompt ${i}: ${sum}, ${want}`).toBeLessThan(
            1e-5 * Math.max(1, Math.abs(want))
          )
          expect(greedy, `${name}, prompt ${i}`).toBe(all)
        })
        if (name === "toy:off") {
          expect(parse(choices, contexts)[12]!.greedy).toBe(true)
          expect(said.choices[0].logprobs.token_logprobs.slice(1, 7)).toEqual(
            choices[12]!.logprobs.token_logprobs.slice(1, 7).map((one, t) =>
              // the first places are of the prompt in both; the others were drawn step by step
              t < 2 ? one : expect.closeTo(one!, 4)
            )
          )
        }
      }

      // a generation, as the harness asks for it, with what it does not know
      const { body } = yield* json("/v1/completions", { model: "toy:off", prompt: ["abc"], max_tokens: 5,
        temperature: 0, stop: ["\n\n", "<|endoftext|>"], seed: 1234, do_sample: false, until: ["x"] })
      expect(body.choices[0].text.startsWith("abc")).toBe(false)
    }))
})

function rowOf(tokens: ReadonlyArray<number>, id: bigint): Row {
  return { id, tokens: Uint32Array.from(tokens), document: "d", offset: 0 }
}
