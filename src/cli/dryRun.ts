/** `memsinks pretrain --dry-run`: what would be run, on which data, in how much memory; nothing is trained or written. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { stringify } from "yaml"
import { PretrainConfig } from "../../pipelines/pretrain.ts"
import { Collective } from "../collective/Collective.ts"
import { DataConfig, type DataReport, DataStream } from "../data/stream/DataStream.ts"
import { exposureLines, sinkExposure, tokenShares } from "../data/tokens/TokenShares.ts"
import { attempt, DataError, DeviceError } from "../Errors.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import { count } from "../Terminal.ts"
import * as MemoryPlan from "../train/MemoryPlan.ts"
import { scheduleProblem } from "../train/Optimizer.ts"
import * as Edge from "./Edge.ts"

const share = (part: number): string => `${(100 * part).toFixed(1)} %`

const dataLines = (report: DataReport, config: PretrainConfig): ReadonlyArray<string> => [
  `data: ${count(report.documents)} of ${count(report.documentsAvailable)} documents, ` +
  `${count(report.heldOutDocuments)} held out; ${count(report.tokens)} tokens` +
  (report.bytesPerToken === undefined ? "" : ` of ${report.bytesPerToken.toFixed(2)} bytes`),
  `an epoch: ${count(report.batchesPerEpoch)} batches of ${count(config.data.batchSize)} rows of ` +
  `${count(config.data.seqLen)} tokens; ${count(report.exposures)} sequences, ${count(report.scoredTokens)} tokens ` +
  `scored, ${share(report.padding)} padding`,
  `ids: ${count(report.distinctIds)}, one a ${report.identity}` +
  report.groups.map(({ exposures, sequences }) => `; ${count(sequences)} sequences ${count(exposures)} times`).join(
    ""
  ) +
  (report.canaries === 0 ? "" : `; ${count(report.canaries)} canaries`),
  ...(report.sources.length < 2 ? [] : [
    "sources: " + report.sources.slice(0, 8).map(({ name, share: part }) => `${name} ${share(part)}`).join(", ") +
    (report.sources.length > 8 ? ` and ${count(report.sources.length - 8)} more; --json has all` : "")
  ])
]

/**
 * Prints the resolved configuration, the report on the data, and the memory of the largest model that is trained.
 *
 * @param byWidth the learning rate is that of the model's width: nobody gave one
 */
export const dryRun = (config: PretrainConfig, json: boolean, byWidth = false) =>
  Effect.gen(function*() {
    const data = yield* DataStream
    const { diloco, exchange, gradientAccumulation, logEvery, optimizer, routing } = config.training
    const { size } = yield* Collective
    const together = diloco === undefined
      ? { ranks: size }
      : size === 1
      ? {}
      : { diloco: { config: diloco, ranks: size } }
    const steps = config.training.steps ?? Math.max(1, Math.floor(data.batchesPerEpoch / gradientAccumulation))
    const model = new ModelConfig({ ...config.model, vocabSize: data.tokenizer.vocabSize })
    const shape = {
      rows: data.batchSize,
      seqLen: data.seqLen,
      maxSegments: data.maxSegments,
      precision: config.precision,
      recompute: config.recompute
    }
    const unfit = scheduleProblem(optimizer, steps)
    if (unfit !== undefined) return yield* new DataError({ detail: unfit })
    const plan = yield* attempt(
      () =>
        MemoryPlan.memoryPlan(model, shape, { optimizer, logEvery, gradientAccumulation, routing, exchange,
          ...together }),
      DataError,
      DeviceError
    )
    const encoded = Schema.encodeSync(PretrainConfig)(config)
    const tokens = steps * data.batchSize * data.seqLen * gradientAccumulation
    const { tensors: _, ...memory } = plan
    const names = model.sinks === undefined ? undefined : yield* data.names
    const sinks = model.sinks === undefined
      ? undefined
      : { general: model.general, active: model.sinks.active, pool: model.sinks.pool }
    const shares = names === undefined
      ? undefined
      : tokenShares((use) => names.ids.forEach(({ id, name, tokens }) => use(id, tokens, () => name)))
    yield* Edge.print(
      json
        ? JSON.stringify({
          config: encoded,
          learningRateByWidth: byWidth,
          data: data.report,
          steps,
          tokens,
          parameters: model.numParameters,
          activeParameters: model.numActiveParameters,
          mlp: { general: model.general, pool: model.pool, active: model.activeSize, width: model.intermediateSize },
          ...(shares === undefined || sinks === undefined ? {} : { shares, exposure: sinkExposure(shares, sinks) }),
          memory
        })
        : [
          stringify(encoded).trimEnd(),
          "",
          ...dataLines(data.report, config),
          `training: ${count(steps)} steps, ${count(tokens)} tokens, ` +
          `${(steps * gradientAccumulation / data.batchesPerEpoch).toFixed(2)} epochs`,
          `model: ${count(model.numParameters)} parameters, ${count(model.numActiveParameters)} active a token` +
          (sinks === undefined
            ? ""
            : `; MLPs of ${count(sinks.general)} general neurons and ${count(sinks.pool)} sinks`) +
          (model.vocabSize === config.model.vocabSize
            ? ""
            : `; of the data's vocabulary of ${count(model.vocabSize)}: with ${
              count(config.model.vocabSize)
            }, as the ` +
              `model was described, they were ${count(config.model.numParameters)}`),
          `every MLP: ${count(model.activeSize)} of ${count(model.intermediateSize)} neurons on for a token; ` +
          `learning rate ${optimizer.learningRate}` +
          (byWidth
            ? `, by the width of ${model.hiddenSize}: 5e-3 at 64, 5e-4 at 1,000, a power between and beyond; --lr sets another`
            : ""),
          ...(shares === undefined ? [] : exposureLines(shares, sinks)),
          "",
          MemoryPlan.formatMemoryPlan(plan)
        ].join("\n")
    )
  }).pipe(Effect.provide(DataStream.layer(Schema.encodeSync(DataConfig)(config.data))))
