/** How a case runs on an adapter: on poisoned outputs, several times, against what it must give. */
import * as Effect from "effect/Effect"
import * as Float16 from "../../src/Float16.ts"
import type { DeviceService } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import { portable, type Target } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { expectClose } from "../reference/compare.ts"
import type { Built, Case, Expected } from "./case.ts"

/** One invocation an element of a 2-D or short list: these kernels do not fold a long grid into two dimensions. */
const unfolded = new Set([
  "matmul",
  "matmul_subgroup",
  "matmul_quad",
  "matmul_tiled",
  "matmul_matrix",
  "sink_gradient",
  "sink_gradient_subgroup",
  "sink_gradient_quad",
  "sink_gradient_tiled",
  "reduce",
  "matvec",
  "matvec_subgroup"
])

/** The same dispatches with one-dimensional grids folded into two, as long ones are, and a few invocations too many. */
const fold = (program: Program.Program): Program.Program => ({
  ...program,
  name: `${program.name} folded`,
  dispatches: program.dispatches.map((dispatch) => {
    if (unfolded.has(dispatch.kernel.file)) return dispatch
    return { ...dispatch, workgroups: [2, Math.ceil(dispatch.workgroups[0] / 2) + 1, 1] as const }
  })
})

type Host = Float32Array | Uint32Array

const bits = (array: Host): Uint32Array => new Uint32Array(array.buffer, array.byteOffset, array.length)

const expectSameBits = (got: Host, want: Host, what: string, where: (i: number) => boolean = () => true): void => {
  const [a, b] = [bits(got), bits(want)]
  const hex = (x: number): string => `0x${x.toString(16).padStart(8, "0")}`
  for (let i = 0; i < b.length; i++) {
    if (a[i] !== b[i] && where(i)) {
      throw new Error(`${what}: [${i}] holds ${hex(a[i]!)} (${got[i]}), expected the bits ${hex(b[i]!)} (${want[i]})`)
    }
  }
}

const expectRun = (name: string, got: Host, initial: Host, expected: Expected, runs = 1): void => {
  const { atol, exactZeros, rtol, want } = expected
  expectSameBits(got, initial, `${name} was written where it must not be`, (i) => Number.isNaN(want[i]))
  const indices = [...want.keys()].filter((i) => !Number.isNaN(want[i]))
  // after several runs of a kernel that adds, what it added several times
  const wanted = indices.map((i) => (runs === 1 ? want[i]! : initial[i]! + runs * (want[i]! - initial[i]!)))
  try {
    expectClose(indices.map((i) => got[i]!), wanted, { name, atol: atol * runs, rtol })
  } catch (error) {
    const message = (error as Error).message
    throw new Error(message.replace(/worst at \[(\d+)\]/, (_, at) => `worst at [${indices[Number(at)]}]`))
  }
  const wrong = indices.find((i) => exactZeros?.(i) === true && got[i] !== 0)
  if (wrong !== undefined) throw new Error(`${name}: [${wrong}] is ${got[wrong]}, expected exactly 0`)
}

const tensorsOf = (built: Built, f16: ReadonlySet<string>) =>
  Object.fromEntries(
    Object.entries(built.tensors).map(([name, data]) => [
      name,
      Tensor.make(name, [data.length], {
        type: data instanceof Float32Array ? f16.has(name) ? "f16" : "f32" : "u32"
      })
    ])
  )

export const record = (c: Case, built: Built, f16: ReadonlySet<string> = new Set(), target: Target = portable) => {
  const tensors = tensorsOf(built, f16)
  const p = Program.record(c.name, target)
  built.record(p, tensors)
  return { tensors, program: p.finish() }
}

/** Tensors of a case whose kernels take them as f16. */
export const f16Tensors = (c: Case, built: Built, target: Target): ReadonlySet<string> => {
  const { program } = record(c, built, new Set(), target)
  return new Set(program.dispatches.flatMap(({ kernel, tensors }) => {
    const typed = Object.values(kernel.types).flat()
    return tensors.filter((tensor, i) => tensor.type === "f32" && typed.includes(kernel.bindings[i]![0])).map((t) =>
      t.name
    )
  }))
}

const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0)

/** The case with half-precision tensors: the same numbers rounded, and tolerances that allow for rounding the results. */
export const halved = (built: Built, f16: ReadonlySet<string>): Built => ({
  ...built,
  tensors: Object.fromEntries(
    Object.entries(built.tensors).map((
      [name, data]
    ) => [name, f16.has(name) ? Float16.decode(Float16.encode(data)) : data])
  ),
  outputs: Object.fromEntries(
    Object.entries(built.outputs).map(([name, output]) => [
      name,
      f16.has(name)
        ? {
          ...output!,
          rtol: output!.rtol + 2 ** -10,
          // in place, what stood there is rounded once more
          atol: output!.atol + (output!.kind === "writes" ? 2 ** -22 : 2 ** -10 * largest(built.tensors[name]!))
        }
        : output!
    ])
  )
})

/**
 * Runs what a case records and compares: once, over its own results, from the same state again, and on a folded grid.
 */
export const runCase = (dev: DeviceService, c: Case, built: Built, f16: ReadonlySet<string>, target: Target) =>
  Effect.gen(function*() {
    const { program, tensors } = record(c, built, f16, target)
    const outputs = Object.entries(built.outputs) as ReadonlyArray<readonly [string, Expected]>
    yield* dev.allocate(Object.values(tensors))
    const prepared = yield* dev.prepare(program)
    const folded = yield* dev.prepare(fold(program))
    const reset = (): void => {
      for (const [name, data] of Object.entries(built.tensors)) dev.write(tensors[name]!, data)
    }
    const results = Effect.forEach(outputs, ([name]) => dev.read(tensors[name]!))

    reset()
    dev.submit(prepared)
    const first = yield* results
    outputs.forEach(([name, output], i) => expectRun(name, first[i]!, built.tensors[name]!, output))

    dev.submit(prepared)
    const twice = yield* results
    outputs.forEach(([name, output], i) => {
      if (output.kind === "writes") expectSameBits(twice[i]!, first[i]!, `${name}, written over itself`)
      if (output.kind === "adds") expectRun(`${name}, added twice`, twice[i]!, built.tensors[name]!, output, 2)
    })

    reset()
    dev.submit(prepared)
    const again = yield* results
    outputs.forEach(([name], i) => expectSameBits(again[i]!, first[i]!, `${name}, from the same state again`))

    reset()
    dev.submit(folded)
    const wide = yield* results
    outputs.forEach(([name], i) => expectSameBits(wide[i]!, first[i]!, `${name}, grid folded into two dimensions`))
  })
