// Which of many sources is nearest to each query: products of a matrix of queries and one of sources, of which every lane keeps
// the best of the sources lane, lane + lanes, lane + 2 lanes ...: score and place, the first of equals; (0, -1) where none is
// above 0.
//   vectors:  score[q, s] = scales[s] * sum over k of codes[k, s] * query[q, k]
//   words:    score[q, s] = scales[s] * sum over k of weights[k, s] * query[q, places[k, s]]
// Codes (i8) and weights (u8) lie in fours, and sources side by side, so that neighbours read neighbouring words:
// codes [k4, n], weights [k4, n], places [4 k4, n]. A source is a candidate where its bit in `allowed` is 1. Of the queries only
// the first count[0] are asked.
struct Params { n: u32, k4: u32, lanes: u32, queries: u32, width: u32, allowed0: u32, best0: u32 }
@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> allowed: array<u32>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> query4: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> best: array<vec2f>;
@group(0) @binding(6) var<uniform> p: Params;

override WX: u32 = 16;

fn is_allowed(s: u32) -> bool { return ((allowed[p.allowed0 + s / 32u] >> (s % 32u)) & 1u) == 1u; }

@compute @workgroup_size(WX)
fn vectors(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let q = i / p.lanes;
  if (q >= min(p.queries, count[0])) { return; }
  let lane = i % p.lanes;
  var found = vec2f(0.0, -1.0);
  for (var s = lane; s < p.n; s += p.lanes) {
    if (!is_allowed(s)) { continue; }
    var sum = 0.0;
    for (var k = 0u; k < p.k4; k++) {
      let word = bitcast<i32>(codes[k * p.n + s]);
      let v = vec4i((word << 24u) >> 24u, (word << 16u) >> 24u, (word << 8u) >> 24u, word >> 24u);
      sum += dot(vec4f(v), query4[q * p.width + k]);
    }
    let score = sum * scales[s];
    if (score > found.x) { found = vec2f(score, f32(s)); }
  }
  best[p.best0 + i] = found;
}

@group(0) @binding(4) var<storage, read> places: array<u32>;
@group(0) @binding(5) var<storage, read> query: array<f32>;
@group(0) @binding(6) var<storage, read_write> best_words: array<vec2f>;
@group(0) @binding(7) var<uniform> w: Params;

fn term(place: u32, word: u32, byte: u32, q: u32) -> f32 {
  return f32((word >> (8u * byte)) & 255u) * query[q * w.width + place];
}

@compute @workgroup_size(WX)
fn words(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * WX;
  let q = i / w.lanes;
  if (q >= min(w.queries, count[0])) { return; }
  let lane = i % w.lanes;
  var found = vec2f(0.0, -1.0);
  for (var s = lane; s < w.n; s += w.lanes) {
    if (((allowed[w.allowed0 + s / 32u] >> (s % 32u)) & 1u) == 0u) { continue; }
    var sum = 0.0;
    for (var k = 0u; k < w.k4; k++) {
      let word = codes[k * w.n + s];
      let at = 4u * k * w.n + s;
      sum += (term(places[at], word, 0u, q) + term(places[at + w.n], word, 1u, q)) +
        (term(places[at + 2u * w.n], word, 2u, q) + term(places[at + 3u * w.n], word, 3u, q));
    }
    let score = sum * scales[s];
    if (score > found.x) { found = vec2f(score, f32(s)); }
  }
  best_words[w.best0 + i] = found;
}
