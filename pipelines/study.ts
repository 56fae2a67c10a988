/**
 * Studies: small experiments that reproduce the main figure of one paper each, in miniature, with sinks beside it, and say in
 * a verdict with intervals whether the paper's finding held here and what sinks change about it. One is run by its name, or
 * all together for one page. Their parts are jobs: what is done is kept, and a run that was interrupted goes on from there.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { MOST_SEEDS, nearest, twice, upTo, withDefault } from "../src/Config.ts"
import { DataConfig, DataStream } from "../src/data/stream/DataStream.ts"
import { DataError } from "../src/Errors.ts"
import type { TrainError } from "../src/train/Trainer.ts"
import * as Experiment from "./experiment/Experiment.ts"
import type { Job, Work, Workplace } from "./experiment/Job.ts"
import type { Files } from "./experiment/Train.ts"
import { all } from "./report/Claim.ts"
import { studies } from "./studies/index.ts"
import { StudiesReport, type StudyFound, StudyReport } from "./study/Report.ts"
import { type AnyStudy, partsOf, resultsOf, type Seeded, seedsOf, type Study } from "./study/Study.ts"
import { view, viewOfAll } from "./study/view.ts"

export { studies, StudiesReport, StudyReport }
export type { AnyStudy }

/** What a study as a whole fails with; a part that fails is told in the report. */
export type StudyError = TrainError

/** Where the study runs and what it leaves: the device, the run's folder, the store of finished parts. */
export type StudyOptions = Experiment.RunOptions

/** The study of a name; fails with a DataError that says which was meant. */
export const studyNamed = (
  name: string,
  among: ReadonlyArray<AnyStudy> = studies
): Effect.Effect<AnyStudy, DataError> => {
  const names = among.map(({ name }) => name)
  const found = among.find((one) => one.name === name)
  if (found !== undefined) return Effect.succeed(found)
  const meant = nearest(name, names)
  return new DataError({
    detail: `there is no study ${name}${
      meant === undefined ? `; there are ${names.join(", ")}` : `. Did you mean ${meant}?`
    }`
  })
}

/** A study with what it is asked with. */
interface Asked {
  readonly study: AnyStudy
  readonly config: Seeded
}

/** What a job of a study is given; plain data. */
interface PartInput {
  readonly study: string
  readonly config: unknown
  readonly part: string
  readonly seed: number
}

/** A part that was computed. */
interface Computed {
  readonly study: string
  readonly part: string
  readonly seed: number
  readonly found: unknown
}

/** What is wrong with a configuration that its schema cannot tell. */
export const checkStudy = ({ problem }: AnyStudy, config: unknown): Effect.Effect<void, DataError> => {
  const detail = problem?.(config)
  return detail === undefined ? Effect.void : Effect.fail(new DataError({ detail }))
}

/** The data of a study with all its seeds, each once. */
const dataOf = (
  { config, study }: Asked
): ReadonlyArray<DataConfig> => [...new Map(seedsOf(config).flatMap((seed) => study.data?.(config, seed) ?? [])
  .map((data) => [JSON.stringify(Schema.encodeSync(DataConfig)(data)), data])).values()]

const inputsOf = (data: ReadonlyArray<DataConfig>, streams: Workplace["streams"]) =>
  Effect.forEach(data, (one) => streams.use(one, Effect.flatMap(DataStream, ({ inputs }) => inputs)))

/** Computes a part of one of these studies. */
export const partWork = (among: ReadonlyArray<AnyStudy> = studies): Work<PartInput, unknown> => {
  const of = (input: PartInput) => {
    const study = among.find(({ name }) => name === input.study)!
    return { study, config: Schema.decodeUnknownSync(study.schema)(input.config) }
  }
  return {
    key: (input, { machine, streams }) =>
      Effect.gen(function*() {
        const { config, study } = of(input)
        // how many seeds there are, and which is the first, is nothing to one of them
        const { seed: _, seeds: __, ...fields } = input.config as Seeded
        const inputs = yield* inputsOf(study.data?.(config, input.seed) ?? [], streams)
        return {
          study: study.name,
          version: study.version,
          config: fields,
          part: input.part,
          seed: input.seed,
          inputs: inputs.flat().map(({ sha256 }) => sha256),
          machine: study.onHost === true ? "host" : { ...machine }
        }
      }),
    run: (input, at) =>
      Effect.suspend(() => {
        const { config, study } = of(input)
        const { part, seed } = input
        return Effect.zipRight(
          at.stage(`${study.name}: ${part}, seed ${seed}`),
          study.work({ config, part, seed }, at) as Effect.Effect<unknown, TrainError, never>
        )
      })
  }
}

const jobsOf = ({ config, study }: Asked): ReadonlyArray<Job<PartInput>> => {
  const encoded = Schema.encodeSync(study.schema)(config)
  return seedsOf(config).flatMap((seed) =>
    partsOf(study, config).map((part) => ({
      kind: "studies",
      arm: part,
      seed,
      input: { study: study.name, config: encoded, part, seed }
    }))
  )
}

/** What a study says of what was computed. */
const foundOf = ({ config, study }: Asked, computed: ReadonlyArray<Computed>): StudyFound => {
  const { finding, findings, name, paper, question, title } = study
  const found = findings(resultsOf(seedsOf(config), computed.filter((one) => one.study === name)), config)
  const ofPaper = found.claims.filter(({ about }) => about === "paper").map(({ result }) => result)
  return {
    study: name,
    title,
    paper,
    question,
    finding,
    word: ofPaper.every((one) => one === "not tested") ? "not tested" : all(...ofPaper),
    claims: found.claims,
    numbers: found.numbers,
    charts: found.charts,
    tables: found.tables,
    terms: Object.fromEntries(found.terms ?? []),
    limits: found.limits
  }
}

/** What all runs of studies have in common. */
const planOf = (asked: ReadonlyArray<Asked>, streams: Workplace["streams"]) =>
  Effect.gen(function*() {
    for (const { config, study } of asked) yield* checkStudy(study, config)
    const data = asked.flatMap(dataOf)
    // data that will not do is told before a folder is claimed
    yield* Effect.forEach(data, (one) => streams.use(one, Effect.void), { discard: true })
    const jobs = asked.flatMap(jobsOf)
    return {
      inputs: Effect.map(inputsOf(data, streams),
        (all) => [...new Map(all.flat().map((input) => [`${input.what} ${input.sha256}`, input])).values()]),
      verify: Effect.forEach(data, (one) => streams.use(one, Effect.flatMap(DataStream, ({ verify }) => verify)), {
        discard: true
      }),
      onHost: asked.every(({ study }) => study.onHost === true),
      work: ({ perform }: Experiment.Engine) =>
        Effect.map(
          perform(partWork(asked.map(({ study }) => study)),
            asked.length === 1 ? jobs : jobs.map((job) => ({ ...job, arm: `${job.input.study}: ${job.arm}` })), {
            span: "study"
          }),
          (results) =>
            results.flatMap((one, i): ReadonlyArray<Computed> => {
              const { part, seed, study } = jobs[i]!.input
              return Option.isNone(one) ? [] : [{ study, part, seed, found: one.value }]
            })
        )
    }
  })

const encoded = Schema.encodeSync(StudyReport)

/** A report as JSON: numbers that are not finite are null. */
export const toJson = (report: StudyReport): string => JSON.stringify(encoded(report))

/** A study as an experiment. */
const experiment = (
  study: AnyStudy
): Experiment.Experiment<Seeded, Seeded, ReadonlyArray<Computed>, StudyReport> => ({
  kind: `study ${study.name}`,
  schema: study.schema,
  again: "from what is kept",
  encode: encoded,
  view,
  plan: (config, { streams }) =>
    Effect.map(planOf([{ study, config }], streams), (plan) => ({
      ...plan,
      config,
      seeds: seedsOf(config),
      arms: partsOf(study, config),
      title: study.title,
      report: (computed, run, error) =>
        computed.length === 0 ? Effect.fail(error) : Effect.sync(() => ({
          format: 1,
          ...foundOf({ study, config }, computed),
          ...run
        }))
    }))
})

/**
 * Runs a study and reports. Interruptible at any moment; with an `outDir` and `resume` a later call goes on from there. A part
 * that fails is reported, and the others go on; where all fail it fails with the first one's error.
 *
 * @param study one of `studies`, or one's own
 */
export const run = <Config extends Seeded>(
  study: Study<Config, any>,
  config: Config,
  options: StudyOptions
): Effect.Effect<StudyReport, StudyError, Files> => Experiment.run(experiment(study), config, options)

/** Which studies are run together, and how. */
export const StudiesConfig = Schema.Struct({
  /** Which: by their names. Default: all. */
  studies: withDefault(Schema.NonEmptyArray(Schema.String),
    () => studies.map(({ name }) => name) as [string, ...Array<string>]),
  /** Size of each. Default quick. */
  preset: withDefault(Schema.Literal("quick", "full"), () => "quick" as const),
  /** How many seeds each has. Default: that of its preset. */
  seeds: Schema.optional(upTo(MOST_SEEDS))
})
/** Which studies are run together, and how. */
export interface StudiesConfig extends Schema.Schema.Type<typeof StudiesConfig> {}

/** The studies that a configuration asks for, each with its own. */
export const askedOf = (
  { preset, seeds, studies: names }: StudiesConfig,
  among: ReadonlyArray<AnyStudy> = studies
): Effect.Effect<ReadonlyArray<Asked>, DataError> => {
  const again = twice(names)
  if (again !== undefined) return new DataError({ detail: `studies names ${again} twice: leave one out` })
  return Effect.forEach(names, (name) =>
    Effect.map(studyNamed(name, among), (study): Asked => {
      const config: Seeded = study.presets[preset]
      return {
        study,
        config: seeds === undefined
          ? config
          : Schema.decodeUnknownSync(study.schema)({ ...Schema.encodeSync(study.schema)(config), seeds })
      }
    }))
}

const encodedAll = Schema.encodeSync(StudiesReport)

/** A report of several studies as the text of `report.json`: numbers that are not finite are null. */
export const toJsonOfAll = (report: StudiesReport): string => JSON.stringify(encodedAll(report))

/** Several studies as one experiment. */
const together = (
  among: ReadonlyArray<AnyStudy>
): Experiment.Experiment<StudiesConfig, StudiesConfig, ReadonlyArray<Computed>, StudiesReport> => ({
  kind: "study --all",
  schema: StudiesConfig,
  again: "from what is kept",
  encode: encodedAll,
  view: viewOfAll,
  plan: (config, { streams }) =>
    Effect.gen(function*() {
      const asked = yield* askedOf(config, among)
      const plan = yield* planOf(asked, streams)
      return {
        ...plan,
        config,
        seeds: [...new Set(asked.flatMap(({ config }) => seedsOf(config)))],
        arms: asked.map(({ study }) => study.name),
        title: `${asked.length} studies`,
        report: (computed, run, error) =>
          computed.length === 0 ? Effect.fail(error) : Effect.sync(() => ({
            format: 1,
            studies: asked
              .filter(({ study }) => computed.some((one) => one.study === study.name))
              .map((one) => foundOf(one, computed)),
            ...run
          }))
      }
    })
})

/**
 * Runs several studies, or goes on with them, and makes one page of all.
 *
 * @param among the studies that may be named. Default: `studies`
 */
export const runAll = (
  config: StudiesConfig,
  options: StudyOptions,
  among: ReadonlyArray<AnyStudy> = studies
): Effect.Effect<StudiesReport, StudyError, Files> => Experiment.run(together(among), config, options)
