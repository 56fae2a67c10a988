/**
 * Progress for people, on stderr: one line that is rewritten on a terminal, a line every two seconds elsewhere; and the
 * curves of what is probed, for who watches.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { block, cells as cellsOf, type Environment, hasColor, isInteractive, type Output, printable, truncate,
  widthOf } from "../Terminal.ts"
import { format, type Stepped, type TrainEvent } from "../train/TrainEvent.ts"
import * as WatchView from "./WatchView.ts"

/** What a pipeline tells while it runs. */
export type ProgressEvent =
  | { readonly _tag: "Stage"; readonly message: string }
  | {
    readonly _tag: "Training"
    readonly arm: string
    readonly seed: number
    /** Which of all trainings of the run this is, from 0, and how many there are. */
    readonly index: number
    readonly count: number
    readonly event: TrainEvent
  }
  | {
    /** Sequences were probed between two steps. */
    readonly _tag: "Probed"
    readonly arm: string
    readonly seed: number
    readonly step: number
    readonly steps: number
    /** Mean losses, nats a token, by group and mask state: `sawtooth.own`. Only of what was probed at this step. */
    readonly losses: Readonly<Record<string, number>>
  }

export interface ProgressOptions {
  readonly output: Output
  readonly env: Environment
  /** Show nothing but `log` lines. Default false. */
  readonly quiet?: boolean
  /** Also tell of every evaluation and checkpoint. Default false. */
  readonly verbose?: boolean
  /** Also show the losses that are probed: as curves above the rewritten line, elsewhere as lines. Default false. */
  readonly watch?: boolean
  /** Milliseconds. Default: the monotonic clock. */
  readonly now?: () => number
}

export interface Progress {
  readonly event: (event: ProgressEvent) => Effect.Effect<void>
  /** A line that stays, above the rewritten one; shown even when quiet. */
  readonly log: (line: string) => Effect.Effect<void>
  /** Takes the rewritten line away, before something else is written to the terminal. Curves stay. */
  readonly clear: Effect.Effect<void>
}

/** Least time between two lines of training, ms: rewritten ones and plain ones; two pictures, two lines of losses. */
const interval = { interactive: 60, plain: 2000, picture: 250, losses: 10_000 }

/** `0:04`, `1:20`, `2:05:00`. */
export const clock = (seconds: number): string => {
  const s = Number.isFinite(seconds) ? Math.max(0, Math.round(seconds)) : 0
  const two = (n: number) => String(n).padStart(2, "0")
  const [hours, minutes] = [Math.floor(s / 3600), Math.floor(s / 60) % 60]
  return `${hours === 0 ? minutes : `${hours}:${two(minutes)}`}:${two(s % 60)}`
}

/** As much as fits a line: a bar goes first, then the speed. */
const line = (width: number, done: number, parts: ReadonlyArray<string>, speed: string, left: string): string => {
  const rest = (withSpeed: boolean) =>
    [...parts, ...(withSpeed ? [speed] : []), ...(left === "" ? [] : [left])].join("  ")
  const cells = Math.min(24, width - cellsOf(rest(true)) - 3)
  if (!(cells >= 6)) return truncate(rest(cellsOf(rest(true)) <= width), width)
  const full = Math.max(0, Math.min(cells, Math.round(cells * done) || 0))
  return `[${"=".repeat(full)}${"-".repeat(cells - full)}] ${rest(true)}`
}

const make = (options: ProgressOptions) => {
  const { env, now = () => performance.now(), output, quiet = false, verbose = false, watch = false } = options
  const interactive = isInteractive(output, env)
  const color = hasColor(output, env)
  const bottom = block(output)
  const watched = WatchView.watched()
  let lastShown = -Infinity
  /** When the first training of this process began, and how much of the whole run was done by then. */
  let began: { readonly time: number; readonly done: number } | undefined
  /** What is on the terminal: curves, when and for which size they were drawn, and the rewritten line below. */
  let picture: ReadonlyArray<string> = []
  let pictured = { time: -Infinity, width: 0, height: 0 }
  let bar = ""
  /** There are losses that the curves do not show yet. */
  let stale = false
  let lastTold = -Infinity
  /** Steps whose losses were told in a line. */
  const told = new Map<WatchView.Run, number>()

  /** The last column stays empty: a line that fills it wraps on some terminals. */
  const room = () => Math.max(1, widthOf(output.columns) - 1)

  /** `force`: newer losses are drawn though the last picture is young. */
  const draw = (force = false) => {
    const size = { width: room(), height: widthOf(output.rows, 24) - 5 }
    const resized = picture.length > 0 && (size.width !== pictured.width || size.height !== pictured.height)
    if (resized || stale && (force || now() - pictured.time >= interval.picture)) {
      picture = watched.picture(size, color)
      pictured = { time: now(), ...size }
      stale = false
    }
    bottom.draw(bar === "" ? picture : [...picture, truncate(bar, size.width)])
  }
  const clear = () => {
    bar = ""
    draw(true)
    bottom.leave()
    picture = []
  }
  const print = (line: string) => {
    bar = ""
    bottom.draw([])
    output.write(`${printable(line, color)}\n`)
    if (picture.length > 0) draw()
  }
  const tell = (run: WatchView.Run) => {
    lastTold = now()
    told.set(run, run.step)
    print(WatchView.line(run))
  }
  const probed = (event: WatchView.Probe) => {
    const run = watched.probed(event, now())
    stale = interactive
    if (interactive) draw(run.finished)
    else if (run.finished || now() - lastTold >= interval.losses) tell(run)
  }
  const stepped = (arm: string, index: number, count: number, event: Stepped) => {
    const time = now()
    if (time - lastShown < (interactive ? interval.interactive : interval.plain)) return
    lastShown = time
    const done = (index + event.step / event.steps) / count
    // an estimate: trainings differ in cost, and of the measurements between them only the past ones are known
    const left = began === undefined || done <= began.done
      ? ""
      : `${clock((time - began.time) / 1000 * (1 - done) / (done - began.done))} left`
    const parts = [
      `${String(Math.floor(100 * done)).padStart(3)} %`,
      printable(`${arm} ${index + 1}/${count}`).replace(/\s+/g, " "),
      `step ${event.step}/${event.steps}`,
      `loss ${event.loss?.toFixed(3) ?? "–"}`
    ]
    const speed = `${Math.round(event.tokensPerSecond).toLocaleString("en")} tokens/s`
    if (!interactive) return print([...parts, speed, left].join("  ").trimEnd())
    bar = line(room(), done, parts, speed, left)
    draw()
  }
  const show = (event: ProgressEvent) => {
    if (event._tag === "Stage") return print(event.message)
    if (event._tag === "Probed") return watch ? probed(event) : undefined
    const { arm, count, event: training, index, seed } = event
    const run = watched.heard(arm, seed, now(), training._tag === "Finished")
    const name = `${arm} ${index + 1}/${count} (seed ${seed})`
    switch (training._tag) {
      case "Started":
        began ??= { time: now(), done: (index + training.step / training.steps) / count }
        return print(`${name}: ${format(training)}`)
      case "Stepped":
        return stepped(arm, index, count, training)
      case "Finished":
        if (run !== undefined && !interactive && told.get(run) !== run.step) tell(run)
        return print(`${name}: ${format(training)}`)
      case "Evaluated":
      case "Saved":
        return verbose ? print(`${name}: ${format(training)}`) : undefined
    }
  }
  /** A view that fails ends no run: it is given up, and lines that stay are tried again. */
  const safely = <A extends ReadonlyArray<unknown>>(body: (...args: A) => void) => (...args: A): void => {
    try {
      body(...args)
    } catch {
      bar = ""
      picture = []
      stale = false
    }
  }
  return { show: quiet ? () => {} : safely(show), print: safely(print), clear: safely(clear) }
}

/** Progress until the scope closes, which leaves the terminal with no half-written line. */
export const scoped = (options: ProgressOptions): Effect.Effect<Progress, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(Effect.sync(() => make(options)), (it) => Effect.sync(it.clear)),
    (it) => ({
      event: (event) => Effect.sync(() => it.show(event)),
      log: (line) => Effect.sync(() => it.print(line)),
      clear: Effect.sync(it.clear)
    })
  )
