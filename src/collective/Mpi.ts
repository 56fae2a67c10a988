/**
 * Ranks over MPI, through the optional package koffi: memory is handed to MPI as it is, mapped GPU buffers too. Open MPI,
 * MPICH with those that keep its ABI, and the standard ABI of MPI 5 have different handles and constants.
 */
import { hostname } from "node:os"
import process from "node:process"
import { clearInterval, clearTimeout, setImmediate, setInterval, setTimeout } from "node:timers"
import { because, CollectiveError } from "../Errors.ts"
import type { Environment, Ranks } from "./Ranks.ts"
import { addTo, type Came, type Message, operations, type Transport } from "./Transport.ts"

/** What differs from MPI to MPI. */
interface Abi {
  readonly name: "standard" | "Open MPI" | "MPICH"
  readonly handle: "void *" | "int"
  readonly world: bigint | number
  readonly byte: bigint | number
  readonly float: bigint | number
  readonly sum: bigint | number
  readonly errorsReturn: bigint | number
  /** MPI_STATUS_IGNORE and MPI_STATUSES_IGNORE. */
  readonly statusIgnore: bigint
  readonly inPlace: bigint
  readonly anySource: number
  /** MPI_THREAD_SERIALIZED. */
  readonly serialized: number
}

const standard: Abi = {
  name: "standard",
  handle: "void *",
  world: 0x101n,
  byte: 0x247n,
  float: 0x210n,
  sum: 0x21n,
  errorsReturn: 0x142n,
  statusIgnore: 0n,
  inPlace: 1n,
  anySource: -1,
  serialized: 2048
}

const mpich: Abi = {
  name: "MPICH",
  handle: "int",
  world: 0x44000000,
  byte: 0x4c00010d,
  float: 0x4c00040a,
  sum: 0x58000003,
  errorsReturn: 0x54000001,
  statusIgnore: 1n,
  inPlace: -1n,
  anySource: -2,
  serialized: 2
}

/** Handles are addresses of the library's own data. */
const openMpi = (symbol: (name: string) => bigint): Abi => ({
  name: "Open MPI",
  handle: "void *",
  world: symbol("ompi_mpi_comm_world"),
  byte: symbol("ompi_mpi_byte"),
  float: symbol("ompi_mpi_float"),
  sum: symbol("ompi_mpi_op_sum"),
  errorsReturn: symbol("ompi_mpi_errors_return"),
  statusIgnore: 0n,
  inPlace: 1n,
  anySource: -1,
  serialized: 2
})

type Koffi = typeof import("koffi")
type Library = ReturnType<Koffi["load"]>

const setup = (detail: string, cause?: unknown): CollectiveError =>
  new CollectiveError(cause === undefined ? { reason: "Setup", detail } : { reason: "Setup", detail, cause })

/** Where MPI's library may be, by the launcher: the standard ABI first, then what belongs to the launcher. */
const candidates = (environment: Environment, launcher: Ranks["launcher"]): ReadonlyArray<string> => {
  const given = environment["MEMSINKS_MPI"]?.trim()
  if (given !== undefined && given !== "") return [given]
  if (process.platform === "darwin") return ["libmpi_abi.dylib", "libmpi.dylib", "libmpi.40.dylib", "libmpi.12.dylib"]
  const open = ["libmpi.so.40"]
  const others = ["libmpich.so.12", "libmpi.so.12"]
  return ["libmpi_abi.so.0", "libmpi_abi.so", ...launcher === "PMI" ? [...others, ...open] : [...open, ...others],
    "libmpi.so"]
}

/** What to do where there is no MPI. */
const advice = "install one (Debian and Ubuntu: apt-get install openmpi-bin or mpich), say where its library is with " +
  "MEMSINKS_MPI=/path/to/libmpi.so, or start ranks without MPI: memsinks launch --transport tcp -n 2 -- ..."

let configured = false

const loadKoffi = async (): Promise<Koffi> => {
  try {
    const koffi = await import("koffi")
    // threads' own stacks are small for MPI's plugins; they are as large as this only before a library is loaded
    if (!configured) koffi.config({ async_stack_size: 2 ** 20 })
    configured = true
    return koffi
  } catch (cause) {
    throw setup(`MPI needs the optional package koffi, which cannot be loaded (${because(cause)}): npm install koffi`,
      cause)
  }
}

/** An MPI library and what it says of itself. */
interface Found {
  readonly file: string
  /** E.g. `Open MPI 4.1.4`. */
  readonly name: string
  readonly library: Library
  readonly abi: Abi
}

const nameOf = (version: string): string => {
  const [, name, number] = /(Open MPI|MPICH|Intel\(R\) MPI|MVAPICH\d?)\D*?v?(\d+(?:\.\w+)*)/s.exec(version) ?? []
  return name === undefined ? version.split("\n", 1)[0]!.trim() : `${name} ${number}`
}

const find = (koffi: Koffi, environment: Environment, launcher: Ranks["launcher"]): Found => {
  const tried: Array<string> = []
  const open = (file: string): Found | undefined => {
    let library: Library
    try {
      library = koffi.load(file)
    } catch (error) {
      tried.push(`${file} (${because(error).replace(/^Failed to load shared library: /, "")})`)
      return undefined
    }
    const has = (name: string, args: Array<string>) => {
      try {
        return library.func(name, "int", args)
      } catch {
        return undefined
      }
    }
    const version = has("MPI_Get_library_version", ["void *", "void *"])
    if (version === undefined) {
      tried.push(`${file} (it is no MPI 3 or newer)`)
      return undefined
    }
    const text = Buffer.alloc(8192)
    const length = Buffer.alloc(4)
    version(text, length)
    const said = text.toString("latin1", 0, length.readInt32LE())
    const abi = has("MPI_Abi_get_version", ["void *", "void *"]) !== undefined && /mpi_abi/.test(file)
      ? standard
      : /Open MPI/.test(said)
      ? openMpi((name) => library.symbol(name) as bigint)
      : /MPICH|Intel|MVAPICH/.test(said)
      ? mpich
      : undefined
    if (abi === undefined) {
      tried.push(`${file} (${JSON.stringify(nameOf(said))}, which is neither Open MPI nor of MPICH's ABI)`)
      return undefined
    }
    return { file, name: nameOf(said), library, abi }
  }
  for (const file of candidates(environment, launcher)) {
    const found = open(file)
    // plugins of Open MPI look for its symbols among all of the process
    if (found !== undefined) return { ...found, library: koffi.load(file, { global: true }) }
  }
  throw setup(`there is no MPI that can be used here: ${advice}. Tried: ${tried.join(", ")}`)
}

/** What this process's MPI would be, for people; undefined where there is none. */
export const available = async (environment: Environment, launcher: Ranks["launcher"]): Promise<string | undefined> => {
  try {
    const { file, name } = find(await loadKoffi(), environment, launcher)
    return `${name} (${file})`
  } catch {
    return undefined
  }
}

/** Tags of messages. */
const DATA = 1
const ABORT = 2
/** A sign of life of a rank that does something else than calling: it measures, saves, or loads. */
const BEAT = 3

/** Signs of life in the time after which a rank that gives none is given up. */
const BEATS = 10

/** Bytes of a message by which a rank gives up. */
const REASON_BYTES = 1024

/** Milliseconds for which a rank asks MPI without a pause whether something came; then it lets other work run. */
const SPIN = 0.05
/** Milliseconds after which it asks no more than once a millisecond. */
const EAGER = 2

/** Bytes of an exchange that is not worth a thread. */
const SMALL = 2 ** 16

/**
 * Bytes that ranks of one machine add up while the process waits: a millisecond or less. All have come before, so that none waits
 * for one that is late; no timer runs meanwhile.
 */
const BRIEF = 2 ** 22

/**
 * Whether srun alone started a process: then Open MPI, unless it was built for Slurm's older ways, ends the process as it begins,
 * and advises to build it anew.
 */
const withoutPmix = (environment: Environment): boolean =>
  environment["SLURM_STEP_NUM_TASKS"] !== undefined && environment["PMIX_RANK"] === undefined &&
  environment["OMPI_COMM_WORLD_RANK"] === undefined

/**
 * UCX, which both MPIs may talk through, rewrites the beginnings of mmap, brk and their like while it is started, and takes over
 * what the process does at a segmentation fault. Both are unsafe where V8 has threads already, and traps of Wasm are such faults:
 * now and then a rank crashed as it began. Who needs its cache of registered memory (InfiniBand) sets the variable to "yes".
 */
const QUIET_UCX = { UCX_MEM_EVENTS: "no", UCX_ERROR_SIGNALS: "" }

export interface MpiOptions {
  /**
   * Milliseconds until ranks that do not come, and give no sign of life, are given up. Default: ten minutes. It does not hold
   * within a sum of up to 4 MB of two ranks of one machine, which all have come to: one that is stopped (SIGSTOP) in that
   * millisecond holds the other until it goes on; one that is killed is noticed by `mpirun`, which ends both.
   */
  readonly timeout?: number
  /** Whether MPI was asked for by its name: it is tried where it may end the process. */
  readonly forced?: boolean
}

/**
 * Starts MPI in this process, which its launcher must have started. MPI can be started once in a process.
 *
 * Rejects with CollectiveError Setup where there is no MPI, or the launcher belongs to another one.
 */
export const makeMpi = async (
  ranks: Ranks,
  environment: Environment = process.env,
  { forced = false, timeout = 600_000 }: MpiOptions = {}
): Promise<Transport> => {
  for (const [name, value] of Object.entries(QUIET_UCX)) process.env[name] ??= value
  const koffi = await loadKoffi()
  const { abi, file, library, name } = find(koffi, environment, ranks.launcher)
  if (abi.name === "Open MPI" && !forced && withoutPmix(environment)) {
    throw setup(
      `srun started this process without PMIx, by which ${name} (${file}) would find the other ranks: give srun ` +
        "--mpi=pmix, or with MPICH --mpi=pmi2, or let ranks exchange over TCP (MEMSINKS_TRANSPORT=tcp, with MASTER_ADDR, " +
        "MASTER_PORT and MEMSINKS_TOKEN); MEMSINKS_TRANSPORT=mpi tries nonetheless"
    )
  }
  const handle = abi.handle
  const pointer = "void *"
  const func = (symbol: string, args: ReadonlyArray<string>) => {
    const call = library.func(symbol, "int", [...args])
    return Object.assign((...given: ReadonlyArray<unknown>): void => {
      const code = call(...given) as number
      if (code !== 0) throw broken(symbol, code)
    }, {
      /** On a thread of its own. */
      async: (...given: ReadonlyArray<unknown>) =>
        new Promise<void>((resolve, reject) =>
          call.async(...given, (error: unknown, code: number) =>
            error !== null && error !== undefined
              ? reject(error)
              : code === 0
              ? resolve()
              : reject(broken(symbol, code)))
        )
    })
  }
  const initThread = func("MPI_Init_thread", [pointer, pointer, "int", pointer])
  const setErrhandler = func("MPI_Comm_set_errhandler", [handle, handle])
  const commRank = func("MPI_Comm_rank", [handle, pointer])
  const commSize = func("MPI_Comm_size", [handle, pointer])
  const errorString = library.func("MPI_Error_string", "int", ["int", pointer, pointer])
  const iallgather = func("MPI_Iallgather", [pointer, "int", handle, pointer, "int", handle, handle, pointer])
  const isend = func("MPI_Isend", [pointer, "int", handle, "int", "int", handle, pointer])
  const irecv = func("MPI_Irecv", [pointer, "int", handle, "int", "int", handle, pointer])
  const recv = func("MPI_Recv", [pointer, "int", handle, "int", "int", handle, pointer])
  const iprobe = func("MPI_Iprobe", ["int", "int", handle, pointer, pointer])
  const testall = func("MPI_Testall", ["int", pointer, pointer, pointer])
  const waitall = func("MPI_Waitall", ["int", pointer, pointer])
  const allreduce = func("MPI_Allreduce", [pointer, pointer, "int", handle, handle, handle])
  const reduceLocal = func("MPI_Reduce_local", [pointer, pointer, "int", handle, handle])
  const requestFree = func("MPI_Request_free", [pointer])
  const finalize = func("MPI_Finalize", [])
  const abortAll = library.func("MPI_Abort", "int", [handle, "int"])

  const broken = (symbol: string, code: number): CollectiveError => {
    const text = Buffer.alloc(8192)
    const length = Buffer.alloc(4)
    errorString(code, text, length)
    return new CollectiveError({
      reason: "Lost",
      detail:
        `${symbol} of ${name} failed: ${text.toString("latin1", 0, length.readInt32LE()).trim()}. A rank or the ` +
        "link to it is gone: go on from the last checkpoint with --resume"
    })
  }

  const int = () => new Int32Array(new ArrayBuffer(4))
  const provided = int()
  initThread(null, null, abi.serialized, provided)
  if (provided[0]! < abi.serialized) {
    throw setup(`${name} was built without support of threads: take another build of it`)
  }
  setErrhandler(abi.world, abi.errorsReturn)
  const [rankOut, sizeOut] = [int(), int()]
  commRank(abi.world, rankOut)
  commSize(abi.world, sizeOut)
  const [rank, size] = [rankOut[0]!, sizeOut[0]!]
  if (ranks.launcher !== undefined && (rank !== ranks.rank || size !== ranks.size)) {
    const other = { OMPI: "Open MPI", PMI: "MPICH or its like", PMIX: "PMIx", SLURM: "Slurm", RANK: "a launcher" }
    throw setup(
      `${
        other[ranks.launcher]
      } started this process as rank ${ranks.rank} of ${ranks.size}, but ${name} (${file}) takes ` +
        `it for rank ${rank} of ${size}: launcher and library belong to different MPIs. Take the mpirun of ${name}, or ` +
        "say where the launcher's library is with MEMSINKS_MPI=/path/to/libmpi.so; with srun, choose its --mpi"
    )
  }

  let tell: (error: CollectiveError) => void = () => {}
  let closed = false
  /** Messages that nobody waits for. */
  const sent: Array<Uint8Array> = []
  /** A call on a thread that may never end: then the process can only be killed. */
  let stuck = 0
  const onExit = () => {
    if (stuck > 0) abortAll(abi.world, 1)
  }
  process.on("exit", onExit)

  const flag = int()
  const reasonFrom = (): void => {
    iprobe(abi.anySource, ABORT, abi.world, flag, abi.statusIgnore)
    if (flag[0] === 0) return
    const text = Buffer.from(new ArrayBuffer(REASON_BYTES))
    recv(text, REASON_BYTES, abi.byte, abi.anySource, ABORT, abi.world, abi.statusIgnore)
    const { detail, rank: other } = JSON.parse(text.toString("utf8").replace(/\0+$/, "")) as {
      readonly rank: number
      readonly detail: string
    }
    throw new CollectiveError({ reason: "Aborted", rank: other, detail: `rank ${other} gave up: ${detail}` })
  }

  const requestBytes = handle === "int" ? 4 : 8
  const requestsOf = (count: number) => new Uint8Array(new ArrayBuffer(count * requestBytes))
  const byte = new Uint8Array(new ArrayBuffer(1))
  const from = new Uint8Array(new ArrayBuffer(1))
  /** When this rank heard last that another lives, and when it was in a call last itself. */
  let [heard, called] = [0, 0]
  let calling = 0
  const hearBeats = (): void => {
    for (;;) {
      iprobe(abi.anySource, BEAT, abi.world, flag, abi.statusIgnore)
      if (flag[0] === 0) return
      recv(from, 1, abi.byte, abi.anySource, BEAT, abi.world, abi.statusIgnore)
      heard = performance.now()
    }
  }
  // who waits in a call says nothing, so that ranks that wait for one that is gone do not keep each other waiting
  const beats = setInterval(() => {
    if (closed || stuck > 0) return
    try {
      hearBeats()
      if (calling > 0 || performance.now() - called < timeout / BEATS) return
      for (let other = 0; other < size; other++) {
        if (other === rank) continue
        const request = requestsOf(1)
        isend(byte, 1, abi.byte, other, BEAT, abi.world, request)
        requestFree(request)
      }
    } catch {
      // the next call tells
    }
  }, Math.min(30_000, timeout / BEATS))
  beats.unref()

  const pause = (milliseconds: number) =>
    new Promise<void>((resolve) => milliseconds < EAGER ? setImmediate(resolve) : setTimeout(resolve, 1))

  const inCall = async (body: () => Promise<void>): Promise<void> => {
    calling++
    try {
      await body()
    } finally {
      calling--
      called = performance.now()
    }
  }

  /** Waits for requests without holding the process: it asks again and again, and less and less often. */
  const polled = (requests: Uint8Array): Promise<void> => inCall(() => poll(requests))
  const poll = async (requests: Uint8Array): Promise<void> => {
    const begun = performance.now()
    let looked = begun
    while (!closed) {
      testall(requests.length / requestBytes, requests, flag, abi.statusIgnore)
      if (flag[0] !== 0) return
      const now = performance.now()
      const waited = now - begun
      if (waited < SPIN) continue
      if (now - looked > 1) {
        looked = now
        reasonFrom()
        hearBeats()
      }
      if (now - Math.max(begun, heard) > timeout) {
        throw new CollectiveError({
          reason: "Timeout",
          detail: `rank ${rank} on ${hostname()} waited ${Math.round(timeout / 1000)} s for the other ranks: one is ` +
            "gone, hangs or is far behind. Look at what it said last, and go on from the last checkpoint with --resume"
        })
      }
      await pause(waited)
    }
    throw new CollectiveError({ reason: "Aborted", rank, detail: `rank ${rank} has parted with the others` })
  }

  /** Waits for requests on a thread, which moves large messages faster. */
  const awaited = async (requests: Uint8Array): Promise<void> =>
    bounded(() => waitall.async(requests.length / requestBytes, requests, abi.statusIgnore))

  const bounded = async (body: () => Promise<void>): Promise<void> => {
    stuck++
    const timer = setTimeout(() =>
      tell(new CollectiveError({
        reason: "Timeout",
        detail:
          `an exchange did not end within ${Math.round(timeout / 1000)} s: a rank or the link to it is gone. Go on ` +
          "from the last checkpoint with --resume"
      })), timeout)
    try {
      await body()
    } finally {
      stuck--
      clearTimeout(timer)
    }
  }

  // a small array without a buffer of its own lies in V8's heap, which moves
  const own = new Float64Array(new ArrayBuffer(16))
  const all = new Float64Array(new ArrayBuffer(16 * size))

  return {
    name,
    rank,
    size,
    arrive: async ({ bytes, operation }) => {
      own[0] = operations.indexOf(operation)
      own[1] = bytes
      const request = requestsOf(1)
      iallgather(own, 16, abi.byte, all, 16, abi.byte, abi.world, request)
      await polled(request)
      return Array.from({ length: size }, (_, other): Came => ({
        operation: operations[all[2 * other]!]!,
        bytes: all[2 * other + 1]!
      }))
    },
    exchange: async (send, receive) => {
      const messages = [...receive.map((one) => [irecv, one] as const), ...send.map((one) => [isend, one] as const)]
        .filter(([, { bytes }]) => bytes.length > 0)
      if (messages.length === 0) return
      const requests = requestsOf(messages.length)
      let total = 0
      messages.forEach(([start, { bytes, rank: other }]: readonly [typeof isend, Message], i) => {
        total += bytes.length
        start(bytes, bytes.length, abi.byte, other, DATA, abi.world, requests.subarray(i * requestBytes))
      })
      await (total < SMALL ? polled(requests) : awaited(requests))
    },
    // the sum of two is the same in either order; of more, MPI chooses an order
    ...(size === 2 ?
      {
        sum: async (values: Float32Array, near: boolean) => {
          const call = [abi.inPlace, values, values.length, abi.float, abi.sum, abi.world]
          // all have come, and no network is between: what takes less than going to a thread and back is not worth one
          if (near && values.byteLength <= BRIEF) allreduce(...call)
          else await bounded(() => allreduce.async(...call))
        }
      } :
      {}),
    add: (sum, more) => sum.length < 64 ? addTo(sum, more) : reduceLocal(more, sum, sum.length, abi.float, abi.sum),
    abort: (reason) => {
      let detail = reason
      const encode = () => Buffer.from(JSON.stringify({ rank, detail }))
      while (encode().length > REASON_BYTES) detail = `${detail.slice(0, -8)}...`
      const message = Buffer.from(new ArrayBuffer(REASON_BYTES))
      encode().copy(message)
      for (let other = 0; other < size; other++) {
        if (other === rank || stuck > 0) continue
        const request = requestsOf(1)
        sent.push(message, request)
        isend(message, REASON_BYTES, abi.byte, other, ABORT, abi.world, request)
      }
    },
    onFailure: (listen) => void (tell = listen),
    close: async (failed) => {
      closed = true
      clearInterval(beats)
      if (!failed) {
        hearBeats()
        process.off("exit", onExit)
        finalize()
      }
    }
  }
}
