import { describe, expect, it } from "vitest"
import * as Theory from "../../src/measures/Theory.ts"

const failed = (simulation: Theory.Simulation): ReadonlyArray<string> =>
  simulation.inequalities.filter(({ holds }) => !holds).map(({ name }) => name)

const last = (column: ReadonlyArray<number> | undefined): number => column!.at(-1)!

describe("the theory", () => {
  it("holds at every step, for any seed", () => {
    for (const seed of [0, 1]) {
      for (const simulation of Theory.theory({ seed })) {
        expect([simulation.name, failed(simulation)]).toEqual([simulation.name, []])
        expect(simulation.holds).toBe(true)
        const steps = simulation.trace.step!.length
        for (const column of Object.values(simulation.trace)) expect(column).toHaveLength(steps)
        // no inequality is one of nothing
        for (const { checked } of simulation.inequalities) expect(checked).toBeGreaterThan(0)
        expect(Math.max(...simulation.inequalities.map(({ checked }) => checked))).toBeGreaterThanOrEqual(steps)
      }
    }
  })

  it("fails, each result where its assumption is broken, and at a step that it names", () => {
    const broken = Theory.theory({ seed: 1, broken: true })
    expect(broken.map(({ name }) => name)).toEqual(["entanglement", "co-adaptation", "forgetting", "accumulation"])
    expect(broken.map(({ holds }) => holds)).toEqual([false, false, false, false])
    expect(failed(broken[0]!)).toEqual([
      "weights stay cheaper than the separable solution's",
      "of the memory, semantic directions have at least 0.49 of what its own has"
    ])
    expect(failed(broken[1]!)).toEqual(["the difference is at least its bound"])
    expect(failed(broken[2]!)).toEqual([
      "the logit has fallen by at least its bound",
      "every step takes at least its part"
    ])
    expect(failed(broken[3]!)).toContain("sink features have at least their bound")
    for (const { inequalities } of broken) {
      for (const { failedAt, holds, slack } of inequalities) {
        expect(failedAt === undefined).toBe(holds)
        if (!holds) expect(slack).toBeLessThan(0)
      }
    }
  })

  it("depends on the seed alone", () => {
    expect(Theory.accumulation({ seed: 4 })).toEqual(Theory.accumulation({ seed: 4 }))
    expect(Theory.accumulation({ seed: 4 }).trace).not.toEqual(Theory.accumulation({ seed: 5 }).trace)
  })
})

describe("entanglement", () => {
  it("ends at the cheapest solution: a third of the memory on semantics, or none where those are pinned", () => {
    const { trace } = Theory.entanglement()
    expect(last(trace.loss)).toBeLessThan(1e-20)
    // x = (semantics a, own noise): what is left of it off the other inputs is (a / 2, 1) over 1 + 1/2
    expect(last(trace.own)).toBeCloseTo(2 / 3, 3)
    expect(last(trace.semantic)).toBeCloseTo(1 / 3, 3)
    // two layers cost twice the singular values: sigma / sqrt 2 each, offset / sqrt(3/2)
    expect(last(trace.cost)).toBeCloseTo(2 * (0.4 / Math.SQRT2 + 1.5 / Math.sqrt(1.5)), 2)
    const separate = Theory.entanglement({ broken: true }).trace
    expect(last(separate.own)).toBeCloseTo(1, 6)
    expect(last(separate.semantic)).toBeLessThan(1e-6)
  })
})

describe("co-adaptation", () => {
  it("has a bound that peaks after about one over the learning rate, a difference that goes on", () => {
    const { constants, trace } = Theory.coAdaptation()
    const peak = trace.bound!.indexOf(Math.max(...trace.bound!)) + 1
    expect(Math.abs(peak - constants.boundPeaksAt!)).toBeLessThan(1)
    expect(Math.abs(peak - 1 / constants.learningRate!)).toBeLessThan(2)
    // inputs of one inner product c: memory * c * (1 - (1 - rate c)^N), in closed form
    const { learningRate, memory, similarity } = constants as Record<string, number>
    trace.step!.forEach((n, i) => {
      const exact = memory! * similarity! * (1 - (1 - learningRate! * similarity!) ** n)
      expect(trace.difference![i]! / exact).toBeGreaterThan(0.7)
      expect(trace.difference![i]! / exact).toBeLessThan(1.3)
    })
  })
})

describe("accumulation", () => {
  it("leaves the memory in the sinks: several times what shared features hold", () => {
    const { trace } = Theory.accumulation()
    expect(last(trace.sink) / last(trace.shared)).toBeGreaterThan(2)
    const broken = Theory.accumulation({ broken: true }).trace
    expect(last(broken.sink) / last(broken.shared)).toBeLessThan(1.3)
    expect(last(trace.exposures)).toBe(20)
  })
})
