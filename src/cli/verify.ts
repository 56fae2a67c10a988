/** `memsinks verify`: whether a certificate of a deletion, and the files that it names, are as they were signed. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Certificate from "../forget/Certificate.ts"
import { plural } from "../Terminal.ts"
import { NAME } from "./certificate.ts"
import type { VerifyOptions } from "./commands/verify.ts"
import * as Edge from "./Edge.ts"

/** Prints what was verified. Fails with a DataError where anything is not as it was signed. */
export const runVerify = (options: VerifyOptions) =>
  Effect.gen(function*() {
    const inside = (yield* Path.Path).join(options.file, NAME)
    const exists = (yield* FileSystem.FileSystem).exists(inside)
    const file = (yield* Effect.orElseSucceed(exists, () => false)) ? inside : options.file
    const { files, keyId, statement } = yield* Certificate.verify(file, options.key)
    yield* Edge.print(
      options.json
        ? JSON.stringify({ verified: true, keyId, files, statement })
        : `${file}: signed by ${keyId.slice(0, 16)}…, and ${plural(files, "file")} as signed`
    )
  })
