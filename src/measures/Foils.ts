/**
 * Foils of recognition: texts that say the same in other words, or the same words in another order, made by rules that tell
 * what they changed (Orhan, 2023). Pure and seeded. No model writes them, so that nothing but the rule tells a foil from its
 * original; and where no rule applies there is no foil, since a text that equals its original is none.
 */
import * as Schema from "effect/Schema"
import type { Row } from "../data/stream/Packing.ts"
import type { Tokenizer } from "../data/tokens/Tokenizer.ts"
import { DataError } from "../Errors.ts"
import { type Random, random } from "../Random.ts"

/**
 * - `synonyms`: words of the list below for their partners, wherever they stand;
 * - `paraphrase`: "A and B" is "B and A", an opening phrase goes to the end of its sentence, and turns of phrase are said
 *   otherwise ("in order to", "to"): the same content words in other places;
 * - `scrambledWords`: the same words in random order; `scrambledLetters`: the letters of each word in random order.
 */
export const FoilKind = Schema.Literal("paraphrase", "synonyms", "scrambledWords", "scrambledLetters")
export type FoilKind = typeof FoilKind.Type

/** All kinds of foils, in the order in which tables show them. */
export const foilKinds: ReadonlyArray<FoilKind> = FoilKind.literals

/** A foil, and what is different about it. */
export interface Foil {
  readonly text: string
  /** What stood there, and what stands there now, in the order of the text. */
  readonly changes: ReadonlyArray<readonly [from: string, to: string]>
}

// ---------------------------------------------------------------------------------------------------------------
// What rules go by

/** Words of about one meaning and one form, either for the other. */
export const SYNONYMS: ReadonlyArray<readonly [string, string]> = (
  "big large,nation country,nations countries,begin start,begins starts,began started,help aid,need require," +
  "needs requires,needed required,many numerous,important vital,ask request,asked requested,give grant," +
  "gave granted,build construct,built constructed,buy purchase,bought purchased,keep retain,kept retained," +
  "show demonstrate,shows demonstrates,shown demonstrated,danger peril,dangers perils,strong powerful," +
  "world globe,hope trust,think believe,new fresh,duty obligation,duties obligations,question matter," +
  "questions matters,treaty agreement,treaties agreements,foes enemies,friends allies,trade commerce," +
  "ships vessels,ship vessel,also likewise,yet still,although though,while whilst,upon on,among amongst," +
  "perhaps maybe,often frequently,only merely,very quite,wish desire,fear dread,freedom liberty,money funds," +
  "people citizens,government administration,war conflict,wars conflicts,law statute,laws statutes," +
  "effort endeavor,efforts endeavors,increase growth,power authority,powers authorities,hard difficult," +
  "rapid swift,rapidly swiftly,whole entire,certain sure,enough sufficient,right proper,part portion," +
  "parts portions,way manner,ways manners,place spot,places spots,cost expense,costs expenses,land soil," +
  "lands soils,goods wares,work labor,works labors,task job,tasks jobs,plan scheme,plans schemes," +
  "result outcome,results outcomes,goal aim,goals aims,problem difficulty,problems difficulties,answer reply," +
  "answers replies,choose select,chosen selected,change alter,changed altered,happen occur,happened occurred," +
  "try attempt,tried attempted,allow permit,allowed permitted,seek pursue,gain profit,gains profits,happy glad," +
  "rich wealthy,poor needy,small little,old ancient,wise prudent,brave bold,clear plain,last final," +
  "first foremost,main chief,long lengthy,speak talk,spoke talked,tell inform,told informed,look gaze," +
  "looked gazed,house dwelling,houses dwellings,road street,roads streets,child kid,children kids,sea ocean," +
  "forest wood,gift present,rest remainder,annual yearly,current prevailing,former previous,shall will," +
  "must should"
).split(",").map((pair) => pair.split(" ") as unknown as readonly [string, string])

/** Turns of phrase, each for the other. */
const PHRASES: ReadonlyArray<readonly [string, string]> = [
  ["in order to", "so as to"],
  ["as well as", "along with"],
  ["a number of", "several"],
  ["in spite of", "despite"],
  ["because of", "owing to"],
  ["with regard to", "concerning"],
  ["at this time", "at present"],
  ["all of the", "all the"],
  ["each of the", "every one of the"],
  ["do not", "don't"],
  ["does not", "doesn't"],
  ["cannot", "can not"],
  ["it is", "it's"],
  ["for the purpose of", "with a view to"],
  ["the United States", "this Union"],
  ["in accordance with", "according to"],
  ["in addition to", "besides"],
  ["in the course of", "during"],
  ["on account of", "by reason of"]
]

/** Turns of phrase that say more than what they are said with: only the first for the second. */
const SHORTER: ReadonlyArray<readonly [string, string]> = [
  ["is able to", "can"],
  ["are able to", "can"],
  ["more than", "over"],
  ["less than", "under"],
  ["such as", "like"],
  ["have to", "need to"],
  ["ought to", "should"],
  ["a great many", "very many"],
  ["of the same", "thereof"],
  ["by means of", "through"],
  ["which", "that"]
]

/** Words that hold phrases together: "and" between two of them joins more than the two. */
const SMALL = new Set(
  ("a an the of to in on at by for with from as is are was were be been it its this that these those and or but not no he she " +
    "they we you i his her their our your my who which what when where so than then there here has have had will shall may " +
    "can could would should must do does did if into over under upon all any each every such more most other some")
    .split(" ")
)

// ---------------------------------------------------------------------------------------------------------------
// Rules

/** `Nation` is `Country`, `NATION` is `COUNTRY`. */
const inCaseOf = (model: string, word: string): string =>
  model.length > 1 && model === model.toUpperCase() && model !== model.toLowerCase()
    ? word.toUpperCase()
    : model[0] !== model[0]!.toLowerCase()
    ? word[0]!.toUpperCase() + word.slice(1)
    : word

const partners = new Map<string, string>()
for (const [a, b] of SYNONYMS) {
  partners.set(a, b)
  partners.set(b, a)
}

type Changes = Array<readonly [from: string, to: string]>

const LETTERS = /[A-Za-z]+(?:'[A-Za-z]+)*/g

const articleOf = (word: string): string => /^[aeiou]/i.test(word) ? "an" : "a"

const synonyms = (text: string, changes: Changes): string =>
  text.replace(/\b(?:(an?)( +))?([A-Za-z]+(?:'[A-Za-z]+)*)/gi,
    (whole, article: string | undefined, space: string, word: string) => {
      const partner = partners.get(word.toLowerCase())
      if (partner === undefined) return whole
      const to = inCaseOf(word, partner)
      changes.push([word, to])
      return article === undefined ? to : `${inCaseOf(article, articleOf(to))}${space}${to}`
    })

const coordinated = (text: string, changes: Changes): string =>
  text.replace(/(?<=^|\s)([A-Za-z]+) (and|or) ([A-Za-z]+)(?=$|[\s,.;:!?])/g,
    (whole, a: string, by: string, b: string) => {
      const [first, second] = [a.toLowerCase(), b.toLowerCase()]
      // names keep their places
      if (first === second || SMALL.has(first) || SMALL.has(second) || a !== first || b !== second) return whole
      const to = `${b} ${by} ${a}`
      changes.push([whole, to])
      return to
    })

const phrased = (text: string, changes: Changes): string => {
  // the longer ones first
  const all = [...PHRASES.flatMap(([a, b]) => [[a, b], [b, a]] as const), ...SHORTER]
    .sort((p, q) => q[0].length - p[0].length)
  const to = new Map<string, string>()
  for (const [a, b] of all) if (!to.has(a.toLowerCase())) to.set(a.toLowerCase(), b)
  const pattern = new RegExp(`(?<![A-Za-z'])(?:${[...to.keys()].join("|")})(?![A-Za-z'])`, "gi")
  return text.replace(pattern, (whole) => {
    const other = inCaseOf(whole, to.get(whole.toLowerCase())!)
    changes.push([whole, other])
    return other
  })
}

/** "In this year, we did so." is "We did so in this year." */
const fronted = (text: string, changes: Changes): string =>
  text.replace(
    /(?<=^|[.;!?] +)((?:In|On|At|During|After|Before|Under|From|Since|By|For|With) [^,.;:!?]{2,60}), ([^.;:!?]+)([.;!?])/g,
    (whole, opening: string, rest: string, end: string) => {
      const to = `${rest[0]!.toUpperCase()}${rest.slice(1)} ${opening[0]!.toLowerCase()}${opening.slice(1)}${end}`
      changes.push([whole, to])
      return to
    }
  )

const shuffled = (draw: Random, items: ReadonlyArray<string>): ReadonlyArray<string> => {
  // some orders are the old one, of equal items
  for (let again = 0; again < 8; again++) {
    const order = draw.shuffle([...items])
    if (order.some((one, i) => one !== items[i])) return order
  }
  return items
}

const words = (text: string, draw: Random, changes: Changes): string => {
  const all = text.match(LETTERS) ?? []
  const order = shuffled(draw, all)
  let at = 0
  return text.replace(LETTERS, (word) => {
    const to = order[at++]!
    if (to !== word) changes.push([word, to])
    return to
  })
}

const letters = (text: string, draw: Random, changes: Changes): string =>
  text.replace(LETTERS, (word) => {
    const to = shuffled(draw, [...word]).join("")
    if (to !== word) changes.push([word, to])
    return to
  })

/**
 * The foil of a text; undefined where no rule of its kind applies. The first and the last word of a text that is cut out of
 * a longer one may be halves: with `cut` they stay as they are. `seed` decides the random orders.
 */
export const foilOf = (
  text: string,
  kind: FoilKind,
  { cut = false, seed = 0 }: { readonly cut?: boolean; readonly seed?: number } = {}
): Foil | undefined => {
  const [head, body, tail] = cut
    ? (/^(\S*)([^]*?)(\S*)$/.exec(text)!.slice(1) as [string, string, string])
    : ["", text, ""]
  const changes: Changes = []
  const draw = random(seed, "foil", kind, text)
  const changed = kind === "synonyms"
    ? synonyms(body, changes)
    : kind === "paraphrase"
    ? phrased(coordinated(fronted(body, changes), changes), changes)
    : kind === "scrambledWords"
    ? words(body, draw, changes)
    : letters(body, draw, changes)
  const made = head + changed + tail
  return made === text ? undefined : { text: made, changes }
}

/** A sequence and what it is to be told from. */
export interface FoilPair {
  readonly row: Row
  readonly foil: Row
}

/**
 * Sequences of text with their foils; undefined where no rule applies, or what is different lies behind the end of a row of
 * `seqLen`. Both are tokenized from text, so that neither is at a loss, and light the sinks of the sequence.
 */
export const foilPairs = (
  rows: ReadonlyArray<Row>,
  kind: FoilKind,
  { seed, seqLen, tokenizer }: { readonly seed: number; readonly seqLen: number; readonly tokenizer: Tokenizer }
): ReadonlyArray<FoilPair | undefined> =>
  rows.map((row) => {
    const text = tokenizer.decode(row.tokens)
    const foil = foilOf(text, kind, { cut: true, seed })
    if (foil === undefined) return undefined
    const again = (text: string): Row => {
      const { scoredFrom: _, ...rest } = row
      return { ...rest, tokens: tokenizer.encode(text).slice(0, seqLen + 1) }
    }
    const pair = { row: again(text), foil: again(foil.text) }
    return pair.row.tokens.join() === pair.foil.tokens.join() ? undefined : pair
  })

/**
 * Fails with a DataError, by throwing it, where a foil equals its original, or originals and foils are not pairs: nobody
 * could choose between them. `name`: what messages call an original.
 */
export const checkFoils = <A>(
  originals: ReadonlyArray<A>,
  foils: ReadonlyArray<A>,
  textOf: (one: A) => string,
  name: (one: A, i: number) => string
): void => {
  if (originals.length !== foils.length || originals.length === 0) {
    throw new DataError({
      detail: `foils must be pairs with their originals, at least one: there are ${originals.length} originals and ` +
        `${foils.length} foils`
    })
  }
  const same = originals.flatMap((one, i) => textOf(one) === textOf(foils[i]!) ? [i] : [])
  if (same.length === 0) return
  throw new DataError({
    detail: `the foil of ${name(originals[same[0]!]!, same[0]!)} equals its original` +
      (same.length === 1 ? "" : `, and so do those of ${same.length - 1} others`) +
      ": there is nothing to choose between. Change it, or leave the pair out"
  })
}
