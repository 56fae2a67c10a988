/** `memsinks forget`: delete sources from a trained model. */
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { sep } from "node:path"
import process from "node:process"
import * as Audit from "../../pipelines/audit.ts"
import { view } from "../../pipelines/audit/view.ts"
import { toTerminal } from "../../pipelines/report/render.ts"
import { openCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import * as Corpus from "../data/Corpus.ts"
import { sameTokenizer } from "../data/tokens/SameTokenizer.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { CheckpointError, DataError } from "../Errors.ts"
import * as Certificate from "../forget/Certificate.ts"
import * as Copies from "../forget/Copies.ts"
import * as Forget from "../forget/Forget.ts"
import type * as Ledger from "../forget/Ledger.ts"
import { fields, parseRequests, type Request } from "../forget/Request.ts"
import { columns, count, hasColor, oneLine, plural, widthOf } from "../Terminal.ts"
import { inTurns } from "../Turns.ts"
import { leaveAudit, storeOf } from "./audit.ts"
import { signed } from "./certificate.ts"
import type { ForgetOptions } from "./commands/forget.ts"
import * as Edge from "./Edge.ts"
import { tellServer } from "./tellServer.ts"

/** What is asked of a checkpoint. */
type Asked = Omit<ForgetOptions, "checkpoint"> & { readonly checkpoint: string }

/** The sources that hold a text, as requests. */
const holding = (file: string, checkpoint: string, corpus: TokenShards.TokenShards) =>
  Effect.gen(function*() {
    const { names, path, tokenizer } = yield* openCheckpoint(checkpoint)
    if (names?.identity !== "source") {
      const detail = "its ids stand for no sources: name what is to be deleted with --id or --source"
      return yield* new CheckpointError({ reason: "Mismatch", path, detail })
    }
    if (tokenizer === undefined) {
      return yield* new CheckpointError({ reason: "Missing", path,
        detail: "holds no tokenizer.json, which --text needs" })
    }
    if (corpus.tokenizer !== undefined && !sameTokenizer(corpus.tokenizer, tokenizer.toJSON())) {
      return yield* new DataError({ detail: "--data was made with another tokenizer than the model's" })
    }
    const text = tokenizer.encode((yield* Corpus.readText(file)).trim())
    const holders = yield* inTurns(Copies.holdersOf(corpus, text))
    if (holders.length > 0) {
      return holders.map(({ source }): Request => ({ by: "source", value: source, reference: `text ${file}` }))
    }
    return yield* new DataError({ path: file, detail: "no source in --data holds this text, or half of it" })
  })

/** Those of the command line, and those of the files. */
const requestsOf = (options: Asked, corpus: TokenShards.TokenShards | undefined) =>
  Effect.gen(function*() {
    const given = fields.flatMap((by) => options[by].map((value): Request => ({ by, value })))
    if (Option.isSome(options.request)) {
      const path = options.request.value
      given.push(...(yield* parseRequests(yield* Corpus.readText(path), path)))
    }
    if (Option.isSome(options.text)) {
      if (corpus === undefined) {
        return yield* Effect.fail(
          Edge.usage({ message: "--text is looked for in --data: name the training's token shards" })
        )
      }
      given.push(...(yield* holding(options.text.value, options.checkpoint, corpus)))
    }
    return given.length > 0
      ? given
      : yield* Effect.fail(
        Edge.usage({
          message:
            `say whom to ${options.restore ? "restore" : "delete"}: --source <name>, --owner, --prefix, --document, ` +
            "--id, --request <file>, or --text <file>"
        })
      )
  })

/** What is to be done with them. */
const requestOf = (
  { operation, restore, shared }: Asked,
  requests: ReadonlyArray<Request>
): Effect.Effect<Forget.ForgetRequest, Edge.Usage> => {
  if (!restore) return Effect.succeed({ requests, ...Edge.given({ operation, shared }) })
  return Option.isSome(operation) || Option.isSome(shared)
    ? Effect.fail(Edge.usage({ message: "--restore takes back whatever was done: leave --operation and --shared out" }))
    : Effect.succeed({ requests, operation: "restore" })
}

/** Names that are listed. */
const SHOWN = 10

const some = (all: ReadonlyArray<{ readonly name: string; readonly tokens: number }>): string =>
  all.slice(0, SHOWN).map(({ name, tokens }) => `${oneLine(name)} (${plural(tokens, "token")})`).join(", ") +
  (all.length > SHOWN ? ` and ${count(all.length - SHOWN)} more` : "")

const describe = (plan: Omit<Forget.ForgetPlan, "step">): ReadonlyArray<string> => {
  const { already, deleted, operation, ownership, taken } = plan
  const { alone, left, most, shared, survivors, units } = ownership
  return [
    ...(already.length === 0
      ? []
      : [`${operation === "restore" ? "not deleted any more" : "deleted already"}: ${some(already)}`]),
    ...(operation === "restore" && deleted.length > 0
      ? [
        `to restore: ${some(deleted)}: they light their sinks again, and ${
          plural(taken.length, "block")
        } that were off for all are on`
      ]
      : []),
    ...(deleted.length === 0 || operation === "restore" ? [] : [
      `to delete: ${some(deleted)}; ${plural(survivors, "id")} stay`,
      `their sinks: of ${plural(units, "block")} ${count(alone.length)} lit by nobody else, ${
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
            ...most.slice(0, SHOWN).map(({ name, of, units }) => [`${units} of ${of}`, oneLine(name)])])]),
      ...(left === undefined ? [] : [
        `so many ids more can be taken whole until a survivor has lost a tenth of its sinks, on average: ${count(left)}`
      ])
    ])
  ]
}

/** Who else says what they say. */
const heldIn = (
  held: ReadonlyArray<Copies.Holder> | undefined,
  corpus: unknown,
  operation: Ledger.Act | undefined
): ReadonlyArray<string> => {
  if (operation === "restore") return []
  if (held === undefined) {
    return corpus === undefined
      ? ["who else holds the same texts was not asked: --data <token shards>"]
      : ["--data has no hashes of its texts, so who else holds them is not known"]
  }
  if (held.length === 0) return ["nobody who stays holds an equal or nearly equal document"]
  return ["", ...columns([["documents", "", "held by", "such as"], ...held.slice(0, SHOWN).map((
    { documents, examples, likeness, source }
  ) => [count(documents), likeness, oneLine(source), oneLine(examples[0]!)])]),
    ...(held.length > SHOWN ? [`and ${count(held.length - SHOWN)} more`] : []),
    "these stay: what they say is not deleted"]
}

const states = {
  holds: "still holds it",
  names: "names it",
  "may hold": "may hold it: that cannot be told",
  "may quote": "may quote it: not looked into"
} as const

/** Where something of what is deleted is, or may be, by what it is; paths as they are seen from here. */
const placesOf = (surfaces: Forget.ForgetReport["surfaces"]): ReadonlyArray<string> => {
  const here = `${process.cwd()}${sep}`
  const places = new Map<string, Array<string>>()
  for (const { path, state, what } of surfaces) {
    const title = `${what}: ${states[state]}`
    const paths = places.get(title) ?? []
    places.set(title, paths)
    paths.push(`  ${oneLine(path.startsWith(here) ? path.slice(here.length) : path)}`)
  }
  return ["Of what is deleted, and not touched:", ...Array.from(places, ([title, paths]) => [title, ...paths]).flat()]
}

const toJson = (plan: Omit<Forget.ForgetPlan, "step">) => ({
  ...plan,
  deleted: plan.deleted.map((one) => ({ ...one, id: `${one.id}` })),
  already: plan.already.map((one) => ({ ...one, id: `${one.id}` })),
  ownership: { ...plan.ownership, most: plan.ownership.most.map((one) => ({ ...one, id: `${one.id}` })) }
})

/** Tells about ten times how a refresh goes. */
const tellStep = (step: number, steps: number, loss: number): Effect.Effect<void> =>
  step % Math.ceil(steps / 10) === 0 || step === steps
    ? Effect.sync(() => Edge.complain(`refresh: step ${step} of ${steps}, loss ${loss.toFixed(3)}`))
    : Effect.void

/** What survivors lost, and what came back to them. */
const refreshedIn = (entry: Ledger.Entry | undefined): ReadonlyArray<string> => {
  if (entry?.refresh === undefined) return []
  const { loss, steps, survivors, units, withText } = entry.refresh
  const row = (who: string,
    { after, before, erased }: typeof loss.survivors) => [who, before.toFixed(3), erased.toFixed(3), after.toFixed(3)]
  return [
    "",
    `${plural(units, "block")} began afresh and learned ${plural(steps, "step")} of ${count(withText)} of ${
      plural(survivors, "survivor")
    } that light them`,
    ...columns([["loss, nats a token", "before", "erased", "refreshed"],
      row("survivors that lost sinks", loss.survivors),
      ...(loss.deleted === undefined ? [] : [row("the deleted, if nobody denied them", loss.deleted)])])
  ]
}

/** The audit of what was done, or in words why there is none; where that needs no words, none. */
const auditOf = (options: Asked, { deleted, deniedBefore, from, operation, out }: Forget.ForgetReport) => {
  if (out === undefined || operation === "restore" || options.noAudit) return ""
  if (Option.isNone(options.data)) {
    return "what is still known of the deleted is asked with their texts: memsinks audit --before " +
      `${from} --after ${out} --data <token shards>, or forget with --data`
  }
  if (deniedBefore === deleted.length) {
    return `in ${from} they were denied before: memsinks audit --before with the model that still had them`
  }
  const data = options.data.value
  return Effect.gen(function*() {
    return yield* Audit.audit({
      before: from,
      after: out,
      data,
      ...Edge.given({ oracle: options.oracle }),
      store: storeOf(out),
      device: (yield* Edge.runtime).layer(Edge.given({ adapter: options.adapter })),
      versions: Edge.versions(),
      ...(options.quiet ? {} : { onStage: (what: string) => Effect.sync(() => Edge.complain(`audit: ${what}`)) })
    })
  }).pipe(
    Effect.tapError(() =>
      Effect.sync(() => Edge.complain(`the deletion is done, in ${out}; its audit is not (--no-audit leaves it out):`))
    )
  )
}

/** Deletes, or tells a server, and prints what was done. */
export const runForget = (options: ForgetOptions) =>
  Option.isSome(options.server)
    ? tellServer(options, options.server.value)
    : Option.isSome(options.checkpoint)
    ? forgetIn({ ...options, checkpoint: options.checkpoint.value })
    : Effect.fail(Edge.usage({ message: "say where the model is: --checkpoint <folder>, or --server <url>" }))

const forgetIn = (options: Asked) =>
  Effect.gen(function*() {
    const corpus = Option.isNone(options.data)
      ? undefined
      : yield* Effect.acquireRelease(TokenShards.open(options.data.value), ({ close }) => Effect.sync(close))
    const request = { ...(yield* requestOf(options, yield* requestsOf(options, corpus))), corpus }
    const heldOf = ({ already, deleted }: Pick<Forget.ForgetPlan, "deleted" | "already">) =>
      corpus === undefined || options.restore
        ? undefined
        : Copies.copiesOf(corpus, new Set([...deleted, ...already].map(({ name }) => name)))
    if (options.dryRun) {
      const plan = yield* Forget.plan(options.checkpoint, request)
      const held = heldOf(plan)
      return yield* Edge.print(
        options.json
          ? JSON.stringify({ ...toJson(plan), heldBy: held })
          : [...describe(plan), ...heldIn(held, corpus, request.operation)].join("\n")
      )
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
      look: options.look,
      ...(corpus === undefined ? {} : { corpus }),
      ...(corpus === undefined || request.operation !== "refresh" ? {} : {
        refresh: {
          corpus,
          device: (yield* Edge.runtime).layer(Edge.given({ adapter: options.adapter })),
          seed: options.seed,
          train: options.train,
          ...Edge.given({ steps: options.steps, learningRate: options.lr, batchSize: options.batch,
            seqLen: options.seq }),
          ...(options.quiet ? {} : { onStep: tellStep })
        }
      }),
      ...(options.quiet ? {} : {
        onCheckpoint: (step: number, done: number, of: number) =>
          of === 1 ? Effect.void : Effect.sync(() => Edge.complain(`step ${step}: ${done + 1} of ${of}`))
      })
    })
    const { entry, out, surfaces } = report
    const held = heldOf(report)
    const certificate = key === undefined || out === undefined
      ? undefined
      : yield* signed(out, out, key)
    const asked = auditOf(options, report)
    if (options.json) {
      const audit = typeof asked === "string" ?
        asked :
        yield* Effect.flatMap(asked, (found) => Effect.as(leaveAudit(out!, found, key), found))
      return yield* Edge.print(
        JSON.stringify({ ...toJson(report), out, steps: report.steps, entry, surfaces, certificate, heldBy: held,
          audit })
      )
    }
    yield* Edge.print([
      ...describe(report),
      ...heldIn(held, corpus, request.operation),
      ...(out === undefined ? ["nothing is left to do, and nothing was written"] : [
        "",
        `written: ${out} (step ${report.steps.join(", ")})${
          certificate === undefined ? "" : `, certificate ${certificate}`
        }`,
        ...refreshedIn(entry),
        ...(surfaces.length === 0 ? [] : [
          "",
          ...placesOf(surfaces),
          options.look.length > 0
            ? "copies elsewhere were not looked for"
            : "exports and copies elsewhere were not looked for (--look <folder>)",
          ...(corpus === undefined ? ["which files quote it is told with --data"] : [])
        ])
      ])
    ].join("\n"))
    if (typeof asked === "string") return asked === "" ? undefined : yield* Edge.print(`no audit: ${asked}`)
    const found = yield* asked
    yield* leaveAudit(out!, found, key)
    yield* Edge.print(
      `${
        toTerminal(view(found), { color: hasColor(process.stdout, process.env),
          width: widthOf(process.stdout.columns, 100) })
      }\naudit: ${(yield* Path.Path).join(out!, "audit.html")}`
    )
  }).pipe(Effect.scoped)
