import { expect, it } from "vitest"
import { format } from "../../src/cli/compare.ts"

it("says first what is known more of the training's sequences, where intervals tell", () => {
  const of = (state: "own" | "off", value: number, low: number, high: number, split = "natural") => ({ state, split,
    value, low, high })
  const text = format({
    checkpoint: "a",
    against: "b",
    sequences: { natural: 4 },
    metrics: [],
    differences: [of("own", -0.5, -0.6, -0.4), of("own", 1, 0.9, 1.1, "heldOut"), of("off", 0.01, -0.02, 0.03)]
  }, (_, text) => text)
  expect(text.split("\n")[0]).toBe(
    "what it was trained on (natural) it knows, beside the other, with sinks own: 0.500 nats a token better; " +
      "off: neither better nor worse for sure"
  )
})
