/** `memsinks jobs`: what waits in a queue, who works, and what failed. */
import * as Effect from "effect/Effect"
import process from "node:process"
import { type Entry, openQueue } from "../../pipelines/experiment/Queue.ts"
import { shortKey } from "../Key.ts"
import { columns, hasColor, NOTHING, oneLine, painter } from "../Terminal.ts"
import type { JobsOptions } from "./commands/jobs.ts"
import * as Edge from "./Edge.ts"
import { ago } from "./runs.ts"

/** Why a job failed, or what its worker said last. */
const saidOf = ({ failed, note }: Entry): string =>
  failed === undefined ? note ?? "" : "error" in failed ? failed.error.message : `bug: ${failed.bug.message}`

const since = (seconds: number | null): string => seconds === null ? NOTHING : ago(seconds * 1000)

/** Prints the queue; with `retry` or `remove` does that, and says to how many. */
export const runJobs = ({ ids, json, queue: url, remove, retry }: JobsOptions) =>
  Effect.gen(function*() {
    if (retry && remove) {
      return yield* Effect.fail(Edge.usage({ message: "--retry or --remove, not both" }))
    }
    if (ids.length > 0 && !retry && !remove) {
      return yield* Effect.fail(Edge.usage({ message: `${ids[0]}: what is to be done with it? --retry or --remove` }))
    }
    const queue = yield* openQueue(url, {
      make: false,
      patience: 10,
      say: (line) => Effect.sync(() => Edge.complain(line))
    })
    if (retry || remove) {
      const count = yield* retry ? queue.retry(ids) : queue.remove(ids)
      return yield* Edge.print(
        json ?
          JSON.stringify({ [retry ? "retried" : "removed"]: count }) :
          `${count} ${count === 1 ? "job" : "jobs"} ${retry ? "will be tried again" : "removed"}`
      )
    }
    const [jobs, workers] = [yield* queue.jobs(), yield* queue.workers]
    if (json) {
      return yield* Edge.print(JSON.stringify({
        jobs: jobs.map(({ failed, ...job }) => ({
          ...job,
          failure: failed === undefined ? null : saidOf({ ...job, failed }),
          bug: failed !== undefined && "bug" in failed
        })),
        workers
      }))
    }
    if (jobs.length === 0 && workers.length === 0) return yield* Edge.print(`no jobs and no workers in ${queue.name}`)
    const paint = painter(hasColor(process.stdout, process.env))
    const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) => {
      const [first, ...others] = columns([head, ...rows], () => true)
      return [paint("bold", first!), ...others]
    }
    const count = (state: Entry["state"]) => jobs.filter((job) => job.state === state).length
    yield* Edge.print([
      ...table(["worker", "heard", "jobs", "age", "memsinks", "computes on"], workers.map((one) => [
        one.name,
        one.alive ? since(one.silent) : `gone ${since(one.silent)}`,
        String(one.doing),
        since(one.age),
        one.version,
        oneLine(one.machine)
      ])),
      "",
      ...table(["job", "kind", "arm", "seed", "state", "tries", "age", "for", "worker", ""], jobs.map((job) => [
        shortKey(job.id),
        job.kind,
        oneLine(job.arm),
        String(job.seed),
        job.state,
        `${job.tries}/${job.most}`,
        since(job.age),
        job.state === "taken" ? since(job.taken) : NOTHING,
        job.worker ?? NOTHING,
        oneLine(saidOf(job)).slice(0, 200)
      ])),
      "",
      `${count("waiting")} wait, ${count("taken")} are being done, ${count("done")} are done, ${count("failed")} failed`
    ].join("\n"))
  }).pipe(Effect.scoped)
