/**
 * Initial weights: normal numbers from a stream that depends on a name alone, so that arms which share a shape start alike.
 */

/** Two 32-bit words of state from any text (FNV-1a, two offsets). */
const hash = (text: string): [number, number] => {
  let a = 0x811c9dc5
  let b = 0x1b873593
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 0x01000193)
    b = Math.imul(b ^ text.charCodeAt(i), 0x5bd1e995)
    b ^= b >>> 13
  }
  return [a >>> 0, b >>> 0]
}

/** Fill `out` with normal numbers of a standard deviation, by Box and Muller's transform. */
export const normals = (out: Float32Array, name: string, std: number): void => {
  const [a, b] = hash(name)
  let counter = 0
  const uniform = () => {
    let x = (a + Math.imul(++counter, 0x9e3779b9)) ^ b
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
    return (((x ^ (x >>> 16)) >>> 0) + 0.5) / 2 ** 32
  }
  for (let i = 0; i < out.length; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(uniform()))
    const angle = 2 * Math.PI * uniform()
    out[i] = radius * Math.cos(angle)
    if (i + 1 < out.length) out[i + 1] = radius * Math.sin(angle)
  }
}
