/**
 * Files that are whole or not there: written under a temporary name beside their own, synced to the disk, renamed, and the
 * folder synced. Whoever is killed meanwhile, or runs out of disk, leaves the file as it was. All of it throws what the
 * file system says; callers name the field, the file and the way out.
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { dirname } from "node:path"

/** What temporary names end with; such a file is of nobody who lives once the folder's lock is ours. */
export const TEMPORARY = ".tmp"

/** Whether a file is one that `begin` named, and whoever wrote it did not finish. */
export const isLeft = (name: string): boolean => /\.[0-9a-f]{12}\.tmp$/.test(name)

/** Makes the names of a folder's files durable. */
export const syncFolder = (folder: string): void => {
  let handle: number
  try {
    handle = fs.openSync(folder, "r")
  } catch {
    return // Windows cannot open a folder, and needs no sync of it
  }
  try {
    fs.fsyncSync(handle)
  } catch (error) {
    // file systems without a sync of folders say so; a sync that was possible and failed is an error
    if (!["EINVAL", "ENOTSUP", "EISDIR", "EPERM", "EBADF"].includes((error as NodeJS.ErrnoException).code ?? "")) {
      throw error
    }
  } finally {
    fs.closeSync(handle)
  }
}

/** Gives a file that is complete and synced its name, durably; one of that name is replaced. */
export const rename = (from: string, to: string): void => {
  fs.renameSync(from, to)
  syncFolder(dirname(to))
}

/** A file that gets its name when it is finished. */
export interface NewFile {
  readonly write: (bytes: Uint8Array) => void
  /** Brings to the disk what was written so far. */
  readonly sync: () => void
  /** Sync and rename. */
  readonly finish: () => void
  /** Leave nothing; after `finish`, nothing happens. */
  readonly abandon: () => void
}

/**
 * Begins a file, in place of one of the same name.
 *
 * @param temporary its name until it is finished, in the same folder; default: one that nobody else uses
 */
export const begin = (
  path: string,
  temporary: string = `${path}.${randomBytes(6).toString("hex")}${TEMPORARY}`
): NewFile => {
  const handle = fs.openSync(temporary, "w")
  let open = true
  let finished = false
  const close = () => {
    if (!open) return
    open = false
    fs.closeSync(handle)
  }
  const abandon = () => {
    if (finished) return
    try {
      close()
    } catch {
      // what cannot be closed is removed all the same
    }
    fs.rmSync(temporary, { force: true })
  }
  return {
    write: (bytes) => {
      for (let at = 0; at < bytes.length;) at += fs.writeSync(handle, bytes, at, bytes.length - at)
    },
    sync: () => fs.fsyncSync(handle),
    finish: () => {
      fs.fsyncSync(handle)
      close()
      rename(temporary, path)
      finished = true
    },
    abandon
  }
}

/** Writes a file whole, in place of one of the same name. What a failure has written is removed. */
export const write = (path: string, data: string | Uint8Array, temporary?: string): void => {
  const file = begin(path, temporary)
  try {
    file.write(typeof data === "string" ? new TextEncoder().encode(data) : data)
    file.finish()
  } catch (error) {
    file.abandon()
    throw error
  }
}

/**
 * Writes a file whole where there is none of the name; false, and nothing is changed, where there is one, of whatever kind:
 * of several processes and machines that share the folder, one writes it.
 */
export const create = (path: string, data: string): boolean => {
  const temporary = `${path}.${randomBytes(6).toString("hex")}${TEMPORARY}`
  try {
    fs.writeFileSync(temporary, data, { flush: true })
    try {
      fs.linkSync(temporary, path)
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? ""
      // a server of files that is asked twice, as its first answer was lost, says so of what it has just made
      if (code === "EEXIST") return fs.statSync(temporary).nlink === 2
      if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(code)) throw error
      // a file system without hard links
      try {
        fs.writeFileSync(path, data, { flag: "wx", flush: true })
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "EEXIST") return false
        throw error
      }
    }
    syncFolder(dirname(path))
    return true
  } finally {
    fs.rmSync(temporary, { force: true })
  }
}

/** Writes a value as indented JSON, whole. */
export const writeJson = (path: string, value: unknown): void => write(path, `${JSON.stringify(value, undefined, 2)}\n`)

/**
 * A file of text, whole. Throws what the file system says, and where it is no file or larger than `most` bytes: what
 * lies in a folder of ours may have been put there by anybody, and a pipe would be waited for without an end.
 */
export const readText = (path: string, most = 64 << 20): string => {
  const handle = fs.openSync(path, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0))
  try {
    const stat = fs.fstatSync(handle)
    if (!stat.isFile()) throw new Error(`${path} is not a file`)
    if (stat.size > most) throw new Error(`${path} has ${stat.size} bytes, more than the ${most} that it may have`)
    return fs.readFileSync(handle, "utf8")
  } finally {
    fs.closeSync(handle)
  }
}
