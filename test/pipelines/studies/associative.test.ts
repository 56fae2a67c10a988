/** The linear world of associative memories, against matrices that are written out. */
import { describe, expect, it } from "vitest"
import { isKnown } from "../../../pipelines/report/Estimate.ts"
import { associate, associative, AssociativeConfig, type AssociativeFound, directions, type Embeddings, embeddingsOf,
  errorSampled, errorStored, errorsWithSinks, frequenciesOf, ladder } from "../../../pipelines/studies/associative.ts"
import { ALL, resultsOf } from "../../../pipelines/study/Study.ts"
import { random } from "../../../src/Random.ts"
import { atOnce } from "../../../src/Turns.ts"

const p = frequenciesOf({ alpha: 2, frequencies: "zipf", inputs: 12 })

/** The error by a matrix that is written out, W = sum of q(x) u(f(x)) e(x)', or of several for each input. */
const bruteForce = (
  { inputs, outputs, size, targets }: Embeddings,
  stored: number,
  matricesOf: (x: number) => ReadonlyArray<(y: number) => number>
): number => {
  const e = (x: number) => inputs.slice(x * size, (x + 1) * size)
  const u = (y: number) => targets.slice(y * size, (y + 1) * size)
  let [wrong, known] = [0, 0]
  for (let x = 0; x < stored; x++) {
    const W = Array.from({ length: size }, () => new Float64Array(size))
    for (const weight of matricesOf(x)) {
      for (let z = 0; z < stored; z++) {
        const [to, from] = [u(z % outputs), e(z)]
        for (let a = 0; a < size; a++) for (let b = 0; b < size; b++) W[a]![b]! += weight(z) * to[a]! * from[b]!
      }
    }
    const scores = Array.from({ length: outputs }, (_, y) =>
      u(y).reduce((sum, one, a) => sum + one * e(x).reduce((row, two, b) => row + W[a]![b]! * two, 0), 0))
    known += p[x]!
    if (scores.indexOf(Math.max(...scores)) !== x % outputs) wrong += p[x]!
  }
  return wrong + (1 - known) * (1 - 1 / outputs)
}

describe("a memory", () => {
  it("has frequencies that fall by a power, and directions of length 1", () => {
    expect([p[0]! / p[1]!, p[0]! / p[2]!]).toEqual([expect.closeTo(4), expect.closeTo(9)])
    expect(p.reduce((sum, one) => sum + one, 0)).toBeCloseTo(1, 12)
    expect([...frequenciesOf({ alpha: 2, frequencies: "uniform", inputs: 4 })]).toEqual([0.25, 0.25, 0.25, 0.25])
    const rows = atOnce(directions(random(1), 3, 5))
    for (let i = 0; i < 3; i++) {
      expect(Math.hypot(...rows.subarray(5 * i, 5 * i + 5))).toBeCloseTo(1, 12)
    }
  })

  it("answers as the matrix that it stands for, with any weights", () => {
    for (let draw = 0; draw < 20; draw++) {
      const embeddings = atOnce(embeddingsOf(random(draw, "test"), 12, 3, 4))
      for (const weight of [() => 1, (x: number) => p[x]!]) {
        for (const stored of [1, 5, 12]) {
          expect(atOnce(errorStored(p, embeddings, stored, weight)))
            .toBeCloseTo(bruteForce(embeddings, stored, () => [weight]), 12)
        }
      }
    }
  })

  it("with sinks answers as the sum of its matrices, in every state", () => {
    const sinkOf = (x: number) => (x * 7) % 3
    const split = { counts: [2, 6, 12], shared: 4, sinks: 3, sinkOf }
    const found = Array.from({ length: 20 }, (_, draw) => {
      const embeddings = atOnce(embeddingsOf(random(draw, "test"), 12, 3, 4))
      const common = (z: number) => z < 4 ? 1 : 0
      const inSink = (sink: number) => (z: number) => z >= 4 && sinkOf(z) === sink ? 1 : 0
      const errors = atOnce(errorsWithSinks(p, embeddings, split, ["own", "off", "placebo", "both"]))
      for (const { both, off, own, placebo, stored } of errors) {
        const brute = (of: Parameters<typeof bruteForce>[2]) => bruteForce(embeddings, stored, of)
        expect(own).toBeCloseTo(brute((x) => [common, inSink(sinkOf(x))]), 12)
        expect(off).toBeCloseTo(brute(() => [common]), 12)
        expect(placebo).toBeCloseTo(brute((x) => [common, inSink((sinkOf(x) + 1) % 3)]), 12)
        expect(both).toBeCloseTo(brute((x) => [() => 1, (z) => sinkOf(z) === sinkOf(x) ? 1 : 0]), 12)
      }
      return errors.at(-1)!
    })
    expect(found.some(({ off, own }) => own < off)).toBe(true)
  })

  it("knows what was among its samples, as often as chance has it", () => {
    const [samples, draws] = [5, 4000]
    let sum = 0
    for (let i = 0; i < draws; i++) sum += errorSampled(p, 4, samples, random(i, "samples")) / draws
    const exact = 0.75 * p.reduce((error, one) => error + one * (1 - one) ** samples, 0)
    expect(Math.abs(sum - exact)).toBeLessThan(0.005)
  })

  it("is looked at with numbers that ascend to the last", () => {
    expect(ladder(1, 16, 2)).toEqual([1, 2, 4, 8, 16])
    expect(ladder(1, 7, Math.SQRT2)).toEqual([1, 2, 3, 4, 5, 7])
    expect(ladder(3, 40, 3)).toEqual([4, 13, 40])
    expect(ladder(1, 1, 2)).toEqual([1])
  })
})

const tiny = { dimensions: [8, 16, 32], samples: [10, 100, 1000], pools: [1, 2, 4], dimension: 8, draws: 4,
  inputs: 2000, tolerance: 0.3 } as const

const findingsOf = (fields: Partial<AssociativeConfig>, seeds = 3) => {
  const config = new AssociativeConfig({ ...tiny, seeds, ...fields })
  const all = Array.from({ length: seeds },
    (_, i) => ({ part: ALL, seed: 1 + i, found: atOnce(associate(config, 1 + i)) }))
  return associative.findings(resultsOf(all.map(({ seed }) => seed), all), config)
}

describe("the study", () => {
  it("finds slopes near the theory's where frequencies fall by a power, and none where all are alike", () => {
    const [zipf, uniform] = [findingsOf({}), findingsOf({ frequencies: "uniform" }, 2)]
    const mean = ({ numbers }: typeof zipf, name: string) => numbers[name]!.mean
    expect(mean(zipf, "slope in samples")).toBeCloseTo(-0.5, 1)
    expect(Math.abs(mean(zipf, "slope in d / log d, best number stored alike") + 1)).toBeLessThan(0.5)
    expect(Math.abs(mean(uniform, "slope in d / log d, best number stored alike"))).toBeLessThan(0.1)
    const exponents = uniform.claims.filter(({ claim }) => /falls as|falls with/.test(claim))
    expect(exponents.length).toBe(4)
    expect(exponents.map(({ result }) => result)).not.toContain("held")
    expect(zipf.claims.find(({ claim }) => claim.startsWith("A memory overflows"))!.result).toBe("held")
    expect(Object.values(zipf.numbers).every(isKnown)).toBe(true)
    expect(zipf.charts[0]!.lines.map(({ label }) => label)).toContain("d^-1")
  })

  it("decides by intervals alone: numbers of the theory hold, others do not, one seed decides nothing", () => {
    const config = new AssociativeConfig({ dimensions: [32, 128, 512], samples: [10, 100, 1000], pools: [1, 4, 16],
      seeds: 3 })
    const room = (n: number) => n / Math.log(n)
    /** Errors that are exactly powers, those in d of the given one. */
    const planted = (power: number, noise: number): AssociativeFound => ({
      dimensions: [32, 128, 512].map((d) => ({ d, stored: d / 4, best: (1 + noise) * room(d) ** power,
        frequency: d ** -0.25 })
      ),
      samples: [10, 100, 1000].map((samples) => ({ samples, error: samples ** -0.5 * (1 + noise) })),
      stored: [{ stored: 1, error: 0.4 }, { stored: 16, error: 0.1 + noise / 100 }, { stored: 256, error: 0.7 }],
      sinks: [{ stored: 1, own: 0.4, off: 0.4, placebo: 0.4, both: 0.4 }, { stored: 16, own: 0.02, off: 0.1,
        placebo: 0.2, both: 0.05 }, { stored: 256, own: 0.5, off: 0.1, placebo: 0.7, both: 0.7 }],
      pools: [1, 4, 16].map((sinks) => ({ sinks, stored: 8, best: room(64 * sinks) ** -1 }))
    })
    const results = (power: number, seeds: number) =>
      associative.findings(
        resultsOf([1, 2, 3].slice(0, seeds),
          [1, 2, 3].slice(0, seeds).map((seed) => ({ part: ALL, seed, found: planted(power, seed / 100) }))),
        config
      ).claims.map(({ result }) => result)
    expect(results(-1, 3)).toEqual(Array(9).fill("held"))
    expect(results(-0.5, 3)[0]).toBe("did not hold")
    expect(results(-1, 1)).toEqual(Array(9).fill("not decided"))
  })

  it("refuses sizes that tell no slope, and worlds that are too small, with what is needed", () => {
    const problem = (fields: Partial<AssociativeConfig>) =>
      associative.problem!(new AssociativeConfig({ ...tiny, ...fields }))
    expect(problem({})).toBe(undefined)
    expect(problem({ dimensions: [8, 16] })).toBe("dimensions must be 3 numbers at least for a slope, got 2")
    expect(problem({ samples: [10, 10, 20] })).toBe("samples must ascend, got 10, 10, 20")
    expect(problem({ dimensions: [1, 8, 16] })).toBe("dimensions must begin with 4 at least, got 1")
    expect(problem({ inputs: 100 })).toMatch(/^inputs must be 128 at least, .* got 100: the memory would not overflow$/)
  })
})
