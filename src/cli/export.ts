/** `memsinks export`: write a checkpoint as a plain Llama, for Hugging Face's loaders or for llama.cpp. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { exportModel, type ExportReport, type ExportSinks } from "../checkpoints/Export.ts"
import { notIds, splitIds } from "../data/identity/Names.ts"
import { bytes, count } from "../Terminal.ts"
import type { ExportingOptions } from "./commands/export.ts"
import * as Edge from "./Edge.ts"

const sinksOf = ({ ids, sinks, union, withDenied }: ExportingOptions): Effect.Effect<ExportSinks, Edge.Usage> => {
  const wrong = (message: string) => Effect.fail(Edge.usage({ message }))
  if (withDenied && sinks !== "all") return wrong(`--with-denied goes with --sinks all, not with --sinks ${sinks}`)
  if (sinks !== "own") {
    if (union) return wrong(`--union goes with --sinks own, not with --sinks ${sinks}`)
    return Option.isSome(ids)
      ? wrong(`--ids goes with --sinks own, not with --sinks ${sinks}`)
      : Effect.succeed(sinks === "all" ? { mode: sinks, withDenied } : { mode: sinks })
  }
  if (Option.isNone(ids)) return wrong("--sinks own keeps the sinks of ids: give them with --ids 1,2")
  const named = splitIds(ids.value)
  return named === undefined
    ? wrong(notIds(ids.value))
    : Effect.succeed({ mode: "own", ids: named, union })
}

/** For people. */
export const format = (report: ExportReport): string =>
  [
    `${report.path}: ${bytes(report.bytes)}, ${count(report.parameters)} parameters, ${report.dtype}`,
    `MLP width ${count(report.intermediateSize)} of ${count(report.from.intermediateSize)}: ` +
    `${count(report.general)} general neurons, ${count(report.sinks)} sinks` +
    (report.padding > 0 ? `, ${report.padding} of zeros` : ""),
    ...(report.kept.length === 0
      ? []
      : [`sinks of ${report.kept.map(({ id, name }) => name === undefined ? id : `${name} (${id})`).join(", ")}`]),
    ...report.notes.map((note) => `note: ${note}`)
  ].join("\n")

/** Exports and prints what was written. */
export const runExport = (options: ExportingOptions) =>
  Effect.gen(function*() {
    const report = yield* exportModel(options.checkpoint, options.out, {
      format: Option.getOrElse(options.format, () => options.out.endsWith(".gguf") ? "gguf" : "safetensors"),
      sinks: yield* sinksOf(options),
      dtype: options.dtype
    })
    yield* Edge.print(options.json ? JSON.stringify(report) : format(report))
  })
