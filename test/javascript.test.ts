/** What JavaScript may do that TypeScript does not compile: each is told in a sentence that names what to do. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Checkpoints, DataConfig, DataStream, Device, Generate, Model, presets, SinkConfig, tokenize, TrainConfig,
  Trainer } from "../src/index.ts"
import * as NodeDevice from "../src/node.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-javascript-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** As JavaScript sees it: without types. */
const js = (value: unknown): any => value
const build = (layer: unknown) => Effect.scoped(Layer.build(js(layer)))
const withFiles = (effect: unknown) => Effect.provide(js(effect), NodeContext.layer)

/** What a program says that ends badly. */
const said = async (effect: unknown): Promise<string> => {
  const exit = await Effect.runPromiseExit(js(effect) as Effect.Effect<unknown, unknown>)
  if (Exit.isSuccess(exit)) return "nothing"
  const error = Cause.squash(exit.cause)
  return error instanceof Error ? error.message : String(error)
}

describe("a missing service", () => {
  it.each([
    ["Device", "NodeDevice.layer()", build(Model.layer(presets.tiny))],
    ["Device", "NodeDevice.layer()", build(Trainer.layer(new TrainConfig({ steps: 1 })))],
    ["Trainer", "Trainer.layer(", Trainer],
    ["DataStream", "DataStream.layer()", DataStream],
    ["Checkpoints", "Checkpoints.layerFileSystem(folder)", Checkpoints],
    ["Model", "Model.layer(presets.tiny)", Stream.runDrain(Generate.generate([{ tokens: [1] }]))],
    ["Device", "DenoDevice.layer()", Device],
    ["FileSystem", "NodeContext.layer", build(DataStream.layer())],
    ["FileSystem", "NodeContext.layer", build(Checkpoints.layerFileSystem(folder))]
  ])("%s is told with its layer: %s", async (name, layer, effect) => {
    expect(await said(effect)).toMatch(
      new RegExp(`^the program has no ${name}: provide .*${layer.replace(/[()]/g, "\\$&")}`)
    )
  })

  it("has no stack of Effect's", async () => {
    const exit = await Effect.runPromiseExit(js(Trainer))
    expect((Cause.squash((js(exit)).cause) as Error).stack).not.toContain(" at ")
  })
})

describe("a configuration", () => {
  it.each([
    [() => new TrainConfig(js(null)), "expected an object, got null"],
    [() => new TrainConfig(js(3)), "expected an object, got 3"],
    [() => new DataConfig({ seed: -1 }), "seed: expected a non-negative number, got -1"],
    [() => new DataConfig({ goldfish: { k: 3, seed: -1 } }), "goldfish.seed: expected a non-negative number, got -1"],
    // of which only 32 bits would count
    [() => new SinkConfig({ pool: 32, active: 16, seed: 2 ** 32 }), "seed: expected a number between -2147483648 and"]
  ])("is refused where it is none: %s", (make, message) => expect(make).toThrow(message))

  it("may be left out", () => expect(new TrainConfig(js(undefined)).logEvery).toBe(10))
})

describe("options of a wrong type or name", () => {
  const device = NodeDevice.layer({ adapter: "null" })
  const generate = (prompts: unknown, options: unknown = {}) =>
    Stream.runDrain(Generate.generate(js(prompts), js(options))).pipe(
      Effect.provide(Layer.provideMerge(Model.layer(presets.tiny, { initialize: false }), device))
    )
  const prompt = [{ tokens: [1] }]
  const open = { data: [{ path: join(folder, "none.txt") }] } as const

  it.each([
    ["generate", generate(prompt, { maxTokens: 3 }), "maxTokens: is not a known key. Did you mean maxNewTokens?"],
    ["generate", generate(prompt, { topP: "0.5" }), "topP: expected number, got \"0.5\""],
    ["generate", generate(prompt, { logProbs: "no" }), "logProbs: expected boolean, got \"no\""],
    ["generate", generate(prompt, { sinks: "off" }),
      "sinks: expected a mode of the sinks, such as Sink.own, got \"off\""],
    ["generate", generate(prompt, { stop: "." }), "stop: expected a list, got \".\""],
    ["generate", generate(prompt, { tokenizer: {} }), "tokenizer has no function decode"],
    ["generate", generate(prompt, null), "expected an object, got null"],
    ["generate", generate("a text"), "takes a list of prompts"],
    ["generate", generate(["a text"]), "the prompt has no tokens"],
    ["generate", generate([{ tokens: "a text" }]), "the prompt has no tokens"],
    ["Model.layer", Effect.provide(build(Model.layer(presets.tiny, js({ precison: "f16" }))), device),
      "precison: is not a known key. Did you mean precision?"],
    ["Model.layer", Effect.provide(build(Model.layer(presets.tiny, js({ seed: "1" }))), device),
      "seed: expected number, got \"1\""],
    ["tokenize", withFiles(tokenize(open, js({}))), "out: is missing"],
    ["tokenize", withFiles(tokenize(open, js({ out: folder, workers: "2" }))), "workers: expected number, got \"2\""],
    ["tokenize", withFiles(tokenize(open, js({ out: folder, onEvent: 3 }))), "onEvent: expected function, got 3"],
    ["DataStream.layer", withFiles(build(DataStream.layer(js(null)))), "expected an object, got null"],
    ["DataStream.layer", withFiles(build(DataStream.layer({}, js({ cacheDir: "x" })))), "cacheDir: is not a known key"],
    ["DataStream.layerText", withFiles(build(DataStream.layerText(js(undefined)))), "takes the path of a text"],
    ["DataStream.layerMemory", build(DataStream.layerMemory(js(["a text"]))), "takes a list of documents"],
    ["Checkpoints", withFiles(build(Checkpoints.layerFileSystem(js(undefined)))), "takes the path of a folder"],
    ["Checkpoints", withFiles(build(Checkpoints.layerFileSystem(folder, js({ resume: "yes" })))),
      "resume: expected boolean, got \"yes\""],
    ["NodeDevice.layer", build(NodeDevice.layer(js({ adaptor: "null" }))),
      "adaptor: is not a known key. Did you mean adapter?"],
    ["NodeDevice.layer", build(NodeDevice.layer(js({ adapter: 3 }))), "adapter: expected string, got 3"]
  ])("are named: %s", async (_, effect, message) => expect(await said(effect)).toContain(message))
})
