// Sums in a fixed order: the same numbers give the same bits, whatever the adapter does with its threads.
//   sum, sum_of_squares:  partial[p.first + i] += sum over k of f(x[i + k * p.lanes])   i < lanes
//   columns:              y[c] += sum over rows, in order, of x[row, c]
//   finish:               the step's loss and gradient norm out of the partials, the clip factor, and a line of history
struct Params { n: u32, lanes: u32, first: u32, extra: u32 }
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

// n and lanes count groups of 4 here
@compute @workgroup_size(WX)
fn sum_of_squares(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.lanes) { return; }
  var total = vec4f();
  for (var i = id.x; i < p.n; i += p.lanes) { total += x4[i] * x4[i]; }
  partial[p.first + id.x] += total.x + total.y + total.z + total.w;
}

@group(0) @binding(1) var<storage, read_write> y4: array<vec4f>;

// n rows of lanes groups of 4 columns
@compute @workgroup_size(WX)
fn columns(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.lanes) { return; }
  var total = vec4f();
  for (var row = 0u; row < p.n; row++) { total += x4[row * p.lanes + id.x]; }
  y4[id.x] += total;
}

@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read_write> stats: array<f32>;
@group(0) @binding(3) var<storage, read_write> history: array<vec4f>;
@group(0) @binding(4) var<uniform> q: Params;
const CLIP_AT = 7;
const LOSS_SCALE = 8;
const SLOT = 9;

// x[0 .. first) are partials of the loss, x[first .. n) of the squared gradient; stats = loss, norm, clip factor
@compute @workgroup_size(1)
fn finish() {
  var loss = 0.0;
  for (var i = 0u; i < q.first; i++) { loss += x[i]; }
  loss *= hyper[LOSS_SCALE];
  var squares = 0.0;
  for (var i = q.first; i < q.n; i++) { squares += x[i]; }
  let norm = sqrt(squares);
  var clip = 1.0;
  if (hyper[CLIP_AT] > 0.0) { clip = min(1.0, hyper[CLIP_AT] / (norm + 1e-6)); }
  stats[0] = loss;
  stats[1] = norm;
  stats[2] = clip;
  history[u32(hyper[SLOT])] = vec4f(loss, norm, hyper[0], 0.0);
}
