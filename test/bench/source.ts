/**
 * How fast documents are read, and in how much memory: `node --import tsx test/bench/source.ts [MiB] [rounds]` writes
 * so much JSONL (default 2048 MiB) and the same text as .gz, .zst and .parquet (an eighth of it), reads each in a
 * process of its own with a heap of at most 400 MiB, and removes them.
 */
import { compress, init } from "@bokuweb/zstd-wasm"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { parquetWriteBuffer } from "hyparquet-writer"
import { spawnSync } from "node:child_process"
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, statSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { stream } from "../../src/data/Source.ts"
import { makeRandom } from "../reference/random.ts"

const MIB = 2 ** 20

/** Streams a source, and says how much it was and what it took. */
const measure = async (path: string): Promise<void> => {
  let [documents, characters, heap, rss] = [0, 0, 0, 0]
  const look = (): void => {
    const used = process.memoryUsage()
    heap = Math.max(heap, used.heapUsed)
    rss = Math.max(rss, used.rss)
  }
  const timer = setInterval(look, 20)
  const start = performance.now()
  const before = process.cpuUsage()
  await stream({ path }).pipe(
    Stream.runForEachChunk((chunk) =>
      Effect.sync(() => {
        for (const { text } of chunk) {
          documents++
          characters += text.length
        }
        if (documents % 8 === 0) look()
      })
    ),
    Effect.provide(NodeFileSystem.layer),
    Effect.runPromise
  )
  clearInterval(timer)
  look()
  const { system, user } = process.cpuUsage(before)
  const seconds = (performance.now() - start) / 1000
  console.log(JSON.stringify({ documents, characters, heap, rss, seconds, cpu: (user + system) / 1e6 }))
}

interface Measured {
  readonly documents: number
  readonly characters: number
  readonly heap: number
  readonly rss: number
  readonly seconds: number
  /** Seconds of all cores together: what is left to compare on a busy machine. */
  readonly cpu: number
}

/** The same in a process of its own, whose heap has a limit. */
export const measured = (path: string, heapMiB: number): Measured => {
  const args = ["--import", "tsx", `--max-old-space-size=${heapMiB}`, fileURLToPath(import.meta.url), "read", path]
  const { status, stderr, stdout } = spawnSync(process.execPath, args, { encoding: "utf8" })
  if (status !== 0) throw new Error(`reading ${path} ended with ${status}: ${stderr.slice(-2000)}`)
  return JSON.parse(stdout) as Measured
}

/** Records of made-up prose, about 4 MiB as JSONL. */
export const makeRecords = (seed: number, bytes = 4 * MIB) => {
  const random = makeRandom(seed)
  const words = Array.from({ length: 4000 },
    () => Array.from({ length: 2 + random.int(8) }, () => String.fromCharCode(97 + random.int(26))).join(""))
  const records: Array<{ id: string; text: string; url: string }> = []
  for (let size = 0; size < bytes;) {
    const length = 50 + random.int(1000)
    const text = Array.from({ length }, () => words[Math.floor(words.length * random.uniform() ** 3)]).join(" ")
    const number = records.length
    records.push({ id: `${seed}-${number}`, text: `“${text}”\nÉnd.`, url: `https://example.org/${number}` })
    size += text.length + 80
  }
  return records
}

export const toJsonl = (records: ReturnType<typeof makeRecords>): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join("")

const bench = async (mebibytes: number, rounds: number): Promise<void> => {
  const { bavail, bsize } = statfsSync(tmpdir())
  const needed = 1.5 * mebibytes * MIB
  if (bavail * bsize < needed) throw new Error(`${tmpdir()} has too little space for ${needed} bytes`)
  const folder = mkdtempSync(join(tmpdir(), "memsinks-source-"))
  try {
    await init()
    const blocks = [1, 2, 3, 4].map((seed) => makeRecords(seed))
    const write = (name: string, parts: ReadonlyArray<Uint8Array>, bytes: number): string => {
      const path = join(folder, name)
      const file = openSync(path, "w")
      for (let i = 0, size = 0; size < bytes; size += jsonl[i++ % jsonl.length]!.length) {
        writeSync(file, parts[i % parts.length]!)
      }
      closeSync(file)
      return path
    }
    const jsonl = blocks.map((records) => new TextEncoder().encode(toJsonl(records)))
    const all = mebibytes * MIB
    const part = all / 8
    const paths = [
      write("large.jsonl", jsonl, all),
      write("a.jsonl", jsonl, part),
      write("a.jsonl.gz", jsonl.map((block) => gzipSync(block)), part),
      write("a.jsonl.zst", jsonl.map((block) => compress(Buffer.from(block), 3)), part)
    ]
    const times = Math.ceil(part / jsonl[0]!.length)
    const records = Array.from({ length: times }, (_, i) => blocks[i % blocks.length]).flat()
    const columns = (["id", "text", "url"] as const).map((name) => (
      { name, data: records.map((record) => record![name]), type: "STRING", encoding: "PLAIN" } as const
    ))
    for (const [name, rowGroupSize] of [["groups.parquet", 1000], ["one-group.parquet", 1e9]] as const) {
      const path = join(folder, name)
      writeFileSync(path, new Uint8Array(parquetWriteBuffer({ columnData: columns, rowGroupSize })))
      paths.push(path)
    }
    const results = new Map<string, Measured>()
    for (let round = 0; round < rounds; round++) {
      for (const path of paths) {
        const found = measured(path, 400)
        const best = results.get(path)
        const worst = (key: "heap" | "rss") => Math.max(found[key], best?.[key] ?? 0)
        const least = (key: "seconds" | "cpu") => Math.min(found[key], best?.[key] ?? Infinity)
        const extremes = { seconds: least("seconds"), cpu: least("cpu"), heap: worst("heap"), rss: worst("rss") }
        results.set(path, { ...found, ...extremes })
      }
    }
    for (const [path, { characters, cpu, documents, heap, rss, seconds }] of results) {
      const mib = (bytes: number): string => (bytes / MIB).toFixed(0).padStart(5)
      console.log(
        `${path.slice(folder.length + 1).padEnd(18)} ${mib(statSync(path).size)} MiB, ${documents} documents, ` +
          `text at ${mib(characters / seconds)} MiB/s (${mib(characters / cpu)} MiB a second of a core); at most ` +
          `${mib(heap)} MiB of heap, ${mib(rss)} MiB in all`
      )
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , first = "2048", second = "3"] = process.argv
  await (first === "read" ? measure(second) : bench(Number(first), Number(second)))
}
