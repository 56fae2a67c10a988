/**
 * Does learning require memorization (Feldman 2020; Feldman and Zhang 2020): examples of many kinds, whose frequencies fall as
 * those of words do, and whose labels nothing but the kind tells. Which examples are memorized, by models that are each trained
 * on half of them; what it costs to leave those out; and whether sinks, lit by the kind, hold the tail. A network of one hidden
 * layer in float64, on the host.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import * as Membership from "../../src/measures/Membership.ts"
import { mean, spearman } from "../../src/measures/Statistics.ts"
import { normal, random } from "../../src/Random.ts"
import { SinkConfig, unitsOf } from "../../src/Sink.ts"
import { inTurns } from "../../src/Turns.ts"
import type { Chart } from "../report/Chart.ts"
import { is, isAtLeast, isAtMost, list } from "../report/Claim.ts"
import { type Estimate, minus, plusMinus } from "../report/Estimate.ts"
import { short, type Table } from "../report/View.ts"
import { isPositive, pointOf } from "../study/estimates.ts"
import { ALL, type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"

export class LongTailConfig extends configuration(Schema.Class<LongTailConfig>("LongTailConfig")({
  ...seedsOfStudy,
  /** Kinds of examples. Default 120. */
  kinds: withDefault(positive, 120),
  /** Examples that are trained on, drawn by the kinds' frequencies. Default 400. */
  examples: withDefault(positive, 400),
  /** Power by which the kinds' frequencies fall; 0: all alike. Default 1. */
  power: withDefault(Schema.Number.pipe(Schema.between(0, 3)), 1),
  /** Labels, of which each kind has one at random. Default 6. */
  labels: withDefault(Schema.Int.pipe(Schema.between(2, 100)), 6),
  /** Share of kinds whose label follows from their place instead: then there is nothing to memorize. Default 0. */
  ruled: withDefault(fraction, 0),
  /** Numbers that an example is told by. Default 12. */
  dimensions: withDefault(positive, 12),
  /** Standard deviation of examples around their kind, that of kinds being 1. Default 0.3. */
  noise: withDefault(Schema.Number.pipe(Schema.between(0, 10)), 0.3),
  /** General neurons. Default 48. */
  general: withDefault(positive, 48),
  /** Of the model with sinks: its pool, which kinds light. Default 8 of 512. */
  sinks: withDefault(SinkConfig, () => new SinkConfig({ pool: 512, active: 8, block: 1 })),
  /** Full-batch steps of Adam. Default 200. */
  steps: withDefault(positive, 200),
  /** Default 0.02. */
  learningRate: withDefault(rate, 0.02),
  /** Models that are each trained on a random half. Default 20. */
  models: withDefault(Schema.Int.pipe(Schema.between(4, 1000)), 20),
  /** Share of the examples that is left out: the most memorized, or random ones. Default 0.2. */
  left: withDefault(fraction, 0.2),
  /** Examples of each kind that test. Default 6. */
  tests: withDefault(positive, 6)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// The world

export interface Example {
  readonly x: Float64Array
  readonly kind: number
  readonly label: number
}

export interface LongTailWorld {
  readonly train: ReadonlyArray<Example>
  /** `tests` of each kind. */
  readonly test: ReadonlyArray<Example>
  /** How probable each kind is. */
  readonly frequencies: Float64Array
  /** How many examples of each kind are trained on. */
  readonly counts: Uint32Array
}

export const makeWorld = (config: LongTailConfig, seed: number): LongTailWorld => {
  const { dimensions, examples, kinds, labels, noise, power, ruled, tests } = config
  const draw = random(seed, "long tail")
  const vector = () => Float64Array.from({ length: dimensions }, () => normal(draw))
  const centers = Array.from({ length: kinds }, vector)
  // a rule that a network finds: the largest of the first numbers
  const ruleOf = (center: Float64Array) =>
    center.subarray(0, labels).reduce((best, x, i) => x > center[best]! ? i : best, 0)
  const labelOf = centers.map((center) => draw.uniform() < ruled ? ruleOf(center) : draw.below(labels))
  const weights = Float64Array.from({ length: kinds }, (_, k) => (k + 1) ** -power)
  const total = weights.reduce((a, b) => a + b)
  const frequencies = weights.map((one) => one / total)
  const example = (kind: number): Example => ({
    x: vector().map((one, i) => centers[kind]![i]! + noise * one),
    kind,
    label: labelOf[kind]!
  })
  const drawn = Array.from({ length: examples }, () => {
    let at = draw.uniform()
    let kind = 0
    while (kind < kinds - 1 && (at -= frequencies[kind]!) >= 0) kind++
    return kind
  })
  const counts = new Uint32Array(kinds)
  for (const kind of drawn) counts[kind]!++
  return {
    train: drawn.map(example),
    test: Array.from({ length: kinds * tests }, (_, i) => example(Math.floor(i / tests))),
    frequencies,
    counts
  }
}

// ---------------------------------------------------------------------------------------------------------------
// The network

/** A hidden layer [neuron, dimensions + 1], with a bias, and what its neurons add to each label, [neuron, labels]. */
export interface Layered {
  readonly hidden: Float64Array
  readonly output: Float64Array
}

/** Which neurons are on for an example. */
type Lit = (example: Example) => Uint32Array

/** The general neurons, and the sinks of the example's kind. */
const litOf = (config: LongTailConfig, sinks: boolean): Lit => {
  const { general } = config
  const alone = Uint32Array.from({ length: general }, (_, i) => i)
  const { block } = config.sinks
  const known = new Map<number, Uint32Array>()
  return ({ kind }) => {
    if (!sinks) return alone
    const lit = known.get(kind) ?? Uint32Array.of(...alone, ...[...unitsOf(config.sinks, BigInt(kind + 1))].flatMap(
      (unit) => Array.from({ length: block }, (_, i) => general + unit * block + i)
    ))
    known.set(kind, lit)
    return lit
  }
}

/** Logits of an example; `active` is what each neuron that is on gives. */
const forward = (
  { hidden, output }: Layered,
  { x }: Example,
  lit: Uint32Array,
  active: Float64Array,
  logits: Float64Array
): void => {
  const [size, labels] = [x.length, logits.length]
  logits.fill(0)
  for (let l = 0; l < lit.length; l++) {
    const row = lit[l]! * (size + 1)
    let sum = hidden[row + size]!
    for (let i = 0; i < size; i++) sum += hidden[row + i]! * x[i]!
    active[l] = sum > 0 ? sum : 0
    if (sum <= 0) continue
    const out = lit[l]! * labels
    for (let c = 0; c < labels; c++) logits[c]! += sum * output[out + c]!
  }
}

/** Probabilities of logits, over them. */
const softmax = (logits: Float64Array): Float64Array => {
  const most = Math.max(...logits)
  let sum = 0
  for (let c = 0; c < logits.length; c++) sum += logits[c] = Math.exp(logits[c]! - most)
  for (let c = 0; c < logits.length; c++) logits[c]! /= sum
  return logits
}

const adam = (weights: Float64Array, learningRate: number) => {
  const [first, second] = [new Float64Array(weights.length), new Float64Array(weights.length)]
  return (step: number, gradient: Float64Array): void => {
    const [one, two] = [1 - 0.9 ** step, 1 - 0.999 ** step]
    for (let i = 0; i < weights.length; i++) {
      const g = gradient[i]!
      // what was never lit does not move
      if (g === 0 && second[i] === 0) continue
      first[i] = 0.9 * first[i]! + 0.1 * g
      second[i] = 0.999 * second[i]! + 0.001 * g * g
      weights[i]! -= (learningRate * first[i]!) / one / (Math.sqrt(second[i]! / two) + 1e-8)
    }
  }
}

/** The mean cross-entropy, nats; its gradients are added to `into`. */
export const lossAndGradients = (
  network: Layered,
  examples: ReadonlyArray<Example>,
  lit: Lit,
  labels: number,
  into: Layered
): number => {
  const logits = new Float64Array(labels)
  const active = new Float64Array(network.hidden.length)
  let loss = 0
  for (const example of examples) {
    const { label, x } = example
    const on = lit(example)
    forward(network, example, on, active, logits)
    softmax(logits)
    loss -= Math.log(logits[label]!)
    for (let l = 0; l < on.length; l++) {
      if (active[l] === 0) continue
      const [out, row] = [on[l]! * labels, on[l]! * (x.length + 1)]
      let back = 0
      for (let c = 0; c < labels; c++) {
        const error = (logits[c]! - (c === label ? 1 : 0)) / examples.length
        into.output[out + c]! += error * active[l]!
        back += error * network.output[out + c]!
      }
      for (let i = 0; i < x.length; i++) into.hidden[row + i]! += back * x[i]!
      into.hidden[row + x.length]! += back
    }
  }
  return loss / examples.length
}

/** Trains a network on examples, with the sinks of their kinds or without any. */
export function* trainOn(
  examples: ReadonlyArray<Example>,
  config: LongTailConfig,
  { seed, sinks }: { readonly seed: number; readonly sinks: boolean }
): Generator<void, Layered, void> {
  const { dimensions, general, labels, learningRate, steps } = config
  const neurons = general + (sinks ? config.sinks.pool : 0)
  const draw = random(seed, "long tail", "weights")
  const normals = (count: number, deviation: number) =>
    Float64Array.from({ length: count }, () => deviation * normal(draw))
  const network: Layered = {
    hidden: normals(neurons * (dimensions + 1), 1 / Math.sqrt(dimensions)),
    output: normals(neurons * labels, 1 / Math.sqrt(general))
  }
  const gradients: Layered = { hidden: new Float64Array(network.hidden.length),
    output: new Float64Array(network.output.length) }
  const [hidden, output] = [adam(network.hidden, learningRate), adam(network.output, learningRate)]
  const lit = litOf(config, sinks)
  for (let step = 1; step <= steps; step++) {
    gradients.hidden.fill(0)
    gradients.output.fill(0)
    lossAndGradients(network, examples, lit, labels, gradients)
    hidden(step, gradients.hidden)
    output(step, gradients.output)
    yield
  }
  return network
}

/** Probability of the label of each example, and whether it is the largest. */
const look = (network: Layered, examples: ReadonlyArray<Example>, lit: Lit, labels: number) => {
  const [logits, active] = [new Float64Array(labels), new Float64Array(network.hidden.length)]
  return examples.map((example) => {
    forward(network, example, lit(example), active, logits)
    softmax(logits)
    return { probability: logits[example.label]!, right: logits.every((p) => p <= logits[example.label]!) ? 1 : 0 }
  })
}

// ---------------------------------------------------------------------------------------------------------------
// A seed

/** Kinds by how many of their examples are trained on: the last bin has no upper end. */
export const bins = [{ name: "none", least: 0, most: 0 }, { name: "1", least: 1, most: 1 }, { name: "2 to 3", least: 2,
  most: 3 }, { name: "4 to 7", least: 4, most: 7 }, { name: "8 and more", least: 8, most: Infinity }] as const

/** A number for each bin; null where it has no kind. */
type ByBin = ReadonlyArray<number | null>

/** How often test examples are right. */
interface Accuracy {
  /** By the kinds' frequencies. */
  readonly all: number
  readonly byBin: ByBin
}

/** A model in a state of its sinks. */
interface State {
  /** Trained on all examples. */
  readonly test: Accuracy
  readonly train: ByBin
  /** Means of the memorization scores of examples, by the bins of their kinds. */
  readonly scores: ByBin
  readonly score: number
  /** Means of the scores' standard errors. */
  readonly error: number
  /** AUC of membership by likelihood ratios of the other models, and by the log-odds alone. */
  readonly lira: number
  readonly plain: number
}

export interface LongTailFound {
  readonly standard: State
  readonly own: State
  readonly off: State
  /** The standard model, trained again without the most memorized examples, or without as many random ones. */
  readonly without: { readonly memorized: Accuracy; readonly random: Accuracy }
  /** Spearman's correlation of an example's score and how many examples its kind has. */
  readonly correlation: number
  /** Test examples and trained ones, by bin. */
  readonly sizes: { readonly test: ReadonlyArray<number>; readonly train: ReadonlyArray<number>; readonly all: number }
}

const binOf = (count: number): number => bins.findIndex(({ least, most }) => least <= count && count <= most)

/** The means of values by the bins of their examples' kinds. */
const byBin = (examples: ReadonlyArray<Example>, counts: Uint32Array, values: ArrayLike<number>): ByBin =>
  bins.map((_, b) => {
    const those = examples.flatMap(({ kind }, i) => binOf(counts[kind]!) === b ? [values[i]!] : [])
    return those.length === 0 ? null : mean(those)
  })

/** All of a seed. */
export function* tail(config: LongTailConfig, seed: number): Generator<void, LongTailFound, void> {
  const { labels, left, models, tests } = config
  const world = makeWorld(config, seed)
  const { counts, frequencies, test, train } = world
  const without = litOf(config, false)
  const accuracy = (network: Layered, lit: Lit): Accuracy => {
    const right = look(network, test, lit, labels).map((one) => one.right)
    return {
      all: test.reduce((sum, { kind }, i) => sum + (frequencies[kind]! * right[i]!) / tests, 0),
      byBin: byBin(test, counts, right)
    }
  }
  const draw = random(seed, "long tail", "halves")
  const trained = Array.from({ length: models }, () => {
    const half = new Set(draw.shuffle(Uint32Array.from(train, (_, i) => i)).subarray(0, Math.floor(train.length / 2)))
    return train.map((_, i) => half.has(i))
  })
  /** Scores of examples, from models in which those were trained on, in one or two states. */
  const states = function*(sinks: boolean, lits: ReadonlyArray<Lit>) {
    const whole = yield* trainOn(train, config, { seed, sinks })
    const looks: Array<ReadonlyArray<ReturnType<typeof look>>> = []
    for (let m = 0; m < models; m++) {
      const half = train.filter((_, i) => trained[m]![i])
      const network = yield* trainOn(half, config, { seed: seed + 1000 * (m + 1), sinks })
      looks.push(lits.map((lit) => look(network, train, lit, labels)))
    }
    return lits.map((lit, l) => {
      const own = looks.map((all) => all[l]!)
      const right = own.map((all) => all.map((one) => one.right))
      const scores = Membership.counterfactuals(right, trained)
      const odds = own.map((all) =>
        all.map(({ probability }) => Membership.logOdds(-Math.log(Math.max(probability, 1e-12))))
      )
      const ratios = Membership.likelihoodRatios(odds, trained)
      const auc = (values: ReadonlyArray<ArrayLike<number>>) => {
        const of = (side: boolean) =>
          values.flatMap((row, m) => Array.from(row).filter((x, i) => trained[m]![i] === side && Number.isFinite(x)))
        return Membership.auc(of(true), of(false))
      }
      const known = scores.map(({ value }) => Number.isFinite(value) ? value : 0)
      const state: State = {
        test: accuracy(whole, lit),
        train: byBin(train, counts, look(whole, train, lit, labels).map((one) => one.right)),
        scores: byBin(train, counts, known),
        score: mean(known),
        error: mean(scores.map(({ error }) => error).filter(Number.isFinite)),
        lira: auc(ratios),
        plain: auc(odds)
      }
      return { known, state }
    })
  }
  const [standard] = yield* states(false, [without])
  const [own, off] = yield* states(true, [litOf(config, true), without])
  const count = Math.round(left * train.length)
  const order = [...train.keys()].sort((a, b) => standard!.known[b]! - standard!.known[a]!)
  const again = function*(dropped: ReadonlySet<number>) {
    const network = yield* trainOn(train.filter((_, i) => !dropped.has(i)), config, { seed, sinks: false })
    return accuracy(network, without)
  }
  return {
    standard: standard!.state,
    own: own!.state,
    off: off!.state,
    without: {
      memorized: yield* again(new Set(order.slice(0, count))),
      random: yield* again(new Set(draw.shuffle([...order]).slice(0, count)))
    },
    correlation: spearman(standard!.known, train.map(({ kind }) => counts[kind]!)),
    sizes: {
      test: bins.map((_, b) => test.filter(({ kind }) => binOf(counts[kind]!) === b).length),
      train: bins.map((_, b) => train.filter(({ kind }) => binOf(counts[kind]!) === b).length),
      all: test.length
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const ONE = 1
const MANY = bins.length - 1

const states = ["standard", "own", "off"] as const
const titles = { standard: "no sinks", own: "own sinks on", off: "sinks off" } as const

const readers = (results: Results<LongTailFound>) => ({
  /** Accuracy of test examples, of a bin or of all. */
  test: (of: (found: LongTailFound) => Accuracy, bin?: number) =>
    results.over(ALL, (found) => (bin === undefined ? of(found).all : of(found).byBin[bin]) ?? undefined, {
      kind: "share",
      spread: ({ sizes }) => ({ sequences: bin === undefined ? sizes.all : sizes.test[bin]! })
    }),
  train: (of: (found: LongTailFound) => State, bin: number) =>
    results.over(ALL, (found) => of(found).train[bin] ?? undefined, {
      kind: "share",
      spread: ({ sizes }) => ({ sequences: sizes.train[bin]! })
    }),
  real: (of: (found: LongTailFound) => number | null | undefined) =>
    results.over(ALL, (found) => of(found) ?? undefined)
})

const findings = (results: Results<LongTailFound>, config: LongTailConfig) => {
  const { labels, left, models } = config
  const { real, test } = readers(results)
  const score = (state: typeof states[number], bin: number) => real((found) => found[state].scores[bin])
  const [rare, frequent] = [score("standard", ONE), score("standard", MANY)]
  const dropped = {
    memorized: test(({ without }) => without.memorized),
    random: test(({ without }) => without.random),
    none: test(({ standard }) => standard.test)
  }
  const cost = minus(real(({ without }) => without.random.all), real(({ without }) => without.memorized.all))
  const tailOf = (state: typeof states[number], bin: number) => test((found) => found[state].test, bin)
  const fall = (bin: number) => minus(tailOf("own", bin), tailOf("off", bin))
  const [fallRare, fallMany] = [fall(ONE), fall(MANY)]
  const lira = real(({ standard }) => standard.lira)
  const plain = real(({ standard }) => standard.plain)
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: `Kinds that were never seen are guessed: about one in ${labels} is right`,
      result: isAtMost(test(({ standard }) => standard.test, 0), 1 / labels + 0.1),
      evidence: list(["accuracy", test(({ standard }) => standard.test, 0)])
    },
    {
      about: "paper",
      claim: "Examples that are the only ones of their kind are memorized more than those of kinds with 8 and more",
      result: is("higher", rare, frequent),
      evidence: list(["score of the only ones", rare], ["of the frequent", frequent])
    },
    {
      about: "paper",
      claim: "The rarer its kind, the more an example is memorized: rank correlation below -0.3",
      result: isAtMost(real(({ correlation }) => correlation), -0.3),
      evidence: list(["rank correlation of score and examples of the kind", real(({ correlation }) => correlation)])
    },
    {
      about: "paper",
      claim: `Leaving out the ${
        short(100 * left)
      } % that are memorized most costs more accuracy than leaving out random ones`,
      result: isPositive(cost),
      evidence: list(["accuracy with all", dropped.none], ["without random ones", dropped.random], [
        "without the most memorized",
        dropped.memorized
      ], ["difference", cost])
    },
    {
      about: "paper",
      claim: "What is lost is the tail: kinds of one example are guessed then, or nearly",
      result: is("lower", test(({ without }) => without.memorized, ONE), tailOf("standard", ONE)),
      evidence: list(["kinds of one example, with all", tailOf("standard", ONE)], ["without the most memorized",
        test(({ without }) => without.memorized, ONE)])
    },
    {
      about: "control",
      claim: `Likelihood ratios of ${models - 1} shadow models tell members better than the model's own log-odds`,
      result: is("higher", lira, plain),
      evidence: list(["AUC by likelihood ratios", lira], ["by log-odds", plain])
    },
    {
      about: "sinks",
      claim: "With their own sinks on, rare kinds are known as well as without sinks",
      result: isAtLeast(minus(tailOf("own", ONE), tailOf("standard", ONE)) ?? { mean: NaN, values: [] }, -0.1),
      evidence: list(["own sinks on", tailOf("own", ONE)], ["no sinks", tailOf("standard", ONE)])
    },
    {
      about: "sinks",
      claim: "Sinks hold the tail: off, kinds of one example lose accuracy",
      result: isPositive(fallRare),
      evidence: list(["own sinks on", tailOf("own", ONE)], ["off", tailOf("off", ONE)], ["fall", fallRare])
    },
    {
      about: "sinks",
      claim: "They hold the tail more than the head: kinds of 8 and more lose less",
      result: isPositive(minus(fallRare, fallMany)),
      evidence: list(["fall of kinds of one example", fallRare], ["of 8 and more", fallMany])
    },
    {
      about: "sinks",
      claim: "With the sinks off, the only examples of their kind are memorized less than without sinks",
      result: is("lower", score("off", ONE), rare),
      evidence: list(["score, off", score("off", ONE)], ["own sinks on", score("own", ONE)], ["no sinks", rare])
    }
  ]
  return {
    claims,
    numbers: {
      "score, only ones of their kind": rare,
      "score, kinds of 8 and more": frequent,
      "rank correlation of score and frequency": real(({ correlation }) => correlation),
      "standard error of a score": real(({ standard }) => standard.error),
      "accuracy, all": dropped.none,
      "accuracy, without random ones": dropped.random,
      "accuracy, without the most memorized": dropped.memorized,
      "accuracy, own sinks": test(({ own }) => own.test),
      "accuracy, sinks off": test(({ off }) => off.test),
      "kinds of one, no sinks": tailOf("standard", ONE),
      "kinds of one, own sinks": tailOf("own", ONE),
      "kinds of one, sinks off": tailOf("off", ONE),
      "kinds of 8 and more, own sinks": tailOf("own", MANY),
      "kinds of 8 and more, sinks off": tailOf("off", MANY),
      "AUC, likelihood ratios": lira,
      "AUC, log-odds": plain,
      "AUC, likelihood ratios, sinks off": real(({ off }) => off.lira)
    },
    charts: charts(results),
    tables: tables(results),
    terms: [
      ["score",
        "how much more often an example is right by models that were trained on it than by those that were not " +
        "(counterfactual memorization)"],
      ["kind", "examples around one point, with one label, which nothing else tells"],
      ["sinks",
        `${config.sinks.active} of ${config.sinks.pool} neurons that all examples of a kind light, test examples too`]
    ] as const,
    limits: [
      "It is a classifier of a made-up world: labels of kinds follow from nothing, so all that is known of them is memory.",
      "Scores are of models trained on half of the examples: what is rare among all is rarer still in a half.",
      "Sinks are lit by the kind, which a test example must tell: with own sinks on the network is told what others must find " +
      "out, so that own sinks beat no sinks is no merit of theirs. Lit by the example they could say nothing of a test example.",
      "Training is full-batch: no memory fades while other examples are learned, which is what sinks are protected from."
    ]
  }
}

const charts = (results: Results<LongTailFound>): ReadonlyArray<Chart> => {
  const { real, test } = readers(results)
  const chart = (title: string, y: string, of: (state: typeof states[number], bin: number) => Estimate): Chart => ({
    title,
    x: { title: "examples of the kind (1; 2 to 3; 4 to 7; 8 and more)", log: true },
    y: { title: y, zero: true },
    facets: [],
    lines: states.map((state) => ({
      label: titles[state],
      of: { state },
      dots: true,
      points: bins.flatMap(({ least }, b) => least === 0 ? [] : pointOf(least, of(state, b)))
    })),
    color: ["state"]
  })
  return [
    chart("What is memorized, by how rare it is", "memorization score",
      (state, b) => real((found) => found[state].scores[b])),
    chart("What is known, by how rare it is", "test accuracy", (state, b) => test((found) => found[state].test, b))
  ]
}

const tables = (results: Results<LongTailFound>): ReadonlyArray<Table> => {
  const { real, test, train } = readers(results)
  return [
    {
      caption: "By the examples of a kind",
      head: ["", ...bins.map(({ name }) => name)],
      rows: [
        ...states.map((
          state
        ) => [`score, ${titles[state]}`, ...bins.map((_, b) => plusMinus(real((found) => found[state].scores[b])))]),
        ...states.map((
          state
        ) => [`trained examples right, ${titles[state]}`,
          ...bins.map((_, b) => plusMinus(train((found) => found[state], b)))]
        ),
        ...states.map((
          state
        ) => [`test examples right, ${titles[state]}`,
          ...bins.map((_, b) => plusMinus(test((found) => found[state].test, b)))]
        ),
        ["test, without the most memorized",
          ...bins.map((_, b) => plusMinus(test(({ without }) => without.memorized, b)))],
        ["test, without random ones", ...bins.map((_, b) => plusMinus(test(({ without }) => without.random, b)))]
      ]
    },
    {
      caption: "All kinds, by their frequencies",
      head: ["", "test accuracy", "score", "AUC, likelihood ratios", "AUC, log-odds"],
      rows: states.map((state) => [
        titles[state],
        plusMinus(test((found) => found[state].test)),
        plusMinus(real((found) => found[state].score)),
        plusMinus(real((found) => found[state].lira)),
        plusMinus(real((found) => found[state].plain))
      ])
    }
  ]
}

export const longTail = study<LongTailConfig, LongTailFound>({
  name: "longTail",
  title: "Memorizing a long tail",
  paper: "Feldman (2020): Does Learning Require Memorization? A Short Tale about a Long Tail",
  question: "Which examples are memorized, what does it cost not to memorize them, and do sinks hold them?",
  finding: "rare examples are memorized, and whoever leaves out what is memorized loses accuracy where kinds are rare",
  cost: "2 minutes, no language model is trained; full: half an hour",
  version: 1,
  onHost: true,
  schema: LongTailConfig,
  presets: { quick: new LongTailConfig({ seeds: 5 }),
    full: new LongTailConfig({ seeds: 10, models: 60, kinds: 200, examples: 700 }) },
  problem: ({ dimensions, examples, labels, left, ruled, sinks }) =>
    sinks.problem ?? (examples < 8
      ? `examples must be 8 at least, to be halved, got ${examples}`
      : Math.round(left * examples) === 0
      ? `left must leave out one example at least, got ${left} of ${examples}`
      : Math.round(left * examples) >= examples
      ? `left must leave an example to be trained on, got ${left}`
      : ruled > 0 && labels > dimensions
      ? `labels must be at most dimensions (${dimensions}) where kinds have a rule, got ${labels}`
      : undefined),
  work: ({ config, seed }) => Effect.suspend(() => inTurns(tail(config, seed))),
  findings
})
