/** The run that is replayed: what is asked of it, its models, and whether their checkpoints are of them. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import { decodeConfig, natural } from "../../src/Config.ts"
import { type DataStream } from "../../src/data/stream/DataStream.ts"
import { sameTokenizer } from "../../src/data/tokens/SameTokenizer.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { CheckpointError, DataError } from "../../src/Errors.ts"
import { differences, parseJson } from "../../src/Json.ts"
import { huggingFaceConfig, modelConfigOf } from "../../src/model/HuggingFace.ts"
import { type ModelConfig } from "../../src/model/ModelConfig.ts"
import { type RunRecord } from "../../src/runs/RunRecord.ts"
import { runAbove, type SavedModel, savedModels } from "../../src/runs/Runs.ts"
import { folderOf } from "../experiment/RunFolder.ts"
import { type Files } from "../experiment/Train.ts"
import { planOf } from "./Config.ts"
import { MaskState } from "./Report.ts"
/** What a replay is asked for; what is not given is as the run has it. */
export interface Asked {
  /** States of the sinks. Default: those of a run of `memsinks dynamics`, else own and off. */
  readonly masks?: ReadonlyArray<MaskState>
  /** Probe the sequences with these ids (numbers, or names of sources, documents or sequences), of all that the data hands out, and no others. Default: those of all groups. */
  readonly ids?: ReadonlyArray<bigint | string>
  /** Held-out sequences that are probed. Default: as many as a run of `memsinks dynamics` probed, else 32. */
  readonly foils?: number
  /** Sequences seen once an epoch that are probed. Default: as many as a run of `memsinks dynamics` probed, else 16. */
  readonly background?: number
  /** Tokens given before recall and verbatim count. Default: those of the run, or 16. */
  readonly promptTokens?: number
  /** Sequences of a group whose logits are taken apart, at most. Default: those of a run of `memsinks dynamics`, else 4. */
  readonly decomposed?: number
}

/** What a replay depends on, all defaults spelled out. */
export class ReplayConfig extends Schema.Class<ReplayConfig>("ReplayConfig")({
  /** The run's folder. */
  from: Schema.NonEmptyString,
  masks: Schema.NonEmptyArray(MaskState),
  /** As text, since JSON has no whole numbers of 64 bits. */
  ids: Schema.optional(Schema.NonEmptyArray(Schema.NonEmptyString)),
  foils: natural,
  background: natural,
  promptTokens: Schema.Int.pipe(Schema.positive()),
  decomposed: natural
}) {}

export interface Source {
  readonly record: RunRecord
  /** In the order of their seeds, then of the run's arms. */
  readonly models: ReadonlyArray<SavedModel>
}

/** The models of a run, or the one whose folder is named. */
export const sourceOf = (from: string): Effect.Effect<Source, DataError, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const wrong = (detail: string) => new DataError({ path: from, detail })
    if (!(yield* Effect.orElseSucceed(fs.exists(from), () => false))) {
      return yield* wrong("there is no such folder: name the folder of a run of memsinks pretrain or memsinks dynamics")
    }
    const base = path.basename(from)
    if (/^step-\d{8,}/.test(base)) {
      return yield* wrong(`is one checkpoint, and a replay goes through all of a model: name ${path.dirname(from)}`)
    }
    const record = runAbove(from)
    if (record === undefined) {
      return yield* wrong(
        "there is no run: neither it nor a folder above it has a run.json. Name the folder of a run of memsinks pretrain " +
          "or memsinks dynamics"
      )
    }
    if (record.kind !== "pretrain" && record.kind !== "dynamics") {
      return yield* wrong(
        `holds a run of memsinks ${record.kind}, which keeps no checkpoints along training: name one of memsinks ` +
          "pretrain or memsinks dynamics"
      )
    }
    const config = Object(record.config) as { readonly from?: unknown; readonly data?: { readonly seed?: unknown } }
    if (record.kind === "dynamics" && typeof config.from === "string") {
      return yield* wrong(`is a replay itself, of ${config.from}: name that`)
    }
    const models = savedModels(from, record, folderOf)
    if (models.length === 0) {
      return yield* wrong(
        "holds no checkpoint, that is no folder like seed-1/sinks/step-00000000: let the run train on, or name another one"
      )
    }
    return { record, models }
  })

/** What is not given is as the run has it. */
export const configOf = (from: string, record: RunRecord, asked: Asked): Effect.Effect<ReplayConfig, DataError> =>
  Effect.gen(function*() {
    const run = Object(record.config) as { readonly promptTokens?: number }
    const dynamics = record.kind === "dynamics" ? (yield* planOf(record.config)).config : undefined
    const config = yield* decodeConfig(ReplayConfig, {
      from,
      masks: asked.masks ?? dynamics?.masks ?? ["own", "off"],
      ...(asked.ids === undefined ? {} : { ids: [...new Set(asked.ids)].map(String) }),
      foils: asked.foils ?? dynamics?.foils ?? 32,
      background: asked.background ?? dynamics?.backgroundProbes ?? 16,
      promptTokens: asked.promptTokens ?? run.promptTokens ?? 16,
      decomposed: asked.decomposed ?? dynamics?.decomposed ?? 4
    })
    const twice = config.masks.find((mask, i) => config.masks.indexOf(mask) !== i)
    if (twice !== undefined) return yield* new DataError({ detail: `masks: ${twice} is named twice: leave one out` })
    return config
  })

/** What a checkpoint says that it is; undefined where it is too damaged to say so. */
const headOf = ({ path: folder }: SavedModel["saved"][number]) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const file = path.join(folder, "config.json")
    const text = yield* fs.readFileString(file)
    const config = yield* modelConfigOf(yield* parseJson(text), file)
    const tokenizer = yield* Effect.option(fs.readFileString(path.join(folder, "tokenizer.json")))
    return { config, tokenizer: Option.getOrUndefined(tokenizer) }
  }).pipe(Effect.option, Effect.map(Option.getOrUndefined))

/** The item that is there most often, the first of those. */
const mostOften = (items: ReadonlyArray<string>): string | undefined => {
  const counts = new Map<string, number>()
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1)
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0]
}

/**
 * The model that all checkpoints of a folder are; undefined where none of them can be read. Reads no weights, but those of
 * a checkpoint that seems to be of another model: it may only be damaged, which is told when its turn comes. Fails with
 * `CheckpointError` Mismatch, naming the file and what differs.
 */
export const checkModel = (
  { arm, saved, seed }: SavedModel,
  { tokenizer }: typeof DataStream.Service
): Effect.Effect<ModelConfig | undefined, CheckpointError, Files> =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    const text = tokenizer.toJSON()
    const heads =
      (yield* Effect.forEach(saved, (one) => Effect.map(headOf(one), (head) => head && { ...one, ...head })))
        .filter((head) => head !== undefined)
    const key = (config: ModelConfig) => JSON.stringify(huggingFaceConfig(config))
    const usual = heads.find(({ config }) => key(config) === mostOften(heads.map(({ config }) => key(config))))?.config
    for (const { config, path: folder, tokenizer: own } of heads) {
      const other = own === undefined || own === text
        ? undefined
        : Option.getOrUndefined(yield* Effect.option(Tokenizer.fromJSON(own)))
      const [file, detail] = key(config) !== key(usual!)
        ? [
          "config.json",
          `is of another model than the other checkpoints of ${arm}, seed ${seed}:\n  ` +
          differences(huggingFaceConfig(config), huggingFaceConfig(usual!)).join("\n  ").replaceAll(", was ",
            ", there ") +
          "\n" +
          "Move it out of the run's folder"
        ] as const
        : config.vocabSize < tokenizer.vocabSize
        ? [
          "config.json",
          `has a vocabulary of ${config.vocabSize}, but the tokenizer of the run's data has ${tokenizer.vocabSize} ` +
          "entries: the data is not what the model was trained on"
        ] as const
        : other !== undefined && !sameTokenizer(other.toJSON(), text)
        ? [
          "tokenizer.json",
          `is another tokenizer than that of the run's data: it has ${other.vocabSize} entries, the data's has ` +
          `${tokenizer.vocabSize}${
            other.vocabSize === tokenizer.vocabSize ? ", and they are not the same" : ""
          }. Bring ` +
          "the data back as it was when the model was trained, or move the checkpoint out of the run's folder"
        ] as const
        : []
      if (file === undefined || Option.isNone(yield* Effect.option(loadInitial(folder)))) continue
      return yield* new CheckpointError({ reason: "Mismatch", path: path.join(folder, file), detail })
    }
    return usual
  })
