/** The bookkeeping of `npm run bench:peers`: whose turn it is, what counts as training, and how it is written down. */

/** What a library says of itself once it is warm. */
export interface Ready {
  readonly name: string
  readonly version: string
  /** What it computes on. */
  readonly adapter: string
  readonly parameters: number
  /** Tokens of one step. */
  readonly tokens: number
  /** Of its first steps on one fixed batch, in nats. */
  readonly losses: ReadonlyArray<number>
  /** Of the fastest of those. */
  readonly secondsPerStep: number
  /** What people should know about the figures. */
  readonly note?: string
}

/** Some steps in one go, with what they cost: seconds of wall clock, and of processor over all threads. */
export interface Window {
  readonly steps: number
  readonly wall: number
  readonly cpu: number
}

export type Side = "ours" | "peer"

/** Who has the machine when: every window of the peer lies between two of ours, so that a busy machine hits both. */
export const turns = (windows: number): ReadonlyArray<Side> => [
  ...Array.from({ length: windows }, (): ReadonlyArray<Side> => ["ours", "peer"]).flat(),
  "ours"
]

/** Steps that fill a window, at least one. */
export const stepsFor = (seconds: number, secondsPerStep: number): number =>
  Math.max(1, Math.round(seconds / secondsPerStep))

/** Windows of a peer: where one step is longer than a window, fewer of them, but three, keep the time in bounds. */
export const windowsFor = (windows: number, seconds: number, secondsPerStep: number): number =>
  Math.max(Math.min(windows, 3), Math.min(windows, Math.floor((windows * seconds) / secondsPerStep)))

/** Let both sides run in turn; a side's next window is as long as its fastest one says. */
export const interleave = async (
  windows: number,
  seconds: number,
  sides: Readonly<Record<Side, { readonly secondsPerStep: number; readonly run: (steps: number) => Promise<Window> }>>
): Promise<Record<Side, Array<Window>>> => {
  const measured: Record<Side, Array<Window>> = { ours: [], peer: [] }
  for (const side of turns(windows)) {
    const { run, secondsPerStep } = sides[side]
    const fastest = Math.min(secondsPerStep, ...measured[side].map(({ steps, wall }) => wall / steps))
    measured[side].push(await run(stepsFor(seconds, fastest)))
  }
  return measured
}

/** Why a run of losses is no training, or undefined: on a fixed batch the loss must fall by a tenth at least. */
export const lossProblem = (losses: ReadonlyArray<number>): string | undefined => {
  const [first, last] = [losses[0], losses.at(-1)]
  if (first === undefined || last === undefined || !losses.every(Number.isFinite)) {
    return `its losses are no numbers: ${losses.join(", ")}`
  }
  if (last <= 0.9 * first) return undefined
  const ends = `from ${first.toFixed(3)} to ${last.toFixed(3)}`
  return `its loss went ${ends} in ${losses.length} steps on one batch: it does not learn`
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

/** Four figures: no window is measured better than that. */
const round = (value: number): number => Number(value.toPrecision(4))

/** Tokens a second: the median window's, the best one's, and of processor time. */
const rates = ({ tokens }: Ready, windows: ReadonlyArray<Window>) => {
  const wall = windows.map((window) => (tokens * window.steps) / window.wall)
  return {
    median: median(wall),
    best: Math.max(...wall),
    cpu: median(windows.map((window) => (tokens * window.steps) / window.cpu))
  }
}

/** One comparison, a line of JSON. Rates are tokens a second; `ratio` is that of the medians of all windows. */
export interface Line {
  readonly bench: string
  readonly adapter: string
  readonly unit: "tokens/s"
  readonly ours: number
  readonly peer: number
  readonly ratio: number
  readonly oursBest: number
  readonly peerBest: number
  readonly ratioBest: number
  /** Tokens per second of processor time: what sharing the machine moves least. */
  readonly oursCpu: number
  readonly peerCpu: number
  readonly ratioCpu: number
  readonly peerName: string
  readonly peerVersion: string
  readonly peerAdapter: string
  readonly note?: string
  readonly parameters: number
  readonly peerParameters: number
  readonly tokens: number
  /** Loss of the first and the last of the checked steps. */
  readonly losses: readonly [number, number]
  readonly peerLosses: readonly [number, number]
  /** Windows of the peer; ours has one more. */
  readonly windows: number
}

/** Write a comparison down. */
export const lineOf = (
  bench: string,
  ready: Readonly<Record<Side, Ready>>,
  measured: Readonly<Record<Side, ReadonlyArray<Window>>>
): Line => {
  const { ours, peer } = ready
  const [mine, theirs] = [rates(ours, measured.ours), rates(peer, measured.peer)]
  const ends = ({ losses }: Ready) => [round(losses[0]!), round(losses.at(-1)!)] as const
  return {
    bench,
    adapter: ours.adapter,
    unit: "tokens/s",
    ours: round(mine.median),
    peer: round(theirs.median),
    ratio: round(mine.median / theirs.median),
    oursBest: round(mine.best),
    peerBest: round(theirs.best),
    ratioBest: round(mine.best / theirs.best),
    oursCpu: round(mine.cpu),
    peerCpu: round(theirs.cpu),
    ratioCpu: round(mine.cpu / theirs.cpu),
    peerName: peer.name,
    peerVersion: peer.version,
    peerAdapter: peer.adapter,
    ...(peer.note === undefined ? {} : { note: peer.note }),
    parameters: ours.parameters,
    peerParameters: peer.parameters,
    tokens: ours.tokens,
    losses: ends(ours),
    peerLosses: ends(peer),
    windows: measured.peer.length
  }
}

/** Lines as a Markdown table. */
export const table = (lines: ReadonlyArray<Line>): string => {
  const rows = [
    ["step", "adapter", "peer", "ours, tokens/s", "peer, tokens/s", "ratio", "of best windows", "of processor time"],
    ["---", "---", "---", "---:", "---:", "---:", "---:", "---:"],
    ...lines.map((line) => [
      line.bench,
      line.adapter,
      `${line.peerName} ${line.peerVersion}${line.peerAdapter === line.adapter ? "" : ` (${line.peerAdapter})`}`,
      line.ours.toFixed(0),
      line.peer.toFixed(0),
      ...[line.ratio, line.ratioBest, line.ratioCpu].map((ratio) => `${ratio.toFixed(2)}x`)
    ])
  ]
  return rows.map((row) => `| ${row.join(" | ")} |`).join("\n")
}

/** An adapter's name as the name of a file. */
export const fileName = (adapter: string): string =>
  `${adapter.replace(/[^A-Za-z0-9]+/g, "-").replace(/-$/, "").toLowerCase()}.peers.jsonl`
