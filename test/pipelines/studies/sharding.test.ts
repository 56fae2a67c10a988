/** The study of a pool in slices: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { sharding, ShardingConfig, type ShardingFound } from "../../../pipelines/studies/sharding.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new ShardingConfig({ seeds: 5 })

/** Each shard more takes `less` of what own sinks know, leaves `more` of it without them, and hits survivors `harder`. */
const decide = ({ harder, leaks, less }: Record<"harder" | "leaks" | "less", number>) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.002 * (draw.uniform() - 0.5)
  const found = [1, 2, 3, 4, 5].flatMap((seed) =>
    config.shards.map((shards) => {
      const more = shards - 1
      const memory = 2 - less * more
      const one: ShardingFound = {
        own: { seen: near(5 - memory), unseen: near(5) },
        off: { seen: near(5 - (0.3 + leaks * more) * memory), unseen: near(5) },
        outsider: near(6),
        survivors: [{ lost: 0, cost: 0 }, ...Array.from({ length: 16 / shards }, () => ({
          lost: 0.05 * shards,
          cost: near(0.05 * (1 + harder * more))
        })), ...Array.from({ length: 16 - 16 / shards }, () => ({ lost: 0, cost: 0 }))]
      }
      return { part: `${shards} shard${shards === 1 ? "" : "s"}`, seed, found: one }
    })
  )
  return sharding.findings(resultsOf([1, 2, 3, 4, 5], found), config)
}

describe("a pool in slices", () => {
  it("is decided by what is planted", () => {
    const results = (planted: Parameters<typeof decide>[0]) => decide(planted).claims.map(({ result }) => result)
    expect(results({ less: 0, leaks: 0, harder: 1 })).toEqual(Array(8).fill("held"))
    expect(results({ less: 0.1, leaks: 0.05, harder: -0.1 })).toEqual(
      ["held", "held", "did not hold", "did not hold", "held", "did not hold", "did not hold", "held"]
    )
    const { numbers, tables } = decide({ less: 0, leaks: 0, harder: 1 })
    expect(numbers["8 shards: sinks lost, most"]!.mean).toBeCloseTo(0.4)
    expect(numbers["1 shard: share that goes with the sinks"]!.mean).toBeCloseTo(0.7, 2)
    expect(tables.map(({ rows }) => rows.length)).toEqual([4, 4, 3])
  })

  it("refuses slices that are none, and those that an id does not fit into", () => {
    const problem = (over: object) => sharding.problem!(new ShardingConfig({ ...config, ...over }))
    expect(problem({})).toBeUndefined()
    expect(problem({ shards: [2, 4] })).toMatch(/must begin with 1/)
    expect(problem({ shards: [1, 3] })).toMatch(/sinks.shards 3 must divide the 128 blocks/)
    expect(problem({ shards: [1, 32] })).toMatch(/sinks.active 64 must be at most 32/)
  })

  it("runs whole", async () => {
    const small = new ShardingConfig({ seeds: 1, shards: [1, 2], sources: 3, deleted: 1, passages: 2, unseen: 1,
      exposures: 1, width: 16, pool: 64, active: 16, seqLen: 16, vocabSize: 300 })
    const report = await Effect.runPromise(
      run(sharding, small, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
    )
    expect(report.failures).toEqual([])
    expect(Object.keys(report.numbers)).toContain("2 shards: memory, own sinks")
  }, 60_000)
})
