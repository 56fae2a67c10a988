import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { KernelError } from "../../src/Errors.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import type { Family } from "../../src/gpu/Target.ts"
import { candidates, choose, measure, tuned } from "../../src/model/Autotune.ts"
import * as NodeDevice from "../../src/node.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-autotune-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("choosing a family", () => {
  it("keeps what the features suggest unless another is clearly faster", () => {
    expect(choose("software", { plain: 1, software: 1.05 })).toBe("software")
    expect(choose("software", { plain: 1, software: 1.2 })).toBe("plain")
    expect(choose("gpu", { plain: 5, gpu: 1, tensor: 0.2 })).toBe("tensor")
    expect(choose("gpu", { plain: 0.6, gpu: 1, tensor: 0.8 })).toBe("plain")
    expect(choose("tensor", { plain: 2, gpu: 3 })).toBe("plain")
  })
})

layer(NodeDevice.layer())("tuning a device", (it) => {
  it.effect("times every family it can run, after all computed the same", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = { ...device.counters }
      const { family, seconds } = yield* measure(device)
      expect(Object.keys(seconds).sort()).toEqual([...candidates(device)].sort())
      expect(Object.values(seconds).every((time) => time > 0 && time < 60)).toBe(true)
      expect(family).toBe(choose(device.target.family, seconds))
      expect(device.counters).toMatchObject({ bindGroups: before.bindGroups })
    }), 120_000)

  it.effect("measures once and keeps the answer; a damaged one is measured again", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const submits = () => device.counters.submits
      const at = submits()
      const first = yield* tuned(device, { folders: [folder] })
      const measured = submits()
      if (candidates(device).length > 1) expect(measured).toBeGreaterThan(at)
      const [file, ...others] = readdirSync(folder)
      expect(others).toEqual([])
      expect(JSON.parse(readFileSync(join(folder, file!), "utf8"))).toMatchObject({ family: first.target.family })
      expect((yield* tuned(device, { folders: [folder] })).target).toEqual(first.target)
      expect(submits()).toBe(measured)

      // the answer decides, even where it is not the fastest
      for (const family of candidates(device)) {
        writeFileSync(join(folder, file!), JSON.stringify({ family, seconds: {} }))
        expect((yield* tuned(device, { folders: [folder] })).target.family).toBe(family)
      }
      writeFileSync(join(folder, file!), "{")
      yield* tuned(device, { folders: [folder] })
      expect(submits()).toBeGreaterThan(measured)
      expect(candidates(device)).toContain(JSON.parse(readFileSync(join(folder, file!), "utf8")).family)
    }), 120_000)

  it.effect("does without a family that does not compile or computes wrongly, and says so",
    (context) =>
      Effect.gen(function*() {
        const device = yield* Device
        const broken = candidates(device).find((family) => family !== "plain")
        if (broken === undefined) return context.skip("a device of the plain family alone has none to lose")
        const refuses: DeviceService = {
          ...device,
          prepare: (program) =>
            program.name.startsWith(broken)
              ? Effect.fail(new KernelError({ kernel: "matmul", detail: "no such instruction", source: "" }))
              : device.prepare(program)
        }
        const lies = (family: Family, product: string): DeviceService => {
          let last = ""
          return {
            ...device,
            prepare: (program) => Effect.suspend(() => (last = program.name, device.prepare(program))),
            read: (tensor) =>
              Effect.map(device.read(tensor), (values) => {
                if (last.startsWith(family) && tensor.name === product) values[0] = NaN
                return values
              })
          }
        }
        for (const [kind, bad] of [["refuses", refuses], ["nn", lies(broken, "nn")], ["tn",
          lies(broken, "tn")]] as const)
        {
          const { failed, family, seconds } = yield* measure(bad)
          expect(Object.keys(failed!)).toEqual([broken])
          expect(failed![broken]).toContain(kind === "refuses" ? "no such instruction" : `NaN in a product (${kind})`)
          expect(Object.keys(seconds).sort()).toEqual(candidates(device).filter((name) => name !== broken).sort())
          expect(family).not.toBe(broken)
          // nothing can be kept there: what the features suggest is not taken blindly
          const nowhere = join(folder, readdirSync(folder)[0]!, "below-a-file")
          expect((yield* tuned(bad, { folders: [nowhere] })).target.family).not.toBe(broken)
        }
        expect(yield* Effect.flip(measure(lies("plain", "nn")))).toMatchObject({ _tag: "DeviceError",
          reason: "Validation" })
      }), 120_000)

  it.effect("takes what the features suggest where nothing can be kept, and what is asked for",
    () =>
      Effect.gen(function*() {
        const device = yield* Device
        const nowhere = join(folder, readdirSync(folder)[0]!, "below-a-file")
        expect((yield* tuned(device, { folders: [nowhere] })).target).toEqual(device.target)
        expect((yield* tuned(device, { kernels: "plain" })).target.family).toBe("plain")
        const unable = (["software", "gpu"] as const).find((family) => !candidates(device).includes(family))!
        const refused = yield* Effect.flip(tuned(device, { kernels: unable }))
        expect(refused).toMatchObject({ reason: "Feature" })
        expect(refused.message).toContain(`on ${device.name} it may be ${candidates(device).join(", ")}`)
      }), 120_000)
})
