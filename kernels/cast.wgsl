// y = x, elements x0 .. x0 + n4 (in groups of 4) of an f32 tensor in the type of y: weights and the residual stream's
// gradient, as the matrix products of mixed precision read them. One invocation 4 elements.
struct Params { n4: u32, x0: u32 }
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;
@group(0) @binding(2) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  if (i >= p.n4) { return; }
  y[i] = Y4(x[p.x0 + i]);
}
