// The attention of attention.wgsl, with the same bindings and parameters, for GPUs: a workgroup of 128 owns 64 queries
// of a head (backward_kv: 64 keys of a key head) and walks the keys (the queries) that they may see in tiles of 32.
//
// Both sides are staged in workgroup memory as f32, 32 of the head's dimensions at a time (zeros beyond it); heads of
// up to 128 dimensions are four such chunks. Invocation (x, y) forms the scores of the rows y, y + 16, y + 32, y + 48
// with x, x + 8, x + 16, x + 24 of the others. Scores go back through workgroup memory, where group x of a row holds
// these four, and weigh the others' rows; of the result an invocation owns group x of every chunk, for its four rows.
//   forward:      softmax online: when a row's maximum rises, its sums so far are scaled down
//   backward_q:   dq = dS K                   backward_kv:  dv = P^T dO, dk = dS^T Q, over the heads of the key head
//   with P = exp(S - lse) and dS = P (dO V^T - delta) scale
struct Params { rows: u32, heads: u32, kv_heads: u32, scale: f32, head4: u32 }
override WX: u32 = 128;

alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> qkv: array<T4>;
@group(0) @binding(1) var<storage, read> document_start: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<T4>;
@group(0) @binding(3) var<storage, read_write> lse_out: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

@group(0) @binding(2) var<storage, read> dout: array<T4>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<T4>;
@group(0) @binding(6) var<uniform> pb: Params;

const LOW = -1e30;
const ROWS = 64u;
const OTHERS = 32u;
const CHUNK = 8u;
// groups of 4 from one row to the next: one of padding
const LD = 9u;
var<workgroup> mine: array<vec4f, ROWS * LD>;
var<workgroup> others: array<vec4f, OTHERS * LD>;
// four rows' numbers of each invocation
var<workgroup> lanes: array<vec4f, 128>;

// A vector for each of an invocation's four rows: scores with its four others, or four dimensions.
struct Four { r0: vec4f, r1: vec4f, r2: vec4f, r3: vec4f }

// Stage chunk c of a matrix whose row i begins at from + i * ld: rows first .. , none beyond last.
fn stage_mine(origin: u32, ld: u32, first: u32, last: u32, c: u32, head4: u32, l: u32) {
  let d = c * CHUNK + l % 8u;
  for (var r = l / 8u; r < ROWS; r += 16u) {
    mine[r * LD + l % 8u] = select(vec4f(), vec4f(qkv[origin + min(first + r, last) * ld + d]), d < head4);
  }
}

fn stage_mine_dout(origin: u32, ld: u32, first: u32, last: u32, c: u32, head4: u32, l: u32) {
  let d = c * CHUNK + l % 8u;
  for (var r = l / 8u; r < ROWS; r += 16u) {
    mine[r * LD + l % 8u] = select(vec4f(), vec4f(dout[origin + min(first + r, last) * ld + d]), d < head4);
  }
}

fn stage_others(origin: u32, ld: u32, first: u32, last: u32, c: u32, head4: u32, l: u32) {
  let d = c * CHUNK + l % 8u;
  for (var r = l / 8u; r < OTHERS; r += 16u) {
    others[r * LD + l % 8u] = select(vec4f(), vec4f(qkv[origin + min(first + r, last) * ld + d]), d < head4);
  }
}

fn stage_others_dout(origin: u32, ld: u32, first: u32, last: u32, c: u32, head4: u32, l: u32) {
  let d = c * CHUNK + l % 8u;
  for (var r = l / 8u; r < OTHERS; r += 16u) {
    others[r * LD + l % 8u] = select(vec4f(), vec4f(dout[origin + min(first + r, last) * ld + d]), d < head4);
  }
}

fn along(sum: vec4f, a: vec4f, b0: vec4f, b1: vec4f, b2: vec4f, b3: vec4f) -> vec4f {
  return sum + a.x * vec4f(b0.x, b1.x, b2.x, b3.x) + a.y * vec4f(b0.y, b1.y, b2.y, b3.y) +
    a.z * vec4f(b0.z, b1.z, b2.z, b3.z) + a.w * vec4f(b0.w, b1.w, b2.w, b3.w);
}

// adds a chunk's part of the products of the staged rows
fn multiply(s: ptr<function, Four>, l: u32) {
  let x = (l % 8u) * LD;
  let y = (l / 8u) * LD;
  for (var d = 0u; d < CHUNK; d++) {
    let b0 = others[x + d];
    let b1 = others[x + 8u * LD + d];
    let b2 = others[x + 16u * LD + d];
    let b3 = others[x + 24u * LD + d];
    (*s).r0 = along((*s).r0, mine[y + d], b0, b1, b2, b3);
    (*s).r1 = along((*s).r1, mine[y + 16u * LD + d], b0, b1, b2, b3);
    (*s).r2 = along((*s).r2, mine[y + 32u * LD + d], b0, b1, b2, b3);
    (*s).r3 = along((*s).r3, mine[y + 48u * LD + d], b0, b1, b2, b3);
  }
}

fn put(s: Four, l: u32) {
  let at = (l / 8u) * LD + l % 8u;
  mine[at] = s.r0;
  mine[at + 16u * LD] = s.r1;
  mine[at + 32u * LD] = s.r2;
  mine[at + 48u * LD] = s.r3;
}

// adds the staged chunk of the others' rows, weighed by the scores that were put
fn weigh(o: ptr<function, Four>, l: u32) {
  let x = l % 8u;
  let y = (l / 8u) * LD;
  for (var i = 0u; i < 8u; i++) {
    let b0 = others[i * LD + x];
    let b1 = others[(i + 8u) * LD + x];
    let b2 = others[(i + 16u) * LD + x];
    let b3 = others[(i + 24u) * LD + x];
    let w0 = mine[y + i];
    let w1 = mine[y + 16u * LD + i];
    let w2 = mine[y + 32u * LD + i];
    let w3 = mine[y + 48u * LD + i];
    (*o).r0 = (*o).r0 + w0.x * b0 + w0.y * b1 + w0.z * b2 + w0.w * b3;
    (*o).r1 = (*o).r1 + w1.x * b0 + w1.y * b1 + w1.z * b2 + w1.w * b3;
    (*o).r2 = (*o).r2 + w2.x * b0 + w2.y * b1 + w2.z * b2 + w2.w * b3;
    (*o).r3 = (*o).r3 + w3.x * b0 + w3.y * b1 + w3.z * b2 + w3.w * b3;
  }
}

fn add(o: ptr<function, Four>, part: Four) {
  (*o).r0 += part.r0;
  (*o).r1 += part.r1;
  (*o).r2 += part.r2;
  (*o).r3 += part.r3;
}

fn scale_rows(o: ptr<function, Four>, by: vec4f) {
  (*o).r0 *= by.x;
  (*o).r1 *= by.y;
  (*o).r2 *= by.z;
  (*o).r3 *= by.w;
}

// which of four keys a query sees
fn seen(start: u32, t: u32, key: vec4u) -> vec4<bool> { return (key >= vec4u(start)) & (key <= vec4u(t)); }

fn largest(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

fn sum4(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

fn write_out(at: u32, c: u32, x: u32, head4: u32, row: vec4u, rows: u32, stride: u32, o: Four) {
  let d = c * CHUNK + x;
  if (d >= head4) { return; }
  if (row.x < rows) { out[at + row.x * stride + d] = T4(o.r0); }
  if (row.y < rows) { out[at + row.y * stride + d] = T4(o.r1); }
  if (row.z < rows) { out[at + row.z * stride + d] = T4(o.r2); }
  if (row.w < rows) { out[at + row.w * stride + d] = T4(o.r3); }
}

@compute @workgroup_size(WX)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let g = group.x + group.y * groups.x;
  let tiles = (p.rows + ROWS - 1u) / ROWS;
  if (g >= tiles * p.heads) { return; }
  let first = (g % tiles) * ROWS;
  let h = g / tiles;
  let head4 = p.head4;
  let ld = (p.heads + 2u * p.kv_heads) * head4;
  let last = p.rows - 1u;
  let q_at = h * head4;
  let k_at = (p.heads + h / (p.heads / p.kv_heads)) * head4;
  let v_at = k_at + p.kv_heads * head4;
  let x = l % 8u;
  let y = l / 8u;
  let t = vec4u(first + y) + vec4u(0u, 16u, 32u, 48u);
  let start = vec4u(
    document_start[min(t.x, last)], document_start[min(t.y, last)],
    document_start[min(t.z, last)], document_start[min(t.w, last)],
  );
  var o0: Four; var o1: Four; var o2: Four; var o3: Four;
  var top = vec4f(LOW);
  var sum = vec4f();
  for (var j = document_start[first]; j < min(first + ROWS, p.rows); j += OTHERS) {
    var s = Four();
    for (var c = 0u; c * CHUNK < head4; c++) {
      workgroupBarrier();
      stage_mine(q_at, ld, first, last, c, head4, l);
      stage_others(k_at, ld, j, last, c, head4, l);
      workgroupBarrier();
      multiply(&s, l);
    }
    let key = vec4u(j + x) + vec4u(0u, 8u, 16u, 24u);
    let seen0 = seen(start.x, t.x, key);
    let seen1 = seen(start.y, t.y, key);
    let seen2 = seen(start.z, t.z, key);
    let seen3 = seen(start.w, t.w, key);
    s.r0 = select(vec4f(LOW), s.r0 * p.scale, seen0);
    s.r1 = select(vec4f(LOW), s.r1 * p.scale, seen1);
    s.r2 = select(vec4f(LOW), s.r2 * p.scale, seen2);
    s.r3 = select(vec4f(LOW), s.r3 * p.scale, seen3);
    lanes[l] = vec4f(largest(s.r0), largest(s.r1), largest(s.r2), largest(s.r3));
    workgroupBarrier();
    var next = top;
    for (var i = 0u; i < 8u; i++) { next = max(next, lanes[y * 8u + i]); }
    let fade = exp(top - next);
    top = next;
    // a row that has met none of its keys yet holds LOW everywhere, which must not weigh as exp(0)
    s.r0 = select(vec4f(), exp(s.r0 - top.x), seen0);
    s.r1 = select(vec4f(), exp(s.r1 - top.y), seen1);
    s.r2 = select(vec4f(), exp(s.r2 - top.z), seen2);
    s.r3 = select(vec4f(), exp(s.r3 - top.w), seen3);
    sum = sum * fade + vec4f(sum4(s.r0), sum4(s.r1), sum4(s.r2), sum4(s.r3));
    put(s, l);
    scale_rows(&o0, fade);
    scale_rows(&o1, fade);
    scale_rows(&o2, fade);
    scale_rows(&o3, fade);
    for (var c = 0u; c * CHUNK < head4; c++) {
      workgroupBarrier();
      stage_others(v_at, ld, j, last, c, head4, l);
      workgroupBarrier();
      var o = Four();
      weigh(&o, l);
      switch c {
        case 0u: { add(&o0, o); }
        case 1u: { add(&o1, o); }
        case 2u: { add(&o2, o); }
        default: { add(&o3, o); }
      }
    }
  }
  workgroupBarrier();
  lanes[l] = sum;
  workgroupBarrier();
  sum = vec4f();
  for (var i = 0u; i < 8u; i++) { sum += lanes[y * 8u + i]; }
  let by = 1.0 / sum;
  let stride = p.heads * head4;
  scale_rows(&o0, by);
  write_out(q_at, 0u, x, head4, t, p.rows, stride, o0);
  scale_rows(&o1, by);
  write_out(q_at, 1u, x, head4, t, p.rows, stride, o1);
  scale_rows(&o2, by);
  write_out(q_at, 2u, x, head4, t, p.rows, stride, o2);
  scale_rows(&o3, by);
  write_out(q_at, 3u, x, head4, t, p.rows, stride, o3);
  if (x == 0u) {
    let value = top + log(sum);
    if (t.x < p.rows) { lse_out[t.x * p.heads + h] = value.x; }
    if (t.y < p.rows) { lse_out[t.y * p.heads + h] = value.y; }
    if (t.z < p.rows) { lse_out[t.z * p.heads + h] = value.z; }
    if (t.w < p.rows) { lse_out[t.w * p.heads + h] = value.w; }
  }
}

fn write_gradient(at: u32, c: u32, x: u32, head4: u32, row: vec4u, rows: u32, stride: u32, o: Four) {
  let d = c * CHUNK + x;
  if (d >= head4) { return; }
  if (row.x < rows) { dqkv[at + row.x * stride + d] = T4(o.r0); }
  if (row.y < rows) { dqkv[at + row.y * stride + d] = T4(o.r1); }
  if (row.z < rows) { dqkv[at + row.z * stride + d] = T4(o.r2); }
  if (row.w < rows) { dqkv[at + row.w * stride + d] = T4(o.r3); }
}

@compute @workgroup_size(WX)
fn backward_q(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let g = group.x + group.y * groups.x;
  let tiles = (pb.rows + ROWS - 1u) / ROWS;
  if (g >= tiles * pb.heads) { return; }
  let first = (g % tiles) * ROWS;
  let h = g / tiles;
  let head4 = pb.head4;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let last = pb.rows - 1u;
  let q_at = h * head4;
  let k_at = (pb.heads + h / (pb.heads / pb.kv_heads)) * head4;
  let v_at = k_at + pb.kv_heads * head4;
  let stride = pb.heads * head4;
  let x = l % 8u;
  let y = l / 8u;
  let t = vec4u(first + y) + vec4u(0u, 16u, 32u, 48u);
  let at = min(t, vec4u(last));
  let start = vec4u(document_start[at.x], document_start[at.y], document_start[at.z], document_start[at.w]);
  let row = at * pb.heads + h;
  let lse4 = vec4f(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
  let delta4 = vec4f(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
  var g0: Four; var g1: Four; var g2: Four; var g3: Four;
  for (var j = document_start[first]; j < min(first + ROWS, pb.rows); j += OTHERS) {
    var s = Four();
    var dw = Four();
    for (var c = 0u; c * CHUNK < head4; c++) {
      workgroupBarrier();
      stage_mine(q_at, ld, first, last, c, head4, l);
      stage_others(k_at, ld, j, last, c, head4, l);
      workgroupBarrier();
      multiply(&s, l);
    }
    for (var c = 0u; c * CHUNK < head4; c++) {
      workgroupBarrier();
      stage_mine_dout(q_at, stride, first, last, c, head4, l);
      stage_others(v_at, ld, j, last, c, head4, l);
      workgroupBarrier();
      multiply(&dw, l);
    }
    let key = vec4u(j + x) + vec4u(0u, 8u, 16u, 24u);
    let scale = pb.scale;
    s.r0 = select(vec4f(), exp(s.r0 * scale - lse4.x) * (dw.r0 - delta4.x) * scale, seen(start.x, t.x, key));
    s.r1 = select(vec4f(), exp(s.r1 * scale - lse4.y) * (dw.r1 - delta4.y) * scale, seen(start.y, t.y, key));
    s.r2 = select(vec4f(), exp(s.r2 * scale - lse4.z) * (dw.r2 - delta4.z) * scale, seen(start.z, t.z, key));
    s.r3 = select(vec4f(), exp(s.r3 * scale - lse4.w) * (dw.r3 - delta4.w) * scale, seen(start.w, t.w, key));
    workgroupBarrier();
    put(s, l);
    for (var c = 0u; c * CHUNK < head4; c++) {
      workgroupBarrier();
      stage_others(k_at, ld, j, last, c, head4, l);
      workgroupBarrier();
      var o = Four();
      weigh(&o, l);
      switch c {
        case 0u: { add(&g0, o); }
        case 1u: { add(&g1, o); }
        case 2u: { add(&g2, o); }
        default: { add(&g3, o); }
      }
    }
  }
  write_gradient(q_at, 0u, x, head4, t, pb.rows, ld, g0);
  write_gradient(q_at, 1u, x, head4, t, pb.rows, ld, g1);
  write_gradient(q_at, 2u, x, head4, t, pb.rows, ld, g2);
  write_gradient(q_at, 3u, x, head4, t, pb.rows, ld, g3);
}

@compute @workgroup_size(WX)
fn backward_kv(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
) {
  let g = group.x + group.y * groups.x;
  let tiles = (pb.rows + ROWS - 1u) / ROWS;
  if (g >= tiles * pb.kv_heads) { return; }
  let first = (g % tiles) * ROWS;
  let kv = g / tiles;
  let head4 = pb.head4;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let last = pb.rows - 1u;
  let k_at = (pb.heads + kv) * head4;
  let v_at = k_at + pb.kv_heads * head4;
  let stride = pb.heads * head4;
  let each = pb.heads / pb.kv_heads;
  let x = l % 8u;
  let key = vec4u(first + l / 8u) + vec4u(0u, 16u, 32u, 48u);
  var k0: Four; var k1: Four; var k2: Four; var k3: Four;
  var v0: Four; var v1: Four; var v2: Four; var v3: Four;
  for (var h = kv * each; h < (kv + 1u) * each; h++) {
    let q_at = h * head4;
    for (var j = first; j < pb.rows; j += OTHERS) {
      // documents are contiguous: a query whose document begins behind these keys ends the walk
      if (document_start[j] > first + ROWS - 1u) { break; }
      var s = Four();
      var dw = Four();
      for (var c = 0u; c * CHUNK < head4; c++) {
        workgroupBarrier();
        stage_mine(k_at, ld, first, last, c, head4, l);
        stage_others(q_at, ld, j, last, c, head4, l);
        workgroupBarrier();
        multiply(&s, l);
      }
      for (var c = 0u; c * CHUNK < head4; c++) {
        workgroupBarrier();
        stage_mine(v_at, ld, first, last, c, head4, l);
        stage_others_dout(q_at, stride, j, last, c, head4, l);
        workgroupBarrier();
        multiply(&dw, l);
      }
      let t = vec4u(j + x) + vec4u(0u, 8u, 16u, 24u);
      let at = min(t, vec4u(last));
      let row = at * pb.heads + h;
      let lse4 = vec4f(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
      let delta4 = vec4f(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
      // a query beyond the last sees no key
      let start = select(
        vec4u(0xffffffffu),
        vec4u(document_start[at.x], document_start[at.y], document_start[at.z], document_start[at.w]),
        t <= vec4u(last),
      );
      let scale = pb.scale;
      s.r0 = select(vec4f(), exp(s.r0 * scale - lse4), (start <= vec4u(key.x)) & (vec4u(key.x) <= t));
      s.r1 = select(vec4f(), exp(s.r1 * scale - lse4), (start <= vec4u(key.y)) & (vec4u(key.y) <= t));
      s.r2 = select(vec4f(), exp(s.r2 * scale - lse4), (start <= vec4u(key.z)) & (vec4u(key.z) <= t));
      s.r3 = select(vec4f(), exp(s.r3 * scale - lse4), (start <= vec4u(key.w)) & (vec4u(key.w) <= t));
      workgroupBarrier();
      put(s, l);
      for (var c = 0u; c * CHUNK < head4; c++) {
        workgroupBarrier();
        stage_others_dout(q_at, stride, j, last, c, head4, l);
        workgroupBarrier();
        var o = Four();
        weigh(&o, l);
        switch c {
          case 0u: { add(&v0, o); }
          case 1u: { add(&v1, o); }
          case 2u: { add(&v2, o); }
          default: { add(&v3, o); }
        }
      }
      dw.r0 = s.r0 * (dw.r0 - delta4) * scale;
      dw.r1 = s.r1 * (dw.r1 - delta4) * scale;
      dw.r2 = s.r2 * (dw.r2 - delta4) * scale;
      dw.r3 = s.r3 * (dw.r3 - delta4) * scale;
      workgroupBarrier();
      put(dw, l);
      for (var c = 0u; c * CHUNK < head4; c++) {
        workgroupBarrier();
        stage_others(q_at, ld, j, last, c, head4, l);
        workgroupBarrier();
        var o = Four();
        weigh(&o, l);
        switch c {
          case 0u: { add(&k0, o); }
          case 1u: { add(&k1, o); }
          case 2u: { add(&k2, o); }
          default: { add(&k3, o); }
        }
      }
    }
  }
  write_gradient(k_at, 0u, x, head4, key, pb.rows, ld, k0);
  write_gradient(k_at, 1u, x, head4, key, pb.rows, ld, k1);
  write_gradient(k_at, 2u, x, head4, key, pb.rows, ld, k2);
  write_gradient(k_at, 3u, x, head4, key, pb.rows, ld, k3);
  write_gradient(v_at, 0u, x, head4, key, pb.rows, ld, v0);
  write_gradient(v_at, 1u, x, head4, key, pb.rows, ld, v1);
  write_gradient(v_at, 2u, x, head4, key, pb.rows, ld, v2);
  write_gradient(v_at, 3u, x, head4, key, pb.rows, ld, v3);
}
