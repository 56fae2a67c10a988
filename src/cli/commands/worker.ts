import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { counting, described, number, type OptionsOf, telling } from "./options.ts"

/** `memsinks worker`: what it takes. */
export const worker = Command.make("worker", {
  store: Options.text("store").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where results are kept: the same as that of who asks")
  ),
  queue: Options.text("queue").pipe(
    Options.withPseudoName("url"),
    Options.withDescription("Where the jobs are: sqlite:FILE, or postgres://user@host/database for several machines")
  ),
  concurrency: counting("concurrency").pipe(
    Options.withDescription("Jobs at once, as far as memory goes (default: 1)"),
    Options.withDefault(1)
  ),
  lease: counting("lease").pipe(
    Options.withDescription("Seconds after which the jobs of a worker that is not heard are others' (default: 90)"),
    Options.withDefault(90)
  ),
  untilIdle: number("until-idle", "End after so many seconds without a job (default: wait for ever)", 0),
  hostOnly: Options.boolean("host-only").pipe(
    Options.withDescription("Open no device, and do only jobs of what is computed on the host")
  ),
  adapter: telling.adapter,
  quiet: telling.quiet
}).pipe(
  described("Do jobs of experiments that were started with --queue, on any machine",
    "memsinks worker --store store --queue sqlite:queue.db")
)

export type WorkerOptions = OptionsOf<typeof worker>
