/** `memsinks sweep`: pretraining at many values of any fields of its configuration. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import process from "node:process"
import { inProcess } from "../../pipelines/experiment/Job.ts"
import { toTerminal } from "../../pipelines/report/render.ts"
import * as Sweep from "../../pipelines/sweep.ts"
import { pointsOf } from "../../pipelines/sweep/Config.ts"
import { view } from "../../pipelines/sweep/view.ts"
import { decodeConfig } from "../Config.ts"
import { count, hasColor, widthOf } from "../Terminal.ts"
import * as Progress from "../terminal/Progress.ts"
import type { SweepOptions } from "./commands/sweep.ts"
import * as Config from "./config.ts"
import * as Edge from "./Edge.ts"
import { type Where, whereOf } from "./resume.ts"
import { failedArms, savedConfig, tellInterrupted, tellSignals } from "./run.ts"

const configOf = (options: SweepOptions, { folder, resume }: Where) =>
  Effect.gen(function*() {
    const base = resume ? yield* savedConfig(folder) : {}
    const decoded = Effect.gen(function*() {
      const file = Option.isSome(options.config) ? yield* Config.readConfig(options.config.value) : {}
      const flags = {
        ...Option.match(options.seeds, { onNone: () => ({}), onSome: (seeds) => ({ seeds }) }),
        ...Option.match(options.arms, {
          onNone: () => ({}),
          onSome: (arms) => ({ arms: arms.split(",").map((arm) => arm.trim()) })
        })
      }
      const overrides = yield* Effect.forEach(options.overrides, Config.override)
      const config = yield* decodeConfig(Sweep.SweepConfig,
        [file, flags, ...overrides].reduce<unknown>(Config.merge, base))
      // a field that a configuration does not have, or a value that it cannot, is told before anything is made
      yield* pointsOf(config)
      return config
    })
    return yield* Effect.mapError(decoded, Edge.usage)
  })

/** Prints how many points there are, and what they cost. */
const dryRun = (config: Sweep.SweepConfig, json: boolean) =>
  Effect.gen(function*() {
    const cost = yield* Sweep.costOf(config)
    const { operations, points, steps, tokens, trainings } = cost
    yield* Edge.print(json ? JSON.stringify(cost) : [
      `points: ${count(points)}, with ${count(config.seeds)} seed${config.seeds === 1 ? "" : "s"} of ${
        config.arms.join(", ")
      }`,
      `trainings: ${count(trainings.all)}, of which ${
        count(trainings.different)
      } are different; equal ones are done once`,
      `cost: ${count(steps)} steps, ${count(tokens)} tokens, ${
        operations.toPrecision(2)
      } operations forward and backward`
    ].join("\n"))
  })

/** Prints the report on stdout and leaves it, with the tables of data and the models, in the run's folder. */
export const sweep = (options: SweepOptions) =>
  Effect.gen(function*() {
    const progress = yield* Progress.scoped({ output: process.stderr, env: process.env, ...options })
    const say = (message: string) => progress.event({ _tag: "Stage", message })
    yield* tellSignals(progress)
    const where = yield* whereOf(options, "sweep")
    const { folder } = where
    const config = yield* configOf(options, where)
    if (options.dryRun) return yield* dryRun(config, options.json)
    const device = yield* Edge.runtime
    yield* say(`memsinks ${Edge.version}: a sweep, results go to ${folder}`)
    const logger = Logger.make<unknown, void>((line) => Effect.runSync(progress.log(Edge.logLine(line))))
    const report = yield* Sweep.run(config, {
      device: device.layer(Edge.adapterOptions(options.adapter)),
      outDir: folder,
      resume: where.resume,
      force: options.force,
      runner: inProcess(options.jobs),
      ...Option.match(options.store, { onNone: () => ({}), onSome: (store) => ({ store }) }),
      onEvent: progress.event,
      versions: Edge.versions()
    }).pipe(
      Effect.withSpan("sweep", { attributes: { folder } }),
      Effect.provide(Logger.replace(Edge.logger, logger)),
      Effect.onInterrupt(() => tellInterrupted(progress, folder, `memsinks sweep --resume --out-dir ${folder}`))
    )
    yield* progress.clear
    yield* Edge.print(
      options.json
        ? Sweep.toJson(report)
        : toTerminal(view(report), { color: hasColor(process.stdout, process.env),
          width: widthOf(process.stdout.columns, 100, 100) })
    )
    yield* say(`\nreport, tables and models: ${folder}/report.html`)
    if (report.failures.length > 0) return yield* failedArms(report.failures)
  }).pipe(Effect.scoped)
