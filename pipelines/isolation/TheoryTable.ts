/** The four theorems on sinks as a table: whether they hold here, and that they can fail. */
import * as Theory from "../../src/measures/Theory.ts"

export interface TheoryRow {
  /** `entanglement`, `co-adaptation`, `forgetting`, `accumulation`. */
  readonly theorem: string
  /** In one sentence. */
  readonly claim: string
  /** Whether every inequality held at every step. */
  readonly holds: boolean
  /** The least by which one held; below 0 it failed. */
  readonly margin: number
  readonly steps: number
  /** Whether an inequality fails, as it must, where the theorem's assumption is broken on purpose. */
  readonly brokenFails: boolean
  /** Which inequality has the smallest margin, and which ones fail and at what step. */
  readonly note: string
}

const failures = ({ inequalities }: Theory.Simulation): string =>
  inequalities.filter(({ holds }) => !holds).map(({ failedAt, name }) => `"${name}" at step ${failedAt}`).join(", ")

/** Simulates all four theorems, and each with its assumption broken. Takes a few seconds at most; pure. */
export const theoryTable = (seed: number): ReadonlyArray<TheoryRow> => {
  const broken = Theory.theory({ seed, broken: true })
  return Theory.theory({ seed }).map((simulation, i): TheoryRow => {
    const closest = simulation.inequalities.reduce((least, one) => (one.slack < least.slack ? one : least))
    return {
      theorem: simulation.name,
      claim: simulation.claim,
      holds: simulation.holds,
      margin: closest.slack,
      steps: Object.values(simulation.trace)[0]!.length,
      brokenFails: !broken[i]!.holds,
      note: simulation.holds
        ? `closest: "${closest.name}"; without its assumption fails ${failures(broken[i]!) || "nothing"}`
        : `failed: ${failures(simulation)}`
    }
  })
}
