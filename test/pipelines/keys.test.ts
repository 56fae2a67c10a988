/** What is reused is what would be computed: keys, folders of names, stores that are shared, runs that go on. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { planOf as planDynamics } from "../../pipelines/dynamics/Config.ts"
import { attempt, BUGS } from "../../pipelines/experiment/Failures.ts"
import { claimFolder, folderOf } from "../../pipelines/experiment/RunFolder.ts"
import { fileStore } from "../../pipelines/experiment/Store.ts"
import { IsolateConfig, planOf } from "../../pipelines/isolation/Config.ts"
import * as Jobs from "../../pipelines/isolation/Jobs.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import { DataError, DeviceError } from "../../src/Errors.ts"
import { sameMachine } from "../../src/gpu/Machine.ts"
import { canonical, keyOf } from "../../src/Key.ts"
import { random } from "../../src/Random.ts"
import { fuzzers } from "../fuzz/keys.ts"
import { shareStore } from "../support/shareStore.ts"
import { makeRandomText } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-keys-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const run = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))

describe("a key", () => {
  it("does not depend on the order of fields, nor on those that are undefined, and on all else", () => {
    expect(keyOf({ b: [1, { d: 2, c: 3 }], a: "x", e: undefined })).toBe(keyOf({ a: "x", b: [1, { c: 3, d: 2 }] }))
    const different = [null, 0, -0, NaN, Infinity, 1, 1n, "1", "NaN", true, [], {}, [1], { 0: 1 }, [[]], ["a,b"], ["a",
      "b"], { a: null }]
    expect(new Set(different.map(keyOf)).size).toBe(different.length)
    expect(canonical({ b: 1, a: [true, "ü"] })).toBe("{\"a\":[true,\"ü\"],\"b\":1}")
  })
  it("is of plain data, and says where it is not", () => {
    expect(() => keyOf({ a: [{ b: () => 1 }] })).toThrow("a[0].b is function")
    expect(() => keyOf({ a: new Map() })).toThrow("a is a Map")
    expect(() => keyOf([undefined])).toThrow("[0] is undefined")
  })

  for (const { name, run } of fuzzers) {
    it(`is another exactly where a result can be: ${name}`, async () => {
      expect(await run(random(7, name).uniform, 12, () => {})).toEqual([])
    }, 30_000)
  }

  it("of a model after training holds every option that made it", async () => {
    const keysOf = async (overrides: object) => {
      const { config, unlearners } = await run(
        planOf(new IsolateConfig({ intervals: false, unlearnRates: [2e-3], ...overrides }))
      )
      const setup: Jobs.Setup = {
        config,
        seed: 1,
        steps: 10,
        vocabSize: 64,
        inputs: [],
        machine: { adapter: "a", kernels: "plain" }
      }
      const model = Jobs.model(setup, { arm: "standard", name: "standard" })
      return unlearners.flatMap(({ method, settings }) =>
        settings.map(({ options }) => keyOf(Jobs.atPoint(Jobs.unlearning(model, method, options, 1), { step: 4 })))
      )
    }
    const all = [
      await keysOf({ unlearners: ["gradientDifference"], unlearnBatchSize: 4 }),
      await keysOf({ unlearners: ["gradientDifference"], unlearnBatchSize: 16 }),
      await keysOf({ unlearners: ["gradientDifference"], unlearnSteps: 8 }),
      await keysOf({ unlearners: [{ unlearner: "rmu", alpha: [1, 3, 10], layer: [0, 1] }] })
    ]
    expect(all.map(({ length }) => length)).toEqual([1, 1, 1, 6])
    expect(new Set(all.flat()).size).toBe(9)
  })
})

describe("the folder of a name", () => {
  it("is one's own", () => {
    const names = [
      "λ",
      "μ",
      "日本",
      "한국",
      "a b",
      "a-b",
      "a  b",
      "..",
      ".",
      "...",
      "a/b",
      "a\\b",
      "A",
      "a",
      "neverRepeated",
      "neverrepeated",
      "NeverRepeated",
      "con",
      "nul.x",
      "a.",
      "é",
      "e\u0301",
      " ",
      "-",
      "sinks p=0.3",
      "sinks-p=0.3",
      "x".repeat(300),
      `${"x".repeat(300)}y`
    ]
    const folders = names.map((name) => folderOf(name))
    // also where capitals and small letters are the same
    expect(new Set(folders.map((folder) => folder.toLowerCase())).size).toBe(names.length)
    for (const folder of folders) {
      expect(folder).toMatch(/^[A-Za-z0-9][A-Za-z0-9._=-]*(~[0-9a-f]{12})?$|^~[0-9a-f]{12}$/)
    }
    expect(folderOf("sinks")).toBe("sinks")
    expect(folderOf("neverRepeated")).toBe("neverRepeated")
  })
})

describe("what methods after training are tried with", () => {
  it("is what is set, all combinations of lists, or what the authors sweep", async () => {
    const labels = async (...unlearners: ReadonlyArray<unknown>) =>
      (await run(planOf({ unlearners, intervals: false }))).unlearners.map(({ settings }) =>
        settings.map(({ label }) => label)
      )
    expect(await labels({ unlearner: "rmu", alpha: [1, 3], layer: [0, 1], rates: [1e-3] })).toEqual([
      ["0.001, alpha 1, layer 0", "0.001, alpha 1, layer 1", "0.001, alpha 3, layer 0", "0.001, alpha 3, layer 1"]
    ])
    expect(await labels({ unlearner: "rmu", name: "plain", rates: [1e-3] })).toEqual([["0.001"]])
    const [ascent, npo, simNpo, rmu] = await labels("gradientAscent", "npo", "simNpo", "rmu")
    expect([ascent!.length, npo!.length, simNpo!.length, rmu!.length]).toEqual([6, 6, 6, 12])
    expect(rmu).toContain("0.001, alpha 1, layer 1")
  })
  it("is refused by name where a method has no such option", async () => {
    const problem = async (input: object) => (await run(Effect.flip(planOf({ intervals: false, ...input })))).message
    expect(await problem({ unlearners: [{ unlearner: "npo", layer: 0 }] })).toContain(
      "unlearners: npo: npo has no option layer; its options are"
    )
    expect(await problem({ unlearners: [{ unlearner: "rmu", layer: 7 }] })).toContain(
      "layer is 7, but the model has blocks 0 to 1"
    )
    expect(await problem({ localizers: [{ localizer: "zeroOut", steps: 3 }] })).toContain(
      "zeroOut has no option steps: it has none"
    )
    expect(await problem({ unlearners: [{ unlearner: "rmu" }, "rmu"] })).toContain("\"rmu\" is named twice")
    expect(await problem({ arms: ["standard", "neverRepeated", { arm: "sinks", name: "npo" }], unlearners: ["npo"] }))
      .toContain("\"npo\" is named twice")
    expect((await run(Effect.flip(planDynamics({ arms: [{ arm: "sinks", name: "x", goldfish: { k: 2 } }] })))).message)
      .toContain("goldfish is of arm goldfish")
  })
})

describe("a run that goes on", () => {
  const text = join(root, "text.txt")
  const fields = {
    data: text,
    tokenizer: "bytes",
    seqLen: 16,
    batchSize: 2,
    repeatedSequences: 4,
    repeats: 2,
    singleSequences: 16,
    heldOutSequences: 4
  }
  const config = new DataConfig(fields)
  const inputs = Effect.flatMap(DataStream, (data) => data.inputs).pipe(Effect.provide(DataStream.layer(fields)))
  const claim = (resume: boolean) =>
    Effect.scoped(Effect.gen(function*() {
      const claimed = yield* claimFolder(join(root, "run"), {
        kind: "pretrain",
        schema: DataConfig,
        config,
        seeds: [1],
        arms: ["sinks"],
        inputs
      }, { resume })
      yield* claimed.madeOf(yield* inputs)
      yield* claimed.computedOn({ name: "an adapter", target: { family: "gpu", subgroupSize: 0 } } as never)
    }))
  it("is refused other data, with both checksums, and goes on with the same", async () => {
    writeFileSync(text, makeRandomText(5)(4000))
    await run(claim(false))
    await run(claim(true))
    writeFileSync(text, makeRandomText(6)(4000))
    const error = await run(Effect.flip(claim(true)))
    expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Mismatch" })
    expect(error.message).toContain(`${text} has changed: its sha256 is `)
    writeFileSync(text, makeRandomText(5)(4000))
    await run(claim(true))
  })
  it("is refused other kernels on the same adapter; another adapter is told", async () => {
    const before = { adapter: "an adapter", kernels: "gpu" }
    const refused = await run(Effect.flip(sameMachine({ ...before, kernels: "plain" }, before, "here")))
    expect(refused.message).toContain("resume with MEMSINKS_KERNELS=gpu")
    await run(sameMachine({ adapter: "another", kernels: "plain" }, before, "here"))
    await run(sameMachine(before, undefined, "here"))
  })
})

describe("an arm that fails", () => {
  const outDir = mkdtempSync(join(root, "fails-"))
  const tried = async <E extends { readonly _tag: string; readonly message: string }>(
    effect: Effect.Effect<string, E>
  ) => {
    const told: Array<unknown> = []
    const exit = await Effect.runPromiseExit(attempt({ arm: "sinks", seed: 3 }, effect, {
      outDir,
      onFailure: (failure) => Effect.sync(() => void told.push(failure))
    }))
    return { exit, told }
  }
  it("is told; a bug is told as one, with its stack in a file", async () => {
    expect((await tried(Effect.succeed("done"))).exit).toMatchObject({ value: Option.some("done") })
    const failed = await tried(Effect.fail(new DataError({ detail: "no data" })))
    expect(failed.told).toEqual([{ arm: "sinks", seed: 3, message: "no data" }])
    const bug = await tried(Effect.sync((): string => (undefined as unknown as { a: string }).a))
    expect(bug.told).toMatchObject([{ arm: "sinks", seed: 3, bug: true,
      message: expect.stringContaining("this is a bug in memsinks") }])
    expect(readFileSync(join(outDir, BUGS), "utf8")).toMatch(/seed 3, sinks\n.*TypeError[\s\S]*keys\.test\.ts/)
  })
  it("takes the others with it where that concerns all", async () => {
    const lost = await tried(Effect.fail(new DeviceError({ reason: "Lost", detail: "gone" })))
    expect(lost.told).toEqual([])
    expect(lost.exit._tag).toBe("Failure")
    const stopped = await tried(Effect.interrupt)
    expect(stopped.exit._tag === "Failure" && Cause.isInterrupted(stopped.exit.cause)).toBe(true)
  })
})

describe("a store of several processes", () => {
  it("does each job once; who is killed is followed at once, who is stopped after its lease, and overwrites nothing",
    async () => {
      const done = await shareStore(join(root, "shared"), { processes: 2, jobs: 3, wait: 250, lease: 0.5,
        harm: "each" })
      expect(done.problems).toEqual([])
      expect(done.harmed).toBe(2)
    }, 60_000)
  it("says before anything is computed that it cannot be written", async () => {
    const file = join(root, "a-file")
    writeFileSync(file, "")
    const error = await Effect.runPromise(
      Effect.flip(Effect.provide(fileStore(join(file, "store")), NodeContext.layer))
    )
    expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Write" })
    expect(error.message).toContain("a-file/store: the store cannot be written: ENOTDIR")
  })
})
