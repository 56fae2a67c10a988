/**
 * Lets a test change the WGSL that is compiled:
 *
 *     vi.mock("../../src/gpu/Kernel.ts", async (original) =>
 *       (await import("../support/rewriting.ts")).rewritten(await original()))
 */
import type * as Kernel from "../../src/gpu/Kernel.ts"

/** What happens to WGSL before it is compiled; the name tells pipelines apart. */
export const rewriting = { name: "", of: (text: string): string => text }

/** The module, its kernels' text rewritten. */
export const rewritten = (actual: typeof Kernel): typeof Kernel => ({
  ...actual,
  source: (kernel) => rewriting.of(actual.source(kernel)),
  key: (kernel) => `${actual.key(kernel)}${rewriting.name}`,
  moduleKey: (kernel) => `${actual.moduleKey(kernel)}${rewriting.name}`
})
