import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Row } from "../../data/stream/Packing.ts"
import type { DataError, DeviceError, KernelError } from "../../Errors.ts"
import type { Device } from "../../gpu/Device.ts"
import { generate } from "../../model/Generate.ts"
import { Model } from "../../model/Model.ts"
import { random } from "../../Random.ts"
import type { SinkMode } from "../../Sink.ts"

/** How targets are edited: what is given, what is tried, and whose sinks are lit. */
export interface EditOptions {
  /** Tokens of a sequence that are given; what is behind them is edited. */
  readonly prompt: number
  readonly batchSize: number
  readonly mode: SinkMode
  readonly seed: number
  /** Perturbed prompts that are tried; the i-th has i random tokens, its first token excepted. Default 4. */
  readonly draws?: number
}

/** Tokens before the first that differs. */
const agreed = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let n = 0
  while (n < a.length && a[n] === b[n]) n++
  return n
}

/**
 * Sequences with another suffix behind their own prompt (Stoehr et al. 2024): what the Model says greedily after the one of
 * several perturbed prompts whose continuation keeps fewest tokens of the true one; random tokens where all of them keep
 * all. Only the suffix is scored.
 */
export const editedTargets = (
  rows: ReadonlyArray<Row>,
  { batchSize, draws = 4, mode, prompt, seed }: EditOptions
): Effect.Effect<ReadonlyArray<Row>, DataError | DeviceError | KernelError, Model | Device> =>
  Effect.gen(function*() {
    const { vocabSize } = (yield* Model).config
    const tries = rows.flatMap((row, r) =>
      Array.from({ length: draws }, (_, i) => {
        const draw = random(seed, "edit", r, i)
        const tokens = row.tokens.slice(0, prompt)
        for (let n = 0; n <= i && prompt > 1; n++) tokens[1 + draw.below(prompt - 1)] = draw.below(vocabSize)
        return { id: row.id, tokens }
      })
    )
    const said = tries.map((): Array<number> => [])
    const longest = rows.reduce((most, { tokens }) => Math.max(most, tokens.length - prompt), 1)
    yield* Stream.runForEach(
      generate(tries, { batchSize, maxNewTokens: longest, temperature: 0, sinks: mode }),
      ({ prompt, token }) => Effect.sync(() => void said[prompt]!.push(token))
    )
    return rows.map((row, r): Row => {
      const suffix = row.tokens.subarray(prompt)
      const found = Array.from({ length: draws }, (_, i) => said[r * draws + i]!.slice(0, suffix.length))
      const least = found.reduce((a, b) => agreed(suffix, b) < agreed(suffix, a) ? b : a)
      const draw = random(seed, "edit", r)
      const edited = agreed(suffix, least) < suffix.length ? least : Array.from(suffix, () => draw.below(vocabSize))
      return { ...row, tokens: Uint32Array.from([...row.tokens.subarray(0, prompt), ...edited]), scoredFrom: prompt }
    })
  })
