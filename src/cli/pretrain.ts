/** `memsinks pretrain`: its configuration, whose defaults depend on what is given, and its run. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Pretrain from "../../pipelines/pretrain.ts"
import type { PretrainReport } from "../../pipelines/pretrain/Report.ts"
import { view } from "../../pipelines/pretrain/view.ts"
import { loadInitial } from "../checkpoints/Import.ts"
import { Collective } from "../collective/Collective.ts"
import { decodeConfig } from "../Config.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { examineAdapters, f16Refusal } from "../gpu/Adapter.ts"
import { presets } from "../model/ModelConfig.ts"
import type { PretrainOptions } from "./commands/pretrain.ts"
import * as Config from "./config.ts"
import { dryRun } from "./dryRun.ts"
import * as Edge from "./Edge.ts"
import { baseOf, givenOf, type Ready, runExperiment } from "./experiment.ts"
import { ownAdapters, together } from "./ranks.ts"
import type { Where } from "./resume.ts"
import { watch } from "./watch.ts"

const configOf = (options: PretrainOptions, where: Where) =>
  Effect.gen(function*() {
    const { resume } = where
    const base = yield* baseOf(where, Schema.encodeSync(Pretrain.PretrainConfig)(new Pretrain.PretrainConfig({})))
    const decoded = Effect.gen(function*() {
      const given = (yield* givenOf(options)).reduce<unknown>(Config.merge, {}) as {
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
    const { adapter: { features }, name } = yield* runtime.openGpu(Edge.given({ adapter }))
    if (features.has("shader-f16")) return
    const refusal = f16Refusal(name, features, yield* examineAdapters(yield* runtime.listAdapters, runtime.openGpu))
    if (refusal !== undefined) return yield* refusal
  }).pipe(Effect.scoped)

/** Prints the report on stdout and leaves it, with checkpoints and metrics, in the run's folder. */
const lead = (options: PretrainOptions, telling: ReadonlyArray<string>) => {
  let asked = false
  return runExperiment("pretrain", options, (where) =>
    Effect.gen(function*() {
      const { byWidth, config } = yield* configOf(options, where)
      if (options.dryRun) return yield* dryRun(config, options.json, byWidth)
      if (config.precision === "f16") yield* needsF16(options.adapter)
      const watched = yield* watch(options)
      return {
        doing: "pretraining",
        run: (shared) => {
          asked = true
          return Pretrain.run(config, shared)
        },
        view,
        toJson: JSON.stringify,
        leaves: "report, curves and checkpoints",
        watched: { ...watched, telling: [...telling, ...watched.telling] }
      } satisfies Ready<PretrainReport>
    })).pipe(
      // the others wait for what they are asked
      Effect.ensuring(Effect.suspend(() => asked || options.dryRun ? Effect.void : Pretrain.dismiss))
    )
}

/** Alone, or as one of several ranks: rank 0 does what one process does, and the others compute their share. */
export const pretrain = (options: PretrainOptions) =>
  together(Effect.gen(function*() {
    const { rank, size } = yield* Collective
    const telling = size === 1 || options.dryRun ? [] : yield* ownAdapters(options)
    if (rank === 0) return yield* lead(options, telling)
    if (!options.dryRun) {
      yield* Pretrain.follow({ device: (yield* Edge.runtime).layer(Edge.given({ adapter: options.adapter })) })
    }
  }))
