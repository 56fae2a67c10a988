/** Signing the folder of a deletion, with its audit where there is one. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as AtomicFile from "../AtomicFile.ts"
import { because, DataError } from "../Errors.ts"
import * as Certificate from "../forget/Certificate.ts"
import * as Forget from "../forget/Forget.ts"
import * as Edge from "./Edge.ts"

const NAME = "certificate.json"

/**
 * Signs every file in a folder that `memsinks forget` wrote, and what its ledger says, and leaves `certificate.json` beside
 * them. `surfaces`: what was not touched, where that is known.
 */
export const signed = (
  folder: string,
  checkpoint: string,
  key: Certificate.SigningKey,
  surfaces?: ReadonlyArray<Forget.Surface>
) =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const fs = yield* FileSystem.FileSystem
    const path = paths.join(folder, NAME)
    const subjects = (yield* Certificate.subjectsOf(folder)).filter(({ name }) => name !== NAME)
    const hasAudit = yield* Effect.orElseSucceed(fs.exists(paths.join(folder, "audit.json")), () => false)
    const text = Certificate.certify(subjects, {
      ...Edge.versions(),
      deletions: yield* Forget.deletionsOf(checkpoint),
      ...(surfaces === undefined ? {} : { surfaces }),
      audit: hasAudit ? "audit.json" : null,
      states:
        "The sinks of the deleted are not lit again by their ids unless a later entry restores them; those units that deletions[].units.taken counts are " +
        "zero, or off for all. General neurons were not changed: what they learned of the deleted is what the audit asks for" +
        (hasAudit ? "." : ", and there is none.")
    }, key)
    yield* Effect.try({
      try: () => AtomicFile.write(path, text),
      catch: (cause) => new DataError({ path, detail: because(cause), cause })
    })
    return path
  })
