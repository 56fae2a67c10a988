/**
 * Every kernel case of every family that an adapter runs, without a test runner: `node --import tsx test/bench/cases.ts`, or
 * packed into one file. A JSON line a case on stdout, and one summary line at the end; exits with 1 where one is wrong.
 * `--deadline=90` stops after so many seconds, `--families=tensor,gpu` takes these in this order (by default a GPU's
 * first), `--types=f16` one of f32 and f16, `--only=attention` cases whose name contains it, `--seed=7` the same numbers.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import process from "node:process"
import { Device } from "../../src/gpu/Device.ts"
import { families, type Family } from "../../src/gpu/Target.ts"
import * as NodeDevice from "../../src/node.ts"
import { cases, nameOf, type Run, runOn, runsOf, whySkipped } from "../kernels/runs.ts"

const option = (name: string): string | undefined =>
  process.argv.find((argument) => argument.startsWith(`--${name}=`))?.slice(name.length + 3)

const print = (line: Readonly<Record<string, unknown>>): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

const order = (option("families")?.split(",") ?? ["tensor", "gpu", "software", "plain"]) as ReadonlyArray<Family>
const unknown = order.filter((family) => !families.includes(family))
if (unknown.length > 0) throw new Error(`--families: ${unknown.join(", ")} is none of ${families.join(", ")}`)
const types = option("types")?.split(",") ?? ["f32", "f16"]
const only = option("only") ?? ""
const seed = Number(option("seed") ?? Date.now() % 2 ** 31)
const began = performance.now()
const elapsed = (): number => (performance.now() - began) / 1000
const deadline = Number(option("deadline") ?? Infinity)

const typeOf = ({ f16 }: Run): string => f16.size > 0 ? "f16" : "f32"
const runs = runsOf(order, cases.filter((c) => c.name.includes(only)))
  .filter((run) => types.includes(typeOf(run)))
  .sort((a, b) => order.indexOf(a.family) - order.indexOf(b.family))

const count = { passed: 0, failed: 0, skipped: 0 }
const failed: Array<string> = []
let at = 0
let adapter = ""

/** Goes on with the cases until one leaves the device unusable, the last is done, or time is up. */
const some = Effect.gen(function*() {
  const device = yield* Device
  adapter = device.name
  while (at < runs.length && elapsed() < deadline) {
    const run = runs[at++]!
    if (whySkipped(device, run) !== undefined) {
      count.skipped++
      continue
    }
    const start = performance.now()
    const exit = yield* Effect.exit(Effect.scoped(runOn(device, run, seed)))
    const line = { bench: "case", name: nameOf(run), family: run.family, type: typeOf(run) }
    const seconds = (performance.now() - start) / 1000
    if (Exit.isSuccess(exit)) {
      count.passed++
      print({ ...line, correct: true, seconds })
      continue
    }
    count.failed++
    failed.push(line.name)
    print({ ...line, correct: false, seconds, error: Cause.pretty(exit.cause).slice(0, 1000) })
    // a wrong number is the case's alone; an error of the device stays with it
    const error = Option.getOrElse(Cause.failureOption(exit.cause), () => Cause.squash(exit.cause)) as { _tag?: string }
    if (error._tag === "DeviceError") return
  }
})

while (at < runs.length && elapsed() < deadline) {
  const before = at
  await Effect.runPromise(Effect.scoped(Effect.provide(some, NodeDevice.layer())))
  if (at === before) break
}
const left = runs.length - at
print({ bench: "cases", ...count, left, adapter, seed, seconds: elapsed(),
  ...(failed.length === 0 ? {} : { wrong: failed }) })
process.exitCode = count.failed > 0 ? 1 : 0
