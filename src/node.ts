/**
 * The Device on Node, through the npm package `webgpu` (Dawn): `import * as NodeDevice from "memsinks/node"`. Programs with
 * it run on Deno, too.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { DeviceError } from "./Errors.ts"
import * as Adapter from "./gpu/Adapter.ts"
import { Device } from "./gpu/Device.ts"
import { load } from "./gpu/Libraries.ts"
import { tuned } from "./model/Autotune.ts"

export type { AdapterOptions, OpenGpu } from "./gpu/Adapter.ts"

/**
 * Open an adapter for as long as the scope. Fails with DeviceError NoAdapter, which says what was tried and what to do.
 */
export const openGpu = (
  options: Adapter.AdapterOptions = {}
): Effect.Effect<Adapter.OpenGpu, DeviceError, Scope.Scope> => Adapter.openDawn(options, load)

/** The names of all adapters there are, for people. */
export const listAdapters: Effect.Effect<ReadonlyArray<string>, DeviceError> = Adapter.listAdapters(load)

/**
 * A Device on the adapter that the options (or MEMSINKS_ADAPTER) ask for. Each call makes a layer, hence a GPU,
 * of its own: bind it to a constant and provide that.
 */
export const layer = (options: Adapter.AdapterOptions = {}): Layer.Layer<Device, DeviceError> =>
  Layer.scoped(Device, openGpu(options).pipe(Effect.flatMap(Device.make), Effect.flatMap((device) => tuned(device))))
