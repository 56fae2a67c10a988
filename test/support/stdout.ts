import * as Effect from "effect/Effect"
import process from "node:process"
import { vi } from "vitest"
import * as Edge from "../../src/cli/Edge.ts"
import { program } from "../../src/cli/program.ts"

/** What is written to stdout while something runs; whoever waits for a write to be done is told so. */
export const printedBy = async (body: () => Promise<unknown>): Promise<string> => {
  let text = ""
  const write = vi.spyOn(process.stdout, "write").mockImplementation((chunk, ...rest: ReadonlyArray<unknown>) => {
    text += String(chunk)
    for (const done of rest) if (typeof done === "function") done()
    return true
  })
  try {
    await body()
  } finally {
    write.mockRestore()
  }
  return text
}

/** The command line in this process: what takes no device and no signals needs none of its own. */
export const memsinksHere = async (
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {}
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> => {
  let stderr = ""
  let code = 0
  const write = vi.spyOn(process.stderr, "write").mockImplementation((chunk) => {
    stderr += String(chunk)
    return true
  })
  for (const name of ["CI", "FORCE_COLOR", "NO_COLOR"]) vi.stubEnv(name, env[name])
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  try {
    const stdout = await printedBy(async () => {
      const exit = await Effect.runPromiseExit(program(args))
      Edge.teardown(exit, (given) => void (code = given))
    })
    return { code, stdout, stderr }
  } finally {
    vi.unstubAllEnvs()
    write.mockRestore()
  }
}
