/**
 * Requests to a hub. The token goes to the hub's own origin and nowhere else, whatever an answer says; nothing is
 * waited for without end, and nothing longer is taken than was agreed.
 */
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { setTimeout as sleep } from "node:timers/promises"
import { because } from "../../Errors.ts"
import { decodeJson } from "../../Json.ts"

/** Where a hub is, and how long it may take. */
export interface HubOptions {
  /** Without a slash at its end. */
  readonly endpoint: string
  readonly token: string | undefined
  /** Milliseconds without a byte, or with hardly one, after which a request is given up. */
  readonly idleMillis: number
  /** Milliseconds before the first new attempt; each further one doubles them. */
  readonly pauseMillis: number
  readonly signal: AbortSignal | undefined
}

/** Why there is no answer that can be used. */
export class HubFailure extends Error {
  readonly kind: "status" | "malformed" | "slow" | "broken"
  readonly status: number | undefined

  constructor(kind: HubFailure["kind"], message: string,
    options: { readonly status?: number; readonly cause?: unknown } = {})
  {
    super(message, { cause: options.cause })
    this.kind = kind
    this.status = options.status
  }
}

/** An answer that is a success, as its bytes come. */
interface Answer {
  readonly status: number
  readonly headers: Headers
  /** Throws a HubFailure where the hub is too slow or breaks off. Leaving it closes the connection. */
  readonly pieces: AsyncGenerator<Uint8Array>
  /** Closes the connection, whether its bytes were read or not. */
  readonly close: () => void
}

/** Fewer bytes a second are no download: a modem of 1990 had ten times as many. */
const SLOWEST = 500
const REDIRECTS = 8
/** Bytes of an answer that is no file: a page of a listing has 1000 entries of 300 bytes. */
const LONGEST_ANSWER = 64 << 20
const LONGEST_REASON = 300

/** Codes of connections that may come about, or hold, when they are tried again. */
const PASSING = ["ECONNRESET", "EPIPE", "ETIMEDOUT", "EAI_AGAIN", "UND_ERR_SOCKET", "UND_ERR_CONNECT_TIMEOUT"]

const codeOf = (cause: unknown): string => {
  const { cause: inner, code } = Object(cause) as { readonly cause?: unknown; readonly code?: unknown }
  return typeof code === "string" ? code : inner === undefined ? "" : codeOf(inner)
}

/** Whether it may work when it is tried again. */
export const isTransient = (cause: unknown): boolean =>
  cause instanceof HubFailure && (
    cause.kind === "slow" || (cause.kind === "broken" && PASSING.includes(codeOf(cause))) ||
    (cause.status !== undefined && (cause.status >= 500 || cause.status === 429))
  )

export const makeClient = ({ endpoint, idleMillis, pauseMillis, signal, token }: HubOptions) => {
  const home = new URL(endpoint).origin
  const seconds = (millis: number) => `${Math.round(millis / 100) / 10} s`

  const failureOf = (cause: unknown, controller: AbortController): unknown => {
    if (signal?.aborted === true) return signal.reason
    if (controller.signal.aborted) return controller.signal.reason
    if (cause instanceof HubFailure) return cause
    const why = because((cause as { readonly cause?: unknown }).cause ?? cause)
    return codeOf(cause).startsWith("HPE_")
      ? new HubFailure("malformed", `it is no HTTP: ${why}`, { cause })
      : new HubFailure("broken", why, { cause })
  }

  /** Runs `step`, which stops when the controller is aborted, for so long at most. */
  const within = async <A>(millis: number, controller: AbortController, step: () => Promise<A>): Promise<A> => {
    const late = () => controller.abort(new HubFailure("slow", `not a byte came in ${seconds(millis)}`))
    const timer = setTimeout(late, millis)
    try {
      return await step()
    } catch (cause) {
      throw failureOf(cause, controller)
    } finally {
      clearTimeout(timer)
    }
  }

  async function* piecesOf(response: Response, controller: AbortController,
    close: () => void): AsyncGenerator<Uint8Array>
  {
    const reader = response.body?.getReader()
    try {
      let waited = 0
      let received = 0
      while (reader !== undefined) {
        const began = performance.now()
        const next = await within(idleMillis, controller, () => reader.read())
        if (next.done) return
        waited += performance.now() - began
        received += next.value.length
        // whoever sends a byte now and then is as good as silent
        if (waited >= idleMillis) {
          if (received < SLOWEST * waited / 1000) {
            throw new HubFailure("slow", `only ${received} bytes came in ${seconds(waited)}`)
          }
          waited = received = 0
        }
        yield next.value
      }
    } finally {
      close()
    }
  }

  /** Reads an answer that must not be long. */
  const all = async (pieces: AsyncGenerator<Uint8Array>, most: number): Promise<string> => {
    const parts: Array<Uint8Array> = []
    let bytes = 0
    for await (const piece of pieces) {
      parts.push(piece)
      bytes += piece.length
      if (bytes > most) throw new HubFailure("malformed", `it has more than ${most} bytes`)
    }
    return Buffer.concat(parts).toString("utf8")
  }

  const reasonOf = async (pieces: AsyncGenerator<Uint8Array>): Promise<string> => {
    const text = await all(pieces, 1 << 16).catch(() => "")
    const said = decodeJson(Schema.Struct({ error: Schema.String }), text)
    return Either.isRight(said) ? said.right.error.slice(0, LONGEST_REASON) : ""
  }

  /** Where an answer sends us: never from TLS to plain text, never with a user and password. */
  const after = (url: URL, location: string | null): URL => {
    let next: URL
    try {
      next = new URL(location ?? "", url)
    } catch (cause) {
      throw new HubFailure("malformed", "it redirects to what is no URL", { cause })
    }
    next.username = next.password = ""
    if (location === null || !/^https?:$/.test(next.protocol) ||
      (url.protocol === "https:" && next.protocol === "http:"))
    {
      throw new HubFailure("malformed", `it redirects from ${url.protocol}// to ${next.protocol}//`)
    }
    return next
  }

  /** Asks for a URL below the endpoint, and follows where that leads. */
  const open = async (path: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> => {
    let url = new URL(`${endpoint}${path}`)
    for (let hops = 0; hops <= REDIRECTS; hops++) {
      signal?.throwIfAborted()
      const controller = new AbortController()
      const stop = () => controller.abort(signal?.reason)
      signal?.addEventListener("abort", stop, { once: true })
      const close = () => {
        signal?.removeEventListener("abort", stop)
        controller.abort(new Error("enough was read"))
      }
      let response: Response
      try {
        response = await within(idleMillis, controller, () =>
          fetch(url, {
            redirect: "manual",
            signal: controller.signal,
            headers: {
              // the bytes as they are kept, so that they can be counted and asked for in parts
              "accept-encoding": "identity",
              ...headers,
              ...(token === undefined || url.origin !== home ? {} : { authorization: `Bearer ${token}` })
            }
          }))
      } catch (cause) {
        close()
        throw cause
      }
      const pieces = piecesOf(response, controller, close)
      if ([301, 302, 303, 307, 308].includes(response.status)) {
        close()
        url = after(url, response.headers.get("location"))
        continue
      }
      if (response.ok) return { status: response.status, headers: response.headers, pieces, close }
      throw new HubFailure("status", await reasonOf(pieces), { status: response.status })
    }
    throw new HubFailure("malformed", `it redirects more than ${REDIRECTS} times`)
  }

  /** Waits before attempt `n`, counted from 0. */
  const pause = (n: number): Promise<void> =>
    sleep(pauseMillis * 2 ** n, undefined, signal === undefined ? {} : { signal })

  /** An answer as JSON of a schema, and its headers; tried again a few times where that may help. */
  const json = async <A, I>(path: string,
    schema: Schema.Schema<A, I>): Promise<{ readonly value: A; readonly headers: Headers }> =>
  {
    for (let n = 0;; n++) {
      try {
        const { headers, pieces } = await open(path, { accept: "application/json" })
        const decoded = decodeJson(schema, await all(pieces, LONGEST_ANSWER))
        if (Either.isLeft(decoded)) throw new HubFailure("malformed", `it ${decoded.left.slice(0, 500)}`)
        return { value: decoded.right, headers }
      } catch (cause) {
        if (n >= 3 || !isTransient(cause)) throw cause
        await pause(n)
      }
    }
  }

  return { open, json, pause }
}
export type HubClient = ReturnType<typeof makeClient>
