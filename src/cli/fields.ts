/** Which fields a configuration has, so that a word that names none can be told which was meant. */
import * as Schema from "effect/Schema"
import { DynamicsConfig } from "../../pipelines/dynamics/Config.ts"
import { IsolateConfig } from "../../pipelines/isolation/Config.ts"
import { PretrainConfig } from "../../pipelines/pretrain.ts"
import { studies } from "../../pipelines/studies/index.ts"
import { StudiesConfig } from "../../pipelines/study.ts"
import { SweepConfig } from "../../pipelines/sweep/Config.ts"
import { pathsOf } from "../Config.ts"

const schemas = { pretrain: PretrainConfig, plan: PretrainConfig, isolate: IsolateConfig, dynamics: DynamicsConfig,
  sweep: SweepConfig, study: Schema.Union(StudiesConfig, ...studies.map(({ schema }) => schema)) }

/** The fields of a command's configuration, by their paths. */
export const fields = (command: keyof typeof schemas): ReadonlyArray<string> => pathsOf(schemas[command])
