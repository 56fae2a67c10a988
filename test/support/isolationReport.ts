/** A made-up isolation report in which every claim holds that can be tested; tests change what they are about. */
import { nameOf } from "../../pipelines/isolation/Metrics.ts"
import type { IsolationReport, LearningCurve, MaskState, MetricKey, Relearning, Subject, Tradeoff,
  Variant } from "../../pipelines/isolation/Report.ts"
import { estimate } from "../../pipelines/report/Estimate.ts"

/** Three seeds around a mean; seeds shift all numbers alike. */
export const around = (mean: number, spread = 0.01) => estimate([mean - spread, mean, mean + spread])

const keys: ReadonlyArray<MetricKey> = (["natural", "canary", "heldOut"] as const).flatMap((group) => [
  ...["loss", "exactMemorization", "extractionStrength", "mia.loss.auc", "mia.loss.tpr"].map((metric) => ({ group,
    metric })
  ),
  { group, metric: "greedy", context: 16 },
  { group, metric: "np", context: 16 }
])

/** The key of a metric that is shown so: `natural.np@16`. */
export const keyNamed = (name: string): MetricKey => keys.find((key) => nameOf(key) === name)!

/** A metric of a model that is there. */
export const metricOf = ({ metrics }: Subject, name: string): Subject["metrics"][number] =>
  metrics.find((one) => nameOf(one) === name)!

/** By `sinks off`, then `natural.loss`. */
export type Numbers = Readonly<Record<string, Readonly<Record<string, number>>>>

/** Metrics of what is memorized so well: 1 as by the standard model, 0 as by the oracle. */
const memory = (share: number, heldOut: number) => {
  const between = (oracle: number, standard: number) => oracle + share * (standard - oracle)
  return {
    "heldOut.loss": heldOut,
    ...Object.fromEntries(
      (["natural", "canary"] as const).flatMap((panel) => [
        [`${panel}.loss`, panel === "natural" ? between(3.0, 0.05) : between(5.5, 0.06)],
        [`${panel}.exactMemorization`, between(0.3, 0.97)],
        [`${panel}.extractionStrength`, between(0.02, 0.9)],
        [`${panel}.greedy@16`, between(0.01, 0.81)],
        [`${panel}.np@16`, between(0.015, 0.93)],
        [`${panel}.mia.loss.auc`, between(0.5, 0.99)],
        [`${panel}.mia.loss.tpr`, between(0.012, 0.88)]
      ])
    )
  }
}

const numbers: Numbers = {
  "standard own": memory(1, 3.0),
  "standardActiveWidth own": memory(0.9, 3.02),
  "standardTotalWidth own": memory(1.02, 2.98),
  "neverRepeated own": memory(0, 3.1),
  "deduplicated own": memory(0.12, 3.05),
  "sinks own": memory(1.01, 2.99),
  "sinks off": memory(0.07, 2.951),
  "sinks placebo": memory(0.09, 2.972),
  "sinks calibrated": memory(0.075, 2.943),
  "untied off": memory(0.85, 3.2),
  "gradientMasking own": memory(1, 3.3),
  "gradientMasking off": memory(0.2, 4.1),
  "sinks p=0.3 own": memory(0.99, 3),
  "sinks p=0.3 off": memory(0.1, 2.96),
  "sinks p=0.7 own": memory(0.93, 3),
  "sinks p=0.7 off": memory(0.6, 2.96),
  "sinks noise=0.1 off": memory(0.072, 2.96),
  "sinks noise=0.5 off": memory(0.75, 2.96),
  "sinks width=32 off": memory(0.1, 3.5),
  "standard width=32 own": memory(1, 3.35),
  "sinks width=64 off": memory(0.1, 3.11),
  "standard width=64 own": memory(1, 3.08),
  "integratedGradients own": memory(0.4, 3.25),
  "npo own": memory(0.05, 3.5),
  "gradientAscent own": memory(0.01, 3.9)
}

const variants: Readonly<Record<string, Variant>> = {
  "sinks p=0.3": { arm: "sinks", share: 0.3 },
  "sinks p=0.7": { arm: "sinks", share: 0.7 },
  "sinks noise=0.1": { arm: "sinks", idNoise: 0.1 },
  "sinks noise=0.5": { arm: "sinks", idNoise: 0.5 },
  "sinks width=32": { arm: "sinks", hiddenSize: 32 },
  "standard width=32": { arm: "standard", hiddenSize: 32 },
  "sinks width=64": { arm: "sinks", hiddenSize: 64 },
  "standard width=64": { arm: "standard", hiddenSize: 64 }
}

const kindOf = (arm: string): Subject["kind"] =>
  arm === "integratedGradients" ? "localizer" : arm === "npo" || arm === "gradientAscent" ? "unlearner" : "trained"

const subjectsOf = (all: Numbers, spread: number): ReadonlyArray<Subject> => {
  const shared = (metric: string, of: "standard own" | "neverRepeated own") => all[of]?.[metric] ?? NaN
  return Object.entries(all).map(([name, metrics]) => {
    const cut = name.lastIndexOf(" ")
    const [arm, state] = [name.slice(0, cut), name.slice(cut + 1) as MaskState]
    return {
      arm,
      kind: kindOf(arm),
      state,
      ...(arm === "npo" ? { setting: "step 8 at 0.0005" } : {}),
      metrics: Object.entries(metrics).map(([metric, value]) => {
        const key = keyNamed(metric)
        const [one, zero] = [shared(metric, "standard own"), shared(metric, "neverRepeated own")]
        return { ...key, value: around(value, spread),
          ...(key.group === "heldOut" ? {} : { recovery: around((value - zero) / (one - zero), spread) }) }
      })
    }
  })
}

/** Losses of a series along training, at steps 0, 10, 20, ... */
export const curve = (arm: string, series: string, losses: ReadonlyArray<number>): LearningCurve => ({
  arm,
  series,
  points: losses.map((loss, i) => ({ step: 10 * i, tokens: 640 * i, loss: around(loss) }))
})

/** A sweep through (cost, forgotten). */
export const sweep = (
  arm: string,
  panel: "natural" | "canary",
  points: ReadonlyArray<readonly [degradation: number, forgetting: number, setting?: string, series?: string]>
): Tradeoff => ({
  arm,
  panel,
  points: points.map(([degradation, forgetting, setting, series], i) => ({
    ...(series === undefined ? {} : { series }),
    setting: setting ?? (points.length === 1 ? "off" : `fraction ${i / 100}`),
    degradation: around(degradation, 0.001),
    forgetting: around(forgetting),
    chosen: i === points.length - 1
  }))
})

export const relearned = (arm: string, state: MaskState, ratio: number, recovered: number): Relearning => ({
  arm,
  state,
  points: [1e-4, 5e-4].flatMap((learningRate) =>
    [0, 1, 2, 4, 8].map((step) => ({
      learningRate,
      step,
      seen: around(2.9 - 0.2 * step),
      scored: around(2.91 - (0.1 * step) / ratio),
      heldOut: around(3.01 + 0.01 * step)
    }))
  ),
  steps: [6, null, 7],
  recovered: around(recovered),
  ratio: around(ratio)
})

const curves: ReadonlyArray<LearningCurve> = [
  curve("standard", "repeated.own", [5.5, 2.2, 0.9, 0.05]),
  curve("standard", "heldOut.own", [5.6, 3.6, 3.2, 3.0]),
  curve("standard", "train", [5.4, 2.8, 1.7, 0.9]),
  curve("standard", "sequence", [1.2, 0.5, 1.1, 0.3, 0.9, 0.1]),
  curve("sinks", "repeated.own", [5.5, 2.0, 0.7, 0.04]),
  curve("sinks", "repeated.off", [5.5, 1.6, 2.0, 2.79]),
  curve("sinks", "heldOut.off", [5.6, 3.5, 3.1, 2.951]),
  curve("sinks", "train", [5.4, 2.7, 1.5, 0.8]),
  curve("sinks", "sequence", [0.9, 0.4, 0.5, 0.1, 0.2, 0.04]),
  curve("neverRepeated", "repeated.own", [5.5, 3.8, 3.3, 3.0]),
  curve("gradientMasking", "heldOut.own", [5.6, 3.9, 3.5, 3.3]),
  curve("gradientMasking", "heldOut.off", [5.6, 4.0, 3.8, 4.1])
]

const tradeoffs: ReadonlyArray<Tradeoff> = [
  sweep("integratedGradients", "natural", [[0, 0], [0.015, 0.3], [0.04, 0.6], [0.15, 1.0]]),
  sweep("integratedGradients", "canary", [[0, 0], [0.008, 2.8], [0.03, 4.4], [0.09, 5.0]]),
  sweep("hardConcrete", "natural", [[0, 0], [0.03, 0.3], [0.11, 1.6]]),
  sweep("hardConcrete", "canary", [[0, 0], [0.009, 2.1], [0.04, 4.5]]),
  sweep("npo", "natural", [
    [0, 0, "step 0 at 0.0001", "0.0001"],
    [0.1, 0.9, "step 8 at 0.0001", "0.0001"],
    [0, 0, "step 0 at 0.0005", "0.0005"],
    [0.5, 2.8, "step 8 at 0.0005", "0.0005"]
  ]),
  sweep("standard", "natural", [[0, 0]]),
  sweep("neverRepeated", "natural", [[0.1, 2.95]]),
  sweep("neverRepeated", "canary", [[0.1, 5.44]]),
  sweep("sinks", "natural", [[-0.049, 2.74]]),
  sweep("sinks p=0.3", "natural", [[-0.04, 2.65]]),
  sweep("sinks", "canary", [[-0.049, 5.1]])
]

/** The report with some numbers changed, undefined: without that model in that state; and with some parts replaced. */
export const reportOf = (
  changes: Readonly<Record<string, Readonly<Record<string, number>> | undefined>> = {},
  parts: Partial<IsolationReport> = {},
  spread = 0.01
): IsolationReport => {
  const all: Record<string, Readonly<Record<string, number>>> = { ...numbers }
  for (const [name, changed] of Object.entries(changes)) {
    if (changed === undefined) delete all[name]
    else all[name] = { ...all[name], ...changed }
  }
  const verdict = {
    arm: "sinks",
    word: "isolated" as const,
    decidedBy: "all 2 checks passed: recovery of natural.np@16 is 0.070 [0.045, 0.095], allowed at most 0.2; ...",
    checks: [{
      name: "recovery of natural.np@16",
      of: { group: "natural" as const, metric: "np", context: 16 },
      result: "pass" as const,
      value: around(0.07),
      bound: "at most 0.2",
      otherwise: "not isolated" as const
    }],
    notRun: ["held-out cost"]
  }
  const repeats = [1, 4, 16, 64]
  return {
    format: 2,
    subject: "sinks",
    word: verdict.word,
    decidedBy: verdict.decidedBy,
    verdicts: [verdict, {
      arm: "npo",
      word: "hidden",
      decidedBy: "steps of relearning over the oracle's is 0.110 [0.085, 0.135], allowed at least 0.5",
      checks: [{
        name: "steps of relearning over the oracle's",
        result: "fail" as const,
        value: around(0.11),
        bound: "at least 0.5",
        otherwise: "hidden"
      }]
    }],
    metrics: [
      { metric: "loss", title: "mean loss", unit: "nats", memory: "lower" },
      { metric: "exactMemorization", title: "share of tokens that are the likeliest", unit: "share", memory: "higher" },
      { metric: "extractionStrength", title: "share that follows", unit: "share", memory: "higher" },
      {
        metric: "greedy",
        context: 16,
        title: "said verbatim, greedily",
        unit: "share",
        memory: "higher"
      },
      {
        metric: "np",
        context: 16,
        title: "(100, 0.5)-extractable",
        unit: "share",
        memory: "higher"
      },
      { metric: "mia.loss.auc", title: "membership inference by loss, AUC", unit: "share", memory: "higher" },
      { metric: "mia.loss.tpr", title: "membership inference by loss, true positives", unit: "share", memory: "higher" }
    ],
    subjects: subjectsOf(all, spread),
    arms: [...new Set(Object.keys(all).map((name) => name.slice(0, name.lastIndexOf(" "))))].map((name, i) => ({
      name,
      ...(variants[name] === undefined ? {} : { variant: variants[name] }),
      kind: kindOf(name),
      title: `what ${name} is`,
      parameters: 123_456 + i,
      activeParameters: 65_432 + i,
      steps: 777,
      tokens: 98_765,
      seconds: around(12.5),
      tokensPerSecond: around(7901 + i, 5)
    })),
    curves,
    tradeoffs,
    extraction: (["own", "off"] as const).flatMap((state) =>
      (["natural", "canary"] as const).map((panel) => ({
        arm: "sinks",
        state,
        panel,
        by: "repeats" as const,
        metric: "extractionStrength",
        points: repeats.map((x) => ({ x, value: around(state === "own" ? 0.14 * Math.log2(x) : 0.02) })),
        fit: { slope: state === "own" ? 0.14 : 0, intercept: 0.02, r2: 0.987, slopeLow: 0.131, slopeHigh: 0.149 }
      }))
    ),
    relearning: [
      relearned("sinks", "off", 0.93, 0.17),
      relearned("neverRepeated", "own", 1, 0.15),
      relearned("npo", "own", 0.11, 0.91)
    ],
    interference: [{
      arm: "sinks",
      ladder: [0, 1, 10, 100].map((others) => ({ others, loss: around(0.04 + others / 1000) })),
      sliceContent: { own: around(2.75), placebo: around(0.021) },
      placeboOff: around(0.002, 0.001),
      deletion: { mean: around(0.004, 0.001), worst: around(0.019, 0.001) },
      leakage: around(0.07)
    }],
    hygiene: [11, 12, 13].map((seed) => ({
      arm: "sinks",
      seed,
      checks: [
        { name: "prune = off", passed: true, value: 1.2e-7, bound: 1e-5, detail: "largest difference of a logit" },
        { name: "causality", passed: true, value: 0, bound: 0, detail: "logits before a changed token" }
      ]
    })),
    localizers: [{ localizer: "integratedGradients", arm: "sinks", recall: around(0.41), chance: 0.0156 }],
    theory: [{
      name: "co-adaptation",
      claim: "Dropping a block that only memorized is not as if it had never been.",
      constants: { gamma: 0.05 },
      trace: { distance: [0, 0.1], bound: [0, 0.05] },
      inequalities: [{ name: "distance >= bound", holds: true, checked: 200, slack: 0.01, failedAt: undefined }],
      holds: true
    }],
    claims: [
      { number: 1, claim: "The standard model memorizes", result: "held", evidence: "share 0.017 [0.009, 0.025]" },
      { number: 14, claim: "Facts of one source go", result: "not tested", evidence: "needs facts" }
    ],
    warnings: ["Formulaic text is said verbatim by the oracle, too."],
    failures: [{ arm: "sgtm", seed: 12, message: "training diverged at step 5: loss NaN" }],
    seeds: [11, 12, 13],
    data: {
      world: "twoDomains",
      trainedTokens: 98_765,
      vocabSize: 256,
      seqLen: 64,
      splits: { seen: 16, scored: 16, heldOut: 64 },
      dropped: 3,
      repeats: [{ sequences: 8, exposures: 64 }, { sequences: 8, exposures: 16 }]
    },
    adapter: "made-up adapter",
    seconds: 4321.5,
    config: { seeds: 3, note: "<script>alert(1)</script>" },
    versions: { memsinks: "0.0.0", node: "20" },
    ...parts
  }
}
