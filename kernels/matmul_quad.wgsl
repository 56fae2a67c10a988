// The products of matmul.wgsl, for CPU adapters with subgroups of 4 lanes: a workgroup is one subgroup and owns 16 rows by
// 16 columns of C, a lane 4 of those columns. No workgroup memory, no barrier.
//
// nn:  C[m,n] = sum_k A[m,k] B[k,n]       8 steps of k at a time; a lane loads one row in four
// tn:  C[m,n] += sum_k A[k,m] B[k,n]      4 steps of k at a time; a lane loads 4 rows of 16
//
// Lanes take from each other what they loaded of A by swapping, which costs one instruction where a broadcast costs a
// dozen: after swap s, lane l holds what lane l ^ s loaded, so its s-th sums are of those rows.
//
// Bindings, modes, layout and tiles of rows are those of matmul.wgsl.
enable subgroups;
struct Params {
  m: u32, n4: u32, k: u32, mode: u32,
  a0: u32, lda: u32,
  b0: u32, ldb4: u32,
  c0: u32, ldc4: u32,
  ldr4: u32, segment_stride4: u32,
}
// element types of the three matrices; sums are f32 whatever they are
alias A = f32;
alias A4 = vec4f;
alias B = f32;
alias B4 = vec4f;
alias C = f32;
alias C4 = vec4f;
@group(0) @binding(0) var<storage, read> a: array<A4>;
@group(0) @binding(1) var<storage, read> b: array<B4>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> c: array<C4>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 4;

// 0 store, 1 add to C, 2 add to R (the residual stream): a constant, for the many stores of a tile would make compilers
// slow otherwise
override MODE: u32 = 0;

fn store(row: u32, end: u32, col: u32, v: vec4f) {
  if (row >= end || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  if (MODE == 0u) { c[at] = C4(v); }
  if (MODE == 1u) { c[at] = C4(vec4f(c[at]) + v); }
  if (MODE == 2u) { c[at] = C4(residual[row * p.ldr4 + col] + v); }
}

// Sums stay in a register from the first term to the last where they are written as one expression a column.
fn sum8(c: vec4f, y: vec4f, z: vec4f,
  b0: vec4f, b1: vec4f, b2: vec4f, b3: vec4f, b4: vec4f, b5: vec4f, b6: vec4f, b7: vec4f) -> vec4f {
  return vec4f(
    c.x + y.x * b0.x + y.y * b1.x + y.z * b2.x + y.w * b3.x +
      z.x * b4.x + z.y * b5.x + z.z * b6.x + z.w * b7.x,
    c.y + y.x * b0.y + y.y * b1.y + y.z * b2.y + y.w * b3.y +
      z.x * b4.y + z.y * b5.y + z.z * b6.y + z.w * b7.y,
    c.z + y.x * b0.z + y.y * b1.z + y.z * b2.z + y.w * b3.z +
      z.x * b4.z + z.y * b5.z + z.z * b6.z + z.w * b7.z,
    c.w + y.x * b0.w + y.y * b1.w + y.z * b2.w + y.w * b3.w +
      z.x * b4.w + z.y * b5.w + z.z * b6.w + z.w * b7.w
  );
}

@compute @workgroup_size(WX)
fn nn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  var row = group.y * 16u;
  var end = p.m;
  let col = group.x * WX + lane;
  var b_at = p.b0 + col;
  if (p.segment_stride4 != 0u) {
    let tile = tiles[group.y];
    row = tile.x;
    end = tile.y;
    b_at += tile.z * p.segment_stride4;
  }
  if (row >= end) { return; }
  let last = end - 1u;
  var a0 = (p.a0 + min(row + 0u + lane, last) * p.lda) / 4u;
  var a1 = (p.a0 + min(row + 4u + lane, last) * p.lda) / 4u;
  var a2 = (p.a0 + min(row + 8u + lane, last) * p.lda) / 4u;
  var a3 = (p.a0 + min(row + 12u + lane, last) * p.lda) / 4u;
  var c00 = vec4f(); var c01 = vec4f(); var c02 = vec4f(); var c03 = vec4f();
  var c10 = vec4f(); var c11 = vec4f(); var c12 = vec4f(); var c13 = vec4f();
  var c20 = vec4f(); var c21 = vec4f(); var c22 = vec4f(); var c23 = vec4f();
  var c30 = vec4f(); var c31 = vec4f(); var c32 = vec4f(); var c33 = vec4f();
  var left = p.k;
  while (left >= 8u) {
    let b0 = vec4f(b[b_at]);
    let b1 = vec4f(b[b_at + p.ldb4]);
    let b2 = vec4f(b[b_at + 2u * p.ldb4]);
    let b3 = vec4f(b[b_at + 3u * p.ldb4]);
    let b4 = vec4f(b[b_at + 4u * p.ldb4]);
    let b5 = vec4f(b[b_at + 5u * p.ldb4]);
    let b6 = vec4f(b[b_at + 6u * p.ldb4]);
    let b7 = vec4f(b[b_at + 7u * p.ldb4]);
    let x0 = vec4f(a[a0]);
    let z0 = vec4f(a[a0 + 1u]);
    c00 = sum8(c00, x0, z0, b0, b1, b2, b3, b4, b5, b6, b7);
    c01 = sum8(c01, quadSwapX(x0), quadSwapX(z0), b0, b1, b2, b3, b4, b5, b6, b7);
    c02 = sum8(c02, quadSwapY(x0), quadSwapY(z0), b0, b1, b2, b3, b4, b5, b6, b7);
    c03 = sum8(c03, quadSwapDiagonal(x0), quadSwapDiagonal(z0), b0, b1, b2, b3, b4, b5, b6, b7);
    let x1 = vec4f(a[a1]);
    let z1 = vec4f(a[a1 + 1u]);
    c10 = sum8(c10, x1, z1, b0, b1, b2, b3, b4, b5, b6, b7);
    c11 = sum8(c11, quadSwapX(x1), quadSwapX(z1), b0, b1, b2, b3, b4, b5, b6, b7);
    c12 = sum8(c12, quadSwapY(x1), quadSwapY(z1), b0, b1, b2, b3, b4, b5, b6, b7);
    c13 = sum8(c13, quadSwapDiagonal(x1), quadSwapDiagonal(z1), b0, b1, b2, b3, b4, b5, b6, b7);
    let x2 = vec4f(a[a2]);
    let z2 = vec4f(a[a2 + 1u]);
    c20 = sum8(c20, x2, z2, b0, b1, b2, b3, b4, b5, b6, b7);
    c21 = sum8(c21, quadSwapX(x2), quadSwapX(z2), b0, b1, b2, b3, b4, b5, b6, b7);
    c22 = sum8(c22, quadSwapY(x2), quadSwapY(z2), b0, b1, b2, b3, b4, b5, b6, b7);
    c23 = sum8(c23, quadSwapDiagonal(x2), quadSwapDiagonal(z2), b0, b1, b2, b3, b4, b5, b6, b7);
    let x3 = vec4f(a[a3]);
    let z3 = vec4f(a[a3 + 1u]);
    c30 = sum8(c30, x3, z3, b0, b1, b2, b3, b4, b5, b6, b7);
    c31 = sum8(c31, quadSwapX(x3), quadSwapX(z3), b0, b1, b2, b3, b4, b5, b6, b7);
    c32 = sum8(c32, quadSwapY(x3), quadSwapY(z3), b0, b1, b2, b3, b4, b5, b6, b7);
    c33 = sum8(c33, quadSwapDiagonal(x3), quadSwapDiagonal(z3), b0, b1, b2, b3, b4, b5, b6, b7);
    a0 += 2u;
    a1 += 2u;
    a2 += 2u;
    a3 += 2u;
    b_at += 8u * p.ldb4;
    left -= 8u;
  }
  for (var e = 0u; e < left; e++) {
    let b0 = vec4f(b[b_at + e * p.ldb4]);
    let x0 = f32(a[a0 + e / 4u][e % 4u]);
    c00 += x0 * b0;
    c01 += quadSwapX(x0) * b0;
    c02 += quadSwapY(x0) * b0;
    c03 += quadSwapDiagonal(x0) * b0;
    let x1 = f32(a[a1 + e / 4u][e % 4u]);
    c10 += x1 * b0;
    c11 += quadSwapX(x1) * b0;
    c12 += quadSwapY(x1) * b0;
    c13 += quadSwapDiagonal(x1) * b0;
    let x2 = f32(a[a2 + e / 4u][e % 4u]);
    c20 += x2 * b0;
    c21 += quadSwapX(x2) * b0;
    c22 += quadSwapY(x2) * b0;
    c23 += quadSwapDiagonal(x2) * b0;
    let x3 = f32(a[a3 + e / 4u][e % 4u]);
    c30 += x3 * b0;
    c31 += quadSwapX(x3) * b0;
    c32 += quadSwapY(x3) * b0;
    c33 += quadSwapDiagonal(x3) * b0;
  }
  store(row + 0u + lane, end, col, c00);
  store(row + 0u + (lane ^ 1u), end, col, c01);
  store(row + 0u + (lane ^ 2u), end, col, c02);
  store(row + 0u + (lane ^ 3u), end, col, c03);
  store(row + 4u + lane, end, col, c10);
  store(row + 4u + (lane ^ 1u), end, col, c11);
  store(row + 4u + (lane ^ 2u), end, col, c12);
  store(row + 4u + (lane ^ 3u), end, col, c13);
  store(row + 8u + lane, end, col, c20);
  store(row + 8u + (lane ^ 1u), end, col, c21);
  store(row + 8u + (lane ^ 2u), end, col, c22);
  store(row + 8u + (lane ^ 3u), end, col, c23);
  store(row + 12u + lane, end, col, c30);
  store(row + 12u + (lane ^ 1u), end, col, c31);
  store(row + 12u + (lane ^ 2u), end, col, c32);
  store(row + 12u + (lane ^ 3u), end, col, c33);
}

fn sum4(c: vec4f, y0: f32, y1: f32, y2: f32, y3: f32, b0: vec4f, b1: vec4f, b2: vec4f, b3: vec4f) -> vec4f {
  return vec4f(
    c.x + y0 * b0.x + y1 * b1.x + y2 * b2.x + y3 * b3.x,
    c.y + y0 * b0.y + y1 * b1.y + y2 * b2.y + y3 * b3.y,
    c.z + y0 * b0.z + y1 * b1.z + y2 * b2.z + y3 * b3.z,
    c.w + y0 * b0.w + y1 * b1.w + y2 * b2.w + y3 * b3.w
  );
}

fn add(row: u32, col: u32, v: vec4f) {
  if (row >= p.m || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  c[at] = C4(vec4f(c[at]) + v);
}

@compute @workgroup_size(WX)
fn tn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  // here lda, like the others, counts groups of 4
  let col = group.x * WX + lane;
  var a_at = p.a0 + group.y * 4u + lane;
  var b_at = p.b0 + col;
  var c00 = vec4f(); var c01 = vec4f(); var c02 = vec4f(); var c03 = vec4f();
  var c10 = vec4f(); var c11 = vec4f(); var c12 = vec4f(); var c13 = vec4f();
  var c20 = vec4f(); var c21 = vec4f(); var c22 = vec4f(); var c23 = vec4f();
  var c30 = vec4f(); var c31 = vec4f(); var c32 = vec4f(); var c33 = vec4f();
  var left = p.k;
  while (left >= 4u) {
    let b0 = vec4f(b[b_at]);
    let b1 = vec4f(b[b_at + p.ldb4]);
    let b2 = vec4f(b[b_at + 2u * p.ldb4]);
    let b3 = vec4f(b[b_at + 3u * p.ldb4]);
    let x0 = vec4f(a[a_at]);
    let x1 = vec4f(a[a_at + p.lda]);
    let x2 = vec4f(a[a_at + 2u * p.lda]);
    let x3 = vec4f(a[a_at + 3u * p.lda]);
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
    a_at += 4u * p.lda;
    b_at += 4u * p.ldb4;
    left -= 4u;
  }
  while (left > 0u) {
    let b0 = vec4f(b[b_at]);
    let x0 = vec4f(a[a_at]);
    c00 += x0.x * b0; c01 += x0.y * b0; c02 += x0.z * b0; c03 += x0.w * b0;
    let y0 = quadSwapX(x0);
    c10 += y0.x * b0; c11 += y0.y * b0; c12 += y0.z * b0; c13 += y0.w * b0;
    let z0 = quadSwapY(x0);
    c20 += z0.x * b0; c21 += z0.y * b0; c22 += z0.z * b0; c23 += z0.w * b0;
    let w0 = quadSwapDiagonal(x0);
    c30 += w0.x * b0; c31 += w0.y * b0; c32 += w0.z * b0; c33 += w0.w * b0;
    a_at += p.lda;
    b_at += p.ldb4;
    left--;
  }
  let row = group.y * 16u;
  add(row + 4u * lane, col, c00);
  add(row + 4u * lane + 1u, col, c01);
  add(row + 4u * lane + 2u, col, c02);
  add(row + 4u * lane + 3u, col, c03);
  add(row + 4u * (lane ^ 1u), col, c10);
  add(row + 4u * (lane ^ 1u) + 1u, col, c11);
  add(row + 4u * (lane ^ 1u) + 2u, col, c12);
  add(row + 4u * (lane ^ 1u) + 3u, col, c13);
  add(row + 4u * (lane ^ 2u), col, c20);
  add(row + 4u * (lane ^ 2u) + 1u, col, c21);
  add(row + 4u * (lane ^ 2u) + 2u, col, c22);
  add(row + 4u * (lane ^ 2u) + 3u, col, c23);
  add(row + 4u * (lane ^ 3u), col, c30);
  add(row + 4u * (lane ^ 3u) + 1u, col, c31);
  add(row + 4u * (lane ^ 3u) + 2u, col, c32);
  add(row + 4u * (lane ^ 3u) + 3u, col, c33);
}
