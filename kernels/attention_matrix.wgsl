// The attention of attention.wgsl on matrix units, with the same bindings and parameters: f16 everywhere but lse and
// delta; scores, weights and sums f32, of which weights and their gradients are rounded to f16 to be multiplied again.
// Heads have HEAD dimensions: 32, 64 or 128.
//
// A workgroup owns ROWS = WX / 4 queries of a head (backward_kv: keys of a key head) and walks the keys (the queries)
// that they may see in tiles of 32. Subgroups come in pairs: subgroups 2 i and 2 i + 1 own rows 16 i .. Their factors of
// all tiles are matrices that they keep. Scores leave through workgroup memory, where invocation l takes 8 others, from
// 8 (l % 4) on, of row l / 4, and go back as f16.
//   forward:      walks twice: the first time finds each row's maximum and sum, so that nothing is scaled down later;
//                 the second weighs values. One of a pair scores the first 16 keys of a tile, the other the rest; then
//                 each owns half of the dimensions.
//   backward_q:   dq = dS K: one scores Q K^T, the other dO V^T; then each owns half of the dimensions. It also finds delta,
//                 each row's product of results and of what comes for them.
//   backward_kv:  one scores K Q^T and owns dk = dS^T Q, the other scores V dO^T and owns dv = P^T dO, over the heads of
//                 the key head
//   with P = exp(S - lse) and dS = P (dO V^T - delta) scale
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

struct Params { rows: u32, heads: u32, kv_heads: u32, scale: f32, head4: u32 }
override WX: u32 = 256;
override HEAD: u32 = 64;
// how many scores of a pair of rows there are: 1 in forward, else 2
override SETS: u32 = 1;

@group(0) @binding(0) var<storage, read> qkv: array<vec4h>;
@group(0) @binding(1) var<storage, read> document_start: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4h>;
@group(0) @binding(3) var<storage, read_write> lse_out: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

@group(0) @binding(2) var<storage, read> dout: array<vec4h>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<vec4h>;
@group(0) @binding(6) var<uniform> pb: Params;

@group(0) @binding(4) var<storage, read_write> delta_out: array<f32>;
@group(0) @binding(6) var<storage, read> out_in: array<vec4h>;
@group(0) @binding(7) var<uniform> pq: Params;

const LOW = -1e30;
const OTHERS = 32u;
override ROWS = WX / 4u;
override HEAD8 = HEAD / 8u;

// Vectors of 8 f16 or 4 f32: two tiles of the others' rows; scores of each set as [row][other], f32; the same as f16.
// Rows are padded by one vector. Offsets and strides of matrices count these vectors.
override LD = HEAD8 + 1u;
override TILE = OTHERS * LD;
const SLD = 9u;
const WLD = 5u;
override SCORES = 2u * TILE;
override WEIGHTS = SCORES + SETS * ROWS * SLD;
var<workgroup> pool: array<vec4u, WEIGHTS + SETS * ROWS * WLD>;
// forward: maximum and sum of an invocation's part of its row; backward_q: its part of delta
var<workgroup> lanes: array<vec2f, WX>;
// backward_kv: of each query of a tile the bits of lse and of delta, and where its document starts
var<workgroup> queries: array<vec4u, OTHERS>;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;

// 16 rows of a factor, and of half a head's sums.
struct Factor { m0: Left, m1: Left, m2: Left, m3: Left, m4: Left, m5: Left, m6: Left, m7: Left }
struct Half { m0: Sum, m1: Sum, m2: Sum, m3: Sum }

// Four neighbours of a row twice: what an invocation takes of it.
struct Eight { a: vec4f, b: vec4f }

fn pack(low: vec4h, high: vec4h) -> vec4u { return vec4u(bitcast<vec2u>(low), bitcast<vec2u>(high)); }

// Puts `count` rows down at `at`; row i begins at origin + i * ld: rows first .. , none beyond last.
fn stage(at: u32, origin: u32, ld: u32, first: u32, last: u32, count: u32, l: u32) {
  for (var i = l; i < count * HEAD8; i += WX) {
    let source = origin + min(first + i / HEAD8, last) * ld + 2u * (i % HEAD8);
    pool[at + (i / HEAD8) * LD + i % HEAD8] = pack(qkv[source], qkv[source + 1u]);
  }
}

fn stage_dout(at: u32, origin: u32, ld: u32, first: u32, last: u32, count: u32, l: u32) {
  for (var i = l; i < count * HEAD8; i += WX) {
    let source = origin + min(first + i / HEAD8, last) * ld + 2u * (i % HEAD8);
    pool[at + (i / HEAD8) * LD + i % HEAD8] = pack(dout[source], dout[source + 1u]);
  }
}

fn take_factor(f: ptr<function, Factor>, at: u32) {
  (*f).m0 = subgroupMatrixLoad<Left, row_major>(&pool, at, LD);
  (*f).m1 = subgroupMatrixLoad<Left, row_major>(&pool, at + 2u, LD);
  if (HEAD > 32u) {
    (*f).m2 = subgroupMatrixLoad<Left, row_major>(&pool, at + 4u, LD);
    (*f).m3 = subgroupMatrixLoad<Left, row_major>(&pool, at + 6u, LD);
  }
  if (HEAD > 64u) {
    (*f).m4 = subgroupMatrixLoad<Left, row_major>(&pool, at + 8u, LD);
    (*f).m5 = subgroupMatrixLoad<Left, row_major>(&pool, at + 10u, LD);
    (*f).m6 = subgroupMatrixLoad<Left, row_major>(&pool, at + 12u, LD);
    (*f).m7 = subgroupMatrixLoad<Left, row_major>(&pool, at + 14u, LD);
  }
}

fn add_product(sum: Sum, left: Left, at: u32) -> Sum {
  return subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, col_major>(&pool, at, LD), sum);
}

// scores of 16 rows with the 16 others whose rows begin at `at`
fn score(f: ptr<function, Factor>, at: u32) -> Sum {
  var sum = subgroupMatrixMultiply<f32>((*f).m0, subgroupMatrixLoad<Right, col_major>(&pool, at, LD));
  sum = add_product(sum, (*f).m1, at + 2u);
  if (HEAD > 32u) {
    sum = add_product(sum, (*f).m2, at + 4u);
    sum = add_product(sum, (*f).m3, at + 6u);
  }
  if (HEAD > 64u) {
    sum = add_product(sum, (*f).m4, at + 8u);
    sum = add_product(sum, (*f).m5, at + 10u);
    sum = add_product(sum, (*f).m6, at + 12u);
    sum = add_product(sum, (*f).m7, at + 14u);
  }
  return sum;
}

// forward's scores with the tile of keys from j on; a subgroup whose last query is `end` puts down one half of its pair's
fn score_keys(q: ptr<function, Factor>, k_at: u32, ld: u32, j: u32, last: u32, end: u32, s: u32, l: u32) {
  stage(0u, k_at, ld, j, last, OTHERS, l);
  workgroupBarrier();
  if (j <= end) {
    let m = score(q, (s % 2u) * 16u * LD);
    subgroupMatrixStore<row_major>(&pool, SCORES + (s / 2u) * 16u * SLD + (s % 2u) * 4u, m, SLD);
  }
  workgroupBarrier();
}

fn add_weighed(sum: Sum, w0: Left, w1: Left, at: u32) -> Sum {
  let half = subgroupMatrixMultiplyAccumulate(w0, subgroupMatrixLoad<Right, row_major>(&pool, at, LD), sum);
  return subgroupMatrixMultiplyAccumulate(w1, subgroupMatrixLoad<Right, row_major>(&pool, at + 16u * LD, LD), half);
}

// adds the tile's rows, from a dimension on that begins at `at`, weighed by what stands at `weights`
fn weigh(o: ptr<function, Half>, weights: u32, at: u32) {
  let w0 = subgroupMatrixLoad<Left, row_major>(&pool, weights, WLD);
  let w1 = subgroupMatrixLoad<Left, row_major>(&pool, weights + 2u, WLD);
  (*o).m0 = add_weighed((*o).m0, w0, w1, at);
  if (HEAD > 32u) { (*o).m1 = add_weighed((*o).m1, w0, w1, at + 2u); }
  if (HEAD > 64u) {
    (*o).m2 = add_weighed((*o).m2, w0, w1, at + 4u);
    (*o).m3 = add_weighed((*o).m3, w0, w1, at + 6u);
  }
}

fn scores_of(which: u32, l: u32) -> Eight {
  let at = SCORES + (which * ROWS + l / 4u) * SLD + 2u * (l % 4u);
  return Eight(bitcast<vec4f>(pool[at]), bitcast<vec4f>(pool[at + 1u]));
}

fn put_weights(which: u32, l: u32, w: Eight) {
  pool[WEIGHTS + (which * ROWS + l / 4u) * WLD + l % 4u] = pack(vec4h(w.a), vec4h(w.b));
}

// which of four keys a query sees
fn seen(start: u32, t: u32, key: vec4u) -> vec4<bool> { return (key >= vec4u(start)) & (key <= vec4u(t)); }

fn largest(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

fn sum4(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

// Subgroup s puts a matrix down as one of its pair's two; an invocation takes 8 columns of one of them.
fn put_sum(m: Sum, s: u32) {
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&pool, SCORES + (s / 2u) * 16u * SLD + (s % 2u) * 4u, m, SLD);
  workgroupBarrier();
}

fn store_out(m: Sum, s: u32, l: u32, at: u32, by: f32, inside: bool) {
  put_sum(m, s);
  let v = scores_of(0u, l);
  if (inside) {
    out[at] = vec4h(v.a * by);
    out[at + 1u] = vec4h(v.b * by);
  }
}

fn store_gradient(m: Sum, s: u32, l: u32, at: u32, inside: bool) {
  put_sum(m, s);
  let v = scores_of(0u, l);
  if (inside) {
    dqkv[at] = vec4h(v.a);
    dqkv[at + 1u] = vec4h(v.b);
  }
}

@compute @workgroup_size(WX)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
) {
  let g = group.x + group.y * groups.x;
  let tiles = (p.rows + ROWS - 1u) / ROWS;
  if (g >= tiles * p.heads) { return; }
  let first = (g % tiles) * ROWS;
  let h = g / tiles;
  let head4 = HEAD / 4u;
  let ld = (p.heads + 2u * p.kv_heads) * head4;
  let last = p.rows - 1u;
  let k_at = (p.heads + h / (p.heads / p.kv_heads)) * head4;
  let v_at = k_at + p.kv_heads * head4;
  let t = first + l / 4u;
  let start = document_start[min(t, last)];
  // a subgroup's last query, its scores of a tile and its half of the values' dimensions
  let end = first + (s / 2u) * 16u + 15u;
  let half = s % 2u;
  var q = Factor();
  stage(0u, h * head4, ld, first, last, ROWS, l);
  workgroupBarrier();
  take_factor(&q, (s / 2u) * 16u * LD);
  workgroupBarrier();
  let source = document_start[first];
  let until = min(first + ROWS, p.rows);
  var top = LOW;
  var sum = 0.0;
  for (var j = source; j < until; j += OTHERS) {
    score_keys(&q, k_at, ld, j, last, end, s, l);
    let key = vec4u(j + 8u * (l % 4u)) + vec4u(0u, 1u, 2u, 3u);
    let seen0 = seen(start, t, key);
    let seen1 = seen(start, t, key + 4u);
    let x = scores_of(0u, l);
    let a = select(vec4f(LOW), x.a * p.scale, seen0);
    let b = select(vec4f(LOW), x.b * p.scale, seen1);
    let next = max(top, max(largest(a), largest(b)));
    // what has met none of its keys yet holds LOW everywhere, which must not weigh as exp(0)
    let w = select(vec4f(), exp(a - next), seen0) + select(vec4f(), exp(b - next), seen1);
    sum = sum * exp(top - next) + sum4(w);
    top = next;
  }
  lanes[l] = vec2f(top, sum);
  workgroupBarrier();
  for (var i = 0u; i < 4u; i++) { top = max(top, lanes[(l / 4u) * 4u + i].x); }
  sum = 0.0;
  for (var i = 0u; i < 4u; i++) {
    let lane = lanes[(l / 4u) * 4u + i];
    sum += lane.y * exp(lane.x - top);
  }
  var o = Half();
  for (var j = source; j < until; j += OTHERS) {
    score_keys(&q, k_at, ld, j, last, end, s, l);
    let key = vec4u(j + 8u * (l % 4u)) + vec4u(0u, 1u, 2u, 3u);
    let x = scores_of(0u, l);
    put_weights(0u, l, Eight(
      select(vec4f(), exp(x.a * p.scale - top), seen(start, t, key)),
      select(vec4f(), exp(x.b * p.scale - top), seen(start, t, key + 4u)),
    ));
    stage(TILE, v_at, ld, j, last, OTHERS, l);
    workgroupBarrier();
    if (j <= end) { weigh(&o, WEIGHTS + (s / 2u) * 16u * WLD, TILE + half * (HEAD8 / 2u)); }
  }
  let inside = t < p.rows;
  let by = 1.0 / sum;
  let at = (t * p.heads + h) * head4 + ((l % 4u) / 2u) * (head4 / 2u) + 2u * (l % 2u);
  store_out(o.m0, s, l, at, by, inside);
  if (HEAD > 32u) { store_out(o.m1, s, l, at + 4u, by, inside); }
  if (HEAD > 64u) {
    store_out(o.m2, s, l, at + 8u, by, inside);
    store_out(o.m3, s, l, at + 12u, by, inside);
  }
  if (l % 4u == 0u && inside) { lse_out[t * p.heads + h] = top + log(sum); }
}

@compute @workgroup_size(WX)
fn backward_q(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
) {
  let g = group.x + group.y * groups.x;
  let tiles = (pq.rows + ROWS - 1u) / ROWS;
  if (g >= tiles * pq.heads) { return; }
  let first = (g % tiles) * ROWS;
  let h = g / tiles;
  let head4 = HEAD / 4u;
  let ld = (pq.heads + 2u * pq.kv_heads) * head4;
  let last = pq.rows - 1u;
  let k_at = (pq.heads + h / (pq.heads / pq.kv_heads)) * head4;
  let v_at = k_at + pq.kv_heads * head4;
  let t = first + l / 4u;
  let row = min(t, last);
  let start = document_start[row];
  let lse1 = lse[row * pq.heads + h];
  var part = 0.0;
  for (var i = l % 4u; i < head4; i += 4u) {
    let at = (row * pq.heads + h) * head4 + i;
    part += dot(vec4f(out_in[at]), vec4f(dout[at]));
  }
  lanes[l] = vec2f(part, 0.0);
  let end = first + (s / 2u) * 16u + 15u;
  let half = s % 2u;
  var f = Factor();
  stage(0u, h * head4, ld, first, last, ROWS, l);
  stage_dout(ROWS * LD, h * head4, pq.heads * head4, first, last, ROWS, l);
  workgroupBarrier();
  take_factor(&f, half * ROWS * LD + (s / 2u) * 16u * LD);
  var delta1 = 0.0;
  for (var i = 0u; i < 4u; i++) { delta1 += lanes[(l / 4u) * 4u + i].x; }
  if (l % 4u == 0u && t < pq.rows) { delta_out[t * pq.heads + h] = delta1; }
  var o = Half();
  for (var j = document_start[first]; j < min(first + ROWS, pq.rows); j += OTHERS) {
    workgroupBarrier();
    stage(0u, k_at, ld, j, last, OTHERS, l);
    stage(TILE, v_at, ld, j, last, OTHERS, l);
    workgroupBarrier();
    if (j <= end) {
      let at = SCORES + (half * ROWS + (s / 2u) * 16u) * SLD;
      subgroupMatrixStore<row_major>(&pool, at, score(&f, half * TILE), SLD);
      subgroupMatrixStore<row_major>(&pool, at + 4u, score(&f, half * TILE + 16u * LD), SLD);
    }
    workgroupBarrier();
    let key = vec4u(j + 8u * (l % 4u)) + vec4u(0u, 1u, 2u, 3u);
    let x = scores_of(0u, l);
    let dw = scores_of(1u, l);
    let scale = pq.scale;
    put_weights(0u, l, Eight(
      select(vec4f(), exp(x.a * scale - lse1) * (dw.a - delta1) * scale, seen(start, t, key)),
      select(vec4f(), exp(x.b * scale - lse1) * (dw.b - delta1) * scale, seen(start, t, key + 4u)),
    ));
    workgroupBarrier();
    if (j <= end) { weigh(&o, WEIGHTS + (s / 2u) * 16u * WLD, half * (HEAD8 / 2u)); }
  }
  let inside = t < pq.rows;
  let at = t * ld + h * head4 + ((l % 4u) / 2u) * (head4 / 2u) + 2u * (l % 2u);
  store_gradient(o.m0, s, l, at, inside);
  if (HEAD > 32u) { store_gradient(o.m1, s, l, at + 4u, inside); }
  if (HEAD > 64u) {
    store_gradient(o.m2, s, l, at + 8u, inside);
    store_gradient(o.m3, s, l, at + 12u, inside);
  }
}

@compute @workgroup_size(WX)
fn backward_kv(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) l: u32,
  @builtin(subgroup_id) s: u32,
) {
  let g = group.x + group.y * groups.x;
  let tiles = (pb.rows + ROWS - 1u) / ROWS;
  if (g >= tiles * pb.kv_heads) { return; }
  let first = (g % tiles) * ROWS;
  let kv = g / tiles;
  let head4 = HEAD / 4u;
  let ld = (pb.heads + 2u * pb.kv_heads) * head4;
  let last = pb.rows - 1u;
  let k_at = (pb.heads + kv) * head4;
  let v_at = k_at + pb.kv_heads * head4;
  let each = pb.heads / pb.kv_heads;
  let key = first + l / 4u;
  // a subgroup's first key, and whether it has the keys or the values
  let begin = first + (s / 2u) * 16u;
  let half = s % 2u;
  var f = Factor();
  stage(0u, k_at, ld, first, last, ROWS, l);
  stage(ROWS * LD, v_at, ld, first, last, ROWS, l);
  workgroupBarrier();
  take_factor(&f, half * ROWS * LD + (s / 2u) * 16u * LD);
  var low = Half();
  var high = Half();
  for (var h = kv * each; h < (kv + 1u) * each; h++) {
    for (var j = first; j < pb.rows; j += OTHERS) {
      // documents are contiguous: a query whose document begins behind these keys ends the walk
      if (document_start[j] > first + ROWS - 1u) { break; }
      workgroupBarrier();
      stage(0u, h * head4, ld, j, last, OTHERS, l);
      stage_dout(TILE, h * head4, pb.heads * head4, j, last, OTHERS, l);
      if (l < OTHERS) {
        let row = min(j + l, last);
        let begins = select(document_start[row], 0xffffffffu, j + l > last);
        queries[l] = vec4u(bitcast<u32>(lse[row * pb.heads + h]), bitcast<u32>(delta[row * pb.heads + h]), begins, 0u);
      }
      workgroupBarrier();
      if (j + OTHERS > begin) {
        let at = SCORES + (half * ROWS + (s / 2u) * 16u) * SLD;
        subgroupMatrixStore<row_major>(&pool, at, score(&f, half * TILE), SLD);
        subgroupMatrixStore<row_major>(&pool, at + 4u, score(&f, half * TILE + 16u * LD), SLD);
      }
      workgroupBarrier();
      let x = scores_of(0u, l);
      let dw = scores_of(1u, l);
      let i = 8u * (l % 4u);
      var weights = Eight();
      var gradients = Eight();
      for (var c = 0u; c < 4u; c++) {
        let qa = queries[i + c];
        let qb = queries[i + 4u + c];
        let wa = exp(x.a[c] * pb.scale - bitcast<f32>(qa.x));
        let wb = exp(x.b[c] * pb.scale - bitcast<f32>(qb.x));
        if (qa.z <= key && key <= j + i + c) {
          weights.a[c] = wa;
          gradients.a[c] = wa * (dw.a[c] - bitcast<f32>(qa.y)) * pb.scale;
        }
        if (qb.z <= key && key <= j + i + 4u + c) {
          weights.b[c] = wb;
          gradients.b[c] = wb * (dw.b[c] - bitcast<f32>(qb.y)) * pb.scale;
        }
      }
      put_weights(0u, l, weights);
      put_weights(1u, l, gradients);
      workgroupBarrier();
      if (j + OTHERS > begin) {
        // dk takes the gradients and the queries, dv the weights and what comes for the results
        let at = WEIGHTS + ((1u - half) * ROWS + (s / 2u) * 16u) * WLD;
        weigh(&low, at, half * TILE);
        weigh(&high, at, half * TILE + HEAD8 / 2u);
      }
    }
  }
  let inside = key < pb.rows;
  let at = key * ld + select(k_at, v_at, l % 4u > 1u) + 2u * (l % 2u);
  store_gradient(low.m0, s, l, at, inside);
  if (HEAD > 32u) { store_gradient(low.m1, s, l, at + 4u, inside); }
  if (HEAD > 64u) {
    store_gradient(low.m2, s, l, at + 8u, inside);
    store_gradient(low.m3, s, l, at + 12u, inside);
  }
  let upper = at + head4 / 2u;
  store_gradient(high.m0, s, l, upper, inside);
  if (HEAD > 32u) { store_gradient(high.m1, s, l, upper + 4u, inside); }
  if (HEAD > 64u) {
    store_gradient(high.m2, s, l, upper + 8u, inside);
    store_gradient(high.m3, s, l, upper + 12u, inside);
  }
}
