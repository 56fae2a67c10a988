/**
 * The claims of the two papers, each tested on a report. Pure.
 *
 * A comparison is decided where intervals do not overlap, a bound where the whole interval keeps or breaks it; all else
 * is not decided, and what the report has no data for is not tested. Numbers are combined seed by seed first. To add a
 * claim, add an entry to `claims`.
 */
import { mean } from "../../src/measures/Statistics.ts"
import { ORACLE, STANDARD } from "../experiment/Arms.ts"
import { all, compare, is, isAtLeast, isAtMost, list, type Outcome, untested } from "../report/Claim.ts"
import { isKnown, minus, perSeed, written } from "../report/Estimate.ts"
import { at, heldOutLoss as heldOut, metricName, repeatedLoss as repeated } from "./Metrics.ts"
import type { Claim, Estimate, IsolationReport, MaskState, MetricKey, Panel, Tradeoff } from "./Report.ts"

type Report = Omit<IsolationReport, "claims">

interface ClaimTest {
  readonly number: number
  readonly claim: string
  readonly test: (report: Report) => Outcome
}

/** Names of arms. */
const SINKS = "sinks"

/** Most that held-out losses that are about the same may differ by, nats a token. */
const ABOUT = 0.1
/** Most recovery that is about none. */
const ABOUT_NONE = 0.2
/** The two methods of the paper. */
const LOCALIZERS = ["integratedGradients", "hardConcrete"]

// ---------------------------------------------------------------------------------------------------------------
// Reading a report

const metricsOf = (report: Report, arm: string, state: MaskState) =>
  report.subjects.find((subject) => subject.arm === arm && subject.state === state)?.metrics

const metricOf = (report: Report, arm: string, state: MaskState, key: MetricKey): Estimate | undefined => {
  const one = at(metricsOf(report, arm, state), key)?.value
  return isKnown(one) ? one : undefined
}

/** Of a model after removal: sinks off, or as it is where it has none. */
const removedOf = (report: Report, arm: string, key: MetricKey) =>
  metricOf(report, arm, "off", key) ?? metricOf(report, arm, "own", key)

/** What variants differ in, that which says most first: a wider model may need other sinks too. */
const settings = ["hiddenSize", "idNoise", "share"] as const

/** Variants of an arm that differ from it in this, by its value. */
const variantsOf = ({ arms }: Report, arm: string, setting: (typeof settings)[number]) =>
  arms.flatMap(({ name, variant }) => {
    if (variant?.arm !== arm || settings.find((one) => variant[one] !== undefined) !== setting) return []
    return [{ name, value: Number(variant[setting]!.toPrecision(3)) }]
  }).sort((a, b) => a.value - b.value)

const seriesOf = (report: Report, arm: string, series: string) =>
  report.curves.find((curve) => curve.arm === arm && curve.series === series)?.points

const tradeoffOf = (report: Report, arm: string, panel: Panel) =>
  report.tradeoffs.find((one) => one.arm === arm && one.panel === panel)?.points

/** The value nearest to one that is wanted. */
const nearestTo = <T extends { readonly value: number }>(wanted: number, from: ReadonlyArray<T>): T | undefined =>
  from.reduce<T | undefined>(
    (best, one) => best === undefined || Math.abs(one.value - wanted) < Math.abs(best.value - wanted) ? one : best,
    undefined
  )

// ---------------------------------------------------------------------------------------------------------------
// Curves

type Points = Tradeoff["points"]

/** The most that a sweep forgets in a seed at a held-out cost of at most `cost`: nothing, where it is unchanged. */
const forgets = (points: Points, seed: number, cost: number): number =>
  points.reduce((best, { degradation, forgetting }) => {
    const [paid, got] = [degradation.values[seed], forgetting.values[seed]]
    return typeof paid === "number" && typeof got === "number" && paid <= cost ? Math.max(best, got) : best
  }, 0)

/** Held-out costs at which curves are compared, nats a token. */
const COSTS = [0.01, 0.02, 0.05, 0.1, 0.2]

/** What a sweep forgets on average over `COSTS`, as a share of what the oracle does not know. */
const forgottenShare = (points: Points, oracle: Points): Estimate | undefined =>
  perSeed(
    (seed, unknown) => COSTS.reduce((sum, cost) => sum + forgets(points, seed, cost), 0) / COSTS.length / unknown,
    seedsOf(oracle[0]!.forgetting),
    oracle[0]!.forgetting
  )

/** The number of each seed, in the place of a value. */
const seedsOf = (one: Estimate): Estimate => ({
  ...one,
  values: one.values.map((value, seed) => value === null ? null : seed)
})

// ---------------------------------------------------------------------------------------------------------------
// The claims

const claims: ReadonlyArray<ClaimTest> = [
  {
    number: 1,
    claim: "The standard model memorizes: its loss on repeated sequences is below 5 % of the oracle's",
    test: (report) => {
      const share = perSeed(
        (standard, oracle) => standard / oracle,
        metricOf(report, STANDARD, "own", repeated),
        metricOf(report, ORACLE, "own", repeated)
      )
      if (share === undefined) return untested(`arms ${STANDARD} and ${ORACLE}`)
      return { result: isAtMost(share, 0.05), evidence: list(["share of the oracle's loss", share]) }
    }
  },
  {
    number: 2,
    claim: "Sinks off removes at least half of the memory of the standard model",
    test: (report) => {
      const removed = perSeed(
        (off, standard, oracle) => (off - standard) / (oracle - standard),
        metricOf(report, SINKS, "off", repeated),
        metricOf(report, STANDARD, "own", repeated),
        metricOf(report, ORACLE, "own", repeated)
      )
      if (removed === undefined) return untested(`arms ${SINKS}, ${STANDARD} and ${ORACLE}`)
      const cost = minus(metricOf(report, SINKS, "off", heldOut), metricOf(report, STANDARD, "own", heldOut))
      return {
        result: isAtLeast(removed, 0.5),
        evidence: list(["share removed", removed], ["held-out loss above standard", cost])
      }
    }
  },
  {
    number: 3,
    claim: "With sinks off the held-out loss is below the oracle's",
    test: (report) => {
      const off = metricOf(report, SINKS, "off", heldOut)
      const oracle = metricOf(report, ORACLE, "own", heldOut)
      if (off === undefined || oracle === undefined) return untested(`arms ${SINKS} and ${ORACLE}`)
      return {
        result: is("lower", off, oracle),
        evidence: list(["held-out loss: sinks off", off], ["oracle", oracle], [
          "standard",
          metricOf(report, STANDARD, "own", heldOut)
        ])
      }
    }
  },
  {
    number: 4,
    claim: "With sinks off the loss on repeated sequences falls, then rises by at least 10 %",
    test: (report) => {
      const points = seriesOf(report, SINKS, "repeated.off")
      if (points === undefined || points.length < 3) return untested(`learning curves of ${SINKS} with sinks off`)
      const least = perSeed((...losses) => Math.min(...losses), ...points.map(({ loss }) => loss))
      const rise = perSeed((last, least) => last / least - 1, points.at(-1)!.loss, least)
      if (rise === undefined) return untested(`whole learning curves of ${SINKS} with sinks off`)
      return {
        result: isAtLeast(rise, 0.1),
        evidence: list(["lowest", least], ["at the end", points.at(-1)!.loss], ["rise", rise])
      }
    }
  },
  {
    number: 5,
    claim: "With more than half of the pool lit for each sequence, more memory is outside the sinks",
    test: (report) => {
      const variants = variantsOf(report, SINKS, "share")
      const [few, many] = [
        nearestTo(0.3, variants.filter(({ value }) => value <= 0.5)),
        nearestTo(0.7, variants.filter(({ value }) => value > 0.5))
      ]
      if (few === undefined || many === undefined) return untested(`variants ${SINKS} p=0.3 and ${SINKS} p=0.7`)
      const loss = ({ name }: { readonly name: string }) => metricOf(report, name, "off", repeated)
      const [a, b] = [loss(few), loss(many)]
      if (a === undefined || b === undefined) return untested(`sinks off of ${few.name} and ${many.name}`)
      return {
        result: is("lower", b, a),
        evidence: `loss of the most repeated, sinks off: ${
          list(...variants.map((one) => [`p=${one.value}`, loss(one)] as const))
        }`
      }
    }
  },
  {
    number: 6,
    claim: "A wrong id now and then (a tenth of exposures) does no harm; half of them does",
    test: (report) => {
      const variants = variantsOf(report, SINKS, "idNoise")
      const loss = (name: string) => metricOf(report, name, "off", repeated)
      const [little, much] = [
        nearestTo(0.1, variants.filter(({ value }) => value > 0 && value <= 0.1)),
        nearestTo(0.5, variants.filter(({ value }) => value >= 0.3 && value < 1))
      ]
      const [clean, a, b] = [loss(SINKS), little && loss(little.name), much && loss(much.name)]
      if (clean === undefined || a === undefined || b === undefined) {
        return untested(`variants ${SINKS} noise=0.1 and ${SINKS} noise=0.5`)
      }
      const harm = minus(clean, a)
      if (harm === undefined) return untested(`${SINKS} and ${little!.name} in the same seeds`)
      return {
        result: all(isAtMost(harm, ABOUT), is("lower", b, clean)),
        evidence: `harm of ${little!.name}, nats a token: ${written(harm)}; loss of the most repeated, sinks off: ${
          list(
            ["noise 0", clean],
            ...variants.map(({ name, value }) => [`noise ${value}`, loss(name)] as const),
            ["a fresh id every time", loss("untied")]
          )
        }`
      }
    }
  },
  {
    number: 7,
    claim: "The wider the model, the less held-out loss sinks cost",
    test: (report) => {
      const plain = variantsOf(report, STANDARD, "hiddenSize")
      const costs = variantsOf(report, SINKS, "hiddenSize").flatMap(({ name, value }) => {
        const cost = minus(
          metricOf(report, name, "off", heldOut),
          metricOf(report, plain.find((one) => one.value === value)?.name ?? "", "own", heldOut)
        )
        return cost === undefined ? [] : [{ value, cost }]
      })
      if (costs.length < 2) return untested(`two variants ${SINKS} width=w, each with its ${STANDARD} width=w`)
      const monotone = costs.every(({ cost }, i) => i === 0 || cost.mean <= costs[i - 1]!.cost.mean)
      const ends = is("lower", costs.at(-1)!.cost, costs[0]!.cost)
      return {
        result: ends === "held" && !monotone ? "not decided" : ends,
        evidence: `held-out loss above standard: ${
          list(...costs.map(({ cost, value }) => [`width ${value}`, cost] as const))
        }`
      }
    }
  },
  {
    number: 8,
    claim: "Localizers find canaries more easily than natural sequences",
    test: (report) => {
      const oracles = [tradeoffOf(report, ORACLE, "canary"), tradeoffOf(report, ORACLE, "natural")]
      const compared = LOCALIZERS.flatMap((name) => {
        const shares = (["canary", "natural"] as const).map((panel, i) => {
          const [points, oracle] = [tradeoffOf(report, name, panel), oracles[i]]
          return points === undefined || oracle === undefined ? undefined : forgottenShare(points, oracle)
        })
        const [canary, natural] = shares
        return canary === undefined || natural === undefined ? [] : [{ name, canary, natural }]
      })
      if (compared.length === 0) {
        return untested(`${LOCALIZERS.join(" or ")} and ${ORACLE} on both canaries and natural sequences`)
      }
      return {
        result: all(...compared.map(({ canary, natural }) => is("higher", canary, natural))),
        evidence: `share forgotten at held-out costs of ${COSTS[0]} to ${COSTS.at(-1)} nats: ${
          list(...compared.flatMap(({ canary, name, natural }) => [
            [`${name}, canaries`, canary] as const,
            [`${name}, natural`, natural] as const
          ]))
        }`
      }
    }
  },
  {
    number: 9,
    claim: "Sinks forget more than localizers do at the same held-out cost",
    test: (report) => {
      const sinks = tradeoffOf(report, SINKS, "natural")?.[0]
      const swept = LOCALIZERS.flatMap((name) => {
        const points = tradeoffOf(report, name, "natural")
        // what costs less than nothing is compared with what costs nothing
        const best = points === undefined || sinks === undefined ? undefined : perSeed(
          (cost, seed) => forgets(points, seed, Math.max(0, cost)),
          sinks.degradation,
          seedsOf(sinks.degradation)
        )
        return best === undefined ? [] : [{ name, best }]
      })
      if (sinks === undefined || swept.length === 0) {
        return untested(`arm ${SINKS} and ${LOCALIZERS.join(" or ")} on natural sequences`)
      }
      return {
        result: all(...swept.map(({ best }) => is("higher", sinks.forgetting, best))),
        evidence: `held-out cost of sinks ${written(sinks.degradation)}; forgetting, nats a token, at that cost: ${
          list([SINKS, sinks.forgetting], ...swept.map(({ best, name }) => [name, best] as const))
        }`
      }
    }
  },
  {
    number: 10,
    claim: "Gradient masking has a higher held-out loss than standard, and dropping its block costs ever more",
    test: (report) => {
      const arm = "gradientMasking"
      const [on, standard] = [metricOf(report, arm, "own", heldOut), metricOf(report, STANDARD, "own", heldOut)]
      if (on === undefined || standard === undefined) return untested(`arms ${arm} and ${STANDARD}`)
      const [own, off] = [seriesOf(report, arm, "heldOut.own"), seriesOf(report, arm, "heldOut.off")]
      const penalties = (own ?? []).flatMap(({ loss, step }) => {
        const penalty = minus(off?.find((point) => point.step === step)?.loss, loss)
        return penalty === undefined ? [] : [penalty]
      })
      const [middle, end] = [penalties[Math.floor((penalties.length - 1) / 2)], penalties.at(-1)]
      if (middle === undefined || end === undefined || penalties.length < 3) {
        return untested(`learning curves of ${arm} with and without its block`)
      }
      return {
        result: all(is("higher", on, standard), is("higher", end, middle)),
        evidence: list(
          ["held-out loss", on],
          ["standard", standard],
          ["dropping the block costs at half of training", middle],
          ["at the end", end]
        )
      }
    }
  },
  {
    number: 11,
    claim: "With its own sinks a sequence is forgotten less between its exposures, and ends at a lower loss",
    test: (report) => {
      const of = (arm: string) => {
        const losses = seriesOf(report, arm, "sequence")?.map(({ loss }) => loss)
        if (losses === undefined || losses.length < 4) return undefined
        const late = losses.slice(Math.floor(losses.length / 2))
        const rises = (values: ReadonlyArray<number>) => values.slice(1).map((v, i) => Math.max(0, v - values[i]!))
        const rise = perSeed((...values) => mean(rises(values)), ...late)
        const level = perSeed((...values) => mean(values), ...late)
        return rise === undefined || level === undefined ? undefined : { rise, level }
      }
      const [sinks, standard] = [of(SINKS), of(STANDARD)]
      if (sinks === undefined || standard === undefined) {
        return untested("the loss of a single sequence before and after each of its exposures")
      }
      return {
        result: all(is("lower", sinks.rise, standard.rise), is("lower", sinks.level, standard.level)),
        evidence: list(
          [`mean rise between exposures: ${SINKS}`, sinks.rise],
          [STANDARD, standard.rise],
          [`loss in the second half: ${SINKS}`, sinks.level],
          [STANDARD, standard.level]
        )
      }
    }
  },
  {
    number: 12,
    claim: "In a rare domain with few repeats sinks off closes half of the gap, at a loss below deduplication's",
    test: (report) => {
      if (report.data.world !== "twoDomains") return untested("a world of two domains")
      const closed = perSeed(
        (offHeldOut, offRepeated, heldOut, repeated) => 1 - (offHeldOut - offRepeated) / (heldOut - repeated),
        metricOf(report, SINKS, "off", heldOut),
        metricOf(report, SINKS, "off", repeated),
        metricOf(report, STANDARD, "own", heldOut),
        metricOf(report, STANDARD, "own", repeated)
      )
      const off = metricOf(report, SINKS, "off", heldOut)
      const deduplicated = metricOf(report, "deduplicated", "own", heldOut)
      if (closed === undefined || off === undefined || deduplicated === undefined) {
        return untested(`arms ${SINKS}, ${STANDARD} and deduplicated`)
      }
      return {
        result: all(isAtLeast(closed, 0.5), is("lower", off, deduplicated)),
        evidence: list(
          ["share of the gap closed", closed],
          ["held-out loss: sinks off", off],
          ["deduplicated", deduplicated],
          ["standard", metricOf(report, STANDARD, "own", heldOut)]
        )
      }
    }
  },
  {
    number: 13,
    claim: "The inequalities of the theory hold at every step",
    test: ({ theory }) => {
      if (theory.length === 0) return untested("the simulations of the theory")
      const failed = theory.filter(({ holds }) => !holds)
      const checked = theory.flatMap(({ inequalities }) => inequalities).reduce((sum, one) => sum + one.checked, 0)
      return {
        result: failed.length === 0 ? "held" : "did not hold",
        evidence: `${theory.length} simulations, ${checked} checks` +
          (failed.length === 0 ? ", none failed" : `; failed: ${failed.map(({ name }) => name).join(", ")}`)
      }
    }
  },
  {
    number: 14,
    claim: "Facts of one source go when its sinks do, shared ones stay",
    test: () => untested("facts of one and of several sources, and models trained again without some of them")
  },
  {
    number: 15,
    claim: "What is shared stays with sinks off, and suffers under gradient ascent and NPO",
    test: (report) => {
      const standard = metricOf(report, STANDARD, "own", heldOut)
      const above = (arm: string) => minus(removedOf(report, arm, heldOut), standard)
      const sinks = above(SINKS)
      const others = ["gradientAscent", "npo"].flatMap((name) => {
        const cost = above(name)
        return cost === undefined ? [] : [{ name, cost }]
      })
      if (sinks === undefined || others.length === 0) return untested(`arm ${SINKS} and gradientAscent or npo`)
      return {
        // above what sinks cost is not enough: sinks may cost less than nothing
        result: all(...others.flatMap(({ cost }) => [is("higher", cost, sinks), isAtLeast(cost, 0)])),
        evidence: `shared: held-out text, not facts; its loss above standard: ${
          list([SINKS, sinks], ...others.map(({ cost, name }) => [name, cost] as const))
        }`
      }
    }
  },
  {
    number: 16,
    claim: "With sinks off relearning is about as slow as for the oracle (half of its steps at least)",
    test: ({ relearning }) => {
      const of = (arm: string) =>
        relearning.find((one) => one.arm === arm && (one.state === "off" || arm !== SINKS))?.ratio
      const sinks = of(SINKS)
      if (!isKnown(sinks)) return untested(`relearning of ${SINKS} with sinks off and of ${ORACLE}`)
      return {
        result: isAtLeast(sinks, 0.5),
        evidence: `steps over the oracle's: ${
          list([SINKS, sinks], ...["npo", "rmu", "integratedGradients"].map((name) => [name, of(name)] as const))
        }`
      }
    }
  },
  {
    number: 17,
    claim: "The less masks overlap, the better sinks remember and the less leaks into general neurons",
    test: (report) => {
      const variants = variantsOf(report, SINKS, "share")
      const [few, many] = [variants[0], variants.at(-1)]
      if (few === undefined || many === undefined || few === many) return untested(`two variants ${SINKS} p=x`)
      const recovery = ({ name }: { readonly name: string }) => at(metricsOf(report, name, "off"), repeated)?.recovery
      const on = [few, many].map(({ name }) => metricOf(report, name, "own", repeated))
      const leaked = [few, many].map(recovery)
      if (!on.every(isKnown) || !leaked.every(isKnown)) return untested(`losses of ${few.name} and ${many.name}`)
      const overlap = (value: number) => `overlap ${value}`
      return {
        result: all(is("lower", on[0]!, on[1]!), is("lower", leaked[0]!, leaked[1]!)),
        evidence: list(
          [`loss of the most repeated with own sinks: ${overlap(few.value)}`, on[0]],
          [overlap(many.value), on[1]],
          [`recovery with sinks off: ${overlap(few.value)}`, leaked[0]],
          [overlap(many.value), leaked[1]]
        )
      }
    }
  },
  {
    number: 18,
    claim: `With sinks off the held-out loss is at most ${ABOUT} nats above standard's of equal active and total width`,
    test: (report) => {
      const widths = ["standardActiveWidth", "standardTotalWidth"] as const
      const off = metricOf(report, SINKS, "off", heldOut)
      const [active, total] = widths.map((arm) => minus(off, metricOf(report, arm, "own", heldOut)))
      if (active === undefined || total === undefined) return untested(`arms ${SINKS}, ${widths.join(" and ")}`)
      return {
        result: all(isAtMost(active, ABOUT), isAtMost(total, ABOUT)),
        evidence: `held-out loss, sinks off, above that of: ${list(["active width", active], ["total width", total])}`
      }
    }
  },
  {
    number: 19,
    claim: "With sinks off no more can be extracted than from the oracle",
    test: (report) => {
      const keys = [...report.metrics.filter(({ metric }) => metric === "greedy"), { metric: "extractionStrength" }]
        .map((one): MetricKey => ({ group: "natural", ...one }))
      const rates = keys.flatMap((key) => {
        const [off, standard, oracle] = [
          metricOf(report, SINKS, "off", key),
          metricOf(report, STANDARD, "own", key),
          metricOf(report, ORACLE, "own", key)
        ]
        if (off === undefined || standard === undefined || oracle === undefined) return []
        const left = perSeed((value, one, zero) => (value - zero) / (one - zero), off, standard, oracle)
        return [{ name: metricName(key), off, standard, oracle, left }]
      })
      if (rates.length === 0) return untested(`extraction from arms ${SINKS}, ${STANDARD} and ${ORACLE}`)
      // without a difference between standard and oracle a rate says nothing
      const telling = rates.find(({ oracle, standard }) => compare(standard, oracle) === "higher")
      const { name, off, oracle, standard } = telling ?? rates[0]!
      const left = telling?.left
      return {
        result: left === undefined ? "not decided" : isAtMost(left, ABOUT_NONE),
        evidence: list([`${name}: sinks off`, off], ["standard", standard], ["oracle", oracle], [
          `recovery (about none: at most ${ABOUT_NONE})`,
          left
        ])
      }
    }
  },
  {
    number: 20,
    claim: "Deleting one sequence's sinks leaves others as they are, and a placebo does nothing",
    test: ({ hygiene, interference }) => {
      const checks = hygiene.filter(({ arm }) => arm === SINKS).flatMap(({ checks }) => checks)
      const others = interference.find(({ arm }) => arm === SINKS)
      const placebo = others?.placeboOff
      if (checks.length === 0 || !isKnown(placebo)) return untested(`hygiene and interference of ${SINKS}`)
      const failed = [...new Set(checks.filter(({ passed }) => !passed).map(({ name }) => name))]
      const either = all(isAtMost(placebo, 0.05), isAtLeast(placebo, -0.05))
      return {
        result: all(failed.length === 0 ? "held" : "did not hold", either),
        evidence: `${checks.filter(({ passed }) => passed).length} of ${checks.length} checks of hygiene passed` +
          `${failed.length === 0 ? "" : ` (failed: ${failed.join(", ")})`}; ` +
          list(["effect of a placebo", placebo], ["loss that deleting one id adds to others", others?.deletion.mean])
      }
    }
  }
]

/** Each claim as it went in this report, in order of their numbers. */
export const claimsOf = (report: Report): ReadonlyArray<Claim> =>
  claims.map(({ claim, number, test }) => ({ number, claim, ...test(report) }))
