/**
 * A Kernel is a plain value: a `.wgsl` file, one of its entry points, override constants, and the table of its bindings
 * and uniform parameters. Its key names the pipeline that the Device compiles once.
 */
import { existsSync, readFileSync } from "node:fs"
import { DeviceError, KernelError } from "../Errors.ts"

/** Whether a kernel only reads a tensor, or writes it. */
export type Access = "read" | "write"
/** The type of one of a kernel's scalars. */
export type ParamType = "u32" | "f32"

/** An entry point of a WGSL file, with the names of its tensors (`B`) and of its scalars (`P`). Plain data. */
export interface Kernel<B extends string = string, P extends string = string> {
  readonly file: string
  readonly entry: string
  /** Storage bindings in binding order; `write` is `read_write` in WGSL. The uniform follows as the last binding. */
  readonly bindings: ReadonlyArray<readonly [name: B, access: Access]>
  /** Fields of the uniform struct in order; none means no uniform. */
  readonly params: ReadonlyArray<readonly [name: P, type: ParamType]>
  /** Override constants, `WX` among them. */
  readonly constants: Readonly<Record<string, number>>
  /** Aliases of WGSL types (`alias A = f32;`, with `alias A4 = vec4f;`) and the bindings whose tensors decide them. */
  readonly types: Readonly<Record<string, ReadonlyArray<B>>>
  /** The aliases that are f16; the others are f32, as the file says. */
  readonly f16: ReadonlyArray<string>
}

const sources = new Map<string, string>()

const urlOf = (file: string) => new URL(`../../kernels/${file}.wgsl`, import.meta.url)

/** Keeps the text of a kernel that is no file of `kernels/`. */
const keep = (file: string, code: string): void => {
  if ((sources.get(file) ?? code) !== code || existsSync(urlOf(file))) {
    throw new KernelError({ kernel: file, detail: "there is another kernel of this name: give yours a name of its own",
      source: code })
  }
  sources.set(file, code)
}

/**
 * Describes a kernel. Nothing is compiled until a Program with it is prepared on a Device. `file` is the name of a file of
 * `kernels/`, or, with its text as `code`, a name of one's own: a KernelError where it already names another text.
 */
export const make = <const B extends string, const P extends string = never>(kernel: {
  readonly file: string
  readonly entry: string
  readonly bindings: Readonly<Record<B, Access>>
  readonly params?: Readonly<Record<P, ParamType>>
  readonly constants?: Readonly<Record<string, number>>
  readonly types?: Readonly<Record<string, ReadonlyArray<NoInfer<B>>>>
  readonly code?: string
}): Kernel<B, P> => {
  if (kernel.code !== undefined) keep(kernel.file, kernel.code)
  return {
    file: kernel.file,
    entry: kernel.entry,
    bindings: Object.entries(kernel.bindings) as Array<[B, Access]>,
    params: Object.entries(kernel.params ?? {}) as Array<[P, ParamType]>,
    constants: kernel.constants ?? {},
    types: kernel.types ?? {},
    f16: []
  }
}

/** The kernel for the element types of what is bound to it. */
export const specialize = <B extends string, P extends string>(
  kernel: Kernel<B, P>,
  typeOf: (binding: B) => string
): Kernel<B, P> => {
  const f16 = Object.entries(kernel.types).filter(([alias, bindings]) => {
    const types = [...new Set(bindings.map(typeOf))]
    if (types.length > 1) {
      throw new Error(`kernel ${key(kernel)}: ${bindings.join(", ")} must be of one type (${alias})`)
    }
    return types[0] === "f16"
  })
  return f16.length === 0 ? kernel : { ...kernel, f16: f16.map(([alias]) => alias) }
}

/** What distinguishes one compiled pipeline from another. */
export const key = (kernel: Kernel): string => {
  const constants = Object.entries(kernel.constants).sort(([a], [b]) => (a < b ? -1 : 1))
  const parts = [...constants.map(([name, value]) => `${name}=${value}`), ...kernel.f16.map((alias) => `${alias}=f16`)]
  return `${kernel.file}.${kernel.entry}(${parts.join(",")})`
}

/** What distinguishes one shader module from another: entry points of a file share theirs. */
export const moduleKey = (kernel: Kernel): string => [kernel.file, ...kernel.f16].join(" ")

/** The text of a kernel's file, its types in place; `dist/` mirrors the repository, so the path holds in both. */
export const source = (kernel: Kernel): string => {
  let text = sources.get(kernel.file)
  if (text === undefined) {
    try {
      text = readFileSync(urlOf(kernel.file), "utf8")
    } catch (cause) {
      throw new KernelError({ kernel: kernel.file, detail: `cannot be read: ${String(cause)}`, source: "" })
    }
    sources.set(kernel.file, text)
  }
  return kernel.f16.reduce((code, alias) => {
    const typed = code
      .replace(new RegExp(`^alias ${alias} = f32;$`, "m"), `alias ${alias} = f16;`)
      .replace(new RegExp(`^alias ${alias}4 = vec4f;$`, "m"), `alias ${alias}4 = vec4h;`)
    if (typed === code) {
      throw new KernelError({ kernel: key(kernel), detail: `has no alias ${alias} of f32 to replace`, source: code })
    }
    return typed
  }, kernel.f16.length === 0 ? text : `enable f16;\n${text}`)
}

/** Invocations of the subgroups that kernels of matrix units are written for. */
export const MATRIX_SUBGROUP = 32

/**
 * The text of a kernel, with MATRIX_SUBGROUP asked for where it uses matrix units: for adapters whose drivers choose among
 * several sizes of subgroups. It needs the feature `subgroup-size-control`.
 */
export const sized = (code: string): string =>
  !/^enable chromium_experimental_subgroup_matrix;/m.test(code) || code.includes("@subgroup_size(")
    ? code
    : `enable subgroup_size_control;\n${
      code.replace(/@workgroup_size\([^)]*\)/g, (size) => `${size} @subgroup_size(${MATRIX_SUBGROUP})`)
    }`

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
    else {
      const detail = `kernel ${key(kernel)}: parameter ${name} must fit u32, got ${value}`
      // too many elements are a limit; what is no whole number is a bug
      throw Number.isInteger(value) && value > 0 ? new DeviceError({ reason: "Limit", detail }) : new RangeError(detail)
    }
  })
  return bytes
}

/** The values that a uniform's bytes hold, by name. */
export const decodeParams = (kernel: Kernel, params: ArrayBuffer): Readonly<Record<string, number>> => {
  const view = new DataView(params)
  return Object.fromEntries(
    kernel.params.map(([name, type],
      i) => [name, type === "f32" ? view.getFloat32(i * 4, true) : view.getUint32(i * 4, true)]
    )
  )
}
