/**
 * The Device on Node, through the npm package `webgpu` (Dawn): `import * as NodeDevice from "memsinks/node"`.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { constants } from "node:os"
import process from "node:process"
import type { DeviceError } from "./Errors.ts"
import * as Adapter from "./gpu/Adapter.ts"
import { Device } from "./gpu/Device.ts"
import { tuned } from "./model/Autotune.ts"

export type { AdapterOptions, OpenGpu } from "./gpu/Adapter.ts"

// Stay mapped even when closed. Node closes what turns out to be no addon, as libvulkan does, and then complains.
const RTLD_NODELETE = 0x1000

const load: Adapter.LoadLibrary = (file) => {
  try {
    process.dlopen({ exports: {} }, file, constants.dlopen.RTLD_NOW | RTLD_NODELETE)
    return undefined
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    return problem.includes("self-register") ? undefined : problem
  }
}

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
