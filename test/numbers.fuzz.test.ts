import { expect, it } from "vitest"
import { random } from "../src/Random.ts"
import { fuzzers } from "./fuzz/numbers.ts"

for (const { name, run } of fuzzers) {
  it(name, async () => {
    expect(await run(random(7, name).uniform, 400, () => {})).toEqual([])
  })
}
