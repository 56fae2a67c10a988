/** Every attack, by the name that configurations and reports use. A new one is a file of its own and a line here. */
import type { Attack } from "./Attack.ts"
import { hiddenProbe } from "./hiddenProbe.ts"
import { selfInfluence } from "./selfInfluence.ts"
import { shortestContext } from "./shortestContext.ts"
import { unlearningDepth } from "./unlearningDepth.ts"

export { type Attack, type AttackError, type AttackGround, type AttackMetric, type AttackProblem, type AttackSample,
  type AttackValue, sampleOf } from "./Attack.ts"

/** All attacks by name. */
export const attacks = {
  shortestContext,
  selfInfluence,
  hiddenProbe,
  unlearningDepth
} satisfies Readonly<Record<string, Attack>>

export type AttackName = keyof typeof attacks
