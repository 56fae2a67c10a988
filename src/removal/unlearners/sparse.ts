/** Editing the few weights that a loss pulls at hardest (Stoehr et al. 2024, Localizing Paragraph Memorization). */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { batchOf, type Row, scoredTokens } from "../../data/stream/Packing.ts"
import { chunked, countScored } from "../../data/stream/Rows.ts"
import { attempt, DataError, DeviceError } from "../../Errors.ts"
import { Device } from "../../gpu/Device.ts"
import { makeGradients, weights } from "../../inside/Gradients.ts"
import { Model } from "../../model/Model.ts"
import { random } from "../../Random.ts"
import { sumOf } from "../../scoring/Score.ts"
import { own } from "../../Sink.ts"
import { OptimizerConfig } from "../../train/Optimizer.ts"
import { makeTuner } from "../../train/Tuner.ts"
import { editedTargets } from "./editedTargets.ts"
import { batches, checkProblem, settings, type Unlearner, type UnlearnError, type Unlearning, type UnlearnOptions,
  type UnlearnProblem } from "./Unlearner.ts"

const name = "sparse"

const defaults = {
  learningRate: 1e-2,
  batchSize: 16,
  steps: 20,
  gamma: 0.1,
  alpha: 1,
  share: 0.001,
  among: "gradient" as "gradient" | "random" | "all",
  prompt: "half" as number | "half"
}

/** Places of the chosen elements, rising, by the names of arrays. */
export type Chosen = ReadonlyMap<string, Uint32Array>

/** The so many elements of the largest size among all arrays together; of equal ones the first. */
export const largest = (values: ReadonlyMap<string, ArrayLike<number>>, count: number): Chosen => {
  const all = new Float64Array([...values.values()].reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const one of values.values()) for (let i = 0; i < one.length; i++) all[at++] = -Math.abs(one[i]!)
  const threshold = count === 0 ? Infinity : -all.sort()[Math.min(count, all.length) - 1]!
  let above = 0
  for (const one of values.values()) for (let i = 0; i < one.length; i++) if (Math.abs(one[i]!) > threshold) above++
  let equal = Math.min(count, all.length) - above
  return new Map(Array.from(values, ([name, one]) => {
    const chosen: Array<number> = []
    for (let i = 0; i < one.length; i++) {
      const size = Math.abs(one[i]!)
      if (size > threshold || size === threshold && equal-- > 0) chosen.push(i)
    }
    return [name, Uint32Array.from(chosen)]
  }))
}

/** So many elements of all arrays together, drawn at random. */
const drawn = (values: ReadonlyMap<string, ArrayLike<number>>, count: number, seed: number): Chosen => {
  const draw = random(seed, "sparse")
  const total = [...values.values()].reduce((sum, { length }) => sum + length, 0)
  const places = new Set<number>()
  while (places.size < Math.min(count, total)) places.add(draw.below(total))
  let first = 0
  return new Map(Array.from(values, ([name, { length }]) => {
    const own = [...places].filter((place) => place >= first && place < first + length).map((place) => place - first)
    first += length
    return [name, Uint32Array.from(own).sort()]
  }))
}

/**
 * Moves a share of the weights towards targets: gamma NLL(targets) + alpha KL(what the Model said of `retain` at the start,
 * what it says), means over tokens. `problem.forget` are the targets as they are to be said: edited ones to forget, true
 * ones to write in. Which weights move is settled by the gradient of the targets' NLL at the start, which is all the
 * gradient there is then, and never changes. AdamW without decay or clipping, so all other weights stay, bit for bit.
 */
export const editSparsely = (
  problem: UnlearnProblem,
  options: Partial<UnlearnOptions> = {}
): Effect.Effect<Unlearning, UnlearnError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const { among, share, ...all } = yield* settings(name, defaults, options)
    yield* checkProblem(name, problem)
    if (!(share > 0 && share <= 1)) {
      return yield* new DataError({
        detail: `${name}: share must be in (0, 1], got ${share}`
      })
    }
    if (!["gradient", "random", "all"].includes(among)) {
      return yield* new DataError({ detail: `${name}: among must be gradient, random or all, got ${among}` })
    }
    const { forget, mode = own, seed, seqLen } = problem
    const device = yield* Device
    const model = yield* Model
    const { vocabSize } = model.config
    const size = Math.min(all.batchSize, forget.length)
    const initial = yield* weights
    const count = Math.max(1, Math.round(share * [...initial.values()].reduce((sum, { length }) => sum + length, 0)))
    const pulled = Effect.gen(function*() {
      const gradients = yield* makeGradients({ rows: size, seqLen })
      const sum = new Map(Array.from(initial, ([name, { length }]) => [name, new Float64Array(length)]))
      for (const { chunk, full } of chunked(forget, size)) {
        // what fills a batch up does not count twice
        const batch = batchOf(full.map((row, i) => i < chunk.length ? row : { ...row, scoredFrom: row.tokens.length }),
          seqLen)
        const found = yield* gradients.of(batch, mode)
        for (const [name, gradient] of found.gradients) {
          const all = sum.get(name)!
          for (let i = 0; i < all.length; i++) all[i]! += gradient[i]! * countScored(chunk)
        }
      }
      return sum
    }).pipe(Effect.scoped)
    const chosen = among === "all"
      ? undefined
      : among === "random"
      ? drawn(initial, count, seed)
      : largest(yield* pulled, count)

    // what the model says of the retained sequences that the steps will draw
    const { next } = batches(problem, size)
    const ahead = batches(problem, size)
    const known = new Set<Row>()
    for (let step = 0; step < all.steps && known.size < problem.retain.length; step++) {
      for (const row of ahead.next().retained) known.add(row)
    }
    const reference = new Map<Row, { readonly q: Float32Array; readonly entropy: number }>()
    for (const { chunk, full } of chunked([...known], size)) {
      const logits = yield* model.logits(batchOf(full, seqLen), mode)
      chunk.forEach((row, r) =>
        reference.set(row,
          softmaxOf(logits.subarray(r * seqLen * vocabSize, (r + 1) * seqLen * vocabSize), vocabSize, row))
      )
    }
    const tuner = yield* makeTuner({
      rows: 2 * size,
      seqLen,
      steps: all.steps,
      mode,
      head: "soft",
      optimizer: new OptimizerConfig({ learningRate: all.learningRate, schedule: "constant", warmupSteps: 0,
        weightDecay: 0, beta2: 0.999, gradClip: 0 })
    })
    /** Puts all that was not chosen back. */
    const restore = Effect.gen(function*() {
      if (chosen === undefined) return
      for (const { name, value } of model.parameters) {
        const places = chosen.get(name)!
        const before = initial.get(name)!
        if (places.length === 0) {
          yield* attempt(() => device.write(value, before), DeviceError)
          continue
        }
        const moved = (yield* device.read(value)) as Float32Array
        const kept = before.slice()
        for (const place of places) kept[place] = moved[place]!
        yield* attempt(() => device.write(value, kept), DeviceError)
      }
    })
    const width = seqLen * vocabSize
    return {
      step: Effect.gen(function*() {
        const { batch, forgotten, retained } = next()
        const beyond = retained.find((row) => !reference.has(row))
        if (beyond !== undefined) {
          const detail = `${name}: more steps were taken than the ${all.steps} asked for: raise steps`
          return yield* new DataError({ detail })
        }
        const soft = new Float32Array(2 * size * width)
        for (let t = 0; t < size * seqLen; t++) {
          if (batch.targets[t]! < vocabSize) soft[t * vocabSize + batch.targets[t]!] = 1
        }
        retained.forEach((row, r) => soft.set(reference.get(row)!.q, (size + r) * width))
        const tokenWeights = new Float32Array(2 * size * seqLen)
          .fill(all.gamma / countScored(forgotten), 0, size * seqLen)
          .fill(all.alpha / countScored(retained), size * seqLen)
        const { loss } = yield* tuner.step(batch, { weights: tokenWeights, soft })
        yield* restore
        const lost = sumOf(loss, batch, 0, size)
        const kept = sumOf(loss, batch, size, 2 * size)
        const entropy = retained.reduce((sum, row) => sum + reference.get(row)!.entropy, 0)
        return { forgetLoss: lost.sum / lost.tokens, retainLoss: (kept.sum - entropy) / kept.tokens, meanWeight: 1 }
      })
    }
  })

/** Probabilities of logits [tokens, vocabSize], and the sum of their entropies over the row's scored tokens. */
const softmaxOf = (logits: Float32Array, vocabSize: number, row: Row) => {
  const q = new Float32Array(logits.length)
  const { length } = row.tokens
  const from = length - 1 - scoredTokens(row)
  let entropy = 0
  for (let t = 0; t * vocabSize < logits.length; t++) {
    const z = logits.subarray(t * vocabSize, (t + 1) * vocabSize)
    const most = z.reduce((a, b) => Math.max(a, b), -Infinity)
    const sum = z.reduce((all, x) => all + Math.exp(x - most), 0)
    for (let v = 0; v < vocabSize; v++) {
      const logP = z[v]! - most - Math.log(sum)
      q[t * vocabSize + v] = Math.exp(logP)
      if (t >= from && t < length - 1) entropy -= Math.exp(logP) * logP
    }
  }
  return { q, entropy }
}

/**
 * Sparse unlearning: the sequences' suffixes are edited, as the Model continues perturbed prompts, and the share of all
 * weights that the edited ones pull at hardest is moved towards them, while what the Model says of the retained stays
 * (Kullback-Leibler). `among` "random" and "all" are the authors' controls. Theirs are 5 steps at 1e-5 on 125M weights.
 */
export const sparse: Unlearner = {
  name,
  defaults,
  start: (problem, options = {}) =>
    Effect.gen(function*() {
      const { batchSize, prompt } = yield* settings(name, defaults, options)
      yield* checkProblem(name, problem)
      const shortest = problem.forget.reduce((least, { tokens }) => Math.min(least, tokens.length), Infinity)
      const given = prompt === "half" ? Math.floor(shortest / 2) : prompt
      if (!(Number.isInteger(given) && given >= 1 && given < shortest)) {
        return yield* new DataError({
          detail: `${name}: prompt must be "half" or a whole number below the ${shortest} tokens of the shortest ` +
            `sequence to forget, got ${prompt}`
        })
      }
      const forget = yield* editedTargets(problem.forget, { batchSize, prompt: given, mode: problem.mode ?? own,
        seed: problem.seed })
      return yield* editSparsely({ ...problem, forget }, options)
    })
}
