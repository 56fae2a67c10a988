import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"

/** Writes to standard error as native code does, within `silently` and around it. */
const script = (hide: boolean) => `
  import * as fs from "node:fs"
  import { hideNativeLines, silently } from "./src/gpu/Silence.ts"
  process.stderr.write("before;")
  hideNativeLines(${hide})
  const got = silently(() => (fs.writeSync(2, "native;"), 7))
  try { silently(() => { throw new Error("thrown") }) } catch (error) { fs.writeSync(2, error.message + ";") }
  const file = fs.openSync("package.json")
  process.stderr.write(got + " " + (file > 2))
`

/** The shell's pipes are pipes; Node's own are sockets, which cannot be opened anew. */
const run = (hide: boolean, how: string) =>
  spawnSync("sh", ["-c", `"$NODE" --import tsx --input-type=module -e "$SCRIPT" ${how}`], {
    env: { ...process.env, NODE: process.execPath, SCRIPT: script(hide) },
    encoding: "utf8"
  }).stdout

describe.skipIf(process.platform !== "linux")("silence", () => {
  it("hides what native code writes to a pipe meanwhile, and nothing before and after, where it was asked for", () => {
    expect(run(true, "2>&1 | cat")).toBe("before;thrown;7 true")
    expect(run(false, "2>&1 | cat")).toBe("before;native;thrown;7 true")
  })

  it("leaves files alone, whose end others may share", () => {
    const folder = mkdtempSync(join(tmpdir(), "memsinks-"))
    try {
      const file = join(folder, "stderr.txt")
      run(true, `2>"${file}"`)
      expect(readFileSync(file, "utf8")).toBe("before;native;thrown;7 true")
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
