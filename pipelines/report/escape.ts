/** Text of data in HTML and in Markdown: nothing in it is taken for either. Pure. */

const escapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\"": "&quot;" }

/** Text as it is, in HTML and in its attributes in double quotes. */
export const escape = (text: string): string => text.replace(/[&<>"]/g, (character) => escapes[character]!)

/** Text as it is, in Markdown, on one line. */
export const plain = (text: string): string => text.replace(/[\\|*_`<>[\]~&#]/g, "\\$&").replace(/\s+/g, " ")
