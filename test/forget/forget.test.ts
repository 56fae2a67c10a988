import * as NodeContext from "@effect/platform-node/NodeContext"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import { generateKeyPairSync } from "node:crypto"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Checkpoints, type HostTensor, loadFolder } from "../../src/checkpoints/Checkpoints.ts"
import { exportModel } from "../../src/checkpoints/Export.ts"
import { openCheckpoint } from "../../src/checkpoints/OpenCheckpoint.ts"
import { erase } from "../../src/checkpoints/Units.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { decodeNames, encodeNames } from "../../src/data/identity/Names.ts"
import * as Certificate from "../../src/forget/Certificate.ts"
import { copiesOf, holdersOf } from "../../src/forget/Copies.ts"
import * as Forget from "../../src/forget/Forget.ts"
import * as Ledger from "../../src/forget/Ledger.ts"
import { deletionsLeft, ownershipOf } from "../../src/forget/Ownership.ts"
import { parseRequests, type Request, resolve } from "../../src/forget/Request.ts"
import type { Device } from "../../src/gpu/Device.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import { originOf } from "../../src/runs/Runs.ts"
import * as Sink from "../../src/Sink.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { inTurns } from "../../src/Turns.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments } from "../support/support.ts"

const range = (n: number) => Array.from({ length: n }, (_, i) => i)

const root = mkdtempSync(join(tmpdir(), "memsinks-forget-"))
const runtime = ManagedRuntime.make(Layer.merge(NodeContext.layer, NodeDevice.layer()))
afterAll(async () => {
  await runtime.dispose()
  rmSync(root, { recursive: true, force: true })
})

const run = <A, E>(effect: Effect.Effect<A, E, Device | FileSystem.FileSystem | Path.Path>) =>
  runtime.runPromise(effect)
const failure = async <A>(effect: Effect.Effect<A, { readonly message: string }, FileSystem.FileSystem | Path.Path>) =>
  (await run(Effect.flip(effect))).message

const books = ["Genesis", "Ruth", "Esther", "Proverbs", "Jonah", "https://example.org/a", "https://example.org/b"]
const ids = books.map(sourceHash)
const namesBytes = encodeNames({
  identity: "source",
  ids: books.map((name, i) => ({ id: sourceHash(name), name, documents: i + 1, tokens: 100 * (i + 1) }))
})
const names = await run(decodeNames(namesBytes, "sources.parquet"))

const configOf = (assignment: "disjoint" | "permutation", units = 16, shards?: number) =>
  new ModelConfig({
    vocabSize: 32,
    hiddenSize: 16,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    intermediateSize: 16 + 8 * units,
    initializerRange: 0.5,
    sinks: new SinkConfig({ pool: 8 * units, active: 16, block: 8, assignment,
      ...(shards === undefined ? {} : { shards }) })
  }).withOwners(ids)

const weightsOf = (c: ModelConfig, seed: number): Record<string, HostTensor> =>
  Object.fromEntries(listParameters(parametersOf(c)).flatMap((p) => toHuggingFace(c, p.name, initialValue(c, p, seed))))

/** A run of two checkpoints, with moments that are nowhere zero. */
const saved = async (folder: string, c: ModelConfig): Promise<string> => {
  const path = join(root, folder)
  const save = (step: number) =>
    Effect.flatMap(Checkpoints, ({ save }) =>
      save({
        step,
        config: huggingFaceConfig(c),
        model: weightsOf(c, step),
        optimizer: Object.fromEntries(
          Object.entries(weightsOf(c, 99)).flatMap(([name, { data, shape }]) =>
            ["exp_avg", "exp_avg_sq"].map((suffix) =>
              [`${name}.${suffix}`, { shape, data: Float32Array.from(data, (x) => Math.abs(x) + 1) }] as const
            )
          )
        ),
        trainerState: { step,
          inputs: ["/data/bible.jsonl", "the tokenizer", "the data configuration"].map((what) => ({ what,
            sha256: "0".repeat(64) })
          ) },
        tokenizer: undefined,
        names: namesBytes
      }))
  await run(Effect.zipRight(save(1), save(2)).pipe(Effect.provide(Checkpoints.layerFileSystem(path, { keepLast: 9 }))))
  return path
}

const named = (...sources: ReadonlyArray<string>): ReadonlyArray<Request> =>
  sources.map((value) => ({ by: "source", value }))

const random = makeRandom(5)
const batch = batchOfDocuments(ids.map((id) => [[12, id] as const]), 12, 32, random)
/** Losses of a row for each source, in a mode. */
const losses = (checkpoint: string, mode: Sink.SinkMode = Sink.own) =>
  Effect.gen(function*() {
    const { layer } = yield* openCheckpoint(checkpoint)
    const { loss } = yield* Effect.flatMap(Model, (model) => model.evaluate(batch, mode)).pipe(
      Effect.provide(layer)
    )
    return ids.map((_, row) => [...loss.subarray(row * 12, (row + 1) * 12)].join())
  })

describe("requests", () => {
  const read = (text: string, path = "requests.jsonl") => run(parseRequests(text, path))
  const refused = (text: string, path = "requests.jsonl") => failure(parseRequests(text, path))

  it("are read from JSON Lines and from CSV, with quotation marks and references", async () => {
    expect(await read("{\"source\": \"Ruth\", \"reference\": \"ticket 7\"}\n\n{\"id\": \"18446744073709551615\"}\n"))
      .toEqual([
        { by: "source", value: "Ruth", reference: "ticket 7" },
        { by: "id", value: "18446744073709551615" }
      ])
    expect(await read("\uFEFFsource,reference\r\n\"a \"\"b\"\", c\",7\r\nRuth,\r\n", "r.CSV")).toEqual([
      { by: "source", value: "a \"b\", c", reference: "7" },
      { by: "source", value: "Ruth" }
    ])
  })

  it("name the line that is none", async () => {
    expect(await refused("{\"source\": \"Ruth\"}\n{")).toContain("requests.jsonl: line 2 is no request")
    expect(await refused("{\"name\": \"Ruth\"}")).toContain(
      "has the field \"name\"; known: source, owner, prefix, document, id, reference"
    )
    expect(await refused("{\"source\": \"Ruth\", \"id\": \"1\"}")).toContain(
      "exactly one of source, owner, prefix, document, id, got source, id"
    )
    expect(await refused("{\"id\": 7}")).toContain("write ids as texts")
    expect(await refused("[]")).toContain("no JSON object")
    expect(await refused("\n \n")).toContain("holds no request")
    expect(await refused("source\n", "r.csv")).toContain("holds no request")
    expect(await refused("source\n\"Ruth\n", "r.csv")).toContain("line 2 has a quotation mark")
    expect(await refused("source\na,b\n", "r.csv")).toContain("line 2 has 2 fields, the first line names 1")
  })

  it("mean ids: by name, by the beginning of names, by number; each once, with all that ask for it", async () => {
    const found = await run(resolve([
      { by: "prefix", value: "https://example.org/" },
      { by: "source", value: "https://example.org/a" },
      { by: "id", value: `${ids[1]}` }
    ], names))
    expect(new Map(found.map(({ name, requests }) => [name, requests]))).toEqual(new Map([
      ["https://example.org/a", [0, 1]],
      ["https://example.org/b", [0]],
      ["Ruth", [2]]
    ]))
  })

  it("that nobody fits are refused, all together, and so are those that leave nobody", async () => {
    const message = await failure(resolve([
      ...named("Genesiss", "Ruth"),
      { by: "prefix", value: "ftp://" },
      { by: "id", value: "12" },
      { by: "id", value: "x" }
    ], names))
    expect(message).toContain("not trained with 4 of the 5")
    expect(message).toContain("source \"Genesiss\": did you mean \"Genesis\"?")
    expect(message).toContain("prefix \"ftp://\": no name begins with it")
    expect(message).toContain("id \"12\": there is none")
    expect(message).toContain("id \"x\": it is no id")
    expect(await failure(resolve(named(...books), names))).toContain("would delete all 7 ids")
    expect(await failure(resolve([{ by: "prefix", value: "" }], names))).toContain("no name begins with it")
  })
})

describe("ownership", () => {
  it("tells what is lit by nobody else from what survivors light, by hand", async () => {
    const { sinks } = configOf("permutation", 6)
    const deleted = new Set([ids[0]!, ids[3]!])
    const gone = new Set([ids[4]!])
    const found = await run(ownershipOf(sinks!, names, deleted, gone))
    const units = (i: number) => [...Sink.unitsOf(sinks!, ids[i]!)]
    const theirs = new Set([...units(0), ...units(3)])
    const others = [1, 2, 5, 6]
    const lit = new Set(others.flatMap(units))
    expect(found.alone).toEqual([...theirs].filter((unit) => !lit.has(unit)).sort((a, b) => a - b))
    expect(found.shared).toEqual([...theirs].filter((unit) => lit.has(unit)).sort((a, b) => a - b))
    expect(found.shared.length).toBeGreaterThan(0)
    expect(found.survivors).toBe(4)
    const hit = others.map((i) => ({ name: books[i]!, units: units(i).filter((unit) => theirs.has(unit)).length }))
      .filter(({ units }) => units > 0)
    expect(found.touched).toBe(hit.length)
    expect(new Map(found.most.map(({ name, units }) => [name, units]))).toEqual(
      new Map(hit.map(({ name, units }) => [name, units]))
    )
  })

  it("has no survivor touched where sinks are disjoint, and counts down to a tenth where they are not", async () => {
    const found = await run(ownershipOf(configOf("disjoint").sinks!, names, new Set([ids[0]!]), new Set()))
    expect([found.alone.length, found.shared.length, found.touched, found.left]).toEqual([2, 0, 0, undefined])
    // 1.3 % a deletion: .987^8 = .9006, .987^9 = .889
    const sinks = new SinkConfig({ pool: 8000, active: 104, block: 1 })
    expect([deletionsLeft(sinks, 0), deletionsLeft(sinks, 5), deletionsLeft(sinks, 99)]).toEqual([8, 3, 0])
  })

  it("counts down as simulated where the pool is in shards", () => {
    for (const shards of [1, 4, 16]) {
      const sinks = new SinkConfig({ pool: 4096, active: 64, block: 4, shards })
      const most = deletionsLeft(sinks, 0)
      /** What 400 survivors lose to so many deletions, each to others, in the mean. */
      const lost = (deletions: number) => {
        const shares = range(400).map((survivor) => {
          const taken = new Set(
            range(deletions).flatMap((i) => [...Sink.unitsOf(sinks, BigInt(10_000 + survivor * 50 + i))])
          )
          const own = Sink.unitsOf(sinks, BigInt(survivor))
          return own.filter((unit) => taken.has(unit)).length / own.length
        })
        return shares.reduce((a, b) => a + b) / shares.length
      }
      expect(Math.abs(lost(most) - (1 - (1 - 64 / 4096) ** most))).toBeLessThan(0.03)
      expect(most).toBe(6)
    }
  })

  it("touches nobody of another shard", async () => {
    const { sinks } = configOf("permutation", 12, 3)
    const shardOf = (i: number) => Sink.shardOf(sinks!, ids[i]!)
    const shards = books.map((_, i) => shardOf(i))
    expect(new Set(shards).size).toBe(3)
    for (const i of range(books.length)) {
      const found = await run(ownershipOf(sinks!, names, new Set([ids[i]!]), new Set()))
      expect(found.alone.length + found.shared.length).toBe(2)
      for (const unit of [...found.alone, ...found.shared]) expect(Math.floor(unit / 4)).toBe(shards[i])
      for (const { name } of found.most) expect(shardOf(books.indexOf(name))).toBe(shards[i])
    }
    // in turn, and as many as fit into the slices share nothing
    const apart = configOf("disjoint", 16, 2).sinks!
    const found = await run(ownershipOf(apart, names, new Set([ids[3]!]), new Set()))
    expect([found.alone.length, found.shared.length, found.touched, found.left]).toEqual([2, 0, 0, undefined])
  })
})

describe("erasing", () => {
  it("sets rows of gate and up and columns of down to zero, and no weight else", () => {
    const c = configOf("disjoint")
    const before = weightsOf(c, 1)
    const after = erase(c, before, [3, 5])
    const neurons = new Set([3, 5].flatMap((unit) => Array.from({ length: 8 }, (_, i) => 16 + unit * 8 + i)))
    const width = c.intermediateSize
    for (const [name, { data, shape }] of Object.entries(before)) {
      const now = after[name]!.data
      expect(after[name]!.shape).toEqual(shape)
      data.forEach((value, i) => {
        const neuron = /(gate|up)_proj/.test(name) ? Math.floor(i / 16) : name.includes("down_proj") ? i % width : -1
        if (neurons.has(neuron) ? now[i] !== 0 : now[i] !== value) {
          throw new Error(`${name}[${i}]: ${value} -> ${now[i]}`)
        }
      })
    }
    expect(Object.values(before).every(({ data }) => !data.every((value) => value === 0))).toBe(true)
  })
})

describe("forgetting a source", () => {
  it("leaves what others say the same to the bit, and of the deleted what sinks off say", async () => {
    const c = configOf("disjoint")
    const from = await saved("bible", c)
    const out = join(root, "without-genesis")
    const report = await run(Forget.forget(from, { requests: named("Genesis") }, { out }))
    expect(report.steps).toEqual([2])
    expect(report.taken.length).toBe(2)
    expect(report.ownership.touched).toBe(0)
    const [before, after, off, offAfter, only] = await run(Effect.all([
      losses(from),
      losses(out),
      losses(from, Sink.off),
      losses(out, Sink.off),
      losses(out, { mode: "only", ids: [ids[0]!] })
    ]))
    expect(after.slice(1)).toEqual(before.slice(1))
    expect(after[0]).not.toBe(before[0])
    expect(after[0]).toBe(off[0])
    expect([offAfter, only]).toEqual([off, off])
    // the one it was made from is as it was
    expect(await run(losses(from))).toEqual(before)
    // weights and moments of its sinks are gone, of nobody else's
    const { config, deletions, model, optimizer } = await run(loadFolder(out))
    const was = await run(loadFolder(from))
    expect(model).toEqual(erase(c, was.model, report.taken))
    expect(optimizer).toEqual(erase(c, was.optimizer, report.taken))
    expect((config as { memsinks: { sinks: { denied: unknown } } }).memsinks.sinks.denied).toEqual([`${ids[0]}`])
    const [entry] = await run(Ledger.read(deletions, "deletions.jsonl"))
    expect(entry).toEqual(report.entry)
    expect(entry!.deleted).toEqual([{ id: `${ids[0]}`, name: "Genesis" }])
    expect(report.surfaces.map(({ state, what }) => `${what}: ${state}`)).toEqual([
      "weights and moments: holds",
      "a list of sources: names",
      "weights and moments of the checkpoint it was made from: holds",
      "a list of sources: names",
      "what it was trained on: holds",
      "a list of sources: names",
      "deletions.jsonl of what was written: names"
    ])
    // nobody can have it exported
    expect(
      await failure(
        exportModel(out, join(root, "e"), { format: "safetensors", sinks: { mode: "own", ids: ["Genesis"] } })
      )
    ).toContain(
      "\"Genesis\" was deleted from this model"
    )
    // what it was trained on is what the first was
    expect([originOf(join(out, "step-00000002")), originOf(from)]).toEqual([join(from, "step-00000002"), from])
    // once more, from what was written: the chain goes on
    const twice = await run(
      Forget.forget(out, { requests: named("Ruth", "Genesis"), operation: "exclude" }, {
        out: join(root, "without-both")
      })
    )
    expect([twice.deleted.map(({ name }) => name), twice.already.map(({ name }) => name)]).toEqual([["Ruth"], [
      "Genesis"
    ]])
    const entries = await run(Forget.deletionsOf(join(root, "without-both")))
    expect(entries.map(({ number, operation }) => [number, operation])).toEqual([[1, "erase"], [2, "exclude"]])
    const both = await run(losses(join(root, "without-both")))
    expect(both.slice(2)).toEqual(before.slice(2))
    expect(both.slice(0, 2)).toEqual(off.slice(0, 2))
    // and of what is deleted nothing is left to do
    const again = await run(Forget.forget(out, { requests: named("Genesis") }, { out: join(root, "never") }))
    expect([again.out, existsSync(join(root, "never"))]).toEqual([undefined, false])
    expect(await failure(Forget.forget(out, { requests: named(...books.slice(1)) }, { out: join(root, "never") })))
      .toContain("would leave nobody")
  })

  it("takes the sinks of one from a pool in shards, and of others' shards nothing", async () => {
    const c = configOf("permutation", 12, 3)
    const from = await saved("in-shards", c)
    const out = join(root, "in-shards-without")
    const { ownership } = await run(
      Forget.forget(from, { requests: named("Genesis"), operation: "erase", shared: "take" }, { out })
    )
    const [before, now, [off]] = await Promise.all([run(losses(from)), run(losses(out)), run(losses(from, Sink.off))])
    expect(now[0]).toBe(off)
    const hit = ids.map((id) => [...Sink.unitsOf(c.sinks!, id)].some((unit) => ownership.shared.includes(unit)))
    now.forEach((loss, i) => i > 0 && (hit[i] ? expect(loss).not.toBe(before[i]) : expect(loss).toBe(before[i])))
    const shardOf = (id: bigint) => Sink.shardOf(c.sinks!, id)
    ids.forEach((id, i) => i > 0 && shardOf(id) !== shardOf(ids[0]!) && expect(hit[i]).toBe(false))
  })

  it("keeps sinks that others light, or takes them, as asked", async () => {
    const c = configOf("permutation", 6)
    const from = await saved("sharing", c)
    const plan = await run(Forget.plan(from, { requests: named("Genesis") }))
    const { shared } = plan.ownership
    expect(shared.length).toBeGreaterThan(0)
    const [keep, take, deny, exclude] = await Promise.all(
      ([["erase", "keep"], ["erase", "take"], ["deny", "keep"], ["exclude", "take"]] as const).map(
        async ([operation, shared]) => {
          const out = join(root, `sharing-${operation}-${shared}`)
          const { surfaces } = await run(
            Forget.forget(from, { requests: named("Genesis"), operation, shared }, { out })
          )
          // what was written is told of, where weights of its sinks are still in it
          const holds = surfaces.filter(({ path, state }) => path.startsWith(join(out, "step-")) && state === "holds")
          expect(holds.length).toBe(operation === "erase" && shared === "take" ? 0 : 1)
          expect(surfaces.find(({ what }) => what === "what it was trained on")?.path).toBe("/data/bible.jsonl")
          return run(losses(out))
        }
      )
    )
    const before = await run(losses(from))
    const [off] = await run(losses(from, Sink.off))
    for (const now of [keep, take, deny, exclude]) expect(now![0]).toBe(off)
    // nobody who stays loses anything, whatever they share
    expect(keep!.slice(1)).toEqual(before.slice(1))
    expect(deny!.slice(1)).toEqual(before.slice(1))
    const hit = ids.map((id) => [...Sink.unitsOf(c.sinks!, id)].some((unit) => shared.includes(unit)))
    const excepted = await run(losses(from, { mode: "own", except: [ids[0]!] }))
    for (const now of [take, exclude]) {
      now!.forEach((loss, i) => i > 0 && (hit[i] ? expect(loss).not.toBe(before[i]) : expect(loss).toBe(before[i])))
      expect(now).toEqual(excepted)
    }
    // deny takes no weight
    const denied = join(root, "sharing-deny-keep")
    const { model } = await run(loadFolder(denied))
    expect(model).toEqual((await run(loadFolder(from))).model)
    // so that they can still be taken: of what was done less, more is left to do, and of what was done more, nothing
    const more = async (of: string, operation: Ledger.Operation, shared: Ledger.Policy) => {
      const { already, deleted, ownership, taken } = await run(
        Forget.plan(of, { requests: named("Genesis"), operation, shared })
      )
      return { todo: deleted.length, done: already.length, taken: taken.length, survivors: ownership.survivors }
    }
    const all = { todo: 1, done: 0, taken: 2, survivors: books.length - 1 }
    expect(await more(denied, "erase", "take")).toEqual(all)
    expect(await more(join(root, "sharing-exclude-take"), "erase", "take")).toEqual(all)
    expect(await more(join(root, "sharing-erase-keep"), "erase", "take")).toEqual(all)
    for (const operation of Ledger.operations) {
      expect(await more(join(root, "sharing-erase-take"), operation, "take")).toMatchObject(
        operation === "refresh" ? { todo: 1, done: 0 } : { todo: 0, done: 1 }
      )
    }
    const late = join(root, "sharing-late")
    await run(Forget.forget(denied, { requests: named("Genesis"), shared: "take" }, { out: late }))
    expect((await run(loadFolder(late))).model).toEqual((await run(loadFolder(join(root, "sharing-erase-take")))).model)
    expect((await run(Forget.deletionsOf(late))).map(({ operation }) => operation)).toEqual(["deny", "erase"])
    expect(await run(losses(late))).toEqual(take)
  })

  it("takes back what was denied or excluded, and not what was erased", async () => {
    const from = await saved("restoring", configOf("permutation", 6))
    const at = (name: string) => join(root, `restoring-${name}`)
    const act = (of: string, out: string, operation: Ledger.Act, shared: Ledger.Policy,
      ...who: ReadonlyArray<string>) => run(Forget.forget(of, { requests: named(...who), operation, shared }, { out }))
    const before = await run(losses(from))
    const restored = async (of: string, out: string, ...who: ReadonlyArray<string>) => {
      await act(of, out, "restore", "keep", ...who)
      return run(losses(out))
    }
    await act(from, at("denied"), "deny", "keep", "Genesis")
    expect(await restored(at("denied"), at("back"), "Genesis")).toEqual(before)
    expect((await run(loadFolder(at("back")))).config).toEqual((await run(loadFolder(from))).config)
    expect((await run(Forget.deletionsOf(at("back")))).map(({ number, operation }) => [number, operation]))
      .toEqual([[1, "deny"], [2, "restore"]])
    // of two that were excluded one comes back: what the other has taken stays off
    await act(from, at("both"), "exclude", "take", "Genesis", "Ruth")
    await act(from, at("ruth"), "exclude", "take", "Ruth")
    expect(await restored(at("both"), at("one"), "Genesis")).toEqual(await run(losses(at("ruth"))))
    expect(await restored(at("one"), at("none"), "Ruth")).toEqual(before)
    // twice is once, and after it can be done again
    const twice = await run(Forget.forget(at("back"), { requests: named("Genesis"), operation: "restore" }, {
      out: at("never")
    }))
    expect([twice.out, twice.already.length, existsSync(at("never"))]).toEqual([undefined, 1, false])
    expect((await run(Forget.plan(at("none"), { requests: named("Ruth"), operation: "deny" }))).deleted.length).toBe(1)
    expect((await run(Forget.plan(at("none"), { requests: named("Ruth"), operation: "exclude" }))).deleted.length).toBe(
      1
    )
    const refused = (of: string, ...who: ReadonlyArray<string>) =>
      failure(Forget.forget(of, { requests: named(...who), operation: "restore" }, { out: at("never") }))
    expect(await refused(at("denied"), "Genesis", "Ruth")).toContain("\"Ruth\" was never denied or excluded")
    await act(at("denied"), at("erased"), "erase", "take", "Genesis")
    expect(await refused(at("erased"), "Genesis")).toMatch(/"Genesis" was erased on .*line 2\): its weights are zero/)
    expect(existsSync(at("never"))).toBe(false)
  })

  it("tells a server what requests keep off, as forget does it", async () => {
    const { sinks } = configOf("permutation", 6)
    const off = (operation: "deny" | "exclude", shared: Ledger.Policy) =>
      run(Forget.offOf(named("Ruth", "Genesis"), { names, sinks: sinks! }, { operation, shared }))
    const rising = [ids[0]!, ids[1]!].sort((a, b) => (a < b ? -1 : 1))
    const theirs = [...new Set([0, 1].flatMap((i) => [...Sink.unitsOf(sinks!, ids[i]!)]))].sort((a, b) => a - b)
    const others = new Set(range(7).slice(2).flatMap((i) => [...Sink.unitsOf(sinks!, ids[i]!)]))
    expect(await off("deny", "take")).toEqual({ denied: rising, excluded: [] })
    expect(await off("exclude", "take")).toEqual({ denied: rising, excluded: theirs })
    expect(await off("exclude", "keep")).toEqual({ denied: rising, excluded: theirs.filter((u) => !others.has(u)) })
    expect(await failure(Forget.offOf(named("Rut"), { names, sinks: sinks! }))).toContain("did you mean \"Ruth\"?")
  })

  it("goes on where it was killed, does the same twice, and lets nobody write over it", async () => {
    const from = await saved("killed", configOf("disjoint"))
    const out = join(root, "killed-out")
    const request = { requests: named("Jonah", "Esther") }
    const stop = Forget.forget(from, request, {
      out,
      allCheckpoints: true,
      onCheckpoint: (_, done) => done === 1 ? Effect.die("killed") : Effect.void
    })
    // killed before, while it wrote its first file, and between two others
    const left = "forget.json.0123456789ab.tmp"
    mkdirSync(out)
    writeFileSync(join(out, left), "{")
    await expect(run(stop)).rejects.toThrow("killed")
    expect(readdirSync(out)).toContain("step-00000001")
    expect(readdirSync(out)).not.toContain(left)
    writeFileSync(join(out, left), "{")
    const whole = await run(Forget.forget(from, request, { out, allCheckpoints: true }))
    expect(whole.steps).toEqual([1, 2])
    expect(readdirSync(out)).not.toContain(left)
    const bytes = () =>
      readdirSync(out, { recursive: true, withFileTypes: true }).filter((file) => file.isFile())
        .map((file) => readFileSync(join(file.parentPath, file.name)).toString("base64"))
    const first = bytes()
    expect((await run(Forget.forget(from, request, { out, allCheckpoints: true }))).entry).toEqual(whole.entry)
    expect(bytes()).toEqual(first)
    expect(await failure(Forget.forget(from, { requests: named("Ruth") }, { out }))).toContain("already exists")
    const [one, two] = await run(Effect.forEach([1, 2], (step) => loadFolder(join(out, `step-0000000${step}`))))
    expect(JSON.parse(one!.deletions!).time).toBe(JSON.parse(two!.deletions!).time)
    expect(one!.model).toEqual(erase(configOf("disjoint"), weightsOf(configOf("disjoint"), 1), whole.taken))
  })

  it("is refused for a model without sinks, or one that does not say whose they are", async () => {
    const { sinks: _, ...plain } = configOf("disjoint")
    const bare = await saved("plain", new ModelConfig({ ...plain }))
    expect(await failure(Forget.plan(bare, { requests: named("Ruth") }))).toContain("the model has no sinks")
    const from = await saved("unnamed", configOf("disjoint"))
    for (const name of readdirSync(from).filter((name) => name.startsWith("step-"))) {
      const manifest = JSON.parse(readFileSync(join(from, name, "manifest.json"), "utf8")) as object
      expect(Object.keys(manifest)).toContain("self")
    }
    expect(await failure(Forget.plan(join(root, "nowhere"), { requests: named("Ruth") }))).toContain(
      "there is no such folder"
    )
  })
})

describe("the ledger", () => {
  const entry: Omit<Ledger.Entry, "format" | "number" | "previous"> = {
    time: "2026-01-01T00:00:00.000Z",
    operation: "erase",
    shared: "keep",
    requests: [],
    deleted: [{ id: "7", name: "Ruth" }],
    units: { alone: 1, shared: 0, taken: 1 },
    before: "a".repeat(64),
    after: "b".repeat(64)
  }
  const one = Ledger.append(undefined, entry).text
  const three = Ledger.append(Ledger.append(one, entry).text, entry).text

  it("is a chain: a line that is changed, left out, moved or repeated is told", async () => {
    expect((await run(Ledger.read(three, "d"))).map(({ number }) => number)).toEqual([1, 2, 3])
    const lines = three.trimEnd().split("\n")
    const refused = (some: ReadonlyArray<string | undefined>) => failure(Ledger.read(some.join("\n"), "d"))
    expect(await refused([lines[0]!.replace("Ruth", "Rath"), lines[1], lines[2]])).toContain("line 2 does not follow")
    expect(await refused([lines[0], lines[2]])).toContain("line 2 does not follow")
    expect(await refused([lines[1], lines[2]])).toContain("line 1 does not follow")
    expect(await refused([lines[0], lines[0]])).toContain("line 2 does not follow")
    expect(await refused(["{}"])).toContain("line 1 is no deletion")
    expect(await refused(["nothing"])).toContain("line 1 is no deletion")
    expect(Ledger.head(three)).not.toBe(Ledger.head(one))
  })
})

describe("a certificate", () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519")
  const other = generateKeyPairSync("ed25519").publicKey
  const folder = join(root, "signed")
  const at = (name: string) => join(root, name)
  writeFileSync(at("key.pem"), privateKey.export({ type: "pkcs8", format: "pem" }))
  writeFileSync(at("pub.pem"), publicKey.export({ type: "spki", format: "pem" }))
  writeFileSync(at("other.pem"), other.export({ type: "spki", format: "pem" }))
  writeFileSync(at("rsa.pem"),
    generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" }))

  it("verifies as it was signed, and after one changed byte of it or of a file it does not", async () => {
    const from = await saved("signing", configOf("disjoint"))
    await run(Forget.forget(from, { requests: named("Ruth") }, { out: folder }))
    const key = await run(Certificate.privateKey(at("key.pem")))
    const subjects = await run(Certificate.subjectsOf(folder))
    expect(subjects.map(({ name }) => name)).toContain("step-00000002/model.safetensors")
    const text = Certificate.certify(subjects, { deleted: ["Ruth"] }, key)
    expect(Certificate.certify(subjects, { deleted: ["Ruth"] }, key)).toBe(text)
    const path = join(folder, "certificate.json")
    writeFileSync(path, text)
    const verify = (key = "pub.pem") => Certificate.verify(path, at(key))
    const { files, statement } = await run(verify())
    expect([files, statement.predicate]).toEqual([subjects.length, { deleted: ["Ruth"] }])
    expect((await run(verify("key.pem"))).files).toBe(files)
    expect(await failure(verify("other.pem"))).toContain("signed with another key")
    expect(await failure(verify("rsa.pem"))).toContain("is no public Ed25519 key")
    expect(await failure(verify("nowhere.pem"))).toMatch(
      /nowhere\.pem: is no public Ed25519 key in PEM .*ENOENT.*openssl pkey/
    )
    expect(await failure(Certificate.verify(dirname(path), at("pub.pem")))).toContain("is a folder, not a file")
    expect(await failure(Certificate.privateKey(at("pub.pem")))).toContain("is no private Ed25519 key")
    // every byte counts, in the envelope and in what it says
    const bytes = Buffer.from(text)
    for (let i = 0; i < bytes.length; i += 11 + (i % 7)) {
      const changed = Buffer.from(bytes)
      changed[i] = changed[i]! ^ 1
      writeFileSync(path, changed)
      await failure(verify())
    }
    writeFileSync(path, text)
    expect((await run(verify())).files).toBe(files)
    cpSync(folder, at("copy"), { recursive: true })
    // one put beside it would be the latest
    cpSync(join(folder, "step-00000002"), join(folder, "step-00000003"), { recursive: true })
    expect(await failure(verify())).toMatch(/step-00000003.* is a file of a model that .* does not name/)
    rmSync(join(folder, "step-00000003"), { recursive: true })
    const file = join(folder, "step-00000002", "config.json")
    const config = readFileSync(file, "utf8")
    writeFileSync(file, config.replace("llama", "lambs"))
    expect(await failure(verify())).toContain("config.json: is not the file that")
    rmSync(file)
    expect(await failure(verify())).toContain("cannot be read")
    // it is of the files beside it, wherever they lie
    expect((await run(Certificate.verify(at("copy/certificate.json"), at("pub.pem")))).files).toBe(files)
  })

  it("names no file outside of its folder", async () => {
    const key = await run(Certificate.privateKey(at("key.pem")))
    const path = join(root, "outside.json")
    writeFileSync(path, Certificate.certify([{ name: "../x", digest: { sha256: "0".repeat(64) } }], {}, key))
    expect(await failure(Certificate.verify(path, at("pub.pem")))).toContain("outside of its folder: ../x")
  })
})

describe("copies", () => {
  const texts = [
    { source: "a", content: 1n, near: 0, tokens: range(40) },
    { source: "b", content: 1n, near: 0, tokens: range(40) },
    { source: "b", content: 2n, near: 0, tokens: [...range(39), 99] },
    { source: "c", content: 3n, near: 3, tokens: [...range(5), ...range(20).map((x) => x + 10), 7] },
    { source: "c", content: 4n, near: 4, tokens: range(40).map((x) => x + 100) }
  ]
  const sources = ["a", "b", "c"]
  const corpus = {
    documents: texts.length,
    length: (d: number) => texts[d]!.tokens.length,
    read: (d: number, offset: number, length: number) =>
      Uint32Array.from(texts[d]!.tokens.slice(offset, offset + length)),
    name: (d: number) => `document ${d}`,
    sources,
    source: (d: number) => sources.indexOf(texts[d]!.source),
    content: (d: number) => texts[d]!.content,
    near: (d: number) => texts[d]!.near
  }
  const holders = (text: ReadonlyArray<number>, share?: number) =>
    Effect.runSync(inTurns(holdersOf(corpus, text, share)))
      .map(({ documents, source }) => [source, documents])

  it("are found by equal texts and clusters, in other sources alone", () => {
    expect(copiesOf(corpus, new Set(["a"]))).toEqual([
      { source: "b", likeness: "equal", documents: 1, examples: ["document 1"] },
      { source: "b", likeness: "near", documents: 1, examples: ["document 2"] }
    ])
    expect(copiesOf(corpus, new Set(["a", "b"]))).toEqual([])
    expect(copiesOf(corpus, new Set(["c"]))).toEqual([])
    const { content: _, near: __, ...plain } = corpus
    expect(copiesOf(plain, new Set(["a"]))).toBeUndefined()
  })

  it("are found by the runs of tokens that they share with a text", () => {
    // of 29 runs of 12 tokens, documents 0 to 2 hold all or all but one, document 3 holds 9
    expect(holders(range(40))).toEqual([["b", 2], ["a", 1]])
    expect(holders(range(40), 0.3)).toEqual([["b", 2], ["a", 1], ["c", 1]])
    expect(holders(range(20).map((x) => x + 10))).toEqual([["b", 2], ["a", 1], ["c", 1]])
    expect(holders([24, 25, 26])).toEqual([["b", 2], ["a", 1], ["c", 1]])
    expect(holders([29, 7])).toEqual([["c", 1]])
    expect(holders([300])).toEqual([])
    expect(holders([])).toEqual([])
  })
})
