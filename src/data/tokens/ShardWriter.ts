/** Writes token shards, so that no name ever stands for half a file. */
import { Buffer } from "node:buffer"
import { createHash } from "node:crypto"
import * as AtomicFile from "../../AtomicFile.ts"
import { because, dataError as fail } from "../../Errors.ts"
import { keyOf } from "../../Key.ts"
import { type Dataset, RECORD, shardFiles } from "../Dataset.ts"

/** A file that gets its name only when it is complete and on the disk. Methods throw `DataError`. */
export interface NewFile {
  readonly write: (bytes: Uint8Array) => void
  /** Syncs it, gives it its name, and returns its SHA-256. */
  readonly finish: () => string
  /** Gives up, and removes what was written. */
  readonly abandon: () => void
}

export { TEMPORARY } from "../../AtomicFile.ts"

const unwritten = <A>(path: string, attempt: () => A): A => {
  try {
    return attempt()
  } catch (cause) {
    throw fail(
      path,
      `cannot be written: ${because(cause)}. Look at the free disk space and the permissions; ` +
        "finished shards are intact",
      cause
    )
  }
}

/** Begins a file, in place of one of the same name. Throws `DataError`. */
export const newFile = (path: string): NewFile => {
  // whoever goes on in the folder knows the names of what was left unfinished
  const file = unwritten(path, () => AtomicFile.begin(path, `${path}${AtomicFile.TEMPORARY}`))
  const hash = createHash("sha256")
  return {
    write: (bytes) =>
      unwritten(path, () => {
        hash.update(bytes)
        file.write(bytes)
      }),
    finish: () =>
      unwritten(path, () => {
        file.finish()
        return hash.digest("hex")
      }),
    abandon: file.abandon
  }
}

/** Writes a small text file whole; returns its SHA-256. Throws `DataError`. */
export const writeWhole = (path: string, text: string): string => {
  const file = newFile(path)
  try {
    file.write(Buffer.from(text))
    return file.finish()
  } catch (cause) {
    file.abandon()
    throw cause
  }
}

/** Documents to be appended; in arrays of one length, but for the tokens, which lie one behind the other. */
export interface NewDocuments {
  readonly tokens: Uint16Array | Uint32Array
  readonly lengths: Uint32Array
  /** Places in the dataset's `sources`. */
  readonly sources: Uint32Array
  readonly contents: BigUint64Array
  readonly names: ReadonlyArray<string>
}

/** A shard that is being written. Methods throw `DataError`. */
export interface ShardWriter {
  readonly file: string
  readonly tokens: () => number
  readonly documents: () => number
  /** Appends some of the documents: those from `from` on, before `to`, whose tokens begin at `token`. */
  readonly append: (all: NewDocuments, from: number, to: number, token: number) => void
  /** Makes the shard durable under its names. Returns the SHA-256 of its files. */
  readonly finish: () => Readonly<Record<string, string>>
  readonly abandon: () => void
}

/** Begins the shard of a number; `firstDocument` is the number of its first document in the dataset. */
export const newShard = (
  folder: string,
  number: number,
  dtype: Dataset["dtype"],
  firstDocument: number
): ShardWriter => {
  const file = `shard-${String(number).padStart(5, "0")}.bin`
  const names = shardFiles(file)
  const files = [names.bin, names.idx, names.names].map((name) => newFile(`${folder}/${name}`))
  const [bin, idx, namesFile] = files
  let tokens = 0
  let documents = 0
  return {
    file,
    tokens: () => tokens,
    documents: () => documents,
    append: (all, from, to, token) => {
      if (to <= from) return
      const records = new ArrayBuffer(RECORD * (to - from))
      const u32 = new Uint32Array(records)
      const u64 = new BigUint64Array(records)
      let end = token
      for (let i = from; i < to; i++) {
        const at = i - from
        const start = tokens + end - token
        u64[4 * at] = BigInt(start)
        u32[8 * at + 2] = all.lengths[i]!
        u32[8 * at + 3] = all.sources[i]!
        u64[4 * at + 2] = all.contents[i]!
        u64[4 * at + 3] = BigInt(firstDocument + documents + at)
        end += all.lengths[i]!
      }
      const slice = all.tokens.subarray(token, end)
      const typed = dtype === "uint16" ? Uint16Array : Uint32Array
      const out = slice instanceof typed ? slice : typed.from(slice)
      bin!.write(new Uint8Array(out.buffer, out.byteOffset, out.byteLength))
      idx!.write(new Uint8Array(records))
      namesFile!.write(Buffer.from(all.names.slice(from, to).map((name) => `${JSON.stringify(name)}\n`).join("")))
      tokens += end - token
      documents += to - from
    },
    finish: () => {
      const [sha256Bin, sha256Idx, sha256Names] = files.map((one) => one.finish())
      return { [names.bin]: sha256Bin!, [names.idx]: sha256Idx!, [names.names]: sha256Names! }
    },
    abandon: () => {
      for (const one of files) one.abandon()
    }
  }
}

/** Index records with the clusters of their documents, in place of the documents' own numbers. */
export const withNear = (idx: Uint8Array, near: Uint32Array): Uint8Array => {
  const bytes = new Uint8Array(idx)
  const u64 = new BigUint64Array(bytes.buffer)
  for (let i = 0; i < near.length; i++) u64[4 * i + 3] = BigInt(near[i]!)
  return bytes
}

/** Writes `dataset.json`: with it the dataset is complete. Throws `DataError`. */
export const writeDataset = (folder: string, dataset: Dataset): void => {
  const sealed: Dataset = { ...dataset, self: keyOf(dataset) }
  writeWhole(`${folder}/dataset.json`, `${JSON.stringify(sealed, null, 2)}\n`)
}
