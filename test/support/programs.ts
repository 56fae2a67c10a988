/** Programs as users write them, importing `memsinks`: run from a folder where the sources stand in for the package. */
import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

/** The repository. */
export const root = fileURLToPath(new URL("../..", import.meta.url))

/** A new folder in which `memsinks` and its peers are installed; the test removes it. */
export const userFolder = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "memsinks-user-"))
  const installed = join(folder, "node_modules", "memsinks")
  mkdirSync(installed, { recursive: true })
  // the package's own exports lead to dist/; here its sources stand in, so that a test needs no build
  const exports = {
    ".": "./source/src/index.ts",
    "./node": "./source/src/node.ts",
    "./deno": "./source/src/deno.ts",
    "./pipelines/*": "./source/pipelines/*.ts"
  }
  writeFileSync(join(installed, "package.json"), JSON.stringify({ name: "memsinks", type: "module", exports }))
  symlinkSync(root, join(installed, "source"))
  for (const name of ["effect", "@effect", "@types", "@webgpu"]) {
    symlinkSync(join(root, "node_modules", name), join(folder, "node_modules", name))
  }
  writeFileSync(join(folder, "package.json"), "{\"type\":\"module\"}")
  return folder
}

/** Node with TypeScript, on files of any folder. */
export const tsx: ReadonlyArray<string> = ["--import", join(root, "node_modules/tsx/dist/esm/index.mjs")]

/** Runs a program on Node in a folder; gives what it writes. */
export const runProgram = async (folder: string, file: string, ...args: ReadonlyArray<string>): Promise<string> => {
  const { stderr, stdout } = await promisify(execFile)(process.execPath, [...tsx, file, ...args], {
    cwd: folder,
    timeout: 110_000
  })
  return stdout + stderr
}

/** What TypeScript says of the programs of a folder, strictly; empty where it has nothing to say. */
export const typeErrors = async (folder: string): Promise<string> => {
  const compilerOptions = {
    noEmit: true,
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    module: "nodenext",
    target: "es2022",
    lib: ["es2023", "dom"],
    types: ["node", "@webgpu/types"],
    allowImportingTsExtensions: true
  }
  const files = readdirSync(folder).filter((file) => file.endsWith(".ts"))
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files }))
  try {
    await promisify(execFile)(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", "."], {
      cwd: folder,
      maxBuffer: 2 ** 26
    })
    return ""
  } catch (error) {
    return (error as { readonly stdout: string }).stdout
  }
}

/** The blocks of code of a language in a text of Markdown. */
export const blocksOf = (markdown: string, language: string): ReadonlyArray<string> =>
  [...markdown.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, "gm"))].map(([, text]) => text!)

/** The programs in a file's docstrings: what stands under `@example`, and what they print, which is its last comment. */
export const examplesOf = (file: string): ReadonlyArray<{ readonly code: string; readonly prints: string }> =>
  [...readFileSync(join(root, file), "utf8").matchAll(/@example\n([\s\S]*?)\*\//g)]
    .map(([, text]) => blocksOf(text!.replace(/^ \* ?/gm, ""), "ts")[0] ?? "")
    .filter((code) => code.includes("Effect.runPromise"))
    .map((code) => ({ code, prints: /(?:^\/\/ .*\n)+$/m.exec(code)![0].replace(/^\/\/ /gm, "") }))
