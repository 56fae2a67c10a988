/** Writing more to a device than what fits between host and device at once: a model's weights, an optimizer's moments. */
import * as Effect from "effect/Effect"
import { attempt, DeviceError } from "../Errors.ts"
import type { DeviceService } from "./Device.ts"
import * as Tensor from "./Tensor.ts"

/** Bytes on their way to the device at most: until it has taken them, they stand in memory that it can read. */
export const MOST_UNDERWAY = 256 * 2 ** 20

/** Elements of a large tensor that are written together: an even number, as f16 asks. */
const PART = 2 ** 24

/**
 * Write values into state tensors, from an element on (default 0), each made when its turn has come, so many at a time, and
 * wait for the device every MOST_UNDERWAY bytes.
 */
export const upload = <E>(
  device: Pick<DeviceService, "write" | "idle">,
  values: ReadonlyArray<
    readonly [tensor: Tensor.Tensor, value: Effect.Effect<Float32Array | Uint32Array, E>, from?: number]
  >,
  concurrency = 1
): Effect.Effect<void, E | DeviceError> =>
  Effect.gen(function*() {
    let underway = 0
    const { withPermits } = yield* Effect.makeSemaphore(1)
    const write = (tensor: Tensor.Tensor, data: Float32Array | Uint32Array, from: number) =>
      Effect.gen(function*() {
        for (let at = 0; at < data.length; at += PART) {
          const part = data.subarray(at, at + PART)
          const bytes = part.length * Tensor.byteLength(tensor) / Tensor.size(tensor)
          if (underway + bytes > MOST_UNDERWAY) {
            yield* device.idle
            underway = 0
          }
          yield* attempt(() => device.write(tensor, part, from + at), DeviceError)
          underway += bytes
        }
      })
    yield* Effect.forEach(
      values,
      ([tensor, value, from = 0]) => Effect.flatMap(value, (data) => withPermits(1)(write(tensor, data, from))),
      { concurrency, discard: true }
    )
  })
