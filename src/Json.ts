/** JSON whose shape is not known yet. */

export type Json = Readonly<Record<string, unknown>>

/** An object, which neither a list nor null is. */
export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)
