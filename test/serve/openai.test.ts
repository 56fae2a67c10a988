/** A client that somebody else wrote: npm's `openai`. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import OpenAI from "openai"
import { expect } from "vitest"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { model, serving } from "./toy.ts"

layer(NodeDevice.layer(), { excludeTestServices: true })("npm's openai", (it) => {
  it.scoped("lists models, completes and streams, and tells refusals apart", () =>
    Effect.gen(function*() {
      const service = yield* model
      const { engine, url } = yield* Effect.provideService(serving({ keys: ["key"] }), Model, service)
      const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "key", maxRetries: 0 })
      yield* Effect.promise(async () => {
        const ids: Array<string> = []
        for await (const { id } of client.models.list()) ids.push(id)
        expect(ids).toContain("toy:own:Genesis")
        const asked = { model: "toy:own:Genesis", prompt: ["In the", "beginning"], max_tokens: 8, temperature: 0,
          logprobs: 2 }
        const whole = await client.completions.create(asked)
        expect(whole.choices.map(({ index }) => index)).toEqual([0, 1])
        expect(whole.choices[0]!.logprobs!.token_logprobs).toHaveLength(8)
        expect(whole.usage).toMatchObject({ prompt_tokens: 15, completion_tokens: 16 })
        const texts = ["", ""]
        let usage: unknown
        const stream = await client.completions.create({ ...asked, stream: true,
          stream_options: { include_usage: true } })
        for await (const part of stream) {
          for (const { index, text } of part.choices) texts[index] += text
          usage = part.usage
        }
        expect(texts).toEqual(whole.choices.map(({ text }) => text))
        expect(usage).toEqual(whole.usage)

        const long = await client.completions.create({ model: "toy:off", prompt: "a", max_tokens: 60, stream: true })
        for await (const _ of long) break
        await expect(client.completions.create({ ...asked, model: "other" })).rejects.toBeInstanceOf(
          OpenAI.NotFoundError
        )
        await expect(client.completions.create({ ...asked, prompt: "a".repeat(65) })).rejects.toMatchObject({
          status: 400,
          code: "context_length_exceeded"
        })
        const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "another", maxRetries: 0 })
        await expect(stranger.completions.create(asked)).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
      })
      while (engine.counts.running > 0) yield* Effect.sleep(1)
    }))
})
