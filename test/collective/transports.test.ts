/** Ranks that are processes, or several in this one, on every transport that the machine has. */
import { spawn, spawnSync } from "node:child_process"
import * as net from "node:net"
import process from "node:process"
import { describe, expect, it } from "vitest"
import { type CollectiveOptions, connect } from "../../src/collective/Collective.ts"
import { type Group, keptBytes } from "../../src/collective/Group.ts"
import { makeMpi } from "../../src/collective/Mpi.ts"
import type { Ranks } from "../../src/collective/Ranks.ts"
import { makeTcp } from "../../src/collective/Tcp.ts"
import { everything } from "./calls.ts"

const SECONDS = 120_000

const freePort = () =>
  new Promise<number>((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as net.AddressInfo
      server.close(() => resolve(port))
    })
  })

interface Line {
  readonly rank: number
  readonly size: number
  readonly name: string
  readonly localRank: number
  readonly wrong: ReadonlyArray<string>
  readonly said: string
}

interface Ended {
  readonly code: number | null
  readonly lines: ReadonlyArray<Line>
  readonly errors: string
}

/** Runs a program to its end; what ranks said in lines of JSON, by rank. */
const run = (
  command: string,
  words: ReadonlyArray<string>,
  environment: Record<string, string>,
  onOutput: (text: string) => void = () => {}
): Promise<Ended> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, words, {
      cwd: new URL("../..", import.meta.url),
      env: { ...process.env, ...environment, NO_COLOR: "1" },
      stdio: ["ignore", "pipe", "pipe"]
    })
    const timer = setTimeout(() => child.kill("SIGKILL"), SECONDS - 10_000)
    let [output, errors] = ["", ""]
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text
      onOutput(text)
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => errors += text)
    child.on("error", reject)
    child.on("close", (code) => {
      clearTimeout(timer)
      const lines = output.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line) as Line)
      resolve({ code, lines: lines.sort((a, b) => a.rank - b.rank), errors })
    })
  })

const node = ["--import", "tsx", "test/collective/rank.ts"]

/** Ranks as the processes of a test, over TCP. */
const runTcp = async (size: number, scenario: string, environment: Record<string, string> = {}) => {
  const meeting = { WORLD_SIZE: String(size), MASTER_PORT: String(await freePort()), MEMSINKS_TOKEN: "a secret of all" }
  return Promise.all(
    Array.from({ length: size }, (_, rank) =>
      run(process.execPath, [...node, scenario], {
        ...meeting,
        ...environment,
        RANK: String(rank),
        LOCAL_RANK: String(rank)
      }))
  )
}

const found = (command: string) => spawnSync(command, ["--version"], { encoding: "utf8" }).stdout ?? ""

/** The launchers that there are, by their MPI. */
const launchers = ([["Open MPI", "mpirun.openmpi"], ["MPICH", "mpirun.mpich"], ["Open MPI", "mpirun"], [
  "MPICH",
  "mpirun"
]] as const).filter(([name, command]) => found(command).includes(name === "MPICH" ? "HYDRA" : name))

const launcherOf = (name: "Open MPI" | "MPICH") => launchers.find(([one]) => one === name)?.[1]

const mpirun = (name: "Open MPI" | "MPICH", size: number, words: ReadonlyArray<string>, environment = {}) =>
  run(
    launcherOf(name)!,
    [...name === "Open MPI" ? ["--oversubscribe"] : [], "-n", String(size), process.execPath, ...node, ...words],
    { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1", ...environment }
  )

for (const name of ["Open MPI", "MPICH"] as const) {
  const has = launcherOf(name) !== undefined
  describe.skipIf(!has)(`ranks on ${name}${has ? "" : ": skipped, it is not installed"}`, () => {
    it.each([2, 4])("%d make every call", async (size) => {
      const { code, errors, lines } = await mpirun(name, size, ["all"])
      expect(lines.map((line) => line.wrong), errors).toEqual(Array.from({ length: size }, () => []))
      expect(lines.map((line) => [line.rank, line.size, line.localRank])).toEqual(
        Array.from({ length: size }, (_, rank) => [rank, size, rank])
      )
      expect(lines[0]!.name).toMatch(new RegExp(`^${name} \\d`))
      expect(code, errors).toBe(0)
    }, SECONDS)

    it("add up by host first, where there are several", async () => {
      const { errors, lines } = await mpirun(name, 4, ["hosts"])
      expect(lines.map((line) => line.wrong), errors).toEqual([[], [], [], []])
    }, SECONDS)

    it.skipIf(found("deno") === "")("make every call on Deno, too", async () => {
      const { errors, lines } = await run(
        launcherOf(name)!,
        ["-n", "2", "deno", "run", "-A", "--node-modules-dir=manual", "test/collective/rank.ts", "all"],
        { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" }
      )
      expect(lines.map((line) => line.wrong), errors).toEqual([[], []])
    }, SECONDS)

    it("are refused where library and launcher belong to different MPIs", async () => {
      const other = name === "MPICH" ? "libmpi.so.40" : "libmpich.so.12"
      if (launcherOf(name === "MPICH" ? "Open MPI" : "MPICH") === undefined) return
      const { code, errors } = await mpirun(name, 2, ["all"], { MEMSINKS_MPI: other })
      expect(code).not.toBe(0)
      expect(errors).toMatch(/launcher and library belong to different MPIs/)
      expect(errors).toContain(other)
    }, SECONDS)
  })
}

describe.skipIf(launcherOf("Open MPI") === undefined)("a rank on MPI", () => {
  it("says which call differs, to all", async () => {
    const { lines } = await mpirun("Open MPI", 2, ["mismatch"])
    // the launcher may stop the others as soon as one has ended
    expect(lines.length).toBeGreaterThan(0)
    for (const { said } of lines) expect(said).toMatch(/Mismatch: rank 1 calls barrier .* where rank 0 calls allReduce/)
  }, SECONDS)

  it("hears that another gives up, and why", async () => {
    const { lines } = await mpirun("Open MPI", 2, ["abort"])
    expect(lines.map((line) => line.wrong).flat()).toEqual([])
    expect(lines.length).toBeGreaterThan(0)
    for (const { said } of lines) expect(said).toContain("rank 1 gave up: the disk is full")
  }, SECONDS)

  it.each(launchers.map(([name]) => name).filter((name, i, all) => all.indexOf(name) === i))(
    "waits for one that lives and measures for longer than the timeout, on %s",
    async (name) => {
      const { code, errors, lines } = await mpirun(name, 3, ["busy"], { MEMSINKS_RANK_TIMEOUT: "2" })
      expect(lines.map(({ said }) => said), errors).toEqual(["", "", ""])
      expect(code).toBe(0)
    },
    SECONDS
  )

  it("is refused where srun started it without PMIx, by which the others are found", async () => {
    const [zero] = ranksOf(2) as [Ranks]
    const said = failure(makeMpi({ ...zero, launcher: "SLURM" }, { SLURM_STEP_NUM_TASKS: "2", SLURM_PROCID: "0" }))
    expect(await said).toMatch(
      /srun started this process without PMIx, by which Open MPI .*--mpi=pmix.*MEMSINKS_TRANSPORT/
    )
  })

  it("gives up one that does not come in time, and leaves nothing running", async () => {
    const begun = performance.now()
    const { code, errors, lines } = await mpirun("Open MPI", 2, ["silent"], { MEMSINKS_RANK_TIMEOUT: "2" })
    expect(lines[0]?.said, errors).toMatch(/Timeout: rank 0 on .* waited 2 s for the other ranks/)
    expect(performance.now() - begun).toBeLessThan(60_000)
    expect(code).not.toBe(0)
  }, SECONDS)
})

const meetingOf = async (size: number): Promise<Record<string, string>> => ({
  WORLD_SIZE: String(size),
  MASTER_PORT: String(await freePort()),
  MEMSINKS_TOKEN: "a secret of all"
})

const ranksOf = (size: number): ReadonlyArray<Ranks> =>
  Array.from({ length: size }, (_, rank) => ({ rank, size, localRank: rank, launcher: "RANK" }))

/** Several ranks in this process. */
const groupsOf = async (
  size: number,
  hosts: ReadonlyArray<string> = [],
  options: CollectiveOptions = {}
): Promise<ReadonlyArray<Group>> => {
  const meeting = await meetingOf(size)
  return Promise.all(
    ranksOf(size).map((ranks) =>
      connect(ranks, { transport: "tcp", ...options }, { ...meeting, MEMSINKS_HOST: hosts[ranks.rank] })
    )
  )
}

const failure = (call: Promise<unknown>) => call.then(() => "nothing", (error: Error) => error.message)

describe("ranks over TCP", () => {
  it.each([2, 3])("%d make every call", async (size) => {
    const groups = await groupsOf(size)
    expect(await Promise.all(groups.map((group) => everything(group)))).toEqual(groups.map(() => []))
    await Promise.all(groups.map((group) => group.end({})))
  }, SECONDS)

  it.each([["a", "a", "b", "b"], ["a", "b", "a", "b"], ["a", "b", "a"]])(
    "add up by host first: %s %s %s %s",
    async (...hosts) => {
      const groups = await groupsOf(hosts.length, hosts)
      expect(groups.map(({ hostsFirst }) => hostsFirst)).not.toContain(false)
      expect(groups[0]!.hosts).toEqual(hosts)
      expect(await Promise.all(groups.map((group) => everything(group)))).toEqual(groups.map(() => []))
      await Promise.all(groups.map((group) => group.end({})))
    },
    SECONDS
  )

  it.each([["f32", 2, 1000], ["f32", 3, 300_000], ["bf16", 2, 300_000], ["int8", 3, 2_000_000]] as const)(
    "keep as much memory as they say: %s, %i ranks, %i values",
    async (wire, size, length) => {
      const groups = await groupsOf(size)
      await Promise.all(groups.map((group) => group.allReduce(new Float32Array(length), wire)))
      expect(Math.max(...groups.map((group) => group.kept()))).toBe(keptBytes(size, wire, length))
      await Promise.all(groups.map((group) => group.end({})))
    },
    SECONDS
  )

  it("do not where that is switched off, or hosts have one rank each", async () => {
    const setups = [[["a", "a", "b"], { hostsFirst: false }], [["a", "b"], {}], [["a", "a"], {}]] as const
    for (const [hosts, options] of setups) {
      const groups = await groupsOf(hosts.length, hosts, options)
      expect(groups.map(({ hostsFirst }) => hostsFirst)).not.toContain(true)
      await Promise.all(groups.map((group) => group.end({})))
    }
    expect(await failure(connect(ranksOf(2)[0]!, {}, { MEMSINKS_HOSTS_FIRST: "maybe" }))).toContain(
      "MEMSINKS_HOSTS_FIRST must be on or off, got \"maybe\""
    )
  }, SECONDS)

  it("hear of a different call, and of one that gives up, in all later calls", async () => {
    for (const what of ["mismatch", "abort"]) {
      const groups = await groupsOf(2)
      if (what === "abort") groups[1]!.abort("the disk is full")
      const said = await Promise.all([
        failure(groups[0]!.allReduce(new Float32Array(4))),
        failure(groups[1]!.barrier())
      ])
      for (const one of said) {
        expect(one).toMatch(
          what === "abort" ? /rank 1.* gave up: the disk is full/ : /rank 1 calls barrier .*where rank 0/
        )
      }
      expect(await failure(groups[0]!.barrier())).toBe(said[0])
      await Promise.all(groups.map((group) => group.end({})))
    }
  })

  it("let nobody in who does not know the secret, or is no rank of theirs", async () => {
    const meeting = await meetingOf(2)
    const [zero, one] = ranksOf(2) as [Ranks, Ranks]
    const first = connect(zero, { transport: "tcp" }, meeting)
    // strangers: one that says nothing, one that says nonsense, one that asks for memory
    for (const words of [[], Buffer.from("GET / HTTP/1.1\r\n\r\n"), Buffer.alloc(16, 255)]) {
      const socket = net.connect(Number(meeting["MASTER_PORT"]), "127.0.0.1").on("error", () => {})
      socket.write(Buffer.from(words))
    }
    const wrongly = (environment: object, ranks = one) =>
      failure(connect(ranks, { transport: "tcp" }, { ...meeting, ...environment }))
    expect(await wrongly({ MEMSINKS_TOKEN: "another secret" })).toMatch(/secrets MEMSINKS_TOKEN of two ranks differ/)
    expect(await wrongly({}, { ...one, size: 3 })).toMatch(/rank 1 was told of 3 ranks, but rank 0 of 2/)
    expect(await wrongly({ MEMSINKS_TOKEN: "" })).toMatch(/MEMSINKS_TOKEN must be a secret/)
    expect(await wrongly({ MASTER_PORT: "many" })).toMatch(/MASTER_PORT must be a port.*got "many"/)
    const second = connect(one, { transport: "tcp" }, meeting)
    const groups = await Promise.all([first, second])
    await Promise.all(groups.map((group) => group.barrier()))
    await Promise.all(groups.map((group) => group.end({})))
  }, SECONDS)

  it("say who did not come in time", async () => {
    const meeting = await meetingOf(3)
    const [zero, one] = ranksOf(3) as [Ranks, Ranks]
    const joining = { joining: 1500 }
    const said = await Promise.all([
      failure(makeTcp(zero, meeting, joining)),
      failure(makeTcp(one, meeting, joining))
    ])
    expect(said[0]).toMatch(/rank 2 of 3 did not come within 2 s/)
    expect(said[1]).toMatch(/rank/)
    expect(await failure(makeTcp(one, { ...meeting, MASTER_PORT: String(await freePort()) }, joining)))
      .toMatch(/rank 0 at 127.0.0.1:\d+ did not answer rank 1 within 2 s/)
  }, SECONDS)

  it.each(["killed", "midway"])("hear at once of one that is %s", async (scenario) => {
    const [zero, one] = await runTcp(2, scenario)
    expect(zero!.lines[0]?.said, zero!.errors).toMatch(/Lost: rank 1 on .* is lost: .*--resume/)
    expect(one!.lines).toEqual([])
  }, SECONDS)
})

const ip = (...words: ReadonlyArray<string>) => spawnSync("ip", words, { encoding: "utf8" }).status === 0

/** Two machines in name, with a cable between them; false where that cannot be had. */
const wire = (): boolean =>
  process.getuid?.() === 0 && ip("netns", "add", "memsinks-a") && ip("netns", "add", "memsinks-b") &&
  ip("link", "add", "msa", "netns", "memsinks-a", "type", "veth", "peer", "name", "msb", "netns", "memsinks-b") &&
  ["a", "b"].every((end, i) =>
    ip("-n", `memsinks-${end}`, "addr", "add", `10.77.0.${i + 1}/24`, "dev", `ms${end}`) &&
    ip("-n", `memsinks-${end}`, "link", "set", `ms${end}`, "up")
  )

const unwire = () => {
  for (const end of ["a", "b"]) ip("netns", "del", `memsinks-${end}`)
}

describe("ranks whose link is cut", () => {
  it("both give up after the timeout, with a sentence", async ({ skip }) => {
    try {
      if (!wire()) skip("needs root and network namespaces")
      const meeting = { ...await meetingOf(2), MASTER_ADDR: "10.77.0.1", MEMSINKS_RANK_TIMEOUT: "3" }
      const cut = (text: string) => {
        if (text.includes("together")) ip("-n", "memsinks-b", "link", "set", "msb", "down")
      }
      const ends = await Promise.all(
        ["a", "b"].map((end, rank) =>
          run("ip", ["netns", "exec", `memsinks-${end}`, process.execPath, ...node, "cut"], {
            ...meeting,
            RANK: String(rank),
            LOCAL_RANK: "0"
          }, cut)
        )
      )
      ends.forEach(({ errors, lines }, rank) =>
        expect(lines[0]?.said, errors).toMatch(new RegExp(`rank ${1 - rank} on .* gave no sign of life for 3 s`))
      )
    } finally {
      unwire()
    }
  }, SECONDS)
})
