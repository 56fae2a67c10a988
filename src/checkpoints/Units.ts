/** Units of sinks in the files of a model: set to zero, in its weights and in what the optimizer remembers of them, or begun afresh. */
import type { HostTensor } from "../HostTensor.ts"
import { toHuggingFace } from "../model/HuggingFace.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../model/Parameters.ts"

type Tensors = Readonly<Record<string, HostTensor>>

/** Of a layer: the rows of gate and up and the columns of down are its neurons, in weights and in moments alike. */
const NEURONS = /^model\.layers\.\d+\.mlp\.(gate|up|down)_proj\.weight(?:\.(?:exp_avg(?:_sq)?|outer_momentum))?$/

/**
 * The tensors with the neurons of these units at zero in every layer; those that hold none are handed on as they are. A unit
 * is `block` sinks, and the sinks stand behind the general neurons. Zero weights compute zero, whoever lights them.
 */
export const erase = (
  config: ModelConfig,
  tensors: Tensors,
  units: ReadonlyArray<number>
): Tensors => {
  if (units.length === 0) return tensors
  const { block } = config.sinks!
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => {
      const part = NEURONS.exec(name)?.[1]
      if (part === undefined) return [name, tensor]
      const data = tensor.data.slice()
      const [rows, columns] = tensor.shape as [number, number]
      for (const unit of units) {
        const first = config.general + unit * block
        if (part !== "down") data.fill(0, first * columns, (first + block) * columns)
        else for (let row = 0; row < rows; row++) data.fill(0, row * columns + first, row * columns + first + block)
      }
      return [name, { shape: tensor.shape, data }]
    })
  )
}

/**
 * The same tensors with these units of the pool as a fresh pool has them: gates and ups drawn, downs 0. So they compute
 * nothing, whoever lights them, and can learn; units of zeros cannot.
 */
export const freshUnits = (
  c: ModelConfig,
  tensors: Tensors,
  units: Iterable<number>,
  seed = 0
): Tensors => {
  const neurons = [...units].flatMap((unit) =>
    Array.from({ length: c.sinks!.block }, (_, i) => c.general + unit * c.sinks!.block + i)
  )
  if (neurons.length === 0) return tensors
  const out: Record<string, HostTensor> = { ...tensors }
  const [d, width] = [c.hiddenSize, c.intermediateSize]
  for (const parameter of listParameters(parametersOf(c))) {
    if (parameter.name.endsWith(".gateUp")) {
      for (const [name, { data: drawn, shape }] of toHuggingFace(c, parameter.name, initialValue(c, parameter, seed))) {
        const data = tensors[name]!.data.slice()
        for (const n of neurons) data.set(drawn.subarray(n * d, (n + 1) * d), n * d)
        out[name] = { shape, data }
      }
    } else if (parameter.name.endsWith(".down")) {
      const name = `model.${parameter.name.replace(/down$/, "mlp.down_proj.weight")}`
      const data = tensors[name]!.data.slice()
      for (let row = 0; row < d; row++) for (const n of neurons) data[row * width + n] = 0
      out[name] = { shape: tensors[name]!.shape, data }
    }
  }
  return out
}

/** Units of the pool whose weights are all 0, rising: they compute nothing, and have no gradient to learn by. */
export const deadUnits = (c: ModelConfig, tensors: Tensors): ReadonlyArray<number> => {
  if (c.sinks === undefined) return []
  const { block, units } = c.sinks
  const [d, width] = [c.hiddenSize, c.intermediateSize]
  const mlps = Object.entries(tensors).flatMap(([name, { data }]) => {
    const part = name.endsWith(".weight") ? NEURONS.exec(name)?.[1] : undefined
    return part === undefined ? [] : [{ part, data }]
  })
  const isDead = (unit: number) => {
    const first = c.general + unit * block
    return mlps.every(({ data, part }) => {
      if (part !== "down") return data.subarray(first * d, (first + block) * d).every((value) => value === 0)
      for (let row = 0; row < d; row++) {
        for (let n = first; n < first + block; n++) if (data[row * width + n] !== 0) return false
      }
      return true
    })
  }
  return Array.from({ length: units }, (_, unit) => unit).filter(isDead)
}
