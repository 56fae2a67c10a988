// The gradient of sink_gradient.wgsl, with the same bindings and parameters, for CPU adapters with subgroups of 4:
//   dW[row(unit, r), :] += sum over the segments that light the unit, in fixed order, of
//                          sum over the segment's tokens t of  dY[t, column(slot, r)] * X[t, :]
//
// A workgroup is one subgroup and owns 16 neurons of a touched unit by 16 columns, a lane 4 columns of all 16; larger
// blocks are several parts. It walks tokens four at a time and swaps what it loads of dY, as tn of matmul_quad.wgsl.
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

override WX: u32 = 4;

fn sum4(c: vec4f, y0: f32, y1: f32, y2: f32, y3: f32, b0: vec4f, b1: vec4f, b2: vec4f, b3: vec4f) -> vec4f {
  return vec4f(
    c.x + y0 * b0.x + y1 * b1.x + y2 * b2.x + y3 * b3.x,
    c.y + y0 * b0.y + y1 * b1.y + y2 * b2.y + y3 * b3.y,
    c.z + y0 * b0.z + y1 * b1.z + y2 * b2.z + y3 * b3.z,
    c.w + y0 * b0.w + y1 * b1.w + y2 * b2.w + y3 * b3.w
  );
}

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
  // the neurons that a lane loads; those behind the block are never stored
  let neurons = min(part * 4u + lane, p.block / 4u - 1u);
  var c00 = vec4f(); var c01 = vec4f(); var c02 = vec4f(); var c03 = vec4f();
  var c10 = vec4f(); var c11 = vec4f(); var c12 = vec4f(); var c13 = vec4f();
  var c20 = vec4f(); var c21 = vec4f(); var c22 = vec4f(); var c23 = vec4f();
  var c30 = vec4f(); var c31 = vec4f(); var c32 = vec4f(); var c33 = vec4f();
  for (var e = unit_start[u]; e < unit_start[u + 1u]; e++) {
    let pair = uses[e];
    let range = segment_range[pair.x];
    var a_at = p.a0 + range.x * p.lda4 + half * p.active4 + pair.y * p.block / 4u + neurons;
    var b_at = range.x * p.ldb4 + col;
    var left = range.y;
    while (left >= 4u) {
      let b0 = vec4f(x[b_at]);
      let b1 = vec4f(x[b_at + p.ldb4]);
      let b2 = vec4f(x[b_at + 2u * p.ldb4]);
      let b3 = vec4f(x[b_at + 3u * p.ldb4]);
      let x0 = vec4f(dy[a_at]);
      let x1 = vec4f(dy[a_at + p.lda4]);
      let x2 = vec4f(dy[a_at + 2u * p.lda4]);
      let x3 = vec4f(dy[a_at + 3u * p.lda4]);
      c00 = sum4(c00, x0.x, x1.x, x2.x, x3.x, b0, b1, b2, b3);
      c01 = sum4(c01, x0.y, x1.y, x2.y, x3.y, b0, b1, b2, b3);
      c02 = sum4(c02, x0.z, x1.z, x2.z, x3.z, b0, b1, b2, b3);
      c03 = sum4(c03, x0.w, x1.w, x2.w, x3.w, b0, b1, b2, b3);
      let y0 = quadSwapX(x0);
      let y1 = quadSwapX(x1);
      let y2 = quadSwapX(x2);
      let y3 = quadSwapX(x3);
      c10 = sum4(c10, y0.x, y1.x, y2.x, y3.x, b0, b1, b2, b3);
      c11 = sum4(c11, y0.y, y1.y, y2.y, y3.y, b0, b1, b2, b3);
      c12 = sum4(c12, y0.z, y1.z, y2.z, y3.z, b0, b1, b2, b3);
      c13 = sum4(c13, y0.w, y1.w, y2.w, y3.w, b0, b1, b2, b3);
      let z0 = quadSwapY(x0);
      let z1 = quadSwapY(x1);
      let z2 = quadSwapY(x2);
      let z3 = quadSwapY(x3);
      c20 = sum4(c20, z0.x, z1.x, z2.x, z3.x, b0, b1, b2, b3);
      c21 = sum4(c21, z0.y, z1.y, z2.y, z3.y, b0, b1, b2, b3);
      c22 = sum4(c22, z0.z, z1.z, z2.z, z3.z, b0, b1, b2, b3);
      c23 = sum4(c23, z0.w, z1.w, z2.w, z3.w, b0, b1, b2, b3);
      let w0 = quadSwapDiagonal(x0);
      let w1 = quadSwapDiagonal(x1);
      let w2 = quadSwapDiagonal(x2);
      let w3 = quadSwapDiagonal(x3);
      c30 = sum4(c30, w0.x, w1.x, w2.x, w3.x, b0, b1, b2, b3);
      c31 = sum4(c31, w0.y, w1.y, w2.y, w3.y, b0, b1, b2, b3);
      c32 = sum4(c32, w0.z, w1.z, w2.z, w3.z, b0, b1, b2, b3);
      c33 = sum4(c33, w0.w, w1.w, w2.w, w3.w, b0, b1, b2, b3);
      a_at += 4u * p.lda4;
      b_at += 4u * p.ldb4;
      left -= 4u;
    }
    while (left > 0u) {
      let b0 = vec4f(x[b_at]);
      let x0 = vec4f(dy[a_at]);
      c00 += x0.x * b0; c01 += x0.y * b0; c02 += x0.z * b0; c03 += x0.w * b0;
      let y0 = quadSwapX(x0);
      c10 += y0.x * b0; c11 += y0.y * b0; c12 += y0.z * b0; c13 += y0.w * b0;
      let z0 = quadSwapY(x0);
      c20 += z0.x * b0; c21 += z0.y * b0; c22 += z0.z * b0; c23 += z0.w * b0;
      let w0 = quadSwapDiagonal(x0);
      c30 += w0.x * b0; c31 += w0.y * b0; c32 += w0.z * b0; c33 += w0.w * b0;
      a_at += p.lda4;
      b_at += p.ldb4;
      left--;
    }
  }
  let row = p.row0 + half * p.half_rows + units[u] * p.block;
  let r0 = part * 16u + 4u * lane;
  add(r0, row, col, c00);
  add(r0 + 1u, row, col, c01);
  add(r0 + 2u, row, col, c02);
  add(r0 + 3u, row, col, c03);
  let r1 = part * 16u + 4u * (lane ^ 1u);
  add(r1, row, col, c10);
  add(r1 + 1u, row, col, c11);
  add(r1 + 2u, row, col, c12);
  add(r1 + 3u, row, col, c13);
  let r2 = part * 16u + 4u * (lane ^ 2u);
  add(r2, row, col, c20);
  add(r2 + 1u, row, col, c21);
  add(r2 + 2u, row, col, c22);
  add(r2 + 3u, row, col, c23);
  let r3 = part * 16u + 4u * (lane ^ 3u);
  add(r3, row, col, c30);
  add(r3 + 1u, row, col, c31);
  add(r3 + 2u, row, col, c32);
  add(r3 + 3u, row, col, c33);
}
