/** `/metrics` of a server. */
import { toText } from "../runs/Prometheus.ts"
import type { Reading } from "../runs/RunMetrics.ts"
import type { Served } from "./Completions.ts"
import { FIRST_TOKEN } from "./Engine.ts"

/** What a server has done, in the text format of Prometheus; `stale`: whether it could not take a changed deny-list. */
export const textOf = (models: ReadonlyArray<Served>, stale: boolean): string => {
  const readings: ReadonlyArray<Reading> = [
    { name: "memsinks_serve_deny_list_stale", description: "1: the deny-list was changed to what cannot be taken",
      labels: {}, value: stale ? 1 : 0, kind: "gauge" },
    ...models.flatMap(readingsOf)
  ]
  const familyOf = ({ family, name }: Reading): string => family ?? name
  // those of a family stand together, whose model they may be
  return toText(
    [...new Set(readings.map(familyOf))].flatMap((family) => readings.filter((reading) => familyOf(reading) === family))
  )
}

const readingsOf = ({ denied, engine: { counts, pages, slots }, name: model }: Served): ReadonlyArray<Reading> => {
  const one = (
    name: string,
    description: string,
    value: number,
    kind: NonNullable<Reading["kind"]> = "gauge",
    labels: Reading["labels"] = {}
  ): Reading => ({ name: `memsinks_serve_${name}`, description, labels: { model, ...labels }, value, kind })
  let below = 0
  const first = "seconds from a request to its first token"
  return [
    one("requests_running", "sequences that are continued", counts.running),
    one("requests_waiting", "sequences that wait for a slot", counts.waiting),
    one("slots", "sequences at once at most", slots),
    one("cache_usage_ratio", "share of the cache's pages that sequences hold", pages.held / pages.count),
    one("denied_sources", "sources on the deny-list", denied.size),
    one("excluded_units", "units that are off for everybody", denied.excluded),
    one("prompt_tokens_total", "tokens of prompts that were read", counts.promptTokens, "counter"),
    one("reused_tokens_total", "tokens of prompts that were taken over from earlier ones", counts.reusedTokens,
      "counter"),
    one("generation_tokens_total", "tokens that were added", counts.newTokens, "counter"),
    ...[...counts.begun].map(([state, value]) =>
      one("sequences_total", "sequences by the state of their sinks", value, "counter", { state })
    ),
    ...counts.firstToken.map((value, i) => {
      below += value
      const le = FIRST_TOKEN[i] === undefined ? "+Inf" : `${FIRST_TOKEN[i]}`
      return { ...one("first_token_seconds_bucket", first, below, "histogram", { le }),
        family: "memsinks_serve_first_token_seconds" }
    }),
    { ...one("first_token_seconds_sum", first, counts.firstTokenSum, "histogram"),
      family: "memsinks_serve_first_token_seconds" },
    { ...one("first_token_seconds_count", first, below, "histogram"), family: "memsinks_serve_first_token_seconds" }
  ]
}
