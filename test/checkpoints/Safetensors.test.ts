import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import type { HostTensor } from "../../src/checkpoints/Safetensors.ts"
import * as Safetensors from "../../src/checkpoints/Safetensors.ts"
import type { CheckpointError } from "../../src/Errors.ts"

type Tensors = Readonly<Record<string, HostTensor>>

const join = (chunks: Iterable<Uint8Array>) => new Uint8Array(Buffer.concat([...chunks]))

const encoded = (tensors: Tensors) => join(Either.getOrThrow(Safetensors.encode(tensors)).chunks)

/** A file made by hand, the header taken as it is: what another program, or a broken one, would write. */
const fileOf = (header: string, data: Uint8Array | number = 0, length = Buffer.byteLength(header)) => {
  const prefix = new Uint8Array(8)
  new DataView(prefix.buffer).setBigUint64(0, BigInt(length), true)
  return join([prefix, Buffer.from(header), typeof data === "number" ? new Uint8Array(data) : data])
}

const bits = ({ data }: HostTensor) => new Uint32Array(data.buffer, data.byteOffset, data.length)

/** Tensors as plain values in which NaN payloads and the sign of zero can be compared. */
const plain = (tensors: Tensors) =>
  Object.entries(tensors)
    .map(([name, tensor]) => [name, tensor.data.constructor.name, [...tensor.shape], [...bits(tensor)]] as const)
    .sort(([a], [b]) => a < b ? -1 : 1)

const tensor: FastCheck.Arbitrary<HostTensor> = FastCheck.array(FastCheck.nat(3), { maxLength: 3 }).chain((shape) =>
  FastCheck.tuple(
    FastCheck.boolean(),
    FastCheck.uint32Array({ minLength: size(shape), maxLength: size(shape) })
  ).map(([float, words]) => ({ shape, data: float ? new Float32Array(words.buffer) : words }))
)

const size = (shape: ReadonlyArray<number>) => shape.reduce((a, b) => a * b, 1)

const oddNames = FastCheck.constantFrom("__proto__", "10", "9", "", "\"\\{:")

const name = FastCheck.oneof(FastCheck.fullUnicodeString(), oddNames)

const tensors: FastCheck.Arbitrary<Tensors> = FastCheck.array(FastCheck.tuple(name, tensor), { maxLength: 6 })
  .map((entries) => Object.fromEntries(entries.filter(([name]) => name !== "__metadata__")))

const small = {
  "b.weight": { shape: [2, 2], data: new Float32Array([1, -0, NaN, 1e-45]) },
  a: { shape: [], data: new Uint32Array([0xdeadbeef]) }
} satisfies Tensors

const onDisk = (bytes: Uint8Array) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = `${yield* fs.makeTempDirectoryScoped()}/file.safetensors`
    yield* fs.writeFile(path, bytes)
    return path
  })

describe("Safetensors", () => {
  it("writes the bytes the format prescribes: length, sorted padded header, little-endian numbers", () => {
    const header = "{\"__metadata__\":{\"format\":\"pt\"}," +
      "\"a\":{\"dtype\":\"U32\",\"shape\":[],\"data_offsets\":[0,4]}," +
      "\"b.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[4,20]}}"
    const padded = header.padEnd(Math.ceil(header.length / 8) * 8)
    const data = Buffer.from("efbeadde" + "0000803f" + "00000080" + "0000c07f" + "01000000", "hex")
    expect(padded.length).not.toBe(header.length)
    expect(Buffer.from(encoded(small)).toString("latin1")).toBe(Buffer.from(fileOf(padded, data)).toString("latin1"))
  })

  it("gives equal bytes for equal tensors, whatever order they are in", () => {
    const { a, "b.weight": b } = small
    expect(encoded({ a, "b.weight": b })).toEqual(encoded({ "b.weight": b, a }))
  })

  it("passes the numbers on without copying them", () => {
    const big = new Float32Array(100).subarray(10, 20)
    const { byteLength, chunks: pieces } = Either.getOrThrow(Safetensors.encode({ big: { shape: [10], data: big } }))
    const chunks = [...pieces]
    expect(chunks[1]!.buffer).toBe(big.buffer)
    expect([chunks[1]!.byteOffset, chunks[1]!.byteLength]).toEqual([40, 40])
    expect(byteLength).toBe(chunks[0]!.length + 40)
  })

  it("round trips any tensors bit for bit, under any names", () => {
    FastCheck.assert(FastCheck.property(tensors, (tensors) => {
      const bytes = encoded(tensors)
      expect(new DataView(bytes.buffer).getUint32(0, true) % 8).toBe(0)
      expect(plain(Either.getOrThrow(Safetensors.decode(bytes)))).toEqual(plain(tensors))
      // Node's Buffers are views into a shared pool: the result must not be one.
      expect(plain(Either.getOrThrow(Safetensors.decode(Buffer.from(bytes))))).toEqual(plain(tensors))
    }))
  })

  it("gives tensors that own their memory", () => {
    const bytes = encoded(small)
    const decoded = Either.getOrThrow(Safetensors.decode(bytes))
    bytes.fill(0)
    expect(decoded.a!.data[0]).toBe(0xdeadbeef)
  })

  it.each<[string, Tensors, RegExp]>([
    ["a shape that does not fit", { w: { shape: [2, 3], data: new Float32Array(5) } }, /"w": shape \[2, 3\].* 5 num/],
    ["a negative shape", { w: { shape: [-1, -2], data: new Float32Array(2) } }, /tensor "w": shape \[-1, -2\]/],
    ["the reserved name", { __metadata__: { shape: [0], data: new Float32Array(0) } }, /__metadata__/]
  ])("refuses to write %s", (_, tensors, message) => {
    const error = Either.getOrThrow(Either.flip(Safetensors.encode(tensors, "run/model.safetensors")))
    expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Write", path: "run/model.safetensors" })
    expect(error.message).toMatch(message)
  })

  it("widens every F16 there is to the f32 of the same value", () => {
    const halves = Uint16Array.from({ length: 65536 }, (_, i) => i)
    const header = "{\"h\":{\"dtype\":\"F16\",\"shape\":[256,256],\"data_offsets\":[0,131072]}}"
    const file = fileOf(header, new Uint8Array(halves.buffer))
    const { data, shape } = Either.getOrThrow(Safetensors.decode(file)).h!
    expect(shape).toEqual([256, 256])
    expect(data).toBeInstanceOf(Float32Array)
    const wrong = halves.filter((half) => {
      const [exponent, mantissa] = [(half >> 10) & 31, half & 1023]
      const magnitude = exponent === 31
        ? (mantissa === 0 ? Infinity : NaN)
        : exponent === 0
        ? mantissa / 1024 * 2 ** -14
        : (1 + mantissa / 1024) * 2 ** (exponent - 15)
      return !Object.is(data[half], half >> 15 === 1 ? -magnitude : magnitude)
    })
    expect([...wrong]).toEqual([])
  })

  it("widens BF16 and U8, at offsets that are not aligned", () => {
    const file = fileOf(
      "{\"__metadata__\":{},\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}," +
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[3,7]}}",
      new Uint8Array([0, 7, 255, 0x80, 0x3f, 0x00, 0xc0])
    )
    const { b, u } = Either.getOrThrow(Safetensors.decode(file))
    expect([u!.data, b!.data]).toEqual([new Float32Array([0, 7, 255]), new Float32Array([1, -2])])
  })

  const f32 = (shape: string, offsets: string) => `{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}`
  const broken: ReadonlyArray<[string, Uint8Array, RegExp]> = [
    ["nothing", new Uint8Array(0), /0 bytes: too short/],
    ["less than a length", new Uint8Array(7), /7 bytes: too short/],
    ["a header longer than the file", fileOf("{}", 0, 3), /header of 3 bytes in a file of 10/],
    ["a header longer than any", fileOf("{}", 0, Number.MAX_SAFE_INTEGER), /header of 9007199254740991 bytes/],
    ["bytes that are not UTF-8", fileOf("{}\xff".slice(0, 2), new Uint8Array([0xff]), 3), /not text/],
    ["a header that is not JSON", fileOf("{\"a\":"), /not JSON/],
    ["a byte order mark", fileOf("\ufeff{}"), /not JSON/],
    ["no header", fileOf(""), /not JSON/],
    ["a header that is not an object", fileOf("[]"), /not a JSON object/],
    ["a null header", fileOf("null"), /not a JSON object/],
    ["metadata that is no object", fileOf("{\"__metadata__\":1}"), /__metadata__ is not/],
    ["a tensor that is no object", fileOf("{\"a\":[]}"), /tensor "a" is not described/],
    ["no dtype", fileOf("{\"a\":{}}"), /tensor "a" has dtype undefined/],
    ["an unknown dtype", fileOf("{\"a\":{\"dtype\":\"F31\"}}"), /tensor "a" has dtype "F31"; F32, U32/],
    ["a dtype out of the prototype", fileOf("{\"a\":{\"dtype\":\"toString\"}}"), /has dtype "toString"/],
    ["no shape", fileOf("{\"a\":{\"dtype\":\"F32\"}}"), /shape is not a list/],
    ["a negative size", fileOf(`{"a":${f32("[-1]", "[0,4]")}}`, 4), /shape is not a list/],
    ["a fractional size", fileOf(`{"a":${f32("[0.5,2]", "[0,4]")}}`, 4), /shape is not a list/],
    ["a size of text", fileOf(`{"a":${f32("[\"1\"]", "[0,4]")}}`, 4), /shape is not a list/],
    ["one offset", fileOf(`{"a":${f32("[1]", "[0]")}}`, 4), /data_offsets is not/],
    ["offsets in reverse", fileOf(`{"a":${f32("[1]", "[4,0]")}}`, 4), /data_offsets is not/],
    ["a negative offset", fileOf(`{"a":${f32("[1]", "[-4,0]")}}`, 4), /data_offsets is not/],
    ["a span that is not the shape's", fileOf(`{"a":${f32("[2]", "[0,4]")}}`, 4), /takes 8 bytes, not 4/],
    ["a shape beyond all numbers", fileOf(`{"a":${f32("[1e9,1e9,1e9]", "[0,4]")}}`, 4), /takes 4e\+27 bytes, not 4/],
    ["an overlap", fileOf(`{"a":${f32("[2]", "[0,8]")},"b":${f32("[2]", "[4,12]")}}`, 12), /"b" starts.* 4 .* byte 8/],
    ["a gap", fileOf(`{"a":${f32("[1]", "[0,4]")},"b":${f32("[1]", "[8,12]")}}`, 12), /"b" starts at byte 8.* byte 4/],
    ["a gap at the start", fileOf(`{"a":${f32("[1]", "[4,8]")}}`, 8), /"a" starts at byte 4.* byte 0/],
    ["data cut short", fileOf(`{"a":${f32("[2]", "[0,8]")}}`, 7), /describes 8 bytes of data, the file holds 7/],
    ["data left over", fileOf(`{"a":${f32("[1]", "[0,4]")}}`, 5), /describes 4 bytes of data, the file holds 5/],
    ["a name twice", fileOf(`{"a":${f32("[1]", "[0,4]")},"\\u0061":${f32("[1]", "[0,4]")}}`, 4),
      /has the key "a" twice/],
    ["an empty tensor twice", fileOf(`{"a":${f32("[0]", "[0,0]")},"a":${f32("[0]", "[0,0]")}}`),
      /has the key "a" twice/]
  ]

  it.each(broken)("refuses a file with %s", (_, bytes, message) => {
    const error = Either.getOrThrow(Either.flip(Safetensors.decode(bytes, "x.safetensors")))
    expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Corrupt", path: "x.safetensors" })
    expect(error.message).toMatch(message)
  })

  it.effect("refuses the same files with the same words when it reads them from the disk", () =>
    Effect.gen(function*() {
      for (const [, bytes, message] of broken) {
        const path = yield* onDisk(bytes)
        const error: CheckpointError = yield* Effect.flip(Safetensors.read(path))
        expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Corrupt", path })
        expect(error.message).toMatch(message)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeContext.layer)))

  it("takes keys that only look repeated", () => {
    const inside = "{\"__metadata__\":{\"a\":\"x\",\"b\":\"{\\\"a\\\":1}\"}," +
      `"a":${f32("[1]", "[0,4]")},"dtype":${f32("[1]", "[4,8]")}}`
    expect(Object.keys(Either.getOrThrow(Safetensors.decode(fileOf(inside, 8))))).toEqual(["a", "dtype"])
  })

  it("answers every damaged byte and every truncation with an error or with tensors, never with an exception", () => {
    const bytes = encoded(small)
    let refused = 0
    FastCheck.assert(
      FastCheck.property(FastCheck.nat(bytes.length - 1), FastCheck.integer({ min: 1, max: 255 }), (at, flip) => {
        const damaged = bytes.slice()
        damaged[at]! ^= flip
        const result = Safetensors.decode(damaged)
        if (Either.isLeft(result)) {
          refused++
          expect(result.left.reason).toBe("Corrupt")
        }
      }),
      { numRuns: 1000 }
    )
    expect(refused).toBeGreaterThan(500)
    for (let length = 0; length < bytes.length; length++) {
      expect(Either.isLeft(Safetensors.decode(bytes.subarray(0, length)))).toBe(true)
    }
  })

  it.effect("reads from the disk what decode reads from memory, and shows every byte once", () =>
    Effect.gen(function*() {
      // Larger than one read, so that the pieces have to be put together.
      const large = Uint32Array.from({ length: (9 << 20) / 4 + 1 }, (_, i) => Math.imul(i, 2654435761))
      const bytes = encoded({ ...small, large: { shape: [large.length], data: large } })
      const seen: Array<Uint8Array> = []
      const read = yield* Safetensors.read(yield* onDisk(bytes), (piece) => seen.push(piece.slice()))
      expect(Buffer.compare(join(seen), bytes)).toBe(0)
      expect(Object.keys(read)).toEqual(["a", "b.weight", "large"])
      expect(Buffer.compare(new Uint8Array(read.large!.data.buffer), new Uint8Array(large.buffer))).toBe(0)
      expect([...bits(read["b.weight"]!)]).toEqual([...bits(small["b.weight"]!)])
    }).pipe(Effect.scoped, Effect.provide(NodeContext.layer)))

  it.effect("tells a missing file from a damaged one, and a folder from a file", () =>
    Effect.gen(function*() {
      const path = yield* onDisk(encoded(small))
      const folder = path.slice(0, path.lastIndexOf("/"))
      const missing = yield* Effect.flip(Safetensors.read(`${path}.not`))
      expect(missing).toMatchObject({ reason: "Missing", path: `${path}.not` })
      expect(yield* Effect.flip(Safetensors.read(folder))).toMatchObject({ reason: "Corrupt", path: folder })
    }).pipe(Effect.scoped, Effect.provide(NodeContext.layer)))
})
