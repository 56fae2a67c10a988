/** Why a request is not answered, in the form that clients of OpenAI's API read. */
import * as Schema from "effect/Schema"

const types = {
  400: "invalid_request_error",
  401: "authentication_error",
  403: "permission_error",
  404: "invalid_request_error",
  405: "invalid_request_error",
  413: "invalid_request_error",
  415: "invalid_request_error",
  429: "rate_limit_error",
  500: "server_error",
  501: "server_error",
  503: "server_error",
  504: "server_error"
} as const

export class Refusal extends Schema.TaggedError<Refusal>()("Refusal", {
  status: Schema.Literal(...Object.keys(types).map(Number) as unknown as ReadonlyArray<keyof typeof types>),
  message: Schema.String,
  /** A word for programs. */
  code: Schema.optional(Schema.String),
  /** The field that is meant. */
  param: Schema.optional(Schema.String),
  /** Seconds until another try may do. */
  retryAfter: Schema.optional(Schema.Number)
}) {
  /** As JSON has it. */
  get body() {
    return {
      error: {
        message: this.message,
        type: types[this.status],
        param: this.param ?? null,
        code: this.code ?? null
      }
    }
  }
}

/** The refusal of a field. */
export const wrong = (param: string, message: string, code?: string): Refusal =>
  new Refusal({ status: 400, param, message, ...(code === undefined ? {} : { code }) })
