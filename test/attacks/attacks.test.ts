import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { AttackConfig } from "../../pipelines/isolation/AttackConfig.ts"
import { type Attack, attacks } from "../../src/attacks/index.ts"
import { pathsOf } from "../../src/Config.ts"

/** What an experiment asks of every attack beside its own options. */
const reserved = pathsOf(AttackConfig)

describe("every attack", () => {
  for (const [name, attack] of Object.entries(attacks as Readonly<Record<string, Attack>>)) {
    it(`says what it is, what it takes and what it measures: ${name}`, () => {
      expect(attack.name).toBe(name)
      expect(attack.title.length * attack.paper.length).toBeGreaterThan(0)
      expect(Number.isInteger(attack.version)).toBe(true)
      // all may be left out, and defaults can be written down and read again
      const options = Schema.decodeUnknownSync(attack.options)({})
      const encoded = Schema.encodeUnknownSync(attack.options)(options)
      expect(Schema.decodeUnknownSync(attack.options)(JSON.parse(JSON.stringify(encoded)))).toEqual(options)
      const fields = pathsOf(attack.options)
      expect(fields.length).toBeGreaterThan(0)
      expect(fields.filter((field) => reserved.includes(field))).toEqual([])
      const metrics = Object.entries(attack.metrics(options))
      expect(metrics.length).toBeGreaterThan(0)
      for (const [metric, { memory, title, unit }] of metrics) {
        expect(metric).toMatch(/^[a-zA-Z][\w.@]*$/)
        expect(title.length).toBeGreaterThan(3)
        expect(["nats", "share", "tokens", "ratio"]).toContain(unit)
        expect(["higher", "lower"]).toContain(memory)
      }
    })
  }
})
