/**
 * The ops of a decoder. Each records its forward pass into a Program now and returns what records its backward pass, so
 * autodiff is a list of closures walked backwards: no tracer, no graph. Shapes are static. Gradients of parameters are
 * always added to (they are cleared once a step), gradients of activations are written.
 */
import type { Recorder } from "../gpu/Program.ts"
import { isGpu, type Target } from "../gpu/Target.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import type { Sampling } from "../measures/TokenRecords.ts"
import * as Kernels from "./Kernels.ts"
import { kernels } from "./Kernels.ts"

/** A parameter: its value, its gradient, and whether weight decay applies (matrices yes, norms no). */
export interface Parameter {
  readonly name: string
  readonly value: Tensor.Tensor
  readonly gradient: Tensor.Tensor
  readonly decay: boolean
  /** Rows from here on belong to sinks, in halves of `pool` rows; undefined where there are none. */
  readonly sinkRow0: number | undefined
}

/** Takes dy, and where there is one a copy of it in the type of products; returns dx. */
export type TypedBackward = (dy: Tensor.Tensor, copy?: Tensor.Tensor) => Tensor.Tensor

const vec4 = (n: number, what: string): number => {
  if (n % 4 !== 0) throw new RangeError(`${what} must be a multiple of 4, got ${n}`)
  return n / 4
}

/** A matrix inside a tensor: where it begins and how far apart its rows are, in elements. */
export interface View {
  readonly tensor: Tensor.Tensor
  readonly at?: number
  readonly ld: number
  /** As the right factor of `matmulNN` it is [n, k] in place of [k, n]: only where `Kernels.readsTurned`. */
  readonly turned?: true
}

/** The tiles of rows that share a matrix (Segments.tilesOf), and how far apart two segments' matrices are, in elements. */
export interface PerSegment {
  readonly tiles: Tensor.Tensor
  readonly count: number
  readonly stride: number
}

/** The parts [parts, m, n] of a product's sum that are still to be added to c. */
export interface SplitSum {
  readonly partial: Tensor.Tensor
  readonly c: View
  readonly m: number
  readonly n: number
  readonly parts: number
}

/** Adds up parts, of up to four products by one dispatch. */
export const addUp = (p: Recorder, sums: ReadonlyArray<SplitSum>): void => {
  for (let first = 0; first < sums.length; first += 4) {
    const at = (i: number) => {
      const sum = sums[first + i]
      // a kernel must not be given a tensor twice that it writes
      if (sum === undefined) {
        return { x: sums[first]!.partial, y: p.scratch("unused", [4]), size: 0, row: 1, parts: 0, first: 0, ld: 0 }
      }
      const row = vec4(sum.n, "n")
      return {
        x: sum.partial,
        y: sum.c.tensor,
        size: sum.m * row,
        row,
        parts: sum.parts,
        first: vec4(sum.c.at ?? 0, "offset of c"),
        ld: vec4(sum.c.ld, "leading dimension of c")
      }
    }
    const [a, b, c, d] = [at(0), at(1), at(2), at(3)] as const
    p.dispatch(
      kernels.splitSums,
      { x0: a.x, x1: b.x, x2: c.x, x3: d.x, y0: a.y, y1: b.y, y2: c.y, y3: d.y },
      {
        size0: a.size,
        row0: a.row,
        parts0: a.parts,
        first0: a.first,
        ld0: a.ld,
        size1: b.size,
        row1: b.row,
        parts1: b.parts,
        first1: b.first,
        ld1: b.ld,
        size2: c.size,
        row2: c.row,
        parts2: c.parts,
        first2: c.first,
        ld2: c.ld,
        size3: d.size,
        row3: d.row,
        parts3: d.parts,
        first3: d.first,
        ld3: d.ld
      },
      a.size + b.size + c.size + d.size
    )
  }
}

/**
 * A product whose sum is split into parts, which are added up in order, `later` where there is such a list: false where the
 * target does not split it.
 */
const matmulParts = (
  p: Recorder,
  kind: "nn" | "tn",
  x: { readonly a: View; readonly b: View; readonly c: View; readonly m: number; readonly n: number;
    readonly k: number },
  add: boolean,
  later?: Array<SplitSum>
): boolean => {
  const split = Kernels.matmulParts(p.target, kind, { a: x.a.tensor.type, b: x.b.tensor.type }, x, x.b.turned)
  if (split === undefined) return false
  const { k, m, n } = x
  const n4 = vec4(n, "n")
  const partial = p.scratch("partial", [split.parts, m, n])
  // rows of nn's a begin at elements, whose groups of 4 are counted everywhere else
  const unit = kind === "nn" ? 4 : 1
  p.dispatch(
    split.kernel,
    { a: x.a.tensor, b: x.b.tensor, partial },
    {
      m,
      n4,
      k,
      part: split.part,
      a0: unit * vec4(x.a.at ?? 0, "offset of a"),
      lda: unit * vec4(x.a.ld, "leading dimension of a"),
      b0: vec4(x.b.at ?? 0, "offset of b"),
      ldb4: vec4(x.b.ld, "leading dimension of b")
    },
    split.grid()
  )
  if (later !== undefined) {
    later.push({ partial, c: x.c, m, n, parts: split.parts })
    return true
  }
  p.dispatch(
    kernels.splitSum,
    { partial, c: x.c.tensor },
    {
      m,
      n4,
      parts: split.parts,
      add: add ? 1 : 0,
      c0: vec4(x.c.at ?? 0, "offset of c"),
      ldc4: vec4(x.c.ld, "leading dimension of c")
    },
    m * n4
  )
  return true
}

/** c[m,n] (=, += or residual +) a[m,k] b[k,n]; b per segment when asked. */
export const matmulNN = (
  p: Recorder,
  x: {
    readonly a: View
    readonly b: View
    readonly c: View
    readonly m: number
    readonly n: number
    readonly k: number
    readonly mode?: "store" | "add" | { readonly residual: Tensor.Tensor; readonly ld: number }
    readonly perSegment?: PerSegment | undefined
  }
): void => {
  const mode = x.mode ?? "store"
  const residual = typeof mode === "object" ? mode : undefined
  const code = mode === "store" ? 0 : mode === "add" ? 1 : 2
  const types = { a: x.a.tensor.type, b: x.b.tensor.type }
  if (residual === undefined && x.perSegment === undefined && matmulParts(p, "nn", x, mode === "add")) return
  const { grid, kernel } = Kernels.matmulNN(p.target, types, code, x, x.perSegment !== undefined, x.b.turned)
  p.dispatch(
    kernel,
    {
      a: x.a.tensor,
      b: x.b.tensor,
      residual: residual?.residual ?? x.b.tensor,
      tiles: x.perSegment?.tiles ?? x.b.tensor,
      c: x.c.tensor
    },
    {
      m: x.m,
      n4: vec4(x.n, "n"),
      k: x.k,
      mode: code,
      a0: 4 * vec4(x.a.at ?? 0, "offset of a"),
      lda: 4 * vec4(x.a.ld, "leading dimension of a"),
      b0: vec4(x.b.at ?? 0, "offset of b"),
      ldb4: vec4(x.b.ld, "leading dimension of b"),
      c0: vec4(x.c.at ?? 0, "offset of c"),
      ldc4: vec4(x.c.ld, "leading dimension of c"),
      ldr4: vec4(residual?.ld ?? 0, "leading dimension of the residual"),
      segmentStride4: vec4(x.perSegment?.stride ?? 0, "segment stride")
    },
    grid(x.m, x.n, x.perSegment?.count)
  )
}

/** c[m,n] += sum over k rows of a[k,m] b[k,n]; where that is split, `later` takes what is to be added up. */
export const matmulTN = (
  p: Recorder,
  x: { readonly a: View; readonly b: View; readonly c: View; readonly m: number; readonly n: number;
    readonly k: number },
  later?: Array<SplitSum>
): void => {
  if (matmulParts(p, "tn", x, true, later)) return
  const { grid, kernel } = Kernels.matmulTN(p.target, { a: x.a.tensor.type, b: x.b.tensor.type }, x)
  p.dispatch(
    kernel,
    { a: x.a.tensor, b: x.b.tensor, residual: x.b.tensor, tiles: x.b.tensor, c: x.c.tensor },
    {
      m: x.m,
      n4: vec4(x.n, "n"),
      k: x.k,
      mode: 1,
      a0: vec4(x.a.at ?? 0, "offset of a"),
      lda: vec4(x.a.ld, "leading dimension of a"),
      b0: vec4(x.b.at ?? 0, "offset of b"),
      ldb4: vec4(x.b.ld, "leading dimension of b"),
      c0: vec4(x.c.at ?? 0, "offset of c"),
      ldc4: vec4(x.c.ld, "leading dimension of c"),
      ldr4: 0,
      segmentStride4: 0
    },
    grid(x.m, x.n)
  )
}

/** Columns padded to whole groups of four. */
const padded = (n: number): number => Math.ceil(n / 4) * 4

/** The first `rows` rows of a weight [*, cols], transposed into scratch [cols, padded(rows)] of a type. */
const transposed = (p: Recorder, w: Parameter, rows: number, cols: number, type: Tensor.ElementType): View => {
  const ld = padded(rows)
  const tensor = p.scratch(`${w.name}.transposed`, [cols, ld], type)
  p.dispatch(
    kernels.transpose,
    { x: w.value, y: tensor },
    { rows, cols, in0: 0, ldi: cols, out0: 0, ldo4: ld / 4 },
    (ld / 4) * cols
  )
  return { tensor, ld }
}

/** Copies the first `n` elements of one to four f32 tensors into a tensor of another type, one behind the other. */
export const cast = (
  p: Recorder,
  of: ReadonlyArray<{ readonly x: Tensor.Tensor; readonly n: number }>,
  y: Tensor.Tensor
): void => {
  const at = (i: number) => of[i] ?? { x: of[0]!.x, n: 0 }
  const [n0, n1, n2, n3] = [vec4(at(0).n, "n"), vec4(at(1).n, "n"), vec4(at(2).n, "n"), vec4(at(3).n, "n")] as const
  p.dispatch(kernels.cast, { x0: at(0).x, x1: at(1).x, x2: at(2).x, x3: at(3).x, y }, { n0, n1, n2, n3 },
    n0 + n1 + n2 + n3)
}

/** The first rows of an f32 matrix in a type: itself, or a copy in scratch where the type is another. */
const typed = (p: Recorder, x: Tensor.Tensor, rows: number, type: Tensor.ElementType): Tensor.Tensor => {
  if (x.type === type) return x
  const cols = x.shape[1]!
  const y = p.scratch(`${x.name}.${type}`, [rows, cols], type)
  cast(p, [{ x, n: rows * cols }], y)
  return y
}

/** A part of a matrix, in rows and columns. */
export interface Area {
  readonly row: number
  readonly rows: number
  readonly column: number
  readonly columns: number
}

/** The first rows of a weight [rows, cols], as the right factor of products of a type. */
export interface Factor {
  /** w itself: of dy w. */
  readonly plain: () => View
  /** w^T: of x w^T. */
  readonly turned: () => View
}

/**
 * Weights as the right factors of products of a type. Where the target's products read them as they lie, one to four are
 * cast by one dispatch, here; elsewhere each use records its own copy.
 */
export const factors = (
  p: Recorder,
  weights: ReadonlyArray<{ readonly w: Parameter; readonly rows: number }>,
  type: Tensor.ElementType
): ReadonlyArray<Factor> => {
  const cols = ({ value }: Parameter): number => value.shape[1]!
  // what a product writes are whole groups of 4 columns
  if (!Kernels.readsTurned(p.target, type) || weights.some(({ rows }) => rows % 4 !== 0)) {
    return weights.map(({ rows, w }) => ({
      plain: () => ({ tensor: typed(p, w.value, rows, type), ld: cols(w) }),
      turned: () => transposed(p, w, rows, cols(w), type)
    }))
  }
  const sizes = weights.map(({ rows, w }) => rows * cols(w))
  const tensor = p.scratch(`${weights[0]!.w.name}.${type}`, [sizes.reduce((a, b) => a + b, 0)], type)
  cast(p, weights.map(({ w }, i) => ({ x: w.value, n: sizes[i]! })), tensor)
  return weights.map(({ w }, i) => {
    const view = { tensor, at: sizes.slice(0, i).reduce((a, b) => a + b, 0), ld: cols(w) }
    return { plain: () => view, turned: () => ({ ...view, turned: true }) }
  })
}

/**
 * y = x w^T, w [out, in] as Hugging Face stores it; with `residual`, y = residual + x w^T.
 * The backward closure takes dy, returns dx and, to `update` the weight, adds to its gradient.
 *
 * Mixed precision follows the type of x, here and in every op below: products multiply factors of that type, y and dx have
 * it, too, except that the residual stream and its gradient, weights and their gradients are f32.
 */
export const linear = (
  p: Recorder,
  x: Tensor.Tensor,
  w: Parameter,
  tokens: number,
  options: {
    readonly residual?: Tensor.Tensor
    readonly update?: boolean | ReadonlyArray<Area>
    readonly factor?: Factor | undefined
    readonly sums?: Array<SplitSum>
  } = {}
): { readonly y: Tensor.Tensor; readonly backward: TypedBackward } => {
  const { residual, update = true } = options
  const [out, input] = w.value.shape as [number, number]
  const updated = update === true ? [{ row: 0, rows: out, column: 0, columns: input }] : update || []
  const factor = options.factor ?? factors(p, [{ w, rows: out }], x.type)[0]!
  const y = p.scratch(`${w.name}.y`, [tokens, out], residual === undefined ? x.type : "f32")
  matmulNN(p, {
    a: { tensor: x, ld: input },
    b: factor.turned(),
    c: { tensor: y, ld: out },
    m: tokens,
    n: out,
    k: input,
    mode: residual === undefined ? "store" : { residual, ld: out }
  })
  return {
    y,
    backward: (dout, copy) => {
      const dy = copy ?? typed(p, dout, tokens, x.type)
      const dx = p.scratch(`${w.name}.dx`, [tokens, input], x.type)
      matmulNN(p, {
        a: { tensor: dy, ld: out },
        b: factor.plain(),
        c: { tensor: dx, ld: input },
        m: tokens,
        n: input,
        k: out
      })
      for (const { column, columns, row, rows } of updated) {
        matmulTN(p, {
          a: { tensor: dy, at: row, ld: out },
          b: { tensor: x, at: column, ld: input },
          c: { tensor: w.gradient, at: row * input + column, ld: input },
          m: rows,
          n: columns,
          k: tokens
        }, options.sums)
      }
      return dx
    }
  }
}

/** Partial sums of the gradients of norms' weights, which one dispatch adds up where the weights lie together. */
export interface NormSums {
  readonly partial: Tensor.Tensor
  /** Where a weight's begin, in groups of 4. */
  readonly placeOf: (w: Parameter) => number
  /** Records what adds all of them to the weights' gradients. */
  readonly add: () => void
}

/** For at most `count` norms. */
export const normSums = (p: Recorder, count: number, tokens: number, d: number): NormSums => {
  const blocks = Math.ceil(tokens / Kernels.normBlock(p.target, tokens))
  const lanes = vec4(d, "hidden size")
  const partial = p.scratch("norms.partial", [count, blocks, d])
  // gradients come from the last norm to the first: so do the places, in the order of the weights
  const placed: Array<Parameter> = []
  return {
    partial,
    placeOf: (w) => (count - placed.unshift(w)) * blocks * lanes,
    add: () => {
      const { grid, kernel } = Kernels.columns(p.target)
      const sum = (y: Tensor.Tensor, from: number, many: number, y0 = 0, stride = 0) =>
        p.dispatch(
          kernel,
          { x: partial, y },
          { n: blocks, lanes, count: many, x0: (count - placed.length + from) * blocks * lanes, y0, stride },
          grid(many * lanes)
        )
      const first = placed[0]?.gradient.inside
      const stride = first?.whole.shape[1] ?? 0
      const neighbours = first !== undefined &&
        placed.every(({ gradient: { inside } }, i) =>
          inside?.whole === first.whole && inside.at === first.at + 4 * i * stride
        )
      if (neighbours) sum(first.whole, 0, placed.length, first.at / 16, stride / 4)
      else placed.forEach(({ gradient }, i) => sum(gradient, i, 1))
    }
  }
}

/** Writes (or adds to) dx, and dx in the type of dy where there is a `copy`; writes sums of blocks of rows to `partial`. */
export const normGradient = (
  p: Recorder,
  tensors: Readonly<Record<"x" | "w" | "dy" | "rstd" | "dx", Tensor.Tensor>> & {
    readonly partial: Tensor.Tensor | undefined
    /** Only on a GPU, which needs partial sums, too. */
    readonly copy: Tensor.Tensor | undefined
  },
  params: Readonly<Record<"rows" | "n4" | "eps" | "block" | "add" | "first", number>>
): void => {
  const { copy, partial, ...rest } = tensors
  const { dy, rstd, x } = rest
  const { block, n4, rows } = params
  const blocks = Math.ceil(rows / block)
  if (isGpu(p.target) && partial !== undefined) {
    const grid = Kernels.byBlock(kernels.rmsNormBackwardWide, blocks)
    if (copy === undefined) p.dispatch(kernels.rmsNormBackwardWide, { ...rest, partial }, params, grid)
    else p.dispatch(kernels.rmsNormBackwardWideCopy, { ...rest, partial, copy }, params, grid)
    return
  }
  if (partial !== undefined) p.dispatch(kernels.rmsNormBackwardW, { x, dy, rstd, partial }, params, blocks * n4)
  p.dispatch(kernels.rmsNormBackwardX, rest, params, rows)
}

/** y is of `type`. */
export const rmsNorm = (
  p: Recorder,
  x: Tensor.Tensor,
  w: Parameter,
  tokens: number,
  eps: number,
  type: Tensor.ElementType,
  options: { readonly update?: boolean; readonly sums?: NormSums | undefined } = {}
): {
  readonly y: Tensor.Tensor
  /**
   * Takes dy, writes (or adds to) dx and, to `update` w, adds to its gradient: to `sums` where there are some. Returns dx
   * in another type, where the target's kernels leave it for the products that read it next.
   */
  readonly backward: (dy: Tensor.Tensor, dx: Tensor.Tensor, add: boolean) => Tensor.Tensor | undefined
} => {
  const { update = true } = options
  const d = w.value.shape[0]!
  const y = p.scratch(`${w.name}.y`, [tokens, d], type)
  const rstd = p.scratch(`${w.name}.rstd`, [tokens])
  const block = Kernels.normBlock(p.target, tokens)
  const params = { rows: tokens, n4: vec4(d, w.name), eps, block, add: 0, first: 0 }
  const forward = Kernels.rmsNorm(p.target)
  p.dispatch(forward.kernel, { x, w: w.value, y, rstd }, params, forward.grid(tokens))
  return {
    y,
    backward: (dy, dx, add) => {
      const gpu = isGpu(p.target)
      const sums = update ? options.sums ?? normSums(p, 1, tokens, d) : undefined
      // a GPU's kernel has both parts
      const partial = sums?.partial ??
        (gpu ? p.scratch(`${w.name}.partial`, [Math.ceil(tokens / block), d]) : undefined)
      const copy = gpu && type !== dx.type ? p.scratch(`${w.name}.dx.${type}`, [tokens, d], type) : undefined
      const first = sums?.placeOf(w) ?? 0
      normGradient(p, { x, w: w.value, dy, rstd, dx, partial, copy }, { ...params, add: add ? 1 : 0, first })
      if (options.sums === undefined) sums?.add()
      return copy
    }
  }
}

export const embedding = (
  p: Recorder,
  table: Parameter,
  tokens: number,
  inputs: { readonly tokens: Tensor.Tensor; readonly start: Tensor.Tensor; readonly order: Tensor.Tensor }
): { readonly y: Tensor.Tensor; readonly backward: (dy: Tensor.Tensor) => void } => {
  const [vocab, d] = table.value.shape as [number, number]
  const y = p.scratch("embedding", [tokens, d])
  p.dispatch(kernels.embedding, { tokens: inputs.tokens, table: table.value, y }, { rows: tokens, n4: d / 4 },
    tokens * (d / 4))
  return {
    y,
    backward: (dy) =>
      p.dispatch(
        kernels.embeddingBackward,
        { start: inputs.start, order: inputs.order, dy, dtable: table.gradient },
        { rows: vocab, n4: d / 4 },
        vocab * (d / 4)
      )
  }
}

/** Turns the first `heads` heads of every row of `x` [rows, ld] by its position, in place; back with sign -1. */
export const rope = (
  p: Recorder,
  tensors: { readonly positions: Tensor.Tensor; readonly table: Tensor.Tensor; readonly x: Tensor.Tensor },
  shape: { readonly rows: number; readonly heads: number; readonly headSize: number; readonly ld: number },
  sign: 1 | -1
): void => {
  const { headSize, heads, ld, rows } = shape
  const half = headSize / 2
  const quads = half % 4 === 0 && ld % 4 === 0
  p.dispatch(
    kernels.rope(sign, quads ? "quads" : "pairs"),
    tensors,
    { rows, heads, half, ld },
    rows * heads * half / (quads ? 4 : 1)
  )
}

/** The gradient of queries, and delta, each query's and head's product of `out` and `dout`. */
export const attentionBackwardQ = (
  p: Recorder,
  tensors: Readonly<
    Record<"qkv" | "documentStart" | "dout" | "lse" | "delta" | "dqkv" | "out", Tensor.Tensor>
  >,
  params: Readonly<Record<"rows" | "heads" | "kvHeads" | "scale" | "head4", number>>
): void => {
  const { out, ...rest } = tensors
  const { delta, dout, qkv } = rest
  const size = [params.rows, params.heads, 4 * params.head4] as const
  const both = Kernels.attentionBackwardQ(p.target, size[2], qkv.type)
  if (both !== undefined) return p.dispatch(both.kernel, tensors, params, both.grid(...size))
  const products = Kernels.attentionDelta(p.target)
  p.dispatch(products.kernel, { out, dout, delta }, params, products.grid(...size))
  const queries = Kernels.attentionBackward(p.target, "q", size[2], qkv.type)
  p.dispatch(queries.kernel, rest, params, queries.grid(...size))
}

/** Rotates the query and key heads of qkv in place, attends, and returns [tokens, heads * headSize]. */
export const attention = (
  p: Recorder,
  qkv: Tensor.Tensor,
  tokens: number,
  shape: { readonly heads: number; readonly kvHeads: number; readonly headSize: number },
  inputs: { readonly positions: Tensor.Tensor; readonly documentStart: Tensor.Tensor; readonly rope: Tensor.Tensor }
): { readonly y: Tensor.Tensor; readonly backward: (dy: Tensor.Tensor) => Tensor.Tensor } => {
  const { headSize, heads, kvHeads } = shape
  const ld = (heads + 2 * kvHeads) * headSize
  const params = { rows: tokens, heads, kvHeads, scale: 1 / Math.sqrt(headSize), head4: headSize / 4 }
  const turn = (x: Tensor.Tensor, sign: 1 | -1) =>
    rope(p, { positions: inputs.positions, table: inputs.rope, x }, { rows: tokens, heads: heads + kvHeads, headSize,
      ld }, sign)
  turn(qkv, 1)
  const y = p.scratch("attention", [tokens, heads * headSize], qkv.type)
  const lse = p.scratch("lse", [tokens, heads])
  const forward = Kernels.attention(p.target, headSize, qkv.type)
  p.dispatch(
    forward.kernel,
    { qkv, documentStart: inputs.documentStart, out: y, lse },
    params,
    forward.grid(tokens, heads, headSize)
  )
  return {
    y,
    backward: (dout) => {
      const delta = p.scratch("delta", [tokens, heads])
      const dqkv = p.scratch("dqkv", [tokens, ld], qkv.type)
      const tensors = { qkv, documentStart: inputs.documentStart, dout, lse, delta, dqkv }
      attentionBackwardQ(p, { ...tensors, out: y }, params)
      const ofKeys = Kernels.attentionBackward(p.target, "kv", headSize, qkv.type)
      p.dispatch(ofKeys.kernel, tensors, params, ofKeys.grid(tokens, kvHeads, headSize))
      turn(dqkv, -1)
      return dqkv
    }
  }
}

/**
 * y = x times a gate of each column, by segment: x [tokens, width], gate [segments, width], f32. The backward closure takes
 * dy and returns dx.
 */
export const gateColumns = (
  p: Recorder,
  x: Tensor.Tensor,
  tokens: number,
  inputs: { readonly gate: Tensor.Tensor; readonly segment: Tensor.Tensor }
): { readonly y: Tensor.Tensor; readonly backward: (dy: Tensor.Tensor) => Tensor.Tensor } => {
  const width = x.shape[1]!
  const gated = (h: Tensor.Tensor, name: string) => {
    const y = p.scratch(name, [tokens, width])
    p.dispatch(kernels.neuronGate, { h, ...inputs, y }, { rows: tokens, n4: vec4(width, name) }, (tokens * width) / 4)
    return y
  }
  return { y: gated(x, `${x.name}.gated`), backward: (dy) => gated(dy, `${dy.name}.gated`) }
}

/** What the gathered path reads about the batch's sinks. */
export interface GatherInputs {
  readonly activeUnits: Tensor.Tensor
  readonly segmentCount: Tensor.Tensor
  /** Tiles of rows, each of one segment, [maxTiles, 4]: see Segments.tilesOf. */
  readonly tiles: Tensor.Tensor
  readonly segmentRange: Tensor.Tensor
  readonly touchedCount: Tensor.Tensor
  readonly units: Tensor.Tensor
  readonly unitStart: Tensor.Tensor
  readonly uses: Tensor.Tensor
  /** Where blocks are no multiple of 8: how many packed units a batch has, and Segments.packedUnits, written once. */
  readonly packed:
    | { readonly count: Tensor.Tensor; readonly order: Tensor.Tensor; readonly uses: Tensor.Tensor }
    | undefined
}

export interface MlpShape {
  readonly general: number
  readonly pool: number
  /** Sink neurons in the block that a unit stands for; 1 without sinks. */
  readonly block: number
  /**
   * Gathered: only an id's own sinks are computed, packed in `active` columns. Undefined: the whole pool is computed and
   * masked.
   */
  readonly gathered:
    | { readonly active: number; readonly maxSegments: number; readonly inputs: GatherInputs }
    | undefined
  /** Whose rows of the weights' gradients the backward pass adds to. Default: all. */
  readonly update?: { readonly general: boolean; readonly sinks: boolean }
}

/** Neurons whose rows plain products read: all of them when masked, the general ones when the sinks are gathered. */
export const plainNeurons = ({ gathered, general, pool }: MlpShape): number =>
  gathered === undefined ? general + pool : general

/** Gates of one MLP's neurons, one for each segment; its tensors are f32. */
export interface NeuronGate {
  /** [segments, width] */
  readonly gate: Tensor.Tensor
  /** Where the activations before gating are written, [tokens, width]. */
  readonly hidden: Tensor.Tensor
  /** Where the backward pass writes the gates' gradients, [segments, width]; undefined: nowhere. */
  readonly gradient: Tensor.Tensor | undefined
  /** First token and number of tokens of each segment, [segments, 2]. */
  readonly segmentRange: Tensor.Tensor
}

/**
 * The gated MLP with sinks; returns residual + mlp(x). gateUp is [2 * (general + pool), d] with rows gate of the general
 * neurons | up of the general | gate of the pool | up of the pool; down is neuron-major, [general + pool, d].
 * With `gates`, which need the masked path, each neuron is multiplied by a gate of its own behind its coefficient.
 */
export const mlp = (
  p: Recorder,
  x: Tensor.Tensor,
  residual: Tensor.Tensor,
  weights: { readonly gateUp: Parameter; readonly down: Parameter },
  tokens: number,
  shape: MlpShape,
  inputs: { readonly coef: Tensor.Tensor; readonly segment: Tensor.Tensor },
  options: {
    readonly gates?: NeuronGate | undefined
    readonly factors?: readonly [gateUp: Factor, down: Factor]
    readonly sums?: Array<SplitSum>
  } = {}
): { readonly y: Tensor.Tensor; readonly backward: TypedBackward } => {
  const { block, gathered, general, pool, update = { general: true, sinks: true } } = shape
  const { down, gateUp } = weights
  const { gates } = options
  const d = down.value.shape[1]!
  const sink = gathered === undefined ? pool : gathered.active
  const width = general + sink
  const plain = plainNeurons(shape)
  const [ofGateUp, ofDown] = options.factors ??
    factors(p, [{ w: gateUp, rows: 2 * plain }, { w: down, rows: plain }], x.type) as [Factor, Factor]

  /** An id's sinks of one weight, packed per segment: as rows [halves * active, d] or transposed. */
  const pack = (w: Parameter, halves: 1 | 2, row0: number,
    form: "rows" | "transposed"): { view: View; per: PerSegment } =>
  {
    const g = gathered!
    const columns = halves * g.active
    const shape = form === "rows" ? [g.maxSegments, columns, d] : [g.maxSegments, d, columns]
    const tensor = p.scratch(`${w.name}.packed`, shape, x.type)
    p.dispatch(
      form === "rows" ? kernels.packRows : kernels.packTransposed,
      { w: w.value, activeUnits: g.inputs.activeUnits, segmentCount: g.inputs.segmentCount, out: tensor },
      { segments: g.maxSegments, slots: g.active / block, block, halves, row0, halfRows: pool, n: d },
      (g.maxSegments * columns * d) / 4
    )
    return {
      view: { tensor, ld: form === "rows" ? d : columns },
      per: { tiles: g.inputs.tiles, count: g.inputs.tiles.shape[0]!, stride: columns * d }
    }
  }
  /** The same as right factors: packed once where products read them as they lie, else once for each use. */
  const sinksOf = (w: Parameter, halves: 1 | 2, row0: number) => {
    const rows = gathered !== undefined && Kernels.readsTurned(p.target, x.type)
      ? pack(w, halves, row0, "rows")
      : undefined
    return {
      plain: () => rows ?? pack(w, halves, row0, "rows"),
      turned: () =>
        rows === undefined
          ? pack(w, halves, row0, "transposed")
          : { ...rows, view: { ...rows.view, turned: true as const } }
    }
  }
  const gateUpSinks = sinksOf(gateUp, 2, 2 * general)
  const downSinks = sinksOf(down, 1, general)
  const touched = gathered === undefined
    ? 0
    : Math.min(pool / block, gathered.maxSegments * (gathered.active / block))
  /** Adds to the gradient of a weight's sinks; where those lie alone in the pool, returns it packed instead, to scatter. */
  const sinkGradient = (w: Parameter, halves: 1 | 2, row0: number, dy: Tensor.Tensor, a0: number, ld: number,
    b: Tensor.Tensor): Tensor.Tensor | undefined =>
  {
    const g = gathered!
    const { packed, segmentRange, touchedCount, unitStart, units, uses } = g.inputs
    const { grid, kernel } = Kernels.sinkGradient(p.target)
    const add = (
      dw: Tensor.Tensor,
      of: Pick<GatherInputs, "touchedCount" | "units" | "unitStart" | "uses">,
      at: { readonly touched: number; readonly block: number; readonly row0: number; readonly halfRows: number }
    ) =>
      p.dispatch(
        kernel,
        {
          dy,
          x: b,
          touchedCount: of.touchedCount,
          units: of.units,
          unitStart: of.unitStart,
          uses: of.uses,
          segmentRange,
          dw
        },
        {
          touched: at.touched,
          n4: d / 4,
          block: at.block,
          halves,
          a0: a0 / 4,
          lda4: ld / 4,
          active4: g.active / 4,
          ldb4: d / 4,
          row0: at.row0,
          halfRows: at.halfRows,
          store: packed === undefined ? 0 : 1
        },
        grid(at.touched * halves * at.block, d)
      )
    if (packed === undefined) {
      add(w.gradient, { touchedCount, units, unitStart, uses }, { touched, block, row0, halfRows: pool })
      return undefined
    }
    const rows = g.maxSegments * g.active
    const gradient = p.scratch(`${w.name}.packed.gradient`, [halves * rows, d])
    const own = { touchedCount: packed.count, units: packed.order, unitStart: packed.order, uses: packed.uses }
    add(gradient, own, { touched: rows / 16, block: 16, row0: 0, halfRows: rows })
    return gradient
  }

  /** Adds the packed gradients of both weights' sinks where they belong. */
  const scatter = (ofGateUp: Tensor.Tensor, ofDown: Tensor.Tensor): void => {
    const { active, inputs, maxSegments } = gathered!
    const { touchedCount, unitStart, units, uses } = inputs
    p.dispatch(
      kernels.sinkScatter,
      {
        packed0: ofGateUp,
        packed1: ofDown,
        touchedCount,
        units,
        unitStart,
        uses,
        dw0: gateUp.gradient,
        dw1: down.gradient
      },
      {
        touched,
        n4: d / 4,
        block,
        slots: active / block,
        halfPacked: maxSegments * active,
        halfRows: pool,
        halves0: 2,
        first0: 2 * general,
        halves1: 1,
        first1: general
      },
      (touched * 3 * block * d) / 4
    )
  }

  /** Adds a^T b to the gradient's rows of the neurons that plain matmuls cover, of which some may not be asked for. */
  const plainGradient = (w: Parameter, halves: 1 | 2, a: View, b: Tensor.Tensor): void => {
    const first = update.general ? 0 : halves * general
    const end = update.sinks ? halves * plain : halves * general
    if (end <= first) return
    matmulTN(p, {
      a: { ...a, at: first },
      b: { tensor: b, ld: d },
      c: { tensor: w.gradient, at: first * d, ld: d },
      m: end - first,
      n: d,
      k: tokens
    }, options.sums)
  }

  /** Multiplies activations, or their gradients, by the gates. */
  const gated = (h: Tensor.Tensor, name: string): Tensor.Tensor => {
    if (gates === undefined) return h
    const y = p.scratch(name, [tokens, width])
    p.dispatch(
      kernels.neuronGate,
      { h, gate: gates.gate, segment: inputs.segment, y },
      { rows: tokens, n4: width / 4 },
      (tokens * width) / 4
    )
    return y
  }

  const gu = p.scratch("gate_up", [tokens, 2 * width], x.type)
  matmulNN(p, {
    a: { tensor: x, ld: d },
    b: ofGateUp.turned(),
    c: { tensor: gu, ld: 2 * width },
    m: tokens,
    n: 2 * plain,
    k: d
  })
  if (gathered !== undefined) {
    const packed = gateUpSinks.turned()
    matmulNN(p, {
      a: { tensor: x, ld: d },
      b: packed.view,
      c: { tensor: gu, at: 2 * general, ld: 2 * width },
      m: tokens,
      n: 2 * sink,
      k: d,
      perSegment: packed.per
    })
  }
  const hidden = gates?.hidden ?? p.scratch("hidden", [tokens, width], x.type)
  const coefStride = 1 + sink / block
  const swiglu = { rows: tokens, general4: general / 4, sink4: sink / 4, coefStride }
  p.dispatch(kernels.swiglu(block), { gu, coef: inputs.coef, segment: inputs.segment, h: hidden }, swiglu,
    (tokens * width) / 4)
  const h = gated(hidden, "hidden.gated")
  const y = p.scratch("mlp", [tokens, d])
  matmulNN(p, {
    a: { tensor: h, ld: width },
    b: ofDown.plain(),
    c: { tensor: y, ld: d },
    m: tokens,
    n: d,
    k: plain,
    mode: { residual, ld: d }
  })
  if (gathered !== undefined) {
    const packed = downSinks.plain()
    matmulNN(p, {
      a: { tensor: h, at: general, ld: width },
      b: packed.view,
      c: { tensor: y, ld: d },
      m: tokens,
      n: d,
      k: sink,
      mode: "add",
      perSegment: packed.per
    })
  }
  return {
    y,
    backward: (dout, copy) => {
      const dy = copy ?? typed(p, dout, tokens, x.type)
      const dh = p.scratch("dhidden", [tokens, width], x.type)
      matmulNN(p, {
        a: { tensor: dy, ld: d },
        b: ofDown.turned(),
        c: { tensor: dh, ld: width },
        m: tokens,
        n: plain,
        k: d
      })
      plainGradient(down, 1, { tensor: h, ld: width }, dy)
      let downGradient: Tensor.Tensor | undefined
      if (gathered !== undefined) {
        const packed = downSinks.turned()
        matmulNN(p, {
          a: { tensor: dy, ld: d },
          b: packed.view,
          c: { tensor: dh, at: general, ld: width },
          m: tokens,
          n: sink,
          k: d,
          perSegment: packed.per
        })
        if (update.sinks) downGradient = sinkGradient(down, 1, general, h, general, width, dy)
      }
      if (gates?.gradient !== undefined) {
        const [segments] = gates.gate.shape as [number, number]
        p.dispatch(
          kernels.neuronGateBackward,
          { h: hidden, dh, segmentRange: gates.segmentRange, dgate: gates.gradient },
          { rows: segments, n4: width / 4 },
          (segments * width) / 4
        )
      }
      const dhidden = gated(dh, "dhidden.gated")
      const dgu = p.scratch("dgate_up", [tokens, 2 * width], x.type)
      p.dispatch(
        kernels.swigluBackward(block),
        { gu, coef: inputs.coef, segment: inputs.segment, dh: dhidden, dgu },
        swiglu,
        (tokens * width) / 4
      )
      const dx = p.scratch("mlp.dx", [tokens, d], x.type)
      matmulNN(p, {
        a: { tensor: dgu, ld: 2 * width },
        b: ofGateUp.plain(),
        c: { tensor: dx, ld: d },
        m: tokens,
        n: d,
        k: 2 * plain
      })
      plainGradient(gateUp, 2, { tensor: dgu, ld: 2 * width }, x)
      if (gathered !== undefined) {
        const packed = gateUpSinks.plain()
        matmulNN(p, {
          a: { tensor: dgu, at: 2 * general, ld: 2 * width },
          b: packed.view,
          c: { tensor: dx, ld: d },
          m: tokens,
          n: d,
          k: 2 * sink,
          mode: "add",
          perSegment: packed.per
        })
        const gateUpGradient = update.sinks
          ? sinkGradient(gateUp, 2, 2 * general, dgu, 2 * general, 2 * width, x)
          : undefined
        if (gateUpGradient !== undefined && downGradient !== undefined) scatter(gateUpGradient, downGradient)
      }
      return dx
    }
  }
}

/** Logits of one chunk stay below this many bytes: a GPU fills itself with large products only. */
export const logitsBytes = (target: Target): number => (isGpu(target) ? 512 : 64) * 2 ** 20

/** Rows of a chunk of logits that take so many bytes each; on a GPU of as many chunks as are needed, all but equal. */
const chunkRows = (target: Target, tokens: number, rowBytes: number, most = logitsBytes(target)): number => {
  const rows = Math.max(8, Math.min(tokens, Math.floor(most / rowBytes / 8) * 8))
  return isGpu(target) ? Math.min(rows, Math.ceil(tokens / Math.ceil(tokens / rows) / 64) * 64) : rows
}

/**
 * Head and cross entropy, a chunk of tokens at a time so that the logits of all tokens never exist at once. Writes loss and
 * rank per token. With `train`, returns the gradient of x, scaled by hyper[GRADIENT_SCALE] and, where there are `weights`, by
 * each token's own; and adds the head's gradient to `update` it. With a distribution for each token in `soft` it is the
 * cross entropy with that, which needs weights and writes no ranks.
 */
export const headLoss = (
  p: Recorder,
  x: Tensor.Tensor,
  head: Parameter,
  tokens: number,
  io: {
    readonly targets: Tensor.Tensor
    readonly hyper: Tensor.Tensor
    readonly loss: Tensor.Tensor
    readonly rank: Tensor.Tensor
    /** What each token's gradient is multiplied with, [tokens]. */
    readonly weights: Tensor.Tensor | undefined
    /** [tokens, padded vocabulary] */
    readonly soft: Tensor.Tensor | undefined
  },
  options: { readonly train: boolean; readonly update: boolean; readonly chunkBytes?: number }
): Tensor.Tensor | undefined => {
  const [vocab, d] = head.value.shape as [number, number]
  const ld = padded(vocab)
  const rowBytes = ld * (isGpu(p.target) && x.type === "f16" ? 2 : 4)
  const chunk = chunkRows(p.target, tokens, rowBytes, options.chunkBytes)
  const factor = factors(p, [{ w: head, rows: vocab }], x.type)[0]!
  const weight = factor.turned()
  const rowsOfHead = options.train ? factor.plain() : undefined
  const entropy = Kernels.crossEntropy(p.target)
  const dx = options.train ? p.scratch("head.dx", [tokens, d], x.type) : undefined
  for (let first = 0; first < tokens; first += chunk) {
    const rows = Math.min(chunk, tokens - first)
    const logits = p.scratch("logits", [rows, ld], x.type)
    matmulNN(p, {
      a: { tensor: x, at: first * d, ld: d },
      b: weight,
      c: { tensor: logits, ld },
      m: rows,
      n: ld,
      k: d
    })
    const { hyper, loss, rank, soft, targets, weights } = io
    const params = { rows, vocab, ld4: ld / 4, first, train: options.train ? 1 : 0 }
    if (soft !== undefined) {
      const { grid, kernel } = Kernels.softCrossEntropy(p.target)
      p.dispatch(kernel, { targets, hyper, weights: weights!, soft, logits, loss }, params, grid(rows))
    } else {
      p.dispatch(entropy.kernel, { targets, hyper, logits, loss, rank }, params, entropy.grid(rows))
    }
    if (dx === undefined || rowsOfHead === undefined) continue
    if (weights !== undefined && soft === undefined) {
      p.dispatch(kernels.scaleRows, { scale: weights, x: logits }, { rows, n4: ld / 4, first }, rows * (ld / 4))
    }
    matmulNN(p, {
      a: { tensor: logits, ld },
      b: rowsOfHead,
      c: { tensor: dx, at: first * d, ld: d },
      m: rows,
      n: d,
      k: vocab
    })
    if (!options.update) continue
    matmulTN(p, {
      a: { tensor: logits, ld },
      b: { tensor: x, at: first * d, ld: d },
      c: { tensor: head.gradient, ld: d },
      m: vocab,
      n: d,
      k: rows
    })
  }
  return dx
}

/**
 * The mean squared distance of a residual stream [tokens, d] to a target: writes the loss per token and returns the
 * gradient of x, scaled by hyper[GRADIENT_SCALE] and each token's weight.
 */
export const hiddenLoss = (
  p: Recorder,
  x: Tensor.Tensor,
  tokens: number,
  io: {
    readonly targets: Tensor.Tensor
    readonly hyper: Tensor.Tensor
    readonly weights: Tensor.Tensor
    readonly hiddenTarget: Tensor.Tensor
    readonly loss: Tensor.Tensor
  }
): Tensor.Tensor => {
  const d = x.shape[1]!
  const dx = p.scratch("hidden_loss.dx", [tokens, d])
  const { hiddenTarget, hyper, loss, targets, weights } = io
  const { grid, kernel } = Kernels.hiddenLoss(p.target)
  p.dispatch(
    kernel,
    { targets, hyper, weights, x, hiddenTarget, loss, dx },
    { rows: tokens, n4: vec4(d, "hidden size") },
    grid(tokens)
  )
  return dx
}

/** Logits of all tokens, [tokens, padded vocabulary]: for generation and comparison, where few tokens are asked for. */
export const headLogits = (p: Recorder, x: Tensor.Tensor, head: Parameter, tokens: number,
  logits: Tensor.Tensor): void =>
{
  const [vocab, d] = head.value.shape as [number, number]
  const ld = logits.shape[1]!
  matmulNN(p, {
    a: { tensor: x, ld: d },
    b: factors(p, [{ w: head, rows: vocab }], x.type)[0]!.turned(),
    c: { tensor: logits, ld },
    m: tokens,
    n: ld,
    k: d
  })
}

/** Places of the numbers of a record before those of the schemes, each a row of `record`. */
export const RECORD_FIELDS = ["logProb", "mean", "variance", "massAbove", "margin"] as const

/** As many of the largest logits are kept: the most that a scheme's top k can be. */
export const RECORD_LARGEST = 40

/** What the device says of a scheme under which the token is never drawn; it has no infinities to rely on. */
export const RECORD_NEVER = Math.fround(-3.4e38)

/** Sampling schemes as the kernel reads them, four numbers each: 1 / temperature, top k or 0, top p or 0, unused. */
export const encodeSchemes = (schemes: ReadonlyArray<Sampling>): Float32Array =>
  Float32Array.from(schemes.flatMap(({ temperature, topK = 0, topP = 0 }) => [1 / temperature, topK, topP, 0]))

/**
 * Head and token records, a chunk of tokens at a time. Logits are f32 whatever the activations are: records outlive
 * the precision of a training.
 */
export const headRecords = (
  p: Recorder,
  x: Tensor.Tensor,
  head: Parameter,
  tokens: number,
  io: {
    readonly targets: Tensor.Tensor
    /** [schemes, 4], see encodeSchemes. */
    readonly schemes: Tensor.Tensor
    /** [RECORD_FIELDS and schemes, tokens] */
    readonly record: Tensor.Tensor
    readonly rank: Tensor.Tensor
  },
  chunkBytes?: number
): void => {
  const [vocab, d] = head.value.shape as [number, number]
  const ld = padded(vocab)
  const chunk = chunkRows(p.target, tokens, ld * 4, chunkBytes)
  const weight = factors(p, [{ w: head, rows: vocab }], x.type)[0]!.turned()
  const count = io.record.shape[0]! - RECORD_FIELDS.length
  const { grid, kernel } = Kernels.tokenRecord(p.target)
  for (let first = 0; first < tokens; first += chunk) {
    const rows = Math.min(chunk, tokens - first)
    const logits = p.scratch("logits", [rows, ld])
    matmulNN(p, { a: { tensor: x, at: first * d, ld: d }, b: weight, c: { tensor: logits, ld }, m: rows, n: ld, k: d })
    p.dispatch(
      kernel,
      { targets: io.targets, schemes: io.schemes, logits, record: io.record, rank: io.rank },
      { rows, vocab, ld4: ld / 4, first, tokens, count },
      grid(rows)
    )
  }
}
