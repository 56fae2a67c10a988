/** `memsinks identity`: what an identity means for token shards and for a pool of sinks. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { decodeConfig } from "../Config.ts"
import type { Identity } from "../data/identity/Identity.ts"
import { formatIdentityReport, identityReport } from "../data/stream/IdentityReport.ts"
import * as Tokenizer from "../data/tokens/Tokenizer.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { attempt, DataError } from "../Errors.ts"
import { type Preset, presets } from "../model/ModelConfig.ts"
import { SinkConfig } from "../Sink.ts"
import type { IdentityOptions } from "./commands/identity.ts"
import * as Edge from "./Edge.ts"

/** The preset's sinks, with what is given over them. */
const sinksOf = (options: IdentityOptions) =>
  Effect.gen(function*() {
    const name = Option.getOrElse(options.preset, (): Preset => "tiny")
    const preset = presets[name].sinks
    const given = Edge.given({ pool: options.pool, active: options.active, block: options.block })
    if (preset === undefined && !("pool" in given && "active" in given)) {
      const detail = `the preset ${name} has no sinks: give --pool and --active, e.g. --pool 2048 --active 32`
      return yield* new DataError({ detail })
    }
    const sinks = yield* decodeConfig(SinkConfig, { ...preset, ...given } as typeof SinkConfig.Encoded)
    return sinks.problem === undefined ? sinks : yield* new DataError({ detail: sinks.problem })
  })

/** Tokens of which the beginning of a text is shown. */
const BEGINNING = 60

/** Prints the report. Fails with `DataError` where the shards do not know what the identity takes. */
export const identity = (options: IdentityOptions) =>
  Effect.gen(function*() {
    const sinks = yield* Effect.mapError(sinksOf(options), Edge.usage)
    const shards = yield* TokenShards.open(options.data)
    const chosen = Option.getOrElse(options.identity,
      (): Identity => shards.near !== undefined ? "near" : shards.content !== undefined ? "content" : "document")
    const tokenizer = shards.tokenizer === undefined ? undefined : yield* Tokenizer.fromJSON(shards.tokenizer)
    const report = yield* attempt(() =>
      identityReport(shards, {
        identity: chosen,
        sinks,
        general: presets[Option.getOrElse(options.preset, (): Preset => "tiny")].general,
        ...Edge.given({ seqLen: options.seq }),
        ...(tokenizer === undefined ? {} : {
          text: (document: number) =>
            tokenizer.decode(shards.read(document, 0, Math.min(BEGINNING, shards.length(document))))
        })
      }), DataError).pipe(Effect.ensuring(Effect.sync(shards.close)))
    if (report === undefined) {
      return yield* new DataError({
        path: options.data,
        detail: chosen === "near"
          ? "the shards do not know near-duplicates: tokenize with them, or choose --identity content or document"
          : "the shards come without hashes of their texts: tokenize the texts with memsinks, or choose " +
            "--identity document"
      })
    }
    yield* Edge.print(options.json ? JSON.stringify(report) : formatIdentityReport(report))
  })
