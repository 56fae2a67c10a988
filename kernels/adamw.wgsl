// AdamW (decoupled weight decay), 4 elements at a time:
//   g' = g * factor;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//   w -= lr * (rate * m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + decay * w)      rate: 1, or of sinks
// factor (clipping over loss scale), skip (a gradient that is not finite moves nothing) and the two corrections, in which
// skipped steps do not count, stand in stats: made on the device (reduce.wgsl), so the host never waits for them.
//
//   update:          the first n4 groups of a tensor. With sinks = 1, rows from sink_row0 on are sinks, in halves of pool
//                    rows; the gradient of a unit that no batch of the step touched is 0 and is not read.
//   update_lazy:     those, and of the sinks' rows behind them those of touched units and no others: a sink then holds
//                    nothing of other data, neither through momentum nor through decay. Rows are counted through as in
//                    touched.wgsl.
struct Params { n4: u32, decay: u32, sinks: u32, row4: u32, sink_row0: u32, pool: u32, block: u32, sink_rate: f32 }
@group(0) @binding(0) var<storage, read> hyper: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> touched: array<u32>;
@group(0) @binding(3) var<storage, read> g: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(7) var<uniform> p: Params;

override WX: u32 = 16;
const FACTOR = 2;
const SKIP = 3;
const CORRECTION1 = 4;
const CORRECTION2 = 5;

// the scalars are read once for several elements: on software adapters they cost as much as an element each
struct Scalars { lr: f32, beta1: f32, beta2: f32, eps: f32, decay: f32, correction1: f32, correction2: f32, factor: f32 }

fn scalars(decay: u32) -> Scalars {
  return Scalars(hyper[0], hyper[1], hyper[2], hyper[3], select(0.0, hyper[4], decay == 1u), stats[CORRECTION1],
    stats[CORRECTION2], stats[FACTOR]);
}

fn move_by(s: Scalars, i: u32, gradient: vec4f, rate: f32) {
  let m1 = s.beta1 * m[i] + (1.0 - s.beta1) * gradient;
  let v1 = s.beta2 * v[i] + (1.0 - s.beta2) * gradient * gradient;
  let w1 = w[i];
  m[i] = m1;
  v[i] = v1;
  w[i] = w1 - s.lr * (rate * m1 * s.correction1 / (sqrt(v1 * s.correction2) + s.eps) + s.decay * w1);
}

@compute @workgroup_size(WX)
fn update(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  if (stats[SKIP] != 0.0) { return; }
  let s = scalars(p.decay);
  let stride = groups.x * groups.y * WX;
  for (var i = id.x + id.y * groups.x * WX; i < p.n4; i += stride) {
    var gradient = vec4f();
    let row = i / p.row4;
    let sink = p.sinks == 1u && row >= p.sink_row0;
    if (!sink || touched[((row - p.sink_row0) % p.pool) / p.block] != 0u) { gradient = g[i] * s.factor; }
    move_by(s, i, gradient, select(1.0, p.sink_rate, sink));
  }
}

struct LazyParams {
  n4: u32, decay: u32, row4: u32, sink_row0: u32, pool: u32, block: u32, halves: u32, sink_rate: f32,
}
@group(0) @binding(2) var<storage, read> units: array<u32>;
@group(0) @binding(7) var<storage, read> count: array<u32>;
@group(0) @binding(8) var<uniform> q: LazyParams;

@compute @workgroup_size(WX)
fn update_lazy(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  if (stats[SKIP] != 0.0) { return; }
  let s = scalars(q.decay);
  let first = id.x + id.y * groups.x * WX;
  let stride = groups.x * groups.y * WX;
  for (var i = first; i < q.n4; i += stride) { move_by(s, i, g[i] * s.factor, 1.0); }
  let per_half = q.block * q.row4;
  let total = count[0] * q.halves * per_half;
  for (var e = first; e < total; e += stride) {
    let half = e / per_half;
    let row0 = q.sink_row0 + (half % q.halves) * q.pool + units[half / q.halves] * q.block;
    let i = row0 * q.row4 + e % per_half;
    move_by(s, i, g[i] * s.factor, q.sink_rate);
  }
}
