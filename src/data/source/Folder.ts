/** Which files of a folder are its data. */
import { closeSync, readSync } from "node:fs"
import { readdir, realpath, stat } from "node:fs/promises"
import { dirname } from "node:path"
import { dataError as fail, told } from "../../Errors.ts"
import { isObject } from "../../Json.ts"
import { isData, kindOf, notFile, openFile, some, sorted, unreadable } from "./Files.ts"

/** Names that programs give to what is not for others: `.ipynb_checkpoints`, `_SUCCESS`, `__MACOSX`. */
const isHidden = (name: string): boolean => /^[._]/.test(name)

/** Files that say something about data, as datasets hold them. */
const isAbout = (path: string): boolean =>
  /(^|\/)((dataset_infos?|dataset_dict|state|config)\.json|(readme|licen[cs]e|citation)[^/]*)$/i.test(path)

/** What is below a folder. Paths are relative to it, with `/`. */
interface Listing {
  /** Files, sorted, each once however many links lead to it. */
  readonly files: ReadonlyArray<string>
  readonly hidden: ReadonlyArray<string>
  /** Links to what is there already. */
  readonly again: ReadonlyArray<string>
}

const keyOf = async (path: string): Promise<string> => {
  const { dev, ino } = await stat(path, { bigint: true })
  // Some file systems number nothing.
  return ino === 0n ? await realpath(path) : `${dev}:${ino}`
}

const list = async (folder: string): Promise<Listing> => {
  const files: Array<string> = []
  const linked: Array<string> = []
  const links: Array<string> = []
  const hidden: Array<string> = []
  const again: Array<string> = []
  const folders = new Set<string>()
  const fullOf = (path: string): string => path === "" ? folder : `${folder}/${path}`

  const visit = async (below: string, into: Array<string>): Promise<void> => {
    folders.add(await keyOf(fullOf(below)))
    const entries = await readdir(fullOf(below), { withFileTypes: true })
    for (const entry of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
      const path = below === "" ? entry.name : `${below}/${entry.name}`
      if (isHidden(entry.name)) hidden.push(entry.isDirectory() ? `${path}/` : path)
      else if (entry.isSymbolicLink()) links.push(path)
      else if (!entry.isDirectory()) into.push(path)
      else if (folders.has(await keyOf(fullOf(path)))) again.push(path)
      else await visit(path, into)
    }
  }
  try {
    await visit("", files)
    // A link to where it is itself would lead on without end; what is above the folder was not meant.
    for (let above = await realpath(folder); above !== dirname(above); above = dirname(above)) {
      folders.add(await keyOf(dirname(above)))
    }
    // Links last, so that what is there without one keeps its own name.
    for (const path of links) {
      const target = await stat(fullOf(path)).catch((cause: unknown) => {
        if (isData(path)) throw fail(fullOf(path), "is a link to what is not there. Remove it, or restore that", cause)
      })
      if (target === undefined) continue
      if (!target.isDirectory()) linked.push(path)
      else if (folders.has(await keyOf(fullOf(path)))) again.push(path)
      else await visit(path, linked)
    }
  } catch (cause) {
    const { path } = Object(cause) as { readonly path?: string }
    throw told((system) => unreadable(path ?? folder, system))(cause)
  }

  const seen = new Set<string>()
  const once: Array<string> = []
  for (const path of [...sorted(files), ...sorted(linked)]) {
    if (!isData(path) && !/\.json$/i.test(path)) {
      once.push(path)
      continue
    }
    const problem = notFile(await stat(fullOf(path)))
    if (problem !== undefined) throw fail(fullOf(path), problem)
    const key = await keyOf(fullOf(path))
    if (seen.has(key)) again.push(path)
    else once.push(path)
    seen.add(key)
  }
  return { files: sorted(once), hidden: sorted(hidden), again: sorted(again) }
}

/** Bytes that are looked at to tell what a `.json` is. */
const BEGINNING = 1 << 16

const parsed = (line: string): unknown => {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

/** Whether a `.json` is JSONL, an array of records, or anything else. */
const jsonOf = (path: string, textField: string): "lines" | "array" | undefined => {
  const handle = openFile(path, path)
  let text: string
  try {
    const bytes = Buffer.alloc(BEGINNING)
    text = bytes.toString("utf8", 0, readSync(handle, bytes)).replace(/^\ufeff/, "").trimStart()
  } catch (cause) {
    throw unreadable(path, cause)
  } finally {
    closeSync(handle)
  }
  if (/^\[\s*\{/.test(text)) return "array"
  const [first, ...rest] = text.split("\n")
  const second = rest.find((line) => line.trim() !== "") ?? ""
  // A record may be longer than what was looked at.
  const isCut = rest.length === 0 && text.length > BEGINNING / 4 && text.includes(JSON.stringify(textField))
  const record = parsed(first!)
  if (isCut && /^\{\s*"/.test(first!)) return "lines"
  return isObject(record) && (Object.hasOwn(record, textField.split(".")[0]!) || /^\s*\{/.test(second))
    ? "lines"
    : undefined
}

/** The data of a folder, what it holds besides, and what to say about what is left out. */
export interface FolderData {
  readonly files: ReadonlyArray<string>
  readonly others: ReadonlyArray<string>
  readonly notes: ReadonlyArray<string>
}

/**
 * Data files of a folder and all below it, sorted by path, each once. Where some hold records (JSONL, Parquet), text
 * files are taken to be about them, and are left out. Throws a `DataError` where something cannot be read, or is a
 * pipe or device.
 */
export const dataBelow = async (folder: string, textField: string): Promise<FolderData> => {
  const { again, files, hidden } = await list(folder)
  const isText = (path: string): boolean => isData(path) && kindOf(path)!.kind === "text"
  const stem = (path: string): string => path.replace(/\.[^./]*$/, "")
  const texts = files.filter(isText)
  // `a.json` beside `a.txt` says something about it.
  const stems = new Set(texts.map(stem))
  const isJson = (path: string): boolean => /\.json$/i.test(path) && !isAbout(path) && !stems.has(stem(path))
  const json = new Map(files.filter(isJson).map((path) => [path, jsonOf(`${folder}/${path}`, textField)]))
  const records = files.filter((path) => isData(path) ? !isText(path) : json.get(path) === "lines")
  const arrays = files.filter((path) => json.get(path) === "array")
  if (records.length === 0 && arrays.length > 0 && texts.every(isAbout)) {
    throw fail(`${folder}/${arrays[0]}`, "is one JSON array: it must be made into JSONL, an object a line")
  }
  const data = records.length === 0 ? texts : records
  const taken = new Set([...data, ...texts])
  const isOther = (path: string): boolean => !isAbout(path) && (isJson(path) || !/\.json$/i.test(path))
  const others = files.filter((path) => !taken.has(path))
  const notes = [
    [records.length === 0 ? [] : texts, "text beside records is left out"],
    [arrays, "JSON arrays are left out (JSONL is an object a line)"],
    [again, "links to what is there already are passed over"],
    [hidden, "names that begin with a dot or an underscore are passed over"],
    [others.filter((path) => isOther(path) && json.get(path) !== "array"), "of no kind that is read"]
  ] as const
  return {
    files: data,
    others: sorted([...others, ...hidden]),
    notes: notes.flatMap(([paths, what]) => paths.length === 0 ? [] : [`${what}: ${some(paths)}`])
  }
}
