import { defineConfig } from "vitest/config"
import base from "../../vitest.config.ts"

// what soaks: many kills, mutants, long trainings; `npm test` leaves it out
export default defineConfig({
  test: { ...base.test, include: ["test/slow/**/*.test.ts"], exclude: [], testTimeout: 600_000 }
})
