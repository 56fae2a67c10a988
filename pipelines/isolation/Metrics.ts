/**
 * What is measured of a model in a mask state: one line a metric. Each is a plain function of token records, of the texts,
 * or of what the model really said; the same for every checkpoint. To add one, add a line.
 */
import type { Window } from "../../src/measures/Extraction.ts"
import * as Extraction from "../../src/measures/Extraction.ts"
import * as Membership from "../../src/measures/Membership.ts"
import * as Measures from "../../src/measures/Metrics.ts"
import { mean, variance } from "../../src/measures/Statistics.ts"
import * as TextMetrics from "../../src/measures/TextMetrics.ts"
import type { TokenRecords } from "../../src/measures/TokenRecords.ts"
import type { Kind, Spread } from "../report/Estimate.ts"
import type { Metric, MetricKey } from "./Report.ts"

/** What a metric may look at. */
export interface Measured {
  /** The sequences that are scored: members of the training data. */
  readonly records: TokenRecords
  readonly texts: ReadonlyArray<string>
  /** Sequences of the same kind that were never trained on. */
  readonly others: TokenRecords
  readonly otherTexts: ReadonlyArray<string>
  /** The same two under the oracle, for attacks with a reference model. */
  readonly reference?: { readonly records: TokenRecords; readonly others: TokenRecords }
  /** What the model said greedily after the first `window.context` tokens, beside the truth; not of every state. */
  readonly said?: ReadonlyArray<{ readonly text: ReadonlyArray<number>; readonly truth: ReadonlyArray<number> }>
  readonly windows: ReadonlyArray<Window>
}

/** A metric of a set of sequences, and how much it depends on which they are. */
interface Sample extends Spread {
  readonly value: number
}

export interface MetricDefinition extends Metric {
  /** Undefined where it cannot be had of what was measured. */
  readonly of: (measured: Measured) => Sample | undefined
}

/**
 * The mean of a value of each sequence, weighted by `weights`: by its tokens, it is the mean over tokens. Its standard
 * error is that of a ratio of two means over the sequences.
 */
const over = (values: ArrayLike<number>, weights?: ArrayLike<number>): Sample => {
  const n = values.length
  const all = weights ?? new Float64Array(n).fill(1)
  const value = mean(Float64Array.from(values, (x, s) => x * all[s]!)) / mean(all)
  const moved = Float64Array.from(values, (x, s) => ((x - value) * all[s]!) / mean(all))
  return { value, sequences: n, ...(n < 2 ? {} : { error: Math.sqrt(variance(moved) / n) }) }
}

/** Scored tokens of each sequence. */
const tokensOf = ({ sequences, start }: TokenRecords): Float64Array =>
  Float64Array.from(sequences, (_, s) => start[s + 1]! - start[s]!)

/** The rate over the sequences that are long enough; undefined where none is. */
const rateOf = (found: Float64Array): Sample | undefined => {
  const long = found.filter((one) => !Number.isNaN(one))
  return long.length === 0 ? undefined : over(long)
}

const lossMetric: MetricDefinition = {
  metric: "loss",
  title: "mean loss",
  unit: "nats",
  memory: "lower",
  of: ({ records }) => over(Measures.loss(records), tokensOf(records))
}

/** Attacks: a score for every sequence, members higher. */
const attacks: ReadonlyArray<
  readonly [
    name: string,
    title: string,
    score: (records: TokenRecords, texts: ReadonlyArray<string>, reference: TokenRecords | undefined) =>
      | Float64Array
      | undefined
  ]
> = [
  ["loss", "loss", (records) => Membership.lossScore(records)],
  ["zlib", "loss over compressed size", (records, texts) => Membership.zlibScore(records, texts)],
  ["minK", "Min-K%", (records) => Membership.minK(records)],
  ["minKPlusPlus", "Min-K%++", (records) => Membership.minKPlusPlus(records)],
  ["reference", "loss against the oracle's",
    (records, _, reference) => reference === undefined ? undefined : Membership.referenceScore(records, reference)],
  ["wbc", "windows of loss against the oracle's (Chen et al. 2026)",
    (records, _, reference) => reference === undefined ? undefined : Membership.windowScore(records, reference)]
]

/** The document that a sequence is of. */
const documentOf = ({ name }: TokenRecords["sequences"][number]): string => name.replace(/\+\d+$/, "")

/** An attack sees both sequences that were trained on and others: it is known no better than of the fewer. */
const paired = (value: number, [members, others]: readonly [ArrayLike<number>, ArrayLike<number>]): Sample => ({ value,
  sequences: Math.min(members.length, others.length) })

const membership = attacks.flatMap(([name, title, score]): ReadonlyArray<MetricDefinition> => {
  const both = (m: Measured) => {
    const members = score(m.records, m.texts, m.reference?.records)
    const others = score(m.others, m.otherTexts, m.reference?.others)
    return members === undefined || others === undefined ? undefined : [members, others] as const
  }
  return [
    {
      metric: `mia.${name}.auc`,
      title: `membership inference by ${title}, AUC`,
      unit: "share",
      memory: "higher",
      of: (m) => {
        const scores = both(m)
        return scores === undefined ? undefined : paired(Membership.auc(...scores), scores)
      }
    },
    {
      metric: `mia.${name}.tpr`,
      title: `membership inference by ${title}, true positives at 1 % false ones`,
      unit: "share",
      memory: "higher",
      of: (m) => {
        const scores = both(m)
        return scores === undefined ? undefined : paired(Membership.tprAt(...scores, 0.01), scores)
      }
    },
    {
      metric: `mia.${name}.worst`,
      title: `membership inference by ${title}, AUC of the document that it finds most surely`,
      unit: "share",
      memory: "higher",
      of: (m) => {
        const scores = both(m)
        const sources = m.records.sequences.map(documentOf)
        return scores === undefined ? undefined : paired(Membership.attackBySource(...scores, sources)[0]!.auc, scores)
      }
    }
  ]
})

/** Rank correlations with the oracle, which is what it takes to show that something was not trained on. */
const prism: ReadonlyArray<MetricDefinition> = [
  {
    metric: "prism",
    title: "rank correlation of normalized log-probabilities with the oracle's (after Shetty et al. 2026)",
    unit: "ratio",
    memory: "lower",
    of: ({ records, reference }) =>
      reference &&
      { value: Membership.rankCorrelation(records, reference.records), sequences: records.sequences.length }
  },
  {
    metric: "prism.gap",
    title: "that on sequences that neither saw, minus it: 0 where nothing was trained on",
    unit: "ratio",
    memory: "higher",
    of: ({ others, records, reference }) =>
      reference && {
        value: Membership.rankCorrelation(others, reference.others) -
          Membership.rankCorrelation(records, reference.records),
        sequences: Math.min(records.sequences.length, others.sequences.length)
      }
  }
]

/** Draws of the (n, p)-extraction that the tables show. */
export const DRAWS = { n: 100, p: 0.5 } as const

const byWindow = (windows: ReadonlyArray<Window>): ReadonlyArray<MetricDefinition> =>
  windows.flatMap((window): ReadonlyArray<MetricDefinition> => [
    {
      metric: "greedy",
      context: window.context,
      title: `said verbatim, greedily: ${window.length} tokens after ${window.context} (Carlini et al. 2022)`,
      unit: "share",
      memory: "higher",
      of: ({ records }) => rateOf(Extraction.greedyExtraction(records, window))
    },
    {
      metric: "np",
      context: window.context,
      title: `(${DRAWS.n}, ${DRAWS.p})-extractable with top-k 40: ${window.length} tokens after ${window.context} ` +
        "(Hayes et al. 2025)",
      unit: "share",
      memory: "higher",
      of: ({ records }) =>
        rateOf(Extraction.extractable(
          Extraction.suffixLogProb(records, { topK: 40, temperature: 1 }, window),
          DRAWS.n,
          DRAWS.p
        ))
    }
  ])

const copies = (
  name: string,
  title: string,
  unit: Metric["unit"],
  of: (copy: TextMetrics.Copy) => number
): MetricDefinition => ({
  metric: `said.${name}`,
  title: `really said: ${title}`,
  unit,
  memory: name === "editDistance" ? "lower" : "higher",
  of: ({ said }) =>
    said === undefined ? undefined : over(said.map(({ text, truth }) => of(TextMetrics.copy(text, truth))))
})

/** After how many tokens a sequence must be continued to its end: a quarter and a half of it, unless told. */
export const windowsOf = (contexts: ReadonlyArray<number> | undefined, seqLen: number): ReadonlyArray<Window> =>
  (contexts ?? [...new Set([Math.max(1, Math.floor(seqLen / 4)), Math.max(1, Math.floor(seqLen / 2))])])
    .filter((context) => context < seqLen + 1)
    .map((context) => ({ context, length: seqLen + 1 - context }))

/** All metrics of a panel. */
export const metricsFor = (windows: ReadonlyArray<Window>): ReadonlyArray<MetricDefinition> => [
  lossMetric,
  {
    metric: "probability",
    title: "exp(-mean loss)",
    unit: "share",
    memory: "higher",
    of: ({ records }) => over(Measures.probability(records))
  },
  {
    metric: "likelihoodRatio",
    title:
      "average likelihood ratio: the mean of exp(loss - the oracle's loss), 1 where no better known (Zaman et al. 2024)",
    unit: "ratio",
    memory: "lower",
    of: ({ records, reference }) =>
      reference && over(Measures.likelihoodRatios(Measures.loss(records), Measures.loss(reference.records)))
  },
  {
    metric: "exactMemorization",
    title: "share of tokens that are the likeliest (open-unlearning)",
    unit: "share",
    memory: "higher",
    of: ({ records }) => over(Measures.exactMemorization(records), tokensOf(records))
  },
  {
    metric: "extractionStrength",
    title: "share of the sequence that follows from what is before it (open-unlearning)",
    unit: "share",
    memory: "higher",
    of: ({ records }) => over(Measures.extractionStrength(records))
  },
  ...byWindow(windows),
  copies("approximate", "edit distance at most a tenth", "share", ({ approximate }) => approximate ? 1 : 0),
  copies("bleu75", "BLEU at least .75 (Ippolito et al. 2023)", "share", ({ bleu }) => bleu >= 0.75 ? 1 : 0),
  copies("editDistance", "normalized edit distance", "share", ({ editDistance }) => editDistance),
  copies("rougeL", "ROUGE-L F1", "share", ({ rougeL }) => rougeL),
  ...membership,
  ...prism
]

/** Metrics of sequences that were never trained on. */
export const heldOutMetrics: ReadonlyArray<MetricDefinition> = [lossMetric]

/** All that can be had of what was measured, with the sequences that each is of: NaN where it is not a number. */
export const sample = (
  definitions: ReadonlyArray<MetricDefinition>,
  group: MetricKey["group"],
  measured: Measured
): ReadonlyArray<MetricKey & Sample> =>
  definitions.flatMap(({ context, metric, of }) => {
    const value = of(measured)
    return value === undefined ? [] : [{ group, metric, ...(context === undefined ? {} : { context }), ...value }]
  })

/** What a metric can be, where that is not a share. */
const kinds: Readonly<Record<string, Kind>> = { loss: "loss", likelihoodRatio: "loss", gap: "real", closed: "real",
  prism: "real", "prism.gap": "real" }
export const kindOf = ({ metric }: Pick<MetricKey, "metric">): Kind => kinds[metric] ?? "share"

// ---------------------------------------------------------------------------------------------------------------
// Keys

/** Of what most checks and claims are about. */
export const repeatedLoss: MetricKey = { group: "natural", metric: "loss" }
export const heldOutLoss: MetricKey = { group: "heldOut", metric: "loss" }

const isSame = (a: MetricKey, b: MetricKey): boolean =>
  a.group === b.group && a.metric === b.metric && a.context === b.context

/** What is kept of a metric, where there is anything. */
export const at = <T extends MetricKey>(all: ReadonlyArray<T> | undefined, key: MetricKey): T | undefined =>
  all?.find((one) => isSame(one, key))

/** The keys of several lists, each once, in the order in which they were met. */
export const keysOf = (...lists: ReadonlyArray<ReadonlyArray<MetricKey>>): ReadonlyArray<MetricKey> =>
  lists.flat().reduce<ReadonlyArray<MetricKey>>((met, { context, group, metric }) => {
    const key = { group, metric, ...(context === undefined ? {} : { context }) }
    return at(met, key) === undefined ? [...met, key] : met
  }, [])

/** How a metric is shown: `greedy@16`; one that asks for a number of tokens `greedy, 16 tokens`. */
export const metricName = (
  { context, length, metric }: Pick<MetricKey, "metric" | "context"> & { readonly length?: number | undefined }
): string => `${metric}${context === undefined ? "" : `@${context}`}${length === undefined ? "" : `, ${length} tokens`}`

/** The same with its group: `natural.greedy@16`. */
export const nameOf = (key: MetricKey): string => `${key.group}.${metricName(key)}`
