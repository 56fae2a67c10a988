// The products of matmul.wgsl, for CPU adapters with subgroups of 8 lanes (of 4: matmul_quad.wgsl): a workgroup is one
// subgroup, whose lanes share what they load of A by broadcast, so that a tile of C costs few loads. No workgroup memory,
// no barrier.
//
// nn:  C[m,n] = sum_k A[m,k] B[k,n]       tiles of 32 rows by 32 columns, 4 steps of k at a time
// tn:  C[m,n] += sum_k A[k,m] B[k,n]      tiles of 16 rows by 32 columns, 2 steps of k at a time
//
// Bindings, modes, layout and tiles of rows are those of matmul.wgsl. A lane owns 4 columns of every row of its tile.
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

override WX: u32 = 8;

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

@compute @workgroup_size(WX)
fn nn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  var row = group.y * 32u;
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
  var a0 = (p.a0 + min(row + lane, last) * p.lda) / 4u;
  var a1 = (p.a0 + min(row + 8u + lane, last) * p.lda) / 4u;
  var a2 = (p.a0 + min(row + 16u + lane, last) * p.lda) / 4u;
  var a3 = (p.a0 + min(row + 24u + lane, last) * p.lda) / 4u;
  var c00 = vec4f(); var c01 = vec4f(); var c02 = vec4f(); var c03 = vec4f();
  var c04 = vec4f(); var c05 = vec4f(); var c06 = vec4f(); var c07 = vec4f();
  var c10 = vec4f(); var c11 = vec4f(); var c12 = vec4f(); var c13 = vec4f();
  var c14 = vec4f(); var c15 = vec4f(); var c16 = vec4f(); var c17 = vec4f();
  var c20 = vec4f(); var c21 = vec4f(); var c22 = vec4f(); var c23 = vec4f();
  var c24 = vec4f(); var c25 = vec4f(); var c26 = vec4f(); var c27 = vec4f();
  var c30 = vec4f(); var c31 = vec4f(); var c32 = vec4f(); var c33 = vec4f();
  var c34 = vec4f(); var c35 = vec4f(); var c36 = vec4f(); var c37 = vec4f();
  var left = p.k;
  while (left >= 4u) {
    let b0 = vec4f(b[b_at]);
    let b1 = vec4f(b[b_at + p.ldb4]);
    let b2 = vec4f(b[b_at + 2u * p.ldb4]);
    let b3 = vec4f(b[b_at + 3u * p.ldb4]);
    let x0 = vec4f(a[a0]);
    let x1 = vec4f(a[a1]);
    let x2 = vec4f(a[a2]);
    let x3 = vec4f(a[a3]);
    let y00 = subgroupBroadcast(x0, 0u);
    c00 += y00.x * b0; c00 += y00.y * b1; c00 += y00.z * b2; c00 += y00.w * b3;
    let y01 = subgroupBroadcast(x0, 1u);
    c01 += y01.x * b0; c01 += y01.y * b1; c01 += y01.z * b2; c01 += y01.w * b3;
    let y02 = subgroupBroadcast(x0, 2u);
    c02 += y02.x * b0; c02 += y02.y * b1; c02 += y02.z * b2; c02 += y02.w * b3;
    let y03 = subgroupBroadcast(x0, 3u);
    c03 += y03.x * b0; c03 += y03.y * b1; c03 += y03.z * b2; c03 += y03.w * b3;
    let y04 = subgroupBroadcast(x0, 4u);
    c04 += y04.x * b0; c04 += y04.y * b1; c04 += y04.z * b2; c04 += y04.w * b3;
    let y05 = subgroupBroadcast(x0, 5u);
    c05 += y05.x * b0; c05 += y05.y * b1; c05 += y05.z * b2; c05 += y05.w * b3;
    let y06 = subgroupBroadcast(x0, 6u);
    c06 += y06.x * b0; c06 += y06.y * b1; c06 += y06.z * b2; c06 += y06.w * b3;
    let y07 = subgroupBroadcast(x0, 7u);
    c07 += y07.x * b0; c07 += y07.y * b1; c07 += y07.z * b2; c07 += y07.w * b3;
    let y10 = subgroupBroadcast(x1, 0u);
    c10 += y10.x * b0; c10 += y10.y * b1; c10 += y10.z * b2; c10 += y10.w * b3;
    let y11 = subgroupBroadcast(x1, 1u);
    c11 += y11.x * b0; c11 += y11.y * b1; c11 += y11.z * b2; c11 += y11.w * b3;
    let y12 = subgroupBroadcast(x1, 2u);
    c12 += y12.x * b0; c12 += y12.y * b1; c12 += y12.z * b2; c12 += y12.w * b3;
    let y13 = subgroupBroadcast(x1, 3u);
    c13 += y13.x * b0; c13 += y13.y * b1; c13 += y13.z * b2; c13 += y13.w * b3;
    let y14 = subgroupBroadcast(x1, 4u);
    c14 += y14.x * b0; c14 += y14.y * b1; c14 += y14.z * b2; c14 += y14.w * b3;
    let y15 = subgroupBroadcast(x1, 5u);
    c15 += y15.x * b0; c15 += y15.y * b1; c15 += y15.z * b2; c15 += y15.w * b3;
    let y16 = subgroupBroadcast(x1, 6u);
    c16 += y16.x * b0; c16 += y16.y * b1; c16 += y16.z * b2; c16 += y16.w * b3;
    let y17 = subgroupBroadcast(x1, 7u);
    c17 += y17.x * b0; c17 += y17.y * b1; c17 += y17.z * b2; c17 += y17.w * b3;
    let y20 = subgroupBroadcast(x2, 0u);
    c20 += y20.x * b0; c20 += y20.y * b1; c20 += y20.z * b2; c20 += y20.w * b3;
    let y21 = subgroupBroadcast(x2, 1u);
    c21 += y21.x * b0; c21 += y21.y * b1; c21 += y21.z * b2; c21 += y21.w * b3;
    let y22 = subgroupBroadcast(x2, 2u);
    c22 += y22.x * b0; c22 += y22.y * b1; c22 += y22.z * b2; c22 += y22.w * b3;
    let y23 = subgroupBroadcast(x2, 3u);
    c23 += y23.x * b0; c23 += y23.y * b1; c23 += y23.z * b2; c23 += y23.w * b3;
    let y24 = subgroupBroadcast(x2, 4u);
    c24 += y24.x * b0; c24 += y24.y * b1; c24 += y24.z * b2; c24 += y24.w * b3;
    let y25 = subgroupBroadcast(x2, 5u);
    c25 += y25.x * b0; c25 += y25.y * b1; c25 += y25.z * b2; c25 += y25.w * b3;
    let y26 = subgroupBroadcast(x2, 6u);
    c26 += y26.x * b0; c26 += y26.y * b1; c26 += y26.z * b2; c26 += y26.w * b3;
    let y27 = subgroupBroadcast(x2, 7u);
    c27 += y27.x * b0; c27 += y27.y * b1; c27 += y27.z * b2; c27 += y27.w * b3;
    let y30 = subgroupBroadcast(x3, 0u);
    c30 += y30.x * b0; c30 += y30.y * b1; c30 += y30.z * b2; c30 += y30.w * b3;
    let y31 = subgroupBroadcast(x3, 1u);
    c31 += y31.x * b0; c31 += y31.y * b1; c31 += y31.z * b2; c31 += y31.w * b3;
    let y32 = subgroupBroadcast(x3, 2u);
    c32 += y32.x * b0; c32 += y32.y * b1; c32 += y32.z * b2; c32 += y32.w * b3;
    let y33 = subgroupBroadcast(x3, 3u);
    c33 += y33.x * b0; c33 += y33.y * b1; c33 += y33.z * b2; c33 += y33.w * b3;
    let y34 = subgroupBroadcast(x3, 4u);
    c34 += y34.x * b0; c34 += y34.y * b1; c34 += y34.z * b2; c34 += y34.w * b3;
    let y35 = subgroupBroadcast(x3, 5u);
    c35 += y35.x * b0; c35 += y35.y * b1; c35 += y35.z * b2; c35 += y35.w * b3;
    let y36 = subgroupBroadcast(x3, 6u);
    c36 += y36.x * b0; c36 += y36.y * b1; c36 += y36.z * b2; c36 += y36.w * b3;
    let y37 = subgroupBroadcast(x3, 7u);
    c37 += y37.x * b0; c37 += y37.y * b1; c37 += y37.z * b2; c37 += y37.w * b3;
    a0++;
    a1++;
    a2++;
    a3++;
    b_at += 4u * p.ldb4;
    left -= 4u;
  }
  for (var e = 0u; e < left; e++) {
    let b0 = vec4f(b[b_at + e * p.ldb4]);
    let x0 = f32(a[a0][e]);
    let x1 = f32(a[a1][e]);
    let x2 = f32(a[a2][e]);
    let x3 = f32(a[a3][e]);
    c00 += subgroupBroadcast(x0, 0u) * b0; c01 += subgroupBroadcast(x0, 1u) * b0;
    c02 += subgroupBroadcast(x0, 2u) * b0; c03 += subgroupBroadcast(x0, 3u) * b0;
    c04 += subgroupBroadcast(x0, 4u) * b0; c05 += subgroupBroadcast(x0, 5u) * b0;
    c06 += subgroupBroadcast(x0, 6u) * b0; c07 += subgroupBroadcast(x0, 7u) * b0;
    c10 += subgroupBroadcast(x1, 0u) * b0; c11 += subgroupBroadcast(x1, 1u) * b0;
    c12 += subgroupBroadcast(x1, 2u) * b0; c13 += subgroupBroadcast(x1, 3u) * b0;
    c14 += subgroupBroadcast(x1, 4u) * b0; c15 += subgroupBroadcast(x1, 5u) * b0;
    c16 += subgroupBroadcast(x1, 6u) * b0; c17 += subgroupBroadcast(x1, 7u) * b0;
    c20 += subgroupBroadcast(x2, 0u) * b0; c21 += subgroupBroadcast(x2, 1u) * b0;
    c22 += subgroupBroadcast(x2, 2u) * b0; c23 += subgroupBroadcast(x2, 3u) * b0;
    c24 += subgroupBroadcast(x2, 4u) * b0; c25 += subgroupBroadcast(x2, 5u) * b0;
    c26 += subgroupBroadcast(x2, 6u) * b0; c27 += subgroupBroadcast(x2, 7u) * b0;
    c30 += subgroupBroadcast(x3, 0u) * b0; c31 += subgroupBroadcast(x3, 1u) * b0;
    c32 += subgroupBroadcast(x3, 2u) * b0; c33 += subgroupBroadcast(x3, 3u) * b0;
    c34 += subgroupBroadcast(x3, 4u) * b0; c35 += subgroupBroadcast(x3, 5u) * b0;
    c36 += subgroupBroadcast(x3, 6u) * b0; c37 += subgroupBroadcast(x3, 7u) * b0;
  }
  store(row, end, col, c00);
  store(row + 1u, end, col, c01);
  store(row + 2u, end, col, c02);
  store(row + 3u, end, col, c03);
  store(row + 4u, end, col, c04);
  store(row + 5u, end, col, c05);
  store(row + 6u, end, col, c06);
  store(row + 7u, end, col, c07);
  store(row + 8u, end, col, c10);
  store(row + 9u, end, col, c11);
  store(row + 10u, end, col, c12);
  store(row + 11u, end, col, c13);
  store(row + 12u, end, col, c14);
  store(row + 13u, end, col, c15);
  store(row + 14u, end, col, c16);
  store(row + 15u, end, col, c17);
  store(row + 16u, end, col, c20);
  store(row + 17u, end, col, c21);
  store(row + 18u, end, col, c22);
  store(row + 19u, end, col, c23);
  store(row + 20u, end, col, c24);
  store(row + 21u, end, col, c25);
  store(row + 22u, end, col, c26);
  store(row + 23u, end, col, c27);
  store(row + 24u, end, col, c30);
  store(row + 25u, end, col, c31);
  store(row + 26u, end, col, c32);
  store(row + 27u, end, col, c33);
  store(row + 28u, end, col, c34);
  store(row + 29u, end, col, c35);
  store(row + 30u, end, col, c36);
  store(row + 31u, end, col, c37);
}

fn add(row: u32, col: u32, v: vec4f) {
  if (row >= p.m || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  c[at] = C4(vec4f(c[at]) + v);
}

// 4 lanes hold 16 columns of A at one step of k, the other 4 those of the next.
@compute @workgroup_size(WX)
fn tn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  // here lda, like the others, counts groups of 4
  let row = group.y * 16u;
  let col = group.x * WX + lane;
  let first = p.a0 + group.y * 4u + lane % 4u;
  var a_at = first + select(0u, p.lda, lane >= 4u);
  var b_at = p.b0 + col;
  var c0 = vec4f(); var c1 = vec4f(); var c2 = vec4f(); var c3 = vec4f();
  var c4 = vec4f(); var c5 = vec4f(); var c6 = vec4f(); var c7 = vec4f();
  var c8 = vec4f(); var c9 = vec4f(); var c10 = vec4f(); var c11 = vec4f();
  var c12 = vec4f(); var c13 = vec4f(); var c14 = vec4f(); var c15 = vec4f();
  var left = p.k;
  while (left >= 2u) {
    let x = vec4f(a[a_at]);
    let b0 = vec4f(b[b_at]);
    let b1 = vec4f(b[b_at + p.ldb4]);
    let y0 = subgroupBroadcast(x, 0u);
    c0 += y0.x * b0; c1 += y0.y * b0;
    c2 += y0.z * b0; c3 += y0.w * b0;
    let y1 = subgroupBroadcast(x, 1u);
    c4 += y1.x * b0; c5 += y1.y * b0;
    c6 += y1.z * b0; c7 += y1.w * b0;
    let y2 = subgroupBroadcast(x, 2u);
    c8 += y2.x * b0; c9 += y2.y * b0;
    c10 += y2.z * b0; c11 += y2.w * b0;
    let y3 = subgroupBroadcast(x, 3u);
    c12 += y3.x * b0; c13 += y3.y * b0;
    c14 += y3.z * b0; c15 += y3.w * b0;
    let z0 = subgroupBroadcast(x, 4u);
    c0 += z0.x * b1; c1 += z0.y * b1;
    c2 += z0.z * b1; c3 += z0.w * b1;
    let z1 = subgroupBroadcast(x, 5u);
    c4 += z1.x * b1; c5 += z1.y * b1;
    c6 += z1.z * b1; c7 += z1.w * b1;
    let z2 = subgroupBroadcast(x, 6u);
    c8 += z2.x * b1; c9 += z2.y * b1;
    c10 += z2.z * b1; c11 += z2.w * b1;
    let z3 = subgroupBroadcast(x, 7u);
    c12 += z3.x * b1; c13 += z3.y * b1;
    c14 += z3.z * b1; c15 += z3.w * b1;
    a_at += 2u * p.lda;
    b_at += 2u * p.ldb4;
    left -= 2u;
  }
  if (left == 1u) {
    let x = vec4f(a[a_at]);
    let b0 = vec4f(b[b_at]);
    let y0 = subgroupBroadcast(x, 0u);
    c0 += y0.x * b0; c1 += y0.y * b0;
    c2 += y0.z * b0; c3 += y0.w * b0;
    let y1 = subgroupBroadcast(x, 1u);
    c4 += y1.x * b0; c5 += y1.y * b0;
    c6 += y1.z * b0; c7 += y1.w * b0;
    let y2 = subgroupBroadcast(x, 2u);
    c8 += y2.x * b0; c9 += y2.y * b0;
    c10 += y2.z * b0; c11 += y2.w * b0;
    let y3 = subgroupBroadcast(x, 3u);
    c12 += y3.x * b0; c13 += y3.y * b0;
    c14 += y3.z * b0; c15 += y3.w * b0;
  }
  add(row, col, c0);
  add(row + 1u, col, c1);
  add(row + 2u, col, c2);
  add(row + 3u, col, c3);
  add(row + 4u, col, c4);
  add(row + 5u, col, c5);
  add(row + 6u, col, c6);
  add(row + 7u, col, c7);
  add(row + 8u, col, c8);
  add(row + 9u, col, c9);
  add(row + 10u, col, c10);
  add(row + 11u, col, c11);
  add(row + 12u, col, c12);
  add(row + 13u, col, c13);
  add(row + 14u, col, c14);
  add(row + 15u, col, c15);
}
