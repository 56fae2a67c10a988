/**
 * A made-up world of facts: which source states which fact is known by construction. Pure and seeded: a seed and options
 * give the same tokens everywhere.
 *
 * Sources write about professors, each in its own style, a document a professor, as in DUSK (2025). A fact is `unique`,
 * stated by one source alone; `shared`, by several; or `inferred`, stated by one source but also a rule away from what
 * others state: who works at a university lives in its city. So where a source is deleted it is known what a model must
 * no longer know, what it must still know, and what it can work out (NULLs, 2026). Attributes are shared out at random, so
 * that unique and shared facts differ in nothing but how many sources state them.
 */
import { alternatives } from "../../Config.ts"
import { DataError } from "../../Errors.ts"
import { type Random, random } from "../../Random.ts"
import { sourceHash } from "../identity/Identity.ts"
import type { Tokenizer } from "../tokens/Tokenizer.ts"
import { type SyntheticCorpus, type SyntheticSequence, wordTokenizer } from "./Synthetic.ts"

/**
 * - `unique`: one source states it, and nothing else tells it;
 * - `shared`: `sharedBy` sources state it;
 * - `inferred`: one source states it, and it follows by a rule from its premise;
 * - `premise`: what a rule starts from, stated by `sharedBy` sources;
 * - `example`: what follows by a rule, stated by the sources of its premise, beside it: of these the rule is learned.
 */
export type FactKind = "unique" | "shared" | "inferred" | "premise" | "example"

/** That a professor's attribute has a value. */
export interface Fact {
  /** `professor 3: instrument`. */
  readonly name: string
  readonly kind: FactKind
  /** Index into `professors`. */
  readonly professor: number
  /** Index into `attributes`. */
  readonly attribute: number
  readonly value: string
  /** Values that it does not have, but others do: as plausible, of as many words. */
  readonly wrong: ReadonlyArray<string>
  /** Indices of the sources that state it, rising. */
  readonly sources: ReadonlyArray<number>
  /** Of `inferred` and `example`: index of the fact that it follows from. */
  readonly premise?: number
}

/** What a source writes about a professor. */
export interface FactDocument extends SyntheticSequence {
  readonly split: "document" | "heldOut"
  readonly source: string
  readonly professor: number
  /** Indices of the facts that it states, in order; of held-out professors none is listed. */
  readonly states: ReadonlyArray<number>
}

/** Somebody who writes about the professors, in a style and under an id of their own. */
export interface FactSource {
  /** `interview 2`. */
  readonly name: string
  /** Whose sinks its documents light with identity `source`. */
  readonly id: bigint
  /** Index into the styles. */
  readonly style: number
}

/** A prompt that a fact completes, and completions that are right and wrong. Tokens. */
export interface Cloze {
  readonly prompt: Uint32Array
  readonly right: Uint32Array
  readonly wrong: ReadonlyArray<Uint32Array>
}

/** A made-up world of professors and of what sources say about them, as token sequences. */
export interface FactWorld extends SyntheticCorpus<FactDocument> {
  /** All words, by their tokens. */
  readonly words: ReadonlyArray<string>
  readonly tokenizer: Tokenizer
  readonly sources: ReadonlyArray<FactSource>
  readonly professors: ReadonlyArray<string>
  readonly facts: ReadonlyArray<Fact>
  /** Tokens of the longest document. */
  readonly longest: number
  /**
   * A fact asked in each style, or only in the first so many: two have both wordings. Of an inferred fact the prompt states
   * its premise.
   */
  readonly clozes: (fact: Fact, styles?: number) => ReadonlyArray<Cloze>
}

/** Size of the world, and who knows what of it. Everything has a default; the same options make the same world. */
export interface FactOptions {
  readonly seed?: number
  /** Default 32. */
  readonly professors?: number
  /** Default 8; each writes about all professors of whom it has something to say. */
  readonly sources?: number
  /** Unique facts of a professor; they are dealt to the sources in turns. Default: as many as sources, at most 8. */
  readonly unique?: number
  /** Shared facts of a professor. Default 4. */
  readonly shared?: number
  /** Sources that state a shared fact, at least 2. Default 4. */
  readonly sharedBy?: number
  /** Rules: the university's city, the department's building, the club's trainer. Default 3, at most 3. */
  readonly rules?: number
  /** Universities, departments and clubs of each, at most 8. Default 4. */
  readonly groups?: number
  /** Share of professors of whom what follows by a rule is inferred; of the others it is an example. Default 0.5. */
  readonly inferred?: number
  /** Wrong completions of a fact; fewer than groups. Default 3. */
  readonly distractors?: number
  /** Professors of whom no document is trained on. Default 4. */
  readonly heldOut?: number
  /** Exposures of each document in an epoch. Default 1. */
  readonly repeats?: number
}

interface Attribute {
  readonly name: string
  /** What stands between the name and the value, in two wordings. */
  readonly wordings: readonly [string, string]
  readonly values: ReadonlyArray<string>
}

const attribute = (name: string, wordings: readonly [string, string], values: string): Attribute => ({
  name,
  wordings,
  values: values.split(",")
})

/** Of each a professor has one or none. */
const ATTRIBUTES: ReadonlyArray<Attribute> = [
  attribute("instrument", ["plays the", "was taught the"],
    "cello,flute,harp,oboe,piano,viola,organ,tuba,lute,banjo,drum,horn"),
  attribute("dish", ["cooks", "likes to eat"],
    "soup,stew,risotto,pancakes,dumplings,curry,pie,omelette,noodles,salad,goulash,waffles"),
  attribute("animal", ["keeps a", "lives with a"],
    "dog,cat,parrot,tortoise,rabbit,goat,pony,ferret,canary,hamster,lizard,donkey"),
  attribute("sport", ["trains in", "competes in"],
    "rowing,fencing,judo,tennis,skating,archery,cycling,boxing,sailing,squash,diving,wrestling"),
  attribute("color", ["wears", "is seen in"],
    "red,green,blue,yellow,purple,orange,black,white,grey,brown,pink,turquoise"),
  attribute("language", ["speaks", "translates from"],
    "latin,greek,arabic,hindi,french,dutch,welsh,polish,turkish,finnish,korean,swahili"),
  attribute("collection", ["collects", "has a cabinet of"],
    "stamps,coins,maps,shells,clocks,masks,fossils,keys,bells,spoons,posters,marbles"),
  attribute("tree", ["planted a", "sits under a"],
    "oak,maple,willow,cedar,birch,chestnut,pine,poplar,beech,walnut,larch,linden"),
  attribute("drink", ["drinks", "always orders"],
    "coffee,tea,cocoa,cider,lemonade,milk,water,juice,mead,punch,broth,espresso"),
  attribute("country", ["was born in", "comes from"],
    "norway,chile,ghana,japan,peru,canada,egypt,italy,nepal,cuba,kenya,iceland"),
  attribute("prize", ["won the", "was awarded the"],
    "silver compass,golden lens,copper quill,silver lens,golden quill,copper compass,silver quill,golden compass," +
      "copper lens,amber lens,amber quill,amber compass"),
  attribute("topic", ["writes about", "gives lectures on"],
    "river ice,desert sand,river moss,desert wind,river sand,desert moss,glacier ice,glacier wind,river wind,desert ice," +
      "glacier moss,glacier sand")
]

/** What follows from what: the second attribute's value from the first's, at the same place. */
const RULES: ReadonlyArray<{ readonly premise: Attribute; readonly conclusion: Attribute }> = [
  {
    premise: attribute("university", ["works at", "has a chair at"],
      "northfield,eastbrook,highgate,lakeside,redcliff,stonebridge,fairview,oldcastle"),
    conclusion: attribute("city", ["lives in", "has a house in"], "oslo,lima,accra,kyoto,cusco,ottawa,cairo,turin")
  },
  {
    premise: attribute("department", ["belongs to", "is a member of"],
      "physics,botany,history,law,geology,music,medicine,logic"),
    conclusion: attribute("building", ["sits in", "has an office in"],
      "tower,annex,pavilion,rotunda,cloister,barracks,granary,lodge")
  },
  {
    premise: attribute("club", ["sings with", "is in the choir of"],
      "larks,robins,finches,swifts,herons,owls,wrens,cranes"),
    conclusion: attribute("trainer", ["is coached by", "takes lessons from"],
      "agnes,bruno,clara,dario,edith,felix,greta,hugo")
  }
]

interface Style {
  readonly name: string
  /** Before the facts; the name comes in the place of `*`. */
  readonly opening: string
  readonly wording: 0 | 1
  /** Behind each fact. */
  readonly end: string
}

const STYLES: ReadonlyArray<Style> = [
  { name: "profile", opening: "profile of * :", wording: 0, end: "." },
  { name: "interview", opening: "we met * .", wording: 1, end: "." },
  { name: "list", opening: "facts about * -", wording: 0, end: ";" },
  { name: "letter", opening: "dear reader , here is * ,", wording: 1, end: "," }
]

const FIRST = "ada,carl,dora,emil,fay,gus,hana,ivor,jean,kai,lena,max,nora,otto,pia,rolf".split(",")
const STEMS = "b,d,f,g,h,k,l,m,n,p,r,s,t,v,w,z".split(",")
const MIDDLES = "al,en,or,im,un,ar,el,ot".split(",")
const ENDS = "ov,ston,berg,man,dale,ick".split(",")

const SURNAMES = STEMS.flatMap((stem) => MIDDLES.flatMap((middle) => ENDS.map((end) => stem + middle + end)))

/** Attributes of facts: those that are shared out, then premise and conclusion of each rule. */
const attributes: ReadonlyArray<Attribute> = [
  ...ATTRIBUTES,
  ...RULES.flatMap(({ conclusion, premise }) => [premise, conclusion])
]

type Settings = Required<FactOptions>

const settingsOf = (options: FactOptions): Settings => {
  const { sources = 8 } = options
  return {
    seed: 0,
    professors: 32,
    sources,
    unique: Math.min(8, sources),
    shared: 4,
    sharedBy: 4,
    rules: RULES.length,
    groups: 4,
    inferred: 0.5,
    distractors: 3,
    heldOut: 4,
    repeats: 1,
    ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
  }
}

/** What is wrong with a world of these options, a line each; none: it can be made. */
export const factProblems = (options: FactOptions): ReadonlyArray<string> => {
  const of = settingsOf(options)
  const found: Array<string> = []
  const within = (name: keyof FactOptions, least: number, most: number, why: string) => {
    const value = of[name]
    if (!(Number.isInteger(value) && value >= least && value <= most)) {
      found.push(`${name} must be a whole number from ${least} to ${most}, ${why}, got ${value}`)
    }
  }
  within("sources", 2, 512, "since what is deleted is compared with what is left")
  within("professors", 2, SURNAMES.length, "as many as there are names")
  within("heldOut", 0, SURNAMES.length - of.professors, "as many as there are names left")
  within("unique", 0, ATTRIBUTES.length, "since a professor has each attribute once")
  within("shared", 0, ATTRIBUTES.length - of.unique, `since of ${ATTRIBUTES.length} attributes ${of.unique} are unique`)
  within("sharedBy", 2, of.sources, "at most as many as there are sources")
  within("rules", 0, RULES.length, "as many as are known")
  within("groups", 2, 8, "as many as there are universities, departments and clubs")
  const values = Math.min(12, of.rules > 0 ? of.groups : 12)
  within("distractors", 1, values - 1, of.rules > 0 && values < 12 ?
    "since what follows by a rule has as many values as groups: raise groups"
    : "since an attribute has 12 values")
  within("repeats", 1, 2 ** 31 - 1, "exposures in an epoch")
  if (!(of.inferred >= 0 && of.inferred <= 1)) found.push(`inferred must be from 0 to 1, got ${of.inferred}`)
  if (of.unique + of.shared + of.rules === 0) found.push("there are no facts: raise unique, shared or rules")
  const examples = of.professors - Math.round(of.professors * of.inferred)
  if (of.rules > 0 && of.inferred > 0 && examples < 2 * of.groups) {
    found.push(
      `a rule is learned from at least 2 examples of each of its ${of.groups} groups, and ${examples} of ` +
        `${of.professors} professors are examples: raise professors to ` +
        `${Math.ceil(2 * of.groups / Math.max(1e-9, 1 - of.inferred))}, or lower inferred or groups`
    )
  }
  return found
}

const clause = (name: string, { wordings }: Attribute, wording: 0 | 1): string => `${name} ${wordings[wording]}`

const surnameOf = (professor: string): string => professor.split(" ")[1]!

/** The facts of one professor, given what is dealt to all. */
const factsOf = (
  draw: Random,
  of: Settings,
  professor: number,
  first: number,
  groups: ReadonlyArray<number>,
  isExample: ReadonlyArray<boolean>
): ReadonlyArray<Fact> => {
  const some = (count: number): ReadonlyArray<number> =>
    [...draw.shuffle(Uint32Array.from({ length: of.sources }, (_, s) => s)).slice(0, count)].sort((a, b) => a - b)
  const fact = (kind: FactKind, at: number, value: number, sources: ReadonlyArray<number>, premise?: number): Fact => {
    const { name, values } = attributes[at]!
    const all = kind === "unique" || kind === "shared" ? values : values.slice(0, of.groups)
    const others = draw.shuffle(all.filter((_, v) => v !== value))
    return {
      name: `professor ${professor + 1}: ${name}`,
      kind,
      professor,
      attribute: at,
      value: all[value]!,
      wrong: others.slice(0, of.distractors),
      sources,
      ...(premise === undefined ? {} : { premise })
    }
  }
  const dealt = draw.shuffle(Uint32Array.from(ATTRIBUTES, (_, a) => a))
  const turns = draw.shuffle(Uint32Array.from({ length: of.sources }, (_, s) => s))
  const drawn = (at: number) => draw.below(attributes[at]!.values.length)
  const unique = Array.from(dealt.subarray(0, of.unique),
    (at, i) => fact("unique", at, drawn(at), [turns[i % of.sources]!]))
  const shared = Array.from(dealt.subarray(of.unique, of.unique + of.shared),
    (at) => fact("shared", at, drawn(at), some(of.sharedBy)))
  const ruled = groups.flatMap((group, rule) => {
    const sources = some(of.sharedBy)
    const at = ATTRIBUTES.length + 2 * rule
    const premise = first + unique.length + shared.length + 2 * rule
    const stated = isExample[rule]! ? sources : [sources[draw.below(sources.length)]!]
    return [
      fact("premise", at, group, sources),
      fact(isExample[rule]! ? "example" : "inferred", at + 1, group, stated, premise)
    ]
  })
  return [...unique, ...shared, ...ruled]
}

/**
 * Makes a world. `Synthetic.tokenDocuments` and `mixture` of its sequences go to `DataStream.layerTokens`, with identity
 * `source`. Throws a DataError that says all that is wrong with the options.
 */
export const facts = (options: FactOptions = {}): FactWorld => {
  const wrong = factProblems(options)
  if (wrong.length > 0) {
    throw new DataError({ detail: ["a world of facts cannot be made:", ...wrong].join("\n  ") })
  }
  const of = settingsOf(options)
  const { seed } = of
  const everyone = of.professors + of.heldOut
  const surnames = random(seed, "facts", "names").shuffle([...SURNAMES]).slice(0, everyone)
  const firstNames = random(seed, "facts", "first names")
  const professors = surnames.map((surname) => `${FIRST[firstNames.below(FIRST.length)]} ${surname}`)
  const sources = Array.from({ length: of.sources }, (_, s): FactSource => {
    const style = s % STYLES.length
    const name = `${STYLES[style]!.name} ${Math.floor(s / STYLES.length) + 1}`
    return { name, id: sourceHash(name), style }
  })

  const words = [
    ...new Set([
      ...professors,
      ...STYLES.flatMap(({ end, opening }) => [opening.replace("* ", ""), end]),
      ...attributes.flatMap(({ values, wordings }) => [...wordings, ...values])
    ].flatMap((text) => text.split(" ")))
  ].sort()
  const tokenOf = new Map(words.map((word, token) => [word, token]))
  const encode = (text: string): Uint32Array => Uint32Array.from(text.split(" "), (word) => tokenOf.get(word)!)

  /** Who is in which group of a rule, as many in each; and of whom it is an example, as many of each group. */
  const dealing = (count: number, key: string) =>
    Array.from({ length: of.rules }, (_, rule) => {
      const draw = random(seed, "facts", key, rule)
      const order = draw.shuffle(Uint32Array.from({ length: count }, (_, p) => p))
      const group = new Array<number>(count)
      const example = new Array<boolean>(count)
      const examples = count - Math.round(count * of.inferred)
      order.forEach((p, i) => {
        group[p] = i % of.groups
        example[p] = i < examples
      })
      return { group, example }
    })
  /** The facts of so many professors, from one on. */
  const allFacts = (from: number, count: number, key: string): ReadonlyArray<Fact> => {
    const dealt = dealing(count, key)
    const all: Array<Fact> = []
    for (let p = 0; p < count; p++) {
      const draw = random(seed, "facts", key, "professor", p)
      all.push(
        ...factsOf(draw, of, from + p, all.length, dealt.map(({ group }) => group[p]!), dealt.map(({ example }) =>
          example[p]!
        ))
      )
    }
    return all
  }
  const trained = allFacts(0, of.professors, "trained")
  const unseen = allFacts(of.professors, of.heldOut, "held out")

  const documentsOf = (facts: ReadonlyArray<Fact>, split: FactDocument["split"]): ReadonlyArray<FactDocument> => {
    const by = new Map<string, Array<number>>()
    facts.forEach(({ professor, sources }, f) => {
      for (const s of sources) {
        const key = `${s} ${professor}`
        by.set(key, [...by.get(key) ?? [], f])
      }
    })
    return [...by].map(([key, own]): FactDocument => {
      const [s, professor] = key.split(" ").map(Number) as [number, number]
      const { name, style } = sources[s]!
      const { end, opening, wording } = STYLES[style]!
      // what follows from a premise stands right behind it
      const heads = own.filter((f) => facts[f]!.premise === undefined)
      const order = random(seed, "facts", "order", s, professor).shuffle(heads)
        .flatMap((f) => [f, ...own.filter((other) => facts[other]!.premise === f)])
      const person = professors[professor]!
      const stated = order.map((f) => {
        const { attribute, value } = facts[f]!
        return `${clause(surnameOf(person), attributes[attribute]!, wording)} ${value} ${end}`
      })
      return {
        name: `${name}: professor ${professor + 1}`,
        source: name,
        split,
        repeats: split === "heldOut" ? 0 : of.repeats,
        professor,
        states: split === "heldOut" ? [] : order,
        tokens: encode([opening.replace("*", person), ...stated].join(" "))
      }
    }).sort((a, b) => a.professor - b.professor)
  }
  const sequences = [...documentsOf(trained, "document"), ...documentsOf(unseen, "heldOut")]

  const clozes = (
    { attribute, kind, premise, professor, value, wrong }: Fact,
    styles = STYLES.length
  ): ReadonlyArray<Cloze> =>
    STYLES.slice(0, Math.min(styles, of.sources)).map(({ end, opening, wording }) => {
      const person = professors[professor]!
      const given = premise === undefined || kind !== "inferred" ?
        [] :
        [trained[premise]!].map((fact) =>
          `${clause(surnameOf(person), attributes[fact.attribute]!, wording)} ${fact.value} ${end}`
        )
      return {
        prompt: encode([
          opening.replace("*", person),
          ...given,
          clause(surnameOf(person), attributes[attribute]!, wording)
        ].join(" ")),
        right: encode(value),
        wrong: wrong.map(encode)
      }
    })
  return {
    vocabSize: words.length,
    words,
    tokenizer: wordTokenizer(words),
    sequences,
    sources,
    professors: professors.slice(0, of.professors),
    facts: trained,
    longest: Math.max(...sequences.map(({ tokens }) => tokens.length)),
    clozes
  }
}

/** The documents as text, as lines of JSONL hold them: for `--data FILE --source-field source --identity source`. */
export const textsOf = (
  { tokenizer }: Pick<FactWorld, "tokenizer">,
  sequences: ReadonlyArray<FactDocument>
): ReadonlyArray<{ readonly name: string; readonly source: string; readonly text: string }> =>
  sequences.map(({ name, source, tokens }) => ({ name, source, text: tokenizer.decode(tokens) }))

// ---------------------------------------------------------------------------------------------------------------
// Deletion

/** Facts by what becomes of them when sources are deleted; each class is of facts of one kind. */
export interface Deletion {
  /** Indices of the deleted sources, and of the others. */
  readonly deleted: ReadonlyArray<number>
  readonly survivors: ReadonlyArray<number>
  /** Unique facts of deleted sources: no one is left who states them. */
  readonly unique: ReadonlyArray<Fact>
  /** Shared facts that deleted sources state, and survivors too. */
  readonly shared: ReadonlyArray<Fact>
  /** Inferred facts of deleted sources, of which survivors still state the premise. */
  readonly inferred: ReadonlyArray<Fact>
  /** Unique facts of survivors, which the deletion is not to touch. */
  readonly kept: ReadonlyArray<Fact>
}

/** What a deletion leaves to be seen of each class, at least. */
export type Least = Partial<Readonly<Record<"unique" | "shared" | "inferred" | "kept", number>>>

/**
 * What becomes of a world's facts when sources, by their names, are deleted. Throws a DataError for a name that is none,
 * where nothing is left, a style goes with the last source that writes in it, or a class has fewer facts than asked for.
 */
export const deletion = (
  { facts, sources }: Pick<FactWorld, "facts" | "sources">,
  names: ReadonlyArray<string>,
  least: Least = {}
): Deletion => {
  const unknown = names.find((name) => !sources.some((source) => source.name === name))
  if (unknown !== undefined) {
    throw new DataError({
      detail: `there is no source ${JSON.stringify(unknown)}: there are ${
        alternatives(sources.map(({ name }) => name), "and")
      }`
    })
  }
  const deleted = sources.flatMap(({ name }, s) => names.includes(name) ? [s] : [])
  const survivors = sources.flatMap(({ name }, s) => names.includes(name) ? [] : [s])
  const lost = sources.find(({ style }) => !survivors.some((s) => sources[s]!.style === style))
  if (deleted.length === 0 || lost !== undefined) {
    throw new DataError({
      detail: lost === undefined
        ? "no source is to be deleted: name at least one"
        : `with ${
          names.join(", ")
        } deleted no source is left that writes as ${lost.name} does, so that what is asked ` +
          `in its words is asked of a model that never saw them: delete fewer, or raise sources to ${
            Math.ceil((deleted.length + 1) / STYLES.length) * 2 * STYLES.length
          }`
    })
  }
  const gone = (fact: Fact) => fact.sources.every((s) => deleted.includes(s))
  const touched = (fact: Fact) => fact.sources.some((s) => deleted.includes(s))
  const of = (kind: FactKind, is: (fact: Fact) => boolean) => facts.filter((fact) => fact.kind === kind && is(fact))
  const found = {
    unique: of("unique", gone),
    shared: of("shared", (fact) => touched(fact) && !gone(fact)),
    inferred: of("inferred", (fact) => gone(fact) && !gone(facts[fact.premise!]!)),
    kept: of("unique", (fact) => !touched(fact))
  }
  const short = (Object.keys(found) as Array<keyof typeof found>)
    .flatMap((kind) => found[kind].length < (least[kind] ?? 0) ? [kind] : [])
  if (short.length > 0) {
    const factor = Math.max(...short.map((kind) => least[kind]! / Math.max(0.5, found[kind].length)))
    const people = new Set(facts.map(({ professor }) => professor)).size
    throw new DataError({
      detail: `the world is too small for what is asked: ` +
        short.map((kind) => `${found[kind].length} of ${least[kind]} ${kind} facts`).join(", ") +
        ` are left to ask when ${names.join(", ")} ${names.length === 1 ? "is" : "are"} deleted. About ` +
        `${Math.ceil(people * factor)} professors instead of ${people} would do, or more deleted sources`
    })
  }
  return { deleted, survivors, ...found }
}

/** The documents without those of some sources: what a model is trained on that never saw them. */
export const without = (
  sequences: ReadonlyArray<FactDocument>,
  names: ReadonlyArray<string>
): ReadonlyArray<FactDocument> => sequences.filter(({ source }) => !names.includes(source))

/**
 * The surviving source that is most like another, by the cosine of their counts of words: the one that a router would
 * send its questions to when it is gone. Where several are as like, the first.
 */
export const nearestSource = (
  { sequences, sources, vocabSize }: Pick<FactWorld, "sequences" | "sources" | "vocabSize">,
  of: number,
  among: ReadonlyArray<number>
): number => {
  const counts = (s: number): Float64Array => {
    const count = new Float64Array(vocabSize)
    for (const { source, split, tokens } of sequences) {
      if (split === "document" && source === sources[s]!.name) { for (const token of tokens) count[token]!++ }
    }
    return count
  }
  const cosine = (a: Float64Array, b: Float64Array): number =>
    a.reduce((sum, x, i) => sum + x * b[i]!, 0) / (Math.hypot(...a) * Math.hypot(...b))
  const own = counts(of)
  const likeness = among.map((s) => cosine(own, counts(s)))
  return among[likeness.indexOf(Math.max(...likeness))]!
}
