/** The studies, in the order in which they are listed and run. To add one: a file beside this one, and a line here. */
import type { AnyStudy } from "../study/Study.ts"
import { associative } from "./associative.ts"

export const studies: ReadonlyArray<AnyStudy> = [
  associative
]
