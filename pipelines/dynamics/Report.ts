/**
 * What forgetting dynamics found: the type that the pipeline, its renderers and the command line share, and the schema of
 * `report.json`. Losses are nats a token, rates are shares from 0 to 1, times are optimizer steps.
 */
import * as Schema from "effect/Schema"
import { Claim } from "../report/Claim.ts"
import { Estimate, Real } from "../report/Estimate.ts"
import { Failure } from "../report/Failure.ts"

export { Claim, Estimate, Failure }

/** Which sinks are on. A model without sinks has `own` alone, which is the whole model. */
export const MaskState = Schema.Literal("own", "off", "placebo", "all")
export type MaskState = typeof MaskState.Type

/** What an arm cost. */
export const ArmCost = Schema.Struct({
  /** Of the arm. */
  name: Schema.String,
  /** In words: what it is. */
  title: Schema.String,
  /** All that the model holds. */
  parameters: Schema.Number,
  /** Those that a token goes through. */
  activeParameters: Schema.Number,
  /** Of training, without probes; absent for a run that was only replayed. */
  seconds: Schema.optionalWith(Estimate, { exact: true }),
  /** Spent probing. */
  probeSeconds: Schema.optionalWith(Estimate, { exact: true })
})
export interface ArmCost extends Schema.Schema.Type<typeof ArmCost> {}

/** A set of sequences that are shown, and probed, alike. */
export const Group = Schema.Struct({
  /** `sawtooth`, `k=48`, `massed`, `background`, `foils`, ... */
  name: Schema.String,
  /** In words: how often, when. */
  title: Schema.String,
  /** How many. */
  sequences: Schema.Number,
  /** Of each, over the whole run; 0: never trained on. */
  exposures: Schema.Number,
  /** Steps between the exposures of one sequence, on average; absent for fewer than 2. */
  every: Schema.optionalWith(Schema.Number, { exact: true }),
  /** Steps taken when the last of its sequences was shown for the last time; absent for one that is never shown. */
  lastShown: Schema.optionalWith(Schema.Number, { exact: true }),
  /** Whether it is left alone long enough before the run ends that its forgetting is a curve. */
  withheld: Schema.Boolean
})
export interface Group extends Schema.Schema.Type<typeof Group> {}

/** Mean loss of a group along training. */
export const Curve = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Of the group. */
  group: Schema.String,
  /** Which sinks are on. */
  mask: MaskState,
  /** Along training. */
  points: Schema.Array(Schema.Struct({
    /** Steps taken. */
    step: Schema.Number,
    /** Mean over its sequences. */
    loss: Estimate
  }))
})
export interface Curve extends Schema.Schema.Type<typeof Curve> {}

/** Experiment 1: what each exposure of a sequence adds, and what is lost until the next (MemSinks, figure 7). */
export const SawTooth = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Of the group. */
  group: Schema.String,
  /** Which sinks are on. */
  mask: MaskState,
  /** One an exposure, means over the group's sequences. */
  teeth: Schema.Array(Schema.Struct({
    /** Counted from 1. */
    exposure: Schema.Number,
    /** Steps taken before it, on average over the sequences. */
    step: Schema.Number,
    /** Loss just before the step that shows the sequence. */
    before: Estimate,
    /** Loss just after it. */
    after: Estimate,
    /** Lowest loss until the next exposure: with momentum it comes some steps later. */
    lowest: Estimate,
    /** What the exposure took off the loss: before - lowest. */
    amplitude: Estimate,
    /** What came back until the next exposure: its before - this lowest; absent at the last. */
    decay: Schema.optionalWith(Estimate, { exact: true })
  })),
  /** Means over the last third of the exposures. */
  late: Schema.Struct({
    /** Loss just before the step that shows the sequence. */
    before: Estimate,
    /** Loss just after it. */
    after: Estimate,
    /** Lowest loss until the next exposure. */
    lowest: Estimate,
    /** What an exposure took off the loss: before - lowest. */
    amplitude: Estimate,
    /** What came back until the next exposure. */
    decay: Estimate
  })
})
export interface SawTooth extends Schema.Schema.Type<typeof SawTooth> {}

/** A time until something happens; null where it lies beyond what was observed. */
const Time = Schema.Struct({
  /** The estimate. */
  value: Schema.NullOr(Schema.Number),
  /** Lower end of the 95 % interval, by resampling sequences and, from two on, seeds. */
  low: Schema.NullOr(Schema.Number),
  /** Upper end of it. */
  high: Schema.NullOr(Schema.Number)
})
export type Time = typeof Time.Type

/** What is left of a memory as it ages: memory(t) = b + a f(t / tau), with f an exponential or (1 + t / tau)^-psi. */
export const Fit = Schema.Struct({
  /** The law with the lower AIC. */
  law: Schema.Literal("exponential", "power"),
  /** Corrected for few points (AICc), of each law. */
  aic: Schema.Struct({
    /** Of the exponential. */
    exponential: Real,
    /** Of the power law. */
    power: Real
  }),
  /** Steps. */
  tau: Real,
  /** Of the power law. */
  psi: Schema.optionalWith(Real, { exact: true }),
  /** Memory at t = 0, nats. */
  initial: Real,
  /** b / (a + b): the share that is never forgotten, as far as the curve says. */
  residual: Schema.Struct({
    /** The estimate. */
    value: Real,
    /** Lower end of the 95 % interval, by resampling sequences and, from two on, seeds. */
    low: Real,
    /** Upper end of it. */
    high: Real
  }),
  /** Steps until half of the memory at t = 0 is left; null: not within the steps that were observed. */
  halfLife: Time,
  /** Root mean square error, nats. */
  rmse: Real,
  /** Steps after the last exposure that were observed. */
  observed: Schema.Number
})
export interface Fit extends Schema.Schema.Type<typeof Fit> {}

/** Experiment 2: what is left of a sequence's memory after its last exposure. */
export const Retention = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Of the group. */
  group: Schema.String,
  /** Which sinks are on. */
  mask: MaskState,
  /** As it ages. */
  points: Schema.Array(Schema.Struct({
    /** Steps since the last exposure. */
    since: Schema.Number,
    /** Mean over its sequences. */
    loss: Estimate,
    /** Loss of the foils, never trained on, minus that of the sequences, at the same step in the same state. */
    memory: Estimate,
    /** Share of pairs in which the sequence has a lower loss than its foil (two-alternative forced choice). */
    recognition: Estimate,
    /** The same with foils by rule, by their kinds: `synonyms`; of the sequences that have one. */
    foils: Schema.optionalWith(Schema.Record({ key: Schema.String, value: Estimate }), { exact: true }),
    /** Share of tokens after the prompt that are the likeliest, given the true ones before them. */
    recall: Estimate,
    /** Share of sequences whose tokens after the prompt are all said greedily. */
    verbatim: Estimate,
    /** Mean of log(1 + rank) of the true token; 0: always the likeliest. */
    logRank: Estimate
  })),
  /** Absent where there was hardly anything to forget. */
  fit: Schema.optionalWith(Fit, { exact: true })
})
export interface Retention extends Schema.Schema.Type<typeof Retention> {}

/** Experiment 3: size of the weights of a part of the model, and how far a step moves them. */
export const Norm = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** -1: not of a layer. */
  layer: Schema.Number,
  /** `general`, `sinks`, `attention`, `embedding`. */
  part: Schema.String,
  /** Along training. */
  points: Schema.Array(Schema.Struct({
    /** Steps taken. */
    step: Schema.Number,
    /** Root mean square of the weights. */
    weight: Estimate,
    /** Root mean square of what the last step changed them by; absent before the first step. */
    update: Schema.optionalWith(Estimate, { exact: true })
  }))
})
export interface Norm extends Schema.Schema.Type<typeof Norm> {}

/**
 * Experiment 3: what a part of the model adds to the logit of the true token, centered on the vocabulary: the residual
 * stream is a sum, so parts add up to the whole exactly, under the final norm's scale.
 */
export const Share = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Of the group. */
  group: Schema.String,
  /** Which sinks are on. */
  mask: MaskState,
  /** -1: not of a layer. */
  layer: Schema.Number,
  /** `embedding`, `attention`, `general`, `sinks`; `logit`, of layer -1: all of them together. */
  part: Schema.String,
  /** Along training. */
  points: Schema.Array(Schema.Struct({
    /** Steps taken. */
    step: Schema.Number,
    /** Mean over the scored tokens. */
    logit: Estimate
  }))
})
export interface Share extends Schema.Schema.Type<typeof Share> {}

/** Experiment 4: how the gradient of other data's batches lies to that of a memorized sequence. */
export const Interference = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** `all`, `general`, `sinks`, `attention`, `embedding`. */
  part: Schema.String,
  /** Cosine between the two gradients, mean over probed steps and sequences. */
  cosine: Estimate,
  /** Inner product of the sequence's gradient with the step that was taken: the predicted rise of its loss, nats a step. */
  predicted: Estimate,
  /** Of part `all`: the rise that was observed, nats a step. */
  observed: Schema.optionalWith(Estimate, { exact: true }),
  /** Of part `all`: correlation of the two over steps and sequences. */
  correlation: Schema.optionalWith(Estimate, { exact: true })
})
export interface Interference extends Schema.Schema.Type<typeof Interference> {}

/** Experiment 5, in short: the page of each arm (`sinks-seed-1.html`) has the neurons one by one. */
export const Contents = Schema.Struct({
  /** Of the arm. */
  arm: Schema.String,
  /** Counted from 0. */
  layer: Schema.Number,
  /** `sinks`, `general`, `random`: sinks under the masks of other ids. */
  part: Schema.String,
  /** Neurons looked at. */
  neurons: Schema.Number,
  /** Share of a neuron's top triggers that come from one source, mean over neurons. */
  purity: Estimate,
  /** Of sinks: share of a neuron's top triggers that come from the sequences that own it. */
  owned: Schema.optionalWith(Estimate, { exact: true }),
  /** Share of a neuron's top triggers whose next token is among the ten that it promotes most. */
  agreement: Estimate,
  /** Share of the gradient of memorized sequences that lies in the part, and of held-out ones (sum of absolute values). */
  gradientMass: Schema.optionalWith(
    Schema.Struct({
      /** Of memorized sequences. */
      memorized: Estimate,
      /** Of held-out ones. */
      heldOut: Estimate
    }),
    { exact: true }
  )
})
export interface Contents extends Schema.Schema.Type<typeof Contents> {}

/** Everything that was found. */
export const DynamicsReport = Schema.Struct({
  /** Of this schema. */
  format: Schema.Literal(1),
  /** What was probed: a training of this pipeline, or checkpoints of another one. */
  from: Schema.optionalWith(Schema.String, { exact: true }),
  /** What each arm cost. */
  arms: Schema.Array(ArmCost),
  /** What is shown, or probed, alike. */
  groups: Schema.Array(Group),
  /** Of a training. */
  steps: Schema.Number,
  /** Trained on in a step. */
  tokensPerStep: Schema.Number,
  /** Losses along training. */
  curves: Schema.Array(Curve),
  /** What exposures add, and what is lost between them. */
  sawTeeth: Schema.Array(SawTooth),
  /** What is left after the last exposure. */
  retention: Schema.Array(Retention),
  /** Sizes of weights and steps. */
  norms: Schema.Array(Norm),
  /** What parts of the model add to the logit of the true token. */
  shares: Schema.Array(Share),
  /** What other data's gradients do to a memory. */
  interference: Schema.Array(Interference),
  /** What single sinks hold. */
  contents: Schema.Array(Contents),
  /** The claims of the papers, as they went here. */
  claims: Schema.Array(Claim),
  /** What a reader should know before believing the numbers. */
  warnings: Schema.Array(Schema.String),
  /** Arms that failed. */
  failures: Schema.Array(Failure),
  /** Of data order and initial weights. */
  seeds: Schema.Array(Schema.Number),
  /** What the sequences are. */
  data: Schema.Struct({
    /** Of the tokenizer. */
    vocabSize: Schema.Number,
    /** Tokens of a row. */
    seqLen: Schema.Number,
    /** Tokens given before recall and verbatim count. */
    promptTokens: Schema.Number
  }),
  /** GPU. */
  adapter: Schema.String,
  /** Of the whole run in this process. */
  seconds: Schema.Number,
  /** Everything that was configured, so that the run can be repeated. */
  config: Schema.Unknown,
  /** What ran it: memsinks, runtime, webgpu. */
  versions: Schema.Record({ key: Schema.String, value: Schema.String })
})
/** Everything that was found; losses are nats a token. */
export interface DynamicsReport extends Schema.Schema.Type<typeof DynamicsReport> {}
