// The second pass of a product whose sum over k was split: adds up its parts, each [m,n] f32, in order.
//   C[m,n] = sum over parts; with p.add = 1 added to C
struct Params { m: u32, n4: u32, parts: u32, add: u32, c0: u32, ldc4: u32 }
alias C4 = vec4f;
@group(0) @binding(0) var<storage, read> partial: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> c: array<C4>;
@group(0) @binding(2) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let size = p.m * p.n4;
  if (i >= size) { return; }
  let at = p.c0 + (i / p.n4) * p.ldc4 + i % p.n4;
  var sum = partial[i];
  for (var part = 1u; part < p.parts; part++) { sum += partial[part * size + i]; }
  if (p.add == 1u) { sum += vec4f(c[at]); }
  c[at] = C4(sum);
}
