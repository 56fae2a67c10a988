/** A tensor in host memory, row-major: `data.length` is the product of `shape`; an empty shape is a scalar. */
export interface HostTensor {
  readonly shape: ReadonlyArray<number>
  readonly data: Float32Array | Uint32Array
}
