import * as NodeContext from "@effect/platform-node/NodeContext"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { audit } from "../../pipelines/audit.ts"
import { decide, worst } from "../../pipelines/audit/Decide.ts"
import { view } from "../../pipelines/audit/view.ts"
import { toMarkdown } from "../../pipelines/report/render.ts"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import * as Forget from "../../src/forget/Forget.ts"
import { nearest } from "../../src/forget/Nearest.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { SinkConfig } from "../../src/Sink.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-audit-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const run = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem | Path.Path>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))
const failure = async <A>(effect: Effect.Effect<A, { readonly message: string }, FileSystem.FileSystem | Path.Path>) =>
  (await run(Effect.flip(effect))).message

describe("what remains of a memory", () => {
  const draw = random(3, "audit")
  /** What is known of 40 passages, around a level. */
  const known = (level: number, noise = 0.1, count = 40) => ({
    is: "each" as const,
    values: Array.from({ length: count }, () => level + noise * 3.46 * (draw.uniform() - 0.5))
  })
  const decided = (levels: { readonly before: number; readonly after: number; readonly oracle?: number },
    noise?: number, count = 1) =>
    decide({
      before: known(levels.before, noise),
      after: known(levels.after, noise),
      oracle: levels.oracle === undefined ? undefined : known(levels.oracle, noise),
      sources: Array.from({ length: 40 }, (_, i) => i % count)
    }, 0.25, { seed: 1 })

  it("is found where it is planted, and not where it is not", () => {
    const all = decided({ before: 2, after: 2, oracle: 1 })
    expect(all.word).toBe("recovered")
    expect(all.remains.value).toBeCloseTo(1, 1)
    const none = decided({ before: 2, after: 1, oracle: 1 })
    expect(none.word).toBe("not recovered")
    expect(Math.abs(none.remains.value!)).toBeLessThan(0.1)
    expect(decided({ before: 2, after: 0, oracle: 1 }).word).toBe("not recovered")
    expect(decided({ before: 2, after: 1.5, oracle: 1 }, undefined, 8).remains.value).toBeCloseTo(0.5, 1)
  })

  it("is undecided where passages are few for their noise, and unknown without a baseline", () => {
    expect(decided({ before: 2, after: 1.25, oracle: 1 }, 0.6).word).toBe("undecided")
    expect(decided({ before: 2, after: 1 })).toEqual({ word: "no baseline",
      remains: { value: null, low: null, high: null } })
    expect(decided({ before: 1, after: 1, oracle: 1 }).word).toBe("nothing to recover")
    expect(decided({ before: 0, after: 1, oracle: 1 }).word).toBe("nothing to recover")
  })

  it("is as bad as the worst of its measures", () => {
    expect(worst(["not recovered", "nothing to recover"])).toBe("not recovered")
    expect(worst(["not recovered", "undecided"])).toBe("undecided")
    expect(worst(["undecided", "recovered", "not recovered"])).toBe("recovered")
    expect(worst(["nothing to recover"])).toBe("nothing to recover")
  })
})

it("the nearest source is the one whose counts of tokens are most alike, by hand", () => {
  const rows = (...texts: ReadonlyArray<ReadonlyArray<number>>) =>
    texts.map((tokens) => ({ tokens: Uint32Array.from(tokens) }))
  // cosines: 0; 4 / (sqrt 5 sqrt 5) = .8; 2 / sqrt 5 = .89
  expect(nearest(rows([1, 1], [2]), [rows([3]), rows([1, 2, 2]), rows([1])])).toBe(2)
  expect(nearest(rows([1]), [])).toBe(-1)
})

const names = ["Genesis", "Ruth", "Esther", "Jonah"]
const ids = names.map(sourceHash)
const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 64,
  initializerRange: 0.3,
  sinks: new SinkConfig({ pool: 64, active: 16, block: 8, assignment: "disjoint" })
}).withOwners(ids)

const save = (folder: string, seed: number, c = config, tokenizer = Tokenizer.bytes.toJSON(), trained = names) =>
  run(Effect.flatMap(Checkpoints, ({ save }) =>
    save({
      step: 1,
      config: huggingFaceConfig(c),
      model: Object.fromEntries(
        listParameters(parametersOf(c)).flatMap((p) => toHuggingFace(c, p.name, initialValue(c, p, seed)))
      ),
      optimizer: {},
      trainerState: null,
      tokenizer,
      names: encodeNames({
        identity: "source",
        ids: trained.map((name) => ({ id: sourceHash(name), name, documents: 1, tokens: 100 }))
      })
    })).pipe(Effect.provide(Checkpoints.layerFileSystem(join(root, folder)))))

describe("an audit", () => {
  const at = (name: string) => join(root, name)
  const options = { before: at("before"), after: at("after"), oracle: at("oracle"), data: at("books.jsonl"),
    sourceField: "book", seqLen: 12, passages: 6, relearningSteps: 2, store: at("store"), device: NodeDevice.layer() }

  beforeAll(async () => {
    const draw = random(1, "books")
    const letters = () => Array.from({ length: 120 }, () => String.fromCharCode(97 + draw.below(26))).join("")
    const lines = names.map((book) => JSON.stringify({ book, text: letters() }))
    writeFileSync(at("books.jsonl"), lines.join("\n"))
    writeFileSync(at("others.jsonl"), lines.slice(1).join("\n"))
    writeFileSync(at("alone.jsonl"), lines[0]!)
    await save("before", 1)
    await save("oracle", 2, config, undefined, names.slice(1))
    await run(Forget.forget(at("before"), { requests: [{ by: "source", value: "Genesis" }] }, { out: at("after") }))
  })

  it("tells of the deleted and of those who stay, the same to the bit", async () => {
    const report = await run(audit(options))
    expect(report.deleted).toEqual([{ id: `${ids[0]}`, name: "Genesis", passages: 6,
      nearest: report.deleted[0]!.nearest }])
    expect(names.slice(1)).toContain(report.deleted[0]!.nearest)
    expect(new Set(report.measures.map(({ state }) => state))).toEqual(
      new Set(["used", "nearest", "lit", "off", "relearned", "rounded8", "rounded4"])
    )
    expect(report.measures.filter(({ state }) => state === "used").map(({ name }) => name)).toEqual(["loss", "verbatim",
      "discoverable", "nvRecall.recall", "nvRecall.longest", "hiddenProbe.decoded", "hiddenProbe.shuffled"])
    // of letters at random nothing can be paraphrased, and there is no other text, and no facts
    expect(report.notAsked.map(({ what }) => what)).toEqual(["membership", "truth ratio", "recognition"])
    const lossIn = (state: string) => report.measures.find((one) => one.name === "loss" && one.state === state)
    const [loss, off] = [lossIn("used"), lossIn("off")]
    // erased sinks are nothing to light
    expect(lossIn("lit")!.after).toEqual(off!.after)
    // three passages of the other half are too few
    expect([lossIn("relearned")!.of, lossIn("relearned")!.word]).toEqual([3, "undecided"])
    expect(loss!.after).toEqual(off!.after)
    expect(loss!.after).not.toEqual(loss!.before)
    expect(report.stayed).toEqual([{ shared: 0, sources: 3, passages: 18, same: 18,
      change: { value: 0, low: 0, high: 0 } }])
    expect(report.placebo!.change.value).toBe(0)
    const { head } = view(report)
    expect(head[0]).toContain("and of the 3 sources that stay all 18 passages are the same to the bit.")
    expect(report.collateral.map(({ change, deletions, same, shared }) => [deletions, shared, same, change.value]))
      .toEqual([[1, "keep", 12, 0], [2, "keep", 12, 0]])
    expect(report.failures).toEqual([])
    expect(toMarkdown(view(report))).toContain("Genesis")
    // the same again, out of what is kept: nothing is computed
    const said: Array<string> = []
    const { seconds: _, ...first } = report
    const { seconds: __, ...second } = await run(
      audit({ ...options, onStage: (what) => Effect.sync(() => said.push(what)) })
    )
    expect(second).toEqual(first)
    expect(said).toEqual([])
  })

  it("has no verdict without a model that was never trained on it", async () => {
    const { oracle: _, ...without } = options
    const report = await run(audit(without))
    expect([report.word, report.oracle, report.measures[0]!.oracle]).toEqual(["no baseline", null, null])
    expect(view(report).head[1]).toContain("--oracle")
  })

  it("is refused where there is nothing to audit, or models do not go together", async () => {
    expect(await failure(audit({ ...options, after: options.before }))).toContain("nothing was deleted from it")
    expect(await failure(audit({ ...options, data: at("others.jsonl") }))).toContain(
      "holds no text of what was deleted (Genesis)"
    )
    expect(await failure(audit({ ...options, data: at("alone.jsonl") }))).toContain(
      "holds no text of anybody who stays"
    )
    const tokenizer = (await run(Tokenizer.trainBpe(["abcdefgh abcdefgh"], { vocabSize: 16 }))).toJSON()
    // beside itself all of it would be gone
    expect(await failure(audit({ ...options, oracle: options.before }))).toContain("was trained on \"Genesis\" itself")
    await save("other", 3, config, tokenizer)
    expect(await failure(audit({ ...options, oracle: at("other") }))).toContain("has another tokenizer")
    const wider = new ModelConfig({ ...config, intermediateSize: 24 + 64 })
    await save("wide", 1, wider)
    await run(Forget.forget(at("wide"), { requests: [{ by: "source", value: "Genesis" }] }, { out: at("wide-after") }))
    expect(await failure(audit({ ...options, after: at("wide-after") }))).toContain("it has another shape")
  })
})
