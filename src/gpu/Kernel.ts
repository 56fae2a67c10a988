/**
 * A Kernel is a plain value: a `.wgsl` file, one of its entry points, override constants, and the table of its bindings
 * and uniform parameters. Its key names the pipeline that the Device compiles once.
 */
import { readFileSync } from "node:fs"
import { KernelError } from "../Errors.ts"

export type Access = "read" | "write"
export type ParamType = "u32" | "f32"

export interface Kernel<B extends string = string, P extends string = string> {
  readonly file: string
  readonly entry: string
  /** Storage bindings in binding order; `write` is `read_write` in WGSL. The uniform follows as the last binding. */
  readonly bindings: ReadonlyArray<readonly [name: B, access: Access]>
  /** Fields of the uniform struct in order; none means no uniform. */
  readonly params: ReadonlyArray<readonly [name: P, type: ParamType]>
  /** Override constants, `WX` among them. */
  readonly constants: Readonly<Record<string, number>>
}

export const make = <const B extends string, const P extends string = never>(kernel: {
  readonly file: string
  readonly entry: string
  readonly bindings: Readonly<Record<B, Access>>
  readonly params?: Readonly<Record<P, ParamType>>
  readonly constants?: Readonly<Record<string, number>>
}): Kernel<B, P> => ({
  file: kernel.file,
  entry: kernel.entry,
  bindings: Object.entries(kernel.bindings) as Array<[B, Access]>,
  params: Object.entries(kernel.params ?? {}) as Array<[P, ParamType]>,
  constants: kernel.constants ?? {}
})

/** What distinguishes one compiled pipeline from another. */
export const key = (kernel: Kernel): string => {
  const constants = Object.entries(kernel.constants).sort(([a], [b]) => (a < b ? -1 : 1))
  return `${kernel.file}.${kernel.entry}(${constants.map(([name, value]) => `${name}=${value}`).join(",")})`
}

const sources = new Map<string, string>()

/** The text of a kernel file; `dist/` mirrors the repository, so the path holds in both. */
export const source = (kernel: Kernel): string => {
  let text = sources.get(kernel.file)
  if (text === undefined) {
    try {
      text = readFileSync(new URL(`../../kernels/${kernel.file}.wgsl`, import.meta.url), "utf8")
    } catch (cause) {
      throw new KernelError({ kernel: kernel.file, detail: `cannot be read: ${String(cause)}`, source: "" })
    }
    sources.set(kernel.file, text)
  }
  return text
}

/** The uniform's bytes for given values, checked by name. */
export const encodeParams = (kernel: Kernel, values: Readonly<Record<string, number>>): ArrayBuffer => {
  const bytes = new ArrayBuffer(Math.ceil(kernel.params.length / 4) * 16)
  const view = new DataView(bytes)
  kernel.params.forEach(([name, type], i) => {
    const value = values[name]
    if (value === undefined || !Number.isFinite(value)) {
      throw new RangeError(`kernel ${key(kernel)}: parameter ${name} is ${value}`)
    }
    if (type === "f32") view.setFloat32(i * 4, value, true)
    else if (Number.isInteger(value) && value >= 0 && value <= 0xffffffff) view.setUint32(i * 4, value, true)
    else throw new RangeError(`kernel ${key(kernel)}: parameter ${name} must fit u32, got ${value}`)
  })
  return bytes
}
