/** The queue in PostgreSQL: every statement of it, and workers and a database that are killed at random. */
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { openQueue, type Taker, type Task } from "../../pipelines/experiment/Queue.ts"
import { random } from "../../src/Random.ts"
import { hasPostgres, startPostgres } from "../support/postgres.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-queue-"))
const root = fileURLToPath(new URL("../..", import.meta.url))
const isThere = hasPostgres()
const canBeSkipped = !isThere && process.env["CI"] === undefined
if (canBeSkipped) process.stderr.write("no PostgreSQL here (.ci/postgres.sh installs one): its queue is not tested\n")

let server: Awaited<ReturnType<typeof startPostgres>>
const running = new Set<ChildProcess>()

/** A command of memsinks. */
const start = (...words: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, ["--import", "tsx", "src/cli.ts", ...words], { cwd: root })
  running.add(child)
  let [stdout, stderr] = ["", ""]
  child.stdout.on("data", (data) => void (stdout += data))
  child.stderr.on("data", (data) => void (stderr += data))
  const ended = new Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>(
    (resolve) =>
      child.on("close", (code) => {
        running.delete(child)
        resolve({ code, stdout, stderr })
      })
  )
  return { child, ended }
}

/** A study on the host of 24 jobs, most of a second each. */
const study = (name: string, ...more: ReadonlyArray<string>) =>
  start("study", "associative", "inputs=20000", "dimensions=[8,16,32]", "samples=[10,100,1000]", "dimension=4",
    "pools=[1,2,4]", "draws=24", "--seeds", "24", "--json", "--out-dir", join(folder, name), "--store",
    join(folder, `${name}-store`), ...more)

describe.skipIf(canBeSkipped)("a queue in PostgreSQL", () => {
  beforeAll(async () => {
    server = await startPostgres()
  })
  afterAll(async () => {
    for (const child of running) child.kill("SIGKILL")
    await server.stop()
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  })

  it("has statements that it understands, and gives a job to one alone", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const open = openQueue(server.url, { patience: 10, say: (line) => Effect.sync(() => void told.push(line)) })
      // all make the tables
      const queues = yield* Effect.all(Array.from({ length: 6 }, () => open), { concurrency: "unbounded" })
      expect(told).toEqual([])
      const [queue] = queues as [typeof queues[number]]
      const common = { store: "s", version: "1" }
      const task = (id: string): Task => ({ ...common, kind: "test", arm: "ä", seed: 1.5,
        input: { big: Infinity, nul: "\0" }, span: "test", id, key: "k", machine: "m", cwd: "/", tries: 2 })
      const taker = (id: string, lease = 60): Taker => ({ ...common, id, name: `host ${id}`, machines: ["m", "n"],
        lease })
      const a = taker("a")
      yield* queue.offer([task("x"), task("y"), task("x")])
      expect(yield* queue.take(a, "a/0", ["y"])).toEqual(task("x"))
      // asked for again, as the answer was lost
      expect(yield* queue.take(a, "a/0", ["y"])).toEqual(task("x"))
      const still = yield* queue.beat(a, [{ id: "x", place: "a/0", note: "step\0 3" }, { id: "y", place: "a/1",
        note: "" }])
      expect([...still]).toEqual(["x"])
      expect(yield* queue.jobs(["x"])).toMatchObject([{ arm: "ä", seed: 1.5, state: "taken", tries: 1, most: 2,
        note: "step 3", worker: "host a" }])
      expect(yield* queue.workers).toMatchObject([{ name: "host a", doing: 2, alive: true }])
      yield* queue.fail("x", "a/0", { bug: { message: "of the program\0" } }, true)
      expect(yield* queue.take(a, "a/0", ["y"])).toEqual(task("x"))
      yield* queue.fail("x", "a/0", { bug: { message: "of the program\0" } }, true)
      expect(yield* queue.jobs(["x"])).toMatchObject([{ state: "failed", tries: 2,
        failed: { bug: { message: "of the program\0" } } }])
      expect(yield* queue.retry(["x"])).toBe(1)
      expect(yield* queue.retry([])).toBe(0)
      expect(yield* queue.take(taker("a", 0), "a/0", ["y"])).toEqual(task("x"))
      yield* Effect.sleep(20)
      expect(yield* queue.take(taker("b", 0), "b/0", ["y"])).toEqual(task("x"))
      yield* queue.leave("x", "b/0", "left")
      yield* queue.done("x", "a/0")
      expect(yield* queue.jobs(["x"])).toMatchObject([{ state: "waiting", tries: 1, note: "left" }])
      expect(yield* queue.remove(["x"])).toBe(1)
      expect(yield* queue.take(a, "a/0", [])).toEqual(task("y"))
      yield* queue.done("y", "a/0")
      expect(yield* queue.remove([])).toBe(1)
      yield* queue.bye(a)
      expect(yield* queue.workers).toEqual([])

      const names = Array.from({ length: 60 }, (_, i) => `t${i}`)
      yield* queue.offer(names.map(task))
      const taken = yield* Effect.forEach(queues, (one, w) =>
        Effect.gen(function*() {
          const own: Array<string> = []
          while (true) {
            const next = yield* one.take(taker(`w${w}`), `w${w}/${own.length}`, [])
            if (next === undefined) return own
            own.push(next.id)
          }
        }), { concurrency: "unbounded" })
      expect(taken.flat().sort()).toEqual([...names].sort())
      yield* Effect.forEach(taken, (own, w) => Effect.forEach(own, (id, i) => queue.done(id, `w${w}/${i}`)))
      expect(yield* queue.remove([])).toBe(60)
    }).pipe(Effect.scoped, Effect.runPromise))

  it("gives each of 24 jobs' results once, whoever is killed, and the report of who was not disturbed", async () => {
    const draw = random(1)
    const straight = await study("straight").ended
    expect(straight.stderr).not.toMatch(/^error/m)

    const worker = () =>
      start("worker", "--store", join(folder, "killed-store"), "--queue", server.url, "--host-only", "--lease", "2",
        "--quiet")
    const workers = [worker(), worker(), worker()]
    const asking = study("killed", "--queue", server.url, "--tries", "50")
    let over = false
    void asking.ended.then(() => over = true)
    const results = () => {
      try {
        return readdirSync(join(folder, "killed-store", "studies")).filter((name) => name.endsWith(".json")).length
      } catch {
        return 0
      }
    }
    // until something is done all are starting
    while (!over && results() === 0) await sleep(50)
    const harm = ["worker", "database", "worker", "worker", "database", "worker"]
    let killed = 0
    for (const what of harm) {
      await sleep(300 + 1500 * draw.uniform())
      if (over) break
      killed++
      if (what === "database") {
        await server.kill()
        await sleep(1000 * draw.uniform())
        await server.start()
      } else {
        const at = Math.floor(workers.length * draw.uniform())
        expect(workers[at]!.child.kill("SIGKILL")).toBe(true)
        await workers[at]!.ended
        workers[at] = worker()
      }
    }
    const { code, stderr, stdout } = await asking.ended
    expect([code, code === 0 ? "" : stderr]).toEqual([0, ""])
    expect(killed).toBe(harm.length)
    expect(stderr).toContain("answers again")
    const plain = (text: string) => ({ ...JSON.parse(text), seconds: 0 })
    expect(plain(stdout)).toEqual(plain(straight.stdout))
    expect(results()).toBe(24)
    const jobs = await Effect.runPromise(Effect.scoped(Effect.flatMap(openQueue(server.url), (queue) => queue.jobs())))
    expect(jobs.map(({ state }) => state)).toEqual(Array(24).fill("done"))
    expect(jobs.some(({ tries }) => tries > 1)).toBe(true)
    // those that nobody killed end as they are told to
    for (const { child, ended } of workers) {
      child.kill("SIGINT")
      expect((await ended).code).toBe(130)
    }
  }, 180_000)
})
