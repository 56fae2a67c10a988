/** Added tokens of a `tokenizer.json`: what is found in a text before anything else, as Hugging Face's does. */
import { isObject } from "../../Json.ts"
import type { Normalizer } from "./Normalizers.ts"
import { checkId } from "./TokenModels.ts"
import { RUST_WORD, SPACE } from "./Unicode.ts"

export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Matched only where no word goes on at either side. */
  readonly single_word: boolean
  /** Takes the white space before it, or after it, along. */
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Found in the normalized text, in its normalized form. */
  readonly normalized: boolean
  /** Has no text of its own. */
  readonly special: boolean
}

const FLAGS = ["single_word", "lstrip", "rstrip", "normalized", "special"] as const

/**
 * Reads `added_tokens`. Throws an Error where the ids are not those that Hugging Face's tokenizers give, which number
 * new tokens themselves and look at the ids of the file only to warn.
 */
export const readAdded = (value: unknown, vocabulary: ReadonlyMap<string, number>): ReadonlyArray<AddedToken> => {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw new Error("added_tokens is no list")
  const found = new Map<string, AddedToken>()
  const ids = new Set(vocabulary.values())
  let next = vocabulary.size
  for (const one of value as ReadonlyArray<unknown>) {
    if (!isObject(one) || typeof one["content"] !== "string") throw new Error("an added token has no content")
    const content = one["content"]
    if (content === "") throw new Error("an added token is empty")
    for (const flag of FLAGS) {
      if (one[flag] !== undefined && typeof one[flag] !== "boolean") {
        throw new Error(`${flag} of the added token ${JSON.stringify(content)} must be true or false`)
      }
    }
    const id = checkId(content, one["id"])
    const given = found.get(content)?.id ?? vocabulary.get(content) ?? next++
    if (given !== id) {
      throw new Error(
        `the added token ${JSON.stringify(content)} has id ${id}, Hugging Face's tokenizers give it ${given}: ` +
          "its vocabulary has gaps, or its added tokens are not in the order of their ids"
      )
    }
    if (!vocabulary.has(content) && !found.has(content) && ids.has(id)) {
      throw new Error(`the added token ${JSON.stringify(content)} has id ${id}, which another token has`)
    }
    ids.add(id)
    const special = one["special"] === true
    found.set(content, {
      id,
      content,
      single_word: one["single_word"] === true,
      lstrip: one["lstrip"] === true,
      rstrip: one["rstrip"] === true,
      normalized: one["normalized"] === undefined ? !special : one["normalized"] === true,
      special
    })
  }
  return [...found.values()]
}

/** Finds added tokens: at each place the longest. Calls back with stretches between them and with their ids, in order. */
export type Matcher = (
  text: string,
  specialAsText: boolean,
  between: (start: number, end: number) => void,
  found: (id: number) => void
) => void

const word = new RegExp(`[${RUST_WORD}]`, "v")
const space = new RegExp(`[${SPACE}]`, "v")

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")

const makeMatcher = (tokens: ReadonlyArray<readonly [written: string, token: AddedToken]>): Matcher => {
  if (tokens.length === 0) return (text, _, between) => between(0, text.length)
  const byText = new Map<string, AddedToken>()
  for (const [written, token] of tokens) {
    const other = byText.get(written)
    if (written === "" || other !== undefined) {
      throw new Error(
        `the added token ${JSON.stringify(token.content)} is, when normalized, ` +
          (written === "" ? "nothing" : `the same as ${JSON.stringify(other!.content)}`)
      )
    }
    byText.set(written, token)
  }
  const longestFirst = [...byText.keys()].sort((a, b) => b.length - a.length)
  const any = new RegExp(longestFirst.map(escaped).join("|"), "g")
  /** Whether the character before, or after, belongs to a word. */
  const wordBefore = (text: string, at: number): boolean => {
    if (at === 0) return false
    const unit = text.charCodeAt(at - 1)
    return word.test(unit >= 0xdc00 && unit < 0xe000 && at > 1 ? text.slice(at - 2, at) : text[at - 1]!)
  }
  const wordAfter = (text: string, at: number): boolean =>
    at < text.length && word.test(String.fromCodePoint(text.codePointAt(at)!))
  return (text, specialAsText, between, found) => {
    let done = 0
    for (const match of text.matchAll(any)) {
      let start = match.index
      let end = start + match[0].length
      const token = byText.get(match[0])!
      if (specialAsText && token.special) continue
      if (token.single_word && (wordBefore(text, start) || wordAfter(text, end))) continue
      if (token.lstrip) {
        while (start > 0 && space.test(text[start - 1]!)) start--
        start = Math.max(start, done)
      }
      if (token.rstrip) { while (end < text.length && space.test(text[end]!)) end++ }
      if (start > end) {
        throw new Error(
          `the added token ${JSON.stringify(token.content)} is in the white space that another one takes along`
        )
      }
      if (done < start) between(done, start)
      found(token.id)
      done = end
    }
    if (done < text.length) between(done, text.length)
  }
}

/** Matchers for a text as it is, and for what is between once that is normalized. */
export const makeMatchers = (added: ReadonlyArray<AddedToken>, normalizer: Normalizer | undefined) => ({
  raw: makeMatcher(added.filter(({ normalized }) => !normalized).map((token) => [token.content, token])),
  normalized: makeMatcher(
    added.filter(({ normalized }) => normalized).map((token) => [normalizer?.(token.content) ?? token.content, token])
  )
})
