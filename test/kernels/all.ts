/** Every kernel of kernels, those that take an argument once for each value the tests use. */
import type { Kernel } from "../../src/gpu/Kernel.ts"
import { kernels, type MatrixTiling } from "../../src/model/Kernels.ts"

const {
  attentionBackward,
  attentionMatrix,
  attentionMatrixBackward,
  attentionMatrixBackwardQ,
  attentionSubgroup,
  attentionSubgroupBackward,
  attentionTiledBackward,
  matmulMatrix,
  matmulMatrixPart,
  matmulSubgroup,
  matvec,
  matvecSubgroup,
  rope,
  sinkGradientSubgroup,
  swiglu,
  swigluBackward,
  ...plain
} = kernels

/** Tilings of the products on matrix units that fit the workgroup memory of any adapter. */
const tilings: ReadonlyArray<MatrixTiling> = [{ side: 2, buffers: 1, step: 32 }, { side: 2, buffers: 2, step: 16 }]

export const allKernels: ReadonlyArray<Kernel> = [
  ...Object.values(plain),
  ...[4, 8].flatMap((lanes) => [
    ...[0, 1, 2].map((mode) => matmulSubgroup("nn", lanes, mode)),
    matmulSubgroup("tn", lanes),
    matvecSubgroup(lanes),
    sinkGradientSubgroup(lanes),
    attentionSubgroup(lanes),
    attentionSubgroupBackward("q", lanes),
    attentionSubgroupBackward("kv", lanes)
  ]),
  ...(["nt", "nn"] as const).flatMap((kind) =>
    [1, 4, 8].flatMap((rows) => [matvec(kind, rows, false), matvec(kind, rows, true)])
  ),
  ...(["pairs", "quads"] as const).flatMap((entry) => [rope(1, entry), rope(-1, entry)]),
  ...(["nn", "tn"] as const).flatMap((kind) =>
    tilings.flatMap((tiling) => [matmulMatrix(kind, tiling), matmulMatrixPart(kind, tiling)])
  ),
  ...tilings.flatMap((tiling) => [matmulMatrix("nn", tiling, true), matmulMatrixPart("nn", tiling, true)]),
  // heads and rows that fit the workgroup memory of any adapter
  attentionMatrix(32, 16),
  attentionMatrixBackward(32, 16),
  attentionMatrixBackwardQ(32, 16),
  attentionBackward("q"),
  attentionBackward("kv"),
  attentionTiledBackward("q"),
  attentionTiledBackward("kv"),
  ...[1, 8, 16].flatMap((block) => [swiglu(block), swigluBackward(block)])
]
