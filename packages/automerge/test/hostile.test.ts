/** Bytes that nobody meant, as changes, heads, and values and keys of automerge-repo. */

import * as Automerge from "@automerge/automerge";
import { crc32, encodeKey } from "coppice";
import {
  type Decoder,
  malformed,
  never,
  sealEnd,
  testHostile,
  typed,
} from "../../../test/support/decoders.js";
import { readChange } from "../src/changes.js";
import { decodeHeads, encodeHeads } from "../src/heads.js";
import { decodeRepoKey } from "../src/repo-keys.js";
import { decodeValue as decodeRepoValue, encodeValue } from "../src/repo-record.js";

testHostile("automerge", decoders);

async function decoders(): Promise<Decoder[]> {
  let doc = Automerge.from<Record<string, unknown>>({ a: 1, text: "hello" }, { actor: "0a0b0c0d" });
  doc = Automerge.change(doc, { time: 5 }, (draft) => {
    draft.list = [1, "two"];
  });
  const changes = Automerge.getAllChanges(doc);
  const [entry] = encodeValue("store/d/", { opening: 5, order: 1 }, new Uint8Array(40));
  const { key } = entry!;
  return [
    {
      name: "automerge change",
      samples: changes,
      decode: (bytes) => readChange(bytes),
      refuses: malformed,
      every: 64,
      foreign: true,
    },
    {
      name: "automerge heads",
      samples: [encodeHeads(["ab".repeat(32), "cd".repeat(32)])],
      decode: (bytes) => {
        const heads = decodeHeads(bytes);
        // Not these bytes: a count may be written longer than it needs to be.
        if (decodeHeads(encodeHeads(heads)).join() !== heads.join()) throw new Error("other heads");
      },
      refuses: malformed,
    },
    {
      name: "automerge-repo key",
      samples: [Buffer.from("a~1b/c~0/")],
      decode: (bytes) => decodeRepoKey(Buffer.from(bytes).toString("latin1")),
      refuses: never,
    },
    {
      name: "automerge-repo value",
      samples: [entry!.value],
      decode: (bytes) => decodeRepoValue([{ key, value: bytes }]),
      refuses: typed,
      seal: (bytes) => sealEnd(bytes, crc32(encodeKey(key))),
    },
  ];
}
