/** `memsinks forget`: delete sources from a trained model. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Corpus from "../data/Corpus.ts"
import * as Certificate from "../forget/Certificate.ts"
import * as Forget from "../forget/Forget.ts"
import { parseRequests, type Request } from "../forget/Request.ts"
import { columns, count, oneLine, plural } from "../Terminal.ts"
import { signed } from "./certificate.ts"
import type { ForgetOptions } from "./commands/forget.ts"
import * as Edge from "./Edge.ts"

/** Those of the command line, and those of the file. */
const requestsOf = (options: ForgetOptions) =>
  Effect.gen(function*() {
    const given = (["source", "prefix", "id"] as const).flatMap((by) =>
      options[by].map((value): Request => ({ by, value }))
    )
    if (Option.isSome(options.request)) {
      const path = options.request.value
      given.push(...(yield* parseRequests(yield* Corpus.readText(path), path)))
    }
    return given.length > 0
      ? given
      : yield* Effect.fail(
        Edge.usage({ message: "say whom to delete: --source <name>, --prefix, --id, or --request <file>" })
      )
  })

/** Names that are listed. */
const SHOWN = 10

const some = (all: ReadonlyArray<{ readonly name: string; readonly tokens: number }>): string =>
  all.slice(0, SHOWN).map(({ name, tokens }) => `${oneLine(name)} (${plural(tokens, "token")})`).join(", ") +
  (all.length > SHOWN ? ` and ${count(all.length - SHOWN)} more` : "")

const describe = (plan: Omit<Forget.ForgetPlan, "step">): ReadonlyArray<string> => {
  const { already, deleted, operation, ownership, taken } = plan
  const { active, alone, left, most, shared, survivors, units } = ownership
  return [
    ...(already.length === 0 ? [] : [`deleted already: ${some(already)}`]),
    ...(deleted.length === 0 ? [] : [
      `to delete: ${some(deleted)}; ${plural(survivors, "id")} stay`,
      `their sinks: ${plural(alone.length, "block")} of ${count(units)} lit by nobody else, ${
        count(shared.length)
      } by others, too; ${operation} ${
        operation === "deny"
          ? "leaves all of them as they are, and never lights them by these ids"
          : `takes ${count(taken.length)}`
      }`,
      Forget.costOf(plan as Forget.ForgetPlan),
      ...(most.length === 0 ?
        [] :
        ["",
          ...columns([["of its blocks", "survivor"],
            ...most.slice(0, SHOWN).map(({ name, units }) => [`${units} of ${active}`, oneLine(name)])])]),
      ...(left === undefined ? [] : [
        `so many ids more can be taken whole until a survivor has lost a tenth of its sinks, on average: ${count(left)}`
      ])
    ])
  ]
}

const states = {
  holds: "still holds it",
  names: "names it",
  "may quote": "may quote it: not looked into"
} as const

const toJson = (plan: Omit<Forget.ForgetPlan, "step">) => ({
  ...plan,
  deleted: plan.deleted.map((one) => ({ ...one, id: `${one.id}` })),
  already: plan.already.map((one) => ({ ...one, id: `${one.id}` })),
  ownership: { ...plan.ownership, most: plan.ownership.most.map((one) => ({ ...one, id: `${one.id}` })) }
})

/** Deletes, and prints what was done. */
export const runForget = (options: ForgetOptions) =>
  Effect.gen(function*() {
    const requests = yield* requestsOf(options)
    const request = { requests, operation: options.operation, shared: options.shared }
    if (options.dryRun) {
      const plan = yield* Forget.plan(options.checkpoint, request)
      return yield* Edge.print(options.json ? JSON.stringify(toJson(plan)) : describe(plan).join("\n"))
    }
    if (Option.isNone(options.out)) {
      return yield* Effect.fail(
        Edge.usage({ message: "say where the model without them goes: --out <folder>, or --dry-run" })
      )
    }
    const key = Option.isNone(options.key) ? undefined : yield* Certificate.privateKey(options.key.value)
    const report = yield* Forget.forget(options.checkpoint, request, {
      out: options.out.value,
      allCheckpoints: options.allCheckpoints,
      ...(options.quiet ? {} : {
        onCheckpoint: (step: number, done: number, of: number) =>
          of === 1 ? Effect.void : Effect.sync(() => Edge.complain(`step ${step}: ${done + 1} of ${of}`))
      })
    })
    const { entry, out, surfaces } = report
    const certificate = key === undefined || out === undefined
      ? undefined
      : yield* signed(out, out, key, surfaces)
    if (options.json) {
      return yield* Edge.print(
        JSON.stringify({ ...toJson(report), out, steps: report.steps, entry, surfaces, certificate })
      )
    }
    yield* Edge.print([
      ...describe(report),
      ...(out === undefined ? ["nothing is left to do, and nothing was written"] : [
        "",
        `written: ${out} (step ${report.steps.join(", ")})${
          certificate === undefined ? "" : `, certificate ${certificate}`
        }`,
        "",
        ...columns([["of what is deleted", "", "path"],
          ...surfaces.map(({ path, state, what }) => [what, states[state], path])]),
        "exports and copies elsewhere were not looked for"
      ])
    ].join("\n"))
  })
