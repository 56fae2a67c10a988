/** Models of a `tokenizer.json` that turn a word into ids, as Hugging Face's `tokenizers` does. */
import { isObject, type Json } from "../../Json.ts"
import { BYTE_SYMBOLS, type ByteLevelModel, makeMerger } from "./ByteLevel.ts"
import { fieldsOf } from "./Normalizers.ts"

/** Appends the ids of a word. */
export type EncodeWord = (word: string, push: (id: number) => void) => void

export interface TokenModel {
  readonly vocabulary: ReadonlyMap<string, number>
  readonly encode: EncodeWord
  /** The same for words whose characters stand for bytes, where bytes alone decide. */
  readonly byteLevel: ByteLevelModel | undefined
}

/** Ids are below this: a table of embeddings has no more rows. */
export const MOST_IDS = 1 << 24

const TYPES = {
  BPE: {
    vocab: "any",
    merges: "any",
    dropout: "number",
    unk_token: "string",
    continuing_subword_prefix: "string",
    end_of_word_suffix: "string",
    fuse_unk: "boolean",
    byte_fallback: "boolean",
    ignore_merges: "boolean",
    // written by others, read by nobody
    continuing_subword_suffix: "string"
  },
  WordPiece: {
    vocab: "any",
    unk_token: "string",
    continuing_subword_prefix: "string",
    max_input_chars_per_word: "number"
  },
  WordLevel: { vocab: "any", unk_token: "string" }
} as const

/** Throws an Error for an id that is none. */
export const checkId = (token: string, id: unknown): number => {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < MOST_IDS) return id
  throw new Error(
    `token ${JSON.stringify(token)} has id ${JSON.stringify(id)}: ids are whole numbers below ${MOST_IDS}`
  )
}

const vocabularyOf = (json: Json): Map<string, number> => {
  if (!isObject(json["vocab"])) throw new Error("its model has no vocab")
  const ids = new Map<string, number>()
  const tokens = new Map<number, string>()
  for (const [token, value] of Object.entries(json["vocab"])) {
    const id = checkId(token, value)
    const other = tokens.get(id)
    if (other !== undefined) throw new Error(`${JSON.stringify(other)} and ${JSON.stringify(token)} both have id ${id}`)
    tokens.set(id, token)
    ids.set(token, id)
  }
  return ids
}

/** Words remembered with their ids. */
const REMEMBERED = 1 << 16
/** Characters of a word that is remembered. */
const LONGEST = 64

const remembering = (encode: (word: string) => ReadonlyArray<number>): EncodeWord => {
  const known = new Map<string, ReadonlyArray<number>>()
  return (word, push) => {
    let ids = known.get(word)
    if (ids === undefined) {
      ids = encode(word)
      if (known.size >= REMEMBERED) known.clear()
      if (word.length <= LONGEST) known.set(word, ids)
    }
    for (const id of ids) push(id)
  }
}

const utf8 = new TextEncoder()

const mergesOf = (json: Json, vocabulary: ReadonlyMap<string, number>, prefix: string): ByteLevelModel["merges"] => {
  const merges = json["merges"]
  if (!Array.isArray(merges)) throw new Error("its model has no merges")
  const out: Array<readonly [number, number, number]> = []
  for (const merge of merges as ReadonlyArray<unknown>) {
    if (typeof merge === "string" && merge.startsWith("#version")) continue
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge
    if (!Array.isArray(pair) || pair.length !== 2 || pair.some((one) => typeof one !== "string")) {
      throw new Error(`its merge ${JSON.stringify(merge)} is not two tokens`)
    }
    const [left, right] = pair as [string, string]
    if (!right.startsWith(prefix)) throw new Error(`its merge ${JSON.stringify(merge)} lacks the prefix ${prefix}`)
    const token = left + right.slice(prefix.length)
    const ids = [left, right, token].map((one) => {
      const id = vocabulary.get(one)
      if (id !== undefined) return id
      throw new Error(`its merge ${JSON.stringify(merge)} needs the token ${JSON.stringify(one)}, which vocab lacks`)
    })
    out.push(ids as [number, number, number])
  }
  return out
}

const bpe = (json: Json): TokenModel => {
  if (typeof json["dropout"] === "number" && json["dropout"] !== 0) {
    throw new Error(`its model BPE has dropout ${json["dropout"]}: ids would be drawn by chance. Set it to null`)
  }
  const vocabulary = vocabularyOf(json)
  const prefix = (json["continuing_subword_prefix"] ?? "") as string
  const suffix = (json["end_of_word_suffix"] ?? "") as string
  const unknownToken = json["unk_token"] as string | null | undefined
  const unknown = unknownToken === null || unknownToken === undefined ? undefined : vocabulary.get(unknownToken)
  const fuse = json["fuse_unk"] === true
  const fallback = json["byte_fallback"] === true
  const whole = json["ignore_merges"] === true
  const merges = mergesOf(json, vocabulary, prefix)
  const fallbackIds = Array.from({ length: 256 },
    (_, byte) => vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`))
  let merge: ReturnType<typeof makeMerger> | undefined
  let ids = new Int32Array(64)

  const encode = (word: string): ReadonlyArray<number> => {
    const entire = whole ? vocabulary.get(word) : undefined
    if (entire !== undefined) return [entire]
    const characters = Array.from(word)
    let count = 0
    const add = (id: number): void => {
      if (count === ids.length) {
        const larger = new Int32Array(2 * count)
        larger.set(ids)
        ids = larger
      }
      ids[count++] = id
    }
    let waiting = false
    for (let i = 0; i < characters.length; i++) {
      const symbol = (i > 0 ? prefix : "") + characters[i] + (i === characters.length - 1 ? suffix : "")
      const id = vocabulary.get(symbol)
      if (id !== undefined) {
        if (waiting) add(unknown!)
        waiting = false
        add(id)
        continue
      }
      if (fallback) {
        const bytes = Array.from(utf8.encode(symbol), (byte) => fallbackIds[byte])
        if (!bytes.includes(undefined)) {
          // an unknown one that waits goes on waiting, as it does in Rust
          for (const byte of bytes) add(byte!)
          continue
        }
      }
      if (unknownToken === null || unknownToken === undefined) continue
      if (unknown === undefined) {
        throw new Error(`unk_token ${JSON.stringify(unknownToken)} is no token of the vocabulary`)
      }
      if (waiting && !fuse) add(unknown)
      waiting = true
    }
    if (waiting) add(unknown!)
    return Array.from(ids.subarray(0, (merge ??= makeMerger(merges))(ids, count)))
  }
  const bytes = prefix === "" && suffix === "" && !fallback && !fuse &&
    (unknownToken === null || unknownToken === undefined || unknown !== undefined)
  return {
    vocabulary,
    encode: remembering(encode),
    byteLevel: bytes
      ? {
        bytes: BYTE_SYMBOLS.map((symbol) => vocabulary.get(symbol) ?? -1),
        unknown: unknown ?? -1,
        whole: whole ? vocabulary : undefined,
        merges
      }
      : undefined
  }
}

const unknownOf = (json: Json, vocabulary: ReadonlyMap<string, number>) => {
  const token = json["unk_token"]
  if (typeof token !== "string") throw new Error(`its model ${json["type"]} has no unk_token`)
  return (word: string): number => {
    const id = vocabulary.get(token)
    if (id !== undefined) return id
    throw new Error(
      `${JSON.stringify(word.slice(0, 40))} is no token, and unk_token ${JSON.stringify(token)} is none either`
    )
  }
}

const wordPiece = (json: Json): TokenModel => {
  const vocabulary = vocabularyOf(json)
  const unknown = unknownOf(json, vocabulary)
  const prefix = json["continuing_subword_prefix"]
  const most = json["max_input_chars_per_word"]
  if (typeof prefix !== "string" || typeof most !== "number") {
    throw new Error("its model WordPiece lacks continuing_subword_prefix or max_input_chars_per_word")
  }
  const encode = (word: string): ReadonlyArray<number> => {
    const characters = Array.from(word)
    if (characters.length > most) return [unknown(word)]
    const ids: Array<number> = []
    for (let start = 0; start < characters.length;) {
      let end = characters.length
      let id: number | undefined
      for (; end > start; end--) {
        id = vocabulary.get((start > 0 ? prefix : "") + characters.slice(start, end).join(""))
        if (id !== undefined) break
      }
      if (id === undefined) return [unknown(word)]
      ids.push(id)
      start = end
    }
    return ids
  }
  return { vocabulary, encode: remembering(encode), byteLevel: undefined }
}

const wordLevel = (json: Json): TokenModel => {
  const vocabulary = vocabularyOf(json)
  const unknown = unknownOf(json, vocabulary)
  return { vocabulary, encode: (word, push) => push(vocabulary.get(word) ?? unknown(word)), byteLevel: undefined }
}

/** Throws an Error that names what is not supported, or what contradicts itself. */
export const makeModel = (value: unknown): TokenModel => {
  // files of before there were types
  const typed = isObject(value) && value["type"] === undefined && Array.isArray(value["merges"])
    ? { ...value, type: "BPE" }
    : value
  const json = fieldsOf("model", typed, TYPES)
  return json.type === "BPE" ? bpe(json) : json.type === "WordPiece" ? wordPiece(json) : wordLevel(json)
}
