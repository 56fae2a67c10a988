/** Whether two tokenizers give every text the same ids: what shards, models and data are matched by, everywhere. */
import { createHash } from "node:crypto"
import { isObject, type Json } from "../../Json.ts"

/** What a field that is left out says; of all others false and absence are two things, as `strip_accents` has it. */
const absent: Readonly<Record<string, boolean>> = {
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
  single_word: false,
  lstrip: false,
  rstrip: false,
  special: false,
  use_regex: true,
  split: true
}

/** JSON with sorted keys and without what says nothing: null, and what a field that is left out says, too. */
const canonical = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(canonical)
  if (!isObject(value)) return value
  const says = (key: string) => value[key] !== null && !(Object.hasOwn(absent, key) && value[key] === absent[key])
  return Object.fromEntries(Object.keys(value).sort().filter(says).map((key) => [key, canonical(value[key])]))
}

const known = new Map<string, string>()
/** Fingerprints remembered: a process sees few tokenizers, and their texts are large. */
const REMEMBERED = 8

/**
 * SHA-256 of all in a `tokenizer.json` that decides which ids a text gets: normalizer, pre-tokenizer, model and added
 * tokens. Not of the order of keys, of white space, or of what concerns decoding, padding, truncation and the tokens
 * around a text. A text that is no JSON object has the fingerprint of itself.
 */
export const fingerprint = (text: string): string => {
  const before = known.get(text)
  if (before !== undefined) return before
  let parts: unknown = text
  try {
    const json = JSON.parse(text) as unknown
    if (isObject(json)) {
      const { added_tokens, model, normalizer, pre_tokenizer } = json
      const { merges, vocab, ...settings } = isObject(model) ? model : {} as Json
      const tokens = isObject(vocab) ? Object.entries(vocab).sort((a, b) => Number(a[1]) - Number(b[1])) : vocab
      const pairs = Array.isArray(merges)
        ? merges.map((merge: unknown) => typeof merge === "string" ? merge.split(" ") : merge)
        : merges
      const added = Array.isArray(added_tokens)
        ? [...added_tokens].sort((a, b) => Number(Object(a).id) - Number(Object(b).id))
        : []
      parts = [canonical(normalizer), canonical(pre_tokenizer), canonical(settings), tokens, pairs, canonical(added)]
    }
  } catch {
    // the text itself
  }
  const hash = createHash("sha256").update(JSON.stringify(parts)).digest("hex")
  if (known.size >= REMEMBERED) known.delete(known.keys().next().value!)
  known.set(text, hash)
  return hash
}

/** Whether two `tokenizer.json` texts give every text the same ids. */
export const sameTokenizer = (a: string, b: string): boolean => a === b || fingerprint(a) === fingerprint(b)
