/** Whose sinks are whose: what a deletion takes away from those that stay. */
import * as Effect from "effect/Effect"
import { type NamedId, type Names, namesFile } from "../data/identity/Names.ts"
import { DataError } from "../Errors.ts"
import * as Sink from "../Sink.ts"

/** Somebody who stays, how many of its units are also units of what is deleted, and how many it lights in all. */
export interface Shared extends NamedId {
  readonly units: number
  readonly of: number
}

/** What a deletion would do. Units are blocks of sinks that are on together, the same in every layer. */
export interface Ownership {
  /** Units of the pool, and those that an id lights (of assignments that are not exact, on average). */
  readonly units: number
  readonly active: number
  /** Units of what is deleted: those that no survivor lights, and those that some light, both rising. */
  readonly alone: ReadonlyArray<number>
  readonly shared: ReadonlyArray<number>
  /** Ids that stay, and those of them that light one of the shared units. */
  readonly survivors: number
  readonly touched: number
  /** Survivors that share most, those with most units first. */
  readonly most: ReadonlyArray<Shared>
  /**
   * Survivors that light the very same units as somebody who is deleted, as ids 65,536 apart do in a model of NULLs: how many, and
   * the names of some. Unless the units are taken, what these hold of the deleted is lit by their ids still.
   */
  readonly doubled: number
  readonly doubles: ReadonlyArray<string>
  /**
   * Further ids whose sinks can be taken, shared ones included, until a survivor has lost a tenth of its own, on average:
   * ids share by chance, so what is taken adds up. Undefined where no two ids of the model share any.
   */
  readonly left?: number
}

/** Survivors that are named at most. */
const NAMED = 20

/** Share of its sinks that a survivor may lose. */
const TENTH = 0.1

/** Further ids whose sinks can be taken whole until a survivor has lost a tenth of its own, where ids share by chance. */
export const deletionsLeft = ({ probability: p }: Sink.SinkConfig, deleted: number): number =>
  // in shards, too: one of so many is of the survivor's, and takes so many times as much of it
  p >= 1 ? 0 : Math.max(0, Math.floor(Math.log(1 - TENTH) / Math.log1p(-p)) - deleted)

/** Whether no two of the model's ids share a sink. */
const isApart = ({ apart, assignment, owners = [] }: Sink.SinkConfig): boolean =>
  assignment === "disjoint" && owners.length <= apart

/**
 * Counts who lights the units of what is deleted; `before`, ids that were deleted earlier, are no survivors. Draws the sinks
 * of every id once: some microseconds each.
 */
export const ownershipOf = (
  sinks: Sink.SinkConfig,
  names: Pick<Names, "each">,
  deleted: ReadonlySet<bigint>,
  before: ReadonlySet<bigint>
): Effect.Effect<Ownership, DataError> =>
  Effect.gen(function*() {
    const theirs = new Set<number>()
    const sets = new Set<string>()
    for (const id of deleted) {
      const units = Sink.unitsOf(sinks, id)
      for (const unit of units) theirs.add(unit)
      sets.add(units.join())
    }
    let doubled = 0
    const doubles: Array<string> = []
    const lit = new Set<number>()
    let [survivors, touched] = [0, 0]
    let most: Array<Shared> = []
    const owners = sinks.assignment === "disjoint" && sinks.owners !== undefined
      ? new Set(sinks.owners.map(BigInt))
      : undefined
    let stranger: NamedId | undefined
    yield* names.each((one) => {
      if (owners?.has(one.id) === false) stranger ??= one
      if (deleted.has(one.id) || before.has(one.id)) return
      survivors++
      let units = 0
      const own = Sink.unitsOf(sinks, one.id)
      for (const unit of own) {
        if (!theirs.has(unit)) continue
        lit.add(unit)
        units++
      }
      if (units === 0) return
      touched++
      if (units === own.length && sets.has(own.join())) {
        doubled++
        if (doubles.length < NAMED) doubles.push(one.name)
      }
      if (most.length === NAMED && most[NAMED - 1]!.units >= units) return
      most = [...most, { ...one, units, of: own.length }].sort((a, b) => b.units - a.units).slice(0, NAMED)
    })
    if (stranger !== undefined) {
      return yield* new DataError({
        detail:
          `${namesFile} is of another model: it lists ${JSON.stringify(stranger.name)} (${stranger.id}), who owns no ` +
          "sinks of this one. Put the one of its training beside its config.json"
      })
    }
    const rising = (some: Iterable<number>) => [...some].sort((a, b) => a - b)
    return {
      units: sinks.units,
      active: sinks.activeUnits,
      alone: rising([...theirs].filter((unit) => !lit.has(unit))),
      shared: rising(lit),
      survivors,
      touched,
      most,
      doubled,
      doubles,
      ...(isApart(sinks) ? {} : { left: deletionsLeft(sinks, deleted.size + before.size) })
    }
  })
