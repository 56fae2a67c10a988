/** What an audit of a deletion found: the type its renderers and the command line share. JSON. */

/** A number with its interval, 95 %, over sequences, or over sources where several were deleted; null: not known. */
export interface Known {
  readonly value: number | null
  readonly low: number | null
  readonly high: number | null
}

/**
 * How an attack went. `no baseline`: there is no model that was never trained on it. `nothing to recover`: the model before
 * did not know it better than that one. `not recovered`: the interval of what remains lies below the tolerance;
 * `recovered`: above it; `undecided`: neither.
 */
export type Word = "no baseline" | "nothing to recover" | "not recovered" | "recovered" | "undecided"

/** A way to ask what is still known of the deleted. */
export interface Measure {
  readonly name: string
  /** In words: how it was asked, and with what budget. */
  readonly title: string
  readonly unit: "nats a token" | "share of passages"
  /** Means over the passages; `before`, of the model as it was, with the source's own sinks on. */
  readonly before: number
  readonly after: number
  /** Of the model that was never trained on it, asked in the same way. */
  readonly oracle: number | null
  /** The share of what the model before knew more than the oracle that is there after. */
  readonly remains: Known
  readonly word: Word
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

export interface AuditReport {
  readonly format: 1
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
  /** The worst of its measures. */
  readonly word: Word
  readonly measures: ReadonlyArray<Measure>
  readonly stayed: ReadonlyArray<Stayed>
  /** Of another source, deleted in its place: by how much the loss of the deleted rises then. */
  readonly placebo: { readonly name: string; readonly change: Known } | null
  readonly tolerance: number
  /** Of the fine-tuning. */
  readonly relearning: { readonly steps: number; readonly learningRate: number }
  readonly seqLen: number
  readonly seed: number
  readonly seconds: number
  readonly versions: Readonly<Record<string, string>>
}
