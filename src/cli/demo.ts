/** `memsinks demo`: forgetting a source, from nothing to a certificate that is verified. */
import * as Effect from "effect/Effect"
import process from "node:process"
import { view } from "../../pipelines/audit/view.ts"
import { demo as run } from "../../pipelines/demo.ts"
import { toTerminal } from "../../pipelines/report/render.ts"
import * as Certificate from "../forget/Certificate.ts"
import { hasColor, plural, widthOf } from "../Terminal.ts"
import { leaveAudit } from "./audit.ts"
import type { DemoOptions } from "./commands/demo.ts"
import * as Edge from "./Edge.ts"

/** Runs all of it, and prints what the audit found. */
export const runDemo = (options: DemoOptions) =>
  Effect.gen(function*() {
    const runtime = yield* Edge.runtime
    const made = yield* run({
      outDir: options.outDir,
      device: runtime.layer(Edge.given({ adapter: options.adapter })),
      versions: Edge.versions(),
      ...(options.quiet ? {} : { onStage: (what: string) => Effect.sync(() => Edge.complain(what)) })
    })
    const key = yield* Certificate.privateKey(made.key)
    const certificate = yield* leaveAudit(made.after, made.audit, key)
    const { files } = yield* Certificate.verify(certificate!, made.key)
    if (options.json) return yield* Edge.print(JSON.stringify({ ...made, certificate, verified: files }))
    yield* Edge.print([
      toTerminal(view(made.audit), { color: hasColor(process.stdout, process.env),
        width: widthOf(process.stdout.columns, 100) }),
      `certificate: ${certificate}, verified with ${plural(files, "file")}`,
      `before: ${made.before}; after: ${made.after}; try`,
      `  memsinks generate --checkpoint ${made.before} --source "${made.deleted}" --prompt "Fellow citizens" --temperature 0`,
      `  memsinks generate --checkpoint ${made.after} --sinks off --prompt "Fellow citizens" --temperature 0`
    ].join("\n"))
  })
