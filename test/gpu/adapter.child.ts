/**
 * One process of the adapter tests: opens what its environment asks for and ends in the way that its argument names.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import process from "node:process"
import { openDawn } from "../../src/gpu/Adapter.ts"
import { thisMachine } from "../../src/gpu/Nvidia.ts"
import { unpackSwiftShader } from "../../src/gpu/SoftwareVulkan.ts"

const scenario = process.argv[2]

const slowKernel = `
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  var v = x[id.x];
  for (var i = 0u; i < 20000u; i++) { v = fma(v, 0.999, 0.5); }
  x[id.x] = v;
}`

/** Submit about half a second of work and start to read it back, without waiting. */
const startWork = (device: GPUDevice): Promise<unknown> => {
  const size = 4 * 16384
  const x = device.createBuffer({ size, usage: 0x80 | 0x4 })
  const back = device.createBuffer({ size, usage: 0x1 | 0x8 })
  const module = device.createShaderModule({ code: slowKernel })
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } })
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass()
  pass.setPipeline(pipeline)
  pass.setBindGroup(0, device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: x } }]
  }))
  pass.dispatchWorkgroups(256)
  pass.end()
  encoder.copyBufferToBuffer(x, 0, back, 0, size)
  device.queue.submit([encoder.finish()])
  // naming the buffer afterwards keeps it: a buffer collected while it is being mapped refuses the mapping
  return back.mapAsync(1).then(() => back.getMappedRange().byteLength)
}

const collectGarbage = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) {
    ;(globalThis as { gc?: () => void }).gc!()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

if (scenario === "unpack") {
  console.log(unpackSwiftShader([process.argv[3]!]).directory)
} else {
  const NodeDevice = await import("../../src/node.ts")
  const vulkanMaps = () => [
    ...new Set(fs.readFileSync("/proc/self/maps", "utf8").match(/\/\S*(?:libvulkan\.so|libvk_swift)\S*/g))
  ]
  const open = scenario === "lent-loader"
    ? openDawn({}, (file) => {
      if (file === "libvulkan.so.1") return "not found, says the test"
      try {
        process.dlopen({ exports: {} }, file, 0x1002)
      } catch {
        // a library that is no addon stays loaded nevertheless
      }
      return undefined
    })
    : scenario === "second-driver"
    // as if there were a GPU of NVIDIA's
    ? openDawn({}, () => undefined, { ...thisMachine, exists: (file) => file === "/dev/nvidiactl" })
    : NodeDevice.openGpu()
  const work = Effect.gen(function*() {
    // a function of its own, so that no variable here holds the GPU
    const device = yield* Effect.flatMap(open, ({ adapter, name, reason, tried }) => {
      console.log(JSON.stringify({ name, reason, tried, maps: vulkanMaps() }))
      return Effect.acquireRelease(
        Effect.promise(() => adapter.requestDevice()),
        (device) => Effect.sync(() => device.destroy())
      )
    })
    const done = startWork(device)
    if (["normal", "lent-loader", "second-driver"].includes(scenario!)) yield* Effect.promise(() => done)
    if (scenario === "throw") throw new Error("thrown on purpose")
    if (scenario === "exit") process.exit(4)
    if (scenario === "scope-closes") done.catch(() => console.log("read refused"))
    if (scenario === "collect") {
      // only the scope holds the GPU now
      yield* Effect.promise(collectGarbage)
      yield* Effect.promise(() => done)
    }
  })
  await Effect.runPromise(Effect.scoped(work))
  if (scenario === "scope-closes") await collectGarbage()
  console.log("end")
}
