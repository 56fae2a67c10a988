import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { config, described, folder, number, onMissingText, type OptionsOf, overrides, preset, shape, telling,
  text } from "./options.ts"

/** `memsinks pretrain`: what it takes. */
export const pretrain = Command.make("pretrain", {
  data: text("data", "path", "Text file, folder of .txt and .md files, or .jsonl (default: State of the Union)"),
  preset,
  config,
  textField: text("text-field", "name", "Field of a record with its text: data.textField (default: text)"),
  sourceField: text("source-field", "name",
    "Field that says what a document belongs to: data.sourceField (default: its file)"),
  onMissingText,
  ...shape,
  seeds: number("seeds", "How many seeds to run (default: 1)"),
  seed: number("seed", "The first seed (default: 1)", 0),
  ...folder(
    "pretrain",
    "checkpoints, metrics and the report",
    "Go on with the run in this folder; alone: with that in --out-dir, or the latest in runs/; auto: the same, or " +
      "begin where there is none"
  ),
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Print configuration, data and memory plan, and train nothing")
  ),
  metricsPort: text("metrics-port", "port", "Serve /metrics to Prometheus, on this machine or on host:port"),
  otlp: text("otlp", "url",
    "Send traces and metrics there, e.g. http://localhost:4318 (or OTEL_EXPORTER_OTLP_ENDPOINT)"),
  ...telling,
  shareAdapter: Options.boolean("share-adapter").pipe(
    Options.withDescription("Let ranks of one machine share an adapter (default: one each)")
  ),
  overrides: overrides("A field of the configuration, e.g. training.optimizer.learningRate=1e-3")
}).pipe(
  described("Train a standard and a memorization-sink model; tell what switching sinks off removes",
    "memsinks pretrain --data speeches.jsonl --source-field president --steps 200 --out-dir runs/a",
    "memsinks pretrain --config run.yaml --resume runs/a training.optimizer.learningRate=1e-3")
)

export type PretrainOptions = OptionsOf<typeof pretrain>
