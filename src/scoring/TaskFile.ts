/**
 * Questions of benchmarks as JSONL, a line each, in the words of lm-evaluation-harness:
 *
 *     {"query": "…", "choices": ["…", "…"], "gold": 1}      which of some texts continues another
 *     {"context": "…", "continuation": "…"}                 how likely one text continues another
 *
 * `question` and `context` stand for `query` too, and `answer`, `label` and `answerKey` for `gold`, which is the place of a
 * choice from 0, several places where several are right, the text of a choice, its label (`choices` may be
 * `{"text": […], "label": ["A", …]}`) or its letter. Between a query and a choice stands `target_delimiter`, a space where it
 * is not given; between a context and a continuation nothing. `task` says which task a line is of, and `id` or `source` whose
 * sinks it lights. Other fields are passed over.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { readText } from "../data/Corpus.ts"
import { type Whose, whoseOf } from "../data/identity/Whose.ts"
import { DataError } from "../Errors.ts"
import { isObject, type Json, parseJson } from "../Json.ts"

/** What a task asks, by the harness's names of it. */
export type TaskKind = "multiple_choice" | "loglikelihood"

/** A question of a task. */
export interface TaskItem {
  readonly task: string
  readonly kind: TaskKind
  /** Of the file, from 1. */
  readonly line: number
  readonly context: string
  /** The texts that may continue it, two or more; of a log-likelihood its one continuation. */
  readonly choices: ReadonlyArray<string>
  /** What stands before a choice. */
  readonly delimiter: string
  /** Places of the right choices; of a log-likelihood 0. */
  readonly gold: ReadonlyArray<number>
  readonly whose: Whose | undefined
}

type Read<A> = Either.Either<A, string>

/** The one of some fields that a line has. */
const oneOf = (line: Json, names: ReadonlyArray<string>, what: string): Read<string> => {
  const [first, ...others] = names
  const there = line[first!] !== undefined ? [first!] : others.filter((name) => line[name] !== undefined)
  if (there.length === 1) return Either.right(there[0]!)
  return Either.left(
    there.length === 0
      ? `has no field ${names.join(", ")}: expected ${what}`
      : `has the fields ${there.join(" and ")}, and nothing says which is meant: expected one field ${first}, ${what}`
  )
}

const textIn = (line: Json, name: string): Read<string> => {
  const value = line[name]
  return typeof value === "string"
    ? Either.right(value)
    : Either.left(`field ${name}: expected a text, got ${JSON.stringify(value) ?? "nothing"}`)
}

/** A list of texts, none of them empty. */
const textsIn = (value: unknown, name: string, least: number): Read<ReadonlyArray<string>> => {
  if (!Array.isArray(value) || value.length < least) {
    const got = Array.isArray(value) ? `${value.length}` : JSON.stringify(value) ?? "nothing"
    return Either.left(`field ${name}: expected a list of ${least} texts or more, got ${got}`)
  }
  const wrong = value.findIndex((one) => typeof one !== "string" || one === "")
  return wrong < 0
    ? Either.right(value as ReadonlyArray<string>)
    : Either.left(`field ${name}[${wrong}]: expected a text that is not empty, got ${JSON.stringify(value[wrong])}`)
}

const choicesOf = ({ choices }: Json): Read<{
  readonly texts: ReadonlyArray<string>
  readonly labels: ReadonlyArray<string>
}> =>
  Either.gen(function*() {
    if (!isObject(choices)) return { texts: yield* textsIn(choices, "choices", 2), labels: [] }
    const texts = yield* textsIn(choices.text, "choices.text", 2)
    const labels = choices.label === undefined ? [] : yield* textsIn(choices.label, "choices.label", texts.length)
    if (labels.length > texts.length) {
      return yield* Either.left(`field choices.label: has ${labels.length} labels for ${texts.length} texts`)
    }
    return { texts, labels }
  })

/** The places of the right choices, from what a field says of them. */
const goldOf = (
  value: unknown,
  name: string,
  texts: ReadonlyArray<string>,
  labels: ReadonlyArray<string>
): Read<ReadonlyArray<number>> => {
  if (Array.isArray(value) && value.length > 0) {
    return Either.map(
      Either.all(value.map((one, i) => goldOf(one, `${name}[${i}]`, texts, labels))),
      (all) => [...new Set(all.flat())]
    )
  }
  const letters = texts.map((_, i) => String.fromCharCode(65 + i))
  const place = typeof value === "string"
    ? [texts.indexOf(value), labels.indexOf(value), letters.indexOf(value), /^\d+$/.test(value) ? Number(value) : -1]
      .find((one) => one >= 0)
    : value
  if (typeof place === "number" && Number.isInteger(place) && place >= 0 && place < texts.length) {
    return Either.right([place])
  }
  return Either.left(
    `field ${name}: expected the place of a choice from 0 to ${texts.length - 1}, or its text` +
      `${labels.length > 0 ? ` or label (${labels.join(", ")})` : ""}, got ${JSON.stringify(value) ?? "nothing"}`
  )
}

const itemOf = (value: unknown, line: number, otherwise: string): Read<TaskItem> =>
  Either.gen(function*() {
    if (!isObject(value)) return yield* Either.left("is no object with fields")
    const task = value.task === undefined ? otherwise : yield* textIn(value, "task")
    const whose = yield* whoseOf(value)
    if (value.choices !== undefined) {
      const context = yield* textIn(value, yield* oneOf(value, ["query", "question", "context"], "a text to continue"))
      const { labels, texts } = yield* choicesOf(value)
      const name = yield* oneOf(value, ["gold", "answer", "label", "answerKey"], "the place of the right choice")
      return {
        task,
        kind: "multiple_choice" as const,
        line,
        context,
        choices: texts,
        delimiter: value.target_delimiter === undefined ? " " : yield* textIn(value, "target_delimiter"),
        gold: yield* goldOf(value[name], name, texts, labels),
        whose
      }
    }
    if (value.continuation === undefined) {
      return yield* Either.left(
        "has neither choices (with query and gold) nor a continuation (with context): expected one of them"
      )
    }
    const [continuation] = yield* textsIn([value.continuation], "continuation", 1).pipe(
      Either.mapLeft((detail) => detail.replace("[0]", ""))
    )
    const kind = "loglikelihood" as const
    const context = yield* textIn(value, "context")
    return { task, kind, line, context, choices: [continuation!], delimiter: "", gold: [0], whose }
  })

/**
 * Reads a file of questions; lines that name no task are of one called as the file. Fails with a DataError that names the
 * file, the line and the field.
 */
export const readTasks = (path: string) =>
  Effect.gen(function*() {
    const name = path.replace(/^.*[/\\]/, "").replace(/\.[^.]*$/, "")
    const items: Array<TaskItem> = []
    const kinds = new Map<string, TaskItem>()
    for (const [i, line] of (yield* readText(path)).split(/\r?\n/).entries()) {
      if (line.trim() === "") continue
      const wrong = (detail: string) => new DataError({ path, detail: `line ${i + 1} ${detail}` })
      const value = yield* Either.mapLeft(parseJson(line), wrong)
      const item = yield* Either.mapLeft(itemOf(value, i + 1, name), wrong)
      const before = kinds.get(item.task)
      if (before !== undefined && before.kind !== item.kind) {
        return yield* wrong(
          `is of kind ${item.kind}, and line ${before.line} of the same task ${JSON.stringify(item.task)} is of kind ` +
            `${before.kind}: give them different names in the field task`
        )
      }
      if (before === undefined) kinds.set(item.task, item)
      items.push(item)
    }
    if (items.length === 0) return yield* new DataError({ path, detail: "holds no question: write one a line" })
    return items
  })
