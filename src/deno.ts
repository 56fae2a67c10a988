/**
 * The Device on Deno: through the npm package `webgpu` (Dawn), as on Node, or through Deno's own WebGPU.
 * `import * as DenoDevice from "memsinks/deno"`. Needs the permissions `-A`, or at least env, read, ffi and sys.
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

/** As on Node, and Deno's own WebGPU for whom it serves better. */
export interface DenoOptions extends Adapter.AdapterOptions {
  /**
   * `navigator.gpu`: open an adapter of Deno's own WebGPU (wgpu) instead of Dawn. It has no `subgroups` feature, so
   * kernels run slower. Deno chooses the adapter; one that is not what `adapter` asks for is an error.
   */
  readonly gpu?: GPU
}

/**
 * Open an adapter for as long as the scope. Fails with DeviceError NoAdapter, which says what was tried and what to do.
 */
export const openGpu = (
  options: DenoOptions = {}
): Effect.Effect<Adapter.OpenGpu, DeviceError, Scope.Scope> =>
  options.gpu === undefined ? Adapter.openDawn(options, load) : Adapter.openNative(options.gpu, options, load)

/** The names of all adapters that Dawn sees, for people. */
export const listAdapters: Effect.Effect<ReadonlyArray<string>, DeviceError> = Adapter.listAdapters(load)

/**
 * A Device on the adapter that the options (or MEMSINKS_ADAPTER) ask for. Each call makes a layer, hence a GPU,
 * of its own: bind it to a constant and provide that.
 */
export const layer = (options: DenoOptions = {}): Layer.Layer<Device, DeviceError> =>
  Layer.scoped(Device, openGpu(options).pipe(Effect.flatMap(Device.make), Effect.flatMap((device) => tuned(device))))
