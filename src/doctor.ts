/**
 * What this machine offers for training, in plain words: every adapter, the one that is taken and why, what it can do,
 * whether it computes correctly, and how to get a better one.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import process from "node:process"
import { adapterAdvice, missingSentence } from "./gpu/Adapter.ts"
import type { Attempt, OpenGpu } from "./gpu/Adapter.ts"
import { missingParts } from "./gpu/Nvidia.ts"
import { polled } from "./gpu/Poll.ts"
import { bytes, columns } from "./Terminal.ts"

/** All that `doctor` found out. Sizes are in bytes; plain data, ready for JSON. */
export interface DoctorReport {
  readonly adapter: {
    readonly name: string
    readonly kind: OpenGpu["kind"]
    readonly backend: OpenGpu["backend"]
    readonly reason: string
    /** As the driver describes itself. */
    readonly driver: string
  }
  readonly tried: ReadonlyArray<Attempt>
  /** What the Vulkan driver of an NVIDIA GPU lacks here, where there is such a GPU and the adapter is none of hardware. */
  readonly missing: ReadonlyArray<string>
  /** Names of all adapters, where the caller asked for them. */
  readonly adapters: ReadonlyArray<string>
  readonly features: ReadonlyArray<string>
  readonly limits: Readonly<Record<typeof limitNames[number], number>>
  /** Invocations per subgroup, or null without the feature. */
  readonly subgroupSize: { readonly min: number; readonly max: number } | null
  readonly f16: boolean
  readonly timestamps: boolean
  /** Shapes of the matrix units, e.g. `f16 x f16 -> f32, 16 x 16 x 16`. */
  readonly matrixConfigs: ReadonlyArray<string>
  /** A small kernel ran and gave the right numbers; on the null backend none can. */
  readonly kernel: { readonly correct: boolean; readonly detail: string; readonly milliseconds: number }
  readonly versions: Readonly<Record<"runtime" | "webgpu" | "system" | "vulkanLoader", string>>
}

const limitNames = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupsPerDimension"
] as const

const groups = 16

// Uses what every kernel here relies on: storage, workgroup memory, barriers, float arithmetic.
const checkKernel = `
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
var<workgroup> part: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3u) {
  let v = x[group.x * 64 + i];
  part[i] = v * v + 0.5;
  for (var half = 32u; half > 0; half /= 2) {
    workgroupBarrier();
    if (i < half) { part[i] += part[i + half]; }
  }
  if (i == 0) { sums[group.x] = part[0]; }
}`

const runCheckKernel = async (adapter: GPUAdapter): Promise<{ readonly correct: boolean; readonly detail: string }> => {
  const device = await polled(() => adapter.requestDevice())
  try {
    // small integers, so that every sum is exact in f32
    const input = Float32Array.from({ length: groups * 64 }, (_, i) => i % 97 - 48)
    const expected = Array.from({ length: groups }, (_, g) =>
      input.subarray(g * 64, g * 64 + 64).reduce((sum, v) => sum + v * v + 0.5, 0))
    // WebGPU fixes the values of its usage flags; on Node the named constants are not global
    const [mapRead, copySource, copyTarget, storage] = [0x1, 0x4, 0x8, 0x80]
    device.pushErrorScope("validation")
    const x = device.createBuffer({ size: input.byteLength, usage: storage | copyTarget })
    const sums = device.createBuffer({ size: groups * 4, usage: storage | copySource })
    const back = device.createBuffer({ size: groups * 4, usage: mapRead | copyTarget })
    device.queue.writeBuffer(x, 0, input)
    const pipeline = device.createComputePipeline({
      layout: "auto",
      compute: { module: device.createShaderModule({ code: checkKernel }), entryPoint: "main" }
    })
    const encoder = device.createCommandEncoder()
    const pass = encoder.beginComputePass()
    pass.setPipeline(pipeline)
    pass.setBindGroup(0, device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: x } }, { binding: 1, resource: { buffer: sums } }]
    }))
    pass.dispatchWorkgroups(groups)
    pass.end()
    encoder.copyBufferToBuffer(sums, 0, back, 0, groups * 4)
    device.queue.submit([encoder.finish()])
    const error = await polled(() => device.popErrorScope())
    if (error !== null) return { correct: false, detail: `refused: ${error.message.split("\n", 1)[0]}` }
    await polled(() => back.mapAsync(mapRead))
    const got = new Float32Array(back.getMappedRange().slice(0))
    back.unmap()
    const wrong = expected.findIndex((value, i) => value !== got[i])
    return wrong < 0
      ? { correct: true, detail: `${groups} sums of 64 squares are exact` }
      : { correct: false, detail: `sum ${wrong} is ${got[wrong]}, should be ${expected[wrong]}` }
  } finally {
    device.destroy()
  }
}

const packageVersion = (name: string): string => {
  try {
    const file = createRequire(import.meta.url).resolve(`${name}/package.json`)
    return (JSON.parse(fs.readFileSync(file, "utf8")) as { version: string }).version
  } catch {
    return "not found"
  }
}

const systemName = (): string => {
  try {
    const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(fs.readFileSync("/etc/os-release", "utf8"))?.[1]
    if (name !== undefined) return `${name}, ${os.type()} ${os.release()} ${os.arch()}`
  } catch {
    // not a Linux that says its name
  }
  return `${os.type()} ${os.release()} ${os.arch()}`
}

const vulkanLoader = (): string => {
  if (process.platform !== "linux") return "none needed"
  try {
    return /\S*libvulkan\.so\S*/.exec(fs.readFileSync("/proc/self/maps", "utf8"))?.[0] ?? "none loaded"
  } catch {
    return "unknown"
  }
}

interface MatrixConfig {
  readonly componentType: string
  readonly resultComponentType: string
  readonly M: number
  readonly N: number
  readonly K: number
}

/**
 * Examine an opened adapter; runs one small kernel on a device of its own. Never fails: what goes wrong is in the
 * report.
 *
 * @param adapters the names of all adapters (`NodeDevice.listAdapters`), to be reported beside the one taken
 */
export const doctor = (open: OpenGpu, adapters: ReadonlyArray<string> = []): Effect.Effect<DoctorReport> =>
  Effect.promise(async () => {
    const { adapter } = open
    const info = adapter.info as GPUAdapterInfo & { readonly subgroupMatrixConfigs?: Iterable<MatrixConfig> }
    const start = performance.now()
    const kernel = open.kind === "null"
      ? { correct: false, detail: "not run" }
      : await runCheckKernel(adapter).catch((error: unknown) => ({
        correct: false,
        detail: error instanceof Error ? error.message : String(error)
      }))
    const versions = process.versions as Record<string, string | undefined>
    return {
      adapter: {
        name: open.name,
        kind: open.kind,
        backend: open.backend,
        reason: open.reason,
        driver: [info.vendor, info.architecture, info.description].filter((part) => part !== "").join(", ")
      },
      tried: open.tried,
      missing: open.kind === "hardware" ? [] : missingParts(),
      adapters,
      features: [...adapter.features].sort(),
      limits: Object.fromEntries(limitNames.map((name) => [name, adapter.limits[name]])) as DoctorReport["limits"],
      subgroupSize: adapter.features.has("subgroups")
        ? { min: info.subgroupMinSize ?? 0, max: info.subgroupMaxSize ?? 0 }
        : null,
      f16: adapter.features.has("shader-f16"),
      timestamps: adapter.features.has("timestamp-query"),
      matrixConfigs: Array.from(info.subgroupMatrixConfigs ?? [], (c) =>
        `${c.componentType} x ${c.componentType} -> ${c.resultComponentType}, ${c.M} x ${c.N} x ${c.K}`),
      kernel: { ...kernel, milliseconds: performance.now() - start },
      versions: {
        runtime: versions["deno"] !== undefined ? `Deno ${versions["deno"]}` : `Node ${versions["node"]}`,
        webgpu: packageVersion("webgpu"),
        system: systemName(),
        vulkanLoader: vulkanLoader()
      }
    }
  })

/** The report in plain words, several lines, ending with how to get a better adapter unless this one is hardware. */
export const formatDoctor = (report: DoctorReport): string => {
  const { adapter, kernel, limits, subgroupSize, versions } = report
  const check = `${kernel.correct ? "computes correctly" : "DOES NOT COMPUTE CORRECTLY"}: ${kernel.detail} ` +
    `(${kernel.milliseconds.toFixed(0)} ms with opening a device and compiling)`
  const rows: Array<readonly [string, string]> = [
    ["adapter", `${adapter.name} (${adapter.kind}, ${adapter.backend})`],
    ["why", adapter.reason],
    ["driver", adapter.driver || "says nothing about itself"],
    ["check", adapter.kind === "null" ? "not run" : check],
    ["largest buffer", `${bytes(limits.maxBufferSize)}; ${bytes(limits.maxStorageBufferBindingSize)} bound to a ` +
      `kernel, which takes ${limits.maxStorageBuffersPerShaderStage} buffers`],
    ["workgroup", `${limits.maxComputeInvocationsPerWorkgroup} invocations, ` +
      `${bytes(limits.maxComputeWorkgroupStorageSize)} shared, ` +
      `${limits.maxComputeWorkgroupsPerDimension} workgroups a dimension`],
    ["subgroups", subgroupSize === null ? "no" : subgroupSize.min === subgroupSize.max
      ? `of ${subgroupSize.min}`
      : `of ${subgroupSize.min} to ${subgroupSize.max}`],
    ["f16", report.f16 ? "yes" : "no"],
    ["timestamps", report.timestamps ? "yes" : "no"],
    ["matrix units", report.matrixConfigs.join("; ") || "none offered"],
    ["features", report.features.join(" ") || "none"],
    ["runtime", `${versions.runtime}, webgpu ${versions.webgpu}`],
    ["system", versions.system],
    ["libvulkan", versions.vulkanLoader],
    ...(report.adapters.length === 0 ? [] : [["all adapters", report.adapters.join("; ")] as const]),
    ...report.tried.map(({ outcome, source }) => ["looked at", `${source}: ${outcome}`] as const)
  ]
  const lines = [...columns(rows, () => true)]
  if (adapter.kind === "hardware") return lines.join("\n")
  lines.push("")
  if (adapter.kind === "null") {
    lines.push("The null backend computes nothing: it only checks that programs are valid. Ask for another adapter.")
  } else {
    if (report.missing.length > 0) lines.push(missingSentence(report.missing))
    lines.push("This adapter runs on the processor: good for tests and tiny models. To get a faster one:")
    // the newest of software adapters is there: only a GPU's own driver is faster
    const mesa = /llvmpipe|lavapipe/i.test(`${adapter.name} ${adapter.driver}`)
    lines.push(
      ...adapterAdvice.filter((advice) => !mesa || !advice.includes("mesa-vulkan-drivers")).map((advice) =>
        `  - ${advice}`
      )
    )
    if (mesa) {
      lines.push(
        "  - A machine with a GPU, and its driver: Mesa's software adapter, the fastest there is, is in use here."
      )
    }
  }
  return lines.join("\n")
}
