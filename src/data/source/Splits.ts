/** Which files of a dataset repository are the documents that were asked for: its configurations, splits, and kinds. */
import { parse } from "yaml"
import { isObject } from "../../Json.ts"
import { kindOf, some, sorted } from "./Files.ts"
import { matcher, STEPS } from "./Glob.ts"

/** What was asked for: a file, folder, pattern or configuration of a dataset, and a split of it. */
export interface Wanted {
  readonly path: string | undefined
  readonly split: string | undefined
}

/** Patterns of files that the card of a dataset (`README.md`) names, by the split they are. */
export interface Configuration {
  readonly name: string
  readonly isDefault: boolean
  readonly files: ReadonlyArray<{ readonly split: string; readonly pattern: string }>
}

const list = (value: unknown): ReadonlyArray<unknown> =>
  value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]

/** `data_files` of a card: patterns, patterns by split, or a list of such. */
const patternsOf = (value: unknown): Configuration["files"] =>
  list(value).flatMap((one) => {
    if (!isObject(one)) return [{ split: "train", pattern: String(one) }]
    if ("path" in one) {
      return list(one["path"]).map((pattern) => ({ split: String(one["split"] ?? "train"), pattern: String(pattern) }))
    }
    return Object.entries(one).flatMap(([split, paths]) =>
      list(paths).map((path) => ({ split, pattern: String(path) }))
    )
  })

/** The configurations that the card of a dataset lists, if it does. */
export const configurationsOf = (card: string): ReadonlyArray<Configuration> => {
  const header = /^\ufeff?---\r?\n(.*?)\r?\n---/s.exec(card)?.[1]
  let data: unknown
  try {
    data = parse(header ?? "")
  } catch {
    // A card is written for people; one that cannot be read says nothing.
  }
  return list(isObject(data) ? data["configs"] : undefined).filter(isObject).flatMap((config) => {
    const folder = config["data_dir"] === undefined ? "" : `${String(config["data_dir"]).replace(/\/+$/, "")}/`
    const given = patternsOf(config["data_files"])
    const files = given.length > 0 || folder === "" ? given : [{ split: "train", pattern: "**" }]
    const name = String(config["config_name"] ?? "default")
    return files.length === 0 ? [] : [{
      name,
      isDefault: config["default"] === true || name === "default",
      files: files.map(({ pattern, split }) => ({ split, pattern: folder + pattern }))
    }]
  })
}

const NAMES: Readonly<Record<string, ReadonlyArray<string>>> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"]
}

/** The usual name of a split: `valid` and `dev` are `validation`. */
const usual = (split: string): string =>
  Object.keys(NAMES).find((name) => NAMES[name]!.includes(split.toLowerCase())) ?? split

const WORD = new RegExp(`(?:^|[-._ 0-9/])(${Object.values(NAMES).flat().join("|")})(?=[-._ 0-9/]|$)`, "i")

/** The split that a file is of by its name, else by its folders; undefined where they do not say. */
const splitOf = (path: string): string | undefined => {
  const slash = path.lastIndexOf("/")
  const word = WORD.exec(path.slice(slash + 1)) ?? WORD.exec(path.slice(0, slash + 1))
  return word ? usual(word[1]!) : /^data\/([^/]+)-\d{5}-of-\d{5}/.exec(path)?.[1]
}

const KINDS = ["parquet", "jsonl", "text"]

/** Files that a repository holds beside its data. */
const isAside = (path: string): boolean =>
  /(^|\/)[._]/.test(path) || /(^|\/)(dataset_infos?|dataset_dict|state|config)\.json$/i.test(path) ||
  /(^|\/)(readme|licen[cs]e|requirements|citation)[^/]*$/i.test(path) || /\.md$/i.test(path)

const isData = (path: string): boolean =>
  !isAside(path) && /\.(parquet|(jsonl|ndjson|json|txt)(\.(gz|zst))?)$/i.test(path)

/** Files of one kind: the most frequent, since the same data is often there in several. */
const ofOneKind = (paths: ReadonlyArray<string>): ReadonlyArray<string> => {
  const kinds = KINDS.map((kind) => paths.filter((path) => kindOf(path)?.kind === kind))
  return kinds.reduce((most, one) => one.length > most.length ? one : most)
}

const namesOf = (names: Iterable<string>): string => sorted([...new Set(names)]).join(", ")

const choose = (
  files: ReadonlyArray<readonly [path: string, split: string]>,
  split: string | undefined
): ReadonlyArray<string> | string => {
  const there = new Set(files.map(([, name]) => name))
  const given = split === undefined || there.has(split) ? split : usual(split)
  const name = given ?? (there.size === 1 ? [...there][0]! : "train")
  return there.has(name)
    ? [...new Set(files.flatMap(([path, of]) => of === name ? [path] : []))]
    : `has no split "${split ?? "train"}"; it has: ${namesOf(there)}`
}

const ofConfiguration = (
  paths: ReadonlyArray<string>,
  { files, name }: Configuration,
  split: string | undefined
): ReadonlyArray<string> | string => {
  const budget = { steps: STEPS }
  const found = files.flatMap(({ pattern, split }) =>
    paths.filter(matcher(pattern, budget)).map((path) => [path, split] as const)
  )
  return found.length === 0 ? `has no file of those that its configuration "${name}" names` : choose(found, split)
}

/**
 * Files of a dataset in their order: those of a configuration that its card names, or of the split and the most
 * frequent kind by their names, or a file or pattern that was asked for. Or, as a string, why there are none.
 */
export const chosenFiles = (
  all: ReadonlyArray<string>,
  configurations: ReadonlyArray<Configuration>,
  wanted: Wanted
): ReadonlyArray<string> | string => {
  try {
    return choice(all, configurations, wanted)
  } catch (cause) {
    if (cause instanceof RangeError) return `cannot be looked through: ${cause.message}. Name the files after a slash`
    throw cause
  }
}

const choice = (
  all: ReadonlyArray<string>,
  configurations: ReadonlyArray<Configuration>,
  { path, split }: Wanted
): ReadonlyArray<string> | string => {
  const paths = sorted(all)
  const configuration = path === undefined
    ? configurations.length === 1 ? configurations[0] : configurations.find(({ isDefault }) => isDefault)
    : configurations.find(({ name }) => name === path)
  if (configuration !== undefined) return ofConfiguration(paths, configuration, split)
  if (path === undefined && configurations.length > 1) {
    return `has several configurations, of which none is the default: add one of ${
      namesOf(configurations.map(({ name }) => name))
    } to its name, after a slash`
  }
  if (path !== undefined && paths.includes(path)) return [path]

  const isPattern = path !== undefined && /[*?[{]/.test(path)
  const matches = path === undefined ? () => true : matcher(path)
  // The beginning of a name stands for all files that begin so.
  const below = paths.filter((one) => isData(one) && matches(one))
  const found = below.length > 0 || path === undefined ? below : paths.filter((p) => isData(p) && p.startsWith(path))
  if (found.length === 0) {
    const there = sorted([...new Set(paths.map((one) => one.replace(/\/.*/, "/")))])
    return `has no data files${path === undefined ? "" : ` "${path}"`}; it has: ${
      there.length === 0 ? "nothing" : some(there, 20)
    }`
  }
  const data = isPattern ? found : ofOneKind(found)
  const bySplit = data.flatMap((one) => {
    const name = splitOf(one)
    return name === undefined ? [] : [[one, name] as const]
  })
  if (isPattern && split === undefined) return data
  return bySplit.length > 0 ? choose(bySplit, split) : choose(data.map((one) => [one, "train"] as const), split)
}
