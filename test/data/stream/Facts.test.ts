/** The world of facts: who states what is known, and stays so when sources are deleted. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { describe, expect, it } from "vitest"
import { sourceHash } from "../../../src/data/identity/Identity.ts"
import { DataStream } from "../../../src/data/stream/DataStream.ts"
import * as Facts from "../../../src/data/stream/Facts.ts"
import * as Synthetic from "../../../src/data/stream/Synthetic.ts"
import { keyOf } from "../../../src/Key.ts"

const world = Facts.facts({ seed: 3 })
const textOf = (tokens: Uint32Array) => world.tokenizer.decode(tokens)
/** Documents that hold a sentence with the professor's surname, one of the attribute's verbs and the value. */
const statedBy = ({ professor, value }: Facts.Fact, sentence: (verb: string) => string, verbs: ReadonlyArray<string>) =>
  world.sequences.filter((one) => one.professor === professor && one.split === "document").filter(({ tokens }) =>
    verbs.some((verb) => ` ${textOf(tokens)} `.includes(` ${sentence(verb)} ${value} `))
  ).map(({ source }) => source)
const verbsOf = (fact: Facts.Fact) => {
  const surname = world.professors[fact.professor]!.split(" ")[1]!
  const verbs = new Set(world.clozes(fact).map(({ prompt }) => textOf(prompt).split(` ${surname} `).at(-1)!))
  return { surname, verbs: [...verbs] }
}

describe("facts", () => {
  it("are stated by just the sources that they name", () => {
    expect(world.facts.length).toBe(32 * (8 + 4 + 2 * 3))
    for (const fact of world.facts) {
      const { surname, verbs } = verbsOf(fact)
      expect(verbs.length).toBe(2)
      const found = statedBy(fact, (verb) => `${surname} ${verb}`, verbs)
      expect(found.sort()).toEqual(fact.sources.map((s) => world.sources[s]!.name).sort())
    }
  })

  it("are in one source where unique or inferred, in several where shared", () => {
    const count = (kind: Facts.FactKind) => world.facts.filter((fact) => fact.kind === kind)
    expect(count("unique").every(({ sources }) => sources.length === 1)).toBe(true)
    expect(count("inferred").every(({ sources }) => sources.length === 1)).toBe(true)
    for (const kind of ["shared", "premise", "example"] as const) {
      expect(count(kind).every(({ sources }) => new Set(sources).size === 4)).toBe(true)
    }
    // each source has one unique fact of each professor
    for (let s = 0; s < 8; s++) expect(count("unique").filter(({ sources }) => sources[0] === s).length).toBe(32)
    expect(count("inferred").length).toBe(48)
    expect(count("example").length).toBe(48)
  })

  it("follow by their rule: equal premises have equal conclusions, others have others", () => {
    const conclusions = new Map<string, Set<string>>()
    for (const { attribute, premise, sources, value } of world.facts) {
      if (premise === undefined) continue
      const from = world.facts[premise]!
      expect(from.attribute).toBe(attribute - 1)
      expect(sources.every((s) => from.sources.includes(s))).toBe(true)
      const key = `${from.attribute} ${from.value}`
      conclusions.set(key, (conclusions.get(key) ?? new Set()).add(`${attribute} ${value}`))
    }
    expect(conclusions.size).toBe(3 * 4)
    expect([...conclusions.values()].every((values) => values.size === 1)).toBe(true)
    expect(new Set([...conclusions.values()].flatMap((values) => [...values])).size).toBe(12)
  })

  it("state a conclusion right behind its premise, so that the rule can be learned", () => {
    for (const { states } of world.sequences) {
      states.forEach((f, i) => {
        const { premise } = world.facts[f]!
        if (premise !== undefined) expect(states[i - 1]).toBe(premise)
      })
    }
  })

  it("have wrong completions that are none of theirs, as long, and not the same twice", () => {
    for (const fact of world.facts) {
      expect(new Set([fact.value, ...fact.wrong]).size).toBe(4)
      expect(new Set([fact.value, ...fact.wrong].map((value) => value.split(" ").length)).size).toBe(1)
    }
  })

  it("are asked in every style, of inferred ones behind the premise, and never with the answer", () => {
    for (const fact of world.facts) {
      const clozes = world.clozes(fact)
      expect(clozes.length).toBe(4)
      for (const { prompt, right, wrong } of clozes) {
        expect(textOf(right)).toBe(fact.value)
        expect(wrong.map(textOf)).toEqual(fact.wrong)
        expect(` ${textOf(prompt)} `).not.toContain(` ${fact.value} `)
        const premise = fact.kind === "inferred" ? world.facts[fact.premise!]!.value : undefined
        if (premise !== undefined) expect(textOf(prompt)).toContain(` ${premise} `)
      }
    }
  })

  it("do not depend on the process, and differ with the seed", () => {
    const again = Facts.facts({ seed: 3 })
    expect(again.sequences.map(({ tokens }) => tokens.join())).toEqual(
      world.sequences.map(({ tokens }) => tokens.join())
    )
    expect(Facts.facts({ seed: 4 }).sequences[0]!.tokens).not.toEqual(world.sequences[0]!.tokens)
    // as on Deno
    const all = keyOf([world.sequences.map(({ name, tokens }) => [name, [...tokens]]),
      world.facts.map((one) => ({ ...one }))])
    expect(all).toBe("5a601565cc51b160b5851e48b5d158a8ec59e6e7cfc98a96002ee7dfb18ac05a")
    const { sequences, tokenizer } = Facts.facts({ seed: 1 })
    expect(tokenizer.decode(sequences[1]!.tokens).slice(0, 44)).toBe("profile of gus bimston : bimston belongs to ")
  })

  it("are told in texts, too, which give the same tokens", () => {
    const texts = Facts.textsOf(world, world.sequences)
    expect(texts[1]!.text).toBe(textOf(world.sequences[1]!.tokens))
    expect(texts.every(({ text }, i) => world.tokenizer.encode(text).join() === world.sequences[i]!.tokens.join()))
      .toBe(true)
    expect(new Set(texts.map(({ source }) => source)).size).toBe(8)
  })

  it("of held-out professors are in no document that is trained on", () => {
    const unseen = world.sequences.filter(({ split }) => split === "heldOut")
    expect(new Set(unseen.map(({ professor }) => professor))).toEqual(new Set([32, 33, 34, 35]))
    expect(unseen.every(({ repeats }) => repeats === 0)).toBe(true)
    expect(world.sequences.filter(({ split }) => split === "document").every(({ professor }) => professor < 32)).toBe(
      true
    )
  })

  it("are refused, with what is needed, where the world is too small", () => {
    expect(() => Facts.facts({ professors: 6, sharedBy: 9 })).toThrow(/sharedBy .* 2 to 8[^]*raise professors to 16/)
    expect(() => Facts.facts({ unique: 8, shared: 6 })).toThrow("shared must be a whole number from 0 to 4")
    expect(() => Facts.facts({ distractors: 4 })).toThrow("raise groups")
    expect(() => Facts.facts({ unique: 0, shared: 0, rules: 0 })).toThrow("there are no facts")
  })
})

describe("a deletion", () => {
  const names = ["profile 1", "interview 1"]
  const found = Facts.deletion(world, names)

  it("takes unique facts away, leaves shared ones stated, and inferred ones a rule away", () => {
    const left = new Set(Facts.without(world.sequences, names).flatMap(({ states }) => states))
    const index = new Map(world.facts.map((fact, f) => [fact, f]))
    expect(found.unique.length).toBe(64)
    expect(found.unique.every((fact) => !left.has(index.get(fact)!))).toBe(true)
    expect(found.shared.length).toBeGreaterThan(64)
    expect(found.shared.every((fact) => left.has(index.get(fact)!))).toBe(true)
    expect(found.inferred.length).toBeGreaterThan(4)
    expect(found.inferred.every((fact) => !left.has(index.get(fact)!) && left.has(fact.premise!))).toBe(true)
    expect(found.kept.every((fact) => left.has(index.get(fact)!))).toBe(true)
    expect(found.kept.length).toBe(6 * 32)
  })

  it("is refused where a name is none, a style is lost, or a class has too few facts", () => {
    expect(() => Facts.deletion(world, ["profile 9"])).toThrow("there is no source \"profile 9\": there are profile 1")
    expect(() => Facts.deletion(world, [])).toThrow("name at least one")
    expect(() => Facts.deletion(world, ["list 1", "list 2"])).toThrow("no source is left that writes as list 1")
    expect(() => Facts.deletion(world, names, { inferred: 100, unique: 64 })).toThrow(
      /\d+ of 100 inferred facts are left[^]*About \d{3} professors instead of 32/
    )
  })

  it("sends questions to the survivor that is most like the source: one of the same style", () => {
    for (const s of found.deleted) {
      const nearest = Facts.nearestSource(world, s, found.survivors)
      expect(found.survivors).toContain(nearest)
      expect(world.sources[nearest]!.style).toBe(world.sources[s]!.style)
    }
  })
})

layer(Layer.empty)("a stream of facts", (it) => {
  it.effect("gives every document of a source its id, and none of what is held out or deleted", () =>
    Effect.gen(function*() {
      const kept = Facts.without(world.sequences, ["list 1"])
      const layer = DataStream.layerTokens(Synthetic.tokenDocuments(kept), world.tokenizer, {
        seqLen: world.longest - 1,
        batchSize: 4,
        heldOutFraction: 0,
        identity: "source",
        sources: Synthetic.mixture(kept)
      })
      const names = yield* Effect.provide(Effect.flatMap(DataStream, ({ names }) => names), layer)
      expect(new Map(names!.ids.map(({ id, name }) => [name, id]))).toEqual(
        new Map(world.sources.filter(({ name }) => name !== "list 1").map(({ name }) => [name, sourceHash(name)]))
      )
      const report = yield* Effect.provide(Effect.map(DataStream, ({ report }) => report), layer)
      expect(report.exposures).toBe(kept.filter(({ split }) => split === "document").length)
    }))
})
