/**
 * The first look at a GPU: `node --import tsx test/bench/gpu.ts`, JSON lines on stdout. Features, limits and matrix
 * sizes; products and attention of every family that should run, checked against the CPU on sampled elements; training
 * steps of the presets. A part that fails prints its error, and the rest goes on. `--small` takes shapes that a software
 * adapter runs in a minute or two, `--only=products,attention,steps` some of the parts.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import process from "node:process"
import { Device, type Prepared } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import * as Program from "../../src/gpu/Program.ts"
import type { Family, Target } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { Model, type ModelOptions } from "../../src/model/Model.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import * as Ops from "../../src/model/Ops.ts"
import { HYPER } from "../../src/model/Pass.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import * as Optimizer from "../../src/train/Optimizer.ts"
import { madeUp } from "../../src/train/Profile.ts"

const small = process.argv.includes("--small")
const only = process.argv.find((argument) => argument.startsWith("--only="))?.slice("--only=".length).split(",")

type Line = Readonly<Record<string, unknown>>

const print = (line: Line): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

/** A part that may fail: then its error is a line, too. */
const part = (bench: string, line: Line, work: Effect.Effect<Line, unknown, Device | Scope.Scope>) =>
  Effect.scoped(work).pipe(
    Effect.map((result) => print({ bench, ...line, ...result })),
    Effect.catchAllCause((cause) =>
      Effect.sync(() => print({ bench, ...line, error: Cause.pretty(cause).slice(0, 2000) }))
    )
  )

/** Best seconds of one submit of `prepared`, over five windows of submits that are waited for together. */
const best = (prepared: ReadonlyArray<Prepared>, before: () => void = () => undefined) =>
  Effect.gen(function*() {
    const device = yield* Device
    const window = (times: number) =>
      Effect.gen(function*() {
        const began = performance.now()
        for (let i = 0; i < times; i++) {
          before()
          device.submit(...prepared)
        }
        yield* device.idle
        return (performance.now() - began) / 1000 / times
      })
    yield* window(1)
    const times = Math.max(1, Math.ceil(0.1 / (yield* window(1))))
    const windows = yield* Effect.replicateEffect(window(times), 5)
    return Math.min(...windows)
  })

// ---------------------------------------------------------------------------------------------------------------
// numbers that f16 holds exactly, so that both precisions compute the same product

const random = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state
  }
}

const draw = (length: number, seed: number): Float32Array => {
  const next = random(seed)
  return Float32Array.from({ length }, () => ((next() >>> 16) % 129 - 64) / 64)
}

const worst = (got: ArrayLike<number>, want: ReadonlyArray<readonly [index: number, value: number]>) => {
  const errors = want.map(([index, value]) => Math.abs(got[index]! - value))
  const scale = Math.max(...want.map(([, value]) => Math.abs(value)))
  return { worstError: Math.max(...errors), largest: scale }
}

/** Whether sampled errors are what rounding explains; NaN is not. */
const verdict = (found: { readonly worstError: number; readonly largest: number }, relative: number) => ({
  ...found,
  correct: found.worstError <= relative * found.largest
})

// ---------------------------------------------------------------------------------------------------------------
// products

const product = (kind: "nn" | "tn", size: number, type: Tensor.ElementType, family: Family) =>
  Effect.gen(function*() {
    const device = yield* Device
    const target: Target = { ...device.target, family }
    const a = Tensor.make("a", [size, size], { type })
    const b = Tensor.make("b", [size, size], { type })
    const c = Tensor.make("c", [size, size])
    yield* device.allocate([a, b, c])
    const [x, y] = [draw(size * size, 1), draw(size * size, 2)]
    device.write(a, x)
    device.write(b, y)
    const p = Program.record(`${kind} ${size}`, target)
    const views = { a: { tensor: a, ld: size }, b: { tensor: b, ld: size }, c: { tensor: c, ld: size } }
    if (kind === "nn") Ops.matmulNN(p, { ...views, m: size, n: size, k: size })
    else Ops.matmulTN(p, { ...views, m: size, n: size, k: size })
    const began = performance.now()
    const program = p.finish()
    const prepared = yield* device.prepare(program)
    device.submit(prepared)
    yield* device.idle
    const firstSeconds = (performance.now() - began) / 1000
    // once, on zeros: tn adds
    const got = yield* device.read(c)
    const next = random(3)
    const sampled = Array.from({ length: 256 }, () => {
      const [i, j] = [(next() >>> 8) % size, (next() >>> 8) % size]
      let sum = 0
      for (let k = 0; k < size; k++) sum += (kind === "nn" ? x[i * size + k]! : x[k * size + i]!) * y[k * size + j]!
      return [i * size + j, sum] as const
    })
    const seconds = yield* best([prepared])
    return {
      kernel: Kernel.key(program.dispatches[0]!.kernel),
      tflops: (2 * size ** 3) / seconds / 1e12,
      milliseconds: seconds * 1000,
      firstSeconds,
      ...verdict(worst(got, sampled), 1e-5)
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// attention

/** Two documents, the second of three quarters of the tokens; 8 query heads, 2 key heads. */
const attention = (tokens: number, headSize: number, type: Tensor.ElementType, family: Family) =>
  Effect.gen(function*() {
    const device = yield* Device
    const target: Target = { ...device.target, family }
    const [heads, kvHeads] = [8, 2]
    const ld = (heads + 2 * kvHeads) * headSize
    const width = heads * headSize
    const scale = 1 / Math.sqrt(headSize)
    const t = {
      qkv: Tensor.make("qkv", [tokens, ld], { type }),
      documentStart: Tensor.make("documentStart", [tokens], { type: "u32" }),
      out: Tensor.make("out", [tokens, width], { type }),
      lse: Tensor.make("lse", [tokens, heads]),
      dout: Tensor.make("dout", [tokens, width], { type }),
      delta: Tensor.make("delta", [tokens, heads]),
      dqkv: Tensor.make("dqkv", [tokens, ld], { type })
    }
    yield* device.allocate(Object.values(t))
    const [qkv, dout] = [draw(tokens * ld, 4), draw(tokens * width, 5)]
    const quarter = tokens / 4
    const start = Uint32Array.from({ length: tokens }, (_, i) => (i < quarter ? 0 : quarter))
    device.write(t.qkv, qkv)
    device.write(t.dout, dout)
    device.write(t.documentStart, start)
    const params = { rows: tokens, heads, kvHeads, scale, head4: headSize / 4 }
    const forward = Program.record("forward", target)
    const choice = Kernels.attention(target, headSize, t.qkv.type)
    forward.dispatch(choice.kernel, t, params, choice.grid(tokens, heads, headSize))
    const backward = Program.record("backward", target)
    Ops.attentionBackwardQ(backward, t, params)
    const keys = Kernels.attentionBackward(target, "kv", headSize, t.qkv.type)
    backward.dispatch(keys.kernel, t, params, keys.grid(tokens, kvHeads, headSize))
    const [f, b] = [yield* device.prepare(forward.finish()), yield* device.prepare(backward.finish())]
    device.submit(f, b)
    const [out, gradient] = [yield* device.read(t.out), yield* device.read(t.dqkv)]

    // a query's row on the host: its weights, its output, and what its scores' gradients are
    const dot = (x: Float32Array, i: number, y: Float32Array, j: number): number => {
      let sum = 0
      for (let d = 0; d < headSize; d++) sum += x[i + d]! * y[j + d]!
      return sum
    }
    const row = (q: number, h: number) => {
      const k = (heads + Math.floor(h / (heads / kvHeads))) * headSize
      const v = k + kvHeads * headSize
      const keys = Array.from({ length: q - start[q]! + 1 }, (_, i) => start[q]! + i)
      const scores = keys.map((j) => dot(qkv, q * ld + h * headSize, qkv, j * ld + k) * scale)
      const top = Math.max(...scores)
      const sum = scores.reduce((total, s) => total + Math.exp(s - top), 0)
      const weights = scores.map((s) => Math.exp(s - top) / sum)
      const dw = keys.map((j) => dot(dout, q * width + h * headSize, qkv, j * ld + v))
      const mean = weights.reduce((total, w, i) => total + w * dw[i]!, 0)
      const ds = weights.map((w, i) => w * (dw[i]! - mean) * scale)
      const along = (factors: ReadonlyArray<number>, at: number, d: number): number =>
        keys.reduce((total, j, i) => total + factors[i]! * qkv[j * ld + at + d]!, 0)
      return { k, v, weights, ds, along }
    }
    const wantOut: Array<readonly [number, number]> = []
    const wantGradient: Array<readonly [number, number]> = []
    for (const q of [0, quarter - 1, quarter, Math.floor(tokens * 0.6), tokens - 1]) {
      for (const h of [0, heads - 1]) {
        const { along, ds, k, v, weights } = row(q, h)
        for (const d of [0, headSize >> 1, headSize - 1]) {
          wantOut.push([q * width + h * headSize + d, along(weights, v, d)])
          wantGradient.push([q * ld + h * headSize + d, along(ds, k, d)])
        }
      }
    }
    // a key that few queries see: the third last
    const key = tokens - 3
    for (const kv of [0, kvHeads - 1]) {
      const each = heads / kvHeads
      const seen = Array.from({ length: 3 * each }, (_, i) => {
        const [q, h] = [key + Math.floor(i / each), kv * each + (i % each)]
        const { ds, weights } = row(q, h)
        return { q, h, w: weights[key - start[q]!]!, ds: ds[key - start[q]!]! }
      })
      for (const d of [0, headSize - 1]) {
        const dk = seen.reduce((sum, { ds, h, q }) => sum + ds * qkv[q * ld + h * headSize + d]!, 0)
        const dv = seen.reduce((sum, { h, q, w }) => sum + w * dout[q * width + h * headSize + d]!, 0)
        wantGradient.push([key * ld + (heads + kv) * headSize + d, dk])
        wantGradient.push([key * ld + (heads + kvHeads + kv) * headSize + d, dv])
      }
    }
    const [forwardSeconds, backwardSeconds] = [yield* best([f]), yield* best([b])]
    // pairs of a query and a key that it sees; 2 products forward, 7 backward (scores and their gradients twice)
    const pairs = heads * (quarter ** 2 + (tokens - quarter) ** 2) / 2
    const relative = type === "f16" ? 4e-3 : 1e-4
    return {
      forwardMilliseconds: forwardSeconds * 1000,
      backwardMilliseconds: backwardSeconds * 1000,
      forwardTflops: (pairs * headSize * 4) / forwardSeconds / 1e12,
      backwardTflops: (pairs * headSize * 14) / backwardSeconds / 1e12,
      forward: verdict(worst(out, wantOut), relative),
      backward: verdict(worst(gradient, wantGradient), relative)
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// steps

const step = (config: ModelConfig, rows: number, seqLen: number, options: ModelOptions) =>
  Effect.gen(function*() {
    const device = yield* Device
    const began = performance.now()
    const model = yield* Model.make(config, options)
    const optimizer = Optimizer.record(
      new Optimizer.OptimizerConfig({ sinks: "lazy" }),
      config,
      model.parameters,
      model.hyper,
      1,
      {
        target: device.target,
        lossScaling: options.precision === "f16",
        ...(config.sinks === undefined ? {} : { maxTouched: rows * config.sinks.activeUnits })
      }
    )
    yield* device.allocate(optimizer.tensors)
    for (const [tensor, data] of optimizer.initial) device.write(tensor, data)
    const pass = yield* model.compile({ rows, seqLen, output: "train" })
    const programs = [
      yield* device.prepare(optimizer.begin),
      pass.prepared,
      yield* device.prepare(optimizer.accumulate(pass.tensors.loss)),
      yield* device.prepare(optimizer.update)
    ]
    const tokens = rows * seqLen
    const hyper = new Float32Array(16)
    hyper[HYPER.learningRate] = 1e-4
    hyper[HYPER.beta1] = 0.9
    hyper[HYPER.beta2] = 0.95
    hyper[HYPER.eps] = 1e-8
    hyper[HYPER.correction1] = 1
    hyper[HYPER.correction2] = 1
    hyper[HYPER.gradClip] = 1
    hyper[HYPER.lossScale] = 1 / tokens
    hyper[HYPER.lossScale + 1] = 1 / tokens
    device.write(model.hyper, hyper)
    const batch = madeUp(rows, seqLen, config.vocabSize)
    const load = (): void => {
      const { units } = pass.load(batch, Sink.own)
      for (const [tensor, data] of optimizer.touch(units)) device.write(tensor, data)
    }
    load()
    device.submit(...programs)
    const [firstLoss, firstNorm] = yield* device.read(optimizer.stats)
    const setupSeconds = (performance.now() - began) / 1000
    const seconds = yield* best(programs, load)
    const [loss] = yield* device.read(optimizer.stats)

    // the dispatches of each kernel alone, one after another: where the time goes, roughly
    const dispatches = programs.flatMap(({ program }) => program.dispatches)
    const kernels = new Map<string, Array<Program.Dispatch>>()
    for (const dispatch of dispatches) {
      const name = `${dispatch.kernel.file}.${dispatch.kernel.entry}`
      kernels.set(name, [...(kernels.get(name) ?? []), dispatch])
    }
    const milliseconds = yield* Effect.forEach(kernels, ([name, own]) =>
      Effect.scoped(Effect.gen(function*() {
        const alone = yield* device.prepare({ name, clears: [], dispatches: own })
        return [name, Number(((yield* best([alone])) * 1000).toPrecision(3))] as const
      })))
    milliseconds.sort(([, x], [, y]) => y - x)
    const pairs = 6 * config.numHiddenLayers * config.numAttentionHeads * config.headSize * seqLen * tokens
    return {
      parameters: config.numParameters,
      activeParameters: config.numActiveParameters,
      compute: pass.gathered ? "gathered" : "masked",
      dispatches: dispatches.length,
      megabytes: device.counters.bytes / 2 ** 20,
      setupSeconds,
      milliseconds: seconds * 1000,
      tokensPerSecond: tokens / seconds,
      activeTflops: (6 * config.numActiveParameters * tokens + pairs) / seconds / 1e12,
      firstLoss,
      firstNorm,
      loss,
      correct: Math.abs(firstLoss! - Math.log(config.vocabSize)) < 1 && loss! < firstLoss!,
      kernelMilliseconds: Object.fromEntries(milliseconds)
    }
  })

/** The NULLs model with blocks of 16 neurons, which the kernels gather, in place of single ones. */
const gatheredNulls = new ModelConfig({
  ...presets["nulls-1b"],
  intermediateSize: 512 + 7680,
  sinks: new Sink.SinkConfig({ pool: 7680, active: 96 })
})

const models: ReadonlyArray<readonly [string, ModelConfig, rows: number, seqLen: number]> = small
  ? [["tiny", presets.tiny, 2, 64]]
  : [
    ["tiny", presets.tiny, 64, 256],
    ["smol-135m", presets["smol-135m"], 8, 1024],
    ["smol-360m", presets["smol-360m"], 8, 1024],
    ["nulls-1b, blocks of 16", gatheredNulls, 8, 1024]
  ]

const main = Effect.gen(function*() {
  const device = yield* Device
  const wanted = (name: string): boolean => only === undefined || only.includes(name)
  const types = device.features.has("shader-f16") ? ["f32", "f16"] as const : ["f32"] as const
  // tensor runs where it is the device's own; elsewhere its line says why not
  const familiesOf = (type: Tensor.ElementType): ReadonlyArray<Family> =>
    type === "f16" ? ["gpu", "tensor"] : ["plain", "gpu"]
  if (wanted("products")) {
    for (const type of types) {
      for (const size of small ? [128, 200] : [1000, 1024, 2048, 4096]) {
        for (const kind of ["nn", "tn"] as const) {
          for (const family of familiesOf(type)) {
            const work = family === "tensor" && device.target.family !== "tensor"
              ? Effect.fail("no f16 subgroup matrices here")
              : product(kind, size, type, family)
            yield* part("product", { kind, size, type, family }, work)
          }
        }
      }
    }
  }
  if (wanted("attention")) {
    for (const type of types) {
      for (const tokens of small ? [128, 256] : [1024, 2048, 4096, 8192]) {
        for (const headSize of small ? [32] : [64, 128]) {
          for (const family of type === "f32" && tokens <= 2048 ? ["plain", "gpu"] as const : ["gpu"] as const) {
            yield* part("attention", { tokens, headSize, type, family }, attention(tokens, headSize, type, family))
          }
        }
      }
    }
  }
  if (wanted("steps")) {
    for (const [name, config, rows, seqLen] of models) {
      for (const precision of types) {
        const line = { name, rows, seqLen, precision, family: device.target.family }
        yield* part("step", line, step(config, rows, seqLen, { precision }))
      }
    }
  }
})

/** Everything an adapter says of itself. */
const describe = Effect.gen(function*() {
  const open = yield* NodeDevice.openGpu()
  const { features, info, limits } = open.adapter
  const named = (object: object): Record<string, unknown> =>
    Object.fromEntries(
      [...new Set([...Object.keys(object), ...Object.getOwnPropertyNames(Object.getPrototypeOf(object))])]
        .map((name) => [name, (object as Record<string, unknown>)[name]] as const)
        .filter(([, value]) => ["number", "string", "boolean"].includes(typeof value))
    )
  const configs = (info as { readonly subgroupMatrixConfigs?: Iterable<object> }).subgroupMatrixConfigs ?? []
  const device = yield* Device.make(open)
  print({
    bench: "adapter",
    name: open.name,
    kind: open.kind,
    reason: open.reason,
    target: device.target,
    info: named(info),
    features: [...features].sort(),
    limits: named(limits),
    subgroupMatrixConfigs: [...configs].map(named),
    node: process.versions.node
  })
  // kernels of the family that the features suggest; on software, the GPU's, since those are what is looked at
  return device.kind === "hardware" ? device : { ...device, target: { ...device.target, family: "gpu" as const } }
})

await Effect.runPromise(Effect.scoped(Effect.provide(main, Layer.scoped(Device, describe))))
