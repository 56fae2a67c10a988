/** What sinks hold, on weights whose keys and values were planted, and against the float64 reference. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { contentsPage } from "../../pipelines/dynamics/contentsPage.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { Device } from "../../src/gpu/Device.ts"
import { type NeuronContents, type SequenceKind, type SinkContents, sinkContents,
  type SinkContentsOptions } from "../../src/inside/SinkContents.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { referenceGates } from "../reference/gates.ts"
import { parameterShapes, randomParameters, type Tensors } from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"
import { referenceConfig } from "../support/support.ts"

// not a multiple of 4: the projections are padded
const V = 14

/** Eight units of four sinks, of which an id lights one. */
const config = new ModelConfig({
  vocabSize: V,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 8 + 32,
  tieWordEmbeddings: false,
  sinks: new Sink.SinkConfig({ pool: 32, active: 4, block: 4 })
})
const { general, hiddenSize: d, pool } = config
const sinks = config.sinks!

/** The first ids from `from` on that light a unit. */
const idsOf = (unit: number, count: number, from = 1n): ReadonlyArray<bigint> => {
  const ids: Array<bigint> = []
  for (let id = from; ids.length < count; id++) if (Sink.unitsOf(sinks, id)[0] === unit) ids.push(id)
  return ids
}

const row = (id: bigint, document: string, tokens: ReadonlyArray<number>, more: Partial<Row> = {}): Row => ({ id,
  document, offset: 0, tokens: Uint32Array.from(tokens), ...more })

/** A neuron that answers to tokens by so much, and writes so much of others. */
interface Planted {
  readonly layer: number
  readonly neuron: number
  readonly answers: Readonly<Record<number, number>>
  readonly sign: 1 | -1
  readonly writes: Readonly<Record<number, number>>
}

const zeros = (): Tensors =>
  Object.fromEntries(
    Object.entries(parameterShapes(referenceConfig(config))).map((
      [name, shape]
    ) => [name, new Float64Array(shape.reduce((a, b) => a * b, 1)).fill(name.includes("norm") ? 1 : 0)])
  )

/** Tokens are one-hot at the front of the stream, the head reads what lies V further. Nothing else is there. */
const plant = (neurons: ReadonlyArray<Planted>): Tensors => {
  const params = zeros()
  for (let v = 0; v < V; v++) {
    params.embed![v * d + v] = 1
    params.head![v * d + V + v] = 1
  }
  for (const { answers, layer, neuron: i, sign, writes } of neurons) {
    const [gate, up] = i < general ? [i, general + i] : [general + i, general + pool + i]
    for (const [token, size] of Object.entries(answers)) {
      params[`layers.${layer}.gateUp`]![gate * d + Number(token)] = size
      params[`layers.${layer}.gateUp`]![up * d + Number(token)] = sign * size
    }
    for (const [token, size] of Object.entries(writes)) {
      params[`layers.${layer}.down`]![i * d + V + Number(token)] = size
    }
  }
  return params
}

const contentsOf = (params: Tensors, options: SinkContentsOptions) =>
  Effect.gen(function*() {
    const model = yield* Model
    const device = yield* Device
    for (const { name, value } of model.parameters) device.write(value, Float32Array.from(params[name]!))
    return yield* sinkContents(options)
  }).pipe(Effect.provide(Model.layer(config, { initialize: false })))

const neuronIn = (contents: SinkContents, part: string, layer: number, neuron: number): NeuronContents => {
  const found = contents.neurons.filter((one) => one.part === part && one.layer === layer && one.neuron === neuron)
  expect(found).toHaveLength(1)
  return found[0]!
}

const placesOf = ({ triggers }: NeuronContents) => triggers.map(({ position, sequence }) => [sequence, position])

// ---------------------------------------------------------------------------------------------------------------
// A planted world

/** Answers to token 4, and less to 3, with a negative activation; its negative row then promotes 9, then 2. */
const secret: Planted = {
  layer: 1,
  neuron: general + 4 * 3 + 2,
  answers: { 4: 2, 3: 1 },
  sign: -1,
  writes: { 9: -1, 2: -1.5, 11: 0.5 }
}
/** Open to sequences of two sources. */
const shared: Planted = { layer: 0, neuron: general + 4 * 5, answers: { 1: 1 }, sign: 1, writes: { 6: 1 } }
/** Open to all. */
const common: Planted = { layer: 0, neuron: 5, answers: { 1: 1 }, sign: 1, writes: { 6: 1 } }
const silent: Planted = { layer: 0, neuron: 6, answers: { 1: 1 }, sign: 1, writes: {} }

const planted = plant([secret, shared, common, silent])
// the last norm turns the order of the secret's two tokens around
planted.norm![V + 9] = 2

const [a0, a1, a2] = idsOf(3, 3)
const [s0, s1] = idsOf(5, 2)
const [stranger] = idsOf(3, 1, a2! + 1n)
const few: SinkContentsOptions["rows"] = [
  { row: row(a0!, "a0", [7, 4, 9, 1, 6, 8, 3, 0]), source: "A", kind: "memorized" },
  // as long as a row can be, and one of the shortest
  { row: row(a1!, "a1", [1, 5, 3, 4, 9, 8, 4, 2, 5]), source: "A", kind: "memorized" },
  { row: row(a2!, "a2", [4, 9], { offset: 7 }), source: "A", kind: "background" },
  { row: row(s0!, "s0", [4, 1, 6, 1, 2, 1, 6, 0, 0]), source: "A", kind: "memorized" },
  // the first 1 is only read, the last has no next token
  { row: row(s1!, "s1", [4, 1, 6, 1, 6, 3, 1, 2, 1], { scoredFrom: 3 }), source: "B", kind: "memorized" }
]

layer(NodeDevice.layer())("contents of sinks", (it) => {
  it.effect("tell a sink's triggers, in order of size, then of appearance, and what it promotes", () =>
    Effect.gen(function*() {
      const contents = yield* contentsOf(planted, { rows: few, seqLen: 8, batchSize: 2, promoted: 1 })
      const it = neuronIn(contents, "sinks", 1, secret.neuron)
      expect(placesOf(it)).toEqual([[0, 1], [1, 3], [1, 6], [2, 0], [0, 6], [1, 2]])
      for (const [k, { activation }] of it.triggers.entries()) {
        // a one-hot stream of 32 dimensions has entries of sqrt(32) behind its norm
        const x = (k < 4 ? 2 : 1) * Math.sqrt(32)
        expect(activation / (-(x / (1 + Math.exp(-x))) * x)).toBeCloseTo(1, 3)
      }
      expect(it.triggers[1]).toMatchObject({ before: [1, 5, 3], token: 4, next: 9, agrees: true })
      expect(it).toMatchObject({ owners: [0, 1, 2], purity: 1, owned: 1, promoted: [9], demoted: [11] })
      expect(it.triggers.map(({ agrees }) => agrees)).toEqual([true, true, false, true, false, false])
      expect(it.agreement).toBe(1 / 2)
      const mean = it.triggers.reduce((sum, { activation }) => sum + Math.abs(activation), 0) / 6
      expect(it.strength / (mean * Math.hypot(1, 1.5, 0.5))).toBeCloseTo(1, 4)
      expect(contents.sequences[2]).toEqual({ name: "a2+7", id: String(a2), source: "A", kind: "background" })
      expect(JSON.parse(JSON.stringify(contents))).toEqual(contents)

      const best = yield* contentsOf(planted, { rows: few, seqLen: 8, top: 2, promoted: 2 })
      const short = neuronIn(best, "sinks", 1, secret.neuron)
      expect(placesOf(short)).toEqual([[0, 1], [1, 3]])
      expect(short).toMatchObject({ promoted: [9, 2], agreement: 1 })
    }))

  it.effect("mix the sources that share a sink, and leave out what is not scored", () =>
    Effect.gen(function*() {
      const contents = yield* contentsOf(planted, { rows: few, seqLen: 8, promoted: 1 })
      const it = neuronIn(contents, "sinks", 0, shared.neuron)
      expect(placesOf(it)).toEqual([[3, 1], [3, 3], [3, 5], [4, 3], [4, 6]])
      expect(it).toMatchObject({ owners: [3, 4], purity: 3 / 5, agreement: 3 / 5, promoted: [6] })
      const even = yield* contentsOf(planted, {
        rows: few.map((one) => one.row.document === "s0" ? { ...one, row: row(s0!, "s0", [4, 1, 6, 1, 2, 0]) } : one),
        seqLen: 8
      })
      expect(neuronIn(even, "sinks", 0, shared.neuron).purity).toBe(1 / 2)
    }))

  it.effect("have general neurons triggered by all, and none that writes nothing or that nobody lights", () =>
    Effect.gen(function*() {
      const contents = yield* contentsOf(planted, { rows: few, seqLen: 8, promoted: 1 })
      const it = neuronIn(contents, "general", 0, common.neuron)
      expect(new Set(it.triggers.map(({ sequence }) => sequence))).toEqual(new Set([0, 1, 3, 4]))
      expect(it).toMatchObject({ owners: [], agreement: 4 / 7 })
      expect(it).not.toHaveProperty("owned")
      // nothing is planted in the general neurons of layer 1, nor in the sinks of other ids
      expect(contents.neurons.filter(({ part }) => part !== "random").map((one) => [one.layer, one.part, one.neuron]))
        .toEqual([[0, "sinks", shared.neuron], [0, "general", common.neuron], [1, "sinks", secret.neuron]])
      expect(contents.summary.filter(({ part }) => part !== "random")).toEqual([
        { layer: 0, part: "sinks", neurons: 1, of: 8, purity: 3 / 5, owned: 1, agreement: 3 / 5 },
        { layer: 0, part: "general", neurons: 1, of: 8, purity: it.purity, agreement: 4 / 7 },
        { layer: 1, part: "sinks", neurons: 1, of: 8, purity: 1, owned: 1, agreement: 1 / 2 }
      ])
    }))

  it.effect("have held-out sequences trigger what their ids light, own nothing", () =>
    Effect.gen(function*() {
      const rows = [...few, { row: row(stranger!, "x", [4, 9, 4, 0]), source: "X", kind: "heldOut" as const }]
      const contents = yield* contentsOf(planted, { rows, seqLen: 8, top: 6 })
      const it = neuronIn(contents, "sinks", 1, secret.neuron)
      expect(placesOf(it)).toEqual([[0, 1], [1, 3], [1, 6], [2, 0], [5, 0], [5, 2]])
      expect(it).toMatchObject({ owners: [0, 1, 2], purity: 4 / 6, owned: 4 / 6 })
      const only = yield* contentsOf(planted, { rows: rows.slice(-1), seqLen: 8 })
      expect(only.summary).toEqual([])
    }))

  it.effect("are triggered by whoever lights them under the masks of other ids", () =>
    Effect.gen(function*() {
      const other = idsOf(1, 40)
      const rows: SinkContentsOptions["rows"] = [
        ...few.slice(0, 3),
        ...other.map((id, i) => ({
          row: row(id, `o${i}`, [0, 4, i % 2 === 0 ? 9 : 5]),
          source: `S${i % 5}`,
          kind: "memorized" as const
        }))
      ]
      const contents = yield* contentsOf(planted, { rows, seqLen: 8, batchSize: 7, top: 4, promoted: 1, seed: 3 })
      expect(neuronIn(contents, "sinks", 1, secret.neuron)).toMatchObject({ purity: 1, owned: 1 })
      const lit = rows.flatMap(({ row }, s) => Sink.unitsOf(sinks, Sink.placeboId(row.id, 3))[0] === 3 ? [s] : [])
      const fours = lit.flatMap((s) =>
        [...rows[s]!.row.tokens.slice(0, -1)].flatMap((token, position) => token === 4 ? [[s, position]] : [])
      )
      expect(fours.length).toBeGreaterThan(3)
      const random = neuronIn(contents, "random", 1, secret.neuron)
      expect(placesOf(random)).toEqual(fours.slice(0, 4))
      const sources = fours.slice(0, 4).map(([s]) => rows[s!]!.source)
      expect(random.purity).toBe(Math.max(...sources.map((name) => sources.filter((one) => one === name).length)) / 4)
      expect(random.purity).toBeLessThan(1)
      expect(random.owned).toBe(fours.slice(0, 4).filter(([s]) => s! < 3).length / 4)
      expect(random).toMatchObject({ owners: [0, 1, 2], promoted: [9] })
    }))

  it.effect("follow the float64 reference on random weights, in ragged rows and batches, with the strongest few", () =>
    Effect.gen(function*() {
      const random = makeRandom(29)
      const params = randomParameters(referenceConfig(config), random, 0.5)
      for (const name in params) params[name] = Float64Array.from(Float32Array.from(params[name]!))
      const rows = Array.from({ length: 11 }, (_, s) => ({
        row: row(BigInt(s) * 977n, `d${s}`, [...random.ints(2 + random.int(9), V)], { scoredFrom: 1 + (s % 2) }),
        source: `S${s % 3}`,
        kind: (["memorized", "background", "heldOut"] as const)[s % 3] as SequenceKind
      }))
      const [seqLen, top, promoted, limit] = [10, 3, 4, 6]
      const contents = yield* contentsOf(params, { rows, seqLen, top, promoted, limit, batchSize: 4, seed: 5 })

      const width = general + pool
      const owners = (i: number) =>
        rows.flatMap(({ kind, row }, s) =>
          kind !== "heldOut" && Sink.unitsOf(sinks, row.id)[0] === Math.floor((i - general) / 4) ? [s] : []
        )
      const hiddenIn = (mode: Sink.SinkMode) =>
        referenceGates(referenceConfig(config), params, (id) => Sink.coefficients(sinks, general, mode, id))
          .activations(batchOf(rows.map(({ row }) => row), seqLen))
      const [mine, theirs] = [hiddenIn(Sink.own), hiddenIn({ mode: "placebo", seed: 5 })]
      const positions = rows.flatMap(({ row: { scoredFrom = 1, tokens } }, s) =>
        [...tokens.keys()].slice(scoredFrom - 1, -1).map((t) => [s, t] as const)
      )
      const seen = (hidden: Float64Array, i: number) => {
        const answers = positions.map(([s, t]) => ({ s, t, m: hidden[(s * seqLen + t) * width + i]! }))
          .filter(({ m }) => m !== 0).sort((a, b) => Math.abs(b.m) - Math.abs(a.m))
        const size = answers.reduce((sum, { m }) => sum + Math.abs(m), 0) / answers.length
        return { triggers: answers.slice(0, top), size }
      }
      let negative = 0
      let opposite = 0
      for (let l = 0; l < 2; l++) {
        const down = params[`layers.${l}.down`]!
        const strength = (hidden: Float64Array, i: number) =>
          seen(hidden, i).size * Math.hypot(...down.subarray(i * d, (i + 1) * d))
        const owned = Array.from({ length: pool }, (_, j) => general + j).filter((i) => owners(i).length > 0)
        for (const [part, hidden, among, of] of [
          ["sinks", mine[l], owned, owned.length],
          ["general", mine[l], Array.from({ length: general }, (_, i) => i), general],
          [
            "random",
            theirs[l],
            contents.neurons.filter((one) => one.layer === l && one.part === "sinks").map(({ neuron }) => neuron),
            owned.length
          ]
        ] as const) {
          const strong = among.filter((i) => seen(hidden!, i).triggers.length > 0)
            .sort((a, b) => strength(hidden!, b) - strength(hidden!, a)).slice(0, limit)
          const got = contents.neurons.filter((one) => one.layer === l && one.part === part)
          expect(got.map(({ neuron }) => neuron)).toEqual(strong)
          for (const one of got) {
            const { triggers } = seen(hidden!, one.neuron)
            expect(placesOf(one)).toEqual(triggers.map(({ s, t }) => [s, t]))
            triggers.forEach(({ m }, k) => expect(one.triggers[k]!.activation / m!).toBeCloseTo(1, 3))
            expect(one.strength / strength(hidden!, one.neuron)).toBeCloseTo(1, 3)
            const lens = Array.from({ length: V }, (_, v) => {
              let sum = 0
              for (let j = 0; j < d; j++) sum += params.head![v * d + j]! * params.norm![j]! * down[one.neuron * d + j]!
              return sum
            })
            const endOf = (m: number) =>
              [...lens.keys()].sort((a, b) => Math.sign(m) * (lens[b]! - lens[a]!)).slice(0, promoted)
            const { m: first } = triggers[0]!
            expect(one.promoted).toEqual(endOf(first!))
            expect(one.demoted).toEqual(endOf(-first!))
            if (first! < 0) negative++
            opposite += triggers.filter(({ m }) => m! * first! < 0).length
            const agrees = triggers.map(({ m, s, t }) => endOf(m!).includes(rows[s]!.row.tokens[t + 1]!))
            expect(one.triggers.map((trigger) => trigger.agrees)).toEqual(agrees)
            if (part !== "general") expect(one.owners).toEqual(owners(one.neuron))
          }
          const mean = (of: (one: NeuronContents) => number) => got.reduce((sum, one) => sum + of(one), 0) / got.length
          const summary = contents.summary.find((one) => one.layer === l && one.part === part)!
          expect(summary).toMatchObject({ neurons: got.length, of })
          expect(summary.purity).toBeCloseTo(mean(({ purity }) => purity), 12)
          expect(summary.agreement).toBeCloseTo(mean(({ agreement }) => agreement), 12)
        }
      }
      expect([negative, opposite].every((count) => count > 3)).toBe(true)
    }))

  it.effect("know only general neurons in a model without sinks", () =>
    Effect.gen(function*() {
      const { summary } = yield* sinkContents({ rows: few, seqLen: 8 })
      expect(summary.map(({ layer, neurons, part }) => [layer, part, neurons])).toEqual([[0, "general", 16]])
    }).pipe(Effect.provide(Model.layer(
      new ModelConfig({ vocabSize: V, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 16 }),
      { seed: 4 }
    ))))

  const right: SinkContentsOptions = { rows: few, seqLen: 8 }
  for (const [what, wrong, message] of [
    ["no sequence", { rows: [] }, /rows must hold at least one sequence/],
    ["a sequence that is too long", { seqLen: 7 }, /sequence a1 has 9 tokens; rows of 7 take 2 to 8: change seqLen/],
    ["no trigger", { top: 0 }, /top must be a whole number of at least 1, got 0/],
    ["a broken limit", { limit: 1.5 }, /limit must be a whole number of at least 1, got 1.5/]
  ] as const) {
    it.effect(`refuse ${what}`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(contentsOf(planted, { ...right, ...wrong }))
        expect(error._tag).toBe("DataError")
        expect(error.message).toMatch(message)
      }))
  }
})

// ---------------------------------------------------------------------------------------------------------------
// The page

const neuron = ({ part = "sinks", ...more }: Partial<NeuronContents>): NeuronContents => ({
  layer: 0,
  part,
  neuron: 17,
  owners: [0],
  strength: 1,
  triggers: [
    { sequence: 0, position: 2, activation: -1.25, before: [0, 1], token: 2, next: 3, agrees: true },
    { sequence: 1, position: 0, activation: 1, before: [], token: 3, next: 4, agrees: false }
  ],
  purity: 0.5,
  ...(part === "general" ? {} : { owned: 0.5 }),
  promoted: [3, 5],
  demoted: [1],
  agreement: 0.5,
  ...more
})

const words = ["<b>", " one", " \"two\"", " three\n", "&amp;", "</script>"]
const decode = (tokens: ReadonlyArray<number>) => tokens.map((token) => words[token] ?? "").join("")

const contents: SinkContents = {
  sequences: [
    { name: "<img src=x>", id: "1", source: "An \"author\" & more", kind: "memorized" },
    { name: "other", id: "2", source: "other", kind: "heldOut" }
  ],
  neurons: [
    neuron({}),
    neuron({ neuron: 18, strength: 3, promoted: [9] }),
    neuron({ neuron: 19, strength: 0.5, purity: 1, triggers: [neuron({}).triggers[1]!], owners: [] }),
    neuron({ part: "general", neuron: 2, owners: [], strength: 2 })
  ],
  summary: [
    { layer: 0, part: "sinks", neurons: 3, of: 64, purity: 0.5, owned: 0.25, agreement: 0.75 },
    { layer: 0, part: "general", neurons: 1, of: 8, purity: 0.5, agreement: 0.5 }
  ]
}

describe("a page of contents", () => {
  const html = contentsPage(contents, { title: "What <sinks> hold", arm: "sinks & co", seed: 12, decode })
  const without = html.replace(/<script>[^]*<\/script>|<style>[^]*?<\/style>/g, "")

  it("shows texts with their trigger marked, names and promoted tokens, all escaped", () => {
    expect(html).toContain("<h1>What &lt;sinks&gt; hold</h1>")
    expect(html).toContain("Arm sinks &amp; co, seed 12.")
    expect(html).toContain(`<code>&lt;b&gt; one<mark> &quot;two&quot;</mark><i> three␊</i></code>`)
    expect(html).toContain(`<code><mark> three␊</mark><i>&amp;amp;</i></code>`)
    expect(html).toContain(
      "promoted · -1.25 · &lt;img src=x&gt; of An &quot;author&quot; &amp; more, memorized, token 2"
    )
    expect(html).toContain("1.00 · other, held out, token 0")
    expect(html).toContain("<code>&lt;/script&gt;</code>")
    // a token without text
    expect(html).toContain("<code>#9</code>")
    expect(without).not.toMatch(/<b>|<img/)
    expect(html.match(/<script/g)).toHaveLength(1)
    expect(html.match(/<\/script>/g)).toHaveLength(1)
  })

  it("needs nothing from elsewhere", () => {
    expect(html).not.toMatch(/https?:|src="|href=|url\(|@import|fetch\(|import\(/)
  })

  it("has a control with a label for each thing that its script chooses by", () => {
    for (const name of ["layer", "part", "source", "text", "sort"]) {
      expect(without).toMatch(new RegExp(`<label>[^<]+<(select|input) name="${name}"`))
    }
    expect(without).toContain("<option value=\"0\">An &quot;author&quot; &amp; more</option>")
    expect(without).toContain("data-sources=\"0 1\"")
  })

  it("is filtered and sorted by its script", () => {
    // what the script needs of a document, filled from the page
    interface Item {
      readonly dataset: Readonly<Record<string, string>>
      readonly textContent: string
      hidden: boolean
    }
    const items = [...without.matchAll(/<li (data-[^>]*)>([^]*?)<\/details><\/li>/g)].map(([, data, text]): Item => ({
      dataset: Object.fromEntries([...data!.matchAll(/data-(\w+)="([^"]*)"/g)].map(([, key, value]) => [key, value])),
      textContent: text!.replace(/<[^>]*>/g, ""),
      hidden: false
    }))
    let listed = items
    const listeners = new Map<string, () => void>()
    const control = (name: string) => ({
      value: "",
      addEventListener: (_: string, run: () => void) => void listeners.set(name, run)
    })
    const elements = Object.fromEntries(
      ["layer", "part", "source", "text", "sort"].map((name) => [name, control(name)])
    )
    const form = { elements, hidden: true, addEventListener: () => {} }
    const count = { textContent: "" }
    const list = { children: items, append: (...order: ReadonlyArray<Item>) => void (listed = [...order]) }
    const document = { getElementById: (id: string) => ({ choose: form, neurons: list, count })[id] }
    const script = /<script>([^]*)<\/script>/.exec(html)![1]!
    new Function("document", "setTimeout", script)(document, (run: () => void) => run())

    const choose = (values: Readonly<Record<string, string>>) => {
      for (const name in elements) elements[name]!.value = values[name] ?? ""
      for (const run of listeners.values()) run()
      return listed.filter(({ hidden }) => !hidden).map(({ textContent }) => Number(/(\d+):/.exec(textContent)![1]))
    }
    expect(form.hidden).toBe(false)
    expect(choose({})).toEqual([18, 17, 19, 2])
    expect(count.textContent).toBe("4 of 4 neurons")
    expect(choose({ part: "general" })).toEqual([2])
    expect(choose({ layer: "1" })).toEqual([])
    expect(choose({ source: "0" })).toEqual([18, 17, 2])
    expect(count.textContent).toBe("3 of 4 neurons")
    expect(choose({ text: "#9" })).toEqual([18])
    expect(choose({ text: "OPPOSITE", sort: "strength" })).toEqual([18, 2, 17, 19])
    expect(choose({ sort: "purity" })).toEqual([19, 18, 2, 17])
    expect(choose({ sort: "" })).toEqual([18, 17, 19, 2])
  })

  it("shows the strongest of each layer and part, and says which it left out", () => {
    expect(html).toContain("Every neuron that was looked at is shown.")
    expect(html.match(/<li data-layer/g)).toHaveLength(4)
    const small = contentsPage(contents, { title: "", arm: "", seed: 0, decode, most: 4 })
    expect([...small.matchAll(/data-part="(\w+)"[^]*?(?:sink|neuron) (\d+):/g)].map(([, part, i]) => [part, i]))
      .toEqual([["sinks", "18"], ["sinks", "17"], ["general", "2"]])
    expect(small).toContain("layer 0, sinks: 1 of strength 0.500 and less")
    expect(contentsPage(contents, { title: "", arm: "", seed: 0, decode, most: 1 }))
      .toContain("layer 0, sinks: 2 of strength 1.00 and less")
  })
})
