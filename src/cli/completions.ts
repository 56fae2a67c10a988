/** Scripts that complete commands, options and their values in a shell, from the declarations of the commands. */
import type * as Command from "@effect/cli/Command"
import * as Effect from "effect/Effect"
import { argumentsOf, describedOf, everywhere, nameOf, optionsOf, type OptionSpec, type shells } from "./arguments.ts"
import type { CompletionsOptions } from "./commands/completions.ts"
import * as Edge from "./Edge.ts"

type AnyCommand = Command.Command<any, any, any, any>

/** What the value of an option, or an argument, is completed by. */
type Values = { readonly words: ReadonlyArray<string> } | "files" | "none"

const valuesOf = (choices: ReadonlyArray<string>, value: string): Values =>
  choices.length > 0 ? { words: choices } : /file|folder|path|run$/.test(value) ? "files" : "none"

interface Described {
  readonly names: ReadonlyArray<string>
  readonly text: string
  readonly flag: boolean
  readonly repeated: boolean
  readonly value: string
  readonly values: Values
}

interface Known {
  readonly name: string
  readonly text: string
  readonly options: ReadonlyArray<Described>
  readonly positional: ReadonlyArray<
    { readonly name: string; readonly repeated: boolean; readonly values: Values }
  >
}

const described = ({ choices, description, kind, names, repeated, value }: OptionSpec): Described => ({
  names,
  text: description,
  flag: kind === "flag",
  repeated,
  value,
  values: valuesOf(choices, value)
})

const shared = everywhere.filter(({ names: [name] }) => name !== "--wizard" && name !== "--completions").map(described)

const known = (command: AnyCommand): Known => ({
  name: nameOf(command),
  text: describedOf(command).summary,
  options: [...optionsOf(command).map(described), ...shared],
  positional: argumentsOf(command).map(({ choices, name, repeated }) => ({
    name,
    repeated,
    values: valuesOf(choices, name)
  }))
})

const longOf = (options: ReadonlyArray<Described>) =>
  options.flatMap(({ names }) => names.filter((name) => name.startsWith("--"))).join(" ")

/** A case of bash for the options whose values are completed alike. */
const bashValues = (options: ReadonlyArray<Described>): ReadonlyArray<string> => {
  const by = new Map<string, Array<string>>()
  for (const { flag, names, values } of options) {
    if (flag) continue
    const then = values === "files" ? "files=1" : values === "none" ? "return" : `values='${values.words.join(" ")}'`
    by.set(then, [...by.get(then) ?? [], ...names])
  }
  return [...by].map(([then, names]) => `        ${names.join("|")}) ${then} ;;`)
}

const bash = (commands: ReadonlyArray<Known>): string =>
  `# completions of memsinks for bash
_memsinks() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command= options= values= files= i
  # bash takes --name=value for three words
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      --) [[ $command != launch ]] || command= ;;
      --log-level) [[ -n $command ]] || ((i++)) ;;
      -*) ;;
      *) [[ -n $command ]] || command=\${COMP_WORDS[i]} ;;
    esac
  done
  COMPREPLY=()
  case $command in
    '')
      options='${longOf(shared)}'
      values='${commands.map(({ name }) => name).join(" ")}'
      case $prev in
${bashValues(shared).join("\n")}
      esac
      ;;
${
    commands.map(({ name, options, positional: [first] }) =>
      `    ${name})
      options='${longOf(options)}'
${
        first === undefined || first.values === "none"
          ? ""
          : first.values === "files"
          ? "      files=1\n"
          : `      values='${first.values.words.join(" ")}'\n`
      }      case $prev in
${bashValues(options).join("\n")}
      esac
      ;;`
    ).join("\n")
  }
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
  elif [[ -n $values ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$cur"))
  elif [[ -n $files ]]; then
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$cur"))
  elif [[ -z $cur ]]; then
    COMPREPLY=($(compgen -W "$options"))
  fi
}
complete -F _memsinks memsinks`

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/** Text in brackets of zsh's _arguments. */
const bracketed = (text: string): string => text.replace(/[[\]\\]/g, "\\$&")

const zshValues = (value: string, values: Values): string =>
  `:${value.replace(/[:[\]\\]/g, "\\$&")}:` +
  (values === "files" ? "_files" : values === "none" ? " " : `(${values.words.join(" ")})`)

const zshOption = ({ flag, names, repeated, text, value, values }: Described): string => {
  const rest = `[${bracketed(text)}]${flag ? "" : zshValues(value, values)}`
  return names.map((name) =>
    quoted(
      (repeated ? "*" : names.length > 1 ? `(${names.join(" ")})` : "") +
        name + (flag || !name.startsWith("--") ? "" : "=") + rest
    )
  ).join(" ")
}

const zsh = (commands: ReadonlyArray<Known>): string =>
  `#compdef memsinks
# completions of memsinks for zsh
_memsinks() {
  local curcontext=$curcontext state line
  local -a commands
  commands=(
${commands.map(({ name, text }) => `    ${quoted(`${name}:${text.replaceAll(":", "\\:")}`)}`).join("\n")}
  )
  _arguments -C ${shared.map(zshOption).join(" ")} '1: :->command' '*:: :->rest'
  case $state in
    command) _describe -t commands command commands ;;
    rest)
      case $words[1] in
${
    commands.map(({ name, options, positional }) =>
      `        ${name})\n          _arguments -S \\\n${
        [
          ...options.map(zshOption),
          ...positional.map(({ name, repeated, values }, i) =>
            name === "command" && repeated
              ? quoted("*::command:_memsinks_behind")
              : quoted(`${repeated ? "*" : i + 1}${zshValues(name, values)}`)
          )
        ].map((line) => `            ${line}`).join(" \\\n")
      }\n          ;;`
    ).join("\n")
  }
      esac
      ;;
  esac
}
# what every rank of launch runs
_memsinks_behind() {
  words=(memsinks $words)
  ((CURRENT++))
  _memsinks
}
if [[ \${funcstack[1]} == _memsinks ]]; then _memsinks "$@"; else compdef _memsinks memsinks; fi`

const fishQuoted = (text: string): string => `'${text.replace(/['\\]/g, "\\$&")}'`

const fishOption = (when: string, { flag, names, text, values }: Described): string =>
  [
    `complete -c memsinks -n ${fishQuoted(when)}`,
    ...names.map((name) => name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`),
    ...(flag
      ? []
      : [values === "files" ? "-r -F" : values === "none" ? "-x" : `-x -a ${fishQuoted(values.words.join(" "))}`]),
    `-d ${fishQuoted(text)}`
  ].join(" ")

const fish = (commands: ReadonlyArray<Known>): string =>
  [
    "# completions of memsinks for fish",
    "complete -c memsinks -f",
    ...shared.map((option) => fishOption("__fish_use_subcommand", option)),
    ...commands.flatMap(({ name, options, positional, text }) => {
      const seen = `__fish_seen_subcommand_from ${name}`
      return [
        `complete -c memsinks -n __fish_use_subcommand -a ${name} -d ${fishQuoted(text)}`,
        ...options.map((option) => fishOption(seen, option)),
        ...positional.flatMap(({ values }) =>
          values === "none"
            ? []
            : [
              `complete -c memsinks -n ${fishQuoted(seen)} ${
                values === "files" ? "-F" : `-a ${fishQuoted(values.words.join(" "))}`
              }`
            ]
        )
      ]
    })
  ].join("\n")

const writers = { bash, zsh, fish }

/** The script of a shell. */
export const completionsOf = (shell: typeof shells[number], commands: ReadonlyArray<AnyCommand>): string =>
  writers[shell](commands.map(known))

/** Prints the script of a shell. */
export const runCompletions = ({ shell }: CompletionsOptions): Effect.Effect<void> =>
  Effect.flatMap(
    // which loads this file
    Effect.promise(() => import("./commands.ts")),
    ({ commands }) => Edge.print(completionsOf(shell, commands))
  )
