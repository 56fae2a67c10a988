/** What does the jobs of all experiments, by their kinds: all that a worker needs besides a job. */
import { askWork } from "../../pipelines/audit.ts"
import { armWork as dynamicsWork } from "../../pipelines/dynamics/Train.ts"
import type { Works } from "../../pipelines/experiment/Worker.ts"
import { attackWork } from "../../pipelines/isolation/Attacks.ts"
import * as Checks from "../../pipelines/isolation/Checks.ts"
import type * as Jobs from "../../pipelines/isolation/Jobs.ts"
import { lookWork } from "../../pipelines/isolation/Look.ts"
import { makeLabs, trainWork } from "../../pipelines/isolation/Models.ts"
import * as PostHoc from "../../pipelines/isolation/PostHoc.ts"
import { sharedArmWork } from "../../pipelines/pretrain/measure.ts"
import { partWork } from "../../pipelines/study.ts"

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
  return { ...isolation, dynamics: dynamicsWork, pretrain: sharedArmWork, studies: partWork(), audit: askWork() }
}
