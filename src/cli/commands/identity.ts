import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as Effect from "effect/Effect"
import { identities } from "../../data/identity/Identity.ts"
import { counting, json, preset } from "./options.ts"

/** `memsinks identity`: what it takes; what it does is loaded when it runs. */
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
}, (options) => Effect.flatMap(Effect.promise(() => import("../identity.ts")), (it) => it.identity(options))).pipe(
  Command.withDescription("Tell what repeats in token shards, and how ids would share sinks")
)
