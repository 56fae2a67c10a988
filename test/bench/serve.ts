/**
 * A server under load: `node --import tsx test/bench/serve.ts [--seconds 600] [--each 20] [--llama FILE]`. Starts `memsinks
 * serve` on a small model with sinks by source, asks it from 1, 8 and 64 clients at once, compares every answer with what the
 * model says alone, and watches the server's memory while 64 clients go on for `--seconds`. `--llama` is the program of
 * llama.cpp's server, which is given the model without sinks and the same requests. The last line is JSON.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { parseArgs } from "node:util"
import * as Checkpoints from "../../src/checkpoints/Checkpoints.ts"
import { exportModel } from "../../src/checkpoints/Export.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import * as Generate from "../../src/model/Generate.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { off, own, placebo, SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"

const { values } = parseArgs({
  options: { seconds: { type: "string" }, each: { type: "string" }, llama: { type: "string" } }
})
const SOAK = Number(values.seconds ?? 600)
const EACH = Number(values.each ?? 20)
const CLIENTS = [1, 8, 64]
const CONTEXT = 512
const NEW = 24

const root = mkdtempSync(join(tmpdir(), "memsinks-load-"))
const children: Array<ChildProcess> = []
process.on("exit", () => {
  for (const child of children) child.kill()
  rmSync(root, { recursive: true, force: true })
})

const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  intermediateSize: 128 + 256,
  maxPositionEmbeddings: CONTEXT,
  initializerRange: 0.3,
  sinks: new SinkConfig({ pool: 256, active: 64, block: 16 })
})
const sources = ["Genesis", "Exodus", "Psalms"]
const states: ReadonlyArray<readonly [name: string, sinks: SinkMode, id: bigint]> = [
  ["load:off", off, 0n],
  ...sources.map((name) => [`load:own:${name}`, own, sourceHash(name)] as const),
  ["load:placebo", placebo, 0n]
]

interface Request {
  readonly model: string
  readonly prompt: ReadonlyArray<number>
  readonly max_tokens: number
  readonly temperature: number
  readonly seed: number
}

const random = makeRandom(5)
const tokensOf = (length: number) => Array.from({ length }, () => 32 + random.int(90))
const prompts = Array.from({ length: 8 }, () => tokensOf(8 + random.int(120)))
const requests = states.flatMap(([model], s) =>
  prompts.map((prompt, p): Request => ({ model, prompt, max_tokens: NEW, temperature: (s + p) % 2, seed: p }))
)
const greedy = requests.filter(({ model }) => model === "load:off").map((one) => ({ ...one, temperature: 0 }))

/** The model in a folder and as GGUF, and what it says to each request alone. */
const prepared = Effect.gen(function*() {
  const model = yield* Model.make(config, { seed: 3 })
  yield* Checkpoints.saveModel(join(root, "load"), {
    config: huggingFaceConfig(config),
    model: yield* model.exportTensors,
    tokenizer: bytes.toJSON(),
    names: encodeNames({
      identity: "source",
      ids: sources.map((name) => ({ id: sourceHash(name), name, documents: 1, tokens: 1 }))
    })
  })
  yield* exportModel(join(root, "load"), join(root, "off.gguf"), { format: "gguf", dtype: "f32" })
  return yield* Effect.forEach([...requests, ...greedy], ({ model: asked, prompt: tokens, seed, temperature }) => {
    const [, sinks, id] = states.find(([name]) => name === asked)!
    return Generate.collect({ tokens, id }, { maxNewTokens: NEW, temperature, seed, sinks }).pipe(
      Effect.map((said) => bytes.decode(said)),
      Effect.provideService(Model, model)
    )
  })
}).pipe(Effect.scoped, Effect.provide(NodeDevice.layer()), Effect.provide(NodeContext.layer))

/** Starts a server, and waits until it answers. */
const start = async (command: string, args: ReadonlyArray<string>, health: string): Promise<ChildProcess> => {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"] })
  children.push(child)
  for (let tries = 0; tries < 1200; tries++) {
    if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}`)
    const answer = await fetch(health).catch(() => undefined)
    if (answer?.ok === true) return child
    await new Promise((resume) => setTimeout(resume, 100))
  }
  throw new Error(`${command} does not answer`)
}

/** A stream's text, and the milliseconds to its first token. */
const stream = async (url: string, body: object, signal?: AbortSignal) => {
  const since = performance.now()
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, ignore_eos: true }),
    ...(signal === undefined ? {} : { signal })
  })
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
  let first: number | undefined
  let all = ""
  const decoder = new TextDecoder()
  const reader = response.body!.getReader()
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    first ??= performance.now() - since
    all += decoder.decode(part.value, { stream: true })
  }
  const events = all.split("\n\n").filter((event) => event.startsWith("data: {"))
    .map((event) => JSON.parse(event.slice(6)))
  const error = events.find((event) => "error" in event)
  if (error !== undefined) throw new Error(JSON.stringify(error))
  return { first: first!, text: events.map((event) => event.choices[0]?.text ?? "").join("") }
}

const quantile = (sorted: ReadonlyArray<number>, q: number) => sorted[Math.floor(q * (sorted.length - 1))] ?? NaN

/** Clients that ask one thing after another until the time is over. */
const load = async (
  url: string,
  clients: number,
  seconds: number,
  asked: ReadonlyArray<{ readonly body: object; readonly want?: string | undefined }>,
  tokens = NEW,
  leaving = false
) => {
  const began = performance.now()
  const [first, problems]: [Array<number>, Array<string>] = [[], []]
  let [answers, left] = [0, 0]
  await Promise.all(Array.from({ length: clients }, async (_, client) => {
    for (let round = 0; performance.now() - began < 1000 * seconds && problems.length < 10; round++) {
      const { body, want } = asked[(7 * client + 11 * round) % asked.length]!
      try {
        if (leaving && round % 17 === 16) {
          left++
          await stream(url, body, AbortSignal.timeout(20)).catch(() => {})
          continue
        }
        const got = await stream(url, body)
        first.push(got.first)
        answers++
        if (want !== undefined && got.text !== want) {
          problems.push(`${JSON.stringify(body)} said ${got.text}, not ${want}`)
        }
      } catch (error) {
        problems.push(String(error))
      }
    }
  }))
  const taken = (performance.now() - began) / 1000
  first.sort((a, b) => a - b)
  return {
    clients,
    seconds: Math.round(taken),
    answers,
    left,
    problems,
    tokensPerSecond: Number((answers * tokens / taken).toFixed(1)),
    firstTokenMs: { p50: Math.round(quantile(first, 0.5)), p99: Math.round(quantile(first, 0.99)) }
  }
}

/** Megabytes that a process has in memory, where the system says it. */
const memory = ({ pid }: ChildProcess): number => {
  try {
    return Math.round(Number(/VmRSS:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024)
  } catch {
    return NaN
  }
}

const tell = <A>(name: string, value: A): A => {
  process.stderr.write(`${name}: ${JSON.stringify(value)}\n`)
  return value
}

const wants = await Effect.runPromise(prepared)
const asked = requests.map((body, i) => ({ body, want: wants[i] }))
const asOff = greedy.map((body, i) => ({ body, want: wants[requests.length + i] }))
if (new Set(wants.slice(0, requests.length)).size < requests.length / 2) throw new Error("the states say the same")

const [port, theirPort] = [18_700 + process.pid % 1000, 19_700 + process.pid % 1000]
const [ours, theirs] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${theirPort}`]
const server = await start(process.execPath, [
  "--import",
  "tsx",
  new URL("../../src/cli.ts", import.meta.url).pathname,
  "serve",
  "--checkpoint",
  join(root, "load"),
  "--port",
  `${port}`,
  "--parallel",
  "64"
], `${ours}/health`)
const llama = values.llama === undefined ? undefined : await start(values.llama, [
  "-m",
  join(root, "off.gguf"),
  "--port",
  `${theirPort}`,
  "-np",
  "64",
  "-c",
  `${64 * CONTEXT}`,
  "--log-disable",
  // more threads wait for each other by spinning, which is slow where the cores have other work
  "-t",
  "1",
  "-tb",
  "1"
], `${theirs}/health`)
await load(ours, 64, 3, asked)

/** One client after the other, and then several at once: each time the ratio of two servers is of the same minute. */
interface Rates {
  readonly clients: number
  readonly mixed: Loaded
  readonly alone: Loaded
  readonly beside: Loaded | undefined
  readonly ratio: number | undefined
}
type Loaded = Awaited<ReturnType<typeof load>>
const rates: Array<Rates> = []
for (const clients of CLIENTS) {
  const mixed = tell("states mixed", await load(ours, clients, EACH, asked))
  const alone = tell("sinks off", await load(ours, clients, EACH, asOff))
  if (llama !== undefined) await load(theirs, clients, 2, asOff.map(({ body }) => ({ body })))
  const beside = llama === undefined
    ? undefined
    : tell("llama.cpp", await load(theirs, clients, EACH, asOff.map(({ body }) => ({ body }))))
  rates.push({ clients, mixed, alone, beside,
    ratio: beside === undefined ? undefined : alone.tokensPerSecond / beside.tokensPerSecond })
}

/** Prompts of which all but the last tokens are the same, and of which the first is not: one is shared, the other never. */
const beginning = tokensOf(384)
const prefixes = []
for (const shared of [false, true]) {
  let serial = 0
  const body = () => {
    serial++
    const own = [33 + serial % 80, 33 + Math.floor(serial / 80) % 80, 33 + Math.floor(serial / 6400) % 80]
    return shared ? [...beginning, ...own] : [...own, ...beginning]
  }
  const endless = Array.from({ length: 20_000 }, () => ({
    body: { model: "load:own:Genesis", prompt: body(), max_tokens: 8, temperature: 0 }
  }))
  prefixes.push(tell(shared ? "one beginning" : "no beginning in common", await load(ours, 64, EACH, endless, 8)))
}

const samples: Array<readonly [second: number, megabytes: number]> = []
const since = performance.now()
const timer = setInterval(() => {
  samples.push([Math.round((performance.now() - since) / 1000), memory(server)])
}, 5000)
const soak = tell("soak", await load(ours, 64, SOAK, asked, NEW, true))
clearInterval(timer)
const at = (second: number) => samples.find(([when]) => when >= second)?.[1]
const metrics = await (await fetch(`${ours}/metrics`)).text()
const result = {
  rates,
  speedup: Object.fromEntries(
    rates.map(({ clients, mixed }) => [clients, mixed.tokensPerSecond / rates[0]!.mixed.tokensPerSecond])
  ),
  prefixes,
  soak: { ...soak, megabytes: { afterFifth: at(SOAK / 5), end: samples.at(-1)?.[1] } },
  reusedTokens: Number(/reused_tokens_total\S* (\d+)/.exec(metrics)?.[1])
}
console.log(JSON.stringify(result))
process.exit([soak, ...rates.flatMap(({ alone, mixed }) => [alone, mixed])].some(({ problems }) => problems.length > 0)
  ? 1
  : 0)
