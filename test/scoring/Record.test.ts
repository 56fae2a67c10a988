/** Token records from the device against float64 records of the logits of the same model. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { IGNORE } from "../../src/Batch.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { portable } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { parametersOf } from "../../src/model/Parameters.ts"
import { recordPass } from "../../src/model/Pass.ts"
import * as NodeDevice from "../../src/node.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import { all, off, own, placebo, SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments } from "../support/support.ts"

const config = new ModelConfig({
  vocabSize: 61,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  intermediateSize: 40 + 64,
  // weights large enough that no token is as likely as another
  initializerRange: 0.4,
  sinks: new SinkConfig({ pool: 64, active: 16, block: 8 })
})
const seqLen = 16

/** Rows of these lengths, ids beyond 53 bits among them. */
const rowsOf = (lengths: ReadonlyArray<number>): ReadonlyArray<Row> => {
  const random = makeRandom(9)
  return lengths.map((length, i) => ({
    id: BigInt.asUintN(64, -BigInt(i) - 1n),
    tokens: Uint32Array.from({ length }, () => random.int(config.vocabSize)),
    document: `story ${i}`,
    offset: i * 16
  }))
}

const expectRecords = (got: TokenRecords.TokenRecords, want: TokenRecords.TokenRecords): void => {
  expect(got.sequences).toEqual(want.sequences)
  for (const column of ["start", "first", "token", "rank"] as const) expect(got[column], column).toEqual(want[column])
  const tolerance = { atol: 2e-5, rtol: 2e-5 }
  for (const name of ["logProb", "mean", "variance", "massAbove", "margin"] as const) {
    expectClose(got[name], want[name], { name, ...tolerance })
  }
  expect(got.schemes).toEqual(want.schemes)
  want.schemeLogProb.forEach((column, i) => {
    const name = TokenRecords.schemeName(want.schemes[i]!)
    const never = (x: number): number => (x === -Infinity ? 1 : 0)
    expect(Array.from(got.schemeLogProb[i]!, never), `${name}, never drawn`).toEqual(Array.from(column, never))
    const drawn = (_: number, t: number): boolean => column[t] !== -Infinity
    expectClose(got.schemeLogProb[i]!.filter(drawn), column.filter(drawn), { name, ...tolerance })
  })
}

layer(NodeDevice.layer())("records of sequences", (it) => {
  const lengths = [17, 2, 9, 17, 5]
  const cases: ReadonlyArray<readonly [name: string, mode: SinkMode, compute?: "masked"]> = [
    ["own sinks, gathered", own],
    ["own sinks, masked", own, "masked"],
    ["sinks off", off],
    ["sinks off, masked", off, "masked"],
    ["another id's sinks", placebo],
    ["another id's sinks, masked", placebo, "masked"],
    ["all sinks", all],
    ["own and others' sinks", { mode: "own", also: [1n, 2n, 3n] }]
  ]
  for (const [name, mode, compute] of cases) {
    it.scoped(`are those of the model's logits, and their loss is the evaluated one: ${name}`, () =>
      Effect.gen(function*() {
        const model = yield* Model.make(config, compute === undefined ? {} : { compute })
        const rows = rowsOf(lengths)
        // two passes, the last of which is filled up
        const got = yield* recordRows(model, rows, mode, { batchSize: 3, seqLen, split: "repeated", repeats: lengths })
        const batch = batchOf(rows, seqLen)
        const logits = yield* model.logits(batch, mode)
        const width = seqLen * config.vocabSize
        const want = TokenRecords.fromLogits(
          rows.map(({ document, id, offset, tokens }, s) => ({
            name: offset === 0 ? document : `${document}+${offset}`,
            split: "repeated",
            id,
            repeats: lengths[s]!,
            tokens,
            logits: logits.subarray(s * width, s * width + (tokens.length - 1) * config.vocabSize)
          })),
          config.vocabSize
        )
        expectRecords(got, want)
        const scores = yield* model.evaluate(batch, mode)
        const scored = scores.loss.filter((_, t) => batch.targets[t] !== IGNORE)
        expectClose(got.logProb.map((x) => -x), scored, { name: "loss", atol: 1e-6, rtol: 1e-6 })
        expect(got.rank).toEqual(scores.rank.filter((_, t) => batch.targets[t] !== IGNORE))
      }))
  }

  it.scoped("of rows that are only read up to a token are those of the tokens from there on", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const options = { batchSize: 2, seqLen, split: "sums", schemes: [] }
      const rows = rowsOf([17, 5, 9])
      const all = yield* recordRows(model, rows, own, options)
      const from = [3, 4, 1]
      const got = yield* recordRows(model, rows.map((row, s) => ({ ...row, scoredFrom: from[s]! })), own, options)
      expect([...got.first]).toEqual(from)
      expect([...got.start]).toEqual([0, 14, 15, 23])
      const tail = (column: ArrayLike<number>) =>
        from.flatMap((first, s) => Array.from(column).slice(all.start[s]! + first - 1, all.start[s + 1]))
      for (const column of ["token", "rank"] as const) expect([...got[column]]).toEqual(tail(all[column]))
      expectClose(got.logProb, tail(all.logProb), { name: "logProb", atol: 1e-6, rtol: 1e-6 })
    }))

  it.scoped("tell the states of the sinks apart", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const options = { batchSize: 2, seqLen, split: "repeated", schemes: [] }
      const modes: ReadonlyArray<SinkMode> = [own, off, placebo, all, { mode: "own", also: [1n, 2n] }]
      const sums = yield* Effect.forEach(modes, (mode) =>
        Effect.map(recordRows(model, rowsOf([17, 17]), mode, options), ({ logProb }) =>
          logProb.reduce((a, b) => a + b)))
      // further apart than rounding, which differs between the paths of the modes
      const rising = sums.sort((a, b) => a - b)
      rising.slice(1).forEach((sum, i) => expect(sum - rising[i]!, `${i}`).toBeGreaterThan(1e-2))
    }))

  it.scoped("of a batch come in its order where documents share rows, whatever else was recorded before", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const documents = [[[1, 1n], [10, 2n], [5, 3n]], [[16, 1n]]] as const
      const batch = batchOfDocuments(documents, seqLen, config.vocabSize, makeRandom(3))
      const schemes = [{ temperature: 0.8, topK: 3 }]
      yield* model.records(batch, own, [{ temperature: 0.3 }])
      const got = yield* model.records(batch, own, schemes)
      const logits = yield* model.logits(batch, own)
      const scored = [...batch.targets.keys()].filter((t) => batch.targets[t] !== IGNORE)
      expect([...got.token]).toEqual(scored.map((t) => batch.targets[t]!))
      const want = scored.map((t) =>
        TokenRecords.recordOf(
          logits.subarray(t * config.vocabSize, (t + 1) * config.vocabSize),
          batch.targets[t]!,
          schemes
        )
      )
      expectClose(got.logProb, want.map(({ logProb }) => logProb), { name: "logProb", atol: 2e-5, rtol: 2e-5 })
      expect([...got.rank]).toEqual(want.map(({ rank }) => rank))
      expectClose(
        got.schemeLogProb[0]!.map((x) => Math.max(x, -99)),
        want.map(({ schemeLogProb }) => Math.max(schemeLogProb[0]!, -99)),
        { name: "schemeLogProb", atol: 2e-5, rtol: 2e-5 }
      )
    }))

  it.scoped("refuse what cannot be recorded, by name", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const options = { batchSize: 2, seqLen, split: "heldOut" }
      const refusal = (rows: ReadonlyArray<Row>, more: object = {}) =>
        Effect.map(Effect.flip(recordRows(model, rows, own, { ...options, ...more })), (error) => error.message)
      expect(yield* refusal(rowsOf([4, 18]))).toContain("sequence story 1+16 has 18 tokens")
      expect(yield* refusal(rowsOf([1]))).toContain("sequence story 0 has no scored token")
      expect(yield* refusal(rowsOf([4]), { batchSize: 0 })).toContain("batchSize must be a whole number")
      expect(yield* refusal(rowsOf([4]), { schemes: [{ topK: 41, temperature: 1 }] })).toContain(
        `the sampling scheme "k41 t1": its topK must be a whole number from 1 to 40`
      )
      expect(yield* refusal(rowsOf([4]), { schemes: [{ temperature: 0 }] })).toContain("temperature must be positive")
      expect(yield* refusal(rowsOf([4]), { schemes: [{ topP: 0, temperature: 1 }] })).toContain("topP must be above 0")
    }))
})

describe("a pass of records", () => {
  it("holds the logits of one chunk at a time, in f32 also where activations are f16", () => {
    const hyper = Tensor.make("hyper", [16])
    const shape = { rows: 4, seqLen, output: "records", precision: "f16", logitsBytes: 64 * 4 * 24 } as const
    const { program } = recordPass(config, parametersOf(config), hyper, shape, portable)
    const records = program.dispatches.filter(({ kernel }) => kernel.file === "token_record")
    const logits = records.map(({ tensors }) => tensors[2]!)
    expect(logits.map(({ shape, type }) => [...shape, type])).toEqual([[24, 64, "f32"], [24, 64, "f32"], [16, 64,
      "f32"]])
    expect(program.dispatches.some(({ kernel }) => kernel.file === "cross_entropy")).toBe(false)
  })
})
