/**
 * An audit of a deletion: what is still known of the deleted, asked in several ways, beside the model as it was before and
 * beside one that was never trained on it; and what the deletion did to those who stay. It says *not recovered* of an attack
 * and a budget, never that something is gone.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { modelWith, type OpenCheckpoint, openCheckpoint } from "../src/checkpoints/OpenCheckpoint.ts"
import { quantized } from "../src/checkpoints/Quantize.ts"
import { cut } from "../src/data/Pieces.ts"
import type { Row } from "../src/data/stream/Packing.ts"
import { sameTokenizer } from "../src/data/tokens/SameTokenizer.ts"
import { type CheckpointError, DataError, type DeviceError, type Diverged, type KernelError } from "../src/Errors.ts"
import { nearest } from "../src/forget/Nearest.ts"
import { Device } from "../src/gpu/Device.ts"
import { bootstrapIndices, type Interval, mean } from "../src/measures/Statistics.ts"
import { Model } from "../src/model/Model.ts"
import { random } from "../src/Random.ts"
import { relearn } from "../src/removal/Relearn.ts"
import { dataOf, originOf, runAbove } from "../src/runs/Runs.ts"
import { type RowScore, scoreRows } from "../src/scoring/Score.ts"
import * as Sink from "../src/Sink.ts"
import type { AuditReport, Known, Measure, Stayed, Word } from "./audit/Report.ts"
import { openCorpus } from "./evaluate.ts"

export type { AuditReport }

export type AuditError = DataError | CheckpointError | DeviceError | KernelError | Diverged

export interface AuditOptions {
  /** The model before the deletion, and after it: runs, or folders of checkpoints. */
  readonly before: string
  readonly after: string
  /** A model that was never trained on what was deleted, of the same tokenizer. Default: none, and no verdict. */
  readonly oracle?: string
  /** Text or token shards with the sources, those that were deleted among them. */
  readonly data: string
  readonly sourceField?: string
  /** Tokens of a passage. Default: those of a row in the training of the run, else 64. */
  readonly seqLen?: number
  /** Passages of a source at most. Default 32. */
  readonly passages?: number
  /** Tokens that are given before a passage must be said verbatim. Default: a quarter of it. */
  readonly promptTokens?: number
  /** Steps of relearning on half of the deleted passages, and their learning rate. Default 16 at 1e-3. */
  readonly relearningSteps?: number
  readonly relearningRate?: number
  /** Share of the memory that may remain. Default 0.25. */
  readonly tolerance?: number
  /** Of what is drawn. Default 1. */
  readonly seed?: number
  readonly batchSize?: number
  readonly device: Layer.Layer<Device, DeviceError>
  readonly versions?: Readonly<Record<string, string>>
  readonly onStage?: (what: string) => Effect.Effect<void>
}

/** Passages of one source. */
interface Source {
  readonly name: string
  readonly id: bigint
  readonly rows: ReadonlyArray<Row>
}

/** What is known of each passage: higher is more. */
type Each = ReadonlyArray<number>

const refuse = (path: string, detail: string) => new DataError({ path, detail })

/** A number as JSON has it: null where it is none. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null)
const known = ({ high, low, value }: Interval): Known => ({ value: finite(value), low: finite(low),
  high: finite(high) })
const UNKNOWN: Known = { value: null, low: null, high: null }

/** How many sources make them, rather than their passages, what intervals are over. */
const CLUSTERS = 5

/** A statistic of passages with its bootstrap interval: passages are drawn again, or whole sources where there are several. */
const interval = (sources: ReadonlyArray<number>, seed: number,
  of: (passages: ArrayLike<number>) => number): Interval =>
{
  const groups = [...new Set(sources)].map((s) => sources.flatMap((one, i) => one === s ? [i] : []))
  return groups.length < CLUSTERS
    ? bootstrapIndices(sources.length, of, { seed })
    : bootstrapIndices(groups.length, (drawn) => of(Array.from(drawn, (g) => groups[g]!).flat()), { seed })
}

const over = (values: Each, passages: ArrayLike<number>): number => mean(Float64Array.from(passages, (i) => values[i]!))

/** What remains of a memory, and what may be said of it. Pure. */
export const decide = (
  { after, before, oracle, sources }: {
    readonly before: Each
    readonly after: Each
    readonly oracle: Each | undefined
    /** Which source each passage is of. */
    readonly sources: ReadonlyArray<number>
  },
  tolerance: number,
  seed: number
): { readonly remains: Known; readonly word: Word } => {
  if (oracle === undefined) return { remains: UNKNOWN, word: "no baseline" }
  const memory = interval(sources, seed, (i) => over(before, i) - over(oracle, i))
  if (!(memory.low > 0)) return { remains: UNKNOWN, word: "nothing to recover" }
  const remains = interval(sources, seed,
    (i) => (over(after, i) - over(oracle, i)) / (over(before, i) - over(oracle, i)))
  return {
    remains: known(remains),
    word: remains.high <= tolerance ? "not recovered" : remains.low > tolerance ? "recovered" : "undecided"
  }
}

const severity: ReadonlyArray<Word> = ["recovered", "undecided", "no baseline", "not recovered", "nothing to recover"]

/** The worst of several. */
export const worst = (words: ReadonlyArray<Word>): Word =>
  severity.find((word) => words.includes(word)) ?? "no baseline"

const losses = (scores: ReadonlyArray<RowScore>): Each => scores.map(({ loss, tokens }) => loss / tokens)
const negative = (values: Each): Each => values.map((value) => -value)
const verbatim = (scores: ReadonlyArray<RowScore>): Each => scores.map(({ run, suffix }) => run === suffix ? 1 : 0)

/** The passages of every source of the data that a model was trained with, up to so many of each, drawn. */
const sourcesOf = (checkpoint: OpenCheckpoint, seqLen: number, options: AuditOptions) =>
  Effect.gen(function*() {
    const { ends, names, path, tokenizer } = checkpoint
    if (tokenizer === undefined) return yield* refuse(path, "holds no tokenizer.json, and data needs one")
    if (names === undefined) {
      return yield* refuse(path, "does not list the ids it was trained with: whose text is whose?")
    }
    const { data, passages = 32, seed = 1, sourceField } = options
    const origin = originOf(path)
    const run = runAbove(origin)
    const { corpus } = yield* openCorpus(data, tokenizer, ends, run === undefined ? undefined : dataOf(run, origin),
      sourceField === undefined ? {} : { sourceField })
    const pieces = cut(corpus, { width: seqLen + 1, stride: seqLen, shortest: Math.min(seqLen + 1, 8) })
    const bySource = corpus.sources.map((): Array<number> => [])
    for (const [piece, document] of pieces.document.entries()) bySource[corpus.source(document)]!.push(piece)
    const found: Array<Source> = []
    for (const [s, name] of corpus.sources.entries()) {
      const one = yield* names.find(name)
      if (one === undefined || bySource[s]!.length === 0) continue
      const drawn = random(seed, "audit", name).shuffle([...bySource[s]!]).slice(0, passages).sort((a, b) => a - b)
      found.push({
        name,
        id: one.id,
        rows: drawn.map((piece) => {
          const [document, offset] = [pieces.document[piece]!, pieces.offset[piece]!]
          const tokens = corpus.read(document, offset, Math.min(seqLen + 1, corpus.length(document) - offset))
          return { id: one.id, tokens: Uint32Array.from(tokens), document: corpus.name(document), offset }
        })
      })
    }
    return found
  }).pipe(Effect.scoped)

/**
 * Audits a deletion. Fails before anything is computed: with a DataError where nothing was deleted from `after`, where the data
 * holds no text of it or of anybody else, where the oracle says that it was trained on it, and where models do not go together.
 */
export const audit = (
  options: AuditOptions
): Effect.Effect<AuditReport, AuditError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const began = performance.now()
    const { batchSize = 8, relearningRate = 1e-3, relearningSteps = 16, seed = 1, tolerance = 0.25 } = options
    const stage = (what: string) => options.onStage?.(what) ?? Effect.void
    const before = yield* openCheckpoint(options.before)
    const after = yield* openCheckpoint(options.after)
    const oracle = options.oracle === undefined ? undefined : yield* openCheckpoint(options.oracle)
    const denied = new Set((after.config.sinks?.denied ?? []).map(BigInt))
    const earlier = new Set((before.config.sinks?.denied ?? []).map(BigInt))
    const gone = [...denied].filter((id) => !earlier.has(id))
    if (gone.length === 0) {
      return yield* refuse(after.path, `nothing was deleted from it that ${before.path} has: memsinks forget deletes`)
    }
    if (before.config.sinks!.pool !== after.config.sinks!.pool || before.config.general !== after.config.general) {
      return yield* refuse(after.path, `is no model that came from ${before.path}: it has another shape`)
    }
    for (const other of [after, ...(oracle === undefined ? [] : [oracle])]) {
      if (other.tokenizer === undefined || !sameTokenizer(other.tokenizer.toJSON(), before.tokenizer?.toJSON() ?? "")) {
        return yield* refuse(other.path, `has another tokenizer than ${before.path}: their losses do not compare`)
      }
    }
    for (const id of gone) {
      const known = yield* oracle?.names?.get(id) ?? Effect.succeed(undefined)
      if (known !== undefined) {
        return yield* refuse(oracle!.path,
          `was trained on ${JSON.stringify(known.name)} itself: beside it there would be ` +
            "nothing to recover. An oracle is a model that never saw what was deleted")
      }
    }
    const origin = originOf(before.path)
    const run = runAbove(origin)
    const seqLen = options.seqLen ?? (run === undefined ? undefined : dataOf(run, origin).seqLen) ?? 64
    const promptTokens = options.promptTokens ?? Math.max(1, Math.floor(seqLen / 4))
    const all = yield* sourcesOf(before, seqLen, options)
    const deleted = all.filter(({ id }) => gone.includes(id))
    const stay = all.filter(({ id }) => !denied.has(id) && !earlier.has(id))
    const absent: Array<string> = []
    for (const id of gone) {
      if (!deleted.some((one) => one.id === id)) absent.push((yield* before.names!.get(id))?.name ?? `id ${id}`)
    }
    if (deleted.length === 0) {
      return yield* refuse(options.data,
        `holds no text of what was deleted (${absent.slice(0, 5).join(", ")}): an audit asks ` +
          "whether it is still known, so it needs the text")
    }
    if (stay.length === 0) {
      return yield* refuse(options.data, "holds no text of anybody who stays, whom an audit looks at, too")
    }
    const route = new Map(deleted.map(({ id, rows }) => [id, stay[nearest(rows, stay.map(({ rows }) => rows))]!]))
    const rows = deleted.flatMap(({ rows }) => rows)
    const sources = deleted.flatMap(({ rows }, s) => rows.map(() => s))
    const routed = rows.map((row) => ({ ...row, id: route.get(row.id)!.id }))
    const others = stay.flatMap(({ rows }) => rows)
    const halves = [0, 1].map((half) => rows.filter((_, i) => i % 2 === half))
    const halfSources = sources.filter((_, i) => i % 2 === 1)

    const scored = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode) =>
      Effect.flatMap(Model, (model) => scoreRows(model, rows, mode, { batchSize, seqLen, promptTokens }))
    /** The other half's losses after fine-tuning on one, with all sinks off. */
    const relearned = Effect.gen(function*() {
      // it puts the weights back, so the passages are scored within
      const points = yield* Stream.runCollect(relearn({
        train: halves[0]!,
        score: Object.fromEntries(halves[1]!.map((row, i) => [`${i}`, [row]])),
        learningRates: [relearningRate],
        steps: relearningSteps,
        at: [relearningSteps],
        batchSize: 4,
        seqLen,
        seed
      }))
      const last = Array.from(points).at(-1)!
      return halves[1]!.map((_, i) => last.losses[`${i}`]!)
    })
    const canRelearn = halves.every((half) => half.length > 0)
    const modeOf = (one: OpenCheckpoint, mode: Sink.SinkMode): Sink.SinkMode =>
      one.config.sinks === undefined ? Sink.own : mode
    const other = stay[random(seed, "placebo").below(stay.length)]!

    return yield* Effect.gen(function*() {
      const device = yield* Device
      yield* stage("the model before")
      const was = yield* Effect.provide(
        Effect.gen(function*() {
          return {
            own: yield* scored(rows, Sink.own),
            others: yield* scored(others, Sink.own),
            placebo: yield* scored(rows, { mode: "own", except: [other.id] })
          }
        }),
        before.layer
      )
      yield* stage("the model after")
      const isNow = yield* Effect.provide(
        Effect.gen(function*() {
          return {
            own: yield* scored(rows, Sink.own),
            nearest: yield* scored(routed, Sink.own),
            off: yield* scored(rows, Sink.off),
            others: yield* scored(others, Sink.own),
            ...(canRelearn ? { relearned: yield* relearned } : {}),
            tensors: yield* (yield* Model).exportTensors
          }
        }),
        after.layer
      )
      const rounded = yield* Effect.forEach([8, 4] as const, (bits) =>
        Effect.zipRight(
          stage(`the model after, rounded to ${bits} bits`),
          Effect.provide(scored(rows, Sink.own), modelWith(after.config, quantized(isNow.tensors, bits)))
        ))
      if (oracle !== undefined) yield* stage("the model that was never trained on it")
      const never = oracle === undefined ? undefined : yield* Effect.provide(
        Effect.gen(function*() {
          const off = yield* scored(rows, modeOf(oracle, Sink.off))
          return {
            off,
            nearest: oracle.config.sinks === undefined ? off : yield* scored(routed, Sink.own),
            ...(canRelearn ? { relearned: yield* relearned } : {})
          }
        }),
        oracle.layer
      )
      const measure = (
        name: string,
        title: string,
        unit: Measure["unit"],
        { after, before, oracle, of = sources }: { readonly before: Each; readonly after: Each;
          readonly oracle: Each | undefined; readonly of?: ReadonlyArray<number> }
      ): Measure => {
        const sign = unit === "nats a token" ? negative : (values: Each) => values
        return {
          name,
          title,
          unit,
          before: mean(before),
          after: mean(after),
          oracle: oracle === undefined ? null : mean(oracle),
          ...decide({ before: sign(before), after: sign(after), oracle: oracle === undefined ? undefined : sign(oracle),
            sources: of }, tolerance, seed)
        }
      }
      const own = losses(was.own)
      const measures: ReadonlyArray<Measure> = [
        measure("loss", "loss, as it is used", "nats a token", { before: own, after: losses(isNow.own),
          oracle: never && losses(never.off) }),
        measure("nearest", "loss, nearest survivor's sinks", "nats a token", { before: own,
          after: losses(isNow.nearest), oracle: never && losses(never.nearest) }),
        measure("off", "loss, all sinks off", "nats a token", { before: own, after: losses(isNow.off),
          oracle: never && losses(never.off) }),
        measure("verbatim", `said verbatim after ${promptTokens} tokens`, "share of passages", {
          before: verbatim(was.own),
          after: verbatim(isNow.own),
          oracle: never && verbatim(never.off)
        }),
        ...(isNow.relearned === undefined ? [] : [
          measure("relearned", `loss after ${relearningSteps} steps of fine-tuning`, "nats a token", {
            before: own.filter((_, i) => i % 2 === 1),
            after: isNow.relearned,
            oracle: never?.relearned,
            of: halfSources
          })
        ]),
        ...rounded.map((scores, i) =>
          measure(`rounded${[8, 4][i]}`, `loss, weights of ${[8, 4][i]} bits`, "nats a token", { before: own,
            after: losses(scores), oracle: never && losses(never.off) })
        )
      ]
      const [own0, own1] = [losses(was.others), losses(isNow.others)]
      const theirs = new Set(deleted.flatMap(({ id }) => [...Sink.unitsOf(before.config.sinks!, id)]))
      const shares = stay.map(({ id }) =>
        [...Sink.unitsOf(before.config.sinks!, id)].filter((unit) => theirs.has(unit)).length
      )
      let at = 0
      const placeOf = stay.map(({ rows }) => rows.map(() => at++))
      const stayed = [...new Set(shares)].sort((a, b) => a - b).map((shared): Stayed => {
        const mine = stay.flatMap((_, s) => shares[s] === shared ? [s] : [])
        const passages = mine.flatMap((s) => placeOf[s]!)
        const ofSource = mine.flatMap((s) => placeOf[s]!.map(() => s))
        return {
          shared,
          sources: mine.length,
          passages: passages.length,
          same: passages.filter((i) => own0[i] === own1[i]).length,
          change: known(interval(ofSource, seed, (some) => over(passages.map((i) => own1[i]! - own0[i]!), some)))
        }
      })
      const report: AuditReport = {
        format: 1,
        before: before.path,
        after: after.path,
        oracle: oracle?.path ?? null,
        data: options.data,
        adapter: device.name,
        deleted: deleted.map(({ id, name, rows }) => ({ id: `${id}`, name, passages: rows.length,
          nearest: route.get(id)!.name })
        ),
        notInData: absent,
        word: worst(measures.map(({ word }) => word)),
        measures,
        stayed,
        placebo: {
          name: other.name,
          change: known(interval(sources, seed, (i) => over(losses(was.placebo), i) - over(own, i)))
        },
        tolerance,
        relearning: { steps: relearningSteps, learningRate: relearningRate },
        seqLen,
        seed,
        seconds: (performance.now() - began) / 1000,
        versions: options.versions ?? {}
      }
      return report
    }).pipe(Effect.provide(options.device))
  })
