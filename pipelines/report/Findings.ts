/** What reports of experiments over seeds have in common. Pure. */
import * as Schema from "effect/Schema"

/** A number that may be undefined: NaN, of a share of nothing; null in JSON. */
export const Real = Schema.transform(Schema.NullOr(Schema.Number), Schema.Number, {
  strict: true,
  decode: (value) => value ?? NaN,
  encode: (value) => Number.isFinite(value) ? value : null
})

/** A number over seeds: its mean, and its 95 % interval (Student's t). */
export const Estimate = Schema.Struct({
  /** Over the seeds that have it. */
  mean: Real,
  /** Lower end of the 95 % interval (Student's t); absent where there are fewer than 2 seeds. */
  low: Schema.optionalWith(Real, { exact: true }),
  /** Upper end of it. */
  high: Schema.optionalWith(Real, { exact: true }),
  /** One value a seed, in the order of `seeds`; null where the seed's arm failed or has no such number. */
  values: Schema.Array(Schema.NullOr(Schema.Number))
}).annotations({ identifier: "Estimate" })
export interface Estimate extends Schema.Schema.Type<typeof Estimate> {}

/** A claim of the papers, as it went here. */
export const Claim = Schema.Struct({
  /** As in the list of pipelines/README.md. */
  number: Schema.Number,
  /** In a sentence. */
  claim: Schema.String,
  /** How it went here. */
  result: Schema.Literal("held", "did not hold", "not decided", "not tested"),
  /** The numbers it rests on, in words. */
  evidence: Schema.String
})
export interface Claim extends Schema.Schema.Type<typeof Claim> {}

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
