/** nearest.wgsl: the best of each lane's sources, by vectors and by words. */
import { kernels } from "../../src/model/Kernels.ts"
import { type Case, makeCase, normals } from "./case.ts"

export interface NearestShape {
  readonly kind: "vectors" | "words"
  readonly sources: number
  /** Bytes of a source. */
  readonly row: number
  readonly lanes: number
  /** Queries there are room for, and those that are asked. */
  readonly queries: number
  readonly asked: number
  /** Buckets of words. */
  readonly buckets?: number
}

export const nearest = (s: NearestShape): Case => {
  const { asked, buckets = 0, kind, lanes, queries, row, sources } = s
  return makeCase(
    `nearest ${kind}: ${asked} of ${queries} queries among ${sources} of ${row}, ${lanes} lanes`,
    { flops: 2 * asked * sources * row, bytes: sources * row },
    (random) => {
      const k4 = Math.ceil(row / 4)
      const width = kind === "vectors" ? 4 * k4 : buckets
      const code = () => kind === "vectors" ? random.int(255) - 127 : random.int(256)
      const bytes = Int32Array.from({ length: sources * row }, code)
      const at = Uint32Array.from({ length: sources * row }, () => random.int(Math.max(1, buckets)))
      const scales = Float32Array.from(random.uniforms(sources, 0.001, 0.01))
      const query = normals(random, queries * width)
      const codes = new Uint32Array(k4 * sources)
      const places = new Uint32Array(4 * k4 * sources)
      const allowed = Uint32Array.from({ length: 1 + Math.ceil(sources / 32) },
        () => random.int(2 ** 16) + 65_536 * random.int(2 ** 16))
      for (let source = 0; source < sources; source++) {
        for (let k = 0; k < row; k++) {
          codes[(k >> 2) * sources + source]! |= (bytes[source * row + k]! & 255) << (8 * (k & 3))
          places[k * sources + source] = at[source * row + k]!
        }
      }
      const want = new Float64Array(queries * lanes * 2).fill(NaN)
      for (let q = 0; q < asked; q++) {
        for (let lane = 0; lane < lanes; lane++) {
          let [best, place] = [0, -1]
          for (let source = lane; source < sources; source += lanes) {
            if ((allowed[1 + (source >> 5)]! >>> (source & 31) & 1) === 0) continue
            let sum = 0
            for (let k = 0; k < row; k++) {
              const i = source * row + k
              sum += bytes[i]! * query[q * width + (kind === "vectors" ? k : at[i]!)]!
            }
            if (sum * scales[source]! > best) [best, place] = [sum * scales[source]!, source]
          }
          want.set([best, place], 2 * (q * lanes + lane))
        }
      }
      const params = { n: sources, k4, lanes, queries, width: kind === "vectors" ? k4 : width, allowed0: 1, best0: 0 }
      const tensors = {
        codes,
        scales,
        allowed,
        count: Uint32Array.of(asked),
        ...(kind === "words" ? { places } : {}),
        query,
        best: new Float32Array(want.length).fill(NaN)
      }
      return {
        tensors,
        outputs: { best: { want, kind: "writes", atol: 1e-4, rtol: 1e-5 } },
        record: (p, t) => {
          const bound = t as Readonly<Record<keyof typeof tensors | "places", typeof t["codes"]>>
          if (kind === "vectors") p.dispatch(kernels.nearestVectors, bound, params, lanes * queries)
          else p.dispatch(kernels.nearestWords, bound, params, lanes * queries)
        }
      }
    }
  )
}

export const cases: ReadonlyArray<Case> = [
  { kind: "vectors", sources: 70, row: 12, lanes: 16, queries: 3, asked: 2 },
  { kind: "vectors", sources: 5, row: 7, lanes: 8, queries: 1, asked: 1 },
  { kind: "words", sources: 70, row: 9, lanes: 16, queries: 2, asked: 2, buckets: 50 },
  { kind: "words", sources: 33, row: 4, lanes: 1, queries: 4, asked: 3, buckets: 64 }
].map((shape) => nearest(shape as NearestShape))
