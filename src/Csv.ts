/** CSV as RFC 4180 has it: fields with commas between them, in quotation marks where they hold one. */

/** A field as it is written. */
export const csvField = (text: string): string => /[",\r\n]/.test(text) ? `"${text.replaceAll("\"", "\"\"")}"` : text
