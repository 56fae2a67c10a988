/** The frame of studies, with one that takes no time. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { isAtLeast } from "../../pipelines/report/Claim.ts"
import { written } from "../../pipelines/report/Estimate.ts"
import { run, runAll, studies, StudiesReport, StudyReport, toJson } from "../../pipelines/study.ts"
import { partsOf, resultsOf, seedsOfStudy, study } from "../../pipelines/study/Study.ts"
import { configuration, fraction, withDefault } from "../../src/Config.ts"
import { DataError } from "../../src/Errors.ts"
import { DeviceError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import { random } from "../../src/Random.ts"
import { atOnce, inTurns } from "../../src/Turns.ts"
import { memsinksHere } from "../support/stdout.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-study-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

class CoinsConfig extends configuration(Schema.Class<CoinsConfig>("CoinsConfig")({
  ...seedsOfStudy,
  heads: withDefault(fraction, 0.9)
})) {}

/** How often each part was computed, and what fails. */
let computed: Array<string> = []
let broken = ""

const coins = study<CoinsConfig, { readonly share: number }>({
  name: "coins",
  title: "Whether coins fall on heads",
  paper: "Nobody (1900): Coins",
  question: "Do they?",
  finding: "most do",
  cost: "nothing",
  version: 1,
  onHost: true,
  schema: CoinsConfig,
  presets: { quick: new CoinsConfig({}), full: new CoinsConfig({ seeds: 5 }) },
  problem: ({ heads }) => heads === 0 ? "heads must be more than 0 for a share to be seen" : undefined,
  parts: () => ["silver", "gold"],
  work: ({ config, part, seed }) =>
    Effect.suspend(() => {
      computed.push(`${part} ${seed}`)
      if (broken === `${part} ${seed}`) return Effect.fail(new DataError({ detail: "the coin is lost" }))
      return inTurns((function*() {
        const draw = random(seed, part)
        let heads = 0
        for (let i = 0; i < 1000; i++) {
          if (draw.uniform() < config.heads) heads++
          yield
        }
        return { share: heads / 1000 }
      })())
    }),
  findings: (results, config) => {
    const share = results.over("gold", ({ share }) => share, { kind: "share" })
    return {
      claims: [{ about: "paper", claim: "Most coins fall on heads", result: isAtLeast(share, 0.5),
        evidence: written(share) }],
      numbers: { share },
      charts: [{
        title: "Shares",
        x: { title: "expected" },
        y: { title: "heads" },
        facets: [],
        lines: [{ label: "gold", of: {}, points: [{ x: config.heads, y: share.mean, low: NaN }] }],
        color: []
      }],
      tables: [{ head: ["", "heads"], rows: [["gold", written(share)]] }],
      limits: ["It says nothing of notes."]
    }
  }
})

const noDevice = Layer.fail(new DeviceError({ reason: "NoAdapter", detail: "there is none" })) as Layer.Layer<
  Device,
  DeviceError
>
const given = { device: noDevice }
const done = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext>) =>
  Effect.runPromise(Effect.either(Effect.provide(effect, NodeContext.layer)))

describe("a study", () => {
  it.each([[0.9, "held"], [0.1, "did not hold"], [0.5, "not decided"]])(
    "is decided by intervals: of a coin of %d it %s; no device is opened",
    async (heads, word) => {
      const found = await done(run(coins, new CoinsConfig({ heads }), given))
      expect(found).toMatchObject({ right: { word, study: "coins", adapter: "the host, in float64", failures: [] } })
    }
  )

  it("leaves its report, goes on with what is kept, and takes more seeds from a store", async () => {
    computed = []
    const [outDir, store] = [join(root, "one"), join(root, "store")]
    broken = "gold 2"
    const first = await done(run(coins, new CoinsConfig({}), { ...given, outDir, store }))
    expect(first).toMatchObject({ right: { failures: [{ arm: "gold", seed: 2, message: "the coin is lost" }] } })
    expect((first as any).right.numbers.share.values[1]).toBe(null)
    broken = ""
    const again = await done(run(coins, new CoinsConfig({}), { ...given, outDir, store, resume: true }))
    expect(again).toMatchObject({ right: { failures: [], word: "held" } })
    expect(computed).toEqual(["silver 1", "gold 1", "silver 2", "gold 2", "silver 3", "gold 3", "gold 2"])
    const text = readFileSync(join(outDir, "report.json"), "utf8")
    const report = Schema.decodeUnknownSync(StudyReport)(JSON.parse(text))
    expect(report.charts[0]!.lines[0]!.points[0]!.low).toBeNaN()
    expect(JSON.parse(toJson(report))).toEqual(JSON.parse(text))
    const [html, markdown] = ["html", "md"].map((form) => readFileSync(join(outDir, `report.${form}`), "utf8"))
    expect(html).toContain("<svg")
    expect(markdown).toContain("The paper's finding held here: most do.")
    // two seeds more are all that is new, of another configuration all is
    await done(run(coins, new CoinsConfig({ seeds: 4 }), { ...given, outDir: join(root, "two"), store }))
    expect(computed.slice(7)).toEqual(["silver 4", "gold 4"])
    await done(run(coins, new CoinsConfig({ seeds: 1, heads: 0.8 }), { ...given, outDir: join(root, "three"), store }))
    expect(computed.slice(9)).toEqual(["silver 1", "gold 1"])
    // the folder of another study is not taken
    const other = await done(run({ ...coins, name: "notes" }, new CoinsConfig({}), { ...given, outDir, resume: true }))
    expect(other).toMatchObject({ left: { detail: expect.stringContaining("holds a run of memsinks study coins") } })
  })

  it("fails where nothing is left, and before anything is computed where it cannot be", async () => {
    broken = "gold 1"
    const alone = { ...coins, parts: () => ["gold"] }
    expect(await done(run(alone, new CoinsConfig({ seeds: 1 }), given))).toMatchObject({
      left: { message: "the coin is lost" }
    })
    broken = ""
    computed = []
    expect(await done(run(coins, new CoinsConfig({ heads: 0 }), { ...given, outDir: join(root, "never") })))
      .toMatchObject({ left: { message: "heads must be more than 0 for a share to be seen" } })
    expect(computed).toEqual([])
  })

  it("asks for a device where it needs one", async () => {
    const { onHost: _, ...onDevice } = coins
    expect(await done(run(onDevice, new CoinsConfig({}), given))).toMatchObject({ left: { reason: "NoAdapter" } })
  })
})

describe("studies together", () => {
  const notes = { ...coins, name: "notes", title: "Whether notes do" }

  it("are one page and one report, and one that fails does not take the others with it", async () => {
    const outDir = join(root, "all")
    const many = [coins, notes]
    const config = { studies: ["coins", "notes"] as const, preset: "quick" as const, seeds: 2 }
    const all = await done(runAll(config, { ...given, outDir }, many))
    expect(all).toMatchObject({
      right: { seeds: [1, 2], studies: [{ study: "coins", word: "held" }, { study: "notes" }] }
    })
    const report = JSON.parse(readFileSync(join(outDir, "report.json"), "utf8"))
    expect(Schema.decodeUnknownSync(StudiesReport)(report).studies.length).toBe(2)
    const html = readFileSync(join(outDir, "report.html"), "utf8")
    expect(html.match(/<figure/g)?.length).toBe(2)
    expect(html).toContain("Whether notes do")
    computed = []
    await done(runAll(config, { ...given, outDir, resume: true }, many))
    expect(computed).toEqual([])
    const without = [coins, { ...notes, parts: () => ["paper"] }]
    broken = "paper 1"
    expect(await done(runAll({ ...config, seeds: 1 }, given, without))).toMatchObject({
      right: { studies: [{ study: "coins" }], failures: [{ arm: "notes: paper", seed: 1 }] }
    })
    broken = ""
  })

  it("are known by their names", async () => {
    const config = { studies: ["coin"] as const, preset: "quick" as const }
    expect(await done(runAll(config, given, [coins, notes]))).toMatchObject({
      left: { message: "there is no study coin. Did you mean coins?" }
    })
    expect(await done(runAll({ ...config, studies: ["coins", "coins"] }, given, [coins]))).toMatchObject({
      left: { message: "studies names coins twice: leave one out" }
    })
  })
})

describe("computing on the host", () => {
  it("can be interrupted between two steps, and gives the event loop its turns", async () => {
    let [steps, turns] = [0, 0]
    const ticking = setInterval(() => void turns++, 10)
    const fiber = Effect.runFork(inTurns((function*() {
      for (;;) {
        const until = performance.now() + 1
        while (performance.now() < until) steps++
        yield
      }
    })()))
    await new Promise((resolve) => setTimeout(resolve, 250))
    const exit = await Effect.runPromise(Fiber.interrupt(fiber))
    clearInterval(ticking)
    expect(exit._tag).toBe("Failure")
    expect(steps).toBeGreaterThan(0)
    // without a turn no timer would have fired, and this were never reached
    expect(turns).toBeGreaterThanOrEqual(1)
  })

  it("gives what is computed, and what is thrown", async () => {
    function* seven() {
      yield
      return 7
    }
    expect([await Effect.runPromise(inTurns(seven())), atOnce(seven())]).toEqual([7, 7])
    const bad = inTurns((function*(): Generator<void, number> {
      yield
      throw new Error("no")
    })())
    expect(await Effect.runPromise(Effect.exit(bad))).toMatchObject({ cause: { defect: { message: "no" } } })
  })
})

it("numbers over seeds keep the place of a seed that failed", () => {
  const results = resultsOf([3, 4, 5], [{ part: "a", seed: 3, found: 1 }, { part: "a", seed: 5, found: 3 }])
  expect(results.over("a", (found) => found)).toMatchObject({ mean: 2, values: [1, null, 3] })
  expect(results.of("a", 4)).toBe(undefined)
})

describe("memsinks study", () => {
  it("lists every study with its question, paper and cost", async () => {
    const { code, stdout } = await memsinksHere(["study", "--json"])
    expect(code).toBe(0)
    const listed = JSON.parse(stdout) as ReadonlyArray<Record<string, string>>
    expect(listed.map(({ name }) => name)).toEqual(studies.map(({ name }) => name))
    for (const one of listed) {
      expect(Object.values(one).every((text) => text.trim() !== "")).toBe(true)
      expect(one["name"]).toMatch(/^[a-z][A-Za-z]*$/)
      expect(one["question"]).toMatch(/\?$/)
    }
    const plain = await memsinksHere(["study"])
    expect(plain.stdout).toContain("Cabannes")
  })

  it.each<readonly [args: ReadonlyArray<string>, message: string]>([
    [["asociative"], "error: there is no study asociative. Did you mean associative?\n"],
    [["--all", "asociative"], "error: there is no study asociative. Did you mean associative?\n"],
    [["seeds=2"], "error: seeds=2 of which study? memsinks study lists them\n"],
    [["--resume"], "error: --resume of which study? memsinks study lists them\n"],
    [["--all", "seeds=2"],
      "error: seeds=2 is a field of one study, and --all runs several: leave it out, or run that study alone\n"],
    [["associative", "associative"],
      "error: one study at a time, got associative and associative; several on one page: " +
      "add --all\n"],
    [["associative", "drows=2"],
      "error: the configuration has a problem:\n  drows is not a known key. Did you mean draws?\n"]
  ])("tells what is wrong with %j", async (args, message) => {
    const { code, stderr } = await memsinksHere(["study", ...args])
    expect([code, stderr.replace(/: is not/, " is not")]).toEqual([2, message])
  })

  it("has a schema for editors", async () => {
    const { code, stdout } = await memsinksHere(["schema", "study", "associative"])
    expect(code).toBe(0)
    const text = JSON.stringify(JSON.parse(stdout))
    for (const field of ["alpha", "seeds", "tolerance"]) expect(text).toContain(`"${field}"`)
    const without = await memsinksHere(["schema", "study"])
    expect([without.code, without.stderr]).toEqual([2, expect.stringContaining("needs the name of a study: ")])
    const other = await memsinksHere(["schema", "sweep", "associative"])
    expect([other.code, other.stderr]).toEqual([2, "error: memsinks schema sweep takes no \"associative\"\n"])
  })

  it("prints what it would compute, of the smaller and of the larger preset", async () => {
    const dry = async (...args: ReadonlyArray<string>) =>
      JSON.parse((await memsinksHere(["study", ...args, "--dry-run", "--json"])).stdout)
    expect(await dry("associative", "--seeds", "2", "alpha=1.5")).toMatchObject([
      { study: "associative", seeds: [1, 2], parts: ["all"], config: { alpha: 1.5 } }
    ])
    const all = await dry("--all", "--preset", "full")
    expect(all.map(({ study }: { study: string }) => study)).toEqual(studies.map(({ name }) => name))
  })
})

describe.each(studies.map((one) => [one.name, one] as const))("the study %s", (_, one) => {
  it("has presets that it takes, with seeds enough for an interval, and parts by different names", () => {
    for (const config of [one.presets.quick, one.presets.full]) {
      expect(one.problem?.(config)).toBe(undefined)
      expect(Schema.decodeUnknownSync(one.schema)(Schema.encodeSync(one.schema)(config))).toEqual(config)
      const parts = partsOf(one, config)
      expect(new Set(parts).size).toBe(parts.length)
      expect(config.seeds).toBeGreaterThanOrEqual(2)
    }
  })
})
