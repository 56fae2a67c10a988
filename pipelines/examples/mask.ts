/**
 * Whose sinks are whose: the units that an id lights follow from the id alone, in every layer, process and runtime.
 *
 *     npx tsx pipelines/examples/mask.ts
 */
import { Identity, Sink, SinkConfig } from "memsinks"

const config = new SinkConfig({ pool: 2048, active: 64, block: 16 })

const ids = ["Abraham Lincoln", "Ulysses S. Grant", "abraham lincoln"].map((name) =>
  [name, Identity.sourceHash(name)] as const
)

for (const [name, id] of ids) {
  // a unit is a block of 16 neurons beside each other
  console.log(`${name} is id ${id}, lights blocks ${Sink.unitsOf(config, id).join(", ")}`)
}

// Two ids share active / pool of their units on average.
const mine = new Set(Sink.unitsOf(config, 1n))
const others = Array.from({ length: 1000 }, (_, i) => Sink.unitsOf(config, BigInt(i + 2)))
const shared = others.map((units) => units.filter((unit) => mine.has(unit)).length / units.length)
const mean = shared.reduce((a, b) => a + b) / shared.length
console.log(`id 1 shares ${(100 * mean).toFixed(1)} % of its units with another; expected ${100 * 64 / 2048} %`)

// What general neurons and units are multiplied with: one's own units by 1; all of them by how often they are lit.
const general = 192
for (const mode of [Sink.own, Sink.off, Sink.all, Sink.placebo]) {
  const [first, ...units] = Sink.coefficients(config, general, mode, 1n)
  const lit = units.filter((x) => x !== 0)
  console.log(
    `${mode.mode}: general neurons times ${first!.toFixed(2)}, ${lit.length} of ${units.length} units times ` +
      `${(lit[0] ?? 0).toFixed(3)}`
  )
}
