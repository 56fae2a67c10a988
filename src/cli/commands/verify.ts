import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { described, json, type OptionsOf } from "./options.ts"

/** `memsinks verify`: what it takes. */
export const verify = Command.make("verify", {
  file: Args.text({ name: "file" }).pipe(
    Args.withDescription("certificate.json in the folder that memsinks forget wrote, or that folder")
  ),
  key: Options.text("key").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("The public Ed25519 key of whoever signed it (PEM)")
  ),
  json
}).pipe(
  described("Check a certificate of a deletion: its signature, and every file that it names",
    "memsinks verify runs/b/certificate.json --key key.pub.pem")
)

export type VerifyOptions = OptionsOf<typeof verify>
