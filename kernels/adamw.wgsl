// AdamW (decoupled weight decay), 4 elements at a time:
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
  // the scalars are read once for several elements: on software adapters they cost as much as an element each
  let lr = hyper[0];
  let beta1 = hyper[1];
  let beta2 = hyper[2];
  let eps = hyper[3];
  let decay = select(0.0, hyper[4], p.decay == 1u);
  let correction1 = hyper[5];
  let correction2 = hyper[6];
  let clip = stats[CLIP];
  let stride = groups.x * groups.y * WX;
  for (var i = id.x + id.y * groups.x * WX; i < p.n4; i += stride) {
    if (p.lazy == 1u) {
      let row = i / p.row4;
      if (row >= p.sink_row0 && touched[((row - p.sink_row0) % p.pool) / p.block] == 0u) { continue; }
    }
    let gradient = g[i] * clip;
    let m1 = beta1 * m[i] + (1.0 - beta1) * gradient;
    let v1 = beta2 * v[i] + (1.0 - beta2) * gradient * gradient;
    let w1 = w[i];
    m[i] = m1;
    v[i] = v1;
    w[i] = w1 - lr * (m1 * correction1 / (sqrt(v1 * correction2) + eps) + decay * w1);
  }
}
