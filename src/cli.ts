#!/usr/bin/env node
/**
 * memsinks on the command line: the table of contents. stdout is data, stderr is progress and what went wrong.
 * Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted (SIGINT, SIGTERM).
 */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import process from "node:process"
import * as Edge from "./cli/Edge.ts"
import { withResume } from "./cli/resume.ts"
import { identities } from "./data/Identity.ts"
import { presets } from "./ModelConfig.ts"

const adapter = Options.text("adapter").pipe(
  Options.withPseudoName("name"),
  Options.withDescription("auto, hardware, software, swiftshader, null, or part of an adapter's name"),
  Options.optional
)
const json = Options.boolean("json").pipe(
  Options.withDescription("Print one JSON object and nothing else on stdout")
)

const preset = Options.choice("preset", Object.keys(presets) as Array<keyof typeof presets>).pipe(
  Options.withDescription("Shape of the model"),
  Options.optional
)
const config = Options.text("config").pipe(
  Options.withPseudoName("file"),
  Options.withDescription("Configuration in YAML or JSON; options and key=value go over it"),
  Options.optional
)

const force = Options.boolean("force").pipe(
  Options.withDescription("Take over a folder locked on another machine, whose run must be gone")
)
const noProgress = Options.boolean("quiet").pipe(Options.withAlias("q"), Options.withDescription("No progress on stderr"))
const verbose = Options.boolean("verbose").pipe(
  Options.withAlias("v"),
  Options.withDescription("Also tell of every evaluation and checkpoint")
)
const overrides = (description: string) =>
  Args.text({ name: "key=value" }).pipe(Args.withDescription(description), Args.repeated)

const sizeOfExperiment = Options.choice("preset", ["full", "quick"] as const).pipe(
  Options.withDescription("Size of the experiment (default: full)"),
  Options.optional
)
const seedsOfExperiment = Options.integer("seeds").pipe(
  Options.withDescription("How many seeds to run (default: 3)"),
  Options.optional
)

const pretrain = Command.make("pretrain", {
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Text file, folder of .txt and .md files, or .jsonl (default: State of the Union)"),
    Options.optional
  ),
  preset,
  config,
  seeds: Options.integer("seeds").pipe(Options.withDescription("How many seeds to run (default: 1)"), Options.optional),
  seed: Options.integer("seed").pipe(Options.withDescription("The first seed (default: 1)"), Options.optional),
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where checkpoints, metrics and the report go (default: runs/pretrain-<time>)"),
    Options.optional
  ),
  resume: Options.text("resume").pipe(
    Options.withPseudoName("run"),
    Options.withDescription(
      "Go on with the run in this folder; alone: with that in --out-dir, or the latest in runs/; auto: the same, or " +
        "begin where there is none"
    ),
    Options.optional
  ),
  force,
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Print configuration, report on the data and memory plan, and train nothing")
  ),
  adapter,
  json,
  metricsPort: Options.text("metrics-port").pipe(
    Options.withPseudoName("port"),
    Options.withDescription("Serve /metrics to Prometheus, on this machine or on host:port"),
    Options.optional
  ),
  otlp: Options.text("otlp").pipe(
    Options.withPseudoName("url"),
    Options.withDescription("Send traces and metrics there, e.g. http://localhost:4318 (or OTEL_EXPORTER_OTLP_ENDPOINT)"),
    Options.optional
  ),
  quiet: noProgress,
  verbose,
  overrides: overrides("A field of the configuration, e.g. training.optimizer.learningRate=1e-3")
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/pretrain.ts")), (it) => it.pretrain(options))).pipe(
  Command.withDescription("Train a standard and a memorization-sink model; tell what switching sinks off removes")
)

const size = (name: string, description: string) =>
  Options.text(name).pipe(Options.withPseudoName("bytes"), Options.withDescription(description), Options.optional)

const plan = Command.make("plan", {
  preset,
  config,
  batch: Options.integer("batch").pipe(Options.withDescription("Rows a batch: data.batchSize"), Options.optional),
  seq: Options.integer("seq").pipe(Options.withDescription("Tokens a row: data.seqLen"), Options.optional),
  precision: Options.choice("precision", ["f32", "f16"]).pipe(
    Options.withDescription("Of activations: precision"),
    Options.optional
  ),
  recompute: Options.boolean("recompute").pipe(
    Options.withDescription("Compute each block once more on the way back, for less memory: recompute")
  ),
  limit: size("limit", "The most that one buffer may hold, e.g. 2GiB: else says what would, and exits with 1"),
  memory: size("memory", "The same for all of the run's memory, e.g. 80GiB"),
  adapter: Options.text("adapter").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Take the limit, and the choice of kernels, of this adapter: auto or as for pretrain"),
    Options.optional
  ),
  json,
  overrides: overrides("As for pretrain (model.numHiddenLayers=8), and compute, logitsBytes, maxSegments")
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/plan.ts")), (it) => it.plan(options))).pipe(
  Command.withDescription("Tell how much memory training takes, without a GPU, and what would fit a limit")
)

const doctor = Command.make(
  "doctor",
  { adapter, json },
  (options) => Effect.flatMap(Effect.promise(() => import("./cli/doctor.ts")), (it) => it.doctor(options))
).pipe(
  Command.withDescription("Tell which GPU would be used, what it can do, and whether it computes correctly")
)

const identity = Command.make("identity", {
  data: Options.text("data").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Token shards: a folder that memsinks tokenize wrote, or a .bin file")
  ),
  identity: Options.choice("identity", identities).pipe(
    Options.withDescription("Who shares sinks (default: near where it is known, else content or document)"),
    Options.optional
  ),
  preset,
  pool: Options.integer("pool").pipe(Options.withDescription("Sink neurons, over the preset's"), Options.optional),
  active: Options.integer("active").pipe(Options.withDescription("Sinks an id lights"), Options.optional),
  block: Options.integer("block").pipe(Options.withDescription("Sinks that are on as one"), Options.optional),
  seq: Options.integer("seq").pipe(Options.withDescription("Tokens a row (default: 1024)"), Options.optional),
  json
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/identity.ts")), (it) => it.identity(options))).pipe(
  Command.withDescription("Tell what repeats in token shards, and how ids would share sinks")
)

const runs = Command.make("runs", {
  folder: Args.text({ name: "folder" }).pipe(
    Args.withDescription("Where to look for runs, or one of them (default: runs)"),
    Args.optional
  ),
  json
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/runs.ts")), (it) => it.runs(options))).pipe(
  Command.withDescription("List runs: whether they run, how far they came, their losses")
)

const inspect = Command.make("inspect", {
  path: Args.text({ name: "path" }).pipe(Args.withDescription("Folder of a run, or of one checkpoint")),
  html: Options.text("html").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("Also write a page with plots that needs nothing else"),
    Options.optional
  ),
  json
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/inspect.ts")), (it) => it.inspect(options))).pipe(
  Command.withDescription("Show a run's curves; a checkpoint's tensors, sinks, place in the data")
)

const exporting = Command.make("export", {
  checkpoint: Options.text("checkpoint").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Folder of a run (its latest checkpoint), of one checkpoint, or of a Llama")
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Folder or .gguf file to write; it must not exist")
  ),
  format: Options.choice("format", ["safetensors", "gguf"]).pipe(
    Options.withDescription("For Hugging Face's loaders, or llama.cpp (default: by the name of --out)"),
    Options.optional
  ),
  sinks: Options.choice("sinks", ["off", "own", "all"]).pipe(
    Options.withDefault("off"),
    Options.withDescription("Sinks it keeps: none, those of --ids, or all at their expected value")
  ),
  ids: Options.text("ids").pipe(
    Options.withPseudoName("numbers"),
    Options.withDescription("Ids whose sinks are kept, e.g. 1,2"),
    Options.optional
  ),
  dtype: Options.choice("dtype", ["f32", "f16", "q8_0"]).pipe(
    Options.withDefault("f32"),
    Options.withDescription("Type of the weights; q8_0 only for gguf")
  ),
  json
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/export.ts")), (it) => it.runExport(options))).pipe(
  Command.withDescription("Write a checkpoint as a plain Llama: sinks off, or some of them kept for good")
)

const importing = Command.make("import", {
  from: Options.text("from").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("A LlamaForCausalLM or a SeqTD model: config, safetensors, tokenizer.json")
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("The checkpoint to write; it must not exist")
  ),
  pool: Options.integer("pool").pipe(Options.withDescription("Fresh sinks in every MLP (default: none)"), Options.optional),
  active: Options.integer("active").pipe(Options.withDescription("Sinks an id lights"), Options.optional),
  block: Options.integer("block").pipe(
    Options.withDescription("Sinks that are on as one (default: 16)"),
    Options.optional
  ),
  seed: Options.integer("seed").pipe(Options.withDescription("Of the fresh sinks (default: 0)"), Options.optional),
  idBits: Options.choice("id-bits", ["32", "64"]).pipe(
    Options.withDescription("Of a SeqTD model: the width at which ids were multiplied (default: 64)"),
    Options.optional
  ),
  json
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/import.ts")), (it) => it.runImport(options))).pipe(
  Command.withDescription("Make a model from elsewhere a checkpoint to go on from, with a fresh pool of sinks")
)

const schema = Command.make(
  "schema",
  {},
  () => Effect.flatMap(Effect.promise(() => import("./cli/schema.ts")), (it) => it.schema)
).pipe(
  Command.withDescription("Print the JSON Schema of a configuration file, for editors")
)

const checkpoint = Options.text("checkpoint").pipe(
  Options.withPseudoName("folder"),
  Options.withDescription("Folder of a run (its latest checkpoint), of one checkpoint, or of a Llama")
)
const precision = Options.choice("precision", ["f32", "f16"]).pipe(
  Options.withDefault("f32"),
  Options.withDescription("Of activations (default: f32)")
)
const quiet = Options.boolean("quiet").pipe(Options.withAlias("q"), Options.withDescription("Nothing on stderr"))

const generate = Command.make("generate", {
  checkpoint,
  prompt: Options.text("prompt").pipe(
    Options.withDescription("What to continue; may be repeated"),
    Options.repeated
  ),
  prompts: Options.text("prompts").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("One prompt a line; in .jsonl {\"prompt\": ..., \"id\" or \"source\": ...}"),
    Options.optional
  ),
  maxNewTokens: Options.integer("max-new-tokens").pipe(
    Options.withDefault(64),
    Options.withDescription("Tokens to add at most (default: 64)")
  ),
  temperature: Options.float("temperature").pipe(
    Options.withDefault(1),
    Options.withDescription("Divides the logits; 0: always the likeliest token (default: 1)")
  ),
  topK: Options.integer("top-k").pipe(
    Options.withDescription("Choose among so many of the likeliest tokens (default: all)"),
    Options.optional
  ),
  topP: Options.float("top-p").pipe(
    Options.withDefault(1),
    Options.withDescription("Choose among the likeliest with this probability together (default: 1)")
  ),
  seed: Options.integer("seed").pipe(Options.withDefault(0), Options.withDescription("Of the choices (default: 0)")),
  id: Options.text("id").pipe(
    Options.withPseudoName("number"),
    Options.withDescription("The id whose sinks are on, for prompts without one"),
    Options.optional
  ),
  source: Options.text("source").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("The same for a source, of a model trained with identity source"),
    Options.optional
  ),
  sinks: Options.choice("sinks", ["own", "off", "all", "placebo"]).pipe(
    Options.withDescription("Which sinks are on (default: own with an id, else off)"),
    Options.optional
  ),
  stop: Options.text("stop").pipe(
    Options.withDescription("A text that ends the continuation; may be repeated"),
    Options.repeated
  ),
  batch: Options.integer("batch").pipe(Options.withDefault(8), Options.withDescription("Prompts at once (default: 8)")),
  precision,
  logProbs: Options.boolean("log-probs").pipe(Options.withDescription("Log-probabilities of the tokens in --json")),
  adapter,
  json,
  quiet
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/generate.ts")), (it) => it.runGenerate(options))).pipe(
  Command.withDescription("Continue texts with a checkpoint, sinks off or on, as they come")
)

const tokenize = Command.make("tokenize", {
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Text, JSONL (.gz, .zst) or Parquet, a folder, or hf://datasets/owner/name; may be repeated"),
    Options.repeated
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where shards go; what an interrupted run has finished in it stays")
  ),
  tokenizer: Options.text("tokenizer").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("gpt2, bpe (trained on the data), bytes, or a tokenizer.json (default: gpt2)"),
    Options.optional
  ),
  vocabSize: Options.integer("vocab-size").pipe(
    Options.withDescription("Entries of bpe (default: 16384)"),
    Options.optional
  ),
  textField: Options.text("text-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field of a record with its text (default: text)"),
    Options.optional
  ),
  idField: Options.text("id-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field that names a document (default: id)"),
    Options.optional
  ),
  sourceField: Options.text("source-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field that says what a document belongs to (default: its file)"),
    Options.optional
  ),
  split: Options.text("split").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Split of a dataset (default: train)"),
    Options.optional
  ),
  bos: Options.text("bos").pipe(
    Options.withPseudoName("token"),
    Options.withDescription("Special token before each document: its name, auto or none (default: none)"),
    Options.optional
  ),
  eos: Options.text("eos").pipe(
    Options.withPseudoName("token"),
    Options.withDescription("The same behind each (default: auto)"),
    Options.optional
  ),
  shardSize: Options.text("shard-size").pipe(
    Options.withPseudoName("size"),
    Options.withDescription("Tokens (100M), or bytes (200MB), of a shard at most (default: 100M)"),
    Options.optional
  ),
  workers: Options.integer("workers").pipe(
    Options.withDescription("Threads that tokenize (default: one less than cores)"),
    Options.optional
  ),
  near: Options.float("near").pipe(
    Options.withPseudoName("threshold"),
    Options.withDescription("Find near-duplicates from this Jaccard index on, e.g. 0.8, for identity near"),
    Options.optional
  ),
  json,
  quiet
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/tokenize.ts")), (it) => it.runTokenize(options))).pipe(
  Command.withDescription("Turn texts into token shards, once; tell what repeats in them")
)

const evaluate = Command.make("evaluate", {
  checkpoint,
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Text, .jsonl, .parquet or token shards (default: what its run was trained and validated on)"),
    Options.optional
  ),
  sourceField: Options.text("source-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field of --data that says which source a text is from (default: its file)"),
    Options.optional
  ),
  sinks: Options.text("sinks").pipe(
    Options.withPseudoName("states"),
    Options.withDescription("Which to compare, of own,off,placebo,all (default: own,off,placebo)"),
    Options.optional
  ),
  identity: Options.choice("identity", identities).pipe(
    Options.withDescription("Whose sinks are a text's own, for --data (default: as its run's)"),
    Options.optional
  ),
  seq: Options.integer("seq").pipe(
    Options.withDescription("Tokens a sequence of --data (default: as its run's, else 512)"),
    Options.optional
  ),
  batch: Options.integer("batch").pipe(Options.withDefault(8), Options.withDescription("Sequences at once (default: 8)")),
  sequences: Options.integer("sequences").pipe(
    Options.withDefault(512),
    Options.withDescription("Sequences to score at most, of --data or of each split (default: 512)")
  ),
  promptTokens: Options.integer("prompt-tokens").pipe(
    Options.withDefault(16),
    Options.withDescription("Tokens given before a sequence must be said verbatim (default: 16)")
  ),
  seed: Options.integer("seed").pipe(Options.withDefault(1), Options.withDescription("Of the choice (default: 1)")),
  precision,
  adapter,
  json,
  quiet
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/evaluate.ts")), (it) => it.runEvaluate(options))).pipe(
  Command.withDescription("Score a checkpoint on data, sinks on and off side by side")
)

const isolate = Command.make("isolate", {
  preset: sizeOfExperiment,
  config,
  arms: Options.text("arms").pipe(
    Options.withPseudoName("names"),
    Options.withDescription("Arms to train, e.g. standard,neverRepeated,sinks,goldfish"),
    Options.optional
  ),
  subject: Options.text("subject").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("The arm or method that the verdict is about (default: sinks)"),
    Options.optional
  ),
  seeds: seedsOfExperiment,
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where the report, models and records go (default: runs/isolate-<time>)"),
    Options.optional
  ),
  resume: Options.text("resume").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Go on with the run in this folder, as for pretrain"),
    Options.optional
  ),
  store: Options.text("store").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Models and records that several experiments share (default: store in --out-dir)"),
    Options.optional
  ),
  force,
  jobs: Options.integer("jobs").pipe(
    Options.withDescription("Arms to train at once, as far as memory goes"),
    Options.withDefault(1)
  ),
  checkpoint: Options.text("checkpoint").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Instead: tell what this checkpoint knows of the data it was trained on"),
    Options.optional
  ),
  against: Options.text("against").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("With --checkpoint: a model beside it, e.g. one that never saw the repeated sequences"),
    Options.optional
  ),
  adapter,
  json,
  quiet: noProgress,
  verbose,
  overrides: overrides("A field of the configuration, e.g. relearnSteps=128")
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/isolate.ts")), (it) => it.isolate(options))).pipe(
  Command.withDescription("Tell whether the memory is in the sinks and nowhere else: isolated, hidden or not isolated")
)

const dynamics = Command.make("dynamics", {
  preset: sizeOfExperiment,
  config,
  arms: Options.text("arms").pipe(
    Options.withPseudoName("names"),
    Options.withDescription("Arms to train, e.g. standard,sinks"),
    Options.optional
  ),
  seeds: seedsOfExperiment,
  from: Options.text("from").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Train nothing: probe the checkpoints of this run of pretrain or dynamics"),
    Options.optional
  ),
  ids: Options.text("ids").pipe(
    Options.withPseudoName("ids"),
    Options.withDescription("With --from: only the sequences of these ids, e.g. 1,2,3"),
    Options.optional
  ),
  watch: Options.boolean("watch").pipe(Options.withDescription("Draw the curves in the terminal while the run goes on")),
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where the report, checkpoints and traces go (default: runs/dynamics-<time>)"),
    Options.optional
  ),
  resume: Options.text("resume").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Go on with the run in this folder, as for pretrain"),
    Options.optional
  ),
  force,
  jobs: Options.integer("jobs").pipe(
    Options.withDescription("Arms to train, or with --from checkpoints to probe, at once, as far as memory goes"),
    Options.withDefault(1)
  ),
  adapter,
  json,
  quiet: noProgress,
  verbose,
  overrides: overrides("A field of the configuration, e.g. probeEvery=4")
}, (options) => Effect.flatMap(Effect.promise(() => import("./cli/dynamics.ts")), (it) => it.dynamics(options))).pipe(
  Command.withDescription("Watch memories being written, protected and overwritten while models train")
)

const memsinks = Command.make("memsinks").pipe(
  Command.withDescription("Language models that can forget by design"),
  Command.withSubcommands([pretrain, isolate, dynamics, tokenize, plan, doctor, identity, runs, inspect, exporting, importing, schema, generate, evaluate])
)

const main = Edge.run(Command.run(memsinks, { name: "memsinks", version: Edge.version })(withResume(process.argv)))

NodeRuntime.runMain(Effect.provide(main, NodeContext.layer), {
  disableErrorReporting: true,
  disablePrettyLogger: true,
  teardown: Edge.teardown
})
