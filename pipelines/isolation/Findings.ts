/**
 * Everything that is asked of one seed: methods that come after training are swept, and each model is looked at, made to
 * remember and checked. All of it is jobs; what fails is told and left out, and the others go on.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Device } from "../../src/gpu/Device.ts"
import * as Measures from "../../src/measures/Metrics.ts"
import { relearnRatio, stepsToBack } from "../../src/removal/Relearn.ts"
import * as Sink from "../../src/Sink.ts"
import { ORACLE, STANDARD } from "../experiment/Arms.ts"
import type { Engine } from "../experiment/Experiment.ts"
import type { Work } from "../experiment/Job.ts"
import type { Files } from "../experiment/Train.ts"
import { attackedStates, attackWork } from "./Attacks.ts"
import * as Checks from "./Checks.ts"
import * as Jobs from "./Jobs.ts"
import { gapMetric, hasSlices, lookWork } from "./Look.ts"
import { at, repeatedLoss } from "./Metrics.ts"
import { configOf, type IsolateError, type Labs, type ModelRef, type SeedInput, type Trained } from "./Models.ts"
import * as PostHoc from "./PostHoc.ts"
import type { MaskState, Panel, Subject } from "./Report.ts"
import type { Found, SeedFindings } from "./Summary.ts"

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends ReadonlyArray<infer A> ? Array<A> : T[K] }

/** A model that is looked at. */
interface Examined {
  readonly name: string
  readonly kind: Subject["kind"]
  readonly model: ModelRef
  readonly setting?: string
}

const sum = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0)

/** Asks everything of a seed whose arms are trained. Fails only where it concerns every arm. */
export const investigate = (
  labs: Labs,
  engine: Engine,
  input: SeedInput,
  trained: ReadonlyMap<string, Trained>
): Effect.Effect<SeedFindings, IsolateError, Device | Files> =>
  Effect.gen(function*() {
    const lab = yield* labs.of(input, engine)
    const { config, seed, world: { seqLen, splits } } = lab
    const findings: Mutable<SeedFindings> = {
      seed,
      found: [],
      curves: [],
      tradeoffs: [],
      extraction: [],
      relearning: [],
      interference: [],
      hygiene: [],
      localizers: [],
      costs: []
    }
    /** Does jobs of a kind, each of something that is told by its name. */
    const each = <Of extends object, A>(
      kind: Jobs.Kind,
      work: Work<SeedInput & Of, A>,
      all: ReadonlyArray<{ readonly name: string; readonly of: Of; readonly what?: string }>
    ) =>
      engine.perform(work,
        all.map(({ name, of, ...rest }) => ({ kind, arm: name, seed, input: { ...input, ...of }, ...rest })), {
        span: kind
      })
    /** The same of models. */
    const eachModel = <A>(
      kind: Jobs.Kind,
      work: Work<SeedInput & { readonly model: ModelRef }, A>,
      all: ReadonlyArray<Examined>
    ) =>
      Effect.map(each(kind, work, all.map(({ model, name }) => ({ name, of: { model } }))), (found) =>
        all.flatMap((one, i) => Option.match(found[i]!, { onNone: () => [], onSome: (value) => [{ one, value }] })))

    // ---- arms
    const examined: Array<Examined> = []
    for (const arm of lab.arms) {
      const result = trained.get(arm.name)
      if (result === undefined) {
        continue
      }
      const { activeParameters, curves, parameters, seconds, steps, tokens } = result
      examined.push({ name: arm.name, kind: "trained", model: { arm: arm.name } })
      const variant = Jobs.variantOf(arm)
      findings.costs.push({
        name: arm.name,
        ...(variant === undefined ? {} : { variant }),
        kind: "trained",
        title: Jobs.titleOf(arm),
        parameters,
        activeParameters,
        steps,
        tokens,
        seconds
      })
      findings.curves.push(...curves.map(({ name, points }) => ({ arm: arm.name, series: name, points: [...points] })))
    }
    const byName = (name: string) =>
      examined.find((one) => one.name === name)
    const [standard, oracle] = [byName(STANDARD), byName(ORACLE)]

    // ---- after training
    /** The setting of each localizer that was chosen, by its label. */
    const localized = new Map<string, string>()
    const lossesOf = (state: "own" | "off", all: ReadonlyArray<Examined>) =>
      Effect.map(
        each("losses", PostHoc.lossesWork(labs), all.map(({ model, name }) => ({ name, of: { model, state } }))),
        (found) => found.map(Option.getOrUndefined)
      )
    const [before, target] = standard === undefined || oracle === undefined
      ? []
      : yield* lossesOf("own", [standard, oracle])
    if (before !== undefined && target !== undefined) {
      const panels: ReadonlyArray<Panel> = splits.canaryScored.length > 0 ? ["natural", "canary"] : ["natural"]
      const scoredBy = { natural: "scored", canary: "canaryScored", other: "other" } as const
      const trade = (
        arm: string,
        panel: Panel,
        points: ReadonlyArray<Pick<PostHoc.SweepPoint, "setting" | "losses"> & Partial<PostHoc.SweepPoint>>,
        chosen: number
      ) =>
        findings.tradeoffs.push({
          arm,
          panel,
          points: points.map(({ losses, series = "", setting }, i) => ({
            setting,
            ...(series === "" ? {} : { series }),
            degradation: losses["heldOut"]! - before["heldOut"]!,
            forgetting: losses[scoredBy[panel]]! - before[scoredBy[panel]]!,
            chosen: i === chosen
          }))
        })
      const plain = configOf(lab, standard!.model)
      const add = (one: Examined, settings: number, tokens: number, seconds: number) => {
        examined.push(one)
        findings.costs.push({
          name: one.name,
          kind: one.kind,
          title: `${one.kind} on ${STANDARD}`,
          parameters: plain.numParameters,
          activeParameters: plain.numActiveParameters,
          steps: 0,
          tokens,
          seconds,
          settings
        })
      }
      for (const { name, settings } of lab.localizers) {
        for (const panel of panels) {
          const tried = settings.map(({ label }) => ({ name, of: { localizer: name, setting: label, panel } }))
          const scores = Option.all(yield* each("localizers", PostHoc.localizerWork(labs), tried))
          if (Option.isNone(scores)) break
          const found = Option.all(yield* each("sweeps", PostHoc.localizerSweepWork(labs), tried))
          if (Option.isNone(found)) break
          const points = found.value.flatMap((points, i) =>
            points.map((point): PostHoc.SweepPoint => {
              const { label } = settings[i]!
              return { ...point, series: label,
                setting: `fraction ${point.fraction}${label === "" ? "" : ` at ${label}`}` }
            })
          )
          const chosen = PostHoc.choose(points, target, panel === "canary" ? "canarySeen" : "seen")
          trade(name, panel, points, chosen)
          if (panel !== "natural") continue
          const { fraction, series, setting } = points[chosen]!
          const model = { localizer: name, setting: series, panel, fraction: fraction! }
          const seconds = sum(scores.value.map(({ seconds }) => seconds))
          add({ name, kind: "localizer", model, setting }, settings.length, 0, seconds)
          localized.set(name, series)
        }
      }
      for (const { name, settings } of lab.unlearners) {
        const found = Option.all(
          yield* each("unlearning", PostHoc.unlearnerWork(labs),
            settings.map(({ label }) => ({ name, of: { unlearner: name, setting: label } })))
        )
        if (Option.isNone(found)) continue
        const points = found.value.flatMap(({ value }, i) =>
          value.map((point): PostHoc.SweepPoint => {
            const { label } = settings[i]!
            return { ...point, series: label, setting: `step ${point.step} at ${label}` }
          })
        )
        const chosen = PostHoc.choose(points, target, "seen")
        for (const panel of panels) trade(name, panel, points, chosen)
        const { series, setting, step = 0 } = points[chosen]!
        const { options } = settings.find(({ label }) => label === series)!
        const tokens = step * 2 * options.batchSize * seqLen
        const seconds = sum(found.value.map(({ seconds }) => seconds))
        add({ name, kind: "unlearner", model: { unlearner: name, setting: series, step }, setting }, settings.length,
          tokens, seconds)
      }
      // every other arm is a point on the same plane
      const arms = examined.filter(({ kind, name }) => kind === "trained" && name !== STANDARD)
      const off = yield* lossesOf("off", arms)
      arms.forEach(({ model, name }, i) => {
        const losses = off[i]
        if (losses === undefined) return
        const setting = configOf(lab, model).sinks === undefined ? "" : "off"
        for (const panel of panels) trade(name, panel, [{ setting, losses }], 0)
      })
    }

    // ---- what each knows, in each state
    const looked = yield* each("looks", lookWork(labs), examined.map(({ model, name }) => ({
      name,
      of: { model, ...(oracle === undefined ? {} : { reference: oracle.model }) }
    })))
    examined.forEach(({ kind, name, setting }, i) => {
      for (const { extraction, found } of Option.toArray(looked[i]!)) {
        findings.extraction.push(...extraction)
        findings.found.push(
          ...found.map((one): Found => ({ arm: name, kind, ...one, ...(setting === undefined ? {} : { setting }) }))
        )
      }
    })
    const known = (arm: string, state: MaskState, key = repeatedLoss) =>
      at(findings.found.find((one) => one.arm === arm && one.state === state)?.metrics, key)?.value
    const open = known(STANDARD, "own", gapMetric)
    if (open !== undefined) {
      findings.found = findings.found.map((found): Found => {
        const own = at(found.metrics, gapMetric)?.value
        return own === undefined ?
          found :
          { ...found,
            metrics: [...found.metrics, { ...gapMetric, metric: "closed", value: Measures.fractionClosed(own, open) }] }
      })
    }

    // ---- what is got out of each
    const tried = lab.attacks.flatMap((attack) =>
      examined.filter(({ name }) => attack.models?.includes(name) ?? true).flatMap((one) =>
        attackedStates(lab, attack, one.model).map((state) => ({ attack, one, state }))
      )
    )
    const got = yield* each("attacks", attackWork(labs), tried.map(({ attack: { name: attack }, one, state }) => ({
      name: one.name,
      what: `attack ${attack}, ${Sink.states[state].title}`,
      of: { model: one.model, attack, state, ...(oracle === undefined ? {} : { reference: oracle.model }),
        ...(standard === undefined ? {} : { standard: standard.model }) }
    })))
    tried.forEach(({ attack, one: { kind, name, setting }, state }, i) => {
      for (const values of Option.toArray(got[i]!)) {
        const metrics = attack.metrics.flatMap(({ group, kind, metric }) => {
          const value = values[metric.slice(attack.name.length + 1)]
          return value === undefined ? [] : [{ group, metric, kind, ...value }]
        })
        const known = findings.found.findIndex((one) => one.arm === name && one.kind === kind && one.state === state)
        if (known < 0) {
          findings.found.push({ arm: name, kind, state, ...(setting === undefined ? {} : { setting }), metrics })
        } else {
          const found = findings.found[known]!
          findings.found[known] = { ...found, metrics: [...found.metrics, ...metrics] }
        }
      }
    })

    // ---- whether it comes back
    if (before !== undefined && target !== undefined) {
      const levels = { oracle: target["scored"]!, standard: before["scored"]! }
      let oracleSteps: number | undefined
      const again = [oracle!, ...examined.filter((one) => one !== oracle)]
      for (const { one, value: points } of yield* eachModel("relearning", Checks.relearnWork(labs), again)) {
        const steps = stepsToBack(points, { ...levels, set: "scored", share: config.relearnBack })
        if (one === oracle) oracleSteps = steps
        const best = Math.min(...points.map(({ losses }) => losses["scored"]!))
        findings.relearning.push({
          arm: one.name,
          state: configOf(lab, one.model).sinks === undefined ? "own" : "off",
          points: points.map(({ learningRate, losses, step }) => ({
            learningRate,
            step,
            seen: losses["seen"]!,
            scored: losses["scored"]!,
            heldOut: losses["heldOut"]!
          })),
          steps: steps ?? null,
          recovered: (best - levels.oracle) / (levels.standard - levels.oracle),
          ratio: relearnRatio(steps, oracleSteps, config.relearnSteps)
        })
      }
    }

    // ---- whether sinks keep to themselves
    const sliced = examined.filter(({ model }) => hasSlices(configOf(lab, model)))
    for (const { one, value } of yield* eachModel("hygiene", Checks.hygieneWork(labs), sliced)) {
      findings.hygiene.push({ arm: one.name, seed, checks: value })
    }
    for (const { one, value } of yield* eachModel("interference", Checks.interferenceWork(labs), sliced)) {
      const { deletion, ladder, placeboOff, sliceContent } = value
      const [off, memorized, never] = [known(one.name, "off"), known(STANDARD, "own"), known(ORACLE, "own")]
      findings.interference.push({
        arm: one.name,
        ladder,
        ...sliceContent,
        ...(placeboOff === null ? {} : { placeboOff }),
        deletionMean: deletion.mean,
        deletionWorst: deletion.worst,
        ...(off === undefined || memorized === undefined || never === undefined
          ? {}
          : { leakage: (off - never) / (memorized - never) })
      })
    }
    const sinks = sliced.find(({ name }) => name === "sinks")
    if (sinks !== undefined) {
      // a pass for every neuron of the whole pool is out of proportion
      const methods = lab.localizers.filter(({ method }) => method !== "zeroOut")
      const chance = Checks.knownSinks(lab, sinks).share
      const found = yield* each("recall", Checks.recallWork(labs), methods.map(({ name, settings }) => ({
        name,
        of: { model: sinks.model, localizer: name, setting: localized.get(name) ?? settings[0]!.label }
      })))
      methods.forEach(({ name }, i) => {
        for (const recall of Option.toArray(found[i]!)) {
          findings.localizers.push({ localizer: name, arm: sinks.name, recall, chance })
        }
      })
    }
    return findings
  })
