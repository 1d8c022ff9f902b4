/**
 * A second reader of format 1: it knows what docs/format.md says, and imports no code of ours.
 *
 * Prints a stored value field by field: offset, bytes, name, meaning. It throws for what the page does not allow.
 */

import { crc32 } from "node:zlib";
import { unpack } from "./msgpack.js";

const FLAGS = ["COMPRESSED", "BATCH", "INFO", "CHOSEN_IDS", "CHOSEN", "LOST"];
const STAGED = ["snapshot", "tagged", "archive"];
const BYTES_SHOWN = 12;
const INDENT = " ".repeat(61);

/** The lines of a value under its encoded key. */
export function dumpValue(key: Uint8Array, value: Uint8Array): string[] {
  const dump = new Dump(value);
  const format = dump.take(1, "format", (bytes) => `${bytes[0]}`)[0];
  if (format !== 1) throw new TypeError(`format ${format}`);
  const flags = dump.take(1, "flags", ([bits = 0]) => flagNames(bits))[0] ?? 0;
  const has = (name: string) => (flags & (1 << FLAGS.indexOf(name))) !== 0;
  dump.varint("event count");
  dump.varint("log bytes");
  dump.varint("wall time", (ms) => new Date(ms).toISOString());
  if (has("BATCH")) {
    dump.take(16, "commit id", (id) => `UUID version ${(id[6] ?? 0) >> 4}`);
    dump.take(4, "CRC before", hexNumber);
  }
  if (has("CHOSEN_IDS")) dump.varint("newest chosen", (ms) => new Date(ms).toISOString());
  if (has("INFO")) dump.take(dump.varint("info length"), "info", unpacked);
  dumpPayload(dump, key, has);
  const actual = crc32(value.subarray(0, -4), crc32(key));
  dump.take(4, "CRC", (bytes) => `${hexNumber(bytes)}, ${number(bytes) === actual ? "matches" : "differs"}`);
  return dump.lines;
}

function dumpPayload(dump: Dump, key: Uint8Array, has: (flag: string) => boolean): void {
  const space = new TextDecoder().decode(key.subarray(0, key.indexOf(0)));
  const [high = 0, low = 0] = key.subarray(-2);
  if (has("LOST")) dump.take(4, "CRC stood for", hexNumber);
  else if (space === "events" || space === "held") {
    while (dump.left > 4) dump.take(dump.varint("event length"), "event", printable);
  } else if (STAGED.includes(space) && high * 256 + low > 0) {
    dump.take(dump.left - 4, "part", has("COMPRESSED") ? () => "deflated" : printable);
  } else dump.take(dump.left - 4, STAGED.includes(space) ? "record" : space, unpacked);
}

class Dump {
  readonly lines: string[] = [];
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  take(count: number, name: string, meaning: (bytes: Uint8Array) => string): Uint8Array {
    if (count > this.left) throw new TypeError(`${name} ends too early`);
    const bytes = this.#bytes.subarray(this.#at, this.#at + count);
    const shown = Buffer.from(bytes.subarray(0, BYTES_SHOWN)).toString("hex").replace(/../g, "$& ").trimEnd();
    const more = count > BYTES_SHOWN ? " …" : "";
    const offset = String(this.#at).padStart(5);
    this.lines.push(`${offset}  ${(shown + more).padEnd(38)} ${name.padEnd(14)} ${meaning(bytes)}`);
    this.#at += count;
    return bytes;
  }

  varint(name: string, meaning: (value: number) => string = String): number {
    let length = 1;
    let value = 0;
    while ((this.#bytes[this.#at + length - 1] ?? 0) >= 0x80) length++;
    for (let i = length - 1; i >= 0; i--) value = value * 128 + ((this.#bytes[this.#at + i] ?? 0) & 0x7f);
    this.take(length, name, () => meaning(value));
    return value;
  }
}

function flagNames(bits: number): string {
  if (bits >= 1 << FLAGS.length) throw new TypeError("unknown flags");
  return FLAGS.filter((_, index) => bits & (1 << index)).join(", ") || "none";
}

function number(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
}

function hexNumber(bytes: Uint8Array): string {
  return `0x${number(bytes).toString(16).padStart(8, "0")}`;
}

function printable(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/[^\x20-\x7e]/g, ".");
}

/** A msgpack map, a line for each field; bytes as `hex:…`. */
function unpacked(bytes: Uint8Array): string {
  const hex = (_: string, field: unknown) =>
    field instanceof Uint8Array ? `hex:${Buffer.from(field).toString("hex")}` : field;
  const fields = Object.entries(unpack(bytes) as Record<string, unknown>);
  return fields.map(([name, value]) => `${name}: ${JSON.stringify(value, hex)}`).join(`\n${INDENT}`);
}
