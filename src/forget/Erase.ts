/** Sinks set to zero in the files of a model: its weights, and what the optimizer remembers of them. */
import type { HostTensor } from "../HostTensor.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"

/** Of a layer: the rows of gate and up and the columns of down are its neurons, in weights and in moments alike. */
const NEURONS = /^model\.layers\.\d+\.mlp\.(gate|up|down)_proj\.weight(?:\.exp_avg(?:_sq)?)?$/

/**
 * The tensors with the neurons of these units at zero in every layer; those that hold none are handed on as they are. A unit
 * is `block` sinks, and the sinks stand behind the general neurons. Zero weights compute zero, whoever lights them.
 */
export const erase = (
  config: ModelConfig,
  tensors: Readonly<Record<string, HostTensor>>,
  units: ReadonlyArray<number>
): Readonly<Record<string, HostTensor>> => {
  const { block } = config.sinks!
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => {
      const part = NEURONS.exec(name)?.[1]
      if (part === undefined || units.length === 0) return [name, tensor]
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
