/**
 * Scaling laws for associative memories (Cabannes, Dohmatob and Bietti 2024): pairs of an input and an output, whose frequencies
 * fall by a power, are summed into one matrix of outer products of random embeddings. How the error falls with the size of
 * the embeddings and with the samples seen has exact exponents; beside the one matrix, sinks: a matrix that all inputs share
 * and a pool of others, of which each input has one by a hash. Float64, on the host.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, fraction, natural, positive, withDefault } from "../../src/Config.ts"
import { linearFit } from "../../src/measures/Statistics.ts"
import { normal, type Random, random } from "../../src/Random.ts"
import { inTurns } from "../../src/Turns.ts"
import type { Chart, Line } from "../report/Chart.ts"
import { is, isWithin, list } from "../report/Claim.ts"
import { digits, type Estimate, intervalOf, isKnown, plusMinus, written } from "../report/Estimate.ts"
import { NOTHING, short, type Table } from "../report/View.ts"
import { ALL, type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"

const sizes = Schema.NonEmptyArray(positive)

export class AssociativeConfig extends configuration(Schema.Class<AssociativeConfig>("AssociativeConfig")({
  ...seedsOfStudy,
  /** How frequent inputs are: `zipf`, x to the power of -alpha; `uniform`, all alike, where the laws do not hold. Default zipf. */
  frequencies: withDefault(Schema.Literal("zipf", "uniform"), () => "zipf" as const),
  /** The power by which frequencies fall, and by which the theory's exponents go. Default 2. */
  alpha: withDefault(Schema.Number.pipe(Schema.greaterThan(1), Schema.lessThanOrEqualTo(4)), 2),
  /** Inputs that there are. Default 100,000. */
  inputs: withDefault(positive, 100_000),
  /** Outputs: of input x, x modulo this. Default 5. */
  outputs: withDefault(Schema.Int.pipe(Schema.between(2, 1000)), 5),
  /** Sizes of the embeddings, ascending. Default 32 to 1,024. */
  dimensions: withDefault(sizes, () => [32, 64, 128, 256, 512, 1024] as const),
  /** Numbers of samples, ascending, with embeddings that do not interfere. Default 100 to 100,000. */
  samples: withDefault(sizes, () => [100, 316, 1000, 3162, 10_000, 31_623, 100_000] as const),
  /** Size of the embeddings where the number of stored inputs, and the pool of sinks, vary. Default 64. */
  dimension: withDefault(positive, 64),
  /** Numbers of sinks in the pool, ascending, the last of which is drawn. Default 1 to 16. */
  pools: withDefault(sizes, () => [1, 2, 4, 8, 16] as const),
  /** Inputs in the matrix that all share, the most frequent ones, where sinks hold the others. Default 4. */
  shared: withDefault(natural, 4),
  /** Draws of the largest embeddings that the error of a seed is the mean of; of smaller ones there are more. Default 32. */
  draws: withDefault(positive, 32),
  /** How far from the exponent of the theory the interval of a slope may reach, as a share of it. Default 0.1. */
  tolerance: withDefault(fraction, 0.1)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// The world

/** Probabilities of the inputs, the most frequent first; they sum to 1. */
export const frequenciesOf = (
  { alpha, frequencies, inputs }: Pick<AssociativeConfig, "alpha" | "frequencies" | "inputs">
): Float64Array => {
  const p = Float64Array.from({ length: inputs }, (_, i) => frequencies === "uniform" ? 1 : (i + 1) ** -alpha)
  let sum = 0
  // the smallest first, for their digits
  for (let i = inputs - 1; i >= 0; i--) sum += p[i]!
  return p.map((one) => one / sum)
}

/** Inputs after which the event loop may have its turn: of the largest embeddings about a millisecond. */
const OFTEN = 16

/** So many random directions: rows of length 1. */
export function* directions(draw: Random, count: number, size: number): Generator<void, Float64Array, void> {
  const all = new Float64Array(count * size)
  for (let i = 0; i < count; i++) {
    let length = 0
    for (let j = 0; j < size; j++) length += (all[i * size + j] = normal(draw)) ** 2
    for (let j = 0; j < size; j++) all[i * size + j]! /= Math.sqrt(length)
    if (i % OFTEN === 0) yield
  }
  return all
}

/** Embeddings of inputs, [stored, size], and of outputs, [outputs, size]. */
export interface Embeddings {
  readonly size: number
  readonly outputs: number
  readonly inputs: Float64Array
  readonly targets: Float64Array
}

export function* embeddingsOf(
  draw: Random,
  stored: number,
  outputs: number,
  size: number
): Generator<void, Embeddings, void> {
  const inputs = yield* directions(draw, stored, size)
  return { size, outputs, inputs, targets: yield* directions(draw, outputs, size) }
}

/** Products of the embeddings of the outputs, [outputs, outputs]. */
const products = ({ outputs, size, targets }: Embeddings): Float64Array => {
  const all = new Float64Array(outputs * outputs)
  for (let a = 0; a < outputs; a++) {
    for (let b = 0; b < outputs; b++) {
      for (let j = 0; j < size; j++) all[a * outputs + b]! += targets[a * size + j]! * targets[b * size + j]!
    }
  }
  return all
}

/**
 * A matrix of outer products, W = sum over x of q(x) u(f(x)) e(x)', kept as what it is a product of: for each output the sum
 * of the embeddings of its inputs, [outputs, size].
 */
type Memory = Float64Array

const write = (memory: Memory, { inputs, outputs, size }: Embeddings, x: number, weight: number): void => {
  const at = (x % outputs) * size
  for (let j = 0; j < size; j++) memory[at + j]! += weight * inputs[x * size + j]!
}

/** What an input says to each output, u(y)' W e(x), of the sum of some matrices: the output it says most to. */
const makeReader = (embeddings: Embeddings) => {
  const { inputs, outputs, size } = embeddings
  const between = products(embeddings)
  const sums = new Float64Array(outputs)
  return (x: number, ...memories: ReadonlyArray<Memory>): number => {
    sums.fill(0)
    for (const memory of memories) {
      for (let m = 0; m < outputs; m++) {
        let sum = 0
        for (let j = 0; j < size; j++) sum += memory[m * size + j]! * inputs[x * size + j]!
        sums[m]! += sum
      }
    }
    let [best, most] = [0, -Infinity]
    for (let y = 0; y < outputs; y++) {
      let score = 0
      for (let m = 0; m < outputs; m++) score += between[y * outputs + m]! * sums[m]!
      if (score > most) [best, most] = [y, score]
    }
    return best
  }
}

/** What an input that says nothing is guessed wrongly with. */
const guessed = (outputs: number): number => 1 - 1 / outputs

/** The error: wrong among the first `stored` inputs, and all others guessed, as inputs that are not stored are on average. */
function* errorOf(
  p: Float64Array,
  outputs: number,
  stored: number,
  isRight: (x: number) => boolean
): Generator<void, number, void> {
  let [wrong, known] = [0, 0]
  for (let x = 0; x < stored; x++) {
    known += p[x]!
    if (!isRight(x)) wrong += p[x]!
    if (x % OFTEN === 0) yield
  }
  return wrong + Math.max(0, 1 - known) * guessed(outputs)
}

/** The error with the first inputs stored, each with the weight that it is given. */
export function* errorStored(
  p: Float64Array,
  embeddings: Embeddings,
  stored: number,
  weight: (x: number) => number
): Generator<void, number, void> {
  const { outputs, size } = embeddings
  const memory = new Float64Array(outputs * size)
  for (let x = 0; x < stored; x++) write(memory, embeddings, x, weight(x))
  const read = makeReader(embeddings)
  return yield* errorOf(p, outputs, stored, (x) => read(x, memory) === x % outputs)
}

/** Numbers in about equal ratios of `step`, ascending, the last of which is `most`. */
export const ladder = (least: number, most: number, step: number): ReadonlyArray<number> => {
  const all: Array<number> = []
  for (let n = most; n >= least; n = Math.min(n - 1, Math.round(n / step))) all.unshift(n)
  return all
}

export interface StoredError {
  readonly stored: number
  readonly error: number
}

/** The errors with more and more inputs stored, most frequent first, each with weight 1. */
function* errorsByStored(p: Float64Array, embeddings: Embeddings, counts: ReadonlyArray<number>) {
  const { outputs, size } = embeddings
  const memory = new Float64Array(outputs * size)
  const read = makeReader(embeddings)
  const errors: Array<StoredError> = []
  let written = 0
  for (const stored of counts) {
    while (written < stored) write(memory, embeddings, written++, 1)
    errors.push({ stored, error: yield* errorOf(p, outputs, stored, (x) => read(x, memory) === x % outputs) })
    yield
  }
  return errors
}

/** The errors of a memory with sinks. */
export interface SinkErrors {
  readonly stored: number
  /** With the input's own sink on; with none; with another input's. */
  readonly own: number
  readonly off: number
  readonly placebo: number
  /** Own sinks on, where all that is stored stands in the shared matrix, too. */
  readonly both: number
}

type SinkState = Exclude<keyof SinkErrors, "stored">

/** How inputs are stored: the first so many in the matrix that all share, each other one in its sink. */
interface Split {
  readonly counts: ReadonlyArray<number>
  readonly shared: number
  readonly sinks: number
  readonly sinkOf: (x: number) => number
}

/**
 * The errors of a memory with a pool of sinks, with more and more inputs stored.
 *
 * @param states which are wanted; others are NaN
 */
export function* errorsWithSinks(
  p: Float64Array,
  embeddings: Embeddings,
  { counts, shared, sinkOf, sinks }: Split,
  states: ReadonlyArray<SinkState>
) {
  const { outputs, size } = embeddings
  const empty = () => new Float64Array(outputs * size)
  const [common, everything] = [empty(), empty()]
  const [pool, all] = [Array.from({ length: sinks }, empty), Array.from({ length: sinks }, empty)]
  const read = makeReader(embeddings)
  const memories: Readonly<Record<SinkState, (x: number) => ReadonlyArray<Memory>>> = {
    own: (x) => [common, pool[sinkOf(x)]!],
    off: () => [common],
    placebo: (x) => [common, pool[(sinkOf(x) + 1) % sinks]!],
    both: (x) => [everything, all[sinkOf(x)]!]
  }
  const errors: Array<SinkErrors> = []
  let written = 0
  for (const stored of counts) {
    for (; written < stored; written++) {
      write(written < shared ? common : pool[sinkOf(written)]!, embeddings, written, 1)
      write(everything, embeddings, written, 1)
      write(all[sinkOf(written)]!, embeddings, written, 1)
    }
    const one = { stored, own: NaN, off: NaN, placebo: NaN, both: NaN }
    for (const state of states) {
      one[state] = yield* errorOf(p, outputs, stored, (x) => read(x, ...memories[state](x)) === x % outputs)
    }
    errors.push(one)
    yield
  }
  return errors
}

/** The error where nothing interferes, and what was among so many samples is known. */
export const errorSampled = (p: Float64Array, outputs: number, samples: number, draw: Random): number => {
  const below = new Float64Array(p.length)
  p.reduce((sum, one, x) => (below[x] = sum + one), 0)
  const seen = new Set<number>()
  let known = 0
  for (let t = 0; t < samples; t++) {
    const at = draw.uniform()
    let [low, high] = [0, p.length - 1]
    while (low < high) {
      const middle = (low + high) >> 1
      if (below[middle]! > at) high = middle
      else low = middle + 1
    }
    if (seen.has(low)) continue
    seen.add(low)
    known += p[low]!
  }
  return Math.max(0, 1 - known) * guessed(outputs)
}

// ---------------------------------------------------------------------------------------------------------------
// A seed

/** What a seed gives: errors are shares of inputs, by their frequencies, that are answered wrongly. */
export interface AssociativeFound {
  /** With the best number of inputs stored alike; with all weighted by their frequencies. */
  readonly dimensions: ReadonlyArray<
    { readonly d: number; readonly stored: number; readonly best: number; readonly frequency: number }
  >
  readonly samples: ReadonlyArray<{ readonly samples: number; readonly error: number }>
  /** One matrix, by the number of stored inputs. */
  readonly stored: ReadonlyArray<StoredError>
  /** The same with the largest pool beside the shared matrix. */
  readonly sinks: ReadonlyArray<SinkErrors>
  /** With the best number of inputs stored, all of them in sinks. */
  readonly pools: ReadonlyArray<{ readonly sinks: number; readonly stored: number; readonly best: number }>
}

/** Inputs that count where all are weighted by frequency: the weights of others are lost in what these interfere with. */
const WEIGHTED = 128

/** Draws of these, and of sinks, for one of the largest embeddings: they are small, and their error is that of a few inputs. */
const [MORE_DRAWS, SINK_DRAWS] = [8, 4]

/** Times the dimensions that are stored at most where the best number is looked for; where a memory is to overflow. */
const [ENOUGH, OVERFLOW] = [2, 4]

const STEP = Math.SQRT2

const lowest = <A>(all: ReadonlyArray<A>, of: (one: A) => number): A => all.reduce((a, b) => of(b) < of(a) ? b : a)

/** The mean over draws, place by place, of rows that are alike. */
const meanOf = <Row extends Readonly<Record<keyof Row, number>>>(draws: ReadonlyArray<ReadonlyArray<Row>>) =>
  draws[0]!.map((first, i) =>
    Object.fromEntries(
      Object.keys(first).map((name) => [
        name,
        draws.reduce((sum, one) => sum + one[i]![name as keyof Row], 0) / draws.length
      ])
    ) as unknown as Row
  )

/** What a generator gives of each, one after the other. */
function* each<A, B>(all: ReadonlyArray<A>,
  body: (one: A) => Generator<void, B, void>): Generator<void, Array<B>, void>
{
  const made: Array<B> = []
  for (const one of all) made.push(yield* body(one))
  return made
}

/** All of a seed. */
export function* associate(config: AssociativeConfig, seed: number): Generator<void, AssociativeFound, void> {
  const { dimension, dimensions, draws, inputs, outputs, pools, samples } = config
  const p = frequenciesOf(config)
  const byDimension: Array<AssociativeFound["dimensions"][number]> = []
  for (const d of dimensions) {
    const most = Math.min(inputs, ENOUGH * d)
    const weighted = Math.min(inputs, WEIGHTED)
    const errors: Array<ReadonlyArray<StoredError>> = []
    let frequency = 0
    // as much to compute of each: the error of the small ones varies most
    for (let i = 0; i < draws * Math.ceil(dimensions.at(-1)! / d); i++) {
      const embeddings = yield* embeddingsOf(random(seed, "stored alike", d, i), most, outputs, d)
      yield
      errors.push(yield* errorsByStored(p, embeddings, ladder(1, most, STEP)))
    }
    for (let i = 0; i < draws * MORE_DRAWS; i++) {
      const embeddings = yield* embeddingsOf(random(seed, "weighted", d, i), weighted, outputs, d)
      frequency += (yield* errorStored(p, embeddings, weighted, (x) => p[x]!)) / (draws * MORE_DRAWS)
      yield
    }
    const { error, stored } = lowest(meanOf(errors), ({ error }) => error)
    byDimension.push({ d, stored, best: error, frequency })
  }
  const bySamples: Array<AssociativeFound["samples"][number]> = []
  for (const count of samples) {
    let error = 0
    for (let i = 0; i < draws; i++) {
      error += errorSampled(p, outputs, count, random(seed, "samples", count, i)) / draws
      yield
    }
    bySamples.push({ samples: count, error })
  }

  const largest = pools.at(-1)!
  const mostOf = (sinks: number) => Math.min(inputs, OVERFLOW * dimension * sinks)
  /** Does something with each draw: its embeddings, and the hash that chooses sinks. */
  const drawn = function*<A>(body: (embeddings: Embeddings, hash: Uint32Array) => Generator<void, A, void>) {
    const all: Array<A> = []
    for (let i = 0; i < draws * SINK_DRAWS; i++) {
      const draw = random(seed, "sinks", i)
      const hash = Uint32Array.from({ length: mostOf(largest) }, () => draw.bits())
      all.push(yield* body(yield* embeddingsOf(draw, mostOf(largest), outputs, dimension), hash))
    }
    return all
  }
  const split = (hash: Uint32Array, sinks: number, shared: number): Split => ({
    counts: ladder(1, mostOf(sinks), STEP),
    shared,
    sinks,
    sinkOf: (x) => hash[x]! % sinks
  })
  const all = yield* drawn(function*(embeddings, hash) {
    return {
      stored: yield* errorsByStored(p, embeddings, ladder(1, mostOf(largest), STEP)),
      sinks: yield* errorsWithSinks(p, embeddings, split(hash, largest, config.shared), ["own", "off", "placebo",
        "both"]),
      pools: yield* each(pools, (sinks) => errorsWithSinks(p, embeddings, split(hash, sinks, 0), ["own"]))
    }
  })
  return {
    dimensions: byDimension,
    samples: bySamples,
    stored: meanOf(all.map(({ stored }) => stored)),
    sinks: meanOf(all.map(({ sinks }) => sinks)),
    pools: pools.map((sinks, k) => {
      const { own, stored } = lowest(meanOf(all.map(({ pools }) => pools[k]!)), ({ own }) => own)
      return { sinks, stored, best: own }
    })
  }
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

/** The slope of a straight line through logarithms. */
const slope = (x: ReadonlyArray<number>, y: ReadonlyArray<number>): number =>
  linearFit(x.map(Math.log), y.map(Math.log)).beta.value

/** What n dimensions hold safely: the noise of so many must stay below the signal in nearly all of them. */
const room = (n: number): number => n / Math.log(n)

/** That a slope is that of the theory. */
const isExponent = (value: Estimate, theory: number, tolerance: number): Pick<Finding, "result" | "evidence"> => {
  const off = Math.abs(theory) * tolerance
  return {
    result: isWithin(value, { least: theory - off, most: theory + off }),
    evidence: `slope ${written(value)}; theory ${short(theory)}, which an interval within ${short(off)} of it confirms`
  }
}

const exponentsOf = (alpha: number) => ({
  best: 1 - alpha,
  frequency: -(alpha - 1) / (2 * alpha),
  samples: 1 / alpha - 1
})

const findings = (results: Results<AssociativeFound>, config: AssociativeConfig) => {
  const { alpha, dimension, pools, tolerance } = config
  const theory = exponentsOf(alpha)
  const over = (of: (found: AssociativeFound) => number | undefined, kind: "share" | "real" = "real") =>
    results.over(ALL, of, { kind })
  const best = over(({ dimensions }) => slope(dimensions.map(({ d }) => room(d)), dimensions.map(({ best }) => best)))
  const plain = over(({ dimensions }) => slope(dimensions.map(({ d }) => d), dimensions.map(({ best }) => best)))
  const frequency = over(({ dimensions }) =>
    slope(dimensions.map(({ d }) => d), dimensions.map(({ frequency }) => frequency))
  )
  const samples = over(({ samples }) => slope(samples.map(({ samples }) => samples), samples.map(({ error }) => error)))
  const pool = over(({ pools }) =>
    slope(pools.map(({ sinks }) => room(sinks * dimension)), pools.map(({ best }) => best))
  )
  const all = over(({ stored }) => stored.at(-1)!.error, "share")
  const bestOne = over(({ stored }) => lowest(stored, ({ error }) => error).error, "share")
  const allInSinks = over(({ sinks }) => sinks.at(-1)!.own, "share")
  const bestSinks = over(({ sinks }) => lowest(sinks, ({ own }) => own).own, "share")
  const atBest = (of: (errors: SinkErrors) => number) =>
    over(({ sinks }) => of(lowest(sinks, ({ own }) => own)), "share")
  const [off, placebo] = [atBest(({ off }) => off), atBest(({ placebo }) => placebo)]
  const both = over(({ sinks }) => lowest(sinks, ({ both }) => both).both, "share")
  const claims: ReadonlyArray<Finding> = [
    {
      about: "paper",
      claim:
        "With the best number of inputs stored alike, the error falls as d^(1 - alpha), d being counted as d / log d",
      ...isExponent(best, theory.best, tolerance)
    },
    {
      about: "paper",
      claim: "With inputs weighted by frequency, the error falls as d^(-(alpha - 1) / (2 alpha))",
      ...isExponent(frequency, theory.frequency, tolerance)
    },
    {
      about: "paper",
      claim: "Weighting by frequency is the slower of the two",
      result: is("higher", frequency, plain),
      evidence: list(["slope by frequency", frequency], ["with the best number stored alike", plain])
    },
    {
      about: "paper",
      claim: "Where nothing interferes, the error falls with the samples as T^(1 / alpha - 1)",
      ...isExponent(samples, theory.samples, tolerance)
    },
    {
      about: "paper",
      claim:
        `A memory overflows: in ${dimension} dimensions, storing many more inputs than that is worse than storing fewer`,
      result: is("higher", all, bestOne),
      evidence: list(["error with all stored", all], ["with the best number", bestOne])
    },
    {
      about: "sinks",
      claim: "A pool of sinks is as good as so many times the dimensions: the error falls with the pool as with d",
      ...isExponent(pool, theory.best, tolerance)
    },
    {
      about: "sinks",
      claim: "A pool overflows, too, when much more is stored than its sinks have dimensions",
      result: is("higher", allInSinks, bestSinks),
      evidence: list(["error with all stored", allInSinks], ["with the best number", bestSinks])
    },
    {
      about: "sinks",
      claim: "With the sinks off, what they hold is gone, and another input's sink does not bring it back",
      result: is("higher", off, bestSinks) === "held" && is("higher", placebo, bestSinks) === "held"
        ? "held"
        : [off, placebo].some((one) => is("lower", one, bestSinks) === "held")
        ? "did not hold"
        : "not decided",
      evidence: list(["error with own sinks", bestSinks], ["off", off], ["with another input's", placebo])
    },
    {
      about: "sinks",
      claim: "The pool is of no such use where the shared matrix holds everything, too: its noise stays",
      result: is("higher", both, bestSinks),
      evidence: list(["best error with everything in both", both], ["with the tail in sinks alone", bestSinks])
    }
  ]
  return {
    claims,
    numbers: {
      "slope in d / log d, best number stored alike": best,
      "slope in d, best number stored alike": plain,
      "slope in d, weighted by frequency": frequency,
      "slope in samples": samples,
      "slope in the pool": pool,
      "error, one matrix, all stored": all,
      "error, one matrix, best number stored": bestOne,
      "error, own sinks, all stored": allInSinks,
      "error, own sinks, best number stored": bestSinks,
      "error, sinks off": off,
      "error, another input's sink": placebo,
      "error, everything in both": both
    },
    charts: charts(results, config),
    tables: tables(results, config),
    terms: [
      ["d", "dimensions of the random embeddings of inputs and outputs"],
      ["error", "share of inputs, each by its frequency, that are answered wrongly"],
      ["best number stored alike",
        "the most frequent inputs, so many of them that the error is lowest, each with weight 1"],
      ["sink", `one of a pool of matrices beside the shared one; each input has one of the ${pools.at(-1)} by a hash`]
    ] as const,
    limits: [
      "It is the linear world of the theory, without training: weights are set, not learned, so it says nothing of how " +
      "gradient descent weights inputs.",
      "Random embeddings stay as they are; learned ones need not interfere.",
      "That the shared matrix holds the frequent inputs and the sinks the others is set, too: whether training puts them " +
      "there is what memsinks isolate asks.",
      "The exponents are those of many dimensions; the logarithm of the first one is that of the best number that can be " +
      "stored, about d / log d."
    ]
  }
}

const exponent = digits(3)

/** A line of points over seeds. */
const lineOf = (
  label: string,
  kind: string,
  points: ReadonlyArray<readonly [x: number, y: Estimate]>
): Line => ({
  label,
  of: { line: label, kind },
  dots: kind === "measured",
  points: points.filter(([, y]) => isKnown(y)).map(([x, y]) => {
    const { high, low, value } = intervalOf(y)
    // what goes down to 0 cannot be drawn on a logarithmic axis; the table has it
    return { x, y: value, ...(Number.isFinite(low) && low > 0 ? { low, high } : {}) }
  })
})

const charts = (results: Results<AssociativeFound>, config: AssociativeConfig): ReadonlyArray<Chart> => {
  const { alpha, dimension, dimensions, pools, samples } = config
  const theory = exponentsOf(alpha)
  const over = (of: (found: AssociativeFound) => number | undefined) => results.over(ALL, of, { kind: "share" })
  /** A power through the middle of what was measured. */
  const power = (label: string, power: number, line: Line): Line => {
    const known = line.points.filter(({ y }) => y > 0)
    const middle = known[Math.floor(known.length / 2)]
    return {
      label,
      of: { line: line.label, kind: "theory" },
      points: middle === undefined ? [] : known.map(({ x }) => ({ x, y: middle.y * (x / middle.x) ** power }))
    }
  }
  const byDimension = (label: string, of: (one: AssociativeFound["dimensions"][number]) => number) =>
    lineOf(label, "measured", dimensions.map((d, i) => [d, over((found) => of(found.dimensions[i]!))]))
  const best = byDimension("best number stored alike", ({ best }) => best)
  const frequency = byDimension("weighted by frequency", ({ frequency }) => frequency)
  const bySamples = lineOf("all that was seen is stored", "measured",
    samples.map((count, i) => [count, over((found) => found.samples[i]!.error)]))
  const first = results.seeds.map((seed) => results.of(ALL, seed)).find((one) => one !== undefined)
  const byStored = (label: string, of: (found: AssociativeFound, i: number) => number) =>
    lineOf(label, "measured", (first?.sinks ?? []).map(({ stored }, i) => [stored, over((found) => of(found, i))]))
  const y = { title: "error", log: true }
  return [
    {
      title: "Error by the size of the embeddings",
      x: { title: "dimensions d", log: true },
      y,
      facets: [],
      lines: [best, power(`d^${short(theory.best)}`, theory.best, best), frequency,
        power(`d^${short(theory.frequency)}`, theory.frequency, frequency)],
      color: ["line"],
      dash: ["kind"]
    },
    {
      title: "Error by the samples seen",
      x: { title: "samples T", log: true },
      y,
      facets: [],
      lines: [bySamples, power(`T^${short(theory.samples)}`, theory.samples, bySamples)],
      color: ["line"],
      dash: ["kind"]
    },
    {
      title: `A memory that overflows, and sinks: ${dimension} dimensions, ${pools.at(-1)} sinks`,
      x: { title: "inputs stored", log: true },
      y,
      facets: [],
      lines: [
        byStored("one matrix", ({ stored }, i) => stored[i]!.error),
        byStored("own sinks on", ({ sinks }, i) => sinks[i]!.own),
        byStored("sinks off", ({ sinks }, i) => sinks[i]!.off),
        byStored("another input's sink", ({ sinks }, i) => sinks[i]!.placebo),
        byStored("everything in both", ({ sinks }, i) => sinks[i]!.both)
      ],
      color: ["line"]
    }
  ]
}

const tables = (results: Results<AssociativeFound>, config: AssociativeConfig): ReadonlyArray<Table> => {
  const { dimensions, pools, samples } = config
  const cell = (of: (found: AssociativeFound) => number) =>
    plusMinus(results.over(ALL, of, { kind: "share" }), exponent)
  const mean = (of: (found: AssociativeFound) => number) => {
    const one = results.over(ALL, of)
    return isKnown(one) ? short(one.mean) : NOTHING
  }
  return [
    {
      caption: "By the size of the embeddings",
      head: ["d", "best number", "error with it", "error weighted by frequency"],
      rows: dimensions.map((d, i) => [
        String(d),
        mean((found) => found.dimensions[i]!.stored),
        cell((found) => found.dimensions[i]!.best),
        cell((found) => found.dimensions[i]!.frequency)
      ])
    },
    {
      caption: "By the samples seen",
      head: ["T", "error"],
      rows: samples.map((count, i) => [short(count), cell((found) => found.samples[i]!.error)])
    },
    {
      caption: "By the sinks in the pool",
      head: ["sinks", "best number", "error with it"],
      rows: pools.map((sinks, i) => [
        String(sinks),
        mean((found) => found.pools[i]!.stored),
        cell((found) => found.pools[i]!.best)
      ])
    }
  ]
}

/** Inputs that are needed for every memory to overflow. */
const leastInputs = (dimensions: ReadonlyArray<number>, pool: number): number =>
  OVERFLOW * Math.max(dimensions.at(-1)!, pool)

/** What is wrong with numbers that must ascend, and be so many that a slope has meaning. */
const unfit = (field: string, numbers: ReadonlyArray<number>, least: number): string | undefined =>
  numbers.length < 3
    ? `${field} must be 3 numbers at least for a slope, got ${numbers.length}`
    : numbers.some((n, i) => i > 0 && n <= numbers[i - 1]!)
    ? `${field} must ascend, got ${numbers.join(", ")}`
    : numbers[0]! < least
    ? `${field} must begin with ${least} at least, got ${numbers[0]}`
    : undefined

export const associative = study<AssociativeConfig, AssociativeFound>({
  name: "associative",
  title: "Scaling laws for associative memories",
  paper: "Cabannes, Dohmatob and Bietti (2024): Scaling Laws for Associative Memories",
  question:
    "How does the error of a memory fall with its size and with what it has seen, and what does a pool of sinks add?",
  finding:
    "the error falls by powers of the dimensions and of the samples that the theory tells, storing frequent inputs alike " +
    "beats weighting all by frequency, and a memory overflows",
  cost: "4 minutes, no model is trained; full: hours",
  version: 1,
  onHost: true,
  schema: AssociativeConfig,
  presets: {
    quick: new AssociativeConfig({}),
    full: new AssociativeConfig({ seeds: 10, draws: 64, dimensions: [32, 64, 128, 256, 512, 1024, 2048, 4096],
      inputs: 1_000_000, samples: [100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000],
      pools: [1, 2, 4, 8, 16, 32] })
  },
  problem: ({ dimension, dimensions, inputs, pools, samples }) =>
    unfit("dimensions", dimensions, 4) ?? unfit("samples", samples, 1) ?? unfit("pools", pools, 1) ??
      (inputs < leastInputs(dimensions, dimension * pools.at(-1)!)
        ? `inputs must be ${
          leastInputs(dimensions, dimension * pools.at(-1)!)
        } at least, ${OVERFLOW} times the largest of ` +
          `dimensions and dimension times the largest pool, got ${inputs}: the memory would not overflow`
        : undefined),
  work: ({ config, seed }) => Effect.suspend(() => inTurns(associate(config, seed))),
  findings
})
