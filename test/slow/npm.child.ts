/** A command without an end: writes `begun` to a file, and `stopped` when it is asked to stop. */
import * as Effect from "effect/Effect"
import { writeFileSync } from "node:fs"
import process from "node:process"
import * as Edge from "../../src/cli/Edge.ts"

const file = process.argv[2]!
Edge.runMain(
  Effect.sync(() => writeFileSync(file, "begun")).pipe(
    Effect.zipRight(Effect.never),
    Effect.onInterrupt(() => Effect.sync(() => writeFileSync(file, "stopped")))
  ),
  { disableErrorReporting: true, teardown: Edge.teardown }
)
