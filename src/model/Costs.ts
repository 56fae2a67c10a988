/** What a dispatch has to do: floating-point operations of products, and bytes that it must move at least. */
import * as Kernel from "../gpu/Kernel.ts"
import type { Dispatch } from "../gpu/Program.ts"
import * as Tensor from "../gpu/Tensor.ts"

/** Kinds of ops, as profiles add them up. */
export const opClasses = [
  "products",
  "head",
  "attention",
  "norms",
  "MLP activation",
  "loss",
  "copies",
  "embedding",
  "optimizer"
] as const
export type OpClass = typeof opClasses[number]

const optimizer = new Set(["sum_of_squares", "fold", "finish", "scale_loss"])

/** The kind of a dispatch; products outside the layers are the head's. */
export const classOf = ({ kernel: { entry, file }, label }: Dispatch): OpClass => {
  if (/^(matmul|matvec|sink_gradient|split_sum)/.test(file)) return label.startsWith("layers.") ? "products" : "head"
  if (/^(attention|rope)/.test(file)) return "attention"
  if (file === "rms_norm" || (file === "reduce" && entry === "columns")) return "norms"
  if (file === "swiglu" || file === "neuron_gate") return "MLP activation"
  if (/^(cast|transpose|sink_pack|sink_scatter)/.test(file)) return "copies"
  if (file === "embedding") return "embedding"
  return /^(adamw|touched)/.test(file) || optimizer.has(entry) ? "optimizer" : "loss"
}

/** What it computes, whichever layer it is in: the kernel, and the tensor that it writes. */
export const nameOf = ({ kernel, tensors }: Dispatch): string => {
  const written = tensors.filter((_, i) => kernel.bindings[i]![1] === "write").map(({ name }) => name)
  return `${kernel.file}.${kernel.entry} -> ${(written[0] ?? "").replaceAll(/layers\.\d+\./g, "")}`
}

export interface Cost {
  /** Of products and attention; 0 for what only moves numbers. */
  readonly flops: number
  /** Read and written at least once each. */
  readonly bytes: number
}

/** Kernels that read what they write. */
const updates = new Set(["rope", "scale_rows", "adamw", "neuron_gate"])

/**
 * The cost of a dispatch.
 *
 * @param pairs of a query and a key that it may see, over all rows: what attention's work grows with
 */
export const costOf = (dispatch: Dispatch, pairs: number): Cost => {
  const { kernel, params, tensors } = dispatch
  const { entry, file } = kernel
  const p = Kernel.decodeParams(kernel, params)
  const tensor = (name: string): Tensor.Tensor => tensors[kernel.bindings.findIndex(([binding]) => binding === name)]!
  const width = (name: string): number => (tensor(name).type === "f16" ? 2 : 4)
  const all = (times: (access: Kernel.Access) => number): number =>
    tensors.reduce((sum, one, i) => sum + times(kernel.bindings[i]![1]) * Tensor.byteLength(one), 0)
  if (file.startsWith("matmul")) {
    const [m, n, k] = [p["m"]!, 4 * p["n4"]!, p["k"]!]
    // where segments have factors of their own, each is read
    const right = "segmentStride4" in p && p["segmentStride4"]! > 0 ? Tensor.size(tensor("b")) : n * k
    // a sum over k in parts, of which split_sum makes one
    const result = "part" in p
      ? 4 * m * n * Math.ceil(k / p["part"]!)
      : m * n * (p["mode"] === 0 ? width("c") : width("c") + 4)
    return { flops: 2 * m * n * k, bytes: m * k * width("a") + right * width("b") + result }
  }
  if (file.startsWith("sink_gradient")) {
    const rows = tensor("x").shape[0]!
    const [n, active] = [4 * p["n4"]!, 4 * p["active4"]! * p["halves"]!]
    const touched = p["touched"]! * p["block"]! * p["halves"]! * n
    return { flops: 2 * rows * active * n, bytes: rows * (active * width("dy") + n * width("x")) + 8 * touched }
  }
  if (file.startsWith("attention") && "heads" in p && "head4" in p) {
    const work = { forward: 4, backward_q: 6, backward_kv: 8 }[entry] ?? 0
    const flops = work * pairs * p["heads"]! * 4 * p["head4"]!
    return { flops, bytes: all(() => 1) }
  }
  // what is read is as much as is written, of a tensor that may hold more
  if (/^(transpose|cast|sink_pack)$/.test(file)) {
    const [out] = kernel.bindings.find(([, access]) => access === "write")!
    return { flops: 0, bytes: Tensor.size(tensor(out)) * (4 + width(out)) }
  }
  if (file === "reduce" && entry === "sum_of_squares") {
    return { flops: 0, bytes: 16 * [0, 1, 2, 3, 4, 5].reduce((sum, i) => sum + p[`n${i}`]!, 0) }
  }
  // rows of touched units alone, as many as there may be
  const touched = (halves: number): number => Tensor.size(tensor("units")) * p["block"]! * halves * 4 * p["row4"]!
  if (file === "touched") {
    return { flops: 0, bytes: 4 * [0, 1, 2, 3, 4, 5].reduce((sum, i) => sum + touched(p[`halves${i}`] ?? 0), 0) }
  }
  if (entry === "update_lazy") return { flops: 0, bytes: 28 * (4 * p["n4"]! + touched(p["halves"]!)) }
  // partial sums have a place in a tensor of all norms'
  if (file === "rms_norm" && "block" in p && tensor("partial") !== undefined) {
    const sums = 16 * p["n4"]! * Math.ceil(p["rows"]! / p["block"]!)
    return { flops: 0, bytes: all(() => 1) - Tensor.byteLength(tensor("partial")) + sums }
  }
  if (file === "adamw") return { flops: 0, bytes: 16 * p["n4"]! * 7 }
  return { flops: 0, bytes: all((access) => (access === "write" && updates.has(file) ? 2 : 1)) }
}
