/** Thousands of deletions in one file of requests, and such a deletion killed at random moments. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { Checkpoints, type HostTensor } from "../../src/checkpoints/Checkpoints.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-forget-slow-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const SOURCES = 12_000
const names = Array.from({ length: SOURCES }, (_, i) => `https://example.org/${i}`)
const config = new ModelConfig({
  vocabSize: 64,
  hiddenSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 16 + 4096,
  sinks: new SinkConfig({ pool: 4096, active: 16, block: 8 })
})
const model: Record<string, HostTensor> = Object.fromEntries(
  listParameters(parametersOf(config)).flatMap((p) => toHuggingFace(config, p.name, initialValue(config, p, 3)))
)
const optimizer = Object.fromEntries(
  Object.entries(model).flatMap(([name, tensor]) =>
    ["exp_avg", "exp_avg_sq"].map((suffix) => [`${name}.${suffix}`, tensor] as const)
  )
)
const listed = encodeNames({
  identity: "source",
  ids: names.map((name) => ({ id: sourceHash(name), name, documents: 1, tokens: 9 }))
})
const from = join(root, "run")
await Effect.runPromise(
  Effect.forEach([1, 2, 3, 4],
    (step) =>
      Effect.flatMap(Checkpoints, ({ save }) =>
        save({ step, config: huggingFaceConfig(config), model, optimizer, trainerState: {}, tokenizer: undefined,
          names: listed }))).pipe(
      Effect.provide(Checkpoints.layerFileSystem(from, { keepLast: 9 })),
      Effect.provide(NodeContext.layer)
    )
)
const requests = (count: number): string => {
  const path = join(root, `${count}.jsonl`)
  writeFileSync(path, names.slice(0, count).map((source) => `${JSON.stringify({ source })}\n`).join(""))
  return path
}

/** Runs to the end, or until it is killed so many ms after it began. */
const child = (count: number, out: string, killAfter = Infinity) =>
  new Promise<{ readonly signal: string | null; readonly ms: number; readonly rss: number }>((resolve, reject) => {
    const path = fileURLToPath(new URL("forget.child.ts", import.meta.url))
    const one = spawn(process.execPath, ["--import", "tsx", path, from, requests(count), join(root, out)], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    let said = ""
    let timer: NodeJS.Timeout | undefined
    one.stdout.on("data", (data) => {
      said += data
      if (timer === undefined && Number.isFinite(killAfter)) timer = setTimeout(() => one.kill("SIGKILL"), killAfter)
    })
    one.on("error", reject)
    one.on("close", (code, signal) => {
      clearTimeout(timer)
      if (code !== 0 && signal === null) return reject(new Error(`exit ${code}`))
      const last = said.trim().split("\n").at(-1)!
      resolve({ signal, ...(last === "up" ? { ms: 0, rss: 0 } : JSON.parse(last) as { ms: number; rss: number }) })
    })
  })

/** Every file but what says when it was done, and the checksums of these. */
const files = (out: string) =>
  Object.fromEntries(
    readdirSync(join(root, out), { recursive: true, withFileTypes: true }).filter((file) => file.isFile())
      .filter(({ name }) => !/^(forget\.json|surfaces\.json|manifest\.json)$/.test(name))
      .map((file) => {
        const path = join(file.parentPath, file.name)
        const bytes = readFileSync(path)
        const text = file.name === "deletions.jsonl"
          ? bytes.toString().replace(/"time":"[^"]*"/, "")
          : bytes.toString("base64")
        return [path.slice(join(root, out).length), text]
      })
  )

describe("deleting thousands", () => {
  it("of sources takes time and memory that grow no faster than they do", async () => {
    const [some, many] = [await child(1250, "some"), await child(5000, "many")]
    expect(many.ms).toBeLessThan(4 * 1.5 * some.ms + 2000)
    expect(many.rss).toBeLessThan(2 * some.rss)
  }, 300_000)

  it("killed eight times at random moments leaves what nobody disturbed leaves", async () => {
    const random = makeRandom(4)
    const { ms } = await child(5000, "straight")
    let kills = 0
    for (let attempt = 0; kills < 8; attempt++) {
      const out = `killed-${attempt}`
      while (kills < 8 && (await child(5000, out, Math.floor(random.uniform() * 0.8 * ms))).signal === "SIGKILL") {
        kills++
      }
      await child(5000, out)
      expect(files(out)).toEqual(files("straight"))
      rmSync(join(root, out), { recursive: true })
    }
    expect(kills).toBe(8)
  }, 600_000)
})
