/** What the program tells of itself: help, completions in real shells, manual pages. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { execFileSync, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { applyWords, nameOf, optionsOf, read } from "../../src/cli/arguments.ts"
import { commands } from "../../src/cli/commands.ts"
import { completionsOf } from "../../src/cli/completions.ts"
import { commandHelp, helpOf, programHelp } from "../../src/cli/help.ts"
import { manPages } from "../../src/cli/man.ts"
import { memsinksHere } from "../support/stdout.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-help-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** The words of an example, as a shell reads them, without where its output goes. */
const wordsOf = (example: string): ReadonlyArray<string> =>
  Array.from(example.replace(/ > .*$/, "").matchAll(/"([^"]*)"|(\S+)/g), ([, quoted, plain]) => quoted ?? plain!)

describe("help", () => {
  it.each(commands.map((command) => [nameOf(command), command] as const))("of %s is one screen", (name, command) => {
    const lines = commandHelp(command, 100).split("\n")
    expect(lines.length).toBeLessThanOrEqual(40)
    const at = lines.indexOf("examples:")
    expect(lines.filter((line, i) => i < at && line.length > 100)).toEqual([])
    // every option is told of, by name or in the line of those that most commands have
    for (const { names } of optionsOf(command)) expect(lines.join("\n")).toContain(names[0])
    expect(commandHelp(command, 60).split("\n").filter((line) => line.length > 60 && !line.includes("memsinks ")))
      .toEqual(
        []
      )
    expect(name).toBe(lines.find((line) => line.startsWith("usage: "))!.split(" ")[2])
  })

  it("of all is one screen", () => {
    const lines = programHelp(commands, 100).split("\n")
    expect(lines.length).toBeLessThanOrEqual(40)
    expect(lines.filter((line) => line.length > 100)).toEqual([])
    // a line each
    expect(lines.indexOf("", 6) - lines.indexOf("commands:") - 1).toBe(commands.length)
  })

  const examples = commands.flatMap((command) => helpOf(command).examples.map((line) => [line, command] as const))

  it.each(examples)("%s is a command line that is understood", async (line, command) => {
    const [program, ...words] = wordsOf(line)
    expect(program).toBe("memsinks")
    const asked = read(commands, words)
    if (asked._tag !== "Command") return expect(asked).toBe("a command")
    expect(asked.command).toBe(command)
    await Effect.runPromise(applyWords(asked.command, asked.words).pipe(Effect.provide(NodeContext.layer)))
  })

  it("has an example of every command", () => {
    expect(commands.filter((command) => helpOf(command).examples.length === 0).map(nameOf)).toEqual([])
  })
})

const there = (shell: string): boolean => spawnSync(shell, ["-c", "exit 0"]).status === 0

describe("completions", () => {
  const script = (shell: string) => join(folder, shell === "zsh" ? "_memsinks" : `memsinks.${shell}`)
  beforeAll(() => {
    for (const shell of ["bash", "zsh", "fish"] as const) {
      writeFileSync(script(shell), `${completionsOf(shell, commands)}\n`)
    }
    writeFileSync(join(folder, "two words.yaml"), "")
  })

  /** What a shell offers for the last of some words. */
  const shells: Readonly<Record<string, (words: ReadonlyArray<string>) => ReadonlyArray<string>>> = {
    bash: (words) => {
      const code = [
        `source ${script("bash")}`,
        `COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))`,
        `_memsinks`,
        `printf '%s\\n' "\${COMPREPLY[@]}"`
      ].join("\n")
      const split = words.flatMap((word) =>
        /^--.*=/.test(word) ? [word.split("=")[0]!, "=", ...word.split("=").slice(1).filter(Boolean)] : [word]
      )
      return execFileSync("bash", ["-c", code, "bash", ...split], { cwd: folder, encoding: "utf8", timeout: 10_000 })
        .trim().split("\n")
    },
    fish: (words) => {
      const code = `source ${script("fish")}; complete -C ${JSON.stringify(words.join(" "))}`
      return execFileSync("fish", ["--no-config", "-c", code], { cwd: folder, encoding: "utf8", timeout: 10_000 })
        .trim().split("\n").map((line) => line.split("\t")[0]!)
    },
    // in a terminal of its own, since only there zsh completes; what it would list stands between two marks
    zsh: (words) => {
      const code = `
zmodload zsh/zpty
zpty pty 'zsh -f -i'
zpty -w pty 'PS1=; unsetopt zle_bracketed_paste; fpath=(${folder} $fpath); autoload -Uz compinit; compinit -u -D'
zpty -w pty 'cd ${folder}; bindkey "^I" list-choices; zstyle ":completion:*" verbose no; LISTMAX=9999; echo R""EADY'
while zpty -r pty line; do [[ $line != *READY* ]] || break; done
zpty -w -n pty "$1"$'\\t'
sleep 0.5
zpty -w -n pty $'\\x15echo E""ND\\n'
while zpty -r pty line; do print -r -- "$line"; [[ $line != *END* ]] || break; done`
      return execFileSync("zsh", ["-f", "-c", code, "zsh", words.join(" ")], { encoding: "utf8", timeout: 15_000 })
        .replace(/\u001b[[\]?0-9;]*[A-Za-z]/g, " ").split(/\s{2,}|[\r\n]+/).map((word) => word.trim())
    }
  }

  for (const shell of ["bash", "zsh", "fish"]) {
    describe.skipIf(!there(shell))(shell, () => {
      it("completes commands, options, choices and files", () => {
        const offered = shells[shell]!
        expect(offered(["memsinks", "p"])).toEqual(expect.arrayContaining(["plan", "pretrain", "profile"]))
        expect(offered(["memsinks", "generate", "--s"])).toEqual(
          expect.arrayContaining(["--seed", "--sinks", "--stop"])
        )
        expect(offered(["memsinks", "generate", "--sinks", ""])).toEqual(
          expect.arrayContaining(["own", "off", "all", "placebo"])
        )
        // each takes zsh a second
        if (shell === "zsh") return
        expect(offered(["memsinks", "pretrain", "--config", "two"]).join(" ")).toMatch(/two(\\)? words\.yaml/)
        expect(offered(["memsinks", "schema", ""])).toEqual(expect.arrayContaining(["isolate", "study"]))
        expect(offered(["memsinks", "launch", "-n", "2", "--", "pretrain", "--opt"]).join(" ")).not.toContain("--seed")
      }, 20_000)
    })
  }

  it("are printed by a command, and by --completions", async () => {
    const { code, stderr, stdout } = await memsinksHere(["completions", "bash"])
    expect([code, stderr]).toEqual([0, ""])
    expect((await memsinksHere(["--completions", "sh"])).stdout).toBe(stdout)
    expect((await memsinksHere(["completions", "fis"])).stderr).toContain("Did you mean fish?")
  })
})

describe("manual pages", () => {
  const pages = manPages()

  it("are one of the program and one of each command, with all of its options and examples", () => {
    expect([...pages.keys()]).toEqual(["memsinks.1", ...commands.map((command) => `memsinks-${nameOf(command)}.1`)])
    for (const command of commands) {
      const page = pages.get(`memsinks-${nameOf(command)}.1`)!.replaceAll("\\-", "-").replaceAll("\\(aq", "'")
      for (const { names: [name] } of optionsOf(command)) expect(page).toContain(name)
      for (const example of helpOf(command).examples) expect(page).toContain(example)
    }
  })

  it.skipIf(spawnSync("groff", ["--version"]).status !== 0)("are roff without a warning", () => {
    for (const page of pages.values()) {
      const { status, stderr, stdout } = spawnSync("groff", ["-man", "-Tutf8", "-ww", "-rLL=80n"], {
        input: page,
        encoding: "utf8"
      })
      expect([status, stderr]).toEqual([0, ""])
      expect(stdout.replace(/.\u0008/g, "")).toContain("NAME")
    }
  })
})
