/** A router of many sources takes the memory that its arrays take, and little more while it is made. */
import * as Effect from "effect/Effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { expect, it } from "vitest"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeRouter, makeRouter } from "../../src/data/identity/Router.ts"
import type { TokenDocuments } from "../../src/data/Pieces.ts"
import { inTurns } from "../../src/Turns.ts"

const SOURCES = 200_000
const FEATURES = 64

it("holds 332 bytes a source of 64 features: 6.4 million in less than 3 GB", async () => {
  setFlagsFromString("--expose-gc")
  const collect = runInNewContext("gc") as () => void
  const used = (): number => {
    collect()
    const { arrayBuffers, heapUsed } = process.memoryUsage()
    return heapUsed + arrayBuffers
  }
  const corpus: TokenDocuments = {
    documents: SOURCES,
    length: () => 40,
    read: (document, offset, length) =>
      Uint32Array.from({ length }, (_, i) => (Math.imul(document * 64 + offset + i, 2_654_435_761) >>> 0) % 50_000),
    name: (document) => `${document}`,
    sources: Array.from({ length: SOURCES }, (_, i) => `https://example.org/${i}`),
    source: (document) => document
  }
  const before = used()
  const making = makeRouter(corpus, sourceHash, { tokenizer: "t", features: FEATURES })
  const router = await Effect.runPromise(inTurns(making))
  const held = used() - before
  const file = encodeRouter(router).reduce((sum, part) => sum + part.length, 0)
  expect(file / SOURCES).toBeLessThan(12 + 5 * FEATURES + 4 * 2 ** 20 / SOURCES + 1)
  // the words' table and a query are two times 4 MiB, however many sources there are
  const each = (held - 2 * 4 * 2 ** 20) / SOURCES
  expect(each).toBeGreaterThan(300)
  expect(each, "bytes a source").toBeLessThan(3e9 / 6.4e6)
}, 300_000)
