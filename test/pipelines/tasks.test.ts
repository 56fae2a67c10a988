import * as NodeContext from "@effect/platform-node/NodeContext"
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect } from "vitest"
import { evaluateTasks, type TasksOptions } from "../../pipelines/tasks.ts"
import * as Checkpoints from "../../src/checkpoints/Checkpoints.ts"
import { formatTasks } from "../../src/cli/evaluate.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import { Device } from "../../src/gpu/Device.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import { SinkConfig } from "../../src/Sink.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-tasks-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const [a, gone] = ["a", "gone"].map(sourceHash) as [bigint, bigint]
const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 64,
  maxPositionEmbeddings: 48,
  initializerRange: 0.4,
  sinks: new SinkConfig({ pool: 64, active: 32, block: 16, denied: [`${gone}`] })
})
const checkpoint = join(folder, "model")

const fileOf = (name: string, lines: ReadonlyArray<unknown>): string => {
  const path = join(folder, name)
  writeFileSync(path, lines.map((line) => typeof line === "string" ? line : JSON.stringify(line)).join("\r\n"))
  return path
}

const choices = [
  { task: "pick", query: "The sky is", choices: ["blue", "a ladder", "éé"], gold: 0, source: "a" },
  { task: "pick", context: "Two and two are ", choices: ["four", "five"], answer: "five", source: "a" },
  { task: "pick", question: `${"long ".repeat(20)}story`, choices: { text: ["one", "three"], label: ["A", "B"] },
    answerKey: "B", id: `${a}` },
  { task: "pick", query: "Both", choices: ["same", "same"], gold: [1], source: "a" },
  { task: "pick", query: "Letters", choices: ["x", "yy", "zzz"], label: "C", target_delimiter: "", source: "a" }
]
const continuations = [
  { task: "say", context: "The end", continuation: " is near", source: "a" },
  { task: "say", context: "Ünïcode", continuation: "é", source: "a" }
]

layer(NodeDevice.layer())("tasks", (it) => {
  const setUp = Effect.gen(function*() {
    const model = yield* Model.make(config, { seed: 5 })
    if (!existsSync(checkpoint)) {
      const ids = [{ id: a, name: "a", documents: 1, tokens: 1 }, { id: gone, name: "gone", documents: 1, tokens: 1 }]
      yield* Checkpoints.saveModel(checkpoint, {
        config: huggingFaceConfig(config),
        model: yield* model.exportTensors,
        tokenizer: bytes.toJSON(),
        names: encodeNames({ identity: "source", ids })
      })
    }
    return model
  })
  const ask = (tasks: string, options: Partial<TasksOptions> = {}) =>
    Effect.flatMap(Device, (device) =>
      evaluateTasks(checkpoint, { device: Layer.succeed(Device, device), tasks, ...options }))
  const provided = <A, E>(effect: Effect.Effect<A, E, any>) =>
    Effect.provide(effect, NodeContext.layer) as Effect.Effect<A, E, never>

  it.scoped("answers as sums of token records do, in each state of the sinks", () =>
    provided(Effect.gen(function*() {
      const model = yield* setUp
      const file = fileOf("all.jsonl", [...choices, "", ...continuations])
      const report = yield* ask(file, { batchSize: 3 })
      expect(report).toMatchObject({ file, sinks: ["own", "off", "placebo"], seqLen: 48 })
      expect(
        report.tasks.map((
          { available, kind, questions, task, truncated }
        ) => [task, kind, questions, available, truncated])
      ).toEqual([
        ["pick", "multiple_choice", 5, 5, 1],
        ["say", "loglikelihood", 2, 2, 0]
      ])
      expect(report.tasks[0]!.chance).toBeCloseTo((1 / 3 + 1 / 2 + 1 / 2 + 1 / 2 + 1 / 3) / 5, 12)

      /** The context and the continuations as the harness splits them, and the place of the right one. */
      const asked: ReadonlyArray<readonly [context: string, texts: ReadonlyArray<string>, gold: number]> = [
        ["The sky is", [" blue", " a ladder", " éé"], 0],
        // the space at the end of the context is the choice's, and the delimiter stands before it
        ["Two and two are", ["  four", "  five"], 1],
        [`${"long ".repeat(20)}story`, [" one", " three"], 1],
        ["Both", [" same", " same"], 1],
        ["Letters", ["x", "yy", "zzz"], 2]
      ]
      const sums = (context: string, texts: ReadonlyArray<string>, mode: Sink.SinkMode) =>
        Effect.map(
          recordRows(model, texts.map((text) => {
            const all = bytes.encode(context + text)
            const tokens = all.slice(Math.max(0, all.length - 49))
            const scoredFrom = tokens.length - bytes.encode(text).length
            return { id: a, tokens, document: "d", offset: 0, scoredFrom }
          }), mode, { batchSize: 1, seqLen: 48, split: "all", schemes: [] }),
          (records) =>
            texts.map((_, i) => {
              const range = [records.start[i]!, records.start[i + 1]!] as const
              return {
                sum: records.logProb.slice(...range).reduce((a, b) => a + b, 0),
                greedy: records.rank.slice(...range).every((rank) => rank === 0),
                tokens: range[1] - range[0]
              }
            })
        )
      for (const [state, mode] of [["own", Sink.own], ["off", Sink.off]] as const) {
        const right = { acc: 0, acc_norm: 0, acc_bytes: 0, acc_tokens: 0 }
        for (const [i, [context, texts, gold]] of asked.entries()) {
          const found = yield* sums(context, texts, mode)
          const given = choices[i]!.choices
          const said = Array.isArray(given) ? given : given.text
          const best = (of: (c: number) => number) => {
            const values = texts.map((_, c) => found[c]!.sum / of(c))
            return values.indexOf(Math.max(...values)) === gold ? 1 : 0
          }
          right.acc += best(() => 1)
          right.acc_norm += best((c) => Array.from(said[c]!).length)
          right.acc_bytes += best((c) => Buffer.byteLength(said[c]!))
          right.acc_tokens += best((c) => found[c]!.tokens)
        }
        const { metrics, ties } = report.tasks[0]!.scores[state]!
        expect(ties).toBe(1)
        for (const [name, count] of Object.entries(right)) {
          expect(metrics[name]!.value, `${state} ${name}`).toBe(count / 5)
          const p = count / 5
          expect(metrics[name]!.stderr).toBeCloseTo(Math.sqrt(p * (1 - p) / 4), 12)
          expect(metrics[name]!.low).toBeLessThanOrEqual(p)
          expect(metrics[name]!.high).toBeGreaterThanOrEqual(p)
        }

        const said = report.tasks[1]!.scores[state]!.metrics
        const [one] = yield* sums("The end", [" is near"], mode)
        const [two] = yield* sums("Ünïcode", ["é"], mode)
        expect(said.perplexity!.value / Math.exp(-(one!.sum + two!.sum) / 2)).toBeCloseTo(1, 4)
        expect(said.token_perplexity!.value / Math.exp(-(one!.sum + two!.sum) / 10)).toBeCloseTo(1, 4)
        expect(said.bits_per_byte!.value).toBeCloseTo(-(one!.sum + two!.sum) / 10 / Math.LN2, 4)
        expect(said.acc!.value).toBe((Number(one!.greedy) + Number(two!.greedy)) / 2)
        expect(said.perplexity!.stderr).toBeGreaterThan(0)
      }

      const text = formatTasks([report, report], (_, text) => text)
      expect(text).toContain("pick (1): the beginning of 1 context was cut off: rows have 48 tokens")
      expect(text).toContain("pick (1), own: in 1 question the likeliest choices are equally likely: the first counts")
      // the same for another number at once
      const again = yield* ask(file, { batchSize: 16 })
      const { seconds: _, ...same } = report
      expect(again).toMatchObject(same)
      // and some of them, drawn by the seed
      const few = yield* ask(file, { sequences: 2, sinks: ["off"] })
      expect(few.tasks.map(({ available, questions }) => [questions, available])).toEqual([[2, 5], [2, 2]])
      expect(formatTasks([few], (_, text) => text)).toContain("pick: 2 of 5 questions, drawn by the seed")
    })))

  it.scoped("says of a question that cannot be asked which line and field it is", () =>
    provided(Effect.gen(function*() {
      yield* setUp
      const ok = { query: "q", choices: ["a", "b"], gold: 0 }
      const refused = (line: unknown, options: Partial<TasksOptions> = { sinks: ["off"] }) =>
        Effect.map(Effect.flip(ask(fileOf("bad.jsonl", [ok, line]), options)), ({ message }) => message)
      const cases: ReadonlyArray<readonly [line: unknown, said: string]> = [
        [{ ...ok, gold: 2 }, "line 2 field gold: expected the place of a choice from 0 to 1, or its text, got 2"],
        [{ ...ok, gold: -1 }, "got -1"],
        [{ ...ok, gold: 0.5 }, "got 0.5"],
        [{ ...ok, gold: "neither" }, "got \"neither\""],
        [{ ...ok, gold: [0, 7] }, "field gold[1]: expected"],
        [{ ...ok, gold: [] }, "field gold: expected"],
        [{ query: "q", choices: ["a", "b"] }, "line 2 has no field gold, answer, label, answerKey"],
        [{ query: "q", choices: ["a", "b"], answer: 0, label: 1 }, "has the fields answer and label, and nothing says"],
        [{ ...ok, choices: [] }, "line 2 field choices: expected a list of 2 texts or more, got 0"],
        [{ ...ok, choices: ["a", ""] }, "field choices[1]: expected a text that is not empty, got \"\""],
        [{ ...ok, choices: ["a", 3] }, "field choices[1]"],
        [{ ...ok, query: 7 }, "field query: expected a text, got 7"],
        [{ ...ok, query: undefined, context: "c", question: "q" }, "has the fields question and context"],
        [{ ...ok, choices: { text: ["a", "b"], label: ["A"] } }, "field choices.label: expected a list of 2"],
        [{ query: "q" }, "line 2 has neither choices (with query and gold) nor a continuation"],
        [{ context: "c", continuation: "" }, "field continuation: expected a text that is not empty"],
        [{ context: "c", continuation: "d" }, "line 1 of the same task \"bad\" is of kind multiple_choice"],
        [{ ...ok, task: 1 }, "field task: expected a text"],
        ["{", "line 2 is not JSON"],
        ["[1]", "line 2 is no object"],
        [{ ...ok, id: 1, source: "a" }, "line 2 has both an id and a source"],
        [{ ...ok, choices: ["a", "b".repeat(48)] },
          "line 2 field choices[1] has 49 tokens, more than the 48 of a row: shorten it, or raise --seq"],
        [{ ...ok, query: "" }, "line 2 has no context, and the model has no token that begins or ends a text"]
      ]
      for (const [line, said] of cases) expect(yield* refused(line), said).toContain(said)
      expect(yield* refused(ok, { sinks: ["own"] })).toContain("line 1 has no field id or source, and own sinks are")
      expect(yield* refused({ ...ok, source: "b" }, { id: "a" })).toMatch(
        /bad\.jsonl: line 2, asked of \S+model: the model was not trained/
      )
      // whose sinks were deleted has none of its own to be asked with
      const gone = yield* ask(fileOf("gone.jsonl", [{ ...ok, source: "gone" }, { ...ok, task: "other", source: "a" }]))
      expect(gone.tasks.map(({ deleted, scores }) => [deleted, Object.keys(scores)])).toEqual([
        [1, ["off", "placebo"]],
        [0, ["own", "off", "placebo"]]
      ])
      expect(formatTasks([gone], (_, text) => text)).toMatch(/own +deleted \(1\) +-/)
      expect(yield* refused(ok, { seqLen: 49 })).toContain("seqLen must be a whole number from 1 to the model's")
      expect(yield* Effect.map(Effect.flip(ask(fileOf("none.jsonl", [""]))), ({ message }) => message)).toContain(
        "holds no question"
      )
    })))
})
