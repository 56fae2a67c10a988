/** Help texts as people read them: @effect/cli's, without escapes and without what goes without saying. */
import { stripAnsi } from "../Terminal.ts"

const noise = new RegExp(
  "^(A true or false value|A user-defined piece of text|An integer|One of the following: .*|This setting is optional|" +
    "This argument may be repeated zero or more times)\\.?$"
)

/** `$ pretrain [--data path] ... <key=value>...` with the program before it and the options summed up. */
const usage = (line: string): string => {
  const name = line.split(" ")[1]
  if (name === "memsinks") return "$ memsinks <command> [options]"
  return `$ memsinks ${name} [options]${line.includes("<key=value>") ? " [key=value]..." : ""}`
}

/** A text printed by @effect/cli, tidied if it is a help text. */
export const tidy = (text: string): string => {
  const plain = stripAnsi(text).replace(/ +$/gm, "").trim()
  if (!plain.includes("\nUSAGE\n")) return plain
  const lines = plain.split("\n").slice(2).flatMap((line) => {
    if (noise.test(line.trim())) return []
    if (line.startsWith("$ ")) return [usage(line)]
    // name, synopsis and description of a command: the synopsis stands in its own help
    const command = /^ {2}- (\S+).*? {2,}(\S.*)$/.exec(line)
    return [command === null ? line : `  ${command[1].padEnd(10)}${command[2]}`]
  })
  return lines
    // what is indented belongs to the line above
    .filter((line, i) => line !== "" || !/^( |$)/.test(lines[i + 1] ?? ""))
    .join("\n")
}
