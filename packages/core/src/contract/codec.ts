/**
 * The codec of models whose events are bytes: each event framed by its length as a varint.
 *
 * Models with structured events bring a codec of their own. Invariant: `decode(encode(events))` equals
 * `events`; bytes that end inside an event throw.
 */

import { Reader, varintLength, Writer } from "../base/bytes.js";

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
    let length = 0;
    for (const event of events) length += varintLength(event.length) + event.length;
    const writer = new Writer(length, true);
    for (const event of events) writer.sized(event);
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
