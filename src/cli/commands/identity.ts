import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { identities } from "../../data/identity/Identity.ts"
import { described, json, number, type OptionsOf, preset } from "./options.ts"

/** `memsinks identity`: what it takes. */
export const identity = Command.make("identity", {
  data: Options.text("data").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Token shards: a folder that memsinks tokenize wrote, or a .bin file")
  ),
  identity: Options.choice("identity", identities).pipe(
    Options.withDescription("Who shares sinks (default: near where it is known, else content or document)"),
    Options.optional
  ),
  preset,
  pool: number("pool", "Sink neurons, over the preset's"),
  active: number("active", "Sinks an id lights"),
  block: number("block", "Sinks that are on as one"),
  seq: number("seq", "Tokens a row (default: 1024)"),
  json
}).pipe(
  described("Tell what repeats in token shards, and how ids would share sinks",
    "memsinks identity --data tokens --identity source --pool 256 --active 16")
)

export type IdentityOptions = OptionsOf<typeof identity>
