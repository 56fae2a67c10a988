/** Ids, names and states at every parser that takes one: exactly what was meant, or a typed refusal. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { isId, parseId, toId } from "../../src/Batch.ts"
import { decodeConfig } from "../../src/Config.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { decodeNames, encodeNames, type NamedId, type Names, resolveId,
  splitIds } from "../../src/data/identity/Names.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { Canary } from "../../src/data/stream/DataConfig.ts"
import { SinkConfig, unitsOf } from "../../src/Sink.ts"
import type { Fuzzer } from "./fuzz.ts"

type Random = () => number

const below = (random: Random, n: number): number => Math.floor(random() * n)
const pick = <A>(random: Random, all: ReadonlyArray<A>): A => all[below(random, all.length)]!

/** A whole number: small, about a power of two, or of any 70 bits, now and then negative. */
const number = (random: Random): bigint => {
  const kind = below(random, 4)
  const bits = kind === 0 ? 8 : 70
  let n = 0n
  for (let i = 0; i < bits; i++) n = n * 2n + BigInt(below(random, 2))
  if (kind === 1) n = 2n ** BigInt(below(random, 70)) + BigInt(below(random, 5) - 2)
  return random() < 0.1 ? -n : n
}

const pieces = ["Genesis", "1 Samuel", "a,b", "\"", "\\", "é", "e\u0301", "日本", "\u0000", "\u001b[31m", " ", "0x",
  "7", "..", "/", "\u{1f600}", ""]
const name = (random: Random): string =>
  Array.from({ length: 1 + below(random, 4) }, () => pick(random, pieces)).join("")

const spell = (random: Random, n: bigint): string => {
  const digits = n < 0n
    ? `${n}`
    : pick(random, [`${n}`, `0x${n.toString(16)}`, `0X${n.toString(16).toUpperCase()}`, `000${n}`])
  return pick(random, ["", " ", "\t"]) + digits + pick(random, ["", " "])
}

const odd = ["", " ", "-0", "+1", "1.0", "1e3", "0x", "0b1", "1_000", "1n", "Infinity", "NaN", "０", "1 2",
  "9".repeat(100_000)]

/** What an effect came to: a value, the tag of its error, or a defect. */
const outcome = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>): Promise<
  { readonly value: A } | { readonly tag: string } | { readonly defect: string }
> =>
  Effect.runPromiseExit(effect).then((exit) =>
    Exit.isSuccess(exit)
      ? { value: exit.value }
      : exit.cause._tag === "Fail"
      ? { tag: exit.cause.error._tag }
      : { defect: Cause.pretty(exit.cause).split("\n")[0]! }
  )

const thrown = <A>(body: () => A): A | string => {
  try {
    return body()
  } catch (cause) {
    return cause instanceof RangeError ? "RangeError" : `untyped: ${cause}`
  }
}

const ids: Fuzzer = {
  name: "ids",
  run: async (random, inputs) => {
    const wrong: Array<string> = []
    const sinks = new SinkConfig({ pool: 64, active: 16, block: 4 })
    for (let i = 0; i < inputs; i++) {
      const n = number(random)
      const text = spell(random, n)
      const right = isId(n) ? n : undefined
      if (parseId(text) !== right) wrong.push(`parseId(${JSON.stringify(text)}) is ${parseId(text)}, not ${right}`)
      const api = thrown(() => toId(n))
      if (api !== (right ?? "RangeError")) wrong.push(`toId(${n}n) is ${String(api)}`)
      const lit = thrown(() => unitsOf(sinks, n).length)
      if (lit !== (right === undefined ? "RangeError" : 4)) wrong.push(`unitsOf(${n}n) is ${lit}`)
      const document = thrown(() => documentsOf([{ tokens: [1, 2], id: n }]).id!(0))
      if (document !== (right ?? "RangeError")) wrong.push(`documentsOf with ${n}n is ${String(document)}`)
      const found = await outcome(resolveId(text.trim(), undefined))
      if (right === undefined
        ? !("tag" in found && found.tag === "DataError")
        : !("value" in found && found.value.id === right))
      {
        wrong.push(`resolveId(${JSON.stringify(text.trim())}) came to ${
          JSON.stringify(found, (_, v) => typeof v === "bigint" ? `${v}` : v)
        }`)
      }
      const none = pick(random, odd)
      if (parseId(none) !== undefined) wrong.push(`parseId(${JSON.stringify(none.slice(0, 40))}) is ${parseId(none)}`)
      const canary = await outcome(decodeConfig(Canary, { text: "a", id: Number(n) }))
      const safe = Number.isSafeInteger(Number(n)) && n >= 0n
      if (safe ? !("value" in canary && canary.value.id === Number(n)) : !("tag" in canary)) {
        wrong.push(`a canary's id ${Number(n)} came to ${JSON.stringify(canary)}`)
      }
    }
    return wrong
  }
}

const names: Fuzzer = {
  name: "names of ids",
  run: async (random, inputs) => {
    const wrong: Array<string> = []
    const rows = new Map<bigint, NamedId>()
    for (let i = 0; i < 200; i++) {
      const one = `${name(random)}${i}`
      rows.set(sourceHash(one), { id: sourceHash(one), name: one, documents: i + 1, tokens: below(random, 1e6) })
    }
    const bytes = encodeNames({ identity: "source", ids: [...rows.values()] })
    const read = await outcome(decodeNames(bytes, "sources.parquet"))
    if (!("value" in read)) return [`what encodeNames wrote is not read: ${JSON.stringify(read)}`]
    const table: Names = read.value
    const known = [...rows.values()]
    for (let i = 0; i < inputs; i++) {
      const one = pick(random, known)
      const asked = pick<string | bigint>(random, [one.name, one.id, `${one.id}`, `0x${one.id.toString(16)}`])
      const found = await outcome(
        resolveId(asked, table, typeof asked === "string" && asked === one.name ? "name" : "either")
      )
      if (!("value" in found && found.value.id === one.id && found.value.name === one.name)) {
        wrong.push(`${String(asked)} is not found as ${JSON.stringify(one.name)}`)
      }
      const other = name(random)
      const strange = await outcome(resolveId(other, table))
      const there = known.find((row) => row.name === other) ?? rows.get(parseId(other) ?? -1n)
      if (there === undefined ? !("tag" in strange && strange.tag === "DataError") : !("value" in strange)) {
        wrong.push(
          `${JSON.stringify(other)}, which is ${there === undefined ? "not " : ""}there, came to ${
            Object.keys(strange)
          }`
        )
      }
      // a list of names, quoted, comes back as it was
      const list = Array.from({ length: 1 + below(random, 4) }, () => pick(random, known).name)
      const quoted = list.map((text) => `"${text.replace(/[\\"]/g, "\\$&")}"`).join(pick(random, [",", ", "]))
      if (JSON.stringify(splitIds(quoted)) !== JSON.stringify(list)) {
        wrong.push(`splitIds(${JSON.stringify(quoted)}) is ${JSON.stringify(splitIds(quoted))}`)
      }
      // any text is split or refused, at once
      const any = Array.from({ length: below(random, 8) }, () => pick(random, [...pieces, ",", "\"", "\\\""])).join("")
      const split = splitIds(any)
      if (split !== undefined && (split.length === 0 || split.some((part) => part === ""))) {
        wrong.push(`splitIds(${JSON.stringify(any)}) has an empty part`)
      }
      // a damaged file is refused, or reads as a table; nothing else
      const damaged = bytes.slice(0, random() < 0.5 ? bytes.length : below(random, bytes.length))
      if (damaged.length > 0) damaged[below(random, damaged.length)]! ^= 1 << below(random, 8)
      const seen = await outcome(Effect.flatMap(decodeNames(damaged, "sources.parquet"), (one) => one.largest(3)))
      if ("defect" in seen || ("tag" in seen && seen.tag !== "DataError")) {
        wrong.push(
          `a damaged file (${Buffer.from(damaged).toString("base64").slice(0, 80)}...) came to ${JSON.stringify(seen)}`
        )
      }
    }
    return wrong
  }
}

export const fuzzers: ReadonlyArray<Fuzzer> = [ids, names]
