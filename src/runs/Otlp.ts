/**
 * Spans and numbers of a run for any OpenTelemetry collector, as OTLP in JSON over HTTP. Written without OpenTelemetry's
 * packages, which weigh more than the rest of this library; @effect/opentelemetry can take this layer's place.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { Buffer } from "node:buffer"
import { randomBytes } from "node:crypto"
import * as http from "node:http"
import * as https from "node:https"
import { hostname } from "node:os"
import process from "node:process"
import { attempt, DataError } from "../Errors.ts"
import * as RunMetrics from "./RunMetrics.ts"

/** Where traces and metrics are sent. */
export interface OtlpOptions {
  /**
   * Base address of the collector, e.g. http://localhost:4318; /v1/traces and /v1/metrics are added. A user and password
   * in it are sent as basic authorization, and never shown.
   */
  readonly endpoint: string
  /** Names and versions of what runs. */
  readonly attributes?: Readonly<Record<string, string>>
  /** OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are respected. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Milliseconds between two exports. Default 10,000. */
  readonly interval?: number
  /** Milliseconds that a collector has to answer, and those that it has for all that is left at the end. Default 5,000; 1,500. */
  readonly patience?: number
  readonly lastPatience?: number
}

/** Spans that are kept for the next export at most; those that one request carries; characters of a text; events of a span. */
const most = { spans: 4096, batch: 512, text: 4096, events: 128 }

type Attribute = { readonly key: string; readonly value: object }

const attribute = (key: string, value: unknown): Attribute => ({
  key,
  value: typeof value === "boolean"
    ? { boolValue: value }
    : typeof value === "number" && Number.isFinite(value)
    ? Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value }
    : { stringValue: textOf(value) }
})

const textOf = (value: unknown): string => {
  try {
    return String(value).slice(0, most.text)
  } catch {
    return "?"
  }
}

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
    if (this.events.length < most.events) this.events.push([name, startTime, attributes ?? {}])
  }
  addLinks(links: ReadonlyArray<Tracer.SpanLink>) {
    this.links.push(...links)
  }
}

const attributesOf = (values: Iterable<readonly [string, unknown]>) =>
  [...values].map(([key, value]) => attribute(key, value))

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
    : { code: 2, message: Cause.pretty(status.exit.cause).split("\n", 1)[0]!.slice(0, most.text) }
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

/** A collector's address. Throws DataError for what is none. */
export const addressOf = (endpoint: string): { readonly base: URL; readonly shown: string } => {
  const wrong = () => {
    const shown = endpoint.replace(/\/\/[^/]*@/, "//")
    return new DataError({
      detail: `${
        JSON.stringify(shown)
      } is no address of a collector: expected http:// or https://, e.g. http://localhost:4318`
    })
  }
  let base: URL
  try {
    base = new URL(endpoint)
  } catch {
    throw wrong()
  }
  if (!/^https?:$/.test(base.protocol) || base.hostname === "") throw wrong()
  return { base, shown: `${base.origin}${base.pathname.replace(/\/+$/, "")}` }
}

/** Posts JSON. Waits for no more than the status, follows nothing, and gives up for good after so many milliseconds. */
const post = (url: URL, headers: Readonly<Record<string, string>>, body: string, ms: number): Promise<void> =>
  new Promise((resolve, reject) => {
    const bytes = Buffer.from(body)
    const authorization = url.username === ""
      ? {}
      : { auth: `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}` }
    const request = (url.protocol === "https:" ? https : http).request(
      url,
      { ...authorization, method: "POST", headers: { ...headers, "content-length": bytes.length }, agent: false }
    )
    const end = (error?: Error) => {
      clearTimeout(timer)
      // whatever else it has to say
      request.destroy()
      if (error === undefined) resolve()
      else reject(error)
    }
    const timer = setTimeout(() => end(new Error(`it did not answer within ${Number((ms / 1000).toPrecision(2))} s`)),
      ms)
    request.on("error", end)
    request.on("response", ({ statusCode = 0 }) =>
      end(
        statusCode >= 200 && statusCode < 300
          ? undefined
          : new Error(
            `it answered ${statusCode}${
              statusCode >= 300 && statusCode < 400 ? ", and redirects are not followed" : ""
            }`
          )
      ))
    request.end(bytes)
  })

/**
 * A tracer that sends spans that ended, and numbers as they stand, every `interval` and once more when the scope closes.
 * Nothing of it delays or breaks what runs: requests are bounded in time and bytes and never followed elsewhere, what
 * does not fit the queue is dropped and counted, and a collector that takes nothing is logged once. Fails with DataError
 * where the endpoint is no address.
 */
export const make = (options: OtlpOptions): Effect.Effect<Tracer.Tracer, DataError, Scope.Scope> =>
  Effect.gen(function*() {
    const { env = process.env, interval = 10_000, lastPatience = 1500, patience = 5000 } = options
    const { base, shown } = yield* attempt(() => addressOf(options.endpoint), DataError)
    const headers = { "content-type": "application/json",
      ...Object.fromEntries(pairs(env["OTEL_EXPORTER_OTLP_HEADERS"])) }
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
    const ended: Array<Span> = []
    let dropped = 0
    let told = false
    const urlOf = (path: string): URL => {
      const url = new URL(base)
      url.pathname = `${base.pathname.replace(/\/+$/, "")}${path}`
      return url
    }
    /** What could not be sent is dropped: the next export has newer numbers, and spans wait for none. */
    const send = async (readings: ReadonlyArray<RunMetrics.Reading>, ms: number): Promise<string | undefined> => {
      const deadline = performance.now() + ms
      const left = () => Math.max(1, Math.round(deadline - performance.now()))
      let path = "/v1/traces"
      try {
        while (ended.length > 0) {
          const spans = ended.splice(0, most.batch)
          dropped += spans.length
          await post(
            urlOf(path),
            headers,
            JSON.stringify({ resourceSpans: [{ resource, scopeSpans: [{ scope, spans: spans.map(encodeSpan) }] }] }),
            left()
          )
          dropped -= spans.length
        }
        path = "/v1/metrics"
        const nanos = String(BigInt(Date.now()) * 1_000_000n)
        const metrics = encodeMetrics(readings, nanos)
        await post(urlOf(path), headers,
          JSON.stringify({ resourceMetrics: [{ resource, scopeMetrics: [{ scope, metrics }] }] }), left())
        return undefined
      } catch (error) {
        return `${shown}${path} takes no telemetry: ${error instanceof Error ? error.message : String(error)}`
      }
    }
    const exported = (ms: number) =>
      Effect.gen(function*() {
        const readings = yield* RunMetrics.read
        const problem = yield* Effect.promise(() => send(readings, ms))
        if (problem === undefined || told) return
        told = true
        yield* Effect.logWarning(`${problem}. Training goes on without`)
        // its own requests are not part of the run, and no fault in here is one of the run's
      }).pipe(Effect.withTracerEnabled(false), Effect.catchAllCause(() => Effect.void))
    yield* Effect.addFinalizer(() =>
      Effect.zipRight(
        exported(lastPatience),
        Effect.suspend(() =>
          dropped === 0 ? Effect.void : Effect.logWarning(`${dropped} spans did not get to ${shown}`)
        )
      )
    )
    // interruptible, wherever it is made: the scope waits for it
    yield* Effect.forkScoped(
      Effect.interruptible(Effect.repeat(Effect.delay(exported(patience), interval), Schedule.forever))
    )
    return Tracer.make({
      span: (name, parent, context, links, startTime, kind) =>
        new Span(name, parent, context, links, startTime, kind, (span) => {
          // a collector that is gone must not fill the memory
          if (ended.length < most.spans) ended.push(span)
          else dropped++
        }),
      context: (f) => f()
    })
  })

/** The tracer of `make`, for what the layer is provided to. */
export const layer = (options: OtlpOptions): Layer.Layer<never, DataError> =>
  Layer.unwrapScoped(Effect.map(make(options), Layer.setTracer))
