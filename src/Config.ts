/**
 * Configuration is data: decoded once, strictly, and every problem is told at once.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import { DataError } from "./Errors.ts"

/** Edits (insert, delete, replace a character) that turn one word into the other, where they are fewer than `limit`. */
const editDistance = (a: string, b: string, limit: number): number => {
  if (Math.abs(a.length - b.length) >= limit) return limit
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  let row = previous.slice()
  for (let i = 1; i <= a.length; i++) {
    row[0] = i
    let least = i
    for (let j = 1; j <= b.length; j++) {
      const replaced = previous[j - 1]! + (a.charCodeAt(i - 1) === b.charCodeAt(j - 1) ? 0 : 1)
      const edits = Math.min(replaced, previous[j]! + 1, row[j - 1]! + 1)
      row[j] = edits
      if (edits < least) least = edits
    }
    if (least >= limit) return limit
    const spare = previous
    previous = row
    row = spare
  }
  return Math.min(limit, previous[b.length]!)
}

/** Looks for the known word closest to `word`, as known words are offered. */
export const nearer = (word: string) => {
  const wanted = word.toLowerCase()
  let best: string | undefined
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1
  return {
    offer: (candidate: string): void => {
      const distance = editDistance(wanted, candidate.toLowerCase(), bestDistance)
      if (distance >= bestDistance) return
      best = candidate
      bestDistance = distance
    },
    /** The first of those that are closest; undefined when none is close enough to be what was meant. */
    best: (): string | undefined => best
  }
}

/** The known word closest to `word`, or undefined when none is close enough to be what was meant. */
export const nearest = (word: string, known: ReadonlyArray<string>): string | undefined => {
  const search = nearer(word)
  known.forEach(search.offer)
  return search.best()
}

const at = (value: unknown, key: PropertyKey): unknown =>
  typeof value === "object" && value !== null ? (value as Readonly<Record<PropertyKey, unknown>>)[key] : undefined

/** Whether a value may be a struct by the fields that tell the members of a union apart: those of one value alone. */
const isTagged = (ast: AST.AST, value: unknown): boolean =>
  AST.getPropertySignatures(ast).every(({ name, type }) =>
    !AST.isLiteral(type) || at(value, name) === undefined || at(value, name) === type.literal
  )

/**
 * The fields of a struct, of every struct in a union (an optional one is a union with undefined), or in a list.
 *
 * @param value what is given for it: of a union the members that it may be
 */
const fieldsOf = (ast: AST.AST, value?: unknown): ReadonlyArray<AST.PropertySignature> =>
  AST.isUnion(ast)
    ? ast.types.filter((type) => isTagged(type, value)).flatMap((type) => fieldsOf(type, value))
    : AST.isTupleType(ast)
    ? [...ast.elements, ...ast.rest].flatMap(({ type }) => fieldsOf(type, value))
    : AST.getPropertySignatures(ast)

/** The keys that an encoded value may have at `path` of `given`, empty where it is no struct. */
const keysAt = (ast: AST.AST, path: ReadonlyArray<PropertyKey>, given: unknown): ReadonlyArray<string> => {
  let [types, value] = [[AST.encodedAST(ast)] as ReadonlyArray<AST.AST>, given]
  for (const key of path) {
    // a place in a list holds what the list's items hold
    if (typeof key !== "number") {
      types = types.flatMap((type) => fieldsOf(type, value)).flatMap(({ name, type }) => name === key ? [type] : [])
    }
    value = at(value, key)
  }
  return [...new Set(types.flatMap((type) => fieldsOf(type, value)).map(({ name }) => String(name)))]
}

/** Fields below fields: deeper than any configuration goes. */
const DEPTH = 8

const pathsBelow = (ast: AST.AST, depth: number): ReadonlyArray<string> =>
  depth === 0 ? [] : fieldsOf(ast).flatMap(({ name, type }) => [
    String(name),
    // a place in a list has no name of its own
    ...pathsBelow(type, depth - 1).map((below) => `${String(name)}.${below}`)
  ])

/** Every field of a configuration by its path, `training.optimizer.learningRate`, those of lists' items left out twice. */
export const pathsOf = (schema: Schema.Schema.Any): ReadonlyArray<string> => [
  ...new Set(pathsBelow(AST.encodedAST(schema.ast), DEPTH))
]

/** What people call a field whose name has no letter in common with it. */
const synonyms: Readonly<Record<string, string>> = {
  lr: "learningRate",
  batch: "batchSize",
  bs: "batchSize",
  seq: "seqLen",
  context: "seqLen",
  blocksize: "seqLen",
  layers: "numHiddenLayers",
  width: "hiddenSize",
  dim: "hiddenSize",
  heads: "numAttentionHeads",
  wd: "weightDecay",
  warmup: "warmupSteps",
  iterations: "steps",
  maxsteps: "steps",
  maxiters: "steps",
  sinks: "model.sinks"
}

const plain = (word: string): string => word.toLowerCase().replace(/[-_]/g, "")

/** The field that a word names exactly, whatever its case, dashes, and the path before it: the least deep one. */
export const namedField = (word: string, paths: ReadonlyArray<string>): string | undefined => {
  const meant = synonyms[plain(word)]
  const wanted = [plain(word), ...(meant === undefined ? [] : [plain(meant)])]
  return [...paths]
    .filter((path) => wanted.some((one) => plain(path) === one || plain(path).endsWith(`.${one}`)))
    .sort((a, b) => a.split(".").length - b.split(".").length)[0]
}

/** The field of a configuration, by its path, that a word was probably meant for; or undefined. */
export const nearestField = (word: string, paths: ReadonlyArray<string>): string | undefined => {
  const named = namedField(word, paths)
  if (named !== undefined) return named
  const leaf = nearest(plain(word.split(".").at(-1)!), paths.map((path) => path.split(".").at(-1)!))
  return leaf === undefined ? undefined : namedField(leaf, paths)
}

/** What an unknown key was meant to be: a name beside it, else a field elsewhere by its path. */
const meantKey = (key: string, beside: ReadonlyArray<string>, paths: () => ReadonlyArray<string>): string | undefined =>
  beside.find((one) => plain(one) === plain(key)) ?? namedField(key, paths()) ?? nearest(key, beside) ??
    nearestField(key, paths())

/** `a`, `a or b`, `a, b or c`. */
export const alternatives = (words: ReadonlyArray<string>, or = "or"): string =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${or} ${words.at(-1)}`

const among = (issues: ParseResult.SingleOrNonEmpty<ParseResult.ParseIssue>): ReadonlyArray<ParseResult.ParseIssue> =>
  Array.isArray(issues) ? issues : [issues as ParseResult.ParseIssue]

/** How many things are wrong below a value; 0 where it is the value itself that is. */
const wrongBelow = (issue: ParseResult.ParseIssue): number => {
  switch (issue._tag) {
    case "Pointer":
      return Math.max(1, wrongBelow(issue.issue))
    case "Composite":
      return among(issue.issues).reduce((sum, one) => sum + wrongBelow(one), 0)
    case "Refinement":
    case "Transformation":
      return wrongBelow(issue.issue)
    default:
      return 0
  }
}

/** Whether a value is of the type that was expected, and yet refused. */
const isRefused = (issue: ParseResult.ParseIssue): boolean =>
  issue._tag === "Refinement"
    ? issue.kind === "Predicate" || isRefused(issue.issue)
    : issue._tag === "Transformation"
    ? isRefused(issue.issue)
    : issue._tag === "Composite" && among(issue.issues).some(isRefused)

/** Of what each member of a union says of a value, what those say that it was meant for, where that can be told. */
const ofMeant = (issues: ReadonlyArray<ParseResult.ParseIssue>): ReadonlyArray<ParseResult.ParseIssue> => {
  const below = issues.filter((one) => wrongBelow(one) > 0)
  const least = Math.min(...below.map(wrongBelow))
  if (below.length > 0) return below.filter((one) => wrongBelow(one) === least)
  const refused = issues.filter((one) => typeof one.actual === "object" && isRefused(one))
  return refused.length > 0 ? refused : issues
}

/** An issue without what members of unions say that the value was not meant for. */
const meantIn = (issue: ParseResult.ParseIssue): ParseResult.ParseIssue => {
  switch (issue._tag) {
    case "Pointer":
      return new ParseResult.Pointer(issue.path, issue.actual, meantIn(issue.issue))
    case "Refinement":
      return new ParseResult.Refinement(issue.ast, issue.actual, issue.kind, meantIn(issue.issue))
    case "Transformation":
      return new ParseResult.Transformation(issue.ast, issue.actual, issue.kind, meantIn(issue.issue))
    case "Composite": {
      const all = among(issue.issues)
      const [first, ...more] = (AST.isUnion(issue.ast) ? ofMeant(all) : all).map(meantIn)
      return new ParseResult.Composite(issue.ast, issue.actual, [first!, ...more], issue.output)
    }
    default:
      return issue
  }
}

/** A type as people call it: the schema of a whole configuration is no help to whoever gave something else. */
const plainType = (type: string): ReadonlyArray<string> =>
  /^(ReadonlyArray<|readonly \[)/.test(type)
    ? ["a list"]
    : /^\(?(Struct \(|\{)/.test(type)
    ? ["an object"]
    : /^"[^"]*"( \| "[^"]*")+$/.test(type)
    ? type.split(" | ")
    : [type]

const problems = (ast: AST.AST, error: ParseResult.ParseError): ReadonlyArray<string> => {
  const byPath = new Map<string, Array<ParseResult.ArrayFormatterIssue>>()
  for (const issue of ParseResult.ArrayFormatter.formatIssueSync(meantIn(error.issue))) {
    const key = issue.path.map(String).join(".")
    byPath.set(key, [...(byPath.get(key) ?? []), issue])
  }
  return Array.from(byPath).flatMap(([key, issues]) => {
    const { _tag, path } = issues[0]!
    const label = key === "" ? "" : `${key}: `
    // "Expected undefined" only says that the field could be left out: no advice for whoever has set it.
    const telling = issues.filter(({ message }) => !message.startsWith("Expected undefined, "))
    if (telling.length === 0) return []
    if (_tag === "Missing") return `${label}${telling[0]!.message}`
    if (_tag === "Unexpected") {
      const known = keysAt(ast, path.slice(0, -1), error.issue.actual)
      const given = String(path.at(-1))
      const meant = meantKey(given, known, () => pathsBelow(AST.encodedAST(ast), DEPTH))
      // it may be a key elsewhere, by the same name
      const hint = meant === undefined || meant === given || meant === key
        ? `${meant === undefined ? "" : " here"}; known: ${known.join(", ")}`
        : `. Did you mean ${meant}?`
      return `${label}is not a known key${hint}`
    }
    // A union reports one issue per member: join "Expected A, actual X" and "Expected B, actual X" to one line.
    const parts = telling.map(({ message }) => /^Expected (.*), actual (.*)$/s.exec(message))
    if (parts.some((part) => part === null)) return `${label}${telling.map(({ message }) => message).join("; ")}`
    const expected = [...new Set(parts.flatMap((part) => plainType(part![1]!)))]
    // a choice among words: the one that was probably meant
    const got = /^"(.*)"$/s.exec(parts[0]![2]!)?.[1]
    const words = expected.flatMap((text) => [...text.matchAll(/"([^"]*)"/g)].map((match) => match[1]!))
    const meant = got === undefined ? undefined : nearest(got, words)
    return `${label}expected ${alternatives(expected)}, got ${parts[0]![2]}` +
      (meant === undefined ? "" : `. Did you mean ${JSON.stringify(meant)}?`)
  })
}

/**
 * A value as a schema decodes it, or its problems, a line each. Keys that the schema does not know are one too, unless
 * they are to be ignored.
 */
export const decodeWith = <A, I>(
  schema: Schema.Schema<A, I>,
  input: unknown,
  onExcessProperty: "error" | "ignore" = "error"
): Either.Either<A, ReadonlyArray<string>> =>
  Either.mapLeft(
    Schema.decodeUnknownEither(schema, { errors: "all", onExcessProperty })(input),
    (error) => problems(schema.ast, error)
  )

const decode = <A, I>(schema: Schema.Schema<A, I>, input: unknown): Either.Either<A, DataError> => {
  const decoded = decodeWith(schema, input)
  if (Either.isRight(decoded)) return Either.right(decoded.right)
  const lines = decoded.left
  const title = `the configuration has ${lines.length === 1 ? "a problem" : `${lines.length} problems`}`
  return Either.left(new DataError({ detail: [`${title}:`, ...lines.map((line) => `  ${line}`)].join("\n") }))
}

/**
 * Decodes a configuration. Fails with one `DataError` that lists every problem, a line each: unknown keys (with the
 * known key that was probably meant), missing ones, and values out of range.
 */
export const decodeConfig = <A, I>(schema: Schema.Schema<A, I>, input: unknown): Effect.Effect<A, DataError> =>
  Effect.suspend(() => decode(schema, input))

type AnyClass = Schema.Class<any, any, any, any, any, any, any>

/** A class of a configuration whose constructor takes plain objects, however deep, and fills in what is left out. */
type Configuration<C extends AnyClass> =
  & C
  & (new(
    ...given: {} extends Schema.Schema.Encoded<C> ? [fields?: Schema.Schema.Encoded<C>, options?: Schema.MakeOptions]
      : [fields: Schema.Schema.Encoded<C>, options?: Schema.MakeOptions]
  ) => InstanceType<C>)

/**
 * Makes `new` of a schema's class decode, as `decodeConfig` does: nested configurations may be plain objects, unknown
 * fields are refused with the nearest name. It throws a `DataError` that says in one message all that is wrong.
 */
export const configuration = <C extends AnyClass>(Base: C): Configuration<C> =>
  class extends (Base as new(...args: ReadonlyArray<any>) => object) {
    constructor(fields: unknown, options?: Schema.MakeOptions) {
      const unchecked = options === true || (typeof options === "object" && options.disableValidation === true)
      super(
        unchecked
          ? fields
          : Either.getOrThrowWith(
            decode(new.target as unknown as Schema.Schema<object>, fields === undefined ? {} : fields),
            (e) => e
          ),
        true
      )
    }
  } as unknown as Configuration<C>

/**
 * What was given as a configuration, decoded where it is a plain object. Fails with a `DataError` that says what was
 * expected where it is neither: JavaScript does not look at types.
 */
export const configured = <A, I>(
  schema: Schema.Schema<A, I> & (new(...args: ReadonlyArray<never>) => A),
  given: unknown,
  expected: string
): Effect.Effect<A, DataError> =>
  given instanceof schema
    ? Effect.succeed(given)
    : typeof given !== "object" || given === null
    ? Effect.fail(new DataError({ detail: `${expected}, got ${given === null ? "null" : typeof given}` }))
    : decodeConfig(schema, given)

/**
 * Looks at the options of a function, which JavaScript may give as anything. Fails with a `DataError` that names those of a
 * wrong type, and those that there are not, with the nearest name.
 */
export const expectOptions = <A, I>(schema: Schema.Schema<A, I>, given: unknown,
  of: string): Effect.Effect<void, DataError> =>
  Effect.suspend(() => {
    const decoded = decodeWith(schema, given)
    return Either.isRight(decoded)
      ? Effect.void
      : Effect.fail(new DataError({ detail: [`${of} cannot use its options:`, ...decoded.left].join("\n  ") }))
  })

/** A function among options. */
export const aFunction = Schema.declare((value: unknown): value is (...args: ReadonlyArray<never>) => unknown =>
  typeof value === "function"
).annotations({ identifier: "function", description: "a function" })

/** A field that may be left out, and what it is then. */
export const withDefault = <A, I>(schema: Schema.Schema<A, I>, value: NoInfer<A> | (() => NoInfer<A>)) =>
  Schema.optionalWith(schema, { default: typeof value === "function" ? value as () => NoInfer<A> : () => value })

/** The most of anything that is counted: indices of kernels, and of typed arrays, have 32 bits. */
export const MOST = 2 ** 31 - 1

/** A whole number from 1 on. */
export const positive = Schema.Int.pipe(Schema.positive(), Schema.lessThanOrEqualTo(MOST))

/** A whole number from 0 on. */
export const natural = Schema.Int.pipe(Schema.nonNegative(), Schema.lessThanOrEqualTo(MOST))

/** What draws at random are made from: a whole number from 0 on. */
export const seed = Schema.Int.pipe(Schema.nonNegative())

/** Seeds of an experiment at most: each is a training, and is planned before the first begins. */
export const MOST_SEEDS = 1000

/** A whole number from 1 up to what its field can bear. */
export const upTo = (most: number) => Schema.Int.pipe(Schema.positive(), Schema.lessThanOrEqualTo(most))

/** A number from 0 on that is no infinity, and stays one when it is summed. */
export const atLeast0 = Schema.Number.pipe(Schema.nonNegative(), Schema.lessThanOrEqualTo(1e30))

/** A share, 0 to 1. */
export const fraction = Schema.Number.pipe(Schema.between(0, 1))

/** A rate or a factor that 32 bits of a float can hold, and its inverse too. */
export const rate = Schema.Number.pipe(Schema.positive(), Schema.between(1e-30, 1e30))

/** The first of some that comes a second time. */
export const twice = <A>(some: ReadonlyArray<A>): A | undefined => some.find((one, i) => some.indexOf(one) !== i)
