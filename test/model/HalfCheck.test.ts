import { expect, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, vi } from "vitest"
import { KernelError } from "../../src/Errors.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import { findWrongHalf, requireHalf, withSoundAttention } from "../../src/model/HalfCheck.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { rewriting } from "../support/rewriting.ts"
import { miniatureModel } from "../support/support.ts"

vi.mock(
  "../../src/gpu/Kernel.ts",
  async (original) => (await import("../support/rewriting.ts")).rewritten(await original())
)

const folder = mkdtempSync(join(tmpdir(), "memsinks-f16-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

layer(NodeDevice.layer())("f16 of a device", (it) => {
  /** The device, with one number of one result of a program off. */
  const lying = (device: DeviceService, program: string, tensor: string, by: (x: number) => number): DeviceService => {
    let last = ""
    return {
      ...device,
      name: `${device.name}, ${program}, ${tensor}`,
      prepare: (prepared) => Effect.suspend(() => (last = prepared.name, device.prepare(prepared))),
      read: (read) =>
        Effect.map(device.read(read), (values) => {
          if (last === program && read.name === tensor) values[values.length - 1] = by(values[values.length - 1]!)
          return values
        })
    }
  }

  it.effect("is right here, and wrong wherever one result of one op is", (context) =>
    Effect.gen(function*() {
      const device = yield* Device
      if (!device.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
      expect(yield* findWrongHalf(device)).toBeUndefined()
      const lies = [
        ["products", "w.y"],
        ["products", "w.dx"],
        ["products", "w.gradient"],
        ["norm", "w.y"],
        ["norm", "dx"],
        ["norm", "w.gradient"],
        ["swiglu", "h"],
        ["swiglu", "dgu"],
        ["attention", "attention"],
        ["attention", "dqkv"],
        ["attention", "qkv"],
        ["cross entropy", "logits"],
        ["cross entropy", "loss"]
      ] as const
      for (const [i, [op, tensor]] of lies.entries()) {
        const by = [() => NaN, () => Infinity, (x: number) => x + 20][i % 3]!
        expect(yield* findWrongHalf(lying(device, `${op} in f16`, tensor, by)), `${op} ${tensor}`)
          .toMatch(new RegExp(`^${op}: \\S+ where f32 gives `))
      }
      const refuses: DeviceService = {
        ...device,
        prepare: (program) =>
          program.name === "swiglu in f16"
            ? Effect.fail(new KernelError({ kernel: "swiglu", detail: "no such type", source: "" }))
            : device.prepare(program)
      }
      expect(yield* findWrongHalf(refuses)).toMatch(/^swiglu: .*no such type/)
    }), 60_000)

  it.effect("is asked once, and a model is refused by the name of the op", (context) =>
    Effect.gen(function*() {
      const device = yield* Device
      if (!device.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
      const liar = lying(device, "norm in f16", "w.y", () => 3)
      const submits = () => device.counters.submits
      const before = submits()
      const refused = yield* Effect.flip(requireHalf(liar, [folder]))
      expect(refused).toMatchObject({ _tag: "DeviceError", reason: "Feature" })
      expect(refused.message).toContain(`${liar.name} computes wrongly in f16 with the ${device.target.family} kernels`)
      expect(refused.message).toMatch(/\(norm: 3 where f32 gives .*choose precision "f32"/)
      const once = submits()
      expect(once).toBeGreaterThan(before)
      // another process finds it in the folder, this one knows it
      expect(yield* Effect.flip(requireHalf({ ...liar }, [folder]))).toEqual(refused)
      const model = yield* Effect.flip(Effect.scoped(Effect.provide(
        Model.make(miniatureModel, { precision: "f16" }),
        Layer.succeed(Device, liar)
      )))
      expect(model).toEqual(refused)
      expect(submits()).toBe(once)
      // another driver is another question, and an answer that cannot be read is none
      yield* requireHalf({ ...device, driver: "another" }, [folder])
      const [other, ...files] = [submits(), ...readdirSync(folder)]
      expect(other).toBeGreaterThan(once)
      expect(files.length).toBe(2)
      for (const file of files) writeFileSync(join(folder, file), "{")
      expect(yield* Effect.flip(requireHalf({ ...liar }, [folder]))).toEqual(refused)
      expect(submits()).toBeGreaterThan(other)
    }), 60_000)

  it.effect("costs attention its matrix units alone, where their kernels are wrong or do not compile",
    (context) =>
      Effect.gen(function*() {
        const device = yield* Device
        if (!device.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        const files = (target: DeviceService["target"]) => [
          Kernels.attention(target, 64, "f16").kernel.file,
          Kernels.attentionBackward(target, "kv", 128, "f16").kernel.file,
          Kernels.matmulTN(target, { a: "f16", b: "f16" }, { m: 64, n: 64, k: 64 }).kernel.file
        ]
        const target = { family: "tensor", subgroupSize: 32, workgroupBytes: 49152 } as const
        expect(files(target)).toEqual(["attention_matrix", "attention_matrix", "matmul_matrix"])
        // kernels that write nothing; and the text as it is, which no software adapter compiles
        const empty = (text: string): string =>
          text.includes("attention.wgsl on matrix units")
            ? "override WX: u32; override HEAD: u32; override SETS: u32;\n" +
              ["forward", "backward_q", "backward_kv"].map((entry) => `@compute @workgroup_size(WX) fn ${entry}() {}\n`)
                .join("")
            : text
        const own = join(folder, "attention")
        for (const [name, of, why] of [
          ["empty", empty, /^attention of heads of 64: 0 where f32 gives /],
          ["", (text: string) => text, /attention_matrix/]
        ] as const) {
          Object.assign(rewriting, { name, of })
          const tensor = { ...device, name: `a card, ${name}`, target }
          for (const submits of [true, false]) {
            const before = device.counters.submits
            const sound = yield* withSoundAttention(tensor, [own])
            expect(device.counters.submits > before).toBe(submits)
            expect(sound.target).toEqual({ ...target, tiledAttention: true })
            expect(files(sound.target)).toEqual(["attention_tiled", "attention_tiled", "matmul_matrix"])
          }
          expect(readdirSync(own).map((file) => JSON.parse(readFileSync(join(own, file), "utf8")).wrong))
            .toContainEqual(expect.stringMatching(why))
        }
        Object.assign(rewriting, { name: "", of: (text: string) => text })
      }), 60_000)
})
