// Weight gradients' rows of the sinks that this step's batches touched, and of no others: of several weights at once, as
// many as there are bindings. One with no halves, or no lanes, is none.
//   zero:            g[row, :] = 0
//   sum_of_squares:  partial[first + lane] += sum over the lane's elements of g^2, in a fixed order
//   collect:         packed[e] = the weight's e-th touched element
//   spread:          and back
// The touched elements of a weight, in groups of 4, are counted through: unit after unit, its halves (gate, up), its block
// of rows. Row r of half h of unit u is row0 + h * pool + u * block + r.
struct Params {
  row4: u32, pool: u32, block: u32,
  row00: u32, halves0: u32, row01: u32, halves1: u32, row02: u32, halves2: u32,
  row03: u32, halves3: u32, row04: u32, halves4: u32, row05: u32, halves5: u32,
}
@group(0) @binding(0) var<storage, read> units: array<u32>;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read_write> g0: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> g1: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> g2: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> g3: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> g4: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> g5: array<vec4f>;
@group(0) @binding(8) var<uniform> p: Params;

override WX: u32 = 16;

// Where the e-th touched element of a weight is; `pool` is row4, pool and block.
fn place(e: u32, pool: vec3u, row0: u32, halves: u32) -> u32 {
  let per_half = pool.z * pool.x;
  let half = e / per_half;
  return (row0 + (half % halves) * pool.y + units[half / halves] * pool.z) * pool.x + e % per_half;
}

@compute @workgroup_size(WX)
fn zero(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let first = id.x + id.y * groups.x * WX;
  let stride = groups.x * groups.y * WX;
  let half = count[0] * p.block * p.row4;
  let pool = vec3u(p.row4, p.pool, p.block);
  for (var e = first; e < half * p.halves0; e += stride) { g0[place(e, pool, p.row00, p.halves0)] = vec4f(); }
  for (var e = first; e < half * p.halves1; e += stride) { g1[place(e, pool, p.row01, p.halves1)] = vec4f(); }
  for (var e = first; e < half * p.halves2; e += stride) { g2[place(e, pool, p.row02, p.halves2)] = vec4f(); }
  for (var e = first; e < half * p.halves3; e += stride) { g3[place(e, pool, p.row03, p.halves3)] = vec4f(); }
  for (var e = first; e < half * p.halves4; e += stride) { g4[place(e, pool, p.row04, p.halves4)] = vec4f(); }
  for (var e = first; e < half * p.halves5; e += stride) { g5[place(e, pool, p.row05, p.halves5)] = vec4f(); }
}

struct Squares {
  row4: u32, pool: u32, block: u32,
  row00: u32, halves0: u32, lanes0: u32, first0: u32, row01: u32, halves1: u32, lanes1: u32, first1: u32,
  row02: u32, halves2: u32, lanes2: u32, first2: u32, row03: u32, halves3: u32, lanes3: u32, first3: u32,
  row04: u32, halves4: u32, lanes4: u32, first4: u32,
}
@group(0) @binding(2) var<storage, read> s0: array<vec4f>;
@group(0) @binding(3) var<storage, read> s1: array<vec4f>;
@group(0) @binding(4) var<storage, read> s2: array<vec4f>;
@group(0) @binding(5) var<storage, read> s3: array<vec4f>;
@group(0) @binding(6) var<storage, read> s4: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> partial: array<f32>;
@group(0) @binding(8) var<uniform> q: Squares;

fn add(to: u32, sum: vec4f) { partial[to] += sum.x + sum.y + sum.z + sum.w; }

@compute @workgroup_size(WX)
fn sum_of_squares(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var lane = id.x + id.y * groups.x * WX;
  let half = count[0] * q.block * q.row4;
  let pool = vec3u(q.row4, q.pool, q.block);
  var sum = vec4f();
  if (lane < q.lanes0) {
    for (var e = lane; e < half * q.halves0; e += q.lanes0) {
      let x = s0[place(e, pool, q.row00, q.halves0)];
      sum += x * x;
    }
    add(q.first0 + lane, sum);
    return;
  }
  lane -= q.lanes0;
  if (lane < q.lanes1) {
    for (var e = lane; e < half * q.halves1; e += q.lanes1) {
      let x = s1[place(e, pool, q.row01, q.halves1)];
      sum += x * x;
    }
    add(q.first1 + lane, sum);
    return;
  }
  lane -= q.lanes1;
  if (lane < q.lanes2) {
    for (var e = lane; e < half * q.halves2; e += q.lanes2) {
      let x = s2[place(e, pool, q.row02, q.halves2)];
      sum += x * x;
    }
    add(q.first2 + lane, sum);
    return;
  }
  lane -= q.lanes2;
  if (lane < q.lanes3) {
    for (var e = lane; e < half * q.halves3; e += q.lanes3) {
      let x = s3[place(e, pool, q.row03, q.halves3)];
      sum += x * x;
    }
    add(q.first3 + lane, sum);
    return;
  }
  lane -= q.lanes3;
  if (lane < q.lanes4) {
    for (var e = lane; e < half * q.halves4; e += q.lanes4) {
      let x = s4[place(e, pool, q.row04, q.halves4)];
      sum += x * x;
    }
    add(q.first4 + lane, sum);
    return;
  }
}

struct Packing { row4: u32, pool: u32, block: u32, row0: u32, halves: u32 }
@group(0) @binding(2) var<storage, read> s: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> packed: array<vec4f>;
@group(0) @binding(2) var<storage, read> summed: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> g: array<vec4f>;
@group(0) @binding(4) var<uniform> r: Packing;

fn element(e: u32) -> u32 { return place(e, vec3u(r.row4, r.pool, r.block), r.row0, r.halves); }

@compute @workgroup_size(WX)
fn collect(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let n = count[0] * r.halves * r.block * r.row4;
  let stride = groups.x * groups.y * WX;
  for (var e = id.x + id.y * groups.x * WX; e < n; e += stride) { packed[e] = s[element(e)]; }
}

@compute @workgroup_size(WX)
fn spread(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let n = count[0] * r.halves * r.block * r.row4;
  let stride = groups.x * groups.y * WX;
  for (var e = id.x + id.y * groups.x * WX; e < n; e += stride) { g[element(e)] = summed[e]; }
}
