/**
 * NULLs' released layout. The fixture was written by PyTorch 2.13 as their program saves a model: weights under a compiler's names in
 * four kinds of numbers, one of them column by column, beside an optimizer and settings; `expected.json` is a float64 twin in PyTorch.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { readFileSync } from "node:fs"
import { expect } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { importModel, loadInitial } from "../../src/checkpoints/Import.ts"
import { Opaque, unpickle } from "../../src/checkpoints/Pickle.ts"
import { readTitles } from "../../src/checkpoints/Titles.ts"
import { readTorch } from "../../src/checkpoints/Torch.ts"
import { decodeNames } from "../../src/data/identity/Names.ts"
import { CheckpointError } from "../../src/Errors.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { litFile, named, pickleOf, stored, tuple, unicode } from "../support/litModel.ts"

const folder = new URL("../fixtures/nulls", import.meta.url).pathname

const expected = JSON.parse(readFileSync(`${folder}/expected.json`, "utf8")) as {
  readonly tokens: ReadonlyArray<number>
  readonly own: Readonly<
    Record<string, { readonly id: number; readonly units: Array<number>; readonly logits: Array<number> }>
  >
  readonly off: Array<number>
  readonly offRescaled: Array<number>
  readonly excluded: Array<number>
}

const inFolder = <A, E, R>(body: (folder: string) => Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.flatMap(FileSystem.FileSystem, (fs) => Effect.flatMap(fs.makeTempDirectoryScoped(), body)))

layer(Layer.mergeAll(NodeDevice.layer(), NodeContext.layer), { timeout: 60_000 })("a model of NULLs", (it) => {
  it.effect("computes what it does in PyTorch, in every state, and says what was believed", () =>
    Effect.scoped(Effect.gen(function*() {
      const { config, names, notes, tensors } = yield* loadInitial(folder)
      expect([config.general, config.pool, config.sinks!.referenceIdBits, config.sinks!.probability]).toEqual([8, 24,
        32, 0.2])
      const told = notes.join("\n")
      expect(told).toMatch(
        /config.json says hidden_size 960, not 8; num_hidden_layers 32, not 2; intermediate_size 2560, not 32: model_config.yaml was/
      )
      expect(told).toMatch(/trained on 32 tokens at a time \(hyperparameters.yaml\), of 64 positions/)
      expect(told).toMatch(/4 sources by .*title_to_index.pkl, ids from 32 on/)
      const model = yield* Model.make(config)
      yield* model.importTensors(tensors)
      const n = expected.tokens.length
      const last = (id: bigint, mode: Sink.SinkMode) =>
        Effect.map(
          model.logits({
            rows: 1,
            seqLen: n,
            tokens: Uint32Array.from(expected.tokens),
            targets: new Uint32Array(n).fill(IGNORE),
            positions: Uint32Array.from({ length: n }, (_, t) => t),
            documentStart: new Uint32Array(n),
            ids: new BigUint64Array(n).fill(id)
          } satisfies Batch, mode),
          (logits) => logits.slice(-config.vocabSize)
        )
      const near = (got: Float32Array, wanted: ReadonlyArray<number>, what: string) =>
        expect(Math.max(...wanted.map((x, i) => Math.abs(x - got[i]!))), what).toBeLessThan(2e-5)
      for (const [title, { id, logits, units }] of Object.entries(expected.own)) {
        expect((yield* names!.find(title))?.id).toBe(BigInt(id))
        expect([...Sink.unitsOf(config.sinks!, BigInt(id))]).toEqual(units)
        near(yield* last(BigInt(id), Sink.own), logits, title)
      }
      near(yield* last(33n, Sink.off), expected.off, "backbone")
      near(yield* last(33n, { mode: "off", rescale: "reference" }), expected.offRescaled, "backbone, rescaled")
      near(yield* last(33n, { mode: "own", except: [32n] }), expected.excluded, "another excluded")
      // ids 65,536 apart light the same sinks at 32 bits, and others at 64
      const wide = (yield* loadInitial(folder, { idBits: 64 })).config.sinks!
      const { "Alan Turing": turing, "Évariste Galois": galois } = expected.own
      expect(turing!.units).toEqual(galois!.units)
      expect([...Sink.unitsOf(wide, BigInt(galois!.id))]).not.toEqual(galois!.units)
    })))

  it.effect("becomes a checkpoint with its manifest", () =>
    inFolder((to) =>
      Effect.gen(function*() {
        const report = yield* importModel(folder, `${to}/model`)
        expect([report.sources, report.general, report.pool, report.active]).toEqual([4, 8, 24, 5])
        const { config, names } = yield* loadInitial(`${to}/model`)
        expect(names!.count).toBe(4)
        expect(yield* names!.get(33n)).toMatchObject({ name: "Alan Turing" })
        expect(config.sinks!.referenceIdBits).toBe(32)
        const other = yield* importModel(folder, `${to}/other`, { titleOffset: 7 })
        expect((yield* (yield* loadInitial(other.path)).names!.find("Alan Turing"))?.id).toBe(8n)
      })
    ))

  it.effect("is read whole or refused with its name, whatever byte is damaged", () =>
    inFolder((to) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const whole = yield* fs.readFile(`${folder}/lit_model.pth`)
        const path = `${to}/lit_model.pth`
        const sound = yield* readTorch(`${folder}/lit_model.pth`)
        const random = makeRandom(77)
        let refused = 0
        for (let i = 0; i < 150; i++) {
          const bytes = i % 4 === 0 ? whole.slice(0, random.int(whole.length)) : whole.slice()
          if (i % 4 !== 0) bytes[random.int(bytes.length)]! ^= 1 << random.int(8)
          yield* fs.writeFile(path, bytes)
          const read = yield* Effect.either(readTorch(path))
          if (read._tag === "Right") expect(read.right).toEqual(sound)
          else {
            expect(read.left).toBeInstanceOf(CheckpointError)
            expect(read.left.message).toContain(path)
            refused++
          }
        }
        expect(refused).toBeGreaterThan(75)
      })
    ))

  it.effect("is refused where its pickle would run a program, and nothing is run", () =>
    inFolder((to) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const weights = { "transformer.wte.weight": { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) } }
        const path = `${to}/a.pth`
        const readBack = (bytes: Uint8Array) => Effect.zipRight(fs.writeFile(path, bytes), readTorch(path))
        expect(yield* readBack(litFile(weights))).toEqual(weights)
        // an object of a class that nothing here stands for lies beside the weights, and is left there
        const beside = [...unicode("hparams"), ...named("litgpt.args", "TrainArgs"), ...tuple(unicode("x")), 0x81]
        expect(yield* readBack(litFile(weights, beside))).toEqual(weights)
        for (const [module, name] of [["os", "system"], ["posix", "system"], ["builtins", "eval"], ["subprocess",
          "Popen"], ["builtins", "getattr"], ["importlib", "import_module"], ["os.path", "join"]] as const)
        {
          const evil = [...unicode("x"), ...named(module, name), ...tuple(unicode("touch /tmp/x")), 0x52]
          const error = yield* Effect.flip(readBack(litFile(weights, evil)))
          expect(error.message).toMatch(`calls ${module}.${name}, which runs a program`)
        }
        // nor may a weight be made by anything but PyTorch's own
        const made = Uint8Array.from([0x80, 2, 0x7d, 0x28, ...unicode("w"), ...named("somebody", "tensor"), ...tuple(),
          0x52, 0x75, 0x2e])
        expect((yield* Effect.flip(readBack(stored([["a/data.pkl", made]])))).message).toMatch(
          /"w" is made by somebody.tensor, which is not read/
        )
        expect((yield* Effect.flip(readBack(stored([["a/data.pkl", pickleOf(weights)]])))).message).toMatch(
          /has no "a\/data\/0"/
        )
        expect((yield* Effect.flip(readBack(stored([["a/b", made]])))).message).toMatch(/has no data.pkl/)
      })
    ))

  it.effect("has its titles in any of several files, each number once", () =>
    inFolder((to) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const read = (name: string, content: string) =>
          Effect.gen(function*() {
            yield* fs.writeFileString(`${to}/${name}`, content)
            const names = yield* decodeNames(yield* readTitles(`${to}/${name}`, 100n), name)
            const found: Array<readonly [bigint, string]> = []
            yield* names.each(({ id, name }) => found.push([id, name]))
            return found
          })
        const both = [[100n, "A, b"], [101n, "C"]]
        expect(yield* read("a.json", `{"C": 1, "A, b": 0}`)).toEqual(both)
        expect(yield* read("b.json", `["A, b", "C"]`)).toEqual(both)
        expect(yield* read("c.json", `[{"title": "C", "index": 1}, {"title": "A, b", "index": 0}]`)).toEqual(both)
        expect(yield* read("d.csv", `index,title\n0,"A, b"\n1,C\n`)).toEqual(both)
        expect(yield* read("e.jsonl", `{"title": "A, b", "index": 0}\n{"title": "C", "index": 1}\n`)).toEqual(both)
        for (const [name, content, message] of [
          ["a.json", `{"A": 1, "B": 1}`, /gives the number 1 to "A" and to "B"/],
          ["a.json", `{"A": 1, "A": 2}`, /the key "A" twice/],
          ["b.csv", `title,index\nA,1\nA,2\n`, /has the title "A" twice/],
          ["b.csv", `name,index\nA,1\n`, /names name, index in its first line, where title and index/],
          ["a.json", `{"A": -1}`, /"A": -1 is not that of a title/],
          ["a.json", `{"A": 1.5}`, /is not that of a title/],
          ["a.json", `{"A": "one"}`, /is not that of a title/],
          ["a.json", "{}", /holds no title/],
          ["a.json", "7", /holds number where a map/],
          ["a.pkl", "nonsense", /opcode/]
        ] as const) {
          const got = yield* Effect.either(read(name, content))
          expect(got._tag === "Left" ? got.left.message : "read", content).toMatch(message)
        }
        expect((yield* Effect.flip(readTitles(`${to}/none.csv`, 0n))).message).toMatch(/there is no such file/)
      })
    ))

  it("its pickles are values of all kinds, of protocols 2 to 5", () => {
    // {"a": (1, -2, 2^80, 1.5, None, True), b"x": [frozenset({3})]} by Python 3.11
    const protocol4 = "80049537000000000000007d94288c016194284b014afeffffff8a0b0000000000000000000001473ff8000000" +
      "0000004e887494430178945d94284b03919461752e"
    const value = unpickle(Uint8Array.from(Buffer.from(protocol4, "hex")))
    expect(value).toEqual(
      new Map<unknown, unknown>([["a", [1, -2, 2n ** 80n, 1.5, null, true]], [Uint8Array.of(120), [new Set([3])]]])
    )
    const bytes = (...all: ReadonlyArray<number>) => Uint8Array.from([0x80, 2, ...all])
    expect(unpickle(bytes(...named("a.b", "C"), 0x2e))).toEqual(new Opaque("a.b.C"))
    for (const [given, message] of [
      [bytes(), /ends in the middle/],
      [bytes(0x2e), /takes a value where there is none/],
      [bytes(0x30), /takes a value where there is none/],
      [bytes(0x65), /back to a mark/],
      [bytes(0x4e, 0x4e, 0x2e), /values to spare/],
      [bytes(0x4e, 0x4e, 0x61), /appends to None/],
      [bytes(0x68, 9), /has not made/],
      [bytes(0x4e, 0x51), /outside of it/],
      [bytes(0x50), /opcode 0x50/],
      [bytes(0x4e, 0x29, 0x52), /calls None/],
      [Uint8Array.of(0x80, 9), /protocol 9/],
      [bytes(0x58, 255, 255, 255, 255), /ends in the middle/]
    ] as const) {
      expect(() => unpickle(given), message.source).toThrow(message)
    }
  })
})
