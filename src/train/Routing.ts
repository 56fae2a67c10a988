/**
 * Gradient routing: which parameters learn from repeated sequences, and which from all others. Pure.
 */
import { type Batch, IGNORE } from "../Batch.ts"
import type { Update } from "../model/Pass.ts"
import * as Segments from "../model/Segments.ts"
import * as Sink from "../Sink.ts"

/** How tokens of one kind are computed, and whose gradients they give. */
export interface Side {
  readonly mode: Sink.SinkMode
  readonly update: Required<Omit<Update, "heads">> & Update
}

/** What is done with the tokens of repeated sequences, and with all others. */
export interface Routing {
  readonly repeated: Side
  readonly others: Side
}

/** The routings there are; adding one is adding a value. */
export const routings = {
  /** MemSinks, ICML 2025, section 4 and appendix E, after Cloud et al. 2024: forward as ever, MLPs learn apart. */
  gradientMasking: {
    repeated: { mode: Sink.own, update: { general: false, sinks: true, rest: true } },
    others: { mode: Sink.own, update: { general: true, sinks: false, rest: true } }
  },
  /**
   * Selective gradient masking, arXiv 2512.05648: repeated sequences move sinks alone, off for all others; and heads that are
   * set aside (sinks.heads), which move on by momentum and decay between repeated sequences, as its authors' do.
   */
  sgtm: {
    repeated: { mode: Sink.own, update: { general: false, sinks: true, rest: false, heads: true } },
    // what is off has no gradient, heads that are set aside included
    others: { mode: Sink.off, update: { general: true, sinks: false, rest: true } }
  }
} satisfies Record<string, Routing>

export type RoutingName = keyof typeof routings

/** The sides of a routing, in the order of their passes. */
export const SIDES = ["repeated", "others"] as const

/** A batch as one side of a routing sees it. */
export interface Routed {
  readonly side: (typeof SIDES)[number]
  /** The batch, scored only where the side's tokens are. */
  readonly batch: Batch
  /** Units of the pool that the side's tokens move. */
  readonly units: Uint32Array
}

/**
 * A batch once for each side that has something to score in it, with targets that complement each other. `repeated` are
 * the ids of repeated sequences; an exposure under a fresh id (`idNoise`) counts as another.
 */
export const route = (
  routing: Routing,
  sinks: Sink.SinkConfig,
  repeated: ReadonlySet<bigint>,
  batch: Batch
): ReadonlyArray<Routed> => {
  const segments = Segments.segmentsOf(batch)
  const isRepeated = segments.ids.map((id) => repeated.has(id))
  const routed = SIDES.map((side): Routed => {
    const belongs = isRepeated.map((is) => is === (side === "repeated"))
    const { mode, update } = routing[side]
    const ids = segments.ids.filter((_, s) => belongs[s]!)
    return {
      side,
      batch: { ...batch, targets: batch.targets.map((target, t) => belongs[segments.segment[t]!]! ? target : IGNORE) },
      units: update.sinks ? Segments.litUnits(sinks, { ...segments, ids }, mode) : new Uint32Array()
    }
  })
  const scored = routed.filter(({ batch }) => batch.targets.some((target) => target !== IGNORE))
  // a step has a pass even where nothing is scored
  return scored.length > 0 ? scored : routed.slice(-1)
}
