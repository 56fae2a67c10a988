/**
 * Stoehr et al. (2024), Localizing Paragraph Memorization, in miniature: where the gradient of a memorized sequence falls,
 * against that of one never trained on, on which tokens its continuation hangs, and what editing the few weights does that
 * are pulled at hardest. Sinks beside.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { perturb, TokenPerturbationOptions } from "../../src/attacks/tokenPerturbation.ts"
import { atLeast0, configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { DataError } from "../../src/Errors.ts"
import { componentMass, type ComponentName, COMPONENTS, eachGradient } from "../../src/inside/GradientMass.ts"
import { mean, variance } from "../../src/measures/Statistics.ts"
import { generate } from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { editedTargets, editSparsely, type UnlearnOptions } from "../../src/removal/unlearners/index.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Line } from "../report/Chart.ts"
import { all, is, isAtLeast, isAtMost, list } from "../report/Claim.ts"
import { digits, type Estimate, intervalOf, isKnown, minus, plusMinus } from "../report/Estimate.ts"
import { short } from "../report/View.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class LocalizingConfig extends configuration(Schema.Class<LocalizingConfig>("LocalizingConfig")({
  ...seedsOfStudy,
  /** The text: its repeated sequences are the memorized ones, the held-out ones the control. */
  data: withDefault(DataConfig,
    () =>
      new DataConfig({ batchSize: 8, repeatedSequences: 12, repeats: 72, singleSequences: 384, heldOutSequences: 64 })),
  /** The sink model; the standard one has its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 4,
      numAttentionHeads: 2,
      intermediateSize: 96 + 2048,
      sinks: { pool: 2048, active: 32 }
    })),
  /** Steps of training. Default 156: all repeats once. */
  steps: withDefault(positive, 156),
  /** Peak rate of training. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Memorized sequences that are looked at, and as many of the control. Default 12. */
  sequences: withDefault(Schema.Int.pipe(Schema.between(2, 4096)), 12),
  /** Every so many places of a beginning are perturbed, each alone. Default 4. */
  every: withDefault(positive, 4),
  /** Shares of the weights that are edited, the paper's first, each in turn. Default 0.001 and 0.01. */
  shares: withDefault(Schema.NonEmptyArray(fraction.pipe(Schema.greaterThan(0))), () => [0.001, 0.01] as const),
  /** Steps of an edit. Default 20. */
  editSteps: withDefault(positive, 20),
  /** Rate of an edit, of AdamW, constant. Default 1e-2. */
  editRate: withDefault(rate, 1e-2),
  /** Weight of what is to be said, beside that of what is to stay. Default 0.1. */
  gamma: withDefault(atLeast0, 0.1)
})) {}

const PARTS = ["standard", "sinks"] as const

/** What is edited: nothing, the hardest pulled share, a random one, all; and the same to write in. */
const editName = (among: NonNullable<UnlearnOptions["among"]>, share: number): string =>
  among === "all" ? "all weights" : `${among === "gradient" ? "top" : "random"} ${short(100 * share)} %`

/** A mean over sequences. */
interface Mean {
  readonly mean: number
  readonly sequences: number
  readonly error: number
}

const meanOf = (values: ReadonlyArray<number>): Mean => ({
  mean: mean(values),
  sequences: values.length,
  error: values.length < 2 ? 0 : Math.sqrt(variance(values) / values.length)
})

/** What is said of a model: shares of suffixes before the first other token. */
interface Said {
  /** Of the memorized sequences. */
  readonly memorized: Mean
  /** Of what the model itself said behind the control's beginnings before anything was done to it. */
  readonly control: Mean
}

export interface LocalizingFound {
  /** By kind of sequence: share of the gradient's absolute values, by layer and component; heads are summed up. */
  readonly mass: Readonly<Record<"memorized" | "control", ReadonlyArray<{
    readonly layer: number
    readonly component: ComponentName
    readonly share: Mean
  }>>>
  /** Share of the greedy continuation that is lost when a token of the beginning is another: over all places, and at each. */
  readonly lost: Readonly<Record<"memorized" | "control", Mean>>
  readonly places: ReadonlyArray<{ readonly place: number; readonly memorized: number; readonly control: number }>
  /** Share on the lower half of the blocks, of what falls on blocks. */
  readonly lower: Readonly<Record<"memorized" | "control", Mean>>
  /** Share on own sinks; 0 without sinks. */
  readonly own: Readonly<Record<"memorized" | "control", Mean>>
  /** Share of the most pulled head, of what falls on attention. */
  readonly head: Readonly<Record<"memorized" | "control", Mean>>
  /** By what was done: `before`, edits by name, `sinks off`. */
  readonly said: Readonly<Record<string, Said>>
  /** By name of the edit, loss of a never seen suffix that was to be written in, nats a token: before and behind. */
  readonly written: Readonly<Record<string, { readonly before: number; readonly after: number }>>
}

const dataOf = ({ data }: LocalizingConfig, seed: number): DataConfig => new DataConfig({ ...data, seed })

const ATTENTION: ReadonlyArray<ComponentName> = ["query", "key", "value", "output"]

/** Shares of a gradient, by place. */
const sharesOf = (parts: ReturnType<typeof componentMass>, layers: number) => {
  const sum = (of: typeof parts) => of.reduce((all, one) => all + one.sum, 0)
  const total = sum(parts)
  const blocks = parts.filter(({ layer }) => layer >= 0)
  const attention = parts.filter(({ component }) => ATTENTION.includes(component))
  const heads = new Map<string, number>()
  for (const { component, head, layer, sum } of attention) {
    if (component !== "query" && component !== "output") continue
    heads.set(`${layer} ${head}`, (heads.get(`${layer} ${head}`) ?? 0) + sum)
  }
  return {
    lower: sum(blocks.filter(({ layer }) => layer < layers / 2)) / sum(blocks),
    own: sum(parts.filter(({ component }) => component.startsWith("ownSinks"))) / total,
    head: Math.max(...heads.values()) / [...heads.values()].reduce((a, b) => a + b, 0),
    by: (layer: number, component: ComponentName) =>
      sum(parts.filter((one) => one.layer === layer && one.component === component)) / total
  }
}

const measure = (config: LocalizingConfig, part: typeof PARTS[number], seed: number) =>
  Effect.gen(function*() {
    const { editRate, editSteps, gamma, sequences, shares } = config
    const data = yield* DataStream
    const model = yield* Model
    const { seqLen } = data
    const prompt = Math.floor((seqLen + 1) / 2)
    const memorized = data.split("repeated").slice(0, sequences).map((row): Row => ({ ...row, scoredFrom: prompt }))
    const index = overlapIndex()
    for (const row of data.split("repeated")) index.add(row)
    const unseen = data.split("heldOut").filter((row) => index.find(row) === undefined)
    if (memorized.length < 2 || unseen.length < 2 * sequences) {
      return yield* new DataError({
        detail:
          `${memorized.length} sequences are repeated and ${unseen.length} held out that are like none of them; ` +
          `${sequences} and ${2 * sequences} are needed: lower sequences, or ask for more in data`
      })
    }
    const control = unseen.slice(0, sequences).map((row): Row => ({ ...row, scoredFrom: prompt }))
    const neutral = unseen.slice(sequences, 2 * sequences)
    const batchSize = sequences

    // ---- where gradients fall
    const layers = model.config.numHiddenLayers
    const gradients = (rows: ReadonlyArray<Row>) =>
      eachGradient(rows, { mode: Sink.own, seqLen },
        (config, gradients, row) => sharesOf(componentMass(config, gradients, row.id), layers))
    const fallen = { memorized: yield* gradients(memorized), control: yield* gradients(control) }
    const over = <K extends "lower" | "own" | "head">(key: K) => ({
      memorized: meanOf(fallen.memorized.map((one) => one[key])),
      control: meanOf(fallen.control.map((one) => one[key]))
    })
    const places = [-1, ...Array.from({ length: layers }, (_, l) => l)].flatMap((layer) =>
      COMPONENTS.map((component) => ({ layer, component }))
    )
    const massOf = (all: typeof fallen.memorized) =>
      places.map(({ component, layer }) => ({ layer, component,
        share: meanOf(all.map((one) => one.by(layer, component))) })
      )
        .filter(({ share }) => share.mean > 0)

    // ---- on which tokens a continuation hangs
    const perturbed = (rows: ReadonlyArray<Row>) =>
      perturb(rows, { rows, seen: [], others: [], mode: Sink.own, seed, seqLen, batchSize },
        new TokenPerturbationOptions({ context: prompt, every: config.every }))
    const hanging = { memorized: yield* perturbed(memorized), control: yield* perturbed(control) }
    const lostOf = (all: typeof hanging.memorized) => meanOf(all.map((places) => mean(places.map(({ drop }) => drop))))
    const dropAt = (all: typeof hanging.memorized, i: number) => mean(all.map((places) => places[i]!.drop))

    // ---- what is said
    const before = yield* model.exportTensors
    const prompts = control.map(({ id, tokens }) => ({ id, tokens: tokens.subarray(0, prompt) }))
    const said = prompts.map((): Array<number> => [])
    yield* Stream.runForEach(
      generate(prompts, { batchSize, maxNewTokens: seqLen + 1 - prompt, temperature: 0 }),
      ({ prompt, token }) => Effect.sync(() => void said[prompt]!.push(token))
    )
    const ownWords = control.map((row, r): Row => ({
      ...row,
      tokens: Uint32Array.from([...row.tokens.subarray(0, prompt), ...said[r]!])
    }))
    const runs = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.map(scoreRows(model, rows, mode, { batchSize, seqLen, promptTokens: prompt }),
        (scores) => meanOf(scores.map(({ run, suffix }) => run / suffix)))
    const now = (mode: Sink.SinkMode) => Effect.all({ memorized: runs(memorized, mode), control: runs(ownWords, mode) })
    const results: Array<readonly [string, Said]> = [["before", yield* now(Sink.own)]]
    const written: Array<readonly [string, { readonly before: number; readonly after: number }]> = []

    if (part === "sinks") results.push(["sinks off", yield* now(Sink.off)])
    else {
      const loss = (rows: ReadonlyArray<Row>) =>
        Effect.map(scoreRows(model, rows, Sink.own, { batchSize, seqLen }),
          (scores) => mean(scores.map(({ loss, tokens }) => loss / tokens)))
      const targets = yield* editedTargets(memorized, { prompt, batchSize, mode: Sink.own, seed })
      const edit = (forget: ReadonlyArray<Row>, among: NonNullable<UnlearnOptions["among"]>, share: number) =>
        Effect.scoped(Effect.gen(function*() {
          yield* model.importTensors(before)
          const { step } = yield* editSparsely({ forget, retain: neutral, seqLen, seed }, {
            among,
            share,
            batchSize,
            gamma,
            learningRate: editRate,
            steps: editSteps
          })
          for (let s = 0; s < editSteps; s++) yield* step
        }))
      for (const [among, share] of editsOf(shares)) {
        const name = editName(among, share)
        yield* edit(targets, among, share)
        results.push([name, yield* now(Sink.own)])
        yield* model.importTensors(before)
        const was = yield* loss(control)
        yield* edit(control, among, share)
        written.push([name, { before: was, after: yield* loss(control) }])
      }
      yield* model.importTensors(before)
    }
    const found: LocalizingFound = {
      mass: { memorized: massOf(fallen.memorized), control: massOf(fallen.control) },
      lost: { memorized: lostOf(hanging.memorized), control: lostOf(hanging.control) },
      places: hanging.memorized[0]!.map(({ place }, i) => ({
        place,
        memorized: dropAt(hanging.memorized, i),
        control: dropAt(hanging.control, i)
      })),
      lower: over("lower"),
      own: over("own"),
      head: over("head"),
      said: Object.fromEntries(results),
      written: Object.fromEntries(written)
    }
    return found
  })

const editsOf = (shares: LocalizingConfig["shares"]) => [
  ...shares.flatMap((share) => [["gradient", share] as const, ["random", share] as const]),
  ["all", 1] as const
]

const work = ({ config, part, seed }: PartOf<LocalizingConfig>, at: Workplace) => {
  const { sinks: _, ...rest } = config.model
  const { editRate, editSteps, every, gamma, sequences, shares } = config
  return Effect.map(
    train(at, {
      data: dataOf(config, seed),
      model: part === "sinks" ? config.model : new ModelConfig({ ...rest, intermediateSize: config.model.general }),
      seed,
      training: new TrainConfig({
        steps: config.steps,
        optimizer: new OptimizerConfig({
          learningRate: config.learningRate,
          sinks: "lazy",
          sinkLearningRateRatio: config.sinkLearningRateRatio
        })
      }),
      measured: { localizing: 2, editRate, editSteps, every, gamma, sequences, shares, part }
    }, measure(config, part as typeof PARTS[number], seed)),
    ({ measured }) => measured
  )
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const percent = digits(3)

const findings = (results: Results<LocalizingFound>, config: LocalizingConfig) => {
  const { model: { numHiddenLayers: layers }, shares } = config
  const of = (part: string, value: (found: LocalizingFound) => Mean | undefined): Estimate =>
    results.over(part, (found) => value(found)?.mean, {
      kind: "share",
      spread: (found) => {
        const one = value(found)
        return one && { sequences: one.sequences, error: one.error }
      }
    })
  const said = (part: string, what: string, whose: keyof Said) => of(part, (found) => found.said[what]?.[whose])
  const edited = (what: string, whose: keyof Said) => said("standard", what, whose)
  const gained = (what: string) =>
    results.over("standard", ({ written }) => {
      const one = written[what]
      return one && one.before - one.after
    }, { kind: "real" })
  const [top, random, whole] = [editName("gradient", shares[0]), editName("random", shares[0]), editName("all", 1)]
  const lower = { memorized: of("standard", ({ lower }) => lower.memorized),
    control: of("standard", ({ lower }) => lower.control) }
  const head = { memorized: of("standard", ({ head }) => head.memorized),
    control: of("standard", ({ head }) => head.control) }
  const own = { memorized: of("sinks", ({ own }) => own.memorized), control: of("sinks", ({ own }) => own.control) }
  const broken = { memorized: of("standard", ({ lost }) => lost.memorized),
    control: of("standard", ({ lost }) => lost.control) }
  const before = edited("before", "memorized")
  const lost = (what: string) => minus(before, edited(what, "memorized"))!
  const [topLost, randomLost, wholeLost] = [lost(top), lost(random), lost(whole)]
  const offLost = minus(said("sinks", "before", "memorized"), said("sinks", "sinks off", "memorized"))!
  const [offKept, topKept, wholeKept] = [said("sinks", "sinks off", "control"), edited(top, "control"),
    edited(whole, "control")]
  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "More than half of a memorized suffix is said before the first other token",
      result: isAtLeast(before, 0.5),
      evidence: list(["share said", before])
    },
    {
      about: "paper",
      claim: "The gradient of memorized sequences falls more on the lower half of the blocks than that of others",
      result: is("higher", lower.memorized, lower.control),
      evidence: list(["share on the lower half, memorized", lower.memorized], ["never trained on", lower.control])
    },
    {
      about: "paper",
      claim: "It gathers on one head more than that of others",
      result: is("higher", head.memorized, head.control),
      evidence: list(["share of the first head, memorized", head.memorized], ["never trained on", head.control])
    },
    {
      about: "paper",
      claim: "The continuation of a memorized beginning is harder to break by another token in it",
      result: is("lower", broken.memorized, broken.control),
      evidence: list(["share lost, memorized", broken.memorized], ["never trained on", broken.control])
    },
    {
      about: "paper",
      claim: `Editing the ${top} of the weights makes memorized suffixes be forgotten, nearly as editing all does`,
      result: all(isAtLeast(topLost, 0.5), isAtMost(minus(wholeLost, topLost)!, 0.25)),
      evidence: list(["said before", before], [`less said after the ${top}`, topLost], [`after ${whole}`, wholeLost]) +
        "; at least half, and at most a quarter less than after all"
    },
    {
      about: "paper",
      claim: `Editing ${random} of the weights does less`,
      result: is("lower", randomLost, topLost),
      evidence: list([`less said after ${random}`, randomLost], [`after the ${top}`, topLost])
    },
    {
      about: "paper",
      claim: `Editing the ${top} spares what the model says of other text better than editing all`,
      result: is("higher", topKept, wholeKept),
      evidence: list([`own words kept after the ${top}`, topKept], [`after ${whole}`, wholeKept])
    },
    {
      about: "paper",
      claim: `The other way round, too: the ${top} write a text in better than ${random} do`,
      result: is("higher", gained(top), gained(random)),
      evidence: list([`nats a token gained by the ${top}`, gained(top)], [`by ${random}`, gained(random)], [
        `by ${whole}`,
        gained(whole)
      ])
    },
    {
      about: "sinks",
      claim: "The gradient of memorized sequences falls more on their own sinks than that of others on theirs",
      result: is("higher", own.memorized, own.control),
      evidence: list(["share on own sinks, memorized", own.memorized], ["never trained on", own.control])
    },
    {
      about: "sinks",
      claim: `Switching the sinks off makes more be forgotten than editing the ${top} of a standard model`,
      result: is("higher", offLost, topLost),
      evidence: list(["less said with sinks off", offLost], [`after editing the ${top}`, topLost])
    },
    {
      about: "sinks",
      claim: `It spares what the model says of other text better than editing all weights`,
      result: is("higher", offKept, wholeKept),
      evidence: list(["own words kept with sinks off", offKept], [`after ${whole}`, wholeKept])
    }
  ]

  const edits = ["before", ...editsOf(shares).map(([among, share]) => editName(among, share))]
  const rows: ReadonlyArray<readonly [label: string, part: string, what: string]> = [
    ...edits.map((what) => [what === "before" ? "standard, as trained" : what, "standard", what] as const),
    ["sinks, own on", "sinks", "before"],
    ["sinks off", "sinks", "sinks off"]
  ]
  const line = (part: string, whose: "memorized" | "control"): Line => ({
    label: `${part}, ${whose === "control" ? "never trained on" : whose}`,
    of: { model: part, whose },
    dots: true,
    points: Array.from({ length: layers }, (_, layer) => {
      const one = results.over(part,
        (found) => found.mass[whose].filter((at) => at.layer === layer).reduce((sum, { share }) => sum + share.mean, 0),
        {
          kind: "share"
        })
      const { high, low, value } = intervalOf(one)
      return { x: layer + 1, y: value, ...(Number.isFinite(low) ? { low, high } : {}) }
    })
  })
  const placesLine = (part: string, whose: "memorized" | "control"): Line => ({
    label: `${part}, ${whose === "control" ? "never trained on" : whose}`,
    of: { model: part, whose },
    dots: true,
    points: (results.seeds.map((seed) => results.of(part, seed)).find((one) => one !== undefined)?.places ?? [])
      .map(({ place }, i) => {
        const { high, low, value } = intervalOf(
          results.over(part, ({ places }) => places[i]?.[whose], { kind: "share" })
        )
        return { x: place + 1, y: value, ...(Number.isFinite(low) ? { low, high } : {}) }
      })
  })
  const point = ([label, part, what]: typeof rows[number]): Line => {
    const [x, y] = [said(part, what, "memorized"), said(part, what, "control")]
    const [across, up] = [intervalOf(x), intervalOf(y)]
    return {
      label,
      of: { what: label },
      dots: true,
      points: [{ x: across.value, y: up.value, ...(Number.isFinite(across.low)
        ? { left: across.low, right: across.high, low: up.low, high: up.high }
        : {}) }]
    }
  }
  const components = COMPONENTS.flatMap((component) => {
    const share = (part: string, whose: "memorized" | "control", from: number, to: number) =>
      results.over(part, (found) =>
        found.mass[whose].filter((at) =>
          at.component === component && at.layer >= from && at.layer < to
        )
          .reduce((sum, { share }) => sum + share.mean, 0), { kind: "share" })
    const half = Math.ceil(layers / 2)
    const [first, last] = component === "embedding" ? [-1, 0] : [-1, half]
    const halves = component === "embedding" ?
      [["", first, last]] as const :
      [["lower, ", first, last], ["upper, ", half, layers]] as const
    return halves.map(([name, from, to]) => [
      `${name}${component}`,
      ...PARTS.flatMap((part) =>
        (["memorized", "control"] as const).map((whose) => plusMinus(share(part, whose, from, to), percent))
      )
    ])
  })
  return {
    claims,
    numbers: Object.fromEntries([
      ...rows.flatMap(([label, part, what]) => [
        [`${label}: memorized suffix said`, said(part, what, "memorized")] as const,
        [`${label}: own words of other text kept`, said(part, what, "control")] as const
      ]),
      ...edits.slice(1).map((what) => [`${what}: nats a token written in`, gained(what)] as const),
      ["continuation lost by another token, memorized", broken.memorized] as const,
      ["continuation lost by another token, never trained on", broken.control] as const,
      ["gradient on the lower half, memorized", lower.memorized] as const,
      ["gradient on the lower half, never trained on", lower.control] as const,
      ["gradient on the first head, memorized", head.memorized] as const,
      ["gradient on the first head, never trained on", head.control] as const,
      ["gradient on own sinks, memorized", own.memorized] as const,
      ["gradient on own sinks, never trained on", own.control] as const
    ].filter(([, one]) => isKnown(one))),
    charts: [
      {
        title: "Where the gradient of a suffix falls, by block",
        x: { title: "block" },
        y: { title: "share of the gradient's absolute values", zero: true },
        facets: [],
        lines: PARTS.flatMap((part) => (["memorized", "control"] as const).map((whose) => line(part, whose))),
        color: ["model"],
        dash: ["whose"]
      },
      {
        title: "What is lost of a greedy continuation when a token of the beginning is another",
        x: { title: "place of the token" },
        y: { title: "share of the continuation", zero: true },
        facets: [],
        lines: PARTS.flatMap((part) => (["memorized", "control"] as const).map((whose) => placesLine(part, whose))),
        color: ["model"],
        dash: ["whose"]
      },
      {
        title: "What is forgotten, and what is spared",
        x: { title: "share of a memorized suffix that is said", zero: true },
        y: { title: "share of its own words of other text that the model still says", zero: true },
        facets: [],
        lines: rows.map(point),
        color: ["what"]
      }
    ],
    tables: [
      {
        caption: "After editing, and with sinks off",
        head: ["", "memorized suffix said", "own words kept", "nats written in"],
        rows: rows.map(([label, part, what]) => [
          label,
          plusMinus(said(part, what, "memorized"), percent),
          plusMinus(said(part, what, "control"), percent),
          part === "standard" && what !== "before" ? plusMinus(gained(what), percent) : ""
        ])
      },
      {
        caption: "Shares of the gradient's absolute values",
        head: ["", ...PARTS.flatMap((part) => [`${part}, memorized`, `${part}, never trained on`])],
        rows: components
      }
    ],
    terms: [
      ["top, random", "the share of all weights whose gradient is largest at the start, or one drawn at random; fixed"],
      ["own words", "what the trained model says greedily behind the beginning of a text it was not trained on"],
      ["written in", "how far the loss of a suffix never trained on falls when that is what is edited towards"],
      ["In, Out", "gate and up of neurons of the MLP, and their rows of the down-projection"]
    ] as const,
    limits: [
      `A thousandth of these weights are some dozens; of the paper's 125 million, 125,000. ${shares.length} shares are told.`,
      "Weights are pulled towards a continuation of a perturbed prompt; AdamW without decay, at a rate for this size.",
      "Shares of the gradient depend on how many weights a component has: they are compared between sequences, not parts.",
      "One random token a place; the paper's plots are of all places of 50 tokens."
    ]
  }
}

export const localizing = study<LocalizingConfig, LocalizingFound>({
  name: "localizing",
  title: "Localizing paragraph memorization",
  paper: "Stoehr, Gordon, Zhang and Lewis (2024): Localizing Paragraph Memorization in Language Models",
  question:
    "On which weights does a memorized text pull, can a few of them be edited to forget it, and what do sinks change?",
  finding:
    "memorized text pulls more at lower blocks and at one head, is harder to break by a token, and editing the 0.1 % of weights that it pulls at " +
    "hardest forgets it about as well as editing all, and spares other text better",
  cost: "4 minutes; full: half an hour",
  version: 1,
  schema: LocalizingConfig,
  presets: {
    quick: new LocalizingConfig({}),
    full: new LocalizingConfig({
      seeds: 5,
      steps: 640,
      data: { batchSize: 8, repeatedSequences: 48, repeats: 72, singleSequences: 1664, heldOutSequences: 128 },
      model: {
        vocabSize: 256,
        hiddenSize: 64,
        numHiddenLayers: 6,
        numAttentionHeads: 4,
        intermediateSize: 192 + 2048,
        sinks: { pool: 2048, active: 32 }
      },
      learningRate: 7e-3,
      sequences: 24
    })
  },
  problem: ({ data, model, sequences, shares }) =>
    model.sinks === undefined
      ? "model.sinks: the study compares models with and without sinks: give it some"
      : model.numHiddenLayers < 2
      ? `model.numHiddenLayers: lower and upper blocks are compared: at least 2 are needed, got ${model.numHiddenLayers}`
      : shares.some((share, i) => shares.indexOf(share) !== i)
      ? `shares names one twice: ${shares.join(", ")}`
      : data.heldOutSequences !== undefined && data.heldOutSequences < 2 * sequences
      ? `data.heldOutSequences must be ${2 * sequences} at least, twice sequences, got ${data.heldOutSequences}`
      : undefined,
  data: (config, seed) => [dataOf(config, seed)],
  parts: () => PARTS,
  work,
  findings
})
