import * as NodeContext from "@effect/platform-node/NodeContext"
import type { PlatformError } from "@effect/platform/Error"
import { SystemError } from "@effect/platform/Error"
import * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import * as Layer from "effect/Layer"
import { createHash } from "node:crypto"
import type { FileSystemOptions, Snapshot, Which } from "../../src/checkpoints/Checkpoints.ts"
import { Checkpoints, loadFolder, loadModel } from "../../src/checkpoints/Checkpoints.ts"
import type { CheckpointError } from "../../src/Errors.ts"

// ---------------------------------------------------------------------------------------------------------------
// Helpers

/** Quiet and signalling NaN payloads, -0, a subnormal, the largest number, infinity. */
const awkward = Uint32Array.of(0x7fc12345, 0xff800001, 0x80000000, 1, 0x7f7fffff, 0xff800000)

/** `variant` makes snapshots of one step differ. */
const snapshot = (step: number, variant = 0): Snapshot => ({
  step,
  config: { architectures: ["LlamaForCausalLM"], hidden_size: 64, memsinks: { pool: 8192 } },
  model: {
    "model.embed_tokens.weight": { shape: [2, 3], data: new Float32Array(awkward.slice().buffer) },
    "model.norm.weight": { shape: [2], data: new Float32Array([step, variant]) }
  },
  optimizer: {
    "model.norm.weight.m": { shape: [2], data: new Float32Array([step / 3, -0]) },
    "model.norm.weight.steps": { shape: [2], data: new Uint32Array([step, 0xffffffff]) }
  },
  trainerState: { step, cursor: { epoch: 1, row: step * 4 }, rng: "18446744073709551615", bestLoss: null },
  tokenizer: step % 2 === 0 ? "\ufeff{\"model\":\"é😀\"}\n" : undefined
})

/** What a checkpoint with a tokenizer holds beside its manifest. */
const names = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "optimizer.safetensors",
  "tokenizer.json",
  "trainer_state.json"
]

/** A snapshot as plain values in which NaN payloads and the sign of zero can be compared. */
const plain = ({ model, optimizer, ...rest }: Snapshot) => ({
  ...rest,
  model: words(model),
  optimizer: words(optimizer)
})

const words = (tensors: Snapshot["model"]) =>
  Object.entries(tensors).sort(([a], [b]) => a < b ? -1 : 1).map(([name, { data, shape }]) => ({
    name,
    shape: [...shape],
    type: data.constructor.name,
    bits: [...new Uint32Array(data.buffer, data.byteOffset, data.length)]
  }))

const save = (snapshot: Snapshot) => Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.save(snapshot))

const load = (which: Which) => Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.load(which))

const steps = Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.list).pipe(
  Effect.map((saved) => saved.map(({ step }) => step))
)

const temporary = Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped())

type OnDisk<A, E, R> = Effect.Effect<A, E, R | Checkpoints | FileSystem.FileSystem | Path.Path>

/** Runs `body` as one process would: on a run's folder, with a layer of its own. */
const within = <A, E, R>(folder: string, options: FileSystemOptions, body: OnDisk<A, E, R>) =>
  Effect.provide(body, Checkpoints.layerFileSystem(folder, options))

const resumed = <A, E, R>(folder: string, body: OnDisk<A, E, R>) => within(folder, { resume: true }, body)

const onDisk = (
  body: (folder: string) => Effect.Effect<void, unknown, FileSystem.FileSystem | Path.Path>
) =>
() => temporary.pipe(Effect.flatMap(body), Effect.scoped, Effect.provide(NodeContext.layer)) as Effect.Effect<void>

const files = (folder: string) =>
  Effect.flatMap(FileSystem.FileSystem, (fs) => Effect.map(fs.readDirectory(folder), (names) => names.sort()))

// ---------------------------------------------------------------------------------------------------------------
// What every layer owes

/** The contract, to be run against each implementation; `layer` gives a fresh, empty one that keeps every step. */
export const conformance = (title: string, layer: Layer.Layer<Checkpoints, CheckpointError>): void => {
  const check = (name: string, body: Effect.Effect<void, unknown, Checkpoints>) =>
    it.effect(name, () => Effect.provide(body, Layer.fresh(layer)))

  describe(title, () => {
    check(
      "gives back what was saved, bit for bit",
      Effect.gen(function*() {
        for (const step of [0, 1, 2, 123456789]) {
          yield* save(snapshot(step))
          expect(plain(yield* load(step))).toEqual(plain(snapshot(step)))
          expect(plain(yield* load("latest"))).toEqual(plain(snapshot(step)))
        }
      })
    )

    check(
      "keeps what was saved when the caller goes on with its arrays, and what was loaded when that is changed",
      Effect.gen(function*() {
        const mine = snapshot(1)
        yield* save(mine)
        mine.model["model.norm.weight"]!.data.fill(9)
        const loaded = yield* load(1)
        expect(plain(loaded)).toEqual(plain(snapshot(1)))
        loaded.model["model.norm.weight"]!.data.fill(9)
        expect(plain(yield* load(1))).toEqual(plain(snapshot(1)))
      })
    )

    check(
      "saves tensors that are views into larger arrays",
      Effect.gen(function*() {
        const whole = new Float32Array([1, 2, 3, 4])
        yield* save({ ...snapshot(1), model: { w: { shape: [2], data: whole.subarray(1, 3) } } })
        expect((yield* load(1)).model.w!.data).toEqual(new Float32Array([2, 3]))
      })
    )

    check(
      "lists by rising step, and loads each",
      Effect.gen(function*() {
        expect(yield* steps).toEqual([])
        for (const step of [5, 100_000_000, 20]) yield* save(snapshot(step))
        expect(yield* steps).toEqual([5, 20, 100_000_000])
        expect((yield* load(5)).step).toBe(5)
      })
    )

    check(
      "returns the path under which the step is listed",
      Effect.gen(function*() {
        const path = yield* save(snapshot(1000))
        expect(path).toMatch(/step-00001000$/)
        expect(yield* Effect.flatMap(Checkpoints, ({ list }) => list)).toEqual([{ step: 1000, path }])
      })
    )

    check(
      "takes the one saved last as the latest, also after going back",
      Effect.gen(function*() {
        yield* save(snapshot(10))
        yield* save(snapshot(20))
        yield* save(snapshot(15))
        expect((yield* load("latest")).step).toBe(15)
      })
    )

    check(
      "replaces a checkpoint of the same step",
      Effect.gen(function*() {
        yield* save(snapshot(10, 1))
        yield* save(snapshot(10, 2))
        expect(plain(yield* load(10))).toEqual(plain(snapshot(10, 2)))
        expect(yield* steps).toEqual([10])
      })
    )

    check(
      "says Missing for what is not there, and what there is",
      Effect.gen(function*() {
        const { location } = yield* Checkpoints
        const nothing = yield* Effect.flip(load("latest"))
        expect(nothing).toMatchObject({ reason: "Missing", path: location })
        expect(nothing.message).toMatch(/no checkpoint yet/)
        yield* save(snapshot(10))
        yield* save(snapshot(20))
        const other = yield* Effect.flip(load(15))
        expect(other.reason).toBe("Missing")
        expect(other.message).toMatch(/no checkpoint of step 15; it holds 10, 20/)
      })
    )

    const refused: ReadonlyArray<[string, Snapshot, RegExp]> = [
      ["a step that is not whole", snapshot(1.5), /whole number of steps, got 1.5/],
      ["a negative step", snapshot(-1), /whole number of steps, got -1/],
      ["Infinity in the state, which JSON would turn into null", {
        ...snapshot(2),
        trainerState: { best: { loss: Infinity } }
      }, /trainer_state.json: .*"loss" is Infinity/],
      ["a bigint in the config", { ...snapshot(2), config: { id: 1n } }, /config.json: .*JSON: .*BigInt/],
      ["no config at all", { ...snapshot(2), config: undefined }, /config.json: .*undefined/],
      ["a shape that does not fit its data", {
        ...snapshot(2),
        optimizer: { "w.m": { shape: [3], data: new Float32Array(2) } }
      }, /optimizer.safetensors: tensor "w.m": shape \[3\]/]
    ]
    for (const [what, bad, message] of refused) {
      check(
        `refuses ${what}, and keeps what it had`,
        Effect.gen(function*() {
          yield* save(snapshot(1))
          const error = yield* Effect.flip(save(bad))
          expect(error.reason).toBe("Write")
          expect(error.message).toMatch(message)
          expect(yield* steps).toEqual([1])
          expect(plain(yield* load("latest"))).toEqual(plain(snapshot(1)))
        })
      )
    }
  })
}

conformance("Checkpoints.layerMemory", Checkpoints.layerMemory)

conformance(
  "Checkpoints.layerFileSystem",
  Layer.unwrapScoped(Effect.map(temporary, (folder) => Checkpoints.layerFileSystem(folder, { keepLast: Infinity })))
    .pipe(
      Layer.provide(NodeContext.layer),
      Layer.catchAll((cause) => Layer.die(cause))
    )
)

// ---------------------------------------------------------------------------------------------------------------
// What a folder owes

describe("a run's folder", () => {
  it.effect("holds the documented files, each with its length and sha256 in the manifest",
    onDisk((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* within(`${folder}/a/b`, {}, save(snapshot(1000)))
        expect(path).toBe(`${folder}/a/b/step-00001000`)
        expect(yield* files(`${folder}/a/b`)).toEqual(["latest", "step-00001000"])
        expect(yield* fs.readFileString(`${folder}/a/b/latest`)).toBe("step-00001000\n")
        expect(yield* files(path)).toEqual([...names, "manifest.json"].sort())
        const manifest = JSON.parse(yield* fs.readFileString(`${path}/manifest.json`))
        expect(manifest).toMatchObject({ format: 1, step: 1000 })
        expect(Object.keys(manifest.files).sort()).toEqual(names)
        for (const name of names) {
          const bytes = yield* fs.readFile(`${path}/${name}`)
          const sha256 = createHash("sha256").update(bytes).digest("hex")
          expect(manifest.files[name]).toEqual({ bytes: bytes.length, sha256 })
        }
        expect(JSON.parse(yield* fs.readFileString(`${path}/config.json`))).toEqual(snapshot(1000).config)
      })
    ))

  it.effect("has the same bytes for the same snapshot", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const a = yield* within(`${folder}/a`, {}, save(snapshot(2)))
      const b = yield* within(`${folder}/b`, {}, save(snapshot(2)))
      for (const name of yield* files(a)) {
        expect(Buffer.compare(yield* fs.readFile(`${a}/${name}`), yield* fs.readFile(`${b}/${name}`)), name).toBe(0)
      }
    })
  ))

  it.effect("is gone on with only when asked, and nothing in it changes otherwise",
    onDisk((folder) =>
      Effect.gen(function*() {
        yield* within(folder, {}, save(snapshot(10)))
        const error = yield* Effect.flip(within(folder, {}, save(snapshot(20))))
        expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Mismatch", path: folder })
        expect(error.message).toMatch(/already holds a run: pass --resume to go on from it, or choose another folder/)
        expect(yield* files(folder)).toEqual(["latest", "step-00000010"])
        expect(plain(yield* resumed(folder, load("latest")))).toEqual(plain(snapshot(10)))
      })
    ))

  it.effect("that holds only run.json is a run too; other files are none", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      yield* fs.writeFileString(`${folder}/notes.md`, "")
      yield* within(folder, {}, steps)
      yield* fs.writeFileString(`${folder}/run.json`, "{}")
      expect(yield* Effect.flip(within(folder, {}, steps))).toMatchObject({ reason: "Mismatch" })
    })
  ))

  it.effect("that is empty starts fresh when resumed", onDisk((folder) =>
    Effect.gen(function*() {
      expect(yield* resumed(`${folder}/new`, steps)).toEqual([])
      expect(yield* Effect.flip(resumed(folder, load("latest")))).toMatchObject({ reason: "Missing" })
    })
  ))

  it.effect("keeps the last two by default, or as many as it is told", onDisk((folder) =>
    Effect.gen(function*() {
      const saveAll = Effect.forEach([10, 20, 30, 40], (step) => save(snapshot(step)))
      const kept = Effect.zipRight(saveAll, steps)
      expect(yield* within(`${folder}/default`, {}, kept)).toEqual([30, 40])
      expect(yield* within(`${folder}/one`, { keepLast: 1 }, kept)).toEqual([40])
      expect(yield* within(`${folder}/all`, { keepLast: Infinity }, kept)).toEqual([10, 20, 30, 40])
      expect(yield* files(`${folder}/one`)).toEqual(["latest", "step-00000040"])
      for (const keepLast of [0, NaN]) {
        expect(yield* Effect.flip(within(`${folder}/none`, { keepLast }, kept))).toMatchObject({ reason: "Mismatch" })
      }
    })
  ))

  it.effect("keeps the best until there is a better one, and finds it in a new process",
    onDisk((folder) =>
      Effect.gen(function*() {
        const losses: ReadonlyArray<readonly [step: number, loss: number | undefined, kept: ReadonlyArray<number>]> = [
          [10, 3, [10]],
          [20, 2, [10, 20]],
          [30, 2.5, [20, 30]],
          [40, undefined, [20, 30, 40]],
          [50, NaN, [20, 40, 50]],
          [60, 2, [20, 50, 60]],
          [70, 1.5, [60, 70]],
          [80, 1.6, [70, 80]],
          [90, -Infinity, [70, 80, 90]]
        ]
        for (const [step, loss, kept] of losses) {
          const after = yield* resumed(folder, Effect.zipRight(save({ ...snapshot(step), loss }), steps))
          expect(after, String(step)).toEqual(kept)
        }
        expect(yield* resumed(folder, load("best"))).toMatchObject({ step: 70, loss: 1.5 })
        expect((yield* resumed(folder, load("latest"))).step).toBe(90)
        expect(yield* resumed(folder, Effect.flatMap(Checkpoints, ({ list }) => list))).toMatchObject([
          { step: 70, loss: 1.5 },
          { step: 80, loss: 1.6 },
          { step: 90 }
        ])
        // told not to, it keeps the last two
        expect(yield* within(folder, { resume: true, keepBest: false }, Effect.zipRight(save(snapshot(100)), steps)))
          .toEqual([90, 100])
        expect((yield* Effect.flip(resumed(folder, load("best")))).message).toMatch(
          /no checkpoint with a validation loss/
        )
      })
    ))

  it.effect("keeps a curve over all of training when told to: 0, and the first in each power of two",
    onDisk((folder) =>
      Effect.gen(function*() {
        const logSpaced = { keepLogSpaced: true, keepLast: 1, resume: true }
        const saveAll = (numbers: ReadonlyArray<number>) => Effect.forEach(numbers, (step) => save(snapshot(step)))
        const every = Array.from({ length: 20 }, (_, i) => i)
        expect(yield* within(`${folder}/one`, logSpaced, Effect.zipRight(saveAll(every), steps))).toEqual([0, 1, 2, 4,
          8, 16, 19])
        const hundreds = Array.from({ length: 17 }, (_, i) => 100 * (i + 1))
        expect(yield* within(`${folder}/hundred`, logSpaced, Effect.zipRight(saveAll(hundreds), steps)))
          .toEqual([100, 200, 300, 600, 1100, 1700])
        // going back abandons what lies ahead
        expect(yield* within(`${folder}/hundred`, logSpaced, Effect.zipRight(saveAll([250]), steps))).toEqual([100, 200,
          250])
      })
    ))

  it.effect("splits model and optimizer above a size, with indices as at Hugging Face, and joins them again",
    onDisk((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const tensors = (n: number) =>
          Object.fromEntries(
            Array.from({ length: 5 }, (_, i) => [`t${i}`, { shape: [n], data: new Float32Array(n).fill(i) }])
          )
        const large: Snapshot = { ...snapshot(10), model: tensors(10), optimizer: tensors(3) }
        const path = yield* within(folder, { maxShardBytes: 80 }, save(large))
        expect((yield* files(path)).filter((name) => name.includes("safetensors"))).toEqual([
          "model-00001-of-00003.safetensors",
          "model-00002-of-00003.safetensors",
          "model-00003-of-00003.safetensors",
          "model.safetensors.index.json",
          "optimizer.safetensors"
        ])
        expect(JSON.parse(yield* fs.readFileString(`${path}/model.safetensors.index.json`))).toEqual({
          metadata: { total_size: 200 },
          weight_map: {
            t0: "model-00001-of-00003.safetensors",
            t1: "model-00001-of-00003.safetensors",
            t2: "model-00002-of-00003.safetensors",
            t3: "model-00002-of-00003.safetensors",
            t4: "model-00003-of-00003.safetensors"
          }
        })
        expect(plain(yield* resumed(folder, load(10)))).toEqual(plain(large))
        const shard = `${path}/model-00002-of-00003.safetensors`
        const bytes = yield* fs.readFile(shard)
        yield* fs.writeFile(shard, bytes.map((byte, i) => i === bytes.length - 1 ? byte ^ 1 : byte))
        expect(yield* Effect.flip(loadFolder(folder))).toMatchObject({ reason: "Corrupt", path: shard })
        yield* fs.remove(shard)
        expect(yield* Effect.flip(loadFolder(folder))).toMatchObject({ reason: "Missing", path: shard })
      })
    ))

  it.effect("gives its model without reading the optimizer", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* within(folder, {}, save(snapshot(10)))
      yield* fs.remove(`${path}/optimizer.safetensors`)
      const { model, ...rest } = yield* loadModel(folder)
      expect(words(model)).toEqual(words(snapshot(10).model))
      expect(rest).toMatchObject({ step: 10, path, config: snapshot(10).config, tokenizer: snapshot(10).tokenizer })
      expect(yield* Effect.flip(loadFolder(folder))).toMatchObject({ reason: "Missing" })
    })
  ))

  it.effect("drops the abandoned steps first after going back, never the latest",
    onDisk((folder) =>
      Effect.gen(function*() {
        yield* within(folder, { keepLast: 3 }, Effect.forEach([10, 20, 30], (step) => save(snapshot(step))))
        yield* within(folder, { resume: true, keepLast: 2 }, save(snapshot(15)))
        expect(yield* resumed(folder, steps)).toEqual([10, 15])
        yield* within(folder, { resume: true, keepLast: 1 }, save(snapshot(5)))
        expect(yield* resumed(folder, steps)).toEqual([5])
        expect((yield* resumed(folder, load("latest"))).step).toBe(5)
      })
    ))

  it.effect("that cannot be made is refused by name", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      yield* fs.writeFileString(`${folder}/file`, "")
      for (const path of [`${folder}/file`, `${folder}/file/below`]) {
        const error = yield* Effect.flip(resumed(path, steps))
        expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Write", path })
        expect(error.message).toMatch(/not a folder that can be written to/)
      }
    })
  ))

  it.effect("that may not be written to is refused by name", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      // The superuser may write anywhere, so the refusal has to come from a file system that says no.
      const readOnly = { ...fs, access: (path: string) => Effect.fail(systemError("access", path, "EACCES")) }
      const error = yield* Effect.flip(Effect.provideService(resumed(folder, steps), FileSystem.FileSystem, readOnly))
      expect(error).toMatchObject({ reason: "Write", path: folder })
      expect(error.message).toMatch(/EACCES/)
    })
  ))

  it.effect("can be read by its path, or by the path of one checkpoint, and nothing is written",
    onDisk((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const [old] = yield* within(folder, {}, Effect.forEach([10, 20], (step) => save(snapshot(step))))
        yield* fs.makeDirectory(`${folder}/.tmp-step-00000030`)
        const before = yield* files(folder)
        expect(plain(yield* loadFolder(`${folder}/`))).toEqual(plain(snapshot(20)))
        expect(plain(yield* loadFolder(`${old}/`))).toEqual(plain(snapshot(10)))
        expect(yield* files(folder)).toEqual(before)
        yield* fs.remove(`${folder}/latest`)
        expect((yield* loadFolder(folder)).step).toBe(20)
        yield* fs.copy(old!, `${folder}/best`)
        expect((yield* loadFolder(`${folder}/best`)).step).toBe(10)
        expect(yield* Effect.flip(loadFolder(`${folder}/worst`))).toMatchObject({ reason: "Missing" })
      })
    ))

  it.effect("saves and loads 64 MiB within seconds", onDisk((folder) =>
    Effect.gen(function*() {
      const data = new Float32Array((64 << 20) / 4).map((_, i) => i)
      const big: Snapshot = { ...snapshot(1), model: { w: { shape: [4096, 4096], data } } }
      const start = performance.now()
      yield* within(folder, {}, save(big))
      const saved = performance.now()
      const loaded = yield* resumed(folder, load("latest"))
      const took = { save: saved - start, load: performance.now() - saved }
      expect(Buffer.compare(Buffer.from(loaded.model.w!.data.buffer), Buffer.from(data.buffer))).toBe(0)
      // Ten times what it takes on a slow disk: this catches a copy per element, not a busy machine.
      expect(took.save, JSON.stringify(took)).toBeLessThan(5000)
      expect(took.load, JSON.stringify(took)).toBeLessThan(5000)
    })
  ))
})

// ---------------------------------------------------------------------------------------------------------------
// Damage

describe("a damaged checkpoint", () => {
  const twoSaved = (folder: string) => within(folder, {}, Effect.forEach([10, 20], (step) => save(snapshot(step))))

  for (const name of [...names, "manifest.json"]) {
    it.effect(`names ${name} when it is edited, cut, swapped or missing, and the checkpoint to use`, onDisk((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const [old, path] = yield* twoSaved(folder)
        const file = `${path}/${name}`
        const bytes = new Uint8Array(yield* fs.readFile(file))
        const edited = bytes.slice()
        edited[edited.length - 2]! ^= 1
        // The same file of another checkpoint, which is a valid one of its kind.
        const other = name === "config.json"
          ? new TextEncoder().encode("{}")
          : ["tokenizer.json", "generation_config.json"].includes(name)
          ? bytes.slice().reverse()
          : yield* fs.readFile(`${old}/${name}`)
        const kinds: ReadonlyArray<[string, Effect.Effect<void, unknown>, string]> = [
          ["edited", fs.writeFile(file, edited), "Corrupt"],
          ["truncated", fs.writeFile(file, bytes.subarray(0, bytes.length - 1)), "Corrupt"],
          ["emptied", fs.writeFile(file, new Uint8Array(0)), "Corrupt"],
          ["longer", fs.writeFile(file, Buffer.concat([bytes, Buffer.from(" ")])), "Corrupt"],
          ["swapped", fs.writeFile(file, other), "Corrupt"],
          ["missing", fs.remove(file), "Missing"]
        ]
        for (const [kind, damage, reason] of kinds) {
          yield* damage
          const error = yield* Effect.flip(resumed(folder, load("latest")))
          const place = kind === "swapped" && name === "manifest.json" ? path : file
          expect({ kind, reason: error.reason, path: error.path }).toEqual({ kind, reason, path: place })
          expect(error.message).toContain("step-00000010: write this name into")
          if (["truncated", "emptied", "longer"].includes(kind) && name !== "manifest.json") {
            expect(error.message).toMatch(/holds \d+ bytes where \d+ were saved/)
          }
          yield* fs.writeFile(file, bytes)
        }
        expect(plain(yield* resumed(folder, load("latest")))).toEqual(plain(snapshot(20)))
      })
    ))
  }

  it.effect("that is the only one says so", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* within(folder, {}, save(snapshot(10)))
      yield* fs.remove(`${path}/model.safetensors`)
      expect((yield* Effect.flip(resumed(folder, load(10)))).message).toMatch(/no earlier checkpoint: start again/)
    })
  ))

  it.effect("under the name of another step is Corrupt", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const [old, path] = yield* twoSaved(folder)
      yield* fs.remove(path!, { recursive: true })
      yield* fs.rename(old!, path!)
      const error = yield* Effect.flip(resumed(folder, load("latest")))
      expect(error).toMatchObject({ reason: "Corrupt", path })
      expect(error.message).toMatch(/holds the checkpoint of step 10/)
    })
  ))

  it.effect("written by a later version is a Mismatch", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* within(folder, {}, save(snapshot(10)))
      const body = { format: 2, step: 10, files: {} }
      const self = createHash("sha256").update(JSON.stringify(body)).digest("hex")
      yield* fs.writeFileString(`${path}/manifest.json`, JSON.stringify({ ...body, self }, null, 2) + "\n")
      expect(yield* Effect.flip(resumed(folder, load(10)))).toMatchObject({ reason: "Mismatch" })
    })
  ))

  it.effect("a `latest` that names nothing says so; without one the newest is taken",
    onDisk((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        yield* twoSaved(folder)
        const latest = `${folder}/latest`
        for (const [text, reason] of [["step-00000015\n", "Missing"], ["", "Corrupt"], ["../x", "Corrupt"]]) {
          yield* fs.writeFileString(latest, text!)
          const error = yield* Effect.flip(resumed(folder, load("latest")))
          expect(error).toMatchObject({ reason, path: latest })
          expect(error.message).toMatch(/write the folder to resume from into it, step-00000020 being the newest/)
        }
        yield* fs.writeFileString(latest, "step-00000010")
        expect((yield* resumed(folder, load("latest"))).step).toBe(10)
        yield* fs.remove(latest)
        expect((yield* resumed(folder, load("latest"))).step).toBe(20)
      })
    ))

  it.effect("is always Corrupt, whatever byte of whatever file is changed", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* within(folder, {}, save(snapshot(10)))
      const mutations = FastCheck.sample(
        FastCheck.tuple(
          FastCheck.constantFrom(...names, "manifest.json"),
          FastCheck.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
          FastCheck.constantFrom("flip", "insert", "delete", "cut"),
          FastCheck.integer({ min: 1, max: 255 })
        ),
        300
      )
      for (const [name, where, kind, value] of mutations) {
        const file = `${path}/${name}`
        const bytes = yield* fs.readFile(file)
        const at = Math.floor(where * bytes.length)
        const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at + 1)]
        const damaged = {
          flip: Buffer.concat([head, Buffer.of(bytes[at]! ^ value), tail]),
          insert: Buffer.concat([head, Buffer.of(value), bytes.subarray(at)]),
          delete: Buffer.concat([head, tail]),
          cut: head
        }[kind]!
        yield* fs.writeFile(file, damaged)
        const result = yield* Effect.either(loadFolder(path))
        const outcome = Either.isLeft(result) ? `${result.left._tag} ${result.left.reason}` : "loaded"
        expect(outcome, `${kind} ${value} at ${at} of ${name}`).toBe("CheckpointError Corrupt")
        yield* fs.writeFile(file, bytes)
      }
    })
  ), 30_000)
})

// ---------------------------------------------------------------------------------------------------------------
// Crashes

const systemError = (method: string, path: string, code: string) =>
  new SystemError({ module: "FileSystem", method, reason: "Unknown", pathOrDescriptor: path, description: code })

interface Fault {
  /** Which change of the file system fails, counted from 0. */
  readonly at: number
  /** Whether nothing works from then on, as when the process dies, or only this one change fails. */
  readonly dead: boolean
  /** Every change, in order, including the one that fails. */
  readonly log: Array<string>
}

/** A file system that stops at one change; a write that stops has written half. A sync only counts, to save time. */
const failing = (fs: FileSystem.FileSystem, { at, dead, log }: Fault): FileSystem.FileSystem => {
  const change = <A, R = never>(
    method: string,
    path: string,
    run: Effect.Effect<A, PlatformError, R>,
    half: Effect.Effect<void, PlatformError> = Effect.void
  ) =>
    Effect.suspend((): Effect.Effect<A, PlatformError, R> => {
      const turn = log.push(`${method} ${path}`) - 1
      if (turn < at || (turn > at && !dead)) return run
      return Effect.zipRight(turn === at ? half : Effect.void, Effect.fail(systemError(method, path, "ENOSPC")))
    })
  return {
    ...fs,
    makeDirectory: (path, options) => change("makeDirectory", path, fs.makeDirectory(path, options)),
    rename: (from, to) => change("rename", `${from} ${to}`, fs.rename(from, to)),
    remove: (path, options) => change("remove", path, fs.remove(path, options)),
    open: (path, options) =>
      Effect.map(
        options?.flag === "w" ? change("open", path, fs.open(path, options)) : fs.open(path, options),
        (file) =>
          new Proxy(file, {
            get: (target, key) => {
              if (key === "sync") return change("sync", path, Effect.void)
              if (key !== "writeAll") return Reflect.get(target, key, target) as unknown
              return (bytes: Uint8Array) =>
                change("write", path, target.writeAll(bytes), target.writeAll(bytes.subarray(0, bytes.length >> 1)))
            }
          })
      )
  }
}

describe("a save that is cut short", () => {
  const situations: ReadonlyArray<{ title: string; before: ReadonlyArray<number>; next: Snapshot }> = [
    { title: "of the first checkpoint", before: [], next: snapshot(10, 1) },
    { title: "of the next checkpoint", before: [10], next: snapshot(20, 1) },
    { title: "that drops an old checkpoint", before: [10, 20], next: snapshot(30, 1) },
    { title: "that replaces the latest checkpoint", before: [10, 20], next: snapshot(20, 1) },
    { title: "that replaces the only checkpoint", before: [10], next: snapshot(10, 1) },
    { title: "that goes back before the latest checkpoint", before: [10, 30], next: snapshot(20, 1) }
  ]

  for (const { before, next, title } of situations) {
    for (const dead of before.length === 2 ? [true, false] : [true]) {
      const how = dead ? "the process dies" : "one operation fails"
      it.effect(`${title}, wherever ${how}, leaves the checkpoint before it or the new one`, onDisk((folder) =>
        Effect.gen(function*() {
          const fs = yield* FileSystem.FileSystem
          const outcomes = { old: 0, new: 0 }
          const fast = failing(fs, { at: Infinity, dead: false, log: [] })
          const again = <A, E, R>(run: string, body: OnDisk<A, E, R>) =>
            Effect.provideService(resumed(run, body), FileSystem.FileSystem, fast)
          yield* again(`${folder}/before`, Effect.forEach(before, (step) =>
            save(snapshot(step))))
          for (let at = 0;; at++) {
            const run = `${folder}/${at}`
            yield* fs.copy(`${folder}/before`, run)
            const latest = before.at(-1)
            const fault: Fault = { at: at + 1, dead, log: [] } // 0 makes the run's folder
            const saved = yield* Effect.either(
              Effect.provideService(resumed(run, save(next)), FileSystem.FileSystem, failing(fs, fault))
            )
            if (Either.isLeft(saved)) {
              expect(saved.left).toMatchObject({ _tag: "CheckpointError", reason: "Write" })
              expect(saved.left.path.startsWith(run), saved.left.path).toBe(true)
              expect(saved.left.message).toMatch(/ENOSPC.*disk space/s)
            }
            const where = `${at}: ${fault.log[at + 1]}`
            const loaded = yield* Effect.either(resumed(run, load("latest")))
            if (Either.isRight(loaded)) {
              const isNew = loaded.right.model["model.norm.weight"]!.data[1] === 1
              expect(plain(loaded.right), where).toEqual(plain(isNew ? next : snapshot(latest!)))
              if (Either.isRight(saved)) expect(isNew, where).toBe(true)
              outcomes[isNew ? "new" : "old"]++
            } else {
              expect([latest, loaded.left.reason], where).toEqual([undefined, "Missing"])
              outcomes.old++
            }
            // No checkpoint that was complete is lost, save the one that the new one replaces or that is beyond two.
            if (Either.isLeft(saved)) {
              for (const step of before) {
                const kept = yield* resumed(run, load(step))
                expect(plain(kept), where).toEqual(plain(kept.step === next.step &&
                    kept.model["model.norm.weight"]!.data[1] === 1 ?
                  next :
                  snapshot(step)))
              }
            }
            yield* again(run, save(next))
            expect(plain(yield* resumed(run, load("latest"))), where).toEqual(plain(next))
            expect((yield* files(run)).filter((name) => !/^(latest|step-\d{8})$/.test(name)), where).toEqual([])
            yield* fs.remove(run, { recursive: true })
            if (fault.log.length <= at + 1) break
          }
          // The cut went through every part of the save: before it counted, and after.
          expect(outcomes.old).toBeGreaterThan(20)
          expect(outcomes.new).toBeGreaterThan(1)
        })
      ), 60_000)
    }
  }

  it.effect("twice in a row still leaves the checkpoint it was to replace", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* resumed(folder, save(snapshot(10)))
      yield* fs.rename(path, `${path}.old`) // where the first save stopped
      for (let at = 1; at < 5; at++) {
        const dying = failing(fs, { at, dead: true, log: [] })
        yield* Effect.flip(Effect.provideService(resumed(folder, save(snapshot(20))), FileSystem.FileSystem, dying))
        expect(plain(yield* resumed(folder, load("latest")))).toEqual(plain(snapshot(10)))
        expect(yield* resumed(folder, steps)).toEqual([10])
      }
      expect((yield* files(folder)).filter((name) => name.startsWith("step"))).toEqual(["step-00000010"])
    })
  ))

  it.effect("by a full disk, at any byte, gives its space back and names the checkpoint to go on from",
    onDisk((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        /** Holds so many bytes; a write that does not fit writes what does. */
        const small = (room: number): FileSystem.FileSystem => ({
          ...fs,
          open: (path, options) =>
            Effect.map(fs.open(path, options), (file) =>
              new Proxy(file, {
                get: (target, key) =>
                  key !== "writeAll" ? Reflect.get(target, key, target) as unknown : (bytes: Uint8Array) => {
                    const fits = Math.min(room, bytes.length)
                    room -= fits
                    const written = fits === 0 ? Effect.void : target.writeAll(bytes.subarray(0, fits))
                    return fits === bytes.length
                      ? written
                      : Effect.zipRight(written,
                        Effect.fail(systemError("write", path, "ENOSPC: no space left on device")))
                  }
              }))
        })
        const within = <A, E, R>(room: number, body: OnDisk<A, E, R>) =>
          Effect.provideService(resumed(folder, body), FileSystem.FileSystem, small(room))
        const first = yield* Effect.flip(within(100, save(snapshot(10))))
        expect(first).toMatchObject({ _tag: "CheckpointError", reason: "Write" })
        expect(first.message).toMatch(/no space left on device.*disk space.*No checkpoint was saved before it/s)
        expect(yield* files(folder)).toEqual([])

        yield* resumed(folder, save(snapshot(10)))
        let failures = 0
        for (let room = 0;; room += 97) {
          const saved = yield* Effect.either(within(room, save(snapshot(20))))
          if (Either.isRight(saved)) break
          failures++
          expect(saved.left.message).toMatch(
            /no space left on device.*step-00000010 is intact, and the one to resume from/s
          )
          // only the pointer is left to write when the new checkpoint has its name already
          const there = yield* files(folder)
          expect(there.filter((name) => name !== "step-00000020"), String(room)).toEqual(["latest", "step-00000010"])
          expect(plain(yield* resumed(folder, load("latest")))).toEqual(plain(snapshot(10)))
          yield* fs.remove(`${folder}/step-00000020`, { recursive: true, force: true })
        }
        expect(failures).toBeGreaterThan(10)
        expect(plain(yield* resumed(folder, load("latest")))).toEqual(plain(snapshot(20)))
      })
    ))

  it.effect("by a full disk gives its space back", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      yield* resumed(folder, save(snapshot(10)))
      const full = failing(fs, { at: 8, dead: false, log: [] })
      yield* Effect.flip(Effect.provideService(resumed(folder, save(snapshot(20))), FileSystem.FileSystem, full))
      expect(yield* files(folder)).toEqual(["latest", "step-00000010"])
    })
  ))

  it.effect("puts every byte on the disk before a name points at it", onDisk((folder) =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const log: Array<string> = []
      const watched = failing(fs, { at: Infinity, dead: false, log })
      yield* Effect.provideService(resumed(folder, save(snapshot(10))), FileSystem.FileSystem, watched)
      const [half, done] = [`${folder}/.tmp-step-00000010`, `${folder}/step-00000010`]
      const index = (entry: string) => {
        expect(log).toContain(entry)
        return log.lastIndexOf(entry)
      }
      const named = index(`rename ${half} ${done}`)
      for (const name of yield* files(done)) {
        expect(index(`sync ${half}/${name}`), name).toBeGreaterThan(index(`write ${half}/${name}`))
        expect(index(`sync ${half}/${name}`), name).toBeLessThan(index(`sync ${half}`))
      }
      expect(index(`sync ${half}`)).toBeLessThan(named)
      const pointed = index(`rename ${folder}/.tmp-latest ${folder}/latest`)
      expect(log.indexOf(`sync ${folder}`)).toBeGreaterThan(named)
      expect(log.indexOf(`sync ${folder}`)).toBeLessThan(log.indexOf(`open ${folder}/.tmp-latest`))
      expect(index(`sync ${folder}/.tmp-latest`)).toBeGreaterThan(index(`write ${folder}/.tmp-latest`))
      expect(index(`sync ${folder}/.tmp-latest`)).toBeLessThan(pointed)
      expect(index(`sync ${folder}`)).toBeGreaterThan(pointed)
    })
  ))

  it.effect("is not hurt by another save at the same time", onDisk((folder) =>
    Effect.gen(function*() {
      const both = Effect.all([save(snapshot(10)), save(snapshot(20))], { concurrency: 2 })
      yield* resumed(folder, both)
      expect(plain(yield* resumed(folder, load(10)))).toEqual(plain(snapshot(10)))
      expect(plain(yield* resumed(folder, load("latest")))).toEqual(plain(snapshot(20)))
    })
  ))
})
