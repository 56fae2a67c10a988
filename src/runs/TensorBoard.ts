/**
 * Event files for TensorBoard, written without it: TFRecord frames with masked CRC-32C around protocol buffers of which
 * only the few fields that scalars need are encoded. The record of truth stays metrics.jsonl.
 */
import * as Effect from "effect/Effect"
import { Buffer } from "node:buffer"
import * as fs from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import process from "node:process"
import type { TrainEvent } from "../train/TrainEvent.ts"

/** CRC-32C (Castagnoli), reflected. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

/** CRC-32C of bytes: 0xe3069283 for the ASCII digits 1 to 9. */
export const crc32c = (bytes: Uint8Array): number => {
  let crc = 0xffffffff
  for (const byte of bytes) crc = table[(crc ^ byte) & 255]! ^ (crc >>> 8)
  return ~crc >>> 0
}

const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

/** A record as TensorFlow frames it: length, its checksum, the bytes, their checksum. */
const frame = (data: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(data.length + 16)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(data.length), true)
  view.setUint32(8, masked(bytes.subarray(0, 8)), true)
  bytes.set(data, 12)
  view.setUint32(12 + data.length, masked(data), true)
  return bytes
}

// Wire types of protocol buffers; every field number here is below 16, so that its tag is one byte.
const [VARINT, DOUBLE, BYTES, FLOAT] = [0, 1, 2, 5] as const

const varint = (value: number): ReadonlyArray<number> => {
  const bytes: Array<number> = []
  for (; value > 127; value = Math.floor(value / 128)) bytes.push(value % 128 | 128)
  return [...bytes, value]
}
const tag = (field: number, type: number) => (field << 3) | type
const int = (field: number, value: number) => [tag(field, VARINT), ...varint(value)]
const double = (field: number, value: number) => [tag(field, DOUBLE), ...new Uint8Array(Float64Array.of(value).buffer)]
const float = (field: number, value: number) => [tag(field, FLOAT), ...new Uint8Array(Float32Array.of(value).buffer)]
const bytes = (field: number, value: ReadonlyArray<number> | Uint8Array) => [
  tag(field, BYTES),
  ...varint(value.length),
  ...value
]
const text = (field: number, value: string) => bytes(field, new TextEncoder().encode(value))

/** An Event: when, at which step, and what. */
const event = (seconds: number, step: number, what: ReadonlyArray<number>): Uint8Array =>
  frame(Uint8Array.from([...double(1, seconds), ...(step > 0 ? int(2, step) : []), ...what]))

/** What every event file begins with. */
const version = (seconds: number) => event(seconds, 0, text(3, "brain.Event:2"))

/** Readers forget what earlier files say of this step and later ones. */
const restart = (seconds: number, step: number) => event(seconds, step, bytes(7, int(1, 1)))

const scalars = (seconds: number, step: number, values: Readonly<Record<string, number>>) =>
  event(seconds, step, bytes(5, Object.entries(values).flatMap(([name, value]) =>
    bytes(1, [...text(1, name), ...float(2, value)])
  )))

/** What TensorBoard plots of an event, by tag; nothing for most events. */
export const valuesOf = (event: TrainEvent): Readonly<Record<string, number>> => {
  switch (event._tag) {
    case "Stepped":
      return {
        ...(event.loss === undefined ? {} : { "train/loss": event.loss }),
        "train/learning_rate": event.learningRate,
        ...(event.gradNorm === undefined ? {} : { "train/grad_norm": event.gradNorm }),
        "train/tokens_per_second": event.tokensPerSecond,
        ...(event.skipped === undefined ? {} : { "train/skipped_steps": event.skipped })
      }
    case "Evaluated":
      return Object.fromEntries(
        Object.entries(event.losses).map(([name, loss]) => [`eval/${name.replace(".", "/")}`, loss])
      )
    default:
      return {}
  }
}

const pattern = /^events\.out\.tfevents\.(\d{10,})\./

/** Readers take files in the order of their names: a new one's number is above those that are there. */
const nameIn = (folder: string, seconds: number): string => {
  const numbers = fs.readdirSync(folder).map((name) => Number(pattern.exec(name)?.[1] ?? 0))
  const number = Math.max(Math.floor(seconds), ...numbers.map((n) => n + 1))
  return `events.out.tfevents.${String(number).padStart(10, "0")}.${hostname()}.${process.pid}`
}

/** Where the records of a file end that are whole and of steps up to one; in a file steps only rise. */
const endOf = (file: string, step: number): number => {
  const handle = fs.openSync(file, "r")
  try {
    const head = Buffer.alloc(12)
    for (let at = 0;;) {
      if (fs.readSync(handle, head, 0, 12, at) < 12) return at
      const length = Number(head.readBigUInt64LE(0))
      if (length > longest || masked(head.subarray(0, 8)) !== head.readUInt32LE(8)) return at
      const rest = Buffer.alloc(length + 4)
      if (fs.readSync(handle, rest, 0, length + 4, at + 12) < length + 4 || stepIn(rest) > step) return at
      at += 16 + length
    }
  } finally {
    fs.closeSync(handle)
  }
}

/** No record of ours is longer, bytes. */
const longest = 1 << 20

/** The step of an event: after its time, or not there, for 0. */
const stepIn = (record: Uint8Array): number => {
  if (record[9] !== tag(2, VARINT)) return 0
  let step = 0
  for (let i = 10, scale = 1; i < record.length; i++, scale *= 128) {
    step += (record[i]! & 127) * scale
    if (record[i]! < 128) break
  }
  return step
}

/**
 * Cuts off what earlier files say of later steps, which run again, and half a record that a killed process left: not every
 * reader heeds that a later file purges them.
 */
const rewind = (folder: string, step: number): void => {
  for (const name of fs.readdirSync(folder)) {
    const file = join(folder, name)
    if (!pattern.test(name) || !fs.lstatSync(file).isFile()) continue
    const end = endOf(file, step)
    // of one that is none of ours nothing is cut
    if (end > 0 && end < fs.statSync(file).size) fs.truncateSync(file, end)
  }
}

/** Writes TensorBoard event files. */
export interface Writer {
  /** Write what an event says. `Started` begins a new file; of a run that was resumed, what it runs again is purged. */
  readonly write: (event: TrainEvent) => Effect.Effect<void>
}

/**
 * Writes event files into a folder, which must exist. A file that cannot be written must not end hours of training: it
 * is logged once, and nothing more is written until the next `Started`.
 *
 * @param now seconds since 1970; default: the clock
 */
export const writer = (folder: string, now: () => number = () => Date.now() / 1000): Writer => {
  let file: string | undefined
  const put = (event: TrainEvent): void => {
    const seconds = now()
    if (event._tag === "Started") {
      rewind(folder, event.step)
      file = join(folder, nameIn(folder, seconds))
      fs.writeFileSync(file, Buffer.concat([version(seconds), restart(seconds, event.step + 1)]), { flag: "wx" })
    }
    const values = valuesOf(event)
    if (file !== undefined && Object.keys(values).length > 0) {
      fs.appendFileSync(file, scalars(seconds, event.step, values))
    }
  }
  return {
    write: (event) =>
      Effect.suspend(() => {
        try {
          put(event)
          return Effect.void
        } catch (error) {
          const where = file ?? folder
          file = undefined
          return Effect.logWarning(
            `${where}: no more events for TensorBoard: ${error instanceof Error ? error.message : String(error)}`
          )
        }
      })
  }
}
