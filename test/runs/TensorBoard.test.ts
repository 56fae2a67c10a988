import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect } from "vitest"
import * as TensorBoard from "../../src/runs/TensorBoard.ts"
import { Evaluated, Finished, Saved, Started, Stepped } from "../../src/train/TrainEvent.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-tensorboard-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

// ---------------------------------------------------------------------------------------------------------------
// A reader that shares nothing with the writer

/** Castagnoli's polynomial, bit by bit: no table. */
const crc = (bytes: Uint8Array): number => {
  let value = ~0
  for (const byte of bytes) {
    value ^= byte
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
  }
  return (value ^ ~0) >>> 0
}
const rotated = (bytes: Uint8Array): bigint => {
  const value = BigInt(crc(bytes))
  return (((value >> 15n) | (value << 17n)) + 0xa282ead8n) & 0xffffffffn
}

const records = (file: string): ReadonlyArray<Uint8Array> => {
  const data = readFileSync(file)
  const found: Array<Uint8Array> = []
  for (let at = 0; at < data.length;) {
    const length = Number(data.readBigUInt64LE(at))
    expect(BigInt(data.readUInt32LE(at + 8))).toBe(rotated(data.subarray(at, at + 8)))
    const body = data.subarray(at + 12, at + 12 + length)
    expect(BigInt(data.readUInt32LE(at + 12 + length))).toBe(rotated(body))
    found.push(body)
    at += 16 + length
  }
  return found
}

/** The fields of a message: numbers, doubles and floats as numbers, all else as bytes. */
const fields = (message: Uint8Array): ReadonlyArray<readonly [field: number, value: number | Uint8Array]> => {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength)
  const found: Array<readonly [number, number | Uint8Array]> = []
  let at = 0
  const varint = () => {
    let value = 0n
    for (let shift = 0n;; shift += 7n) {
      const byte = view.getUint8(at++)
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return Number(value)
    }
  }
  while (at < message.length) {
    const key = varint()
    switch (key & 7) {
      case 0:
        found.push([key >> 3, varint()])
        break
      case 1:
        found.push([key >> 3, view.getFloat64((at += 8) - 8, true)])
        break
      case 2: {
        const length = varint()
        found.push([key >> 3, message.subarray(at, at += length)])
        break
      }
      case 5:
        found.push([key >> 3, view.getFloat32((at += 4) - 4, true)])
        break
      default:
        throw new Error(`wire type ${key & 7}`)
    }
  }
  return found
}

const one = (message: Uint8Array, field: number) => fields(message).find(([number]) => number === field)?.[1]
const text = (value: number | Uint8Array | undefined) => new TextDecoder().decode(value as Uint8Array)

interface Read {
  readonly time: number
  readonly step: number
  readonly version?: string
  /** Of a session log: 1 is a start. */
  readonly session?: number
  readonly values?: Readonly<Record<string, number>>
}

const read = (file: string): ReadonlyArray<Read> =>
  records(file).map((record) => {
    const [version, summary, session] = [one(record, 3), one(record, 5), one(record, 7)]
    return {
      time: one(record, 1) as number,
      step: (one(record, 2) ?? 0) as number,
      ...(version === undefined ? {} : { version: text(version) }),
      ...(session === undefined ? {} : { session: one(session as Uint8Array, 1) as number }),
      ...(summary === undefined ? {} : {
        values: Object.fromEntries(fields(summary as Uint8Array).map(([field, value]) => {
          expect(field).toBe(1)
          return [text(one(value as Uint8Array, 1)), one(value as Uint8Array, 2) as number]
        }))
      })
    }
  })

// ---------------------------------------------------------------------------------------------------------------

const started = (step: number) =>
  new Started({ step, steps: 400, parameters: 10, activeParameters: 5, tokensPerStep: 64, adapter: "test" })
const stepped = (step: number, loss: number) =>
  new Stepped({ step, steps: 400, loss, gradNorm: 0.5, learningRate: 0.25, tokens: 64 * step, tokensPerSecond: 1000 })

describe("event files for TensorBoard", () => {
  it("have the checksum that everybody calls CRC-32C", () => {
    expect(TensorBoard.crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283)
    expect(TensorBoard.crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
  })

  it.effect("hold the version, then losses, rates and evaluations of every step", () =>
    Effect.gen(function*() {
      const folder = mkdtempSync(join(root, "run-"))
      let time = 1_700_000_000.5
      const { write } = TensorBoard.writer(folder, () => time++)
      yield* write(started(0))
      yield* write(stepped(10, 5.5))
      yield* write(new Evaluated({ step: 300, losses: { "repeated.own": 1.5, "heldOut.off": 2.5 } }))
      yield* write(new Saved({ step: 300, path: "x" }))
      yield* write(new Finished({ step: 300, seconds: 1, tokensPerSecond: 1 }))
      const [file, ...others] = readdirSync(folder)
      expect([file, others]).toEqual([expect.stringMatching(/^events\.out\.tfevents\.1700000000\./), []])
      expect(read(join(folder, file!))).toEqual([
        { time: 1_700_000_000.5, step: 0, version: "brain.Event:2" },
        { time: 1_700_000_000.5, step: 1, session: 1 },
        {
          time: 1_700_000_001.5,
          step: 10,
          values: {
            "train/loss": 5.5,
            "train/grad_norm": 0.5,
            "train/learning_rate": 0.25,
            "train/tokens_per_second": 1000
          }
        },
        { time: 1_700_000_002.5, step: 300, values: { "eval/repeated/own": 1.5, "eval/heldOut/off": 2.5 } }
      ])
    }))

  it.effect("go on in a later file, which says from which step on the earlier ones count no more", () =>
    Effect.gen(function*() {
      const folder = mkdtempSync(join(root, "run-"))
      // the clock stands still, and then goes backwards: the order of names must not
      for (const [at, now] of [[0, 1_700_000_005], [20, 1_700_000_005], [40, 1_600_000_000]] as const) {
        const { write } = TensorBoard.writer(folder, () => now)
        yield* write(started(at))
        yield* write(stepped(at + 10, 1))
      }
      const files = readdirSync(folder).sort()
      expect(files.map((name) => name.split(".")[3])).toEqual(["1700000005", "1700000006", "1700000007"])
      expect(files.map((name) => read(join(folder, name)).map(({ session, step }) => [step, session]))).toEqual([
        [[0, undefined], [1, 1], [10, undefined]],
        [[0, undefined], [21, 1], [30, undefined]],
        [[0, undefined], [41, 1], [50, undefined]]
      ])
    }))

  it.effect("hold every step once after a resume, for readers that purge nothing, and no half record", () =>
    Effect.gen(function*() {
      const folder = mkdtempSync(join(root, "run-"))
      const clock = () => 1_700_000_000
      const first = TensorBoard.writer(folder, clock)
      yield* Effect.forEach([started(0), stepped(100, 1), stepped(200, 1), stepped(210, 1), stepped(310, 1)],
        first.write)
      const [name] = readdirSync(folder)
      appendFileSync(join(folder, name!), Uint8Array.of(40, 0, 0))
      writeFileSync(join(folder, "events.out.tfevents.1500000000.elsewhere.1"), "none of ours")
      const second = TensorBoard.writer(folder, clock)
      yield* Effect.forEach([started(200), stepped(210, 1), stepped(310, 1), stepped(400, 1)], second.write)
      const steps = readdirSync(folder).filter((name) => !name.includes("elsewhere")).sort()
        .flatMap((name) => read(join(folder, name)))
        .flatMap(({ step, values }) => values === undefined ? [] : [step])
      expect(steps).toEqual([100, 200, 210, 310, 400])
      expect(readFileSync(join(folder, "events.out.tfevents.1500000000.elsewhere.1"), "utf8")).toBe("none of ours")
    }))

  it.effect("that cannot be written are told of once, and end nothing", () =>
    Effect.gen(function*() {
      const logged: Array<string> = []
      const logger = Logger.make(({ message }) => void logged.push(String(message)))
      const folder = join(root, "gone")
      const { write } = TensorBoard.writer(folder)
      yield* Effect.all([write(started(0)), write(stepped(10, 1)), write(stepped(20, 1))]).pipe(
        Effect.provide(Logger.replace(Logger.defaultLogger, logger))
      )
      expect(logged).toEqual([expect.stringContaining(`${folder}: no more events for TensorBoard: ENOENT`)])
    }))
})
