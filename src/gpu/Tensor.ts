/**
 * A Tensor is a plain handle: a name, a shape, an element type. It computes nothing and owns no memory; the Device maps
 * it to a GPUBuffer, so the same handle can be recorded in a Program where no GPU exists.
 */

/** `f16` is a storage type: the host sees Float32Array either way, and kernels compute in f32. */
export type ElementType = "f32" | "u32" | "f16"

/** A name, a shape and an element type; a Device gives it memory. Plain data, known by its reference. */
export interface Tensor {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly type: ElementType
  /**
   * `state` lives as long as the scope it was allocated in (parameters, moments, inputs, results); `scratch` lives from
   * its first to its last use inside one Program and shares memory with others.
   */
  readonly kind: "state" | "scratch"
  /** Where it lies in the buffer of another tensor, in bytes; undefined: it has a buffer of its own. */
  readonly inside?: { readonly whole: Tensor; readonly at: number }
}

/** Describes a tensor, row-major. Default: f32, and state. Throws a RangeError for a shape that is not of whole numbers. */
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

/** Bytes that any adapter lets a binding begin at a multiple of. */
const ALIGNMENT = 256

/**
 * State tensors of one shape that lie one behind the other in a buffer: kernels that do the same to each can take `whole`
 * [tensors, elements from one to the next], whose gaps are 0. Each is else a tensor like any other. They are allocated
 * together, with the first of them.
 */
export const together = (
  name: string,
  names: ReadonlyArray<string>,
  shape: ReadonlyArray<number>
): { readonly whole: Tensor; readonly parts: ReadonlyArray<Tensor> } => {
  const bytes = Math.ceil(byteLength(make(name, shape)) / ALIGNMENT) * ALIGNMENT
  const whole = make(name, [names.length, bytes / 4])
  return { whole, parts: names.map((part, i) => ({ ...make(part, shape), inside: { whole, at: i * bytes } })) }
}

/** The tensor whose buffer a tensor lies in. */
export const home = (tensor: Tensor): Tensor => tensor.inside?.whole ?? tensor

/** Number of elements. */
export const size = (tensor: Tensor): number => tensor.shape.reduce((a, b) => a * b, 1)

/** Bytes of its buffer: whole groups of four elements, at least 16 so that a vec4 binding is always legal. */
export const byteLength = (tensor: Tensor): number =>
  Math.max(16, Math.ceil(size(tensor) / 4) * (tensor.type === "f16" ? 8 : 16))

/** A tensor for people: `weights f32[64, 32]`. */
export const show = (tensor: Tensor): string => `${tensor.name} ${tensor.type}[${tensor.shape.join(", ")}]`
