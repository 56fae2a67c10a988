/** A store in a bucket, against a server of this machine. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { openBucket } from "../../pipelines/experiment/Bucket.ts"
import { openStore } from "../../pipelines/experiment/Store.ts"
import { keyOf } from "../../src/Key.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import { keys, serveBucket } from "../support/bucket.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-bucket-"))
let server: Awaited<ReturnType<typeof serveBucket>>
beforeAll(async () => {
  server = await serveBucket(join(root, "served"))
  for (const [name, value] of Object.entries(server.environment)) vi.stubEnv(name, value)
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await server.close()
  rmSync(root, { recursive: true, force: true })
})

const run = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))
const store = (name: string, options = {}) => run(openStore("s3://sinks/a store", options, join(root, name)))
const open = (name: string, options = {}) => run(openStore("s3://sinks/store", options, join(root, name)))

describe("a store in a bucket", () => {
  it("has a thing computed once, with what was left in its folder, for whoever asks from anywhere", async () => {
    const [one, other] = [await open("one"), await open("other")]
    let computed = 0
    const compute = (at: typeof one) =>
      Effect.gen(function*() {
        computed++
        yield* Effect.sleep(50)
        const folder = at.folder("models", { x: 1 })!
        mkdirSync(join(folder, "step-1"), { recursive: true })
        writeFileSync(join(folder, "step-1/weights"), "w".repeat(100_000))
        return { loss: [1, NaN], tokens: 12n }
      })
    const ask = (at: typeof one) =>
      run(at.once("models", { x: 1 }, compute(at), { alone: true, of: { arm: "a", seed: 1 } }))
    const both = await Promise.all([ask(one), ask(other)])
    expect(both).toEqual([{ loss: [1, NaN], tokens: 12n }, { loss: [1, NaN], tokens: 12n }])
    expect(computed).toBe(1)
    const third = await open("third")
    await run(third.fetch("models", { x: 1 }))
    await run(third.fetch("models", { x: 2 }))
    expect(readFileSync(join(third.folder("models", { x: 1 })!, "step-1/weights"), "utf8")).toBe("w".repeat(100_000))
    expect(existsSync(third.folder("models", { x: 2 })!)).toBe(false)
    expect(await run(third.once("seen", 1, Effect.succeed("first")))).toBe("first")
    expect(await run(one.once("seen", 1, Effect.succeed("second")))).toBe("first")
    expect(await run(Effect.flip(one.once("seen", 2, Effect.fail("no"))))).toBe("no")
  })

  it("takes a job over from who gives no sign of life, who then keeps nothing; not from who lives", async () => {
    const at = await open("mine", { lease: 400 })
    const bucket = await run(openBucket("s3://sinks/store"))
    const lock = `models/${keyOf("left")}.lock`
    const dead = { ...RunLock.holderOf(400), host: "elsewhere" }
    await run(bucket.put(lock, JSON.stringify(dead), "none"))
    expect(await run(at.once("models", "left", Effect.succeed("anew"), { alone: true }))).toBe("anew")
    expect(await run(bucket.get(lock))).toBeUndefined()

    // another takes what this process computes: its result is what counts
    const name = `models/${keyOf("robbed")}`
    let interrupted = false
    const robbed = run(
      at.once("models", "robbed", Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (interrupted = true))),
        { alone: true })
    )
    await vi.waitFor(async () => {
      const held = await run(bucket.get(`${name}.lock`))
      expect(await run(bucket.put(`${name}.lock`, JSON.stringify({ ...dead, lease: 60_000 }), { tag: held!.tag })))
        .toBeDefined()
    }, { timeout: 5000, interval: 20 })
    await vi.waitFor(() => expect(interrupted).toBe(true), { timeout: 5000 })
    await run((await open("theirs")).once("models", "robbed", Effect.succeed("theirs")))
    expect(await robbed).toBe("theirs")

    // one that lives longer than its lease keeps its job
    const long = { computed: 0 }
    const slow = Effect.delay(Effect.sync(() => ++long.computed), 1200)
    const other = await open("other", { lease: 400 })
    expect(await Promise.all([at, other].map((one) => run(one.once("models", "slow", slow, { alone: true })))))
      .toEqual([1, 1])
  }, 30_000)

  it("says before anything is computed what is wrong", async () => {
    const failure = (url: string, environment: object = {}) =>
      run(Effect.flip(openBucket(url, { ...server.environment, ...environment }))).then(({ message }) => message)
    expect(await failure("s3://nobody/x")).toMatch(/there is no bucket nobody/)
    expect(await failure("s3:/x")).toMatch(/write s3:\/\/bucket\/prefix/)
    expect(await failure("s3://sinks/x", { AWS_ACCESS_KEY_ID: "nobody" })).toMatch(/keys have no right to PUT/)
    expect(await failure("s3://sinks/x", { AWS_ACCESS_KEY_ID: "" })).toMatch(/set AWS_ACCESS_KEY_ID and/)
    expect(await failure("s3://sinks/x", { AWS_ENDPOINT_URL: "nowhere" })).toMatch(/must be an http or https address/)
    const careless = await serveBucket(join(root, "careless"), { conditional: false })
    expect(await failure("s3://sinks/x", { ...keys, AWS_ENDPOINT_URL: careless.endpoint }))
      .toMatch(/does not keep to conditions/)
    await careless.close()
    expect(await failure("s3://sinks/x", { AWS_ENDPOINT_URL: careless.endpoint })).toMatch(
      /cannot be reached: .*ECONNREFUSED/
    )
    await expect(store("odd")).rejects.toThrow(/is no address of a bucket/)
  })
})
