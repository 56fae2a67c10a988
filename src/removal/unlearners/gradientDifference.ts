import { weighted } from "./Unlearner.ts"

/** Gradient difference (GradDiff): gradient ascent beside descent on the retained. */
export const gradientDifference = weighted({
  name: "gradientDifference",
  defaults: { learningRate: 5e-4, batchSize: 16, steps: 100, gamma: 1, alpha: 1 },
  adaptive: false,
  forget: (_, { tokens }) => ({ weight: -1, per: tokens })
})
