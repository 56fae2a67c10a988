/**
 * Spans and numbers of a run for any OpenTelemetry collector, as OTLP in JSON over HTTP. Written without OpenTelemetry's
 * packages, which weigh more than the rest of this library; @effect/opentelemetry can take this layer's place.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Tracer from "effect/Tracer"
import { randomBytes } from "node:crypto"
import { hostname } from "node:os"
import process from "node:process"
import * as RunMetrics from "./RunMetrics.ts"

export interface OtlpOptions {
  /** Base address of the collector, e.g. http://localhost:4318; /v1/traces and /v1/metrics are added. */
  readonly endpoint: string
  /** Names and versions of what runs. */
  readonly attributes?: Readonly<Record<string, string>>
  /** OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are respected. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Milliseconds between two exports. Default 10,000. */
  readonly interval?: number
}

type Attribute = { readonly key: string; readonly value: object }

const attribute = (key: string, value: unknown): Attribute => ({
  key,
  value: typeof value === "boolean"
    ? { boolValue: value }
    : typeof value === "number" && Number.isFinite(value)
    ? Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value }
    : { stringValue: String(value) }
})

/** `a=1,b=x%20y`, as OpenTelemetry's variables have it. */
const pairs = (text: string | undefined): ReadonlyArray<readonly [string, string]> =>
  (text ?? "").split(",").flatMap((pair) => {
    const at = pair.indexOf("=")
    if (at < 1) return []
    const value = pair.slice(at + 1).trim()
    try {
      return [[pair.slice(0, at).trim(), decodeURIComponent(value)]]
    } catch {
      return [[pair.slice(0, at).trim(), value]]
    }
  })

/** A span that tells itself when it ends. */
class Span implements Tracer.Span {
  readonly _tag = "Span"
  readonly traceId: string
  readonly spanId = randomBytes(8).toString("hex")
  readonly sampled = true
  status: Tracer.SpanStatus
  readonly attributes = new Map<string, unknown>()
  readonly events: Array<readonly [string, bigint, Record<string, unknown>]> = []
  readonly name: string
  readonly parent: Option.Option<Tracer.AnySpan>
  readonly context: Context.Context<never>
  readonly links: Array<Tracer.SpanLink>
  readonly kind: Tracer.SpanKind
  private readonly ended: (span: Span) => void

  constructor(
    name: string,
    parent: Option.Option<Tracer.AnySpan>,
    context: Context.Context<never>,
    links: ReadonlyArray<Tracer.SpanLink>,
    startTime: bigint,
    kind: Tracer.SpanKind,
    ended: (span: Span) => void
  ) {
    this.name = name
    this.parent = parent
    this.context = context
    this.links = [...links]
    this.kind = kind
    this.ended = ended
    this.status = { _tag: "Started", startTime }
    this.traceId = Option.isSome(parent) ? parent.value.traceId : randomBytes(16).toString("hex")
  }
  end(endTime: bigint, exit: Exit.Exit<unknown, unknown>) {
    this.status = { _tag: "Ended", startTime: this.status.startTime, endTime, exit }
    this.ended(this)
  }
  attribute(key: string, value: unknown) {
    this.attributes.set(key, value)
  }
  event(name: string, startTime: bigint, attributes?: Record<string, unknown>) {
    this.events.push([name, startTime, attributes ?? {}])
  }
  addLinks(links: ReadonlyArray<Tracer.SpanLink>) {
    this.links.push(...links)
  }
}

const attributesOf = (values: Iterable<readonly [string, unknown]>) => [...values].map(([key, value]) => attribute(key, value))

const encodeSpan = ({ attributes, events, name, parent, spanId, status, traceId }: Span) => ({
  traceId,
  spanId,
  ...(Option.isSome(parent) ? { parentSpanId: parent.value.spanId } : {}),
  name,
  kind: 1,
  startTimeUnixNano: String(status.startTime),
  endTimeUnixNano: String(status._tag === "Ended" ? status.endTime : status.startTime),
  attributes: attributesOf(attributes),
  events: events.map(([event, time, values]) => ({
    name: event,
    timeUnixNano: String(time),
    attributes: attributesOf(Object.entries(values))
  })),
  // 1: as it should be, 2: not
  status: status._tag !== "Ended" || Exit.isSuccess(status.exit) || Exit.isInterrupted(status.exit)
    ? { code: 1 }
    : { code: 2, message: Cause.pretty(status.exit.cause).split("\n", 1)[0] }
})

const encodeMetrics = (readings: ReadonlyArray<RunMetrics.Reading>, nanos: string) => {
  const byName = new Map<string, Array<RunMetrics.Reading>>()
  for (const reading of readings) byName.set(reading.name, [...byName.get(reading.name) ?? [], reading])
  return [...byName].map(([name, [first, ...rest]]) => ({
    name: name.replace("memsinks_", "memsinks."),
    description: first!.description,
    gauge: {
      dataPoints: [first!, ...rest].filter(({ value }) => Number.isFinite(value)).map(({ labels, value }) => ({
        attributes: attributesOf(Object.entries(labels)),
        timeUnixNano: nanos,
        asDouble: value
      }))
    }
  }))
}

/**
 * Sends spans that ended and numbers as they stand, every `interval` and once more when the scope closes. A collector
 * that cannot be reached is logged once and ends nothing.
 */
export const layer = (options: OtlpOptions): Layer.Layer<never> => {
  const { env = process.env, interval = 10_000 } = options
  const base = options.endpoint.replace(/\/+$/, "")
  const headers = { "content-type": "application/json", ...Object.fromEntries(pairs(env["OTEL_EXPORTER_OTLP_HEADERS"])) }
  const scope = { name: "memsinks" }
  const resource = {
    attributes: attributesOf(Object.entries({
      "host.name": hostname(),
      "process.pid": process.pid,
      ...options.attributes,
      ...Object.fromEntries(pairs(env["OTEL_RESOURCE_ATTRIBUTES"])),
      "service.name": env["OTEL_SERVICE_NAME"] || "memsinks"
    }))
  }
  let ended: Array<Span> = []
  let told = false
  const post = (path: string, body: unknown) =>
    Effect.tryPromise(async (signal) => {
      const response = await fetch(`${base}${path}`, { method: "POST", headers, body: JSON.stringify(body), signal })
      await response.arrayBuffer()
      if (!response.ok) throw new Error(`it answered ${response.status}`)
    }).pipe(
      Effect.timeout(5000),
      Effect.catchAll((error) => {
        if (told) return Effect.void
        told = true
        const { cause } = error as { readonly cause?: unknown }
        const reason = cause instanceof Error ? cause.message : error.message
        return Effect.logWarning(`${base}${path} takes no telemetry: ${reason}. Training goes on without`)
      })
    )
  const send = Effect.gen(function*() {
    const spans = ended
    ended = []
    const readings = yield* RunMetrics.read
    const nanos = String(BigInt(Date.now()) * 1_000_000n)
    if (spans.length > 0) {
      yield* post("/v1/traces", { resourceSpans: [{ resource, scopeSpans: [{ scope, spans: spans.map(encodeSpan) }] }] })
    }
    yield* post("/v1/metrics", {
      resourceMetrics: [{ resource, scopeMetrics: [{ scope, metrics: encodeMetrics(readings, nanos) }] }]
    })
    // its own requests are not part of the run
  }).pipe(Effect.withTracerEnabled(false))
  const tracer = Tracer.make({
    span: (name, parent, context, links, startTime, kind) =>
      new Span(name, parent, context, links, startTime, kind, (span) => {
        // a collector that is gone must not fill the memory
        if (ended.length < 10_000) ended.push(span)
      }),
    context: (f) => f()
  })
  return Layer.merge(
    Layer.setTracer(tracer),
    Layer.scopedDiscard(Effect.gen(function*() {
      yield* Effect.addFinalizer(() => send)
      yield* Effect.forkScoped(Effect.repeat(Effect.delay(send, interval), Schedule.forever))
    }))
  )
}
