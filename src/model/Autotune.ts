/**
 * Which family of kernels runs fastest on an adapter. Its features suggest one (Device.target); two small products, timed
 * once, confirm it or name a better one. The answer is kept in the user's cache folder, so that a run goes on with the
 * kernels it began with: other kernels round otherwise.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import process from "node:process"
import { DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import { cacheFolders } from "../gpu/SoftwareVulkan.ts"
import { families, type Family, SOFTWARE_SUBGROUPS, type Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { withSoundAttention } from "./HalfCheck.ts"
import { kept } from "./Kept.ts"
import * as Ops from "./Ops.ts"
import { integers, withVariants, wrongCell } from "./Variants.ts"

/** Raised when kernels change enough that older answers are worth nothing. */
const VERSION = 2

/** A family must be faster than the suggested one by this factor: less may be noise. */
const CLEARLY = 1.1

/** Seconds that the two products took with each family that can run, and the fastest. */
export interface Tuning {
  readonly family: Family
  readonly seconds: Readonly<Partial<Record<Family, number>>>
  /** Families that this device cannot use, and why. */
  readonly failed?: Readonly<Partial<Record<Family, string>>>
}

/** Families whose kernels a device can run. */
export const candidates = (device: DeviceService): ReadonlyArray<Family> => {
  return families.filter((family) => {
    if (family === "plain") return true
    if (family === "software") {
      return device.kind === "software" && SOFTWARE_SUBGROUPS.includes(device.target.subgroupSize)
    }
    return device.kind === "hardware" && (family === "gpu" || device.target.matrices === true)
  })
}

/** The suggested family, unless another one is clearly faster. */
export const choose = (suggested: Family, seconds: Tuning["seconds"]): Family => {
  let best = suggested
  for (const [family, time] of Object.entries(seconds) as ReadonlyArray<[Family, number]>) {
    if (time < (seconds[best] ?? Infinity) / (best === suggested ? CLEARLY : 1)) best = family
  }
  return best
}

/** A product with a weight, and a weight's gradient, of `size` cubed, in the type that the family is best at. */
const products = (target: Target, size: number, type: Tensor.ElementType) => {
  const [a, b] = [Tensor.make("a", [size, size], { type }), Tensor.make("b", [size, size], { type })]
  const [nn, tn] = [Tensor.make("nn", [size, size]), Tensor.make("tn", [size, size])]
  const p = Program.record(`${target.family} products`, target)
  const of = (tensor: Tensor.Tensor) => ({ tensor, ld: size })
  const shape = { m: size, n: size, k: size }
  Ops.matmulNN(p, { a: of(a), b: of(b), c: of(nn), ...shape })
  Ops.matmulTN(p, { a: of(a), b: of(b), c: of(tn), ...shape })
  return { a, b, nn, tn, program: p.finish() }
}

/** Rows of a product that are computed here, too: in every tile of 64, and none where rows of another tile begin. */
const SAMPLED = 37

/**
 * Time every family that can run. One that does not compile, or computes something else than the sums it should, is left
 * out and named in `failed`. Fails when the plain kernels do: with such a driver no model can be trained.
 */
export const measure = (device: DeviceService): Effect.Effect<Tuning, DeviceError> =>
  Effect.scoped(Effect.gen(function*() {
    const size = device.kind === "hardware" ? 1024 : 192
    const square = { m: size, n: size, k: size }
    const able = candidates(device)
    const type = able.includes("tensor") ? "f16" : "f32"
    const [left, right] = [integers(size * size, 1), integers(size * size, 2)]
    const failed: Partial<Record<Family, string>> = {}
    const entries = yield* Effect.forEach(able, (family) =>
      Effect.gen(function*() {
        const { a, b, nn, program, tn } = products({ ...device.target, family }, size, type)
        yield* device.allocate([a, b, nn, tn])
        device.write(a, left)
        device.write(b, right)
        const prepared = yield* device.prepare(program)
        const run = Effect.gen(function*() {
          const began = performance.now()
          device.submit(prepared)
          yield* device.idle
          return (performance.now() - began) / 1000
        })
        yield* run
        for (const [kind, tensor] of [["nn", nn], ["tn", tn]] as const) {
          const wrong = wrongCell(kind, left, right, (yield* device.read(tensor)) as Float32Array, square, SAMPLED)
          if (wrong === undefined) continue
          return yield* new DeviceError({
            reason: "Validation",
            detail: `${device.name} computes ${wrong}, with the ${family} kernels: update its driver`
          })
        }
        return [{ family, run }]
      }).pipe(Effect.catchIf(
        // a lost device is lost for all of them
        (error) => family !== "plain" && !(error._tag === "DeviceError" && error.reason === "Lost"),
        (error) => Effect.sync(() => (failed[family] = error.message, []))
      )))
    // in turns, so that whatever else the machine does meets all of them
    const seconds: Partial<Record<Family, number>> = {}
    for (let round = 0; round < 5; round++) {
      for (const { family, run } of entries.flat()) seconds[family] = Math.min(seconds[family] ?? Infinity, yield* run)
    }
    return { family: choose(suggestion(device, failed), seconds), seconds, failed }
  })).pipe(Effect.catchTag("KernelError", (cause) =>
    new DeviceError({
      reason: "Validation",
      detail: `${device.name} compiles no kernels: ${cause.message}. Update its driver, or choose another adapter`,
      cause
    })))

/** The family that the features suggest, or the next one below it that did not fail. */
const suggestion = (device: DeviceService, failed: Tuning["failed"] = {}): Family =>
  [device.target.family, ...fallbacks].find((family) =>
    failed[family] === undefined && candidates(device).includes(family)
  )!

/** What remains where a family fails, best first. */
const fallbacks: ReadonlyArray<Family> = ["gpu", "software", "plain"]

/** Of an answer that was kept, what is used. */
const Choice = Schema.Struct({ family: Schema.Literal(...families) })

/**
 * The device with the family of kernels that runs best on it. The environment variable MEMSINKS_KERNELS names one instead.
 * Where the answer cannot be kept, the family that the features suggest is taken: two runs must not differ. A family that
 * does not compile or computes wrongly costs that family alone, with a warning. On matrix units, with the variants of the
 * products that run best, and with attention in tiles where they compute it wrongly.
 */
export const tuned = (
  device: DeviceService,
  options: { readonly kernels?: Family; readonly folders?: ReadonlyArray<string> } = {}
): Effect.Effect<DeviceService, DeviceError> =>
  Effect.gen(function*() {
    const { folders = cacheFolders() } = options
    let chosen = yield* ofBestFamily(device, options)
    for (const suited of [withVariants, withSoundAttention]) {
      if (chosen.target.family === "tensor") chosen = yield* suited(chosen, folders)
    }
    return chosen
  })

const ofBestFamily = (
  device: DeviceService,
  options: { readonly kernels?: Family; readonly folders?: ReadonlyArray<string> }
): Effect.Effect<DeviceService, DeviceError> =>
  Effect.gen(function*() {
    const able = candidates(device)
    const asked = options.kernels ?? process.env["MEMSINKS_KERNELS"]
    if (asked) {
      if (able.includes(asked as Family)) return withFamily(device, asked as Family)
      return yield* new DeviceError({
        reason: "Feature",
        detail: `MEMSINKS_KERNELS is "${asked}"; on ${device.name} it may be ${able.join(", ")}`
      })
    }
    if (able.length === 1) return withFamily(device, able[0]!)
    const folders = options.folders ?? cacheFolders()
    const choice = kept(device, "kernels", { version: VERSION }, Choice, folders, ({ family }) => able.includes(family))
    const before = choice.read()
    if (before !== undefined) return withFamily(device, before.family)
    const tuning = yield* measure(device)
    for (const [family, why] of Object.entries(tuning.failed ?? {})) {
      yield* Effect.logWarning(`${device.name} does without the ${family} kernels: ${why}`)
    }
    return withFamily(device, choice.keep(tuning)?.family ?? suggestion(device, tuning.failed))
  })

const withFamily = (device: DeviceService, family: Family): DeviceService => ({
  ...device,
  target: { ...device.target, family }
})
