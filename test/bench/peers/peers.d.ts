/** What we use of the peers, so that the repository type-checks before they are installed. */

declare module "@jax-js/jax" {
  export interface Array {
    /** The same array, counted once more: every function consumes one count of its arguments. */
    readonly ref: Array
    readonly size: number
    dispose(): void
    data(): Promise<Float32Array>
    add(other: Array | number): Array
    sub(other: Array | number): Array
    mul(other: Array | number): Array
    div(other: Array | number): Array
    sum(): Array
    reshape(shape: ReadonlyArray<number>): Array
    transpose(permutation: ReadonlyArray<number>): Array
  }
  interface Options {
    readonly dtype: unknown
  }
  export const numpy: {
    readonly int32: unknown
    readonly bool: unknown
    array(values: Float32Array | Int32Array, options?: Options): Array
    ones(shape: ReadonlyArray<number>): Array
    tri(rows: number, columns: number, diagonal: number, options: Options): Array
    matmul(a: Array, b: Array): Array
    mean(x: Array, axis: number, options: { readonly keepdims: boolean }): Array
    square(x: Array): Array
    sqrt(x: Array): Array
    reciprocal(x: Array): Array
    where(condition: Array, then: Array | number, otherwise: Array | number): Array
  }
  export const nn: {
    logSoftmax(x: Array): Array
    oneHot(ids: Array, classes: number): Array
    silu(x: Array): Array
    softmax(x: Array, axis: number): Array
  }
  export const init: (...devices: ReadonlyArray<string>) => Promise<ReadonlyArray<string>>
  export const defaultDevice: (device: string) => void
  export const jit: <F>(f: F) => F
  export const valueAndGrad: <P, A extends ReadonlyArray<unknown>>(
    f: (parameters: P, ...rest: A) => Array
  ) => (parameters: P, ...rest: A) => [Array, P]
}

declare module "@tensorflow/tfjs" {
  export interface Tensor {
    readonly size: number
    dispose(): void
    data(): Promise<Float32Array>
    toFloat(): Tensor
    add(other: Tensor | number): Tensor
    mul(other: Tensor | number): Tensor
    div(other: Tensor | number): Tensor
    sum(): Tensor
    mean(axis: number, keepDims: boolean): Tensor
    square(): Tensor
    rsqrt(): Tensor
    sigmoid(): Tensor
    reshape(shape: ReadonlyArray<number>): Tensor
    transpose(permutation: ReadonlyArray<number>): Tensor
  }
  export interface Variable extends Tensor {
    assign(value: Tensor): void
  }
  export const setBackend: (name: string) => Promise<boolean>
  export const tensor: (values: Float32Array | Int32Array, shape: ReadonlyArray<number>, type?: "int32") => Tensor
  export const ones: (shape: ReadonlyArray<number>) => Tensor
  export const oneHot: (ids: Tensor, classes: number) => Tensor
  export const variable: (initial: Tensor) => Variable
  export const matMul: (a: Tensor, b: Tensor, transposeA?: boolean, transposeB?: boolean) => Tensor
  export const softmax: (x: Tensor) => Tensor
  export const logSoftmax: (x: Tensor) => Tensor
  export const train: {
    sgd(learningRate: number): {
      minimize(loss: () => Tensor, returnCost: boolean, variables: ReadonlyArray<Variable>): Tensor | null
    }
  }
}

declare module "@tensorflow/tfjs-backend-webgpu"
