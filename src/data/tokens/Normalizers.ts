/** Normalizers of a `tokenizer.json`, as Hugging Face's `tokenizers` runs them; what they are not is refused. */
import { isObject, type Json } from "../../Json.ts"
import { BYTE_SYMBOLS } from "./ByteLevel.ts"
import { translate } from "./Oniguruma.ts"
import { MARK, NONSPACING, normalForm, OTHER, SPACE } from "./Unicode.ts"

export type Normalizer = (text: string) => string

const utf8 = new TextEncoder()

/** Each byte of a text as the character that stands for it. */
export const toSymbols = (text: string): string => {
  let out = ""
  for (const byte of utf8.encode(text)) out += BYTE_SYMBOLS[byte]
  return out
}

/** The fields of a component, checked: those it knows, each of its type. Throws an Error that names another one. */
export const fieldsOf = (
  part: string,
  value: unknown,
  types: Readonly<Record<string, Readonly<Record<string, "string" | "boolean" | "number" | "any">>>>
): Json & { readonly type: string } => {
  if (!isObject(value) || typeof value["type"] !== "string") throw new Error(`its ${part} has no type`)
  const type = value["type"]
  const fields = Object.hasOwn(types, type) ? types[type] : undefined
  if (fields === undefined) {
    throw new Error(
      `its ${part} is ${type}, which is not supported here (${Object.keys(types).join(", ")} are). Tokenize with ` +
        "Hugging Face's tokenizers, and train on the shards"
    )
  }
  for (const [field, given] of Object.entries(value)) {
    const expected = field === "type" ? "string" : fields[field]
    if (expected === undefined) throw new Error(`its ${part} ${type} has an option ${field}, which is not known here`)
    if (given === null || expected === "any" || typeof given === expected) continue
    throw new Error(`${field} of its ${part} ${type} must be a ${expected}, is ${JSON.stringify(given)}`)
  }
  return value as Json & { readonly type: string }
}

/** What must be there. */
export const required = <A>(part: string, json: Json, field: string): A => {
  if (json[field] === undefined || json[field] === null) throw new Error(`its ${part} ${json["type"]} has no ${field}`)
  return json[field] as A
}

/** The pattern of a Replace or a Split: `{"String": …}` or `{"Regex": …}`. */
export const patternOf = (part: string, json: Json): RegExp => {
  const pattern = json["pattern"]
  const [kind, text] = isObject(pattern) ? Object.entries(pattern)[0] ?? [] : []
  if ((kind !== "String" && kind !== "Regex") || typeof text !== "string") {
    throw new Error(`pattern of its ${part} ${json["type"]} must be {"String": …} or {"Regex": …}`)
  }
  if (text === "") throw new Error(`its ${part} ${json["type"]} has an empty pattern`)
  if (kind === "Regex") return translate(text)
  return new RegExp(Array.from(text, (one) => `\\u{${one.codePointAt(0)!.toString(16)}}`).join(""), "gu")
}

const marks = new RegExp(`[${MARK}]+`, "gv")
const nonspacing = new RegExp(`[${NONSPACING}]+`, "gv")
const dropped = new RegExp(`(?![\\t\\n\\r])[\\u{0}\\u{fffd}[${OTHER}]]`, "gv")
const white = new RegExp(`[${SPACE}]`, "gv")
const left = new RegExp(`^[${SPACE}]+`, "v")
const right = new RegExp(`[${SPACE}]+$`, "v")
const chinese = new RegExp(
  "[\\u{4e00}-\\u{9fff}\\u{3400}-\\u{4dbf}\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b73f}\\u{2b740}-\\u{2b81f}" +
    "\\u{2b920}-\\u{2ceaf}\\u{f900}-\\u{faff}\\u{2f800}-\\u{2fa1f}]",
  "gu"
)
const nmtDropped = new RegExp("[\\u{1}-\\u{8}\\u{b}\\u{e}-\\u{1f}\\u{7f}\\u{8f}\\u{9f}]", "gu")
const nmtSpace = new RegExp(
  "[\\u{9}\\u{a}\\u{c}\\u{d}\\u{1680}\\u{200b}-\\u{200f}\\u{2028}\\u{2029}\\u{2581}\\u{feff}\\u{fffd}]",
  "gu"
)

/** Without white space at an end: a loop, for an expression that ends with `$` looks at every place anew. */
const stripRight = (text: string): string => {
  let end = text.length
  while (end > 0 && right.test(text[end - 1]!)) end--
  return text.slice(0, end)
}

/** Each character by itself: a final sigma is not told from others. */
const lower = (text: string): string => {
  let out = ""
  for (const one of text) out += one.toLowerCase()
  return out
}

const TYPES = {
  NFC: {},
  NFD: {},
  NFKC: {},
  NFKD: {},
  Lowercase: {},
  StripAccents: {},
  Strip: { strip_left: "boolean", strip_right: "boolean" },
  Replace: { pattern: "any", content: "string" },
  Prepend: { prepend: "string" },
  BertNormalizer: {
    clean_text: "boolean",
    handle_chinese_chars: "boolean",
    strip_accents: "boolean",
    lowercase: "boolean"
  },
  Nmt: {},
  ByteLevel: {},
  Sequence: { normalizers: "any" }
} as const

/** A normalizer, undefined for none. Throws an Error that names what is not supported. */
export const makeNormalizer = (value: unknown): Normalizer | undefined => {
  if (value === null || value === undefined) return undefined
  const json = fieldsOf("normalizer", value, TYPES)
  const need = <A>(field: string): A => required("normalizer", json, field)
  switch (json.type as keyof typeof TYPES) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => normalForm(text, json.type as "NFC")
    case "Lowercase":
      return lower
    case "StripAccents":
      return (text) => text.replace(marks, "")
    case "Strip": {
      const [fromLeft, fromRight] = [need<boolean>("strip_left"), need<boolean>("strip_right")]
      return (text) => {
        const rest = fromLeft ? text.replace(left, "") : text
        return fromRight ? stripRight(rest) : rest
      }
    }
    case "Replace": {
      const [pattern, content] = [patternOf("normalizer", json), need<string>("content")]
      return (text) => text.replace(pattern, () => content)
    }
    case "Prepend": {
      const prepend = need<string>("prepend")
      return (text) => text === "" ? "" : prepend + text
    }
    case "BertNormalizer": {
      const lowercase = need<boolean>("lowercase")
      const [clean, spaced] = [need<boolean>("clean_text"), need<boolean>("handle_chinese_chars")]
      const accents = (json["strip_accents"] ?? lowercase) as boolean
      return (text) => {
        let out = clean ? text.replace(dropped, "").replace(white, " ") : text
        if (spaced) out = out.replace(chinese, " $& ")
        if (accents) out = normalForm(out, "NFD").replace(nonspacing, "")
        return lowercase ? lower(out) : out
      }
    }
    case "Nmt":
      return (text) => text.replace(nmtDropped, "").replace(nmtSpace, " ")
    case "ByteLevel":
      return toSymbols
    case "Sequence": {
      const all = need<ReadonlyArray<unknown>>("normalizers")
      if (!Array.isArray(all)) throw new Error("normalizers of its normalizer Sequence must be a list")
      const each = all.map(makeNormalizer)
      return (text) => each.reduce((rest, one) => one === undefined ? rest : one(rest), text)
    }
  }
}
