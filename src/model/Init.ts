/**
 * Initial weights: normal numbers from a stream that depends on a name alone, so that arms which share a shape start alike.
 * A stream's numbers are counted, so that threads can draw parts of it, and whoever draws them gets the same bits.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Worker } from "node:worker_threads"

/** Normal numbers of a stream. */
export interface Draw {
  readonly stream: string
  /** Standard deviation. */
  readonly std: number
  /** The first number's place in the stream, which is even. Default 0. */
  readonly first?: number
  readonly size: number
}

/**
 * Makes what fills `out` with a draw's numbers, by Box and Muller's transform of two counted words a pair.
 *
 * Tables and short series in float64 take the place of `Math.log`, `Math.cos` and `Math.sin`, at a fifth of their time.
 * Where their error could decide how a number rounds to float32, it is computed with those: the same bits, always.
 *
 * Its text is run by worker threads, too: it reads nothing from outside, and has no functions inside, whose names tsx keeps
 * by a helper of its own.
 */
const makeFill = () => {
  const LN2 = Math.LN2
  const TURN = 2 * Math.PI / 2 ** 32
  // for each 128th of [1, 2): the inverse of its middle, and the middle's logarithm
  const INVERSE = new Float64Array(128)
  const LOG = new Float64Array(128)
  for (let i = 0; i < 128; i++) {
    INVERSE[i] = 1 / (1 + (i + 0.5) / 128)
    LOG[i] = Math.log(1 + (i + 0.5) / 128)
  }
  // for each 512th of a turn: cosine and sine of its middle
  const COS = new Float64Array(512)
  const SIN = new Float64Array(512)
  for (let i = 0; i < 512; i++) {
    COS[i] = Math.cos((i + 0.5) / 512 * 2 * Math.PI)
    SIN[i] = Math.sin((i + 0.5) / 512 * 2 * Math.PI)
  }
  const SCALE = new Float64Array(32)
  for (let e = 0; e < 32; e++) SCALE[e] = 2 ** -e
  // what tables and short series may be wrong by, relative to the radius: a hundred times what they are
  const MARGIN = 1e-13

  return (out: Float32Array, { first = 0, std, stream }: Draw): void => {
    // two 32-bit words of state from any text (FNV-1a, two offsets)
    let a = 0x811c9dc5
    let b = 0x1b873593
    for (let i = 0; i < stream.length; i++) {
      a = Math.imul(a ^ stream.charCodeAt(i), 0x01000193)
      b = Math.imul(b ^ stream.charCodeAt(i), 0x5bd1e995)
      b ^= b >>> 13
    }
    let x = 0
    const size = out.length
    // words are counted from 1
    for (let i = 0; i < size + size % 2; i++) {
      let y = (a + Math.imul(first + i + 1, 0x9e3779b9)) ^ b
      y = Math.imul(y ^ (y >>> 16), 0x7feb352d)
      y = Math.imul(y ^ (y >>> 15), 0x846ca68b)
      y = (y ^ (y >>> 16)) >>> 0
      if (i % 2 === 0) {
        x = y
        continue
      }
      // x + .5 = m * 2^e with m in [1, 2); the middle of m's 128th is 1 / INVERSE[at]
      const e = 31 - Math.clz32(x | 1)
      const at = (e < 7 ? x << (7 - e) : x >>> (e - 7)) & 127
      const r = (x + 0.5) * SCALE[e]! * INVERSE[at]! - 1
      const log = (e - 32) * LN2 + LOG[at]! + r * (1 - r * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r * (1 / 5 - r / 6)))))
      const radius = std * Math.sqrt(-2 * log)
      const part = y >>> 23
      const d = ((y & 0x7fffff) + 0.5 - 0x400000) * TURN
      const d2 = d * d
      const sin = d * (1 - d2 * (1 / 6 - d2 / 120))
      const cos = 1 - d2 * (1 / 2 - d2 * (1 / 24 - d2 / 720))
      let one = radius * (COS[part]! * cos - SIN[part]! * sin)
      let other = radius * (SIN[part]! * cos + COS[part]! * sin)
      const error = radius * MARGIN
      // a logarithm near 0 has lost its digits to the difference, the smallest words have too few of them
      const sure = x > 0xffff && log < -1e-3 && Math.fround(one - error) === Math.fround(one + error) &&
        Math.fround(other - error) === Math.fround(other + error)
      if (!sure) {
        const exact = std * Math.sqrt(-2 * Math.log((x + 0.5) / 2 ** 32))
        const angle = 2 * Math.PI * ((y + 0.5) / 2 ** 32)
        one = exact * Math.cos(angle)
        other = exact * Math.sin(angle)
      }
      out[i - 1] = one
      if (i < size) out[i] = other
    }
  }
}

/** Fill `out` with the numbers of a draw. */
export const normals = makeFill()

/** What a thread runs: draws in, their numbers out. No file, so that it starts from any bundle and under any loader. */
const thread = `
  const fill = (${makeFill})()
  import("node:worker_threads").then(({ parentPort }) =>
    parentPort.on("message", (draw) => {
      const out = new Float32Array(draw.size)
      fill(out, draw)
      parentPort.postMessage(out, [out.buffer])
    })
  )`

/** One thread, and who waits for it, in turn. */
const start = (text: string) => {
  const waiting: Array<(out: Float32Array | undefined) => void> = []
  let stopped = false
  const stop = (): void => {
    stopped = true
    for (const resume of waiting.splice(0)) resume(undefined)
  }
  // what Node was told for this program, loaders say, is nothing to a thread of plain JavaScript
  const worker = new Worker(text, { eval: true, execArgv: [] })
  worker.on("message", (out: Float32Array) => waiting.shift()?.(out))
  worker.on("error", stop)
  worker.on("exit", stop)
  return {
    waiting,
    draw: (draw: Draw) =>
      Effect.async<Float32Array | undefined>((resume) => {
        if (stopped) return resume(Effect.succeed(undefined))
        waiting.push((out) => resume(Effect.succeed(out)))
        worker.postMessage(draw)
      }),
    end: Effect.promise(() => worker.terminate())
  }
}

/** Threads that draw, as long as the scope lives. A draw is undefined where its thread could not run. */
export const drawers = (
  threads: number,
  text = thread
): Effect.Effect<(draw: Draw) => Effect.Effect<Float32Array | undefined>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => Array.from({ length: threads }, () => start(text))),
      (all) => Effect.forEach(all, ({ end }) => end, { concurrency: "unbounded", discard: true })
    ),
    (all) => (draw) =>
      Effect.suspend(() => all.reduce((a, b) => b.waiting.length < a.waiting.length ? b : a).draw(draw))
  )
