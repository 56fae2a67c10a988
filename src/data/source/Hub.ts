/**
 * Datasets of the Hugging Face Hub, downloaded a file at a time into the cache that the Python client also uses: what
 * one of them has fetched the other finds.
 */
import * as Schema from "effect/Schema"
import { createHash, type Hash, randomUUID } from "node:crypto"
import { createReadStream, type Dirent } from "node:fs"
import { copyFile, type FileHandle, mkdir, open, readdir, readFile, realpath, rename, rm, stat,
  symlink } from "node:fs/promises"
import { homedir } from "node:os"
import { basename, dirname, join, relative } from "node:path"
import * as AtomicFile from "../../AtomicFile.ts"
import { because, type DataError, dataError as fail } from "../../Errors.ts"
import { cachedJson } from "../../Json.ts"
import { GitHash, isFileName, isRelativePath, isWithin, RelativePath, Sha256 } from "../../Paths.ts"
import { withoutCredentials } from "../../Terminal.ts"
import { kindOf, some, sorted, type SourceFile } from "./Files.ts"
import { type HubClient, HubFailure, isTransient, makeClient } from "./HubClient.ts"
import { chosenFiles, configurationsOf } from "./Splits.ts"

/** A dataset of the hub, or a part of it. */
interface Reference {
  readonly name: string
  readonly revision: string
  readonly path: string | undefined
}

const Size = Schema.Int.pipe(Schema.nonNegative())

/** A file of a dataset as the hub lists it. */
const Entry = Schema.Struct({
  path: RelativePath,
  size: Size,
  /** Object of git: hash of the file, or of the pointer that stands for a large one. */
  oid: Schema.optional(GitHash),
  /** SHA-256 of a large file. */
  sha256: Schema.optional(Sha256)
})
type Entry = typeof Entry.Type

/** What the hub says that a dataset holds, a page of it. */
const Page = Schema.Array(Schema.Union(
  Schema.Struct({
    type: Schema.Literal("file"),
    path: RelativePath,
    size: Size,
    oid: GitHash,
    lfs: Schema.optional(Schema.NullOr(Schema.Struct({ oid: Sha256, size: Size })))
  }),
  Schema.Struct({ type: Schema.String.pipe(Schema.filter((type) => type !== "file")) })
)).annotations({ identifier: "a list of files" })

/** A listing that is kept, and of what it is one. */
const Listing = Schema.Struct({
  endpoint: Schema.String,
  name: Schema.String,
  commit: GitHash,
  entries: Schema.Array(Entry)
})

const SCHEME = "hf://"

export const isHub = (path: string): boolean => path.startsWith(SCHEME)

/** Takes `hf://datasets/owner/name[@revision][/path]` apart. */
const referenceOf = (path: string): Reference => {
  const parts = /^hf:\/\/datasets\/([\w.-]+)\/([\w.-]+)(?:@(refs\/[\w-]+\/[\w-]+|[^/]+))?(?:\/+(.*))?$/.exec(path)
  if (parts === null) throw fail(path, "a dataset of the hub is hf://datasets/owner/name[@revision][/path]")
  const [, owner, called, given = "main", below = ""] = parts
  // "--" stands between owner and name in the cache
  if (![owner, called].every((one) => isFileName(one!) && !/--|\.\./.test(one!))) {
    throw fail(path, "is no name of a dataset: owner and name have neither two points nor two dashes in a row")
  }
  let revision = ""
  try {
    revision = decodeURIComponent(given)
  } catch {
    // told with all else that is no name
  }
  if (!isRelativePath(revision)) throw fail(path, `"${given}" is no name of a revision`)
  return { name: `${owner}/${called}`, revision, path: below.replace(/\/+$/, "") || undefined }
}

const IDLE_MILLIS = 30_000

/** What the environment says of the hub; the same variables as for the Python client. */
const settings = async (env: Readonly<Record<string, string | undefined>>) => {
  const home = env["HF_HOME"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "huggingface")
  const saved = readFile(env["HF_TOKEN_PATH"] ?? join(home, "token"), "utf8").catch(() => "")
  const token = (env["HF_TOKEN"] ?? env["HUGGING_FACE_HUB_TOKEN"] ?? await saved).trim()
  const endpoint = (env["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, "")
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.search !== "" || url.hash !== "") {
    throw fail("HF_ENDPOINT", "is no address of a hub, such as https://huggingface.co")
  }
  if (url.username !== "" || url.password !== "") {
    throw fail("HF_ENDPOINT", "holds a user or a password, which is not sent: leave them out, and set HF_TOKEN")
  }
  // what a message of the HTTP library would show
  if (!/^[\x21-\x7e]*$/.test(token)) throw fail("HF_TOKEN", "holds white space or characters that no token has")
  const timeout = Number(env["HF_HUB_DOWNLOAD_TIMEOUT"])
  return {
    cache: env["HF_HUB_CACHE"] ?? env["HUGGINGFACE_HUB_CACHE"] ?? join(home, "hub"),
    endpoint,
    idleMillis: timeout > 0 && timeout < 1e6 ? 1000 * timeout : IDLE_MILLIS,
    offline: /^(1|on|true|yes)$/i.test(env["HF_HUB_OFFLINE"] ?? ""),
    token: token === "" ? undefined : token
  }
}
type Settings = Awaited<ReturnType<typeof settings>>

/** What the hub, or the way to it, has against a request, for people. */
const refused =
  (label: string, { name, revision }: Reference, { endpoint, token }: Settings) => (cause: unknown): unknown => {
    if (!(cause instanceof HubFailure)) return cause
    const { kind, message, status } = cause
    const page = `${endpoint}/datasets/${name}`
    const say = (detail: string): DataError => fail(label, detail, cause)
    if (status === 401) {
      return say(
        token === undefined
          ? `the hub gives it to nobody without a token: it is gated or private, or there is no dataset ${name}. ` +
            `Accept its terms on ${page}, and set HF_TOKEN to a token of yours`
          : `the hub does not know the token in HF_TOKEN, or has no dataset ${name} for it. Make a token that may read it`
      )
    }
    if (status === 403) {
      return say(`the token in HF_TOKEN may not read it. Accept its terms on ${page}, and give the token read access`)
    }
    if (status === 404) return say(`the hub has no dataset ${name} with a revision "${revision}". Look at ${page}`)
    if (status !== undefined) return say(`the hub answers ${status}${message === "" ? "" : `: ${message}`}`)
    if (kind === "malformed") {
      return say(
        `${endpoint} gives an answer that cannot be used: ${
          withoutCredentials(message)
        }. Check that HF_ENDPOINT is a hub`
      )
    }
    if (kind === "slow") {
      return say(`${endpoint} is too slow: ${message}. Try again later, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds`)
    }
    return say(
      `${endpoint} cannot be reached: ${withoutCredentials(message)}. Check the network, and HF_ENDPOINT; with ` +
        "HF_HUB_OFFLINE=1 only what was downloaded before is used"
    )
  }

const COMMIT = /^[0-9a-f]{40}$/

const sizeOf = (path: string): Promise<number | undefined> => stat(path).then(({ size }) => size, () => undefined)

const textOf = (path: string): Promise<string | undefined> => readFile(path, "utf8").catch(() => undefined)

/** Writes a small file so that nobody ever sees half of it. */
const put = async (path: string, text: string): Promise<void> => {
  await mkdir(dirname(path), { recursive: true })
  AtomicFile.write(path, text)
}

/** The hash that an entry is known by, of `size` bytes to come. */
const hashOf = ({ oid, sha256, size }: Entry): Hash =>
  sha256 !== undefined
    ? createHash("sha256")
    : createHash(oid?.length === 64 ? "sha256" : "sha1").update(`blob ${size}\0`)

/** Adds a file to a hash; returns how many bytes it has. */
const hashInto = async (hash: Hash, path: string): Promise<number> => {
  let bytes = 0
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Uint8Array>) {
    hash.update(piece)
    bytes += piece.length
  }
  return bytes
}

/** Paths of all files below a folder. */
const walk = async (folder: string, below = ""): Promise<ReadonlyArray<string>> => {
  const entries: ReadonlyArray<Dirent> = await readdir(join(folder, below), { withFileTypes: true }).catch(() => [])
  const found = await Promise.all(entries.map((entry) => {
    const path = below === "" ? entry.name : `${below}/${entry.name}`
    return !isRelativePath(path) ? [] : entry.isDirectory() ? walk(folder, path) : [path]
  }))
  return found.flat()
}

const DAY = 24 * 3600 * 1000

/** Removes what downloads that were killed have left. */
const sweep = async (folder: string): Promise<void> => {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!/\.memsinks-([\w-]+\.incomplete|partial)$/.test(name)) continue
    const path = join(folder, name)
    const left = await stat(path).catch(() => undefined)
    if (left !== undefined && Date.now() - left.mtimeMs > DAY) await rm(path, { force: true })
  }
}

/** Times that a download is taken up where it broke off, without a byte more, before it fails: half a minute. */
const RETRIES = 6
const PAUSE_MILLIS = 500

/** Bytes from which on a download that breaks off again and again is one that gets somewhere. */
const PROGRESS = 1 << 20

/** A hub has no more: what lists more does not come to an end. */
const MOST_PAGES = 10_000
const MOST_FILES = 5_000_000

/** The card of a dataset, in bytes: the longest known have some hundred KiB. */
const LONGEST_CARD = 8 << 20

/** Gaps that are looked for in one set of shards: a message names fewer. */
const MOST_GAPS = 100

/** Shards of a set that are not there: of `x-00000-of-00003`, all three must be. */
const gaps = (paths: ReadonlyArray<string>): ReadonlyArray<string> => {
  const sets = new Map<string, { name: (i: number) => string; total: number; there: Set<number> }>()
  for (const path of paths) {
    // What follows differs where each shard's name carries its own hash.
    const [, before, number, total] = /^(.*?)(\d+)-of-(\d{1,6})(?!\d)/.exec(path) ?? []
    if (total === undefined) continue
    const name = (i: number) => `${before}${String(i).padStart(number!.length, "0")}-of-${total}`
    const set = sets.get(name(0)) ?? { name, total: Number(total), there: new Set() }
    sets.set(name(0), set)
    set.there.add(Number(number))
  }
  return sorted([...sets.values()].flatMap(({ name, there, total }) => {
    const missing: Array<string> = []
    for (let i = 0; i < total && missing.length < MOST_GAPS; i++) if (!there.has(i)) missing.push(name(i))
    return missing
  }))
}

/** The part of a cache that is one dataset's. */
const cacheOf = (label: string, reference: Reference, settings: Settings, client: HubClient) => {
  const { name, revision } = reference
  const { cache, endpoint, offline } = settings
  const storage = join(cache, `datasets--${name.replace("/", "--")}`)
  // commits and listings are what one hub says; blobs are known by what they hold
  const own = join(storage, "memsinks", createHash("sha256").update(endpoint).digest("hex").slice(0, 16))
  const failure = refused(label, reference, settings)
  const absent = (what: string): DataError =>
    fail(label, `${what} not in the cache ${cache}, and HF_HUB_OFFLINE says to use nothing else. Unset it to download`)

  const ask = async <A>(request: () => Promise<A>): Promise<A> => {
    try {
      return await request()
    } catch (cause) {
      throw failure(cause)
    }
  }

  /** The commit of the revision. */
  const commit = async (): Promise<string> => {
    if (COMMIT.test(revision)) return revision
    const [ours, shared] = [own, storage].map((folder) => join(folder, "refs", ...revision.split("/"))) as [string,
      string]
    if (offline) {
      const known = (await textOf(ours) ?? await textOf(shared))?.trim()
      if (known === undefined || !COMMIT.test(known)) throw absent(`revision "${revision}" of it is`)
      return known
    }
    const path = `/api/datasets/${name}/revision/${encodeURIComponent(revision)}?expand=sha`
    const { value: { sha } } = await ask(() => client.json(path, Schema.Struct({ sha: Schema.String })))
    if (!COMMIT.test(sha)) throw failure(new HubFailure("malformed", `it names no commit for "${revision}"`))
    for (const ref of [ours, shared]) await put(ref, sha)
    return sha
  }

  const list = async (sha: string): Promise<ReadonlyArray<Entry>> => {
    const found = new Map<string, Entry>()
    const asked = new Set<string>()
    const malformed = (message: string) => new HubFailure("malformed", message)
    let query = "?recursive=true&expand=false"
    while (true) {
      if (asked.has(query)) throw malformed("its listing leads back to a page that was read")
      if (asked.size >= MOST_PAGES || found.size > MOST_FILES) {
        throw malformed(`its listing has no end: ${asked.size} pages, ${found.size} files`)
      }
      asked.add(query)
      const { headers, value } = await client.json(`/api/datasets/${name}/tree/${sha}${query}`, Page)
      for (const entry of value) {
        if (!("path" in entry)) continue
        const { lfs, oid, path, size } = entry
        if (found.has(path)) throw malformed(`it lists ${path} twice`)
        found.set(path, lfs ? { path, oid, sha256: lfs.oid, size: lfs.size } : { path, oid, size })
      }
      // where to go on is asked of the hub itself, whatever host the link names
      const next = /<([^<>]*)>\s*;[^<>]*\brel="?next"?/.exec(headers.get("link") ?? "")?.[1]
      if (next === undefined) return [...found.values()]
      if (!URL.canParse(next, endpoint)) throw malformed("its listing goes on at what is no URL")
      if (value.length === 0) throw malformed("it has an empty page, and says that more follow")
      query = new URL(next, endpoint).search
    }
  }

  /** All files of a commit; what was listed once is kept, so that offline it is known what is missing. */
  const entries = async (sha: string): Promise<ReadonlyArray<Entry>> => {
    const kept = join(own, `${sha}.json`)
    const text = await textOf(kept)
    const known = text === undefined ? undefined : cachedJson(Listing, text)
    if (known?.endpoint === endpoint && known.name === name && known.commit === sha) return known.entries
    if (offline) {
      const folder = join(storage, "snapshots", sha)
      const found = await walk(folder)
      if (found.length === 0) throw absent("it is")
      const missing = gaps(found)
      if (missing.length > 0) throw absent(`${some(missing)} ${missing.length === 1 ? "is" : "are"}`)
      return Promise.all(found.map(async (path) => ({ path, size: (await sizeOf(join(folder, path))) ?? 0 })))
    }
    const found = await ask(() => list(sha))
    await put(kept, JSON.stringify(Schema.encodeSync(Listing)({ endpoint, name, commit: sha, entries: found })))
    return found
  }

  /** Downloads a file to a path, behind what lies there already, and holds it against its hash. */
  const download = async (sha: string, entry: Entry, to: string): Promise<void> => {
    const { oid, path, sha256, size } = entry
    const file = `${label}/${path}`
    const url = `/datasets/${name}/resolve/${sha}/${path.split("/").map(encodeURIComponent).join("/")}`
    const unwritable = (cause: unknown) => fail(to, `cannot be written: ${because(cause)}`, cause)
    let hash = hashOf(entry)
    let bytes = await hashInto(hash, to).catch(() => 0)
    const begun = bytes
    const restart = async (out: FileHandle): Promise<void> => {
      await out.truncate(0)
      hash = hashOf(entry)
      bytes = 0
    }
    const out = await open(to, bytes > 0 ? "r+" : "w").catch((cause: unknown) => {
      throw unwritable(cause)
    })
    try {
      if (bytes > size) await restart(out)
      let settled = bytes
      for (let tries = 0; bytes < size;) {
        try {
          const answer = await client.open(url, bytes === 0 ? {} : { range: `bytes=${bytes}-${size - 1}` })
          const { close, headers, pieces, status } = answer
          // a server may give all of it where a part was asked for
          if (bytes > 0 && status !== 206) await restart(out)
          const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "")
          const length = headers.get("content-length")
          if (status === 206
            ? range === null || Number(range[1]) !== bytes
            : length !== null && Number(length) !== size)
          {
            close()
            throw fail(file,
              `the hub lists ${size} bytes and sends ${status === 206 ? "another part" : `${length}`}. Try again`)
          }
          for await (const piece of pieces) {
            if (bytes + piece.length > size) throw fail(file, `the hub sends more than the ${size} bytes that it lists`)
            for (let at = 0; at < piece.length;) {
              const { bytesWritten } = await out.write(piece, at, piece.length - at, bytes + at).catch(
                (cause: unknown) => {
                  throw unwritable(cause)
                }
              )
              at += bytesWritten
            }
            hash.update(piece)
            bytes += piece.length
          }
          if (bytes < size) throw new HubFailure("broken", "it ends there")
        } catch (cause) {
          if (bytes - settled >= PROGRESS) {
            settled = bytes
            tries = 0
          }
          const isBroken = bytes > 0 && cause instanceof HubFailure && cause.kind === "broken"
          if ((isBroken || isTransient(cause)) && tries < RETRIES) {
            await client.pause(tries++)
            continue
          }
          if (cause instanceof HubFailure && cause.status === 404) {
            throw fail(file, "the hub lists it and does not have it", cause)
          }
          if (!(cause instanceof HubFailure) || bytes === 0 || cause.kind === "malformed") throw failure(cause)
          const where = `after ${bytes} of ${size} bytes`
          throw fail(file, `the download broke off ${where}: ${withoutCredentials(cause.message)}`, cause)
        }
      }
      const expected = sha256 ?? oid
      if (expected !== undefined && hash.digest("hex") !== expected) {
        await restart(out)
        // what was there before may have been at fault
        if (begun > 0) return await download(sha, entry, to)
        throw fail(file, `what was downloaded (${size} bytes) is not the file that the hub lists. Try again`)
      }
      await out.sync()
    } finally {
      await out.close()
    }
  }

  /** Whether a path of the snapshot is the file that is listed: the blob of its hash, or a copy of that. */
  const isSound = async (pointer: string, entry: Entry): Promise<boolean> => {
    if (await sizeOf(pointer) !== entry.size) return false
    const [home, path] = await Promise.all([realpath(storage), realpath(pointer)])
    const expected = entry.sha256 ?? entry.oid
    if (!isWithin(home, path)) return false
    if (expected === undefined || basename(path) === expected) return true
    const hash = hashOf(entry)
    await hashInto(hash, path)
    return hash.digest("hex") === expected
  }

  /** The path of a file of a commit on this machine, complete. */
  const locate = async (sha: string, entry: Entry): Promise<string> => {
    const pointer = join(storage, "snapshots", sha, ...entry.path.split("/"))
    if (await isSound(pointer, entry)) return pointer
    const id = entry.sha256 ?? entry.oid
    if (offline || id === undefined) throw absent(`${entry.path} of it is`)
    const blobs = join(storage, "blobs")
    const blob = join(blobs, id)
    await mkdir(blobs, { recursive: true })
    await mkdir(dirname(pointer), { recursive: true })
    if (await sizeOf(blob) !== entry.size) {
      await sweep(blobs)
      const temporary = `${blob}.memsinks-${randomUUID()}.incomplete`
      const partial = `${blob}.memsinks-partial`
      // what an earlier attempt has left goes to one process alone
      await rename(partial, temporary).catch(() => {})
      try {
        await download(sha, entry, temporary)
        AtomicFile.rename(temporary, blob)
      } catch (cause) {
        // the next attempt goes on from there; nothing of nothing is kept
        if ((await sizeOf(temporary) ?? 0) > 0) await rename(temporary, partial).catch(() => {})
        throw cause
      } finally {
        await rm(temporary, { force: true })
      }
    }
    await rm(pointer, { force: true })
    // Where links are not allowed the cache of the Python client has copies, too. Another process may have been first.
    await symlink(relative(dirname(pointer), blob), pointer).catch(async () => {
      if (await sizeOf(pointer) !== entry.size) await copyFile(blob, pointer)
    })
    return pointer
  }

  return { commit, entries, locate }
}

/** How the hub is asked. */
export interface HubFilesOptions {
  /** Stops requests at once; what was downloaded of a file is kept, and the next attempt goes on behind it. */
  readonly signal?: AbortSignal | undefined
  /**
   * Milliseconds without a byte after which a request is tried again. Default: HF_HUB_DOWNLOAD_TIMEOUT (seconds), else
   * 30 s.
   */
  readonly idleMillis?: number
  /** Milliseconds before the first new attempt; each further one doubles them. Default 500. */
  readonly pauseMillis?: number
}

/**
 * The files of `hf://datasets/owner/name[@revision][/path]`, in their order. Each is downloaded when it is located, if
 * the cache does not have it. Throws a DataError, or the reason of the signal.
 */
export const hubFiles = async (
  path: string,
  split: string | undefined,
  options: HubFilesOptions = {}
): Promise<ReadonlyArray<SourceFile>> => {
  const reference = referenceOf(path)
  const { name, path: below } = reference
  const label = `${SCHEME}datasets/${name}`
  const { idleMillis, ...given } = await settings(process.env)
  const known = { ...given, idleMillis: options.idleMillis ?? idleMillis }
  const { pauseMillis = PAUSE_MILLIS } = options
  const cacheWith = (signal: AbortSignal | undefined) =>
    cacheOf(label, reference, known, makeClient({ ...known, pauseMillis, signal }))
  const cache = cacheWith(options.signal)
  const sha = await cache.commit()
  const entries = new Map((await cache.entries(sha)).map((entry) => [entry.path, entry]))
  const card = entries.get("README.md")
  if (card !== undefined && card.size > LONGEST_CARD) {
    throw fail(`${label}/README.md`,
      `has ${card.size} bytes, more than the card of a dataset may have (${LONGEST_CARD})`)
  }
  const text = card === undefined || card.size === 0 ? "" : await readFile(await cache.locate(sha, card), "utf8")
  // A file without a byte has no document, and cannot be asked for in parts.
  const paths = [...entries.values()].flatMap((entry) => entry.size > 0 ? [entry.path] : [])
  const chosen = chosenFiles(paths, configurationsOf(text), { path: below, split })
  if (typeof chosen === "string") throw fail(label, chosen)
  return chosen.map((one) => {
    const kind = kindOf(one)
    if (kind === undefined) throw fail(`${label}/${one}`, "is a kind of file that is not read")
    const locate = (signal = options.signal) => cacheWith(signal).locate(sha, entries.get(one)!)
    return { name: one, label: `${label}/${one}`, ...kind, locate }
  })
}
