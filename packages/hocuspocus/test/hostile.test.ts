/** Payloads that nobody meant, as messages of Hocuspocus. */

import { type Decoder, never, testHostile, Word } from "../../../test/support/decoders.js";
import { readDurableMessage } from "../src/hocuspocus-persistence.js";

testHostile("hocuspocus", decoders);

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
