// The gradient of sink_gradient.wgsl, with the same bindings and parameters, for GPUs:
//   dW[row(unit, r), :] += sum over the segments that light the unit, in fixed order, of
//                          sum over the segment's tokens t of  dY[t, column(slot, r)] * X[t, :]
//
// A workgroup of 64 owns 16 neurons of a touched unit by 64 columns, an invocation 4 x 4 of them; larger blocks are
// several parts. The tokens of one segment after another are staged in workgroup memory, 16 at a time; behind the last
// dY is zero.
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

override WX: u32 = 64;
const STEP = 16u;

// [token][neurons in groups of 4] and [token][columns in groups of 4]
var<workgroup> left: array<vec4f, STEP * 4u>;
var<workgroup> right: array<vec4f, STEP * 16u>;

fn add(r: u32, row: u32, col: u32, v: vec4f) {
  if (r >= p.block || col >= p.n4) { return; }
  let at = (row + r) * p.n4 + col;
  if (p.store == 1u) { dw[at] = v; } else { dw[at] += v; }
}

@compute @workgroup_size(WX)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) l: u32) {
  let parts = (p.block + 15u) / 16u;
  let part = group.y % parts;
  let half = (group.y / parts) % p.halves;
  let u = group.y / (parts * p.halves);
  if (u >= touched_count[0]) { return; }
  // invocation l stages group l % 4 of token l / 4, and group l % 16 of tokens l / 16 and 4, 8, 12 more
  let neurons = min(part * 4u + l % 4u, p.block / 4u - 1u);
  let column = min(group.x * 16u + l % 16u, p.n4 - 1u);
  var c0 = vec4f(); var c1 = vec4f(); var c2 = vec4f(); var c3 = vec4f();
  for (var e = unit_start[u]; e < unit_start[u + 1u]; e++) {
    let pair = uses[e];
    let range = segment_range[pair.x];
    let a_at = p.a0 + range.x * p.lda4 + half * p.active4 + pair.y * p.block / 4u + neurons;
    let b_at = range.x * p.ldb4 + column;
    for (var t0 = 0u; t0 < range.y; t0 += STEP) {
      let last = range.y - 1u;
      let t = t0 + l / 4u;
      workgroupBarrier();
      left[l] = select(vec4f(), vec4f(dy[a_at + min(t, last) * p.lda4]), t < range.y);
      for (var i = l; i < STEP * 16u; i += 64u) {
        right[i] = vec4f(x[b_at + min(t0 + i / 16u, last) * p.ldb4]);
      }
      workgroupBarrier();
      for (var k = 0u; k < STEP; k++) {
        let a = left[k * 4u + l / 16u];
        let b = right[k * 16u + l % 16u];
        c0 += a.x * b;
        c1 += a.y * b;
        c2 += a.z * b;
        c3 += a.w * b;
      }
    }
  }
  let row = p.row0 + half * p.half_rows + units[u] * p.block;
  let r = part * 16u + 4u * (l / 16u);
  let col = group.x * 16u + l % 16u;
  add(r, row, col, c0);
  add(r + 1u, row, col, c1);
  add(r + 2u, row, col, c2);
  add(r + 3u, row, col, c3);
}
