/**
 * What the isolation checks found: the type that the harness, its renderers and the command line share. Losses are nats a
 * token, rates are shares from 0 to 1.
 */
import type { Simulation } from "../../src/measures/Theory.ts"
import type { HygieneCheck } from "./Hygiene.ts"

/** The head of the report. */
export type Word = "isolated" | "hidden" | "not isolated"

/** What a set of sequences is: natural repeated text, random tokens, or text of another domain. */
export type Panel = "natural" | "canary" | "other"

/** A number over seeds: its mean, and its 95 % interval (Student's t); without one where there are fewer than 2 seeds. */
export interface Estimate {
  readonly mean: number
  readonly low?: number
  readonly high?: number
  /** One value a seed, in the order of `seeds`; null where the seed's arm failed. */
  readonly values: ReadonlyArray<number | null>
}

/**
 * Which neurons are on. Of a model without sinks only `own`, which is the whole model. `calibrated`: off, with one bias a
 * vocabulary entry fitted first, so that a model is not taken for forgetful because its output is off balance.
 */
export type MaskState = "own" | "all" | "off" | "calibrated" | "placebo" | "placeboOff" | "pruned"

/** A model in a mask state. */
export interface Subject {
  /** `standard`, `sinks`, ..., or of a post-hoc method its name: `npo`, `integratedGradients`. */
  readonly arm: string
  readonly kind: "trained" | "localizer" | "unlearner"
  readonly state: MaskState
  /** Of post-hoc methods the point of the sweep that was chosen, on data that is not scored: `fraction 0.02`, `step 32`. */
  readonly setting?: string
  /** By `heldOut.<metric>`, `natural.<metric>`, `canary.<metric>`, `other.<metric>`; see `metrics` of the report. */
  readonly metrics: Readonly<Record<string, Estimate>>
  /** The same as recovery: 1 = as memorized as the standard model, 0 = as if never repeated (methods.md 4.2). */
  readonly recovery: Readonly<Record<string, Estimate>>
}

export interface Metric {
  /** `natural.extractionStrength` without the panel. */
  readonly name: string
  /** In words, with its source. */
  readonly title: string
  readonly unit: "nats" | "share" | "tokens"
  /** Whether more of it means more memory. */
  readonly memory: "higher" | "lower"
}

/** What an arm cost. */
export interface ArmCost {
  readonly name: string
  readonly kind: Subject["kind"]
  /** In words: what it is. */
  readonly title: string
  readonly parameters: number
  readonly activeParameters: number
  readonly steps: number
  /** Tokens trained on, with every pass that its method takes. */
  readonly tokens: number
  readonly seconds: Estimate
  readonly tokensPerSecond: Estimate
}

/** F1. */
export interface LearningCurve {
  readonly arm: string
  /** `repeated.own`, `repeated.off`, `heldOut.own`, `heldOut.off`, `train`. */
  readonly series: string
  readonly points: ReadonlyArray<{ readonly step: number; readonly tokens: number; readonly loss: Estimate }>
}

/** F2: forgetting against degradation (MemSinks, section 4), a curve for each sweep and a point for each other arm. */
export interface Tradeoff {
  readonly arm: string
  readonly panel: Panel
  readonly points: ReadonlyArray<{
    readonly setting: string
    /** Held-out loss minus the standard model's: the lower the better. */
    readonly degradation: Estimate
    /** Loss on the repeated sequences minus the standard model's: the higher the more is forgotten. */
    readonly forgetting: Estimate
    /** Whether it is the one that the stopping rule chose. */
    readonly chosen: boolean
  }>
}

/** F3. */
export interface ExtractionCurve {
  readonly arm: string
  readonly state: MaskState
  readonly panel: Panel
  /** What changes along x: log2 of exposures, or tokens of context. */
  readonly by: "repeats" | "context"
  readonly metric: string
  readonly points: ReadonlyArray<{ readonly x: number; readonly value: Estimate }>
  /** Of `repeats`: value = intercept + slope log2(repeats), over all seeds. */
  readonly fit?: { readonly slope: number; readonly intercept: number; readonly r2: number; readonly slopeLow: number; readonly slopeHigh: number }
}

/** F6: fine-tuning on half of the removed sequences, and what comes back of the other half. */
export interface Relearning {
  readonly arm: string
  readonly state: MaskState
  readonly points: ReadonlyArray<{
    readonly learningRate: number
    readonly step: number
    /** Loss of the half that is trained on, of the other half, and of held-out sequences. */
    readonly seen: Estimate
    readonly scored: Estimate
    readonly heldOut: Estimate
  }>
  /** Steps until the other half is back, at the worst learning rate; null in a seed where it is not within the budget. */
  readonly steps: ReadonlyArray<number | null>
  /** The most of the memory of the other half that came back at any step and rate, as recovery. */
  readonly recovered: Estimate
  /** Those steps over the oracle's, the budget standing for "not within it"; 1 = as slow as never trained. */
  readonly ratio: Estimate
}

/** T2: what other sequences' sinks do to a sequence. */
export interface Interference {
  readonly arm: string
  /** Own sinks and those of so many others. */
  readonly ladder: ReadonlyArray<{ readonly others: number; readonly loss: Estimate }>
  /** loss(off) - loss(own), and loss(off) - loss(placebo). */
  readonly sliceContent: { readonly own: Estimate; readonly placebo: Estimate }
  /** Loss with own sinks on and as many random other ones off, minus that with own sinks on: should be 0. */
  readonly placeboOff: Estimate
  /** What deleting one id adds to the loss of the other repeated sequences, in the mean and at worst. */
  readonly deletion: { readonly mean: Estimate; readonly worst: Estimate }
  /** Share of the memory that is left with sinks off: recovery of the loss. */
  readonly leakage: Estimate
}

/** T3. */
export interface Hygiene {
  readonly arm: string
  readonly seed: number
  readonly checks: ReadonlyArray<HygieneCheck>
}

/** How well a localizer finds the sinks that an id was given (no published tool knows them). */
export interface LocalizerRecall {
  readonly localizer: string
  readonly arm: string
  /** Share of the ids' own sinks among the neurons ranked highest, as many as there are; and what chance gives. */
  readonly recall: Estimate
  readonly chance: number
}

export interface GateCheck {
  readonly name: string
  readonly passed: boolean
  readonly value: Estimate
  /** `recovery at most 0.2`. */
  readonly bound: string
  /** What the verdict is where it does not pass. */
  readonly otherwise: Exclude<Word, "isolated">
}

/** The verdict on one arm (methods.md 4.4). */
export interface Verdict {
  readonly arm: string
  readonly word: Word
  /** The check that decided it. */
  readonly decidedBy: string
  readonly checks: ReadonlyArray<GateCheck>
}

/** A claim of the papers (papers.md 6), as it went here. */
export interface Claim {
  readonly number: number
  readonly claim: string
  readonly result: "held" | "did not hold" | "not decided" | "not tested"
  /** The numbers it rests on, in words. */
  readonly evidence: string
}

export interface Failure {
  readonly arm: string
  readonly seed: number
  readonly message: string
}

export interface IsolationReport {
  readonly format: 1
  /** The arm that the head speaks of. */
  readonly subject: string
  readonly word: Word
  readonly decidedBy: string
  readonly verdicts: ReadonlyArray<Verdict>
  readonly metrics: ReadonlyArray<Metric>
  readonly subjects: ReadonlyArray<Subject>
  readonly arms: ReadonlyArray<ArmCost>
  readonly curves: ReadonlyArray<LearningCurve>
  readonly tradeoffs: ReadonlyArray<Tradeoff>
  readonly extraction: ReadonlyArray<ExtractionCurve>
  readonly relearning: ReadonlyArray<Relearning>
  readonly interference: ReadonlyArray<Interference>
  readonly hygiene: ReadonlyArray<Hygiene>
  readonly localizers: ReadonlyArray<LocalizerRecall>
  readonly theory: ReadonlyArray<Simulation>
  readonly claims: ReadonlyArray<Claim>
  /** Traps of methods.md 4.7 that bite here, in words. */
  readonly warnings: ReadonlyArray<string>
  readonly failures: ReadonlyArray<Failure>
  readonly seeds: ReadonlyArray<number>
  /** What was trained on and scored. */
  readonly data: {
    readonly world: string
    readonly trainedTokens: number
    readonly vocabSize: number
    readonly seqLen: number
    readonly splits: Readonly<Record<string, number>>
    /** Sequences left out because a near-duplicate is in another split. */
    readonly dropped: number
    /** Exposures of the repeated sequences: how many sequences have how many. */
    readonly repeats: ReadonlyArray<{ readonly sequences: number; readonly exposures: number }>
  }
  readonly adapter: string
  readonly seconds: number
  readonly config: unknown
  readonly versions: Readonly<Record<string, string>>
}
