/**
 * Byte-level BPE as GPT-2 has it, fast: words are found, hashed and looked up in one pass over the text, without a
 * string being made, and only a word that is not remembered is merged.
 */
import { property, SPACE as WHITE } from "./Unicode.ts"

const [LETTERS, DIGITS] = [`[${property("L")}]`, `[${property("N")}]`]

/** The splitting rule of GPT-2: contractions, then runs of letters, of digits, of neither, with one space before. */
export const WORDS = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?${LETTERS}+| ?${DIGITS}+| ?[^${WHITE}${LETTERS}${DIGITS}]+|[${WHITE}]+(?![^${WHITE}])|` +
    `[${WHITE}]+`,
  "gv"
)

/**
 * The printable character that stands for each byte in a byte-level vocabulary: itself where Latin-1 prints it,
 * otherwise the next free code point from U+0100 on.
 */
export const BYTE_SYMBOLS: ReadonlyArray<string> = (() => {
  let free = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    return String.fromCharCode(printable ? byte : free++)
  })
})()

const [OTHER, LETTER, DIGIT, SPACE, SURROGATE] = [0, 1, 2, 3, 4]

const [letter, digit, space] = [LETTERS, DIGITS, `[${WHITE}]`].map((set) => new RegExp(set, "v")) as [RegExp, RegExp,
  RegExp]

const classOf = (character: string): number =>
  letter.test(character) ? LETTER : digit.test(character) ? DIGIT : space.test(character) ? SPACE : OTHER

/** Classes of all UTF-16 units. */
const classes = (() => {
  let table: Uint8Array | undefined
  return () =>
    table ??= Uint8Array.from({ length: 0x10000 }, (_, unit) =>
      unit >= 0xd800 && unit < 0xe000 ? SURROGATE : classOf(String.fromCharCode(unit)))
})()

/** Places where words of `WORDS` end, one after the other: `next` gives the end of the word that begins at `start`. */
export const makeSplitter = (): (text: string, start: number) => number => {
  const table = classes()
  /** Of the character at `i`; the low surrogate of a pair counts with the high one. */
  const at = (text: string, i: number): number => {
    const unit = table[text.charCodeAt(i)]!
    return unit === SURROGATE ? classOf(String.fromCodePoint(text.codePointAt(i)!)) : unit
  }
  const widthAt = (text: string, i: number): number => text.codePointAt(i)! > 0xffff ? 2 : 1

  return (text, start) => {
    const length = text.length
    const first = text.charCodeAt(start)
    if (first === 0x27) {
      const [one, two] = [text.charCodeAt(start + 1), text.charCodeAt(start + 2)]
      // s t m d, re ve ll
      if (one === 0x73 || one === 0x74 || one === 0x6d || one === 0x64) return start + 2
      if ((one === 0x72 || one === 0x76) && two === 0x65) return start + 3
      if (one === 0x6c && two === 0x6c) return start + 3
    }
    let i = first === 0x20 ? start + 1 : start
    const kind = i < length ? at(text, i) : SPACE
    if (kind === SPACE) {
      i = start + 1
      while (i < length && table[text.charCodeAt(i)] === SPACE) i++
      // the last space belongs to the word after it, if it can
      return i === length || i === start + 1 ? i : i - 1
    }
    while (i < length) {
      const unit = table[text.charCodeAt(i)]
      if (unit === kind) i++
      else if (unit === SURROGATE && at(text, i) === kind) i += widthAt(text, i)
      else return i
    }
    return i
  }
}

/** The vocabulary of a byte-level BPE. */
export interface ByteLevelModel {
  /** Id of each byte, -1 where it has none. */
  readonly bytes: ArrayLike<number>
  /** What such a byte becomes; -1: nothing. */
  readonly unknown: number
  /** Words that are tokens as they are, by the characters that stand for their bytes. Absent: merges alone decide. */
  readonly whole?: ReadonlyMap<string, number> | undefined
  /** Ids that merge, and what they become, the first to merge first. */
  readonly merges: ReadonlyArray<readonly [left: number, right: number, merged: number]>
}

const NONE = 0x7fffffff

/** Ranks of pairs, and what they merge to, in a hash table: one lookup a pair, and none of it garbage. */
const mergeTable = (merges: ByteLevelModel["merges"]) => {
  const bits = Math.max(4, Math.ceil(Math.log2(merges.length + 1)) + 1)
  const mask = 2 ** bits - 1
  const slots = new Int32Array(2 ** bits).fill(-1)
  const lefts = Int32Array.from(merges, ([left]) => left)
  const rights = Int32Array.from(merges, ([, right]) => right)
  const merged = Int32Array.from(merges, ([, , id]) => id)
  const slotOf = (left: number, right: number): number => {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    hash ^= hash >>> 15
    let slot = hash & mask
    while (slots[slot]! >= 0 && (lefts[slots[slot]!] !== left || rights[slots[slot]!] !== right)) {
      slot = (slot + 1) & mask
    }
    return slot
  }
  for (let i = 0; i < merges.length; i++) slots[slotOf(lefts[i]!, rights[i]!)] = i
  return {
    /** Place of a pair among the merges; NONE where it does not merge. */
    rank: (left: number, right: number): number => {
      const rank = slots[slotOf(left, right)]!
      return rank < 0 ? NONE : rank
    },
    merged
  }
}

/** Symbols up to which looking at all pairs before each merge is faster than keeping them in order. */
const SHORT = 48

/** Merges a word's ids in place; gives how many are left. */
export const makeMerger = (merges: ByteLevelModel["merges"]) => {
  const { merged, rank } = mergeTable(merges)

  const short = (ids: Int32Array, count: number): number => {
    while (count > 1) {
      let [best, place] = [NONE, 0]
      for (let i = 1; i < count; i++) {
        const found = rank(ids[i - 1]!, ids[i]!)
        if (found < best) [best, place] = [found, i]
      }
      if (best === NONE) break
      ids[place - 1] = merged[best]!
      ids.copyWithin(place, place + 1, count--)
    }
    return count
  }

  /** Pairs in a heap, the lowest rank first, the leftmost among equals; what has changed since is skipped. */
  const long = (ids: Int32Array, count: number): number => {
    const next = Int32Array.from({ length: count }, (_, i) => i + 1)
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1)
    const ranks = new Int32Array(count).fill(NONE)
    const heap: Array<number> = []
    const push = (value: number): void => {
      let at = heap.push(value) - 1
      for (let parent = (at - 1) >> 1; at > 0 && heap[parent]! > value; parent = (at - 1) >> 1) {
        heap[at] = heap[parent]!
        at = parent
      }
      heap[at] = value
    }
    const pop = (): number => {
      const [top, last] = [heap[0], heap.pop()!]
      if (heap.length === 0) return top!
      let at = 0
      for (let child = 1; child < heap.length; child = 2 * at + 1) {
        if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++
        if (heap[child]! >= last) break
        heap[at] = heap[child]!
        at = child
      }
      heap[at] = last
      return top!
    }
    const queue = (i: number): void => {
      ranks[i] = next[i]! < count ? rank(ids[i]!, ids[next[i]!]!) : NONE
      if (ranks[i] < NONE) push(ranks[i] * 2 ** 32 + i)
    }
    for (let i = 0; i < count; i++) queue(i)
    while (heap.length > 0) {
      const top = pop()
      const [best, i] = [Math.floor(top / 2 ** 32), top % 2 ** 32]
      if (ranks[i] !== best) continue
      const right = next[i]!
      ids[i] = merged[best]!
      ranks[right] = NONE
      next[i] = next[right]!
      if (next[i]! < count) previous[next[i]!] = i
      queue(i)
      if (previous[i]! >= 0) queue(previous[i]!)
    }
    let left = 0
    for (let i = 0; i < count; i = next[i]!) ids[left++] = ids[i]!
    return left
  }
  return (ids: Int32Array, count: number): number => count <= SHORT ? short(ids, count) : long(ids, count)
}

/** Distinct words remembered; the memory starts over when it, or one of its parts, is full. */
const REMEMBERED = 1 << 17
const REMEMBERED_UNITS = 1 << 21
/** UTF-16 units of a word that may be remembered: longer ones do not come back. */
const LONGEST = 64
/** UTF-16 units of a word at most: memory for its bytes and pairs is 40 times as much. */
const LONGEST_WORD = 1 << 25

/** Appends the ids of texts, or parts of them, to one growing array. */
export interface ByteLevelEncoder {
  /** Appends the ids of `text` from `start` to `end`, which must not cut a word in two. */
  readonly encode: (text: string, start: number, end: number) => void
  /** Appends the ids of a word, whatever it holds. */
  readonly word: (text: string) => void
  /** Appends an id. */
  readonly push: (id: number) => void
  /** Gives all that was appended, in an array of its own, and forgets it. */
  readonly take: () => Uint32Array
}

export const makeEncoder = (model: ByteLevelModel): ByteLevelEncoder => {
  const splitAt = makeSplitter()
  const merge = makeMerger(model.merges)
  const utf8 = new TextEncoder()
  let bytes = new Uint8Array(3 * LONGEST)
  let ids = new Int32Array(3 * LONGEST)

  let out = new Uint32Array(1 << 12)
  let length = 0
  const reserve = (more: number): void => {
    if (length + more <= out.length) return
    const larger = new Uint32Array(2 * (length + more))
    larger.set(out)
    out = larger
  }

  /** Merges a word and appends its ids; gives how many. */
  const mergeWord = (word: string): number => {
    if (word.length > LONGEST_WORD) {
      throw new Error(
        `a word of ${word.length} characters without a place to divide it is beyond the limit of ${LONGEST_WORD}: is this ` +
          "text? Divide it, or leave it out"
      )
    }
    if (bytes.length < 3 * word.length) {
      bytes = new Uint8Array(Math.min(6 * word.length, 3 * LONGEST_WORD))
      ids = new Int32Array(bytes.length)
    }
    const { read, written } = utf8.encodeInto(word, bytes)
    if (read !== word.length) throw new Error(`only ${read} of ${word.length} characters of a word could be encoded`)
    if (model.whole !== undefined) {
      let symbols = ""
      for (let i = 0; i < written; i++) symbols += BYTE_SYMBOLS[bytes[i]!]
      const id = model.whole.get(symbols)
      if (id !== undefined) {
        reserve(1)
        out[length++] = id
        return 1
      }
    }
    let known = 0
    for (let i = 0; i < written; i++) {
      const id = model.bytes[bytes[i]!]!
      // a byte without a token is not there: what stands beside it may merge
      if (id >= 0) ids[known++] = id
      else if (model.unknown >= 0) ids[known++] = model.unknown
    }
    const count = merge(ids, known)
    reserve(count)
    for (let i = 0; i < count; i++) out[length++] = ids[i]!
    return count
  }

  // Words by number: where their units and their ids begin. A slot of the hash table holds a number, or -1.
  const mask = 4 * REMEMBERED - 1
  const slots = new Int32Array(4 * REMEMBERED).fill(-1)
  const hashes = new Int32Array(REMEMBERED)
  const unitAt = new Int32Array(REMEMBERED + 1)
  const idAt = new Int32Array(REMEMBERED + 1)
  const units = new Uint16Array(REMEMBERED_UNITS)
  const idsOf = new Uint32Array(3 * REMEMBERED_UNITS)
  let words = 0

  const isWord = (word: number, text: string, start: number, end: number): boolean => {
    const from = unitAt[word]!
    if (unitAt[word + 1]! - from !== end - start) return false
    for (let i = 0; i < end - start; i++) if (units[from + i] !== text.charCodeAt(start + i)) return false
    return true
  }
  const remember = (slot: number, hash: number, text: string, start: number, end: number, count: number): void => {
    if (words === REMEMBERED || unitAt[words]! + LONGEST > REMEMBERED_UNITS) {
      slots.fill(-1)
      words = 0
      slot = hash & mask
    }
    slots[slot] = words
    hashes[words] = hash
    const [unit, id] = [unitAt[words], idAt[words]]
    for (let i = start; i < end; i++) units[unit! + i - start] = text.charCodeAt(i)
    idsOf.set(out.subarray(length - count, length), id)
    words++
    unitAt[words] = unit! + end - start
    idAt[words] = id! + count
  }

  const encodeWord = (text: string, start: number, end: number): void => {
    let hash = 0
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) ^ (hash >>> 13)
    hash ^= hash >>> 16
    let slot = hash & mask
    for (let word = slots[slot]!; word >= 0; word = slots[slot]!) {
      if (hashes[word] === hash && isWord(word, text, start, end)) {
        const last = idAt[word + 1]!
        reserve(last - idAt[word]!)
        for (let i = idAt[word]!; i < last; i++) out[length++] = idsOf[i]!
        return
      }
      slot = (slot + 1) & mask
    }
    remember(slot, hash, text, start, end, mergeWord(text.slice(start, end)))
  }

  return {
    encode: (text, start, end) => {
      // a splitter sees the whole text, so what it is given must end where the part does
      const part = start === 0 && end === text.length ? text : text.slice(start, end)
      for (let at = 0; at < part.length;) {
        const next = splitAt(part, at)
        if (next - at <= LONGEST) encodeWord(part, at, next)
        else mergeWord(part.slice(at, next))
        at = next
      }
    },
    word: (text) => {
      if (text.length <= LONGEST) encodeWord(text, 0, text.length)
      else mergeWord(text)
    },
    push: (id) => {
      reserve(1)
      out[length++] = id
    },
    take: () => {
      const taken = out.slice(0, length)
      length = 0
      return taken
    }
  }
}
