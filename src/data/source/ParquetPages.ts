/**
 * A column of a Parquet file a page at a time: a group of rows may be larger than memory, a page is about a MiB. What
 * the file says of its pages is checked before it is decoded, since the decoder takes it at its word: a damaged count
 * would have it fill all memory, or never come to an end.
 */
import type { ColumnMetaData, Compressors, DecodedArray, PageHeader, SchemaElement, SchemaTree } from "hyparquet"
import { parquetHeader, readPage } from "hyparquet/src/column.js"
import { convert, DEFAULT_PARSERS } from "hyparquet/src/convert.js"
import { isUtf8 } from "node:buffer"
import { brotliDecompressSync, unzipSync } from "node:zlib"
import { crc32 } from "../../Crc32.ts"
import { decimal, unrounded } from "./Decimal.ts"
import { unzstd } from "./Zstd.ts"

/** Gives the bytes of a file from one offset up to another. */
export type ReadBytes = (start: number, end: number) => Uint8Array<ArrayBuffer>

/** A time as ISO 8601, with all digits that it has. Counts are of so many to a second, from 1970. */
const instant = (count: bigint, aSecond: bigint): string => {
  const perMilli = aSecond / 1000n
  const rest = ((count % perMilli) + perMilli) % perMilli
  const milli = Number((count - rest) / perMilli)
  // Years beyond 275760 have no date.
  if (!(Math.abs(milli) <= 8.64e15)) return `${count}/${aSecond} s`
  const iso = new Date(milli).toISOString()
  return rest === 0n ? iso : `${iso.slice(0, -1)}${String(rest).padStart(String(perMilli).length - 1, "0")}Z`
}

/** How values are made of bytes and counts: texts must be UTF-8, and nothing is rounded. */
export const parsersFor = (maxBytes: number): typeof DEFAULT_PARSERS => {
  const stringFromBytes = (bytes: Uint8Array | undefined): string | undefined => {
    if (bytes === undefined) return undefined
    if (bytes.length > maxBytes) throw new Error(`a text has ${bytes.length} bytes, maxDocumentBytes is ${maxBytes}`)
    if (!isUtf8(bytes)) throw new Error("a text is not UTF-8")
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")
  }
  return {
    ...DEFAULT_PARSERS,
    stringFromBytes: stringFromBytes as typeof DEFAULT_PARSERS.stringFromBytes,
    jsonFromBytes: (bytes: Uint8Array | undefined) => bytes && JSON.parse(unrounded(stringFromBytes(bytes)!)),
    dateFromDays: (days: number) => instant(BigInt(days) * 86_400_000n, 1000n).replace(/T.*/, ""),
    timestampFromMilliseconds: (count: bigint) => instant(count, 1000n),
    timestampFromMicroseconds: (count: bigint) => instant(count, 1_000_000n),
    timestampFromNanoseconds: (count: bigint) => instant(count, 1_000_000_000n)
  } as typeof DEFAULT_PARSERS
}

export const isDecimal = ({ converted_type, logical_type }: SchemaElement): boolean =>
  converted_type === "DECIMAL" || logical_type?.type === "DECIMAL"

/** The digits of a decimal that is stored as an integer or the bytes of one. */
const digitsOf = (value: unknown): unknown => {
  if (!(value instanceof Uint8Array)) return value
  let digits = 0n
  for (const byte of value) digits = digits << 8n | BigInt(byte)
  return BigInt.asIntN(8 * value.length, digits)
}

/** Bytes that a page is when it is decompressed, at most. */
const LARGEST_PAGE = 2 ** 30

/** Bytes that a header is read out of, at first. One with statistics may be longer. */
const HEADER = 1 << 12

/** Values by which runs may go beyond those that are there: they are padded. */
const PADDING = 512

const damaged = (detail: string): Error => new Error(`${detail}: the file is damaged`)

const isCount = (value: unknown, most: number): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= most

/** Checks runs of levels or dictionary places, which say themselves how many values they stand for. */
const checkRuns = (bytes: Uint8Array, start: number, end: number, width: number, values: number): void => {
  const most = values + PADDING
  let at = start
  for (let seen = 0; seen < values && at < end;) {
    let header = 0
    for (let shift = 0;; shift += 7) {
      if (shift > 28 || at >= end) throw damaged("a run has no end")
      const byte = bytes[at++]!
      header += (byte & 127) * 2 ** shift
      if (byte < 128) break
    }
    const isPacked = header % 2 === 1
    const half = Math.floor(header / 2)
    seen += isPacked ? 8 * half : half
    if (seen > most) throw damaged(`a run has ${half} values where ${values} are left`)
    at += isPacked ? half * width : Math.ceil(width / 8)
  }
}

const isDictionary = (encoding: string | undefined): boolean =>
  encoding === "PLAIN_DICTIONARY" || encoding === "RLE_DICTIONARY"

/** Checks what a page of a flat column begins with: levels where it is optional, then places in a dictionary. */
const checkPage = (page: Uint8Array, header: PageHeader, isOptional: boolean): void => {
  const { data_page_header: v1, data_page_header_v2: v2 } = header
  let at = 0
  if (v1 !== undefined && isOptional) {
    const length = page.length < 4 ? Infinity : new DataView(page.buffer, page.byteOffset).getUint32(0, true)
    at = 4 + length
    if (at > page.length) throw damaged("levels are longer than their page")
    checkRuns(page, 4, at, 1, v1.num_values)
  }
  const { encoding, num_values } = v1 ?? v2 ?? { encoding: undefined, num_values: 0 }
  if (isDictionary(encoding) && at < page.length) checkRuns(page, at + 1, page.length, page[at]!, num_values)
}

/** Checks the numbers of a header, of whose page at most so many bytes and rows are left. */
const checkHeader = (header: PageHeader, bytes: number, rows: number): number => {
  const { data_page_header, data_page_header_v2, dictionary_page_header, type } = header
  const { compressed_page_size: size, uncompressed_page_size: becomes } = header
  if (!isCount(size, bytes)) throw damaged(`a page has ${size} bytes where ${bytes} are left`)
  if (!isCount(becomes, LARGEST_PAGE)) throw damaged(`a page becomes ${becomes} bytes`)
  if (type === "DICTIONARY_PAGE") {
    const values = dictionary_page_header?.num_values
    if (!isCount(values, becomes)) throw damaged(`a dictionary has ${values} values`)
    return 0
  }
  const page = type === "DATA_PAGE" ? data_page_header : type === "DATA_PAGE_V2" ? data_page_header_v2 : undefined
  if (page === undefined) throw damaged(`a page is of type ${type}`)
  if (!isCount(page.num_values, rows)) throw damaged(`a page has ${page.num_values} rows where ${rows} are left`)
  if (type === "DATA_PAGE_V2") {
    const { definition_levels_byte_length, num_nulls, repetition_levels_byte_length } = data_page_header_v2!
    const isSound = isCount(num_nulls, page.num_values) && isCount(definition_levels_byte_length, size)
    if (!isSound || repetition_levels_byte_length !== 0) {
      throw damaged("a page has levels or nulls that it cannot have")
    }
  }
  return page.num_values
}

/** The header of the page at an offset, and where it ends. */
const headerAt = (read: ReadBytes, start: number, end: number): readonly [header: PageHeader, at: number] => {
  for (let size = HEADER;; size *= 8) {
    const bytes = read(start, Math.min(end, start + size))
    const reader = { view: new DataView(bytes.buffer), offset: 0 }
    try {
      const header = parquetHeader(reader)
      return [header, start + reader.offset]
    } catch (cause) {
      if (start + size >= end) throw cause
    }
  }
}

/** A header has a checksum of its page where the writer took the time. */
const checkSum = (page: Uint8Array, { crc }: PageHeader): void => {
  if (crc !== undefined && crc !== null && crc32(page) !== crc >>> 0) throw damaged("a page has not its checksum")
}

const extent = (column: ColumnMetaData): readonly [start: number, end: number] => {
  const start = Number(column.dictionary_page_offset || column.data_page_offset)
  return [start, start + Number(column.total_compressed_size)]
}

/** Checks the sizes and checksums of all pages of a column, whatever the column is inside of. */
export const checkPages = (read: ReadBytes, column: ColumnMetaData): void => {
  const [start, end] = extent(column)
  for (let at = start; at < end;) {
    const [header, body] = headerAt(read, at, end)
    const { compressed_page_size: size, uncompressed_page_size: becomes } = header
    if (!isCount(size, end - body)) throw damaged(`a page has ${size} bytes where ${end - body} are left`)
    if (!isCount(becomes, LARGEST_PAGE)) throw damaged(`a page becomes ${becomes} bytes`)
    at = body + size
    checkSum(read(body, at), header)
  }
}

/** Decompressors that check what they are given as far as its format can be checked. */
export const checkingDecompressors: Compressors = {
  ZSTD: unzstd,
  GZIP: (bytes, length) => new Uint8Array(unzipSync(bytes, { maxOutputLength: Math.max(1, length) })),
  BROTLI: (bytes, length) => new Uint8Array(brotliDecompressSync(bytes, { maxOutputLength: Math.max(1, length) }))
}

/** The values of a column of a group of rows, a page at a time. The column is inside no other, and no list. */
export function* pagesOf(
  read: ReadBytes,
  column: ColumnMetaData,
  schemaPath: Array<SchemaTree>,
  rows: number,
  decompressors: Compressors,
  parsers: typeof DEFAULT_PARSERS
): Generator<DecodedArray> {
  const { codec, path_in_schema } = column
  const { element } = schemaPath[schemaPath.length - 1]!
  const isOptional = element.repetition_type !== "REQUIRED"
  const [start, end] = extent(column)
  let header!: PageHeader
  const decompress = decompressors[codec]
  const compressors: Compressors = decompress === undefined ? {} : {
    [codec]: (input: Uint8Array, length: number) => {
      const page = decompress(input, length)
      checkPage(page, header, isOptional)
      return page
    }
  }
  const common = { ...column, pathInSchema: path_in_schema, element, schemaPath, compressors, parsers }
  // The decoder makes a double of a decimal: it gives the integer when it does not know.
  const { converted_type: _, logical_type: __, ...plain } = element
  const decoder = isDecimal(element) ? { ...common, element: plain, utf8: false } : common
  const scale = element.scale ?? (element.logical_type?.type === "DECIMAL" ? element.logical_type.scale : 0)
  const exact = (value: unknown): unknown =>
    value === undefined || value === null ? value : decimal(`${digitsOf(value)}e${-scale}`)
  let dictionary: DecodedArray | undefined
  let left = rows
  for (let at = start; at < end && left > 0;) {
    const [next, body] = headerAt(read, at, end)
    header = next
    const values = checkHeader(header, end - body, left)
    at = body + header.compressed_page_size
    const page = read(body, at)
    checkSum(page, header)
    const levels = header.data_page_header_v2?.definition_levels_byte_length ?? 0
    if (header.data_page_header_v2 !== undefined) checkRuns(page, 0, levels, 1, values)
    if (codec === "UNCOMPRESSED" || header.data_page_header_v2?.is_compressed === false) {
      checkPage(page.subarray(levels), header, isOptional)
    }
    const { data } = readPage({ view: new DataView(page.buffer), offset: 0 }, header, decoder, dictionary, undefined, 0)
    if (header.type === "DICTIONARY_PAGE") {
      if (data) dictionary = convert(data, decoder)
      continue
    }
    if (data?.length !== values) throw damaged(`a page gives ${data?.length} of ${values} rows`)
    left -= values
    if (values > 0) yield isDecimal(element) ? Array.from(data, exact) : data
  }
  if (left > 0) throw damaged(`the column "${path_in_schema.join(".")}" has ${rows - left} of ${rows} rows`)
}
