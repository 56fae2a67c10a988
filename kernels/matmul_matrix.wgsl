// The products of matmul.wgsl on matrix units, with the same bindings and parameters: A and B f16, sums f32, C as
// bound.
//   nn:  C[m,n] = sum_k A[m,k] B[k,n]          written by p.mode: 0 store, 1 add to C, 2 add to R
//   tn:  C[m,n] += sum_k A[k,m] B[k,n]
// and where TURNED is 1, nn with B[n,k] for B[k,n]: weights as they lie.
//   nn_part, tn_part: the sums over parts of k, each for itself, which split_sum.wgsl adds up in order
//
// A workgroup owns a tile of 32 SIDE x 32 SIDE elements of C, each of its 2 x SIDE subgroups 16 SIDE x 32 of them as
// SIDE x 2 matrices; SIDE is 2 or 4. STEP steps of k at a time, 16 or 32, are staged in workgroup memory, rows padded by
// 8 elements; the next are loaded into registers meanwhile and, with two BUFFERS, stored beside those that are
// multiplied. The sums leave through the same memory, 16 rows a subgroup at a time, so that ragged edges, modes and C's
// type are what they are elsewhere. Beyond the matrices rows and columns repeat the last; beyond k factors are zero.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

struct Params {
  m: u32, n4: u32, k: u32, mode: u32,
  a0: u32, lda: u32,
  b0: u32, ldb4: u32,
  c0: u32, ldc4: u32,
  ldr4: u32, segment_stride4: u32,
}
// part: steps of k of one part, a multiple of STEP
struct PartParams { m: u32, n4: u32, k: u32, part: u32, a0: u32, lda: u32, b0: u32, ldb4: u32 }
alias C4 = vec4f;
@group(0) @binding(0) var<storage, read> a: array<vec4h>;
@group(0) @binding(1) var<storage, read> b: array<vec4h>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> c: array<C4>;
@group(0) @binding(5) var<uniform> p: Params;

@group(0) @binding(2) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(3) var<uniform> pp: PartParams;

override WX: u32 = 128;
override SIDE: u32 = 2;
override BUFFERS: u32 = 1;
override STEP: u32 = 32;
override TURNED: u32 = 0;

// All of workgroup memory, in vectors of 8 f16 or 4 f32: for each buffer nn's A as [row][k], B as [k][column] or, if it
// is turned, [column][k], tn's A as [k][row]; in the end the sums. Offsets and strides of matrices count these vectors.
override GROUPS = STEP / 8u;
override NARROW = GROUPS + 1u;
override WIDE = 4u * SIDE + 1u;
override RIGHT = 32u * SIDE * NARROW;
override BUFFER = RIGHT + STEP * WIDE + TURNED * (32u * SIDE - STEP);
var<workgroup> pool: array<vec4u, BUFFERS * BUFFER>;
// 16 rows of 32 sums
const SUMS = 9u;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
struct Sums { s00: Sum, s01: Sum, s10: Sum, s11: Sum, s20: Sum, s21: Sum, s30: Sum, s31: Sum }

// What an invocation stages of A or of B: two vectors of 8, one if there are 16 steps.
struct Pair { x: vec4u, y: vec4u }

fn pack(low: vec4h, high: vec4h) -> vec4u { return vec4u(bitcast<vec2u>(low), bitcast<vec2u>(high)); }

// the first 4 steps from k on are within a sum that ends at end
fn within(v: vec4h, k: u32, end: u32) -> vec4h {
  return select(vec4h(), v, vec4<bool>(k < end, k + 1u < end, k + 2u < end, k + 3u < end));
}

fn row8(at: u32, k: u32, end: u32) -> vec4u {
  let last = (end - 1u) / 4u;
  return pack(
    within(a[at + min(k / 4u, last)], k, end), within(a[at + min(k / 4u + 1u, last)], k + 4u, end),
  );
}

fn turned8(at: u32, k: u32, end: u32) -> vec4u {
  let last = (end - 1u) / 4u;
  return pack(
    within(b[at + min(k / 4u, last)], k, end), within(b[at + min(k / 4u + 1u, last)], k + 4u, end),
  );
}

// Invocation l stages group l % GROUPS of nn's row l / GROUPS and of the one 16 SIDE further, which begin at `at`.
fn load_rows(at: vec2u, k0: u32, end: u32, l: u32) -> Pair {
  let k = k0 + 8u * (l % GROUPS);
  var v = Pair();
  if (k0 + STEP <= end) {
    let x = at.x + k / 4u;
    v.x = pack(a[x], a[x + 1u]);
    if (STEP > 16u) {
      let y = at.y + k / 4u;
      v.y = pack(a[y], a[y + 1u]);
    }
  } else {
    v.x = row8(at.x, k, end);
    if (STEP > 16u) { v.y = row8(at.y, k, end); }
  }
  return v;
}

// the same of a B that is turned
fn load_turned(at: vec2u, k0: u32, end: u32, l: u32) -> Pair {
  let k = k0 + 8u * (l % GROUPS);
  var v = Pair();
  if (k0 + STEP <= end) {
    let x = at.x + k / 4u;
    v.x = pack(b[x], b[x + 1u]);
    if (STEP > 16u) {
      let y = at.y + k / 4u;
      v.y = pack(b[y], b[y + 1u]);
    }
  } else {
    v.x = turned8(at.x, k, end);
    if (STEP > 16u) { v.y = turned8(at.y, k, end); }
  }
  return v;
}

fn stage_rows(buffer: u32, l: u32, v: Pair) {
  let at = buffer + (l / GROUPS) * NARROW + l % GROUPS;
  pool[at] = v.x;
  if (STEP > 16u) { pool[at + 16u * SIDE * NARROW] = v.y; }
}

fn left8(at: vec2u, ld: u32, k: u32, end: u32) -> vec4u {
  let row = min(k, end - 1u) * ld;
  return select(vec4u(), pack(a[at.x + row], a[at.y + row]), k < end);
}

fn right8(at: vec2u, ld: u32, k: u32, end: u32) -> vec4u {
  let row = min(k, end - 1u) * ld;
  return select(vec4u(), pack(b[at.x + row], b[at.y + row]), k < end);
}

// Invocation l stages columns 8 (l % 4 SIDE) .., two groups at `at`, of steps l / 4 SIDE and of 16 more.
fn load_left(at: vec2u, ld: u32, k0: u32, end: u32, l: u32) -> Pair {
  let k = k0 + l / (4u * SIDE);
  var v = Pair();
  if (k0 + STEP <= end) {
    let x = at + k * ld;
    v.x = pack(a[x.x], a[x.y]);
    if (STEP > 16u) {
      let y = x + 16u * ld;
      v.y = pack(a[y.x], a[y.y]);
    }
  } else {
    v.x = left8(at, ld, k, end);
    if (STEP > 16u) { v.y = left8(at, ld, k + 16u, end); }
  }
  return v;
}

fn load_right(at: vec2u, ld: u32, k0: u32, end: u32, l: u32) -> Pair {
  let k = k0 + l / (4u * SIDE);
  var v = Pair();
  if (k0 + STEP <= end) {
    let x = at + k * ld;
    v.x = pack(b[x.x], b[x.y]);
    if (STEP > 16u) {
      let y = x + 16u * ld;
      v.y = pack(b[y.x], b[y.y]);
    }
  } else {
    v.x = right8(at, ld, k, end);
    if (STEP > 16u) { v.y = right8(at, ld, k + 16u, end); }
  }
  return v;
}

fn stage_columns(buffer: u32, l: u32, v: Pair) {
  let at = buffer + (l / (4u * SIDE)) * WIDE + l % (4u * SIDE);
  pool[at] = v.x;
  if (STEP > 16u) { pool[at + 16u * WIDE] = v.y; }
}

// the two groups of 4 columns from 8 i on, of a row that begins at `at` and has n4
fn columns(at: u32, i: u32, n4: u32) -> vec2u { return vec2u(at) + min(vec2u(2u * i, 2u * i + 1u), vec2u(n4 - 1u)); }

// where what invocation l stages of nn's B begins, in the tile of columns 32 SIDE x ..
fn right_of(at: u32, x: u32, n4: u32, ldb4: u32, l: u32) -> vec2u {
  if (TURNED == 0u) { return columns(at, x * 4u * SIDE + l % (4u * SIDE), n4); }
  let mine = vec2u(x * 32u * SIDE + l / GROUPS) + vec2u(0u, 16u * SIDE);
  return vec2u(at) + min(mine, vec2u(4u * n4 - 1u)) * ldb4;
}

fn multiply(m: ptr<function, Sums>, b0: Right, b1: Right, a0: Left, a1: Left) {
  (*m).s00 = subgroupMatrixMultiplyAccumulate(a0, b0, (*m).s00);
  (*m).s01 = subgroupMatrixMultiplyAccumulate(a0, b1, (*m).s01);
  (*m).s10 = subgroupMatrixMultiplyAccumulate(a1, b0, (*m).s10);
  (*m).s11 = subgroupMatrixMultiplyAccumulate(a1, b1, (*m).s11);
}

fn multiply_more(m: ptr<function, Sums>, b0: Right, b1: Right, a2: Left, a3: Left) {
  (*m).s20 = subgroupMatrixMultiplyAccumulate(a2, b0, (*m).s20);
  (*m).s21 = subgroupMatrixMultiplyAccumulate(a2, b1, (*m).s21);
  (*m).s30 = subgroupMatrixMultiplyAccumulate(a3, b0, (*m).s30);
  (*m).s31 = subgroupMatrixMultiplyAccumulate(a3, b1, (*m).s31);
}

// subgroup s owns rows 16 SIDE (s / SIDE) .. and columns 32 (s % SIDE) .. of the tile
fn multiply_nn(m: ptr<function, Sums>, buffer: u32, s: u32) {
  let left = buffer + (s / SIDE) * 16u * SIDE * NARROW;
  let right = buffer + RIGHT + (s % SIDE) * select(4u, 32u * NARROW, TURNED == 1u);
  for (var k = 0u; k < STEP; k += 16u) {
    var b0: Right;
    var b1: Right;
    if (TURNED == 1u) {
      b0 = subgroupMatrixLoad<Right, col_major>(&pool, right + k / 8u, NARROW);
      b1 = subgroupMatrixLoad<Right, col_major>(&pool, right + 16u * NARROW + k / 8u, NARROW);
    } else {
      b0 = subgroupMatrixLoad<Right, row_major>(&pool, right + k * WIDE, WIDE);
      b1 = subgroupMatrixLoad<Right, row_major>(&pool, right + k * WIDE + 2u, WIDE);
    }
    let a0 = subgroupMatrixLoad<Left, row_major>(&pool, left + k / 8u, NARROW);
    let a1 = subgroupMatrixLoad<Left, row_major>(&pool, left + 16u * NARROW + k / 8u, NARROW);
    multiply(m, b0, b1, a0, a1);
    if (SIDE > 2u) {
      let a2 = subgroupMatrixLoad<Left, row_major>(&pool, left + 32u * NARROW + k / 8u, NARROW);
      let a3 = subgroupMatrixLoad<Left, row_major>(&pool, left + 48u * NARROW + k / 8u, NARROW);
      multiply_more(m, b0, b1, a2, a3);
    }
  }
}

fn multiply_tn(m: ptr<function, Sums>, buffer: u32, s: u32) {
  let left = buffer + (s / SIDE) * 2u * SIDE;
  let right = buffer + RIGHT + (s % SIDE) * 4u;
  for (var k = 0u; k < STEP; k += 16u) {
    let b0 = subgroupMatrixLoad<Right, row_major>(&pool, right + k * WIDE, WIDE);
    let b1 = subgroupMatrixLoad<Right, row_major>(&pool, right + k * WIDE + 2u, WIDE);
    let a0 = subgroupMatrixLoad<Left, col_major>(&pool, left + k * WIDE, WIDE);
    let a1 = subgroupMatrixLoad<Left, col_major>(&pool, left + k * WIDE + 2u, WIDE);
    multiply(m, b0, b1, a0, a1);
    if (SIDE > 2u) {
      let a2 = subgroupMatrixLoad<Left, col_major>(&pool, left + k * WIDE + 4u, WIDE);
      let a3 = subgroupMatrixLoad<Left, col_major>(&pool, left + k * WIDE + 6u, WIDE);
      multiply_more(m, b0, b1, a2, a3);
    }
  }
}

// The sums over steps first .. end. Loads what it stages, multiplies what was staged before; so once more than there
// are steps.
fn sum_nn(m: ptr<function, Sums>, rows: vec2u, right: vec2u, ldb4: u32, first: u32, end: u32, s: u32, l: u32) {
  var now = 0u;
  for (var k0 = first; k0 < end + STEP; k0 += STEP) {
    var next_a = Pair();
    var next_b = Pair();
    if (k0 < end) {
      next_a = load_rows(rows, k0, end, l);
      if (TURNED == 1u) { next_b = load_turned(right, k0, end, l); } else { next_b = load_right(right, ldb4, k0, end, l); }
    }
    if (k0 > first) { multiply_nn(m, now, s); }
    if (BUFFERS == 1u) { workgroupBarrier(); } else { now = BUFFER - now; }
    stage_rows(now, l, next_a);
    if (TURNED == 1u) { stage_rows(now + RIGHT, l, next_b); } else { stage_columns(now + RIGHT, l, next_b); }
    workgroupBarrier();
  }
}

fn sum_tn(
  m: ptr<function, Sums>, left: vec2u, lda4: u32, right: vec2u, ldb4: u32, first: u32, end: u32, s: u32, l: u32,
) {
  var now = 0u;
  for (var k0 = first; k0 < end + STEP; k0 += STEP) {
    var next_a = Pair();
    var next_b = Pair();
    if (k0 < end) {
      next_a = load_left(left, lda4, k0, end, l);
      next_b = load_right(right, ldb4, k0, end, l);
    }
    if (k0 > first) { multiply_tn(m, now, s); }
    if (BUFFERS == 1u) { workgroupBarrier(); } else { now = BUFFER - now; }
    stage_columns(now, l, next_a);
    stage_columns(now + RIGHT, l, next_b);
    workgroupBarrier();
  }
}

// Subgroup s puts 16 of its rows down; lane i takes four neighbours of rows i / 8, and 4, 8, 12 more.
fn put(left: Sum, right: Sum, s: u32) {
  subgroupMatrixStore<row_major>(&pool, s * 16u * SUMS, left, SUMS);
  subgroupMatrixStore<row_major>(&pool, s * 16u * SUMS + 4u, right, SUMS);
}

fn taken(s: u32, i: u32, j: u32) -> vec4f {
  return bitcast<vec4f>(pool[(s * 16u + i / 8u + 4u * j) * SUMS + i % 8u]);
}

fn store1(row: u32, end: u32, col: u32, mode: u32, v: vec4f) {
  if (row >= end || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  var sum = v;
  if (mode == 1u) { sum += vec4f(c[at]); }
  if (mode == 2u) { sum += residual[row * p.ldr4 + col]; }
  c[at] = C4(sum);
}

fn store_nn(row: u32, end: u32, col: u32, s: u32, i: u32) {
  workgroupBarrier();
  for (var j = 0u; j < 4u; j++) { store1(row + i / 8u + 4u * j, end, col + i % 8u, p.mode, taken(s, i, j)); }
  workgroupBarrier();
}

fn add1(row: u32, col: u32, v: vec4f) {
  if (row >= p.m || col >= p.n4) { return; }
  let at = p.c0 + row * p.ldc4 + col;
  c[at] = C4(vec4f(c[at]) + v);
}

fn store_tn(row: u32, col: u32, s: u32, i: u32) {
  workgroupBarrier();
  for (var j = 0u; j < 4u; j++) { add1(row + i / 8u + 4u * j, col + i % 8u, taken(s, i, j)); }
  workgroupBarrier();
}

@compute @workgroup_size(WX)
fn nn(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
  @builtin(subgroup_invocation_id) i: u32,
) {
  var row = group.y * 32u * SIDE;
  var end = p.m;
  var b_at = p.b0;
  if (p.segment_stride4 != 0u) {
    let tile = tiles[group.y];
    row = tile.x;
    end = tile.y;
    b_at += tile.z * p.segment_stride4;
  }
  if (row >= end) { return; }
  let mine = vec2u(row + l / GROUPS) + vec2u(0u, 16u * SIDE);
  let rows = (vec2u(p.a0) + min(mine, vec2u(end - 1u)) * p.lda) / 4u;
  let right = right_of(b_at, group.x, p.n4, p.ldb4, l);
  var m: Sums;
  sum_nn(&m, rows, right, p.ldb4, 0u, p.k, s, l);
  let top = row + (s / SIDE) * 16u * SIDE;
  let col = (group.x * SIDE + s % SIDE) * 8u;
  put(m.s00, m.s01, s);
  store_nn(top, end, col, s, i);
  put(m.s10, m.s11, s);
  store_nn(top + 16u, end, col, s, i);
  if (SIDE > 2u) {
    put(m.s20, m.s21, s);
    store_nn(top + 32u, end, col, s, i);
    put(m.s30, m.s31, s);
    store_nn(top + 48u, end, col, s, i);
  }
}

@compute @workgroup_size(WX)
fn tn(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
  @builtin(subgroup_invocation_id) i: u32,
) {
  // here lda, like the others, counts groups of 4
  let left = columns(p.a0, group.y * 4u * SIDE + l % (4u * SIDE), (p.m + 3u) / 4u);
  let right = columns(p.b0, group.x * 4u * SIDE + l % (4u * SIDE), p.n4);
  var m: Sums;
  sum_tn(&m, left, p.lda, right, p.ldb4, 0u, p.k, s, l);
  let top = (group.y * 2u + s / SIDE) * 16u * SIDE;
  let col = (group.x * SIDE + s % SIDE) * 8u;
  put(m.s00, m.s01, s);
  store_tn(top, col, s, i);
  put(m.s10, m.s11, s);
  store_tn(top + 16u, col, s, i);
  if (SIDE > 2u) {
    put(m.s20, m.s21, s);
    store_tn(top + 32u, col, s, i);
    put(m.s30, m.s31, s);
    store_tn(top + 48u, col, s, i);
  }
}

// Where a subgroup's part of a partial sum begins, and how many rows and groups of columns are left of it there.
struct Place { at: u32, rows: u32, cols: u32 }

fn place_of(part: u32, row: u32, col: u32) -> Place {
  return Place(
    (part * pp.m + row) * pp.n4 + col, select(pp.m - row, 0u, row > pp.m), select(pp.n4 - col, 0u, col > pp.n4),
  );
}

// A block of 16 x 32 of a partial sum: as it is where all of it is within the matrix.
fn store_part(at: u32, rows: u32, cols: u32, left: Sum, right: Sum, whole: bool, s: u32, i: u32) {
  if (whole) {
    subgroupMatrixStore<row_major>(&partial, at, left, pp.n4);
    subgroupMatrixStore<row_major>(&partial, at + 4u, right, pp.n4);
    return;
  }
  put(left, right, s);
  workgroupBarrier();
  for (var j = 0u; j < 4u; j++) {
    let r = i / 8u + 4u * j;
    if (r < rows && i % 8u < cols) { partial[at + r * pp.n4 + i % 8u] = taken(s, i, j); }
  }
  workgroupBarrier();
}

fn below(rows: u32, by: u32) -> u32 { return select(rows - by, 0u, by > rows); }

fn store_parts(m: ptr<function, Sums>, place: Place, whole: bool, s: u32, i: u32) {
  store_part(place.at, place.rows, place.cols, (*m).s00, (*m).s01, whole, s, i);
  store_part(place.at + 16u * pp.n4, below(place.rows, 16u), place.cols, (*m).s10, (*m).s11, whole, s, i);
  if (SIDE > 2u) {
    store_part(place.at + 32u * pp.n4, below(place.rows, 32u), place.cols, (*m).s20, (*m).s21, whole, s, i);
    store_part(place.at + 48u * pp.n4, below(place.rows, 48u), place.cols, (*m).s30, (*m).s31, whole, s, i);
  }
}

@compute @workgroup_size(WX)
fn nn_part(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
  @builtin(subgroup_invocation_id) i: u32,
) {
  let down = (pp.m + 32u * SIDE - 1u) / (32u * SIDE);
  let row = (group.y % down) * 32u * SIDE;
  let first = (group.y / down) * pp.part;
  let mine = vec2u(row + l / GROUPS) + vec2u(0u, 16u * SIDE);
  let rows = (vec2u(pp.a0) + min(mine, vec2u(pp.m - 1u)) * pp.lda) / 4u;
  let right = right_of(pp.b0, group.x, pp.n4, pp.ldb4, l);
  var m: Sums;
  sum_nn(&m, rows, right, pp.ldb4, first, min(first + pp.part, pp.k), s, l);
  let whole = row + 32u * SIDE <= pp.m && (group.x + 1u) * 8u * SIDE <= pp.n4;
  let place = place_of(group.y / down, row + (s / SIDE) * 16u * SIDE, (group.x * SIDE + s % SIDE) * 8u);
  store_parts(&m, place, whole, s, i);
}

@compute @workgroup_size(WX)
fn tn_part(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
  @builtin(subgroup_invocation_id) i: u32,
) {
  let down = (pp.m + 32u * SIDE - 1u) / (32u * SIDE);
  let row = (group.y % down) * 32u * SIDE;
  let first = (group.y / down) * pp.part;
  let left = columns(pp.a0, row / 8u + l % (4u * SIDE), (pp.m + 3u) / 4u);
  let right = columns(pp.b0, group.x * 4u * SIDE + l % (4u * SIDE), pp.n4);
  var m: Sums;
  sum_tn(&m, left, pp.lda, right, pp.ldb4, first, min(first + pp.part, pp.k), s, l);
  let whole = row + 32u * SIDE <= pp.m && (group.x + 1u) * 8u * SIDE <= pp.n4;
  let place = place_of(group.y / down, row + (s / SIDE) * 16u * SIDE, (group.x * SIDE + s % SIDE) * 8u);
  store_parts(&m, place, whole, s, i);
}
