/**
 * A decoder that remembers: its forward pass on the next tokens of some sequences, whose keys and values a cache on the
 * device keeps, in pages. `record` writes Programs with no GPU in sight; a `Session` runs them.
 *
 * Prompts go through in chunks of tokens of any sequences; then comes one token a sequence and step. The two differ in
 * the products: a chunk has rows enough for the kernels of training, a step reads every weight once, as it is stored.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { attempt, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device, type Prepared } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import type { Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { firstNotFinite } from "../HostTensor.ts"
import * as Sink from "../Sink.ts"
import * as Kernels from "./Kernels.ts"
import { kernels } from "./Kernels.ts"
import { Model } from "./Model.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import * as Ops from "./Ops.ts"
import { type Held, makePages, PAGE, type Pages, pagesOf } from "./Pages.ts"
import type { Parameters } from "./Parameters.ts"
import { canGather, gathersAll, type Precision, ropeTable } from "./Pass.ts"
import * as Segments from "./Segments.ts"
import { damagedWeight, overflowAdvice } from "./Soundness.ts"

/** Most tokens of prompts that go through at once: more would need more memory and be no faster. */
export const CHUNK = 512

/** Chunks are as long as they must be, in few sizes, each of which is prepared once. */
const SIZES = [16, 32, 64, 128, 256, CHUNK]

/** Rows of a step at least: fewer cost the same. */
const ROWS = 8

/** Bytes of the logits of all places of a chunk at most: the storage buffer that any adapter has. */
const MOST_LOGITS = 2 ** 27

/** How many sequences decode together, how long they may get, and where their keys and values lie. */
export interface DecodeShape {
  /** Sequences at once. */
  readonly slots: number
  /** Tokens a sequence may have, prompt included. */
  readonly maxLength: number
  /** Pages of the cache, of all sequences. */
  readonly pages: number
  readonly precision: Precision
  /** Compute only the sinks that are on, or the whole pool, masked. */
  readonly gathered: boolean
}

/** What lives as long as the sequences. */
export interface DecodeState {
  readonly shape: DecodeShape
  /** Of each layer: [pages * PAGE, 2 * kvHeads * headSize], keys before values. */
  readonly caches: ReadonlyArray<Tensor.Tensor>
  /** The pages of each slot's sequence, [slots, pagesOf(maxLength)]. */
  readonly pages: Tensor.Tensor
  readonly rope: Tensor.Tensor
  /** What general neurons and units are multiplied with, [slots, 1 + units], as `Segments.gather` and `maskedCoefficients` say. */
  readonly coef: Tensor.Tensor
  /** [slots, Sink.slotsOf], where sinks are gathered. */
  readonly activeUnits: Tensor.Tensor | undefined
  /** What attention's outputs are multiplied with, [slots, heads * headSize], where heads are set aside with sinks. */
  readonly heads: Tensor.Tensor | undefined
  readonly slotCount: Tensor.Tensor
  /** Of the last token that each slot of a chunk was fed, [slots, padded vocabulary]. */
  readonly logits: Tensor.Tensor
}

/** Columns of logits: the vocabulary, filled up. */
const padded = (c: ModelConfig): number => Math.ceil(c.vocabSize / 4) * 4

/** The tensors that decoding keeps from token to token: keys and values, logits, and what is lit for each slot. */
export const makeState = (c: ModelConfig, shape: DecodeShape): DecodeState => {
  const { gathered, maxLength, pages, precision, slots } = shape
  const width = 2 * c.kvHeads * c.headSize
  const units = gathered ? Sink.slotsOf(c.sinks!)! : (c.sinks?.units ?? 0)
  return {
    shape,
    caches: Array.from({ length: c.numHiddenLayers },
      (_, i) => Tensor.make(`layers.${i}.cache`, [pages * PAGE, width], { type: precision })),
    pages: Tensor.make("pages", [slots, pagesOf(maxLength)], { type: "u32" }),
    rope: Tensor.make("rope", [maxLength, c.headSize / 2, 2]),
    coef: Tensor.make("coef", [slots, 1 + units]),
    activeUnits: gathered ? Tensor.make("activeUnits", [slots, units], { type: "u32" }) : undefined,
    heads: c.sinks?.heads === undefined ? undefined : Tensor.make("heads", [slots, c.numAttentionHeads * c.headSize]),
    slotCount: Tensor.make("slotCount", [1], { type: "u32" }),
    logits: Tensor.make("logits", [slots, padded(c)])
  }
}

/** What says which tokens a Program is fed. */
export interface DecodeInputs {
  readonly tokens: Tensor.Tensor
  readonly positions: Tensor.Tensor
  /** Where the list of its sequence's pages begins, and its tokens up to this one; (0, 0) for padding. [n, 2]. */
  readonly span: Tensor.Tensor
  /** The slot of each token. */
  readonly segment: Tensor.Tensor
  /** Of a chunk: its tokens in tiles of one slot each (Segments.tilesOf), and the last token of each slot. */
  readonly tiles: Tensor.Tensor
  readonly last: Tensor.Tensor
}

/** A recorded pass over the last tokens of sequences, with what it reads and what it gives. */
export interface Decode {
  readonly inputs: DecodeInputs
  /** Of each slot's last token: those of the state, and of a step its own, [rows, padded vocabulary]. */
  readonly logits: Tensor.Tensor
  /** Of all tokens of a chunk, where they are asked for, [n, padded vocabulary]. */
  readonly every: Tensor.Tensor | undefined
  readonly program: Program.Program
}

/**
 * What a Program is fed: a chunk of n tokens, of which `every` wants the logits of all, or a step of the first `rows`
 * slots.
 */
export type Part = { readonly n: number; readonly every: boolean } | { readonly rows: number }

/** y = x w^T or x w for few rows; adds to y, or to a residual. Offsets and leading dimensions in elements. */
const matvec = (
  p: Program.Recorder,
  kind: "nt" | "nn",
  v: {
    readonly x: Ops.View
    readonly w: Tensor.Tensor
    readonly w0?: number
    readonly y: Ops.View
    readonly rows: number
    readonly n: number
    readonly k: number
    readonly mode?: "store" | "add" | { readonly residual: Tensor.Tensor; readonly ld: number }
    /** Rows of w that each row of x lights: see matvec.wgsl. */
    readonly sinks?: {
      readonly units: Tensor.Tensor
      readonly slots: number
      readonly block: number
      readonly halfRows: number
    }
  }
): void => {
  const { mode = "store", sinks } = v
  const residual = typeof mode === "object" ? mode : undefined
  const { grid, kernel } = Kernels.matvec(p.target, kind, v.rows, sinks !== undefined)
  /** Along k in `nt`, along columns in `nn`, four elements are one. */
  const fours = (elements: number, grouped: boolean): number => {
    if (!grouped) return elements
    if (elements % 4 !== 0) throw new RangeError(`a product of few rows needs multiples of 4, got ${elements}`)
    return elements / 4
  }
  const nn = kind === "nn"
  p.dispatch(
    kernel,
    {
      x: v.x.tensor,
      w: v.w,
      residual: residual?.residual ?? v.w,
      units: sinks?.units ?? v.w,
      y: v.y.tensor
    },
    {
      rows: v.rows,
      n: fours(v.n, nn),
      k: fours(v.k, !nn),
      mode: mode === "store" ? 0 : mode === "add" ? 1 : 2,
      x0: fours(v.x.at ?? 0, !nn),
      ldx: fours(v.x.ld, !nn),
      w0: v.w0 ?? 0,
      y0: fours(v.y.at ?? 0, nn),
      ldy: fours(v.y.ld, nn),
      ldr: fours(residual?.ld ?? 0, nn),
      slots: sinks?.slots ?? 0,
      block: sinks?.block ?? 1,
      halfRows: sinks?.halfRows ?? 0
    },
    grid(v.n)
  )
}

/** y = x w^T, w [out, in], for few rows; with `residual`, y = residual + x w^T, in f32. */
const linear = (
  p: Program.Recorder,
  x: Tensor.Tensor,
  w: Ops.Parameter,
  rows: number,
  residual?: Tensor.Tensor
): Tensor.Tensor => {
  const [out, input] = w.value.shape as [number, number]
  const y = p.scratch(`${w.name}.y`, [rows, out], residual === undefined ? x.type : "f32")
  matvec(p, "nt", {
    x: { tensor: x, ld: input },
    w: w.value,
    y: { tensor: y, ld: out },
    rows,
    n: out,
    k: input,
    mode: residual === undefined ? "store" : { residual, ld: out }
  })
  return y
}

/** residual + mlp(x) for few rows, each with the sinks of its own slot: row r is slot r. */
const mlp = (
  p: Program.Recorder,
  c: ModelConfig,
  x: Tensor.Tensor,
  residual: Tensor.Tensor,
  weights: { readonly gateUp: Ops.Parameter; readonly down: Ops.Parameter },
  rows: number,
  state: DecodeState,
  segment: Tensor.Tensor
): Tensor.Tensor => {
  const { gateUp, down } = weights
  const d = c.hiddenSize
  const block = c.sinks?.block ?? 1
  const { activeUnits } = state
  const sink = activeUnits === undefined ? c.pool : activeUnits.shape[1]! * block
  const width = c.general + sink
  const plain = activeUnits === undefined ? width : c.general
  const sinks = activeUnits === undefined
    ? undefined
    : { units: activeUnits, slots: sink / block, block, halfRows: c.pool }

  const gu = p.scratch("gate_up", [rows, 2 * width], x.type)
  const gates = { x: { tensor: x, ld: d }, w: gateUp.value, rows, k: d }
  matvec(p, "nt", { ...gates, y: { tensor: gu, ld: 2 * width }, n: 2 * plain })
  if (sinks !== undefined) {
    const at = 2 * c.general
    matvec(p, "nt", { ...gates, w0: at, y: { tensor: gu, at, ld: 2 * width }, n: 2 * sink, sinks })
  }
  const h = p.scratch("hidden", [rows, width], x.type)
  p.dispatch(
    kernels.swiglu(block),
    { gu, coef: state.coef, segment, h },
    { rows, general4: c.general / 4, sink4: sink / 4, coefStride: 1 + sink / block },
    (rows * width) / 4
  )
  const y = p.scratch("mlp", [rows, d])
  const downs = { w: down.value, y: { tensor: y, ld: d }, rows, n: d }
  matvec(p, "nn", { ...downs, x: { tensor: h, ld: width }, k: plain, mode: { residual, ld: d } })
  if (sinks !== undefined) {
    const x = { tensor: h, at: c.general, ld: width }
    matvec(p, "nn", { ...downs, x, w0: c.general, k: sink, mode: "add", sinks })
  }
  return y
}

/**
 * Record the forward pass on a chunk of prompts, any tokens of any slots, or on a step, one token a slot in the slots'
 * order. It appends their keys and values to the caches and leaves the logits of each slot's last token.
 */
export const record = (
  c: ModelConfig,
  parameters: Parameters,
  state: DecodeState,
  part: Part,
  target: Target
): Decode => {
  const { slots, precision: type } = state.shape
  const step = "rows" in part
  const rows = step ? part.rows : part.n
  const logits = step ? Tensor.make("logits", [rows, padded(c)]) : state.logits
  const every = !step && part.every ? Tensor.make("every", [rows, padded(c)]) : undefined
  const u32 = (name: string, ...dims: Array<number>) => Tensor.make(name, dims, { type: "u32" })
  const inputs: DecodeInputs = {
    tokens: u32("tokens", rows),
    positions: u32("positions", rows),
    span: u32("span", rows, 2),
    segment: u32("segment", rows),
    tiles: u32("tiles", Segments.maxTiles(rows, slots, Kernels.tileRows(target)), 4),
    last: u32("last", slots)
  }
  const p = Program.record(step ? `step of ${rows}` : `prompts of ${rows}`, target)
  const { headSize, kvHeads, numAttentionHeads: heads } = c
  const ld = (heads + 2 * kvHeads) * headSize
  const attentionParams = { rows, heads, kvHeads, scale: 1 / Math.sqrt(headSize), head4: headSize / 4 }
  const attend = Kernels.attentionCached(target, headSize)
  const unread = u32("unread", 1)
  const mlpShape: Ops.MlpShape = {
    general: c.general,
    pool: c.pool,
    block: c.sinks?.block ?? 1,
    gathered: state.activeUnits === undefined ? undefined : {
      active: state.activeUnits.shape[1]! * c.sinks!.block,
      maxSegments: slots,
      inputs: {
        activeUnits: state.activeUnits,
        segmentCount: state.slotCount,
        tiles: inputs.tiles,
        // only the backward pass reads these
        segmentRange: unread,
        touchedCount: unread,
        units: unread,
        unitStart: unread,
        uses: unread,
        packed: undefined
      }
    }
  }

  let stream = Ops.embedding(p, parameters.embed, rows, { tokens: inputs.tokens, start: unread, order: unread }).y
  parameters.layers.forEach((layer, i) => {
    p.scope(`layers.${i}`)
    const cache = state.caches[i]!
    const x = Ops.rmsNorm(p, stream, layer.norm1, rows, c.rmsNormEps, type).y
    const qkv = step ? linear(p, x, layer.qkv, rows) : Ops.linear(p, x, layer.qkv, rows).y
    const turned = { positions: inputs.positions, table: state.rope, x: qkv }
    Ops.rope(p, turned, { rows, heads: heads + kvHeads, headSize, ld }, 1)
    const at = { span: inputs.span, pages: state.pages, cache }
    p.dispatch(kernels.cacheAppend, { qkv, ...at }, attentionParams, (rows * kvHeads * headSize) / 2)
    const attended = p.scratch("attention", [rows, heads * headSize], type)
    p.dispatch(
      attend.kernel,
      { qkv, ...at, out: attended },
      attentionParams,
      attend.grid(rows, heads, headSize)
    )
    const out = state.heads === undefined
      ? attended
      : Ops.gateColumns(p, attended, rows, { gate: state.heads, segment: inputs.segment }).y
    const o = step ? linear(p, out, layer.o, rows, stream) : Ops.linear(p, out, layer.o, rows, { residual: stream }).y
    const y = Ops.rmsNorm(p, o, layer.norm2, rows, c.rmsNormEps, type).y
    stream = step
      ? mlp(p, c, y, o, layer, rows, state, inputs.segment)
      : Ops.mlp(p, y, o, layer, rows, mlpShape, { coef: state.coef, segment: inputs.segment }).y
  })
  p.scope("")
  if (every !== undefined) {
    const x = Ops.rmsNorm(p, stream, parameters.norm, rows, c.rmsNormEps, type).y
    Ops.headLogits(p, x, parameters.head, rows, every)
  }
  const lasts = step ? rows : slots
  if (!step) {
    const ends = p.scratch("ends", [slots, c.hiddenSize])
    p.dispatch(
      kernels.embedding,
      { tokens: inputs.last, table: stream, y: ends },
      { rows: slots, n4: c.hiddenSize / 4 },
      slots * (c.hiddenSize / 4)
    )
    stream = ends
  }
  const x = Ops.rmsNorm(p, stream, parameters.norm, lasts, c.rmsNormEps, type).y
  matvec(p, "nt", {
    x: { tensor: x, ld: c.hiddenSize },
    w: parameters.head.value,
    y: { tensor: logits, ld: logits.shape[1]! },
    rows: lasts,
    n: c.vocabSize,
    k: c.hiddenSize
  })
  return { inputs, logits, every, program: p.finish() }
}

// ---------------------------------------------------------------------------------------------------------------
// Running it

/** The next tokens of the sequence in a slot. */
export interface Fed {
  readonly slot: number
  readonly tokens: ArrayLike<number>
  /**
   * Of a prompt: is handed the logits after each of the tokens, the first one's at place 0, before the call returns. Those
   * of the last are summed in another order than those that it returns. They are views that are not to be kept.
   */
  readonly every?: (place: number, logits: Float32Array) => void
}

/** Bytes of a page of the cache in one layer. */
export const pageBytes = (c: ModelConfig, precision: Precision): number =>
  PAGE * 2 * c.kvHeads * c.headSize * (precision === "f16" ? 2 : 4)

/** Sequences that grow in slots. Slots are independent: what one computes does not depend on what the others hold. */
export interface Session {
  readonly slots: number
  readonly maxLength: number
  /** Pages of the cache, and those that sequences hold. */
  readonly pages: Pick<Pages, "count" | "held">
  /** Tokens that a slot holds. */
  readonly length: (slot: number) => number
  /**
   * Empty a slot for a sequence with the sinks of `id`. Sequences in any sparse modes (`Sink.isSparse`) go together; a
   * session for one that is not sparse takes all modes. False, with the slot left empty, where too few pages are free.
   */
  readonly begin: (slot: number, id: bigint, sequence?: Begun) => boolean
  /** Gives a slot's pages back. */
  readonly end: (slot: number) => void
  /**
   * Takes over what is known of the prompt that a slot's sequence shares with earlier ones: keys and values of the same
   * tokens, computed with exactly the same units lit, `within` the same text. Gives the tokens that the slot holds then; it
   * is fed those that follow. Only `prompt` fills pages that are shared, so they are those of a sequence that is alone.
   */
  readonly reuse: (slot: number) => number
  /** What a slot's next page of its prompt will be known by: who waits until an equal one is filled can take that over. */
  readonly next: (slot: number) => string | undefined
  /**
   * Feed tokens to slots, any number each and each slot once; gives the logits that follow the last token of each, f32
   * [vocabSize], in the order given. They are views of memory that the next call leaves alone.
   */
  readonly prompt: (
    fed: ReadonlyArray<Fed>
  ) => Effect.Effect<ReadonlyArray<Float32Array>, DeviceError | KernelError | DataError>
  /** The same for one token a slot, much faster. Its sums are in another order than those of `prompt`. */
  readonly step: (
    fed: ReadonlyArray<Fed>
  ) => Effect.Effect<ReadonlyArray<Float32Array>, DeviceError | KernelError | DataError>
}

/** A sequence as it is begun. */
export interface Begun {
  /** What messages call it. */
  readonly name?: string
  /** Default: the session's. */
  readonly sinks?: Sink.SinkMode
  /** The model's sinks, of which more may be off than the model itself says. Default: as it says. */
  readonly config?: Sink.SinkConfig | undefined
  /** Tokens that it comes to at most, prompt included. Default: the session's `maxLength`. */
  readonly length?: number
  /** Its prompt, of which pages are shared with other sequences `within` the same text. Default: none are. */
  readonly shared?: { readonly prompt: ArrayLike<number>; readonly within: string }
}

/** Slots, lengths and memory of a decoding session. */
export interface SessionOptions {
  readonly slots: number
  /** At most the model's maxPositionEmbeddings. */
  readonly maxLength: number
  /** Pages of the cache, at least those of one sequence. Default: those of as many sequences as there are slots. */
  readonly pages?: number
  /** Of sequences that begin without a mode of their own. Default own. */
  readonly sinks?: Sink.SinkMode
  /**
   * Whether logits that are infinite or not numbers fail a call. Whoever serves sequences of several people looks at the
   * logits of each. Default true.
   */
  readonly checked?: boolean
}

interface Ready extends Decode {
  readonly prepared: Prepared
}

/**
 * Memory and Programs for sequences, until the scope closes. A step makes no GPU object but what carries its commands.
 */
export const open = (
  options: SessionOptions
): Effect.Effect<Session, DeviceError | KernelError | DataError, Device | Model | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const scope = yield* Effect.scope
    const c = model.config
    const { checked: finite = true, maxLength, pages: count, sinks: mode = Sink.own, slots } = options
    if (!(Number.isSafeInteger(slots) && slots > 0 && Number.isSafeInteger(maxLength) && maxLength > 0)) {
      const detail = `generation needs whole numbers of slots and tokens, got ${slots} and ${maxLength}`
      return yield* new DataError({ detail })
    }
    if (maxLength > c.maxPositionEmbeddings) {
      return yield* new DataError({
        detail: `sequences of ${maxLength} tokens exceed the model's maxPositionEmbeddings of ` +
          `${c.maxPositionEmbeddings}`
      })
    }
    if (c.sinks?.heads !== undefined && model.precision !== "f32") {
      return yield* new DataError({
        detail: "heads that are set aside with sinks (sinks.heads) are computed in f32: choose precision f32"
      })
    }
    if (model.slice !== undefined) {
      const detail =
        "ranks share out the sinks of this Model (model.sinks.shards): generate with what the Trainer calls model"
      return yield* new DataError({ detail })
    }
    const each = pagesOf(maxLength)
    if (!(Number.isSafeInteger(count ?? each) && (count ?? each) >= each)) {
      return yield* new DataError({
        detail: `a sequence of ${maxLength} tokens takes ${each} pages, and the cache was to have ${count}`
      })
    }
    const pages = makePages(count ?? slots * each)
    const gathered = canGather(c) && gathersAll(c, mode) && model.defaults.compute !== "masked"
    const state = makeState(c, { slots, maxLength, pages: pages.count, precision: model.precision, gathered })
    yield* device.allocate([
      ...state.caches,
      state.pages,
      state.rope,
      state.coef,
      ...(state.activeUnits === undefined ? [] : [state.activeUnits]),
      ...(state.heads === undefined ? [] : [state.heads]),
      state.slotCount,
      state.logits
    ])
    device.write(state.rope, ropeTable(maxLength, c.headSize, c.ropeTheta))
    device.write(state.slotCount, Uint32Array.of(slots))

    const ready = new Map<string, Ready>()
    const programOf = (part: Part): Effect.Effect<Ready, DeviceError | KernelError> =>
      Effect.suspend(() => {
        const key = JSON.stringify(part)
        const known = ready.get(key)
        if (known !== undefined) return Effect.succeed(known)
        const decode = record(c, model.handles, state, part, device.target)
        const { every, inputs, logits } = decode
        return Effect.gen(function*() {
          yield* device.allocate([
            ...Object.values(inputs),
            ...(logits === state.logits ? [] : [logits]),
            ...(every === undefined ? [] : [every])
          ])
          const made = { ...decode, prepared: yield* device.prepare(decode.program) }
          if ("rows" in part) device.write(inputs.segment, Uint32Array.from({ length: part.rows }, (_, slot) => slot))
          ready.set(key, made)
          return made
        }).pipe(Scope.extend(scope))
      })
    /** Few sizes of steps, each of which is prepared once: a step of some slots does not pay for all. */
    const rowsFor = (used: number): number => {
      let rows = ROWS
      while (rows < used) rows *= 2
      return Math.min(rows, slots)
    }
    yield* programOf({ rows: slots })
    /** Sizes of chunks whose logits are all kept. */
    const everySizes = SIZES.filter((size) => size === SIZES[0] || size * padded(c) * 4 <= MOST_LOGITS)

    const lengths = new Uint32Array(slots)
    const names: Array<string> = []

    const held: Array<Held | undefined> = Array.from(lengths, () => undefined)
    const writePages = (slot: number): void =>
      device.write(state.pages, Uint32Array.from(held[slot]!.pages), slot * each)

    /** What of a slot's sinks is lit, as a text: all that keys and values depend on besides the weights and the tokens. */
    const litOf = (coef: Float32Array, units: Uint32Array | undefined): string =>
      Array.from(coef.keys()).filter((i) => coef[i] !== 0).map((i) =>
        i === 0 || units === undefined ? `${i}:${coef[i]}` : `${1 + units[i - 1]!}:${coef[i]}`
      ).join()

    const end: Session["end"] = (slot) => {
      const there = held[slot]
      held[slot] = undefined
      lengths[slot] = 0
      if (there !== undefined) pages.close(there)
    }

    const begin: Session["begin"] = (slot, id, sequence = {}) => {
      const { length = maxLength, name = `the sequence in slot ${slot}`, shared, sinks = mode } = sequence
      const config = sequence.config ?? c.sinks
      if (gathered && !Sink.isSparse(sinks)) {
        throw new RangeError(`a session for sparse modes of sinks cannot light them by "${sinks.mode}"`)
      }
      end(slot)
      const lit = gathered
        ? Sink.gathered(config!, c.general, sinks, id)
        : {
          units: undefined,
          coef: config === undefined ? Float32Array.of(1) : Sink.coefficients(config, c.general, sinks, id)
        }
      const opened = pages.open(
        shared === undefined ? undefined : `${litOf(lit.coef, lit.units)} ${shared.within}`,
        shared?.prompt ?? [],
        Math.min(length, maxLength)
      )
      if (opened === undefined) return false
      held[slot] = opened
      lengths[slot] = opened.known.length * PAGE
      names[slot] = name
      writePages(slot)
      device.write(state.coef, lit.coef, slot * lit.coef.length)
      if (lit.units !== undefined) device.write(state.activeUnits!, lit.units, slot * lit.units.length)
      if (state.heads !== undefined) {
        const gates = Sink.headGates(config!, { heads: c.numAttentionHeads, headSize: c.headSize }, sinks, id)
        device.write(state.heads, gates, slot * gates.length)
      }
      return true
    }

    const reuse: Session["reuse"] = (slot) => {
      const before = lengths[slot]!
      lengths[slot] = pages.reuse(held[slot]!, before)
      if (lengths[slot] !== before) writePages(slot)
      return lengths[slot]!
    }

    const check = (fed: ReadonlyArray<Fed>): void => {
      const seen = new Set<number>()
      for (const { slot, tokens } of fed) {
        if (!(slot >= 0 && slot < slots) || seen.has(slot)) {
          throw new RangeError(`slot ${slot} is not one of ${slots}, or fed twice`)
        }
        seen.add(slot)
        const room = (held[slot]?.pages.length ?? 0) * PAGE
        if (tokens.length === 0) throw new DataError({ detail: "a prompt needs at least one token" })
        if (lengths[slot]! + tokens.length > Math.min(maxLength, room)) {
          throw new DataError({
            detail: `a sequence of ${lengths[slot]! + tokens.length} tokens was given, there is room for ${
              Math.min(maxLength, room)
            }`
          })
        }
        for (let i = 0; i < tokens.length; i++) {
          if (!(tokens[i]! < c.vocabSize)) {
            throw new DataError({ detail: `token ${tokens[i]} is outside the model's vocabulary of ${c.vocabSize}` })
          }
        }
      }
    }
    const checked = (fed: ReadonlyArray<Fed>): Effect.Effect<void, DataError> => attempt(() => check(fed), DataError)

    const submit = ({ inputs, prepared }: Ready, rows: {
      readonly tokens: Uint32Array
      readonly positions: Uint32Array
      readonly span: Uint32Array
    }): Effect.Effect<void, DeviceError> =>
      attempt(() => {
        device.write(inputs.tokens, rows.tokens)
        device.write(inputs.positions, rows.positions)
        device.write(inputs.span, rows.span)
        device.submit(prepared)
      }, DeviceError)

    const ld = padded(c)
    const readLogits = (logits: Tensor.Tensor) =>
      Effect.map(device.read(logits), (data) => (row: number) =>
        (data as Float32Array).subarray(row * ld, row * ld + c.vocabSize))

    /** Nothing is drawn from logits that are infinite or not numbers. */
    const checkSound = Effect.fnUntraced(function*(logits: ReadonlyArray<Float32Array>, fed: ReadonlyArray<Fed>) {
      if (!finite) return
      const bad = logits.findIndex((of) => firstNotFinite(of) >= 0)
      if (bad < 0) return
      const why = (yield* damagedWeight(device, c, model.parameters)) ?? overflowAdvice(model.precision)
      return yield* new DataError({
        detail: `${names[fed[bad]!.slot]} has no next token: after ` +
          `${lengths[fed[bad]!.slot]} tokens the model's logits are not numbers; ${why}`
      })
    })

    const step: Session["step"] = Effect.fnUntraced(function*(fed) {
      yield* checked(fed)
      const count = rowsFor(1 + fed.reduce((most, { slot }) => Math.max(most, slot), 0))
      const decode = yield* programOf({ rows: count })
      const rows = {
        tokens: new Uint32Array(count),
        positions: new Uint32Array(count),
        span: new Uint32Array(2 * count)
      }
      for (const { slot, tokens } of fed) {
        if (tokens.length !== 1) throw new RangeError(`a step takes one token a slot, got ${tokens.length}`)
        rows.tokens[slot] = tokens[0]!
        rows.positions[slot] = lengths[slot]!++
        rows.span.set([slot * each, lengths[slot]!], 2 * slot)
      }
      yield* submit(decode, rows)
      const of = yield* readLogits(decode.logits)
      const logits = fed.map(({ slot }) => of(slot))
      yield* checkSound(logits, fed)
      return logits
    })

    const prompt: Session["prompt"] = Effect.fnUntraced(function*(fed) {
      yield* checked(fed)
      const results: Array<Float32Array> = fed.map(() => new Float32Array())
      const wanted = fed.some(({ every }) => every !== undefined)
      const sizes = wanted ? everySizes : SIZES
      let [part, at] = [0, 0]
      while (part < fed.length) {
        const left = fed.slice(part).reduce((sum, { tokens }) => sum + tokens.length, -at)
        const n = sizes.find((size) => size >= left) ?? sizes.at(-1)!
        const decode = yield* programOf({ n, every: wanted })
        const asked: Array<
          { readonly row: number; readonly place: number; readonly every: NonNullable<Fed["every"]> }
        > = []
        const rows = { tokens: new Uint32Array(n), positions: new Uint32Array(n), span: new Uint32Array(2 * n) }
        const segment = new Uint32Array(n)
        const last = new Uint32Array(slots)
        const range = new Uint32Array(2 * slots)
        const ended: Array<number> = []
        for (let t = 0; t < n && part < fed.length;) {
          const { every, slot, tokens } = fed[part]!
          const count = Math.min(tokens.length - at, n - t)
          range.set([t, count], 2 * slot)
          for (let i = 0; i < count; i++, t++) {
            if (every !== undefined) asked.push({ row: t, place: at + i, every })
            rows.tokens[t] = tokens[at + i]!
            rows.positions[t] = lengths[slot]!++
            rows.span.set([slot * each, lengths[slot]!], 2 * t)
            segment[t] = slot
          }
          at += count
          if (at < tokens.length) break
          last[slot] = t - 1
          ended.push(part++)
          at = 0
        }
        const tiles = Segments.tilesOf(
          { segment, range, ids: Array.from({ length: slots }, () => 0n) },
          Kernels.tileRows(device.target),
          decode.inputs.tiles.shape[0]!
        )
        device.write(decode.inputs.segment, segment)
        device.write(decode.inputs.last, last)
        device.write(decode.inputs.tiles, tiles)
        yield* submit(decode, rows)
        for (const [slot, one] of held.entries()) {
          if (one !== undefined && range[2 * slot + 1]! > 0 && pages.filled(one, lengths[slot]!)) writePages(slot)
        }
        if (asked.length > 0) {
          const of = yield* readLogits(decode.every!)
          for (const { every, place, row } of asked) every(place, of(row))
        }
        if (ended.length > 0) {
          const of = yield* readLogits(state.logits)
          for (const i of ended) results[i] = of(fed[i]!.slot)
        }
      }
      yield* checkSound(results, fed)
      return results
    })

    return {
      slots,
      maxLength,
      pages,
      length: (slot) => lengths[slot]!,
      begin,
      end,
      reuse,
      next: (slot) => pages.next(held[slot]!, lengths[slot]!),
      prompt,
      step
    }
  })
