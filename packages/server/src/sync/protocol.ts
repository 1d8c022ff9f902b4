/**
 * The messages between a client and the server: those of y-websocket, and one more that a standard client
 * never sees unless it asked for it.
 *
 * It knows bytes alone; what a message does is in `connection.ts` and `live-document.ts`.
 *
 * Every message is one binary WebSocket message. Numbers are varints (7 bits a byte, the lowest first);
 * `bytes` and `text` (UTF-8) are a varint of their length, then themselves.
 *
 * | first | then                       | is                                                             |
 * | ----- | -------------------------- | -------------------------------------------------------------- |
 * | 0     | 0, bytes                   | sync step 1: the sender's state vector                         |
 * | 0     | 1, bytes                   | sync step 2: what the other lacks, a v1 update                 |
 * | 0     | 2, bytes                   | a v1 update                                                    |
 * | 1     | bytes                      | awareness: a count, then for each client id, clock, JSON text  |
 * | 2     | 0, text                    | to a client: permission denied, and why                        |
 * | 3     |                            | from a client: send me all awareness states                    |
 * | 100   | 0                          | from a client: tell me the durable clock from now on           |
 * | 100   | 0, clock                   | to a client: the document is durable up to this clock          |
 * | 100   | 1, mark                    | from a client: say when all I sent before this is durable      |
 * | 100   | 1, mark, clock             | to a client: it is, and so is the document up to this clock    |
 * | 100   | 2, mark, text              | to a client: it is not, and the code why; send it again later  |
 * | 100   | 3, 0 or 1                  | to a client: the server takes edits (1), or refuses them (0)   |
 */

import { Reader, Writer } from "coppice";

export const SYNC_STEP_1 = 0;
export const SYNC_STEP_2 = 1;
export const SYNC_UPDATE = 2;

export type ClientMessage =
  | { readonly kind: "sync"; readonly step: number; readonly bytes: Uint8Array }
  | { readonly kind: "awareness"; readonly bytes: Uint8Array }
  | { readonly kind: "query-awareness" }
  | { readonly kind: "watch-durable" }
  | { readonly kind: "mark"; readonly mark: number }
  | { readonly kind: "other" };

/** Throws a `RangeError` for bytes that are no whole message. `bytes` of the result are views. */
export function readMessage(message: Uint8Array): ClientMessage {
  const reader = new Reader(message);
  const read = readKind(reader);
  if (reader.left > 0 && read.kind !== "other") throw new RangeError("a message has bytes after its end");
  return read;
}

function readKind(reader: Reader): ClientMessage {
  switch (reader.varint()) {
    case 0: {
      const step = reader.varint();
      if (step > SYNC_UPDATE) throw new RangeError("there is no such sync message");
      return { kind: "sync", step, bytes: reader.sized() };
    }
    case 1:
      return { kind: "awareness", bytes: reader.sized() };
    case 3:
      return { kind: "query-awareness" };
    case 100: {
      const what = reader.varint();
      if (what > 1) throw new RangeError("there is no such durability message");
      return what === 0 ? { kind: "watch-durable" } : { kind: "mark", mark: reader.varint() };
    }
    default:
      return { kind: "other" };
  }
}

export function syncMessage(step: number, bytes: Uint8Array): Uint8Array {
  return new Writer(bytes.length + 12).varint(0).varint(step).sized(bytes).finish();
}

export function awarenessMessage(bytes: Uint8Array): Uint8Array {
  return new Writer(bytes.length + 12).varint(1).sized(bytes).finish();
}

export function deniedMessage(reason: string): Uint8Array {
  return new Writer(64).varint(2).varint(0).sized(utf8(reason)).finish();
}

export function durableMessage(clock: number): Uint8Array {
  return new Writer(16).varint(100).varint(0).varint(clock).finish();
}

export function markedMessage(mark: number, clock: number): Uint8Array {
  return new Writer(24).varint(100).varint(1).varint(mark).varint(clock).finish();
}

export function unmarkedMessage(mark: number, code: string): Uint8Array {
  return new Writer(64).varint(100).varint(2).varint(mark).sized(utf8(code)).finish();
}

export function writableMessage(writable: boolean): Uint8Array {
  return new Writer(4)
    .varint(100)
    .varint(3)
    .varint(writable ? 1 : 0)
    .finish();
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export type CloseReason =
  | "shutdown"
  | "internal"
  | "resync"
  | "malformed"
  | "unauthenticated"
  | "forbidden"
  | "silent"
  | "deleted"
  | "tooMuch"
  | "unsupported"
  | "damaged"
  | "unavailable"
  | "slow";

/** Why the server closes a connection. 44xx: trying again will not help; others: it may. */
export const CLOSE: Readonly<Record<CloseReason, readonly [code: number, reason: string]>> = {
  shutdown: [1001, "the server shuts down"],
  internal: [1011, "internal error"],
  resync: [1012, "load the document again"],
  malformed: [4400, "the message is malformed"],
  unauthenticated: [4401, "a valid token is needed"],
  forbidden: [4403, "not allowed"],
  deleted: [4410, "the document was deleted"],
  tooMuch: [4413, "over a limit"],
  unsupported: [4415, "this document cannot be synced as a Yjs document"],
  damaged: [4422, "the stored document is damaged"],
  unavailable: [4503, "not now; try again"],
  silent: [4504, "nothing was asked for; try again"],
  slow: [4508, "the connection is too slow; try again"],
};
