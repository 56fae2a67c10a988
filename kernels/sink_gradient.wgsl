// The weight gradient of the sinks that this batch lights, and of no others.
//
// dW[row(unit, r), :] += sum over the segments that light the unit, in fixed order, of
//                        sum over the segment's tokens t of  dY[t, column(slot, r)] * X[t, :]
//
// unit_start[u] .. unit_start[u+1] lists, for the u-th touched unit, its (segment, slot) pairs in "uses"; units[u] is its
// number in the pool. An invocation owns 8 neurons of one unit by 8 columns, as in matmul.wgsl; block is a multiple of 8.
// dY has the layout of the MLP's hidden activations: p.halves groups (gate, up) of p.active sink columns from column a0 on.
struct Params {
  touched: u32, n4: u32, block: u32, halves: u32,
  a0: u32, lda4: u32, active4: u32,
  ldb4: u32,
  row0: u32, half_rows: u32, store: u32,
}
alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> dy: array<T4>;
@group(0) @binding(1) var<storage, read> x: array<T4>;
@group(0) @binding(2) var<storage, read> touched_count: array<u32>;
@group(0) @binding(3) var<storage, read> units: array<u32>;
@group(0) @binding(4) var<storage, read> unit_start: array<u32>;
@group(0) @binding(5) var<storage, read> uses: array<vec2u>;
@group(0) @binding(6) var<storage, read> segment_range: array<vec2u>;
@group(0) @binding(7) var<storage, read_write> dw: array<vec4f>;
@group(0) @binding(8) var<uniform> p: Params;

override WX: u32 = 4;
override WY: u32 = 1;

fn add(row: u32, col: u32, v0: vec4f, v1: vec4f) {
  let at = row * p.n4 + col;
  if (p.store == 1u) { dw[at] = v0; } else { dw[at] += v0; }
  if (col + 1u >= p.n4) { return; }
  if (p.store == 1u) { dw[at + 1u] = v1; } else { dw[at + 1u] += v1; }
}

@compute @workgroup_size(WX, WY)
fn backward(@builtin(global_invocation_id) id: vec3u) {
  let parts = p.block / 8u;
  let part = id.y % parts;
  let half = (id.y / parts) % p.halves;
  let u = id.y / (parts * p.halves);
  let col = id.x * 2u;
  if (col >= p.n4 || u >= touched_count[0]) { return; }
  var c00 = vec4f(); var c01 = vec4f();
  var c10 = vec4f(); var c11 = vec4f();
  var c20 = vec4f(); var c21 = vec4f();
  var c30 = vec4f(); var c31 = vec4f();
  var c40 = vec4f(); var c41 = vec4f();
  var c50 = vec4f(); var c51 = vec4f();
  var c60 = vec4f(); var c61 = vec4f();
  var c70 = vec4f(); var c71 = vec4f();
  for (var e = unit_start[u]; e < unit_start[u + 1u]; e++) {
    let use_of = uses[e];
    let range = segment_range[use_of.x];
    var a_at = p.a0 + range.x * p.lda4 + half * p.active4 + (use_of.y * p.block + part * 8u) / 4u;
    var b_at = range.x * p.ldb4 + col;
    for (var t = 0u; t < range.y; t++) {
      let x_ = vec4f(dy[a_at]);
      let y_ = vec4f(dy[a_at + 1u]);
      let b0 = vec4f(x[b_at]);
      let b1 = vec4f(x[b_at + 1u]);
      a_at += p.lda4;
      b_at += p.ldb4;
    c00 += x_.x * b0; c01 += x_.x * b1;
    c10 += x_.y * b0; c11 += x_.y * b1;
    c20 += x_.z * b0; c21 += x_.z * b1;
    c30 += x_.w * b0; c31 += x_.w * b1;
    c40 += y_.x * b0; c41 += y_.x * b1;
    c50 += y_.y * b0; c51 += y_.y * b1;
    c60 += y_.z * b0; c61 += y_.z * b1;
    c70 += y_.w * b0; c71 += y_.w * b1;
    }
  }
  let row = p.row0 + half * p.half_rows + units[u] * p.block + part * 8u;
  add(row + 0u, col, c00, c01);
  add(row + 1u, col, c10, c11);
  add(row + 2u, col, c20, c21);
  add(row + 3u, col, c30, c31);
  add(row + 4u, col, c40, c41);
  add(row + 5u, col, c50, c51);
  add(row + 6u, col, c60, c61);
  add(row + 7u, col, c70, c71);
}
