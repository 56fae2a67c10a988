/**
 * Weights out of a file of `torch.save` (`.pth`, `.pt`, `.bin`, `.ckpt`): a zip archive of a pickle, which says what there is, and of
 * the numbers. Nothing in it is run; only the weights are read, not the optimizer's moments or the numbers of anything else.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { CheckpointError } from "../Errors.ts"
import { Opaque, unpickle, type Value } from "./Pickle.ts"
import { type HostTensor, numbers, unreadable } from "./Safetensors.ts"
import { entriesOf, readEntry } from "./Zip.ts"

/** Kinds of numbers that weights come in, and their bytes. */
const dtypes: Readonly<Record<string, readonly [dtype: string, bytes: number]>> = {
  FloatStorage: ["F32", 4],
  HalfStorage: ["F16", 2],
  BFloat16Storage: ["BF16", 2],
  DoubleStorage: ["F64", 8]
}

/** Numbers that tensors are views of. */
class Storage {
  constructor(readonly kind: string, readonly key: string, readonly length: number) {}
}

class Tensor {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: ReadonlyArray<number>,
    readonly strides: ReadonlyArray<number>
  ) {}
}

const fail = (detail: string): never => {
  throw new Error(detail)
}

const isSize = (n: Value): n is number => Number.isSafeInteger(n) && (n as number) >= 0

const sizes = (value: Value): ReadonlyArray<number> =>
  Array.isArray(value) && value.length <= 8 && value.every(isSize) ? value : fail("has a tensor without a shape")

const storageOf = (id: Value): Storage => {
  const [what, type, key, , length] = Array.isArray(id) ? id as ReadonlyArray<Value> : []
  return what === "storage" && type instanceof Opaque && typeof key === "string" && isSize(length)
    ? new Storage(type.name.replace(/^torch\.(storage\.)?/, ""), key, length)
    : fail("speaks of numbers in a way that is not read")
}

const elements = (shape: ReadonlyArray<number>): number => shape.reduce((product, n) => product * n, 1)

const tensorOf = ([storage, offset, shape, strides]: ReadonlyArray<Value>): Tensor => {
  if (!(storage instanceof Storage) || !isSize(offset)) return fail("has a tensor of no numbers")
  const [sides, steps] = [sizes(shape), sizes(strides)]
  if (sides.length !== steps.length) fail("has a tensor without a shape")
  const last = offset + sides.reduce((sum, n, i) => sum + Math.max(0, n - 1) * steps[i]!, 0)
  // an expanded tensor repeats its numbers, any number of times: no weights do
  if (elements(sides) > storage.length || (elements(sides) > 0 && last >= storage.length)) {
    fail("has a tensor beyond the end of its numbers")
  }
  return new Tensor(storage, offset, sides, steps)
}

const classes = {
  "torch._utils._rebuild_tensor_v2": tensorOf,
  "torch._utils._rebuild_parameter": ([data]: ReadonlyArray<Value>) => data,
  "torch._utils._rebuild_parameter_with_state": ([data]: ReadonlyArray<Value>) => data
}

/** Where programs put a model's weights beside all else that they save. */
const PLACES = ["model", "state_dict", "model_state_dict", "module"]

/** What compilers and wrappers put before the names of weights. */
const wrapper = /^(_orig_mod\.|module\.|_forward_module\.)+/

/** The weights in a file's value; throws an Error that says what is there in their place. */
const weightsOf = (value: Value): ReadonlyMap<string, Tensor> => {
  const place = value instanceof Map ? PLACES.find((name) => value.get(name) instanceof Map) : undefined
  const found: Value = place === undefined ? value : (value as Map<Value, Value>).get(place)
  if (!(found instanceof Map)) {
    return fail(`holds ${found instanceof Opaque ? found.name : "something"}, no weights by name`)
  }
  const weights = new Map<string, Tensor>()
  for (const [name, tensor] of found as Map<Value, Value>) {
    if (typeof name !== "string") return fail("holds no weights by name")
    // a layer may save what is no tensor; an object may stand for one
    if (tensor instanceof Opaque) return fail(`${JSON.stringify(name)} is made by ${tensor.name}, which is not read`)
    if (tensor instanceof Tensor) weights.set(name.replace(wrapper, ""), tensor)
  }
  return weights.size === 0 ? fail("holds no weights") : weights
}

/** Numbers that lie row by row, out of any order. */
const inRows = ({ offset, shape, strides }: Tensor, all: Float32Array): Float32Array => {
  const count = elements(shape)
  const isInRows = shape.every((n, i) => n === 1 || strides[i] === elements(shape.slice(i + 1)))
  if (isInRows) return all.length === count ? all : all.slice(offset, offset + count)
  const out = new Float32Array(count)
  const place = shape.map(() => 0)
  for (let i = 0, at = offset; i < count; i++) {
    out[i] = all[at]!
    for (let side = shape.length - 1; side >= 0; side--) {
      at += strides[side]!
      if (++place[side]! < shape[side]!) break
      at -= shape[side]! * strides[side]!
      place[side] = 0
    }
  }
  return out
}

/** A pickle of a checkpoint at most; those of models have some hundred bytes a tensor. */
const MOST_PICKLE = 256 << 20

/**
 * Reads the weights of a file of `torch.save`, by name, f32: those under `model` or `state_dict` where it holds more than them. Halves
 * are widened, doubles rounded. Fails with `CheckpointError` Missing or Corrupt, as for a file whose pickle would run a program.
 */
export const readTorch = (
  path: string
): Effect.Effect<Readonly<Record<string, HostTensor>>, CheckpointError, FileSystem.FileSystem> =>
  Effect.scoped(Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const corrupt = (detail: string) => new CheckpointError({ reason: "Corrupt", path, detail })
    const checked = <A>(f: () => A) =>
      Effect.try({ try: f, catch: (cause) => corrupt(cause instanceof Error ? cause.message : String(cause)) })
    const file = yield* Effect.mapError(fs.open(path), unreadable(path))
    const fileBytes = Number((yield* Effect.mapError(file.stat, unreadable(path))).size)
    const entries = yield* Effect.mapError(entriesOf(file, path, fileBytes), (error) =>
      corrupt(`${error.detail}: a file of torch.save since PyTorch 1.6 is one. Save an older one again, in Python: ` +
        `torch.save(torch.load(file, weights_only=True), file)`))
    const pickle = entries.find(({ name }) =>
      /^(.*\/)?data\.pkl$/.test(name)
    )
    if (pickle === undefined) return yield* corrupt("has no data.pkl in it: it was not written by torch.save")
    if (pickle.size > MOST_PICKLE) return yield* corrupt(`${pickle.name} in it has ${pickle.size} bytes: too many`)
    const root = pickle.name.slice(0, -"data.pkl".length)
    const byName = new Map(entries.map((entry) => [entry.name, entry]))
    const read = (name: string) =>
      Effect.gen(function*() {
        const entry = byName.get(`${root}${name}`)
        return entry === undefined
          ? yield* corrupt(`has no ${JSON.stringify(`${root}${name}`)} in it`)
          : yield* readEntry(file, path, fileBytes, entry)
      })
    if (byName.has(`${root}byteorder`)) {
      const order = new TextDecoder().decode(yield* read("byteorder"))
      if (order !== "little") return yield* corrupt(`has its numbers in the order ${JSON.stringify(order)}, not little`)
    }
    const bytes = yield* read("data.pkl")
    const weights = yield* checked(() => weightsOf(unpickle(bytes, { classes, persistent: storageOf })))
    const storages = new Map<string, Array<readonly [name: string, tensor: Tensor]>>()
    for (const one of weights) storages.set(one[1].storage.key, [...storages.get(one[1].storage.key) ?? [], one])
    const out = new Map<string, HostTensor>()
    for (const [key, views] of storages) {
      const [name, { storage: { kind, length } }] = views[0]!
      const dtype = dtypes[kind]
      if (dtype === undefined || views.some(([, { storage }]) => storage.kind !== kind || storage.length !== length)) {
        return yield* corrupt(`tensor ${name} is of ${kind}; ${Object.keys(dtypes).join(", ")} can be read`)
      }
      const data = yield* read(`data/${key}`)
      if (data.length !== length * dtype[1]) {
        return yield* corrupt(`tensor ${name} is of ${length} numbers, and there are ${data.length} bytes of them`)
      }
      const all = numbers(dtype[0], data.buffer) as Float32Array
      for (const [name, tensor] of views) out.set(name, { shape: tensor.shape, data: inRows(tensor, all) })
    }
    return Object.fromEntries([...weights.keys()].map((name) => [name, out.get(name)!]))
  }))
