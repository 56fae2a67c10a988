/**
 * A signed statement of what was deleted: an in-toto Statement (https://in-toto.io/Statement/v1) in a DSSE envelope, Ed25519.
 * It binds the files of the model as they are now to the request, the ledger, the files before, and an audit. Whoever has the
 * public key can tell whether a byte of it, or of the files, was changed since.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign,
  verify as verifySignature } from "node:crypto"
import { decodeWith } from "../Config.ts"
import { unreadable } from "../data/source/Files.ts"
import { sha256Of } from "../data/tokens/ShardReader.ts"
import { because, DataError } from "../Errors.ts"
import { parseJson } from "../Json.ts"
import { Sha256 } from "../Paths.ts"

type Files = FileSystem.FileSystem | Path.Path

const STATEMENT = "https://in-toto.io/Statement/v1"
const PAYLOAD = "application/vnd.in-toto+json"
/** What the predicate of ours is. */
export const PREDICATE = "urn:memsinks:deletion:1"

/** A file and its checksum; `name` is its path in the folder of the certificate, with slashes. */
export interface Subject {
  readonly name: string
  readonly digest: { readonly sha256: string }
}

const Envelope = Schema.Struct({
  payloadType: Schema.Literal(PAYLOAD),
  payload: Schema.String,
  signatures: Schema.NonEmptyArray(Schema.Struct({ keyid: Schema.String, sig: Schema.String }))
})

const Statement = Schema.Struct({
  _type: Schema.Literal(STATEMENT),
  subject: Schema.NonEmptyArray(
    Schema.Struct({ name: Schema.NonEmptyString, digest: Schema.Struct({ sha256: Sha256 }) })
  ),
  predicateType: Schema.String,
  predicate: Schema.Unknown
})
/** The statement that a certificate signs: an in-toto statement about the files that were written. */
export type Statement = typeof Statement.Type

/** What DSSE signs: lengths, so that type and payload cannot be told apart in two ways. */
const preAuthentication = (payload: Uint8Array): Uint8Array =>
  Buffer.concat([Buffer.from(`DSSEv1 ${PAYLOAD.length} ${PAYLOAD} ${payload.length} `, "utf8"), payload])

const keyId = (key: KeyObject): string =>
  createHash("sha256").update(key.export({ type: "spki", format: "der" })).digest("hex")

/** How a key and its public one are made. */
const making = {
  private: "make one with openssl genpkey -algorithm ed25519 -out key.pem",
  public: "whoever signed has it, from openssl pkey -in key.pem -pubout -out key.pub.pem"
} as const

const noKey = (path: string, which: keyof typeof making, cause?: unknown) =>
  new DataError({
    path,
    detail: `is no ${which} Ed25519 key in PEM${cause === undefined ? "" : ` (${because(cause)})`}: ${making[which]}`,
    ...(cause === undefined ? {} : { cause })
  })

const readKey = (path: string, which: "private" | "public") =>
  Effect.gen(function*() {
    const text = yield* Effect.mapError((yield* FileSystem.FileSystem).readFileString(path),
      (cause) => noKey(path, which, cause))
    // a private key knows its public one
    const key = yield* Effect.try({
      try: () => which === "private" ? createPrivateKey(text) : createPublicKey(text),
      catch: (cause) => noKey(path, which, cause)
    })
    return key.asymmetricKeyType === "ed25519" ? key : yield* noKey(path, which)
  })

/** A key to sign with. */
export interface SigningKey {
  /** The SHA-256 of its public key. */
  readonly id: string
  /** Signs bytes. */
  readonly sign: (bytes: Uint8Array) => Uint8Array
}

/** A key to sign with, of a file in PEM. Fails with a DataError where it holds none. */
export const privateKey = (path: string): Effect.Effect<SigningKey, DataError, FileSystem.FileSystem> =>
  Effect.map(readKey(path, "private"), (key) => ({
    id: keyId(createPublicKey(key)),
    sign: (bytes) => sign(null, bytes, key)
  }))

/** Signs a statement: the text of the certificate. The same key and statement give the same text. */
export const certify = (subject: ReadonlyArray<Subject>, predicate: unknown, key: SigningKey): string => {
  const payload = Buffer.from(
    JSON.stringify({ _type: STATEMENT, subject, predicateType: PREDICATE, predicate }),
    "utf8"
  )
  return textOf({
    payloadType: PAYLOAD,
    payload: payload.toString("base64"),
    signatures: [{
      keyid: key.id,
      sig: Buffer.from(key.sign(preAuthentication(payload))).toString("base64")
    }]
  })
}

const textOf = (envelope: typeof Envelope.Type): string => `${JSON.stringify(envelope, null, 2)}\n`

const digestOf = (path: string) =>
  Effect.mapError(sha256Of(path), (cause) => new DataError({ path, detail: `cannot be read: ${cause.detail}`, cause }))

/** All files in a folder and those below it, by rising name, with their checksums. */
export const subjectsOf = (folder: string): Effect.Effect<ReadonlyArray<Subject>, DataError, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const unreadable = (cause: unknown) => new DataError({ path: folder, detail: because(cause), cause })
    const names = yield* Effect.mapError(fs.readDirectory(folder, { recursive: true }), unreadable)
    const found: Array<Subject> = []
    for (const name of names.sort()) {
      const path = paths.join(folder, name)
      if ((yield* Effect.mapError(fs.stat(path), unreadable)).type !== "File") continue
      found.push({ name: name.split(paths.sep).join("/"), digest: { sha256: yield* digestOf(path) } })
    }
    return found
  })

/** What a certificate says, after everything about it was found right. */
export interface Verified {
  readonly statement: Statement
  readonly keyId: string
  /** Files whose checksums were compared. */
  readonly files: number
}

/**
 * Verifies a certificate: its signature by the public key (or the private one, which knows it), and the checksum of every
 * file that it names, in its own folder, whose checkpoints hold no other. Fails with a DataError that says what is not as it
 * was signed.
 */
export const verify = (path: string, keyPath: string): Effect.Effect<Verified, DataError, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const wrong = (detail: string) => new DataError({ path, detail })
    const key = yield* readKey(keyPath, "public")
    const text = yield* Effect.mapError(fs.readFileString(path), (cause) => unreadable(path, cause))
    const decoded = <A, I>(schema: Schema.Schema<A, I>, text: string) =>
      Effect.mapError(
        Either.flatMap(Either.mapLeft(parseJson(text), (detail) => [detail] as ReadonlyArray<string>), (json) =>
          decodeWith(schema, json)),
        (problems) => wrong(`is no certificate of a deletion: ${problems.slice(0, 3).join("; ")}`)
      )
    const envelope = yield* decoded(Envelope, text)
    const { payload, signatures } = envelope
    const bytes = Buffer.from(payload, "base64")
    const id = keyId(key)
    const mine = signatures.find(({ keyid }) => keyid === id)
    if (mine === undefined) {
      return yield* wrong(
        `was signed with another key than ${keyPath}: ${signatures.map(({ keyid }) => keyid).join(", ")}`
      )
    }
    // JSON and base64 have many texts for one content: only the one that was written is as it was signed
    const signature = Buffer.from(mine.sig, "base64")
    const same = textOf(envelope) === text && bytes.toString("base64") === payload &&
      signature.toString("base64") === mine.sig
    if (!same || !verifySignature(null, preAuthentication(bytes), key, signature)) {
      return yield* wrong("its signature is not that of what it says: it was changed")
    }
    const statement = yield* decoded(Statement, bytes.toString("utf8"))
    if (statement.predicateType !== PREDICATE) {
      return yield* wrong(`states ${statement.predicateType}, and not a deletion (${PREDICATE})`)
    }
    const folder = paths.dirname(paths.resolve(path))
    for (const { digest, name } of statement.subject) {
      const file = paths.join(folder, name)
      if (paths.relative(folder, file).startsWith("..")) {
        return yield* wrong(`names a file outside of its folder: ${name}`)
      }
      if ((yield* digestOf(file)) !== digest.sha256) {
        return yield* new DataError({ path: file,
          detail: `is not the file that ${path} was signed for: it was changed` })
      }
    }
    // a checkpoint beside those that were signed would be taken for the latest
    const signed = new Set(statement.subject.map(({ name }) => name))
    const names = yield* Effect.mapError(fs.readDirectory(folder, { recursive: true }), (cause) =>
      wrong(because(cause)))
    const more = names.map((name) => name.split(paths.sep).join("/"))
      .find((name) => /^step-[^/]*\/./.test(name) && !signed.has(name))
    if (more !== undefined) {
      return yield* new DataError({ path: paths.join(folder, more),
        detail: `is a file of a model that ${path} does not name: it came later` })
    }
    return { statement, keyId: id, files: statement.subject.length }
  })
