import { describe, expect, it } from "vitest"
import { block, painter, printable, withoutCredentials } from "../src/Terminal.ts"

describe("what a terminal is given", () => {
  it("is shown, not obeyed: controls, escapes of C0 and C1, and turns of direction are written out", () => {
    expect(printable("a\u001b[2Jb\u001b]0;title\u0007c")).toBe("a\\u001b[2Jb\\u001b]0;title\\u0007c")
    expect(printable("\u009b31m \u007f \u202egpj.exe \u2066x\r")).toBe("\\u009b31m \\u007f \\u202egpj.exe \\u2066x\\u000d")
    // conceal, and black on black
    expect(printable("\u001b[8mhidden\u001b[30;40m")).toBe("\\u001b[8mhidden\\u001b[30;40m")
  })

  it("keeps lines, tabs, all that is text, and our own styles", () => {
    const text = `${painter(true)("red", "error:")} für ☕\t日本\n${painter(true)("mark", "x")}`
    expect(printable(text)).toBe(text)
  })

  it("means the same where it is JSON", () => {
    const value = { name: "a\u009b2J\u007f\u202e\u001b[1m" }
    expect(JSON.parse(printable(JSON.stringify(value)))).toEqual(value)
  })

  it("is so in lines that are rewritten", () => {
    const written: Array<string> = []
    block({ columns: 80, rows: 24, write: (text) => written.push(text) }).draw(["arm \u001b[2J"])
    expect(written.join("")).toBe("arm \\u001b[2J")
  })

  it("has no password of a URL in it", () => {
    expect(withoutCredentials("https://ann:pw@host/x?a@b is not http://u@h, ann@host")).toBe(
      "https://host/x?a@b is not http://h, ann@host"
    )
  })
})
