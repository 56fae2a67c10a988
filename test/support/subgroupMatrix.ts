/**
 * No software adapter has matrix units. This rewrites the WGSL of a kernel that uses them into WGSL that any adapter runs:
 * matrices become arrays of an invocation, their loads, stores and products loops. Left and right matrices hold what
 * memory held (f16), products are summed in f32, as the units do.
 *
 * A subgroup has 32 lanes; lane i owns 2 x 4 numbers of a result, and loads what they take of the factors: 2 rows of the
 * left matrix and 4 columns of the right one. Nothing is exchanged between lanes, so no barrier is added to those
 * that the kernel has: one that it lacks is still missing here.
 */

/** Which invocations are a subgroup: 32 neighbours, as on NVIDIA, or every n-th of n subgroups. Both are allowed. */
export type Numbering = "neighbours" | "strided"

/** Lanes of a subgroup, as the kernels ask for. */
const LANES = 32

interface Matrix {
  readonly kind: "left" | "right" | "result"
  readonly element: string
}

/** An array in memory by its elements: how many components one holds, how they are read, four of them as an element. */
interface Memory {
  readonly each: (element: string) => number
  /** Component i as f32; components i .. i + 3, where i is a multiple of 4. */
  readonly one: (name: string, element: string) => string
  readonly four?: (name: string, element: string) => string
  /** The body of a function that returns 16 components as an EmulatedRun; i is a multiple of 8. */
  readonly sixteen?: (name: string, element: string) => string | undefined
  readonly vector?: (four: string) => string
}

const arrays: Readonly<Record<string, Memory>> = {
  f16: { each: () => 1, one: (name) => `f32(${name}[i])` },
  f32: { each: () => 1, one: (name) => `${name}[i]` },
  vec4h: { each: () => 4, one: (name) => `f32(${name}[i / 4u][i % 4u])`, four: (name) => `vec4f(${name}[i / 4u])` },
  vec4f: {
    each: () => 4,
    one: (name) => `${name}[i / 4u][i % 4u]`,
    four: (name) => `${name}[i / 4u]`,
    vector: (four) => four
  },
  vec4u: {
    each: (element) => (element === "f16" ? 8 : 4),
    one: (name, element) =>
      element === "f16"
        ? `unpack2x16float(${name}[i / 8u][(i / 2u) % 4u])[i % 2u]`
        : `bitcast<f32>(${name}[i / 4u][i % 4u])`,
    four: (name, element) =>
      element === "f16"
        ? `emulated_unpack(select(${name}[i / 8u].xy, ${name}[i / 8u].zw, (i & 4u) != 0u))`
        : `bitcast<vec4f>(${name}[i / 4u])`,
    sixteen: (name, element) =>
      element === "f16"
        ? `let u = ${name}[i / 8u]; let v = ${name}[i / 8u + 1u]; ` +
          `return EmulatedRun(${["u.xy", "u.zw", "v.xy", "v.zw"].map((two) => `emulated_unpack(${two})`).join(", ")});`
        : undefined,
    vector: (four) => `bitcast<vec4u>(${four})`
  }
}

const numbers = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, i) => i)

// fields and no arrays, written out and no loops: compilers take long over arrays that an invocation owns
const types = `
var<private> emulated_lane: u32;
struct EmulatedLeft { ${numbers(4).map((i) => `a${i}: vec4f, b${i}: vec4f`).join(", ")} }
struct EmulatedRight { ${numbers(16).map((k) => `k${k}: vec4f`).join(", ")} }
struct EmulatedRun { r0: vec4f, r1: vec4f, r2: vec4f, r3: vec4f }
struct EmulatedResult { a: vec4f, b: vec4f }
fn emulated_multiply_add(x: EmulatedLeft, y: EmulatedRight, sum: EmulatedResult) -> EmulatedResult {
  var m = sum;
  ${
  numbers(16).flatMap((k) => ["a", "b"].map((row) => `m.${row} += x.${row}${Math.floor(k / 4)}[${k % 4}] * y.k${k};`))
    .join(" ")
}
  return m;
}
fn emulated_unpack(v: vec2u) -> vec4f { return vec4f(unpack2x16float(v.x), unpack2x16float(v.y)); }
fn emulated_multiply(x: EmulatedLeft, y: EmulatedRight) -> EmulatedResult {
  return emulated_multiply_add(x, y, EmulatedResult());
}
`

const emulatedType = { left: "EmulatedLeft", right: "EmulatedRight", result: "EmulatedResult" } as const

/** Functions that read one component, and four and sixteen that stand together. */
const reads = (name: string, { element, kind }: Matrix, memory: Memory): string => {
  const components = numbers(4).map((i) => `emulated_one_${name}_${kind}(i + ${i}u)`)
  return `
fn emulated_one_${name}_${kind}(i: u32) -> f32 { return ${memory.one(name, element)}; }
fn emulated_four_${name}_${kind}(i: u32) -> vec4f { return vec4f(${
    memory.four?.(name, element) ?? components.join(", ")
  }); }
fn emulated_sixteen_${name}_${kind}(i: u32) -> EmulatedRun { ${
    memory.sixteen?.(name, element) ??
      `return EmulatedRun(${numbers(4).map((n) => `emulated_four_${name}_${kind}(i + ${4 * n}u)`).join(", ")});`
  } }
`
}

/** The function that loads a matrix from an array; row r, column c of it stands at offset + r * stride + c, or + c * stride + r. */
const load = (name: string, { element, kind }: Matrix, memory: Memory, rows: boolean): string => {
  const at = (row: string,
    column: string) => (rows ? `first + (${row}) * ld + ${column}` : `first + (${column}) * ld + ${row}`)
  const one = (row: string, column: string) => `emulated_one_${name}_${kind}(${at(row, column)})`
  const four = (row: string, column: string) => `emulated_four_${name}_${kind}(${at(row, column)})`
  const sixteen = (row: string, column: string) => `emulated_sixteen_${name}_${kind}(${at(row, column)})`
  const lines = {
    // k is what runs along a row of the left matrix and down a column of the right one
    left: [["a", "row"] as const, ["b", "row + 1u"] as const].flatMap(([field, row]) =>
      rows
        ? [
          `let ${field} = ${sixteen(row, "0u")};`,
          ...numbers(4).map((i) => `m.${field}${i} = ${field}.r${i};`)
        ]
        : numbers(4).map((i) =>
          `m.${field}${i} = vec4f(${numbers(4).map((k) => one(row, `${4 * i + k}u`)).join(", ")});`
        )
    ),
    right: rows
      ? numbers(16).map((k) => `m.k${k} = ${four(`${k}u`, "column")};`)
      : numbers(4).flatMap((c) => [
        `let c${c} = ${sixteen("0u", `column + ${c}u`)};`,
        ...numbers(16).map((k) => `m.k${k}[${c}] = c${c}.r${Math.floor(k / 4)}[${k % 4}];`)
      ]),
    result: [["a", "row"] as const, ["b", "row + 1u"] as const].map(([field, row]) =>
      `m.${field} = ${
        rows ? four(row, "column") : `vec4f(${numbers(4).map((c) => one(row, `column + ${c}u`)).join(", ")})`
      };`
    )
  }
  return `
fn emulated_load_${name}_${kind}_${rows ? "row" : "col"}(offset: u32, stride: u32) -> ${emulatedType[kind]} {
  let first = offset * ${memory.each(element)}u;
  let ld = stride * ${memory.each(element)}u;
  let row = 2u * (emulated_lane / 4u);
  let column = 4u * (emulated_lane % 4u);
  var m: ${emulatedType[kind]};
  ${lines[kind].join("\n  ")}
  return m;
}
`
}

/** The function that stores a result: a lane's part is two whole vectors, or eight numbers. */
const store = (name: string, memory: Memory, rows: boolean): string => {
  const each = memory.each("f32")
  if (!rows && each > 1) throw new Error("cannot emulate a store by columns to an array of vectors")
  const body = (["a", "b"] as const).flatMap((field, r) => {
    if (memory.vector !== undefined) return [`${name}[i + ${r}u * stride] = ${memory.vector(`m.${field}`)};`]
    return numbers(4).map((c) =>
      `${name}[i + ${rows ? `${r}u * stride + ${c}u` : `${c}u * stride + ${r}u`}] = m.${field}[${c}];`
    )
  }).join("\n  ")
  return `
fn emulated_store_${name}_${rows ? "row" : "col"}(offset: u32, m: EmulatedResult, stride: u32) {
  let row = 2u * (emulated_lane / 4u);
  let column = 4u * (emulated_lane % 4u);
  let i = offset + ${rows ? `row * stride + column / ${each}u` : "column * stride + row"};
  ${body}
}
`
}

/** The kernel's WGSL without matrix units. Text that uses none is returned as it is. */
export const emulate = (wgsl: string, numbering: Numbering = "neighbours"): string => {
  if (!wgsl.includes("enable chromium_experimental_subgroup_matrix;")) return wgsl
  const aliases = new Map(
    [...wgsl.matchAll(/^alias (\w+) = ([^;]+);$/gm)].map(([, name, type]) => [name!, type!.replace(/\s/g, "")])
  )
  const resolved = (type: string): string => aliases.get(type) ?? type
  const matrixOf = (type: string): Matrix => {
    const found = /^subgroup_matrix_(left|right|result)<(\w+),16,16>$/.exec(resolved(type.replace(/\s/g, "")))
    if (found === null) throw new Error(`cannot emulate ${type}`)
    return { kind: found[1] as Matrix["kind"], element: found[2]! }
  }
  const arrayOf = new Map(
    [...wgsl.matchAll(/var<[\w, ]+>\s*(\w+)\s*:\s*array<(\w+)[^;]*;/g)].map((
      [, name, type]
    ) => [name!, resolved(type!)])
  )
  const functions = new Set<string>()
  const memoryOf = (name: string): Memory => {
    const memory = arrays[arrayOf.get(name) ?? ""]
    if (memory === undefined) throw new Error(`cannot emulate an access to ${name}, array of ${arrayOf.get(name)}`)
    return memory
  }
  const code = wgsl
    .replace(/^enable (chromium_experimental_subgroup_matrix|subgroups);$/gm, "")
    .replace(/^diagnostic\(off, chromium\.subgroup_matrix_uniformity\);$/gm, "")
    .replace(
      /subgroupMatrixLoad<(\w+(?:<[^>]*>)?),\s*(row|col)_major>\(\s*&(\w+)\s*,/g,
      (_, type: string, major: string, name: string) => {
        const matrix = matrixOf(type)
        functions.add(reads(name, matrix, memoryOf(name)))
        functions.add(load(name, matrix, memoryOf(name), major === "row"))
        return `emulated_load_${name}_${matrix.kind}_${major}(`
      }
    )
    .replace(/subgroupMatrixStore<(row|col)_major>\(\s*&(\w+)\s*,/g, (_, major: string, name: string) => {
      functions.add(store(name, memoryOf(name), major === "row"))
      return `emulated_store_${name}_${major}(`
    })
    .replace(/subgroupMatrixMultiplyAccumulate\(/g, "emulated_multiply_add(")
    .replace(/subgroupMatrixMultiply<f32>\(/g, "emulated_multiply(")
    .replace(/subgroup_matrix_(?:left|right|result)<[^>]*>/g, (type) => emulatedType[matrixOf(type).kind])
  const left = /\bsubgroup(Matrix|_matrix)\w*/.exec(code)
  if (left !== null) throw new Error(`cannot emulate ${left[0]}`)
  // a subgroup's number and a lane's come of the invocation's index, not of builtins
  const entries = code.replace(
    /@compute @workgroup_size\(([^)]*)\)\s*fn (\w+)\(([^{]*?),?\s*\)\s*\{/g,
    (_, size: string, name: string, parameters: string) => {
      const list = parameters.split(/,(?![^(]*\))/).map((parameter) => parameter.trim())
      const index = list.map((p) => /@builtin\(local_invocation_index\)\s*(\w+)/.exec(p)?.[1]).find((x) =>
        x !== undefined
      )
      if (index === undefined) throw new Error(`${name} does not ask for its invocation's index`)
      const count = `(${size} / ${LANES}u)`
      const [subgroup, lane] = numbering === "neighbours"
        ? [`${index} / ${LANES}u`, `${index} % ${LANES}u`]
        : [`${index} % ${count}`, `${index} / ${count}`]
      const given: Record<string, string> = { subgroup_id: subgroup, subgroup_invocation_id: lane }
      const lets = list.flatMap((p) => {
        const found = /@builtin\((\w+)\)\s*(\w+)/.exec(p)!
        return given[found[1]!] === undefined ? [] : [`let ${found[2]} = ${given[found[1]!]};`]
      })
      const rest = list.filter((p) => !/@builtin\((subgroup_id|subgroup_invocation_id)\)/.test(p))
      return `@compute @workgroup_size(${size})\nfn ${name}(${rest.join(", ")}) {\n` +
        `  emulated_lane = ${lane}; ${lets.join(" ")}`
    }
  )
  return `${entries}\n${types}${[...functions].join("")}`
}
