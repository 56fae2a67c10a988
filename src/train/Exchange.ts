/**
 * Gradients of several ranks added up: buckets of them leave the device while the backward pass still computes others, are
 * summed over the ranks in the order of these, and come back. Every rank has the same bits then, and moves alike.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { call, type CollectiveService, type Wire } from "../collective/Collective.ts"
import type { CollectiveError, DeviceError, KernelError } from "../Errors.ts"
import { Device, type Part, type Prepared, type Window } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import type { Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import * as Optimizer from "./Optimizer.ts"

/** Bytes of a bucket at most: what MPI is fastest with on one machine. */
const BUCKET = 2 ** 22

const ELEMENTS = BUCKET / 4

/** Parts of gradients that are exchanged together. */
interface Bucket {
  readonly parts: ReadonlyArray<Part>
  readonly window: Window
}

/** The rows of sinks of a weight's gradient, which pass through a tensor where touched ones lie side by side. */
interface Sinks {
  readonly gradient: Tensor.Tensor
  /** Elements that a touched unit has. */
  readonly unit: number
  readonly collect: Prepared
  readonly spread: Prepared
  readonly windows: ReadonlyArray<Window>
}

/** What is exchanged in one go, in an order that all ranks keep. */
type Load =
  & { readonly gradients: ReadonlyArray<Tensor.Tensor>; readonly wire: Wire }
  & ({ readonly bucket: Bucket } | { readonly sinks: Sinks })

export interface Exchange {
  /**
   * Submits a step's last pass; what it is the last to write leaves behind it, while it goes on. `first` comes before it, and
   * `last` behind it, before the losses leave. So many units are touched in the step.
   */
  readonly leave: (
    first: ReadonlyArray<Prepared>,
    pass: Prepared,
    last: ReadonlyArray<Prepared>,
    units: number
  ) => void
  /** Until the sums are back, all of them. */
  readonly back: Effect.Effect<void, CollectiveError | DeviceError>
}

/** The number of the last dispatch that writes to a tensor, or to one that shares its buffer; -1: none does. */
const lastWrite = ({ dispatches }: Program.Program, tensor: Tensor.Tensor): number =>
  dispatches.findLastIndex(({ kernel, tensors }) =>
    kernel.bindings.some(([, access], i) => access === "write" && Tensor.home(tensors[i]!) === Tensor.home(tensor))
  )

/** Parts of a tensor's first elements that fit a bucket. */
const pieces = (tensor: Tensor.Tensor, elements: number): ReadonlyArray<Part> =>
  Array.from({ length: Math.ceil(elements / ELEMENTS) }, (_, i) => ({
    tensor,
    at: i * ELEMENTS,
    elements: Math.min(ELEMENTS, elements - i * ELEMENTS)
  }))

/** Whole pieces, as many as fit one after the other, in buckets. */
const fill = (parts: ReadonlyArray<Part>): ReadonlyArray<ReadonlyArray<Part>> => {
  const out: Array<Array<Part>> = []
  let room = 0
  for (const part of parts) {
    if (part.elements > room) {
      out.push([])
      room = ELEMENTS
    }
    out.at(-1)!.push(part)
    room -= part.elements
  }
  return out
}

/** What passes through the device on its way: programs that lay touched sinks side by side, and back, and the tensor between. */
const recordMoves = ({ sinks, touched }: Optimizer.Gradients, target: Target | undefined) => {
  const packed = Tensor.make("touchedSinks", [Math.max(4, ...sinks.map(({ n4 }) => 4 * n4))])
  const moves = sinks.map((rows) =>
    (["collect", "spread"] as const).map((to) => {
      const p = Program.record(to, target)
      Optimizer.movePacked(p, to, touched, rows, packed, rows.n4)
      return p.finish()
    })
  )
  return { packed, moves }
}

/** What `makeExchange` allocates: tensors, programs, and so many bytes of windows, which hold all gradients and losses once. */
export const planExchange = (gradients: Optimizer.Gradients, target?: Target) => {
  const { packed, moves } = recordMoves(gradients, target)
  const { dense, losses, sinks } = gradients
  const elements = losses.elements + dense.reduce((sum, one) => sum + one.elements, 0) +
    sinks.reduce((sum, { n4 }) => sum + 4 * n4, 0)
  return { tensors: sinks.length > 0 ? [packed] : [], programs: moves.flat(), windows: 4 * elements }
}

/**
 * What exchanges an optimizer's gradients, as `wire` says, and its losses, which are exact. Buckets are made in the order in which `program`, a training pass,
 * is done with gradients; later passes keep that order, whatever theirs is. Memory of the host that holds all of them
 * once, and one tensor on the device that holds the touched sinks of the largest weight, live until the scope closes.
 */
export const makeExchange = (
  collective: CollectiveService,
  optimizer: Optimizer.Optimizer,
  program: Program.Program,
  wire: Wire = "f32"
): Effect.Effect<Exchange, DeviceError | KernelError, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const { dense, losses, sinks, touched } = optimizer.gradients
    const { moves, packed } = recordMoves(optimizer.gradients, device.target)
    const ready = new Map<Tensor.Tensor, number>()
    const readyAt = (tensor: Tensor.Tensor): number => {
      const home = Tensor.home(tensor)
      const at = ready.get(home) ?? lastWrite(program, home)
      ready.set(home, at)
      return at
    }
    const inOrder = dense.toSorted((a, b) => readyAt(a.tensor) - readyAt(b.tensor))
    const buckets = yield* Effect.forEach(
      fill(inOrder.flatMap(({ elements, tensor }) => pieces(tensor, elements))),
      (parts) =>
        Effect.map(device.window(4 * parts.reduce((sum, { elements }) => sum + elements, 0)), (window): Load => ({
          gradients: parts.map(({ tensor }) => tensor),
          wire,
          bucket: { parts, window }
        }))
    )
    if (sinks.length > 0) yield* device.allocate([packed])
    const ofSinks = yield* Effect.forEach(sinks, (rows, i) =>
      Effect.gen(function*() {
        const [collect, spread] = yield* Effect.forEach(moves[i]!, (program) => device.prepare(program))
        const unit = rows.halves * touched.block * touched.row4 * 4
        const windows = yield* Effect.forEach(pieces(packed, 4 * rows.n4),
          ({ elements }) => device.window(4 * elements))
        return {
          gradients: [rows.g],
          wire,
          sinks: { gradient: rows.g, unit, collect: collect!, spread: spread!, windows }
        } satisfies Load
      }))
    const lossBucket: Load = {
      gradients: [],
      wire: "f32",
      bucket: { parts: [losses], window: yield* device.window(4 * losses.elements) }
    }
    const loads: ReadonlyArray<Load> = [...buckets, ...ofSinks].sort((a, b) =>
      Math.max(...a.gradients.map(readyAt)) - Math.max(...b.gradients.map(readyAt))
    )

    /** Where a pass is cut, and which loads leave behind each part of it. */
    const cuts = new Map<Prepared,
      { readonly parts: ReadonlyArray<Prepared>; readonly loads: ReadonlyArray<ReadonlyArray<Load>> }>()
    const cutOf = (pass: Prepared) => {
      const known = cuts.get(pass)
      if (known !== undefined) return known
      const last = pass.program.dispatches.length - 1
      const behind = new Map<number, Array<Load>>()
      let at = -1
      for (const load of loads) {
        at = Math.max(at, ...load.gradients.map((tensor) => lastWrite(pass.program, tensor)))
        behind.set(at, [...(behind.get(at) ?? []), load])
      }
      const ends = [...behind.keys()].filter((end) => end < last)
      const cut = {
        parts: device.cut(pass, ends),
        loads: [...ends, last].map((end) => behind.get(end) ?? [])
      }
      cuts.set(pass, cut)
      return cut
    }

    /** What has left: where it lies once it has, and how it goes back. */
    let underway: Array<
      {
        readonly wire: Wire
        readonly values: ReadonlyArray<Promise<Float32Array<ArrayBuffer>>>
        readonly back: () => void
      }
    > = []
    const send = (load: Load, units: number): void => {
      const { wire } = load
      if ("bucket" in load) {
        const { parts, window } = load.bucket
        underway.push({ wire, values: [window.leave(parts)], back: () => window.back(parts) })
        return
      }
      const { collect, spread, unit, windows } = load.sinks
      const parts = pieces(packed, units * unit)
      if (parts.length === 0) return
      device.submit(collect)
      underway.push({
        wire,
        values: parts.map((part, i) => windows[i]!.leave([part])),
        back: () => {
          parts.forEach((part, i) => windows[i]!.back([part]))
          device.submit(spread)
        }
      })
    }

    const sum = async (): Promise<void> => {
      for (const { back, values, wire } of underway) {
        for (const value of values) await collective.allReduce(await value, wire)
        back()
      }
    }

    return {
      leave: (first, pass, last, units) => {
        const { loads, parts } = cutOf(pass)
        underway = []
        parts.forEach((part, i) => {
          device.submit(...(i === 0 ? first : []), part, ...(i === parts.length - 1 ? last : []))
          for (const load of loads[i]!) send(load, units)
        })
        send(lossBucket, units)
        // a promise that nobody awaits yet must not end the process
        for (const { values } of underway) for (const value of values) value.catch(() => undefined)
      },
      back: call(sum) as Effect.Effect<void, CollectiveError | DeviceError>
    }
  })
