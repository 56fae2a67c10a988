/**
 * The claims of MemSinks that are about time, each tested on a report. Pure. Seeds share their data and, as far as shapes
 * agree, their initial weights, so arms are compared seed by seed.
 */
import type { Simulation } from "../../src/measures/Theory.ts"
import { all, isAtLeast, isAtMost, list, type Outcome, untested } from "../report/Claim.ts"
import { isKnown, minus, perSeed } from "../report/Estimate.ts"
import type { Claim, Curve, DynamicsReport, Group, MaskState } from "./Report.ts"

type Report = Pick<DynamicsReport, "curves" | "groups" | "sawTeeth">

const STANDARD = "standard"
const SINKS = "sinks"

/** Groups that are shown again and again up to the end, most often first. */
const repeatedGroups = ({ groups }: Report): ReadonlyArray<Group> =>
  groups.filter(({ every, lastShown, withheld }) => every !== undefined && lastShown !== undefined && !withheld)
    .sort((a, b) => b.exposures - a.exposures)

const curveOf = (report: Report, arm: string, group: string, mask: MaskState): Curve["points"] | undefined =>
  report.curves.find((one) => one.arm === arm && one.group === group && one.mask === mask)?.points

const fallThenRise = (report: Report): Outcome => {
  const [group] = repeatedGroups(report)
  const points = group === undefined ? undefined : curveOf(report, SINKS, group.name, "off")
  if (points === undefined || points.length < 3) {
    return untested(`arm ${SINKS} with sinks off, and a group that is shown up to the end`)
  }
  const losses = points.map(({ loss }) => loss)
  const least = perSeed((...values) => Math.min(...values), ...losses)
  const rise = perSeed((last, least) => last / least - 1, losses.at(-1), least)
  if (rise === undefined) return untested(`whole curves of ${SINKS} with sinks off`)
  const foils = curveOf(report, SINKS, "foils", "off")?.at(-1)?.loss
  return {
    result: isAtLeast(rise, 0.1),
    evidence: `${group!.name}: ${
      list(["lowest", least], ["at the end", losses.at(-1)!], ["rise", rise], ["held out at the end", foils])
    }`
  }
}

const protectedMemory = (report: Report): Outcome => {
  const of = (arm: string) =>
    report.sawTeeth.find((one) => one.arm === arm && one.mask === "own" && isKnown(one.late.decay))
  const [sinks, standard] = [of(SINKS), of(STANDARD)]
  const decay = minus(sinks?.late.decay, standard?.late.decay)
  const before = minus(sinks?.late.before, standard?.late.before)
  if (sinks === undefined || standard === undefined || decay === undefined || before === undefined) {
    return untested(`arms ${SINKS} and ${STANDARD}, and a group that is probed around its exposures`)
  }
  return {
    result: all(isAtMost(decay, 0), isAtMost(before, 0)),
    evidence: `${sinks.group}, last third of ${sinks.teeth.length} exposures: ` + list(
      [`forgotten between two exposures: ${SINKS}`, sinks.late.decay],
      [STANDARD, standard.late.decay],
      ["difference", decay],
      [`loss before an exposure: ${SINKS}`, sinks.late.before],
      [STANDARD, standard.late.before],
      ["difference", before]
    )
  }
}

const inequalities = (simulations: ReadonlyArray<Simulation>): Outcome => {
  const failed = simulations.filter(({ holds }) => !holds)
  const checked = simulations.flatMap(({ inequalities }) => inequalities).reduce((sum, one) => sum + one.checked, 0)
  return {
    result: failed.length === 0 ? "held" : "did not hold",
    evidence: `${simulations.length} simulations in float64, ${checked} checks` +
      (failed.length === 0 ? ", none failed" : `; failed: ${failed.map(({ name }) => name).join(", ")}`)
  }
}

/** Claims 4, 11 and 13 of the list of isolation checks. */
export const claimsOf = (report: Report, simulations: ReadonlyArray<Simulation>): ReadonlyArray<Claim> => [
  {
    number: 4,
    claim: "With sinks off the loss on repeated sequences falls, then rises by at least 10 %",
    ...fallThenRise(report)
  },
  {
    number: 11,
    claim: "With its own sinks a sequence is forgotten less between its exposures, and is better known before each",
    ...protectedMemory(report)
  },
  { number: 13, claim: "The inequalities of the theory hold at every step", ...inequalities(simulations) }
]
