// y = x0, x1, x2, x3 one behind the other, so many groups of 4 elements of each, in the type of y: weights and the residual
// stream's gradient, as the matrix products of mixed precision read them. One invocation 4 elements.
struct Params { n0: u32, n1: u32, n2: u32, n3: u32 }
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> x0: array<vec4f>;
@group(0) @binding(1) var<storage, read> x1: array<vec4f>;
@group(0) @binding(2) var<storage, read> x2: array<vec4f>;
@group(0) @binding(3) var<storage, read> x3: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<Y4>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  var at = i;
  if (at < p.n0) { y[i] = Y4(x0[at]); return; }
  at -= p.n0;
  if (at < p.n1) { y[i] = Y4(x1[at]); return; }
  at -= p.n1;
  if (at < p.n2) { y[i] = Y4(x2[at]); return; }
  at -= p.n2;
  if (at < p.n3) { y[i] = Y4(x3[at]); }
}
