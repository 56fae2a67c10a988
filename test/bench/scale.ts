/**
 * Several GPUs on paper: what share of a step is left for computing when ranks exchange gradients. Steps are those of
 * `model.ts`, links and stages are assumptions below. `npx tsx test/bench/scale.ts` prints the tables of
 * pipelines/results/scale.md; with `--measure` a tiny model is trained by one rank and by two of this machine, over MPI where
 * there is one, and what the same model on paper says stands beside.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { fileURLToPath } from "node:url"
import { type ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { cards, pairsOf, predict, stepOf } from "./model.ts"

/** Bytes a second. None has been measured on such machines. */
const links = {
  /** Between a GPU and the host, each way, through buffers that are mapped. */
  card: 10e9,
  /** What a rank adds up with others of its host, of values. */
  host: 4e9,
  /** Values in f32 that a rank rounds to 16 bits, and back: measured, 2.1 and 2.9 GB/s. */
  rounding: 1 / (1 / 2.1e9 + 1 / 2.9e9)
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
  /** Bytes of a rank's gradients that are exchanged, in f32, of a model, on average of all steps. */
  readonly bytes: (config: ModelConfig) => number
  /** Bytes over the network for each of those: 1 in f32. */
  readonly packed: number
  /** Ranks of a host add up before one of them speaks to other hosts. */
  readonly byHost: boolean
  /** Seconds of computing that may hide it, of a step. */
  readonly hidden: (computing: { readonly step: number; readonly hidden: number }, exchange: number) => number
}

const all = (config: ModelConfig): number => 4 * config.numParameters

const backward: Way["hidden"] = ({ hidden }) => hidden
/** Rounds of 100 steps between two meetings, fragments, and steps of a fragment's delay. */
const [ROUNDS, FRAGMENTS, DELAY] = [4, 4, 10]

const ways: ReadonlyArray<Way> = [
  { title: "every rank with every other", bytes: all, packed: 1, byHost: false, hidden: backward },
  { title: "hosts first (the default)", bytes: all, packed: 1, byHost: true, hidden: backward },
  { title: "and in bf16 between hosts", bytes: all, packed: 1 / 2, byHost: true, hidden: backward },
  { title: "and the pool sharded by source", bytes: (config) => 4 * dense(config), packed: 1 / 2, byHost: true,
    hidden: backward },
  // values and both moments
  { title: "DiLoCo, every 100 steps", bytes: (config) => 3 * all(config) / 100, packed: 1, byHost: true,
    hidden: () => 0 },
  {
    title: "DiLoCo, 4 fragments, bf16",
    // all fragments but those of a meeting's own step, and at meetings everything; moments stay in f32
    bytes: (config) => (1 + ((FRAGMENTS - 1) / FRAGMENTS + 2) / ROUNDS) * all(config) / 100,
    packed: (1 / 2 * (1 + (FRAGMENTS - 1) / FRAGMENTS / ROUNDS) + 2 / ROUNDS) /
      (1 + ((FRAGMENTS - 1) / FRAGMENTS + 2) / ROUNDS),
    byHost: true,
    // fragments leave while others compute; a meeting, of all that goes over three parts in seven, does not
    hidden: ({ step }, exchange) => Math.min(DELAY * FRAGMENTS / 100 * step, exchange * 4 / 7)
  }
]

/** Share of the time that computes, of so many hosts on a network of so many bytes a second. */
export const efficiency = (config: ModelConfig, way: Way, hosts: number, network: number): number => {
  const computed = computing(config)
  const bytes = way.bytes(config)
  const ranks = hosts * GPUS
  const out = 2 * bytes / links.card
  const inside = 2 * (GPUS - 1) / GPUS * bytes / links.host
  // each rank sends its share to every other, and gets theirs back; all of a host go through one card of the network
  const across = hosts === 1
    ? 0
    : way.byHost
    ? 2 * (hosts - 1) / hosts * way.packed * bytes / network + (way.packed < 1 ? 2 * bytes / GPUS / links.rounding : 0)
    : GPUS * 2 * (ranks - GPUS) / ranks * bytes / network
  const exchange = out + inside + across
  return computed.step / (computed.step + Math.max(0, exchange - way.hidden(computed, exchange)))
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

const places: ReadonlyArray<readonly [title: string, hosts: number, gigabits: number]> = [
  ["1 host", 1, 100],
  ...[8, 64].flatMap((hosts) =>
    [25, 100, 400].map((gigabits) => [`${hosts}, ${gigabits} GbE`, hosts, gigabits] as const)
  )
]

const onPaper = (): void => {
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
}

interface Rank {
  readonly seconds: number
  readonly waiting: number
  readonly exchanging: number
  readonly bytes: number
}

const STEPS = 16

const tiny = ["data.tokenizer=bytes", "model.hiddenSize=128", "model.numHiddenLayers=2", "model.numAttentionHeads=2",
  "model.intermediateSize=512", "model.sinks.pool=256", "model.sinks.active=32", "--seq", "64", "--batch", "4",
  "data.singleSequences=128", "data.repeatedSequences=2", "data.repeats=2", "data.heldOutSequences=2", "arms=[sinks]",
  "training.gradientAccumulation=4", "training.logEvery=8", "--steps", String(STEPS)]

/** A tiny model trained by so many ranks: seconds of a step, and what ranks say of it. */
const trained = (ranks: number, more: ReadonlyArray<string>) => {
  const out = mkdtempSync(join(tmpdir(), "memsinks-scale-"))
  try {
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      [...process.execArgv, "src/cli.ts", ...ranks > 1 ? ["launch", "-n", String(ranks), "--"] : [], "pretrain",
        "--share-adapter", "--json", "--quiet", ...tiny, ...more, "--out-dir", join(out, "run")],
      {
        cwd: fileURLToPath(new URL("../..", import.meta.url)),
        // a rank has a processor of its own
        env: { ...process.env, LP_NUM_THREADS: "1" },
        encoding: "utf8"
      }
    )
    if (status !== 0) throw new Error(stderr)
    const report = JSON.parse(stdout) as {
      readonly arms: ReadonlyArray<{ readonly parameters: number; readonly tokens: number }>
      readonly tokensPerSecond: number
      readonly ranks?: ReadonlyArray<Rank>
    }
    const [arm] = report.arms
    return { parameters: arm!.parameters, ranks: report.ranks ?? [],
      step: arm!.tokens / report.tokensPerSecond / STEPS }
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
}

const measure = (): void => {
  const one = trained(1, [])
  const ms = (seconds: number) => (1000 * seconds).toFixed(0)
  console.log(
    "| | ms a step | efficiency | on paper | waiting | exchanging | MB a step | on paper |\n|---|---|---|---|---|---|---|---|"
  )
  console.log(`| one rank | ${ms(one.step)} | 100 % | 100 % | 0 % | 0 % | 0 | 0 |`)
  const paper = 4 * one.parameters
  for (
    const [title, bytes, words] of [
      ["two, f32", paper, []],
      ["two, bf16", paper / 2, ["training.exchange=bf16"]],
      ["two, DiLoCo, every 8 steps", 3 * paper / 8, ["training.diloco.syncEvery=8"]],
      // fragment 1 after step 4, both at the meetings, with moments
      ["two, DiLoCo, 2 fragments, bf16", (paper / 2 * 1.5 + 2 * paper) / 8, ["training.diloco.syncEvery=8",
        "training.diloco.fragments=2", "training.diloco.meetEvery=8", "training.exchange=bf16"]]
    ] as const
  ) {
    const { ranks, step } = trained(2, words)
    const mean = (of: (rank: Rank) => number) => ranks.reduce((sum, rank) => sum + of(rank), 0) / ranks.length
    const share = (of: (rank: Rank) => number) => percent(mean(of) / mean(({ seconds }) => seconds))
    const rounding = words.some((word) => word.endsWith("bf16")) ? 2 * bytes * 2 / links.rounding : 0
    const expected = one.step / 2 + bytes / links.host + rounding
    console.log(
      `| ${title} | ${ms(step)} | ${percent(one.step / step / 2)} | ${percent(one.step / expected / 2)} | ${
        share(({ waiting }) => waiting)
      } | ${share(({ exchanging }) => exchanging)} | ${(mean((rank) => rank.bytes) / STEPS / 1e6).toFixed(2)} | ${
        (bytes / 1e6).toFixed(2)
      } |`
    )
  }
}

if (process.argv.includes("--measure")) measure()
else onPaper()
