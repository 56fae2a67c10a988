/**
 * Weights rounded to few bits: an attack on removal, since what was taken away by small changes may come back. Pure.
 */
import type { HostTensor } from "./Safetensors.ts"

/**
 * Tensors as they are after a round trip through whole numbers of so many bits, by name: symmetric, with one scale for
 * each row (the last dimension), so that a row's largest number stays as it is. Norms and other vectors are left alone,
 * as is usual; so are whole numbers.
 */
export const quantized = (
  tensors: Readonly<Record<string, HostTensor>>,
  bits: 8 | 4
): Record<string, HostTensor> => {
  const most = 2 ** (bits - 1) - 1
  const rounded = ({ data, shape }: HostTensor): HostTensor => {
    const width = shape.at(-1) ?? 1
    if (shape.length < 2 || data instanceof Uint32Array) return { shape, data }
    const out = new Float32Array(data.length)
    for (let from = 0; from < data.length; from += width) {
      let largest = 0
      for (let i = from; i < from + width; i++) largest = Math.max(largest, Math.abs(data[i]!))
      const scale = largest / most
      for (let i = from; i < from + width; i++) out[i] = scale === 0 ? 0 : Math.round(data[i]! / scale) * scale
    }
    return { shape, data: out }
  }
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, rounded(tensor)]))
}
