/**
 * The traces of a run while it trains, consistent with its checkpoints: what a resumed run measures again is not there
 * twice, and nothing is missing.
 *
 *     traces/probes/step-00000128.parquet       rows of steps up to 128, from behind the part before it
 *     traces/quantities/step-00000128.parquet   likewise
 *
 * Rows are kept in memory until the checkpoint of their step is about to be saved, then written as parts. Between a part
 * and its checkpoint the process may be killed; so a resumed run first takes back what is later than its checkpoint.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { because, CheckpointError, DataError, dataError } from "../../src/Errors.ts"
import type { ProbeRow, QuantityRow } from "../../src/measures/Traces.ts"
import * as Traces from "../../src/measures/Traces.ts"

/** Rows of both tables, in the order of their steps; rows of a step in the order they came in. */
export interface Rows {
  readonly probes: ReadonlyArray<ProbeRow>
  readonly quantities: ReadonlyArray<QuantityRow>
}

/**
 * A log of traces. All rows of a step come before that step is flushed: those that come later throw a DataError.
 *
 * A resumed run may measure the step of its checkpoint again. Of what it then gives, the log takes what it lacks: a run
 * that was interrupted while it measured saves a checkpoint on its way out, and may have measured half. What the log has it
 * keeps, since what needs the step before cannot be measured again. Rows of earlier steps that come again are left out.
 */
export interface TraceLog {
  /** Keeps rows until the next flush; loss, log rank and recall as float32, as files have them. */
  readonly probes: (rows: ReadonlyArray<ProbeRow>) => void
  /** Keeps rows until the next flush. */
  readonly quantities: (rows: ReadonlyArray<QuantityRow>) => void
  /**
   * Writes what is kept of steps up to `step` to the disk, each table as a part of that step, none where it has no rows.
   * Call it before the checkpoint of that step is written; rows of later steps may come in meanwhile. After a failure it
   * has all rows still.
   */
  readonly flush: (step: number) => Effect.Effect<void, DataError>
  /**
   * Forgets what is later than `step`, in parts, and all that is kept. Rows up to `step` that only a later part holds
   * (flushed, and killed before the checkpoint was saved) stay, in a part of `step`. Without any checkpoint rewind to 0:
   * of step 0, only what had been flushed stays.
   */
  readonly rewind: (step: number) => Effect.Effect<void, DataError>
  /** Everything, parts and what is kept. Fails where a part is damaged. */
  readonly read: Effect.Effect<Rows, DataError>
  /** Steps that have probes, rising. */
  readonly steps: Effect.Effect<ReadonlyArray<number>, DataError>
}

// ---------------------------------------------------------------------------------------------------------------
// Tables

/** Where the parts of a table are, by the last step that they may hold. */
interface Parts<Row> {
  /** Rising. */
  readonly list: Effect.Effect<ReadonlyArray<number>, DataError>
  readonly read: (part: number) => Effect.Effect<ReadonlyArray<Row>, DataError>
  /** Is there completely, or not at all. */
  readonly write: (part: number, rows: ReadonlyArray<Row>) => Effect.Effect<void, DataError>
  readonly remove: (part: number) => Effect.Effect<void, DataError>
  /** Removes what an interrupted write left behind. */
  readonly tidy: Effect.Effect<void, DataError>
}

const byStep = <Row extends { readonly step: number }>(rows: ReadonlyArray<Row>): ReadonlyArray<Row> =>
  rows.toSorted((a, b) => a.step - b.step)

/** What a row is of, whatever was measured. */
type Key<Row> = (row: Row) => string

const probeKey: Key<ProbeRow> = ({ group, id, mask, sequence, step }) => [step, sequence, id, group, mask].join("\n")

const quantityKey: Key<QuantityRow> = ({ group, layer, mask, part, quantity, sequence, step }) =>
  [step, quantity, layer, part, sequence, group, mask].join("\n")

/** Rows, then those of `more` that are not among them. */
const union = <Row>(rows: ReadonlyArray<Row>, more: ReadonlyArray<Row>, key: Key<Row>): ReadonlyArray<Row> => {
  const known = new Map<string, number>()
  for (const row of more.length === 0 ? [] : rows) known.set(key(row), (known.get(key(row)) ?? 0) + 1)
  return [
    ...rows,
    ...more.filter((row) => {
      const count = known.get(key(row)) ?? 0
      known.set(key(row), count - 1)
      return count <= 0
    })
  ]
}

/** One table: `resumed` is the last part that was there before this run, -1 where there was none. */
const makeTable = <Row extends { readonly step: number }>(parts: Parts<Row>, key: Key<Row>, resumed: number) => {
  let kept: Array<Row> = []
  /** The last part, and the last of before this run. */
  let [last, before] = [resumed, resumed]
  /** Rows of this step complete those of the part of its name, which is the last; -1: of none. */
  let again = resumed
  return {
    append: (rows: ReadonlyArray<Row>): void => {
      const late = rows.find(({ step }) => step > before && step <= last)
      if (late !== undefined) {
        throw new DataError({
          detail: `a row of step ${late.step} came after the rows up to step ${last} were written: ` +
            "add all rows of a step before its checkpoint is saved"
        })
      }
      for (const row of rows) if (row.step > last || row.step === again) kept.push(row)
    },
    flush: (step: number) =>
      Effect.suspend(() => {
        const due = kept.filter((row) => row.step <= step)
        if (due.length === 0) return Effect.void
        const was = { again, before, last }
        const anew = due.filter((row) => row.step === was.again)
        const next = due.filter((row) => row.step > was.last)
        // rows may come in while these are written
        kept = kept.filter((row) => row.step > step)
        if (step >= again) again = -1
        if (anew.length > 0) before = was.again - 1
        if (next.length > 0) last = step
        return Effect.gen(function*() {
          if (anew.length > 0) {
            const had = byStep(yield* parts.read(was.again))
            const all = union(had, anew, key)
            if (all.length > had.length) yield* parts.write(was.again, all)
          }
          if (next.length > 0) yield* parts.write(step, byStep(next))
        }).pipe(Effect.tapErrorCause(() =>
          Effect.sync(() => {
            kept = [...due, ...kept]
            ;({ again, before, last } = was)
          })
        ))
      }),
    rewind: (step: number) =>
      Effect.gen(function*() {
        yield* parts.tidy
        const there = yield* parts.list
        const later = there.filter((part) => part > step)
        let end = there.findLast((part) => part <= step) ?? -1
        if (later.length > 0 && end < step) {
          // the first later part begins behind `end`, those after it behind `step`
          const rows = (yield* parts.read(later[0]!)).filter((row) => row.step > end && row.step <= step)
          if (rows.length > 0) {
            yield* parts.write(step, rows)
            end = step
          }
        }
        // the last first: whenever this is broken off, what is left has no gap
        for (const part of later.toReversed()) yield* parts.remove(part)
        kept = []
        before = last = end
        again = end === step ? step : -1
      }),
    read: Effect.gen(function*() {
      const rows: Array<ReadonlyArray<Row>> = []
      let end = -1
      for (const part of yield* parts.list) {
        // a rewind that was broken off leaves rows that two parts hold
        const from = end
        rows.push(byStep(yield* parts.read(part)).filter(({ step }) => step > from))
        end = part
      }
      return union(rows.flat(), byStep(kept), key)
    })
  }
}

type Table<Row extends { readonly step: number }> = ReturnType<typeof makeTable<Row>>

const makeLog = (probes: Table<ProbeRow>, quantities: Table<QuantityRow>): TraceLog => {
  const gate = Effect.unsafeMakeSemaphore(1)
  /** One at a time, and never half of it. */
  const alone = <A, E>(effect: Effect.Effect<A, E>) => Effect.uninterruptible(gate.withPermits(1)(effect))
  return {
    probes: (rows) => probes.append(rows.map(Traces.rounded)),
    quantities: quantities.append,
    flush: (step) => alone(Effect.zipRight(probes.flush(step), quantities.flush(step))),
    rewind: (step) => alone(Effect.zipRight(probes.rewind(step), quantities.rewind(step))),
    read: alone(Effect.all({ probes: probes.read, quantities: quantities.read })),
    steps: Effect.map(alone(probes.read), (rows) => [...new Set(rows.map(({ step }) => step))])
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Logs

const memoryTable = <Row extends { readonly step: number }>(key: Key<Row>): Table<Row> => {
  const parts = new Map<number, ReadonlyArray<Row>>()
  return makeTable<Row>({
    list: Effect.sync(() => [...parts.keys()].toSorted((a, b) => a - b)),
    read: (part) => Effect.sync(() => parts.get(part)!),
    write: (part, rows) => Effect.sync(() => void parts.set(part, rows)),
    remove: (part) => Effect.sync(() => void parts.delete(part)),
    tidy: Effect.void
  }, key, -1)
}

/** A log that forgets everything with the process. */
export const tracesInMemory = (): TraceLog => makeLog(memoryTable(probeKey), memoryTable(quantityKey))

const partPattern = /^step-(\d{8,})\.parquet$/

const fileTable = <Row extends { readonly step: number }>(
  folder: string,
  key: Key<Row>,
  write: (path: string, rows: ReadonlyArray<Row>) => Effect.Effect<void, DataError, FileSystem.FileSystem>,
  read: (path: string) => Effect.Effect<ReadonlyArray<Row>, DataError, FileSystem.FileSystem>
) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const file = (part: number) => path.join(folder, `step-${String(part).padStart(8, "0")}.parquet`)
    const advice = "Delete the folder of this arm, with its checkpoints, and run it again"
    const unwritable = (at: string) => (cause: unknown) =>
      dataError(at, `cannot be written: ${because(cause)}. Look at the free disk space and the permissions`, cause)
    const names = Effect.if(fs.exists(folder), {
      onTrue: () => fs.readDirectory(folder),
      onFalse: () => Effect.succeed([])
    }).pipe(Effect.mapError((cause) => dataError(folder, `cannot be read: ${because(cause)}`, cause)))
    const remove = (at: string) => Effect.mapError(fs.remove(at), unwritable(at))
    /** Makes new names last; Windows cannot open a folder, and needs no sync of it. */
    const sync = (at: string) =>
      Effect.scoped(Effect.flatMap(
        Effect.option(fs.open(at)),
        (handle) => handle._tag === "None" ? Effect.void : Effect.mapError(handle.value.sync, unwritable(at))
      ))
    const parts: Parts<Row> = {
      list: Effect.map(names,
        (all) => all.flatMap((name) => partPattern.exec(name)?.[1] ?? []).map(Number).toSorted((a, b) => a - b)),
      read: (part) =>
        read(file(part)).pipe(
          Effect.filterOrFail(
            (rows) => rows.every(({ step }) => step <= part),
            () => dataError(file(part), `holds rows of steps after ${part}: it was renamed or swapped`)
          ),
          Effect.mapError(({ cause, detail }) => dataError(file(part), `${detail}. ${advice}`, cause)),
          Effect.provideService(FileSystem.FileSystem, fs)
        ),
      write: (part, rows) =>
        Effect.mapError(fs.makeDirectory(folder, { recursive: true }), unwritable(folder)).pipe(
          Effect.zipRight(
            Effect.mapError(
              write(file(part), rows),
              (error) => error.cause === undefined ? error : unwritable(file(part))(error.cause)
            )
          ),
          Effect.zipRight(sync(folder)),
          Effect.zipRight(sync(path.dirname(folder))),
          Effect.provideService(FileSystem.FileSystem, fs)
        ),
      remove: (part) => remove(file(part)),
      tidy: Effect.flatMap(names, (all) =>
        Effect.forEach(all.filter((name) => name.endsWith(".partial")), (name) => remove(path.join(folder, name)), {
          discard: true
        }))
    }
    return makeTable(parts, key, (yield* parts.list).at(-1) ?? -1)
  })

/**
 * The log in a folder, which is made when something is written. A run that goes on rewinds it to its checkpoint first.
 * Fails with a DataError when the folder cannot be read.
 */
export const traceFolder = (
  folder: string
): Effect.Effect<TraceLog, DataError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    return makeLog(
      yield* fileTable(path.join(folder, "probes"), probeKey, Traces.writeProbes, Traces.readProbes),
      yield* fileTable(path.join(folder, "quantities"), quantityKey, Traces.writeQuantities, Traces.readQuantities)
    )
  })

/** Checkpoints that are saved only after the traces up to their step are. Fails with `CheckpointError` Write. */
export const resumable = (log: TraceLog) =>
(
  checkpoints: Context.Tag.Service<typeof Checkpoints>
): Context.Tag.Service<typeof Checkpoints> => ({
  ...checkpoints,
  save: (snapshot) =>
    log.flush(snapshot.step).pipe(
      Effect.mapError(({ cause, detail, path = checkpoints.location }) =>
        new CheckpointError({ reason: "Write", path, detail, cause })
      ),
      Effect.zipRight(checkpoints.save(snapshot))
    )
})
