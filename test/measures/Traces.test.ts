import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { parquetMetadata, parquetReadObjects } from "hyparquet"
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync,
  writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { resumable, type Rows, traceFolder, type TraceLog, tracesInMemory } from "../../pipelines/dynamics/TraceLog.ts"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import type { ProbeRow, QuantityRow } from "../../src/measures/Traces.ts"
import * as Traces from "../../src/measures/Traces.ts"
import { random } from "../../src/Random.ts"

// ---------------------------------------------------------------------------------------------------------------
// Helpers

type Draw = ReturnType<typeof random>

const awkward = [NaN, Infinity, -Infinity, -0, 0, 1e-45, 1e-310, 1e300]

const names = ["", "story 7 é😀", "story 8", "an arbitrarily long name, longer than statistics keep"]

const real = (draw: Draw): number =>
  draw.below(6) === 0 ? awkward[draw.below(awkward.length)]! : 20 * draw.uniform() - 10

const probe = (draw: Draw, step: number): ProbeRow => ({
  step,
  sequence: names[draw.below(names.length)]!,
  id: [0n, 2n ** 64n - 1n, 2n ** 63n, BigInt(draw.below(1000))][draw.below(4)]!,
  group: `k=${draw.below(5)}`,
  mask: ["own", "off", "placebo", "all"][draw.below(4)]!,
  exposures: draw.below(100),
  since: draw.below(1000) - 1,
  loss: real(draw),
  logRank: real(draw),
  recall: draw.uniform(),
  run: draw.below(2 ** 31),
  suffix: draw.below(64)
})

const quantity = (draw: Draw, step: number): QuantityRow => ({
  step,
  quantity: ["weight", "update", "cosine"][draw.below(3)]!,
  layer: draw.below(9) - 1,
  part: ["", "general", "sinks"][draw.below(3)]!,
  sequence: draw.below(2) === 0 ? "" : `story ${draw.below(50)}`,
  group: draw.below(2) === 0 ? "" : "sawtooth",
  mask: draw.below(2) === 0 ? "" : "own",
  value: real(draw)
})

const inFolder = async (body: (folder: string) => Promise<void>): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "memsinks-traces-"))
  try {
    await body(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const run = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem | Path.Path>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))

const refusal = async <A, E extends Error>(effect: Effect.Effect<A, E, FileSystem.FileSystem | Path.Path>) =>
  (await run(Effect.flip(effect))).message

const fileOf = (path: string): ArrayBuffer => new Uint8Array(readFileSync(path)).buffer

/** What a second reader sees of a file: the columns and their types. */
const schemaOf = (path: string): ReadonlyArray<string> =>
  parquetMetadata(fileOf(path)).schema.slice(1).map(({ converted_type, name, repetition_type, type }) =>
    [name, type, converted_type, repetition_type].filter((part) => part !== undefined).join(" ")
  )

// ---------------------------------------------------------------------------------------------------------------
// Files

describe("a file of traces", () => {
  it.each([0, 1, 2, 777, 2500])("gives %i rows back, bit for bit", (count) =>
    inFolder(async (folder) => {
      const draw = random(Date.now(), count)
      const path = join(folder, "a.parquet")
      const probes = Array.from({ length: count }, (_, i) => probe(draw, i >> 2))
      await run(Traces.writeProbes(path, probes))
      expect(readdirSync(folder)).toEqual(["a.parquet"])
      expect(await run(Traces.readProbes(path))).toStrictEqual(probes.map(Traces.rounded))
      const quantities = Array.from({ length: count }, (_, i) => quantity(draw, i >> 2))
      await run(Traces.writeQuantities(path, quantities))
      expect(await run(Traces.readQuantities(path))).toStrictEqual(quantities)
    }))

  it("rounds probes to float32 as `rounded` says, and quantities not at all", () =>
    inFolder(async (folder) => {
      const path = join(folder, "a.parquet")
      const one = { ...probe(random(1), 3), loss: 1 / 3, logRank: -1e-50, recall: NaN }
      await run(Traces.writeProbes(path, [one]))
      expect(await run(Traces.readProbes(path))).toStrictEqual([
        { ...one, loss: 0.3333333432674408, logRank: -0, recall: NaN }
      ])
    }))

  it("is a table that says what its columns are", () =>
    inFolder(async (folder) => {
      const path = join(folder, "a.parquet")
      const probes = [probe(random(2), 5), { ...probe(random(3), 6), id: 2n ** 64n - 2n, loss: 0.5 }]
      const columns = [
        "step INT32 REQUIRED",
        "sequence BYTE_ARRAY UTF8 REQUIRED",
        "id INT64 UINT_64 REQUIRED",
        "group BYTE_ARRAY UTF8 REQUIRED",
        "mask BYTE_ARRAY UTF8 REQUIRED",
        "exposures INT32 REQUIRED",
        "since INT32 REQUIRED",
        "loss FLOAT REQUIRED",
        "log_rank FLOAT REQUIRED",
        "recall FLOAT REQUIRED",
        "run INT32 REQUIRED",
        "suffix INT32 REQUIRED"
      ]
      await run(Traces.writeProbes(path, []))
      expect(schemaOf(path)).toEqual(columns)
      await run(Traces.writeProbes(path, probes))
      expect(schemaOf(path)).toEqual(columns)
      const { logRank, ...rest } = Traces.rounded(probes[1]!)
      expect((await parquetReadObjects({ file: fileOf(path) }))[1]).toStrictEqual({ ...rest, log_rank: logRank })
      await run(Traces.writeQuantities(path, [quantity(random(4), 5)]))
      expect(schemaOf(path)).toEqual([
        "step INT32 REQUIRED",
        "quantity BYTE_ARRAY UTF8 REQUIRED",
        "layer INT32 REQUIRED",
        "part BYTE_ARRAY UTF8 REQUIRED",
        "sequence BYTE_ARRAY UTF8 REQUIRED",
        "group BYTE_ARRAY UTF8 REQUIRED",
        "mask BYTE_ARRAY UTF8 REQUIRED",
        "value DOUBLE REQUIRED"
      ])
    }))

  it("is refused, by name, where it is missing, damaged, or of something else", () =>
    inFolder(async (folder) => {
      const path = join(folder, "a.parquet")
      expect(await refusal(Traces.readProbes(path))).toContain("a.parquet: cannot be read")
      writeFileSync(path, "not parquet at all")
      expect(await refusal(Traces.readProbes(path))).toContain("a.parquet: is not a Parquet file that can be read")
      await run(Traces.writeQuantities(path, [quantity(random(1), 1)]))
      expect(await refusal(Traces.readProbes(path))).toContain(`is not a file of probes: it has no column "id"`)
      await run(Traces.writeProbes(path, []))
      const missing = `is not a file of quantities: it has no column "quantity"`
      expect(await refusal(Traces.readQuantities(path))).toContain(missing)
      const { parquetWriteBuffer } = await import("hyparquet-writer")
      const columnData = ["step", "quantity", "layer", "part", "sequence", "group", "mask", "value"].map((name) => (
        { name, data: ["7"], type: "STRING" as const }
      ))
      writeFileSync(path, new Uint8Array(parquetWriteBuffer({ columnData })))
      expect(await refusal(Traces.readQuantities(path))).toContain(
        `row 0: "step" is 7, expected a whole number of 32 bits`
      )
    }))

  it("is not written with a value that its column cannot hold", () =>
    inFolder(async (folder) => {
      const path = join(folder, "a.parquet")
      const rows = [probe(random(5), 1), probe(random(6), 2)]
      const refused = (change: Partial<ProbeRow>) =>
        refusal(Traces.writeProbes(path, [rows[0]!, { ...rows[1]!, ...change }]))
      expect(await refused({ exposures: 1.5 })).toContain(
        `a.parquet: row 1: "exposures" is 1.5, expected a whole number`
      )
      expect(await refused({ step: 2 ** 31 })).toContain(`"step" is 2147483648`)
      expect(await refused({ since: NaN })).toContain(`"since" is NaN`)
      expect(await refused({ id: -1n })).toContain(`"id" is -1, expected a bigint from 0`)
      const nowhere = join(folder, "none", "a.parquet")
      expect(await refusal(Traces.writeProbes(nowhere, rows))).toContain("the probes cannot be written")
      expect(readdirSync(folder)).toEqual([])
    }))
})

// ---------------------------------------------------------------------------------------------------------------
// Log

/** What a run measures at a step, the same each time: probes and quantities of some steps, and how many. */
const measured = (seed: number, step: number): Rows => {
  const draw = random(seed, "rows", step)
  const some = <A>(of: (draw: Draw, step: number) => A) =>
    Array.from({ length: Math.max(0, draw.below(6) - 2) }, () => of(draw, step))
  return { probes: some(probe), quantities: some(quantity) }
}

const uninterrupted = (seed: number, steps: number): Rows => {
  const all = Array.from({ length: steps + 1 }, (_, step) => measured(seed, step))
  return {
    probes: all.flatMap(({ probes }) => probes.map(Traces.rounded)),
    quantities: all.flatMap(({ quantities }) => quantities)
  }
}

const observe = (log: TraceLog, { probes, quantities }: Rows): void => {
  log.probes(probes)
  log.quantities(quantities)
}

const upTo = ({ probes, quantities }: Rows, step: number): Rows => ({
  probes: probes.filter((row) => row.step <= step),
  quantities: quantities.filter((row) => row.step <= step)
})

/** A disk that a process loses after so many changes to it: before one of them, or in the midst of what it writes. */
const mortal = (changes: number) => {
  const kill = Effect.die("killed")
  let left = changes
  const guard =
    <A extends ReadonlyArray<any>, B, E, R>(change: (...args: A) => Effect.Effect<B, E, R>) => (...args: A) =>
      Effect.suspend(() => left-- > 0 ? change(...args) : kill)
  return Layer.effect(
    FileSystem.FileSystem,
    Effect.map(FileSystem.FileSystem, (fs) => ({
      ...fs,
      open: guard<Parameters<typeof fs.open>, any, any, any>((path, options) =>
        Effect.map(fs.open(path, options), (file) =>
          Object.assign(Object.create(file) as typeof file, {
            writeAll: (bytes: Uint8Array) =>
              Effect.suspend(() =>
                left-- > 0
                  ? file.writeAll(bytes)
                  : Effect.zipRight(file.writeAll(bytes.subarray(0, bytes.length >> 1)), kill)
              )
          }))
      ),
      rename: guard(fs.rename),
      remove: guard(fs.remove),
      makeDirectory: guard(fs.makeDirectory)
    }))
  ).pipe(Layer.provideMerge(NodeContext.layer))
}

describe.each(["in a folder", "in memory"])("a log %s", (where) => {
  const withLog = (body: (log: TraceLog, folder: string) => Promise<void>): Promise<void> =>
    inFolder(async (folder) =>
      body(where === "in memory" ? tracesInMemory() : await run(traceFolder(join(folder, "traces"))), folder)
    )

  it("gives back what it was given, flushed or not, by rising step", () =>
    withLog(async (log) => {
      expect(await run(log.read)).toEqual({ probes: [], quantities: [] })
      const seed = Date.now()
      const all = uninterrupted(seed, 40)
      for (let step = 0; step <= 40; step++) {
        observe(log, measured(seed, step))
        if (step % 7 === 3) await run(log.flush(step))
        if (step % 10 === 0) expect(await run(log.read)).toStrictEqual(upTo(all, step))
      }
      expect(await run(log.steps)).toEqual([...new Set(all.probes.map(({ step }) => step))])
    }))

  it("forgets what came after a step, and takes it again", () =>
    withLog(async (log) => {
      const seed = 11
      const all = uninterrupted(seed, 30)
      const observeAll = (from: number, to: number) => {
        for (let step = from; step <= to; step++) observe(log, measured(seed, step))
      }
      observeAll(0, 20)
      await run(log.flush(10))
      await run(log.rewind(10))
      expect(await run(log.read)).toStrictEqual(upTo(all, 10))
      observeAll(11, 25)
      await run(log.flush(25))
      // nothing was flushed at 17, and yet what is of steps up to it stays
      await run(log.rewind(17))
      expect(await run(log.read)).toStrictEqual(upTo(all, 17))
      // what is there already is not there twice
      observeAll(15, 30)
      expect(await run(log.read)).toStrictEqual(all)
      await run(log.rewind(-1))
      expect(await run(log.read)).toEqual({ probes: [], quantities: [] })
    }))

  it("takes what it lacks of the step that is measured again, and of no other", () =>
    withLog(async (log) => {
      const at = (step: number, sequence: string, loss: number): ProbeRow => ({ ...probe(random(1), step), sequence,
        loss, logRank: 0 })
      const of = (step: number, name: string, value: number): QuantityRow => ({ ...quantity(random(1), step),
        quantity: name, value })
      // interrupted at 4: measured half of the probes, and an update, which is not measured again
      log.probes([at(3, "a", 1), at(4, "a", 2)])
      log.quantities([of(4, "update", 3)])
      await run(log.flush(4))
      await run(log.rewind(4))
      log.probes([at(3, "b", 9), at(4, "a", 9)])
      log.probes([at(4, "b", 4), at(5, "a", 5)])
      log.quantities([of(4, "weight", 6)])
      const after = {
        probes: [at(3, "a", 1), at(4, "a", 2), at(4, "b", 4), at(5, "a", 5)].map(Traces.rounded),
        quantities: [of(4, "update", 3), of(4, "weight", 6)]
      }
      expect(await run(log.read)).toStrictEqual(after)
      await run(log.flush(8))
      expect(await run(log.read)).toStrictEqual(after)
      expect(() => log.probes([at(4, "b", 9)])).toThrow("a row of step 4 came after")
      await run(log.rewind(4))
      expect(await run(log.read)).toStrictEqual({ ...after, probes: after.probes.slice(0, 3) })
    }))

  it("takes a step that was flushed before any of it was measured", () =>
    withLog(async (log) => {
      log.probes([probe(random(1), 3)])
      await run(log.flush(4))
      await run(log.rewind(4))
      log.probes([probe(random(2), 4)])
      await run(log.flush(8))
      await run(log.rewind(4))
      expect(await run(log.steps)).toEqual([3, 4])
    }))

  it("keeps of step 0 what was flushed", () =>
    withLog(async (log) => {
      const first = { probes: [probe(random(1), 0)], quantities: [] }
      observe(log, first)
      await run(log.rewind(0))
      expect((await run(log.read)).probes).toEqual([])
      observe(log, first)
      await run(log.flush(0))
      log.probes([probe(random(2), 1)])
      await run(log.rewind(0))
      observe(log, first)
      expect((await run(log.read)).probes).toStrictEqual(first.probes.map(Traces.rounded))
    }))

  it("takes rows of later steps while it writes", () =>
    withLog(async (log) => {
      const rows = [1, 2, 3].map((step) => probe(random(step), step))
      log.probes(rows.slice(0, 1))
      const writing = run(log.flush(1))
      log.probes(rows.slice(1))
      await writing
      await run(log.flush(2))
      await run(log.rewind(2))
      expect((await run(log.read)).probes).toStrictEqual(rows.slice(0, 2).map(Traces.rounded))
    }))

  it("refuses rows of a step whose part it has written", () =>
    withLog(async (log) => {
      log.probes([probe(random(1), 8)])
      await run(log.flush(8))
      const late = "a row of step 8 came after the rows up to step 8 were written"
      expect(() => log.probes([probe(random(2), 8)])).toThrow(late)
      // the other table has no such part
      log.quantities([quantity(random(2), 8)])
      expect((await run(log.read)).quantities).toHaveLength(1)
    }))

  it("is flushed before a checkpoint is saved, and not after", () =>
    withLog(async (log) => {
      const snapshot = (step: number): Snapshot => ({ step, config: {}, model: {}, optimizer: {}, trainerState: null,
        tokenizer: undefined })
      const order: Array<string> = []
      const noted: TraceLog = {
        ...log,
        flush: (step) => Effect.tap(log.flush(step), () => void order.push(`flush ${step}`))
      }
      await run(Effect.provide(
        Effect.gen(function*() {
          const memory = yield* Checkpoints
          const saving = {
            ...memory,
            save: (one: Snapshot) => Effect.tap(memory.save(one), () => void order.push(`save ${one.step}`))
          }
          const checkpoints = resumable(noted)(saving)
          log.probes([probe(random(1), 3), probe(random(1), 4)])
          expect(yield* checkpoints.save(snapshot(3))).toBe("memory/step-00000003")
          expect((yield* checkpoints.load("latest")).step).toBe(3)
        }),
        Checkpoints.layerMemory
      ))
      expect(order).toEqual(["flush 3", "save 3"])
      await run(log.rewind(3))
      expect(await run(log.steps)).toEqual([3])
    }))
})

describe("a log in a folder", () => {
  const parts = (folder: string, table: string) => readdirSync(join(folder, table)).sort()

  it("names its parts by the steps they are flushed at, none where there are no rows", () =>
    inFolder(async (folder) => {
      const log = await run(traceFolder(folder))
      log.probes([1, 2, 130].map((step) => probe(random(step), step)))
      await run(log.flush(64))
      await run(log.flush(128))
      await run(log.flush(192))
      expect(readdirSync(folder)).toEqual(["probes"])
      expect(parts(folder, "probes")).toEqual(["step-00000064.parquet", "step-00000192.parquet"])
      // another process sees them
      expect(await run(Effect.flatMap(traceFolder(folder), ({ steps }) => steps))).toEqual([1, 2, 130])
    }))

  it("keeps rows of a part whose checkpoint never was, once, wherever a rewind is broken off", () =>
    inFolder(async (folder) => {
      const file = (step: number) => join(folder, "probes", `step-${String(step).padStart(8, "0")}.parquet`)
      const rows = [1, 3, 5, 7, 9, 11].map((step) => Traces.rounded(probe(random(step), step)))
      const log = await run(traceFolder(folder))
      log.probes(rows)
      for (const step of [4, 10, 12]) await run(log.flush(step))
      copyFileSync(file(10), join(folder, "saved"))
      writeFileSync(`${file(16)}.partial`, "half of")
      expect((await run(log.read)).probes).toStrictEqual(rows)
      await run((await run(traceFolder(folder))).rewind(6))
      expect(parts(folder, "probes")).toEqual(["step-00000004.parquet", "step-00000006.parquet"])
      // as if it had been killed before the part was removed
      copyFileSync(join(folder, "saved"), file(10))
      const again = await run(traceFolder(folder))
      expect((await run(again.read)).probes).toStrictEqual(rows.slice(0, 5))
      await run(again.rewind(6))
      expect((await run(again.read)).probes).toStrictEqual(rows.slice(0, 3))
      again.probes(rows)
      expect((await run(again.read)).probes).toStrictEqual(rows)
    }))

  it("ends with the rows of an uninterrupted run, wherever it is killed", async () => {
    const steps = 24
    let killed = 0
    for (let round = 0; round < 24; round++) {
      const seed = Date.now() * 100 + round
      await inFolder(async (folder) => {
        const draw = random(seed, "kills")
        const saveAt = new Set([steps, ...Array.from({ length: 5 }, () => draw.below(steps))])
        /** Steps of the checkpoints that are complete. */
        let saved: Array<number> = []
        /** Those at which it had not measured all when they were saved. */
        const half = new Set<number>()
        /** One process: goes on behind the last checkpoint until it is done, or dies. */
        const life = Effect.gen(function*() {
          const log = yield* traceFolder(join(folder, "traces"))
          yield* log.rewind(saved.at(-1) ?? 0)
          let writing: Promise<Exit.Exit<void, unknown>> | undefined
          let last = -1
          const written = Effect.gen(function*() {
            if (writing !== undefined) {
              yield* yield* Effect.promise(() => writing!)
              saved.push(last)
            }
            writing = undefined
          })
          // the step of a checkpoint may be measured again, and is where it was not measured to the end
          const from = saved.length === 0 ? 0 : saved.at(-1)! + (half.has(saved.at(-1)!) || draw.below(2) === 0 ? 0 : 1)
          for (let step = from; step <= steps; step++) {
            const rows = measured(seed, step)
            if (step > from && step < steps && draw.below(20) === 0) {
              // interrupted while it measures: saves a checkpoint on its way out
              yield* written
              const some = <A>(all: ReadonlyArray<A>) => all.slice(0, draw.below(all.length + 1))
              observe(log, { probes: some(rows.probes), quantities: some(rows.quantities) })
              half.add(step)
              yield* log.flush(step)
              saved.push(step)
              return yield* Effect.die("killed")
            }
            observe(log, rows)
            if (!saveAt.has(step) || step === saved.at(-1)) continue
            half.delete(step)
            // a checkpoint is written while the run goes on, one at a time
            yield* written
            last = step
            writing = Effect.runPromiseExit(log.flush(step))
            // killed when the parts are there and the checkpoint is not
            if (draw.below(4) === 0) return yield* Effect.zipRight(Effect.promise(() => writing!), Effect.die("killed"))
          }
          yield* written
        })
        const lives = draw.below(12)
        for (let i = 0; i < lives && saved.at(-1) !== steps; i++) {
          const exit = await Effect.runPromiseExit(Effect.provide(life, mortal(draw.below(40))))
          if (Exit.isFailure(exit)) {
            expect(String(exit.cause)).toContain("killed")
            killed++
          }
          // its last checkpoint is lost too: it goes on from the one before
          if (draw.below(5) === 0) saved = saved.slice(0, -1)
        }
        for (let i = 0; saved.at(-1) !== steps; i++) {
          expect(i).toBeLessThan(200)
          const exit = await Effect.runPromiseExit(Effect.provide(life, NodeContext.layer))
          if (Exit.isFailure(exit)) {
            expect(String(exit.cause)).toContain("killed")
            killed++
          }
        }
        const log = await run(traceFolder(join(folder, "traces")))
        expect(await run(log.read)).toStrictEqual(uninterrupted(seed, steps))
      })
    }
    expect(killed).toBeGreaterThan(24)
  })

  it("names a part that is damaged, and what to do", () =>
    inFolder(async (folder) => {
      const log = await run(traceFolder(folder))
      log.probes([1, 2, 3].map((step) => probe(random(step), step)))
      for (const step of [1, 2, 3]) await run(log.flush(step))
      const file = join(folder, "probes", "step-00000002.parquet")
      const whole = readFileSync(file)
      const advice =
        /step-00000002\.parquet: .+\. Delete the folder of this arm, with its checkpoints, and run it again$/
      for (const length of [0, 3, whole.length >> 1, whole.length - 1]) {
        truncateSync(file, length)
        expect(await refusal(log.read)).toMatch(advice)
        expect(await refusal(log.steps)).toMatch(advice)
        writeFileSync(file, whole)
      }
      expect((await run(log.read)).probes).toHaveLength(3)
      copyFileSync(join(folder, "probes", "step-00000003.parquet"), file)
      expect(await refusal(log.read)).toMatch(/holds rows of steps after 2: it was renamed or swapped\. Delete/)
      // a part that is taken back as a whole need not be read
      truncateSync(file, 3)
      await run(log.rewind(1))
      expect(existsSync(file)).toBe(false)
      expect(await run(log.steps)).toEqual([1])
    }))

  it("says where it cannot write, loses nothing by it, and keeps the checkpoint from being saved", () =>
    inFolder(async (folder) => {
      const at = join(folder, "traces")
      const log = await run(traceFolder(at))
      log.probes([probe(random(1), 1)])
      writeFileSync(at, "in the way")
      expect(await refusal(log.flush(1))).toContain(`${join(at, "probes")}: cannot be written`)
      const snapshot = { step: 1, config: {}, model: {}, optimizer: {}, trainerState: null, tokenizer: undefined }
      await run(Effect.provide(
        Effect.gen(function*() {
          const checkpoints = yield* Checkpoints
          const error = yield* Effect.flip(resumable(log)(checkpoints).save(snapshot))
          expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Write", path: join(at, "probes") })
          expect(yield* checkpoints.list).toEqual([])
          rmSync(at)
          yield* resumable(log)(checkpoints).save(snapshot)
          expect(yield* checkpoints.list).toHaveLength(1)
        }),
        Checkpoints.layerMemory
      ))
      expect(await run(Effect.flatMap(traceFolder(at), ({ steps }) => steps))).toEqual([1])
    }))
})
