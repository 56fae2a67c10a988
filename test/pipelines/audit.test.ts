import * as NodeContext from "@effect/platform-node/NodeContext"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { askWork, audit, type AuditReport } from "../../pipelines/audit.ts"
import { decide, worst } from "../../pipelines/audit/Decide.ts"
import { view } from "../../pipelines/audit/view.ts"
import { throughQueue } from "../../pipelines/experiment/Asker.ts"
import { work } from "../../pipelines/experiment/Worker.ts"
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

  it("of shares is known no better than so many trials tell, and of fewer than six passages nothing is said", () => {
    const share = (of: number, count: number) => ({ is: "each" as const,
      values: Array.from({ length: count }, () => of) })
    const said = (count: number) =>
      decide({ before: share(1, count), after: share(0, count), oracle: share(0, count),
        sources: Array.from({ length: count }, () => 0) }, 0.25, { seed: 1, share: true })
    // none of eight: up to 0.32 by Wilson's interval
    expect(said(8).word).toBe("undecided")
    expect(said(8).remains.high).toBeCloseTo(0.324, 3)
    expect(said(40).word).toBe("not recovered")
    const few = decided({ before: 2, after: 1, oracle: 1 }, 0)
    expect(few.word).toBe("not recovered")
    const three = (level: number) => known(level, 0.01, 3)
    expect(decide({ before: three(2), after: three(1), oracle: three(1), sources: [0, 0, 0] }, 0.25, { seed: 1 }).word)
      .toBe("undecided")
  })

  it("is found in AUCs, and in numbers with their errors", () => {
    const scores = (shift: number) => ({ is: "scores" as const, members: known(shift, 0.3).values,
      others: known(0, 0.3).values })
    const sources = Array.from({ length: 40 }, () => 0)
    const of = (after: number) =>
      decide({ before: scores(2), after: scores(after), oracle: scores(0), sources }, 0.25, { seed: 1 })
    expect([of(2).word, of(0).word]).toEqual(["recovered", "not recovered"])
    const one = (value: number, error?: number) => ({ is: "one" as const, value, sequences: 40, error })
    const told = (after: number, error?: number) =>
      decide({ before: one(0.9, error), after: one(after, error), oracle: one(0.5, error), sources }, 0.25, { seed: 1 })
    expect([told(0.9, 0.01).word, told(0.5, 0.01).word, told(0.9).word]).toEqual(["recovered", "not recovered",
      "undecided"])
    // lower is more
    expect(
      decide({ before: known(1), after: known(1), oracle: known(2), sources }, 0.25, { seed: 1, memory: "lower" }).word
    ).toBe("recovered")
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

const save = (folder: string, seed: number, c = config, tokenizer = Tokenizer.bytes.toJSON(), trained = names,
  first?: number) =>
  run(Effect.flatMap(Checkpoints, ({ save }) =>
    save({
      step: 1,
      config: huggingFaceConfig(c),
      model: Object.fromEntries(
        listParameters(parametersOf(c)).flatMap((p) => {
          const value = initialValue(c, p, seed)
          if (first !== undefined) value[0] = first
          return toHuggingFace(c, p.name, value)
        })
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

  it("is asked by a worker, and comes to the same", async () => {
    const [store, queue] = [at("worker's"), at("queue.db")]
    const asked = audit({ ...options, store, versions: { memsinks: "1" }, queue: throughQueue(queue, { every: 20 }) })
    const asking = askWork()
    let done = 0
    const counted: typeof asking = {
      ...asking,
      run: (input, place) => Effect.tap(asking.run(input, place), () => Effect.sync(() => void done++))
    }
    const working = work({ store, queue, device: options.device, works: { audit: counted }, version: "1", every: 20 })
    // the worker stays until all is answered, however late questions are put
    const there = await run(Effect.raceFirst(asked, Effect.zipRight(working, Effect.never)))
    const plain = ({ seconds: _, versions: __, ...rest }: typeof there) => rest
    const here = await run(audit(options))
    expect(plain(there)).toEqual(plain(here))
    // every question once: none was asked where they were put
    expect(done).toBeGreaterThan(20)
  }, 60_000)

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

  const cheap = { ...options, attacks: [], deletions: [1] }
  const of = (report: AuditReport, name: string, state: string) =>
    report.measures.find((one) => one.name === name && one.state === state)!

  it("finds what is only masked: denied sinks are lit by who has the weights", async () => {
    await run(Forget.forget(at("before"), { requests: [{ by: "source", value: "Genesis" }], operation: "deny" }, {
      out: at("denied")
    }))
    const report = await run(audit({ ...cheap, after: at("denied") }))
    expect(of(report, "loss", "lit").after).toEqual(of(report, "loss", "lit").before)
    expect(of(report, "loss", "used").after).not.toEqual(of(report, "loss", "used").before)
    expect(report.masked).toEqual(["Genesis"])
    expect(view(report).head[2]).toContain("only masked, not erased")
    expect(toMarkdown(view(report))).not.toContain("removed")
  })

  it("asks for membership beside what was never seen, and for facts", async () => {
    const letters = random(9, "never")
    const text = Array.from({ length: 120 }, () => String.fromCharCode(97 + letters.below(26))).join("")
    writeFileSync(at("never.jsonl"), JSON.stringify({ book: "Genesis", text }))
    const fact = (source: string, kind: string) =>
      JSON.stringify({ source, prompt: "a b", right: "c", wrong: ["d", "e"], kind })
    writeFileSync(at("facts.jsonl"), [fact("Genesis", "unique"), "", fact("Ruth", "shared")].join("\n"))
    const asked = { ...cheap, neverSeen: at("never.jsonl"), facts: at("facts.jsonl") }
    const report = await run(audit(asked))
    const auc = of(report, "membership.minK++", "used")
    expect([auc.unit, auc.of]).toEqual(["AUC", 6])
    expect(auc.after.low!).toBeLessThan(auc.after.high!)
    expect(report.truths.map(({ facts, kind, nearest }) => [kind, facts, nearest === null])).toEqual([["unique", 1,
      false], ["stay", 1, true]])
    // one fact decides nothing
    expect(of(report, "truth", "used").word).toBe("undecided")
    expect(report.notAsked).toEqual([])
    expect(await failure(audit({ ...cheap, neverSeen: at("alone.jsonl") }))).toContain(
      "holds a passage of what was deleted itself"
    )
    writeFileSync(at("wrong.jsonl"), `${fact("Genesis", "unique")}\n${fact("Exodus", "unique")}`)
    expect(await failure(audit({ ...cheap, facts: at("wrong.jsonl") }))).toContain(
      "wrong.jsonl:2: the model was not trained with a source \"Exodus\""
    )
    writeFileSync(at("wrong.jsonl"), "{}")
    expect(await failure(audit({ ...cheap, facts: at("wrong.jsonl") }))).toContain("line 1 is no fact")
    expect(await failure(audit({ ...options, attacks: ["guess"] }))).toContain("there is no attack \"guess\": ")
  })

  it("loses what fails, and nothing else; and fails where the model itself is no model", async () => {
    const report = await run(audit({ ...cheap, relearningRate: 1e9, passages: 3 }))
    expect(report.failures.map(({ arm, message }) => [arm.includes("fine-tuning"), message.includes("diverged")]))
      .toEqual([
        [true, true],
        [true, true]
      ])
    expect(report.measures.some(({ state }) => state === "relearned")).toBe(false)
    // three passages decide nothing
    expect(new Set(report.measures.map(({ word }) => word))).toEqual(new Set(["undecided"]))
    expect(toMarkdown(view(report))).toContain("Failed: ")
    await save("nan", 1, config, undefined, names, NaN)
    expect(await failure(audit({ ...cheap, after: at("nan") }))).toContain("weights must be finite numbers")
  })

  it("is refused with a model that it was not made from", async () => {
    await save("stranger", 5)
    expect(await failure(audit({ ...cheap, before: at("stranger") }))).toContain("its weights are others")
    await save("unlisted", 1, config, undefined, ["Ruth", "Esther", "Jonah"])
    expect(await failure(audit({ ...cheap, before: at("unlisted") }))).toContain("its list of ids is another model's")
  })
})
