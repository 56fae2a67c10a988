/**
 * One rank of a test, a process: started several times by mpirun or by the tests. What it prints is a line of JSON.
 */
import { spawn } from "node:child_process"
import process from "node:process"
import { connect } from "../../src/collective/Collective.ts"
import { ranksOf } from "../../src/collective/Ranks.ts"
import { everything } from "./calls.ts"

const environment = process.env
const [scenario = "all", megabytes = "1"] = process.argv.slice(2)
const ranks = ranksOf(environment)
// of the scenario "hosts" two machines in name take turns
const named = scenario === "hosts" ? { MEMSINKS_HOST: `host${ranks.rank % 2}` } : {}
const group = await connect(ranks, {}, { ...environment, ...named })
const { rank, size } = group

/** What a call that must fail says. */
const failure = (call: Promise<unknown>) =>
  call.then(() => "nothing", (error: { readonly reason: string; readonly message: string }) =>
    `${error.reason}: ${error.message}`)

let wrong: ReadonlyArray<string> = []
let said = ""
switch (scenario) {
  case "hosts":
    wrong = await everything(group, Number(megabytes))
    if (!group.hostsFirst) wrong = [...wrong, "hosts do not come first"]
    break
  case "all":
    wrong = await everything(group, Number(megabytes))
    break
  case "mismatch":
    said = await failure(rank === 1 ? group.barrier() : group.allReduce(new Float32Array(4)))
    break
  case "abort":
    if (rank === 1) group.abort("the disk is full")
    said = await failure(group.barrier())
    if ((await failure(group.allReduce(new Float32Array(1)))) !== said) wrong = ["a later call fails in another way"]
    break
  case "killed":
    if (rank === 1) process.kill(process.pid, "SIGKILL")
    said = await failure(group.allReduce(new Float32Array(1_000_000)))
    break
  case "midway": {
    // it may be in a call that never ends, and has no timer: another process ends it
    if (rank === 1) spawn("sh", ["-c", `sleep 0.5; kill -9 ${process.pid}`], { stdio: "ignore" })
    const values = new Float32Array(Number(megabytes) * 2 ** 18)
    for (said = "nothing"; said === "nothing";) said = await failure(group.allReduce(values))
    break
  }
  case "cut":
    await group.barrier()
    console.log("together")
    for (said = "nothing"; said === "nothing";) said = await failure(group.allReduce(new Float32Array(100_000)))
    break
  case "busy":
    // the others wait for one that measures for longer than their patience
    if (rank === 0) await new Promise((resolve) => setTimeout(resolve, 6000))
    await group.barrier()
    break
  case "silent":
    // the others wait for a rank that is there, and does nothing any more
    if (rank === 1) process.kill(process.pid, "SIGSTOP")
    said = await failure(group.barrier())
    break
}
console.log(JSON.stringify({ rank, size, name: group.name, localRank: group.localRank, wrong, said }))
await group.end(said === "" ? {} : { failed: said })
if (said !== "") process.exit(0)
