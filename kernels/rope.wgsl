// Rotary position embedding, in place on the query and key heads of qkv [rows, ld]: pairs (i, i + headDim/2) of a head are
// turned by angle[position, i]. SIGN = 1 forward, -1 backward (the inverse rotation). cos and sin come from a table
// computed in float64, because adapters differ in how they reduce large angles. `pairs`: one invocation a pair; `quads`, for
// heads whose half is a multiple of 4: four.
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
fn pairs(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let n = id.x + id.y * groups.x * WX;
  let each = p.heads * p.half;
  let row = n / each;
  if (row >= p.rows) { return; }
  let i = n % p.half;
  let head = (n % each) / p.half;
  let at = row * p.ld + head * p.half * 2u + i;
  let turn = table[positions[row] * p.half + i];
  let c = turn.x;
  let s = turn.y * SIGN;
  let a = f32(x[at]);
  let b = f32(x[at + p.half]);
  x[at] = X(a * c - b * s);
  x[at + p.half] = X(b * c + a * s);
}

// (cos, sin) of two pairs each
@group(0) @binding(1) var<storage, read> table4: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x4: array<X4>;

@compute @workgroup_size(WX)
fn quads(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let n = id.x + id.y * groups.x * WX;
  let half4 = p.half / 4u;
  let each = p.heads * half4;
  let row = n / each;
  if (row >= p.rows) { return; }
  let i = n % half4;
  let head = (n % each) / half4;
  let at = row * (p.ld / 4u) + head * half4 * 2u + i;
  let turn = (positions[row] * half4 + i) * 2u;
  let first = table4[turn];
  let second = table4[turn + 1u];
  let c = vec4f(first.xz, second.xz);
  let s = vec4f(first.yw, second.yw) * SIGN;
  let a = vec4f(x4[at]);
  let b = vec4f(x4[at + half4]);
  x4[at] = X4(a * c - b * s);
  x4[at + half4] = X4(b * c + a * s);
}
