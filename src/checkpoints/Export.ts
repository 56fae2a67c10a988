/**
 * A trained model for other programs: sinks switched off, or some of them kept for good, as a plain Llama. Neurons that
 * are off are not in what is written: it has no sinks left, and less to compute.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import { deleted, resolveId } from "../data/identity/Names.ts"
import { attempt, CheckpointError, DataError } from "../Errors.ts"
import { encode as toHalves } from "../Float16.ts"
import * as HuggingFace from "../model/HuggingFace.ts"
import { huggingFaceConfig } from "../model/HuggingFace.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import * as Sink from "../Sink.ts"
import { plural } from "../Terminal.ts"
import * as Checkpoints from "./Checkpoints.ts"
import * as Gguf from "./Gguf.ts"
import { type InitialModel, loadInitial } from "./Import.ts"
import * as LlamaCpp from "./LlamaCpp.ts"
import * as Safetensors from "./Safetensors.ts"
import { deadUnits } from "./Units.ts"

/** Which sinks the exported model keeps. */
export type ExportSinks =
  /** None: what all data has in common. */
  | { readonly mode: "off" }
  /**
   * Those that at least one of these ids lights: numbers, or names of what the model was trained on. Training lights those
   * of one id at a time, so of several ids together more are on than ever were: refused without `union`.
   */
  | { readonly mode: "own"; readonly ids: ReadonlyArray<bigint | string>; readonly union?: boolean }
  /**
   * All, each at its expected value (its probability of being on), as in Sink.all. Where some that only denied ids light still
   * hold weights: refused without `withDenied`.
   */
  | { readonly mode: "all"; readonly withDenied?: boolean }

export type ExportFormat = "safetensors" | "gguf"

export type ExportType = "f32" | "f16" | "q8_0"

/** What is written of a checkpoint, and in which form. */
export interface ExportOptions {
  /** `safetensors`: a folder as Hugging Face has it. `gguf`: one file for llama.cpp. */
  readonly format: ExportFormat
  /** Default: off. */
  readonly sinks?: ExportSinks
  /** Type of the weights; `q8_0` only for gguf. Norms stay f32 in gguf. Default f32. */
  readonly dtype?: ExportType
  /** Of the file's general.name. Default: the folder's name. */
  readonly name?: string
  /** Above so many bytes safetensors are split into several files with an index. Default 5 GB, as at Hugging Face. */
  readonly maxShardBytes?: number
}

/** What was written. */
export interface ExportReport {
  readonly path: string
  readonly format: ExportFormat
  readonly dtype: ExportType
  readonly bytes: number
  readonly parameters: number
  /** MLP width of what was written, and of what it comes from. */
  readonly intermediateSize: number
  readonly from: { readonly path: string; readonly step: number | undefined; readonly intermediateSize: number }
  readonly general: number
  /** Sink neurons in every MLP of what was written. */
  readonly sinks: number
  /** Whose sinks were kept, with their names where the model has such. */
  readonly kept: ReadonlyArray<{ readonly id: string; readonly name?: string }>
  /** Neurons of zeros added to every MLP, for a width that the format can hold. */
  readonly padding: number
  /** What a user should know. */
  readonly notes: ReadonlyArray<string>
}

/** A model without sinks whose tensors are cut out when they are asked for. */
export interface Pruned {
  readonly config: ModelConfig
  readonly tensors: Readonly<Record<string, LlamaCpp.LazyTensor>>
  readonly sinks: number
  readonly padding: number
}

/** Sinks by the numbers of their ids. */
export type KeptSinks = { readonly mode: "off" | "all" } | { readonly mode: "own"; readonly ids: ReadonlyArray<bigint> }

const modeOf = (sinks: KeptSinks): Sink.SinkMode =>
  sinks.mode === "own" ? { mode: "only", ids: sinks.ids } : sinks.mode === "all" ? Sink.all : Sink.off

/**
 * Keeps the neurons that are on, in their order, and multiplies columns of the down-projections where a mode scales its
 * neurons. The result computes what the model computes in that mode; no weight changes where the scale is 1. The new
 * width is filled up with neurons of zeros to a multiple of `multipleOf` (at least 4, which every width here is).
 */
export const prune = (
  c: ModelConfig,
  weights: Readonly<Record<string, Safetensors.HostTensor>>,
  sinks: KeptSinks,
  multipleOf = 4
): Pruned => {
  const coef = c.sinks === undefined
    ? Float32Array.of(1)
    : Sink.coefficients(c.sinks, c.general, modeOf(sinks), 0n)
  const gates = c.sinks === undefined
    ? undefined
    : Sink.headGates(c.sinks, { heads: c.numAttentionHeads, headSize: c.headSize }, modeOf(sinks), 0n)
  const scaleOf = (neuron: number) =>
    coef[neuron < c.general ? 0 : 1 + Math.floor((neuron - c.general) / c.sinks!.block)]!
  const kept = Uint32Array.from({ length: c.intermediateSize }, (_, neuron) => neuron).filter((n) => scaleOf(n) !== 0)
  const width = Math.ceil(kept.length / multipleOf) * multipleOf
  const d = c.hiddenSize
  const { sinks: _, ...plain } = { ...c }
  const config = new ModelConfig({ ...plain, intermediateSize: width })

  const rows = (data: Float32Array) => {
    const out = new Float32Array(width * d)
    kept.forEach((neuron, i) => out.set(data.subarray(neuron * d, (neuron + 1) * d), i * d))
    return out
  }
  const columns = (data: Float32Array) => {
    const out = new Float32Array(d * width)
    for (let row = 0; row < d; row++) {
      for (let i = 0; i < kept.length; i++) {
        out[row * width + i] = data[row * c.intermediateSize + kept[i]!]! * scaleOf(kept[i]!)
      }
    }
    return out
  }
  const tensors = Object.entries(weights).map(([name, { data, shape }]): [string, LlamaCpp.LazyTensor] => {
    const values = data as Float32Array
    if (/\.mlp\.(gate|up)_proj\.weight$/.test(name)) return [name, { shape: [width, d], data: () => rows(values) }]
    // heads that are off write nothing
    if (name.endsWith(".self_attn.o_proj.weight") && gates !== undefined && gates.includes(0)) {
      return [name, { shape, data: () => values.map((x, i) => x * gates[i % gates.length]!) }]
    }
    if (name.endsWith(".mlp.down_proj.weight")) return [name, { shape: [d, width], data: () => columns(values) }]
    return [name, { shape, data: () => values }]
  })
  return {
    config,
    tensors: Object.fromEntries(tensors),
    sinks: kept.length - c.general,
    padding: width - kept.length
  }
}

/** How many sinks several ids light together, where that is more than one id has in training; else undefined. */
const unionOf = ({ sinks }: ModelConfig, ids: ReadonlyArray<bigint>): { readonly sentence: string } | undefined => {
  if (sinks === undefined || ids.length < 2) return undefined
  const lit = ids.map((id) => Sink.unitsOf(sinks, id))
  const all = new Set(lit.flatMap((units) => [...units])).size * sinks.block
  const most = lit.reduce((most, units) => Math.max(most, units.length), 0) * sinks.block
  return all <= most ? undefined : {
    sentence:
      `${ids.length} ids together light ${all} of ${sinks.pool} sinks at once, ${(all / most).toFixed(1)} times the ` +
      `${most} that training lit for a token`
  }
}

/** Units that hold weights and are lit by denied ids: by nobody who stays, and by others, too (unknown without names: none). */
const unitsOfDenied = ({ config, names, tensors }: Pick<InitialModel, "config" | "names" | "tensors">) =>
  Effect.gen(function*() {
    const sinks = config.sinks
    if (sinks?.denied === undefined) return { alone: 0, shared: 0 }
    const off = new Set([...sinks.excluded ?? [], ...deadUnits(config, tensors)])
    const theirs = new Set(
      sinks.denied.flatMap((id) => [...Sink.unitsOf(sinks, BigInt(id))]).filter((u) => !off.has(u))
    )
    const alone = new Set(theirs)
    yield* names?.each(({ id }) => {
      if (alone.size > 0 && !Sink.isDenied(sinks, id)) {
        for (const unit of Sink.unitsOf(sinks, id)) alone.delete(unit)
      }
    }) ?? Effect.void
    return { alone: alone.size, shared: theirs.size - alone.size }
  })

/** The largest number that a type holds; infinite weights and NaNs are refused in all of them. */
const LARGEST: Readonly<Record<ExportType, number>> = { f32: 3.5e38, f16: 65504, q8_0: 65504 * 127 }

/** The first weight that a type cannot hold, in words, or undefined. */
const unfit = (tensors: Pruned["tensors"], dtype: ExportType): string | undefined => {
  for (const [name, { data }] of Object.entries(tensors)) {
    const wrong = data().find((value) => !(Math.abs(value) <= LARGEST[dtype]))
    if (wrong !== undefined) {
      return `tensor ${name} holds ${wrong}, which ${dtype} does not: ` +
        (Number.isFinite(wrong) ? "choose --dtype f32" : "the model has diverged, export an earlier checkpoint")
    }
  }
  return undefined
}

const bytesOf = (values: Float32Array, dtype: ExportType): Uint8Array => {
  const numbers = dtype === "f32" ? values : toHalves(values).subarray(0, values.length)
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}

/** Whose sinks are in an exported model, for `config.json` and GGUF: names where there are such. */
type Kept = ExportReport["kept"]

const safetensorsFiles = (
  { config, tensors }: Pruned,
  kept: Kept,
  dtype: ExportType,
  tokenizer: string | undefined,
  ends: HuggingFace.TextEnds,
  maxShardBytes: number | undefined
): Checkpoints.Files => {
  const parts = Object.entries(tensors).map(([name, { data, shape }]): Safetensors.Part => ({
    name,
    dtype: dtype === "f32" ? "F32" : "F16",
    shape,
    bytes: () => bytesOf(data(), dtype)
  }))
  const { memsinks: _, ...plain } = huggingFaceConfig(config)
  const json = {
    ...plain,
    ...HuggingFace.endIds(ends),
    torch_dtype: dtype === "f32" ? "float32" : "float16",
    rope_scaling: null,
    attention_dropout: 0,
    initializer_range: config.initializerRange ?? 0.02,
    use_cache: true,
    ...(kept.length === 0 ? {} : { memsinks_kept: kept })
  }
  return [
    ["config.json", Checkpoints.utf8(`${JSON.stringify(json, null, 2)}\n`)],
    ...Safetensors.shards(parts, "model", maxShardBytes),
    ...(tokenizer === undefined ? [] : [["tokenizer.json", Checkpoints.utf8(tokenizer)] as const]),
    ...HuggingFace.companions(config.maxPositionEmbeddings, tokenizer, ends).map(([file, text]) =>
      [file, Checkpoints.utf8(text)] as const
    )
  ]
}

const ggufFile = (
  { config, tensors }: Pruned,
  kept: Kept,
  dtype: ExportType,
  name: string,
  tokenizer: string,
  ends: HuggingFace.TextEnds,
  path: string
): Effect.Effect<{ readonly file: Safetensors.Encoded; readonly notes: ReadonlyArray<string> }, CheckpointError> =>
  attempt(() => {
    const type = ({ f32: "F32", f16: "F16", q8_0: "Q8_0" } as const)[dtype]
    const { metadata, notes } = LlamaCpp.tokenizerMetadata(tokenizer, config.vocabSize, ends)
    const list = LlamaCpp.tensors(config, tensors, type)
    const wider = list.filter((tensor) => tensor.shape.length > 1 && tensor.type !== type).length
    return {
      file: Gguf.encode([...LlamaCpp.modelMetadata(config, name, type, kept), ...metadata], list),
      notes: wider === 0 ? notes : [
        ...notes,
        `${wider} of ${list.length} tensors have rows that are no multiple of ${Gguf.BLOCK}: they are f16, not q8_0`
      ]
    }
  }, DataError).pipe(
    Effect.mapError(({ detail }) =>
      new CheckpointError({
        reason: "Mismatch",
        path,
        detail: `the tokenizer cannot be written as GGUF: ${detail}. Export --format safetensors instead`
      })
    )
  )

/**
 * Reads a checkpoint (a run's folder, one of its steps, an imported or plain Llama) and writes it as a plain Llama to
 * `out`, which must not exist. Fails with `CheckpointError` where the checkpoint is damaged, a weight or the tokenizer
 * does not fit the format, or the disk does not take it; then nothing is left at `out`.
 */
export const exportModel = (
  checkpoint: string,
  out: string,
  options: ExportOptions
): Effect.Effect<ExportReport, CheckpointError | DataError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const { dtype = "f32", format, sinks = { mode: "off" } } = options
    const refuse = (detail: string) => new CheckpointError({ reason: "Mismatch", path: checkpoint, detail })
    if (format === "safetensors" && dtype === "q8_0") {
      return yield* refuse("safetensors have no q8_0: choose --dtype f32 or f16, or --format gguf")
    }
    if (sinks.mode === "own" && sinks.ids.length === 0) {
      return yield* refuse("--sinks own keeps the sinks of ids: give them, as in --ids 1,2")
    }
    const from = yield* loadInitial(checkpoint)
    if (sinks.mode === "own" && from.config.sinks === undefined) {
      return yield* refuse("the model has no sinks: leave out --sinks")
    }
    const named = sinks.mode !== "own" ? [] : yield* Effect.forEach(sinks.ids, (one) => resolveId(one, from.names))
    // an id that is named twice is one id
    const asked = [...new Map(named.map((one) => [one.id, one])).values()]
    const gone = asked.find(({ id }) => from.config.sinks !== undefined && Sink.isDenied(from.config.sinks, id))
    if (gone !== undefined) return yield* deleted(gone)
    const kept: KeptSinks = sinks.mode === "own" ? { mode: "own", ids: asked.map(({ id }) => id) } : sinks
    const union = unionOf(from.config, asked.map(({ id }) => id))
    if (sinks.mode === "own" && union !== undefined && sinks.union !== true) {
      return yield* refuse(
        `${union.sentence}: it was never trained so, and what it says of any of them gets worse. Export one id at a ` +
          "time, or keep them all at once with --union"
      )
    }
    const denied = sinks.mode === "all" ? yield* unitsOfDenied(from) : { alone: 0, shared: 0 }
    if (sinks.mode === "all" && denied.alone > 0 && sinks.withDenied !== true) {
      return yield* refuse(
        `--sinks all would take along ${
          plural(denied.alone, "block")
        } of sinks that only denied sources light, and whoever ` +
          "has the export could not deny them: exclude or erase them first (memsinks forget --operation erase), or take " +
          "them along with --with-denied"
      )
    }
    const pruned = prune(from.config, from.tensors, kept, dtype === "q8_0" ? Gguf.BLOCK : 4)
    const detail = unfit(pruned.tensors, dtype)
    if (detail !== undefined) return yield* refuse(detail)
    const notes: Array<string> = union === undefined ? [] : [`${union.sentence}: never trained so; score it before use`]
    if (from.names === undefined && asked.length > 0) {
      notes.push("the checkpoint does not list the ids it was trained with: sinks of one that it never saw are noise")
    }
    if (denied.alone > 0) {
      notes.push(`${plural(denied.alone, "block")} of sinks that only denied sources light are in it`)
    }
    if (denied.shared > 0) {
      notes.push(
        `${
          plural(denied.shared, "block")
        } of sinks that denied sources and others light are in it, with what was learned there`
      )
    }
    if (pruned.padding > 0) {
      notes.push(`every MLP got ${pruned.padding} neurons of zeros: ${dtype} needs a width that is a multiple of ` +
        `${dtype === "q8_0" ? Gguf.BLOCK : 4}`)
    }
    const keptIds = asked.map(({ id, ...name }) => ({ id: `${id}`, ...name }))
    let path: string
    let bytes: number
    if (format === "safetensors") {
      const files = safetensorsFiles(pruned, keptIds, dtype, from.tokenizer, from.ends, options.maxShardBytes)
      if (from.tokenizer === undefined) notes.push("the checkpoint has no tokenizer: the folder has none either")
      path = yield* Checkpoints.writeNew(out, files)
      bytes = files.reduce((sum, [, file]) => sum + file.byteLength, 0)
    } else {
      if (from.tokenizer === undefined) {
        return yield* refuse("the checkpoint has no tokenizer.json, which GGUF must contain: put it beside config.json")
      }
      const name = options.name ?? paths.basename(out).replace(/\.gguf$/, "")
      const gguf = yield* ggufFile(pruned, keptIds, dtype, name, from.tokenizer, from.ends, checkpoint)
      notes.push(...gguf.notes)
      path = yield* Checkpoints.writeNew(out, gguf.file)
      bytes = gguf.file.byteLength
    }
    return {
      path,
      format,
      dtype,
      bytes,
      parameters: pruned.config.numParameters,
      intermediateSize: pruned.config.intermediateSize,
      from: { path: from.path, step: from.step, intermediateSize: from.config.intermediateSize },
      general: from.config.general,
      sinks: pruned.sinks,
      kept: keptIds,
      padding: pruned.padding,
      notes
    }
  })
