// Attention of tokens to the keys and values that a cache keeps of their sequences, as generation needs it.
//
// qkv [rows, (heads + 2 kv_heads) * headDim]: query heads | key heads | value heads, after RoPE. A row of the cache
// [pages * PAGE, 2 kv_heads * headDim] holds the key and value heads of one token. span[t] = (first, count): the sequence of
// token t lies in the pages that `pages` lists from `first` on, and t is its token `count - 1`; a count of 0: padding.
//
//   append:   the row of t = the keys and values of t                        an invocation 4 numbers
//   forward:  out[t, h] = softmax(q k / sqrt(headDim)) v over `count` rows,  an invocation a (query, head, chunk);
//             0 for padding                                                  see attention.wgsl for the chunks
//   forward_wide is the same for GPUs: a workgroup a (query, head), headDim at most 4 WX
struct Params { rows: u32, heads: u32, kv_heads: u32, scale: f32, head4: u32 }
override WX: u32 = 16;
override PAGE: u32 = 16;

// the type of activations, and of the cache
alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> qkv: array<T4>;
@group(0) @binding(1) var<storage, read> span: array<vec2u>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache_out: array<T4>;
@group(0) @binding(4) var<uniform> p: Params;

// the cache's row of token j of a sequence
fn row_of(first: u32, j: u32) -> u32 { return pages[first + j / PAGE] * PAGE + j % PAGE; }

@compute @workgroup_size(WX)
fn append(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let width = 2u * p.kv_heads * p.head4;
  let t = i / width;
  if (t >= p.rows) { return; }
  let own = span[t];
  if (own.y == 0u) { return; }
  let source = t * (p.heads + 2u * p.kv_heads) * p.head4 + p.heads * p.head4;
  cache_out[row_of(own.x, own.y - 1u) * width + i % width] = qkv[source + i % width];
}

@group(0) @binding(3) var<storage, read> cache: array<T4>;
@group(0) @binding(4) var<storage, read_write> out: array<T4>;
@group(0) @binding(5) var<uniform> q: Params;

const LOW = -1e30;

fn score(query: u32, key: u32, head4: u32) -> f32 {
  var s = vec4f();
  for (var d = 0u; d < head4; d++) { s += vec4f(qkv[query + d]) * vec4f(cache[key + d]); }
  return (s.x + s.y + s.z + s.w) * q.scale;
}

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let head4 = q.head4;
  let i = id.x + id.y * groups.x * WX;
  let chunks = (head4 + 7u) / 8u;
  if (i >= q.rows * q.heads * chunks) { return; }
  let own = (i % chunks) * 8u;
  let h = (i / chunks) % q.heads;
  let t = i / (chunks * q.heads);
  let keys = span[t];
  let width = 2u * q.kv_heads * head4;
  let query = (t * (q.heads + 2u * q.kv_heads) + h) * head4;
  let to_v = q.kv_heads * head4 + own;
  var o0 = vec4f(); var o1 = vec4f(); var o2 = vec4f(); var o3 = vec4f();
  var o4 = vec4f(); var o5 = vec4f(); var o6 = vec4f(); var o7 = vec4f();
  var m = LOW;
  var sum = 0.0;
  let head = (h / (q.heads / q.kv_heads)) * head4;
  for (var first = 0u; first < keys.y; first += PAGE) {
    var key = row_of(keys.x, first) * width + head;
    let count = min(PAGE, keys.y - first);
    for (var j = 0u; j < count; j++) {
      let s = score(query, key, head4);
      let top = max(m, s);
      let alpha = exp(m - top);
      let weight = exp(s - top);
      m = top;
      sum = sum * alpha + weight;
      let v = key + to_v;
      o0 = o0 * alpha + weight * vec4f(cache[v + 0u]);
      o1 = o1 * alpha + weight * vec4f(cache[v + 1u]);
      o2 = o2 * alpha + weight * vec4f(cache[v + 2u]);
      o3 = o3 * alpha + weight * vec4f(cache[v + 3u]);
      o4 = o4 * alpha + weight * vec4f(cache[v + 4u]);
      o5 = o5 * alpha + weight * vec4f(cache[v + 5u]);
      o6 = o6 * alpha + weight * vec4f(cache[v + 6u]);
      o7 = o7 * alpha + weight * vec4f(cache[v + 7u]);
      key += width;
    }
  }
  let norm = select(1.0 / sum, 0.0, keys.y == 0u);
  let at = (t * q.heads + h) * head4 + own;
  if (own + 0u < head4) { out[at + 0u] = T4(o0 * norm); }
  if (own + 1u < head4) { out[at + 1u] = T4(o1 * norm); }
  if (own + 2u < head4) { out[at + 2u] = T4(o2 * norm); }
  if (own + 3u < head4) { out[at + 3u] = T4(o3 * norm); }
  if (own + 4u < head4) { out[at + 4u] = T4(o4 * norm); }
  if (own + 5u < head4) { out[at + 5u] = T4(o5 * norm); }
  if (own + 6u < head4) { out[at + 6u] = T4(o6 * norm); }
  if (own + 7u < head4) { out[at + 7u] = T4(o7 * norm); }
}

// scores, then weights, of so many keys at a time
const BLOCK = 1024u;
var<workgroup> weights: array<f32, BLOCK>;
var<workgroup> lanes: array<f32, WX>;
var<workgroup> parts: array<vec4f, WX>;

fn highest(mine: f32, l: u32) -> f32 {
  lanes[l] = mine;
  for (var half = WX / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (l < half) { lanes[l] = max(lanes[l], lanes[l + half]); }
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
  let i = group.x + group.y * groups.x;
  if (i >= q.rows * q.heads) { return; }
  let head4 = q.head4;
  let h = i % q.heads;
  let t = i / q.heads;
  let keys = span[t];
  let width = 2u * q.kv_heads * head4;
  let query = (t * (q.heads + 2u * q.kv_heads) + h) * head4;
  let k_at = (h / (q.heads / q.kv_heads)) * head4;
  // lanes share out the dimensions of the head, and the keys among those that have the same
  let d = l % head4;
  let slice = l / head4;
  let slices = WX / head4;
  let v_at = k_at + q.kv_heads * head4 + d;
  var o = vec4f();
  var m = LOW;
  var sum = 0.0;
  for (var first = 0u; first < keys.y; first += BLOCK) {
    let count = min(BLOCK, keys.y - first);
    var top = m;
    for (var j = l; j < count; j += WX) {
      let s = score(query, k_at + row_of(keys.x, first + j) * width, head4);
      weights[j] = s;
      top = max(top, s);
    }
    top = highest(top, l);
    let alpha = exp(m - top);
    m = top;
    sum *= alpha;
    for (var j = l; j < count; j += WX) {
      let weight = exp(weights[j] - top);
      weights[j] = weight;
      sum += weight;
    }
    workgroupBarrier();
    o *= alpha;
    if (slice < slices) {
      for (var j = slice; j < count; j += slices) {
        o += weights[j] * vec4f(cache[v_at + row_of(keys.x, first + j) * width]);
      }
    }
    workgroupBarrier();
  }
  lanes[l] = sum;
  parts[l] = o;
  workgroupBarrier();
  if (l < head4) {
    var all = 0.0;
    for (var j = 0u; j < WX; j++) { all += lanes[j]; }
    var value = vec4f();
    for (var s = 0u; s < slices; s++) { value += parts[s * head4 + l]; }
    out[i * head4 + l] = T4(select(value / all, vec4f(), keys.y == 0u));
  }
}
