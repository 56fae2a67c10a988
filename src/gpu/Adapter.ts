/**
 * Finding a GPU: which adapter to take, what to do when the machine offers none, and what to say about it. Runs on Node
 * and on Deno; the two differ only in how a shared library is loaded (`Libraries`).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import process from "node:process"
import { setTimeout } from "node:timers"
import * as v8 from "node:v8"
import * as vm from "node:vm"
import { isMainThread } from "node:worker_threads"
import { expectOptions } from "../Config.ts"
import { DeviceError, isOfGpu, told } from "../Errors.ts"
import * as Nvidia from "./Nvidia.ts"
import { polled } from "./Poll.ts"
import { silently } from "./Silence.ts"
import { unpackSwiftShader } from "./SoftwareVulkan.ts"

/** Which adapter to open, and how. */
export interface AdapterOptions {
  /**
   * - `"auto"`: a hardware adapter, else the system's software Vulkan (Mesa's lavapipe), else SwiftShader;
   * - `"hardware"`, `"software"`: only such an adapter;
   * - `"lavapipe"`: Mesa's software Vulkan, whose adapters are called llvmpipe;
   * - `"swiftshader"`: the SwiftShader of the optional dependency, whatever else there is;
   * - `"null"`: validates everything and computes nothing;
   * - anything else: the first adapter whose name contains it, in any case of letters.
   *
   * Of several such hardware adapters with different names, LOCAL_RANK (or Open MPI's, Intel MPI's or Slurm's) takes one.
   *
   * Default: the environment variable MEMSINKS_ADAPTER, else `"auto"`.
   */
  readonly adapter?: string
  /** Dawn toggles to switch on besides the ones this library needs. Dawn ignores unknown names silently. */
  readonly enableToggles?: ReadonlyArray<string>
  /** Dawn toggles to switch off. */
  readonly disableToggles?: ReadonlyArray<string>
}

/** One place where an adapter was looked for, and what came of it. */
export interface Attempt {
  readonly source: string
  readonly outcome: string
}

/** An adapter that was opened, and how it was found. Valid until the scope it was opened in closes. */
export interface OpenGpu {
  /** Must stay referenced while a device made from `adapter` lives: collected early, the process crashes. */
  readonly gpu: GPU
  readonly adapter: GPUAdapter
  readonly backend: "dawn" | "wgpu" | "null"
  readonly kind: "hardware" | "software" | "null"
  /** For people, e.g. `llvmpipe (LLVM 15.0.6, 256 bits)`. */
  readonly name: string
  /** One line: why this one. */
  readonly reason: string
  /** Everywhere that was looked, in order. */
  readonly tried: ReadonlyArray<Attempt>
}

/**
 * Loads a shared library for the rest of the process, so that Dawn's later dlopen of the same name finds it.
 * Returns what went wrong, or nothing.
 */
export type LoadLibrary = (file: string) => string | undefined

/** How to get a faster adapter. `doctor` prints it, and so does the error when there is none. */
export const adapterAdvice: ReadonlyArray<string> = [
  "NVIDIA in a container: start it with NVIDIA_DRIVER_CAPABILITIES=all (or with graphics in the list) and install " +
  "libvulkan1; compute alone brings no Vulkan driver.",
  "Debian 12: apt-get install -t bookworm-backports mesa-vulkan-drivers libvulkan1 (add the bookworm-backports " +
  "suite first; the Mesa 22.3 of Debian 12 itself is too old for Dawn).",
  "Ubuntu 24.04 and Debian 13: apt-get install mesa-vulkan-drivers libvulkan1."
]

/** How to get an adapter at all where nothing can be installed into the system. */
export const lastResortAdvice =
  "Without root, on Linux x64: npm install @sparticuz/chromium@147.0.0 (it holds SwiftShader, a slow but complete " +
  "software Vulkan)."

/** Mesa's software Vulkan: its driver is called lavapipe, its adapter llvmpipe. */
const isLavapipe = (name: string): boolean => /llvmpipe|lavapipe/i.test(name)

const isSoftwareName = (name: string): boolean => /llvmpipe|lavapipe|swiftshader|softpipe|basic render/i.test(name)

/** The mode that options and environment ask for. */
export const adapterMode = (options: AdapterOptions, environment: Record<string, string | undefined>): string =>
  (options.adapter || environment["MEMSINKS_ADAPTER"] || "auto").trim()

/**
 * The adapters worth trying for a mode, best first: hardware before software, and among software Mesa's lavapipe before
 * the rest, since it is several times as fast as SwiftShader. Names of equal rank keep their order.
 */
export const rankAdapters = (names: ReadonlyArray<string>, mode: string): ReadonlyArray<string> => {
  const rank = (name: string) => !isSoftwareName(name) ? 0 : isLavapipe(name) ? 1 : 2
  const sorted = [...names].sort((a, b) => rank(a) - rank(b))
  switch (mode.toLowerCase()) {
    case "auto":
      return sorted
    case "hardware":
      return sorted.filter((name) => !isSoftwareName(name))
    case "software":
      return sorted.filter(isSoftwareName)
    case "lavapipe":
      return sorted.filter(isLavapipe)
    case "swiftshader":
      return sorted.filter((name) => /swiftshader/i.test(name))
    default:
      return sorted.filter((name) => name.toLowerCase().includes(mode.toLowerCase()))
  }
}

/** The adapter names in the message with which Dawn refuses a name it does not know; equal ones are different adapters. */
export const parseAdapterList = (message: string): ReadonlyArray<string> =>
  Array.from(message.matchAll(/name: '(.*)'\s*$/gm), (match) => match[1]!)

/** Which of a machine's processes this is, as torchrun, MPI and Slurm say it; undefined where nobody does. */
export const localRank = (environment: Record<string, string | undefined>): number | undefined => {
  for (const key of ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]) {
    const value = environment[key]?.trim()
    if (value !== undefined && /^\d+$/.test(value)) return Number(value)
  }
  return undefined
}

/**
 * Ranked adapters with the one first that is a process's own: of several of hardware, each rank takes the next. Dawn opens
 * adapters by name, so those of one name cannot be told apart: `note` then says so.
 */
export const shareOut = (
  ranked: ReadonlyArray<string>,
  rank: number | undefined
): { readonly names: ReadonlyArray<string>; readonly note?: string } => {
  const names = [...new Set(ranked)]
  const hardware = ranked.filter((name) => !isSoftwareName(name))
  if (rank === undefined || hardware.length < 2) return { names }
  const own = hardware[rank % hardware.length]!
  const equal = hardware.filter((name) => name === own).length
  return {
    names: [own, ...names.filter((name) => name !== own)],
    note: equal < 2 ?
      `local rank ${rank} of ${hardware.length} adapters` :
      `local rank ${rank}, but ${equal} adapters are ` +
      `called ${own} and Dawn opens the first of a name: let each process see one GPU only, e.g. by its container's ` +
      `NVIDIA_VISIBLE_DEVICES=${rank}`
  }
}

const backend: Record<string, string> = { linux: "vulkan", darwin: "metal", win32: "d3d12" }

// Dawn hides f16 on NVIDIA's Vulkan and the matrix units everywhere unless asked; neither toggle changes any kernel.
const neededToggles = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"]

const dawnFlags = (options: AdapterOptions, first: ReadonlyArray<string>): Array<string> => {
  const off = options.disableToggles ?? []
  const on = [...neededToggles, ...options.enableToggles ?? []].filter((toggle) => !off.includes(toggle))
  return [
    ...first,
    ...(on.length > 0 ? [`enable-dawn-features=${on.join(",")}`] : []),
    ...(off.length > 0 ? [`disable-dawn-features=${off.join(",")}`] : [])
  ]
}

const line = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split("\n", 1)[0]!.trim()

/** Run `body` with environment variables set that the Vulkan loader reads when Dawn makes its instance. */
const withEnvironment = async <A>(values: Record<string, string>, body: () => Promise<A>): Promise<A> => {
  const before = Object.keys(values).map((key) => [key, process.env[key]] as const)
  Object.assign(process.env, values)
  try {
    return await body()
  } finally {
    for (const [key, value] of before) {
      if (value === undefined) delete process.env[key]
      else process.env[key] = value
    }
  }
}

/** The environment that makes the Vulkan loader see SwiftShader and nothing else, under the old name and the new. */
const onlyDriver = (manifest: string): Record<string, string> => ({
  VK_DRIVER_FILES: manifest,
  VK_ICD_FILENAMES: manifest
})

// Some container hosts mount NVIDIA's driver here, where no loader looks by itself.
const mountedDriver = "/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json"

const extraDrivers = (): Record<string, string> =>
  ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"].some((key) => process.env[key] !== undefined) ||
    !fs.existsSync(mountedDriver)
    ? {}
    : { VK_ADD_DRIVER_FILES: mountedDriver }

/** Whether anything tells a Vulkan loader of a driver. Asked only where the system has no loader of its own. */
const hasDriver = (): boolean =>
  Object.keys(process.env).some((key) => /^VK_(DRIVER_FILES|ICD_FILENAMES|ADD_DRIVER_FILES)$/.test(key)) ||
  Nvidia.driverFolders.some((folder) => Nvidia.thisMachine.list(folder).some((file) => file.endsWith(".json")))

type Create = (flags: Array<string>) => GPU

const listWith = async (create: Create): Promise<ReadonlyArray<string>> => {
  const only = backend[process.platform]
  const flags = only === undefined ? [] : [`backend=${only}`]
  try {
    // No adapter is called this; Dawn refuses by listing all that exist, and answers null when there is none.
    await polled(() =>
      silently(() => create([...flags, "adapter=?"]).requestAdapter({ powerPreference: "high-performance" }))
    )
    return []
  } catch (error) {
    return parseAdapterList(error instanceof Error ? error.message : String(error))
  }
}

type Found = Omit<OpenGpu, "tried" | "reason">

const openNamed = async (create: Create, options: AdapterOptions, name: string): Promise<Found | undefined> => {
  const only = backend[process.platform]
  const gpu = create(dawnFlags(options, [...(only === undefined ? [] : [`backend=${only}`]), `adapter=${name}`]))
  const adapter = await polled(() => silently(() => gpu.requestAdapter({ powerPreference: "high-performance" })))
  if (adapter === null) return undefined
  return { gpu, adapter, backend: "dawn", kind: adapter.info.isFallbackAdapter ? "software" : "hardware", name }
}

const importCreate = async (): Promise<Create> => (await import("webgpu")).create

type Loader = { readonly from: "system" | "swiftshader"; readonly problem?: string }

// Once lent, SwiftShader's loader answers to the same name as the system's would.
let lentLoader: Loader | undefined

/** Make sure that a libvulkan.so.1 is loaded: the system's, else SwiftShader's. Returns where from. */
const ensureLoader = (load: LoadLibrary): Loader => {
  if (lentLoader !== undefined) return lentLoader
  if (process.platform !== "linux" || load("libvulkan.so.1") === undefined) return { from: "system" }
  try {
    const problem = load(unpackSwiftShader().loader)
    if (problem !== undefined) return { from: "swiftshader", problem }
  } catch (error) {
    return { from: "swiftshader", problem: line(error) }
  }
  return lentLoader = { from: "swiftshader" }
}

const search = async (
  options: AdapterOptions,
  load: LoadLibrary,
  machine: Nvidia.Machine
): Promise<OpenGpu> => {
  const mode = adapterMode(options, process.env)
  const keyword = mode.toLowerCase()
  const tried: Array<Attempt> = []
  let create: Create
  try {
    create = await importCreate()
  } catch (cause) {
    throw new DeviceError({
      reason: "NoAdapter",
      detail: `the npm package webgpu cannot be loaded on ${process.platform} ${process.arch}: ${line(cause)}. It ` +
        "needs Linux x64 or arm64 with glibc 2.34 or newer, macOS, or Windows.",
      cause
    })
  }

  if (keyword === "null") {
    const gpu = create(dawnFlags(options, ["backend=null"]))
    const adapter = await polled(() => gpu.requestAdapter())
    if (adapter !== null) {
      const reason = "the null backend was asked for: it checks everything and computes nothing"
      return { gpu, adapter, backend: "null", kind: "null", name: "null backend", reason, tried }
    }
    throw noAdapter(mode, [{ source: "Dawn's null backend", outcome: "no adapter" }])
  }

  const loader = ensureLoader(load)
  const lent = loader.from === "swiftshader" ? " (the system has no libvulkan.so.1; SwiftShader's is used)" : ""

  const attempt = async (source: string, why: (found: Found) => string): Promise<OpenGpu | undefined> => {
    const listed = await listWith(create)
    const names = [...new Set(listed)]
    const { names: ranked, note } = shareOut(rankAdapters(listed, mode), localRank(process.env))
    if (names.length === 0) {
      tried.push({ source, outcome: `offers no adapter that Dawn accepts${lent}` })
    } else if (ranked.length === 0) {
      tried.push({ source, outcome: `offers ${names.join(", ")}${lent}; none is what "${mode}" asks for` })
    }
    for (const name of ranked) {
      const found = await openNamed(create, options, name).catch(line)
      if (found === undefined || typeof found === "string") {
        tried.push({ source, outcome: `${name}: ${found ?? "could not be opened"}` })
      } else if (keyword === "hardware" && found.kind !== "hardware") {
        tried.push({ source, outcome: `${name} is a software adapter` })
      } else {
        tried.push({ source, outcome: `offers ${names.join(", ")}${lent}; took ${name}` })
        return { ...found, reason: note === undefined ? why(found) : `${why(found)}; ${note}`, tried }
      }
    }
    return undefined
  }

  const system = process.platform === "linux" ? "the system's Vulkan" : "the system"
  if (keyword === "swiftshader") {
    tried.push({ source: system, outcome: "not looked at: swiftshader was asked for" })
  } else if (loader.problem !== undefined) {
    tried.push({ source: system, outcome: `has no libvulkan.so.1, nor is there one to lend: ${loader.problem}` })
  } else {
    const why = (found: Found) => {
      if (keyword === "hardware" || keyword === "software") return `a ${keyword} adapter was asked for`
      if (keyword !== "auto") return `its name contains "${mode}"`
      return found.kind === "hardware" ? "a hardware adapter" : "no hardware adapter; the system's software adapter"
    }
    let open: OpenGpu | undefined
    if (loader.from === "swiftshader" && !hasDriver()) {
      tried.push({ source: system, outcome: "has neither libvulkan.so.1 nor a driver" })
    } else {
      open = await withEnvironment(extraDrivers(), () => attempt(system, why))
    }
    if (open !== undefined && (open.kind === "hardware" || keyword !== "auto")) return open
    // in containers without an X server the driver's own file often gives no adapter
    const second = Nvidia.secondDriver(machine)
    if (second !== undefined) {
      const source = `NVIDIA's driver as ${Nvidia.secondLibrary}`
      const other = await withEnvironment(onlyDriver(second), () => attempt(source, why))
      if (other !== undefined && (open === undefined || other.kind === "hardware")) return other
    }
    if (open !== undefined) return open
  }

  if (keyword !== "hardware" && process.platform === "linux") {
    const source = "SwiftShader"
    try {
      const software = unpackSwiftShader()
      const why = () =>
        `SwiftShader of ${software.source}: ` +
        (keyword === "swiftshader" ? "it was asked for" : `${system} offers nothing that fits "${mode}"`)
      const open = await withEnvironment(onlyDriver(software.manifest), () => attempt(source, why))
      if (open !== undefined) return open
      if (!isMainThread) {
        tried.push({ source, outcome: "a worker thread cannot change the environment: start it with env: SHARE_ENV" })
      }
    } catch (error) {
      tried.push({ source, outcome: line(error) })
    }
  }
  throw noAdapter(mode, tried, Nvidia.missingParts(machine))
}

/** What NVIDIA's driver lacks, in a sentence. */
export const missingSentence = (missing: ReadonlyArray<string>): string =>
  `NVIDIA's driver is loaded here, but its Vulkan part is not whole. Missing: ${missing.join("; ")}. ` +
  "Start a container with NVIDIA_DRIVER_CAPABILITIES=all (or with graphics in the list)."

/** The error of a search that found nothing: what was asked, what was tried, what is missing, what to do. */
export const noAdapter = (
  mode: string,
  tried: ReadonlyArray<Attempt>,
  missing: ReadonlyArray<string> = []
): DeviceError =>
  new DeviceError({
    reason: "NoAdapter",
    detail: [
      `no GPU adapter for "${mode}". Tried:`,
      ...tried.map(({ outcome, source }) => `  - ${source}: ${outcome}`),
      ...(missing.length === 0 ? [] : [missingSentence(missing)]),
      "What to do:",
      ...[...adapterAdvice, lastResortAdvice].map((advice) => `  - ${advice}`),
      ...(mode === "auto" ? [] : ["  - Ask for adapter \"auto\" (or unset MEMSINKS_ADAPTER) to take any there is."])
    ].join("\n")
  })

// Everything open, so that the garbage collector cannot take a GPU whose device still works.
const held = new Set<GPU>()

/** GPUs closed, after which the garbage collector is called while others are open: only then a driver's threads end. */
const COLLECT_EVERY = 8
let closed = 0

/** A closed device holds threads and memory of its driver, but hardly any of the heap by which V8 decides to collect. */
const collect = (): void => {
  try {
    v8.setFlagsFromString("--expose-gc")
    vm.runInNewContext("gc")()
  } catch {
    // a runtime without it collects when it sees fit
  }
}

/**
 * Keep a GPU until its scope closes, and one second more: callbacks of a device just destroyed still come through it.
 * The timer does not keep the process alive, and a process that ends with the GPU held ends cleanly.
 */
const hold = (open: OpenGpu): Effect.Effect<OpenGpu, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      held.add(open.gpu)
      return open
    }),
    () =>
      Effect.sync(() =>
        void setTimeout(() => {
          held.delete(open.gpu)
          if (++closed % COLLECT_EVERY === 0 || held.size === 0) collect()
        }, 1000).unref()
      )
  )

// One search at a time: a search changes the process's environment.
const gate = Effect.unsafeMakeSemaphore(1)

const Options = Schema.Struct({
  gpu: Schema.optional(Schema.Unknown),
  adapter: Schema.optional(Schema.String),
  enableToggles: Schema.optional(Schema.Array(Schema.String)),
  disableToggles: Schema.optional(Schema.Array(Schema.String))
})

/** Run a search alone, turn what it throws into a DeviceError, and hold what it finds until the scope closes. */
const openWith = (
  options: AdapterOptions,
  find: () => Promise<OpenGpu>
): Effect.Effect<OpenGpu, DeviceError, Scope.Scope> =>
  expectOptions(Options, options, "the layer of a Device").pipe(
    Effect.mapError(({ detail }) => new DeviceError({ reason: "NoAdapter", detail })),
    Effect.zipRight(Effect.tryPromise({
      try: find,
      catch: told(
        (cause) => new DeviceError({ reason: "NoAdapter", detail: `opening the GPU failed: ${line(cause)}`, cause }),
        isOfGpu
      )
    })),
    gate.withPermits(1),
    Effect.flatMap(hold),
    Effect.uninterruptible
  )

/**
 * Open an adapter through the npm package `webgpu` (Dawn). Fails with DeviceError NoAdapter, whose message says what
 * was tried and what to do. Devices made from the adapter must be destroyed before the scope closes.
 */
export const openDawn = (
  options: AdapterOptions,
  load: LoadLibrary,
  machine: Nvidia.Machine = Nvidia.thisMachine
): Effect.Effect<OpenGpu, DeviceError, Scope.Scope> => openWith(options, () => search(options, load, machine))

const searchNative = async (gpu: GPU, options: AdapterOptions, load: LoadLibrary): Promise<OpenGpu> => {
  const mode = adapterMode(options, process.env)
  const keyword = mode.toLowerCase()
  const source = "the runtime's own WebGPU"
  const loader = ensureLoader(load)
  let environment = extraDrivers()
  let lent = ""
  // It looks for drivers once and keeps the answer, and without a driver it takes OpenGL: so decide before it looks.
  if (process.platform === "linux" && (keyword === "swiftshader" || loader.problem !== undefined || !hasDriver())) {
    try {
      const software = unpackSwiftShader()
      environment = onlyDriver(software.manifest)
      lent = ` (with SwiftShader of ${software.source})`
    } catch (error) {
      lent = ` (SwiftShader: ${line(error)})`
    }
  }
  const adapter = await withEnvironment(environment,
    () => gpu.requestAdapter({ powerPreference: "high-performance", forceFallbackAdapter: keyword === "software" }))
  if (adapter === null) throw noAdapter(mode, [{ source, outcome: `offers no adapter${lent}` }])
  const name = adapter.info.description || adapter.info.device || "unnamed adapter"
  const outcome = `offers ${name}${lent}`
  const kind = adapter.info.isFallbackAdapter ? "software" : "hardware"
  if (rankAdapters([name], mode).length === 0 || (keyword === "hardware" && kind === "software")) {
    throw noAdapter(mode, [{ source, outcome: `${outcome}, which is not what "${mode}" asks for` }])
  }
  const reason = `${source} gave it${lent}`
  return { gpu, adapter, backend: "wgpu", kind, name, reason, tried: [{ source, outcome }] }
}

/** Open an adapter of a WebGPU that the runtime brings along. Fails as `openDawn` does. */
export const openNative = (
  gpu: GPU,
  options: AdapterOptions,
  load: LoadLibrary
): Effect.Effect<OpenGpu, DeviceError, Scope.Scope> => openWith(options, () => searchNative(gpu, options, load))

/** The names of all adapters that Dawn sees here: the system's, then SwiftShader where it can be had. */
export const listAdapters = (load: LoadLibrary): Effect.Effect<ReadonlyArray<string>, DeviceError> =>
  Effect.tryPromise({
    try: async () => {
      const create = await importCreate()
      const loader = ensureLoader(load)
      const names = loader.from === "system" || hasDriver()
        ? [...await withEnvironment(extraDrivers(), () => listWith(create))]
        : []
      try {
        const software = unpackSwiftShader()
        names.push(...await withEnvironment(onlyDriver(software.manifest), () => listWith(create)))
      } catch {
        // not installed or not for this platform: then there is none to list
      }
      return [...new Set(names)]
    },
    catch: told(
      (cause) => new DeviceError({ reason: "NoAdapter", detail: `no list of adapters: ${line(cause)}`, cause }),
      isOfGpu
    )
  }).pipe(gate.withPermits(1), Effect.uninterruptible)

/** An adapter's name and what it offers. */
export interface AdapterFeatures {
  readonly name: string
  readonly features: Iterable<string>
}

/** What the adapters of these names offer: each is opened, and closed again. One that cannot be opened is left out. */
export const examineAdapters = (
  names: ReadonlyArray<string>,
  open: (options: AdapterOptions) => Effect.Effect<OpenGpu, DeviceError, Scope.Scope>
): Effect.Effect<ReadonlyArray<AdapterFeatures>> =>
  Effect.forEach(names, (name) =>
    open({ adapter: name }).pipe(
      Effect.map(({ adapter }) => [{ name, features: [...adapter.features] }]),
      Effect.scoped,
      Effect.orElseSucceed(() => [])
    )).pipe(Effect.map((found) => found.flat()))

/**
 * Why an adapter cannot compute in f16, and which of the others can; undefined if it can.
 *
 * @param others the machine's adapters, as `examineAdapters` finds them; the adapter itself may be among them
 */
export const f16Refusal = (
  name: string,
  features: Iterable<string>,
  others: ReadonlyArray<AdapterFeatures>
): DeviceError | undefined => {
  const hasF16 = (all: Iterable<string>) => [...all].includes("shader-f16")
  if (hasF16(features)) return undefined
  const able = others.filter((other) => other.name !== name && hasF16(other.features))
  const found = able.length === 0
    ? "No other adapter of this machine has it either"
    : `Of this machine's adapters ${able.map((other) => JSON.stringify(other.name)).join(" and ")} ` +
      `${able.length === 1 ? "has" : "have"} it`
  const todo = able.length === 0
    ? "choose precision f32, or see memsinks doctor for better adapters (Mesa 25's lavapipe has f16 without a GPU)"
    : `choose with --adapter or MEMSINKS_ADAPTER, or take precision f32`
  return new DeviceError({
    reason: "Feature",
    detail: `${name} does not compute in f16: it lacks the WebGPU feature shader-f16. ${found}: ${todo}`
  })
}
