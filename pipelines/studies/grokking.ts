/**
 * To grok or not to grok (Doshi, Das, He and Gromov 2024): addition modulo a prime, some of whose answers are wrong in training.
 * Whether the network finds the rule, memorizes the wrong answers, or does both, by label noise and weight decay; which of its
 * neurons do which, by the spectra of their weights; and whether sinks, lit by the training pair and dropped at test, do what
 * weight decay does. Float64, on the host.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import * as Grokking from "../../src/measures/Grokking.ts"
import { mean, quantile } from "../../src/measures/Statistics.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { inTurns } from "../../src/Turns.ts"
import type { Chart } from "../report/Chart.ts"
import { all, is, isAtLeast, isAtMost, list, type Result } from "../report/Claim.ts"
import { type Estimate, minus, plusMinus } from "../report/Estimate.ts"
import { short, type Table } from "../report/View.ts"
import { isPositive, pointOf } from "../study/estimates.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"

export class GrokkingConfig extends configuration(Schema.Class<GrokkingConfig>("GrokkingConfig")({
  ...seedsOfStudy,
  /** The modulus, an odd prime. Default 37. */
  modulus: withDefault(Schema.Int.pipe(Schema.between(5, 127)), 37),
  /** Share of all pairs that are trained on. Default 0.7. */
  trained: withDefault(fraction, 0.7),
  /** General neurons. Default 128. */
  general: withDefault(positive, 128),
  /** Full-batch steps. Default 300. */
  steps: withDefault(positive, 300),
  /** Of AdamW. Default 0.01. */
  learningRate: withDefault(rate, 0.01),
  /** Shares of training pairs with a random answer, ascending. Default 0, 0.15, 0.3, 0.45. */
  noises: withDefault(Schema.NonEmptyArray(fraction), () => [0, 0.15, 0.3, 0.45] as const),
  /** Weight decays, ascending, from 0 on. Default 0, 5, 10, 20. */
  decays: withDefault(Schema.NonEmptyArray(atLeast0), () => [0, 5, 10, 20] as const),
  /** Label noise of the pruning curves and of sinks. Default 0.3. */
  noise: withDefault(fraction, 0.3),
  /** Sinks that are tried without weight decay, each lit by the number of the training pair. Default: three pools. */
  sinks: withDefault(Schema.Array(SinkConfig), () => [
    new SinkConfig({ pool: 64, active: 4, block: 1 }),
    new SinkConfig({ pool: 256, active: 4, block: 1 }),
    new SinkConfig({ pool: 2048, active: 1, block: 1 })
  ])
})) {}

/** Shares of pairs whose largest answer is their label. */
interface Accuracies {
  /** Trained pairs with the right answer; NaN as null where there is none. */
  readonly clean: number | null
  /** Those with a random one. */
  readonly corrupted: number | null
  readonly train: number
  /** Pairs that were never seen. */
  readonly test: number
}

/** A point of a pruning curve. */
interface Pruned extends Accuracies {
  /** Share of the general neurons that are dropped. */
  readonly dropped: number
}

export interface GrokkingFound {
  /** With all that training has on; of a network with sinks, each pair's own. */
  readonly own: Accuracies
  /** With the general neurons alone. */
  readonly off: Accuracies
  readonly loss: number
  /** Quartiles of the inverse participation ratios of the general neurons and, where there are any, of the sinks. */
  readonly general: readonly [number, number, number]
  readonly pool: readonly [number, number, number] | null
  /** General neurons dropped by their ratio, the lowest and the highest first. */
  readonly ascending: ReadonlyArray<Pruned>
  readonly descending: ReadonlyArray<Pruned>
  readonly pairs: { readonly clean: number; readonly corrupted: number; readonly train: number; readonly test: number }
}

/** Points of a pruning curve. */
const POINTS = 16

const quartiles = (
  values: Float64Array
): readonly [number, number, number] => [quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75)]

/** Trains a network and looks at it. */
export function* grok(options: Grokking.GrokkingOptions): Generator<void, GrokkingFound, void> {
  const world = Grokking.makeWorld(options)
  const network = Grokking.makeNetwork(options)
  const { test, train } = world
  let loss = NaN
  for (const now of Grokking.training({ network, world }, options)) {
    loss = now
    yield
  }
  const accuracies = (of: Grokking.Network, lit?: ReadonlyArray<Grokking.Lit>): Accuracies => {
    const right = Grokking.correct(of, train, lit === undefined ? {} : { lit })
    const share = (some: ReadonlyArray<boolean>) => some.length === 0 ? null : some.filter(Boolean).length / some.length
    return {
      clean: share(right.filter((_, i) => !train[i]!.corrupted)),
      corrupted: share(right.filter((_, i) => train[i]!.corrupted)),
      train: share(right)!,
      test: share(Grokking.correct(of, test))!
    }
  }
  const ratios = Grokking.participations(network.general, world.modulus)
  const order = [...ratios.keys()].sort((a, b) => ratios[a]! - ratios[b]!)
  const prune = function*(neurons: ReadonlyArray<number>) {
    const points: Array<Pruned> = []
    for (let i = 0; i <= POINTS; i++) {
      const count = Math.round((neurons.length * i) / POINTS)
      const general = Grokking.without(network.general, neurons.slice(0, count))
      points.push({ dropped: count / neurons.length, ...accuracies({ ...network, general }) })
      yield
    }
    return points
  }
  const corrupted = train.filter((pair) => pair.corrupted).length
  return {
    own: accuracies(network, Grokking.litOf(options.sinks, train.length)),
    off: accuracies(network),
    loss,
    general: quartiles(ratios),
    pool: network.sinks.width === 0 ? null : quartiles(Grokking.participations(network.sinks, world.modulus)),
    ascending: yield* prune(order),
    descending: yield* prune(order.toReversed()),
    pairs: { clean: train.length - corrupted, corrupted, train: train.length, test: test.length }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Parts

const cellName = (noise: number, decay: number): string => `noise ${noise}, decay ${decay}`
const sinksName = ({ active, pool }: SinkConfig): string => `${active} of ${pool} sinks`

interface Part {
  readonly name: string
  readonly noise: number
  readonly decay: number
  readonly sinks?: SinkConfig
}

const partsOfConfig = ({ decays, noise, noises, sinks }: GrokkingConfig): ReadonlyArray<Part> => {
  const cells = [...new Set([...noises, noise])].flatMap((xi) =>
    decays.map((decay): Part => ({ name: cellName(xi, decay), noise: xi, decay }))
  )
  return [...cells, ...sinks.map((one): Part => ({ name: sinksName(one), noise, decay: 0, sinks: one }))]
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const over = (
  results: Results<GrokkingFound>,
  part: string,
  of: (found: GrokkingFound) => number | null,
  pairs: keyof GrokkingFound["pairs"]
): Estimate =>
  results.over(part, (found) => of(found) ?? undefined, {
    kind: "share",
    spread: (found) => ({ sequences: found.pairs[pairs] })
  })

/** The mean over the points of a pruning curve. */
const area = (curve: ReadonlyArray<Pruned>, of: keyof Accuracies): number =>
  mean(curve.map((point) => point[of] ?? NaN))

const opposite: Readonly<Record<Result, Result>> = {
  held: "did not hold",
  "did not hold": "held",
  "not decided": "not decided",
  "not tested": "not tested"
}

const findings = (results: Results<GrokkingFound>, config: GrokkingConfig) => {
  const { decays, modulus, noise, noises, sinks } = config
  const at = (decay: number, xi = noise) => {
    const part = cellName(xi, decay)
    return {
      test: over(results, part, ({ off }) => off.test, "test"),
      train: over(results, part, ({ off }) => off.train, "train"),
      corrupted: over(results, part, ({ off }) => off.corrupted, "corrupted"),
      ratio: results.over(part, ({ general }) => general[1], { kind: "share" })
    }
  }
  const [plain, least, most] = [at(decays[0]!), at(decays[Math.min(1, decays.length - 1)]!), at(decays.at(-1)!)]
  const middle = at(decays[Math.max(1, decays.length - 2)]!)
  const curve = (order: "ascending" | "descending", of: keyof Accuracies) =>
    results.over(cellName(noise, decays[Math.min(1, decays.length - 1)]!), (found) => area(found[order], of))
  const pruning = {
    keeps: minus(curve("ascending", "test"), curve("descending", "test")),
    forgets: minus(curve("descending", "corrupted"), curve("ascending", "corrupted"))
  }
  const tried = sinks.map((one) => {
    const part = sinksName(one)
    return {
      name: part,
      test: over(results, part, ({ off }) => off.test, "test"),
      corrupted: over(results, part, ({ off }) => off.corrupted, "corrupted"),
      own: over(results, part, ({ own }) => own.corrupted, "corrupted"),
      gap: minus(results.over(part, ({ general }) => general[1]), results.over(part, ({ pool }) => pool?.[1]))
    }
  })
  /** Of sinks of any size. */
  const any = (of: (one: typeof tried[number]) => Result): Result => {
    const each = tried.map(of)
    return each.length === 0
      ? "not tested"
      : each.includes("held")
      ? "held"
      : each.includes("not decided")
      ? "not decided"
      : "did not hold"
  }
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Without label noise and weight decay, nine in ten of the pairs that were never seen are right",
      result: noises.includes(0) ? isAtLeast(at(decays[0]!, 0).test, 0.9) : "not tested",
      evidence: list(["test accuracy", at(decays[0]!, 0).test])
    },
    {
      about: "paper",
      claim:
        `Without weight decay, rule and memory coexist: of ${short(noise)} label noise nine in ten are memorized, ` +
        "and half of the unseen pairs are right",
      result: all(isAtLeast(plain.corrupted, 0.9), isAtLeast(plain.test, 0.5)),
      evidence: list(["corrupted", plain.corrupted], ["test", plain.test])
    },
    {
      about: "paper",
      claim: "Some weight decay inverts training and test partly: more unseen pairs are right than trained ones",
      result: is("higher", least.test, least.train),
      evidence: list(["test", least.test], ["train", least.train])
    },
    {
      about: "paper",
      claim:
        "More weight decay inverts them fully: half of the memorized answers are gone, and nine in ten unseen are right",
      result: all(isAtMost(middle.corrupted, 0.5), isAtLeast(middle.test, 0.9)),
      evidence: list(["corrupted", middle.corrupted], ["test", middle.test])
    },
    {
      about: "paper",
      claim: "Still more makes the network forget everything: less than one in five unseen pairs is right",
      result: isAtMost(most.test, 0.2),
      evidence: list(["test", most.test], ["train", most.train])
    },
    {
      about: "paper",
      claim: "Weight decay makes neurons periodic: their median inverse participation ratio rises",
      result: is("higher", least.ratio, plain.ratio),
      evidence: list(["with", least.ratio], ["without", plain.ratio])
    },
    {
      about: "paper",
      claim: "Dropping neurons of low ratio first keeps the rule longer than dropping those of high ratio first",
      result: isPositive(pruning.keeps),
      evidence: list(["mean test accuracy along the curve, more by", pruning.keeps])
    },
    {
      about: "paper",
      claim: "And it forgets corrupted answers sooner",
      result: isPositive(pruning.forgets),
      evidence: list(["mean corrupted accuracy along the curve, less by", pruning.forgets])
    },
    {
      about: "sinks",
      claim: "Corrupted answers are known with their own sinks on: nine in ten, with sinks of any size",
      result: any(({ own }) => isAtLeast(own, 0.9)),
      evidence: list(...tried.map(({ name, own }) => [name, own] as const))
    },
    {
      about: "sinks",
      claim: "With all sinks dropped, and no weight decay, corrupted answers are gone: at most one in ten is left",
      result: any(({ corrupted }) => isAtMost(corrupted, 0.1)),
      evidence: list(...tried.map(({ corrupted, name }) => [name, corrupted] as const))
    },
    {
      about: "sinks",
      claim: "With all sinks dropped, more unseen pairs are right than without sinks and weight decay",
      result: any(({ test }) => is("higher", test, plain.test)),
      evidence: list(["without sinks", plain.test], ...tried.map(({ name, test }) => [name, test] as const))
    },
    {
      about: "sinks",
      claim: "Sinks keep the network from finding the rule: fewer unseen pairs are right than without",
      result: opposite[any(({ test }) => opposite[is("lower", test, plain.test)])],
      evidence: list(["without sinks", plain.test], ...tried.map(({ name, test }) => [name, test] as const))
    },
    {
      about: "sinks",
      claim: "General neurons are more periodic than sinks: their median ratio is higher",
      result: any(({ gap }) => isPositive(gap)),
      evidence: list(...tried.map(({ gap, name }) => [name, gap] as const))
    }
  ]
  return {
    claims,
    numbers: {
      "test, no decay": plain.test,
      "corrupted, no decay": plain.corrupted,
      "test, least decay": least.test,
      "corrupted, least decay": least.corrupted,
      "test, last but one decay": middle.test,
      "corrupted, last but one decay": middle.corrupted,
      "test, most decay": most.test,
      "ratio, no decay": plain.ratio,
      "ratio, least decay": least.ratio,
      ...Object.fromEntries(tried.flatMap(({ corrupted, name, own, test }) => [
        [`test, ${name}, off`, test],
        [`corrupted, ${name}, off`, corrupted],
        [`corrupted, ${name}, own`, own]
      ]))
    },
    charts: charts(results, config),
    tables: tables(results, config),
    terms: [
      ["corrupted", `trained pairs whose answer was drawn at random; one in ${modulus} of them is right by luck`],
      ["test", "pairs that were never seen, by their true answers"],
      ["ratio",
        `inverse participation ratio of a neuron's weights over the residues: 1 of a wave, ${
          short(2 / (modulus + 1))
        } of a flat spectrum`],
      ["off", "all sinks dropped"]
    ] as const,
    limits: [
      `The paper has modulus 97, 500 neurons and up to 5,000 steps; here it is ${modulus}, ${config.general} and ${config.steps}: ` +
      "where phases end by label noise and decay is another matter.",
      "Training is full-batch: every pair's sinks learn in every step, and nothing is seen more often than anything else. " +
      "Sinks in pretraining live on the difference between what repeats and what does not.",
      "Before this was written down, sinks were also tried with a learning rate of a tenth and a hundredth, with weight decay " +
      "on all weights and on general neurons alone, and in batches of 64, dense and lazy: with none of these were more " +
      "unseen pairs right than without sinks at the same decay."
    ]
  }
}

const charts = (results: Results<GrokkingFound>, config: GrokkingConfig): ReadonlyArray<Chart> => {
  const { decays, noise, noises } = config
  const phases = (["test", "corrupted"] as const).flatMap((of) =>
    decays.map((decay) => ({
      label: `${of}, decay ${short(decay)}`,
      of: { what: of, decay: short(decay) },
      dots: true,
      points: noises.flatMap((xi) => pointOf(xi, over(results, cellName(xi, decay), ({ off }) => off[of], of)))
    }))
  )
  const curves = (order: "ascending" | "descending"): Chart => ({
    title: `Neurons dropped by ${order} ratio: label noise ${short(noise)}, decay ${
      short(decays[Math.min(1, decays.length - 1)]!)
    }`,
    x: { title: "share of neurons dropped" },
    y: { title: "accuracy", zero: true },
    facets: [],
    lines: (["test", "train", "corrupted", "clean"] as const).map((of) => ({
      label: of,
      of: { what: of },
      points: Array.from({ length: POINTS + 1 },
        (_, i) =>
          pointOf(i / POINTS, over(results, cellName(noise, decays[Math.min(1, decays.length - 1)]!), (found) =>
            found[order][i]![of], of))).flat()
    })),
    color: ["what"]
  })
  return [
    {
      title: "Rule and memory, by label noise and weight decay",
      x: { title: "label noise" },
      y: { title: "accuracy", zero: true },
      facets: [],
      lines: phases,
      color: ["decay"],
      dash: ["what"]
    },
    curves("ascending"),
    curves("descending")
  ]
}

const tables = (results: Results<GrokkingFound>, config: GrokkingConfig): ReadonlyArray<Table> => {
  const { decays, noise, noises, sinks } = config
  const cell = (part: string, of: (found: GrokkingFound) => number | null, pairs: keyof GrokkingFound["pairs"]) =>
    plusMinus(over(results, part, of, pairs))
  const row = (name: string, part: string) => [
    name,
    cell(part, ({ own }) => own.corrupted, "corrupted"),
    cell(part, ({ off }) => off.corrupted, "corrupted"),
    cell(part, ({ off }) => off.clean, "clean"),
    cell(part, ({ off }) => off.test, "test"),
    plusMinus(results.over(part, ({ general }) => general[1], { kind: "share" })),
    plusMinus(results.over(part, ({ pool }) => pool?.[1], { kind: "share" }))
  ]
  return [
    {
      caption: "Phases",
      head: ["label noise", "decay", "test", "train", "corrupted"],
      rows: noises.flatMap((xi) =>
        decays.map((decay) => {
          const part = cellName(xi, decay)
          return [short(xi), short(decay), cell(part, ({ off }) => off.test, "test"),
            cell(part, ({ off }) => off.train, "train"), cell(part, ({ off }) => off.corrupted, "corrupted")]
        })
      )
    },
    {
      caption: `Sinks instead of weight decay: label noise ${short(noise)}`,
      head: ["", "corrupted, own", "corrupted, off", "clean, off", "test", "ratio, general", "ratio, sinks"],
      rows: [
        ...decays.map((decay) => row(`no sinks, decay ${short(decay)}`, cellName(noise, decay))),
        ...sinks.map((one) => row(sinksName(one), sinksName(one)))
      ]
    }
  ]
}

const isPrime = (n: number): boolean => {
  for (let d = 2; d * d <= n; d++) if (n % d === 0) return false
  return n > 1
}

export const grokking = study<GrokkingConfig, GrokkingFound>({
  name: "grokking",
  title: "To grok or not to grok",
  paper: "Doshi, Das, He and Gromov (2024): To Grok or not to Grok: Disentangling Generalization and Memorization on " +
    "Corrupted Algorithmic Datasets",
  question:
    "When does a network find a rule, memorize wrong answers, or do both, in which neurons, and do sinks part them?",
  finding:
    "weight decay takes a network from rule and memory side by side to the rule alone, and then to nothing; neurons that " +
    "hold the rule are waves, and dropping the others leaves the rule",
  cost: "3 minutes, no language model is trained; full: an hour",
  version: 1,
  onHost: true,
  schema: GrokkingConfig,
  presets: {
    quick: new GrokkingConfig({ seeds: 3 }),
    full: new GrokkingConfig({ seeds: 3, modulus: 59, trained: 0.6, general: 256, steps: 600,
      noises: [0, 0.15, 0.3, 0.45, 0.6], decays: [0, 2, 5, 10, 20] })
  },
  parts: (config) => partsOfConfig(config).map(({ name }) => name),
  problem: (config) => {
    const { decays, modulus, noise, noises, sinks, trained } = config
    const names = partsOfConfig(config).map(({ name }) => name)
    return !isPrime(modulus)
      ? `modulus must be a prime, got ${modulus}: else residues have no waves of one kind`
      : Math.round(modulus * modulus * trained) >= modulus * modulus
      ? `trained must leave a pair to be tested, got ${trained} of ${modulus * modulus}`
      : Math.round(modulus * modulus * trained * noise) < 1
      ? `noise must corrupt a pair at least, got ${noise} of ${Math.round(modulus * modulus * trained)} trained pairs`
      : [noises, decays].some((all) => all.some((one, i) => i > 0 && one <= all[i - 1]!))
      ? "noises and decays must ascend, each value once"
      : decays.length < 2
      ? `decays must be 2 at least, to compare, got ${decays.length}`
      : new Set(names).size < names.length
      ? "sinks has two of one pool and as many active: leave one out"
      : sinks.map(({ problem }) => problem).find((one) => one !== undefined)
  },
  work: ({ config, part, seed }) => {
    const { decay, noise, sinks } = partsOfConfig(config).find(({ name }) => name === part)!
    const { general, learningRate, modulus, steps, trained } = config
    return Effect.suspend(() =>
      inTurns(
        grok({ seed, modulus, trained, general, steps, learningRate, corrupted: noise, weightDecay: decay,
          ...(sinks === undefined ? {} : { sinks }) })
      )
    )
  },
  findings
})
