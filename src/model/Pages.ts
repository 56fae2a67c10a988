/**
 * Who has which pages of a cache of keys and values, and which of them serve again; what they hold is on the device.
 *
 * A page that is full of a prompt's tokens is remembered by the state of its sequence, a text of all else that keys and
 * values depend on, and by every token from the first to the page's last: compared as they are, no hash stands for them. Only
 * a sequence with the same takes it over. What nobody holds stays until its page is wanted: what was let go first leaves
 * first, the end of a prompt before its beginning.
 */

/** Tokens of a page. */
export const PAGE = 16

/** Pages that hold so many tokens. */
export const pagesOf = (tokens: number): number => Math.ceil(tokens / PAGE)

/** A page that is full of a prompt's tokens. */
interface Known {
  readonly page: number
  readonly serial: number
  /** What is before it, undefined of a state's beginning. */
  readonly parent: Known | undefined
  /** The page's tokens; of a beginning, the state. */
  readonly key: string
  readonly children: Map<string, Known>
  holders: number
}

/** The pages of one sequence. */
export interface Held {
  /** In the order of its tokens. */
  readonly pages: Array<number>
  /** The first of them that are known, and may be held by others. */
  readonly known: Array<Known>
  readonly prompt: ArrayLike<number>
  /** Undefined: it shares nothing. */
  readonly state: string | undefined
}

export interface Pages {
  readonly count: number
  /** Pages that sequences hold. */
  readonly held: number
  /** Pages for a prompt and what comes of it, `length` tokens in all; undefined where too few are free: nothing is taken. */
  readonly open: (state: string | undefined, prompt: ArrayLike<number>, length: number) => Held | undefined
  /**
   * Takes over what is known of a prompt of which a sequence has `done` tokens, but never its last token, whose logits
   * are wanted. Gives the tokens that it has then.
   */
  readonly reuse: (held: Held, done: number) => number
  /** What the page of a prompt's next token is to be known by; undefined where no equal prompt takes it over. */
  readonly next: (held: Held, done: number) => string | undefined
  /** Says that a sequence's first `done` tokens are in its pages. Gives whether it has others in their place. */
  readonly filled: (held: Held, done: number) => boolean
  readonly close: (held: Held) => void
}

export const makePages = (count: number): Pages => {
  const free = Array.from({ length: count }, (_, i) => count - 1 - i)
  /** Known pages that nobody holds, in the order in which they were let go. */
  const idle = new Set<Known>()
  const beginnings = new Map<string, Known>()
  let serial = 0

  const keyOf = ({ prompt }: Held, page: number): string =>
    Array.prototype.slice.call(prompt, page * PAGE, (page + 1) * PAGE).join()
  const hold = (known: Known): void => {
    if (known.holders++ === 0) idle.delete(known)
  }
  const letGo = (known: Known): void => {
    if (--known.holders === 0) idle.add(known)
  }
  const take = (): number => {
    const page = free.pop()
    if (page !== undefined) return page
    const [oldest] = idle
    idle.delete(oldest!)
    const { key, parent } = oldest!
    parent!.children.delete(key)
    if (parent!.parent === undefined && parent!.children.size === 0) beginnings.delete(parent!.key)
    return oldest!.page
  }
  const before = ({ known, state }: Held): Known | undefined =>
    known.at(-1) ?? (state === undefined ? undefined : beginnings.get(state))
  /** Puts a known page in the place of a sequence's own. */
  const exchange = (held: Held, known: Known): void => {
    hold(known)
    const at = held.known.push(known) - 1
    if (at < held.pages.length) free.push(held.pages[at]!)
    held.pages[at] = known.page
  }

  const reuse: Pages["reuse"] = (held, done) => {
    while (done === held.known.length * PAGE && done + PAGE < held.prompt.length) {
      const known = before(held)?.children.get(keyOf(held, held.known.length))
      if (known === undefined) break
      exchange(held, known)
      done += PAGE
    }
    return done
  }
  const close: Pages["close"] = ({ known, pages }) => {
    for (const page of pages.slice(known.length)) free.push(page)
    for (const one of known.toReversed()) letGo(one)
  }
  return {
    count,
    get held() {
      return count - free.length - idle.size
    },
    open: (state, prompt, length) => {
      const held: Held = { state, prompt, pages: [], known: [] }
      reuse(held, 0)
      const more = pagesOf(length) - held.pages.length
      if (more > free.length + idle.size) {
        close(held)
        return undefined
      }
      for (let i = 0; i < more; i++) held.pages.push(take())
      return held
    },
    reuse,
    next: (held, done) => {
      const page = Math.floor(done / PAGE)
      if (held.state === undefined || page !== held.known.length || (page + 1) * PAGE >= held.prompt.length) {
        return undefined
      }
      const { known, state } = held
      return `${known.at(-1)?.serial ?? state}/${keyOf(held, page)}`
    },
    filled: (held, done) => {
      const { known, pages, prompt, state } = held
      if (state === undefined) return false
      let others = false
      while ((known.length + 1) * PAGE <= Math.min(done, prompt.length)) {
        const key = keyOf(held, known.length)
        let parent = before(held)
        if (parent === undefined) {
          parent = { page: -1, serial: serial++, parent: undefined, key: state, children: new Map(), holders: 0 }
          beginnings.set(state, parent)
        }
        const same = parent.children.get(key)
        if (same !== undefined) {
          exchange(held, same)
          others = true
          continue
        }
        const page = pages[known.length]!
        const one: Known = { page, serial: serial++, parent, key, children: new Map(), holders: 1 }
        parent.children.set(key, one)
        known.push(one)
      }
      return others
    },
    close
  }
}
