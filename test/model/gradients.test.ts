import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as NodeDevice from "../../src/node.ts"
import { checkWholeModel, wholeModels } from "../support/wholeModel.ts"

layer(NodeDevice.layer())("a tiny model against the float64 reference", (it) => {
  for (const c of wholeModels) {
    it.scoped(`loss, ranks and every gradient: ${c.name}`, (context) =>
      Effect.gen(function*() {
        if (!(yield* checkWholeModel(c))) return context.skip("the adapter has no shader-f16")
      }))
  }
})
