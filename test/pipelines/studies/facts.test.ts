/** The study of facts: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { facts, FactsConfig, type FactsFound, type Looked, stopOf,
  type Unlearned } from "../../../pipelines/studies/facts.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const draw = random(1, "noise")
/** What is known, with a little noise. */
const looked = (unique: number, shared: number, inferred: number, kept: number): Looked => {
  const known = (logRatio: number) => ({
    facts: 64,
    logRatio: logRatio + 0.02 * (draw.uniform() - 0.5),
    error: 0.05,
    accuracy: logRatio > 1 ? 0.95 : 0.25,
    accuracyError: 0.02
  })
  return { unique: known(unique), shared: known(shared), inferred: known(inferred), kept: known(kept), heldOut: 2 }
}
const config = new FactsConfig({})

interface Planted {
  readonly off: Looked
  readonly ascent: Looked
}

/** A seed in which own sinks know all, and retraining all but unique facts. */
const seedOf = ({ ascent, off }: Planted): Readonly<Record<string, FactsFound>> => {
  const known = looked(5, 6, 4, 5)
  const retrained = looked(0, 6, 4, 5)
  return {
    standard: {
      states: { own: known },
      unlearned: [
        { method: "gradientAscent", learningRate: 3e-4, step: 1, looked: looked(3, 5, 4, 5) },
        { method: "gradientAscent", learningRate: 3e-4, step: 2, looked: ascent },
        { method: "npo", learningRate: 3e-4, step: 1, looked: ascent }
      ]
    },
    retrained: { states: { own: retrained } },
    sinks: { states: { own: known, off, nearest: off, placebo: off } },
    sinksRetrained: { states: { off: retrained, nearest: retrained } }
  }
}
const decide = (planted: () => Planted) => {
  const found = [1, 2, 3].flatMap((seed) =>
    Object.entries(seedOf(planted())).map(([part, found]) => ({ part, seed, found }))
  )
  return facts.findings(resultsOf([1, 2, 3], found), config).claims
}
const results = (claims: ReturnType<typeof decide>, pattern: RegExp) =>
  claims.filter(({ claim }) => pattern.test(claim)).map(({ result }) => result)

describe("the claims of natively unlearnable models", () => {
  it("hold where they are planted", () => {
    const claims = decide(() => ({ off: looked(0, 6, 4, 5), ascent: looked(-0.1, 1, 0, 2) }))
    expect(claims.map(({ result }) => result)).toEqual(claims.map(() => "held"))
  })

  it("do not hold where sinks off keep unique facts, lose shared ones, and ascent loses none", () => {
    const claims = decide(() => ({ off: looked(5, 1, 4, 5), ascent: looked(-0.1, 6, 4, 5) }))
    expect(results(claims, /nearest .* unique to a deleted source are known as/)).toEqual(["did not hold"])
    expect(results(claims, /nearest .* shared with survivors are known as/)).toEqual(["did not hold"])
    expect(results(claims, /nearest .* inferable by rule are known as/)).toEqual(["held"])
    expect(results(claims, /are lost, too/)).toEqual(["did not hold", "did not hold"])
    expect(results(claims, /shared facts are not lost/)).toEqual(["did not hold"])
  })

  it("are not tested where a part failed", () => {
    const found = [{ part: "standard", seed: 1, found: { states: { own: looked(5, 6, 4, 5) } } }]
    const { claims } = facts.findings(resultsOf([1], found), config)
    expect(results(claims, /nearest/)).toEqual(["not tested", "not tested", "not tested", "not tested", "not tested"])
  })
})

it("unlearning stops where unique facts are first as unknown as after retraining, at the rate that keeps most", () => {
  const at = (learningRate: number, step: number, unique: number, kept: number): Unlearned => ({
    method: "npo",
    learningRate,
    step,
    looked: { ...looked(0, 0, 0, 0), unique: { ...looked(0, 0, 0, 0).unique, logRatio: unique },
      kept: { ...looked(0, 0, 0, 0).kept, logRatio: kept } }
  })
  const points = [at(1, 1, 3, 5), at(1, 2, 0.1, 4), at(1, 4, -3, 0), at(2, 1, 0.2, 4.5), at(2, 2, -5, 6)]
  expect(stopOf(points, 0.5)).toBe(points[3])
  expect(stopOf(points, 0.1)).toBe(points[4])
  // none gets there: what forgets most
  expect(stopOf(points, -9)).toBe(points[4])
  expect(stopOf([], 0)).toBe(undefined)
})

it("what cannot be asked is told before any training, with what is needed", () => {
  const problem = (overrides: object) => facts.problem!(new FactsConfig({ ...overrides }))
  expect(problem({})).toBe(undefined)
  const world = { professors: 32, sources: 8, unique: 8, shared: 4, sharedBy: 4, groups: 4, heldOut: 4 }
  expect(problem({ world: { ...world, professors: 8 } })).toContain("raise professors to 16")
  expect(problem({ world: { ...world, sources: 4, sharedBy: 2, unique: 4 } })).toContain(
    "no source is left that writes as"
  )
  expect(problem({ deleted: 8 })).toContain("deleted must be less than world.sources, 8")
  expect(problem({ world: { ...world, professors: 16 }, deleted: 1, seeds: 20 })).toContain(
    "too small for what is asked"
  )
  expect(problem({ unlearningSteps: [2, 2] })).toContain("must rise")
})

it("a toy run gives every number, and controls that cannot hold do not", async () => {
  const toy = new FactsConfig({
    seeds: 1,
    steps: 2,
    asked: 4,
    unlearningRates: [1e-3],
    unlearningSteps: [1],
    world: { professors: 16, sources: 8, unique: 4, shared: 4, sharedBy: 4, groups: 4, heldOut: 1 },
    model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 16 + 128,
      sinks: { pool: 128, active: 16 } }
  })
  const report = await Effect.runPromise(
    run(facts, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  )
  expect(report.failures).toEqual([])
  expect(Object.keys(report.numbers).length).toBe(10 * 4 * 2)
  expect(Object.values(report.numbers).every(({ mean }) => Number.isFinite(mean))).toBe(true)
  expect(report.claims.find(({ claim }) => claim.startsWith("A standard model knows"))!.result).not.toBe("held")
}, 60_000)
