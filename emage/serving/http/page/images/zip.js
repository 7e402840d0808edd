/** A zip file of stored entries: images are compressed already. */

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

const VERSION = 20; // of the format, that a reader must know: 2.0
const UTF8_NAMES = 1 << 11;

/** Returns a zip file of [name, Blob] pairs, with the present time. Below 4 GB and 65,536 files. */
export async function zip(files) {
  const parts = [];
  const directory = [];
  const time = dosTime(new Date());
  let offset = 0;
  for (const [name, blob] of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const encoded = new TextEncoder().encode(name);
    // Both headers of an entry have these fields in a row; method 0 is "stored", so both sizes are the same.
    const sizes = [bytes.length, bytes.length];
    const common = [u16(VERSION, UTF8_NAMES, 0, ...time), u32(crc32(bytes), ...sizes), u16(encoded.length)];
    const local = [u32(0x04034b50), ...common, u16(0), encoded, bytes];
    directory.push(u32(0x02014b50), u16(VERSION), ...common, u16(0, 0, 0, 0), u32(0, offset), encoded);
    parts.push(...local);
    offset += length(local);
  }
  const end = [u32(0x06054b50), u16(0, 0, files.length, files.length), u32(length(directory), offset), u16(0)];
  return new Blob([...parts, ...directory, ...end], { type: "application/zip" });
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Returns the time and the date in the two numbers of MS-DOS, local and in steps of two seconds. */
function dosTime(now) {
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  return [time, ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate()];
}

const length = (parts) => parts.reduce((sum, part) => sum + part.length, 0);
const u16 = (...values) => bytesOf(2, "setUint16", values);
const u32 = (...values) => bytesOf(4, "setUint32", values);

function bytesOf(width, setter, values) {
  const view = new DataView(new ArrayBuffer(width * values.length));
  for (const [index, value] of values.entries()) view[setter](width * index, value, true);
  return new Uint8Array(view.buffer);
}
