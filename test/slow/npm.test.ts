import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { fileURLToPath } from "node:url"
import { afterAll, expect, it, vi } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "memsinks-npm-"))
afterAll(() => rmSync(folder, { recursive: true }))

it("a command whose npm is sent SIGTERM stops: it ends the shell between the two", async () => {
  const file = join(folder, "said")
  const child = fileURLToPath(new URL("npm.child.ts", import.meta.url))
  // some shells become the last command that they run
  const shell = spawn("sh", ["-c", `"$0" --import tsx "$1" "$2"; :`, process.execPath, child, file], {
    stdio: "ignore",
    env: { ...process.env, npm_lifecycle_event: "memsinks", npm_package_name: "memsinks" }
  })
  await vi.waitUntil(() => existsSync(file) && readFileSync(file, "utf8") === "begun", { timeout: 60_000 })
  shell.kill("SIGTERM")
  await vi.waitUntil(() => readFileSync(file, "utf8") === "stopped", { timeout: 20_000 })
  expect(readFileSync(file, "utf8")).toBe("stopped")
}, 90_000)
