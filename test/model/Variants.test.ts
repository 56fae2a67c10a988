/** Which variant of the products on matrix units a device gets, on a device that computes on the host and takes made-up times. */
import * as Effect from "effect/Effect"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { DeviceError, KernelError } from "../../src/Errors.ts"
import { Device, type DeviceService, type Prepared } from "../../src/gpu/Device.ts"
import type { ShapeClass } from "../../src/gpu/Target.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { chooseVariant, measureVariants, type Shapes, timed, withVariants } from "../../src/model/Variants.ts"
import * as NodeDevice from "../../src/node.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-variants-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const shapes: Shapes = {
  layer: { m: 80, n: 8, k: 12 },
  gradient: { m: 40, n: 8, k: 50 },
  head: { m: 16, n: 16, k: 300 },
  segments: { m: 64, n: 8, k: 4 }
}

/** A device whose products are right, except of programs that `lies` names; some it does not compile, by `refuses`. */
const fake = (
  { bytes = 49152, lies = "-", refuses = "-", lost = "-" }: { bytes?: number; lies?: string; refuses?: string;
    lost?: string } = {}
) => {
  const data = new Map<string, Float32Array>()
  let running = ""
  const product = (tensor: string): Float32Array => {
    const of = running.split(" ")[0] as ShapeClass
    const { k, m, n } = shapes[of]
    const [a, b] = [data.get("a")!, data.get("b")!]
    const c = new Float32Array(m * n)
    for (let row = 0; row < m; row++) {
      const own = of === "segments" ? Math.floor(row / (m / 8)) * k * n : 0
      for (let i = 0; i < k; i++) {
        const factor = of === "gradient" ? a[i * m + row]! : a[row * k + i]!
        for (let column = 0; column < n; column++) c[row * n + column]! += factor * b[own + i * n + column]!
      }
    }
    if (lies === running || lies === `${running}, ${tensor}`) c[3]! += 1
    return c
  }
  const device: Partial<DeviceService> = {
    name: "a card",
    driver: "1",
    kind: "hardware",
    target: { family: "tensor", subgroupSize: 32, matrices: true, workgroupBytes: bytes },
    allocate: () => Effect.void,
    prepare: (program) =>
      program.name === lost
        ? Effect.fail(new DeviceError({ reason: "Lost", detail: "the GPU was lost" }))
        : program.name === refuses
        ? Effect.fail(new KernelError({ kernel: "matmul_matrix", detail: "no such instruction", source: "" }))
        : Effect.succeed({ program, scratchBytes: 0 }),
    submit: (prepared) => void (running = prepared!.program.name),
    write: (tensor, values) => void data.set(tensor.name, values as Float32Array),
    read: ({ name }) => Effect.sync(() => product(name)),
    idle: Effect.void
  }
  return device as DeviceService
}

/** Made-up seconds by a program's name; 1 where none is given. */
const times = (table: Readonly<Record<string, number>>) => (_: DeviceService, { program }: Prepared) =>
  Effect.succeed(table[program.name] ?? 1)

const measure = (device: DeviceService, table: Readonly<Record<string, number>>) =>
  measureVariants(device, { shapes, time: times(table) })

it("takes the fastest, and what is taken untimed where that is about as fast", () => {
  expect(chooseVariant("layer", { "64": 1, "128": 0.5, "128 twice": 0.4 })).toBe("128 twice")
  expect(chooseVariant("layer", { "64": 1, "128": 0.98 })).toBe("64")
  expect(chooseVariant("layer", { "128": 3 })).toBe("128")
  expect(chooseVariant("gradient", {})).toBeUndefined()
})

it("times three to five variants of each class that the device has the memory for", async () => {
  const tuning = await Effect.runPromise(
    measure(fake(), { "layer 128 twice": 0.2, "gradient 64": 0.3, "head 64 twice split": 0.4,
      "segments 64 twice": 0.99 })
  )
  expect(tuning.failed).toEqual({})
  expect(tuning.variants)
    .toEqual({ layer: "128 twice", gradient: "64", head: "64 twice split", segments: "64" })
  for (const [of, seconds] of Object.entries(tuning.seconds)) {
    expect(Object.keys(seconds)).toEqual(Object.keys(Kernels.matrixVariants[of as ShapeClass]))
    expect([3, 4, 5]).toContain(Object.keys(seconds).length)
  }
  const small = await Effect.runPromise(measure(fake({ bytes: 16384 }), { "layer 64": 0.1 }))
  expect(Object.keys(small.seconds.layer)).toEqual(["64"])
})

it("leaves out what does not compile or computes wrongly, and fails when the device is lost", async () => {
  const table = { "layer 128": 0.1, "layer 128 twice": 0.2, "segments 64 twice": 0.1 }
  const refused = await Effect.runPromise(measure(fake({ refuses: "layer 128" }), table))
  expect(refused.variants.layer).toBe("128 twice")
  expect(refused.failed["layer 128"]).toContain("no such instruction")
  const wrong = await Effect.runPromise(measure(fake({ lies: "segments 64 twice" }), table))
  expect(wrong.variants.segments).toBe("64")
  expect(wrong.failed["segments 64 twice"]).toMatch(/it computes .* in a product \(nn\) where .* is right/)
  const turned = await Effect.runPromise(measure(fake({ lies: "layer 128, c of b turned" }), table))
  expect(Object.keys(turned.failed)).toEqual(["layer 128"])
  expect(await Effect.runPromise(Effect.flip(measure(fake({ lost: "head 64" }), table)))).toMatchObject({
    reason: "Lost"
  })
})

it("keeps the answer: it decides until it is damaged", async () => {
  let measured = 0
  const ask = (table: Readonly<Record<string, number>>, folders = [folder]) =>
    Effect.runPromise(withVariants(fake(), folders, (device) => (measured++, measure(device, table))))
  const first = await ask({ "layer 128": 0.1 })
  expect(first.target.variants?.layer).toBe("128")
  expect((await ask({ "layer 64": 0.1 })).target).toEqual(first.target)
  expect(measured).toBe(1)
  writeFileSync(join(folder, readdirSync(folder)[0]!),
    JSON.stringify({ variants: { ...first.target.variants, head: "?" } }))
  expect((await ask({ "layer 128 twice": 0.1 })).target.variants?.layer).toBe("128 twice")
  // where nothing can be kept, two runs take the same all the same
  expect((await ask({ "layer 128": 0.1 }, [])).target.variants).toEqual(Kernels.untimed)
})

it("never takes one that is wrong, and does without matrix units where a class has no right one", async () => {
  const asked = (seconds: Partial<Record<ShapeClass, Readonly<Record<string, number>>>>) =>
    Effect.runPromise(Effect.map(
      withVariants(fake(), [], () =>
        Effect.succeed({
          variants: {},
          seconds: { layer: { "64": 1 }, gradient: { "64": 1 }, head: { "64": 1 }, segments: { "64": 1 }, ...seconds },
          failed: { "gradient 64 split": "wrong", "head 64 split": "wrong" }
        })),
      ({ target }) => target
    ))
  expect(await asked({})).toMatchObject({ family: "tensor", variants: { layer: "64", gradient: "64", head: "64" } })
  const without = await asked({ segments: {} })
  expect(without.family).toBe("gpu")
  expect(without.variants).toBeUndefined()

  const own = join(folder, "without")
  const device = fake()
  const nothing = measure({ ...device, read: () => Effect.succeed(new Float32Array(5120)) } as DeviceService, {})
  const ask = () => Effect.runPromise(withVariants(device, [own], () => nothing))
  expect((await ask()).target.family).toBe("gpu")
  expect(readdirSync(own)).toHaveLength(1)
  expect((await Effect.runPromise(withVariants(device, [own], () => Effect.die("asked again")))).target.family).toBe(
    "gpu"
  )
})

it("records programs that compile, which a backend that computes nothing gets no further with", async () => {
  const { failed, variants } = await Effect.runPromise(
    Effect.flatMap(Device,
      (device) => measureVariants({ ...device, target: { ...device.target, subgroupSize: 32 } }, { shapes })).pipe(
        Effect.provide(NodeDevice.layer({ adapter: "null" }))
      )
  )
  expect(variants).toEqual({})
  expect(Object.keys(failed).length).toBeGreaterThanOrEqual(4)
  for (const why of Object.values(failed)) expect(why).toMatch(/it computes .* in a product/)
})

it("times by the device's clock where it has one that runs, else by waiting", async () => {
  const asked: Array<string> = []
  const seconds = (features: ReadonlyArray<string>, end: number) =>
    Effect.runPromise(timed(
      {
        features: new Set(features),
        idle: Effect.sync(() => void asked.push("idle")),
        submit: (...programs) => void asked.push(`submit ${programs.length}`),
        time: (...programs) =>
          Effect.sync(() => {
            asked.push(`time ${programs.length}`)
            return [{ begin: 1e6, end: 2e6 }, { begin: 3e6, end }] as never
          })
      },
      { program: { name: "", clears: [], dispatches: [] }, scratchBytes: 0 }
    ))
  expect(await seconds(["timestamp-query"], 41e6)).toBeCloseTo(0.002, 12)
  expect(asked.splice(0)).toEqual(["time 20"])
  expect(await seconds(["timestamp-query"], 1e6)).toBeLessThan(0.1)
  expect(asked.splice(0)).toEqual(["time 20", "idle", "submit 20", "idle"])
  await seconds([], 1e9)
  expect(asked).toEqual(["idle", "submit 20", "idle"])
})
