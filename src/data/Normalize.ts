/**
 * Text as identities see it, so that copies which differ in case, white space, punctuation or the encoding of a
 * character count as the same; and the 64 bits that stand for it.
 */
import { Buffer } from "node:buffer"
import { createHash } from "node:crypto"

const NOT_ASCII = /[^\u0000-\u007f]/

/** What an ASCII character becomes: itself, its lower case, or a space. */
const ascii = Uint8Array.from({ length: 128 }, (_, code) => {
  const character = String.fromCharCode(code)
  return /[A-Za-z0-9]/.test(character) ? character.toLowerCase().charCodeAt(0) : 0x20
})

/** `normalize` of a text that has no other characters, in one pass over bytes: most of a corpus goes this way. */
const normalizeAscii = (text: string): string => {
  const bytes = Buffer.allocUnsafe(text.length)
  let length = 0
  // a space is owed once a word has begun, and paid before the next one
  let owed = false
  for (let i = 0; i < text.length; i++) {
    const byte = ascii[text.charCodeAt(i)]!
    if (byte === 0x20) {
      owed = length > 0
    } else {
      if (owed) bytes[length++] = 0x20
      owed = false
      bytes[length++] = byte
    }
  }
  return bytes.toString("latin1", 0, length)
}

/**
 * The words of a text, in lower case, with one space between them:
 *
 * 1. invisible format characters (soft hyphens, zero-width spaces and joiners, byte order marks) are dropped;
 * 2. Unicode NFKC: full-width letters, ligatures, superscripts and accents in either encoding become the plain ones;
 * 3. lower case, of no locale (`ß` and `SS` stay apart);
 * 4. every run of what is no letter, mark or digit (white space, punctuation, symbols, control characters) becomes one
 *    space, none at the ends: `“Don’t”, she said` is `don t she said`. A text that has no letter or digit at all keeps
 *    its punctuation, and only its white space is joined, so that such texts stay apart.
 *
 * Normalizing twice changes nothing. Characters newer than the Unicode version of the runtime count as symbols.
 */
export const normalize = (text: string): string => {
  const folded = NOT_ASCII.test(text)
    // lower case can undo NFKC for a few characters
    ? text.replace(/\p{Cf}+/gu, "").normalize("NFKC").toLowerCase().normalize("NFKC")
      .replace(/[^\p{L}\p{M}\p{N}]+/gu, " ").trim()
    : normalizeAscii(text)
  if (folded !== "") return folded
  return text.replace(/\p{Cf}+/gu, "").normalize("NFKC").replace(/[\s\p{Cc}]+/gu, " ").trim()
}

/** The first 64 bits of the SHA-256 of a text in UTF-8: the first 16 digits that `sha256sum` prints. */
export const hash64 = (text: string): bigint => createHash("sha256").update(text, "utf8").digest().readBigUInt64BE(0)
