/** The study of the long tail at a size that takes no time, against brute force. */
import { describe, expect, it } from "vitest"
import { longTail, LongTailConfig, lossAndGradients, makeWorld, tail,
  trainOn } from "../../../pipelines/studies/longTail.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { counterfactuals } from "../../../src/measures/Membership.ts"
import { mean } from "../../../src/measures/Statistics.ts"
import { random } from "../../../src/Random.ts"
import { SinkConfig } from "../../../src/Sink.ts"
import { atOnce } from "../../../src/Turns.ts"

const sinks = new SinkConfig({ pool: 64, active: 4, block: 1 })
const small = { kinds: 20, examples: 60, labels: 4, dimensions: 8, general: 24, steps: 80, models: 8, tests: 3, sinks }

describe("memorization scores by subsampled models", () => {
  const { test: _, train } = makeWorld(new LongTailConfig({ kinds: 5, examples: 8, labels: 3, dimensions: 4 }), 3)
  /** The label of the nearest example, which needs no training and no luck. */
  const nearest = (among: ReadonlyArray<number>, i: number): number => {
    const distance = (j: number) => train[j]!.x.reduce((sum, x, d) => sum + (x - train[i]!.x[d]!) ** 2, 0)
    const best = among.reduce((a, b) => distance(b) < distance(a) ? b : a)
    return train[best]!.label === train[i]!.label ? 1 : 0
  }
  const halvesOf = (of: ReadonlyArray<number>, size: number): ReadonlyArray<ReadonlyArray<number>> =>
    size === 0 ? [[]] : of.flatMap((x, at) => halvesOf(of.slice(at + 1), size - 1).map((rest) => [x, ...rest]))

  it("are what leaving each example out of every half shows", () => {
    const all = train.map((_, i) => i)
    const halves = halvesOf(all, 4)
    expect(halves.length).toBe(70)
    const exact = all.map((i) => {
      const of = (side: boolean) => halves.filter((half) => half.includes(i) === side).map((half) => nearest(half, i))
      return mean(of(true)) - mean(of(false))
    })
    const draw = random(5, "halves")
    const drawn = Array.from({ length: 400 }, () => [...draw.shuffle([...all]).slice(0, 4)])
    const scores = counterfactuals(drawn.map((half) => all.map((i) => nearest(half, i))),
      drawn.map((half) => all.map((i) => half.includes(i))))
    const off = scores.filter(({ error, value }, i) => Math.abs(value - exact[i]!) > 2 * error + 1e-12)
    expect(off.length).toBeLessThanOrEqual(1)
    for (const [i, one] of scores.entries()) expect(Math.abs(one.value - exact[i]!)).toBeLessThan(4 * one.error + 1e-12)
    // the only one of its kind is right alone by itself
    expect(Math.max(...exact)).toBeGreaterThan(0.5)
  })

  it("have no value where no model left an item out, and no error of one model", () => {
    const [a, b] = counterfactuals([[1, 1], [0, 1]], [[true, true], [false, true]])
    expect(a!.value).toBe(1)
    expect(a!.error).toBeNaN()
    expect(b!.value).toBeNaN()
  })
})

describe("the study of the long tail", () => {
  it("has the gradients that finite differences have", () => {
    const config = new LongTailConfig({ ...small, examples: 8, general: 4 })
    const { train } = makeWorld(config, 1)
    const network = atOnce(trainOn(train, new LongTailConfig({ ...config, steps: 2 }), { seed: 1, sinks: false }))
    const zero = () => ({ hidden: new Float64Array(network.hidden.length),
      output: new Float64Array(network.output.length) })
    const lit = () => Uint32Array.of(0, 1, 3)
    const gradients = zero()
    lossAndGradients(network, train, lit, 4, gradients)
    for (const part of ["hidden", "output"] as const) {
      for (let i = 0; i < network[part].length; i++) {
        const at = (by: number) => {
          const kept = network[part][i]!
          network[part][i] = kept + by
          const loss = lossAndGradients(network, train, lit, 4, zero())
          network[part][i] = kept
          return loss
        }
        expect(gradients[part][i]).toBeCloseTo((at(1e-6) - at(-1e-6)) / 2e-6, 6)
      }
    }
  })

  it("finds memory where only the kind tells the label, and less where a rule does", () => {
    const many = { ...small, kinds: 60, power: 0, labels: 2 }
    const planted = atOnce(tail(new LongTailConfig({ ...many }), 1))
    const absent = atOnce(tail(new LongTailConfig({ ...many, ruled: 1 }), 1))
    expect(planted.standard.score).toBeGreaterThan(0.25)
    expect(absent.standard.score).toBeLessThan(planted.standard.score - 0.1)
    expect(planted.standard.lira).toBeGreaterThan(0.6)
  })

  it("decides by its seeds", () => {
    const config = new LongTailConfig({ ...small, seeds: 2 })
    const found = [1, 2].map((seed) => ({ part: "all", seed, found: atOnce(tail(config, seed)) }))
    const { charts, claims, tables } = longTail.findings(resultsOf([1, 2], found), config)
    expect(claims.every(({ evidence }) => evidence.length > 0)).toBe(true)
    expect(charts[0]!.lines.length).toBe(3)
    expect(tables[0]!.rows.length).toBe(11)
  })

  it("says what it needs", () => {
    const problem = (more: object) => longTail.problem!(new LongTailConfig(more))
    expect(problem({})).toBeUndefined()
    expect(problem({ examples: 4 })).toContain("8 at least")
    expect(problem({ left: 0 })).toContain("one example at least")
    expect(problem({ left: 1 })).toContain("to be trained on")
    expect(problem({ ruled: 0.5, labels: 20 })).toContain("at most dimensions")
    expect(problem({ sinks: new SinkConfig({ pool: 10, active: 4, block: 4 }) })).toContain("multiple")
  })
})
