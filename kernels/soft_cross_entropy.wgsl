// Cross entropy with a distribution q for each token of a chunk, one invocation a token.
//   loss[t] = -sum over v of q[t, v] * log p[t, v],   p = softmax(logits)        0 where the target is IGNORE
// The loss is NaN where a logit or a q is infinite or not a number (told by its bits).
// With train = 1, logits are replaced by their gradient (p * sum(q) - q) * weights[t] * hyper[GRADIENT_SCALE], 0 where the
// target is IGNORE; padded columns become 0. q need not sum to 1, its padded columns are not used.
// forward_wide is the same for GPUs: a workgroup of a power of two a token, its sums a tree.
struct Params { rows: u32, vocab: u32, ld4: u32, first: u32, train: u32 }
alias X = f32;
alias X4 = vec4f;
@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> soft: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> logits: array<X4>;
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
@group(0) @binding(6) var<uniform> p: Params;

override WX: u32 = 16;
const IGNORE = 0xffffffffu;
const GRADIENT_SCALE = 9;
const LOWEST = vec4f(-3.4e38);
const INFINITE = 0x7f800000u;
const QUIET_NAN = 0x7fc00000u;

fn magnitude(worst: vec4u, v: vec4f) -> vec4u { return max(worst, bitcast<vec4u>(v) & vec4u(0x7fffffffu)); }

fn total(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * WX;
  if (row >= p.rows) { return; }
  let t = p.first + row;
  let at = row * p.ld4;
  if (targets[t] == IGNORE) {
    loss[t] = 0.0;
    if (p.train == 1u) { for (var i = 0u; i < p.ld4; i++) { logits[at + i] = X4(); } }
    return;
  }
  let wanted = t * p.ld4;
  let columns = vec4u(0u, 1u, 2u, 3u);
  var top = LOWEST;
  var worst4 = vec4u();
  for (var i = 0u; i < p.ld4; i++) {
    let inside = columns + 4u * i < vec4u(p.vocab);
    let v = select(LOWEST, vec4f(logits[at + i]), inside);
    worst4 = magnitude(magnitude(worst4, v), select(vec4f(), soft[wanted + i], inside));
    top = max(top, v);
  }
  let m = max(max(top.x, top.y), max(top.z, top.w));
  var exponentials = vec4f();
  var weighed = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let inside = columns + 4u * i < vec4u(p.vocab);
    exponentials += select(vec4f(), exp(vec4f(logits[at + i]) - m), inside);
    weighed += select(vec4f(), soft[wanted + i], inside);
  }
  let sum = total(exponentials);
  let mass = total(weighed);
  let log_sum = m + log(sum);
  let scale = hyper[GRADIENT_SCALE] * weights[t];
  var nats = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let inside = columns + 4u * i < vec4u(p.vocab);
    let logit = vec4f(logits[at + i]);
    let q = soft[wanted + i];
    nats += select(vec4f(), q * (log_sum - logit), inside);
    if (p.train == 1u) {
      logits[at + i] = X4(select(vec4f(), (exp(logit - m) * (mass / sum) - q) * scale, inside));
    }
  }
  let worst = max(max(worst4.x, worst4.y), max(worst4.z, worst4.w));
  loss[t] = bitcast<f32>(select(max(worst, QUIET_NAN), bitcast<u32>(total(nats)), worst < INFINITE));
}

var<workgroup> tree: array<vec2f, WX>;
var<workgroup> worsts: array<u32, WX>;

@compute @workgroup_size(WX)
fn forward_wide(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.rows) { return; }
  let t = p.first + row;
  let at = row * p.ld4;
  if (targets[t] == IGNORE) {
    if (l == 0u) { loss[t] = 0.0; }
    if (p.train == 1u) { for (var i = l; i < p.ld4; i += WX) { logits[at + i] = X4(); } }
    return;
  }
  let wanted = t * p.ld4;
  let columns = vec4u(0u, 1u, 2u, 3u);
  var top = LOWEST;
  var worst4 = vec4u();
  for (var i = l; i < p.ld4; i += WX) {
    let inside = columns + 4u * i < vec4u(p.vocab);
    let v = select(LOWEST, vec4f(logits[at + i]), inside);
    worst4 = magnitude(magnitude(worst4, v), select(vec4f(), soft[wanted + i], inside));
    top = max(top, v);
  }
  tree[l] = vec2f(max(max(top.x, top.y), max(top.z, top.w)), 0.0);
  worsts[l] = max(max(worst4.x, worst4.y), max(worst4.z, worst4.w));
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) {
      tree[l] = max(tree[l], tree[l + half]);
      worsts[l] = max(worsts[l], worsts[l + half]);
    }
  }
  workgroupBarrier();
  let m = tree[0].x;
  workgroupBarrier();
  var exponentials = vec4f();
  var weighed = vec4f();
  for (var i = l; i < p.ld4; i += WX) {
    let inside = columns + 4u * i < vec4u(p.vocab);
    exponentials += select(vec4f(), exp(vec4f(logits[at + i]) - m), inside);
    weighed += select(vec4f(), soft[wanted + i], inside);
  }
  tree[l] = vec2f(total(exponentials), total(weighed));
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { tree[l] += tree[l + half]; }
  }
  workgroupBarrier();
  let sum = tree[0].x;
  let mass = tree[0].y;
  workgroupBarrier();
  let log_sum = m + log(sum);
  let scale = hyper[GRADIENT_SCALE] * weights[t];
  var nats = vec4f();
  for (var i = l; i < p.ld4; i += WX) {
    let inside = columns + 4u * i < vec4u(p.vocab);
    let logit = vec4f(logits[at + i]);
    let q = soft[wanted + i];
    nats += select(vec4f(), q * (log_sum - logit), inside);
    if (p.train == 1u) {
      logits[at + i] = X4(select(vec4f(), (exp(logit - m) * (mass / sum) - q) * scale, inside));
    }
  }
  tree[l] = vec2f(total(nats), 0.0);
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { tree[l] += tree[l + half]; }
  }
  if (l == 0u) {
    let worst = worsts[0];
    loss[t] = bitcast<f32>(select(max(worst, QUIET_NAN), bitcast<u32>(tree[0].x), worst < INFINITE));
  }
}
