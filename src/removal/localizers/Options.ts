/** Options of localizers, with the defaults of the papers. */
import type { SinkMode } from "../../Sink.ts"

export interface ActivationsOptions {
  /** `absolute` (default, the paper's text): mean of |h|. `signed` (the authors' code): |mean of h| over a suffix. */
  readonly mean?: "absolute" | "signed"
}

export interface IntegratedGradientsOptions {
  /** Steps from silent to as they are. Default 16 (MemSinks; Chang et al. take 20). */
  readonly steps?: number
}

export interface SlimmingOptions {
  /**
   * Weight of the mean |coefficient| over all neurons of all layers, against the suffix loss in nats. Because it is a
   * mean, each neuron is pulled with lambda / neurons: the default is the paper's pull (30,000 for the 327,680 neurons
   * of Pythia 2.8B), 0.0916 times the neurons there are.
   */
  readonly lambda?: number
  /** Of Adam. Default 0.01. */
  readonly learningRate?: number
  /** Default 60. */
  readonly steps?: number
  /** Learning ends when the mean |coefficient| is below this. Default 0.4. */
  readonly stopBelow?: number
}

export interface HardConcreteOptions {
  /**
   * Weight of the mean probability that a neuron is kept, against the suffix loss in nats. Because it is a mean, each
   * neuron is pulled with lambda / neurons: the default is the paper's pull (2,000 for the 327,680 neurons of Pythia
   * 2.8B), 0.0061 times the neurons there are.
   */
  readonly lambda?: number
  /** Of Adam. Default 0.01, the largest of the paper's grid. */
  readonly learningRate?: number
  /** Default 400. */
  readonly steps?: number
  /** Learning ends when the mean probability to be kept is below this. Default 0.1. */
  readonly stopBelow?: number
  /** beta: how soft the draws are. Default 0.33. */
  readonly temperature?: number
  /** Where a mask begins when its draw is in the middle. Default 0.9. */
  readonly keep?: number
}

/** What all localizers take, and what each takes for itself, under its name. */
export interface LocalizeOptions {
  /** Tokens a row of a batch has; a sequence has at most one more. */
  readonly seqLen: number
  /** Tokens of a sequence that are given, at least 1 (the paper: 32). What follows is the suffix, one token or more. */
  readonly promptTokens: number
  /** Rows a pass computes at once. */
  readonly batchSize: number
  /** Seed of all that is drawn: two calls with the same seed give the same scores. */
  readonly seed: number
  /** Sinks that are on. Default: each sequence's own. */
  readonly mode?: SinkMode
  readonly activations?: ActivationsOptions
  readonly integratedGradients?: IntegratedGradientsOptions
  readonly slimming?: SlimmingOptions
  readonly hardConcrete?: HardConcreteOptions
}
