/** Shared libraries loaded for the rest of the process, as the runtime that this is has it: Node or Deno. */
import { constants } from "node:os"
import process from "node:process"
import type { LoadLibrary } from "./Adapter.ts"

declare const Deno: { readonly dlopen: (file: string, symbols: Record<string, never>) => unknown }

// Stay mapped even when closed. Node closes what turns out to be no addon, as libvulkan does, and then complains.
const RTLD_NODELETE = 0x1000

const message = (error: unknown): string => error instanceof Error ? error.message : String(error)

const onNode: LoadLibrary = (file) => {
  try {
    process.dlopen({ exports: {} }, file, constants.dlopen.RTLD_NOW | RTLD_NODELETE)
    return undefined
  } catch (error) {
    const problem = message(error)
    return problem.includes("self-register") ? undefined : problem
  }
}

// never closed, so that the library stays loaded
const libraries: Array<unknown> = []

const onDeno: LoadLibrary = (file) => {
  try {
    libraries.push(Deno.dlopen(file, {}))
    return undefined
  } catch (error) {
    return message(error)
  }
}

/** Loads a library in this runtime, whichever entry point asks: a program for Node may be run by Deno. */
export const load: LoadLibrary = "Deno" in globalThis ? onDeno : onNode
