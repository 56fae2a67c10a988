/** What the package says of itself: versions, entries, licences. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { dependencies, file, isPermissive, page } from "./licences.ts"

const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8")
const manifest = JSON.parse(read("package.json")) as {
  readonly version: string
  readonly exports: Readonly<Record<string, { readonly default: string } | string>>
}

describe("licences of dependencies", () => {
  it("ask for a notice and no more", () => {
    const all = dependencies()
    expect(all.length).toBeGreaterThan(100)
    expect(all.map(({ name }) => name)).toEqual(expect.arrayContaining(["effect", "webgpu", "vega", "koffi"]))
    expect(all.filter(({ licence }) => !isPermissive(licence))).toEqual([])
    expect(["GPL-3.0-only", "MPL-2.0", "unknown", "MIT AND LGPL-3.0", "SEE LICENSE IN x"].filter(isPermissive)).toEqual(
      []
    )
    expect(["(MIT OR GPL-3.0)", "MIT AND BSD-3-Clause"].every(isPermissive)).toBe(true)
  })

  it("are listed: npm run licences", () => {
    expect(readFileSync(file, "utf8")).toBe(page())
  })
})

describe("the version", () => {
  it("is one, wherever it stands, and the changelog tells of it", () => {
    const { version } = manifest
    const deno = JSON.parse(read("deno.json")) as { readonly version: string }
    const lock = JSON.parse(read("package-lock.json")) as {
      readonly version: string
      readonly packages: Readonly<Record<string, { readonly version?: string }>>
    }
    expect([deno.version, lock.version, lock.packages[""]!.version]).toEqual([version, version, version])
    expect(read("CHANGELOG.md")).toMatch(new RegExp(`^## ${version.replaceAll(".", "\\.")}( |$)`, "m"))
  })

  it("has the same modules for JSR as for npm", () => {
    const deno = JSON.parse(read("deno.json")) as { readonly exports: Readonly<Record<string, string>> }
    const modules = Object.entries(manifest.exports).flatMap(([name, to]) =>
      typeof to === "string" ? [] : [[name, to.default.replace(/^\.\/dist\/(.*)\.js$/, "./$1.ts")]]
    )
    expect(deno.exports).toEqual(Object.fromEntries(modules))
  })
})
