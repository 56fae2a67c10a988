/**
 * What sinks of other sequences do to a sequence: the ladder of interference, what its own sinks hold, what deletion of
 * one id takes from others, and how much memory is not in sinks at all.
 */
import * as Effect from "effect/Effect"
import { batchOf, type Row, sequenceName } from "../../src/data/stream/Packing.ts"
import { chunked } from "../../src/data/stream/Rows.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Statistics from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { random } from "../../src/Random.ts"
import { sumOf as lossIn } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"

/** Ids that are deleted one at a time, unless others are asked for. */
export const DELETIONS = 16

export interface InterferenceInput {
  /** The repeated sequences that are scored. */
  readonly rows: ReadonlyArray<Row>
  /** Sequences whose ids are lit besides: those that the model was trained on. */
  readonly others: ReadonlyArray<Pick<Row, "id">>
  /** Numbers of other ids whose sinks are lit besides a sequence's own. All there are is always the last rung. */
  readonly ladder: ReadonlyArray<number>
  readonly seqLen: number
  /** Sequences a pass. */
  readonly batchSize: number
  readonly seed: number
  /** Ids that are deleted, one at a time, drawn at random from those of `rows`. Default `DELETIONS`, or all there are. */
  readonly deletions?: number
}

/** Losses are nats a token; lists have a value a sequence, in the order of `rows`. Plain JSON. */
export interface InterferenceResult {
  /** Mean loss with own sinks and those of so many random others; the lists by sequence. */
  readonly ladder: ReadonlyArray<{
    readonly others: number
    readonly loss: number
    readonly losses: ReadonlyArray<number>
  }>
  /** What sinks add, in the mean: loss(off) - loss(own), and loss(off) - loss(placebo), of a random id's. */
  readonly sliceContent: { readonly own: number; readonly placebo: number }
  /** How much more own sinks add than random ones, with a 95 % interval over sequences; `passed`: it is above 0. */
  readonly ownContent: Statistics.Interval & { readonly passed: boolean }
  /**
   * The largest change, of any sequence, when an id that shares no sink with its own is deleted, drawn at random and as
   * large: must be 0, bit for bit, of each, so that no mean may hide one. Null where masks are so dense that every id shares sinks with every other.
   */
  readonly placeboOff: number | null
  /** What deletion of one id adds to the loss of the sequences of other ids. */
  readonly deletion: {
    readonly mean: number
    readonly worst: number
    /** Deletion of as many random ids that were never trained, for comparison. */
    readonly placebo: number
    readonly ids: ReadonlyArray<{
      /** Decimal. */
      readonly id: string
      /** What it adds to the loss of the id's own sequences. */
      readonly own: number
      /** Over all sequences of other ids; those that share no sink with it count as unchanged. */
      readonly mean: number
      readonly worst: number
      /** Units that the sequence with the worst change shares with the deleted id, and those that an id has. */
      readonly shared: number
      readonly units: number
      readonly losses: ReadonlyArray<{ readonly row: number; readonly shared: number; readonly added: number }>
    }>
  }
  /** Share of the pool that is empty when so many ids are deleted, and 1 - (1 - p)^K of independent masks. */
  readonly emptied: ReadonlyArray<{ readonly deleted: number; readonly share: number; readonly expected: number }>
  /** By sequence. */
  readonly losses: {
    readonly own: ReadonlyArray<number>
    readonly off: ReadonlyArray<number>
    readonly placebo: ReadonlyArray<number>
  }
}

/** A sequence, and what multiplies its general neurons and every unit, [1 + units]. */
interface Job {
  readonly row: Row
  readonly coef: Float32Array
}

const without = (units: Iterable<number>, removed: ReadonlySet<number>): ReadonlyArray<number> =>
  [...units].filter((unit) => !removed.has(unit))

const shared = (units: Iterable<number>, other: ReadonlySet<number>): number => {
  let count = 0
  for (const unit of units) if (other.has(unit)) count++
  return count
}

const largest = (values: ReadonlyArray<number>): number =>
  values.reduce((most, value) => Math.max(most, value), -Infinity)

/** Share of the pool that ids light together, beside the 1 - (1 - p)^K that independent masks would. Pure. */
export const emptiedBy = (sinks: Sink.SinkConfig, ids: ReadonlyArray<bigint>): InterferenceResult["emptied"] => {
  const union = new Set<number>()
  const looked = new Set([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter((k) => k < ids.length)).add(ids.length)
  return ids.flatMap((id, i) => {
    for (const unit of Sink.unitsOf(sinks, id)) union.add(unit)
    const deleted = i + 1
    return looked.has(deleted)
      ? [{ deleted, share: union.size / sinks.units, expected: 1 - (1 - sinks.probability) ** deleted }]
      : []
  })
}

/**
 * Memory that is not in sinks: how much better sequences are known with sinks off than to a model that never met them
 * repeatedly (`oracle`), in nats by sequence, and as a share of all that is memorized, that is, of the same difference
 * for a model that has everything on (`memorized`: the sink model with own sinks on, or the standard one). Share 0: all
 * of it was in sinks; 1: none. Null where nothing is memorized. Pure.
 */
export const leakage = (losses: {
  readonly oracle: ReadonlyArray<number>
  readonly off: ReadonlyArray<number>
  readonly memorized: ReadonlyArray<number>
}): { readonly share: number | null; readonly nats: ReadonlyArray<number> } => {
  const { memorized, off, oracle } = losses
  const all = Statistics.mean(oracle) - Statistics.mean(memorized)
  const nats = oracle.map((loss, i) => loss - off[i]!)
  return { share: all === 0 ? null : Statistics.mean(nats) / all, nats }
}

/**
 * Interference on the sink model that is there. Fails with DataError for a model without sinks, without sequences, or
 * with sequences of fewer than two or more than `seqLen + 1` tokens. The model is not changed.
 */
export const interference = (
  input: InterferenceInput
): Effect.Effect<InterferenceResult, DataError | DeviceError | KernelError, Device | Model> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const { batchSize, deletions = DELETIONS, rows, seed, seqLen } = input
    const { sinks } = model.config
    if (sinks === undefined) {
      return yield* new DataError({ detail: "interference is between sinks: the model has none" })
    }
    if (rows.length === 0) {
      return yield* new DataError({ detail: "interference needs sequences to score: rows is empty" })
    }
    const unfit = rows.find(({ tokens }) => tokens.length < 2 || tokens.length > seqLen + 1)
    if (unfit !== undefined) {
      return yield* new DataError({
        detail: `sequence ${unfit.document} has ${unfit.tokens.length} tokens: ` +
          `rows of ${seqLen} take 2 to ${seqLen + 1}`
      })
    }
    const size = Math.min(batchSize, rows.length)
    // the masked path takes any set of sinks, another one for every row, and all losses come from one program
    const pass = yield* model.compile({ rows: size, seqLen, output: "loss", compute: "masked" })

    const coefOf = (units: Iterable<number>): Float32Array => {
      const coef = new Float32Array(1 + sinks.units)
      coef[0] = 1
      for (const unit of units) coef[1 + unit] = 1
      return coef
    }
    const known = new Map<bigint, Set<number>>()
    const unitsOf = (id: bigint): Set<number> => {
      const units = known.get(id) ?? new Set(Sink.unitsOf(sinks, id))
      known.set(id, units)
      return units
    }

    /** Mean loss of each job's sequence. */
    const lossesOf = Effect.fnUntraced(function*(jobs: ReadonlyArray<Job>) {
      const out: Array<number> = []
      for (const { chunk, full } of chunked(jobs, size)) {
        const batch = batchOf(full.map(({ row }) => row), seqLen)
        const table = new Float32Array(size * (1 + sinks.units))
        full.forEach(({ coef }, r) => table.set(coef, r * coef.length))
        yield* attempt(() => {
          pass.load(batch, Sink.off)
          device.write(pass.tensors.coef, table)
          device.submit(pass.prepared)
        }, DataError, DeviceError)
        const loss = (yield* device.read(pass.tensors.loss)) as Float32Array
        for (const [r, { row }] of chunk.entries()) {
          const { sum, tokens } = lossIn(loss, batch, r, r + 1)
          if (!Number.isFinite(sum)) {
            return yield* new DataError({ detail: `sequence ${sequenceName(row)} has no score: its loss is ${sum}` })
          }
          out.push(sum / tokens)
        }
      }
      return out
    })
    const ofRows = (lit: (row: Row) => Iterable<number>) =>
      lossesOf(rows.map((row) => ({ row, coef: coefOf(lit(row)) })))

    const own = yield* ofRows(({ id }) => unitsOf(id))
    const off = yield* ofRows(() => [])
    const placebo = yield* ofRows(({ id }) => unitsOf(Sink.placeboId(id, seed)))

    // ---- the ladder
    const ids = [...new Set(input.others.map(({ id }) => id))]
    const most = ids.length - (ids.some((id) => id === rows[0]!.id) ? 1 : 0)
    const everything = new Set(ids.flatMap((id) => [...unitsOf(id)]))
    const draw = random(seed, "interference")
    /** The sinks of a sequence and of `count` others. */
    const among = (row: Row, count: number): Iterable<number> => {
      const lit = new Set(unitsOf(row.id))
      if (count === most) {
        for (const unit of everything) lit.add(unit)
        return lit
      }
      const drawn = new Set<bigint>()
      while (drawn.size < count) {
        const id = ids[draw.below(ids.length)]!
        if (id !== row.id) drawn.add(id)
      }
      for (const id of drawn) for (const unit of unitsOf(id)) lit.add(unit)
      return lit
    }
    const rungs = [...new Set([...input.ladder.filter((others) => others < most), most])].sort((a, b) => a - b)
    const ladder: Array<InterferenceResult["ladder"][number]> = []
    for (const others of rungs) {
      const losses = yield* ofRows((row) => among(row, others))
      ladder.push({ others, loss: Statistics.mean(losses), losses })
    }

    // ---- deletion of an id that has nothing to do with a sequence
    const strange = rows.flatMap((row, r) => {
      for (let trial = 0; trial < 64; trial++) {
        const id = Sink.placeboId(row.id, seed + trial)
        if (shared(unitsOf(row.id), unitsOf(id)) > 0) continue
        const mode: Sink.SinkMode = { mode: "own", except: [id] }
        return [{ row, r, coef: Sink.coefficients(sinks, model.config.general, mode, row.id) }]
      }
      return []
    })
    const spared = yield* lossesOf(strange)

    // ---- deletion of one id at a time
    const owners = [...new Set(rows.map(({ id }) => id))]
    const deleted = random(seed, "deletion").shuffle([...owners]).slice(0, deletions)
    const strangers = deleted.map((id) => Sink.placeboId(id, seed))
    // a sequence that shares no sink with the id runs the very same numbers
    const touched = [...deleted, ...strangers].flatMap((id) => {
      const removed = unitsOf(id)
      return rows.flatMap((row, r) => {
        const count = shared(unitsOf(row.id), removed)
        return count === 0 ? [] : [{ id, r, count, row, coef: coefOf(without(unitsOf(row.id), removed)) }]
      })
    })
    const losses = yield* lossesOf(touched)
    const changes = touched.map(({ count, id, r }, i) => ({ id, row: r, shared: count, added: losses[i]! - own[r]! }))
    const sumOf = (some: ReadonlyArray<{ readonly added: number }>) => some.reduce((sum, { added }) => sum + added, 0)
    const perId = deleted.map((id): InterferenceResult["deletion"]["ids"][number] => {
      const isOwn = ({ row }: { readonly row: number }) => rows[row]!.id === id
      const mine = changes.filter((change) => change.id === id)
      const others = mine.filter((change) => !isOwn(change))
      const count = rows.filter((row) => row.id !== id).length
      // sequences that are not touched are among the others, unless all are
      const start = { shared: 0, added: others.length < count || count === 0 ? 0 : -Infinity }
      const worst = others.reduce((most, one) => (one.added > most.added ? one : most), start)
      return {
        id: String(id),
        own: Statistics.mean(mine.filter(isOwn).map(({ added }) => added)),
        mean: count === 0 ? 0 : sumOf(others) / count,
        worst: worst.added,
        shared: worst.shared,
        units: unitsOf(id).size,
        losses: others.map(({ id: _, ...change }) => change)
      }
    })
    const ofStrangers = strangers.map((id) => sumOf(changes.filter((change) => change.id === id)) / rows.length)

    const gain = (on: ReadonlyArray<number>) => Statistics.mean(off) - Statistics.mean(on)
    // what own sinks add beyond random ones: loss(off) is the same for both
    const ownContent = Statistics.pairedBootstrap(placebo, own, { seed })
    return {
      ladder,
      sliceContent: { own: gain(own), placebo: gain(placebo) },
      ownContent: { ...ownContent, passed: ownContent.low > 0 },
      placeboOff: strange.length === 0 ? null : largest(strange.map(({ r }, i) => Math.abs(spared[i]! - own[r]!))),
      deletion: {
        mean: Statistics.mean(perId.map(({ mean }) => mean)),
        worst: largest(perId.map(({ worst }) => worst)),
        placebo: Statistics.mean(ofStrangers),
        ids: perId
      },
      emptied: emptiedBy(sinks, owners),
      losses: { own, off, placebo }
    }
  }).pipe(Effect.scoped)
