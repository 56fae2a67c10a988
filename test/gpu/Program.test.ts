/** Recording and the memory plan: plain data, no adapter. */
import { describe, expect, it } from "vitest"
import * as Kernel from "../../src/gpu/Kernel.ts"
import * as Program from "../../src/gpu/Program.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { kernels } from "../../src/model/Kernels.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { type PassShape, recordPass } from "../../src/model/Pass.ts"
import { SinkConfig } from "../../src/Sink.ts"
import * as Optimizer from "../../src/train/Optimizer.ts"

/** A kernel that exists nowhere: nothing here compiles. */
const copy = Kernel.make({
  file: "copy",
  entry: "forward",
  bindings: { x: "read", y: "write" },
  params: { n: "u32", scale: "f32" },
  constants: { WX: 16 }
})

const sum = Kernel.make({ file: "sum", entry: "forward", bindings: { a: "read", b: "read", y: "write" } })

const params = { n: 1, scale: 1 }

describe("recording", () => {
  it("keeps tensors in binding order, whatever order they are given in", () => {
    const [x, y] = [Tensor.make("x", [4]), Tensor.make("y", [4])]
    const p = Program.record("order")
    p.dispatch(copy, { y, x }, params, 1)
    expect(p.finish().dispatches[0]!.tensors).toEqual([x, y])
  })

  it("encodes parameters by type, in declared order, padded to 16 bytes", () => {
    const view = new DataView(Kernel.encodeParams(copy, { scale: 0.5, n: 4294967295 }))
    expect(view.byteLength).toBe(16)
    expect(view.getUint32(0, true)).toBe(4294967295)
    expect(view.getFloat32(4, true)).toBe(0.5)
    expect(Kernel.encodeParams(kernels.matmulNN, {
      m: 1,
      n4: 2,
      k: 3,
      mode: 4,
      a0: 5,
      lda: 6,
      b0: 7,
      ldb4: 8,
      c0: 9,
      ldc4: 10,
      ldr4: 11,
      segmentStride4: 12
    }).byteLength).toBe(48)
  })

  it("refuses parameters that are missing, not finite, or do not fit u32, and names them", () => {
    for (const [values, problem] of [
      [{ scale: 1 }, /copy\.forward.*parameter n is undefined/],
      [{ n: 1, scale: NaN }, /parameter scale is NaN/],
      [{ n: 1.5, scale: 1 }, /parameter n must fit u32, got 1\.5/],
      [{ n: -1, scale: 1 }, /parameter n must fit u32, got -1/],
      [{ n: 2 ** 32, scale: 1 }, /parameter n must fit u32, got 4294967296/]
    ] as const) {
      expect(() => Kernel.encodeParams(copy, values as Record<string, number>)).toThrow(problem)
    }
  })

  it("refuses a tensor bound twice when one of the bindings writes", () => {
    const [x, y] = [Tensor.make("x", [4]), Tensor.make("y", [4])]
    const p = Program.record("aliases")
    expect(() => p.dispatch(copy, { x, y: x }, params, 1)).toThrow(/copy\.forward.*x f32\[4\] is bound twice/)
    expect(() => p.dispatch(sum, { a: y, b: x, y }, {}, 1)).toThrow(/y f32\[4\] is bound twice/)
    p.dispatch(sum, { a: x, b: x, y }, {}, 1)
    expect(p.finish().dispatches).toHaveLength(1)
  })

  it("folds a grid too long for one dimension into two, short by no invocation", () => {
    const groupsFor = (grid: Program.Grid) => {
      const p = Program.record("grid")
      p.dispatch(copy, { x: Tensor.make("x", [4]), y: Tensor.make("y", [4]) }, params, grid)
      return p.finish().dispatches[0]!.workgroups
    }
    expect(groupsFor(1)).toEqual([1, 1, 1])
    expect(groupsFor(16)).toEqual([1, 1, 1])
    expect(groupsFor(17)).toEqual([2, 1, 1])
    expect(groupsFor(65535 * 16)).toEqual([65535, 1, 1])
    expect(groupsFor(65535 * 16 + 1)).toEqual([65535, 2, 1])
    for (const n of [3_000_000, 49152 * 960, 2 ** 31]) {
      const [x, y, z] = groupsFor(n)
      expect(x * y * z * 16).toBeGreaterThanOrEqual(n)
      expect(Math.max(x, y)).toBeLessThanOrEqual(65535)
    }
    expect(groupsFor([17, 5])).toEqual([2, 5, 1])
    expect(() => groupsFor([1, 65536])).toThrow(/copy\.forward.*1 x 65536 workgroups exceeds 65535/)
  })

  it("labels dispatches and scratch by scope, and lists clears and state tensors once", () => {
    const [x, y] = [Tensor.make("x", [4]), Tensor.make("y", [4])]
    const p = Program.record("labels")
    p.clear(y)
    p.scope("layers.3")
    const h = p.scratch("h", [4])
    p.dispatch(copy, { x, y: h }, params, 1)
    p.scope("")
    p.dispatch(copy, { x: h, y }, params, 1)
    const program = p.finish()
    expect(h).toMatchObject({ name: "layers.3.h", kind: "scratch", type: "f32" })
    expect(program.dispatches.map((d) => d.label)).toEqual(["layers.3.copy.forward", "copy.forward"])
    expect(program.clears.map(({ tensor }) => tensor)).toEqual([y])
    expect(Program.stateTensors(program)).toEqual([y, x])
  })

  it("names a pipeline by file, entry and sorted constants", () => {
    const make = (constants: Record<string, number>) =>
      Kernel.key(Kernel.make({ file: "f", entry: "e", bindings: {}, constants }))
    expect(make({ WX: 8, BLOCK: 2 })).toBe("f.e(BLOCK=2,WX=8)")
    expect(make({ BLOCK: 2, WX: 8 })).toBe(make({ WX: 8, BLOCK: 2 }))
    expect(make({ WX: 16 })).not.toBe(make({ WX: 8 }))
    expect(Kernel.key(kernels.rope(1, "pairs"))).not.toBe(Kernel.key(kernels.rope(-1, "pairs")))
  })

  it("gives a kernel whose file is missing an error that names it", () => {
    expect(() => Kernel.source(copy)).toThrow(/kernel copy: cannot be read/)
  })

  it("refuses a tensor with a dimension that is no positive integer", () => {
    for (const dimension of [0, -1, 1.5, NaN]) expect(() => Tensor.make("t", [3, dimension])).toThrow(/tensor t: /)
    expect([1, 4, 5, 1000].map((n) => Tensor.byteLength(Tensor.make("t", [n])))).toEqual([16, 16, 32, 4000])
  })
})

/** Scratch tensors of the given lengths, each computed from the one before. */
const chain = (lengths: ReadonlyArray<number>) => {
  const p = Program.record("chain")
  let x = Tensor.make("input", [4])
  const scratch = lengths.map((length, i) => {
    const y = p.scratch(`s${i}`, [length])
    p.dispatch(copy, { x, y }, params, 1)
    x = y
    return y
  })
  p.dispatch(copy, { x, y: Tensor.make("output", [4]) }, params, 1)
  return { program: p.finish(), scratch }
}

const slotsOf = ({ program, scratch }: ReturnType<typeof chain>) => {
  const plan = Program.plan(program)
  return { slots: plan.slots, of: scratch.map((tensor) => plan.slotOf.get(tensor)) }
}

describe("the memory plan", () => {
  it("runs a chain in two buffers", () => {
    expect(slotsOf(chain([8, 8, 8, 8, 8]))).toEqual({ slots: [32, 32], of: [0, 1, 0, 1, 0] })
  })

  it("takes the smallest free buffer that fits", () => {
    const p = Program.record("best fit")
    const [x, out] = [Tensor.make("x", [4]), Tensor.make("out", [4])]
    const [large, small, last] = [p.scratch("large", [100]), p.scratch("small", [8]), p.scratch("last", [6])]
    p.dispatch(copy, { x, y: large }, params, 1)
    p.dispatch(copy, { x, y: small }, params, 1)
    p.dispatch(sum, { a: large, b: small, y: out }, {}, 1)
    p.dispatch(copy, { x, y: last }, params, 1)
    p.dispatch(copy, { x: last, y: out }, params, 1)
    const plan = Program.plan(p.finish())
    expect(plan.slots).toEqual([400, 32])
    expect(plan.slotOf.get(last)).toBe(plan.slotOf.get(small))
  })

  it("grows a free buffer rather than making another", () => {
    expect(slotsOf(chain([4, 4, 100, 4, 50]))).toEqual({ slots: [400, 16], of: [0, 1, 0, 1, 0] })
  })

  it("keeps a tensor's buffer until its last use", () => {
    const p = Program.record("long life")
    const [x, out] = [Tensor.make("x", [4]), Tensor.make("out", [4])]
    const kept = p.scratch("kept", [4])
    p.dispatch(copy, { x, y: kept }, params, 1)
    const others = [0, 1, 2].map((i) => {
      const other = p.scratch(`other${i}`, [4])
      p.dispatch(copy, { x, y: other }, params, 1)
      p.dispatch(copy, { x: other, y: out }, params, 1)
      return other
    })
    p.dispatch(copy, { x: kept, y: out }, params, 1)
    const { slotOf, slots } = Program.plan(p.finish())
    expect(slots).toHaveLength(2)
    expect(new Set(others.map((other) => slotOf.get(other)))).toEqual(new Set([1]))
    expect(slotOf.get(kept)).toBe(0)
  })
})

const smol = (c: ModelConfig, overrides: { pool: number; active: number; block?: number }) =>
  new ModelConfig({ ...c, intermediateSize: c.intermediateSize + overrides.pool, sinks: new SinkConfig(overrides) })

describe("recorded passes", () => {
  const tiny = presets.tiny
  const models: ReadonlyArray<readonly [name: string, config: ModelConfig, shape: Omit<PassShape, "output">]> = [
    ["tiny gathered", tiny, { rows: 2, seqLen: 16, maxSegments: 3, logitsBytes: 256 * 4 * 8 }],
    ["tiny masked", tiny, { rows: 2, seqLen: 16, compute: "masked" }],
    ["no sinks", new ModelConfig({ ...tiny, intermediateSize: 192, sinks: undefined }), { rows: 1, seqLen: 24 }],
    ["untied, blocks of 8", smol(
      new ModelConfig({ ...tiny, intermediateSize: 192, sinks: undefined, tieWordEmbeddings: false, vocabSize: 61 }),
      { pool: 64, active: 16, block: 8 }
    ), { rows: 3, seqLen: 8 }],
    ["nulls-1b", presets["nulls-1b"], { rows: 1, seqLen: 64 }]
  ]

  for (const [name, config, shape] of models) {
    for (const output of ["train", "loss", "logits"] as const) {
      const parameters = parametersOf(config)
      const { program } = recordPass(config, parameters, Tensor.make("hyper", [16]), { ...shape, output })

      it(`${name}, ${output}: no two scratch tensors that live at once share memory`, () => {
        const { slotOf, slots } = Program.plan(program)
        const uses = new Map<Tensor.Tensor, [first: number, last: number]>()
        program.dispatches.forEach((dispatch, i) => {
          for (const tensor of dispatch.tensors) {
            if (tensor.kind === "scratch") uses.set(tensor, [uses.get(tensor)?.[0] ?? i, i])
          }
        })
        const lives = [...uses].map(([tensor, [first, last]]) => ({ tensor, first, last, slot: slotOf.get(tensor)! }))
        expect(slotOf.size).toBe(lives.length)
        expect(lives.filter(({ slot, tensor }) => !(slots[slot]! >= Tensor.byteLength(tensor)))).toEqual([])
        const clashes: Array<string> = []
        const busyUntil = new Map<number, { readonly last: number; readonly tensor: Tensor.Tensor }>()
        for (const { first, last, slot, tensor } of lives.sort((a, b) => a.first - b.first)) {
          const other = busyUntil.get(slot)
          if (other !== undefined && other.last >= first) clashes.push(`${tensor.name} and ${other.tensor.name}`)
          if (other === undefined || last > other.last) busyUntil.set(slot, { last, tensor })
        }
        expect(clashes).toEqual([])
        // every buffer is as large as its largest tensor and no larger, and memory is shared at all
        const largest = slots.map((_, slot) =>
          Math.max(...lives.filter((life) => life.slot === slot).map(({ tensor }) => Tensor.byteLength(tensor)))
        )
        expect(slots).toEqual(largest)
        const sum = lives.reduce((bytes, { tensor }) => bytes + Tensor.byteLength(tensor), 0)
        expect(slots.reduce((a, b) => a + b, 0)).toBeLessThan(sum)
      })

      it(`${name}, ${output}: scratch is stored to before it is read or added to`, () => {
        const written = new Set<Tensor.Tensor>()
        const early: Array<string> = []
        for (const { kernel, label, params, tensors } of program.dispatches) {
          const parameter = (field: string): number =>
            new DataView(params).getUint32(4 * kernel.params.findIndex(([name]) => name === field), true)
          const adds = kernel.entry === "tn" || (kernel.entry === "nn" && parameter("mode") === 1) ||
            (kernel.entry === "backward_x" && parameter("add") === 1) || kernel.file === "reduce" ||
            kernel.file === "rope" || kernel.file === "cross_entropy" ||
            (kernel.file === "sink_gradient" && parameter("store") === 0) ||
            (kernel.file === "embedding" && kernel.entry === "backward")
          tensors.forEach((tensor, i) => {
            const reads = kernel.bindings[i]![1] === "read" || adds
            if (tensor.kind === "scratch" && reads && !written.has(tensor)) early.push(`${label} of ${tensor.name}`)
          })
          tensors.forEach((tensor, i) => {
            if (kernel.bindings[i]![1] === "write") written.add(tensor)
          })
        }
        expect(early).toEqual([])
      })
    }
  }

  it("record the same program every time", () => {
    const once = () =>
      recordPass(tiny, parametersOf(tiny), Tensor.make("hyper", [16]), {
        rows: 2,
        seqLen: 16,
        output: "train"
      }).program
    const show = (program: Program.Program) =>
      program.dispatches.map((d) =>
        [d.label, d.workgroups.join(), d.tensors.map(Tensor.show).join(), new Uint8Array(d.params).join()].join(" ")
      )
    expect(show(once())).toEqual(show(once()))
    expect(Program.plan(once()).slots).toEqual(Program.plan(once()).slots)
  })

  it("touch every parameter forwards and every gradient backwards, and only those when training", () => {
    for (const [name, config, shape] of models) {
      const parameters = parametersOf(config)
      const touched = (output: "train" | "loss") => {
        const { program } = recordPass(config, parameters, Tensor.make("hyper", [16]), { ...shape, output })
        // norms' weights are read one by one, their gradients written together
        return new Set([
          ...Program.stateTensors(program),
          ...program.dispatches.flatMap(({ tensors }) => tensors)
        ])
      }
      const [loss, train] = [touched("loss"), touched("train")]
      const wrong = listParameters(parameters).filter((p) =>
        !loss.has(p.value) || loss.has(Tensor.home(p.gradient)) || !train.has(p.value) ||
        !train.has(Tensor.home(p.gradient))
      )
      expect(wrong.map((p) => p.name), name).toEqual([])
    }
  })

  it("begin with the embedding and end with its gradient", () => {
    const { program } = recordPass(tiny, parametersOf(tiny), Tensor.make("hyper", [16]), {
      rows: 1,
      seqLen: 16,
      output: "train"
    })
    expect(program.dispatches[0]!.label).toBe("embedding.forward")
    expect(program.dispatches.at(-1)!.label).toBe("embedding.backward")
  })
})

describe("the optimizer's programs", () => {
  it("clear, measure and move every parameter once", () => {
    for (const sinks of ["dense", "lazy"] as const) {
      const config = presets.tiny
      const parameters = listParameters(parametersOf(config))
      const hyper = Tensor.make("hyper", [16])
      const optimizer = Optimizer.record(new Optimizer.OptimizerConfig({ sinks }), config, parameters, hyper, 8)
      const withSinks = parameters.filter((p) => p.sinkRow0 !== undefined)
      expect(withSinks).toHaveLength(2 * config.numHiddenLayers)
      // norms lie together: they are cleared and moved as one
      const alone = parameters.filter((p) => p.value.inside === undefined)
      const [norm] = parameters.filter((p) => p.value.inside !== undefined)
      const moved = [alone[0]!, { value: Tensor.home(norm!.value), gradient: Tensor.home(norm!.gradient) },
        ...alone.slice(1)]
      expect(optimizer.begin.clears.slice(0, -1)).toEqual(moved.map((p) => ({
        tensor: p.gradient,
        bytes: 4 * ("sinkRow0" in p && p.sinkRow0 !== undefined ? p.sinkRow0 * config.hiddenSize : Tensor.size(p.value))
      })))
      // six of them a dispatch, places that are left hold nothing
      const ofSinks = withSinks.map((p) => p.gradient)
      expect(optimizer.begin.dispatches.map((d) => d.tensors.slice(2).filter(({ kind }) => kind === "state")))
        .toEqual(Array.from({ length: Math.ceil(ofSinks.length / 6) }, (_, i) => ofSinks.slice(6 * i, 6 * i + 6)))
      const of = (entry: string, binding: number) =>
        optimizer.update.dispatches.filter((d) => d.kernel.entry === entry).map((d) => d.tensors[binding])
      // six gradients a dispatch, each with lanes of its own; of the last, places that are left have none
      const sums = optimizer.update.dispatches.filter((d) => d.kernel.entry === "sum_of_squares")
      const measured = sums.filter(({ kernel }) => kernel.file === "reduce").flatMap(({ kernel, params, tensors }) => {
        const { lanes0, lanes1, lanes2, lanes3, lanes4, lanes5 } = Kernel.decodeParams(kernel, params)
        return [lanes0, lanes1, lanes2, lanes3, lanes4, lanes5].flatMap((lanes, i) => lanes! > 0 ? [tensors[i]] : [])
      })
      expect(measured).toEqual(parameters.map((p) => p.gradient))
      const ofTouched = sums.filter(({ kernel }) => kernel.file === "touched").flatMap(
        ({ kernel, params, tensors }) => {
          const { lanes0, lanes1, lanes2, lanes3, lanes4 } = Kernel.decodeParams(kernel, params)
          return [lanes0, lanes1, lanes2, lanes3, lanes4].flatMap((lanes, i) => lanes! > 0 ? [tensors[2 + i]] : [])
        }
      )
      expect(ofTouched).toEqual(ofSinks)
      const lazy = (tensor: Tensor.Tensor | undefined) => sinks === "lazy" && withSinks.some((p) => p.value === tensor)
      expect(of("update", 4)).toEqual(moved.map((p) => p.value).filter((value) => !lazy(value)))
      expect(of("update_lazy", 4)).toEqual(moved.map((p) => p.value).filter(lazy))
      const allocated = new Set([...optimizer.tensors, hyper, ...parameters.map((p) => p.value)].map(Tensor.home))
      const used = [optimizer.begin, optimizer.update].flatMap(Program.stateTensors)
      expect(used.filter((tensor) => !allocated.has(tensor))).toEqual([])
    }
  })
})
