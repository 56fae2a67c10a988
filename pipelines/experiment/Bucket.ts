/**
 * A bucket of an S3-compatible service, through the optional package aws4fetch: small objects that are made or replaced only on
 * a condition, and files. Endpoint, region and keys are those of the environment, by the names that all of AWS's tools know.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { dirname } from "node:path"
import process from "node:process"
import { Readable, Transform } from "node:stream"
import { pipeline } from "node:stream/promises"
import { because, CheckpointError } from "../../src/Errors.ts"

/** Put only where there is no such object, or only where it still is the one with this tag. */
export type Condition = "none" | { readonly tag: string }

export interface Bucket {
  /** `s3://bucket/prefix`, for people. */
  readonly url: string
  /** An object's text and its tag; undefined where there is none. */
  readonly get: (
    name: string
  ) => Effect.Effect<{ readonly text: string; readonly tag: string } | undefined, CheckpointError>
  /** The new object's tag; undefined, and nothing is changed, where the condition does not hold. */
  readonly put: (name: string, text: string, condition: Condition) => Effect.Effect<string | undefined, CheckpointError>
  readonly remove: (name: string) => Effect.Effect<void, CheckpointError>
  readonly putFile: (name: string, file: string) => Effect.Effect<void, CheckpointError>
  /** Fetches an object into a file that is whole or not there; fails with Corrupt where it has another checksum. */
  readonly getFile: (name: string, file: string, sha256: string) => Effect.Effect<void, CheckpointError>
}

/** Whether a store is in a bucket. */
export const isBucket = (where: string): boolean => /^s3:\/\//i.test(where)

/** The largest file that one request takes. */
const MOST = 5 * 2 ** 30
/** Bytes of a file that are read at once. */
const AT_ONCE = 2 ** 30
/** Milliseconds for which an answer is waited for. */
const PATIENCE = 60_000

/**
 * Opens `s3://bucket/prefix`, and tries once that it can be written, and that its service keeps to conditions.
 *
 * Fails with CheckpointError: Missing where there is no such bucket, Write where it cannot be written or reached.
 */
export const openBucket = (
  url: string,
  environment: Readonly<Record<string, string | undefined>> = process.env
): Effect.Effect<Bucket, CheckpointError> =>
  Effect.gen(function*() {
    const fail = (detail: string, reason: CheckpointError["reason"] = "Write", cause?: unknown) =>
      new CheckpointError({ reason, path: url, detail, ...(cause === undefined ? {} : { cause }) })
    const [, bucket, rest = ""] = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(\/[\w./=+-]*)?$/i.exec(url) ?? []
    if (bucket === undefined) {
      return yield* fail(
        "is no address of a bucket: write s3://bucket/prefix, of letters, digits, '.', '-', '_' and '/'"
      )
    }
    const prefix = rest.split("/").filter((part) => part !== "").join("/")
    const { AwsClient } = yield* Effect.tryPromise({
      try: () => import("aws4fetch"),
      catch: (cause) =>
        fail(`a store in a bucket needs the optional package aws4fetch (${because(cause)}): npm install aws4fetch`,
          "Write", cause)
    })
    const given = (...names: ReadonlyArray<string>) =>
      names.map((name) => environment[name]?.trim()).find((value) => value !== undefined && value !== "")
    const [accessKeyId, secretAccessKey] = [given("AWS_ACCESS_KEY_ID"), given("AWS_SECRET_ACCESS_KEY")]
    if (accessKeyId === undefined || secretAccessKey === undefined) {
      return yield* fail(
        "its keys are not known: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"
      )
    }
    const sessionToken = given("AWS_SESSION_TOKEN")
    const region = given("AWS_REGION", "AWS_DEFAULT_REGION") ?? "us-east-1"
    const endpoint = given("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") ?? `https://s3.${region}.amazonaws.com`
    if (!URL.canParse(endpoint) || !/^https?:/.test(endpoint)) {
      return yield* fail(`AWS_ENDPOINT_URL must be an http or https address, got ${JSON.stringify(endpoint)}`)
    }
    const client = new AwsClient({ accessKeyId, secretAccessKey, service: "s3", region, retries: 4,
      ...(sessionToken === undefined ? {} : { sessionToken }) })
    const base = `${endpoint.replace(/\/+$/, "")}/${bucket}/${prefix === "" ? "" : `${prefix}/`}`

    /** A request whose answer has one of these states. */
    const ask = (name: string, init: RequestInit, ...fine: ReadonlyArray<number>) =>
      Effect.gen(function*() {
        const answer = yield* Effect.tryPromise({
          try: (signal) =>
            client.fetch(base + name.split("/").map(encodeURIComponent).join("/"), {
              ...init,
              signal: init.body instanceof Blob ? signal : AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)])
            }),
          catch: (cause) =>
            fail(
              `${endpoint} cannot be reached: ${
                because(Object(cause).cause ?? cause)
              }. Look at AWS_ENDPOINT_URL and AWS_REGION, and at the network`,
              "Write",
              cause
            )
        })
        if (fine.includes(answer.status)) return answer
        const text = yield* Effect.promise(() => answer.text().catch(() => ""))
        const said = (tag: string) => new RegExp(`<${tag}>([^<]{1,300})`).exec(text)?.[1]
        const code = said("Code") ?? `status ${answer.status}`
        const why = `${endpoint} says ${code}${said("Message") === undefined ? "" : ` (${said("Message")})`}`
        return yield* code === "NoSuchBucket"
          ? fail(`there is no bucket ${bucket}: ${why}. Make it, or name another with --store`, "Missing")
          : answer.status === 403 || answer.status === 401
          ? fail(
            `the keys have no right to ${init.method} there: ${why}. Look at AWS_ACCESS_KEY_ID and the bucket's policy`
          )
          : answer.status === 301 || answer.status === 307
          ? fail(`the bucket is of another region: ${why}. Set AWS_REGION`)
          : fail(`${init.method} ${name} failed: ${why}`)
      })
    const tagOf = (answer: Response) => answer.headers.get("etag") ?? ""
    const put: Bucket["put"] = (name, text, condition) =>
      Effect.gen(function*() {
        const headers = condition === "none" ? { "If-None-Match": "*" } : { "If-Match": condition.tag }
        // of two that ask at the same moment a service may refuse one, which may ask again
        const answer = yield* ask(name, { method: "PUT", body: text, headers }, 200, 404, 409, 412).pipe(
          Effect.flatMap((answer) =>
            answer.status === 404
              ? Effect.flatMap(Effect.promise(() => answer.text()), (said) =>
                said.includes("NoSuchBucket")
                  ? Effect.fail(fail(`there is no bucket ${bucket}. Make it, or name another with --store`, "Missing"))
                  : Effect.succeed(answer))
              : Effect.succeed(answer)
          ),
          Effect.repeat({ while: ({ status }) => status === 409, times: 5 })
        )
        return answer.status === 200 ? tagOf(answer) : undefined
      })
    const remove: Bucket["remove"] = (name) => Effect.asVoid(ask(name, { method: "DELETE" }, 200, 204, 404))

    const trial = `probe-${createHash("sha256").update(`${process.pid} ${Math.random()}`).digest("hex").slice(0, 16)}`
    yield* put(trial, "1", "none")
    const again = yield* put(trial, "2", "none")
    yield* remove(trial)
    if (again !== undefined) {
      return yield* fail(
        `${endpoint} does not keep to conditions (it replaced an object in spite of If-None-Match: *), so that processes ` +
          "could not share the store: take a service that knows conditional writes, as S3, R2, MinIO and Ceph do, or a folder"
      )
    }
    return {
      url,
      put,
      remove,
      get: (name) =>
        Effect.gen(function*() {
          const answer = yield* ask(name, { method: "GET" }, 200, 404)
          const text = yield* Effect.tryPromise({ try: () => answer.text(),
            catch: (cause) => fail(`${name} cannot be read: ${because(cause)}`) })
          return answer.status === 404 ? undefined : { text, tag: tagOf(answer) }
        }),
      putFile: (name, file) =>
        Effect.gen(function*() {
          const { size } = fs.statSync(file)
          if (size > MOST) return yield* fail(`${file} is larger than the 5 GiB that one object takes`)
          const body = size < AT_ONCE
            ? new Blob([fs.readFileSync(file)])
            : yield* Effect.promise(() => fs.openAsBlob(file))
          yield* ask(name, { method: "PUT", body }, 200)
        }),
      getFile: (name, file, sha256) =>
        Effect.gen(function*() {
          const answer = yield* ask(name, { method: "GET" }, 200)
          const hash = createHash("sha256")
          const temporary = `${file}.part`
          yield* Effect.tryPromise({
            try: async () => {
              fs.mkdirSync(dirname(file), { recursive: true })
              const look = new Transform({
                transform: (chunk: Uint8Array, _, done) => {
                  hash.update(chunk)
                  done(undefined, chunk)
                }
              })
              await pipeline(Readable.fromWeb(answer.body as never), look, fs.createWriteStream(temporary))
            },
            catch: (cause) => fail(`${name} cannot be fetched to ${file}: ${because(cause)}`)
          })
          if (hash.digest("hex") !== sha256) {
            fs.rmSync(temporary, { force: true })
            return yield* fail(`${name} is not as it was written: its sha256 is another`, "Corrupt")
          }
          fs.renameSync(temporary, file)
        })
    }
  })
