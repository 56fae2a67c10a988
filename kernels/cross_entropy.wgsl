// Cross entropy of a chunk of tokens, one invocation a token.
//   loss[t] = logsumexp(logits[t, :]) - logits[t, target]        0 where the target is IGNORE
//   rank[t] = logits greater than the target's, or equal at a lower index: 0 means greedy decoding says this token
// Where a logit is infinite or not a number, the loss is NaN and the rank p.vocab, behind every token. Both are told by
// their bits: compilers may take for granted that no number is either.
// With train = 1, logits are replaced by their gradient (softmax - onehot) * hyper[GRADIENT_SCALE]; padded columns become 0.
// forward_wide is the same for GPUs: a workgroup of a power of two a token, its sums a tree.
struct Params { rows: u32, vocab: u32, ld4: u32, first: u32, train: u32 }
alias X = f32;
alias X4 = vec4f;
@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read_write> logits: array<X4>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> rank: array<u32>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 4;
const IGNORE = 0xffffffffu;
const GRADIENT_SCALE = 9;
const INFINITE = 0x7f800000u;
const QUIET_NAN = 0x7fc00000u;

// bits of the largest magnitudes so far: INFINITE or more once one was no finite number
fn magnitude(worst: vec4u, v: vec4f) -> vec4u { return max(worst, bitcast<vec4u>(v) & vec4u(0x7fffffffu)); }

fn largest(worst: vec4u) -> u32 { return max(max(worst.x, worst.y), max(worst.z, worst.w)); }

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * WX;
  if (row >= p.rows) { return; }
  let t = p.first + row;
  let target_token = targets[t];
  let at = row * p.ld4;
  if (target_token == IGNORE) {
    loss[t] = 0.0;
    rank[t] = 0u;
    if (p.train == 1u) { for (var i = 0u; i < p.ld4; i++) { logits[at + i] = X4(); } }
    return;
  }
  let whole = p.vocab / 4u;
  let rest = p.vocab % 4u;
  let low = vec4f(-3.4e38);
  let tail = vec4<bool>(rest > 0u, rest > 1u, rest > 2u, false);
  let aim = f32(logits[at + target_token / 4u][target_token % 4u]);

  var top = low;
  var above = vec4u();
  var worst4 = vec4u();
  for (var i = 0u; i < p.ld4; i++) {
    var v = vec4f(logits[at + i]);
    if (i >= whole) { v = select(low, v, tail & vec4<bool>(i == whole)); }
    worst4 = magnitude(worst4, v);
    top = max(top, v);
    let index = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u);
    let first = vec4<bool>(index.x < target_token, index.y < target_token, index.z < target_token, index.w < target_token);
    above += select(vec4u(), vec4u(1u), (v > vec4f(aim)) | ((v == vec4f(aim)) & first));
  }
  let m = max(max(top.x, top.y), max(top.z, top.w));
  var sum4 = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let e = exp(vec4f(logits[at + i]) - m);
    if (i < whole) { sum4 += e; } else if (i == whole) { sum4 += select(vec4f(), e, tail); }
  }
  let sum = sum4.x + sum4.y + sum4.z + sum4.w;
  let worst = largest(worst4);
  let finite = worst < INFINITE;
  // as bits that only the run knows: a NaN that compilers see may become any number
  loss[t] = bitcast<f32>(select(max(worst, QUIET_NAN), bitcast<u32>(m + log(sum) - aim), finite));
  rank[t] = select(p.vocab, above.x + above.y + above.z + above.w, finite);
  if (p.train == 0u) { return; }

  let scale = hyper[GRADIENT_SCALE];
  for (var i = 0u; i < p.ld4; i++) {
    var g = exp(vec4f(logits[at + i]) - m) * (scale / sum);
    if (i >= whole) { g = select(vec4f(), g, tail & vec4<bool>(i == whole)); }
    if (i == target_token / 4u) { g[target_token % 4u] -= scale; }
    logits[at + i] = X4(g);
  }
}

var<workgroup> lanes: array<f32, WX>;
var<workgroup> counts: array<u32, WX>;
var<workgroup> magnitudes: array<u32, WX>;

// four columns, those behind the vocabulary as small as can be
fn columns(at: u32, i: u32) -> vec4f {
  let c = vec4u(4u * i) + vec4u(0u, 1u, 2u, 3u);
  return select(vec4f(-3.4e38), vec4f(logits[at + i]), c < vec4u(p.vocab));
}

@compute @workgroup_size(WX)
fn forward_wide(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.rows) { return; }
  let t = p.first + row;
  let target_token = targets[t];
  let at = row * p.ld4;
  if (target_token == IGNORE) {
    if (l == 0u) {
      loss[t] = 0.0;
      rank[t] = 0u;
    }
    if (p.train == 1u) { for (var i = l; i < p.ld4; i += WX) { logits[at + i] = X4(); } }
    return;
  }
  let aim = f32(logits[at + target_token / 4u][target_token % 4u]);

  // one pass: an invocation's sum of exponentials is relative to the largest it has met
  var top = -3.4e38;
  var sum = 0.0;
  var above = vec4u();
  var worst4 = vec4u();
  for (var i = l; i < p.ld4; i += WX) {
    let v = columns(at, i);
    worst4 = magnitude(worst4, v);
    let next = max(top, max(max(v.x, v.y), max(v.z, v.w)));
    let e = select(exp(v - next), vec4f(), v == vec4f(-3.4e38));
    sum = sum * exp(top - next) + (e.x + e.y + e.z + e.w);
    top = next;
    let index = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u);
    above += select(vec4u(), vec4u(1u), (v > vec4f(aim)) | ((v == vec4f(aim)) & (index < vec4u(target_token))));
  }
  lanes[l] = top;
  counts[l] = above.x + above.y + above.z + above.w;
  magnitudes[l] = largest(worst4);
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) {
      lanes[l] = max(lanes[l], lanes[l + half]);
      counts[l] += counts[l + half];
      magnitudes[l] = max(magnitudes[l], magnitudes[l + half]);
    }
  }
  workgroupBarrier();
  let m = lanes[0];
  workgroupBarrier();
  lanes[l] = sum * exp(top - m);
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { lanes[l] += lanes[l + half]; }
  }
  workgroupBarrier();
  let all = lanes[0];
  if (l == 0u) {
    let worst = magnitudes[0];
    let finite = worst < INFINITE;
    loss[t] = bitcast<f32>(select(max(worst, QUIET_NAN), bitcast<u32>(m + log(all) - aim), finite));
    rank[t] = select(p.vocab, counts[0], finite);
  }
  if (p.train == 0u) { return; }

  let scale = hyper[GRADIENT_SCALE];
  for (var i = l; i < p.ld4; i += WX) {
    let v = columns(at, i);
    var g = select(exp(v - m) * (scale / all), vec4f(), v == vec4f(-3.4e38));
    if (i == target_token / 4u) { g[target_token % 4u] -= scale; }
    logits[at + i] = X4(g);
  }
}
