import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync,
  writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import * as AtomicFile from "../src/AtomicFile.ts"
import { attempt, CheckpointError, DataError } from "../src/Errors.ts"

let folder: string
beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), "memsinks-atomic-"))))
afterAll(() => rmSync(folder, { recursive: true }))

describe("a file written whole", () => {
  it("replaces one of its name, and leaves nothing else", () => {
    const path = join(folder, "a.json")
    writeFileSync(path, "before, and longer")
    AtomicFile.write(path, "after")
    expect(readFileSync(path, "utf8")).toBe("after")
    AtomicFile.writeJson(path, { a: [1] })
    expect(readFileSync(path, "utf8")).toBe("{\n  \"a\": [\n    1\n  ]\n}\n")
    expect(readdirSync(folder)).toEqual(["a.json"])
  })

  it("stays as it was, with nothing beside it, when its writing fails", () => {
    const path = join(folder, "directory")
    mkdirSync(path)
    writeFileSync(join(path, "inside"), "kept")
    expect(() => AtomicFile.write(path, "text")).toThrow(/EISDIR|ENOTEMPTY|EPERM|EEXIST/)
    expect(readFileSync(join(path, "inside"), "utf8")).toBe("kept")
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([])
    expect(() => AtomicFile.write(join(folder, "nowhere", "a"), "text")).toThrow("ENOENT")
  })

  it.skipIf(!existsSync("/dev/full"))("fails where the disk is full, and says so", () => {
    const path = join(folder, "full")
    // what is written to this link has nowhere to go
    symlinkSync("/dev/full", `${path}.tmp`)
    expect(() => AtomicFile.write(path, "text", `${path}.tmp`)).toThrow("ENOSPC")
    expect(readdirSync(folder).filter((name) => name.startsWith("full"))).toEqual([])
  })

  it("has its name only when it is finished", () => {
    const path = join(folder, "big")
    const file = AtomicFile.begin(path)
    file.write(Uint8Array.of(1, 2))
    expect(existsSync(path)).toBe(false)
    file.write(Uint8Array.of(3))
    file.finish()
    file.abandon()
    expect([...readFileSync(path)]).toEqual([1, 2, 3])
    const other = AtomicFile.begin(path)
    other.write(Uint8Array.of(9))
    other.abandon()
    other.abandon()
    expect([...readFileSync(path)]).toEqual([1, 2, 3])
  })
})

describe("attempt", () => {
  const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runSync(Effect.exit(effect))

  it("fails with what is meant for people, and dies of all else", () => {
    expect(run(attempt(() => 7))).toEqual(Exit.succeed(7))
    const known = new DataError({ detail: "wrong" })
    expect(run(attempt(() => {
      throw known
    }, DataError, CheckpointError))).toEqual(Exit.fail(known))
    const bug = new TypeError("undefined is not a function")
    const exit = run(attempt(() => {
      throw bug
    }, DataError))
    expect(exit).toEqual(Exit.failCause(Cause.die(bug)))
  })
})
