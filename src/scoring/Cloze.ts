/** Cloze prompts through the one scoring loop: a prompt with each of its completions is a sequence of which the completion is scored. */
import * as Effect from "effect/Effect"
import type { Row } from "../data/stream/Packing.ts"
import type { DataError, DeviceError, KernelError } from "../Errors.ts"
import type { Answers } from "../measures/Metrics.ts"
import type { ModelService } from "../model/Model.ts"
import type { SinkMode } from "../Sink.ts"
import { scoreRows } from "./Score.ts"

/** A prompt, what completes it rightly and what wrongly, in tokens; none of them empty. */
export interface ClozeRow {
  /** Whose sinks it lights. */
  readonly id: bigint
  /** For messages. */
  readonly name: string
  readonly prompt: Uint32Array
  readonly right: Uint32Array
  readonly wrong: ReadonlyArray<Uint32Array>
}

/** A prompt with a completion, of which the completion is scored; neither is empty. */
export const completedRow = (id: bigint, name: string, prompt: Uint32Array, completion: Uint32Array): Row => {
  const tokens = new Uint32Array(prompt.length + completion.length)
  tokens.set(prompt)
  tokens.set(completion, prompt.length)
  return { id, tokens, document: name, offset: 0, scoredFrom: prompt.length }
}

/** A cloze as sequences: with the right completion, then with each wrong one. */
export const clozeRows = ({ id, name, prompt, right, wrong }: ClozeRow): ReadonlyArray<Row> =>
  [right, ...wrong].map((completion) => completedRow(id, name, prompt, completion))

/**
 * Losses of completions, nats a token of the completion alone, with the sinks in a mode, in the order of the clozes: what
 * `Truth` makes truth ratios of. Fails as `scoreRows` does: for what does not fit into rows, and where a loss is not a
 * number.
 */
export const scoreClozes = (
  model: Pick<ModelService, "evaluate">,
  clozes: ReadonlyArray<ClozeRow>,
  mode: SinkMode,
  options: { readonly batchSize: number; readonly seqLen: number }
): Effect.Effect<ReadonlyArray<Answers>, DataError | DeviceError | KernelError> =>
  Effect.map(scoreRows(model, clozes.flatMap(clozeRows), mode, options), (scores) => {
    const losses = scores.map(({ loss, tokens }) => loss / tokens)
    let at = 0
    return clozes.map(({ wrong }): Answers => {
      const right = losses[at++]!
      return { right, wrong: losses.slice(at, at += wrong.length) }
    })
  })
