/** The commands: the table of contents. */
import { doctor } from "./commands/doctor.ts"
import { dynamics } from "./commands/dynamics.ts"
import { evaluate } from "./commands/evaluate.ts"
import { exporting } from "./commands/export.ts"
import { generate } from "./commands/generate.ts"
import { identity } from "./commands/identity.ts"
import { importing } from "./commands/import.ts"
import { inspect } from "./commands/inspect.ts"
import { isolate } from "./commands/isolate.ts"
import { plan } from "./commands/plan.ts"
import { pretrain } from "./commands/pretrain.ts"
import { runs } from "./commands/runs.ts"
import { schema } from "./commands/schema.ts"
import { tokenize } from "./commands/tokenize.ts"

/** Every command, in the order in which help lists them. */
export const commands = [
  pretrain,
  isolate,
  dynamics,
  tokenize,
  plan,
  doctor,
  identity,
  runs,
  inspect,
  exporting,
  importing,
  schema,
  generate,
  evaluate
] as const
