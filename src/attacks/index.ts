/** Every attack, by the name that configurations and reports use. A new one is a file of its own and a line here. */
import { acr, acrLite } from "./acr.ts"
import type { Attack } from "./Attack.ts"
import { cdd } from "./cdd.ts"
import { hiddenProbe } from "./hiddenProbe.ts"
import { instructionPrompts } from "./instructionPrompts.ts"
import { inverseGreedy } from "./inverseGreedy.ts"
import { memFree } from "./memFree.ts"
import { nvRecall } from "./nvRecall.ts"
import { recognition } from "./recognition.ts"
import { selfInfluence } from "./selfInfluence.ts"
import { shortestContext } from "./shortestContext.ts"
import { softPrompt, suppressingPrompt } from "./softPrompt.ts"
import { styles } from "./styles.ts"
import { tokenInfluence } from "./tokenInfluence.ts"
import { tokenPerturbation } from "./tokenPerturbation.ts"
import { unlearningDepth } from "./unlearningDepth.ts"

export { type Attack, type AttackError, type AttackGround, type AttackMetric, type AttackProblem, type AttackSample,
  type AttackValue, sampleOf } from "./Attack.ts"

/** All attacks by name. */
export const attacks = {
  shortestContext,
  cdd,
  memFree,
  styles,
  instructionPrompts,
  nvRecall,
  inverseGreedy,
  tokenPerturbation,
  recognition,
  selfInfluence,
  tokenInfluence,
  hiddenProbe,
  unlearningDepth,
  acr,
  acrLite,
  softPrompt,
  suppressingPrompt
} satisfies Readonly<Record<string, Attack>>

/** The name of an attack. */
export type AttackName = keyof typeof attacks
