// Gates of single neurons, one for each segment.
//   forward:        y[t, i] = h[t, i] * gate[segment[t], i]        and so dh, for the gradient dy in the place of h
//   backward_gate:  dgate[s, i] = sum over the tokens t of segment s, in order, of h[t, i] * dh[t, i]
// with dh the gradient of what the gate returned. h [tokens, width], gate [segments, width]; a segment's tokens lie together,
// segment_range[s] = (first token, tokens). A segment without tokens gets 0. One invocation 4 neurons of a token or segment.
struct Params { rows: u32, n4: u32 }
@group(0) @binding(0) var<storage, read> h: array<vec4f>;
@group(0) @binding(1) var<storage, read> gate: array<vec4f>;
@group(0) @binding(2) var<storage, read> segment: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let t = i / p.n4;
  if (t >= p.rows) { return; }
  let g = gate[segment[t] * p.n4 + i % p.n4];
  // a gate of 0 takes a neuron out, even one that is infinite
  y[i] = select(h[i] * g, vec4f(), g == vec4f());
}

@group(0) @binding(1) var<storage, read> dh: array<vec4f>;
@group(0) @binding(2) var<storage, read> segment_range: array<u32>;
@group(0) @binding(3) var<storage, read_write> dgate: array<vec4f>;

@compute @workgroup_size(WX)
fn backward_gate(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let s = i / p.n4;
  if (s >= p.rows) { return; }
  let first = segment_range[2u * s];
  let end = first + segment_range[2u * s + 1u];
  var sum = vec4f();
  for (var t = first; t < end; t++) {
    let at = t * p.n4 + i % p.n4;
    sum += h[at] * dh[at];
  }
  dgate[i] = sum;
}
