/** `memsinks plan`: the memory of a training run, from its configuration alone. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { PretrainConfig } from "../../pipelines/pretrain.ts"
import { decodeConfig, positive } from "../Config.ts"
import { attempt, DataError, DeviceError } from "../Errors.ts"
import { examineAdapters, f16Refusal } from "../gpu/Adapter.ts"
import { Device } from "../gpu/Device.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { ModelConfig, presets } from "../model/ModelConfig.ts"
import { count, limitBytes } from "../Terminal.ts"
import * as MemoryPlan from "../train/MemoryPlan.ts"
import { scheduleProblem } from "../train/Optimizer.ts"
import type { PlanOptions } from "./commands/plan.ts"
import * as Config from "./config.ts"
import * as Edge from "./Edge.ts"

/** A run's configuration, and what only a pass knows (see PassShape). */
const PlanConfig = Schema.Struct({
  ...PretrainConfig.fields,
  compute: Schema.optional(Schema.Literal("gathered", "masked")),
  logitsBytes: Schema.optional(positive),
  maxSegments: Schema.optional(positive)
})

/** The configuration that the options of a command about one training pass give. */
export const configOf = (
  options: Pick<PlanOptions, "preset" | "config" | "batch" | "seq" | "precision" | "recompute" | "overrides">
) =>
  Effect.gen(function*() {
    const base = Schema.encodeSync(PretrainConfig)(new PretrainConfig({}))
    const file = Option.isSome(options.config) ? yield* Config.readConfig(options.config.value) : {}
    const flags = {
      ...Edge.given({ precision: options.precision }),
      ...(options.recompute ? { recompute: true } : {}),
      data: Config.dataOf(options)
    }
    const overrides = yield* Effect.forEach(options.overrides, Config.override)
    const given = [file, flags, ...overrides].reduce<unknown>(Config.merge, {})
    const model = Option.isSome(options.preset) ? { model: Config.shapeOf(presets[options.preset.value], given) } : {}
    return yield* decodeConfig(PlanConfig, Config.merge({ ...base, ...model }, given))
  })

/** The adapter of that name, as far as a plan depends on it. */
const examine = (name: string, f16: boolean) =>
  Effect.gen(function*() {
    const runtime = yield* Edge.runtime
    const open = yield* runtime.openGpu({ adapter: name })
    const device = yield* Device.make(open)
    if (f16 && !device.features.has("shader-f16")) {
      const others = yield* examineAdapters(yield* runtime.listAdapters, runtime.openGpu)
      const refusal = f16Refusal(device.name, device.features, others)
      if (refusal !== undefined) return yield* refusal
    }
    return { name: device.name, target: device.target, buffer: MemoryPlan.bufferLimit(device.limits) }
  }).pipe(Effect.scoped)

interface Found {
  readonly name: string
  readonly setting: MemoryPlan.Setting
  readonly precision: string
  readonly ranks: number
  /** Whether each has a part of the pool. */
  readonly divided: boolean
  readonly plan: MemoryPlan.MemoryPlan
  /** Where there are limits: whose they are, and how the run fares with them. */
  readonly limited?: {
    readonly adapter: string | undefined
    readonly limits: MemoryPlan.MemoryLimits
    readonly tooLarge: ReadonlyArray<Tensor.Tensor>
    readonly fit: MemoryPlan.Fit
  }
}

const tokensPerStep = ({ gradientAccumulation, shape }: MemoryPlan.Setting): number =>
  gradientAccumulation * shape.rows * shape.seqLen

const toJson = ({ limited, plan, ranks, setting }: Found): string => {
  const { largest, tensors: _, ...bytes } = plan
  const { config, gradientAccumulation, shape } = setting
  const limits = ({ adapter, fit, limits, tooLarge }: NonNullable<Found["limited"]>) => ({
    adapter: adapter ?? null,
    ...limits,
    fits: fit.asAsked,
    tooLarge: tooLarge.map(({ name, shape, type, ...tensor }) => ({ name, shape, type,
      bytes: Tensor.byteLength({ name, shape, type, ...tensor }) })
    ),
    nearest: fit.nearest === undefined ? null : {
      batchSize: fit.nearest.shape.rows,
      seqLen: fit.nearest.shape.seqLen,
      gradientAccumulation: fit.nearest.gradientAccumulation,
      pool: fit.nearest.config.pool,
      intermediateSize: fit.nearest.config.intermediateSize
    },
    message: fit.sentence
  })
  // an unlimited memory is Infinity, which JSON has not: it becomes null
  return JSON.stringify({
    model: Schema.encodeSync(ModelConfig)(config),
    parameters: config.numParameters,
    activeParameters: config.numActiveParameters,
    pass: shape,
    gradientAccumulation,
    tokensPerStep: tokensPerStep(setting),
    ...(ranks === 1 ? {} : { ranks }),
    bytes,
    largest,
    limits: limited === undefined ? null : limits(limited)
  })
}

const toText = ({ divided, limited, name, plan, precision, ranks, setting }: Found): string => {
  const { config, gradientAccumulation, shape } = setting
  const active = config.pool === 0 ? "" : `, ${count(config.numActiveParameters)} active a token`
  const batches = gradientAccumulation === 1 ? "" : `${gradientAccumulation} batches of `
  const lines = [
    `${name}: ${count(config.numParameters)} parameters${active}; ${precision}; of a vocabulary of ` +
    `${count(config.vocabSize)}, and a run takes that of its data`,
    `a step: ${batches}${count(shape.rows)} rows of ${count(shape.seqLen)} tokens, ` +
    `${count(tokensPerStep(setting))} tokens`,
    "",
    ...(ranks === 1
      ? []
      : [`each of ${ranks} ranks, ${divided ? "with its slices of the pool of sinks" : "with all there is"}:`]),
    MemoryPlan.formatMemoryPlan(plan)
  ]
  if (limited === undefined) return lines.join("\n")
  const { adapter, fit, limits: { buffer, memory = Infinity }, tooLarge } = limited
  const bounds = [[buffer, "a buffer"], [memory, "in all"]] as const
  lines.push(
    "",
    `${adapter ?? "limit"}: ` + bounds
      .filter(([bytes]) => Number.isFinite(bytes))
      .map(([bytes, of]) => `${limitBytes(bytes, MemoryPlan.formatBytes)} ${of}`)
      .join(", "),
    ...(tooLarge.length === 0 ? [] : [MemoryPlan.formatTooLarge(tooLarge, buffer)]),
    fit.sentence
  )
  return lines.join("\n")
}

/** What the last line says of a plan that exceeds its limits. */
const exceeded = ({ limited, plan }: Found): string | undefined => {
  if (limited === undefined || limited.fit.asAsked) return undefined
  const { limits: { buffer, memory = Infinity }, tooLarge } = limited
  const parts = [
    ...(tooLarge.length === 0
      ? []
      : [`${tooLarge[0]!.name} takes ${MemoryPlan.formatBytes(plan.largest.bytes)}, a buffer holds ` +
        `${limitBytes(buffer, MemoryPlan.formatBytes)}`]),
    ...(plan.peak <= memory
      ? []
      : [`all takes ${MemoryPlan.formatBytes(plan.peak)} of ${MemoryPlan.formatBytes(memory)}`])
  ]
  return `the run does not fit: ${parts.join("; ")}`
}

/**
 * Prints how much memory a run takes; with limits, also whether it fits and what would. Fails with DeviceError Limit
 * where it does not, after all is printed.
 */
export const plan = (options: PlanOptions) =>
  Effect.gen(function*() {
    const config = yield* Effect.mapError(configOf(options), Edge.usage)
    const { limit = Infinity, memory = Infinity } = Edge.given({ limit: options.limit, memory: options.memory })
    const adapter = Option.isSome(options.adapter)
      ? yield* examine(options.adapter.value, config.precision === "f16")
      : undefined
    const limits = { buffer: Math.min(limit, adapter?.buffer ?? Infinity), memory }

    const { compute, data, logitsBytes, maxSegments, model, precision, recompute, training } = config
    const shape: MemoryPlan.TrainShape = {
      rows: data.batchSize,
      seqLen: data.seqLen,
      precision,
      recompute,
      ...(compute === undefined ? {} : { compute }),
      ...(logitsBytes === undefined ? {} : { logitsBytes }),
      ...(maxSegments === undefined ? {} : { maxSegments })
    }
    const { diloco, gradientAccumulation, logEvery, optimizer, routing } = training
    const ranks = Option.getOrElse(options.ranks, () => 1)
    const planOptions = {
      optimizer,
      logEvery,
      gradientAccumulation,
      routing,
      ranks: diloco === undefined ? ranks : 1,
      exchange: training.exchange,
      diloco: diloco === undefined || ranks === 1 ? undefined : { config: diloco, ranks },
      ...(adapter === undefined ? {} : { target: adapter.target })
    }
    const unfit = training.steps === undefined ? undefined : scheduleProblem(optimizer, training.steps)
    if (unfit !== undefined) return yield* Effect.fail(Edge.usage(new DataError({ detail: unfit })))
    const found = yield* attempt((): Found => {
      const plan = MemoryPlan.memoryPlan(model, shape, planOptions)
      return {
        name: Option.getOrElse(options.preset, () => "the model"),
        setting: { config: model, shape, gradientAccumulation },
        precision,
        ranks,
        divided: planOptions.ranks > 1 && (model.sinks?.shards ?? 1) > 1,
        plan,
        ...(limits.buffer === Infinity && memory === Infinity ? {} : {
          limited: {
            adapter: adapter?.name,
            limits,
            tooLarge: MemoryPlan.tooLarge(plan, limits.buffer),
            fit: MemoryPlan.fit(model, shape, limits, planOptions)
          }
        })
      }
    }, DataError, DeviceError).pipe(Effect.mapError((error) => {
      if (error._tag === "DataError") return Edge.usage(error)
      if (!MemoryPlan.isTooLarge(error)) return error
      const { sentence } = MemoryPlan.fit(model, shape, limits, planOptions)
      return new DeviceError({
        reason: "Limit",
        detail: `${shape.rows} rows of ${shape.seqLen} tokens are too many: ${error.detail}\n${sentence}`
      })
    }))
    yield* Edge.print(options.json ? toJson(found) : toText(found))
    const detail = exceeded(found)
    if (detail !== undefined) return yield* new DeviceError({ reason: "Limit", detail })
  })
