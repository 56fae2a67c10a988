import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { stripAnsi } from "../../src/Terminal.ts"
import * as Progress from "../../src/terminal/Progress.ts"
import * as WatchView from "../../src/terminal/WatchView.ts"
import { Finished, type Started, Stepped } from "../../src/train/TrainEvent.ts"

interface Row {
  text: string
  /** Goes on in the next row. */
  wrapped: boolean
}

/**
 * As much of a terminal as is written to: it wraps, scrolls, moves up no farther than its first row, wraps anew when it is
 * resized, and knows no other escapes than those that it is told to expect.
 */
const terminal = (columns: number, rows: number) => {
  let lines: Array<Row> = [{ text: "", wrapped: false }]
  let [row, column, top] = [0, 0, 0]
  const writes: Array<string> = []
  const down = () => {
    row++
    column = 0
    if (row === lines.length) lines.push({ text: "", wrapped: false })
    top = Math.max(top, row - output.rows + 1)
  }
  const output = {
    isTTY: true,
    columns,
    rows,
    write: (text: string) => {
      writes.push(text)
      for (let i = 0; i < text.length;) {
        const escape = /^\u001b\[(\d*)([AKm])|^\u001b\[\d+;\d+m/.exec(text.slice(i, i + 16))
        if (escape !== null) {
          i += escape[0].length
          const line = lines[row]!
          if (escape[2] === "A") row = Math.max(top, row - Number(escape[1] || 1))
          if (escape[2] === "K") {
            line.text = line.text.slice(0, column)
            line.wrapped = false
          }
          continue
        }
        const character = text[i++]!
        if (character === "\r") column = 0
        else if (character === "\n") down()
        else {
          if (character < " ") throw new Error(`unexpected ${JSON.stringify(text.slice(i - 1, i + 9))}`)
          if (column === output.columns) {
            lines[row]!.wrapped = true
            down()
          }
          const { text: old } = lines[row]!
          lines[row]!.text = old.slice(0, column).padEnd(column) + character + old.slice(column + 1)
          column++
        }
      }
    }
  }
  /** What was written between two line ends, however it is wrapped. */
  const whole = () => {
    const all: Array<string> = [""]
    for (const { text, wrapped } of lines) {
      all[all.length - 1] += text
      if (!wrapped) all.push("")
    }
    while (all.length > 1 && all.at(-1) === "") all.pop()
    return all
  }
  return {
    output,
    writes,
    whole,
    /** Rows that are seen. */
    screen: () => lines.slice(top, top + output.rows).map(({ text }) => text).join("\n").trimEnd().split("\n"),
    resize: (columns: number, rows: number) => {
      const rewrap = columns !== output.columns
      Object.assign(output, { columns, rows })
      top = Math.max(top, row - rows + 1)
      if (!rewrap) return
      const before = lines.slice(0, row)
      const start = before.length - [...before].reverse().findIndex(({ wrapped }) => !wrapped)
      const first = before.every(({ wrapped }) => wrapped) ? 0 : start
      const logical = before.slice(0, first).filter(({ wrapped }) => !wrapped).length
      const offset = before.slice(first).reduce((sum, { text }) => sum + text.length, 0) + column
      const all = whole()
      while (all.length <= logical) all.push("")
      lines = []
      all.forEach((text, l) => {
        const parts = Array.from({ length: Math.max(1, Math.ceil(text.length / columns)) },
          (_, i) => text.slice(i * columns, (i + 1) * columns))
        if (l === logical) {
          const part = Math.min(parts.length - 1, Math.floor(offset / columns))
          row = lines.length + part
          column = offset - part * columns
        }
        parts.forEach((text, i) => lines.push({ text, wrapped: i + 1 < parts.length }))
      })
      top = Math.max(0, lines.length - rows)
    }
  }
}

/** Progress that is watched, and a clock that is set by hand. */
const watching = <A>(
  output: Progress.ProgressOptions["output"],
  use: (progress: {
    readonly event: (event: Progress.ProgressEvent) => void
    readonly log: (line: string) => void
    readonly clear: () => void
    readonly wait: (milliseconds: number) => void
  }) => A,
  options: Partial<Progress.ProgressOptions> = {}
): A => {
  let time = 0
  return Effect.map(
    Progress.scoped({ output, env: { NO_COLOR: "1" }, watch: true, now: () => time, ...options }),
    (progress) =>
      use({
        event: (event) => Effect.runSync(progress.event(event)),
        log: (line) => Effect.runSync(progress.log(line)),
        clear: () => Effect.runSync(progress.clear),
        wait: (milliseconds) => void (time += milliseconds)
      })
  ).pipe(Effect.scoped, Effect.runSync)
}

const probed = (step: number, losses: Readonly<Record<string, number>>, arm = "sinks", seed = 1, steps = 100) =>
  ({ _tag: "Probed", arm, seed, step, steps, losses }) as const
const training = (event: Started | Stepped | Finished, arm = "sinks", seed = 1) =>
  ({ _tag: "Training", arm, seed, index: 0, count: 1, event }) as const
const stepped = (step: number, arm = "sinks") =>
  training(
    new Stepped({ step, steps: 100, loss: 2.5, gradNorm: 1, learningRate: 1e-3, tokens: 64, tokensPerSecond: 4321 }),
    arm
  )
const finished = (arm = "sinks", seed = 1) =>
  training(new Finished({ step: 100, seconds: 1, tokensPerSecond: 64 }), arm, seed)

const isTitle = (line: string) => /  seed \d+  step \d+\/\d+  loss/.test(line)
const isBar = (line: string) => line.includes("loss 2.500") || line.includes("[=") || line.includes("[-")

describe("a run that is watched on a terminal", () => {
  it("is a title, curves and the rewritten line, in one place", () => {
    const it = terminal(60, 16)
    watching(it.output, ({ event, wait }) => {
      for (let step = 0; step <= 40; step += 8) {
        event(probed(step, { "sawtooth.own": 4 - step / 20, "k=48.own": 3 }))
        wait(300)
        event(stepped(step))
        wait(300)
      }
      const screen = it.screen()
      expect(screen).toHaveLength(12)
      expect(screen[0]).toBe("sinks  seed 1  step 40/100  loss, nats a token")
      expect(screen[1]).toMatch(/^4\.0 ┤[⠀-⣿]/)
      expect(screen.at(-2)).toBe("a sawtooth.own 2.00  b k=48.own 3.00")
      expect(screen.at(-1)).toMatch(/40 %  sinks 1\/1  step 40\/100  loss 2.500/)
    })
    // the last picture stays, the line goes
    expect(it.screen()).toHaveLength(11)
    expect(it.whole().at(-1)).toBe("a sawtooth.own 2.00  b k=48.own 3.00")
    expect(it.writes.at(-1)).toBe("\n")
  })

  it("is drawn four times a second at most, but at last as it ended", () => {
    const it = terminal(80, 24)
    const titles = () => it.writes.filter((text) => isTitle(text)).length
    watching(it.output, ({ event, wait }) => {
      for (let step = 0; step < 50; step++) {
        event(probed(step, { a: step }))
        event(stepped(step))
        wait(50)
      }
      expect(titles()).toBe(10)
      expect(it.screen()[0]).toContain("step 45/100")
    })
    expect(titles()).toBe(11)
    expect(it.screen()[0]).toContain("step 49/100")
    expect(it.screen().at(-1)).toBe("a a 49.0")
  })

  it("is drawn at once when its last step was probed", () => {
    const it = terminal(80, 24)
    watching(it.output, ({ event }) => {
      event(probed(99, { a: 1 }))
      event(probed(100, { a: 2 }))
      expect(it.screen()[0]).toContain("step 100/100")
    })
  })

  it("leaves what else is said above, in order, whatever happens to the size of the terminal", () => {
    let seed = 5
    const next = (below: number) => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
      return Math.floor(seed / 2 ** 32 * below)
    }
    for (let round = 0; round < 20; round++) {
      // high enough for a block that is wrapped: what scrolled out of a terminal cannot be taken away
      const it = terminal(40 + next(80), 90 + next(20))
      const said: Array<string> = []
      let step = 0
      watching(it.output, ({ clear, event, log, wait }) => {
        const check = () => {
          const all = it.whole()
          expect(all.slice(0, said.length)).toEqual(said)
          const block = all.slice(said.length)
          expect(block.length).toBeLessThanOrEqual(it.output.rows - 4)
          expect(block.filter(isTitle).length).toBeLessThanOrEqual(1)
          if (step > 0) expect(block[0]).toMatch(/^sinks/)
          expect(block.slice(0, -1).filter(isBar)).toEqual([])
        }
        for (let n = 0; n < 60; n++) {
          wait(next(400))
          const kind = next(10)
          if (kind < 3) {
            event(probed(++step, { "sawtooth.own": next(5), "k=48.off": 2 + next(100) / 50, "foils.own": 3 }))
          } else if (kind < 6) event(stepped(step))
          else if (kind === 6) {
            const line = `line ${n} ${"x".repeat(next(2 * it.output.columns))}`
            said.push(line)
            if (next(2) === 0) log(line)
            else event({ _tag: "Stage", message: line })
          } else if (kind < 9) {
            it.resize(40 + next(80), 90 + next(20))
            // a terminal that got smaller is drawn anew by what comes next
            event(stepped(step))
            wait(100)
            event(stepped(step))
          }
          if (step > 0 || kind === 6) check()
        }
        event(probed(step + 1, { "sawtooth.own": 1 }))
        clear()
        step = 0
        said.push(...it.whole().slice(said.length))
        expect(said.filter(isTitle)).toHaveLength(1)
        expect(said.filter(isBar)).toEqual([])
        log("after")
        said.push("after")
        check()
      })
      expect(it.whole()).toEqual(said)
    }
  })

  it("takes its line away when something else is said, until the next step", () => {
    const it = terminal(80, 24)
    watching(it.output, ({ event, wait }) => {
      event(probed(1, { a: 1 }))
      event(stepped(1))
      event({ _tag: "Stage", message: "measuring" })
      expect(it.screen()[0]).toBe("measuring")
      expect(it.screen().filter(isTitle)).toHaveLength(1)
      expect(it.screen().filter(isBar)).toEqual([])
      wait(100)
      event(stepped(2))
      expect(isBar(it.screen().at(-1)!)).toBe(true)
    })
  })

  it("fits a terminal that became lower, and one that has hardly any rows", () => {
    const it = terminal(70, 30)
    watching(it.output, ({ event, wait }) => {
      event(probed(1, { a: 1, b: 2 }))
      event(stepped(1))
      for (const rows of [20, 12, 8, 6, 5, 4, 3, 30]) {
        it.resize(70, rows)
        wait(300)
        event(stepped(2))
        wait(300)
        event(probed(2, { a: 1, b: 2 }))
        const screen = it.screen()
        expect(screen.length).toBeLessThanOrEqual(Math.max(1, rows - 4))
        expect(screen.filter(isTitle)).toHaveLength(rows > 5 ? 1 : 0)
        expect(isBar(screen.at(-1)!)).toBe(true)
      }
    })
  })

  it("has curves of six groups and mask states, in the order of the first event", () => {
    const it = terminal(100, 30)
    const names = ["sawtooth.own", "sawtooth.off", "k=48.own", "k=48.off", "k=6.own", "k=6.off", "foils.own"]
    watching(it.output, ({ event, wait }) => {
      event(probed(1, { [names[0]!]: 1 }))
      wait(300)
      event(probed(2, Object.fromEntries([...names].reverse().map((name) => [name, 2]))))
    })
    expect(it.whole().slice(-2).join("  ")).toBe(
      "a sawtooth.own 2.00  b foils.own 2.00  c k=6.off 2.00  d k=6.own 2.00  e k=48.off 2.00  f k=48.own 2.00"
    )
  })

  it("compares with the same curves of the arms before, dimmed, in the same color", () => {
    const it = terminal(100, 30)
    watching(it.output, ({ event, wait }) => {
      for (const [arm, loss] of [["standard", 3], ["dropout", 4], ["sinks", 2]] as const) {
        for (const step of [50, 100]) {
          event(probed(step, { "sawtooth.own": loss, "k=48.own": loss + 1, [`only.${arm}`]: 9 }, arm))
          wait(300)
        }
        event(finished(arm))
      }
    }, { env: {} })
    const colored = it.writes.filter((text) => text.includes("sinks  seed 1")).at(-1)!
    expect(stripAnsi(colored).split("\n").slice(-3).join("  ").replace(/⠒⠒ /g, "")).toContain(
      "sawtooth.own 2.00  k=48.own 3.00  only.sinks 9.00  " +
        "dropout sawtooth.own 4.00  standard sawtooth.own 3.00  dropout k=48.own 5.00"
    )
    expect(colored).toContain("\u001b[36m⠒⠒ sawtooth.own 2.00\u001b[39m")
    expect(colored).toContain("\u001b[2m\u001b[36m⠒⠒ dropout sawtooth.own 4.00\u001b[39m\u001b[22m")
    expect(it.whole().filter(isTitle)).toEqual(["sinks  seed 1  step 100/100  loss, nats a token"])
  })

  it("shows one run until it finished, or nothing is heard of it any more", () => {
    const it = terminal(100, 30)
    watching(it.output, ({ event, wait }) => {
      event(probed(1, { a: 1 }, "one"))
      wait(300)
      event(probed(1, { a: 1 }, "two"))
      expect(it.screen()[0]).toContain("one  seed 1  step 1/100")
      event(finished("one"))
      wait(300)
      event(probed(2, { a: 1 }, "two"))
      expect(it.whole().filter(isTitle)).toEqual(["two  seed 1  step 2/100  loss, nats a token"])
      // another seed is another run
      wait(9000)
      event(stepped(3, "two"))
      wait(9000)
      event(probed(3, { a: 1 }, "two", 2))
      expect(it.whole().filter(isTitle)[0]).toContain("two  seed 1")
      wait(1000)
      event(probed(4, { a: 1 }, "two", 2))
      expect(it.whole().filter(isTitle)).toEqual(["two  seed 2  step 4/100  loss, nats a token"])
    })
  })

  it("leaves its cursor as it was, and shows nothing when quiet, or when nobody watches", () => {
    for (const options of [{ quiet: true }, { watch: false }]) {
      const it = terminal(80, 24)
      watching(it.output, ({ event, log }) => {
        event(probed(1, { a: 1 }))
        log("told")
      }, options)
      expect(it.writes).toEqual(["told\n"])
    }
    const it = terminal(80, 24)
    watching(it.output, ({ event }) => event(probed(1, { a: 1 })))
    expect(it.writes.join("")).not.toContain("\u001b[?")
  })
})

describe("a run that is watched without a terminal", () => {
  it("is a line every ten seconds, and one at its end", () => {
    const written: Array<string> = []
    watching({ write: (text) => written.push(text) }, ({ event, wait }) => {
      for (let step = 4; step <= 100; step += 4) {
        event(
          probed(step, step % 8 === 0 ? { "sawtooth.own": 3 - step / 50 } : { "sawtooth.own": 1, "k=48.own": 1.02 })
        )
        wait(1000)
      }
      event(finished())
    })
    expect(written).toEqual([
      "sinks seed 1 step 4/100: sawtooth.own 1.00  k=48.own 1.02\n",
      "sinks seed 1 step 44/100: sawtooth.own 1.00  k=48.own 1.02\n",
      "sinks seed 1 step 84/100: sawtooth.own 1.00  k=48.own 1.02\n",
      "sinks seed 1 step 100/100: sawtooth.own 1.00  k=48.own 1.02\n",
      "sinks 1/1 (seed 1): finished 100 steps in 1.0 s, 64 tokens/s\n"
    ])
  })

  it("is told at its last step even if nothing else follows", () => {
    const written: Array<string> = []
    watching({ write: (text) => written.push(text) }, ({ event }) => {
      for (const step of [98, 99, 100]) event(probed(step, { a: step / 10 }))
    })
    expect(written).toEqual(["sinks seed 1 step 98/100: a 9.80\n", "sinks seed 1 step 100/100: a 10.0\n"])
  })

  it("tells its last losses though its last step was not probed, and those of each run", () => {
    const written: Array<string> = []
    watching({ isTTY: true, columns: 80, write: (text) => written.push(text) }, ({ event, wait }) => {
      event(probed(1, { a: 1 }, "one"))
      wait(100)
      event(probed(90, { a: 0.5 }, "one"))
      event(probed(10, { a: 2 }, "two"))
      event(finished("one"))
      event(finished("three"))
    }, { env: { CI: "true" } })
    expect(written.filter((line) => line.includes(": a"))).toEqual([
      "one seed 1 step 1/100: a 1.00\n",
      "one seed 1 step 90/100: a 0.500\n"
    ])
    expect(written.join("")).not.toContain("\u001b")
  })
})

describe("curves", () => {
  it("of another arm are those of its seed that was heard of last", () => {
    const watched = WatchView.watched()
    watched.probed(probed(1, { a: 9 }), 0)
    for (const [seed, step] of [[1, 1], [2, 1], [1, 2]]) {
      watched.probed(probed(step!, { a: 10 * seed! + step! }, "other", seed), 0)
    }
    expect(watched.picture({ width: 60, height: 20 }, false).at(-1)).toBe("a a 9.00  b other a 12.0")
  })

  it("start anew where a resumed run does", () => {
    const watched = WatchView.watched()
    for (const [step, loss] of [[1, 5], [2, 4], [3, 3], [2, 3.5], [3, 2]] as const) {
      watched.probed(probed(step, { a: loss }), 0)
    }
    expect(watched.probed(probed(4, { b: 1 }), 0).curves).toEqual(
      new Map([["a", [{ x: 1, y: 5 }, { x: 2, y: 3.5 }, { x: 3, y: 2 }]], ["b", [{ x: 4, y: 1 }]]])
    )
  })
})
