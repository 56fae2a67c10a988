import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { identities } from "../../data/identity/Identity.ts"
import { counting, json, type OptionsOf, preset } from "./options.ts"

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
  pool: counting("pool").pipe(Options.withDescription("Sink neurons, over the preset's"), Options.optional),
  active: counting("active").pipe(Options.withDescription("Sinks an id lights"), Options.optional),
  block: counting("block").pipe(Options.withDescription("Sinks that are on as one"), Options.optional),
  seq: counting("seq").pipe(Options.withDescription("Tokens a row (default: 1024)"), Options.optional),
  json
}).pipe(
  Command.withDescription("Tell what repeats in token shards, and how ids would share sinks")
)

export type IdentityOptions = OptionsOf<typeof identity>
