/** Numbers as they are written, with all their digits: what names something must not be rounded. */

/**
 * A decimal number in the one form that equal ones share: `5` for `5.0` and `0.5e1`. An integer has all its digits, as
 * far as they are no more than a few hundred.
 */
export const decimal = (text: string): string => {
  const [, sign, whole, fraction = "", exponent = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i.exec(text) ?? []
  const shift = Number(exponent)
  if (whole === undefined || !Number.isSafeInteger(shift)) return text
  const all = (whole + fraction).replace(/^0+/, "")
  const digits = all.replace(/0+$/, "")
  if (digits === "") return "0"
  // Where the point is, counted from the first digit.
  const point = shift + whole.length - (whole.length + fraction.length - all.length)
  if (point >= digits.length && point <= 400) return sign + digits.padEnd(point, "0")
  if (point > 0 && point < digits.length) return `${sign}${digits.slice(0, point)}.${digits.slice(point)}`
  if (point <= 0 && point > -7) return `${sign}0.${"0".repeat(-point)}${digits}`
  return `${sign}${digits[0]}${digits.length > 1 ? `.${digits.slice(1)}` : ""}e${point - 1}`
}

const NUMBER = /-?\d+(?:\.\d+)?(?:e[+-]?\d+)?/gi

/** Whether a line may hold a number that a double loses digits of: one of many digits, or of a large exponent. */
export const mayRound = (json: string): boolean => /\d[\d.]{15}|\de[+-]?\d{3}/i.test(json)

/** Valid JSON, in which numbers that a double loses digits of are strings of their `decimal`. */
export const unrounded = (json: string): string => {
  const parts: Array<string> = []
  for (let at = 0; at < json.length;) {
    const quote = json.indexOf("\"", at)
    const outside = json.slice(at, quote < 0 ? json.length : quote)
    parts.push(outside.replace(NUMBER, (number) => {
      const exact = decimal(number)
      return exact === decimal(String(Number(number))) ? number : JSON.stringify(exact)
    }))
    if (quote < 0) break
    at = stringEnd(json, quote)
    parts.push(json.slice(quote, at))
  }
  return parts.join("")
}

/** Behind the string that begins at a quote. */
const stringEnd = (json: string, quote: number): number => {
  for (let end = json.indexOf("\"", quote + 1); end >= 0; end = json.indexOf("\"", end + 1)) {
    let escapes = 0
    while (json[end - 1 - escapes] === "\\") escapes++
    if (escapes % 2 === 0) return end + 1
  }
  return json.length
}
