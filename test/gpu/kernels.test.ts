/**
 * Every kernel on the adapter, against the float64 reference. The cases are data (test/kernels/); each run draws new
 * numbers. A failure prints the seed: MEMSINKS_TEST_SEED=<seed> draws the same ones again.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import process from "node:process"
import { describe, expect, it } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import { families, SOFTWARE_SUBGROUPS, type Target } from "../../src/gpu/Target.ts"
import * as NodeDevice from "../../src/node.ts"
import { allKernels } from "../kernels/all.ts"
import type { Expected } from "../kernels/case.ts"
import { f16Tensors, record } from "../kernels/run.ts"
import { cases, nameOf as runName, runOn, runsOf, runsOn, targetOf, whySkipped } from "../kernels/runs.ts"
import { makeRandom } from "../reference/random.ts"

const device = NodeDevice.layer()

const seed = Number(process.env["MEMSINKS_TEST_SEED"] ?? Date.now() % 2 ** 31)

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

  for (const run of runsOf()) {
    it.scoped(runName(run), (context) =>
      Effect.gen(function*() {
        const dev = yield* Device
        const skipped = whySkipped(dev, run)
        if (skipped !== undefined) return context.skip(skipped)
        yield* runOn(dev, run, seed)
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
    targets.filter(({ family }) => c.only === undefined || c.only === family).flatMap((target) => {
      const built = c.build(makeRandom(1), target)
      const f16 = f16Tensors(c, built, target)
      return (c.only === undefined ? [new Set<string>(), f16] : [f16]).map((f16) => ({
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
        d.kernel.bindings.flatMap(([, access], i) =>
          access === "write" && d.tensors[i]!.kind === "state" ? [d.tensors[i]!.name] : []
        )
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
