/**
 * Benchmarks that a stranger can rerun: `npm run bench` (`-- --quick` for a short one, `-- --save` to keep the lines in
 * results/). JSON lines on stdout, a table on stderr. Times are the best and the median of several windows of steps; on a
 * shared machine only ratios within one run mean something.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { mkdirSync, writeFileSync } from "node:fs"
import process from "node:process"
import type { Batch } from "../../src/Batch.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { HYPER, Model } from "../../src/Model.ts"
import { ModelConfig, presets } from "../../src/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Ops from "../../src/Ops.ts"
import * as Optimizer from "../../src/Optimizer.ts"
import * as Sink from "../../src/Sink.ts"

const quick = process.argv.includes("--quick")
const windows = quick ? 5 : 15
const lines: Array<Record<string, unknown>> = []

interface Time {
  readonly best: number
  readonly median: number
}

/** Seconds of one `work`, over windows that each last at least `least` seconds. */
const time = (work: () => void, least = 0.1): Effect.Effect<Time, unknown, Device> =>
  Effect.gen(function*() {
    const device = yield* Device
    const once = Effect.gen(function*() {
      work()
      yield* device.idle
    })
    yield* once
    let t = performance.now()
    yield* once
    const repeats = Math.max(1, Math.ceil((least * 1000) / (performance.now() - t)))
    const seconds: Array<number> = []
    for (let w = 0; w < windows; w++) {
      t = performance.now()
      for (let i = 0; i < repeats; i++) work()
      yield* device.idle
      seconds.push((performance.now() - t) / 1000 / repeats)
    }
    seconds.sort((a, b) => a - b)
    return { best: seconds[0]!, median: seconds[seconds.length >> 1]! }
  })

const matmul = (kind: "nn" | "tn", m: number, n: number, k: number): Effect.Effect<number, unknown, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const a = Tensor.make("a", kind === "nn" ? [m, k] : [k, m])
    const b = Tensor.make("b", [k, n])
    const c = Tensor.make("c", [m, n])
    yield* device.allocate([a, b, c])
    const p = Program.record(`${kind} ${m}x${n}x${k}`)
    const views = { a: { tensor: a, ld: a.shape[1]! }, b: { tensor: b, ld: n }, c: { tensor: c, ld: n } }
    if (kind === "nn") Ops.matmulNN(p, { ...views, m, n, k })
    else Ops.matmulTN(p, { ...views, m, n, k })
    const prepared = yield* device.prepare(p.finish())
    const { best, median } = yield* time(() => device.submit(prepared))
    const flops = 2 * m * n * k
    lines.push({ bench: `matmul ${kind}`, shape: `${m}x${n}x${k}`, gflops: flops / best / 1e9, gflopsMedian: flops / median / 1e9 })
    return flops / best
  })

const rowsOf = (rows: number, seqLen: number, vocab: number): Batch => {
  const n = rows * seqLen
  const tokens = Uint32Array.from({ length: n }, (_, i) => (Math.imul(i + 1, 2654435761) >>> 0) % vocab)
  return {
    rows,
    seqLen,
    tokens,
    targets: tokens.slice().reverse(),
    positions: Uint32Array.from({ length: n }, (_, i) => i % seqLen),
    documentStart: Uint32Array.from({ length: n }, (_, i) => i - (i % seqLen)),
    ids: BigUint64Array.from({ length: n }, (_, i) => BigInt(1 + Math.floor(i / seqLen)))
  }
}

interface StepOptions {
  readonly compute?: "gathered" | "masked"
  readonly sinks?: "dense" | "lazy"
}

const step = (
  name: string,
  config: ModelConfig,
  rows: number,
  seqLen: number,
  bestMatmul: number,
  options: StepOptions = {}
): Effect.Effect<Time, unknown, Device> =>
  Effect.scoped(Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model.make(config)
    const optimizer = Optimizer.record(
      new Optimizer.OptimizerConfig({ sinks: options.sinks ?? "dense" }), config, model.parameters, model.hyper, 1
    )
    yield* device.allocate(optimizer.tensors)
    const pass = yield* model.compile({
      rows, seqLen, output: "train", ...(options.compute === undefined ? {} : { compute: options.compute })
    })
    const [begin, accumulate, update] = yield* Effect.all([
      device.prepare(optimizer.begin),
      device.prepare(optimizer.accumulate(pass.tensors.loss)),
      device.prepare(optimizer.update)
    ])
    device.write(model.hyper, Float32Array.of(1 / (rows * seqLen)), HYPER.lossScale)
    const batch = rowsOf(rows, seqLen, config.vocabSize)
    const measured = yield* time(() => {
      pass.load(batch, Sink.own)
      device.submit(begin, pass.prepared, accumulate, update)
    }, 0.3)
    const tokens = rows * seqLen
    // 6 FLOPs a parameter and token, and attention's products: forward, and twice that backward
    const attention = 6 * config.numHiddenLayers * config.numAttentionHeads * config.headSize * seqLen * tokens
    const active = 6 * config.numActiveParameters * tokens + attention
    lines.push({
      bench: "step",
      name,
      rows,
      seqLen,
      compute: pass.gathered ? "gathered" : "masked",
      tokensPerSecond: tokens / measured.best,
      tokensPerSecondMedian: tokens / measured.median,
      activeGflops: active / 1e9,
      denseGflops: (6 * config.numParameters * tokens + attention) / 1e9,
      shareOfBestMatmul: active / measured.best / bestMatmul
    })
    return measured
  }))

const ratio = (bench: string, ours: number, peer: number, peerName: string) =>
  lines.push({ bench, ours, peer, peerName, ratio: peer / ours })

const main = Effect.gen(function*() {
  const device = yield* Device
  let bestMatmul = 0
  for (const [m, n, k] of [[512, 512, 512], [256, 192, 64], [256, 64, 192]] as const) {
    for (const kind of ["nn", "tn"] as const) bestMatmul = Math.max(bestMatmul, yield* Effect.scoped(matmul(kind, m, n, k)))
  }
  const demo = new ModelConfig({
    vocabSize: 256, hiddenSize: 32, numHiddenLayers: 2, numAttentionHeads: 2, intermediateSize: 96 + 2048,
    sinks: new Sink.SinkConfig({ pool: 2048, active: 32 })
  })
  const { sinks: _, ...standard } = demo
  yield* step("demo, standard", new ModelConfig({ ...standard, intermediateSize: 96 }), 4, 64, bestMatmul)
  yield* step("demo, sinks", demo, 4, 64, bestMatmul)
  yield* step("tiny", presets.tiny, 4, 64, bestMatmul)

  // one layer at the NULLs shape, its blocks of 16 instead of single neurons
  const nulls = new ModelConfig({
    vocabSize: 512, hiddenSize: 960, numHiddenLayers: 1, numAttentionHeads: 15, numKeyValueHeads: 5, headDim: 128,
    intermediateSize: 512 + 7680, sinks: new Sink.SinkConfig({ pool: 7680, active: 96 })
  })
  const gathered = yield* step("one layer of NULLs", nulls, 2, 64, bestMatmul, { sinks: "lazy" })
  const masked = yield* step("one layer of NULLs", nulls, 2, 64, bestMatmul, { compute: "masked" })
  ratio("NULLs step, gathered against masked", gathered.best, masked.best, "our masked path, same adapter")

  let first: number | undefined
  for (const pool of quick ? [1024, 8192] : [1024, 4096, 16384, 32768]) {
    const config = new ModelConfig({ ...demo, intermediateSize: 96 + pool, sinks: new Sink.SinkConfig({ pool, active: 32 }) })
    const lazy = yield* step(`pool of ${pool}, lazy AdamW`, config, 4, 64, bestMatmul, { sinks: "lazy" })
    first ??= lazy.best
    ratio(`pool of ${pool}`, lazy.best, first, "pool of 1024")
  }
  const stamp = {
    adapter: device.name,
    node: process.versions.node,
    webgpu: "0.6.2",
    features: [...device.features],
    windows
  }
  const text = lines.map((line) => JSON.stringify({ ...line, ...stamp })).join("\n")
  process.stdout.write(`${text}\n`)
  for (const line of lines) {
    const { bench, name, shape, ...rest } = line
    const shown = Object.entries(rest).map(([key, value]) =>
      `${key} ${typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : value}`)
    process.stderr.write(`${[bench, name, shape].filter((x) => x !== undefined).join(" ")}: ${shown.join(", ")}\n`)
  }
  if (process.argv.includes("--save")) {
    const folder = new URL("results/", import.meta.url)
    mkdirSync(folder, { recursive: true })
    writeFileSync(new URL(`${device.name.replace(/[^A-Za-z0-9]+/g, "-").replace(/-$/, "").toLowerCase()}.jsonl`, folder), `${text}\n`)
  }
})

await Effect.runPromise(Effect.scoped(Effect.provide(main, NodeDevice.layer())))
