/**
 * What the isolation checks found: the type that the harness, its renderers and the command line share, and the schema
 * of `report.json`. Losses are nats a token, rates are shares from 0 to 1. JSON has no NaN: there it is null.
 */
import * as Schema from "effect/Schema"
import { Claim } from "../report/Claim.ts"
import { Estimate, Real } from "../report/Estimate.ts"
import { Failure } from "../report/Failure.ts"

export { Claim, Estimate, Failure }

const strings = Schema.Array(Schema.String)

/** The head of the report. */
export const Word = Schema.Literal("isolated", "hidden", "not isolated", "undecided")
export type Word = typeof Word.Type

/** What a set of sequences is: natural repeated text, random tokens, or text of another domain. */
export const Panel = Schema.Literal("natural", "canary", "other")
export type Panel = typeof Panel.Type

/**
 * Which neurons are on. Of a model without sinks only `own`, which is the whole model. `calibrated`: off, with one bias
 * a vocabulary entry fitted first, so that a model is not taken for forgetful because its output is off balance.
 */
export const MaskState = Schema.Literal("own", "all", "off", "calibrated", "placebo", "placeboOff", "pruned")
export type MaskState = typeof MaskState.Type

const Kind = Schema.Literal("trained", "localizer", "unlearner")

/** Which sequences a metric is of: those of a panel, or held-out ones. */
export const Group = Schema.Literal("natural", "canary", "other", "heldOut")
export type Group = typeof Group.Type

/** A metric of a group of sequences: what numbers are found by, here and in every calculation. */
const keyFields = {
  /** Whose sequences: those of a panel, or held-out ones. */
  group: Group,
  /** What of them: see `metrics` of the report. */
  metric: Schema.String,
  /** Of a metric that is taken after so many tokens of context, which it is. */
  context: Schema.optionalWith(Schema.Number, { exact: true })
}
export const MetricKey = Schema.Struct(keyFields)
export interface MetricKey extends Schema.Schema.Type<typeof MetricKey> {}

/** A model in a mask state. */
export const Subject = Schema.Struct({
  /** `standard`, `sinks`, ..., or of a post-hoc method its name: `npo`, `integratedGradients`. */
  arm: Schema.String,
  /** Trained like this, or made of the trained standard model. */
  kind: Kind,
  /** Which neurons are on; of a model without sinks only `own`, which is the whole model. */
  state: MaskState,
  /** Of post-hoc methods the point of the sweep that was chosen, on data that is not scored: `fraction 0.02`. */
  setting: Schema.optionalWith(Schema.String, { exact: true }),
  /** All that was measured of it. */
  metrics: Schema.Array(Schema.Struct({
    ...keyFields,
    /** Over the seeds. */
    value: Estimate,
    /** As recovery: 1 = as memorized as the standard model, 0 = as if never repeated; not of held-out sequences. */
    recovery: Schema.optionalWith(Estimate, { exact: true })
  }))
})
export interface Subject extends Schema.Schema.Type<typeof Subject> {}

export const Metric = Schema.Struct({
  /** As it is called wherever it is measured. */
  metric: Schema.String,
  /** Of one that is taken after so many tokens of context, which it is. */
  context: Schema.optionalWith(Schema.Number, { exact: true }),
  /** In words, with its source. */
  title: Schema.String,
  /** What it is counted in. */
  unit: Schema.Literal("nats", "share", "tokens", "ratio"),
  /** Whether more of it means more memory. */
  memory: Schema.Literal("higher", "lower"),
  /** Of what an attack measures: which, as the configuration calls it. */
  attack: Schema.optionalWith(Schema.String, { exact: true })
})
export interface Metric extends Schema.Schema.Type<typeof Metric> {}

/** An attack that was tried on the models. */
export const Attack = Schema.Struct({
  /** As the configuration calls it; its metrics' names begin with it. */
  name: Schema.String,
  /** Which attack. */
  attack: Schema.String,
  /** In a few words. */
  title: Schema.String,
  /** Where it is from. */
  paper: Schema.String,
  /** How it was tried, every default spelled out. */
  options: Schema.Unknown,
  /** Whether what it got out of each model after removal, by the first of its metrics, is what it gets out of the oracle. */
  left: Schema.Array(Schema.Struct({
    /** Of the arm or the method. */
    arm: Schema.String,
    /** The state of the sinks after removal. */
    state: MaskState,
    /** Of the attack. */
    metric: Schema.String,
    /** After removal. */
    value: Estimate,
    /** The same of the oracle. */
    oracle: Estimate,
    /** `hidden`: more, by the gate's bound of recovery; `removed`: no more; or undecided. */
    result: Schema.Literal("hidden", "removed", "undecided")
  }))
})
export interface Attack extends Schema.Schema.Type<typeof Attack> {}

/** How a variant differs from the arm that it is one of, in what claims are about. */
export const Variant = Schema.Struct({
  /** That it is a variant of. */
  arm: Schema.String,
  /** Share of the pool that an id lights, where the variant has sinks of its own. */
  share: Schema.optionalWith(Schema.Number, { exact: true }),
  /** Probability that an exposure carries a fresh id, where it has one of its own. */
  idNoise: Schema.optionalWith(Schema.Number, { exact: true }),
  /** Width of the model, where it has one of its own. */
  hiddenSize: Schema.optionalWith(Schema.Number, { exact: true })
})
export interface Variant extends Schema.Schema.Type<typeof Variant> {}

/** What an arm cost. */
export const ArmCost = Schema.Struct({
  /** Of the arm or the method. */
  name: Schema.String,
  /** What is different about a variant of an arm; absent where it is none. */
  variant: Schema.optionalWith(Variant, { exact: true }),
  /** Trained like this, or made of the trained standard model. */
  kind: Kind,
  /** In words: what it is. */
  title: Schema.String,
  /** All that the model holds. */
  parameters: Schema.Number,
  /** Those that a token goes through. */
  activeParameters: Schema.Number,
  /** Of training. */
  steps: Schema.Number,
  /** Tokens trained on, with every pass that its method takes. */
  tokens: Schema.Number,
  /** Of training, without evaluation. */
  seconds: Estimate,
  /** Of training. */
  tokensPerSecond: Estimate,
  /** Of a method after training: settings that the stopping rule chose among, in each seed. */
  settings: Schema.optionalWith(Schema.Number, { exact: true })
})
export interface ArmCost extends Schema.Schema.Type<typeof ArmCost> {}

/** F1. */
export const LearningCurve = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** `repeated.own`, `repeated.off`, `heldOut.own`, `heldOut.off`, `train`. */
  series: Schema.String,
  /** Along training. */
  points: Schema.Array(Schema.Struct({
    /** Updates so far. */
    step: Schema.Number,
    /** Trained on so far. */
    tokens: Schema.Number,
    /** Nats a token. */
    loss: Estimate
  }))
})
export interface LearningCurve extends Schema.Schema.Type<typeof LearningCurve> {}

/** F2: forgetting against degradation (MemSinks, section 4), a curve for each sweep and a point for each other arm. */
export const Tradeoff = Schema.Struct({
  /** Of the arm or the method. */
  arm: Schema.String,
  /** Whose forgetting it is. */
  panel: Panel,
  /** In the order of the sweep; of an arm one. */
  points: Schema.Array(Schema.Struct({
    /** Where in the sweep: `fraction 0.02`, `step 32`. */
    setting: Schema.String,
    /** The setting of the method that it is a point of, where it has several. */
    series: Schema.optionalWith(Schema.String, { exact: true }),
    /** Held-out loss minus the standard model's: the lower the better. */
    degradation: Estimate,
    /** Loss on the repeated sequences minus the standard model's: the higher the more is forgotten. */
    forgetting: Estimate,
    /** Whether it is the one that the stopping rule chose. */
    chosen: Schema.Boolean
  }))
})
export interface Tradeoff extends Schema.Schema.Type<typeof Tradeoff> {}

/** F3. */
export const ExtractionCurve = Schema.Struct({
  /** Of the arm or the method. */
  arm: Schema.String,
  /** Which neurons are on. */
  state: MaskState,
  /** What is extracted. */
  panel: Panel,
  /** What changes along x: exposures, or tokens of context. */
  by: Schema.Literal("repeats", "context"),
  /** See `metrics` of the report. */
  metric: Schema.String,
  /** Tokens of context, where not they change. */
  context: Schema.optionalWith(Schema.Number, { exact: true }),
  /** Tokens that must follow, where it is not all the rest. */
  length: Schema.optionalWith(Schema.Number, { exact: true }),
  /** From left to right. */
  points: Schema.Array(Schema.Struct({
    /** Exposures, or tokens of context. */
    x: Schema.Number,
    /** Of the metric. */
    value: Estimate
  })),
  /** Of `repeats`: value = intercept + slope log2(repeats), over all seeds. */
  fit: Schema.optionalWith(
    Schema.Struct({
      /** What a doubling of exposures adds. */
      slope: Real,
      /** At a single exposure. */
      intercept: Real,
      /** Share of the variance that the line explains. */
      r2: Real,
      /** Lower end of the slope's 95 % interval. */
      slopeLow: Real,
      /** Upper end of it. */
      slopeHigh: Real
    }),
    { exact: true }
  )
})
export interface ExtractionCurve extends Schema.Schema.Type<typeof ExtractionCurve> {}

/** F6: fine-tuning on half of the removed sequences, and what comes back of the other half. */
export const Relearning = Schema.Struct({
  /** Of the arm or the method. */
  arm: Schema.String,
  /** Which neurons are on. */
  state: MaskState,
  /** Of each learning rate in turn, from step 0. */
  points: Schema.Array(Schema.Struct({
    /** Of fine-tuning. */
    learningRate: Schema.Number,
    /** Updates of fine-tuning. */
    step: Schema.Number,
    /** Loss of the half that is trained on. */
    seen: Estimate,
    /** Loss of the other half. */
    scored: Estimate,
    /** Loss of held-out sequences. */
    heldOut: Estimate
  })),
  /** Steps until the other half is back, at the worst learning rate; null in a seed where the budget does not do. */
  steps: Schema.Array(Schema.NullOr(Schema.Number)),
  /** The most of the memory of the other half that came back at any step and rate, as recovery. */
  recovered: Estimate,
  /** Those steps over the oracle's, the budget standing for "not within it"; 1 = as slow as never trained. */
  ratio: Estimate
})
export interface Relearning extends Schema.Schema.Type<typeof Relearning> {}

/** T2: what other sequences' sinks do to a sequence. */
export const Interference = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Own sinks and those of so many others. */
  ladder: Schema.Array(Schema.Struct({
    /** Ids whose sinks are on besides the sequence's own. */
    others: Schema.Number,
    /** Of the repeated sequences. */
    loss: Estimate
  })),
  /** What sinks that are on take off the loss of the repeated sequences, against all off. */
  sliceContent: Schema.Struct({
    /** loss(off) - loss(own). */
    own: Estimate,
    /** loss(off) - loss(placebo). */
    placebo: Estimate
  }),
  /**
   * The largest change, of any sequence, of the loss with own sinks on when as many random other ones are switched off:
   * should be 0 of each, so it is no mean.
   */
  placeboOff: Estimate,
  /** What deleting one id adds to the loss of the other repeated sequences. */
  deletion: Schema.Struct({
    /** Over ids and sequences. */
    mean: Estimate,
    /** Of the sequence that suffers most. */
    worst: Estimate
  }),
  /** Share of the memory that is left with sinks off: recovery of the loss. */
  leakage: Estimate
})
export interface Interference extends Schema.Schema.Type<typeof Interference> {}

/** T3. */
export const Hygiene = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Whose model was checked. */
  seed: Schema.Number,
  /** What was checked. */
  checks: Schema.Array(Schema.Struct({
    /** What must hold. */
    name: Schema.String,
    /** Whether it does. */
    passed: Schema.Boolean,
    /** What was found. */
    value: Real,
    /** What is allowed. */
    bound: Schema.Union(Real, Schema.String),
    /** In words. */
    detail: Schema.String
  }))
})
export interface Hygiene extends Schema.Schema.Type<typeof Hygiene> {}

/** How well a localizer finds the sinks that an id was given (no published tool knows them). */
export const LocalizerRecall = Schema.Struct({
  /** Of the method. */
  localizer: Schema.String,
  /** Whose sinks were looked for. */
  arm: Schema.String,
  /** Share of the ids' own sinks among the neurons ranked highest, as many as there are. */
  recall: Estimate,
  /** What chance gives. */
  chance: Schema.Number
})
export interface LocalizerRecall extends Schema.Schema.Type<typeof LocalizerRecall> {}

export const GateCheck = Schema.Struct({
  /** In words: `recovery of natural.extractionStrength`. */
  name: Schema.String,
  /** Of a check of memory: by which metric. */
  of: Schema.optionalWith(MetricKey, { exact: true }),
  /** Whether the bound is kept: by the whole interval, by nothing of it, or undecided. */
  result: Schema.Literal("pass", "fail", "undecided"),
  /** What was measured. */
  value: Estimate,
  /** `at most 0.2`. */
  bound: Schema.String,
  /** What the verdict is where it fails. */
  otherwise: Schema.Literal("hidden", "not isolated"),
  /** Where it is undecided, about how many seeds in all would decide it; null where that is not known. */
  seeds: Schema.optionalWith(Real, { exact: true })
})
export interface GateCheck extends Schema.Schema.Type<typeof GateCheck> {}

/** The verdict on one arm. */
export const Verdict = Schema.Struct({
  /** Of the arm or the method. */
  arm: Schema.String,
  /** Isolated, hidden, not isolated or undecided. */
  word: Word,
  /** The check that decided it, or that must be decided first, in a sentence. */
  decidedBy: Schema.String,
  /** In the order in which they decide. */
  checks: Schema.Array(GateCheck),
  /** Checks that there was no data for. */
  notRun: Schema.optionalWith(strings, { exact: true })
})
export interface Verdict extends Schema.Schema.Type<typeof Verdict> {}

/** A result of the theory, simulated; see src/measures/Theory.ts. */
const Simulation = Schema.Struct({
  /** Of the result. */
  name: Schema.String,
  /** The result in one sentence. */
  claim: Schema.String,
  /** The constants that the inequalities are about. */
  constants: Schema.Record({ key: Schema.String, value: Real }),
  /** Columns of one length, with a row a step. */
  trace: Schema.Record({ key: Schema.String, value: Schema.Array(Real) }),
  /** What the result says, checked wherever it is claimed. */
  inequalities: Schema.Array(Schema.Struct({
    /** Which is at least what. */
    name: Schema.String,
    /** Wherever it was checked. */
    holds: Schema.Boolean,
    /** How many times it was checked: never 0. */
    checked: Schema.Number,
    /** The least by which it held; below 0 it failed. */
    slack: Real,
    /** The step at which it failed first. */
    failedAt: Schema.optional(Schema.Number)
  })),
  /** Whether all inequalities held at every step. */
  holds: Schema.Boolean
})

/** What `report.json` of an isolation experiment holds; losses are nats a token. */
export const IsolationReport = Schema.Struct({
  /** Version of this format: in 1 metrics were fields with joined names, `natural.np@16`. */
  format: Schema.Literal(2),
  /** The arm that the head speaks of. */
  subject: Schema.String,
  /** The verdict on it. */
  word: Word,
  /** The check that decided it, in a sentence. */
  decidedBy: Schema.String,
  /** On every arm that can be judged. */
  verdicts: Schema.Array(Verdict),
  /** What the metrics mean. */
  metrics: Schema.Array(Metric),
  /** Attacks that were tried; absent: none. Their values are among the metrics of `subjects`, group `natural` or, of held-out ones, `heldOut`. */
  attacks: Schema.optionalWith(Schema.Array(Attack), { exact: true }),
  /** Every model in every mask state, with all that was measured of it (T1). */
  subjects: Schema.Array(Subject),
  /** What each arm cost. */
  arms: Schema.Array(ArmCost),
  /** Losses along training (F1). */
  curves: Schema.Array(LearningCurve),
  /** Forgetting against degradation (F2). */
  tradeoffs: Schema.Array(Tradeoff),
  /** Extraction against repeats and context (F3). */
  extraction: Schema.Array(ExtractionCurve),
  /** What comes back by fine-tuning (F6). */
  relearning: Schema.Array(Relearning),
  /** What other sequences' sinks do (T2). */
  interference: Schema.Array(Interference),
  /** What must hold exactly (T3). */
  hygiene: Schema.Array(Hygiene),
  /** How well localizers find the sinks. */
  localizers: Schema.Array(LocalizerRecall),
  /** Results of the theory, simulated. */
  theory: Schema.Array(Simulation),
  /** The claims of the papers, as they went here. */
  claims: Schema.Array(Claim),
  /** What a reader should know before believing the numbers. */
  warnings: strings,
  /** Arms that failed. */
  failures: Schema.Array(Failure),
  /** Of data order and initial weights. */
  seeds: Schema.Array(Schema.Number),
  /** What was trained on and scored. */
  data: Schema.Struct({
    /** The kind of world: `text`, `twoDomains`, `modular`. */
    world: Schema.String,
    /** A seed and arm. */
    trainedTokens: Schema.Number,
    /** Of the tokenizer. */
    vocabSize: Schema.Number,
    /** Tokens of a row. */
    seqLen: Schema.Number,
    /** Sequences of each split. */
    splits: Schema.Record({ key: Schema.String, value: Schema.Number }),
    /** Sequences left out because a near-duplicate is in another split. */
    dropped: Schema.Number,
    /** Exposures of the repeated sequences: how many sequences have how many. */
    repeats: Schema.Array(Schema.Struct({
      /** So many sequences. */
      sequences: Schema.Number,
      /** So many times each. */
      exposures: Schema.Number
    }))
  }),
  /** The adapter that computed it. */
  adapter: Schema.String,
  /** In all. */
  seconds: Schema.Number,
  /** The whole configuration. */
  config: Schema.Unknown,
  /** Of this package and what it runs on. */
  versions: Schema.Record({ key: Schema.String, value: Schema.String })
})
/** What `report.json` of an isolation experiment holds; losses are nats a token. */
export interface IsolationReport extends Schema.Schema.Type<typeof IsolationReport> {}
