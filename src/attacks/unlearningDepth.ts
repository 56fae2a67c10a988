/** How deep in a model a memory is gone, by patching its hidden states into the model that has it. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, positive, withDefault } from "../Config.ts"
import { DataError } from "../Errors.ts"
import { patchedDrops } from "../inside/Depth.ts"
import { residualStreams } from "../inside/Streams.ts"
import { DEPTH_THRESHOLD, depthScore } from "../measures/Depth.ts"
import { mean } from "../measures/Statistics.ts"
import { Model } from "../model/Model.ts"
import { own } from "../Sink.ts"
import type { Attack } from "./Attack.ts"

/** Options of `unlearningDepth`. */
export class UnlearningDepthOptions
  extends configuration(Schema.Class<UnlearningDepthOptions>("UnlearningDepthOptions")({
    /** Tokens of a sequence that are given; what is behind them is scored, and patched where it is predicted. Default 16. */
    prompt: withDefault(positive, () => 16),
    /** Drop of log-probability, in nats a token, above which a block counts as one that holds the memory. Default 0.05. */
    threshold: withDefault(atLeast0, () => DEPTH_THRESHOLD),
    /**
     * Map the states of the oracle and of the attacked model to those of the full one by least squares on sequences that
     * none was trained on. The paper's models are all tuned from one and need none; arms are trained apart. Default true.
     */
    align: withDefault(Schema.Boolean, () => true)
  }))
{}

export const unlearningDepth: Attack<UnlearningDepthOptions> = {
  name: "unlearningDepth",
  title: "unlearning depth",
  paper: "Lee, Kim and Jo 2026, UDS",
  version: 1,
  needsReference: true,
  needsStandard: true,
  options: UnlearningDepthOptions,
  metrics: () => ({
    uds: {
      title: "share of the memory that is gone, over the blocks that hold it (UDS): 1 as in the oracle, 0 all there",
      unit: "share",
      memory: "lower"
    },
    drop: { title: "what its hidden states cost the model that knows the sequence, mean over blocks", unit: "nats",
      memory: "lower", signed: true }
  }),
  problem: ({ align, prompt }, { others, seqLen }) =>
    prompt > seqLen
      ? `a prompt of ${prompt} tokens leaves none of the ${seqLen + 1} of a sequence to be scored: shorten it`
      : align && others === 0
      ? "to align hidden states it needs sequences that were never trained on: hold some out, or set align to false"
      : undefined,
  run: ({ batchSize, mode, others, reference, rows, seqLen, standard }, { align, prompt: promptTokens, threshold }) =>
    Effect.gen(function*() {
      const neutral = align ? others : []
      const options = { batchSize, seqLen, promptTokens }
      const streams = (mode: Parameters<typeof residualStreams>[1]["mode"]) =>
        Effect.all({
          streams: residualStreams(rows, { ...options, mode }),
          neutral: residualStreams(neutral, { ...options, mode })
        })
      const source = yield* streams(mode)
      if (reference === undefined) {
        return yield* new DataError({
          detail: "the depth of unlearning is judged beside the oracle, and there is none"
        })
      }
      const retain = yield* reference(streams(own))
      // where there are sinks, the model that knows is the same with them on
      const patched = patchedDrops(rows, [retain, source], { ...options, mode: own }, neutral)
      const { config } = yield* Model
      const [s1, s2] = (yield* config.sinks !== undefined || standard === undefined ? patched : standard(patched)) as [
        ReadonlyArray<ReadonlyArray<number>>,
        ReadonlyArray<ReadonlyArray<number>>
      ]
      return {
        uds: s1.map((retain, r) => depthScore({ retain, source: s2[r]! }, threshold)),
        drop: s2.map(mean)
      }
    })
}
