/**
 * Soft prompts (Ozdayi et al. 2023): vectors in front of a sequence in place of tokens' embeddings, trained on sequences that
 * the attacker knows while the model is frozen, so that the model says the ends of others; or so that it does not.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, positive, rate, withDefault } from "../Config.ts"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { chunked, endless } from "../data/stream/Rows.ts"
import { Diverged } from "../Errors.ts"
import { type Inputs, makeInputs } from "../inside/Inputs.ts"
import { likeliest } from "../model/Generate.ts"
import { Model } from "../model/Model.ts"
import { random } from "../Random.ts"
import { type RowScore, rowScores, scoreRows } from "../scoring/Score.ts"
import type { SinkMode } from "../Sink.ts"
import type { Attack, AttackGround, AttackProblem } from "./Attack.ts"

const fields = {
  /** Tokens of a sequence that are given, from its first on. Default 16. */
  prefix: withDefault(positive, () => 16),
  /** Tokens behind them that are asked for. Default 16. */
  length: withDefault(positive, () => 16),
  /** Known sequences a step; all where there are fewer. Default 16. */
  batchSize: withDefault(positive, () => 16),
  /** Of Adam, constant, without decay. Default 5e-3; its authors train 0.0005 on thousands of sequences. */
  learningRate: withDefault(rate, () => 5e-3)
}

/** Options of `softPrompt`. */
export class SoftPromptOptions extends configuration(Schema.Class<SoftPromptOptions>("SoftPromptOptions")({
  ...fields,
  /** Vectors of the prompt. Default 20. */
  vectors: withDefault(positive, () => 20),
  /** Steps of training. Default 100. */
  steps: withDefault(positive, () => 100),
  /** What is trained on: `aligned`, the tokens that are asked for alone; `all`, the given ones, too. Default aligned. */
  loss: withDefault(Schema.Literal("aligned", "all"), () => "aligned" as const)
})) {}

/** Options of `suppressingPrompt`. */
export class SuppressingPromptOptions
  extends configuration(Schema.Class<SuppressingPromptOptions>("SuppressingPromptOptions")({
    ...fields,
    /** Vectors of the prompt. Default 5. */
    vectors: withDefault(positive, () => 5),
    /** Steps of training at most. Default 100. */
    steps: withDefault(positive, () => 100),
    /**
     * Loss a token, in nats, that is aimed at: below it a step makes the known sequences less likely, above it more; training
     * ends when the mean of an epoch is no longer below it. Default 2.
     */
    threshold: withDefault(atLeast0, () => 2)
  }))
{}

interface Shape {
  readonly vectors: number
  readonly prefix: number
  readonly length: number
}

/** Vectors, [vectors, hiddenSize], put before sequences. */
export type SoftPrompt = Float32Array

/** The beginning of a sequence, or all of it, behind as many tokens as there are vectors: their embeddings are replaced. */
const behind = (row: Row, vectors: number, tokens: Uint32Array, given: number): Row => {
  const all = new Uint32Array(vectors + tokens.length)
  all.set(tokens, vectors)
  return { ...row, tokens: all, scoredFrom: vectors + given }
}

const suffixes = (rows: ReadonlyArray<Row>, { length, prefix, vectors }: Shape): ReadonlyArray<Row> =>
  rows.filter(({ tokens }) => tokens.length >= prefix + length)
    .map((row) => behind(row, vectors, row.tokens.subarray(0, prefix + length), prefix))

/** Embeddings of a batch with the vectors in their places at the beginning of each row. */
const withPrompt = (inputs: Inputs, tokens: Uint32Array, seqLen: number, prompt: SoftPrompt): Float32Array => {
  const all = inputs.embed(tokens)
  const width = all.length / tokens.length
  for (let at = 0; at < tokens.length; at += seqLen) all.set(prompt, at * width)
  return all
}

/** Scores of rows behind a prompt. */
const scoresBehind = (inputs: Inputs, rows: ReadonlyArray<Row>, prompt: SoftPrompt, batchSize: number,
  seqLen: number) =>
  Effect.gen(function*() {
    const all: Array<RowScore> = []
    for (const { chunk, full } of chunked(rows, batchSize)) {
      const batch = batchOf(full, seqLen)
      const scores = yield* inputs.scores(batch, withPrompt(inputs, batch.tokens, seqLen, prompt))
      all.push(...rowScores(batch, scores, chunk.length))
    }
    return all
  })

/** Adam without decay: moves `values` against gradients, in place. */
const adam = (values: Float32Array, learningRate: number) => {
  const [first, second] = [new Float64Array(values.length), new Float64Array(values.length)]
  let step = 0
  return (gradient: Float64Array): void => {
    step++
    for (let i = 0; i < values.length; i++) {
      first[i] = 0.9 * first[i]! + 0.1 * gradient[i]!
      second[i] = 0.999 * second[i]! + 0.001 * gradient[i]! ** 2
      const mean = first[i]! / (1 - 0.9 ** step)
      values[i]! -= learningRate * mean / (Math.sqrt(second[i]! / (1 - 0.999 ** step)) + 1e-8)
    }
  }
}

interface Training extends Shape {
  readonly batchSize: number
  readonly learningRate: number
  readonly steps: number
  readonly loss?: "aligned" | "all"
  /** See SuppressingPromptOptions. Default: the loss goes down as far as it does. */
  readonly threshold?: number
}

/** Rows that the prompt is trained with, and the batches they make. */
const trainingRows = (rows: ReadonlyArray<Row>, { length, loss = "aligned", prefix, vectors }: Training) =>
  suffixes(rows, { length, prefix, vectors })
    .map((row) => loss === "aligned" ? row : { ...row, scoredFrom: vectors + 1 })

/**
 * A soft prompt trained on known sequences, beginning with rows of the embedding table. The Model's weights do not move. Fails
 * with Diverged where a loss or a vector is no number any more.
 */
export const trainSoftPrompt = (
  known: ReadonlyArray<Row>,
  { mode, seed }: Pick<AttackProblem, "mode" | "seed">,
  training: Training
) =>
  Effect.scoped(Effect.gen(function*() {
    const { hiddenSize, vocabSize } = (yield* Model).config
    const { learningRate, length, prefix, steps, threshold, vectors } = training
    const rows = trainingRows(known, training)
    const size = Math.min(training.batchSize, rows.length)
    const seqLen = vectors + prefix + length - 1
    const inputs = yield* makeInputs({ rows: size, seqLen, mode })
    const draw = random(seed, "soft prompt")
    const prompt: SoftPrompt = inputs.embed(Uint32Array.from({ length: vectors }, () => draw.below(vocabSize)))
    const move = adam(prompt, learningRate)
    const next = endless(rows, random(seed, "soft prompt rows"))
    const scored = rows.length === 0 ? 0 : rows[0]!.tokens.length - rows[0]!.scoredFrom!
    const weights = new Float32Array(size * seqLen).fill(1 / (size * scored))
    const epoch = Math.ceil(rows.length / Math.max(1, size))
    let sum = 0
    for (let step = 1; step <= steps && size > 0; step++) {
      const batch = batchOf(next(size), seqLen)
      const { gradient, loss } = yield* inputs.gradient(batch, withPrompt(inputs, batch.tokens, seqLen, prompt),
        weights)
      const mean = loss.reduce((all, one) => all + one, 0) / (size * scored)
      const sign = threshold !== undefined && mean <= threshold ? -1 : 1
      const total = new Float64Array(prompt.length)
      for (let r = 0; r < size; r++) {
        for (let i = 0; i < total.length; i++) total[i]! += sign * gradient[r * seqLen * hiddenSize + i]!
      }
      move(total)
      if (!prompt.every(Number.isFinite)) return yield* new Diverged({ step, loss: mean })
      sum += mean
      if (step % epoch !== 0) continue
      if (threshold !== undefined && sum / epoch >= threshold) break
      sum = 0
    }
    return prompt
  }))

const problemOf = (
  { length, prefix, vectors }: Shape,
  { model, seen, seqLen }: AttackGround,
  positions: number
): string | undefined =>
  prefix + length > seqLen + 1
    ? `${prefix} tokens that are given and ${length} asked for are more than the ${seqLen + 1} of a sequence: lower ` +
      "prefix or length, or raise the world's seqLen"
    : vectors + positions > model.maxPositionEmbeddings
    ? `${vectors} vectors and ${positions} tokens are more than the model's maxPositionEmbeddings of ` +
      `${model.maxPositionEmbeddings}: lower vectors, or raise it`
    : seen === 0
    ? "there is no repeated sequence to train on, 1 is needed at least: repeat more sequences"
    : undefined

/** Logits that are read at once, at most. */
const LOGITS = 2 ** 24

/** Tokens that greedy decoding says behind prompt and prefix, in place of each row's suffix. Every token is a whole pass. */
const greedy = (rows: ReadonlyArray<Row>, mode: SinkMode, { length, prefix, vectors }: Shape, prompt: SoftPrompt,
  batchSize: number) =>
  Effect.scoped(Effect.gen(function*() {
    const { vocabSize } = (yield* Model).config
    const seqLen = vectors + prefix + length - 1
    const size = Math.max(1, Math.min(batchSize, rows.length, Math.floor(LOGITS / (seqLen * vocabSize))))
    const inputs = yield* makeInputs({ rows: size, seqLen, mode })
    const said: Array<Uint32Array> = []
    for (const { chunk, full } of chunked(rows, size)) {
      const now = full.map((row) => ({ ...row, tokens: row.tokens.slice() }))
      for (let at = vectors + prefix; at < vectors + prefix + length; at++) {
        const batch = batchOf(now, seqLen)
        const logits = yield* inputs.logits(batch, withPrompt(inputs, batch.tokens, seqLen, prompt))
        now.forEach(({ tokens }, r) => {
          const from = (r * seqLen + at - 1) * vocabSize
          tokens[at] = likeliest(logits.subarray(from, from + vocabSize))
        })
      }
      said.push(...now.slice(0, chunk.length).map(({ tokens }) => tokens.subarray(vectors + prefix)))
    }
    return said
  }))

/** Whether all of a suffix is said, and the share of its tokens that are, by sequence. */
const extracted = ({ batchSize, mode }: AttackProblem, rows: ReadonlyArray<Row>, shape: Shape, prompt: SoftPrompt) => {
  const behind = suffixes(rows, shape)
  return Effect.map(greedy(behind, mode, shape, prompt, batchSize), (said) => {
    const fraction = said.map((tokens, i) => {
      const truth = behind[i]!.tokens.subarray(shape.vectors + shape.prefix)
      return tokens.reduce((sum, token, t) => sum + (token === truth[t] ? 1 : 0), 0) / shape.length
    })
    return { exact: fraction.map((one) => one === 1 ? 1 : 0), fraction }
  })
}

const withoutPrompt = (problem: AttackProblem, shape: Shape) =>
  extracted(problem, problem.rows, { ...shape, vectors: 0 }, new Float32Array())

const share = (title: string) => ({ title, unit: "share", memory: "higher" }) as const

export const softPrompt: Attack<SoftPromptOptions> = {
  name: "softPrompt",
  title: "soft prompt",
  paper: "Ozdayi et al. 2023",
  version: 1,
  options: SoftPromptOptions,
  metrics: ({ length, prefix, vectors }) => ({
    exact: share(
      `${length} tokens said verbatim, greedily, after ${vectors} vectors trained on other repeated sequences ` +
        `and ${prefix} tokens`
    ),
    fraction: share("share of these tokens that greedy decoding says in their places"),
    plainExact: share("verbatim without the vectors"),
    plainFraction: share("the share without the vectors"),
    neverExact: { ...share("verbatim, of sequences that no model was trained on"), of: "others" },
    neverFraction: { ...share("the share, of sequences that no model was trained on"), of: "others" }
  }),
  problem: (options, ground) => problemOf(options, ground, options.prefix + options.length - 1),
  run: (problem, options) =>
    Effect.gen(function*() {
      const prompt = yield* trainSoftPrompt(problem.seen, problem, options)
      const prompted = yield* extracted(problem, problem.rows, options, prompt)
      const plain = yield* withoutPrompt(problem, options)
      const never = yield* extracted(problem, problem.others, options, prompt)
      return { ...prompted, plainExact: plain.exact, plainFraction: plain.fraction, neverExact: never.exact,
        neverFraction: never.fraction }
    })
}

export const suppressingPrompt: Attack<SuppressingPromptOptions> = {
  name: "suppressingPrompt",
  title: "soft prompt as defence",
  paper: "Ozdayi et al. 2023",
  defends: true,
  version: 1,
  options: SuppressingPromptOptions,
  metrics: ({ length, prefix, threshold, vectors }) => ({
    exact: share(
      `${length} tokens said verbatim, greedily, after ${prefix}, behind ${vectors} vectors trained to keep ` +
        `other repeated sequences at ${threshold} nats a token`
    ),
    fraction: share("share of these tokens that greedy decoding says in their places"),
    plainExact: share("verbatim without the vectors"),
    plainFraction: share("the share without the vectors"),
    cost: { title: "held-out loss behind the vectors minus that without", unit: "nats", memory: "higher", signed: true,
      of: "others" }
  }),
  problem: (options, ground) => problemOf(options, ground, ground.seqLen),
  run: (problem, options) =>
    Effect.scoped(Effect.gen(function*() {
      const prompt = yield* trainSoftPrompt(problem.seen, problem, options)
      const prompted = yield* extracted(problem, problem.rows, options, prompt)
      const plain = yield* withoutPrompt(problem, options)
      const { batchSize, mode, others, seqLen } = problem
      const { vectors } = options
      const inputs = yield* makeInputs({ rows: batchSize, seqLen: vectors + seqLen, mode })
      const held = others.map((row) => behind(row, vectors, row.tokens, row.scoredFrom ?? 1))
      const after = yield* scoresBehind(inputs, held, prompt, batchSize, vectors + seqLen)
      const before = yield* scoreRows(yield* Model, others, mode, { batchSize, seqLen })
      return { ...prompted, plainExact: plain.exact, plainFraction: plain.fraction,
        cost: after.map(({ loss, tokens }, i) => (loss - before[i]!.loss) / tokens) }
    }))
}
