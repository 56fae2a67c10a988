/**
 * Names that come from elsewhere, a file or a server, before they touch the file system: each has a form, and one that
 * has it stays below the folder it is looked for in.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { realpathSync } from "node:fs"
import { isAbsolute, join, relative, sep } from "node:path"

/** What file systems allow: a name has 255 bytes, a path 4096. */
const LONGEST_NAME = 255
const LONGEST_PATH = 1024

/** Control characters; halves of a character, which all become the same one in UTF-8. */
const UNWRITABLE = /[\u0000-\u001f\u007f-\u009f]|\p{Surrogate}/u

/** One name in a folder: no path, no drive, nothing that means another place. */
export const isFileName = (name: string): boolean =>
  name.length <= LONGEST_NAME && !/^\.{0,2}$/.test(name) && !/[/\\]|^[A-Za-z]:/.test(name) && !UNWRITABLE.test(name)

/** A path below a folder: names with `/` between them. */
export const isRelativePath = (path: string): boolean =>
  path.length <= LONGEST_PATH && path.split("/").every(isFileName)

/** A SHA-256 in hexadecimal digits. */
export const isSha256 = (name: string): boolean => /^[0-9a-f]{64}$/.test(name)

/** A commit or object of git: a SHA-1, or in newer repositories a SHA-256. */
export const isGitHash = (name: string): boolean => /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(name)

const form = (is: (name: string) => boolean, description: string) =>
  Schema.String.pipe(Schema.filter((name) => is(name) || `expected ${description}, got ${shown(name)}`))

/** A text as a message shows it, whatever is in it. */
export const shown = (text: string): string =>
  JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text).replace(
    /[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

export const FileName = form(isFileName, "the name of a file")
export const RelativePath = form(isRelativePath, "a path below the folder")
export const Sha256 = form(isSha256, "a SHA-256 of 64 hexadecimal digits")
export const GitHash = form(isGitHash, "a git hash of 40 or 64 hexadecimal digits")

/** Whether a path, both without links, is below a folder or is it. */
export const isWithin = (folder: string, path: string): boolean => {
  const way = relative(folder, path)
  return way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way)
}

/**
 * Folders that the files of a folder may lie in: itself, and where it is a snapshot in a cache of the Hugging Face Hub,
 * the blobs that its links lead to.
 */
export const homesOf = (folder: string): ReadonlyArray<string> => {
  const [, storage] = /^(.*)[\\/]snapshots[\\/][0-9a-f]{40}(?:[\\/]|$)/.exec(folder) ?? []
  return storage === undefined ? [folder] : [folder, join(storage, "blobs")]
}

/** What is wrong with a file of a folder that is not ours alone: a link in it that leads out. */
export const LEADS_OUT = "is a link that leads out of its folder, where nothing is read: put the file itself there"

const within = (home: string, path: string): boolean => homesOf(home).some((one) => isWithin(one, path))

/**
 * Whether a file of a folder really lies there, links followed. One that is not there is left to whoever reads it.
 */
export const liesIn = (folder: string, file: string): Effect.Effect<boolean, never, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    return within(yield* fs.realPath(folder), yield* fs.realPath(join(folder, file)))
  }).pipe(Effect.orElseSucceed(() => true))

/** The same at once. */
export const liesInSync = (folder: string, file: string): boolean => {
  try {
    return within(realpathSync(folder), realpathSync(join(folder, file)))
  } catch {
    return true
  }
}
