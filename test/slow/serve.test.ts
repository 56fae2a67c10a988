/** Many clients at once: every answer is what its request gives alone, and batching is worth it. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import process from "node:process"
import { expect } from "vitest"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { off, own, placebo, type SinkMode } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { exodus, genesis, model, psalms, serving, tokenizer } from "../serve/toy.ts"

/** Seconds of each number of clients. */
const SECONDS = Number(process.env["MEMSINKS_SOAK"] ?? 8)

const states: ReadonlyArray<readonly [name: string, sinks: SinkMode, id: bigint]> = [
  ["toy:off", off, 0n],
  ["toy:own:Genesis", own, genesis],
  [`toy:own:${exodus}`, own, exodus],
  ["toy:own:Psalms: A", own, psalms],
  ["toy:placebo", placebo, 0n]
]

const quantile = (values: ReadonlyArray<number>, q: number): number =>
  [...values].sort((a, b) => a - b)[Math.floor(q * (values.length - 1))]!

layer(NodeDevice.layer(), { excludeTestServices: true })("64 clients", (it) => {
  it.scoped("get no error and no other state's text, faster than one after another, in memory that stays as it is",
    () =>
      Effect.gen(function*() {
        const service = yield* model
        const body = Effect.gen(function*() {
          const random = makeRandom(4)
          const words = yield* tokenizer
          // few prompts, so that the same ones meet in all states
          const prompts = Array.from({ length: 6 },
            () => Array.from({ length: 1 + random.int(24) }, () => random.int(256)))
          const asked = prompts.flatMap((tokens, p) =>
            states.map(([name, sinks, id], s) => ({
              body: { model: name, prompt: [tokens], max_tokens: 24, temperature: (p + s) % 2, seed: p,
                ignore_eos: true },
              options: { maxNewTokens: 24, temperature: (p + s) % 2, seed: p, sinks },
              prompt: { tokens, id }
            }))
          )
          const want: Array<string> = []
          for (const { options, prompt } of asked) {
            const said = yield* Stream.runCollect(Generate.generate([prompt], { ...options, tokenizer: words }))
            want.push(Array.from(said, ({ text }) => text).join(""))
          }
          expect(new Set(want).size).toBe(want.length)

          const { ask, engine, json } = yield* serving({}, { slots: 64, queue: 256 })
          yield* json("/v1/completions", asked[0]!.body)
          const rates: Array<number> = []
          for (const clients of [1, 8, 64]) {
            const before = engine.counts.newTokens
            const began = performance.now()
            const first: Array<number> = []
            let heap = 0
            yield* Effect.forEach(Array.from({ length: clients }, (_, i) => i), (client) =>
              Effect.gen(function*() {
                for (let round = 0; performance.now() - began < 1000 * SECONDS; round++) {
                  const i = (7 * client + 11 * round) % asked.length
                  const since = performance.now()
                  // some go in the middle
                  if (client > 0 && round % 9 === 8) {
                    const stream = ask("/v1/completions", { ...asked[i]!.body, stream: true })
                    yield* Effect.raceFirst(Effect.zipRight(stream, Effect.never), Effect.sleep(20))
                    continue
                  }
                  if (round % 3 === 2) {
                    const response = yield* ask("/v1/completions", { ...asked[i]!.body, stream: true })
                    const reader = response.body!.getReader()
                    let said = ""
                    yield* Effect.promise(async () => {
                      for (let part = await reader.read(); !part.done; part = await reader.read()) {
                        if (said === "") first.push(performance.now() - since)
                        said += new TextDecoder().decode(part.value)
                      }
                    })
                    const events = said.split("\n\n").filter((event) => event.startsWith("data: {"))
                    expect(events.map((event) => JSON.parse(event.slice(6)).choices[0].text).join("")).toBe(want[i])
                  } else {
                    const got = yield* json("/v1/completions", asked[i]!.body)
                    expect([got.status, got.body.choices?.[0].text], asked[i]!.body.model).toEqual([200, want[i]])
                  }
                  if (heap === 0 && performance.now() - began > 500 * SECONDS) heap = process.memoryUsage().heapUsed
                }
              }), { concurrency: "unbounded" })
            while (engine.counts.running + engine.counts.waiting > 0) yield* Effect.sleep(5)
            const seconds = (performance.now() - began) / 1000
            rates.push((engine.counts.newTokens - before) / seconds)
            const grown = (process.memoryUsage().heapUsed - heap) / 2 ** 20
            process.stderr.write(
              `${clients} clients: ${rates.at(-1)!.toFixed(0)} tokens/s; to the first token p50 ` +
                `${quantile(first, 0.5).toFixed(0)} ms, p99 ${quantile(first, 0.99).toFixed(0)} ms; heap +${
                  grown.toFixed(0)
                } MiB in the second half\n`
            )
            expect(grown).toBeLessThan(256)
          }
          // how many times, the lines tell: 5 to 12 on two cores
          expect(rates[2]!).toBeGreaterThan(rates[0]!)
        })
        yield* Effect.provideService(body, Model, service)
      }), 600_000)
})
