/**
 * Which variant of the products on matrix units runs fastest on an adapter, for each class of shapes: what suits one card
 * gives others three quarters of their best. Timed once, on products as trainings have them; the answer is kept in the
 * user's cache folder, so that a run goes on with the kernels it began with.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { DeviceError } from "../Errors.ts"
import type { DeviceService, Prepared } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import { type ShapeClass, shapeClasses, type Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { kept } from "./Kept.ts"
import * as Kernels from "./Kernels.ts"
import * as Ops from "./Ops.ts"

/** Raised when kernels or variants change enough that older answers are worth nothing. */
const VERSION = 2

/** A variant must be faster than the one that is taken untimed by this factor: less may be noise. */
const CLEARLY = 1.03

/** How often a product is run at a time, so that what is timed is not the submit, and how many times that. */
const REPEATS = 20
const ROUNDS = 3

/** Products of the classes, in rows, columns and steps. */
export type Shapes = Readonly<Record<ShapeClass, Kernels.ProductShape>>

const trainingShapes: Shapes = {
  layer: { m: 4096, n: 2560, k: 1024 },
  gradient: { m: 1024, n: 1024, k: 8192 },
  head: { m: 512, n: 1024, k: 16384 },
  segments: { m: 4096, n: 192, k: 1024 }
}

/** Segments of the class of that name. */
const SEGMENTS = 8

/** Small numbers, so that products are exact whatever the order of their sums. */
export const integers = (length: number, seed: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => ((Math.imul(i + seed, 2654435761) >>> 27) % 5) - 2)

/** What is wrong with a product a b (or a^T b): the first cell of every `step`-th row that is not the sum it should be. */
export const wrongCell = (
  kind: "nn" | "tn",
  a: Float32Array,
  b: Float32Array,
  got: Float32Array,
  { k, m, n }: Kernels.ProductShape,
  step: number
): string | undefined => {
  const want = new Float64Array(n)
  for (let row = 0; row < m; row += step) {
    want.fill(0)
    for (let i = 0; i < k; i++) {
      const factor = kind === "nn" ? a[row * k + i]! : a[i * m + row]!
      for (let column = 0; column < n; column++) want[column]! += factor * b[i * n + column]!
    }
    const wrong = want.findIndex((x, column) => x !== got[row * n + column])
    if (wrong >= 0) return `${got[row * n + wrong]} in a product (${kind}) where ${want[wrong]} is right`
  }
  return undefined
}

type Variants = NonNullable<Target["variants"]>

/** Seconds of a class's variants, and those that cannot be used, and why. */
export interface VariantTuning {
  /** Without a class of which no variant can be used. */
  readonly variants: Variants
  readonly seconds: Readonly<Record<ShapeClass, Readonly<Record<string, number>>>>
  readonly failed: Readonly<Record<string, string>>
}

/** The fastest variant, unless the one that is taken untimed is about as fast; undefined where none is right. */
export const chooseVariant = (of: ShapeClass, seconds: Readonly<Record<string, number>>): string | undefined => {
  const untimed = Kernels.untimed[of]
  const [fastest] = Object.entries(seconds).sort(([, a], [, b]) => a - b)
  if (fastest === undefined) return undefined
  return (seconds[untimed] ?? Infinity) <= fastest[1] * CLEARLY ? untimed : fastest[0]
}

/** The variant that is taken untimed, or the first of those that are right. */
const firstOf = (of: ShapeClass, seconds: Readonly<Record<string, number>>): string | undefined =>
  [Kernels.untimed[of], ...Object.keys(seconds)].find((variant) => seconds[variant] !== undefined)

/** A matrix [rows, cols] of each of `count`, transposed. */
const transposed = (x: Float32Array, count: number, rows: number, cols: number): Float32Array => {
  const y = new Float32Array(x.length)
  for (let i = 0; i < count * rows; i++) {
    const [at, row] = [Math.floor(i / rows) * rows * cols, i % rows]
    for (let column = 0; column < cols; column++) y[at + column * rows + row] = x[i * cols + column]!
  }
  return y
}

/**
 * A class's products with their factors; `program` records them for a variant. Those of activations and weights are two,
 * as models have them: with the weight as it lies, on the way back, and turned.
 */
const productOf = (device: DeviceService, of: ShapeClass, { k, m, n }: Kernels.ProductShape) => {
  const tensor = { ...device.target, family: "tensor" as const }
  const kind = of === "gradient" ? "tn" : "nn"
  const count = of === "segments" ? SEGMENTS : 1
  const a = Tensor.make("a", kind === "nn" ? [m, k] : [k, m], { type: "f16" })
  const b = Tensor.make("b", [count, k, n], { type: "f16" })
  const turned = kind === "tn" ? [] : [Tensor.make("b turned", [count, n, k], { type: "f16" })]
  const results = ["c", ...turned.map(() => "c of b turned")].map((name) => Tensor.make(name, [m, n]))
  const rows = m / count
  const each = Math.ceil(rows / Kernels.tileRows(tensor))
  const tiles = Tensor.make("tiles", [count * each, 4], { type: "u32" })
  const perSegment = of === "segments" ? { tiles, count: count * each, stride: k * n } : undefined
  const [left, right] = [integers(m * k, 1), integers(count * k * n, 2)]
  return {
    tensors: [a, b, ...turned, ...results, tiles],
    clear: () => results.forEach((c) => device.write(c, new Float32Array(m * n))),
    write: () => {
      device.write(a, left)
      device.write(b, right)
      for (const tensor of turned) device.write(tensor, transposed(right, count, k, n))
      const list = new Uint32Array(4 * count * each)
      for (let i = 0; i < count * each; i++) {
        const segment = Math.floor(i / each)
        list.set([segment * rows + (i % each) * Kernels.tileRows(tensor), (segment + 1) * rows, segment], 4 * i)
      }
      device.write(tiles, list)
    },
    program: (variant: string) => {
      const p = Program.record(`${of} ${variant}`, { ...tensor, variants: { [of]: variant } })
      const factors = [{ tensor: b, ld: n }, ...turned.map((tensor) => ({ tensor, ld: k, turned: true as const }))]
      factors.forEach((right, i) => {
        const product = { a: { tensor: a, ld: kind === "nn" ? k : m }, b: right, c: { tensor: results[i]!, ld: n }, m,
          n, k }
        if (kind === "tn") Ops.matmulTN(p, product)
        else Ops.matmulNN(p, { ...product, perSegment })
      })
      return p.finish()
    },
    wrong: Effect.map(Effect.forEach(results, device.read), (all) => {
      for (const [got, i] of all.flatMap((one) => Array.from({ length: count }, (_, i) => [one, i] as const))) {
        const [first, end] = [i * rows, (i + 1) * rows]
        const wrong = wrongCell(
          kind,
          kind === "nn" ? left.subarray(first * k, end * k) : left,
          right.subarray(i * k * n, (i + 1) * k * n),
          (got as Float32Array).subarray(first * n, end * n),
          { m: rows, n, k },
          // some rows, in tiles of 64 and of 128 other ones each time
          64 * (2 * Math.floor((rows - 1) / 1024) + 1) + 17
        )
        if (wrong !== undefined) return wrong
      }
      return undefined
    })
  }
}

/** Seconds of a Program, by the device's own clock where it has one: waiting for it is counted in milliseconds. */
export const timed = (
  device: Pick<DeviceService, "features" | "idle" | "submit" | "time">,
  prepared: Prepared
): Effect.Effect<number, DeviceError> =>
  Effect.gen(function*() {
    const many = Array.from({ length: REPEATS }, () => prepared)
    if (device.features.has("timestamp-query")) {
      const times = yield* device.time(...many)
      const nanoseconds = times.at(-1)!.end - times[0]!.begin
      if (nanoseconds > 0) return nanoseconds / 1e9 / REPEATS
    }
    yield* device.idle
    const began = performance.now()
    device.submit(...many)
    yield* device.idle
    return (performance.now() - began) / 1000 / REPEATS
  })

/** A variant for each class that has one. */
const perClass = (variantOf: (of: ShapeClass) => string | undefined): Variants =>
  Object.fromEntries(shapeClasses.map((of) => [of, variantOf(of)] as const).filter(([, one]) => one !== undefined))

/** Time every variant that fits the device. One that does not compile, or computes something else, is left out. */
export const measureVariants = (
  device: DeviceService,
  options: {
    readonly shapes?: Shapes
    readonly time?: (device: DeviceService, prepared: Prepared) => Effect.Effect<number, DeviceError>
  } = {}
): Effect.Effect<VariantTuning, DeviceError> =>
  Effect.gen(function*() {
    const { shapes = trainingShapes, time = timed } = options
    const failed: Record<string, string> = {}
    const seconds: Record<ShapeClass, Record<string, number>> = { layer: {}, gradient: {}, head: {}, segments: {} }
    for (const of of shapeClasses) {
      const product = productOf(device, of, shapes[of])
      const able = Object.entries<Kernels.MatrixTiling>(Kernels.matrixVariants[of])
        .filter(([, tiling]) => Kernels.workgroupBytes(tiling) <= (device.target.workgroupBytes ?? 16384))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* device.allocate(product.tensors)
        product.write()
        const runs = yield* Effect.forEach(able, ([variant]) =>
          Effect.gen(function*() {
            const prepared = yield* device.prepare(product.program(variant))
            product.clear()
            device.submit(prepared)
            const wrong = yield* product.wrong
            if (wrong !== undefined) {return yield* new DeviceError({ reason: "Validation",
                detail: `it computes ${wrong}` })}
            return [{ variant, prepared }]
          }).pipe(Effect.catchIf(
            (error) => !(error._tag === "DeviceError" && error.reason === "Lost"),
            (error) => Effect.sync(() => (failed[`${of} ${variant}`] = error.message, []))
          )))
        // in turns, so that whatever else the machine does meets all of them
        for (let round = 0; round < ROUNDS; round++) {
          for (const { prepared, variant } of runs.flat()) {
            seconds[of][variant] = Math.min(seconds[of][variant] ?? Infinity, yield* time(device, prepared))
          }
        }
      }))
    }
    return { variants: perClass((of) => chooseVariant(of, seconds[of])), seconds, failed }
  }).pipe(Effect.catchTag("KernelError", (cause) =>
    new DeviceError({ reason: "Validation", detail: `${device.name} compiles no products: ${cause.message}`, cause })))

/** Of an answer that was kept, what is used. */
const Answer = Schema.Struct({
  variants: Schema.partialWith(Schema.Record({ key: Schema.Literal(...shapeClasses), value: Schema.String }), {
    exact: true
  })
})

/**
 * The device with the variants that run best on it. Where the answer cannot be kept, the first that are right: two runs must
 * not differ. Without a right one of some class it does without matrix units.
 */
export const withVariants = (
  device: DeviceService,
  folders: ReadonlyArray<string>,
  measure: (device: DeviceService) => Effect.Effect<VariantTuning, DeviceError> = measureVariants
): Effect.Effect<DeviceService, DeviceError> =>
  Effect.gen(function*() {
    const file = kept(device, "variants", { version: VERSION }, Answer, folders, ({ variants }) =>
      shapeClasses.every((of) => variants[of] === undefined || Object.hasOwn(Kernels.matrixVariants[of], variants[of])))
    const before = file.read()?.variants
    let variants: Variants = before ?? {}
    if (before === undefined) {
      const tuning = yield* measure(device)
      for (const [variant, why] of Object.entries(tuning.failed)) {
        yield* Effect.logWarning(`${device.name} does without the products ${variant}: ${why}`)
      }
      variants = file.keep(tuning)?.variants ?? perClass((of) => firstOf(of, tuning.seconds[of]))
    }
    const target = shapeClasses.every((of) => variants[of] !== undefined)
      ? { ...device.target, variants }
      : { ...device.target, family: "gpu" as const }
    return { ...device, target }
  })
