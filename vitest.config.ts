import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/deno/**", "test/slow/**", "node_modules/**", "dist/**"],
    pool: "forks",
    // the software adapters use every core themselves
    poolOptions: { forks: { maxForks: 2 } },
    testTimeout: 120_000,
    hookTimeout: 120_000
  }
})
