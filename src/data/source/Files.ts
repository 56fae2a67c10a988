/** Files of documents: which kinds there are, and what messages call them. */
import type { PlatformError } from "@effect/platform/Error"
import { closeSync, constants, fstatSync, openSync } from "node:fs"
import { because, type DataError, dataError as fail, told } from "../../Errors.ts"

/** How the documents of a file are told apart. */
export type Kind = "text" | "jsonl" | "parquet"

/** A file that documents are read from. */
export interface SourceFile {
  /** What documents and sources are named by: the path below the folder or dataset, or as it was given. */
  readonly name: string
  /** What messages call it. */
  readonly label: string
  readonly kind: Kind
  readonly compression: "gz" | "zst" | undefined
  /** Gives its path on this machine, after a download where that is needed, which the signal stops. */
  readonly locate: (signal?: AbortSignal) => Promise<string>
}

/** A text, where it came from, and what it belongs to. */
export interface Document {
  /** Its id, or its file and place in it: for messages and reports. */
  readonly name: string
  readonly text: string
  /** What it belongs to, for identity `source` and mixtures: the field that was chosen, or its file. */
  readonly source: string
  /** Whose it is, and its licence, where fields were chosen that say so. */
  readonly owner?: string
  readonly licence?: string
}

const ABSENT = "there is no such file or folder. Check the path; it is relative to the folder the command runs in"

/** What keeps a file from being read, by the system's code for it. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: ABSENT,
  ENOTDIR: "a part of its path is a file, not a folder. Check the path",
  EISDIR: "is a folder, not a file",
  EACCES: "may not be read by this user. Change its permissions (chmod u+r, and u+x of its folders), or its owner",
  EPERM: "may not be read by this user. Change its permissions, or its owner",
  EMFILE: "cannot be opened: this process has as many files open as it may. Raise that limit (ulimit -n 4096)",
  ENFILE: "cannot be opened: this machine has as many files open as it may. Close programs that hold many",
  ELOOP: "is a link that leads back to itself. Remove it, or give the file that was meant",
  ENAMETOOLONG: "has a path that is too long for this file system",
  EIO: "cannot be read: the disk fails. Copy it from where it came, and check the disk",
  ENXIO: "is a socket or a device, not a file"
}

/** The system's code, also of an error inside another. */
const codeOf = (cause: unknown): string | undefined => {
  const { cause: inner, code } = Object(cause) as { readonly code?: unknown; readonly cause?: unknown }
  return typeof code === "string" ? code : inner === undefined ? undefined : codeOf(inner)
}

/** What keeps a file from being opened or read, for people. */
export const unreadable = (label: string, cause: unknown): DataError => {
  const reason = REASONS[codeOf(cause) ?? ""]
  return fail(label, reason ?? `cannot be read: ${because(cause)}`, cause)
}

/** The same for what the service FileSystem says. */
export const missing = (label: string) => (error: PlatformError): DataError =>
  error._tag === "SystemError" && error.reason === "NotFound" ? fail(label, ABSENT) : unreadable(label, error)

/** What is asked of `fs.Stats`, whose own type is not there where the package is used without the types of Node. */
type Kinds = Readonly<Record<"isFile" | "isDirectory" | "isFIFO" | "isSocket", () => boolean>>

/** What is no file, and could be waited for without end; undefined for files. Folders are not asked about here. */
export const notFile = (stats: Kinds): string | undefined =>
  stats.isFIFO()
    ? "is a pipe, which can be read once; data is read again when a tokenizer is trained on it, and when a run that " +
      "was interrupted goes on. Write it to a file, and give that"
    : stats.isFile() || stats.isDirectory()
    ? undefined
    : `is a ${stats.isSocket() ? "socket" : "device"}, not a file`

/** Opens a file. Throws a `DataError` where it cannot, and where it is a pipe, socket or device. */
export const openFile = (path: string, label: string): number => {
  let handle: number | undefined
  try {
    // Opening a pipe that nobody writes to would wait, and nothing could end that.
    handle = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
    const problem = notFile(fstatSync(handle))
    if (problem === undefined) return handle
    throw fail(label, problem)
  } catch (cause) {
    if (handle !== undefined) closeSync(handle)
    throw told((system) => unreadable(label, system))(cause)
  }
}

/** Names in a message: the first few, and how many more there are. */
export const some = (names: ReadonlyArray<string>, most = 8): string =>
  names.length <= most ? names.join(", ") : `${names.slice(0, most).join(", ")} and ${names.length - most} more`

/** Sorted by code unit: the order of a folder listing differs between file systems, a locale's between machines. */
export const sorted = (names: ReadonlyArray<string>): ReadonlyArray<string> => [...names].sort()

const split = (name: string): readonly [stem: string, compression: SourceFile["compression"]] => {
  const [all, end] = /\.(gz|zst)$/i.exec(name) ?? ["", undefined]
  return [name.slice(0, name.length - all.length), end?.toLowerCase() as SourceFile["compression"]]
}

/** Formats that look like data and are not read: what they would give as text is not what was meant. */
const REFUSED = /\.(csv|tsv|arrow|feather|orc|avro|xlsx?|zip|tar|tgz|bz2|xz|lz4|br|7z|rar|pdf|docx?|npy|npz|pkl|pth?)$/i

/** The kind of a file that was named, or undefined where its ending says that it cannot be read. */
export const kindOf = (name: string): Pick<SourceFile, "kind" | "compression"> | undefined => {
  const [stem, compression] = split(name)
  if (/\.parquet$/i.test(stem)) return compression === undefined ? { kind: "parquet", compression } : undefined
  if (/\.(jsonl|ndjson|json)$/i.test(stem)) return { kind: "jsonl", compression }
  return REFUSED.test(stem) ? undefined : { kind: "text", compression }
}

/** Whether a file of a folder is data by its name alone. */
export const isData = (name: string): boolean =>
  /\.(txt|md|jsonl|ndjson)(\.(gz|zst))?$/i.test(name) || /\.(parquet|json\.(gz|zst))$/i.test(name)

export const KINDS = ".txt, .md, .jsonl and .ndjson (also .gz and .zst of them) and .parquet"
