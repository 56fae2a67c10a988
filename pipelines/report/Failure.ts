/** What failed in an experiment, as its report tells it. */
import * as Schema from "effect/Schema"

/** An arm that failed in a seed. */
export const Failure = Schema.Struct({
  /** That failed. */
  arm: Schema.String,
  /** In which it failed. */
  seed: Schema.Number,
  /** What went wrong. */
  message: Schema.String,
  /** It is no fault of the arm but of the program. */
  bug: Schema.optionalWith(Schema.Boolean, { exact: true })
})
export interface Failure extends Schema.Schema.Type<typeof Failure> {}
