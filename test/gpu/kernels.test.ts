/**
 * Every kernel on the adapter, against the float64 reference. The cases are data (test/kernels/); each run draws new
 * numbers. A failure prints the seed: MEMSINKS_TEST_SEED=<seed> draws the same ones again.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import process from "node:process"
import { describe, expect, it } from "vitest"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import * as Float16 from "../../src/gpu/Float16.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import * as Program from "../../src/gpu/Program.ts"
import { families, type Family, portable, SOFTWARE_SUBGROUPS, type Target } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import * as NodeDevice from "../../src/node.ts"
import { allKernels } from "../kernels/all.ts"
import * as Attention from "../kernels/attention.ts"
import * as Cached from "../kernels/attention_cached.ts"
import type { Built, Case, Expected } from "../kernels/case.ts"
import * as CrossEntropy from "../kernels/cross_entropy.ts"
import * as Embedding from "../kernels/embedding.ts"
import * as Heads from "../kernels/heads.ts"
import * as Matmul from "../kernels/matmul.ts"
import * as Matvec from "../kernels/matvec.ts"
import * as NeuronGate from "../kernels/neuron_gate.ts"
import * as Norm from "../kernels/norm.ts"
import * as OptimizerCases from "../kernels/optimizer.ts"
import * as Rope from "../kernels/rope.ts"
import * as Sinks from "../kernels/sinks.ts"
import * as Swiglu from "../kernels/swiglu.ts"
import * as TokenRecord from "../kernels/token_record.ts"
import { expectClose } from "../reference/compare.ts"
import { makeRandom } from "../reference/random.ts"

const device = NodeDevice.layer()

const cases: ReadonlyArray<Case> = [
  ...Matmul.cases,
  ...Matvec.cases,
  ...Sinks.cases,
  ...Embedding.cases,
  ...Norm.cases,
  ...Rope.cases,
  ...Attention.cases,
  ...Cached.cases,
  ...Swiglu.cases,
  ...CrossEntropy.cases,
  ...TokenRecord.cases,
  ...Heads.cases,
  ...NeuronGate.cases,
  ...OptimizerCases.cases
]

const seed = Number(process.env["MEMSINKS_TEST_SEED"] ?? Date.now() % 2 ** 31)

/** A case's own numbers do not depend on which others run. */
const seedOf = (name: string): number => [...name].reduce((hash, c) => Math.imul(hash, 31) + c.charCodeAt(0) | 0, seed)

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

/** A family's target, whatever runs it: matrix units are those of subgroups of 32. */
const targetOf = (family: Family): Target => ({ family, subgroupSize: family === "tensor" ? 32 : 4 })

const record = (c: Case, built: Built, f16: ReadonlySet<string> = new Set(), target: Target = portable) => {
  const tensors = tensorsOf(built, f16)
  const p = Program.record(c.name, target)
  built.record(p, tensors)
  return { tensors, program: p.finish() }
}

/** Tensors of a case whose kernels take them as f16. */
const f16Tensors = (c: Case, built: Built, target: Target): ReadonlySet<string> => {
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
const halved = (built: Built, f16: ReadonlySet<string>): Built => ({
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

/** Whether an adapter has what a family's kernels need. The null backend compiles all of them (null.test.ts). */
const runsOn = (dev: DeviceService, family: Family): boolean =>
  family === "plain" || family === "gpu" ||
  (family === "software" ? dev.target.subgroupSize > 0 : dev.target.matrices === true)

layer(device)("kernels against the float64 reference", (it) => {
  it.effect("run on an adapter that computes", () =>
    Effect.gen(function*() {
      const dev = yield* Device
      expect(["hardware", "software"]).toContain(dev.kind)
      const f16 = dev.features.has("shader-f16") ? "" : ", not in f16, which it lacks"
      const missing = families.filter((family) => !runsOn(dev, family))
      const without = missing.length === 0 ? "" : `, without the families ${missing.join(", ")}`
      console.log(`kernels run on ${dev.name}, seed ${seed}${f16}${without}`)
    }))

  it.scoped("compile, all at once", () =>
    Effect.gen(function*() {
      const dev = yield* Device
      const recorded = cases.map((c) => record(c, c.build(makeRandom(seed))))
      yield* dev.allocate(recorded.flatMap(({ tensors }) => Object.values(tensors)))
      const dispatches = recorded.flatMap(({ program }) => program.dispatches)
      const before = dev.counters.pipelines
      const prepare = dev.prepare({ name: "every kernel", clears: [], dispatches })
      yield* prepare
      const compiled = dev.counters.pipelines - before
      const different = new Set(dispatches.map((d) => Kernel.key(d.kernel))).size
      // where this device was the first of its kind to be tuned, two products were compiled before
      expect([different, different - 2]).toContain(compiled)
      yield* prepare
      expect(dev.counters.pipelines - before).toBe(compiled)
    }))

  // every family's kernels, each once: most cases have the same in all families
  const runs = cases.flatMap((c) => {
    const seen = new Set<string>()
    return families.flatMap((family) => {
      const target = targetOf(family)
      const f16 = f16Tensors(c, c.build(makeRandom(1)), target)
      return [new Set<string>(), f16].flatMap((half) => {
        const { program } = record(c, c.build(makeRandom(1), target), half, target)
        const keys = program.dispatches.map((d) => Kernel.key(d.kernel)).join()
        if (seen.has(keys)) return []
        seen.add(keys)
        return [{ c, family, f16: half }]
      })
    })
  })

  for (const { c, f16, family } of runs) {
    it.scoped([c.name, ...(f16.size === 0 ? [] : ["f16"]), ...(family === "plain" ? [] : [family])].join(", "),
      (context) =>
        Effect.gen(function*() {
          const dev = yield* Device
          const target = { ...dev.target, family }
          if (!runsOn(dev, family)) return context.skip(`the adapter runs no ${family} kernels`)
          // what an adapter without f16 cannot run, the null backend still compiles (null.test.ts)
          if (f16.size > 0 && !dev.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
          // compiling takes long on some adapters: in f16 they run the kernels that they would train with, and a GPU's
          const kernelsOf = (of: Target) =>
            record(c, c.build(makeRandom(1), of), f16, of).program.dispatches.map((d) => d.kernel)
          const own = kernelsOf(dev.target).map(Kernel.key).join()
          if (f16.size > 0 && family === "plain" && kernelsOf(target).map(Kernel.key).join() !== own) {
            return context.skip("in f16 the adapter trains with kernels of another family")
          }
          const built = f16.size === 0
            ? c.build(makeRandom(seedOf(c.name)), target)
            : halved(c.build(makeRandom(seedOf(c.name), true), target), f16)
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
          outputs.forEach(([name], i) =>
            expectSameBits(wide[i]!, first[i]!, `${name}, grid folded into two dimensions`)
          )
        }).pipe(Effect.catchAllDefect((defect) => {
          const error = defect as Error
          error.message = `${error.message}\n(MEMSINKS_TEST_SEED=${seed} draws the same numbers)`
          return Effect.die(error)
        })))
  }
})

const nameOf = ({ entry, file }: Kernel.Kernel): string => `${file}.${entry}`

describe("case tables", () => {
  const targets: ReadonlyArray<Target> = [
    ...families.map(targetOf),
    ...SOFTWARE_SUBGROUPS.map((subgroupSize) => ({ family: "software" as const, subgroupSize }))
  ]
  const programs = cases.flatMap((c) =>
    targets.flatMap((target) => {
      const built = c.build(makeRandom(1), target)
      return [new Set<string>(), f16Tensors(c, built, target)].map((f16) => ({
        c,
        built,
        program: record(c, built, f16, target).program
      }))
    })
  )

  it("cover every kernel", () => {
    const covered = new Set(programs.flatMap(({ program }) => program.dispatches.map((d) => nameOf(d.kernel))))
    expect([...covered].sort()).toEqual([...new Set(allKernels.map(nameOf))].sort())
  })

  it("have every kernel run in more than one workgroup", () => {
    const several = new Set(
      programs.flatMap(({ program }) =>
        program.dispatches.filter((d) => d.workgroups[0] * d.workgroups[1] > 1).map((d) => nameOf(d.kernel))
      )
    )
    // one invocation by design
    expect(allKernels.map(nameOf).filter((name) => !several.has(name))).toEqual(["reduce.finish", "reduce.scale_loss"])
  })

  it("expect something of every tensor that is written, and start accumulators from numbers other than 0", () => {
    for (const { built, c, program } of programs) {
      const written = program.dispatches.flatMap((d) =>
        d.kernel.bindings.flatMap(([, access], i) => (access === "write" ? [d.tensors[i]!.name] : []))
      )
      expect(Object.keys(built.outputs).sort(), c.name).toEqual([...new Set(written)].sort())
      for (const [name, output] of Object.entries(built.outputs) as ReadonlyArray<readonly [string, Expected]>) {
        const initial = built.tensors[name]!
        expect(output.want.length, `${c.name}: ${name}`).toBe(initial.length)
        if (output.kind !== "adds") continue
        const starts = [...output.want.keys()].filter((i) => !Number.isNaN(output.want[i])).map((i) => initial[i]!)
        expect(starts.every((x) => Number.isFinite(x) && x !== 0), `${c.name}: ${name}`).toBe(true)
      }
    }
  })

  it("have names and costs of their own", () => {
    expect(new Set(cases.map((c) => c.name)).size).toBe(cases.length)
    expect(cases.filter((c) => !(c.flops >= 0 && c.bytes >= 0))).toEqual([])
  })
})
