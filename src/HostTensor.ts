/** A tensor in host memory, row-major: `data.length` is the product of `shape`; an empty shape is a scalar. */
export interface HostTensor {
  readonly shape: ReadonlyArray<number>
  readonly data: Float32Array | Uint32Array
}

/** The first value that is infinite or not a number, or -1. */
export const firstNotFinite = (values: ArrayLike<number>): number => {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i
  return -1
}
