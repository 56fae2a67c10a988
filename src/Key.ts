/**
 * Names of things by what they depend on: whatever is kept to be used again is kept under the hash of everything that its
 * value can depend on, so that two things with one key are the same thing. Pure.
 */
import { createHash } from "node:crypto"

/** Says where a key holds something that has no one text. */
const refuse = (at: string, what: string): never => {
  throw new TypeError(`a key is plain data, but ${at === "" ? "it" : at} is ${what}`)
}

/**
 * The one text of plain data: no white space, the keys of objects sorted by their UTF-16 units, fields that are undefined
 * left out. A bigint, a number that is not finite and -0 are told from all else. Throws a TypeError for what is no plain
 * data: functions, symbols, class instances of their own making (encode them first), undefined in a list, and cycles.
 */
export const canonical = (value: unknown): string => textOf(value, "", [])

const textOf = (value: unknown, at: string, above: ReadonlyArray<object>): string => {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value)
    case "boolean":
      return String(value)
    case "number":
      return Number.isFinite(value) ? Object.is(value, -0) ? "-0" : JSON.stringify(value) : `#${value}`
    case "bigint":
      return `#${value}n`
    case "object": {
      if (value === null) return "null"
      if (above.includes(value)) return refuse(at, "part of itself")
      const inside = [...above, value]
      if (Array.isArray(value)) {
        return `[${Array.from(value, (item: unknown, i) => textOf(item, `${at}[${i}]`, inside)).join(",")}]`
      }
      const prototype: unknown = Object.getPrototypeOf(value)
      if (prototype !== null && prototype !== Object.prototype) {
        return refuse(at, `a ${(value as { constructor?: { name?: string } }).constructor?.name ?? "class instance"}`)
      }
      const fields = Object.entries(value).filter(([, field]) => field !== undefined)
      fields.sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
      return `{${
        fields.map(([name, field]) =>
          `${JSON.stringify(name)}:${textOf(field, at === "" ? name : `${at}.${name}`, inside)}`
        ).join(",")
      }}`
    }
    default:
      return refuse(at, typeof value)
  }
}

/** The SHA-256 of the canonical text of plain data, 64 hexadecimal digits. The order of fields does not matter. */
export const keyOf = (value: unknown): string => createHash("sha256").update(canonical(value)).digest("hex")

/** As much of a key or a checksum as a person compares. */
export const shortKey = (key: string): string => key.slice(0, 12)
