/**
 * Datasets of the Hugging Face Hub, downloaded a file at a time into the cache that the Python client also uses: what
 * one of them has fetched the other finds.
 */
import { createHash, randomUUID } from "node:crypto"
import { createWriteStream, type Dirent } from "node:fs"
import { copyFile, mkdir, readdir, readFile, rm, stat, symlink } from "node:fs/promises"
import { homedir } from "node:os"
import { dirname, join, relative } from "node:path"
import { finished } from "node:stream/promises"
import * as AtomicFile from "../../AtomicFile.ts"
import { because, dataError as fail, DataError } from "../../Errors.ts"
import { kindOf, some, sorted, type SourceFile } from "./Files.ts"
import { chosenFiles, configurationsOf } from "./Splits.ts"

/** A dataset of the hub, or a part of it. */
interface Reference {
  readonly name: string
  readonly revision: string
  readonly path: string | undefined
}

/** A file of a dataset as the hub lists it. */
interface Entry {
  readonly path: string
  readonly size: number
  /** Object of git: hash of the file, or of the pointer that stands for a large one. */
  readonly oid?: string
  /** SHA-256 of a large file. */
  readonly sha256?: string
}

const SCHEME = "hf://"

export const isHub = (path: string): boolean => path.startsWith(SCHEME)

/** Takes `hf://datasets/owner/name[@revision][/path]` apart. */
const referenceOf = (path: string): Reference => {
  const parts = /^hf:\/\/datasets\/([\w.-]+\/[\w.-]+)(?:@(refs\/[\w-]+\/[\w-]+|[^/]+))?(?:\/+(.*))?$/.exec(path)
  if (parts === null) throw fail(path, "a dataset of the hub is hf://datasets/owner/name[@revision][/path]")
  const [, name, revision = "main", below = ""] = parts
  return { name, revision: decodeURIComponent(revision), path: below.replace(/\/+$/, "") || undefined }
}

/** What the environment says of the hub; the same variables as for the Python client. */
const settings = async (env: Readonly<Record<string, string | undefined>>) => {
  const home = env["HF_HOME"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "huggingface")
  const saved = readFile(env["HF_TOKEN_PATH"] ?? join(home, "token"), "utf8").catch(() => "")
  const token = (env["HF_TOKEN"] ?? env["HUGGING_FACE_HUB_TOKEN"] ?? await saved).trim()
  return {
    cache: env["HF_HUB_CACHE"] ?? env["HUGGINGFACE_HUB_CACHE"] ?? join(home, "hub"),
    endpoint: (env["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, ""),
    offline: /^(1|on|true|yes)$/i.test(env["HF_HUB_OFFLINE"] ?? ""),
    token: token === "" ? undefined : token
  }
}
type Settings = Awaited<ReturnType<typeof settings>>

const client = async (label: string): Promise<typeof import("@huggingface/hub")> => {
  try {
    return await import("@huggingface/hub")
  } catch (cause) {
    throw fail(label, `needs the package @huggingface/hub. Run "npm install @huggingface/hub"`, cause)
  }
}

/** What the hub, or the way to it, has against a request, for people. */
const refused = (label: string, { name, revision }: Reference, { endpoint, token }: Settings) => (cause: unknown) => {
  if (cause instanceof DataError) return cause
  const { statusCode } = cause as { readonly statusCode?: number }
  const page = `${endpoint}/datasets/${name}`
  const say = (detail: string): DataError => fail(label, detail, cause)
  if (statusCode === 401) {
    return say(
      token === undefined
        ? `the hub gives it to nobody without a token: it is gated or private, or there is no dataset ${name}. ` +
          `Accept its terms on ${page}, and set HF_TOKEN to a token of yours`
        : `the hub does not know the token in HF_TOKEN, or has no dataset ${name} for it. Make a token that may read it`
    )
  }
  if (statusCode === 403) {
    return say(`the token in HF_TOKEN may not read it. Accept its terms on ${page}, and give the token read access`)
  }
  if (statusCode === 404) return say(`the hub has no dataset ${name} with a revision "${revision}". Look at ${page}`)
  if (statusCode !== undefined) return say(`the hub answers ${statusCode}: ${because(cause)}`)
  const why = because((cause as { readonly cause?: unknown }).cause ?? cause)
  return say(
    `${endpoint} cannot be reached: ${why}. Check the network, and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what was ` +
      "downloaded before is used"
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

/** Paths of all files below a folder. */
const walk = async (folder: string, below = ""): Promise<ReadonlyArray<string>> => {
  const entries: ReadonlyArray<Dirent> = await readdir(join(folder, below), { withFileTypes: true }).catch(() => [])
  const found = await Promise.all(entries.map((entry) => {
    const path = below === "" ? entry.name : `${below}/${entry.name}`
    return entry.isDirectory() ? walk(folder, path) : [path]
  }))
  return found.flat()
}

const DAY = 24 * 3600 * 1000

/** Removes what downloads that were killed have left. */
const sweep = async (folder: string): Promise<void> => {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!/\.memsinks-[\w-]+\.incomplete$/.test(name)) continue
    const path = join(folder, name)
    const left = await stat(path).catch(() => undefined)
    if (left !== undefined && Date.now() - left.mtimeMs > DAY) await rm(path, { force: true })
  }
}

/** Times that a download is taken up where it broke off, without a byte more, before it fails: half a minute. */
const RETRIES = 6
const PAUSE_MILLIS = 500

/** Shards of a set that are not there: of `x-00000-of-00003`, all three must be. */
const gaps = (paths: ReadonlyArray<string>): ReadonlyArray<string> => {
  const sets = new Map<string, { name: (i: number) => string; total: number; there: Set<number> }>()
  for (const path of paths) {
    // What follows differs where each shard's name carries its own hash.
    const [, before, number, total] = /^(.*?)(\d+)-of-(\d{1,6})(?!\d)/.exec(path) ?? []
    if (total === undefined) continue
    const name = (i: number) => `${before}${String(i).padStart(number.length, "0")}-of-${total}`
    const set = sets.get(name(0)) ?? { name, total: Number(total), there: new Set() }
    sets.set(name(0), set)
    set.there.add(Number(number))
  }
  return sorted([...sets.values()].flatMap(({ name, there, total }) =>
    Array.from({ length: total }, (_, i) => i).flatMap((i) => there.has(i) ? [] : [name(i)])
  ))
}

/** The part of a cache that is one dataset's. */
const cacheOf = (label: string, reference: Reference, settings: Settings, pause: number) => {
  const { name, revision } = reference
  const { cache, endpoint, offline, token } = settings
  const storage = join(cache, `datasets--${name.replace("/", "--")}`)
  const request = {
    hubUrl: endpoint,
    repo: { type: "dataset", name } as const,
    ...(token === undefined ? {} : { accessToken: token })
  }
  const failure = refused(label, reference, settings)
  const absent = (what: string): DataError =>
    fail(label, `${what} not in the cache ${cache}, and HF_HUB_OFFLINE says to use nothing else. Unset it to download`)

  /** The commit of the revision. */
  const commit = async (): Promise<string> => {
    if (COMMIT.test(revision)) return revision
    const ref = join(storage, "refs", ...revision.split("/"))
    if (offline) {
      const known = (await textOf(ref))?.trim()
      if (known === undefined) throw absent(`revision "${revision}" of it is`)
      return known
    }
    const { datasetInfo } = await client(label)
    const { sha } = await datasetInfo({ ...request, name, revision, additionalFields: ["sha"] })
      .catch((cause: unknown) => {
        throw failure(cause)
      })
    if (!COMMIT.test(String(sha))) throw fail(label, `the hub names no commit for "${revision}"`)
    await put(ref, sha)
    return sha
  }

  /** All files of a commit; what was listed once is kept, so that offline it is known what is missing. */
  const entries = async (sha: string): Promise<ReadonlyArray<Entry>> => {
    const kept = join(storage, "memsinks", `${sha}.json`)
    const known = await textOf(kept)
    if (known !== undefined) return JSON.parse(known) as ReadonlyArray<Entry>
    if (offline) {
      const folder = join(storage, "snapshots", sha)
      const found = await walk(folder)
      if (found.length === 0) throw absent("it is")
      const missing = gaps(found)
      if (missing.length > 0) throw absent(`${some(missing)} ${missing.length === 1 ? "is" : "are"}`)
      return Promise.all(found.map(async (path) => ({ path, size: (await sizeOf(join(folder, path))) ?? 0 })))
    }
    const { listFiles } = await client(label)
    const found: Array<Entry> = []
    try {
      for await (const { lfs, oid, path, size, type } of listFiles({ ...request, recursive: true, revision: sha })) {
        if (type !== "file" || path.split("/").includes("..") || path.startsWith("/")) continue
        const known = oid === undefined ? {} : { oid }
        found.push({ path, size, ...known, ...(lfs ? { sha256: lfs.oid, size: lfs.size } : {}) })
      }
    } catch (cause) {
      throw failure(cause)
    }
    await put(kept, JSON.stringify(found))
    return found
  }

  /** Downloads a file to a path, and holds it against its hash. */
  const download = async (sha: string, { oid, path, sha256, size }: Entry, to: string): Promise<void> => {
    const { downloadFile } = await client(label)
    const hash = sha256 === undefined ? createHash("sha1").update(`blob ${size}\0`) : createHash("sha256")
    const out = createWriteStream(to, { flags: "wx" })
    const written = finished(out)
    // Its failure is met where it is awaited, or by what failed before.
    written.catch(() => {})
    let blob: Blob | null | undefined
    let bytes = 0
    for (let left = RETRIES; bytes < size; left--) {
      const before = bytes
      try {
        blob ??= await downloadFile({ ...request, path, revision: sha, xet: false })
        if (blob === null) throw fail(`${label}/${path}`, "the hub lists it and does not have it")
        const rest = bytes === 0 ? blob : blob.slice(bytes)
        for await (const piece of rest.stream() as unknown as AsyncIterable<Uint8Array>) {
          hash.update(piece)
          bytes += piece.length
          if (!out.write(piece)) {
            await Promise.race([written, new Promise<void>((resolve) => out.once("drain", () => resolve()))])
          }
        }
        if (bytes < size) throw new Error("it ends there")
      } catch (cause) {
        if (bytes > before) left = RETRIES
        const { statusCode } = cause as { readonly statusCode?: number }
        const isFinal = cause instanceof DataError || out.errored !== null ||
          (statusCode !== undefined && statusCode < 500 && statusCode !== 429)
        if (!isFinal && left > 0) {
          await new Promise((resolve) => setTimeout(resolve, pause * 2 ** (RETRIES - left)))
          continue
        }
        out.destroy()
        if (out.errored !== null) throw fail(to, `cannot be written: ${because(out.errored)}`, out.errored)
        if (bytes === 0) throw failure(cause)
        const where = `after ${bytes} of ${size} bytes`
        throw fail(`${label}/${path}`, `the download broke off ${where}: ${because(cause)}`, cause)
      }
    }
    out.end()
    await written.catch((cause: unknown) => {
      throw fail(to, `cannot be written: ${because(cause)}`, cause)
    })
    const expected = sha256 ?? oid
    if (bytes !== size || (expected !== undefined && hash.digest("hex") !== expected)) {
      const what = `what was downloaded (${bytes} bytes)`
      throw fail(`${label}/${path}`, `${what} is not the file that the hub lists. Try again`)
    }
  }

  /** The path of a file of a commit on this machine, complete. */
  const locate = async (sha: string, entry: Entry): Promise<string> => {
    const pointer = join(storage, "snapshots", sha, ...entry.path.split("/"))
    if (await sizeOf(pointer) === entry.size) return pointer
    if (offline) throw absent(`${entry.path} of it is`)
    const blobs = join(storage, "blobs")
    const blob = join(blobs, entry.sha256 ?? entry.oid ?? randomUUID())
    await mkdir(blobs, { recursive: true })
    await mkdir(dirname(pointer), { recursive: true })
    if (await sizeOf(blob) !== entry.size) {
      await sweep(blobs)
      const temporary = `${blob}.memsinks-${randomUUID()}.incomplete`
      try {
        await download(sha, entry, temporary)
        AtomicFile.rename(temporary, blob)
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

/**
 * The files of `hf://datasets/owner/name[@revision][/path]`, in their order. Each is downloaded when it is located, if
 * the cache does not have it.
 */
export const hubFiles = async (
  path: string,
  split: string | undefined,
  pause = PAUSE_MILLIS
): Promise<ReadonlyArray<SourceFile>> => {
  const reference = referenceOf(path)
  const { name, path: below } = reference
  const label = `${SCHEME}datasets/${name}`
  const cache = cacheOf(label, reference, await settings(process.env), pause)
  const sha = await cache.commit()
  const entries = new Map((await cache.entries(sha)).map((entry) => [entry.path, entry]))
  const card = entries.get("README.md")
  const text = card === undefined ? "" : await readFile(await cache.locate(sha, card), "utf8")
  // A file without a byte has no document, and cannot be asked for in parts.
  const paths = [...entries.values()].flatMap((entry) => entry.size > 0 ? [entry.path] : [])
  const chosen = chosenFiles(paths, configurationsOf(text), { path: below, split })
  if (typeof chosen === "string") throw fail(label, chosen)
  return chosen.map((one) => {
    const kind = kindOf(one)
    if (kind === undefined) throw fail(`${label}/${one}`, "is a kind of file that is not read")
    return { name: one, label: `${label}/${one}`, ...kind, locate: () => cache.locate(sha, entries.get(one)!) }
  })
}
