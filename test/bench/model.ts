/**
 * A roofline on paper: how long a training step should take on a card that is known by its data sheet alone. Every dispatch
 * of the recorded programs takes the longer of its arithmetic and its traffic, at a stated share of what the card does at
 * best, and a fixed time to begin; dispatches follow each other. `npx tsx test/bench/model.ts` prints the tables of
 * pipelines/results/roofline.md.
 */
import { pathToFileURL } from "node:url"
import type { Dispatch, Program } from "../../src/gpu/Program.ts"
import type { Target } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { classOf, costOf, type OpClass, opClasses } from "../../src/model/Costs.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { type Precision, recordPass } from "../../src/model/Pass.ts"
import { SinkConfig } from "../../src/Sink.ts"
import * as Optimizer from "../../src/train/Optimizer.ts"

/** What a card does at best, as its maker publishes it: dense, without sparsity. */
export interface Card {
  readonly name: string
  /** f16 products with f32 sums on matrix units, FLOP/s; undefined: products are f32's. */
  readonly matrix: number | undefined
  /** f32, FLOP/s. */
  readonly float: number
  /** Bytes/s. */
  readonly bandwidth: number
  /** Memory of a workgroup, as drivers report it. */
  readonly workgroupBytes: number
}

const T = 1e12

export const cards: ReadonlyArray<Card> = [
  { name: "H200", matrix: 989 * T, float: 67 * T, bandwidth: 4.8 * T, workgroupBytes: 49152 },
  { name: "A100 80 GB", matrix: 312 * T, float: 19.5 * T, bandwidth: 2.0 * T, workgroupBytes: 49152 },
  { name: "L4", matrix: 121 * T, float: 30.3 * T, bandwidth: 0.3 * T, workgroupBytes: 49152 },
  { name: "RX 7900 XTX", matrix: 123 * T, float: 61.4 * T, bandwidth: 0.96 * T, workgroupBytes: 32768 },
  // no matrix units that WebGPU offers
  { name: "M3 Max", matrix: undefined, float: 14.2 * T, bandwidth: 0.4 * T, workgroupBytes: 32768 }
]

/**
 * Shares of a card's best that kernels are taken to reach. Nobody has measured ours on a card: these are what comparable
 * portable kernels are reported to reach (ratios between 10 and 40 % of the data sheet), and what a profile is to replace.
 */
export const reached = {
  /** Products on matrix units, through subgroup matrices. */
  matrix: 0.15,
  /** Attention on matrix units: smaller products, between which there are exponentials and barriers. */
  matrixAttention: 0.08,
  /** Products of f32 in tiles. */
  float: 0.4,
  /** Attention without matrix units. */
  attention: 0.17,
  bandwidth: 0.6,
  /** Seconds from the end of a dispatch to the beginning of the next. */
  gap: 4e-6
}

export interface Predicted {
  readonly seconds: number
  readonly dispatches: number
  readonly flops: number
  readonly bytes: number
  readonly classes: Readonly<Record<OpClass, number>>
}

/** Pairs of a query and a key that it sees, where rows are one document each. */
export const pairsOf = (rows: number, seqLen: number): number => rows * seqLen * (seqLen + 1) / 2

const matrixUnits = /_matrix$/

const secondsOf = (dispatch: Dispatch, pairs: number, card: Card): number => {
  const { bytes, flops } = costOf(dispatch, pairs)
  const { file } = dispatch.kernel
  const attends = file.startsWith("attention")
  const rate = matrixUnits.test(file) && card.matrix !== undefined
    ? card.matrix * (attends ? reached.matrixAttention : reached.matrix)
    : card.float * (attends ? reached.attention : reached.float)
  return Math.max(flops / rate, bytes / (card.bandwidth * reached.bandwidth)) + reached.gap
}

/** The time of programs that run one after the other on a card. */
export const predict = (programs: ReadonlyArray<Program>, pairs: number, card: Card): Predicted => {
  const classes = Object.fromEntries(opClasses.map((name) => [name, 0])) as Record<OpClass, number>
  let [seconds, flops, bytes, dispatches] = [0, 0, 0, 0]
  for (const dispatch of programs.flatMap((program) => program.dispatches)) {
    const cost = costOf(dispatch, pairs)
    const time = secondsOf(dispatch, pairs, card)
    classes[classOf(dispatch)] += time
    seconds += time
    flops += cost.flops
    bytes += cost.bytes
    dispatches++
  }
  return { seconds, dispatches, flops, bytes, classes }
}

/** The programs of one step of training. */
export const stepOf = (
  config: ModelConfig,
  shape: { readonly rows: number; readonly seqLen: number; readonly precision: Precision },
  target: Target
): ReadonlyArray<Program> => {
  const handles = parametersOf(config)
  const hyper = Tensor.make("hyper", [16])
  const pass = recordPass(config, handles, hyper, { ...shape, output: "train" }, target)
  const { sinks } = config
  const optimizer = Optimizer.record(
    new Optimizer.OptimizerConfig(sinks === undefined ? {} : { sinks: "lazy" }),
    config,
    listParameters(handles),
    hyper,
    10,
    {
      target,
      lossScaling: shape.precision === "f16",
      ...(sinks?.assignment === "permutation" ? { maxTouched: shape.rows * sinks.activeUnits } : {})
    }
  )
  return [optimizer.begin, pass.program, optimizer.accumulate(pass.tensors.loss), optimizer.update]
}

/** A step of compiled PyTorch in bf16 at a share of the card's matrix peak, of the parameters a token is multiplied with. */
const pytorch = (config: ModelConfig, rows: number, seqLen: number, card: Card): number | undefined => {
  if (card.matrix === undefined) return undefined
  const tokens = rows * seqLen
  // it computes the whole pool, masked
  const products = 6 * (config.numParameters - (config.tieWordEmbeddings ? 0 : config.vocabSize * config.hiddenSize))
  const attention = 6 * config.numHiddenLayers * config.numAttentionHeads * config.headSize * seqLen
  return tokens * (products + attention) / (0.4 * card.matrix)
}

const ms = (seconds: number | undefined): string =>
  seconds === undefined ? "-" : seconds < 0.0995 ? (1000 * seconds).toFixed(1) : (1000 * seconds).toFixed(0)

const rows = 8
const seqLen = 1024

const nulls = presets["nulls-1b"]

const models: ReadonlyArray<readonly [name: string, config: ModelConfig]> = [
  ["smol-360m", presets["smol-360m"]],
  ["smol-1.7b", presets["smol-1.7b"]],
  ["nulls-1b", nulls],
  [
    "nulls-1b, blocks of 16",
    new ModelConfig({ ...nulls, intermediateSize: 512 + 7680, sinks: new SinkConfig({ pool: 7680, active: 96 }) })
  ]
]

const onMatrixUnits = ({ workgroupBytes }: Card): Target => ({
  family: "tensor",
  subgroupSize: 32,
  matrices: true,
  workgroupBytes
})

const main = (): void => {
  console.log(
    `| ${rows} x ${seqLen} | dispatches | TFLOP | GB | ${cards.map(({ name }) => `${name}, ms`).join(" | ")} |`
  )
  console.log(`|---|---|---|---|${cards.map(() => "---").join("|")}|`)
  for (const [name, config] of models) {
    for (const precision of ["f16", "f32"] as const) {
      const on = cards.map((card) => {
        const target: Target = card.matrix !== undefined && precision === "f16"
          ? onMatrixUnits(card)
          : { family: "gpu", subgroupSize: 32 }
        return predict(stepOf(config, { rows, seqLen, precision }, target), pairsOf(rows, seqLen), card)
      })
      const [first] = on
      console.log(`| ${name}, ${precision} | ${first!.dispatches} | ${(first!.flops / T).toFixed(1)} | ` +
        `${(first!.bytes / 1e9).toFixed(0)} | ${on.map(({ seconds }) => ms(seconds)).join(" | ")} |`)
    }
    console.log(
      `| ${name}, PyTorch bf16, whole pool | | | | ${
        cards.map((card) => ms(pytorch(config, rows, seqLen, card))).join(" | ")
      } |`
    )
  }
  console.log(`\nWhere the time of an H200 goes, f16, ms:\n\n| | ${opClasses.join(" | ")} |`)
  console.log(`|---|${opClasses.map(() => "---").join("|")}|`)
  for (const [name, config] of models) {
    const programs = stepOf(config, { rows, seqLen, precision: "f16" }, onMatrixUnits(cards[0]!))
    const { classes } = predict(programs, pairsOf(rows, seqLen), cards[0]!)
    console.log(`| ${name} | ${opClasses.map((one) => ms(classes[one])).join(" | ")} |`)
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) main()
