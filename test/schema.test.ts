import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { DynamicsReport } from "../pipelines/dynamics/Report.ts"
import { claimsOf } from "../pipelines/isolation/Claims.ts"
import { IsolationReport } from "../pipelines/isolation/Report.ts"
import { PretrainConfig } from "../pipelines/pretrain.ts"
import { estimate } from "../pipelines/report/Estimate.ts"
import { StudiesReport, StudyReport } from "../pipelines/study/Report.ts"
import { SweepReport } from "../pipelines/sweep/Report.ts"
import { readConfig } from "../src/cli/config.ts"
import { fields } from "../src/cli/fields.ts"
import { type ConfigName, configNames, makeReportSchema, makeSchema, type ReportName, reportSchemaFile,
  reportSchemaText, schemaFile, schemaText } from "./schema.ts"
import * as dynamics from "./support/dynamicsReport.ts"
import * as isolation from "./support/isolationReport.ts"

interface Node {
  readonly properties?: Readonly<Record<string, Node>>
  readonly required?: ReadonlyArray<string>
  readonly anyOf?: ReadonlyArray<Node>
  readonly items?: Node
  readonly patternProperties?: Readonly<Record<string, Node>>
  readonly description?: string
  readonly default?: unknown
  readonly additionalProperties?: boolean
}

/** Every property of a schema, by its path. */
const propertiesOf = (node: Node, path = ""): ReadonlyArray<readonly [path: string, node: Node]> => [
  ...Object.entries(node.properties ?? {}).flatMap((
    [name, property]
  ) => [[`${path}${name}`, property] as const, ...propertiesOf(property, `${path}${name}.`)]),
  ...[...node.anyOf ?? [], ...node.items === undefined ? [] : [node.items],
    ...Object.values(node.patternProperties ?? {})]
    .flatMap((inner) => propertiesOf(inner, path))
]

const propertiesBy = (name: ConfigName) => new Map(propertiesOf(makeSchema(name) as Node))
const properties = propertiesBy("pretrain")

describe.each(configNames)("the JSON Schema of a configuration file of %s", (name) => {
  it("is the one that the package holds: npm run schema makes it", () => {
    expect(readFileSync(schemaFile(name), "utf8")).toBe(schemaText(name))
    const { exports } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))
    const file = basename(fileURLToPath(schemaFile(name)))
    expect(exports[`./${file}`]).toBe(`./dist/pipelines/${file}`)
  })

  it("describes every field in the words of the source", () => {
    const silent = [...propertiesBy(name)].filter(([path, { description }]) => path !== "$schema" && !description)
    expect(silent.map(([path]) => path)).toEqual([])
  })

  it("knows every field that the command does", () => {
    const known = propertiesBy(name)
    const missing = fields(name).filter((path) => !known.has(path) && !path.startsWith("fields."))
    expect(missing).toEqual([])
  })
})

describe("the JSON Schema of a configuration file", () => {
  it("has the words of the source", () => {
    expect(properties.get("data.seqLen")!.description).toBe("Tokens a row feeds to the model. Default 64.")
    expect(properties.get("model.hiddenSize")!.description).toContain("residual stream")
    expect(properties.get("data.canaries.times")!.description).toContain("Exposures of each")
    expect(propertiesBy("sweep").get("base.training.steps")!.description).toContain("Optimizer")
    expect(propertiesBy("isolate").get("gate.cost")).toMatchObject({ default: 0.1 })
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

const isolationReport = { ...isolation.reportOf(), claims: claimsOf(isolation.reportOf()) }
const dynamicsReport = dynamics.reportOf()
const sweepReport = {
  format: 1,
  fields: ["training.steps"],
  metrics: ["heldOut.off"],
  best: "lowest",
  points: [
    {
      point: 1,
      rank: 1,
      values: { "training.steps": 8 },
      metrics: { "heldOut.off": estimate([3, 4]) },
      perSeed: [{ seed: 1, metrics: { "heldOut.off": 3 } }, { seed: 2, metrics: { "heldOut.off": 4 } }]
    },
    { point: 2, values: { "training.steps": 16 }, metrics: {}, perSeed: [] }
  ],
  failures: [{ arm: "training.steps=16: sinks", seed: 1, message: "diverged" }],
  trainings: { all: 4, different: 4 },
  seeds: [1, 2],
  arms: ["sinks"],
  adapter: "a",
  seconds: 1,
  config: {},
  versions: {}
}

const studyFound = {
  study: "coins",
  title: "Coins",
  paper: "Nobody (1900)",
  question: "Do they?",
  finding: "they do",
  word: "held",
  claims: [{ about: "paper", claim: "They do", result: "held", evidence: "0.9" }],
  numbers: { share: estimate([0.9, 0.8], { kind: "share", spreads: [{ sequences: 3 }, { sequences: 3 }] }) },
  charts: [{
    title: "Shares",
    x: { title: "coins", log: true },
    y: { title: "share", zero: true },
    facets: [],
    lines: [{ label: "gold", of: { line: "gold" }, points: [{ x: 1, y: 0.9, low: 0.8, high: 1, note: "the first" }],
      dots: true }],
    color: ["line"],
    dash: ["kind"]
  }],
  tables: [{ head: ["", "share"], rows: [["gold", "0.9"]], caption: "By coin" }],
  terms: { gold: "a metal" },
  limits: ["Nothing of notes."]
}
const studyEnded = { failures: [{ arm: "coins: gold", seed: 1, message: "lost" }], seeds: [1, 2], adapter: "a",
  seconds: 1, config: {}, versions: { memsinks: "1" } }

interface Published {
  readonly name: ReportName
  readonly type: Schema.Schema<object, unknown>
  /** The fullest, then others that say less, the last with numbers that are not known. */
  readonly reports: readonly [object, ...ReadonlyArray<object>]
  /** Of a comment, and of a field that may not be missing. */
  readonly says: string
  readonly field: string
  /** Something else in place of a field, and where that is found. */
  readonly wrong: readonly [part: object, problem: string]
}

const published: ReadonlyArray<Published> = [
  {
    name: "isolation",
    type: IsolationReport as Schema.Schema<object, unknown>,
    reports: [
      isolationReport,
      // nothing but what a report of one arm has at least
      isolation.reportOf({}, {
        subjects: isolationReport.subjects.filter(({ arm }) => arm === "standard"),
        verdicts: [],
        arms: [],
        curves: [],
        tradeoffs: [],
        extraction: [],
        relearning: [],
        interference: [],
        hygiene: [],
        localizers: [],
        theory: [],
        claims: [],
        warnings: [],
        failures: []
      }),
      isolation.reportOf({ "neverRepeated own": { "natural.loss": 0.3 }, "standard own": { "natural.loss": 0.3 } })
    ],
    says: "Held-out loss minus the standard model's: the lower the better.",
    field: "subject",
    wrong: [{ word: "maybe" }, "report.word: maybe"]
  },
  {
    name: "dynamics",
    type: DynamicsReport as Schema.Schema<object, unknown>,
    reports: [
      { ...dynamicsReport, from: "runs/one" },
      dynamics.reportOf(dynamics.bare),
      {
        ...dynamicsReport,
        retention: dynamicsReport.retention.map((one) => ({
          ...one,
          points: one.points.map((point) => ({ ...point, recall: estimate([null, null, null]) })),
          fit: dynamics.fitOf({ tau: NaN, halfLife: { value: null, low: null, high: null } })
        }))
      }
    ],
    says: "What came back until the next exposure: its before - this lowest; absent at the last.",
    field: "groups",
    wrong: [
      { curves: [{ ...dynamicsReport.curves[0], mask: "none" }] },
      "report.curves[0].mask: none"
    ]
  },
  {
    name: "sweep",
    type: SweepReport as unknown as Schema.Schema<object, unknown>,
    reports: [
      sweepReport,
      { ...sweepReport, failures: [] },
      { ...sweepReport,
        points: sweepReport.points.map((point) => ({ ...point, metrics: { fractionClosed: estimate([NaN]) } })) }
    ],
    says: "Its place by the first metric, from 1; absent where that could not be measured.",
    field: "points",
    wrong: [{ best: "middle" }, "report.best: middle"]
  },
  {
    name: "study",
    type: StudyReport as unknown as Schema.Schema<object, unknown>,
    reports: [
      { format: 1, ...studyFound, ...studyEnded },
      { format: 1, ...studyFound, ...studyEnded, failures: [], charts: [], tables: [], terms: {}, limits: [] },
      { format: 1, ...studyFound, ...studyEnded, numbers: { share: estimate([NaN]) } }
    ],
    says: "Whether that held here: where all claims about the paper held; not where one did not.",
    field: "claims",
    wrong: [{ word: "perhaps" }, "report.word: perhaps"]
  },
  {
    name: "studies",
    type: StudiesReport as unknown as Schema.Schema<object, unknown>,
    reports: [
      { format: 1, studies: [studyFound, { ...studyFound, study: "notes" }], ...studyEnded },
      { format: 1, studies: [], ...studyEnded },
      { format: 1, studies: [{ ...studyFound, numbers: { share: estimate([NaN]) } }], ...studyEnded }
    ],
    says: "In the order of the list; one that failed as a whole is missing.",
    field: "studies",
    wrong: [{ studies: [{ ...studyFound, word: "perhaps" }] }, "report.studies[0].word: perhaps"]
  }
]

describe.each(published)("the published schema of a report of $name", ({ field, name, reports, says, type, wrong }) => {
  type Node = { readonly [key: string]: unknown }
  const schema = makeReportSchema(name) as Node

  /** Where a value is not what a schema of draft 7 says, of as much of it as ours uses. */
  const problems = (node: Node, value: unknown, path: string): ReadonlyArray<string> => {
    const known = new Set([
      "$schema",
      "$defs",
      "$ref",
      "title",
      "description",
      "type",
      "enum",
      "anyOf",
      "allOf",
      "properties",
      "required",
      "additionalProperties",
      "items"
    ])
    const strange = Object.keys(node).filter((key) => !known.has(key))
    if (strange.length > 0) throw new Error(`the test knows nothing of ${strange.join(", ")}`)
    if (typeof node["$ref"] === "string") {
      return problems((schema["$defs"] as Record<string, Node>)[node["$ref"].split("/").at(-1)!]!, value, path)
    }
    const found: Array<string> = []
    const type = value === null ? "null" : Array.isArray(value) ? "array" : typeof value
    if (node["type"] !== undefined && node["type"] !== type) return [`${path}: ${type}, not ${String(node["type"])}`]
    if (Array.isArray(node["enum"]) && !node["enum"].includes(value)) found.push(`${path}: ${String(value)}`)
    for (const one of (node["allOf"] ?? []) as ReadonlyArray<Node>) found.push(...problems(one, value, path))
    const any = node["anyOf"] as ReadonlyArray<Node> | undefined
    if (any?.every((one) => problems(one, value, path).length > 0) === true) found.push(`${path}: none of anyOf`)
    if (Array.isArray(value) && node["items"] !== undefined) {
      value.forEach((item, i) => found.push(...problems(node["items"] as Node, item, `${path}[${i}]`)))
    }
    if (type === "object" && node["properties"] !== undefined) {
      const properties = node["properties"] as Record<string, Node>
      for (const name of node["required"] as ReadonlyArray<string>) {
        if (!(name in (value as Node))) found.push(`${path}.${name}: missing`)
      }
      for (const [name, inner] of Object.entries(value as Node)) {
        const others = node["additionalProperties"]
        if (name in properties) found.push(...problems(properties[name]!, inner, `${path}.${name}`))
        else if (others === false) found.push(`${path}.${name}: not known`)
        else found.push(...problems(others as Node, inner, `${path}.${name}`))
      }
    }
    return found
  }

  const written = (report: object): unknown => JSON.parse(JSON.stringify(Schema.encodeSync(type)(report)))
  /** As JSON, but for NaN. */
  const spelled = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value, (_, inner) => Number.isNaN(inner) ? "NaN" : inner))
  const check = (value: unknown) => problems(schema, value, "report")

  it("is the one that the package holds: npm run schema makes it", () => {
    expect(readFileSync(reportSchemaFile(name), "utf8")).toBe(reportSchemaText(name))
    const { exports } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))
    expect(exports[`./${name}.schema.json`]).toBe(`./dist/pipelines/${name}.schema.json`)
  })

  it("describes every field in the words of the source", () => {
    const silent: Array<string> = []
    const visit = (value: unknown, path: string): void => {
      if (typeof value !== "object" || value === null) return
      for (const [key, inner] of Object.entries(value)) {
        if (key === "properties") {
          for (const [name, one] of Object.entries(inner as Record<string, Node>)) {
            if (!one["description"]) silent.push(`${path}.${name}`)
          }
        }
        visit(inner, `${path}.${key}`)
      }
    }
    visit(schema, "")
    expect(silent).toEqual([])
    expect(JSON.stringify(schema)).toContain(says)
  })

  it("is kept by a report, also by one with numbers that are not known", () => {
    for (const report of reports) {
      expect(check(written(report))).toEqual([])
      const read = Schema.decodeUnknownSync(type)(written(report))
      expect(spelled(read)).toEqual(spelled(report))
    }
    // JSON has no NaN
    expect(JSON.stringify(written(reports.at(-1)!))).toContain("\"mean\":null")
  })

  it("is broken by what is missing, of another type, or not known", () => {
    const report = written(reports[0]) as Record<string, unknown>
    const { [field]: _, ...without } = report
    expect(check(without)).toEqual([`report.${field}: missing`])
    const [part, problem] = wrong
    expect(check({ ...report, ...part })).toEqual([problem])
    expect(check({ ...report, more: 1 })).toEqual(["report.more: not known"])
    expect(check({ ...report, seeds: ["1"] })).toEqual(["report.seeds[0]: string, not number"])
  })
})
