/**
 * Deleting sources of real text from a trained model (NULLs, 2026): presidents and their addresses, sinks by source, once
 * shared out by chance and once disjointly. What deletion takes, against a model that was never trained on them; what it
 * costs those who stay, by the number of deletions; whether it comes back by relearning; gradient ascent and NPO beside. Every
 * source also states facts that no other does, about made-up professors, so that it is known what the model must no longer know.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { modelWith } from "../../src/checkpoints/OpenCheckpoint.ts"
import { erase } from "../../src/checkpoints/Units.ts"
import { configuration, fraction, positive, rate, withDefault } from "../../src/Config.ts"
import * as Corpus from "../../src/data/Corpus.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import * as Facts from "../../src/data/stream/Facts.ts"
import type { Row } from "../../src/data/stream/Packing.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import { without } from "../../src/forget/Forget.ts"
import type { Policy } from "../../src/forget/Ledger.ts"
import { nearest } from "../../src/forget/Nearest.ts"
import { ownershipOf } from "../../src/forget/Ownership.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { random } from "../../src/Random.ts"
import { relearn } from "../../src/removal/Relearn.ts"
import { unlearners } from "../../src/removal/unlearners/index.ts"
import { type ClozeRow, clozeRows } from "../../src/scoring/Cloze.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import * as Ask from "../audit/Ask.ts"
import { plainly } from "../audit/Decide.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Line } from "../report/Chart.ts"
import { isAtLeast, isAtMost, isWithin, list, type Result } from "../report/Claim.ts"
import { digits, type Estimate, estimate, isKnown, type Kind, minus, perSeed, plusMinus } from "../report/Estimate.ts"
import { type Finding, type Results, seedsOfStudy, study } from "../study/Study.ts"
import { train } from "../study/train.ts"

export class DeletionConfig extends configuration(Schema.Class<DeletionConfig>("DeletionConfig")({
  ...seedsOfStudy,
  /** Presidents whose addresses are trained on, drawn by the seed. Default 12. */
  sources: withDefault(positive, 12),
  /** How many are deleted: the audit is of the first, collateral of all these numbers, rising. */
  deletions: withDefault(Schema.NonEmptyArray(positive), () => [1, 2, 4, 8] as const),
  /** Passages of each that are trained on, and others of the same source that are not. */
  passages: withDefault(positive, 16),
  unseen: withDefault(positive, 8),
  /** Professors of whom every source states a fact or so that no other states. Default 16. */
  professors: withDefault(positive, 16),
  /** Tokens a passage feeds to the model. Default 64. */
  seqLen: withDefault(positive, 64),
  /** Entries of the BPE that is trained on the passages, those of deleted sources too. Default 512. */
  vocabSize: withDefault(positive, 512),
  /** The sink model, its sinks shared out by chance; standard ones have as many neurons as it has on for a token. */
  model: withDefault(ModelConfig, () =>
    new ModelConfig({
      vocabSize: 512,
      hiddenSize: 64,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 192 + 768,
      sinks: { pool: 768, active: 64 }
    })),
  /** Optimizer steps of each training. Default 480. */
  steps: withDefault(positive, 480),
  /** Default 8. */
  batchSize: withDefault(positive, 8),
  /** Default 5e-3. */
  learningRate: withDefault(rate, 5e-3),
  /** Of sinks over that of all else. Default 4. */
  sinkLearningRateRatio: withDefault(rate, 4),
  /** Learning rates at which gradient ascent and NPO are tried, and steps after which they are looked at, rising. */
  unlearningRates: withDefault(Schema.NonEmptyArray(rate), () => [3e-4, 1e-3] as const),
  unlearningSteps: withDefault(Schema.NonEmptyArray(positive), () => [1, 2, 4, 8, 16] as const),
  /** Steps of relearning on half of the deleted passages, and their learning rate. */
  relearningSteps: withDefault(positive, 8),
  relearningRate: withDefault(rate, 1e-3),
  /** How far from retraining still counts as equal, as a share of what own sinks know more than it. Default 0.25. */
  tolerance: withDefault(fraction, 0.25)
})) {}

// ---------------------------------------------------------------------------------------------------------------
// The world of a seed

interface Source {
  readonly name: string
  readonly id: bigint
  readonly passages: ReadonlyArray<Row>
  readonly unseen: ReadonlyArray<Row>
  /** What it says of professors, and the facts in it, asked in its words. */
  readonly stated: ReadonlyArray<Row>
  readonly facts: ReadonlyArray<ClozeRow>
}

interface Ground {
  readonly sources: ReadonlyArray<Source>
  /** Of somebody who is in no training. */
  readonly heldOut: ReadonlyArray<Row>
  readonly tokenizer: Tokenizer.Tokenizer
}

/** Characters that hold a passage's tokens for certain: most tokens of a small vocabulary are short. */
const CHARACTERS = 12

/** Documents one behind the other in rows that are full, each whole at least once. */
const packed = (documents: ReadonlyArray<Uint32Array>, size: number): ReadonlyArray<Uint32Array> => {
  const rows: Array<Uint32Array> = []
  let row: Array<number> = []
  const end = () => {
    for (let i = 0; row.length < size; i++) row.push(...documents[i % documents.length]!)
    rows.push(Uint32Array.from(row.slice(0, size)))
    row = []
  }
  for (const document of documents) {
    if (row.length > 0 && row.length + document.length > size) end()
    row.push(...document)
  }
  if (row.length > 0) end()
  return rows
}

/** The world of facts: as many unique ones of a professor as there are sources, or as there are attributes. */
const worldOf = ({ professors, sources }: DeletionConfig, seed: number) =>
  attempt(
    () =>
      Facts.facts({ seed, professors, sources: Math.max(2, sources), unique: Math.min(12, sources), shared: 0,
        sharedBy: 2, rules: 0, heldOut: 0 }),
    DataError
  )

const groundOf = (config: DeletionConfig, seed: number) =>
  Effect.gen(function*() {
    const { passages, seqLen, sources, unseen, vocabSize } = config
    const texts = Corpus.bySource(yield* Corpus.documents(undefined, { sourceField: "president" }))
    const wanted = (passages + unseen) * (seqLen + 1)
    const long = [...texts].filter(([, text]) => text.length >= CHARACTERS * wanted).map(([name]) => name).sort()
    if (long.length <= sources) {
      return yield* new DataError({
        detail:
          `${sources + 1} presidents with ${passages + unseen} passages of ${seqLen + 1} tokens each are needed, and ` +
          `${long.length} are there: lower sources, passages, unseen or seqLen`
      })
    }
    const chosen = random(seed, "sources").shuffle(long).slice(0, sources + 1)
    const cut = chosen.map((name) => texts.get(name)!.slice(0, CHARACTERS * wanted))
    const world = yield* worldOf(config, seed)
    const said = chosen.slice(0, sources).map((_, s) =>
      world.sequences.filter(({ source }) => source === world.sources[s]!.name).map(({ tokens }) =>
        `${world.tokenizer.decode(tokens)}\n`
      )
    )
    const tokenizer = yield* Tokenizer.trainBpe([...cut, ...said.flat()], { vocabSize })
    const inTokens = (text: string) => Uint32Array.from(tokenizer.encode(text))
    const words = (tokens: Uint32Array) => world.tokenizer.decode(tokens)
    const factsOf = (s: number) =>
      world.facts.filter((fact) => fact.sources.includes(s)).map((fact): ClozeRow => {
        const { prompt, right, wrong } = world.clozes(fact)[world.sources[s]!.style]!
        const completion = (one: Uint32Array) => inTokens(` ${words(one)}`)
        return { id: sourceHash(chosen[s]!), name: fact.name, prompt: inTokens(words(prompt)), right: completion(right),
          wrong: wrong.map(completion) }
      })
    const rows = chosen.map((name, s): ReadonlyArray<Row> => {
      const tokens = Uint32Array.from(tokenizer.encode(cut[s]!))
      return Array.from({ length: passages + unseen }, (_, i) => ({
        id: sourceHash(name),
        tokens: tokens.slice(i * (seqLen + 1), (i + 1) * (seqLen + 1)),
        document: `${name} ${i + 1}`,
        offset: 0
      }))
    })
    const ground: Ground = {
      tokenizer,
      sources: chosen.slice(0, sources).map((name, s) => ({
        name,
        id: sourceHash(name),
        // what is trained on and what is not lie among each other
        passages: rows[s]!.filter((_, i) => !isUnseen(i, config)),
        unseen: rows[s]!.filter((_, i) => isUnseen(i, config)),
        stated: packed(said[s]!.map(inTokens), seqLen + 1).map((tokens, i) => ({ id: sourceHash(name), tokens,
          document: `${name}, facts ${i + 1}`, offset: 0 })
        ),
        facts: factsOf(s)
      })),
      heldOut: rows[sources]!
    }
    return ground
  })

const isUnseen = (i: number, { passages, unseen }: DeletionConfig): boolean => {
  const share = unseen / (passages + unseen)
  return Math.floor((i + 1) * share) > Math.floor(i * share)
}

// ---------------------------------------------------------------------------------------------------------------
// A model

/** Mean losses, nats a token; shares of passages; an AUC; means of ln of the truth ratio. */
export interface Looked {
  /** Passages of the deleted that were trained on, and others of it. */
  readonly deleted: number
  readonly unseen: number
  /** Trained passages of those who stay. */
  readonly survivors: number
  /** Of somebody who is in no training. */
  readonly heldOut: number
  /** Of its trained passages, those that are said verbatim after a quarter, and those that are (n, p)-discoverable. */
  readonly verbatim: number
  readonly discoverable: number
  /** How well Min-K%++ tells its trained passages from its others: AUC. */
  readonly membership: number
  /** Facts that it alone states, and that one who stays alone does. */
  readonly truth: number
  readonly truthOthers: number
}

/** What a deletion costs those who stay. */
export interface Collateral {
  readonly deletions: number
  readonly policy: Policy
  /** Mean loss of survivors after it, less that before. */
  readonly mean: number
  /** Of the passage that loses most; exactly 0 where all are the same to the bit. */
  readonly most: number
}

export interface DeletionFound {
  readonly states: Readonly<Record<string, Looked>>
  readonly collateral: ReadonlyArray<Collateral>
  /** Loss of the half of the deleted passages that is not fine-tuned on, after fine-tuning on the other: before, after. */
  readonly relearned: Readonly<Record<string, readonly [before: number, after: number]>>
  readonly unlearned: ReadonlyArray<{
    readonly method: "gradientAscent" | "npo"
    readonly learningRate: number
    readonly step: number
    readonly looked: Looked
  }>
}

const ROWS = 16

const lossOf = (rows: ReadonlyArray<Row>, mode: Sink.SinkMode, seqLen: number) =>
  Effect.gen(function*() {
    const scores = yield* scoreRows(yield* Model, rows, mode, { batchSize: ROWS, seqLen })
    return { loss: summarize(scores)!.loss, each: scores.map(({ loss, tokens }) => loss / tokens) }
  })

/** Facts of each of those who stay that are asked. */
const ASKED = 2

/** What the Model that is there knows; of the deleted by the sinks of `route`. */
const look = ({ heldOut, sources }: Ground, seqLen: number, mode: Sink.SinkMode, route?: Source) =>
  Effect.gen(function*() {
    const [deleted, ...rest] = sources
    const routed = <A extends { readonly id: bigint }>(rows: ReadonlyArray<A>): ReadonlyArray<A> =>
      route === undefined ? rows : rows.map((row) => ({ ...row, id: route.id }))
    const passes = { batchSize: ROWS, seqLen, promptTokens: Math.floor(seqLen / 4) }
    const told = yield* Ask.records(routed(deleted!.passages), routed(deleted!.unseen), mode, passes)
    const { verbatim } = yield* Ask.scores(routed(deleted!.passages), mode, passes)
    const truth = (facts: ReadonlyArray<ClozeRow>) => {
      const longest = Math.max(...facts.flatMap(clozeRows).map(({ tokens }) => tokens.length))
      return Effect.map(Ask.truths(facts, mode, { ...passes, seqLen: longest - 1 }), ({ truth }) => plainly(truth!))
    }
    const of = (rows: ReadonlyArray<Row>, by = mode) => Effect.map(lossOf(rows, by, seqLen), ({ loss }) => loss)
    const looked: Looked = {
      deleted: yield* of(routed(deleted!.passages)),
      unseen: yield* of(routed(deleted!.unseen)),
      survivors: yield* of(rest.flatMap(({ passages }) => passages)),
      // nobody's own sinks
      heldOut: yield* of(heldOut, Sink.off),
      verbatim: plainly(verbatim!),
      discoverable: plainly(told.discoverable!),
      membership: plainly(told["membership.minK++"]!),
      truth: yield* truth(routed(deleted!.facts)),
      truthOthers: yield* truth(rest.flatMap(({ facts }) => facts.slice(0, ASKED)))
    }
    return looked
  })

/** The Model that is there without some sources, as `memsinks forget` makes it. */
const withoutSources = (gone: ReadonlyArray<Source>, all: ReadonlyArray<Source>, policy: Policy) =>
  Effect.gen(function*() {
    const model = yield* Model
    const ids = new Set(gone.map(({ id }) => id))
    const each = (use: (one: { id: bigint; name: string; documents: number; tokens: number }) => void) =>
      Effect.sync(() => all.forEach(({ id, name }) => use({ id, name, documents: 1, tokens: 1 })))
    const { alone, shared } = yield* ownershipOf(model.config.sinks!, { each }, ids, new Set())
    const taken = policy === "take" ? [...alone, ...shared] : alone
    const config = without(model.config, { deleted: gone, operation: "erase", taken })
    return modelWith(config, erase(model.config, yield* model.exportTensors, taken))
  })

const collateralOf = ({ sources }: Ground, { deletions, seqLen }: DeletionConfig) =>
  Effect.gen(function*() {
    // those who stay are the same at every number
    const stay = sources.slice(Math.max(...deletions)).flatMap(({ passages }) => passages)
    const before = yield* lossOf(stay, Sink.own, seqLen)
    const found: Array<Collateral> = []
    for (const policy of ["keep", "take"] as const) {
      for (const count of deletions) {
        const layer = yield* withoutSources(sources.slice(0, count), sources, policy)
        const after = yield* Effect.provide(lossOf(stay, Sink.own, seqLen), layer)
        found.push({
          deletions: count,
          policy,
          mean: after.loss - before.loss,
          most: Math.max(...after.each.map((loss, i) => loss - before.each[i]!))
        })
      }
    }
    return found
  })

/** Fine-tunes on half of the deleted passages and scores the other half, with all sinks off. */
const relearned = ({ sources }: Ground, { relearningRate, relearningSteps, seqLen }: DeletionConfig, seed: number) =>
  Effect.gen(function*() {
    const { passages } = sources[0]!
    const points = yield* Stream.runCollect(relearn({
      train: passages.filter((_, i) => i % 2 === 0),
      score: { other: passages.filter((_, i) => i % 2 === 1) },
      learningRates: [relearningRate],
      steps: relearningSteps,
      at: [relearningSteps],
      batchSize: 4,
      seqLen,
      seed
    }))
    const losses = Array.from(points, ({ losses }) => losses["other"]!)
    return [losses[0]!, losses.at(-1)!] as const
  })

/** Gradient ascent and NPO from the weights of the Model that is there, which has them again at the end. */
const unlearn = (ground: Ground, config: DeletionConfig, seed: number) =>
  Effect.gen(function*() {
    const { seqLen, unlearningRates, unlearningSteps } = config
    const model = yield* Model
    const weights = yield* model.exportTensors
    const [deleted, ...rest] = ground.sources
    const problem = { forget: deleted!.passages, retain: rest.flatMap(({ passages }) => passages), seqLen, seed }
    const steps = unlearningSteps.at(-1)!
    const found: Array<DeletionFound["unlearned"][number]> = []
    for (const method of ["gradientAscent", "npo"] as const) {
      for (const learningRate of unlearningRates) {
        yield* Effect.gen(function*() {
          const unlearning = yield* unlearners[method].start(problem, { learningRate, steps, batchSize: 8 })
          for (let step = 1; step <= steps; step++) {
            yield* unlearning.step
            if (unlearningSteps.includes(step)) {
              found.push({ method, learningRate, step, looked: yield* look(ground, seqLen, Sink.own) })
            }
          }
        }).pipe(
          Effect.scoped,
          // a model that is destroyed has no further points
          Effect.catchTags({ Diverged: () => Effect.void, DataError: () => Effect.void })
        )
        yield* model.importTensors(weights)
      }
    }
    return found
  })

// ---------------------------------------------------------------------------------------------------------------
// A part of a seed

const PARTS = ["standard", "standardRetrained", "shared", "sharedRetrained", "disjoint", "disjointRetrained"] as const

const modelOf = ({ model, seqLen }: DeletionConfig, part: string): ModelConfig => {
  if (!part.startsWith("standard")) {
    const assignment = part.startsWith("disjoint") ? "disjoint" as const : "permutation" as const
    return new ModelConfig({ ...model, sinks: new Sink.SinkConfig({ ...model.sinks!, assignment }),
      maxPositionEmbeddings: Math.max(seqLen, model.maxPositionEmbeddings) })
  }
  const { sinks: _, ...rest } = model
  return new ModelConfig({ ...rest, intermediateSize: model.activeSize })
}

const work = (
  { config, part, seed }: { readonly config: DeletionConfig; readonly part: string; readonly seed: number },
  at: Workplace
) =>
  Effect.gen(function*() {
    const ground = yield* groundOf(config, seed)
    const { sources, tokenizer } = ground
    const isRetrained = part.endsWith("Retrained")
    const hasSinks = !part.startsWith("standard")
    const trained = isRetrained ? sources.slice(1) : sources
    const [first, ...others] = sources
    const route = others[nearest(first!.passages, others.map(({ passages }) => passages))]!
    const { batchSize, learningRate, seqLen, sinkLearningRateRatio, steps } = config
    const measure = Effect.gen(function*() {
      const states: Record<string, Looked> = {}
      const again: Record<string, readonly [number, number]> = {}
      if (!hasSinks) states["own"] = yield* look(ground, seqLen, Sink.own)
      else {
        states["off"] = yield* look(ground, seqLen, Sink.off)
        states["nearest"] = yield* look(ground, seqLen, Sink.own, route)
        if (!isRetrained) {
          states["own"] = yield* look(ground, seqLen, Sink.own)
          // a random other's sinks are off, the deleted's own stay on
          const other = sources[1 + random(seed, "placebo").below(sources.length - 1)]!
          states["placebo"] = yield* look(ground, seqLen, { mode: "own", except: [other.id] })
          const layer = yield* withoutSources(sources.slice(0, 1), sources, "keep")
          const after = Effect.gen(function*() {
            states["after"] = yield* look(ground, seqLen, Sink.own)
            states["after, nearest"] = yield* look(ground, seqLen, Sink.own, route)
            again["after"] = yield* relearned(ground, config, seed)
          })
          yield* Effect.provide(after, layer)
        }
      }
      if (isRetrained) again["retrained"] = yield* relearned(ground, config, seed)
      const found: DeletionFound = {
        states,
        collateral: hasSinks && !isRetrained ? yield* collateralOf(ground, config) : [],
        relearned: again,
        unlearned: part === "standard" ? yield* unlearn(ground, config, seed) : []
      }
      return found
    })
    const names = sources.map(({ name }) => name)
    const { deletions, passages, professors, relearningRate, relearningSteps, unlearningRates, unlearningSteps, unseen,
      vocabSize } = config
    const { measured } = yield* train(at, {
      model: modelOf(config, part),
      training: new TrainConfig({ steps,
        optimizer: new OptimizerConfig({ learningRate, sinks: "lazy", sinkLearningRateRatio }) }),
      seed,
      data: {
        key: ["deletion", trained.map(({ name }) => name), { passages, unseen, seqLen, vocabSize, batchSize, seed,
          names, professors }],
        layer: DataStream.layerTokens(
          documentsOf(trained.flatMap(({ name, passages, stated }) =>
            [...passages, ...stated].map(({ document, tokens }) => ({ tokens, name: document, source: name }))
          )),
          tokenizer,
          { seqLen, batchSize, singleSequences: trained.reduce((sum, { passages, stated }) =>
            sum + passages.length + stated.length, 0), repeatedSequences: 0, heldOutSequences: 0, identity: "source",
            seed }
        )
      },
      measured: { deletion: 2, deletions, relearningRate, relearningSteps,
        ...(part === "standard" ? { unlearningRates, unlearningSteps } : {}) }
    }, measure)
    return measured
  })

// ---------------------------------------------------------------------------------------------------------------
// What is found

const titles: Readonly<Record<string, string>> = {
  "standard own": "standard",
  "standardRetrained own": "standard, retrained without the source",
  "shared own": "sinks by chance: own",
  "shared after": "sinks by chance: deleted",
  "shared after, nearest": "sinks by chance: deleted, the nearest survivor's on",
  "shared off": "sinks by chance: none",
  "shared placebo": "sinks by chance: another source deleted",
  "sharedRetrained off": "sinks by chance, retrained: none",
  "sharedRetrained nearest": "sinks by chance, retrained: the nearest survivor's",
  "disjoint own": "sinks disjoint: own",
  "disjoint after": "sinks disjoint: deleted",
  "disjoint after, nearest": "sinks disjoint: deleted, the nearest survivor's on",
  "disjoint off": "sinks disjoint: none",
  "disjoint placebo": "sinks disjoint: another source deleted",
  "disjointRetrained off": "sinks disjoint, retrained: none",
  "disjointRetrained nearest": "sinks disjoint, retrained: the nearest survivor's"
}

const methods = { gradientAscent: "Gradient ascent", npo: "NPO" } as const

const fields = ["deleted", "unseen", "survivors", "heldOut"] as const
const others = ["verbatim", "discoverable", "membership", "truth", "truthOthers"] as const
const kindOf: Readonly<Record<keyof Looked, Kind>> = { deleted: "loss", unseen: "loss", survivors: "loss",
  heldOut: "loss", verbatim: "share", discoverable: "share", membership: "share", truth: "real", truthOthers: "real" }

/** Where a method of unlearning stops: at the first point where the deleted is as unknown as after retraining. */
const stopOf = (found: DeletionFound, method: string, target: number) => {
  const points = found.unlearned.filter((one) => one.method === method)
  const reached = [...new Set(points.map(({ learningRate }) => learningRate))].flatMap((rate) =>
    points.find(({ learningRate, looked }) => learningRate === rate && looked.deleted >= target) ?? []
  )
  const least = (some: typeof points, by: (one: typeof points[number]) => number) =>
    some.reduce<typeof points[number] | undefined>((best, one) => best === undefined || by(one) < by(best) ? one : best,
      undefined)
  return reached.length > 0
    ? least(reached, ({ looked }) => looked.survivors)
    : least(points, ({ looked }) => -looked.deleted)
}

const findings = (results: Results<DeletionFound>, config: DeletionConfig) => {
  const { deletions, tolerance } = config
  const loss = (key: string, field: keyof Looked): Estimate => {
    const [part, ...state] = key.split(" ")
    return results.over(part!, ({ states }) => states[state.join(" ")]?.[field], { kind: kindOf[field] })
  }
  const said = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>) =>
    list(...entries) || "no seed has the numbers"
  const decided = (one: Estimate | undefined, decide: (one: Estimate) => Result): Result =>
    one === undefined || !isKnown(one) ? "not tested" : decide(one)
  /** How much of what own sinks know more than retraining is still known in a state. */
  const remains = (kind: "shared" | "disjoint", state: string, retrained: string, field: keyof Looked = "deleted") =>
    perSeed((now, then, known) => (then - now) / (then - known), loss(`${kind} ${state}`, field),
      loss(`${kind}Retrained ${retrained}`, field), loss(`${kind} own`, field))
  const within = `an interval within ${digits(2)(tolerance)} of 0 confirms`
  const collateral = (kind: "shared" | "disjoint", policy: Policy, count: number, what: "mean" | "most") =>
    results.over(kind, ({ collateral }) =>
      collateral.find((one) => one.deletions === count && one.policy === policy)?.[what])
  const relearning = (kind: string) =>
    minus(results.over(`${kind}Retrained`, ({ relearned }) => relearned["retrained"]?.[1], { kind: "loss" }),
      results.over(kind, ({ relearned }) => relearned["after"]?.[1], { kind: "loss" }))
  const gone = (kind: "shared" | "disjoint") =>
    minus(loss(`${kind}Retrained off`, "deleted"), loss(`${kind} own`, "deleted"))
  const unlearned = (method: keyof typeof methods, field: keyof Looked): Estimate =>
    estimate(results.seeds.map((seed) => {
      const found = results.of("standard", seed)
      const target = results.of("standardRetrained", seed)?.states["own"]?.deleted
      return found === undefined || target === undefined ? undefined : stopOf(found, method, target)?.looked[field]
    }), { kind: kindOf[field] })
  const most = Math.max(...deletions)
  const kinds = [["disjoint", "disjoint sinks"], ["shared", "sinks shared out by chance"]] as const

  const claims: ReadonlyArray<Finding> = [
    ...kinds.map(([kind, words]): Finding => ({
      about: "control",
      claim: `With ${words}, the model knows the source's passages better than one that was not trained on it`,
      result: decided(gone(kind), (one) => isAtLeast(one, 0)),
      evidence: said(["difference, nats a token", gone(kind)])
    })),
    ...kinds.flatMap(([kind, words]): ReadonlyArray<Finding> => [
      {
        about: "paper",
        claim: `With ${words}, deletion leaves as much of the source as retraining without it, all sinks off`,
        result: decided(remains(kind, "after", "off"), (one) => isWithin(one, { least: -tolerance, most: tolerance })),
        evidence: `${
          said(["share of the memory that remains", remains(kind, "after", "off")], ["loss after",
            loss(`${kind} after`, "deleted")], ["retrained", loss(`${kind}Retrained off`, "deleted")])
        }; ${within}`
      },
      {
        about: "paper",
        claim: `With ${words}, the same with the nearest survivor's sinks on`,
        result: decided(remains(kind, "after, nearest", "nearest"),
          (one) => isWithin(one, { least: -tolerance, most: tolerance })),
        evidence: `${said(["share of the memory that remains", remains(kind, "after, nearest", "nearest")])}; ${within}`
      },
      ...([["truth", "the truth ratio of facts that the source alone states"], ["membership",
        "how well Min-K%++ tells its passages from others of its"], ["discoverable",
        "(n, p)-discoverable extraction"]] as const).map(([field, of]): Finding => ({
          about: "paper",
          claim: `With ${words}, deletion leaves as much of ${of} as retraining without it, all sinks off`,
          result: decided(remains(kind, "after", "off", field), (one) => isAtMost(one, tolerance)),
          evidence: `${
            said(["share that remains", remains(kind, "after", "off", field)], ["own sinks",
              loss(`${kind} own`, field)], ["after", loss(`${kind} after`, field)], ["retrained",
              loss(`${kind}Retrained off`, field)])
          }; an interval below ${digits(2)(tolerance)} confirms`
        })),
      {
        about: "paper",
        claim:
          `With ${words}, fine-tuning on half of the deleted passages brings back no more of the other half than it ` +
          "teaches the retrained model",
        result: decided(relearning(kind), (one) => isAtMost(one, tolerance)),
        evidence:
          `${
            said(["how much better known than by the retrained model, nats a token", relearning(kind)])
          }; an interval ` +
          `below ${digits(2)(tolerance)} confirms`
      }
    ]),
    {
      about: "control",
      claim: "Deleting another source leaves the source as it was (placebo, disjoint sinks)",
      result: decided(minus(loss("disjoint placebo", "deleted"), loss("disjoint own", "deleted")),
        (one) => isWithin(one, { least: 0, most: 0 })),
      evidence: said(["change of its loss",
        minus(loss("disjoint placebo", "deleted"), loss("disjoint own", "deleted"))])
    },
    ...deletions.map((count): Finding => ({
      about: "sinks",
      claim:
        `With disjoint sinks, ${
          count === 1 ? "a deletion leaves" : `${count} deletions leave`
        } every passage of those who ` +
        "stay the same to the bit",
      result: decided(collateral("disjoint", "take", count, "most"),
        (one) => one.values.every((value) => value === 0) ? "held" : "did not hold"),
      evidence: said(["largest change of a passage's loss", collateral("disjoint", "take", count, "most")])
    })),
    {
      about: "sinks",
      claim: `With sinks shared out by chance that are taken whole, ${most} deletions cost those who stay something`,
      result: decided(collateral("shared", "take", most, "mean"), (one) => isAtLeast(one, 0)),
      evidence: said(["rise of their loss", collateral("shared", "take", most, "mean")])
    },
    ...(["gradientAscent", "npo"] as const).map((method): Finding => ({
      about: "sinks",
      claim:
        `${methods[method]}, stopped where the source is as unknown as after retraining, costs those who stay more ` +
        "than deletion from disjoint sinks does",
      result: decided(minus(unlearned(method, "survivors"), loss("standard own", "survivors")),
        (one) => isAtLeast(one, 0)),
      evidence: said(
        ["rise of their loss", minus(unlearned(method, "survivors"), loss("standard own", "survivors"))],
        ["of a deletion", collateral("disjoint", "keep", 1, "mean")]
      )
    }))
  ]
  const keys = Object.keys(titles)
  const heads: Readonly<Record<keyof Looked, string>> = { deleted: "the source's passages",
    unseen: "others of the source", survivors: "those who stay", heldOut: "held out", verbatim: "said verbatim",
    discoverable: "(1000, 0.5)-discoverable", membership: "membership, AUC", truth: "its facts, ln of the truth ratio",
    truthOthers: "facts of those who stay" }
  return {
    claims,
    numbers: Object.fromEntries([
      ...keys.flatMap((key) =>
        [...fields, ...others].map((field) => [`${titles[key]}: ${heads[field]}`, loss(key, field)] as const)
      ),
      ...kinds.flatMap(([kind, words]) => [
        [`${words}: share of the memory that remains`, remains(kind, "after", "off")] as const,
        [`${words}: better known after relearning than retrained`, relearning(kind)] as const
      ])
    ].flatMap(([name, one]) => isKnown(one) ? [[name, one] as const] : [])),
    charts: [{
      title: "What deletions cost those who stay",
      x: { title: "sources deleted", log: true },
      y: { title: "rise of their loss, nats a token", zero: true },
      facets: [],
      lines: kinds.flatMap(([kind, words]) =>
        (["keep", "take"] as const).map((policy): Line => {
          const what = `${words}, ${policy === "keep" ? "shared ones kept" : "shared ones taken"}`
          return {
            label: what,
            of: { what },
            points: deletions.map((count) => {
              const { high, low, mean } = collateral(kind, policy, count, "mean")
              return { x: count, y: mean, ...(low === undefined ? {} : { low, high: high! }) }
            })
          }
        })
      ),
      color: ["what"]
    }],
    tables: [{
      caption: "Loss, nats a token",
      head: ["", ...fields.map((field) => heads[field])],
      rows: [
        ...keys.map((key) => [titles[key]!, ...fields.map((field) => plusMinus(loss(key, field), digits(2)))]),
        ...(["gradientAscent", "npo"] as const).map((
          method
        ) => [methods[method], ...fields.map((field) => plusMinus(unlearned(method, field), digits(2)))])
      ]
    }, {
      caption: "What else is known of the source: shares of its passages, AUC, nats a token",
      head: ["", ...others.map((field) => heads[field])],
      rows: [
        ...keys.map((key) => [titles[key]!, ...others.map((field) => plusMinus(loss(key, field), digits(2)))]),
        ...(["gradientAscent", "npo"] as const).map((
          method
        ) => [methods[method], ...others.map((field) => plusMinus(unlearned(method, field), digits(2)))])
      ]
    }],
    terms: [
      ["deleted",
        "the source's id is denied, and the sinks that nobody else lights are zero: what memsinks forget does"],
      ["kept, taken", "what becomes of sinks that somebody who stays lights, too"],
      ["retrained", "the same training without the source"],
      ["discoverable",
        "one of 1000 draws from the 40 likeliest tokens says the suffix after a quarter of the passage, with probability 0.5"],
      ["membership",
        "0.5: its passages that were trained on are told from those that were not no better than by guessing"],
      ["ln of the truth ratio", "right over wrong completions, nats a token; 0: no preference"]
    ] as const,
    limits: [
      `${config.sources} presidents of ${config.passages} passages each, seen at most ${
        Math.round(config.steps * config.batchSize / (config.sources * config.passages))
      } times: a source of the web says less, and is one of millions.`,
      "The tokenizer was trained on the deleted source, too.",
      "Held-out text is scored with all sinks off, as nobody's sinks are its own."
    ]
  }
}

export const deletion = study<DeletionConfig, DeletionFound>({
  name: "deletion",
  title: "Deleting sources of real text",
  paper: "Natively Unlearnable Large Language Models (2026), arXiv 2606.13873",
  question:
    "Does deleting a source's sinks leave what retraining without it leaves, and what does it cost those who stay?",
  finding:
    "the source is as unknown as to a model retrained without it, fine-tuning does not bring it back sooner, and those " +
    "who stay lose little",
  cost: "5 minutes; full: an hour",
  version: 2,
  schema: DeletionConfig,
  presets: {
    quick: new DeletionConfig({}),
    full: new DeletionConfig({ seeds: 5, sources: 16, passages: 24, steps: 1200, // sinks of one's own for every source
      model: { vocabSize: 512, hiddenSize: 64, numHiddenLayers: 2, numAttentionHeads: 2, intermediateSize: 192 + 1024,
        sinks: { pool: 1024, active: 64 } } })
  },
  problem: (config) => {
    const { deletions, model, sources, unlearningSteps } = config
    if (model.sinks === undefined) return "model.sinks is missing: a source is deleted from its sinks"
    const rises = (some: ReadonlyArray<number>) => some.every((n, i) => i === 0 || n > some[i - 1]!)
    if (!rises(deletions)) return `deletions must rise, got ${deletions.join(", ")}`
    if (!rises(unlearningSteps)) return `unlearningSteps must rise, got ${unlearningSteps.join(", ")}`
    const most = deletions.at(-1)!
    if (most >= sources) return `deletions go to ${most}: sources must be more, got ${sources}`
    const fit = Math.floor(model.sinks.units / model.sinks.activeUnits)
    if (fit < sources) {
      return `${sources} sources with ${model.sinks.active} sinks each do not fit into a pool of ${model.sinks.pool} disjointly: ` +
        `raise model.sinks.pool to ${sources * model.sinks.active}, and model.intermediateSize with it`
    }
    return undefined
  },
  parts: () => PARTS,
  work,
  findings
})
