import { expect, it } from "vitest"
import { mayChange } from "../../src/train/Resume.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"

it("every field that a resumed run may change is one of a training's, named once, with a reason", () => {
  const fields = mayChange.map(({ field }) => field)
  expect(new Set(fields).size).toBe(fields.length)
  for (const field of fields) expect(Object.keys(TrainConfig.fields)).toContain(field.replace(/^training\./, ""))
  for (const decides of ["optimizer", "routing", "gradientAccumulation"]) {
    expect(fields).not.toContain(`training.${decides}`)
  }
  expect(mayChange.filter(({ to }) => to === "more").map(({ field }) => field)).toEqual(["training.steps"])
  for (const { why } of mayChange) expect(why).toMatch(/^\S.+\S$/)
})
