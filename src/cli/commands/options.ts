/** Options that several commands have. */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as ValidationError from "@effect/cli/ValidationError"
import * as Effect from "effect/Effect"
import { MOST } from "../../Config.ts"
import { presets } from "../../model/ModelConfig.ts"

/** An option that counts something: a whole number of at least 1, or another least, and at most of `most`. */
export const counting = (name: string, least = 1, most = MOST) =>
  Options.integer(name).pipe(Options.mapEffect((value) =>
    value >= least && value <= most
      ? Effect.succeed(value)
      : Effect.fail(ValidationError.invalidValue(HelpDoc.p(
        `--${name} must be a whole number of at least ${least}${
          value > most || most < MOST ? ` and at most ${most}` : ""
        }, got ${value}`
      )))
  ))

/** An option that is a number of a range, which `range` puts in words. */
export const within = (name: string, range: string, isWithin: (value: number) => boolean) =>
  Options.float(name).pipe(Options.mapEffect((value) =>
    isWithin(value)
      ? Effect.succeed(value)
      : Effect.fail(ValidationError.invalidValue(HelpDoc.p(`--${name} must be a number ${range}, got ${value}`)))
  ))

/** An option that is a share. */
export const share = (name: string) => within(name, "from 0 to 1", (value) => value >= 0 && value <= 1)

/** A learning rate, as the configuration has it: `Config.rate`. */
export const learningRate = (description: string) =>
  within("lr", "from 1e-30 to 1e30", (value) => value >= 1e-30 && value <= 1e30).pipe(
    Options.withPseudoName("rate"),
    Options.withDescription(description),
    Options.optional
  )

/** The same as `counting`, described, where it need not be given. */
export const number = (name: string, description: string, least = 1) =>
  counting(name, least).pipe(Options.withDescription(description), Options.optional)

/** A text that need not be given; help calls it `pseudoName`. */
export const text = (name: string, pseudoName: string, description: string) =>
  Options.text(name).pipe(Options.withPseudoName(pseudoName), Options.withDescription(description), Options.optional)

/** An option whose text says something that `read` understands; undefined: it does not. */
export const readAs = <A>(name: string, pseudoName: string, description: string, expected: string,
  read: (text: string) => A | undefined) =>
  Options.text(name).pipe(
    Options.mapEffect((text) => {
      const value = read(text)
      return value !== undefined ? Effect.succeed(value) : Effect.fail(
        ValidationError.invalidValue(HelpDoc.p(`--${name} expects ${expected}, got ${JSON.stringify(text)}`))
      )
    }),
    Options.withPseudoName(pseudoName),
    Options.withDescription(description),
    Options.optional
  )

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12
}

/** What counts at least 1 and is no more than can be counted. */
export const countable = (value: number): number | undefined =>
  value >= 1 && value <= Number.MAX_SAFE_INTEGER ? Math.floor(value) : undefined

/** `2GiB`, `80 GB`, `1.5e9`: bytes; undefined where a text says no size. */
export const parseSize = (text: string): number | undefined => {
  const [, number, unit] = /^\s*([\d.]+(?:e\d+)?)\s*([a-z]*)\s*$/i.exec(text) ?? []
  return countable(Number(number) * (UNITS[unit?.toLowerCase() ?? "?"] ?? NaN))
}

/** An option that is a number of bytes, and at most of `most`. */
export const size = (name: string, pseudoName: string, description: string, most = Infinity) =>
  readAs(name, pseudoName, description,
    most === Infinity ? "a size, e.g. 2GiB, 512MiB or 2147483648" : `a size of at most ${most} bytes, e.g. 512MB`,
    (text) => {
      const bytes = parseSize(text)
      return bytes === undefined || bytes > most ? undefined : bytes
    })

/** What a command does, in a line, and lines of a shell that show it in use. */
export const described = (summary: string, ...examples: readonly [string, ...ReadonlyArray<string>]) =>
  Command.withDescription(HelpDoc.blocks([summary, ...examples].map((text) => HelpDoc.p(text))))

/** What a command is given. */
export type OptionsOf<C> = C extends Command.Command<infer _Name, infer _R, infer _E, infer Given> ? Given : never

/** Which GPU. */
export const adapter = text("adapter", "name",
  "auto, hardware, software, swiftshader, null, or part of an adapter's name")

/** One JSON object. */
export const json = Options.boolean("json").pipe(
  Options.withDescription("Print one JSON object and nothing else on stdout")
)

/** A shape of a model. */
export const preset = Options.choice("preset", Object.keys(presets) as Array<keyof typeof presets>).pipe(
  Options.withDescription("Shape of the model"),
  Options.optional
)

/** A configuration file. */
export const config = text("config", "file", "Configuration in YAML or JSON; options and key=value go over it")

/** Where a run of a command goes, `what` it leaves there, and whether it goes on. */
export const folder = (command: string, what: string,
  resume = "Go on with the run in this folder, as for pretrain") => ({
    outDir: text("out-dir", "folder", `Where ${what} go (default: runs/${command}-<time>)`),
    resume: text("resume", "run", resume),
    force: Options.boolean("force").pipe(
      Options.withDescription("Take over a folder locked on another machine, whose run must be gone")
    )
  })

/** What experiments share between runs. */
export const store = (what: string) => text("store", "folder", `${what} share (default: store in --out-dir)`)

/** How many of something are done at once. */
export const jobs = (what: string) =>
  counting("jobs").pipe(Options.withDescription(`${what} at once, as far as memory goes`), Options.withDefault(1))

/** What is trained. */
export const arms = (description: string) => text("arms", "names", description)

/** On which device what runs long is done, and what it tells. */
export const telling = {
  adapter,
  json,
  quiet: Options.boolean("quiet").pipe(Options.withAlias("q"), Options.withDescription("No progress on stderr")),
  verbose: Options.boolean("verbose").pipe(
    Options.withAlias("v"),
    Options.withDescription("Also tell of every evaluation and checkpoint")
  )
}

/** How the training pass computes. */
export const passes = {
  precision: Options.choice("precision", ["f32", "f16"]).pipe(
    Options.withDescription("Of activations: precision"),
    Options.optional
  ),
  recompute: Options.boolean("recompute").pipe(
    Options.withDescription("Compute each block once more on the way back, for less memory: recompute")
  )
}

/** Fields of the configuration that most runs set, by short names. */
export const shape = {
  steps: number("steps", "Optimizer steps: training.steps (default: one epoch)"),
  batch: number("batch", "Rows a batch: data.batchSize"),
  seq: number("seq", "Tokens a row: data.seqLen"),
  lr: learningRate("Peak learning rate: training.optimizer.learningRate")
}

/** What a record without text is. */
export const onMissingText = Options.choice("on-missing-text", ["error", "skip"]).pipe(
  Options.withDescription("What a record is whose text is null or not there (default: error)"),
  Options.optional
)

/** `key=value` arguments. */
export const overrides = (description: string) =>
  Args.text({ name: "key=value" }).pipe(Args.withDescription(description), Args.repeated)

/** Size of an experiment. */
export const sizeOfExperiment = Options.choice("preset", ["full", "quick"] as const).pipe(
  Options.withDescription("Size of the experiment (default: full)"),
  Options.optional
)

/** How many seeds an experiment has. */
export const seedsOfExperiment = number("seeds", "How many seeds to run (default: 3)")

/** Where a trained model is. */
export const checkpoint = Options.text("checkpoint").pipe(
  Options.withPseudoName("folder"),
  Options.withDescription("Folder of a run (its latest checkpoint), a checkpoint, or a Llama")
)

/** Type of activations, f32 unless asked. */
export const precision = Options.choice("precision", ["f32", "f16"]).pipe(
  Options.withDefault("f32"),
  Options.withDescription("Of activations (default: f32)")
)

/** For what is soon done. */
export const quiet = Options.boolean("quiet").pipe(Options.withAlias("q"), Options.withDescription("Nothing on stderr"))

/** Who gives vectors of prompts. */
export const embedding = {
  embeddingsUrl: text("embeddings-url", "url", "Of a server like OpenAI's /v1/embeddings, which is sent the texts"),
  embeddingsModel: text("embeddings-model", "name", "The model that it is asked for (default: the server's own)"),
  embeddingsKeyFile: text("embeddings-key-file", "file", "Holds the key that it is given")
}

/** How the source that a prompt is most like is found. */
export const seeking = {
  router: text("router", "file", "What memsinks router made, to find the source a prompt is most like"),
  least: share("least").pipe(
    Options.withPseudoName("similarity"),
    Options.withDefault(0),
    Options.withDescription("How near a source must be to be found, from 0 to 1 (default: 0)")
  ),
  ...embedding
}

/** Who does an experiment's jobs. */
export const queue = {
  queue: text("queue", "url", "Have workers do the jobs: sqlite:FILE or postgres://..., as memsinks worker is told"),
  tries: number("tries", "With --queue: how often a job is tried whose workers die or meet a bug (default: 3)")
}
