/** Several processes that do jobs over one store, some of which are killed or stopped meanwhile. */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { keyOf } from "../../src/Key.ts"

export interface Sharing {
  readonly processes: number
  readonly jobs: number
  /** Milliseconds that a job takes. */
  readonly wait: number
  /** Seconds. */
  readonly lease: number
  /** `each`: the first process that begins is killed, the second stopped for longer than its lease; or with so many dice. */
  readonly harm: "each" | { readonly kills: number; readonly stops: number; readonly random: () => number }
}

const script = fileURLToPath(new URL("../pipelines/store.child.ts", import.meta.url))

/** What went otherwise than it should, of a store that was shared in `folder`, which must not exist. */
export const shareStore = async (folder: string, { harm, jobs, lease, processes, wait }: Sharing) => {
  mkdirSync(folder, { recursive: true })
  const [store, log] = [join(folder, "store"), join(folder, "log")]
  const names = Array.from({ length: jobs }, (_, i) => `job ${i}`)
  const outs = new Map<number, string>()
  let said = ""
  const start = (at: number) => {
    const order = names.map((_, i) => names[(i + at * Math.ceil(jobs / processes)) % jobs]!)
    const child = spawn(process.execPath, ["--import", "tsx", script, store, log, String(wait), ...order], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, MEMSINKS_LEASE: String(lease) }
    })
    child.stdout.on("data", (data) => outs.set(child.pid!, (outs.get(child.pid!) ?? "") + String(data)))
    child.stderr.on("data", (data) => said += String(data))
    return Object.assign(child, { at, closed: once(child, "close") as Promise<[code: number | null]> })
  }
  type Child = ReturnType<typeof start>
  const children: Array<Child> = Array.from({ length: processes }, (_, at) => start(at))
  const lines = () =>
    !existsSync(log) ? [] : readFileSync(log, "utf8").trim().split("\n").map((line) => {
      const [, what, name, pid] = /^(\w+) (.*) (\d+)$/.exec(line)!
      return { what: what!, name: name!, pid: Number(pid) }
    })
  /** The process that does a job now. */
  const busy = (): Child | undefined => {
    const all = lines()
    return children.find(({ exitCode, pid, signalCode }) =>
      exitCode === null && signalCode === null && all.findLast((line) => line.pid === pid)?.what === "begin"
    )
  }
  const harmed: Array<{ readonly pid: number; readonly job: string }> = []
  const jobOf = (pid: number) => lines().findLast((line) => line.pid === pid)!.name
  const hurt = async (how: "SIGKILL" | "SIGSTOP") => {
    let child = busy()
    while (child === undefined) {
      if (children.every(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null)) return
      await sleep(5)
      child = busy()
    }
    child.kill(how)
    harmed.push({ pid: child.pid!, job: jobOf(child.pid!) })
    if (how === "SIGKILL") {
      await child.closed
      children.push(start(child.at))
    } else {
      await sleep(lease * 1000 * 2.5 + 2000)
      child.kill("SIGCONT")
    }
  }
  if (harm === "each") {
    await hurt("SIGKILL")
    await hurt("SIGSTOP")
  } else {
    const all = [...Array<"SIGKILL">(harm.kills).fill("SIGKILL"), ...Array<"SIGSTOP">(harm.stops).fill("SIGSTOP")]
    all.sort(() => harm.random() - 0.5)
    for (const how of all) {
      await sleep(harm.random() * wait)
      await hurt(how)
    }
  }
  const problems: Array<string> = []
  for (let i = 0; i < children.length; i++) {
    const [code] = await children[i]!.closed
    if (code !== 0 && code !== null) problems.push(`process ${children[i]!.pid} ended with ${code}: ${said}`)
    if (code !== 0) continue
    const lines = outs.get(children[i]!.pid!)!.match(/(?<=^found ).*$/gm) ?? []
    const found = lines.map((line) => (JSON.parse(line) as { readonly name: string }).name)
    if (found.sort().join() !== [...names].sort().join()) {
      problems.push(`process ${children[i]!.pid} found ${found.join()}`)
    }
  }
  for (const name of names) {
    const begun = lines().filter((line) => line.what === "begin" && line.name === name)
    const times = harmed.filter(({ job }) => job === name).length
    if (begun.length !== 1 && begun.length > 1 + times) {
      problems.push(`${name} was begun ${begun.length} times, and harmed ${times}: ${JSON.stringify(lines())}`)
    }
    const file = join(store, "models", `${keyOf({ of: name })}.json`)
    const { value } = JSON.parse(readFileSync(file, "utf8")) as { readonly value: unknown }
    if (JSON.stringify(value) !== JSON.stringify({ name, value: name.length / 3 })) problems.push(`${name} is damaged`)
    const left = readdirSync(join(store, "models", keyOf({ of: name }))).filter((one) => one !== "job.json")
    if (left.length > 0) problems.push(`${name} left ${left.join()}`)
  }
  return { problems, harmed: harmed.length, said }
}
