/**
 * How well and how fast near-duplicates are found: `node --import tsx test/bench/near.ts [--million]`. Copies with
 * known edits are planted among pieces of the State of the Union addresses; the Jaccard index of each pair is computed
 * exactly, from sets of strings. `--million` also clusters a million generated documents.
 */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import { Buffer } from "node:buffer"
import process from "node:process"
import { pathToFileURL } from "node:url"
import * as Corpus from "../../src/data/Corpus.ts"
import { type Bands, bandsFor, collisionProbability, hash64, makeNearIndex, makeSigner,
  normalize } from "../../src/data/identity/Identity.ts"
import { type Random, random } from "../../src/Random.ts"

/** The Jaccard index of the shingles of two texts, exactly. */
export const jaccard = (a: string, b: string, shingle = 5): number => {
  const shingles = (text: string): Set<string> => {
    const words = normalize(text).split(" ")
    return words.length < shingle
      ? new Set([words.join(" ")])
      : new Set(Array.from({ length: words.length - shingle + 1 }, (_, i) => words.slice(i, i + shingle).join(" ")))
  }
  const [left, right] = [shingles(a), shingles(b)]
  let both = 0
  for (const one of left) if (right.has(one)) both++
  return both / (left.size + right.size - both)
}

/** Sentences of words drawn by Zipf's law from a vocabulary of made-up ones: text that no package has to bring. */
export const generated = (documents: number, words: number, draw: Random): ReadonlyArray<string> => {
  const letters = (i: number): string => i.toString(26).replace(/\d/g, (digit) => "qrstuvwxyz"[+digit]!)
  const vocabulary = Array.from({ length: 4000 }, (_, i) => `${letters(i)}a`)
  const word = (): string => vocabulary[Math.floor(vocabulary.length ** draw.uniform()) - 1]!
  return Array.from({ length: documents },
    () => Array.from({ length: words }, (_, i) => i % 12 === 11 ? `${word()}.` : word()).join(" "))
}

export type Edit =
  | "substituted words"
  | "deleted words"
  | "inserted words"
  | "shuffled sentences"
  | "prefix added"
  | "suffix added"
  | "truncated"
  | "case, spaces, punctuation"

export const edits: ReadonlyArray<Edit> = [
  "substituted words",
  "deleted words",
  "inserted words",
  "shuffled sentences",
  "prefix added",
  "suffix added",
  "truncated",
  "case, spaces, punctuation"
]

/** A copy of a text; `rate` is the share of it that an edit touches. `other` lends words. */
export const edited = (text: string, edit: Edit, rate: number, other: string, draw: Random): string => {
  const words = text.split(/\s+/)
  const lent = other.split(/\s+/)
  const foreign = (): string => lent[draw.below(lent.length)]!
  const share = Math.round(words.length * rate)
  switch (edit) {
    case "substituted words":
      return words.map((word) => draw.uniform() < rate ? foreign() : word).join(" ")
    case "deleted words":
      return words.filter(() => draw.uniform() >= rate).join(" ")
    case "inserted words":
      return words.map((word) => draw.uniform() < rate ? `${word} ${foreign()}` : word).join(" ")
    case "shuffled sentences":
      return draw.shuffle(text.split(/(?<=[.;:])\s+/)).join(" ")
    case "prefix added":
      return [...lent.slice(0, share), ...words].join(" ")
    case "suffix added":
      return [...words, ...lent.slice(0, share)].join(" ")
    case "truncated":
      return words.slice(0, words.length - share).join(" ")
    case "case, spaces, punctuation":
      return ` ${words.map((w) => draw.uniform() < 0.3 ? `"${w.toUpperCase()}",` : w).join("  \n")}`
  }
}

export interface Planted {
  /** The originals, then one copy of each, in the same order. */
  readonly texts: ReadonlyArray<string>
  readonly edit: ReadonlyArray<Edit>
  /** Of each original and its copy. */
  readonly jaccard: ReadonlyArray<number>
}

/** One edited copy of each text. Small rates are drawn as often as large ones, so that every Jaccard index comes up. */
export const plant = (originals: ReadonlyArray<string>, draw: Random): Planted => {
  const edit = originals.map((_, i) => edits[i % edits.length]!)
  const copies = originals.map((text, i) =>
    edited(text, edit[i]!, 0.5 * draw.uniform() ** 2, originals[draw.below(originals.length)]!, draw)
  )
  return { texts: [...originals, ...copies], edit, jaccard: originals.map((text, i) => jaccard(text, copies[i]!)) }
}

/** Probability that at least `least` of n coins show heads. */
const tail = (n: number, p: number, least: number): number => {
  if (p > 1 - 1e-12) return 1
  let sum = 0
  let log = n * Math.log1p(-p)
  for (let i = 0; i <= n; i++) {
    if (i >= least) sum += Math.exp(log)
    log += Math.log((n - i) / (i + 1)) + Math.log(p / (1 - p))
  }
  return Math.min(1, sum)
}

export interface Bin {
  readonly from: number
  readonly to: number
  readonly pairs: number
  /** Share of pairs that agree in a band, and what the S-curve expects. */
  readonly candidates: number
  readonly sCurve: number
  /** Share in one cluster, and what the S-curve times the estimate's binomial spread expects. */
  readonly joined: number
  readonly expected: number
}

export interface Measured {
  readonly threshold: number
  readonly bands: Bands
  readonly bins: ReadonlyArray<Bin>
  /** Of the planted pairs at the threshold or above, the share in one cluster; and of those .05 above it. */
  readonly recall: number
  readonly recallAbove: number
  /** Of all pairs that joined clusters, the share at the threshold or above, and at .05 below it or above. */
  readonly precision: number
  readonly precisionNear: number
  readonly joins: number
  readonly compared: number
}

const EDGES = [0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1.01]
const mean = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0) / values.length

/** Finds the planted pairs, and checks every pair that was joined against its exact Jaccard index. */
export const measure = ({ jaccard: truth, texts }: Planted, threshold: number, numHashes = 128): Measured => {
  const half = truth.length
  const sign = makeSigner({ numHashes })
  const signatures = texts.map((text) => sign(normalize(text)))
  const index = makeNearIndex({ threshold, numHashes })
  signatures.forEach(index.addSignature)
  const { compared, near, pairs } = index.clusters(texts.length)
  const bands = bandsFor(threshold, numHashes)

  const together = truth.map((_, i) => near[i] === near[half + i])
  const candidate = truth.map((_, i) => {
    const [a, b] = [signatures[i]!, signatures[half + i]!]
    return Array.from({ length: bands.bands }, (_, band) => band * bands.rows)
      .some((from) => a.subarray(from, from + bands.rows).every((slot, j) => slot === b[from + j]))
  })
  // unlike slots agree once in 256 times
  const slot = (s: number): number => s + (1 - s) / 256
  const enough = numHashes * slot(threshold) - 1e-9

  const share = (of: ReadonlyArray<number>, test: (i: number) => boolean): number =>
    mean(of.map((i) => test(i) ? 1 : 0))
  const bins = EDGES.slice(0, -1).map((from, b): Bin => {
    const to = EDGES[b + 1]!
    const members = [...truth.keys()].filter((i) => truth[i]! >= from && truth[i]! < to)
    const sCurve = (i: number) => collisionProbability(slot(truth[i]!), bands)
    return {
      from,
      to: Math.min(1, to),
      pairs: members.length,
      candidates: share(members, (i) => candidate[i]!),
      sCurve: mean(members.map(sCurve)),
      joined: share(members, (i) => together[i]!),
      expected: mean(members.map((i) => sCurve(i) * tail(numHashes, slot(truth[i]!), enough)))
    }
  }).filter(({ pairs }) => pairs > 0)

  const from = (least: number) => [...truth.keys()].filter((i) => truth[i]! >= least)
  const exact = pairs.map(({ a, b }) => jaccard(texts[a]!, texts[b]!))
  return {
    threshold,
    bands,
    bins,
    recall: share(from(threshold), (i) => together[i]!),
    recallAbove: share(from(threshold + 0.05), (i) => together[i]!),
    precision: mean(exact.map((j) => j >= threshold ? 1 : 0)),
    precisionNear: mean(exact.map((j) => j >= threshold - 0.05 ? 1 : 0)),
    joins: pairs.length,
    compared
  }
}

const table = (measured: Measured): string => {
  const { bands, bins, compared, joins, precision, precisionNear, recall, recallAbove, threshold } = measured
  return [
    `threshold ${threshold}: ${bands.bands} bands of ${bands.rows} rows; recall ${recall.toFixed(3)}, from ` +
    `${(threshold + 0.05).toFixed(2)} on ${recallAbove.toFixed(3)}; precision ${precision.toFixed(3)}, allowing .05 ` +
    `${precisionNear.toFixed(3)} (${joins} joins, ${compared} pairs compared)`,
    "",
    "| Jaccard | pairs | in a band | 1-(1-s^r)^b | joined | expected |",
    "|---|---:|---:|---:|---:|---:|",
    ...bins.map(({ candidates, expected, from, joined, pairs, sCurve, to }) =>
      `| ${from === 1 ? "1" : `${from.toFixed(2)} to ${to.toFixed(2)}`} | ${pairs} | ` +
      [candidates, sCurve, joined, expected].map((x) => x.toFixed(3)).join(" | ") + " |"
    ),
    ""
  ].join("\n")
}

const seconds = (run: () => void): number => {
  const began = performance.now()
  run()
  return (performance.now() - began) / 1000
}

const main = async (): Promise<void> => {
  const documents = await Effect.runPromise(Effect.provide(Corpus.documents(undefined), NodeFileSystem.layer))
  const pieces = documents.flatMap(({ text }) => {
    const words = text.split(/\s+/)
    const count = Math.floor(words.length / 300)
    return Array.from({ length: count }, (_, i) => words.slice(300 * i, 300 * i + 300).join(" "))
  })
  const planted = plant(pieces, random(1, "near"))
  console.log(`${pieces.length} pieces of 300 words, one edited copy each\n`)
  for (const threshold of [0.5, 0.8]) console.log(table(measure(planted, threshold)))
  console.log("| edit | pairs | mean Jaccard | joined at .5 | at .8 |\n|---|---:|---:|---:|---:|")
  const near = [0.5, 0.8].map((threshold) => {
    const index = makeNearIndex({ threshold })
    planted.texts.forEach(index.add)
    return index.clusters().near
  })
  for (const edit of edits) {
    const members = [...planted.edit.keys()].filter((i) => planted.edit[i] === edit)
    const joined = near.map((of) => mean(members.map((i) => of[i] === of[pieces.length + i] ? 1 : 0)).toFixed(3))
    const alike = mean(members.map((i) => planted.jaccard[i]!)).toFixed(3)
    console.log(`| ${edit} | ${members.length} | ${alike} | ${joined.join(" | ")} |`)
  }

  console.log("\n| text | normalize | hash | sign (64) | sign (128) | sign (256) |\n|---|---:|---:|---:|---:|---:|")
  for (const size of [500, 3000, 1e9]) {
    const texts = documents.flatMap(({ text }) =>
      Array.from({ length: Math.ceil(text.length / size) }, (_, i) => text.slice(size * i, size * i + size))
    )
    const megabytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0) / 1e6
    const normalized = texts.map(normalize)
    const runs = [
      () => texts.forEach(normalize),
      () => normalized.forEach(hash64),
      ...[64, 128, 256].map((numHashes) => {
        const sign = makeSigner({ numHashes })
        return () => normalized.forEach((text) => sign(text))
      })
    ].map((run) => Math.min(...Array.from({ length: 4 }, () => seconds(run))))
    const cells = runs.map((s) =>
      `${(megabytes / s).toFixed(0)} MB/s, ${Math.round(texts.length / s).toLocaleString("en-US")}/s`
    )
    console.log(`| ${size > 1e6 ? "whole speeches" : `${size} characters`} | ${cells.join(" | ")} |`)
  }

  if (process.argv.includes("--million")) {
    // a million signatures of short texts; every tenth is a copy of one before it with a word changed
    const draw = random(1, "million")
    const index = makeNearIndex()
    const kept: Array<string> = []
    const made = seconds(() => {
      for (let i = 0; i < 1_000_000; i++) {
        const copy = i % 10 === 9
        const text = copy
          ? kept[draw.below(kept.length)]!.replace(/ \S+$/, ` end${i}`)
          : Array.from({ length: 40 }, () => draw.below(50_000).toString(36)).join(" ")
        if (!copy && kept.length < 10_000) kept.push(text)
        index.add(text)
      }
    })
    const before = process.memoryUsage()
    let found = index.clusters()
    const clustered = seconds(() => {
      found = index.clusters()
    })
    const joined = found.near.reduce((n, first, i) => n + (first === i ? 0 : 1), 0)
    console.log(
      `\n1,000,000 documents: made and signed in ${made.toFixed(0)} s, clustered in ${clustered.toFixed(1)} s, ` +
        `${found.compared.toLocaleString("en-US")} pairs compared, ${joined.toLocaleString("en-US")} joined; ` +
        `${Math.round(before.arrayBuffers / 1e6)} MB of signatures, ` +
        `${Math.round(process.resourceUsage().maxRSS / 1e3)} MB of memory at most`
    )
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main()
