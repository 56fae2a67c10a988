/**
 * A Tensor is a plain handle: a name, a shape, an element type. It computes nothing and owns no memory; the Device maps
 * it to a GPUBuffer, so the same handle can be recorded in a Program where no GPU exists.
 */

/** `f16` is a storage type: the host sees Float32Array either way, and kernels compute in f32. */
export type ElementType = "f32" | "u32" | "f16"

export interface Tensor {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly type: ElementType
  /**
   * `state` lives as long as the scope it was allocated in (parameters, moments, inputs, results); `scratch` lives from
   * its first to its last use inside one Program and shares memory with others.
   */
  readonly kind: "state" | "scratch"
}

export const make = (
  name: string,
  shape: ReadonlyArray<number>,
  options?: { readonly type?: ElementType; readonly kind?: "state" | "scratch" }
): Tensor => {
  if (!shape.every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw new RangeError(`tensor ${name}: every dimension must be a positive integer, got [${shape.join(", ")}]`)
  }
  return { name, shape, type: options?.type ?? "f32", kind: options?.kind ?? "state" }
}

/** Number of elements. */
export const size = (tensor: Tensor): number => tensor.shape.reduce((a, b) => a * b, 1)

/** Bytes of its buffer: whole groups of four elements, at least 16 so that a vec4 binding is always legal. */
export const byteLength = (tensor: Tensor): number =>
  Math.max(16, Math.ceil(size(tensor) / 4) * (tensor.type === "f16" ? 8 : 16))

export const show = (tensor: Tensor): string => `${tensor.name} ${tensor.type}[${tensor.shape.join(", ")}]`
