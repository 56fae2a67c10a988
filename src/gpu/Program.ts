/**
 * A Program is plain data: dispatches and tensors, recorded once while a model is built. The Device prepares it (buffers,
 * pipelines, bind groups) and replays it in one plain loop; a step creates no GPU object. Nothing here touches a GPU, so
 * recording, memory plan and dispatch order are tested with no adapter at all.
 */
import { DeviceError } from "../Errors.ts"
import * as Kernel from "./Kernel.ts"
import { GPU_LANES, isGpu, portable, ROW_LANES, type Target } from "./Target.ts"
import * as Tensor from "./Tensor.ts"

/** One run of a kernel on tensors. */
export interface Dispatch {
  readonly label: string
  readonly kernel: Kernel.Kernel
  /** In binding order. */
  readonly tensors: ReadonlyArray<Tensor.Tensor>
  readonly params: ArrayBuffer
  readonly workgroups: readonly [number, number, number]
}

/** Dispatches in order, recorded once, prepared by a Device and replayed any number of times. Plain data. */
export interface Program {
  readonly name: string
  /** Zeroed before the first dispatch: the first `bytes` of a tensor. */
  readonly clears: ReadonlyArray<{ readonly tensor: Tensor.Tensor; readonly bytes: number }>
  readonly dispatches: ReadonlyArray<Dispatch>
}

/** How many invocations a dispatch needs: along one dimension, folded into two by the Recorder, or as a 2-D grid. */
export type Grid = number | readonly [x: number, y: number]

/** WebGPU's limit on workgroups a dimension. */
const MAX_GROUPS = 65535

/** What a Program is written with: a call of `dispatch` for each run of a kernel, then `finish`. */
export interface Recorder {
  /** The adapter that the Program is for, which decides between kernels that compute the same. */
  readonly target: Target
  /**
   * Runs a kernel on tensors, with a value for each scalar, on as many invocations as `grid` says. Throws a DeviceError
   * Limit for too many.
   */
  readonly dispatch: <B extends string, P extends string>(
    kernel: Kernel.Kernel<B, P>,
    tensors: Readonly<Record<B, Tensor.Tensor>>,
    params: Readonly<Record<P, number>>,
    grid: Grid
  ) => void
  /** Zero a tensor, or its first `elements`, before the Program's first dispatch. */
  readonly clear: (tensor: Tensor.Tensor, elements?: number) => void
  /** A tensor that lives only inside this Program. */
  readonly scratch: (name: string, shape: ReadonlyArray<number>, type?: Tensor.ElementType) => Tensor.Tensor
  /** A prefix for the labels of what follows. */
  readonly scope: (label: string) => void
  /** The Program of all that was dispatched. */
  readonly finish: () => Program
}

const workgroupsOf = (kernel: Kernel.Kernel, grid: Grid): readonly [number, number, number] => {
  const wx = kernel.constants["WX"] ?? 1
  const wy = kernel.constants["WY"] ?? 1
  const groups = typeof grid === "number" ? Math.ceil(grid / wx) : 0
  const wide = Math.min(groups, MAX_GROUPS)
  const [x, y] = typeof grid === "number"
    ? [wide, Math.ceil(groups / wide)]
    : [Math.ceil(grid[0] / wx), Math.ceil(grid[1] / wy)]
  if (x > MAX_GROUPS || y > MAX_GROUPS) {
    throw new DeviceError({
      reason: "Limit",
      detail: `kernel ${Kernel.key(kernel)}: a grid of ${x} x ${y} workgroups exceeds ${MAX_GROUPS}`
    })
  }
  return [x, y, 1]
}

/** Records a Program for a target; by default with kernels that run on any adapter. */
export const record = (name: string, target: Target = portable): Recorder => {
  const dispatches: Array<Dispatch> = []
  const clears: Array<Program["clears"][number]> = []
  let prefix = ""
  return {
    target,
    dispatch: (untyped, tensors, params, grid) => {
      const narrow = Kernel.specialize(untyped, (binding) => tensors[binding].type)
      const kernel = isGpu(target) && narrow.constants["WX"] === ROW_LANES
        ? { ...narrow, constants: { ...narrow.constants, WX: GPU_LANES } }
        : narrow
      const list = kernel.bindings.map(([binding]) => tensors[binding])
      const written = kernel.bindings.flatMap(([, access], i) => (access === "write" ? [list[i]!] : []))
      for (const tensor of written) {
        if (list.filter((other) => Tensor.home(other) === Tensor.home(tensor)).length > 1) {
          throw new Error(`kernel ${Kernel.key(kernel)}: ${Tensor.show(tensor)} is bound twice, once for writing`)
        }
      }
      dispatches.push({
        label: `${prefix}${kernel.file}.${kernel.entry}`,
        kernel,
        tensors: list,
        params: Kernel.encodeParams(kernel, params),
        workgroups: workgroupsOf(kernel, grid)
      })
    },
    clear: (tensor, elements) => {
      clears.push({ tensor, bytes: elements === undefined ? Tensor.byteLength(tensor) : elements * 4 })
    },
    scratch: (label, shape, type) => Tensor.make(`${prefix}${label}`, shape, { type: type ?? "f32", kind: "scratch" }),
    scope: (label) => {
      prefix = label === "" ? "" : `${label}.`
    },
    finish: () => ({ name, clears, dispatches })
  }
}

/** The Program without dispatches whose results nobody reads: what recomputation records for its side results only. */
export const prune = (program: Program): Program => {
  const live = new Set<Tensor.Tensor>()
  const dispatches = program.dispatches.slice().reverse().filter(({ kernel, tensors }) => {
    const needed = kernel.bindings.some(([, access], i) =>
      access === "write" && (tensors[i]!.kind === "state" || live.has(tensors[i]!))
    )
    if (needed) { for (const tensor of tensors) live.add(tensor) }
    return needed
  })
  return { ...program, dispatches: dispatches.reverse() }
}

/** The Program with a tensor in place of another of the same shape and type: one that is kept for a scratch one, say. */
export const replace = (program: Program, tensor: Tensor.Tensor, by: Tensor.Tensor): Program => ({
  ...program,
  dispatches: program.dispatches.map((dispatch) => ({
    ...dispatch,
    tensors: dispatch.tensors.map((one) => (one === tensor ? by : one))
  }))
})

/** Which buffer each scratch tensor of a Program uses, and how large those buffers are. */
export interface Plan {
  readonly slots: ReadonlyArray<number>
  readonly slotOf: ReadonlyMap<Tensor.Tensor, number>
}

/**
 * The lifetime plan: a scratch tensor holds a buffer from its first to its last use; afterwards the buffer serves the next
 * one that needs as much. Best fit; a buffer grows rather than a second one being made when none is large enough.
 */
export const plan = (program: Program): Plan => {
  const last = new Map<Tensor.Tensor, number>()
  program.dispatches.forEach((dispatch, i) => {
    for (const tensor of dispatch.tensors) if (tensor.kind === "scratch") last.set(tensor, i)
  })
  const slots: Array<number> = []
  const free: Array<number> = []
  const slotOf = new Map<Tensor.Tensor, number>()
  program.dispatches.forEach((dispatch, i) => {
    for (const tensor of dispatch.tensors) {
      if (tensor.kind !== "scratch" || slotOf.has(tensor)) continue
      const need = Tensor.byteLength(tensor)
      const fits = free.filter((slot) => slots[slot]! >= need).sort((a, b) => slots[a]! - slots[b]!)
      const slot = fits[0] ?? free.sort((a, b) => slots[b]! - slots[a]!)[0] ?? slots.push(0) - 1
      const at = free.indexOf(slot)
      if (at >= 0) free.splice(at, 1)
      slots[slot] = Math.max(slots[slot]!, need)
      slotOf.set(tensor, slot)
    }
    for (const tensor of new Set(dispatch.tensors)) {
      if (last.get(tensor) === i) free.push(slotOf.get(tensor)!)
    }
  })
  return { slots, slotOf }
}

/** Every state tensor a Program touches, each once; in place of those that lie in another, that one. */
export const stateTensors = (program: Program): ReadonlyArray<Tensor.Tensor> => [
  ...new Set([
    ...program.clears.map(({ tensor }) => tensor),
    ...program.dispatches.flatMap((dispatch) => dispatch.tensors.filter((tensor) => tensor.kind === "state"))
  ].map(Tensor.home))
]
