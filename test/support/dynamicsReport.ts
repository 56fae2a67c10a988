/** A made-up report of forgetting dynamics; tests change what they are about. */
import type { Curve, DynamicsReport, Estimate, Fit, Interference, MaskState, Norm, Retention, SawTooth,
  Share } from "../../pipelines/dynamics/Report.ts"
import { estimate } from "../../pipelines/report/Estimate.ts"

/** Three seeds around a mean; seeds shift all numbers alike. */
export const around = (mean: number, spread = 0.01): Estimate => estimate([mean - spread, mean, mean + spread])

interface Subject {
  readonly arm: string
  readonly mask: MaskState
  /** Memory of k=48 just after the last exposure, nats. */
  readonly memory: number
  /** Steps. */
  readonly tau: number
  readonly residual: number
}

/** The standard model, and one with sinks in three states. */
export const subjects: ReadonlyArray<Subject> = [
  { arm: "standard", mask: "own", memory: 2.4, tau: 50, residual: 0.05 },
  { arm: "sinks", mask: "own", memory: 2.6, tau: 300, residual: 0.4 },
  { arm: "sinks", mask: "off", memory: 0.05, tau: NaN, residual: NaN },
  { arm: "sinks", mask: "placebo", memory: 0.06, tau: NaN, residual: NaN }
]

const foils = 5

const left = ({ memory, residual, tau }: Subject, since: number): number =>
  Number.isNaN(tau) ? memory : memory * (residual + (1 - residual) * Math.exp(-since / tau))

const sinces = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 400]
const steps = [0, 10, 20, 50, 100, 200, 400]

export const fitOf = (parts: Partial<Fit> = {}): Fit => ({
  law: "exponential",
  aic: { exponential: -40.98, power: -31.5 },
  tau: 50,
  initial: 2.4,
  residual: { value: 0.05, low: 0.02, high: 0.08 },
  halfLife: { value: 37.25, low: 20.5, high: 61 },
  rmse: 0.012,
  observed: 400,
  ...parts
})

const retentionOf = (subject: Subject, group: string, share: number): Retention => {
  const fit = Number.isNaN(subject.tau) ?
    undefined :
    subject.arm === "standard" ?
    fitOf({ initial: 2.4 * share }) :
    fitOf({
      law: "power",
      psi: 1.25,
      tau: 300,
      initial: 2.6 * share,
      residual: { value: 0.4, low: 0.3, high: 0.5 },
      // so slow that the end was not always seen
      halfLife: group === "k=8" ? { value: null, low: null, high: null } : { value: 310, low: 180, high: null }
    })
  return {
    arm: subject.arm,
    group,
    mask: subject.mask,
    points: sinces.map((since) => {
      const memory = share * left(subject, since)
      return {
        since,
        loss: around(foils - memory),
        memory: around(memory),
        recognition: around(0.5 + 0.19 * memory),
        recall: around(0.01 + 0.35 * memory),
        verbatim: memory > 2 ? around(0.5) : estimate([null, null, null]),
        logRank: around(3 - memory)
      }
    }),
    ...(fit === undefined ? {} : { fit })
  }
}

const curvesOf = ({ arm, mask, memory }: Subject): ReadonlyArray<Curve> =>
  ["sawtooth", "k=48", "foils"].map((group) => ({
    arm,
    group,
    mask,
    points: steps.map((step) => ({
      step,
      loss: around(6 - (group === "foils" ? 1 : memory) * Math.log1p(step) / 6)
    }))
  }))

const sawToothOf = ({ arm, mask, memory, residual }: Subject): SawTooth => {
  const amplitude = Number.isNaN(residual) ? 0.01 : 0.2 * memory
  const kept = Number.isNaN(residual) ? 0 : residual
  const teeth = Array.from({ length: 9 }, (_, i) => {
    const before = 5 - i * kept * amplitude
    return {
      exposure: i + 1,
      step: 5 + 40 * i,
      before: around(before),
      // momentum does the other half
      after: around(before - amplitude / 2),
      lowest: around(before - amplitude),
      amplitude: around(amplitude),
      ...(i === 8 ? {} : { decay: around((1 - kept) * amplitude) })
    }
  })
  const late = teeth[7]!
  return {
    arm,
    group: "sawtooth",
    mask,
    teeth,
    late: {
      before: late.before,
      after: late.after,
      lowest: late.lowest,
      amplitude: late.amplitude,
      decay: late.decay!
    }
  }
}

const normsOf = (arm: string): ReadonlyArray<Norm> =>
  [["general", 0], ["general", 1], ["attention", 0], ["attention", 1], ["embedding", -1]]
    .concat(arm === "sinks" ? [["sinks", 0], ["sinks", 1]] : [])
    .map(([part, layer]): Norm => ({
      arm,
      layer: Number(layer),
      part: String(part),
      points: steps.map((step, i) => ({
        step,
        // rms of 3 and 4 in two layers: root of 12.5
        weight: around((layer === 1 ? 4 : 3) * (1 + i) * (part === "sinks" ? 0.5 : part === "attention" ? 0.75 : 1),
          0.001),
        ...(i === 0 ? {} : { update: around(0.002 / i, 0.0001) })
      }))
    }))

const sharesOf = (arm: string, mask: MaskState): ReadonlyArray<Share> =>
  [["logit", -1], ["embedding", -1], ["attention", 0], ["attention", 1], ["general", 0], ["general", 1]]
    .concat(arm === "sinks" && mask === "own" ? [["sinks", 0], ["sinks", 1]] : [])
    .map(([part, layer]): Share => ({
      arm,
      group: "k=48",
      mask,
      layer: Number(layer),
      part: String(part),
      points: steps.map((step, i) => ({
        step,
        logit: around(part === "logit" ? 1 + i : 0.25 + (part === "sinks" ? 0.25 : 0.125) * i)
      }))
    }))

const interference: ReadonlyArray<Interference> = [
  {
    arm: "standard",
    part: "all",
    cosine: around(-0.0125, 0.001),
    predicted: around(0.00125, 0.0001),
    observed: around(0.0015, 0.0001),
    correlation: around(0.875)
  },
  { arm: "sinks", part: "sinks", cosine: around(-0.0001, 0.0001), predicted: around(0.00003, 0.00001) }
]

/** The report with some parts replaced. */
export const reportOf = (parts: Partial<DynamicsReport> = {}): DynamicsReport => ({
  format: 1,
  arms: [
    {
      name: "standard",
      title: "no sinks",
      parameters: 123_456,
      activeParameters: 123_456,
      seconds: around(100.5),
      probeSeconds: around(33.25)
    },
    { name: "sinks", title: "sinks by sequence", parameters: 234_567, activeParameters: 130_000 }
  ],
  groups: [
    {
      name: "sawtooth",
      title: "shown every 40 steps",
      sequences: 8,
      exposures: 9,
      every: 40,
      lastShown: 326,
      withheld: false
    },
    { name: "k=8", title: "shown 8 times", sequences: 16, exposures: 8, every: 12.5, lastShown: 100, withheld: true },
    { name: "k=48", title: "shown 48 times", sequences: 16, exposures: 48, every: 2.5, lastShown: 120, withheld: true },
    { name: "foils", title: "never trained on", sequences: 32, exposures: 0, withheld: false }
  ],
  steps: 400,
  tokensPerStep: 512,
  curves: subjects.flatMap(curvesOf),
  sawTeeth: subjects.map(sawToothOf),
  retention: subjects.flatMap((subject) => [retentionOf(subject, "k=8", 0.5), retentionOf(subject, "k=48", 1)]),
  norms: ["standard", "sinks"].flatMap(normsOf),
  shares: subjects.filter(({ mask }) => mask !== "placebo").flatMap(({ arm, mask }) => sharesOf(arm, mask)),
  interference,
  contents: [
    {
      arm: "sinks",
      layer: 0,
      part: "sinks",
      neurons: 64,
      purity: around(0.75),
      agreement: around(0.375),
      gradientMass: { memorized: around(0.625), heldOut: around(0.125) }
    },
    { arm: "sinks", layer: 0, part: "random", neurons: 64, purity: around(0.25),
      agreement: estimate([null, null, null]) }
  ],
  claims: [
    { number: 1, claim: "Memories of standard models decay", result: "held", evidence: "half-life 37 [21, 61]" },
    { number: 5, claim: "Sinks keep memories", result: "not decided", evidence: "one of <3> seeds" }
  ],
  warnings: ["Few sequences: intervals are wide."],
  failures: [{ arm: "sinks", seed: 12, message: "training diverged at step 5: loss NaN" }],
  seeds: [11, 12, 13],
  data: { vocabSize: 256, seqLen: 64, promptTokens: 16 },
  adapter: "made-up adapter",
  seconds: 4321.5,
  config: { seeds: 3, note: "</script><script>alert(1)</script>" },
  versions: { memsinks: "0.0.0", runtime: "Node 20" },
  ...parts
})

/** The least that a report can be: nothing was measured. */
export const bare: Partial<DynamicsReport> = {
  arms: [],
  groups: [],
  curves: [],
  sawTeeth: [],
  retention: [],
  norms: [],
  shares: [],
  interference: [],
  contents: [],
  claims: [],
  warnings: [],
  failures: []
}
