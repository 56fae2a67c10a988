import { expect, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Device, MAX_DISPATCHES } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { classOf, costOf, nameOf } from "../../src/model/Costs.ts"
import { kernels } from "../../src/model/Kernels.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { recordPass } from "../../src/model/Pass.ts"
import * as NodeDevice from "../../src/node.ts"
import { profile, traceOf } from "../../src/train/Profile.ts"
import { miniatureModel } from "../support/support.ts"

const timed = NodeDevice.layer({ disableToggles: ["timestamp_quantization"] })

layer(timed)("a profile", (it) => {
  it.effect("has every dispatch of a step once, in time, and adds them up", (context) =>
    Effect.gen(function*() {
      const device = yield* Device
      if (!device.features.has("timestamp-query")) return context.skip("the adapter has no timestamps")
      const before = { ...device.counters }
      const found = yield* Effect.scoped(profile(miniatureModel, { rows: 2, seqLen: 16, steps: 2 }))
      expect(device.counters).toMatchObject({ buffers: before.buffers, bytes: before.bytes })
      const { dispatches, kernelSeconds, spanSeconds } = found
      expect(dispatches.length).toBeGreaterThan(60)
      expect(dispatches.map(({ label }) => label)).toContain("layers.0.rms_norm.backward_x")
      expect(dispatches[0]!.beginSeconds).toBe(0)
      expect(dispatches.every(({ seconds }) => seconds >= 0 && seconds < 10)).toBe(true)
      const starts = dispatches.map(({ beginSeconds }) => beginSeconds)
      expect(starts).toEqual([...starts].sort((a, b) => a - b))
      expect(kernelSeconds).toBeGreaterThan(0)
      expect(spanSeconds).toBeGreaterThanOrEqual(starts.at(-1)!)
      expect(found.stepSeconds).toBeGreaterThan(found.hostSeconds)
      expect(found.bestProduct).toBeGreaterThan(1e6)
      expect(found.bestCopy).toBeGreaterThan(1e6)
      for (const rows of [found.classes, found.byKernel, found.ops]) {
        expect(rows.reduce((sum, row) => sum + row.dispatches, 0)).toBe(dispatches.length)
        expect(rows.reduce((sum, row) => sum + row.seconds, 0)).toBeCloseTo(kernelSeconds, 9)
        expect(rows.reduce((sum, row) => sum + row.share, 0)).toBeCloseTo(1, 9)
      }
      const { traceEvents } = JSON.parse(traceOf(found)) as {
        traceEvents: ReadonlyArray<{ ph: string; name: string; ts: number; dur: number; cat: string }>
      }
      const events = traceEvents.filter(({ ph }) => ph === "X")
      expect(events.map(({ name }) => name)).toEqual(dispatches.map(({ label }) => label))
      expect(events[5]).toMatchObject({ ts: starts[5]! * 1e6, cat: dispatches[5]!.opClass })
    }))

  it.scoped("times more dispatches than one set of queries holds, and computes what a submit does", (context) =>
    Effect.gen(function*() {
      const device = yield* Device
      if (!device.features.has("timestamp-query")) return context.skip("the adapter has no timestamps")
      const [x, partial] = [Tensor.make("x", [4]), Tensor.make("partial", [4])]
      yield* device.allocate([x, partial])
      device.write(x, Float32Array.of(1, 2, 3, 4))
      const p = Program.record("many sums")
      p.clear(partial)
      const count = 2048 + MAX_DISPATCHES + 1
      for (let i = 0; i < count; i++) p.dispatch(kernels.sum, { x, partial }, { n: 4, lanes: 4, first: 0 }, 4)
      const times = yield* device.time(yield* device.prepare(p.finish()))
      expect(times.length).toBe(count)
      expect(times.every(({ begin, end }, i) => begin <= end && (i === 0 || times[i - 1]!.begin <= begin))).toBe(true)
      expect(Array.from(yield* device.read(partial))).toEqual([1, 2, 3, 4].map((value) => count * value))
    }))

  it.effect("is refused where there are no timestamps, and where nothing is computed", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const none = yield* Effect.flip(
        NodeDevice.openGpu().pipe(
          Effect.flatMap((open) => {
            // only this feature is missing
            const features = new Set([...open.adapter.features].filter((feature) => feature !== "timestamp-query"))
            const adapter = new Proxy(open.adapter, {
              get: (target, key) => {
                if (key === "features") return features
                const value: unknown = Reflect.get(target, key, target)
                return typeof value === "function" ? value.bind(target) : value
              }
            })
            return Device.make({ ...open, adapter })
          }),
          Effect.flatMap((without) =>
            profile(miniatureModel, { rows: 2, seqLen: 16 }).pipe(Effect.provideService(Device, without))
          ),
          Effect.scoped
        )
      )
      expect(none).toMatchObject({ _tag: "DeviceError", reason: "Feature" })
      expect(none.message).toContain(`${device.name} has no timestamps (the WebGPU feature timestamp-query)`)
      const nothing = yield* Effect.flip(
        Effect.scoped(profile(miniatureModel, { rows: 2, seqLen: 16 })).pipe(
          Effect.provide(Layer.fresh(NodeDevice.layer({ adapter: "null" })))
        )
      )
      expect(nothing.message).toContain("computes nothing")
    }))

  it("counts 6 FLOPs a weight of the layers and token, and attention's products", () => {
    const [rows, seqLen] = [3, 20]
    const tokens = rows * seqLen
    const handles = parametersOf(miniatureModel)
    const pass = recordPass(miniatureModel, handles, Tensor.make("hyper", [16]), { rows, seqLen, output: "train" })
    const pairs = rows * seqLen * (seqLen + 1) / 2
    const flops = (of: (dispatch: Program.Dispatch) => boolean) =>
      pass.program.dispatches.filter(of).reduce((sum, dispatch) => sum + costOf(dispatch, pairs).flops, 0)
    const weights = listParameters(handles).filter(({ name }) => /qkv|\.o$/.test(name))
      .reduce((sum, { value }) => sum + Tensor.size(value), 0)
    const { hiddenSize: d, sinks } = miniatureModel
    // an id's own sinks and the general neurons, of gate, up and down
    const active = 3 * d * (miniatureModel.general + sinks!.active)
    expect(flops((dispatch) => classOf(dispatch) === "products")).toBe(6 * tokens * (weights + active))
    expect(flops((dispatch) => classOf(dispatch) === "head")).toBe(6 * tokens * miniatureModel.vocabSize * d)
    // two products forward, seven backward, which computes the scores twice
    expect(flops((dispatch) => classOf(dispatch) === "attention")).toBe(18 * pairs * d)
    const product = pass.program.dispatches.find(({ label }) => label === "layers.0.matmul.nn")!
    expect(nameOf(product)).toBe("matmul.nn -> qkv.y")
    const out = 3 * d
    expect(costOf(product, pairs).bytes).toBe(4 * (tokens * d + d * out + tokens * out))
  })
})
