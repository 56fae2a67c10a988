/**
 * Localizers after training: which neurons are needed to recite given sequences. A new one is a file that exports a
 * `Localizer`, and a line in the table.
 */
import { activations } from "./activations.ts"
import { gradient } from "./gradient.ts"
import { hardConcrete } from "./hardConcrete.ts"
import { integratedGradients } from "./integratedGradients.ts"
import type { Localizer } from "./Localizer.ts"
import { random } from "./random.ts"
import { slimming } from "./slimming.ts"
import { zeroOut } from "./zeroOut.ts"

export { sinkNeurons } from "../../inside/GradientMass.ts"
export { dropNeurons, type Dropped, recall, topFraction, withoutNeurons } from "./Drop.ts"
export { type GradientMass, gradientMass } from "./gradient.ts"
export type { LocalizeError, LocalizeOptions, Localizer, NeuronScores } from "./Localizer.ts"

/** All localizers by name. */
export const localizers = {
  random,
  zeroOut,
  activations,
  integratedGradients,
  slimming,
  hardConcrete,
  gradient
} satisfies Readonly<Record<string, Localizer>>

/** The name of a localizer. */
export type LocalizerName = keyof typeof localizers
