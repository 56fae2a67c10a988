import * as NodeContext from "@effect/platform-node/NodeContext"
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { describe, expect } from "vitest"
import { applyWords, type Asked, everywhere, nameOf, optionsOf, type OptionSpec, read,
  run } from "../../src/cli/arguments.ts"
import { commands } from "../../src/cli/commands.ts"

/** Values that an option takes, two that differ. */
const good = ({ choices, kind, names: [name], value }: OptionSpec): readonly [string, string] =>
  kind === "choice"
    ? [choices[0]!, choices.at(-1)!]
    : kind === "integer"
    ? ["7", "8"]
    : kind === "float"
    ? ["0.5", "0.25"]
    : kind === "flag"
    ? ["true", "false"]
    : value === "size" || value === "bytes"
    ? ["7000000", "8000000"]
    : [`${name.slice(2)} one`, "a=b"]

/** What must be given for a command to be one. */
const needed = (name: string, but: string): ReadonlyArray<string> => {
  const options: Readonly<Record<string, ReadonlyArray<string>>> = {
    tokenize: ["--out"],
    identity: ["--data"],
    sources: ["--checkpoint"],
    router: ["--checkpoint", "--data", "--out"],
    forget: ["--checkpoint"],
    audit: ["--before", "--after", "--data"],
    worker: ["--store", "--queue"],
    jobs: ["--queue"],
    verify: ["--key"],
    export: ["--checkpoint", "--out"],
    import: ["--from", "--out"],
    fuse: ["--out"],
    generate: ["--checkpoint"],
    serve: ["--checkpoint"],
    launch: ["--ranks"],
    memfree: ["--out"],
    evaluate: ["--checkpoint"]
  }
  return [
    ...(options[name] ?? []).filter((option) => option !== but).flatMap((
      option
    ) => [option, option === "--ranks" ? "2" : "needed"]),
    ...(name === "inspect" || name === "verify" ? ["needed"] : [])
  ]
}

const cases = commands.flatMap((command) =>
  optionsOf(command).map((spec) => [nameOf(command), spec.names[0], command, spec] as const)
)

/** The value that a command's handler gets for an option: by @effect/cli's own reading of the declaration. */
const taken = (words: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const asked = read(commands, words)
    if (asked._tag !== "Command") return yield* Effect.fail(asked)
    return (yield* applyWords(asked.command, asked.words)) as Readonly<Record<string, unknown>>
  }).pipe(Effect.provide(NodeContext.layer))

const message = (asked: Asked) => asked._tag === "Wrong" ? asked.wrong.message : asked

describe("every option of every command", () => {
  it("is walked", () => {
    expect(commands.map(nameOf)).toHaveLength(31)
    expect(cases.length).toBeGreaterThan(110)
    expect(cases.map(([command, name]) => `${command} ${name}`)).toContain("tokenize --source-field")
  })

  it.effect.each(cases)("%s %s takes a value behind it and behind =, anywhere",
    ([name, option, , spec]) =>
      Effect.gen(function*() {
        const [value] = good(spec)
        const rest = needed(name, option)
        const as = spec.kind === "flag" ? [[option]] : [[option, value]]
        const ways = [...as, [`${option}=${value}`]].flatMap((
          given
        ) => [[name, ...given, ...rest], [name, ...rest, ...given]])
        const results = yield* Effect.forEach(ways, taken)
        const told = results.map((result) =>
          JSON.stringify(result, (_, one) => Option.isOption(one) ? Option.getOrNull(one) : one as unknown)
        )
        expect(new Set(told).size).toBe(1)
        const expected = spec.kind === "integer" || spec.kind === "float" || value === "7000000"
          ? value
          : JSON.stringify(spec.kind === "flag" ? true : value)
        expect(told[0]).toContain(expected)
      }))

  it.each(cases)("%s %s says what is wrong with it, by name", (name, option, _, spec) => {
    const rest = needed(name, option)
    const [one, other] = good(spec)
    // two values are a list, or one too many
    const twice = message(
      read(commands, [name, `${option}=${one}`, `${option}=${spec.kind === "flag" ? one : other}`, ...rest])
    )
    if (spec.repeated || spec.kind === "flag") expect(twice).toMatchObject({ _tag: "Command" })
    else {expect(twice).toBe(
        `the option ${option} is given twice, as ${JSON.stringify(one)} and as ${JSON.stringify(other)}: leave one out`
      )}
    expect(read(commands, [name, `${option}=${one}`, `${option}=${one}`, ...rest])).toMatchObject({ _tag: "Command" })
    if (spec.kind === "flag") {
      expect(message(read(commands, [name, ...rest, `${option}=maybe`]))).toMatch(`${option} takes no value`)
      return
    }
    if (option !== "--resume") {
      expect(message(read(commands, [name, ...rest, option]))).toBe(`the option ${option} needs a value`)
      expect(message(read(commands, [name, ...rest, option, "--log-level", "none"])))
        .toBe(`the option ${option} needs a value; if --log-level is meant, write ${option}=--log-level`)
    }
    if (spec.kind !== "text") {
      expect(message(read(commands, [name, ...rest, option, "NaN"]))).toMatch(
        new RegExp(`^${option} expects .*, got "NaN"`)
      )
      expect(message(read(commands, [name, ...rest, `${option}=`]))).toMatch(
        new RegExp(`^${option} expects .*, got ""`)
      )
    } else if (option !== "--prompt") {
      expect(message(read(commands, [name, ...rest, option, ""]))).toBe(
        `the option ${option} needs a value, got an empty one`
      )
    }
  })

  it.effect("that is a number is refused by its name and range where it is out of it", () =>
    Effect.gen(function*() {
      const seen = new Map<string, string>()
      const tried = ["-1", "0", "0.5", "1", "2", "65536", "1e400", "NaN", "1e39"]
      for (const [name, option, , spec] of cases) {
        if (spec.kind !== "integer" && spec.kind !== "float" && spec.value !== "size" && spec.value !== "bytes") {
          continue
        }
        const results = yield* Effect.forEach(tried,
          (value) => Effect.either(taken([name, ...needed(name, option), option, value])))
        const accepted = tried.filter((_, i) => results[i]!._tag === "Right")
        for (const [i, result] of results.entries()) {
          if (result._tag === "Right") continue
          const asked = result.left as { readonly message?: string; readonly wrong?: { readonly message: string } }
          expect(asked.message ?? asked.wrong?.message, `${name} ${option} ${tried[i]}`).toMatch(
            new RegExp(`^${option} (expects|must be) (a number|a whole number|a size|tokens)`)
          )
        }
        seen.set(`${name} ${option}`, accepted.join(" "))
      }
      const whole = new Set(["0 1 2 65536", "1 2 65536", "2 65536", "0 1 2"])
      const ranges = [...seen].filter(([, range]) => !whole.has(range))
      expect(seen.size).toBeGreaterThan(60)
      expect(seen.get("serve --port")).toBe("0 1 2")
      const rate = "0.5 1 2 65536"
      expect(Object.fromEntries(ranges)).toEqual({
        "pretrain --lr": rate,
        "isolate --lr": rate,
        "dynamics --lr": rate,
        "forget --lr": rate,
        "generate --least": "0 0.5 1",
        "serve --least": "0 0.5 1",
        "generate --temperature": "0 0.5 1 2 65536",
        "generate --top-p": "0.5 1",
        "memfree --false-positives": "0.5",
        "tokenize --near": "0.5 1",
        "tokenize --shingle": "1 2"
      })
    }))

  it("does not share its name with one that every command has", () => {
    const builtIn = everywhere.flatMap(({ names }) => names)
    for (const command of commands) {
      const names = optionsOf(command).flatMap(({ names }) => names)
      expect(new Set([...names, ...builtIn]).size, nameOf(command)).toBe(names.length + builtIn.length)
    }
  })
})

describe("words of a command line", () => {
  const wrong = (...words: ReadonlyArray<string>) =>
    Effect.runPromise(
      Effect.flip(run(commands, () => Effect.die("told"), words)).pipe(Effect.provide(NodeContext.layer))
    ).then((error) => (error as Error).message)

  it.effect("are lists in their order, with empty texts, texts that look like options, and numbers below 0", () =>
    Effect.gen(function*() {
      const words = ["generate", "--checkpoint", "c", "--prompt", "", "--prompt= a ", "--top-p", "1", "--prompt", "- b"]
      expect(yield* taken([...words, "--prompt=--json"])).toMatchObject({
        prompt: ["", " a ", "- b", "--json"],
        topP: 1,
        json: false
      })
      expect(yield* taken(["tokenize", "--data=a.jsonl", "--out", "o", "--data", "b", "--data=c=d"]))
        .toMatchObject({ data: ["a.jsonl", "b", "c=d"], out: "o" })
      expect(yield* taken(["pretrain", "-qv", "--json", "false", "seeds=2"]).pipe(Effect.flip, Effect.option)).toEqual(
        Option.none()
      )
    }))

  it("may have what every command has before and behind it", () => {
    for (const words of [["--log-level", "none", "runs"], ["runs", "--log-level=none"], ["--log-level=none", "runs",
      "x"]])
    {
      expect(read(commands, words)).toMatchObject({ _tag: "Command", logLevel: { _tag: "None" } })
    }
    expect(read(commands, ["pretrain", "--seeds", "x", "-h"])).toEqual({ _tag: "Told", words: ["pretrain", "--help"] })
    expect(read(commands, ["--version"])).toEqual({ _tag: "Told", words: ["--version"] })
    expect(read(commands, ["--completions=zsh"])).toEqual({ _tag: "Told", words: ["--completions", "zsh"] })
    expect(read(commands, [])).toEqual({ _tag: "Told", words: ["--help"] })
    // what follows -- is no option
    expect(read(commands, ["runs", "--", "--help"])).toMatchObject({ words: { positional: ["--help"] } })
  })

  it("that are none say which was meant, also of the configuration", async () => {
    expect(await wrong("pretrain", "--outdir", "x")).toBe("there is no option --outdir. Did you mean --out-dir?")
    expect(await wrong("pretrain", "--learning-rate=1e-3"))
      .toBe("there is no option --learning-rate. Did you mean training.optimizer.learningRate=1e-3?")
    expect(await wrong("dynamics", "--probeevery", "4")).toBe(
      "there is no option --probeevery. Did you mean probeEvery=...?"
    )
    expect(await wrong("pretrain", "--sequence", "8")).toBe("there is no option --sequence. Did you mean --seq?")
    expect(await wrong("generate", "--check", "x")).toBe("there is no option --check. Did you mean --checkpoint?")
    expect(await wrong("pretrain", "--zzzzzzzz")).toBe("there is no option --zzzzzzzz; see memsinks pretrain --help")
    expect(await wrong("generate", "--checkpoint", "x", "--sinks", "offf"))
      .toBe("--sinks expects own, off, all or placebo, got \"offf\". Did you mean off?")
    expect(await wrong("doctor", "it")).toBe("memsinks doctor takes no \"it\"; see memsinks doctor --help")
    expect(await wrong("schema", "sweeps"))
      .toBe("memsinks schema expects pretrain, isolate, dynamics, sweep or study, got \"sweeps\". Did you mean sweep?")
    expect(await wrong("export")).toBe("--checkpoint and --out must be given")
    expect(await wrong("inspect")).toBe("the path is missing")
  })
})
