import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { PretrainConfig } from "../pipelines/pretrain.ts"
import { readConfig } from "../src/cli/config.ts"
import { makeSchema, schemaFile, schemaText } from "./schema.ts"

interface Node {
  readonly properties?: Readonly<Record<string, Node>>
  readonly required?: ReadonlyArray<string>
  readonly anyOf?: ReadonlyArray<Node>
  readonly items?: Node
  readonly description?: string
  readonly default?: unknown
  readonly additionalProperties?: boolean
}

/** Every property of a schema, by its path. */
const propertiesOf = (node: Node, path = ""): ReadonlyArray<readonly [path: string, node: Node]> => [
  ...Object.entries(node.properties ?? {}).flatMap(([name, property]) =>
    [[`${path}${name}`, property] as const, ...propertiesOf(property, `${path}${name}.`)]),
  ...[...node.anyOf ?? [], ...node.items === undefined ? [] : [node.items]].flatMap((inner) => propertiesOf(inner, path))
]

const properties = new Map(propertiesOf(makeSchema() as Node))

describe("the JSON Schema of a configuration file", () => {
  it("is the one that the package holds: npm run schema makes it", () => {
    expect(readFileSync(schemaFile, "utf8")).toBe(schemaText())
  })

  it("describes every field in the words of the source", () => {
    const silent = [...properties].filter(([path, { description }]) => path !== "$schema" && !description).map(([path]) => path)
    expect(silent).toEqual([])
    expect(properties.get("data.seqLen")!.description).toBe("Tokens a row feeds to the model. Default 64.")
    expect(properties.get("model.hiddenSize")!.description).toContain("residual stream")
    expect(properties.get("data.canaries.times")!.description).toContain("Exposures of each")
  })

  it("knows every field and the default that a run takes, also where it is not that of its class", () => {
    const leaves = (value: unknown, path = ""): ReadonlyArray<readonly [string, unknown]> =>
      typeof value === "object" && value !== null && !Array.isArray(value)
        ? Object.entries(value).flatMap(([name, inner]) => leaves(inner, path === "" ? name : `${path}.${name}`))
        : [[path, value]]
    const defaults = leaves(Schema.encodeSync(PretrainConfig)(new PretrainConfig({})))
    expect(defaults.length).toBeGreaterThan(30)
    for (const [path, value] of defaults) expect([path, properties.get(path)?.default]).toEqual([path, value])
    expect(properties.get("training.optimizer.learningRate")!.description).toContain("Of memsinks pretrain: 0.01.")
    expect(properties.get("data.canaries.times")!.default).toBe(1)
  })

  it("lets a file name what it changes and nothing else, but items of lists as a whole", () => {
    const [model, canary] = [properties.get("model")!, properties.get("data.repeat")!.items!]
    expect([model.required, model.additionalProperties]).toEqual([undefined, false])
    expect([canary.required, canary.additionalProperties]).toEqual([["times"], false])
    expect(JSON.stringify([...properties])).not.toContain("$ref")
  })

  it("may be named in the file itself", async () => {
    const folder = mkdtempSync(join(tmpdir(), "memsinks-schema-"))
    try {
      const file = join(folder, "config.json")
      writeFileSync(file, JSON.stringify({ $schema: "./pretrain.schema.json", seeds: 2 }))
      const read = readConfig(file).pipe(Effect.provide(NodeFileSystem.layer))
      expect(await Effect.runPromise(read)).toEqual({ seeds: 2 })
      expect(properties.has("$schema")).toBe(true)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})
