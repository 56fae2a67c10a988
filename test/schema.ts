/**
 * `npm run schema`: makes pipelines/pretrain.schema.json and {isolate,dynamics,sweep}.config.schema.json, which editors
 * complete and check configurations with, and {isolation,dynamics,sweep,study,studies}.schema.json, which say what reports of these
 * hold.
 * Shapes and defaults come from the schemas, descriptions from the comments beside their fields.
 */
import * as JSONSchema from "effect/JSONSchema"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as AST from "effect/SchemaAST"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import ts from "typescript"
import { DynamicsConfig } from "../pipelines/dynamics/Config.ts"
import { DynamicsReport } from "../pipelines/dynamics/Report.ts"
import { IsolateConfig } from "../pipelines/isolation/Config.ts"
import { IsolationReport } from "../pipelines/isolation/Report.ts"
import { PretrainConfig } from "../pipelines/pretrain.ts"
import { StudiesReport, StudyReport } from "../pipelines/study/Report.ts"
import { SweepConfig } from "../pipelines/sweep/Config.ts"
import { SweepReport } from "../pipelines/sweep/Report.ts"

type Json = { [key: string]: unknown }

const root = new URL("../", import.meta.url)

/** Commands whose configuration has a schema. */
const configs = {
  pretrain: { schema: PretrainConfig, given: () => new PretrainConfig({}) },
  isolate: { schema: IsolateConfig, given: () => new IsolateConfig({}) },
  dynamics: { schema: DynamicsConfig, given: () => new DynamicsConfig({}) },
  sweep: { schema: SweepConfig, given: () => new SweepConfig({ fields: {} }) }
} as const
export type ConfigName = keyof typeof configs
export const configNames = Object.keys(configs) as ReadonlyArray<ConfigName>

/** Where the schema of a configuration is kept; that of pretrain has a name of its own, by which files of today know it. */
export const schemaFile = (name: ConfigName): URL =>
  new URL(`pipelines/${name === "pretrain" ? name : `${name}.config`}.schema.json`, root)

/** Reports whose schema is published, by the folder of pipelines that has it in its Report.ts, unless another is named. */
const reports = {
  isolation: { command: "memsinks isolate", schema: IsolationReport },
  dynamics: { command: "memsinks dynamics", schema: DynamicsReport },
  sweep: { command: "memsinks sweep", schema: SweepReport },
  study: { command: "memsinks study NAME", schema: StudyReport },
  studies: { command: "memsinks study --all", schema: StudiesReport, folder: "study" }
} as const
export type ReportName = keyof typeof reports
export const reportNames = Object.keys(reports) as ReadonlyArray<ReportName>

/** Where the schema of a report is kept. */
export const reportSchemaFile = (name: ReportName): URL => new URL(`pipelines/${name}.schema.json`, root)

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

// ---------------------------------------------------------------------------------------------------------------
// Comments

/** A comment as one line of words. */
const wordsOf = (comment: string): string =>
  comment.replace(/^\/\*\*|\*\/$/g, "").replace(/^\s*\*(?!\/) ?/gm, "").replace(/\s+/g, " ").trim()

/**
 * Comments of the properties of every object literal, under the sorted names of its properties; where several literals
 * have the same names, those in the file `own` come first.
 */
const commentsBySignature = (own?: string): ReadonlyMap<string, Readonly<Record<string, string>>> => {
  const found = new Map<string, Record<string, string>>()
  const files = ["src", "pipelines"].flatMap((folder) =>
    readdirSync(new URL(folder, root), { encoding: "utf8", recursive: true }).filter((name) => name.endsWith(".ts"))
      .map((name) => `${folder}/${name}`)
  )
  for (const file of own === undefined ? files : [...files, own]) {
    const source = ts.createSourceFile(file, readFileSync(new URL(file, root), "utf8"), ts.ScriptTarget.ES2022, true)
    /** Literals with names of their own, which others may spread. */
    const named = new Map<string,
      { readonly names: ReadonlyArray<string>; readonly comments: Record<string, string> }>()
    const visit = (node: ts.Node): void => {
      if (ts.isObjectLiteralExpression(node)) {
        const names: Array<string> = []
        const comments: Record<string, string> = {}
        for (const property of node.properties) {
          if (ts.isSpreadAssignment(property)) {
            const spread = named.get(property.expression.getText())
            names.push(...spread?.names ?? [])
            Object.assign(comments, spread?.comments)
          }
          if (!ts.isPropertyAssignment(property)) continue
          const name = property.name.getText()
          names.push(name)
          const range = ts.getLeadingCommentRanges(source.text, property.getFullStart())?.at(-1)
          const comment = range === undefined ? "" : source.text.slice(range.pos, range.end)
          if (comment.startsWith("/**")) comments[name] = wordsOf(comment)
        }
        if (ts.isVariableDeclaration(node.parent)) named.set(node.parent.name.getText(), { names, comments })
        if (Object.keys(comments).length > 0) found.set([...names].sort().join(), comments)
      }
      ts.forEachChild(node, visit)
    }
    visit(source)
  }
  return found
}

/** Comments of properties that are those of several literals together: the largest that have no other names say most. */
const partsOf = (
  comments: ReturnType<typeof commentsBySignature>,
  names: ReadonlyArray<string>
): Readonly<Record<string, string>> =>
  Object.assign({}, ...[...comments].map(([signature, known]) => ({ own: signature.split(","), known }))
    .filter(({ own }) => own.every((name) => names.includes(name)))
    .sort((a, b) => a.own.length - b.own.length).map(({ known }) => known))

// ---------------------------------------------------------------------------------------------------------------
// Defaults

const encoded = (value: unknown): unknown =>
  isObject(value) && Schema.isSchema(value.constructor)
    ? Schema.encodeUnknownSync(value.constructor as never)(value)
    : value

/** What an AST says of the fields of a struct: the defaults, and the ASTs of the fields. */
interface Fields {
  readonly defaults: Readonly<Record<string, unknown>>
  readonly types: Readonly<Record<string, ReadonlyArray<AST.AST>>>
}

const fieldsOf = (ast: AST.AST): ReadonlyArray<Fields> => {
  switch (ast._tag) {
    case "Refinement":
      return fieldsOf(ast.from)
    case "Union":
      return ast.types.flatMap(fieldsOf)
    case "TypeLiteral":
      return [{
        defaults: {},
        types: Object.fromEntries(ast.propertySignatures.map(({ name, type }) => [String(name), membersOf(type)]))
      }]
    case "Transformation": {
      const inner = fieldsOf(ast.from)
      if (ast.transformation._tag !== "TypeLiteralTransformation") return inner
      const defaults: Record<string, unknown> = {}
      for (const { decode, from } of ast.transformation.propertySignatureTransformations) {
        const value = decode(Option.none())
        if (Option.isSome(value)) defaults[String(from)] = encoded(value.value)
      }
      return inner.map(({ types }) => ({ types, defaults }))
    }
    default:
      return []
  }
}

/** The ASTs of a value, or of the items of an array of them. */
const membersOf = (ast: AST.AST): ReadonlyArray<AST.AST> =>
  ast._tag === "TupleType"
    ? [...ast.elements, ...ast.rest].flatMap(({ type }) => membersOf(type))
    : ast._tag === "Union"
    ? ast.types.flatMap(membersOf)
    : ast._tag === "Refinement"
    ? membersOf(ast.from)
    : [ast]

// ---------------------------------------------------------------------------------------------------------------

/** Without references and the names of filters, which say less than the comments. */
const plain = (node: unknown, defs: Json): unknown => {
  if (Array.isArray(node)) return node.map((item) => plain(item, defs))
  if (!isObject(node)) return node
  const { $defs: _defs, $id: _id, $ref, allOf, description: _description, title: _title, ...rest } = node
  const inner = Object.fromEntries(
    Object.entries(rest).map(([key, value]) => [
      key,
      key === "properties" && isObject(value)
        ? Object.fromEntries(Object.entries(value).map(([name, property]) => [name, plain(property, defs)]))
        : plain(value, defs)
    ])
  )
  const bases = [
    ...(typeof $ref === "string" ? [plain(defs[$ref.split("/").at(-1)!], defs)] : []),
    ...(Array.isArray(allOf) ? allOf.map((one) => plain(one, defs)) : [])
  ]
  return Object.assign({}, ...bases, inner)
}

/** The schema of a `--config` file, draft 7 of JSON Schema. */
export const makeSchema = (command: ConfigName): Json => {
  const comments = commentsBySignature()
  /** `given`: the value that a configuration has here without a file; a file is laid over it field by field. */
  const describe = (node: unknown, asts: ReadonlyArray<AST.AST>, given: Json | undefined): void => {
    if (Array.isArray(node)) return node.forEach((item) => describe(item, asts, given))
    if (!isObject(node)) return
    describe(node["anyOf"], asts, given)
    describe(node["items"], asts, undefined)
    // the values of a record
    const values = asts.flatMap((ast) =>
      ast._tag === "TypeLiteral" ? ast.indexSignatures.flatMap(({ type }) => membersOf(type)) : []
    )
    for (const one of Object.values(node["patternProperties"] ?? {})) describe(one, values, undefined)
    if (!isObject(node["properties"])) return
    const properties = node["properties"] as Record<string, Json>
    const names = Object.keys(properties).sort().join()
    const known = comments.get(names) ?? partsOf(comments, Object.keys(properties))
    const fields = asts.flatMap(fieldsOf).find(({ types }) => Object.keys(types).sort().join() === names)
    for (const [name, property] of Object.entries(properties)) {
      const own = fields?.defaults[name]
      const value = given?.[name] ?? own
      describe(property, fields?.types[name] ?? [], isObject(value) ? value : undefined)
      if (name in known) property["description"] = known[name]
      if (value === undefined || isObject(value)) continue
      property["default"] = value
      if (own !== undefined && JSON.stringify(own) !== JSON.stringify(value)) {
        property["description"] = `${property["description"]} Of memsinks ${command}: ${JSON.stringify(value)}.`
      }
    }
    if (given !== undefined || (node["required"] as ReadonlyArray<string>).length === 0) delete node["required"]
  }
  const config = configs[command].schema as unknown as Schema.Schema<object, Json>
  const made = JSONSchema.make(config) as unknown as Json
  const schema = plain(made, made["$defs"] as Json) as Json
  describe(schema, [config.ast], Schema.encodeSync(config)(configs[command].given()))
  // a file of JSON names its schema in itself
  const properties: Json = { $schema: { type: "string" }, ...(schema["properties"] as Json) }
  if (command === "sweep") {
    // all of pretrain's but what a sweep has of its own
    const { $schema: _, arms: __, seeds: ___, ...fields } = makeSchema("pretrain")["properties"] as Json
    Object.assign(properties["base"] as Json, { properties: fields, additionalProperties: false })
  }
  return { ...schema, title: `memsinks ${command}`, description: `What memsinks ${command} --config takes.`,
    properties }
}

/** The schema of a `report.json`, draft 7 of JSON Schema. */
export const makeReportSchema = (name: ReportName): Json => {
  const { command, folder = name, schema } = reports[name] as {
    readonly command: string
    readonly schema: Schema.Schema.Any
    readonly folder?: string
  }
  const comments = commentsBySignature(`pipelines/${folder}/Report.ts`)
  const describe = (node: unknown): unknown => {
    if (Array.isArray(node)) return node.map(describe)
    if (!isObject(node)) return node
    const { $id: _id, ...rest } = node
    const inner = Object.fromEntries(Object.entries(rest).map(([key, value]) => [key, describe(value)]))
    const properties = inner["properties"]
    if (!isObject(properties)) return inner
    const known = comments.get(Object.keys(properties).sort().join()) ?? {}
    return {
      ...inner,
      properties: Object.fromEntries(
        Object.entries(properties).map(([name, property]) => {
          if (!(name in known) || !isObject(property)) return [name, property]
          // beside a reference nothing else is read
          return [name, { ..."$ref" in property ? { allOf: [property] } : property, description: known[name] }]
        })
      )
    }
  }
  const described = describe(JSONSchema.make(schema)) as Json
  return { ...described, title: `${command}: report`, description: `What report.json of ${command} holds.` }
}

const textOf = (schema: Json): string => `${JSON.stringify(schema, undefined, 2)}\n`

/** The schemas as they are kept in their files. */
export const schemaText = (name: ConfigName): string => textOf(makeSchema(name))
export const reportSchemaText = (name: ReportName): string => textOf(makeReportSchema(name))

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const name of configNames) writeFileSync(schemaFile(name), schemaText(name))
  for (const name of reportNames) writeFileSync(reportSchemaFile(name), reportSchemaText(name))
}
