/** Cases of the kernels of matrix units, with every variant that software adapters have the workgroup memory for. */
import * as Effect from "effect/Effect"
import process from "node:process"
import { Device } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import type { ShapeClass, Target } from "../../src/gpu/Target.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { makeRandom } from "../reference/random.ts"
import { rewriting } from "../support/rewriting.ts"
import { emulate, type Numbering } from "../support/subgroupMatrix.ts"
import * as Attention from "./attention.ts"
import type { Case } from "./case.ts"
import * as Matmul from "./matmul.ts"
import { f16Tensors, halved, record, runCase } from "./run.ts"

/** Workgroup memory that software adapters have. */
const workgroupBytes = 32768

/** A target with matrix units, where few tiles are enough for large ones and for sums in parts. */
export const matrixTarget: Target = { family: "tensor", subgroupSize: 32, busy: 4, workgroupBytes }

const variants = (Object.entries(Kernels.matrixVariants) as ReadonlyArray<
  [ShapeClass, Record<string, Kernels.MatrixTiling>]
>).flatMap(([shapeClass, table]) =>
  Object.entries(table)
    .filter(([, tiling]) => Kernels.workgroupBytes(tiling) <= workgroupBytes)
    .map(([name]): Target => ({ ...matrixTarget, variants: { [shapeClass]: name } }))
)

// tiles of 64 and of 128 inside, at two edges, and one row or column beyond; sums in parts of which the last is shorter
const cases: ReadonlyArray<Case> = [
  ...Attention.cases,
  ...Matmul.cases,
  Matmul.nn({ m: 257, n: 132, k: 70, mode: "residual" }),
  Matmul.nn({ m: 128, n: 260, k: 64 }),
  Matmul.nn({ m: 70, n: 136, k: 1100, a: { at: 4, gap: 4 }, b: { at: 8, gap: 4 }, c: { at: 12, gap: 4 } }),
  Matmul.nn({ m: 64, n: 64, k: 1057, mode: "add" }),
  Matmul.nn({ m: 257, n: 132, k: 70, mode: "residual", turned: true }),
  Matmul.nn({ m: 128, n: 260, k: 64, turned: true }),
  Matmul.nn({ m: 70, n: 136, k: 1100, a: { at: 4, gap: 4 }, b: { at: 8, gap: 4 }, c: { at: 12, gap: 4 },
    turned: true }),
  Matmul.tn({ m: 257, n: 132, k: 70 }),
  Matmul.tn({ m: 128, n: 128, k: 64 }),
  Matmul.tn({ m: 130, n: 140, k: 1040, a: { at: 4, gap: 4 }, b: { at: 8, gap: 4 }, c: { at: 12, gap: 4 } }),
  Matmul.tn({ m: 128, n: 64, k: 2100 })
]

export interface MatrixRun {
  readonly c: Case
  readonly f16: ReadonlySet<string>
  readonly target: Target
  /** Keys of its kernels. */
  readonly keys: ReadonlyArray<string>
  /** Whether these are the products of a target that was not timed, or attention's forward pass: what compiles soonest. */
  readonly quick: boolean
}

/** Kernels of attention that take lavapipe a minute to compile. */
const slow = /^attention_matrix\.(backward|.*HEAD=128)/

/** Each case with each different list of kernels that ask for matrix units. */
export const matrixRuns: ReadonlyArray<MatrixRun> = cases.flatMap((c) => {
  const seen = new Set<string>()
  const built = c.build(makeRandom(1), matrixTarget)
  const f16 = f16Tensors(c, built, matrixTarget)
  return [matrixTarget, ...variants].flatMap((target) => {
    const kernels = record(c, built, f16, target).program.dispatches.map(({ kernel }) => kernel)
    const keys = kernels.map(Kernel.key)
    if (seen.has(keys.join()) || !kernels.some(({ file }) => file.endsWith("_matrix"))) return []
    seen.add(keys.join())
    return [{ c, f16, keys, target, quick: target === matrixTarget && !keys.some((key) => slow.test(key)) }]
  })
})

const seed = Number(process.env["MEMSINKS_TEST_SEED"] ?? Date.now() % 2 ** 31)

/** Runs a case on the device with matrix units emulated, its WGSL changed by `mutate` before. */
export const runEmulated = (
  { c, f16, target }: MatrixRun,
  numbering: Numbering = "neighbours",
  name = "",
  mutate = (text: string): string => text
) =>
  Effect.scoped(Effect.gen(function*() {
    const dev = yield* Device
    const built = halved(c.build(makeRandom(seed, true), target), f16)
    rewriting.name = ` ${numbering} ${name}`
    rewriting.of = (text) => emulate(mutate(text), numbering)
    yield* runCase(dev, c, built, f16, target)
  })).pipe(Effect.catchAllDefect((defect) => {
    const error = defect as Error
    error.message = `${error.message}\n(MEMSINKS_TEST_SEED=${seed} draws the same numbers)`
    return Effect.die(error)
  }))
