/** Opening what `memsinks router` made. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import type { OpenCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import { decodeRouter, type Router } from "../data/identity/Router.ts"
import { fingerprint } from "../data/tokens/SameTokenizer.ts"
import { because, DataError } from "../Errors.ts"
import { type Seeker, seekerOf } from "../serve/State.ts"

/** What finds the source that a prompt is most like, by a router's file, and among how many. */
export interface OpenSeeker {
  readonly sources: number
  readonly seek: Seeker
}

/** The options by which `generate` and `serve` seek. */
export interface SeekOptions {
  readonly least: number
}

/** The router in a file with the names of its sources. */
export const openSeeker = (file: string, checkpoint: OpenCheckpoint, { least }: SeekOptions) =>
  Effect.gen(function*() {
    const router = yield* openRouter(file, checkpoint)
    const called = new Map<bigint, string>()
    yield* checkpoint.names?.each(({ id, name }) => void called.set(id, name)) ?? Effect.void
    return { sources: router.sources, seek: seekerOf(router, (id) => called.get(id) ?? `${id}`, least) }
  })

/** The router in a file, which must be of the checkpoint's tokenizer. */
export const openRouter = (
  file: string,
  { path, tokenizer }: Pick<OpenCheckpoint, "path" | "tokenizer">
): Effect.Effect<Router, DataError, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    const read = (yield* FileSystem.FileSystem).readFile(file)
    const bytes = yield* Effect.mapError(read, (cause) => new DataError({ path: file, detail: because(cause), cause }))
    const router = yield* decodeRouter(bytes, file)
    if (tokenizer !== undefined && router.tokenizer === fingerprint(tokenizer.toJSON())) return router
    return yield* new DataError({ path: file, detail: `was made with another tokenizer than that of ${path}` })
  })
