/**
 * The dense step in jax-js, as one jitted function: forward, backward and update.
 *
 * In its favour it leaves out rotary positions and uses plain gradient descent, where ours has both RoPE and AdamW.
 */
// first, so that stdout is its own before a peer says hello
import { defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax"
import type { Array as Value } from "@jax-js/jax"
import { installNavigator, serve, type Session } from "./child.ts"
import versions from "./package.json" with { type: "json" }
import { batchOf, dense, learningRate, weights } from "./step.ts"

const { eps, headSize, heads, layers, mlp, rows, seqLen, vocab, width } = dense
const n = rows * seqLen

type Parameters = { [name: string]: Value }

const rmsNorm = (x: Value, weight: Value): Value => {
  const scale = np.reciprocal(np.sqrt(np.mean(np.square(x.ref), -1, { keepdims: true }).add(eps)))
  return x.mul(scale).mul(weight)
}

/** Consumes every parameter; `tokens` and `targets` are one-hot, of which the transpose is a matmul and no scatter. */
const lossOf = (p: Parameters, tokens: Value, targets: Value): Value => {
  const at = (name: string) => p[name]!
  let x = np.matmul(tokens, at("embed"))
  for (let i = 0; i < layers; i++) {
    const y = rmsNorm(x.ref, at(`${i}.norm1`))
    const project = (name: string, from: Value) =>
      np.matmul(from, at(`${i}.${name}`)).reshape([rows, seqLen, heads, headSize]).transpose([0, 2, 1, 3])
    const keys = project("k", y.ref).transpose([0, 1, 3, 2])
    const scores = np.matmul(project("q", y.ref), keys).mul(1 / Math.sqrt(headSize))
    const causal = np.tri(seqLen, seqLen, 0, { dtype: np.bool })
    const shares = nn.softmax(np.where(causal, scores, -1e9), -1)
    const attention = np.matmul(shares, project("v", y)).transpose([0, 2, 1, 3])
    x = x.add(np.matmul(attention.reshape([n, width]), at(`${i}.o`)))
    const z = rmsNorm(x.ref, at(`${i}.norm2`))
    const hidden = nn.silu(np.matmul(z.ref, at(`${i}.gate`))).mul(np.matmul(z, at(`${i}.up`)))
    x = x.add(np.matmul(hidden, at(`${i}.down`)))
  }
  const logits = np.matmul(rmsNorm(x, at("norm")), at("head"))
  return nn.logSoftmax(logits).mul(targets).sum().div(-n)
}

const open = async (): Promise<Session> => {
  const adapter = await installNavigator()
  const available = await init("webgpu")
  if (!available.includes("webgpu")) throw new Error("jax-js found no WebGPU")
  defaultDevice("webgpu")

  const matrix = (name: string, inputs: number, outputs: number, std?: number): Value =>
    np.array(weights(name, inputs, outputs, std)).reshape([inputs, outputs])
  const residual = (inputs: number) => 1 / Math.sqrt(2 * layers * inputs)
  let p: Parameters = {
    embed: matrix("embed", vocab, width, 0.05),
    norm: np.ones([width]),
    head: matrix("head", width, vocab)
  }
  for (let i = 0; i < layers; i++) {
    for (const name of ["q", "k", "v"]) p[`${i}.${name}`] = matrix(`${i}.${name}`, width, width)
    p[`${i}.o`] = matrix(`${i}.o`, width, width, residual(width))
    for (const name of ["gate", "up"]) p[`${i}.${name}`] = matrix(`${i}.${name}`, width, mlp)
    p[`${i}.down`] = matrix(`${i}.down`, mlp, width, residual(mlp))
    for (const name of ["norm1", "norm2"]) p[`${i}.${name}`] = np.ones([width])
  }
  const parameters = Object.values(p).reduce((sum, one) => sum + one.size, 0)
  const batch = batchOf(dense)
  const oneHot = (ids: Uint32Array) => nn.oneHot(np.array(Int32Array.from(ids), { dtype: np.int32 }), vocab)
  const tokens = oneHot(batch.tokens)
  const targets = oneHot(batch.targets)

  const train = jit((p: Parameters, tokens: Value, targets: Value): [Parameters, Value] => {
    const held = Object.fromEntries(Object.entries(p).map(([name, one]) => [name, one.ref]))
    const [loss, gradients] = valueAndGrad(lossOf)(held, tokens, targets)
    const next = Object.entries(p).map(([name, one]) => [name, one.sub(gradients[name]!.mul(learningRate))] as const)
    return [Object.fromEntries(next), loss]
  })
  let last: Value | undefined
  return {
    name: "jax-js",
    version: versions.dependencies["@jax-js/jax"],
    adapter,
    note: "without RoPE, with SGD instead of AdamW",
    parameters,
    tokens: n,
    step: () => {
      last?.dispose()
      ;[p, last] = train(p, tokens.ref, targets.ref)
    },
    loss: async () => (await last!.ref.data())[0]!
  }
}

await serve(await open())
