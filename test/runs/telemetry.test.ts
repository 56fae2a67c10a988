import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import { Buffer } from "node:buffer"
import { createServer, type IncomingHttpHeaders, request, type RequestOptions, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { describe, expect } from "vitest"
import * as Otlp from "../../src/runs/Otlp.ts"
import * as Prometheus from "../../src/runs/Prometheus.ts"
import * as RunMetrics from "../../src/runs/RunMetrics.ts"
import type { ProgressEvent } from "../../src/terminal/Progress.ts"
import { Evaluated, Saved, Started, Stepped, type TrainEvent } from "../../src/train/TrainEvent.ts"

const training = (event: TrainEvent): ProgressEvent => ({ _tag: "Training", arm: "sinks", seed: 3, index: 0, count: 1,
  event })

/** What a run tells, of made-up numbers. */
const events = [
  { _tag: "Stage", message: "x" } as const,
  training(new Started({ step: 0, steps: 40, parameters: 100, activeParameters: 50, tokensPerStep: 64, adapter: "a" })),
  training(
    new Stepped({ step: 10, steps: 40, loss: 2.5, gradNorm: 0.5, learningRate: 0.25, tokens: 640, tokensPerSecond: 9 })
  ),
  training(new Evaluated({ step: 10, losses: { "heldOut.off": 3.5, "repeated.own": 1.5 } })),
  training(new Saved({ step: 10, path: "x" }))
]
const told = Effect.forEach(events, RunMetrics.record, { discard: true })

describe("Prometheus", () => {
  it.scoped("finds the numbers of a run at /metrics and nothing elsewhere", () =>
    Effect.gen(function*() {
      yield* told
      const port = yield* Prometheus.serve("0")
      const response = yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/metrics`))
      expect(response.headers.get("content-type")).toContain("version=0.0.4")
      const text = yield* Effect.promise(() => response.text())
      for (const line of [
        "# HELP memsinks_train_loss Mean training loss over the last window, nats a token.",
        "# TYPE memsinks_train_loss gauge",
        "memsinks_train_loss{arm=\"sinks\",seed=\"3\"} 2.5",
        "memsinks_step{arm=\"sinks\",seed=\"3\"} 10",
        "memsinks_steps{arm=\"sinks\",seed=\"3\"} 40",
        "memsinks_tokens_per_second{arm=\"sinks\",seed=\"3\"} 9",
        "memsinks_saved_step{arm=\"sinks\",seed=\"3\"} 10"
      ]) {
        expect(text.split("\n")).toContain(line)
      }
      expect(text).toMatch(/^memsinks_eval_loss\{(?=.*split="heldOut")(?=.*mode="off").*\} 3\.5$/m)
      expect(text).toMatch(/^memsinks_resident_memory_bytes \d{7,}$/m)
      expect(text.match(/# TYPE memsinks_eval_loss/g)).toHaveLength(1)
      expect((yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/`))).status).toBe(404)
      // taken
      const second = yield* Effect.flip(Prometheus.serve(String(port)))
      expect(second.message).toMatch(new RegExp(`no metrics on "${port}": .*EADDRINUSE`))
    }))

  it.scoped("answers on this machine to whoever names this machine, of either family", () =>
    Effect.gen(function*() {
      const port = yield* Prometheus.serve("0")
      const ask = (options: RequestOptions) =>
        Effect.promise(() =>
          new Promise<number>((resolve) =>
            request({ host: "127.0.0.1", port, path: "/metrics", ...options }, (response) => {
              response.resume()
              resolve(response.statusCode!)
            }).end()
          )
        )
      for (const host of ["localhost", `localhost:${port}`, "127.0.0.1:1", "[::1]:9464"]) {
        expect([host, yield* ask({ headers: { host } })]).toEqual([host, 200])
      }
      for (const host of ["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example", "localhost.evil"]) {
        expect([host, yield* ask({ headers: { host } })]).toEqual([host, 403])
      }
      expect(yield* ask({ method: "POST" })).toBe(405)
      const six = yield* Effect.either(Prometheus.serve("[::1]:0"))
      if (six._tag === "Right") {
        expect((yield* Effect.promise(() => fetch(`http://[::1]:${six.right}/metrics`))).status).toBe(200)
      } else expect(six.left.message).toMatch(/EADDRNOTAVAIL|EAFNOSUPPORT/)
    }))

  it.effect("needs a port", () =>
    Effect.gen(function*() {
      expect(
        ["9464", "0.0.0.0:0", "localhost:65535", "[::1]:9464", "[::]:1", "[fe80::1%eth0]:80", "[::ffff:127.0.0.1]:2"]
          .map(Prometheus.addressOf)
      ).toEqual([
        { host: "127.0.0.1", port: 9464 },
        { host: "0.0.0.0", port: 0 },
        { host: "localhost", port: 65535 },
        { host: "::1", port: 9464 },
        { host: "::", port: 1 },
        { host: "fe80::1%eth0", port: 80 },
        { host: "::ffff:127.0.0.1", port: 2 }
      ])
      for (const wrong of ["", "x", "99999", "localhost", "::1:9464", "[x]:1", "[::1]", "a:b:1"]) {
        expect(yield* Effect.flip(Effect.scoped(Prometheus.serve(wrong)))).toMatchObject({ _tag: "DataError" })
      }
    }))

  it("gets labels and numbers in its own notation", () => {
    const reading = { name: "a", description: "b", labels: { x: "q\"\\\n" }, value: NaN }
    expect(Prometheus.toText([reading, { ...reading, labels: {}, value: -Infinity }])).toBe(
      "# HELP a b\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\"} NaN\na -Inf\n"
    )
  })
})

interface Request {
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: any
}

/** A collector on this machine, that answers with a status. */
const collector = (status: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const requests: Array<Request> = []
      const server = createServer((request, response) => {
        let body = ""
        request.on("data", (data) => void (body += data))
        request.on("end", () => {
          requests.push({ url: request.url!, headers: request.headers, body: JSON.parse(body) })
          response.writeHead(status).end("{}")
        })
      })
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
      return { server, requests, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` }
    }),
    ({ server }) => Effect.sync(() => server.close())
  )

const attributes = (list: ReadonlyArray<{ key: string; value: object }>) =>
  Object.fromEntries(list.map(({ key, value }) => [key, Object.values(value)[0]]))

const work = Effect.gen(function*() {
  yield* told
  yield* Effect.void.pipe(Effect.withSpan("save", { attributes: { step: 10, ratio: 0.5, last: true } }))
  yield* Effect.fail(new Error("no more space")).pipe(Effect.withSpan("broken"), Effect.ignore)
}).pipe(Effect.withSpan("train"))

describe("OTLP", () => {
  it.scopedLive("sends every span and number before the run ends", () =>
    Effect.gen(function*() {
      const { endpoint, requests } = yield* collector(200)
      const env = {
        OTEL_SERVICE_NAME: "lab",
        OTEL_RESOURCE_ATTRIBUTES: "team=x%20y",
        OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20z"
      }
      yield* work.pipe(Effect.provide(Otlp.layer({ endpoint, env, attributes: { "service.version": "9" } })))
      expect(requests.map(({ url }) => url)).toEqual(["/v1/traces", "/v1/metrics"])
      expect(requests[0]!.headers).toMatchObject({ "content-type": "application/json", authorization: "Bearer z" })
      const [{ resource, scopeSpans: [{ spans }] }] = requests[0]!.body.resourceSpans
      expect(attributes(resource.attributes)).toMatchObject({ "service.name": "lab", "service.version": "9",
        team: "x y" })
      const [save, broken, train] = spans
      expect([save.name, broken.name, train.name]).toEqual(["save", "broken", "train"])
      expect(train.traceId).toMatch(/^[0-9a-f]{32}$/)
      expect([save.traceId, save.parentSpanId]).toEqual([train.traceId, train.spanId])
      expect(train.parentSpanId).toBeUndefined()
      expect(attributes(save.attributes)).toEqual({ step: "10", ratio: 0.5, last: true })
      expect([save.status, broken.status]).toEqual([{ code: 1 }, { code: 2,
        message: expect.stringContaining("no more space") }])
      expect(BigInt(train.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(save.endTimeUnixNano))
      expect(BigInt(save.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(save.startTimeUnixNano))

      const [{ scopeMetrics: [{ metrics }] }] = requests[1]!.body.resourceMetrics
      const loss = metrics.find((metric: { name: string }) => metric.name === "memsinks.train_loss")
      expect(loss.gauge.dataPoints).toMatchObject([{ asDouble: 2.5 }])
      expect(attributes(loss.gauge.dataPoints[0].attributes)).toEqual({ arm: "sinks", seed: "3" })
    }))

  it.scopedLive("sends while the run goes on", () =>
    Effect.gen(function*() {
      const { endpoint, requests } = yield* collector(200)
      const sent = Effect.gen(function*() {
        while (requests.length < 2) yield* Effect.sleep(10)
      })
      yield* sent.pipe(Effect.provide(Otlp.layer({ endpoint, env: {}, interval: 20 })), Effect.timeout(10_000))
      expect(new Set(requests.map(({ url }) => url))).toEqual(new Set(["/v1/metrics"]))
    }))

  it.scopedLive("tells once of a collector that refuses or is gone, and goes on", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* collector(503)
      for (const [where, reason] of [[endpoint, "it answered 503"], ["http://127.0.0.1:1",
        "connect ECONNREFUSED"]] as const)
      {
        const logged: Array<string> = []
        const logger = Logger.replace(Logger.defaultLogger,
          Logger.make(({ message }) => void logged.push(String(message))))
        const done = yield* Effect.as(work, "done").pipe(
          Effect.provide(Layer.provideMerge(Otlp.layer({ endpoint: where, env: {} }), logger))
        )
        expect(done).toBe("done")
        expect(logged).toEqual([
          expect.stringContaining(`takes no telemetry: ${reason}`),
          expect.stringMatching(/^3 spans did not get to /)
        ])
        expect(logged[0]).toMatch(/Training goes on without$/)
      }
    }))

  const logging = (logged: Array<string>) =>
    Logger.replace(Logger.defaultLogger, Logger.make(({ message }) => void logged.push(String(message))))

  it.scopedLive("waits for no collector that never answers, answers without an end, or sends elsewhere", () =>
    Effect.gen(function*() {
      const elsewhere = yield* collector(200)
      let bytes = 0
      const answers: Record<string, (response: ServerResponse) => void> = {
        silent: () => {},
        endless: (response) => {
          response.writeHead(200)
          const more = (): void => {
            while (!response.destroyed && response.write(Buffer.alloc(65536))) bytes += 65536
            response.once("drain", more)
          }
          more()
        },
        elsewhere: (response) => void response.writeHead(307, { location: `${elsewhere.endpoint}v1/metrics` }).end()
      }
      const server = createServer((request, response) => {
        response.on("error", () => {})
        answers[request.url!.split("/")[1]!]!(response)
      })
      yield* Effect.acquireRelease(
        Effect.promise(() => new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))),
        () => Effect.sync(() => (server.close(), server.closeAllConnections()))
      )
      const root = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      for (const [name, problem] of [
        ["silent", "it did not answer within 0.2 s"],
        ["endless", undefined],
        ["elsewhere", "it answered 307, and redirects are not followed"]
      ] as const) {
        const logged: Array<string> = []
        const began = performance.now()
        yield* Effect.uninterruptible(work.pipe(
          Effect.provide(
            Otlp.layer({ endpoint: `${root}/${name}`, env: { OTEL_EXPORTER_OTLP_HEADERS: "x-api-key=secret" },
              lastPatience: 200 })
          ),
          Effect.provide(logging(logged))
        ))
        expect(performance.now() - began).toBeLessThan(2000)
        if (problem === undefined) expect(logged).toEqual([])
        else {
          expect(logged[0]).toContain(problem)
          expect(logged[1]).toMatch(/^3 spans did not get to /)
          expect(logged.join()).not.toContain("secret")
        }
      }
      expect(elsewhere.requests).toEqual([])
      expect(bytes).toBeLessThan(50e6)
    }))

  it.scopedLive("keeps no more spans than it may, and counts the others once", () =>
    Effect.gen(function*() {
      const logged: Array<string> = []
      yield* Effect.void.pipe(Effect.withSpan("x"), Effect.repeatN(4999)).pipe(
        Effect.provide(Otlp.layer({ endpoint: "http://127.0.0.1:1", env: {} })),
        Effect.provide(logging(logged))
      )
      // those that did not fit, and the batch that was refused
      expect(logged.at(-1)).toMatch(/^1416 spans did not get to /)
      expect(logged).toHaveLength(2)
    }))

  it.effect("takes addresses of the web, and shows no password", () =>
    Effect.gen(function*() {
      for (const wrong of ["not a url", "localhost:4318", "ftp://x", "file:///etc/passwd", "http://"]) {
        const error = yield* Effect.flip(Effect.scoped(Otlp.make({ endpoint: wrong, env: {} })))
        expect(error.message).toContain("is no address of a collector")
      }
      const error = yield* Effect.flip(Effect.scoped(Otlp.make({ endpoint: "ftp://me:secret@x", env: {} })))
      expect(error.message).not.toContain("secret")
      expect(Otlp.addressOf("http://me:secret@x:1/a/").shown).toBe("http://x:1/a")
    }))

  it.scopedLive("sends the user and password of an address as authorization", () =>
    Effect.gen(function*() {
      const { endpoint, requests } = yield* collector(200)
      yield* work.pipe(Effect.provide(Otlp.layer({ endpoint: endpoint.replace("//", "//me:a%20b@"), env: {} })))
      expect(requests[0]!.headers.authorization).toBe(`Basic ${Buffer.from("me:a b").toString("base64")}`)
    }))
})
