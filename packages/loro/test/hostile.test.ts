/** Bytes that nobody meant, as Loro updates and versions. */

import { LoroDoc } from "loro-crdt";
import { type Decoder, malformed, testHostile } from "../../../test/support/decoders.js";
import { checkEvent } from "../src/update.js";
import { decodeClocks, encodeClocks } from "../src/version.js";

testHostile("loro", decoders);

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
