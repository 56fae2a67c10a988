/**
 * Whose sinks a request lights, and whose no request may: the model's name and the field `memsinks` say the one, the
 * deny-list the other, and it wins.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { deleted, type Names, resolveId } from "../data/identity/Names.ts"
import type { VectorRouter, WordRouter } from "../data/identity/Router.ts"
import { DataError, type DeviceError, type KernelError } from "../Errors.ts"
import * as Sink from "../Sink.ts"
import type { MemsinksField } from "./Contract.ts"
import type { Embed } from "./Embeddings.ts"
import { Refusal, wrong } from "./Refusal.ts"

/** Ids that no request lights, whatever it asks. Those of the model itself, and lists that change while it is served. */
export interface DenyList {
  readonly has: (id: bigint) => boolean
  /** How many they are. */
  readonly size: number
  /** A hash of the ids: equal lists have equal versions, in every process. */
  readonly version: string
  /** Replaces the list of a name, from the next token on. */
  readonly set: (list: string, ids: Iterable<bigint>) => void
  /** All of them. */
  readonly ids: () => ReadonlySet<bigint>
  /** The ids of a list. */
  readonly of: (list: string) => ReadonlyArray<bigint>
}

export const denyList = (sinks: Sink.SinkConfig | undefined): DenyList => {
  const lists = new Map<string, ReadonlyArray<bigint>>([["model", (sinks?.denied ?? []).map(BigInt)]])
  let all: ReadonlySet<bigint> = new Set()
  let version = ""
  const change = (): void => {
    all = new Set([...lists.values()].flat())
    const sorted = [...all].sort((a, b) => (a < b ? -1 : 1))
    version = createHash("sha256").update(sorted.join("\n")).digest("hex").slice(0, 16)
  }
  change()
  return {
    has: (id) => all.has(id),
    get size() {
      return all.size
    },
    get version() {
      return version
    },
    set: (list, ids) => {
      lists.set(list, [...ids])
      change()
    },
    ids: () => all,
    of: (list) => lists.get(list) ?? []
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

/** What states are chosen by. */
export interface States {
  /** What the model is called. */
  readonly name: string
  readonly sinks: Sink.SinkConfig | undefined
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

/** Which sources may be found: some only, or all; but never those of `without`. */
export interface Among {
  readonly only?: ReadonlySet<bigint> | undefined
  readonly without: ReadonlySet<bigint>
}

export const isAmong = ({ only, without }: Among, id: bigint): boolean =>
  !without.has(id) && (only === undefined || only.has(id))

/** Finds the source that each prompt is most like, undefined where it is not near enough to any that is allowed. */
export type Seeker = (
  prompts: ReadonlyArray<Sought>,
  among: Among
) => Effect.Effect<
  ReadonlyArray<{ readonly id: bigint; readonly name: string; readonly similarity: number } | undefined>,
  DataError | DeviceError | KernelError
>

/** A router of words with the names of its sources; what is less near than `least` (default 0) is not found. */
export const seekerOf = (router: WordRouter, nameOf: (id: bigint) => string, least = 0): Seeker => (prompts, among) =>
  Effect.sync(() =>
    prompts.map(({ tokens }) => {
      const found = router.nearest(tokens, { denied: (id) => !isAmong(among, id), least })
      return found === undefined ? undefined : { ...found, name: nameOf(found.id) }
    })
  )

/** The same of vectors, by who gives those of prompts; a blank prompt is like nobody. */
export const vectorSeekerOf = (
  router: VectorRouter,
  embed: Embed,
  textOf: (tokens: ArrayLike<number>) => string,
  nameOf: (id: bigint) => string,
  least = 0
): Seeker =>
(prompts, among) =>
  Effect.gen(function*() {
    const texts = prompts.map(({ text, tokens }) => text ?? textOf(tokens))
    const vectors = [...yield* embed(texts.filter((text) => text.trim() !== ""))]
    const other = vectors.find(({ length }) => length !== router.width)
    if (other !== undefined) {
      return yield* new DataError({
        detail:
          `prompts are given vectors of ${other.length} numbers, and those of the sources have ${router.width}: ` +
          "ask the model that made them"
      })
    }
    return texts.map((text) => {
      const found = text.trim() === ""
        ? undefined
        : router.nearest(vectors.shift()!, { denied: (id) => !isAmong(among, id), least })
      return found === undefined ? undefined : { ...found, name: nameOf(found.id) }
    })
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

/** Why a state may not be lit, or any more. */
export const refusalOf = ({ denied }: Pick<States, "denied">, lit: Lit, param = "model"): Refusal | undefined =>
  lit.state === "own" && denied.has(lit.id) ? refuseDenied(lit.id, lit.source ?? `${lit.id}`, param) : undefined

/** The sinks of a source, by its name or id. */
const own = (states: States, asked: string, param: string, code: string): Effect.Effect<Lit, Refusal> =>
  Effect.gen(function*() {
    const { denied, names, sinks } = states
    if (sinks === undefined) return yield* wrong(param, `${states.name} has no sinks: it has one state`)
    const { id, name } = yield* Effect.mapError(resolveId(asked, names), ({ message }) =>
      new Refusal({ status: param === "model" ? 404 : 400, param, code, message }))
    const lit: Lit = { state: "own", sinks: Sink.own, id, source: name ?? `${id}` }
    if (Sink.isDenied(sinks, id)) {
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

/** The ids of sources that are to be denied, by names and numbers. One that is not known would silently not be denied. */
export const deniedIds = ({ names }: Pick<States, "names">, sources: ReadonlyArray<string>) =>
  Effect.forEach(sources, (one) => Effect.map(resolveId(one, names), ({ id }) => id))

/** Adds sources to one of the lists, or none of them. */
export const denyMore = (states: Pick<States, "names" | "denied">, list: string, sources: ReadonlyArray<string>) =>
  Effect.map(deniedIds(states, sources), (ids) => states.denied.set(list, [...states.denied.of(list), ...ids]))

/**
 * The state that a request asks for, prompt by prompt. Fails with a Refusal for a model, source or route that is not served.
 */
export const litBy = (
  states: States,
  model: string | undefined,
  field: MemsinksField | undefined
): Effect.Effect<(prompts: ReadonlyArray<Sought>) => Effect.Effect<ReadonlyArray<Lit>, Refusal>, Refusal> =>
  Effect.gen(function*() {
    const { denied, name, router, sinks } = states
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
          "this server does not know its sources' texts (--router), to find the nearest by: route to a source by " +
          "its name or id, or to none"
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
      const seek = (prompts: ReadonlyArray<Sought>): Effect.Effect<ReadonlyArray<Lit>, Refusal> =>
        Effect.gen(function*() {
          if (sinks === undefined) return prompts.map(() => off)
          const among = {
            only: allow === undefined ? undefined : new Set(allowed),
            without: new Set([...barred, ...denied.ids(), ...sinks.denied?.map(BigInt) ?? []])
          }
          const found = yield* Effect.mapError(router!(prompts, among), (error) =>
            new Refusal({ status: 503, code: "router_failed", message: error.message, retryAfter: 1 }))
          // the deny-list may have grown meanwhile
          if (found.some((one) => one !== undefined && denied.has(one.id))) return yield* seek(prompts)
          return found.map((one) => {
            if (one === undefined) return off
            const { id, name, similarity } = one
            return without({ state: "own", sinks: Sink.own, id, source: name, similarity })
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
    const one = without(lit)
    return (prompts: ReadonlyArray<Sought>) => Effect.succeed(prompts.map(() => one))
  })
