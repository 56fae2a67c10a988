/** `memsinks pretrain`: configuration from its sources, progress, the run, and its report in every form. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import process from "node:process"
import * as Pretrain from "../../pipelines/pretrain.ts"
import { view } from "../../pipelines/pretrain/view.ts"
import { toHtml, toMarkdown, toTerminal } from "../../pipelines/report/render.ts"
import { loadInitial } from "../checkpoints/Import.ts"
import { decodeConfig } from "../Config.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { examineAdapters, f16Refusal } from "../gpu/Adapter.ts"
import { presets } from "../model/ModelConfig.ts"
import { hasColor, widthOf } from "../Terminal.ts"
import * as Progress from "../terminal/Progress.ts"
import type { PretrainOptions } from "./commands/pretrain.ts"
import * as Config from "./config.ts"
import { dryRun } from "./dryRun.ts"
import * as Edge from "./Edge.ts"
import { type Where, whereOf } from "./resume.ts"
import { failedArms, savedConfig, showReport, tellInterrupted, tellSignals } from "./run.ts"
import { watch } from "./watch.ts"

const configOf = (options: PretrainOptions, { folder, resume }: Where) =>
  Effect.gen(function*() {
    const base = resume
      ? yield* savedConfig(folder)
      : Schema.encodeSync(Pretrain.PretrainConfig)(new Pretrain.PretrainConfig({}))
    const decoded = Effect.gen(function*() {
      const file = Option.isSome(options.config) ? yield* Config.readConfig(options.config.value) : {}
      const flags = {
        ...Option.match(options.seeds, { onNone: () => ({}), onSome: (seeds) => ({ seeds }) }),
        data: Config.dataOf(options),
        training: Config.trainingOf(options)
      }
      const overrides = yield* Effect.forEach(options.overrides, Config.override)
      const given = [file, flags, ...overrides].reduce<unknown>(Config.merge, {}) as {
        readonly data?: { readonly data?: unknown }
        readonly model?: { readonly hiddenSize?: unknown }
        readonly initialFrom?: unknown
      }
      const paths = [given.data?.data ?? []].flat().filter((path) => typeof path === "string")
      // the defaults are those of the experiment on text; a corpus of tokens, and a trained model, bring their own
      const tokens = !resume && (yield* Effect.exists(paths, (path) => TokenShards.isTokens(path)))
      const initial = typeof given.initialFrom === "string" && given.model === undefined
        ? (yield* loadInitial(given.initialFrom)).config
        : undefined
      const preset = Option.match(options.preset, { onNone: () => initial, onSome: (name) => presets[name] })
      const width = given.model?.hiddenSize ?? preset?.hiddenSize
      const merged = Config.merge(
        {
          ...base,
          ...(tokens ? { data: {}, training: {} } : {}),
          ...(preset === undefined ? {} : { model: Config.shapeOf(preset, given) })
        },
        given
      )
      // the default rate is for the default width
      const rate =
        !resume && typeof width === "number" && width > 0 && !Config.says(given, "training.optimizer.learningRate")
          ? { training: { optimizer: { learningRate: Config.rateOfWidth(width) } } }
          : {}
      return {
        config: yield* decodeConfig(Pretrain.PretrainConfig, Config.merge(merged, rate)),
        byWidth: Object.keys(rate).length > 0
      }
    })
    return yield* Effect.mapError(decoded, Edge.usage)
  })

/** Refuses f16 before anything is made where the adapter has none, and says which have it. */
const needsF16 = (adapter: Option.Option<string>) =>
  Effect.gen(function*() {
    const runtime = yield* Edge.runtime
    const { adapter: { features }, name } = yield* runtime.openGpu(Edge.adapterOptions(adapter))
    if (features.has("shader-f16")) return
    const refusal = f16Refusal(name, features, yield* examineAdapters(yield* runtime.listAdapters, runtime.openGpu))
    if (refusal !== undefined) return yield* refusal
  }).pipe(Effect.scoped)

/** Prints the report on stdout and leaves it, with checkpoints and metrics, in the run's folder. */
export const pretrain = (options: PretrainOptions) =>
  Effect.gen(function*() {
    const progress = yield* Progress.scoped({ output: process.stderr, env: process.env, ...options })
    const say = (message: string) => progress.event({ _tag: "Stage", message })
    yield* tellSignals(progress)
    const where = yield* whereOf(options, "pretrain")
    const { folder } = where
    const { byWidth, config } = yield* configOf(options, where)
    if (options.dryRun) return yield* dryRun(config, options.json, byWidth)
    const device = yield* Edge.runtime
    if (config.precision === "f16") yield* needsF16(options.adapter)
    yield* say(`memsinks ${Edge.version}: pretraining, results go to ${folder}`)

    const watched = yield* watch(options)
    for (const line of watched.telling) yield* say(line)

    const logger = Logger.make<unknown, void>((line) => Effect.runSync(progress.log(Edge.logLine(line))))
    const report = yield* Pretrain.run(config, {
      device: device.layer(Edge.adapterOptions(options.adapter)),
      outDir: folder,
      resume: where.resume,
      force: options.force,
      onEvent: (event) => Effect.zipRight(progress.event(event), watched.onEvent(event)),
      versions: Edge.versions()
    }).pipe(
      Effect.withSpan("pretrain", { attributes: { folder } }),
      Effect.provide(watched.layer),
      Effect.provide(Logger.replace(Edge.logger, logger)),
      Effect.onInterrupt(() => tellInterrupted(progress, folder, `memsinks pretrain --resume --out-dir ${folder}`))
    )
    yield* showReport(progress, folder, {
      text: () =>
        options.json
          ? JSON.stringify(report)
          : toTerminal(view(report), { color: hasColor(process.stdout, process.env),
            width: widthOf(process.stdout.columns, 100, 100) }),
      markdown: () => toMarkdown(view(report)),
      html: () => toHtml(view(report)),
      what: "report, curves and checkpoints"
    })
    if (report.failures !== undefined) return yield* failedArms(report.failures)
  }).pipe(Effect.scoped)
