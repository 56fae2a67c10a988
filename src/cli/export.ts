/** `memsinks export`: write a checkpoint as a plain Llama, for Hugging Face's loaders or for llama.cpp. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { toId } from "../Batch.ts"
import { exportModel, type ExportReport, type ExportSinks, type ExportType } from "../checkpoints/Export.ts"
import * as Edge from "./Edge.ts"
import { count } from "../Terminal.ts"

export interface ExportCommand {
  readonly checkpoint: string
  readonly out: string
  readonly format: Option.Option<"safetensors" | "gguf">
  readonly sinks: "off" | "own" | "all"
  readonly ids: Option.Option<string>
  readonly dtype: ExportType
  readonly json: boolean
}

/** `1, 2,0xff` as ids. */
const idsOf = (text: string): Effect.Effect<ReadonlyArray<bigint>, Edge.Usage> =>
  Effect.try({
    try: () =>
      text.split(",").map((part) => {
        if (!/^\s*-?(\d+|0x[0-9a-f]+)\s*$/i.test(part)) throw new Error(part)
        const digits = part.trim().replace("-", "")
        return toId(part.trim().startsWith("-") ? -BigInt(digits) : BigInt(digits))
      }),
    catch: () => Edge.usage({ message: `--ids takes whole numbers with commas between them, e.g. 1,2; got ${text}` })
  })

const sinksOf = ({ ids, sinks }: ExportCommand): Effect.Effect<ExportSinks, Edge.Usage> => {
  if (sinks === "own") {
    return Option.match(ids, {
      onNone: () => Effect.fail(Edge.usage({ message: "--sinks own keeps the sinks of ids: give them with --ids 1,2" })),
      onSome: (text) => Effect.map(idsOf(text), (ids) => ({ mode: "own" as const, ids }))
    })
  }
  return Option.isSome(ids)
    ? Effect.fail(Edge.usage({ message: `--ids goes with --sinks own, not with --sinks ${sinks}` }))
    : Effect.succeed({ mode: sinks })
}

const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

/** For people. */
export const format = (report: ExportReport): string =>
  [
    `${report.path}: ${mebibytes(report.bytes)}, ${count(report.parameters)} parameters, ${report.dtype}`,
    `MLP width ${count(report.intermediateSize)} of ${count(report.from.intermediateSize)}: ` +
    `${count(report.general)} general neurons, ${count(report.sinks)} sinks` +
    (report.padding > 0 ? `, ${report.padding} of zeros` : ""),
    ...report.notes.map((note) => `note: ${note}`)
  ].join("\n")

/** Exports and prints what was written. */
export const runExport = (options: ExportCommand) =>
  Effect.gen(function*() {
    const report = yield* exportModel(options.checkpoint, options.out, {
      format: Option.getOrElse(options.format, () => options.out.endsWith(".gguf") ? "gguf" : "safetensors"),
      sinks: yield* sinksOf(options),
      dtype: options.dtype
    })
    yield* Edge.print(options.json ? JSON.stringify(report) : format(report))
  })
