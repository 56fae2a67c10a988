/** `memsinks isolate`: the isolation experiment, or what two checkpoints know of the same data. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import process from "node:process"
import * as Isolation from "../../pipelines/isolation.ts"
import { planOf, presets } from "../../pipelines/isolation/Config.ts"
import { view } from "../../pipelines/isolation/view.ts"
import { toHtml, toMarkdown, toTerminal } from "../../pipelines/report/render.ts"
import { decodeConfig } from "../Config.ts"
import { hasColor, widthOf } from "../Terminal.ts"
import * as Progress from "../terminal/Progress.ts"
import type { IsolateOptions } from "./commands/isolate.ts"
import * as Config from "./config.ts"
import * as Edge from "./Edge.ts"
import { type Where, whereOf } from "./resume.ts"
import { failedArms, savedConfig, showReport, tellInterrupted, tellSignals } from "./run.ts"

const configOf = (options: IsolateOptions, { folder, resume }: Where) =>
  Effect.gen(function*() {
    const base = resume
      ? yield* savedConfig(folder)
      : Schema.encodeSync(Isolation.IsolateConfig)(presets[Option.getOrElse(options.preset, () => "full" as const)])
    const decoded = Effect.gen(function*() {
      const file = Option.isSome(options.config) ? yield* Config.readConfig(options.config.value) : {}
      const flags = {
        ...Option.match(options.seeds, { onNone: () => ({}), onSome: (seeds) => ({ seeds }) }),
        ...Option.match(options.subject, { onNone: () => ({}), onSome: (subject) => ({ subject }) }),
        ...Option.match(options.arms, {
          onNone: () => ({}),
          onSome: (arms) => ({ arms: arms.split(",").map((arm) => arm.trim()) })
        })
      }
      const data = Config.dataOf(options)
      const training = Config.trainingOf(options)
      const overrides = yield* Effect.forEach(options.overrides, Config.override)
      const config = yield* decodeConfig(
        Isolation.IsolateConfig,
        [file, flags, ...Config.filled({ world: { data } }), ...Config.filled({ training }), ...overrides].reduce<
          unknown
        >(Config.merge, base)
      )
      return (yield* planOf(config)).config
    })
    return yield* Effect.mapError(decoded, Edge.usage)
  })

/** Prints the report on stdout and leaves it, with models and records, in the run's folder. */
export const isolate = (options: IsolateOptions) =>
  Effect.gen(function*() {
    if (Option.isSome(options.checkpoint) || Option.isSome(options.against)) {
      return yield* Effect.flatMap(Effect.promise(() => import("./compare.ts")), (it) => it.compare(options))
    }
    const progress = yield* Progress.scoped({ output: process.stderr, env: process.env, ...options })
    const say = (message: string) => progress.event({ _tag: "Stage", message })
    yield* tellSignals(progress)
    const where = yield* whereOf(options, "isolate")
    const { folder } = where
    const config = yield* configOf(options, where)
    const device = yield* Edge.runtime
    yield* say(`memsinks ${Edge.version}: isolation checks, results go to ${folder}`)
    const logger = Logger.make<unknown, void>((line) => Effect.runSync(progress.log(Edge.logLine(line))))
    const report = yield* Isolation.run(config, {
      device: device.layer(Edge.adapterOptions(options.adapter)),
      outDir: folder,
      resume: where.resume,
      force: options.force,
      concurrency: options.jobs,
      ...Option.match(options.store, { onNone: () => ({}), onSome: (store) => ({ store }) }),
      onEvent: progress.event,
      versions: Edge.versions()
    }).pipe(
      Effect.withSpan("isolate", { attributes: { folder } }),
      Effect.provide(Logger.replace(Edge.logger, logger)),
      Effect.onInterrupt(() => tellInterrupted(progress, folder, `memsinks isolate --resume --out-dir ${folder}`))
    )
    yield* showReport(progress, folder, {
      text: () =>
        options.json
          ? Isolation.toJson(report)
          : toTerminal(view(report), { color: hasColor(process.stdout, process.env),
            width: widthOf(process.stdout.columns, 120, 120) }),
      markdown: () => toMarkdown(view(report)),
      html: () => toHtml(view(report)),
      what: "report, models and records"
    })
    if (report.failures.length > 0) return yield* failedArms(report.failures)
  }).pipe(Effect.scoped)
