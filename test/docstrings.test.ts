/** The example in the docstring of each service, run as a program; what it prints stands below it. */
import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { examplesOf, runProgram, userFolder } from "./support/programs.ts"

const services = {
  Device: "src/gpu/Device.ts",
  Model: "src/model/Model.ts",
  DataStream: "src/data/stream/DataStream.ts",
  Checkpoints: "src/checkpoints/Checkpoints.ts",
  Trainer: "src/train/Trainer.ts",
  Collective: "src/collective/Collective.ts"
}

it("every service has an example in its docstring, which prints what it says", async () => {
  const folder = userFolder()
  try {
    const examples = Object.entries(services).map(([service, file]) => ({ service, ...examplesOf(file)[0]! }))
    for (const { code, service } of examples) writeFileSync(join(folder, `${service}.ts`), code)
    // one process for all, since what takes time is its beginning
    const all = examples.map(({ service }) => `console.log("== ${service}")\nawait import("./${service}.ts")\n`)
    writeFileSync(join(folder, "main.ts"), all.join(""))
    const printed = (await runProgram(folder, "main.ts")).replace(/^Warning: max.*\n|^\n/gm, "")
    expect(printed).toBe(examples.map(({ prints, service }) => `== ${service}\n${prints}`).join(""))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
