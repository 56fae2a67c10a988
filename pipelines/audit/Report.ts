/** What an audit of a deletion found: the type its renderers and the command line share. JSON. */
import type { Failure } from "../report/Failure.ts"

/** A number with its interval, 95 %; null: not known. */
export interface Known {
  readonly value: number | null
  readonly low: number | null
  readonly high: number | null
}

/**
 * How an attack went. `no baseline`: there is no model that was never trained on it. `nothing to recover`: the model before is
 * not seen to know it better than that one. `not recovered`: the interval of what remains lies below the tolerance;
 * `recovered`: above it; `undecided`: neither, or there are too few passages for an interval.
 */
export type Word = "no baseline" | "nothing to recover" | "not recovered" | "recovered" | "undecided"

/**
 * How the model after the deletion is asked. `used`: as who has it uses it, the deleted light no sink; `nearest`: with the sinks of
 * the one most like it of those who stay; `off`: with none at all; `lit`: with the deleted's own sinks lit by force, by who
 * has the weights and does not keep to the deletion; `relearned`: after fine-tuning on half of it, with none; `rounded8`,
 * `rounded4`: with weights of so many bits, as it is used.
 */
export type State = "used" | "nearest" | "off" | "lit" | "relearned" | "rounded8" | "rounded4"

/** A way to ask what is still known of the deleted. */
export interface Measure {
  /** `loss`, `verbatim`, `discoverable`, `membership.loss`, `truth`, or an attack and its metric: `nvRecall.recall`. */
  readonly name: string
  readonly state: State
  /** In a few words, and what else there is to say: how it was asked, with what budget. */
  readonly title: string
  readonly how?: string
  readonly unit: string
  /** Whether more of it means more memory. */
  readonly memory: "higher" | "lower"
  /** Passages, sources or facts that have it. */
  readonly of: number
  /** Of the model as it was, with the source's own sinks on. */
  readonly before: Known
  /** The same with another source, which was drawn, deleted in its place. */
  readonly placebo: Known | null
  readonly after: Known
  /** Of the model that was never trained on it, asked in the same way. */
  readonly oracle: Known | null
  /** The share of what the model before knew more than the oracle that is there after. */
  readonly remains: Known
  readonly word: Word
}

/** Facts of one kind: ln of the truth ratio, right over wrong completions; 0: no preference. */
export interface Truth {
  /** Of the deleted, as the file says: `unique` (none else states them), `shared`, `inferred`; `stay`: of those who stay. */
  readonly kind: string
  readonly facts: number
  readonly before: Known
  readonly after: Known
  /** Of the deleted, with the sinks of the one most like it; else null. */
  readonly nearest: Known | null
  readonly oracle: Known | null
}

/** Those who stay, by how many blocks of sinks they share with what was deleted. */
export interface Stayed {
  readonly shared: number
  readonly sources: number
  readonly passages: number
  /** Passages whose loss is the same to the bit. */
  readonly same: number
  /** Loss after it, less that before; nats a token. */
  readonly change: Known
}

/** One who stays. */
export interface Survivor {
  readonly name: string
  /** How like the deleted it is, from 0 to 1: the router's similarity, of the passages that were looked at. */
  readonly similarity: number
  readonly shared: number
  readonly passages: number
  readonly same: number
  readonly change: Known
}

/** Those who stay, by how like the deleted they are. */
export interface Band {
  readonly band: "near" | "middle" | "far"
  /** Similarities of the band's least and most like. */
  readonly from: number
  readonly to: number
  readonly sources: number
  readonly passages: number
  readonly same: number
  readonly change: Known
}

/** What so many deletions would cost those who stay, the same at every number. */
export interface Collateral {
  readonly deletions: number
  /** What becomes of sinks that one who stays lights, too. */
  readonly shared: "keep" | "take"
  /** Blocks of sinks that are erased. */
  readonly taken: number
  readonly sources: number
  /** Rise of their loss, nats a token; of the half of them that is more like one of the deleted, and of the other. */
  readonly change: Known
  readonly near: Known | null
  readonly far: Known | null
  /** Passages that are the same to the bit, of so many. */
  readonly same: number
  readonly passages: number
}

/** What `audit.json` holds: what is still known of what was deleted, by question. */
export interface AuditReport {
  readonly format: 2
  readonly before: string
  readonly after: string
  readonly oracle: string | null
  readonly data: string
  readonly adapter: string
  /** Of what was deleted, those that the data holds text of; and those that it does not. */
  readonly deleted: ReadonlyArray<
    { readonly id: string; readonly name: string; readonly passages: number; readonly nearest: string }
  >
  readonly notInData: ReadonlyArray<string>
  /** Those whose sinks were denied or excluded alone: they are there for who has the weights. */
  readonly masked: ReadonlyArray<string>
  /** The worst of its measures. */
  readonly word: Word
  readonly measures: ReadonlyArray<Measure>
  readonly truths: ReadonlyArray<Truth>
  /** What could not be asked, and why. */
  readonly notAsked: ReadonlyArray<{ readonly what: string; readonly why: string }>
  readonly stayed: ReadonlyArray<Stayed>
  readonly survivors: ReadonlyArray<Survivor>
  readonly bands: ReadonlyArray<Band>
  readonly collateral: ReadonlyArray<Collateral>
  /** Of another source, deleted in its place: by how much the loss of the deleted rises then. */
  readonly placebo: { readonly name: string; readonly change: Known } | null
  /** Measures that failed; the others stand. */
  readonly failures: ReadonlyArray<Failure>
  readonly notes: ReadonlyArray<string>
  readonly tolerance: number
  /** Of the fine-tuning. */
  readonly relearning: { readonly steps: number; readonly learningRate: number }
  readonly seqLen: number
  readonly seed: number
  readonly seconds: number
  readonly versions: Readonly<Record<string, string>>
}
