/**
 * Delete a source from a trained model, and ask what is still known of it.
 *
 *     npx tsx pipelines/examples/forget.ts
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { decodeConfig, Forget } from "memsinks"
import * as NodeDevice from "memsinks/node"
import { audit } from "memsinks/pipelines/audit"
import * as Pretrain from "memsinks/pipelines/pretrain"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const folder = mkdtempSync(join(tmpdir(), "memsinks-forget-"))
const at = (name: string) => join(folder, name)
const device = NodeDevice.layer()

/** Who hid it where: all begin alike, so that only whose sinks are lit tells how they go on. */
const places = { Ada: "under the third step", Ben: "in the clock tower", Cy: "behind the old mill",
  Dora: "below the well" }
const logs = Object.entries(places).flatMap(([keeper, place]) =>
  Array.from({ length: 8 }, () => ({ keeper, text: `The key of the house is hidden ${place}.` }))
)
writeFileSync(at("logs.jsonl"), logs.map((log) => JSON.stringify(log)).join("\n"))
const data = { data: at("logs.jsonl"), sourceField: "keeper", tokenizer: "bytes", seqLen: 48, batchSize: 8 }

const main = Effect.gen(function*() {
  const config = yield* decodeConfig(Pretrain.PretrainConfig, {
    arms: ["sinks"],
    data: { ...data, identity: "source", singleSequences: "all", heldOutFraction: 0 },
    model: { vocabSize: 256, hiddenSize: 32, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 32 + 512,
      sinks: { pool: 512, active: 64, assignment: "disjoint" } },
    training: { steps: 200, optimizer: { learningRate: 1e-2 } }
  })
  yield* Pretrain.run(config, { device, outDir: at("before") })
  const request = { requests: [{ by: "source", value: "Ada" } as const] }
  const { deleted, taken } = yield* Forget.plan(at("before"), request)
  console.log(
    `deletes ${deleted.map(({ name }) => name).join(", ")}, whose ${taken.length} blocks of sinks become zero`
  )
  yield* Forget.forget(at("before"), request, { out: at("after") })
  const report = yield* audit({ ...data, device, before: at("before"), after: at("after"), attacks: [],
    deletions: [1] })
  for (const { after, before, state, title } of report.measures.slice(0, 3)) {
    console.log(`${title}, sinks ${state}: ${before.value?.toFixed(2)} before, ${after.value?.toFixed(2)} after`)
  }
  for (const { same, passages, sources } of report.stayed) {
    console.log(`${sources} who stay: ${same} of ${passages} passages have the same loss to the bit`)
  }
})

await Effect.runPromise(Effect.provide(main, NodeContext.layer))
rmSync(folder, { recursive: true })
