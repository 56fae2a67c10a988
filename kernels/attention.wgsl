// Causal grouped-query attention that never leaves a document, in one pass over the keys: nothing of size T x T is stored.
// Token t attends to key j iff document_start[t] <= j <= t (flat indices of the batch).
//
// qkv [rows, (heads + 2 kv_heads) * headDim]: query heads | key heads | value heads, after RoPE.
//   forward:      out[t, h] = softmax(q k / sqrt(headDim)) v,  lse[t, h] = log sum exp
//   delta:        delta[t, h] = dout . out
//   backward_q:   writes the query part of dqkv            an invocation a (query, head, chunk)
//   backward_kv:  writes the key and value parts of dqkv   an invocation a (key, kv head, chunk), summing over its queries
//
// An invocation owns a chunk of 32 of the head's dimensions in named registers (see matmul.wgsl for why no array), walks
// keys or queries one or two at a time (more makes drivers compile for many seconds) and forms their full dot products itself. Where the head ends inside the chunk, the
// registers beyond it gather numbers of no meaning, which are never stored: cheaper than a test at every load.
struct Params { rows: u32, heads: u32, kv_heads: u32, scale: f32, head4: u32 }
override WX: u32 = 4;

// the type of activations and of their gradients
alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> qkv: array<T4>;
@group(0) @binding(1) var<storage, read> document_start: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<T4>;
@group(0) @binding(3) var<storage, read_write> lse_out: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

const LOW = -1e30;

fn scores(q: u32, k0: u32, k1: u32, head4: u32) -> vec2f {
  var s0 = vec4f(); var s1 = vec4f();
  for (var d = 0u; d < head4; d++) {
    let x = vec4f(qkv[q + d]);
    s0 += x * vec4f(qkv[k0 + d]);
    s1 += x * vec4f(qkv[k1 + d]);
  }
  return vec2f(s0.x + s0.y + s0.z + s0.w, s1.x + s1.y + s1.z + s1.w);
}

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let head4 = p.head4;
  let i = id.x + id.y * groups.x * WX;
  let chunks = (head4 + 7u) / 8u;
  if (i >= p.rows * p.heads * chunks) { return; }
  let t = i % p.rows;
  let h = (i / p.rows) % p.heads;
  let own = (i / (p.rows * p.heads)) * 8u;
  let ld = (p.heads + 2u * p.kv_heads) * head4;
  let query = t * ld + h * head4;
  let k_at = (p.heads + h / (p.heads / p.kv_heads)) * head4;
  let to_v = p.kv_heads * head4 + own;
  var o0 = vec4f(); var o1 = vec4f(); var o2 = vec4f(); var o3 = vec4f(); var o4 = vec4f(); var o5 = vec4f(); var o6 = vec4f(); var o7 = vec4f();
  var m = LOW;
  var sum = 0.0;
  for (var j = document_start[t]; j <= t; j += 2u) {
    let k0 = k_at + j * ld;
    let k1 = k_at + min(j + 1u, t) * ld;
    let s = select(vec2f(LOW), scores(query, k0, k1, head4) * p.scale, vec2<bool>(j <= t, j + 1u <= t));
    let top = max(m, max(s.x, s.y));
    let alpha = exp(m - top);
    let w = exp(s - top);
    m = top;
    sum = sum * alpha + (w.x + w.y);
    let v0 = k0 + to_v;
    let v1 = k1 + to_v;
    o0 = o0 * alpha + w.x * vec4f(qkv[v0 + 0u]) + w.y * vec4f(qkv[v1 + 0u]);
    o1 = o1 * alpha + w.x * vec4f(qkv[v0 + 1u]) + w.y * vec4f(qkv[v1 + 1u]);
    o2 = o2 * alpha + w.x * vec4f(qkv[v0 + 2u]) + w.y * vec4f(qkv[v1 + 2u]);
    o3 = o3 * alpha + w.x * vec4f(qkv[v0 + 3u]) + w.y * vec4f(qkv[v1 + 3u]);
    o4 = o4 * alpha + w.x * vec4f(qkv[v0 + 4u]) + w.y * vec4f(qkv[v1 + 4u]);
    o5 = o5 * alpha + w.x * vec4f(qkv[v0 + 5u]) + w.y * vec4f(qkv[v1 + 5u]);
    o6 = o6 * alpha + w.x * vec4f(qkv[v0 + 6u]) + w.y * vec4f(qkv[v1 + 6u]);
    o7 = o7 * alpha + w.x * vec4f(qkv[v0 + 7u]) + w.y * vec4f(qkv[v1 + 7u]);
  }
  let at = (t * p.heads + h) * head4 + own;
  if (own + 0u < head4) { out[at + 0u] = T4(o0 / sum); }
  if (own + 1u < head4) { out[at + 1u] = T4(o1 / sum); }
  if (own + 2u < head4) { out[at + 2u] = T4(o2 / sum); }
  if (own + 3u < head4) { out[at + 3u] = T4(o3 / sum); }
  if (own + 4u < head4) { out[at + 4u] = T4(o4 / sum); }
  if (own + 5u < head4) { out[at + 5u] = T4(o5 / sum); }
  if (own + 6u < head4) { out[at + 6u] = T4(o6 / sum); }
  if (own + 7u < head4) { out[at + 7u] = T4(o7 / sum); }
  if (own == 0u) { lse_out[t * p.heads + h] = m + log(sum); }
}

@group(0) @binding(0) var<storage, read> out_in: array<T4>;
@group(0) @binding(1) var<storage, read> dout_in: array<T4>;
@group(0) @binding(2) var<storage, read_write> delta_out: array<f32>;
@group(0) @binding(3) var<uniform> pd: Params;

@compute @workgroup_size(WX)
fn delta(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let head4 = pd.head4;
  let i = id.x + id.y * groups.x * WX;
  if (i >= pd.rows * pd.heads) { return; }
  var sum = vec4f();
  for (var d = 0u; d < head4; d++) { sum += vec4f(out_in[i * head4 + d]) * vec4f(dout_in[i * head4 + d]); }
  delta_out[i] = sum.x + sum.y + sum.z + sum.w;
}

@group(0) @binding(2) var<storage, read> dout: array<T4>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> delta_in: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<T4>;
@group(0) @binding(6) var<uniform> pb: Params;

fn score(a: u32, b: u32, head4: u32) -> f32 {
  var s = vec4f();
  for (var d = 0u; d < head4; d++) { s += vec4f(qkv[a + d]) * vec4f(qkv[b + d]); }
  return s.x + s.y + s.z + s.w;
}

fn dout_value(a: u32, b: u32, head4: u32) -> f32 {
  var s = vec4f();
  for (var d = 0u; d < head4; d++) { s += vec4f(dout[a + d]) * vec4f(qkv[b + d]); }
  return s.x + s.y + s.z + s.w;
}

@compute @workgroup_size(WX)
fn backward_q(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let head4 = pb.head4;
  let i = id.x + id.y * groups.x * WX;
  let chunks = (head4 + 7u) / 8u;
  if (i >= pb.rows * pb.heads * chunks) { return; }
  let t = i % pb.rows;
  let h = (i / pb.rows) % pb.heads;
  let own = (i / (pb.rows * pb.heads)) * 8u;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let at = t * ld + h * head4;
  let k_at = (pb.heads + h / (pb.heads / pb.kv_heads)) * head4;
  let to_v = pb.kv_heads * head4;
  let row = t * pb.heads + h;
  var g0 = vec4f(); var g1 = vec4f(); var g2 = vec4f(); var g3 = vec4f(); var g4 = vec4f(); var g5 = vec4f(); var g6 = vec4f(); var g7 = vec4f();
  for (var j = document_start[t]; j <= t; j++) {
    let k0 = k_at + j * ld;
    let w = exp(score(at, k0, head4) * pb.scale - lse[row]);
    let ds = w * (dout_value(row * head4, k0 + to_v, head4) - delta_in[row]) * pb.scale;
    g0 += ds * vec4f(qkv[k0 + own + 0u]);
    g1 += ds * vec4f(qkv[k0 + own + 1u]);
    g2 += ds * vec4f(qkv[k0 + own + 2u]);
    g3 += ds * vec4f(qkv[k0 + own + 3u]);
    g4 += ds * vec4f(qkv[k0 + own + 4u]);
    g5 += ds * vec4f(qkv[k0 + own + 5u]);
    g6 += ds * vec4f(qkv[k0 + own + 6u]);
    g7 += ds * vec4f(qkv[k0 + own + 7u]);
  }
  if (own + 0u < head4) { dqkv[at + own + 0u] = T4(g0); }
  if (own + 1u < head4) { dqkv[at + own + 1u] = T4(g1); }
  if (own + 2u < head4) { dqkv[at + own + 2u] = T4(g2); }
  if (own + 3u < head4) { dqkv[at + own + 3u] = T4(g3); }
  if (own + 4u < head4) { dqkv[at + own + 4u] = T4(g4); }
  if (own + 5u < head4) { dqkv[at + own + 5u] = T4(g5); }
  if (own + 6u < head4) { dqkv[at + own + 6u] = T4(g6); }
  if (own + 7u < head4) { dqkv[at + own + 7u] = T4(g7); }
}

@compute @workgroup_size(WX)
fn backward_kv(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let head4 = pb.head4;
  let i = id.x + id.y * groups.x * WX;
  let chunks = (head4 + 7u) / 8u;
  if (i >= pb.rows * pb.kv_heads * chunks) { return; }
  let j = i % pb.rows;
  let kv = (i / pb.rows) % pb.kv_heads;
  let own = (i / (pb.rows * pb.kv_heads)) * 8u;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let k_at = j * ld + (pb.heads + kv) * head4;
  let v_at = k_at + pb.kv_heads * head4;
  let group = pb.heads / pb.kv_heads;
  var gk0 = vec4f(); var gk1 = vec4f(); var gk2 = vec4f(); var gk3 = vec4f(); var gk4 = vec4f(); var gk5 = vec4f(); var gk6 = vec4f(); var gk7 = vec4f();
  var gv0 = vec4f(); var gv1 = vec4f(); var gv2 = vec4f(); var gv3 = vec4f(); var gv4 = vec4f(); var gv5 = vec4f(); var gv6 = vec4f(); var gv7 = vec4f();
  for (var h = kv * group; h < (kv + 1u) * group; h++) {
    for (var t = j; t < pb.rows; t++) {
      // documents are contiguous: the first query outside j's document ends the walk
      if (document_start[t] > j) { break; }
      let row = t * pb.heads + h;
      let q0 = t * ld + h * head4;
      let d0 = row * head4;
      let w = exp(score(k_at, q0, head4) * pb.scale - lse[row]);
      let ds = w * (dout_value(d0, v_at, head4) - delta_in[row]) * pb.scale;
      gv0 += w * vec4f(dout[d0 + own + 0u]);
      gk0 += ds * vec4f(qkv[q0 + own + 0u]);
      gv1 += w * vec4f(dout[d0 + own + 1u]);
      gk1 += ds * vec4f(qkv[q0 + own + 1u]);
      gv2 += w * vec4f(dout[d0 + own + 2u]);
      gk2 += ds * vec4f(qkv[q0 + own + 2u]);
      gv3 += w * vec4f(dout[d0 + own + 3u]);
      gk3 += ds * vec4f(qkv[q0 + own + 3u]);
      gv4 += w * vec4f(dout[d0 + own + 4u]);
      gk4 += ds * vec4f(qkv[q0 + own + 4u]);
      gv5 += w * vec4f(dout[d0 + own + 5u]);
      gk5 += ds * vec4f(qkv[q0 + own + 5u]);
      gv6 += w * vec4f(dout[d0 + own + 6u]);
      gk6 += ds * vec4f(qkv[q0 + own + 6u]);
      gv7 += w * vec4f(dout[d0 + own + 7u]);
      gk7 += ds * vec4f(qkv[q0 + own + 7u]);
    }
  }
  if (own + 0u < head4) {
    dqkv[k_at + own + 0u] = T4(gk0);
    dqkv[v_at + own + 0u] = T4(gv0);
  }
  if (own + 1u < head4) {
    dqkv[k_at + own + 1u] = T4(gk1);
    dqkv[v_at + own + 1u] = T4(gv1);
  }
  if (own + 2u < head4) {
    dqkv[k_at + own + 2u] = T4(gk2);
    dqkv[v_at + own + 2u] = T4(gv2);
  }
  if (own + 3u < head4) {
    dqkv[k_at + own + 3u] = T4(gk3);
    dqkv[v_at + own + 3u] = T4(gv3);
  }
  if (own + 4u < head4) {
    dqkv[k_at + own + 4u] = T4(gk4);
    dqkv[v_at + own + 4u] = T4(gv4);
  }
  if (own + 5u < head4) {
    dqkv[k_at + own + 5u] = T4(gk5);
    dqkv[v_at + own + 5u] = T4(gv5);
  }
  if (own + 6u < head4) {
    dqkv[k_at + own + 6u] = T4(gk6);
    dqkv[v_at + own + 6u] = T4(gv6);
  }
  if (own + 7u < head4) {
    dqkv[k_at + own + 7u] = T4(gk7);
    dqkv[v_at + own + 7u] = T4(gv7);
  }
}
