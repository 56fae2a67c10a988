/**
 * What the pretraining pipeline found: the type its renderers and the command line share. Losses are nats a token.
 */
import type { RankReport } from "../../src/train/DataParallel.ts"
import type { Failure } from "../report/Failure.ts"

/** What is absent was not trained: a run trains the arms it was asked for. */
export interface RepeatedLosses {
  /** The standard model: no sinks. */
  readonly standard?: number
  /** The sink model with each sequence's own sinks on, as in training. */
  readonly own?: number
  /** All sinks off. */
  readonly off?: number
  /** As many sinks on, but those of a random other id. */
  readonly placebo?: number
  /** All sinks at their expected value. */
  readonly all?: number
  /** A standard model whose MLP is as wide as what the sink model has on for one token. */
  readonly standardActiveWidth?: number
  /** A standard model that saw every repeated sequence once. */
  readonly deduplicated?: number
}

/** Loss on sequences that were never trained on. */
export type HeldOutLosses = RepeatedLosses

/** What a run by source made of one of its sources. */
export interface SourceResult {
  /** Decimal. */
  readonly id: string
  readonly name: string
  /** Documents trained on, and tokens of them that an epoch scores. */
  readonly documents: number
  readonly tokens: number
  /** Of the held-out sequences that were scored, and the mean loss of their tokens by state of the sinks. */
  readonly heldOutSequences: number
  readonly heldOut: Pick<RepeatedLosses, "own" | "off" | "placebo" | "all">
}

/**
 * The memorization gap, held-out minus repeated loss (MemSinks, section 5.2). That of `own` is taken to the held-out loss
 * with random sinks on, where a sequence that was never trained has no sinks of its own.
 */
export type Gaps = RepeatedLosses

export interface CurvePoint {
  readonly step: number
  readonly tokens: number
  readonly loss: number
}

/** One line of the report's plots: a training loss, or an evaluated loss such as `repeated.off`. */
export interface Curve {
  readonly arm: string
  readonly name: string
  readonly points: ReadonlyArray<CurvePoint>
}

/** A repeated passage continued greedily from its first tokens. */
export interface Continuation {
  readonly prompt: string
  readonly truth: string
  readonly standard?: string
  readonly own?: string
  readonly off?: string
}

export interface SeedResult {
  readonly seed: number
  /** 1 - gap(off) / gap(standard); absent without both arms, or without repeated sequences. */
  readonly gapClosed?: number
  readonly repeated: RepeatedLosses
  readonly heldOut: HeldOutLosses
  readonly gaps: Gaps
  /** Share of repeated sequences whose rest is produced verbatim, greedily, from its first tokens. */
  readonly extraction: Pick<RepeatedLosses, "standard" | "own" | "off" | "standardActiveWidth" | "deduplicated">
  /** Of a run by source with sinks: every source, that with most tokens first. */
  readonly sources?: ReadonlyArray<SourceResult>
  /** Absent without repeated sequences. */
  readonly continuation?: Continuation
  readonly curves: ReadonlyArray<Curve>
  readonly seconds: number
  /** Training throughput over all arms. */
  readonly tokensPerSecond: number
}

export interface Arm {
  readonly name: string
  readonly parameters: number
  readonly activeParameters: number
  readonly steps: number
  readonly tokens: number
}

export interface PretrainReport {
  /** Means over the seeds. */
  readonly gapClosed?: number
  readonly repeated: RepeatedLosses
  readonly heldOut: HeldOutLosses
  readonly gaps: Gaps
  readonly extraction: SeedResult["extraction"]
  readonly seconds: number
  readonly tokensPerSecond: number
  readonly adapter: string
  readonly seeds: ReadonlyArray<number>
  readonly arms: ReadonlyArray<Arm>
  readonly perSeed: ReadonlyArray<SeedResult>
  /** Where several ranks trained together, what each did of every training; of a resumed one since then. */
  readonly ranks?: ReadonlyArray<RankReport & { readonly arm: string; readonly seed: number }>
  /** Arms that failed, and why; absent where none did. They are missing from the numbers. */
  readonly failures?: ReadonlyArray<Failure>
  /** Everything that was configured, so that the run can be repeated. */
  readonly config: unknown
  /** What ran it: memsinks, runtime, webgpu. */
  readonly versions: Readonly<Record<string, string>>
}
