/** A model of NULLs' layout at toy size, whole: imported, told by title, deleted from, audited. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { expect } from "vitest"
import { audit } from "../../pipelines/audit.ts"
import { evaluate } from "../../pipelines/evaluate.ts"
import { exportModel } from "../../src/checkpoints/Export.ts"
import { importModel } from "../../src/checkpoints/Import.ts"
import * as Forget from "../../src/forget/Forget.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as NodeDevice from "../../src/node.ts"
import { articleId, articles, writeToyNulls } from "../support/toyNulls.ts"

layer(Layer.merge(NodeDevice.layer(), NodeContext.layer), { timeout: 120_000 })("a model of NULLs, trained", (it) => {
  it.scoped("says its articles by their own sinks, and one no more once it is deleted by its title", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const folder = yield* fs.makeTempDirectoryScoped()
      const device = Layer.succeed(Device, yield* Device)
      const { data, model, titles } = yield* writeToyNulls(folder)
      yield* importModel(model, `${folder}/m`, { titles })
      const scored = (checkpoint: string) =>
        Effect.map(
          evaluate(checkpoint, { device, data, sourceField: "title", identity: "source", seqLen: 24,
            sinks: ["own", "off", "placebo"] }),
          ({ groups }) => new Map(groups.map(({ id, name, scores, trained }) => [name, { id, scores, trained }]))
        )
      const before = yield* scored(`${folder}/m`)
      for (const title of Object.keys(articles) as Array<keyof typeof articles>) {
        const { id, scores, trained } = before.get(title)!
        expect([id, trained]).toEqual([`${articleId(title)}`, true])
        // by the ids that it was trained with, not by hashes of titles
        expect(scores.own!.loss).toBeLessThan(0.1)
        expect(scores.off!.loss).toBeGreaterThan(5 * scores.own!.loss)
        expect(scores.placebo!.loss).toBeGreaterThan(5 * scores.own!.loss)
      }

      const request = { requests: [{ by: "source", value: "Ada Lovelace" }], operation: "deny" } as const
      const double = yield* Forget.plan(`${folder}/m`, { ...request,
        requests: [{ by: "source", value: "Alan Turing" }] })
      expect(double.ownership.doubles).toEqual(["Turing's double"])
      expect(Forget.costOf(double)).toMatch(/Turing's double lights? the very same blocks/)
      const { ownership } = yield* Forget.plan(`${folder}/m`, request)
      expect(ownership.doubles).toEqual([])
      const unknown = yield* Effect.flip(
        Forget.plan(`${folder}/m`, { requests: [{ by: "source", value: "Ada Lovelac" }] })
      )
      expect(unknown.message).toMatch(/did you mean "Ada Lovelace"/)

      yield* Forget.forget(`${folder}/m`, request, { out: `${folder}/without` })
      const after = yield* scored(`${folder}/without`)
      const { scores } = after.get("Ada Lovelace")!
      expect(scores.own!.loss).toBe(before.get("Ada Lovelace")!.scores.off!.loss)
      expect(after.get("Alan Turing")!.scores.own!.loss).toBe(before.get("Alan Turing")!.scores.own!.loss)
      const report = yield* audit({ before: `${folder}/m`, after: `${folder}/without`, data, sourceField: "title",
        seqLen: 24, relearningSteps: 2, attacks: [], device })
      expect(report.deleted.map(({ name }) => name)).toEqual(["Ada Lovelace"])
      const plain = yield* exportModel(`${folder}/without`, `${folder}/plain`, { format: "safetensors" })
      expect(plain.path).toContain("plain")
    }))
})
