// Rows times a number each, in place: x[row, :] *= scale[first + row]. One invocation 4 columns of a row.
struct Params { rows: u32, n4: u32, first: u32 }
alias X = f32;
alias X4 = vec4f;
@group(0) @binding(0) var<storage, read> scale: array<f32>;
@group(0) @binding(1) var<storage, read_write> x: array<X4>;
@group(0) @binding(2) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let row = i / p.n4;
  if (row >= p.rows) { return; }
  x[i] = X4(scale[p.first + row] * vec4f(x[i]));
}
