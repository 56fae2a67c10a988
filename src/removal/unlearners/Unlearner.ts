/**
 * Unlearning: training a Model further so that it forgets some sequences and keeps the others.
 *
 * An Unlearner is a value; a new one is a file and a line in `unlearners`. Those that only weigh token losses are made
 * by `weighted` from one formula: the total is gamma * forget + alpha * R, where R is the mean loss of the retained
 * tokens and the forget term's derivative by the loss of each forgotten sequence is a number that is computed before
 * the step.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { batchOf, type Row, scoredTokens, sequenceName } from "../../data/stream/Packing.ts"
import { countScored, endless, misfit } from "../../data/stream/Rows.ts"
import { DataError, type DeviceError, type Diverged, type KernelError } from "../../Errors.ts"
import type { Device } from "../../gpu/Device.ts"
import { Model, type ModelService } from "../../model/Model.ts"
import { random } from "../../Random.ts"
import { scoreRows, sumOf } from "../../scoring/Score.ts"
import { own, type SinkMode } from "../../Sink.ts"
import { OptimizerConfig } from "../../train/Optimizer.ts"
import { makeTuner } from "../../train/Tuner.ts"

/** What is to be forgotten, and what kept. */
export interface UnlearnProblem {
  /** At least one; none of them may be scored as never trained on, or be retained. */
  readonly forget: ReadonlyArray<Row>
  /** At least one. Trained on by those that have a retain term, measured by all. */
  readonly retain: ReadonlyArray<Row>
  /** Tokens of a row of a batch; sequences have at most one more. */
  readonly seqLen: number
  /** Of the order of sequences, and of RMU's direction. */
  readonly seed: number
  /** State of the sinks in every pass. Default own. */
  readonly mode?: SinkMode
}

/** How to unlearn. `defaults` of an Unlearner lists those it reads; it refuses the others. */
export interface UnlearnOptions {
  /**
   * Of AdamW, constant, with fresh moments. Default 5e-4, which suits models of width 64 that were trained at 5e-3;
   * 1e-5 is usual for models of billions of parameters. Methods are compared fairly only when each gets its own best.
   */
  readonly learningRate: number
  /** Forgotten sequences a step, or all if they are fewer; as many random retained ones stand beside them. */
  readonly batchSize: number
  /** Most steps that will be taken. The rate does not depend on it: after n steps all is as if n had been asked for. */
  readonly steps: number
  /** Weight of the forget term. */
  readonly gamma: number
  /** Weight of the retain term. */
  readonly alpha: number
  /** How soon a sequence's weight falls as it is forgotten (NPO, SimNPO). */
  readonly beta?: number
  /** Loss a token, in nats, about which the weight falls (SimNPO). */
  readonly delta?: number
  /** NPO of the mean loss a token rather than of the sum over a sequence. */
  readonly lengthNormalized?: boolean
  /** Length of the vector that hidden states are steered to (RMU). */
  readonly coefficient?: number
  /** Block, from 0, behind which hidden states are steered (RMU). */
  readonly layer?: number | "middle"
  /** RMU: all weights of the blocks up to the layer, or the down-projections of the last three of them. */
  readonly trainable?: "blocks" | "downProjections"
  /** Weights that move, as a share of all (sparse). */
  readonly share?: number
  /** Which these are: those that are pulled at hardest, random ones, or all whatever the share (sparse). */
  readonly among?: "gradient" | "random" | "all"
  /** Tokens of a sequence to forget that are given; what is behind them is edited (sparse). */
  readonly prompt?: number | "half"
}

/** What a step found before it changed the weights. */
export interface UnlearnStep {
  /** Mean over the batch's forgotten tokens, in nats; RMU: mean squared distance to where they are steered. */
  readonly forgetLoss: number
  /** The same of the retained ones; RMU: mean squared distance to where they were at the start. */
  readonly retainLoss: number
  /**
   * Mean weight of the forgotten sequences relative to their loss's gradient, before gamma: -1 pulls as gradient ascent
   * does, 0 has stopped. RMU, which has no such weights: 1.
   */
  readonly meanWeight: number
}

/** What unlearning fails with. */
export type UnlearnError = DeviceError | KernelError | DataError | Diverged

/** Unlearning under way. */
export interface Unlearning {
  /** One step; the Model's weights are changed in place. */
  readonly step: Effect.Effect<UnlearnStep, UnlearnError>
}

/** A way to unlearn sequences by further training. */
export interface Unlearner {
  readonly name: string
  readonly defaults: UnlearnOptions
  /**
   * Begins from the Model's weights, which are the reference theta_0. Memory on the device is freed with the Scope.
   * Fails with a DataError where there is nothing to forget or to retain, a sequence is both, is too long or has no
   * target, or an option is none of this Unlearner's or out of range.
   */
  readonly start: (
    problem: UnlearnProblem,
    options?: Partial<UnlearnOptions>
  ) => Effect.Effect<Unlearning, UnlearnError, Model | Device | Scope.Scope>
}

// ---------------------------------------------------------------------------------------------------------------
// What they share

/** An Unlearner's settings: its defaults, and the options instead where they are given. */
export const settings = <D extends UnlearnOptions>(
  name: string,
  defaults: D,
  options: Partial<UnlearnOptions>
): Effect.Effect<D, DataError> => {
  const all = { ...defaults, ...options } as D
  const fail = (detail: string) => Effect.fail(new DataError({ detail: `${name}: ${detail}` }))
  const unknown = Object.keys(options).find((key) => !(key in defaults))
  if (unknown !== undefined) {
    return fail(`it has no option ${unknown}; its options are ${Object.keys(defaults).join(", ")}`)
  }
  for (const key of ["batchSize", "steps"] as const) {
    if (!(Number.isInteger(all[key]) && all[key] >= 1)) return fail(`${key} must be a whole number, got ${all[key]}`)
  }
  for (const key of ["learningRate", "beta", "coefficient"] as const) {
    const value = all[key]
    if (value !== undefined && !(value > 0 && value < Infinity)) return fail(`${key} must be positive, got ${value}`)
  }
  for (const key of ["gamma", "alpha"] as const) {
    if (!(all[key] >= 0 && all[key] < Infinity)) return fail(`${key} must be 0 or more, got ${all[key]}`)
  }
  return Effect.succeed(all)
}

/** Fails with a DataError that names the first thing wrong with a problem. */
export const checkProblem = (
  name: string,
  { forget, retain, seqLen }: UnlearnProblem
): Effect.Effect<void, DataError> => {
  const fail = (detail: string) => Effect.fail(new DataError({ detail: `${name}: ${detail}` }))
  if (forget.length === 0) return fail("there are no sequences to forget")
  if (retain.length === 0) {
    return fail("there are no sequences to retain: give some that were seen once, none of which is scored as held out")
  }
  const wrong = misfit([...forget, ...retain], seqLen)
  if (wrong !== undefined) return fail(wrong)
  const forgotten = new Set(forget.map(({ tokens }) => tokens.join()))
  const both = retain.find(({ tokens }) => forgotten.has(tokens.join()))
  return both === undefined
    ? Effect.void
    : fail(`sequence ${sequenceName(both)} is to be forgotten and to be retained: the two must be disjoint`)
}

/** AdamW as unlearning and relearning use it: a constant rate, so that a prefix of the steps is a run of its own. */
export const constantRate = (learningRate: number): OptimizerConfig =>
  new OptimizerConfig({ learningRate, schedule: "constant", warmupSteps: 0, weightDecay: 0.01, beta2: 0.999 })

/** Batches of forgotten sequences, and below them as many retained ones. */
export const batches = ({ forget, retain, seed, seqLen }: UnlearnProblem, batchSize: number) => {
  const size = Math.min(batchSize, forget.length)
  const nextForgotten = endless(forget, random(seed, "forget"))
  const nextRetained = endless(retain, random(seed, "retain"))
  return {
    /** Forgotten sequences of a batch. */
    size,
    next: () => {
      const forgotten = nextForgotten(size)
      const retained = nextRetained(size)
      return { forgotten, retained, batch: batchOf([...forgotten, ...retained], seqLen) }
    }
  }
}

/** Sums of the losses of sequences under the Model as it is, in nats. */
export const sequenceLosses = (
  model: ModelService,
  rows: ReadonlyArray<Row>,
  { batchSize, mode, seqLen }: { readonly batchSize: number; readonly seqLen: number; readonly mode: SinkMode }
): Effect.Effect<ReadonlyArray<number>, UnlearnError> =>
  Effect.map(scoreRows(model, rows, mode, { batchSize, seqLen }), (scores) => scores.map(({ loss }) => loss))

// ---------------------------------------------------------------------------------------------------------------
// Weights of token losses

/** A sequence to be forgotten, before a step. */
export interface ForgetSequence {
  /** Sum of its losses, in nats. */
  readonly nll: number
  /** The same under theta_0. */
  readonly referenceNll: number
  /** Its scored tokens. */
  readonly tokens: number
}

/** An Unlearner whose forget term is a function of the sequences' losses. */
export interface Weighting<D extends UnlearnOptions> {
  readonly name: string
  readonly defaults: D
  /** Whether weights depend on losses: if not, none are computed before the step, and those given are NaN. */
  readonly adaptive: boolean
  /**
   * The derivative of the forget term by the loss of each of the sequence's tokens is `weight / per`: `weight` is what
   * is reported, `per` what the term is a mean over, for a batch of so many sequences that have so many tokens
   * together.
   */
  readonly forget: (
    sequence: ForgetSequence,
    batch: { readonly sequences: number; readonly tokens: number },
    options: D
  ) => { readonly weight: number; readonly per: number }
}

/** The Unlearner of a weighting. */
export const weighted = <D extends UnlearnOptions>(weighting: Weighting<D>): Unlearner => ({
  name: weighting.name,
  defaults: weighting.defaults,
  start: (problem, options = {}) =>
    Effect.gen(function*() {
      const { adaptive, defaults, forget, name } = weighting
      const all = yield* settings(name, defaults, options)
      yield* checkProblem(name, problem)
      const { mode = own, seqLen } = problem
      const model = yield* Model
      const { next, size } = batches(problem, all.batchSize)
      const shape = { batchSize: size, seqLen, mode }
      const losses = (rows: ReadonlyArray<Row>) =>
        adaptive ? sequenceLosses(model, rows, shape) : Effect.succeed(rows.map(() => NaN))
      const initial = yield* losses(problem.forget)
      const reference = new Map(problem.forget.map((row, i) => [row, initial[i]]))
      const tuner = yield* makeTuner({
        rows: 2 * size,
        seqLen,
        steps: all.steps,
        mode,
        optimizer: constantRate(all.learningRate),
        head: "weighted"
      })
      return {
        step: Effect.gen(function*() {
          const { batch, forgotten, retained } = next()
          const before = yield* losses(forgotten)
          const of = { sequences: size, tokens: countScored(forgotten) }
          const weights = new Float32Array(2 * size * seqLen).fill(all.alpha / countScored(retained), size * seqLen)
          let sum = 0
          forgotten.forEach((row, r) => {
            const sequence = { nll: before[r]!, referenceNll: reference.get(row)!, tokens: scoredTokens(row) }
            const { per, weight } = forget(sequence, of, all)
            weights.fill(all.gamma * weight / per, r * seqLen, (r + 1) * seqLen)
            sum += weight
          })
          const { loss } = yield* tuner.step(batch, { weights })
          const lost = sumOf(loss, batch, 0, size)
          const kept = sumOf(loss, batch, size, 2 * size)
          return { forgetLoss: lost.sum / lost.tokens, retainLoss: kept.sum / kept.tokens, meanWeight: sum / size }
        })
      }
    })
})
