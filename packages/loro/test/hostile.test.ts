/** Bytes that nobody meant, as Loro updates and versions. */

import { LoroDoc } from "loro-crdt";
import { test } from "vitest";
import { TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import { type Decoder, malformed, replayKept, searchHostile } from "../../../test/support/decoders.js";
import { checkEvent } from "../src/update.js";
import { decodeClocks, encodeClocks } from "../src/version.js";

test("[LB17] what was kept of hostile inputs comes to what it came to", async () => {
  await replayKept("loro", await decoders());
});

test("[LB17] hostile bytes are read or refused by name", { timeout: TEST_MS_MAX }, async () => {
  await searchHostile("loro", await decoders());
});

async function decoders(): Promise<Decoder[]> {
  const loro = new LoroDoc();
  loro.setPeerId("9");
  loro.getText("t").insert(0, "hello");
  loro.commit();
  return [
    {
      name: "loro event",
      samples: [loro.export({ mode: "update" }), loro.export({ mode: "snapshot" })],
      decode: (bytes) => checkEvent(bytes),
      refuses: malformed,
      every: 64,
      foreign: true,
    },
    {
      name: "loro version",
      samples: [
        encodeClocks(
          new Map([
            ["9", 5],
            ["77", 6],
          ] as never),
        ),
      ],
      decode: (bytes) => decodeClocks(bytes),
      refuses: malformed,
    },
  ];
}
