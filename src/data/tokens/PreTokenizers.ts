/** Pre-tokenizers of a `tokenizer.json`, as Hugging Face's `tokenizers` runs them; what they are not is refused. */
import { isObject } from "../../Json.ts"
import { WORDS } from "./ByteLevel.ts"
import { fieldsOf, patternOf, required, toSymbols } from "./Normalizers.ts"
import { NUMERIC, PUNCTUATION, RUST_WORD, SPACE } from "./Unicode.ts"

/** A part of a text, and whether it is the text's beginning. */
export interface Part {
  readonly text: string
  readonly first: boolean
}

export interface PreTokenizer {
  /** Calls `take` with each part that a part is cut into. */
  readonly split: (part: Part, take: (part: Part) => void) => void
  /** The parts are still to be written in the characters that stand for bytes. */
  readonly bytes: boolean
  /** It is nothing but GPT-2's rule. */
  readonly words: boolean
}

type Split = PreTokenizer["split"]

const BEHAVIORS = ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"] as const
type Behavior = typeof BEHAVIORS[number]

interface Span {
  start: number
  end: number
  readonly match: boolean
}

/** Stretches that match, or lie between, from the beginning to the end. */
const spansOf = (text: string, pattern: RegExp, invert: boolean): Array<Span> => {
  const spans: Array<Span> = []
  let at = 0
  pattern.lastIndex = 0
  for (let found = pattern.exec(text); found !== null; found = pattern.exec(text)) {
    const end = found.index + found[0].length
    if (found.index > at) spans.push({ start: at, end: found.index, match: invert })
    spans.push({ start: found.index, end, match: !invert })
    at = end
  }
  if (at < text.length) spans.push({ start: at, end: text.length, match: invert })
  return spans
}

const merged = (spans: Array<Span>, behavior: Behavior): ReadonlyArray<Span> => {
  switch (behavior) {
    case "Isolated":
      return spans
    case "Removed":
      return spans.filter(({ match }) => !match)
    default: {
      const backwards = behavior === "MergedWithNext"
      const out: Array<Span> = []
      let before = false
      for (let i = 0; i < spans.length; i++) {
        const span = spans[backwards ? spans.length - 1 - i : i]!
        const last = out[out.length - 1]
        const joins = behavior === "Contiguous" ? span.match === before : span.match && !before
        if (joins && last !== undefined) {
          if (backwards) last.start = span.start
          else last.end = span.end
        } else out.push({ ...span })
        before = span.match
      }
      return backwards ? out.reverse() : out
    }
  }
}

const splitter = (pattern: RegExp, behavior: Behavior, invert = false): Split => (part, take) => {
  for (const { end, start } of merged(spansOf(part.text, pattern, invert), behavior)) {
    if (end > start) take({ text: part.text.slice(start, end), first: part.first && start === 0 })
  }
}

const behaviorOf = (value: unknown, otherwise?: Behavior): Behavior => {
  const found = BEHAVIORS.find((one) => one === value) ?? (value === undefined ? otherwise : undefined)
  if (found !== undefined) return found
  throw new Error(`behavior of its pre_tokenizer must be one of ${BEHAVIORS.join(", ")}, is ${JSON.stringify(value)}`)
}

const character = (value: unknown, field: string): string => {
  if (typeof value === "string" && Array.from(value).length === 1) return value
  throw new Error(`${field} of its pre_tokenizer must be one character, is ${JSON.stringify(value)}`)
}

const exactly = (text: string): RegExp => new RegExp(`\\u{${text.codePointAt(0)!.toString(16)}}`, "gu")

const spaces = new RegExp(`[${SPACE}]`, "gv")
const numeric = new RegExp(`[${NUMERIC}]`, "gv")
const punctuation = new RegExp(`[${PUNCTUATION}]`, "gv")
const rustWords = new RegExp(`[${RUST_WORD}]+|[^[${RUST_WORD}]${SPACE}]+`, "gv")

const TYPES = {
  ByteLevel: { add_prefix_space: "boolean", trim_offsets: "boolean", use_regex: "boolean" },
  Whitespace: {},
  WhitespaceSplit: {},
  Split: { pattern: "any", behavior: "string", invert: "boolean" },
  Punctuation: { behavior: "string" },
  Digits: { individual_digits: "boolean" },
  Metaspace: {
    replacement: "string",
    prepend_scheme: "string",
    split: "boolean",
    add_prefix_space: "boolean",
    str_rep: "string"
  },
  BertPreTokenizer: {},
  CharDelimiterSplit: { delimiter: "string" },
  Sequence: { pretokenizers: "any" }
} as const

const chain = (steps: ReadonlyArray<Split>): Split => {
  if (steps.length === 0) return (part, take) => take(part)
  const [first, ...rest] = steps
  if (rest.length === 0) return first!
  const others = chain(rest)
  return (part, take) => first!(part, (one) => others(one, take))
}

/** Every part in the characters that stand for its bytes. */
const symbols: Split = ({ first, text }, take) => take({ text: toSymbols(text), first })

/**
 * A pre-tokenizer; of none, one that takes a text as it is. `normalized`: whether a normalizer went before. Throws an
 * Error that names what is not supported.
 */
export const makePreTokenizer = (value: unknown, normalized: boolean): PreTokenizer => {
  const whole: PreTokenizer = { split: (part, take) => take(part), bytes: false, words: false }
  if (value === null || value === undefined) return whole
  const json = fieldsOf("pre_tokenizer", value, TYPES)
  const need = <A>(field: string): A => required("pre_tokenizer", json, field)
  const plain = (split: Split): PreTokenizer => ({ split, bytes: false, words: false })
  switch (json.type as keyof typeof TYPES) {
    case "ByteLevel": {
      const prefix = need<boolean>("add_prefix_space")
      const regex = json["use_regex"] !== false
      const words = splitter(WORDS, "Isolated")
      const cut: Split = regex ? words : whole.split
      const split: Split = prefix
        ? (part, take) => cut(part.text.startsWith(" ") ? part : { ...part, text: ` ${part.text}` }, take)
        : cut
      return { split, bytes: true, words: regex && !prefix }
    }
    case "Whitespace":
      return plain(splitter(rustWords, "Removed", true))
    case "WhitespaceSplit":
      return plain(splitter(spaces, "Removed"))
    case "Split":
      return plain(
        splitter(patternOf("pre_tokenizer", json), behaviorOf(json["behavior"]), need<boolean>("invert"))
      )
    case "Punctuation":
      return plain(splitter(punctuation, behaviorOf(json["behavior"], "Isolated")))
    case "Digits":
      return plain(splitter(numeric, need<boolean>("individual_digits") ? "Isolated" : "Contiguous"))
    case "BertPreTokenizer":
      return plain(chain([splitter(spaces, "Removed"), splitter(punctuation, "Isolated")]))
    case "CharDelimiterSplit":
      return plain(splitter(exactly(character(json["delimiter"], "delimiter")), "Removed"))
    case "Metaspace": {
      const replacement = character(json["replacement"], "replacement")
      const scheme = json["prepend_scheme"] ?? "always"
      if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
        throw new Error(`prepend_scheme of its pre_tokenizer Metaspace must be first, never or always, is ${scheme}`)
      }
      if (json["add_prefix_space"] === false && scheme !== "never") {
        throw new Error("its pre_tokenizer Metaspace has add_prefix_space false, which prepend_scheme contradicts")
      }
      if (scheme === "first" && normalized) {
        throw new Error("its pre_tokenizer Metaspace prepends to the first word after a normalizer: not supported here")
      }
      const cut: Split = json["split"] === false ? whole.split : splitter(exactly(replacement), "MergedWithNext")
      return plain((part, take) => {
        const text = part.text.replaceAll(" ", () => replacement)
        const prepend = !text.startsWith(replacement) && (scheme === "always" || (scheme === "first" && part.first))
        cut({ text: prepend ? replacement + text : text, first: part.first }, take)
      })
    }
    case "Sequence": {
      const list = need<ReadonlyArray<unknown>>("pretokenizers")
      if (!Array.isArray(list)) throw new Error("pretokenizers of its pre_tokenizer Sequence must be a list")
      if (list.some((one, i) =>
        i > 0 && isObject(one) && one["type"] === "Metaspace" && one["prepend_scheme"] === "first"
      )) {
        throw new Error(
          "its pre_tokenizer Sequence has a Metaspace that prepends to the first word behind another step"
        )
      }
      const steps = list.map((one) => makePreTokenizer(one, normalized))
      const last = steps.at(-1)
      return {
        split: chain(
          steps.flatMap(({ bytes, split }, i) => bytes && i < steps.length - 1 ? [split, symbols] : [split])
        ),
        bytes: last?.bytes ?? false,
        words: steps.length === 1 && last!.words
      }
    }
  }
}
