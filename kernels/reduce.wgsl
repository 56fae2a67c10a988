// Sums in a fixed order: the same numbers give the same bits, whatever the adapter does with its threads.
//   sum, sum_of_squares:  partial[first + i] += sum over k of f(x[i + k * lanes])   i < lanes
//   columns:              y[s, c] += sum over rows, in order, of x[s, row, c], of several sums s at once; columns_wide: the
//                         same by a tree, for GPUs
//   fold:                 partial[p.first + i] = sum of the i-th of p.lanes runs of x[p.start .. p.start + n)
//   finish:               the step's loss and gradient norm out of the partials, what AdamW multiplies gradients with, a
//                         line of history, and the loss scale of the next step
//   scale_loss:           hyper[GRADIENT_SCALE] = hyper[LOSS_SCALE] * loss scale
struct Params { n: u32, lanes: u32, first: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn sum(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.lanes) { return; }
  var total = 0.0;
  for (var i = id.x; i < p.n; i += p.lanes) { total += x[i]; }
  partial[p.first + id.x] += total;
}

@group(0) @binding(0) var<storage, read> x4: array<vec4f>;

// Six tensors at once, n and lanes in groups of 4: a step has hundreds, most of them small.
struct Squares {
  n0: u32, lanes0: u32, first0: u32, n1: u32, lanes1: u32, first1: u32, n2: u32, lanes2: u32, first2: u32,
  n3: u32, lanes3: u32, first3: u32, n4: u32, lanes4: u32, first4: u32, n5: u32, lanes5: u32, first5: u32,
}
@group(0) @binding(0) var<storage, read> s0: array<vec4f>;
@group(0) @binding(1) var<storage, read> s1: array<vec4f>;
@group(0) @binding(2) var<storage, read> s2: array<vec4f>;
@group(0) @binding(3) var<storage, read> s3: array<vec4f>;
@group(0) @binding(4) var<storage, read> s4: array<vec4f>;
@group(0) @binding(5) var<storage, read> s5: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> squares: array<f32>;
@group(0) @binding(7) var<uniform> s: Squares;

fn add_squares(at: u32, v: vec4f) { squares[at] += v.x + v.y + v.z + v.w; }

@compute @workgroup_size(WX)
fn sum_of_squares(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var lane = id.x + id.y * groups.x * WX;
  var total = vec4f();
  if (lane < s.lanes0) {
    for (var i = lane; i < s.n0; i += s.lanes0) { total += s0[i] * s0[i]; }
    add_squares(s.first0 + lane, total);
    return;
  }
  lane -= s.lanes0;
  if (lane < s.lanes1) {
    for (var i = lane; i < s.n1; i += s.lanes1) { total += s1[i] * s1[i]; }
    add_squares(s.first1 + lane, total);
    return;
  }
  lane -= s.lanes1;
  if (lane < s.lanes2) {
    for (var i = lane; i < s.n2; i += s.lanes2) { total += s2[i] * s2[i]; }
    add_squares(s.first2 + lane, total);
    return;
  }
  lane -= s.lanes2;
  if (lane < s.lanes3) {
    for (var i = lane; i < s.n3; i += s.lanes3) { total += s3[i] * s3[i]; }
    add_squares(s.first3 + lane, total);
    return;
  }
  lane -= s.lanes3;
  if (lane < s.lanes4) {
    for (var i = lane; i < s.n4; i += s.lanes4) { total += s4[i] * s4[i]; }
    add_squares(s.first4 + lane, total);
    return;
  }
  lane -= s.lanes4;
  if (lane < s.lanes5) {
    for (var i = lane; i < s.n5; i += s.lanes5) { total += s5[i] * s5[i]; }
    add_squares(s.first5 + lane, total);
    return;
  }
}

struct FoldParams { n: u32, lanes: u32, start: u32, first: u32 }
@group(0) @binding(2) var<uniform> r: FoldParams;
var<workgroup> tree: array<f32, WX>;

// a workgroup of a power of two a lane
@compute @workgroup_size(WX)
fn fold(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  let lane = group.x;
  if (lane >= r.lanes) { return; }
  let each = (r.n + r.lanes - 1u) / r.lanes;
  var total = 0.0;
  for (var i = lane * each + l; i < min((lane + 1u) * each, r.n); i += WX) { total += x[r.start + i]; }
  tree[l] = total;
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { tree[l] += tree[l + half]; }
  }
  if (l == 0u) { partial[r.first + lane] = tree[0]; }
}

@group(0) @binding(1) var<storage, read_write> y4: array<vec4f>;

// n rows of lanes groups of 4 columns, for each of count sums: from group x0 on, and to groups stride apart from y0 on
struct ColumnsParams { n: u32, lanes: u32, count: u32, x0: u32, y0: u32, stride: u32 }
@group(0) @binding(2) var<uniform> t: ColumnsParams;

@compute @workgroup_size(WX)
fn columns(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  if (i >= t.lanes * t.count) { return; }
  let at = t.x0 + (i / t.lanes) * t.n * t.lanes + i % t.lanes;
  var total = vec4f();
  for (var row = 0u; row < t.n; row++) { total += x4[at + row * t.lanes]; }
  y4[t.y0 + (i / t.lanes) * t.stride + i % t.lanes] += total;
}

var<workgroup> tree4: array<vec4f, WX>;

// a workgroup of a power of two for a group of 4 columns
@compute @workgroup_size(WX)
fn columns_wide(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let i = group.x + group.y * groups.x;
  if (i >= t.lanes * t.count) { return; }
  let at = t.x0 + (i / t.lanes) * t.n * t.lanes + i % t.lanes;
  var total = vec4f();
  for (var row = l; row < t.n; row += WX) { total += x4[at + row * t.lanes]; }
  tree4[l] = total;
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { tree4[l] += tree4[l + half]; }
  }
  if (l == 0u) { y4[t.y0 + (i / t.lanes) * t.stride + i % t.lanes] += tree4[0]; }
}

@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read_write> stats: array<f32>;
@group(0) @binding(3) var<storage, read_write> history: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> scaler: array<f32>;
struct FinishParams { n: u32, first: u32, adaptive: u32 }
@group(0) @binding(5) var<uniform> q: FinishParams;
const BETA1 = 1;
const BETA2 = 2;
const CORRECTION1 = 5;
const CORRECTION2 = 6;
const CLIP_AT = 7;
const LOSS_SCALE = 8;
const GRADIENT_SCALE = 9;
const SLOT = 10;
// as PyTorch's GradScaler: halved when a gradient overflows, doubled after as many steps in which none did
const GROWTH_INTERVAL = 2000.0;
const INFINITE = 0x7f800000u;

// x[0 .. first) are partials of the loss, x[first .. n) of the squared gradient, which is scaler[0] times too large;
// stats = loss, norm, factor for gradients, 1 where the step is to be skipped (norm and factor are 0 then), and the bias
//   corrections 1 / (1 - beta^t), where t counts the steps that were not skipped.
// history = two lines of four a step: loss, norm, learning rate, loss scale; skipped or not, skipped in a row, skipped so
//   far, 0.
// scaler = loss scale, steps since it changed, 1 - beta1^t, 1 - beta2^t, skipped so far, skipped in a row. A step is
//   skipped where loss or gradient is infinite or not a number; at a scale of 1 that is no overflow of f16 that another
//   scale mends, and shows in loss and norm.
@compute @workgroup_size(1)
fn finish() {
  var loss = 0.0;
  for (var i = 0u; i < q.first; i++) { loss += x[i]; }
  loss *= hyper[LOSS_SCALE];
  var squares = 0.0;
  for (var i = q.first; i < q.n; i++) { squares += x[i]; }
  let adaptive = q.adaptive == 1u;
  let scale = select(1.0, scaler[0], adaptive);
  // by its bits: compilers may take for granted that no number is infinite
  let overflow = scale > 1.0 && ((bitcast<u32>(squares) & INFINITE) == INFINITE || (bitcast<u32>(loss) & INFINITE) == INFINITE);
  var norm = 0.0;
  var factor = 0.0;
  if (!overflow) {
    norm = sqrt(squares) / scale;
    factor = 1.0 / scale;
    if (hyper[CLIP_AT] > 0.0) { factor *= min(1.0, hyper[CLIP_AT] / (norm + 1e-6)); }
  }
  stats[0] = loss;
  stats[1] = norm;
  stats[2] = factor;
  let skipped = select(0.0, 1.0, overflow);
  stats[3] = skipped;
  let line = 2u * u32(hyper[SLOT]);
  history[line] = vec4f(loss, norm, hyper[0], scale);
  if (!adaptive) {
    stats[4] = hyper[CORRECTION1];
    stats[5] = hyper[CORRECTION2];
    history[line + 1u] = vec4f();
    return;
  }
  if (!overflow) {
    // 1 - beta^(t + 1) out of 1 - beta^t, without the loss of digits that a power near 1 brings
    scaler[2] = scaler[2] * hyper[BETA1] + (1.0 - hyper[BETA1]);
    scaler[3] = scaler[3] * hyper[BETA2] + (1.0 - hyper[BETA2]);
  }
  scaler[4] += skipped;
  scaler[5] = select(0.0, scaler[5] + 1.0, overflow);
  // a first step that is skipped has none, and needs none
  stats[4] = select(1.0, 1.0 / scaler[2], scaler[2] > 0.0);
  stats[5] = select(1.0, 1.0 / scaler[3], scaler[3] > 0.0);
  history[line + 1u] = vec4f(skipped, scaler[5], scaler[4], 0.0);
  if (overflow) {
    scaler[0] = scale / 2.0;
    scaler[1] = 0.0;
  } else if (scaler[1] + 1.0 >= GROWTH_INTERVAL) {
    scaler[0] = scale * 2.0;
    scaler[1] = 0.0;
  } else {
    scaler[1] += 1.0;
  }
}

@group(0) @binding(0) var<storage, read> scaler_in: array<f32>;
@group(0) @binding(1) var<storage, read_write> hyper_out: array<f32>;

@compute @workgroup_size(1)
fn scale_loss() { hyper_out[GRADIENT_SCALE] = hyper_out[LOSS_SCALE] * scaler_in[0]; }
