// The products of matmul.wgsl, with the same bindings and parameters, for GPUs:
//   nn:  C[m,n] = sum_k A[m,k] B[k,n]          written by p.mode: 0 store, 1 add to C, 2 add to R
//   tn:  C[m,n] += sum_k A[k,m] B[k,n]
//
// A workgroup of 64 owns a tile of 64 x 64 elements of C, an invocation 8 x 8 of them in named registers: rows 4y ..
// 4y+3 and 32 more, columns 4x .. 4x+3 and 32 more, so that neighbours read neighbouring groups of workgroup memory. 16
// steps of k at a time are staged there as f32, A transposed; the next 16 are loaded into registers meanwhile. Beyond
// the matrices rows and columns repeat the last and are never stored; beyond k both factors are zero.
struct Params {
  m: u32, n4: u32, k: u32, mode: u32,
  a0: u32, lda: u32,
  b0: u32, ldb4: u32,
  c0: u32, ldc4: u32,
  ldr4: u32, segment_stride4: u32,
}
alias A = f32;
alias A4 = vec4f;
alias B4 = vec4f;
alias C4 = vec4f;
@group(0) @binding(0) var<storage, read> a: array<A4>;
@group(0) @binding(1) var<storage, read> b: array<B4>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> c: array<C4>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 64;
const STEP = 16u;

// [k][rows of A in groups of 4], one group of padding; [k][columns of B in groups of 4]
const LEFT = 17u;
const RIGHT = 16u;
var<workgroup> left: array<vec4f, STEP * LEFT>;
var<workgroup> right: array<vec4f, STEP * RIGHT>;

// Four groups of 4 numbers: what an invocation stages of A or of B.
struct Four { v0: vec4f, v1: vec4f, v2: vec4f, v3: vec4f }

// four steps of one row of nn's A; in groups of 4 where rows begin at a multiple of 4, else one by one
fn row4(row: u32, k: u32) -> vec4f {
  let last = p.k - 1u;
  let at = p.a0 + row * p.lda;
  var v: vec4f;
  if (((p.a0 | p.lda) & 3u) == 0u) {
    v = vec4f(a[(at + min(k, last)) / 4u]);
  } else {
    let i = at + vec4u(min(k, last), min(k + 1u, last), min(k + 2u, last), min(k + 3u, last));
    v = vec4f(vec4<A>(a[i.x / 4u][i.x % 4u], a[i.y / 4u][i.y % 4u], a[i.z / 4u][i.z % 4u], a[i.w / 4u][i.w % 4u]));
  }
  return select(vec4f(), v, vec4<bool>(k < p.k, k + 1u < p.k, k + 2u < p.k, k + 3u < p.k));
}

// invocation l stages steps 4 (l % 4) .. of rows 4 (l / 4) ..
fn load_rows(row: u32, last: u32, k0: u32, l: u32) -> Four {
  let r = row + 4u * (l / 4u);
  let k = k0 + 4u * (l % 4u);
  return Four(
    row4(min(r, last), k), row4(min(r + 1u, last), k), row4(min(r + 2u, last), k), row4(min(r + 3u, last), k),
  );
}

fn stage_rows(l: u32, x: Four) {
  let at = 4u * (l % 4u) * LEFT + l / 4u;
  left[at] = vec4f(x.v0.x, x.v1.x, x.v2.x, x.v3.x);
  left[at + LEFT] = vec4f(x.v0.y, x.v1.y, x.v2.y, x.v3.y);
  left[at + 2u * LEFT] = vec4f(x.v0.z, x.v1.z, x.v2.z, x.v3.z);
  left[at + 3u * LEFT] = vec4f(x.v0.w, x.v1.w, x.v2.w, x.v3.w);
}

fn left4(k: u32, group: u32) -> vec4f {
  return select(vec4f(), vec4f(a[p.a0 + min(k, p.k - 1u) * p.lda + group]), k < p.k);
}

fn right4(at: u32, k: u32) -> vec4f {
  return select(vec4f(), vec4f(b[at + min(k, p.k - 1u) * p.ldb4]), k < p.k);
}

// invocation l stages group l % 16 of steps l / 16 and 4, 8, 12 more
fn load_left(group: u32, k0: u32, l: u32) -> Four {
  let k = k0 + l / 16u;
  return Four(left4(k, group), left4(k + 4u, group), left4(k + 8u, group), left4(k + 12u, group));
}

fn stage_left(l: u32, x: Four) {
  let at = (l / 16u) * LEFT + l % 16u;
  left[at] = x.v0;
  left[at + 4u * LEFT] = x.v1;
  left[at + 8u * LEFT] = x.v2;
  left[at + 12u * LEFT] = x.v3;
}

fn load_right(at: u32, k0: u32, l: u32) -> Four {
  let k = k0 + l / 16u;
  return Four(right4(at, k), right4(at, k + 4u), right4(at, k + 8u), right4(at, k + 12u));
}

fn stage_right(l: u32, x: Four) {
  right[l] = x.v0;
  right[l + 4u * RIGHT] = x.v1;
  right[l + 8u * RIGHT] = x.v2;
  right[l + 12u * RIGHT] = x.v3;
}

struct Sums {
  c00: vec4f, c01: vec4f, c10: vec4f, c11: vec4f, c20: vec4f, c21: vec4f, c30: vec4f, c31: vec4f,
  c40: vec4f, c41: vec4f, c50: vec4f, c51: vec4f, c60: vec4f, c61: vec4f, c70: vec4f, c71: vec4f,
}

fn multiply(s: ptr<function, Sums>, l: u32) {
  let x = l % 8u;
  let y = l / 8u;
  for (var k = 0u; k < STEP; k++) {
    let u = left[k * LEFT + y];
    let v = left[k * LEFT + y + 8u];
    let b0 = right[k * RIGHT + x];
    let b1 = right[k * RIGHT + x + 8u];
    (*s).c00 += u.x * b0; (*s).c01 += u.x * b1;
    (*s).c10 += u.y * b0; (*s).c11 += u.y * b1;
    (*s).c20 += u.z * b0; (*s).c21 += u.z * b1;
    (*s).c30 += u.w * b0; (*s).c31 += u.w * b1;
    (*s).c40 += v.x * b0; (*s).c41 += v.x * b1;
    (*s).c50 += v.y * b0; (*s).c51 += v.y * b1;
    (*s).c60 += v.z * b0; (*s).c61 += v.z * b1;
    (*s).c70 += v.w * b0; (*s).c71 += v.w * b1;
  }
}

fn store1(row: u32, col: u32, v: vec4f) {
  if (col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  var sum = v;
  if (p.mode == 1u) { sum += vec4f(c[at]); }
  if (p.mode == 2u) { sum += residual[row * p.ldr4 + col]; }
  c[at] = C4(sum);
}

fn store(row: u32, end: u32, col: u32, v0: vec4f, v1: vec4f) {
  if (row >= end) { return; }
  store1(row, col, v0);
  store1(row, col + 8u, v1);
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
  var s: Sums;
  // loads what it stages after multiplying what was staged before; so once more than there are steps
  for (var k0 = 0u; k0 < p.k + STEP; k0 += STEP) {
    let next_a = load_rows(row, end - 1u, k0, l);
    let next_b = load_right(b_at, k0, l);
    if (k0 > 0u) { multiply(&s, l); }
    workgroupBarrier();
    stage_rows(l, next_a);
    stage_right(l, next_b);
    workgroupBarrier();
  }
  let r = row + 4u * (l / 8u);
  let col = group.x * 16u + l % 8u;
  store(r, end, col, s.c00, s.c01);
  store(r + 1u, end, col, s.c10, s.c11);
  store(r + 2u, end, col, s.c20, s.c21);
  store(r + 3u, end, col, s.c30, s.c31);
  store(r + 32u, end, col, s.c40, s.c41);
  store(r + 33u, end, col, s.c50, s.c51);
  store(r + 34u, end, col, s.c60, s.c61);
  store(r + 35u, end, col, s.c70, s.c71);
}

fn add1(row: u32, col: u32, v: vec4f) {
  if (col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  c[at] = C4(vec4f(c[at]) + v);
}

fn add(row: u32, col: u32, v0: vec4f, v1: vec4f) {
  if (row >= p.m) { return; }
  add1(row, col, v0);
  add1(row, col + 8u, v1);
}

@compute @workgroup_size(WX)
fn tn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  // here lda, like the others, counts groups of 4
  let a_group = min(group.y * 16u + l % 16u, (p.m - 1u) / 4u);
  let b_at = p.b0 + min(group.x * 16u + l % 16u, p.n4 - 1u);
  var s: Sums;
  // loads what it stages after multiplying what was staged before; so once more than there are steps
  for (var k0 = 0u; k0 < p.k + STEP; k0 += STEP) {
    let next_a = load_left(a_group, k0, l);
    let next_b = load_right(b_at, k0, l);
    if (k0 > 0u) { multiply(&s, l); }
    workgroupBarrier();
    stage_left(l, next_a);
    stage_right(l, next_b);
    workgroupBarrier();
  }
  let r = group.y * 64u + 4u * (l / 8u);
  let col = group.x * 16u + l % 8u;
  add(r, col, s.c00, s.c01);
  add(r + 1u, col, s.c10, s.c11);
  add(r + 2u, col, s.c20, s.c21);
  add(r + 3u, col, s.c30, s.c31);
  add(r + 32u, col, s.c40, s.c41);
  add(r + 33u, col, s.c50, s.c51);
  add(r + 34u, col, s.c60, s.c61);
  add(r + 35u, col, s.c70, s.c71);
}
