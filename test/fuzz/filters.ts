/** Damaged filters of MemFree decoding, some with a checksum that is right: an error of the right kind, or a correct read. */
import { createHash } from "node:crypto"
import { DataError } from "../../src/Errors.ts"
import * as MemFree from "../../src/measures/MemFree.ts"
import type { Fuzzer } from "./fuzz.ts"

/** Writes the checksum of what stands there now. */
const sealed = (bytes: Uint8Array): Uint8Array => {
  bytes.set(createHash("sha256").update(bytes.subarray(0, 72)).update(bytes.subarray(104)).digest(), 72)
  return bytes
}

const filters: Fuzzer = {
  name: "filters",
  run: async (random, count, note) => {
    const failures: Array<string> = []
    const below = (n: number): number => Math.floor(random() * n)
    for (let i = 0; i < count; i++) {
      const texts = [Array.from({ length: 4 + below(40) }, () => below(9))]
      const whole = MemFree.toBytes(
        MemFree.bloomFilter(texts, { n: 2 + below(3), falsePositives: 0.001 + random() / 2 })
      )
      const bytes = random() < 0.1 ? whole.slice(0, below(whole.length)) : whole.slice()
      for (let edits = below(4); edits > 0 && bytes.length > 0; edits--) {
        bytes[random() < 0.7 ? below(Math.min(72, bytes.length)) : below(bytes.length)] = [0, 1, 255,
          below(256)][below(4)]!
      }
      if (bytes.length > 104 && random() < 0.8) sealed(bytes)
      try {
        const filter = MemFree.fromBytes(bytes)
        filter.after(Array.from({ length: filter.n }, () => below(9)))(below(9))
        note(`read ${filter.n} ${filter.ngrams}`)
        if (Buffer.compare(MemFree.toBytes(filter), bytes) !== 0) {
          failures.push(`read otherwise than it stands there: ${Buffer.from(bytes).toString("hex")}`)
        }
      } catch (error) {
        note(error instanceof DataError ? error.message : "threw")
        if (!(error instanceof DataError)) failures.push(`${Buffer.from(bytes).toString("hex")}: ${String(error)}`)
      }
    }
    return failures
  }
}

export const fuzzers: ReadonlyArray<Fuzzer> = [filters]
