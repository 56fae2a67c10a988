// nt of matvec.wgsl for CPU adapters with subgroups of WX = 8 or 4 lanes, for as many rows: a lane owns a column, and
// holds one row of X for the others, so that a step of k costs two loads. No sinks; sums are in matvec.wgsl's order.
enable subgroups;
struct Params {
  rows: u32, n: u32, k: u32, mode: u32,
  x0: u32, ldx: u32, w0: u32, y0: u32,
  ldy: u32, ldr: u32, slots: u32, block: u32,
  half_rows: u32,
}
alias X = f32;
alias X4 = vec4f;
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> x: array<X4>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(3) var<storage, read> units: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<Y>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 8;

fn put(r: u32, c: u32, v: vec4f) {
  if (r >= p.rows || c >= p.n) { return; }
  let sum = (v.x + v.y) + (v.z + v.w);
  let at = p.y0 + r * p.ldy + c;
  if (p.mode == 0u) { y[at] = Y(sum); }
  else if (p.mode == 1u) { y[at] = Y(f32(y[at]) + sum); }
  else { y[at] = Y(residual[r * p.ldr + c] + sum); }
}

@compute @workgroup_size(WX)
fn nt(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let c = group.x * WX + lane;
  let r = group.y * WX;
  let w_at = (p.w0 + min(c, p.n - 1u)) * p.k;
  let x_at = p.x0 + min(r + lane, p.rows - 1u) * p.ldx;
  var s0 = vec4f(); var s1 = vec4f(); var s2 = vec4f(); var s3 = vec4f();
  var s4 = vec4f(); var s5 = vec4f(); var s6 = vec4f(); var s7 = vec4f();
  for (var k = 0u; k < p.k; k++) {
    let mine = vec4f(x[x_at + k]);
    let v = w[w_at + k];
    s0 = fma(v, subgroupBroadcast(mine, 0u), s0);
    s1 = fma(v, subgroupBroadcast(mine, 1u), s1);
    s2 = fma(v, subgroupBroadcast(mine, 2u), s2);
    s3 = fma(v, subgroupBroadcast(mine, 3u), s3);
    if (WX > 4u) {
      s4 = fma(v, subgroupBroadcast(mine, 4u), s4);
      s5 = fma(v, subgroupBroadcast(mine, 5u), s5);
      s6 = fma(v, subgroupBroadcast(mine, 6u), s6);
      s7 = fma(v, subgroupBroadcast(mine, 7u), s7);
    }
  }
  put(r, c, s0);
  put(r + 1u, c, s1);
  put(r + 2u, c, s2);
  put(r + 3u, c, s3);
  if (WX > 4u) {
    put(r + 4u, c, s4);
    put(r + 5u, c, s5);
    put(r + 6u, c, s6);
    put(r + 7u, c, s7);
  }
}
