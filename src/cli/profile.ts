/** `memsinks profile`: the kernels of a training step, timed on the device. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as AtomicFile from "../AtomicFile.ts"
import { because, DataError } from "../Errors.ts"
import { columns, count } from "../Terminal.ts"
import * as Profile from "../train/Profile.ts"
import type { ProfileOptions } from "./commands/profile.ts"
import * as Edge from "./Edge.ts"
import { configOf } from "./plan.ts"

const milliseconds = (seconds: number): string => `${(1000 * seconds).toPrecision(3)} ms`
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
/** Of 1,000 and more: `1.23 T`. */
const scaled = (value: number): string => {
  const units = ["", "k", "M", "G", "T", "P"]
  const unit = value > 0 ? Math.min(units.length - 1, Math.floor(Math.log10(value) / 3)) : 0
  return `${(value / 1000 ** unit).toPrecision(3)} ${units[unit]}`.trim()
}

const table = (what: string, rows: ReadonlyArray<Profile.ProfileRow>): string =>
  columns([
    [what, "dispatches", "time", "share", "FLOP/s", "of product", "B/s", "of copy"],
    ...rows.map((row) => [
      row.name,
      count(row.dispatches),
      milliseconds(row.seconds),
      percent(row.share),
      row.flops === 0 ? "" : scaled(row.flops / row.seconds),
      row.flops === 0 ? "" : percent(row.shareOfProduct),
      scaled(row.bytes / row.seconds),
      percent(row.shareOfBandwidth)
    ])
  ], (column) => column === 0).join("\n")

/** A profile in plain words: a step, then its time by kind and by kernel. */
export const formatProfile = (found: Profile.Profile): string =>
  [
    `${count(found.parameters)} parameters, ${found.rows} rows of ${found.seqLen} tokens, ${found.precision}, ` +
    `on ${found.adapter} with the ${found.kernels} kernels`,
    `a step: ${milliseconds(found.stepSeconds)} (${count(Math.round(found.tokensPerSecond))} tokens/s), of which the ` +
    `host takes ${milliseconds(found.hostSeconds)}`,
    `its ${count(found.dispatches.length)} dispatches: ${milliseconds(found.kernelSeconds)}, in a pass each ` +
    `${milliseconds(found.spanSeconds)} from the first to the last`,
    `at best: a product ${scaled(found.bestProduct)}FLOP/s, a copy ${scaled(found.bestCopy)}B/s`,
    "",
    table("kind", found.classes),
    "",
    table("kernel", found.byKernel)
  ].join("\n")

const writeTrace = (file: string, found: Profile.Profile) =>
  Effect.try({
    try: () => AtomicFile.write(file, Profile.traceOf(found), `${file}.partial`),
    catch: (cause) => new DataError({ path: file, detail: `the trace cannot be written: ${because(cause)}` })
  })

/** Times a step and prints where its time goes. */
export const profile = (options: ProfileOptions) =>
  Effect.gen(function*() {
    const config = yield* Effect.mapError(configOf(options), Edge.usage)
    const { compute, data, model, precision, recompute, training } = config
    const runtime = yield* Edge.runtime
    const found = yield* Profile.profile(model, {
      rows: data.batchSize,
      seqLen: data.seqLen,
      precision,
      recompute,
      optimizer: training.optimizer,
      steps: options.steps,
      ...(compute === undefined ? {} : { compute })
    }).pipe(Effect.provide(runtime.layer({
      ...Edge.given({ adapter: options.adapter }),
      // which rounds to 65.5 us, longer than most kernels run
      disableToggles: ["timestamp_quantization"],
      enableToggles: options.toggle
    })))
    if (Option.isSome(options.trace)) yield* writeTrace(options.trace.value, found)
    yield* Edge.print(options.json ? JSON.stringify(found) : formatProfile(found))
  }).pipe(Effect.scoped)
