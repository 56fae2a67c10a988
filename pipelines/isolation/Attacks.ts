/** Attacks on the models of an experiment: a job for each attack on each model in each state of its sinks. */
import * as Effect from "effect/Effect"
import { type Attack, type AttackSample, sampleOf } from "../../src/attacks/index.ts"
import { DataError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import type { Model } from "../../src/model/Model.ts"
import * as Sink from "../../src/Sink.ts"
import type { Files } from "../experiment/Train.ts"
import { type AttackedState, type AttackMethod, attackNamed, attackProblem } from "./AttackConfig.ts"
import * as Jobs from "./Jobs.ts"
import { hasSlices, most, nameOfModel } from "./Look.ts"
import { configOf, type Lab, type Labs, type ModelInput, type ModelRef, workOf } from "./Models.ts"
import { keyOfModel, opened } from "./PostHoc.ts"

export interface AttackInput extends ModelInput {
  /** By the name that the configuration has for it. */
  readonly attack: string
  readonly state: AttackedState
  /** The oracle; absent where it failed. */
  readonly reference?: ModelRef
  /** The standard model; absent where it failed. */
  readonly standard?: ModelRef
}

/** The models that an attack looks at beside the one that it is on. */
const beside = ({ needsReference = false, needsStandard = false }: Attack, input: AttackInput) => ({
  ...(needsReference && input.reference !== undefined ? { reference: input.reference } : {}),
  ...(needsStandard && input.standard !== undefined ? { standard: input.standard } : {})
})

const methodOf = ({ attacks }: Lab, name: string): AttackMethod => attacks.find((one) => one.name === name)!

/** The sequences that an attack is given. */
const sequencesOf = ({ world }: Lab, { sequences = Infinity }: AttackMethod) => ({
  rows: most(world.splits.scored, world).slice(0, sequences),
  seen: world.splits.seen.slice(0, sequences),
  others: world.splits.heldOut.slice(0, sequences)
})

const tokenizerOf = ({ config, world }: Lab) => config.world.world === "text" ? { tokenizer: world.tokenizer } : {}

/** The states in which a model is attacked: one without sinks as it is, whatever the states. */
export const attackedStates = (lab: Lab, { states }: AttackMethod, model: ModelRef): ReadonlyArray<AttackedState> => {
  const config = configOf(lab, model)
  return config.sinks === undefined ? ["own"] : states.filter((state) => state !== "placebo" || hasSlices(config))
}

/** Fails with one DataError that says what is wrong with attacks in this experiment, before anything is trained. */
export const checkAttacks = (lab: Lab): Effect.Effect<void, DataError> => {
  const problems = lab.attacks.flatMap((method) => {
    const { others, rows, seen } = sequencesOf(lab, method)
    const hasText = lab.config.world.world === "text"
    const ground = { model: lab.config.model, seqLen: lab.world.seqLen, rows: rows.length, seen: seen.length,
      others: others.length, ...(hasText ? { texts: () => lab.world.texts(rows) } : {}) }
    return attackProblem(method, ground, hasText) ?? []
  })
  return problems.length === 0
    ? Effect.void
    : new DataError({ detail: ["the experiment cannot be made:", ...problems.map((one) => `  ${one}`)].join("\n") })
}

/**
 * What an attack got out of a model in a state, by the attack's own names of metrics, whatever the report calls it; JSON.
 * Metrics that could not be had are left out.
 */
export type Attacked = Readonly<Record<string, AttackSample>>

/** An attack on a model in a state of its sinks. */
export const attackWork = (labs: Labs) =>
  workOf<AttackInput, Attacked>(labs, (lab, input) => {
    const { attack, model, state } = input
    const method = methodOf(lab, attack)
    const tried = attackNamed(method.method)
    const { reference, standard } = beside(tried, input)
    return Jobs.attack(keyOfModel(lab, model), {
      attack: method.method,
      version: tried.version,
      options: method.encoded,
      sequences: method.sequences,
      state,
      seed: lab.seed,
      reference: reference === undefined ? undefined : keyOfModel(lab, reference),
      ...(standard === undefined ? {} : { standard: keyOfModel(lab, standard) })
    })
  }, (lab, input, at) =>
    Effect.gen(function*() {
      const { attack, model, state } = input
      const method = methodOf(lab, attack)
      const tried = attackNamed(method.method)
      const { metrics, run } = tried
      yield* at.stage(`seed ${lab.seed}: attack ${attack} on ${nameOfModel(model)}, ${Sink.states[state].title}`)
      const files = yield* Effect.context<Files>()
      const { reference, standard } = beside(tried, input)
      const on = (other: ModelRef) => <A, E>(use: Effect.Effect<A, E, Model | Device>) =>
        Effect.provide(opened(labs, lab, other, at, use), files)
      const got = yield* opened(labs, lab, model, at, run({
        ...sequencesOf(lab, method),
        mode: Sink.states[state].mode,
        seed: lab.seed,
        seqLen: lab.world.seqLen,
        batchSize: Jobs.ROWS,
        ...tokenizerOf(lab),
        ...(reference === undefined ? {} : { reference: on(reference) }),
        ...(standard === undefined ? {} : { standard: on(standard) })
      }, method.options))
      const known = metrics(method.options)
      return Object.fromEntries(Object.entries(got).flatMap(([metric, value]) => {
        // a fault of the attack's, not of its data
        if (!Object.hasOwn(known, metric)) throw new Error(`attack ${method.method} has no metric ${metric}`)
        const sample = sampleOf(value)
        return sample === undefined ? [] : [[metric, sample]]
      }))
    }))
