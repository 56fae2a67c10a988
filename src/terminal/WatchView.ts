/** What is seen of a run while it is probed: the losses of its groups along its steps, as curves or in a line. */
import { painter, printable, truncate, widthOf } from "../Terminal.ts"
import { chart, figure, palette, type Point, type Series } from "./TerminalChart.ts"

/** Sequences were probed between two steps: the event of the same name. */
export interface Probe {
  readonly arm: string
  readonly seed: number
  readonly step: number
  readonly steps: number
  /** Mean losses, nats a token, by group and mask state: `sawtooth.own`. */
  readonly losses: Readonly<Record<string, number>>
}

/** One training, as far as it was probed. */
export interface Run {
  readonly arm: string
  readonly seed: number
  /** Of the last probe. */
  step: number
  readonly steps: number
  /** Losses along steps, by group and mask state, in the order in which they came. */
  readonly curves: Map<string, Array<Point>>
  /** When it was heard of last, ms. */
  heard: number
  finished: boolean
}

/** A run that was not heard of for so long, ms, gives way to another. */
const patience = 10_000

/** Curves of one chart. */
const mostCurves = 6

const most = { width: 120, height: 24 }

/** A run's last losses: `standard seed 1 step 64/352: sawtooth.own 2.31  k=48.own 1.02`. */
export const line = ({ arm, curves, seed, step, steps }: Run): string =>
  `${arm} seed ${seed} step ${step}/${steps}: ${
    Array.from(curves, ([name, points]) => `${name} ${figure(points.at(-1)!.y)}`).join("  ")
  }`

/** A run's first curves, and in the room that is left the same ones of other runs, in the same colors but dimmed. */
export const seriesOf = (run: Run, others: ReadonlyArray<Run>): ReadonlyArray<Series> => {
  const names = [...run.curves.keys()].slice(0, mostCurves)
  const of = ({ curves }: Run, name: string, label: string, faint: boolean): ReadonlyArray<Series> => {
    const points = curves.get(name)
    return points === undefined ? [] : [{ name: label, points, faint, style: palette[names.indexOf(name)]! }]
  }
  return [
    ...names.flatMap((name) => of(run, name, name, false)),
    ...names.flatMap((name) => others.flatMap((other) => of(other, name, `${other.arm} ${name}`, true)))
  ].slice(0, mostCurves)
}

/** A title and a chart, at most `width` x `height` characters: a run's losses, nats a token, along its steps. */
export const picture = (
  run: Run,
  others: ReadonlyArray<Run>,
  size: { readonly width: number; readonly height: number },
  color: boolean
): ReadonlyArray<string> => {
  if (!(size.width >= 1) || !(size.height >= 1)) return []
  const width = widthOf(size.width, 1, most.width)
  const height = widthOf(size.height, 1, most.height)
  const left = run.curves.size - mostCurves
  const title = `${printable(run.arm)}  seed ${run.seed}  step ${run.step}/${run.steps}  loss, nats a token` +
    (left > 0 ? `  ${mostCurves} of ${run.curves.size} curves: all in the report` : "")
  return [
    painter(color)("bold", truncate(title, width)),
    ...chart({ width, height: height - 1, series: seriesOf(run, others), color })
  ]
}

/** Collects probes, and decides which run is seen: one at a time, until it finished or nothing is heard of it any more. */
export const watched = () => {
  const runs = new Map<string, Run>()
  let shown: Run | undefined
  const keyOf = (arm: string, seed: number) => `${seed} ${arm}`
  return {
    /** `time`: ms. */
    probed: ({ arm, losses, seed, step, steps }: Probe, time: number): Run => {
      const key = keyOf(arm, seed)
      const run = runs.get(key) ?? { arm, seed, step, steps, curves: new Map(), heard: time, finished: false }
      // the latest is the last
      runs.delete(key)
      runs.set(key, run)
      for (const [name, loss] of Object.entries(losses)) {
        const points = run.curves.get(name) ?? []
        run.curves.set(name, points)
        // a run that was resumed goes through some steps again
        while (points.length > 0 && points.at(-1)!.x >= step) points.pop()
        points.push({ x: step, y: loss })
      }
      Object.assign(run, { step, heard: time, finished: step >= steps })
      if (shown === undefined || shown.finished || time - shown.heard >= patience) shown = run
      return run
    },
    /** A run that was probed did something else; undefined: it was not probed yet. */
    heard: (arm: string, seed: number, time: number, finished: boolean): Run | undefined => {
      const run = runs.get(keyOf(arm, seed))
      if (run !== undefined) Object.assign(run, { heard: time, finished: run.finished || finished })
      return run
    },
    /** Of the run that is seen, and of the latest of every other arm. */
    picture: (size: { readonly width: number; readonly height: number }, color: boolean): ReadonlyArray<string> => {
      const run = shown
      if (run === undefined) return []
      const others = new Map([...runs.values()].filter(({ arm }) => arm !== run.arm).map((other) => [other.arm, other]))
      return picture(run, [...others.values()].reverse(), size, color)
    }
  }
}
