/** All cases, and every kernel of every family once: what tests run, and test/bench/cases.ts where no test runner is. */
import * as Effect from "effect/Effect"
import type { DeviceService } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import { families, type Family, type Target } from "../../src/gpu/Target.ts"
import { makeRandom } from "../reference/random.ts"
import * as Attention from "./attention.ts"
import * as Cached from "./attention_cached.ts"
import type { Case } from "./case.ts"
import * as CrossEntropy from "./cross_entropy.ts"
import * as Embedding from "./embedding.ts"
import * as Heads from "./heads.ts"
import * as Matmul from "./matmul.ts"
import * as Matvec from "./matvec.ts"
import * as Nearest from "./nearest.ts"
import * as NeuronGate from "./neuron_gate.ts"
import * as Norm from "./norm.ts"
import * as OptimizerCases from "./optimizer.ts"
import * as Rope from "./rope.ts"
import { f16Tensors, halved, record, runCase } from "./run.ts"
import * as Sinks from "./sinks.ts"
import * as Swiglu from "./swiglu.ts"
import * as TokenRecord from "./token_record.ts"

export const cases: ReadonlyArray<Case> = [
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
  ...Nearest.cases,
  ...OptimizerCases.cases
]

/** A family's target, whatever runs it: matrix units are those of subgroups of 32. */
export const targetOf = (family: Family): Target =>
  family === "tensor" ? { family, subgroupSize: 32, workgroupBytes: 32768 } : { family, subgroupSize: 4 }

/** A case with the kernels of a family, some of its tensors in f16. */
export interface Run {
  readonly c: Case
  readonly family: Family
  /** Names of tensors; none: all is f32. */
  readonly f16: ReadonlySet<string>
}

export const nameOf = ({ c, f16, family }: Run): string =>
  [c.name, ...(f16.size === 0 ? [] : ["f16"]), ...(family === "plain" ? [] : [family])].join(", ")

/** Every family's kernels, each once: most cases have the same in all families, and are then the first one's. */
export const runsOf = (
  order: ReadonlyArray<Family> = families,
  of: ReadonlyArray<Case> = cases
): ReadonlyArray<Run> =>
  of.flatMap((c) => {
    const seen = new Set<string>()
    return order.flatMap((family) => {
      if (c.only !== undefined && c.only !== family) return []
      const target = targetOf(family)
      const f16 = f16Tensors(c, c.build(makeRandom(1)), target)
      return [...(c.only === undefined ? [new Set<string>()] : []), f16].flatMap((half) => {
        const { program } = record(c, c.build(makeRandom(1), target), half, target)
        const keys = program.dispatches.map((d) => Kernel.key(d.kernel)).join()
        if (seen.has(keys)) return []
        seen.add(keys)
        return [{ c, family, f16: half }]
      })
    })
  })

/** Whether an adapter has what a family's kernels need. The null backend compiles all of them (null.test.ts). */
export const runsOn = (dev: DeviceService, family: Family): boolean =>
  family === "plain" || family === "gpu" ||
  (family === "software" ? dev.target.subgroupSize > 0 : dev.target.matrices === true)

/** Why a device does not run it; undefined where it does. */
export const whySkipped = (dev: DeviceService, { c, f16, family }: Run): string | undefined => {
  if (!runsOn(dev, family)) return `the adapter runs no ${family} kernels`
  if (f16.size === 0) return undefined
  // what an adapter without f16 cannot run, the null backend still compiles (null.test.ts)
  if (!dev.features.has("shader-f16")) return "the adapter has no shader-f16"
  // compiling takes long on some adapters: in f16 they run the kernels that they would train with, and a GPU's
  const keysOf = (of: Target) =>
    record(c, c.build(makeRandom(1), of), f16, of).program.dispatches.map((d) => Kernel.key(d.kernel)).join()
  return family === "plain" && keysOf({ ...dev.target, family }) !== keysOf(dev.target)
    ? "in f16 the adapter trains with kernels of another family"
    : undefined
}

/** Runs it on numbers that the seed draws; a case's own do not depend on which others run. Dies where it goes wrong. */
export const runOn = (dev: DeviceService, { c, f16, family }: Run, seed: number) =>
  Effect.suspend(() => {
    const target = { ...dev.target, family }
    const own = [...c.name].reduce((hash, letter) => Math.imul(hash, 31) + letter.charCodeAt(0) | 0, seed)
    const random = makeRandom(own, f16.size > 0)
    const built = f16.size === 0 ? c.build(random, target) : halved(c.build(random, target), f16)
    return runCase(dev, c, built, f16, target)
  })
