import * as Command from "@effect/cli/Command"
import { adapter, described, json, type OptionsOf } from "./options.ts"

/** `memsinks doctor`: what it takes. */
export const doctor = Command.make("doctor", { adapter, json }).pipe(
  described("Tell which GPU would be used, what it can do, and whether it computes correctly", "memsinks doctor",
    "memsinks doctor --adapter swiftshader --json")
)

export type DoctorOptions = OptionsOf<typeof doctor>
