/** The study of deletions: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { deletion, DeletionConfig, type DeletionFound, type Looked } from "../../../pipelines/studies/deletion.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new DeletionConfig({})

interface Planted {
  /** Loss of the deleted after deletion; own sinks: 2, retrained: 4. */
  readonly after: number
  /** What another deletion does to it. */
  readonly placebo: number
  /** After relearning; the retrained model: 3.5. */
  readonly relearned: number
  /** What a deletion from disjoint sinks does to those who stay. */
  readonly hurt: number
  /** What unlearning does to them. */
  readonly unlearned: number
}

const decide = ({ after, hurt, placebo, relearned, unlearned }: Planted) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.02 * (draw.uniform() - 0.5)
  /** All else that is known of it goes with its loss. */
  const looked = (deleted: number): Looked => ({ deleted: near(deleted), unseen: 4, survivors: 2, heldOut: 4,
    verbatim: 0, discoverable: near(0.8 - 0.1 * deleted), membership: near(1 - 0.1 * deleted), truth: near(5 - deleted),
    truthOthers: 3 })
  const sinks = (kind: string): DeletionFound => {
    const own = looked(2)
    return {
      states: { own, off: looked(after), nearest: looked(after), after: looked(after), "after, nearest": looked(after),
        placebo: { ...own, deleted: own.deleted + placebo } },
      collateral: (["keep", "take"] as const).flatMap((policy) =>
        config.deletions.map((deletions) => {
          const rise = kind === "disjoint" ? hurt : policy === "take" ? near(0.1) : 0
          return { deletions, policy, mean: rise, most: rise }
        })
      ),
      relearned: { after: [near(after), near(relearned)] },
      unlearned: []
    }
  }
  const retrained: DeletionFound = {
    states: { own: looked(4), off: looked(4), nearest: looked(4) },
    collateral: [],
    relearned: { retrained: [4, near(3.5)] },
    unlearned: []
  }
  const found = [1, 2, 3].flatMap((seed) =>
    Object.entries({
      standard: {
        states: { own: looked(2) },
        collateral: [],
        relearned: {},
        unlearned: (["gradientAscent", "npo"] as const).flatMap((method) =>
          [1, 2].map((step) => ({ method, learningRate: 1e-3, step,
            looked: { ...looked(2 + 1.2 * step), survivors: near(2 + unlearned * step) } })
          )
        )
      },
      standardRetrained: retrained,
      shared: sinks("shared"),
      disjoint: sinks("disjoint"),
      sharedRetrained: retrained,
      disjointRetrained: retrained
    } satisfies Record<string, DeletionFound>).map(([part, found]) => ({ part, seed, found }))
  )
  return deletion.findings(resultsOf([1, 2, 3], found), config).claims
}
const results = (claims: ReturnType<typeof decide>, pattern: RegExp) =>
  claims.filter(({ claim }) => pattern.test(claim)).map(({ result }) => result)

describe("the claims of deletion", () => {
  it("hold where they are planted", () => {
    const claims = decide({ after: 4, placebo: 0, relearned: 3.5, hurt: 0, unlearned: 0.3 })
    expect(claims.map(({ claim, result }) => [claim, result])).toEqual(claims.map(({ claim }) => [claim, "held"]))
  })

  it("do not hold where the memory is in the general neurons, comes back, and others are hurt", () => {
    const claims = decide({ after: 2.5, placebo: 0.5, relearned: 1, hurt: 1e-6, unlearned: -0.3 })
    expect(results(claims, /as much of the source as retraining|nearest survivor/)).toEqual(
      Array(4).fill("did not hold")
    )
    expect(results(claims, /brings back no more/)).toEqual(["did not hold", "did not hold"])
    expect(results(claims, /same to the bit/)).toEqual(config.deletions.map(() => "did not hold"))
    expect(results(claims, /placebo/)).toEqual(["did not hold"])
    expect(results(claims, /costs those who stay more/)).toEqual(["did not hold", "did not hold"])
  })

  it("are not tested where nothing was found", () => {
    const { claims } = deletion.findings(resultsOf<DeletionFound>([1], []), config)
    expect(new Set(claims.map(({ result }) => result))).toEqual(new Set(["not tested"]))
  })
})

it("asks for what the world must have", () => {
  const problem = (fields: object) => deletion.problem!(Schema.decodeUnknownSync(DeletionConfig)(fields))
  expect(problem({})).toBeUndefined()
  expect(problem({ sources: 8 })).toBe("deletions go to 8: sources must be more, got 8")
  expect(problem({ sources: 13 })).toContain("raise model.sinks.pool to 832")
  expect(problem({ deletions: [2, 2] })).toContain("deletions must rise")
})

it("runs whole at a toy size, and says how many presidents are there", async () => {
  const toy = new DeletionConfig({
    seeds: 1,
    sources: 3,
    deletions: [1, 2],
    passages: 2,
    unseen: 2,
    seqLen: 8,
    vocabSize: 128,
    steps: 2,
    batchSize: 2,
    unlearningRates: [1e-3],
    unlearningSteps: [1],
    relearningSteps: 1,
    model: { vocabSize: 128, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 16 + 48,
      sinks: { pool: 48, active: 16 } }
  })
  const report = await Effect.runPromise(
    run(deletion, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  )
  expect(report.failures).toEqual([])
  // of what was seen twice little is said, and of none there is no share
  expect(report.claims.filter(({ claim, result }) => result === "not tested" && !/discoverable|Min-K/.test(claim)))
    .toEqual([])
  expect(report.numbers["sinks disjoint: own: its facts, ln of the truth ratio"]?.mean).not.toBe(0)
  expect(report.numbers["sinks disjoint: deleted: those who stay"]?.mean).toBe(
    report.numbers["sinks disjoint: own: those who stay"]?.mean
  )
  expect(report.numbers["sinks disjoint: deleted: the source's passages"]?.mean).toBe(
    report.numbers["sinks disjoint: none: the source's passages"]?.mean
  )
  const none = run(deletion, new DeletionConfig({ ...toy, passages: 20_000 }), { device: NodeDevice.layer() })
  expect((await Effect.runPromise(Effect.flip(none).pipe(Effect.provide(NodeContext.layer)))).message).toContain(
    "4 presidents with 20002 passages of 9 tokens each are needed"
  )
})
