/** Sources for tests: files in a folder of their own, and what is read of them. */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { type Document, type SourceSpecInput, stream, type Tally } from "../../src/data/Source.ts"
import type { DataError } from "../../src/Errors.ts"

export type Files = Readonly<Record<string, string | Uint8Array>>

/** Uses a new folder that holds files, and removes it. */
export const withFolder = async <A>(files: Files, use: (folder: string) => Promise<A>): Promise<A> => {
  const folder = mkdtempSync(join(tmpdir(), "memsinks-"))
  try {
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, path)), { recursive: true })
      writeFileSync(join(folder, path), content)
    }
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** What reading gave: its documents or its error, and what was logged. */
export interface Read {
  readonly documents: ReadonlyArray<Document>
  readonly error: DataError | undefined
  readonly logged: ReadonlyArray<string>
}

/** Reads a source; the folder is taken out of names. Anything but documents or a `DataError` is thrown. */
export const readIn = async (folder: string, spec: SourceSpecInput, tally?: Tally): Promise<Read> => {
  const logged: Array<string> = []
  const plain = (name: string): string => name.replaceAll(`${folder}/`, "")
  const logger = Logger.make(({ message }) => void logged.push(plain(String(message))))
  const found = await stream({ ...spec, path: join(folder, spec.path) }, tally).pipe(
    Stream.runCollect,
    Effect.merge,
    Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
    Effect.provide(NodeFileSystem.layer),
    Effect.runPromise
  )
  if (!Chunk.isChunk(found)) return { documents: [], error: found, logged }
  const documents = Chunk.toReadonlyArray(found)
    .map((one) => ({ ...one, name: plain(one.name), source: plain(one.source) }))
  return { documents, error: undefined, logged }
}

/** The same of files that are there for it alone. */
export const readOf = (files: Files, spec: SourceSpecInput, tally?: Tally): Promise<Read> =>
  withFolder(files, (folder) => readIn(folder, spec, tally))
