/** A small hub: the routes of the Hugging Face Hub that reading a dataset needs, on loopback. */
import { createHash } from "node:crypto"
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export interface HubFile {
  readonly content: Uint8Array
  /** Stored as a large file: the hub answers with a redirect to another host, and lists its SHA-256. */
  readonly large: boolean
}

export interface HubDataset {
  readonly files: Readonly<Record<string, HubFile>>
  /** Names of revisions; `main` is this one commit if not said otherwise. */
  readonly revisions?: ReadonlyArray<string>
  /** The token without which it is not given. */
  readonly token?: string
}

/** What a test makes go wrong, and what it sees. */
export interface Hub {
  readonly url: string
  readonly commit: string
  /** Method, path, range and token of every request, that to the other host with `cdn` before it. */
  readonly requests: Array<string>
  /** Connections of the other host that are cut after so many bytes, one after the other. */
  readonly cuts: Array<number>
  /** Answers instead of the next ones. */
  readonly answers: Array<number>
  /** Changes a byte of what the other host gives. */
  damage: boolean
  readonly close: () => Promise<void>
}

const listen = async (listener: RequestListener) => {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close }
}

const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void => {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body))
}

const sha256 = (content: Uint8Array): string => createHash("sha256").update(content).digest("hex")

const gitHash = (content: Uint8Array): string =>
  createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex")

const PAGE = 2

export const startHub = async (datasets: Readonly<Record<string, HubDataset>>): Promise<Hub> => {
  const commit = "0123456789abcdef0123456789abcdef01234567"
  const requests: Array<string> = []
  const cuts: Array<number> = []
  const answers: Array<number> = []
  const hub = { commit, requests, cuts, answers, damage: false }

  const note = (where: string, { headers, method, url }: IncomingMessage): void => {
    const token = headers.authorization === undefined ? "" : ` ${headers.authorization}`
    requests.push(`${where}${method} ${url!.replace(/\?.*/, "")}${headers.range ? ` ${headers.range}` : ""}${token}`)
  }

  const send = (
    request: IncomingMessage,
    response: ServerResponse,
    content: Uint8Array,
    etag: string,
    cut?: number
  ): void => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? []
    const start = Number(from ?? 0)
    const part = content.slice(start, to === undefined ? undefined : Number(to) + 1)
    response.writeHead(from === undefined ? 200 : 206, {
      etag: `"${etag}"`,
      "content-length": part.length,
      ...(from === undefined ? {} : { "content-range": `bytes ${start}-${start + part.length - 1}/${content.length}` })
    })
    if (cut === undefined) response.end(part)
    else response.write(part.subarray(0, cut), () => setTimeout(() => response.destroy(), 20))
  }

  const large = new Map<string, Uint8Array>()
  const cdn = await listen((request, response) => {
    note("cdn ", request)
    const content = large.get(new URL(request.url!, "http://cdn").pathname.slice(1))!
    const bytes = hub.damage ? content.map((byte, i) => (i === 0 ? byte ^ 1 : byte)) : content
    // The first request for a file is one for a byte, to learn its size.
    send(request, response, bytes, sha256(content), request.headers.range === "bytes=0-0" ? undefined : cuts.shift())
  })

  const origin = await listen((request, response) => {
    note("", request)
    const { pathname, searchParams } = new URL(request.url!, "http://hub")
    const answer = answers.shift()
    if (answer !== undefined) return json(response, answer, { error: "as the test wants" })
    const [, api, name, route, rest] =
      /^\/(api\/)?datasets\/([^/]+\/[^/]+)\/(revision|tree|resolve)\/(.*)$/.exec(pathname) ?? []
    const dataset = datasets[name ?? ""]
    if (dataset === undefined || rest === undefined) return json(response, 404, { error: "Repository not found" })
    if (dataset.token !== undefined && request.headers.authorization !== `Bearer ${dataset.token}`) {
      const status = request.headers.authorization === undefined ? 401 : 403
      return json(response, status, { error: `Access to dataset ${name} is restricted.` })
    }
    const slash = rest.indexOf("/")
    const revision = decodeURIComponent(slash < 0 ? rest : rest.slice(0, slash))
    if (revision !== commit && !(dataset.revisions ?? ["main"]).includes(revision)) {
      return json(response, 404, { error: `Invalid rev id: ${revision}` })
    }
    if (api && route === "revision") return json(response, 200, { _id: "1", id: name, sha: commit, lastModified: 0 })
    if (api && route === "tree") {
      const entries = Object.entries(dataset.files).map(([path, { content, large }]) => ({
        type: "file",
        path,
        size: content.length,
        oid: large ? gitHash(new TextEncoder().encode(sha256(content))) : gitHash(content),
        ...(large ? { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } } : {})
      }))
      const folders = [...new Set(entries.flatMap(({ path }) => path.includes("/") ? [path.replace(/\/.*/, "")] : []))]
      const all = [...folders.map((path) => ({ type: "directory", path, size: 0, oid: "0" })), ...entries]
      const at = Number(searchParams.get("cursor") ?? 0)
      const next = `http://${request.headers.host}${pathname}?recursive=true&cursor=${at + PAGE}`
      const link = at + PAGE < all.length ? { link: `<${next}>; rel="next"` } : undefined
      return json(response, 200, all.slice(at, at + PAGE), link)
    }
    const file = dataset.files[decodeURIComponent(rest.slice(slash + 1))]
    const absent = { "x-error-code": "EntryNotFound" }
    if (file === undefined) return json(response, 404, { error: "Entry not found" }, absent)
    if (!file.large) return send(request, response, file.content, gitHash(file.content))
    const key = sha256(file.content)
    large.set(key, file.content)
    response.writeHead(302, { location: `${cdn.url}/${key}?signature=1`, "x-linked-etag": `"${key}"` }).end()
  })

  return Object.assign(hub, {
    url: origin.url,
    close: async () => {
      await origin.close()
      await cdn.close()
    }
  })
}
