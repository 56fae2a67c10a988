import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { eventFile, trainToEnd } from "../../pipelines/experiment/Train.ts"
import { appendLine, linesOf, readEvents } from "../../src/runs/EventLog.ts"
import * as TensorBoard from "../../src/runs/TensorBoard.ts"
import type { TrainerService } from "../../src/train/Trainer.ts"
import { Evaluated, Finished, fromJsonLine, Saved, Started, Stepped, toJsonLine,
  type TrainEvent } from "../../src/train/TrainEvent.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-events-"))
afterAll(() => rmSync(root, { recursive: true }))

const started = (step: number) =>
  new Started({
    step,
    steps: 40,
    parameters: 10,
    activeParameters: 5,
    tokensPerStep: 64,
    adapter: "a",
    ...(step === 0 ? {} : { from: `step-${step}` })
  })
/** Ten steps take a second. */
const stepped = (step: number, from = 0) =>
  new Stepped({
    step,
    steps: 40,
    loss: 2,
    gradNorm: 1,
    learningRate: 0.1,
    tokens: 64 * step,
    tokensPerSecond: 640,
    seconds: (step - from) / 10
  })
const evaluated = (step: number) => new Evaluated({ step, losses: { "heldOut.own": 3 } })
const saved = (step: number) => new Saved({ step, path: `step-${step}` })
const finished = (seconds: number) => new Finished({ step: 40, seconds, tokensPerSecond: 9999 })

const whole: ReadonlyArray<TrainEvent> = [
  started(0),
  stepped(10),
  stepped(20),
  evaluated(20),
  saved(20),
  stepped(30),
  stepped(40),
  evaluated(40),
  saved(40),
  finished(4)
]

/** A trainer that tells these events, each in a turn of its own. */
const telling = (events: ReadonlyArray<TrainEvent>, untold: ReadonlyArray<TrainEvent> = []): TrainerService =>
  ({
    run: Stream.rechunk(Stream.fromIterable(events), 1),
    untold: Effect.succeed(untold)
  }) as unknown as TrainerService

const tail = (event: TrainEvent) => `${event._tag} ${event.step}`

describe("the events of a run", () => {
  /** Runs one process after the other on one log; gives what the last returned, and the file. */
  const runs = async (name: string, ...processes: ReadonlyArray<TrainerService>) => {
    const folder = join(root, name)
    mkdirSync(folder)
    const file = join(folder, "metrics.jsonl")
    let seconds = NaN
    for (const trainer of processes) {
      const log = eventFile(file, TensorBoard.writer(folder))
      seconds = (await Effect.runPromise(trainToEnd(trainer, 64, log, () => Effect.void))).seconds
    }
    return { seconds, events: readEvents(file).events }
  }
  const expected = whole.map(tail)

  it("are told once and in order, wherever a process was killed, with the time of all", async () => {
    const straight = await runs("straight", telling(whole))
    expect([straight.seconds, straight.events.map(tail)]).toEqual([4, expected])
    const killed: ReadonlyArray<readonly [string, ...ReadonlyArray<ReadonlyArray<TrainEvent>>]> = [
      // the checkpoint of step 20 was complete, and not told of; its time counts
      ["before-saved", whole.slice(0, 4), [started(20), stepped(30, 20), stepped(40, 20), evaluated(40), saved(40),
        finished(2)]],
      // what ran after the checkpoint runs again
      ["later", whole.slice(0, 6), [started(20), stepped(30, 20), stepped(40, 20), evaluated(40), saved(40),
        finished(2)]],
      // while it measured
      ["measuring", whole, [started(40), finished(0)]],
      // between its last checkpoint and the end
      ["unfinished", whole.slice(0, -1), [started(40), finished(0)]],
      ["twice", whole.slice(0, 6), [started(20), stepped(30, 20)], [started(20), stepped(30, 20), stepped(40, 20),
        evaluated(40), saved(40), finished(2)]]
    ]
    for (const [name, ...processes] of killed) {
      const { events, seconds } = await runs(name, ...processes.map((events) => telling(events)))
      expect([name, seconds]).toEqual([name, 4])
      // but for the beginnings of those that went on
      expect([name, events.filter(({ _tag, step }) => _tag !== "Started" || step === 0).map(tail)]).toEqual([name,
        expected])
      expect(events.at(-1)).toMatchObject({ _tag: "Finished", seconds: 4, tokensPerSecond: 640 })
      expect(events.filter((event) => event._tag === "Stepped").map(({ seconds }) => seconds)).toEqual([1, 2, 3, 4])
    }
  })

  it("that nobody took from an interrupted run are kept, too", async () => {
    const folder = join(root, "interrupted")
    mkdirSync(folder)
    const file = join(folder, "metrics.jsonl")
    const trainer = {
      run: Stream.concat(Stream.rechunk(Stream.fromIterable(whole.slice(0, 2)), 1), Stream.never),
      untold: Effect.succeed([stepped(20), saved(25)])
    } as unknown as TrainerService
    await Effect.runPromise(Effect.gen(function*() {
      const fiber = yield* Effect.fork(
        trainToEnd(trainer, 64, eventFile(file, TensorBoard.writer(folder)), () => Effect.void)
      )
      while (!existsSync(file) || readEvents(file).events.length < 2) yield* Effect.sleep(5)
      yield* Fiber.interrupt(fiber)
    }))
    expect(readEvents(file).events.map(tail)).toEqual(["Started 0", "Stepped 10", "Stepped 20", "Saved 25"])
  })

  it("say nothing of a speed where nothing tells how long the steps took", async () => {
    const { events, seconds } = await runs("lost", telling([started(40), finished(0)]))
    expect(seconds).toBe(0)
    expect(events.at(-1)).toMatchObject({ _tag: "Finished", tokensPerSecond: 0 })
    // from the speed of what is left
    const guessed = await runs("guessed",
      telling([started(20), stepped(30, 20), stepped(40, 20), saved(40), finished(2)]))
    expect(guessed.seconds).toBe(4)
  })
})

describe("metrics.jsonl", () => {
  it("goes on on a new line after one that is torn, and counts it", () => {
    const file = join(root, "torn.jsonl")
    appendLine(file, toJsonLine(stepped(10)))
    appendFileSync(file, toJsonLine(stepped(20)).slice(0, 30))
    appendLine(file, toJsonLine(stepped(30)))
    appendLine(file, toJsonLine(stepped(40)))
    const { events, torn } = readEvents(file)
    expect([events.map(({ step }) => step), torn]).toEqual([[10, 30, 40], 1])
  })

  it("is read over pieces, long lines and bytes that are no text", () => {
    const file = join(root, "large.jsonl")
    const line = toJsonLine(stepped(10))
    writeFileSync(file, `${line.repeat(2000)}${"x".repeat(3e6)}\n\u0000\n\n${line}`)
    appendFileSync(file, Uint8Array.of(0xff, 0xfe, 10))
    const { events, torn } = readEvents(file)
    expect([events.length, torn]).toEqual([2001, 3])
    expect([...linesOf(file)].every((text) => text.length < 2e6)).toBe(true)
    expect(fromJsonLine("[1]")).toEqual([])
  })

  it("that is a folder, or nowhere, costs a warning and no run", async () => {
    const logged: Array<string> = []
    const logger = Logger.replace(Logger.defaultLogger, Logger.make(({ message }) => void logged.push(String(message))))
    const folder = join(root, "folder")
    mkdirSync(join(folder, "metrics.jsonl"), { recursive: true })
    symlinkSync(join(root, "nowhere", "x"), join(root, "link"))
    for (const file of [join(folder, "metrics.jsonl"), join(root, "nowhere", "metrics.jsonl"), join(root, "link")]) {
      const log = eventFile(file, { write: () => Effect.void })
      await Effect.runPromise(Effect.provide(trainToEnd(telling(whole), 64, log, () => Effect.void), logger))
    }
    expect(logged.length).toBeLessThanOrEqual(6)
    expect(logged[0]).toContain("metrics.jsonl: ")
  })
})
