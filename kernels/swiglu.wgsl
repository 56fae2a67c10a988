// The gated MLP's activation with the sink mask fused.
//   forward:   h[t, j] = coef * silu(gate) * up
//   backward:  dgate = coef * dh * up * silu'(gate),  dup = coef * dh * silu(gate)
// gu [rows, 2 * (general + sink)]: gate of the general neurons | up of the general | gate of the sinks | up of the sinks.
// h  [rows, general + sink].       coef[segment, 0] for general neurons, coef[segment, 1 + unit] for a unit's BLOCK sinks.
// A coefficient of 0 switches a sink off, in forward and so exactly in backward, whatever it would have been: in f16 its
// gate or up may overflow, and 0 * inf is not 0. At 1 it is on (training: 0 or 1).
// One invocation 4 neurons of one token.
struct Params { rows: u32, general4: u32, sink4: u32, coef_stride: u32 }
alias T = f32;
alias T4 = vec4f;
@group(0) @binding(0) var<storage, read> gu: array<T4>;
@group(0) @binding(1) var<storage, read> coef: array<f32>;
@group(0) @binding(2) var<storage, read> segment: array<u32>;
@group(0) @binding(3) var<storage, read_write> h: array<T4>;
@group(0) @binding(4) var<uniform> p: Params;

override WX: u32 = 16;
override BLOCK: u32 = 16;

fn coefficient(at: u32, general4: u32, j4: u32) -> vec4f {
  if (j4 < general4) { return vec4f(coef[at]); }
  let j = (j4 - general4) * 4u;
  if (BLOCK % 4u == 0u) { return vec4f(coef[at + 1u + j / BLOCK]); }
  return vec4f(coef[at + 1u + j / BLOCK], coef[at + 1u + (j + 1u) / BLOCK],
    coef[at + 1u + (j + 2u) / BLOCK], coef[at + 1u + (j + 3u) / BLOCK]);
}

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let width = p.general4 + p.sink4;
  let t = i / width;
  if (t >= p.rows) { return; }
  let j = i % width;
  var at = t * width * 2u + j;
  var up = at + p.general4;
  if (j >= p.general4) { at += p.general4; up = at + p.sink4; }
  let g = vec4f(gu[at]);
  let c = coefficient(segment[t] * p.coef_stride, p.general4, j);
  h[i] = T4(select(c * g / (1.0 + exp(-g)) * vec4f(gu[up]), vec4f(), c == vec4f()));
}

@group(0) @binding(3) var<storage, read> dh: array<T4>;
@group(0) @binding(4) var<storage, read_write> dgu: array<T4>;
@group(0) @binding(5) var<uniform> q: Params;

@compute @workgroup_size(WX)
fn backward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let width = q.general4 + q.sink4;
  let t = i / width;
  if (t >= q.rows) { return; }
  let j = i % width;
  var at = t * width * 2u + j;
  var up = at + q.general4;
  if (j >= q.general4) { at += q.general4; up = at + q.sink4; }
  let g = vec4f(gu[at]);
  let c = coefficient(segment[t] * q.coef_stride, q.general4, j);
  let is_off = c == vec4f();
  let d = c * vec4f(dh[i]);
  let sigmoid = 1.0 / (1.0 + exp(-g));
  dgu[up] = T4(select(d * g * sigmoid, vec4f(), is_off));
  dgu[at] = T4(select(d * vec4f(gu[up]) * sigmoid * (1.0 + g * (1.0 - sigmoid)), vec4f(), is_off));
}
