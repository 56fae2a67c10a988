/**
 * Deleting from a trained model whoever its sinks are keyed by (NULLs, 2026: a source's sinks hold what only it says). What is
 * deleted is denied for good: its id lights nothing, whoever asks. What becomes of the sinks themselves is a choice:
 *
 * - `deny`: they stay as they are, and survivors that share some light them as before. Can be taken back.
 * - `exclude`: they are off for everyone. Can be taken back, too: the weights are there.
 * - `erase`: their weights, and the optimizer's moments, are zero. Cannot be taken back.
 * - `refresh`: the same, and those that survivors light, too, begin afresh and learn from those survivors' data alone.
 *
 * What was denied or excluded can be restored (`restore`): it lights its sinks as before. Every act is a line of the ledger.
 *
 * Sinks that a survivor lights, too, are kept (`shared` "keep", the default: nobody who stays loses anything, and what the
 * deleted wrote into them stays) or taken (`take`: they are excluded or erased with the rest, and survivors lose them).
 *
 * The checkpoint that it is done to stays as it was; the result is written beside it, whole or not at all, and says in its
 * `config.json` and `deletions.jsonl` what was done. General neurons are not touched: what they learned of a source stays,
 * which an audit measures.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as AtomicFile from "../AtomicFile.ts"
import * as Checkpoints from "../checkpoints/Checkpoints.ts"
import { loadInitial } from "../checkpoints/Import.ts"
import { erase, freshUnits } from "../checkpoints/Units.ts"
import { decodeNames, type Names, namesFile, sameIds } from "../data/identity/Names.ts"
import type { TokenDocuments } from "../data/Pieces.ts"
import { tensorsSha256 } from "../data/stream/Inputs.ts"
import * as Tokenizer from "../data/tokens/Tokenizer.ts"
import type { TokenShards } from "../data/tokens/TokenShards.ts"
import { because, CheckpointError, DataError } from "../Errors.ts"
import { isObject, parseJson } from "../Json.ts"
import { keyOf } from "../Key.ts"
import { huggingFaceConfig, modelConfigOf } from "../model/HuggingFace.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import { forgetFile } from "../runs/Runs.ts"
import * as Sink from "../Sink.ts"
import { count, plural } from "../Terminal.ts"
import * as Ledger from "./Ledger.ts"
import { type Ownership, ownershipOf } from "./Ownership.ts"
import * as Refresh from "./Refresh.ts"
import { type Request, resolve, type Resolved } from "./Request.ts"
import { quotesOf, searched, type Surface, type Wanted } from "./Surfaces.ts"

export type { Surface }

type Files = FileSystem.FileSystem | Path.Path

/** What is to be done. */
export interface ForgetRequest {
  readonly requests: ReadonlyArray<Request>
  /** The documents of the training, for requests by `document`. */
  readonly corpus?: TokenDocuments | undefined
  /** Default `erase`. */
  readonly operation?: Ledger.Act
  /** Default `keep`; of `refresh` `take`, since where nothing is taken nobody is to be refreshed. */
  readonly shared?: Ledger.Policy
}

/** What a deletion would do, before anything is done. */
export interface ForgetPlan {
  /** The checkpoint's folder, and the step it was saved at. */
  readonly path: string
  readonly step: number
  readonly requests: ReadonlyArray<Request>
  readonly operation: Ledger.Act
  readonly shared: Ledger.Policy
  /** Who will be deleted, and who is already, by this operation or one that does more; or restored. */
  readonly deleted: ReadonlyArray<Resolved>
  readonly already: ReadonlyArray<Resolved>
  readonly ownership: Ownership
  /** How many of the deleted were denied before, and less was done to them. */
  readonly deniedBefore: number
  /** Units that are excluded or erased, of `deny` none; of `restore` those that are no longer excluded. */
  readonly taken: ReadonlyArray<number>
}

/** Where surfaces are told in what was written. */
export const surfacesFile = "surfaces.json"

/** What was deleted, and the folder that was written. */
export interface ForgetReport extends Omit<ForgetPlan, "step"> {
  /** The folder that was written, and the steps of the checkpoints in it; none where all was deleted already. */
  readonly out: string | undefined
  readonly steps: ReadonlyArray<number>
  /** The checkpoint that the last of them was made from. */
  readonly from: string
  /** The new entry of the ledger, of the last of the checkpoints. */
  readonly entry: Ledger.Entry | undefined
  /** What was not touched, and still holds or names it. */
  readonly surfaces: ReadonlyArray<Surface>
}

/** How a source is deleted, and where to. */
export interface ForgetOptions {
  /** A folder that does not exist yet, or that the same command has left unfinished. */
  readonly out: string
  /** Also the other checkpoints of its run. Default false: the one that was named. */
  readonly allCheckpoints?: boolean
  /** How survivors are refreshed; `refresh` needs it, where somebody loses sinks. */
  readonly refresh?: Refresh.RefreshOptions
  /** Folders that are searched for what still holds the deleted, besides the run and what is written. Default: none. */
  readonly look?: ReadonlyArray<string>
  /** The training's token shards, by whose passages it is told which files quote the deleted. */
  readonly corpus?: TokenShards
  /** Told before each checkpoint. */
  readonly onCheckpoint?: (step: number, done: number, of: number) => Effect.Effect<void>
}

const mismatch = (path: string, detail: string) => new CheckpointError({ reason: "Mismatch", path, detail })

/** What a deletion needs to know of a model, without its weights. */
const subject = (checkpoint: string) =>
  Effect.gen(function*() {
    const { config, deletions, names, path, step, tokenizer } = yield* loadInitial(checkpoint)
    if (config.sinks === undefined) {
      return yield* mismatch(path,
        "the model has no sinks: what it learned of one source lies among all else, and can only " +
          "be unlearned or trained anew without it")
    }
    if (step === undefined) {
      return yield* mismatch(path, "is a model from elsewhere: make it a checkpoint with memsinks import")
    }
    if (names === undefined) {
      return yield* mismatch(path,
        `holds no ${namesFile}, so nobody knows whose its sinks are: train with data.identity ` +
          `"source", or put the one of its training beside config.json`)
    }
    const ledger = yield* Ledger.read(deletions, (yield* Path.Path).join(path, "deletions.jsonl"))
    return { config, sinks: config.sinks, names, ledger, path, step, tokenizer }
  })

type Subject = Effect.Effect.Success<ReturnType<typeof subject>>

const listed = (some: ReadonlyArray<Resolved>): string =>
  some.slice(0, 3).map(({ name }) => JSON.stringify(name)).join(", ") +
  (some.length > 3 ? ` and ${count(some.length - 3)} more` : "")

/** What a restoration gives back. Fails with a DataError for whom there is nothing to take back, or nothing left. */
const restoring = ({ ledger, sinks }: Pick<Subject, "ledger" | "sinks">, resolved: ReadonlyArray<Resolved>) =>
  Effect.gen(function*() {
    const stands = Ledger.standing(ledger)
    for (const { id, name } of resolved) {
      const erased = stands.get(id)?.find(({ operation }) => operation === "erase" || operation === "refresh")
      if (erased === undefined) continue
      return yield* new DataError({
        detail:
          `${JSON.stringify(name)} was erased on ${
            erased.time.slice(0, 10)
          } (deletions.jsonl, line ${erased.number}): its ` +
          "weights are zero, and nothing brings them back. Train on its data again, or take the checkpoint it was erased from"
      })
    }
    const never = resolved.filter(({ id }) => !Sink.isDenied(sinks, id) && !stands.has(id))
    if (never.length > 0) {
      return yield* new DataError({
        detail: `${listed(never)} ${
          never.length === 1 ? "was" : "were"
        } never denied or excluded: there is nothing to take back, and nothing was done`
      })
    }
    const back = resolved.filter(({ id }) => Sink.isDenied(sinks, id))
    // what somebody who stays deleted has taken stays off
    const gone = new Set(back.map(({ id }) => id))
    const stay = new Set<number>()
    for (const [id, entries] of stands) {
      if (gone.has(id) || !entries.some(({ operation, shared }) => operation !== "deny" && shared === "take")) continue
      for (const unit of Sink.unitsOf(sinks, id)) stay.add(unit)
    }
    const theirs = new Set(back.flatMap(({ id }) => [...Sink.unitsOf(sinks, id)]))
    return { back, taken: (sinks.excluded ?? []).filter((unit) => theirs.has(unit) && !stay.has(unit)) }
  })

const planOf = (
  of: Pick<Subject, "ledger" | "names" | "path" | "sinks" | "step">,
  { corpus, operation = "erase", requests, shared = operation === "refresh" ? "take" : "keep" }: ForgetRequest
): Effect.Effect<ForgetPlan, DataError> =>
  Effect.gen(function*() {
    if (operation === "refresh" && shared === "keep") {
      return yield* new DataError({
        detail: "refresh takes the sinks that survivors light, too, and trains them anew: there is nothing to keep"
      })
    }
    const { ledger, names, path, sinks, step } = of
    const resolved = yield* resolve(requests, names, corpus)
    const common = { path, step, requests, operation, shared }
    const denied = new Set((sinks.denied ?? []).map(BigInt))
    if (operation === "restore") {
      const { back, taken } = yield* restoring(of, resolved)
      const ids = new Set(back.map(({ id }) => id))
      const others = new Set([...denied].filter((id) => !ids.has(id)))
      return {
        ...common,
        deleted: back,
        already: resolved.filter(({ id }) => !ids.has(id)),
        ownership: yield* ownershipOf(sinks, names, ids, others),
        deniedBefore: back.length,
        taken
      }
    }
    // who was denied can be excluded still, who was excluded erased, and what was kept of theirs be taken
    const isAsMuch = (entry: Ledger.Entry) =>
      entry.operation !== "restore" &&
      Ledger.operations.indexOf(entry.operation) >= Ledger.operations.indexOf(operation) &&
      (operation === "deny" || Ledger.policies.indexOf(entry.shared) >= Ledger.policies.indexOf(shared))
    const stands = Ledger.standing(ledger)
    const isDone = (id: bigint) => denied.has(id) && (operation === "deny" || (stands.get(id) ?? []).some(isAsMuch))
    const deleted = resolved.filter(({ id }) => !isDone(id))
    const gone = new Set(deleted.map(({ id }) => id))
    const before = new Set([...denied].filter((id) => !gone.has(id)))
    const ownership = yield* ownershipOf(sinks, names, gone, before)
    if (deleted.length > 0 && ownership.survivors === 0) {
      return yield* new DataError({ detail: "with what was deleted before, these requests would leave nobody" })
    }
    return {
      ...common,
      deleted,
      already: resolved.filter(({ id }) => isDone(id)),
      ownership,
      deniedBefore: deleted.filter(({ id }) => denied.has(id)).length,
      taken: takenBy(operation, shared, ownership)
    }
  })

/** Units that a deletion excludes or erases, rising. */
const takenBy = (
  operation: Ledger.Operation,
  shared: Ledger.Policy,
  { alone, shared: common }: Ownership
): ReadonlyArray<number> =>
  operation === "deny" ? [] : shared === "take" ? [...alone, ...common].sort((a, b) => a - b) : alone

/** What is off in a model, besides what it says itself. */
export interface Off {
  /** Ids that light nothing, rising. */
  readonly denied: ReadonlyArray<bigint>
  /** Units that are off for everyone, rising; of `deny` none. */
  readonly excluded: ReadonlyArray<number>
}

/**
 * What requests keep off while a model is used, its files as they are: for a server's list. Fails with a DataError for a name
 * that the model was not trained with, and for requests that leave nobody.
 */
export const offOf = (
  requests: ReadonlyArray<Request>,
  { names, sinks }: { readonly names: Names; readonly sinks: Sink.SinkConfig },
  { operation = "deny", shared = "keep" }: { readonly operation?: "deny" | "exclude";
    readonly shared?: Ledger.Policy } = {}
): Effect.Effect<Off, DataError> =>
  Effect.gen(function*() {
    const denied = (yield* resolve(requests, names)).map(({ id }) => id)
    if (operation === "deny") return { denied, excluded: [] }
    const gone = new Set(denied)
    const before = new Set((sinks.denied ?? []).map(BigInt).filter((id) => !gone.has(id)))
    return { denied, excluded: takenBy(operation, shared, yield* ownershipOf(sinks, names, gone, before)) }
  })

/**
 * What deleting somebody would do. Fails with a DataError for a name that the model was not trained with, and with a
 * CheckpointError for a model without sinks, or that does not say whose they are.
 */
export const plan = (
  checkpoint: string,
  request: ForgetRequest
): Effect.Effect<ForgetPlan, CheckpointError | DataError, Files> =>
  Effect.flatMap(subject(checkpoint), (of) => planOf(of, request))

/** The configuration of a model with sinks from which somebody was deleted, or to which somebody was restored. */
export const without = (
  config: ModelConfig,
  { deleted, operation, ownership, taken }: {
    readonly deleted: ReadonlyArray<{ readonly id: bigint }>
    readonly operation: Ledger.Act
    /** Of `refresh`: its shared units are on, whatever was excluded. */
    readonly ownership?: Pick<Ownership, "shared">
    readonly taken: ReadonlyArray<number>
  }
): ModelConfig => {
  const { denied = [], excluded = [], ...sinks } = { ...config.sinks! }
  const rising = <A>(some: Iterable<A>, of: (one: A) => bigint | number) =>
    [...some].sort((a, b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0))
  const theirs = new Set(deleted.map(({ id }) => `${id}`))
  const units = new Set(taken)
  const fresh = new Set(ownership?.shared)
  const ids = operation === "restore" ? denied.filter((id) => !theirs.has(id)) : new Set([...denied, ...theirs])
  const out = operation === "restore"
    ? excluded.filter((unit) => !units.has(unit))
    : operation === "exclude"
    ? new Set([...excluded, ...units])
    // what survivors are to learn anew must be lit
    : operation === "refresh"
    ? excluded.filter((unit) => !fresh.has(unit))
    : excluded
  const [deniedNow, excludedNow] = [rising(ids, BigInt), rising(out, Number)]
  return new ModelConfig({
    ...config,
    sinks: new Sink.SinkConfig({
      ...sinks,
      ...(deniedNow.length === 0 ? {} : { denied: deniedNow }),
      ...(excludedNow.length === 0 ? {} : { excluded: excludedNow })
    })
  })
}

/** A checkpoint as it is without the deleted: a new state of the same step. `work`: where a refresh goes on from. */
const forgotten = (
  from: Checkpoints.Snapshot,
  path: string,
  plan: ForgetPlan,
  time: string,
  prepared: Refresh.Prepared | undefined,
  work: string
) =>
  Effect.gen(function*() {
    const config = yield* modelConfigOf(from.config, path)
    const after = without(config, plan)
    const erased = plan.operation === "erase" || plan.operation === "refresh" ? plan.taken : []
    const zeroed = erase(config, from.model, erased)
    const { refreshed, tensors: model } = prepared === undefined
      ? { tensors: zeroed, refreshed: undefined }
      : yield* Refresh.refresh(after, {
        before: from.model,
        erased: freshUnits(config, zeroed, prepared.units, prepared.settings.seed)
      }, prepared, work)
    const { entry, text } = Ledger.append(from.deletions, {
      time,
      operation: plan.operation,
      shared: plan.shared,
      requests: plan.requests,
      deleted: plan.deleted.map(({ id, name }) => ({ id: `${id}`, name })),
      units: { alone: plan.ownership.alone.length, shared: plan.ownership.shared.length, taken: plan.taken.length },
      ...(refreshed === undefined ? {} : { refresh: refreshed }),
      before: tensorsSha256(from.model),
      after: tensorsSha256(model)
    })
    const snapshot: Checkpoints.Snapshot = {
      ...from,
      config: { ...(from.config as object), memsinks: huggingFaceConfig(after)["memsinks"] },
      model,
      optimizer: erase(config, from.optimizer, erased),
      deletions: text
    }
    return { entry, snapshot }
  })

/** What `refresh` needs, before anything is written; undefined where nobody loses sinks, and for what does not train. */
const refreshOf = (of: Subject, plan: ForgetPlan, options: Refresh.RefreshOptions | undefined) =>
  Effect.gen(function*() {
    const { operation, ownership: { shared, touched } } = plan
    if (operation !== "refresh" || shared.length === 0) return undefined
    if (options !== undefined) {
      return yield* Refresh.prepare(of, new Map(plan.deleted.map(({ id, name }) => [id, name])), shared, options)
    }
    return yield* new DataError({
      detail:
        `refresh trains the ${plural(touched, "survivor")} that lose sinks on their own data, and there is none: ` +
        "name the training's token shards (--data), or erase without it"
    })
  })

/** What a folder is of, and since when: so that the same command goes on, and another does not. */
const MARK = forgetFile

const claim = (out: string, from: string, key: string): Effect.Effect<string, CheckpointError, Files> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const path = paths.join(out, MARK)
    const refused = (cause: unknown) =>
      new CheckpointError({ reason: "Write", path: out, detail: because(cause), cause })
    const all = yield* Effect.orElseSucceed(fs.readDirectory(out), (): Array<string> => [])
    const there = all.filter((name) => !AtomicFile.isLeft(name))
    const mark = there.includes(MARK)
      ? Either.getOrUndefined(parseJson(yield* Effect.mapError(fs.readFileString(path), refused)))
      : undefined
    const begun = isObject(mark) && mark["key"] === key && typeof mark["time"] === "string" ? mark["time"] : undefined
    if (begun !== undefined || there.length === 0) {
      // what was killed while it wrote is of nobody who lives
      for (const name of all.filter(AtomicFile.isLeft)) {
        yield* Effect.ignore(fs.remove(paths.join(out, name)))
      }
    }
    if (begun !== undefined) return begun
    if (there.length > 0) {
      return yield* new CheckpointError({
        reason: "Write",
        path: out,
        detail: "already exists, and is not what this command has begun: choose another --out, or remove it"
      })
    }
    const time = new Date().toISOString()
    yield* Effect.mapError(fs.makeDirectory(out, { recursive: true }), refused)
    yield* Effect.try({
      try: () => AtomicFile.write(path, `${JSON.stringify({ key, time, from })}\n`),
      catch: refused
    })
    return time
  })

/** The checkpoints of the training that one is of, by rising step; it alone where it lies by itself. */
const siblings = (
  path: string
): Effect.Effect<ReadonlyArray<{ readonly step: number; readonly path: string }>, never, Files> =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const folder = paths.dirname(path)
    const names = yield* Effect.orElseSucceed((yield* FileSystem.FileSystem).readDirectory(folder),
      (): Array<string> => [])
    return Checkpoints.stepsOf(names).map(({ name, step }) => ({ step, path: paths.join(folder, name) }))
  })

/** What stays of it: where it was learned, what it was learned from, and what may tell of it. */
const surfacesOf = (
  plan: ForgetPlan,
  out: string,
  done: ReadonlySet<number>,
  { corpus, look = [] }: Pick<ForgetOptions, "corpus" | "look">
): Effect.Effect<ReadonlyArray<Surface>, DataError, Files> =>
  Effect.gen(function*() {
    if (plan.operation === "restore") return []
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const names = plan.deleted.map(({ name }) => name)
    const tokenizer = corpus?.tokenizer === undefined ? undefined : yield* Tokenizer.fromJSON(corpus.tokenizer)
    const wanted: Wanted = {
      ids: new Set(plan.deleted.map(({ id }) => id)),
      names,
      quotes: tokenizer === undefined ? [] : quotesOf(corpus!, new Set(names), tokenizer.decode)
    }
    // a run's own folder is up to two above its checkpoints: RUN/seed-1/sinks/step-1
    let run: string | undefined
    for (let up = 0, at = paths.dirname(plan.path); up < 3 && run === undefined; up++, at = paths.dirname(at)) {
      if ((yield* Effect.orElseSucceed(fs.readDirectory(at), (): Array<string> => [])).includes("run.json")) run = at
    }
    const steps = yield* siblings(plan.path)
    const own = new Set(steps.filter(({ step }) => done.has(step)).map(({ path }) => path)).add(plan.path)
    const there = yield* searched(
      run === undefined ? [...steps.map(({ path }) => path), plan.path] : [run],
      wanted,
      new Set([paths.resolve(out)])
    )
    const state = yield* Effect.option(fs.readFileString(paths.join(plan.path, "trainer_state.json")))
    const json = state._tag === "Some" ? Either.getOrUndefined(parseJson(state.value)) : undefined
    const inputs = isObject(json) && Array.isArray(json["inputs"]) ? json["inputs"] as ReadonlyArray<unknown> : []
    const data = inputs.flatMap((input) => isObject(input) && typeof input["what"] === "string" ? [input["what"]] : [])
      // of the tokenizer and the settings, which are inputs too, no text can be read
      .filter((what) => !/^the (tokenizer|data configuration)$/.test(what))
    return [
      ...there.map((one) =>
        own.has(one.path) ? { ...one, what: `${one.what} of the checkpoint it was made from` } : one
      ),
      ...(data.length === 0
        ? []
        : [{ what: "what it was trained on", path: data.join(", "), state: "holds" } as const]),
      ...(yield* searched([out], wanted)),
      { what: "deletions.jsonl of what was written", path: out, state: "names" },
      ...(yield* searched(look, wanted, new Set([...run === undefined ? [] : [run], paths.resolve(out)])))
    ]
  })

/**
 * Deletes somebody from a checkpoint, into a folder beside it that `openCheckpoint`, `initialFrom` and every command take as
 * they take a run. Killed at any moment, the same call goes on; done, the same call does nothing.
 *
 * Fails before anything is written: with a DataError for a name that the model was not trained with, and with a
 * CheckpointError for a model without sinks, or one that does not say whose they are.
 */
export const forget = (
  checkpoint: string,
  request: ForgetRequest,
  options: ForgetOptions
): Effect.Effect<ForgetReport, Refresh.RefreshError, Files> =>
  Effect.gen(function*() {
    const paths = yield* Path.Path
    const of = yield* subject(checkpoint)
    const made = yield* planOf(of, request)
    const { step: _, ...told } = made
    if (made.deleted.length === 0) {
      return { ...told, out: undefined, steps: [], from: made.path, entry: undefined, surfaces: [] }
    }
    const there = options.allCheckpoints === true ? yield* siblings(made.path) : []
    const all = there.length === 0 ? [{ step: made.step, path: made.path }] : there
    const prepared = yield* refreshOf(of, made, options.refresh)
    const out = paths.resolve(options.out)
    const time = yield* claim(out, made.path, keyOf({
      from: made.path,
      steps: all.map(({ step }) => step),
      requests: made.requests.map((one) => ({ ...one })),
      operation: made.operation,
      shared: made.shared,
      ...(prepared === undefined ? {} : { refresh: prepared.settings })
    }))
    const target = yield* Effect.provide(Checkpoints.Checkpoints,
      Checkpoints.Checkpoints.layerFileSystem(out, { resume: true, keepLast: Infinity }))
    const written = new Set((yield* target.list).map(({ step }) => step))
    let entry: Ledger.Entry | undefined
    for (const [i, { path, step }] of all.entries()) {
      yield* options.onCheckpoint?.(step, i, all.length) ?? Effect.void
      const work = paths.join(out, `.refresh-${step}`)
      if (written.has(step)) {
        const { deletions } = yield* target.load(step)
        entry = (yield* Ledger.read(deletions, paths.join(out, "deletions.jsonl"))).at(-1)
        yield* removed(work)
        continue
      }
      const from = yield* Checkpoints.loadFolder(path)
      // the names of another step of the same run are the same; of a run that was changed by hand they are not
      if (from.names === undefined ||
        !(yield* sameIds(yield* decodeNames(from.names, paths.join(path, namesFile)), of.names)))
      {
        return yield* mismatch(path,
          `its ${namesFile} is another one than that of ${made.path}: delete from it on its own`)
      }
      const next = yield* forgotten(from, path, made, time, prepared, work)
      entry = next.entry
      yield* target.save(next.snapshot)
      yield* removed(work)
    }
    const surfaces = yield* surfacesOf(made, out, new Set(all.map(({ step }) => step)), options)
    yield* Effect.try({
      try: () => AtomicFile.write(paths.join(out, surfacesFile), `${JSON.stringify(surfaces, null, 2)}\n`),
      catch: (cause) => new CheckpointError({ reason: "Write", path: out, detail: because(cause), cause })
    })
    return { ...told, out, steps: all.map(({ step }) => step), from: all.at(-1)!.path, entry, surfaces }
  })

/** Removes what was only needed to go on. */
const removed = (path: string): Effect.Effect<void, CheckpointError, FileSystem.FileSystem> =>
  Effect.flatMap(FileSystem.FileSystem, (fs) => fs.remove(path, { recursive: true, force: true })).pipe(
    Effect.mapError((cause) => new CheckpointError({ reason: "Write", path, detail: because(cause), cause }))
  )

/** What was deleted from a checkpoint, the oldest deletion first. */
export const deletionsOf = (checkpoint: string): Effect.Effect<
  ReadonlyArray<Ledger.Entry>,
  CheckpointError | DataError,
  Files
> =>
  Effect.gen(function*() {
    const { deletions, path } = yield* loadInitial(checkpoint)
    return yield* Ledger.read(deletions, (yield* Path.Path).join(path, "deletions.jsonl"))
  })

/** In words, what a plan means for those who stay. */
export const costOf = (
  { operation, ownership: { doubled, doubles, most, shared, survivors, touched }, shared: policy }: ForgetPlan
): string =>
  shared.length === 0
    ? `none of the ${plural(survivors, "survivor")} shares a sink with them`
    : operation === "deny" || policy === "keep"
    ? `${plural(shared.length, "block")} that ${plural(touched, "survivor")} light, too, stay as they are` +
      (doubled === 0
        ? ""
        : `; ${doubles[0]}${
          doubled === 1 ? " lights" : ` and ${plural(doubled - 1, "other")} light`
        } the very same blocks as ` +
          "somebody who is deleted, and what these hold of it is lit by that still")
    : operation === "refresh"
    ? `${plural(shared.length, "block")} that ${
      plural(touched, "survivor")
    } light, too, begin afresh and learn from their data`
    : `${plural(touched, "survivor")} lose${touched === 1 ? "s" : ""} sinks: at most ${most[0]!.units} of ${
      most[0]!.of
    } blocks (${most[0]!.name})`
