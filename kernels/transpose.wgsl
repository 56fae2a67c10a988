// out[c, r] = in[r, c] for r < rows, c < cols; columns r in [rows, 4 * ldo4) of out become 0.
// A linear layer's forward reads its weight transposed once a step: that is cheaper than dot products along rows, whose
// loads no adapter can merge. An invocation writes 4 columns of one row of out.
struct Params { rows: u32, cols: u32, in0: u32, ldi: u32, out0: u32, ldo4: u32 }
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<Y4>;
@group(0) @binding(2) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let r = (i / p.cols) * 4u;
  let c = i % p.cols;
  if (r >= p.ldo4 * 4u) { return; }
  let at = p.in0 + c;
  var v = vec4f();
  if (r < p.rows) { v.x = x[at + r * p.ldi]; }
  if (r + 1u < p.rows) { v.y = x[at + (r + 1u) * p.ldi]; }
  if (r + 2u < p.rows) { v.z = x[at + (r + 2u) * p.ldi]; }
  if (r + 3u < p.rows) { v.w = x[at + (r + 3u) * p.ldi]; }
  y[p.out0 + c * p.ldo4 + r / 4u] = Y4(v);
}
