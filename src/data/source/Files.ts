/** Files of documents: which kinds there are, and what messages call them. */
import type { PlatformError } from "@effect/platform/Error"
import { because, dataError as fail, type DataError } from "../../Errors.ts"

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
}

const ABSENT =
  "there is no such file or folder. Check the path; it is relative to the folder the command runs in"

/** What keeps a file from being opened or read, for people. */
export const unreadable = (label: string, cause: unknown): DataError =>
  (cause as { readonly code?: unknown }).code === "ENOENT"
    ? fail(label, ABSENT)
    : fail(label, `cannot be read: ${because(cause)}`, cause)

/** The same for what the service FileSystem says. */
export const missing = (label: string) => (error: PlatformError): DataError =>
  error._tag === "SystemError" && error.reason === "NotFound" ? fail(label, ABSENT) : unreadable(label, error)

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

/** Whether a file of a folder is data: others, such as `.json` that says something about the data, are passed over. */
export const isData = (name: string): boolean =>
  /\.(txt|md|jsonl|ndjson)(\.(gz|zst))?$/i.test(name) || /\.(parquet|json\.(gz|zst))$/i.test(name)

export const KINDS = ".txt, .md, .jsonl and .ndjson (also .gz and .zst of them) and .parquet"
