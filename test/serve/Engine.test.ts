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
import { off, own, placebo, type SinkMode, unitsOf } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { config, exodus, genesis, model, modelOf, psalms } from "./toy.ts"

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
    within: "",
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

  it.scoped(
    "takes over what a prompt begins with only from the same units, deny-list and checkpoint: to the bit what is cold",
    () =>
      Effect.gen(function*() {
        const tokens = Array.from({ length: 45 }, (_, t) => (11 * t) % 256)
        const make = Engine.make({ slots: 3, maxLength: 64, queue: 9, pages: 30 })
        /** The logits that follow the prompt and each of four tokens more, and how much of the prompt was taken over. */
        const ask = (engine: Engine.Engine, [sinks, id]: readonly [SinkMode, bigint], within: string,
          more: object = {}) =>
          Effect.gen(function*() {
            const logits: Array<Float32Array> = []
            const before = engine.counts.reusedTokens
            const { job } = jobOf(
              { tokens, id, sinks, seed: 0, options: { maxNewTokens: 5, temperature: 0 } },
              { within, onToken: (_, one) => void logits.push(one.slice()), ...more }
            )
            yield* Effect.scoped(Effect.flatten(engine.admit([job])))
            return { logits, reused: engine.counts.reusedTokens - before }
          })
        const cold = (state: readonly [SinkMode, bigint]) =>
          Effect.scoped(Effect.gen(function*() {
            const engine = yield* make
            yield* Effect.forkScoped(engine.run)
            return yield* ask(engine, state, "")
          }))
        const running = Effect.gen(function*() {
          const engine = yield* make
          yield* Effect.forkScoped(engine.run)
          return engine
        })
        const other = yield* modelOf(4)
        yield* withModel(Effect.gen(function*() {
          const engine = yield* running
          const theirs = yield* Effect.provideService(running, Model, other)
          const want = yield* Effect.forEach(modes, cold)
          expect(new Set(want.map(({ logits }) => String(logits[0]))).size).toBe(modes.length)
          const elsewhere = yield* Effect.provideService(cold(modes[1]!), Model, other)
          expect(elsewhere.logits).not.toEqual(want[1]!.logits)
          // one after the other, and again: what the second time is taken over was computed by the first
          for (const [version, reused] of [["1", 0], ["1", 32], ["2", 0], ["1", 32], ["2", 32]] as const) {
            for (const i of [1, 0, 3, 2, 4]) {
              const got = yield* ask(engine, modes[i]!, version)
              expect(got.reused, `${version}, state ${i}`).toBe(reused)
              expect(got.logits, `${version}, state ${i}`).toEqual(want[i]!.logits)
            }
          }
          expect(yield* ask(theirs, modes[1]!, "1")).toEqual(elsewhere)
          expect((yield* ask(theirs, modes[1]!, "1")).logits).toEqual(elsewhere.logits)
          // at once: one of each state reads, the others wait for it; whoever wants every logit reads all
          const many = yield* Effect.forEach([1, 0, 1, 1, 0, 3, 1],
            (i) => Effect.map(ask(engine, modes[i]!, "3"), ({ logits }) => expect(logits).toEqual(want[i]!.logits)), {
            concurrency: "unbounded"
          })
          expect(many.length).toBe(7)
          const places: Array<number> = []
          const every = yield* ask(engine, modes[1]!, "3", { every: (place: number) => void places.push(place) })
          expect([every.reused, every.logits]).toEqual([0, want[1]!.logits])
          expect(places).toEqual([...tokens.keys()])
          // who is left out but shares no unit changes nothing, and who shares one does
          const shares = unitsOf(config.sinks!, psalms).some((unit) => unitsOf(config.sinks!, genesis).includes(unit))
          const without = yield* ask(engine, [{ mode: "own", except: [psalms] }, genesis], "3")
          expect(without.reused).toBe(shares ? 0 : 32)
          // pages are given back between two turns
          while (engine.pages.held > 0) yield* Effect.sleep(1)
        }))
      })
  )

  it.scoped("begins a sequence when there are pages for all of it, in turn", () =>
    withModel(Effect.gen(function*() {
      // four pages: one sequence of 64 tokens, or two of 32
      const engine = yield* Engine.make({ slots: 4, maxLength: 64, queue: 9, pages: 4 })
      const most: Array<number> = []
      const ask = (length: number, maxNewTokens: number, id = 0n) => {
        const one: Asked = { tokens: Array.from({ length }, (_, t) => t), id, sinks: own, seed: 0,
          options: { maxNewTokens, temperature: 0 } }
        const { got, job } = jobOf(one)
        const watched = { ...job, onToken: (...said: Parameters<typeof job.onToken>) => {
          most.push(engine.pages.held)
          job.onToken(...said)
        } }
        return Effect.gen(function*() {
          yield* Effect.scoped(Effect.flatten(engine.admit([watched])))
          expect(got).toEqual(yield* cold(one))
        })
      }
      yield* Effect.forkScoped(engine.run)
      yield* Effect.forEach([[20, 13], [20, 13], [3, 62], [20, 13], [64, 1], [1, 1]] as const,
        ([length, more], i) => ask(length, more, BigInt(i)), { concurrency: "unbounded" })
      expect(Math.max(...most)).toBe(4)
      const none = yield* Effect.either(Engine.make({ slots: 4, maxLength: 64, queue: 9, pages: 3 }))
      expect(none).toMatchObject({ left: { _tag: "DataError", detail: expect.stringContaining("takes 4 pages") } })
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
