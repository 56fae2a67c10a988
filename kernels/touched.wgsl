// A weight gradient's rows of the sinks that this step's batches touched, and of no others.
//   zero:            g[row, :] = 0
//   sum_of_squares:  partial[p.first + lane] += sum over the lane's elements of g^2, in a fixed order
// The touched elements, in groups of 4, are counted through: unit after unit, its halves (gate, up), its block of rows.
// Row r of half h of unit u is sink_row0 + h * pool + u * block + r.
struct Params { row4: u32, sink_row0: u32, pool: u32, block: u32, halves: u32, lanes: u32, first: u32 }
@group(0) @binding(0) var<storage, read> units: array<u32>;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read_write> g: array<vec4f>;
@group(0) @binding(3) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn zero(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let per_half = p.block * p.row4;
  let total = count[0] * p.halves * per_half;
  let stride = groups.x * groups.y * WX;
  for (var e = id.x + id.y * groups.x * WX; e < total; e += stride) {
    let half = e / per_half;
    let row0 = p.sink_row0 + (half % p.halves) * p.pool + units[half / p.halves] * p.block;
    g[row0 * p.row4 + e % per_half] = vec4f();
  }
}

@group(0) @binding(2) var<storage, read> g_in: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;
@group(0) @binding(4) var<uniform> q: Params;

@compute @workgroup_size(WX)
fn sum_of_squares(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let lane = id.x + id.y * groups.x * WX;
  if (lane >= q.lanes) { return; }
  let per_half = q.block * q.row4;
  let total = count[0] * q.halves * per_half;
  var sum = vec4f();
  for (var e = lane; e < total; e += q.lanes) {
    let half = e / per_half;
    let row0 = q.sink_row0 + (half % q.halves) * q.pool + units[half / q.halves] * q.block;
    let x = g_in[row0 * q.row4 + e % per_half];
    sum += x * x;
  }
  partial[q.first + lane] += sum.x + sum.y + sum.z + sum.w;
}
