/** The nearest sources of a router, by its host or by a device that compares queries with all sources at once. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Route, Router } from "../data/identity/Router.ts"
import { unitOf } from "../data/identity/Router.ts"
import type { DeviceError, KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import { isGpu } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { kernels } from "../model/Kernels.ts"

/** Which sources may be found: some only, or all; but never those of `without`. */
export interface Among {
  readonly only?: ReadonlySet<bigint> | undefined
  readonly without: ReadonlySet<bigint>
}

export const isAmong = ({ only, without }: Among, id: bigint): boolean =>
  !without.has(id) && (only === undefined || only.has(id))

/**
 * Finds for each query, tokens for a router of words and vectors for one of these, the source that is nearest, the one with
 * the lowest id of equals; none where all are below `least` or not allowed.
 */
export type Search = (
  queries: ReadonlyArray<ArrayLike<number>>,
  among: Among,
  least: number
) => Effect.Effect<ReadonlyArray<Route | undefined>, DeviceError | KernelError>

/** By the host. */
export const searchOf = (router: Router): Search => (queries, among, least) =>
  Effect.sync(() => queries.map((query) => router.nearest(query, { denied: (id) => !isAmong(among, id), least })))

/** Queries that are compared at once. */
const QUERIES = 8

/** Bytes of a buffer of sources at most: what is staged on its way to the device is no larger. */
const CHUNK_BYTES = 2 ** 28

/** Places are told as f32, which holds whole numbers up to there. */
const CHUNK_SOURCES = 2 ** 23

/** Bytes of a router from which on a device is worth its memory and the way to it. */
const WORTHWHILE = 2 ** 24

/** Whether a router is large enough to be put on a device. */
export const isLarge = ({ arrays }: Router): boolean =>
  ("codes" in arrays ? arrays.codes : arrays.places).byteLength >= WORTHWHILE

/**
 * The same by the device, which holds all sources until the scope closes. It chooses in f32 what the host chooses in f64; of
 * the one that it chose the similarity is the host's.
 */
export const searchOnDevice = (
  router: Router,
  /** Sources of a buffer at most, a multiple of 32. */
  mostSources = CHUNK_SOURCES
): Effect.Effect<Search, DeviceError | KernelError, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const { ids, scales } = router.arrays
    const rows = router.kind === "vectors"
      ? { row: router.width, bytes: router.arrays.codes, places: undefined, query: router.width }
      : {
        row: router.arrays.weights.length / Math.max(1, ids.length),
        bytes: router.arrays.weights,
        places: router.arrays.places,
        query: router.arrays.rare.length
      }
    const k4 = Math.ceil(rows.row / 4)
    const width = 4 * Math.ceil(rows.query / 4)
    const limit = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize, CHUNK_BYTES)
    const most = Math.min(mostSources,
      32 * Math.max(1, Math.floor(limit / (k4 * (rows.places === undefined ? 4 : 16)) / 32)))
    const lanes = isGpu(device.target) ? 32_768 : 256
    const starts = Array.from({ length: Math.ceil(ids.length / most) }, (_, i) => i * most)
    const words = (name: string, length: number) =>
      Tensor.make(`nearest.${name}`, [Math.max(1, length)], { type: "u32" })
    const shared = {
      allowed: words("allowed", Math.ceil(ids.length / 32)),
      count: words("count", 1),
      query: Tensor.make("nearest.query", [QUERIES * width]),
      best: Tensor.make("nearest.best", [Math.max(1, starts.length) * QUERIES * lanes * 2])
    }
    yield* device.allocate(Object.values(shared))
    const p = Program.record("nearest", device.target)
    for (const [c, start] of starts.entries()) {
      const n = Math.min(most, ids.length - start)
      const codes = words(`codes ${c}`, k4 * n)
      const scale = Tensor.make(`nearest.scales ${c}`, [n])
      const params = { n, k4, lanes, queries: QUERIES, width: rows.places === undefined ? width / 4 : width,
        allowed0: start / 32, best0: c * QUERIES * lanes }
      yield* device.allocate([codes, scale])
      const packed = new Uint32Array(k4 * n)
      const byte = rows.bytes
      for (let s = 0; s < n; s++) {
        for (let k = 0; k < rows.row; k++) {
          packed[(k >>> 2) * n + s]! |= (byte[(start + s) * rows.row + k]! & 255) << (8 * (k & 3))
        }
      }
      device.write(codes, packed)
      device.write(scale, scales.subarray(start, start + n))
      if (rows.places === undefined) {
        p.dispatch(kernels.nearestVectors, { ...shared, codes, scales: scale }, params, lanes * QUERIES)
      } else {
        const places = words(`places ${c}`, 4 * k4 * n)
        yield* device.allocate([places])
        const turned = new Uint32Array(4 * k4 * n)
        for (let s = 0; s < n; s++) {
          for (let k = 0; k < rows.row; k++) turned[k * n + s] = rows.places[(start + s) * rows.row + k]!
        }
        device.write(places, turned)
        p.dispatch(kernels.nearestWords, { ...shared, codes, scales: scale, places }, params, lanes * QUERIES)
      }
      // what was staged is let go before more is
      yield* device.idle
    }
    const prepared = yield* device.prepare(p.finish())
    const place = (id: bigint): number => {
      let [low, high] = [0, ids.length]
      while (low < high) {
        const middle = (low + high) >>> 1
        if (ids[middle]! < id) low = middle + 1
        else high = middle
      }
      return ids[low] === id ? low : -1
    }
    /** A bit for each source that may be found. */
    const bitsOf = ({ only, without }: Among): Uint32Array => {
      const bits = new Uint32Array(Tensor.size(shared.allowed)).fill(only === undefined ? 0xffff_ffff : 0)
      const set = (id: bigint, to: boolean) => {
        const at = place(id)
        if (at < 0) return
        if (to) bits[at >>> 5]! |= 1 << (at & 31)
        else bits[at >>> 5]! &= ~(1 << (at & 31))
      }
      for (const id of only ?? []) set(id, true)
      for (const id of without) set(id, false)
      return bits
    }
    const ask = (queries: ReadonlyArray<ArrayLike<number>>, bits: Uint32Array, least: number) =>
      Effect.gen(function*() {
        device.write(shared.allowed, bits)
        device.write(shared.count, Uint32Array.of(queries.length))
        queries.forEach((query, q) => {
          device.write(shared.query, router.kind === "vectors" ? unitOf(query) : router.query(query), q * width)
        })
        device.submit(prepared)
        const best = yield* device.read(shared.best)
        return queries.map((query, q): Route | undefined => {
          let [score, at] = [0, -1]
          for (const [c, start] of starts.entries()) {
            for (let i = 0, from = 2 * (c * QUERIES + q) * lanes; i < 2 * lanes; i += 2) {
              const source = start + best[from + i + 1]!
              if (best[from + i + 1]! >= 0 && (best[from + i]! > score || (best[from + i] === score && source < at))) {
                score = best[from + i]!
                at = source
              }
            }
          }
          if (at < 0) return undefined
          const similarity = router.similarity(query, at)
          return similarity > 0 && similarity >= least ? { id: ids[at]!, similarity } : undefined
        })
      })
    // its tensors hold one question at a time
    const lock = Effect.unsafeMakeSemaphore(1)
    return (queries, among, least) =>
      Effect.suspend(() => {
        if (ids.length === 0) return Effect.succeed(queries.map(() => undefined))
        const bits = bitsOf(among)
        const parts = Array.from({ length: Math.ceil(queries.length / QUERIES) },
          (_, i) => queries.slice(i * QUERIES, (i + 1) * QUERIES))
        return Effect.map(Effect.forEach(parts, (part) => lock.withPermits(1)(ask(part, bits, least))),
          (all) => all.flat())
      })
  })
