/**
 * Whether a device computes in f16 what it computes in f32, op by op: drivers offer f16 that is wrong in some of them, and a
 * training in it would go astray without a word. Asked once a device, driver and family of kernels; the answer is kept.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { DeviceError, type KernelError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import { cacheFolders } from "../gpu/SoftwareVulkan.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { kept } from "./Kept.ts"
import * as Kernels from "./Kernels.ts"
import { kernels } from "./Kernels.ts"
import * as Ops from "./Ops.ts"
import { HYPER, ropeTable } from "./Pass.ts"

/** Raised when kernels or checks change enough that older answers are worth nothing. */
const VERSION = 2

/** How far f16 may be from f32, over the largest number of a result: its rounding is 2^-11 of each number. */
const TOLERANCE = 2 ** -6

/** Tokens of the checks: more than a tile of 64, and ragged. */
const TOKENS = 70

interface Op {
  /** What is put into tensors before it runs. */
  readonly inputs: ReadonlyArray<readonly [Tensor.Tensor, Float32Array | Uint32Array]>
  /** What is compared. Scratch tensors are kept for it. */
  readonly outputs: ReadonlyArray<Tensor.Tensor>
}

/** Numbers in (-1, 1) that f16 holds exactly, the same for both types. */
const numbers = (tensor: Tensor.Tensor, seed: number): readonly [Tensor.Tensor, Float32Array] => [
  tensor,
  Float32Array.from({ length: Tensor.size(tensor) },
    (_, i) => ((Math.imul(i + 1 + 7919 * seed, 2654435761) >>> 20) % 255 - 127) / 128)
]

const parameter = (name: string, shape: ReadonlyArray<number>): Ops.Parameter => ({
  name,
  value: Tensor.make(name, shape),
  gradient: Tensor.make(`${name}.gradient`, shape),
  decay: false,
  sinkRow0: undefined
})

type Recorded = (p: Program.Recorder, type: Tensor.ElementType) => Op

const products: Recorded = (p, type) => {
  const w = parameter("w", [96, 80])
  const [x, dy] = [Tensor.make("x", [TOKENS, 80], { type }), Tensor.make("dy", [TOKENS, 96], { type })]
  const linear = Ops.linear(p, x, w, TOKENS)
  const dx = linear.backward(dy)
  return {
    inputs: [numbers(x, 1), numbers(dy, 2), numbers(w.value, 3), [w.gradient, new Float32Array(96 * 80)]],
    outputs: [linear.y, dx, w.gradient]
  }
}

const norm: Recorded = (p, type) => {
  const w = parameter("w", [80])
  const [x, dx] = [Tensor.make("x", [TOKENS, 80]), Tensor.make("dx", [TOKENS, 80])]
  const dy = Tensor.make("dy", [TOKENS, 80], { type })
  const recorded = Ops.rmsNorm(p, x, w, TOKENS, 1e-5, type)
  recorded.backward(dy, dx, false)
  return {
    inputs: [numbers(x, 1), numbers(dy, 2), numbers(w.value, 3), [w.gradient, new Float32Array(80)]],
    outputs: [recorded.y, dx, w.gradient]
  }
}

const swiglu: Recorded = (p, type) => {
  const [general, sink] = [32, 32]
  const gu = Tensor.make("gu", [TOKENS, 2 * (general + sink)], { type })
  const dh = Tensor.make("dh", [TOKENS, general + sink], { type })
  const coef = Tensor.make("coef", [2, 3])
  const segment = Tensor.make("segment", [TOKENS], { type: "u32" })
  const [h, dgu] = [p.scratch("h", dh.shape, type), p.scratch("dgu", gu.shape, type)]
  const params = { rows: TOKENS, general4: general / 4, sink4: sink / 4, coefStride: 3 }
  const grid = TOKENS * (general + sink) / 4
  p.dispatch(kernels.swiglu(16), { gu, coef, segment, h }, params, grid)
  p.dispatch(kernels.swigluBackward(16), { gu, coef, segment, dh, dgu }, params, grid)
  return {
    inputs: [
      numbers(gu, 1),
      numbers(dh, 2),
      [coef, Float32Array.of(1, 1, 0, 1, 0, 1)],
      [segment, Uint32Array.from({ length: TOKENS }, (_, t) => (t < 40 ? 0 : 1))]
    ],
    outputs: [h, dgu]
  }
}

const attentionOf = (headSize: number): Recorded => (p, type) => {
  const shape = { heads: 2, kvHeads: 1, headSize }
  const qkv = Tensor.make("qkv", [TOKENS, 4 * headSize], { type })
  const dout = Tensor.make("dout", [TOKENS, 2 * headSize], { type })
  const positions = Tensor.make("positions", [TOKENS], { type: "u32" })
  const documentStart = Tensor.make("documentStart", [TOKENS], { type: "u32" })
  const rope = Tensor.make("rope", [TOKENS, headSize / 2, 2])
  const recorded = Ops.attention(p, qkv, TOKENS, shape, { positions, documentStart, rope })
  const dqkv = recorded.backward(dout)
  const start = Uint32Array.from({ length: TOKENS }, (_, t) => (t < 25 ? 0 : 25))
  return {
    inputs: [
      numbers(qkv, 1),
      numbers(dout, 2),
      [documentStart, start],
      [positions, start.map((from, t) => t - from)],
      [rope, ropeTable(TOKENS, headSize, 10000)]
    ],
    // the queries and keys that it turns, too
    outputs: [recorded.y, dqkv, qkv]
  }
}

const crossEntropy: Recorded = (p, type) => {
  const [vocab, ld] = [99, 100]
  const logits = Tensor.make("logits", [TOKENS, ld], { type })
  const hyper = Tensor.make("hyper", [16])
  const loss = Tensor.make("loss", [TOKENS])
  const [targets, rank] = ["targets", "rank"].map((name) => Tensor.make(name, [TOKENS], { type: "u32" }))
  const { grid, kernel } = Kernels.crossEntropy(p.target)
  const params = { rows: TOKENS, vocab, ld4: ld / 4, first: 0, train: 1 }
  p.dispatch(kernel, { targets: targets!, hyper, logits, loss, rank: rank! }, params, grid(TOKENS))
  const scales = new Float32Array(16)
  scales[HYPER.gradientScale] = 1
  return {
    inputs: [
      [logits, numbers(logits, 1)[1].map((x) => 8 * x)],
      [hyper, scales],
      [targets!, Uint32Array.from({ length: TOKENS }, (_, t) => (17 * t) % vocab)]
    ],
    outputs: [logits, loss]
  }
}

/** By the names that refusals call them. */
const ops: Readonly<Record<string, Recorded>> = {
  products,
  norm,
  swiglu,
  attention: attentionOf(64),
  "cross entropy": crossEntropy
}

/** Heads that have kernels of matrix units. */
const matrixAttention: Readonly<Record<string, Recorded>> = {
  "attention of heads of 64": attentionOf(64),
  "attention of heads of 128": attentionOf(128)
}

/** What an op makes of the same numbers in a type. */
const results = (
  device: DeviceService,
  name: string,
  recorded: Recorded,
  type: Tensor.ElementType
): Effect.Effect<ReadonlyArray<Float32Array>, DeviceError | KernelError> =>
  Effect.scoped(Effect.gen(function*() {
    const p = Program.record(`${name} in ${type}`, device.target)
    const { inputs, outputs } = recorded(p, type)
    const states = outputs.map((tensor) =>
      tensor.kind === "state" ? tensor : Tensor.make(tensor.name, tensor.shape, { type: tensor.type })
    )
    const program = states.reduce((program, state, i) => Program.replace(program, outputs[i]!, state), p.finish())
    yield* device.allocate(Program.stateTensors(program))
    for (const [tensor, data] of inputs) device.write(tensor, data)
    device.submit(yield* device.prepare(program))
    return yield* Effect.forEach(states, (state) => Effect.map(device.read(state), (data) => data as Float32Array))
  }))

/** How a result differs from what it should be by more than rounding; undefined where it does not. */
const difference = (got: Float32Array, want: Float32Array): string | undefined => {
  const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  const at = want.findIndex((x, i) => !(Math.abs(got[i]! - x) <= TOLERANCE * largest))
  return at < 0 ? undefined : `${got[at]} where f32 gives ${want[at]}`
}

/** The first op that a device computes wrongly in f16, and how; undefined where all are right. */
export const findWrongHalf = (device: DeviceService, of = ops): Effect.Effect<string | undefined, DeviceError> =>
  Effect.gen(function*() {
    for (const [name, recorded] of Object.entries(of)) {
      const want = yield* results(device, name, recorded, "f32")
      const wrong = yield* results(device, name, recorded, "f16").pipe(
        Effect.map((got) => got.map((data, i) => difference(data, want[i]!)).find((found) => found !== undefined)),
        Effect.catchTag("KernelError", (error) => Effect.succeed(error.message))
      )
      if (wrong !== undefined) return `${name}: ${wrong}`
    }
    return undefined
  }).pipe(
    Effect.catchTag("KernelError", (cause) =>
      new DeviceError({ reason: "Validation", detail: `${device.name} compiles no kernels: ${cause.message}`, cause }))
  )

const Answer = Schema.Struct({ wrong: Schema.NullOr(Schema.String) })

/** What is wrong of some ops, as it was kept, or else found out now. */
const answered = (
  device: DeviceService,
  question: object,
  of: typeof ops,
  folders: ReadonlyArray<string>
): Effect.Effect<string | null, DeviceError> =>
  Effect.gen(function*() {
    const file = kept(device, "f16", { version: VERSION, ...question }, Answer, folders)
    const before = file.read()
    if (before !== undefined) return before.wrong
    const wrong = (yield* findWrongHalf(device, of)) ?? null
    return file.keep({ wrong })?.wrong ?? wrong
  })

/**
 * The device, with attention in tiles where its matrix units give something else for it than f32 does, or its kernels do not
 * compile: that costs attention alone, with a warning. For devices with the `tensor` kernels.
 */
export const withSoundAttention = (
  device: DeviceService,
  folders: ReadonlyArray<string>
): Effect.Effect<DeviceService, DeviceError> =>
  Effect.gen(function*() {
    if (device.kind === "null" || !device.features.has("shader-f16")) return device
    const wrong = yield* answered(device, { of: "matrix attention" }, matrixAttention, folders)
    if (wrong === null) return device
    yield* Effect.logWarning(`${device.name} does without matrix units in attention: ${wrong}`)
    return { ...device, target: { ...device.target, tiledAttention: true } }
  })

/** Answers that could not be kept in a file: a process asks once at most. */
const asked = new WeakMap<DeviceService, string | null>()

/**
 * Fails where a device has no f16 or computes an op wrongly in it, with the op's name. The null backend computes nothing,
 * and is only asked whether it has f16.
 *
 * @param folders where answers are kept, the first that can be written; default: the user's cache folders
 */
export const requireHalf = (
  device: DeviceService,
  folders: ReadonlyArray<string> = cacheFolders()
): Effect.Effect<void, DeviceError> =>
  Effect.gen(function*() {
    if (!device.features.has("shader-f16")) {
      return yield* new DeviceError({
        reason: "Feature",
        detail: `${device.name} has no f16 (the WebGPU feature shader-f16): choose precision "f32" or another adapter`
      })
    }
    if (device.kind === "null") return
    const { family, tiledAttention } = device.target
    const before = asked.get(device)
    const wrong = before === undefined ? yield* answered(device, { family, tiledAttention }, ops, folders) : before
    asked.set(device, wrong)
    if (wrong === null) return
    return yield* new DeviceError({
      reason: "Feature",
      detail: `${device.name} computes wrongly in f16 with the ${family} kernels (${wrong}): choose precision "f32", ` +
        "update its driver, or try other kernels with the environment variable MEMSINKS_KERNELS"
    })
  })
