/**
 * Host work for a batch: what the kernels need to know about tokens, segments and sinks, as flat arrays. Pure.
 *
 * A segment is a run of tokens of one document and one id. Its sinks are the same for all its tokens.
 */
import type { Batch } from "../Batch.ts"
import { DataError } from "../Errors.ts"
import * as Sink from "../Sink.ts"

export interface Segments {
  /** The segment of each token, [rows * seqLen]. */
  readonly segment: Uint32Array
  /** First token and number of tokens of each segment, [count, 2]. */
  readonly range: Uint32Array
  /** The id of each segment. */
  readonly ids: ReadonlyArray<bigint>
  /** Which units each segment keeps, where training leaves some out. */
  readonly kept?: ReadonlyArray<ReturnType<typeof Sink.kept>>
}

export const segmentsOf = (batch: Batch): Segments => {
  const n = batch.tokens.length
  const segment = new Uint32Array(n)
  const range: Array<number> = []
  const ids: Array<bigint> = []
  // by halves: a bigint that is read is one that is made
  const half = new Uint32Array(batch.ids.buffer, batch.ids.byteOffset, 2 * n)
  for (let t = 0; t < n; t++) {
    const starts = t === 0 || batch.documentStart[t] !== batch.documentStart[t - 1] ||
      half[2 * t] !== half[2 * t - 2] || half[2 * t + 1] !== half[2 * t - 1]
    if (starts) {
      range.push(t, 0)
      ids.push(batch.ids[t]!)
    }
    segment[t] = ids.length - 1
    range[range.length - 1]!++
  }
  const { dropped } = batch
  return {
    segment,
    range: Uint32Array.from(range),
    ids,
    ...(dropped === undefined
      ? {}
      : { kept: ids.map((_, s) => Sink.kept(dropped, dropped.draws[range[2 * s]!]!)) })
  }
}

/** The mode that a segment is computed in: off where training leaves out all of its sinks. */
export const modeOf = ({ kept }: Segments, s: number, mode: Sink.SinkMode): Sink.SinkMode =>
  kept?.[s] === "none" ? Sink.off : mode

/** Whether a segment keeps a unit that it lights. */
const keeps = ({ kept }: Segments, s: number, unit: number): boolean => {
  const one = kept?.[s] ?? "all"
  return typeof one === "function" ? one(unit) : one === "all"
}

/** Tiles that `tokens` tokens in at most `maxSegments` segments can fall into. */
export const maxTiles = (tokens: number, maxSegments: number, tileRows: number): number =>
  Math.ceil(tokens / tileRows) + maxSegments - 1

/**
 * The rows of a batch in tiles of at most `tileRows`, none of two segments: (first, end, segment, 0) each, then zeros up to
 * [count, 4]. The kernels multiply a tile with its segment's packed sinks.
 */
export const tilesOf = (segments: Segments, tileRows: number, count: number): Uint32Array => {
  const tiles = new Uint32Array(count * 4)
  let at = 0
  segments.ids.forEach((_, s) => {
    const end = segments.range[2 * s]! + segments.range[2 * s + 1]!
    for (let first = segments.range[2 * s]!; first < end; first += tileRows) {
      tiles.set([first, Math.min(first + tileRows, end), s], at)
      at += 4
    }
  })
  return tiles
}

/** Positions sorted by token: those of token v are order[start[v] .. start[v+1]], rising. [n] and [vocab + 1]. */
export const positionsByToken = (
  tokens: Uint32Array,
  vocabSize: number
): { readonly start: Uint32Array; readonly order: Uint32Array } => {
  const start = new Uint32Array(vocabSize + 1)
  for (const token of tokens) {
    if (token >= vocabSize) {
      throw new DataError({ detail: `token ${token} is outside the model's vocabulary of ${vocabSize}` })
    }
    start[token + 1]!++
  }
  for (let v = 0; v < vocabSize; v++) start[v + 1]! += start[v]!
  const next = start.slice()
  const order = new Uint32Array(tokens.length)
  tokens.forEach((token, t) => {
    order[next[token]!++] = t
  })
  return { start, order }
}

const elsewhere = ({ from, to }: Sink.Slice, id: bigint, unit: number): DataError =>
  new DataError({
    detail:
      `id ${id} lights unit ${unit} of the pool, and units ${from} to ${to - 1} are here: of ranks that share out ` +
      "model.sinks.shards each has its own sinks. Look at the model by the Trainer's evaluate or model, on rank 0"
  })

/** The coefficient table of the masked path: [maxSegments, 1 + units], of the units of a slice where there is one. */
export const maskedCoefficients = (
  config: Sink.SinkConfig | undefined,
  general: number,
  mode: Sink.SinkMode,
  segments: Segments,
  maxSegments: number,
  slice?: Sink.Slice
): Float32Array => {
  if (config === undefined) return new Float32Array(maxSegments).fill(1)
  const { from, to } = slice ?? { from: 0, to: config.units }
  const width = 1 + to - from
  const table = new Float32Array(maxSegments * width)
  segments.ids.forEach((id, s) => {
    const coef = Sink.coefficients(config, general, modeOf(segments, s, mode), id)
    if (segments.kept !== undefined) {
      for (let unit = 0; unit < config.units; unit++) if (!keeps(segments, s, unit)) coef[1 + unit] = 0
    }
    const outside = coef.findIndex((coefficient, i) => i > 0 && coefficient !== 0 && (i <= from || i > to))
    if (outside > 0) throw elsewhere({ from, to }, id, outside - 1)
    table[s * width] = coef[0]!
    table.set(coef.subarray(1 + from, 1 + to), s * width + 1)
  })
  return table
}

/**
 * What the gathered path needs: each segment's units and, the other way round, each lit unit's segments. Of a slice of the pool
 * units are counted from its first; what lights one elsewhere throws a DataError, what is off may be anywhere.
 */
export interface Gathered {
  /** [maxSegments, 1 + slots]: see Sink.slotsOf. */
  readonly coef: Float32Array
  /** [maxSegments, slots]. */
  readonly activeUnits: Uint32Array
  /** The lit units, rising. */
  readonly units: Uint32Array
  /** For the u-th lit unit, uses[unitStart[u] .. unitStart[u + 1]] are its (segment, slot) pairs, in order. */
  readonly unitStart: Uint32Array
  readonly uses: Uint32Array
}

export const gather = (
  config: Sink.SinkConfig,
  general: number,
  mode: Sink.SinkMode,
  segments: Segments,
  maxSegments: number,
  slice?: Sink.Slice
): Gathered => {
  const slots = Sink.slotsOf(config)!
  const coef = new Float32Array(maxSegments * (1 + slots))
  const activeUnits = new Uint32Array(maxSegments * slots)
  const usesOf = new Map<number, Array<number>>()
  segments.ids.forEach((id, s) => {
    const lit = Sink.gathered(config, general, mode, id)
    coef.set(lit.coef, s * (1 + slots))
    lit.units.subarray(0, lit.count).forEach((global, slot) => {
      const at = s * (1 + slots) + 1 + slot
      // what is left out, denied or off takes part in nothing: its sinks get no gradient, and lazy ones do not move
      if (!keeps(segments, s, global)) coef[at] = 0
      const isHere = slice === undefined || (global >= slice.from && global < slice.to)
      const unit = global - (slice?.from ?? 0)
      if (isHere) activeUnits[s * slots + slot] = unit
      if (coef[at] === 0) return
      if (!isHere) throw elsewhere(slice, id, global)
      const list = usesOf.get(unit) ?? []
      list.push(s, slot)
      usesOf.set(unit, list)
    })
  })
  const units = Uint32Array.from(usesOf.keys()).sort()
  const unitStart = new Uint32Array(units.length + 1)
  const uses = new Uint32Array(2 * Array.from(usesOf.values()).reduce((sum, list) => sum + list.length / 2, 0))
  units.forEach((unit, u) => {
    const list = usesOf.get(unit)!
    uses.set(list, unitStart[u]! * 2)
    unitStart[u + 1] = unitStart[u]! + list.length / 2
  })
  return { coef, activeUnits, units, unitStart, uses }
}

/** Whether the packed sinks have room for those of every id of a batch: see Sink.slotsOf. */
export const fits = (config: Sink.SinkConfig | undefined, segments: Segments, mode: Sink.SinkMode): boolean =>
  config === undefined || Sink.slotsOf(config) === undefined || segments.ids.every((id) => Sink.fits(config, mode, id))

/**
 * The packed sinks of so many segments as units of 16 neurons, each used once, by its own segment: what the gradient kernels
 * own. 0, 1, 2, ... is the number of each and where its uses start, [units + 1]; its use is a (segment, slot) pair,
 * [units, 2]. The same for every batch, which takes the first ones.
 */
export const packedUnits = (
  segments: number,
  neurons: number
): { readonly order: Uint32Array; readonly uses: Uint32Array } => {
  const each = neurons / 16
  const units = segments * each
  return {
    order: Uint32Array.from({ length: units + 1 }, (_, u) => u),
    uses: Uint32Array.from({ length: 2 * units }, (_, i) => i % 2 === 0 ? Math.floor(i / 2 / each) : (i >> 1) % each)
  }
}

/** The units of the pool that are on for a batch in a mode, rising: by default those that its ids light. */
export const litUnits = (
  config: Sink.SinkConfig,
  segments: Segments,
  mode: Sink.SinkMode = Sink.own
): Uint32Array => {
  const units = new Set<number>()
  const light = (id: bigint, keeps: (unit: number) => boolean) => {
    if (mode === Sink.own) {
      for (const unit of Sink.trainedUnitsOf(config, id)) if (keeps(unit)) units.add(unit)
      return
    }
    // the number of general neurons only scales them
    Sink.coefficients(config, 1, mode, id).forEach((coefficient, i) => {
      if (i > 0 && coefficient !== 0 && keeps(i - 1)) units.add(i - 1)
    })
  }
  if (segments.kept === undefined) { for (const id of new Set(segments.ids)) light(id, () => true) }
  else segments.ids.forEach((id, s) => light(id, (unit) => keeps(segments, s, unit)))
  return Uint32Array.from(units).sort()
}
