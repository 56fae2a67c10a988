/** Representation misdirection (RMU): hidden states instead of losses. */
import * as Effect from "effect/Effect"
import { type Row, sequenceName } from "../../data/stream/Packing.ts"
import { countScored } from "../../data/stream/Rows.ts"
import { DataError } from "../../Errors.ts"
import { Model } from "../../model/Model.ts"
import { random } from "../../Random.ts"
import { sumOf } from "../../scoring/Score.ts"
import { own } from "../../Sink.ts"
import { makeTuner } from "../../train/Tuner.ts"
import { hiddenStates } from "./hiddenStates.ts"
import { batches, checkProblem, constantRate, settings, type Unlearner } from "./Unlearner.ts"

const name = "rmu"

const defaults = {
  learningRate: 5e-4,
  batchSize: 4,
  steps: 250,
  gamma: 1,
  alpha: 100,
  coefficient: 20,
  layer: "middle" as number | "middle",
  trainable: "blocks" as "blocks" | "downProjections"
}

/** Where hidden states are steered: uniform numbers in [0, 1) from a seed, scaled to a length of 1. */
export const rmuDirection = (hiddenSize: number, seed: number): Float64Array => {
  const draw = random(seed, "rmu direction")
  const u = Float64Array.from({ length: hiddenSize }, () => draw.uniform())
  const length = Math.hypot(...u)
  return u.map((x) => x / length)
}

/** Whether RMU trains a parameter, when it steers behind a block. */
export const rmuTrains = (parameter: string, layer: number, trainable: "blocks" | "downProjections"): boolean => {
  const [, block, kind] = /^layers\.(\d+)\.(.+)$/.exec(parameter) ?? []
  if (block === undefined || Number(block) > layer) return false
  return trainable === "blocks" || (kind === "down" && Number(block) >= layer - 2)
}

/**
 * RMU: the hidden states of forgotten sequences behind one block are steered to one random vector of length
 * `coefficient`, those of retained ones held where they were: gamma MSE(h(forget), c u) + alpha MSE(h(retain),
 * h_0(retain)), means over tokens and dimensions. `layer` is by default the block in the middle, (blocks - 1) / 2
 * rounded down; the papers take the eighth of 32. The other defaults are those of SGTM's comparison; a coefficient a
 * few times the usual length of a hidden state does.
 */
export const rmu: Unlearner = {
  name,
  defaults,
  start: (problem, options = {}) =>
    Effect.gen(function*() {
      const all = yield* settings(name, defaults, options)
      yield* checkProblem(name, problem)
      const { mode = own, seed, seqLen } = problem
      const model = yield* Model
      const { hiddenSize, numHiddenLayers } = model.config
      const layer = all.layer === "middle" ? Math.floor((numHiddenLayers - 1) / 2) : all.layer
      if (!(Number.isInteger(layer) && layer >= 0 && layer < numHiddenLayers)) {
        return yield* new DataError({
          detail: `${name}: layer must be a block from 0 to ${numHiddenLayers - 1} or "middle", got ${all.layer}`
        })
      }
      const size = Math.min(all.batchSize, problem.forget.length)
      const { next } = batches(problem, size)
      // the steps' draws do not depend on how many there are, but each row that is drawn keeps its hidden states: those of
      // so many steps are drawn beforehand, to see which they are
      const ahead = batches(problem, size)
      const drawn = new Set<Row>()
      for (let step = 0; step < all.steps && drawn.size < problem.retain.length; step++) {
        for (const row of ahead.next().retained) drawn.add(row)
      }
      const retain = [...drawn]
      const initial = yield* hiddenStates(retain, { batchSize: size, layer, mode, seqLen })
      const reference = new Map(retain.map((row, i): [Row, Float32Array] => [row, initial[i]!]))
      const u = rmuDirection(hiddenSize, seed).map((x) => all.coefficient * x)
      const tuner = yield* makeTuner({
        rows: 2 * size,
        seqLen,
        steps: all.steps,
        mode,
        optimizer: constantRate(all.learningRate),
        head: { hidden: layer },
        trainable: (parameter) => rmuTrains(parameter, layer, all.trainable)
      })
      const row = seqLen * hiddenSize
      const hidden = new Float32Array(2 * size * row)
      for (let i = 0; i < size * row; i++) hidden[i] = u[i % hiddenSize]!
      return {
        step: Effect.gen(function*() {
          const { batch, forgotten, retained } = next()
          const beyond = retained.find((one) => !reference.has(one))
          if (beyond !== undefined) {
            const detail = `${name}: more steps were taken than the ${all.steps} asked for, and the hidden states of ` +
              `sequence ${sequenceName(beyond)} were not kept: raise steps`
            return yield* new DataError({ detail })
          }
          const weights = new Float32Array(2 * size * seqLen)
            .fill(all.gamma / countScored(forgotten), 0, size * seqLen)
            .fill(all.alpha / countScored(retained), size * seqLen)
          retained.forEach((one, r) => hidden.set(reference.get(one)!, (size + r) * row))
          const { loss } = yield* tuner.step(batch, { weights, hidden })
          const lost = sumOf(loss, batch, 0, size)
          const kept = sumOf(loss, batch, size, 2 * size)
          return { forgetLoss: lost.sum / lost.tokens, retainLoss: kept.sum / kept.tokens, meanWeight: 1 }
        })
      }
    })
}
