/**
 * An S3-compatible server in this process: s3rver, before which conditional writes are kept to, as S3 has them and s3rver has not.
 */
import { mkdirSync } from "node:fs"
import { createRequire } from "node:module"
import type { AddressInfo } from "node:net"

interface Context {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string | undefined>>
  status: number
  body: unknown
}
interface Server {
  readonly middleware: Array<(context: Context, next: () => Promise<void>) => Promise<void>>
  run(): Promise<AddressInfo>
  close(): Promise<void>
}
type Options = Readonly<Record<string, unknown>>
const S3rver = createRequire(import.meta.url)("s3rver") as new(options: Options) => Server

/** The environment of a client that has every right. */
export const keys = { AWS_ACCESS_KEY_ID: "S3RVER", AWS_SECRET_ACCESS_KEY: "S3RVER" }

/** Serves the bucket `sinks` out of a folder; `conditional`: whether it keeps to conditions of writes. */
export const serveBucket = async (directory: string, { conditional = true } = {}) => {
  mkdirSync(directory, { recursive: true })
  const server = new S3rver({ directory, port: 0, address: "127.0.0.1", silent: true,
    configureBuckets: [{ name: "sinks" }] })
  let endpoint = ""
  const last = new Map<string, Promise<unknown>>()
  if (conditional) {
    server.middleware.unshift(async (context, next) => {
      const { "if-match": match, "if-none-match": none } = context.headers
      if (context.method !== "PUT") return next()
      // one write of an object at a time
      const before = last.get(context.path)
      const turn = (async () => {
        await before?.catch(() => {})
        if (match !== undefined || none !== undefined) {
          const { AwsClient } = await import("aws4fetch")
          const client = new AwsClient({ accessKeyId: "S3RVER", secretAccessKey: "S3RVER", service: "s3",
            region: "us-east-1" })
          const head = await client.fetch(endpoint + context.path, { method: "HEAD" })
          const tag = head.ok ? head.headers.get("etag") : undefined
          if (none === "*" ? tag !== undefined : tag !== match) {
            context.status = tag === undefined && none === undefined ? 404 : 412
            context.body = "<Error><Code>PreconditionFailed</Code></Error>"
            return
          }
        }
        await next()
      })()
      last.set(context.path, turn)
      await turn
    })
  }
  const { port } = await server.run()
  endpoint = `http://127.0.0.1:${port}`
  return { environment: { ...keys, AWS_ENDPOINT_URL: endpoint }, endpoint, close: () => server.close() }
}
