/** What all experiments have in common, with the smallest of them. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import * as Experiment from "../../pipelines/experiment/Experiment.ts"
import type { View } from "../../pipelines/report/View.ts"
import { DataError, DeviceError } from "../../src/Errors.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { miniatureModel } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-experiment-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const Config = Schema.Struct({ a: Schema.Number })
type Found = ReadonlyArray<string>
interface Report extends Experiment.Ended {
  readonly found: Found
}

const shown: View = { title: "the smallest", head: [], sections: [], brief: [], config: {}, footing: "" }

const run = (
  plan: Partial<Experiment.Plan<typeof Config.Type, Found, Report>> & {
    readonly work: Experiment.Plan<typeof Config.Type, Found, Report>["work"]
  },
  { view = () => shown, ...options }: Partial<Experiment.RunOptions> & { readonly view?: () => View } = {}
) => {
  const smallest: Experiment.Experiment<number, typeof Config.Type, Found, Report> = {
    kind: "smallest",
    schema: Config,
    again: "from what is kept",
    encode: (report) => report,
    view,
    plan: (a) =>
      Effect.succeed({
        config: { a },
        seeds: [7],
        arms: ["one"],
        inputs: Effect.succeed([]),
        title: "nothing",
        report: (found, ended, error) => found.length === 0 ? Effect.fail(error) : Effect.succeed({ ...ended, found }),
        ...plan
      })
  }
  return Effect.runPromise(
    Effect.either(Experiment.run(smallest, 3, { device: NodeDevice.layer(), ...options })).pipe(
      Effect.provide(NodeContext.layer)
    )
  )
}

const two: Experiment.Plan<typeof Config.Type, Found, Report>["work"] = ({ attempt }) =>
  Effect.map(
    Effect.all([
      attempt({ arm: "one", seed: 7, what: "step 3" }, Effect.fail(new DataError({ detail: "no data" }))),
      attempt({ arm: "two", seed: 7 }, Effect.succeed("two"))
    ]),
    (all) => all.flatMap(Option.toArray)
  )

it("leaves a report in every form; a picture that cannot be drawn costs no numbers", async () => {
  const whole = join(root, "whole")
  expect(await run({ work: two }, { outDir: whole, versions: { a: "1" } })).toMatchObject({
    right: {
      found: ["two"],
      failures: [{ arm: "one", seed: 7, message: "step 3: no data" }],
      seeds: [7],
      config: { a: 3 },
      versions: { a: "1" }
    }
  })
  expect(readFileSync(join(whole, "report.md"), "utf8")).toContain("the smallest")
  expect(readFileSync(join(whole, "report.html"), "utf8")).toContain("the smallest")
  const undrawn = join(root, "undrawn")
  const view = () => {
    throw new Error("no picture")
  }
  expect(await run({ work: two }, { outDir: undrawn, view })).toMatchObject({ right: { found: ["two"] } })
  expect(JSON.parse(readFileSync(join(undrawn, "report.json"), "utf8"))).toMatchObject({ found: ["two"] })
  expect(existsSync(join(undrawn, "report.html"))).toBe(false)
})

it("fails with the first error where all that was tried failed", async () => {
  const error = new DataError({ detail: "no data" })
  const work: typeof two = ({ attempt }) => Effect.as(attempt({ arm: "one", seed: 7 }, Effect.fail(error)), [])
  expect(await run({ work })).toMatchObject({ left: error })
  const bug: typeof two = ({ attempt }) => Effect.as(attempt({ arm: "one", seed: 7 }, Effect.die(new Error("?"))), [])
  expect(await run({ work: bug }, { outDir: join(root, "bug") })).toMatchObject({
    left: { message: expect.stringMatching(/^every arm failed:\n {2}seed 7, one: this is a bug in memsinks/) }
  })
})

it("goes on with what was made once when a device is lost, and tries again what failed", async () => {
  const made: Array<string> = []
  let devices = 0
  const work: typeof two = ({ attempt, once }) =>
    Effect.gen(function*() {
      devices++
      const one = yield* once("one", Effect.sync(() => `one of device ${made.push("one")}`))
      const other = yield* attempt({ arm: "one", seed: 7 },
        devices < 2 ? Effect.fail(new DataError({ detail: "not yet" })) : Effect.succeed("other"))
      if (devices < 2) return yield* new DeviceError({ reason: "Lost", detail: "gone" })
      return [one, ...Option.toArray(other)]
    })
  expect(await run({ work })).toMatchObject({ right: { found: ["one of device 1", "other"], failures: [] } })
  expect([made, devices]).toEqual([["one"], 2])
})

it("trains nothing that does not fit, and refuses a concurrency that is none", async () => {
  let begun = false
  const work: typeof two = () =>
    Effect.sync(() => {
      begun = true
      return ["begun"]
    })
  const planned = (routing?: "gradientMasking") => ({
    model: new ModelConfig({ ...miniatureModel, vocabSize: 2 ** 22, hiddenSize: 2048, numAttentionHeads: 16 }),
    data: { batchSize: 64, seqLen: 64, maxSegments: 64 },
    training: new TrainConfig({ steps: 1, ...(routing === undefined ? {} : { routing }) })
  })
  expect(await run({ work, trainings: Effect.succeed([planned()]) })).toMatchObject({
    left: { _tag: "DeviceError", reason: "Limit" }
  })
  expect(await run({ work }, { concurrency: 0 })).toMatchObject({
    left: { message: "concurrency must be a whole number of at least 1, got 0" }
  })
  expect(begun).toBe(false)
})
