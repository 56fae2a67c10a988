import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"

interface Locked {
  readonly resolved?: string
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

describe("the lock file", () => {
  const lock = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8")) as {
    readonly packages: Readonly<Record<string, Locked>>
  }

  it("has the binaries of every platform, without which npm ci refuses it, and names no registry", () => {
    const names = new Set(Object.keys(lock.packages).map((path) => path.replace(/^.*node_modules\//, "")))
    const wanted = Object.entries(lock.packages).flatMap(([path, { optionalDependencies = {} }]) =>
      Object.keys(optionalDependencies).map((name) => [path, name] as const)
    )
    expect(wanted.length).toBeGreaterThan(20)
    expect(wanted.filter(([, name]) => !names.has(name))).toEqual([])
    expect(Object.values(lock.packages).filter((one) => one.resolved !== undefined)).toEqual([])
  })
})
