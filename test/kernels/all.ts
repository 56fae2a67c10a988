/** Every kernel of kernels, those that take an argument once for each value the tests use. */
import type { Kernel } from "../../src/gpu/Kernel.ts"
import { kernels } from "../../src/Kernels.ts"

const { attentionBackward, rope, swiglu, swigluBackward, ...plain } = kernels

export const allKernels: ReadonlyArray<Kernel> = [
  ...Object.values(plain),
  rope(1),
  rope(-1),
  attentionBackward("q"),
  attentionBackward("kv"),
  ...[1, 8, 16].flatMap((block) => [swiglu(block), swigluBackward(block)])
]
