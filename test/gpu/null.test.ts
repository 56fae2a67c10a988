/** Everything that Dawn's null backend can tell: it validates all and computes nothing, so no adapter is needed. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { readdirSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { DeviceError, KernelError } from "../../src/Errors.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import * as Program from "../../src/gpu/Program.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { kernels } from "../../src/model/Kernels.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { HYPER, recordPass } from "../../src/model/Pass.ts"
import * as NodeDevice from "../../src/node.ts"
import { own, SinkConfig } from "../../src/Sink.ts"
import * as Optimizer from "../../src/train/Optimizer.ts"
import { allKernels } from "../kernels/all.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments } from "../support/support.ts"

const nullDevice = NodeDevice.layer({ adapter: "null" })

// ---------------------------------------------------------------------------------------------------------------
// the tables of Ops.ts and the WGSL they describe

/** What a WGSL file declares, as far as the tables speak of it. */
const parse = (text: string) => {
  const code = text.replace(/\/\/.*$/gm, "")
  const variables = [
    ...code.matchAll(/@group\(0\)\s*@binding\((\d+)\)\s*var<([\w, ]+)>\s*(\w+)\s*:\s*([^;]+);/g)
  ].map(([, binding, space, name, type]) => ({
    binding: Number(binding),
    space: space!.replace(/\s/g, ""),
    name: name!,
    type: type!.trim()
  }))
  const structs = new Map(
    [...code.matchAll(/struct\s+(\w+)\s*\{([^}]*)\}/g)].map(([, name, body]) => [
      name!,
      body!.split(",").map((field) => field.trim()).filter((field) => field !== "").map((field) => {
        const [fieldName, type] = field.split(":").map((part) => part.trim())
        return [fieldName!, type!] as const
      })
    ])
  )
  const overrides = new Set([...code.matchAll(/override\s+(\w+)/g)].map(([, name]) => name!))
  const functions = new Map<string, string>()
  for (const match of code.matchAll(/\bfn\s+(\w+)\s*\(/g)) {
    let depth = 0
    let end = code.indexOf("{", match.index)
    do {
      if (code[end] === "{") depth++
      if (code[end] === "}") depth--
      end++
    } while (depth > 0)
    functions.set(match[1]!, code.slice(match.index, end))
  }
  const entries = [...code.matchAll(/@compute[^{]*?\bfn\s+(\w+)/g)].map(([, name]) => name!)
  /** Names that a function and all it calls mention, without those it declares itself. */
  const mentions = (name: string, seen = new Set<string>()): Set<string> => {
    if (seen.has(name)) return new Set()
    seen.add(name)
    const body = functions.get(name)!
    const own = new Set([...body.matchAll(/\b(?:let|var|const)\s+(\w+)/g)].map(([, local]) => local!))
    const words = [...body.matchAll(/(?<!\.)\b[A-Za-z_]\w*/g)].map(([word]) => word)
    const all = new Set(words.filter((word) => !own.has(word)))
    for (const word of [...all]) {
      if (functions.has(word)) { for (const other of mentions(word, seen)) all.add(other) }
    }
    return all
  }
  return { code, variables, structs, overrides, functions, entries, mentions }
}

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** In WGSL, variables that share a binding number are told apart: `w4` is `w` in groups of four, `out_in` is read. */
const bare = (name: string): string => name.replace(/(_in|_out|_w|4)$/, "")

/** Bindings that a table calls something else. */
const renamed = new Map([
  // as all that reduce.wgsl reads
  ["reduce.finish partial", "x"],
  // the file's other entry point has its result under another number
  ["nearest.words best", "best_words"]
])

/** Bindings that a table lists and the entry point does not use: matmul's two entry points share one table. */
const unused = new Set([
  // matvec's other kernels have sinks
  "matvec_subgroup.nt units",
  ...["matmul", "matmul_subgroup", "matmul_quad", "matmul_tiled", "matmul_matrix"].flatMap((file) => [
    `${file}.tn residual`,
    `${file}.tn tiles`
  ])
])

describe("the tables of Ops.ts", () => {
  it("name every entry point there is, and none that is not", () => {
    const files = readdirSync(new URL("../../kernels/", import.meta.url)).filter((file) => file.endsWith(".wgsl"))
    const declared = files.flatMap((file) => {
      const name = file.replace(".wgsl", "")
      const text = Kernel.source(Kernel.make({ file: name, entry: "", bindings: {} }))
      return parse(text).entries.map((entry) => `${name}.${entry}`)
    })
    expect(declared.sort()).toEqual([...new Set(allKernels.map((k) => `${k.file}.${k.entry}`))].sort())
  })

  for (const kernel of allKernels) {
    it(`agree with the WGSL: ${Kernel.key(kernel)}`, () => {
      const { mentions, overrides, structs, variables } = parse(Kernel.source(kernel))
      const words = mentions(kernel.entry)
      const used = variables.filter(({ name }) => words.has(name))
      kernel.bindings.forEach(([name, access], binding) => {
        const label = `${kernel.file}.${kernel.entry} ${name}`
        const here = used.filter((variable) => variable.binding === binding)
        if (unused.has(label)) {
          expect(here, label).toEqual([])
          const declared = variables.filter((variable) => variable.binding === binding && variable.name === snake(name))
          expect(declared.map(({ space }) => space), label).toEqual(["storage,read"])
          return
        }
        expect(here.length, `${label} at binding ${binding}`).toBeGreaterThan(0)
        for (const variable of here) {
          expect(variable.space, label).toBe(access === "read" ? "storage,read" : "storage,read_write")
          expect(bare(variable.name), label).toBe(bare(renamed.get(label) ?? snake(name)))
        }
      })
      const uniforms = used.filter(({ space }) => space === "uniform")
      expect(uniforms.map(({ binding }) => binding)).toEqual(kernel.params.length === 0 ? [] : [kernel.bindings.length])
      expect(Object.keys(kernel.constants).filter((name) => !overrides.has(name))).toEqual([])
      expect(used.every(({ binding }) => binding <= kernel.bindings.length)).toBe(true)
      if (kernel.params.length === 0) return
      const fields = structs.get(uniforms[0]!.type)!
      expect(fields).toEqual(kernel.params.map(([name, type]) => [snake(name), type]))
    })
  }
})

// ---------------------------------------------------------------------------------------------------------------
// models

/** A dispatch of every distinct kernel of some programs, on tensors of one matrix: compiling it compiles the programs. */
const distinctKernels = (kernels: Iterable<Kernel.Kernel>) => {
  const distinct = [...new Map([...kernels].map((kernel) => [Kernel.key(kernel), kernel])).values()]
  const dispatches = distinct.map((kernel) => ({
    label: Kernel.key(kernel),
    kernel,
    tensors: kernel.bindings.map(([name]) => Tensor.make(name, [256])),
    params: new ArrayBuffer(Math.ceil(kernel.params.length / 4) * 16),
    workgroups: [1, 1, 1] as const
  }))
  return { tensors: dispatches.flatMap((d) => d.tensors), program: { name: "all kernels", clears: [], dispatches } }
}

/** Records training of a model on batches of one row of 64 tokens. */
const recordTraining = (config: ModelConfig) => {
  const parameters = parametersOf(config)
  const hyper = Tensor.make("hyper", [16])
  const pass = recordPass(config, parameters, hyper, { rows: 1, seqLen: 64, output: "train" })
  const optimizer = Optimizer.record(
    new Optimizer.OptimizerConfig({ sinks: "lazy" }),
    config,
    listParameters(parameters),
    hyper,
    4
  )
  const programs = [optimizer.begin, pass.program, optimizer.accumulate(pass.tensors.loss), optimizer.update]
  return { pass, programs }
}

/** Tensors and scratch buffers that some programs need at once. */
const demand = (programs: ReadonlyArray<Program.Program>) => {
  const state = [...new Set(programs.flatMap(Program.stateTensors))]
  const sizes = [...state.map(Tensor.byteLength), ...programs.flatMap((program) => Program.plan(program).slots)]
  return { state, largest: Math.max(...sizes), bytes: sizes.reduce((a, b) => a + b, 0) }
}

const { "nulls-1b": nulls, "smol-1.7b": large, "smol-135m": small, "smol-360m": middle, tiny } = presets

const withSinks = (c: ModelConfig, pool: number, active: number): ModelConfig =>
  new ModelConfig({ ...c, intermediateSize: c.intermediateSize + pool, sinks: new SinkConfig({ pool, active }) })

const nullsGathered = new ModelConfig({
  ...nulls,
  intermediateSize: 512 + 7680,
  sinks: new SinkConfig({ pool: 7680, active: 96, block: 16 })
})

/**
 * What the null backend has room for: 128 MiB a tensor and 512 MiB together. Whole models beyond that are recorded,
 * planned and compiled, and must be refused for this very reason. Of those, one layer with a vocabulary of 256 is run,
 * a program at a time, where that fits.
 */
type Outcome = "runs" | "Limit" | "OutOfMemory"

const models: ReadonlyArray<{
  readonly name: string
  readonly config: ModelConfig
  readonly gathered: boolean
  readonly whole: Outcome
  readonly oneLayer: Outcome
}> = [
  { name: "tiny", config: tiny, gathered: true, whole: "runs", oneLayer: "runs" },
  { name: "smol-135m", config: small, gathered: false, whole: "OutOfMemory", oneLayer: "runs" },
  { name: "smol-360m", config: middle, gathered: false, whole: "Limit", oneLayer: "runs" },
  { name: "smol-1.7b", config: large, gathered: false, whole: "Limit", oneLayer: "OutOfMemory" },
  { name: "nulls-1b", config: nulls, gathered: true, whole: "Limit", oneLayer: "runs" },
  {
    name: "smol-135m with sinks",
    config: withSinks(small, 2048, 64),
    gathered: true,
    whole: "OutOfMemory",
    oneLayer: "runs"
  },
  {
    name: "smol-360m with sinks",
    config: withSinks(middle, 4096, 128),
    gathered: true,
    whole: "Limit",
    oneLayer: "runs"
  },
  {
    name: "smol-1.7b with sinks",
    config: withSinks(large, 4096, 256),
    gathered: true,
    whole: "Limit",
    oneLayer: "Limit"
  },
  { name: "nulls-1b in blocks of 16", config: nullsGathered, gathered: true, whole: "Limit", oneLayer: "runs" }
]

const MEMORY = 512 * 2 ** 20

/** Allocates, prepares and submits programs together; it must end as their sizes say, and leave nothing behind. */
const run = (device: DeviceService, programs: ReadonlyArray<Program.Program>) =>
  Effect.gen(function*() {
    const { bytes, largest, state } = demand(programs)
    const { bindGroups, buffers, bytes: held } = device.counters
    const outcome = yield* Effect.scoped(Effect.gen(function*() {
      yield* device.allocate(state)
      const prepared = yield* Effect.forEach(programs, device.prepare)
      device.submit(...prepared)
      device.submit(...prepared)
      yield* device.idle
      expect(device.counters.bindGroups).toBe(bindGroups + programs.flatMap((program) => program.dispatches).length)
      expect(device.counters.bytes).toBeGreaterThanOrEqual(bytes)
      return "runs" as Outcome
    })).pipe(Effect.catchTag("DeviceError", (error) => Effect.succeed(error.reason as Outcome)))
    expect(outcome).toBe(
      largest > device.limits.maxStorageBufferBindingSize ? "Limit" : bytes > MEMORY ? "OutOfMemory" : "runs"
    )
    expect(device.counters).toMatchObject({ bindGroups, buffers, bytes: held })
    return outcome
  })

layer(nullDevice)("on the null backend", (it) => {
  it.scoped("every kernel compiles, for f32 and for every type it can be compiled for", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const typed = allKernels.filter((kernel) => Object.keys(kernel.types).length > 0)
      const kernels = [
        ...allKernels,
        ...typed.map((kernel) => Kernel.specialize(kernel, () => "f16")),
        ...typed.flatMap((kernel) =>
          Object.keys(kernel.types).length === 1
            ? []
            : Object.values(kernel.types).map((half) =>
              Kernel.specialize(kernel, (b) => (half.includes(b) ? "f16" : "f32"))
            )
        )
      ]
      const { program, tensors } = distinctKernels(kernels)
      expect(program.dispatches).toHaveLength(kernels.length)
      yield* device.allocate(tensors)
      device.submit(yield* device.prepare(program))
      yield* device.idle
      expect(device.counters.pipelines).toBe(kernels.length)
    }))

  it("types of the tables are aliases of the files, and only of the bindings they name", () => {
    for (const kernel of allKernels) {
      const { mentions, variables } = parse(Kernel.source(kernel))
      const words = mentions(kernel.entry)
      for (const variable of variables.filter(({ name }) => words.has(name))) {
        const element = /^array<(\w+)>$/.exec(variable.type)?.[1]
        const alias = Object.keys(kernel.types).find((name) => element === name || element === `${name}4`)
        const binding = kernel.bindings[variable.binding]?.[0]
        const expected = Object.entries(kernel.types).find(([, bindings]) => bindings.includes(binding!))?.[0]
        expect(alias, `${Kernel.key(kernel)} ${variable.name}`).toBe(expected)
      }
      for (const alias of Object.keys(kernel.types)) {
        expect(Kernel.source({ ...kernel, f16: [alias] })).toContain(`alias ${alias}4 = vec4h;`)
      }
    }
  })

  it.scoped("a kernel that does not compile fails with its name and frees what was made", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = { ...device.counters }
      const { program, tensors } = distinctKernels([{ ...kernels.sum, constants: { NOSUCH: 1 } }])
      const error = yield* Effect.zipRight(device.allocate(tensors), device.prepare(program)).pipe(
        Effect.scoped,
        Effect.flip
      )
      expect(error).toBeInstanceOf(KernelError)
      expect(error.message).toMatch(/kernel reduce\.sum\(NOSUCH=1\): .*NOSUCH/s)
      expect(device.counters).toEqual({ ...before, pipelines: before.pipelines + 1 })
    }))

  for (const { config, gathered, name, oneLayer, whole } of models) {
    it.effect(`${name} records and compiles training; whole: ${whole}, one layer: ${oneLayer}`, () =>
      Effect.gen(function*() {
        const device = yield* Device
        const recorded = recordTraining(config)
        expect(recorded.pass.gathered).toBe(gathered)
        const { program, tensors } = distinctKernels(
          recorded.programs.flatMap(({ dispatches }) => dispatches.map((dispatch) => dispatch.kernel))
        )
        expect(program.dispatches.length).toBeGreaterThan(20)
        yield* Effect.scoped(Effect.zipRight(device.allocate(tensors), device.prepare(program)))

        expect(yield* run(device, recorded.programs)).toBe(whole)
        const one = recordTraining(new ModelConfig({ ...config, numHiddenLayers: 1, vocabSize: 256 }))
        const outcomes = yield* Effect.forEach(one.programs, (program) => run(device, [program]))
        expect(outcomes.find((outcome) => outcome !== "runs") ?? "runs").toBe(oneLayer)
      }))
  }

  it.scoped("a step of training creates no GPU object, and closing its scope frees all but the staging buffers", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const config = presets.tiny
      const random = makeRandom(5)
      const batch = batchOfDocuments([[[16, 1n]], [[8, 2n], [8, 3n]]], 16, config.vocabSize, random)
      yield* Effect.scoped(Effect.gen(function*() {
        const model = yield* Model.make(config)
        const optimizer = Optimizer.record(new Optimizer.OptimizerConfig({}), config, model.parameters, model.hyper, 4)
        yield* device.allocate(optimizer.tensors)
        const pass = yield* model.compile({ rows: 2, seqLen: 16, maxSegments: 4, output: "train" })
        const [begin, accumulate, update] = yield* Effect.forEach(
          [optimizer.begin, optimizer.accumulate(pass.tensors.loss), optimizer.update],
          device.prepare
        )
        const step = Effect.gen(function*() {
          const { scored, units } = pass.load(batch, own)
          device.write(model.hyper, Float32Array.of(1 / scored, 1 / scored), HYPER.lossScale)
          for (const [tensor, data] of optimizer.touch(units)) device.write(tensor, data)
          device.submit(begin!, pass.prepared, accumulate!, update!)
          return yield* device.read(optimizer.stats)
        })
        yield* step
        const before = { ...device.counters }
        expect(before.buffers).toBeGreaterThan(20)
        for (let i = 0; i < 3; i++) yield* step
        expect(device.counters).toEqual({ ...before, submits: before.submits + 3 })
      }))
      // the one staging buffer that reading stats took
      expect(device.counters).toMatchObject({ buffers: 1, bindGroups: 0, bytes: 32 })
    }))

  it.scoped("a tensor above the adapter's limit is refused by a table of name, size and limit", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = { ...device.counters }
      const small = Tensor.make("small", [4])
      const error = yield* device.allocate([
        small,
        Tensor.make("embed", [49152, 1024]),
        Tensor.make("layers.0.gateUp.moment", [100, 1024, 1024])
      ]).pipe(Effect.flip)
      expect(error).toBeInstanceOf(DeviceError)
      expect(error.reason).toBe("Limit")
      const table = error.message.split("\n").slice(1, 4)
      expect(table).toEqual([
        "tensor                                       size       limit",
        "embed f32[49152, 1024]                       192.0 MiB  128.0 MiB",
        "layers.0.gateUp.moment f32[100, 1024, 1024]  400.0 MiB  128.0 MiB"
      ])
      expect(error.message).not.toMatch(/\bsmall\b/)
      // scratch is refused in the same way, before any memory is taken
      const p = Program.record("large scratch")
      const logits = p.scratch("logits", [64, 2 ** 20])
      const one = { rows: 1, cols: 1, in0: 0, ldi: 1, out0: 0, ldo4: 1 }
      p.dispatch(kernels.transpose, { x: small, y: logits }, one, 1)
      const refused = yield* device.prepare(p.finish()).pipe(Effect.flip)
      expect(refused.message).toMatch(/logits f32\[64, 1048576\] +256\.0 MiB +128\.0 MiB/)
      expect(device.counters).toEqual(before)
    }))

  it.scoped("tensors that do not fit together are held neither in part nor afterwards", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = { ...device.counters }
      const parts = Array.from({ length: 5 }, (_, i) => Tensor.make(`part ${i}`, [2 ** 25]))
      const error = yield* device.allocate(parts).pipe(Effect.flip)
      expect(error.reason).toBe("OutOfMemory")
      expect(error.message).toMatch(/allocating 5 tensors does not fit null backend.*Lower batchSize/s)
      expect(device.counters).toEqual(before)
      expect(() => device.write(parts[0]!, Float32Array.of(1))).toThrow(/part 0 f32\[33554432\] was never allocated/)
      // and the room they would have taken is there
      yield* Effect.scoped(device.allocate(parts.slice(0, 3)))
      expect(device.counters).toEqual(before)
    }))

  it.scoped("a tensor given twice is allocated once", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = device.counters.buffers
      const tensor = Tensor.make("twice", [4])
      yield* Effect.scoped(Effect.gen(function*() {
        yield* device.allocate([tensor, tensor])
        yield* Effect.scoped(device.allocate([tensor]))
        expect(device.counters.buffers).toBe(before + 1)
        device.write(tensor, Float32Array.of(1))
      }))
      expect(device.counters.buffers).toBe(before)
    }))

  it.scoped("a program on a tensor that was never allocated fails with the tensor's name and frees what was made", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = { ...device.counters }
      const { program } = distinctKernels([kernels.sum])
      const error = yield* device.prepare(program).pipe(Effect.flip)
      expect(error.message).toMatch(/preparing all kernels.*x f32\[256\] was never allocated/)
      expect(device.counters).toEqual(before)
    }))

  it.scoped("host data that overruns a tensor is refused", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const tensor = Tensor.make("t", [6])
      yield* device.allocate([tensor])
      expect(() => device.write(tensor, new Float32Array(4), 3)).toThrow(/t f32\[6\]: writing 4 elements at 3 overruns/)
      expect((yield* device.read(tensor)).length).toBe(6)
    }))
})

describe("a device of its own on the null backend", () => {
  it("holds nothing once its scope is closed", async () => {
    const counters = await Effect.runPromise(
      Effect.gen(function*() {
        const device = yield* Device
        const { program, tensors } = distinctKernels(allKernels)
        yield* device.allocate(tensors)
        device.submit(yield* device.prepare(program))
        yield* device.read(tensors[0]!)
        expect(device.counters.buffers).toBeGreaterThan(tensors.length)
        return device.counters
      }).pipe(Effect.scoped, Effect.provide(nullDevice))
    )
    expect(counters).toMatchObject({ buffers: 0, bindGroups: 0, bytes: 0, submits: 1 })
  })

  it("says that it is lost: to who waits, submits, reads or prepares", async () => {
    await Effect.runPromise(
      Effect.gen(function*() {
        const device = yield* Device
        const { program, tensors } = distinctKernels([kernels.sum])
        yield* device.allocate(tensors)
        const prepared = yield* device.prepare(program)
        device.submit(prepared)
        yield* device.lose
        const lost = yield* Effect.flip(device.lost)
        expect(lost).toBeInstanceOf(DeviceError)
        expect(lost.reason).toBe("Lost")
        const thrown = yield* Effect.flip(Effect.try({ try: () => device.submit(prepared), catch: (error) => error }))
        expect(thrown).toBeInstanceOf(DeviceError)
        expect(thrown).toMatchObject({ reason: "Lost" })
        expect(device.counters.submits).toBe(1)
        expect(yield* Effect.flip(device.read(tensors[0]!))).toMatchObject({ reason: "Lost" })
        expect(yield* Effect.flip(device.idle)).toMatchObject({ reason: "Lost" })
        expect(yield* Effect.flip(device.prepare(program))).toMatchObject({ reason: "Lost" })
      }).pipe(Effect.scoped, Effect.provide(nullDevice))
    )
  })
})
