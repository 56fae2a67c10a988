/** How often intervals hold what they are of: by simulation, with seeds that differ and sequences that do. */
import { bootstrap, type Interval, mean, meanOverSeeds, shareOverSeeds, tQuantile,
  variance } from "../../src/measures/Statistics.ts"
import { random } from "../../src/Random.ts"

const draws = (seed: number) => {
  const { uniform } = random(seed, "coverage")
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
  /** Marsaglia and Tsang. */
  const gamma = (shape: number): number => {
    if (shape < 1) return gamma(shape + 1) * (1 - uniform()) ** (1 / shape)
    const d = shape - 1 / 3
    for (;;) {
      const x = normal()
      const v = (1 + x / Math.sqrt(9 * d)) ** 3
      if (v > 0 && Math.log(1 - uniform()) < x * x / 2 + d - d * v + d * Math.log(v)) return d * v
    }
  }
  const beta = (a: number, b: number) => {
    const [x, y] = [gamma(a), gamma(b)]
    return x / (x + y)
  }
  return { uniform, normal, beta }
}

const held = (times: number, one: () => readonly [truth: number, interval: Interval]): number => {
  let covered = 0
  for (let i = 0; i < times; i++) {
    const [truth, { high, low }] = one()
    if (low <= truth && truth <= high) covered++
  }
  return covered / times
}

/**
 * Of shares whose mean is drawn between `from` and `to`: those of the seeds vary around it with a correlation within
 * seeds, and each is seen in so many sequences.
 */
export const ofShares = (
  times: number,
  { correlation, from, seeds, sequences, to }: {
    readonly from: number
    readonly to: number
    readonly correlation: number
    readonly seeds: number
    readonly sequences: number
  }
): number => {
  const { beta, uniform } = draws(seeds * 1000 + sequences)
  return held(times, () => {
    const truth = from + (to - from) * uniform()
    const strength = 1 / correlation - 1
    const shares = Array.from({ length: seeds }, () => {
      const own = correlation === 0 ? truth : beta(truth * strength, (1 - truth) * strength)
      let yes = 0
      for (let i = 0; i < sequences; i++) if (uniform() < own) yes++
      return yes / sequences
    })
    return [truth, shareOverSeeds(shares, shares.map(() => sequences))]
  })
}

/** Losses of sequences, skewed to the right, around those of seeds; `bySeed` is their standard deviation, as a share. */
export const ofLosses = (
  times: number,
  { bySeed, loss, method, seeds, sequences }: {
    readonly loss: number
    readonly bySeed: number
    readonly seeds: number
    readonly sequences: number
    /** Default: what reports have. `percentile`: the bootstrap over seeds and their sequences, for comparison. */
    readonly method?: "percentile"
  }
): number => {
  const { normal } = draws(seeds * 1000 + sequences)
  return held(times, () => {
    const all = Array.from({ length: seeds }, () => {
      const own = loss * Math.exp(bySeed * normal() - bySeed ** 2 / 2)
      return Array.from({ length: sequences }, () => own * Math.exp(0.4 * normal() - 0.08))
    })
    const means = all.map((one) => mean(one))
    if (method === "percentile") return [loss, bootstrap(means, { resamples: 200 })]
    if (seeds > 1) return [loss, meanOverSeeds(means, { least: 0 })]
    const errors = all.map((one) => Math.sqrt(variance(one) / sequences))
    return [loss, meanOverSeeds(means, { errors, least: 0 })]
  })
}

/**
 * What an arm costs beside another: losses of seeds that all arms have in common, and of each arm at each seed, where those of
 * the arm that is asked about vary `noise` times as much. `paired`: Student's interval of the differences at each seed, which
 * reports have. `pooled`: the variance of all arms together, as in an analysis of variance, for comparison.
 */
export const ofCosts = (
  times: number,
  { arms, method, noise, seeds }: {
    readonly arms: number
    readonly noise: number
    readonly seeds: number
    readonly method: "paired" | "pooled"
  }
): number => {
  const { normal } = draws(seeds * 1000 + arms)
  return held(times, () => {
    const shared = Array.from({ length: seeds }, normal)
    const losses = Array.from({ length: arms }, (_, a) => shared.map((seed) => seed + (a === 0 ? noise : 1) * normal()))
    const costs = losses[0]!.map((loss, s) => loss - losses[1]![s]!)
    if (method === "paired") return [0, meanOverSeeds(costs)]
    const bySeed = shared.map((_, s) => mean(losses.map((of) => of[s]!)))
    const all = mean(bySeed)
    const squares = losses.flatMap((of) => of.map((loss, s) => (loss - mean(of) - bySeed[s]! + all) ** 2))
    const freedom = (arms - 1) * (seeds - 1)
    const sum = squares.reduce((a, b) => a + b, 0)
    const half = tQuantile(0.975, freedom) * Math.sqrt((2 * sum) / freedom / seeds)
    const value = mean(costs)
    return [0, { value, low: value - half, high: value + half }]
  })
}
