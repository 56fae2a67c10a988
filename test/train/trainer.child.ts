/** Trains the miniature for 20 steps into the folder it is given, saving after each; resumes when there is something. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { miniatureData, miniatureModel } from "../support/support.ts"

const app = Trainer.layer(new TrainConfig({ steps: 20, logEvery: 1, saveEvery: 1 })).pipe(
  Layer.provide(Model.layer(miniatureModel, { seed: 5 })),
  Layer.provide(miniatureData()),
  Layer.provide(Checkpoints.layerFileSystem(process.argv[2]!, { resume: true })),
  Layer.provide(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)
await Effect.flatMap(Trainer, (trainer) =>
  trainer.run.pipe(
    Stream.tap((event) =>
      Effect.sync(() => process.stdout.write(`${event._tag} step ${"step" in event ? event.step : ""}\n`))
    ),
    Stream.runDrain
  )).pipe(Effect.provide(app), Effect.runPromise)
