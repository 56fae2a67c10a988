/** Help texts, as values that the terminal and the manual pages show: all from the declarations of the commands. */
import type * as Command from "@effect/cli/Command"
import process from "node:process"
import { widthOf, wrap } from "../Terminal.ts"
import { argumentsOf, type ArgumentSpec, describedOf, nameOf, optionsOf, type OptionSpec,
  specsOf } from "./arguments.ts"
import { adapter, json, quiet, telling } from "./commands/options.ts"

type AnyCommand = Command.Command<any, any, any, any>

/** What is told of an option or an argument: its name with its value, and what it does. */
export interface Entry {
  readonly name: string
  readonly text: string
}

/** What is told of a command. */
export interface Help {
  readonly name: string
  readonly summary: string
  /** `memsinks inspect [options] <path>` */
  readonly usage: string
  readonly arguments: ReadonlyArray<Entry>
  readonly options: ReadonlyArray<Entry>
  /** Options of most commands, which memsinks --help tells of. */
  readonly usual: ReadonlyArray<Entry>
  readonly examples: ReadonlyArray<string>
}

/** What takes most room beside a name. */
const CHOICES = 24

/** A text that names what may be chosen. */
const listed = (text: string, choices: ReadonlyArray<string>): string =>
  choices.every((choice) => text.includes(choice)) ? text : `${text}: ${choices.join(", ")}`

/** `--preset tiny|smol-135m` and its text, with long lists of what it may be moved to the text. */
const entryOf = (spec: OptionSpec): Entry => {
  const { choices, description, kind, names, repeated, value } = spec
  const [long, ...others] = names
  const name = [...others.filter((one) => one.length === 2), long, ...others.filter((one) => one.length > 2)].join(", ")
  const many = repeated ? "..." : ""
  if (kind === "flag") return { name, text: description }
  const among = choices.join("|")
  if (kind !== "choice") return { name: `${name} ${value}${many}`, text: description }
  return among.length <= CHOICES
    ? { name: `${name} ${among}${many}`, text: description }
    : { name: `${name} name${many}`, text: listed(description, choices) }
}

const argumentEntry = ({ choices, description, name, repeated }: ArgumentSpec): Entry => ({
  name: `${name}${repeated ? "..." : ""}`,
  text: listed(description, choices)
})

const keyOf = ({ description, names }: OptionSpec): string => JSON.stringify([names, description])

/** Options that most commands have, as they have them: what differs is told where it does. */
const usual = new Set([...Object.values(telling), adapter, json, quiet].flatMap((one) => specsOf(one)).map(keyOf))

/** What is told of a command. */
export const helpOf = (command: AnyCommand): Help => {
  const { examples, summary } = describedOf(command)
  const [positional, options] = [argumentsOf(command), optionsOf(command)]
  const isUsual = (spec: OptionSpec) => usual.has(keyOf(spec))
  return {
    name: nameOf(command),
    summary,
    usage: [
      "memsinks",
      nameOf(command),
      "[options]",
      ...positional.map(({ name, optional, repeated }) =>
        repeated ? `[${name}]...` : optional ? `[${name}]` : `<${name}>`
      )
    ].join(" "),
    arguments: positional.map(argumentEntry),
    options: options.filter((spec) => !isUsual(spec)).map(entryOf),
    usual: options.filter(isUsual).map(entryOf),
    examples
  }
}

/** Columns that a help text fills: a terminal's, and no more than are read with ease. */
const widthNow = (): number => widthOf(process.stdout.columns, 100, 100)

const inColumns = (entries: ReadonlyArray<Entry>, width: number): ReadonlyArray<string> => {
  const indent = Math.max(...entries.map(({ name }) => name.length)) + 4
  return entries.flatMap(({ name, text }) => {
    const [first = "", ...more] = wrap([[text]], width - indent, (_, plain) => plain)
    return [`  ${name}`.padEnd(indent) + first, ...more.map((line) => " ".repeat(indent) + line)]
  })
}

/** The options that most commands have, for the line that stands for them. */
const usualLine = (entries: ReadonlyArray<Entry>): string =>
  [...entries.map(({ name }) => name), "-h, --help"].map((name) => name.replace(/^(-\w), (.*)$/, "$2 ($1)")).join(", ")

/** The help text of a command. */
export const commandHelp = (command: AnyCommand, width = widthNow()): string => {
  const help = helpOf(command)
  const block = (title: string, lines: ReadonlyArray<string>) => lines.length === 0 ? [] : ["", `${title}:`, ...lines]
  return [
    ...wrap([[help.summary]], width, (_, plain) => plain),
    "",
    `usage: ${help.usage}`,
    ...block("arguments", help.arguments.length === 0 ? [] : inColumns(help.arguments, width)),
    ...block("options", help.options.length === 0 ? [] : inColumns(help.options, width)),
    ...block("examples", help.examples.map((line) => `  ${line}`)),
    "",
    ...wrap([[`also ${usualLine(help.usual)}: see memsinks --help`]], width, (_, plain) => plain)
  ].join("\n")
}

/** What stands below the list of commands. */
export const everyCommand = [
  "All take --help (-h), with examples, and --log-level; most --json, --quiet (-q), --verbose (-v) and --adapter name: auto,",
  "hardware, software, swiftshader, null, or part of one's name."
].join(" ")

export const SUMMARY = "Language models that can forget by design"

/** The help text of all commands. */
export const programHelp = (commands: ReadonlyArray<AnyCommand>, width = widthNow()): string => {
  const entries = commands.map(helpOf).map(({ name, summary }) => ({ name, text: summary }))
  return [
    SUMMARY,
    "",
    "usage: memsinks <command> [options]",
    "",
    "commands:",
    ...inColumns(entries, width),
    "",
    ...wrap([[everyCommand]], width, (_, plain) => plain)
  ].join("\n")
}
