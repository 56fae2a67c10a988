// nn:  C[m,n] = sum_k A[m,k] B[k,n]          written by p.mode: 0 store, 1 add to C, 2 add to R (the residual stream)
// tn:  C[m,n] += sum_k A[k,m] B[k,n]         a weight gradient: k runs over tokens
//
// Row-major. n, offsets and leading dimensions are multiples of 4 and given in groups of 4, but for nn's a0 and lda, which
// count elements.
// An invocation owns 8 x 8 elements of C in named registers and walks k alone: no workgroup memory, no barrier, and no
// array, because software adapters keep an array that is indexed in a loop in memory (measured: 8 times slower).
//
// nn's B may differ by segment of tokens, which is how sink weights, gathered and packed per segment, are multiplied: the
// i-th row of workgroups then takes the rows tiles[i].x .. tiles[i].y of A (8 at most, of one segment; none in the list's
// padding) and B shifted by tiles[i].z * p.segment_stride4. With a stride of 0 tiles are not read: every 8 rows are one.
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
@group(0) @binding(0) var<storage, read> a: array<A>;
@group(0) @binding(0) var<storage, read> a4: array<A4>;
@group(0) @binding(1) var<storage, read> b: array<B4>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> c: array<C4>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 4;
override WY: u32 = 1;

fn store(row: u32, end: u32, col: u32, v0: vec4f, v1: vec4f) {
  if (row >= end) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  let two = col + 1u < p.n4;
  if (p.mode == 0u) {
    c[at] = C4(v0);
    if (two) { c[at + 1u] = C4(v1); }
  } else if (p.mode == 1u) {
    c[at] = C4(vec4f(c[at]) + v0);
    if (two) { c[at + 1u] = C4(vec4f(c[at + 1u]) + v1); }
  } else {
    let r = row * p.ldr4 + col;
    c[at] = C4(residual[r] + v0);
    if (two) { c[at + 1u] = C4(residual[r + 1u] + v1); }
  }
}

@compute @workgroup_size(WX, WY)
fn nn(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x * 2u;
  var row = id.y * 8u;
  var end = p.m;
  var at = p.b0 + col;
  if (p.segment_stride4 != 0u) {
    let tile = tiles[id.y];
    row = tile.x;
    end = tile.y;
    at += tile.z * p.segment_stride4;
  }
  if (col >= p.n4 || row >= end) { return; }
  let last = end - 1u;
  let a0 = p.a0 + min(row + 0u, last) * p.lda;
  let a1 = p.a0 + min(row + 1u, last) * p.lda;
  let a2 = p.a0 + min(row + 2u, last) * p.lda;
  let a3 = p.a0 + min(row + 3u, last) * p.lda;
  let a4 = p.a0 + min(row + 4u, last) * p.lda;
  let a5 = p.a0 + min(row + 5u, last) * p.lda;
  let a6 = p.a0 + min(row + 6u, last) * p.lda;
  let a7 = p.a0 + min(row + 7u, last) * p.lda;
  var c00 = vec4f(); var c01 = vec4f();
  var c10 = vec4f(); var c11 = vec4f();
  var c20 = vec4f(); var c21 = vec4f();
  var c30 = vec4f(); var c31 = vec4f();
  var c40 = vec4f(); var c41 = vec4f();
  var c50 = vec4f(); var c51 = vec4f();
  var c60 = vec4f(); var c61 = vec4f();
  var c70 = vec4f(); var c71 = vec4f();
  for (var k = 0u; k < p.k; k++) {
    let b0 = vec4f(b[at]);
    let b1 = vec4f(b[at + 1u]);
    at += p.ldb4;
    let x0 = f32(a[a0 + k]); c00 += x0 * b0; c01 += x0 * b1;
    let x1 = f32(a[a1 + k]); c10 += x1 * b0; c11 += x1 * b1;
    let x2 = f32(a[a2 + k]); c20 += x2 * b0; c21 += x2 * b1;
    let x3 = f32(a[a3 + k]); c30 += x3 * b0; c31 += x3 * b1;
    let x4 = f32(a[a4 + k]); c40 += x4 * b0; c41 += x4 * b1;
    let x5 = f32(a[a5 + k]); c50 += x5 * b0; c51 += x5 * b1;
    let x6 = f32(a[a6 + k]); c60 += x6 * b0; c61 += x6 * b1;
    let x7 = f32(a[a7 + k]); c70 += x7 * b0; c71 += x7 * b1;
  }
  store(row + 0u, end, col, c00, c01);
  store(row + 1u, end, col, c10, c11);
  store(row + 2u, end, col, c20, c21);
  store(row + 3u, end, col, c30, c31);
  store(row + 4u, end, col, c40, c41);
  store(row + 5u, end, col, c50, c51);
  store(row + 6u, end, col, c60, c61);
  store(row + 7u, end, col, c70, c71);
}

fn add(row: u32, col: u32, v0: vec4f, v1: vec4f) {
  if (row >= p.m) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  c[at] = C4(vec4f(c[at]) + v0);
  if (col + 1u < p.n4) { c[at + 1u] = C4(vec4f(c[at + 1u]) + v1); }
}

@compute @workgroup_size(WX, WY)
fn tn(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x * 2u;
  let row = id.y * 8u;
  if (col >= p.n4 || row >= p.m) { return; }
  // here lda, like the others, counts groups of 4
  var a_at = p.a0 + row / 4u;
  var b_at = p.b0 + col;
  var c00 = vec4f(); var c01 = vec4f();
  var c10 = vec4f(); var c11 = vec4f();
  var c20 = vec4f(); var c21 = vec4f();
  var c30 = vec4f(); var c31 = vec4f();
  var c40 = vec4f(); var c41 = vec4f();
  var c50 = vec4f(); var c51 = vec4f();
  var c60 = vec4f(); var c61 = vec4f();
  var c70 = vec4f(); var c71 = vec4f();
  for (var k = 0u; k < p.k; k++) {
    let x = vec4f(a4[a_at]);
    let y = vec4f(a4[a_at + 1u]);
    let b0 = vec4f(b[b_at]);
    let b1 = vec4f(b[b_at + 1u]);
    a_at += p.lda;
    b_at += p.ldb4;
    c00 += x.x * b0; c01 += x.x * b1;
    c10 += x.y * b0; c11 += x.y * b1;
    c20 += x.z * b0; c21 += x.z * b1;
    c30 += x.w * b0; c31 += x.w * b1;
    c40 += y.x * b0; c41 += y.x * b1;
    c50 += y.y * b0; c51 += y.y * b1;
    c60 += y.z * b0; c61 += y.z * b1;
    c70 += y.w * b0; c71 += y.w * b1;
  }
  add(row + 0u, col, c00, c01);
  add(row + 1u, col, c10, c11);
  add(row + 2u, col, c20, c21);
  add(row + 3u, col, c30, c31);
  add(row + 4u, col, c40, c41);
  add(row + 5u, col, c50, c51);
  add(row + 6u, col, c60, c61);
  add(row + 7u, col, c70, c71);
}
