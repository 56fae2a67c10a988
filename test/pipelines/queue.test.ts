/** Jobs that are handed to workers through a queue: whatever happens to them, a result once, and a failure that is told. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import { describe, expect, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { afterAll } from "vitest"
import { throughQueue } from "../../pipelines/experiment/Asker.ts"
import { noDevice } from "../../pipelines/experiment/Doing.ts"
import type { Work } from "../../pipelines/experiment/Job.ts"
import { openQueue, type Taker, type Task } from "../../pipelines/experiment/Queue.ts"
import { fileStore } from "../../pipelines/experiment/Store.ts"
import { work } from "../../pipelines/experiment/Worker.ts"
import * as Edge from "../../src/cli/Edge.ts"
import { makeWorks } from "../../src/cli/works.ts"
import { Diverged } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import { machineOf } from "../../src/gpu/Machine.ts"
import { memsinksHere } from "../support/stdout.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-queue-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const done: Array<number> = []
const tested: Work<{ readonly n: number }, unknown> = {
  key: (input) => Effect.succeed({ test: 1, ...input }),
  run: ({ n }) =>
    Effect.suspend(() => {
      done.push(n)
      if (n === 3) return new Diverged({ step: 4, loss: NaN })
      if (n === 4) throw new Error("of the program")
      return Effect.succeed({ n, square: n * n, nan: NaN })
    })
}

const ask = (folder: string, numbers: ReadonlyArray<number>) =>
  Effect.gen(function*() {
    const store = yield* fileStore(join(folder, "store"))
    const machine = machineOf(yield* Device)
    const lines: Array<string> = []
    const hand = yield* throughQueue(join(folder, "queue.db"), { every: 20, tries: 2 })({
      machine,
      outDir: undefined,
      store,
      versions: { memsinks: "1" },
      stage: (line) => Effect.sync(() => void lines.push(line))
    })
    const results = yield* Effect.forEach(numbers, (n) =>
      Effect.gen(function*() {
        const job = { kind: "test", arm: `arm ${n}`, seed: 1, input: { n } }
        const key = yield* tested.key(job.input, { machine, streams: undefined as never })
        return yield* Effect.exit(yield* hand<{ readonly square: number }>(job, key, { span: "test" }))
      }), { concurrency: "unbounded" })
    return { results, lines }
  }).pipe(Effect.scoped, Effect.provide(noDevice), Effect.provide(NodeContext.layer))

const worker = (folder: string,
  options: { readonly version?: string; readonly untilIdle?: number; readonly work?: typeof tested } = {}) =>
  work({
    store: join(folder, "store"),
    queue: join(folder, "queue.db"),
    device: undefined,
    works: { test: options.work ?? tested },
    version: options.version ?? "1",
    every: 20,
    untilIdle: options.untilIdle ?? 0.3
  }).pipe(Effect.provide(NodeContext.layer))

/** Fails where something waits for what does not come, instead of waiting with it. */
const bounded = <A, E, R>(test: Effect.Effect<A, E, R>) =>
  Effect.disconnect(test).pipe(
    Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => new Error("it hangs") })
  )

describe("a queue", () => {
  it.live("gives every job's result once, an arm's own failure at once, and a bug after its tries", () =>
    Effect.gen(function*() {
      const folder = join(root, "all")
      const workers = yield* Effect.fork(
        Effect.all([worker(folder, { untilIdle: 60 }), worker(folder, { untilIdle: 60 })], {
          concurrency: 2
        })
      )
      const { results } = yield* ask(folder, [1, 2, 3, 4, 5])
      yield* Fiber.interrupt(workers)
      expect(results.map((one) => Exit.isSuccess(one) ? one.value.square : "failed")).toEqual([1, 4, "failed", "failed",
        25])
      const said = results.map((one) => Exit.isFailure(one) ? Cause.pretty(one.cause) : "")
      expect(said[2]).toContain("training diverged at step 4: loss NaN")
      expect(said[3]).toContain("of the program")
      expect([...done].sort()).toEqual([1, 2, 3, 4, 4, 5])
      // what is known is never handed out
      const again = yield* ask(folder, [1, 2, 5])
      expect(again.results.every(Exit.isSuccess)).toBe(true)
      expect(again.lines).toEqual([])
    }))

  it.live("says that there is no worker, or one of another version, and goes on when one comes", () =>
    Effect.gen(function*() {
      const folder = join(root, "late")
      const asking = yield* Effect.fork(ask(folder, [7]))
      const other = yield* Effect.fork(worker(folder, { version: "2", untilIdle: 60 }))
      yield* Effect.sleep(2500)
      yield* Fiber.interrupt(other)
      yield* worker(folder, { untilIdle: 1 })
      const { lines, results } = yield* Fiber.join(asking)
      expect(results.every(Exit.isSuccess)).toBe(true)
      expect(lines.join("\n")).toMatch(/no worker yet: start some with memsinks worker|is of memsinks 2/)
    }))

  it.scopedLive("lets a job of a worker that is gone be taken by others, until it was tried as often as it may be", () =>
    Effect.gen(function*() {
      const queue = yield* openQueue(join(root, "lease.db"))
      const common = { store: "s", version: "1" }
      const task: Task = { ...common, kind: "test", arm: "a", seed: 1, input: { big: Infinity }, span: "test", id: "x",
        key: "k", machine: "m", cwd: "/", tries: 2 }
      const taker = (id: string, lease: number): Taker => ({ ...common, id, name: id, machines: ["m"], lease })
      yield* queue.offer([task, task])
      expect(yield* queue.take({ ...taker("a", 60), machines: ["other"] }, "a", [])).toBeUndefined()
      expect(yield* queue.take({ ...taker("a", 60), store: "other" }, "a", [])).toBeUndefined()
      expect(yield* queue.take(taker("a", 60), "a", [])).toEqual(task)
      expect(yield* queue.take(taker("b", 60), "b", [])).toBeUndefined()
      // given back, it costs no try
      yield* queue.leave("x", "a", "left")
      expect((yield* queue.jobs())[0]).toMatchObject({ state: "waiting", tries: 0, note: "left" })
      expect(yield* queue.take(taker("a", 0), "a", [])).toEqual(task)
      yield* Effect.sleep(20)
      expect(yield* queue.take(taker("b", 0), "b", [])).toEqual(task)
      // who was too slow has no say in it any more
      yield* queue.done("x", "a")
      expect([...(yield* queue.beat(taker("a", 60), [{ id: "x", place: "a", note: "" }]))]).toEqual([])
      yield* Effect.sleep(20)
      expect(yield* queue.take(taker("c", 60), "c", [])).toBeUndefined()
      const [failed] = yield* queue.jobs(["x"])
      expect(failed).toMatchObject({ state: "failed", tries: 2 })
      expect(JSON.stringify(failed!.failed)).toContain("its worker was killed")
      expect(yield* queue.retry(["x"])).toBe(1)
      expect(yield* queue.take(taker("c", 60), "c", [])).toEqual(task)
      yield* queue.done("x", "c")
      expect(yield* queue.remove([])).toBe(1)
    }))

  it.live("has what is done given back before it is closed, when a worker is stopped", () =>
    Effect.gen(function*() {
      const folder = join(root, "stopped")
      const begun = Deferred.unsafeMake<void>(FiberId.none)
      let saved = false
      const long: Work<{ readonly n: number }, unknown> = {
        ...tested,
        run: () =>
          Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never).pipe(
            // the step that runs is finished and saved first
            Effect.onInterrupt(() => Effect.delay(Effect.sync(() => void (saved = true)), 100))
          )
      }
      const asking = yield* Effect.fork(ask(folder, [8]))
      const first = yield* Effect.fork(worker(folder, { untilIdle: 60, work: long }))
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(first)
      expect(saved).toBe(true)
      const { jobs, workers } = yield* Effect.scoped(Effect.gen(function*() {
        const queue = yield* openQueue(join(folder, "queue.db"))
        return { jobs: yield* queue.jobs(), workers: yield* queue.workers }
      }))
      expect(jobs).toMatchObject([{ state: "waiting", tries: 0, note: expect.stringMatching(/ left it$/) }])
      expect(workers).toEqual([])
      yield* worker(folder, { untilIdle: 1 })
      expect((yield* Fiber.join(asking)).results.every(Exit.isSuccess)).toBe(true)
    }).pipe(bounded))

  it.live("gives the report of a study that the command line gives without one", () =>
    Effect.gen(function*() {
      const folder = join(root, "study")
      const study = (name: string, ...more: ReadonlyArray<string>) =>
        Effect.promise(() =>
          memsinksHere(["study", "associative", "inputs=1000", "dimensions=[4,8,16]", "samples=[10,100,1000]",
            "dimension=4", "pools=[1,2,4]", "draws=1", "--seeds", "2", "--json", "--out-dir", join(folder, name),
            "--store", join(folder, `${name}-store`), ...more])
        )
      const straight = yield* study("straight")
      const queue = `sqlite:${join(folder, "queue.db")}`
      const working = yield* Effect.fork(
        work({ store: join(folder, "queued-store"), queue, device: undefined, works: makeWorks(), version: Edge.version,
          every: 20 }).pipe(Effect.provide(NodeContext.layer))
      )
      const queued = yield* study("queued", "--queue", queue)
      yield* Fiber.interrupt(working)
      expect([straight.code, queued.code]).toEqual([0, 0])
      const jobs = yield* Effect.scoped(Effect.flatMap(openQueue(queue), (queue) => queue.jobs()))
      expect(jobs.map(({ state }) => state)).toEqual(["done", "done"])
      const plain = (text: string) => ({ ...JSON.parse(text), seconds: 0 })
      expect(plain(queued.stdout)).toEqual(plain(straight.stdout))
    }))

  it.scopedLive("refuses what is no queue", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(openQueue("mysql://user:secret@host/db"))
      expect(error.message).toBe("mysql://host/db: is no queue: expected sqlite:FILE, a path of a file, or " +
        "postgres://user@host/database")
      const away = yield* Effect.flip(openQueue("postgres://u:secret@127.0.0.1:1/db", { patience: 0.2 }))
      expect(away.message).toContain("did not answer for 0.2 s")
      expect(away.message).not.toContain("secret")
    }))

  it.scopedLive("is not made by who only looks at it", () =>
    Effect.gen(function*() {
      const file = join(root, "nowhere", "queue.db")
      const { code, stderr } = yield* Effect.promise(() => memsinksHere(["jobs", "--queue", `sqlite:${file}`]))
      expect([code, stderr]).toEqual([1, expect.stringContaining(`${file}: there is no such queue`)])
      expect(existsSync(dirname(file))).toBe(false)
    }))
})
