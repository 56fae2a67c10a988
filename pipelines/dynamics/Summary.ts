/** The report's numbers from the traces of all seeds. Pure. */
import { sequenceName } from "../../src/data/stream/Packing.ts"
import type { FoilKind } from "../../src/measures/Foils.ts"
import * as Retain from "../../src/measures/Retention.ts"
import { mean, pearson } from "../../src/measures/Statistics.ts"
import type { ProbeRow, QuantityRow } from "../../src/measures/Traces.ts"
import { estimate, isKnown, type Kind } from "../report/Estimate.ts"
import { BACKGROUND, FOILS, type Plan, RULED } from "./Config.ts"
import { ages } from "./Probe.ts"
import type { Contents, Curve, DynamicsReport, Estimate, Group, Interference, MaskState, Norm, Retention, SawTooth,
  Share } from "./Report.ts"
import type { Rows } from "./TraceLog.ts"
import { type DynamicsWorld, ruledName } from "./World.ts"

/** What is known of a part of a model in a seed, see `Contents` of the report. */
export interface PartContents extends Omit<Contents, "arm" | "purity" | "owned" | "agreement" | "gradientMass"> {
  readonly purity: number
  readonly owned?: number
  readonly agreement: number
  readonly gradientMass?: { readonly memorized: number; readonly heldOut: number }
}

/** What an arm left in a seed; absent where it failed. */
export interface Found {
  readonly arm: string
  readonly seed: number
  readonly rows: Rows
  readonly contents: ReadonlyArray<PartContents>
}

const groupBy = <A>(items: ReadonlyArray<A>, key: (item: A) => string): ReadonlyMap<string, ReadonlyArray<A>> => {
  const groups = new Map<string, Array<A>>()
  for (const item of items) {
    const name = key(item)
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [item])
    else group.push(item)
  }
  return groups
}

/** The same rows of each seed, in the order of `seeds`; none of a seed whose arm failed. */
const bySeed = <A>(
  found: ReadonlyArray<Found>,
  seeds: ReadonlyArray<number>,
  arm: string,
  of: (found: Found) => ReadonlyArray<A>
): ReadonlyArray<ReadonlyArray<A> | undefined> =>
  seeds.map((seed) => {
    const one = found.find((it) => it.arm === arm && it.seed === seed)
    return one === undefined ? undefined : of(one)
  })

/** Keys of the rows of any seed, in the order in which they come. */
const keysOf = <A>(seeds: ReadonlyArray<ReadonlyArray<A> | undefined>,
  key: (row: A) => string): ReadonlyArray<string> => [...new Set(seeds.flatMap((rows) => (rows ?? []).map(key)))]

/** A number of each seed, of the rows of a key. */
const over = <A>(
  seeds: ReadonlyArray<ReadonlyMap<string, ReadonlyArray<A>> | undefined>,
  key: string,
  of: (rows: ReadonlyArray<A>) => number,
  kind: Kind = "real"
): Estimate =>
  estimate(seeds.map((groups) => {
    const rows = groups?.get(key)
    return rows === undefined || rows.length === 0 ? undefined : of(rows)
  }), { kind })

// ---------------------------------------------------------------------------------------------------------------
// Probes

const armsOf = (found: ReadonlyArray<Found>): ReadonlyArray<string> => [...new Set(found.map(({ arm }) => arm))]

const seriesKey = ({ group, mask }: Pick<ProbeRow, "group" | "mask">): string => JSON.stringify([group, mask])

/** Mean losses at the steps in which whole groups were probed. */
export const curvesOf = (
  found: ReadonlyArray<Found>,
  seeds: ReadonlyArray<number>,
  isPoint: (step: number) => boolean
): ReadonlyArray<Curve> =>
  armsOf(found).flatMap((arm) => {
    const rows = bySeed(found, seeds, arm,
      (one) => one.rows.probes.filter(({ group, step }) => isPoint(step) && group !== RULED))
    const series = rows.map((all) => all && groupBy(all, seriesKey))
    return keysOf(rows, seriesKey).map((key): Curve => {
      const [group, mask] = JSON.parse(key) as [string, MaskState]
      const steps = series.map((one) => one && groupBy(one.get(key) ?? [], ({ step }) => String(step)))
      const points = [...new Set(steps.flatMap((one) => [...one?.keys() ?? []]))].map(Number).sort((a, b) => a - b)
      return {
        arm,
        group,
        mask,
        points: points.map((step) => ({ step,
          loss: over(steps, String(step), (of) => mean(of.map(({ loss }) => loss)), "loss") })
        )
      }
    })
  })

/** Rows of a seed by state, sequence and step. */
const indexOf = (rows: ReadonlyArray<ProbeRow>) => {
  const all = new Map(rows.map((row) => [`${row.mask} ${row.step} ${row.sequence}`, row]))
  return (mask: string, step: number, sequence: string): ProbeRow | undefined => all.get(`${mask} ${step} ${sequence}`)
}

/** First and last step of each block of exposures. */
const blocksOf = (steps: ReadonlyArray<number>): ReadonlyArray<readonly [first: number, last: number]> => {
  const starts = steps.filter((step, i) => steps[i - 1] !== step - 1)
  const ends = steps.filter((step, i) => steps[i + 1] !== step + 1)
  return starts.map((start, i) => [start, ends[i]!] as const)
}

const membersOf = (world: DynamicsWorld, group: string) =>
  world.probed.filter((one) => one.group === group && one.planted !== undefined).map(({ planted, row }) => ({
    name: sequenceName(row),
    steps: world.planted[planted!]!.steps
  }))

interface Seeded {
  readonly world: DynamicsWorld
  readonly at: ReturnType<typeof indexOf>
  readonly masks: ReadonlyArray<MaskState>
}

/** Worlds and rows of an arm by seed; undefined where it failed. */
const seededOf = (found: ReadonlyArray<Found>, worlds: ReadonlyArray<DynamicsWorld>, arm: string) =>
  worlds.map((world): Seeded | undefined => {
    const one = found.find((it) => it.arm === arm && it.seed === world.seed)
    return one && {
      world,
      at: indexOf(one.rows.probes),
      masks: [...new Set(one.rows.probes.map(({ mask }) => mask as MaskState))]
    }
  })

const sawTeethOf = (found: ReadonlyArray<Found>, worlds: ReadonlyArray<DynamicsWorld>,
  plan: Plan): ReadonlyArray<SawTooth> =>
  armsOf(found).flatMap((arm) => {
    const seeds = seededOf(found, worlds, arm)
    const masks = seeds.find((one) => one !== undefined)?.masks ?? []
    return plan.groups.filter(({ teeth }) => teeth).flatMap(({ name: group }) => {
      const members = worlds.map((world) =>
        membersOf(world, group).map(({ name, steps }) => ({ name, blocks: blocksOf(steps) }))
      )
      // where steps were full, blocks may have been moved together
      const count = Math.min(...members.flat().map(({ blocks }) => blocks.length))
      return masks.map((mask): SawTooth => {
        const perSeed = seeds.map((one, s) => {
          if (one === undefined) return undefined
          const blocks = Array.from({ length: count }, (_, b) => {
            const around = members[s]!.map(({ blocks, name }) => {
              const [first, last] = blocks[b]!
              const lossAt = (step: number) => one.at(mask, step, name)?.loss ?? NaN
              const between = ages((blocks[b + 1]?.[0] ?? plan.steps) - last - 1).map((age) => lossAt(last + 1 + age))
              return { before: lossAt(first), after: lossAt(last + 1), lowest: Math.min(...between) }
            })
            const of = (name: "before" | "after" | "lowest") => mean(around.map((one) => one[name]))
            return { before: of("before"), after: of("after"), lowest: of("lowest") }
          })
          const { late, teeth } = Retain.teethOf(blocks.map(({ before, lowest }) => ({ before, after: lowest })))
          const last = blocks.slice(-Math.ceil(count / 3))
          return {
            teeth: teeth.map((tooth, b) => ({ ...tooth, ...blocks[b]! })),
            late: { ...late, lowest: late.after, after: mean(last.map(({ after }) => after)) }
          }
        })
        const kind = (name: Late): Kind => name === "amplitude" || name === "decay" ? "real" : "loss"
        const late = (name: Late) => estimate(perSeed.map((one) => one?.late[name]), { kind: kind(name) })
        return {
          arm,
          group,
          mask,
          teeth: Array.from({ length: count }, (_, b) => {
            const of = (name: Late) => estimate(perSeed.map((one) => one?.teeth[b]?.[name]), { kind: kind(name) })
            const decay = of("decay")
            return {
              exposure: b + 1,
              step: mean(members[0]!.map(({ blocks }) => blocks[b]![0])),
              before: of("before"),
              after: of("after"),
              lowest: of("lowest"),
              amplitude: of("amplitude"),
              ...(isKnown(decay) ? { decay } : {})
            }
          }),
          late: {
            before: late("before"),
            after: late("after"),
            lowest: late("lowest"),
            amplitude: late("amplitude"),
            decay: late("decay")
          }
        }
      })
    })
  })

type Late = "before" | "after" | "lowest" | "amplitude" | "decay"

/** What is left of each sequence of a group after its last exposure, in one seed. */
const retainedOf = ({ at, world }: Seeded, group: string, mask: MaskState, steps: number) => {
  const foils = world.probed.filter((one) => one.group === FOILS).map(({ row }) => sequenceName(row))
  const members = membersOf(world, group)
  const longest = Math.min(...members.map(({ steps: own }) => steps - own.at(-1)! - 1))
  return members.map(({ name, steps: own }, i) => ({
    name,
    points: ages(longest).flatMap((since) => {
      const step = own.at(-1)! + 1 + since
      const row = at(mask, step, name)
      const others = foils.map((foil) => at(mask, step, foil)?.loss ?? NaN)
      return row === undefined || others.some(Number.isNaN)
        ? []
        : [{ since, row, memory: mean(others) - row.loss, foil: others[i % others.length]!,
          ruled: (kind: FoilKind | "asText") => at(mask, step, ruledName(name, kind))?.loss }]
    })
  }))
}

const retentionsOf = (found: ReadonlyArray<Found>, worlds: ReadonlyArray<DynamicsWorld>,
  plan: Plan): ReadonlyArray<Retention> =>
  armsOf(found).flatMap((arm) => {
    const seeds = seededOf(found, worlds, arm)
    const masks = seeds.find((one) => one !== undefined)?.masks ?? []
    const kinds = plan.config.recognition ?? []
    return plan.groups.filter(({ withheld }) => withheld).flatMap(({ name: group }) =>
      masks.map((mask): Retention => {
        const sequences = seeds.map((one) => one && retainedOf(one, group, mask, plan.steps))
        const times = [
          ...new Set(sequences.flatMap((all) => (all ?? []).flatMap(({ points }) => points.map(({ since }) => since))))
        ]
          .sort((a, b) => a - b)
        const points = times.map((since) => {
          const there = sequences.map((all) =>
            (all ?? []).flatMap(({ points }) => points.filter((point) => point.since === since))
          )
          const of = (kind: Kind, value: (points: typeof there[number]) => number) =>
            estimate(there.map((these) => these.length === 0 ? undefined : value(these)), {
              kind,
              ...(kind === "share" ? { spreads: there.map((these) => ({ sequences: these.length })) } : {})
            })
          return {
            since,
            loss: of("loss", (all) => mean(all.map(({ row }) => row.loss))),
            memory: of("real", (all) => mean(all.map(({ memory }) => memory))),
            recognition: of("share",
              (all) => Retain.recognition(all.map(({ row }) => row.loss), all.map(({ foil }) => foil))),
            ...(kinds.length === 0 ? {} : {
              foils: Object.fromEntries(kinds.map((kind) => {
                const pairs = there.map((these) =>
                  these.flatMap(({ ruled }) => {
                    const [own, foil] = [ruled("asText"), ruled(kind)]
                    return own === undefined || foil === undefined ? [] : [{ own, foil }]
                  })
                )
                return [
                  kind,
                  estimate(
                    pairs.map((all) =>
                      all.length === 0
                        ? undefined
                        : Retain.recognition(all.map(({ own }) => own), all.map(({ foil }) => foil))
                    ),
                    { kind: "share", spreads: pairs.map((all) => ({ sequences: all.length })) }
                  )
                ]
              }))
            }),
            recall: of("share", (all) => mean(all.map(({ row }) => row.recall))),
            verbatim: of("share", (all) => mean(all.map(({ row }) => (row.run === row.suffix ? 1 : 0)))),
            logRank: of("real", (all) => mean(all.map(({ row }) => row.logRank)))
          }
        })
        const curves = sequences.flatMap((all, s) =>
          (all ?? []).map(({ points }) => ({ seed: worlds[s]!.seed, points }))
        )
        const fit = Retain.retentionOf(curves, { resamples: plan.config.resamples })
        return { arm, group, mask, points, ...(fit === undefined ? {} : { fit }) }
      })
    )
  })

// ---------------------------------------------------------------------------------------------------------------
// Quantities

type Seeds = ReadonlyArray<ReadonlyArray<QuantityRow> | undefined>

const quantitiesOf = (found: ReadonlyArray<Found>, seeds: ReadonlyArray<number>, arm: string,
  ...names: ReadonlyArray<string>): Seeds =>
  bySeed(found, seeds, arm, (one) => one.rows.quantities.filter(({ quantity }) => names.includes(quantity)))

const stepsIn = (seeds: Seeds): ReadonlyArray<number> =>
  [...new Set(seeds.flatMap((rows) => (rows ?? []).map(({ step }) => step)))].sort((a, b) => a - b)

const valueOf = (rows: ReadonlyArray<QuantityRow>): number => mean(rows.map(({ value }) => value))

/** Rows of each series, then of each step of it. */
const seriesOf = (seeds: Seeds, key: (row: QuantityRow) => string) =>
  keysOf(seeds, key).map((name) => {
    const rows = seeds.map((all) => all?.filter((row) => key(row) === name))
    return { key: JSON.parse(name) as ReadonlyArray<string | number>, rows }
  })

export const normsOf = (found: ReadonlyArray<Found>, seeds: ReadonlyArray<number>): ReadonlyArray<Norm> =>
  armsOf(found).flatMap((arm) => {
    const all = quantitiesOf(found, seeds, arm, "weight", "update")
    return seriesOf(all, ({ layer, part }) => JSON.stringify([layer, part])).map(
      ({ key: [layer, part], rows }): Norm => {
        const steps = rows.map((some) => some && groupBy(some, ({ quantity, step }) => `${quantity} ${step}`))
        return {
          arm,
          layer: Number(layer),
          part: String(part),
          points: stepsIn(rows).map((step) => {
            const update = over(steps, `update ${step}`, valueOf, "loss")
            return { step, weight: over(steps, `weight ${step}`, valueOf, "loss"),
              ...(isKnown(update) ? { update } : {}) }
          })
        }
      }
    )
  })

export const sharesOf = (found: ReadonlyArray<Found>, seeds: ReadonlyArray<number>): ReadonlyArray<Share> =>
  armsOf(found).flatMap((arm) =>
    seriesOf(quantitiesOf(found, seeds, arm, "logit"), ({ group, layer, mask, part }) =>
      JSON.stringify([group, mask, layer, part]))
      .map(({ key: [group, mask, layer, part], rows }): Share => {
        const steps = rows.map((some) => some && groupBy(some, ({ step }) => String(step)))
        return {
          arm,
          group: String(group),
          mask: mask as MaskState,
          layer: Number(layer),
          part: String(part),
          points: stepsIn(rows).map((step) => ({ step, logit: over(steps, String(step), valueOf) }))
        }
      })
  )

/** Observed and predicted rises of the same step and sequence. */
const correlation = (rows: ReadonlyArray<QuantityRow>): number => {
  const key = ({ sequence, step }: QuantityRow) => `${step} ${sequence}`
  const predicted = new Map(
    rows.filter(({ part, quantity }) => quantity === "predicted" && part === "all").map((r) => [key(r), r.value])
  )
  const observed = rows.filter((row) => row.quantity === "observed" && predicted.has(key(row)))
  return observed.length < 3
    ? NaN
    : pearson(observed.map((row) => predicted.get(key(row))!), observed.map(({ value }) => value))
}

const interferenceOf = (found: ReadonlyArray<Found>, seeds: ReadonlyArray<number>): ReadonlyArray<Interference> =>
  armsOf(found).flatMap((arm) => {
    const all = quantitiesOf(found, seeds, arm, "cosine", "predicted", "observed")
    return keysOf(all, ({ part }) => part).map((part): Interference => {
      const of = (quantity: string) =>
        estimate(all.map((rows) => {
          const these = (rows ?? []).filter((row) => row.part === part && row.quantity === quantity)
          return these.length === 0 ? undefined : valueOf(these)
        }))
      return {
        arm,
        part,
        cosine: of("cosine"),
        predicted: of("predicted"),
        ...(part === "all"
          ? { observed: of("observed"), correlation: estimate(all.map((rows) => rows && correlation(rows))) }
          : {})
      }
    })
  })

const contentsOf = (found: ReadonlyArray<Found>, seeds: ReadonlyArray<number>): ReadonlyArray<Contents> =>
  armsOf(found).flatMap((arm) => {
    const all = bySeed(found, seeds, arm, ({ contents }) => contents)
    return keysOf(all, ({ layer, part }) => JSON.stringify([layer, part])).map((key): Contents => {
      const [layer, part] = JSON.parse(key) as [number, string]
      const ones = all.map((parts) => parts?.find((one) => one.layer === layer && one.part === part))
      const mass = ones.map((one) => one?.gradientMass)
      return {
        arm,
        layer,
        part,
        neurons: ones.find((one) => one !== undefined)!.neurons,
        purity: estimate(ones.map((one) => one?.purity), { kind: "share" }),
        ...(ones.some((one) => one?.owned !== undefined) ? { owned: estimate(ones.map((one) => one?.owned)) } : {}),
        agreement: estimate(ones.map((one) => one?.agreement), { kind: "share" }),
        ...(mass.every((one) => one === undefined) ? {} : {
          gradientMass: {
            memorized: estimate(mass.map((one) => one?.memorized)),
            heldOut: estimate(mass.map((one) => one?.heldOut))
          }
        })
      }
    })
  })

// ---------------------------------------------------------------------------------------------------------------
// All

const percent = (share: number): string => `${Math.round(100 * share)} %`

/** The groups of a plan, in words. */
export const groupsOf = ({ config, groups, steps }: Plan, world: DynamicsWorld): ReadonlyArray<Group> => [
  ...groups.map(({ blocks, from, name, sequences, showing: { end, exposures, first }, until, withheld }): Group => {
    const spacing = blocks === undefined || blocks === exposures
      ? exposures === 1 ? "" : `, every ${Number(((end - first) / exposures).toFixed(1))} steps`
      : blocks === 1
      ? ", in one step after another"
      : `, in ${blocks} blocks`
    return {
      name,
      title:
        `${exposures} exposure${exposures === 1 ? "" : "s"}${spacing}, from ${percent(from)} to ${
          percent(until)
        } of training` +
        (withheld ? ", then never again" : ""),
      sequences,
      exposures,
      ...(exposures > 1 ? { every: (end - first) / exposures } : {}),
      lastShown: 1 + Math.max(...membersOf(world, name).map(({ steps: own }) => own.at(-1)!)),
      withheld
    }
  }),
  ...(config.backgroundProbes === 0 ? [] : [{
    name: BACKGROUND,
    title: `some of those that fill the steps: about ${
      (steps * world.data.batchSize / world.data.split("singles").length).toFixed(1)
    } exposures`,
    sequences: config.backgroundProbes,
    exposures: Math.max(1, Math.round(steps * world.data.batchSize / world.data.split("singles").length)),
    withheld: false
  }]),
  { name: FOILS, title: "held out", sequences: config.foils, exposures: 0, withheld: false }
]

export type Summary = Pick<
  DynamicsReport,
  "groups" | "curves" | "sawTeeth" | "retention" | "norms" | "shares" | "interference" | "contents"
>

/** Everything that the traces say. */
export const summarize = (found: ReadonlyArray<Found>, worlds: ReadonlyArray<DynamicsWorld>, plan: Plan): Summary => {
  const seeds = worlds.map(({ seed }) => seed)
  const { probeEvery } = plan.config
  return {
    groups: groupsOf(plan, worlds[0]!),
    curves: curvesOf(found, seeds, (step) => step % probeEvery === 0 || step === plan.steps),
    sawTeeth: sawTeethOf(found, worlds, plan),
    retention: retentionsOf(found, worlds, plan),
    norms: normsOf(found, seeds),
    shares: sharesOf(found, seeds),
    interference: interferenceOf(found, seeds),
    contents: contentsOf(found, seeds)
  }
}
