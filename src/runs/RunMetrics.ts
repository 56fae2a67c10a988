/**
 * A run in numbers, as Effect's metrics: set from its events, read by whoever publishes them (Prometheus, OTLP).
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as MetricState from "effect/MetricState"
import process from "node:process"
import type { ProgressEvent } from "../terminal/Progress.ts"

const gauge = (name: string, description: string) => Metric.gauge(`memsinks_${name}`, { description })

const step = gauge("step", "Optimizer steps taken.")
const steps = gauge("steps", "Optimizer steps of the whole training.")
const loss = gauge("train_loss", "Mean training loss over the last window, nats a token.")
const gradNorm = gauge("gradient_norm", "Norm of the last gradient, before clipping.")
const learningRate = gauge("learning_rate", "Learning rate of the last step.")
const tokens = gauge("tokens", "Tokens trained on since the first step.")
const tokensPerSecond = gauge("tokens_per_second", "Training throughput of this process.")
const skipped = gauge("skipped_steps", "Steps so far that moved nothing: a number overflowed in mixed precision.")
const evalLoss = gauge("eval_loss", "Mean evaluated loss by split and sink mode, nats a token.")
const savedStep = gauge("saved_step", "Step of the last checkpoint.")
const parameters = gauge("parameters", "Trainable parameters.")
const memory = gauge("resident_memory_bytes", "Memory of the process, without that of a GPU.")

/** Sets what an event says; numbers carry the training's `arm` and `seed`. */
export const record = (event: ProgressEvent): Effect.Effect<void> => {
  if (event._tag !== "Training") return Effect.void
  const { arm, event: training, seed } = event
  const set = (metric: Metric.Metric.Gauge<number>, value: number, tags: Readonly<Record<string, string>> = {}) =>
    Metric.set(
      Object.entries({ arm, seed: String(seed), ...tags }).reduce((it, [key, tag]) => Metric.tagged(it, key, tag),
        metric),
      value
    )
  switch (training._tag) {
    case "Started":
      return Effect.all([
        set(step, training.step),
        set(steps, training.steps),
        set(parameters, training.parameters)
      ], { discard: true })
    case "Stepped":
      return Effect.all([
        set(step, training.step),
        ...(training.loss === undefined ? [] : [set(loss, training.loss)]),
        ...(training.gradNorm === undefined ? [] : [set(gradNorm, training.gradNorm)]),
        set(learningRate, training.learningRate),
        set(tokens, training.tokens),
        set(tokensPerSecond, training.tokensPerSecond),
        set(skipped, training.skipped ?? 0)
      ], { discard: true })
    case "Evaluated":
      return Effect.forEach(Object.entries(training.losses), ([name, value]) => {
        const [split = name, mode = ""] = name.split(".")
        return set(evalLoss, value, { split, mode })
      }, { discard: true })
    case "Saved":
      return set(savedStep, training.step)
    case "Finished":
      return set(step, training.step)
  }
}

/** One number, with what it belongs to. */
export interface Reading {
  readonly name: string
  readonly description: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
  /** Default gauge. */
  readonly kind?: "gauge" | "counter" | "histogram"
  /** What the numbers of a histogram are of. Default: the name. */
  readonly family?: string
}

/** All numbers as they stand, those of one name together. */
export const read: Effect.Effect<ReadonlyArray<Reading>> = Effect.gen(function*() {
  yield* Metric.set(memory, process.memoryUsage().rss)
  const found = (yield* Metric.snapshot).flatMap(({ metricKey: { description, name, tags }, metricState }) =>
    name.startsWith("memsinks_") && MetricState.isGaugeState(metricState)
      ? [{
        name,
        description: description._tag === "Some" ? description.value : "",
        labels: Object.fromEntries(tags.map(({ key, value }) => [key, value])),
        value: Number(metricState.value)
      }]
      : []
  )
  return found.sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : 0)
})
