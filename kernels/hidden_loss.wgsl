// Mean squared distance of a token's residual stream to a target, one invocation a token.
//   loss[t] = mean over i of (x[t, i] - hidden_target[t, i])^2
//   dx[t, i] = (x[t, i] - hidden_target[t, i]) * 2 / width * weights[t] * hyper[GRADIENT_SCALE]
// Both 0 where the target token is IGNORE. The loss is NaN where x or its target is infinite or not a number (told by the
// bits of their distance). forward_wide is the same for GPUs: a workgroup of a power of two a token, its sum a tree.
struct Params { rows: u32, n4: u32 }
@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> hidden_target: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<vec4f>;
@group(0) @binding(7) var<uniform> p: Params;

override WX: u32 = 16;
const IGNORE = 0xffffffffu;
const GRADIENT_SCALE = 9;
const INFINITE = 0x7f800000u;
const QUIET_NAN = 0x7fc00000u;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let t = id.x + id.y * groups.x * WX;
  if (t >= p.rows) { return; }
  let at = t * p.n4;
  if (targets[t] == IGNORE) {
    loss[t] = 0.0;
    for (var i = 0u; i < p.n4; i++) { dx[at + i] = vec4f(); }
    return;
  }
  let width = f32(4u * p.n4);
  let scale = hyper[GRADIENT_SCALE] * weights[t] * 2.0 / width;
  var squares = vec4f();
  var worst4 = vec4u();
  for (var i = 0u; i < p.n4; i++) {
    let d = x[at + i] - hidden_target[at + i];
    worst4 = max(worst4, bitcast<vec4u>(d) & vec4u(0x7fffffffu));
    squares += d * d;
    dx[at + i] = d * scale;
  }
  let worst = max(max(worst4.x, worst4.y), max(worst4.z, worst4.w));
  let mean = (squares.x + squares.y + squares.z + squares.w) / width;
  loss[t] = bitcast<f32>(select(max(worst, QUIET_NAN), bitcast<u32>(mean), worst < INFINITE));
}

var<workgroup> tree: array<f32, WX>;
var<workgroup> worsts: array<u32, WX>;

@compute @workgroup_size(WX)
fn forward_wide(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let t = group.x + group.y * groups.x;
  if (t >= p.rows) { return; }
  let at = t * p.n4;
  if (targets[t] == IGNORE) {
    if (l == 0u) { loss[t] = 0.0; }
    for (var i = l; i < p.n4; i += WX) { dx[at + i] = vec4f(); }
    return;
  }
  let width = f32(4u * p.n4);
  let scale = hyper[GRADIENT_SCALE] * weights[t] * 2.0 / width;
  var squares = vec4f();
  var worst4 = vec4u();
  for (var i = l; i < p.n4; i += WX) {
    let d = x[at + i] - hidden_target[at + i];
    worst4 = max(worst4, bitcast<vec4u>(d) & vec4u(0x7fffffffu));
    squares += d * d;
    dx[at + i] = d * scale;
  }
  tree[l] = squares.x + squares.y + squares.z + squares.w;
  worsts[l] = max(max(worst4.x, worst4.y), max(worst4.z, worst4.w));
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) {
      tree[l] += tree[l + half];
      worsts[l] = max(worsts[l], worsts[l + half]);
    }
  }
  if (l == 0u) {
    let worst = worsts[0];
    loss[t] = bitcast<f32>(select(max(worst, QUIET_NAN), bitcast<u32>(tree[0] / width), worst < INFINITE));
  }
}
