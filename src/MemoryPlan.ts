/**
 * What a training run will allocate, computed from its recorded Programs with no GPU at hand.
 */
import * as Program from "./gpu/Program.ts"
import * as Tensor from "./gpu/Tensor.ts"
import { listParameters, parametersOf, type PassShape, recordPass } from "./Model.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import * as Optimizer from "./Optimizer.ts"

/** Bytes of a training run on one device. */
export interface MemoryPlan {
  readonly weights: number
  readonly gradients: number
  /** AdamW's two moments. */
  readonly optimizer: number
  /** Scratch of the training pass by its lifetime plan: activations, packed and transposed weights, logits. */
  readonly activations: number
  /** Batches, masks, index lists, results, scalars, kernel parameters. */
  readonly other: number
  /** All of it: the lifetime plan shares scratch, everything else lives as long as the run. */
  readonly peak: number
  /** The largest single buffer, which the adapter's limits must allow. */
  readonly largest: { readonly name: string; readonly bytes: number }
}

const bytesOf = (tensors: Iterable<Tensor.Tensor>): number => {
  let bytes = 0
  for (const tensor of tensors) bytes += Tensor.byteLength(tensor)
  return bytes
}

/** Uniform parameters: each dispatch's at an offset of 256, the usual alignment. */
const parameterBytes = (program: Program.Program): number =>
  Math.max(16, program.dispatches.reduce((n, dispatch) => n + Math.ceil(dispatch.params.byteLength / 256) * 256, 0))

/** The memory a Trainer of this model takes at a batch shape, evaluation not counted. */
export const memoryPlan = (
  config: ModelConfig,
  shape: Omit<PassShape, "output">,
  optimizerConfig: Optimizer.OptimizerConfig = new Optimizer.OptimizerConfig(),
  logEvery = 10
): MemoryPlan => {
  const handles = parametersOf(config)
  const parameters = listParameters(handles)
  const hyper = Tensor.make("hyper", [16])
  const pass = recordPass(config, handles, hyper, { ...shape, output: "train" })
  const optimizer = Optimizer.record(optimizerConfig, config, parameters, hyper, logEvery)
  const programs = [pass.program, optimizer.begin, optimizer.accumulate(pass.tensors.loss), optimizer.update]
  const plan = Program.plan(pass.program)

  const weights = bytesOf(parameters.map((p) => p.value))
  const gradients = bytesOf(parameters.map((p) => p.gradient))
  const moments = bytesOf(optimizer.moments.flatMap(({ m, v }) => [m, v]))
  const activations = plan.slots.reduce((a, b) => a + b, 0)
  const inputs = Object.entries(pass.tensors).flatMap(([name, value]) =>
    value === undefined ? [] : name === "gather" ? Object.values(value as object) : [value]
  ) as ReadonlyArray<Tensor.Tensor>
  const other = bytesOf([hyper, ...inputs]) + bytesOf(optimizer.tensors) - gradients - moments +
    programs.reduce((n, program) => n + parameterBytes(program), 0)

  const state = [...parameters.flatMap((p) => [p.value]), ...inputs]
  const largestState = state.reduce((a, b) => (Tensor.byteLength(b) > Tensor.byteLength(a) ? b : a))
  const largestScratch = [...plan.slotOf.keys()].reduce((a, b) => (Tensor.byteLength(b) > Tensor.byteLength(a) ? b : a))
  const largest = Tensor.byteLength(largestState) > Tensor.byteLength(largestScratch) ? largestState : largestScratch
  return {
    weights,
    gradients,
    optimizer: moments,
    activations,
    other,
    peak: weights + gradients + moments + activations + other,
    largest: { name: largest.name, bytes: Tensor.byteLength(largest) }
  }
}

const size = (bytes: number): string =>
  bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(2)} MiB`

/** The plan as a table. */
export const formatMemoryPlan = (plan: MemoryPlan): string => {
  const rows: ReadonlyArray<readonly [string, number]> = [
    ["weights", plan.weights],
    ["gradients", plan.gradients],
    ["optimizer", plan.optimizer],
    ["activations", plan.activations],
    ["other", plan.other],
    ["peak", plan.peak]
  ]
  return [
    ...rows.map(([name, bytes]) => `${name.padEnd(12)}${size(bytes).padStart(12)}`),
    `largest buffer: ${plan.largest.name}, ${size(plan.largest.bytes)}`
  ].join("\n")
}
