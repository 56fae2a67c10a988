/** `memsinks audit`: what is still known of what was deleted from a model. */
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { join } from "node:path"
import process from "node:process"
import * as Audit from "../../pipelines/audit.ts"
import { view } from "../../pipelines/audit/view.ts"
import { writeJson, writeText } from "../../pipelines/experiment/RunFolder.ts"
import { toHtml, toMarkdown, toTerminal } from "../../pipelines/report/render.ts"
import * as Certificate from "../forget/Certificate.ts"
import { hasColor, widthOf } from "../Terminal.ts"
import { signed } from "./certificate.ts"
import type { AuditOptions } from "./commands/audit.ts"
import * as Edge from "./Edge.ts"
import { queueOf } from "./experiment.ts"

/** Where the answers that an audit is made of are kept, unless told: with the model that they are of. */
export const storeOf = (after: string): string => join(after, "audit")

/** Leaves an audit in the folder that it is of, and signs all of it anew where there is a key: the certificate's path. */
export const leaveAudit = (after: string, report: Audit.AuditReport, key: Certificate.SigningKey | undefined) =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const shown = view(report)
    const folder = paths.resolve(after)
    yield* writeJson(paths.join(folder, "audit.json"), report)
    yield* writeText(paths.join(folder, "audit.md"), toMarkdown(shown))
    yield* writeText(paths.join(folder, "audit.html"), yield* Effect.promise(() => toHtml(shown)))
    return key === undefined ? undefined : yield* signed(folder, report.after, key)
  })

/** Attacks that an option names. */
const attacksOf = (names: string) =>
  names === "all" ? "all" as const : names === "none" ? [] : names.split(",").map((name) => name.trim())

/** Audits, prints what was found, and leaves it in the folder that was audited. */
export const runAudit = (options: AuditOptions) =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const runtime = yield* Edge.runtime
    const key = Option.isNone(options.key) ? undefined : yield* Certificate.privateKey(options.key.value)
    const store = Option.getOrElse(options.store, () => storeOf(options.after))
    const report = yield* Audit.audit({
      before: options.before,
      after: options.after,
      data: options.data,
      passages: options.passages,
      relearningSteps: options.relearn,
      seed: options.seed,
      ...Edge.given({ oracle: options.oracle, sourceField: options.sourceField, seqLen: options.seq,
        neverSeen: options.neverSeen, facts: options.facts, attacks: Option.map(options.attacks, attacksOf) }),
      store,
      ...yield* queueOf({ ...options, store: Option.some(store) }),
      device: runtime.layer(Edge.given({ adapter: options.adapter })),
      versions: Edge.versions(),
      ...(options.quiet ? {} : { onStage: (what: string) => Effect.sync(() => Edge.complain(what)) })
    }).pipe(
      Effect.onInterrupt(() => Effect.sync(() => Edge.complain("interrupted: the same command goes on")))
    )
    const certificate = yield* leaveAudit(options.after, report, key)
    yield* Edge.print(options.json ? JSON.stringify({ ...report, certificate }) : toTerminal(view(report), {
      color: hasColor(process.stdout, process.env),
      width: widthOf(process.stdout.columns, 100)
    }))
    if (!options.json) {
      const page = paths.join(paths.resolve(options.after), "audit.html")
      yield* Edge.print(`audit: ${page}${certificate === undefined ? "" : `, ${certificate}`}`)
    }
  })
