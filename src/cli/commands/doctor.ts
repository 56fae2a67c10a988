import * as Command from "@effect/cli/Command"
import * as Effect from "effect/Effect"
import { adapter, json } from "./options.ts"

/** `memsinks doctor`: what it takes; what it does is loaded when it runs. */
export const doctor = Command.make(
  "doctor",
  { adapter, json },
  (options) => Effect.flatMap(Effect.promise(() => import("../doctor.ts")), (it) => it.doctor(options))
).pipe(
  Command.withDescription("Tell which GPU would be used, what it can do, and whether it computes correctly")
)
