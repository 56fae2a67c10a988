/** `memsinks dynamics`: the forgetting experiment, or its probes on the checkpoints of a run that is finished. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import process from "node:process"
import * as Dynamics from "../../pipelines/dynamics.ts"
import { planOf, presets } from "../../pipelines/dynamics/Config.ts"
import { replay } from "../../pipelines/dynamics/Replay.ts"
import { view } from "../../pipelines/dynamics/view.ts"
import { toHtml, toMarkdown, toTerminal } from "../../pipelines/report/render.ts"
import { decodeConfig } from "../Config.ts"
import { notIds, splitIds } from "../data/identity/Names.ts"
import { hasColor, widthOf } from "../Terminal.ts"
import * as Progress from "../terminal/Progress.ts"
import type { DynamicsOptions } from "./commands/dynamics.ts"
import * as Config from "./config.ts"
import * as Edge from "./Edge.ts"
import { type Where, whereOf } from "./resume.ts"
import { failedArms, savedConfig, showReport, tellInterrupted, tellSignals } from "./run.ts"

const configOf = (options: DynamicsOptions, { folder, resume }: Where) =>
  Effect.gen(function*() {
    const base = resume
      ? yield* savedConfig(folder)
      : Schema.encodeSync(Dynamics.DynamicsConfig)(presets[Option.getOrElse(options.preset, () => "full" as const)])
    const decoded = Effect.gen(function*() {
      const file = Option.isSome(options.config) ? yield* Config.readConfig(options.config.value) : {}
      const flags = {
        ...Option.match(options.seeds, { onNone: () => ({}), onSome: (seeds) => ({ seeds }) }),
        ...Option.match(options.arms, {
          onNone: () => ({}),
          onSome: (arms) => ({ arms: arms.split(",").map((arm) => arm.trim()) })
        })
      }
      const data = Config.dataOf(options)
      const training = Config.trainingOf(options)
      const overrides = yield* Effect.forEach(options.overrides, Config.override)
      const config = yield* decodeConfig(
        Dynamics.DynamicsConfig,
        [file, flags, ...Config.filled({ data }), ...Config.filled({ training }), ...overrides].reduce<unknown>(
          Config.merge,
          base
        )
      )
      return (yield* planOf(config)).config
    })
    return yield* Effect.mapError(decoded, Edge.usage)
  })

/** The ids that `--ids` names. */
const idsOf = (ids: Option.Option<string>) =>
  Option.match(ids, {
    onNone: () => Effect.succeed(undefined),
    onSome: (text) =>
      Option.match(Option.fromNullable(splitIds(text)), {
        onNone: () => Effect.fail(Edge.usage({ message: notIds(text) })),
        onSome: Effect.succeed
      })
  })

/** Prints the report on stdout and leaves it, with checkpoints and traces, in the run's folder. */
export const dynamics = (options: DynamicsOptions) =>
  Effect.gen(function*() {
    const progress = yield* Progress.scoped({ output: process.stderr, env: process.env, ...options })
    const say = (message: string) => progress.event({ _tag: "Stage", message })
    yield* tellSignals(progress)
    const from = Option.getOrUndefined(options.from)
    const configured = [options.config, options.preset, options.arms, options.seeds].some((one) =>
      Option.isSome<unknown>(one)
    )
    if (from !== undefined && (options.overrides.length > 0 || configured)) {
      return yield* Effect.fail(Edge.usage({
        message:
          "--from looks at a run as it is: leave --config, --preset, --arms, --seeds and fields of the configuration out"
      }))
    }
    if (from === undefined && Option.isSome(options.ids)) {
      return yield* Effect.fail(
        Edge.usage({ message: "--ids chooses among the sequences of a run: name it with --from" })
      )
    }
    const where = yield* whereOf(options, "dynamics")
    const { folder } = where
    const device = yield* Edge.runtime
    const ids = yield* idsOf(options.ids)
    const config = from === undefined ? yield* configOf(options, where) : undefined
    yield* say(`memsinks ${Edge.version}: forgetting dynamics, results go to ${folder}`)
    const logger = Logger.make<unknown, void>((line) => Effect.runSync(progress.log(Edge.logLine(line))))
    const shared = {
      device: device.layer(Edge.adapterOptions(options.adapter)),
      outDir: folder,
      resume: where.resume,
      force: options.force,
      onEvent: progress.event,
      versions: Edge.versions()
    }
    const again = `memsinks dynamics${from === undefined ? "" : ` --from ${from}`} --resume --out-dir ${folder}`
    const report = yield* (from === undefined
      ? Dynamics.run(config, { ...shared, concurrency: options.jobs })
      : replay(from, { ...shared, jobs: options.jobs, ...(ids === undefined ? {} : { ids }) })).pipe(
        Effect.withSpan("dynamics", { attributes: { folder } }),
        Effect.provide(Logger.replace(Edge.logger, logger)),
        Effect.onInterrupt(() => tellInterrupted(progress, folder, again))
      )
    yield* showReport(progress, folder, {
      text: () =>
        options.json
          ? Dynamics.toJson(report)
          : toTerminal(view(report), { color: hasColor(process.stdout, process.env),
            width: widthOf(process.stdout.columns, 120, 120) }),
      markdown: () => toMarkdown(view(report)),
      html: () => toHtml(view(report)),
      what: "report, checkpoints and traces"
    })
    if (report.failures.length > 0) return yield* failedArms(report.failures)
  }).pipe(Effect.scoped)
