/**
 * Canaries as tokenized documents: random tokens, or texts that are given. Pure.
 */
import { random } from "../../Random.ts"
import { contentHash, hash64 } from "../identity/Identity.ts"
import { type Tokenizer, UNKNOWN } from "../tokens/Tokenizer.ts"
import type { Canary } from "./DataConfig.ts"

/** A canary, ready to be trained on. */
export interface CanaryDocument {
  readonly name: string
  readonly tokens: Uint32Array
  readonly times: number
  readonly source: string
  readonly content: bigint
  /** Its id, where one was given. */
  readonly id: bigint | undefined
}

/**
 * The canaries of a configuration, in its order. Random ones draw from the seed and their place alone. A string says
 * which one cannot be made, and why.
 */
export const canaryDocuments = (
  canaries: ReadonlyArray<Canary>,
  tokenizer: Tokenizer,
  seqLen: number,
  seed: number
): ReadonlyArray<CanaryDocument> | string => {
  const made: Array<CanaryDocument> = []
  const names = new Set<string>()
  for (const [index, canary] of canaries.entries()) {
    const name = `canary/${canary.name ?? index + 1}`
    if (names.has(name)) return `canaries: two have the name ${JSON.stringify(name)}. Give each a name of its own`
    names.add(name)
    const common = {
      times: canary.times,
      source: canary.source ?? "canary",
      id: canary.id === undefined ? undefined : BigInt(canary.id)
    }
    if (canary.text !== undefined) {
      const tokens = tokenizer.encode(canary.text)
      if (tokens.length < 2 || tokens.length > seqLen + 1) {
        return `canaries: ${name} has ${tokens.length} tokens, a sequence of seqLen ${seqLen} has 2 to ` +
          `${seqLen + 1}. ` + (tokens.length < 2 ? "Give a longer text" : "Shorten the text or raise seqLen")
      }
      if (!canary.text.includes(UNKNOWN) && tokenizer.decode(tokens).includes(UNKNOWN)) {
        return `canaries: ${name} has characters that the tokenizer does not know, since it was trained on a text ` +
          "without them. Raise vocabSize to 512 or more, or use other characters"
      }
      made.push({ ...common, name, tokens, content: contentHash(canary.text) })
      continue
    }
    const length = canary.length ?? seqLen + 1
    if (length > seqLen + 1) {
      return `canaries: ${name} has length ${length}, a sequence of seqLen ${seqLen} has at most ${seqLen + 1} tokens`
    }
    for (let k = 0; k < canary.random!; k++) {
      const draw = random(seed, "canary", index, k)
      const tokens = Uint32Array.from({ length }, () => draw.below(tokenizer.vocabSize))
      made.push({ ...common, name: `${name}/${k + 1}`, tokens, content: hash64(tokens.join()) })
    }
  }
  return made
}
