/**
 * The dense step in TensorFlow.js on its WebGPU backend: eager, since it has no compiler.
 *
 * In its favour it leaves out rotary positions and uses plain gradient descent, where ours has both RoPE and AdamW.
 */
// first, so that stdout is its own before a peer says hello
import * as tf from "@tensorflow/tfjs"
import type { Tensor, Variable } from "@tensorflow/tfjs"
import { installNavigator, serve, type Session } from "./child.ts"
import versions from "./package.json" with { type: "json" }
import { batchOf, dense, learningRate, weights } from "./step.ts"

const { eps, headSize, heads, layers, mlp, rows, seqLen, vocab, width } = dense
const n = rows * seqLen

const open = async (): Promise<Session> => {
  const adapter = await installNavigator()
  // it registers itself only where navigator.gpu is
  await import("@tensorflow/tfjs-backend-webgpu")
  if (!(await tf.setBackend("webgpu"))) throw new Error("tfjs could not open its WebGPU backend")

  const variables: Array<Variable> = []
  const variable = (value: Tensor): Variable => {
    const one = tf.variable(value)
    variables.push(one)
    return one
  }
  const matrix = (name: string, inputs: number, outputs: number, std?: number): Variable =>
    variable(tf.tensor(weights(name, inputs, outputs, std), [inputs, outputs]))
  const residual = (inputs: number) => 1 / Math.sqrt(2 * layers * inputs)
  const embed = matrix("embed", vocab, width, 0.05)
  const blocks = Array.from({ length: layers }, (_, i) => ({
    norm1: variable(tf.ones([width])),
    q: matrix(`${i}.q`, width, width),
    k: matrix(`${i}.k`, width, width),
    v: matrix(`${i}.v`, width, width),
    o: matrix(`${i}.o`, width, width, residual(width)),
    norm2: variable(tf.ones([width])),
    gate: matrix(`${i}.gate`, width, mlp),
    up: matrix(`${i}.up`, width, mlp),
    down: matrix(`${i}.down`, mlp, width, residual(mlp))
  }))
  const norm = variable(tf.ones([width]))
  const head = matrix("head", width, vocab)

  const batch = batchOf(dense)
  // one-hot, of which the transpose is a matmul and no scatter
  const oneHot = (ids: Uint32Array): Tensor => tf.oneHot(tf.tensor(Int32Array.from(ids), [n], "int32"), vocab).toFloat()
  const tokens = oneHot(batch.tokens)
  const targets = oneHot(batch.targets)
  const future = tf.tensor(
    Float32Array.from({ length: seqLen * seqLen }, (_, i) => (i % seqLen > Math.floor(i / seqLen) ? -1e9 : 0)),
    [1, 1, seqLen, seqLen]
  )

  const rmsNorm = (x: Tensor, weight: Tensor): Tensor => x.mul(x.square().mean(-1, true).add(eps).rsqrt()).mul(weight)
  const byHead = (x: Tensor): Tensor => x.reshape([rows, seqLen, heads, headSize]).transpose([0, 2, 1, 3])

  const lossOf = (): Tensor => {
    let x: Tensor = tf.matMul(tokens, embed)
    for (const block of blocks) {
      const y = rmsNorm(x, block.norm1)
      const [q, k, v] = [block.q, block.k, block.v].map((w) => byHead(tf.matMul(y, w))) as [Tensor, Tensor, Tensor]
      const scores = tf.matMul(q, k, false, true).mul(1 / Math.sqrt(headSize)).add(future)
      const attention = tf.matMul(tf.softmax(scores), v).transpose([0, 2, 1, 3]).reshape([n, width])
      x = x.add(tf.matMul(attention, block.o))
      const z = rmsNorm(x, block.norm2)
      const gate = tf.matMul(z, block.gate)
      x = x.add(tf.matMul(gate.mul(gate.sigmoid()).mul(tf.matMul(z, block.up)), block.down))
    }
    const logits = tf.matMul(rmsNorm(x, norm), head)
    return tf.logSoftmax(logits).mul(targets).sum().div(-n)
  }
  const optimizer = tf.train.sgd(learningRate)
  let last: Tensor | undefined
  return {
    name: "tfjs",
    version: versions.dependencies["@tensorflow/tfjs"],
    adapter,
    note: "without RoPE, with SGD instead of AdamW",
    parameters: variables.reduce((sum, one) => sum + one.size, 0),
    tokens: n,
    step: () => {
      last?.dispose()
      last = optimizer.minimize(lossOf, true, variables)!
    },
    loss: async () => (await last!.data())[0]!
  }
}

await serve(await open())
