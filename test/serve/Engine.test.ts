import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import { expect } from "vitest"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Engine from "../../src/serve/Engine.ts"
import { Refusal } from "../../src/serve/Refusal.ts"
import { off, own, placebo, type SinkMode } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { exodus, genesis, model } from "./toy.ts"

const withModel = <A, E, R>(test: Effect.Effect<A, E, R | Model>) =>
  Effect.gen(function*() {
    return yield* Effect.provideService(test, Model, yield* model)
  })

interface Asked {
  readonly tokens: ReadonlyArray<number>
  readonly id: bigint
  readonly sinks: SinkMode
  readonly options: Generate.GenerateOptions
  readonly seed: number
}

const jobOf = ({ id, options, seed, sinks, tokens }: Asked, more: Partial<Engine.Job> = {}) => {
  const got: Array<number> = []
  const job: Engine.Job = {
    tokens,
    id,
    sinks,
    state: sinks.mode,
    options,
    draws: Generate.streams([{ tokens, id }], seed)[0]!(),
    onToken: ({ token }) => void got.push(token),
    ...more
  }
  return { got, job }
}

/** What the request gives alone, from nothing. */
const cold = ({ id, options, seed, sinks, tokens }: Asked) =>
  Effect.map(Generate.collect({ tokens, id }, { ...options, seed, sinks }), (tokens) => [...tokens])

const modes: ReadonlyArray<readonly [SinkMode, bigint]> = [
  [off, 0n],
  [own, genesis],
  [own, exodus],
  [placebo, 0n],
  [{ mode: "own", except: [exodus] }, genesis]
]

layer(NodeDevice.layer(), { excludeTestServices: true })("an engine", (it) => {
  it.scoped("gives what each request gives alone, whatever is beside it: states, lengths, choices, comings and goings", () =>
    withModel(Effect.gen(function*() {
      const random = makeRandom(11)
      const asked = Array.from({ length: 24 }, (_, i): Asked => {
        const [sinks, id] = modes[i % modes.length]!
        // one is longer than what is read at once, so that the reading of the others is cut at other places
        const length = i === 3 ? 530 : 1 + random.int(30)
        return {
          tokens: i < 10 ? [1, 2, 3, 4] : Array.from({ length }, () => random.int(256)),
          id,
          sinks,
          seed: i % 3,
          options: {
            maxNewTokens: 1 + random.int(7),
            temperature: i % 2,
            topP: 0.9,
            ...(i % 4 === 0 ? { topK: 20 } : {}),
            ...(i % 5 === 0 ? { logitBias: new Map([[7, 5], [8, -100]]) } : {})
          }
        }
      })
      asked[3] = { ...asked[3]!, tokens: Array.from({ length: 530 }, (_, t) => (7 * t) % 256) }
      const want: Array<ReadonlyArray<number>> = []
      for (const one of asked) want.push(yield* cold(one))
      // the same prompt says something else in other states, or nothing would be shown here
      const greedy = modes.map(([sinks, id]) => ({ tokens: [1, 2, 3, 4], id, sinks, seed: 0,
        options: { maxNewTokens: 8, temperature: 0 } })
      )
      expect(new Set((yield* Effect.forEach(greedy, cold)).map(String)).size).toBe(modes.length)

      const engine = yield* Engine.make({ slots: 9, maxLength: 1024, queue: 100 })
      yield* Effect.forkScoped(engine.run)
      // some come while others are under way, and some of these go
      yield* Effect.forEach(asked, (one, i) =>
        Effect.gen(function*() {
          yield* Effect.sleep(7 * i)
          const { got, job } = jobOf(one)
          const serve = Effect.scoped(Effect.flatten(engine.admit([job])))
          if (i % 6 !== 5) {
            yield* serve
            expect(got, `request ${i}`).toEqual(want[i])
          } else yield* Effect.raceFirst(serve, Effect.sleep(20))
        }), { concurrency: "unbounded" })
      expect(engine.counts).toMatchObject({ running: 0, waiting: 0 })
    })))

  it.scoped("bounds its queue, ends what takes too long or may not be lit any more, and what nobody waits for", () =>
    withModel(Effect.gen(function*() {
      const engine = yield* Engine.make({ slots: 1, maxLength: 64, queue: 2 })
      const one: Asked = { tokens: [1, 2], id: 0n, sinks: off, seed: 0, options: { maxNewTokens: 62, temperature: 0 } }
      const admit = (...jobs: ReadonlyArray<Engine.Job>) => Effect.either(engine.admit(jobs))
      const { job } = jobOf(one)
      expect(Either.isRight(yield* admit(job))).toBe(true)
      const leaving = yield* Effect.forkScoped(Effect.scoped(Effect.zipRight(engine.admit([job, job]), Effect.never)))
      yield* Effect.yieldNow()
      expect(engine.counts.waiting).toBe(3)
      expect(yield* admit(job)).toMatchObject({ left: { status: 429, retryAfter: 1 } })
      expect(yield* admit(job, job, job)).toMatchObject({ left: { status: 400 } })
      yield* Fiber.interrupt(leaving)
      expect(engine.counts.waiting).toBe(1)

      yield* Effect.forkScoped(engine.run)
      const serve = (job: Engine.Job) => Effect.either(Effect.scoped(Effect.flatten(engine.admit([job]))))
      // from one token to the next
      let heard = 0
      const denied = new Refusal({ status: 403, message: "denied" })
      const stops = { onToken: () => void heard++, refusal: () => (heard >= 3 ? denied : undefined) }
      expect(yield* serve(jobOf(one, stops).job)).toEqual(Either.left(denied))
      expect(heard).toBe(3)
      expect(yield* serve(jobOf(one, { deadline: performance.now() - 1 }).job)).toMatchObject({ left: { status: 504 } })
      // logits that are not numbers end their own request
      const bad = jobOf({ ...one, options: { maxNewTokens: 1, logitBias: new Map([[1, NaN]]) } })
      const good = jobOf(one)
      const [lost, kept] = yield* Effect.all([serve(bad.job), serve(good.job)], { concurrency: 2 })
      expect(lost).toMatchObject({ left: { status: 500 } })
      expect(Either.isRight(kept)).toBe(true)
      expect(good.got).toEqual(yield* cold(one))

      const last = yield* Effect.forkScoped(serve(job))
      yield* Effect.yieldNow()
      expect(yield* engine.drain(0)).toBe(false)
      expect(yield* Fiber.join(last)).toMatchObject({ left: { status: 503 } })
      expect(yield* serve(job)).toMatchObject({ left: { status: 503 } })
    })))
})
