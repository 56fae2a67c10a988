/**
 * What it does to isolation that a source's sinks lie in one slice of the pool, as ranks need it that exchange no sinks: as many sinks, as
 * much lit, the same mean overlap of two sources, but all of it among those of one slice. What is memorized with own sinks and without,
 * what new text costs, and what the deletion of one source costs the others, in the mean and at worst.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, rate, withDefault } from "../../src/Config.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import type { Row } from "../../src/data/stream/Packing.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { type RowScore, scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Line } from "../report/Chart.ts"
import { isAtLeast, isAtMost, isWithin, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { pointOf } from "../study/estimates.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"
import { groundOf } from "./backbone.ts"

export class ShardingConfig extends configuration(Schema.Class<ShardingConfig>("ShardingConfig")({
  ...seedsOfStudy,
  /** Slices of the pool, 1 first, rising. */
  shards: withDefault(Schema.Array(positive), () => [1, 2, 4, 8]),
  /** Presidents whose addresses are trained on, drawn by the seed. Default 24. */
  sources: withDefault(positive, 24),
  /** Of them, how many are deleted, each alone, and cost the others something. Default 8. */
  deleted: withDefault(positive, 8),
  /** How often a passage is trained on. Default 8. */
  exposures: withDefault(positive, 8),
  /** Passages of each source that are trained on, and others of it that are not. */
  passages: withDefault(positive, 8),
  unseen: withDefault(positive, 4),
  /** Width of the model; an MLP has three times as many general neurons. Default 48. */
  width: withDefault(positive.pipe(Schema.multipleOf(16)), 48),
  /** Sinks of every MLP, and how many of them a source lights, in blocks of 8. Default 64 of 1,024. */
  pool: withDefault(positive.pipe(Schema.multipleOf(8)), 1024),
  active: withDefault(positive.pipe(Schema.multipleOf(8)), 64),
  /** Tokens a passage feeds to the model. Default 64. */
  seqLen: withDefault(positive, 64),
  /** Entries of the BPE that is trained on the passages. Default 512. */
  vocabSize: withDefault(positive, 512),
  /** Default 8. */
  batchSize: withDefault(positive, 8),
  /** Default 5e-3. */
  learningRate: withDefault(rate, 5e-3),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4)
})) {}

const BLOCK = 8

const sinksOf = ({ active, pool }: ShardingConfig, shards: number, seed: number) =>
  new Sink.SinkConfig({ pool, active, block: BLOCK, seed, ...(shards === 1 ? {} : { shards }) })

const nameOf = (shards: number): string => `${shards} shard${shards === 1 ? "" : "s"}`

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed: one training

const ROWS = 16

/** Mean losses, nats a token: of passages that were trained on, of others of the same sources. */
interface Looked {
  readonly seen: number
  readonly unseen: number
}

export interface ShardingFound {
  readonly own: Looked
  readonly off: Looked
  /** Of somebody who is in no training, without sinks. */
  readonly outsider: number
  /** A survivor of a deletion: the share of its sinks that is gone, and how much worse it knows its passages, nats a token. */
  readonly survivors: ReadonlyArray<{ readonly lost: number; readonly cost: number }>
}

const work = (
  { config, part, seed }: { readonly config: ShardingConfig; readonly part: string; readonly seed: number },
  at: Workplace
) =>
  Effect.gen(function*() {
    const { batchSize, deleted, exposures, learningRate, passages, pool, seqLen, sinkLearningRateRatio, sources: count,
      unseen, vocabSize, width } = config
    const { outsider, sources, tokenizer } = yield* groundOf(config, count, seed)
    const sinks = sinksOf(config, config.shards.find((shards) => nameOf(shards) === part)!, seed)
    const score = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.flatMap(Model, (model) => scoreRows(model, rows, mode, { batchSize: ROWS, seqLen }))
    const loss = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.map(score(rows, mode), (scores) => summarize(scores)!.loss)
    const all = (of: "passages" | "unseen") => sources.flatMap((source) => source[of])
    const look = (mode: Sink.SinkMode) =>
      Effect.all({ seen: loss(all("passages"), mode), unseen: loss(all("unseen"), mode) })
    const idOf = (source: number): bigint => sources[source]!.passages[0]!.id
    /** Losses of each source's passages. */
    const bySource = (scores: ReadonlyArray<RowScore>) =>
      sources.map((_, s) => summarize(scores.slice(s * passages, (s + 1) * passages))!.loss)
    const measure = Effect.gen(function*() {
      const before = bySource(yield* score(all("passages"), Sink.own))
      const survivors: Array<ShardingFound["survivors"][number]> = []
      for (let gone = 0; gone < Math.min(deleted, count); gone++) {
        const after = bySource(yield* score(all("passages"), { mode: "own", except: [idOf(gone)] }))
        const off = new Set(Sink.unitsOf(sinks, idOf(gone)))
        sources.forEach((_, s) => {
          if (s === gone) return
          const units = Sink.unitsOf(sinks, idOf(s))
          survivors.push({ lost: units.filter((unit) => off.has(unit)).length / units.length,
            cost: after[s]! - before[s]! })
        })
      }
      const found: ShardingFound = {
        own: yield* look(Sink.own),
        off: yield* look(Sink.off),
        outsider: yield* loss([...outsider.passages, ...outsider.unseen], Sink.off),
        survivors
      }
      return found
    })
    const { measured } = yield* train(at, {
      model: new ModelConfig({
        vocabSize,
        hiddenSize: width,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 3 * width + pool,
        maxPositionEmbeddings: Math.max(seqLen, 64),
        sinks
      }),
      training: new TrainConfig({
        steps: Math.ceil(exposures * count * passages / batchSize),
        optimizer: new OptimizerConfig({ learningRate, sinks: "lazy", sinkLearningRateRatio })
      }),
      seed,
      data: {
        key: ["sharding", { count, passages, unseen, seqLen, vocabSize, batchSize, seed }],
        layer: DataStream.layerTokens(
          documentsOf(sources.flatMap(({ name, passages }) =>
            passages.map(({ document, tokens }) => ({ tokens, name: document, source: name }))
          )),
          tokenizer,
          { seqLen, batchSize, singleSequences: count * passages, repeatedSequences: 0, heldOutSequences: 0,
            identity: "source", seed }
        )
      },
      measured: { sharding: 1, deleted }
    }, measure)
    return measured
  })

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<ShardingFound>, config: ShardingConfig) => {
  const { shards } = config
  const most = Math.max(...shards)
  const several = shards.filter((one) => one > 1)
  const over = (count: number, value: (found: ShardingFound) => number | undefined, kind: "loss" | "real" = "real") =>
    results.over(nameOf(count), value, { kind })
  const memory = (count: number, state: "off" | "own") =>
    over(count, (found) => found[state].unseen - found[state].seen, "loss")
  /** The share of what is memorized that goes with the sinks. */
  const closed = (count: number) => over(count, ({ off, own }) => 1 - (off.unseen - off.seen) / (own.unseen - own.seen))
  const costs = ({ survivors }: ShardingFound) => survivors.map(({ cost }) => cost)
  const collateral = (count: number) => over(count, (found) => mean(costs(found)), "loss")
  const worst = (count: number) => over(count, (found) => Math.max(...costs(found)), "loss")
  const touched = (count: number) =>
    over(count, ({ survivors }) => survivors.filter(({ lost }) => lost > 0).length / survivors.length)
  const lost = (count: number) => over(count, ({ survivors }) => mean(survivors.map(({ lost }) => lost)))
  const mostLost = (count: number) => over(count, ({ survivors }) => Math.max(...survivors.map(({ lost }) => lost)))
  /** Costs of all seeds of survivors that lost a share of their sinks in an interval. */
  const costOf = (from: number, to: number) =>
    results.seeds.flatMap((seed) =>
      shards.flatMap((count) =>
        (results.of(nameOf(count), seed)?.survivors ?? []).filter(({ lost }) => lost > from && lost <= to)
          .map(({ cost }) => cost)
      )
    )
  const untouched = over(most,
    ({ survivors }) => Math.max(...survivors.filter(({ lost }) => lost === 0).map(({ cost }) => Math.abs(cost)), 0))
  const said = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>) =>
    list(...entries) || "no seed has the numbers"
  const decided = (one: Estimate | undefined, decide: (value: Estimate) => Result): Result =>
    one === undefined || !isKnown(one) ? "not tested" : decide(one)
  const ratio = (a: Estimate, b: Estimate) => perSeed((x, y) => x / y, a, b)
  const every = (of: (count: number) => Estimate | undefined) =>
    several.map((count) => [nameOf(count), of(count)] as const)
  /** That all of them are: undecided where one is. */
  const whole = (entries: ReturnType<typeof every>, decide: (value: Estimate) => Result): Result => {
    const found = entries.map(([, one]) => decided(one, decide))
    return found.find((one) => one === "did not hold") ?? found.find((one) => one !== "held") ?? "held"
  }
  const memories = every((count) => ratio(memory(count, "own"), memory(1, "own")))
  const closings = every((count) => minus(closed(count), closed(1)))
  const prices = every((count) =>
    minus(over(count, ({ outsider }) => outsider, "loss"), over(1, ({ outsider }) => outsider, "loss"))
  )
  const means = every((count) => ratio(collateral(count), collateral(1)))
  const worse = minus(worst(most), worst(1))
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Without shards, own sinks know passages that were trained on better than others of the same sources",
      result: decided(memory(1, "own"), (one) => isAtLeast(one, 0)),
      evidence: said(["nats a token", memory(1, "own")])
    },
    {
      about: "control",
      claim: "A deletion costs those who share no sink with it nothing, to the bit",
      result: decided(untouched, (one) => isAtMost(one, 0)),
      evidence: said(["largest change, nats", untouched])
    },
    {
      about: "paper",
      claim:
        "The mean overlap matters, not its spread: what own sinks memorize is the same within a tenth, however many shards",
      result: whole(memories, (one) => isWithin(one, { least: 0.9, most: 1.1 })),
      evidence: said(...memories)
    },
    {
      about: "paper",
      claim: "and the share of it that goes with the sinks is the same within .1",
      result: whole(closings, (one) => isWithin(one, { least: -0.1, most: 0.1 })),
      evidence: said(...closings)
    },
    {
      about: "sinks",
      claim: "New text without sinks is known within .05 nats as well with shards as without",
      result: whole(prices, (one) => isWithin(one, { least: -0.05, most: 0.05 })),
      evidence: said(...prices)
    },
    {
      about: "sinks",
      claim:
        "A deletion costs the others in the mean between half and one and a half times of what it does without shards",
      result: whole(means, (one) => isWithin(one, { least: 0.5, most: 1.5 })),
      evidence: said(...means)
    },
    {
      about: "sinks",
      claim: `but whom it hits it hits harder: the worst survivor loses more with ${nameOf(most)}`,
      result: decided(worse, (one) => isAtLeast(one, 0)),
      evidence: said(["nats more", worse], ["without", worst(1)], [nameOf(most), worst(most)])
    },
    {
      about: "sinks",
      claim: `and it hits fewer: fewer survivors share a sink with what is deleted with ${nameOf(most)}`,
      result: decided(minus(touched(most), touched(1)), (one) => isAtMost(one, 0)),
      evidence: said(["without", touched(1)], [nameOf(most), touched(most)])
    }
  ]
  const two = digits(2)
  const three = digits(3)
  const bins = [[0, 0.125], [0.125, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]] as const
  return {
    claims,
    numbers: Object.fromEntries(shards.flatMap((count) =>
      ([
        ["memory, own sinks", memory(count, "own")],
        ["memory, no sinks", memory(count, "off")],
        ["share that goes with the sinks", closed(count)],
        ["loss of what was trained on, own sinks", over(count, ({ own }) => own.seen, "loss")],
        ["loss of somebody new, no sinks", over(count, ({ outsider }) => outsider, "loss")],
        ["cost of a deletion, mean", collateral(count)],
        ["cost of a deletion, worst", worst(count)],
        ["survivors that share a sink", touched(count)],
        ["sinks lost, mean", lost(count)],
        ["sinks lost, most", mostLost(count)]
      ] as const).flatMap(([what, value]) => isKnown(value) ? [[`${nameOf(count)}: ${what}`, value] as const] : [])
    )),
    charts: [{
      title: "What the deletion of one source costs the others",
      x: { title: "shards" },
      y: { title: "nats a token", zero: true },
      facets: [],
      lines: ([["mean", collateral], ["worst", worst]] as const).map(([what, of]): Line => ({
        label: what,
        of: { what },
        points: shards.flatMap((count) => pointOf(count, of(count)))
      })),
      color: ["what"]
    }],
    tables: [
      {
        caption: "Isolation by shards, at equal pool and equal sinks lit; losses in nats a token",
        head: ["shards", "memory: own sinks", "memory: no sinks", "share that goes", "trained on, own",
          "new text, no sinks"],
        rows: shards.map((count) => [
          `${count}`,
          plusMinus(memory(count, "own"), two),
          plusMinus(memory(count, "off"), two),
          plusMinus(closed(count), two),
          plusMinus(over(count, ({ own }) => own.seen, "loss"), two),
          plusMinus(over(count, ({ outsider }) => outsider, "loss"), two)
        ])
      },
      {
        caption: "The deletion of one source: what others lose of their sinks, and what it costs them, nats a token",
        head: ["shards", "survivors hit", "sinks lost: mean", "most", "cost: mean", "worst"],
        rows: shards.map((count) => [
          `${count}`,
          plusMinus(touched(count), two),
          plusMinus(lost(count), three),
          plusMinus(mostLost(count), two),
          plusMinus(collateral(count), three),
          plusMinus(worst(count), two)
        ])
      },
      {
        caption: "Cost by the share of its sinks that a survivor loses, of all shards together",
        head: ["share lost", "survivors", "cost, nats a token"],
        rows: bins.flatMap(([from, to]) => {
          const found = costOf(from, to)
          return found.length === 0 ? [] : [[`${from} to ${to}`, `${found.length}`, two(mean(found))]]
        })
      }
    ],
    terms: [
      ["memory", "loss of passages that were not trained on less that of passages of the same sources that were"],
      ["share that goes", "1 - memory without sinks over memory with own sinks"],
      ["cost of a deletion", "how much worse a survivor's passages are known when the deleted source's sinks are off"]
    ] as const,
    limits: [
      "Sources are few beside those of a real corpus, and so are the slices' sinks: at 8 shards two of one slice share half of theirs. " +
      "With many sinks lit by few, overlaps grow by the same factor, but from much less.",
      "Who is of one shard is chance here; sources that are alike are not kept apart."
    ]
  }
}

export const sharding = study<ShardingConfig, ShardingFound>({
  name: "sharding",
  title: "A pool in slices",
  paper: "Natively Unlearnable Large Language Models (2026), arXiv 2606.13873",
  question: "What does it do to isolation that a source's sinks lie in one of several slices of the pool?",
  finding: "the more sinks two sources share in the mean, the more leaks; of how it is spread nothing is said",
  cost: "10 minutes; full: an hour",
  version: 1,
  schema: ShardingConfig,
  presets: {
    quick: new ShardingConfig({ seeds: 5 }),
    full: new ShardingConfig({ seeds: 8, passages: 12, unseen: 6, width: 64, deleted: 24 })
  },
  problem: (config) => {
    const { shards } = config
    if (shards[0] !== 1 || shards.length < 2 || !shards.every((one, i) => i === 0 || one > shards[i - 1]!)) {
      return `shards must begin with 1 and rise, got ${shards.join(", ")}`
    }
    return shards.map((one) => sinksOf(config, one, 0).problem).find((problem) => problem !== undefined)
  },
  parts: ({ shards }) => shards.map(nameOf),
  work,
  findings
})
