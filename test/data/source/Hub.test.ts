import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { parquetWriteBuffer } from "hyparquet-writer"
import { createHash } from "node:crypto"
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync,
  utimesSync, writeFileSync } from "node:fs"
import { createServer, type IncomingMessage, type RequestListener } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { type Document, type SourceSpecInput, stream } from "../../../src/data/Source.ts"
import { hubFiles } from "../../../src/data/source/Hub.ts"
import { chosenFiles, configurationsOf } from "../../../src/data/source/Splits.ts"
import type { DataError } from "../../../src/Errors.ts"
import { type Hub, type HubFile, startHub } from "../../support/hub.ts"

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const small = (text: string): HubFile => ({ content: bytes(text), large: false })
const parquet = (texts: ReadonlyArray<string>): HubFile => ({
  content: new Uint8Array(parquetWriteBuffer({ columnData: [{ name: "text", data: [...texts], type: "STRING" }] })),
  large: true
})

/** Does not compress, so that a download of it is long enough to be cut. */
const noise = (seed: string): string =>
  Array.from({ length: 3000 }, (_, i) => createHash("sha1").update(`${seed} ${i}`).digest("base64")).join("\n")

const plays: Readonly<Record<string, HubFile>> = {
  "README.md": small("---\nlicense: mit\n---\n# Plays"),
  "data/train-00001-of-00002.parquet": parquet(["three"]),
  "data/train-00000-of-00002.parquet": parquet(["one", noise("two")]),
  "data/test-00000-of-00001.parquet": parquet(["test"]),
  "LICENSE.txt": small("mit"),
  "extra/notes.jsonl.gz": { content: gzipSync(`{"text":"note"}\n`), large: false }
}

let hub: Hub
let cache: string

beforeEach(async () => {
  hub = await startHub({
    "ann/plays": { files: plays, revisions: ["main", "refs/convert/parquet"] },
    "ann/secret": {
      files: { "train.jsonl": small(`{"text":"hidden"}`), "big.txt": { ...small("x"), large: true } },
      token: "hf_good"
    }
  })
  cache = mkdtempSync(join(tmpdir(), "memsinks-hub-"))
  vi.stubEnv("HF_ENDPOINT", `${hub.url}/`)
  vi.stubEnv("HF_HOME", cache)
  for (const name of ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"]) {
    vi.stubEnv(name, undefined)
  }
  vi.stubEnv("HF_HUB_OFFLINE", undefined)
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await hub.close()
  rmSync(cache, { recursive: true })
})

const read = (path: string, spec: Partial<SourceSpecInput> = {}): Promise<ReadonlyArray<Document> | DataError> =>
  stream({ ...spec, path }).pipe(
    Stream.runCollect,
    Effect.map(Chunk.toReadonlyArray),
    Effect.merge,
    Effect.provide(NodeFileSystem.layer),
    Effect.runPromise
  )

const texts = async (path: string, spec: Partial<SourceSpecInput> = {}): Promise<unknown> => {
  const found = await read(path, spec)
  return Array.isArray(found) ? (found as ReadonlyArray<Document>).map((d) => d.text) : found
}

const message = async (path: string, spec: Partial<SourceSpecInput> = {}): Promise<string> => {
  const found = await read(path, spec)
  expect(found).toHaveProperty("_tag", "DataError")
  return (found as DataError).message
}

const PLAYS = "hf://datasets/ann/plays"
const train = ["one", noise("two"), "three"]
const storage = () => join(cache, "hub", "datasets--ann--plays")
const hashOf = (path: string): string => createHash("sha256").update(plays[path]!.content).digest("hex")
const FIRST = "data/train-00000-of-00002.parquet"

describe("a dataset of the hub", () => {
  it("gives the documents of its train split, named by file and row, and is not fetched twice", async () => {
    const found = await read(PLAYS)
    expect(found).toEqual([
      { name: `${FIRST}:1`, text: "one", source: FIRST },
      { name: `${FIRST}:2`, text: noise("two"), source: FIRST },
      { name: "data/train-00001-of-00002.parquet:1", text: "three", source: "data/train-00001-of-00002.parquet" }
    ])
    expect(hub.requests.filter((one) => one.startsWith("cdn") && !one.includes("bytes=0-0"))).toHaveLength(2)
    expect(hub.requests.filter((one) => one.includes("/tree/")).length).toBeGreaterThan(2)
    hub.requests.length = 0
    expect(await texts(PLAYS)).toEqual(train)
    expect(hub.requests).toEqual(["GET /api/datasets/ann/plays/revision/main"])
  })

  it("lies in the cache as the Python client lays it out: refs, snapshots with links, blobs by hash", async () => {
    await read(PLAYS)
    expect(readFileSync(join(storage(), "refs/main"), "utf8")).toBe(hub.commit)
    const link = join(storage(), "snapshots", hub.commit, FIRST)
    expect(lstatSync(link).isSymbolicLink()).toBe(true)
    expect(readlinkSync(link)).toBe(`../../../blobs/${hashOf(FIRST)}`)
    expect(new Uint8Array(readFileSync(link))).toEqual(plays[FIRST]!.content)
    expect(existsSync(join(storage(), "snapshots", hub.commit, "data/test-00000-of-00001.parquet"))).toBe(false)
  })

  it("may be asked for by split, folder, file, beginning, pattern, revision or commit", async () => {
    expect(await texts(PLAYS, { split: "test" })).toEqual(["test"])
    expect(await texts(`${PLAYS}/extra`)).toEqual(["note"])
    expect(await texts(`${PLAYS}/data/test-00000-of-00001.parquet`)).toEqual(["test"])
    expect(await texts(`${PLAYS}/data/train-00001`)).toEqual(["three"])
    expect(await texts(`${PLAYS}/data/t*-00000-*.parquet`)).toEqual(["test", "one", noise("two")])
    expect(await texts(`${PLAYS}@refs/convert/parquet/data`)).toEqual(train)
    expect(readFileSync(join(storage(), "refs/refs/convert/parquet"), "utf8")).toBe(hub.commit)
    hub.requests.length = 0
    expect(await texts(`${PLAYS}@${hub.commit}`)).toEqual(train)
    expect(hub.requests).toEqual([])
  })

  it("with HF_HUB_CACHE lies there", async () => {
    vi.stubEnv("HF_HUB_CACHE", join(cache, "elsewhere"))
    await read(`${PLAYS}/extra`)
    expect(readdirSync(join(cache, "elsewhere"))).toEqual(["datasets--ann--plays"])
  })

  it("that is not there, or has no such split, path or revision, says what there is", async () => {
    expect(await message(PLAYS, { split: "validation" })).toMatch(
      /^hf:\/\/datasets\/ann\/plays: has no split "validation"; it has: test, train$/
    )
    expect(await message(`${PLAYS}/other`)).toMatch(/"other"; it has: LICENSE.txt, README.md, data\/, extra\/$/)
    expect(await message(`${PLAYS}@v9`)).toMatch(/the hub has no dataset ann\/plays with a revision "v9"/)
    expect(await message("hf://datasets/ann/none")).toMatch(/the hub has no dataset ann\/none/)
    expect(await message("hf://ann/plays")).toMatch(/is hf:\/\/datasets\/owner\/name/)
    vi.stubEnv("HF_ENDPOINT", "http://127.0.0.1:9")
    expect(await message(PLAYS)).toMatch(/127\.0\.0\.1:9 cannot be reached: .*HF_HUB_OFFLINE=1/)
  })
})

describe("a gated dataset", () => {
  const SECRET = "hf://datasets/ann/secret"

  it("asks for HF_TOKEN, takes it from there or the token file, and shows it to no other host", async () => {
    expect(await message(SECRET)).toMatch(/gated or private, or there is no dataset ann\/secret.* set HF_TOKEN/)
    vi.stubEnv("HF_TOKEN", "hf_bad")
    expect(await message(SECRET)).toMatch(/the token in HF_TOKEN may not read it/)
    vi.stubEnv("HF_TOKEN", "hf_good")
    expect(await texts(SECRET)).toEqual(["hidden"])
    expect(await texts(`${SECRET}/big.txt`)).toEqual(["x"])
    const cdn = hub.requests.filter((one) => one.startsWith("cdn"))
    expect(cdn.length).toBeGreaterThan(0)
    expect(cdn.filter((one) => one.includes("hf_good"))).toEqual([])

    vi.stubEnv("HF_TOKEN", undefined)
    writeFileSync(join(cache, "token"), "hf_good\n")
    rmSync(join(cache, "hub"), { recursive: true })
    expect(await texts(SECRET)).toEqual(["hidden"])
  })
})

describe("offline", () => {
  it("uses what is in the cache, and names what is not", async () => {
    vi.stubEnv("HF_HUB_OFFLINE", "1")
    expect(await message(PLAYS)).toMatch(/revision "main" of it is not in the cache .*HF_HUB_OFFLINE/)
    vi.stubEnv("HF_HUB_OFFLINE", "0")
    await read(PLAYS)
    hub.requests.length = 0
    vi.stubEnv("HF_HUB_OFFLINE", "1")
    expect(await texts(PLAYS)).toEqual(train)
    expect(await message(PLAYS, { split: "test" })).toMatch(
      /data\/test-00000-of-00001\.parquet of it is not in the cache .*hub, and HF_HUB_OFFLINE/
    )
    rmSync(join(storage(), "snapshots", hub.commit, "data/train-00001-of-00002.parquet"))
    expect(await message(PLAYS)).toMatch(/data\/train-00001-of-00002\.parquet of it is not in the cache/)
    expect(hub.requests).toEqual([])
  })

  it("reads what another client has put there, if no shard of it is missing", async () => {
    const snapshot = join(storage(), "snapshots", hub.commit)
    mkdirSync(join(snapshot, "data"), { recursive: true })
    mkdirSync(join(storage(), "refs"))
    writeFileSync(join(storage(), "refs/main"), hub.commit)
    writeFileSync(join(snapshot, "data/train-00001-of-00002-abc.jsonl"), `{"text":"b"}`)
    vi.stubEnv("HF_HUB_OFFLINE", "TRUE")
    expect(await message(PLAYS)).toMatch(/data\/train-00000-of-00002 is not in the cache/)
    writeFileSync(join(snapshot, "data/train-00000-of-00002-def.jsonl"), `{"text":"a"}`)
    expect(await texts(PLAYS)).toEqual(["a", "b"])
    expect(hub.requests).toEqual([])
  })
})

describe("a download", () => {
  const blobs = () => readdirSync(join(storage(), "blobs"))

  it("that is cut goes on where it was, and gives the same bytes", async () => {
    hub.cuts.push(1000, 30_000, 0)
    expect(await texts(PLAYS)).toEqual(train)
    const size = plays[FIRST]!.content.length
    const range = /^cdn .* bytes=([1-9]\d*)-(\d+)$/
    const ranges = hub.requests.flatMap((one) => range.exec(one)?.slice(1).map(Number) ?? [])
    expect(ranges).toEqual([1000, size - 1, 31_000, size - 1, 31_000, size - 1])
    expect(blobs().filter((name) => name.endsWith(".incomplete"))).toEqual([])
  })

  it("that stays cut is an error and leaves no half file; the next attempt is whole", async () => {
    const [first] = await hubFiles(PLAYS, undefined, { pauseMillis: 1 })
    hub.cuts.push(1000, 0, 0, 0, 0, 0, 0)
    await expect(first!.locate()).rejects.toThrow(
      /train-00000-of-00002\.parquet: the download broke off after 1000 of \d+ bytes/
    )
    expect(blobs()).not.toContain(hashOf(FIRST))
    expect(blobs().filter((name) => name.includes("incomplete"))).toEqual([])
    expect(await texts(PLAYS)).toEqual(train)
  })

  it("whose bytes are not those the hub lists is refused", async () => {
    hub.damage = true
    expect(await message(PLAYS)).toMatch(/train-00000-of-00002\.parquet: what was downloaded .* is not the file that/)
    expect(blobs()).not.toContain(hashOf(FIRST))
    hub.damage = false
    expect(await texts(PLAYS)).toEqual(train)
  })

  it("is made again where the cache has a part of a file, and what killed ones left is swept up", async () => {
    await read(PLAYS)
    writeFileSync(join(storage(), "blobs", hashOf(FIRST)), plays[FIRST]!.content.subarray(0, 99))
    const left = ["old", "new"].map((name) => join(storage(), "blobs", `${hashOf(FIRST)}.memsinks-${name}.incomplete`))
    for (const path of left) writeFileSync(path, "half")
    utimesSync(left[0]!, 1e9, 1e9)
    expect(await texts(PLAYS)).toEqual(train)
    expect(left.map((path) => existsSync(path))).toEqual([false, true])
  })

  it("tries again when the hub is busy", async () => {
    const [first] = await hubFiles(PLAYS, undefined, { pauseMillis: 1 })
    hub.answers.push(503, 429)
    expect(new Uint8Array(readFileSync(await first!.locate()))).toEqual(plays[FIRST]!.content)
    const [, second] = await hubFiles(PLAYS, undefined, { pauseMillis: 1 })
    hub.answers.push(403)
    await expect(second!.locate()).rejects.toThrow("the token in HF_TOKEN may not read it")
  })
})

/** A server that answers as it is told, for what no hub should do. */
const serving = async <A>(listener: RequestListener, body: (url: string) => Promise<A>): Promise<A> => {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  try {
    return await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  } finally {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  }
}

const gitHash = (content: string): string =>
  createHash("sha1").update(`blob ${Buffer.byteLength(content)}\0`).update(content).digest("hex")

const COMMIT = "0123456789abcdef0123456789abcdef01234567"
const LINE = `{"text":"read"}`

/** A hub of one file, whose listing, commit and content are as they are given. */
const oddHub = (
  { content = LINE, entry = {}, link, serve, sha = COMMIT, tree }: {
    readonly content?: string
    readonly entry?: object
    readonly link?: (request: IncomingMessage) => string
    readonly serve?: RequestListener
    readonly sha?: string
    readonly tree?: string
  },
  seen: Array<string> = []
): RequestListener =>
(request, response) => {
  seen.push(`${request.url}${request.headers.authorization === undefined ? "" : " with token"}`)
  if (request.url!.includes("/revision/")) return response.end(JSON.stringify({ sha }))
  if (request.url!.includes("/tree/")) {
    if (link !== undefined) response.setHeader("link", link(request))
    const file = { type: "file", path: "a.jsonl", size: content.length, oid: gitHash(content), ...entry }
    return response.end(tree ?? JSON.stringify([file]))
  }
  return serve === undefined ? response.end(content) : serve(request, response)
}

const fromOdd = (options: Parameters<typeof oddHub>[0], then: (path: string) => Promise<unknown> = texts) =>
  serving(oddHub(options), (url) => {
    vi.stubEnv("HF_ENDPOINT", url)
    return then("hf://datasets/ann/odd")
  })

/** Every file below a folder. */
const below = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).sort()

describe("a hub that must not be believed", () => {
  it("is read where it lists what it has", async () => {
    expect(await fromOdd({})).toEqual(["read"])
    expect(await fromOdd({ content: LINE, entry: { path: "a #1?%20.jsonl" } })).toEqual(["read"])
  })

  it.each([
    ["an oid", { entry: { oid: "../../../../secret" } }, /0\.oid: expected a git hash.*secret/],
    ["a SHA-256", { entry: { lfs: { oid: "../../../../secret", size: 15 } } }, /lfs\.oid: expected a SHA-256/],
    ["a path above", { entry: { path: "x/../../../secret.jsonl" } }, /0\.path: expected a path below the folder/],
    ["a path from the root", { entry: { path: "/secret.jsonl" } }, /0\.path: expected a path below/],
    ["a path with a backslash", { entry: { path: "..\\secret.jsonl" } }, /0\.path: expected a path below/],
    ["a path with a drive", { entry: { path: "C:secret.jsonl" } }, /0\.path: expected a path below/],
    ["a path with NUL", { entry: { path: "a\0.jsonl" } }, /0\.path: expected a path below/],
    ["a path with an escape", { entry: { path: "a\u001b[2J.jsonl" } }, /0\.path: expected a path below/],
    ["a size that is none", { entry: { size: -1 } }, /0\.size: expected a non-negative number/],
    ["a size beyond numbers", { entry: { size: 1e300 } }, /0\.size: expected/],
    ["a commit", { sha: "../../../../secret" }, /names no commit for "main"/],
    ["no list", { tree: "{}" }, /gives an answer that cannot be used/],
    ["no JSON", { tree: "<html>down</html>" }, /gives an answer that cannot be used: it is not JSON/],
    ["a file twice", { tree: `[${`,{"type":"file","path":"a.txt","size":1,"oid":"${COMMIT}"}`.repeat(2).slice(1)}]` },
      /lists a\.txt twice/]
  ])("is refused where %s leads elsewhere or is none", async (_, options, expected) => {
    writeFileSync(join(cache, "secret"), LINE)
    const before = below(cache)
    const told = String(await fromOdd(options as Parameters<typeof oddHub>[0]))
    expect(told).toMatch(expected)
    expect(told).not.toContain("read")
    expect(told).not.toContain("cannot be reached")
    expect(below(cache).filter((path) => !before.includes(path) && !path.startsWith("hub"))).toEqual([])
  })

  it("cannot have a link in the cache followed out of it", async () => {
    await fromOdd({}, async (path) => {
      expect(await texts(path)).toEqual(["read"])
      const pointer = join(cache, "hub/datasets--ann--odd/snapshots", COMMIT, "a.jsonl")
      const secret = join(cache, "secret")
      writeFileSync(secret, `{"text":"SECR"}`)
      rmSync(pointer)
      symlinkSync(secret, pointer)
      expect(await texts(path)).toEqual(["read"])
      expect(readFileSync(secret, "utf8")).toBe(`{"text":"SECR"}`)
      rmSync(pointer)
      // a copy, where links are not allowed, with another content
      writeFileSync(pointer, `{"text":"SECR"}`)
      expect(await texts(path)).toEqual(["read"])
    })
  })

  it("that sends more, less, another part or other bytes than it lists is refused, and no more is written", async () => {
    const size = LINE.length
    const chunked: RequestListener = (_, response) => {
      const more = () => response.write("x".repeat(1 << 16)) && !response.destroyed ? setTimeout(more, 1) : undefined
      response.on("drain", more)
      more()
    }
    expect(await fromOdd({ serve: chunked })).toMatchObject({
      detail: `the hub sends more than the ${size} bytes that it lists`
    })
    expect(await fromOdd({ serve: (_, response) => response.end("x".repeat(400)) })).toMatchObject({
      detail: `the hub lists ${size} bytes and sends 400. Try again`
    })
    expect(await fromOdd({ serve: (_, response) => response.end(`{"text":"evil"}`) })).toMatchObject({
      detail: expect.stringContaining("is not the file that the hub lists")
    })
    expect(below(cache).filter((path) => /blobs\/./.test(path))).toEqual([])
  })

  it("whose listing goes in a circle, or on without files, is left", async () => {
    const next = (query: string) => `<http://127.0.0.2/elsewhere?${query}>; rel="next"`
    expect(await fromOdd({ link: () => next("cursor=1"), tree: "[]" })).toMatchObject({
      detail: expect.stringContaining("it has an empty page, and says that more follow")
    })
    const tree = JSON.stringify([{ type: "directory", path: "x", size: 0 }])
    expect(await fromOdd({ link: () => next("cursor=1"), tree })).toMatchObject({
      detail: expect.stringContaining("leads back to a page that was read")
    })
  })

  it("gets the token itself, and no other host gets it: not by a redirect, not by a next page", async () => {
    vi.stubEnv("HF_TOKEN", "hf_secret")
    const elsewhere: Array<string> = []
    const tokens: Array<string | undefined> = []
    await serving((request, response) => {
      elsewhere.push(`${request.url} ${request.headers.authorization ?? "no token"}`)
      // as @huggingface/hub takes it, an answer of the hub's own
      response.writeHead(200, { "x-cache": "Hit from cloudfront", "content-length": LINE.length }).end(LINE)
    }, (other) =>
      fromOdd({
        link: (request) => {
          tokens.push(request.headers.authorization)
          return request.url!.includes("cursor") ? `<${other}/x>; rel="first"` : `<${other}/tree?cursor=1>; rel="next"`
        },
        serve: (request, response) => {
          tokens.push(request.headers.authorization)
          response.writeHead(307, { location: `${other.replace("//", "//ann:pw@")}/file` }).end()
        },
        tree: JSON.stringify([{ type: "directory", path: "x" }])
      }).then(() =>
        fromOdd({
          serve: (request, response) => {
            tokens.push(request.headers.authorization)
            response.writeHead(307, { location: `${other.replace("//", "//ann:pw@")}/file` }).end()
          }
        }, async (path) => {
          rmSync(join(cache, "hub"), { recursive: true })
          expect(await texts(path)).toEqual(["read"])
        })
      ))
    expect(tokens).toEqual(["Bearer hf_secret", "Bearer hf_secret", "Bearer hf_secret"])
    expect(elsewhere).toEqual(["/file no token"])
  })

  it("is told without the password of its address, and without a token that is none", async () => {
    vi.stubEnv("HF_ENDPOINT", "http://ann:sesame@127.0.0.1:1")
    expect(await message(PLAYS)).toBe(
      "HF_ENDPOINT: holds a user or a password, which is not sent: leave them out, and set HF_TOKEN"
    )
    vi.stubEnv("HF_ENDPOINT", "not a url")
    expect(await message(PLAYS)).toMatch(/^HF_ENDPOINT: is no address of a hub/)
    vi.stubEnv("HF_ENDPOINT", hub.url)
    vi.stubEnv("HF_TOKEN", "hf_a\nb")
    const told = await message(PLAYS)
    expect(told).toMatch(/^HF_TOKEN: holds white space/)
    expect(told).not.toContain("hf_a")
    expect(await message("hf://datasets/../plays")).toMatch(/is no name of a dataset/)
    expect(await message("hf://datasets/ann/plays@..%2f..%2fx")).toMatch(/"..%2f..%2fx" is no name of a revision/)
    expect(await message("hf://datasets/ann/plays@%ff")).toMatch(/"%ff" is no name of a revision/)
  })

  it("has its listings and commits kept apart from another one's", async () => {
    expect(await fromOdd({})).toEqual(["read"])
    const other = `{"text":"good"}`
    expect(await fromOdd({ content: other })).toEqual(["good"])
    expect(await fromOdd({ content: LINE })).toEqual(["read"])
  })

  it("is asked again where the listing that was kept is damaged", async () => {
    await fromOdd({}, async (path) => {
      expect(await texts(path)).toEqual(["read"])
      const [kept] = below(join(cache, "hub")).filter((one) => one.endsWith(`${COMMIT}.json`))
      for (const text of ["{", "null", `[{"path":"../../x"}]`, `{"entries":[]}`]) {
        writeFileSync(join(cache, "hub", kept!), text)
        expect(await texts(path)).toEqual(["read"])
      }
    })
  })
})

describe("a slow hub", () => {
  const options = { pauseMillis: 1, idleMillis: 40 }
  const drip: RequestListener = (_, response) => {
    response.writeHead(200, { "content-length": LINE.length })
    const timer = setInterval(() => response.write("x"), 15)
    response.on("close", () => clearInterval(timer))
  }

  it("is given up: silent before the answer, silent in it, or with a byte now and then", async () => {
    const silent: RequestListener = () => {}
    const stalled: RequestListener = (_, response) => void response.writeHead(200, { "content-length": 15 }).write("x")
    for (const serve of [silent, stalled, drip]) {
      await fromOdd({ serve }, async (path) => {
        const [file] = await hubFiles(path, undefined, options)
        const told = await file!.locate().then(() => "", (error: Error) => error.message)
        expect(told).toMatch(
          /too slow: (not a byte came|only \d+ bytes)|broke off after \d+ of 15 bytes: (not a byte came|only \d+ bytes)/
        )
      })
    }
  })

  it("can be left at once, and the next attempt goes on behind what has come", async () => {
    const content = `{"text":"${"x".repeat(200_000)}"}`
    const ranges: Array<string | undefined> = []
    let isWhole = false
    const serve: RequestListener = (request, response) => {
      ranges.push(request.headers.range)
      const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0)
      const rest = content.slice(from)
      const headers = { "content-length": rest.length,
        "content-range": `bytes ${from}-${content.length - 1}/${content.length}` }
      response.writeHead(from > 0 ? 206 : 200, headers)
      if (isWhole) response.end(rest)
      else response.write(rest.slice(0, 100_000))
    }
    await fromOdd({ content, serve }, async (path) => {
      const fiber = Effect.runFork(Stream.runDrain(stream({ path })).pipe(Effect.provide(NodeFileSystem.layer)))
      await vi.waitUntil(() =>
        below(cache).some((one) => {
          return one.endsWith("incomplete") && lstatSync(join(cache, one)).size === 100_000
        }), 5000)
      const began = performance.now()
      await Effect.runPromise(Fiber.interrupt(fiber))
      expect(performance.now() - began).toBeLessThan(500)
      expect(below(cache).filter((one) => one.endsWith("-partial"))).toHaveLength(1)
      isWhole = true
      expect(await texts(path)).toEqual(["x".repeat(200_000)])
      expect(ranges).toEqual([undefined, `bytes=100000-${content.length - 1}`])
      expect(below(cache).filter((one) => /partial|incomplete/.test(one))).toEqual([])
    })
  })

  it("whose part of a file was something else has it once more from the beginning", async () => {
    await fromOdd({}, async (path) => {
      const [file] = await hubFiles(path, undefined, options)
      const blobs = join(cache, "hub/datasets--ann--odd/blobs")
      mkdirSync(blobs, { recursive: true })
      writeFileSync(join(blobs, `${gitHash(LINE)}.memsinks-partial`), "other")
      expect(readFileSync(await file!.locate(), "utf8")).toBe(LINE)
    })
  })
})

describe("the files of a split", () => {
  it("of a card with a pattern that repeats itself are found at once", () => {
    const card = `---\nconfigs:\n- config_name: x\n  data_files: "${"**/".repeat(100)}x.jsonl"\n---`
    const began = performance.now()
    expect(chosenFiles([`${"a/".repeat(300)}y.jsonl`], configurationsOf(card), { path: undefined, split: undefined }))
      .toBe(`has no file of those that its configuration "x" names`)
    expect(chosenFiles(["a"], [], { path: "*".repeat(2000), split: undefined })).toMatch(/cannot be looked through/)
    expect(performance.now() - began).toBeLessThan(500)
  })

  const of = (paths: ReadonlyArray<string>, split?: string, path?: string, card = ""): unknown =>
    chosenFiles(paths, configurationsOf(card), { path, split })

  it("are told by their names, then by their folders, in the words that are usual", () => {
    expect(of(["a/train.jsonl", "a/dev.jsonl"], "validation")).toEqual(["a/dev.jsonl"])
    expect(of(["training/0.txt", "eval/0.txt"])).toEqual(["training/0.txt"])
    expect(of(["en/c4-train.00000-of-00002.json.gz", "en/c4-validation.00000-of-00001.json.gz"])).toEqual([
      "en/c4-train.00000-of-00002.json.gz"
    ])
    expect(of(["test/train-1.txt", "train/test-1.txt"], "test")).toEqual(["train/test-1.txt"])
    expect(of(["data/books-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"], "books")).toEqual([
      "data/books-00000-of-00001.parquet"
    ])
    expect(of(["trained.txt", "contest.txt"])).toEqual(["contest.txt", "trained.txt"])
  })

  it("are the only split's where there is one, else train's, or are asked for", () => {
    expect(of(["test.txt"])).toEqual(["test.txt"])
    expect(of(["b.txt", "a.txt"])).toEqual(["a.txt", "b.txt"])
    expect(of(["b.txt"], "test")).toBe(`has no split "test"; it has: train`)
    expect(of(["dev.txt", "test.txt"])).toBe(`has no split "train"; it has: test, validation`)
  })

  it("are of the most frequent kind, and not what lies beside data", () => {
    const data = ["data/train-0.parquet", "data/train-1.parquet"]
    const paths = [...data, "all-train.txt", "README.md", "LICENSE.txt", ".x.txt"]
    expect(of([...paths, "dataset_infos.json", "train/state.json"])).toEqual(data)
    expect(of(paths, undefined, "all-train.txt")).toEqual(["all-train.txt"])
    expect(of(["train.json", "train.parquet"])).toEqual(["train.parquet"])
  })

  it("are those that the card names for a configuration", () => {
    const card = (configs: string): string => `---\nconfigs:\n${configs}\n---\ntext`
    const paths = ["en/a.txt", "en/b.txt", "de/a.txt", "de/x/valid.txt"]
    const two = card(
      `- config_name: en\n  data_files: en/*\n- config_name: de\n  data_files:\n  - split: train\n    path:
    - "de/*.txt"\n  - split: validation\n    path: "**/valid.txt"`
    )
    expect(of(paths, undefined, undefined, two)).toMatch(/several configurations.* add one of de, en to its name/)
    expect(of(paths, undefined, "en", two)).toEqual(["en/a.txt", "en/b.txt"])
    expect(of(paths, "dev", "de", two)).toEqual(["de/x/valid.txt"])
    expect(of(paths, "test", "de", two)).toBe(`has no split "test"; it has: train, validation`)
    const byDefault = card(
      `- config_name: x\n  data_files: {train: "[!e]e/?.{txt,md}"}\n  default: true\n- config_name: y
  data_dir: en\n- config_name: z\n  data_files: none/*`
    )
    expect(of(paths, undefined, undefined, byDefault)).toEqual(["de/a.txt"])
    expect(of(paths, undefined, "y", byDefault)).toEqual(["en/a.txt", "en/b.txt"])
    expect(of(paths, undefined, "z", byDefault)).toBe(`has no file of those that its configuration "z" names`)
    expect(of(["a.txt"], undefined, undefined, "---\n{ no: [card\n---")).toEqual(["a.txt"])
  })
})
