/** `memsinks isolate --checkpoint A --against B`: what A knows of its training data beside B. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import process from "node:process"
import { compare as compareCheckpoints, type Comparison } from "../../pipelines/isolation/Compare.ts"
import { at as metricAt, keysOf, nameOf } from "../../pipelines/isolation/Metrics.ts"
import type { MetricKey } from "../../pipelines/isolation/Report.ts"
import { columns, hasColor, NOTHING, type Paint, painter } from "../Terminal.ts"
import type { IsolateOptions } from "./commands/isolate.ts"
import * as Edge from "./Edge.ts"

/** What it knows of its training's sequences that the other does not, by the state of its sinks. */
const headline = (differences: Comparison["differences"]): string => {
  const split = differences.some((one) => one.split === "natural") ? "natural" : differences[0]?.split
  const found = differences.filter((one) => one.split === split).map(({ high, low, state, value }) =>
    `${state}: ${
      low > 0 || high < 0
        ? `${Math.abs(value).toFixed(3)} nats a token ${value < 0 ? "better" : "worse"}`
        : "neither better nor worse for sure"
    }`
  )
  return `what it was trained on (${split}) it knows, beside the other, with sinks ${found.join("; ")}`
}

/** A headline, a line a metric, a column a state, and the other checkpoint. */
export const format = ({ against, checkpoint, differences, metrics, sequences }: Comparison, paint: Paint): string => {
  const states = [...new Set(metrics.map(({ state }) => state))]
  const at = (key: MetricKey, state: string) => metricAt(metrics.filter((one) => one.state === state), key)
  const number = (value: number | undefined) => (value === undefined ? NOTHING : value.toFixed(3))
  const rows = keysOf(metrics).map((key) => [
    nameOf(key),
    ...states.map((state) => number(at(key, state)?.value)),
    number(at(key, states[0]!)?.against)
  ])
  const head = ["", ...states, "against"]
  const [first, ...others] = columns([head, ...rows])
  return [
    ...(differences.length === 0 ? [] : [paint("bold", headline(differences)), ""]),
    paint("bold", first!),
    ...others,
    "",
    "loss minus the other's, nats a token, 95 % bootstrap interval over sequences:",
    ...differences.map(({ high, low, split, state, value }) =>
      `  ${split}, ${state}: ${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`
    ),
    "",
    `${checkpoint} against ${against}; ` +
    Object.entries(sequences).filter(([, n]) => n > 0).map(([name, n]) => `${n} ${name}`).join(", ")
  ].join("\n")
}

/** Prints a table, or with --json one object, on stdout. */
export const compare = (options: Pick<IsolateOptions, "checkpoint" | "against" | "adapter" | "json">) =>
  Effect.gen(function*() {
    if (Option.isNone(options.checkpoint) || Option.isNone(options.against)) {
      return yield* Effect.fail(Edge.usage({
        message: "--checkpoint and --against go together: the model that is looked at, and the one beside it"
      }))
    }
    const runtime = yield* Edge.runtime
    const comparison = yield* compareCheckpoints(options.checkpoint.value, options.against.value, {
      device: runtime.layer(Edge.given({ adapter: options.adapter }))
    })
    yield* Edge.print(
      options.json ? JSON.stringify(comparison) : format(comparison, painter(hasColor(process.stdout, process.env)))
    )
  })
