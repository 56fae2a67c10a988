/** Who else is told what a run does: Prometheus, and a collector of OpenTelemetry. Loaded only when asked for. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import process from "node:process"
import type { ProgressEvent } from "../terminal/Progress.ts"
import type { PretrainOptions } from "./commands/pretrain.ts"
import * as Edge from "./Edge.ts"

/** Takes part in a run's events until the scope closes; `layer` must be around what its spans are of. */
export const watch = (options: Pick<PretrainOptions, "metricsPort" | "otlp">) =>
  Effect.gen(function*() {
    const endpoint = Option.getOrElse(options.otlp, () => process.env["OTEL_EXPORTER_OTLP_ENDPOINT"] ?? "")
    const telling: Array<string> = []
    if (endpoint === "" && Option.isNone(options.metricsPort)) {
      return { onEvent: (_: ProgressEvent) => Effect.void, layer: Layer.empty, telling }
    }
    if (endpoint !== "" && !(/^https?:\/\//i.test(endpoint) && URL.canParse(endpoint))) {
      return yield* Effect.fail(Edge.usage({
        message: `--otlp expects the URL of a collector, e.g. http://localhost:4318, got ${JSON.stringify(endpoint)}`
      }))
    }
    const address = options.metricsPort
    const { addressOf, serve } = yield* Effect.promise(() => import("../runs/Prometheus.ts"))
    if (Option.isSome(address) && addressOf(address.value) === undefined) {
      return yield* Effect.fail(Edge.usage({
        message: `--metrics-port expects a port, or host:port, e.g. 9464, 0.0.0.0:9464 or [::1]:9464, got ${
          JSON.stringify(address.value)
        }`
      }))
    }
    const { record } = yield* Effect.promise(() => import("../runs/RunMetrics.ts"))
    if (Option.isSome(address)) {
      telling.push(`metrics for Prometheus: port ${yield* serve(address.value)}, /metrics`)
    }
    if (endpoint === "") return { onEvent: record, layer: Layer.empty, telling }
    const Otlp = yield* Effect.promise(() => import("../runs/Otlp.ts"))
    // of this scope, not of the layer's: what is left is sent when the report has been printed
    const tracer = yield* Otlp.make({ endpoint, attributes: { "service.version": Edge.version } })
    telling.push(`traces and metrics by OTLP: ${Otlp.addressOf(endpoint).shown}`)
    return { onEvent: record, layer: Layer.setTracer(tracer), telling }
  })
