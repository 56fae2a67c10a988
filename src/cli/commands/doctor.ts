import * as Command from "@effect/cli/Command"
import { adapter, json, type OptionsOf } from "./options.ts"

/** `memsinks doctor`: what it takes. */
export const doctor = Command.make("doctor", { adapter, json }).pipe(
  Command.withDescription("Tell which GPU would be used, what it can do, and whether it computes correctly")
)

export type DoctorOptions = OptionsOf<typeof doctor>
