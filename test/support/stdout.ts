import process from "node:process"
import { vi } from "vitest"

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
