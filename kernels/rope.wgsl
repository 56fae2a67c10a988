// Rotary position embedding, in place on the query and key heads of qkv [rows, ld]: pairs (i, i + headDim/2) of a head are
// turned by angle[position, i]. SIGN = 1 forward, -1 backward (the inverse rotation). cos and sin come from a table
// computed in float64, because adapters differ in how they reduce large angles. One invocation a pair.
struct Params { rows: u32, heads: u32, half: u32, ld: u32 }
alias X = f32;
alias X4 = vec4f;
@group(0) @binding(0) var<storage, read> positions: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> x: array<X>;
@group(0) @binding(3) var<uniform> p: Params;

override WX: u32 = 16;
override SIGN: f32 = 1.0;

@compute @workgroup_size(WX)
fn forward(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let n = id.x + id.y * groups.x * WX;
  let pairs = p.heads * p.half;
  let row = n / pairs;
  if (row >= p.rows) { return; }
  let i = n % p.half;
  let head = (n % pairs) / p.half;
  let at = row * p.ld + head * p.half * 2u + i;
  let turn = table[positions[row] * p.half + i];
  let c = turn.x;
  let s = turn.y * SIGN;
  let a = f32(x[at]);
  let b = f32(x[at + p.half]);
  x[at] = X(a * c - b * s);
  x[at + p.half] = X(b * c + a * s);
}
