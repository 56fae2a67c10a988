/**
 * Memorization sinks: which sink neurons an id lights. Pure; the papers in one file.
 *
 * In every MLP the first `general` hidden neurons are always on; the `pool` of sink neurons behind them is shared out by
 * id: an id always lights the same few, in every layer the same ones (MemSinks, ICML 2025, section 4 and appendix I; NULLs,
 * 2026, keys them by source). A sink that an id does not light is multiplied by 0 in the forward pass and gets no gradient.
 *
 * What we changed: an id owns *exactly* `active` sinks, the beginning of a permutation of the pool keyed by 64 bits of id,
 * so no id draws none and no id is degenerate; by default in blocks of 16 neurons, so the kernels gather whole tiles and
 * compute only what is on. The papers' Bernoulli masks and the reference code's hash remain for checkpoints made elsewhere.
 * A pool may be in shards, of which an id has one: then several ranks can train it without exchanging a sink.
 */
import * as Schema from "effect/Schema"
import { type Dropped, toId } from "./Batch.ts"
import { configuration, fraction, seed, upTo, withDefault } from "./Config.ts"

/** Neurons of an MLP at most, as ModelConfig says. */
const count = upTo(2 ** 24)

/** An id of 64 bits without a sign, in decimal digits: JSON's numbers end at 53 bits. */
const IdText = Schema.String.pipe(
  Schema.filter((text) => /^\d{1,20}$/.test(text) && BigInt(text) < 2n ** 64n, {
    message: () => "expected an id, a whole number from 0 to 2^64 - 1 in decimal digits as a text",
    jsonSchema: { pattern: "^[0-9]{1,20}$" }
  })
)

/** How sinks are shared out. */
export class SinkConfig extends configuration(Schema.Class<SinkConfig>("SinkConfig")({
  /** Sink neurons in every MLP. */
  pool: count.annotations({ description: "sink neurons in every MLP" }),
  /** Sink neurons an id lights; exactly for `permutation`, on average for the others. */
  active: count.annotations({ description: "sink neurons that an id lights" }),
  /** Neurons tied together: they are on or off as one. Multiples of 8 are gathered whole, 1, 2 and 4 packed. Default 16. */
  block: Schema.optionalWith(count, { default: () => 16 }),
  /**
   * `permutation` (default): exactly `active`, drawn for every id alone. `disjoint`: exactly `active`, shared out in the order
   * of `owners`: as many ids as fit into the pool share nothing, those that follow begin again with the pool shuffled anew,
   * so that sinks have equally many owners, or one more. `bernoulli`: each unit with probability active/pool. `reference`:
   * SeqTD's hash.
   */
  assignment: Schema.optionalWith(Schema.Literal("permutation", "disjoint", "bernoulli", "reference"), {
    default: () => "permutation" as const
  }),
  /** Key of the permutations, 32 bits: two models with other seeds share out sinks independently. Default 0. */
  seed: Schema.optionalWith(Schema.Int.pipe(Schema.between(-(2 ** 31), 2 ** 31 - 1)), { default: () => 0 }),
  /**
   * Slices of the pool, of equally many blocks. An id has one, by a hash of it (owners of `disjoint` take them in turn), and lights
   * sinks of that slice alone, as many as ever: ids of one slice share so many times as many, ids of two slices none. Ranks
   * whose number divides it train a part of the slices each, and no gradient of a sink travels. Default 1.
   */
  shards: Schema.optional(count),
  /** Only for `reference`: the width at which the reference code multiplies ids (it wraps at 32 or 64 bits). Default 64. */
  referenceIdBits: Schema.optionalWith(Schema.Literal(32, 64), { default: () => 64 as const }),
  /**
   * Only for `bernoulli` and `reference`: the probability itself, where `active / pool` is not bit for bit the one that a model was
   * trained with. Default active / pool.
   */
  maskProbability: Schema.optional(Schema.Number.pipe(Schema.greaterThan(0), Schema.lessThanOrEqualTo(1))),
  /**
   * Only for `disjoint`: the ids in the order in which they take their sinks, which a training fills in from its data. More
   * are added behind the others. An id that is not among them lights sinks that are drawn for it alone.
   */
  owners: Schema.optional(Schema.Array(IdText)),
  /** Ids that never light a sink again, in whatever mode, as what was deleted. Default: none. */
  denied: Schema.optional(Schema.Array(IdText)),
  /** Units that are off for everyone, in rising order: those of what was excluded. Default: none. */
  excluded: Schema.optional(Schema.Array(Schema.NonNegativeInt)),
  /**
   * Attention heads of every block, the last ones, that are set aside with the sinks (SGTM): they are on wherever any sink is,
   * whoever's. In f32 only. Default: none.
   */
  heads: Schema.optional(count)
})) {
  /** Whether every id lights exactly `active` sinks. */
  get exact(): boolean {
    return this.assignment === "permutation" || this.assignment === "disjoint"
  }
  /** Units: blocks of neurons that are on or off together. */
  get units(): number {
    return this.pool / this.block
  }
  /** Units that an id lights. */
  get activeUnits(): number {
    return this.active / this.block
  }
  /** Share of the pool an id lights (`p_mem` of the reference). */
  get probability(): number {
    return this.maskProbability ?? this.active / this.pool
  }
  /** Units of a slice: all of them, unless there are several `shards`. */
  get sliceUnits(): number {
    return this.units / (this.shards ?? 1)
  }
  /** Share of its slice that an id lights. */
  get sliceProbability(): number {
    return this.probability * (this.shards ?? 1)
  }
  /** Owners that fit into the pool by `disjoint` without sharing a sink. */
  get apart(): number {
    return (this.shards ?? 1) * Math.floor(this.sliceUnits / this.activeUnits)
  }
  /** A pool is a multiple of it: whole blocks in every slice, and a multiple of 4. */
  get poolUnit(): number {
    const unit = this.block * (this.shards ?? 1)
    return unit % 4 === 0 ? unit : unit % 2 === 0 ? 2 * unit : 4 * unit
  }
  /** The same with more owners, behind those that it has; as it is for other assignments than `disjoint`. */
  withOwners(ids: Iterable<bigint>): SinkConfig {
    if (this.assignment !== "disjoint") return this
    return new SinkConfig({ ...this, owners: [...new Set([...this.owners ?? [], ...Array.from(ids, String)])] })
  }
  /** What is wrong with the combination of fields, or undefined. */
  get problem(): string | undefined {
    if (this.pool % this.block !== 0) return `sinks.pool ${this.pool} must be a multiple of sinks.block ${this.block}`
    if (this.pool % 4 !== 0) return `sinks.pool ${this.pool} must be a multiple of 4`
    if (this.active > this.pool) return `sinks.active ${this.active} must be at most sinks.pool ${this.pool}`
    const { shards = 1 } = this
    if (this.units % shards !== 0) {
      return `sinks.shards ${shards} must divide the ${this.units} blocks of sinks.pool ${this.pool}`
    }
    if (this.exact ? this.activeUnits > this.sliceUnits : this.sliceProbability > 1) {
      return `sinks.active ${this.active} must be at most ${
        this.pool / shards
      }, a slice of sinks.pool ${this.pool} in ` +
        `sinks.shards ${shards}`
    }
    const last = this.excluded?.find((unit) => unit >= this.units)
    if (last !== undefined) {
      return `sinks.excluded has unit ${last}, and the last of a pool of ${this.units} units is ${this.units - 1}`
    }
    if (this.owners !== undefined && this.assignment !== "disjoint") {
      return `sinks.owners goes with the assignment "disjoint"`
    }
    if (new Set(this.owners).size < (this.owners ?? []).length) return "sinks.owners has an id twice"
    if (this.exact && this.maskProbability !== undefined) {
      return `sinks.maskProbability goes with the assignments "bernoulli" and "reference"`
    }
    if (this.exact && this.active % this.block !== 0) {
      return `sinks.active ${this.active} must be a multiple of sinks.block ${this.block}`
    }
    if (this.assignment === "reference" && this.block !== 1) {
      return `sinks.block must be 1 with the reference assignment`
    }
    return undefined
  }
}

/** What training leaves out of sinks, so that a model learns to stand without them. */
export class SinkDropout extends configuration(Schema.Class<SinkDropout>("SinkDropout")({
  /** Share of sequences that are trained with all their sinks off, drawn for every exposure. Default 0. */
  sequences: withDefault(fraction, 0),
  /** Share of the units of every other sequence that are off, each drawn by itself. What is left is not scaled. Default 0. */
  units: withDefault(fraction, 0),
  /** Of the draws, which follow from it, the epoch and the place in it alone. Default 0. */
  seed: withDefault(seed, 0)
})) {}

/**
 * Which sinks are on in a pass.
 * - `own`: those of each token's id, as in training. `also`: besides, those of the listed ids, for every token.
 * - `off`: none. `rescale` multiplies the general neurons: `none` (default, x1), `count` (as many neurons as in training:
 *   (general + active) / general), `reference` ((p_gen + p_mem) / p_gen of the reference code, which takes p_mem for a
 *   fraction of the layer).
 * - `all`: every sink at its expected value, active / pool.
 * - `only`: those of the listed ids, for every token.
 * - `placebo`: for every id those of another, random id; as many as its own, and never trained with it.
 *
 * `except` switches off every sink that one of the listed ids lights, whatever the mode: deletion of those ids.
 */
export type SinkMode =
  | { readonly mode: "own"; readonly also?: ReadonlyArray<bigint>; readonly except?: ReadonlyArray<bigint> }
  | { readonly mode: "off"; readonly rescale?: "none" | "count" | "reference" }
  | { readonly mode: "all"; readonly except?: ReadonlyArray<bigint> }
  | { readonly mode: "only"; readonly ids: ReadonlyArray<bigint>; readonly except?: ReadonlyArray<bigint> }
  | { readonly mode: "placebo"; readonly seed?: number }

/** The sinks of each sequence's own id are on: the model as it was trained. */
export const own: SinkMode = { mode: "own" }
/** No sink is on: what general neurons know alone. */
export const off: SinkMode = { mode: "off" }
/** Every sink is on, each scaled by how often it is lit in training. */
export const all: SinkMode = { mode: "all" }
/** As many sinks as one's own, of another id: what is not in one's own sinks does not care whose are on. */
export const placebo: SinkMode = { mode: "placebo" }

/** The states that models are compared in, in the order in which tables show them, and what tables call them. */
export const states = {
  own: { mode: own, title: "own sinks" },
  off: { mode: off, title: "sinks off" },
  placebo: { mode: placebo, title: "placebo" },
  all: { mode: all, title: "all at expected" }
} as const

/** A state that models are compared in. */
export type State = keyof typeof states

/** The states that a model has: without sinks only `own`, the model as it is. */
export const statesOf = (sinks: SinkConfig | undefined): ReadonlyArray<State> =>
  sinks === undefined ? ["own"] : Object.keys(states) as Array<State>

/** A bijection of 32 bits in which every input bit moves about half of the output bits (two rounds of multiply-xorshift). */
const mix = (x: number): number => {
  x ^= x >>> 16
  x = Math.imul(x, 0x7feb352d)
  x ^= x >>> 15
  x = Math.imul(x, 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}

/** A stream of 32-bit words keyed by all 64 bits of an id, a seed and a purpose. */
const words = (id: bigint, seed: number, purpose: number): () => number => {
  const low = Number(id & 0xffffffffn)
  const high = Number((id >> 32n) & 0xffffffffn)
  const a = mix(low ^ mix(high ^ mix(seed ^ mix(purpose))))
  const b = mix(high + Math.imul(0x9e3779b9, mix(low ^ mix(Math.imul(seed, 0x85ebca6b) ^ ~purpose))))
  let counter = 0
  return () => {
    counter++
    return mix(mix(a + Math.imul(counter, 0x9e3779b9)) ^ mix(b + Math.imul(counter, 0xc2b2ae35)))
  }
}

/** The id whose sinks stand in for `id`'s in the placebo: random, but always the same for the same id and seed. */
export const placeboId = (id: bigint, seed = 0): bigint => {
  const next = words(toId(id), seed, 0x706c6163)
  // the top bit keeps it out of the small numbers that people number sequences with
  return (BigInt(next() | 0x80000000) << 32n) & 0xffffffff00000000n | BigInt(next())
}

/** Units of the pool, from one to before another. */
export interface Slice {
  readonly from: number
  readonly to: number
}

/** The units of a rank, of several that share out the shards of a pool; undefined where each has all. */
export const sliceOf = (
  { shards = 1, units }: SinkConfig,
  { rank, size }: { readonly rank: number; readonly size: number }
): Slice | undefined =>
  size === 1 || shards === 1 ? undefined : { from: rank * units / size, to: (rank + 1) * units / size }

/** Why a pool's shards cannot be shared out over so many ranks; undefined where they can. */
export const unevenShards = ({ pool, shards = 1 }: SinkConfig, size: number): string | undefined =>
  shards === 1 || size === 1
    ? undefined
    : shards % size !== 0
    ? `model.sinks.shards is ${shards}, and ${size} ranks share them out: take a number of ranks that divides it. Which ` +
      "sinks an id lights follows from shards, so a trained model keeps them"
    : pool / size % 4 !== 0
    ? `model.sinks.pool is ${pool}, of which each of ${size} ranks has ${
      pool / size
    } sinks: that must be a multiple of 4`
    : undefined

/** The first `k` of a permutation of 0 .. n-1, as they are drawn (Fisher-Yates, of which only the drawn places are kept). */
const permutation = (n: number, k: number, next: () => number): Uint32Array => {
  const moved = new Map<number, number>()
  const drawn = new Uint32Array(k)
  for (let i = 0; i < k; i++) {
    const j = i + Math.floor((next() / 2 ** 32) * (n - i))
    drawn[i] = moved.get(j) ?? j
    moved.set(j, moved.get(i) ?? i)
  }
  return drawn
}

/** Rounds of owners whose shuffled pool is remembered, of every shard. */
const ROUNDS = 4

const owned = new WeakMap<SinkConfig, {
  readonly place: ReadonlyMap<bigint, number>
  readonly pools: Map<number, Uint32Array>
}>()

const ownedOnce = (config: SinkConfig) => {
  const known = owned.get(config) ??
    { place: new Map((config.owners ?? []).map((owner, i) => [BigInt(owner), i])), pools: new Map() }
  owned.set(config, known)
  return known
}

/** The shard of an id, from 0 to `shards` - 1: its units are among the `sliceUnits` from shard * sliceUnits on. */
export const shardOf = (config: SinkConfig, id: bigint): number => {
  const { shards = 1 } = config
  if (shards === 1) return 0
  const key = toId(id)
  return (ownedOnce(config).place.get(key) ?? words(key, config.seed, 4)()) % shards
}

/**
 * The units of the owner in a place, counted from the first of its slice. As many owners as fit are a round; each takes its part
 * of the slice, which every round shuffles anew. Undefined for an id that owns none.
 */
const disjoint = (config: SinkConfig, id: bigint): Uint32Array | undefined => {
  const { activeUnits, shards = 1, sliceUnits } = config
  const { place: places, pools } = ownedOnce(config)
  const place = places.get(id)
  if (place === undefined) return undefined
  const fit = Math.floor(sliceUnits / activeUnits)
  const inShard = Math.floor(place / shards)
  const round = Math.floor(inShard / fit) * shards + place % shards
  const pool = pools.get(round) ?? permutation(sliceUnits, sliceUnits, words(BigInt(round), config.seed, 3))
  if (pools.size >= ROUNDS * shards) pools.clear()
  pools.set(round, pool)
  const first = inShard % fit * activeUnits
  return pool.slice(first, first + activeUnits)
}

/** The prime below 2^32: 2^32 = 5 and 2^64 = 25 modulo it. */
const M = 4294967291

const wide = BigInt(M)
const factors: Array<number> = []
let power = 1n

/** The multiplier of sink j in the reference: (1588635695^j in wrapping int64) mod M, floored. */
const factor = (j: number): number => {
  while (factors.length <= j) {
    factors.push(Number(((BigInt.asIntN(64, power) % wide) + wide) % wide))
    power = BigInt.asIntN(64, power * 1588635695n)
  }
  return factors[j]!
}

/** The upper 32 bits of the product of two words. */
const upper = (a: number, b: number): number => {
  const a1 = a >>> 16
  const a0 = a & 0xffff
  const b1 = b >>> 16
  const b0 = b & 0xffff
  const low = a0 * b0
  const middle = a1 * b0 + (low >>> 16)
  const rest = a0 * b1 + (middle % 0x10000)
  return a1 * b1 + Math.floor(middle / 0x10000) + Math.floor(rest / 0x10000)
}

/**
 * The reference code's mask, bit for bit: sink j is on iff f32(f32(s * 2^16 * c_j mod M) / f32(M)) < f32(p), where
 * products wrap at 64 bits and s * 2^16 wraps at the id's own width. Its defects come with it: id 0 lights every sink, at
 * 32 bits only the low 16 bits of an id count, and ids s and 2s share half of their sinks. Of `pool` sinks from `first` on.
 */
export const referenceMask = (id: bigint, pool: number, p: number, idBits: 32 | 64, first = 0): Uint8Array => {
  const shifted = BigInt.asUintN(64, BigInt.asIntN(idBits, BigInt.asIntN(idBits, id) * 65536n))
  const high = Number(shifted >> 32n)
  const low = Number(shifted & 0xffffffffn)
  const threshold = Math.fround(p)
  const mask = new Uint8Array(pool)
  factor(first + pool - 1)
  for (let j = 0; j < pool; j++) {
    const c = factors[first + j]!
    // the product, wrapped at 64 bits, in two words; as a signed number it is 2^64 less where the top bit is set
    const top = (upper(low, c) + Math.imul(high, c)) >>> 0
    const bottom = Math.imul(low, c) >>> 0
    // below 7 M: exact, and its quotient rounds to the right whole number or to one more
    const product = 5 * top + bottom + (top >= 0x80000000 ? M - 25 : 0)
    const rest = product - Math.floor(product / M) * M
    const residue = rest < 0 ? rest + M : rest
    mask[j] = Math.fround(Math.fround(residue) / Math.fround(M)) < threshold ? 1 : 0
  }
  return mask
}

/** Ids whose units are remembered, of one configuration: a step asks for the same ones several times. */
const REMEMBERED = 2048

const remembered = new WeakMap<SinkConfig, Map<bigint, Uint32Array>>()

/** Those of so many units that are on. */
const litOf = (units: number, on: (unit: number) => boolean): Uint32Array => {
  const lit: Array<number> = []
  for (let unit = 0; unit < units; unit++) if (on(unit)) lit.push(unit)
  return Uint32Array.from(lit)
}

/** The units that an id lights of its slice, counted from the first of that, rising. */
const drawnInSlice = (config: SinkConfig, key: bigint, first: number): Uint32Array => {
  const { activeUnits, sliceProbability: probability, sliceUnits } = config
  switch (config.assignment) {
    case "permutation":
    case "disjoint":
      return (disjoint(config, key) ?? permutation(sliceUnits, activeUnits, words(key, config.seed, 1))).sort()
    case "bernoulli": {
      const next = words(key, config.seed, 2)
      return litOf(sliceUnits, () => next() / 2 ** 32 < probability)
    }
    case "reference": {
      const mask = referenceMask(key, sliceUnits, probability, config.referenceIdBits, first)
      return litOf(sliceUnits, (j) => mask[j] === 1)
    }
  }
}

const drawn = (config: SinkConfig, key: bigint): Uint32Array => {
  const first = shardOf(config, key) * config.sliceUnits
  const units = drawnInSlice(config, key, first)
  return first === 0 ? units : units.map((unit) => first + unit)
}

/** The units of an id, drawn once: not to be written to. */
const unitsOnce = (config: SinkConfig, id: bigint): Uint32Array => {
  const key = toId(id)
  const known = remembered.get(config) ?? new Map<bigint, Uint32Array>()
  const units = known.get(key)
  if (units !== undefined) return units
  if (known.size === 0) remembered.set(config, known)
  if (known.size >= REMEMBERED) known.clear()
  const fresh = drawn(config, key)
  known.set(key, fresh)
  return fresh
}

/**
 * The units that an id lights, in rising order. The same in every layer, process and runtime. Throws a RangeError where
 * the id is not one of 64 bits.
 */
export const unitsOf = (config: SinkConfig, id: bigint): Uint32Array => unitsOnce(config, id).slice()

/** Which units a sequence keeps where training leaves some out: none, or by a draw for each. */
export const kept = ({ sequences, units }: Dropped, draw: number): "none" | "all" | ((unit: number) => boolean) =>
  draw / 2 ** 32 < sequences
    ? "none"
    : units === 0
    ? "all"
    : (unit) => mix(draw ^ mix(unit + 1)) / 2 ** 32 >= units

/** What multiplies the general neurons in a mode. */
export const generalScale = (config: SinkConfig, general: number, mode: SinkMode): number => {
  if (mode.mode !== "off" || mode.rescale === undefined || mode.rescale === "none") return 1
  if (mode.rescale === "count") return (general + config.active) / general
  const pGen = general / (general + config.pool)
  return (pGen + config.probability) / pGen
}

/** Whether a mode lights no more than an id's own number of units, so that the gathered kernels can compute it. */
export const isSparse = (mode: SinkMode): boolean =>
  mode.mode === "own" ? (mode.also ?? []).length === 0 : mode.mode === "off" || mode.mode === "placebo"

/** What is off in a configuration, as sets. */
const offOnce = new WeakMap<SinkConfig, { readonly ids: ReadonlySet<bigint>; readonly units: ReadonlySet<number> }>()

const offIn = (config: SinkConfig) => {
  const known = offOnce.get(config)
  if (known !== undefined) return known
  const fresh = { ids: new Set((config.denied ?? []).map(BigInt)), units: new Set(config.excluded) }
  offOnce.set(config, fresh)
  return fresh
}

/** Whether an id's sinks stay off whatever is asked. */
export const isDenied = (config: SinkConfig, id: bigint): boolean => offIn(config).ids.has(toId(id))

/** The units of an id that are on in training, in rising order: none of one that is denied, nor such as are off for everybody. */
export const trainedUnitsOf = (config: SinkConfig, id: bigint): Uint32Array => {
  if (isDenied(config, id)) return new Uint32Array(0)
  const { units } = offIn(config)
  return unitsOnce(config, id).filter((unit) => !units.has(unit))
}

const excluded = (config: SinkConfig, mode: SinkMode): ReadonlySet<number> => {
  const { units } = offIn(config)
  const except = "except" in mode ? mode.except ?? [] : []
  if (except.length === 0) return units
  const set = new Set(units)
  for (const id of except) for (const unit of unitsOnce(config, id)) set.add(unit)
  return set
}

/** Neurons that a packed matrix's columns are a multiple of where units are smaller than kernels take them. */
const PACKED = 16

/**
 * Units that an id's packed sinks have room for; undefined: the gathered kernels cannot compute such sinks. Exact assignments
 * light just so many. The other assignments light `activeUnits` on average, and here is room for six standard deviations
 * more: what lights more than these, as id 0 does in the reference, is computed with the whole pool. Blocks that are no
 * multiple of 8 are filled up to a multiple of 16 neurons. Undefined, too, where more than half of the pool would be packed.
 */
export const slotsOf = (config: SinkConfig): number | undefined => {
  const { activeUnits, block, exact, sliceProbability: p, sliceUnits, units } = config
  const whole = block % 8 === 0
  if (!whole && PACKED % block !== 0) return undefined
  if (whole && exact) return activeUnits
  const most = exact
    ? activeUnits
    : Math.min(sliceUnits, Math.ceil(sliceUnits * p + 6 * Math.sqrt(sliceUnits * p * (1 - p))))
  const slots = whole ? most : Math.ceil(most * block / PACKED) * PACKED / block
  return 2 * slots > units ? undefined : slots
}

/**
 * The coefficient of every unit for one id: [1 + units] f32; column 0 multiplies the general neurons. Feeds the masked
 * path, which can express every mode and assignment.
 */
export const coefficients = (config: SinkConfig, general: number, mode: SinkMode, id: bigint): Float32Array => {
  const coef = new Float32Array(1 + config.units)
  coef[0] = generalScale(config, general, mode)
  const light = (units: Iterable<number>, value: number) => {
    for (const unit of units) coef[1 + unit] = value
  }
  const lightId = (one: bigint) => isDenied(config, one) ? undefined : light(unitsOnce(config, one), 1)
  switch (mode.mode) {
    case "own":
      lightId(id)
      for (const one of mode.also ?? []) lightId(one)
      break
    case "placebo":
      lightId(placeboId(id, mode.seed))
      break
    case "all":
      coef.fill(config.probability, 1)
      break
    case "only":
      for (const one of mode.ids) lightId(one)
      break
    case "off":
      break
  }
  light(excluded(config, mode), 0)
  return coef
}

/**
 * What the outputs of each of so many heads of `headSize` are multiplied with for an id [heads * headSize]: 0 for the heads
 * that are set aside where no sink is on, else 1.
 */
export const headGates = (
  config: SinkConfig,
  { headSize, heads }: { readonly heads: number; readonly headSize: number },
  mode: SinkMode,
  id: bigint
): Float32Array => {
  const gates = new Float32Array(heads * headSize).fill(1)
  const isOn = coefficients(config, 1, mode, id).some((coefficient, i) => i > 0 && coefficient !== 0)
  return isOn ? gates : gates.fill(0, (heads - (config.heads ?? 0)) * headSize)
}

const gatheredId = (mode: SinkMode, id: bigint): bigint => mode.mode === "placebo" ? placeboId(id, mode.seed) : id

const gatheredUnits = (config: SinkConfig, mode: SinkMode, id: bigint): Uint32Array =>
  unitsOnce(config, gatheredId(mode, id))

/** Whether the packed sinks have room for those of an id: always where each lights exactly as many. */
export const fits = (config: SinkConfig, mode: SinkMode, id: bigint): boolean =>
  config.exact || gatheredUnits(config, mode, id).length <= (slotsOf(config) ?? 0)

/**
 * The same for the gathered path: an id's units and their coefficients [1 + slots]. Behind the `count` units of the id are
 * places that are off. Only for `isSparse` modes, for ids that it `fits`.
 */
export const gathered = (
  config: SinkConfig,
  general: number,
  mode: SinkMode,
  id: bigint
): { readonly units: Uint32Array; readonly coef: Float32Array; readonly count: number } => {
  const lit = gatheredUnits(config, mode, id)
  const slots = slotsOf(config)
  if (slots === undefined || lit.length > slots) {
    throw new RangeError(`id ${id} lights ${lit.length} units, the packed sinks have room for ${slots ?? 0}`)
  }
  const out = excluded(config, mode)
  const dark = mode.mode === "off" || isDenied(config, gatheredId(mode, id))
  const units = new Uint32Array(slots)
  units.set(lit)
  const coef = new Float32Array(1 + slots)
  coef[0] = generalScale(config, general, mode)
  lit.forEach((unit, slot) => {
    coef[1 + slot] = dark || out.has(unit) ? 0 : 1
  })
  return { units, coef, count: lit.length }
}
