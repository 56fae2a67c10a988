/**
 * The theory of memorization sinks, as simulations in float64 that check its inequalities at every step. Pure.
 *
 * Four results: memory of repeated items is entangled with the general task; co-adaptation, why masking gradients alone
 * fails; forgetting in shared weights; accumulation in sinks. Constants are taken from the numbers that a run meets, as
 * the theorems do, so an inequality that fails means a wrong theorem, not a wrong guess. Each simulation can be run
 * with its assumption `broken` on purpose; then inequalities must fail.
 */
import { normal, type Random, random } from "../Random.ts"

/** An inequality, checked wherever it is claimed. */
export interface Inequality {
  readonly name: string
  readonly holds: boolean
  /** How many times it was checked: never 0. */
  readonly checked: number
  /** The least by which it held; below 0 it failed. */
  readonly slack: number
  /** The step at which it failed first. */
  readonly failedAt: number | undefined
}

/** What a simulation did. */
export interface Simulation {
  readonly name: string
  /** The result in one sentence. */
  readonly claim: string
  /** The constants that the inequalities are about. */
  readonly constants: Readonly<Record<string, number>>
  /** Columns of one length, with a row a step. */
  readonly trace: Readonly<Record<string, ReadonlyArray<number>>>
  readonly inequalities: ReadonlyArray<Inequality>
  /** Whether all inequalities held at every step. */
  readonly holds: boolean
}

/** The draw of a simulated world, and whether the result's assumption holds in it. */
export interface SimulationOptions {
  readonly seed?: number
  /** Break the assumption that the result needs. Default false. */
  readonly broken?: boolean
}

/** Collects inequalities; what two sums of rounded numbers may differ by is no failure. */
const inequalities = () => {
  const all = new Map<string, { checked: number; slack: number; failedAt: number | undefined }>()
  return {
    /** Claims that `larger >= smaller`. */
    claim: (name: string, step: number, larger: number, smaller: number): void => {
      const one = all.get(name) ?? { checked: 0, slack: Infinity, failedAt: undefined }
      all.set(name, one)
      one.checked++
      one.slack = Math.min(one.slack, larger - smaller)
      const rounding = 1e-12 * (Math.abs(larger) + Math.abs(smaller) + 1)
      if (!(larger - smaller >= -rounding)) one.failedAt ??= step
    },
    result: (): Pick<Simulation, "inequalities" | "holds"> => {
      const list = [...all].map(([name, one]) => ({ name, holds: one.failedAt === undefined, ...one }))
      return { inequalities: list, holds: list.every(({ holds }) => holds) }
    }
  }
}

/** Rows of numbers as columns. */
const table = <Name extends string>(
  rows: ReadonlyArray<Readonly<Record<Name, number>>>
): Record<Name, Array<number>> => {
  const columns = {} as Record<Name, Array<number>>
  for (const name of Object.keys(rows[0]!) as Array<Name>) columns[name] = rows.map((row) => row[name])
  return columns
}

type Vector = Float64Array

const dot = (a: Vector, b: Vector): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

/** a += factor b */
const add = (a: Vector, factor: number, b: Vector): void => {
  for (let i = 0; i < a.length; i++) a[i]! += factor * b[i]!
}

/** Orthonormal vectors in random directions. */
const orthonormal = (draw: Random, count: number, size: number): ReadonlyArray<Vector> => {
  const basis: Array<Vector> = []
  while (basis.length < count) {
    const v = Float64Array.from({ length: size }, () => normal(draw))
    // twice, since once loses digits
    for (let pass = 0; pass < 2; pass++) for (const b of basis) add(v, -dot(v, b), b)
    const length = Math.sqrt(dot(v, v))
    basis.push(v.map((x) => x / length))
  }
  return basis
}

// ---------------------------------------------------------------------------------------------------------------
// 1

/**
 * Natural memorization is entangled. A two-layer linear network learns a general task on inputs that are a semantic
 * direction and a noise direction of their own each, and one item that shares their semantics but has a target with an
 * offset. The offset could lie in the item's own noise direction alone. Small weights being cheaper, gradient flow puts
 * part of it on the semantic directions instead, where removing it hurts the general task.
 *
 * Assumed: the general task has at least three directions of singular values below 1 / (2 k), the offset is larger than
 * 1 and orthogonal to all targets, noise directions are unit vectors and orthogonal. Broken: the general inputs have no
 * noise of their own, which pins their semantics down, and the separable solution is the only one.
 */
export const entanglement = ({ broken = false, seed = 0 }: SimulationOptions = {}): Simulation => {
  const [k, sigma, offset, rate, initial, steps] = [4, 0.1, 1.5, 0.1, 1e-3, 2000]
  const draw = random(seed, "entanglement")
  const inputs = 2 * k + 1
  const outputs = k + 1
  const hidden = inputs
  const [own, extra] = [2 * k, k]
  // The item's semantics: any unit vector.
  const raw = Float64Array.from({ length: k }, () => 0.5 + draw.uniform())
  const semantics = raw.map((x) => x / Math.sqrt(dot(raw, raw)))
  const data = Array.from({ length: k }, (_, i) => {
    const [x, y] = [new Float64Array(inputs), new Float64Array(outputs)]
    x[i] = 1
    if (!broken) x[k + i] = 1
    y[i] = sigma
    return { x, y }
  })
  const item = { x: new Float64Array(inputs), y: new Float64Array(outputs) }
  semantics.forEach((a, i) => {
    item.x[i] = a
    item.y[i] = sigma * a
  })
  item.x[own] = 1
  item.y[extra] = offset
  const all = [...data, item]
  // Orthogonal features: rows of W1 are hidden units, rows of W2 outputs.
  const w1 = orthonormal(draw, hidden, inputs).map((row) => row.map((x) => initial * x))
  const w2 = orthonormal(draw, outputs, hidden).map((row) => row.map((x) => initial * x))
  /** What the network adds to output `o` for each input direction. */
  const product = (o: number): Vector => {
    const row = new Float64Array(inputs)
    w1.forEach((unit, h) => add(row, w2[o]![h]!, unit))
    return row
  }
  const squares = (rows: ReadonlyArray<Vector>): number => rows.reduce((sum, row) => sum + dot(row, row), 0)

  // A singular value of the whole costs twice itself in the two layers' squares.
  const separable = 2 * (k * sigma + offset)
  const { claim, result } = inequalities()
  const rows: Array<Record<"step" | "loss" | "cost" | "own" | "semantic", number>> = []
  let last = Infinity
  for (let step = 0; step <= steps; step++) {
    const gradient1 = w1.map(() => new Float64Array(inputs))
    const gradient2 = w2.map(() => new Float64Array(hidden))
    let loss = 0
    for (const { x, y } of all) {
      const h = Float64Array.from(w1, (unit) => dot(unit, x))
      const back = new Float64Array(hidden)
      w2.forEach((row, o) => {
        const miss = dot(row, h) - y[o]!
        loss += 0.5 * miss * miss
        add(gradient2[o]!, miss, h)
        add(back, miss, row)
      })
      gradient1.forEach((g, unit) => add(g, back[unit]!, x))
    }
    const memory = product(extra)
    const onSemantics = Math.sqrt(dot(memory.subarray(0, k), memory.subarray(0, k)))
    const cost = squares(w1) + squares(w2)
    rows.push({ step, loss, cost, own: memory[own]! / offset, semantic: onSemantics / offset })
    claim("the loss never rises", step, last, loss)
    claim("weights stay cheaper than the separable solution's", step, separable, cost)
    // before any of it is learned its direction is that of the random beginning
    if (memory[own]! > 0.01 * offset) {
      const name = "of the memory, semantic directions have at least 0.49 of what its own has"
      claim(name, step, onSemantics, 0.49 * memory[own]!)
    }
    last = loss
    w1.forEach((unit, h) => add(unit, -rate, gradient1[h]!))
    w2.forEach((row, o) => add(row, -rate, gradient2[o]!))
  }
  return {
    name: "entanglement",
    claim: "Gradient flow stores a repeated item in the general task's directions too, not in its own alone.",
    constants: { k, sigma, offset, separableCost: separable, learningRate: rate },
    trace: table(rows),
    ...result()
  }
}

// ---------------------------------------------------------------------------------------------------------------
// 2

/**
 * Co-adaptation. In a linear head of two blocks a repeated item updates the memory block once, and N other items the
 * general block; the memory block takes part in every forward pass. Drop it, and what is left differs from a head that
 * never met the item, since the general block has learned to correct for it:
 *
 *     |difference on the item| >= memory * N * rate * (1 - rate)^N * c^2
 *
 * with c the inner product of any two inputs, which are unit vectors, and `memory` how much the item's step moved its
 * own output. The bound is largest at N = -1 / log(1 - rate), about 1 / rate steps; the difference itself only grows.
 * (The paper prints the bound for the square of the difference and without `memory`; so it does not hold for a small
 * one.)
 *
 * Assumed: inputs have that inner product in common. Broken: they are orthogonal, so nothing adapts to the memory.
 */
export const coAdaptation = ({ broken = false, seed = 0 }: SimulationOptions = {}): Simulation => {
  const [rate, similarity, steps] = [0.02, 0.4, 150]
  const draw = random(seed, "co-adaptation")
  const actual = broken ? 0 : similarity
  const size = steps + 2
  const directions = orthonormal(draw, size, size)
  /** Unit inputs, any two of inner product `actual`. */
  const input = (i: number): Vector => {
    const x = directions[i + 1]!.map((v) => Math.sqrt(1 - actual) * v)
    add(x, Math.sqrt(actual), directions[0]!)
    return x
  }
  const item = input(0)
  // The step on the item, from its residual, goes to the memory block alone.
  const memory = new Float64Array(size)
  add(memory, rate * (4 + draw.uniform()), item)
  const moved = dot(memory, item)
  const [withItem, without] = [new Float64Array(size), new Float64Array(size)]
  const { claim, result } = inequalities()
  const rows: Array<Record<"step" | "difference" | "bound", number>> = []
  let last = 0
  for (let n = 1; n <= steps; n++) {
    const x = input(n)
    const y = normal(draw)
    add(withItem, -rate * (dot(withItem, x) + dot(memory, x) - y), x)
    add(without, -rate * (dot(without, x) - y), x)
    const difference = Math.abs(dot(withItem, item) - dot(without, item))
    const bound = moved * n * rate * (1 - rate) ** n * similarity ** 2
    rows.push({ step: n, difference, bound })
    claim("the difference is at least its bound", n, difference, bound)
    claim("the difference only grows", n, difference, last)
    last = difference
  }
  return {
    name: "co-adaptation",
    claim: "With memory masked from gradients only, a head without it differs from one that never met the item.",
    constants: { learningRate: rate, similarity, memory: moved, boundPeaksAt: -1 / Math.log1p(-rate) },
    trace: table(rows),
    ...result()
  }
}

// ---------------------------------------------------------------------------------------------------------------
// 3 and 4

/** Unit features of which any two have an inner product of at least `least`. */
const features = (draw: Random, count: number, size: number, least: number): ReadonlyArray<Vector> =>
  Array.from({ length: count }, () => {
    // non-negative numbers have non-negative inner products
    const v = Float64Array.from({ length: size }, (_, i) => (i === 0 ? 0 : Math.abs(normal(draw))))
    const length = Math.sqrt(dot(v, v))
    const x = v.map((one) => (Math.sqrt(1 - least) * one) / length)
    x[0] = Math.sqrt(least)
    return x
  })

const softmax = (logits: Vector): Vector => {
  const top = Math.max(...logits)
  const weights = logits.map((z) => Math.exp(z - top))
  const sum = weights.reduce((a, b) => a + b)
  return weights.map((w) => w / sum)
}

/** Bounds of any probability of `classes` whose logits lie within C of each other: e^-C / d and e^C / (d - 1). */
const probabilityBounds = (spread: number, classes: number): { readonly least: number; readonly most: number } => ({
  least: Math.exp(-spread) / classes,
  most: Math.exp(spread) / (classes - 1)
})

const range = (values: ReadonlyArray<number>): { readonly least: number; readonly most: number } => ({
  least: Math.min(...values),
  most: Math.max(...values)
})

/**
 * Forgetting in shared weights. A softmax head on frozen features has memorized a token at one feature. Every step on
 * another feature, towards another token, takes from the memorized token's logit: after m steps
 *
 *     fall >= rate * m * epsilon * c_min,     c_min = e^-C / classes
 *
 * with epsilon the least similarity to the item's feature and C the largest distance of two logits met.
 *
 * Assumed: the others' features are similar to the item's. Broken: they are orthogonal to it, and nothing is forgotten.
 */
export const forgetting = ({ broken = false, seed = 0 }: SimulationOptions = {}): Simulation => {
  const [classes, size, rate, similarity, steps] = [20, 32, 0.05, 0.3, 300]
  const draw = random(seed, "forgetting")
  const item = features(draw, 1, size, similarity)[0]!
  const others = features(draw, steps, size, similarity)
  if (broken) {
    for (const x of others) {
      add(x, -dot(x, item), item)
      const length = Math.sqrt(dot(x, x))
      x.forEach((v, i) => (x[i] = v / length))
    }
  }
  const head = Array.from({ length: classes }, () => new Float64Array(size))
  const logitsAt = (x: Vector): Vector => Float64Array.from(head, (row) => dot(row, x))
  const token = 0
  // what there is to forget
  for (let i = 0; i < 20; i++) {
    softmax(logitsAt(item)).forEach((p, v) => add(head[v]!, rate * ((v === token ? 1 : 0) - p), item))
  }
  const start = dot(head[token]!, item)
  const rows: Array<Record<"step" | "logit" | "fall", number>> = []
  let spread = 0
  others.forEach((x, i) => {
    const logits = logitsAt(x)
    const { least, most } = range([...logits])
    spread = Math.max(spread, most - least)
    const label = 1 + draw.below(classes - 1)
    softmax(logits).forEach((p, v) => add(head[v]!, rate * ((v === label ? 1 : 0) - p), x))
    const logit = dot(head[token]!, item)
    rows.push({ step: i + 1, logit, fall: start - logit })
  })
  const least = broken ? similarity : range(others.map((x) => dot(x, item))).least
  const bound = rate * least * probabilityBounds(spread, classes).least
  const { claim, result } = inequalities()
  rows.forEach(({ fall, step }, i) => {
    claim("the logit has fallen by at least its bound", step, fall, bound * step)
    claim("every step takes at least its part", step, fall - (i === 0 ? 0 : rows[i - 1]!.fall), bound)
  })
  return {
    name: "forgetting",
    claim: "In shared weights a memorized token is forgotten at least in proportion to the steps between repeats.",
    constants: { learningRate: rate, epsilon: least, spread, cMin: probabilityBounds(spread, classes).least },
    trace: { ...table(rows), bound: rows.map(({ step }) => bound * step) },
    ...result()
  }
}

/**
 * Accumulation in sinks. Of N steps k are exposures of one item; sinks that the item lights are on for only the share
 * rho of the others. A softmax head reads shared and sink features together. At every step
 *
 *     logit from shared features <= rate k (1 - c_min) - rate (N - k) epsilon c_min
 *     logit from sink features   >= rate k (1 - c_max) - rate (N - k) rho epsilon_mem c_max
 *
 * with epsilon the least similarity of shared features, epsilon_mem the largest of sink features, and
 * c_min = e^-C / classes and c_max = e^C / (classes - 1) for logits within C. So with repeats rare and rho small the
 * memory gathers in the sinks.
 *
 * Assumed: sinks are on for the share rho of the others. Broken: for all of them.
 */
export const accumulation = ({ broken = false, seed = 0 }: SimulationOptions = {}): Simulation => {
  const [classes, size, rate, similarity, rho] = [50, 24, 0.02, 0.5, 0.05]
  const [steps, every] = [800, 40]
  const draw = random(seed, "accumulation")
  const [itemShared, itemSink] = features(draw, 2, size, similarity)
  const head = Array.from({ length: classes }, () => ({
    shared: new Float64Array(size),
    sink: new Float64Array(size)
  }))
  const token = 0
  const rows: Array<Record<"step" | "exposures" | "shared" | "sink", number>> = []
  const [sharedSimilarity, sinkSimilarity]: [Array<number>, Array<number>] = [[], []]
  let [spread, exposures] = [0, 0]
  for (let step = 1; step <= steps; step++) {
    const exposed = step % every === 1
    let shared = itemShared
    let sink: Vector | undefined = itemSink
    let label = token
    if (exposed) exposures++
    else {
      const others = step - exposures
      ;[shared, sink] = features(draw, 2, size, similarity)
      sharedSimilarity.push(dot(shared!, itemShared!))
      // as evenly as can be, so that it is at most the share rho after any number of steps
      if (!broken && Math.floor(rho * others) === Math.floor(rho * (others - 1))) sink = undefined
      else sinkSimilarity.push(dot(sink!, itemSink!))
      label = 1 + draw.below(classes - 1)
    }
    const logits = Float64Array.from(head, (row) =>
      dot(row.shared, shared!) + (sink === undefined ? 0 : dot(row.sink, sink)))
    const { least, most } = range([...logits])
    spread = Math.max(spread, most - least)
    softmax(logits).forEach((p, v) => {
      const push = rate * ((v === label ? 1 : 0) - p)
      add(head[v]!.shared, push, shared!)
      if (sink !== undefined) add(head[v]!.sink, push, sink)
    })
    rows.push({
      step,
      exposures,
      shared: dot(head[token]!.shared, itemShared!),
      sink: dot(head[token]!.sink, itemSink!)
    })
  }
  const { least: cMin, most: cMax } = probabilityBounds(spread, classes)
  const epsilon = range(sharedSimilarity).least
  const epsilonSink = range(sinkSimilarity).most
  const { claim, result } = inequalities()
  const bounds = rows.map(({ exposures: k, step }) => ({
    sharedBound: rate * k * (1 - cMin) - rate * (step - k) * epsilon * cMin,
    sinkBound: rate * k * (1 - cMax) - rate * (step - k) * rho * epsilonSink * cMax
  }))
  rows.forEach(({ shared, sink, step }, i) => {
    claim("shared features have at most their bound", step, bounds[i]!.sharedBound, shared)
    claim("sink features have at least their bound", step, sink, bounds[i]!.sinkBound)
  })
  const end = rows[rows.length - 1]!
  claim("sinks end up with more of the memory than shared features", steps, end.sink, end.shared)
  return {
    name: "accumulation",
    claim: "What is repeated gathers in its sinks, which other data rarely touch, and not in shared features.",
    constants: { learningRate: rate, rho, epsilon, epsilonSink, spread, cMin, cMax },
    trace: { ...table(rows), ...table(bounds) },
    ...result()
  }
}

/** All four, with one seed. */
export const theory = (options: SimulationOptions = {}): ReadonlyArray<Simulation> =>
  [entanglement, coAdaptation, forgetting, accumulation].map((simulate) => simulate(options))
