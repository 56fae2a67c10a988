/**
 * What was once found out about a device, kept in the user's cache folders: by the adapter's name and its driver, so that
 * another driver is asked anew.
 */
import type * as Schema from "effect/Schema"
import * as fs from "node:fs"
import * as path from "node:path"
import process from "node:process"
import type { DeviceService } from "../gpu/Device.ts"
import { cachedJson } from "../Json.ts"
import { keyOf } from "../Key.ts"

export interface Kept<A, I> {
  /** The answer that is kept; undefined where there is none, or it is worth nothing. */
  readonly read: () => A | undefined
  /**
   * Keep an answer; where another process was first, its answer stands. Gives what is kept from now on; undefined where
   * nothing can be written.
   */
  readonly keep: (answer: I) => A | undefined
}

/**
 * @param what begins the file's name
 * @param question what the answer depends on besides the device; a number in it is raised when older answers lose their worth
 * @param valid whether an answer that was read can be used on this device
 */
export const kept = <A, I>(
  device: Pick<DeviceService, "name" | "driver">,
  what: string,
  question: object,
  schema: Schema.Schema<A, I>,
  folders: ReadonlyArray<string>,
  valid: (answer: A) => boolean = () => true
): Kept<A, I> => {
  const name = `${what}-${keyOf({ ...question, name: device.name, driver: device.driver }).slice(0, 16)}.json`
  const readFile = (file: string): A | undefined => {
    try {
      const found = cachedJson(schema, fs.readFileSync(file, "utf8"))
      return found !== undefined && valid(found) ? found : undefined
    } catch {
      return undefined
    }
  }
  return {
    read: () => folders.map((folder) => readFile(path.join(folder, name))).find((answer) => answer !== undefined),
    keep: (answer) => {
      for (const folder of folders) {
        const file = path.join(folder, name)
        try {
          fs.mkdirSync(folder, { recursive: true })
          const own = `${file}.${process.pid}.${Math.trunc(performance.now() * 1000)}`
          fs.writeFileSync(own, `${JSON.stringify(answer)}\n`)
          try {
            fs.linkSync(own, file)
          } catch (error) {
            if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
            // one that cannot be read, or that this device cannot use, is worth nothing
            if (readFile(file) === undefined) fs.copyFileSync(own, file)
          } finally {
            fs.unlinkSync(own)
          }
          return readFile(file)
        } catch {
          // the next folder, then
        }
      }
      return undefined
    }
  }
}
