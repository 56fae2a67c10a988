/** UTF-8 bytes of text that tokens stand for, token by token: what bits per byte divide by. */
import { isObject } from "../../Json.ts"
import { BYTE_SYMBOLS } from "./ByteLevel.ts"
import type { Tokenizer } from "./TokenizerJson.ts"

const symbols = new Set(BYTE_SYMBOLS)

/** Whether a decoder, or one of its steps, is of a type. */
const has = (decoder: unknown, type: string): boolean =>
  isObject(decoder) && (decoder["type"] === type ||
    (Array.isArray(decoder["decoders"]) && decoder["decoders"].some((one) => has(one, type))))

/**
 * Bytes of `tokens` from the one at `from` on. A token of half a character has the bytes it holds, not those of the sign
 * for what is no character; a special token is no text and has none.
 */
export const textBytes = (tokenizer: Tokenizer) => {
  const utf8 = new TextEncoder()
  const size = (text: string): number => utf8.encode(text).length
  const json = JSON.parse(tokenizer.toJSON()) as Record<string, unknown>
  const special = new Set(tokenizer.specialTokens.values())
  const byteLevel = has(json["decoder"], "ByteLevel")
  const fallback = has(json["decoder"], "ByteFallback")
  const model = isObject(json["model"]) ? json["model"]["vocab"] : undefined
  const written = new Map<number, string>(
    isObject(model) ? Object.entries(model).map(([token, id]) => [Number(id), token]) : []
  )
  const known = new Map<number, number>()
  return (tokens: ArrayLike<number>, from: number): number => {
    let bytes = 0
    for (let i = from; i < tokens.length; i++) {
      const id = tokens[i]!
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
}
