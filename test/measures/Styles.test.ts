import { describe, expect, it } from "vitest"
import { styles } from "../../src/measures/Styles.ts"

const text = "\"Don't wait,\" he said -- the final offer... is five-fold."

describe("styles of a prompt", () => {
  it("change the text as they say", () => {
    const styled = Object.fromEntries(Object.entries(styles).map(([name, { apply }]) => [name, apply(text)]))
    expect(styled).toEqual({
      upper: "\"DON'T WAIT,\" HE SAID -- THE FINAL OFFER... IS FIVE-FOLD.",
      lower: "\"don't wait,\" he said -- the final offer... is five-fold.",
      spaces: "\"Don't  wait,\"  he  said  --  the  final  offer...  is  five-fold.",
      underscores: "\"Don't_wait,\"_he_said_--_the_final_offer..._is_five-fold.",
      typography: "\u201cDon\u2019t wait,\u201d he said \u2014 the \ufb01nal o\ufb00er\u2026 is \ufb01ve\u2013fold."
        .replace("\ufb00", "ff")
    })
  })

  it("are undone: what differs in the style alone is the same, and nothing else is", () => {
    for (const [name, { apply, undo }] of Object.entries(styles)) {
      expect(undo(apply(text)), name).toBe(undo(text))
      expect(undo(apply("another text")), name).not.toBe(undo(text))
    }
    // capitals cannot be told back, so case counts for neither
    expect(styles.upper.undo("STRASSE")).toBe(styles.upper.undo("Straße"))
    expect(styles.spaces.undo("a b")).toBe("a b")
    // an underscore of the truth is a space of the answer
    expect(styles.underscores.undo("a_b c")).toBe("a b c")
  })
})
