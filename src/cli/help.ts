/** Help texts as people read them: @effect/cli's in two columns, without escapes and what goes without saying. */
import { stripAnsi, wrap } from "../Terminal.ts"

const noise = new RegExp(
  "^(A true or false value|A user-defined piece of text|An integer|A floating point number|One of the following: .*|" +
    "This setting is optional|This argument may be repeated zero or more times|" +
    "This option may be repeated zero or more times)\\.?$"
)

/** Options that every command has; one line tells of all of them. */
const everywhere = /^(--completions|--log-level|--wizard|--version|\(-h, --help\))/

const width = 100

interface Entry {
  readonly name: string
  readonly text: string
}

/** `$ pretrain [--data path] ... <key=value>...` with the program before it and the options summed up. */
const usage = (line: string): string => {
  const name = line.split(" ")[1]!
  if (name === "memsinks") return "memsinks <command> [options]"
  // what may be chosen among stands behind the name
  const positional = line.replace(/[([]?--?[^\])]*[\])]?/g, "").matchAll(/(\[?)<([^>]+)>(\.\.\.)?/g)
  const shown = Array.from(positional,
    ([, optional, name, many = ""]) =>
      optional === "[" ? `[${name}${many}]` : many === "" ? `<${name}>` : `[${name}]${many}`)
  return ["memsinks", name, "[options]", ...shown].join(" ")
}

/** `--preset tiny | smol-135m` and its text, with long lists of what it may be moved to the text. */
const entry = (line: string, text: ReadonlyArray<string>): Entry => {
  const name = line.replace(/^\((.*?)\)/, "$1").replace(/^\[?<([^>]+)>(\.\.\.)?\]?$/, "$1$2")
  const [, flag, choices] = /^(--\S+) (.* \| .*)$/.exec(name) ?? []
  const told = text.filter((one) => !noise.test(one)).join(" ")
  return choices === undefined || choices.length <= 24
    ? { name: name.replaceAll(" | ", "|"), text: told }
    : { name: `${flag} name`, text: `${told}: ${choices.replaceAll(" | ", ", ")}` }
}

const entriesOf = (lines: ReadonlyArray<string>): ReadonlyArray<Entry> => {
  const entries: Array<Entry> = []
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!
    // name, synopsis and description of a command: the synopsis stands in its own help
    const command = /^ {2}- (\S+).*? {2,}(\S.*)$/.exec(line)
    if (command !== null) entries.push({ name: command[1]!, text: command[2]! })
    if (line.trim() === "" || line.startsWith(" ")) continue
    let end = i + 1
    while (end < lines.length && (lines[end] === "" || lines[end]!.startsWith(" "))) end++
    if (!everywhere.test(line)) {
      entries.push(entry(line, lines.slice(i + 1, end).map((one) => one.trim()).filter((one) => one !== "")))
    }
  }
  return entries
}

const columns = (entries: ReadonlyArray<Entry>): ReadonlyArray<string> => {
  const indent = Math.max(...entries.map(({ name }) => name.length)) + 4
  return entries.flatMap(({ name, text }) => {
    const [first = "", ...more] = wrap([[text]], width - indent, (_, plain) => plain)
    return [`  ${name}`.padEnd(indent) + first, ...more.map((line) => " ".repeat(indent) + line)]
  })
}

/** A text printed by @effect/cli; a help text in a form that fits a screen. */
export const tidy = (text: string): string => {
  const plain = stripAnsi(text).replace(/ +$/gm, "").trim()
  if (!plain.includes("\nUSAGE\n")) return plain
  const lines = plain.split("\n")
  const section = (name: string): ReadonlyArray<string> => {
    const from = lines.indexOf(name)
    if (from < 0) return []
    const to = lines.findIndex((line, i) => i > from && /^[A-Z]+$/.test(line))
    return lines.slice(from + 1, to < 0 ? undefined : to)
  }
  const block = (title: string, entries: ReadonlyArray<Entry>) =>
    entries.length === 0 ? [] : ["", `${title}:`, ...columns(entries)]
  const commands = entriesOf(section("COMMANDS"))
  return [
    section("DESCRIPTION").join(" ").trim(),
    "",
    `usage: ${usage(section("USAGE").find((line) => line.startsWith("$ "))!)}`,
    ...block("arguments", entriesOf(section("ARGUMENTS"))),
    ...block("options", entriesOf(section("OPTIONS"))),
    ...block("commands", commands),
    "",
    ...(commands.length === 0
      ? ["memsinks --help tells of the options that every command has."]
      : [
        "Every command takes --help (-h) and --log-level all|debug|info|warning|error|none.",
        "memsinks --version prints the version; --completions bash|zsh|fish|sh a script that completes commands",
        "and options, e.g. memsinks --completions bash > ~/.local/share/bash-completion/completions/memsinks"
      ])
  ].join("\n")
}
