/**
 * DiLoCo (Douillard et al. 2023, arXiv 2311.08105, algorithm 1): ranks that are far from each other train alone for some
 * steps, then move together: an outer optimizer, SGD with Nesterov momentum, takes the mean of what they moved by for a
 * gradient. So little goes over that slow links will do. Streaming DiLoCo (Douillard et al. 2025, arXiv 2501.18512) exchanges
 * one fragment of the parameters at a time, while training goes on.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { call, type CollectiveService, type Wire } from "../collective/Collective.ts"
import { atLeast0, configuration, fraction, natural, positive, withDefault } from "../Config.ts"
import { attempt, type CollectiveError, DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import type * as Ops from "../model/Ops.ts"
import { spread } from "./DataParallel.ts"
import type { Optimizer } from "./Optimizer.ts"

/** How ranks train that exchange what they learned from time to time. */
export class DiLoCoConfig extends configuration(Schema.Class<DiLoCoConfig>("DiLoCoConfig")({
  /**
   * Steps that ranks take alone between two exchanges of the same parameters. Evaluations and checkpoints wait for the next
   * meeting. Default 100.
   */
  syncEvery: withDefault(positive, 100),
  /** Of the outer optimizer. With 1, and no outer momentum, the mean of the ranks' weights. Default 0.7, as in the paper. */
  outerLearningRate: withDefault(atLeast0, 0.7),
  /** Default 0.9, as in the paper. */
  outerMomentum: withDefault(fraction, 0.9),
  /**
   * Parts of the parameters, of about the same size, that are exchanged one after the other, `syncEvery / fragments` steps
   * apart, so that links carry a part at a time. `syncEvery` is a multiple of it. Default 1.
   */
  fragments: Schema.optional(positive),
  /** Steps that go on between what a fragment sends and what it becomes, while it is exchanged. Default 0. */
  fragmentSyncDelay: Schema.optional(natural),
  /** What share of its own value a rank keeps of a parameter when the common one has come; at a meeting none. Default 0. */
  fragmentUpdateAlpha: Schema.optional(fraction),
  /**
   * Steps between two meetings, where all parameters are exchanged at once, and the moments of the inner optimizer become
   * their means: evaluations, checkpoints and whoever interrupts wait for one. A multiple of `syncEvery`. Default: `syncEvery`,
   * with several fragments four times that.
   */
  meetEvery: Schema.optional(positive),
  /**
   * Over which ranks sinks are averaged: `touched`, those that moved a unit of them, of those moments that have any; `mean`, all of
   * them, as in the paper, by which those that did not light it take back what the others learned. All else is averaged over all
   * ranks; the two are the same where all moved a unit. Default `touched`.
   */
  sinks: Schema.optional(Schema.Literal("touched", "mean"))
})) {}

/** When what is exchanged. */
const timetableOf = ({ fragmentSyncDelay = 0, fragments = 1, meetEvery, syncEvery }: DiLoCoConfig) => ({
  fragments,
  delay: fragmentSyncDelay,
  meetEvery: meetEvery ?? (fragments === 1 ? 1 : 4) * syncEvery,
  /** The fragment that leaves after so many steps, if any. */
  leaving: (step: number): number | undefined => {
    const each = syncEvery / fragments
    return step % each === 0 ? (step / each + fragments - 1) % fragments : undefined
  }
})

/** What of a configuration cannot be, for so many parameters; undefined where all can. */
export const dilocoProblem = (config: DiLoCoConfig, parameters: number): string | undefined => {
  const { syncEvery } = config
  const { delay, fragments, meetEvery } = timetableOf(config)
  if (syncEvery % fragments !== 0) {
    return `training.diloco.syncEvery is ${syncEvery}, and its ${fragments} fragments are exchanged one after the other at ` +
      `equal distances: make it a multiple of ${fragments}`
  }
  if (fragments > parameters) {
    return `training.diloco.fragments is ${fragments}, and the model has ${parameters} parameter tensors: there cannot be more`
  }
  if (meetEvery % syncEvery !== 0) {
    return `training.diloco.meetEvery is ${meetEvery}: make it a multiple of syncEvery, ${syncEvery}`
  }
  if (delay >= syncEvery) {
    return `training.diloco.fragmentSyncDelay is ${delay}: a fragment must be back before it leaves again, ${syncEvery} ` +
      "steps (syncEvery) later"
  }
  if (fragments === 1 && meetEvery === syncEvery && (delay > 0 || (config.fragmentUpdateAlpha ?? 0) > 0)) {
    return "training.diloco.fragmentSyncDelay and fragmentUpdateAlpha have no effect where every exchange is a meeting: " +
      `set meetEvery to a greater multiple of syncEvery, ${syncEvery}, or fragments`
  }
  return undefined
}

/** Parameters in so many fragments of about the same size: the largest first, each to what is smallest yet. */
export const fragmentsOf = <A>(
  all: ReadonlyArray<A>,
  sizeOf: (one: A) => number,
  count: number
): ReadonlyArray<ReadonlyArray<A>> => {
  const sizes = Array.from({ length: count }, () => 0)
  const homes = new Map<A, number>()
  for (const one of all.toSorted((a, b) => sizeOf(b) - sizeOf(a))) {
    const home = sizes.indexOf(Math.min(...sizes))
    sizes[home]! += sizeOf(one)
    homes.set(one, home)
  }
  return sizes.map((_, home) => all.filter((one) => homes.get(one) === home))
}

/** What the outer optimizer keeps of a parameter, on the host. */
interface Kept {
  readonly parameter: Ops.Parameter
  /** Its value when ranks last met. */
  readonly met: Float32Array
  readonly momentum: Float32Array
  /** Where its sinks are, if they are averaged over those ranks that moved them. */
  readonly units: Units | undefined
}

/** The units of sinks of a weight: `halves` times `count` stretches of `length` elements, from `from` on. */
export interface Units {
  readonly from: number
  readonly count: number
  readonly halves: number
  readonly length: number
}

const unitsOf = ({ sinkRow0, value }: Ops.Parameter, { block, pool }: Optimizer["gradients"]["touched"]):
  | Units
  | undefined =>
{
  if (sinkRow0 === undefined) return undefined
  const [rows, width] = value.shape as [number, number]
  return { from: sinkRow0 * width, count: pool / block, halves: (rows - sinkRow0) / pool, length: block * width }
}

/** Of each unit 1 where a value of it is not 0, else 0. */
export const touchedUnits = (values: Float32Array, { count, from, halves, length }: Units): Float32Array => {
  const touched = new Float32Array(count)
  for (let half = 0; half < halves; half++) {
    for (let unit = 0; unit < count; unit++) {
      const begin = from + (half * count + unit) * length
      for (let i = begin; touched[unit] === 0 && i < begin + length; i++) if (values[i] !== 0) touched[unit] = 1
    }
  }
  return touched
}

/** Tells of each stretch of a sum of so many elements over how many of `size` ranks its mean is, by the ranks of each unit. */
export const eachMean = (
  elements: number,
  size: number,
  units: Units | undefined,
  ranks: Float32Array,
  tell: (begin: number, end: number, over: number) => void
): void => {
  if (units === undefined) return tell(0, elements, size)
  const { count, from, halves, length } = units
  tell(0, from, size)
  for (let half = 0; half < halves; half++) {
    for (let unit = 0; unit < count; unit++) {
      const begin = from + (half * count + unit) * length
      tell(begin, begin + length, ranks[unit]! > 0 ? ranks[unit]! : size)
    }
  }
}

/**
 * Bytes of the host that `makeOuter` takes, for parameters of so many elements: `kept`, what they were when ranks last met and
 * the outer momentum; `moved` at most beside, what they moved by, of the fragments that are on their way, or of one parameter.
 */
export const outerBytes = (config: DiLoCoConfig, elements: ReadonlyArray<number>) => {
  const { delay, fragments } = timetableOf(config)
  const sum = (some: ReadonlyArray<number>) => some.reduce((a, b) => a + b, 0)
  const indices = elements.map((_, i) => i)
  const parts = fragmentsOf(indices, (i) => elements[i]!, fragments).map((part) => sum(part.map((i) => elements[i]!)))
  const underway = Math.min(fragments, Math.floor(delay / (config.syncEvery / fragments)) + 1)
  const fragment = fragments === 1 && delay === 0 ? 0 : sum(parts.toSorted((a, b) => b - a).slice(0, underway))
  return { kept: 8 * sum(elements), moved: 4 * Math.max(0, fragment, ...elements) }
}

export interface Outer {
  readonly kept: ReadonlyArray<Kept>
  /** Begins from the weights that are on the device, which are the same on all ranks. */
  readonly begin: Effect.Effect<void, DeviceError>
  /** Whether all ranks have the same weights after so many steps. */
  readonly meets: (step: number) => boolean
  /**
   * What is due after so many steps: fragments leave or come back, or all ranks meet and have the same weights. AdamW's
   * moments become their means then, so that nothing of a rank alone is left, and any number of ranks can go on; in the papers
   * each keeps its own.
   */
  readonly after: (step: number) => Effect.Effect<void, CollectiveError | DeviceError>
}

/**
 * One step of the outer optimizer on a parameter, in place: `moved` is how far all ranks went together, summed over `size` of
 * them, of elements `begin` to `end`. With g = -moved / size: momentum = mu momentum + g, value = met - rate (g + mu momentum).
 */
export const outerStep = (
  { outerLearningRate: rate, outerMomentum: mu }: DiLoCoConfig,
  { met, momentum }: Pick<Kept, "met" | "momentum">,
  moved: Float32Array,
  size: number,
  begin = 0,
  end = met.length
): void => {
  for (let i = begin; i < end; i++) {
    const gradient = -moved[i]! / size
    const next = Math.fround(mu * momentum[i]! + gradient)
    momentum[i] = next
    met[i] = met[i]! - rate * (gradient + mu * next)
  }
}

/** A fragment on its way: how far each rank moved its parameters becomes how far all did. */
interface Underway {
  /** The step after which it comes back. */
  readonly due: number
  readonly parts: ReadonlyArray<{ readonly one: Kept; readonly moved: Float32Array }>
  /** Of each part how many ranks moved each unit of sinks. */
  readonly done: Promise<ReadonlyArray<Float32Array>>
}

/** The outer optimizer of so many steps; what parameters moved by travels as `wire` says, moments are exact. */
export const makeOuter = (
  config: DiLoCoConfig,
  collective: CollectiveService,
  device: DeviceService,
  { gradients, moments, scaler }: Pick<Optimizer, "gradients" | "moments" | "scaler">,
  steps: number,
  wire: Wire = "f32"
): Outer => {
  const kept = moments.map(({ parameter }): Kept => {
    const length = parameter.value.shape.reduce((a, b) => a * b, 1)
    const units = config.sinks === "mean" ? undefined : unitsOf(parameter, gradients.touched)
    return { parameter, met: new Float32Array(length), momentum: new Float32Array(length), units }
  })
  const { delay, fragments, leaving, meetEvery } = timetableOf(config)
  const { fragmentUpdateAlpha: alpha = 0 } = config
  const fragment = fragmentsOf(kept, ({ met }) => met.length, fragments)
  const { size } = collective
  const read = (tensor: Tensor.Tensor) => Effect.map(device.read(tensor), (values) => values as Float32Array)
  const write = (tensor: Tensor.Tensor, values: Float32Array) =>
    attempt(() => device.write(tensor, values), DeviceError)
  /** How far this rank has moved a parameter. */
  const movedOf = ({ met, parameter }: Kept) =>
    Effect.map(read(parameter.value), (moved) => {
      for (let i = 0; i < moved.length; i++) moved[i] = moved[i]! - met[i]!
      return moved
    })
  /** Adds values up over the ranks, in place, and tells on how many of these a unit of sinks has any: none counted, empty. */
  const sum = async (values: Float32Array, { units }: Kept, wire?: Wire): Promise<Float32Array> => {
    const ranks = units === undefined ? new Float32Array() : touchedUnits(values, units)
    // both are called at once: other calls may follow, in an order that all ranks keep
    await Promise.all([collective.allReduce(values, wire),
      ...(units === undefined ? [] : [collective.allReduce(ranks)])])
    return ranks
  }
  const move = (one: Kept, moved: Float32Array, ranks: Float32Array): void =>
    eachMean(moved.length, size, one.units, ranks, (begin, end, over) =>
      outerStep(config, one, moved, over, begin, end))
  const meets = (step: number) => step % meetEvery === 0 || step === steps

  let underway: ReadonlyArray<Underway> = []
  const leave = (step: number, all: ReadonlyArray<Kept>) =>
    Effect.gen(function*() {
      const parts = yield* Effect.forEach(all, (one) => Effect.map(movedOf(one), (moved) => ({ one, moved })))
      const done = Promise.all(parts.map(({ moved, one }) => sum(moved, one, wire)))
      // whoever waits for it later hears of it
      done.catch(() => undefined)
      underway = [...underway, { due: step + delay, parts, done }]
    })
  const back = ({ done, parts }: Underway) =>
    Effect.gen(function*() {
      const ranks = yield* call(() => done)
      for (const [i, { moved, one }] of parts.entries()) {
        move(one, moved, ranks[i]!)
        if (alpha === 0) yield* write(one.parameter.value, one.met)
        else {
          const own = yield* read(one.parameter.value)
          yield* write(one.parameter.value, own.map((value, i) => alpha * value + (1 - alpha) * one.met[i]!))
        }
      }
      yield* device.idle
    })
  /** Brings back what is due. */
  const returned = (due: (one: Underway) => boolean) =>
    Effect.gen(function*() {
      const now = underway.filter(due)
      underway = underway.filter((one) => !due(one))
      yield* Effect.forEach(now, back, { discard: true })
    })
  const meet = Effect.gen(function*() {
    for (const one of kept) {
      const moved = yield* movedOf(one)
      move(one, moved, yield* call(() => sum(moved, one, wire)))
      yield* write(one.parameter.value, one.met)
    }
    for (const [at, { m, v }] of moments.entries()) {
      const one = kept[at]!
      for (const tensor of [m, v]) {
        const values = yield* read(tensor)
        const ranks = yield* call(() => sum(values, one))
        eachMean(values.length, size, one.units, ranks, (begin, end, over) => {
          for (let i = begin; i < end; i++) values[i] = values[i]! / over
        })
        yield* write(tensor, values)
      }
    }
    if (scaler !== undefined) yield* spread(collective, device, [scaler])
    // what is written stands in memory until the device has taken it
    yield* device.idle
  })
  return {
    kept,
    begin: Effect.forEach(kept, ({ met, parameter }) => Effect.map(read(parameter.value), (values) => met.set(values)),
      {
        discard: true
      }),
    meets,
    after: (step) =>
      Effect.gen(function*() {
        const all = meets(step)
        yield* returned(({ due }) => all || due === step)
        if (all) return yield* meet
        const next = leaving(step)
        if (next === undefined) return
        yield* leave(step, fragment[next]!)
        if (delay === 0) yield* returned(() => true)
      })
  }
}
