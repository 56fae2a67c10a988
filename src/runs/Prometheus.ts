/** The numbers of a run where Prometheus finds them: `GET /metrics` in its text format. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { DataError } from "../Errors.ts"
import * as RunMetrics from "./RunMetrics.ts"

const label = (value: string): string => value.replace(/\\/g, "\\\\").replace(/"/g, "\\\"").replace(/\n/g, "\\n")

const number = (value: number): string =>
  Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf"

/** The text format 0.0.4. */
export const toText = (readings: ReadonlyArray<RunMetrics.Reading>): string =>
  readings.flatMap(({ description, labels, name, value }, i) => {
    const tags = Object.entries(labels).map(([key, text]) => `${key}="${label(text)}"`).join(",")
    return [
      ...(readings[i - 1]?.name === name ? [] : [`# HELP ${name} ${description}`, `# TYPE ${name} gauge`]),
      `${name}${tags === "" ? "" : `{${tags}}`} ${number(value)}`
    ]
  }).map((line) => `${line}\n`).join("")

/**
 * Serves the numbers of this process until the scope closes. Returns the port. Fails with DataError where it is taken.
 *
 * @param address `9464`: on this machine only; `0.0.0.0:9464`: to everybody; port 0: one that is free
 */
export const serve = (address: string): Effect.Effect<number, DataError, Scope.Scope> => {
  const [, host = "127.0.0.1", port = ""] = /^(?:(.+):)?(\d{1,5})$/.exec(address) ?? []
  const problem = (detail: string) => new DataError({ detail: `no metrics on ${JSON.stringify(address)}: ${detail}` })
  if (port === "" || Number(port) > 65535) return Effect.fail(problem("expected a port, or host:port, e.g. 0.0.0.0:9464"))
  const listen = Effect.async<Server, DataError>((resume) => {
    const server = createServer((request, response) => {
      if (request.url?.split("?", 1)[0] !== "/metrics") {
        response.writeHead(404, { "content-type": "text/plain" }).end("see /metrics\n")
        return
      }
      const text = toText(Effect.runSync(RunMetrics.read))
      response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(text)
    })
    server.once("error", (error) => resume(Effect.fail(problem(error.message))))
    server.listen(Number(port), host, () => resume(Effect.succeed(server)))
    // a run that is done must not wait for whoever watches
    server.unref()
  })
  return Effect.acquireRelease(listen, (server) =>
    Effect.sync(() => {
      server.close()
      server.closeAllConnections()
    })).pipe(Effect.map((server) => (server.address() as AddressInfo).port))
}
