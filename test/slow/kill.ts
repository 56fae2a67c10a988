/** Kills a run at random moments, goes on with it, and compares everything it leaves with a run that nobody disturbed. */
import { type ChildProcess, spawn } from "node:child_process"
import { rmSync } from "node:fs"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { makeRandom } from "../reference/random.ts"

/** What a process of the run said: hashes of checkpoints and of the report by their names. */
interface Incarnation {
  readonly code: number | null
  readonly signal: string | null
  readonly stderr: string
  /** `arm step` -> hash. */
  readonly saved: ReadonlyMap<string, string>
  /** `arm step` of every beginning. */
  readonly started: ReadonlyArray<readonly [arm: string, step: number]>
  readonly report: string | undefined
  /** From the moment that its modules were there, ms. */
  readonly ms: number
}

/** Runs until the end, or until it is killed so many ms after its modules are there. */
const incarnate = (root: string, name: string, killAfter: number): Promise<Incarnation> => {
  const child: ChildProcess = spawn(
    process.execPath,
    ["--import", "tsx", fileURLToPath(new URL("kill.child.ts", import.meta.url)), root, name],
    { stdio: ["ignore", "pipe", "pipe"] }
  )
  const saved = new Map<string, string>()
  const started: Array<readonly [string, number]> = []
  let report: string | undefined
  let stderr = ""
  let up = performance.now()
  let timer: NodeJS.Timeout | undefined
  child.stderr!.on("data", (data) => void (stderr += data))
  createInterface({ input: child.stdout! }).on("line", (line) => {
    const [what, a, b, c] = line.split(" ")
    if (what === "up") {
      up = performance.now()
      if (Number.isFinite(killAfter)) timer = setTimeout(() => child.kill("SIGKILL"), killAfter)
    }
    if (what === "started") started.push([a!, Number(b)])
    if (what === "saved") saved.set(`${a} ${b}`, c!)
    if (what === "report") report = a
  })
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, stderr, saved, started, report, ms: performance.now() - up })
    })
  })
}

export interface Kills {
  /** Processes that were killed. */
  readonly kills: number
  /** Checkpoints that were compared with the undisturbed run's. */
  readonly compared: number
  /** Runs that came to their end, and whose reports were compared. */
  readonly finished: number
  /** Everything that was not as it should be. */
  readonly problems: ReadonlyArray<string>
}

/**
 * @param root a folder of its own
 * @param kills how many processes are killed
 */
export const killAtRandom = async (
  root: string,
  kills: number,
  seed: number,
  log: (line: string) => void = () => {}
): Promise<Kills> => {
  const random = makeRandom(seed)
  const straight = await incarnate(root, "straight", Infinity)
  if (straight.code !== 0) throw new Error(`the undisturbed run failed: ${straight.stderr}`)
  log(`undisturbed: ${straight.saved.size} checkpoints in ${Math.round(straight.ms)} ms`)

  const problems: Array<string> = []
  let [killed, compared, finished, attempt] = [0, 0, 0, 0]
  let name = `killed-${attempt}`
  /** The last step of each arm that somebody was told to be saved. */
  let last = new Map<string, number>()
  while (killed < kills || finished === 0) {
    const after = killed < kills ? Math.floor(random.uniform() * 0.5 * straight.ms) : Infinity
    const it = await incarnate(root, name, after)
    const at = `${name}, kill ${killed + 1} after ${after} ms: `
    for (const [key, hash] of it.saved) {
      compared++
      if (straight.saved.get(key) !== hash) problems.push(`${at}checkpoint ${key} is not the undisturbed run's`)
    }
    for (const [arm, step] of it.started) {
      if (step < (last.get(arm) ?? 0)) {
        problems.push(`${at}${arm} was saved at step ${last.get(arm)}, went on from ${step}`)
      }
    }
    for (const key of it.saved.keys()) last.set(key.split(" ")[0]!, Number(key.split(" ")[1]))
    if (it.signal === "SIGKILL") {
      killed++
      log(
        `kill ${killed} after ${after} ms: ${
          it.started.map((one) => one.join(" from ")).join(", ") || "before training"
        }` +
          `${[...it.saved.keys()].slice(-1).map((key) => `, saved ${key}`)}`
      )
    } else if (it.code === 0) {
      finished++
      if (it.report !== straight.report) problems.push(`${at}the report is not the undisturbed run's`)
      log("finished")
      rmSync(join(root, name), { recursive: true })
      name = `killed-${++attempt}`
      last = new Map()
    } else {
      problems.push(`${at}exit ${it.code}: ${it.stderr}`)
      break
    }
  }
  return { kills: killed, compared, finished, problems }
}
