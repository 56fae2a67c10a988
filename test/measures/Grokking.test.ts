import { describe, expect, it } from "vitest"
import * as Grokking from "../../src/measures/Grokking.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { random } from "../../src/Random.ts"
import { SinkConfig } from "../../src/Sink.ts"

const share = (all: ReadonlyArray<boolean>) => all.filter(Boolean).length / all.length

const trained = (options: Grokking.GrokkingOptions) => {
  const world = Grokking.makeWorld(options)
  const network = Grokking.makeNetwork(options)
  const losses = [...Grokking.training({ network, world }, options)]
  return { losses, network, world }
}

/** Waves over the residues that give the rule: sums of frequencies, in phases that cancel all but the sum's own wave. */
const ruled = (modulus: number, frequencies: ReadonlyArray<number>, phases: number): Grokking.Network => {
  const width = frequencies.length * phases
  const weights = new Float64Array(3 * modulus * width)
  frequencies.forEach((f, g) => {
    for (let h = 0; h < phases; h++) {
      const k = g * phases + h
      const phase = (2 * Math.PI * h) / phases
      for (let r = 0; r < modulus; r++) {
        const angle = (2 * Math.PI * f * r) / modulus
        weights[r * width + k] = Math.cos(angle + phase)
        weights[(modulus + r) * width + k] = Math.cos(angle + 2 * phase)
        weights[(2 * modulus + r) * width + k] = Math.cos(angle + 3 * phase)
      }
    }
  })
  return { modulus, general: { width, weights }, sinks: { width: 0, weights: new Float64Array(0) } }
}

describe("modular addition with corrupted answers", () => {
  it("splits all pairs, and draws the answers of as many as told", () => {
    const { test, train } = Grokking.makeWorld({ modulus: 11, trained: 0.6, corrupted: 0.25, seed: 3 })
    expect(train.length).toBe(73)
    expect(new Set([...train, ...test].map(({ m, n }) => `${m} ${n}`)).size).toBe(121)
    expect(train.filter(({ corrupted }) => corrupted).length).toBe(18)
    for (const { corrupted, label, m, n, sum } of [...train, ...test]) {
      expect(sum).toBe((m + n) % 11)
      if (!corrupted) expect(label).toBe(sum)
    }
  })

  it("has the gradients that finite differences have, of general neurons and of sinks", () => {
    const sinks = new SinkConfig({ pool: 12, active: 4, block: 2 })
    const options = { modulus: 5, trained: 0.8, corrupted: 0.3, general: 5, sinks, seed: 2 }
    const { train } = Grokking.makeWorld(options)
    const network = Grokking.makeNetwork(options)
    const lit = Grokking.litOf(sinks, train.length)
    const { differentiate } = Grokking.makePasses(network, train, lit)
    const room = () => ({
      general: new Float64Array(network.general.weights.length),
      sinks: new Float64Array(network.sinks.weights.length)
    })
    const gradients = room()
    differentiate(gradients)
    for (const part of ["general", "sinks"] as const) {
      const { weights } = network[part]
      for (let i = 0; i < weights.length; i++) {
        const at = (by: number) => {
          const kept = weights[i]!
          weights[i] = kept + by
          const loss = differentiate(room())
          weights[i] = kept
          return loss
        }
        expect(gradients[part][i]).toBeCloseTo((at(1e-5) - at(-1e-5)) / 2e-5, 8)
      }
    }
    // a sink that no pair lights has none
    const dark = Array.from({ length: 12 }, (_, k) => k).filter((k) =>
      lit.every((ranges) => !ranges.some((from, r) => r % 2 === 0 && from <= k && k < ranges[r + 1]!))
    )
    for (const k of dark) expect(gradients.sinks[k]).toBe(0)
  })

  it("tells waves, which have the rule, from flat spectra, which have none", () => {
    const waves = ruled(13, [1, 2, 3, 5], 8)
    for (const one of Grokking.participations(waves.general, 13)) expect(one).toBeCloseTo(1, 10)
    const { train } = Grokking.makeWorld({ modulus: 13, trained: 1 })
    expect(share(Grokking.correct(waves, train))).toBe(1)
    // one residue alone has all frequencies alike
    const spike: Grokking.Neurons = {
      width: 1,
      weights: Float64Array.from({ length: 39 }, (_, i) => i % 13 === 4 ? 1 : 0)
    }
    expect(Grokking.participations(spike, 13)[0]).toBeCloseTo(1 / 7, 10)
    // what is dropped says nothing
    const none = { ...waves, general: Grokking.without(waves.general, [...Array(32).keys()]) }
    expect(share(Grokking.correct(none, train))).toBeLessThan(0.2)
    expect(Grokking.without(waves.general, []).weights).toEqual(waves.general.weights)
  })

  it("finds the rule where labels are right, and none where they are noise", () => {
    const clean = trained({ modulus: 17, trained: 0.85, general: 48, steps: 120, seed: 1 })
    expect(clean.losses.at(-1)!).toBeLessThan(clean.losses[0]! / 10)
    expect(share(Grokking.correct(clean.network, clean.world.train))).toBe(1)
    expect(share(Grokking.correct(clean.network, clean.world.test))).toBeGreaterThan(0.6)
    const noise = trained({ modulus: 17, trained: 0.85, corrupted: 1, general: 48, steps: 120, seed: 1 })
    expect(share(Grokking.correct(noise.network, noise.world.test))).toBeLessThan(0.3)
    expect(mean(Grokking.participations(clean.network.general, 17)))
      .toBeGreaterThan(mean(Grokking.participations(noise.network.general, 17)))
  })

  it("lights the sinks of a pair alone, which may hold what general neurons do not", () => {
    const sinks = new SinkConfig({ pool: 240, active: 2, block: 2 })
    const options = { modulus: 11, trained: 0.6, corrupted: 1, general: 2, sinks, steps: 150, seed: 1 }
    const { network, world } = trained(options)
    const lit = Grokking.litOf(sinks, world.train.length)
    expect(share(Grokking.correct(network, world.train, { lit }))).toBeGreaterThan(0.8)
    expect(share(Grokking.correct(network, world.train))).toBeLessThan(0.4)
    // those of others are of no use
    const shuffled = random(1).shuffle([...lit])
    expect(share(Grokking.correct(network, world.train, { lit: shuffled }))).toBeLessThan(0.4)
  })
})
