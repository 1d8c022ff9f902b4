/** Bytes that nobody meant, as Yjs updates, state vectors and keys of y-leveldb. */

import * as Y from "yjs";
import { type Decoder, malformed, testHostile, typed } from "../../../test/support/decoders.js";
import { checkUpdate } from "../src/dropins/check.js";
import { scanStateVector } from "../src/scanner.js";
import { decodeLevelKey, encodeLevelKey } from "../src/y-leveldb/keys.js";

testHostile("yjs", decoders);

async function decoders(): Promise<Decoder[]> {
  const doc = new Y.Doc();
  doc.clientID = 7;
  const updates: Uint8Array[] = [];
  doc.on("update", (update: Uint8Array) => updates.push(update));
  doc.getText("t").insert(0, "some text");
  doc.getText("t").format(1, 3, { bold: true });
  doc.getMap("m").set("key", { a: [1, null, "x"], b: new Uint8Array(3) });
  doc.getArray("l").insert(0, [new Y.Map([["in", 1]]), 5, "six"]);
  doc.getText("t").delete(2, 4);
  updates.push(Y.encodeStateAsUpdate(doc));
  return [
    { name: "yjs update", samples: updates, decode: (bytes) => checkUpdate(bytes), refuses: typed },
    {
      name: "yjs state vector",
      samples: [Y.encodeStateVector(doc)],
      decode: (bytes) => scanStateVector(bytes),
      refuses: malformed,
    },
    {
      name: "y-leveldb key",
      samples: [encodeLevelKey(["v1", "doc", "update", 7])],
      decode: (bytes) => decodeLevelKey(bytes),
      refuses: malformed,
    },
  ];
}
