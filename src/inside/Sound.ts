/** Losses that are numbers: what is computed from others has no meaning. */
import * as Effect from "effect/Effect"
import { type Batch, IGNORE } from "../Batch.ts"
import { DataError, type DeviceError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import type { ModelService } from "../model/Model.ts"
import { damagedWeight, overflowAdvice } from "../model/Soundness.ts"

/**
 * Fails with a DataError where the loss of a scored token is infinite or not a number: it names the sequence, and the weight
 * that is none where there is one. For passes in f32.
 */
export const checkLosses = (
  device: Effect.Effect.Success<typeof Device>,
  { config, parameters }: Pick<ModelService, "config" | "parameters">,
  { ids, names, positions, seqLen, targets }: Batch,
  losses: Float32Array
): Effect.Effect<void, DataError | DeviceError> => {
  const at = targets.findIndex((target, t) => target !== IGNORE && !Number.isFinite(losses[t]))
  if (at < 0) return Effect.void
  const row = Math.floor(at / seqLen)
  return Effect.flatMap(damagedWeight(device, config, parameters), (damaged) =>
    new DataError({
      detail:
        `sequence ${
          names?.[row] ?? `in row ${row} of the batch, of id ${ids[at]},`
        } has no gradient and no score: the ` +
        `loss of its token ${positions[at]! + 1} is not a number; ${damaged ?? overflowAdvice("f32")}`
    }))
}
