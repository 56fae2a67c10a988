/** Writes .github/LICENCES.md: what an install brings, with its licences, from the lock file. */
import { readFileSync, writeFileSync } from "node:fs"
import process from "node:process"
import { pathToFileURL } from "node:url"

interface Package {
  readonly version: string
  readonly license?: string
  readonly dependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>
}

export interface Dependency {
  readonly name: string
  readonly version: string
  readonly licence: string
}

const lock = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8")) as {
  readonly packages: Readonly<Record<string, Package>>
}

/** Where a package that another asks for lies: beside it, or further up. */
const resolved = (name: string, from: string): string | undefined => {
  for (let folder = from;; folder = folder.replace(/(^|\/)node_modules\/(@[^/]+\/)?[^/]+$/, "")) {
    const path = `${folder === "" ? "" : `${folder}/`}node_modules/${name}`
    if (path in lock.packages) return path
    if (folder === "") return undefined
  }
}

/** What an install brings, with optional and peer dependencies. */
export const dependencies = (): ReadonlyArray<Dependency> => {
  const paths = new Set<string>()
  const visit = (path: string): void => {
    const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta = {} } = lock.packages[path]!
    const peers = Object.keys(peerDependencies ?? {}).filter((name) => peerDependenciesMeta[name]?.optional !== true)
    for (const name of [...Object.keys({ ...dependencies, ...optionalDependencies }), ...peers]) {
      const found = resolved(name, path)
      if (found === undefined || paths.has(found)) continue
      paths.add(found)
      visit(found)
    }
  }
  visit("")
  const found = Array.from(paths, (path) => {
    const { license = "unknown", version } = lock.packages[path]!
    return { name: path.replace(/^.*node_modules\//, ""), version, licence: license }
  })
  return [...new Map(found.map((one) => [`${one.name}@${one.version}`, one])).values()]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** Licences that ask for a notice and no more. */
export const permissive: ReadonlySet<string> = new Set([
  "0BSD",
  "Apache-2.0",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "BlueOak-1.0.0",
  "ISC",
  "MIT",
  "Unlicense"
])

/** Whether every part of an expression is permissive; of a choice, one. */
export const isPermissive = (licence: string): boolean =>
  licence.replace(/[()]/g, "").split(" AND ").every((part) => part.split(" OR ").some((one) => permissive.has(one)))

/** Binaries that packages carry, whose own licences their packages' do not tell. */
const carried: ReadonlyArray<readonly [string, string]> = [
  ["webgpu", "Dawn (BSD-3-Clause); for Windows also DirectX Shader Compiler (NCSA) and Microsoft's d3dcompiler_47.dll"],
  ["@sparticuz/chromium", "Chromium (BSD-3-Clause), of which SwiftShader and the Vulkan loader (Apache-2.0) are used"],
  ["koffi", "of the platform, through @koromix: the same licence"]
]

export const page = (): string => {
  const all = dependencies()
  const by = new Map<string, Array<Dependency>>()
  for (const one of all) by.set(one.licence, [...by.get(one.licence) ?? [], one])
  const sorted = [...by].sort(([a], [b]) => (a < b ? -1 : 1))
  return [
    "# Licences of what an install brings",
    "",
    "Written by `npm run licences` from the lock file; a test fails when it is old, or when a licence is unknown or asks for more than a",
    "notice. memsinks itself is under MIT; the corpus that comes with it, the State of the Union addresses, is in the public domain.",
    "Optional and peer dependencies are listed, too; what only development needs is not.",
    "",
    ...sorted.flatMap(([licence, packages]) => [
      `## ${licence}`,
      "",
      packages.map(({ name, version }) => `${name} ${version}`).join(", "),
      ""
    ]),
    "## Binaries within",
    "",
    ...carried.map(([name, what]) => `- ${name}: ${what}`),
    ""
  ].join("\n")
}

export const file = new URL("../.github/LICENCES.md", import.meta.url)

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) writeFileSync(file, page())
