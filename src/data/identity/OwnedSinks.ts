/** How many sinks the ids of a model light, and how many of these others light, too. */
import * as Sink from "../../Sink.ts"
import type { NamedId } from "./Names.ts"

/** Ids whose sinks are drawn at most where they do not all light equally many: then each has to be drawn. */
const DRAWN = 65_536

/**
 * The units that each of these ids lights, and those that another one lights as well, in their order. Undefined where each
 * would have to be drawn to know, and they are more than 65,536. Where all light equally many, as is usual, ids are drawn only
 * until every unit has two owners.
 */
export const ownedSinks = (
  sinks: Sink.SinkConfig,
  ids: ReadonlyArray<Pick<NamedId, "id">>
): ((at: number) => Required<Pick<NamedId, "sinks" | "sharedSinks">>) | undefined => {
  if (!sinks.exact && ids.length > DRAWN) return undefined
  const owners = new Uint8Array(sinks.units)
  let alone = sinks.units
  for (const { id } of ids) {
    if (alone === 0) break
    for (const unit of Sink.unitsOf(sinks, id)) {
      if (owners[unit] === 2) continue
      owners[unit]!++
      if (owners[unit] === 2) alone--
    }
  }
  if (alone === 0 && sinks.exact) return () => ({ sinks: sinks.activeUnits, sharedSinks: sinks.activeUnits })
  return (at) => {
    const units = Sink.unitsOf(sinks, ids[at]!.id)
    return { sinks: units.length, sharedSinks: units.reduce((sum, unit) => sum + (owners[unit] === 2 ? 1 : 0), 0) }
  }
}
