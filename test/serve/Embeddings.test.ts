/** Vectors of somebody else's: files of them, and a server that gives them, also where it does not. */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import { parquetWriteBuffer } from "hyparquet-writer"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { vectorRouter } from "../../src/data/identity/Router.ts"
import { embedder, readVectors } from "../../src/serve/Embeddings.ts"
import { searchOf } from "../../src/serve/Search.ts"
import { vectorSeekerOf } from "../../src/serve/State.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-embeddings-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const write = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}
const run = <A, E>(effect: Effect.Effect<A, E, any>) =>
  Effect.runPromise(Effect.scoped(Effect.provide(effect, NodeFileSystem.layer)) as Effect.Effect<A, E>)
const read = (path: string, names?: string) =>
  run(Effect.map(readVectors(path, names), ({ names, vector, width }) => ({
    names,
    width,
    rows: names.map((_, r) => Array.from(vector(r)))
  })))

/** As NumPy writes a matrix. */
const npy = (rows: ReadonlyArray<ReadonlyArray<number>>, type: "<f4" | "<f8"): Uint8Array => {
  const text = `{'descr': '${type}', 'fortran_order': False, 'shape': (${rows.length}, ${rows[0]!.length}), }`
  const head = Buffer.from(`\x93NUMPY\x01\x00..${text.padEnd(117)}\n`, "latin1")
  head.writeUInt16LE(118, 8)
  const all = rows.flat()
  const numbers = type === "<f4" ? Float32Array.from(all) : Float64Array.from(all)
  return Buffer.concat([head, new Uint8Array(numbers.buffer)])
}

const wanted = { names: ["a", "7"], width: 3, rows: [[1, 0.5, 0], [0, -2, 4]] }

it("reads vectors from JSONL, Parquet and NumPy", async () => {
  const lines = "{\"source\": \"a\", \"vector\": [1, 0.5, 0]}\n\n{\"id\": 7, \"embedding\": [0, -2, 4]}\n"
  expect(await read(write("v.jsonl", lines))).toEqual(wanted)
  const parquet = parquetWriteBuffer({
    schema: [
      { name: "root", num_children: 2 },
      { name: "name", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "REQUIRED" },
      { name: "vector", converted_type: "LIST", repetition_type: "REQUIRED", num_children: 1 },
      { name: "list", repetition_type: "REPEATED", num_children: 1 },
      { name: "element", type: "FLOAT", repetition_type: "REQUIRED" }
    ],
    columnData: [{ name: "name", data: ["a", "7"] }, { name: "vector", data: wanted.rows }]
  })
  expect(await read(write("v.parquet", new Uint8Array(parquet)))).toEqual(wanted)
  const names = write("names.txt", "a\n7\n")
  for (const type of ["<f4", "<f8"] as const) {
    expect(await read(write("v.npy", npy(wanted.rows, type)), names)).toEqual(wanted)
  }
})

it("says which line or row is no vector", async () => {
  const refused = async (name: string, content: string | Uint8Array, names?: string) =>
    read(write(name, content), names).then(() => "", (error: Error) => error.message)
  const line = (vector: string) => `{"id": 1, "vector": [1, 2]}\n{"id": 2, "vector": ${vector}}\n`
  expect(await refused("v.jsonl", line("[1, 2, 3]"))).toContain(
    "v.jsonl: line 2 has 3 numbers, and the first vector has 2"
  )
  expect(await refused("v.jsonl", line("[0, 0]"))).toContain("line 2 is all 0")
  expect(await refused("v.jsonl", line("[1e60, 0]"))).toContain("line 2 holds Infinity at place 0")
  expect(await refused("v.jsonl", line("[1, null]"))).toContain("line 2 has no vector or embedding that is a list of")
  expect(await refused("v.jsonl", line("[NaN, 1]"))).toContain("line 2 is not JSON")
  expect(await refused("v.jsonl", "{\"vector\": [1]}")).toContain("line 1 has no id, source, name")
  expect(await refused("v.jsonl", "\n")).toContain("holds no vector")
  const names = write("names.txt", "a\n7\n")
  expect(await refused("v.npy", npy([[1, 0], [NaN, 1]], "<f4"), names)).toContain("row 2 holds NaN at place 0")
  expect(await refused("v.npy", npy([[1, 0]], "<f4"), names)).toContain("has 1 rows for 2 names")
  expect(await refused("v.npy", npy(wanted.rows, "<f4").subarray(0, 140), names)).toContain(
    "has 140 bytes where 2 rows"
  )
  expect(await refused("v.npy", npy(wanted.rows, "<f4"))).toContain("name a file with a name a line")
  expect(await refused("v.npy", "text", names)).toContain("is no .npy file")
  expect(await refused("v.parquet", "text")).toContain("is not a Parquet file")
})

it("asks a server for the vectors of prompts, again where that may help, and says what it answers", async () => {
  let calls: Array<{ readonly headers: Record<string, unknown>; readonly body: any }> = []
  let answer = (_: ServerResponse): void => {}
  const server = createServer((request, response) => {
    let text = ""
    request.on("data", (part) => text += part)
    request.on("end", () => {
      calls.push({ headers: request.headers, body: JSON.parse(text) })
      answer(response)
    })
  })
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/embeddings`
  /** Texts by how often they have the letters a and b. */
  const vectors = (response: ServerResponse) => {
    const { input } = calls.at(-1)!.body as { readonly input: ReadonlyArray<string> }
    const data = input.map((text, index) => ({ index, embedding: ["a", "b"].map((c) => text.split(c).length - 1) }))
    response.end(JSON.stringify({ object: "list", data: data.reverse(), model: "m" }))
  }
  try {
    answer = vectors
    const embed = embedder({ url, key: "secret", model: "m", timeout: 150, pause: 5 })
    expect((await run(embed(["aab", "b"]))).map((one) => Array.from(one))).toEqual([[2, 1], [0, 1]])
    expect(calls[0]!.headers.authorization).toBe("Bearer secret")
    expect(calls[0]!.body).toEqual({ input: ["aab", "b"], encoding_format: "float", model: "m" })
    expect((await run(embed(Array.from({ length: 70 }, (_, i) => "ab".repeat(i))))).map(([a]) => a)).toEqual(
      Array.from({ length: 70 }, (_, i) => i)
    )
    calls = []
    expect(await run(embed([]))).toEqual([])
    expect(calls.length).toBe(0)

    const router = vectorRouter(BigUint64Array.of(1n, 2n), 2, (i) => [[1, 0.1], [0.1, 1]][i]!)
    const seek = vectorSeekerOf(searchOf(router), 2, embed, () => "bbb", (id) => `s${id}`, 0.5)
    const prompts = [{ tokens: [], text: "aaa" }, { tokens: [], text: " " }, { tokens: [3] }]
    const none: ReadonlySet<bigint> = new Set()
    expect((await run(seek(prompts, { without: none }))).map((one) => one?.name)).toEqual(["s1", undefined, "s2"])
    // what is left out is no candidate, and what is far is none
    expect((await run(seek(prompts, { without: new Set([1n]) }))).map((one) => one?.name)).toEqual(
      [undefined, undefined, "s2"]
    )
    const wide = vectorRouter(BigUint64Array.of(1n), 3, () => [1, 0, 0])
    const refused = (effect: Effect.Effect<unknown, Error>) => run(Effect.flip(effect)).then(({ message }) => message)
    expect(await refused(vectorSeekerOf(searchOf(wide), 3, embed, () => "", String)(prompts, { without: none })))
      .toContain(
        "vectors of 2 numbers, and those of the sources have 3"
      )

    const said = async (how: typeof answer) => {
      calls = []
      answer = how
      return { message: await refused(embed(["a"])), tries: calls.length }
    }
    const failing = await said((response) => void response.writeHead(500).end("out of memory"))
    expect(failing).toEqual({ message: `${url} answers 500: out of memory`, tries: 3 })
    expect(await said((response) => void response.writeHead(401).end("no key"))).toEqual({
      message: `${url} answers 401: no key`,
      tries: 1
    })
    expect(await said(() => {})).toEqual({ message: `${url} gave no answer within 0.15 s`, tries: 1 })
    expect((await said((response) => void response.end("{}"))).message).toContain("its answer is not as it should be")
    expect((await said((response) => void response.end("{\"data\": []}"))).message).toContain("0 vectors for 1 texts")
    const endless = "{\"data\": [{\"index\": 0, \"embedding\": [1e60]}]}"
    expect((await said((response) => void response.end(endless))).message).toContain("no finite numbers")
    expect((await said((response) => void response.socket!.destroy())).message).toContain("cannot be reached")
    let first = true
    answer = (response) => {
      if (!first) return vectors(response)
      first = false
      response.writeHead(503).end()
    }
    expect((await run(embed(["a"])))[0]![0]).toBe(1)
  } finally {
    server.closeAllConnections()
    server.close()
  }
})
