/** What a program says that uses a service which nothing provides: which layer it is, and where it comes from. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

/** One sentence: where a service is missing it says, and where it was asked for is inside of Effect. */
const missing = (name: string, layer: string): Error => {
  const error = new Error(`the program has no ${name}: provide ${layer}, with Effect.provide or Layer.provide`)
  error.stack = `Error: ${error.message}`
  return error
}

/**
 * Lets the absence of a service be told. TypeScript does not compile a program that lacks one; JavaScript runs it, and
 * Effect's own "Service not found" names no layer.
 */
export const named = (tag: Context.Tag<any, any>, name: string, layer: string): void =>
  void Object.assign(tag, {
    // what Effect looks for where a context does not have a tag
    [Context.ReferenceTypeId]: Context.ReferenceTypeId,
    defaultValue: (): never => {
      throw missing(name, layer)
    }
  })

/** The same for files and paths, whose tags are not ours. */
export const withFiles = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.contextWithEffect((context: Context.Context<R>) =>
    Option.isSome(Context.getOption(context, FileSystem.FileSystem))
      ? effect
      : Effect.die(missing("FileSystem", "NodeContext.layer of \"@effect/platform-node/NodeContext\""))
  )
