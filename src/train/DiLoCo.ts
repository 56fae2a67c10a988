/**
 * DiLoCo (Douillard et al. 2023, arXiv 2311.08105, algorithm 1): ranks that are far from each other train alone for some
 * steps, then move together: an outer optimizer, SGD with Nesterov momentum, takes the mean of what they moved by for a
 * gradient. So little goes over that slow links will do.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { call, type CollectiveService } from "../collective/Collective.ts"
import { atLeast0, configuration, fraction, positive, withDefault } from "../Config.ts"
import { attempt, type CollectiveError, DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import type * as Ops from "../model/Ops.ts"
import { spread } from "./DataParallel.ts"
import type { Optimizer } from "./Optimizer.ts"

/** How ranks train that exchange what they learned from time to time. */
export class DiLoCoConfig extends configuration(Schema.Class<DiLoCoConfig>("DiLoCoConfig")({
  /** Steps that ranks take alone between two exchanges. Evaluations and checkpoints wait for the next one. Default 100. */
  syncEvery: withDefault(positive, 100),
  /** Of the outer optimizer. With 1, and no outer momentum, the mean of the ranks' weights. Default 0.7, as in the paper. */
  outerLearningRate: withDefault(atLeast0, 0.7),
  /** Default 0.9, as in the paper. */
  outerMomentum: withDefault(fraction, 0.9)
})) {}

/** What the outer optimizer keeps of a parameter, on the host. */
interface Kept {
  readonly parameter: Ops.Parameter
  /** Its value when ranks last met. */
  readonly met: Float32Array
  readonly momentum: Float32Array
}

export interface Outer {
  readonly kept: ReadonlyArray<Kept>
  /** Begins from the weights that are on the device, which are the same on all ranks. */
  readonly begin: Effect.Effect<void, DeviceError>
  /**
   * Moves all ranks to the same weights. AdamW's moments become their means, so that nothing of a rank alone is left, and any
   * number of ranks can go on; in the paper each keeps its own.
   */
  readonly sync: Effect.Effect<void, CollectiveError | DeviceError>
}

/**
 * One step of the outer optimizer on a parameter, in place: `moved` is how far all ranks went together, summed over `size` of
 * them. With g = -moved / size: momentum = mu momentum + g, value = met - rate (g + mu momentum).
 */
export const outerStep = (
  { outerLearningRate: rate, outerMomentum: mu }: DiLoCoConfig,
  { met, momentum }: Pick<Kept, "met" | "momentum">,
  moved: Float32Array,
  size: number
): void => {
  for (let i = 0; i < met.length; i++) {
    const gradient = -moved[i]! / size
    const next = Math.fround(mu * momentum[i]! + gradient)
    momentum[i] = next
    met[i] = met[i]! - rate * (gradient + mu * next)
  }
}

export const makeOuter = (
  config: DiLoCoConfig,
  collective: CollectiveService,
  device: DeviceService,
  { moments, scaler }: Pick<Optimizer, "moments" | "scaler">
): Outer => {
  const kept = moments.map(({ parameter }): Kept => {
    const length = parameter.value.shape.reduce((a, b) => a * b, 1)
    return { parameter, met: new Float32Array(length), momentum: new Float32Array(length) }
  })
  const read = (tensor: Tensor.Tensor) => Effect.map(device.read(tensor), (values) => values as Float32Array)
  const write = (tensor: Tensor.Tensor, values: Float32Array) =>
    attempt(() => device.write(tensor, values), DeviceError)
  const summed = (values: Float32Array) => call(() => collective.allReduce(values))
  return {
    kept,
    begin: Effect.forEach(kept, ({ met, parameter }) => Effect.map(read(parameter.value), (values) => met.set(values)),
      {
        discard: true
      }),
    sync: Effect.gen(function*() {
      const { size } = collective
      for (const one of kept) {
        const moved = yield* read(one.parameter.value)
        for (let i = 0; i < moved.length; i++) moved[i] = moved[i]! - one.met[i]!
        yield* summed(moved)
        outerStep(config, one, moved, size)
        yield* write(one.parameter.value, one.met)
      }
      for (const { m, v } of moments) {
        for (const tensor of [m, v]) {
          const values = yield* read(tensor)
          yield* summed(values)
          for (let i = 0; i < values.length; i++) values[i] = values[i]! / size
          yield* write(tensor, values)
        }
      }
      if (scaler !== undefined) yield* spread(collective, device, [scaler])
      // what is written stands in memory until the device has taken it
      yield* device.idle
    })
  }
}
