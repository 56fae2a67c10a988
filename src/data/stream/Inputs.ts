/** What a stream is made of, told apart by checksums: a run that goes on, and a store that is shared, must find the same. */
import { createHash } from "node:crypto"
import { shortKey } from "../../Key.ts"
import type { Document } from "../Corpus.ts"
import type { TokenDocuments } from "../Pieces.ts"

/** One of the things that a stream is made of. */
export interface Input {
  /** A path, or in words what it is. */
  readonly what: string
  /** Of all that matters of it, 64 hexadecimal digits. */
  readonly sha256: string
}

/** Tokens that are hashed at once. */
const PIECE = 1 << 16

/** SHA-256 of texts, their names and sources, in their order. */
export const textSha256 = (documents: Iterable<Document>): string => {
  const hash = createHash("sha256")
  for (const { name, source, text } of documents) {
    // lengths first, so that no text can end where another begins
    hash.update(`${JSON.stringify([text.length, name, source])}\n`)
    hash.update(text, "utf8")
  }
  return hash.digest("hex")
}

/** SHA-256 of tokens in memory: of each document its name, its source, its tokens, and what is known of it. */
export const tokensSha256 = (corpus: TokenDocuments): string => {
  const hash = createHash("sha256")
  const buffer = new Uint32Array(PIECE)
  for (let document = 0; document < corpus.documents; document++) {
    const length = corpus.length(document)
    hash.update(`${
      JSON.stringify([
        length,
        corpus.name(document),
        corpus.sources[corpus.source(document)],
        String(corpus.content?.(document)),
        corpus.near?.(document),
        corpus.scoredFrom?.(document)
      ])
    }\n`)
    for (let at = 0; at < length; at += PIECE) {
      const tokens = corpus.read(document, at, Math.min(PIECE, length - at), buffer)
      hash.update(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength))
    }
  }
  return hash.digest("hex")
}

/** SHA-256 of tensors: names, shapes, values. */
export const tensorsSha256 = (
  tensors: Readonly<Record<string, { readonly shape: ReadonlyArray<number>; readonly data: ArrayBufferView }>>
): string => {
  const hash = createHash("sha256")
  for (const name of Object.keys(tensors).sort()) {
    const { data, shape } = tensors[name]!
    hash.update(`${JSON.stringify([name, shape])}\n`)
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
  return hash.digest("hex")
}

/** A line for each thing that is not what it was, with both checksums; empty where all are. */
export const changedInputs = (now: ReadonlyArray<Input>, before: ReadonlyArray<Input>): ReadonlyArray<string> =>
  Array.from({ length: Math.max(now.length, before.length) }, (_, i) => {
    const [is, was] = [now[i], before[i]]
    if (is === undefined) return `${was!.what} is missing`
    if (was === undefined) return `${is.what} is new`
    return is.sha256 === was.sha256
      ? ""
      : `${is.what} has changed: its sha256 is ${shortKey(is.sha256)}…, was ${shortKey(was.sha256)}…`
  }).filter((line) => line !== "")

/** Why a run does not go on with other data. */
export const notTheSameData = (changed: ReadonlyArray<string>): string =>
  `the data is not what the run was started with:\n  ${changed.join("\n  ")}\n` +
  "Resume with the same data, or start in another folder"
