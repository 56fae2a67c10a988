/**
 * Whose sinks a request lights, and whose no request may: the model's name and the field `memsinks` say the one, the
 * deny-list the other, and it wins.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { createHash } from "node:crypto"
import { parseId } from "../Batch.ts"
import { deleted, type Names, resolveId } from "../data/identity/Names.ts"
import type { Route } from "../data/identity/Router.ts"
import { DataError, type DeviceError, type KernelError } from "../Errors.ts"
import { offOf } from "../forget/Forget.ts"
import type { Policy } from "../forget/Ledger.ts"
import * as Sink from "../Sink.ts"
import type { MemsinksField } from "./Contract.ts"
import type { Embed } from "./Embeddings.ts"
import { Refusal, wrong } from "./Refusal.ts"
import type { Among, Search } from "./Search.ts"

/** Sources of a list: those that no request lights, and those whose own sinks are off for everybody besides. */
export interface Off {
  readonly deny: ReadonlyArray<bigint>
  readonly exclude: ReadonlyArray<bigint>
}

/** What is off whatever a request asks: what the model itself says, and lists that change while it is served. */
export interface DenyList {
  readonly has: (id: bigint) => boolean
  /** How many no request lights. */
  readonly size: number
  /** Units that are off for everybody. */
  readonly excluded: number
  /** A hash of the ids and units: equal lists have equal versions, in every process. */
  readonly version: string
  /** The model's sinks, less what is off. */
  readonly sinks: Sink.SinkConfig | undefined
  /** Those whom no request lights. */
  readonly ids: () => ReadonlySet<bigint>
  /** The sources of a list. */
  readonly of: (list: string) => Off
  /** What replaces the list of a name, from the next token on. Fails with a DataError for what cannot be excluded. */
  readonly change: (list: string, off: Off) => Effect.Effect<() => void, DataError>
}

const nothing: Off = { deny: [], exclude: [] }

/** `shared`: whether units that others light, too, are off with those of the excluded. */
export const denyList = (
  sinks: Sink.SinkConfig | undefined,
  names?: Names,
  shared: Policy = "keep"
): DenyList => {
  let lists: ReadonlyMap<string, Off> = new Map([["model", { deny: (sinks?.denied ?? []).map(BigInt), exclude: [] }]])
  const stateOf = (of: ReadonlyMap<string, Off>, units: ReadonlyArray<number>) => {
    const ids = new Set([...of.values()].flatMap(({ deny, exclude }) => [...deny, ...exclude]))
    const denied = [...ids].sort((a, b) => (a < b ? -1 : 1)).map(String)
    const text = denied.join("\n") + (units.length === 0 ? "" : `\n\n${units.join("\n")}`)
    const excluded = [...new Set([...sinks?.excluded ?? [], ...units])].sort((a, b) => a - b)
    return {
      ids,
      version: createHash("sha256").update(text).digest("hex").slice(0, 16),
      excluded: excluded.length,
      sinks: sinks === undefined || of.size === 1 ? sinks : new Sink.SinkConfig({ ...sinks, denied, excluded })
    }
  }
  let now = stateOf(lists, [])
  return {
    has: (id) => now.ids.has(id),
    get size() {
      return now.ids.size
    },
    get excluded() {
      return now.excluded
    },
    get version() {
      return now.version
    },
    get sinks() {
      return now.sinks
    },
    ids: () => now.ids,
    of: (list) => lists.get(list) ?? nothing,
    change: (list, off) =>
      Effect.gen(function*() {
        const next = new Map([...lists, [list, off]])
        const exclude = new Set([...next.values()].flatMap(({ exclude }) => exclude))
        let units: ReadonlyArray<number> = []
        if (exclude.size > 0) {
          if (sinks === undefined || names === undefined) {
            return yield* new DataError({
              detail: "the model does not say whose its sinks are, so nobody's can be excluded: deny them"
            })
          }
          const requests = Array.from(exclude, (id) => ({ by: "id" as const, value: `${id}` }))
          units = (yield* offOf(requests, { names, sinks }, { operation: "exclude", shared })).excluded
        }
        const then = stateOf(next, units)
        return () => {
          lists = next
          now = then
        }
      })
  }
}

/** The state of the sinks of one prompt. */
export interface Lit {
  /** `plain`: the model has no sinks. */
  readonly state: "own" | "off" | "placebo" | "plain"
  readonly sinks: Sink.SinkMode
  readonly id: bigint
  /** Of own sinks, whose they are: the name, or the id where there is none. */
  readonly source?: string
  /** How near the prompt is to it, from 0 to 1, where it was sought. */
  readonly similarity?: number
}

/** A state with what was off when it was chosen. */
export interface LitNow extends Lit {
  readonly config: Sink.SinkConfig | undefined
  readonly version: string
}

/** What states are chosen by. */
export interface States {
  /** What the model is called. */
  readonly name: string
  readonly names: Names | undefined
  readonly denied: DenyList
  /** Finds the nearest source of those that may be lit; default: none is sought. */
  readonly router?: Seeker | undefined
}

/** A prompt as a seeker takes it: its tokens, and its text where it was given as one. */
export interface Sought {
  readonly tokens: ArrayLike<number>
  readonly text?: string | undefined
}

/** Finds the source that each prompt is most like, undefined where it is not near enough to any that is allowed. */
export type Seeker = (
  prompts: ReadonlyArray<Sought>,
  among: Among
) => Effect.Effect<
  ReadonlyArray<{ readonly id: bigint; readonly name: string; readonly similarity: number } | undefined>,
  DataError | DeviceError | KernelError
>

/** A found source with its name. */
const named = (nameOf: (id: bigint) => string) => (found: Route | undefined) =>
  found === undefined ? undefined : { ...found, name: nameOf(found.id) }

/** A search by words with the names of its sources; what is less near than `least` (default 0) is not found. */
export const seekerOf = (search: Search, nameOf: (id: bigint) => string, least = 0): Seeker => (prompts, among) =>
  Effect.map(search(prompts.map(({ tokens }) => tokens), among, least), (all) => all.map(named(nameOf)))

/** The same of vectors, by who gives those of prompts; a blank prompt is like nobody. */
export const vectorSeekerOf = (
  search: Search,
  width: number,
  embed: Embed,
  textOf: (tokens: ArrayLike<number>) => string,
  nameOf: (id: bigint) => string,
  least = 0
): Seeker =>
(prompts, among) =>
  Effect.gen(function*() {
    const texts = prompts.map(({ text, tokens }) => text ?? textOf(tokens))
    const vectors = yield* embed(texts.filter((text) => text.trim() !== ""))
    const other = vectors.find(({ length }) => length !== width)
    if (other !== undefined) {
      return yield* new DataError({
        detail: `prompts are given vectors of ${other.length} numbers, and those of the sources have ${width}: ` +
          "ask the model that made them"
      })
    }
    const found = [...yield* search(vectors, among, least)]
    return texts.map((text) => text.trim() === "" ? undefined : named(nameOf)(found.shift()))
  })

const off: Lit = { state: "off", sinks: Sink.off, id: 0n }

/** The refusal of sinks that may not be lit. */
const refuseDenied = (id: bigint, source: string, param: string): Refusal =>
  new Refusal({
    status: 403,
    code: "source_denied",
    param,
    message: `${JSON.stringify(source)} (${id}) is on the deny-list: its sinks stay off`
  })

/** Why a state may not be lit. */
const refusalOf = ({ denied }: Pick<States, "denied">, lit: Lit, param = "model"): Refusal | undefined =>
  lit.state === "own" && denied.has(lit.id) ? refuseDenied(lit.id, lit.source ?? `${lit.id}`, param) : undefined

/**
 * Tells, whenever it is asked, why a state may not be lit any more: its source is denied by now, or a unit that it lights is
 * off for everybody. What was said so far cannot be unsaid, and keys and values were computed with that unit.
 */
export const watch = (states: Pick<States, "denied">, lit: LitNow): () => Refusal | undefined => {
  let seen = lit.config
  return () => {
    const { sinks } = states.denied
    if (sinks === seen) return undefined
    const refusal = refusalOf(states, lit)
    if (refusal !== undefined || lit.config === undefined || sinks === undefined) return refusal
    const [before, after] = [lit.config, sinks].map((config) => Sink.coefficients(config, 1, lit.sinks, lit.id))
    if (before!.some((coefficient, i) => coefficient !== after![i])) {
      return new Refusal({
        status: 403,
        code: "source_excluded",
        param: "model",
        message: "sinks that this text was written with were excluded from the model in the meantime: ask again"
      })
    }
    seen = sinks
    return undefined
  }
}

/** The sinks of a source, by its name or id. */
const own = (states: States, asked: string, param: string, code: string): Effect.Effect<Lit, Refusal> =>
  Effect.gen(function*() {
    const { denied, names } = states
    if (denied.sinks === undefined) return yield* wrong(param, `${states.name} has no sinks: it has one state`)
    const { id, name } = yield* Effect.mapError(resolveId(asked, names), ({ message }) =>
      new Refusal({ status: param === "model" ? 404 : 400, param, code, message }))
    const lit: Lit = { state: "own", sinks: Sink.own, id, source: name ?? `${id}` }
    if (denied.of("model").deny.includes(id)) {
      const { message } = deleted({ id, ...(name === undefined ? {} : { name }) })
      return yield* new Refusal({ status: 403, code: "source_denied", param, message })
    }
    const refusal = refusalOf({ denied }, lit, param)
    return refusal === undefined ? lit : yield* refusal
  })

/** The ids that a list of the field names. */
const idsIn = (states: States, list: ReadonlyArray<string | number> | undefined, param: string) =>
  Effect.forEach(list ?? [], (one) =>
    Effect.map(
      Effect.mapError(resolveId(`${one}`, states.names), ({ message }) => wrong(param, message, "source_not_found")),
      ({ id }) => id
    ))

/** A source by its name, by its id, or by a text that is either: an id where there is such a one, else a name. */
export type Told = string | { readonly source: string } | { readonly id: string }

/** Sources by names and numbers. */
export interface Named {
  readonly deny: ReadonlyArray<Told>
  readonly exclude: ReadonlyArray<Told>
}

/** Whom a model knows by this. Fails with a DataError for nobody. */
const idOf = (told: Told, names: Names | undefined) => {
  if (typeof told === "string") return resolveId(told, names)
  if ("source" in told) {
    // of ids without names none is a name's
    return names === undefined && parseId(told.source) !== undefined
      ? Effect.fail(
        new DataError({
          detail: `the model does not say what its ids are called: give the id of ${JSON.stringify(told.source)}`
        })
      )
      : resolveId(told.source, names, names === undefined ? "either" : "name")
  }
  const id = parseId(told.id)
  return id === undefined
    ? Effect.fail(new DataError({ detail: `${JSON.stringify(told.id)} is no id: a whole number below 2^64` }))
    : resolveId(id, names)
}

/**
 * The ids that each model knows some sources by. Fails for a source that none of them knows: it would silently stay. A model
 * that does not say what its ids are called takes those of the others.
 */
const known = (models: ReadonlyArray<States>, sources: ReadonlyArray<Told>) =>
  Effect.gen(function*() {
    const ids = models.map((): Array<bigint> => [])
    for (const source of sources) {
      const found = yield* Effect.forEach(models, ({ names }) => Effect.either(idOf(source, names)))
      const { id } = yield* found.find(Either.isRight) ?? found[0]!
      found.forEach((one, i) => {
        if (Either.isRight(one)) ids[i]!.push(one.right.id)
        else if (models[i]!.names === undefined) ids[i]!.push(id)
      })
    }
    return ids
  })

/** One change of lists at a time: each looks at what is excluded already. */
const turn = Effect.unsafeMakeSemaphore(1)

/** Replaces a list of all models, or adds to it, or changes nothing. */
const changeLists = (models: ReadonlyArray<States>, list: string, named: Named, add: boolean) =>
  turn.withPermits(1)(Effect.gen(function*() {
    const [deny, exclude] = [yield* known(models, named.deny), yield* known(models, named.exclude)]
    const changes = yield* Effect.forEach(models, ({ denied }, i) => {
      const before = add ? denied.of(list) : nothing
      return denied.change(list, {
        deny: [...before.deny, ...deny[i]!],
        exclude: [...before.exclude, ...exclude[i]!]
      })
    })
    for (const change of changes) change()
  }))

/** Makes a list of sources, by names and numbers, of which none lights and those that are excluded are off for everybody. */
export const denyThese = (models: ReadonlyArray<States>, list: string, named: Named) =>
  changeLists(models, list, named, false)

/** Adds sources to a list, or none of them. */
export const denyMore = (models: ReadonlyArray<States>, list: string, named: Named) =>
  changeLists(models, list, named, true)

/**
 * The state that a request asks for, prompt by prompt. Fails with a Refusal for a model, source or route that is not served.
 */
export const litBy = (
  states: States,
  model: string | undefined,
  field: MemsinksField | undefined
): Effect.Effect<(prompts: ReadonlyArray<Sought>) => Effect.Effect<ReadonlyArray<LitNow>, Refusal>, Refusal> =>
  Effect.gen(function*() {
    const { denied, name, router } = states
    /** States as they are chosen now: what is off later ends the sequence. */
    const now = () => {
      const { sinks: config, version } = denied
      return (lit: Lit): LitNow => ({ ...lit, config, version })
    }
    const at = now()
    const { sinks } = denied
    const asked = model ?? name
    const unknown = new Refusal({
      status: 404,
      param: "model",
      code: "model_not_found",
      message: sinks === undefined
        ? `there is no model ${JSON.stringify(asked)}: it is called ${JSON.stringify(name)}`
        : `there is no model ${JSON.stringify(asked)}: it is called ${JSON.stringify(name)}, with sinks of its own ` +
          `"${name}:own:SOURCE", without "${name}:off", with those of nobody "${name}:placebo"`
    })
    if (asked !== name && !asked.startsWith(`${name}:`)) return yield* unknown
    const state = asked.slice(name.length + 1)
    const by: Lit | "nearest" | undefined = asked === name
      ? undefined
      : sinks === undefined
      ? yield* unknown
      : state === "off"
      ? off
      : state === "nearest"
      ? "nearest"
      : state === "placebo"
      ? { state: "placebo", sinks: Sink.placebo, id: 0n }
      : state.startsWith("own:")
      ? yield* own(states, state.slice(4), "model", "model_not_found")
      : yield* unknown
    const { allow, deny, exclude, route } = field ?? {}
    if (by !== undefined && route !== undefined) {
      return yield* wrong("memsinks.route", `the model ${JSON.stringify(asked)} is a state already: ask for ${name}`)
    }
    const seeks = by === "nearest" || route === "nearest"
    if (seeks && router === undefined) {
      return yield* new Refusal({
        status: 501,
        param: "memsinks.route",
        code: "no_router",
        message:
          `${name} was given no texts of its sources (--router), to find the nearest by: route to a source by its name or ` +
          "id, or to none"
      })
    }
    const allowed = yield* idsIn(states, allow, "memsinks.allow")
    const barred = yield* idsIn(states, deny, "memsinks.deny")
    const except = yield* idsIn(states, exclude, "memsinks.exclude")
    /** Whether the request itself leaves a source in. */
    const leaves = (id: bigint): boolean => !barred.includes(id) && (allow === undefined || allowed.includes(id))
    const without = (lit: Lit): Lit =>
      except.length > 0 && lit.state === "own" ? { ...lit, sinks: { mode: "own", except } } : lit
    if (seeks) {
      const seek = (prompts: ReadonlyArray<Sought>): Effect.Effect<ReadonlyArray<LitNow>, Refusal> =>
        Effect.gen(function*() {
          const at = now()
          const { sinks } = denied
          if (sinks === undefined) return prompts.map(() => at(off))
          const among = {
            only: allow === undefined ? undefined : new Set(allowed),
            without: new Set([...barred, ...denied.ids()])
          }
          const found = yield* Effect.mapError(router!(prompts, among), (error) =>
            new Refusal({ status: 503, code: "router_failed", message: error.message, retryAfter: 1 }))
          // the deny-list may have changed meanwhile
          if (denied.sinks !== sinks) return yield* seek(prompts)
          return found.map((one) => {
            if (one === undefined) return at(off)
            const { id, name, similarity } = one
            return at(without({ state: "own", sinks: Sink.own, id, source: name, similarity }))
          })
        })
      return seek
    }
    const lit: Lit = by ?? (route === undefined || route === "none"
      ? sinks === undefined ? { state: "plain", sinks: Sink.own, id: 0n } : off
      : yield* own(states, `${route}`, "memsinks.route", "source_not_found"))
    if (lit.state === "own" && !leaves(lit.id)) {
      return yield* new Refusal({
        status: 403,
        code: "source_denied",
        param: barred.includes(lit.id) ? "memsinks.deny" : "memsinks.allow",
        message: `the request itself leaves out ${JSON.stringify(lit.source)}, whose sinks it asks for`
      })
    }
    const one = at(without(lit))
    return (prompts: ReadonlyArray<Sought>) => Effect.succeed(prompts.map(() => one))
  })
