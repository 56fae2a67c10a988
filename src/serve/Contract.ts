/** The endpoints as data: what they take and give. `/openapi.json` is made of it. */
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as OpenApi from "@effect/platform/OpenApi"
import * as Schema from "effect/Schema"

/** A field that may be left out, or null as some clients write it. */
const optional = <A, I>(schema: Schema.Schema<A, I>) => Schema.optionalWith(schema, { nullable: true })
const withDefault = <A, I>(schema: Schema.Schema<A, I>, value: A) =>
  Schema.optionalWith(schema, { nullable: true, default: () => value })

const says = (message: string) => ({ message: () => ({ message, override: true }) })

const source = Schema.Union(Schema.String, Schema.NonNegativeInt).annotations({
  identifier: "Source",
  description: "the name of a source, or its id; an id of more than 53 bits as a text of decimal digits"
})

/** Whose sinks are lit. Unknown fields are mistakes here: a deny-list that is misspelt must not pass. */
export const MemsinksField = Schema.Struct({
  /** `none`: nobody's; `nearest`: those of the source that the prompt is nearest to; else a source's. Default none. */
  route: optional(source),
  /** Sources that may be lit. Default: all. */
  allow: optional(Schema.Array(source)),
  /** Sources that may not, besides those of the server. */
  deny: optional(Schema.Array(source)),
  /** Sources whose sinks are off also where the lit one shares them. */
  exclude: optional(Schema.Array(source))
}).annotations({ identifier: "Memsinks", parseOptions: { onExcessProperty: "error" } })

export type MemsinksField = typeof MemsinksField.Type

const token = Schema.NonNegativeInt

const Prompt = Schema.Union(
  Schema.String,
  Schema.Array(Schema.String),
  Schema.Array(token),
  Schema.Array(Schema.Array(token))
).annotations({
  ...says("expected a text, a list of texts, a list of token ids (whole numbers), or a list of such lists"),
  description: "what is continued"
})

const count = (most: number) =>
  Schema.Int.pipe(Schema.between(0, most)).annotations(says(`expected a whole number from 0 to ${most}`))

const finite = (least: number, most: number) =>
  Schema.Finite.pipe(Schema.between(least, most)).annotations(says(`expected a number from ${least} to ${most}`))

/** `POST /v1/completions`. Fields that are not here are ignored. */
export const CompletionRequest = Schema.Struct({
  model: optional(Schema.String),
  prompt: Prompt,
  max_tokens: withDefault(count(2 ** 31 - 1), 16),
  temperature: withDefault(finite(0, 1e6), 1),
  top_p: withDefault(
    Schema.Finite.pipe(Schema.greaterThan(0), Schema.lessThanOrEqualTo(1)).annotations(
      says("expected a number above 0 and at most 1")
    ),
    1
  ),
  /** 0 and -1: all. */
  top_k: withDefault(
    Schema.Int.pipe(Schema.greaterThanOrEqualTo(-1)).annotations(says("expected a whole number; 0 or -1: all")),
    0
  ),
  n: withDefault(
    Schema.Int.pipe(Schema.between(1, 128)).annotations(says("expected a whole number from 1 to 128")),
    1
  ),
  stop: withDefault(
    Schema.Union(Schema.String, Schema.Array(Schema.String)).annotations(says("expected a text or a list of texts")),
    []
  ),
  seed: optional(Schema.Int.annotations(says("expected a whole number"))),
  logprobs: optional(count(20)),
  echo: withDefault(Schema.Boolean, false),
  logit_bias: withDefault(
    Schema.Record({ key: Schema.String, value: finite(-100, 100) }).annotations(
      says("expected an object of numbers from -100 to 100 by token ids")
    ),
    {}
  ),
  stream: withDefault(Schema.Boolean, false),
  stream_options: optional(Schema.Struct({ include_usage: withDefault(Schema.Boolean, false) })),
  /** Go on behind the token that ends a text. */
  ignore_eos: withDefault(Schema.Boolean, false),
  // what changes the text and is not done must not be ignored
  presence_penalty: withDefault(Schema.Literal(0).annotations(says("penalties are not supported")), 0),
  frequency_penalty: withDefault(Schema.Literal(0).annotations(says("penalties are not supported")), 0),
  suffix: withDefault(Schema.Literal("").annotations(says("a suffix is not supported")), ""),
  best_of: withDefault(Schema.Literal(1).annotations(says("best_of is not supported: ask for n")), 1),
  memsinks: optional(MemsinksField)
}).annotations({ identifier: "CompletionRequest" })

export type CompletionRequest = typeof CompletionRequest.Type

/** Which sinks were lit for a prompt. */
const LitState = Schema.Struct({
  state: Schema.Literal("own", "off", "placebo", "plain"),
  id: Schema.NullOr(Schema.String),
  source: Schema.NullOr(Schema.String),
  /** Of the nearest source, from 0 to 1. */
  similarity: Schema.NullOr(Schema.Number)
}).annotations({ identifier: "LitState" })

const Told = Schema.Struct({
  /** Of each prompt, in their order. */
  lit: Schema.Array(LitState),
  deny_version: Schema.String,
  /** What the choices were drawn with. */
  seed: Schema.Int
}).annotations({ identifier: "Told" })

export const Completion = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("text_completion"),
  created: Schema.Int,
  model: Schema.String,
  choices: Schema.Array(Schema.Struct({
    index: Schema.Int,
    text: Schema.String,
    logprobs: Schema.NullOr(Schema.Struct({
      tokens: Schema.Array(Schema.String),
      token_logprobs: Schema.Array(Schema.NullOr(Schema.Number)),
      top_logprobs: Schema.NullOr(
        Schema.Array(Schema.NullOr(Schema.Record({ key: Schema.String, value: Schema.Number })))
      ),
      text_offset: Schema.Array(Schema.Int)
    })),
    finish_reason: Schema.NullOr(Schema.Literal("stop", "length"))
  })),
  usage: optional(Schema.Struct({
    prompt_tokens: Schema.Int,
    completion_tokens: Schema.Int,
    total_tokens: Schema.Int
  })),
  memsinks: Told
}).annotations({ identifier: "Completion" })

export const TokenizeRequest = Schema.Struct({
  model: optional(Schema.String),
  prompt: optional(Schema.String),
  /** The same, as llama.cpp calls it. */
  content: optional(Schema.String),
  add_special_tokens: withDefault(Schema.Boolean, true)
})

export const DetokenizeRequest = Schema.Struct({ model: optional(Schema.String), tokens: Schema.Array(token) })

/** A source by its name or its id, where the two may look alike: a text alone is an id where there is such a one, else a name. */
const told = Schema.Union(
  source,
  Schema.Struct({ source: Schema.String }),
  Schema.Struct({ id: Schema.String })
).annotations({ identifier: "Denied" })

export const DenyRequest = Schema.Struct({
  /** Sources that no request lights any more. */
  deny: withDefault(Schema.Array(told), []),
  /** The same, and what they light is off for everybody. */
  exclude: withDefault(Schema.Array(told), []),
  /** Of which model. Default: of all that know them. */
  model: optional(Schema.String)
}).annotations({ parseOptions: { onExcessProperty: "error" } })

const Failure = Schema.Struct({
  error: Schema.Struct({
    message: Schema.String,
    type: Schema.String,
    param: Schema.NullOr(Schema.String),
    code: Schema.NullOr(Schema.Union(Schema.String, Schema.Int))
  })
}).annotations({ identifier: "Failure" })

const failure = (status: number) => Failure.annotations(HttpApiSchema.annotations({ status }))

const Models = Schema.Struct({
  object: Schema.Literal("list"),
  data: Schema.Array(Schema.Struct({
    id: Schema.String,
    object: Schema.Literal("model"),
    created: Schema.Int,
    owned_by: Schema.String,
    max_model_len: Schema.Int
  }))
})

const text = (type: string) => Schema.String.pipe(HttpApiSchema.withEncoding({ kind: "Text", contentType: type }))

const openai = HttpApiGroup.make("openai")
  .add(HttpApiEndpoint.get("models", "/v1/models").addSuccess(Models))
  .add(
    HttpApiEndpoint.post("completions", "/v1/completions").setPayload(CompletionRequest).addSuccess(Completion)
      .addError(failure(400)).addError(failure(401)).addError(failure(403)).addError(failure(404))
      .addError(failure(413)).addError(failure(429)).addError(failure(503)).addError(failure(504))
  )

const tokens = HttpApiGroup.make("tokens")
  .add(
    HttpApiEndpoint.post("tokenize", "/tokenize").setPayload(TokenizeRequest).addSuccess(
      Schema.Struct({ tokens: Schema.Array(token), count: Schema.Int, max_model_len: Schema.Int })
    ).addError(failure(400))
  )
  .add(
    HttpApiEndpoint.post("detokenize", "/detokenize").setPayload(DetokenizeRequest).addSuccess(
      Schema.Struct({ prompt: Schema.String, content: Schema.String })
    ).addError(failure(400))
  )
  .add(
    HttpApiEndpoint.get("tokenizer_info", "/tokenizer_info").setUrlParams(
      Schema.Struct({ model: Schema.optional(Schema.String) })
    ).addSuccess(Schema.Struct({
      eos_token: Schema.NullOr(Schema.String),
      bos_token: Schema.NullOr(Schema.String),
      pad_token: Schema.NullOr(Schema.String),
      chat_template: Schema.Null
    }))
  )

const health = Schema.Struct({
  status: Schema.Literal("ok"),
  /** Only where a list of who is off was changed to what cannot be taken: since when, and that an earlier one is in force. */
  deny_list: Schema.optional(
    Schema.Struct({ status: Schema.Literal("stale"), since: Schema.String, message: Schema.String })
  )
})

const server = HttpApiGroup.make("server")
  .add(HttpApiEndpoint.get("health", "/health").addSuccess(health).addError(failure(503)))
  .add(HttpApiEndpoint.get("health_v1", "/v1/health").addSuccess(health).addError(failure(503)))
  .add(HttpApiEndpoint.get("metrics", "/metrics").addSuccess(text("text/plain")))
  .add(
    HttpApiEndpoint.post("deny", "/admin/deny").setPayload(DenyRequest).addSuccess(
      Schema.Struct({
        models: Schema.Array(Schema.Struct({
          model: Schema.String,
          denied: Schema.Int,
          excluded_units: Schema.Int,
          deny_version: Schema.String
        })),
        /** Whether they stay so when the server is started anew. */
        kept: Schema.Boolean
      })
    ).addError(failure(400)).addError(failure(415))
  )
  .add(HttpApiEndpoint.get("openapi", "/openapi.json").addSuccess(Schema.Object))
  .add(HttpApiEndpoint.get("docs", "/docs").addSuccess(text("text/html")))

export const api = HttpApi.make("memsinks").add(openai).add(tokens).add(server)
  .annotate(OpenApi.Title, "memsinks serve")
  .annotate(
    OpenApi.Description,
    "A language model whose memorization sinks are chosen request by request: `NAME:off`, `NAME:own:SOURCE`, " +
      "`NAME:nearest`, `NAME:placebo`, or the field `memsinks`."
  )

/** The endpoints in OpenAPI 3.1. */
export const openApi = (): OpenApi.OpenAPISpec => OpenApi.fromApi(api)
