/** Signing the folder of a deletion, with its audit where there is one. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as AtomicFile from "../AtomicFile.ts"
import { because, DataError } from "../Errors.ts"
import * as Certificate from "../forget/Certificate.ts"
import * as Forget from "../forget/Forget.ts"
import { parseJson } from "../Json.ts"
import * as Edge from "./Edge.ts"

/** What a certificate is called in its folder. */
export const NAME = "certificate.json"

/**
 * Signs every file in a folder that `memsinks forget` wrote, what its ledger says, what was not touched, and the audit where there
 * is one, and leaves `certificate.json` beside them.
 */
export const signed = (folder: string, checkpoint: string, key: Certificate.SigningKey) =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const fs = yield* FileSystem.FileSystem
    const path = paths.join(folder, NAME)
    const subjects = (yield* Certificate.subjectsOf(folder)).filter(({ name }) => name !== NAME)
    const audit = subjects.find(({ name }) => name === "audit.json")
    const untouched = paths.join(folder, Forget.surfacesFile)
    const surfaces = subjects.every(({ name }) => name !== Forget.surfacesFile)
      ? undefined
      : yield* fs.readFileString(untouched).pipe(
        Effect.mapError((cause) => new DataError({ path: untouched, detail: because(cause), cause })),
        Effect.flatMap((text) =>
          Effect.mapError(parseJson(text), (detail) => new DataError({ path: untouched, detail }))
        )
      )
    const text = Certificate.certify(subjects, {
      ...Edge.versions(),
      deletions: yield* Forget.deletionsOf(checkpoint),
      ...(surfaces === undefined ? {} : { surfaces }),
      audit: audit ?? null,
      states:
        "The sinks of the deleted are not lit again by their ids unless a later entry restores them; those units that " +
        "deletions[].units.taken counts are zero, or off for all, or, where deletions[].refresh tells of it, learned anew " +
        "from others. General neurons were not changed unless deletions[].refresh.train is all: what they learned of the " +
        `deleted is what the audit asks for${audit === undefined ? ", and there is none" : ""}.`
    }, key)
    yield* Effect.try({
      try: () => AtomicFile.write(path, text),
      catch: (cause) => new DataError({ path, detail: because(cause), cause })
    })
    return path
  })
