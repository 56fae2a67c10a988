/** `memsinks study`: papers once more in miniature, one by its name or all on one page. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import process from "node:process"
import { stringify } from "yaml"
import * as Study from "../../pipelines/study.ts"
import { partsOf, seedsOf } from "../../pipelines/study/Study.ts"
import { view, viewOfAll } from "../../pipelines/study/view.ts"
import { hasColor, painter, widthOf, wrap } from "../Terminal.ts"
import type { StudyOptions } from "./commands/study.ts"
import * as Edge from "./Edge.ts"
import { configOf, type Ready, runExperiment } from "./experiment.ts"

/** Prints which studies there are. */
const list = (json: boolean) =>
  Effect.suspend(() => {
    if (json) {
      return Edge.print(JSON.stringify(Study.studies.map(({ cost, finding, name, paper, question, title }) => ({
        name,
        title,
        paper,
        question,
        finding,
        cost
      }))))
    }
    const paint = painter(hasColor(process.stdout, process.env))
    const width = widthOf(process.stdout.columns, 100, 100) - 2
    return Edge.print([
      ...Study.studies.flatMap(({ cost, name, paper, question }) => [
        paint("bold", name),
        ...wrap([[question]], width, paint).map((line) => `  ${line}`),
        ...wrap([[`${paper}. On two cores: ${cost}.`, "dim"]], width, paint).map((line) => `  ${line}`)
      ]),
      "",
      "memsinks study NAME runs one, memsinks study --all makes one page of all"
    ].join("\n"))
  })

/** Prints what would be computed, of each study. */
const dryRun = (
  asked: ReadonlyArray<
    { readonly study: Study.AnyStudy; readonly config: { readonly seed: number; readonly seeds: number } }
  >,
  json: boolean
) => {
  const told = asked.map(({ config, study }) => ({
    study: study.name,
    seeds: seedsOf(config),
    parts: partsOf(study, config),
    cost: study.cost,
    config: Schema.encodeSync(study.schema)(config) as unknown
  }))
  return Edge.print(
    json ? JSON.stringify(told) : told.map(({ config, cost, parts, seeds, study }) =>
      [
        `${study}: ${parts.length * seeds.length} parts, ${parts.join(", ")}; seeds ${seeds.join(", ")}; ${cost}`,
        stringify(config).trimEnd()
      ].join("\n")
    ).join("\n\n")
  )
}

const one = (study: Study.AnyStudy, options: StudyOptions, overrides: ReadonlyArray<string>) =>
  runExperiment(`study ${study.name}`, { ...options, overrides: [...overrides] }, (where) =>
    Effect.gen(function*() {
      const preset = study.presets[Option.getOrElse(options.preset, () => "quick" as const)]
      const config = yield* configOf(study.schema, { ...options, overrides: [...overrides] }, where, {
        defaults: Schema.encodeSync(study.schema)(preset),
        check: (config) => Study.checkStudy(study, config)
      })
      if (options.dryRun) return yield* dryRun([{ study, config }], options.json)
      return {
        doing: study.title,
        run: (shared) => Study.run(study, config, shared),
        view,
        toJson: Study.toJson,
        leaves: "report and what was computed"
      } satisfies Ready<Study.StudyReport>
    }))

const all = (names: ReadonlyArray<string>, options: StudyOptions) =>
  runExperiment("study --all", { ...options, overrides: [] }, (where) =>
    Effect.gen(function*() {
      const config = yield* configOf(Study.StudiesConfig, { ...options, overrides: [] }, where, {
        defaults: { ...names.length === 0 ? {} : { studies: names }, ...Edge.given({ preset: options.preset }) },
        check: Study.askedOf
      })
      if (options.dryRun) return yield* dryRun(yield* Study.askedOf(config), options.json)
      return {
        doing: `${config.studies.length} studies`,
        run: (shared) => Study.runAll(config, shared),
        view: viewOfAll,
        toJson: Study.toJsonOfAll,
        leaves: "one page of all studies"
      } satisfies Ready<Study.StudiesReport>
    }))

/** Lists studies, or runs one, or all. */
export const study = (options: StudyOptions) =>
  Effect.gen(function*() {
    const isField = (word: string) => word.includes("=")
    const names = options.overrides.filter((word) => !isField(word))
    const fields = options.overrides.filter(isField)
    const studies = yield* Effect.mapError(Effect.forEach(names, (name) => Study.studyNamed(name)), Edge.usage)
    if (options.all) {
      if (fields.length > 0) {
        return yield* Effect.fail(Edge.usage({
          message: `${fields[0]} is a field of one study, and --all runs several: leave it out, or run that study alone`
        }))
      }
      return yield* all(names, options)
    }
    if (studies.length > 1) {
      return yield* Effect.fail(Edge.usage({
        message: `one study at a time, got ${names.join(" and ")}; several on one page: add --all`
      }))
    }
    if (studies.length === 1) return yield* one(studies[0]!, options, fields)
    const asked = fields[0] ?? (Option.isSome(options.resume) ? "--resume" : undefined)
    if (asked === undefined) return yield* list(options.json)
    return yield* Effect.fail(Edge.usage({ message: `${asked} of which study? memsinks study lists them` }))
  })
