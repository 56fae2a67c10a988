import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { doctor, formatDoctor } from "../../src/doctor.ts"
import { DeviceError } from "../../src/Errors.ts"
import { adapterMode, examineAdapters, f16Refusal, localRank, noAdapter, parseAdapterList, rankAdapters,
  shareOut } from "../../src/gpu/Adapter.ts"
import type { AdapterOptions } from "../../src/gpu/Adapter.ts"
import { Device } from "../../src/gpu/Device.ts"
import { type Machine, missingParts, secondDriver, secondLibrary } from "../../src/gpu/Nvidia.ts"
import { unpackSwiftShader, untar } from "../../src/gpu/SoftwareVulkan.ts"
import * as NodeDevice from "../../src/node.ts"

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "memsinks-adapter-"))
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }))

interface Ended {
  readonly code: number | null
  readonly signal: string | null
  readonly out: string
  readonly err: string
}

const child = (args: ReadonlyArray<string>, environment: Record<string, string> = {}): Promise<Ended> =>
  new Promise((resolve, reject) => {
    const script = fileURLToPath(new URL("adapter.child.ts", import.meta.url))
    const process_ = spawn(process.execPath, ["--expose-gc", "--import", "tsx", script, ...args], {
      env: { ...process.env, ...environment },
      timeout: 30_000
    })
    let out = ""
    let err = ""
    process_.stdout.on("data", (chunk) => out += chunk)
    process_.stderr.on("data", (chunk) => err += chunk)
    process_.on("error", reject)
    process_.on("close", (code, signal) => resolve({ code, signal, out, err }))
  })

const opened = (ended: Ended) => {
  const first = ended.out.split("\n", 1)[0]!
  if (!first.startsWith("{")) throw new Error(`the child opened nothing: ${ended.out}${ended.err}`)
  return JSON.parse(first) as {
    name: string
    reason: string
    tried: Array<{ source: string; outcome: string }>
    maps: Array<string>
  }
}

describe("a request for f16", () => {
  const subzero = "SwiftShader Device (Subzero)"
  const lavapipe = "llvmpipe (LLVM 19.1.7, 256 bits)"
  const card = "NVIDIA H200"
  const others = [
    { name: subzero, features: ["subgroups"] },
    { name: lavapipe, features: ["subgroups", "shader-f16"] },
    { name: card, features: ["shader-f16"] }
  ]

  it("is granted where the adapter has the feature", () => {
    expect(f16Refusal(card, new Set(["shader-f16"]), others)).toBeUndefined()
  })

  it("is refused by naming the adapter, the feature, and the adapters that have it", () => {
    const refusal = f16Refusal(subzero, new Set(["subgroups"]), others)!
    expect(refusal).toBeInstanceOf(DeviceError)
    expect(refusal.reason).toBe("Feature")
    expect(refusal.message).toBe(
      `${subzero} does not compute in f16: it lacks the WebGPU feature shader-f16. Of this machine's adapters ` +
        `"${lavapipe}" and "${card}" have it: choose with --adapter or MEMSINKS_ADAPTER, or take precision f32 ` +
        "[device: Feature]"
    )
    expect(f16Refusal(subzero, [], others.slice(0, 2))!.message).toContain(`"${lavapipe}" has it: choose`)
  })

  it("is refused without a name where none has it", () => {
    expect(f16Refusal(subzero, [], others.slice(0, 1))!.message).toMatch(
      /No other adapter of this machine has it either: choose precision f32, or see memsinks doctor/
    )
  })

  it("looks at every adapter that can be opened", async () => {
    const found = await Effect.runPromise(examineAdapters(["swiftshader", "no such thing"], NodeDevice.openGpu))
    expect(found.map(({ name }) => name)).toEqual(["swiftshader"])
    expect([...found[0]!.features]).toContain("core-features-and-limits")
    expect([...found[0]!.features]).not.toContain("shader-f16")
  }, 60_000)
})

describe("choosing an adapter", () => {
  const names = ["SwiftShader Device (Subzero)", "llvmpipe (LLVM 19.1.7, 256 bits)", "NVIDIA H200", "Intel(R) Arc"]

  it("ranks hardware before lavapipe before SwiftShader, keeping the driver's order among equals", () => {
    expect(rankAdapters(names, "auto")).toEqual([names[2], names[3], names[1], names[0]])
  })

  it("keeps to what was asked for", () => {
    expect(rankAdapters(names, "hardware")).toEqual([names[2], names[3]])
    expect(rankAdapters(names, "software")).toEqual([names[1], names[0]])
    expect(rankAdapters(names, "SwiftShader")).toEqual([names[0]])
    expect(rankAdapters(names, "lavapipe")).toEqual([names[1]])
    expect(rankAdapters(names, "h200")).toEqual([names[2]])
    expect(rankAdapters(names, "radeon")).toEqual([])
  })

  it("gives each local rank the next of several of hardware", () => {
    const ranked = rankAdapters(names, "auto")
    expect(shareOut(ranked, undefined)).toEqual({ names: ranked })
    expect(shareOut(ranked, 0)).toEqual({ names: ranked, note: "local rank 0 of 2 adapters" })
    expect(shareOut(ranked, 1).names).toEqual([names[3], names[2], names[1], names[0]])
    expect(shareOut(ranked, 2).names).toEqual(ranked)
    // software is one machine's CPU under several names
    expect(shareOut(rankAdapters(names, "software"), 1)).toEqual({ names: [names[1], names[0]] })
  })

  it("says that GPUs of one name cannot be told apart", () => {
    const cards = ["NVIDIA H200", "NVIDIA H200", "NVIDIA H200"]
    expect(shareOut(cards, undefined)).toEqual({ names: ["NVIDIA H200"] })
    expect(shareOut(cards, 2)).toEqual({
      names: ["NVIDIA H200"],
      note: expect.stringMatching(/^local rank 2, but 3 adapters are called NVIDIA H200 .*NVIDIA_VISIBLE_DEVICES=2$/)
    })
  })

  it("takes the local rank from whoever started the process", () => {
    expect(localRank({})).toBeUndefined()
    expect(localRank({ LOCAL_RANK: "3", SLURM_LOCALID: "1" })).toBe(3)
    expect(localRank({ LOCAL_RANK: "x", OMPI_COMM_WORLD_LOCAL_RANK: "2" })).toBe(2)
    expect(localRank({ SLURM_LOCALID: "0" })).toBe(0)
  })

  it("takes the mode from the options, then the environment, then auto", () => {
    expect(adapterMode({ adapter: "hardware" }, { MEMSINKS_ADAPTER: "software" })).toBe("hardware")
    expect(adapterMode({}, { MEMSINKS_ADAPTER: "software" })).toBe("software")
    expect(adapterMode({}, { MEMSINKS_ADAPTER: "" })).toBe("auto")
    expect(adapterMode({}, {})).toBe("auto")
  })

  it("reads Dawn's list of adapters, equal names as often as there are such", () => {
    const message = "no adapter with backend 'vulkan' and name '?' found\nAvailable adapters:\n" +
      " * backend: 'vulkan', name: 'llvmpipe (LLVM 15.0.6, 256 bits)'\n * backend: 'vulkan', name: 'Bob's GPU'\n" +
      " * backend: 'vulkan', name: 'Bob's GPU'\n"
    expect(parseAdapterList(message)).toEqual(["llvmpipe (LLVM 15.0.6, 256 bits)", "Bob's GPU", "Bob's GPU"])
  })
})

describe("unpacking SwiftShader", () => {
  const files = ["libvk_swiftshader.so", "libvulkan.so.1", "vk_swiftshader_icd.json"]

  it("reads a tar archive and refuses one that is cut off", () => {
    const header = Buffer.alloc(512)
    header.write("./a.txt", 0)
    header.write("00000000003\0", 124)
    header.write("0", 156)
    const archive = Buffer.concat([header, Buffer.from("abc".padEnd(512, "\0")), Buffer.alloc(1024)])
    expect([...untar(archive)].map(([name, content]) => [name, Buffer.from(content).toString()]))
      .toEqual([["a.txt", "abc"]])
    expect(() => untar(archive.subarray(0, 514))).toThrow("cut off")
  })

  it("gives several processes at once the same complete folder and leaves nothing else behind", async () => {
    const folder = path.join(scratch, "shared")
    const ends = await Promise.all([1, 2, 3].map(() => child(["unpack", folder])))
    expect(ends.map(({ code, err }) => [code, err])).toEqual(ends.map(() => [0, ""]))
    expect(new Set(ends.map(({ out }) => out)).size).toBe(1)
    expect(fs.readdirSync(folder)).toHaveLength(1)
    expect(fs.readdirSync(ends[0]!.out.trim()).sort()).toEqual(files)
  }, 60_000)

  it("repairs a folder that lost a file, and does not touch a complete one", () => {
    const folder = path.join(scratch, "repair")
    const { directory, loader } = unpackSwiftShader([folder])
    const before = fs.statSync(loader).ino
    unpackSwiftShader([folder])
    expect(fs.statSync(loader).ino).toBe(before)
    fs.rmSync(path.join(directory, files[0]!))
    unpackSwiftShader([folder])
    expect(fs.readdirSync(directory).sort()).toEqual(files)
    expect(fs.readdirSync(folder)).toHaveLength(1)
  })

  it("goes on to the next folder where one cannot be written, and says which could not", () => {
    const blocked = path.join(scratch, "a-file")
    fs.writeFileSync(blocked, "")
    const next = path.join(scratch, "next")
    expect(unpackSwiftShader([blocked, next]).directory.startsWith(next)).toBe(true)
    expect(() => unpackSwiftShader([blocked])).toThrow(blocked)
  })
})

const withGpu = <A>(options: AdapterOptions, use: (open: NodeDevice.OpenGpu) => Effect.Effect<A>): Promise<A> =>
  Effect.runPromise(Effect.scoped(Effect.flatMap(NodeDevice.openGpu(options), use)))

describe("opening a GPU on Node", () => {
  it("opens SwiftShader, computes right numbers with it, and leaves the environment as it was", async () => {
    const before = { ...process.env }
    const report = await withGpu({ adapter: "swiftshader" }, (open) => doctor(open, ["a", "b"]))
    expect(report.kernel.detail).toBe("16 sums of 64 squares are exact")
    expect(report.kernel.correct).toBe(true)
    expect(report.adapter.name).toContain("SwiftShader")
    expect(report.adapter.kind).toBe("software")
    expect(report.subgroupSize).toEqual({ min: 4, max: 4 })
    expect(report.limits.maxStorageBufferBindingSize).toBe(2 ** 30)
    expect(process.env).toEqual(before)
    const text = formatDoctor(report)
    expect(text).toMatch(/^adapter +SwiftShader/)
    expect(text).toContain("computes correctly")
    expect(text).toMatch(/all adapters +a; b/)
    expect(text).toContain("bookworm-backports")
    expect(formatDoctor({ ...report, missing: ["libnvidia-glvkspirv.so"] }))
      .toMatch(/NVIDIA's driver is loaded here.*Missing: libnvidia-glvkspirv\.so\..*NVIDIA_DRIVER_CAPABILITIES=all/)
  })

  it("opens another adapter in the same process, and two at once", async () => {
    const kinds = await Effect.runPromise(Effect.scoped(Effect.all([
      NodeDevice.openGpu({ adapter: "null" }),
      NodeDevice.openGpu({ adapter: "subzero" }),
      NodeDevice.openGpu({ adapter: "software" })
    ], { concurrency: "unbounded" })))
    expect(kinds.map(({ kind }) => kind)).toEqual(["null", "software", "software"])
    expect(kinds[1].name).toContain("Subzero")
    const reports = await Promise.all(kinds.map((open) => Effect.runPromise(doctor(open))))
    expect(reports.map(({ kernel }) => kernel.correct)).toEqual([false, true, true])
    expect(formatDoctor(reports[0]!)).toContain("computes nothing")
  })

  it("lists SwiftShader among all adapters", async () => {
    expect((await Effect.runPromise(NodeDevice.listAdapters)).join()).toContain("SwiftShader")
  })

  it("fails with what it tried and what to do", async () => {
    const error = await withGpu({ adapter: "no such card" }, Effect.succeed).then(
      () => undefined,
      (error: unknown) => error
    )
    const message = String(error)
    expect(message).toContain("no GPU adapter for \"no such card\"")
    expect(message).toMatch(/the system's Vulkan: (offers|has)/)
    expect(message).toMatch(/SwiftShader: offers SwiftShader Device/)
    expect(message).toContain("apt-get install")
    const failure = await Effect.runPromise(Effect.flip(Effect.scoped(NodeDevice.openGpu({ adapter: "no such card" }))))
    expect(failure).toBeInstanceOf(DeviceError)
    expect(failure.reason).toBe("NoAdapter")
  })

  it("gives a Device as a layer", async () => {
    const name = await Effect.runPromise(Device.pipe(
      Effect.map((device) => device.name),
      Effect.provide(NodeDevice.layer({ adapter: "swiftshader" }))
    ))
    expect(name).toContain("SwiftShader")
  })

  it("lends SwiftShader's loader to a system that has none", async () => {
    const cache = path.join(scratch, "lent")
    const ended = await child(["lent-loader"], { XDG_CACHE_HOME: cache })
    const { maps, tried } = opened(ended)
    expect(maps.filter((file) => file.includes("libvulkan.so"))).toEqual([expect.stringContaining(cache)])
    expect(tried.at(-1)!.outcome).toContain("the system has no libvulkan.so.1; SwiftShader's is used")
    expect(ended.code).toBe(0)
  }, 60_000)

  it("tries NVIDIA's driver by a second file where its own gives no adapter", async () => {
    const folder = path.join(scratch, "egl")
    fs.mkdirSync(folder, { recursive: true })
    const library = path.join(unpackSwiftShader().directory, "libvk_swiftshader.so")
    // SwiftShader takes the part of the driver
    fs.symlinkSync(library, path.join(folder, secondLibrary))
    const ended = await child(["second-driver"], {
      MEMSINKS_ADAPTER: "subzero",
      LD_LIBRARY_PATH: folder,
      XDG_CACHE_HOME: path.join(folder, "cache")
    })
    const { name, reason, tried } = opened(ended)
    expect(name).toContain("SwiftShader")
    expect(reason).toBe("its name contains \"subzero\"")
    expect(tried.map(({ source }) => source)).toEqual([
      "the system's Vulkan",
      "NVIDIA's driver as libEGL_nvidia.so.0"
    ])
    expect(ended.code).toBe(0)
  }, 60_000)

  it("falls back to SwiftShader where the system's loader knows no driver", async () => {
    const ended = await child(["normal"], { VK_DRIVER_FILES: "/none.json", VK_ICD_FILENAMES: "/none.json" })
    const { name, tried } = opened(ended)
    expect(name).toContain("SwiftShader")
    expect(tried.map(({ source }) => source)).toEqual(["the system's Vulkan", "SwiftShader"])
    expect(ended.code).toBe(0)
  }, 60_000)
})

describe("NVIDIA's driver in a container", () => {
  const machine = (files: ReadonlyArray<string>, environment: Machine["environment"] = {}): Machine => ({
    environment,
    exists: (file) => files.includes(file),
    list: (folder) =>
      files.filter((file) => path.posix.dirname(file) === folder).map((file) => path.posix.basename(file))
  })
  const gpu = "/dev/nvidiactl"
  const libraries = ["libGLX_nvidia.so.0", "libEGL_nvidia.so.0", "libnvidia-glvkspirv.so.550.54",
    "libnvidia-gpucomp.so.550.54"]
    .map((name) => `/usr/lib/x86_64-linux-gnu/${name}`)
  const manifest = "/usr/share/vulkan/icd.d/nvidia_icd.json"

  it("is told what it lacks, by name", () => {
    expect(missingParts(machine([]))).toEqual([])
    expect(missingParts(machine([gpu, manifest, ...libraries]))).toEqual([])
    // compute alone brings none of it
    expect(missingParts(machine([gpu])).join()).toMatch(
      /nvidia_icd\.json in .*libGLX_nvidia.*libEGL_nvidia.*libnvidia-glvkspirv.*libnvidia-gpucomp/
    )
    expect(missingParts(machine([gpu, manifest, ...libraries.slice(0, 2)]))).toEqual([
      "libnvidia-glvkspirv.so (which compiles shaders)",
      "libnvidia-gpucomp.so (which compiles shaders, of newer drivers)"
    ])
    // where the host mounts them, and where the environment names the driver
    const mounted = libraries.map((file) => file.replace("/usr/lib/x86_64-linux-gnu", "/opt/driver"))
    expect(missingParts(machine([gpu, ...mounted], { LD_LIBRARY_PATH: "/a:/opt/driver", VK_DRIVER_FILES: "x.json" })))
      .toEqual([])
    const missing = missingParts(machine([gpu]))
    expect(noAdapter("auto", [], missing).message).toContain(missing[1])
  })

  it("has a second file only where there is such a GPU, and nobody chose the drivers", () => {
    const folder = path.join(scratch, "second")
    expect(secondDriver(machine([]), [folder])).toBeUndefined()
    expect(secondDriver(machine([gpu], { VK_ICD_FILENAMES: "x.json" }), [folder])).toBeUndefined()
    expect(fs.existsSync(folder)).toBe(false)
    const file = secondDriver(machine([gpu]), [path.join(manifest, "no folder"), folder])!
    expect(JSON.parse(fs.readFileSync(file, "utf8"))).toMatchObject({ ICD: { library_path: secondLibrary } })
  })
})

describe("a process with a GPU", () => {
  const environment = { MEMSINKS_ADAPTER: "swiftshader" }
  it.each([
    ["ends by itself when its work is done", "normal", 0, "end"],
    ["ends with 1 when it throws with work in flight", "throw", 1, ""],
    ["ends with its own code when it exits with work in flight", "exit", 4, ""],
    ["ends by itself when the scope closes over work in flight", "scope-closes", 0, "read refused"],
    ["keeps the GPU as long as the scope, whatever the garbage collector does", "collect", 0, "end"]
    // exiting while the driver's threads compute crashes in the driver now and then, seen once on a loaded machine
  ])("%s", { retry: 1, timeout: 60_000 }, async (_, scenario, code, text) => {
    const ended = await child([scenario], environment)
    expect(opened(ended).name).toContain("SwiftShader")
    expect({ code: ended.code, signal: ended.signal }).toEqual({ code, signal: null })
    expect(ended.out).toContain(text)
    if (scenario === "throw") expect(ended.err).toContain("thrown on purpose")
  })
})
