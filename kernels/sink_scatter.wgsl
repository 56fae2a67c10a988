// The weight gradient of sinks that are lit one by one (or in blocks of fewer than 8), from that of packed sinks.
//
// dW[row(unit, r), :] += sum over the segments that light the unit, in fixed order, of  packed[half, segment, slot, r, :]
//
// Where sinks lie alone in the pool, sink_gradient.wgsl has no 8 neighbours of one unit to own; in a segment's packed
// columns they do lie side by side. It first writes their gradients there, [halves, segments * slots * block, n], and
// this kernel takes them where they belong. "units", unit_start and "uses" are those of sink_gradient.wgsl; the latter
// lists real uses only, so that slots beyond an id's units, of coefficient 0, go nowhere.
// One invocation 4 columns of one neuron.
struct Params { touched: u32, n4: u32, block: u32, halves: u32, slots: u32, packed_half: u32, row0: u32, half_rows: u32 }
@group(0) @binding(0) var<storage, read> packed: array<vec4f>;
@group(0) @binding(1) var<storage, read> touched_count: array<u32>;
@group(0) @binding(2) var<storage, read> units: array<u32>;
@group(0) @binding(3) var<storage, read> unit_start: array<u32>;
@group(0) @binding(4) var<storage, read> uses: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> dw: array<vec4f>;
@group(0) @binding(6) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn backward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let col = i % p.n4;
  let r = (i / p.n4) % p.block;
  let half = (i / (p.n4 * p.block)) % p.halves;
  let u = i / (p.n4 * p.block * p.halves);
  if (u >= min(p.touched, touched_count[0])) { return; }
  var sum = vec4f();
  for (var e = unit_start[u]; e < unit_start[u + 1u]; e++) {
    let use_of = uses[e];
    let row = half * p.packed_half + (use_of.x * p.slots + use_of.y) * p.block + r;
    sum += packed[row * p.n4 + col];
  }
  dw[(p.row0 + half * p.half_rows + units[u] * p.block + r) * p.n4 + col] += sum;
}
