import { weighted } from "./Unlearner.ts"

/**
 * SimNPO's weight of a sequence's mean loss a token, -2 sigmoid(-beta (meanNll - delta)): the derivative of
 * -(2 / beta) log sigmoid(beta (meanNll - delta)).
 */
export const simNpoWeight = (meanNll: number, beta: number, delta: number): number =>
  -2 / (1 + Math.exp(beta * (meanNll - delta)))

/** SimNPO: NPO of mean losses a token, without the reference: what is recited best is pushed hardest. */
export const simNpo = weighted({
  name: "simNpo",
  defaults: { learningRate: 5e-4, batchSize: 16, steps: 100, gamma: 0.125, alpha: 1, beta: 4.5, delta: 0 },
  adaptive: true,
  forget: ({ nll, tokens }, { sequences }, { beta, delta }) => ({
    weight: simNpoWeight(nll / tokens, beta, delta),
    per: sequences * tokens
  })
})
