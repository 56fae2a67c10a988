/** The studies, in the order in which they are listed and run. To add one: a file beside this one, and a line here. */
import type { AnyStudy } from "../study/Study.ts"
import { associative } from "./associative.ts"
import { attentionMemory } from "./attentionMemory.ts"
import { backbone } from "./backbone.ts"
import { deletion } from "./deletion.ts"
import { diloco } from "./diloco.ts"
import { facts } from "./facts.ts"
import { forecasting } from "./forecasting.ts"
import { grokking } from "./grokking.ts"
import { insertion } from "./insertion.ts"
import { localizing } from "./localizing.ts"
import { longTail } from "./longTail.ts"
import { massed } from "./massed.ts"
import { nearDuplicates } from "./nearDuplicates.ts"
import { oracleGap } from "./oracleGap.ts"
import { pitfalls } from "./pitfalls.ts"
import { quantifying } from "./quantifying.ts"
import { selfInfluence } from "./selfInfluence.ts"
import { sharding } from "./sharding.ts"
import { tokenizers } from "./tokenizers.ts"

/** All studies, in the order in which `memsinks study` lists them. */
export const studies: ReadonlyArray<AnyStudy> = [
  quantifying,
  associative,
  pitfalls,
  facts,
  forecasting,
  grokking,
  deletion,
  backbone,
  sharding,
  insertion,
  longTail,
  localizing,
  selfInfluence,
  tokenizers,
  massed,
  diloco,
  attentionMemory,
  nearDuplicates,
  oracleGap
]
