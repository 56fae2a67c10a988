/**
 * What neurons hold, as a page to browse: neuron by neuron, the texts that trigger it and the tokens that it promotes.
 * Everything stands in the page; its script only filters and sorts.
 */
import type { NeuronContents, Part, SinkContents, Trigger } from "../../src/inside/SinkContents.ts"
import { escape } from "../report/escape.ts"
import { page, table } from "../report/html.ts"

export interface ContentsPageOptions {
  readonly title: string
  /** Text of tokens. */
  readonly decode: (tokens: ReadonlyArray<number>) => string
  readonly arm: string
  readonly seed: number
  /** Most neurons on the page, shared out among layers and parts, each its strongest. Default 1,500: a few megabytes. */
  readonly most?: number
}

const parts: Readonly<Record<Part, string>> = {
  sinks: "sinks",
  general: "general neurons",
  random: "sinks, other ids' masks"
}

const one: Readonly<Record<Part, string>> = { sinks: "sink", general: "general neuron",
  random: "sink, other ids' masks" }

/** Names of a list that are written out. */
const NAMES = 12

const percent = (share: number | undefined): string => share === undefined ? "" : `${(100 * share).toFixed(0)} %`

/** Control characters as their pictures, so that a line break can be seen and no markup breaks; never empty. */
const visible = (text: string): string =>
  text.replace(/[\0-\x1f\x7f]/g, (character) =>
    String.fromCharCode(character === "\x7f" ? 0x2421 : 0x2400 + character.charCodeAt(0)))

/** What a token adds to the text before it: tokenizers may drop a leading space, or need several tokens for a letter. */
const pieceOf = (
  decode: ContentsPageOptions["decode"],
  before: ReadonlyArray<number>,
  token: number
): string => {
  const prefix = decode(before)
  const whole = decode([...before, token])
  return visible(
    whole.length > prefix.length && whole.startsWith(prefix) ? whole.slice(prefix.length) : decode([token])
  ) ||
    `#${token}`
}

const namesOf = (names: ReadonlyArray<string>): string =>
  names.length <= NAMES ? names.join(", ") : `${names.slice(0, NAMES).join(", ")} and ${names.length - NAMES} more`

const tokensOf = (decode: ContentsPageOptions["decode"], tokens: ReadonlyArray<number>): string =>
  tokens.map((token) => `<code>${escape(visible(decode([token])) || `#${token}`)}</code>`).join(" ")

const triggerOf = (
  { sequences }: SinkContents,
  decode: ContentsPageOptions["decode"],
  { activation, agrees, before, next, position, sequence, token }: Trigger
): string => {
  const { kind, name, source } = sequences[sequence]!
  const from = source === name ? name : `${name} of ${source}`
  return `<li><code>${escape(visible(decode(before)))}<mark>${escape(pieceOf(decode, before, token))}</mark>` +
    `<i>${escape(pieceOf(decode, [...before, token], next))}</i></code> ` +
    `<small>${agrees ? "promoted · " : ""}${activation.toPrecision(3)} · ` +
    `${escape(from)}, ${kind === "heldOut" ? "held out" : kind}, token ${position}</small></li>`
}

const neuronOf = (contents: SinkContents, decode: ContentsPageOptions["decode"], it: NeuronContents, source: Sources) =>
  `<li data-layer="${it.layer}" data-part="${it.part}" data-purity="${it.purity}" data-agreement="${it.agreement}" ` +
  `data-strength="${it.strength}" data-sources="${source.of(it).join(" ")}"><details>` +
  `<summary>layer ${it.layer}, ${one[it.part]} ${it.neuron}: purity ${percent(it.purity)}, ` +
  `agreement ${percent(it.agreement)}, strength ${it.strength.toPrecision(3)} ${
    tokensOf(decode, it.promoted.slice(0, 3))
  }` +
  `</summary>` +
  (it.part === "general" ? "" : `<p>Owned by ${escape(namesOf(it.owners.map((s) => contents.sequences[s]!.name)))}; ` +
    `${percent(it.owned)} of its triggers are theirs.</p>`) +
  `<p>Promotes ${tokensOf(decode, it.promoted)}</p><p class="faint">Opposite sign ${tokensOf(decode, it.demoted)}</p>` +
  `<ol>${it.triggers.map((trigger) => triggerOf(contents, decode, trigger)).join("")}</ol></details></li>`

/** Sources of the page by number, in the order of first appearance. */
interface Sources {
  readonly names: ReadonlyArray<string>
  /** Those of a neuron's triggers and owners. */
  readonly of: (neuron: NeuronContents) => ReadonlyArray<number>
}

const sourcesOf = ({ sequences }: SinkContents, neurons: ReadonlyArray<NeuronContents>): Sources => {
  const numbers = new Map<string, number>()
  const of = ({ owners, triggers }: NeuronContents): ReadonlyArray<number> => {
    const found = new Set<number>()
    for (const s of [...triggers.map(({ sequence }) => sequence), ...owners]) {
      const { source } = sequences[s]!
      if (!numbers.has(source)) numbers.set(source, numbers.size)
      found.add(numbers.get(source)!)
    }
    return [...found]
  }
  neurons.forEach(of)
  return { names: [...numbers.keys()], of }
}

const style = `
#neurons { list-style: none; padding: 0 } #neurons > li { content-visibility: auto; contain-intrinsic-size: auto 2rem;
  border-bottom: 1px solid var(--line); padding: .3rem 0 }
#neurons > li[hidden] { display: none }
#choose { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: 1rem 0 } #choose[hidden] { display: none }
#choose select { max-width: 16rem } #neurons code { white-space: pre-wrap; border: 1px solid var(--line); padding: 0 .2rem }
#neurons summary { cursor: pointer } #neurons i { text-decoration: underline; font-style: normal }`

/** Filters and sorts what is there. Written for every browser of the last ten years; without it the list is whole. */
const script = `
(() => {
  const form = document.getElementById("choose")
  const list = document.getElementById("neurons")
  const count = document.getElementById("count")
  const items = Array.from(list.children)
  const texts = new Map()
  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase())
    return texts.get(item)
  }
  const chosen = (name) => form.elements[name].value
  const filter = () => {
    const layer = chosen("layer")
    const part = chosen("part")
    const source = chosen("source")
    const text = chosen("text").toLowerCase()
    let shown = 0
    for (const item of items) {
      const { dataset } = item
      const hit = (layer === "" || dataset.layer === layer) && (part === "" || dataset.part === part) &&
        (source === "" || dataset.sources.split(" ").includes(source)) && (text === "" || textOf(item).includes(text))
      item.hidden = !hit
      if (hit) shown++
    }
    count.textContent = shown + " of " + items.length + " neurons"
  }
  const sort = () => {
    const by = chosen("sort")
    const order = by === "" ? items : items.slice().sort((a, b) =>
      b.dataset[by] - a.dataset[by] || b.dataset.strength - a.dataset.strength)
    list.append(...order)
  }
  let waiting
  form.elements.text.addEventListener("input", () => {
    clearTimeout(waiting)
    waiting = setTimeout(filter, 150)
  })
  for (const name of ["layer", "part", "source"]) form.elements[name].addEventListener("change", filter)
  form.elements.sort.addEventListener("change", sort)
  form.addEventListener("submit", (event) => event.preventDefault())
  form.hidden = false
  // a reloaded page keeps what was chosen
  sort()
  filter()
})()`

const select = (name: string, label: string, options: ReadonlyArray<readonly [value: string, text: string]>): string =>
  `<label>${label} <select name="${name}">` +
  `${options.map(([value, text]) => `<option value="${value}">${escape(text)}</option>`).join("")}</select></label>`

/**
 * One page of HTML that needs nothing else: a summary by layer and part, and a list of neurons that can be filtered by
 * layer, part, source and text, and sorted by purity, agreement or strength. Says which neurons were left out.
 */
export const contentsPage = (
  contents: SinkContents,
  { arm, decode, most = 1500, seed, title }: ContentsPageOptions
): string => {
  const share = Math.max(1, Math.floor(most / Math.max(1, contents.summary.length)))
  const groups = contents.summary.map((summary) => {
    const neurons = contents.neurons.filter(({ layer, part }) => layer === summary.layer && part === summary.part)
      .sort((a, b) => b.strength - a.strength)
    return { ...summary, shown: neurons.slice(0, share), left: neurons.slice(share) }
  })
  const shown = groups.flatMap((group) => group.shown)
  const sources = sourcesOf(contents, shown)
  const layers = [...new Set(groups.map(({ layer }) => layer))]
  const summary = table({
    caption:
      "Means over the neurons looked at. Purity: triggers from the most frequent source. Owned: triggers from the " +
      "sink's owners. Agreement: triggers whose next token is promoted there.",
    head: ["layer", "part", "looked at", "of", "purity", "owned", "agreement", "shown"],
    rows: groups.map((group) => [
      String(group.layer),
      parts[group.part],
      String(group.neurons),
      String(group.of),
      percent(group.purity),
      percent(group.owned),
      percent(group.agreement),
      String(group.shown.length)
    ])
  })
  const left = groups.filter(({ left }) => left.length > 0).map(({ layer, left, part }) =>
    `layer ${layer}, ${parts[part]}: ${left.length} of strength ${left[0]!.strength.toPrecision(3)} and less`
  )
  const body = `<style>${style}
</style>
<main>
<h1>${escape(title)}</h1>
<p>Arm ${escape(arm)}, seed ${seed}. For each neuron, the positions at which its activation is largest, in either ` +
    `direction: the text before, the <mark>token</mark> there, and the token that follows, underlined; then the tokens ` +
    `that the neuron's output row promotes. A sink is open to few sequences, so that its triggers are pure even by ` +
    `chance: compare with the same sinks under the masks of other ids.</p>
${summary}
<p class="faint">${
      left.length === 0
        ? "Every neuron that was looked at is shown."
        : `Left out of this page: ${escape(left.join("; "))}.`
    } Not looked at: the weaker ones of those that there are, and those that no sequence triggers.</p>
<h2>Neurons</h2>
<form id="choose" hidden>
${select("layer", "Layer", [["", "all"], ...layers.map((l) => [String(l), String(l)] as const)])}
${
      select("part", "Part", [
        ["", "all"],
        ...(Object.keys(parts) as ReadonlyArray<Part>)
          .filter((part) => groups.some((group) => group.part === part))
          .map((part) => [part, parts[part]] as const)
      ])
    }
${select("source", "Source", [["", "all"], ...sources.names.map((name, i) => [String(i), name] as const)])}
<label>Text <input name="text" type="search"></label>
${
      select("sort", "Sort by", [
        ["", "layer and part"],
        ["purity", "purity"],
        ["agreement", "agreement"],
        ["strength", "strength"]
      ])
    }
</form>
<p id="count" role="status">${shown.length} neurons</p>
<ul id="neurons">
${shown.map((neuron) => neuronOf(contents, decode, neuron, sources)).join("\n")}
</ul>
</main>
<script>${script}
</script>`
  return page(title, body)
}
