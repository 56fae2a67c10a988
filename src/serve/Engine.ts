/**
 * Continuous batching: sequences of many requests in one decoding session, each with sinks of its own. A sequence takes
 * a slot as soon as one is free and leaves it with its last token, when whoever asked has gone, when its time is up, and
 * when its sinks may no longer be lit. It gives the tokens that `Generate` gives of the same prompt alone.
 *
 * A sequence begins when the cache has pages for all that it may come to, so that none has to be given up for another. What
 * a prompt's beginning has in common with an earlier one is taken from there, within the same text and units (`Pages`).
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { attempt, DataError, type DeviceError, type KernelError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import * as Decode from "../model/Decode.ts"
import * as Generate from "../model/Generate.ts"
import type { Model } from "../model/Model.ts"
import type { Random } from "../Random.ts"
import type { SinkConfig, SinkMode } from "../Sink.ts"
import { Refusal } from "./Refusal.ts"

/** A sequence to be continued. */
export interface Job {
  /** One at least, and at most as many as the engine's sequences have. */
  readonly tokens: ArrayLike<number>
  readonly id: bigint
  readonly sinks: SinkMode
  /** The model's sinks, with what is off while it is served. Default: as the model says. */
  readonly config?: SinkConfig | undefined
  /** Which state that is, for the numbers. */
  readonly state: string
  /** What prefixes are shared within, besides the units that are lit: all else that may change what is served. */
  readonly within: string
  /** `maxNewTokens` may be 0: the prompt is only read. */
  readonly options: Omit<Generate.GenerateOptions, "sinks" | "seed" | "batchSize">
  readonly draws: Random
  /** Is handed the logits after each token of the prompt, by its place; a view that is not to be kept. */
  readonly every?: (place: number, logits: Float32Array) => void
  /** Is handed each new token with the logits that it was drawn from. */
  readonly onToken: (one: Omit<Generate.Generated, "prompt">, logits: Float32Array) => void
  /** Is asked before every token: why its sinks may not be lit any more. */
  readonly refusal?: () => Refusal | undefined
  /** By `performance.now()`. */
  readonly deadline?: number
}

export interface EngineOptions {
  /** Sequences at once. */
  readonly slots: number
  /** Tokens of a sequence, prompt included. */
  readonly maxLength: number
  /** Sequences that wait at most. */
  readonly queue: number
  /** Pages of the cache: see `Decode.SessionOptions`. */
  readonly pages?: number
}

/** Upper ends of the classes of times to the first token, in seconds. */
export const FIRST_TOKEN = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const

/** What an engine did and does. */
export interface Counts {
  running: number
  waiting: number
  promptTokens: number
  /** Those of them that were taken over from earlier prompts. */
  reusedTokens: number
  newTokens: number
  /** Sequences that were begun, by the state of their sinks. */
  readonly begun: Map<string, number>
  /** Sequences by their time to the first token: of each class, and behind the last; and the sum of the times. */
  readonly firstToken: Array<number>
  firstTokenSum: number
}

export interface Engine {
  readonly slots: number
  readonly maxLength: number
  readonly pages: Decode.Session["pages"]
  readonly counts: Counts
  /**
   * Takes all sequences of a request, or none: a Refusal with status 429 where too many wait already. Gives what waits for
   * them; it fails with the first Refusal of one, and the others are given up. When the scope closes, what is left is.
   */
  readonly admit: (
    jobs: ReadonlyArray<Job>
  ) => Effect.Effect<Effect.Effect<void, Refusal>, Refusal, Scope.Scope>
  /** No more is taken; succeeds when nothing is left, or with false when the milliseconds are over. */
  readonly drain: (milliseconds: number) => Effect.Effect<boolean>
  /** Runs until it is interrupted. Fails where the device fails; who waits is told. */
  readonly run: Effect.Effect<never, DeviceError | KernelError>
}

/** Jobs of one request. */
interface Ticket {
  left: number
  failed: Refusal | undefined
  /** Who waits for it. */
  done: ((ticket: Ticket) => void) | undefined
}

interface Sequence {
  readonly job: Job
  readonly ticket: Ticket
  readonly since: number
  readonly text: Generate.Growing
  /** Tokens of the prompt that the slot holds. */
  fed: number
  started: boolean
}

const stopped = (message: string, status: 500 | 503 = 503): Refusal => new Refusal({ status, message })

/** An engine on a model; nothing moves before `run`. Memory for the caches is taken until the scope closes. */
export const make = (
  options: EngineOptions
): Effect.Effect<Engine, DeviceError | KernelError | DataError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const { maxLength, queue } = options
    const session = yield* Decode.open({
      slots: options.slots,
      maxLength,
      ...(options.pages === undefined ? {} : { pages: options.pages }),
      checked: false
    })
    const slots: Array<Sequence | undefined> = Array.from({ length: session.slots }, () => undefined)
    let waiting: Array<Sequence> = []
    let draining = false
    let broken: Refusal | undefined
    const wake = Effect.unsafeMakeLatch(false)
    const counts: Counts = {
      get running() {
        return slots.filter((one) => one !== undefined).length
      },
      get waiting() {
        return waiting.length
      },
      promptTokens: 0,
      reusedTokens: 0,
      newTokens: 0,
      begun: new Map(),
      firstToken: [...FIRST_TOKEN, Infinity].map(() => 0),
      firstTokenSum: 0
    }

    /** Takes what belongs to a ticket out of the queue and the slots. */
    const drop = (ticket: Ticket): void => {
      waiting = waiting.filter((one) => one.ticket !== ticket)
      for (const [slot, one] of slots.entries()) if (one?.ticket === ticket) slots[slot] = undefined
    }
    const settle = (ticket: Ticket, failed?: Refusal): void => {
      if (failed !== undefined) {
        ticket.failed = failed
        ticket.left = 0
        drop(ticket)
      }
      if (ticket.left === 0) ticket.done?.(ticket)
    }
    const tickets = (): ReadonlySet<Ticket> =>
      new Set([...waiting, ...slots].flatMap((one) => one === undefined ? [] : [one.ticket]))
    const failAll = (refusal: Refusal): void => {
      for (const ticket of tickets()) settle(ticket, refusal)
    }

    /** Ends what may not go on. */
    const sweep = (): void => {
      const now = performance.now()
      for (const { job, ticket } of [...waiting, ...slots.filter((one) => one !== undefined)]) {
        if (ticket.failed !== undefined) continue
        const refusal = job.deadline !== undefined && now > job.deadline
          ? new Refusal({ status: 504, code: "timeout", message: "the request took longer than the server allows" })
          : job.refusal?.()
        if (refusal !== undefined) settle(ticket, refusal)
      }
    }

    /** A slot's sequence has no more to say. */
    const leave = (slot: number): void => {
      const { ticket } = slots[slot]!
      slots[slot] = undefined
      ticket.left--
      settle(ticket)
    }
    const tell = (seconds: number): void => {
      counts.firstToken[[...FIRST_TOKEN, Infinity].findIndex((end) => seconds <= end)]!++
      counts.firstTokenSum += seconds
    }
    /** Does something with a slot's sequence, if it is still there. */
    const of = (slot: number, one: Sequence, body: () => void): void => {
      if (slots[slot] !== one) return
      try {
        body()
      } catch (error) {
        // logits that are not numbers are one sequence's trouble, not that of those beside it
        if (!(error instanceof DataError)) throw error
        settle(one.ticket, stopped(error.message, 500))
      }
    }
    /** What the logits give a slot's sequence. */
    const take = (slot: number, one: Sequence, logits: Float32Array): void =>
      of(slot, one, () => {
        if (one.job.options.maxNewTokens === 0) return leave(slot)
        const token = one.text.take(logits, session.length(slot))
        if (!one.started) tell((performance.now() - one.since) / 1000)
        one.started = true
        counts.newTokens++
        one.job.onToken(token, logits)
        if (token.finish !== undefined) leave(slot)
      })

    /** Gives back what was left. Only between turns: what is under way may still write to its pages. */
    const clear = (): void => {
      for (const [slot, one] of slots.entries()) if (one === undefined) session.end(slot)
    }
    /**
     * Sequences that wait into free slots, the lowest first: a step computes the slots up to the highest in use. None goes
     * before the first for whose pages there is no room.
     */
    const begin = (): void => {
      for (let slot = 0; slot < slots.length && waiting.length > 0; slot++) {
        if (slots[slot] !== undefined) continue
        const one = waiting[0]!
        const { config, every, id, options, sinks, tokens: prompt, within } = one.job
        // the last token needs no place in the cache
        const length = prompt.length + Math.max(0, (options.maxNewTokens ?? maxLength) - 1)
        // whose logits are wanted is computed
        const shared = every === undefined ? { shared: { prompt, within } } : {}
        if (!session.begin(slot, id, { sinks, config, length, ...shared })) return
        waiting.shift()
        slots[slot] = one
        counts.begun.set(one.job.state, (counts.begun.get(one.job.state) ?? 0) + 1)
      }
    }

    /** A chunk of the prompts that are not read, so that the others need not wait long; then a token for each other. */
    const turn = Effect.gen(function*() {
      sweep()
      clear()
      begin()
      let room = Decode.CHUNK
      /** Pages that are filled in this turn: who wants an equal one takes it over in the next. */
      const filled = new Set<string>()
      const prompts: Array<{ readonly slot: number; readonly one: Sequence; readonly fed: Decode.Fed }> = []
      const steps: Array<{ readonly slot: number; readonly one: Sequence }> = []
      for (const [slot, one] of slots.entries()) {
        if (one === undefined) continue
        const { every, tokens } = one.job
        if (one.fed === tokens.length) steps.push({ slot, one })
        else if (room > 0) {
          const first = session.reuse(slot)
          counts.promptTokens += first - one.fed
          counts.reusedTokens += first - one.fed
          one.fed = first
          const next = session.next(slot)
          if (next !== undefined) {
            if (filled.has(next)) continue
            filled.add(next)
          }
          const part = Array.prototype.slice.call(tokens, first, first + room) as Array<number>
          one.fed += part.length
          room -= part.length
          counts.promptTokens += part.length
          const telling = every === undefined ? {} : {
            every: (place: number, logits: Float32Array) => of(slot, one, () => every(first + place, logits))
          }
          prompts.push({ slot, one, fed: { slot, tokens: part, ...telling } })
        }
      }
      if (prompts.length > 0) {
        const logits = yield* session.prompt(prompts.map(({ fed }) => fed))
        yield* attempt(() =>
          prompts.forEach(({ one, slot }, i) => {
            if (one.fed === one.job.tokens.length) take(slot, one, logits[i]!)
          }), DataError)
      }
      const alive = steps.filter(({ one, slot }) => slots[slot] === one)
      if (alive.length > 0) {
        const logits = yield* session.step(alive.map(({ one, slot }) => ({ slot, tokens: [one.text.last] })))
        yield* attempt(() => alive.forEach(({ one, slot }, i) => take(slot, one, logits[i]!)), DataError)
      }
      // who comes and who goes is heard between two turns
      yield* Effect.yieldNow()
    })

    const run: Engine["run"] = Effect.gen(function*() {
      while (true) {
        if (waiting.length === 0 && slots.every((one) => one === undefined)) {
          clear()
          wake.unsafeClose()
          yield* wake.await
        }
        yield* turn
      }
    }).pipe(
      // what a session refuses was checked before: a bug
      Effect.catchTag("DataError", Effect.die),
      Effect.onExit(() =>
        Effect.sync(() => {
          broken = stopped("the server stopped")
          failAll(broken)
        })
      )
    )

    const admit: Engine["admit"] = (jobs) =>
      Effect.acquireRelease(
        Effect.suspend((): Effect.Effect<Ticket, Refusal> => {
          if (broken !== undefined || draining) return Effect.fail(broken ?? stopped("the server is stopping"))
          if (jobs.length > queue) {
            return Effect.fail(
              new Refusal({
                status: 400,
                message: `the request asks for ${jobs.length} sequences, a request has ${queue} at most`
              })
            )
          }
          const idle = slots.filter((one) => one === undefined).length
          if (waiting.length + jobs.length > queue + idle) {
            return Effect.fail(
              new Refusal({
                status: 429,
                code: "queue_full",
                message: `${waiting.length} sequences wait already, and ${queue} at most may: try again later`,
                retryAfter: 1
              })
            )
          }
          const ticket: Ticket = { left: jobs.length, failed: undefined, done: undefined }
          const since = performance.now()
          for (const job of jobs) {
            const text = Generate.grow(job.tokens, job.options, job.draws, maxLength)
            waiting.push({ job, ticket, since, text, fed: 0, started: false })
          }
          wake.unsafeOpen()
          return Effect.succeed(ticket)
        }),
        (ticket) => Effect.sync(() => drop(ticket))
      ).pipe(Effect.map((ticket) =>
        Effect.async<void, Refusal>((resume) => {
          const done = ({ failed }: Ticket) => resume(failed === undefined ? Effect.void : Effect.fail(failed))
          if (ticket.left === 0) return done(ticket)
          ticket.done = done
          return Effect.sync(() => void (ticket.done = undefined))
        })
      ))

    const drain: Engine["drain"] = (milliseconds) =>
      Effect.gen(function*() {
        draining = true
        const end = performance.now() + milliseconds
        while (tickets().size > 0) {
          if (performance.now() >= end) {
            failAll(stopped("the server stopped before the request was done"))
            return false
          }
          yield* Effect.sleep(20)
        }
        return true
      })

    return { slots: session.slots, maxLength: session.maxLength, pages: session.pages, counts, admit, drain, run }
  })
