// Mean squared distance of a token's residual stream to a target, one invocation a token.
//   loss[t] = mean over i of (x[t, i] - hidden_target[t, i])^2
//   dx[t, i] = (x[t, i] - hidden_target[t, i]) * 2 / width * weights[t] * hyper[GRADIENT_SCALE]
// Both 0 where the target token is IGNORE.
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
  for (var i = 0u; i < p.n4; i++) {
    let d = x[at + i] - hidden_target[at + i];
    squares += d * d;
    dx[at + i] = d * scale;
  }
  loss[t] = (squares.x + squares.y + squares.z + squares.w) / width;
}
