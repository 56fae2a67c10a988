/** UTF-8 bytes of text that tokens stand for, token by token: what bits per byte divide by. */
import * as Either from "effect/Either"
import { isObject, parseJson } from "../../Json.ts"
import { BYTE_SYMBOLS } from "./ByteLevel.ts"
import type { Tokenizer } from "./TokenizerJson.ts"

const symbols = new Set(BYTE_SYMBOLS)

/** Whether a decoder, or one of its steps, is of a type. */
const has = (decoder: unknown, type: string): boolean =>
  isObject(decoder) && (decoder["type"] === type ||
    (Array.isArray(decoder["decoders"]) && decoder["decoders"].some((one) => has(one, type))))

/** Whether a normalizer may leave another text than it was given, so that tokens do not say how many bytes that had. */
const changesText = (normalizer: unknown): boolean => {
  if (!isObject(normalizer)) return false
  switch (normalizer["type"]) {
    case "Sequence":
      return !Array.isArray(normalizer["normalizers"]) || normalizer["normalizers"].some(changesText)
    case "Prepend":
    case "ByteLevel":
      return false
    case "Replace":
      // the sign that stands for a space, which the decoder takes back
      return normalizer["content"] !== "\u2581" || Object(normalizer["pattern"]).String !== " "
    default:
      return true
  }
}

/** How many bytes of a text its tokens stand for. */
export interface TextBytes {
  /**
   * Bytes of `tokens` from the one at `from` on. A token of half a character has the bytes it holds, not those of the sign
   * for what is no character; a special token is no text and has none. NaN where a token stands for what the vocabulary
   * does not have, which may be of any length.
   */
  readonly of: (tokens: ArrayLike<number>, from: number) => number
  /** Whether these are the bytes of the text itself, whatever it is: not where a normalizer changes it first. */
  readonly exact: boolean
}

/** What a tokenizer says of the bytes of its tokens. */
export const textBytes = (tokenizer: Tokenizer): TextBytes => {
  const utf8 = new TextEncoder()
  const size = (text: string): number => utf8.encode(text).length
  const read = parseJson(tokenizer.toJSON())
  const json = Either.isRight(read) && isObject(read.right) ? read.right : {}
  const model = isObject(json["model"]) ? json["model"] : {}
  const special = new Set(tokenizer.specialTokens.values())
  const byteLevel = has(json["decoder"], "ByteLevel")
  const fallback = has(json["decoder"], "ByteFallback")
  const vocab = model["vocab"]
  const written = new Map<number, string>(
    isObject(vocab) ? Object.entries(vocab).map(([token, id]) => [Number(id), token]) : []
  )
  const named = isObject(vocab) && typeof model["unk_token"] === "string" ? vocab[model["unk_token"]] : model["unk_id"]
  const unknown = typeof named === "number" ? named : undefined
  // of bytes, each that is not known gets a token of its own, unless these are fused
  const ofUnknown = byteLevel && model["fuse_unk"] !== true ? 1 : NaN
  const known = new Map<number, number>()
  const of = (tokens: ArrayLike<number>, from: number): number => {
    let bytes = 0
    for (let i = from; i < tokens.length; i++) {
      const id = tokens[i]!
      if (id === unknown) {
        bytes += ofUnknown
        continue
      }
      if (special.has(id)) continue
      const token = written.get(id)
      if (fallback && token !== undefined && /^<0x[0-9A-F]{2}>$/.test(token)) {
        bytes++
        continue
      }
      if (byteLevel) {
        let one = known.get(id)
        if (one === undefined) {
          const characters = Array.from(token ?? "")
          one = token !== undefined && characters.every((character) => symbols.has(character))
            ? characters.length
            : size(tokenizer.decode([id]))
          known.set(id, one)
        }
        bytes += one
        continue
      }
      // others may put a space between two tokens, or leave one out before the first
      const before = i > 0 && !special.has(tokens[i - 1]!) ? [tokens[i - 1]!] : []
      bytes += size(tokenizer.decode([...before, id])) - size(tokenizer.decode(before))
    }
    return bytes
  }
  return { of, exact: !changesText(json["normalizer"]) }
}
