import { weighted } from "./Unlearner.ts"

/**
 * NPO's weight of a sequence's loss, -2 sigmoid(-beta gap), where the gap is its loss minus that under theta_0, in
 * nats:
 * -1 at the start, as gradient ascent's, 0 once the sequence is forgotten. The derivative of
 * -(2 / beta) log sigmoid(beta gap).
 */
export const npoWeight = (gap: number, beta: number): number => -2 / (1 + Math.exp(beta * gap))

/**
 * Negative preference optimization (NPO): gradient ascent that lets go of a sequence as its loss rises above what it
 * was.
 *
 * As published, losses are sums over a sequence (not differences of logits, which some code has), so the longer
 * sequences are, the sooner it stops: at 256 tokens and beta 0.1, 0.2 nats a token leave 1 % of the weight. With
 * `lengthNormalized` losses are means a token, the forget term is as large as the retain term, and beta counts as
 * SimNPO's does: 2.5 to 4.5.
 */
export const npo = weighted({
  name: "npo",
  defaults: {
    learningRate: 5e-4,
    batchSize: 16,
    steps: 100,
    gamma: 1,
    alpha: 1,
    beta: 0.1,
    lengthNormalized: false as boolean
  },
  adaptive: true,
  forget: ({ nll, referenceNll, tokens }, { sequences }, { beta, lengthNormalized }) => {
    const length = lengthNormalized ? tokens : 1
    return { weight: npoWeight((nll - referenceNll) / length, beta), per: sequences * length }
  }
})
