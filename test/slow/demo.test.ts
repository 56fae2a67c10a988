import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { demo } from "../../pipelines/demo.ts"
import * as NodeDevice from "../../src/node.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-demo-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

it("the demo of forgetting goes on where it was killed, and deletes one of twelve without touching the others",
  async () => {
    const outDir = join(root, "demo")
    const run = (stop?: string) =>
      Effect.runPromise(
        demo({ outDir, device: NodeDevice.layer(), steps: 60,
          onStage: (what) => stop !== undefined && what.startsWith(stop) ? Effect.interrupt : Effect.void }).pipe(
            Effect.provide(NodeContext.layer)
          )
      )
    await expect(run("training without")).rejects.toThrow()
    await expect(run("audit: 20 of")).rejects.toThrow()
    const { audit, key } = await run()
    expect(audit.deleted.map(({ name }) => name)).toEqual(["Abraham Lincoln"])
    expect(audit.notInData).toEqual([])
    expect(audit.stayed.map(({ passages, same, shared, sources }) => [shared, sources, same === passages])).toEqual([[0,
      11, true]])
    const [loss] = audit.measures
    expect(loss!.after.value).toBeGreaterThan(loss!.before.value!)
    const pem = readFileSync(key, "utf8")
    const again = await run()
    expect(again.audit.measures).toEqual(audit.measures)
    expect(readFileSync(key, "utf8")).toBe(pem)
  }, 600_000)
