/** neuron_gate.wgsl: forward, and the gates' gradients. */
import { kernels } from "../../src/model/Kernels.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant } from "./case.ts"

export interface NeuronGateShape {
  /** Tokens of each segment, in order; one of none has no gradient. */
  readonly lengths: ReadonlyArray<number>
  readonly width: number
}

const inputs = (random: Random, { lengths, width }: NeuronGateShape) => {
  const segment = Uint32Array.from(lengths.flatMap((length, s) => Array.from({ length }, () => s)))
  const rows = segment.length
  const range = lengths.flatMap((length, s) => [lengths.slice(0, s).reduce((a, b) => a + b, 0), length])
  return {
    rows,
    segment,
    range,
    h: normals(random, rows * width),
    gate: Float32Array.from(random.uniforms(lengths.length * width, -0.5, 1.5))
  }
}

/** A multiplication an element, and an addition in the sums; two arrays to read and, forward, one to write. */
const cost = ({ lengths, width }: NeuronGateShape) => {
  const elements = lengths.reduce((a, b) => a + b, 0) * width
  return { flops: 2 * elements, bytes: 8 * elements }
}

const show = (s: NeuronGateShape): string => `segments of ${s.lengths.join(", ")} tokens, ${s.width} neurons`

export const forward = (s: NeuronGateShape): Case =>
  makeCase(`neuron_gate forward: ${show(s)}`, cost(s), (random) => {
    const { gate, h, rows, segment } = inputs(random, s)
    const frame: Frame = { rows, cols: s.width, after: 12 }
    return {
      tensors: {
        h: place(h, frame),
        gate,
        segment: placeU32(segment, { rows: 1, cols: rows, after: 3 }),
        y: place([], frame)
      },
      outputs: {
        y: { want: placeWant(Reference.neuronGate(h, gate, segment), frame), kind: "writes", atol: 0, rtol: 2 * EPS }
      },
      record: (p, t) => p.dispatch(kernels.neuronGate, t, { rows, n4: s.width / 4 }, (rows * s.width) / 4)
    }
  })

export const backward = (s: NeuronGateShape): Case =>
  makeCase(`neuron_gate backward: ${show(s)}`, cost(s), (random) => {
    const { gate, h, range, rows, segment } = inputs(random, s)
    const dh = normals(random, rows * s.width)
    const tokens: Frame = { rows, cols: s.width, after: 12 }
    const frame: Frame = { rows: s.lengths.length, cols: s.width, after: 12 }
    const { dgate } = Reference.neuronGateBackward(dh, h, gate, segment)
    const longest = Math.max(...s.lengths)
    return {
      tensors: {
        h: place(h, tokens),
        dh: place(dh, tokens),
        segmentRange: placeU32(range, { rows: 1, cols: range.length, after: 3 }),
        dgate: place([], frame)
      },
      outputs: {
        dgate: {
          want: placeWant(dgate, frame),
          kind: "writes",
          atol: 8 * EPS * longest,
          rtol: 8 * EPS,
          exactZeros: (i: number) => dgate[i] === 0
        }
      },
      record: (p, t) =>
        p.dispatch(
          kernels.neuronGateBackward,
          t,
          { rows: s.lengths.length, n4: s.width / 4 },
          (s.lengths.length * s.width) / 4
        )
    }
  })

const shapes: ReadonlyArray<NeuronGateShape> = [
  { lengths: [1], width: 4 },
  { lengths: [7, 1, 30, 0], width: 60 },
  { lengths: [16, 16, 16], width: 20 }
]

export const cases: ReadonlyArray<Case> = [...shapes.map(forward), ...shapes.map(backward)]
