/**
 * What goes over the control socket: one JSON value on each line, UTF-8.
 *
 * | from   | line                                  | is                                                  |
 * | ------ | ------------------------------------- | --------------------------------------------------- |
 * | client | `{ token, method, params, keep }`     | a request; `keep`: another may follow its end       |
 * | client | `{ abort: true }`                     | stop between two steps, and say what was done        |
 * | server | `{ progress }`                        | any number of times                                 |
 * | server | `{ result }`                          | the end of a request                                |
 * | server | `{ error: { code, message, details } }` | the end of a request                                |
 *
 * Invariants: a line over its limit ends the connection before it is kept; what is `undefined` arrives as
 * `undefined`, and an error of Coppice's arrives as one.
 */

import type { Socket } from "node:net";
import { CoppiceError, ERROR_CODES, type ErrorCode, isCoppiceError } from "../base/errors.js";
import type { Entry, Key } from "../contract/backend.js";

interface SentError {
  readonly code: string;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
}

const ERROR_MARK = "coppice error";

/** Calls back with each line as a value, until the socket ends or a line is none. */
export function readLines(
  socket: Socket,
  lineBytesMax: number,
  onValue: (value: unknown) => void,
  onBroken: (error: Error) => void,
): void {
  const values = lineReader(lineBytesMax);
  socket.on("data", (chunk: Buffer) => {
    try {
      for (const value of values(chunk)) onValue(value);
    } catch (error) {
      onBroken(error as Error);
    }
  });
}

/** Takes bytes as they come, and gives the values of the lines that have ended; throws for what is none. */
export function lineReader(lineBytesMax: number): (chunk: Buffer) => Generator<unknown> {
  let waiting: Buffer[] = [];
  let waitingBytes = 0;
  return function* (chunk) {
    let rest = chunk;
    for (;;) {
      const end = rest.indexOf(10);
      waitingBytes += end < 0 ? rest.length : end;
      if (waitingBytes > lineBytesMax) throw new RangeError("a line is too long");
      waiting.push(end < 0 ? rest : rest.subarray(0, end));
      if (end < 0) return;
      const line = Buffer.concat(waiting).toString("utf8");
      waiting = [];
      waitingBytes = 0;
      rest = rest.subarray(end + 1);
      yield arrive(JSON.parse(line));
    }
  };
}

/** Bytes as text. */
export function toText(bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64");
}

export function toBytes(text: string): Uint8Array {
  return Buffer.from(text, "base64");
}

/** A key and its value. */
export function toWire({ key, value }: Entry): unknown[] {
  return [...key, toText(value)];
}

export function fromWire(sent: unknown): Entry {
  const key = sent as unknown[];
  const value = toBytes(key.pop() as string);
  return { key: key as unknown as Key, value };
}

export function toLine(value: unknown): string {
  const text = JSON.stringify(value, (_name, item: unknown) => {
    if (isCoppiceError(item)) return { [ERROR_MARK]: describe(item) };
    return item === undefined ? null : item;
  });
  return `${text}\n`;
}

/** What a failure may say to the other side: no stack, no cause. */
export function describe(error: unknown): SentError {
  if (isCoppiceError(error))
    return { code: error.code, message: error.message, details: plain(error.details) };
  return { code: "INTERNAL", message: error instanceof Error ? error.message : String(error), details: {} };
}

export function toError(sent: unknown): Error {
  const { code, message, details } = sent as SentError;
  if (!ERROR_CODES.includes(code as ErrorCode)) return new Error(message);
  const error = new CoppiceError(code as ErrorCode, message);
  // Given to the constructor they would be shown in the message once more.
  Object.defineProperty(error, "details", { value: details, enumerable: true });
  return error;
}

function plain(details: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return JSON.parse(JSON.stringify(details)) as Record<string, unknown>;
}

/** `null` becomes `undefined`, and errors become errors again. */
function arrive(value: unknown): unknown {
  if (value === null) return undefined;
  if (typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(arrive);
  const entries = Object.entries(value as object).map(([name, item]) => [name, arrive(item)] as const);
  const [first] = entries;
  if (entries.length === 1 && first?.[0] === ERROR_MARK) return toError(first[1]);
  return Object.fromEntries(entries);
}
