/** The commands, the table of contents: what each takes, and what does it, which is loaded when it runs. */
import * as Command from "@effect/cli/Command"
import * as Effect from "effect/Effect"
import process from "node:process"
import { ranksOf } from "../collective/Ranks.ts"
import { attempt, CollectiveError } from "../Errors.ts"
import { audit } from "./commands/audit.ts"
import { completing } from "./commands/completions.ts"
import { demo } from "./commands/demo.ts"
import { doctor } from "./commands/doctor.ts"
import { dynamics } from "./commands/dynamics.ts"
import { evaluate } from "./commands/evaluate.ts"
import { exporting } from "./commands/export.ts"
import { forget } from "./commands/forget.ts"
import { fusing } from "./commands/fuse.ts"
import { generate } from "./commands/generate.ts"
import { identity } from "./commands/identity.ts"
import { importing } from "./commands/import.ts"
import { inspect } from "./commands/inspect.ts"
import { isolate } from "./commands/isolate.ts"
import { queued } from "./commands/jobs.ts"
import { launch } from "./commands/launch.ts"
import { memfree } from "./commands/memfree.ts"
import { plan } from "./commands/plan.ts"
import { pretrain } from "./commands/pretrain.ts"
import { profile } from "./commands/profile.ts"
import { results } from "./commands/results.ts"
import { router } from "./commands/router.ts"
import { runs } from "./commands/runs.ts"
import { schema } from "./commands/schema.ts"
import { serving } from "./commands/serve.ts"
import { sources } from "./commands/sources.ts"
import { study } from "./commands/study.ts"
import { sweep } from "./commands/sweep.ts"
import { tokenize } from "./commands/tokenize.ts"
import { verify } from "./commands/verify.ts"
import { worker } from "./commands/worker.ts"

type Load<Given, R, E> = () => Promise<(options: Given) => Effect.Effect<void, E, R>>

/** What several ranks may run together. */
const byRanks = <Given, R, E>(load: Load<Given, R, E>) =>
  Command.withHandler((options: Given) => Effect.flatMap(Effect.promise(load), (body) => body(options)))

/** What would run as often as there are ranks, side by side. */
const doing = <Given, R, E>(load: Load<Given, R, E>) =>
  byRanks(async () => {
    const body = await load()
    return (options: Given) => Effect.zipRight(oneProcess, body(options))
  })

const oneProcess = Effect.suspend(() =>
  attempt(() => {
    const { launcher, rank, size } = ranksOf(process.env)
    if (size === 1) return
    throw new CollectiveError({
      reason: "Setup",
      rank,
      detail:
        `this command runs in one process, and a launcher (${launcher}) started ${size} of it: only pretrain trains by ` +
        "several ranks; start it without mpirun, srun, torchrun or launch"
    })
  }, CollectiveError)
)

/** Every command, in the order in which help lists them. */
export const commands = [
  pretrain.pipe(byRanks(async () => (await import("./pretrain.ts")).pretrain)),
  launch.pipe(byRanks(async () => (await import("./launch.ts")).runLaunch)),
  isolate.pipe(doing(async () => (await import("./isolate.ts")).isolate)),
  dynamics.pipe(doing(async () => (await import("./dynamics.ts")).dynamics)),
  sweep.pipe(doing(async () => (await import("./sweep.ts")).sweep)),
  study.pipe(doing(async () => (await import("./study.ts")).study)),
  results.pipe(doing(async () => (await import("./results.ts")).runResults)),
  worker.pipe(doing(async () => (await import("./worker.ts")).runWorker)),
  queued.pipe(doing(async () => (await import("./jobs.ts")).runJobs)),
  tokenize.pipe(doing(async () => (await import("./tokenize.ts")).runTokenize)),
  plan.pipe(doing(async () => (await import("./plan.ts")).plan)),
  profile.pipe(doing(async () => (await import("./profile.ts")).profile)),
  doctor.pipe(doing(async () => (await import("./doctor.ts")).doctor)),
  identity.pipe(doing(async () => (await import("./identity.ts")).identity)),
  runs.pipe(doing(async () => (await import("./runs.ts")).runs)),
  inspect.pipe(doing(async () => (await import("./inspect.ts")).inspect)),
  sources.pipe(doing(async () => (await import("./sources.ts")).runSources)),
  router.pipe(doing(async () => (await import("./router.ts")).runRouter)),
  forget.pipe(doing(async () => (await import("./forget.ts")).runForget)),
  audit.pipe(doing(async () => (await import("./audit.ts")).runAudit)),
  demo.pipe(doing(async () => (await import("./demo.ts")).runDemo)),
  verify.pipe(doing(async () => (await import("./verify.ts")).runVerify)),
  exporting.pipe(doing(async () => (await import("./export.ts")).runExport)),
  importing.pipe(doing(async () => (await import("./import.ts")).runImport)),
  fusing.pipe(doing(async () => (await import("./fuse.ts")).runFuse)),
  schema.pipe(doing(async () => (await import("./schema.ts")).schema)),
  generate.pipe(doing(async () => (await import("./generate.ts")).runGenerate)),
  serving.pipe(doing(async () => (await import("./serve.ts")).runServe)),
  memfree.pipe(doing(async () => (await import("./memfree.ts")).runMemfree)),
  evaluate.pipe(doing(async () => (await import("./evaluate.ts")).runEvaluate)),
  completing.pipe(doing(async () => (await import("./completions.ts")).runCompletions))
] as const
