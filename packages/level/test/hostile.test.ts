/** Bytes that nobody meant, for everything that reads LevelDB's files by itself. The samples are of a real database. */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { DocumentStorage } from "coppice";
import {
  assertSame,
  corrupt,
  type Decoder,
  never,
  testHostile,
  Word,
} from "../../../test/support/decoders.js";
import { nameSet, naming } from "../../../test/support/oracle-model.js";
import { maskedCrc32c } from "../src/crc32c.js";
import { readMark, writeMark } from "../src/ledger.js";
import { scanLog } from "../src/log-scan.js";
import { readManifest as readLevelManifest } from "../src/manifest.js";
import { scanTable } from "../src/table-scan.js";

testHostile("level", decoders);

/** By name, while it is open. */
async function filesOfStore(): Promise<ReadonlyMap<string, Uint8Array>> {
  const folder = mkdtempSync(join(tmpdir(), "coppice-hostile-"));
  const open = () => DocumentStorage.open({ backend: levelBackend(folder), models: [nameSet()] });
  try {
    for (let opening = 0; opening < 2; opening++) {
      const storage = await open();
      for (let i = 0; i < 6; i++) await storage.append("d", [naming(`${opening}-${i}`)]);
      await storage.compact("d");
      await storage.close();
    }
    const storage = await open();
    await storage.append("d", [naming("last")]);
    const files = new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
    await storage.close();
    return files;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function decoders(): Promise<Decoder[]> {
  const files = await filesOfStore();
  const like = (pattern: RegExp) =>
    [...files].filter(([name]) => pattern.test(name)).map(([, bytes]) => bytes);
  return [
    {
      name: "level log",
      samples: like(/log$/),
      decode: (bytes) => told(scanLog(bytes)),
      refuses: never,
      seal: sealLog,
    },
    {
      name: "level table",
      samples: like(/ldb$/),
      decode: (bytes) => new Word(scanTable(bytes)[0]?.what ?? "whole"),
      refuses: never,
      every: 4,
    },
    {
      name: "level manifest",
      samples: like(/^MANIFEST/),
      decode: (bytes) => new Word(readLevelManifest(bytes) === undefined ? "none" : "one"),
      refuses: never,
      seal: sealLog,
    },
    {
      name: "level commit mark",
      samples: [writeMark({ number: 7, chain: 8, before: 9 })],
      decode: (bytes) => {
        const mark = readMark(bytes);
        if (mark !== undefined) assertSame("commit mark", writeMark(mark), bytes);
      },
      refuses: corrupt,
    },
  ];
}

function told({ damage, torn }: ReturnType<typeof scanLog>): Word {
  return new Word(damage !== undefined ? "damage" : torn !== undefined ? "torn" : "whole");
}

/** The checksums of the parts in the first block. */
function sealLog(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at + 7 <= bytes.length; ) {
    const end = at + 7 + view.getUint16(at + 4, true);
    if (end > bytes.length) return;
    view.setUint32(at, maskedCrc32c(bytes, at + 6, end), true);
    at = end;
  }
}
