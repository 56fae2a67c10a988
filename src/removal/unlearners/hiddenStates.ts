import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { batchOf, type Row } from "../../data/stream/Packing.ts"
import { chunked } from "../../data/stream/Rows.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../../Errors.ts"
import { Device } from "../../gpu/Device.ts"
import { Model } from "../../model/Model.ts"
import { gathersAll } from "../../model/Pass.ts"
import type * as Sink from "../../Sink.ts"

/**
 * The residual stream behind a block, from 0, for each sequence on its own: [seqLen, hiddenSize], padding included. At
 * least one sequence; `batchSize` a pass.
 */
export const hiddenStates = (
  rows: ReadonlyArray<Row>,
  options: {
    readonly batchSize: number
    readonly layer: number
    readonly mode: Sink.SinkMode
    readonly seqLen: number
  }
): Effect.Effect<ReadonlyArray<Float32Array>, DataError | DeviceError | KernelError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const { batchSize, layer, mode, seqLen } = options
    const device = yield* Device
    const model = yield* Model
    const pass = yield* model.compile({
      rows: batchSize,
      seqLen,
      output: "loss",
      head: { hidden: layer },
      ...(gathersAll(model.config, mode) ? {} : { compute: "masked" })
    })
    const width = seqLen * model.config.hiddenSize
    const states: Array<Float32Array> = []
    for (const { chunk, full } of chunked(rows, batchSize)) {
      yield* attempt(() => {
        pass.load(batchOf(full, seqLen), mode)
        device.submit(pass.prepared)
      }, DataError, DeviceError)
      const all = (yield* device.read(pass.tensors.stream!)) as Float32Array
      chunk.forEach((_, r) => states.push(all.slice(r * width, (r + 1) * width)))
    }
    return states
  })
