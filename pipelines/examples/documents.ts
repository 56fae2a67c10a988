/**
 * Data of one's own: tokens from anywhere, as documents with ids. Who has the same id shares sinks.
 *
 *     npx tsx pipelines/examples/documents.ts
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { DataStream, documentsOf, Tokenizer } from "memsinks"

/** A library: each book is a document, each author an id. */
const library = [
  { author: 1n, name: "tides", text: "The tide comes in, the tide goes out. ".repeat(12) },
  { author: 1n, name: "moons", text: "The moon is full, the moon is new. ".repeat(12) },
  { author: 2n, name: "trains", text: "The seven fifteen to Leeds is late again. ".repeat(12) }
]

const corpus = documentsOf(
  library.map(({ author, name, text }) => ({ tokens: Tokenizer.bytes.encode(text), id: author, name }))
)

const data = DataStream.layerTokens(corpus, Tokenizer.bytes, {
  singleSequences: "all", // whole documents, so that an epoch holds every token
  heldOutFraction: 0,
  seqLen: 32,
  batchSize: 4
})

const main = Effect.gen(function*() {
  const { batches, batchesPerEpoch, tokenizer } = yield* DataStream
  console.log(`an epoch has ${batchesPerEpoch} batches`)
  yield* batches({ epoch: 0, batch: 0 }).pipe( // endless: take what you want, and go on at `cursor`
    Stream.take(2),
    Stream.runForEach(({ batch, cursor }) =>
      Effect.sync(() => {
        for (let row = 0; row < batch.rows; row++) {
          const at = row * batch.seqLen
          const text = tokenizer.decode(batch.tokens.subarray(at, at + 24))
          console.log(`author ${batch.ids[at]}: ${JSON.stringify(text)}`)
        }
        console.log(`next: batch ${cursor.batch} of epoch ${cursor.epoch}`)
      })
    )
  )
})

await Effect.runPromise(Effect.provide(main, data))
