import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { afterAll, beforeAll, expect, it, vi } from "vitest"
import * as Checkpoints from "../../src/checkpoints/Checkpoints.ts"
import { program } from "../../src/cli/program.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { memsinksHere } from "../support/stdout.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-serve-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

// the folder of a run lends its name
const checkpoint = join(folder, "books", "seed-1", "sinks", "step-00000000")
const list = join(folder, "deny.txt")

beforeAll(() =>
  Effect.runPromise(
    Effect.gen(function*() {
      const config = new ModelConfig({
        vocabSize: 256,
        hiddenSize: 16,
        numHiddenLayers: 1,
        numAttentionHeads: 2,
        intermediateSize: 16 + 64,
        maxPositionEmbeddings: 256,
        initializerRange: 0.5,
        sinks: new SinkConfig({ pool: 64, active: 32, block: 16 })
      })
      const model = yield* Model.make(config, { seed: 3 })
      yield* Checkpoints.saveModel(checkpoint, {
        config: huggingFaceConfig(config),
        model: yield* model.exportTensors,
        tokenizer: bytes.toJSON(),
        names: encodeNames({
          identity: "source",
          ids: ["Genesis", "Exodus", `${sourceHash("Genesis")}`].map((name) => ({ id: sourceHash(name), name,
            documents: 1, tokens: 1 })
          )
        })
      })
    }).pipe(Effect.scoped, Effect.provide(NodeDevice.layer()), Effect.provide(NodeContext.layer))
  )
)

it("serves a checkpoint, reads its deny-list again, and finishes what it has begun when it is stopped", async () => {
  writeFileSync(list, "# nobody yet\n")
  const generated = await memsinksHere(["generate", "--checkpoint", checkpoint, "--prompt", "In", "--source", "Genesis",
    "--max-new-tokens", "4", "--temperature", "0", "--json"])
  let said = ""
  const write = vi.spyOn(process.stderr, "write").mockImplementation((chunk) => {
    said += String(chunk)
    return true
  })
  try {
    const fiber = Effect.runFork(program(["serve", "--checkpoint", checkpoint, "--port", "0", "--deny", list]))
    const url = await vi.waitFor(() => {
      const found = /serving books.* on (http:\S+)\/v1/.exec(said)?.[1]
      if (found === undefined) throw new Error(said)
      return found
    }, 60_000)
    const ask = async (body: object) => {
      const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) })
      return { status: response.status, text: await response.text() }
    }
    const own = { model: "books:own:Genesis", prompt: "In", max_tokens: 4, temperature: 0 }
    const { status, text } = await ask(own)
    expect([status, JSON.parse(text).choices?.[0].text]).toEqual([200, JSON.parse(generated.stdout).results[0].text])

    appendFileSync(list, "Genesis # asked to go\n")
    await vi.waitFor(async () => expect((await ask(own)).status).toBe(403), 10_000)
    // a list with a name that nobody bears is not taken, and what was denied stays so
    writeFileSync(list, "Exodos\n")
    await vi.waitFor(() => expect(said).toContain("Did you mean \"Exodus\""), 10_000)
    expect((await ask(own)).status).toBe(403)
    // whoever looks after it sees that, and not whose name it was
    const seen = async (path: string) => await (await fetch(`${url}${path}`)).text()
    expect(JSON.parse(await seen("/health"))).toMatchObject({ status: "ok", deny_list: { status: "stale" } })
    expect(await seen("/health")).not.toContain("Exod")
    expect(await seen("/metrics")).toContain("memsinks_serve_deny_list_stale 1\n")
    const deny = (...deny: ReadonlyArray<unknown>) =>
      fetch(`${url}/admin/deny`, { method: "POST", body: JSON.stringify({ deny }),
        headers: { "content-type": "application/json" } })
    const denied = await deny("Exodus")
    expect(await denied.json()).toMatchObject({ models: [{ model: "books", denied: 2 }], kept: true })
    await deny("Exodus", { source: "Exodus" })
    expect(readFileSync(list, "utf8")).toBe("Exodos\n\nExodus\n")

    // from another terminal
    const tell = (...args: ReadonlyArray<string>) => memsinksHere(["forget", "--server", `${url}/v1`, ...args])
    // a name that looks like the id of another
    const digits = `${sourceHash("Genesis")}`
    const other = { ...own, model: `books:own:${sourceHash(digits)}` }
    expect((await ask(other)).status).toBe(200)
    writeFileSync(list, `"${digits}"\n`)
    await vi.waitFor(async () => expect((await ask(own)).status).toBe(200), 10_000)
    expect((await ask(other)).status).toBe(403)
    expect(JSON.parse(await seen("/health"))).toEqual({ status: "ok" })
    expect(await seen("/metrics")).toContain("memsinks_serve_deny_list_stale 0\n")
    writeFileSync(list, "")
    await vi.waitFor(async () => expect((await ask(other)).status).toBe(200), 10_000)
    expect((await tell("--source", digits)).code).toBe(0)
    expect(readFileSync(list, "utf8")).toBe(`\n"${digits}"\n`)
    expect([(await ask(own)).status, (await ask(other)).status]).toEqual([200, 403])
    expect((await tell("--id", "Exodus")).stderr).toContain("is no id")
    const told = await tell("--source", "Genesis", "--operation", "exclude")
    expect([told.code, told.stdout]).toEqual([0, expect.stringContaining("books: 3 sources denied, ")])
    expect(told.stdout).toContain("until the server is stopped: started with --exclude FILE it keeps them")
    expect((await ask(own)).status).toBe(403)
    expect((await tell("--source", "Levi")).stderr).toContain("refuses (400)")
    expect((await tell("--prefix", "Gen")).code).toBe(2)
    // what would only be told is not done
    const dry = await tell("--source", "Exodus", "--dry-run")
    expect([dry.code, dry.stderr]).toEqual([2, expect.stringContaining("--dry-run is for a checkpoint")])
    expect((await tell("--source", "Exodus", "--out", "elsewhere")).code).toBe(2)
    expect((await tell("--source", "Genesis", "--operation", "erase")).code).toBe(2)

    const last = ask({ model: "books:off", prompt: "In", max_tokens: 200, temperature: 0 })
    await vi.waitFor(async () =>
      expect(await (await fetch(`${url}/metrics`)).text()).toContain("requests_running{model=\"books\"} 1\n")
    )
    const exit = await Effect.runPromise(Fiber.interrupt(fiber))
    expect(Exit.isInterrupted(exit)).toBe(true)
    expect(JSON.parse((await last).text).usage.completion_tokens).toBe(200)
    await expect(fetch(`${url}/health`)).rejects.toThrow()
  } finally {
    write.mockRestore()
  }
})

it("says what is missing before it serves anything", async () => {
  const missing = await memsinksHere(["serve", "--checkpoint", checkpoint, "--port", "0", "--api-key-file", list + "x"])
  expect([missing.code, missing.stderr]).toEqual([1, expect.stringContaining("deny.txtx: cannot be read")])
  writeFileSync(list, "Levi\n")
  const unknown = await memsinksHere(["serve", "--checkpoint", checkpoint, "--port", "0", "--deny", list])
  expect([unknown.code, unknown.stderr]).toEqual([1, expect.stringContaining("Levi")])
  expect((await memsinksHere(["serve", "--checkpoint", checkpoint, "--port", "70000"])).code).toBe(2)
})
