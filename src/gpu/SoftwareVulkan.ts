/**
 * SwiftShader, a Vulkan driver that runs on any x86-64 processor, taken out of the optional dependency
 * `@sparticuz/chromium` and kept in the user's cache folder: no root, nothing to install, nothing downloaded.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import * as path from "node:path"
import process from "node:process"
import * as zlib from "node:zlib"

/** Where the unpacked files lie; all paths are absolute. */
export interface SoftwareVulkan {
  /** The npm package and its version, for logs. */
  readonly source: string
  readonly directory: string
  /** A Vulkan loader (libvulkan.so.1) for systems that have none. */
  readonly loader: string
  /** The driver manifest to put into VK_DRIVER_FILES. */
  readonly manifest: string
}

const packageName = "@sparticuz/chromium"
const loaderFile = "libvulkan.so.1"
const manifestFile = "vk_swiftshader_icd.json"

/** The one version of the package whose files are loaded, and their SHA-256: code from elsewhere is checked first. */
const VERSION = "147.0.0"
const digests: Readonly<Record<string, string>> = {
  "libvk_swiftshader.so": "5b9e8591c7c2d1c9618c3ad485d0cdffb81f5f1ffd6a982fdb6578c2d8d3213e",
  [loaderFile]: "fe17a77c1f2df38d3b6a935140f746fd80aac564bb44eb3e4f6b75a504295a41",
  [manifestFile]: "c9eef28b6b984fec220ef0abfecc40b502d46946706e47bfe97707027cb818bd"
}
const wanted = Object.keys(digests)

const isWanted = (name: string, content: Uint8Array): boolean =>
  createHash("sha256").update(content).digest("hex") === digests[name]

/** The regular files of a tar archive, by name. Understands what the plain ustar format says, and no extensions. */
export const untar = (archive: Uint8Array): Map<string, Uint8Array> => {
  const files = new Map<string, Uint8Array>()
  const text = (at: number, length: number) =>
    Buffer.from(archive.buffer, archive.byteOffset + at, length).toString("latin1").replace(/\0.*$/s, "")
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0;) {
    const size = parseInt(text(at + 124, 12), 8)
    if (!(size >= 0) || at + 512 + size > archive.length) {
      throw new Error(`the archive is cut off or damaged at byte ${at}`)
    }
    const kind = text(at + 156, 1)
    if (kind === "0" || kind === "") {
      files.set(text(at, 100).replace(/^\.\//, ""), archive.subarray(at + 512, at + 512 + size))
    }
    at += 512 + Math.ceil(size / 512) * 512
  }
  return files
}

const isComplete = (directory: string): boolean =>
  wanted.every((name) => {
    try {
      return isWanted(name, fs.readFileSync(path.join(directory, name)))
    } catch {
      return false
    }
  })

// Libraries are loaded from here, so a folder that someone else could have put there is not used.
const isOurs = (directory: string): boolean => {
  const owner = fs.statSync(directory).uid
  return owner === 0 || owner === process.getuid?.()
}

const writeAtomically = (files: ReadonlyMap<string, Uint8Array>, directory: string): void => {
  const temporary = fs.mkdtempSync(`${directory}.`)
  try {
    for (const [name, content] of files) fs.writeFileSync(path.join(temporary, name), content)
    // mkdtemp makes a private folder; another user (or a container's) may share this cache
    fs.chmodSync(temporary, 0o755)
    try {
      fs.renameSync(temporary, directory)
    } catch (error) {
      // Another process was first: its files are as good as ours. A damaged folder is moved away and replaced.
      if (isComplete(directory)) return
      if (!fs.existsSync(directory)) throw error
      const damaged = fs.mkdtempSync(`${directory}.damaged.`)
      try {
        fs.renameSync(directory, path.join(damaged, "old"))
        fs.renameSync(temporary, directory)
      } catch (error) {
        if (!isComplete(directory)) throw error
      } finally {
        fs.rmSync(damaged, { recursive: true, force: true })
      }
    }
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true })
  }
}

/** Folders to try, best first: the user's cache, and one per user under the system's temporary folder. */
export const cacheFolders = (): ReadonlyArray<string> => [
  path.join(process.env["XDG_CACHE_HOME"] || path.join(os.homedir(), ".cache"), "memsinks"),
  path.join(os.tmpdir(), `memsinks-${process.getuid?.() ?? 0}`)
]

/**
 * Unpack SwiftShader, or find it unpacked. Several processes may do so at once: files appear all together, by one
 * rename. Takes about 0.3 s the first time and about 1 ms later.
 *
 * @param folders where to keep it, the first that can be written; default: `$XDG_CACHE_HOME/memsinks` (or
 *   `~/.cache/memsinks`), then a folder of this user's under the system's temporary folder
 * @throws Error with a message for people: wrong platform, package not installed, or no folder can be written
 */
export const unpackSwiftShader = (folders: ReadonlyArray<string> = cacheFolders()): SoftwareVulkan => {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(`only built for linux x64, this is ${process.platform} ${process.arch}`)
  }
  let root: string
  try {
    // the package exports no package.json; its entry point lies two folders below the root
    root = path.resolve(path.dirname(createRequire(import.meta.url).resolve(packageName)), "..", "..")
  } catch {
    throw new Error(`the optional dependency ${packageName} is not installed (npm install ${packageName}@${VERSION})`)
  }
  const { version } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as { version: string }
  if (version !== VERSION) {
    throw new Error(
      `${packageName} is installed as ${version}; only ${VERSION} is known (npm install ${packageName}@${VERSION})`
    )
  }
  let files: Map<string, Uint8Array> | undefined
  const problems: Array<string> = []
  for (const folder of folders) {
    const directory = path.join(folder, `swiftshader-${version}`)
    try {
      fs.mkdirSync(folder, { recursive: true, mode: 0o700 })
      if (!isOurs(folder)) throw new Error("belongs to another user")
      if (!isComplete(directory)) {
        files ??= readPackage(path.join(root, "bin", "swiftshader.tar.br"))
        writeAtomically(files, directory)
      }
      if (!isOurs(directory)) throw new Error("belongs to another user")
      return {
        source: `${packageName} ${version}`,
        directory,
        loader: path.join(directory, loaderFile),
        manifest: path.join(directory, manifestFile)
      }
    } catch (error) {
      problems.push(`${directory}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  throw new Error(`cannot be unpacked from ${packageName} ${version}: ${problems.join("; ")}`)
}

const readPackage = (archive: string): Map<string, Uint8Array> => {
  const all = untar(zlib.brotliDecompressSync(fs.readFileSync(archive)))
  return new Map(wanted.map((name) => {
    const content = all.get(name)
    if (content === undefined) throw new Error(`${archive} holds no ${name}`)
    if (!isWanted(name, content)) {
      throw new Error(
        `${name} in ${archive} is not that of ${packageName} ${VERSION}: it is not loaded. Install it again`
      )
    }
    return [name, content]
  }))
}
