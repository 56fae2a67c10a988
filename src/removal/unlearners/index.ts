/** Every unlearner, by the name that configs and reports use. A new one is a file of its own and a line here. */
import { gradientAscent } from "./gradientAscent.ts"
import { gradientDifference } from "./gradientDifference.ts"
import { npo } from "./npo.ts"
import { rmu } from "./rmu.ts"
import { simNpo } from "./simNpo.ts"
import { sparse } from "./sparse.ts"
import type { Unlearner } from "./Unlearner.ts"

export { editedTargets, type EditOptions } from "./editedTargets.ts"
export { npoWeight } from "./npo.ts"
export { rmuDirection } from "./rmu.ts"
export { simNpoWeight } from "./simNpo.ts"
export { editSparsely } from "./sparse.ts"
export type { Unlearner, UnlearnError, Unlearning, UnlearnOptions, UnlearnProblem, UnlearnStep } from "./Unlearner.ts"

/** All unlearners by name. */
export const unlearners = {
  gradientAscent,
  gradientDifference,
  npo,
  simNpo,
  rmu,
  sparse
} satisfies Readonly<Record<string, Unlearner>>

/** The name of an unlearner. */
export type UnlearnerName = keyof typeof unlearners
