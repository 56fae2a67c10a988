/** Opening what `memsinks router` made. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import type { OpenCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import { decodeRouter, type Router } from "../data/identity/Router.ts"
import { fingerprint } from "../data/tokens/SameTokenizer.ts"
import { because, DataError } from "../Errors.ts"

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
