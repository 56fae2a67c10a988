/**
 * What computes a run. Kernels and adapters round differently, so the same run on others has other weights: what is kept
 * for later says by what it was computed.
 */
import * as Effect from "effect/Effect"
import { CheckpointError } from "../Errors.ts"
import type { DeviceService } from "./Device.ts"

export interface Machine {
  /** The adapter's name. */
  readonly adapter: string
  /** Family of kernels. */
  readonly kernels: string
}

export const machineOf = ({ name, target }: Pick<DeviceService, "name" | "target">): Machine => ({
  adapter: name,
  kernels: target.family
})

/**
 * Whether a run may go on here. Other kernels on the same adapter were asked for, perhaps in another shell, and can be asked
 * for otherwise: refused with a CheckpointError Mismatch. Another adapter may be all that is left: that is told, and the run
 * goes on.
 */
export const sameMachine = (
  now: Machine,
  before: Partial<Machine> | undefined,
  path: string
): Effect.Effect<void, CheckpointError> => {
  if (before?.adapter === undefined) return Effect.void
  if (now.adapter !== before.adapter) {
    return Effect.logWarning(
      `${path}: the run was computed on ${before.adapter} and goes on on ${now.adapter}, which rounds differently: it will ` +
        "not be the same, bit for bit, as one that was never interrupted"
    )
  }
  if (before.kernels === undefined || now.kernels === before.kernels) return Effect.void
  return new CheckpointError({
    reason: "Mismatch",
    path,
    detail:
      `the run was computed with the ${before.kernels} kernels, and these are the ${now.kernels} kernels, which round ` +
      `differently: resume with MEMSINKS_KERNELS=${before.kernels}, or start in another folder`
  })
}
