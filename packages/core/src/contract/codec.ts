/**
 * The codec of models whose events are bytes: each event framed by its length as a varint.
 *
 * Models with structured events bring a codec of their own. Invariant: `decode(encode(events))` equals
 * `events`; bytes that end inside an event throw.
 */

import { Reader, varintLength, Writer } from "../base/bytes.js";

/** What `binaryCodec` makes of events, for who has a place for it: written there it is copied once less. */
export class Framed {
  readonly length: number;
  readonly #events: readonly Uint8Array[];

  constructor(events: readonly Uint8Array[]) {
    let length = 0;
    for (const event of events) length += varintLength(event.length) + event.length;
    this.length = length;
    this.#events = events;
  }

  writeTo(writer: Writer): void {
    for (const event of this.#events) writer.sized(event);
  }
}

/**
 * For `Model.codec`. `decode` returns views of the payload; what `encode` returns shares memory with
 * others, so copy what is to be kept.
 */
export const binaryCodec: {
  encode(events: readonly Uint8Array[]): Uint8Array;
  decode(payload: Uint8Array): Uint8Array[];
  size(event: Uint8Array): number;
} = {
  encode(events) {
    const framed = new Framed(events);
    const writer = new Writer(framed.length, true);
    framed.writeTo(writer);
    return writer.finish();
  },
  decode(payload) {
    const reader = new Reader(payload);
    const events: Uint8Array[] = [];
    while (reader.left > 0) events.push(reader.sized());
    return events;
  },
  size(event) {
    if (!(event instanceof Uint8Array)) throw new TypeError("an event must be a Uint8Array");
    return event.length;
  },
};
