/** The numbers of a run where Prometheus finds them: `GET /metrics` in its text format. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { createServer, type IncomingMessage, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { DataError } from "../Errors.ts"
import * as RunMetrics from "./RunMetrics.ts"

const label = (value: string): string => value.replace(/\\/g, "\\\\").replace(/"/g, "\\\"").replace(/\n/g, "\\n")

const number = (value: number): string =>
  Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf"

/** The text format 0.0.4. */
export const toText = (readings: ReadonlyArray<RunMetrics.Reading>): string =>
  readings.flatMap(({ description, family, kind = "gauge", labels, name, value }, i) => {
    const tags = Object.entries(labels).map(([key, text]) => `${key}="${label(text)}"`).join(",")
    const of = family ?? name
    const before = readings[i - 1]
    return [
      ...(before !== undefined && (before.family ?? before.name) === of
        ? []
        : [`# HELP ${of} ${description}`, `# TYPE ${of} ${kind}`]),
      `${name}${tags === "" ? "" : `{${tags}}`} ${number(value)}`
    ]
  }).map((line) => `${line}\n`).join("")

/** `9464`, `host:9464`, `[::1]:9464`; undefined for what is none of them. */
export const addressOf = (text: string): { readonly host: string; readonly port: number } | undefined => {
  const [, bracketed, named, digits] =
    /^(?:(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:[\]]+)):)?(\d{1,5})$/.exec(text) ?? []
  const port = Number(digits ?? NaN)
  return port <= 65535 ? { host: bracketed ?? named ?? "127.0.0.1", port } : undefined
}

/** Whether only this machine reaches a host of this name. */
export const isLoopback = (host: string): boolean =>
  /^(localhost|127(\.\d{1,3}){3}|::1|::ffff:127(\.\d{1,3}){3})$/i.test(host)

/**
 * Serves the numbers of this process until the scope closes. Returns the port. Fails with DataError where it is taken.
 * On an address of this machine alone, requests that name another host are refused: a page in a browser could have
 * sent them.
 *
 * @param address `9464`: on this machine only; `[::1]:9464`, `0.0.0.0:9464`: on that address; port 0: one that is free
 */
export const serve = (address: string): Effect.Effect<number, DataError, Scope.Scope> => {
  const found = addressOf(address)
  const problem = (detail: string) => new DataError({ detail: `no metrics on ${JSON.stringify(address)}: ${detail}` })
  if (found === undefined) {
    return Effect.fail(problem("expected a port, or host:port, e.g. 9464, 0.0.0.0:9464 or [::1]:9464"))
  }
  const local = isLoopback(found.host)
  const answer = (request: IncomingMessage): readonly [status: number, text: string] => {
    const host = (request.headers.host ?? "").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1")
    if (local && !isLoopback(host)) return [403, "this address answers to localhost alone\n"]
    if (request.url?.split("?", 1)[0] !== "/metrics") return [404, "see /metrics\n"]
    return request.method === "GET" || request.method === "HEAD"
      ? [200, toText(Effect.runSync(RunMetrics.read))]
      : [405, "GET alone\n"]
  }
  const listen = Effect.async<Server, DataError>((resume) => {
    // whoever asks slowly, often or much must not cost the run more than a few connections
    const bounds = { maxHeaderSize: 8192, headersTimeout: 5000, requestTimeout: 5000, keepAliveTimeout: 5000,
      connectionsCheckingInterval: 1000 }
    const server = createServer(bounds, (request, response) => {
      let [status, text]: readonly [number, string] = [500, "no numbers\n"]
      try {
        ;[status, text] = answer(request)
      } catch {
        // a run does not end because somebody asks for its numbers
      }
      response.on("error", () => {})
      response.writeHead(status, {
        "content-type": status === 200 ? "text/plain; version=0.0.4; charset=utf-8" : "text/plain",
        // a body that nobody reads stays where it is
        ...(request.method === "GET" || request.method === "HEAD" ? {} : { connection: "close" })
      }).end(request.method === "HEAD" ? undefined : text)
    })
    server.maxConnections = 32
    server.once("error", (error) => resume(Effect.fail(problem(error.message))))
    server.on("error", () => {})
    server.on("clientError", (_, socket) => void socket.destroy())
    server.listen(found.port, found.host, () => resume(Effect.succeed(server)))
    // a run that is done must not wait for whoever watches
    server.unref()
  })
  return Effect.acquireRelease(listen, (server) =>
    Effect.sync(() => {
      server.close()
      server.closeAllConnections()
    })).pipe(Effect.map((server) => (server.address() as AddressInfo).port))
}
