/**
 * One library in a process of its own: it shows that it learns, then runs as many steps as it is told, whenever it is
 * told. Lines of JSON on stdin and stdout; what the library itself prints goes to stderr.
 */
import * as Effect from "effect/Effect"
import process from "node:process"
import { createInterface } from "node:readline"
import * as NodeDevice from "../../../src/node.ts"
import type { Ready, Window } from "./compare.ts"
import { toggles } from "./step.ts"

/** A model, an optimizer and a fixed batch in some library. */
export interface Session extends Omit<Ready, "losses" | "secondsPerStep"> {
  /** Submit one training step: forward, backward, update. May return before it has run. */
  readonly step: () => void | Promise<void>
  /** Wait until all submitted steps have run; the loss of the last one, in nats, as it was before its update. */
  readonly loss: () => Promise<number>
}

const CHECKED_STEPS = 10

// stdout is for the parent
console.log = console.info = console.error

/** Serve a session until stdin ends. */
export const serve = async (session: Session): Promise<never> => {
  const say = (line: Ready | Window): void => void process.stdout.write(`${JSON.stringify(line)}\n`)
  const { loss, step, ...about } = session
  const losses: Array<number> = []
  let fastest = Infinity
  for (let i = 0; i < CHECKED_STEPS; i++) {
    const start = performance.now()
    await step()
    losses.push(await loss())
    fastest = Math.min(fastest, (performance.now() - start) / 1000)
  }
  say({ ...about, losses, secondsPerStep: fastest })
  for await (const line of createInterface({ input: process.stdin })) {
    const { steps } = JSON.parse(line) as { readonly steps: number }
    const cpu = process.cpuUsage()
    const start = performance.now()
    for (let i = 0; i < steps; i++) await step()
    await loss()
    const wall = (performance.now() - start) / 1000
    const { system, user } = process.cpuUsage(cpu)
    say({ steps, wall, cpu: (user + system) / 1e6 })
  }
  process.exit(0)
}

/** What an adapter says of itself, for comparing. */
const describe = ({ info }: GPUAdapter): string =>
  [info.vendor, info.architecture, info.device, info.description].join(", ")

/**
 * Make this process a browser as far as WebGPU goes: `navigator.gpu` is Dawn on the adapter that our Device takes, with
 * the same toggles, so that a peer runs on nothing else. Returns the adapter's name.
 */
export const installNavigator = async (): Promise<string> => {
  const { globals } = await import("webgpu")
  Object.assign(globalThis, globals)
  return await new Promise((resolve, reject) =>
    Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const { adapter, gpu, name } = yield* NodeDevice.openGpu({ enableToggles: toggles })
      Object.defineProperty(globalThis, "navigator", {
        value: { gpu, userAgent: "node", platform: process.platform },
        configurable: true
      })
      const theirs = yield* Effect.promise(() => gpu.requestAdapter())
      if (theirs === null || describe(theirs) !== describe(adapter)) {
        throw new Error(`a peer would get ${theirs === null ? "no adapter" : describe(theirs)} instead of ${name}`)
      }
      resolve(name)
      // the adapter stays open until the process ends
      yield* Effect.never
    }))).catch(reject)
  )
}
