/** Token records of sequences under a Model: what every teacher-forced metric is computed from. */
import * as Effect from "effect/Effect"
import type { Batch } from "../Batch.ts"
import { batchOf, type Row, scoredTokens, sequenceName } from "../data/stream/Packing.ts"
import { chunked } from "../data/stream/Rows.ts"
import { attempt, DataError, type DeviceError, type KernelError } from "../Errors.ts"
import { defaultSchemes, makeRecords, type Sampling, type TokenRecords } from "../measures/TokenRecords.ts"
import type { ModelService, RecordColumns } from "../model/Model.ts"
import type { SinkMode } from "../Sink.ts"

/** How sequences are scored, and what is kept of each token. */
export interface RecordOptions {
  /** Sequences a pass. */
  readonly batchSize: number
  /** Tokens a sequence has at most, not counting its last. */
  readonly seqLen: number
  /** Which part of the data the sequences stand for. */
  readonly split: string
  /** Exposures of the sequences in all of training, of each or of all. Default 0. */
  readonly repeats?: number | ArrayLike<number>
  /** What is recorded besides greedy decoding and plain sampling; `topK` at most 40. Default: `defaultSchemes`. */
  readonly schemes?: ReadonlyArray<Sampling>
}

const columns = ["token", "logProb", "rank", "mean", "variance", "massAbove", "margin"] as const

/**
 * Records of sequences with the sinks in a mode: every token from `scoredFrom` on is scored (of most rows, all but the
 * first), each sequence on its own and with the sinks of its own id. Fails with a DataError for a sequence of fewer than two tokens or of more than
 * `seqLen + 1`, and for a scheme that the device cannot record.
 */
export const recordRows = (
  model: Pick<ModelService, "records">,
  rows: ReadonlyArray<Row>,
  mode: SinkMode,
  options: RecordOptions
): Effect.Effect<TokenRecords, DataError | DeviceError | KernelError> =>
  Effect.gen(function*() {
    const { batchSize, repeats = 0, schemes = defaultSchemes, seqLen, split } = options
    const long = rows.find(({ tokens }) => tokens.length > seqLen + 1)
    if (long !== undefined) {
      return yield* new DataError({
        detail: `sequence ${sequenceName(long)} has ${long.tokens.length} tokens; records of rows of ${seqLen} take ` +
          `${seqLen + 1} at most. Raise seqLen, or cut the sequence`
      })
    }
    if (!(Number.isInteger(batchSize) && batchSize >= 1)) {
      return yield* new DataError({ detail: `batchSize must be a whole number of sequences, got ${batchSize}` })
    }
    const records = yield* attempt(() =>
      makeRecords(
        rows.map((row, s) => ({
          name: sequenceName(row),
          split,
          id: row.id,
          repeats: typeof repeats === "number" ? repeats : repeats[s]!
        })),
        rows.map(scoredTokens),
        schemes
      ), DataError)
    rows.forEach(({ scoredFrom }, s) => {
      records.first[s] = scoredFrom ?? 1
    })
    const size = Math.min(batchSize, rows.length)
    for (const { chunk, first, full } of chunked(rows, size)) {
      const batch: Batch = batchOf(full, seqLen)
      const got: RecordColumns = yield* model.records(batch, mode, schemes)
      const at = records.start[first]!
      const count = records.start[first + chunk.length]! - at
      for (const column of columns) records[column].set(got[column].subarray(0, count), at)
      records.schemeLogProb.forEach((to, i) => to.set(got.schemeLogProb[i]!.subarray(0, count), at))
    }
    return records
  })
