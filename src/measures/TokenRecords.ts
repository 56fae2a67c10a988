/**
 * Token records: what one teacher-forced pass says about every scored token, so that loss, extraction and membership
 * metrics are plain functions of them, the same for every checkpoint and mask state.
 *
 * All logarithms are natural: log-probabilities, moments and margins are in nats, per token. Tokens of different
 * tokenizers are not comparable; compare per character where they differ.
 */
import * as Effect from "effect/Effect"
import { DataError } from "../Errors.ts"
import * as Parquet from "./Parquet.ts"

/** How a next token is drawn: from the `topK` likeliest, or the likeliest that have a mass of `topP`, or from all. */
export interface Sampling {
  /** Logits are divided by it before anything else. */
  readonly temperature: number
  readonly topK?: number
  /** The kept tokens are those with less than this mass on likelier ones, so the likeliest always is. */
  readonly topP?: number
}

/** How text is drawn from a model; `greedy` always takes the likeliest token. */
export type Scheme = "greedy" | Sampling

/** What records hold unless told: top 5, 10, 40 and all, at temperatures 0.5, 0.7 and 1, and top-p 0.9. */
export const defaultSchemes: ReadonlyArray<Sampling> = [
  ...[5, 10, 40].flatMap((topK) => [0.5, 0.7, 1].map((temperature) => ({ topK, temperature }))),
  { temperature: 0.5 },
  { temperature: 0.7 },
  { topP: 0.9, temperature: 1 }
]

/** A scored sequence: who it is, and why it is scored. */
export interface Sequence {
  readonly name: string
  /** Which part of the data it stands for: `repeated`, `canary`, `heldOut`, ... */
  readonly split: string
  /** The id whose sinks it lights. */
  readonly id: bigint
  /** Its exposures in all of training. */
  readonly repeats: number
}

/**
 * Records of sequences, as columns. Those of sequence s are start[s] .. start[s + 1], one for each of its scored tokens
 * in order; at least one.
 */
export interface TokenRecords {
  readonly sequences: ReadonlyArray<Sequence>
  /** [sequences + 1] */
  readonly start: Uint32Array
  /** Position of each sequence's first scored token, that is, how many tokens the model saw before it. [sequences] */
  readonly first: Uint32Array
  /** The true token. */
  readonly token: Uint32Array
  /** Its log-probability. */
  readonly logProb: Float32Array
  /** Tokens that are likelier, or equally likely and of a lower index: 0 means that greedy decoding says it. */
  readonly rank: Uint32Array
  /** Mean of log P over the distribution, sum P log P: minus the entropy. */
  readonly mean: Float32Array
  /** Variance of log P over the distribution. */
  readonly variance: Float32Array
  /** Probability of all tokens of a lower rank together. */
  readonly massAbove: Float32Array
  /** Largest logit minus the next: where it is below the noise of the arithmetic, rank 0 is luck. */
  readonly margin: Float32Array
  readonly schemes: ReadonlyArray<Sampling>
  /** For each scheme, the log-probability to draw the true token under it; -Infinity where it never is drawn. */
  readonly schemeLogProb: ReadonlyArray<Float32Array>
}

/** Which columns hold one number a token, in the order they are documented. */
const numbers = ["logProb", "rank", "mean", "variance", "massAbove", "margin"] as const

/** Records to be filled: zeros for `lengths[s]` scored tokens of each sequence, the first of them at position 1. */
export const makeRecords = (
  sequences: ReadonlyArray<Sequence>,
  lengths: ArrayLike<number>,
  schemes: ReadonlyArray<Sampling> = defaultSchemes
): TokenRecords => {
  const start = new Uint32Array(sequences.length + 1)
  sequences.forEach(({ name }, s) => {
    if (!(lengths[s]! > 0)) throw new DataError({ detail: `sequence ${name} has no scored token: it needs two tokens` })
    start[s + 1] = start[s]! + lengths[s]!
  })
  const n = start[sequences.length]!
  return {
    sequences,
    start,
    first: new Uint32Array(sequences.length).fill(1),
    token: new Uint32Array(n),
    logProb: new Float32Array(n),
    rank: new Uint32Array(n),
    mean: new Float32Array(n),
    variance: new Float32Array(n),
    massAbove: new Float32Array(n),
    margin: new Float32Array(n),
    schemes,
    schemeLogProb: schemes.map(() => new Float32Array(n))
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Reference

/** The record of one token, in float64. */
export interface TokenRecord extends Readonly<Record<(typeof numbers)[number], number>> {
  readonly schemeLogProb: ReadonlyArray<number>
}

/** log of the sum of exp(values[i]), largest first. */
const logSumExp = (values: ArrayLike<number>, count = values.length): number => {
  let sum = 0
  for (let i = 0; i < count; i++) sum += Math.exp(values[i]! - values[0]!)
  return values[0]! + Math.log(sum)
}

/** The log-probability under a scheme of the token of rank `rank`, from all logits, largest first. */
const underScheme = (sorted: Float64Array, rank: number, { temperature, topK, topP }: Sampling): number => {
  const scaled = sorted.map((z) => z / temperature)
  let kept = Math.min(topK ?? Infinity, scaled.length)
  if (topP !== undefined) {
    const all = logSumExp(scaled)
    let above = 0
    let within = 0
    while (within < kept && above < topP) above += Math.exp(scaled[within++]! - all)
    kept = within
  }
  return rank < kept ? scaled[rank]! - logSumExp(scaled, kept) : -Infinity
}

/**
 * The record of `token` where the model gave `logits`, in float64: what the device is held to. Where a logit is infinite
 * or not a number, all numbers are NaN and the rank is behind every token.
 */
export const recordOf = (
  logits: ArrayLike<number>,
  token: number,
  schemes: ReadonlyArray<Sampling> = defaultSchemes
): TokenRecord => {
  if (!Array.prototype.every.call(logits, Number.isFinite)) {
    const lost = { logProb: NaN, rank: logits.length, mean: NaN, variance: NaN, massAbove: NaN, margin: NaN }
    return { ...lost, schemeLogProb: schemes.map(() => NaN) }
  }
  const aim = logits[token]!
  let rank = 0
  for (let i = 0; i < logits.length; i++) if (logits[i]! > aim || (logits[i] === aim && i < token)) rank++
  const sorted = Float64Array.from(logits).sort().reverse()
  const all = logSumExp(sorted)
  let [mean, variance, massAbove] = [0, 0, 0]
  sorted.forEach((z, i) => {
    const p = Math.exp(z - all)
    mean += p * (z - all)
    if (i < rank) massAbove += p
  })
  for (const z of sorted) variance += Math.exp(z - all) * (z - all - mean) ** 2
  return {
    logProb: aim - all,
    rank,
    mean,
    variance,
    massAbove,
    margin: sorted[0]! - sorted[1]!,
    schemeLogProb: schemes.map((scheme) => underScheme(sorted, rank, scheme))
  }
}

/** A sequence with its tokens and the logits behind each but the last: [tokens - 1, vocabulary]. */
export interface ScoredSequence extends Sequence {
  readonly tokens: ArrayLike<number>
  readonly logits: ArrayLike<number>
}

/** Records from logits, computed in float64. Every token but a sequence's first is scored. */
export const fromLogits = (
  scored: ReadonlyArray<ScoredSequence>,
  vocabSize: number,
  schemes: ReadonlyArray<Sampling> = defaultSchemes
): TokenRecords => {
  const records = makeRecords(
    scored.map(({ id, name, repeats, split }) => ({ name, split, id, repeats })),
    scored.map(({ tokens }) => tokens.length - 1),
    schemes
  )
  scored.forEach(({ logits, tokens }, s) => {
    const all = Float64Array.from(logits)
    for (let t = 0; t < tokens.length - 1; t++) {
      const at = records.start[s]! + t
      const one = recordOf(all.subarray(t * vocabSize, (t + 1) * vocabSize), tokens[t + 1]!, schemes)
      records.token[at] = tokens[t + 1]!
      for (const column of numbers) records[column][at] = one[column]
      one.schemeLogProb.forEach((value, i) => {
        records.schemeLogProb[i]![at] = value
      })
    }
  })
  return records
}

// ---------------------------------------------------------------------------------------------------------------
// Use

/** Greedy, `t0.7`, `k40 t1`, `p0.9 t1`: what messages call a scheme. */
export const schemeName = (scheme: Scheme): string =>
  scheme === "greedy"
    ? scheme
    : (scheme.topK === undefined ? "" : `k${scheme.topK} `) + (scheme.topP === undefined ? "" : `p${scheme.topP} `) +
      `t${scheme.temperature}`

/** Whether greedy decoding says a token. Where its record holds no number it does not, whatever the rank is. */
export const isFirst = ({ logProb, rank }: Pick<TokenRecords, "logProb" | "rank">, at: number): boolean =>
  rank[at] === 0 && Number.isFinite(logProb[at])

/**
 * The log-probability to draw each true token under a scheme. Throws a DataError where the records were made without
 * the scheme; greedy, and plain sampling at temperature 1, all records have.
 */
export const logProbUnder = (records: TokenRecords, scheme: Scheme): Float32Array => {
  if (scheme === "greedy") return records.logProb.map((_, at) => (isFirst(records, at) ? 0 : -Infinity))
  if (schemeName(scheme) === "t1") return records.logProb
  const found = records.schemes.findIndex((one) => schemeName(one) === schemeName(scheme))
  if (found >= 0) return records.schemeLogProb[found]!
  throw new DataError({
    detail: `the records were made without the sampling scheme "${schemeName(scheme)}"; they have ` +
      ["greedy", "t1", ...records.schemes.map(schemeName)].map((name) => `"${name}"`).join(", ") +
      ". Record it with the others"
  })
}

/** The records of some of the sequences, in the order of `indices`. */
export const pick = (records: TokenRecords, indices: ReadonlyArray<number>): TokenRecords => {
  const { first, sequences, start } = records
  const picked = makeRecords(
    indices.map((s) => sequences[s]!),
    indices.map((s) => start[s + 1]! - start[s]!),
    records.schemes
  )
  const copy = <A extends Uint32Array | Float32Array>(to: A, from: A): void =>
    indices.forEach((s, i) => to.set(from.subarray(start[s], start[s + 1]), picked.start[i]))
  for (const column of ["token", ...numbers] as const) copy(picked[column], records[column])
  picked.schemeLogProb.forEach((to, i) => copy(to, records.schemeLogProb[i]!))
  indices.forEach((s, i) => {
    picked.first[i] = first[s]!
  })
  return picked
}

/** The records of the sequences of one split. */
export const ofSplit = (records: TokenRecords, split: string): TokenRecords =>
  pick(records, records.sequences.flatMap((sequence, s) => (sequence.split === split ? [s] : [])))

// ---------------------------------------------------------------------------------------------------------------
// Parquet

/** What all records of a file have in common. */
export interface RecordKey {
  /** The run, its arm and seed: whatever tells models apart. */
  readonly run: string
  /** The step of the checkpoint. */
  readonly checkpoint: number
  /** The mask state: `own`, `off`, ... */
  readonly mask: string
}

const columnOf = {
  token: "token",
  logProb: "log_prob",
  rank: "rank",
  mean: "mean",
  variance: "variance",
  massAbove: "mass_above",
  margin: "margin"
} as const

const what = "token records"

/** The column of a scheme: `log_t0_7`, `log_k40_t1`, `log_p0_9_t1`. */
const schemeColumn = (scheme: Sampling): string => `log_${schemeName(scheme).replaceAll(/[ .]/g, "_")}`

const schemePattern = /^log_(?:k(\d+)_)?(?:p(\d+(?:_\d+)?)_)?t(\d+(?:_\d+)?)$/

const schemeOf = (column: string): Sampling | undefined => {
  const [, topK, topP, temperature] = schemePattern.exec(column) ?? []
  if (temperature === undefined) return undefined
  const number = (text: string): number => Number(text.replace("_", "."))
  return {
    temperature: number(temperature),
    ...(topK === undefined ? {} : { topK: Number(topK) }),
    ...(topP === undefined ? {} : { topP: number(topP) })
  }
}

/**
 * Writes records as a Parquet file, a row a token, that DuckDB, pandas or polars read:
 *
 *     run STRING, checkpoint INT32, mask STRING     the key, the same in every row, so files can be read together
 *     sequence INT32, name STRING, split STRING     number and names of the sequence
 *     id UINT64, repeats INT32                      its sinks' id, its exposures
 *     position INT32, token INT32, rank INT32       of the token in the sequence; the token; see TokenRecords
 *     log_prob, mean, variance, mass_above, margin  FLOAT, in nats
 *     log_k40_t0_7, log_t0_5, log_p0_9_t1, ...      FLOAT, log-probability under each scheme, -inf: never drawn
 *
 * The file appears when it is complete. Fails with a DataError when it cannot be written.
 */
export const write = Effect.fnUntraced(function*(path: string, key: RecordKey, records: TokenRecords) {
  const { first, sequences, start } = records
  const n = start[sequences.length]!
  const rows = <A>(of: (sequence: number, at: number) => A): Array<A> => {
    const all = new Array<A>(n)
    for (let s = 0; s < sequences.length; s++) for (let i = start[s]!; i < start[s + 1]!; i++) all[i] = of(s, i)
    return all
  }
  const { real, text, unsigned64, whole } = Parquet.types
  yield* Parquet.write(path, what, [
    ["run", text, rows(() => key.run)],
    ["checkpoint", whole, rows(() => key.checkpoint)],
    ["mask", text, rows(() => key.mask)],
    ["sequence", whole, rows((s) => s)],
    ["name", text, rows((s) => sequences[s]!.name)],
    ["split", text, rows((s) => sequences[s]!.split)],
    ["id", unsigned64, rows((s) => sequences[s]!.id)],
    ["repeats", whole, rows((s) => sequences[s]!.repeats)],
    ["position", whole, rows((s, i) => first[s]! + i - start[s]!)],
    ["token", whole, Int32Array.from(records.token)],
    ["rank", whole, Int32Array.from(records.rank)],
    ...numbers.flatMap((name): ReadonlyArray<Parquet.Column> =>
      name === "rank" ? [] : [[columnOf[name], real, records[name]]]
    ),
    ...records.schemes.map((scheme, i): Parquet.Column => [schemeColumn(scheme), real, records.schemeLogProb[i]!])
  ])
})

/** Reads what `write` wrote. Fails with a DataError when the file cannot be read, or is not of token records. */
export const read = Effect.fnUntraced(function*(path: string) {
  const keys = ["run", "checkpoint", "mask", "sequence", "name", "split", "id", "repeats", "position"]
  const table = yield* Parquet.read(path, what, [...keys, ...Object.values(columnOf)])
  if (table.rows === 0) return yield* new DataError({ path, detail: `holds no ${what}` })
  const sequence = table.fill("sequence", new Uint32Array(table.rows))
  const schemes = table.names.flatMap((name) => schemeOf(name) ?? [])
  const starts: Array<number> = []
  sequence.forEach((s, i) => {
    if (i === 0 || s !== sequence[i - 1]) starts.push(i)
  })
  const names = table.pick<string>("name", starts)
  const splits = table.pick<string>("split", starts)
  const ids = table.pick<bigint>("id", starts)
  const repeats = table.pick<number>("repeats", starts)
  const records = makeRecords(
    names.map((name, s) => ({ name, split: splits[s]!, id: BigInt.asUintN(64, ids[s]!), repeats: repeats[s]! })),
    starts.map((from, s) => (starts[s + 1] ?? table.rows) - from),
    schemes
  )
  records.first.set(table.pick<number>("position", starts))
  for (const name of ["token", ...numbers] as const) table.fill(columnOf[name], records[name])
  schemes.forEach((scheme, i) => table.fill(schemeColumn(scheme), records.schemeLogProb[i]!))
  const key: RecordKey = {
    run: table.pick<string>("run", [0])[0]!,
    checkpoint: table.pick<number>("checkpoint", [0])[0]!,
    mask: table.pick<string>("mask", [0])[0]!
  }
  return { key, records }
})
