/**
 * Benchmarks that a stranger can rerun: `npm run bench`. `-- --quick` takes under five minutes on two cores, `-- --save`
 * keeps the lines in results/<adapter>.jsonl, `-- --only=step,attention` measures these alone, `-- --profile` times every
 * kernel of training steps by timestamps, as `memsinks profile` does. JSON lines on stdout, a Markdown table on stderr.
 *
 * Times are the best and the median of several windows; what is compared takes turns, window by window, so that whatever
 * else the machine does meets all of it. On a shared machine only ratios within one run mean something.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import process from "node:process"
import { Device, type Prepared } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import { type Target } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { candidates } from "../../src/model/Autotune.ts"
import { Model, type ModelOptions } from "../../src/model/Model.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import * as Ops from "../../src/model/Ops.ts"
import { parametersOf } from "../../src/model/Parameters.ts"
import { type CompiledPass, HYPER } from "../../src/model/Pass.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import * as Optimizer from "../../src/train/Optimizer.ts"
import * as Profile from "../../src/train/Profile.ts"
import { type Line, markdown } from "./table.ts"

const quick = process.argv.includes("--quick")
const only = process.argv.find((argument) => argument.startsWith("--only="))?.slice("--only=".length)
const windows = quick ? 5 : 15
/** Seconds that the slowest of what is compared may take in all: where one run takes long, fewer windows do. */
const longest = quick ? 10 : 60
const lines: Array<Line> = []

type Run = Effect.Effect<void, unknown, Device>

interface Time {
  readonly best: number
  readonly median: number
}

/** Seconds of one `run` of each, in turns, over windows that each last at least `least` seconds. */
const race = (runs: ReadonlyArray<Run>, least = 0.1): Effect.Effect<ReadonlyArray<Time>, unknown, Device> =>
  Effect.gen(function*() {
    const repeats: Array<number> = []
    const seconds: ReadonlyArray<Array<number>> = runs.map(() => [])
    let slowest = 0
    for (const run of runs) {
      yield* run
      const began = performance.now()
      yield* run
      const took = (performance.now() - began) / 1000
      slowest = Math.max(slowest, took)
      repeats.push(Math.max(1, Math.ceil(least / took)))
    }
    const rounds = Math.min(windows, Math.max(2, Math.floor(longest / slowest)))
    for (let w = 0; w < rounds; w++) {
      for (const [i, run] of runs.entries()) {
        const began = performance.now()
        for (let r = 0; r < repeats[i]!; r++) yield* run
        seconds[i]!.push((performance.now() - began) / 1000 / repeats[i]!)
      }
    }
    return seconds.map((list) => {
      list.sort((a, b) => a - b)
      return { best: list[0]!, median: list[list.length >> 1]! }
    })
  })

/** Submit, several times over, and wait. */
const replay = (prepared: ReadonlyArray<Prepared>, times = 1): Run =>
  Effect.gen(function*() {
    const device = yield* Device
    for (let i = 0; i < times; i++) device.submit(...prepared)
    yield* device.idle
  })

const note = (line: Line): void => {
  lines.push(line)
  process.stderr.write(`${line.bench} ${line.name}\n`)
}

const compare = (bench: string, name: string, ours: number, peer: number, peerName: string): void =>
  note({ bench, name, ours, peer, peerName, ratio: peer / ours, unit: "s" })

// ---------------------------------------------------------------------------------------------------------------
// products

const product = (
  kind: "nn" | "tn",
  [m, n, k]: readonly [number, number, number],
  target: Target,
  type: Tensor.ElementType
): Effect.Effect<Run, unknown, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const a = Tensor.make("a", kind === "nn" ? [m, k] : [k, m], { type })
    const b = Tensor.make("b", [k, n], { type })
    const c = Tensor.make("c", [m, n])
    yield* device.allocate([a, b, c])
    const p = Program.record(`${kind} ${m}x${n}x${k}`, target)
    const views = { a: { tensor: a, ld: a.shape[1]! }, b: { tensor: b, ld: n }, c: { tensor: c, ld: n } }
    if (kind === "nn") Ops.matmulNN(p, { ...views, m, n, k })
    else Ops.matmulTN(p, { ...views, m, n, k })
    return replay([yield* device.prepare(p.finish())])
  })

/** Every family on square products and on those of a training step; returns the best rate of all, in FLOP/s. */
const products = Effect.gen(function*() {
  const device = yield* Device
  const big = device.kind === "hardware"
  const shapes: ReadonlyArray<readonly [number, number, number]> = big
    ? [[4096, 4096, 4096], [8192, 2560, 960]]
    : [[512, 512, 512], [1024, 256, 256], [256, 192, 64]]
  const types = device.features.has("shader-f16") && (big || !quick) ? ["f32", "f16"] as const : ["f32"] as const
  let best = 0
  for (const type of types) {
    for (const shape of shapes) {
      for (const kind of ["nn", "tn"] as const) {
        yield* Effect.scoped(Effect.gen(function*() {
          const able = candidates(device)
          const runs = yield* Effect.forEach(able, (family) => product(kind, shape, { ...device.target, family }, type))
          const times = yield* race(runs)
          const flops = 2 * shape[0] * shape[1] * shape[2]
          times.forEach((time, i) => {
            if (type === "f32") best = Math.max(best, flops / time.best)
            note({
              bench: "matmul",
              name: `${kind} ${shape.join("x")} ${type} ${able[i]}`,
              gflops: flops / time.best / 1e9,
              gflopsMedian: flops / time.median / 1e9
            })
          })
        }))
      }
    }
  }
  return best
})

// ---------------------------------------------------------------------------------------------------------------
// steps

interface StepOptions extends ModelOptions {
  readonly sinks?: "dense" | "lazy"
}

interface Step {
  readonly pass: CompiledPass
  /** What a step submits. */
  readonly programs: ReadonlyArray<Prepared>
  /** Host work of a step: masks, lists, the batch. */
  readonly load: () => void
  readonly run: Run
  readonly tokens: number
  readonly activeFlops: number
  readonly denseFlops: number
}

const stepOf = (
  config: ModelConfig,
  rows: number,
  seqLen: number,
  options: StepOptions = {}
): Effect.Effect<Step, unknown, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model.make(config, options)
    const optimizer = Optimizer.record(
      new Optimizer.OptimizerConfig({ sinks: options.sinks ?? "lazy" }),
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
    device.write(model.hyper, Float32Array.of(1 / tokens, 1 / tokens), HYPER.lossScale)
    const batch = Profile.madeUp(rows, seqLen, config.vocabSize)
    const load = () => {
      const { units } = pass.load(batch, Sink.own)
      for (const [tensor, data] of optimizer.touch(units)) device.write(tensor, data)
    }
    // 6 FLOPs a parameter and token, and attention's products: forward, and twice that backward
    const attention = 6 * config.numHiddenLayers * config.numAttentionHeads * config.headSize * seqLen * tokens
    return {
      pass,
      programs,
      load,
      run: Effect.suspend(() => {
        load()
        return replay(programs)
      }),
      tokens,
      activeFlops: 6 * config.numActiveParameters * tokens + attention,
      denseFlops: 6 * config.numParameters * tokens + attention
    }
  })

const noteStep = (name: string, step: Step, time: Time, bestRate: number): void =>
  note({
    bench: "step",
    name,
    compute: step.pass.gathered ? "gathered" : "masked",
    tokensPerSecond: step.tokens / time.best,
    tokensPerSecondMedian: step.tokens / time.median,
    activeGflops: step.activeFlops / 1e9,
    denseGflops: step.denseFlops / 1e9,
    shareOfBestMatmul: step.activeFlops / time.best / bestRate,
    scratchBytes: step.programs.reduce((n, { scratchBytes }) => n + scratchBytes, 0)
  })

/** Time steps in turns and note each. */
const steps = (
  bestRate: number,
  list: ReadonlyArray<readonly [string, ModelConfig, rows: number, seqLen: number, StepOptions?]>
): Effect.Effect<ReadonlyArray<Time>, unknown, Device> =>
  Effect.scoped(Effect.gen(function*() {
    const made = yield* Effect.forEach(list,
      ([, config, rows, seqLen, options]) => stepOf(config, rows, seqLen, options))
    const times = yield* race(made.map((step) => step.run), 0.3)
    list.forEach(([name], i) => noteStep(name, made[i]!, times[i]!, bestRate))
    return times
  }))

const demo = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 96 + 2048,
  sinks: new Sink.SinkConfig({ pool: 2048, active: 32 })
})

const withPool = (config: ModelConfig, pool: number): ModelConfig =>
  new ModelConfig({
    ...config,
    intermediateSize: config.general + pool,
    sinks: new Sink.SinkConfig({ ...config.sinks!, pool })
  })

const withoutSinks = (config: ModelConfig): ModelConfig => {
  const { sinks: _, ...rest } = config
  return new ModelConfig({ ...rest, intermediateSize: config.general })
}

/** One layer at the NULLs shape, its blocks of 16 instead of single neurons. */
const nulls = new ModelConfig({
  vocabSize: 512,
  hiddenSize: 960,
  numHiddenLayers: 1,
  numAttentionHeads: 15,
  numKeyValueHeads: 5,
  headDim: 128,
  intermediateSize: 512 + 7680,
  sinks: new Sink.SinkConfig({ pool: 7680, active: 96 })
})

/** The same with single neurons, as the paper has them. */
const nullsSingle = new ModelConfig({
  ...nulls,
  intermediateSize: 500 + 7692,
  sinks: new Sink.SinkConfig({ pool: 7692, active: 100, block: 1 })
})

/** The MLP alone, forward and backward, its sinks gathered or the whole pool masked. */
const mlpOf = (compute: "gathered" | "masked", rows: number,
  seqLen: number): Effect.Effect<Run, unknown, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model.make(nulls, { compute })
    yield* device.allocate(model.parameters.map((p) => p.gradient))
    const pass = yield* model.compile({ rows, seqLen, output: "train" })
    pass.load(Profile.madeUp(rows, seqLen, nulls.vocabSize), Sink.own)
    const layer = parametersOf(nulls).layers[0]!
    yield* device.allocate([layer.gateUp, layer.down].flatMap((p) => [p.value, p.gradient]))
    const n = rows * seqLen
    const p = Program.record(`mlp ${compute}`, device.target)
    const [x, dy] = [p.scratch("x", [n, nulls.hiddenSize]), p.scratch("dy", [n, nulls.hiddenSize])]
    const mlp = Ops.mlp(p, x, dy, layer, n, {
      general: nulls.general,
      pool: nulls.pool,
      block: 16,
      gathered: pass.tensors.gather === undefined
        ? undefined
        : { active: nulls.sinks!.active, maxSegments: pass.maxSegments, inputs: pass.tensors.gather }
    }, pass.tensors)
    mlp.backward(dy)
    return replay([yield* device.prepare(p.finish())])
  })

/** Attention alone, forward and backward, on one document a row. */
const attentionOf = (seqLen: number) =>
  Effect.gen(function*() {
    const device = yield* Device
    const shape = { heads: 2, kvHeads: 2, headSize: 32 }
    const u32 = (name: string, ...dims: Array<number>) => Tensor.make(name, dims, { type: "u32" })
    const inputs = {
      positions: u32("positions", seqLen),
      documentStart: u32("documentStart", seqLen),
      rope: Tensor.make("rope", [seqLen, 16, 2])
    }
    yield* device.allocate(Object.values(inputs))
    const p = Program.record(`attention ${seqLen}`, device.target)
    const attention = Ops.attention(p, p.scratch("qkv", [seqLen, 192]), seqLen, shape, inputs)
    attention.backward(p.scratch("dy", [seqLen, 64]))
    const prepared = yield* device.prepare(p.finish())
    // a pair of tokens: 2 products forward, 5 backward, of 2 FLOPs an element
    return { run: replay([prepared]), bytes: prepared.scratchBytes, flops: seqLen ** 2 / 2 * 64 * 14 }
  })

/** Where a step's time goes: the dispatches of each kernel alone. */
const profile = (name: string, config: ModelConfig, rows: number, seqLen: number, bestRate: number) =>
  Effect.scoped(Effect.gen(function*() {
    const device = yield* Device
    const step = yield* stepOf(config, rows, seqLen)
    step.load()
    const dispatches = step.programs.flatMap(({ program }) => program.dispatches)
    const kernels = [...new Set(dispatches.map(({ kernel }) => `${kernel.file}.${kernel.entry}`))]
    const runs = yield* Effect.forEach(kernels, (kernel) =>
      Effect.gen(function*() {
        const own = dispatches.filter((d) => `${d.kernel.file}.${d.kernel.entry}` === kernel)
        // many times over in one submit: a kernel alone is too short to time
        const repeated = Array.from({ length: 20 }, () => own).flat()
        const run = replay([yield* device.prepare({ name: kernel, clears: [], dispatches: repeated })])
        const bytes = own.reduce((n, d) => n + d.tensors.reduce((m, tensor) => m + Tensor.byteLength(tensor), 0), 0)
        return { kernel, run, bytes, count: own.length }
      }))
    const times = yield* race(runs.map(({ run }) => run), 0.02)
    const seconds = times.map(({ best }) => best / 20)
    const all = seconds.reduce((a, b) => a + b, 0)
    runs.forEach(({ bytes, count, kernel }, i) =>
      note({
        bench: "kernel",
        name: `${name}: ${kernel}`,
        dispatches: count,
        milliseconds: seconds[i]! * 1000,
        share: seconds[i]! / all,
        gigabytesPerSecond: bytes / seconds[i]! / 1e9
      })
    )

    const host = replay(step.programs, 10)
    const full: Run = Effect.gen(function*() {
      for (let i = 0; i < 10; i++) {
        step.load()
        device.submit(...step.programs)
      }
      yield* device.idle
    })
    const loads: Run = Effect.sync(() => {
      for (let i = 0; i < 10; i++) step.load()
    })
    const [whole, bare, load] = yield* race([full, host, loads], 0.3)
    note({
      bench: "outside kernels",
      name,
      stepMilliseconds: whole!.best * 100,
      devicesShare: Math.min(1, bare!.best / whole!.best),
      shareOutside: Math.max(0, 1 - bare!.best / whole!.best),
      hostMilliseconds: load!.best * 100,
      kernelsMilliseconds: all * 1000,
      bestMatmulGflops: bestRate / 1e9
    })
  }))

/** Every kernel of training steps, by timestamps. */
const profiles = Effect.gen(function*() {
  const device = yield* Device
  const big = device.kind === "hardware"
  for (const precision of device.features.has("shader-f16") ? ["f32", "f16"] as const : ["f32"] as const) {
    const [model, rows, seqLen] = big ? [presets["smol-360m"], 8, 1024] as const : [presets.tiny, 8, 128] as const
    const name = `${big ? "smol-360m" : "tiny"}, ${precision}, ${rows} x ${seqLen}`
    const found = yield* Effect.scoped(Profile.profile(model, { rows, seqLen, precision, steps: quick ? 3 : 9 }))
    const { byKernel, classes, dispatches, ops: _, ...whole } = found
    note({ bench: "profile", name, ...whole, dispatches: dispatches.length })
    for (const row of classes) note({ bench: "profile by kind", ...row, name: `${name}: ${row.name}` })
    for (const row of byKernel) note({ bench: "profile by kernel", ...row, name: `${name}: ${row.name}` })
  }
})

const section = (name: string, work: Effect.Effect<void, unknown, Device>): Effect.Effect<void, unknown, Device> =>
  only === undefined || only.split(",").includes(name) ? work : Effect.void

const profiling = process.argv.includes("--profile")

const measured = Effect.gen(function*() {
  const device = yield* Device
  if (profiling) return yield* profiles
  const best = yield* products
  yield* section("step", Effect.asVoid(steps(best, [
    ["demo, standard, 4 x 64", withoutSinks(demo), 4, 64],
    ["demo, sinks, 4 x 64", demo, 4, 64],
    ["demo, sinks, dense AdamW, 4 x 64", demo, 4, 64, { sinks: "dense" }],
    ["tiny, standard, 8 x 128", withoutSinks(presets.tiny), 8, 128],
    ["tiny, sinks, 8 x 128", presets.tiny, 8, 128],
    ["tiny, sinks, recomputed, 8 x 128", presets.tiny, 8, 128, { recompute: true }],
    ...(device.features.has("shader-f16")
      ? [["tiny, sinks, f16, 8 x 128", presets.tiny, 8, 128, { precision: "f16" }] as const]
      : [])
  ])))
  yield* section("profile", profile("tiny, sinks, 8 x 128", presets.tiny, 8, 128, best))
  yield* section("nulls", Effect.gen(function*() {
    const [gathered, masked, single] = yield* steps(best, [
      ["one layer of NULLs, 2 x 64", nulls, 2, 64],
      ["one layer of NULLs, masked, 2 x 64", nulls, 2, 64, { compute: "masked", sinks: "dense" }],
      ["one layer of NULLs, single neurons, 2 x 64", nullsSingle, 2, 64]
    ])
    compare("NULLs step", "gathered against masked", gathered!.best, masked!.best, "masked path, same adapter")
    compare("NULLs step", "single neurons against masked", single!.best, masked!.best, "masked path, same adapter")
    const [mlp, mlpMasked] = yield* Effect.scoped(Effect.flatMap(
      Effect.all([mlpOf("gathered", 2, 64), mlpOf("masked", 2, 64)]),
      (runs) => race(runs)
    ))
    compare("NULLs MLP", "forward + backward, gathered against masked", mlp!.best, mlpMasked!.best,
      "masked path, same adapter")
  }))
  yield* section("pool", Effect.gen(function*() {
    const pools = quick ? [1024, 8192, 32768] : [1024, 2048, 4096, 8192, 16384, 32768]
    const times = yield* steps(best,
      pools.map((pool) => [`demo, pool of ${pool}, 8 x 64`, withPool(demo, pool), 8, 64]))
    times.forEach((time, i) => compare("pool", `of ${pools[i]}`, time.best, times[0]!.best, `pool of ${pools[0]}`))
  }))
  yield* section("batch", Effect.asVoid(
    steps(best,
      (quick ? [1, 8] : [1, 2, 4, 8, 16, 32]).map((rows) => [`tiny, sinks, ${rows} x 128`, presets.tiny, rows, 128]))
  ))
  yield* section("width", Effect.asVoid(steps(best, (quick ? [64, 128] : [32, 64, 128, 256]).map((width) => [
    `width ${width}, 4 x 128`,
    new ModelConfig({
      ...presets.tiny,
      hiddenSize: width,
      numAttentionHeads: width / 32,
      intermediateSize: 3 * width + 2048
    }),
    4,
    128
  ]))))
  yield* section("attention",
    Effect.forEach(quick ? [256, 1024] : [256, 512, 1024, 2048, 4096, 8192],
      (seqLen) =>
        Effect.scoped(Effect.gen(function*() {
          const { bytes, flops, run } = yield* attentionOf(seqLen)
          const [time] = yield* race([run])
          note({
            bench: "attention",
            name: `forward + backward, ${seqLen} tokens, 2 heads of 32`,
            milliseconds: time!.best * 1000,
            gflops: flops / time!.best / 1e9,
            bytesPerToken: bytes / seqLen
          })
        })), { discard: true }))
})

const main = Effect.gen(function*() {
  yield* measured
  const device = yield* Device
  const stamp = {
    adapter: device.name,
    kernels: device.target.family,
    driver: device.driver,
    node: process.versions.node,
    webgpu: "0.6.2",
    features: [...device.features],
    windows
  }
  const text = lines.map((line) => JSON.stringify({ ...line, ...stamp })).join("\n")
  process.stdout.write(`${text}\n`)
  process.stderr.write(`\n${markdown(lines)}\n`)
  if (process.argv.includes("--save")) {
    const folder = new URL("results/", import.meta.url)
    mkdirSync(folder, { recursive: true })
    const file = device.name.replace(/[^A-Za-z0-9]+/g, "-").replace(/-$/, "").toLowerCase()
    const path = new URL(`${file}.jsonl`, folder)
    // with --only, what was not measured this time stays
    const others = (only === undefined && !profiling) || !existsSync(path) ?
      [] :
      readFileSync(path, "utf8").trim().split("\n")
        .filter((line) => !lines.some(({ bench }) => bench === (JSON.parse(line) as Line).bench))
    writeFileSync(path, [...others, text, ""].join("\n"))
  }
})

// timestamps in steps of 65.5 us say nothing of most kernels
const layer = NodeDevice.layer(profiling ? { disableToggles: ["timestamp_quantization"] } : {})
await Effect.runPromise(Effect.scoped(Effect.provide(main, layer)))
