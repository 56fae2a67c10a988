/** A worker thread of `tokenize`: texts in, tokens and what is known of each text out. */
import { Buffer } from "node:buffer"
import { parentPort, workerData } from "node:worker_threads"
import type { Dataset } from "../Dataset.ts"
import type { NearOptions } from "../identity/NearDuplicates.ts"
import { hash64, normalize } from "../Normalize.ts"
import { parseTokenizer } from "./TokenizerJson.ts"

/** What a worker is started with. */
export interface WorkerSetup {
  /** The text of a `tokenizer.json`. */
  readonly tokenizer: string
  readonly dtype: Dataset["dtype"]
  readonly bos: number | undefined
  readonly eos: number | undefined
  readonly near: NearOptions | undefined
  /** Names of special tokens in a text are text. */
  readonly specialAsText: boolean
}

export interface WorkerRequest {
  readonly batch: number
  readonly texts: ReadonlyArray<string>
}

/** Arrays of one entry a document, but for tokens and signatures, which lie one behind the other. */
export interface EncodedTexts {
  readonly tokens: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>
  readonly lengths: Uint32Array<ArrayBuffer>
  /** UTF-8 bytes of the text. */
  readonly bytes: Uint32Array<ArrayBuffer>
  readonly contents: BigUint64Array<ArrayBuffer>
  readonly signatures: Uint8Array<ArrayBuffer>
}

export type WorkerReply =
  | ({ readonly batch: number; readonly error?: undefined } & EncodedTexts)
  | { readonly batch: number; readonly error: string }

const encoderOf = async ({ bos, dtype, eos, near, specialAsText, tokenizer: json }: WorkerSetup) => {
  const tokenizer = parseTokenizer(json)
  // much of what it imports is needed nowhere else here, and threads should start at once
  const signer = near === undefined ? undefined : (await import("../identity/NearDuplicates.ts")).makeSigner(near)
  return (texts: ReadonlyArray<string>): EncodedTexts => {
    const ends = (bos === undefined ? 0 : 1) + (eos === undefined ? 0 : 1)
    const encoded = texts.map((text) => tokenizer.encode(text, { specialAsText }))
    const lengths = Uint32Array.from(encoded, (ids) => ids.length + ends)
    const total = lengths.reduce((sum, length) => sum + length, 0)
    const tokens = dtype === "uint16" ? new Uint16Array(total) : new Uint32Array(total)
    const contents = new BigUint64Array(texts.length)
    const signatures: Array<Uint8Array> = []
    let at = 0
    texts.forEach((text, i) => {
      if (bos !== undefined) tokens[at++] = bos
      tokens.set(encoded[i]!, at)
      at += encoded[i]!.length
      if (eos !== undefined) tokens[at++] = eos
      const normalized = normalize(text)
      contents[i] = hash64(normalized)
      if (signer !== undefined) signatures.push(signer(normalized))
    })
    return {
      tokens,
      lengths,
      bytes: Uint32Array.from(texts, (text) => Buffer.byteLength(text)),
      contents,
      signatures: new Uint8Array(Buffer.concat(signatures))
    }
  }
}

if (parentPort !== null) {
  const port = parentPort
  const encode = await encoderOf(workerData as WorkerSetup)
  port.on("message", ({ batch, texts }: WorkerRequest) => {
    let reply: WorkerReply
    try {
      reply = { batch, ...encode(texts) }
    } catch (cause) {
      reply = { batch, error: cause instanceof Error ? cause.message : String(cause) }
    }
    const transfer = reply.error !== undefined
      ? []
      : [reply.tokens, reply.lengths, reply.bytes, reply.contents, reply.signatures].map(({ buffer }) => buffer)
    port.postMessage(reply, transfer)
  })
}
