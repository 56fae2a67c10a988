/**
 * The pitfalls of memorization (Bayat et al. 2024): a linear classifier of examples with a core feature, a larger spurious one
 * that mostly agrees with the label, and noise by which every example can be memorized. What plain training (ERM) leaves of
 * the core feature, what memorization-aware training (MAT) brings back, and what sinks do: features of an example's own, lit by
 * its id, and switched off at test.
 *
 * Full-batch gradient descent from weights of 0 never leaves the span of the examples, so a model is one number an example,
 * and training goes over their inner products: exactly the same, a hundred times faster.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { normal, type Random, random } from "../../src/Random.ts"
import { SinkConfig, unitsOf } from "../../src/Sink.ts"
import { inTurns } from "../../src/Turns.ts"
import type { Chart } from "../report/Chart.ts"
import { is, isAtLeast, list } from "../report/Claim.ts"
import { type Estimate, intervalOf, isKnown, plusMinus } from "../report/Estimate.ts"
import type { Table } from "../report/View.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"

export class PitfallsConfig extends configuration(Schema.Class<PitfallsConfig>("PitfallsConfig")({
  ...seedsOfStudy,
  /** Examples that are trained on, and as many others to validate. Default 1,000. */
  examples: withDefault(positive, 1000),
  /** How often the spurious feature agrees with the label where it is trained; else it is half of the time. Default 0.9. */
  agreement: withDefault(fraction, 0.9),
  /** How many times the core feature the spurious one is. Default 5. */
  spurious: withDefault(atLeast0, 5),
  /** Standard deviation of the core feature, and of the spurious one before it is scaled. Default 0.12. */
  spread: withDefault(atLeast0, 0.12),
  /** Dimensions of noise. Default 1,798. */
  noiseDimensions: withDefault(positive, 1798),
  /** Standard deviation of each of them in the noisy world; in the clean one it is 0. Default 0.5. */
  noise: withDefault(atLeast0, 0.5),
  /** Passes over all examples. Default 1,000. */
  epochs: withDefault(positive, 1000),
  /** Learning rate in the noisy world. Default 0.01. */
  learningRate: withDefault(rate, 1e-2),
  /** Learning rate in the clean world. Default 0.03. */
  cleanLearningRate: withDefault(rate, 3e-2),
  /** Of MAT: what held-out logits are divided by. Default 0.1. */
  temperature: withDefault(rate, 0.1),
  /**
   * Features that an example lights by its id, each 1: of more than the square of its noise, which they are to be faster than.
   * Default: 1,024 of 16,384.
   */
  sinks: withDefault(SinkConfig, () => new SinkConfig({ pool: 16_384, active: 1024 })),
  /** Points of the curves. Default 20. */
  evaluations: withDefault(positive, 20)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// The world

/** Examples: features [count, dimensions], a label of 0 or 1 each, and whether the spurious feature agrees with it. */
export interface Examples {
  readonly count: number
  readonly dimensions: number
  readonly features: Float64Array
  readonly labels: Uint8Array
  readonly majority: Uint8Array
}

/** The bias, the core feature, the spurious one, and noise, where there is any. */
export const examplesOf = (
  draw: Random,
  { examples: count, noiseDimensions, spread, spurious }: PitfallsConfig,
  { agreement, noise }: { readonly agreement: number; readonly noise: number }
): Examples => {
  const dimensions = 3 + (noise > 0 ? noiseDimensions : 0)
  const features = new Float64Array(count * dimensions)
  const [labels, majority] = [new Uint8Array(count), new Uint8Array(count)]
  for (let i = 0; i < count; i++) {
    labels[i] = draw.below(2)
    majority[i] = draw.uniform() < agreement ? 1 : 0
    const sign = 2 * labels[i]! - 1
    const at = i * dimensions
    features[at] = 1
    features[at + 1] = sign + spread * normal(draw)
    features[at + 2] = spurious * ((majority[i] === 1 ? sign : -sign) + spread * normal(draw))
    for (let j = 3; j < dimensions; j++) features[at + j] = noise * normal(draw)
  }
  return { count, dimensions, features, labels, majority }
}

/** Inner products of all of one with all of another, [a.count, b.count]. */
export function* innerProducts(a: Examples, b: Examples): Generator<void, Float64Array, void> {
  const all = new Float64Array(a.count * b.count)
  const { dimensions } = a
  for (let i = 0; i < a.count; i++) {
    for (let j = 0; j < b.count; j++) {
      let sum = 0
      const [x, y] = [i * dimensions, j * dimensions]
      for (let d = 0; d < dimensions; d++) sum += a.features[x + d]! * b.features[y + d]!
      all[i * b.count + j] = sum
    }
    yield
  }
  return all
}

/** Sinks that examples have in common, [count, count], each being its own id. */
export function* sharedSinks(sinks: SinkConfig, count: number): Generator<void, Float64Array, void> {
  const lit = Array.from({ length: count }, (_, id) => {
    const units = unitsOf(sinks, BigInt(id))
    const mask = new Uint8Array(sinks.units)
    for (const unit of units) mask[unit] = 1
    return { units, mask }
  })
  const all = new Float64Array(count * count)
  for (let i = 0; i < count; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0
      for (const unit of lit[i]!.units) sum += lit[j]!.mask[unit]!
      all[i * count + j] = all[j * count + i] = sum * sinks.block
    }
    yield
  }
  return all
}

// ---------------------------------------------------------------------------------------------------------------
// Training

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/** Logits of label 1 minus those of label 0, which are twice the first: the two begin at 0 and go apart. */
const logits = (products: Float64Array, weights: Float64Array, out: Float64Array): Float64Array => {
  const n = weights.length
  for (let i = 0; i < out.length; i++) {
    let sum = 0
    for (let j = 0; j < n; j++) sum += products[i * n + j]! * weights[j]!
    out[i] = 2 * sum
  }
  return out
}

/** A step of gradient descent on the mean cross-entropy of the examples that `counts`, with logits shifted. */
const step = (
  weights: Float64Array,
  z: Float64Array,
  { counts, labels, learningRate, shift }: {
    readonly labels: Uint8Array
    readonly learningRate: number
    readonly shift?: Float64Array
    readonly counts?: Uint8Array
  }
): void => {
  let n = weights.length
  if (counts !== undefined) n = counts.reduce((sum, one) => sum + one, 0)
  for (let i = 0; i < weights.length; i++) {
    if (counts !== undefined && counts[i] === 0) continue
    weights[i]! -= learningRate / n * (sigmoid(z[i]! + (shift?.[i] ?? 0)) - labels[i]!)
  }
}

/** Logits by models that were not trained on the example: two, each of a random half, with labels that flip to the other's. */
export function* heldOutLogits(
  products: Float64Array,
  labels: Uint8Array,
  { draw, epochs, learningRate }: { readonly draw: Random; readonly epochs: number; readonly learningRate: number }
): Generator<void, Float64Array, void> {
  const n = labels.length
  const order = draw.shuffle(Uint32Array.from({ length: n }, (_, i) => i))
  const half = new Uint8Array(n)
  for (let i = 0; i < n >> 1; i++) half[order[i]!] = 1
  const halves = [half.map((one) => 1 - one), half]
  const models = [new Float64Array(n), new Float64Array(n)]
  const z = [new Float64Array(n), new Float64Array(n)]
  const flipped = labels.slice()
  const heldOut = (i: number): number => z[1 - half[i]!]![i]!
  for (let epoch = 0; epoch < epochs; epoch++) {
    models.forEach((weights, m) => logits(products, weights, z[m]!))
    models.forEach((weights, m) => step(weights, z[m]!, { labels: flipped, learningRate, counts: halves[m]! }))
    for (let i = 0; i < n; i++) {
      const p = sigmoid(heldOut(i))
      // (p_max - 1 / C) C / (C - 1) of C = 2 classes
      if (draw.uniform() < 2 * (Math.max(p, 1 - p) - 0.5)) flipped[i] = p > 0.5 ? 1 : 0
    }
    yield
  }
  models.forEach((weights, m) => logits(products, weights, z[m]!))
  return Float64Array.from({ length: n }, (_, i) => heldOut(i))
}

/** What MAT adds to the logits of an example: log P(y) by its held-out prediction and by how often that is right. */
export const shiftOf = (heldOut: Float64Array, labels: Uint8Array, temperature: number): Float64Array => {
  /** [predicted, label] */
  const counts = [[0, 0], [0, 0]]
  heldOut.forEach((z, i) => void (counts[z > 0 ? 1 : 0]![labels[i]!]! += 1))
  const given = counts.map(([zero, one]) =>
    zero! + one! === 0 ? [0.5, 0.5] : [zero! / (zero! + one!), one! / (zero! + one!)]
  )
  return heldOut.map((z) => {
    const p = sigmoid(z / temperature)
    const of = (label: number) => Math.log((1 - p) * given[0]![label]! + p * given[1]![label]! + 1e-6)
    return of(1) - of(0)
  })
}

/** Shares of examples that are answered rightly. */
export interface Accuracy {
  readonly majority: number
  readonly minority: number
}

export const accuracyOf = (z: Float64Array, { labels, majority }: Pick<Examples, "labels" | "majority">): Accuracy => {
  const [right, all] = [[0, 0], [0, 0]]
  z.forEach((logit, i) => {
    all[majority[i]!]! += 1
    if ((logit > 0 ? 1 : 0) === labels[i]) right[majority[i]!]! += 1
  })
  return { majority: right[1]! / all[1]!, minority: right[0]! / all[0]! }
}

/** What is measured along training; `trainOwn`: with an example's own sinks on. */
export interface PitfallsPoint {
  readonly epoch: number
  readonly train: Accuracy
  readonly trainOwn: Accuracy
  readonly validation: Accuracy
}

export const methods = ["erm", "mat", "sinks"] as const
export type Method = typeof methods[number]

export type PitfallsFound = Readonly<Record<Method, ReadonlyArray<PitfallsPoint>>> & {
  /** Examples of the minority: trained on, and to validate. */
  readonly minority: { readonly train: number; readonly validation: number }
}

const CLEAN = "clean"
const NOISY = "noisy"

/** All methods in a world. */
export function* compare(config: PitfallsConfig, world: string, seed: number): Generator<void, PitfallsFound, void> {
  const { agreement, cleanLearningRate, epochs, evaluations, temperature } = config
  const noise = world === CLEAN ? 0 : config.noise
  const learningRate = world === CLEAN ? cleanLearningRate : config.learningRate
  const train = examplesOf(random(seed, "pitfalls", "train"), config, { agreement, noise })
  const validation = examplesOf(random(seed, "pitfalls", "validation"), config, { agreement: 0.5, noise })
  const { labels } = train
  const among = yield* innerProducts(train, train)
  const outside = yield* innerProducts(validation, train)
  const sinks = yield* sharedSinks(new SinkConfig({ ...config.sinks, seed }), train.count)
  yield
  const withSinks = among.map((one, i) => one + sinks[i]!)
  yield
  const every = Math.max(1, Math.ceil(epochs / evaluations))
  /** Trains on inner products, with or without those of sinks, and looks at the model without. */
  const run = function*(products: Float64Array, shift?: Float64Array) {
    const weights = new Float64Array(train.count)
    const [z, others] = [new Float64Array(train.count), new Float64Array(validation.count)]
    const points: Array<PitfallsPoint> = []
    for (let epoch = 0;; epoch++) {
      logits(products, weights, z)
      yield
      if (epoch > 0 && (epoch % every === 0 || epoch === epochs)) {
        points.push({
          epoch,
          train: accuracyOf(logits(among, weights, new Float64Array(train.count)), train),
          trainOwn: accuracyOf(z, train),
          validation: accuracyOf(logits(outside, weights, others), validation)
        })
        yield
      }
      if (epoch === epochs) return points
      step(weights, z, { labels, learningRate, ...(shift === undefined ? {} : { shift }) })
    }
  }
  const erm = yield* run(among)
  const heldOut = yield* heldOutLogits(among, labels, { draw: random(seed, "pitfalls", "halves"), epochs,
    learningRate })
  const mat = yield* run(among, shiftOf(heldOut, labels, temperature))
  const few = ({ count, majority }: Examples) => count - majority.reduce((sum, one) => sum + one, 0)
  return {
    erm,
    mat,
    sinks: yield* run(withSinks),
    minority: { train: few(train), validation: few(validation) }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const names: Readonly<Record<Method, string>> = {
  erm: "ERM",
  mat: "MAT",
  sinks: "sinks, off"
}

const findings = (results: Results<PitfallsFound>, config: PitfallsConfig) => {
  const share = (world: string, of: (found: PitfallsFound) => number, trials: "train" | "validation") =>
    results.over(world, of, { kind: "share", spread: ({ minority }) => ({ sequences: minority[trials] }) })
  const minority = (world: string, method: Method) =>
    share(world, (found) => found[method].at(-1)!.validation.minority, "validation")
  const fitted = (world: string, method: Method, of: "train" | "trainOwn") =>
    share(world, (found) => found[method].at(-1)![of].minority, "train")
  const [clean, noisy] = [minority(CLEAN, "erm"), minority(NOISY, "erm")]
  const mat = minority(NOISY, "mat")
  const [cleanSinks, noisySinks] = [minority(CLEAN, "sinks"), minority(NOISY, "sinks")]
  const fit = fitted(NOISY, "erm", "train")
  const [own, off] = [fitted(NOISY, "sinks", "trainOwn"), fitted(NOISY, "sinks", "train")]
  const claims: ReadonlyArray<Finding> = [
    {
      about: "paper",
      claim:
        "Without noise, plain training learns the core feature: nine in ten of the minority are right in validation",
      result: isAtLeast(clean, 0.9),
      evidence: list(["accuracy of the minority in validation", clean])
    },
    {
      about: "paper",
      claim: "With noise, plain training memorizes the minority that it trains on: 95 % of it",
      result: isAtLeast(fit, 0.95),
      evidence: list(["accuracy of the minority in training", fit])
    },
    {
      about: "paper",
      claim: "That memorizing costs generalization: the minority is more often wrong in validation than without noise",
      result: is("lower", noisy, clean),
      evidence: list(["with noise", noisy], ["without", clean])
    },
    {
      about: "paper",
      claim:
        "Memorization-aware training brings it back: with noise, more of the minority is right than of plain training",
      result: is("higher", mat, noisy),
      evidence: list(["MAT", mat], ["ERM", noisy])
    },
    {
      about: "sinks",
      claim: "Sinks, switched off, leave more of the minority right than plain training does with noise",
      result: is("higher", noisySinks, noisy),
      evidence: list(["sinks, off", noisySinks], ["ERM", noisy])
    },
    {
      about: "sinks",
      claim:
        "The minority that was trained on is memorized in the sinks: it is right with them on, more often than off",
      result: is("higher", own, off),
      evidence: list(["own sinks on", own], ["off", off])
    },
    {
      about: "sinks",
      claim:
        "Without noise, too, sinks leave as much of the minority right as plain training, which cannot memorize there",
      result: is("lower", cleanSinks, clean) === "held"
        ? "did not hold"
        : isAtLeast(cleanSinks, 0.9) === "held"
        ? "held"
        : "not decided",
      evidence: list(["sinks, off", cleanSinks], ["ERM", clean])
    }
  ]
  return {
    claims,
    numbers: {
      "minority in validation, clean, ERM": clean,
      "minority in validation, noisy, ERM": noisy,
      "minority in validation, clean, MAT": minority(CLEAN, "mat"),
      "minority in validation, noisy, MAT": mat,
      "minority in validation, clean, sinks off": cleanSinks,
      "minority in validation, noisy, sinks off": noisySinks,
      "minority in training, noisy, ERM": fit,
      "minority in training, noisy, own sinks": own,
      "minority in training, noisy, sinks off": off
    },
    charts: [NOISY, CLEAN].map((world) => chart(results, world, config)),
    tables: [NOISY, CLEAN].map((world) => table(results, world, config)),
    terms: [
      ["minority", "examples whose spurious feature disagrees with their label"],
      ["ERM", "empirical risk minimization: plain training"],
      ["MAT", "memorization-aware training: logits are shifted by what models say that never saw the example"],
      ["sinks, off",
        `${config.sinks.active} of ${config.sinks.pool} features of an example's own were lit in training, none at test`],
      ["noisy, clean", `worlds with ${config.noiseDimensions} features of noise, and with none`]
    ] as const,
    limits: [
      "It is a linear model of a made-up world; how fast noise is memorized against features is set by their sizes.",
      "Weights begin at 0 where the paper's are drawn; the convex loss has one solution, and after so many passes neither is there.",
      "An example lights its sinks in every pass: nothing repeats more than anything else here, as sequences do in pretraining.",
      "The paper's third world, a regression with good, bad and ugly memorization, is not done again."
    ]
  }
}

const chart = (results: Results<PitfallsFound>, world: string, { noise }: PitfallsConfig): Chart => {
  const line = (method: Method, where: "train" | "validation") => ({
    label: where === "validation"
      ? names[method]
      : `${method === "sinks" ? "own sinks on" : names[method]}, in training`,
    of: { method, where },
    points: (results.seeds.flatMap((seed) => results.of(world, seed) ?? [])[0]?.[method] ?? []).map(({ epoch }, i) => {
      const value: Estimate = results.over(world,
        (found) => found[method][i]![where === "train" && method === "sinks" ? "trainOwn" : where].minority, {
        kind: "share",
        spread: ({ minority }) => ({ sequences: minority[where] })
      })
      const { high, low } = intervalOf(value)
      return { x: epoch, y: isKnown(value) ? value.mean : NaN, ...(Number.isFinite(low) ? { low, high } : {}) }
    })
  })
  return {
    title: `The minority ${world === CLEAN ? "without noise" : `with noise of ${noise}`}`,
    x: { title: "epochs" },
    y: { title: "share of the minority that is right", zero: true },
    facets: [],
    lines: methods.flatMap((method) => [line(method, "validation"), line(method, "train")]),
    color: ["method"],
    dash: ["where"]
  }
}

const table = (results: Results<PitfallsFound>, world: string, { noise }: PitfallsConfig): Table => {
  const cell = (of: (found: PitfallsFound) => number) => plusMinus(results.over(world, of, { kind: "share" }))
  const row = (name: string, of: (found: PitfallsFound) => Accuracy) => [
    name,
    cell((found) => of(found).majority),
    cell((found) => of(found).minority)
  ]
  return {
    caption: world === CLEAN ? "Without noise" : `With noise of ${noise}`,
    head: ["accuracy", "majority", "minority"],
    rows: methods.flatMap((method) => [
      row(`${names[method]}, validation`, (found) => found[method].at(-1)!.validation),
      row(`${names[method]}, training`, (found) => found[method].at(-1)!.train),
      ...(method === "sinks" ? [row("own sinks on, training", (found) => found.sinks.at(-1)!.trainOwn)] : [])
    ])
  }
}

export const pitfalls = study<PitfallsConfig, PitfallsFound>({
  name: "pitfalls",
  title: "The pitfalls of memorization",
  paper:
    "Bayat, Pezeshki, Dohmatob, Lopez-Paz and Vincent (2024): The Pitfalls of Memorization: When Memorization Hurts " +
    "Generalization",
  question: "When does memorizing examples keep a model from learning what generalizes, and do sinks undo that?",
  finding:
    "noise by which a minority can be memorized keeps plain training from the feature that generalizes, and training that " +
    "knows what is memorized brings it back",
  cost: "2 minutes, no language model is trained; full: 9 minutes",
  version: 1,
  onHost: true,
  schema: PitfallsConfig,
  presets: { quick: new PitfallsConfig({ seeds: 5 }), full: new PitfallsConfig({ seeds: 20 }) },
  parts: () => [NOISY, CLEAN],
  problem: ({ agreement, examples, sinks }) =>
    sinks.problem !== undefined
      ? sinks.problem
      : examples * (1 - agreement) < 4
      ? `examples must be ${
        agreement === 1 ? "without an agreement of 1" : Math.ceil(4 / (1 - agreement) - 1e-9)
      } at least ` +
        `for a minority of 4, got ${examples} with an agreement of ${agreement}`
      : undefined,
  work: ({ config, part, seed }) => Effect.suspend(() => inTurns(compare(config, part, seed))),
  findings
})
