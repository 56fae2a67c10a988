/**
 * Several GPUs on paper: what share of a step is left for computing when ranks exchange gradients. Steps are those of
 * `model.ts`, links and stages are assumptions below. `npx tsx test/bench/scale.ts` prints the tables of
 * pipelines/results/scale.md.
 */
import { type ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { cards, pairsOf, predict, stepOf } from "./model.ts"

/** Bytes a second. None has been measured on such machines. */
const links = {
  /** Between a GPU and the host, each way, through buffers that are mapped. */
  card: 10e9,
  /** What a rank adds up with others of its host, of values. */
  host: 4e9
}

/** GPUs of a host, and batches of 8 x 1024 that a rank computes in a step. */
const GPUS = 8
const BATCHES = 8

const target = { family: "tensor", subgroupSize: 32, matrices: true, workgroupBytes: 49152 } as const

/** Seconds of a step without exchange, and of the backward pass of its last batch, behind which buckets leave. */
const computing = (config: ModelConfig) => {
  const [rows, seqLen] = [8, 1024]
  const { seconds } = predict(stepOf(config, { rows, seqLen, precision: "f16" }, target), pairsOf(rows, seqLen),
    cards[0]!)
  return { step: BATCHES * seconds, hidden: 2 / 3 * seconds }
}

/** Parameters outside of the pool of sinks. */
const dense = (config: ModelConfig): number =>
  config.numParameters - 3 * config.numHiddenLayers * config.pool * config.hiddenSize

interface Way {
  readonly title: string
  /** Bytes of a rank's gradients that are exchanged, of a model. */
  readonly bytes: (config: ModelConfig) => number
  /** Once in so many steps. */
  readonly every: number
  /** Ranks of a host add up before one of them speaks to other hosts. */
  readonly byHost: boolean
  /** AdamW's moments go over, too. */
  readonly times: number
}

const all = (config: ModelConfig): number => 4 * config.numParameters

const ways: ReadonlyArray<Way> = [
  { title: "every gradient, as built", bytes: all, every: 1, byHost: false, times: 1 },
  { title: "added up by host first", bytes: all, every: 1, byHost: true, times: 1 },
  { title: "and in 16 bits", bytes: (config) => all(config) / 2, every: 1, byHost: true, times: 1 },
  { title: "and the pool sharded by source", bytes: (config) => 2 * dense(config), every: 1, byHost: true, times: 1 },
  { title: "DiLoCo, every 100 steps, as built", bytes: all, every: 100, byHost: false, times: 3 }
]

/** Share of the time that computes, of so many hosts on a network of so many bytes a second. */
export const efficiency = (config: ModelConfig, way: Way, hosts: number, network: number): number => {
  const { hidden, step } = computing(config)
  const bytes = way.times * way.bytes(config)
  const ranks = hosts * GPUS
  const out = 2 * bytes / links.card
  const inside = 2 * (GPUS - 1) / GPUS * bytes / links.host
  // each rank sends its share to every other, and gets theirs back; all of a host go through one card of the network
  const across = hosts === 1
    ? 0
    : way.byHost
    ? 2 * (hosts - 1) / hosts * bytes / network
    : GPUS * 2 * (ranks - GPUS) / ranks * bytes / network
  const exchange = (out + inside + across) / way.every
  return step / (step + Math.max(0, exchange - (way.every === 1 ? hidden : 0)))
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

const places: ReadonlyArray<readonly [title: string, hosts: number, gigabits: number]> = [
  ["1 host", 1, 100],
  ...[8, 64].flatMap((hosts) =>
    [25, 100, 400].map((gigabits) => [`${hosts}, ${gigabits} GbE`, hosts, gigabits] as const)
  )
]

for (const name of ["smol-360m", "smol-1.7b", "nulls-1b"] as const) {
  const config = presets[name]
  console.log(
    `\n| ${name}, ${(1000 * computing(config).step).toFixed(0)} ms of computing | ${
      places.map(([title]) => title).join(" | ")
    } |`
  )
  console.log(`|---|${places.map(() => "---|").join("")}`)
  for (const way of ways) {
    const cells = places.map(([, hosts, gigabits]) => percent(efficiency(config, way, hosts, gigabits * 1e9 / 8)))
    console.log(`| ${way.title} | ${cells.join(" | ")} |`)
  }
}
