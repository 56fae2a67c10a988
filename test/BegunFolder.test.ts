import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { takenBack } from "../src/BegunFolder.ts"

const root = fs.mkdtempSync(join(tmpdir(), "memsinks-begun-"))
afterAll(() => fs.rmSync(root, { recursive: true }))

let next = 0
const fresh = () => join(root, `${next++}`)

const files = ["run.json"]

/** Begins a run in a folder, does something there, and ends. */
const begun = <E>(folder: string, end: Effect.Effect<void, E>, also: () => void = () => {}) =>
  Effect.gen(function*() {
    yield* takenBack(folder)
    fs.mkdirSync(folder, { recursive: true })
    yield* takenBack(folder, files)
    fs.writeFileSync(join(folder, "run.json"), "{}")
    fs.mkdirSync(join(folder, "store", "jobs"), { recursive: true })
    also()
    yield* end
  }).pipe(Effect.scoped)

const failed = (folder: string, also?: () => void) =>
  Effect.runPromise(Effect.either(begun(folder, Effect.fail("no device"), also)))

describe("what was begun in a folder", () => {
  it("is taken back by a failure, with the folders that were made for it, and those alone", async () => {
    const above = fresh()
    await failed(join(above, "deep", "run"))
    expect(fs.existsSync(above)).toBe(false)
    const there = fresh()
    fs.mkdirSync(there)
    fs.writeFileSync(join(there, "notes"), "mine")
    await failed(there)
    expect(fs.readdirSync(there)).toEqual(["notes"])
    await failed(join(there, "run"))
    expect(fs.readdirSync(there)).toEqual(["notes"])
  })

  it("stays where something came of it, where it had been begun before, and after a success or an interruption", async () => {
    const [used, before, done, stopped] = [fresh(), fresh(), fresh(), fresh()]
    await failed(used, () => fs.writeFileSync(join(used, "store", "jobs", "one"), "done"))
    expect(fs.readdirSync(used)).toEqual(["run.json", "store"])
    fs.mkdirSync(before)
    fs.writeFileSync(join(before, "run.json"), "{}")
    await failed(before)
    expect(fs.readdirSync(before)).toEqual(["run.json"])
    await Effect.runPromise(begun(done, Effect.void))
    expect(fs.readdirSync(done)).toEqual(["run.json", "store"])
    await Effect.runPromise(Effect.gen(function*() {
      const at = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(begun(stopped, Effect.zipRight(Deferred.succeed(at, undefined), Effect.never)))
      yield* Deferred.await(at)
      yield* Fiber.interrupt(fiber)
    }))
    expect(fs.readdirSync(stopped)).toEqual(["run.json", "store"])
  })

  it("is not told from what was there before where that could not be read", async () => {
    const folder = fresh()
    fs.writeFileSync(folder, "no folder yet")
    await Effect.runPromise(Effect.either(Effect.scoped(Effect.gen(function*() {
      yield* takenBack(folder, files)
      fs.rmSync(folder)
      fs.mkdirSync(folder)
      fs.writeFileSync(join(folder, "run.json"), "{}")
      yield* Effect.fail("no device")
    }))))
    expect(fs.readdirSync(folder)).toEqual(["run.json"])
  })
})
