/**
 * Python's pickle as data: a pickle is a program for a small machine that may call anything in Python; this one builds plain
 * values, calls nothing, and knows only the few classes that it is given. What is of another class stays an `Opaque`, which holds
 * its name and nothing else. Reads protocols 2 to 5.
 */

/** A class or a function of Python by its name, or what one made that nothing here stands for. */
export class Opaque {
  constructor(readonly name: string) {}
}

/** What a pickle holds: lists and tuples as arrays, dicts as Maps, sets as Sets, whole numbers beyond 53 bits as bigints. */
export type Value = unknown

/** What stands for a class or a function of Python when it is called with arguments. */
export type Make = (args: ReadonlyArray<Value>) => Value

export interface PickleOptions {
  /** By `module.name`. An OrderedDict is a Map without being asked for. */
  readonly classes?: Readonly<Record<string, Make>>
  /** What a persistent id stands for, as of a tensor's numbers. Default: there are none. */
  readonly persistent?: (id: Value) => Value
}

/** Modules that a pickle names only to run a program in who loads it. */
const runners =
  /^(os|posix|nt|subprocess|sys|runpy|importlib|pty|socket|shutil|code|codeop|ctypes|webbrowser|pickle|_pickle|marshal|types|timeit|builtins|__builtin__)(\.|$)/

/** What of those modules holds data. */
const harmless = new Set([
  "types.SimpleNamespace",
  ...["set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "str", "bytes", "bytearray", "complex",
    "object", "slice", "range"].flatMap((name) => [`builtins.${name}`, `__builtin__.${name}`])
])

const fail = (detail: string): never => {
  throw new Error(detail)
}

const show = (value: Value): string =>
  value instanceof Opaque ? value.name : value === null ? "None" : Array.isArray(value) ? "a list" : typeof value

const MARK = Symbol("mark")

/**
 * The value of a pickle. Throws an Error that says what is wrong: bytes that are none, an opcode that is not read, a function
 * that would run a program.
 */
export const unpickle = (bytes: Uint8Array, { classes = {}, persistent }: PickleOptions = {}): Value => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
  const stack: Array<Value> = []
  const memo = new Map<number, Value>()
  let at = 0

  const take = (length: number): Uint8Array => {
    if (length > bytes.length - at) fail("ends in the middle of a value")
    at += length
    return bytes.subarray(at - length, at)
  }
  const u1 = () => take(1)[0]!
  const u2 = () => (take(2), view.getUint16(at - 2, true))
  const i4 = () => (take(4), view.getInt32(at - 4, true))
  const u4 = () => (take(4), view.getUint32(at - 4, true))
  const u8 = () => {
    take(8)
    const length = view.getBigUint64(at - 8, true)
    return length > BigInt(bytes.length) ? fail("ends in the middle of a value") : Number(length)
  }
  const string = (length: number): string => {
    const bytes = take(length)
    // a decoder takes longer to be called than most names are long
    return length < 64 && bytes.every((byte) => byte < 128) ? String.fromCharCode(...bytes) : text.decode(bytes)
  }
  const line = (): string => {
    const end = bytes.indexOf(10, at)
    if (end < 0) fail("ends in the middle of a value")
    const found = string(end - at)
    at++
    return found
  }
  /** A whole number of so many bytes, the lowest first, with its sign in the last. */
  const long = (length: number): number | bigint => {
    let value = 0n
    const digits = take(length)
    for (let i = length - 1; i >= 0; i--) value = value << 8n | BigInt(digits[i]!)
    if (length > 0 && digits[length - 1]! > 127) value -= 1n << BigInt(8 * length)
    const short = Number(value)
    return Number.isSafeInteger(short) ? short : value
  }
  const pop = (): Value => {
    const value = stack.length === 0 ? fail("takes a value where there is none") : stack.pop()
    return value === MARK ? fail("takes a value where there is none") : value
  }
  const top = (): Value => (stack.length === 0 ? fail("takes a value where there is none") : stack.at(-1))
  const toMark = (): Array<Value> => {
    const mark = stack.lastIndexOf(MARK)
    if (mark < 0) fail("takes values back to a mark where there is none")
    const values = stack.splice(mark + 1)
    stack.pop()
    return values
  }
  const get = (key: number): Value => (memo.has(key) ? memo.get(key) : fail("speaks of a value that it has not made"))
  const setItems = (target: Value, items: ReadonlyArray<Value>): void => {
    if (target instanceof Opaque) return
    if (!(target instanceof Map) || items.length % 2 !== 0) return fail(`puts entries into ${show(target)}`)
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1])
  }
  const append = (target: Value, items: ReadonlyArray<Value>): void => {
    if (target instanceof Opaque) return
    if (!Array.isArray(target)) return fail(`appends to ${show(target)}`)
    for (const item of items) target.push(item)
  }
  const global = (module: string, name: string): Opaque => {
    const whole = `${module}.${name}`
    if (runners.test(module) && !harmless.has(whole) && !Object.hasOwn(classes, whole)) {
      fail(`calls ${whole}, which runs a program in who loads it in Python. Nothing was run here; do not load it there`)
    }
    return new Opaque(whole)
  }
  const call = (what: Value, args: Value): Value => {
    if (!(what instanceof Opaque) || !Array.isArray(args)) return fail(`calls ${show(what)}`)
    const { name } = what
    if (Object.hasOwn(classes, name)) return classes[name]!(args)
    if (name === "collections.OrderedDict") {
      const entries: ReadonlyArray<Value> = Array.isArray(args[0]) ? args[0] : []
      return new Map(
        entries.map((entry) =>
          Array.isArray(entry) ? [entry[0], entry[1]] as const : fail("makes an OrderedDict of what are no entries")
        )
      )
    }
    return what
  }
  const popString = (): string => {
    const value = pop()
    return typeof value === "string" ? value : fail(`names a class by ${show(value)}`)
  }

  for (;;) {
    const opcode = String.fromCharCode(u1())
    switch (opcode) {
      case "\x80": {
        const protocol = u1()
        if (protocol < 2 || protocol > 5) fail(`is of protocol ${protocol}; 2 to 5 can be read`)
        break
      }
      case "\x95": // a frame: what follows is read as it comes
        take(8)
        break
      case ".": {
        const value = pop()
        if (stack.length > 0) fail("ends with values to spare")
        return value
      }
      case "(":
        stack.push(MARK)
        break
      case "0":
        top()
        stack.pop()
        break
      case "1":
        toMark()
        break
      case "2":
        stack.push(top())
        break
      case "N":
        stack.push(null)
        break
      case "\x88":
        stack.push(true)
        break
      case "\x89":
        stack.push(false)
        break
      case "K":
        stack.push(u1())
        break
      case "M":
        stack.push(u2())
        break
      case "J":
        stack.push(i4())
        break
      case "\x8a":
        stack.push(long(u1()))
        break
      case "\x8b":
        stack.push(long(u4()))
        break
      case "G":
        take(8)
        stack.push(view.getFloat64(at - 8, false))
        break
      case "X":
        stack.push(string(u4()))
        break
      case "\x8c":
        stack.push(string(u1()))
        break
      case "\x8d":
        stack.push(string(u8()))
        break
      case "U": // texts of Python 2
        stack.push(string(u1()))
        break
      case "T":
        stack.push(string(u4()))
        break
      case "C":
        stack.push(take(u1()))
        break
      case "B":
        stack.push(take(u4()))
        break
      case "\x8e":
      case "\x96":
        stack.push(take(u8()))
        break
      case "]":
        stack.push([])
        break
      case ")":
        stack.push([])
        break
      case "}":
        stack.push(new Map())
        break
      case "\x8f":
        stack.push(new Set())
        break
      case "l":
      case "t":
        stack.push(toMark())
        break
      case "\x85":
        stack.push([pop()])
        break
      case "\x86": {
        const b = pop()
        stack.push([pop(), b])
        break
      }
      case "\x87": {
        const [c, b] = [pop(), pop()]
        stack.push([pop(), b, c])
        break
      }
      case "d": {
        const dict = new Map<Value, Value>()
        setItems(dict, toMark())
        stack.push(dict)
        break
      }
      case "\x91":
        stack.push(new Set(toMark()))
        break
      case "a": {
        const value = pop()
        append(top(), [value])
        break
      }
      case "e": {
        const items = toMark()
        append(top(), items)
        break
      }
      case "s": {
        const value = pop()
        const key = pop()
        setItems(top(), [key, value])
        break
      }
      case "u": {
        const items = toMark()
        setItems(top(), items)
        break
      }
      case "\x90": {
        const items = toMark()
        const target = top()
        if (target instanceof Set) { for (const item of items) target.add(item) }
        else if (!(target instanceof Opaque)) fail(`adds to ${show(target)}`)
        break
      }
      case "q":
        memo.set(u1(), top())
        break
      case "r":
        memo.set(u4(), top())
        break
      case "\x94":
        memo.set(memo.size, top())
        break
      case "h":
        stack.push(get(u1()))
        break
      case "j":
        stack.push(get(u4()))
        break
      case "c":
        stack.push(global(line(), line()))
        break
      case "\x93": {
        const name = popString()
        stack.push(global(popString(), name))
        break
      }
      case "R":
      case "\x81": {
        const args = pop()
        stack.push(call(pop(), args))
        break
      }
      case "\x92": {
        pop()
        const args = pop()
        stack.push(call(pop(), args))
        break
      }
      case "b": {
        // an object's fields: of what is known there are none that matter, such as an OrderedDict's _metadata
        pop()
        const target = top()
        if (!(target instanceof Opaque || target instanceof Map)) fail(`sets fields of ${show(target)}`)
        break
      }
      case "Q":
        stack.push(persistent === undefined ? fail("speaks of what lies outside of it") : persistent(pop()))
        break
      default:
        fail(`has the opcode 0x${opcode.charCodeAt(0).toString(16).padStart(2, "0")}, which is not read`)
    }
  }
}
