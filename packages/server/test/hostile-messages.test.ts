/** Bytes that nobody meant, as messages of a sync connection. */

import { type Decoder, malformed, testHostile } from "../../../test/support/decoders.js";
import { readMessage, syncMessage } from "../src/sync/protocol.js";

testHostile("server", decoders);

async function decoders(): Promise<Decoder[]> {
  const message = syncMessage(2, Uint8Array.of(1, 2, 3, 4));
  return [
    {
      name: "sync message",
      samples: [message, Uint8Array.of(100, 1, 5)],
      decode: (bytes) => readMessage(bytes),
      refuses: malformed,
    },
  ];
}
