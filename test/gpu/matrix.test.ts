/**
 * The kernels of matrix units, which no software adapter has, run with those units written out as loops
 * (support/subgroupMatrix.ts): every case of products and attention in f16 against the float64 reference. What is broken in
 * a kernel's text must be found.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import process from "node:process"
import { describe, expect, it, vi } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import type { Target } from "../../src/gpu/Target.ts"
import * as NodeDevice from "../../src/node.ts"
import type { Case } from "../kernels/case.ts"
import * as Matmul from "../kernels/matmul.ts"
import { f16Tensors, halved, record, runCase } from "../kernels/run.ts"
import { makeRandom } from "../reference/random.ts"
import { emulate } from "../support/subgroupMatrix.ts"

/** What happens to WGSL before it is compiled; the name tells pipelines apart. */
const rewriting = vi.hoisted(() => ({ name: "", of: (text: string): string => text }))

vi.mock("../../src/gpu/Kernel.ts", async (original) => {
  const actual = await original<typeof import("../../src/gpu/Kernel.ts")>()
  return {
    ...actual,
    source: (kernel: Parameters<typeof actual.source>[0]) => rewriting.of(actual.source(kernel)),
    key: (kernel: Parameters<typeof actual.key>[0]) => `${actual.key(kernel)}${rewriting.name}`,
    moduleKey: (kernel: Parameters<typeof actual.moduleKey>[0]) => `${actual.moduleKey(kernel)}${rewriting.name}`
  }
})

const seed = Number(process.env["MEMSINKS_TEST_SEED"] ?? Date.now() % 2 ** 31)

const tensor: Target = { family: "tensor", subgroupSize: 32 }

const run = (c: Case, target: Target, name: string, of: (text: string) => string) =>
  Effect.scoped(Effect.gen(function*() {
    const dev = yield* Device
    const f16 = f16Tensors(c, c.build(makeRandom(1), target), target)
    const built = halved(c.build(makeRandom(seed, true), target), f16)
    rewriting.name = ` ${name}`
    rewriting.of = of
    yield* runCase(dev, c, built, f16, target)
  }))

/** Cases whose kernels ask for matrix units. */
const cases = [...Matmul.cases].filter((c) => {
  const built = c.build(makeRandom(1), tensor)
  const { program } = record(c, built, f16Tensors(c, built, tensor), tensor)
  return program.dispatches.some(({ kernel }) => kernel.file.endsWith("_matrix"))
})

describe("emulated matrix units", () => {
  it("cover products", () => expect(cases.length).toBeGreaterThan(8))
})

layer(NodeDevice.layer())("kernels of matrix units, emulated", (it) => {
  for (const c of cases) {
    it.effect(c.name, (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        yield* run(c, tensor, "neighbours", (text) => emulate(text))
      }))
  }
})
