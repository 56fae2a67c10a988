/** Who may import whom, held by reading the sources. A file that no rank names fails here: give it one. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"
import { describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))

/**
 * From the lowest to the highest: a file imports its own rank and lower ones, never a higher one. A rank is a folder with
 * those below it that have no rank of their own; the files at the top of src/ are the lowest, but for the entries.
 */
const ranks: ReadonlyArray<string> = [
  "src",
  "src/collective",
  "src/gpu",
  "src/data/source",
  "src/data",
  "src/data/identity",
  "src/data/tokens",
  "src/data/stream",
  "src/measures",
  "src/model",
  "src/checkpoints",
  "src/scoring",
  "src/train",
  "src/terminal",
  "src/runs",
  "src/inside",
  "src/removal",
  "src/attacks",
  "src/forget",
  "src/serve",
  "entries",
  "pipelines/report",
  "pipelines/experiment",
  "pipelines",
  "src/cli"
]

/** What users import, and the command line, stand at the top of src/ and above what they are made of. */
const entries: Readonly<Record<string, string>> = {
  "src/index.ts": "entries",
  "src/node.ts": "entries",
  "src/deno.ts": "entries",
  "src/doctor.ts": "entries",
  "src/cli.ts": "src/cli"
}

/** Files of one rank that never import each other. */
const siblings = ["src/model/Model.ts", "src/data/stream/DataStream.ts", "src/checkpoints/Checkpoints.ts"]

/** Only these name GPU* types; all else sees tensors, kernels and programs. */
const gpuTyped = /^src\/(gpu\/(Device|Adapter|SoftwareVulkan)|node|deno|doctor)\.ts$/

const barrels = ["effect", "@effect/platform", "@effect/platform-node", "@effect/cli"]

interface Source {
  readonly path: string
  /** As written, type-only and dynamic ones too. */
  readonly specifiers: ReadonlyArray<string>
  /** Relative ones, from the root of the repository. */
  readonly imports: ReadonlyArray<string>
  /** Names of types of WebGPU that the code, comments aside, mentions. */
  readonly gpuTypes: ReadonlyArray<string>
}

const read = (path: string): Source => {
  const text = readFileSync(join(root, path), "utf8")
  const specifiers = ts.preProcessFile(text, true, true).importedFiles.map((file) => file.fileName)
  const gpuTypes = new Set<string>()
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node) && /^GPU([A-Z]|$)/.test(node.text)) gpuTypes.add(node.text)
    ts.forEachChild(node, visit)
  }
  visit(ts.createSourceFile(path, text, ts.ScriptTarget.ES2022))
  return {
    path,
    specifiers,
    imports: specifiers.filter((s) => s.startsWith(".")).map((s) => relative(root, resolve(root, dirname(path), s))),
    gpuTypes: [...gpuTypes]
  }
}

const filesIn = (folder: string): ReadonlyArray<Source> =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .sort()
    .map((file) => read(join(folder, file)))

const rankOf = (path: string): number => {
  let folder = entries[path] ?? dirname(path)
  while (!ranks.includes(folder) && folder !== ".") folder = dirname(folder)
  return ranks.indexOf(folder)
}

const shipped = [...filesIn("src"), ...filesIn("pipelines")]
const reference = filesIn("test/reference")

const violations = (
  files: ReadonlyArray<Source>,
  forbidden: (file: Source, imported: string) => boolean
): ReadonlyArray<string> =>
  files.flatMap((file) => file.imports.filter((one) => forbidden(file, one)).map((one) => `${file.path} -> ${one}`))

describe("imports", () => {
  it("are found at all, from files and to files that have one rank each", () => {
    for (const path of ["src/train/Trainer.ts", "src/gpu/Device.ts", "pipelines/pretrain.ts"]) {
      expect(shipped.map((file) => file.path)).toContain(path)
    }
    expect(shipped.find((file) => file.path === "src/train/Trainer.ts")!.imports).toContain("src/model/Model.ts")
    expect(shipped.filter((file) => rankOf(file.path) < 0).map((file) => file.path)).toEqual([])
    const used = new Set(shipped.map((file) => ranks[rankOf(file.path)]))
    expect(ranks.filter((rank) => !used.has(rank))).toEqual([])
  })

  it("name relative files with their extension .ts, as Deno and tsx need", () => {
    for (const file of [...shipped, ...reference]) {
      expect(
        file.imports
          .filter((one) => !one.endsWith(".ts") || !existsSync(join(root, one)))
          .map((one) => `${file.path} -> ${one}`)
      ).toEqual([])
    }
  })

  it("go down or stay in their rank, never up", () => {
    expect(violations(shipped, (file, one) => rankOf(one) > rankOf(file.path) || rankOf(one) < 0)).toEqual([])
  })

  it("keep Model, DataStream and Checkpoints apart", () => {
    expect(violations(shipped, (file, one) => siblings.includes(file.path) && siblings.includes(one))).toEqual([])
  })

  it("keep the data stream and the checkpoints, and all they import, away from gpu/", () => {
    const reachable = (path: string, seen: Set<string>): Set<string> => {
      if (!seen.has(path)) {
        seen.add(path)
        for (const one of shipped.find((file) => file.path === path)!.imports) reachable(one, seen)
      }
      return seen
    }
    for (const path of ["src/data/stream/DataStream.ts", "src/checkpoints/Checkpoints.ts"]) {
      expect([...reachable(path, new Set())].filter((one) => one.startsWith("src/gpu/"))).toEqual([])
    }
  })

  it("form no cycle", () => {
    const done = new Set<string>()
    const cycles: Array<string> = []
    const walk = (path: string, above: ReadonlyArray<string>): void => {
      if (above.includes(path)) cycles.push([...above.slice(above.indexOf(path)), path].join(" -> "))
      else if (!done.has(path)) {
        for (const one of shipped.find((file) => file.path === path)?.imports ?? []) walk(one, [...above, path])
        done.add(path)
      }
    }
    for (const file of shipped) walk(file.path, [])
    expect(cycles).toEqual([])
  })

  it("let the float64 reference see nothing of src but pure modules", () => {
    expect(reference.length).toBeGreaterThan(2)
    expect(violations(reference, (_, one) => !one.startsWith("test/reference/") && rankOf(one) !== 0)).toEqual([])
  })

  it("take modules of effect one by one, never a whole package", () => {
    const tests = readdirSync(join(root, "test"), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => read(join("test", file)))
    for (const file of [...shipped, ...tests]) {
      expect(file.specifiers.filter((one) => barrels.includes(one)).map((one) => `${file.path} -> ${one}`)).toEqual([])
    }
  })
})

describe("GPU types", () => {
  it("are named only by the device, how it is found, and the runtime entry points", () => {
    expect(shipped.find((file) => file.path === "src/gpu/Device.ts")!.gpuTypes).toContain("GPUBuffer")
    expect(
      shipped
        .filter((file) => file.gpuTypes.length > 0 && !gpuTyped.test(file.path))
        .map((file) => [file.path, ...file.gpuTypes])
    ).toEqual([])
  })
})
