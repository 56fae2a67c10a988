/** Foils by rule, with known answers. */
import { describe, expect, it } from "vitest"
import { checkFoils, type FoilKind, foilKinds, foilOf, SYNONYMS } from "../../src/measures/Foils.ts"

const made = (text: string, kind: FoilKind) => foilOf(text, kind)?.text

describe("synonyms", () => {
  it("stand where their partners stood, in their case, with the article that they take", () => {
    expect(foilOf("Our Nation needs a big ship, and NEW laws.", "synonyms")).toEqual({
      text: "Our Country requires a large vessel, and FRESH statutes.",
      changes: [["Nation", "Country"], ["needs", "requires"], ["big", "large"], ["ship", "vessel"], ["NEW", "FRESH"], [
        "laws",
        "statutes"
      ]]
    })
    expect(made("It is an important task.", "synonyms")).toBe("It is a vital job.")
    expect(made("A goal, an effort", "synonyms")).toBe("An aim, an endeavor")
  })

  it("are undone by themselves, and no word has two partners", () => {
    const words = SYNONYMS.flat()
    expect(words.length).toBe(new Set(words).size)
    const text = "Many friends began the work of the government in the whole world."
    expect(made(made(text, "synonyms")!, "synonyms")).toBe(text)
  })
})

describe("paraphrases", () => {
  it("swap what is joined, but no names and nothing that holds phrases together", () => {
    expect(foilOf("We want peace and honor, or death.", "paraphrase")).toEqual({
      text: "We want honor and peace, or death.",
      changes: [["peace and honor", "honor and peace"]]
    })
    expect(made("Texas and Ohio, it and them", "paraphrase")).toBe(undefined)
  })

  it("put what opens a sentence at its end", () => {
    expect(made("In this hard year, the harvest failed. We go on.", "paraphrase")).toBe(
      "The harvest failed in this hard year. We go on."
    )
    expect(made("On Monday, they left; At noon, we came.", "paraphrase")).toBe("They left on Monday; We came at noon.")
  })

  it("say turns of phrase otherwise, the longest first, and those that say less never for more", () => {
    expect(made("Go in order to win, do not run.", "paraphrase")).toBe("Go so as to win, don't run.")
    expect(made("more than ten, over the hill", "paraphrase")).toBe("over ten, over the hill")
    expect(made("the ship which sank; that one", "paraphrase")).toBe("the ship that sank; that one")
  })
})

describe("scrambled texts", () => {
  const text = "the bells of three old towns rang out at noon"

  it("have the same words, or letters in each word, in another order", () => {
    const words = made(text, "scrambledWords")!
    expect(words).not.toBe(text)
    expect(words.split(" ").sort()).toEqual(text.split(" ").sort())
    const letters = made(text, "scrambledLetters")!
    expect(letters).not.toBe(text)
    expect(letters.split(" ").map((word) => [...word].sort().join(""))).toEqual(
      text.split(" ").map((word) => [...word].sort().join(""))
    )
  })

  it("are the same for a seed, and others for another", () => {
    expect(foilOf(text, "scrambledWords", { seed: 1 })).toEqual(foilOf(text, "scrambledWords", { seed: 1 }))
    expect(foilOf(text, "scrambledWords", { seed: 1 })).not.toEqual(foilOf(text, "scrambledWords", { seed: 2 }))
  })
})

describe("a text without a foil", () => {
  it("has none where no rule applies", () => {
    expect(foilKinds.map((kind) => made("a", kind))).toEqual([undefined, undefined, undefined, undefined])
    expect(made("aa bb", "scrambledLetters")).toBe(undefined)
    expect(made("x x x", "scrambledWords")).toBe(undefined)
    expect(made("Zyx qrst.", "synonyms")).toBe(undefined)
  })

  it("keeps its first and last word where they may be halves", () => {
    expect(foilOf("nation of the nation of many", "synonyms", { cut: true })!.text).toBe(
      "nation of the country of many"
    )
    expect(foilOf("big house", "synonyms", { cut: true })).toBe(undefined)
  })

  it("is an error that names it", () => {
    const check = (foils: ReadonlyArray<string>) =>
      checkFoils(["one", "two", "three"], foils, (text) => text, (text, i) => `${i + 1} (${text})`)
    expect(() => check(["eins", "zwei", "drei"])).not.toThrow()
    expect(() => check(["eins", "two", "three"])).toThrow(
      "the foil of 2 (two) equals its original, and so do those of 1 others"
    )
    expect(() => check(["eins"])).toThrow("3 originals and 1 foils")
  })
})
