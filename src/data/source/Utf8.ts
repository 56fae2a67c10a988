/** Whether bytes are UTF-8 text, and where they are not. */
import { isUtf8 } from "node:buffer"

const isPrefix = (bytes: Uint8Array): boolean => {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true })
    return true
  } catch {
    return false
  }
}

/** Offset of the first byte that is not part of a valid UTF-8 character, in bytes that have one. */
const firstInvalidByte = (bytes: Uint8Array): number => {
  // Shortest prefix that no continuation could make valid, by bisection: validity is lost once and for all.
  let valid = 0
  let invalid = bytes.length + 1
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >> 1
    if (middle <= bytes.length && isPrefix(bytes.subarray(0, middle))) valid = middle
    else invalid = middle
  }
  // That prefix may end inside a character that the next byte breaks: step back to where the character starts.
  while (!isUtf8(bytes.subarray(0, valid))) valid--
  return valid
}

const hex = (byte: number): string => `0x${byte.toString(16).padStart(2, "0")}`

/** What keeps bytes, which begin at an offset of their file, from being text; undefined where nothing does. */
export const notText = (bytes: Uint8Array, offset = 0, advice = "Convert the file to UTF-8"): string | undefined => {
  const zero = bytes.indexOf(0)
  if (zero >= 0) return `is a binary file, not text: it has a zero byte at offset ${offset + zero}`
  if (isUtf8(bytes)) return undefined
  const at = firstInvalidByte(bytes)
  return `is not UTF-8 text: byte ${hex(bytes[at]!)} at offset ${offset + at}. ${advice}`
}
