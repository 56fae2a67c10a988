// Records of a chunk of tokens, one invocation a token: what its logits say about its target. Column-major:
//   record[f * tokens + t]   f = 0 log-probability  1 mean and 2 variance of log P over the distribution
//                            3 probability of all tokens of a lower rank  4 largest logit minus the next
//                            5 + s: log-probability to draw the target under scheme s, NEVER where it never is drawn
//   rank[t]                  as in cross_entropy.wgsl
// All of it is 0 where the target is IGNORE. Where a logit is infinite or not a number (told by its bits), all numbers are
// NaN and the rank is p.vocab: behind every token.
// A scheme is 1 / temperature, top k (0: all, at most LARGEST), top p (0: all).
// The LARGEST largest logits are kept sorted; only a nucleus wider than those is searched for, by its lowest logit.
// forward_wide is the same for GPUs: a workgroup of a power of two a token, its sums a tree. It finds the largest logits by
// their digits (radix selection), and only where a scheme asks for them.
struct Params { rows: u32, vocab: u32, ld4: u32, first: u32, tokens: u32, count: u32 }
@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> schemes: array<vec4f>;
@group(0) @binding(2) var<storage, read> logits: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> record: array<f32>;
@group(0) @binding(4) var<storage, read_write> rank: array<u32>;
@group(0) @binding(5) var<uniform> p: Params;

override WX: u32 = 8;
const IGNORE = 0xffffffffu;
const LARGEST = 40u;
const NEVER = -3.4e38;
const INFINITE = 0x7f800000u;
const QUIET_NAN = 0x7fc00000u;

var<private> largest: array<f32, LARGEST>;

fn total(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

fn inside(i: u32) -> vec4<bool> { return vec4u(4u * i) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.vocab); }

// which of four columns rank before the target
fn before(i: u32, v: vec4f, aim: f32, target_token: u32) -> vec4<bool> {
  let index = vec4u(4u * i) + vec4u(0u, 1u, 2u, 3u);
  return inside(i) & ((v > vec4f(aim)) | ((v == vec4f(aim)) & (index < vec4u(target_token))));
}

fn keep(v: f32) {
  if (v <= largest[LARGEST - 1u]) { return; }
  var i = LARGEST - 1u;
  while (i > 0u && largest[i - 1u] < v) {
    largest[i] = largest[i - 1u];
    i--;
  }
  largest[i] = v;
}

// sum of exp((z - m) / temperature) over all tokens, and over those that rank before the target
fn sums(at: u32, m: f32, inverse: f32, aim: f32, target_token: u32) -> vec2f {
  var all = vec4f();
  var above = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let v = logits[at + i];
    let e = select(vec4f(), exp((v - m) * inverse), inside(i));
    all += e;
    above += select(vec4f(), e, before(i, v, aim, target_token));
  }
  return vec2f(total(all), total(above));
}

// the same over the tokens above a logit, and how many there are
fn beyond(at: u32, m: f32, inverse: f32, bound: f32) -> vec2f {
  var mass = vec4f();
  var number = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let v = logits[at + i];
    let within = inside(i) & (v > vec4f(bound));
    mass += select(vec4f(), exp((v - m) * inverse), within);
    number += select(vec4f(), vec4f(1.0), within);
  }
  return vec2f(total(mass), total(number));
}

// of a nucleus that the kept logits do not fill: the sum over its tokens, where `enough` is the least it must have
fn nucleus(at: u32, m: f32, inverse: f32, all: f32, enough: f32) -> f32 {
  var high = largest[LARGEST - 1u];
  var few = beyond(at, m, inverse, high);
  // below it, e^-30 each: less than a sum in f32 tells
  var low = min(high, m) - 30.0 / inverse;
  var many = beyond(at, m, inverse, low);
  if (many.x < enough) { return many.x; }
  for (var step = 0u; step < 64u && many.x - few.x > 1e-6 * all; step++) {
    let middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) { break; }
    let here = beyond(at, m, inverse, middle);
    if (here.x < enough) {
      high = middle;
      few = here;
    } else {
      low = middle;
      many = here;
    }
  }
  // what lies between are equal logits, of which the first few fill the nucleus
  let each = (many.x - few.x) / max(many.y - few.y, 1.0);
  return select(many.x, min(many.x, few.x + each * ceil((enough - few.x) / each)), each > 0.0);
}

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * WX;
  if (row >= p.rows) { return; }
  let t = p.first + row;
  let target_token = targets[t];
  let at = row * p.ld4;
  if (target_token == IGNORE) {
    for (var f = 0u; f < 5u + p.count; f++) { record[f * p.tokens + t] = 0.0; }
    rank[t] = 0u;
    return;
  }
  let aim = logits[at + target_token / 4u][target_token % 4u];

  for (var i = 0u; i < LARGEST; i++) { largest[i] = NEVER; }
  var counts = vec4u();
  var worst4 = vec4u();
  for (var i = 0u; i < p.ld4; i++) {
    let v = select(vec4f(NEVER), logits[at + i], inside(i));
    worst4 = max(worst4, bitcast<vec4u>(v) & vec4u(0x7fffffffu));
    counts += select(vec4u(), vec4u(1u), before(i, v, aim, target_token));
    if (any(v > vec4f(largest[LARGEST - 1u]))) {
      keep(v.x);
      keep(v.y);
      keep(v.z);
      keep(v.w);
    }
  }
  let worst = max(max(worst4.x, worst4.y), max(worst4.z, worst4.w));
  if (worst >= INFINITE) {
    for (var f = 0u; f < 5u + p.count; f++) { record[f * p.tokens + t] = bitcast<f32>(max(worst, QUIET_NAN)); }
    rank[t] = p.vocab;
    return;
  }
  let place = counts.x + counts.y + counts.z + counts.w;
  let m = largest[0];
  let plain = sums(at, m, 1.0, aim, target_token);
  let lse = log(plain.x);

  var mean4 = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let d = logits[at + i] - m;
    mean4 += select(vec4f(), exp(d) * (d - lse), inside(i));
  }
  let mean = total(mean4) / plain.x;
  var variance4 = vec4f();
  for (var i = 0u; i < p.ld4; i++) {
    let d = logits[at + i] - m;
    let off = d - lse - mean;
    variance4 += select(vec4f(), exp(d) * off * off, inside(i));
  }

  rank[t] = place;
  record[t] = aim - m - lse;
  record[p.tokens + t] = mean;
  record[2u * p.tokens + t] = total(variance4) / plain.x;
  record[3u * p.tokens + t] = plain.y / plain.x;
  record[4u * p.tokens + t] = m - largest[1];

  for (var s = 0u; s < p.count; s++) {
    let inverse = schemes[s].x;
    let k = u32(schemes[s].y);
    let top_p = schemes[s].z;
    var scaled = plain;
    if (inverse != 1.0 && (k == 0u || top_p > 0.0)) { scaled = sums(at, m, inverse, aim, target_token); }
    let enough = top_p * scaled.x;
    var drawn = (k == 0u || place < k) && (top_p == 0.0 || scaled.y < enough);
    var mass = scaled.x;
    if (drawn && (k > 0u || top_p > 0.0)) {
      let most = min(select(k, LARGEST, k == 0u), min(p.vocab, LARGEST));
      mass = 0.0;
      for (var i = 0u; i < most && (top_p == 0.0 || mass < enough); i++) { mass += exp((largest[i] - m) * inverse); }
      if (k == 0u && p.vocab > LARGEST && mass < enough) { mass = nucleus(at, m, inverse, scaled.x, enough); }
    }
    record[(5u + s) * p.tokens + t] = select(NEVER, (aim - m) * inverse - log(mass), drawn);
  }
}

var<workgroup> tree: array<vec4f, WX>;
var<workgroup> bits: array<vec2u, WX>;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> found: atomic<u32>;
var<workgroup> digit: vec2u;
var<workgroup> unsorted: array<f32, LARGEST>;
var<workgroup> sorted: array<f32, LARGEST>;
var<workgroup> one: f32;

// the sum over all invocations, the same in each of them
fn together(l: u32, v: vec4f) -> vec4f {
  tree[l] = v;
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { tree[l] += tree[l + half]; }
  }
  return workgroupUniformLoad(&tree[0]);
}

fn sums_wide(l: u32, at: u32, m: f32, inverse: f32, aim: f32, target_token: u32) -> vec2f {
  var all = vec4f();
  var above = vec4f();
  for (var i = l; i < p.ld4; i += WX) {
    let v = logits[at + i];
    let e = select(vec4f(), exp((v - m) * inverse), inside(i));
    all += e;
    above += select(vec4f(), e, before(i, v, aim, target_token));
  }
  return together(l, vec4f(total(all), total(above), 0.0, 0.0)).xy;
}

fn beyond_wide(l: u32, at: u32, m: f32, inverse: f32, bound: f32) -> vec2f {
  var mass = vec4f();
  var number = vec4f();
  for (var i = l; i < p.ld4; i += WX) {
    let v = logits[at + i];
    let within = inside(i) & (v > vec4f(bound));
    mass += select(vec4f(), exp((v - m) * inverse), within);
    number += select(vec4f(), vec4f(1.0), within);
  }
  return together(l, vec4f(total(mass), total(number), 0.0, 0.0)).xy;
}

fn nucleus_wide(l: u32, at: u32, m: f32, inverse: f32, all: f32, enough: f32) -> f32 {
  var high = workgroupUniformLoad(&sorted[LARGEST - 1u]);
  var few = beyond_wide(l, at, m, inverse, high);
  var low = min(high, m) - 30.0 / inverse;
  var many = beyond_wide(l, at, m, inverse, low);
  if (many.x < enough) { return many.x; }
  for (var step = 0u; step < 64u && many.x - few.x > 1e-6 * all; step++) {
    let middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) { break; }
    let here = beyond_wide(l, at, m, inverse, middle);
    if (here.x < enough) {
      high = middle;
      few = here;
    } else {
      low = middle;
      many = here;
    }
  }
  let each = (many.x - few.x) / max(many.y - few.y, 1.0);
  return select(many.x, min(many.x, few.x + each * ceil((enough - few.x) / each)), each > 0.0);
}

// whole numbers in the order of the floats
fn keys(v: vec4f) -> vec4u {
  let b = bitcast<vec4u>(v);
  return select(b | vec4u(0x80000000u), ~b, (b >> vec4u(31u)) == vec4u(1u));
}

fn value(key: u32) -> f32 { return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u)); }

// sorts the LARGEST largest logits, NEVER behind them where there are fewer
fn sort_largest(l: u32, at: u32) {
  var prefix = 0u;
  var remaining = min(LARGEST, p.vocab);
  for (var shift = 32u; shift > 0u;) {
    shift -= 8u;
    for (var i = l; i < 256u; i += WX) { atomicStore(&histogram[i], 0u); }
    workgroupBarrier();
    for (var i = l; i < p.ld4; i += WX) {
      let key = keys(logits[at + i]);
      // those that begin as the prefix does; nothing to compare at first, and a shift by 32 would be none
      let begins = inside(i) & (vec4<bool>(shift == 24u) | ((key >> vec4u(min(shift + 8u, 31u))) == vec4u(prefix)));
      let digits = (key >> vec4u(shift)) & vec4u(255u);
      for (var c = 0u; c < 4u; c++) { if (begins[c]) { atomicAdd(&histogram[digits[c]], 1u); } }
    }
    workgroupBarrier();
    if (l == 0u) {
      var left = remaining;
      var d = 255u;
      while (d > 0u && atomicLoad(&histogram[d]) < left) {
        left -= atomicLoad(&histogram[d]);
        d--;
      }
      digit = vec2u(d, left);
    }
    let chosen = workgroupUniformLoad(&digit);
    prefix = (prefix << 8u) | chosen.x;
    remaining = chosen.y;
  }
  // prefix is the key of the last of them, of which `remaining` are wanted
  if (l == 0u) { atomicStore(&found, 0u); }
  for (var i = l; i < LARGEST; i += WX) { unsorted[i] = select(NEVER, value(prefix), i < p.vocab); }
  workgroupBarrier();
  for (var i = l; i < p.ld4; i += WX) {
    let v = logits[at + i];
    let more = inside(i) & (keys(v) > vec4u(prefix));
    for (var c = 0u; c < 4u; c++) { if (more[c]) { unsorted[min(atomicAdd(&found, 1u), LARGEST - 1u)] = v[c]; } }
  }
  workgroupBarrier();
  // in whatever order they were found: a place for each
  for (var i = l; i < LARGEST; i += WX) {
    var above = 0u;
    for (var j = 0u; j < LARGEST; j++) {
      if (unsorted[j] > unsorted[i] || (unsorted[j] == unsorted[i] && j < i)) { above++; }
    }
    sorted[above] = unsorted[i];
  }
  workgroupBarrier();
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
    for (var f = l; f < 5u + p.count; f += WX) { record[f * p.tokens + t] = 0.0; }
    if (l == 0u) { rank[t] = 0u; }
    return;
  }
  let aim = logits[at + target_token / 4u][target_token % 4u];

  // the two largest, the largest magnitude, and how many rank before the target
  var top = vec2f(NEVER);
  var counts = vec4u();
  var worst4 = vec4u();
  for (var i = l; i < p.ld4; i += WX) {
    let v = select(vec4f(NEVER), logits[at + i], inside(i));
    worst4 = max(worst4, bitcast<vec4u>(v) & vec4u(0x7fffffffu));
    counts += select(vec4u(), vec4u(1u), before(i, v, aim, target_token));
    for (var c = 0u; c < 4u; c++) { top = vec2f(max(top.x, v[c]), max(min(top.x, v[c]), top.y)); }
  }
  tree[l] = vec4f(top, 0.0, 0.0);
  bits[l] = vec2u(max(max(worst4.x, worst4.y), max(worst4.z, worst4.w)), counts.x + counts.y + counts.z + counts.w);
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) {
      let a = tree[l];
      let b = tree[l + half];
      tree[l] = vec4f(max(a.x, b.x), max(min(a.x, b.x), max(a.y, b.y)), 0.0, 0.0);
      bits[l] = vec2u(max(bits[l].x, bits[l + half].x), bits[l].y + bits[l + half].y);
    }
  }
  let both = workgroupUniformLoad(&tree[0]);
  let told = workgroupUniformLoad(&bits[0]);
  let worst = told.x;
  if (worst >= INFINITE) {
    for (var f = l; f < 5u + p.count; f += WX) { record[f * p.tokens + t] = bitcast<f32>(max(worst, QUIET_NAN)); }
    if (l == 0u) { rank[t] = p.vocab; }
    return;
  }
  let place = told.y;
  let m = both.x;
  let plain = sums_wide(l, at, m, 1.0, aim, target_token);
  let lse = log(plain.x);
  var mean4 = vec4f();
  for (var i = l; i < p.ld4; i += WX) {
    let d = logits[at + i] - m;
    mean4 += select(vec4f(), exp(d) * (d - lse), inside(i));
  }
  let mean = together(l, mean4);
  let mean1 = total(mean) / plain.x;
  var variance4 = vec4f();
  for (var i = l; i < p.ld4; i += WX) {
    let d = logits[at + i] - m;
    let off = d - lse - mean1;
    variance4 += select(vec4f(), exp(d) * off * off, inside(i));
  }
  let variance = total(together(l, variance4)) / plain.x;
  if (l == 0u) {
    rank[t] = place;
    record[t] = aim - m - lse;
    record[p.tokens + t] = mean1;
    record[2u * p.tokens + t] = variance;
    record[3u * p.tokens + t] = plain.y / plain.x;
    record[4u * p.tokens + t] = m - both.y;
  }

  var cut = false;
  for (var s = 0u; s < p.count; s++) { cut = cut || schemes[s].y > 0.0 || schemes[s].z > 0.0; }
  if (cut) { sort_largest(l, at); }
  for (var s = 0u; s < p.count; s++) {
    let inverse = schemes[s].x;
    let k = u32(schemes[s].y);
    let top_p = schemes[s].z;
    var scaled = plain;
    if (inverse != 1.0 && (k == 0u || top_p > 0.0)) { scaled = sums_wide(l, at, m, inverse, aim, target_token); }
    let enough = top_p * scaled.x;
    var drawn = (k == 0u || place < k) && (top_p == 0.0 || scaled.y < enough);
    var mass = scaled.x;
    if (drawn && (k > 0u || top_p > 0.0)) {
      let most = min(select(k, LARGEST, k == 0u), min(p.vocab, LARGEST));
      if (l == 0u) {
        var sum = 0.0;
        for (var i = 0u; i < most && (top_p == 0.0 || sum < enough); i++) { sum += exp((sorted[i] - m) * inverse); }
        one = sum;
      }
      mass = workgroupUniformLoad(&one);
      if (k == 0u && p.vocab > LARGEST && mass < enough) { mass = nucleus_wide(l, at, m, inverse, scaled.x, enough); }
    }
    if (l == 0u) { record[(5u + s) * p.tokens + t] = select(NEVER, (aim - m) * inverse - log(mass), drawn); }
  }
}
