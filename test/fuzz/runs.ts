/** Damaged folders of runs, and terminals of any width with any names in what they show. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Stream from "effect/Stream"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { hostname, tmpdir } from "node:os"
import { join } from "node:path"
import { eventFile, trainToEnd } from "../../pipelines/experiment/Train.ts"
import { view } from "../../pipelines/pretrain/view.ts"
import { toTerminal } from "../../pipelines/report/render.ts"
import { sparkline } from "../../src/cli/inspect.ts"
import { isMemsinksError } from "../../src/Errors.ts"
import { readEvents } from "../../src/runs/EventLog.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import * as RunRecord from "../../src/runs/RunRecord.ts"
import * as Runs from "../../src/runs/Runs.ts"
import * as TensorBoard from "../../src/runs/TensorBoard.ts"
import { cells, columns, painter, truncate, wrap } from "../../src/Terminal.ts"
import * as Progress from "../../src/terminal/Progress.ts"
import { chart } from "../../src/terminal/TerminalChart.ts"
import * as WatchView from "../../src/terminal/WatchView.ts"
import type { TrainerService } from "../../src/train/Trainer.ts"
import { Evaluated, Finished, format, Saved, Started, Stepped, toJsonLine,
  type TrainEvent } from "../../src/train/TrainEvent.ts"
import { report } from "../fixtures/report.ts"
import type { Fuzzer } from "./fuzz.ts"

type Random = () => number

/** What is said of damage is not looked at. */
const runQuietly = <A, E>(effect: Effect.Effect<A, E>): Promise<A> =>
  Effect.runPromise(Logger.withMinimumLogLevel(effect, LogLevel.None))

const below = (random: Random, n: number): number => Math.floor(random() * n)
const pick = <A>(random: Random, from: ReadonlyArray<A>): A => from[below(random, from.length)]!

const events: ReadonlyArray<TrainEvent> = [
  new Started({ step: 0, steps: 20, parameters: 10, activeParameters: 5, tokensPerStep: 64, adapter: "a" }),
  new Stepped({ step: 10, steps: 20, loss: 2, gradNorm: 1, learningRate: 0.1, tokens: 640, tokensPerSecond: 640,
    seconds: 1 }),
  new Evaluated({ step: 10, losses: { "heldOut.own": 3 } }),
  new Saved({ step: 10, path: "step-00000010" }),
  new Finished({ step: 20, seconds: 2, tokensPerSecond: 640 })
]

const later: ReadonlyArray<TrainEvent> = [
  new Started({ step: 10, steps: 20, parameters: 10, activeParameters: 5, tokensPerStep: 64, adapter: "a",
    from: "step-00000010" }),
  new Stepped({ step: 20, steps: 20, loss: 1, gradNorm: 1, learningRate: 0.1, tokens: 1280, tokensPerSecond: 640,
    seconds: 1 }),
  new Finished({ step: 20, seconds: 1, tokensPerSecond: 640 })
]

const values = ["null", "[]", "{}", "-1", "1e999", "\"\"", "\"\\u001b[2J\"", "true", "[null]", "{\"a\":{}}",
  "18446744073709551617", "\"\\u0000\""]

/** What may stand in the place of a file: bytes, nothing, a folder, a link to nowhere or to itself. */
const damage = (random: Random, text: Uint8Array): Uint8Array | "folder" | "link" | "loop" | "absent" => {
  const kind = below(random, 9)
  if (kind === 0) return new Uint8Array()
  if (kind === 1) return pick(random, ["folder", "link", "loop", "absent"])
  if (kind === 2) return text.subarray(0, below(random, text.length))
  if (kind === 3) return Uint8Array.from({ length: below(random, 300) }, () => below(random, 256))
  if (kind === 4) return new TextEncoder().encode(pick(random, values))
  if (kind < 7) {
    // the value of a field is another one
    const whole = new TextDecoder().decode(text)
    const fields = [...whole.matchAll(/("[^"]*":\s?)("[^"]*"|[\d.]+|true|false|\[[^\]]*\]|\{[^}]*\})/g)]
    const field = pick(random, fields.length === 0 ? [undefined] : fields)
    if (field === undefined) return text
    const at = field.index! + field[1]!.length
    return new TextEncoder().encode(whole.slice(0, at) + pick(random, values) + whole.slice(at + field[2]!.length))
  }
  const bytes = Uint8Array.from(text)
  for (let i = below(random, 8); i >= 0; i--) bytes[below(random, bytes.length)] = below(random, 256)
  return bytes
}

/** What went wrong, unless it is one of the errors that are meant for people. */
const wrong = (error: unknown): string | undefined =>
  isMemsinksError(error) ? undefined : error instanceof Error ? error.stack ?? error.message : String(error)

const folders: Fuzzer = {
  name: "damaged folders of runs",
  run: async (random, inputs) => {
    const found: Array<string> = []
    const root = mkdtempSync(join(tmpdir(), "memsinks-fuzz-"))
    try {
      const folder = join(root, "run")
      const training = join(folder, "seed-1", "standard")
      for (let i = 0; i < inputs; i++) {
        rmSync(folder, { recursive: true, force: true })
        mkdirSync(training, { recursive: true })
        const config = { steps: 20 }
        await runQuietly(
          RunRecord.begin(folder, { kind: "pretrain", versions: { memsinks: "0" }, config, seeds: [1],
            arms: ["standard"] })
        )
        writeFileSync(join(folder, "lock"),
          JSON.stringify({ pid: process.pid, host: "elsewhere", since: "x", token: "abcdefgh" }))
        writeFileSync(join(training, "metrics.jsonl"), events.map(toJsonLine).join(""))
        const board = TensorBoard.writer(training, () => 1e9)
        for (const event of events) await runQuietly(board.write(event))
        const tensorBoard = `events.out.tfevents.1000000000.${hostname()}.${process.pid}`
        const names = ["run.json", "config.resolved.yaml", "lock", "seed-1/standard/metrics.jsonl",
          `seed-1/standard/${tensorBoard}`]
        const done: Array<string> = []
        for (let k = 1 + below(random, 2); k > 0; k--) {
          const name = pick(random, names)
          const path = join(folder, name)
          let old: Uint8Array
          try {
            old = readFileSync(path)
          } catch {
            continue
          }
          const now = damage(random, old)
          rmSync(path, { recursive: true, force: true })
          if (now === "folder") mkdirSync(path)
          else if (now === "link") symlinkSync(join(root, "nowhere"), path)
          else if (now === "loop") symlinkSync(path, path)
          else if (now !== "absent") writeFileSync(path, now)
          done.push(`${name} = ${typeof now === "string" ? now : Buffer.from(now).toString("base64")}`)
        }
        const tried = async (what: string, body: () => unknown) => {
          try {
            await body()
          } catch (error) {
            const problem = wrong(error)
            if (problem !== undefined) found.push(`${what} with ${done.join(", ")}: ${problem}`)
          }
        }
        await tried("listing", () => {
          for (const run of Runs.listRuns(root)) {
            if (!Number.isFinite(run.bytes)) throw new Error("no size")
            for (const { curves } of run.trainings) {
              for (const { points } of curves) for (const { loss } of points) loss.toFixed(3)
            }
            run.record.started.localeCompare("")
          }
        })
        await tried("locking", () => runQuietly(Effect.scoped(Effect.either(RunLock.hold(folder)))))
        await tried("locking by force", () =>
          runQuietly(Effect.scoped(Effect.either(RunLock.hold(folder, { force: true })))))
        await tried("recording", () =>
          runQuietly(
            Effect.either(
              RunRecord.begin(folder, { kind: "pretrain", versions: {}, config, seeds: [1], arms: ["standard"] })
            )
          ))
        await tried("going on", async () => {
          const file = join(training, "metrics.jsonl")
          const trainer = { run: Stream.fromIterable(later), untold: Effect.succeed([]) } as unknown as TrainerService
          const log = eventFile(file, TensorBoard.writer(training, () => 1e9))
          const { seconds } = await runQuietly(trainToEnd(trainer, 64, log, () => Effect.void))
          if (!(seconds >= 0)) throw new Error(`${seconds} seconds`)
        })
      }
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
    return found
  }
}

const letters = ["a", "Z", "0", " ", "\t", "\n", "\u001b[2J", "\u001b]0;x\u0007", "\u009b31m", "日本", "한", "λ",
  "e\u0301", "👩‍👩‍👧", "🇯🇵", "\u200d", "\u202e", "\ud800", "\u0000", "ﷺ", "…", "%s"]
const nameOf = (random: Random): string =>
  Array.from({ length: below(random, 12) }, () => pick(random, letters)).join("")

/** Widths that terminals report: also none, and what is no number of columns. */
const widthsOf = (random: Random): number | undefined =>
  random() < 0.7 ? below(random, 201) : pick(random, [undefined, NaN, 0, 1, 2, -1, 10_000, Infinity, 0.5])

const unsafe = /[\u0000-\u0008\u000b-\u001a\u001c-\u001f\u007f-\u009f]|\u001b(?!\[[0-9;]*m)/

const terminals: Fuzzer = {
  name: "terminals of any width",
  run: async (random, inputs) => {
    const found: Array<string> = []
    for (let i = 0; i < inputs; i++) {
      const width = widthsOf(random)
      const [name, other] = [nameOf(random), nameOf(random)]
      const color = random() < 0.5
      const number = pick(random, [0, 1, -2.5, NaN, Infinity, 1e300, 1e-9, 12345.678])
      const fail = (what: string, problem: string) =>
        found.push(`${what} at width ${width}, names ${JSON.stringify([name, other])}, number ${number}: ${problem}`)
      const tried = (what: string, most: number | undefined, body: () => ReadonlyArray<string>, safe = true) => {
        try {
          for (const line of body()) {
            if (most !== undefined && most >= 1 && cells(line) > Math.max(2, most)) {
              fail(what, `a line of ${cells(line)} cells: ${JSON.stringify(line)}`)
            }
            if (safe && unsafe.test(line)) fail(what, `escapes: ${JSON.stringify(line)}`)
          }
        } catch (error) {
          fail(what, String((error as Error).stack))
        }
      }
      tried("truncate", width, () => [truncate(name, width ?? NaN)], false)
      tried("wrap", width, () => wrap([[name], [other, "bold"]], width ?? NaN, painter(color)), false)
      tried("columns", undefined, () => columns([[name, other], ["a", String(number)]]))
      tried("sparkline", undefined, () => [sparkline([1, number, 3], width ?? NaN)])
      const points = [{ x: 0, y: number }, { x: below(random, 100), y: random() * 9 }, { x: 100, y: 1 }]
      const height = below(random, 40) - 2
      tried("chart", width, () =>
        chart({ width: width ?? NaN, height, color, series: [{ name, points }, { name: other, points }] }))
      tried("watch", width, () => {
        const watched = WatchView.watched()
        watched.probed({ arm: name, seed: 1, step: 3, steps: 9, losses: { [other]: number } }, 0)
        return watched.picture({ width: width ?? NaN, height }, color)
      })
      tried("report", undefined, () =>
        toTerminal(view({ ...report, adapter: name }), { color, ...(width === undefined ? {} : { width }) }).split(
          "\n"
        ), false)
      tried("progress", undefined, () => {
        const written: Array<string> = []
        const output = { isTTY: true, rows: height, ...(width === undefined ? {} : { columns: width }),
          write: (text: string) =>
            void written.push(text) }
        Effect.runSync(Effect.scoped(Effect.gen(function*() {
          const progress = yield* Progress.scoped({ output, env: { TERM: pick(random, ["xterm", "dumb"]) }, watch: true,
            verbose: true })
          for (const event of [...events, ...later]) {
            yield* progress.event({ _tag: "Training", arm: name, seed: 1, index: 0, count: 1, event })
            yield* progress.event({ _tag: "Probed", arm: name, seed: 1, step: event.step, steps: 20,
              losses: { [other]: number } })
            format(event)
          }
          yield* progress.log(name)
        })))
        // the codes by which lines are rewritten are its own
        return written.map((text) => text.replace(/\r|\u001b\[[AK]/g, ""))
      })
    }
    return found
  }
}

/** Broken lines between whole ones: every whole one is read, in order. */
const lines: Fuzzer = {
  name: "torn lines of metrics.jsonl",
  run: async (random, inputs) => {
    const found: Array<string> = []
    const root = mkdtempSync(join(tmpdir(), "memsinks-fuzz-"))
    const file = join(root, "metrics.jsonl")
    try {
      for (let i = 0; i < inputs; i++) {
        const whole: Array<string> = []
        let text = ""
        for (let k = below(random, 20); k > 0; k--) {
          const line = toJsonLine(pick(random, events))
          if (random() < 0.3) text += `${line.slice(0, below(random, line.length - 2))}\n`
          text += line
          whole.push(line)
        }
        writeFileSync(file, text)
        const read = readEvents(file).events.map(toJsonLine)
        if (read.join("") !== whole.join("")) {
          found.push(`${JSON.stringify(text)}: ${read.length} of ${whole.length} events`)
        }
      }
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
    return found
  }
}

export const fuzzers: ReadonlyArray<Fuzzer> = [folders, terminals, lines]
