// The attention of attention.wgsl for CPU adapters with subgroups of 4 or 8 lanes (WX): a workgroup is one subgroup and owns
// WX tokens of a head, and 8 * WX of the head's dimensions. It walks the other side WX tokens at a time: a lane forms the
// products of its token there with all tokens of the tile, which reach it by broadcast; then lanes are dimensions, and
// weights reach them by broadcast. So a row that is loaded serves WX tokens.
//
// Bindings, layout and meaning are those of attention.wgsl. Where the head ends inside a workgroup's dimensions, registers
// beyond it gather numbers of no meaning, which are never stored.
//
// It is unrolled by hand: what would be an array over the WX tokens of a tile is a register each (m0 to m7 for m[0] to m[7]),
// since compilers of CPU adapters keep arrays that are indexed in memory. Two rules, which test/gpu/unrolled.test.ts checks:
// - a statement on registers of one number stands once for each number from 0 to 7, those from 4 on under if (WX == 8u);
// - a block that reads token first + n of the tile stands once for each n, and differs in nothing but n.
// To change one, change the copy of number 0, then the others after it; the test names a copy that differs.
enable subgroups;
struct Params { rows: u32, heads: u32, kv_heads: u32, scale: f32, head4: u32 }
override WX: u32 = 8;

// the type of activations and of their gradients
alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> qkv: array<T4>;
@group(0) @binding(1) var<storage, read> document_start: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<T4>;
@group(0) @binding(3) var<storage, read_write> lse_out: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

const LOW = -1e30;

fn finish(t: u32, h: u32, own: u32, m: f32, sum: f32, o: vec4f, u: vec4f) {
  if (t >= p.rows) { return; }
  let at = (t * p.heads + h) * p.head4 + own;
  if (own < p.head4) { out[at] = T4(o / sum); }
  if (own + WX < p.head4) { out[at + WX] = T4(u / sum); }
  if (own == 0u) { lse_out[t * p.heads + h] = m + log(sum); }
}

@compute @workgroup_size(WX)
fn forward(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32
) {
  let head4 = p.head4;
  let tiles = (p.rows + WX - 1u) / WX;
  let i = group.x + group.y * groups.x;
  if (i >= tiles * p.heads * ((head4 + 2u * WX - 1u) / (2u * WX))) { return; }
  let tile = (i % tiles) * WX;
  let h = (i / tiles) % p.heads;
  let own = (i / (tiles * p.heads)) * 2u * WX + lane;
  let wide = head4 > WX;
  let ld = (p.heads + 2u * p.kv_heads) * head4;
  let mine = min(tile + lane, p.rows - 1u);
  let query = mine * ld + h * head4;
  let begin = document_start[mine];
  let k_at = (p.heads + h / (p.heads / p.kv_heads)) * head4;
  let v_at = k_at + p.kv_heads * head4 + own;
  var m0 = LOW; var m1 = LOW; var m2 = LOW; var m3 = LOW; var m4 = LOW; var m5 = LOW; var m6 = LOW; var m7 = LOW;
  var z0 = 0.0; var z1 = 0.0; var z2 = 0.0; var z3 = 0.0; var z4 = 0.0; var z5 = 0.0; var z6 = 0.0; var z7 = 0.0;
  var o0 = vec4f(); var o1 = vec4f(); var o2 = vec4f(); var o3 = vec4f(); var o4 = vec4f(); var o5 = vec4f(); var o6 = vec4f(); var o7 = vec4f();
  var u0 = vec4f(); var u1 = vec4f(); var u2 = vec4f(); var u3 = vec4f(); var u4 = vec4f(); var u5 = vec4f(); var u6 = vec4f(); var u7 = vec4f();
  let end = min(tile + WX, p.rows);
  for (var first = document_start[tile]; first < end; first += WX) {
    let j = first + lane;
    let key = k_at + min(j, p.rows - 1u) * ld;
    var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0; var s4 = 0.0; var s5 = 0.0; var s6 = 0.0; var s7 = 0.0;
    for (var d = 0u; d < head4; d++) {
      let x = vec4f(qkv[query + d]);
      let k = vec4f(qkv[key + d]);
      s0 += dot(subgroupBroadcast(x, 0u), k);
      s1 += dot(subgroupBroadcast(x, 1u), k);
      s2 += dot(subgroupBroadcast(x, 2u), k);
      s3 += dot(subgroupBroadcast(x, 3u), k);
      if (WX == 8u) {
        s4 += dot(subgroupBroadcast(x, 4u), k);
        s5 += dot(subgroupBroadcast(x, 5u), k);
        s6 += dot(subgroupBroadcast(x, 6u), k);
        s7 += dot(subgroupBroadcast(x, 7u), k);
      }
    }
    { let since = subgroupBroadcast(begin, 0u); let on = j < end && j >= since && j <= tile;
      let score = select(LOW, s0 * p.scale, on); let top = max(m0, subgroupMax(score)); let fade = exp(m0 - top);
      s0 = select(0.0, exp(score - top), on); m0 = top; z0 = z0 * fade + s0; o0 *= fade; u0 *= fade; }
    { let since = subgroupBroadcast(begin, 1u); let on = j < end && j >= since && j <= tile + 1u;
      let score = select(LOW, s1 * p.scale, on); let top = max(m1, subgroupMax(score)); let fade = exp(m1 - top);
      s1 = select(0.0, exp(score - top), on); m1 = top; z1 = z1 * fade + s1; o1 *= fade; u1 *= fade; }
    { let since = subgroupBroadcast(begin, 2u); let on = j < end && j >= since && j <= tile + 2u;
      let score = select(LOW, s2 * p.scale, on); let top = max(m2, subgroupMax(score)); let fade = exp(m2 - top);
      s2 = select(0.0, exp(score - top), on); m2 = top; z2 = z2 * fade + s2; o2 *= fade; u2 *= fade; }
    { let since = subgroupBroadcast(begin, 3u); let on = j < end && j >= since && j <= tile + 3u;
      let score = select(LOW, s3 * p.scale, on); let top = max(m3, subgroupMax(score)); let fade = exp(m3 - top);
      s3 = select(0.0, exp(score - top), on); m3 = top; z3 = z3 * fade + s3; o3 *= fade; u3 *= fade; }
    if (WX == 8u) {
      { let since = subgroupBroadcast(begin, 4u); let on = j < end && j >= since && j <= tile + 4u;
      let score = select(LOW, s4 * p.scale, on); let top = max(m4, subgroupMax(score)); let fade = exp(m4 - top);
      s4 = select(0.0, exp(score - top), on); m4 = top; z4 = z4 * fade + s4; o4 *= fade; u4 *= fade; }
      { let since = subgroupBroadcast(begin, 5u); let on = j < end && j >= since && j <= tile + 5u;
      let score = select(LOW, s5 * p.scale, on); let top = max(m5, subgroupMax(score)); let fade = exp(m5 - top);
      s5 = select(0.0, exp(score - top), on); m5 = top; z5 = z5 * fade + s5; o5 *= fade; u5 *= fade; }
      { let since = subgroupBroadcast(begin, 6u); let on = j < end && j >= since && j <= tile + 6u;
      let score = select(LOW, s6 * p.scale, on); let top = max(m6, subgroupMax(score)); let fade = exp(m6 - top);
      s6 = select(0.0, exp(score - top), on); m6 = top; z6 = z6 * fade + s6; o6 *= fade; u6 *= fade; }
      { let since = subgroupBroadcast(begin, 7u); let on = j < end && j >= since && j <= tile + 7u;
      let score = select(LOW, s7 * p.scale, on); let top = max(m7, subgroupMax(score)); let fade = exp(m7 - top);
      s7 = select(0.0, exp(score - top), on); m7 = top; z7 = z7 * fade + s7; o7 *= fade; u7 *= fade; }
    }
    {
      let at = v_at + min(first, p.rows - 1u) * ld;
      let v = vec4f(qkv[at]);
      o0 += subgroupBroadcast(s0, 0u) * v;
      o1 += subgroupBroadcast(s1, 0u) * v;
      o2 += subgroupBroadcast(s2, 0u) * v;
      o3 += subgroupBroadcast(s3, 0u) * v;
      if (WX == 8u) {
        o4 += subgroupBroadcast(s4, 0u) * v;
        o5 += subgroupBroadcast(s5, 0u) * v;
        o6 += subgroupBroadcast(s6, 0u) * v;
        o7 += subgroupBroadcast(s7, 0u) * v;
      }
      if (wide) {
        let w = vec4f(qkv[at + WX]);
        u0 += subgroupBroadcast(s0, 0u) * w;
        u1 += subgroupBroadcast(s1, 0u) * w;
        u2 += subgroupBroadcast(s2, 0u) * w;
        u3 += subgroupBroadcast(s3, 0u) * w;
        if (WX == 8u) {
          u4 += subgroupBroadcast(s4, 0u) * w;
          u5 += subgroupBroadcast(s5, 0u) * w;
          u6 += subgroupBroadcast(s6, 0u) * w;
          u7 += subgroupBroadcast(s7, 0u) * w;
        }
      }
    }
    {
      let at = v_at + min(first + 1u, p.rows - 1u) * ld;
      let v = vec4f(qkv[at]);
      o0 += subgroupBroadcast(s0, 1u) * v;
      o1 += subgroupBroadcast(s1, 1u) * v;
      o2 += subgroupBroadcast(s2, 1u) * v;
      o3 += subgroupBroadcast(s3, 1u) * v;
      if (WX == 8u) {
        o4 += subgroupBroadcast(s4, 1u) * v;
        o5 += subgroupBroadcast(s5, 1u) * v;
        o6 += subgroupBroadcast(s6, 1u) * v;
        o7 += subgroupBroadcast(s7, 1u) * v;
      }
      if (wide) {
        let w = vec4f(qkv[at + WX]);
        u0 += subgroupBroadcast(s0, 1u) * w;
        u1 += subgroupBroadcast(s1, 1u) * w;
        u2 += subgroupBroadcast(s2, 1u) * w;
        u3 += subgroupBroadcast(s3, 1u) * w;
        if (WX == 8u) {
          u4 += subgroupBroadcast(s4, 1u) * w;
          u5 += subgroupBroadcast(s5, 1u) * w;
          u6 += subgroupBroadcast(s6, 1u) * w;
          u7 += subgroupBroadcast(s7, 1u) * w;
        }
      }
    }
    {
      let at = v_at + min(first + 2u, p.rows - 1u) * ld;
      let v = vec4f(qkv[at]);
      o0 += subgroupBroadcast(s0, 2u) * v;
      o1 += subgroupBroadcast(s1, 2u) * v;
      o2 += subgroupBroadcast(s2, 2u) * v;
      o3 += subgroupBroadcast(s3, 2u) * v;
      if (WX == 8u) {
        o4 += subgroupBroadcast(s4, 2u) * v;
        o5 += subgroupBroadcast(s5, 2u) * v;
        o6 += subgroupBroadcast(s6, 2u) * v;
        o7 += subgroupBroadcast(s7, 2u) * v;
      }
      if (wide) {
        let w = vec4f(qkv[at + WX]);
        u0 += subgroupBroadcast(s0, 2u) * w;
        u1 += subgroupBroadcast(s1, 2u) * w;
        u2 += subgroupBroadcast(s2, 2u) * w;
        u3 += subgroupBroadcast(s3, 2u) * w;
        if (WX == 8u) {
          u4 += subgroupBroadcast(s4, 2u) * w;
          u5 += subgroupBroadcast(s5, 2u) * w;
          u6 += subgroupBroadcast(s6, 2u) * w;
          u7 += subgroupBroadcast(s7, 2u) * w;
        }
      }
    }
    {
      let at = v_at + min(first + 3u, p.rows - 1u) * ld;
      let v = vec4f(qkv[at]);
      o0 += subgroupBroadcast(s0, 3u) * v;
      o1 += subgroupBroadcast(s1, 3u) * v;
      o2 += subgroupBroadcast(s2, 3u) * v;
      o3 += subgroupBroadcast(s3, 3u) * v;
      if (WX == 8u) {
        o4 += subgroupBroadcast(s4, 3u) * v;
        o5 += subgroupBroadcast(s5, 3u) * v;
        o6 += subgroupBroadcast(s6, 3u) * v;
        o7 += subgroupBroadcast(s7, 3u) * v;
      }
      if (wide) {
        let w = vec4f(qkv[at + WX]);
        u0 += subgroupBroadcast(s0, 3u) * w;
        u1 += subgroupBroadcast(s1, 3u) * w;
        u2 += subgroupBroadcast(s2, 3u) * w;
        u3 += subgroupBroadcast(s3, 3u) * w;
        if (WX == 8u) {
          u4 += subgroupBroadcast(s4, 3u) * w;
          u5 += subgroupBroadcast(s5, 3u) * w;
          u6 += subgroupBroadcast(s6, 3u) * w;
          u7 += subgroupBroadcast(s7, 3u) * w;
        }
      }
    }
    if (WX == 8u) {
      {
        let at = v_at + min(first + 4u, p.rows - 1u) * ld;
        let v = vec4f(qkv[at]);
        o0 += subgroupBroadcast(s0, 4u) * v;
        o1 += subgroupBroadcast(s1, 4u) * v;
        o2 += subgroupBroadcast(s2, 4u) * v;
        o3 += subgroupBroadcast(s3, 4u) * v;
        if (WX == 8u) {
          o4 += subgroupBroadcast(s4, 4u) * v;
          o5 += subgroupBroadcast(s5, 4u) * v;
          o6 += subgroupBroadcast(s6, 4u) * v;
          o7 += subgroupBroadcast(s7, 4u) * v;
        }
        if (wide) {
          let w = vec4f(qkv[at + WX]);
          u0 += subgroupBroadcast(s0, 4u) * w;
          u1 += subgroupBroadcast(s1, 4u) * w;
          u2 += subgroupBroadcast(s2, 4u) * w;
          u3 += subgroupBroadcast(s3, 4u) * w;
          if (WX == 8u) {
            u4 += subgroupBroadcast(s4, 4u) * w;
            u5 += subgroupBroadcast(s5, 4u) * w;
            u6 += subgroupBroadcast(s6, 4u) * w;
            u7 += subgroupBroadcast(s7, 4u) * w;
          }
        }
      }
      {
        let at = v_at + min(first + 5u, p.rows - 1u) * ld;
        let v = vec4f(qkv[at]);
        o0 += subgroupBroadcast(s0, 5u) * v;
        o1 += subgroupBroadcast(s1, 5u) * v;
        o2 += subgroupBroadcast(s2, 5u) * v;
        o3 += subgroupBroadcast(s3, 5u) * v;
        if (WX == 8u) {
          o4 += subgroupBroadcast(s4, 5u) * v;
          o5 += subgroupBroadcast(s5, 5u) * v;
          o6 += subgroupBroadcast(s6, 5u) * v;
          o7 += subgroupBroadcast(s7, 5u) * v;
        }
        if (wide) {
          let w = vec4f(qkv[at + WX]);
          u0 += subgroupBroadcast(s0, 5u) * w;
          u1 += subgroupBroadcast(s1, 5u) * w;
          u2 += subgroupBroadcast(s2, 5u) * w;
          u3 += subgroupBroadcast(s3, 5u) * w;
          if (WX == 8u) {
            u4 += subgroupBroadcast(s4, 5u) * w;
            u5 += subgroupBroadcast(s5, 5u) * w;
            u6 += subgroupBroadcast(s6, 5u) * w;
            u7 += subgroupBroadcast(s7, 5u) * w;
          }
        }
      }
      {
        let at = v_at + min(first + 6u, p.rows - 1u) * ld;
        let v = vec4f(qkv[at]);
        o0 += subgroupBroadcast(s0, 6u) * v;
        o1 += subgroupBroadcast(s1, 6u) * v;
        o2 += subgroupBroadcast(s2, 6u) * v;
        o3 += subgroupBroadcast(s3, 6u) * v;
        if (WX == 8u) {
          o4 += subgroupBroadcast(s4, 6u) * v;
          o5 += subgroupBroadcast(s5, 6u) * v;
          o6 += subgroupBroadcast(s6, 6u) * v;
          o7 += subgroupBroadcast(s7, 6u) * v;
        }
        if (wide) {
          let w = vec4f(qkv[at + WX]);
          u0 += subgroupBroadcast(s0, 6u) * w;
          u1 += subgroupBroadcast(s1, 6u) * w;
          u2 += subgroupBroadcast(s2, 6u) * w;
          u3 += subgroupBroadcast(s3, 6u) * w;
          if (WX == 8u) {
            u4 += subgroupBroadcast(s4, 6u) * w;
            u5 += subgroupBroadcast(s5, 6u) * w;
            u6 += subgroupBroadcast(s6, 6u) * w;
            u7 += subgroupBroadcast(s7, 6u) * w;
          }
        }
      }
      {
        let at = v_at + min(first + 7u, p.rows - 1u) * ld;
        let v = vec4f(qkv[at]);
        o0 += subgroupBroadcast(s0, 7u) * v;
        o1 += subgroupBroadcast(s1, 7u) * v;
        o2 += subgroupBroadcast(s2, 7u) * v;
        o3 += subgroupBroadcast(s3, 7u) * v;
        if (WX == 8u) {
          o4 += subgroupBroadcast(s4, 7u) * v;
          o5 += subgroupBroadcast(s5, 7u) * v;
          o6 += subgroupBroadcast(s6, 7u) * v;
          o7 += subgroupBroadcast(s7, 7u) * v;
        }
        if (wide) {
          let w = vec4f(qkv[at + WX]);
          u0 += subgroupBroadcast(s0, 7u) * w;
          u1 += subgroupBroadcast(s1, 7u) * w;
          u2 += subgroupBroadcast(s2, 7u) * w;
          u3 += subgroupBroadcast(s3, 7u) * w;
          if (WX == 8u) {
            u4 += subgroupBroadcast(s4, 7u) * w;
            u5 += subgroupBroadcast(s5, 7u) * w;
            u6 += subgroupBroadcast(s6, 7u) * w;
            u7 += subgroupBroadcast(s7, 7u) * w;
          }
        }
      }
    }
  }
  finish(tile, h, own, m0, subgroupAdd(z0), o0, u0);
  finish(tile + 1u, h, own, m1, subgroupAdd(z1), o1, u1);
  finish(tile + 2u, h, own, m2, subgroupAdd(z2), o2, u2);
  finish(tile + 3u, h, own, m3, subgroupAdd(z3), o3, u3);
  if (WX == 8u) {
    finish(tile + 4u, h, own, m4, subgroupAdd(z4), o4, u4);
    finish(tile + 5u, h, own, m5, subgroupAdd(z5), o5, u5);
    finish(tile + 6u, h, own, m6, subgroupAdd(z6), o6, u6);
    finish(tile + 7u, h, own, m7, subgroupAdd(z7), o7, u7);
  }
}

@group(0) @binding(2) var<storage, read> dout: array<T4>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<T4>;
@group(0) @binding(6) var<uniform> pb: Params;

fn store(on: bool, at: u32, own: u32, a: vec4f, b: vec4f) {
  if (!on) { return; }
  if (own < pb.head4) { dqkv[at + own] = T4(a); }
  if (own + WX < pb.head4) { dqkv[at + own + WX] = T4(b); }
}

@compute @workgroup_size(WX)
fn backward_q(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32
) {
  let head4 = pb.head4;
  let tiles = (pb.rows + WX - 1u) / WX;
  let i = group.x + group.y * groups.x;
  if (i >= tiles * pb.heads * ((head4 + 2u * WX - 1u) / (2u * WX))) { return; }
  let tile = (i % tiles) * WX;
  let h = (i / tiles) % pb.heads;
  let own = (i / (tiles * pb.heads)) * 2u * WX + lane;
  let wide = head4 > WX;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let mine = min(tile + lane, pb.rows - 1u);
  let query = mine * ld + h * head4;
  let row = mine * pb.heads + h;
  let begin = document_start[mine];
  let norm = lse[row];
  let mean = delta[row];
  let k_at = (pb.heads + h / (pb.heads / pb.kv_heads)) * head4;
  let to_v = pb.kv_heads * head4;
  var g0 = vec4f(); var g1 = vec4f(); var g2 = vec4f(); var g3 = vec4f(); var g4 = vec4f(); var g5 = vec4f(); var g6 = vec4f(); var g7 = vec4f();
  var e0 = vec4f(); var e1 = vec4f(); var e2 = vec4f(); var e3 = vec4f(); var e4 = vec4f(); var e5 = vec4f(); var e6 = vec4f(); var e7 = vec4f();
  let end = min(tile + WX, pb.rows);
  for (var first = document_start[tile]; first < end; first += WX) {
    let j = first + lane;
    let key = k_at + min(j, pb.rows - 1u) * ld;
    var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0; var s4 = 0.0; var s5 = 0.0; var s6 = 0.0; var s7 = 0.0;
    var d0 = 0.0; var d1 = 0.0; var d2 = 0.0; var d3 = 0.0; var d4 = 0.0; var d5 = 0.0; var d6 = 0.0; var d7 = 0.0;
    for (var i4 = 0u; i4 < head4; i4++) {
      let x = vec4f(qkv[query + i4]);
      let y = vec4f(dout[row * head4 + i4]);
      let k = vec4f(qkv[key + i4]);
      let v = vec4f(qkv[key + to_v + i4]);
      s0 += dot(subgroupBroadcast(x, 0u), k); d0 += dot(subgroupBroadcast(y, 0u), v);
      s1 += dot(subgroupBroadcast(x, 1u), k); d1 += dot(subgroupBroadcast(y, 1u), v);
      s2 += dot(subgroupBroadcast(x, 2u), k); d2 += dot(subgroupBroadcast(y, 2u), v);
      s3 += dot(subgroupBroadcast(x, 3u), k); d3 += dot(subgroupBroadcast(y, 3u), v);
      if (WX == 8u) {
        s4 += dot(subgroupBroadcast(x, 4u), k); d4 += dot(subgroupBroadcast(y, 4u), v);
        s5 += dot(subgroupBroadcast(x, 5u), k); d5 += dot(subgroupBroadcast(y, 5u), v);
        s6 += dot(subgroupBroadcast(x, 6u), k); d6 += dot(subgroupBroadcast(y, 6u), v);
        s7 += dot(subgroupBroadcast(x, 7u), k); d7 += dot(subgroupBroadcast(y, 7u), v);
      }
    }
    { let since = subgroupBroadcast(begin, 0u); let on = j < end && j >= since && j <= tile;
      let weight = exp(s0 * pb.scale - subgroupBroadcast(norm, 0u));
      s0 = select(0.0, weight * (d0 - subgroupBroadcast(mean, 0u)) * pb.scale, on); }
    { let since = subgroupBroadcast(begin, 1u); let on = j < end && j >= since && j <= tile + 1u;
      let weight = exp(s1 * pb.scale - subgroupBroadcast(norm, 1u));
      s1 = select(0.0, weight * (d1 - subgroupBroadcast(mean, 1u)) * pb.scale, on); }
    { let since = subgroupBroadcast(begin, 2u); let on = j < end && j >= since && j <= tile + 2u;
      let weight = exp(s2 * pb.scale - subgroupBroadcast(norm, 2u));
      s2 = select(0.0, weight * (d2 - subgroupBroadcast(mean, 2u)) * pb.scale, on); }
    { let since = subgroupBroadcast(begin, 3u); let on = j < end && j >= since && j <= tile + 3u;
      let weight = exp(s3 * pb.scale - subgroupBroadcast(norm, 3u));
      s3 = select(0.0, weight * (d3 - subgroupBroadcast(mean, 3u)) * pb.scale, on); }
    if (WX == 8u) {
      { let since = subgroupBroadcast(begin, 4u); let on = j < end && j >= since && j <= tile + 4u;
      let weight = exp(s4 * pb.scale - subgroupBroadcast(norm, 4u));
      s4 = select(0.0, weight * (d4 - subgroupBroadcast(mean, 4u)) * pb.scale, on); }
      { let since = subgroupBroadcast(begin, 5u); let on = j < end && j >= since && j <= tile + 5u;
      let weight = exp(s5 * pb.scale - subgroupBroadcast(norm, 5u));
      s5 = select(0.0, weight * (d5 - subgroupBroadcast(mean, 5u)) * pb.scale, on); }
      { let since = subgroupBroadcast(begin, 6u); let on = j < end && j >= since && j <= tile + 6u;
      let weight = exp(s6 * pb.scale - subgroupBroadcast(norm, 6u));
      s6 = select(0.0, weight * (d6 - subgroupBroadcast(mean, 6u)) * pb.scale, on); }
      { let since = subgroupBroadcast(begin, 7u); let on = j < end && j >= since && j <= tile + 7u;
      let weight = exp(s7 * pb.scale - subgroupBroadcast(norm, 7u));
      s7 = select(0.0, weight * (d7 - subgroupBroadcast(mean, 7u)) * pb.scale, on); }
    }
    {
      let at = k_at + min(first, pb.rows - 1u) * ld + own;
      let k = vec4f(qkv[at]);
      g0 += subgroupBroadcast(s0, 0u) * k;
      g1 += subgroupBroadcast(s1, 0u) * k;
      g2 += subgroupBroadcast(s2, 0u) * k;
      g3 += subgroupBroadcast(s3, 0u) * k;
      if (WX == 8u) {
        g4 += subgroupBroadcast(s4, 0u) * k;
        g5 += subgroupBroadcast(s5, 0u) * k;
        g6 += subgroupBroadcast(s6, 0u) * k;
        g7 += subgroupBroadcast(s7, 0u) * k;
      }
      if (wide) {
        let k_ = vec4f(qkv[at + WX]);
        e0 += subgroupBroadcast(s0, 0u) * k_;
        e1 += subgroupBroadcast(s1, 0u) * k_;
        e2 += subgroupBroadcast(s2, 0u) * k_;
        e3 += subgroupBroadcast(s3, 0u) * k_;
        if (WX == 8u) {
          e4 += subgroupBroadcast(s4, 0u) * k_;
          e5 += subgroupBroadcast(s5, 0u) * k_;
          e6 += subgroupBroadcast(s6, 0u) * k_;
          e7 += subgroupBroadcast(s7, 0u) * k_;
        }
      }
    }
    {
      let at = k_at + min(first + 1u, pb.rows - 1u) * ld + own;
      let k = vec4f(qkv[at]);
      g0 += subgroupBroadcast(s0, 1u) * k;
      g1 += subgroupBroadcast(s1, 1u) * k;
      g2 += subgroupBroadcast(s2, 1u) * k;
      g3 += subgroupBroadcast(s3, 1u) * k;
      if (WX == 8u) {
        g4 += subgroupBroadcast(s4, 1u) * k;
        g5 += subgroupBroadcast(s5, 1u) * k;
        g6 += subgroupBroadcast(s6, 1u) * k;
        g7 += subgroupBroadcast(s7, 1u) * k;
      }
      if (wide) {
        let k_ = vec4f(qkv[at + WX]);
        e0 += subgroupBroadcast(s0, 1u) * k_;
        e1 += subgroupBroadcast(s1, 1u) * k_;
        e2 += subgroupBroadcast(s2, 1u) * k_;
        e3 += subgroupBroadcast(s3, 1u) * k_;
        if (WX == 8u) {
          e4 += subgroupBroadcast(s4, 1u) * k_;
          e5 += subgroupBroadcast(s5, 1u) * k_;
          e6 += subgroupBroadcast(s6, 1u) * k_;
          e7 += subgroupBroadcast(s7, 1u) * k_;
        }
      }
    }
    {
      let at = k_at + min(first + 2u, pb.rows - 1u) * ld + own;
      let k = vec4f(qkv[at]);
      g0 += subgroupBroadcast(s0, 2u) * k;
      g1 += subgroupBroadcast(s1, 2u) * k;
      g2 += subgroupBroadcast(s2, 2u) * k;
      g3 += subgroupBroadcast(s3, 2u) * k;
      if (WX == 8u) {
        g4 += subgroupBroadcast(s4, 2u) * k;
        g5 += subgroupBroadcast(s5, 2u) * k;
        g6 += subgroupBroadcast(s6, 2u) * k;
        g7 += subgroupBroadcast(s7, 2u) * k;
      }
      if (wide) {
        let k_ = vec4f(qkv[at + WX]);
        e0 += subgroupBroadcast(s0, 2u) * k_;
        e1 += subgroupBroadcast(s1, 2u) * k_;
        e2 += subgroupBroadcast(s2, 2u) * k_;
        e3 += subgroupBroadcast(s3, 2u) * k_;
        if (WX == 8u) {
          e4 += subgroupBroadcast(s4, 2u) * k_;
          e5 += subgroupBroadcast(s5, 2u) * k_;
          e6 += subgroupBroadcast(s6, 2u) * k_;
          e7 += subgroupBroadcast(s7, 2u) * k_;
        }
      }
    }
    {
      let at = k_at + min(first + 3u, pb.rows - 1u) * ld + own;
      let k = vec4f(qkv[at]);
      g0 += subgroupBroadcast(s0, 3u) * k;
      g1 += subgroupBroadcast(s1, 3u) * k;
      g2 += subgroupBroadcast(s2, 3u) * k;
      g3 += subgroupBroadcast(s3, 3u) * k;
      if (WX == 8u) {
        g4 += subgroupBroadcast(s4, 3u) * k;
        g5 += subgroupBroadcast(s5, 3u) * k;
        g6 += subgroupBroadcast(s6, 3u) * k;
        g7 += subgroupBroadcast(s7, 3u) * k;
      }
      if (wide) {
        let k_ = vec4f(qkv[at + WX]);
        e0 += subgroupBroadcast(s0, 3u) * k_;
        e1 += subgroupBroadcast(s1, 3u) * k_;
        e2 += subgroupBroadcast(s2, 3u) * k_;
        e3 += subgroupBroadcast(s3, 3u) * k_;
        if (WX == 8u) {
          e4 += subgroupBroadcast(s4, 3u) * k_;
          e5 += subgroupBroadcast(s5, 3u) * k_;
          e6 += subgroupBroadcast(s6, 3u) * k_;
          e7 += subgroupBroadcast(s7, 3u) * k_;
        }
      }
    }
    if (WX == 8u) {
      {
        let at = k_at + min(first + 4u, pb.rows - 1u) * ld + own;
        let k = vec4f(qkv[at]);
        g0 += subgroupBroadcast(s0, 4u) * k;
        g1 += subgroupBroadcast(s1, 4u) * k;
        g2 += subgroupBroadcast(s2, 4u) * k;
        g3 += subgroupBroadcast(s3, 4u) * k;
        if (WX == 8u) {
          g4 += subgroupBroadcast(s4, 4u) * k;
          g5 += subgroupBroadcast(s5, 4u) * k;
          g6 += subgroupBroadcast(s6, 4u) * k;
          g7 += subgroupBroadcast(s7, 4u) * k;
        }
        if (wide) {
          let k_ = vec4f(qkv[at + WX]);
          e0 += subgroupBroadcast(s0, 4u) * k_;
          e1 += subgroupBroadcast(s1, 4u) * k_;
          e2 += subgroupBroadcast(s2, 4u) * k_;
          e3 += subgroupBroadcast(s3, 4u) * k_;
          if (WX == 8u) {
            e4 += subgroupBroadcast(s4, 4u) * k_;
            e5 += subgroupBroadcast(s5, 4u) * k_;
            e6 += subgroupBroadcast(s6, 4u) * k_;
            e7 += subgroupBroadcast(s7, 4u) * k_;
          }
        }
      }
      {
        let at = k_at + min(first + 5u, pb.rows - 1u) * ld + own;
        let k = vec4f(qkv[at]);
        g0 += subgroupBroadcast(s0, 5u) * k;
        g1 += subgroupBroadcast(s1, 5u) * k;
        g2 += subgroupBroadcast(s2, 5u) * k;
        g3 += subgroupBroadcast(s3, 5u) * k;
        if (WX == 8u) {
          g4 += subgroupBroadcast(s4, 5u) * k;
          g5 += subgroupBroadcast(s5, 5u) * k;
          g6 += subgroupBroadcast(s6, 5u) * k;
          g7 += subgroupBroadcast(s7, 5u) * k;
        }
        if (wide) {
          let k_ = vec4f(qkv[at + WX]);
          e0 += subgroupBroadcast(s0, 5u) * k_;
          e1 += subgroupBroadcast(s1, 5u) * k_;
          e2 += subgroupBroadcast(s2, 5u) * k_;
          e3 += subgroupBroadcast(s3, 5u) * k_;
          if (WX == 8u) {
            e4 += subgroupBroadcast(s4, 5u) * k_;
            e5 += subgroupBroadcast(s5, 5u) * k_;
            e6 += subgroupBroadcast(s6, 5u) * k_;
            e7 += subgroupBroadcast(s7, 5u) * k_;
          }
        }
      }
      {
        let at = k_at + min(first + 6u, pb.rows - 1u) * ld + own;
        let k = vec4f(qkv[at]);
        g0 += subgroupBroadcast(s0, 6u) * k;
        g1 += subgroupBroadcast(s1, 6u) * k;
        g2 += subgroupBroadcast(s2, 6u) * k;
        g3 += subgroupBroadcast(s3, 6u) * k;
        if (WX == 8u) {
          g4 += subgroupBroadcast(s4, 6u) * k;
          g5 += subgroupBroadcast(s5, 6u) * k;
          g6 += subgroupBroadcast(s6, 6u) * k;
          g7 += subgroupBroadcast(s7, 6u) * k;
        }
        if (wide) {
          let k_ = vec4f(qkv[at + WX]);
          e0 += subgroupBroadcast(s0, 6u) * k_;
          e1 += subgroupBroadcast(s1, 6u) * k_;
          e2 += subgroupBroadcast(s2, 6u) * k_;
          e3 += subgroupBroadcast(s3, 6u) * k_;
          if (WX == 8u) {
            e4 += subgroupBroadcast(s4, 6u) * k_;
            e5 += subgroupBroadcast(s5, 6u) * k_;
            e6 += subgroupBroadcast(s6, 6u) * k_;
            e7 += subgroupBroadcast(s7, 6u) * k_;
          }
        }
      }
      {
        let at = k_at + min(first + 7u, pb.rows - 1u) * ld + own;
        let k = vec4f(qkv[at]);
        g0 += subgroupBroadcast(s0, 7u) * k;
        g1 += subgroupBroadcast(s1, 7u) * k;
        g2 += subgroupBroadcast(s2, 7u) * k;
        g3 += subgroupBroadcast(s3, 7u) * k;
        if (WX == 8u) {
          g4 += subgroupBroadcast(s4, 7u) * k;
          g5 += subgroupBroadcast(s5, 7u) * k;
          g6 += subgroupBroadcast(s6, 7u) * k;
          g7 += subgroupBroadcast(s7, 7u) * k;
        }
        if (wide) {
          let k_ = vec4f(qkv[at + WX]);
          e0 += subgroupBroadcast(s0, 7u) * k_;
          e1 += subgroupBroadcast(s1, 7u) * k_;
          e2 += subgroupBroadcast(s2, 7u) * k_;
          e3 += subgroupBroadcast(s3, 7u) * k_;
          if (WX == 8u) {
            e4 += subgroupBroadcast(s4, 7u) * k_;
            e5 += subgroupBroadcast(s5, 7u) * k_;
            e6 += subgroupBroadcast(s6, 7u) * k_;
            e7 += subgroupBroadcast(s7, 7u) * k_;
          }
        }
      }
    }
  }
  store(tile < pb.rows, (tile) * ld + h * head4, own, g0, e0);
  store(tile + 1u < pb.rows, (tile + 1u) * ld + h * head4, own, g1, e1);
  store(tile + 2u < pb.rows, (tile + 2u) * ld + h * head4, own, g2, e2);
  store(tile + 3u < pb.rows, (tile + 3u) * ld + h * head4, own, g3, e3);
  if (WX == 8u) {
    store(tile + 4u < pb.rows, (tile + 4u) * ld + h * head4, own, g4, e4);
    store(tile + 5u < pb.rows, (tile + 5u) * ld + h * head4, own, g5, e5);
    store(tile + 6u < pb.rows, (tile + 6u) * ld + h * head4, own, g6, e6);
    store(tile + 7u < pb.rows, (tile + 7u) * ld + h * head4, own, g7, e7);
  }
}

@compute @workgroup_size(WX)
fn backward_kv(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32
) {
  let head4 = pb.head4;
  let tiles = (pb.rows + WX - 1u) / WX;
  let i = group.x + group.y * groups.x;
  if (i >= tiles * pb.kv_heads * ((head4 + 2u * WX - 1u) / (2u * WX))) { return; }
  let tile = (i % tiles) * WX;
  let kv = (i / tiles) % pb.kv_heads;
  let own = (i / (tiles * pb.kv_heads)) * 2u * WX + lane;
  let wide = head4 > WX;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let end = min(tile + WX, pb.rows);
  let key = min(tile + lane, pb.rows - 1u) * ld + (pb.heads + kv) * head4;
  let to_v = pb.kv_heads * head4;
  let heads = pb.heads / pb.kv_heads;
  var k0 = vec4f(); var k1 = vec4f(); var k2 = vec4f(); var k3 = vec4f(); var k4 = vec4f(); var k5 = vec4f(); var k6 = vec4f(); var k7 = vec4f();
  var l0 = vec4f(); var l1 = vec4f(); var l2 = vec4f(); var l3 = vec4f(); var l4 = vec4f(); var l5 = vec4f(); var l6 = vec4f(); var l7 = vec4f();
  var v0 = vec4f(); var v1 = vec4f(); var v2 = vec4f(); var v3 = vec4f(); var v4 = vec4f(); var v5 = vec4f(); var v6 = vec4f(); var v7 = vec4f();
  var w0 = vec4f(); var w1 = vec4f(); var w2 = vec4f(); var w3 = vec4f(); var w4 = vec4f(); var w5 = vec4f(); var w6 = vec4f(); var w7 = vec4f();
  for (var h = kv * heads; h < (kv + 1u) * heads; h++) {
    for (var first = tile; first < pb.rows; first += WX) {
      // documents are contiguous: the first query of a document behind the tile's keys ends the walk
      if (document_start[first] >= end) { break; }
      let t = first + lane;
      let mine = min(t, pb.rows - 1u);
      let row = mine * pb.heads + h;
      let query = mine * ld + h * head4;
      let begin = document_start[mine];
      var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0; var s4 = 0.0; var s5 = 0.0; var s6 = 0.0; var s7 = 0.0;
      var d0 = 0.0; var d1 = 0.0; var d2 = 0.0; var d3 = 0.0; var d4 = 0.0; var d5 = 0.0; var d6 = 0.0; var d7 = 0.0;
      for (var i4 = 0u; i4 < head4; i4++) {
        let x = vec4f(qkv[key + i4]);
        let y = vec4f(qkv[key + to_v + i4]);
        let a = vec4f(qkv[query + i4]);
        let b = vec4f(dout[row * head4 + i4]);
        s0 += dot(subgroupBroadcast(x, 0u), a); d0 += dot(subgroupBroadcast(y, 0u), b);
        s1 += dot(subgroupBroadcast(x, 1u), a); d1 += dot(subgroupBroadcast(y, 1u), b);
        s2 += dot(subgroupBroadcast(x, 2u), a); d2 += dot(subgroupBroadcast(y, 2u), b);
        s3 += dot(subgroupBroadcast(x, 3u), a); d3 += dot(subgroupBroadcast(y, 3u), b);
        if (WX == 8u) {
          s4 += dot(subgroupBroadcast(x, 4u), a); d4 += dot(subgroupBroadcast(y, 4u), b);
          s5 += dot(subgroupBroadcast(x, 5u), a); d5 += dot(subgroupBroadcast(y, 5u), b);
          s6 += dot(subgroupBroadcast(x, 6u), a); d6 += dot(subgroupBroadcast(y, 6u), b);
          s7 += dot(subgroupBroadcast(x, 7u), a); d7 += dot(subgroupBroadcast(y, 7u), b);
        }
      }
      let norm = lse[row];
      let mean = delta[row];
      { let j = tile; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s0 * pb.scale - norm), on);
        s0 = weight * select(0.0, (d0 - mean) * pb.scale, on); d0 = weight; }
      { let j = tile + 1u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s1 * pb.scale - norm), on);
        s1 = weight * select(0.0, (d1 - mean) * pb.scale, on); d1 = weight; }
      { let j = tile + 2u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s2 * pb.scale - norm), on);
        s2 = weight * select(0.0, (d2 - mean) * pb.scale, on); d2 = weight; }
      { let j = tile + 3u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s3 * pb.scale - norm), on);
        s3 = weight * select(0.0, (d3 - mean) * pb.scale, on); d3 = weight; }
      if (WX == 8u) {
        { let j = tile + 4u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s4 * pb.scale - norm), on);
        s4 = weight * select(0.0, (d4 - mean) * pb.scale, on); d4 = weight; }
        { let j = tile + 5u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s5 * pb.scale - norm), on);
        s5 = weight * select(0.0, (d5 - mean) * pb.scale, on); d5 = weight; }
        { let j = tile + 6u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s6 * pb.scale - norm), on);
        s6 = weight * select(0.0, (d6 - mean) * pb.scale, on); d6 = weight; }
        { let j = tile + 7u; let on = t < pb.rows && j >= begin && j <= t;
        let weight = select(0.0, exp(s7 * pb.scale - norm), on);
        s7 = weight * select(0.0, (d7 - mean) * pb.scale, on); d7 = weight; }
      }
      {
        let at = min(first, pb.rows - 1u);
        let q = vec4f(qkv[at * ld + h * head4 + own]);
        let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
        k0 += subgroupBroadcast(s0, 0u) * q; v0 += subgroupBroadcast(d0, 0u) * g;
        k1 += subgroupBroadcast(s1, 0u) * q; v1 += subgroupBroadcast(d1, 0u) * g;
        k2 += subgroupBroadcast(s2, 0u) * q; v2 += subgroupBroadcast(d2, 0u) * g;
        k3 += subgroupBroadcast(s3, 0u) * q; v3 += subgroupBroadcast(d3, 0u) * g;
        if (WX == 8u) {
          k4 += subgroupBroadcast(s4, 0u) * q; v4 += subgroupBroadcast(d4, 0u) * g;
          k5 += subgroupBroadcast(s5, 0u) * q; v5 += subgroupBroadcast(d5, 0u) * g;
          k6 += subgroupBroadcast(s6, 0u) * q; v6 += subgroupBroadcast(d6, 0u) * g;
          k7 += subgroupBroadcast(s7, 0u) * q; v7 += subgroupBroadcast(d7, 0u) * g;
        }
        if (wide) {
          let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
          let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
          l0 += subgroupBroadcast(s0, 0u) * q_; w0 += subgroupBroadcast(d0, 0u) * g_;
          l1 += subgroupBroadcast(s1, 0u) * q_; w1 += subgroupBroadcast(d1, 0u) * g_;
          l2 += subgroupBroadcast(s2, 0u) * q_; w2 += subgroupBroadcast(d2, 0u) * g_;
          l3 += subgroupBroadcast(s3, 0u) * q_; w3 += subgroupBroadcast(d3, 0u) * g_;
          if (WX == 8u) {
            l4 += subgroupBroadcast(s4, 0u) * q_; w4 += subgroupBroadcast(d4, 0u) * g_;
            l5 += subgroupBroadcast(s5, 0u) * q_; w5 += subgroupBroadcast(d5, 0u) * g_;
            l6 += subgroupBroadcast(s6, 0u) * q_; w6 += subgroupBroadcast(d6, 0u) * g_;
            l7 += subgroupBroadcast(s7, 0u) * q_; w7 += subgroupBroadcast(d7, 0u) * g_;
          }
        }
      }
      {
        let at = min(first + 1u, pb.rows - 1u);
        let q = vec4f(qkv[at * ld + h * head4 + own]);
        let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
        k0 += subgroupBroadcast(s0, 1u) * q; v0 += subgroupBroadcast(d0, 1u) * g;
        k1 += subgroupBroadcast(s1, 1u) * q; v1 += subgroupBroadcast(d1, 1u) * g;
        k2 += subgroupBroadcast(s2, 1u) * q; v2 += subgroupBroadcast(d2, 1u) * g;
        k3 += subgroupBroadcast(s3, 1u) * q; v3 += subgroupBroadcast(d3, 1u) * g;
        if (WX == 8u) {
          k4 += subgroupBroadcast(s4, 1u) * q; v4 += subgroupBroadcast(d4, 1u) * g;
          k5 += subgroupBroadcast(s5, 1u) * q; v5 += subgroupBroadcast(d5, 1u) * g;
          k6 += subgroupBroadcast(s6, 1u) * q; v6 += subgroupBroadcast(d6, 1u) * g;
          k7 += subgroupBroadcast(s7, 1u) * q; v7 += subgroupBroadcast(d7, 1u) * g;
        }
        if (wide) {
          let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
          let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
          l0 += subgroupBroadcast(s0, 1u) * q_; w0 += subgroupBroadcast(d0, 1u) * g_;
          l1 += subgroupBroadcast(s1, 1u) * q_; w1 += subgroupBroadcast(d1, 1u) * g_;
          l2 += subgroupBroadcast(s2, 1u) * q_; w2 += subgroupBroadcast(d2, 1u) * g_;
          l3 += subgroupBroadcast(s3, 1u) * q_; w3 += subgroupBroadcast(d3, 1u) * g_;
          if (WX == 8u) {
            l4 += subgroupBroadcast(s4, 1u) * q_; w4 += subgroupBroadcast(d4, 1u) * g_;
            l5 += subgroupBroadcast(s5, 1u) * q_; w5 += subgroupBroadcast(d5, 1u) * g_;
            l6 += subgroupBroadcast(s6, 1u) * q_; w6 += subgroupBroadcast(d6, 1u) * g_;
            l7 += subgroupBroadcast(s7, 1u) * q_; w7 += subgroupBroadcast(d7, 1u) * g_;
          }
        }
      }
      {
        let at = min(first + 2u, pb.rows - 1u);
        let q = vec4f(qkv[at * ld + h * head4 + own]);
        let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
        k0 += subgroupBroadcast(s0, 2u) * q; v0 += subgroupBroadcast(d0, 2u) * g;
        k1 += subgroupBroadcast(s1, 2u) * q; v1 += subgroupBroadcast(d1, 2u) * g;
        k2 += subgroupBroadcast(s2, 2u) * q; v2 += subgroupBroadcast(d2, 2u) * g;
        k3 += subgroupBroadcast(s3, 2u) * q; v3 += subgroupBroadcast(d3, 2u) * g;
        if (WX == 8u) {
          k4 += subgroupBroadcast(s4, 2u) * q; v4 += subgroupBroadcast(d4, 2u) * g;
          k5 += subgroupBroadcast(s5, 2u) * q; v5 += subgroupBroadcast(d5, 2u) * g;
          k6 += subgroupBroadcast(s6, 2u) * q; v6 += subgroupBroadcast(d6, 2u) * g;
          k7 += subgroupBroadcast(s7, 2u) * q; v7 += subgroupBroadcast(d7, 2u) * g;
        }
        if (wide) {
          let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
          let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
          l0 += subgroupBroadcast(s0, 2u) * q_; w0 += subgroupBroadcast(d0, 2u) * g_;
          l1 += subgroupBroadcast(s1, 2u) * q_; w1 += subgroupBroadcast(d1, 2u) * g_;
          l2 += subgroupBroadcast(s2, 2u) * q_; w2 += subgroupBroadcast(d2, 2u) * g_;
          l3 += subgroupBroadcast(s3, 2u) * q_; w3 += subgroupBroadcast(d3, 2u) * g_;
          if (WX == 8u) {
            l4 += subgroupBroadcast(s4, 2u) * q_; w4 += subgroupBroadcast(d4, 2u) * g_;
            l5 += subgroupBroadcast(s5, 2u) * q_; w5 += subgroupBroadcast(d5, 2u) * g_;
            l6 += subgroupBroadcast(s6, 2u) * q_; w6 += subgroupBroadcast(d6, 2u) * g_;
            l7 += subgroupBroadcast(s7, 2u) * q_; w7 += subgroupBroadcast(d7, 2u) * g_;
          }
        }
      }
      {
        let at = min(first + 3u, pb.rows - 1u);
        let q = vec4f(qkv[at * ld + h * head4 + own]);
        let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
        k0 += subgroupBroadcast(s0, 3u) * q; v0 += subgroupBroadcast(d0, 3u) * g;
        k1 += subgroupBroadcast(s1, 3u) * q; v1 += subgroupBroadcast(d1, 3u) * g;
        k2 += subgroupBroadcast(s2, 3u) * q; v2 += subgroupBroadcast(d2, 3u) * g;
        k3 += subgroupBroadcast(s3, 3u) * q; v3 += subgroupBroadcast(d3, 3u) * g;
        if (WX == 8u) {
          k4 += subgroupBroadcast(s4, 3u) * q; v4 += subgroupBroadcast(d4, 3u) * g;
          k5 += subgroupBroadcast(s5, 3u) * q; v5 += subgroupBroadcast(d5, 3u) * g;
          k6 += subgroupBroadcast(s6, 3u) * q; v6 += subgroupBroadcast(d6, 3u) * g;
          k7 += subgroupBroadcast(s7, 3u) * q; v7 += subgroupBroadcast(d7, 3u) * g;
        }
        if (wide) {
          let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
          let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
          l0 += subgroupBroadcast(s0, 3u) * q_; w0 += subgroupBroadcast(d0, 3u) * g_;
          l1 += subgroupBroadcast(s1, 3u) * q_; w1 += subgroupBroadcast(d1, 3u) * g_;
          l2 += subgroupBroadcast(s2, 3u) * q_; w2 += subgroupBroadcast(d2, 3u) * g_;
          l3 += subgroupBroadcast(s3, 3u) * q_; w3 += subgroupBroadcast(d3, 3u) * g_;
          if (WX == 8u) {
            l4 += subgroupBroadcast(s4, 3u) * q_; w4 += subgroupBroadcast(d4, 3u) * g_;
            l5 += subgroupBroadcast(s5, 3u) * q_; w5 += subgroupBroadcast(d5, 3u) * g_;
            l6 += subgroupBroadcast(s6, 3u) * q_; w6 += subgroupBroadcast(d6, 3u) * g_;
            l7 += subgroupBroadcast(s7, 3u) * q_; w7 += subgroupBroadcast(d7, 3u) * g_;
          }
        }
      }
      if (WX == 8u) {
        {
          let at = min(first + 4u, pb.rows - 1u);
          let q = vec4f(qkv[at * ld + h * head4 + own]);
          let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
          k0 += subgroupBroadcast(s0, 4u) * q; v0 += subgroupBroadcast(d0, 4u) * g;
          k1 += subgroupBroadcast(s1, 4u) * q; v1 += subgroupBroadcast(d1, 4u) * g;
          k2 += subgroupBroadcast(s2, 4u) * q; v2 += subgroupBroadcast(d2, 4u) * g;
          k3 += subgroupBroadcast(s3, 4u) * q; v3 += subgroupBroadcast(d3, 4u) * g;
          if (WX == 8u) {
            k4 += subgroupBroadcast(s4, 4u) * q; v4 += subgroupBroadcast(d4, 4u) * g;
            k5 += subgroupBroadcast(s5, 4u) * q; v5 += subgroupBroadcast(d5, 4u) * g;
            k6 += subgroupBroadcast(s6, 4u) * q; v6 += subgroupBroadcast(d6, 4u) * g;
            k7 += subgroupBroadcast(s7, 4u) * q; v7 += subgroupBroadcast(d7, 4u) * g;
          }
          if (wide) {
            let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
            let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
            l0 += subgroupBroadcast(s0, 4u) * q_; w0 += subgroupBroadcast(d0, 4u) * g_;
            l1 += subgroupBroadcast(s1, 4u) * q_; w1 += subgroupBroadcast(d1, 4u) * g_;
            l2 += subgroupBroadcast(s2, 4u) * q_; w2 += subgroupBroadcast(d2, 4u) * g_;
            l3 += subgroupBroadcast(s3, 4u) * q_; w3 += subgroupBroadcast(d3, 4u) * g_;
            if (WX == 8u) {
              l4 += subgroupBroadcast(s4, 4u) * q_; w4 += subgroupBroadcast(d4, 4u) * g_;
              l5 += subgroupBroadcast(s5, 4u) * q_; w5 += subgroupBroadcast(d5, 4u) * g_;
              l6 += subgroupBroadcast(s6, 4u) * q_; w6 += subgroupBroadcast(d6, 4u) * g_;
              l7 += subgroupBroadcast(s7, 4u) * q_; w7 += subgroupBroadcast(d7, 4u) * g_;
            }
          }
        }
        {
          let at = min(first + 5u, pb.rows - 1u);
          let q = vec4f(qkv[at * ld + h * head4 + own]);
          let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
          k0 += subgroupBroadcast(s0, 5u) * q; v0 += subgroupBroadcast(d0, 5u) * g;
          k1 += subgroupBroadcast(s1, 5u) * q; v1 += subgroupBroadcast(d1, 5u) * g;
          k2 += subgroupBroadcast(s2, 5u) * q; v2 += subgroupBroadcast(d2, 5u) * g;
          k3 += subgroupBroadcast(s3, 5u) * q; v3 += subgroupBroadcast(d3, 5u) * g;
          if (WX == 8u) {
            k4 += subgroupBroadcast(s4, 5u) * q; v4 += subgroupBroadcast(d4, 5u) * g;
            k5 += subgroupBroadcast(s5, 5u) * q; v5 += subgroupBroadcast(d5, 5u) * g;
            k6 += subgroupBroadcast(s6, 5u) * q; v6 += subgroupBroadcast(d6, 5u) * g;
            k7 += subgroupBroadcast(s7, 5u) * q; v7 += subgroupBroadcast(d7, 5u) * g;
          }
          if (wide) {
            let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
            let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
            l0 += subgroupBroadcast(s0, 5u) * q_; w0 += subgroupBroadcast(d0, 5u) * g_;
            l1 += subgroupBroadcast(s1, 5u) * q_; w1 += subgroupBroadcast(d1, 5u) * g_;
            l2 += subgroupBroadcast(s2, 5u) * q_; w2 += subgroupBroadcast(d2, 5u) * g_;
            l3 += subgroupBroadcast(s3, 5u) * q_; w3 += subgroupBroadcast(d3, 5u) * g_;
            if (WX == 8u) {
              l4 += subgroupBroadcast(s4, 5u) * q_; w4 += subgroupBroadcast(d4, 5u) * g_;
              l5 += subgroupBroadcast(s5, 5u) * q_; w5 += subgroupBroadcast(d5, 5u) * g_;
              l6 += subgroupBroadcast(s6, 5u) * q_; w6 += subgroupBroadcast(d6, 5u) * g_;
              l7 += subgroupBroadcast(s7, 5u) * q_; w7 += subgroupBroadcast(d7, 5u) * g_;
            }
          }
        }
        {
          let at = min(first + 6u, pb.rows - 1u);
          let q = vec4f(qkv[at * ld + h * head4 + own]);
          let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
          k0 += subgroupBroadcast(s0, 6u) * q; v0 += subgroupBroadcast(d0, 6u) * g;
          k1 += subgroupBroadcast(s1, 6u) * q; v1 += subgroupBroadcast(d1, 6u) * g;
          k2 += subgroupBroadcast(s2, 6u) * q; v2 += subgroupBroadcast(d2, 6u) * g;
          k3 += subgroupBroadcast(s3, 6u) * q; v3 += subgroupBroadcast(d3, 6u) * g;
          if (WX == 8u) {
            k4 += subgroupBroadcast(s4, 6u) * q; v4 += subgroupBroadcast(d4, 6u) * g;
            k5 += subgroupBroadcast(s5, 6u) * q; v5 += subgroupBroadcast(d5, 6u) * g;
            k6 += subgroupBroadcast(s6, 6u) * q; v6 += subgroupBroadcast(d6, 6u) * g;
            k7 += subgroupBroadcast(s7, 6u) * q; v7 += subgroupBroadcast(d7, 6u) * g;
          }
          if (wide) {
            let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
            let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
            l0 += subgroupBroadcast(s0, 6u) * q_; w0 += subgroupBroadcast(d0, 6u) * g_;
            l1 += subgroupBroadcast(s1, 6u) * q_; w1 += subgroupBroadcast(d1, 6u) * g_;
            l2 += subgroupBroadcast(s2, 6u) * q_; w2 += subgroupBroadcast(d2, 6u) * g_;
            l3 += subgroupBroadcast(s3, 6u) * q_; w3 += subgroupBroadcast(d3, 6u) * g_;
            if (WX == 8u) {
              l4 += subgroupBroadcast(s4, 6u) * q_; w4 += subgroupBroadcast(d4, 6u) * g_;
              l5 += subgroupBroadcast(s5, 6u) * q_; w5 += subgroupBroadcast(d5, 6u) * g_;
              l6 += subgroupBroadcast(s6, 6u) * q_; w6 += subgroupBroadcast(d6, 6u) * g_;
              l7 += subgroupBroadcast(s7, 6u) * q_; w7 += subgroupBroadcast(d7, 6u) * g_;
            }
          }
        }
        {
          let at = min(first + 7u, pb.rows - 1u);
          let q = vec4f(qkv[at * ld + h * head4 + own]);
          let g = vec4f(dout[(at * pb.heads + h) * head4 + own]);
          k0 += subgroupBroadcast(s0, 7u) * q; v0 += subgroupBroadcast(d0, 7u) * g;
          k1 += subgroupBroadcast(s1, 7u) * q; v1 += subgroupBroadcast(d1, 7u) * g;
          k2 += subgroupBroadcast(s2, 7u) * q; v2 += subgroupBroadcast(d2, 7u) * g;
          k3 += subgroupBroadcast(s3, 7u) * q; v3 += subgroupBroadcast(d3, 7u) * g;
          if (WX == 8u) {
            k4 += subgroupBroadcast(s4, 7u) * q; v4 += subgroupBroadcast(d4, 7u) * g;
            k5 += subgroupBroadcast(s5, 7u) * q; v5 += subgroupBroadcast(d5, 7u) * g;
            k6 += subgroupBroadcast(s6, 7u) * q; v6 += subgroupBroadcast(d6, 7u) * g;
            k7 += subgroupBroadcast(s7, 7u) * q; v7 += subgroupBroadcast(d7, 7u) * g;
          }
          if (wide) {
            let q_ = vec4f(qkv[at * ld + h * head4 + own + WX]);
            let g_ = vec4f(dout[(at * pb.heads + h) * head4 + own + WX]);
            l0 += subgroupBroadcast(s0, 7u) * q_; w0 += subgroupBroadcast(d0, 7u) * g_;
            l1 += subgroupBroadcast(s1, 7u) * q_; w1 += subgroupBroadcast(d1, 7u) * g_;
            l2 += subgroupBroadcast(s2, 7u) * q_; w2 += subgroupBroadcast(d2, 7u) * g_;
            l3 += subgroupBroadcast(s3, 7u) * q_; w3 += subgroupBroadcast(d3, 7u) * g_;
            if (WX == 8u) {
              l4 += subgroupBroadcast(s4, 7u) * q_; w4 += subgroupBroadcast(d4, 7u) * g_;
              l5 += subgroupBroadcast(s5, 7u) * q_; w5 += subgroupBroadcast(d5, 7u) * g_;
              l6 += subgroupBroadcast(s6, 7u) * q_; w6 += subgroupBroadcast(d6, 7u) * g_;
              l7 += subgroupBroadcast(s7, 7u) * q_; w7 += subgroupBroadcast(d7, 7u) * g_;
            }
          }
        }
      }
    }
  }
  let k_at = (pb.heads + kv) * head4;
  store(tile < pb.rows, (tile) * ld + k_at, own, k0, l0); store(tile < pb.rows, (tile) * ld + k_at + to_v, own, v0, w0);
  store(tile + 1u < pb.rows, (tile + 1u) * ld + k_at, own, k1, l1); store(tile + 1u < pb.rows, (tile + 1u) * ld + k_at + to_v, own, v1, w1);
  store(tile + 2u < pb.rows, (tile + 2u) * ld + k_at, own, k2, l2); store(tile + 2u < pb.rows, (tile + 2u) * ld + k_at + to_v, own, v2, w2);
  store(tile + 3u < pb.rows, (tile + 3u) * ld + k_at, own, k3, l3); store(tile + 3u < pb.rows, (tile + 3u) * ld + k_at + to_v, own, v3, w3);
  if (WX == 8u) {
    store(tile + 4u < pb.rows, (tile + 4u) * ld + k_at, own, k4, l4); store(tile + 4u < pb.rows, (tile + 4u) * ld + k_at + to_v, own, v4, w4);
    store(tile + 5u < pb.rows, (tile + 5u) * ld + k_at, own, k5, l5); store(tile + 5u < pb.rows, (tile + 5u) * ld + k_at + to_v, own, v5, w5);
    store(tile + 6u < pb.rows, (tile + 6u) * ld + k_at, own, k6, l6); store(tile + 6u < pb.rows, (tile + 6u) * ld + k_at + to_v, own, v6, w6);
    store(tile + 7u < pb.rows, (tile + 7u) * ld + k_at, own, k7, l7); store(tile + 7u < pb.rows, (tile + 7u) * ld + k_at + to_v, own, v7, w7);
  }
}
