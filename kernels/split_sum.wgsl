// The second pass of products whose sums over k were split: adds up their parts, each [m,n] f32, in order.
//   forward:  C[m,n] = sum over parts; with p.add = 1 added to C
//   four:     C[m,n] += sum over parts, of four products at once: one with no elements is none
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

// size: m * n4
struct Four {
  size0: u32, row0: u32, parts0: u32, first0: u32, ld0: u32, size1: u32, row1: u32, parts1: u32, first1: u32, ld1: u32,
  size2: u32, row2: u32, parts2: u32, first2: u32, ld2: u32, size3: u32, row3: u32, parts3: u32, first3: u32, ld3: u32,
}
@group(0) @binding(0) var<storage, read> x0: array<vec4f>;
@group(0) @binding(1) var<storage, read> x1: array<vec4f>;
@group(0) @binding(2) var<storage, read> x2: array<vec4f>;
@group(0) @binding(3) var<storage, read> x3: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y0: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y1: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> y2: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> y3: array<vec4f>;
@group(0) @binding(8) var<uniform> f: Four;

@compute @workgroup_size(WX)
fn four(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var i = id.x + id.y * groups.x * WX;
  if (i < f.size0) {
    var sum = x0[i];
    for (var part = 1u; part < f.parts0; part++) { sum += x0[part * f.size0 + i]; }
    y0[f.first0 + (i / f.row0) * f.ld0 + i % f.row0] += sum;
    return;
  }
  i -= f.size0;
  if (i < f.size1) {
    var sum = x1[i];
    for (var part = 1u; part < f.parts1; part++) { sum += x1[part * f.size1 + i]; }
    y1[f.first1 + (i / f.row1) * f.ld1 + i % f.row1] += sum;
    return;
  }
  i -= f.size1;
  if (i < f.size2) {
    var sum = x2[i];
    for (var part = 1u; part < f.parts2; part++) { sum += x2[part * f.size2 + i]; }
    y2[f.first2 + (i / f.row2) * f.ld2 + i % f.row2] += sum;
    return;
  }
  i -= f.size2;
  if (i < f.size3) {
    var sum = x3[i];
    for (var part = 1u; part < f.parts3; part++) { sum += x3[part * f.size3 + i]; }
    y3[f.first3 + (i / f.row3) * f.ld3 + i % f.row3] += sum;
  }
}
