/**
 * The jobs of experiments in a table of a database: who asks puts them there, workers take them, and both may come and go.
 * Results never pass through it, they lie in the store that all share; the queue says what is to be done and who does it.
 *
 * Of what Effect has for this, SqlClient of @effect/sql is used, with six statements of our own. Entities of Effect Cluster are
 * placed by the hash of their names, which balances badly where jobs are few and long; here who is free takes the next.
 * SqlPersistedQueue (of @effect/sql 0.52, below DurableQueue of @effect/workflow) is such a queue, but never extends the lock
 * of what is being done, so that a long job is soon done twice; does not count a try whose process was killed, so that a job
 * that kills its workers is tried for ever; never does again what is completed, though its result may be gone; and its
 * statement for SQLite is one that SQLite takes only where it was compiled for it.
 *
 * A job is taken for a while, which who does it prolongs; when that has passed it is another's. All times are those of the
 * database. Whoever was too slow finds that the job is not its own any more. Each statement may be sent twice.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import type * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { dirname, resolve } from "node:path"
import { AnyError, because, DataError, type MemsinksError } from "../../src/Errors.ts"
import { withoutCredentials } from "../../src/Terminal.ts"
import type { Job, Place } from "./Job.ts"
import { sqlite } from "./Sqlite.ts"
import { fromText, toText } from "./Store.ts"

/** Of the tables and of what is in them. Raise it when either changes. */
const VERSION = 1

/** What all who are to work together have in common. */
export interface Common {
  /** The id of the store. */
  readonly store: string
  /** Of memsinks. */
  readonly version: string
}

/** A job as it is handed out: all that a worker must know. */
export interface Task extends Job, Place, Common {
  /** Names it in the queue. */
  readonly id: string
  /** The hash of the key of its result, which the worker must come to as well. */
  readonly key: string
  /** The adapter and the kernels that its result depends on, by a name. */
  readonly machine: string
  /** The run's folder, which a job with a folder of its own needs. */
  readonly outDir?: string
  /** Where paths of its input are relative to. */
  readonly cwd: string
  /** How often it may be tried. */
  readonly tries: number
}

/** What became of a job that is not done: an error of its own, or a bug in the program. */
export type Failed = { readonly error: MemsinksError } | {
  readonly bug: { readonly message: string; readonly stack?: string }
}

export type State = "waiting" | "taken" | "done" | "failed"

/** A job as it stands. Times are seconds that have passed. */
export interface Entry {
  readonly id: string
  readonly kind: string
  readonly arm: string
  readonly seed: number
  readonly state: State
  readonly tries: number
  readonly most: number
  /** Who does it, or did it last. */
  readonly worker: string | null
  /** What its worker said last, or why one left it. */
  readonly note: string | null
  readonly failed: Failed | undefined
  readonly age: number
  /** Since it was taken. */
  readonly taken: number | null
  readonly machine: string
  readonly store: string
}

export interface WorkerEntry {
  readonly id: string
  /** Host and process. */
  readonly name: string
  readonly store: string
  readonly machine: string
  readonly version: string
  readonly doing: number
  readonly age: number
  /** Since it was last heard of, which is less than its lease while it lives. */
  readonly silent: number
  readonly alive: boolean
}

/** Who takes jobs. */
export interface Taker extends Common {
  /** Of the worker. */
  readonly id: string
  readonly name: string
  /** What it can compute on. */
  readonly machines: ReadonlyArray<string>
  /** Seconds that it may be silent before its jobs are others'. */
  readonly lease: number
}

export interface Queue {
  /** Without a password. */
  readonly name: string
  /** Puts jobs there, unless they wait or are being done; those that were done or failed are done once more. */
  readonly offer: (tasks: ReadonlyArray<Task>) => Effect.Effect<void, DataError>
  /** The next job for a place of a worker, if there is one, save those that it left. */
  readonly take: (
    taker: Taker,
    place: string,
    left: ReadonlyArray<string>
  ) => Effect.Effect<Task | undefined, DataError>
  /** Prolongs what the places of a worker do, and says that it lives; the ids of what is still its own. */
  readonly beat: (
    taker: Taker,
    doing: ReadonlyArray<{ readonly id: string; readonly place: string; readonly note: string }>
  ) => Effect.Effect<ReadonlySet<string>, DataError>
  /** A job is done. */
  readonly done: (id: string, place: string) => Effect.Effect<void, DataError>
  /** A job failed: that is the answer, or it is tried again as long as it may be. */
  readonly fail: (id: string, place: string, failed: Failed, again: boolean) => Effect.Effect<void, DataError>
  /** A job is left to others, as if it had never been tried here. */
  readonly leave: (id: string, place: string, note: string) => Effect.Effect<void, DataError>
  /** A worker goes. */
  readonly bye: (taker: Taker) => Effect.Effect<void, DataError>
  /** What is known of jobs; of all unless ids are given. */
  readonly jobs: (ids?: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Entry>, DataError>
  readonly workers: Effect.Effect<ReadonlyArray<WorkerEntry>, DataError>
  /** Lets jobs that failed be tried again; those whose ids begin so, or all. How many. */
  readonly retry: (ids: ReadonlyArray<string>) => Effect.Effect<number, DataError>
  /** Takes jobs out that nobody does; those whose ids begin so, or all that are done or failed. How many. */
  readonly remove: (ids: ReadonlyArray<string>) => Effect.Effect<number, DataError>
}

export interface QueueOptions {
  /** Seconds that a database may be away before who needs it gives up. Default 120. */
  readonly patience?: number
  /** Whether a file that is not there is made. Default true. */
  readonly make?: boolean
  /** Told when the database is away, and when it is back. */
  readonly say?: (message: string) => Effect.Effect<void>
}

const Outcome = Schema.Union(
  Schema.Struct({ error: AnyError }),
  Schema.Struct({ bug: Schema.Struct({ message: Schema.String, stack: Schema.optional(Schema.String) }) })
)
const encodeFailed = (failed: Failed): string => toText(Schema.encodeSync(Outcome)(failed as typeof Outcome.Type))
const decodeFailed = (text: string): Failed => Schema.decodeUnknownSync(Outcome)(fromText(text)) as Failed

/** What a database says that may soon be otherwise: it starts, ends, is out of reach, busy, or two were in each other's way. */
const mayPass = ({ cause }: SqlError): boolean => {
  const { code, message } = Object(cause) as { readonly code?: unknown; readonly message?: unknown }
  if (typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]+$/.test(code)) {
    return /^(08|23|40|53|57|58|XX)/.test(code)
  }
  return !/no such|syntax|not a database|malformed|readonly|read-only|disk|constraint|password|SSL/i.test(`${message}`)
}

/** Whether two were in each other's way, such as both made the tables: nothing to tell of, the next time it goes well. */
const isClash = ({ cause }: SqlError): boolean => /^(23|40)[0-9A-Z]{3}$/.test(String(Object(cause).code))

/** What Postgres takes as a text: nothing has to have a NUL. */
const plain = (text: string): string => text.replaceAll("\0", "")

/** Opens what a URL names. */
const clientOf = (
  url: string,
  name: string,
  make: boolean
): Effect.Effect<SqlClient.SqlClient, DataError | SqlError, Scope.Scope> => {
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(url)?.[1]?.toLowerCase()
  if (scheme === "postgres" || scheme === "postgresql") {
    return Effect.gen(function*() {
      const module = yield* Effect.tryPromise({
        try: () => import("@effect/sql-pg/PgClient"),
        catch: (cause) =>
          new DataError({
            path: name,
            detail: `a queue in Postgres needs the package @effect/sql-pg: npm install @effect/sql-pg@0.53 (${
              because(cause)
            })`
          })
      })
      return yield* module.make({ url: Redacted.make(url), maxConnections: 4, connectTimeout: "5 seconds",
        applicationName: "memsinks" }).pipe(Effect.provide(Reactivity.layer))
    })
  }
  if (scheme !== undefined && scheme !== "sqlite" && scheme !== "file" && scheme.length > 1) {
    return new DataError({
      path: name,
      detail: "is no queue: expected sqlite:FILE, a path of a file, or postgres://user@host/database"
    })
  }
  const file = resolve(url.replace(/^(sqlite|file):(\/\/(?=\/))?/i, ""))
  if (!make && !fs.existsSync(file)) {
    return new DataError({ path: file,
      detail: "there is no such queue: whoever asks with --queue, or a worker, makes it" })
  }
  return Effect.zipRight(
    Effect.try({
      try: () => fs.mkdirSync(dirname(file), { recursive: true }),
      catch: (cause) => new DataError({ path: file, detail: `cannot be made: ${because(cause)}`, cause })
    }),
    sqlite(file)
  )
}

const DIED = "its worker was killed, or could not be heard any more"

/**
 * Opens a queue until the scope closes; makes its tables where there are none.
 *
 * Fails with a DataError where the URL is none, its file is not there and none is to be made, what it needs is not installed, the database does not answer for `patience`,
 * or its tables are of another version.
 */
export const openQueue = (
  url: string,
  { make = true, patience = 120, say = () => Effect.void }: QueueOptions = {}
): Effect.Effect<Queue, DataError, Scope.Scope> =>
  Effect.gen(function*() {
    const name = withoutCredentials(url)
    let isAway = false
    /** Tries again while the database is away, and says so once. */
    const patient = <A, R = never>(
      effect: Effect.Effect<A, SqlError | DataError, R>
    ): Effect.Effect<A, DataError, R> =>
      effect.pipe(
        Effect.tapErrorTag("SqlError", (error) => {
          if (isAway || !mayPass(error) || isClash(error)) return Effect.void
          isAway = true
          return say(`the queue ${name} does not answer (${because(error.cause)}): trying for ${patience} s`)
        }),
        Effect.retry({
          while: (error) => error._tag === "SqlError" && mayPass(error),
          schedule: Schedule.exponential("100 millis", 1.5).pipe(
            Schedule.union(Schedule.spaced("2 seconds")),
            Schedule.jittered,
            Schedule.upTo(`${patience} seconds`)
          )
        }),
        Effect.tap(() => {
          if (!isAway) return Effect.void
          isAway = false
          return say(`the queue ${name} answers again`)
        }),
        Effect.catchTag("SqlError", (error) =>
          new DataError({
            path: name,
            detail: mayPass(error)
              ? `the queue did not answer for ${patience} s (${
                because(error.cause)
              }): see that the database runs and can ` +
                "be reached, and run the same command again; nothing is lost"
              : `the queue cannot be used: ${because(error.cause)}`,
            cause: error.cause
          }))
      )
    const sql = yield* patient(clientOf(url, name, make))
    const now = sql.onDialectOrElse({
      pg: () => sql.literal("extract(epoch from clock_timestamp())::float8"),
      orElse: () => sql.literal("((julianday('now') - 2440587.5) * 86400.0)")
    })
    const [locked, real] = sql.onDialectOrElse({
      pg: () => [sql.literal("FOR UPDATE SKIP LOCKED"), sql.literal("float8")],
      // one statement is alone in a file
      orElse: () => [sql.literal(""), sql.literal("REAL")]
    })
    const plus = (seconds: number) => sql`${now} + ${sql.literal(String(Number(seconds)))}`

    const tables = Effect.gen(function*() {
      yield* sql`CREATE TABLE IF NOT EXISTS memsinks_queue (version INTEGER PRIMARY KEY)`
      const found = yield* sql<{ readonly version: number }>`SELECT version FROM memsinks_queue`
      const other = found.find(({ version }) => version !== VERSION)
      if (other !== undefined) {
        return yield* new DataError({
          path: name,
          detail:
            `is a queue of version ${other.version}, and this memsinks knows version ${VERSION}: use the version of ` +
            "memsinks that made it, or another database or file"
        })
      }
      yield* sql`CREATE TABLE IF NOT EXISTS memsinks_jobs (
        id TEXT PRIMARY KEY,
        place INTEGER NOT NULL,
        store TEXT NOT NULL,
        machine TEXT NOT NULL,
        version TEXT NOT NULL,
        kind TEXT NOT NULL,
        arm TEXT NOT NULL,
        seed ${real} NOT NULL,
        task TEXT NOT NULL,
        state TEXT NOT NULL,
        tries INTEGER NOT NULL,
        most INTEGER NOT NULL,
        worker TEXT,
        worker_name TEXT,
        note TEXT,
        failure TEXT,
        created ${real} NOT NULL,
        taken ${real},
        until ${real}
      )`
      yield* sql`CREATE INDEX IF NOT EXISTS memsinks_jobs_next ON memsinks_jobs (state, store)`
      yield* sql`CREATE TABLE IF NOT EXISTS memsinks_workers (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        store TEXT NOT NULL,
        machine TEXT NOT NULL,
        version TEXT NOT NULL,
        doing INTEGER NOT NULL,
        created ${real} NOT NULL,
        seen ${real} NOT NULL,
        lease ${real} NOT NULL
      )`
      if (found.length === 0) {
        yield* sql`INSERT INTO memsinks_queue (version) VALUES (${VERSION}) ON CONFLICT DO NOTHING RETURNING version`
      }
    })
    yield* patient(tables)

    /** Those that were tried as often as they may be and whose worker is gone: that is their answer. */
    const bury = sql`
      UPDATE memsinks_jobs SET state = 'failed', failure = NULL, until = NULL
      WHERE state = 'taken' AND until < ${now} AND tries >= most RETURNING id`
    const chosen = (ids: ReadonlyArray<string>) =>
      sql.or(ids.map((id) => sql`id LIKE ${`${id.replace(/[%_]/g, "")}%`}`))

    return {
      name,
      offer: (tasks) =>
        patient(Effect.forEach(tasks, (task, place) => {
          const { arm, id, kind, machine, seed, store, tries, version } = task
          return sql`
            INSERT INTO memsinks_jobs (id, place, store, machine, version, kind, arm, seed, task, state, tries, most, created)
            VALUES (${id}, ${place}, ${store}, ${machine}, ${version}, ${kind}, ${plain(arm)}, ${seed}, ${toText(task)},
              'waiting', 0, ${tries}, ${now})
            ON CONFLICT (id) DO UPDATE SET state = 'waiting', tries = 0, most = excluded.most, task = excluded.task,
              created = excluded.created, worker = NULL, worker_name = NULL, note = NULL, failure = NULL, taken = NULL,
              until = NULL
            WHERE memsinks_jobs.state IN ('done', 'failed')
            RETURNING id`
        }, { discard: true })),
      take: (taker, place, left) =>
        patient(Effect.gen(function*() {
          yield* bury
          // an answer that was lost on its way back is asked for again: what this place has taken is still its own
          const [row] = yield* sql<{ readonly task: string }>`
            UPDATE memsinks_jobs SET
              tries = tries + CASE WHEN state = 'taken' AND worker = ${place} THEN 0 ELSE 1 END,
              state = 'taken', worker = ${place}, worker_name = ${taker.name}, note = NULL, taken = ${now},
              until = ${plus(taker.lease)}
            WHERE id = (
              SELECT id FROM memsinks_jobs
              WHERE store = ${taker.store} AND version = ${taker.version} AND ${sql.in("machine", taker.machines)}
                AND ((state = 'waiting' AND tries < most)
                  OR (state = 'taken' AND ((until < ${now} AND tries < most) OR worker = ${place})))
                ${left.length === 0 ? sql.literal("") : sql`AND NOT ${sql.in("id", left)}`}
              ORDER BY tries, created, place
              LIMIT 1 ${locked}
            )
            RETURNING task`
          return row === undefined ? undefined : fromText(row.task) as Task
        })),
      beat: (taker, doing) =>
        patient(Effect.gen(function*() {
          const { id, machines, name, store, version } = taker
          yield* sql`
            INSERT INTO memsinks_workers (id, name, store, machine, version, doing, created, seen, lease)
            VALUES (${id}, ${name}, ${store}, ${machines[0] ?? ""}, ${version}, ${doing.length}, ${now}, ${now},
              ${taker.lease})
            ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, doing = excluded.doing RETURNING id`
          const own = yield* Effect.forEach(doing, ({ id, note, place }) =>
            sql<{ readonly id: string }>`
              UPDATE memsinks_jobs SET until = ${plus(taker.lease)}, note = ${plain(note)}
              WHERE id = ${id} AND worker = ${place} AND state = 'taken' RETURNING id`)
          return new Set(own.flat().map(({ id }) => id))
        })),
      done: (id, place) =>
        patient(sql`
          UPDATE memsinks_jobs SET state = 'done', until = NULL, note = NULL, failure = NULL
          WHERE id = ${id} AND worker = ${place} AND state = 'taken' RETURNING id`),
      fail: (id, place, failed, again) =>
        patient(sql`
          UPDATE memsinks_jobs SET
            state = ${again ? sql`CASE WHEN tries < most THEN 'waiting' ELSE 'failed' END` : sql.literal("'failed'")},
            until = NULL, failure = ${encodeFailed(failed)}
          WHERE id = ${id} AND worker = ${place} AND state = 'taken' RETURNING id`),
      leave: (id, place, note) =>
        patient(sql`
          UPDATE memsinks_jobs SET state = 'waiting', tries = tries - 1, until = NULL, worker = NULL, note = ${
          plain(note)
        }
          WHERE id = ${id} AND worker = ${place} AND state = 'taken' RETURNING id`),
      bye: ({ id }) => patient(sql`DELETE FROM memsinks_workers WHERE id = ${id} RETURNING id`),
      jobs: (ids) =>
        patient(Effect.gen(function*() {
          yield* bury
          type Row = Omit<Entry, "failed"> & { readonly failure: string | null }
          const rows = yield* sql<Row>`
            SELECT id, kind, arm, seed, state, tries, most, worker_name AS worker, note, failure, machine, store,
              ${now} - created AS age, ${now} - taken AS taken
            FROM memsinks_jobs ${ids === undefined ? sql.literal("") : sql`WHERE ${sql.in("id", ids)}`}
            ORDER BY created, place`
          return rows.map(({ failure, ...row }): Entry => {
            const { most, state, worker } = row
            return { ...row, failed: failure !== null ? decodeFailed(failure) : state !== "failed" ? undefined : {
              error: new DataError({
                detail: `was tried ${most === 1 ? "once" : `${most} times`} and ended no time: ${DIED} (the last was ` +
                  `${worker}). Does it need more memory than there is? memsinks jobs --retry tries it again`
              })
            } }
          })
        })),
      workers: patient(Effect.map(
        sql<Omit<WorkerEntry, "alive"> & { readonly lease: number }>`
          SELECT id, name, store, machine, version, doing, ${now} - created AS age, ${now} - seen AS silent, lease
          FROM memsinks_workers WHERE seen > ${now} - 86400 ORDER BY created`,
        (rows) => rows.map(({ lease, ...row }) => ({ ...row, alive: row.silent < lease }))
      )),
      retry: (ids) =>
        patient(Effect.map(
          sql`UPDATE memsinks_jobs SET state = 'waiting', tries = 0, failure = NULL
            WHERE state = 'failed' ${ids.length === 0 ? sql.literal("") : sql`AND ${chosen(ids)}`} RETURNING id`,
          ({ length }) => length
        )),
      remove: (ids) =>
        patient(Effect.map(
          sql`DELETE FROM memsinks_jobs WHERE ${
            ids.length === 0 ? sql`state IN ('done', 'failed')` : sql`state <> 'taken' AND ${chosen(ids)}`
          } RETURNING id`,
          ({ length }) => length
        ))
    }
  })
