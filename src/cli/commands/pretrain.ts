import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { config, counting, folder, onMissingText, type OptionsOf, overrides, preset, shape,
  telling } from "./options.ts"

/** `memsinks pretrain`: what it takes. */
export const pretrain = Command.make("pretrain", {
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Text file, folder of .txt and .md files, or .jsonl (default: State of the Union)"),
    Options.optional
  ),
  preset,
  config,
  textField: Options.text("text-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field of a record with its text: data.textField (default: text)"),
    Options.optional
  ),
  sourceField: Options.text("source-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field that says what a document belongs to: data.sourceField (default: its file)"),
    Options.optional
  ),
  onMissingText,
  ...shape,
  seeds: counting("seeds").pipe(Options.withDescription("How many seeds to run (default: 1)"), Options.optional),
  seed: counting("seed", 0).pipe(Options.withDescription("The first seed (default: 1)"), Options.optional),
  ...folder(
    "pretrain",
    "checkpoints, metrics and the report",
    "Go on with the run in this folder; alone: with that in --out-dir, or the latest in runs/; auto: the same, or " +
      "begin where there is none"
  ),
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Print configuration, report on the data and memory plan, and train nothing")
  ),
  metricsPort: Options.text("metrics-port").pipe(
    Options.withPseudoName("port"),
    Options.withDescription("Serve /metrics to Prometheus, on this machine or on host:port"),
    Options.optional
  ),
  otlp: Options.text("otlp").pipe(
    Options.withPseudoName("url"),
    Options.withDescription(
      "Send traces and metrics there, e.g. http://localhost:4318 (or OTEL_EXPORTER_OTLP_ENDPOINT)"
    ),
    Options.optional
  ),
  ...telling,
  overrides: overrides("A field of the configuration, e.g. training.optimizer.learningRate=1e-3")
}).pipe(
  Command.withDescription("Train a standard and a memorization-sink model; tell what switching sinks off removes")
)

export type PretrainOptions = OptionsOf<typeof pretrain>
