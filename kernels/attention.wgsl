// Causal grouped-query attention that never leaves a document, in one pass over the keys: nothing of size T x T is stored.
// Token t attends to key j iff document_start[t] <= j <= t (flat indices of the batch).
//
// qkv [rows, (heads + 2 kv_heads) * headDim]: query heads | key heads | value heads, after RoPE.
//   forward:      out[t, h] = softmax(q k / sqrt(headDim)) v,  lse[t, h] = log sum exp
//   delta:        delta[t, h] = dout . out
//   backward_q:   writes the query part of dqkv            an invocation a (query, head, chunk)
//   backward_kv:  writes the key and value parts of dqkv   an invocation a (key, kv head, chunk), summing over its queries
//
// An invocation owns one chunk of 32 of the head's dimensions in named registers (see matmul.wgsl for why no array) and
// forms the full dot products itself, for 4 keys or queries at a time.
struct Params { rows: u32, heads: u32, kv_heads: u32, scale: f32 }
override WX: u32 = 4;
override HEAD4: u32 = 8;

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> document_start: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> lse_out: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

fn at4(at: u32, d: u32) -> vec4f {
  if (HEAD4 % 8u != 0u && d >= HEAD4) { return vec4f(); }
  return qkv[at + d];
}
fn put(at: u32, d: u32, v: vec4f) {
  if (HEAD4 % 8u != 0u && d >= HEAD4) { return; }
  out[at + d] = v;
}
fn dot8(at: u32, d: u32, q0: vec4f, q1: vec4f, q2: vec4f, q3: vec4f, q4: vec4f, q5: vec4f, q6: vec4f, q7: vec4f) -> f32 {
  let v = q0 * at4(at, d + 0u) + q1 * at4(at, d + 1u) + q2 * at4(at, d + 2u) + q3 * at4(at, d + 3u) + q4 * at4(at, d + 4u) + q5 * at4(at, d + 5u) + q6 * at4(at, d + 6u) + q7 * at4(at, d + 7u);
  return v.x + v.y + v.z + v.w;
}
/// q[query] . k for 4 keys
fn scores(query: u32, k0: u32, k1: u32, k2: u32, k3: u32) -> vec4f {
  var s = vec4f();
  for (var d = 0u; d < HEAD4; d += 8u) {
      let q0 = at4(query, d + 0u);
      let q1 = at4(query, d + 1u);
      let q2 = at4(query, d + 2u);
      let q3 = at4(query, d + 3u);
      let q4 = at4(query, d + 4u);
      let q5 = at4(query, d + 5u);
      let q6 = at4(query, d + 6u);
      let q7 = at4(query, d + 7u);
    s += vec4f(dot8(k0, d, q0, q1, q2, q3, q4, q5, q6, q7), dot8(k1, d, q0, q1, q2, q3, q4, q5, q6, q7), dot8(k2, d, q0, q1, q2, q3, q4, q5, q6, q7), dot8(k3, d, q0, q1, q2, q3, q4, q5, q6, q7));
  }
  return s;
}
const LOW = -1e30;
fn causal(j: u32, t: u32) -> vec4<bool> {
  return vec4<bool>(j <= t, j + 1u <= t, j + 2u <= t, j + 3u <= t);
}

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let chunks = (HEAD4 + 7u) / 8u;
  if (i >= p.rows * p.heads * chunks) { return; }
  let t = i % p.rows;
  let h = (i / p.rows) % p.heads;
  let own = (i / (p.rows * p.heads)) * 8u;
  let ld = (p.heads + 2u * p.kv_heads) * HEAD4;
  let query = t * ld + h * HEAD4;
  let k_at = (p.heads + h / (p.heads / p.kv_heads)) * HEAD4;
  let to_v = p.kv_heads * HEAD4;
  var o0 = vec4f(); var o1 = vec4f(); var o2 = vec4f(); var o3 = vec4f(); var o4 = vec4f(); var o5 = vec4f(); var o6 = vec4f(); var o7 = vec4f();
  var m = LOW;
  var sum = 0.0;
  for (var j = document_start[t]; j <= t; j += 4u) {
    let k0 = k_at + j * ld;
    let k1 = k_at + min(j + 1u, t) * ld;
    let k2 = k_at + min(j + 2u, t) * ld;
    let k3 = k_at + min(j + 3u, t) * ld;
    let s = select(vec4f(LOW), scores(query, k0, k1, k2, k3) * p.scale, causal(j, t));
    let top = max(m, max(max(s.x, s.y), max(s.z, s.w)));
    let alpha = exp(m - top);
    let w = exp(s - top);
    m = top;
    sum = sum * alpha + (w.x + w.y + w.z + w.w);
    let v0 = k0 + to_v;
    let v1 = k1 + to_v;
    let v2 = k2 + to_v;
    let v3 = k3 + to_v;
    o0 = o0 * alpha + w.x * at4(v0, own + 0u) + w.y * at4(v1, own + 0u) + w.z * at4(v2, own + 0u) + w.w * at4(v3, own + 0u);
    o1 = o1 * alpha + w.x * at4(v0, own + 1u) + w.y * at4(v1, own + 1u) + w.z * at4(v2, own + 1u) + w.w * at4(v3, own + 1u);
    o2 = o2 * alpha + w.x * at4(v0, own + 2u) + w.y * at4(v1, own + 2u) + w.z * at4(v2, own + 2u) + w.w * at4(v3, own + 2u);
    o3 = o3 * alpha + w.x * at4(v0, own + 3u) + w.y * at4(v1, own + 3u) + w.z * at4(v2, own + 3u) + w.w * at4(v3, own + 3u);
    o4 = o4 * alpha + w.x * at4(v0, own + 4u) + w.y * at4(v1, own + 4u) + w.z * at4(v2, own + 4u) + w.w * at4(v3, own + 4u);
    o5 = o5 * alpha + w.x * at4(v0, own + 5u) + w.y * at4(v1, own + 5u) + w.z * at4(v2, own + 5u) + w.w * at4(v3, own + 5u);
    o6 = o6 * alpha + w.x * at4(v0, own + 6u) + w.y * at4(v1, own + 6u) + w.z * at4(v2, own + 6u) + w.w * at4(v3, own + 6u);
    o7 = o7 * alpha + w.x * at4(v0, own + 7u) + w.y * at4(v1, own + 7u) + w.z * at4(v2, own + 7u) + w.w * at4(v3, own + 7u);
  }
  let at = (t * p.heads + h) * HEAD4;
  put(at, own + 0u, o0 / sum);
  put(at, own + 1u, o1 / sum);
  put(at, own + 2u, o2 / sum);
  put(at, own + 3u, o3 / sum);
  put(at, own + 4u, o4 / sum);
  put(at, own + 5u, o5 / sum);
  put(at, own + 6u, o6 / sum);
  put(at, own + 7u, o7 / sum);
  if (own == 0u) { lse_out[t * p.heads + h] = m + log(sum); }
}

@group(0) @binding(0) var<storage, read> out_in: array<vec4f>;
@group(0) @binding(1) var<storage, read> dout_in: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> delta_out: array<f32>;
@group(0) @binding(3) var<uniform> pd: Params;

@compute @workgroup_size(WX)
fn delta(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  if (i >= pd.rows * pd.heads) { return; }
  var sum = vec4f();
  for (var d = 0u; d < HEAD4; d++) { sum += out_in[i * HEAD4 + d] * dout_in[i * HEAD4 + d]; }
  delta_out[i] = sum.x + sum.y + sum.z + sum.w;
}

@group(0) @binding(2) var<storage, read> dout: array<vec4f>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> delta_in: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<vec4f>;
@group(0) @binding(6) var<uniform> pb: Params;

fn dout4(at: u32, d: u32) -> vec4f {
  if (HEAD4 % 8u != 0u && d >= HEAD4) { return vec4f(); }
  return dout[at + d];
}
fn put_d(at: u32, d: u32, v: vec4f) {
  if (HEAD4 % 8u != 0u && d >= HEAD4) { return; }
  dqkv[at + d] = v;
}
fn dot_dout(at: u32, value: u32) -> f32 {
  var v = vec4f();
  for (var d = 0u; d < HEAD4; d += 8u) {
    v += dout4(at, d + 0u) * at4(value, d + 0u) + dout4(at, d + 1u) * at4(value, d + 1u) + dout4(at, d + 2u) * at4(value, d + 2u) + dout4(at, d + 3u) * at4(value, d + 3u) + dout4(at, d + 4u) * at4(value, d + 4u) + dout4(at, d + 5u) * at4(value, d + 5u) + dout4(at, d + 6u) * at4(value, d + 6u) + dout4(at, d + 7u) * at4(value, d + 7u);
  }
  return v.x + v.y + v.z + v.w;
}

@compute @workgroup_size(WX)
fn backward_q(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let chunks = (HEAD4 + 7u) / 8u;
  if (i >= pb.rows * pb.heads * chunks) { return; }
  let t = i % pb.rows;
  let h = (i / pb.rows) % pb.heads;
  let own = (i / (pb.rows * pb.heads)) * 8u;
  let ld = (pb.heads + 2u * pb.kv_heads) * HEAD4;
  let at = t * ld + h * HEAD4;
  let k_at = (pb.heads + h / (pb.heads / pb.kv_heads)) * HEAD4;
  let to_v = pb.kv_heads * HEAD4;
  let row = t * pb.heads + h;
  var g0 = vec4f(); var g1 = vec4f(); var g2 = vec4f(); var g3 = vec4f(); var g4 = vec4f(); var g5 = vec4f(); var g6 = vec4f(); var g7 = vec4f();
  for (var j = document_start[t]; j <= t; j += 4u) {
    let k0 = k_at + j * ld;
    let k1 = k_at + min(j + 1u, t) * ld;
    let k2 = k_at + min(j + 2u, t) * ld;
    let k3 = k_at + min(j + 3u, t) * ld;
    let w = select(vec4f(), exp(scores(at, k0, k1, k2, k3) * pb.scale - lse[row]), causal(j, t));
    let dw = vec4f(dot_dout(row * HEAD4, k0 + to_v), dot_dout(row * HEAD4, k1 + to_v),
      dot_dout(row * HEAD4, k2 + to_v), dot_dout(row * HEAD4, k3 + to_v));
    let ds = w * (dw - delta_in[row]) * pb.scale;
    g0 += ds.x * at4(k0, own + 0u) + ds.y * at4(k1, own + 0u) + ds.z * at4(k2, own + 0u) + ds.w * at4(k3, own + 0u);
    g1 += ds.x * at4(k0, own + 1u) + ds.y * at4(k1, own + 1u) + ds.z * at4(k2, own + 1u) + ds.w * at4(k3, own + 1u);
    g2 += ds.x * at4(k0, own + 2u) + ds.y * at4(k1, own + 2u) + ds.z * at4(k2, own + 2u) + ds.w * at4(k3, own + 2u);
    g3 += ds.x * at4(k0, own + 3u) + ds.y * at4(k1, own + 3u) + ds.z * at4(k2, own + 3u) + ds.w * at4(k3, own + 3u);
    g4 += ds.x * at4(k0, own + 4u) + ds.y * at4(k1, own + 4u) + ds.z * at4(k2, own + 4u) + ds.w * at4(k3, own + 4u);
    g5 += ds.x * at4(k0, own + 5u) + ds.y * at4(k1, own + 5u) + ds.z * at4(k2, own + 5u) + ds.w * at4(k3, own + 5u);
    g6 += ds.x * at4(k0, own + 6u) + ds.y * at4(k1, own + 6u) + ds.z * at4(k2, own + 6u) + ds.w * at4(k3, own + 6u);
    g7 += ds.x * at4(k0, own + 7u) + ds.y * at4(k1, own + 7u) + ds.z * at4(k2, own + 7u) + ds.w * at4(k3, own + 7u);
  }
  put_d(at, own + 0u, g0);
  put_d(at, own + 1u, g1);
  put_d(at, own + 2u, g2);
  put_d(at, own + 3u, g3);
  put_d(at, own + 4u, g4);
  put_d(at, own + 5u, g5);
  put_d(at, own + 6u, g6);
  put_d(at, own + 7u, g7);
}

@compute @workgroup_size(WX)
fn backward_kv(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let chunks = (HEAD4 + 7u) / 8u;
  if (i >= pb.rows * pb.kv_heads * chunks) { return; }
  let j = i % pb.rows;
  let kv = (i / pb.rows) % pb.kv_heads;
  let own = (i / (pb.rows * pb.kv_heads)) * 8u;
  let ld = (pb.heads + 2u * pb.kv_heads) * HEAD4;
  let k_at = j * ld + (pb.heads + kv) * HEAD4;
  let v_at = k_at + pb.kv_heads * HEAD4;
  let group = pb.heads / pb.kv_heads;
  let last = pb.rows - 1u;
  var gk0 = vec4f(); var gk1 = vec4f(); var gk2 = vec4f(); var gk3 = vec4f(); var gk4 = vec4f(); var gk5 = vec4f(); var gk6 = vec4f(); var gk7 = vec4f();
  var gv0 = vec4f(); var gv1 = vec4f(); var gv2 = vec4f(); var gv3 = vec4f(); var gv4 = vec4f(); var gv5 = vec4f(); var gv6 = vec4f(); var gv7 = vec4f();
  for (var h = kv * group; h < (kv + 1u) * group; h++) {
    for (var t = j; t < pb.rows; t += 4u) {
      // documents are contiguous: the first query of the block outside j's document ends the walk
      if (document_start[t] > j) { break; }
      let t1 = min(t + 1u, last);
      let t2 = min(t + 2u, last);
      let t3 = min(t + 3u, last);
      let seen = vec4<bool>(true, t + 1u <= last && document_start[t1] <= j,
        t + 2u <= last && document_start[t2] <= j, t + 3u <= last && document_start[t3] <= j);
      let q0 = t * ld + h * HEAD4;
      let q1 = t1 * ld + h * HEAD4;
      let q2 = t2 * ld + h * HEAD4;
      let q3 = t3 * ld + h * HEAD4;
      let r = vec4u(t, t1, t2, t3) * pb.heads + h;
      let l = vec4f(lse[r.x], lse[r.y], lse[r.z], lse[r.w]);
      let w = select(vec4f(), exp(scores(k_at, q0, q1, q2, q3) * pb.scale - l), seen);
      let d0 = r.x * HEAD4;
      let d1 = r.y * HEAD4;
      let d2 = r.z * HEAD4;
      let d3 = r.w * HEAD4;
      let dw = vec4f(dot_dout(d0, v_at), dot_dout(d1, v_at), dot_dout(d2, v_at), dot_dout(d3, v_at));
      let de = vec4f(delta_in[r.x], delta_in[r.y], delta_in[r.z], delta_in[r.w]);
      let ds = w * (dw - de) * pb.scale;
      gv0 += w.x * dout4(d0, own + 0u) + w.y * dout4(d1, own + 0u) + w.z * dout4(d2, own + 0u) + w.w * dout4(d3, own + 0u);
      gk0 += ds.x * at4(q0, own + 0u) + ds.y * at4(q1, own + 0u) + ds.z * at4(q2, own + 0u) + ds.w * at4(q3, own + 0u);
      gv1 += w.x * dout4(d0, own + 1u) + w.y * dout4(d1, own + 1u) + w.z * dout4(d2, own + 1u) + w.w * dout4(d3, own + 1u);
      gk1 += ds.x * at4(q0, own + 1u) + ds.y * at4(q1, own + 1u) + ds.z * at4(q2, own + 1u) + ds.w * at4(q3, own + 1u);
      gv2 += w.x * dout4(d0, own + 2u) + w.y * dout4(d1, own + 2u) + w.z * dout4(d2, own + 2u) + w.w * dout4(d3, own + 2u);
      gk2 += ds.x * at4(q0, own + 2u) + ds.y * at4(q1, own + 2u) + ds.z * at4(q2, own + 2u) + ds.w * at4(q3, own + 2u);
      gv3 += w.x * dout4(d0, own + 3u) + w.y * dout4(d1, own + 3u) + w.z * dout4(d2, own + 3u) + w.w * dout4(d3, own + 3u);
      gk3 += ds.x * at4(q0, own + 3u) + ds.y * at4(q1, own + 3u) + ds.z * at4(q2, own + 3u) + ds.w * at4(q3, own + 3u);
      gv4 += w.x * dout4(d0, own + 4u) + w.y * dout4(d1, own + 4u) + w.z * dout4(d2, own + 4u) + w.w * dout4(d3, own + 4u);
      gk4 += ds.x * at4(q0, own + 4u) + ds.y * at4(q1, own + 4u) + ds.z * at4(q2, own + 4u) + ds.w * at4(q3, own + 4u);
      gv5 += w.x * dout4(d0, own + 5u) + w.y * dout4(d1, own + 5u) + w.z * dout4(d2, own + 5u) + w.w * dout4(d3, own + 5u);
      gk5 += ds.x * at4(q0, own + 5u) + ds.y * at4(q1, own + 5u) + ds.z * at4(q2, own + 5u) + ds.w * at4(q3, own + 5u);
      gv6 += w.x * dout4(d0, own + 6u) + w.y * dout4(d1, own + 6u) + w.z * dout4(d2, own + 6u) + w.w * dout4(d3, own + 6u);
      gk6 += ds.x * at4(q0, own + 6u) + ds.y * at4(q1, own + 6u) + ds.z * at4(q2, own + 6u) + ds.w * at4(q3, own + 6u);
      gv7 += w.x * dout4(d0, own + 7u) + w.y * dout4(d1, own + 7u) + w.z * dout4(d2, own + 7u) + w.w * dout4(d3, own + 7u);
      gk7 += ds.x * at4(q0, own + 7u) + ds.y * at4(q1, own + 7u) + ds.z * at4(q2, own + 7u) + ds.w * at4(q3, own + 7u);
    }
  }
  put_d(k_at, own + 0u, gk0);
  put_d(v_at, own + 0u, gv0);
  put_d(k_at, own + 1u, gk1);
  put_d(v_at, own + 1u, gv1);
  put_d(k_at, own + 2u, gk2);
  put_d(v_at, own + 2u, gv2);
  put_d(k_at, own + 3u, gk3);
  put_d(v_at, own + 3u, gv3);
  put_d(k_at, own + 4u, gk4);
  put_d(v_at, own + 4u, gv4);
  put_d(k_at, own + 5u, gk5);
  put_d(v_at, own + 5u, gv5);
  put_d(k_at, own + 6u, gk6);
  put_d(v_at, own + 6u, gv6);
  put_d(k_at, own + 7u, gk7);
  put_d(v_at, own + 7u, gv7);
}
