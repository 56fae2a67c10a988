/** A PostgreSQL server of the test's own, which may be killed and started again. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import process from "node:process"
import { setTimeout as sleep } from "node:timers/promises"

/** Where the programs of the newest server are, if there is one: on the PATH, or where Debian puts them. */
const programs = (): string | undefined => {
  const debian = "/usr/lib/postgresql"
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : []
  return [...(process.env["PATH"] ?? "").split(":"), ...versions.map((version) => join(debian, version, "bin"))]
    .find((folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "postgres")))
}

/** Whether there is a server, which root can start only as somebody else. */
export const hasPostgres = (): boolean =>
  programs() !== undefined && (process.getuid?.() !== 0 || spawnSync("id", ["-u", "postgres"]).status === 0)

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as { readonly port: number }
  server.close()
  await once(server, "close")
  return port
}

/** Starts a server with an empty database. */
export const startPostgres = async () => {
  const bin = programs()
  if (bin === undefined) throw new Error("no PostgreSQL here: .ci/postgres.sh installs one")
  const id = (flag: string) => Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }))
  const as = process.getuid?.() === 0 ? { uid: id("-u"), gid: id("-g") } : {}
  const home = mkdtempSync(join(tmpdir(), "memsinks-pg-"))
  const data = join(home, "data")
  chmodSync(home, 0o755)
  mkdirSync(data)
  if (as.uid !== undefined) chownSync(data, as.uid, as.gid)
  execFileSync(join(bin, "initdb"), ["-D", data, "-U", "memsinks", "--auth=trust", "--no-sync", "-E", "UTF8",
    "--no-locale"], { ...as, cwd: dirname(data), stdio: ["ignore", "ignore", "pipe"] })
  const port = await freePort()
  let server: ChildProcess | undefined
  let said = ""

  /** Starts it, which takes a while where parts of one that was killed are still there. */
  const start = async () => {
    for (let attempt = 0; attempt < 50; attempt++) {
      said = ""
      const child = spawn(join(bin, "postgres"), ["-D", data, "-p", String(port), "-k", data, "-c",
        "listen_addresses=127.0.0.1"], { ...as, cwd: home, stdio: ["ignore", "ignore", "pipe"] })
      server = child
      child.stderr.on("data", (text) => void (said += String(text)))
      for (let look = 0; look < 200 && child.exitCode === null && child.signalCode === null; look++) {
        await sleep(50)
        if (said.includes("is ready to accept connections")) return
      }
      child.kill("SIGKILL")
      await sleep(200)
    }
    throw new Error(`PostgreSQL does not start: ${said}`)
  }
  const end = async (signal: NodeJS.Signals) => {
    const child = server
    server = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const closed = once(child, "exit")
    child.kill(signal)
    await closed
  }
  await start()
  return {
    url: `postgres://memsinks@127.0.0.1:${port}/postgres`,
    start,
    /** At once, with all that it was about. */
    kill: () => end("SIGKILL"),
    stop: async () => {
      await end("SIGINT")
      rmSync(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 })
    }
  }
}
