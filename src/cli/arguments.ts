/**
 * The arguments of a command, from the shell's words: @effect/cli declares options and tells of them, and this reads them.
 *
 * Options stand anywhere behind the command, those that every command has before it, too; `--name value` and
 * `--name=value` are the same for all, `--` ends options. A value is taken as it is, also where it is empty or looks
 * like a number below 0. An option that is no list and is given two values is refused: neither is lost in silence.
 */
import * as Args from "@effect/cli/Args"
import * as CliConfig from "@effect/cli/CliConfig"
import type * as Command from "@effect/cli/Command"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as ValidationError from "@effect/cli/ValidationError"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import type * as Terminal from "@effect/platform/Terminal"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import { alternatives, namedField, nearest, nearestField } from "../Config.ts"
import { stripAnsi } from "../Terminal.ts"
import { type Usage, usage } from "./Edge.ts"

type AnyCommand = Command.Command<any, any, any, any>

/** An option, as a shell's words name it. */
export interface OptionSpec {
  /** `--seeds` and its other names. */
  readonly names: readonly [string, ...ReadonlyArray<string>]
  readonly kind: "flag" | "integer" | "float" | "text" | "choice"
  /** Of a choice: what may be chosen. */
  readonly choices: ReadonlyArray<string>
  /** May be given several times. */
  readonly repeated: boolean
  /** What help calls its value. */
  readonly value: string
  readonly description: string
}

/** What stands behind a command without a name. */
export interface ArgumentSpec {
  readonly name: string
  readonly choices: ReadonlyArray<string>
  readonly repeated: boolean
  readonly optional: boolean
  readonly description: string
}

/** What @effect/cli keeps of options and commands: trees, whose leaves are `Single`. */
interface Node {
  readonly _tag: string
  readonly [field: string]: unknown
}
interface Single {
  readonly name: string
  readonly fullName: string
  readonly aliases: ReadonlyArray<string>
  readonly primitiveType: { readonly _tag: string; readonly alternatives?: ReadonlyArray<readonly [string, unknown]> }
  readonly pseudoName: Option.Option<string>
  readonly description: HelpDoc.HelpDoc
}

const isNode = (value: unknown): value is Node =>
  typeof value === "object" && value !== null && typeof (value as Partial<Node>)._tag === "string"

const kinds: Readonly<Record<string, OptionSpec["kind"]>> = {
  Bool: "flag",
  Integer: "integer",
  Float: "float",
  Text: "text",
  Choice: "choice"
}

/** The paragraphs of a description. */
const paragraphsOf = (doc: HelpDoc.HelpDoc): ReadonlyArray<string> =>
  doc._tag === "Sequence"
    ? [...paragraphsOf(doc.left), ...paragraphsOf(doc.right)]
    : doc._tag === "Paragraph" && doc.value._tag === "Text"
    ? [doc.value.value]
    : []

/** The first paragraph: what @effect/cli adds behind it goes without saying. */
const saidOf = (doc: HelpDoc.HelpDoc): string => paragraphsOf(doc)[0] ?? ""

const choicesOf = ({ primitiveType }: Single): ReadonlyArray<string> =>
  primitiveType.alternatives?.map(([name]) => name) ?? []

const specOf = (single: Single, repeated: boolean): OptionSpec => {
  const { aliases, description, fullName, primitiveType, pseudoName } = single
  const kind = kinds[primitiveType._tag]
  if (kind === undefined) throw new Error(`an option of ${primitiveType._tag} is not known here: ${fullName}`)
  return {
    names: [fullName, ...aliases.map((alias) => alias.length === 1 ? `-${alias}` : `--${alias}`)],
    kind,
    choices: choicesOf(single),
    repeated,
    value: Option.getOrElse(pseudoName, () => primitiveType._tag.toLowerCase()),
    description: saidOf(description)
  }
}

/** The options in a declaration, in their order. */
export const specsOf = (node: unknown, repeated = false): ReadonlyArray<OptionSpec> => {
  if (!isNode(node)) return []
  if (node._tag === "Single") return [specOf(node as unknown as Single, repeated)]
  const children = ["options", "left", "right", "argumentOption"].map((field) => node[field])
  return children.flatMap((child) => specsOf(child, repeated || node._tag === "Variadic"))
}

const argumentsIn = (node: unknown, repeated = false, optional = false): ReadonlyArray<ArgumentSpec> => {
  if (!isNode(node)) return []
  if (node._tag === "Single") {
    const single = node as unknown as Single
    const name = Option.getOrElse(single.pseudoName, () => single.name.replace(/^<(.*)>$/, "$1"))
    return [{ name, choices: choicesOf(single), repeated, optional, description: saidOf(single.description) }]
  }
  return ["args", "left", "right"].flatMap((field) =>
    argumentsIn(node[field], repeated || node._tag === "Variadic", optional || node._tag === "WithDefault")
  )
}

/** The tree of a command without what is done to its values, and that. */
const standardOf = (command: AnyCommand) => {
  let node = (command as { readonly descriptor: unknown }).descriptor as Node
  const maps: Array<(value: unknown) => Effect.Effect<unknown, ValidationError.ValidationError>> = []
  while (node._tag === "Map") {
    maps.unshift(node["f"] as (typeof maps)[number])
    node = node["command"] as Node
  }
  return {
    name: node["name"] as string,
    description: node["description"] as HelpDoc.HelpDoc,
    options: node["options"] as Options.Options<unknown>,
    args: node["args"] as Args.Args<unknown>,
    maps
  }
}

/** The options of a command, in their order. */
export const optionsOf = (command: AnyCommand): ReadonlyArray<OptionSpec> => specsOf(standardOf(command).options)

/** The name of a command. */
export const nameOf = (command: AnyCommand): string => standardOf(command).name

/** What stands behind a command without a name, in its order. */
export const argumentsOf = (command: AnyCommand): ReadonlyArray<ArgumentSpec> => argumentsIn(standardOf(command).args)

/** What a command does, in a line, and lines that show it in use. */
export const describedOf = (command: AnyCommand) => {
  const [summary = "", ...examples] = paragraphsOf(standardOf(command).description)
  return { summary, examples }
}

const logLevels = LogLevel.allLevels.map((level) => level._tag.toLowerCase())

const shared = (
  names: OptionSpec["names"],
  description: string,
  choices: ReadonlyArray<string> = []
): OptionSpec => ({
  names,
  kind: choices.length === 0 ? "flag" : "choice",
  choices,
  repeated: false,
  value: "name",
  description
})

/** Shells that a script of completions is written for; sh is bash. */
export const shells = ["bash", "zsh", "fish"] as const

/** What every command has, too. */
export const everywhere: ReadonlyArray<OptionSpec> = [
  shared(["--help", "-h"], "Tell what a command takes, with examples"),
  shared(["--version"], "Print the version"),
  shared(["--wizard"], "Ask for the options one by one"),
  shared(["--log-level"], "The least that is logged", logLevels),
  shared(["--completions"], "As memsinks completions", ["sh", ...shells])
]

/** Options whose value may be left out, and what it is then. */
const implied: Readonly<Record<string, string>> = { "--resume": "latest" }

/** Options whose value may be an empty text. */
const mayBeEmpty = new Set(["--prompt"])

/** `a.b=1`: a field of a configuration, and no path. */
const isField = (word: string): boolean => /^[A-Za-z_][\w.]*=/.test(word)

/** What somebody wrote that is not how the command is used. */
export interface Wrong {
  readonly _tag: "Wrong"
  readonly message: string
  /** An option that there is not: the word, and the names that there are. */
  readonly unknown?: { readonly word: string; readonly known: ReadonlyArray<string> }
}

/** The words of a command: values of options by their full names, in their order, and all else. */
export interface Words {
  readonly options: ReadonlyMap<string, ReadonlyArray<string>>
  readonly positional: ReadonlyArray<string>
}

const wrong = (message: string): Wrong => ({ _tag: "Wrong", message })

const truths: Readonly<Record<string, string>> = {
  true: "true",
  "1": "true",
  y: "true",
  yes: "true",
  on: "true",
  false: "false",
  "0": "false",
  n: "false",
  no: "false",
  off: "false"
}

/** A value as its option takes it, or what is wrong with it. */
const notAmong = (name: string, choices: ReadonlyArray<string>, text: string): string => {
  const meant = nearest(text, choices)
  return `${name} expects ${alternatives(choices)}, got ${JSON.stringify(text)}` +
    (meant === undefined ? "" : `. Did you mean ${meant}?`)
}

const valueOf = ({ choices, kind, names: [name] }: OptionSpec, text: string): string | Wrong => {
  const got = `got ${JSON.stringify(text)}`
  switch (kind) {
    case "flag":
      return truths[text.toLowerCase()] ?? wrong(`${name} takes no value, or true or false, ${got}`)
    case "integer": {
      const value = /^\s*[+-]?\d+(e\d+)?\s*$/i.test(text) ? Number(text) : NaN
      return Number.isSafeInteger(value) ? String(value) : wrong(`${name} expects a whole number, ${got}`)
    }
    case "float": {
      const value = text.trim() === "" ? NaN : Number(text)
      return Number.isFinite(value) ? String(value) : wrong(`${name} expects a number, ${got}`)
    }
    case "choice": {
      return choices.includes(text) ? text : wrong(notAmong(name, choices, text))
    }
    case "text":
      return text === "" && !mayBeEmpty.has(name) ? wrong(`the option ${name} needs a value, got an empty one`) : text
  }
}

/** `-qv` as `-q`, `-v`, where all of them are flags. */
const uncluster = (word: string, named: ReadonlyMap<string, OptionSpec>): ReadonlyArray<string> => {
  if (!/^-[A-Za-z]{2,}$/.test(word)) return [word]
  const flags = [...word.slice(1)].map((letter) => `-${letter}`)
  return flags.every((flag) => named.get(flag)?.kind === "flag") ? flags : [word]
}

/** Reads the words behind a command. */
export const readWords = (words: ReadonlyArray<string>, specs: ReadonlyArray<OptionSpec>): Words | Wrong => {
  const named = new Map([...specs, ...everywhere].flatMap((spec) => spec.names.map((name) => [name, spec] as const)))
  const options = new Map<string, Array<string>>()
  const positional: Array<string> = []
  const rest = [...words]
  while (rest.length > 0) {
    const [word, ...flags] = uncluster(rest.shift()!, named) as [string, ...Array<string>]
    rest.unshift(...flags)
    if (word === "--") {
      positional.push(...rest.splice(0))
      continue
    }
    if (!word.startsWith("-") || word === "-") {
      positional.push(word)
      continue
    }
    const at = word.startsWith("--") ? word.indexOf("=") : -1
    const name = at < 0 ? word : word.slice(0, at)
    const spec = named.get(name)
    if (spec === undefined) {
      const known = [...named.keys()].filter((one) => one.startsWith("--"))
      return { ...wrong(`there is no option ${name}`), unknown: { word, known } }
    }
    const full = spec.names[0]
    let text = at < 0 ? undefined : word.slice(at + 1)
    if (text === undefined) {
      const next = rest[0]
      const other = next !== undefined &&
        (named.has(next.split("=", 1)[0]!) || (next.startsWith("--") && next.length > 2))
      if (spec.kind === "flag") text = "true"
      else if (full in implied && (next === undefined || next.startsWith("-") || isField(next))) text = implied[full]!
      else if (next === undefined) return wrong(`the option ${name} needs a value`)
      else if (other) return wrong(`the option ${name} needs a value; if ${next} is meant, write ${name}=${next}`)
      else text = rest.shift()!
    }
    const value = valueOf(spec, text)
    if (typeof value !== "string") return value
    const before = options.get(full)
    if (before === undefined || spec.repeated) options.set(full, [...(before ?? []), value])
    else if (before[0] !== value) {
      return wrong(
        `the option ${full} is given twice, as ${JSON.stringify(before[0])} and as ${
          JSON.stringify(value)
        }: leave one out`
      )
    }
  }
  return { options, positional }
}

const saidBy = (error: ValidationError.ValidationError, name: string, positional: ReadonlyArray<string>): string => {
  const text = stripAnsi(HelpDoc.toAnsiText(error.error)).replace(/\s+/g, " ").trim()
  const missing = [...text.matchAll(/Expected to find option: '([^']+)'/g)].map(([, name]) => name!)
  if (missing.length > 0) return `${alternatives(missing, "and")} must be given`
  const argument = /^Missing argument <([^>]+)>$/.exec(text)?.[1]
  if (argument !== undefined) return `the ${argument} is missing`
  const choices = /^Expected one of the following cases: (.*)$/.exec(text)?.[1]?.split(", ")
  const other = positional.find((word) => choices?.includes(word) === false)
  return choices === undefined || other === undefined ? text : notAmong(`memsinks ${name}`, choices, other)
}

/** Gives words to a command: what it does with them, or what is wrong with them. */
export const applyWords = (command: AnyCommand, { options, positional }: Words) =>
  Effect.gen(function*() {
    const { args, maps, name, options: declared } = standardOf(command)
    const config = CliConfig.defaultConfig
    const mine = optionsOf(command).map(({ names }) => names[0])
    const given = HashMap.fromIterable(
      // options that are lists are asked for even where they are not given
      [...options].filter(([name]) => mine.includes(name))
    )
    const parsed = yield* Options.parse(declared, given, config)
    const [more, values] = yield* Args.validate(args, [...positional], config)
    if (more.length > 0) {
      return yield* Effect.fail(
        wrong(`memsinks ${name} takes no ${JSON.stringify(more[0])}; see memsinks ${name} --help`)
      )
    }
    let value: unknown = { name, options: parsed, args: values }
    for (const map of maps) value = yield* map(value)
    return value
  }).pipe(
    Effect.mapError((error) =>
      ValidationError.isValidationError(error) ? wrong(saidBy(error, nameOf(command), positional)) : error as Wrong
    )
  )

/** What is to be done, as the shell's words say it. */
export type Asked =
  /** @effect/cli tells of it: help, version, completions. */
  | { readonly _tag: "Told"; readonly words: ReadonlyArray<string> }
  | { readonly _tag: "Command"; readonly command: AnyCommand; readonly words: Words;
    readonly logLevel: LogLevel.LogLevel | undefined }
  | { readonly _tag: "Wrong"; readonly wrong: Wrong; readonly command?: string }

/** Finds the command among the words, and reads the others. */
export const read = (commands: ReadonlyArray<AnyCommand>, words: ReadonlyArray<string>): Asked => {
  // options that every command has may stand before it, with their values
  let at = 0
  while (at < words.length && words[at]!.startsWith("-")) {
    const spec = everywhere.find(({ names }) => names.includes(words[at]!))
    at += spec !== undefined && spec.kind !== "flag" ? 2 : 1
  }
  const name = words[at]
  const before = words.slice(0, at)
  const told = (read: Words, name?: string): Asked | undefined => {
    const has = (option: string) =>
      read.options.get(option)?.[0] !== undefined && read.options.get(option)![0] !== "false"
    if (has("--help")) return { _tag: "Told", words: [...(name === undefined ? [] : [name]), "--help"] }
    if (has("--version")) return { _tag: "Told", words: ["--version"] }
    if (has("--wizard")) return { _tag: "Told", words: [...(name === undefined ? [] : [name]), "--wizard"] }
    const shell = read.options.get("--completions")?.[0]
    return shell === undefined ? undefined : { _tag: "Told", words: ["--completions", shell] }
  }
  if (name === undefined) {
    const read = readWords(before, [])
    if ("_tag" in read) return { _tag: "Wrong", wrong: read }
    return told(read) ?? { _tag: "Told", words: ["--help"] }
  }
  const names = commands.map(nameOf)
  const command = commands.find((one) => nameOf(one) === name)
  if (command === undefined) {
    const meant = nearest(name, names)
    const hint = meant === undefined ? `; there are ${names.join(", ")}` : `. Did you mean ${meant}?`
    return { _tag: "Wrong", wrong: wrong(`there is no command ${name}${hint}`) }
  }
  const behind = words.slice(at + 1)
  // whoever asks for help gets it, whatever else is wrong
  const end = behind.indexOf("--")
  if ((end < 0 ? behind : behind.slice(0, end)).some((word, i) =>
    (word === "--help" || word === "-h") && !takesNext(behind[i - 1], optionsOf(command))
  )) {
    return { _tag: "Told", words: [name, "--help"] }
  }
  const readAll = readWords([...before, ...behind], optionsOf(command))
  if ("_tag" in readAll) return { _tag: "Wrong", wrong: readAll, command: name }
  const level = readAll.options.get("--log-level")?.[0]
  return told(readAll, name) ?? {
    _tag: "Command",
    command,
    words: readAll,
    logLevel: LogLevel.allLevels.find(({ _tag }) => _tag.toLowerCase() === level)
  }
}

/** Fields of the configuration that a command takes as `key=value`, by their paths. Loaded only to say what was meant. */
const fieldsOf = (command: string | undefined) =>
  command === "pretrain" || command === "plan" || command === "isolate" || command === "dynamics" ||
    command === "sweep" ||
    command === "study"
    ? Effect.map(Effect.promise(() => import("./fields.ts")), ({ fields }) => fields(command))
    : Effect.succeed([])

/** What is wrong, with what was meant: an option, or a field of the configuration. */
const explain = ({ message, unknown }: Wrong, command: string | undefined) =>
  Effect.map(unknown === undefined ? Effect.succeed([]) : fieldsOf(command), (paths) => {
    if (unknown === undefined) return message
    const [name, value] = [unknown.word.split("=", 1)[0]!, /=(.*)$/s.exec(unknown.word)?.[1]]
    const bare = name.replace(/^-+/, "")
    const field = (path: string | undefined) => path === undefined ? undefined : `${path}=${value ?? "..."}`
    // a word that goes on after an option's name, or stops before its end
    const begun = bare.length < 3
      ? undefined
      : unknown.known.find((one) => one.length > 4 && (name.startsWith(one) || one.startsWith(name)))
    const meant = field(namedField(bare, paths)) ?? begun ?? nearest(name, unknown.known) ??
      field(nearestField(bare, paths))
    return meant === undefined
      ? `${message}; see memsinks ${command === undefined ? "" : `${command} `}--help`
      : `${message}. Did you mean ${meant}?`
  })

/**
 * Runs what the words ask for: a command, or what `tell` tells of commands. Fails with Usage where the words are not
 * how the command is used.
 */
export const run = <C extends Command.Command<any, any, any, any>, E2, R2>(
  commands: ReadonlyArray<C>,
  tell: (words: ReadonlyArray<string>) => Effect.Effect<void, E2, R2>,
  words: ReadonlyArray<string>
): Effect.Effect<
  void,
  Effect.Effect.Error<ReturnType<C["handler"]>> | E2 | Usage,
  Effect.Effect.Context<ReturnType<C["handler"]>> | R2 | FileSystem.FileSystem | Path.Path | Terminal.Terminal
> =>
  Effect.gen(function*() {
    const asked = read(commands, words)
    if (asked._tag === "Told") return yield* tell(asked.words)
    if (asked._tag === "Wrong") {
      return yield* Effect.fail(usage({ message: yield* explain(asked.wrong, asked.command) }))
    }
    const command = asked.command as C
    const value = yield* Effect.mapError(applyWords(command, asked.words), usage)
    const effect = command.handler(value) as ReturnType<C["handler"]>
    return yield* asked.logLevel === undefined ? effect : Logger.withMinimumLogLevel(effect, asked.logLevel)
  })

/** Whether a word is an option that takes text from the word behind it. */
const takesNext = (word: string | undefined, specs: ReadonlyArray<OptionSpec>): boolean =>
  word !== undefined &&
  specs.some(({ kind, names }) => kind === "text" && names.includes(word) && mayBeEmpty.has(names[0]))
