/**
 * Regular expressions of a `tokenizer.json`, which are Oniguruma's, as JavaScript's. What means the same in both, or can
 * be written so that it does, is translated; all else is refused by name, and so is what could run for ages.
 */
import { ONIGURUMA_WORD, ONIGURUMA_WORD_INSIDE, property, SPACE } from "./Unicode.ts"

const CATEGORIES = new Set(
  ("L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp").split(" ")
)
const SCRIPTS = new Set(["Han", "Hiragana", "Katakana", "Hangul"])
const CONTROLS: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, a: 7, e: 27 }

/** ASCII letters in a row that one character folds to: ß, ﬀ, ﬁ, ﬂ, ﬆ. */
const FOLDED = /ss|ff|fi|fl|st/i

/** Quantifiers without an upper bound in one alternative: each may try every length again. */
const MOST_UNBOUNDED = 6

interface Node {
  readonly source: string
  /** Characters it matches at least. */
  readonly least: number
  /** Whether it always matches as many characters, in one way. */
  readonly fixed: boolean
  readonly unbounded: number
}

const code = (point: number): string => `\\u{${point.toString(16)}}`

/**
 * Translates an expression, for `g` and `v`. Throws an Error that names what cannot be expressed, what matches nothing,
 * and what can take exponential time: a repeated group of variable length, as `(a+)+`.
 */
export const translate = (pattern: string): RegExp => {
  const characters = Array.from(pattern)
  let at = 0
  let groups = 0
  let behind = 0
  const refuse = (what: string): never => {
    throw new Error(`the regular expression ${JSON.stringify(pattern)} has ${what}, which is not supported here`)
  }
  const ahead = (text: string): boolean => characters.slice(at, at + text.length).join("") === text

  const bracedName = (): string => {
    if (characters[at] !== "{") refuse(`\\${characters[at - 1]} without braces`)
    const end = characters.indexOf("}", at)
    if (end < 0) refuse("an open brace")
    const name = characters.slice(at + 1, end).join("")
    at = end + 1
    return name
  }
  const hex = (digits: string): number => {
    const point = parseInt(digits, 16)
    if (!/^[0-9a-fA-F]+$/.test(digits) || point > 0x10ffff) refuse(`the character code ${digits}`)
    return point
  }
  /** After a backslash: a set, as the inside of a class, or a character. */
  const escape = (inside: boolean): { readonly set: string; readonly negated: boolean } | number => {
    const letter = characters[at++]
    if (letter === undefined) return refuse("a backslash at its end")
    switch (letter) {
      case "s":
      case "S":
        return { set: SPACE, negated: letter === "S" }
      case "d":
      case "D":
        return { set: property("Nd"), negated: letter === "D" }
      case "w":
      case "W":
        return { set: inside ? ONIGURUMA_WORD_INSIDE : ONIGURUMA_WORD, negated: letter === "W" }
      case "p":
      case "P": {
        const name = bracedName()
        const bare = name.replace(/^\^/, "")
        if (!CATEGORIES.has(bare) && !SCRIPTS.has(bare)) refuse(`the property ${name}`)
        return {
          set: property(SCRIPTS.has(bare) ? `Script=${bare}` : bare),
          negated: (letter === "P") !== (bare !== name)
        }
      }
      case "x":
        if (characters[at] === "{") return hex(bracedName())
        at += 2
        return hex(characters.slice(at - 2, at).join(""))
      case "u":
        at += 4
        return hex(characters.slice(at - 4, at).join(""))
      default:
        if (CONTROLS[letter] !== undefined) return CONTROLS[letter]
        if (/[A-Za-z0-9]/.test(letter)) return refuse(`\\${letter}`)
        return letter.codePointAt(0)!
    }
  }
  const isLetter = (point: number): boolean => /[a-zA-Z]/.test(String.fromCodePoint(point))
  /** A character in both cases. */
  const folded = (point: number): string => {
    const letter = String.fromCodePoint(point)
    if (!isLetter(point)) {
      if (letter.toLowerCase() !== letter || letter.toUpperCase() !== letter) refuse(`${letter} without regard to case`)
      return code(point)
    }
    const more = /k/i.test(letter) ? "\\u{212a}" : /s/i.test(letter) ? "\\u{17f}" : ""
    return `${letter.toLowerCase()}${letter.toUpperCase()}${more}`
  }

  const characterClass = (fold: boolean): string => {
    let negated = false
    if (characters[at] === "^") {
      negated = true
      at++
    }
    const parts: Array<string> = []
    for (let first = true;; first = false) {
      const character = characters[at]
      if (character === undefined) return refuse("an open [")
      if (character === "]" && !first) break
      if (character === "]") return refuse("a ] at the beginning of a class")
      if (ahead("[:")) return refuse("a POSIX class")
      if (ahead("&&")) return refuse("&& in a class")
      at++
      if (character === "[") {
        parts.push(characterClass(fold))
        continue
      }
      let point = character.codePointAt(0)!
      if (character === "\\") {
        const what = escape(true)
        if (typeof what === "object") {
          if (fold && /\\p\{L[ult]\}/.test(what.set)) refuse("a property of one case without regard to case")
          parts.push(`[${what.negated ? "^" : ""}${what.set}]`)
          if (characters[at] === "-" && characters[at + 1] !== "]") refuse("a range from a set")
          continue
        }
        point = what
      }
      if (characters[at] === "-" && characters[at + 1] !== "]" && characters[at + 1] !== undefined) {
        at++
        let last = characters[at++]!.codePointAt(0)!
        if (last === 0x5b) refuse("a range to a set")
        if (last === 0x5c) {
          const what = escape(true)
          last = typeof what === "object" ? refuse("a range to a set") : what
        }
        if (last < point) refuse("a range that ends before it begins")
        if (!fold) {
          parts.push(`${code(point)}-${code(last)}`)
        } else {
          if (last > 0x7f) refuse("a range beyond ASCII without regard to case")
          for (let one = point; one <= last; one++) parts.push(folded(one))
        }
      } else parts.push(fold ? folded(point) : code(point))
    }
    at++
    if (negated && fold && /[a-zA-Z]/.test(parts.join("").replace(/\\[pu]\{[^}]*\}/g, ""))) {
      refuse("a negated class of letters without regard to case")
    }
    return `[${negated ? "^" : ""}${parts.join("")}]`
  }

  const atom = (fold: boolean): Node => {
    const one = (source: string): Node => ({ source, least: 1, fixed: true, unbounded: 0 })
    const character = characters[at++]!
    switch (character) {
      case "\\": {
        const what = escape(false)
        if (typeof what === "number") return one(fold ? `[${folded(what)}]` : code(what))
        if (fold && /\\p\{L[ult]\}/.test(what.set)) refuse("a property of one case without regard to case")
        return one(`[${what.negated ? "^" : ""}${what.set}]`)
      }
      case "[":
        return one(characterClass(fold))
      case ".":
        return one("[^\\n]")
      case "^":
      case "$":
        return refuse(character)
      case "*":
      case "+":
      case "?":
        return refuse(`${character} with nothing before it`)
      case "{":
      case "}":
      case "]":
        return refuse(`${character} that is not escaped`)
      case "(": {
        const kinds = ["?:", "?=", "?!", "?<=", "?<!", "?i:", "?>"] as const
        const kind = kinds.find(ahead)
        if (kind === undefined && characters[at] === "?") {
          return refuse(`a group (${characters.slice(at, at + 3).join("")}`)
        }
        at += kind?.length ?? 0
        const look = kind === "?=" || kind === "?!" || kind === "?<=" || kind === "?<!"
        if (kind === "?<=" || kind === "?<!") behind++
        const inside = alternatives(fold || kind === "?i:")
        if (kind === "?<=" || kind === "?<!") behind--
        if (characters[at++] !== ")") refuse("an open (")
        if (look) return { ...inside, source: `(${kind}${inside.source})`, least: 0, fixed: true }
        return kind === "?>" ? atomic(inside) : { ...inside, source: `(?:${inside.source})` }
      }
      default: {
        const point = character.codePointAt(0)!
        return one(fold ? `[${folded(point)}]` : code(point))
      }
    }
  }
  /** Once matched, never tried in another way. */
  const atomic = (node: Node): Node => {
    if (behind > 0) refuse("an atomic group in a look-behind")
    groups++
    return { ...node, source: `(?:(?=(?<g${groups}>${node.source}))\\k<g${groups}>)` }
  }
  const quantified = (node: Node): Node => {
    const character = characters[at]
    let [low, high] = [1, 1]
    let braces = false
    if (character === "*") [low, high] = [0, Infinity]
    else if (character === "+") [low, high] = [1, Infinity]
    else if (character === "?") [low, high] = [0, 1]
    else if (character === "{") {
      const [all, from, comma, to] = /^\{(\d*)(,?)(\d*)\}/.exec(characters.slice(at, at + 24).join("")) ?? []
      if (all === undefined || (from === "" && to === "")) return refuse("{ that is not escaped")
      braces = true
      low = Number(from)
      high = comma === "" ? low : to === "" ? Infinity : Number(to)
      if (low > 1000 || (high > 1000 && high < Infinity) || high < low) refuse(`the quantifier ${all}`)
      at += all.length - 1
    } else return node
    at++
    if (high > 1 && !node.fixed) {
      throw new Error(
        `the regular expression ${
          JSON.stringify(pattern)
        } repeats a part of varying length (as (a+)+ does): it could ` +
          "take exponential time on some texts, and is not run"
      )
    }
    let mark = `{${low},${high === Infinity ? "" : high}}`
    let possessive = false
    const next = characters[at]
    if (next === "?" || next === "+") {
      if (braces) refuse(`${next} after a quantifier in braces`)
      at++
      if (next === "?") mark += "?"
      else possessive = true
    }
    if (["*", "+", "?", "{"].includes(characters[at]!)) refuse("a quantifier of a quantifier")
    const out: Node = {
      source: `${node.source}${mark}`,
      least: low * node.least,
      fixed: node.fixed && low === high,
      unbounded: node.unbounded + (high === Infinity ? 1 : 0)
    }
    return possessive ? atomic(out) : out
  }
  const sequence = (fold: boolean): Node => {
    const nodes: Array<Node> = []
    let run = ""
    while (at < characters.length && characters[at] !== "|" && characters[at] !== ")") {
      run = /[a-zA-Z]/.test(characters[at]!) ? run + characters[at] : ""
      if (fold && FOLDED.test(run)) refuse(`${run} without regard to case`)
      nodes.push(quantified(atom(fold)))
    }
    return {
      source: nodes.map(({ source }) => source).join(""),
      least: nodes.reduce((sum, { least }) => sum + least, 0),
      fixed: nodes.every(({ fixed }) => fixed),
      unbounded: nodes.reduce((sum, { unbounded }) => sum + unbounded, 0)
    }
  }
  const alternatives = (fold: boolean): Node => {
    const all = [sequence(fold)]
    while (characters[at] === "|") {
      at++
      all.push(sequence(fold))
    }
    return {
      source: all.map(({ source }) => source).join("|"),
      least: Math.min(...all.map(({ least }) => least)),
      // several ways of one length are several ways
      fixed: all.length === 1 && all[0]!.fixed,
      unbounded: Math.max(...all.map(({ unbounded }) => unbounded))
    }
  }

  const whole = alternatives(false)
  if (at < characters.length) refuse("a ) too many")
  if (whole.least === 0) refuse("a way to match nothing")
  if (whole.unbounded > MOST_UNBOUNDED) refuse(`more than ${MOST_UNBOUNDED} unbounded quantifiers in a row`)
  return new RegExp(whole.source, "gv")
}
