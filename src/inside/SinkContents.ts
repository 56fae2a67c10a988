/**
 * What a sink holds: the contexts that open a neuron and the tokens that it then promotes.
 *
 * A neuron of an MLP is a key and a value (Geva et al. 2021, "Transformer feed-forward layers are key-value memories"):
 * it answers to contexts with an activation m and adds m times its row v of the down-projection to the residual stream.
 * Its key is described by its triggers, the positions of the largest |m|; its value by the largest entries of
 * head (norm * v), with the weight of the last norm (the projection of Geva et al. 2021, section 4, and of 2022).
 */
import * as Effect from "effect/Effect"
import { IGNORE } from "../Batch.ts"
import { batchOf, type Row, sequenceName } from "../data/stream/Packing.ts"
import { chunked } from "../data/stream/Rows.ts"
import { DataError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { Model } from "../model/Model.ts"
import * as Ops from "../model/Ops.ts"
import { own, type SinkMode, unitsOf } from "../Sink.ts"
import { neuronGates, type NeuronGatesError } from "./NeuronGates.ts"

export type SinkContentsError = NeuronGatesError

/** Repeated in training, seen in passing, or never trained on. */
export type SequenceKind = "memorized" | "background" | "heldOut"

/**
 * - `sinks`: while each sequence lights its own.
 * - `general`: general neurons in the same passes.
 * - `random`: the same sinks while each id lights those of another one (placebo): who triggers them is chance.
 */
export type Part = "sinks" | "general" | "random"

/** What sinks are shown, and how much of what they hold is kept. */
export interface SinkContentsOptions {
  /** Sequences that may trigger a neuron; a `source` is what purity counts: a document, an author, a domain. */
  readonly rows: ReadonlyArray<{ readonly row: Row; readonly source: string; readonly kind: SequenceKind }>
  /** Tokens that a sequence has at most, not counting its last. */
  readonly seqLen: number
  /** Sequences a pass. Default 16. */
  readonly batchSize?: number
  /** Triggers of a neuron. Default 10. */
  readonly top?: number
  /** Tokens that a neuron is said to promote. Default 10. */
  readonly promoted?: number
  /** Most sinks, and most general neurons, that are looked at in a layer: the strongest ones. Default 512. */
  readonly limit?: number
  /** Which ids' sinks are lit instead for `random` (`placeboId`). Default 0. */
  readonly seed?: number
}

/** A position at which a neuron answers. */
export interface Trigger {
  /** Index into `sequences`. */
  readonly sequence: number
  /** Of the token, in its sequence, from 0. */
  readonly position: number
  /** m: what the neuron's row is multiplied with there; may be negative. */
  readonly activation: number
  /** At most eight tokens before it. */
  readonly before: ReadonlyArray<number>
  readonly token: number
  /** The token that follows in the sequence. */
  readonly next: number
  /** Whether `next` is among the tokens that the neuron promotes with this activation's sign. */
  readonly agrees: boolean
}

/** One neuron, in one part. */
export interface NeuronContents {
  readonly layer: number
  readonly part: Part
  /** Of the MLP's neurons: general ones, then the pool. */
  readonly neuron: number
  /** Of a sink: the trained sequences whose id lights it, indices into `sequences`. */
  readonly owners: ReadonlyArray<number>
  /** Mean |m| over the positions where it is not 0, times the length of the neuron's row: what it writes. */
  readonly strength: number
  /** From the largest |m|; of equal ones the earlier sequence and position first. Fewer where there are no more. */
  readonly triggers: ReadonlyArray<Trigger>
  /** Share of the triggers that come from the most frequent source. */
  readonly purity: number
  /** Of a sink: share of the triggers that come from its owners. Absent for general neurons. */
  readonly owned?: number
  /** Tokens promoted at the strongest trigger, from the most promoted: largest entries of sign(m) head (norm * v). */
  readonly promoted: ReadonlyArray<number>
  /** The other end: tokens promoted where the sign is the opposite one. */
  readonly demoted: ReadonlyArray<number>
  /** Share of the triggers whose next token is promoted there. */
  readonly agreement: number
}

/** Means over the neurons of a layer and part. */
export interface PartSummary {
  readonly layer: number
  readonly part: Part
  /** Neurons looked at that anything triggers. */
  readonly neurons: number
  /** Neurons that there were to choose from: sinks with an owner, or general neurons. */
  readonly of: number
  readonly purity: number
  /** Absent for general neurons. */
  readonly owned?: number
  readonly agreement: number
}

/** Plain data, as it is in JSON. */
export interface SinkContents {
  readonly sequences: ReadonlyArray<{
    readonly name: string
    /** The id whose sinks it lights, in decimal. */
    readonly id: string
    readonly source: string
    readonly kind: SequenceKind
  }>
  /** By layer, then part, then falling strength. */
  readonly neurons: ReadonlyArray<NeuronContents>
  /** Layers and parts without a triggered neuron are left out: those of sinks where a model has none. */
  readonly summary: ReadonlyArray<PartSummary>
}

/** Tokens shown before a trigger. */
const BEFORE = 8

/** Most bytes of projections that exist at once. */
const PROJECTION_BYTES = 2 ** 24

/** What was seen of some neurons of a layer; column c is neuron `columns[c]`. */
interface Watched {
  readonly columns: Uint32Array
  /** Largest activations by size, [columns, top]; the first `held[c]` are set. */
  readonly activation: Float32Array
  /** Where they were: sequence * seqLen + position. */
  readonly place: Uint32Array
  readonly held: Uint32Array
  /** Of |m|, and at how many positions it is not 0. */
  readonly sum: Float64Array
  readonly count: Uint32Array
}

const watchOf = (columns: Uint32Array, top: number): Watched => ({
  columns,
  activation: new Float32Array(columns.length * top),
  place: new Uint32Array(columns.length * top),
  held: new Uint32Array(columns.length),
  sum: new Float64Array(columns.length),
  count: new Uint32Array(columns.length)
})

/** Enters an activation in a column's list of the largest, behind equal ones. */
const note = (seen: Watched, top: number, c: number, m: number, place: number): void => {
  const size = Math.abs(m)
  // 0 is a sink that is off
  if (!(size > 0 && size < Infinity)) return
  const { activation, count, held, place: places, sum } = seen
  sum[c]! += size
  count[c]!++
  const first = c * top
  let slot = first + held[c]!
  if (held[c]! < top) held[c]!++
  else if (size > Math.abs(activation[slot - 1]!)) slot--
  else return
  for (; slot > first && size > Math.abs(activation[slot - 1]!); slot--) {
    activation[slot] = activation[slot - 1]!
    places[slot] = places[slot - 1]!
  }
  activation[slot] = m
  places[slot] = place
}

/** Places of the `count` largest of sign * values, from the largest; of equal ones the first. */
const largest = (values: Float32Array, count: number, sign: 1 | -1): ReadonlyArray<number> => {
  const places: Array<number> = []
  for (let i = 0; i < values.length; i++) {
    const value = sign * values[i]!
    if (places.length === count && !(value > sign * values[places[count - 1]!]!)) continue
    let slot = places.length < count ? places.length : count - 1
    for (; slot > 0 && value > sign * values[places[slot - 1]!]!; slot--) places[slot] = places[slot - 1]!
    places[slot] = i
  }
  return places
}

const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, x) => sum + x, 0) / values.length

const problemOf = (options: Required<SinkContentsOptions>): string | undefined => {
  for (const field of ["seqLen", "batchSize", "top", "promoted", "limit"] as const) {
    const value = options[field]
    if (!Number.isInteger(value) || value < 1) return `${field} must be a whole number of at least 1, got ${value}`
  }
  const { rows, seqLen } = options
  if (rows.length === 0) return "rows must hold at least one sequence, got none"
  const wrong = rows.find(({ row }) => row.tokens.length < 2 || row.tokens.length > seqLen + 1)?.row
  if (wrong === undefined) return undefined
  return `rows: sequence ${sequenceName(wrong)} has ${wrong.tokens.length} tokens; rows of ${seqLen} take 2 to ` +
    `${seqLen + 1}: change seqLen, or cut the sequence or leave it out`
}

/** Runs all sequences in a mode and keeps what their largest activations are, of some columns of every layer. */
const watch = Effect.fnUntraced(function*(
  mode: SinkMode,
  columns: ReadonlyArray<Uint32Array>,
  { batchSize, rows, seqLen, top }: Required<SinkContentsOptions>
) {
  const size = Math.min(batchSize, rows.length)
  const gates = yield* neuronGates({ rows: size, seqLen, mode })
  const watched = columns.map((some) => watchOf(some, top))
  for (const { chunk, first, full } of chunked(rows, size)) {
    const batch = batchOf(full.map(({ row }) => row), seqLen)
    const hidden = yield* gates.activations(batch)
    watched.forEach((seen, l) => {
      for (let t = 0; t < chunk.length * seqLen; t++) {
        if (batch.targets[t] === IGNORE) continue
        for (let c = 0; c < seen.columns.length; c++) {
          note(seen, top, c, hidden[l]![t * gates.width + seen.columns[c]!]!, first * seqLen + t)
        }
      }
    })
  }
  return watched
}, Effect.scoped)

/** The columns of the strongest neurons, of those that anything triggers and that write at all. */
const strongest = (
  seen: Watched,
  norms: Float64Array,
  limit: number,
  among: (neuron: number) => boolean
): ReadonlyArray<number> =>
  [...seen.columns.keys()]
    .filter((c) => among(seen.columns[c]!) && strengthOf(seen, norms, c) > 0)
    .sort((a, b) => strengthOf(seen, norms, b) - strengthOf(seen, norms, a))
    .slice(0, limit)

const strengthOf = ({ columns, count, sum }: Watched, norms: Float64Array, c: number): number =>
  count[c] === 0 ? 0 : sum[c]! / count[c]! * norms[columns[c]!]!

/** Most promoted tokens of a neuron where its activation is positive, and where it is negative. */
interface Ends {
  readonly positive: ReadonlyArray<number>
  readonly negative: ReadonlyArray<number>
}

/** A projector of rows of the down-projection [neurons, hiddenSize] to the ends of the vocabulary. */
const projector = Effect.gen(function*() {
  const model = yield* Model
  const device = yield* Device
  const { hiddenSize: d, vocabSize } = model.config
  const width = Math.ceil(vocabSize / 4) * 4
  const chunk = Math.max(1, Math.min(256, Math.floor(PROJECTION_BYTES / (4 * width))))
  const x = Tensor.make("values", [chunk, d])
  const logits = Tensor.make("projections", [chunk, width])
  const p = Program.record("projections of values", device.target)
  Ops.headLogits(p, x, model.handles.head, chunk, logits)
  yield* device.allocate([x, logits])
  const program = yield* device.prepare(p.finish())
  const norm = yield* device.read(model.handles.norm.value)
  return Effect.fnUntraced(function*(down: ArrayLike<number>, neurons: ReadonlyArray<number>, promoted: number) {
    const ends = new Map<number, Ends>()
    for (let first = 0; first < neurons.length; first += chunk) {
      const some = neurons.slice(first, first + chunk)
      const rows = new Float32Array(chunk * d)
      some.forEach((i, r) => {
        for (let j = 0; j < d; j++) rows[r * d + j] = norm[j]! * down[i * d + j]!
      })
      device.write(x, rows)
      device.submit(program)
      const projected = (yield* device.read(logits)) as Float32Array
      some.forEach((i, r) => {
        const values = projected.subarray(r * width, r * width + vocabSize)
        ends.set(i, { positive: largest(values, promoted, 1), negative: largest(values, promoted, -1) })
      })
    }
    return ends
  })
})

/**
 * Looks at what opens neurons and what they promote, layer by layer, for three parts: sinks, general neurons, and the
 * same sinks under the masks of other ids. Triggers are positions whose next token is scored.
 *
 * General neurons are open to every sequence, a sink only to those whose id lights it, so that its triggers are pure by
 * construction where few ids share it: compare with `random`, where as many ids light it, but not those that trained it.
 * Owners are memorized and background sequences; held-out ones may trigger the sinks that their ids light, and lower
 * `owned`. Only sinks with an owner are looked at, and in each layer and part the `limit` strongest (largest mean |m| times
 * length of the row); the rest are told by `of` of the summary alone. Neurons that write nothing, or that no sequence
 * triggers, are left out.
 *
 * Costs two forward passes over the sequences (one without sinks), always f32 and masked, and a product of the vocabulary
 * with every neuron looked at. A pass holds batchSize * seqLen activations of every neuron; of all others only `top` a
 * neuron are kept. Leaves the weights as they are. Fails with a DataError that names the option for counts that are none,
 * for no sequences, and for a sequence of fewer than 2 or more than seqLen + 1 tokens.
 */
export const sinkContents = (
  given: SinkContentsOptions
): Effect.Effect<SinkContents, SinkContentsError, Model | Device> =>
  Effect.gen(function*() {
    const options = { batchSize: 16, top: 10, promoted: 10, limit: 512, seed: 0, ...given }
    const { limit, promoted, rows, seed, seqLen, top } = options
    const problem = problemOf(options)
    if (problem !== undefined) return yield* new DataError({ detail: `contents of sinks: ${problem}` })
    const model = yield* Model
    const device = yield* Device
    const { general, hiddenSize: d, sinks } = model.config
    const block = sinks?.block ?? 1

    /** Trained sequences by unit of the pool. */
    const owners = new Map<number, Array<number>>()
    if (sinks !== undefined) {
      rows.forEach(({ kind, row }, s) => {
        if (kind === "heldOut") return
        for (const unit of unitsOf(sinks, row.id)) {
          const list = owners.get(unit)
          if (list === undefined) owners.set(unit, [s])
          else list.push(s)
        }
      })
    }
    const ownersOf = (neuron: number) => owners.get(Math.floor((neuron - general) / block)) ?? []
    const ownedSinks = [...owners.keys()].sort((a, b) => a - b).flatMap((unit) =>
      Array.from({ length: block }, (_, j) => general + unit * block + j)
    )
    const all = Uint32Array.from([...Array.from({ length: general }, (_, i) => i), ...ownedSinks])

    const describe = (seen: Watched, c: number, part: Part, layer: number, strength: number,
      ends: Ends): NeuronContents =>
    {
      const neuron = seen.columns[c]!
      const positive = seen.activation[c * top]! > 0
      const triggers = Array.from({ length: seen.held[c]! }, (_, k): Trigger => {
        const place = seen.place[c * top + k]!
        const activation = seen.activation[c * top + k]!
        const sequence = Math.floor(place / seqLen)
        const position = place % seqLen
        const { tokens } = rows[sequence]!.row
        const next = tokens[position + 1]!
        return {
          sequence,
          position,
          activation,
          before: [...tokens.subarray(Math.max(0, position - BEFORE), position)],
          token: tokens[position]!,
          next,
          agrees: (activation > 0 ? ends.positive : ends.negative).includes(next)
        }
      })
      const bySource = new Map<string, number>()
      for (const { sequence } of triggers) {
        const { source } = rows[sequence]!
        bySource.set(source, (bySource.get(source) ?? 0) + 1)
      }
      const share = (count: number) => count / triggers.length
      const owning = part === "general" ? [] : ownersOf(neuron)
      return {
        layer,
        part,
        neuron,
        owners: owning,
        strength,
        triggers,
        purity: share(Math.max(...bySource.values())),
        ...(part === "general" ? {} : { owned: share(triggers.filter((one) => owning.includes(one.sequence)).length) }),
        promoted: positive ? ends.positive : ends.negative,
        demoted: positive ? ends.negative : ends.positive,
        agreement: share(triggers.filter(({ agrees }) => agrees).length)
      }
    }

    const watched = yield* watch(own, model.handles.layers.map(() => all), options)
    const project = yield* projector
    const layers = yield* Effect.forEach(model.handles.layers, ({ down }, layer) =>
      Effect.gen(function*() {
        const seen = watched[layer]!
        const rowsOfDown = yield* device.read(down.value)
        const norms = Float64Array.from({ length: model.config.intermediateSize }, (_, i) => {
          let sum = 0
          for (let j = i * d; j < (i + 1) * d; j++) sum += rowsOfDown[j]! ** 2
          return Math.sqrt(sum)
        })
        const chosen = {
          sinks: strongest(seen, norms, limit, (neuron) => neuron >= general),
          general: strongest(seen, norms, limit, (neuron) => neuron < general)
        }
        const ends = yield* project(
          rowsOfDown,
          [...chosen.sinks, ...chosen.general].map((c) => seen.columns[c]!),
          promoted
        )
        const described = (part: "sinks" | "general") =>
          chosen[part].map((c) =>
            describe(seen, c, part, layer, strengthOf(seen, norms, c), ends.get(seen.columns[c]!)!)
          )
        return { norms, ends, sinks: described("sinks"), general: described("general") }
      }))
    const others = layers.every(({ sinks }) => sinks.length === 0) ? undefined : yield* watch(
      { mode: "placebo", seed },
      layers.map(({ sinks }) => Uint32Array.from(sinks, ({ neuron }) => neuron)),
      options
    )

    const groups = layers.flatMap(({ ends, general: ofGeneral, norms, sinks: ofSinks }, layer) => {
      const seen = others?.[layer]
      const random = seen === undefined ?
        [] :
        strongest(seen, norms, limit, () => true).map((c) =>
          describe(seen, c, "random", layer, strengthOf(seen, norms, c), ends.get(seen.columns[c]!)!)
        )
      return [
        { layer, part: "sinks" as const, of: ownedSinks.length, neurons: ofSinks },
        { layer, part: "general" as const, of: general, neurons: ofGeneral },
        { layer, part: "random" as const, of: ownedSinks.length, neurons: random }
      ]
    })
    return {
      sequences: rows.map(({ kind, row, source }) => ({ name: sequenceName(row), id: String(row.id), source, kind })),
      neurons: groups.flatMap(({ neurons }) => neurons),
      summary: groups.filter(({ neurons }) => neurons.length > 0).map(({ layer, neurons, of, part }): PartSummary => ({
        layer,
        part,
        neurons: neurons.length,
        of,
        purity: mean(neurons.map(({ purity }) => purity)),
        ...(part === "general" ? {} : { owned: mean(neurons.map(({ owned }) => owned!)) }),
        agreement: mean(neurons.map(({ agreement }) => agreement))
      }))
    }
  }).pipe(Effect.scoped)
