/** Why a model has no score: a weight that is no number, or activations that are none although the weights are. */
import * as Effect from "effect/Effect"
import type { DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import { firstNotFinite } from "../HostTensor.ts"
import type { Slice } from "../Sink.ts"
import { toHuggingFace } from "./HuggingFace.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import type * as Ops from "./Ops.ts"
import type { Precision } from "./Pass.ts"

/**
 * The first weight of a model on a device that is infinite or not a number: `model.norm.weight holds NaN at 3`; undefined
 * where all are sound.
 */
export const damagedWeight = (
  device: Pick<DeviceService, "read">,
  config: ModelConfig,
  parameters: ReadonlyArray<Ops.Parameter>,
  slice?: Slice
): Effect.Effect<string | undefined, DeviceError> =>
  Effect.gen(function*() {
    for (const { name, sinkRow0, value } of parameters) {
      const values = (yield* device.read(value)) as Float32Array
      const part = sinkRow0 !== undefined && slice !== undefined
      const tensors = part ? [[name, { data: values }] as const] : toHuggingFace(config, name, values)
      for (const [name, { data }] of tensors) {
        const at = firstNotFinite(data)
        if (at >= 0) return `tensor ${name} holds ${data[at]} at ${at}`
      }
    }
    return undefined
  })

/** The cause of an error about a loss that is no number, by which a training knows that it has diverged. */
export class NotANumber extends Error {}

/** What to do about activations that are no numbers although the weights are. */
export const overflowAdvice = (precision: Precision): string =>
  precision === "f16"
    ? "the weights are sound, but activations overflow in f16, which ends at 65504: use precision f32"
    : "the weights are sound, but activations overflow: the model has diverged (train it with a lower learningRate, or longer " +
      "warmupSteps), or its weights are of another model"
