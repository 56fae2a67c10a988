/**
 * A study is a value: a question of one paper, what is computed to ask it once more in miniature, and what is found of it.
 * It says nothing of folders, stores, seeds in turn or reports: `pipelines/study.ts` runs it as an experiment.
 */
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { MOST_SEEDS, seed, upTo, withDefault } from "../../src/Config.ts"
import type { DataConfig } from "../../src/data/stream/DataConfig.ts"
import type { Device } from "../../src/gpu/Device.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Files } from "../experiment/Train.ts"
import type { Chart } from "../report/Chart.ts"
import type { Outcome } from "../report/Claim.ts"
import { type Estimate, estimate, type Kind, type Spread } from "../report/Estimate.ts"
import type { Table, Term } from "../report/View.ts"

/** Fields that the configuration of every study has. */
export const seedsOfStudy = {
  /** The first seed: of the world, of weights and of their order. Default 1. */
  seed: withDefault(seed, 1),
  /** How many seeds to run. Default 3. */
  seeds: withDefault(upTo(MOST_SEEDS), 3)
}

export interface Seeded {
  readonly seed: number
  readonly seeds: number
}

/** What a claim of a study is about: what the paper found, what sinks change about it, or whether the world can tell at all. */
export const About = Schema.Literal("paper", "sinks", "control")
export type About = typeof About.Type

/** A sentence that was decided by intervals. */
export interface Finding extends Outcome {
  readonly about: About
  /** In a sentence, which may be false. */
  readonly claim: string
}

/** What a study makes of its seeds. */
export interface Findings {
  /** Those of the paper decide the verdict: held where all of them held, not held where one did not. */
  readonly claims: ReadonlyArray<Finding>
  /** What the claims rest on, and else is worth keeping, by names: `slope in d, thresholded`. */
  readonly numbers: Readonly<Record<string, Estimate>>
  /** The paper's figure first. */
  readonly charts: ReadonlyArray<Chart>
  readonly tables: ReadonlyArray<Table>
  readonly terms?: ReadonlyArray<Term>
  /** What it does not say, a sentence each. */
  readonly limits: ReadonlyArray<string>
}

/** What a part of a study is asked. */
export interface PartOf<Config> {
  readonly config: Config
  readonly part: string
  readonly seed: number
}

/** What was found of all parts with all seeds, but for those that failed. */
export interface Results<Found> {
  readonly seeds: ReadonlyArray<number>
  readonly of: (part: string, seed: number) => Found | undefined
  /** A number over the seeds; `spread`: of one that is of sequences, how many. Seeds without it do not count. */
  readonly over: (
    part: string,
    value: (found: Found) => number | undefined,
    options?: { readonly kind?: Kind; readonly spread?: (found: Found) => Spread | undefined }
  ) => Estimate
}

export interface Study<Config extends Seeded, Found> {
  /** As `memsinks study NAME` has it: small letters and capitals, no spaces. */
  readonly name: string
  readonly title: string
  /** Authors, year and title. */
  readonly paper: string
  readonly question: string
  /** What the paper found, in a sentence. */
  readonly finding: string
  /** Of the quick preset on two cores, and of the full one: `half a minute; full: 10 minutes`. */
  readonly cost: string
  /** Raise it when the same configuration gives other values: what was kept is computed anew. */
  readonly version: number
  readonly schema: Schema.Schema<Config, any>
  readonly presets: { readonly quick: Config; readonly full: Config }
  /** Whether no device is needed. Default false. */
  readonly onHost?: boolean
  /** What is wrong with a configuration that its schema cannot tell, and how much is needed; undefined: nothing. */
  readonly problem?: (config: Config) => string | undefined
  /** Text or tokens that a seed reads: recorded, and verified before anything is made of them. Default: none. */
  readonly data?: (config: Config, seed: number) => ReadonlyArray<DataConfig>
  /** What a seed is made of: jobs of their own, each kept when it is done. Default: one, `all`. */
  readonly parts?: (config: Config) => ReadonlyArray<string>
  /**
   * Computes a part: plain data in, plain data out, which JSON can hold. On the host with `inTurns` of src/Turns.ts; models
   * with `train` of train.ts.
   */
  readonly work: (of: PartOf<Config>, at: Workplace) => Effect.Effect<Found, TrainError, Device | Files>
  readonly findings: (results: Results<Found>, config: Config) => Findings
}

/** A study, whatever its configuration and what it finds. */
export type AnyStudy = Study<any, any>

/** Checks the types of a study. */
export const study = <Config extends Seeded, Found>(of: Study<Config, Found>): Study<Config, Found> => of

/** The part of a study that is not divided. */
export const ALL = "all"

export const partsOf = <Config extends Seeded>({ parts }: Study<Config, any>, config: Config): ReadonlyArray<string> =>
  parts?.(config) ?? [ALL]

export const seedsOf = ({ seed, seeds }: Seeded): ReadonlyArray<number> =>
  Array.from({ length: seeds }, (_, i) => seed + i)

/** What was found, ready to be summed up. */
export const resultsOf = <Found>(
  seeds: ReadonlyArray<number>,
  found: ReadonlyArray<{ readonly part: string; readonly seed: number; readonly found: Found }>
): Results<Found> => {
  const of = (part: string, seed: number) => found.find((one) => one.part === part && one.seed === seed)?.found
  return {
    seeds,
    of,
    over: (part, value, { kind, spread } = {}) => {
      const all = seeds.map((seed) => of(part, seed))
      return estimate(all.map((one) => one === undefined ? undefined : value(one)), {
        ...(kind === undefined ? {} : { kind }),
        ...(spread === undefined ? {} : { spreads: all.map((one) => one === undefined ? undefined : spread(one)) })
      })
    }
  }
}
