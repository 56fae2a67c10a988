/** What a command does that several ranks run. */
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import process from "node:process"
import { Collective } from "../collective/Collective.ts"
import { CollectiveError } from "../Errors.ts"
import { gathered } from "../train/DataParallel.ts"
import * as Edge from "./Edge.ts"

/** What may make processes see different GPUs of one name. */
const choosing = ["NVIDIA_VISIBLE_DEVICES", "DRI_PRIME", "MESA_VK_DEVICE_SELECT", "VK_ICD_FILENAMES", "VK_DRIVER_FILES"]

interface Own {
  readonly name: string
  /** Adapters of a machine with the same key are, for all that can be known, the same one. */
  readonly key: string
}

/** Which adapter each rank has, in lines. Fails where two of a machine have the same and are not to share it. */
export const ownAdapters = ({ adapter, shareAdapter }: {
  readonly adapter: Option.Option<string>
  readonly shareAdapter: boolean
}) =>
  Effect.gen(function*() {
    const collective = yield* Collective
    const runtime = yield* Edge.runtime
    const { name } = yield* Effect.scoped(runtime.openGpu(Edge.given({ adapter })))
    const host = collective.hosts[collective.rank]!
    const mine: Own = { name, key: [host, name, ...choosing.map((one) => process.env[one] ?? "")].join("\n") }
    const all = yield* gathered(collective, mine)
    const second = all.findIndex((one, i) => all.findIndex(({ key }) => key === one.key) < i)
    if (second >= 0 && !shareAdapter) {
      const first = all.findIndex(({ key }) => key === all[second]!.key)
      return yield* new CollectiveError({
        reason: "Setup",
        rank: second,
        detail:
          `ranks ${first} and ${second} on ${collective.hosts[second]} both have the adapter ${all[second]!.name}: ` +
          "start no more ranks than there are GPUs, let each see one of its own (LOCAL_RANK chooses among those of " +
          "different names; NVIDIA_VISIBLE_DEVICES or DRI_PRIME among equal ones), or give pretrain --share-adapter"
      })
    }
    return [
      `${collective.size} ranks over ${collective.name}`,
      ...all.map((one, rank) => `rank ${rank} on ${collective.hosts[rank]}: ${one.name}`)
    ]
  })
