/**
 * What a Program is recorded for: adapters differ in which kernels they run fastest, and in which they run at all.
 */

/**
 * - `plain`: WGSL without extensions, a workgroup without barriers. Runs everywhere.
 * - `software`: the same for CPU adapters that have subgroups, whose lanes share what they load.
 * - `gpu`: tiles in workgroup memory, rows shared by the lanes of a workgroup.
 * - `tensor`: `gpu`, with matrix units (f16 in, f32 accumulated) where both factors are f16.
 */
export type Family = "plain" | "software" | "gpu" | "tensor"

export const families: ReadonlyArray<Family> = ["plain", "software", "gpu", "tensor"]

/**
 * Products on matrix units by what bounds them: those of layers, those of weight gradients (long sums), a head's (few rows,
 * the longest sums), and those whose right factor is another one for each segment.
 */
export const shapeClasses = ["layer", "gradient", "head", "segments"] as const
export type ShapeClass = typeof shapeClasses[number]

export interface Target {
  readonly family: Family
  /** Lanes of a subgroup, where all subgroups have as many; else 0. */
  readonly subgroupSize: number
  /** Whether there are matrix units that the `tensor` kernels can use. */
  readonly matrices?: boolean
  /** Workgroup memory; default 16 KiB. */
  readonly workgroupBytes?: number
  /** Workgroups that keep a GPU busy; default 640. With fewer tiles of a product, tiles are smaller and sums are split. */
  readonly busy?: number
  /** Attention is computed in tiles although there are matrix units, on which the adapter computes it wrongly. */
  readonly tiledAttention?: true
  /** Of the variants of a class of products on matrix units, the one that was fastest (Kernels.matrixVariants). */
  readonly variants?: Readonly<Partial<Record<ShapeClass, string>>>
}

/** Whether a target's workgroups share tiles and rows in workgroup memory, as GPUs like it. */
export const isGpu = ({ family }: Target): boolean => family === "gpu" || family === "tensor"

/**
 * Invocations a workgroup (`WX`) of kernels whose invocations work alone: about one subgroup of a software adapter, where
 * more only adds overhead. Programs for a GPU take GPU_LANES in their place.
 */
export const ROW_LANES = 16
export const GPU_LANES = 128

/** Sizes of subgroups that the `software` kernels are written for: 128 and 256 bits of f32. */
export const SOFTWARE_SUBGROUPS: ReadonlyArray<number> = [4, 8]

/** What runs on any adapter. */
export const portable: Target = { family: "plain", subgroupSize: 0 }
