// Gathers the weights of the sinks that each segment lights, into one dense matrix per segment, so that the plain matmul
// kernel multiplies them.
//
// Neuron c of a segment's packed matrix (c < halves * lit; gate neurons, then up neurons) is the row
//   row0 + half * half_rows + active_units[segment, slot] * block + (c % block)      of w [*, n]
// rows:        packed[segment, c, :] = w[row, :]
// transposed:  packed[segment, :, c] = w[row, :]
struct Params { segments: u32, slots: u32, block: u32, halves: u32, row0: u32, half_rows: u32, n: u32 }
alias Y = f32;
alias Y4 = vec4f;
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(0) var<storage, read> w4: array<vec4f>;
@group(0) @binding(1) var<storage, read> active_units: array<u32>;
@group(0) @binding(2) var<storage, read> segment_count: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<Y4>;
@group(0) @binding(4) var<uniform> p: Params;

override WX: u32 = 16;

fn row_of(segment: u32, c: u32) -> u32 {
  let width = p.slots * p.block;
  let inside = c % width;
  let unit = active_units[segment * p.slots + inside / p.block];
  return p.row0 + (c / width) * p.half_rows + unit * p.block + inside % p.block;
}

@compute @workgroup_size(WX)
fn rows(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let n4 = p.n / 4u;
  let width = p.halves * p.slots * p.block;
  let segment = i / (n4 * width);
  if (segment >= min(p.segments, segment_count[0])) { return; }
  let c = (i / n4) % width;
  out[i] = Y4(w4[row_of(segment, c) * n4 + i % n4]);
}

@compute @workgroup_size(WX)
fn transposed(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let width4 = p.halves * p.slots * p.block / 4u;
  let segment = i / (p.n * width4);
  if (segment >= min(p.segments, segment_count[0])) { return; }
  let d = (i / width4) % p.n;
  let c = (i % width4) * 4u;
  out[i] = Y4(vec4f(
    w[row_of(segment, c) * p.n + d],
    w[row_of(segment, c + 1u) * p.n + d],
    w[row_of(segment, c + 2u) * p.n + d],
    w[row_of(segment, c + 3u) * p.n + d],
  ));
}
