import { expect, it } from "vitest"
import { type Held, makePages, PAGE, pagesOf } from "../../src/model/Pages.ts"
import { makeRandom } from "../reference/random.ts"

const prompt = (length: number, seed = 0): ReadonlyArray<number> => Array.from({ length }, (_, i) => seed * 1000 + i)

it("gives a prompt's full pages to those who have the same before them, in the same state, and to nobody else", () => {
  const pages = makePages(20)
  const first = pages.open("off", prompt(40), 50)!
  expect([first.pages.length, pages.held]).toEqual([pagesOf(50), 4])
  // nothing is known before it is filled
  expect(pages.open("off", prompt(40), 40)!.known.length).toBe(0)
  expect(pages.filled(first, 20)).toBe(false)
  const second = pages.open("off", prompt(40), 40)!
  expect(second.pages[0]).toBe(first.pages[0])
  expect(second.pages[1]).not.toBe(first.pages[1])
  // while it is under way it takes over what the other has filled by then, and only on the border of a page
  expect(pages.next(second, 16)).toBe(pages.next(first, 20))
  pages.filled(first, 40)
  expect(pages.reuse(second, 17)).toBe(17)
  expect(pages.reuse(second, 16)).toBe(32)
  expect(second.pages.slice(0, 2)).toEqual(first.pages.slice(0, 2))
  expect(pages.next(second, 32)).toBeUndefined()

  expect(pages.open("own", prompt(40), 16)!.known).toEqual([])
  expect(pages.open(undefined, prompt(40), 16)!.known).toEqual([])
  expect(pages.open("off", [7, ...prompt(39)], 16)!.known).toEqual([])
  // the second page is the same, what is before it is not
  expect(pages.open("off", [...prompt(16, 1), ...prompt(40).slice(16)], 16)!.known).toEqual([])
})

it("never gives a prompt's last token, keeps one of what two filled, and drops the longest unused, ends before beginnings", () => {
  const pages = makePages(6)
  const [a, b] = [pages.open("off", prompt(32), 32)!, pages.open("off", prompt(32), 32)!]
  pages.filled(a, 32)
  expect(pages.filled(b, 32)).toBe(true)
  expect(b.pages).toEqual(a.pages)
  expect(pages.held).toBe(2)
  const same = pages.open("off", prompt(32), 32)!
  expect(same.known.length).toBe(1)
  const longer = pages.open("off", prompt(33), 33)!
  expect(longer.known.length).toBe(2)
  for (const one of [a, b, same, longer]) pages.close(one)
  expect(pages.held).toBe(0)

  // too few: nothing is taken
  const wide = pages.open("own", prompt(64, 2), 64)!
  expect(pages.open("own", prompt(64, 3), 64)).toBeUndefined()
  expect(pages.open("off", prompt(64), 96)).toBeUndefined()
  expect(pages.held).toBe(4)
  // of the two idle pages the end goes first
  const one = pages.open("own", prompt(16, 4), 16)!
  expect(pages.open("off", prompt(33), 33)).toBeUndefined()
  pages.close(one)
  expect(pages.open("off", prompt(33), 32)!.known.length).toBe(1)
  pages.close(wide)
})

it("has each page in one place, whatever comes and goes", () => {
  const pages = makePages(24)
  const random = makeRandom(1)
  const there: Array<{ readonly held: Held; done: number }> = []
  /** What was written to each page last. */
  const written: Array<string> = []
  for (let turn = 0; turn < 1500; turn++) {
    const what = random.int(4)
    if (what === 0) {
      const length = 1 + random.int(90)
      const held = pages.open(`${random.int(3)}`, Array.from({ length }, (_, i) => i < 32 ? 1 : random.int(2)),
        length + random.int(20))
      if (held !== undefined) there.push({ held, done: held.known.length * PAGE })
    } else if (there.length > 0) {
      const at = random.int(there.length)
      const one = there[at]!
      if (what === 1) {
        pages.close(one.held)
        there.splice(at, 1)
      } else {
        const { prompt, state } = one.held
        one.done = pages.reuse(one.held, one.done)
        const done = Math.min(prompt.length, one.done + 1 + random.int(40))
        for (let t = one.done; t < done; t++) {
          const page = one.held.pages[Math.floor(t / PAGE)]!
          written[page] = `${state}:${Array.prototype.slice.call(prompt, 0, t + 1).join()}`
        }
        one.done = done
        pages.filled(one.held, done)
      }
    }
    const own = there.flatMap(({ held }) => held.pages.slice(held.known.length))
    const known = new Set(there.flatMap(({ held }) => held.pages.slice(0, held.known.length)))
    expect(new Set(own).size).toBe(own.length)
    expect(own.some((page) => known.has(page))).toBe(false)
    expect(pages.held).toBe(own.length + known.size)
    for (const { done, held: { pages, prompt, state } } of there) {
      for (let p = 0; p * PAGE < done; p++) {
        const end = Math.min(done, (p + 1) * PAGE)
        const want = `${state}:${Array.prototype.slice.call(prompt, 0, end).join()}`
        if (written[pages[p]!] !== want) expect(written[pages[p]!]).toBe(want)
      }
    }
  }
  for (const { held } of there) pages.close(held)
  expect(pages.held).toBe(0)
})
