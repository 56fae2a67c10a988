// Products of few rows, as generation makes one token after another: weights are read once, as they are stored, and
// nothing is transposed first.
//   nt:  Y[r, c] = sum_k X[r, k] W[w0 + c, k]        W [out, in], any linear layer
//   nn:  Y[r, c] = sum_k X[r, k] W[w0 + k, c]        W [in, out], the neuron-major down projection
// by p.mode: 0 store, 1 add to Y, 2 add to R (the residual stream).
//
// With slots, each row of X has sinks of its own, and the neuron j of them (j = c in nt, k in nn) is the row
//   w0 + half * half_rows + units[r, slot] * block + j % block     of W, half = j / (slots * block);  ROWS is then 1.
//
// ROWS rows of X share what is loaded of W. The order of a sum does not depend on ROWS: a row's results are the same
// whatever is computed beside it. nt_wide and nn_wide are for GPUs: a workgroup shares out k, and sums in order.
struct Params {
  rows: u32, n: u32, k: u32, mode: u32,
  x0: u32, ldx: u32, w0: u32, y0: u32,
  ldy: u32, ldr: u32, slots: u32, block: u32,
  half_rows: u32,
}
// element types of X and Y; weights, residual and sums are f32
alias X = f32;
alias X4 = vec4f;
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(0) var<storage, read> x4: array<X4>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(2) var<storage, read> residual4: array<vec4f>;
@group(0) @binding(3) var<storage, read> units: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<storage, read_write> y4: array<Y4>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 16;
override ROWS: u32 = 1;

fn row_of(r: u32, j: u32) -> u32 {
  if (p.slots == 0u) { return p.w0 + j; }
  let width = p.slots * p.block;
  let inside = j % width;
  return p.w0 + (j / width) * p.half_rows + units[r * p.slots + inside / p.block] * p.block + inside % p.block;
}

// ---- nt: offsets and leading dimensions of X in groups of 4, those of Y and R in elements; k in groups of 4

fn put(r: u32, c: u32, sum: f32) {
  if (r >= p.rows) { return; }
  let at = p.y0 + r * p.ldy + c;
  if (p.mode == 0u) { y[at] = Y(sum); }
  else if (p.mode == 1u) { y[at] = Y(f32(y[at]) + sum); }
  else { y[at] = Y(residual[r * p.ldr + c] + sum); }
}

fn across(v: vec4f) -> f32 { return (v.x + v.y) + (v.z + v.w); }

// the sums of up to 8 rows; those beyond ROWS stay 0
struct Sums { a: vec4f, b: vec4f, c: vec4f, d: vec4f, e: vec4f, f: vec4f, g: vec4f, h: vec4f }

fn dots(r: u32, c: u32, first: u32, step: u32) -> Sums {
  var s = Sums();
  let last = p.rows - 1u;
  let w_at = row_of(r, c) * p.k;
  let x_a = p.x0 + r * p.ldx;
  let x_b = p.x0 + min(r + 1u, last) * p.ldx;
  let x_c = p.x0 + min(r + 2u, last) * p.ldx;
  let x_d = p.x0 + min(r + 3u, last) * p.ldx;
  let x_e = p.x0 + min(r + 4u, last) * p.ldx;
  let x_f = p.x0 + min(r + 5u, last) * p.ldx;
  let x_g = p.x0 + min(r + 6u, last) * p.ldx;
  let x_h = p.x0 + min(r + 7u, last) * p.ldx;
  for (var k = first; k < p.k; k += step) {
    let v = w[w_at + k];
    s.a = fma(v, vec4f(x4[x_a + k]), s.a);
    if (ROWS > 1u) {
      s.b = fma(v, vec4f(x4[x_b + k]), s.b);
      s.c = fma(v, vec4f(x4[x_c + k]), s.c);
      s.d = fma(v, vec4f(x4[x_d + k]), s.d);
    }
    if (ROWS > 4u) {
      s.e = fma(v, vec4f(x4[x_e + k]), s.e);
      s.f = fma(v, vec4f(x4[x_f + k]), s.f);
      s.g = fma(v, vec4f(x4[x_g + k]), s.g);
      s.h = fma(v, vec4f(x4[x_h + k]), s.h);
    }
  }
  return s;
}

// one invocation a column of ROWS rows
@compute @workgroup_size(WX)
fn nt(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  let r = id.y * ROWS;
  if (c >= p.n || r >= p.rows) { return; }
  let s = dots(r, c, 0u, 1u);
  put(r, c, across(s.a));
  if (ROWS > 1u) {
    put(r + 1u, c, across(s.b));
    put(r + 2u, c, across(s.c));
    put(r + 3u, c, across(s.d));
  }
  if (ROWS > 4u) {
    put(r + 4u, c, across(s.e));
    put(r + 5u, c, across(s.f));
    put(r + 6u, c, across(s.g));
    put(r + 7u, c, across(s.h));
  }
}

var<workgroup> dot_of: array<f32, WX * ROWS>;

// a workgroup 4 columns, WX / 4 lanes each
@compute @workgroup_size(WX)
fn nt_wide(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  let lanes = WX / 4u;
  let c = group.x * 4u + l / lanes;
  let r = group.y * ROWS;
  let s = dots(r, min(c, p.n - 1u), l % lanes, lanes);
  dot_of[l] = across(s.a);
  if (ROWS > 1u) {
    dot_of[WX + l] = across(s.b);
    dot_of[2u * WX + l] = across(s.c);
    dot_of[3u * WX + l] = across(s.d);
  }
  if (ROWS > 4u) {
    dot_of[4u * WX + l] = across(s.e);
    dot_of[5u * WX + l] = across(s.f);
    dot_of[6u * WX + l] = across(s.g);
    dot_of[7u * WX + l] = across(s.h);
  }
  workgroupBarrier();
  if (l < 4u * ROWS) {
    // lane l adds up column l % 4 of row l / 4
    let at = (l / 4u) * WX + (l % 4u) * lanes;
    var sum = 0.0;
    for (var i = 0u; i < lanes; i++) { sum += dot_of[at + i]; }
    let own = group.x * 4u + l % 4u;
    if (own < p.n) { put(r + l / 4u, own, sum); }
  }
}

// ---- nn: offset and leading dimension of X in elements, n and those of Y and R in groups of 4; k in elements

fn put4(r: u32, c: u32, sum: vec4f) {
  if (r >= p.rows) { return; }
  let at = p.y0 + r * p.ldy + c;
  if (p.mode == 0u) { y4[at] = Y4(sum); }
  else if (p.mode == 1u) { y4[at] = Y4(vec4f(y4[at]) + sum); }
  else { y4[at] = Y4(residual4[r * p.ldr + c] + sum); }
}

fn columns(r: u32, c: u32, first: u32, step: u32) -> Sums {
  var s = Sums();
  let last = p.rows - 1u;
  let x_a = p.x0 + r * p.ldx;
  let x_b = p.x0 + min(r + 1u, last) * p.ldx;
  let x_c = p.x0 + min(r + 2u, last) * p.ldx;
  let x_d = p.x0 + min(r + 3u, last) * p.ldx;
  let x_e = p.x0 + min(r + 4u, last) * p.ldx;
  let x_f = p.x0 + min(r + 5u, last) * p.ldx;
  let x_g = p.x0 + min(r + 6u, last) * p.ldx;
  let x_h = p.x0 + min(r + 7u, last) * p.ldx;
  for (var k = first; k < p.k; k += step) {
    let v = w[row_of(r, k) * p.n + c];
    s.a = fma(vec4f(f32(x[x_a + k])), v, s.a);
    if (ROWS > 1u) {
      s.b = fma(vec4f(f32(x[x_b + k])), v, s.b);
      s.c = fma(vec4f(f32(x[x_c + k])), v, s.c);
      s.d = fma(vec4f(f32(x[x_d + k])), v, s.d);
    }
    if (ROWS > 4u) {
      s.e = fma(vec4f(f32(x[x_e + k])), v, s.e);
      s.f = fma(vec4f(f32(x[x_f + k])), v, s.f);
      s.g = fma(vec4f(f32(x[x_g + k])), v, s.g);
      s.h = fma(vec4f(f32(x[x_h + k])), v, s.h);
    }
  }
  return s;
}

// one invocation 4 columns of ROWS rows
@compute @workgroup_size(WX)
fn nn(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  let r = id.y * ROWS;
  if (c >= p.n || r >= p.rows) { return; }
  let s = columns(r, c, 0u, 1u);
  put4(r, c, s.a);
  if (ROWS > 1u) {
    put4(r + 1u, c, s.b);
    put4(r + 2u, c, s.c);
    put4(r + 3u, c, s.d);
  }
  if (ROWS > 4u) {
    put4(r + 4u, c, s.e);
    put4(r + 5u, c, s.f);
    put4(r + 6u, c, s.g);
    put4(r + 7u, c, s.h);
  }
}

var<workgroup> column_of: array<vec4f, WX * ROWS>;

// a workgroup 4 groups of 4 columns, and WX / 4 parts of k
@compute @workgroup_size(WX)
fn nn_wide(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  let parts = WX / 4u;
  let c = group.x * 4u + l % 4u;
  let r = group.y * ROWS;
  let s = columns(r, min(c, p.n - 1u), l / 4u, parts);
  column_of[l] = s.a;
  if (ROWS > 1u) {
    column_of[WX + l] = s.b;
    column_of[2u * WX + l] = s.c;
    column_of[3u * WX + l] = s.d;
  }
  if (ROWS > 4u) {
    column_of[4u * WX + l] = s.e;
    column_of[5u * WX + l] = s.f;
    column_of[6u * WX + l] = s.g;
    column_of[7u * WX + l] = s.h;
  }
  workgroupBarrier();
  if (l < 4u * ROWS) {
    let at = (l / 4u) * WX + l % 4u;
    var sum = vec4f();
    for (var i = 0u; i < parts; i++) { sum += column_of[at + i * 4u]; }
    if (c < p.n) { put4(r + l / 4u, c, sum); }
  }
}
