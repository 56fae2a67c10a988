// AdamW (decoupled weight decay), one invocation 4 elements:
//   g' = g * clip;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//   w -= lr * (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + decay * w)
// clip is stats[CLIP], made on the device from the gradient's norm (reduce.wgsl), so the host never waits for it.
//
// With lazy = 1 a sink row moves only if its unit is touched in this step: it then holds nothing of other data, neither
// through momentum nor through decay. Rows before sink_row0 are general; then follow halves of pool rows each.
struct Params { n4: u32, decay: u32, lazy: u32, row4: u32, sink_row0: u32, pool: u32, block: u32 }
@group(0) @binding(0) var<storage, read> hyper: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> touched: array<u32>;
@group(0) @binding(3) var<storage, read> g: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(7) var<uniform> p: Params;

override WX: u32 = 16;
const CLIP = 2;

@compute @workgroup_size(WX)
fn update(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  if (i >= p.n4) { return; }
  if (p.lazy == 1u) {
    let row = i / p.row4;
    if (row >= p.sink_row0 && touched[((row - p.sink_row0) % p.pool) / p.block] == 0u) { return; }
  }
  let gradient = g[i] * stats[CLIP];
  let m1 = hyper[1] * m[i] + (1.0 - hyper[1]) * gradient;
  let v1 = hyper[2] * v[i] + (1.0 - hyper[2]) * gradient * gradient;
  m[i] = m1;
  v[i] = v1;
  let decay = select(0.0, hyper[4], p.decay == 1u);
  w[i] -= hyper[0] * (m1 * hyper[5] / (sqrt(v1 * hyper[6]) + hyper[3]) + decay * w[i]);
}
