// The products of matmul.wgsl on matrix units, with the same bindings and parameters: A and B f16, sums f32, C as
// bound.
//   nn:  C[m,n] = sum_k A[m,k] B[k,n]          written by p.mode: 0 store, 1 add to C, 2 add to R
//   tn:  C[m,n] += sum_k A[k,m] B[k,n]
//
// A workgroup of four subgroups of 32 owns a tile of 64 x 64 elements of C, a subgroup 32 x 32 of them as 2 x 2
// matrices. 32 steps of k at a time are staged in workgroup memory, rows padded by 8 elements; the next 32 are loaded
// into registers meanwhile. The sums leave through workgroup memory, one matrix a subgroup at a time, so that ragged
// edges, modes and C's type are what they are elsewhere. Beyond the matrices rows and columns repeat the last; beyond k
// factors are zero.
enable f16;
enable chromium_experimental_subgroup_matrix;
// an invocation's subgroup is its index over 32, which the compiler cannot know to be uniform
diagnostic(off, chromium.subgroup_matrix_uniformity);

struct Params {
  m: u32, n4: u32, k: u32, mode: u32,
  a0: u32, lda: u32,
  b0: u32, ldb4: u32,
  c0: u32, ldc4: u32,
  ldr4: u32, segment_stride4: u32,
}
alias C4 = vec4f;
@group(0) @binding(0) var<storage, read> a: array<vec4h>;
@group(0) @binding(1) var<storage, read> b: array<vec4h>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> c: array<C4>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 128;
const STEP = 32u;

// A as [row][k] in nn and as [k][row] in tn, whichever takes more; B as [k][column]
const NARROW = 40u;
const WIDE = 72u;
var<workgroup> left: array<f16, 64u * NARROW>;
var<workgroup> right: array<f16, STEP * WIDE>;
// a matrix of 16 x 16 a subgroup
var<workgroup> sums: array<f32, 4u * 256u>;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;

// Four groups of 4 numbers: what an invocation stages of A or of B.
struct Four { v0: vec4h, v1: vec4h, v2: vec4h, v3: vec4h }

fn put_left(at: u32, v: vec4h) {
  left[at] = v.x;
  left[at + 1u] = v.y;
  left[at + 2u] = v.z;
  left[at + 3u] = v.w;
}

fn put_right(at: u32, v: vec4h) {
  right[at] = v.x;
  right[at + 1u] = v.y;
  right[at + 2u] = v.z;
  right[at + 3u] = v.w;
}

// four steps of one row of nn's A; in groups of 4 where rows begin at a multiple of 4, else one by one
fn row4(row: u32, k: u32) -> vec4h {
  let last = p.k - 1u;
  let at = p.a0 + row * p.lda;
  var v: vec4h;
  if (((p.a0 | p.lda) & 3u) == 0u) {
    v = a[(at + min(k, last)) / 4u];
  } else {
    let i = at + vec4u(min(k, last), min(k + 1u, last), min(k + 2u, last), min(k + 3u, last));
    v = vec4h(a[i.x / 4u][i.x % 4u], a[i.y / 4u][i.y % 4u], a[i.z / 4u][i.z % 4u], a[i.w / 4u][i.w % 4u]);
  }
  return select(vec4h(), v, vec4<bool>(k < p.k, k + 1u < p.k, k + 2u < p.k, k + 3u < p.k));
}

// invocation l stages steps 4 (l % 8) .. of rows l / 8 and 16, 32, 48 more
fn load_rows(row: u32, last: u32, k0: u32, l: u32) -> Four {
  let r = row + l / 8u;
  let k = k0 + 4u * (l % 8u);
  return Four(
    row4(min(r, last), k), row4(min(r + 16u, last), k), row4(min(r + 32u, last), k), row4(min(r + 48u, last), k),
  );
}

fn stage_rows(l: u32, x: Four) {
  let at = (l / 8u) * NARROW + 4u * (l % 8u);
  put_left(at, x.v0);
  put_left(at + 16u * NARROW, x.v1);
  put_left(at + 32u * NARROW, x.v2);
  put_left(at + 48u * NARROW, x.v3);
}

fn left4(k: u32, group: u32) -> vec4h {
  return select(vec4h(), a[p.a0 + min(k, p.k - 1u) * p.lda + group], k < p.k);
}

fn right4(k: u32, at: u32) -> vec4h {
  return select(vec4h(), b[at + min(k, p.k - 1u) * p.ldb4], k < p.k);
}

// invocation l stages group l % 16 of steps l / 16 and 8, 16, 24 more
fn load_left(group: u32, k0: u32, l: u32) -> Four {
  let k = k0 + l / 16u;
  return Four(left4(k, group), left4(k + 8u, group), left4(k + 16u, group), left4(k + 24u, group));
}

fn stage_left(l: u32, x: Four) {
  let at = (l / 16u) * WIDE + 4u * (l % 16u);
  put_left(at, x.v0);
  put_left(at + 8u * WIDE, x.v1);
  put_left(at + 16u * WIDE, x.v2);
  put_left(at + 24u * WIDE, x.v3);
}

fn load_right(at: u32, k0: u32, l: u32) -> Four {
  let k = k0 + l / 16u;
  return Four(right4(k, at), right4(k + 8u, at), right4(k + 16u, at), right4(k + 24u, at));
}

fn stage_right(l: u32, x: Four) {
  let at = (l / 16u) * WIDE + 4u * (l % 16u);
  put_right(at, x.v0);
  put_right(at + 8u * WIDE, x.v1);
  put_right(at + 16u * WIDE, x.v2);
  put_right(at + 24u * WIDE, x.v3);
}

fn store1(row: u32, end: u32, col: u32, v: vec4f) {
  if (row >= end || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  var sum = v;
  if (p.mode == 1u) { sum += vec4f(c[at]); }
  if (p.mode == 2u) { sum += residual[row * p.ldr4 + col]; }
  c[at] = C4(sum);
}

fn add1(row: u32, col: u32, v: vec4f) {
  if (row >= p.m || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  c[at] = C4(vec4f(c[at]) + v);
}

// four neighbours of the matrix that subgroup s has put down
fn sums4(s: u32, i: u32) -> vec4f {
  let at = s * 256u + 4u * i;
  return vec4f(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}

@compute @workgroup_size(WX)
fn nn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  var row = group.y * 64u;
  var end = p.m;
  var b_at = p.b0;
  if (p.segment_stride4 != 0u) {
    let tile = tiles[group.y];
    row = tile.x;
    end = tile.y;
    b_at += tile.z * p.segment_stride4;
  }
  if (row >= end) { return; }
  b_at += min(group.x * 16u + l % 16u, p.n4 - 1u);
  let s = l / 32u;
  let top = (s / 2u) * 32u;
  let side = (s % 2u) * 32u;
  var s00: Sum; var s01: Sum; var s10: Sum; var s11: Sum;
  // loads what it stages after multiplying what was staged before; so once more than there are steps
  for (var k0 = 0u; k0 < p.k + STEP; k0 += STEP) {
    let next_a = load_rows(row, end - 1u, k0, l);
    let next_b = load_right(b_at, k0, l);
    if (k0 > 0u) {
      for (var k = 0u; k < STEP; k += 16u) {
        let a0 = subgroupMatrixLoad<Left, row_major>(&left, top * NARROW + k, NARROW);
        let a1 = subgroupMatrixLoad<Left, row_major>(&left, (top + 16u) * NARROW + k, NARROW);
        let b0 = subgroupMatrixLoad<Right, row_major>(&right, k * WIDE + side, WIDE);
        let b1 = subgroupMatrixLoad<Right, row_major>(&right, k * WIDE + side + 16u, WIDE);
        s00 = subgroupMatrixMultiplyAccumulate(a0, b0, s00);
        s01 = subgroupMatrixMultiplyAccumulate(a0, b1, s01);
        s10 = subgroupMatrixMultiplyAccumulate(a1, b0, s10);
        s11 = subgroupMatrixMultiplyAccumulate(a1, b1, s11);
      }
    }
    workgroupBarrier();
    stage_rows(l, next_a);
    stage_right(l, next_b);
    workgroupBarrier();
  }
  // invocation i of a subgroup stores groups i and i + 32 of its matrix: rows i / 4 and 8 more
  let i = l % 32u;
  let r = row + top + i / 4u;
  let col = group.x * 16u + side / 4u + i % 4u;
  subgroupMatrixStore<row_major>(&sums, s * 256u, s00, 16u);
  workgroupBarrier();
  store1(r, end, col, sums4(s, i));
  store1(r + 8u, end, col, sums4(s, i + 32u));
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&sums, s * 256u, s01, 16u);
  workgroupBarrier();
  store1(r, end, col + 4u, sums4(s, i));
  store1(r + 8u, end, col + 4u, sums4(s, i + 32u));
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&sums, s * 256u, s10, 16u);
  workgroupBarrier();
  store1(r + 16u, end, col, sums4(s, i));
  store1(r + 24u, end, col, sums4(s, i + 32u));
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&sums, s * 256u, s11, 16u);
  workgroupBarrier();
  store1(r + 16u, end, col + 4u, sums4(s, i));
  store1(r + 24u, end, col + 4u, sums4(s, i + 32u));
}

@compute @workgroup_size(WX)
fn tn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  // here lda, like the others, counts groups of 4
  let a_group = min(group.y * 16u + l % 16u, (p.m - 1u) / 4u);
  let b_at = p.b0 + min(group.x * 16u + l % 16u, p.n4 - 1u);
  let s = l / 32u;
  let top = (s / 2u) * 32u;
  let side = (s % 2u) * 32u;
  var s00: Sum; var s01: Sum; var s10: Sum; var s11: Sum;
  // loads what it stages after multiplying what was staged before; so once more than there are steps
  for (var k0 = 0u; k0 < p.k + STEP; k0 += STEP) {
    let next_a = load_left(a_group, k0, l);
    let next_b = load_right(b_at, k0, l);
    if (k0 > 0u) {
      for (var k = 0u; k < STEP; k += 16u) {
        let a0 = subgroupMatrixLoad<Left, col_major>(&left, k * WIDE + top, WIDE);
        let a1 = subgroupMatrixLoad<Left, col_major>(&left, k * WIDE + top + 16u, WIDE);
        let b0 = subgroupMatrixLoad<Right, row_major>(&right, k * WIDE + side, WIDE);
        let b1 = subgroupMatrixLoad<Right, row_major>(&right, k * WIDE + side + 16u, WIDE);
        s00 = subgroupMatrixMultiplyAccumulate(a0, b0, s00);
        s01 = subgroupMatrixMultiplyAccumulate(a0, b1, s01);
        s10 = subgroupMatrixMultiplyAccumulate(a1, b0, s10);
        s11 = subgroupMatrixMultiplyAccumulate(a1, b1, s11);
      }
    }
    workgroupBarrier();
    stage_left(l, next_a);
    stage_right(l, next_b);
    workgroupBarrier();
  }
  let i = l % 32u;
  let r = group.y * 64u + top + i / 4u;
  let col = group.x * 16u + side / 4u + i % 4u;
  subgroupMatrixStore<row_major>(&sums, s * 256u, s00, 16u);
  workgroupBarrier();
  add1(r, col, sums4(s, i));
  add1(r + 8u, col, sums4(s, i + 32u));
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&sums, s * 256u, s01, 16u);
  workgroupBarrier();
  add1(r, col + 4u, sums4(s, i));
  add1(r + 8u, col + 4u, sums4(s, i + 32u));
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&sums, s * 256u, s10, 16u);
  workgroupBarrier();
  add1(r + 16u, col, sums4(s, i));
  add1(r + 24u, col, sums4(s, i + 32u));
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&sums, s * 256u, s11, 16u);
  workgroupBarrier();
  add1(r + 16u, col + 4u, sums4(s, i));
  add1(r + 24u, col + 4u, sums4(s, i + 32u));
}
