/**
 * The endpoints over HTTP. Who may ask is looked at before anything else, then the size of what is asked; every refusal
 * has OpenAI's form.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as ParseResult from "effect/ParseResult"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { createHash, timingSafeEqual } from "node:crypto"
import { createServer } from "node:http"
import { because, DataError } from "../Errors.ts"
import { parseJson } from "../Json.ts"
import { isLoopback } from "../runs/Prometheus.ts"
import { complete, modelOf, type Models, type Served } from "./Completions.ts"
import { CompletionRequest, DenyRequest, DetokenizeRequest, openApi, TokenizeRequest } from "./Contract.ts"
import { page } from "./Docs.ts"
import { Refusal, wrong } from "./Refusal.ts"
import { textOf } from "./ServeMetrics.ts"
import { denyMore, type Named, type Told } from "./State.ts"

export interface ServerOptions {
  /** Default 127.0.0.1. */
  readonly host?: string
  /** 0: one that is free. */
  readonly port: number
  /** Of which a request must bear one; all but /health ask for it. Default: nobody is asked. */
  readonly keys?: ReadonlyArray<string>
  /** The web site whose pages may ask; `*`: any. Default: none. */
  readonly cors?: string
  /** Bytes of a request at most. Default 8 MiB. */
  readonly bodyLimit?: number
  /** Seconds between two comments that keep a stream of events open. Default 15. */
  readonly ping?: number
  /** Seconds in which a request must have come whole. Default 30. */
  readonly patience?: number
  /** Milliseconds that an answer may take: connections on which nothing happens for longer are closed. Default 600,000. */
  readonly timeout?: number
  /**
   * Denies and excludes sources, of all models or some, and tells whether they stay so when the server is started anew.
   * Default: as long as this one runs.
   */
  readonly deny?: (models: ReadonlyArray<Served>, sources: Named) => Effect.Effect<boolean, DataError>
}

/** The models, as soon as all are there. */
export interface Holder {
  served: Models | undefined
  /** Since when a changed list of who is off could not be taken, so that an earlier one is in force. */
  staleSince?: Date | undefined
}

/** Connections at once; more wait with the operating system. */
const CONNECTIONS = 4096

/** The body of a request, of at most so many bytes: what is beyond them is read by nobody. */
const bodyOf = (limit: number) =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
    Effect.async<string, Refusal>((resume) => {
      const source = NodeHttpServerRequest.toIncomingMessage(request)
      const parts: Array<Buffer> = []
      let size = 0
      const tooLarge = () =>
        resume(Effect.fail(
          new Refusal({ status: 413, code: "too_large", message: `a request has at most ${limit} bytes` })
        ))
      if (Number(source.headers["content-length"] ?? 0) > limit) return tooLarge()
      const onData = (part: Buffer): void => {
        size += part.length
        if (size <= limit) return void parts.push(part)
        source.off("data", onData)
        source.resume()
        tooLarge()
      }
      source.on("data", onData)
      source.once("end", () => {
        try {
          resume(Effect.succeed(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts))))
        } catch {
          resume(Effect.fail(new Refusal({ status: 400, message: "the body of the request is not UTF-8" })))
        }
      })
      source.once("error", () => resume(Effect.fail(new Refusal({ status: 400, message: "the request broke off" }))))
    }))

/** What a problem of a body is called: the field, and what was expected. */
const problemOf = (error: ParseResult.ParseError): Refusal => {
  const issues = ParseResult.ArrayFormatter.formatErrorSync(error)
  const { message, path } = issues.find(({ _tag }) => _tag !== "Missing") ?? issues[0]!
  const param = path.map(String).join(".")
  return new Refusal({
    status: 400,
    message: `${param === "" ? "the body" : param}: ${message.split("\n", 1)[0]!.slice(0, 300)}`,
    ...(param === "" ? {} : { param })
  })
}

/** The body decoded by a schema. */
const decoded = <A, I>(schema: Schema.Schema<A, I>, limit: number) =>
  Effect.gen(function*() {
    const text = yield* bodyOf(limit)
    const value = yield* parseJson(text).pipe(
      Effect.mapError((problem) => new Refusal({ status: 400, message: `the body of the request ${because(problem)}` }))
    )
    return yield* Schema.decodeUnknown(schema)(value).pipe(Effect.mapError(problemOf))
  })

const json = (body: unknown, status = 200, headers: Readonly<Record<string, string>> = {}) =>
  HttpServerResponse.text(JSON.stringify(body), { status, contentType: "application/json", headers })

const refused = (refusal: Refusal) =>
  json(refusal.body, refusal.status, {
    ...(refusal.retryAfter === undefined ? {} : { "retry-after": `${refusal.retryAfter}` }),
    ...(refusal.status === 401 ? { "www-authenticate": "Bearer" } : {})
  })

/** Texts that are equal in time that tells nothing. */
const isEqual = (a: string, b: string): boolean => {
  const hash = (text: string) => createHash("sha256").update(text).digest()
  return timingSafeEqual(hash(a), hash(b))
}

/** How models are listed: the states, and own sinks of the largest sources. */
const LISTED = 1000

const modelsOf = (served: Served) =>
  Effect.gen(function*() {
    const { created, denied, engine: { maxLength }, name, names, router } = served
    const { sinks } = denied
    const sources = sinks === undefined || names === undefined
      ? []
      : (yield* Effect.orDie(names.largest(LISTED + denied.size))).filter(({ id }) => !denied.has(id)).slice(0, LISTED)
    const states = sinks === undefined
      ? []
      : ["off", "placebo", ...(router === undefined ? [] : ["nearest"]), ...sources.map((one) => `own:${one.name}`)]
    return [name, ...states.map((state) => `${name}:${state}`)].map((id) => ({
      id,
      object: "model",
      created,
      owned_by: "memsinks",
      max_model_len: maxLength
    }))
  })

const tokenizerOf = ({ tokenizer }: Served) =>
  tokenizer === undefined
    ? Effect.fail(new Refusal({ status: 400, message: "the model has no tokenizer" }))
    : Effect.succeed(tokenizer)

const routes = (holder: Holder, options: ServerOptions) => {
  const { bodyLimit = 2 ** 23, cors, host = "127.0.0.1", keys = [], ping = 15 } = options
  const local = isLoopback(host)

  const served = Effect.suspend(() =>
    holder.served === undefined
      ? Effect.fail(new Refusal({ status: 503, code: "loading", message: "Loading model", retryAfter: 1 }))
      : Effect.succeed(holder.served)
  )

  /** Who may ask at all. */
  const admitted = Effect.gen(function*() {
    const { headers, method, url } = yield* HttpServerRequest.HttpServerRequest
    const named = (headers["host"] ?? "").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1")
    if (local && !isLoopback(named)) {
      return yield* new Refusal({ status: 403, message: "this address answers to localhost alone" })
    }
    const { origin } = headers
    if (origin !== undefined && cors !== "*" && origin !== cors) {
      return yield* new Refusal({ status: 403, message: `pages of ${origin} may not ask: see --cors` })
    }
    if (keys.length === 0 || method === "OPTIONS" || /^(\/v1)?\/health$/.test(url.split("?", 1)[0]!)) return
    const given = /^Bearer\s+(.+)$/i.exec(headers["authorization"] ?? "")?.[1] ?? ""
    if (!keys.some((key) => isEqual(key, given))) {
      return yield* new Refusal({ status: 401, code: "invalid_api_key",
        message: "the request bears no key of this server: Authorization: Bearer KEY" })
    }
  })

  const health = Effect.sync(() =>
    holder.served === undefined
      ? json({ error: { code: 503, message: "Loading model", type: "unavailable_error" } }, 503)
      // whoever asks needs no key: what is wrong, and with whose name, only the log says
      : json({ status: "ok", ...(holder.staleSince === undefined ?
        {} :
        {
          deny_list: { status: "stale", since: holder.staleSince.toISOString(),
            message:
              "what it was changed to cannot be taken, and an earlier one is in force: the server's log says why" }
        }) })
  )

  const completions = Effect.gen(function*() {
    const models = yield* served
    const request = yield* decoded(CompletionRequest, bodyLimit)
    const model = yield* modelOf(models, request.model)
    const answer = yield* complete(model, request)
    if ("json" in answer) return json(answer.json)
    const pings = Stream.fromSchedule(Schedule.spaced(ping * 1000)).pipe(Stream.map(() => ": ping\n\n"))
    const events = Stream.map(answer.events, (data) => `data: ${data}\n\n`)
    return HttpServerResponse.stream(
      Stream.encodeText(Stream.merge(events, pings, { haltStrategy: "left" })),
      { contentType: "text/event-stream", headers: { "cache-control": "no-cache", "x-accel-buffering": "no" } }
    )
  })

  const tokenize = Effect.gen(function*() {
    const models = yield* served
    const { add_special_tokens: framed, content, model: asked, prompt = content } = yield* decoded(
      TokenizeRequest,
      bodyLimit
    )
    const model = yield* modelOf(models, asked)
    const tokenizer = yield* tokenizerOf(model)
    if (prompt === undefined) {
      return yield* new Refusal({ status: 400, param: "prompt", message: "prompt: expected a text" })
    }
    const { addBos, bos } = model.ends
    const tokens = [...(framed && addBos && bos !== undefined ? [bos] : []), ...tokenizer.encode(prompt)]
    return json({ tokens, count: tokens.length, max_model_len: model.engine.maxLength })
  })

  const detokenize = Effect.gen(function*() {
    const models = yield* served
    const { model, tokens } = yield* decoded(DetokenizeRequest, bodyLimit)
    const tokenizer = yield* tokenizerOf(yield* modelOf(models, model))
    const beyond = tokens.find((token) => token >= tokenizer.vocabSize)
    if (beyond !== undefined) {
      return yield* new Refusal({ status: 400, param: "tokens",
        message: `token ${beyond} is outside the tokenizer's vocabulary of ${tokenizer.vocabSize}` })
    }
    const text = tokenizer.decode(tokens)
    return json({ prompt: text, content: text })
  })

  const tokenizerInfo = Effect.gen(function*() {
    const { url } = yield* HttpServerRequest.HttpServerRequest
    const asked = new URLSearchParams(url.split("?").slice(1).join("?")).get("model") ?? undefined
    const model = yield* modelOf(yield* served, asked)
    const tokenizer = yield* tokenizerOf(model)
    const named = new Map([...tokenizer.specialTokens].map(([name, id]) => [id, name]))
    const name = (id: number | undefined) => id === undefined ? null : named.get(id) ?? tokenizer.decode([id])
    const { bos, eos } = model.ends
    return json({
      tokenizer_class: "PreTrainedTokenizerFast",
      eos_token: name(eos[0]),
      bos_token: name(bos),
      pad_token: name(eos[0]),
      chat_template: null
    })
  })

  const deny = Effect.gen(function*() {
    const { headers } = yield* HttpServerRequest.HttpServerRequest
    const models = yield* served
    // what a page in a browser may send without asking first
    if (!/^application\/json\b/i.test(headers["content-type"] ?? "")) {
      return yield* new Refusal({ status: 415, message: "expected Content-Type: application/json" })
    }
    const { deny, exclude, model } = yield* decoded(DenyRequest, bodyLimit)
    if (deny.length + exclude.length === 0) {
      return yield* wrong("deny", "name sources that are to be denied, or excluded: both lists are empty")
    }
    const some = model === undefined ? models : [yield* modelOf(models, model)]
    const told = (source: typeof deny[number]): Told => typeof source === "number" ? `${source}` : source
    const sources = { deny: deny.map(told), exclude: exclude.map(told) }
    const kept = yield* (options.deny?.(some, sources) ?? Effect.as(denyMore(some, "admin", sources), false)).pipe(
      Effect.mapError(({ message }) => new Refusal({ status: 400, param: "deny", code: "source_not_found", message }))
    )
    return json({
      models: some.map(({ denied, name }) => ({
        model: name,
        denied: denied.size,
        excluded_units: denied.excluded,
        deny_version: denied.version
      })),
      kept
    })
  })

  const crossed =
    (headers: Readonly<Record<string, string>> = {}) => (response: HttpServerResponse.HttpServerResponse) =>
      cors === undefined
        ? response
        : HttpServerResponse.setHeaders(response, { "access-control-allow-origin": cors, vary: "origin", ...headers })

  const preflight = crossed({
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization, content-type",
    "access-control-max-age": "600"
  })

  const other = Effect.gen(function*() {
    const { method, url } = yield* HttpServerRequest.HttpServerRequest
    if (method === "OPTIONS" && cors !== undefined) return preflight(HttpServerResponse.empty())
    return yield* new Refusal({ status: 404, code: "unknown_url", message: `there is no ${method} ${url}: see /docs` })
  })

  /** Looks at who asks before a route does anything. */
  const route = <E, R>(body: Effect.Effect<HttpServerResponse.HttpServerResponse, E | Refusal, R>) =>
    Effect.zipRight(admitted, body).pipe(
      Effect.catchAll((error) => Effect.succeed(error instanceof Refusal ? refused(error) : refused(bug))),
      // who has gone is no bug
      Effect.catchAllCause((cause) =>
        Cause.isInterruptedOnly(cause) ? Effect.failCause(cause as Cause.Cause<never>) : Effect.zipRight(
          Effect.logError(`a request failed: ${because(Cause.squash(cause))}`),
          Effect.succeed(refused(bug))
        )
      ),
      Effect.map(crossed())
    )
  const get = <E, R>(path: HttpRouter.PathInput, body: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    HttpRouter.get(path, route(body))
  const post = <E, R>(path: HttpRouter.PathInput, body: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    HttpRouter.post(path, route(body))

  return HttpRouter.empty.pipe(
    get("/health", health),
    get("/v1/health", health),
    get("/v1/models", Effect.flatMap(served, (models) => Effect.forEach(models, modelsOf)).pipe(
      Effect.map((data) => json({ object: "list", data: data.flat() }))
    )),
    post("/v1/completions", completions),
    post("/tokenize", tokenize),
    post("/detokenize", detokenize),
    get("/tokenizer_info", tokenizerInfo),
    get("/metrics",
      Effect.map(served, (models) =>
        HttpServerResponse.text(textOf(models, holder.staleSince !== undefined), {
          contentType: "text/plain; version=0.0.4; charset=utf-8"
        }))),
    post("/admin/deny", deny),
    get("/openapi.json", Effect.sync(() => json(openApi()))),
    get("/docs", Effect.sync(() =>
      HttpServerResponse.text(page(openApi()), {
        contentType: "text/html; charset=utf-8",
        headers: { "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'" }
      })
    )),
    HttpRouter.all("*", route(other))
  )
}

const bug = new Refusal({ status: 500, message: "the server has a bug: see what it wrote" })

/**
 * Serves until the scope closes, which lets answers under way come to their end for a second. Gives the port. Fails with a
 * DataError where it is taken.
 */
export const serve = (holder: Holder, options: ServerOptions): Effect.Effect<number, DataError, Scope.Scope> =>
  Effect.gen(function*() {
    const { host = "127.0.0.1", patience = 30, port, timeout = 600_000 } = options
    // who sends slowly, or nothing, holds a connection no longer than this
    const server = createServer({
      headersTimeout: patience * 1000,
      requestTimeout: patience * 1000,
      connectionsCheckingInterval: Math.min(5000, patience * 500),
      maxHeaderSize: 16_384,
      keepAliveTimeout: 65_000
    })
    server.maxConnections = CONNECTIONS
    server.timeout = timeout + 60_000
    const listening = yield* NodeHttpServer.make(() => server, { port, host }).pipe(
      Effect.mapError(({ cause }) =>
        new DataError({ detail: `the server cannot listen on ${host}, port ${port}: ${because(cause)}`, cause })
      )
    )
    yield* listening.serve(routes(holder, options))
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        server.closeIdleConnections()
        setTimeout(() => server.closeAllConnections(), 1000).unref()
      })
    )
    return listening.address._tag === "TcpAddress" ? listening.address.port : port
  })
