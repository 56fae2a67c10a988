/** Ranks that live in one process: for tests, and for experiments on how ranks exchange what they learn. */
import { CollectiveError } from "../Errors.ts"
import type { CollectiveService } from "./Group.ts"
import { travelled, wireBytes } from "./Wire.ts"

interface Meeting {
  readonly given: Array<unknown>
  readonly what: string
  came: number
  readonly all: Promise<ReadonlyArray<unknown>>
  readonly open: (all: ReadonlyArray<unknown>) => void
  readonly fail: (error: CollectiveError) => void
}

/** As many ranks, whose calls meet in their order; a call of another kind than the others' is a Mismatch. */
export const ranksInProcess = (size: number): ReadonlyArray<CollectiveService> => {
  const meetings: Array<Meeting> = []
  let failure: CollectiveError | undefined
  const meetingAt = (i: number, what: string): Meeting => {
    if (meetings[i] !== undefined) return meetings[i]
    let open!: Meeting["open"]
    let fail!: Meeting["fail"]
    const all = new Promise<ReadonlyArray<unknown>>((resolve, reject) => {
      open = resolve
      fail = reject
    })
    all.catch(() => undefined)
    return meetings[i] = { given: [], what, came: 0, all, open, fail }
  }
  return Array.from({ length: size }, (_, rank): CollectiveService => {
    let calls = 0
    const times = { calls: 0, bytes: 0, waiting: 0, exchanging: 0 }
    const meet = async <A>(what: string, value: A): Promise<ReadonlyArray<A>> => {
      if (failure !== undefined) throw failure
      const meeting = meetingAt(calls++, what)
      if (meeting.what !== what) {
        failure = new CollectiveError({ reason: "Mismatch", rank,
          detail: `rank ${rank}: ${what}, others: ${meeting.what}` })
        for (const one of meetings) one.fail(failure)
        throw failure
      }
      meeting.given[rank] = value
      if (++meeting.came === size) meeting.open(meeting.given)
      times.calls++
      return meeting.all as Promise<ReadonlyArray<A>>
    }
    return {
      rank,
      size,
      localRank: rank,
      hosts: Array.from({ length: size }, (_, i) => `host${i}`),
      hostsFirst: false,
      name: "ranks of one process",
      times,
      allReduce: async (values, wire = "f32") => {
        const all = await meet("allReduce", travelled(values.slice(), wire))
        times.bytes += wireBytes(wire, values.length)
        values.set(all[0]!)
        for (const other of all.slice(1)) {
          other.forEach((value, i) => void (values[i] = Math.fround(values[i]! + value)))
        }
        travelled(values, wire)
      },
      broadcast: async (bytes) => (await meet("broadcast", bytes?.slice()))[0]!,
      gather: async (bytes) => {
        const all = await meet("gather", bytes.slice())
        return rank === 0 ? all : []
      },
      allGather: (bytes) => meet("allGather", bytes.slice()),
      barrier: async () => void await meet("barrier", undefined),
      abort: (reason) => {
        failure ??= new CollectiveError({ reason: "Aborted", rank, detail: `rank ${rank} gave up: ${reason}` })
        for (const one of meetings) one.fail(failure)
      }
    }
  })
}
