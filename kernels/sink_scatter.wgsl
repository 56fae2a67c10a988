// The weight gradient of sinks that are lit one by one (or in blocks of fewer than 8), from that of packed sinks.
//
// dW[row(unit, r), :] += sum over the segments that light the unit, in fixed order, of  packed[half, segment, slot, r, :]
//
// Where sinks lie alone in the pool, sink_gradient.wgsl has no 8 neighbours of one unit to own; in a segment's packed
// columns they do lie side by side. It first writes their gradients there, [halves, segments * slots * block, n], and
// this kernel takes them where they belong: those of a layer's two weights, whose sinks begin at rows first0 and first1.
// "units", unit_start and "uses" are those of sink_gradient.wgsl; the latter lists real uses only, so that slots beyond
// an id's units, of coefficient 0, go nowhere. One invocation 4 columns of one neuron, of the weights one after the other.
struct Params {
  touched: u32, n4: u32, block: u32, slots: u32, half_packed: u32, half_rows: u32,
  halves0: u32, first0: u32, halves1: u32, first1: u32,
}
@group(0) @binding(0) var<storage, read> packed0: array<vec4f>;
@group(0) @binding(1) var<storage, read> packed1: array<vec4f>;
@group(0) @binding(2) var<storage, read> touched_count: array<u32>;
@group(0) @binding(3) var<storage, read> units: array<u32>;
@group(0) @binding(4) var<storage, read> unit_start: array<u32>;
@group(0) @binding(5) var<storage, read> uses: array<vec2u>;
@group(0) @binding(6) var<storage, read_write> dw0: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dw1: array<vec4f>;
@group(0) @binding(8) var<uniform> p: Params;

override WX: u32 = 16;

// unit, half and row in the block of a neuron
fn neuron(i: u32, halves: u32) -> vec3u {
  let n = i / p.n4;
  return vec3u(n / (p.block * halves), (n / p.block) % halves, n % p.block);
}

// group of the packed gradient that use e of a neuron has
fn at(e: u32, it: vec3u, col: u32) -> u32 {
  let use_of = uses[e];
  return (it.y * p.half_packed + (use_of.x * p.slots + use_of.y) * p.block + it.z) * p.n4 + col;
}

@compute @workgroup_size(WX)
fn backward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var i = id.x + id.y * groups.x * WX;
  let first = p.touched * p.halves0 * p.block * p.n4;
  let second = i >= first;
  if (second) { i -= first; }
  let it = neuron(i, select(p.halves0, p.halves1, second));
  if (it.x >= min(p.touched, touched_count[0])) { return; }
  let col = i % p.n4;
  let row = select(p.first0, p.first1, second) + it.y * p.half_rows + units[it.x] * p.block + it.z;
  var sum = vec4f();
  if (second) {
    for (var e = unit_start[it.x]; e < unit_start[it.x + 1u]; e++) { sum += packed1[at(e, it, col)]; }
    dw1[row * p.n4 + col] += sum;
  } else {
    for (var e = unit_start[it.x]; e < unit_start[it.x + 1u]; e++) { sum += packed0[at(e, it, col)]; }
    dw0[row * p.n4 + col] += sum;
  }
}
