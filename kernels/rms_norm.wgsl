// forward:     y = x * rstd * w,   rstd = 1 / sqrt(mean(x^2) + eps)           one invocation a row; writes y and rstd
// backward_x:  dx = rstd * (dy * w - x * rstd^2 * mean(dy * w * x))           with add = 1 added to the residual stream's
// backward_w:  partial[b, :] = sum over the rows of block b of dy * x * rstd  summed in order by reduce.wgsl
// forward_wide is the same for GPUs: a workgroup of a power of two a row, its sums a tree; backward_wide is both parts of
// the gradient, a workgroup a block of rows, and backward_wide_copy also leaves dx in the type of dy.
// Partial sums begin at group p.first of theirs.
struct Params { rows: u32, n4: u32, eps: f32, block: u32, add: u32, first: u32 }
// the type of y and dy; the residual stream and its gradient are f32
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<Y4>;
@group(0) @binding(3) var<storage, read_write> rstd_out: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

override WX: u32 = 16;
// a sum of squares above this has overflowed, or is about to: x is beyond about 1e18
const MOST = 1e37;

// rstd of a row whose squares overflow although its numbers do not; eps is nothing beside them
fn rstd_of_large(at: u32) -> f32 {
  var largest = vec4f();
  for (var i = 0u; i < p.n4; i++) { largest = max(largest, abs(x[at + i])); }
  let m = max(max(largest.x, largest.y), max(largest.z, largest.w));
  var sum = vec4f();
  for (var i = 0u; i < p.n4; i++) { sum += (x[at + i] / m) * (x[at + i] / m); }
  return 1.0 / sqrt((sum.x + sum.y + sum.z + sum.w) / f32(p.n4 * 4u)) / m;
}

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * WX;
  if (row >= p.rows) { return; }
  let at = row * p.n4;
  var sum = vec4f();
  for (var i = 0u; i < p.n4; i++) { sum += x[at + i] * x[at + i]; }
  let mean = (sum.x + sum.y + sum.z + sum.w) / f32(p.n4 * 4u);
  var rstd = 1.0 / sqrt(mean + p.eps);
  if (mean > MOST) { rstd = rstd_of_large(at); }
  for (var i = 0u; i < p.n4; i++) { y[at + i] = Y4(x[at + i] * rstd * w[i]); }
  rstd_out[row] = rstd;
}

var<workgroup> lanes: array<f32, WX>;

// the sum over the workgroup, always in the same order
fn total(mine: f32, l: u32) -> f32 {
  lanes[l] = mine;
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { lanes[l] += lanes[l + half]; }
  }
  workgroupBarrier();
  return lanes[0];
}

@compute @workgroup_size(WX)
fn forward_wide(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.rows) { return; }
  let at = row * p.n4;
  var sum = 0.0;
  for (var i = l; i < p.n4; i += WX) { sum += dot(x[at + i], x[at + i]); }
  let mean = total(sum, l) / f32(p.n4 * 4u);
  var rstd = 1.0 / sqrt(mean + p.eps);
  if (mean > MOST) { rstd = rstd_of_large(at); }
  for (var i = l; i < p.n4; i += WX) { y[at + i] = Y4(x[at + i] * rstd * w[i]); }
  if (l == 0u) { rstd_out[row] = rstd; }
}

@group(0) @binding(2) var<storage, read> dy: array<Y4>;
@group(0) @binding(3) var<storage, read> rstd_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(0) @binding(5) var<uniform> q: Params;

@compute @workgroup_size(WX)
fn backward_x(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * WX;
  if (row >= q.rows) { return; }
  let at = row * q.n4;
  let rstd = rstd_in[row];
  var sum = vec4f();
  for (var i = 0u; i < q.n4; i++) { sum += vec4f(dy[at + i]) * w[i] * x[at + i]; }
  let scale = (sum.x + sum.y + sum.z + sum.w) / f32(q.n4 * 4u) * rstd * rstd;
  for (var i = 0u; i < q.n4; i++) {
    let g = rstd * (vec4f(dy[at + i]) * w[i] - x[at + i] * scale);
    if (q.add == 1u) { dx[at + i] += g; } else { dx[at + i] = g; }
  }
}

@group(0) @binding(1) var<storage, read> dy_w: array<Y4>;
@group(0) @binding(2) var<storage, read> rstd_w: array<f32>;
@group(0) @binding(3) var<storage, read_write> partial: array<vec4f>;

@compute @workgroup_size(WX)
fn backward_w(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let blocks = (p.rows + p.block - 1u) / p.block;
  if (i >= blocks * p.n4) { return; }
  let c = i % p.n4;
  let first = (i / p.n4) * p.block;
  var sum = vec4f();
  for (var row = first; row < min(first + p.block, p.rows); row++) {
    sum += vec4f(dy_w[row * p.n4 + c]) * x[row * p.n4 + c] * rstd_w[row];
  }
  partial[p.first + i] = sum;
}

@group(0) @binding(5) var<storage, read_write> partial_out: array<vec4f>;
@group(0) @binding(6) var<uniform> b: Params;
@group(0) @binding(6) var<storage, read_write> copy: array<Y4>;
@group(0) @binding(7) var<uniform> c: Params;

// rows at a time
const ROUND = 16u;
var<workgroup> dots: array<f32, ROUND * WX>;

// leaves the sums over rows first .. of dy * w * x in dots, WX apart
fn dots_of(s: Params, first: u32, l: u32) {
  for (var r = 0u; r < ROUND; r++) {
    let at = min(first + r, s.rows - 1u) * s.n4;
    var sum = 0.0;
    for (var i = l; i < s.n4; i += WX) { sum += dot(vec4f(dy[at + i]) * w[i], x[at + i]); }
    dots[r * WX + l] = sum;
  }
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    for (var e = l; e < ROUND * half; e += WX) {
      let at = (e / half) * WX + e % half;
      dots[at] += dots[at + half];
    }
  }
  workgroupBarrier();
}

// dx of column i of a row, which also adds to the weight's gradient
fn column(s: Params, row: u32, r: u32, i: u32, sum: ptr<function, vec4f>) -> vec4f {
  let at = row * s.n4 + i;
  let rstd = rstd_in[row];
  let d = vec4f(dy[at]);
  let v = x[at];
  *sum += d * v * rstd;
  var g = rstd * (d * w[i] - v * (dots[r * WX] / f32(s.n4 * 4u) * rstd * rstd));
  if (s.add == 1u) { g += dx[at]; }
  dx[at] = g;
  return g;
}

@compute @workgroup_size(WX)
fn backward_wide(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let block = group.x + group.y * groups.x;
  let end = min((block + 1u) * b.block, b.rows);
  for (var first = block * b.block; first < end; first += ROUND) {
    dots_of(b, first, l);
    for (var i = l; i < b.n4; i += WX) {
      let place = b.first + block * b.n4 + i;
      var sum = vec4f();
      if (first > block * b.block) { sum = partial_out[place]; }
      for (var r = 0u; r < min(ROUND, end - first); r++) { column(b, first + r, r, i, &sum); }
      partial_out[place] = sum;
    }
    workgroupBarrier();
  }
}

@compute @workgroup_size(WX)
fn backward_wide_copy(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let block = group.x + group.y * groups.x;
  let end = min((block + 1u) * c.block, c.rows);
  for (var first = block * c.block; first < end; first += ROUND) {
    dots_of(c, first, l);
    for (var i = l; i < c.n4; i += WX) {
      let place = c.first + block * c.n4 + i;
      var sum = vec4f();
      if (first > block * c.block) { sum = partial_out[place]; }
      for (var r = 0u; r < min(ROUND, end - first); r++) {
        copy[(first + r) * c.n4 + i] = Y4(column(c, first + r, r, i, &sum));
      }
      partial_out[place] = sum;
    }
    workgroupBarrier();
  }
}
