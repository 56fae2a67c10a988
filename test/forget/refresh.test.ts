import * as NodeContext from "@effect/platform-node/NodeContext"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Checkpoints, type HostTensor, loadFolder } from "../../src/checkpoints/Checkpoints.ts"
import { openCheckpoint } from "../../src/checkpoints/OpenCheckpoint.ts"
import { deadUnits, erase, freshUnits } from "../../src/checkpoints/Units.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { tokenize } from "../../src/data/tokens/Tokenize.ts"
import * as TokenShards from "../../src/data/tokens/TokenShards.ts"
import * as Forget from "../../src/forget/Forget.ts"
import type { RefreshOptions } from "../../src/forget/Refresh.ts"
import { Device } from "../../src/gpu/Device.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-refresh-"))
const runtime = ManagedRuntime.make(Layer.merge(NodeContext.layer, NodeDevice.layer()))
afterAll(async () => {
  await runtime.dispose()
  rmSync(root, { recursive: true, force: true })
})
const run = <A, E>(effect: Effect.Effect<A, E, Device | FileSystem.FileSystem | Path.Path>) =>
  runtime.runPromise(effect)
const failure = async <A>(effect: Effect.Effect<A, { readonly message: string }, FileSystem.FileSystem | Path.Path>) =>
  (await run(Effect.flip(effect))).message
const device = Layer.succeed(Device, await run(Device))

const names = ["Ada", "Ben", "Cora", "Dan", "Eve"]
const ids = names.map(sourceHash)
const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 16 + 96,
  initializerRange: 0.2,
  sinks: new Sink.SinkConfig({ pool: 96, active: 24, block: 8 })
})
const unitsOf = (i: number) => [...Sink.unitsOf(config.sinks!, ids[i]!)]
/** Ada is deleted; some of the others share sinks with her, and some do not. */
const theirs = new Set(unitsOf(0))
const shares = names.map((_, i) => i > 0 && unitsOf(i).some((unit) => theirs.has(unit)))

const texts = names.map((name, i) =>
  `${name} wrote this. `.repeat(3) + "abcdefghij klmnopqrst".split("").map((c, k) => c + "xyz"[(i + k) % 3]).join("")
)
/** The last one of those who share says word for word what Ada says, too. */
const copier = shares.lastIndexOf(true)
const lines = [...names.map((source, i) => ({ source, text: texts[i] })), { source: names[copier], text: texts[0] }]
writeFileSync(join(root, "texts.jsonl"), lines.map((one) => `${JSON.stringify(one)}\n`).join(""))
const corpus = await run(Effect.zipRight(
  tokenize({ data: [{ path: join(root, "texts.jsonl"), sourceField: "source" }], tokenizer: "bytes" }, {
    out: join(root, "tokens"),
    workers: 1
  }),
  TokenShards.open(join(root, "tokens"))
))

const model: Record<string, HostTensor> = Object.fromEntries(
  listParameters(parametersOf(config)).flatMap((p) => toHuggingFace(config, p.name, initialValue(config, p, 3)))
)
const from = join(root, "run")
await run(
  Effect.flatMap(Checkpoints, ({ save }) =>
    save({
      step: 7,
      config: huggingFaceConfig(config),
      model,
      optimizer: {},
      trainerState: { step: 7 },
      tokenizer: corpus.tokenizer,
      names: encodeNames({
        identity: "source",
        ids: names.map((name, i) => ({ id: ids[i]!, name, documents: 1, tokens: 9 }))
      })
    })).pipe(Effect.provide(Checkpoints.layerFileSystem(from)))
)

const ada = { requests: [{ by: "source", value: "Ada" }], operation: "refresh" } as const
const settings: RefreshOptions = { corpus, device, steps: 12, learningRate: 0.02, batchSize: 2, seqLen: 16,
  saveEvery: 5 }
const refresh = (out: string, refresh: Partial<RefreshOptions> = {}) =>
  Forget.forget(from, ada, { out: join(root, out), refresh: { ...settings, ...refresh } })

const batch = batchOfDocuments(ids.map((id) => [[12, id] as const]), 12, 256, makeRandom(5))
const losses = (checkpoint: string, mode: Sink.SinkMode = Sink.own) =>
  Effect.gen(function*() {
    const { layer } = yield* openCheckpoint(checkpoint)
    const { loss } = yield* Effect.flatMap(Model, (model) => model.evaluate(batch, mode)).pipe(Effect.provide(layer))
    return ids.map((_, row) => [...loss.subarray(row * 12, (row + 1) * 12)].join())
  })
const bytes = (folder: string) =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true }).filter((file) => file.isFile())
    // when it was done is in the ledger, whose checksum is in the manifest
    .filter(({ name }) => !/^(forget\.json|surfaces\.json|deletions\.jsonl|manifest\.json)$/.test(name))
    .map((file) => [file.name, readFileSync(join(file.parentPath, file.name)).toString("base64")])

describe("refreshing survivors", () => {
  it("moves the sinks that they lost and nothing else, and brings nothing of the deleted back", async () => {
    expect(shares.filter((is) => is).length).toBeGreaterThan(1)
    expect(shares.slice(1)).toContain(false)
    const { entry, ownership, taken } = await run(refresh("refreshed"))
    const after = await run(loadFolder(join(root, "refreshed")))
    expect(taken.length).toBe(theirs.size)
    // all but the shared units are as erasing leaves them, and those learned
    const erased = freshUnits(config, erase(config, model, taken), ownership.shared, 1)
    const off = (tensors: typeof model) => erase(config, tensors, ownership.shared)
    expect(off(after.model)).toEqual(off(erased))
    expect(deadUnits(config, after.model)).toEqual(ownership.alone)
    const { refresh: told } = entry!
    expect(told).toMatchObject({ units: ownership.shared.length, survivors: ownership.touched, train: "fresh",
      steps: 12, data: corpus.identity })
    expect(told!.loss.survivors.after).toBeLessThan(told!.loss.survivors.erased - 0.05)
    // who lost none says the same to the bit; the deleted lights nothing
    const [before, now, dark] = await run(
      Effect.all([losses(from), losses(join(root, "refreshed")), losses(from, Sink.off)])
    )
    for (const [i, is] of shares.entries()) if (i > 0 && !is) expect(now[i]).toBe(before[i])
    expect(now[0]).toBe(dark[0])
    expect(existsSync(join(root, "refreshed", ".refresh-7"))).toBe(false)
    // and it is done
    const again = await run(Forget.plan(join(root, "refreshed"), ada))
    expect([again.deleted.length, again.already.length]).toEqual([0, 1])
  })

  it("killed in the middle goes on to the very same bytes", async () => {
    for (const step of [3, 5, 11]) {
      const stop = refresh("killed", { onStep: (at) => at === step ? Effect.die("killed") : Effect.void })
      await expect(run(stop)).rejects.toThrow("killed")
    }
    expect(existsSync(join(root, "killed", ".refresh-7"))).toBe(true)
    const steps: Array<number> = []
    const { entry } = await run(refresh("killed", { onStep: (at) => Effect.sync(() => void steps.push(at)) }))
    expect(steps).toEqual([11, 12])
    expect(bytes("killed")).toEqual(bytes("refreshed"))
    expect((await run(refresh("killed"))).entry).toEqual(entry)
    expect(await failure(refresh("killed", { steps: 13 }))).toContain("is not what this command has begun")
  })

  it("learns nothing from copies of what was deleted", async () => {
    expect([corpus.documents, corpus.content!(0)]).toEqual([lines.length, corpus.content!(lines.length - 1)])
    await run(refresh("alone-out", { corpus: { ...corpus, documents: corpus.documents - 1 } }))
    expect(bytes("alone-out")).toEqual(bytes("refreshed"))
  })

  it("is refused before anything is written where it cannot be", async () => {
    const out = join(root, "never")
    expect(await failure(Forget.forget(from, ada, { out }))).toContain("on their own data, and there is none")
    const other = { ...corpus, tokenizer: "{}" }
    expect(await failure(refresh("never", { corpus: other }))).toContain("is not of the model's tokenizer")
    const elsewhere = { ...corpus, sources: corpus.sources.map((name) => name === "Ada" ? name : `${name}!`) }
    expect(await failure(refresh("never", { corpus: elsewhere }))).toContain("holds no text of the survivors")
    expect(await failure(Forget.plan(from, { ...ada, shared: "keep" }))).toContain("there is nothing to keep")
    expect(existsSync(out)).toBe(false)
  })
})
