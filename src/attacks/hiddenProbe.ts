/** What a linear probe reads off hidden states that the model itself may not say. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, natural, positive, withDefault } from "../Config.ts"
import type { Row } from "../data/stream/Packing.ts"
import { residualStreams } from "../inside/Streams.ts"
import { fitProbe, predict } from "../measures/Probe.ts"
import { mean } from "../measures/Statistics.ts"
import { Model } from "../model/Model.ts"
import { random } from "../Random.ts"
import type { Attack } from "./Attack.ts"

/** Options of `hiddenProbe`. */
export class HiddenProbeOptions extends configuration(Schema.Class<HiddenProbeOptions>("HiddenProbeOptions")({
  /** Block, from 0, behind which hidden states are read. Default: the last. */
  layer: withDefault(Schema.Union(natural, Schema.Literal("last", "middle")), () => "last" as const),
  /** Tokens of a sequence that are given; what is behind them is to be read. Default 16. */
  prompt: withDefault(positive, () => 16),
  /** How many tokens ahead of a state the token lies that is to be read off it; 1: the next. Default 1. */
  ahead: withDefault(positive, () => 1),
  /** Penalty on the probe's weights. Default 0.01. */
  l2: withDefault(atLeast0, () => 0.01),
  /** Steps that fit it. Default 200. */
  steps: withDefault(positive, () => 200)
})) {}

/** The places whose states are read, and the token that lies ahead of each. */
const placesOf = ({ tokens }: Row, { ahead, prompt }: HiddenProbeOptions): ReadonlyArray<readonly [number, number]> =>
  Array.from({ length: Math.max(0, tokens.length - prompt - (ahead - 1)) }, (_, i) => {
    const place = prompt - 1 + i
    return [place, tokens[place + ahead]!] as const
  })

export const hiddenProbe: Attack<HiddenProbeOptions> = {
  name: "hiddenProbe",
  title: "linear probe of hidden states",
  paper: "after probe decoders, 2026",
  version: 1,
  options: HiddenProbeOptions,
  metrics: ({ ahead }) => ({
    decoded: { title: `suffix tokens read ${ahead} ahead by a probe that was fitted on the other half`, unit: "share",
      memory: "higher" },
    shuffled: { title: "the same of a probe that was fitted on shuffled tokens: chance", unit: "share",
      memory: "higher" }
  }),
  problem: ({ ahead, layer, prompt }, { model, seen, seqLen }) =>
    prompt + ahead - 1 > seqLen
      ? `a prompt of ${prompt} tokens and ${ahead} ahead leave none of the ${seqLen + 1} of a sequence to be read`
      : typeof layer === "number" && layer >= model.numHiddenLayers
      ? `layer is ${layer}, and the model has blocks 0 to ${model.numHiddenLayers - 1}`
      : seen === 0
      ? "a probe is fitted on repeated sequences that are not scored, and there is none: repeat more"
      : undefined,
  run: ({ batchSize, mode, rows, seed, seen, seqLen }, options) =>
    Effect.gen(function*() {
      const { config: { hiddenSize: d, numHiddenLayers } } = yield* Model
      const layer = options.layer === "last"
        ? numHiddenLayers - 1
        : options.layer === "middle"
        ? Math.floor((numHiddenLayers - 1) / 2)
        : options.layer
      /** By sequence the states of its places, [places, d], and the tokens that lie ahead of them. */
      const statesOf = (of: ReadonlyArray<Row>) =>
        Effect.map(residualStreams(of, { batchSize, mode, seqLen }), (streams) =>
          of.map((row, r) => {
            const places = placesOf(row, options)
            const states = new Float32Array(places.length * d)
            const stream = streams[r]![layer + 1]!
            places.forEach(([place], i) => states.set(stream.subarray(place * d, (place + 1) * d), i * d))
            return { states, tokens: places.map(([, token]) => token) }
          }))
      const [known, scored] = yield* Effect.all([statesOf(seen), statesOf(rows)])
      const features = Float32Array.from(known.flatMap(({ states }) => [...states]))
      const ahead = known.flatMap(({ tokens }) => tokens)
      const vocabulary = [...new Set(ahead)]
      const classOf = new Map(vocabulary.map((token, i) => [token, i]))
      /** The share of each scored sequence's tokens that a probe reads, fitted on these. */
      const decoded = (tokens: ReadonlyArray<number>) => {
        const probe = fitProbe(features, tokens.map((token) => classOf.get(token)!), vocabulary.length, {
          l2: options.l2,
          steps: options.steps
        })
        return scored.map(({ states, tokens }) => {
          const read = predict(probe, states)
          return mean(tokens.map((token, i) => vocabulary[read[i]!] === token ? 1 : 0))
        })
      }
      return {
        decoded: decoded(ahead),
        shuffled: decoded(random(seed, "hiddenProbe").shuffle([...ahead]))
      }
    })
}
