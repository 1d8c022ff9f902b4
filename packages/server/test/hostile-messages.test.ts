/** Bytes that nobody meant, as messages of a sync connection. */

import { test } from "vitest";
import { TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import { type Decoder, malformed, replayKept, searchHostile } from "../../../test/support/decoders.js";
import { readMessage, syncMessage } from "../src/sync/protocol.js";

test("[LB17] what was kept of hostile inputs comes to what it came to", async () => {
  await replayKept("server", await decoders());
});

test("[LB17] hostile bytes are read or refused by name", { timeout: TEST_MS_MAX }, async () => {
  await searchHostile("server", await decoders());
});

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
