/**
 * Natively unlearnable models (NULLs, 2026) on a made-up world of facts: sinks by source, of which the source's own are
 * switched off, against retraining without the source, for facts that are unique to it, shared with others, or inferable by
 * rule; gradient ascent and NPO on a standard model beside. That a fact is unique, shared or inferred is known by
 * construction, see `Facts`.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import * as Facts from "../../src/data/stream/Facts.ts"
import type { Row } from "../../src/data/stream/Packing.ts"
import { mixture, tokenDocuments } from "../../src/data/stream/Synthetic.ts"
import { DataError } from "../../src/Errors.ts"
import { mean, variance } from "../../src/measures/Statistics.ts"
import { factTruth } from "../../src/measures/Truth.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
import { unlearners } from "../../src/removal/unlearners/index.ts"
import { scoreClozes } from "../../src/scoring/Cloze.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Line, Point } from "../report/Chart.ts"
import { isAtLeast, isAtMost, isWithin, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import type { Table } from "../report/View.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

/** Sizes of the world; see `Facts.FactOptions`. */
const WorldFields = {
  professors: withDefault(positive, 32),
  sources: withDefault(positive, 8),
  /** Unique facts of a professor. */
  unique: withDefault(positive, 8),
  shared: withDefault(positive, 4),
  /** Sources that state a shared fact. */
  sharedBy: withDefault(positive, 4),
  groups: withDefault(positive, 4),
  heldOut: withDefault(positive, 4)
}

export class FactsConfig extends configuration(Schema.Class<FactsConfig>("FactsConfig")({
  ...seedsOfStudy,
  /** The world of facts. */
  world: withDefault(Schema.Struct(WorldFields), () => Schema.decodeSync(Schema.Struct(WorldFields))({})),
  /** Sources that are deleted together: the first ones, each of another style. Default 2. */
  deleted: withDefault(positive, 2),
  /** Facts of a class that are asked at most. Default 64. */
  asked: withDefault(positive, 64),
  /** The sink model; standard ones have as many neurons as it has on for a token. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 64,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 192 + 1024,
      sinks: { pool: 1024, active: 64 }
    })),
  /** Optimizer steps of each training. Default 600. */
  steps: withDefault(positive, 600),
  /** Rows of a step, each of several documents. Default 8. */
  batchSize: withDefault(positive, 8),
  /** Default 5e-3. */
  learningRate: withDefault(rate, 5e-3),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Learning rates at which gradient ascent and NPO are tried. */
  unlearningRates: withDefault(Schema.NonEmptyArray(rate), () => [3e-4, 1e-3] as const),
  /** Steps of them after which facts are asked, rising. Default up to 32, four epochs of the documents to forget. */
  unlearningSteps: withDefault(Schema.NonEmptyArray(positive), () => [1, 2, 4, 8, 16, 32] as const),
  /** Documents to forget in a step of them. Default 8. */
  unlearningBatch: withDefault(positive, 8),
  /**
   * How far from retraining still counts as equal, as a share of how far the truth ratio of unique facts lies above that of
   * retraining with own sinks on. Default 0.25.
   */
  tolerance: withDefault(fraction, 0.25)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// The world of a seed

const CLASSES = ["unique", "shared", "inferred", "kept"] as const
type Class = typeof CLASSES[number]

/** Facts of a class below which nothing can be said of it. */
const LEAST = 4

/** Both wordings. */
const STYLES = 2

const optionsOf = ({ world }: FactsConfig, seed: number): Facts.FactOptions => ({ ...world, seed })

/** The names of what is deleted. */
const deletedOf = ({ deleted }: FactsConfig, { sources }: Pick<Facts.FactWorld, "sources">): ReadonlyArray<string> =>
  sources.slice(0, deleted).map(({ name }) => name)

/** What a seed asks, and of which sources it is asked. */
const groundOf = (config: FactsConfig, seed: number) => {
  const world = Facts.facts(optionsOf(config, seed))
  const names = deletedOf(config, world)
  const least = { unique: LEAST, shared: LEAST, inferred: LEAST, kept: LEAST }
  const deletion = Facts.deletion(world, names, least)
  const nearest = new Map(deletion.deleted.map((s) => [s, Facts.nearestSource(world, s, deletion.survivors)]))
  const some = (name: Class): ReadonlyArray<Facts.Fact> =>
    random(seed, "asked", name).shuffle([...deletion[name]]).slice(0, config.asked)
  const asked: Readonly<Record<Class, ReadonlyArray<Facts.Fact>>> = {
    unique: some("unique"),
    shared: some("shared"),
    inferred: some("inferred"),
    kept: some("kept")
  }
  return { world, names, deletion, nearest, asked }
}

type Ground = ReturnType<typeof groundOf>

/** Which source's sinks answer for a source. */
type Route = (source: number) => number

interface Looking {
  readonly mode: Sink.SinkMode
  readonly route: Route
}

const itself: Route = (source) => source

/** States of a model with sinks. */
const lookingOf = ({ nearest, deletion, world }: Ground): Readonly<Record<string, Looking>> => {
  const except = deletion.deleted.map((s) => world.sources[s]!.id)
  return {
    own: { mode: Sink.own, route: itself },
    off: { mode: Sink.off, route: itself },
    // the paper's: those of the survivor that is most like the source, and none of a deleted one
    nearest: { mode: { mode: "own", except }, route: (s) => nearest.get(s) ?? s },
    placebo: { mode: Sink.placebo, route: itself }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// A model

/** What is known of a class of facts: means over facts, and their standard errors. */
interface Known {
  readonly facts: number
  /** ln of the truth ratio. */
  readonly logRatio: number
  readonly error: number
  /** Share of facts whose truth is chosen. */
  readonly accuracy: number
  readonly accuracyError: number
}

export interface Looked extends Readonly<Record<Class, Known>> {
  /** Loss of documents about professors who were never met, nats a token: whether it still speaks. */
  readonly heldOut: number
}

export interface Unlearned {
  readonly method: "gradientAscent" | "npo"
  readonly learningRate: number
  readonly step: number
  readonly looked: Looked
}

/** What a part of a seed gives. */
export interface FactsFound {
  readonly states: Readonly<Record<string, Looked>>
  /** Of the standard model. */
  readonly unlearned?: ReadonlyArray<Unlearned>
}

const of = (values: ReadonlyArray<number>) => ({
  mean: mean(values),
  error: Math.sqrt(variance(values) / values.length)
})

const ROWS = 64

/** What the Model that is there knows. */
const look = ({ asked, deletion, world }: Ground, { mode, route }: Looking) =>
  Effect.gen(function*() {
    const model = yield* Model
    const classes: Array<readonly [Class, Known]> = []
    for (const name of CLASSES) {
      const clozes = asked[name].map((fact) => {
        // asked as a question about a source that is gone, where there is one
        const source = fact.sources.find((s) => deletion.deleted.includes(s)) ?? fact.sources[0]!
        const { id } = world.sources[route(source)]!
        return world.clozes(fact, STYLES).map((cloze) => ({ ...cloze, id, name: fact.name }))
      })
      const longest = Math.max(...clozes.flat().flatMap(({ prompt, right, wrong }) =>
        [right, ...wrong].map((completion) => prompt.length + completion.length - 1)
      ))
      const answers = yield* scoreClozes(model, clozes.flat(), mode, { batchSize: ROWS, seqLen: longest })
      let at = 0
      const truths = clozes.map((wordings) =>
        factTruth(answers.slice(at, at += wordings.length))
      )
      const [ratio, choice] = [of(truths.map(({ logRatio }) => logRatio)), of(truths.map(({ choice }) => choice))]
      classes.push([name, { facts: truths.length, logRatio: ratio.mean, error: ratio.error, accuracy: choice.mean,
        accuracyError: choice.error }])
    }
    const unseen = rowsOf(world, ({ split }) => split === "heldOut", route)
    const scores = yield* scoreRows(model, unseen, mode, { batchSize: 16, seqLen: world.longest - 1 })
    const looked: Looked = { ...Object.fromEntries(classes) as Record<Class, Known>, heldOut: summarize(scores)!.loss }
    return looked
  })

const rowsOf = (
  { sequences, sources }: Facts.FactWorld,
  is: (document: Facts.FactDocument) => boolean,
  route: Route = itself
): ReadonlyArray<Row> => {
  const place = new Map(sources.map(({ name }, s) => [name, s]))
  return sequences.filter(is).map(({ name, source, tokens }) => ({
    id: sources[route(place.get(source)!)]!.id,
    tokens,
    document: name,
    offset: 0
  }))
}

/** Gradient ascent and NPO from the weights of the Model that is there, which has them again at the end. */
const unlearn = (ground: Ground, config: FactsConfig, seed: number) =>
  Effect.gen(function*() {
    const { names, world } = ground
    const model = yield* Model
    const weights = yield* model.exportTensors
    const forget = rowsOf(world, ({ source, split }) => split === "document" && names.includes(source))
    // what a survivor says in the same words is neither
    const said = new Set(forget.map(({ tokens }) => tokens.join()))
    const retain = rowsOf(world,
      ({ source, split, tokens }) => split === "document" && !names.includes(source) && !said.has(tokens.join()))
    const found: Array<Unlearned> = []
    for (const method of ["gradientAscent", "npo"] as const) {
      for (const learningRate of config.unlearningRates) {
        const { start } = unlearners[method]
        const steps = config.unlearningSteps.at(-1)!
        yield* Effect.gen(function*() {
          const unlearning = yield* start({ forget, retain, seqLen: world.longest - 1, seed }, {
            learningRate,
            steps,
            batchSize: config.unlearningBatch
          })
          const climb = Effect.gen(function*() {
            for (let step = 1; step <= steps; step++) {
              yield* unlearning.step
              if (!config.unlearningSteps.includes(step)) continue
              const looked = yield* look(ground, { mode: Sink.own, route: itself })
              found.push({ method, learningRate, step, looked })
            }
          })
          // a model that is destroyed has no further points
          yield* Effect.catchTags(climb, { Diverged: () => Effect.void, DataError: () => Effect.void })
        }).pipe(Effect.scoped)
        yield* model.importTensors(weights)
      }
    }
    return found
  })

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const PARTS = ["standard", "retrained", "sinks", "sinksRetrained"] as const

const hasSinks = (part: string): boolean => part.startsWith("sinks")
const isRetrained = (part: string): boolean => part.endsWith("etrained")

const modelOf = ({ model }: FactsConfig, part: string): ModelConfig => {
  if (hasSinks(part)) return model
  const { sinks: _, ...rest } = model
  return new ModelConfig({ ...rest, intermediateSize: model.activeSize })
}

const trainingOf = ({ learningRate, sinkLearningRateRatio, steps }: FactsConfig): TrainConfig =>
  new TrainConfig({ steps, optimizer: new OptimizerConfig({ learningRate, sinks: "lazy", sinkLearningRateRatio }) })

/** Documents that share a row at most. */
const DOCUMENTS = 4

const work = ({ config, part, seed }: { readonly config: FactsConfig; readonly part: string; readonly seed: number },
  at: Parameters<typeof train>[0]) =>
{
  const ground = groundOf(config, seed)
  const { names, world } = ground
  const deleted = isRetrained(part) ? names : []
  const documents = Facts.without(world.sequences, deleted)
  const all = lookingOf(ground)
  const states: ReadonlyArray<string> = !hasSinks(part)
    ? ["own"]
    : isRetrained(part)
    ? ["off", "nearest"]
    : Object.keys(all)
  const measure = Effect.gen(function*() {
    const looked: Array<readonly [string, Looked]> = []
    for (const state of states) looked.push([state, yield* look(ground, all[state]!)])
    const found: FactsFound = {
      states: Object.fromEntries(looked),
      ...(part === "standard" ? { unlearned: yield* unlearn(ground, config, seed) } : {})
    }
    return found
  })
  const { asked, deleted: count, unlearningBatch, unlearningRates, unlearningSteps } = config
  return Effect.map(
    train(at, {
      model: modelOf(config, part),
      training: trainingOf(config),
      seed,
      data: {
        key: ["facts", optionsOf(config, seed), deleted, config.batchSize],
        layer: DataStream.layerTokens(tokenDocuments(documents), world.tokenizer, {
          seqLen: world.longest - 1,
          batchSize: config.batchSize,
          packing: "documents",
          rowSequences: DOCUMENTS,
          heldOutFraction: 0,
          identity: "source",
          sources: mixture(documents),
          seed
        })
      },
      measured: { facts: 1, asked, deleted: count, states,
        ...(part === "standard" ? { unlearningBatch, unlearningRates, unlearningSteps } : {}) }
    }, measure),
    ({ measured }) => measured
  )
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

/** Where a method of unlearning is stopped: the rule of MUSE, see PostHoc of `isolate`. */
export const stopOf = (points: ReadonlyArray<Unlearned>, target: number): Unlearned | undefined => {
  const rates = [...new Set(points.map(({ learningRate }) => learningRate))]
  const reached = rates.flatMap((rate) =>
    points.find(({ learningRate, looked }) => learningRate === rate && looked.unique.logRatio <= target) ?? []
  )
  const most = (all: ReadonlyArray<Unlearned>, by: (one: Unlearned) => number) =>
    all.reduce<Unlearned | undefined>((best, one) => best === undefined || by(one) > by(best) ? one : best, undefined)
  return reached.length > 0
    ? most(reached, ({ looked }) => looked.kept.logRatio)
    : most(points, ({ looked }) => -looked.unique.logRatio)
}

const titles: Readonly<Record<string, string>> = {
  "standard own": "standard",
  "retrained own": "standard, retrained without the sources",
  "sinks own": "sinks: the source's own",
  "sinks off": "sinks: none",
  "sinks nearest": "sinks: the nearest survivor's",
  "sinks placebo": "sinks: placebo",
  "sinksRetrained off": "sinks, retrained: none",
  "sinksRetrained nearest": "sinks, retrained: the nearest survivor's",
  gradientAscent: "gradient ascent",
  npo: "NPO"
}

const classTitles: Readonly<Record<Class, string>> = {
  unique: "unique to a deleted source",
  shared: "shared with survivors",
  inferred: "inferable by rule",
  kept: "unique to survivors"
}

/** ln 2: the truth is twice as likely. */
const KNOWN = Math.LN2

const findings = (results: Results<FactsFound>, config: FactsConfig) => {
  const { tolerance } = config
  const { seeds } = results
  /** By seed: what a model in a state knows, or what a method of unlearning left. */
  const lookedAt = (key: string) => (seed: number): Looked | undefined => {
    const [part, state] = key.split(" ")
    if (state !== undefined) return results.of(part!, seed)?.states[state]
    const target = results.of("retrained", seed)?.states["own"]?.unique.logRatio
    const points = results.of("standard", seed)?.unlearned?.filter(({ method }) => method === part)
    return target === undefined || points === undefined ? undefined : stopOf(points, target)?.looked
  }
  const overFacts = (key: string, name: Class, what: "logRatio" | "accuracy"): Estimate => {
    const found = seeds.map((seed) => lookedAt(key)(seed)?.[name])
    return estimate(found.map((one) => one?.[what]), {
      kind: what === "accuracy" ? "share" : "real",
      spreads: found.map((one) =>
        one && { sequences: one.facts, error: what === "accuracy" ? one.accuracyError : one.error }
      )
    })
  }
  const truth = (key: string, name: Class) => overFacts(key, name, "logRatio")
  const heldOut = (key: string) => estimate(seeds.map((seed) => lookedAt(key)(seed)?.heldOut), { kind: "loss" })
  /** How far above retraining a class is, as a share of how far unique facts are with the source trained on. */
  const share = (key: string, name: Class, on: string, retrained: string): Estimate | undefined =>
    perSeed((now, then, known, unknown) => (now - then) / (known - unknown), truth(key, name), truth(retrained, name),
      truth(on, "unique"), truth(retrained, "unique"))
  const sinksShare = (state: string, name: Class) =>
    share(`sinks ${state}`, name, "sinks own", `sinksRetrained ${state}`)
  const laterShare = (method: string, name: Class) => share(method, name, "standard own", "retrained own")

  const equal = (one: Estimate | undefined): Result =>
    one === undefined ? "not tested" : isWithin(one, { least: -tolerance, most: tolerance })
  const decided = (one: Estimate | undefined, decide: (one: Estimate) => Result): Result =>
    one === undefined || !isKnown(one) ? "not tested" : decide(one)
  const said = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>) =>
    list(...entries) || "no seed has the numbers"
  const lost = minus(truth("sinks own", "unique"), truth("sinks nearest", "unique"))
  const collateral = perSeed(
    (before, after, known, unknown) => (after - before) / (known - unknown),
    truth("sinks own", "kept"),
    truth("sinks nearest", "kept"),
    truth("sinks own", "unique"),
    truth("sinksRetrained nearest", "unique")
  )
  const learned = minus(truth("standard own", "unique"), truth("retrained own", "unique"))
  const within = `an interval within ${digits(2)(tolerance)} of 0 confirms`

  const equals = (state: string, about: Finding["about"], words: string): ReadonlyArray<Finding> =>
    (["unique", "shared", "inferred"] as const).map((name) => ({
      about,
      claim: `${words}, facts ${classTitles[name]} are known as after retraining without the source`,
      result: equal(sinksShare(state, name)),
      evidence: said(
        ["above retraining, as a share of what own sinks know of unique facts", sinksShare(state, name)],
        ["ln truth ratio", truth(`sinks ${state}`, name)],
        ["retrained", truth(`sinksRetrained ${state}`, name)]
      ) + `; ${within}`
    }))
  const taken = (method: "gradientAscent" | "npo"): Finding => {
    const [unique, shared] = [laterShare(method, "unique"), laterShare(method, "shared")]
    const never = isKnown(unique) && unique.mean > tolerance
    return {
      about: "paper",
      claim: `Where ${titles[method]} has made unique facts as unknown as retraining does, shared ones are lost, too`,
      result: never ? "not tested" : decided(shared, (one) => isAtMost(one, -tolerance)),
      evidence: (never ? "it does not get there in the steps that it has: " : "") +
        said(
          ["shared, above retraining, as a share", shared],
          ["unique", unique],
          ["ln truth ratio of shared facts", truth(method, "shared")]
        )
    }
  }
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "A standard model knows unique facts that it does not know when retrained without their sources",
      result: decided(learned, (one) => isAtLeast(one, KNOWN)),
      evidence: said(["difference of ln truth ratios", learned])
    },
    ...(["shared", "inferred"] as const).map((name): Finding => ({
      about: "control",
      claim: `Retrained without the sources, facts ${classTitles[name]} are still preferred twice over others`,
      result: decided(truth("retrained own", name), (one) => isAtLeast(one, KNOWN)),
      evidence: said(["ln truth ratio", truth("retrained own", name)])
    })),
    {
      about: "paper",
      claim: "Unique facts are better known with the source's own sinks than with the nearest survivor's",
      result: decided(lost, (one) => isAtLeast(one, 0)),
      evidence: said(["difference of ln truth ratios", lost])
    },
    ...equals("nearest", "paper", "With the nearest survivor's sinks"),
    taken("gradientAscent"),
    taken("npo"),
    {
      about: "paper",
      claim: "With the nearest survivor's sinks shared facts are not lost",
      result: decided(sinksShare("nearest", "shared"), (one) => isAtLeast(one, -tolerance)),
      evidence: said(["shared, above retraining, as a share", sinksShare("nearest", "shared")])
    },
    ...equals("off", "sinks", "With all sinks off"),
    {
      about: "sinks",
      claim: "Deletion leaves unique facts of other sources as they were, asked with their own sinks",
      result: equal(collateral),
      evidence: said(["change as a share of what own sinks know of unique facts", collateral])
    }
  ]

  const keys = Object.keys(titles)
  const numbers = Object.fromEntries(
    keys.flatMap((key) =>
      CLASSES.flatMap((name) => [
        [`${titles[key]}: ${name}, ln truth ratio`, truth(key, name)] as const,
        [`${titles[key]}: ${name}, accuracy`, overFacts(key, name, "accuracy")] as const
      ])
    ).filter(([, one]) => isKnown(one))
  )
  const table = (caption: string, cell: (key: string, name: Class) => string): Table => ({
    caption,
    head: ["", ...CLASSES.map((name) => classTitles[name]), "held-out loss"],
    rows: keys.map((key) => [
      titles[key]!,
      ...CLASSES.map((name) => cell(key, name)),
      plusMinus(heldOut(key), digits(2))
    ])
  })
  return {
    claims,
    numbers,
    charts: [{
      title: "What is known of facts unique to deleted sources, and of those that others state, too",
      x: { title: "unique: ln of the truth ratio", zero: true },
      y: { title: "shared: ln of the truth ratio", zero: true },
      facets: [],
      lines: [
        ...keys.filter((key) => key.includes(" ")).map((key): Line => ({
          label: titles[key]!,
          of: { what: titles[key]! },
          dots: true,
          points: [pointOf(truth(key, "unique"), truth(key, "shared"))]
        })),
        ...pathsOf(results, config)
      ],
      color: ["what"]
    }],
    tables: [
      table("ln of the truth ratio, right over wrong; 0: no preference",
        (key, name) => plusMinus(truth(key, name), digits(2))),
      table(`Share of facts whose truth is chosen; guessing: 0.25`,
        (key, name) => plusMinus(overFacts(key, name, "accuracy"), digits(2)))
    ],
    terms: [
      ["truth ratio",
        "the likelihood a token of the right completion over that of wrong ones, geometric means over wrong " +
        "ones, wordings and facts; above 1 (ln above 0) the model prefers the truth. TOFU's is its inverse"],
      ["unique, shared, inferred",
        "stated by one deleted source alone; by others, too; by a deleted source alone, but a rule " +
        "away from a premise that others state and the prompt repeats"],
      ["nearest survivor", "the source left whose counts of words are most like the deleted one's"]
    ] as const,
    limits: [
      `A world of ${config.world.professors} professors and ${config.world.sources} sources in a few sentence patterns: facts of ` +
      "real text overlap in degrees, and its sources are millions.",
      "Gradient ascent and NPO are stopped by a rule that knows the retrained model, which favours them.",
      "Shared facts are stated more often than unique ones, in training as in the paper."
    ]
  }
}

const pointOf = (x: Estimate, y: Estimate): Point => ({
  x: x.mean,
  y: y.mean,
  ...(x.low === undefined ? {} : { left: x.low, right: x.high! }),
  ...(y.low === undefined ? {} : { low: y.low, high: y.high! })
})

/** The ways of unlearning from the standard model on, means over seeds. */
const pathsOf = (results: Results<FactsFound>,
  { unlearningRates, unlearningSteps }: FactsConfig): ReadonlyArray<Line> =>
  (["gradientAscent", "npo"] as const).flatMap((method) =>
    unlearningRates.map((rate): Line => {
      const at = (step: number, name: Class) =>
        results.over("standard", (found) =>
          step === 0
            ? found.states["own"]?.[name].logRatio
            : found.unlearned?.find((one) => one.method === method && one.learningRate === rate && one.step === step)
              ?.looked[name].logRatio)
      return {
        label: `${titles[method]!} at ${rate}`,
        of: { what: `${titles[method]!} at ${rate}` },
        points: [0, ...unlearningSteps].map((step) => ({
          x: at(step, "unique").mean,
          y: at(step, "shared").mean,
          note: `${step} steps`
        }))
      }
    })
  )

export const facts = study<FactsConfig, FactsFound>({
  name: "facts",
  title: "Facts of a source, unlearned natively",
  paper:
    "Natively Unlearnable Large Language Models (2026), arXiv 2606.13873; the world after DUSK (2025), arXiv 2505.15209",
  question:
    "Does switching off a source's sinks do what retraining without it does, for facts that only it states, that others " +
    "state too, and that follow by a rule?",
  finding:
    "unique facts go with the source's sinks as they do with retraining, shared and inferable ones stay; gradient ascent " +
    "and NPO take shared ones along",
  cost: "4 minutes; full: an hour",
  version: 1,
  schema: FactsConfig,
  presets: {
    quick: new FactsConfig({}),
    full: new FactsConfig({ seeds: 5, steps: 1600, deleted: 4, asked: 256, unlearningRates: [3e-4, 1e-3, 3e-3],
      unlearningSteps: [4, 8, 16, 24, 32, 48, 64],
      world: { professors: 64, sources: 16, unique: 8, shared: 4, sharedBy: 4, groups: 4, heldOut: 8 } })
  },
  problem: (config) => {
    const { deleted, unlearningSteps } = config
    if (unlearningSteps.some((step, i) => i > 0 && step <= unlearningSteps[i - 1]!)) {
      return `unlearningSteps must rise, got ${unlearningSteps.join(", ")}`
    }
    const wrong = Facts.factProblems(optionsOf(config, 0))
    if (wrong.length > 0) return ["the world of facts cannot be made:", ...wrong].join("\n  ")
    if (deleted >= config.world.sources) {
      return `deleted must be less than world.sources, ${config.world.sources}, got ${deleted}`
    }
    for (const seed of Array.from({ length: config.seeds }, (_, i) => config.seed + i)) {
      try {
        groundOf(config, seed)
      } catch (error) {
        if (error instanceof DataError) return error.detail
        throw error
      }
    }
    return undefined
  },
  parts: () => PARTS,
  work,
  findings
})
