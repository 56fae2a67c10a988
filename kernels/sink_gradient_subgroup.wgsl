// The gradient of sink_gradient.wgsl, with the same bindings and parameters, for CPU adapters with subgroups of 8 lanes
// (of 4: sink_gradient_quad.wgsl):
//   dW[row(unit, r), :] += sum over the segments that light the unit, in fixed order, of
//                          sum over the segment's tokens t of  dY[t, column(slot, r)] * X[t, :]
//
// A workgroup is one subgroup and owns 16 neurons of a touched unit by 32 columns, a lane 4 columns of all 16; larger
// blocks are several parts. It walks tokens two at a time and shares what it loads of dY, as tn of matmul_subgroup.wgsl.
enable subgroups;
struct Params {
  touched: u32, n4: u32, block: u32, halves: u32,
  a0: u32, lda4: u32, active4: u32,
  ldb4: u32,
  row0: u32, half_rows: u32, store: u32,
}
alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> dy: array<T4>;
@group(0) @binding(1) var<storage, read> x: array<T4>;
@group(0) @binding(2) var<storage, read> touched_count: array<u32>;
@group(0) @binding(3) var<storage, read> units: array<u32>;
@group(0) @binding(4) var<storage, read> unit_start: array<u32>;
@group(0) @binding(5) var<storage, read> uses: array<vec2u>;
@group(0) @binding(6) var<storage, read> segment_range: array<vec2u>;
@group(0) @binding(7) var<storage, read_write> dw: array<vec4f>;
@group(0) @binding(8) var<uniform> p: Params;

override WX: u32 = 8;

fn add(r: u32, row: u32, col: u32, v: vec4f) {
  if (r >= p.block || col >= p.n4) { return; }
  let at = (row + r) * p.n4 + col;
  if (p.store == 1u) { dw[at] = v; } else { dw[at] += v; }
}

@compute @workgroup_size(WX)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let parts = (p.block + 15u) / 16u;
  let part = group.y % parts;
  let half = (group.y / parts) % p.halves;
  let u = group.y / (parts * p.halves);
  if (u >= touched_count[0]) { return; }
  let col = group.x * WX + lane;
  // 4 lanes hold a token's 16 neurons (those behind the block are never stored), the other 4 the next token's
  let neurons = min(part * 4u + lane % 4u, p.block / 4u - 1u) + select(0u, p.lda4, lane >= 4u);
  var c0 = vec4f(); var c1 = vec4f(); var c2 = vec4f(); var c3 = vec4f();
  var c4 = vec4f(); var c5 = vec4f(); var c6 = vec4f(); var c7 = vec4f();
  var c8 = vec4f(); var c9 = vec4f(); var c10 = vec4f(); var c11 = vec4f();
  var c12 = vec4f(); var c13 = vec4f(); var c14 = vec4f(); var c15 = vec4f();
  for (var e = unit_start[u]; e < unit_start[u + 1u]; e++) {
    let pair = uses[e];
    let range = segment_range[pair.x];
    var a_at = p.a0 + range.x * p.lda4 + half * p.active4 + pair.y * p.block / 4u + neurons;
    var b_at = range.x * p.ldb4 + col;
    var left = range.y;
    while (left >= 2u) {
      let a = vec4f(dy[a_at]);
      let b0 = vec4f(x[b_at]);
      let b1 = vec4f(x[b_at + p.ldb4]);
      let y0 = subgroupBroadcast(a, 0u);
      c0 += y0.x * b0; c1 += y0.y * b0;
      c2 += y0.z * b0; c3 += y0.w * b0;
      let y1 = subgroupBroadcast(a, 1u);
      c4 += y1.x * b0; c5 += y1.y * b0;
      c6 += y1.z * b0; c7 += y1.w * b0;
      let y2 = subgroupBroadcast(a, 2u);
      c8 += y2.x * b0; c9 += y2.y * b0;
      c10 += y2.z * b0; c11 += y2.w * b0;
      let y3 = subgroupBroadcast(a, 3u);
      c12 += y3.x * b0; c13 += y3.y * b0;
      c14 += y3.z * b0; c15 += y3.w * b0;
      let z0 = subgroupBroadcast(a, 4u);
      c0 += z0.x * b1; c1 += z0.y * b1;
      c2 += z0.z * b1; c3 += z0.w * b1;
      let z1 = subgroupBroadcast(a, 5u);
      c4 += z1.x * b1; c5 += z1.y * b1;
      c6 += z1.z * b1; c7 += z1.w * b1;
      let z2 = subgroupBroadcast(a, 6u);
      c8 += z2.x * b1; c9 += z2.y * b1;
      c10 += z2.z * b1; c11 += z2.w * b1;
      let z3 = subgroupBroadcast(a, 7u);
      c12 += z3.x * b1; c13 += z3.y * b1;
      c14 += z3.z * b1; c15 += z3.w * b1;
      a_at += 2u * p.lda4;
      b_at += 2u * p.ldb4;
      left -= 2u;
    }
    if (left == 1u) {
      let a = vec4f(dy[a_at]);
      let b0 = vec4f(x[b_at]);
      let y0 = subgroupBroadcast(a, 0u);
      c0 += y0.x * b0; c1 += y0.y * b0;
      c2 += y0.z * b0; c3 += y0.w * b0;
      let y1 = subgroupBroadcast(a, 1u);
      c4 += y1.x * b0; c5 += y1.y * b0;
      c6 += y1.z * b0; c7 += y1.w * b0;
      let y2 = subgroupBroadcast(a, 2u);
      c8 += y2.x * b0; c9 += y2.y * b0;
      c10 += y2.z * b0; c11 += y2.w * b0;
      let y3 = subgroupBroadcast(a, 3u);
      c12 += y3.x * b0; c13 += y3.y * b0;
      c14 += y3.z * b0; c15 += y3.w * b0;
    }
  }
  let row = p.row0 + half * p.half_rows + units[u] * p.block;
  let r = part * 16u;
  add(r, row, col, c0);
  add(r + 1u, row, col, c1);
  add(r + 2u, row, col, c2);
  add(r + 3u, row, col, c3);
  add(r + 4u, row, col, c4);
  add(r + 5u, row, col, c5);
  add(r + 6u, row, col, c6);
  add(r + 7u, row, col, c7);
  add(r + 8u, row, col, c8);
  add(r + 9u, row, col, c9);
  add(r + 10u, row, col, c10);
  add(r + 11u, row, col, c11);
  add(r + 12u, row, col, c12);
  add(r + 13u, row, col, c13);
  add(r + 14u, row, col, c14);
  add(r + 15u, row, col, c15);
}
