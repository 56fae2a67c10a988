import { describe, expect, it } from "vitest"
import { hasColor, stripAnsi } from "../../src/Terminal.ts"
import { chart, type ChartOptions, figure, logTicks, palette, ticks } from "../../src/terminal/TerminalChart.ts"

const line = (ys: ReadonlyArray<number>, name = "loss") => ({ name, points: ys.map((y, x) => ({ x, y })) })

/** Dots of a picture's plot, from its axis on: `[column, row]`, from the top left. */
const dotsOf = (lines: ReadonlyArray<string>): ReadonlyArray<readonly [number, number]> => {
  const bits = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]]
  return lines.map(stripAnsi).filter((row) => /[│┤]/.test(row)).flatMap((row, r) =>
    Array.from(row.slice(row.search(/[│┤]/) + 1)).flatMap((character, c) => {
      const code = character.charCodeAt(0) - 0x2800
      return code < 0 || code > 255 ?
        [] :
        bits.flatMap((column, dx) =>
          column.flatMap((bit, dy) => (code & bit) === 0 ? [] : [[2 * c + dx, 4 * r + dy] as const])
        )
    })
  )
}

/** A generator that says the same in every run of a test: mulberry32. */
const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

describe("a chart", () => {
  it("is a line through the points, between axes, above a legend", () => {
    expect(chart({ width: 24, height: 7, series: [line([0, 1, 2, 3, 4])], color: true }).map(stripAnsi)).toEqual([
      "4 ┤                ⢀⡠⠤⠒⠉",
      "  │           ⢀⡠⠤⠒⠉⠁",
      "2 ┤    ⢀⣀⠤⠤⠒⠒⠉⠁",
      "0 ┤⣀⠤⠒⠊⠁",
      "  └┬─────────┬─────────┬",
      "   0         2         4",
      "⠒⠒ loss 4.00"
    ])
  })

  it("goes through every dot between two points, wherever they lie", () => {
    const next = random(7)
    for (let n = 0; n < 50; n++) {
      const [width, height] = [20 + Math.floor(60 * next()), 7 + Math.floor(15 * next())]
      const ys = Array.from({ length: 2 + Math.floor(9 * next()) }, () => 10 ** (4 * next() - 2))
      const dots = dotsOf(chart({ width, height, series: [line(ys)], color: true }))
      const columns = new Map<number, Array<number>>()
      for (const [x, y] of dots) columns.set(x, [...(columns.get(x) ?? []), y].sort((a, b) => a - b))
      const xs = [...columns.keys()].sort((a, b) => a - b)
      expect(xs).toEqual(Array.from({ length: xs.length }, (_, x) => x))
      for (const x of xs) {
        const rows = columns.get(x)!
        // no gap within a column, and it touches the next one
        expect(rows.at(-1)! - rows[0]!).toBe(rows.length - 1)
        const after = columns.get(x + 1)
        if (after !== undefined) expect(after[0]! - rows.at(-1)! <= 1 && rows[0]! - after.at(-1)! <= 1).toBe(true)
      }
      // both ends of the y axis are reached
      expect(Math.min(...dots.map(([, y]) => y))).toBe(0)
      expect((Math.max(...dots.map(([, y]) => y)) + 1) % 4).toBe(0)
    }
  })

  it("leaves a gap where a value is missing", () => {
    expect(chart({ width: 24, height: 6, series: [line([1, 1, NaN, 1, 2])], color: true }).map(stripAnsi)).toEqual([
      "2.0 ┤                 ⢠⠊",
      "1.5 ┤               ⢀⠔⠁",
      "1.0 ┤⣀⣀⣀⣀⣀         ⡠⠃",
      "    └┬────────┬────────┬",
      "     0        2        4",
      "⠒⠒ loss 2.00"
    ])
    // infinite ones too, and the legend says so
    const infinite = chart({ width: 24, height: 6, series: [line([1, 1, 2, Infinity])], color: true }).map(stripAnsi)
    expect(infinite.at(-1)).toBe("⠒⠒ loss Infinity")
    expect(infinite[0]).toMatch(/^2\.0 ┤ .*[⠀-⣿]/)
  })

  it("shows a single point, and one between two gaps", () => {
    const single = chart({ width: 20, height: 8, series: [line([3])], color: true })
    expect(dotsOf(single)).toHaveLength(4)
    const between = dotsOf(chart({ width: 42, height: 8, series: [line([3, NaN, 2, NaN, 1])], color: true }))
    expect(between).toHaveLength(12)
    expect(chart({ width: 20, height: 8, series: [line([3])] }).join("\n")).toMatch(/┤ +a\n/)
  })

  it("tells series apart by color, the first above the others, and dims the faint ones", () => {
    const series = [line([1, 1, 1], "above"), line([1, 1, 1], "below"), { ...line([2, 2, 2], "other"), faint: true }]
    const [top, ...rest] = chart({ width: 30, height: 7, series, color: true })
    expect(palette.slice(0, 3)).toEqual(["cyan", "magenta", "yellow"])
    expect(top).toContain("\u001b[2m\u001b[33m⠉⠉⠉")
    expect(rest[1]).toContain("\u001b[36m⣀⣀⣀")
    expect(rest.slice(0, 2).join("")).not.toContain("\u001b[35m")
    expect(rest.at(-2)).toBe("\u001b[36m⠒⠒ above 1.00\u001b[39m  \u001b[35m⠒⠒ below 1.00\u001b[39m")
    expect(rest.at(-1)).toBe("\u001b[2m\u001b[33m⠒⠒ other 2.00\u001b[39m\u001b[22m")
    const styled = chart({ width: 30, height: 7, series: [{ ...line([1, 2]), style: "red" }], color: true })
    expect(styled.at(-1)).toBe("\u001b[31m⠒⠒ loss 2.00\u001b[39m")
  })

  it("tells series apart by letters where there is no color", () => {
    const color = hasColor({ isTTY: true, write: () => {} }, { NO_COLOR: "1" })
    const lines = chart({ width: 44, height: 9, series: [line([5, 4, 3], "own"), line([1, 2, 2], "off")], color })
    expect(lines.join("")).not.toContain("\u001b")
    expect(lines.at(-1)).toBe("a own 3.00  b off 2.00")
    const plot = lines.slice(0, -3).join("\n")
    // at the end of each line and on the way
    expect(plot.match(/a/g)!.length).toBeGreaterThan(2)
    expect(plot.match(/b/g)!.length).toBeGreaterThan(2)
    expect(plot).toMatch(/a(\n|$)/)
    expect(plot).toMatch(/b(\n|$)/)
    // and where there are more series than colors
    const many = palette.concat("bold").map((name, i) => line([i, i], name))
    expect(chart({ width: 60, height: 16, series: many, color: true }).map(stripAnsi).join("\n")).toContain(
      "g bold 6.00"
    )
  })

  it("is never wider or taller than asked, whatever it shows", () => {
    const next = random(1)
    const any = (): number => {
      const kind = next()
      if (kind < 0.1) return NaN
      if (kind < 0.13) return next() < 0.5 ? Infinity : -Infinity
      if (kind < 0.2) return 0
      return (next() - 0.3) * 10 ** Math.floor(24 * next() - 12)
    }
    for (let n = 0; n < 500; n++) {
      const options: ChartOptions = {
        width: Math.floor(100 * next()),
        height: Math.floor(30 * next()),
        series: Array.from({ length: Math.floor(9 * next()) }, (_, i) => ({
          name: "n".repeat(Math.floor(40 * next())) + i,
          points: Array.from({ length: Math.floor(12 * next()) }, () => ({ x: any(), y: any() })),
          faint: next() < 0.5
        })),
        logX: next() < 0.5,
        logY: next() < 0.5,
        color: next() < 0.5,
        ...next() < 0.5 ? { yLabel: "loss, nats a token" } : {}
      }
      const lines = chart(options)
      expect(lines.length).toBeLessThanOrEqual(options.height)
      for (const row of lines) {
        if (stripAnsi(row).length > options.width || row.includes("\n")) {
          expect.fail(`${row}\n${JSON.stringify(options)}`)
        }
      }
    }
  })

  it("keeps its legend where there is no room to draw, and says how many entries did not fit", () => {
    const series = ["one", "two", "three", "four"].map((name) => line([1, 2], name))
    expect(chart({ width: 26, height: 3, series })).toEqual(["a one 2.00  b two 2.00  +2"])
    expect(chart({ width: 24, height: 3, series })).toEqual(["a one 2.00  +3"])
    expect(chart({ width: 9, height: 3, series: series.slice(0, 1) })).toEqual(["a one 2.00".slice(0, 6) + "..."])
    expect(chart({ width: 26, height: 30, series }).slice(-2)).toEqual([
      "a one 2.00  b two 2.00",
      "c three 2.00  d four 2.00"
    ])
    expect(chart({ width: 0, height: 9, series })).toEqual([])
    expect(chart({ width: 9, height: 0, series })).toEqual([])
  })

  it("cuts a long name, not its value", () => {
    const long = chart({ width: 24, height: 9, series: [line([1, 2], "n".repeat(40))] }).at(-1)
    expect(long).toBe(`a ${"n".repeat(13)}... 2.00`)
  })

  it("never shows escapes that a name brings along", () => {
    const text = chart({ width: 60, height: 9, series: [line([1, 2], "a\u001b[31mb\nc")] }).at(-1)
    expect(text).toBe("a ab c 2.00")
  })

  it("names the y axis and draws one without any value", () => {
    const lines = chart({ width: 30, height: 9, series: [{ name: "none", points: [] }], yLabel: "loss, nats" })
    expect(lines[0]).toBe("loss, nats")
    expect(lines.at(-1)).toBe("a none -")
    expect(dotsOf(lines)).toEqual([])
  })
})

describe("logarithmic axes", () => {
  it("show x = 0, and as much room between powers of ten", () => {
    const points = [0, 1, 10, 100, 1000].map((x) => ({ x, y: Math.log1p(x) }))
    const lines = chart({ width: 40, height: 11, series: [{ name: "log", points }], logX: true, color: true })
    // y = log(1 + x) is a straight line on it
    const dots = dotsOf(lines)
    const [columns, rows] = [Math.max(...dots.map(([x]) => x)), Math.max(...dots.map(([, y]) => y))]
    for (const [x, y] of dots) expect(Math.abs(x / columns - (1 - y / rows))).toBeLessThan(1.5 / rows)
    expect(lines.at(-2)).toMatch(/^ +0 +1 +10 +100 +1000$/)
  })

  it("of y leave out what is not above 0", () => {
    const points = [1, 0, -1, 10, 100].map((y, x) => ({ x, y }))
    const lines = chart({ width: 30, height: 12, series: [{ name: "log", points }], logY: true, color: true })
    expect(lines.filter((row) => row.includes("┤")).map((row) => row.split("┤")[0]!.trim())).toEqual(["100", "10", "1"])
    expect(stripAnsi(lines[0]!).at(-1)).not.toBe(" ")
    // a point alone at the lower left, and a line from the middle to the upper right
    const dots = dotsOf(lines)
    expect(dots.filter(([x]) => x < 10)).toHaveLength(4)
    expect(dots.filter(([x]) => x > 10 && x < 35)).toEqual([])
  })
})

describe("ticks", () => {
  it("are three to five round numbers in any range", () => {
    expect(ticks(0, 352, 5)).toEqual([0, 100, 200, 300])
    expect(ticks(-0.3, 0.2, 5)).toEqual([-0.3, -0.2, -0.1, 0, 0.1, 0.2].filter((_, i) => i % 2 === 1))
    expect(ticks(1, 12, 5)).toEqual([4, 8, 12])
    expect(ticks(0, 2, 5, true)).toEqual([0, 1, 2])
    expect(ticks(0, 1, 5, true)).toEqual([0, 1])
    const next = random(3)
    for (let n = 0; n < 2000; n++) {
      const low = (next() - 0.5) * 10 ** (12 * next() - 6)
      const high = low + 10 ** (12 * next() - 6) * (1 + Math.abs(low) * 1e-3)
      const found = ticks(low, high, 5)
      expect(found.length, `${low} ${high}`).toBeGreaterThanOrEqual(3)
      expect(found.length).toBeLessThanOrEqual(5)
      const slack = 1e-6 * (high - low)
      expect(found.every((tick) => tick >= low - slack && tick <= high + slack)).toBe(true)
    }
  })

  it("of logarithms are powers of ten, or finer where the range is narrow", () => {
    expect(logTicks(0, 352, 5, true)).toEqual([0, 1, 10, 100])
    expect(logTicks(0, 1e6, 5, true)).toEqual([0, 1, 100, 10_000, 1e6])
    expect(logTicks(1e-6, 1e6, 5, false)).toEqual([1e-6, 1e-3, 1, 1000, 1e6])
    expect(logTicks(0.5, 3, 5, false)).toEqual([0.5, 1, 2])
    expect(logTicks(2, 2.6, 5, false)).toEqual([2, 2.2, 2.4, 2.6])
    expect(logTicks(Math.exp(Math.log(0.1)), 1000, 5, false)).toEqual([0.1, 1, 10, 100, 1000])
  })
})

describe("figures", () => {
  it("have three digits", () => {
    expect([2.305, 0.01204, 12.34, 99.97, 351.6, 12345, 123456, 0.00012, 0, -1.5, NaN].map(figure)).toEqual([
      "2.31",
      "0.0120",
      "12.3",
      "100",
      "352",
      "12345",
      "1.2e+5",
      "1.2e-4",
      "0",
      "-1.50",
      "NaN"
    ])
  })
})
