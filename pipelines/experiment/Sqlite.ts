/**
 * An SqlClient of Effect's on an SQLite file, by what the runtime has: `node:sqlite` of Deno and of Node from 22.13 on, else
 * the package libsql, which has the same calls. Effect's own clients for SQLite each want one runtime or one native package.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { because, DataError } from "../../src/Errors.ts"

/** What both drivers can do. */
interface Database {
  readonly exec: (sql: string) => unknown
  readonly prepare: (sql: string) => {
    /** Whether rows come back, where the driver tells; one that does not gives none for those that do not. */
    readonly reader?: boolean
    readonly all: (...values: ReadonlyArray<any>) => ReadonlyArray<any>
    readonly run: (...values: ReadonlyArray<any>) => unknown
  }
  readonly close: () => void
}

type Driver = new(file: string) => Database

const driver: Effect.Effect<Driver, DataError> = Effect.promise(async (): Promise<Driver | undefined> => {
  const load = async (name: string): Promise<any> => {
    try {
      return await import(name)
    } catch {
      return undefined
    }
  }
  return (await load("node:sqlite"))?.DatabaseSync ?? (await load("libsql"))?.default
}).pipe(Effect.flatMap((found) =>
  found === undefined
    ? new DataError({
      detail: "a queue in an SQLite file needs Node 22.13 or later, Deno, or the package libsql: npm install libsql; " +
        "postgres://… needs neither"
    })
    : Effect.succeed(found)
))

/** Opens a file, which is made where there is none, until the scope closes. */
export const sqlite = (file: string): Effect.Effect<SqlClient.SqlClient, DataError, Scope.Scope> =>
  Effect.gen(function*() {
    const Driver = yield* driver
    const database = yield* Effect.acquireRelease(
      Effect.try({
        try: () => {
          const database = new Driver(file)
          // who finds it locked waits a moment; readers and a writer do not wait for each other
          database.exec("PRAGMA busy_timeout = 2000")
          database.exec("PRAGMA journal_mode = WAL")
          return database
        },
        catch: (cause) => new DataError({ path: file, detail: `cannot be opened as a queue: ${because(cause)}`, cause })
      }),
      (database) => Effect.sync(() => database.close())
    )
    const execute = (sql: string, values: ReadonlyArray<unknown>) =>
      Effect.try({
        try: () => {
          const statement = database.prepare(sql)
          if (statement.reader !== false) return statement.all(...values)
          statement.run(...values)
          return []
        },
        catch: (cause) => new SqlError({ cause, message: because(cause) })
      })
    const connection: Connection = {
      execute,
      executeRaw: execute,
      executeUnprepared: execute,
      executeStream: (sql, values) => Stream.fromIterableEffect(execute(sql, values)),
      executeValues: (sql, values) => Effect.map(execute(sql, values), (rows) => rows.map(Object.values))
    }
    return yield* SqlClient.make({
      acquirer: Effect.succeed(connection),
      compiler: Statement.makeCompilerSqlite(),
      spanAttributes: [["db.system.name", "sqlite"]]
    }).pipe(Effect.provide(Reactivity.layer))
  })
