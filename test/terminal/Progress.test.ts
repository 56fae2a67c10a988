import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { describe, expect, it } from "vitest"
import { hasColor, painter, stripAnsi, truncate, wrap } from "../../src/Terminal.ts"
import * as Progress from "../../src/terminal/Progress.ts"
import { Finished, Saved, Started, Stepped, type TrainEvent } from "../../src/train/TrainEvent.ts"

/** An output that remembers, and a clock that is set by hand. */
const setup = (terminal: { readonly isTTY?: boolean; readonly columns?: number }, env = {}, quiet = false) => {
  const written: Array<string> = []
  let time = 0
  return {
    written,
    at: (milliseconds: number) => Effect.sync(() => void (time = milliseconds)),
    options: { output: { ...terminal, write: (text: string) => written.push(text) }, env, quiet, now: () => time }
  }
}

const started = new Started({
  step: 0,
  steps: 100,
  parameters: 1000,
  activeParameters: 900,
  tokensPerStep: 64,
  adapter: "some adapter"
})
const stepped = (step: number) =>
  new Stepped({
    step,
    steps: 100,
    loss: 2.5,
    gradNorm: 1,
    learningRate: 1e-3,
    tokens: step * 64,
    tokensPerSecond: 4321.4
  })
const training = (event: TrainEvent, index = 0) =>
  ({ _tag: "Training", arm: "sinks", seed: 3, index, count: 2, event }) as const

describe("progress without a terminal", () => {
  it("prints every stage at once, and a line of training at most every two seconds", async () => {
    const { at, options, written } = setup({})
    await Effect.gen(function*() {
      const progress = yield* Progress.scoped(options)
      yield* progress.event({ _tag: "Stage", message: "reading data" })
      expect(written).toEqual(["reading data\n"])
      yield* progress.event(training(started))
      for (let step = 1; step <= 50; step++) {
        yield* at(step * 100)
        yield* progress.event(training(stepped(step)))
      }
      yield* progress.event({ _tag: "Stage", message: "measuring" })
    }).pipe(Effect.scoped, Effect.runPromise)
    const text = written.join("")
    expect(text).not.toContain("\u001b")
    expect(text).not.toContain("\r")
    expect(written.filter((line) => line.includes("step ")).map((line) => /step (\d+)/.exec(line)![1])).toEqual([
      "1",
      "21",
      "41"
    ])
    expect(written.at(-1)).toBe("measuring\n")
    expect(text).toContain("sinks 1/2 (seed 3): training 1,000 parameters")
  })

  it("tells arm, step, loss, speed, and the time left over all trainings", async () => {
    const { at, options, written } = setup({})
    await Effect.gen(function*() {
      const progress = yield* Progress.scoped(options)
      yield* at(1000)
      yield* progress.event(training(started))
      // half of the first of two trainings: a quarter in 30 s, three quarters are left
      yield* at(31_000)
      yield* progress.event(training(stepped(50)))
      // that the second training starts must not start the clock anew
      yield* at(91_000)
      yield* progress.event(training(started, 1))
      yield* at(151_000)
      yield* progress.event(training(stepped(50), 1))
      yield* progress.event(training(new Finished({ step: 100, seconds: 60, tokensPerSecond: 100 })))
      yield* progress.event(training(new Saved({ step: 100, path: "a/b" })))
    }).pipe(Effect.scoped, Effect.runPromise)
    expect(written.filter((line) => !line.includes("parameters"))).toEqual([
      " 25 %  sinks 1/2  step 50/100  loss 2.500  4,321 tokens/s  1:30 left\n",
      " 75 %  sinks 2/2  step 50/100  loss 2.500  4,321 tokens/s  0:50 left\n",
      "sinks 1/2 (seed 3): finished 100 steps in 60.0 s, 100 tokens/s\n"
    ])
  })

  it("does not count what an earlier process trained into the time left", async () => {
    const { at, options, written } = setup({})
    await Effect.gen(function*() {
      const progress = yield* Progress.scoped(options)
      yield* progress.event(training(new Started({ ...started, step: 50 }), 1))
      yield* at(10_000)
      yield* progress.event(training(stepped(75), 1))
    }).pipe(Effect.scoped, Effect.runPromise)
    expect(written.at(-1)).toContain(" 87 % ")
    expect(written.at(-1)).toContain("  0:10 left")
  })

  it("shows only what must be told when quiet", async () => {
    const { options, written } = setup({ isTTY: true, columns: 80 }, {}, true)
    await Effect.gen(function*() {
      const progress = yield* Progress.scoped(options)
      yield* progress.event({ _tag: "Stage", message: "reading data" })
      yield* progress.event(training(started))
      yield* progress.event(training(stepped(50)))
      yield* progress.log("warning: something")
    }).pipe(Effect.scoped, Effect.runPromise)
    expect(written).toEqual(["warning: something\n"])
  })

  it("writes plain lines to the terminal of a CI job and to a dumb one", async () => {
    for (const env of [{ CI: "true" }, { TERM: "dumb" }]) {
      const { options, written } = setup({ isTTY: true, columns: 80 }, env)
      await Effect.flatMap(Progress.scoped(options), (progress) => progress.event(training(stepped(50)))).pipe(
        Effect.scoped,
        Effect.runPromise
      )
      expect(written).toHaveLength(1)
      expect(written[0]).toMatch(/^ 25 % .*\n$/)
    }
  })
})

describe("progress on a terminal", () => {
  it("rewrites one line that is never wider than the terminal", async () => {
    for (const columns of [20, 60, 80, 200]) {
      const { at, options, written } = setup({ isTTY: true, columns })
      await Effect.gen(function*() {
        const progress = yield* Progress.scoped(options)
        for (const step of [1, 50, 100]) {
          yield* at(step * 1000)
          yield* progress.event(training(stepped(step), 1))
        }
      }).pipe(Effect.scoped, Effect.runPromise)
      const text = written.join("")
      expect(text).not.toContain("\n")
      const lines = text.split("\r\u001b[K")
      // three drawings, and what is left when the scope has closed: nothing
      expect(lines).toHaveLength(4)
      expect(lines[3]).toBe("")
      for (const line of lines) expect(line.length).toBeLessThan(columns)
      expect(lines[2]!.includes("[====")).toBe(columns >= 80)
    }
  })

  it("leaves stages and log lines above the rewritten line", async () => {
    const { options, written } = setup({ isTTY: true, columns: 100 })
    await Effect.gen(function*() {
      const progress = yield* Progress.scoped(options)
      yield* progress.event(training(stepped(50)))
      yield* progress.event({ _tag: "Stage", message: "measuring" })
    }).pipe(Effect.scoped, Effect.runPromise)
    expect(written.slice(1)).toEqual(["\r\u001b[K", "measuring\n"])
  })

  it("takes its line away when the run is interrupted", async () => {
    const { options, written } = setup({ isTTY: true, columns: 100 })
    const exit = await Effect.gen(function*() {
      const fiber = yield* Effect.fork(Effect.scoped(Effect.gen(function*() {
        const progress = yield* Progress.scoped(options)
        yield* progress.event(training(stepped(50)))
        yield* Effect.never
      })))
      yield* Effect.sleep(10)
      return yield* Fiber.interrupt(fiber)
    }).pipe(Effect.runPromise)
    expect(Exit.isInterrupted(exit)).toBe(true)
    expect(written).toHaveLength(2)
    expect(written[1]).toBe("\r\u001b[K")
  })
})

describe("durations", () => {
  it("are told as on a clock", () => {
    expect([0.4, 59.6, 80, 3600, 7500].map(Progress.clock)).toEqual(["0:00", "1:00", "1:20", "1:00:00", "2:05:00"])
  })
})

describe("terminals", () => {
  it("are coloured unless NO_COLOR says no, pipes are not unless FORCE_COLOR says so", () => {
    const terminal = { isTTY: true, write: () => {} }
    const pipe = { write: () => {} }
    expect(hasColor(terminal, {})).toBe(true)
    expect(hasColor(terminal, { NO_COLOR: "1" })).toBe(false)
    expect(hasColor(terminal, { NO_COLOR: "" })).toBe(true)
    expect(hasColor(terminal, { TERM: "dumb" })).toBe(false)
    expect(hasColor(pipe, {})).toBe(false)
    expect(hasColor(pipe, { FORCE_COLOR: "1", NO_COLOR: "1" })).toBe(true)
    expect(hasColor(terminal, { FORCE_COLOR: "0" })).toBe(false)
  })

  it("get text wrapped at spaces, styles kept, words that are too long cut", () => {
    const spans = [["one two\nthree", "dim"], [" fourfourfour", "bold"]] as const
    expect(wrap(spans, 8, painter(false))).toEqual(["one two", "three", "fourfour", "four"])
    const colored = wrap(spans, 8, painter(true))
    expect(colored[0]).toBe("\u001b[2mone two\u001b[22m")
    expect(colored.map(stripAnsi)).toEqual(wrap(spans, 8, painter(false)))
  })

  it("never get escapes that a text brings along", () => {
    expect(wrap([["a\u001b[31mb"]], 80, painter(true))).toEqual(["a [31mb"])
  })

  it("get text cut to their width", () => {
    expect(truncate("abcdefgh", 8)).toBe("abcdefgh")
    expect(truncate("abcdefghi", 8)).toBe("abcde...")
    expect(truncate("abcdefghi", 2)).toBe("..")
  })
})
