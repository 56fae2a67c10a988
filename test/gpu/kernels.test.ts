/**
 * Every kernel on the adapter, against the float64 reference. The cases are data (test/kernels/); each run draws new
 * numbers. A failure prints the seed: MEMSINKS_TEST_SEED=<seed> draws the same ones again.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import process from "node:process"
import { describe, expect, it } from "vitest"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import { families, type Family, SOFTWARE_SUBGROUPS, type Target } from "../../src/gpu/Target.ts"
import * as NodeDevice from "../../src/node.ts"
import { allKernels } from "../kernels/all.ts"
import * as Attention from "../kernels/attention.ts"
import * as Cached from "../kernels/attention_cached.ts"
import type { Case, Expected } from "../kernels/case.ts"
import * as CrossEntropy from "../kernels/cross_entropy.ts"
import * as Embedding from "../kernels/embedding.ts"
import * as Heads from "../kernels/heads.ts"
import * as Matmul from "../kernels/matmul.ts"
import * as Matvec from "../kernels/matvec.ts"
import * as NeuronGate from "../kernels/neuron_gate.ts"
import * as Norm from "../kernels/norm.ts"
import * as OptimizerCases from "../kernels/optimizer.ts"
import * as Rope from "../kernels/rope.ts"
import { f16Tensors, halved, record, runCase } from "../kernels/run.ts"
import * as Sinks from "../kernels/sinks.ts"
import * as Swiglu from "../kernels/swiglu.ts"
import * as TokenRecord from "../kernels/token_record.ts"
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

/** A family's target, whatever runs it: matrix units are those of subgroups of 32. */
const targetOf = (family: Family): Target => ({ family, subgroupSize: family === "tensor" ? 32 : 4 })

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
          yield* runCase(dev, c, built, f16, target)
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
