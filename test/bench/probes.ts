/**
 * What probing costs: `node --import tsx test/bench/probes.ts`. A real training in which every step is followed by a probe
 * of 64 sequences in two states of the sinks, against the same training without; windows of both take turns within one
 * run, so that whatever else the machine does meets both. `--save` keeps the lines in results/<adapter>.probes.jsonl.
 *
 * `probeRatio` is what the probe takes, in steps. A forward pass is about a third of a step, so where tokens cost alike and
 * nothing waits, 64 sequences in two states take 128 / (3 rows) steps of so many rows: `arithmetic`. CPU time is that of all
 * threads; on an adapter that is the processor it is what a busy machine disturbs least. `load`: what else it did.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { mkdirSync, writeFileSync } from "node:fs"
import { loadavg } from "node:os"
import process from "node:process"
import { knowledgeOf, passesOf } from "../../pipelines/dynamics/Probe.ts"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { makeRandomText } from "../support/support.ts"
import { type Line, markdown } from "./table.ts"

const SEQUENCES = 64
const MASKS = ["own", "off"] as const
const SEQ_LEN = 64
/** Steps of a window, steps before the first, and windows of either kind. */
const [WINDOW, WARM_UP, WINDOWS] = [20, 20, 3]

const modelOf = (hiddenSize: number): ModelConfig =>
  new ModelConfig({
    vocabSize: 256,
    hiddenSize,
    numHiddenLayers: 2,
    numAttentionHeads: hiddenSize / 32,
    intermediateSize: 3 * hiddenSize + 2048,
    sinks: new Sink.SinkConfig({ pool: 2048, active: 32 })
  })

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

/** Seconds, by the clock and of the processor, since the process began. */
const now = () => {
  const { system, user } = process.cpuUsage()
  return { wall: performance.now() / 1000, cpu: (system + user) / 1e6 }
}

/** Seconds of a step, alone and with a probe behind it; a pair of windows each. */
const measure = (config: ModelConfig, rows: number) =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const data = yield* DataStream
    const probed = data.split("heldOut").slice(0, SEQUENCES).map((row) => ({ row, group: "heldOut" }))
    const looking = { batchSize: rows, seqLen: SEQ_LEN, promptTokens: 16 }
    const shown = () => ({ exposures: 0, since: -1 })
    const probe = knowledgeOf(model, probed, MASKS, { step: 0, shown }, looking)
    /** The window that a step ends, from 0 on; odd ones are probed. The warm-up is none. */
    const windowOf = (step: number): number => Math.ceil((step - WARM_UP) / WINDOW) - 1
    const times: Array<ReturnType<typeof now>> = []
    const observer = {
      due: (step: number) => step >= WARM_UP && (windowOf(step) % 2 !== 0 || (step - WARM_UP) % WINDOW === 0),
      look: (step: number) =>
        Effect.gen(function*() {
          if (windowOf(step) % 2 !== 0) yield* probe
          if ((step - WARM_UP) % WINDOW !== 0) return
          yield* device.idle
          times.push(now())
        })
    }
    yield* probe
    const training = new TrainConfig({
      steps: WARM_UP + 2 * WINDOWS * WINDOW,
      optimizer: new OptimizerConfig({ schedule: "constant", sinks: "lazy", sinkLearningRateRatio: 4 })
    })
    yield* Effect.flatMap(Trainer, (trainer) => Stream.runDrain(trainer.run)).pipe(
      Effect.provide(Trainer.layer(training, { observer })),
      Effect.provide(Checkpoints.layerMemory)
    )
    const took = times.slice(1).map((time, i) => ({
      wall: (time.wall - times[i]!.wall) / WINDOW,
      cpu: (time.cpu - times[i]!.cpu) / WINDOW
    }))
    const pairs = Array.from({ length: WINDOWS }, (_, i) => ({ alone: took[2 * i]!, both: took[2 * i + 1]! }))
    const ratio = (of: "wall" | "cpu") => median(pairs.map(({ alone, both }) => (both[of] - alone[of]) / alone[of]))
    return {
      stepMilliseconds: median(pairs.map(({ alone }) => alone.wall)) * 1000,
      probedStepMilliseconds: median(pairs.map(({ both }) => both.wall)) * 1000,
      probeRatio: ratio("wall"),
      probeRatioCpu: ratio("cpu"),
      arithmetic: MASKS.length * SEQUENCES / (3 * rows),
      passes: passesOf(SEQUENCES, rows).join(" + "),
      load: loadavg()[0]
    }
  }).pipe(
    Effect.provide(Layer.mergeAll(
      Model.layer(config),
      DataStream.layerMemory([{ name: "text", text: makeRandomText(1)(400_000) }], {
        tokenizer: "bytes",
        seqLen: SEQ_LEN,
        batchSize: rows,
        singleSequences: 1024,
        repeatedSequences: 0,
        heldOutSequences: SEQUENCES
      })
    )),
    Effect.scoped
  )

const main = Effect.gen(function*() {
  const device = yield* Device
  const lines: Array<Line> = []
  for (const width of device.kind === "hardware" ? [64, 256] : [64]) {
    for (const rows of [8, 64]) {
      const name = `width ${width}, ${SEQUENCES} sequences x ${MASKS.join(", ")}, steps of ${rows} x ${SEQ_LEN}`
      lines.push({ bench: "probes", name, ...(yield* measure(modelOf(width), rows)) })
      process.stderr.write(`probes ${name}\n`)
    }
  }
  const stamp = {
    adapter: device.name,
    kernels: device.target.family,
    driver: device.driver,
    node: process.versions.node,
    webgpu: "0.6.2",
    windows: WINDOWS
  }
  const text = lines.map((line) => JSON.stringify({ ...line, ...stamp })).join("\n")
  process.stdout.write(`${text}\n`)
  process.stderr.write(`\n${markdown(lines)}\n`)
  if (process.argv.includes("--save")) {
    const folder = new URL("results/", import.meta.url)
    mkdirSync(folder, { recursive: true })
    const file = device.name.replace(/[^A-Za-z0-9]+/g, "-").replace(/-$/, "").toLowerCase()
    writeFileSync(new URL(`${file}.probes.jsonl`, folder), `${text}\n`)
  }
})

await Effect.runPromise(Effect.scoped(Effect.provide(main, NodeDevice.layer())))
