/** How a job is done where there is a device, be it in the process that asks for it or in a worker. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { join } from "node:path"
import type { CheckpointError } from "../../src/Errors.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import { keyOf } from "../../src/Key.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { Job, Once, Place, Work, Workplace } from "./Job.ts"
import { keptIn, type Store } from "./Store.ts"
import { type Files, keep } from "./Train.ts"

/** In the place of a device, where all is computed on the host: it has a name, and whoever asks for more has a bug. */
export const noDevice = Layer.sync(Device, () => {
  const known: Readonly<Record<string, unknown>> = { name: "the host, in float64", target: { family: "none" } }
  return new Proxy({} as DeviceService, {
    get: (_, field) => {
      if (typeof field === "string" && field in known) return known[field]
      throw new Error(`what is computed on the host asked for the device's ${String(field)}`)
    }
  })
})

/** A `Once` of its own. */
export const keeping = (): Once => {
  const made = new Map<string, unknown>()
  return <A, E, R>(name: string, make: Effect.Effect<A, E, R>) =>
    Effect.suspend(() =>
      made.has(name)
        ? Effect.succeed(made.get(name) as A)
        : Effect.tap(make, (value) => Effect.sync(() => void made.set(name, value)))
    )
}

/** What is kept of a job under its key, or what computes it. `alone`: one process at a time, where they share a store. */
export const keptOf = <A, E, R>(
  store: Store,
  { arm, kind, seed }: Pick<Job, "arm" | "kind" | "seed">,
  key: unknown,
  { folder }: Pick<Place, "folder">,
  compute: Effect.Effect<A, E, R>,
  alone: boolean
): Effect.Effect<A, E | CheckpointError, R> =>
  folder === undefined
    ? store.once(kind, key, compute, alone ? { alone, of: { arm, seed } } : {})
    : keptIn(join(folder, "result.json"), key, compute)

/** Does a job, where its result is not known. */
export const doJob = <Input, Output>(
  work: Work<Input, Output>,
  job: Job<Input>,
  at: Omit<Workplace, "kept" | "keptBy">,
  { folder, keep: kept = { keepLast: 1 }, span }: Place
): Effect.Effect<Output, TrainError, Device | Files> =>
  Effect.gen(function*() {
    const { arm, input, kind, seed } = job
    const { machine, once, store, streams } = at
    const key = yield* work.key(input, { machine, streams })
    const name = folder ?? `${kind}/${keyOf(key)}`
    const keepsAs = (name: string, folder: string | undefined, kept: Place["keep"] = { keepLast: 1 }) =>
      once(name, keep(folder, kept))
    const compute = Effect.gen(function*() {
      const place: Workplace = {
        ...at,
        kept: yield* keepsAs(name, folder ?? store.folder(kind, key), kept),
        keptBy: (kind, key) =>
          Effect.zipRight(store.fetch(kind, key), keepsAs(`${kind}/${keyOf(key)}`, store.folder(kind, key))),
        once: (what, make) => once(`${name}/${what}`, make)
      }
      return yield* work.run(input, place)
    }).pipe(Effect.withSpan(span, { attributes: { arm, seed } }))
    return yield* keptOf(store, job, key, folder === undefined ? {} : { folder }, compute, true)
  })
