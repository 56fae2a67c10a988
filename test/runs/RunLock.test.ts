import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect } from "vitest"
import * as RunLock from "../../src/runs/RunLock.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-lock-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const fresh = () => mkdtempSync(join(root, "run-"))

const lockIn = (folder: string) => JSON.parse(readFileSync(join(folder, "lock"), "utf8")) as RunLock.Holder

/** A process that takes and drops the locks of folders. */
const child = async () => {
  const taker = spawn(
    process.execPath,
    ["--import", "tsx", fileURLToPath(new URL("lock.child.ts", import.meta.url))],
    { stdio: ["pipe", "pipe", "inherit"] }
  )
  const lines = createInterface({ input: taker.stdout })[Symbol.asyncIterator]()
  const line = async () => (await lines.next()).value as string | undefined
  const ask = (text: string) => {
    taker.stdin.write(`${text}\n`)
    return line()
  }
  expect(await line()).toBe("ready")
  return {
    pid: taker.pid!,
    ask,
    end: async (signal: NodeJS.Signals) => {
      const closed = once(taker, "exit")
      taker.kill(signal)
      await closed
    }
  }
}

/** What `hold` comes to, and what it logs. */
const hold = (folder: string, options?: { readonly force?: boolean }) =>
  Effect.gen(function*() {
    const logged: Array<string> = []
    const logger = Logger.make(({ message }) => void logged.push(String(message)))
    const exit = yield* Effect.scoped(Effect.zipRight(
      RunLock.hold(folder, options),
      Effect.sync(() => RunLock.peek(folder).state)
    )).pipe(Effect.either, Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    return { exit, logged }
  })

describe("the lock of a run's folder", () => {
  it.effect("is held until the scope closes, and refuses a second holder in the same process", () =>
    Effect.gen(function*() {
      const folder = fresh()
      const scope = yield* Scope.make()
      yield* Scope.extend(RunLock.hold(folder), scope)
      expect(RunLock.peek(folder)).toMatchObject({ state: "held", holder: { pid: process.pid } })
      // a living process is never robbed, not even by force
      for (const force of [false, true]) {
        const { exit } = yield* hold(folder, { force })
        expect(exit).toMatchObject({ _tag: "Left", left: { _tag: "CheckpointError", reason: "Mismatch" } })
        expect(String(exit)).toContain(`another run uses the folder: process ${process.pid} on `)
      }
      yield* Scope.close(scope, Exit.void)
      expect([RunLock.peek(folder), readdirSync(folder)]).toEqual([{ state: "free" }, []])
    }))

  it("goes to exactly one of several processes that race, over a fresh folder and over a dead one's", async () => {
    const [first, ...racers] = await Promise.all([child(), child(), child(), child()])
    const left = fresh()
    expect(await first!.ask(`take ${left}`)).toBe("held")
    await first!.end("SIGKILL")
    expect(RunLock.peek(left)).toMatchObject({ state: "stale", holder: { pid: first!.pid } })
    for (const folder of [fresh(), left]) {
      const said = await Promise.all(racers.map(async ({ ask, pid }) => [pid, await ask(`take ${folder}`)] as const))
      const winners = said.filter(([, line]) => line === "held")
      expect(winners, JSON.stringify(said)).toHaveLength(1)
      const [winner] = winners[0]!
      expect(lockIn(folder).pid).toBe(winner)
      for (const [pid, line] of said) {
        if (pid !== winner) expect(line).toContain("another run uses the folder: process ")
      }
      for (const { ask } of racers) expect(await ask("drop")).toBe("dropped")
      expect(readdirSync(folder)).toEqual([])
    }
    await Promise.all(racers.map((racer) => racer.end("SIGTERM")))
  }, 60_000)

  it.effect("is taken over from a process that is gone, with a line that says so", () =>
    Effect.gen(function*() {
      const folder = fresh()
      const dead = { ...(yield* ours(folder)), pid: 2 ** 22 + 5, token: "0".repeat(32) }
      writeFileSync(join(folder, "lock"), JSON.stringify(dead))
      // whoever began to take it over is gone, too
      writeFileSync(join(folder, "lock.00000000"), JSON.stringify({ ...dead, token: "1".repeat(32) }))
      const { exit, logged } = yield* hold(folder)
      expect(exit).toMatchObject({ _tag: "Right", right: "held" })
      expect(logged).toEqual([expect.stringMatching(/was left by process 4194309 on .*, which is gone: going on/)])
      expect(readdirSync(folder)).toEqual([])
    }))

  it.effect("tells a process from an earlier one with the same number", () =>
    Effect.gen(function*() {
      const folder = fresh()
      writeFileSync(join(folder, "lock"), JSON.stringify({ ...(yield* ours(folder)), began: "1" }))
      expect(RunLock.peek(folder).state).toBe("stale")
      expect((yield* hold(folder)).exit).toMatchObject({ right: "held" })
    }))

  it.live("of another host, boot or container is watched: taken over when it shows no sign of life for its lease", () =>
    Effect.gen(function*() {
      for (const other of [{ host: "elsewhere" }, { pids: "pid:[1]" }, { boot: "another" }]) {
        const folder = fresh()
        writeFileSync(join(folder, "lock"), JSON.stringify({ ...(yield* ours(folder)), ...other, lease: 100 }))
        expect(RunLock.peek(folder).state).toBe("boot" in other ? "stale" : "unknown")
        const { exit, logged } = yield* hold(folder)
        expect(exit).toMatchObject({ right: "held" })
        expect(logged.join("\n")).toMatch(/up to 0.1 s for a sign of life[\s\S]*which gives no sign of life: going on/)
        expect(readdirSync(folder)).toEqual([])
      }
    }))

  it.live("of another host that lives is respected, however wrong its clock is", () =>
    Effect.gen(function*() {
      const folder = fresh()
      const file = join(folder, "lock")
      writeFileSync(file, JSON.stringify({ ...(yield* ours(folder)), host: "elsewhere", lease: 400 }))
      let time = 1e9
      const beats = setInterval(() => utimesSync(file, time, time += 1), 20)
      const { exit } = yield* hold(folder)
      clearInterval(beats)
      expect(exit).toMatchObject({ left: { reason: "Mismatch", message: expect.stringContaining("on elsewhere") } })
    }))

  it.live("tells its holder when another has taken it, and lets nothing be kept from then on", () =>
    Effect.gen(function*() {
      const folder = fresh()
      const { lost, still } = yield* Effect.scoped(Effect.gen(function*() {
        const lease = yield* RunLock.hold(folder, { lease: 200 })
        yield* RunLock.stillOurs(join(folder, "seed-1"))
        writeFileSync(join(folder, "lock"), JSON.stringify({ ...lockIn(folder), host: "elsewhere", token: "another" }))
        const still = yield* Effect.flip(RunLock.stillOurs(join(folder, "seed-1")))
        return { still, lost: yield* Effect.flip(lease.lost) }
      }))
      expect(lost).toBe(still)
      expect(lost.message).toMatch(/on elsewhere, since .* has taken the folder over, as this one was stopped/)
      expect(lockIn(folder).token).toBe("another")
    }))

  it.live("that somebody removed by hand is made again", () =>
    Effect.scoped(Effect.gen(function*() {
      const folder = fresh()
      yield* RunLock.hold(folder)
      const before = lockIn(folder)
      rmSync(join(folder, "lock"))
      yield* RunLock.stillOurs(folder)
      expect(lockIn(folder)).toEqual(before)
    })))

  it.effect("without a lease, as earlier versions left it, or not readable, is respected unless forced", () =>
    Effect.gen(function*() {
      for (const other of [{ host: "elsewhere" }, { pids: "pid:[1]" }, undefined]) {
        const folder = fresh()
        const lock = other === undefined
          ? "?"
          : JSON.stringify({ ...(yield* ours(folder)), lease: undefined, ...other })
        writeFileSync(join(folder, "lock"), lock)
        expect(RunLock.peek(folder).state).toBe("unknown")
        const { exit } = yield* hold(folder)
        expect(exit).toMatchObject({ left: { reason: "Mismatch", message: expect.stringContaining("with --force") } })
        expect(readFileSync(join(folder, "lock"), "utf8")).toBe(lock)
        expect((yield* hold(folder, { force: true })).exit).toMatchObject({ right: "held" })
        expect(readdirSync(folder)).toEqual([])
      }
    }))

  it.effect("stays with whoever took it by force when the first holder leaves", () =>
    Effect.gen(function*() {
      const folder = fresh()
      yield* Effect.scoped(Effect.gen(function*() {
        yield* RunLock.hold(folder)
        writeFileSync(join(folder, "lock"), JSON.stringify({ ...lockIn(folder), token: "another" }))
      }))
      expect(existsSync(join(folder, "lock"))).toBe(true)
    }))

  it.effect("needs a folder that can be written to", () =>
    Effect.gen(function*() {
      const { exit } = yield* hold(join(root, "nowhere"))
      expect(exit).toMatchObject({ left: { reason: "Write", message: expect.stringContaining("nowhere") } })
    }))
})

/** A lock as this process writes it. */
const ours = (folder: string) => Effect.scoped(Effect.map(RunLock.hold(folder), () => lockIn(folder)))
