import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { csvField } from "../../src/Csv.ts"
import { contentHash, sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames, type NamedId, type NamedIds } from "../../src/data/identity/Names.ts"
import { tokenize } from "../../src/data/tokens/Tokenize.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { memsinksHere } from "../support/stdout.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-sources-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const nasty = "a \0 name,\n\"quoted\"\r"
const row = (name: string, more: Partial<NamedId> = {}): NamedId => ({ id: sourceHash(name), name, documents: 2,
  tokens: 10, ...more })
const ids = [
  ...Array.from({ length: 25 },
    (_, i) =>
      row(`https://user@big.example.org:80/${i}`, { tokens: 100 + i, owners: ["Big"], licences: ["CC-BY-4.0"],
        exposures: 200, firstStep: 1, lastStep: 9, sinks: 2, sharedSinks: 1 })),
  row("http://small.example.org", { owners: ["Small, and Daughters", "Big"], nearDuplicates: 3, nearSources: ["Ruth"],
    exposures: 0 }),
  row("Ruth", { tokens: 5, exposures: 5, firstStep: 3, lastStep: 4 }),
  row(nasty, { tokens: 1, owners: ["=cmd()"], exposures: 1, firstStep: 9, lastStep: 9 })
]
const config = new ModelConfig({
  vocabSize: 16,
  hiddenSize: 8,
  numHiddenLayers: 1,
  numAttentionHeads: 1,
  intermediateSize: 8 + 32,
  sinks: new SinkConfig({ pool: 32, active: 8, block: 8, denied: [`${sourceHash("Ruth")}`] })
})
const saved = async (folder: string, named: NamedIds): Promise<string> => {
  const path = join(root, folder)
  const model = Object.fromEntries(
    listParameters(parametersOf(config)).flatMap((p) => toHuggingFace(config, p.name, initialValue(config, p, 1)))
  )
  const save = Effect.flatMap(Checkpoints,
    (it) =>
      it.save({ step: 1, config: huggingFaceConfig(config), model, optimizer: {}, trainerState: { step: 1 },
        tokenizer: undefined, names: encodeNames(named) }))
  return await Effect.runPromise(
    save.pipe(Effect.provide(Checkpoints.layerFileSystem(path)), Effect.provide(NodeContext.layer))
  )
}
let path: string
beforeAll(async () => void (path = await saved("run", { identity: "source", ids })))

const sources = async (...args: ReadonlyArray<string>) => {
  const { code, stderr, stdout } = await memsinksHere(["sources", "--checkpoint", path, ...args])
  expect([code, stderr]).toEqual([0, ""])
  return stdout
}

describe("memsinks sources", () => {
  it("lists those with most tokens a page at a time, and what is known of them", async () => {
    const first = await sources("--top", "10")
    expect(first).toContain(
      "28 ids, one a source; 56 documents, 2,816 tokens an epoch, trained on 1.78 times; 1 deleted"
    )
    expect(first).toMatch(/id +documents +tokens +share +passes +steps +blocks +owner +name/)
    expect(first).toMatch(/124 +4\.4 % +1\.61 +1-9 +2, 1 shared +Big +https:\/\/user@big\.example\.org:80\/24\n/)
    expect(first).toContain("1 to 10 of 28 (--page 2 goes on)")
    const last = await sources("--top", "10", "--page", "3")
    expect(last).toContain("21 to 28 of 28;")
    expect(last).toContain("Ruth (deleted)")
    expect(last).toContain("a \\u0000 name, \"quoted\"")
    expect(last).toContain("Small, and Daughters and 1")
    expect(await sources("--page", "9")).toContain("page 9 is beyond the last")
    const { largest } = JSON.parse(await sources("--json", "--search", "DAUGHTERS"))
    expect(largest).toEqual([{ ...ids[25], id: `${ids[25]!.id}`, share: 1, passes: 0, deleted: false }])
  })

  it("sums by web site, owner and licence, sorted, with shares", async () => {
    const summary = await sources("--summary")
    expect(summary).toMatch(/big\.example\.org +25 +50 +2,800 +99\.4 %/)
    expect(summary).toMatch(/Big +26 +52 +2,810 +99\.8 %/)
    expect(summary).toMatch(/CC-BY-4\.0 +25 +50 +2,800/)
    // who has none is no less in the model
    expect(summary).toMatch(/\(no web site\) +2 +4 +6 +0\.2 %/)
    expect(summary).toMatch(/\(no owner\) +1 +2 +5 +0\.2 %/)
    expect(summary).toMatch(/\(no licence\) +3 +6 +16 +0\.6 %/)
    const json = JSON.parse(await sources("--summary", "--json"))
    expect(json).toMatchObject({ ids: 28, documents: 56, tokens: 2816, deleted: 1, exposures: 5006,
      sites: [{ site: "big.example.org", ids: 25, tokens: 2800 }, { site: "small.example.org" }],
      owners: [{ name: "Big", share: 2810 / 2816 }, { name: "Small, and Daughters" }, { name: "=cmd()" }],
      licences: [{ name: "CC-BY-4.0", tokens: 2800 }] })
    expect(json).not.toHaveProperty("largest")
    expect(json.unnamed.owners).toEqual({ ids: 1, documents: 2, tokens: 5 })
    const csv = (await sources("--summary", "--csv")).trimEnd().split("\n")
    expect(csv[1]).toBe("all,,28,56,2816,1")
    expect(csv).toContain(`owner,"Small, and Daughters",1,2,10,${10 / 2816}`)
    expect(csv).toContain(`no owner,,1,2,5,${5 / 2816}`)
  })

  it("writes all of them as CSV, every byte of a name", async () => {
    const csv = await sources("--csv")
    expect(csv).toContain(`${ids[27]!.id},${csvField(nasty)},2,1,false,=cmd(),,,,,,1,9,9\n`)
    expect(csv).toContain(`${sourceHash("Ruth")},Ruth,2,5,true,,,,,,,5,3,4\n`)
    expect(csv.split("\n")[0]).toBe(
      "id,name,documents,tokens,deleted,owners,licences,nearDuplicates,nearSources,sinks," +
        "sharedSinks,exposures,firstStep,lastStep"
    )
    const both = await memsinksHere(["sources", "--checkpoint", path, "--csv", "--json"])
    expect([both.code, both.stdout]).toEqual([2, ""])
  })

  it("looks for copies that others hold, and tells the hash of a text", async () => {
    const text = "Whither thou goest, I will go; and where thou lodgest, I will lodge, so long as it is asked for."
    const file = join(root, "data.jsonl")
    writeFileSync(file,
      ["Ruth", "http://small.example.org", "Ruth"].map((source, i) =>
        JSON.stringify({ source, text: i === 2
          ? "Something else that nobody has said yet, at all."
          : `${text}${i}`.slice(0, -i || undefined) })
      ).join("\n"))
    writeFileSync(join(root, "text.txt"), `${text}0\n`)
    const out = join(root, "tokens")
    await Effect.runPromise(
      tokenize({ data: [{ path: file, sourceField: "source" }], tokenizer: "bytes" }, { out, workers: 1 }).pipe(
        Effect.provide(NodeContext.layer)
      )
    )
    const { largest } = JSON.parse(await sources("--json", "--search", "r", "--top", "99", "--data", out))
    const of = (name: string) => (largest as ReadonlyArray<NamedId>).find((one) => one.name === name)
    expect(of("Ruth")).toMatchObject({ nearDuplicates: 1, nearSources: ["http://small.example.org"] })
    expect(of("http://small.example.org")).toMatchObject({ nearDuplicates: 1, nearSources: ["Ruth"] })
    const hash = contentHash(`${text}0`).toString(16).padStart(16, "0")
    expect(await sources("--hash", join(root, "text.txt"))).toBe(`${hash}\n`)
    expect(await sources("--hash", join(root, "text.txt"), "--data", out)).toBe(`${hash}\nheld by Ruth\n`)
  })

  it("says what is wrong with a file that is none, and with ids that are no sources", async () => {
    const rows = await saved("rows", { identity: "row", ids })
    const refused = await memsinksHere(["sources", "--checkpoint", rows, "--data", join(root, "tokens")])
    expect([refused.code, refused.stderr]).toEqual([1,
      expect.stringContaining("its ids do not stand for sources, one is a row")])
    truncateSync(join(rows, "sources.parquet"), 200)
    const damaged = await memsinksHere(["sources", "--checkpoint", rows])
    expect(damaged.code).toBe(1)
    expect(damaged.stderr).toContain("sources.parquet")
  })
})
