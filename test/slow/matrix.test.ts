/**
 * Every variant of the kernels of matrix units, emulated as in gpu/matrix.test.ts, with both numberings of subgroups; and
 * kernels in whose text one number is wrong, which must be found. Compiling all of them takes lavapipe minutes.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it, vi } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import type { Case } from "../kernels/case.ts"
import { type MatrixRun, matrixRuns, matrixTarget, runEmulated } from "../kernels/matrix.ts"
import { rewriting } from "../support/rewriting.ts"
import { emulate } from "../support/subgroupMatrix.ts"
import { checkWholeModel, wholeModels } from "../support/wholeModel.ts"

vi.mock(
  "../../src/gpu/Kernel.ts",
  async (original) => (await import("../support/rewriting.ts")).rewritten(await original())
)

describe("cases of matrix units", () => {
  it("cover every tiling, whole and in parts", () => {
    const used = new Set(matrixRuns.flatMap(({ keys }) => keys))
    const tilings = (entry: string) => [...used].filter((key) => key.startsWith(`matmul_matrix.${entry}(`)).length
    // nn twice as many: with the right factor as it is, and turned
    expect([tilings("nn"), tilings("nn_part"), tilings("tn"), tilings("tn_part")]).toEqual([10, 6, 3, 3])
  })
})

/** A mistake in a kernel's text, and part of the names of the kernels that it is in. */
interface Mutation {
  readonly what: string
  readonly kernels: string
  readonly from: string
  readonly to: string
}

const mutations: ReadonlyArray<Mutation> = [
  {
    what: "a stride of the left matrix",
    kernels: "matmul_matrix.nn(",
    from: "(&pool, left + k / 8u, NARROW)",
    to: "(&pool, left + k / 8u, NARROW - 1u)"
  },
  {
    what: "an offset of the left matrix",
    kernels: "matmul_matrix.nn(",
    from: "left + 16u * NARROW + k / 8u",
    to: "left + 8u * NARROW + k / 8u"
  },
  {
    what: "the left matrix by rows",
    kernels: "matmul_matrix.tn(",
    from: "<Left, col_major>(&pool, left + k * WIDE, WIDE)",
    to: "<Left, row_major>(&pool, left + k * WIDE, WIDE)"
  },
  {
    what: "the right matrix by columns",
    kernels: "matmul_matrix.nn(",
    from: "<Right, row_major>(&pool, right + k * WIDE, WIDE)",
    to: "<Right, col_major>(&pool, right + k * WIDE, WIDE)"
  },
  {
    what: "a stride of the right matrix",
    kernels: "matmul_matrix.nn(",
    from: "right + k * WIDE + 2u, WIDE)",
    to: "right + k * WIDE + 2u, WIDE - 1u)"
  },
  {
    what: "the right matrix by rows where it is turned",
    kernels: "matmul_matrix.nn(BUFFERS=1,SIDE=2,STEP=32,TURNED",
    from: "<Right, col_major>(&pool, right + k / 8u, NARROW)",
    to: "<Right, row_major>(&pool, right + k / 8u, NARROW)"
  },
  {
    what: "an offset of the right matrix where it is turned",
    kernels: "matmul_matrix.nn(BUFFERS=1,SIDE=2,STEP=32,TURNED",
    from: "right + 16u * NARROW + k / 8u",
    to: "right + 8u * NARROW + k / 8u"
  },
  {
    what: "a stride of the sums",
    kernels: "matmul_matrix.nn(",
    from: "s * 16u * SUMS, left, SUMS)",
    to: "s * 16u * SUMS, left, SUMS + 1u)"
  },
  { what: "a stride of a part", kernels: "matmul_matrix.tn_part(", from: "at, left, pp.n4)",
    to: "at, left, pp.n4 + 1u)" },
  {
    what: "a barrier left out",
    kernels: "matmul_matrix.nn(",
    from: "if (BUFFERS == 1u) { workgroupBarrier(); } else",
    to: "if (BUFFERS != 1u)"
  },
  {
    what: "keys by rows",
    kernels: "attention_matrix.forward(HEAD=64",
    from: "<Right, col_major>(&pool, at, LD), sum)",
    to: "<Right, row_major>(&pool, at, LD), sum)"
  },
  {
    what: "a stride of weights",
    kernels: "attention_matrix.forward(HEAD=64",
    from: "weights + 2u, WLD)",
    to: "weights + 2u, WLD + 1u)"
  },
  {
    what: "an offset of values",
    kernels: "attention_matrix.forward(HEAD=64",
    from: "TILE + half * (HEAD8 / 2u)); }",
    to: "TILE + half * HEAD8); }"
  },
  {
    what: "an offset of scores",
    kernels: "attention_matrix.backward_q(HEAD=64",
    from: "score(&f, half * TILE + 16u * LD), SLD);",
    to: "score(&f, half * TILE + 8u * LD), SLD);"
  },
  {
    what: "subgroups numbered by their invocations' index",
    kernels: "matmul_matrix.nn(",
    from: "sum_nn(&m, rows, right, p.ldb4, 0u, p.k, s, l)",
    to: "sum_nn(&m, rows, right, p.ldb4, 0u, p.k, l / 32u, l)"
  }
]

layer(NodeDevice.layer())("kernels of matrix units, emulated", (it) => {
  for (const run of matrixRuns.filter(({ quick }) => !quick)) {
    it.effect(`${run.c.name}: ${run.keys.join(", ")}`, (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        yield* runEmulated(run)
      }))
  }

  /** Each case once, with the first variant that has such a kernel. */
  const casesOf = (kernels: string): ReadonlyArray<MatrixRun> => {
    const seen = new Set<Case>()
    return matrixRuns.filter(({ c, keys }) => {
      const first = !seen.has(c) && keys.some((key) => key.startsWith(kernels))
      if (first) seen.add(c)
      return first
    })
  }

  for (const kernels of [...new Set(mutations.map((mutation) => mutation.kernels))]) {
    it.effect(`${kernels} with subgroups of every n-th invocation`, (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        for (const run of casesOf(kernels)) yield* runEmulated(run, "strided")
      }))
  }

  for (const { from, kernels, to, what } of mutations) {
    it.effect(`${kernels} with ${what} is found`, (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        const broken = (text: string): string => text.replace(from, to)
        const outcomes = yield* Effect.forEach(casesOf(kernels), (run) =>
          Effect.exit(runEmulated(run, "strided", what, (text) => {
            expect(text.includes(from) || !text.includes("_matrix;")).toBe(true)
            return broken(text)
          })))
        expect(outcomes.some(({ _tag }) => _tag === "Failure")).toBe(true)
      }))
  }

  for (const { config, ...c } of wholeModels.filter(({ compute, precision }) =>
    precision === "f16" && compute === "gathered"
  )) {
    it.scoped(`a whole model's loss and gradients: ${c.name}`, (context) =>
      Effect.gen(function*() {
        rewriting.name = " strided"
        rewriting.of = (text) => emulate(text, "strided")
        // heads of 64 for attention on matrix units
        const wide = new ModelConfig({ ...config, headDim: 64 })
        const done = yield* checkWholeModel({ ...c, config: wide, target: { ...matrixTarget } })
        if (!done) return context.skip("the adapter has no shader-f16")
      }))
  }
})
