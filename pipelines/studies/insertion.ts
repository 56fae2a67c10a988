/**
 * Hubble (2025) in miniature: passages put into the text at chosen times and in chosen numbers, and how well each is known at
 * the end. Timing: which quarter of training shows a passage. Dilution: the same exposures in more text. Interference:
 * whether other passages make a difference. Sinks by passage beside.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { configuration, fraction, positive, rate, twice, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import { type Planted, type Showing, showingProblem, spread, timetable } from "../../src/data/stream/Timetable.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import { mean, variance } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import { scheduled } from "../experiment/Streams.ts"
import type { Line } from "../report/Chart.ts"
import { isAtLeast, isAtMost, isWithin, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, estimate, isKnown, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { type Finding, type PartOf, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class InsertionConfig extends configuration(Schema.Class<InsertionConfig>("InsertionConfig")({
  ...seedsOfStudy,
  /** The text: its `singleSequences` fill the steps' other rows, each once before any comes again. */
  data: withDefault(DataConfig,
    () => new DataConfig({ batchSize: 8, singleSequences: 4096, heldOutSequences: 96, repeatedSequences: 0 })),
  /** The sink model; standard ones have its general neurons. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 96 + 2048,
      sinks: { pool: 2048, active: 32 }
    })),
  /** Steps of a training that is not diluted. Default 320. */
  steps: withDefault(positive, 320),
  /** So many times as many steps, each in a training of its own; the first is 1. Default 1 and 3. */
  dilutions: withDefault(Schema.NonEmptyArray(positive), () => [1, 3] as const),
  /** Passages that are shown alike. Default 8. */
  passages: withDefault(positive, 8),
  /** Exposures of passages that are shown throughout, a group each, rising. Default 2, 8 and 32. */
  exposures: withDefault(Schema.NonEmptyArray(positive), () => [2, 8, 32] as const),
  /** Exposures of passages that are shown in one part of training, and whose dilution and interference are told. Default 8. */
  timed: withDefault(positive, 8),
  /** Parts of training. Default 4. */
  quarters: withDefault(Schema.Int.pipe(Schema.between(2, 16)), 4),
  /** Constant: a rate that falls would make late passages harder to learn, and early ones to forget. Default 1e-2. */
  learningRate: withDefault(rate, 1e-2),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Passages that are never shown, to whose loss all others are related; as many others are the control. Default 32. */
  foils: withDefault(positive, 32),
  /** Difference that counts as none, as a share of the memory of the passages in question. Default 0.25. */
  tolerance: withDefault(fraction, 0.25)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// What is shown when

interface Group {
  readonly name: string
  readonly showing: Showing
  readonly sequences: number
}

const throughout = (exposures: number): string => `${exposures} throughout`
const quarter = (q: number): string => `part ${q + 1}`
/** Passages that are never shown. */
const NEVER = "never"

/** The passages of a training of so many steps. */
const groupsOf = (
  { exposures, passages, quarters, timed }: InsertionConfig,
  steps: number
): ReadonlyArray<Group> => [
  ...exposures.map((count): Group => ({
    name: throughout(count),
    sequences: passages,
    showing: { exposures: count, first: 0, end: steps }
  })),
  ...Array.from({ length: quarters }, (_, q): Group => ({
    name: quarter(q),
    sequences: passages,
    showing: { exposures: timed, first: Math.round(q * steps / quarters), end: Math.round((q + 1) * steps / quarters) }
  }))
]

interface Part {
  readonly sinks: boolean
  readonly dilution: number
  /** Which passages are shown: all, only the group whose interference is told, or none. */
  readonly shows: "all" | "alone" | "none"
}

const nameOf = ({ dilution, shows, sinks }: Part): string =>
  `${sinks ? "sinks" : "standard"} ${shows === "all" ? `x${dilution}` : shows}`

const ALONE = "standard alone"
/** The model that never saw a passage, which says how hard each is. */
const NONE = "standard none"

const partsOf = ({ dilutions }: InsertionConfig): ReadonlyArray<Part> => [
  { sinks: false, dilution: 1, shows: "none" },
  ...dilutions.map((dilution): Part => ({ sinks: false, dilution, shows: "all" })),
  { sinks: false, dilution: 1, shows: "alone" },
  ...dilutions.map((dilution): Part => ({ sinks: true, dilution, shows: "all" }))
]

const dataOf = ({ data, exposures, passages, quarters }: InsertionConfig, seed: number): DataConfig => {
  const { canaries: _, repeat: __, ...rest } = data
  // how often they are shown is up to the timetable
  return new DataConfig({ ...rest, repeatedSequences: passages * (exposures.length + quarters), repeats: 2, seed })
}

/** What a part shows when, and which passages are looked at. */
const worldOf = (config: InsertionConfig, part: Part, seed: number, data: typeof DataStream.Service) =>
  Effect.gen(function*() {
    const steps = config.steps * part.dilution
    const groups = groupsOf(config, steps)
    const passages = data.split("repeated")
    const index = overlapIndex()
    for (const row of passages) index.add(row)
    const unseen = data.split("heldOut").filter((row) => index.find(row) === undefined)
    if (unseen.length < 2 * config.foils) {
      return yield* new DataError({
        detail:
          `foils: ${
            2 * config.foils
          } passages are never to be shown, and the data has ${unseen.length} that are like ` +
          "none that is: ask for fewer foils, or more data.heldOutSequences"
      })
    }
    let at = 0
    const placed = yield* attempt(() => spread(groups, data.batchSize), DataError)
    const all = groups.map((group, g) => ({
      group,
      planted: passages.slice(at, at += group.sequences).map((row, i): Planted => ({ row, steps: placed[g]![i]! }))
    }))
    const shown = all.filter(({ group }) =>
      part.shows === "all" || (part.shows === "alone" && group.name === throughout(config.timed))
    )
    const table = yield* attempt(() =>
      timetable({
        steps,
        batchSize: data.batchSize,
        planted: shown.flatMap(({ planted }) => planted),
        background: [{ from: 0, rows: data.split("singles") }],
        seed
      }), DataError)
    return {
      steps,
      table,
      looked: [
        ...all.map(({ group, planted }) => ({ name: group.name, rows: planted.map(({ row }) => row) })),
        { name: NEVER, rows: unseen.slice(config.foils, 2 * config.foils) }
      ],
      foils: unseen.slice(0, config.foils)
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

/** Losses, nats a token, and shares of tokens that greedy decoding predicts, of the passages of a group in their order. */
interface Known {
  readonly losses: ReadonlyArray<number>
  readonly accuracies: ReadonlyArray<number>
}

export interface InsertionFound {
  /** By state of the sinks: the mean loss of foils, and what is known of each group. */
  readonly states: Readonly<
    Record<string, { readonly foils: number; readonly groups: Readonly<Record<string, Known>> }>
  >
}

const work = ({ config, part: name, seed }: PartOf<InsertionConfig>, at: Workplace) => {
  const part = partsOf(config).find((one) => nameOf(one) === name)!
  const dataConfig = dataOf(config, seed)
  const { sinks: _, ...rest } = config.model
  const model = part.sinks
    ? config.model
    : new ModelConfig({ ...rest, intermediateSize: config.model.general })
  const { exposures, foils, passages, quarters, steps, timed } = config
  const shown = { version: 2, exposures, foils, passages, quarters, steps, timed, ...part, sinks: undefined, seed }
  return at.streams.use(dataConfig, Effect.gen(function*() {
    const data = yield* DataStream
    const { foils, looked, steps, table } = yield* worldOf(config, part, seed, data)
    const measure = Effect.gen(function*() {
      const model = yield* Model
      const score = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
        Effect.map(scoreRows(model, rows, mode, { batchSize: 16, seqLen: data.seqLen }), (scores) => ({
          losses: scores.map(({ loss, tokens }) => loss / tokens),
          accuracies: scores.map(({ hits, tokens }) => hits / tokens)
        }))
      const states: Array<readonly [string, InsertionFound["states"][string]]> = []
      for (const state of part.sinks ? ["own", "off"] as const : ["own"] as const) {
        // what was never shown has no sinks of its own: those that its id lights are a placebo
        const modeOf = (name: string) => name === NEVER && part.sinks ? Sink.off : Sink.states[state].mode
        const { losses } = yield* score(foils, modeOf(NEVER))
        const groups: Array<readonly [string, Known]> = []
        for (const { name, rows } of looked) groups.push([name, yield* score(rows, modeOf(name))])
        states.push([state, { foils: mean(losses), groups: Object.fromEntries(groups) }])
      }
      const found: InsertionFound = { states: Object.fromEntries(states) }
      return found
    })
    const layer = Layer.succeed(DataStream, scheduled(data, { rows: table.rows, shown, steps }))
    const { measured } = yield* train(at, {
      model,
      seed,
      training: new TrainConfig({
        steps,
        optimizer: new OptimizerConfig({
          learningRate: config.learningRate,
          schedule: "constant",
          sinks: "lazy",
          sinkLearningRateRatio: config.sinkLearningRateRatio
        })
      }),
      data: { key: ["insertion", Schema.encodeSync(DataConfig)(dataConfig), shown], layer },
      measured: { insertion: 2 }
    }, measure)
    return measured
  }))
}

// ---------------------------------------------------------------------------------------------------------------
// What is found

const findings = (results: Results<InsertionFound>, config: InsertionConfig) => {
  const { dilutions, exposures, passages, quarters, timed, tolerance } = config
  const groups = [...exposures.map(throughout), ...Array.from({ length: quarters }, (_, q) => quarter(q))]
  const most = dilutions.at(-1)!
  const main = throughout(timed)
  /** The memory of each passage: how much lower its loss lies below that of foils than in a model that never saw it. */
  const memories = (seed: number, part: string, state: string, group: string): ReadonlyArray<number> | undefined => {
    const [now, then] = [results.of(part, seed)?.states[state], results.of(NONE, seed)?.states["own"]]
    const [losses, never] = [now?.groups[group]?.losses, then?.groups[group]?.losses]
    return losses === undefined || never === undefined || (part === ALONE && group !== main && group !== NEVER)
      ? undefined
      : losses.map((loss, i) => now!.foils - loss - (then!.foils - never[i]!))
  }
  const known = (part: string, state: string, group: string): Estimate => {
    const all = results.seeds.map((seed) => memories(seed, part, state, group))
    return estimate(all.map((one) => one && mean(one)), {
      spreads: all.map((one) =>
        one && { sequences: one.length, ...(one.length < 2 ? {} : { error: Math.sqrt(variance(one) / one.length) }) }
      )
    })
  }
  const accuracy = (part: string, state: string, group: string): Estimate =>
    results.over(part, (found) => {
      const one = found.states[state]?.groups[group]
      return one && mean(one.accuracies)
    }, { kind: "real" })
  const said = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>) =>
    list(...entries.filter(([, one]) => isKnown(one))) || "no seed has the numbers"
  const decided = (one: Estimate | undefined, decide: (one: Estimate) => Result): Result =>
    isKnown(one) ? decide(one) : "not tested"
  const [early, late] = [quarter(0), quarter(quarters - 1)]
  const standard = "standard x1"
  const timing = (part: string, state: string) => minus(known(part, state, late), known(part, state, early))
  const dilution = (arm: string, state: string, group: string) =>
    minus(known(`${arm} x1`, state, group), known(`${arm} x${most}`, state, group))
  /** The share of the memory of what was shown last that is left of what was shown first. */
  const left = (part: string) =>
    perSeed((first, last) => first / last, known(part, "own", early), known(part, "own", late))
  const ofStandard = (group: string) =>
    perSeed((now, then) => now / then, known("sinks x1", "off", group), known(standard, "own", group))
  const interference = perSeed((alone, among) => (alone - among) / alone, known(ALONE, "own", main),
    known(standard, "own", main))
  const never = known(standard, "own", NEVER)
  const shownMost = throughout(exposures.at(-1)!)
  const more = minus(known(standard, "own", shownMost), known(standard, "own", throughout(exposures[0]!)))
  const protectedMore = minus(left("sinks x1"), left(standard))
  const dilutedLess = minus(dilution("standard", "own", main), dilution("sinks", "own", main))

  const claims: ReadonlyArray<Finding> = [
    {
      about: "control",
      claim: "Passages that are never shown are known no better than foils",
      result: decided(never, (one) => isWithin(one, { least: -0.2, most: 0.2 })),
      evidence: said(["memory, nats a token", never]) + "; an interval within 0.2 of 0 confirms"
    },
    {
      about: "control",
      claim: `Passages shown ${exposures.at(-1)} times are better known than those shown ${exposures[0]} times`,
      result: decided(more, (one) => isAtLeast(one, 0)),
      evidence: said(["difference of memory, nats a token", more])
    },
    {
      about: "paper",
      claim:
        "Timing: what is shown in the last part of training is better known at its end than what is shown in the first",
      result: decided(timing(standard, "own"), (one) => isAtLeast(one, 0)),
      evidence: said(["last", known(standard, "own", late)], ["first", known(standard, "own", early)], [
        "difference, nats a token",
        timing(standard, "own")
      ])
    },
    {
      about: "paper",
      claim: `Dilution: ${timed} exposures in ${most} times the text are less well known`,
      result: most === 1 ? "not tested" : decided(dilution("standard", "own", main), (one) => isAtLeast(one, 0)),
      evidence: said(["in the text", known(standard, "own", main)], [`in ${most} times`,
        known(`standard x${most}`, "own", main)], ["difference, nats a token", dilution("standard", "own", main)])
    },
    {
      about: "paper",
      claim: "Interference: passages are known as well among others as alone",
      result: decided(interference, (one) => isWithin(one, { least: -tolerance, most: tolerance })),
      evidence: said(["alone", known(ALONE, "own", main)], ["among others", known(standard, "own", main)], [
        "lost, as a share",
        interference
      ]) + `; an interval within ${digits(2)(tolerance)} of 0 confirms`
    },
    {
      about: "sinks",
      claim: "With own sinks on, more is left of what is shown first, as a share of what is shown last",
      result: decided(protectedMore, (one) => isAtLeast(one, 0)),
      evidence: said(["sinks", left("sinks x1")], ["standard", left(standard)], ["difference", protectedMore])
    },
    {
      about: "sinks",
      claim: "With own sinks on, dilution costs less",
      result: most === 1 ? "not tested" : decided(dilutedLess, (one) => isAtLeast(one, 0)),
      evidence: said(["cost in the standard model, nats a token", dilution("standard", "own", main)], ["with own sinks",
        dilution("sinks", "own", main)], ["difference", dilutedLess])
    },
    {
      about: "sinks",
      claim: `With sinks off, passages shown ${
        exposures.at(-1)
      } times keep less than half of what a standard model knows of them`,
      result: decided(ofStandard(shownMost), (one) => isAtMost(one, 0.5)),
      evidence: said(["share", ofStandard(shownMost)], ["off", known("sinks x1", "off", shownMost)], ["standard",
        known(standard, "own", shownMost)])
    }
  ]

  const columns = [
    ...partsOf(config).filter(({ shows, sinks }) => !sinks && shows !== "none").map((part) => ({ part: nameOf(part),
      state: "own" })
    ),
    ...partsOf(config).filter(({ sinks }) => sinks).flatMap((part) =>
      ["own", "off"].map((state) => ({ part: nameOf(part), state }))
    )
  ]
  const titleOf = ({ part, state }: typeof columns[number]): string =>
    part.startsWith("sinks") ? `${part}, ${state === "own" ? "own sinks" : "sinks off"}` : part
  const shown = columns.filter(({ part }) => part !== ALONE)
  const line = (column: typeof columns[number], points: ReadonlyArray<readonly [number, string]>): Line => ({
    label: titleOf(column),
    of: { what: titleOf(column) },
    dots: true,
    points: points.map(([x, group]) => {
      const { high, low, mean } = known(column.part, column.state, group)
      return { x, y: mean, ...(low === undefined ? {} : { low, high: high! }) }
    })
  })
  const y = { title: "memory, nats a token", zero: true }
  return {
    claims,
    numbers: Object.fromEntries(columns.flatMap((column) =>
      [...groups, NEVER].flatMap((group) => [
        [`${titleOf(column)}: ${group}, memory`, known(column.part, column.state, group)] as const,
        [`${titleOf(column)}: ${group}, accuracy`, accuracy(column.part, column.state, group)] as const
      ])
    ).filter(([, one]) => isKnown(one))),
    charts: [
      {
        title: `What is known at the end of passages shown ${timed} times in one part of training`,
        x: { title: "part of training that shows them" },
        y,
        facets: [],
        lines: shown.map((column) =>
          line(column, Array.from({ length: quarters }, (_, q) => [q + 1, quarter(q)] as const))
        ),
        color: ["what"]
      },
      {
        title: "What is known at the end of passages shown throughout, by exposures and text",
        x: { title: "exposures", log: true },
        y,
        facets: [],
        lines: shown.map((column) => line(column, exposures.map((count) => [count, throughout(count)] as const))),
        color: ["what"]
      }
    ],
    tables: [{
      caption: "Memory, nats a token",
      head: ["", ...columns.map(titleOf)],
      rows: [...groups, NEVER].map((group) => [
        group,
        ...columns.map(({ part, state }) => plusMinus(known(part, state, group), digits(2)))
      ])
    }],
    terms: [
      ["memory",
        "how far the loss of a passage lies below that of passages that are never shown, at the end of training, beyond " +
        "how far it does in a model that was shown none: how easy the passage is"],
      ["part 1, 2, ...", `all ${timed} exposures lie in that part of training, evenly spaced`],
      [`x${most}`, `the same exposures in ${most} times as many steps, of other text`],
      ["alone", `only the passages of "${main}" are shown; in the others all groups are`]
    ] as const,
    limits: [
      `${passages} passages a group of one corpus; Hubble's are of several kinds, and its text is some million times longer.`,
      "The learning rate is constant: with one that falls, late passages are learned less, and early ones forgotten less.",
      "A longer training is also a longer time since the last exposure: dilution does not tell the two apart, here or there."
    ]
  }
}

export const insertion = study<InsertionConfig, InsertionFound>({
  name: "insertion",
  title: "When and how thinly passages are inserted",
  paper: "Hubble: a Model Suite to Advance the Study of LLM Memorization (2025), arXiv 2510.19811",
  question:
    "How well is a passage known at the end, by when it is shown, in how much other text, and beside which others?",
  finding: "what is shown early is forgotten, more text dilutes, and insertions hardly interfere",
  cost: "3 minutes; full: an hour",
  version: 2,
  schema: InsertionConfig,
  presets: {
    quick: new InsertionConfig({ seeds: 4 }),
    full: new InsertionConfig({
      seeds: 5,
      steps: 640,
      dilutions: [1, 2, 4],
      passages: 12,
      exposures: [1, 2, 4, 8, 16, 32],
      model: {
        vocabSize: 256,
        hiddenSize: 64,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        intermediateSize: 192 + 2048,
        sinks: { pool: 2048, active: 32 }
      },
      learningRate: 7e-3,
      data: { batchSize: 8, singleSequences: 8192, heldOutSequences: 128, repeatedSequences: 0 },
      foils: 48
    })
  },
  problem: (config) => {
    const { dilutions, exposures, model, steps, timed } = config
    if (model.sinks === undefined) return "model.sinks: the study compares models with and without sinks: give it some"
    if (dilutions[0] !== 1 || twice(dilutions) !== undefined) {
      return `dilutions must begin with 1 and name none twice, got ${dilutions.join(", ")}`
    }
    if (!exposures.includes(timed)) return `exposures, ${exposures.join(", ")}, must have ${timed}, which is timed`
    if (exposures.some((count, i) => i > 0 && count <= exposures[i - 1]!)) {
      return `exposures must rise, got ${exposures.join(", ")}`
    }
    for (const { name, showing } of groupsOf(config, steps)) {
      const wrong = showingProblem(showing)
      if (wrong !== undefined) return `${name}: ${wrong}: raise steps (${steps}), or show passages less often`
    }
    return undefined
  },
  data: (config, seed) => [dataOf(config, seed)],
  parts: (config) => partsOf(config).map(nameOf),
  work,
  findings
})
