/**
 * Where the time of a training step goes: every dispatch of it timed on the device, beside what the device can do at best.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Batch } from "../Batch.ts"
import { type DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device, type DeviceService, type Prepared } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { classOf, costOf, nameOf, type OpClass } from "../model/Costs.ts"
import { Model, type ModelOptions } from "../model/Model.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import * as Ops from "../model/Ops.ts"
import * as Sink from "../Sink.ts"
import * as Optimizer from "./Optimizer.ts"
import { makeTrainStep } from "./TrainStep.ts"

/** One dispatch of a step. Times are medians over the steps that were timed. */
export interface ProfiledDispatch {
  readonly label: string
  /** What it computes, without its layer. */
  readonly op: string
  readonly kernel: string
  readonly opClass: OpClass
  /** When it began in the last step that was timed, and how long it took. */
  readonly beginSeconds: number
  readonly seconds: number
  readonly flops: number
  readonly bytes: number
}

/** Dispatches of a step that have something in common, added up. */
export interface ProfileRow {
  readonly name: string
  readonly dispatches: number
  readonly seconds: number
  /** Of all kernels' time. */
  readonly share: number
  readonly flops: number
  readonly bytes: number
  /** Of the best product's FLOPs a second. */
  readonly shareOfProduct: number
  /** Of the best copy's bytes a second. */
  readonly shareOfBandwidth: number
}

export interface Profile {
  readonly adapter: string
  readonly kernels: string
  readonly precision: string
  readonly rows: number
  readonly seqLen: number
  readonly parameters: number
  /** A step as training runs it, on the clock of the host. */
  readonly stepSeconds: number
  readonly tokensPerSecond: number
  /** What the host does for a step, until the device has all of it. */
  readonly hostSeconds: number
  /** Of the kernels alone, and from the first one's beginning to the last one's end with a pass for each. */
  readonly kernelSeconds: number
  readonly spanSeconds: number
  /** The best that a square product and a copy of this device reached, in FLOPs and bytes a second. */
  readonly bestProduct: number
  readonly bestCopy: number
  /** The most time first. */
  readonly classes: ReadonlyArray<ProfileRow>
  readonly byKernel: ReadonlyArray<ProfileRow>
  readonly ops: ReadonlyArray<ProfileRow>
  /** In the order in which they ran. */
  readonly dispatches: ReadonlyArray<ProfiledDispatch>
}

export interface ProfileOptions extends ModelOptions {
  readonly rows: number
  readonly seqLen: number
  readonly optimizer?: Optimizer.OptimizerConfig
  /** Steps that are timed. Default 3. */
  readonly steps?: number
}

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

/** A made-up batch: rows of a document each, with ids of their own. */
export const madeUp = (rows: number, seqLen: number, vocab: number): Batch => {
  const n = rows * seqLen
  const tokens = Uint32Array.from({ length: n }, (_, i) => (Math.imul(i + 1, 2654435761) >>> 0) % vocab)
  return {
    rows,
    seqLen,
    tokens,
    targets: tokens.slice().reverse(),
    positions: Uint32Array.from({ length: n }, (_, i) => i % seqLen),
    documentStart: Uint32Array.from({ length: n }, (_, i) => i - (i % seqLen)),
    ids: BigUint64Array.from({ length: n }, (_, i) => BigInt(1 + Math.floor(i / seqLen)))
  }
}

/** Seconds that a device takes at best for the one dispatch of a Program. */
const bestSeconds = (device: DeviceService, program: Program.Program) =>
  Effect.scoped(Effect.gen(function*() {
    yield* device.allocate(Program.stateTensors(program))
    const prepared = yield* device.prepare(program)
    const times = yield* Effect.replicateEffect(device.time(prepared), 5)
    return Math.min(...times.map(([one]) => one!.end - one!.begin)) / 1e9
  }))

/** What a device reaches in a large product of a type, and in copying: FLOPs and bytes a second. */
const ceilings = (device: DeviceService, type: "f32" | "f16") =>
  Effect.gen(function*() {
    const hardware = device.kind === "hardware"
    const size = hardware ? 4096 : 512
    const [a, b] = [Tensor.make("a", [size, size], { type }), Tensor.make("b", [size, size], { type })]
    const product = Program.record("the best product", device.target)
    const of = (tensor: Tensor.Tensor) => ({ tensor, ld: size })
    Ops.matmulNN(product, { a: of(a), b: of(b), c: of(Tensor.make("c", [size, size])), m: size, n: size, k: size })
    const copy = Program.record("the best copy", device.target)
    // beyond a GPU's caches, and within those of a processor, as the tensors of models that fit one are
    const elements = hardware ? 2 ** 26 : 2 ** 19
    const [x, y] = [Tensor.make("x", [elements]), Tensor.make("y", [elements])]
    Ops.cast(copy, [{ x, n: elements }], y)
    return {
      bestProduct: 2 * size ** 3 / (yield* bestSeconds(device, product.finish())),
      bestCopy: 8 * elements / (yield* bestSeconds(device, copy.finish()))
    }
  })

const rowsBy = (
  dispatches: ReadonlyArray<ProfiledDispatch>,
  nameOf: (dispatch: ProfiledDispatch) => string,
  best: { readonly bestProduct: number; readonly bestCopy: number }
): ReadonlyArray<ProfileRow> => {
  const groups = new Map<string, Array<ProfiledDispatch>>()
  for (const dispatch of dispatches) {
    const name = nameOf(dispatch)
    groups.set(name, [...groups.get(name) ?? [], dispatch])
  }
  const sum = (of: ReadonlyArray<ProfiledDispatch>, field: "seconds" | "flops" | "bytes") =>
    of.reduce((total, dispatch) => total + dispatch[field], 0)
  const all = sum(dispatches, "seconds")
  return [...groups].map(([name, own]) => {
    const [seconds, flops, bytes] = [sum(own, "seconds"), sum(own, "flops"), sum(own, "bytes")]
    return {
      name,
      dispatches: own.length,
      seconds,
      share: seconds / all,
      flops,
      bytes,
      shareOfProduct: flops / seconds / best.bestProduct,
      shareOfBandwidth: bytes / seconds / best.bestCopy
    }
  }).sort((a, b) => b.seconds - a.seconds)
}

/**
 * Trains a model of a configuration for a few steps on made-up tokens and times the kernels. Fails with a DeviceError of
 * reason Feature where the adapter has no timestamps. For times finer than 65.5 us the device must be opened with the Dawn
 * toggle `timestamp_quantization` switched off.
 */
export const profile = (
  config: ModelConfig,
  options: ProfileOptions
): Effect.Effect<Profile, DeviceError | KernelError | DataError, Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const { optimizer = new Optimizer.OptimizerConfig(), rows, seqLen, steps = 3, ...modelOptions } = options
    const { precision = "f32" } = modelOptions
    if (device.kind === "null") {
      return yield* new DeviceError({ reason: "Feature",
        detail: "the null backend computes nothing that could be timed" })
    }
    // before anything is allocated: fails where there are no timestamps
    yield* device.time()
    const best = yield* ceilings(device, precision)
    // what a step submits, once it is asked for
    let taken: Array<Prepared> | undefined
    const spy: DeviceService = {
      ...device,
      submit: (...prepared) => taken === undefined ? device.submit(...prepared) : void taken.push(...prepared)
    }
    return yield* Effect.gen(function*() {
      const model = yield* Model.make(config, modelOptions)
      const training = yield* makeTrainStep({
        optimizer,
        steps: 100,
        window: 1,
        parameters: model.parameters,
        ...(config.sinks?.exact === true ? { maxTouched: rows * config.sinks.activeUnits } : {})
      }).pipe(Effect.provideService(Model, model))
      const pass = yield* training.compile({ rows, seqLen })
      const part = { pass, batch: madeUp(rows, seqLen, config.vocabSize), mode: Sink.own }
      let step = 0
      const run = Effect.sync(() => training.run([part], step++))
      // compiling and first touches are no step
      yield* run
      yield* device.idle
      const walls: Array<number> = []
      const hosts: Array<number> = []
      for (let i = 0; i < steps; i++) {
        const began = performance.now()
        yield* run
        hosts.push((performance.now() - began) / 1000)
        yield* device.idle
        walls.push((performance.now() - began) / 1000)
      }
      taken = []
      yield* run
      const programs = taken
      taken = undefined
      const timed = yield* Effect.replicateEffect(device.time(...programs), steps)
      const last = timed.at(-1)!
      const pairs = rows * seqLen * (seqLen + 1) / 2
      const dispatches = last.map(({ begin, dispatch }, i): ProfiledDispatch => ({
        label: dispatch.label,
        op: nameOf(dispatch),
        kernel: `${dispatch.kernel.file}.${dispatch.kernel.entry}`,
        opClass: classOf(dispatch),
        beginSeconds: begin / 1e9,
        seconds: median(timed.map((times) => Math.max(0, times[i]!.end - times[i]!.begin))) / 1e9,
        ...costOf(dispatch, pairs)
      }))
      const stepSeconds = median(walls)
      return {
        adapter: device.name,
        kernels: device.target.family,
        precision,
        rows,
        seqLen,
        parameters: config.numParameters,
        stepSeconds,
        tokensPerSecond: rows * seqLen / stepSeconds,
        hostSeconds: median(hosts),
        kernelSeconds: dispatches.reduce((sum, { seconds }) => sum + seconds, 0),
        spanSeconds: Math.max(...last.map(({ end }) => end)) / 1e9,
        ...best,
        classes: rowsBy(dispatches, ({ opClass }) => opClass, best),
        byKernel: rowsBy(dispatches, ({ kernel }) => kernel, best),
        ops: rowsBy(dispatches, ({ op }) => op, best),
        dispatches
      }
    }).pipe(Effect.provideService(Device, spy))
  })

/** The last step that was timed as a file that Perfetto (ui.perfetto.dev) and chrome://tracing open. */
export const traceOf = ({ adapter, dispatches, kernels }: Profile): string =>
  JSON.stringify({
    displayTimeUnit: "ns",
    traceEvents: [
      { ph: "M", pid: 1, tid: 1, name: "process_name", args: { name: `${adapter}, ${kernels} kernels` } },
      { ph: "M", pid: 1, tid: 1, name: "thread_name", args: { name: "a training step" } },
      ...dispatches.map(({ beginSeconds, bytes, flops, kernel, label, op, opClass, seconds }) => ({
        ph: "X",
        pid: 1,
        tid: 1,
        ts: beginSeconds * 1e6,
        dur: seconds * 1e6,
        name: label,
        cat: opClass,
        args: { op, kernel, flops, bytes }
      }))
    ]
  })
