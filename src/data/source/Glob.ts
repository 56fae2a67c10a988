/**
 * Patterns of paths, as the cards of datasets and people write them: `*` and `?` within a folder, `**` through folders,
 * `[a-z]`, `[!a-z]`, `{one,other}`. A pattern comes from whoever made the dataset, so it is not made a regular
 * expression, which some would keep busy for ever: all ways through it are followed at once, a character at a time.
 */

/** One step through a pattern; -1 is the end. */
interface State {
  /** The characters that may be next here, and where they lead. */
  readonly takes: ((character: number) => boolean) | undefined
  /** Where one goes on: after the character, or without one. */
  next: ReadonlyArray<number>
}

const SLASH = 47
const notSlash = (character: number): boolean => character !== SLASH
const anything = (): boolean => true

/** Steps that all patterns of one dataset may take together: some seconds. */
export const STEPS = 500_000_000

const LONGEST = 1024

/** What steps are counted in. */
export interface Budget {
  steps: number
}

/** A set of characters as `[...]` states it, and the place after it; undefined where no `]` follows. */
const classAt = (pattern: string, from: number): readonly [takes: State["takes"], end: number] | undefined => {
  const isNot = pattern[from + 1] === "!" || pattern[from + 1] === "^"
  const first = from + (isNot ? 2 : 1)
  // a bracket that comes first is one of the set
  const end = pattern.indexOf("]", first + 1)
  if (end < 0) return undefined
  const ranges: Array<readonly [low: number, high: number]> = []
  for (let i = first; i < end; i++) {
    const low = pattern.charCodeAt(i)
    const isRange = pattern[i + 1] === "-" && i + 2 < end
    ranges.push([low, isRange ? pattern.charCodeAt(i + 2) : low])
    if (isRange) i += 2
  }
  const holds = (character: number) => ranges.some(([low, high]) => low <= character && character <= high)
  return [(character) => character !== SLASH && holds(character) !== isNot, end + 1]
}

/** Where the brace at a place is closed, and the commas between; undefined where it is not. */
const braceAt = (pattern: string, from: number):
  | { readonly cuts: ReadonlyArray<number>; readonly end: number }
  | undefined =>
{
  const cuts: Array<number> = []
  for (let i = from, depth = 0; i < pattern.length; i++) {
    if (pattern[i] === "{") depth++
    else if (pattern[i] === "," && depth === 1) cuts.push(i)
    else if (pattern[i] === "}" && --depth === 0) return { cuts, end: i }
  }
  return undefined
}

/** Appends the states of a pattern that lead on to `next`; returns the first one. */
const build = (states: Array<State>, pattern: string, next: number): number => {
  const add = (takes: State["takes"], to: ReadonlyArray<number>): number => states.push({ takes, next: to }) - 1
  /** Any number of such characters. */
  const many = (takes: State["takes"], to: number): number => {
    const choice = add(undefined, [to])
    states[choice]!.next = [add(takes, [choice]), to]
    return choice
  }
  // from the left, each piece as what is to be done once the state after it is known
  const pieces: Array<(next: number) => number> = []
  for (let i = 0; i < pattern.length;) {
    if (pattern.startsWith("**", i)) {
      const begin = i
      while (pattern[i] === "*") i++
      const isFolders = pattern[i] === "/" && (begin === 0 || pattern[begin - 1] === "/")
      if (isFolders) {
        i++
        while (pattern.startsWith("**/", i)) i += 3
        // nothing, or folders with the slash behind the last
        pieces.push((to) => add(undefined, [to, many(anything, add((character) => character === SLASH, [to]))]))
      } else pieces.push((to) => many(anything, to))
      continue
    }
    const character = pattern[i]!
    const set = character === "[" ? classAt(pattern, i) : undefined
    const brace = character === "{" ? braceAt(pattern, i) : undefined
    if (set !== undefined) {
      pieces.push((to) => add(set[0], [to]))
      i = set[1]
    } else if (brace !== undefined) {
      const edges = [i, ...brace.cuts, brace.end]
      const parts = edges.slice(1).map((edge, n) => pattern.slice(edges[n]! + 1, edge))
      pieces.push((to) => add(undefined, parts.map((part) => build(states, part, to))))
      i = brace.end + 1
    } else {
      const code = pattern.charCodeAt(i++)
      pieces.push(
        character === "*"
          ? (to) => many(notSlash, to)
          : character === "?"
          ? (to) => add(notSlash, [to])
          : (to) => add((one) => one === code, [to])
      )
    }
  }
  return pieces.reduceRight((to, piece) => piece(to), next)
}

/**
 * Whether paths fit a pattern; one of a folder fits all below it. Time grows with the length of the path times that of
 * the pattern. Throws a RangeError for a pattern of more than 1024 characters, and when the budget is spent.
 */
export const matcher = (pattern: string, budget: Budget = { steps: STEPS }): (path: string) => boolean => {
  const wanted = pattern.replace(/^\.?\//, "")
  if (!/[*?[{]/.test(wanted)) {
    return (path) => path === wanted || (path.startsWith(wanted) && path[wanted.length] === "/")
  }
  if (wanted.length > LONGEST) {
    throw new RangeError(`a pattern of ${wanted.length} characters is longer than ${LONGEST}`)
  }
  const states: Array<State> = []
  const end = -1
  const start = build(states, wanted, end)
  /** The turn in which each state was reached last. */
  const reached = new Int32Array(states.length)
  return (path) => {
    reached.fill(0)
    let turn = 0
    let isAtEnd = false
    let now: Array<number> = []
    let after: Array<number> = []
    const waiting: Array<number> = []
    /** Reaches a state, and those that need no character from it. */
    const reach = (first: number): void => {
      waiting.push(first)
      while (waiting.length > 0) {
        const state = waiting.pop()!
        budget.steps--
        if (state === end) isAtEnd = true
        else if (reached[state] !== turn) {
          reached[state] = turn
          const { next, takes } = states[state]!
          if (takes === undefined) waiting.push(...next)
          else after.push(state)
        }
      }
    }
    turn++
    reach(start)
    for (let i = 0; i < path.length; i++) {
      const character = path.charCodeAt(i)
      if (isAtEnd && character === SLASH) return true
      ;[now, after] = [after, now]
      after.length = 0
      isAtEnd = false
      turn++
      for (const state of now) {
        const { next, takes } = states[state]!
        if (takes!(character)) reach(next[0]!)
      }
      budget.steps -= 1 + now.length
      if (budget.steps < 0) throw new RangeError("its patterns take too many steps for so many files")
      if (after.length === 0 && !isAtEnd) return false
    }
    return isAtEnd
  }
}
