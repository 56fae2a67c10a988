/** The data that jobs are trained on: made when one asks for it, shared by those that ask for the same, and let go again. */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { batchOf, type Cursor, DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import type { DataError } from "../../src/Errors.ts"
import { keyOf } from "../../src/Key.ts"

/** A stream that shows just the rows of each step, in one epoch. `shown`: plain data that they follow from, besides `data`. */
export const scheduled = (
  data: typeof DataStream.Service,
  { rows, shown, steps }: { readonly rows: (step: number) => ReadonlyArray<Row>; readonly shown: unknown;
    readonly steps: number }
): typeof DataStream.Service =>
  DataStream.of({
    ...data,
    batches: (cursor: Cursor) =>
      Stream.unfold(cursor.batch, (step) =>
        step >= steps ? Option.none() : Option.some([
          { batch: batchOf(rows(step), data.seqLen), cursor: { epoch: 0, batch: step + 1 } },
          step + 1
        ] as const)),
    batchesPerEpoch: steps,
    maxSegments: data.batchSize,
    inputs: Effect.map(data.inputs, (inputs) => [
      ...inputs,
      { what: "what is shown when", sha256: keyOf(shown) }
    ])
  })

export interface Streams {
  /** The batches of a configuration, which stay until the scope closes. */
  readonly hold: (
    config: DataConfig
  ) => Effect.Effect<typeof DataStream.Service, DataError, FileSystem.FileSystem | Scope.Scope>
  /** Does something with the batches of a configuration. */
  readonly use: <A, E, R>(
    config: DataConfig,
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | DataError, Exclude<R, DataStream> | FileSystem.FileSystem>
  /** The same with batches that are made by a layer, known by plain data that they follow from. */
  readonly useLayer: <A, E, R>(
    key: unknown,
    layer: Layer.Layer<DataStream, DataError, FileSystem.FileSystem>,
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | DataError, Exclude<R, DataStream> | FileSystem.FileSystem>
}

interface Entry {
  readonly context: Context.Context<DataStream>
  readonly scope: Scope.CloseableScope
  users: number
}

/**
 * Streams that live until the scope closes, or until `most` others have been asked for since.
 *
 * @param options `most`: how many that nobody uses are kept, default 2
 */
export const makeStreams = (
  { cacheDirectory, most = 2 }: { readonly cacheDirectory?: string; readonly most?: number } = {}
): Effect.Effect<Streams, never, Scope.Scope> =>
  Effect.gen(function*() {
    /** In the order of their last use. */
    const entries = new Map<string, Entry>()
    const alone = yield* Effect.makeSemaphore(1)
    const close = (scope: Scope.CloseableScope) => Scope.close(scope, Exit.void)
    yield* Effect.addFinalizer(() =>
      Effect.forEach([...entries.values()], ({ scope }) => close(scope), { discard: true })
    )
    const tidy = Effect.suspend(() => {
      const idle = [...entries].filter(([, { users }]) => users === 0)
      const gone = idle.slice(0, Math.max(0, idle.length - most))
      for (const [key] of gone) entries.delete(key)
      return Effect.forEach(gone, ([, { scope }]) => close(scope), { discard: true })
    })
    const take = (of: unknown, layer: Layer.Layer<DataStream, DataError, FileSystem.FileSystem>) =>
      Effect.gen(function*() {
        const key = keyOf(of)
        let entry = entries.get(key)
        if (entry === undefined) {
          const scope = yield* Scope.make()
          const context = yield* Layer.buildWithScope(layer, scope).pipe(Effect.onError(() => close(scope)))
          entry = { context, scope, users: 0 }
        }
        entries.delete(key)
        entries.set(key, entry)
        entry.users++
        return entry
      }).pipe(alone.withPermits(1))
    const stream = (config: DataConfig) => {
      const input = Schema.encodeSync(DataConfig)(config)
      return [input, DataStream.layer(input, cacheDirectory === undefined ? {} : { cacheDirectory })] as const
    }
    const letGo = (entry: Entry) =>
      alone.withPermits(1)(Effect.suspend(() => {
        entry.users--
        return tidy
      }))
    const useLayer: Streams["useLayer"] = (key, layer, effect) =>
      Effect.acquireUseRelease(take(key, layer), ({ context }) => Effect.provide(effect, context), letGo)
    return {
      useLayer,
      use: (config, effect) => useLayer(...stream(config), effect),
      hold: (config) =>
        Effect.map(Effect.acquireRelease(take(...stream(config)), letGo),
          ({ context }) => Context.get(context, DataStream))
    }
  })
