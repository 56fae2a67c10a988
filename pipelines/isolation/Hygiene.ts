/**
 * Whether an implementation of sinks keeps the promises that isolation rests on: pass or fail, on a trained model.
 * Each check is a function and a line in the table; bits are compared as bits.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import type { HostTensor } from "../../src/checkpoints/Checkpoints.ts"
import { prune } from "../../src/checkpoints/Export.ts"
import { batchOf, type Pack, packedBatch, type Row } from "../../src/data/stream/Packing.ts"
import { type CheckpointError, DataError, type DeviceError, type Diverged, type KernelError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model, type ModelService } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import type * as Ops from "../../src/model/Ops.ts"
import { random } from "../../src/Random.ts"
import * as Sink from "../../src/Sink.ts"
import { learningRateAt, type OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { common, type HygieneCheck, maskChecks, round } from "./Masks.ts"

export type { HygieneCheck }

export interface HygieneInput {
  /** As the model was trained: it says what sinks that no id lights may do. */
  readonly optimizer: OptimizerConfig
  /** Sequences of several ids. No two of the repeated ones may light the same sinks. */
  readonly rows: {
    readonly repeated: ReadonlyArray<Row>
    readonly singles?: ReadonlyArray<Row>
    readonly heldOut?: ReadonlyArray<Row>
  }
  readonly seqLen: number
  /** Sequences a pass, at most. */
  readonly batchSize: number
  readonly seed: number
}

export type HygieneError = CheckpointError | DataError | DeviceError | Diverged | KernelError

type Tensors = Readonly<Record<string, HostTensor>>

/**
 * The model without its pool: weights of sinks cut out, all others as they are. It computes what the model computes
 * with sinks off. Pure.
 */
export const prunedTensors = (
  config: ModelConfig,
  tensors: Tensors
): { readonly config: ModelConfig; readonly tensors: Record<string, HostTensor> } => {
  const pruned = prune(config, tensors, { mode: "off" })
  return {
    config: pruned.config,
    tensors: Object.fromEntries(
      Object.entries(pruned.tensors).map(([name, { data, shape }]) => [name, { shape, data: data() }])
    )
  }
}

/** What the checks on the device look at. */
interface Subject {
  readonly model: ModelService
  readonly sinks: Sink.SinkConfig
  /** The model's weights as they were when the checks began. */
  readonly tensors: Tensors
  /** Two batches of sequences of different ids. */
  readonly first: ReadonlyArray<Row>
  readonly second: ReadonlyArray<Row>
  readonly optimizer: OptimizerConfig
  readonly seqLen: number
  readonly seed: number
  /** What two ways of computing the same sums may differ by, as a share of the largest value. */
  readonly tolerance: number
}

type Check = Effect.Effect<ReadonlyArray<HygieneCheck>, HygieneError, Device | Model | Scope.Scope>

/** Values of two arrays that are not the same bits. */
export const differingBits = (a: Float32Array, b: Float32Array): number => {
  const bits = (data: Float32Array) => new Uint32Array(data.buffer, data.byteOffset, data.length)
  const [x, y] = [bits(a), bits(b)]
  if (x.length !== y.length) return Math.max(x.length, y.length)
  let count = 0
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) count++
  return count
}

/** The largest difference; Infinity where one is not a number. */
const difference = (a: Float32Array, b: Float32Array): number => {
  let most = 0
  for (let i = 0; i < a.length; i++) {
    const one = Math.abs(a[i]! - b[i]!)
    if (!(one <= most)) most = Number.isNaN(one) ? Infinity : one
  }
  return most
}

const largestOf = (a: Float32Array): number => a.reduce((most, x) => Math.max(most, Math.abs(x)), 0)

const unitsOfRows = (sinks: Sink.SinkConfig, rows: ReadonlyArray<Pick<Row, "id">>): Set<number> =>
  new Set(rows.flatMap(({ id }) => [...Sink.unitsOf(sinks, id)]))

/** Units of the pool that no id of a set lights. */
const unlit = (sinks: Sink.SinkConfig, lit: ReadonlySet<number>): ReadonlyArray<number> =>
  Array.from({ length: sinks.units }, (_, unit) => unit).filter((unit) => !lit.has(unit))

/** The elements of units in a parameter's internal layout: rows of neurons, gate and up one behind the other. */
const elementsOf = (config: ModelConfig, { sinkRow0, value }: Ops.Parameter, units: Iterable<number>) => {
  const d = value.shape.at(-1)!
  const block = config.sinks!.block
  return (data: Float32Array): Float32Array => {
    const parts: Array<Float32Array> = []
    for (const unit of units) {
      for (let row = sinkRow0! + unit * block; row < value.shape[0]!; row += config.pool) {
        parts.push(data.subarray(row * d, (row + block) * d))
      }
    }
    const out = new Float32Array(parts.length * block * d)
    parts.forEach((part, i) => out.set(part, i * block * d))
    return out
  }
}

/** Hugging Face's tensors with the weights of some units replaced. */
const withUnits = (
  config: ModelConfig,
  tensors: Tensors,
  units: ReadonlySet<number>,
  of: (weight: number) => number
): Tensors =>
  Object.fromEntries(
    Object.entries(tensors).map(([name, { data, shape }]) => {
      const kind = /\.mlp\.(gate|up|down)_proj\.weight$/.exec(name)?.[1]
      if (kind === undefined) return [name, { data, shape }]
      const columns = shape[1]!
      return [name, {
        shape,
        data: (data as Float32Array).map((weight, i) => {
          const neuron = kind === "down" ? i % columns : Math.floor(i / columns)
          return units.has(Math.floor((neuron - config.general) / config.sinks!.block)) ? of(weight) : weight
        })
      }]
    })
  )

/** Runs something on another model of these weights, which is gone afterwards. */
const withTwin = <A, E, R>(
  { model }: Subject,
  config: ModelConfig,
  tensors: Tensors,
  use: (twin: ModelService) => Effect.Effect<A, E, R>
) =>
  Effect.scoped(Effect.gen(function*() {
    const { compute } = model.defaults
    const twin = yield* Model.make(config, {
      initialize: false,
      precision: model.precision,
      ...(compute === undefined ? {} : { compute })
    })
    yield* twin.importTensors(tensors)
    return yield* use(twin)
  }))

/** Steps of training on other ids. */
const TAIL = 3

/** What gradients of sinks hold before, as large as AdamW's eps: no pass and no update may take it for theirs. */
const TRACE = 1e-8

/** Gradients of sinks that no id of the batch lights, and what a few steps do to them. */
const training = (subject: Subject): Check =>
  Effect.gen(function*() {
    const device = yield* Device
    const { first, model, optimizer, second, seqLen, sinks, tensors } = subject
    const litFirst = unitsOfRows(sinks, first)
    const litSecond = unitsOfRows(sinks, second)
    const parameters = model.parameters.filter(({ sinkRow0 }) => sinkRow0 !== undefined)
    const pick = (units: Iterable<number>, of: "gradient" | "value") =>
      Effect.forEach(parameters, (parameter) =>
        Effect.map(device.read(parameter[of]),
          (data) => elementsOf(model.config, parameter, units)(data as Float32Array)))
    const never = unlit(sinks, new Set([...litFirst, ...litSecond]))
    const left = unlit(sinks, litSecond).filter((unit) => litFirst.has(unit))

    const tuner = yield* makeTuner({ rows: first.length, seqLen, steps: 1 + TAIL, optimizer })
    const neverBefore = yield* pick(never, "value")
    for (const { gradient } of parameters) {
      device.write(gradient, new Float32Array(gradient.shape.reduce((a, b) => a * b)).fill(TRACE))
    }
    yield* tuner.step(batchOf(first, seqLen))
    const dark = unlit(sinks, litFirst)
    const gradients = yield* pick(dark, "gradient")
    const lit = yield* pick(litFirst, "gradient")
    const leftBefore = yield* pick(left, "value")
    for (let step = 0; step < TAIL; step++) yield* tuner.step(batchOf(second, seqLen))
    const neverAfter = yield* pick(never, "value")
    const leftAfter = yield* pick(left, "value")
    yield* model.importTensors(tensors)

    const traces = gradients.map((one) => new Float32Array(one.length).fill(TRACE))
    const touched = gradients.reduce((sum, one, i) => sum + differingBits(one, traces[i]!), 0)
    // a pass that has them off does not write them: what was there before is no gradient
    const learns = Math.max(...lit.map((one) => largestOf(one.filter((x) => x !== Math.fround(TRACE)))))
    const gradient: HygieneCheck = {
      name: "gradients of unlit sinks",
      passed: touched === 0 && learns > 0,
      value: Math.max(0, ...gradients.map((one, i) => difference(one, traces[i]!))),
      bound: "exactly 0, and not 0 of sinks that are lit",
      detail: dark.length === 0
        ? "the batch lights every sink: none is unlit"
        : `${dark.length} of ${sinks.units} units are unlit; the largest gradient of lit ones is ${round(learns)}`
    }

    // decay alone takes this share of a weight; momentum is the rest of what moves
    let kept = 1
    for (let step = 0; step <= TAIL; step++) {
      kept *= 1 - learningRateAt(optimizer, step, 1 + TAIL) * optimizer.weightDecay
    }
    const moved = (after: ReadonlyArray<Float32Array>, before: ReadonlyArray<Float32Array>, factor: number) =>
      Math.max(0, ...after.map((one, i) => difference(one, before[i]!.map((x) => x * factor))))
    const size = Math.max(1e-30, ...neverBefore.map(largestOf), ...leftBefore.map(largestOf))
    const bits = neverAfter.reduce((sum, one, i) => sum + differingBits(one, neverBefore[i]!), 0) +
      leftAfter.reduce((sum, one, i) => sum + differingBits(one, leftBefore[i]!), 0)
    const beyond = moved(neverAfter, neverBefore, kept) / size
    const lazy = optimizer.sinks === "lazy"
    const tail = moved(leftAfter, leftBefore, 1) / size
    const drift: HygieneCheck = {
      name: "drift of unlit sinks",
      passed: lazy ? bits === 0 : beyond <= 1e-5,
      value: Math.max(tail, moved(neverAfter, neverBefore, 1) / size),
      bound: lazy
        ? "0: a lazy sink moves only when an id of its own is in the batch"
        : "share of the largest weight; sinks that were never lit move by weight decay alone",
      detail: `in ${TAIL} steps on other ids: sinks lit before moved by ${round(tail)} of the largest weight through ` +
        `momentum and decay (${left.length} units), those never lit by ` +
        `${round(moved(neverAfter, neverBefore, 1) / size)} (${never.length} units)` +
        (lazy ? `; ${bits} weights have other bits` : `, ${round(beyond)} of it not by decay`)
    }
    return [gradient, drift]
  })

/** Weights of unlit sinks, made a thousand times larger, change nothing. */
const unread = (subject: Subject): Check =>
  Effect.gen(function*() {
    const { first, model, seqLen, sinks, tensors } = subject
    const units = new Set(unlit(sinks, unitsOfRows(sinks, first)))
    const batch = batchOf(first, seqLen)
    const before = (yield* model.evaluate(batch, Sink.own)).loss
    const poisoned = withUnits(model.config, tensors, units, (weight) => 1000 * weight + 10)
    const after = (yield* withTwin(subject, model.config, poisoned, (twin) => twin.evaluate(batch, Sink.own))).loss
    const bits = differingBits(before, after)
    return [{
      name: "unlit sinks are not read",
      passed: bits === 0,
      value: bits,
      bound: "0 losses change when the weights of sinks that are off do",
      detail: units.size === 0
        ? "the batch lights every sink: none is unlit"
        : `weights of ${units.size} units were replaced; the largest difference is ${round(difference(before, after))}`
    }]
  })

const pruned = (subject: Subject): Check =>
  Effect.gen(function*() {
    const { first, model, seqLen, tensors, tolerance } = subject
    const batch = batchOf(first, seqLen)
    const ours = yield* model.logits(batch, Sink.off)
    const cut = prunedTensors(model.config, tensors)
    const theirs = yield* withTwin(subject, cut.config, cut.tensors, (twin) => twin.logits(batch, Sink.own))
    const off = difference(ours, theirs) / largestOf(ours)
    const bits = differingBits(ours, theirs)
    return [{
      name: "pruned = off",
      passed: off <= tolerance,
      value: off,
      bound: `at most ${tolerance} of the largest logit`,
      detail: bits === 0
        ? `all ${ours.length} logits are the same bits`
        : `${bits} of ${ours.length} logits differ in their last bits: sums are grouped by the width of the layer`
    }]
  })

/** The beginnings of sequences, two by two in a row. */
const packsOf = (rows: ReadonlyArray<Row>, seqLen: number): ReadonlyArray<Pack> => {
  // not a multiple of anything that kernels tile by
  const length = Math.max(1, Math.floor(seqLen / 2) - 1)
  const packs: Array<Pack> = []
  for (let i = 0; i + 1 < rows.length; i += 2) {
    packs.push([rows[i]!, rows[i + 1]!].map(({ id, tokens }) => ({ id, tokens: tokens.slice(0, length + 1) })))
  }
  return packs
}

const packed = (subject: Subject): Check =>
  Effect.gen(function*() {
    const { first, model, second, seqLen, tolerance } = subject
    const packs = packsOf([...first, ...second], seqLen)
    const singles = packs.flat().map((one): Pack => [one])
    const together = packedBatch(packs, packs.length, seqLen, 1)
    const alone = packedBatch(singles, singles.length, seqLen, 1)
    const scored = (batch: Batch, loss: Float32Array) => loss.filter((_, t) => batch.targets[t] !== IGNORE)
    const a = scored(together, (yield* model.evaluate(together, Sink.own)).loss)
    const b = scored(alone, (yield* model.evaluate(alone, Sink.own)).loss)
    const off = difference(a, b) / Math.max(1, largestOf(a))
    const bits = differingBits(a, b)
    return [{
      name: "packed = unpacked",
      passed: a.length === b.length && off <= tolerance,
      value: off,
      bound: `losses differ by at most ${tolerance} of the largest`,
      detail: `${a.length} tokens of two sequences a row; ` +
        (bits === 0 ? "the same bits" : `${bits} differ in their last bits`)
    }]
  })

/** One later token is another: nothing before it changes, nor anything in other documents of its row. */
const causality = (subject: Subject): Check =>
  Effect.gen(function*() {
    const { first, model, second, seqLen } = subject
    const packs = packsOf([...first, ...second], seqLen)
    const batch = packedBatch(packs, packs.length, seqLen, 1)
    const before = yield* model.logits(batch, Sink.own)
    const { vocabSize } = model.config
    const at = (logits: Float32Array, t: number) => logits.subarray(t * vocabSize, (t + 1) * vocabSize)
    let [bits, looked, moved] = [0, 0, 0]
    // in the middle of each of the first row's documents
    const starts = [0, packs[0]![0]!.tokens.length - 1]
    for (const [i, start] of starts.entries()) {
      const place = start + Math.floor((packs[0]![i]!.tokens.length - 1) / 2)
      const tokens = batch.tokens.slice()
      tokens[place] = (tokens[place]! + 1) % vocabSize
      const after = yield* model.logits({ ...batch, tokens }, Sink.own)
      for (let t = 0; t < batch.tokens.length; t++) {
        if (batch.documentStart[t] === start && t >= place) {
          moved += differingBits(at(before, t), at(after, t))
        } else {
          looked++
          bits += differingBits(at(before, t), at(after, t))
        }
      }
    }
    return [{
      name: "causality",
      passed: bits === 0 && moved > 0,
      value: bits,
      bound: "0 logits change before a token that is changed, or in other documents of its row",
      detail: `logits of ${looked} tokens, two documents a row; from the changed token on ${moved} logits changed`
    }]
  })

const determinism = (subject: Subject): Check =>
  Effect.gen(function*() {
    const { first, model, seqLen, tensors } = subject
    const batch = batchOf(first, seqLen)
    const a = yield* model.logits(batch, Sink.own)
    const b = yield* model.logits(batch, Sink.own)
    const bits = differingBits(a, b)
    const loss = (yield* model.evaluate(batch, Sink.own)).loss
    const again = (yield* withTwin(subject, model.config, tensors, (twin) => twin.evaluate(batch, Sink.own))).loss
    const changed = differingBits(loss, again)
    return [
      {
        name: "determinism",
        passed: bits === 0,
        value: bits,
        bound: "0 logits differ when a pass is run again",
        detail: `${a.length} logits`
      },
      {
        name: "export and import",
        passed: changed === 0,
        value: changed,
        bound: "0 losses differ after the weights went through an export",
        detail: `${loss.length} tokens`
      }
    ]
  })

/** An id to delete that shares some sinks with another, not all if that can be; and how many. */
const overlapping = (sinks: Sink.SinkConfig, id: bigint, ids: ReadonlyArray<bigint>) => {
  const units = new Set(Sink.unitsOf(sinks, id))
  let best: { readonly id: bigint; readonly shared: number } | undefined
  for (let i = 0; i < ids.length + 10_000; i++) {
    const other = ids[i] ?? BigInt(i)
    if (other === id) continue
    const shared = common(units, new Set(Sink.unitsOf(sinks, other)))
    if (shared > 0 && shared < units.size) return { id: other, shared }
    if (shared > 0) best = { id: other, shared }
  }
  return best
}

const deletion = (subject: Subject): Check =>
  Effect.gen(function*() {
    const { first, model, second, seqLen, sinks, tensors, tolerance } = subject
    const rows = [...first, ...second]
    const batch = batchOf(rows, seqLen)
    const own = (yield* model.evaluate(batch, Sink.own)).loss
    const ofRow = (loss: Float32Array, r: number) => loss.subarray(r * seqLen, (r + 1) * seqLen)

    // the id of each sequence in turn
    let [bits, spared] = [0, 0]
    for (const { id } of rows) {
      const removed = new Set(Sink.unitsOf(sinks, id))
      const loss = (yield* model.evaluate(batch, { mode: "own", except: [id] })).loss
      rows.forEach((row, r) => {
        if (common(removed, new Set(Sink.unitsOf(sinks, row.id))) > 0) return
        spared++
        bits += differingBits(ofRow(own, r), ofRow(loss, r))
      })
    }
    const disjoint: HygieneCheck = {
      name: "deletion spares disjoint ids",
      passed: bits === 0,
      value: bits,
      bound: "0 losses of sequences change that share no sink with a deleted id",
      detail: spared === 0
        ? `all ${rows.length} ids share sinks with each other: none is disjoint`
        : `${spared} pairs of a deleted id and a sequence`
    }

    const off = (yield* model.evaluate(batch, Sink.off)).loss
    const gone = (yield* model.evaluate(batch, { mode: "own", except: rows.map(({ id }) => id) })).loss
    const left = difference(off, gone) / Math.max(1, largestOf(off))
    const deleted: HygieneCheck = {
      name: "a deleted id is off",
      passed: left <= tolerance,
      value: left,
      bound: `its losses are those with sinks off, within ${tolerance} of the largest`,
      detail: `${differingBits(off, gone)} of ${off.length} losses have other bits`
    }

    // weights that are cut out know nothing of masks
    const victim = rows[0]!
    const other = overlapping(sinks, victim.id, rows.map(({ id }) => id))
    let overlap: HygieneCheck = {
      name: "deletion takes no more than the overlap",
      passed: true,
      value: 0,
      bound: "",
      detail: "no two ids share a sink"
    }
    if (other !== undefined) {
      const units = new Set(Sink.unitsOf(sinks, victim.id))
      const removed = new Set(Sink.unitsOf(sinks, other.id))
      const cut = withUnits(model.config, tensors, new Set([...units].filter((unit) => removed.has(unit))), () => 0)
      const one = batchOf([victim], seqLen)
      const masked = (yield* model.evaluate(one, { mode: "own", except: [other.id] })).loss
      const without = (yield* withTwin(subject, model.config, cut, (twin) => twin.evaluate(one, Sink.own))).loss
      overlap = {
        ...overlap,
        value: difference(masked, without) / Math.max(1, largestOf(without)),
        detail: `a sequence shares ${other.shared} of its ${units.size} units with the deleted id; its loss changes ` +
          `by up to ${round(difference(ofRow(own, 0), masked))} nats; ` +
          `${differingBits(masked, without)} of ${masked.length} losses have other bits`
      }
    }
    return [disjoint, {
      ...overlap,
      passed: overlap.value <= tolerance,
      bound: `losses are those of a model whose shared sinks are cut out, within ${tolerance} of the largest`
    }, deleted]
  })

/** Every check on the device. `training` puts weights back from an export: `determinism` looks at that one before. */
const checks: ReadonlyArray<(subject: Subject) => Check> = [
  determinism,
  training,
  unread,
  pruned,
  packed,
  causality,
  deletion
]

/**
 * All checks on the sink model that is there. Its weights are moved by a few steps of training and put back, also when
 * a check fails. Fails with DataError for a model without sinks, or for sequences of fewer than four ids.
 */
export const hygiene = (
  input: HygieneInput
): Effect.Effect<ReadonlyArray<HygieneCheck>, HygieneError, Device | Model> =>
  Effect.gen(function*() {
    const model = yield* Model
    const { optimizer, seed, seqLen } = input
    const { heldOut = [], repeated, singles = [] } = input.rows
    const { sinks } = model.config
    if (sinks === undefined) return yield* new DataError({ detail: "hygiene is of sinks: the model has none" })
    const all = [...repeated, ...singles, ...heldOut]
    const unfit = all.find(({ tokens }) => tokens.length < 2 || tokens.length > seqLen + 1)
    if (unfit !== undefined) {
      return yield* new DataError({
        detail: `sequence ${unfit.document} has ${unfit.tokens.length} tokens: ` +
          `rows of ${seqLen} take 2 to ${seqLen + 1}`
      })
    }
    const known = new Set<bigint>()
    const byId = all.filter(({ id }) => !known.has(id) && known.add(id) !== undefined)
    if (byId.length < 4) {
      return yield* new DataError({
        detail: `hygiene compares sequences of different ids: 4 at least, got ${byId.length}. Give rows more sequences`
      })
    }
    // few enough that some sinks stay unlit; repeated ones first, which have something to lose
    const size = Math.max(2, Math.min(input.batchSize, Math.floor(byId.length / 2), Math.floor(1 / sinks.probability)))
    const [first, second] = [byId.slice(0, size), byId.slice(size, 2 * size)]
    const own = new Set(repeated.map(({ id }) => id))
    const others = random(seed, "hygiene").shuffle([...known].filter((id) => !own.has(id)))
    const masks = maskChecks(sinks, [...own, ...others], [...own])

    const tensors = yield* model.exportTensors
    const subject: Subject = {
      model,
      sinks,
      tensors,
      first,
      second,
      optimizer,
      seqLen,
      seed,
      tolerance: model.precision === "f16" ? 2e-2 : 1e-5
    }
    const found = yield* Effect.forEach(checks, (check) => Effect.scoped(check(subject))).pipe(
      Effect.onError(() => Effect.ignore(model.importTensors(tensors)))
    )
    return [...found.flat(), ...masks]
  })
