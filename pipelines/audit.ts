/**
 * An audit of a deletion: what is still known of the deleted, asked in several ways and in several states, beside the model as
 * it was before and beside one that was never trained on it; and what the deletion, and further ones, do to those who stay. It says
 * *not recovered* of attacks and a budget, never that something is gone.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import { getSomes } from "effect/Array"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { resolve } from "node:path"
import { type AttackError, attacks } from "../src/attacks/index.ts"
import { modelWith, type OpenCheckpoint, openCheckpoint } from "../src/checkpoints/OpenCheckpoint.ts"
import { quantized } from "../src/checkpoints/Quantize.ts"
import { erase } from "../src/checkpoints/Units.ts"
import { makeRouter } from "../src/data/identity/Router.ts"
import { cut, documentsOf } from "../src/data/Pieces.ts"
import { tensorsSha256 } from "../src/data/stream/Inputs.ts"
import type { Row } from "../src/data/stream/Packing.ts"
import { sameTokenizer } from "../src/data/tokens/SameTokenizer.ts"
import type { Tokenizer } from "../src/data/tokens/Tokenizer.ts"
import { DataError, type DeviceError } from "../src/Errors.ts"
import { deletionsOf } from "../src/forget/Forget.ts"
import * as Ledger from "../src/forget/Ledger.ts"
import { ownershipOf } from "../src/forget/Ownership.ts"
import { Device } from "../src/gpu/Device.ts"
import { type Machine, machineOf } from "../src/gpu/Machine.ts"
import { keyOf } from "../src/Key.ts"
import { Model } from "../src/model/Model.ts"
import { ModelConfig } from "../src/model/ModelConfig.ts"
import { random } from "../src/Random.ts"
import { dataOf, originOf, runAbove } from "../src/runs/Runs.ts"
import * as Sink from "../src/Sink.ts"
import { inTurns } from "../src/Turns.ts"
import * as Ask from "./audit/Ask.ts"
import { changeOf, decide, UNKNOWN, type Value, valueOf, worst } from "./audit/Decide.ts"
import { type Fact, readFacts } from "./audit/Facts.ts"
import type { AuditReport, Band, Collateral, Known, Measure, State, Stayed, Survivor, Truth } from "./audit/Report.ts"
import { openCorpus } from "./evaluate.ts"
import * as Failures from "./experiment/Failures.ts"
import { type HandOut, lately, type Work } from "./experiment/Job.ts"
import { againWhenLost } from "./experiment/RunFolder.ts"
import { memoryStore, openStore, type Store } from "./experiment/Store.ts"
import { type AttackConfig, type AttackMethod, attackMethod, attackNamed, attackNames,
  attackProblem } from "./isolation/AttackConfig.ts"
import type { Failure } from "./report/Failure.ts"

export type { AuditReport }

/** What an audit as a whole fails with; a question that fails is told in the report. */
export type AuditError = AttackError

/** What is audited, and how. All but the two models, the data and the device have defaults. */
export interface AuditOptions {
  /** The model before the deletion, and after it: runs, or folders of checkpoints. */
  readonly before: string
  readonly after: string
  /** A model that was never trained on what was deleted, of the same tokenizer. Default: none, and no verdict. */
  readonly oracle?: string
  /** Text or token shards with the sources, those that were deleted among them. */
  readonly data: string
  readonly sourceField?: string
  /**
   * Text or token shards that no model was trained on, as like the deleted as can be: what membership is told from. Default:
   * the sources in `data` that the model was not trained with; where there is none, membership is not asked.
   */
  readonly neverSeen?: string
  /** A file of facts that sources state, a line of JSON each: see `audit/Facts.ts`. Default: none, and no truth ratio. */
  readonly facts?: string
  /**
   * Attacks by their names (`src/attacks`), with options where wanted, as in configurations of `isolate`; `all`: every one
   * that tells of memory. Default: `cheapAttacks`.
   */
  readonly attacks?: ReadonlyArray<string | AttackConfig> | "all"
  /** Tokens of a passage. Default: those of a row in the training of the run, else 64. */
  readonly seqLen?: number
  /** Passages of a source at most. Default 32. */
  readonly passages?: number
  /** Sources that stay and are looked at, at most, drawn by the seed. Default 64. */
  readonly survivors?: number
  /** Numbers of deletions whose cost to those who stay is measured, rising, as far as sources allow. Default 1, 2, 4, 8, 16. */
  readonly deletions?: ReadonlyArray<number>
  /** Tokens that are given before a passage must be said verbatim. Default: a quarter of it. */
  readonly promptTokens?: number
  /** Steps of relearning on half of the deleted passages, and their learning rate. Default 16 at 1e-3. */
  readonly relearningSteps?: number
  readonly relearningRate?: number
  /** Share of the memory that may remain. Default 0.25. */
  readonly tolerance?: number
  /** Of what is drawn. Default 1. */
  readonly seed?: number
  readonly batchSize?: number
  /** A folder that keeps every answer: the same call goes on where it was stopped. Default: memory. */
  readonly store?: string
  readonly device: Layer.Layer<Device, DeviceError>
  /** Has workers ask, who must see the models and the data under the same paths: `throughQueue`. Default: this process asks. */
  readonly queue?: HandOut
  readonly versions?: Readonly<Record<string, string>>
  /** Told what is done next: `3 of 41: the model after: loss`. */
  readonly onStage?: (what: string) => Effect.Effect<void>
}

/** What the questions follow from: plain data. */
type Asking = Omit<AuditOptions, "device" | "onStage" | "queue" | "store" | "versions">

/** Attacks that are tried unless told: near-verbatim recall, recognition of what was paraphrased, a probe of hidden states. */
export const cheapAttacks: ReadonlyArray<AttackConfig> = [
  { attack: "nvRecall", of: "sequence" },
  { attack: "recognition", foils: ["paraphrase", "synonyms"] },
  { attack: "hiddenProbe", steps: 50 }
]

/** Passages of one source. */
interface Source {
  readonly name: string
  readonly id: bigint
  readonly rows: ReadonlyArray<Row>
}

const refuse = (path: string, detail: string) => new DataError({ path, detail })

/** The passages of sources in the data, up to so many of each, drawn; of those that the model was trained with, and others. */
const sourcesOf = (
  data: string,
  checkpoint: OpenCheckpoint & { readonly tokenizer: Tokenizer },
  seqLen: number,
  { passages = 32, seed = 1, sourceField }: Asking,
  wanted: (known: ReadonlyArray<{ readonly name: string; readonly id: bigint }>) => ReadonlySet<bigint>
) =>
  Effect.gen(function*() {
    const { ends, path, tokenizer } = checkpoint
    const names = checkpoint.names!
    const origin = originOf(path)
    const run = runAbove(origin)
    const { corpus } = yield* openCorpus(data, tokenizer, ends, run === undefined ? undefined : dataOf(run, origin),
      sourceField === undefined ? {} : { sourceField })
    const pieces = cut(corpus, { width: seqLen + 1, stride: seqLen, shortest: Math.min(seqLen + 1, 8) })
    const bySource = corpus.sources.map((): Array<number> => [])
    for (const [piece, document] of pieces.document.entries()) bySource[corpus.source(document)]!.push(piece)
    const found: Array<{ readonly name: string; readonly id: bigint; readonly s: number }> = []
    const others: Array<{ readonly name: string; readonly id: bigint; readonly s: number }> = []
    for (const [s, name] of corpus.sources.entries()) {
      if (bySource[s]!.length === 0) continue
      const one = yield* names.find(name)
      if (one === undefined) others.push({ name, id: 0n, s })
      else found.push({ name, id: one.id, s })
    }
    const chosen = wanted(found)
    const read = (some: typeof found) =>
      some.map(({ id, name, s }): Source => ({
        name,
        id,
        rows: random(seed, "audit", name).shuffle([...bySource[s]!]).slice(0, passages).sort((a, b) => a - b)
          .map((piece) => {
            const [document, offset] = [pieces.document[piece]!, pieces.offset[piece]!]
            const tokens = corpus.read(document, offset, Math.min(seqLen + 1, corpus.length(document) - offset))
            return { id, tokens: Uint32Array.from(tokens), document: corpus.name(document), offset }
          })
      }))
    return { trained: read(found.filter(({ id }) => chosen.has(id))), others: read(others.slice(0, chosen.size)) }
  }).pipe(Effect.scoped)

const textOf = ({ tokens }: Row): string => tokens.join()

/** A digest of passages: what answers about them depend on. */
const digestOf = (rows: ReadonlyArray<Row>): string =>
  keyOf(rows.map(({ id, tokens }) => [id, textOf({ tokens } as Row)]))

/** How like each other sources are: a router's similarity of one's passages to what it kept of another. */
const similarities = (all: ReadonlyArray<Source>) =>
  Effect.map(
    inTurns(makeRouter(
      documentsOf(
        all.flatMap(({ name, rows }) => rows.map(({ document, tokens }) => ({ tokens, name: document, source: name })))
      ),
      (name) => all.find((one) => one.name === name)?.id,
      { tokenizer: "" }
    )),
    (router) => {
      const texts = new Map(
        all.map(({ id, rows }) => [id, Uint32Array.from(rows.flatMap(({ tokens }) => [...tokens]))])
      )
      return (of: Source, to: Source): number =>
        router.nearest(texts.get(of.id)!, { denied: (id) => id !== to.id })?.similarity ?? 0
    }
  )

/** Attacks as they are tried, or a DataError that says what is wrong with what was asked. */
const methodsOf = (asked: AuditOptions["attacks"], promptTokens: number) =>
  Effect.gen(function*() {
    const entries = asked === "all"
      ? attackNames.filter((name) => attackNamed(name).defends !== true)
      : asked ?? cheapAttacks
    const methods: Array<AttackMethod> = []
    for (const entry of entries) {
      const { attack, ...given } = typeof entry === "string" ? { attack: entry } : entry
      if (!Object.hasOwn(attacks, attack)) {
        return yield* new DataError({
          detail: `there is no attack ${JSON.stringify(attack)}: ${attackNames.join(", ")}`
        })
      }
      const plain = attackMethod(attack)
      // as much is given as of a passage that is to be said verbatim
      const prompt = typeof plain !== "string" && "prompt" in plain.encoded ? { prompt: promptTokens } : {}
      const method = attackMethod({ attack, ...prompt, ...given } as AttackConfig)
      if (typeof method === "string") return yield* new DataError({ detail: method })
      methods.push(method)
    }
    return methods
  })

/** How measures are told in words. */
interface Told {
  readonly name: string
  readonly title: string
  readonly how?: string
  readonly unit: string
  readonly memory: "higher" | "lower"
  readonly share: boolean
}

/** What was asked of a model after the deletion, and of which models it is compared. */
interface Compared {
  readonly state: State
  readonly after: string
  readonly oracle: string
}

/** States that every measure is asked in; of what takes long, the first two. */
const compared: ReadonlyArray<Compared> = [
  { state: "used", after: "after/own", oracle: "oracle/off" },
  { state: "nearest", after: "after/nearest", oracle: "oracle/nearest" },
  { state: "lit", after: "lit/own", oracle: "oracle/off" }
]

/** How a question tells of its state. */
const words: Readonly<Record<string, string>> = { placebo: ", another one deleted",
  nearest: ", the nearest one's sinks on", off: ", no sinks" }

/** Numbers of deletions, those that were done the first. */
const countsOf = (done: number, all: number, asked: ReadonlyArray<number>): ReadonlyArray<number> => {
  const most = Math.max(done, Math.floor(0.75 * all))
  return [done, ...asked.filter((count) => count > done && count <= most)]
}

/** What is to be asked, and all that its answers are told by. Opens models and data, and computes nothing on a device. */
const planOf = (options: Asking) =>
  Effect.gen(function*() {
    const { batchSize = 8, relearningRate = 1e-3, relearningSteps = 16, seed = 1 } = options
    const before = yield* openCheckpoint(options.before)
    const after = yield* openCheckpoint(options.after)
    const oracle = options.oracle === undefined ? undefined : yield* openCheckpoint(options.oracle)
    const { names, tokenizer } = before
    if (tokenizer === undefined) return yield* refuse(before.path, "holds no tokenizer.json, and data needs one")
    if (names === undefined) {
      return yield* refuse(before.path, "does not list the ids it was trained with: whose text is whose?")
    }
    const denied = new Set((after.config.sinks?.denied ?? []).map(BigInt))
    const earlier = new Set((before.config.sinks?.denied ?? []).map(BigInt))
    const gone = [...denied].filter((id) => !earlier.has(id))
    if (gone.length === 0) {
      return yield* refuse(after.path, `nothing was deleted from it that ${before.path} has: memsinks forget deletes`)
    }
    if (
      before.config.sinks === undefined || before.config.sinks.pool !== after.config.sinks!.pool ||
      before.config.general !== after.config.general
    ) {
      return yield* refuse(after.path, `is no model that came from ${before.path}: it has another shape`)
    }
    for (const other of [after, ...(oracle === undefined ? [] : [oracle])]) {
      if (other.tokenizer === undefined || !sameTokenizer(other.tokenizer.toJSON(), tokenizer.toJSON())) {
        return yield* refuse(other.path, `has another tokenizer than ${before.path}: their losses do not compare`)
      }
    }
    const named = new Map<bigint, string>()
    for (const id of gone) {
      const known = yield* names.get(id)
      if (known === undefined) {
        return yield* refuse(before.path,
          `was not trained with the id ${id} that was deleted from ${after.path}: its list of ids is another model's`)
      }
      named.set(id, known.name)
      const seen = yield* oracle?.names?.get(id) ?? Effect.succeed(undefined)
      if (seen !== undefined) {
        return yield* refuse(oracle!.path,
          `was trained on ${JSON.stringify(seen.name)} itself: beside it there would be ` +
            "nothing to recover. An oracle is a model that never saw what was deleted")
      }
    }
    // an oracle without a list of ids, as a standard model is, may say by its run what it was trained on
    if (oracle !== undefined && oracle.names === undefined) {
      const dataOfRun = (path: string) =>
        (runAbove(originOf(path))?.inputs ?? []).filter(({ what }) =>
          !/^the (tokenizer|data configuration)$/.test(what)
        )
          .map(({ sha256 }) => sha256)
      const mine = new Set(dataOfRun(before.path))
      if (dataOfRun(oracle.path).some((sha256) => mine.has(sha256))) {
        return yield* refuse(oracle.path,
          `was trained on the same data as ${before.path}, what was deleted among it. An oracle is a model that never saw it`)
      }
    }
    const entries = yield* deletionsOf(options.after)
    const stands = Ledger.standing(entries)
    const digests = new Map(
      [before, after, ...(oracle === undefined ? [] : [oracle])].map((one) => [one, tensorsSha256(one.tensors)])
    )
    if (entries.length > 0 && entries.every((entry) => entry.before !== digests.get(before))) {
      return yield* refuse(before.path,
        `is not the model that ${after.path} was made from, as its deletions.jsonl says: its weights are others`)
    }

    const origin = originOf(before.path)
    const run = runAbove(origin)
    const seqLen = options.seqLen ?? (run === undefined ? undefined : dataOf(run, origin).seqLen) ?? 64
    const promptTokens = options.promptTokens ?? Math.max(1, Math.floor(seqLen / 4))
    const methods = yield* methodsOf(options.attacks, promptTokens)
    const most = options.survivors ?? 64
    let left = 0
    const data = yield* sourcesOf(options.data, { ...before, tokenizer }, seqLen, options, (all) => {
      const stay = all.filter(({ id }) => !denied.has(id) && !earlier.has(id))
      left = Math.max(0, stay.length - most)
      return new Set([
        ...gone,
        ...random(seed, "survivors").shuffle([...stay]).slice(0, most).map(({ id }) => id)
      ])
    })
    const deleted = data.trained.filter(({ id }) => gone.includes(id))
    const stay = data.trained.filter(({ id }) => !gone.includes(id))
    const absent = gone.filter((id) => !deleted.some((one) => one.id === id)).map((id) => named.get(id)!)
    if (deleted.length === 0) {
      return yield* refuse(options.data,
        `holds no text of what was deleted (${absent.slice(0, 5).join(", ")}): an audit asks ` +
          "whether it is still known, so it needs the text")
    }
    if (stay.length === 0) {
      return yield* refuse(options.data, "holds no text of anybody who stays, whom an audit looks at, too")
    }
    const likeness = yield* similarities([...deleted, ...stay])
    const mostLike = (of: Source): Source => {
      const like = stay.map((one) => likeness(of, one))
      return stay[like.indexOf(Math.max(...like))]!
    }
    const route = new Map(deleted.map((one) => [one.id, mostLike(one)]))
    const toNearest = <A extends { readonly id: bigint }>(some: ReadonlyArray<A>): ReadonlyArray<A> =>
      some.map((one) => ({ ...one, id: route.get(one.id)!.id }))
    const rows = deleted.flatMap(({ rows }) => rows)
    const sources = deleted.flatMap(({ rows }, s) => rows.map(() => s))
    const half = <A>(some: ReadonlyArray<A>, which: 0 | 1) => some.filter((_, i) => i % 2 === which)

    // what membership is told from lights the sinks that the deleted lit, as a guesser has it
    const unseen = options.neverSeen === undefined
      ? data.others
      : yield* Effect.map(
        sourcesOf(options.neverSeen, { ...before, tokenizer }, seqLen, options,
          (all) => new Set(all.map(({ id }) => id))),
        ({ others, trained }) => [...others, ...trained]
      )
    const texts = new Set(rows.map(textOf))
    const never = random(seed, "never seen").shuffle(unseen.flatMap(({ rows }) => rows)).slice(0, rows.length)
      .map((row, i): Row => ({ ...row, id: rows[i]!.id }))
    const both = never.find((row) => texts.has(textOf(row)))
    if (both !== undefined) {
      return yield* refuse(options.neverSeen ?? options.data,
        `holds a passage of what was deleted itself (${both.document}): what was never seen is to be told from it`)
    }

    const facts = options.facts === undefined ? [] : yield* readFacts(options.facts, tokenizer, seqLen + 1)
    /** Facts of the deleted, and of those who stay. */
    const asked: Array<Fact & { readonly of: "deleted" | "stay" }> = []
    for (const fact of facts) {
      const one = yield* names.find(fact.source)
      if (one === undefined) {
        return yield* refuse(options.facts!,
          `${fact.cloze.name}: the model was not trained with a source ${JSON.stringify(fact.source)}`)
      }
      const of = route.has(one.id) ? "deleted" as const : !denied.has(one.id) ? "stay" as const : undefined
      if (of !== undefined) asked.push({ ...fact, of, cloze: { ...fact.cloze, id: one.id } })
    }
    const factsOf = (kind: string) => asked.filter((fact) => fact.of === "stay" ? kind === "stay" : fact.kind === kind)
    const kinds = ["unique", "shared", "inferred", "stay"].filter((kind) => factsOf(kind).length > 0)

    const notAsked: Array<{ readonly what: string; readonly why: string }> = []
    if (never.length === 0) {
      notAsked.push({ what: "membership", why: "there is no text that the model was not trained on: name some with " +
        "neverSeen (--never-seen)" })
    }
    if (options.facts === undefined) {
      notAsked.push({ what: "truth ratio", why: "no facts are known of the sources: name a file with facts (--facts)" })
    }
    const unfit = new Set<AttackMethod>()
    /** What an attack is given: where it needs passages that it may know, half of them, and the other half is attacked. */
    const splitOf = (method: AttackMethod) => {
      const attack = attackNamed(method.method)
      const ground = (known: boolean) => ({
        model: after.config,
        seqLen,
        rows: known ? half(rows, 1).length : rows.length,
        seen: known ? half(rows, 0).length : 0,
        others: never.length,
        texts: () => (known ? half(rows, 1) : rows).map(({ tokens }) => tokenizer.decode(tokens))
      })
      if (attack.needsReference === true && oracle === undefined) return "it looks at an oracle, and none is given"
      if (attackProblem(method, ground(false), true) === undefined) return { known: false }
      return rows.length < 2
        ? "there is one passage alone"
        : attackProblem(method, ground(true), true) ?? { known: true }
    }
    const splits = new Map(methods.map((method) => [method, splitOf(method)]))
    for (const [method, split] of splits) {
      if (typeof split !== "string") continue
      unfit.add(method)
      notAsked.push({ what: method.name, why: split.replace(`attacks: ${method.name}: `, "") })
    }
    const tried = methods.filter((method) => !unfit.has(method))

    const other = stay[random(seed, "placebo").below(stay.length)]!
    const passes = { batchSize, seqLen, promptTokens }
    const { denied: _, excluded: __, ...open } = after.config.sinks!
    /** Whoever has the weights need not keep to the deletion. */
    const forced = new ModelConfig({ ...after.config,
      sinks: new Sink.SinkConfig({ ...open,
        ...(before.config.sinks.denied === undefined ? {} : { denied: before.config.sinks.denied }) }) })
    const models = {
      before: { name: "before", title: "the model before", digest: digests.get(before)!, config: before.config,
        layer: before.layer },
      after: { name: "after", title: "the model after", digest: digests.get(after)!, config: after.config,
        layer: after.layer },
      lit: { name: "lit", title: "the model after, the deleted's sinks lit by force", digest: digests.get(after)!,
        config: forced, layer: modelWith(forced, after.tensors) },
      oracle: oracle === undefined ?
        undefined :
        { name: "oracle", title: "the model that was never trained on it", digest: digests.get(oracle)!,
          config: oracle.config, layer: oracle.layer },
      rounded: ([8, 4] as const).map((bits) => ({ name: `rounded${bits}`,
        title: `the model after, rounded to ${bits} bits`, digest: `${digests.get(after)!} ${bits}`,
        config: after.config, layer: modelWith(after.config, quantized(after.tensors, bits)) })
      )
    }

    const questions: Array<Ask.Question> = []
    const what = digestOf(rows)
    /** Of a model in a state: losses and what else is scored, records, facts, attacks. */
    const put = (
      of: Ask.Asked,
      state: string,
      mode: Sink.SinkMode,
      { near = false, only = false }: { readonly near?: boolean; readonly only?: boolean } = {}
    ) => {
      const to = <A extends { readonly id: bigint }>(some: ReadonlyArray<A>) => near ? toNearest(some) : some
      const key = { rows: what, route: near ? [...route].map(([id, one]) => [id, one.id]) : [], mode, passes }
      const question = (name: string, title: string, more: Readonly<Record<string, unknown>>,
        ask: Ask.Question["ask"]) =>
        questions.push({ id: `${of.name}/${state}/${name}`, of, title: `${title}${words[state] ?? ""}`,
          key: { ...key, name, ...more }, ask })
      question("scores", "loss", {}, Ask.scores(to(rows), mode, passes))
      if (only) return
      question("records", "extraction and membership", { never: digestOf(never), discoverable: Ask.DISCOVERABLE },
        Ask.records(to(rows), to(never), mode, passes))
      for (const kind of kinds.filter((kind) => kind !== "stay")) {
        const clozes = to(factsOf(kind).map(({ cloze }) => cloze))
        question(`truth ${kind}`, `${kind} facts`, { facts: factsKey(kind) }, Ask.truths(clozes, mode, passes))
      }
      // attacks take long: of the placebo, and by force, the passages tell enough
      for (const method of of.name === "lit" || state === "placebo" ? [] : tried) {
        const { known } = splits.get(method) as { readonly known: boolean }
        const attack = attackNamed(method.method)
        const { sequences = Infinity } = method
        const problem = {
          rows: to(known ? half(rows, 1) : rows).slice(0, sequences),
          seen: to(known ? half(rows, 0) : []).slice(0, sequences),
          others: to(never).slice(0, sequences),
          mode,
          seed,
          seqLen,
          batchSize,
          tokenizer,
          ...(attack.needsReference === true && oracle !== undefined
            ? { reference: <A, E>(use: Effect.Effect<A, E, Model | Device>) => Effect.provide(use, oracle.layer) }
            : {}),
          ...(attack.needsStandard === true
            ? { standard: <A, E>(use: Effect.Effect<A, E, Model | Device>) => Effect.provide(use, before.layer) }
            : {})
        }
        question(method.name, attack.title, {
          attack: method.method,
          code: attack.version,
          options: method.encoded,
          known,
          sequences: method.sequences,
          never: digestOf(never),
          seed,
          beside: [attack.needsReference === true ? models.oracle?.digest : undefined,
            attack.needsStandard === true ? models.before.digest : undefined].filter((one) => one !== undefined)
        }, Ask.attacked(method, problem))
      }
    }
    const factsKey = (kind: string) => factsOf(kind).map((
      { cloze: { id, prompt, right, wrong } }
    ) => [id, ...[prompt, right, ...wrong].map((one) => one.join())])
    const others = stay.flatMap(({ rows }) => rows)
    const putOthers = (of: Ask.Asked) => {
      questions.push({ id: `${of.name}/others`, of, title: "those who stay", key: { others: digestOf(others), passes },
        ask: Ask.scores(others, Sink.own, passes) })
      if (!kinds.includes("stay")) return
      questions.push({ id: `${of.name}/own/truth stay`, of, title: "facts of those who stay",
        key: { facts: factsKey("stay"), passes },
        ask: Ask.truths(factsOf("stay").map(({ cloze }) => cloze), Sink.own, passes) })
    }
    const relearning = { steps: relearningSteps, learningRate: relearningRate, seqLen, seed }
    const putRelearned = (of: Ask.Asked) => {
      if (rows.length < 2) return
      questions.push({ id: `${of.name}/relearned/scores`, of, title: `${relearningSteps} steps of fine-tuning`,
        key: { rows: what, relearning }, ask: Ask.relearned([half(rows, 0), half(rows, 1)], relearning) })
    }
    put(models.before, "own", Sink.own)
    put(models.before, "placebo", { mode: "own", except: [other.id] })
    putOthers(models.before)
    const cost = yield* collateralOf({ before, deleted, earlier, likeness, names, passes, seed, stay,
      counts: countsOf(deleted.length, deleted.length + stay.length, options.deletions ?? [1, 2, 4, 8, 16]) })
    for (const { ask, id, key, title } of cost.questions) questions.push({ id, key, title, ask, of: models.before })
    put(models.after, "own", Sink.own)
    put(models.after, "nearest", Sink.own, { near: true })
    put(models.after, "off", Sink.off, { only: true })
    putOthers(models.after)
    putRelearned(models.after)
    put(models.lit, "own", Sink.own)
    for (const one of models.rounded) put(one, "own", Sink.own, { only: true })
    if (models.oracle !== undefined) {
      const hasSinks = models.oracle.config.sinks !== undefined
      put(models.oracle, "off", hasSinks ? Sink.off : Sink.own)
      if (hasSinks) put(models.oracle, "nearest", Sink.own, { near: true })
      putRelearned(models.oracle)
    }

    return { absent, after, before, cost, deleted, factsOf, gone, half, kinds, left, likeness, models, named, notAsked,
      oracle, other, promptTokens, questions, route, seqLen, sources, stands, stay, tried }
  })

/**
 * Audits a deletion. Deterministic: the same models, data and options on the same adapter give the same report but for its
 * seconds. With a `store` it goes on where it was stopped. A way of asking that fails is told in `failures`, and the others stand.
 *
 * Fails before anything is computed: with a DataError where nothing was deleted from `after`, where the data
 * holds no text of it or of anybody else, where the oracle says that it was trained on it, and where models do not go together.
 */
export const audit = (
  options: AuditOptions
): Effect.Effect<AuditReport, AuditError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const began = performance.now()
    const { relearningRate = 1e-3, relearningSteps = 16, seed = 1, tolerance = 0.25 } = options
    const stage = (what: string) => options.onStage?.(what) ?? Effect.void
    const { absent, after, before, cost, deleted, factsOf, gone, half, kinds, left, likeness, models, named, notAsked,
      oracle, other, promptTokens, questions, route, seqLen, sources, stands, stay, tried } = yield* planOf(options)
    const failures: Array<Failure> = []
    const keep = options.store === undefined ? memoryStore() : yield* openStore(options.store)
    const { answers, device } = yield* againWhenLost(
      Effect.gen(function*() {
        const device = yield* Device
        failures.length = 0
        const machine = machineOf(device)
        const onFailure = (failure: Failure) => Effect.sync(() => void failures.push(failure))
        const answers = options.queue === undefined
          ? yield* Ask.answersTo(questions, { store: keep, machine, seed, stage, onFailure })
          : yield* askedOf(options.queue, questions, { ...options, seed }, { store: keep, machine, stage, onFailure })
        return { answers, device }
      }).pipe(Effect.provide(options.device), Effect.scoped),
      stage,
      "from what is kept"
    )

    // -----------------------------------------------------------------------------------------------------------
    // What the answers say

    const answer = (id: string, name: string): Value | undefined => {
      const [model, state, ...rest] = id.split("/")
      // an oracle without sinks has one state
      const at = model === "oracle" && state === "nearest" && models.oracle?.config.sinks === undefined ? "off" : state
      return answers.get([model, at, ...rest].join("/"))?.[name]
    }
    const first = failures.find(({ arm }) => arm.endsWith(": loss"))
    for (const id of ["before/own", "after/own"]) {
      if (answer(`${id}/scores`, "loss") === undefined) {
        return yield* refuse(id.startsWith("before") ? before.path : after.path,
          `its losses cannot be had, and without them nothing is known: ${first?.message ?? "the computation failed"}`)
      }
    }
    const measures: Array<Measure> = []
    const measure = (
      { how, memory, name, share, title, unit }: Told,
      { after, oracle: beside, state }: Compared,
      question: string,
      { before = "before/own", pick = (one: Value) => one, of = sources }: { readonly before?: string;
        readonly pick?: (one: Value) => Value; readonly of?: ReadonlyArray<number> } = {}
    ) => {
      const [was, isNow, never, placebo] = [`${before}/${question}`, `${after}/${question}`, `${beside}/${question}`,
        `before/placebo/${question}`].map((id) => answer(id, name))
      if (was === undefined || isNow === undefined) return
      // an oracle that is there and could not be asked is not one that is missing: the failure is told
      if (oracle !== undefined && never === undefined) return
      const picked = pick(was)
      const units = picked.is === "each" && picked.values.length !== of.length || picked.is === "one"
        ? Array.from({ length: picked.is === "each" ? picked.values.length : picked.sequences }, (_, i) => i)
        : of
      const one = (value: Value | undefined): Known | null =>
        value === undefined ? null : valueOf(value, units, { seed, share })
      measures.push({
        name,
        state,
        title,
        ...(how === undefined ? {} : { how }),
        unit,
        memory,
        of: units.length,
        before: one(picked)!,
        placebo: state === "relearned" ? null : one(placebo),
        after: one(isNow)!,
        oracle: one(never),
        ...decide({ before: picked, after: isNow, oracle: never, sources: units }, tolerance, { memory, seed, share })
      })
    }
    const loss: Told = { name: "loss", title: "loss", unit: "nats a token", memory: "lower", share: false }
    const { length, n, p } = Ask.DISCOVERABLE
    const told: ReadonlyArray<readonly [question: string, told: Told]> = [
      ["scores", loss],
      ["scores", { name: "verbatim", title: `said verbatim after ${promptTokens} tokens`, unit: "share of passages",
        memory: "higher", share: true }],
      ["records", { name: "discoverable", title: `(${n}, ${p})-discoverable`,
        how: `one of ${n} draws from the ${Ask.DISCOVERABLE.topK} likeliest says the ${
          Math.min(length, seqLen + 1 - promptTokens)
        } tokens behind ${promptTokens} with probability ${p}`, unit: "share of passages", memory: "higher",
        share: true }],
      ["records", { name: "membership.loss", title: "membership by loss",
        how: "AUC by which its passages are told from ones that were never seen: 0.5 is guessing", unit: "AUC",
        memory: "higher", share: false }],
      ["records", { name: "membership.minK++", title: "membership by Min-K%++",
        how: "the same by the least likely tokens, each beside its distribution", unit: "AUC", memory: "higher",
        share: false }],
      ["truth unique", { name: "truth", title: "truth ratio, ln",
        how: "of facts that it alone states, right over wrong completions; 0: no preference", unit: "nats a token",
        memory: "higher", share: false }],
      ...tried.flatMap((method) => {
        const attack = attackNamed(method.method)
        return Object.entries(attack.metrics(method.options)).flatMap((
          [metric, { memory, of = "rows", title, unit }]
        ): ReadonlyArray<readonly [string, Told]> =>
          of === "others" ?
            [] :
            [[method.name, { name: `${method.name}.${metric}`, title: `${method.name}: ${metric}`,
              how: `${attack.title} (${attack.paper}): ${title}`,
              unit: unit === "share" ? "share" : unit === "nats" ? "nats a token" : unit, memory,
              share: unit === "share" }]]
        )
      })
    ]
    for (const one of compared) for (const [question, of] of told) measure(of, one, question)
    measure(loss, { state: "off", after: "after/off", oracle: "oracle/off" }, "scores")
    measure({ ...loss, title: "loss after fine-tuning",
      how: `${relearningSteps} steps on half of it, the other half scored` }, {
      state: "relearned",
      after: "after/relearned",
      oracle: "oracle/relearned"
    }, "scores", {
      pick: (one) => one.is === "each" ? { is: "each", values: half(one.values, 1) } : one,
      of: half(sources, 1)
    })
    for (const bits of [8, 4] as const) {
      measure({ ...loss, title: `loss, weights of ${bits} bits` }, { state: `rounded${bits}`,
        after: `rounded${bits}/own`, oracle: "oracle/off" }, "scores")
    }

    const one = (id: string, question: string, units: ReadonlyArray<number>): Known | null => {
      const value = answer(`${id}/${question}`, "truth")
      return value === undefined ? null : valueOf(value, units, { seed })
    }
    const truths = kinds.map((kind): Truth => {
      const units = factsOf(kind).map((_, i) => i)
      const question = `truth ${kind}`
      return { kind, facts: units.length, before: one("before/own", question, units) ?? UNKNOWN,
        after: one("after/own", question, units) ?? UNKNOWN, nearest: one("after/nearest", question, units),
        oracle: one("oracle/off", question, units) }
    })

    const eachOf = (id: string): ReadonlyArray<number> | undefined => {
      const value = answers.get(id)?.["loss"]
      return value?.is === "each" ? value.values : undefined
    }
    const [own0, own1] = [eachOf("before/others"), eachOf("after/others")]
    const theirs = new Set(deleted.flatMap(({ id }) => [...Sink.unitsOf(before.config.sinks!, id)]))
    let at = 0
    const places = stay.map(({ rows }) => rows.map(() => at++))
    const like = stay.map((to) => Math.max(...deleted.map((of) => likeness(of, to))))
    const shares = stay.map(({ id }) =>
      [...Sink.unitsOf(before.config.sinks!, id)].filter((unit) => theirs.has(unit)).length
    )
    /** What the deletion did to some who stay, by their places. */
    const changed = (some: ReadonlyArray<number>) => {
      const passages = some.flatMap((s) => places[s]!)
      return {
        sources: some.length,
        passages: passages.length,
        same: passages.filter((i) => own0![i] === own1![i]).length,
        change: changeOf(passages.map((i) => own0![i]!), passages.map((i) => own1![i]!),
          some.flatMap((s) => places[s]!.map(() => s)), seed)
      }
    }
    const all = stay.map((_, s) => s)
    const isScored = own0 !== undefined && own1 !== undefined
    const stayed = !isScored ?
      [] :
      [...new Set(shares)].sort((a, b) => a - b).map((shared): Stayed => ({ shared,
        ...changed(all.filter((s) => shares[s] === shared)) })
      )
    const ranked = [...all].sort((a, b) => like[b]! - like[a]!)
    const third = ranked.length / 3
    const bands = !isScored || ranked.length < 3 ? [] : (["near", "middle", "far"] as const).map((band, b): Band => {
      const some = ranked.slice(Math.round(b * third), Math.round((b + 1) * third))
      const near = some.map((s) => like[s]!)
      return { band, from: Math.min(...near), to: Math.max(...near), ...changed(some) }
    })
    const survivors = !isScored ? [] : ranked.map((s): Survivor => {
      const { sources: _, ...rest } = changed([s])
      return { name: stay[s]!.name, similarity: like[s]!, shared: shares[s]!, ...rest }
    })
    const [own, instead] = ["before/own/scores", "before/placebo/scores"].map(eachOf)
    const report: AuditReport = {
      format: 2,
      before: before.path,
      after: after.path,
      oracle: oracle?.path ?? null,
      data: options.data,
      adapter: device.name,
      deleted: deleted.map(({ id, name, rows }) => ({ id: `${id}`, name, passages: rows.length,
        nearest: route.get(id)!.name })
      ),
      notInData: absent,
      masked: gone.filter((id) =>
        !(stands.get(id) ?? []).some(({ operation }) => operation === "erase" || operation === "refresh")
      ).map((id) => named.get(id)!),
      word: worst(measures.map(({ word }) => word)),
      measures,
      truths,
      notAsked,
      stayed,
      survivors,
      bands,
      collateral: cost.found(eachOf),
      placebo: instead === undefined ? null : { name: other.name, change: changeOf(own!, instead, sources, seed) },
      failures,
      notes: [
        ...(oracle !== undefined && oracle.names === undefined
          ? ["The oracle does not list what it was trained on: that it never saw what was deleted is taken on trust."]
          : []),
        ...(left === 0 ? [] : [`${left} more stay, and were not looked at: ${stay.length} were drawn.`])
      ],
      tolerance,
      relearning: { steps: relearningSteps, learningRate: relearningRate },
      seqLen,
      seed,
      seconds: (performance.now() - began) / 1000,
      versions: options.versions ?? {}
    }
    return report
  })

/** A question of an audit, as a job: all that its answer follows from, and which one it is. */
interface AskJob {
  readonly asking: Asking
  readonly id: string
}

/** Asks what workers have been asked to, each question in a job of its own. */
const askedOf = (
  queue: HandOut,
  questions: ReadonlyArray<Ask.Question>,
  { device: _, onStage: __, queue: ___, store: ____, versions = {}, ...asking }: AuditOptions & {
    readonly seed: number
  },
  { machine, onFailure, stage, store }: {
    readonly machine: Machine
    readonly store: Store
    readonly stage: (what: string) => Effect.Effect<void>
    readonly onFailure: (failure: Failure) => Effect.Effect<void>
  }
) =>
  Effect.gen(function*() {
    const { seed } = asking
    const absolute = Object.fromEntries(PATHS.flatMap((name) => {
      const path = asking[name]
      return path === undefined ? [] : [[name, resolve(path)]]
    }))
    const ask = yield* queue({ machine, outDir: undefined, store, stage, versions })
    const answers = yield* Effect.forEach(questions, (question) => {
      const arm = Ask.nameOf(question)
      const input: AskJob = { asking: { ...asking, ...absolute }, id: question.id }
      const answer = ask<Ask.Answers>({ kind: "audit", arm, seed, input }, Ask.keyOf(question, machine), {
        span: "ask"
      })
      return Effect.map(
        Failures.attempt({ arm, seed }, Effect.flatten(answer), { outDir: undefined, onFailure }),
        Option.map((answers) => [question.id, answers] as const)
      )
    }, { concurrency: "unbounded" })
    return new Map(getSomes(answers))
  })

/** Options that are paths. */
const PATHS = ["before", "after", "oracle", "data", "neverSeen", "facts"] as const

/** What a worker does that is asked questions of audits. Plans are kept lately, as questions of one audit follow each other. */
export const askWork = (): Work<AskJob, Ask.Answers> => {
  const plans = lately<Effect.Effect.Success<ReturnType<typeof planOf>>>(1)
  const questionOf = ({ asking, id }: AskJob) =>
    Effect.flatMap(plans(asking, planOf(asking)), ({ questions }) => {
      const question = questions.find((one) => one.id === id)
      return question === undefined
        ? Effect.fail(new DataError({ detail: `an audit of ${asking.after} does not ask ${id}` }))
        : Effect.succeed(question)
    })
  return {
    key: (input, { machine }) => Effect.map(questionOf(input), (question) => Ask.keyOf(question, machine)),
    run: (input) => Effect.flatMap(questionOf(input), ({ ask, of }) => Effect.scoped(Effect.provide(ask, of.layer)))
  }
}

/** Questions about what so many deletions cost those who stay, and what their answers say. */
const collateralOf = (
  { before, counts, deleted, earlier, likeness, names, passes, seed, stay }: {
    readonly before: OpenCheckpoint
    readonly counts: ReadonlyArray<number>
    readonly deleted: ReadonlyArray<Source>
    readonly earlier: ReadonlySet<bigint>
    readonly likeness: (of: Source, to: Source) => number
    readonly names: NonNullable<OpenCheckpoint["names"]>
    readonly passes: Ask.Passes
    readonly seed: number
    readonly stay: ReadonlyArray<Source>
  }
) =>
  Effect.gen(function*() {
    // those who were deleted first, then others; who stays is the same at every number
    const order = [...deleted, ...random(seed, "deletions").shuffle([...stay])].slice(0, Math.max(...counts))
    const left = stay.filter((one) => !order.includes(one))
    const rows = left.flatMap(({ rows }) => rows)
    const sources = left.flatMap(({ rows }, s) => rows.map(() => s))
    const key = { collateral: digestOf(rows), passes }
    const runs: Array<
      { readonly id: string; readonly count: number; readonly shared: "keep" | "take";
        readonly taken: ReadonlyArray<number> }
    > = []
    for (const count of counts) {
      const ids = new Set(order.slice(0, count).map(({ id }) => id))
      const { alone, shared } = yield* ownershipOf(before.config.sinks!, names, ids, earlier)
      for (const policy of ["keep", "take"] as const) {
        // where nobody shares a sink with them both are one
        if (policy === "take" && shared.length === 0) continue
        runs.push({ id: `before/collateral ${count} ${policy}`, count, shared: policy,
          taken: policy === "take" ? [...alone, ...shared].sort((a, b) => a - b) : alone })
      }
    }
    const questions = [
      { id: "before/collateral", title: "those who would stay", key: { ...key, taken: [] as ReadonlyArray<number> },
        ask: Ask.scores(rows, Sink.own, passes) },
      ...runs.map(({ count, id, shared, taken }) => ({
        id,
        title: `${count} deleted, shared sinks ${shared === "keep" ? "kept" : "taken"}`,
        key: { ...key, taken },
        ask: Effect.gen(function*() {
          const model = yield* Model
          yield* Effect.addFinalizer(() => Effect.ignore(model.importTensors(before.tensors)))
          yield* model.importTensors(erase(before.config, before.tensors, taken))
          return yield* Ask.scores(rows, Sink.own, passes)
        }).pipe(Effect.scoped)
      }))
    ]
    const found = (eachOf: (id: string) => ReadonlyArray<number> | undefined): ReadonlyArray<Collateral> => {
      const was = eachOf("before/collateral")
      return runs.flatMap(({ count, id, shared, taken }): ReadonlyArray<Collateral> => {
        const isNow = eachOf(id)
        if (was === undefined || isNow === undefined) return []
        const like = left.map((to) => Math.max(...order.slice(0, count).map((of) => likeness(of, to))))
        const ranked = left.map((_, s) => s).sort((a, b) => like[b]! - like[a]!)
        const change = (some: ReadonlyArray<number>): Known => {
          const at = sources.flatMap((s, i) => some.includes(s) ? [i] : [])
          return changeOf(at.map((i) => was[i]!), at.map((i) => isNow[i]!), at.map((i) => sources[i]!), seed)
        }
        const middle = Math.ceil(left.length / 2)
        return [{
          deletions: count,
          shared,
          taken: taken.length,
          sources: left.length,
          change: change(ranked),
          near: left.length < 2 ? null : change(ranked.slice(0, middle)),
          far: left.length < 2 ? null : change(ranked.slice(middle)),
          same: was.filter((loss, i) => loss === isNow[i]).length,
          passages: was.length
        }]
      })
    }
    return { questions, found }
  })
