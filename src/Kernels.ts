/**
 * The table of kernels: every entry point of kernels/*.wgsl with its bindings, its parameters, its constants and the
 * element types it can be compiled for. `Ops.ts` composes them; nothing else knows a kernel by name.
 */
import * as Kernel from "./gpu/Kernel.ts"

/** Invocations a workgroup: one subgroup of a software adapter, where more only adds overhead. */
const ROW = 16
const TILE = { WX: 8, WY: 1 }

export const kernels = {
  matmulNN: Kernel.make({
    file: "matmul",
    entry: "nn",
    bindings: { a: "read", b: "read", residual: "read", segmentOf: "read", c: "write" },
    types: { A: ["a"], B: ["b"], C: ["c"] },
    params: {
      m: "u32", n4: "u32", k: "u32", mode: "u32",
      a0: "u32", lda: "u32", b0: "u32", ldb4: "u32", c0: "u32", ldc4: "u32", ldr4: "u32", segmentStride4: "u32"
    },
    constants: TILE
  }),
  matmulTN: Kernel.make({
    file: "matmul",
    entry: "tn",
    bindings: { a: "read", b: "read", residual: "read", segmentOf: "read", c: "write" },
    types: { A: ["a"], B: ["b"], C: ["c"] },
    params: {
      m: "u32", n4: "u32", k: "u32", mode: "u32",
      a0: "u32", lda: "u32", b0: "u32", ldb4: "u32", c0: "u32", ldc4: "u32", ldr4: "u32", segmentStride4: "u32"
    },
    constants: TILE
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
    bindings: { x: "read", y: "write" },
    types: { Y: ["y"] },
    params: { n4: "u32", x0: "u32" },
    constants: { WX: ROW }
  }),
  packRows: Kernel.make({
    file: "sink_pack",
    entry: "rows",
    bindings: { w: "read", activeUnits: "read", segmentCount: "read", out: "write" },
    types: { Y: ["out"] },
    params: { segments: "u32", slots: "u32", block: "u32", halves: "u32", row0: "u32", halfRows: "u32", n: "u32" },
    constants: { WX: ROW }
  }),
  packTransposed: Kernel.make({
    file: "sink_pack",
    entry: "transposed",
    bindings: { w: "read", activeUnits: "read", segmentCount: "read", out: "write" },
    types: { Y: ["out"] },
    params: { segments: "u32", slots: "u32", block: "u32", halves: "u32", row0: "u32", halfRows: "u32", n: "u32" },
    constants: { WX: ROW }
  }),
  sinkGradient: Kernel.make({
    file: "sink_gradient",
    entry: "backward",
    bindings: {
      dy: "read", x: "read", touchedCount: "read", units: "read", unitStart: "read", uses: "read",
      segmentRange: "read", dw: "write"
    },
    types: { T: ["dy", "x"] },
    params: {
      touched: "u32", n4: "u32", block: "u32", halves: "u32", a0: "u32", lda4: "u32", active4: "u32", ldb4: "u32",
      row0: "u32", halfRows: "u32"
    },
    constants: TILE
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
    bindings: { x: "read", w: "read", y: "write", rstd: "write" },
    types: { Y: ["y"] },
    params: { rows: "u32", n4: "u32", eps: "f32", block: "u32", add: "u32" },
    constants: { WX: ROW }
  }),
  rmsNormBackwardX: Kernel.make({
    file: "rms_norm",
    entry: "backward_x",
    bindings: { x: "read", w: "read", dy: "read", rstd: "read", dx: "write" },
    types: { Y: ["dy"] },
    params: { rows: "u32", n4: "u32", eps: "f32", block: "u32", add: "u32" },
    constants: { WX: ROW }
  }),
  rmsNormBackwardW: Kernel.make({
    file: "rms_norm",
    entry: "backward_w",
    bindings: { x: "read", dy: "read", rstd: "read", partial: "write" },
    types: { Y: ["dy"] },
    params: { rows: "u32", n4: "u32", eps: "f32", block: "u32", add: "u32" },
    constants: { WX: ROW }
  }),
  rope: (sign: 1 | -1) =>
    Kernel.make({
      file: "rope",
      entry: "forward",
      bindings: { positions: "read", table: "read", x: "write" },
      types: { X: ["x"] },
      params: { rows: "u32", heads: "u32", half: "u32", ld: "u32" },
      constants: { WX: ROW, SIGN: sign }
    }),
  attention: Kernel.make({
      file: "attention",
      entry: "forward",
      bindings: { qkv: "read", documentStart: "read", out: "write", lse: "write" },
      types: { T: ["qkv", "out"] },
      params: { rows: "u32", heads: "u32", kvHeads: "u32", scale: "f32", head4: "u32" },
      constants: { WX: 8 }
    }),
  attentionDelta: Kernel.make({
      file: "attention",
      entry: "delta",
      bindings: { out: "read", dout: "read", delta: "write" },
      types: { T: ["out", "dout"] },
      params: { rows: "u32", heads: "u32", kvHeads: "u32", scale: "f32", head4: "u32" },
      constants: { WX: 8 }
    }),
  attentionBackward: (part: "q" | "kv") =>
    Kernel.make({
      file: "attention",
      entry: `backward_${part}`,
      bindings: { qkv: "read", documentStart: "read", dout: "read", lse: "read", delta: "read", dqkv: "write" },
      types: { T: ["qkv", "dout", "dqkv"] },
      params: { rows: "u32", heads: "u32", kvHeads: "u32", scale: "f32", head4: "u32" },
      constants: { WX: 8 }
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
  crossEntropy: Kernel.make({
    file: "cross_entropy",
    entry: "forward",
    bindings: { targets: "read", hyper: "read", logits: "write", loss: "write", rank: "write" },
    types: { X: ["logits"] },
    params: { rows: "u32", vocab: "u32", ld4: "u32", first: "u32", train: "u32" },
    constants: { WX: 4 }
  }),
  sum: Kernel.make({
    file: "reduce",
    entry: "sum",
    bindings: { x: "read", partial: "write" },
    params: { n: "u32", lanes: "u32", first: "u32", extra: "u32" },
    constants: { WX: ROW }
  }),
  sumOfSquares: Kernel.make({
    file: "reduce",
    entry: "sum_of_squares",
    bindings: { x: "read", partial: "write" },
    params: { n: "u32", lanes: "u32", first: "u32", extra: "u32" },
    constants: { WX: ROW }
  }),
  columns: Kernel.make({
    file: "reduce",
    entry: "columns",
    bindings: { x: "read", y: "write" },
    params: { n: "u32", lanes: "u32", first: "u32", extra: "u32" },
    constants: { WX: ROW }
  }),
  finish: Kernel.make({
    file: "reduce",
    entry: "finish",
    bindings: { partial: "read", hyper: "read", stats: "write", history: "write" },
    params: { n: "u32", lanes: "u32", first: "u32", extra: "u32" }
  }),
  adamw: Kernel.make({
    file: "adamw",
    entry: "update",
    bindings: {
      hyper: "read", stats: "read", touched: "read", g: "read", w: "write", m: "write", v: "write"
    },
    params: { n4: "u32", decay: "u32", lazy: "u32", row4: "u32", sinkRow0: "u32", pool: "u32", block: "u32" },
    constants: { WX: ROW }
  })
} as const
