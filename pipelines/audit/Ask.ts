/**
 * What a model answers about passages: plain data, kept in a store under all that it depends on, so that an audit that was
 * stopped goes on, and a way of asking that fails costs itself alone.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { AttackError, AttackProblem, AttackValue } from "../../src/attacks/index.ts"
import type { Row } from "../../src/data/stream/Packing.ts"
import { type CheckpointError, DataError, type DeviceError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import type { Machine } from "../../src/gpu/Machine.ts"
import { extractable, suffixLogProb } from "../../src/measures/Extraction.ts"
import * as Membership from "../../src/measures/Membership.ts"
import { factTruth } from "../../src/measures/Truth.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { relearn } from "../../src/removal/Relearn.ts"
import { type ClozeRow, scoreClozes } from "../../src/scoring/Cloze.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import { type RowScore, scoreRows } from "../../src/scoring/Score.ts"
import type { SinkMode } from "../../src/Sink.ts"
import * as Failures from "../experiment/Failures.ts"
import type { Store } from "../experiment/Store.ts"
import { type AttackMethod, attackNamed } from "../isolation/AttackConfig.ts"
import type { Failure } from "../report/Failure.ts"
import type { Value } from "./Decide.ts"

/** Raise it when an answer to the same question is another one. */
const VERSION = 1

/** A model that is asked. */
export interface Asked {
  readonly name: string
  readonly title: string
  /** Of its weights. */
  readonly digest: string
  readonly config: ModelConfig
  readonly layer: Layer.Layer<Model, DeviceError | CheckpointError, Device>
}

/** Answers by the names of measures. */
export type Answers = Readonly<Record<string, Value>>

export interface Question {
  /** What its answers are found by. */
  readonly id: string
  /** In a few words. */
  readonly title: string
  readonly of: Asked
  /** All else that the answer depends on; plain data. */
  readonly key: Readonly<Record<string, unknown>>
  readonly ask: Effect.Effect<Answers, AttackError, Model | Device>
}

/** Has one model open: the last that was asked for, so that questions to one that follow each other open it once. */
const makeDesk = Effect.gen(function*() {
  let open:
    | { readonly of: Asked; readonly context: Context.Context<Model>; readonly scope: Scope.CloseableScope }
    | undefined
  const close = Effect.suspend(() => {
    const was = open
    open = undefined
    return was === undefined ? Effect.void : Scope.close(was.scope, Exit.void)
  })
  yield* Effect.addFinalizer(() => close)
  return <A, E, R>(of: Asked, use: Effect.Effect<A, E, R>) =>
    Effect.gen(function*() {
      if (open?.of !== of) {
        yield* close
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(of.layer, scope).pipe(
          Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
        )
        open = { of, context, scope }
      }
      return yield* Effect.provide(use, open.context)
    })
})

/** A question by its model and its title. */
export const nameOf = ({ of, title }: Question): string => `${of.title}: ${title}`

/** All that an answer depends on. */
export const keyOf = ({ key, of }: Question, machine: Machine): Readonly<Record<string, unknown>> => ({
  version: VERSION,
  machine: { ...machine },
  ...key,
  model: of.digest,
  config: Schema.encodeSync(ModelConfig)(of.config)
})

/** Answers to questions by their ids; none of one that failed, which is told. Those to one model should follow each other. */
export const answersTo = (
  questions: ReadonlyArray<Question>,
  { machine, onFailure, seed, stage, store }: {
    readonly store: Store
    readonly machine: Machine
    readonly seed: number
    readonly stage: (what: string) => Effect.Effect<void>
    readonly onFailure: (failure: Failure) => Effect.Effect<void>
  }
) =>
  Effect.scoped(Effect.gen(function*() {
    const at = yield* makeDesk
    const found = new Map<string, Answers>()
    for (const [i, question] of questions.entries()) {
      const arm = nameOf(question)
      const answer = Effect.zipRight(
        stage(`${i + 1} of ${questions.length}: ${arm}`),
        at(question.of, question.ask)
      )
      const kept = store.once("audit", keyOf(question, machine), answer)
      const got = yield* Failures.attempt({ arm, seed }, kept, { outDir: undefined, onFailure })
      if (Option.isSome(got)) found.set(question.id, got.value)
    }
    return found
  }))

// ---------------------------------------------------------------------------------------------------------------
// Questions

export interface Passes {
  readonly batchSize: number
  readonly seqLen: number
  readonly promptTokens: number
}

const each = (values: ArrayLike<number>): Value => ({ is: "each", values: Array.from(values) })

export const lossesOf = (scores: ReadonlyArray<RowScore>): ReadonlyArray<number> =>
  scores.map(({ loss, tokens }) => loss / tokens)

/** Loss, and whether a passage is said verbatim after its beginning; of one that ends before that: NaN. */
export const scores = (rows: ReadonlyArray<Row>, mode: SinkMode, passes: Passes) =>
  Effect.gen(function*() {
    const found = yield* scoreRows(yield* Model, rows, mode, passes)
    const answers: Answers = {
      loss: each(lossesOf(found)),
      verbatim: each(found.map(({ run, suffix }) => suffix === 0 ? NaN : run === suffix ? 1 : 0))
    }
    return answers
  })

/** (n, p)-discoverable extraction: so many draws of a suffix of so many tokens, one of which is right with this probability. */
export const DISCOVERABLE = { n: 1000, p: 0.5, length: 50, topK: 40 } as const

/** What one pass of records tells: (n, p)-discoverable extraction, and membership where there are passages never seen. */
export const records = (
  rows: ReadonlyArray<Row>,
  never: ReadonlyArray<Row>,
  mode: SinkMode,
  { batchSize, promptTokens, seqLen }: Passes
) =>
  Effect.gen(function*() {
    const model = yield* Model
    const sampling = { topK: Math.min(DISCOVERABLE.topK, model.config.vocabSize), temperature: 1 }
    const record = (some: ReadonlyArray<Row>) =>
      recordRows(model, some, mode, { batchSize, seqLen, split: "", schemes: [sampling] })
    const own = yield* record(rows)
    if (own.logProb.some(Number.isNaN)) {
      return yield* new DataError({ detail: "a token's probability is not a number: the model is damaged" })
    }
    const window = { context: promptTokens, length: Math.min(DISCOVERABLE.length, seqLen + 1 - promptTokens) }
    const discoverable = each(
      extractable(suffixLogProb(own, sampling, window), DISCOVERABLE.n, DISCOVERABLE.p)
    )
    if (never.length === 0) return { discoverable } satisfies Answers
    const others = yield* record(never)
    const told = (score: (of: typeof own) => Float64Array): Value => ({ is: "scores", members: [...score(own)],
      others: [...score(others)] })
    const answers: Answers = {
      discoverable,
      "membership.loss": told(Membership.lossScore),
      "membership.minK++": told(Membership.minKPlusPlus)
    }
    return answers
  })

/** ln of the truth ratio of every fact. */
export const truths = (clozes: ReadonlyArray<ClozeRow>, mode: SinkMode, passes: Omit<Passes, "promptTokens">) =>
  Effect.gen(function*() {
    const found = yield* scoreClozes(yield* Model, clozes, mode, passes)
    const answers: Answers = { truth: each(found.map((answers) => factTruth([answers]).logRatio)) }
    return answers
  })

/** Loss of one half after fine-tuning on the other, with all sinks off. */
export const relearned = (
  [train, rest]: readonly [ReadonlyArray<Row>, ReadonlyArray<Row>],
  { learningRate, seed, seqLen, steps }: { readonly steps: number; readonly learningRate: number;
    readonly seqLen: number; readonly seed: number }
) =>
  Effect.gen(function*() {
    // it puts the weights back, so the passages are scored within
    const points = yield* Stream.runCollect(relearn({
      train,
      score: Object.fromEntries(rest.map((row, i) => [`${i}`, [row]])),
      learningRates: [learningRate],
      steps,
      at: [steps],
      batchSize: 4,
      seqLen,
      seed
    }))
    const last = Array.from(points).at(-1)!
    if (last.step !== steps) {
      return yield* new DataError({ detail: `fine-tuning at ${learningRate} diverged: choose a lower rate` })
    }
    const answers: Answers = { loss: each(rest.map((_, i) => last.losses[`${i}`]!)) }
    return answers
  })

const isEach = (value: AttackValue): value is ArrayLike<number> => "length" in value

/** What an attack gets out, by `attack.metric`; metrics that could not be had are left out. */
export const attacked = ({ name, method, options }: AttackMethod, problem: AttackProblem) =>
  Effect.map(attackNamed(method).run(problem, options), (got): Answers =>
    Object.fromEntries(Object.entries(got).flatMap(([metric, value]): ReadonlyArray<readonly [string, Value]> =>
      isEach(value)
        ? [[`${name}.${metric}`, each(value)]]
        : Number.isNaN(value.value)
        ? []
        : [[`${name}.${metric}`, { is: "one", value: value.value, sequences: value.sequences, error: value.error }]]
    )))
