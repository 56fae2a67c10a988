/** How ranks come to an end, and who tells of it. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import process from "node:process"
import { afterEach, expect, it, vi } from "vitest"
import * as Edge from "../../src/cli/Edge.ts"
import { tellings, together } from "../../src/cli/ranks.ts"
import { call, Collective, type CollectiveService } from "../../src/collective/Collective.ts"
import { ranksInProcess } from "../../src/collective/InProcess.ts"
import { CollectiveError, DataError } from "../../src/Errors.ts"
import { stripAnsi } from "../../src/Terminal.ts"

afterEach(() => vi.restoreAllMocks())

/** Who waits for others to tell is not waited for. */
const clock: Clock.Clock = Object.assign(Clock.make(), { sleep: () => Effect.void })

/** Three ranks to their ends: their exit codes, what each still has to tell, and what was told. */
const ended = async (body: (collective: CollectiveService) => Effect.Effect<unknown, unknown>) => {
  let said = ""
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    said += text
    return true
  })
  const exits = await Effect.runPromise(
    Effect.forEach(ranksInProcess(3),
      (one) => Effect.exit(together(Effect.flatMap(Collective, body), Layer.succeed(Collective, one))), {
      concurrency: 3
    }).pipe(Effect.withClock(clock))
  )
  const left = exits.map((exit) => Exit.isFailure(exit) ? Edge.messageOf(exit.cause) : undefined)
  return { codes: exits.map(Edge.codeOf), left, said: stripAnsi(said), exits }
}

const failed = new DataError({ detail: "there is no such file" })

it("is told by rank 0 where all are wrong, or it alone, and all leave with its exit code", async () => {
  for (const wrong of [[0], [0, 1, 2]]) {
    const { codes, left, said } = await ended(({ rank }) => {
      const error = new CollectiveError({ reason: "Setup", rank: 1, detail: "two share an adapter" })
      return wrong.includes(rank) ? Effect.fail(wrong.length === 1 ? failed : error) : Effect.void
    })
    expect(said).toBe(
      wrong.length === 1 ? "error: there is no such file\n" : "error: two share an adapter [ranks: Setup]\n"
    )
    expect(left).toEqual([undefined, undefined, undefined])
    expect(codes).toEqual([1, 1, 1])
  }
})

it("is not told of where all is well, and values are those of the body", async () => {
  const { codes, exits, said } = await ended(({ rank }) => Effect.succeed(rank))
  expect([said, codes]).toEqual(["", [0, 0, 0]])
  expect(exits.map((exit) => Exit.isSuccess(exit) && exit.value)).toEqual([0, 1, 2])
})

it("is told by the rank that fails while others are at work", async () => {
  const { left } = await ended((one) =>
    one.rank === 2
      ? Effect.fail(failed).pipe(Effect.tapError(() => Effect.sync(() => one.abort("there is no such file"))))
      : call(() => one.barrier())
  )
  expect(left[2]).toBe("there is no such file")
  expect(left[0]).toMatch(/rank 2 gave up: there is no such file/)
  expect(left[1]).toBeUndefined()
})

it("is an interruption where ranks are interrupted", async () => {
  const { exits } = await ended(() => Effect.interrupt)
  expect(exits.every((exit) => Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))).toBe(true)
})

it("names those ranks whose failure is their own", () => {
  const well = { message: null, code: 0, heard: false }
  const own = { message: "no adapter", code: 1, heard: false }
  const heard = { message: "rank 1 cannot go on: no adapter", code: 1, heard: true }
  const hosts = ["a", "b", "c"]
  expect(tellings([well, own, well], hosts)).toEqual(["rank 1 on b: no adapter"])
  expect(tellings([heard, own, heard], hosts)).toEqual(["rank 1 on b: no adapter"])
  expect(tellings([own, own, { ...own, message: "another" }], hosts)).toEqual(["no adapter", "rank 2 on c: another"])
  expect(tellings([heard, heard, heard], hosts)).toEqual(["rank 1 cannot go on: no adapter"])
})
