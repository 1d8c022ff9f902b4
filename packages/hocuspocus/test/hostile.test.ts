/** Payloads that nobody meant, as messages of Hocuspocus. */

import { test } from "vitest";
import { TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import { type Decoder, never, replayKept, searchHostile, Word } from "../../../test/support/decoders.js";
import { readDurableMessage } from "../src/hocuspocus-persistence.js";

test("[LB17] what was kept of hostile inputs comes to what it came to", async () => {
  await replayKept("hocuspocus", await decoders());
});

test("[LB17] hostile bytes are read or refused by name", { timeout: TEST_MS_MAX }, async () => {
  await searchHostile("hocuspocus", await decoders());
});

async function decoders(): Promise<Decoder[]> {
  return [
    {
      name: "hocuspocus message",
      samples: [Buffer.from('{"type":"coppice/durable","clock":3,"clients":[]}')],
      decode: (bytes) => new Word(typeof readDurableMessage(Buffer.from(bytes).toString())),
      refuses: never,
    },
  ];
}
