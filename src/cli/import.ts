/** `memsinks import`: make a model from elsewhere a checkpoint to go on from. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { importModel, type ImportReport } from "../checkpoints/Import.ts"
import { decodeConfig } from "../Config.ts"
import { SinkConfig } from "../Sink.ts"
import { count } from "../Terminal.ts"
import type { ImportingOptions } from "./commands/import.ts"
import * as Edge from "./Edge.ts"

const sinksOf = ({ active, block, pool }: ImportingOptions) => {
  if (Option.isNone(pool) && Option.isNone(active) && Option.isNone(block)) return Effect.succeed(undefined)
  return Option.isNone(pool) || Option.isNone(active)
    ? Effect.fail(Edge.usage({
      message: "a fresh pool needs --pool (sinks in every MLP) and --active (sinks that an id lights), e.g. 2048 and 32"
    }))
    : decodeConfig(SinkConfig, {
      pool: pool.value,
      active: active.value,
      ...Edge.given({ block })
    })
}

/** For people. */
export const format = (report: ImportReport): string =>
  [
    `${report.path}: ${count(report.parameters)} parameters, ${report.layers} layers of width ${report.hiddenSize}`,
    `every MLP: ${count(report.general)} general neurons, ` +
    (report.pool === 0 ? "no sinks" : `${count(report.pool)} sinks, ${count(report.active)} of them an id's`),
    ...(report.sources === 0 ? [] : [`sources: ${count(report.sources)} by name (memsinks sources)`]),
    ...report.notes.map((note) => `note: ${note}`)
  ].join("\n")

/** Imports and prints what was read. */
export const runImport = (options: ImportingOptions) =>
  Effect.gen(function*() {
    const sinks = yield* sinksOf(options)
    const report = yield* importModel(options.from, options.out, {
      ...(sinks === undefined ? {} : { sinks }),
      ...Edge.given({ seed: options.seed, titles: options.titles, titleOffset: options.titleOffset }),
      ...(Option.isSome(options.idBits) ? { idBits: options.idBits.value === "32" ? 32 : 64 } : {})
    })
    yield* Edge.print(options.json ? JSON.stringify(report) : format(report))
  })
