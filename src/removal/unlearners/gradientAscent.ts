import { weighted } from "./Unlearner.ts"

/** Gradient ascent (GA): minus the mean loss a token, and nothing else. Left to run, it destroys the model. */
export const gradientAscent = weighted({
  name: "gradientAscent",
  defaults: { learningRate: 5e-4, batchSize: 16, steps: 100, gamma: 1, alpha: 0 },
  adaptive: false,
  forget: (_, { tokens }) => ({ weight: -1, per: tokens })
})
