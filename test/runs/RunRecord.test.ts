import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect } from "vitest"
import { parse } from "yaml"
import { DataError } from "../../src/Errors.ts"
import * as RunRecord from "../../src/runs/RunRecord.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-record-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const fresh = () => mkdtempSync(join(root, "run-"))

const run = { kind: "pretrain", versions: { memsinks: "1" }, config: { a: { b: 1 } }, seeds: [1, 2], arms: ["sinks"] }

/** A clock that counts minutes. */
const clock = () => {
  let minute = 0
  return () => new Date(Date.UTC(2020, 0, 1, 0, minute++))
}

const onDisk = (folder: string) => JSON.parse(readFileSync(join(folder, "run.json"), "utf8"))

describe("the record of a run", () => {
  it.effect("says what runs from the beginning on, and what became of it", () =>
    Effect.gen(function*() {
      const folder = fresh()
      const recording = yield* RunRecord.begin(folder, run, clock())
      const { git, ...begun } = onDisk(folder)
      expect(begun).toEqual({ ...run, state: "running", started: "2020-01-01T00:00:00.000Z" })
      // the tests run in this repository, or in one that was unpacked
      expect(git ?? { sha: "0".repeat(40), dirty: false }).toEqual({
        sha: expect.stringMatching(/^[0-9a-f]{40}$/),
        dirty: expect.any(Boolean)
      })
      yield* recording.note({ adapter: "a GPU" })
      expect(onDisk(folder)).toMatchObject({ state: "running", adapter: "a GPU" })
      yield* recording.end(Exit.void)
      expect(RunRecord.readRecord(folder)).toMatchObject({
        state: "finished",
        adapter: "a GPU",
        finished: "2020-01-01T00:01:00.000Z"
      })
      expect(parse(readFileSync(join(folder, "config.resolved.yaml"), "utf8"))).toEqual(run.config)
      expect(readdirSync(folder).sort()).toEqual(["config.resolved.yaml", "run.json"])
    }))

  it.effect("tells a failure, with its message, from an interruption", () =>
    Effect.gen(function*() {
      const of = (exit: Exit.Exit<unknown, unknown>) =>
        Effect.gen(function*() {
          const folder = fresh()
          yield* Effect.flatMap(RunRecord.begin(folder, run), (recording) => recording.end(exit))
          return onDisk(folder)
        })
      const failed = yield* of(Exit.fail(new DataError({ detail: "no such file" })))
      expect(failed).toMatchObject({ state: "failed", error: "no such file" })
      expect(yield* of(Exit.die(new Error("boom")))).toMatchObject({ state: "failed", error: "boom" })
      const interrupted = yield* of(Exit.interrupt(FiberId.none))
      expect([interrupted.state, "error" in interrupted]).toEqual(["interrupted", false])
    }))

  it.effect("keeps when it was begun when it is resumed, and forgets how it ended before", () =>
    Effect.gen(function*() {
      const folder = fresh()
      const now = clock()
      yield* Effect.flatMap(RunRecord.begin(folder, run, now), (it) => it.end(Exit.fail(new Error("boom"))))
      yield* RunRecord.begin(folder, { ...run, versions: { memsinks: "2" } }, now)
      const { git, ...resumed } = onDisk(folder)
      expect(resumed).toEqual({
        ...run,
        versions: { memsinks: "2" },
        state: "running",
        started: "2020-01-01T00:00:00.000Z",
        resumed: ["2020-01-01T00:02:00.000Z"]
      })
    }))

  it.effect("is none where there is no file of this kind, and must be written at the beginning", () =>
    Effect.gen(function*() {
      const folder = fresh()
      for (const text of ["{", "null", "[]", "{\"kind\": 1}"]) {
        writeFileSync(join(folder, "run.json"), text)
        expect(RunRecord.readRecord(folder)).toBeUndefined()
      }
      const failure = yield* Effect.flip(RunRecord.begin(join(folder, "gone"), run))
      expect(failure).toMatchObject({ _tag: "CheckpointError", reason: "Write" })
    }))
})
