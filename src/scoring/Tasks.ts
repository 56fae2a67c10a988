/**
 * Questions of benchmarks, answered by how likely a model finds each choice, as lm-evaluation-harness does: a choice's
 * tokens are those by which query and choice together are longer than the query alone, a space at the query's end is the
 * choice's, what does not fit is cut off at the left, and the first of equals is taken.
 */
import * as Effect from "effect/Effect"
import type { Row } from "../data/stream/Packing.ts"
import type { Tokenizer } from "../data/tokens/Tokenizer.ts"
import { DataError, type DeviceError, type KernelError } from "../Errors.ts"
import { bootstrapIndices, type Interval, mean, shareInterval, variance } from "../measures/Statistics.ts"
import type { TextEnds } from "../model/HuggingFace.ts"
import type { ModelService } from "../model/Model.ts"
import type { SinkMode } from "../Sink.ts"
import { completedRow } from "./Cloze.ts"
import { type RowScore, scoreRows } from "./Score.ts"
import type { TaskItem, TaskKind } from "./TaskFile.ts"

/** A question as sequences: its context with each of its choices. */
export interface TaskRows {
  readonly item: TaskItem
  readonly rows: ReadonlyArray<Row>
  /** Tokens of the context that were cut off, of the longest choice. */
  readonly cut: number
}

export interface TaskOptions {
  readonly tokenizer: Tokenizer
  readonly ends: TextEnds
  /** Tokens a model reads before the last it scores. */
  readonly seqLen: number
  /** Names of special tokens are text like any other. Default false. */
  readonly specialAsText?: boolean
}

/** A question in a model's tokens; `id` is whose sinks it lights. Fails with a DataError for what no row can hold. */
export const taskRows = (
  item: TaskItem,
  id: bigint,
  path: string,
  { ends, seqLen, specialAsText = false, tokenizer }: TaskOptions
): Effect.Effect<TaskRows, DataError> =>
  Effect.gen(function*() {
    const wrong = (detail: string) => new DataError({ path, detail: `line ${item.line} ${detail}` })
    const fieldOf = (c: number) => item.kind === "multiple_choice" ? `field choices[${c}]` : "field continuation"
    const encode = (text: string) => Array.from(tokenizer.encode(text, { specialAsText }))
    const head = ends.addBos && ends.bos !== undefined ? [ends.bos] : []
    const context = item.context.trimEnd()
    const space = item.context.slice(context.length)
    const before = [...head, ...encode(context)]
    if (before.length === 0) {
      // nothing comes before a first token: one that begins or ends a text stands there
      const begin = ends.bos ?? ends.eos[0]
      if (begin === undefined) {
        return yield* wrong("has no context, and the model has no token that begins or ends a text: write a context")
      }
      before.push(begin)
    }
    const lone = context === ""
    let cut = 0
    const rows: Array<Row> = []
    for (const [c, choice] of item.choices.entries()) {
      const text = `${space}${item.delimiter}${choice}`
      const completion = lone ? encode(text) : [...head, ...encode(context + text)].slice(before.length)
      if (completion.length === 0) {
        return yield* wrong(
          `${fieldOf(c)} adds no token to its context: expected a text that the tokenizer has tokens for`
        )
      }
      if (completion.length > seqLen) {
        return yield* wrong(
          `${fieldOf(c)} has ${completion.length} tokens, more than the ${seqLen} of a row: shorten it, or raise --seq`
        )
      }
      const left = Math.max(0, before.length + completion.length - seqLen - 1)
      cut = Math.max(cut, left)
      rows.push(
        completedRow(id, `line ${item.line}`, Uint32Array.from(before.slice(left)), Uint32Array.from(completion))
      )
    }
    return { item, rows, cut }
  })

/** Shortest row that is compiled for; longer ones double. */
const SHORTEST = 32

/**
 * The scores of all choices, question by question. Sequences of like lengths share rows, so a few long ones do not make
 * all rows long.
 */
export const scoreTasks = (
  model: Pick<ModelService, "evaluate">,
  tasks: ReadonlyArray<TaskRows>,
  mode: SinkMode,
  { batchSize, onProgress, seqLen }: {
    readonly batchSize: number
    readonly seqLen: number
    /** Told of sequences that are scored. */
    readonly onProgress?: (more: number) => Effect.Effect<void>
  }
): Effect.Effect<ReadonlyArray<ReadonlyArray<RowScore>>, DataError | DeviceError | KernelError> =>
  Effect.gen(function*() {
    const rows = tasks.flatMap(({ rows }) => rows)
    const lengths = new Map<number, Array<number>>()
    rows.forEach(({ tokens }, r) => {
      let length = SHORTEST
      while (length < tokens.length - 1) length *= 2
      length = Math.min(length, seqLen)
      if (!lengths.has(length)) lengths.set(length, [])
      lengths.get(length)!.push(r)
    })
    const scores = new Array<RowScore>(rows.length)
    for (const [length, places] of [...lengths].sort(([a], [b]) => a - b)) {
      for (let first = 0; first < places.length; first += batchSize) {
        const some = places.slice(first, first + batchSize)
        const got = yield* scoreRows(model, some.map((r) => rows[r]!), mode, { batchSize, seqLen: length })
        some.forEach((r, i) => {
          scores[r] = got[i]!
        })
        yield* onProgress?.(some.length) ?? Effect.void
      }
    }
    let at = 0
    return tasks.map(({ rows }) => scores.slice(at, at += rows.length))
  })

/** A metric over questions, with its interval at 95 %. */
export interface Measured extends Interval {
  /** Of the mean, as the harness has it; of perplexities by a bootstrap. NaN of one question. */
  readonly stderr: number
}

/** What came of a task. */
export interface TaskScore {
  /** The metrics, by name. */
  readonly metrics: Readonly<Record<string, Measured>>
  /** Questions whose two likeliest choices are equally likely: the first was taken. */
  readonly ties: number
}

const share = (right: ReadonlyArray<boolean>): Measured => {
  const ones = right.map(Number)
  return { ...shareInterval(ones.reduce((a, b) => a + b, 0), ones.length),
    stderr: Math.sqrt(variance(ones) / ones.length) }
}

/** A statistic of questions, its interval and error by a bootstrap; of one question nothing is known but its own. */
const drawn = (items: number, of: (indices: Uint32Array) => number): Measured => {
  const values: Array<number> = []
  const interval = bootstrapIndices(items, (indices) => {
    const value = of(indices)
    values.push(value)
    return value
  })
  if (items === 1) return { value: interval.value, low: -Infinity, high: Infinity, stderr: NaN }
  // the first is of the questions as they are
  return { ...interval, stderr: Math.sqrt(variance(values.slice(1))) }
}

const utf8 = new TextEncoder()
const bytesOf = (text: string): number => utf8.encode(text).length
/** As Python counts them. */
const charactersOf = (text: string): number => [...text].length

const firstBest = (values: ReadonlyArray<number>): number => values.indexOf(Math.max(...values))

/** By what the log-likelihood of a choice is divided: the harness's `acc`, `acc_norm` and `acc_bytes`, and by tokens. */
const norms: Readonly<Record<string, (choice: string, score: RowScore) => number>> = {
  acc: () => 1,
  acc_norm: charactersOf,
  acc_bytes: bytesOf,
  acc_tokens: (_, { tokens }) => tokens
}

/**
 * What came of the questions of one task.
 *
 * - multiple_choice: `acc` the share whose likeliest choice is right, and `acc_norm`, `acc_bytes`, `acc_tokens` that by
 *   log-likelihoods a character, UTF-8 byte and token of the choice, its delimiter not counted in the first two.
 * - loglikelihood: `acc` the share of continuations that greedy decoding says, `perplexity` e to the mean negative
 *   log-likelihood of a continuation, `token_perplexity` of a token, `bits_per_byte`.
 */
export const summarizeTask = (
  kind: TaskKind,
  items: ReadonlyArray<TaskItem>,
  scores: ReadonlyArray<ReadonlyArray<RowScore>>
): TaskScore => {
  if (kind === "multiple_choice") {
    const metrics = Object.fromEntries(Object.entries(norms).map(([name, norm]) => [
      name,
      share(
        items.map(({ choices, gold }, i) =>
          gold.includes(firstBest(choices.map((choice, c) => -scores[i]![c]!.loss / norm(choice, scores[i]![c]!))))
        )
      )
    ]))
    const ties = scores.filter((one) => {
      const losses = one.map(({ loss }) => loss)
      const least = Math.min(...losses)
      return losses.filter((loss) => loss === least).length > 1
    })
    return { metrics, ties: ties.length }
  }
  const all = scores.map(([score]) => score!)
  const losses = all.map(({ loss }) => loss)
  const bytes = items.map(({ choices }) => bytesOf(choices[0]!))
  const sum = (values: ReadonlyArray<number>, indices: Uint32Array) => indices.reduce((sum, i) => sum + values[i]!, 0)
  const ratio = (of: ReadonlyArray<number>) => (indices: Uint32Array) => sum(losses, indices) / sum(of, indices)
  const perToken = ratio(all.map(({ tokens }) => tokens))
  const perByte = ratio(bytes)
  return {
    metrics: {
      acc: share(all.map(({ hits, tokens }) => hits === tokens)),
      perplexity: drawn(items.length, (indices) => Math.exp(mean(Array.from(indices, (i) => losses[i]!)))),
      token_perplexity: drawn(items.length, (indices) => Math.exp(perToken(indices))),
      bits_per_byte: drawn(items.length, (indices) => perByte(indices) / Math.LN2)
    },
    ties: 0
  }
}
