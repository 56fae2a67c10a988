/**
 * The table of kernels: every entry point of kernels/*.wgsl with its bindings, its parameters, its constants and the
 * element types it can be compiled for. `Ops.ts` composes them; nothing else knows a kernel by name.
 */
import * as Kernel from "../gpu/Kernel.ts"
import type { Grid } from "../gpu/Program.ts"
import { isGpu, ROW_LANES as ROW, type ShapeClass, type Target } from "../gpu/Target.ts"
import type { ElementType } from "../gpu/Tensor.ts"
import { PAGE } from "./Pages.ts"

const TILE = { WX: 8, WY: 1 }

// What kernels have in common that compute the same, or parts of the same: bindings, element types, parameters.
const attentionSize = { rows: "u32", heads: "u32", kvHeads: "u32", scale: "f32", head4: "u32" } as const
const rmsNormSize = { rows: "u32", n4: "u32", eps: "f32", block: "u32", add: "u32", first: "u32" } as const
const columnsInterface = {
  bindings: { x: "read", y: "write" },
  params: { n: "u32", lanes: "u32", count: "u32", x0: "u32", y0: "u32", stride: "u32" }
} as const
const nearestSize = {
  n: "u32",
  k4: "u32",
  lanes: "u32",
  queries: "u32",
  width: "u32",
  allowed0: "u32",
  best0: "u32"
} as const
const poolShape = { row4: "u32", pool: "u32", block: "u32" } as const
const matmulInterface = {
  bindings: { a: "read", b: "read", residual: "read", tiles: "read", c: "write" },
  types: { A: ["a"], B: ["b"], C: ["c"] },
  params: {
    m: "u32",
    n4: "u32",
    k: "u32",
    mode: "u32",
    a0: "u32",
    lda: "u32",
    b0: "u32",
    ldb4: "u32",
    c0: "u32",
    ldc4: "u32",
    ldr4: "u32",
    segmentStride4: "u32"
  }
} as const
const sinkGradientInterface = {
  bindings: {
    dy: "read",
    x: "read",
    touchedCount: "read",
    units: "read",
    unitStart: "read",
    uses: "read",
    segmentRange: "read",
    dw: "write"
  },
  types: { T: ["dy", "x"] },
  params: {
    touched: "u32",
    n4: "u32",
    block: "u32",
    halves: "u32",
    a0: "u32",
    lda4: "u32",
    active4: "u32",
    ldb4: "u32",
    row0: "u32",
    halfRows: "u32",
    store: "u32"
  }
} as const
const sinkScatterInterface = {
  bindings: {
    packed0: "read",
    packed1: "read",
    touchedCount: "read",
    units: "read",
    unitStart: "read",
    uses: "read",
    dw0: "write",
    dw1: "write"
  },
  params: {
    touched: "u32",
    n4: "u32",
    block: "u32",
    slots: "u32",
    halfPacked: "u32",
    halfRows: "u32",
    halves0: "u32",
    first0: "u32",
    halves1: "u32",
    first1: "u32"
  }
} as const
const packedInterface = {
  bindings: { w: "read", activeUnits: "read", segmentCount: "read", out: "write" },
  types: { Y: ["out"] },
  params: { segments: "u32", slots: "u32", block: "u32", halves: "u32", row0: "u32", halfRows: "u32", n: "u32" }
} as const
const matvecInterface = {
  bindings: { x: "read", w: "read", residual: "read", units: "read", y: "write" },
  types: { X: ["x"], Y: ["y"] },
  params: {
    rows: "u32",
    n: "u32",
    k: "u32",
    mode: "u32",
    x0: "u32",
    ldx: "u32",
    w0: "u32",
    y0: "u32",
    ldy: "u32",
    ldr: "u32",
    slots: "u32",
    block: "u32",
    halfRows: "u32"
  }
} as const
const attentionForwardInterface = {
  bindings: { qkv: "read", documentStart: "read", out: "write", lse: "write" },
  types: { T: ["qkv", "out"] },
  params: attentionSize
} as const
const attentionGradientInterface = {
  bindings: { qkv: "read", documentStart: "read", dout: "read", lse: "read", delta: "read", dqkv: "write" },
  types: { T: ["qkv", "dout", "dqkv"] },
  params: attentionSize
} as const
const cachedAttentionInterface = {
  bindings: { qkv: "read", span: "read", pages: "read", cache: "read", out: "write" },
  types: { T: ["qkv", "cache", "out"] },
  params: attentionSize
} as const
const rmsNormForwardInterface = {
  bindings: { x: "read", w: "read", y: "write", rstd: "write" },
  types: { Y: ["y"] },
  params: rmsNormSize
} as const
const rmsNormBackwardInterface = {
  bindings: { x: "read", w: "read", dy: "read", rstd: "read", dx: "write" },
  types: { Y: ["dy"] },
  params: rmsNormSize
} as const
const logitLossInterface = {
  bindings: { targets: "read", hyper: "read", logits: "write", loss: "write", rank: "write" },
  types: { X: ["logits"] },
  params: { rows: "u32", vocab: "u32", ld4: "u32", first: "u32", train: "u32" }
} as const

/** How a product on matrix units is tiled: 32 `side` rows and columns a workgroup, which stages `step` of k at a time. */
export interface MatrixTiling {
  readonly side: 2 | 4
  readonly step: 16 | 32
  readonly buffers: 1 | 2
}

const tilingConstants = ({ buffers, side, step }: MatrixTiling, turned: boolean) => ({
  WX: 64 * side,
  SIDE: side,
  STEP: step,
  BUFFERS: buffers,
  ...(turned ? { TURNED: 1 } : {})
})

export const kernels = {
  matmulNN: Kernel.make({
    file: "matmul",
    entry: "nn",
    ...matmulInterface,
    constants: TILE
  }),
  matmulTN: Kernel.make({
    file: "matmul",
    entry: "tn",
    ...matmulInterface,
    constants: TILE
  }),
  matmulTiledNN: Kernel.make({
    file: "matmul_tiled",
    entry: "nn",
    ...matmulInterface,
    constants: { WX: 64 }
  }),
  matmulTiledTN: Kernel.make({
    file: "matmul_tiled",
    entry: "tn",
    ...matmulInterface,
    constants: { WX: 64 }
  }),
  /** `turned`: of nn, whose b is then [n, k]. */
  matmulMatrix: (kind: "nn" | "tn", tiling: MatrixTiling, turned = false) =>
    Kernel.make({
      file: "matmul_matrix",
      entry: kind,
      ...matmulInterface,
      types: { C: ["c"] },
      constants: tilingConstants(tiling, turned)
    }),
  /** The same for a part of k each, into sums that `splitSum` adds up. */
  matmulMatrixPart: (kind: "nn" | "tn", tiling: MatrixTiling, turned = false) =>
    Kernel.make({
      file: "matmul_matrix",
      entry: `${kind}_part`,
      bindings: { a: "read", b: "read", partial: "write" },
      params: { m: "u32", n4: "u32", k: "u32", part: "u32", a0: "u32", lda: "u32", b0: "u32", ldb4: "u32" },
      constants: tilingConstants(tiling, turned)
    }),
  splitSum: Kernel.make({
    file: "split_sum",
    entry: "forward",
    bindings: { partial: "read", c: "write" },
    types: { C: ["c"] },
    params: { m: "u32", n4: "u32", parts: "u32", add: "u32", c0: "u32", ldc4: "u32" },
    constants: { WX: ROW }
  }),
  splitSums: Kernel.make({
    file: "split_sum",
    entry: "four",
    bindings: { x0: "read", x1: "read", x2: "read", x3: "read", y0: "write", y1: "write", y2: "write", y3: "write" },
    params: { size0: "u32", row0: "u32", parts0: "u32", first0: "u32", ld0: "u32", size1: "u32", row1: "u32",
      parts1: "u32", first1: "u32", ld1: "u32", size2: "u32", row2: "u32", parts2: "u32", first2: "u32", ld2: "u32",
      size3: "u32", row3: "u32", parts3: "u32", first3: "u32", ld3: "u32" },
    constants: { WX: ROW }
  }),
  /** `nn` stores, adds to C or to the residual by `mode` 0, 1, 2. */
  matmulSubgroup: (kind: "nn" | "tn", subgroupSize: number, mode = 0) =>
    Kernel.make({
      file: subgroupSize === 4 ? "matmul_quad" : "matmul_subgroup",
      entry: kind,
      ...matmulInterface,
      constants: kind === "nn" ? { WX: subgroupSize, MODE: mode } : { WX: subgroupSize }
    }),
  transpose: Kernel.make({
    file: "transpose",
    entry: "forward",
    bindings: { x: "read", y: "write" },
    types: { Y: ["y"] },
    params: { rows: "u32", cols: "u32", in0: "u32", ldi: "u32", out0: "u32", ldo4: "u32" },
    constants: { WX: ROW }
  }),
  cast: Kernel.make({
    file: "cast",
    entry: "forward",
    bindings: { x0: "read", x1: "read", x2: "read", x3: "read", y: "write" },
    types: { Y: ["y"] },
    params: { n0: "u32", n1: "u32", n2: "u32", n3: "u32" },
    constants: { WX: ROW }
  }),
  packRows: Kernel.make({
    file: "sink_pack",
    entry: "rows",
    ...packedInterface,
    constants: { WX: ROW }
  }),
  packTransposed: Kernel.make({
    file: "sink_pack",
    entry: "transposed",
    ...packedInterface,
    constants: { WX: ROW }
  }),
  sinkGradient: Kernel.make({
    file: "sink_gradient",
    entry: "backward",
    ...sinkGradientInterface,
    constants: TILE
  }),
  sinkGradientTiled: Kernel.make({
    file: "sink_gradient_tiled",
    entry: "backward",
    ...sinkGradientInterface,
    constants: { WX: 64 }
  }),
  sinkGradientSubgroup: (subgroupSize: number) =>
    Kernel.make({
      file: subgroupSize === 4 ? "sink_gradient_quad" : "sink_gradient_subgroup",
      entry: "backward",
      ...sinkGradientInterface,
      constants: { WX: subgroupSize }
    }),
  embedding: Kernel.make({
    file: "embedding",
    entry: "forward",
    bindings: { tokens: "read", table: "read", y: "write" },
    params: { rows: "u32", n4: "u32" },
    constants: { WX: ROW }
  }),
  embeddingBackward: Kernel.make({
    file: "embedding",
    entry: "backward",
    bindings: { start: "read", order: "read", dy: "read", dtable: "write" },
    params: { rows: "u32", n4: "u32" },
    constants: { WX: ROW }
  }),
  rmsNorm: Kernel.make({
    file: "rms_norm",
    entry: "forward",
    ...rmsNormForwardInterface,
    constants: { WX: ROW }
  }),
  rmsNormBackwardX: Kernel.make({
    file: "rms_norm",
    entry: "backward_x",
    ...rmsNormBackwardInterface,
    constants: { WX: ROW }
  }),
  rmsNormWide: Kernel.make({
    file: "rms_norm",
    entry: "forward_wide",
    ...rmsNormForwardInterface,
    constants: { WX: 128 }
  }),
  /** Both parts of the gradient. */
  rmsNormBackwardWide: Kernel.make({
    file: "rms_norm",
    entry: "backward_wide",
    bindings: { x: "read", w: "read", dy: "read", rstd: "read", dx: "write", partial: "write" },
    types: { Y: ["dy"] },
    params: rmsNormSize,
    constants: { WX: 128 }
  }),
  rmsNormBackwardWideCopy: Kernel.make({
    file: "rms_norm",
    entry: "backward_wide_copy",
    bindings: { x: "read", w: "read", dy: "read", rstd: "read", dx: "write", partial: "write", copy: "write" },
    types: { Y: ["dy", "copy"] },
    params: rmsNormSize,
    constants: { WX: 128 }
  }),
  rmsNormBackwardW: Kernel.make({
    file: "rms_norm",
    entry: "backward_w",
    bindings: { x: "read", dy: "read", rstd: "read", partial: "write" },
    types: { Y: ["dy"] },
    params: rmsNormSize,
    constants: { WX: ROW }
  }),
  /** `quads`, for heads whose half is a multiple of 4. */
  rope: (sign: 1 | -1, entry: "pairs" | "quads") =>
    Kernel.make({
      file: "rope",
      entry,
      bindings: { positions: "read", table: "read", x: "write" },
      types: { X: ["x"] },
      params: { rows: "u32", heads: "u32", half: "u32", ld: "u32" },
      constants: { WX: ROW, SIGN: sign }
    }),
  attention: Kernel.make({
    file: "attention",
    entry: "forward",
    ...attentionForwardInterface,
    constants: { WX: 8 }
  }),
  attentionDelta: Kernel.make({
    file: "attention",
    entry: "delta",
    bindings: { out: "read", dout: "read", delta: "write" },
    types: { T: ["out", "dout"] },
    params: attentionSize,
    constants: { WX: 8 }
  }),
  attentionBackward: (part: "q" | "kv") =>
    Kernel.make({
      file: "attention",
      entry: `backward_${part}`,
      ...attentionGradientInterface,
      constants: { WX: 8 }
    }),
  attentionSubgroup: (subgroupSize: number) =>
    Kernel.make({
      file: "attention_subgroup",
      entry: "forward",
      ...attentionForwardInterface,
      constants: { WX: subgroupSize }
    }),
  attentionSubgroupBackward: (part: "q" | "kv", subgroupSize: number) =>
    Kernel.make({
      file: "attention_subgroup",
      entry: `backward_${part}`,
      ...attentionGradientInterface,
      constants: { WX: subgroupSize }
    }),
  attentionTiled: Kernel.make({
    file: "attention_tiled",
    entry: "forward",
    ...attentionForwardInterface,
    constants: { WX: 128 }
  }),
  attentionTiledBackward: (part: "q" | "kv") =>
    Kernel.make({
      file: "attention_tiled",
      entry: `backward_${part}`,
      ...attentionGradientInterface,
      constants: { WX: 128 }
    }),
  attentionMatrix: (headSize: number, rows: number) =>
    Kernel.make({
      file: "attention_matrix",
      entry: "forward",
      ...attentionForwardInterface,
      types: {},
      constants: { WX: 4 * rows, HEAD: headSize, SETS: 1 }
    }),
  attentionMatrixBackward: (headSize: number, rows: number) =>
    Kernel.make({
      file: "attention_matrix",
      entry: "backward_kv",
      ...attentionGradientInterface,
      types: {},
      constants: { WX: 4 * rows, HEAD: headSize, SETS: 2 }
    }),
  /** Of queries, with delta, which the others read. */
  attentionMatrixBackwardQ: (headSize: number, rows: number) =>
    Kernel.make({
      file: "attention_matrix",
      entry: "backward_q",
      bindings: {
        qkv: "read",
        documentStart: "read",
        dout: "read",
        lse: "read",
        delta: "write",
        dqkv: "write",
        out: "read"
      },
      params: attentionSize,
      constants: { WX: 4 * rows, HEAD: headSize, SETS: 2 }
    }),
  cacheAppend: Kernel.make({
    file: "attention_cached",
    entry: "append",
    bindings: { qkv: "read", span: "read", pages: "read", cache: "write" },
    types: { T: ["qkv", "cache"] },
    params: attentionSize,
    constants: { WX: ROW, PAGE }
  }),
  attentionCached: Kernel.make({
    file: "attention_cached",
    entry: "forward",
    ...cachedAttentionInterface,
    constants: { WX: 8, PAGE }
  }),
  attentionCachedWide: Kernel.make({
    file: "attention_cached",
    entry: "forward_wide",
    ...cachedAttentionInterface,
    constants: { WX: 128, PAGE }
  }),
  /** `rows` of X (1, 4 or 8) share what is loaded of W. */
  matvec: (kind: "nt" | "nn", rows: number, wide: boolean) =>
    Kernel.make({
      file: "matvec",
      entry: wide ? `${kind}_wide` : kind,
      ...matvecInterface,
      constants: { WX: wide ? 128 : 8, ROWS: rows }
    }),
  matvecSubgroup: (subgroupSize: number) =>
    Kernel.make({
      file: "matvec_subgroup",
      entry: "nt",
      ...matvecInterface,
      constants: { WX: subgroupSize }
    }),
  swiglu: (block: number) =>
    Kernel.make({
      file: "swiglu",
      entry: "forward",
      bindings: { gu: "read", coef: "read", segment: "read", h: "write" },
      types: { T: ["gu", "h"] },
      params: { rows: "u32", general4: "u32", sink4: "u32", coefStride: "u32" },
      constants: { WX: ROW, BLOCK: block }
    }),
  swigluBackward: (block: number) =>
    Kernel.make({
      file: "swiglu",
      entry: "backward",
      bindings: { gu: "read", coef: "read", segment: "read", dh: "read", dgu: "write" },
      types: { T: ["gu", "dh", "dgu"] },
      params: { rows: "u32", general4: "u32", sink4: "u32", coefStride: "u32" },
      constants: { WX: ROW, BLOCK: block }
    }),
  neuronGate: Kernel.make({
    file: "neuron_gate",
    entry: "forward",
    bindings: { h: "read", gate: "read", segment: "read", y: "write" },
    params: { rows: "u32", n4: "u32" },
    constants: { WX: ROW }
  }),
  neuronGateBackward: Kernel.make({
    file: "neuron_gate",
    entry: "backward_gate",
    bindings: { h: "read", dh: "read", segmentRange: "read", dgate: "write" },
    params: { rows: "u32", n4: "u32" },
    constants: { WX: ROW }
  }),
  nearestVectors: Kernel.make({
    file: "nearest",
    entry: "vectors",
    bindings: { codes: "read", scales: "read", allowed: "read", count: "read", query: "read", best: "write" },
    params: nearestSize,
    constants: { WX: ROW }
  }),
  nearestWords: Kernel.make({
    file: "nearest",
    entry: "words",
    bindings: { codes: "read", scales: "read", allowed: "read", count: "read", places: "read", query: "read",
      best: "write" },
    params: nearestSize,
    constants: { WX: ROW }
  }),
  crossEntropy: Kernel.make({
    file: "cross_entropy",
    entry: "forward",
    ...logitLossInterface,
    constants: { WX: 4 }
  }),
  crossEntropyWide: Kernel.make({
    file: "cross_entropy",
    entry: "forward_wide",
    ...logitLossInterface,
    constants: { WX: 256 }
  }),
  scaleRows: Kernel.make({
    file: "scale_rows",
    entry: "forward",
    bindings: { scale: "read", x: "write" },
    types: { X: ["x"] },
    params: { rows: "u32", n4: "u32", first: "u32" },
    constants: { WX: ROW }
  }),
  softCrossEntropy: Kernel.make({
    file: "soft_cross_entropy",
    entry: "forward",
    bindings: { targets: "read", hyper: "read", weights: "read", soft: "read", logits: "write", loss: "write" },
    types: { X: ["logits"] },
    params: { rows: "u32", vocab: "u32", ld4: "u32", first: "u32", train: "u32" },
    constants: { WX: ROW }
  }),
  softCrossEntropyWide: Kernel.make({
    file: "soft_cross_entropy",
    entry: "forward_wide",
    bindings: { targets: "read", hyper: "read", weights: "read", soft: "read", logits: "write", loss: "write" },
    types: { X: ["logits"] },
    params: { rows: "u32", vocab: "u32", ld4: "u32", first: "u32", train: "u32" },
    constants: { WX: 256 }
  }),
  hiddenLoss: Kernel.make({
    file: "hidden_loss",
    entry: "forward",
    bindings: {
      targets: "read",
      hyper: "read",
      weights: "read",
      x: "read",
      hiddenTarget: "read",
      loss: "write",
      dx: "write"
    },
    params: { rows: "u32", n4: "u32" },
    constants: { WX: ROW }
  }),
  hiddenLossWide: Kernel.make({
    file: "hidden_loss",
    entry: "forward_wide",
    bindings: {
      targets: "read",
      hyper: "read",
      weights: "read",
      x: "read",
      hiddenTarget: "read",
      loss: "write",
      dx: "write"
    },
    params: { rows: "u32", n4: "u32" },
    constants: { WX: 256 }
  }),
  tokenRecord: Kernel.make({
    file: "token_record",
    entry: "forward",
    bindings: { targets: "read", schemes: "read", logits: "read", record: "write", rank: "write" },
    params: { rows: "u32", vocab: "u32", ld4: "u32", first: "u32", tokens: "u32", count: "u32" },
    constants: { WX: ROW }
  }),
  tokenRecordWide: Kernel.make({
    file: "token_record",
    entry: "forward_wide",
    bindings: { targets: "read", schemes: "read", logits: "read", record: "write", rank: "write" },
    params: { rows: "u32", vocab: "u32", ld4: "u32", first: "u32", tokens: "u32", count: "u32" },
    constants: { WX: 256 }
  }),
  sum: Kernel.make({
    file: "reduce",
    entry: "sum",
    bindings: { x: "read", partial: "write" },
    params: { n: "u32", lanes: "u32", first: "u32" },
    constants: { WX: ROW }
  }),
  sumOfSquares: Kernel.make({
    file: "reduce",
    entry: "sum_of_squares",
    bindings: { s0: "read", s1: "read", s2: "read", s3: "read", s4: "read", s5: "read", squares: "write" },
    params: {
      n0: "u32",
      lanes0: "u32",
      first0: "u32",
      n1: "u32",
      lanes1: "u32",
      first1: "u32",
      n2: "u32",
      lanes2: "u32",
      first2: "u32",
      n3: "u32",
      lanes3: "u32",
      first3: "u32",
      n4: "u32",
      lanes4: "u32",
      first4: "u32",
      n5: "u32",
      lanes5: "u32",
      first5: "u32"
    },
    constants: { WX: ROW }
  }),
  fold: Kernel.make({
    file: "reduce",
    entry: "fold",
    bindings: { x: "read", partial: "write" },
    params: { n: "u32", lanes: "u32", start: "u32", first: "u32" },
    constants: { WX: 128 }
  }),
  columns: Kernel.make({
    file: "reduce",
    entry: "columns",
    ...columnsInterface,
    constants: { WX: ROW }
  }),
  columnsWide: Kernel.make({
    file: "reduce",
    entry: "columns_wide",
    ...columnsInterface,
    constants: { WX: 64 }
  }),
  finish: Kernel.make({
    file: "reduce",
    entry: "finish",
    bindings: { partial: "read", hyper: "read", stats: "write", history: "write", scaler: "write" },
    params: { n: "u32", first: "u32", adaptive: "u32" }
  }),
  scaleLoss: Kernel.make({
    file: "reduce",
    entry: "scale_loss",
    bindings: { scaler: "read", hyper: "write" }
  }),
  sinkScatter: Kernel.make({
    file: "sink_scatter",
    entry: "backward",
    ...sinkScatterInterface,
    constants: { WX: ROW }
  }),
  zeroTouched: Kernel.make({
    file: "touched",
    entry: "zero",
    bindings: { units: "read", count: "read", g0: "write", g1: "write", g2: "write", g3: "write", g4: "write",
      g5: "write" },
    params: { ...poolShape, row00: "u32", halves0: "u32", row01: "u32", halves1: "u32", row02: "u32", halves2: "u32",
      row03: "u32", halves3: "u32", row04: "u32", halves4: "u32", row05: "u32", halves5: "u32" },
    constants: { WX: ROW }
  }),
  collectTouched: Kernel.make({
    file: "touched",
    entry: "collect",
    bindings: { units: "read", count: "read", s: "read", packed: "write" },
    params: { ...poolShape, row0: "u32", halves: "u32" },
    constants: { WX: ROW }
  }),
  spreadTouched: Kernel.make({
    file: "touched",
    entry: "spread",
    bindings: { units: "read", count: "read", summed: "read", g: "write" },
    params: { ...poolShape, row0: "u32", halves: "u32" },
    constants: { WX: ROW }
  }),
  sumOfSquaresTouched: Kernel.make({
    file: "touched",
    entry: "sum_of_squares",
    bindings: { units: "read", count: "read", s0: "read", s1: "read", s2: "read", s3: "read", s4: "read",
      partial: "write" },
    params: {
      ...poolShape,
      row00: "u32",
      halves0: "u32",
      lanes0: "u32",
      first0: "u32",
      row01: "u32",
      halves1: "u32",
      lanes1: "u32",
      first1: "u32",
      row02: "u32",
      halves2: "u32",
      lanes2: "u32",
      first2: "u32",
      row03: "u32",
      halves3: "u32",
      lanes3: "u32",
      first3: "u32",
      row04: "u32",
      halves4: "u32",
      lanes4: "u32",
      first4: "u32"
    },
    constants: { WX: ROW }
  }),
  adamw: Kernel.make({
    file: "adamw",
    entry: "update",
    bindings: { hyper: "read", stats: "read", touched: "read", g: "read", w: "write", m: "write", v: "write" },
    params: {
      n4: "u32",
      decay: "u32",
      sinks: "u32",
      row4: "u32",
      sinkRow0: "u32",
      pool: "u32",
      block: "u32",
      sinkRate: "f32"
    },
    constants: { WX: ROW }
  }),
  adamwLazy: Kernel.make({
    file: "adamw",
    entry: "update_lazy",
    bindings: {
      hyper: "read",
      stats: "read",
      units: "read",
      g: "read",
      w: "write",
      m: "write",
      v: "write",
      count: "read"
    },
    params: {
      n4: "u32",
      decay: "u32",
      row4: "u32",
      sinkRow0: "u32",
      pool: "u32",
      block: "u32",
      halves: "u32",
      sinkRate: "f32"
    },
    constants: { WX: ROW }
  })
} as const

// ---------------------------------------------------------------------------------------------------------------
// Which of several kernels that compute the same a target gets, and how many invocations it takes.

/** A kernel of an op with several, and its grid. */
export interface Choice<K extends Kernel.Kernel, Size extends ReadonlyArray<unknown>> {
  readonly kernel: K
  readonly grid: (...size: Size) => Grid
}

/** Whether kernels run on matrix units on what has these types: their subgroups are of 32. */
const onMatrixUnits = (target: Target, ...types: ReadonlyArray<ElementType>): boolean =>
  target.family === "tensor" && target.subgroupSize === 32 && types.every((type) => type === "f16")

/** One workgroup of a kernel for each of so many tiles: across, and down where there are two dimensions. */
const workgroups = (kernel: Kernel.Kernel, across: number, down?: number): Grid =>
  down === undefined ? across * kernel.constants["WX"]! : [across * kernel.constants["WX"]!, down]

/** Rows of one tile of matmulNN, which must not straddle two segments (Segments.tilesOf). */
export const tileRows = (target: Target): number =>
  isGpu(target) ? 64 : target.family === "software" ? 4 * target.subgroupSize : 8

/** A tiling, and whether sums over a long k are split where there are few tiles, and added up in a second pass. */
export interface MatrixVariant extends MatrixTiling {
  readonly split: boolean
}

const variant = (side: 2 | 4, buffers: 1 | 2, step: 16 | 32, split = false): MatrixVariant => ({
  side,
  buffers,
  step,
  split
})

/** What `Target.variants` chooses from. Tiles of segments have 64 rows, whatever the variant (tileRows). */
export const matrixVariants = {
  layer: {
    "64": variant(2, 1, 32),
    "64 twice": variant(2, 2, 32),
    "128": variant(4, 1, 32),
    "128 twice": variant(4, 2, 32),
    "128 short twice": variant(4, 2, 16)
  },
  gradient: {
    "64": variant(2, 1, 32),
    "64 split": variant(2, 1, 32, true),
    "64 twice split": variant(2, 2, 32, true),
    "128 twice split": variant(4, 2, 32, true),
    "128 short twice split": variant(4, 2, 16, true)
  },
  head: {
    "64": variant(2, 1, 32),
    "64 split": variant(2, 1, 32, true),
    "64 twice split": variant(2, 2, 32, true),
    "128 twice split": variant(4, 2, 32, true),
    "128 short twice split": variant(4, 2, 16, true)
  },
  segments: { "64": variant(2, 1, 32), "64 twice": variant(2, 2, 32), "64 short twice": variant(2, 2, 16) }
} as const satisfies Record<ShapeClass, Record<string, MatrixVariant>>

/** Until they are timed: what any adapter has the workgroup memory for. */
export const untimed: Readonly<Record<ShapeClass, string>> = { layer: "64", gradient: "64 split", head: "64 split",
  segments: "64" }

/** Bytes of workgroup memory that a tiling takes, at most: where b is turned. */
export const workgroupBytes = ({ buffers, side, step }: MatrixTiling): number =>
  16 * buffers * 2 * 32 * side * (step / 8 + 1)

/** A sum over k this much longer than a product has rows and columns is a head's. */
const LONG = 8

/** The class of a product, by what bounds it. */
const shapeClass = (kind: "nn" | "tn", { k, m, n }: ProductShape, segments: boolean): ShapeClass =>
  segments ? "segments" : kind === "tn" ? "gradient" : k > LONG * Math.max(m, n) ? "head" : "layer"

/** Where `Target.busy` says nothing. */
const BUSY = 640
/** A part of a sum has at least so many steps, and a sum so many parts at most. */
const SPLIT_STEPS = 512
const MOST_PARTS = 16

/** The variant for a product, and how many steps of k a part of its sum has, if it is split. */
const matrixPlan = (target: Target, kind: "nn" | "tn", shape: ProductShape, segments: boolean) => {
  const { k, m, n } = shape
  const busy = target.busy ?? BUSY
  const of: ShapeClass = shapeClass(kind, shape, segments)
  const table: Readonly<Record<string, MatrixVariant>> = matrixVariants[of]
  const chosen = table[target.variants?.[of] ?? ""] ?? table[untimed[of]]!
  const tiles = (side: number) => Math.ceil(m / (32 * side)) * Math.ceil(n / (32 * side))
  // parts are stored as matrices of 16 x 16, of which Dawn asks a buffer to hold one
  const parts = (side: number) =>
    chosen.split && m * n >= 256
      ? Math.max(1, Math.min(MOST_PARTS, Math.ceil(busy / tiles(side)), Math.floor(k / SPLIT_STEPS)))
      : 1
  // a quarter of the tiles, each four times as large, is no gain where multiprocessors are left without one
  const side: 2 | 4 = chosen.side === 4 && tiles(4) * parts(4) < busy / 4 ? 2 : chosen.side
  const count = parts(side)
  return {
    tiling: { ...chosen, side },
    tile: 32 * side,
    part: count === 1 ? undefined : Math.ceil(k / count / 32) * 32
  }
}

/** Rows, columns and steps of a product. */
export interface ProductShape {
  readonly m: number
  readonly n: number
  readonly k: number
}

/**
 * A product on matrix units whose sum over k is split: its kernel and grid, and how many steps of k its `parts` have.
 * Undefined where it is not.
 */
export const matmulParts = (
  target: Target,
  kind: "nn" | "tn",
  types: { readonly a: ElementType; readonly b: ElementType },
  shape: ProductShape,
  turned = false
):
  | (Choice<ReturnType<typeof kernels.matmulMatrixPart>, []> & { readonly part: number; readonly parts: number })
  | undefined =>
{
  if (!onMatrixUnits(target, types.a, types.b)) return undefined
  const { part, tile, tiling } = matrixPlan(target, kind, shape, false)
  if (part === undefined) return undefined
  const kernel = kernels.matmulMatrixPart(kind, tiling, turned)
  const parts = Math.ceil(shape.k / part)
  return {
    kernel,
    part,
    parts,
    grid: () => workgroups(kernel, Math.ceil(shape.n / tile), parts * Math.ceil(shape.m / tile))
  }
}

/** Whether a target's products c = a b^T read b as it lies, without a transposed copy, where a and b are of a type. */
export const readsTurned = (target: Target, type: ElementType): boolean => onMatrixUnits(target, type)

/**
 * c[m, n] = a b; a grid of columns by rows, or by a list of `tiles` of rows where b is one for each segment. `turned`, for
 * what `readsTurned`: c = a b^T.
 */
export const matmulNN = (
  target: Target,
  types: { readonly a: ElementType; readonly b: ElementType },
  mode: number,
  shape: ProductShape,
  segments: boolean,
  turned = false
): Choice<typeof kernels.matmulNN, [m: number, n: number, tiles: number | undefined]> => {
  const matrix = onMatrixUnits(target, types.a, types.b)
  if (turned && !matrix) throw new Error("only kernels of matrix units read their right factor turned")
  if (isGpu(target)) {
    const plan = matrixPlan(target, "nn", shape, segments)
    const kernel = matrix ? kernels.matmulMatrix("nn", plan.tiling, turned) : kernels.matmulTiledNN
    const tile = matrix ? plan.tile : 64
    return { kernel, grid: (m, n, tiles) => workgroups(kernel, Math.ceil(n / tile), tiles ?? Math.ceil(m / tile)) }
  }
  if (target.family === "software") {
    const kernel = kernels.matmulSubgroup("nn", target.subgroupSize, mode)
    const rows = tileRows(target)
    return { kernel, grid: (m, n, tiles) => [Math.ceil(n / 4), tiles ?? Math.ceil(m / rows)] }
  }
  return {
    kernel: kernels.matmulNN,
    grid: (m, n, tiles) => [Math.ceil(n / 8), tiles ?? Math.ceil(m / tileRows(target))]
  }
}

/** c[m, n] += a^T b. */
export const matmulTN = (
  target: Target,
  types: { readonly a: ElementType; readonly b: ElementType },
  shape: ProductShape
): Choice<typeof kernels.matmulTN, [m: number, n: number]> => {
  if (isGpu(target)) {
    const plan = matrixPlan(target, "tn", shape, false)
    const matrix = onMatrixUnits(target, types.a, types.b)
    const kernel = matrix ? kernels.matmulMatrix("tn", plan.tiling) : kernels.matmulTiledTN
    const tile = matrix ? plan.tile : 64
    return { kernel, grid: (m, n) => workgroups(kernel, Math.ceil(n / tile), Math.ceil(m / tile)) }
  }
  if (target.family === "software") {
    const kernel = kernels.matmulSubgroup("tn", target.subgroupSize)
    return { kernel, grid: (m, n) => [Math.ceil(n / 4), Math.ceil(m / 16)] }
  }
  return {
    kernel: kernels.matmulTN,
    grid: (m, n) => [Math.ceil(n / 8), Math.ceil(m / 8)]
  }
}

/** The gradient of `rows` sink neurons (of all touched units, in blocks) of width n. */
export const sinkGradient = (target: Target): Choice<typeof kernels.sinkGradient, [rows: number, n: number]> => {
  // for 16 neurons each, or for 8 where a block has no more: with larger blocks every other one finds no unit
  const sixteens = (kernel: typeof kernels.sinkGradient, columns: number) => ({
    kernel,
    grid: (rows: number, n: number) => workgroups(kernel, Math.ceil(n / columns), rows / 8)
  })
  if (isGpu(target)) return sixteens(kernels.sinkGradientTiled, 64)
  if (target.family === "software") {
    return sixteens(kernels.sinkGradientSubgroup(target.subgroupSize), 4 * target.subgroupSize)
  }
  return { kernel: kernels.sinkGradient, grid: (rows, n) => [Math.ceil(n / 8), rows / 8] }
}

/** A row of a matrix, or a token's logits. */
const rowwise = <K extends Kernel.Kernel>(target: Target, kernel: K, wide: K): Choice<K, [rows: number]> =>
  isGpu(target)
    ? { kernel: wide, grid: (rows) => workgroups(wide, rows) }
    : { kernel, grid: (rows) => rows }

export const rmsNorm = (target: Target): Choice<typeof kernels.rmsNorm, [rows: number]> =>
  rowwise(target, kernels.rmsNorm, kernels.rmsNormWide)

/** Rows that a partial sum of a norm weight's gradient has: on a GPU a workgroup's, of which some hundreds are enough. */
export const normBlock = (target: Target, rows: number): number => (isGpu(target) ? 16 * Math.ceil(rows / 8192) : 32)

/** A workgroup for each block of rows. */
export const byBlock = (kernel: Kernel.Kernel, blocks: number): Grid => workgroups(kernel, blocks)

export const crossEntropy = (target: Target): Choice<typeof kernels.crossEntropy, [rows: number]> =>
  rowwise(target, kernels.crossEntropy, kernels.crossEntropyWide)

export const softCrossEntropy = (target: Target): Choice<typeof kernels.softCrossEntropy, [rows: number]> =>
  rowwise(target, kernels.softCrossEntropy, kernels.softCrossEntropyWide)

export const hiddenLoss = (target: Target): Choice<typeof kernels.hiddenLoss, [rows: number]> =>
  rowwise(target, kernels.hiddenLoss, kernels.hiddenLossWide)

export const tokenRecord = (target: Target): Choice<typeof kernels.tokenRecord, [rows: number]> =>
  rowwise(target, kernels.tokenRecord, kernels.tokenRecordWide)

/** Sums of columns, of which 4 make a lane. */
export const columns = (target: Target): Choice<typeof kernels.columns, [lanes: number]> =>
  rowwise(target, kernels.columns, kernels.columnsWide)

/** Queries (or, for the gradient of keys and values, keys) of some heads; head size in elements. */
type AttentionSize = [tokens: number, heads: number, headSize: number]

const chunked = (tokens: number, heads: number, headSize: number): number => tokens * heads * Math.ceil(headSize / 32)

/** The plain kernel, an invocation for 32 dimensions of a token and head. */
const byInvocation = <K extends Kernel.Kernel>(target: Target, kernel: K): Choice<K, AttentionSize> => ({
  kernel: isGpu(target) ? { ...kernel, constants: { WX: 64 } } : kernel,
  grid: chunked
})

/** A workgroup for so many tokens of a head. */
const tokenTiles = <K extends Kernel.Kernel>(kernel: K, rows = 64): Choice<K, AttentionSize> => ({
  kernel,
  grid: (tokens, heads) => workgroups(kernel, Math.ceil(tokens / rows) * heads)
})

/** Workgroup memory that any adapter has. */
const LEAST_WORKGROUP_BYTES = 16384

/** Rows of a head that a workgroup takes on matrix units: as many as its memory allows; undefined where they do not run. */
const matrixRows = (target: Target, headSize: number, type: ElementType, sets: 1 | 2): number | undefined =>
  onMatrixUnits(target, type) && target.tiledAttention !== true && (headSize === 64 || headSize === 128)
    ? [64, 32].find((rows) =>
      // two tiles, scores and weights; maxima and sums of the invocations, or numbers of 32 queries
      16 * (64 * (headSize / 8 + 1) + sets * rows * 14) + Math.max(32 * rows, 512) <=
        (target.workgroupBytes ?? LEAST_WORKGROUP_BYTES)
    )
    : undefined

/** A subgroup for as many tokens of a head, and for 8 dimensions a lane. */
const tokenSubgroups = <K extends Kernel.Kernel>(kernel: K): Choice<K, AttentionSize> => {
  const lanes = kernel.constants["WX"]!
  return {
    kernel,
    grid: (tokens, heads, headSize) =>
      workgroups(kernel, Math.ceil(tokens / lanes) * heads * Math.ceil(headSize / (8 * lanes)))
  }
}

/** The largest heads that the tiled kernels have registers for: larger ones take the plain kernels. */
const TILED_HEAD = 128

/** `type` is that of queries, keys and values. */
export const attention = (
  target: Target,
  headSize: number,
  type: ElementType
): Choice<typeof kernels.attention, AttentionSize> => {
  const rows = matrixRows(target, headSize, type, 1)
  return rows !== undefined
    ? tokenTiles(kernels.attentionMatrix(headSize, rows), rows)
    : isGpu(target) && headSize <= TILED_HEAD
    ? tokenTiles(kernels.attentionTiled)
    : target.family === "software"
    ? tokenSubgroups(kernels.attentionSubgroup(target.subgroupSize))
    : byInvocation(target, kernels.attention)
}

export const attentionDelta = (target: Target): Choice<typeof kernels.attentionDelta, AttentionSize> => ({
  kernel: isGpu(target) ? { ...kernels.attentionDelta, constants: { WX: 64 } } : kernels.attentionDelta,
  grid: (tokens, heads) => tokens * heads
})

export const attentionBackward = (
  target: Target,
  part: "q" | "kv",
  headSize: number,
  type: ElementType
): Choice<ReturnType<typeof kernels.attentionBackward>, AttentionSize> => {
  const rows = part === "kv" ? matrixRows(target, headSize, type, 2) : undefined
  return rows !== undefined
    ? tokenTiles(kernels.attentionMatrixBackward(headSize, rows), rows)
    : isGpu(target) && headSize <= TILED_HEAD
    ? tokenTiles(kernels.attentionTiledBackward(part))
    : target.family === "software"
    ? tokenSubgroups(kernels.attentionSubgroupBackward(part, target.subgroupSize))
    : byInvocation(target, kernels.attentionBackward(part))
}

/** The gradient of queries where the kernel also finds delta; undefined where `attentionDelta` does, before it. */
export const attentionBackwardQ = (
  target: Target,
  headSize: number,
  type: ElementType
): Choice<ReturnType<typeof kernels.attentionMatrixBackwardQ>, AttentionSize> | undefined => {
  const rows = matrixRows(target, headSize, type, 2)
  return rows === undefined ? undefined : tokenTiles(kernels.attentionMatrixBackwardQ(headSize, rows), rows)
}

/** Attention of `tokens` to a cache. */
export const attentionCached = (
  target: Target,
  headSize: number
): Choice<typeof kernels.attentionCached, AttentionSize> =>
  isGpu(target) && headSize <= 4 * kernels.attentionCachedWide.constants["WX"]!
    ? {
      kernel: kernels.attentionCachedWide,
      grid: (tokens, heads) => workgroups(kernels.attentionCachedWide, tokens * heads)
    }
    : { kernel: kernels.attentionCached, grid: chunked }

/**
 * A product of few rows: y[rows, n] = x w^T (`nt`) or x w (`nn`); n in elements. `alone`: each row has weights of its own.
 * What a row gets does not depend on how many there are.
 */
export const matvec = (
  target: Target,
  kind: "nt" | "nn",
  rows: number,
  alone = false
): Choice<ReturnType<typeof kernels.matvec>, [n: number]> => {
  if (target.family === "software" && kind === "nt" && rows > 1 && !alone) {
    const kernel = kernels.matvecSubgroup(target.subgroupSize)
    return { kernel, grid: (n) => [n, Math.ceil(rows / target.subgroupSize)] }
  }
  const together = alone || rows === 1 ? 1 : rows <= 4 ? 4 : 8
  const wide = isGpu(target)
  const kernel = kernels.matvec(kind, together, wide)
  const groups = Math.ceil(rows / together)
  return {
    kernel,
    grid: (n) => {
      const columns = kind === "nn" ? n / 4 : n
      return wide ? workgroups(kernel, Math.ceil(columns / 4), groups) : [columns, groups]
    }
  }
}
