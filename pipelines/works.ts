/** What does the jobs of all experiments, by their kinds: all that a worker needs besides a job. */
import { armWork as dynamicsWork } from "./dynamics/Train.ts"
import type { Works } from "./experiment/Worker.ts"
import { attackWork } from "./isolation/Attacks.ts"
import * as Checks from "./isolation/Checks.ts"
import type * as Jobs from "./isolation/Jobs.ts"
import { lookWork } from "./isolation/Look.ts"
import { makeLabs, trainWork } from "./isolation/Models.ts"
import * as PostHoc from "./isolation/PostHoc.ts"
import { sharedArmWork } from "./pretrain/measure.ts"
import { partWork } from "./study.ts"

/** Worlds that a worker keeps: of the seeds of one experiment, as a rule. */
const WORLDS = 8

/** Made once a worker, so that jobs on the same model share what they load. */
export const makeWorks = (): Works => {
  const labs = makeLabs(WORLDS)
  const isolation: { readonly [K in Exclude<Jobs.Kind, "records" | "said">]: Works[string] } = {
    models: trainWork(labs),
    looks: lookWork(labs),
    losses: PostHoc.lossesWork(labs),
    localizers: PostHoc.localizerWork(labs),
    sweeps: PostHoc.localizerSweepWork(labs),
    unlearning: PostHoc.unlearnerWork(labs),
    relearning: Checks.relearnWork(labs),
    hygiene: Checks.hygieneWork(labs),
    interference: Checks.interferenceWork(labs),
    recall: Checks.recallWork(labs),
    attacks: attackWork(labs)
  }
  return { ...isolation, dynamics: dynamicsWork, pretrain: sharedArmWork, studies: partWork() }
}
