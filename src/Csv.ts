/** CSV as RFC 4180 has it: fields with commas between them, in quotation marks where they hold one. */

/** A field as it is written. */
export const csvField = (text: string): string => /[",\r\n]/.test(text) ? `"${text.replaceAll("\"", "\"\"")}"` : text

/** The fields of a line, or what is wrong with it. */
export const csvFields = (line: string): ReadonlyArray<string> | string => {
  const found: Array<string> = []
  const pattern = /(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/gy
  for (;;) {
    const part = pattern.exec(line)
    if (part === null) return "has a quotation mark that does not end, or stands within a field"
    found.push(part[1] === undefined ? part[2]! : part[1].replaceAll("\"\"", "\""))
    if (part[3] === "") return found
  }
}
