import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { connect } from "node:net"
import { expect } from "vitest"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Engine from "../../src/serve/Engine.ts"
import { denyList } from "../../src/serve/State.ts"
import { off, own, placebo, type SinkMode, unitsOf } from "../../src/Sink.ts"
import { config, exodus, genesis, model, modelOf, psalms, serving, tokenizer } from "./toy.ts"

const withModel = <A, E, R>(test: Effect.Effect<A, E, R | Model>) =>
  Effect.gen(function*() {
    return yield* Effect.provideService(test, Model, yield* model)
  })

const prompt = "In the beginning"

/** What a request gives alone. */
const cold = (sinks: SinkMode, id: bigint, options: Generate.GenerateOptions, text = prompt) =>
  Effect.gen(function*() {
    const { decode, encode } = yield* tokenizer
    const tokens = yield* Generate.collect({ tokens: encode(text), id }, { sinks, stopTokens: [256], ...options })
    return { tokens, text: decode(tokens.filter((token) => token !== 256)) }
  })

const states: ReadonlyArray<readonly [name: string, sinks: SinkMode, id: bigint]> = [
  ["toy", off, 0n],
  ["toy:off", off, 0n],
  ["toy:own:Genesis", own, genesis],
  ["toy:own:Psalms: A", own, psalms],
  [`toy:own:${exodus}`, own, exodus],
  ["toy:placebo", placebo, 0n]
]

/** The data of an answer's events, as they come. */
const eventsOf = (response: Response) =>
  Effect.promise(async () => {
    const text = await response.text()
    return text.split("\n\n").filter((event) => event.startsWith("data: ")).map((event) => event.slice(6))
  })

layer(NodeDevice.layer(), { excludeTestServices: true })("a server", (it) => {
  it.scoped("continues prompts in the state that the model's name or the body asks for, many states at once", () =>
    withModel(Effect.gen(function*() {
      const { denied, json } = yield* serving()
      const sampled = { max_tokens: 6, temperature: 1, top_p: 0.9, top_k: 50, seed: 7 }
      const same = { maxNewTokens: 6, temperature: 1, topP: 0.9, topK: 50, seed: 7 }
      const want = yield* Effect.forEach(states, ([, sinks, id]) => cold(sinks, id, same))
      expect(new Set(want.map(({ text }) => text)).size).toBe(5)
      for (let round = 0; round < 2; round++) {
        const got = yield* Effect.forEach(states, ([model]) =>
          json("/v1/completions", { model, prompt, ...sampled, best_of: null, unknown: { field: 1 } }), {
          concurrency: "unbounded"
        })
        for (const [i, { body, status }] of got.entries()) {
          expect(status, JSON.stringify(body)).toBe(200)
          expect(body.choices[0].text, states[i]![0]).toBe(want[i]!.text)
          expect(body.usage.prompt_tokens).toBe(16)
          expect(body.usage.completion_tokens).toBe(want[i]!.tokens.length)
          expect(body.memsinks.deny_version).toBe(denied.version)
        }
        expect(got.map(({ body }) => body.memsinks.lit[0].source)).toEqual([null, null, "Genesis", "Psalms: A",
          "Exodus", null])
      }
      for (const route of ["Genesis", `${genesis}`]) {
        const { body } = yield* json("/v1/completions", { prompt, ...sampled, memsinks: { route } })
        expect(body.choices[0].text).toBe(want[2]!.text)
      }
      const none = yield* json("/v1/completions", { prompt, ...sampled, memsinks: { route: "none" } })
      expect(none.body.choices[0].text).toBe(want[0]!.text)
      const without = yield* cold({ mode: "own", except: [exodus] }, genesis, same)
      const excluded = yield* json("/v1/completions", { prompt, ...sampled,
        memsinks: { route: "Genesis", exclude: ["Exodus"] } })
      expect(excluded.body.choices[0].text).toBe(without.text)

      // lists and several choices: the same as Generate makes of such a list
      const listed = yield* json("/v1/completions", { model: "toy:off", prompt: [[1, 2], [3]], n: 2, ...sampled })
      const twice = [[1, 2], [1, 2], [3], [3]].map((tokens) => ({ tokens }))
      const both = yield* Generate.collectAll(twice, { ...same, sinks: off, stopTokens: [256] })
      const { decode } = yield* tokenizer
      expect(listed.body.choices.map(({ index, text }: { index: number; text: string }) => [index, text])).toEqual(
        both.map((tokens, i) => [i, decode(tokens.filter((token) => token !== 256))])
      )
      expect(listed.body.usage.prompt_tokens).toBe(3)
    })))

  it.scoped("streams what it would say at once, with usage and an end, and forgets who has gone", () =>
    withModel(Effect.gen(function*() {
      const { ask, engine, json } = yield* serving({ ping: 0.02 })
      const body = { model: "toy:own:Genesis", prompt, max_tokens: 12, temperature: 0, echo: true, logprobs: 2 }
      const whole = (yield* json("/v1/completions", body)).body
      const response = yield* ask("/v1/completions", { ...body, stream: true, stream_options: { include_usage: true } })
      expect(response.headers.get("content-type")).toContain("text/event-stream")
      const events = yield* eventsOf(response)
      expect(events.pop()).toBe("[DONE]")
      const parts = events.map((event) => JSON.parse(event))
      const last = parts.pop()
      expect(last).toMatchObject({ choices: [], usage: whole.usage })
      const choices = parts.map(({ choices }) => choices[0])
      expect(choices.map(({ text }) => text).join("")).toBe(whole.choices[0].text)
      expect(choices.map(({ finish_reason }) => finish_reason)).toEqual([
        ...choices.slice(1).map(() => null),
        whole.choices[0].finish_reason
      ])
      for (const field of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
        expect(choices.flatMap(({ logprobs }) => logprobs[field]), field).toEqual(whole.choices[0].logprobs[field])
      }
      expect(parts[0]).toMatchObject({ usage: null, memsinks: { lit: [{ state: "own", source: "Genesis" }] } })

      // who goes while others wait gives up the slot
      const long = { model: "toy:off", prompt: [[1]], max_tokens: 60, temperature: 0, ignore_eos: true }
      const leaving = yield* Effect.forkScoped(ask("/v1/completions", { ...long, prompt: Array(20).fill([1]) }))
      while (engine.counts.waiting === 0) yield* Effect.sleep(1)
      yield* Fiber.interrupt(leaving)
      while (engine.counts.running + engine.counts.waiting > 0) yield* Effect.sleep(1)
      const kept = yield* json("/v1/completions", long)
      expect(kept.body.usage.completion_tokens).toBe(60)
    })))

  it.scoped("ends at stop texts, stop tokens and the context, and reads a prompt without adding to it", () =>
    withModel(Effect.gen(function*() {
      const { json } = yield* serving()
      const ask = (more: object) =>
        Effect.map(json("/v1/completions", { model: "toy:off", prompt: "ab", temperature: 0, ...more }), ({ body }) =>
          body.choices[0])
      const bias = { logit_bias: { 120: 100 } }
      expect(yield* ask({ max_tokens: 3, ...bias })).toEqual({ index: 0, text: "xxx", logprobs: null,
        finish_reason: "length" })
      const cut = yield* ask({ max_tokens: 9, ...bias, stop: ["", "xxx"], logprobs: 0 })
      expect(cut).toMatchObject({ text: "", finish_reason: "stop", logprobs: { tokens: [], top_logprobs: null } })
      const ended = yield* ask({ max_tokens: 9, logit_bias: { 256: 100 }, logprobs: 1 })
      expect(ended).toMatchObject({ text: "", finish_reason: "stop", logprobs: { tokens: ["<|endoftext|>"] } })
      const full = yield* ask({ max_tokens: 1000, ignore_eos: true })
      expect(full.finish_reason).toBe("length")
      const read = yield* ask({ max_tokens: 0, echo: true, logprobs: 1 })
      expect(read).toMatchObject({ text: "ab", finish_reason: "length",
        logprobs: { tokens: ["a", "b"], text_offset: [0, 1] } })
      const { body } = yield* json("/v1/completions", { prompt: "", max_tokens: 1, temperature: 0 })
      expect(body.usage.prompt_tokens).toBe(1)
    })))

  it.scoped("refuses in OpenAI's form what it cannot do, and goes on", () =>
    withModel(Effect.gen(function*() {
      const { ask, holder, json, port, served } = yield* serving({ bodyLimit: 4096, patience: 0.3 }, { slots: 1,
        queue: 4 })
      expect(yield* json("/health")).toMatchObject({ status: 503,
        body: { error: { code: 503, message: "Loading model" } } })
      expect(yield* json("/v1/models")).toMatchObject({ status: 503, body: { error: { code: "loading" } } })
      holder.served = [served]
      expect(yield* json("/health")).toMatchObject({ status: 200, body: { status: "ok" } })
      const cases: ReadonlyArray<readonly [body: unknown, status: number, error: object]> = [
        ["{", 400, { message: expect.stringContaining("the body of the request is not JSON") }],
        [[], 400, { type: "invalid_request_error" }],
        [{}, 400, { param: "prompt" }],
        [{ prompt: [] }, 400, { param: "prompt" }],
        [{ prompt: [[]] }, 400, { param: "prompt" }],
        [{ prompt: [1, "a"] }, 400, { param: "prompt", message: expect.stringContaining("list of texts") }],
        [{ prompt: [1, 2.5] }, 400, { param: "prompt" }],
        [{ prompt: [1, 257] }, 400, { param: "prompt", message: expect.stringContaining("vocabulary of 257") }],
        [{ prompt: Array(65).fill(1) }, 400, { code: "context_length_exceeded",
          message: expect.stringContaining("64") }],
        [{ prompt: "a", temperature: -1 }, 400, { param: "temperature" }],
        [{ prompt: "a", top_p: 0 }, 400, { param: "top_p" }],
        [{ prompt: "a", max_tokens: 1.5 }, 400, { param: "max_tokens" }],
        [{ prompt: "a", logprobs: 21 }, 400, { param: "logprobs" }],
        [{ prompt: "a", n: 5 }, 400, { message: expect.stringContaining("5 sequences") }],
        [{ prompt: "a", presence_penalty: 1 }, 400, { param: "presence_penalty" }],
        [{ prompt: "a", logit_bias: { 300: 1 } }, 400, { param: "logit_bias" }],
        [{ prompt: "a", logit_bias: { x: 1 } }, 400, { param: "logit_bias" }],
        [{ prompt: "a", model: "other" }, 404, { code: "model_not_found" }],
        [{ prompt: "a", model: "toy:on" }, 404, { code: "model_not_found" }],
        [{ prompt: "a", model: "toy:own:Genesi" }, 404, {
          message: expect.stringContaining("Did you mean \"Genesis\"")
        }],
        [{ prompt: "a", model: "toy:off", memsinks: { route: "Genesis" } }, 400, { param: "memsinks.route" }],
        [{ prompt: "a", memsinks: { route: "Levi" } }, 400, { code: "source_not_found" }],
        [{ prompt: "a", memsinks: { dney: ["Genesis"] } }, 400, { param: "memsinks.dney" }],
        [{ prompt: "a", memsinks: { deny: ["Levi"] } }, 400, { param: "memsinks.deny" }],
        [{ prompt: "a", memsinks: { route: "nearest" } }, 501, {
          code: "no_router",
          message: expect.stringMatching(/^toy was given no texts/)
        }],
        [{ prompt: "a", memsinks: { route: "Genesis", deny: ["Genesis"] } }, 403, { code: "source_denied" }],
        [{ prompt: "a", memsinks: { route: "Genesis", allow: ["Exodus"] } }, 403, { code: "source_denied" }],
        [{ prompt: "a".repeat(5000) }, 413, { code: "too_large" }]
      ]
      for (const [body, status, error] of cases) {
        const got = yield* json("/v1/completions", body)
        expect([got.status, got.body.error], JSON.stringify(body).slice(0, 80)).toEqual([
          status,
          expect.objectContaining(error)
        ])
      }
      expect(yield* json("/v1/none")).toMatchObject({ status: 404, body: { error: { code: "unknown_url" } } })
      expect((yield* json("/health", undefined, { headers: { origin: "http://evil.example" } })).status).toBe(403)
      expect((yield* ask("/v1/completions", undefined, { method: "OPTIONS" })).status).toBe(404)

      // what is full says when to come again; the others are answered
      const one = { model: "toy:off", prompt: [[1], [2]], max_tokens: 60, temperature: 0, ignore_eos: true }
      const many = yield* Effect.forEach(Array.from({ length: 4 }), () => json("/v1/completions", one), {
        concurrency: "unbounded"
      })
      const statuses = many.map(({ status }) => status).sort()
      expect(statuses[0]).toBe(200)
      expect(statuses.at(-1)).toBe(429)
      expect(many.find(({ status }) => status === 429)!.headers.get("retry-after")).toBe("1")

      // a connection that sends half a request is closed
      const closed = yield* Effect.async<string>((resume) => {
        let said = ""
        const socket = connect(port, "127.0.0.1", () =>
          socket.write("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" +
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"))
        socket.on("data", (data) => void (said += String(data)))
        socket.on("close", () => resume(Effect.succeed(said)))
      }).pipe(Effect.timeout(10_000))
      expect(closed).toContain("408")
      expect((yield* json("/v1/completions", { prompt: "a", max_tokens: 1 })).status).toBe(200)
    })))

  it.scoped("never lights what is denied: not by name, id or route, from one token to the next", () =>
    withModel(Effect.gen(function*() {
      const { ask, denied, json } = yield* serving({ keys: ["other", "secret"] })
      const key = { headers: { authorization: "Bearer secret" } }
      expect((yield* json("/v1/models")).status).toBe(401)
      expect((yield* json("/v1/models", undefined, { headers: { authorization: "Bearer secre" } })).status).toBe(401)
      expect((yield* json("/health")).status).toBe(200)
      const listed = () =>
        Effect.map(json("/v1/models", undefined, key), ({ body }) => body.data.map(({ id }: { id: string }) => id))
      expect(yield* listed()).toEqual(["toy", "toy:off", "toy:placebo", "toy:own:Genesis", "toy:own:Exodus",
        "toy:own:Psalms: A"])

      const before = denied.version
      const long = { model: "toy:own:Genesis", prompt, max_tokens: 48, temperature: 0, ignore_eos: true, stream: true }
      const stream = yield* ask("/v1/completions", long, key)
      const reader = stream.body!.getReader()
      const first = yield* Effect.promise(() => reader.read())
      expect(new TextDecoder().decode(first.value)).toContain(before)
      const got = yield* json("/admin/deny", { deny: ["Genesis"] }, key)
      expect(got).toMatchObject({ status: 200,
        body: { kept: false, models: [{ model: "toy", denied: 1, excluded_units: 0, deny_version: denied.version }] } })
      expect(denied.version).not.toBe(before)
      let rest = ""
      yield* Effect.promise(async () => {
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          rest += new TextDecoder().decode(part.value)
        }
      })
      expect(rest).toContain("source_denied")
      expect(rest.trimEnd().endsWith("data: [DONE]")).toBe(true)

      for (const asked of [{ model: "toy:own:Genesis" }, { model: `toy:own:${genesis}` }, {
        memsinks: { route: "Genesis" }
      }, { memsinks: { route: "Genesis", allow: ["Genesis"] } }]) {
        const refused = yield* json("/v1/completions", { prompt, ...asked }, key)
        expect([refused.status, refused.body.error.code], JSON.stringify(asked)).toEqual([403, "source_denied"])
      }
      expect(yield* listed()).not.toContain("toy:own:Genesis")
      expect((yield* json("/admin/deny", { deny: ["Levi"] }, key)).status).toBe(400)
      expect(
        (yield* json("/admin/deny", { deny: ["Genesis"] }, {
          headers: { ...key.headers, "content-type": "text/plain" }
        }))
          .status
      ).toBe(415)
      expect((yield* json("/admin/deny", { deny: ["Genesis"] })).status).toBe(401)
    })))

  it.scoped("keeps several models apart: names, states, lists, tokenizers, prefixes", () =>
    withModel(Effect.gen(function*() {
      const { holder, json, served } = yield* serving()
      const other = yield* modelOf(4)
      const engine = yield* Effect.provideService(Engine.make({ slots: 4, maxLength: 64, queue: 64 }), Model, other)
      yield* Effect.forkScoped(engine.run)
      // of the name that begins the other's, and without names of its ids or a tokenizer
      const second = { ...served, name: "toy.2", engine, digest: "2", tokenizer: undefined, names: undefined,
        denied: denyList(config.sinks) }
      holder.served = [served, second]
      const tokens = Array.from({ length: 40 }, (_, t) => (11 * t) % 256)
      const body = { prompt: [tokens], max_tokens: 3, temperature: 0, logprobs: 3 }
      const said = (model: string | undefined) =>
        Effect.map(json("/v1/completions", { ...body, model }), ({ body, status }) => {
          expect(status, JSON.stringify(body)).toBe(200)
          return body.choices[0].logprobs.token_logprobs as ReadonlyArray<number>
        })
      const genesisOf = (name: string) => `${name}:own:${genesis}`
      const first = yield* Effect.forEach(["toy:off", "toy.2:off", genesisOf("toy"), genesisOf("toy.2")], said)
      expect(new Set(first.map(String)).size).toBe(4)
      expect(yield* said(undefined)).toEqual(first[0])
      // again, the prompts' pages taken over, and after a deny
      const again = yield* Effect.forEach(["toy:off", "toy.2:off", genesisOf("toy"), genesisOf("toy.2")], said)
      expect(again).toEqual(first)
      expect([served.engine.counts.reusedTokens, engine.counts.reusedTokens]).toEqual([96, 64])

      expect((yield* json("/admin/deny", { deny: ["Exodus"], model: "toy.2" })).status).toBe(400)
      expect((yield* json("/admin/deny", { model: "toy.2" })).body.error.param).toBe("deny")
      expect((yield* json("/admin/deny", { exclude: ["Exodus"] })).body.error.message).toContain(
        "nobody's can be excluded"
      )
      expect([served.denied.size, second.denied.size]).toEqual([0, 0])
      // known to one by name, it is denied in both
      yield* json("/admin/deny", { deny: ["Exodus"] })
      expect([served.denied.has(exodus), second.denied.has(exodus)]).toEqual([true, true])
      const before = engine.counts.reusedTokens
      expect(yield* said("toy.2:off")).toEqual(first[1])
      expect(engine.counts.reusedTokens).toBe(before)

      const { body: { data } } = yield* json("/v1/models")
      expect(data.map(({ id }: { id: string }) => id)).toEqual(["toy", "toy:off", "toy:placebo", "toy:own:Genesis",
        "toy:own:Psalms: A", "toy.2", "toy.2:off", "toy.2:placebo"])
      expect((yield* json("/v1/completions", { ...body, model: "toy.3" })).body.error).toMatchObject({
        code: "model_not_found",
        message: expect.stringContaining("called \"toy\", \"toy.2\"")
      })
      expect((yield* json("/v1/completions", { ...body, model: "toy.2:on" })).status).toBe(404)
      expect((yield* json("/tokenize", { prompt: "a", model: "toy" })).body.tokens).toEqual([97])
      for (const refused of [json("/tokenize", { prompt: "a", model: "toy.2" }), json("/tokenizer_info?model=toy.2"),
        json("/v1/completions", { prompt: "a", model: "toy.2" }),
        json("/v1/completions", { prompt: [Array(65).fill(1)], model: "toy.2" }),
        json("/v1/completions", { prompt: [[257]], model: "toy.2" })])
      {
        expect((yield* refused).status).toBe(400)
      }
      expect((yield* json("/tokenizer_info?model=toy")).status).toBe(200)
    })))

  it.scoped("switches off for everybody what is excluded, from one token to the next", () =>
    withModel(Effect.gen(function*() {
      const { ask, denied, json } = yield* serving()
      const body = { prompt, max_tokens: 6, temperature: 0, ignore_eos: true, logprobs: 3 }
      const said = (model: string) =>
        Effect.map(json("/v1/completions", { ...body, model }), ({ body }) => body.choices?.[0].logprobs.token_logprobs)
      const shares = (a: bigint, b: bigint) =>
        unitsOf(config.sinks!, a).some((unit) => unitsOf(config.sinks!, b).includes(unit))
      expect([shares(exodus, genesis), shares(psalms, genesis)]).toContain(true)
      const gone = shares(exodus, genesis) ? "Exodus" : "Psalms: A"
      const without = yield* cold({ mode: "own", except: [gone === "Exodus" ? exodus : psalms] }, genesis, {
        maxNewTokens: 6,
        temperature: 0,
        stopTokens: []
      })
      const [own, off] = [yield* said("toy:own:Genesis"), yield* said("toy:off")]
      const long = { ...body, max_tokens: 40, stream: true }
      const streams = yield* Effect.forEach(["toy:own:Genesis", "toy:off"], (model) =>
        Effect.gen(function*() {
          const reader = (yield* ask("/v1/completions", { ...long, model })).body!.getReader()
          yield* Effect.promise(() => reader.read())
          return Effect.promise(async () => {
            let rest = ""
            for (let part = await reader.read(); !part.done; part = await reader.read()) {
              rest += new TextDecoder().decode(part.value)
            }
            return rest
          })
        }))
      const { body: told } = yield* json("/admin/deny", { exclude: [gone] })
      expect(told.models).toEqual([{ model: "toy", denied: 1, excluded_units: 2, deny_version: denied.version }])
      // the text that lit one of the units ends there, the other goes on
      const [lit, dark] = [yield* streams[0]!, yield* streams[1]!]
      expect(lit).toContain("source_excluded")
      expect(dark).not.toContain("error")
      expect(dark.match(/"text":/g)!.length).toBeGreaterThan(30)

      const after = yield* json("/v1/completions", { ...body, model: "toy:own:Genesis" })
      const { decode } = yield* tokenizer
      expect(after.body.choices[0].text).toBe(decode(without.tokens))
      expect(yield* said("toy:own:Genesis")).not.toEqual(own)
      expect(yield* said("toy:off")).toEqual(off)
      expect((yield* json("/v1/completions", { ...body, model: `toy:own:${gone}` })).status).toBe(403)
    })))

  it.scoped("tells what it serves and what it did", () =>
    withModel(Effect.gen(function*() {
      const { ask, json } = yield* serving()
      const { body } = yield* json("/tokenize", { prompt: "h\u00e9<|endoftext|>", add_special_tokens: false })
      expect(body.tokens).toEqual([104, 195, 169, 256])
      expect((yield* json("/tokenize", { content: "a" })).body.tokens).toEqual([97])
      expect((yield* json("/detokenize", { tokens: [104, 195, 169] })).body.prompt).toBe("h\u00e9")
      expect((yield* json("/detokenize", { tokens: [300] })).status).toBe(400)
      expect((yield* json("/tokenizer_info")).body).toMatchObject({ eos_token: "<|endoftext|>", bos_token: null })
      yield* json("/v1/completions", { model: "toy:placebo", prompt: [1, 2], max_tokens: 3, ignore_eos: true })
      const metrics = yield* Effect.flatMap(ask("/metrics"), (response) => Effect.promise(() => response.text()))
      expect(metrics).toContain("memsinks_serve_prompt_tokens_total{model=\"toy\"} 2\n")
      expect(metrics).toContain("memsinks_serve_generation_tokens_total{model=\"toy\"} 3\n")
      expect(metrics).toContain("memsinks_serve_sequences_total{model=\"toy\",state=\"placebo\"} 1\n")
      expect(metrics).toContain("# TYPE memsinks_serve_first_token_seconds histogram\n")
      expect(metrics).toContain("memsinks_serve_first_token_seconds_bucket{model=\"toy\",le=\"+Inf\"} 1\n")
      const { body: spec } = yield* json("/openapi.json")
      expect(spec.openapi).toMatch(/^3\.1/)
      // what is described is there, and nothing else
      for (const path of Object.keys(spec.paths)) {
        const method = Object.keys(spec.paths[path])[0]!.toUpperCase()
        const response = yield* ask(path, undefined, { method, ...(method === "POST" ? { body: "{}" } : {}) })
        expect(response.status, path).not.toBe(404)
      }
      const page = yield* Effect.flatMap(ask("/docs"), (response) => Effect.promise(() => response.text()))
      expect(page).toContain("POST /v1/completions")
      expect(page).not.toMatch(/(src|href)="https?:/)
    })))
})
