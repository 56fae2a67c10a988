/**
 * How far down in a model a memory is gone: the streams of other models are patched into the full one, behind one block
 * after the other, and the suffix is scored (UDS; see measures/Depth.ts).
 */
import * as Effect from "effect/Effect"
import type { Row } from "../data/stream/Packing.ts"
import { DataError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { aligned, alignment } from "../measures/Depth.ts"
import type { Model } from "../model/Model.ts"
import { makePatcher, residualStreams, type Streams, type StreamsError, type StreamsOptions } from "./Streams.ts"

/** How hidden states are patched from one model into another. */
export interface DepthOptions extends StreamsOptions {
  /** Tokens of a sequence that are given; the suffix behind them is scored, and the places that predict it are patched. */
  readonly promptTokens: number
}

/** Streams of a source, of the sequences that are scored and of others by which it is aligned with the full model. */
export interface Source {
  readonly streams: ReadonlyArray<Streams>
  /** Of `DropsOptions.neutral`. */
  readonly neutral?: ReadonlyArray<Streams>
}

/** The places that predict a row's suffix: [from, to). */
const placesOf = ({ scoredFrom = 1, tokens }: Row, promptTokens: number) => ({
  from: Math.max(promptTokens, scoredFrom) - 1,
  to: tokens.length - 1
})

/**
 * What patching each source's streams into the Model costs: by source and sequence the mean drop of the suffix tokens'
 * log-probability, in nats, behind each block from 0. As its authors define it, the stream is patched at the places that
 * predict the suffix, and everything before them is the full model's.
 *
 * With `neutral` sequences, which no model may have memorized, each source is first mapped to the full model's stream by
 * `alignment`. The authors' models are all tuned from one, so that theirs need none; two trainings from their beginning
 * need it: without it every block of such a source costs what a foreign basis costs, whatever it knows.
 */
export const patchedDrops = (
  rows: ReadonlyArray<Row>,
  sources: ReadonlyArray<Source>,
  options: DepthOptions,
  neutral: ReadonlyArray<Row> = []
): Effect.Effect<ReadonlyArray<ReadonlyArray<ReadonlyArray<number>>>, StreamsError, Model | Device> =>
  Effect.gen(function*() {
    const { promptTokens, seqLen } = options
    const short = rows.find((row) => placesOf(row, promptTokens).from >= placesOf(row, promptTokens).to)
    if (short !== undefined || !(promptTokens >= 1)) {
      return yield* new DataError({
        detail: short === undefined
          ? `depth score: promptTokens must be at least 1, got ${promptTokens}`
          : `depth score: sequence ${short.document}+${short.offset} has ${short.tokens.length} tokens, and no suffix ` +
            `behind a prompt of ${promptTokens}: lower promptTokens, or leave it out`
      })
    }
    const own = yield* residualStreams(rows, options)
    const ownNeutral = yield* residualStreams(neutral, options)
    const patcher = yield* makePatcher(options)
    const blocks = own[0]!.length - 1
    const d = own[0]![0]!.length / seqLen
    const suffix = (losses: Float32Array, row: Row): number => {
      const { from, to } = placesOf(row, promptTokens)
      return losses.subarray(from, to).reduce((a, b) => a + b, 0) / (to - from)
    }
    const full = (yield* patcher.losses(rows, 0, own.map((streams) => streams[0]!))).map((l, r) => suffix(l, rows[r]!))
    /** Places of neutral sequences that are in both. */
    const known = (streams: ReadonlyArray<Streams>, block: number) =>
      streams.map((one, r) => one[block]!.subarray(0, (neutral[r]!.tokens.length - 1) * d))
    return yield* Effect.forEach(sources, (source) =>
      Effect.gen(function*() {
        const drops = rows.map((): Array<number> => [])
        for (let block = 1; block <= blocks; block++) {
          const map = source.neutral === undefined || neutral.length === 0
            ? undefined
            : alignment(known(source.neutral, block), known(ownNeutral, block), d)
          const mixed = rows.map((row, r) => {
            const { from, to } = placesOf(row, promptTokens)
            const stream = own[r]![block]!.slice()
            const given = source.streams[r]![block]!.subarray(from * d, to * d)
            stream.set(map === undefined ? given : aligned(map, given), from * d)
            return stream
          })
          const losses = yield* patcher.losses(rows, block, mixed)
          losses.forEach((l, r) => drops[r]!.push(suffix(l, rows[r]!) - full[r]!))
        }
        return drops
      }))
  }).pipe(Effect.scoped)
