/** `memsinks forget --server`: a server that runs is told whom it lights no more; no file of a model changes. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { readFileSync } from "node:fs"
import * as Corpus from "../data/Corpus.ts"
import { because, DataError } from "../Errors.ts"
import { parseRequests } from "../forget/Request.ts"
import { parseJson } from "../Json.ts"
import { plural } from "../Terminal.ts"
import type { ForgetOptions } from "./commands/forget.ts"
import * as Edge from "./Edge.ts"

/** Milliseconds that a server has to answer. */
const PATIENCE = 60_000

const Answer = Schema.Struct({
  models: Schema.Array(Schema.Struct({
    model: Schema.String,
    denied: Schema.Number,
    excluded_units: Schema.Number,
    deny_version: Schema.String
  })),
  kept: Schema.Boolean
})

const Refused = Schema.Struct({ error: Schema.Struct({ message: Schema.String }) })

/** The names and ids that are asked for; what else requests go by, only files know. */
const namedIn = (options: ForgetOptions) =>
  Effect.gen(function*() {
    const path = Option.getOrUndefined(options.request)
    const inFile = path === undefined ? [] : yield* parseRequests(yield* Corpus.readText(path), path)
    const other = inFile.find(({ by }) => by !== "source" && by !== "id")?.by ??
      (["owner", "prefix", "document"] as const).find((by) => options[by].length > 0) ??
      (Option.isSome(options.text) ? "text" : undefined)
    if (other !== undefined) {
      const message = `--server is told names and ids: --source, --id, or --request with these, not with ${other}`
      return yield* Effect.fail(Edge.usage({ message }))
    }
    // said what each is: an id and a name may look alike
    const named = [
      ...options.source.map((source) => ({ source })),
      ...options.id.map((id) => ({ id })),
      ...inFile.map(({ by, value }) => by === "id" ? { id: value } : { source: value })
    ]
    if (named.length > 0) return named
    return yield* Effect.fail(Edge.usage({ message: "say whom to deny: --source <name>, --id, or --request <file>" }))
  })

const keyIn = (path: string) =>
  Effect.try({
    try: () => readFileSync(path, "utf8").trim().split(/\s/, 1)[0]!,
    catch: (cause) => new DataError({ path, detail: `cannot be read: ${because(cause)}`, cause })
  })

/** Tells the server, and prints what is off there then. */
export const tellServer = (options: ForgetOptions, server: string) =>
  Effect.gen(function*() {
    const operation = Option.getOrElse(options.operation, () => "deny" as const)
    if (operation !== "deny" && operation !== "exclude" || options.restore) {
      const message = options.restore
        ? "--server can deny and exclude: to take back, leave the line out of its --deny or --exclude file, or start it anew"
        : `--server can deny and exclude: ${operation} in its checkpoint`
      return yield* Effect.fail(Edge.usage({ message }))
    }
    const idle = ["checkpoint", "data", "out", "shared", "oracle", "key"] as const
    const given = options.dryRun
      ? "dryRun"
      : options.allCheckpoints
      ? "allCheckpoints"
      : idle.find((name) => Option.isSome(options[name] as Option.Option<unknown>))
    if (given !== undefined) {
      const flag = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
      const message = `--${flag} is for a checkpoint: --server denies at once, and writes no model`
      return yield* Effect.fail(Edge.usage({ message }))
    }
    if (!/^https?:$/.test(URL.canParse(server) ? new URL(server).protocol : "")) {
      const message = `--server is an address such as http://127.0.0.1:8000, got ${server}`
      return yield* Effect.fail(Edge.usage({ message }))
    }
    const named = yield* namedIn(options)
    const key = yield* Effect.transposeOption(Option.map(options.apiKeyFile, keyIn))
    const url = `${server.replace(/\/+$/, "").replace(/\/v1$/, "")}/admin/deny`
    const { body, status } = yield* Effect.tryPromise({
      try: async (signal) => {
        const response = await fetch(url, {
          method: "POST",
          signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]),
          headers: {
            "content-type": "application/json",
            ...(Option.isSome(key) ? { authorization: `Bearer ${key.value}` } : {})
          },
          body: JSON.stringify({ [operation]: named })
        })
        return { status: response.status, body: await response.text() }
      },
      catch: (cause) => new DataError({ path: url, detail: `does not answer: ${because(cause)}`, cause })
    })
    const json = yield* Effect.either(parseJson(body))
    const value = Either.isRight(json) ? json.right : undefined
    if (status !== 200) {
      const said = Schema.decodeUnknownOption(Refused)(value)
      return yield* new DataError({
        path: url,
        detail: Option.isSome(said)
          ? `refuses (${status}): ${said.value.error.message}`
          : `answers with status ${status}`
      })
    }
    const answer = Schema.decodeUnknownOption(Answer)(value)
    if (Option.isNone(answer)) return yield* new DataError({ path: url, detail: "is no server of memsinks" })
    if (options.json) return yield* Edge.print(body)
    yield* Edge.print([
      ...answer.value.models.map(({ deny_version: version, denied, excluded_units: units, model }) =>
        `${model}: ${plural(denied, "source")} denied, ${plural(units, "unit")} off for all, list ${version}`
      ),
      answer.value.kept
        ? "also when the server is started anew: its files were written"
        : `until the server is stopped: started with --${operation} FILE it keeps them`,
      "the weights are as they were: this masks, and deletes nothing"
    ].join("\n"))
  })
