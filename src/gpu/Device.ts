/**
 * The Device: one GPU in a scope. It allocates, compiles, submits, reads back and notices loss; it is the interpreter of
 * Programs and, with the runtime entry points, the only place that names GPU* types.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { because, DeviceError, isOfGpu, KernelError, told } from "../Errors.ts"
import * as Float16 from "../Float16.ts"
import { named } from "../Missing.ts"
import { bytes, columns, limitBytes } from "../Terminal.ts"
import type { OpenGpu } from "./Adapter.ts"
import * as Kernel from "./Kernel.ts"
import { polled } from "./Poll.ts"
import * as Program from "./Program.ts"
import { SOFTWARE_SUBGROUPS, type Target } from "./Target.ts"
import * as Tensor from "./Tensor.ts"

/** A Program bound to one Device, ready to be submitted any number of times. */
export interface Prepared {
  readonly program: Program.Program
  /** Bytes of the scratch buffers that its lifetime plan asks for. */
  readonly scratchBytes: number
}

/**
 * What the adapter allows: bytes of a buffer and of what a kernel may bind, buffers of a kernel, threads of a
 * workgroup.
 */
export interface Limits {
  readonly maxBufferSize: number
  readonly maxStorageBufferBindingSize: number
  readonly maxStorageBuffersPerShaderStage: number
  readonly maxComputeInvocationsPerWorkgroup: number
}

/** How many GPU objects the Device has made and how many bytes it holds: what tests and `plan` look at. */
export interface Counters {
  buffers: number
  bindGroups: number
  pipelines: number
  submits: number
  bytes: number
}

/** One GPU: memory, Programs, reading back. Its methods are plain functions in a step's hot path, Effects elsewhere. */
export interface DeviceService {
  /** The adapter's name, for people. */
  readonly name: string
  readonly kind: OpenGpu["kind"]
  readonly reason: string
  /** As the driver describes itself. */
  readonly driver: string
  readonly limits: Limits
  readonly features: ReadonlySet<string>
  /** Which kernels run best here; Programs for this device are recorded for it. */
  readonly target: Target
  readonly counters: Readonly<Counters>
  /** Give state tensors zeroed memory until the scope closes. Fails with a table when one exceeds the adapter's limits. */
  readonly allocate: (tensors: ReadonlyArray<Tensor.Tensor>) => Effect.Effect<void, DeviceError, Scope.Scope>
  /** Make everything a Program needs: scratch buffers, pipelines (compiled concurrently), bind groups. */
  readonly prepare: (
    program: Program.Program
  ) => Effect.Effect<Prepared, DeviceError | KernelError, Scope.Scope>
  /**
   * Replay Programs in order, MAX_DISPATCHES at a time. Synchronous and hot: throws DeviceError if the device is lost.
   */
  readonly submit: (...prepared: ReadonlyArray<Prepared>) => void
  /** A Program cut behind some of its dispatches (their numbers, ascending): submitted one after the other it is whole. */
  readonly cut: (prepared: Prepared, behind: ReadonlyArray<number>) => ReadonlyArray<Prepared>
  /** Host memory of so many bytes that tensors pass through on their way out and back; it lives until the scope closes. */
  readonly window: (bytes: number) => Effect.Effect<Window, DeviceError, Scope.Scope>
  /**
   * Replay Programs once, and tell when each of their dispatches ran, in order. Each is in a pass of its own, which costs a
   * little time between them. Fails with reason Feature where the adapter has no timestamps. Without the Dawn toggle
   * `timestamp_quantization` switched off (`disableToggles` of AdapterOptions) times are in steps of 65.5 us.
   */
  readonly time: (...prepared: ReadonlyArray<Prepared>) => Effect.Effect<ReadonlyArray<Timed>, DeviceError>
  /** Copy host data into a state tensor, ordered with submits. */
  readonly write: (tensor: Tensor.Tensor, data: Float32Array | Uint32Array, elementOffset?: number) => void
  /** Copy a state tensor to the host, after everything submitted before. */
  readonly read: (tensor: Tensor.Tensor) => Effect.Effect<Float32Array | Uint32Array, DeviceError>
  /** Wait until everything submitted has run. */
  readonly idle: Effect.Effect<void, DeviceError>
  /** Fails when the device is lost; never succeeds. */
  readonly lost: Effect.Effect<never, DeviceError>
  /** Lose the device as a driver reset would. Tests of recovery use it. */
  readonly lose: Effect.Effect<void>
}

/** A part of a state tensor: elements of 4 bytes. */
export interface Part {
  readonly tensor: Tensor.Tensor
  /** Its first element. */
  readonly at: number
  readonly elements: number
}

/** Where parts of tensors are seen, and may be changed, by the host without a copy of theirs in JavaScript. */
export interface Window {
  /**
   * Copy parts into the window, one behind the other, after everything submitted before; resolves to where they lie, once
   * they do. It takes no others before they are back. Fails with a DeviceError.
   */
  readonly leave: (parts: ReadonlyArray<Part>) => Promise<Float32Array<ArrayBuffer>>
  /** Copy what lies there now to the parts of the same sizes, ordered with submits, and close the window. */
  readonly back: (parts: ReadonlyArray<Part>) => void
}

/** When a dispatch ran: nanoseconds since the first of them began. */
export interface Timed {
  readonly dispatch: Program.Dispatch
  readonly begin: number
  readonly end: number
}

interface PreparedInside extends Prepared {
  readonly clears: ReadonlyArray<readonly [buffer: GPUBuffer, offset: number, bytes: number]>
  readonly commands: ReadonlyArray<readonly [GPUComputePipeline, GPUBindGroup, number, number, number]>
}

/**
 * Dispatches that are submitted together at most: some drivers reset a GPU that is busy with one submit for seconds, and
 * a GPU begins sooner with the first of several.
 */
export const MAX_DISPATCHES = 200

/** Timestamps that a set of queries holds at most: two a dispatch. */
const MAX_QUERIES = 4096

/** A table of what does not fit, for the person who must choose a smaller model. */
export const limitTable = (tensors: ReadonlyArray<Tensor.Tensor>, limit: number): string => {
  const [size, most] = [(n: number) => bytes(n, 1), limitBytes(limit, (n) => bytes(n, 1))]
  const rows = tensors.map((tensor) => [Tensor.show(tensor), size(Tensor.byteLength(tensor)), most])
  return columns([["tensor", "size", "limit"], ...rows], () => true).join("\n")
}

interface MatrixConfig {
  readonly componentType: string
  readonly resultComponentType: string
  readonly M: number
  readonly N: number
  readonly K: number
}

/** The feature by which a kernel asks for the size of its subgroups. */
const SIZE_CONTROL = "subgroup-size-control"

/** The family that an adapter's kind and features suggest. */
export const targetOf = (
  open: { readonly kind: OpenGpu["kind"]; readonly adapter: { readonly info: object } },
  features: ReadonlyArray<string>
): Target => {
  const { subgroupMatrixConfigs = [], subgroupMaxSize: most = 0, subgroupMinSize: least = 0 } = open.adapter.info as {
    readonly subgroupMinSize?: number
    readonly subgroupMaxSize?: number
    readonly subgroupMatrixConfigs?: Iterable<MatrixConfig>
  }
  const sizes = features.includes("subgroups") ? [least, most] as const : [0, 0] as const
  // where the driver chooses among several sizes, kernels of matrix units ask for theirs
  const asked = Kernel.MATRIX_SUBGROUP
  const asks = features.includes(SIZE_CONTROL) && sizes[0] <= asked && asked <= sizes[1]
  // the matrix kernels multiply f16 matrices of 16 x 16 x 16 into f32
  const matrices = features.includes("shader-f16") && (asks || (sizes[0] === asked && sizes[1] === asked)) &&
    [...subgroupMatrixConfigs].some((c) =>
      c.componentType === "f16" && c.resultComponentType === "f32" && c.M === 16 && c.N === 16 && c.K === 16
    )
  const subgroupSize = sizes[0] === sizes[1] ? sizes[0] : matrices ? asked : 0
  const family = open.kind !== "hardware"
    ? SOFTWARE_SUBGROUPS.includes(subgroupSize) ? "software" : "plain"
    : matrices
    ? "tensor"
    : "gpu"
  return { family, subgroupSize, matrices }
}

const make = (open: OpenGpu): Effect.Effect<DeviceService, DeviceError, Scope.Scope> =>
  Effect.gen(function*() {
    const { adapter } = open
    const wanted = ["shader-f16", "subgroups", "timestamp-query", "chromium-experimental-subgroup-matrix", SIZE_CONTROL]
      .filter((name) => adapter.features.has(name))
    const device = yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: () =>
          polled(() =>
            adapter.requestDevice({
              requiredFeatures: wanted as Array<GPUFeatureName>,
              requiredLimits: {
                maxBufferSize: adapter.limits.maxBufferSize,
                maxStorageBufferBindingSize: adapter.limits.maxStorageBufferBindingSize,
                maxStorageBuffersPerShaderStage: adapter.limits.maxStorageBuffersPerShaderStage,
                maxComputeInvocationsPerWorkgroup: adapter.limits.maxComputeInvocationsPerWorkgroup,
                maxComputeWorkgroupStorageSize: adapter.limits.maxComputeWorkgroupStorageSize
              }
            })
          ),
        catch: told((cause) =>
          new DeviceError({ reason: "NoAdapter", detail: `${open.name} gave no device: ${because(cause)}`, cause }),
          isOfGpu)
      }),
      (device) =>
        Effect.sync(() => device.destroy())
    )
    // the object that create() returned must outlive the device: dropped early, the process crashes
    yield* Effect.addFinalizer(() => Effect.sync(() => void open.gpu))

    const lostDeferred = yield* Deferred.make<never, DeviceError>()
    let failure: DeviceError | undefined
    void device.lost.then((info) => {
      failure = new DeviceError({ reason: "Lost", detail: `the GPU was lost: ${info.message || info.reason}` })
      Effect.runFork(Deferred.fail(lostDeferred, failure))
    })
    let uncaptured: string | undefined
    const onUncaptured = (event: Event): void => {
      uncaptured ??= (event as GPUUncapturedErrorEvent).error.message
      event.preventDefault()
    }
    device.addEventListener("uncapturederror", onUncaptured)
    // Dawn holds its listeners strongly, and this one sees the device: left there, neither is ever collected
    yield* Effect.addFinalizer(() => Effect.sync(() => device.removeEventListener("uncapturederror", onUncaptured)))
    const check = (): void => {
      if (failure !== undefined) throw failure
      if (uncaptured !== undefined) throw new DeviceError({ reason: "Validation", detail: uncaptured })
    }

    const counters: Counters = { buffers: 0, bindGroups: 0, pipelines: 0, submits: 0, bytes: 0 }
    const limit = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize)
    const buffers = new Map<Tensor.Tensor, GPUBuffer>()
    const STORAGE = 0x80 | 0x04 | 0x08 // STORAGE | COPY_SRC | COPY_DST
    const UNIFORM = 0x40 | 0x08
    const STAGING = 0x01 | 0x08 // MAP_READ | COPY_DST

    const createBuffer = (size: number, usage: number, label: string): GPUBuffer => {
      counters.buffers++
      counters.bytes += size
      return device.createBuffer({ size, usage, label })
    }
    const destroy = (buffer: GPUBuffer): void => {
      counters.buffers--
      counters.bytes -= buffer.size
      buffer.destroy()
    }

    /** Run GPU object creation inside error scopes, so that a failure is an error here and not a surprise later. */
    const guarded = <A>(what: string, create: () => A | Promise<A>): Effect.Effect<A, DeviceError | KernelError> =>
      Effect.tryPromise({
        try: async () => {
          check()
          device.pushErrorScope("out-of-memory")
          device.pushErrorScope("validation")
          let value: A | undefined
          let thrown: unknown
          try {
            value = await create()
          } catch (cause) {
            thrown = cause
          }
          const validation = await polled(() => device.popErrorScope())
          const memory = await polled(() => device.popErrorScope())
          if (thrown !== undefined) throw thrown
          if (memory !== null) {
            throw new DeviceError({
              reason: "OutOfMemory",
              detail: `${what} does not fit ${open.name}: ${memory.message}. ` +
                `${bytes(counters.bytes)} were in use. Lower batchSize, seqLen or the model's widths.`
            })
          }
          if (validation !== null) {
            throw new DeviceError({ reason: "Validation", detail: `${what}: ${validation.message}` })
          }
          return value as A
        },
        catch: told<DeviceError | KernelError>(
          (cause) => new DeviceError({ reason: "Validation", detail: `${what}: ${because(cause)}`, cause }),
          isOfGpu
        )
      })

    const refuseTooLarge = (tensors: ReadonlyArray<Tensor.Tensor>): Effect.Effect<void, DeviceError> => {
      const large = tensors.filter((tensor) => Tensor.byteLength(tensor) > limit)
      return large.length === 0 ? Effect.void : Effect.fail(
        new DeviceError({
          reason: "Limit",
          detail: `the model does not fit ${open.name}, whose buffers hold ${limitBytes(limit)} at most:\n` +
            `${limitTable(large, limit)}\nChoose smaller widths, a smaller batch, or an adapter with a higher limit`
        })
      )
    }

    const allocate: DeviceService["allocate"] = Effect.fnUntraced(function*(tensors) {
      const homes = [...new Set(tensors.map(Tensor.home))]
      yield* refuseTooLarge(homes)
      const fresh = homes.filter((tensor) => !buffers.has(tensor))
      const free = Effect.sync(() => {
        for (const tensor of fresh) {
          const buffer = buffers.get(tensor)
          if (buffer !== undefined) destroy(buffer)
          buffers.delete(tensor)
        }
      })
      yield* Effect.acquireRelease(
        guarded(`allocating ${fresh.length} tensors`, () => {
          for (const tensor of fresh) {
            buffers.set(tensor, createBuffer(Tensor.byteLength(tensor), STORAGE, tensor.name))
          }
        }).pipe(
          Effect.mapError((error) => error as DeviceError),
          // what did not fit as a whole must not be held in part
          Effect.onError(() => free)
        ),
        () => free
      )
    })

    const bufferOf = (tensor: Tensor.Tensor): GPUBuffer => {
      const buffer = buffers.get(Tensor.home(tensor))
      if (buffer === undefined) throw new Error(`${Tensor.show(tensor)} was never allocated on this device`)
      return buffer
    }

    const offsetOf = (tensor: Tensor.Tensor): number => tensor.inside?.at ?? 0

    interface Pipeline {
      readonly pipeline: GPUComputePipeline
      readonly layout: GPUBindGroupLayout
    }
    const modules = new Map<string, GPUShaderModule>()
    const pipelines = new Map<string, Promise<Pipeline>>()

    const { subgroupMaxSize, subgroupMinSize } = adapter.info as GPUAdapterInfo
    const severalSizes = wanted.includes(SIZE_CONTROL) && subgroupMinSize !== subgroupMaxSize
    const compile = async (kernel: Kernel.Kernel): Promise<Pipeline> => {
      const code = severalSizes ? Kernel.sized(Kernel.source(kernel)) : Kernel.source(kernel)
      const name = Kernel.moduleKey(kernel)
      let module = modules.get(name)
      if (module === undefined) {
        module = device.createShaderModule({ code, label: name })
        modules.set(name, module)
      }
      const entries: Array<GPUBindGroupLayoutEntry> = kernel.bindings.map(([, access], binding) => ({
        binding,
        visibility: 4,
        buffer: { type: access === "read" ? "read-only-storage" as const : "storage" as const }
      }))
      if (kernel.params.length > 0) {
        entries.push({ binding: entries.length, visibility: 4, buffer: { type: "uniform" } })
      }
      const layout = device.createBindGroupLayout({ entries })
      try {
        counters.pipelines++
        const pipeline = await polled(() =>
          device.createComputePipelineAsync({
            label: Kernel.key(kernel),
            layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
            compute: { module, entryPoint: kernel.entry, constants: { ...kernel.constants } }
          })
        )
        return { pipeline, layout }
      } catch (cause) {
        const info = await polled(() => module.getCompilationInfo())
        const lines = info.messages.map((m) => `${kernel.file}.wgsl:${m.lineNum}:${m.linePos} ${m.type}: ${m.message}`)
        throw new KernelError({
          kernel: Kernel.key(kernel),
          detail: lines.length > 0 ? lines.join("\n") : String((cause as Error).message ?? cause),
          source: code
        })
      }
    }
    const pipelineOf = (kernel: Kernel.Kernel): Promise<Pipeline> => {
      const name = Kernel.key(kernel)
      let pipeline = pipelines.get(name)
      if (pipeline === undefined) {
        pipeline = compile(kernel)
        pipelines.set(name, pipeline)
      }
      return pipeline
    }

    const prepare: DeviceService["prepare"] = Effect.fnUntraced(function*(program) {
      const plan = Program.plan(program)
      yield* refuseTooLarge([...plan.slotOf.keys(), ...Program.stateTensors(program)])
      const owned: Array<GPUBuffer> = []
      const acquire = guarded(`preparing ${program.name}`, async (): Promise<PreparedInside> => {
        const slots = plan.slots.map((bytes, i) => createBuffer(bytes, STORAGE, `${program.name} scratch ${i}`))
        owned.push(...slots)
        const alignment = device.limits.minUniformBufferOffsetAlignment
        const offsets: Array<number> = []
        let end = 0
        for (const dispatch of program.dispatches) {
          offsets.push(end)
          end += Math.ceil(dispatch.params.byteLength / alignment) * alignment
        }
        const host = new Uint8Array(Math.max(16, end))
        program.dispatches.forEach((dispatch, i) => host.set(new Uint8Array(dispatch.params), offsets[i]!))
        const uniforms = createBuffer(host.byteLength, UNIFORM, `${program.name} parameters`)
        owned.push(uniforms)
        device.queue.writeBuffer(uniforms, 0, host)
        const compiled = await Promise.all(program.dispatches.map((dispatch) => pipelineOf(dispatch.kernel)))
        const commands = program.dispatches.map((dispatch, i) => {
          const { layout, pipeline } = compiled[i]!
          const entries: Array<GPUBindGroupEntry> = dispatch.tensors.map((tensor, binding) => ({
            binding,
            resource: {
              buffer: tensor.kind === "scratch" ? slots[plan.slotOf.get(tensor)!]! : bufferOf(tensor),
              offset: offsetOf(tensor),
              size: Tensor.byteLength(tensor)
            }
          }))
          if (dispatch.params.byteLength > 0) {
            entries.push({
              binding: entries.length,
              resource: { buffer: uniforms, offset: offsets[i]!, size: dispatch.params.byteLength }
            })
          }
          return [pipeline, device.createBindGroup({ layout, entries }), ...dispatch.workgroups] as const
        })
        return {
          program,
          scratchBytes: plan.slots.reduce((a, b) => a + b, 0),
          clears: program.clears.map(({ bytes, tensor }) => [bufferOf(tensor), offsetOf(tensor), bytes] as const),
          commands
        }
      }).pipe(
        Effect.tap((prepared) => Effect.sync(() => void (counters.bindGroups += prepared.commands.length))),
        Effect.onError(() => Effect.sync(() => owned.forEach(destroy)))
      )
      return yield* Effect.acquireRelease(acquire, (prepared) =>
        Effect.sync(() => {
          owned.forEach(destroy)
          counters.bindGroups -= prepared.commands.length
        }))
    })

    const submit: DeviceService["submit"] = (...list) => {
      check()
      let encoder = device.createCommandEncoder()
      let pass: GPUComputePassEncoder | undefined
      let set: GPUComputePipeline | undefined
      let room = MAX_DISPATCHES
      const send = (): void => {
        pass?.end()
        pass = undefined
        device.queue.submit([encoder.finish()])
        counters.submits++
      }
      for (const prepared of list as ReadonlyArray<PreparedInside>) {
        if (prepared.clears.length > 0) {
          pass?.end()
          pass = undefined
          for (const [buffer, offset, bytes] of prepared.clears) encoder.clearBuffer(buffer, offset, bytes)
        }
        for (const [pipeline, group, x, y, z] of prepared.commands) {
          if (room === 0) {
            send()
            encoder = device.createCommandEncoder()
            room = MAX_DISPATCHES
          }
          if (pass === undefined) {
            pass = encoder.beginComputePass()
            set = undefined
          }
          // each call into the driver is a microsecond of a step
          if (pipeline !== set) pass.setPipeline(set = pipeline)
          pass.setBindGroup(0, group)
          pass.dispatchWorkgroups(x, y, z)
          room--
        }
      }
      send()
    }

    const cut: DeviceService["cut"] = (prepared, behind) => {
      const { clears, commands } = prepared as PreparedInside
      const ends = [...behind.map((dispatch) => dispatch + 1), commands.length]
      return ends.map((end, i): PreparedInside => ({
        ...prepared,
        clears: i === 0 ? clears : [],
        commands: commands.slice(i === 0 ? 0 : ends[i - 1], end)
      }))
    }

    const window: DeviceService["window"] = (bytes) =>
      Effect.acquireRelease(
        Effect.mapError(
          guarded("a window for exchange", () => createBuffer(bytes, STAGING, "window")),
          (error) => error as DeviceError
        ),
        (buffer) => Effect.sync(() => destroy(buffer))
      ).pipe(Effect.map((buffer): Window => {
        let mapped: Float32Array<ArrayBuffer> | undefined
        return {
          leave: async (parts) => {
            check()
            const encoder = device.createCommandEncoder()
            let at = 0
            for (const { at: from, elements, tensor } of parts) {
              encoder.copyBufferToBuffer(bufferOf(tensor), offsetOf(tensor) + 4 * from, buffer, at, 4 * elements)
              at += 4 * elements
            }
            device.queue.submit([encoder.finish()])
            try {
              await polled(() => buffer.mapAsync(1, 0, at))
              check()
              return mapped = new Float32Array(buffer.getMappedRange(0, at))
            } catch (cause) {
              await new Promise((resolve) => setTimeout(resolve, 0))
              check()
              throw told((cause) =>
                new DeviceError({ reason: "Lost", detail: `reading gradients: ${because(cause)}`, cause }), isOfGpu)(
                  cause
                )
            }
          },
          back: (parts) => {
            check()
            let at = 0
            for (const { at: to, elements, tensor } of parts) {
              device.queue.writeBuffer(bufferOf(tensor), offsetOf(tensor) + 4 * to, mapped!, at, elements)
              at += elements
            }
            buffer.unmap()
            mapped = undefined
          }
        }
      }))

    // staging buffers are kept by size: reading a loss every few steps must not create one each time
    const staging = new Map<number, Array<GPUBuffer>>()
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const list of staging.values()) {
          list.forEach(destroy)
        }
      })
    )
    const read: DeviceService["read"] = (tensor) =>
      Effect.uninterruptible(Effect.tryPromise({
        try: async () => {
          check()
          const bytes = Tensor.byteLength(tensor)
          const buffer = staging.get(bytes)?.pop() ?? createBuffer(bytes, STAGING, "staging")
          const encoder = device.createCommandEncoder()
          encoder.copyBufferToBuffer(bufferOf(tensor), offsetOf(tensor), buffer, 0, bytes)
          device.queue.submit([encoder.finish()])
          try {
            await polled(() =>
              buffer.mapAsync(1)
            )
            const width = tensor.type === "f16" ? 2 : 4
            const copy = buffer.getMappedRange().slice(0, Tensor.size(tensor) * width)
            buffer.unmap()
            staging.set(bytes, [...(staging.get(bytes) ?? []), buffer])
            check()
            if (tensor.type === "f16") return Float16.decode(new Uint16Array(copy))
            return tensor.type === "f32" ? new Float32Array(copy) : new Uint32Array(copy)
          } catch (cause) {
            // mapAsync rejects as soon as the device is lost, sometimes before device.lost resolves
            await new Promise((resolve) => setTimeout(resolve, 0))
            check()
            throw cause
          }
        },
        catch: told((cause) =>
          new DeviceError({ reason: "Lost", detail: `reading ${Tensor.show(tensor)}: ${because(cause)}`, cause }),
          isOfGpu)
      }))

    const time: DeviceService["time"] = (...list) =>
      Effect.uninterruptible(Effect.tryPromise({
        try: async () => {
          check()
          if (!wanted.includes("timestamp-query")) {
            throw new DeviceError({
              reason: "Feature",
              detail:
                `${open.name} has no timestamps (the WebGPU feature timestamp-query), so that kernels cannot be timed ` +
                "on it: choose another adapter (memsinks doctor tells what each can do)"
            })
          }
          const programs = list as ReadonlyArray<PreparedInside>
          const total = 2 * programs.reduce((n, { commands }) => n + commands.length, 0)
          const sets = Array.from({ length: Math.ceil(total / MAX_QUERIES) }, (_, i) =>
            device.createQuerySet({ type: "timestamp", count: Math.min(MAX_QUERIES, total - i * MAX_QUERIES) }))
          // QUERY_RESOLVE | COPY_SRC
          const resolved = createBuffer(Math.max(16, 8 * total), 0x200 | 0x04, "timestamps")
          const back = createBuffer(resolved.size, STAGING, "timestamps, staged")
          try {
            let at = 0
            for (const { clears, commands } of programs) {
              // a submit a Program, and one more for each MAX_DISPATCHES of it
              for (let first = 0; first === 0 || first < commands.length; first += MAX_DISPATCHES) {
                const encoder = device.createCommandEncoder()
                if (first === 0) { for (const clear of clears) encoder.clearBuffer(...clear) }
                for (const [pipeline, group, x, y, z] of commands.slice(first, first + MAX_DISPATCHES)) {
                  const begin = at % MAX_QUERIES
                  const querySet = sets[Math.floor(at / MAX_QUERIES)]!
                  const pass = encoder.beginComputePass({
                    timestampWrites: { querySet, beginningOfPassWriteIndex: begin, endOfPassWriteIndex: begin + 1 }
                  })
                  pass.setPipeline(pipeline)
                  pass.setBindGroup(0, group)
                  pass.dispatchWorkgroups(x, y, z)
                  pass.end()
                  at += 2
                }
                device.queue.submit([encoder.finish()])
                counters.submits++
              }
            }
            const encoder = device.createCommandEncoder()
            sets.forEach((set, i) => encoder.resolveQuerySet(set, 0, set.count, resolved, 8 * i * MAX_QUERIES))
            encoder.copyBufferToBuffer(resolved, 0, back, 0, back.size)
            device.queue.submit([encoder.finish()])
            await polled(() => back.mapAsync(1))
            const stamps = new BigUint64Array(back.getMappedRange().slice(0))
            back.unmap()
            check()
            const dispatches = programs.flatMap(({ program }) => program.dispatches)
            const since = (i: number): number => Number(BigInt.asIntN(64, stamps[i]! - stamps[0]!))
            return dispatches.map((dispatch, i) => ({ dispatch, begin: since(2 * i), end: since(2 * i + 1) }))
          } finally {
            destroy(resolved)
            destroy(back)
            for (const set of sets) set.destroy()
          }
        },
        catch: (cause) =>
          cause instanceof DeviceError
            ? cause
            : new DeviceError({ reason: "Lost", detail: `timing kernels: ${because(cause)}`, cause })
      }))

    return {
      name: open.name,
      kind: open.kind,
      reason: open.reason,
      driver: [adapter.info.vendor, adapter.info.architecture, adapter.info.device, adapter.info.description].join(" "),
      limits: {
        maxBufferSize: device.limits.maxBufferSize,
        maxStorageBufferBindingSize: device.limits.maxStorageBufferBindingSize,
        maxStorageBuffersPerShaderStage: device.limits.maxStorageBuffersPerShaderStage,
        maxComputeInvocationsPerWorkgroup: device.limits.maxComputeInvocationsPerWorkgroup
      },
      features: new Set(wanted),
      target: { ...targetOf(open, wanted), workgroupBytes: device.limits.maxComputeWorkgroupStorageSize },
      counters,
      allocate,
      prepare,
      submit,
      cut,
      window,
      time,
      write: (tensor, data, elementOffset = 0) => {
        if (elementOffset + data.length > Tensor.size(tensor)) {
          throw new RangeError(
            `${Tensor.show(tensor)}: writing ${data.length} elements at ${elementOffset} overruns it`
          )
        }
        if (tensor.type === "f16") {
          if (elementOffset % 2 !== 0) {
            throw new RangeError(`${Tensor.show(tensor)}: f16 is written from even offsets on`)
          }
          device.queue.writeBuffer(bufferOf(tensor), offsetOf(tensor) + elementOffset * 2, Float16.encode(data))
        } else {
          const at = offsetOf(tensor) + elementOffset * 4
          device.queue.writeBuffer(bufferOf(tensor), at, data as Float32Array<ArrayBuffer>)
        }
      },
      read,
      idle: Effect.tryPromise({
        try: async () => {
          check()
          await polled(() => device.queue.onSubmittedWorkDone())
          check()
        },
        catch: told((cause) => new DeviceError({ reason: "Lost", detail: because(cause), cause }), isOfGpu)
      }),
      lost: Deferred.await(lostDeferred),
      lose: Effect.sync(() => device.destroy())
    }
  })

/**
 * One GPU in a scope: memory for tensors, Programs compiled and replayed, results read back. Its layers are
 * `NodeDevice.layer` of `memsinks/node` and `DenoDevice.layer` of `memsinks/deno`; they fail with a DeviceError that says
 * what was tried.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import { Device, Tensor } from "memsinks"
 * import * as NodeDevice from "memsinks/node"
 *
 * const x = Tensor.make("x", [2, 3])
 *
 * const main = Effect.gen(function*() {
 *   const device = yield* Device
 *   yield* device.allocate([x]) // zeroed, until the scope closes
 *   device.write(x, Float32Array.of(1, 2, 3), 3) // from element 3 on
 *   console.log(Tensor.show(x), (yield* device.read(x)).join(" "))
 * })
 *
 * await Effect.runPromise(main.pipe(Effect.scoped, Effect.provide(NodeDevice.layer())))
 * // x f32[2, 3] 0 0 0 1 2 3
 * ```
 */
export class Device extends Context.Tag("memsinks/Device")<Device, DeviceService>() {
  /** A Device on an opened adapter; it lives until the scope closes. `NodeDevice.layer` and `DenoDevice.layer` call it. */
  static readonly make = make
}

named(Device, "Device", "NodeDevice.layer() of \"memsinks/node\" or DenoDevice.layer() of \"memsinks/deno\"")
