/** The checksum of zip, gzip, PNG and Parquet. */

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1
  return value
})

/** CRC-32 of bytes, or of what came before with the bytes behind it. What node:zlib has from 20.15 on. */
export const crc32 = (bytes: Uint8Array, before = 0): number => {
  let value = ~before
  for (let i = 0; i < bytes.length; i++) value = TABLE[(value ^ bytes[i]!) & 255]! ^ (value >>> 8)
  return ~value >>> 0
}
