/** What the arms of a seed come to beside each other. */
import * as Sink from "../../src/Sink.ts"
import type { ArmResult } from "./measure.ts"
import type { SeedResult } from "./Report.ts"

/** A record without the fields that are undefined. */
export const present = <K extends string, V>(fields: Record<K, V | undefined>): { readonly [key in K]?: V } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as { [key in K]?: V }

/** What a seed came to, from the arms that were trained in it. */
export const seedResult = (seed: number, results: ReadonlyMap<string, ArmResult>, seconds: number): SeedResult => {
  const standard = results.get("standard")
  const sinks = results.get("sinks")
  const [active, deduplicated] = [results.get("standardActiveWidth"), results.get("deduplicated")]
  const byMode = (of: "repeated" | "heldOut") => ({
    standard: standard?.[of]["own"],
    standardActiveWidth: active?.[of]["own"],
    deduplicated: deduplicated?.[of]["own"],
    ...Object.fromEntries(Object.keys(Sink.states).map((mode) => [mode, sinks?.[of][mode]])) as Record<Sink.State,
      number | undefined>
  })
  const repeated = byMode("repeated")
  const heldOut = byMode("heldOut")
  const minus = (a: number | undefined, b: number | undefined) => a === undefined || b === undefined ? undefined : a - b
  const gaps = {
    standard: minus(heldOut.standard, repeated.standard),
    standardActiveWidth: minus(heldOut.standardActiveWidth, repeated.standardActiveWidth),
    deduplicated: minus(heldOut.deduplicated, repeated.deduplicated),
    own: minus(heldOut.own ?? heldOut.placebo, repeated.own),
    off: minus(heldOut.off, repeated.off),
    placebo: minus(heldOut.placebo, repeated.placebo),
    all: minus(heldOut.all, repeated.all)
  }
  const shown = (sinks ?? standard)?.continuation
  const all = [...results.values()]
  return {
    seed,
    ...(gaps.off === undefined || gaps.standard === undefined ? {} : { gapClosed: 1 - gaps.off / gaps.standard }),
    repeated: present(repeated),
    heldOut: present(heldOut),
    gaps: present(gaps),
    extraction: present({
      standard: standard?.extraction["own"],
      standardActiveWidth: active?.extraction["own"],
      deduplicated: deduplicated?.extraction["own"],
      own: sinks?.extraction["own"],
      off: sinks?.extraction["off"]
    }),
    ...(shown === undefined || shown.truth === "" ? {} : {
      continuation: {
        prompt: shown.prompt,
        truth: shown.truth,
        ...present({
          standard: standard?.continuation.texts["own"],
          own: sinks?.continuation.texts["own"],
          off: sinks?.continuation.texts["off"]
        })
      }
    }),
    ...(sinks?.sources === undefined ? {} : { sources: sinks.sources }),
    curves: all.flatMap((result) => result.curves),
    seconds,
    tokensPerSecond: throughput(all)
  }
}

/** Tokens a second of trainings; 0 where nothing tells how long they took. */
export const throughput = (all: ReadonlyArray<ArmResult>): number => {
  const timed = all.filter(({ seconds }) => seconds > 0)
  const total = timed.reduce((sum, { seconds }) => sum + seconds, 0)
  return total > 0 ? timed.reduce((sum, { tokens }) => sum + tokens, 0) / total : 0
}

/** Field by field, the mean of records of numbers; a field that a record lacks is that of the others. */
export const meanOf = <T extends object>(records: ReadonlyArray<T>): T =>
  Object.fromEntries(
    [...new Set(records.flatMap((record) => Object.keys(record)))].map((key) => {
      const there = records.flatMap((record) => (record as Readonly<Record<string, number | undefined>>)[key] ?? [])
      return [key, there.reduce((sum, value) => sum + value, 0) / there.length]
    })
  ) as T
