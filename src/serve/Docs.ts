/** `/docs`: the endpoints for people, on one page that loads nothing. */
import type * as OpenApi from "@effect/platform/OpenApi"

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", "\"": "&quot;" })[letter]!)

interface Operation {
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: unknown }>> }
  readonly responses?: Readonly<Record<string, unknown>>
}

/** The page of a description in OpenAPI. */
export const page = (spec: OpenApi.OpenAPISpec): string => {
  const json = (value: unknown) => `<pre tabindex="0">${escape(JSON.stringify(value, null, 2))}</pre>`
  const operations = Object.entries(spec.paths).flatMap(([path, methods]) =>
    Object.entries(methods as Readonly<Record<string, Operation>>).map(([method, { requestBody, responses }]) => {
      const schema = Object.values(requestBody?.content ?? {})[0]?.schema
      return `<details><summary><code>${method.toUpperCase()} ${escape(path)}</code></summary>` +
        (schema === undefined ? "" : `<h3>Request</h3>${json(schema)}`) +
        `<h3>Answers</h3>${json(responses ?? {})}</details>`
    })
  )
  const schemas = Object.entries(spec.components.schemas ?? {}).map(([name, schema]) =>
    `<details id="${escape(name)}"><summary>${escape(name)}</summary>${json(schema)}</details>`
  )
  return `<!doctype html><html lang="en"><meta charset="utf-8">` +
    `<meta name="viewport" content="width=device-width, initial-scale=1"><title>${escape(spec.info.title)}</title>` +
    "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;" +
    "padding:0 1rem;overflow-wrap:break-word}" +
    "pre{overflow:auto;font-size:13px}summary{cursor:pointer;padding:.3rem 0}h3{font-size:1rem}</style>" +
    `<h1>${escape(spec.info.title)}</h1><p>${
      escape(spec.info.description ?? "").replace(/`([^`]+)`/g, "<code>$1</code>")
    } As JSON: ` +
    `<a href="openapi.json">openapi.json</a>.</p>${operations.join("")}<h2>Schemas</h2>${schemas.join("")}</html>`
}
