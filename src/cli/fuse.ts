/** `memsinks fuse`: the average of checkpoints as one to go on from. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { fuseCheckpoints, type FuseReport } from "../checkpoints/Fuse.ts"
import { count } from "../Terminal.ts"
import type { FusingOptions } from "./commands/fuse.ts"
import * as Edge from "./Edge.ts"

const weightsOf = ({ weights }: FusingOptions) => {
  if (Option.isNone(weights)) return Effect.succeed(undefined)
  const numbers = weights.value.split(",").map((one) => one.trim() === "" ? NaN : Number(one))
  return numbers.every(Number.isFinite)
    ? Effect.succeed(numbers)
    : Effect.fail(Edge.usage({ message: `--weights takes a number a checkpoint, as 0.7,0.3; got ${weights.value}` }))
}

/** For people. */
export const format = ({ from, kinship, notes, parameters, path, weights }: FuseReport): string =>
  [
    `${path}: ${count(parameters)} parameters, the average of`,
    ...from.map((one, i) => `  ${weights[i]!.toPrecision(3)} of ${one}`),
    `least cosine between the first and another: ${kinship[0]!.toFixed(3)}`,
    ...notes.map((note) => `note: ${note}`)
  ].join("\n")

/** Fuses and prints what was written. */
export const runFuse = (options: FusingOptions) =>
  Effect.gen(function*() {
    if (options.checkpoints.length < 2) {
      return yield* Effect.fail(Edge.usage({
        message: `an average needs two checkpoints or more, got ${options.checkpoints.length}: ` +
          "memsinks fuse <one> <other> --out <folder>"
      }))
    }
    const weights = yield* weightsOf(options)
    const report = yield* fuseCheckpoints(options.checkpoints, options.out, weights === undefined ? {} : { weights })
    yield* Edge.print(options.json ? JSON.stringify(report) : format(report))
  })
