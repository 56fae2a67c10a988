// forward:   y[t, :] = table[tokens[t], :]
// backward:  dtable[v, :] += sum over the positions t with tokens[t] = v, in rising order, of dy[t, :]
// The host sorts positions by token: order[start[v] .. start[v+1]]. Summing in that order needs no atomics, so the same
// batch gives the same bits. An invocation owns 4 columns of one row.
struct Params { rows: u32, n4: u32 }
@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> p: Params;

override WX: u32 = 16;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  if (i >= p.rows * p.n4) { return; }
  y[i] = table[tokens[i / p.n4] * p.n4 + i % p.n4];
}

@group(0) @binding(0) var<storage, read> start: array<u32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dtable: array<vec4f>;
@group(0) @binding(4) var<uniform> q: Params;

@compute @workgroup_size(WX)
fn backward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let v = i / q.n4;
  if (v >= q.rows || start[v] == start[v + 1u]) { return; }
  var sum = vec4f();
  for (var e = start[v]; e < start[v + 1u]; e++) { sum += dy[order[e] * q.n4 + i % q.n4]; }
  dtable[i] += sum;
}
