/** Manual pages: what help tells, as roff; npm puts them where `man` finds them when the package is installed globally. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { everywhere } from "./arguments.ts"
import { commands } from "./commands.ts"
import { version } from "./Edge.ts"
import { type Entry, everyCommand, helpOf, SUMMARY } from "./help.ts"

/** Text as roff takes it: nothing in it is a request. */
const roff = (text: string): string =>
  text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll("'", "\\(aq").replace(/^\./gm, "\\&.")
    .replace(/[^\x00-\x7f]/gu, (one) => `\\[u${one.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}]`)

const section = (title: string, lines: ReadonlyArray<string>): ReadonlyArray<string> =>
  lines.length === 0 ? [] : [`.SH ${title}`, ...lines]

const listed = (entries: ReadonlyArray<Entry>): ReadonlyArray<string> =>
  entries.flatMap(({ name, text }) => [".TP", `.B ${roff(name)}`, roff(text)])

const head = (name: string, summary: string): ReadonlyArray<string> => [
  `.TH ${roff(name.toUpperCase())} 1 "" "memsinks ${version}" "memsinks"`,
  // flush left, and no word is cut
  ".nh",
  ".ad l",
  // flush left, no word is cut
  ".nh",
  ".ad l",
  ".SH NAME",
  `${roff(name)} \\- ${roff(summary)}`
]

const foot = (seeAlso: ReadonlyArray<string>): ReadonlyArray<string> => [
  ...section("EXIT STATUS", [
    "0; 1 for a failure, 2 for wrong usage, 128 and the signal's number when one ended it (130: Ctrl\\-C)."
  ]),
  ...section("SEE ALSO", [seeAlso.map((name) => `.BR ${roff(name)} (1)`).join(" ,\n")])
]

const shared: ReadonlyArray<Entry> = everywhere.map(({ choices, description, names }) => ({
  name: `${names.toReversed().join(", ")}${choices.length === 0 ? "" : ` ${choices.join("|")}`}`,
  text: description
}))

const pageOf = (command: typeof commands[number]): readonly [string, string] => {
  const { arguments: positional, examples, name, options, summary, usage, usual } = helpOf(command)
  const lines = [
    ...head(`memsinks-${name}`, summary),
    ...section("SYNOPSIS", [`.B ${roff(usage)}`]),
    ...section("ARGUMENTS", listed(positional)),
    ...section("OPTIONS", [...listed(options), ...listed(usual), ...listed(shared)]),
    ...section("EXAMPLES", [".nf", ...examples.map(roff), ".fi"]),
    ...foot(["memsinks"])
  ]
  return [`memsinks-${name}.1`, `${lines.join("\n")}\n`]
}

/** The pages by their file names: one of the program, one of each command. */
export const manPages = (): ReadonlyMap<string, string> => {
  const helps = commands.map(helpOf)
  const lines = [
    ...head("memsinks", SUMMARY),
    ...section("SYNOPSIS", [".B memsinks", ".I command", "[options]"]),
    ...section("DESCRIPTION", [roff(everyCommand)]),
    ...section("COMMANDS", listed(helps.map(({ name, summary }) => ({ name, text: summary })))),
    ...section("OPTIONS", listed(shared)),
    ...foot(helps.map(({ name }) => `memsinks-${name}`))
  ]
  return new Map([["memsinks.1", `${lines.join("\n")}\n`], ...commands.map(pageOf)])
}

/** Writes the pages into a folder. */
export const writeManPages = (folder: string): void => {
  mkdirSync(folder, { recursive: true })
  for (const [name, page] of manPages()) writeFileSync(join(folder, name), page)
}
