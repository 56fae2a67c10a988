/**
 * Timetables: which sequences are shown in which step, where that is the experiment. Planted sequences have steps of their
 * own; background sequences fill the rows that are left. Pure and seeded: any batch is made without those before it.
 */
import { DataError } from "../../Errors.ts"
import { random } from "../../Random.ts"
import type { Row } from "./Packing.ts"

/** When the sequences of a group are shown. */
export interface Showing {
  /** Exposures of each sequence. */
  readonly exposures: number
  /** Steps between which all of them lie: from `first`, before `end`. */
  readonly first: number
  readonly end: number
  /**
   * The exposures come in so many blocks, evenly spaced; within a block in one step after another. As many as exposures:
   * spaced; 1: massed, at the end; in between: cycles of study and rest. Default: as many as exposures.
   */
  readonly blocks?: number
}

/** What is wrong with a showing, or undefined. */
export const showingProblem = ({ blocks, end, exposures, first }: Showing): string | undefined =>
  blocks !== undefined && blocks > exposures
    ? `${exposures} exposures make at most as many blocks, got ${blocks}`
    : exposures > end - first
    ? `${exposures} exposures do not fit between steps ${first} and ${end}, since a step shows a sequence once`
    : undefined

/**
 * The steps in which each of `sequences` sequences is shown, counted from 0, rising. The sequences take turns: one begins
 * where the one before it ends, as far as there is room; the first one's last step is the one before `end`.
 */
export const stepsOf = (showing: Showing, sequences: number): ReadonlyArray<ReadonlyArray<number>> => {
  const { blocks = showing.exposures, end, exposures, first } = showing
  /** Exposures before a block, and the time that they have. */
  const before = (block: number) => Math.floor((block * exposures) / blocks)
  const timeOf = (count: number) => (count * (end - first)) / exposures
  return Array.from({ length: sequences }, (_, s) => {
    const steps: Array<number> = []
    for (let b = 0; b < blocks; b++) {
      const count = before(b + 1) - before(b)
      // each block as late as its time allows, less the turns of the sequences before
      const turn = Math.min(count, (timeOf(count) - count) / sequences)
      const last = Math.ceil(first + timeOf(before(b + 1)) - turn * s) - 1
      for (let i = 0; i < count; i++) steps.push(last - count + 1 + i)
    }
    return steps
  })
}

/**
 * Moves exposures out of steps that are too full, each to the nearest step with room that lies in its showing and does not
 * show the same sequence already. Those that come in the fewest blocks are placed first, since blocks must stay whole.
 * Throws a DataError where there is no room.
 */
export const spread = (
  groups: ReadonlyArray<{ readonly name: string; readonly showing: Showing; readonly sequences: number }>,
  batchSize: number
): ReadonlyArray<ReadonlyArray<ReadonlyArray<number>>> => {
  const taken = new Map<number, number>()
  const order = groups.map((group, g) => ({ ...group, g }))
    .sort((a, b) => (a.showing.blocks ?? Infinity) - (b.showing.blocks ?? Infinity) || a.g - b.g)
  const placed = new Array<ReadonlyArray<ReadonlyArray<number>>>(groups.length)
  for (const { g, name, sequences, showing } of order) {
    const { end, first } = showing
    placed[g] = stepsOf(showing, sequences).map((wanted) => {
      const own = new Set<number>()
      for (const [i, step] of wanted.entries()) {
        const free = (at: number) =>
          at >= first && at < end && (taken.get(at) ?? 0) < batchSize && !own.has(at) &&
          // those that are still to come keep their steps where they can
          (at === step || !wanted.includes(at, i + 1))
        let distance = 0
        while (distance < end - first && !free(step - distance) && !free(step + distance)) distance++
        const at = free(step - distance) ? step - distance : step + distance
        if (!free(at)) {
          throw new DataError({
            detail:
              `groups: ${name}: between steps ${first} and ${end} there is no room for ${wanted.length} exposures of ` +
              `${sequences} sequences beside the other groups: a batch has ${batchSize} rows. Raise data.batchSize, or show ` +
              "fewer sequences, or less often"
          })
        }
        own.add(at)
        taken.set(at, (taken.get(at) ?? 0) + 1)
      }
      return [...own].sort((a, b) => a - b)
    })
  }
  return placed
}

/** A sequence, and the steps that show it. */
export interface Planted {
  readonly row: Row
  /** Steps that show it, counted from 0, rising. */
  readonly steps: ReadonlyArray<number>
}

/** What a timetable is made of. */
export interface TimetableOptions {
  readonly steps: number
  /** Rows of a step. */
  readonly batchSize: number
  readonly planted: ReadonlyArray<Planted>
  /** Fill the rows that are left: `rows` from step `from` on, each once before any comes again, in a random order. */
  readonly background: ReadonlyArray<{ readonly from: number; readonly rows: ReadonlyArray<Row> }>
  readonly seed: number
}

/** Which rows each step shows: planted ones at their steps, others in between. */
export interface Timetable {
  readonly steps: number
  /** The rows of a step, counted from 0, in random order. */
  readonly rows: (step: number) => ReadonlyArray<Row>
  /** Exposures of a planted sequence, by its place, before so many steps are taken; and the last of them, or -1. */
  readonly shown: (planted: number, stepsTaken: number) => { readonly exposures: number; readonly last: number }
}

/** Throws a DataError for a step with more planted sequences than rows, and where rows are left and nothing fills them. */
export const timetable = ({ background, batchSize, planted, seed, steps }: TimetableOptions): Timetable => {
  const at = new Map<number, Array<number>>()
  planted.forEach(({ steps: own }, p) => {
    for (const step of own) {
      if (!(Number.isInteger(step) && step >= 0 && step < steps)) {
        throw new DataError({ detail: `a sequence is to be shown in step ${step}, but the run has ${steps} steps` })
      }
      at.set(step, [...(at.get(step) ?? []), p])
    }
  })
  const phases = [...background].sort((a, b) => a.from - b.from)
  /** The phase of a step, and how many of its rows were used before it. */
  const used = new Uint32Array(steps + 1)
  const phaseOf = new Uint32Array(steps)
  let phase = -1
  for (let step = 0; step < steps; step++) {
    while (phase + 1 < phases.length && phases[phase + 1]!.from <= step) {
      phase++
      used[step] = 0
    }
    const taken = at.get(step)?.length ?? 0
    if (taken > batchSize) {
      throw new DataError({
        detail:
          `step ${step} is to show ${taken} sequences, but a batch has ${batchSize} rows: raise data.batchSize, or ` +
          "show fewer sequences, or less often"
      })
    }
    if (taken < batchSize && (phase < 0 || phases[phase]!.rows.length === 0)) {
      throw new DataError({ detail: `step ${step} has rows that nothing fills: raise data.singleSequences` })
    }
    phaseOf[step] = Math.max(0, phase)
    used[step + 1] = used[step]! + batchSize - taken
  }
  let order: { readonly phase: number; readonly round: number; readonly places: Uint32Array } | undefined
  const filler = (phase: number, n: number): Row => {
    const { rows } = phases[phase]!
    const round = Math.floor(n / rows.length)
    if (order?.phase !== phase || order.round !== round) {
      const places = Uint32Array.from(rows, (_, i) => i)
      order = { phase, round, places: random(seed, "background", phase, round).shuffle(places) }
    }
    return rows[order.places[n % rows.length]!]!
  }
  return {
    steps,
    rows: (step) => {
      const own = (at.get(step) ?? []).map((p) => planted[p]!.row)
      const rest = Array.from({ length: batchSize - own.length }, (_, i) => filler(phaseOf[step]!, used[step]! + i))
      return random(seed, "places", step).shuffle([...own, ...rest])
    },
    shown: (p, stepsTaken) => {
      const { steps: own } = planted[p]!
      let exposures = 0
      while (exposures < own.length && own[exposures]! < stepsTaken) exposures++
      return { exposures, last: exposures === 0 ? -1 : own[exposures - 1]! }
    }
  }
}
