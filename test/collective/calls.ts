/** The calls of a Collective, each checked against what it must give; all ranks of a test make them. */
import type { CollectiveService } from "../../src/collective/Collective.ts"
import { fromWire, wires } from "../reference/wire.ts"

const powers = [1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3]

/** Values of many magnitudes: their sum depends on the order. */
const valuesOf = (seed: number, length: number): Float32Array => {
  let state = (seed * 2654435761 + 1) >>> 0
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state / 2 ** 32 - 0.5) * powers[state % 7]!
  })
}

const same = (a: ArrayBufferView, b: ArrayBufferView): boolean =>
  Buffer.compare(
    Buffer.from(a.buffer, a.byteOffset, a.byteLength),
    Buffer.from(b.buffer, b.byteOffset, b.byteLength)
  ) === 0

/** What is wrong: nothing, if all is well. `megabytes` are those of a broadcast. */
export const everything = async (group: CollectiveService, megabytes = 1): Promise<ReadonlyArray<string>> => {
  const { rank, size } = group
  const everyRank = <A>(of: (rank: number) => A): Array<A> => Array.from({ length: size }, (_, other) => of(other))
  const wrong: Array<string> = []
  const check = (name: string, right: boolean) => {
    if (!right) wrong.push(`rank ${rank}: ${name}`)
  }

  /** The ranks whose values are added up first, of values of so many bytes. */
  const housesOf = (bytes: number): ReadonlyArray<ReadonlyArray<number>> =>
    group.hostsFirst && bytes * size > 2 ** 16
      ? [...new Set(group.hosts)].map((host) =>
        everyRank((other) => other).filter((other) => group.hosts[other] === host)
      )
      : [everyRank((other) => other)]

  const sums = async (length: number) => {
    const all = everyRank((other) => valuesOf(other + length, length))
    for (const wire of length > 2 ** 20 ? ["f32"] as const : wires) {
      const added = (parts: ReadonlyArray<Float32Array>, by: (typeof wires)[number]): Float32Array => {
        const [sum, ...more] = parts.map((part) => fromWire(part, by))
        for (const part of more) for (let i = 0; i < length; i++) sum![i]! += part[i]!
        return sum!
      }
      const houses = housesOf(4 * length)
      // what a host adds up does not leave it before
      const parts = houses.length === 1 ? all : houses.map((ranks) => added(ranks.map((other) => all[other]!), "f32"))
      const sum = fromWire(added(parts, wire), wire)
      const mine = all[rank]!.slice()
      const before = group.times.bytes
      await group.allReduce(mine, wire)
      check(`sum of ${length} values as ${wire} in the order of the ranks`, same(mine, sum))
      const bits = (8 * (group.times.bytes - before)) / length
      if (length > 1000) {
        check(`${wire} takes ${bits} bits`,
          Math.abs(bits / { f32: 32, bf16: 16, int8: 8.25, int4: 4.25 }[wire] - 1) < 1e-3)
      }
    }
  }

  const bytesOf = (of: number, length: number): Uint8Array =>
    Uint8Array.from({ length }, (_, i) => (i * 31 + of * 7) & 255)

  // ragged, below the number of ranks, of several pieces, at an odd place of its memory
  for (const length of [0, 1, 3, 1000, 30_001, 1_100_003]) await sums(length)
  const part = new Float32Array(1000).fill(1).subarray(3, 903)
  await group.allReduce(part)
  check("sum in a part of an array", part.every((value) => value === size))
  check("no value beside it is touched",
    new Float32Array(part.buffer)[2] === 1 && new Float32Array(part.buffer)[903] === 1)

  const large = bytesOf(9, megabytes * 1e6)
  check("broadcast", same(await group.broadcast(rank === 0 ? large : undefined), large))
  check("broadcast of nothing", (await group.broadcast()).length === 0)
  // every other rank has none
  const lengthOf = (other: number) => other % 2 === 1 ? 0 : 10 ** other + 70_000
  const parts = everyRank((other) => bytesOf(other, lengthOf(other)))
  const gathered = await group.gather(parts[rank]!)
  check("gather", gathered.length === (rank === 0 ? size : 0) && gathered.every((one, i) => same(one, parts[i]!)))
  const all = await group.allGather(parts[rank]!)
  check("allGather", all.length === size && all.every((one, i) => same(one, parts[i]!)))

  // calls that are not waited for come in turn
  const many = Array.from({ length: 100 }, (_, i) => new Float32Array(5).fill(i))
  await Promise.all(many.map((values) => group.allReduce(values)))
  check("many small calls at once", many.every((values, i) => values.every((value) => value === i * size)))
  await group.barrier()
  check("hosts", group.hosts.length === size && group.hosts[rank]!.length > 0)
  check("times", group.times.calls > 100 && group.times.waiting > 0 && group.times.exchanging > 0)
  return wrong
}
