/**
 * A kernel of one's own: WGSL, a table of what it binds, a Program, and the Device that runs it.
 *
 *     npx tsx pipelines/examples/kernel.ts
 */
import * as Effect from "effect/Effect"
import { Device, Kernel, Program, Tensor } from "memsinks"
import * as NodeDevice from "memsinks/node"

// y = a x + y over f32 vectors, an invocation an element
const axpy = Kernel.make({
  file: "axpy", // its name, in labels and errors
  entry: "forward",
  bindings: { x: "read", y: "write" }, // storage buffers, in the order of their bindings; the uniform comes last
  params: { n: "u32", a: "f32" },
  constants: { WX: 64 },
  code: `
    struct Params { n: u32, a: f32 }
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;
    @group(0) @binding(2) var<uniform> p: Params;
    override WX: u32 = 64;
    @compute @workgroup_size(WX)
    fn forward(@builtin(global_invocation_id) id: vec3u) {
      if (id.x < p.n) { y[id.x] = p.a * x[id.x] + y[id.x]; }
    }`
})

const n = 1000
const [x, y] = [Tensor.make("x", [n]), Tensor.make("y", [n])]
const recorder = Program.record("axpy")
recorder.dispatch(axpy, { x, y }, { n, a: 2 }, n) // n invocations; names and types are checked by the compiler
const program = recorder.finish()

const main = Effect.gen(function*() {
  const device = yield* Device
  yield* device.allocate([x, y]) // zeroed, until the scope closes
  device.write(x, Float32Array.from({ length: n }, (_, i) => i))
  const prepared = yield* device.prepare(program) // compiled, with its bind groups: a replay makes no new object
  for (let i = 0; i < 3; i++) device.submit(prepared)
  const result = yield* device.read(y)
  console.log(`on ${device.name}: ${result.slice(0, 5).join(" ")} ... ${result[n - 1]}`)
})

await Effect.runPromise(main.pipe(Effect.scoped, Effect.provide(NodeDevice.layer())))
